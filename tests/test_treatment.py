"""The combination rule: by hand, against a slow independent reading, and by its properties."""

from __future__ import annotations

from itertools import permutations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vtrial.treatment import SMOOTHING, combine, joint_effect, loss_of_arm


def slow_combine(effect, phi, gamma, present, smoothing=SMOOTHING):
    """The docstring's formula, one arm, loops in float64."""
    drugs = [d for d in range(len(effect)) if present[d]]
    if not drugs:
        return 0.0
    weight = np.exp([(effect[d] - max(effect[e] for e in drugs)) / smoothing for d in drugs])
    weight = dict(zip(drugs, weight / weight.sum(), strict=True))
    joint = sum(weight[d] * effect[d] for d in drugs)
    for leader in drugs:
        for other in drugs:
            if other != leader:
                joint += weight[leader] * phi[leader][other] * effect[other]
    return joint + sum(gamma[a][b] for a in drugs for b in drugs if a < b)


def symmetric(rng, num):
    square = rng.normal(size=(num, num))
    return square + square.T


def arrays(*values):
    return [jnp.asarray(value, jnp.float32) for value in values]


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize("num_drugs", [1, 2, 3, 4])
def test_combine_is_its_formula(num_drugs):
    rng = np.random.default_rng(num_drugs)
    effect, present = rng.normal(0.4, 0.7, (6, num_drugs)), rng.random((6, num_drugs)) < 0.6
    phi, gamma = (np.stack([symmetric(rng, num_drugs) for _ in range(6)]) for _ in range(2))
    value = combine(*arrays(effect, phi, gamma), jnp.asarray(present))
    expected = [slow_combine(*arm) for arm in zip(effect, phi, gamma, present, strict=True)]
    # at most 20 terms of order 1 in float32
    np.testing.assert_allclose(value, expected, atol=20 * 6e-8 * 10)
    assert value.dtype == jnp.float32


def test_one_drug_is_its_effect_and_none_is_nothing():
    effect, phi, gamma = arrays([0.7, 99.0], np.ones((2, 2)), np.ones((2, 2)))
    assert float(combine(effect, phi, gamma, jnp.array([True, False]))) == pytest.approx(0.7)
    assert float(combine(effect, phi, gamma, jnp.array([False, False]))) == 0.0


@pytest.mark.parametrize(
    ("phi", "gamma", "effect", "expected"),
    [
        (0.0, 0.0, [0.9, 0.4], 0.9),  # independent action within one tumour
        (1.0, 0.0, [0.9, 0.4], 1.3),  # additive
        (0.5, 0.0, [0.9, 0.4], 1.1),
        (1.0, 0.0, [0.9, -0.4], 0.5),  # a drug under which the tumour grows faster takes away
        (0.0, 0.0, [0.9, -0.4], 0.9),
        (1.0, 0.3, [0.9, 0.0], 1.2),  # sensitised by a partner that does nothing
        (0.0, 0.0, [-0.2, -0.4], -0.2),
    ],
)
def test_two_drugs_by_hand(phi, gamma, effect, expected):
    one, square_phi, square_gamma = arrays(effect, np.full((2, 2), phi), np.full((2, 2), gamma))
    both = jnp.array([True, True])
    assert float(combine(one, square_phi, square_gamma, both, 1e-4)) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_the_drugs_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    effect, phi, gamma, present = rng.normal(size=3), symmetric(rng, 3), symmetric(rng, 3), rng.random(3) < 0.8
    values = []
    for order in permutations(range(3)):
        o = list(order)
        values.append(float(combine(*arrays(effect[o], phi[o][:, o], gamma[o][:, o]), jnp.asarray(present[o]))))
    np.testing.assert_allclose(values, values[0], atol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.4, 3.0])
def test_the_rule_is_homogeneous(scale):
    effect, phi, gamma = np.array([0.3, 0.25, -0.1]), np.full((3, 3), 0.6), np.full((3, 3), 0.1)
    present = jnp.ones(3, bool)
    value = combine(*arrays(effect, phi, gamma), present)
    scaled = combine(*arrays(scale * effect, phi, scale * gamma), present, scale * SMOOTHING)
    assert float(scaled) == pytest.approx(scale * float(value), rel=1e-5)


def test_gradients_are_those_of_the_formula_and_none_comes_from_an_absent_drug():
    effect, phi, gamma = np.array([0.3, 0.28, 5.0]), np.full((3, 3), 0.7), np.full((3, 3), 0.2)
    present = np.array([True, True, False])
    with jax.enable_x64(True):
        slopes = jax.grad(lambda e: combine(e, jnp.asarray(phi), jnp.asarray(gamma), jnp.asarray(present)))(
            jnp.asarray(effect)
        )
    step = 1e-6
    for d in range(3):
        up, down = (slow_combine(effect + sign * step * np.eye(3)[d], phi, gamma, present) for sign in (1, -1))
        assert float(slopes[d]) == pytest.approx((up - down) / (2 * step), abs=1e-6)
    assert float(slopes[2]) == 0.0


# ------------------------------------------------------------------------------------------------ over time

PHI, GAMMA = np.full((2, 2), 0.5), np.full((2, 2), 0.2)
BOTH = jnp.array([True, True])


jitted = jax.jit(joint_effect)


def over_time(effect, kill_scale, exposure, decay, deviation=0.1, present=BOTH, bliss=False):
    return jitted(
        *arrays(effect, kill_scale, exposure, decay, PHI, GAMMA, deviation), present, bliss=jnp.asarray(bliss)
    )


@pytest.mark.usefixtures("strict_dtypes")
def test_at_strength_one_it_is_the_rule_of_the_mice():
    value = over_time([0.6, 0.3], [1, 1], np.ones((2, 3)), np.ones((2, 3)))
    np.testing.assert_allclose(value, slow_combine([0.6, 0.3], PHI, GAMMA, [True, True]) + 0.1, rtol=1e-5)


def test_equal_strength_scales_the_whole_rule():
    exposure, decay = np.array([[0.5, 1.0]] * 2), np.array([[1.0, 0.3]] * 2)
    value = over_time([0.6, 0.3], [0.4, 0.4], exposure, decay)
    # gamma goes with both exposures, everything else with the strength
    strength = 0.4 * exposure[0] * decay[0]
    no_gamma = slow_combine([0.6, 0.3], PHI, 0 * GAMMA, [True, True]) + 0.1
    np.testing.assert_allclose(value, strength * no_gamma + 0.2 * strength * exposure[0], rtol=1e-5)


def test_a_week_off_leaves_nothing_and_one_drug_off_leaves_the_other():
    value = over_time([0.6, 0.3], [0.4, 0.4], [[0.0, 0.9], [0.0, 0.0]], np.ones((2, 2)))
    # the floor of the rounding is 1e-6
    np.testing.assert_allclose(value, [0.0, 0.6 * 0.4 * 0.9], atol=2e-6)


def test_bliss_adds_kills_and_a_single_drug_has_no_deviation():
    exposure = np.ones((2, 1))
    bliss = over_time([0.9, 0.6], [1, 1], exposure, exposure, bliss=True)
    np.testing.assert_allclose(bliss, [1.5], rtol=1e-6)  # no maximum is left in it to be rounded off
    single = over_time([0.9, 0.6], [0.5, 1], exposure, exposure, present=jnp.array([True, False]))
    np.testing.assert_allclose(single, [0.45], rtol=1e-6)
    none = over_time([0.9, 0.6], [0.5, 1], exposure, exposure, present=jnp.array([False, False]))
    np.testing.assert_allclose(none, [0.0])


def test_what_an_arm_loses_is_that_of_its_drugs_by_what_they_do():
    """Weights are effects; drugs without any have equal ones; an effect below 0 weighs as much as one above."""
    present = jnp.asarray([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    loss = jnp.broadcast_to(jnp.asarray([0.3, 1.2, 0.9]), present.shape)
    effect = jnp.broadcast_to(jnp.asarray([20.0, 10.0, -20.0]), present.shape)
    np.testing.assert_allclose(loss_of_arm(loss, effect, present), [0.72, 0.6, 1.2, 0.0], rtol=1e-5)
    np.testing.assert_allclose(loss_of_arm(loss, 0.0 * effect, present), [0.8, 0.6, 1.2, 0.0], rtol=1e-6)


def test_what_adds_up_does_so_as_it_wanes():
    """With phi 1 and gamma 0 the joint effect loses what its drugs lose, but for the rounding near no effect."""
    effect, loss, both = jnp.asarray([0.9, 0.3]), jnp.asarray([1.0, 0.5]), jnp.ones(2, bool)
    joint = combine(effect, jnp.ones((2, 2)), jnp.zeros((2, 2)), both)
    # sqrt(0.3^2 + 0.05^2) is 1.4 % above 0.3: weights are off by 1.0 % of a loss that differs by 0.5
    np.testing.assert_allclose(joint * loss_of_arm(loss, effect, both), jnp.sum(effect * loss), rtol=3e-3)
