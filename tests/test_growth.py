"""Growth in closed form: by hand, against its own differential equation, and where float32 would cancel."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import growth
from vtrial.growth_laws import time_courses
from vtrial.model_format import CurveShape

RATES = [0.0, 1e-7, 1e-5, 1e-3, 0.0019, 0.00201, 0.02, 1.0]


@pytest.mark.parametrize("rate", RATES)
def test_mean_decay_is_the_mean_of_the_decay(rate):
    edges = np.array([0.0, 7.0, 14.0, 42.0, 90.0])
    value = growth.mean_decay(jnp.float32(rate), jnp.asarray(edges, jnp.float32))
    middle = (np.arange(2000) + 0.5) / 2000
    times = edges[:-1, None] + np.diff(edges)[:, None] * middle
    # midpoints: (rate * width)^2 / (24 * 2000^2), at most 2.4e-5 of the value; float32 rounds rate * day to 90 * 6e-8
    np.testing.assert_allclose(value, np.exp(-rate * times).mean(axis=1), rtol=3e-5, atol=1e-37)
    assert value.dtype == jnp.float32


def test_log_size_change_by_hand():
    # 10 days at 0.05 - 0.15, 20 days at 0.05 - 0
    kill, duration = jnp.asarray([0.15, 0.0], jnp.float32), jnp.asarray([10.0, 20.0], jnp.float32)
    np.testing.assert_allclose(growth.log_size_change(jnp.float32(0.05), kill, duration), [-1.0, 0.0], atol=1e-6)
    # a batch of tumours shares the segments
    batch = growth.log_size_change(jnp.float32([0.05, 0.1]), jnp.stack([kill, kill]), duration)
    np.testing.assert_allclose(batch, [[-1.0, 0.0], [-0.5, 1.5]], atol=1e-6)


def test_trial_and_fit_have_the_same_growth():
    # an effect that is lost wholly (loss = 1): segments with mean_decay against the time courses of the fit
    edges = jnp.asarray([0.0, 5.0, 30.0, 31.0, 100.0], jnp.float32)
    g, k, rate = jnp.float32(0.04), jnp.float32(0.1), jnp.float32(0.013)
    segments = growth.log_size_change(g, k * growth.mean_decay(rate, edges), jnp.diff(edges))
    closed = jnp.matmul(time_courses(edges[1:], CurveShape(0.013)), jnp.stack([jnp.zeros_like(g), g - k, k]))
    np.testing.assert_allclose(segments, closed, rtol=2e-5, atol=2e-6)


def test_a_sphere_loses_a_third_in_diameter():
    # (1/8)^(1/3) = 1/2
    assert np.exp(np.log(1 / 8) * growth.DIAMETER_PER_VOLUME) == pytest.approx(0.5)
