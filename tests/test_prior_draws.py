"""Draws of priors against the distributions that the fit takes of the same entries."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors, load_priors

SIZE = 4000
FAMILIES = ("normal", "lognormal", "halfnormal", "beta", "truncated_normal")


@pytest.fixture(scope="module")
def priors() -> Priors:
    return load_priors()


def of_family(priors: Priors, family: str) -> str:
    found = sorted(name for name, entry in priors.entries.items() if entry.family == family)
    if not found:
        pytest.skip(f"no shipped entry is {family}")
    return found[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_the_distribution_of_their_entry(priors: Priors, family: str) -> None:
    """Kolmogorov and Smirnov against the distribution function of NumPyro, under one key."""
    name = of_family(priors, family)
    law = priors.distribution(name)
    drawn = PriorSampler(jax.random.key(3), priors, SIZE).entry(name)
    assert drawn.shape == (SIZE,)
    # one false alarm in ten thousand keys; the statistic's exact law
    assert stats.kstest(drawn, lambda x: np.asarray(law.cdf(x), float)).pvalue > 1e-4


def test_the_logarithm_of_an_entry_and_a_fixed_one(priors: Priors) -> None:
    sampler = PriorSampler(jax.random.key(4), priors, SIZE)
    head, _, last = of_family(priors, "lognormal").rpartition(".")
    logged = f"{head}.ln_{last}"
    assert logged not in priors.entries
    law = priors.distribution(logged)
    assert stats.kstest(sampler.entry(logged), lambda x: np.asarray(law.cdf(x), float)).pvalue > 1e-4
    fixed = of_family(priors, "fixed")
    np.testing.assert_array_equal(sampler.entry(fixed), np.full(SIZE, priors.entry(fixed).parameters["value"]))


def test_a_name_and_a_tag_have_draws_of_their_own(priors: Priors) -> None:
    """Whatever else is drawn, and whatever comes first; two tags are independent, within 5 SE of no correlation."""
    name = of_family(priors, "normal")
    first, second = (PriorSampler(jax.random.key(5), priors, SIZE) for _ in range(2))
    other = first.entry(name, " b")
    np.testing.assert_array_equal(first.entry(name), second.entry(name))
    assert abs(np.corrcoef(other, second.entry(name))[0, 1]) < 5 / np.sqrt(SIZE)
