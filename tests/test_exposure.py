"""The mean effect against dense quadrature and an ODE solver, and its two-point law at other levels of the amount."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from vtrial import dosing as regimens
from vtrial import exposure
from vtrial.dosing import Dosing
from vtrial.exposure import DoseResponse

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
segment_effect = jax.jit(exposure.segment_effect, static_argnames=("linear", "nodes", "pieces"))
segment_law = jax.jit(exposure.segment_law, static_argnames=("linear", "nodes", "pieces"))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _response(half_life=2.3, absorption_half_life=0.05, saturation=1.5, hill=1.0, *two):
    return DoseResponse(*(jnp.asarray(x) for x in (half_life, absorption_half_life, saturation, hill, *two)))


def _doses(dosing, until_day, amount=None, num_doses=NUM_DOSES):
    times = regimens.dose_days(dosing, until_day)
    padding = [0.0] * (num_doses - len(times))
    amounts = [dosing.amount if amount is None else amount] * len(times)
    return jnp.asarray([*times, *padding]), jnp.asarray([*amounts, *padding])


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
    effect = segment_effect(edges, *doses, regimens.dose_rate(drip), _response(0.25, 0.05, saturation))
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
    edges = regimens.segment_edges([28.0], [dosing])
    times = np.asarray(regimens.dose_days(dosing, 28))
    rate = regimens.dose_rate(dosing)
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
    edges = jnp.asarray(regimens.segment_edges([28.0], [AVUTOMETINIB]))
    rate = regimens.dose_rate(AVUTOMETINIB)
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
    rate = regimens.dose_rate(DEFACTINIB)
    small = segment_effect(daily, *doses, rate, _response(half_life, 0.02, 1e-6))
    # Where the effect is proportional to the amount, each day without drug divides it by 2^(1 / half-life); saturation
    # of 1e-6 bends that by less than 1e-5, and absorption is over.
    np.testing.assert_allclose(small[1:] / small[:-1], 2.0 ** (-1 / half_life), rtol=1e-5)
    treated = segment_effect(jnp.asarray([0.0, 7.0, 14.0, 21.0, 28.0]), *doses, rate, _response(half_life, 0.02, 2.0))
    assert treated[3] < 0.25 * treated[2]


def test_doses_outside_the_edges_count_only_through_what_they_leave():
    edges = jnp.asarray([28.0, 31.0, 33.0, 35.0, 37.0])
    rate = regimens.dose_rate(AVUTOMETINIB)
    before = segment_effect(edges, *_doses(AVUTOMETINIB, 28.0), rate, _response())
    assert bool(jnp.all(before > 0)) and bool(jnp.all(before[1:] < before[:-1]))
    now = segment_effect(edges, *_doses(AVUTOMETINIB, 37.0), rate, _response())
    later = segment_effect(edges, *_doses(AVUTOMETINIB, 90.0), rate, _response())
    np.testing.assert_allclose(later, now, rtol=1e-6)
    none = jnp.zeros((0,))
    np.testing.assert_array_equal(segment_effect(edges, none, none, rate, _response()), np.zeros(4))


def test_segment_effect_over_draws_in_float32_with_one_trace(strict_dtypes):
    edges = jnp.asarray(regimens.segment_edges([56.0 * i for i in range(1, 13)], [DEFACTINIB]))
    times, amounts = _doses(DEFACTINIB, 672.0, num_doses=1008)
    rate = regimens.dose_rate(DEFACTINIB)
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
        assert all(bool(jnp.isfinite(g)) for g in jax.tree.leaves(gradient(_response(*parameters))))


# ------------------------------------------------------------------------------------------------ into the vein

TWO_COMPARTMENTS = (0.4, 0.05, 3.0, 1.5, 0.06, 0.7)


def _infused_by_diffrax(length, parameters, hill, doses=2):
    """Integral of E over each of `doses` days with an infusion at the start of each, by an ODE solver."""
    import diffrax

    rates = [(1.0, math.log(2) / parameters[0])]
    if len(parameters) > 4:
        fast, share = parameters[4:]
        rates = [(share, math.log(2) / fast), (1.0 - share, math.log(2) / parameters[0])]
    half = float(exposure.half_amount(1.0, _response(*parameters)))

    @jax.jit
    def solve(state, flow, span):
        def change(_, y, flow):
            parts = [share * flow - rate * part for (share, rate), part in zip(rates, y, strict=False)]
            return jnp.stack([*parts, exposure.effect(y[:-1].sum(), half, hill)])

        return diffrax.diffeqsolve(
            diffrax.ODETerm(change), diffrax.Dopri8(), 0.0, span, None, state, args=flow, max_steps=4096,
            stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-11),
        ).ys[0]  # fmt: skip

    state, total = jnp.zeros(len(rates) + 1), [0.0]
    bolus = jnp.asarray([*(share for share, _ in rates), 0.0])
    for _ in range(doses):
        # the effect begins with infinite slope where its steepness is below 1: here it is above
        state = solve(state, 1.0 / length, length) if length else state + bolus
        state = solve(state, 0.0, 1.0 - length)
        total.append(float(state[-1]))
    return np.diff(total)


@pytest.mark.parametrize("length", [0.0, 1 / 48, 0.25], ids=["bolus", "30 min", "6 h"])
@pytest.mark.parametrize("parameters", [(0.4, 0.05, 3.0, 1.5), TWO_COMPARTMENTS], ids=["one", "two compartments"])
@pytest.mark.usefixtures("float64")
def test_mean_effect_of_infusions_against_diffrax(length, parameters):
    """1e-6 with a fine rule and the stated error with the shipped one, as for doses by mouth."""
    dosing, response = Dosing(1.0, "mg"), _response(*parameters)
    edges, doses = jnp.asarray([0.0, 1.0, 2.0]), _doses(dosing, 2.0)
    exact = _infused_by_diffrax(length, parameters, 1.5)
    fine = segment_effect(edges, *doses, 1.0, response, infusion_days=length, nodes=24, pieces=8)
    np.testing.assert_allclose(fine, exact, rtol=0, atol=1e-6)
    shipped = segment_effect(edges, *doses, 1.0, response, infusion_days=length)
    np.testing.assert_allclose(shipped, exact, rtol=0, atol=2e-4)


def test_a_short_infusion_late_in_float32_is_the_whole_dose():
    """At 672 d floats are 6e-5 d apart, a tenth of a minute's infusion: the amount is none the less that of a bolus."""
    minute = 1.0 / 1440.0
    time, dose = jnp.asarray([673.0, 674.0]), (jnp.asarray([672.3]), jnp.asarray([5.0]))
    infused = exposure.amount(time, *dose, _response(), minute)
    bolus = exposure.amount(time, *dose, _response(), 0.0)
    assert infused.dtype == jnp.float32
    # half a minute on average, at a rate of ln 2 / 2.3 d: 1e-4
    np.testing.assert_allclose(infused, bolus, rtol=3e-4)


@pytest.mark.usefixtures("float64")
def test_an_infusion_of_no_length_is_the_limit_of_short_ones_and_of_fast_absorption():
    edges = jnp.asarray(regimens.segment_edges([28.0], [GEMCITABINE]))
    doses, rate = _doses(GEMCITABINE, 28.0), regimens.dose_rate(GEMCITABINE)
    bolus = segment_effect(edges, *doses, rate, _response(), infusion_days=0.0)
    # a shift in time of at most 1e-5 d, and E below 1
    np.testing.assert_allclose(segment_effect(edges, *doses, rate, _response(), infusion_days=1e-5), bolus, atol=2e-5)
    absorbed = segment_effect(edges, *doses, rate, _response(2.3, 1e-5))
    np.testing.assert_allclose(absorbed, bolus, atol=2e-4)


# ------------------------------------------------------------------------------------------------ two points, levels


@pytest.mark.usefixtures("float64")
def test_at_level_is_the_effect_of_the_scaled_amount():
    amounts, level = jnp.asarray([0.0, 0.3, 2.0, 50.0]), 1.7
    for hill in (0.7, 1.0, 2.5):
        ours = exposure.at_level(exposure.effect(amounts, 2.0, hill), jnp.asarray(hill * math.log(level)))
        np.testing.assert_allclose(ours, exposure.effect(level * amounts, 2.0, hill), rtol=1e-12)
    ours = exposure.at_level(exposure.linear_effect(amounts, 2.0), jnp.asarray(math.log(0.4)), jnp.asarray(True))
    # below the full effect; at 50 the effect was full, and of a full effect nobody knows by how much
    np.testing.assert_allclose(ours[:3], exposure.linear_effect(0.4 * amounts[:3], 2.0), rtol=1e-12)


def test_linear_effect_by_hand():
    amounts = jnp.asarray([0.0, 1.0, 2.0, 4.0, 9.0])
    np.testing.assert_allclose(exposure.linear_effect(amounts, 2.0), [0.0, 0.25, 0.5, 1.0, 1.0])


@pytest.mark.usefixtures("float64")
def test_the_mean_of_the_two_points_is_the_mean_effect():
    edges = jnp.asarray(regimens.segment_edges([28.0], [GEMCITABINE]))
    doses, rate = _doses(GEMCITABINE, 28.0), regimens.dose_rate(GEMCITABINE)
    response = _response(2.0, 0.01, 4.0)
    low, high, weight = segment_law(edges, *doses, rate, response)
    np.testing.assert_allclose(low + weight * (high - low), segment_effect(edges, *doses, rate, response), rtol=1e-12)
    assert bool(jnp.all((low >= 0) & (low <= high) & (high <= 1) & (weight > 0) & (weight < 1)))


@pytest.mark.parametrize(
    ("dosing", "parameters", "error"),
    [
        (AVUTOMETINIB, (2.3, 0.01, 1.0, 1.0), 3e-3),
        (AVUTOMETINIB, (2.3, 0.01, 4.0, 1.0), 3e-3),
        (DEFACTINIB, (0.375, 0.02, 4.0, 1.0), 3e-3),
        (GEMCITABINE, (2.0, 0.01, 4.0, 1.0), 3e-3),
        (BINIMETINIB, (0.21, 0.017, 4.0, 1.0), 3e-3),
        (DEFACTINIB, (0.375, 0.02, 10.0, 2.0), 4e-2),
    ],
)
@pytest.mark.usefixtures("float64")
def test_mean_at_level_within_its_stated_error(dosing, parameters, error):
    """Against the same quadrature of the amounts times the level: 1.65-fold and 2.7-fold are 1 and 2 SD of patients."""
    edges = jnp.asarray(regimens.segment_edges([28.0], [dosing], max_days=28.0))
    doses, rate = _doses(dosing, 28.0), regimens.dose_rate(dosing)
    response = _response(*parameters)
    law = segment_law(edges, *doses, rate, response)
    for ln_level in (-1.0, -0.5, 0.5, 1.0):
        ours = exposure.mean_at_level(law, jnp.asarray(parameters[3] * ln_level))
        exact = segment_effect(edges, doses[0], doses[1] * math.exp(ln_level), rate, response)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=error)


@pytest.mark.usefixtures("float64")
def test_mean_effect_of_two_compartments_against_diffrax():
    """E integrated with the amounts by an ODE solver: 1e-6 with a fine rule, the stated error with the shipped one."""
    import diffrax

    dosing, parameters = DEFACTINIB, (0.4, 0.05, 3.0, 1.5, 0.06, 0.7)
    response, rate = _response(*parameters), regimens.dose_rate(dosing)
    fast, slow, absorption = (math.log(2) / half_life for half_life in (0.06, 0.4, 0.05))
    half = float(exposure.half_amount(rate, response))

    @jax.jit
    def solve(state):
        def change(_, y, __):
            depot, first, second, _ = y
            gone = absorption * depot
            now = exposure.effect(first + second, half, 1.5)
            return jnp.stack([-gone, 0.7 * gone - fast * first, 0.3 * gone - slow * second, now])

        return diffrax.diffeqsolve(
            diffrax.ODETerm(change), diffrax.Dopri8(), 0.0, 0.5, None, state, max_steps=4096,
            stepsize_controller=diffrax.PIDController(rtol=1e-10, atol=1e-11),
        ).ys[0]  # fmt: skip

    state, total = jnp.zeros(4), []
    for _ in range(4):
        state = solve(state + jnp.asarray([dosing.amount, 0.0, 0.0, 0.0]))
        total.append(float(state[3]))
    edges, doses = jnp.asarray([0.0, 1.0, 2.0]), _doses(dosing, 2.0)
    exact = [total[1], total[3] - total[1]]
    np.testing.assert_allclose(
        segment_effect(edges, *doses, rate, response, nodes=24, pieces=8), exact, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(segment_effect(edges, *doses, rate, response), exact, rtol=0, atol=2e-4)
