"""Combination index and scores: closed forms of exponential growth, other numbers of drugs, and what is capped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vtrial.combination_index import (
    LARGEST_INDEX,
    Index,
    StudyCurves,
    best_single,
    combination_index,
    excess,
    summarise_index,
)

STEP = 0.25
DAY = np.arange(0.0, 28.0 + STEP, STEP)
CONTROL, SINGLES, COMBINATION = 0.12, (0.05, 0.08), -0.02


def exponential(control, singles, combination) -> StudyCurves:
    """Curves of constant rates (1/day), each [D] or a number."""
    rates = np.broadcast_arrays(*np.atleast_1d(control, *singles, combination))
    control, *singles, combination = (np.outer(rate, DAY) for rate in rates)
    return StudyCurves(DAY, control, np.stack(singles, axis=1), combination)


def area(rate: float) -> np.ndarray:
    """Integral of exp(rate t) from 0 to every day."""
    return np.expm1(rate * DAY) / rate


def simpson_error(*rates: float) -> np.ndarray:
    """Bound of the areas below exp(rate t) together: an interval left over is off by 1/24 step^4 third derivative."""
    return sum((abs(rate) * STEP) ** 3 * STEP / 12 * np.exp(np.maximum(rate, 0) * DAY) for rate in rates) + 1e-12


def test_two_drugs_by_hand():
    curves = exponential(CONTROL, SINGLES, COMBINATION)
    bliss = np.exp((COMBINATION - (SINGLES[0] + SINGLES[1] - CONTROL)) * DAY)
    np.testing.assert_allclose(combination_index(curves, "bliss").ratio[0], bliss, rtol=1e-12)
    hsa = np.exp((COMBINATION - SINGLES[0]) * DAY)
    np.testing.assert_allclose(combination_index(curves, "hsa").ratio[0], hsa, rtol=1e-12)
    found, first = combination_index(curves, "ra"), DAY <= 10  # later the expected area falls below 0
    expected = area(SINGLES[0]) + area(SINGLES[1]) - area(CONTROL)
    assert (expected[first][1:] > 0).all()
    off = simpson_error(CONTROL, *SINGLES, COMBINATION)
    assert (np.abs(found.difference[0] - (area(COMBINATION) - expected)) <= off)[first].all()
    ratio = area(COMBINATION)[first][1:] / expected[first][1:]
    assert (np.abs(found.ratio[0, first][1:] - ratio) <= 2 * (1 + ratio) * off[first][1:] / expected[first][1:]).all()


def test_three_drugs_take_the_control_twice():
    singles = (0.05, 0.08, 0.10)
    curves = exponential(CONTROL, singles, COMBINATION)
    bliss = np.exp((COMBINATION - (sum(singles) - 2 * CONTROL)) * DAY)
    np.testing.assert_allclose(combination_index(curves, "bliss").ratio[0], bliss, rtol=1e-12)
    expected = sum(area(rate) for rate in singles) - 2 * area(CONTROL)
    difference = combination_index(curves, "ra").difference[0]
    first = (DAY <= 10) & (expected > 0)
    off = simpson_error(CONTROL, CONTROL, *singles, COMBINATION)
    assert first.sum() > 20 and (np.abs(difference - (area(COMBINATION) - expected)) <= off)[first].all()


def test_drugs_that_do_nothing_together_have_index_one_and_score_zero():
    draws = np.random.default_rng(1).normal(0.05, 0.01, 500)
    same = exponential(draws, (draws, draws), draws)
    for reference in ("bliss", "hsa", "ra"):
        found = combination_index(same, reference)
        np.testing.assert_allclose(found.ratio, 1.0, rtol=1e-9)


def test_the_best_single_is_one_for_all_draws():
    """As in SynergyLMM: a minimum in every draw would be lower than either drug and call additivity antagonism."""
    curves = exponential(0.1, ([0.02, 0.09], [0.06, 0.06]), [0.0, 0.0])
    assert best_single(curves) == 0
    np.testing.assert_allclose(combination_index(curves, "hsa").difference[:, -1], [-0.02 * 28, -0.09 * 28])


def test_score_and_probability_are_those_of_a_normal_estimate():
    """With normal draws the score is estimate over standard error, as SynergyLMM has it, on every day alike."""
    size, estimate, error = 4000, -0.03, 0.015
    draws = estimate + error * stats.norm.ppf((np.arange(size) + 0.5) / size)  # quantiles: no chance in it
    found = summarise_index(combination_index(exponential(0.1, (0.1, 0.1), 0.1 + draws), "bliss"), level=0.95)
    days = slice(1, None)
    # the SD of 4,000 quantiles is short of 1 by 3e-4
    np.testing.assert_allclose(found.score[days], 2.0, rtol=1e-3)
    np.testing.assert_allclose(found.score_low[days], 2.0 - 1.96, atol=3e-3)
    np.testing.assert_allclose(found.score_high[days], 2.0 + 1.96, atol=3e-3)
    np.testing.assert_allclose(found.synergy[days], stats.norm.cdf(2.0), atol=1 / size)
    np.testing.assert_allclose(found.ratio, np.exp(estimate * DAY), rtol=1e-6)
    np.testing.assert_allclose(found.ratio_high, np.exp((estimate + 1.96 * error) * DAY), rtol=2e-3)
    assert np.isnan(found.score[0]) and found.ratio[0] == 1.0


def test_an_expected_area_below_zero_counts_as_zero():
    """Both drugs halve a fast growth: additivity of volumes expects less than nothing late."""
    curves = exponential(0.2, (0.1, 0.1), 0.0)
    found = combination_index(curves, "ra")
    assert found.ratio[0, -1] == LARGEST_INDEX
    assert found.difference[0, -1] == pytest.approx(28.0)  # the area of the combination alone: exp(0) over 28 days
    assert found.ratio[0, 0] == 1.0
    # as the drugs let more grow, the expected area passes 0 from below: ratios fall from the cap, none lies beyond it
    rates = np.linspace(0.1, 0.2, 4001)
    ratios = combination_index(exponential(0.2, (rates, rates), 0.2), "ra").ratio[:, -1]
    assert ratios.max() == LARGEST_INDEX and (np.diff(ratios) <= 0.0).all() and ratios[-1] == pytest.approx(1.0)
    assert ((ratios < LARGEST_INDEX) & (ratios > 50.0)).any()  # the change from the cap is seen


def test_excess_by_hand():
    curves = exponential(CONTROL, SINGLES, COMBINATION)
    survival = [np.exp((rate - CONTROL) * 28.0) for rate in (*SINGLES, COMBINATION)]
    bliss = 100 * (survival[0] * survival[1] - survival[2])
    assert excess(curves, "bliss")[0, -1] == pytest.approx(bliss)
    assert excess(curves, "hsa")[0, -1] == pytest.approx(100 * (survival[0] - survival[2]))


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="must be one of bliss, hsa, ra, found 'loewe'"):
        combination_index(exponential(CONTROL, SINGLES, COMBINATION), "loewe")  # type: ignore[arg-type]


def test_more_synergy_is_a_lower_index_and_a_higher_score():
    rng = np.random.default_rng(2)
    less, more = (exponential(0.1, (0.05, 0.05), rate + rng.normal(0, 0.01, 300)) for rate in (-0.01, -0.04))
    for reference in ("bliss", "hsa"):
        a, b = (summarise_index(combination_index(curves, reference), 0.9) for curves in (less, more))
        assert (b.ratio[1:] < a.ratio[1:]).all() and (b.score[1:] > a.score[1:]).all()


def test_a_summary_of_equal_draws_has_no_score():
    found = summarise_index(Index(np.full((50, 2), 0.5), np.full((50, 2), -0.5)), 0.95)
    assert np.isnan(found.score).all() and (found.ratio == 0.5).all() and (found.synergy == 1.0).all()
