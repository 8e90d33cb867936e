"""Closed forms of the kinetics against an ODE solver (diffrax), hand-worked limits and published accumulation."""

from __future__ import annotations

import math
from itertools import pairwise

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import kinetics
from vtrial.dosing import Dosing, dose_days, dose_rate
from vtrial.kinetics import one_compartment, two_compartment

AVUTOMETINIB = Dosing(3.2, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)
DEFACTINIB = Dosing(200.0, "mg", times_per_day=2, on_days=21, cycle_days=28)
GEMCITABINE = Dosing(1000.0, "mg/m2", days=(1, 8, 15), repeat_days=28)
REGIMENS = {"avutometinib": AVUTOMETINIB, "defactinib": DEFACTINIB, "gemcitabine": GEMCITABINE}
#: clearance, central volume, exchange and peripheral volume, volume a day and volume
TWO = (4.0, 2.0, 1.5, 6.0)
NUM_TIMES = 16


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# ------------------------------------------------------------------------------------------------ against an ODE solver


@jax.jit
def _solve(parameters, state, span, times):
    """Depot, central and peripheral amounts between two events, a flow into the centre on top."""
    absorption, clearance, volume, exchange, peripheral, flow = parameters

    def change(_, y, __):
        depot, centre, far = y
        out, there, back = clearance / volume * centre, exchange / volume * centre, exchange / peripheral * far
        return jnp.stack([-absorption * depot, absorption * depot + flow - out - there + back, there - back])

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(change), diffrax.Dopri8(), span[0], span[1], None, state,
        saveat=diffrax.SaveAt(ts=times, t1=True), max_steps=4096,
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-12),
    )  # fmt: skip
    return solution.ys


def by_diffrax(dosing, until, clearance, volume, exchange, peripheral, absorption=None, infusion=None):
    """Times and central amounts, solved from event to event: doses, ends of infusions."""
    starts = dose_days(dosing, until)
    ends = [] if infusion is None else [start + infusion for start in starts]
    events = sorted({*starts, *ends, float(until)})
    state, times, amounts, flow = np.zeros(3), [], [], 0.0
    for left, right in pairwise(events):
        if infusion is not None:
            flow = dosing.amount / infusion * sum(a <= left < a + infusion for a in starts)
        elif left in starts:
            state = state + np.array([dosing.amount, 0, 0] if absorption else [0, dosing.amount, 0])
        at = np.linspace(left, right, NUM_TIMES + 1)[1:]
        parameters = np.array([absorption or 0.0, clearance, volume, exchange, peripheral, flow])
        solved = np.asarray(_solve(parameters, state, np.array([left, right]), at))
        times.append(at[:-1])
        amounts.append(solved[:-2, 1])
        state = solved[-1]
    return np.concatenate(times), np.concatenate(amounts)


def assert_equal(ours, theirs):
    # 1e-6 relative, and 1e-9 of the peak where almost nothing is left after the week off
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9 * theirs.max())


def _given(dosing, until):
    times = dose_days(dosing, until)
    return jnp.asarray(times), jnp.full(len(times), dosing.amount)


@pytest.mark.parametrize("dosing", REGIMENS.values(), ids=REGIMENS)
@pytest.mark.parametrize("two", [False, True], ids=["one compartment", "two compartments"])
def test_by_mouth_against_diffrax(dosing, two):
    clearance, volume, exchange, peripheral = TWO if two else (4.0, 2.0, 0.0, 1.0)
    disposition = two_compartment(*TWO) if two else one_compartment(clearance / volume)
    for absorption in (12.0, clearance / volume):
        times, theirs = by_diffrax(dosing, 30.0, clearance, volume, exchange, peripheral, absorption=absorption)
        ours = kinetics.oral_amount(jnp.asarray(times), *_given(dosing, 30.0), disposition, absorption)
        assert_equal(ours, theirs)


@pytest.mark.parametrize("dosing", REGIMENS.values(), ids=REGIMENS)
@pytest.mark.parametrize("two", [False, True], ids=["one compartment", "two compartments"])
@pytest.mark.parametrize("infusion", [None, 0.25, 0.75], ids=["bolus", "6 h", "18 h, overlapping"])
def test_into_the_vein_against_diffrax(dosing, two, infusion):
    clearance, volume, exchange, peripheral = TWO if two else (4.0, 2.0, 0.0, 1.0)
    disposition = two_compartment(*TWO) if two else one_compartment(clearance / volume)
    times, theirs = by_diffrax(dosing, 30.0, clearance, volume, exchange, peripheral, infusion=infusion)
    ours = kinetics.intravenous_amount(jnp.asarray(times), *_given(dosing, 30.0), disposition, infusion or 0.0)
    assert_equal(ours, theirs)


# ------------------------------------------------------------------------------------------------ by hand


def test_two_compartments_by_hand():
    """Clearance 1, volume 1, exchange 1, peripheral volume 1: rates (3 +- sqrt 5) / 2, shares (1 +- 1 / sqrt 5) / 2."""
    share, rate = two_compartment(1.0, 1.0, 1.0, 1.0)
    root = math.sqrt(5.0)
    np.testing.assert_allclose(rate, [(3 + root) / 2, (3 - root) / 2], rtol=1e-14)
    np.testing.assert_allclose(share, [(1 + 1 / root) / 2, (1 - 1 / root) / 2], rtol=1e-14)
    # the area under a unit bolus is volume over clearance, whatever the exchange
    clearance, volume, *_ = TWO
    np.testing.assert_allclose(kinetics.average_amount(1.0, two_compartment(*TWO)), volume / clearance, rtol=1e-14)
    np.testing.assert_allclose(kinetics.average_amount(3.0, one_compartment(2.0)), 1.5, rtol=1e-15)


def test_amount_is_the_sum_of_single_doses():
    times, amounts = _given(DEFACTINIB, 40.0)
    at = jnp.asarray(np.random.default_rng(1).uniform(-1.0, 45.0, 50))
    ka, ke = 9.0, 1.8
    since = np.maximum(np.asarray(at)[:, None] - np.asarray(times)[None, :], 0.0)
    unit = ka * (np.exp(-ke * since) - np.exp(-ka * since)) / (ka - ke)
    ours = kinetics.oral_amount(at, times, amounts, one_compartment(ke), ka)
    np.testing.assert_allclose(ours, unit @ np.asarray(amounts), rtol=1e-12)
    shuffled = np.random.default_rng(2).permutation(len(times))
    again = kinetics.oral_amount(at, times[shuffled], amounts[shuffled], one_compartment(ke), ka)
    np.testing.assert_array_equal(again, ours)


@pytest.mark.long
def test_amount_is_smooth_where_the_rates_are_equal():
    time, zero, one = jnp.asarray([0.1, 1.0, 5.0]), jnp.asarray([0.0]), jnp.asarray([1.0])
    k = 0.7
    at = np.asarray(time)

    def amount(time, ka, ke):
        return kinetics.oral_amount(time, zero, one, one_compartment(ke), ka)

    np.testing.assert_allclose(amount(time, jnp.asarray(k), jnp.asarray(k)), k * at * np.exp(-k * at), rtol=1e-14)
    # Across the switch of the series, at (ka - ke) s = 0.01.
    for gap in (1e-12, 1e-4, 0.0099, 0.0101):
        exact = (k + gap) * math.exp(-k) * -math.expm1(-gap) / gap
        np.testing.assert_allclose(amount(time[1:2], jnp.asarray(k + gap), jnp.asarray(k)), [exact], rtol=1e-12)
    # Derivatives of ka exp(-ke s) (1 - exp(-(ka - ke) s)) / (ka - ke) at ka = ke = k, by hand.
    by_ka, by_ke = jax.jacobian(lambda rates: amount(time, rates[0], rates[1]))(jnp.asarray([k, k])).T
    decay = np.exp(-k * at)
    np.testing.assert_allclose(by_ke, -k * at**2 / 2 * decay, rtol=1e-12)
    np.testing.assert_allclose(by_ka, (at - k * at**2 / 2) * decay, rtol=1e-12)


def test_amount_does_not_overflow_and_padding_adds_nothing():
    time, zero, one = jnp.asarray([0.0, 1.0, 700.0]), jnp.asarray([0.0]), jnp.asarray([1.0])
    for ka, ke in ((0.01, 50.0), (50.0, 0.01)):
        assert bool(jnp.all(jnp.isfinite(kinetics.oral_amount(time, zero, one, one_compartment(ke), ka))))
    whole = kinetics.oral_amount(time, zero, one, one_compartment(0.01), 50.0)
    padding = jnp.asarray([0.0, 0.0, 90.0]), jnp.asarray([1.0, 0.0, 0.0])
    np.testing.assert_allclose(kinetics.oral_amount(time, *padding, one_compartment(0.01), 50.0), whole, rtol=1e-14)
    none = jnp.zeros((0,))
    np.testing.assert_array_equal(kinetics.oral_amount(time, none, none, one_compartment(1.0), 50.0), np.zeros(3))
    np.testing.assert_array_equal(kinetics.intravenous_amount(time, none, none, one_compartment(1.0), 0.1), np.zeros(3))


# ------------------------------------------------------------------------------------------------ steady state


@pytest.mark.parametrize("two", [False, True], ids=["one compartment", "two compartments"])
@pytest.mark.parametrize("absorption", [12.0, 2.0])
def test_steady_state_and_accumulation_are_those_of_many_doses(two, absorption):
    disposition = two_compartment(*TWO) if two else one_compartment(2.0)
    interval = 0.5
    since = jnp.linspace(0.0, interval, 2001)
    # the slow rate of both is at least 0.177 a day: after 200 days less than exp(-35) of the start is missing
    times = jnp.arange(0.0, 200.0, interval)
    doses = jnp.full(times.shape, 7.0)
    last = kinetics.oral_amount(float(times[-1]) + since[:-1], times, doses, disposition, absorption)
    steady = kinetics.steady_state_amount(since, interval, 7.0, disposition, absorption)
    np.testing.assert_allclose(steady[:-1], last, rtol=1e-10)
    # what is there when the next dose comes is what was there when the last one came
    np.testing.assert_allclose(steady[-1], steady[0], rtol=1e-12)
    first = kinetics.oral_amount(since, times[:1], doses[:1], disposition, absorption)
    # Simpson's rule: error h^4 k^4 / 180 with h = 1/4000 d and k at most 12 a day, below 1e-12
    area = [float(jnp.sum((y[:-2:2] + 4 * y[1::2] + y[2::2]) / 3)) for y in (steady, first)]
    ratio = kinetics.accumulation(interval, disposition, absorption)
    np.testing.assert_allclose(ratio, area[0] / area[1], rtol=1e-9)


def test_accumulation_of_trametinib_as_published():
    """Effective half-life of 4 days, once a day: about six-fold (Leonowens 2014, 10.1111/bcp.12373)."""
    disposition = one_compartment(math.log(2) / 4.0)
    at_once = kinetics.accumulation(1.0, disposition, 1e6)
    # absorption at once: 1 / (1 - 2^(-1 / 4))
    np.testing.assert_allclose(at_once, 1.0 / (1.0 - 2.0**-0.25), rtol=1e-5)
    assert 5.5 < float(kinetics.accumulation(1.0, disposition, math.log(2) * 96)) < 6.5


@pytest.mark.parametrize("dosing", REGIMENS.values(), ids=REGIMENS)
@pytest.mark.parametrize("two", [False, True], ids=["one compartment", "two compartments"])
def test_average_amount_is_that_of_a_cycle_at_steady_state(dosing, two):
    first, last = 84, 112  # 28 days are whole cycles of each
    disposition = two_compartment(*TWO) if two else one_compartment(math.log(2) / 2.3)
    # the slow rates are 0.177 a day and more: less than exp(-14), 5e-7, of the start is missing
    time = jnp.linspace(first, last, 28 * 200 + 1)
    amounts = np.asarray(kinetics.oral_amount(time, *_given(dosing, last), disposition, math.log(2) / 0.3))
    # Trapezoid rule on a grid that holds the doses: error (k h)^2 / 12 with h = 1/200 d, k at most 3.5 a day: 2.6e-5
    average = np.trapezoid(amounts, np.asarray(time)) / (last - first)
    np.testing.assert_allclose(average, kinetics.average_amount(dose_rate(dosing), disposition), rtol=3e-5)
