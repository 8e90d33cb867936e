"""Assurance against direct averaging, sampling and the beta-binomial; decisions, sample sizes by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special, stats

from vtrial.assurance import (
    RateDraws,
    assurance,
    decision_probabilities,
    decision_rule,
    num_responders,
    sample_size,
    trial_above,
    trial_rates,
    two_arm_assurance,
)
from vtrial.design import operating_characteristics, simon, single_arm
from vtrial.errors import InputError
from vtrial.monitoring import one_patient_prior, posterior_probability
from vtrial.two_arm import power, two_arm

RNG = np.random.default_rng(5)
RATES = RNG.beta(2.0, 5.0, 400)
SPREAD = np.abs(RNG.normal(0.4, 0.1, 400))
DRAWS = RateDraws(RATES, SPREAD, 2000)
EXACT = RateDraws(RATES, np.zeros(400), 10**9)


def test_without_a_trial_effect_assurance_averages_the_power_of_the_draws():
    design = simon(0.15, 0.4, 0.05, 0.2)
    each = operating_characteristics(design, RATES)
    found = assurance(design, EXACT)
    assert found.success == pytest.approx(each.success.mean(), abs=1e-10)
    assert found.expected_patients == pytest.approx(each.expected_patients.mean(), abs=1e-10)
    assert found.stop_early == pytest.approx(each.stop_early.mean(), abs=1e-10)
    # its error is interpolated between 501 rates: to 0.1 %
    assert found.error == pytest.approx(each.success.std() / 20.0, rel=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize(("patients", "rate"), [(30, 0.2), (200, 0.5), (200, 0.01)])
def test_the_trial_effect_is_integrated(patients, rate, spread):
    """Responders at one rate and spread, by adaptive quadrature over the trial's logit."""
    found = num_responders(RateDraws(np.array([rate]), np.array([spread]), 10**9), patients)(patients)
    for x in (0, round(patients * rate), round(patients * (rate + 0.1))):
        expected, _ = integrate.quad(
            lambda z, x=x: (
                stats.norm.pdf(z) * stats.binom.pmf(x, patients, special.expit(special.logit(rate) + spread * z))
            ),
            -9.0,
            9.0,
            epsabs=1e-13,
            limit=200,
        )
        assert found[x] == pytest.approx(expected, abs=2e-9)


def test_chance_that_a_trial_exceeds_a_rate():
    draws = RateDraws(np.array([0.1, 0.3]), np.array([0.4, 0.0]), 10**9)
    z = (special.logit(0.1) - special.logit(0.15)) / 0.4
    assert trial_above(draws, 0.15) == pytest.approx(0.5 * stats.norm.cdf(z) + 0.5, abs=1e-12)
    # a rate that is the very figure: above it in half of the trials, never where trials do not differ
    same = RateDraws(np.array([0.15, 0.15]), np.array([0.4, 0.0]), 100)
    assert trial_above(same, 0.15) == pytest.approx(0.25, abs=1e-12)


def test_responders_of_fewer_patients():
    """Leaving patients out one by one gives what fewer patients give outright."""
    long, short = num_responders(DRAWS, 120), num_responders(DRAWS, 17)
    np.testing.assert_allclose(long(17), short(17), atol=1e-12)
    np.testing.assert_allclose([long(n).sum() for n in (0, 1, 60, 120)], 1.0, atol=1e-12)
    # a beta law of rates: the beta-binomial, to the error of a mean of 200,000 quantiles
    quantiles = stats.beta.ppf((np.arange(200_000) + 0.5) / 200_000, 2.0, 5.0)
    grid = RateDraws(quantiles[::10], np.zeros(20_000), 10**9)
    np.testing.assert_allclose(num_responders(grid, 12)(9), stats.betabinom.pmf(np.arange(10), 9, 2.0, 5.0), atol=1e-4)


def test_weights_choose_draws():
    half = np.where(np.arange(400) < 100, 3.0, 0.0)
    design = single_arm([20], [], 6)
    chosen = RateDraws(RATES[:100], SPREAD[:100], 2000)
    weighted = RateDraws(RATES, SPREAD, 2000, half)
    assert assurance(design, weighted).success == pytest.approx(assurance(design, chosen).success, abs=1e-12)


def test_a_rate_of_nobody_counts_half_a_patient():
    rates, weights = trial_rates(RateDraws(np.zeros(3), np.full(3, 0.4), 2000), 50)
    assert (weights.sum(), (rates * weights).sum()) == (pytest.approx(1.0), pytest.approx(0.00025, rel=0.15))


def test_assurance_simulated():
    """A hundred thousand trials: draw, deviation of the trial, patients; within 5 standard errors."""
    design, rng, number = simon(0.1, 0.3, 0.1, 0.1), np.random.default_rng(8), 100_000
    at = rng.integers(0, 400, number)
    rate = special.expit(special.logit(RATES[at]) + SPREAD[at] * rng.standard_normal(number))
    (n1, n), (r1, r) = design.looks, design.futility
    first = rng.binomial(n1, rate)
    wins = (first > r1) & (first + rng.binomial(n - n1, rate) > r)
    assert abs(wins.mean() - assurance(design, DRAWS).success) < 5 * wins.std() / number**0.5


def test_two_arms_share_draws_and_trial():
    """By sampling, and: taken as independent the same arms give another answer, so pairing is what is tested."""
    better = special.expit(special.logit(RATES) + 0.8)
    design = two_arm(40, 40, 0.05)
    found = two_arm_assurance(design, RateDraws(better, SPREAD, 2000), DRAWS)
    rng, number = np.random.default_rng(9), 100_000
    at, z = rng.integers(0, 400, number), rng.standard_normal(number)
    p1, p0 = (special.expit(special.logit(rate[at]) + SPREAD[at] * z) for rate in (better, RATES))
    wins = design.rejects[rng.binomial(40, p1), rng.binomial(40, p0)]
    assert abs(wins.mean() - found.success) < 5 * wins.std() / number**0.5
    alone = power(design, better[:100, None], RATES[None, 100:200]).mean()
    assert abs(alone - found.success) > 0.02
    with pytest.raises(InputError, match="400 draws of one arm and 2 of the other"):
        two_arm_assurance(design, DRAWS, RateDraws(RATES[:2], SPREAD[:2], 2000))


def test_go_think_no_go():
    rule = decision_rule(25, 0.15, 0.4, confidence=0.95, relevance=0.5)
    x, prior = np.arange(26), one_patient_prior(0.15)
    sure = posterior_probability(x, 25, 0.15, prior) >= 0.95
    likely = posterior_probability(x, 25, 0.4, prior) >= 0.5
    np.testing.assert_array_equal(x >= rule.go, sure & likely)
    np.testing.assert_array_equal(x <= rule.no_go, ~sure & ~likely)
    parts = decision_probabilities(rule, stats.binom.pmf(x, 25, np.array([0.1, 0.3, 0.6])[:, None]))
    np.testing.assert_allclose(sum(parts), 1.0, atol=1e-12)
    assert parts[0][0] < parts[0][1] < parts[0][2] and parts[2][0] > parts[2][1] > parts[2][2]


def test_sample_size_is_the_smallest():
    found = sample_size(DRAWS, 0.15, 0.05, 0.5)
    assert found.num_patients is not None

    def one(n):
        needed = min(r for r in range(n + 2) if stats.binom.sf(r - 1, n, 0.15) <= 0.05)
        return assurance(single_arm([n], [], needed), DRAWS).success

    assert one(found.num_patients) >= 0.5
    assert all(one(n) < 0.5 for n in range(1, found.num_patients))
    assert found.num_patients is not None and found.largest < found.limit == trial_above(DRAWS, 0.15)
    assert sample_size(DRAWS, 0.15, 0.05, 0.99).num_patients is None
    with pytest.raises(InputError, match="assurance: must lie between 0 and 1"):
        sample_size(DRAWS, 0.15, 0.05, 1.0)
