"""Scores of predicted responses: by hand, and an interval that covers what it should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vtrial.pair_scores import FLOOR, interval_score, log_score, pair_scores, rate_of_others, rule_scores


def test_interval_score_by_hand():
    """Width 0.2; 0.1 below costs 20 x 0.1 more, 0.05 above 20 x 0.05 more."""
    found = interval_score([0.2, 0.2, 0.2], [0.4, 0.4, 0.4], [0.3, 0.1, 0.45])
    np.testing.assert_allclose(found, [0.2, 2.2, 1.2])


def test_log_score_by_hand():
    np.testing.assert_allclose(log_score([0.8, 0.8], [True, False]), [-np.log(0.8), -np.log(0.2)])
    np.testing.assert_allclose(log_score([0.0, 1.0], [True, False]), -np.log(FLOOR))


OBSERVED = pd.DataFrame(
    {
        "tumour_type": ["T"] * 6,
        "pdx_model": ["M1", "M1", "M2", "M3", "M1", "M2"],
        "arm": ["A", "A", "A", "A", "B", "B"],
        "responds": [True, False, True, False, False, False],
    }
)


def test_rate_of_other_models_by_hand():
    """The mice of the model itself do not count, however many it has; half a mouse of each kind is added."""
    expected = [1.5 / 3, 1.5 / 3, 1.5 / 4, 2.5 / 4, 0.5 / 2, 0.5 / 2]
    np.testing.assert_allclose(rate_of_others(OBSERVED), expected)


def test_rate_of_models_of_other_folds_by_hand():
    """M2 was left out with M1: neither counts for the other, and both for M3."""
    fold = {"M1": "one", "M2": "one", "M3": "two"}
    expected = [0.5 / 2, 0.5 / 2, 0.5 / 2, 2.5 / 4, 0.5 / 1, 0.5 / 1]
    np.testing.assert_allclose(rate_of_others(OBSERVED, fold), expected)
    arms, pairs = tables([0.6, 0.5, 0.4, 0.3, 0.2])
    found = pair_scores(arms, pairs, OBSERVED, fold).set_index("score")
    null = log_score(expected, OBSERVED["responds"]).mean()
    assert found.loc["log_score_rate_of_fitted_models", "value"] == pytest.approx(null)
    difference = found.loc["log_score_difference_fitted_models"]
    assert difference["value"] == pytest.approx(found.loc["log_score", "value"] - null)
    assert difference["low"] <= difference["value"] <= difference["high"]
    plain = pair_scores(arms, pairs, OBSERVED).set_index("score")
    assert plain.equals(found.loc[plain.index]) and len(found) == len(plain) + 2


def tables(probability) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = ["tumour_type", "pdx_model", "arm"]
    pairs = OBSERVED[keys].drop_duplicates().assign(probability=probability, in_sample=False)
    arms = pd.DataFrame({"tumour_type": ["T", "T"], "arm": ["A", "B"], "num_models": [3, 2]})
    return arms.assign(mean=[0.5, 0.2], q05=[0.3, 0.1], q95=[0.7, 0.4], in_sample=False), pairs


def test_table_of_scores_by_hand():
    arms, pairs = tables([0.6, 0.5, 0.4, 0.3, 0.2])
    found = pair_scores(arms, pairs, OBSERVED).set_index("score")["value"]
    assert found["arms"] == 2 and found["pairs"] == 6 and found["misses"] == 1
    assert found["mean_absolute_error"] == pytest.approx((0.0 + 0.2) / 2)
    assert found["mean_error"] == pytest.approx(0.1)
    assert found["interval_score"] == pytest.approx((0.4 + 0.3 + 20 * 0.1) / 2)
    p = [0.6, 1 - 0.6, 0.5, 1 - 0.4, 1 - 0.3, 1 - 0.2]
    assert found["log_score"] == pytest.approx(-np.mean(np.log(p)))


def test_difference_from_the_null_covers_zero_for_equals_and_not_for_a_seer():
    generator = np.random.default_rng(3)
    number = 200
    responds = generator.random(number) < 0.3
    models = [f"M{i}" for i in range(number)]
    observed = pd.DataFrame({"tumour_type": "T", "pdx_model": models, "arm": "A", "responds": responds})
    arms = pd.DataFrame([("T", "A", number, 0.3, 0.2, 0.4, False)], columns=list(tables([0] * 5)[0].columns))

    def difference(probability):
        pairs = observed.drop(columns="responds").assign(probability=probability)
        return pair_scores(arms, pairs, observed).set_index("score").loc["log_score_difference"]

    same = difference(rate_of_others(observed))
    assert same["value"] == pytest.approx(0.0, abs=1e-12) and same["low"] <= 0.0 <= same["high"]
    seer = difference(np.where(responds, 0.9, 0.1))
    assert seer["value"] < seer["high"] < 0.0


def test_rules_side_by_side_by_hand():
    """Every rule has its own scores; the difference is to the first, mouse by mouse, and of the first itself 0."""
    first, second = tables([0.6, 0.5, 0.4, 0.3, 0.2]), tables([0.5] * 5)
    found = rule_scores({"fitted": first, "coin": second}, OBSERVED).set_index("rule")
    for rule, (arms, pairs) in {"fitted": first, "coin": second}.items():
        own = pair_scores(arms, pairs, OBSERVED).set_index("score")["value"]
        for name in ("mean_absolute_error", "mean_error", "misses", "interval_score", "log_score"):
            assert found.loc[rule, name] == own[name]
    assert found.loc["coin", "log_score"] == pytest.approx(np.log(2))
    gain = found.loc["fitted", "log_score"] - np.log(2)
    coin = found.loc["coin"]
    assert coin["log_score_difference"] == pytest.approx(gain) and coin["low"] < gain < coin["high"]
    # whole PDX models are drawn, three of them: the largest and smallest resample is one model alone
    p = [np.log(2 * 0.6), np.log(2 * 0.4), np.log(2 * 0.5), np.log(2 * 0.6), np.log(2 * 0.7), np.log(2 * 0.8)]
    of_model = [-np.mean([p[0], p[1], p[4]]), -np.mean([p[2], p[5]]), -p[3]]
    assert min(of_model) <= coin["low"] and coin["high"] <= max(of_model) + 1e-12
    assert found.loc["fitted", ["log_score_difference", "low", "high"]].tolist() == [0.0, 0.0, 0.0]
