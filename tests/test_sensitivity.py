"""Power scaling: of a normal whose answer is known, and the distance by its definition."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from vtrial.model_format import DOSE_PRIORS, PRIORS, RESPONDER_PRIORS
from vtrial.posterior import POPULATION
from vtrial.prior_draws import PriorSampler
from vtrial.priors import load_priors
from vtrial.sensitivity import (
    FIT_PRIORS,
    OF_LOGARITHM,
    RecordingSampler,
    _rank_correlation,
    _scaled,
    _thirds,
    cumulative_divergence,
)

NUM_DRAWS = 4000


def normal_draws() -> np.ndarray:
    """Quantiles of a standard normal, in a random order: a sample without Monte Carlo error of its own."""
    from scipy import stats

    return np.random.default_rng(1).permutation(stats.norm.ppf((np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS))


def test_scaling_a_normal_prior_is_a_normal_of_another_width() -> None:
    """p^alpha of Normal(0, 1) is Normal(0, 1 / sqrt(alpha)): the mean of x^2 is 1 / alpha, and x keeps its mean."""
    x = normal_draws()
    density = -0.5 * x**2
    found = _scaled(x**2, density)
    # the weights of D draws of a wider normal lose the tail beyond the sample
    assert found["mean_wider"] == pytest.approx(1.0 / 0.8, rel=0.01)
    assert found["mean_narrower"] == pytest.approx(1.0 / 1.25, rel=0.01)
    assert found["khat"] < 0.5
    level = _scaled(x, density)
    assert level["mean_wider"] == pytest.approx(0.0, abs=0.01)


def test_a_prior_that_matters_is_told_from_one_that_does_not() -> None:
    x = normal_draws()
    other = np.random.default_rng(2).normal(size=NUM_DRAWS)
    rate = 1.0 / (1.0 + np.exp(-x))
    own, foreign = _scaled(rate, -0.5 * x**2), _scaled(rate, -0.5 * other**2)
    assert own["sensitivity"] > 5.0 * foreign["sensitivity"]
    assert own["sensitivity"] > 2.0 * own["noise"]
    # noise is a 95th percentile: 1.5 times as much is far out
    assert foreign["sensitivity"] < 1.5 * foreign["noise"]
    assert _rank_correlation(rate, x) == pytest.approx(1.0)
    # independent draws: standard error 1 / sqrt(D)
    assert abs(_rank_correlation(rate, other)) < 4.0 / math.sqrt(NUM_DRAWS)
    assert _rank_correlation(rate, np.ones(NUM_DRAWS)) == 0.0
    fixed = _scaled(rate, np.zeros(NUM_DRAWS))
    assert fixed["sensitivity"] == pytest.approx(0.0, abs=1e-6)
    assert fixed["mean_wider"] == pytest.approx(rate.mean())
    # the mean of a uniform rate in its lowest third is that of its middle: 1/6 for a rate that is its own rank
    rank = np.arange(300) / 300.0
    found = _thirds(rank, rank)
    assert list(found.values()) == pytest.approx([0.5, 1 / 6, 5 / 6], abs=0.01)


def test_distance_by_its_definition() -> None:
    """Two draws 0 and 1 with weights 1/2 against w: P = 1/2 and Q = w between them."""
    for w in (0.5, 0.75, 1.0):
        found = cumulative_divergence(np.array([1.0, 0.0]), np.array([1.0 - w, w]))
        both = []
        for p, q in ((0.5, w), (0.5, 1.0 - w)):
            terms = [x * math.log2(2 * x / (p + q)) for x in (p, q) if x > 0]
            both.append(sum(terms) / (p + q))
        assert found == pytest.approx(math.sqrt(max(both)), abs=1e-7)
    value = np.random.default_rng(3).normal(size=50)
    weight = np.random.default_rng(4).dirichlet(np.ones(50))
    assert cumulative_divergence(10.0 * value + 3.0, weight) == pytest.approx(cumulative_divergence(value, weight))
    assert cumulative_divergence(np.ones(5), np.full(5, 0.2)) == 0.0


def test_recording_changes_no_draw() -> None:
    priors, key = load_priors(), jax.random.key(1)
    plain, recording = PriorSampler(key, priors, 10), RecordingSampler(key, priors, 10)
    for tag in (" FAK", " RAF/MEK"):
        np.testing.assert_array_equal(
            recording.resolved("translation.ln_kill_scale", tag.strip(), tag=tag),
            plain.resolved("translation.ln_kill_scale", tag.strip(), tag=tag),
        )
    assert set(recording.taken["translation.ln_kill_scale.default"]) == {" FAK", " RAF/MEK"}


def test_every_prior_of_a_fit_is_scaled() -> None:
    """Those of the covariates have a name for each class, and are read besides."""
    of_options = {name for options in (DOSE_PRIORS, RESPONDER_PRIORS) for names in options.values() for name in names}
    assert set(FIT_PRIORS.values()) == {*PRIORS, *of_options}
    assert set(OF_LOGARITHM) < set(FIT_PRIORS) <= set(POPULATION)
    for name in of_options | {*PRIORS}:
        assert load_priors().distribution(name) is not None
    assert all(FIT_PRIORS[site].split(".")[-1].startswith("ln_") for site in OF_LOGARITHM)
