"""Coordinates of the residual scales of mice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import polygamma

from vtrial.residual_scales import ARMS, TYPES, ScaleCoordinate, ln_sigma, prior_of_z, scale_coordinates

MU, OMEGA = -1.3, 0.4


@pytest.mark.parametrize("centred", [0.0, 0.3, 1.0])
def test_the_coordinate_does_not_change_the_distribution(centred):
    """The density of z over d ln sigma / dz is the normal density of ln sigma."""
    of = ScaleCoordinate(np.full(7, centred), np.asarray(0.6))
    z = np.linspace(-3.0, 3.0, 7)
    found = ln_sigma(of, MU, OMEGA, z)
    slope = np.diff(found) / np.diff(z)
    np.testing.assert_allclose(slope, slope[0], rtol=1e-12)
    density = stats.norm.pdf(z, *prior_of_z(of, MU, OMEGA)) / slope[0]
    np.testing.assert_allclose(density, stats.norm.pdf(found, MU, OMEGA), rtol=1e-12)


def test_a_curve_that_knows_nothing_has_units_of_the_spread_and_one_that_knows_all_itself():
    of = ScaleCoordinate(np.array([0.0, 1.0]), np.ones(()))
    np.testing.assert_allclose(ln_sigma(of, MU, OMEGA, np.array([2.0, 2.0])), [MU + 2.0 * OMEGA, 2.0], rtol=1e-14)


def test_coordinate_and_mean_are_uncorrelated_given_the_curves():
    """Normal algebra: mu ~ N(0, 1), x_i ~ N(mu, omega^2), seen with variance v_i; the posterior of (mu, x)."""
    variance = np.array([0.02, 0.1, 0.5])
    precision = np.diag(np.r_[1.0 + 3 / OMEGA**2, 1 / OMEGA**2 + 1 / variance])
    precision[0, 1:] = precision[1:, 0] = -1 / OMEGA**2
    covariance = np.linalg.inv(precision)
    of = ScaleCoordinate(OMEGA**2 / (OMEGA**2 + variance), np.asarray(OMEGA))
    # z is linear in (mu, x), which is ln sigma at z = 0 and at z = 1 turned around
    of_mu = -(ln_sigma(of, 1.0, OMEGA, 0.0) - ln_sigma(of, 0.0, OMEGA, 0.0))
    of_x = ln_sigma(of, 0.0, OMEGA, 1.0)
    between = (of_mu * covariance[0, 0] + covariance[0, 1:]) / of_x
    np.testing.assert_allclose(between, 0.0, atol=1e-14)
    assert np.abs(covariance[0, 1:]).min() > 1e-3


def panel_of(counts: tuple[int, int, int], freedom: np.ndarray, spread: tuple[float, float, float]):
    """Squares, freedoms and levels of types, arms a type and mice an arm (counts), with their SDs (spread)."""
    rng, (types, arms, mice) = np.random.default_rng(4), counts
    arm_type_type = np.repeat(np.arange(types), arms)
    arm_type = np.repeat(np.arange(types * arms), mice)
    of_arm = (MU + spread[0] * rng.normal(size=types))[arm_type_type] + spread[1] * rng.normal(size=types * arms)
    ln_scale = of_arm[arm_type] + spread[2] * rng.normal(size=len(arm_type))
    freedom = np.resize(freedom, len(arm_type))
    return np.exp(2 * ln_scale) * rng.chisquare(np.maximum(freedom, 1.0)), freedom, arm_type, arm_type_type


def test_the_spread_is_that_of_the_mice():
    """Within five standard errors; each logarithm varies by the spread of mice and by that of its chi-square."""
    squares, freedom, *groups = panel_of((1, 1, 8000), np.array([1.0, 4.0, 9.0, 0.0]), (0.0, 0.0, OMEGA))
    of = scale_coordinates(squares, freedom, *groups).mouse
    # the estimator is a mean of squared deviations, weighted by the chance of a curve alone; its error from the second
    # and fourth cumulants, those of the logarithm of a chi-square being polygamma functions
    half = freedom[freedom > 0] / 2.0
    chance, fourth = polygamma(1, half) / 4.0, polygamma(3, half) / 16.0
    error = np.sqrt(np.sum((fourth + 2.0 * np.square(OMEGA**2 + chance)) / chance**2)) / np.sum(1.0 / chance)
    # of the chi-square that chance alone gives, its 95 % point is taken off in the place of its mean
    lower = (stats.chi2.ppf(0.95, len(half) - 1) - (len(half) - 1)) / np.sum(1.0 / chance)
    assert abs(of.spread**2 + lower - OMEGA**2) < 5 * error
    assert np.all(of.centred[freedom == 0] == 0.0)
    mean = [of.centred[freedom == number].mean() for number in (1, 4, 9)]
    assert 0.0 < mean[0] < mean[1] < mean[2] < 1.0


def test_every_level_has_its_own_spread():
    """Many types, arms and mice: w^2 of each within five of its sampling errors, less what is taken off for mice."""
    spread = (0.5, 0.3, OMEGA)
    of = scale_coordinates(*panel_of((300, 20, 10), np.array([8.0]), spread))
    chance = polygamma(1, 4) / 4
    of_arm = (OMEGA**2 + chance) / 10
    of_type = (0.3**2 + of_arm) / 20
    found = (of.tumour_type, of.arm_type, of.mouse)
    rows = zip(found, spread, (of_type, of_arm, chance), (299, 300 * 19, 6000 * 9), strict=True)
    for level, known, own, freedom in rows:
        off = own * (stats.chi2.ppf(0.95, freedom) / freedom - 1.0) if level is of.mouse else 0.0
        assert abs(level.spread**2 + off - known**2) < 5 * np.sqrt(2.0 / freedom) * (known**2 + own), known
        assert np.allclose(1.0 - level.centred, own / (level.spread**2 + own), rtol=0.1)


def test_arms_that_are_alike_have_units_of_their_spread_and_a_lone_type_that_of_its_prior():
    of = scale_coordinates(*panel_of((1, 100, 40), np.array([8.0]), (0.0, 0.0, OMEGA)))
    assert of.arm_type.spread < 0.1 and of.arm_type.centred.max() < 0.5
    assert of.tumour_type.spread == TYPES and of.tumour_type.centred > 0.9
    few = scale_coordinates(*panel_of((1, 1, 2), np.array([1.0]), (0.0, 0.0, 0.0)))
    assert few.arm_type.spread == ARMS and few.arm_type.centred < 0.1 and few.tumour_type.centred < 0.1


@pytest.mark.parametrize("freedom", [np.zeros(3), np.array([2.0, 0.0, 0.0]), np.array([6.0, 6.0, 6.0])])
def test_mice_that_differ_by_no_more_than_chance_have_units_of_the_spread(freedom):
    for arm_type, arm_type_type in (([0, 0, 0], [0]), ([0, 0, 1], [0, 0]), ([0, 1, 2], [0, 1, 1])):
        of = scale_coordinates(freedom * 0.1, freedom, np.array(arm_type), np.array(arm_type_type))
        assert of.mouse.spread == 1.0 and not of.mouse.centred.any()
        # an arm without a curve that says anything is known by its type alone
        assert np.all((of.arm_type.centred > 0.0) == (np.bincount(arm_type, freedom) > 0))
