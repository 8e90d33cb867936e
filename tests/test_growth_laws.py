"""Laws of growth: their landmarks by hand, their equation by an independent solver, the host against the device."""

from __future__ import annotations

from typing import get_args

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.linalg import expm

from vtrial.config import FitConfig
from vtrial.growth_laws import (
    LAWS,
    REFERENCE_DAYS,
    REFERENCE_VOLUME,
    fixed_course,
    reference_bend,
    time_courses,
    waning_time,
)
from vtrial.model_format import CurveShape

RATES = [0.0, 1e-7, 1e-5, 1e-3, 0.0019, 0.00201, 0.02, 1.0]
DAYS = np.array([0.0, 0.5, 7.0, 28.0, 63.0, 250.0])
LEVEL = np.log(REFERENCE_VOLUME)


def gompertz(deceleration: float, loss_rate: float = 0.02) -> CurveShape:
    return CurveShape(loss_rate, growth="gompertz", deceleration=deceleration)


#: every law; Gompertz on both sides of the rate at which effects are lost, at it, and nearly at it
SHAPES = {
    "exponential": CurveShape(),
    "gompertz": gompertz(0.008),
    "gompertz, fast": gompertz(0.05),
    "gompertz, one rate": gompertz(0.02),
    "gompertz, nearly one rate": gompertz(0.02 * (1 + 2e-3)),
    "gompertz, the same": gompertz(0.02 * (1 + 5e-4)),
}


def ln_volume(day, coefficients, shape: CurveShape):
    return fixed_course(day, shape) + time_courses(day, shape) @ np.asarray(coefficients)


def solved(day: float, coefficients, shape: CurveShape) -> float:
    """x' = s + c (1 - w) - b (x - ln V_ref), w' = -lambda w, by the exponential of the matrix of (x, 1, w)."""
    eta, s, c = coefficients
    slow = shape.deceleration
    matrix = np.array([[-slow, s + c + slow * LEVEL, -c], [0, 0, 0], [0, 0, -shape.loss_rate]])
    return float((expm(matrix * day) @ [eta, 1.0, 1.0])[0])


def test_every_law_of_the_registry_is_a_setting_and_tested_here():
    assert set(get_args(FitConfig.model_fields["growth"].annotation)) == set(LAWS)
    assert {shape.growth for shape in SHAPES.values()} == set(LAWS)


@pytest.mark.parametrize("name", SHAPES)
def test_courses_solve_the_equation(name):
    shape = SHAPES[name]
    for coefficients in ((5.0, 0.05, 0.0), (5.6, -0.07, 0.09), (4.0, 0.02, -0.03)):
        expected = [solved(day, coefficients, shape) for day in DAYS]
        # the two rates of Gompertz within 1e-3 of each other count as their midpoint, 5e-8 of the third course at most
        found = ln_volume(DAYS, coefficients, shape)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-10 if name != "gompertz, the same" else 1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_the_device_has_the_courses_of_the_host(name):
    shape = SHAPES[name]
    found = jax.jit(lambda day: time_courses(day, shape))(jnp.asarray(DAYS, jnp.float32))
    assert found.dtype == jnp.float32
    # 2^-24 relative, a few roundings; Gompertz's third course is a difference of terms up to 1 over that of the rates
    apart = np.inf if shape.growth == "exponential" else max(abs(shape.deceleration - shape.loss_rate), 2e-5)
    np.testing.assert_allclose(found, time_courses(DAYS, shape), rtol=1e-6, atol=4 * 2**-24 / apart)
    fixed = jax.jit(lambda day: fixed_course(day, shape))(jnp.asarray(DAYS, jnp.float32))
    np.testing.assert_allclose(fixed, fixed_course(DAYS, shape), rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_the_bend_is_that_of_the_reference_days(name):
    _, grown, waned = time_courses(np.array([REFERENCE_DAYS]), SHAPES[name])[0]
    assert reference_bend(SHAPES[name]) == pytest.approx(waned / grown, rel=1e-13)


def test_exponential_landmarks():
    shape = CurveShape(0.02)
    # untreated: a doubling every ln 2 / s days
    assert np.diff(ln_volume(np.log(2) / 0.05 * np.arange(4), (5.0, 0.05, 0.0), shape)) == pytest.approx(np.log(2))
    # treated: shrinks until s + c (1 - exp(-lambda t)) = 0, then grows
    nadir = -np.log(1 - 0.04 / 0.09) / 0.02
    assert nadir == pytest.approx(29.39, abs=0.005)
    before, at, after = ln_volume(nadir + np.array([-0.01, 0.0, 0.01]), (5.0, -0.04, 0.09), shape)
    assert at < before and at < after


def test_gompertz_landmarks():
    shape, s, eta = gompertz(0.02), 0.05, np.log(100.0)
    plateau = LEVEL + s / 0.02  # 225 exp(2.5) mm3
    assert np.exp(ln_volume(np.array([2000.0]), (eta, s, 0.0), shape))[0] == pytest.approx(2741.1, rel=1e-4)
    # the plateau is the same from any start, and a tumour there stays
    assert ln_volume(np.array([2000.0]), (9.0, s, 0.0), shape)[0] == pytest.approx(plateau, abs=1e-12)
    assert ln_volume(DAYS, (plateau, s, 0.0), shape) == pytest.approx(np.full(len(DAYS), plateau))
    # the first doubling takes -ln(1 - ln 2 / (plateau - eta)) / b
    doubling = -np.log(1 - np.log(2) / (plateau - eta)) / 0.02
    assert ln_volume(np.array([doubling]), (eta, s, 0.0), shape)[0] == pytest.approx(np.log(200.0))
    # the volume grows fastest at plateau / e: Gompertz's inflection
    day = np.linspace(0.0, 200.0, 20_001)
    volume = np.exp(ln_volume(day, (eta, s, 0.0), shape))
    fastest = volume[np.argmax(np.diff(volume))]
    assert fastest == pytest.approx(np.exp(plateau) / np.e, rel=1e-3)
    # at V_ref the rate is s itself
    assert np.diff(ln_volume(np.array([0.0, 1e-6]), (LEVEL, s, 0.0), shape))[0] / 1e-6 == pytest.approx(s, rel=1e-6)


def test_a_gompertz_tumour_that_shrank_comes_back_to_its_nadir_earlier():
    """At the nadir s + c (1 - exp(-lambda t)) = b (x - ln V_ref), which is below 0 for a tumour below V_ref."""
    shape, coefficients = gompertz(0.01), (LEVEL, -0.04, 0.09)
    day = np.linspace(0.0, 60.0, 60_001)
    nadir = day[np.argmin(ln_volume(day, coefficients, shape))]
    x = ln_volume(np.array([nadir]), coefficients, shape)[0]
    assert -0.04 + 0.09 * -np.expm1(-0.02 * nadir) == pytest.approx(0.01 * (x - LEVEL), abs=2e-6)
    assert nadir < -np.log(1 - 0.04 / 0.09) / 0.02


def test_gompertz_without_deceleration_is_exponential():
    # the first term left out is b t^2 / 2 of a rate, and b t of the level's distance from V_ref
    near, exact = (ln_volume(DAYS, (5.0, 0.05, -0.02), shape) for shape in (gompertz(1e-9), CurveShape()))
    assert np.abs(near - exact).max() < 1e-9 * (250.0**2 / 2 * 0.05 + 250.0 * abs(5.0 - LEVEL))


def exact_waning(day, rate):
    """Its integral by a rule of 400 midpoints in float64, good to 1e-6 for rate * day below 10."""
    middle = (np.arange(400) + 0.5) / 400 * day
    return float(np.mean(-np.expm1(-rate * middle)) * day)


def test_waning_time_by_hand():
    # 100 - (1 - exp(-1)) / 0.01
    assert float(waning_time(jnp.float32(100.0), 0.01)) == pytest.approx(36.787944, rel=1e-6)
    assert float(waning_time(jnp.float32(0.0), 0.01)) == 0.0
    # late, all but the time constant is lost
    assert float(waning_time(jnp.float32(2000.0), 0.01)) == pytest.approx(1900.0, rel=1e-6)


@pytest.mark.parametrize("rate", RATES[1:-1])
def test_waning_time_keeps_its_digits_where_little_is_lost(rate):
    # 8 roundings of float32 (6e-8 each), and the error of the reference
    value = waning_time(jnp.float32(100.0), jnp.float32(rate))
    assert float(value) == pytest.approx(exact_waning(100.0, float(np.float32(rate))), rel=3e-6)


def test_waning_time_is_one_function_across_its_series():
    with jax.enable_x64(True):
        rate = jnp.asarray([0.2 - 1e-12, 0.2, 0.2 + 1e-12], jnp.float64)
        value = waning_time(jnp.float64(1.0), rate)
        # the step over 1e-12 in rate is about 5e-13; the two branches agree to float64 rounding of 1 + expm1(-x) / x
        assert np.ptp(np.asarray(value)) < 2e-12


def test_nothing_wanes_at_rate_zero_and_gradients_are_finite():
    assert float(waning_time(jnp.float32(50.0), 0.0)) == 0.0
    slope = jax.grad(lambda rate: waning_time(jnp.float32(50.0), rate))(jnp.float32(0.0))
    assert float(slope) == pytest.approx(50.0**2 / 2)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1000.0, width=32), st.floats(0.0, 1.0, width=32), st.floats(0.0, 1.0, width=32))
def test_more_is_lost_the_faster_it_wanes_and_never_more_than_the_time(day, one, other):
    slow, fast = sorted([one, other])
    less, more = (float(waning_time(jnp.float32(day), jnp.float32(rate))) for rate in (slow, fast))
    assert 0.0 <= less <= more * (1 + 1e-6) + 1e-30
    assert more <= day * (1 + 1e-6)
