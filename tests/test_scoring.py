import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import binom, norm

from vtrial.scoring import log_likelihood, logit_rate, most_misses, paired_difference, predictive, score


def test_likelihood_integrates_the_deviation_of_one_trial_independent_derivation() -> None:
    """Against adaptive quadrature; the integrand is smooth, so 15 nodes are exact to far below 1e-6 relative."""
    logit, spread = np.array([-2.0, 0.3]), np.array([0.4, 0.25])
    for k in range(2):
        exact, _ = quad(
            lambda v, k=k: binom.pmf(7, 30, expit(logit[k] + v)) * norm.pdf(v, scale=spread[k]), -5.0, 5.0, epsabs=1e-14
        )
        assert np.exp(log_likelihood(logit, spread, 7, 30))[k] == pytest.approx(exact, rel=1e-6)


def test_without_spread_the_predictive_is_the_binomial() -> None:
    found = predictive(np.array([-1.0]), np.array([0.0]), np.array([1.0]), 20)
    np.testing.assert_allclose(found, binom.pmf(np.arange(21), 20, expit(-1.0)), rtol=1e-10)


def test_predictive_weighs_the_draws() -> None:
    """Mean of the counts = weighted mean of the rates, exactly: the cells of the grid keep their mean."""
    logit, weight = np.array([-2.0, 0.0, 1.0]), np.array([0.2, 0.5, 0.3])
    found = predictive(logit, np.zeros(3), weight, 50)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.arange(51) @ found / 50 == pytest.approx(weight @ expit(logit), rel=1e-12)


def test_score_by_hand() -> None:
    """Two patients, P = (1/2, 1/4, 1/4), one responder: F - step = 1/2, -1/4 -> (1/4 + 1/16) / 2."""
    found = score(np.array([0.5, 0.25, 0.25]), 1)
    assert found.crps == pytest.approx((0.25 + 0.0625) / 2)
    assert found.mid_p == pytest.approx(0.5 + 0.125)
    assert found.mean == pytest.approx(0.375)
    assert (found.q05, found.q95) == (0.0, 1.0)


def test_crps_is_the_mean_distance_less_half_the_mean_spread_independent_derivation() -> None:
    """E|X - n| - E|X - X'| / 2 (Gneiting and Raftery 2007, equation 21), in units of the rate."""
    p = binom.pmf(np.arange(13), 12, 0.3)
    k = np.arange(13)
    for n in (0, 4, 12):
        direct = p @ np.abs(k - n) - 0.5 * p @ np.abs(k[:, None] - k[None, :]) @ p
        assert score(p, n).crps == pytest.approx(direct / 12, rel=1e-12)


def test_mid_p_is_a_half_on_average_and_intervals_hold_what_they_say() -> None:
    p = predictive(np.array([-2.0, -0.5]), np.array([0.4, 0.4]), np.array([0.5, 0.5]), 40)
    scores = [score(p, n) for n in range(41)]
    assert p @ [s.mid_p for s in scores] == pytest.approx(0.5, abs=1e-12)
    low, high = round(40 * scores[0].q05), round(40 * scores[0].q95)
    assert p[low : high + 1].sum() >= 0.9


def test_a_rate_of_none_has_a_logit() -> None:
    assert logit_rate(np.array([0.0, 0.5]), 100) == pytest.approx([np.log(0.005 / 0.995), 0.0])


def test_misses_that_chance_allows() -> None:
    """Binomial(30, 0.1): P(<= 6) = 0.974, P(<= 7) = 0.992."""
    assert most_misses(30) == 7


def test_differences_are_resampled_by_trial() -> None:
    """A trial of many equal arms counts as one: twelve copies of one trial leave an interval as wide as two trials."""
    trial = np.array(["A"] * 12 + ["B"])
    found = paired_difference(np.array([1.0] * 12 + [0.0]), trial, seed=1)
    assert found.mean == pytest.approx(12 / 13)
    assert (found.low, found.high) == (0.0, 1.0)
    assert (found.arms, found.trials) == (13, 2)
    assert np.isnan(paired_difference(np.array([1.0, np.nan]), np.array(["A", "B"]), seed=1).low)
