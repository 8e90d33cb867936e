"""Growth in closed form: by hand, against its own differential equation, and where float32 would cancel."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vtrial import growth

RATES = [0.0, 1e-7, 1e-5, 1e-3, 0.0019, 0.00201, 0.02, 1.0]


def exact_waning(day, rate):
    """Its integral by a rule of 400 midpoints in float64, good to 1e-6 for rate * day below 10."""
    middle = (np.arange(400) + 0.5) / 400 * day
    return float(np.mean(-np.expm1(-rate * middle)) * day)


def test_waning_time_by_hand():
    # 100 - (1 - exp(-1)) / 0.01
    assert float(growth.waning_time(jnp.float32(100.0), 0.01)) == pytest.approx(36.787944, rel=1e-6)
    assert float(growth.waning_time(jnp.float32(0.0), 0.01)) == 0.0
    # late, all but the time constant is lost
    assert float(growth.waning_time(jnp.float32(2000.0), 0.01)) == pytest.approx(1900.0, rel=1e-6)


@pytest.mark.parametrize("rate", RATES[1:-1])
def test_waning_time_keeps_its_digits_where_little_is_lost(rate):
    # 8 roundings of float32 (6e-8 each), and the error of the reference
    value = growth.waning_time(jnp.float32(100.0), jnp.float32(rate))
    assert float(value) == pytest.approx(exact_waning(100.0, float(np.float32(rate))), rel=3e-6)


def test_waning_time_is_one_function_across_its_series():
    with jax.enable_x64(True):
        rate = jnp.asarray([0.2 - 1e-12, 0.2, 0.2 + 1e-12], jnp.float64)
        value = growth.waning_time(jnp.float64(1.0), rate)
        # the step over 1e-12 in rate is about 5e-13; the two branches agree to float64 rounding of 1 + expm1(-x) / x
        assert np.ptp(np.asarray(value)) < 2e-12


def test_nothing_wanes_at_rate_zero_and_gradients_are_finite():
    assert float(growth.waning_time(jnp.float32(50.0), 0.0)) == 0.0
    slope = jax.grad(lambda rate: growth.waning_time(jnp.float32(50.0), rate))(jnp.float32(0.0))
    assert float(slope) == pytest.approx(50.0**2 / 2)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1000.0, width=32), st.floats(0.0, 1.0, width=32), st.floats(0.0, 1.0, width=32))
def test_more_is_lost_the_faster_it_wanes_and_never_more_than_the_time(day, one, other):
    slow, fast = sorted([one, other])
    less, more = (float(growth.waning_time(jnp.float32(day), jnp.float32(rate))) for rate in (slow, fast))
    assert 0.0 <= less <= more * (1 + 1e-6) + 1e-30
    assert more <= day * (1 + 1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_mean_decay_is_the_mean_of_the_decay(rate):
    edges = np.array([0.0, 7.0, 14.0, 42.0, 90.0])
    value = growth.mean_decay(jnp.float32(rate), jnp.asarray(edges, jnp.float32))
    middle = (np.arange(2000) + 0.5) / 2000
    times = edges[:-1, None] + np.diff(edges)[:, None] * middle
    # midpoints: (rate * width)^2 / (24 * 2000^2), at most 2.4e-5 of the value; float32 rounds rate * day to 90 * 6e-8
    np.testing.assert_allclose(value, np.exp(-rate * times).mean(axis=1), rtol=3e-5, atol=1e-37)
    assert value.dtype == jnp.float32


def test_basis_solves_the_differential_equation():
    # ln V = eta + (g - k) t + loss k waning(t) has the slope g - k (1 - loss (1 - exp(-rate t)))
    g, k, loss, rate, eta = 0.05, 0.09, 0.8, 0.02, 5.0
    coefficients = np.array([eta, g - k, loss * k])

    def ln_volume(day):
        return jnp.sum(growth.basis(day, rate) * jnp.asarray(coefficients, day.dtype))

    for day in (0.0, 3.0, 40.0, 200.0):
        slope = jax.grad(ln_volume)(jnp.float32(day))
        assert float(slope) == pytest.approx(g - k * (1 - loss * (1 - np.exp(-rate * day))), abs=1e-6)
    assert float(ln_volume(jnp.float32(0.0))) == pytest.approx(eta)
    assert growth.basis(jnp.zeros(4), rate).shape == (4, growth.NUM_BASIS)


def test_log_size_change_by_hand():
    # 10 days at 0.05 - 0.15, 20 days at 0.05 - 0
    kill, duration = jnp.asarray([0.15, 0.0], jnp.float32), jnp.asarray([10.0, 20.0], jnp.float32)
    np.testing.assert_allclose(growth.log_size_change(jnp.float32(0.05), kill, duration), [-1.0, 0.0], atol=1e-6)
    # a batch of tumours shares the segments
    batch = growth.log_size_change(jnp.float32([0.05, 0.1]), jnp.stack([kill, kill]), duration)
    np.testing.assert_allclose(batch, [[-1.0, 0.0], [-0.5, 1.5]], atol=1e-6)


def test_trial_and_fit_have_the_same_growth():
    # an effect that is lost wholly (loss = 1): segments with mean_decay against the basis of the fit
    edges = jnp.asarray([0.0, 5.0, 30.0, 31.0, 100.0], jnp.float32)
    g, k, rate = jnp.float32(0.04), jnp.float32(0.1), jnp.float32(0.013)
    segments = growth.log_size_change(g, k * growth.mean_decay(rate, edges), jnp.diff(edges))
    closed = jnp.matmul(growth.basis(edges[1:], rate), jnp.stack([jnp.zeros_like(g), g - k, k]))
    np.testing.assert_allclose(segments, closed, rtol=2e-5, atol=2e-6)


def test_a_sphere_loses_a_third_in_diameter():
    # (1/8)^(1/3) = 1/2
    assert np.exp(np.log(1 / 8) * growth.DIAMETER_PER_VOLUME) == pytest.approx(0.5)
