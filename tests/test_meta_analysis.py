import jax
import numpy as np
import pytest

from vtrial.meta_analysis import MetaAnalysis, MetaArm

NONE = np.zeros(10)


def arm(i: int, trial: str, drugs: dict[str, str], responders: int, patients: int) -> MetaArm:
    return MetaArm(i, trial, "CM", drugs, responders, patients, NONE)


@pytest.fixture(scope="module")
def regression() -> MetaAnalysis:
    teachers = [
        arm(1, "A", {"x": "X"}, 40, 100),
        arm(2, "B", {"x": "X"}, 38, 100),
        arm(3, "C", {"y": "Y"}, 4, 100),
        arm(4, "D", {"y": "Y"}, 6, 100),
    ]
    names = {"drug": ["x", "y", "z"], "drug_class": ["X", "Y"], "tumour_type": ["CM", "GC"]}
    return MetaAnalysis(jax.random.key(0), teachers, names, 0.4)


def rate(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def test_drugs_are_told_apart_and_one_without_data_is_wide(regression) -> None:
    strong = rate(regression.logit(arm(9, "E", {"x": "X"}, 0, 1), [9]))
    weak = rate(regression.logit(arm(9, "E", {"y": "Y"}, 0, 1), [9]))
    new = rate(regression.logit(arm(9, "E", {"z": "Y"}, 0, 1), [9]))
    assert np.mean(strong > weak) > 0.95
    assert abs(strong.mean() - 0.39) < 0.1  # two trials of 100 each, between-trial SD 0.4 on the logit
    assert new.std() > weak.std()


def test_a_combination_responds_if_to_any_drug(regression) -> None:
    both = rate(regression.logit(arm(9, "E", {"x": "X", "y": "Y"}, 0, 1), [9]))
    x = rate(regression.logit(arm(9, "E", {"x": "X"}, 0, 1), [9]))
    y = rate(regression.logit(arm(9, "E", {"y": "Y"}, 0, 1), [9]))
    np.testing.assert_allclose(both, 1 - (1 - x) * (1 - y), rtol=1e-4)


def test_what_is_left_out_is_not_seen(regression) -> None:
    """Without its two trials drug x is a new drug: less sure, and lower than with them."""
    asked = arm(1, "A", {"x": "X"}, 40, 100)
    with_it, without = rate(regression.logit(asked, [])), rate(regression.logit(asked, [1, 2]))
    assert without.std() > with_it.std()
    assert without.mean() < with_it.mean()
