"""Superposition against an independent ODE solver, and the mean effect against dense quadrature."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from vtrial import exposure
from vtrial.exposure import DoseResponse, Dosing

AVUTOMETINIB = Dosing(3.2, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)
DEFACTINIB = Dosing(200.0, "mg", times_per_day=2, on_days=21, cycle_days=28)
GEMCITABINE = Dosing(1000.0, "mg/m2", days=(1, 8, 15), repeat_days=28)
BINIMETINIB = Dosing(45.0, "mg", times_per_day=2)
REGIMENS = {
    "avutometinib": AVUTOMETINIB,
    "defactinib": DEFACTINIB,
    "gemcitabine": GEMCITABINE,
    "binimetinib": BINIMETINIB,
}


# One shape of doses for most tests, padded with amounts of 0, and one jit: few compilations.
NUM_DOSES = 256
amount = jax.jit(exposure.amount)
segment_effect = jax.jit(exposure.segment_effect, static_argnames=("nodes", "pieces"))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _response(half_life=2.3, absorption_half_life=0.05, saturation=1.5, hill=1.0):
    return DoseResponse(*(jnp.asarray(x) for x in (half_life, absorption_half_life, saturation, hill)))


def _doses(dosing, until_day, amount=None, num_doses=NUM_DOSES):
    times = exposure.dose_days(dosing, until_day)
    padding = [0.0] * (num_doses - len(times))
    amounts = [dosing.amount if amount is None else amount] * len(times)
    return jnp.asarray([*times, *padding]), jnp.asarray([*amounts, *padding])


# ------------------------------------------------------------------------------------------------ amount


def _solve(dosing, half_life, absorption_half_life, times):
    """The same kinetics as an ODE, restarted at every dose."""
    ka, ke = math.log(2) / absorption_half_life, math.log(2) / half_life
    state, amounts = np.zeros(2), np.zeros(len(times))
    starts = [*exposure.dose_days(dosing, times[-1]), times[-1]]
    for start, stop in pairwise(starts):
        state = np.asarray([state[0] + dosing.amount, state[1]])
        span = solve_ivp(
            lambda _, a: [-ka * a[0], ka * a[0] - ke * a[1]],
            (start, stop), state, method="DOP853", rtol=1e-11, atol=1e-12, dense_output=True,
        )  # fmt: skip
        inside = (times >= start) & (times <= stop)
        amounts[inside] = span.sol(times[inside])[1]
        state = span.y[:, -1]
    return amounts


@pytest.mark.parametrize("dosing", [AVUTOMETINIB, DEFACTINIB], ids=["avutometinib", "defactinib"])
@pytest.mark.parametrize("half_lives", [(2.3, 0.1), (0.4, 0.1), (0.5, 0.5), (0.2, 1.0)])
@pytest.mark.usefixtures("float64")
def test_amount_against_ode(dosing, half_lives):
    half_life, absorption_half_life = half_lives
    times = np.linspace(0.01, 31.0, 300)
    ours = amount(
        jnp.asarray(times), *_doses(dosing, 31.0), math.log(2) / absorption_half_life, math.log(2) / half_life
    )
    theirs = _solve(dosing, half_life, absorption_half_life, times)
    # 1e-6 relative, and 1e-9 of the peak where almost nothing is left after the week off.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9 * theirs.max())


@pytest.mark.usefixtures("float64")
def test_amount_is_the_sum_of_single_doses():
    times, amounts = _doses(DEFACTINIB, 40.0)
    at = jnp.asarray(np.random.default_rng(1).uniform(-1.0, 45.0, 50))
    ka, ke = 9.0, 1.8
    since = np.maximum(np.asarray(at)[:, None] - np.asarray(times)[None, :], 0.0)
    unit = ka * (np.exp(-ke * since) - np.exp(-ka * since)) / (ka - ke)
    np.testing.assert_allclose(amount(at, times, amounts, ka, ke), unit @ np.asarray(amounts), rtol=1e-12)
    shuffled = np.random.default_rng(2).permutation(len(times))
    np.testing.assert_array_equal(
        amount(at, times[shuffled], amounts[shuffled], ka, ke), amount(at, times, amounts, ka, ke)
    )


@pytest.mark.usefixtures("float64")
def test_amount_is_smooth_where_the_rates_are_equal():
    time, zero, one = jnp.asarray([0.1, 1.0, 5.0]), jnp.asarray([0.0]), jnp.asarray([1.0])
    k = 0.7
    at = np.asarray(time)
    equal = amount(time, zero, one, jnp.asarray(k), jnp.asarray(k))
    np.testing.assert_allclose(equal, k * at * np.exp(-k * at), rtol=1e-14)  # the known limit
    # Across the switch of the series, at (ka - ke) s = 0.01.
    for gap in (1e-12, 1e-4, 0.0099, 0.0101):
        ours = amount(time[1:2], zero, one, jnp.asarray(k + gap), jnp.asarray(k))
        exact = (k + gap) * math.exp(-k) * -math.expm1(-gap) / gap
        np.testing.assert_allclose(ours, [exact], rtol=1e-12)
    # Derivatives of ka exp(-ke s) (1 - exp(-(ka - ke) s)) / (ka - ke) at ka = ke = k, by hand.
    gradient = jax.jacobian(lambda rates: amount(time, zero, one, rates[0], rates[1]))
    by_ka, by_ke = gradient(jnp.asarray([k, k])).T
    decay = np.exp(-k * at)
    np.testing.assert_allclose(by_ke, -k * at**2 / 2 * decay, rtol=1e-12)
    np.testing.assert_allclose(by_ka, (at - k * at**2 / 2) * decay, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_amount_does_not_overflow_and_padding_adds_nothing():
    time = jnp.asarray([0.0, 1.0, 700.0])
    slow_in, slow_out = (
        amount(time, jnp.asarray([0.0]), jnp.asarray([1.0]), *rates) for rates in ((0.01, 50.0), (50.0, 0.01))
    )
    assert bool(jnp.all(jnp.isfinite(slow_in))) and bool(jnp.all(jnp.isfinite(slow_out)))
    padded = amount(time, jnp.asarray([0.0, 0.0, 90.0]), jnp.asarray([1.0, 0.0, 0.0]), 50.0, 0.01)
    np.testing.assert_allclose(padded, slow_out, rtol=1e-14)
    none = jnp.zeros((0,))
    np.testing.assert_array_equal(amount(time, none, none, 50.0, 0.01), np.zeros(3))


@pytest.mark.parametrize("dosing", REGIMENS.values(), ids=REGIMENS)
@pytest.mark.usefixtures("float64")
def test_average_amount_is_that_of_a_cycle_at_steady_state(dosing):
    half_life, absorption_half_life = 2.3, 0.3
    first, last = 84, 112  # more than 36 half-lives: less than 2^-36 is missing; 28 days are whole cycles of each
    time = np.linspace(first, last, 28 * 200 + 1)
    ka, ke = math.log(2) / absorption_half_life, math.log(2) / half_life
    amounts = np.asarray(amount(jnp.asarray(time), *_doses(dosing, last), ka, ke))
    # Trapezoid rule on a grid that holds the doses: relative error (ka h)^2 / 12 with h = 1/200 d, 1.1e-5.
    average = np.trapezoid(amounts, time) / (last - first)
    np.testing.assert_allclose(average, exposure.average_amount(exposure.dose_rate(dosing), ke), rtol=1.2e-5)


# ------------------------------------------------------------------------------------------------ effect


@pytest.mark.usefixtures("float64")
def test_effect_by_hand():
    amounts = jnp.asarray([0.0, 1.0, 2.0, 6.0])
    np.testing.assert_allclose(exposure.effect(amounts, 2.0, 1.0), [0, 1 / 3, 1 / 2, 3 / 4], rtol=1e-14)
    np.testing.assert_allclose(exposure.effect(amounts, 2.0, 2.0), [0, 1 / 5, 1 / 2, 9 / 10], rtol=1e-14)
    gradient = jax.grad(lambda half: exposure.effect(amounts, half, 2.0).sum())(jnp.asarray(2.0))
    assert bool(jnp.isfinite(gradient))
    at_zero = jax.grad(lambda a: exposure.effect(a, 2.0, 2.0))(jnp.asarray(0.0))
    assert at_zero == 0.0


def test_effect_does_not_overflow_in_float32():
    steep = exposure.effect(jnp.asarray([1e-30, 1e30]), 1.0, 8.0)
    np.testing.assert_array_equal(steep, [0.0, 1.0])


@pytest.mark.parametrize("saturation", [0.3, 1.0, 4.0])
@pytest.mark.usefixtures("float64")
def test_effect_at_the_reference_dosing_is_saturation_over_one_plus_saturation(saturation):
    drip = Dosing(1.0, "mg", times_per_day=48)
    edges = jnp.asarray([5.0, 5.25, 5.5, 5.75, 6.0])  # 20 half-lives on
    doses = _doses(drip, 5.0 + 1 / 3, num_doses=NUM_DOSES)
    effect = segment_effect(edges, *doses, exposure.dose_rate(drip), _response(0.25, 0.05, saturation))
    # Between doses A swings by at most a factor 2^(1/12) about its average; E moves by at most a quarter of its log.
    assert float(effect[0]) == pytest.approx(saturation / (1 + saturation), abs=math.log(2) / 12 / 4)


GRID = [
    (2.3, 0.05, 1.5, 1.0),
    (0.375, 0.02, 5.0, 2.0),
    (10.0, 1.0, 0.2, 0.5),
    (0.375, 0.375, 20.0, 2.0),
]


def _unit(since, half_life, absorption_half_life):
    """Amount after one unit dose, written as in the textbook."""
    ka, ke = math.log(2) / absorption_half_life, math.log(2) / half_life
    since = np.maximum(since, 0.0)
    if ka == ke:
        return ka * since * np.exp(-ke * since)
    return ka * (np.exp(-ke * since) - np.exp(-ka * since)) / (ka - ke)


@pytest.mark.parametrize("dosing", REGIMENS.values(), ids=REGIMENS)
@pytest.mark.parametrize("parameters", GRID)
@pytest.mark.usefixtures("float64")
def test_segment_effect_within_its_stated_error(dosing, parameters):
    half_life, absorption_half_life, saturation, hill = parameters
    edges = exposure.segment_edges([28.0], [dosing])
    times = np.asarray(exposure.dose_days(dosing, 28))
    rate = exposure.dose_rate(dosing)
    ours = segment_effect(jnp.asarray(edges), *_doses(dosing, 28), rate, _response(*parameters))
    half_amount = rate * half_life / math.log(2) / saturation

    def effect(time):
        ratio = dosing.amount * _unit(time - times, half_life, absorption_half_life).sum() / half_amount
        return ratio**hill / (1.0 + ratio**hill)

    for segment in (0, len(edges) - 2):  # the first doses, and the week off or the last treated one
        left, right = edges[segment], edges[segment + 1]
        breaks = [left, *(time for time in times if left < time < right), right]
        total = sum(quad(effect, a, b, epsabs=1e-7, epsrel=1e-7, limit=200)[0] for a, b in pairwise(breaks))
        assert float(ours[segment]) == pytest.approx(total / (right - left), abs=2e-4)


@pytest.mark.usefixtures("float64")
def test_segment_effect_grows_with_the_dose_and_depends_on_the_relative_dose_only():
    edges = jnp.asarray(exposure.segment_edges([28.0], [AVUTOMETINIB]))
    rate = exposure.dose_rate(AVUTOMETINIB)
    effects = [
        segment_effect(edges, *_doses(AVUTOMETINIB, 28.0, dose), rate, _response(hill=1.7))
        for dose in (0.0, 0.8, 1.6, 3.2, 6.4)
    ]
    np.testing.assert_array_equal(effects[0], np.zeros(len(edges) - 1))
    for less, more in pairwise(effects):
        assert bool(jnp.all(more > less)) and bool(jnp.all(more < 1.0))
    scaled = segment_effect(edges, *_doses(AVUTOMETINIB, 28.0, 3200.0), 1000 * rate, _response(hill=1.7))
    np.testing.assert_allclose(scaled, effects[3], rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_effect_of_the_week_off_falls_with_the_half_life():
    half_life = 0.375
    daily = jnp.asarray([23.0, 24.0, 25.0, 26.0, 27.0])
    doses = _doses(DEFACTINIB, 28.0)
    rate = exposure.dose_rate(DEFACTINIB)
    small = segment_effect(daily, *doses, rate, _response(half_life, 0.02, 1e-6))
    # Where the effect is proportional to the amount, each day without drug divides it by 2^(1 / half-life); saturation
    # of 1e-6 bends that by less than 1e-5, and absorption is over.
    np.testing.assert_allclose(small[1:] / small[:-1], 2.0 ** (-1 / half_life), rtol=1e-5)
    treated = segment_effect(jnp.asarray([0.0, 7.0, 14.0, 21.0, 28.0]), *doses, rate, _response(half_life, 0.02, 2.0))
    assert treated[3] < 0.25 * treated[2]


def test_doses_outside_the_edges_count_only_through_what_they_leave():
    edges = jnp.asarray([28.0, 31.0, 33.0, 35.0, 37.0])
    rate = exposure.dose_rate(AVUTOMETINIB)
    before = segment_effect(edges, *_doses(AVUTOMETINIB, 28.0), rate, _response())
    assert bool(jnp.all(before > 0)) and bool(jnp.all(before[1:] < before[:-1]))
    now = segment_effect(edges, *_doses(AVUTOMETINIB, 37.0), rate, _response())
    later = segment_effect(edges, *_doses(AVUTOMETINIB, 90.0), rate, _response())
    np.testing.assert_allclose(later, now, rtol=1e-6)
    none = jnp.zeros((0,))
    np.testing.assert_array_equal(segment_effect(edges, none, none, rate, _response()), np.zeros(4))


def test_segment_effect_over_draws_in_float32_with_one_trace(strict_dtypes):
    edges = jnp.asarray(exposure.segment_edges([56.0 * i for i in range(1, 13)], [DEFACTINIB]))
    times, amounts = _doses(DEFACTINIB, 672.0, num_doses=1008)
    rate = exposure.dose_rate(DEFACTINIB)
    num_traces = 0

    @jax.jit
    def over_draws(responses):
        nonlocal num_traces
        num_traces += 1
        return jax.vmap(partial(exposure.segment_effect, edges, times, amounts, rate))(responses)

    draws = DoseResponse(*(jnp.asarray(column) for column in zip(*GRID, strict=True)))
    effects = over_draws(draws)
    over_draws(jax.tree.map(lambda x: 1.1 * x, draws))
    assert num_traces == 1
    assert effects.shape == (4, len(edges) - 1) and effects.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = segment_effect(
            jnp.asarray(np.asarray(edges), float), *_doses(DEFACTINIB, 672.0, num_doses=1008), rate, _response(*GRID[1])
        )
    # Times near 672 d are 6e-5 d apart in float32: 1.2e-4 of the width of a half-day panel, less in the mean of E.
    np.testing.assert_allclose(effects[1], exact, atol=1.2e-4)


def test_segment_effect_has_finite_gradients():
    edges = jnp.asarray([0.0, 7.0, 14.0, 28.0])
    times, amounts = _doses(AVUTOMETINIB._replace(start_day=7), 28.0)

    @jax.jit
    @jax.grad
    def gradient(response):
        return segment_effect(edges, times, amounts, 0.7, response).sum()

    for parameters in (*GRID, (0.5, 0.5, 1.0, 1.0)):
        assert all(bool(jnp.isfinite(g)) for g in gradient(_response(*parameters)))
