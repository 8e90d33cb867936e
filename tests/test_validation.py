from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vtrial import validation
from vtrial.medians import Curve
from vtrial.priors import Priors, load_priors
from vtrial.published import DAYS, SimulatedArms
from vtrial.report.validation_page import validation_page
from vtrial.scorecard import answer
from vtrial.validation import Settings, coverage, summary, validate

SIZE = 120


def made_up(key, arms, draws, priors, aliases, num_patients, progress, *, independent_action=True) -> SimulatedArms:
    """Rates that hang on the arm alone, in place of the trial: what is tested is who sees which count."""
    rng = {arm.id: np.random.default_rng(arm.id) for arm in arms}
    rate = {arm.id: rng[arm.id].beta(1.0, 4.0, SIZE) for arm in arms}
    null = {arm.id: 0.9 * rate[arm.id] for arm in arms if len(arm.drugs) > 1} if independent_action else {}
    origin = {arm.id: f"a drug: fitted in {arm.tumour_type}" for arm in arms}
    patients = {arm.id: num_patients for arm in arms}
    late = {arm.id: rng[arm.id].beta(4.0, 4.0, SIZE)[:, None] ** (DAYS / 100.0) for arm in arms}
    progression = {i: Curve(free, np.full(SIZE, float(num_patients))) for i, free in late.items()}
    response = {arm.id: Curve(late[arm.id] ** 2, num_patients * rate[arm.id]) for arm in arms}
    return SimulatedArms(rate, null, origin, patients, progression, response)


class NoRegression:
    """In place of the regression: it keeps what it was shown."""

    shown: list[set[int]]

    def __init__(self, key, teachers, names, between_trials):
        self.teachers = {t.id: t.responders for t in teachers}

    def logit(self, arm, left_out):
        seen = [self.teachers[i] for i in sorted(set(self.teachers) - set(left_out))]
        return np.full(SIZE, -2.0) + 1e-3 * sum(seen)


@pytest.fixture
def scores(monkeypatch):
    monkeypatch.setattr(validation, "simulate_arms", made_up)
    monkeypatch.setattr(validation, "MetaAnalysis", NoRegression)

    def run(priors: Priors) -> pd.DataFrame:
        draws = SimpleNamespace(size=SIZE)
        return validate(draws, priors, {}, Settings(SIZE, 2000), lambda *_: None).scores.set_index("id")  # pyright: ignore

    return run


@pytest.fixture
def taught_by_all(monkeypatch):
    """Scores and medians where trials teach with every endpoint."""
    monkeypatch.setattr(validation, "simulate_arms", made_up)
    monkeypatch.setattr(validation, "MetaAnalysis", NoRegression)

    def run(priors: Priors) -> validation.Validation:
        settings = Settings(SIZE, 2000, endpoints=validation.ENDPOINTS)
        return validate(SimpleNamespace(size=SIZE), priors, {}, settings, lambda *_: None)  # pyright: ignore

    return run


def changed(priors: Priors, trial: str) -> Priors:
    """Every count of a trial turned round."""
    arms = tuple(
        arm.model_copy(update={"num_responders": arm.num_patients - arm.num_responders}) if arm.trial == trial else arm
        for arm in priors.trials
    )
    return with_arms(priors, arms)


def with_arms(priors: Priors, arms) -> Priors:
    return Priors(priors.entries, priors.drugs, arms, priors.files, priors.changes, priors.sha256, priors._drug_names)


@pytest.mark.parametrize("trial", ["NEMO", "RAMP 201", "MPACT"])
def test_no_prediction_sees_its_own_trial_and_the_others_do(scores, trial: str) -> None:
    """Other counts in a trial leave its predictions bitwise as they were, and move that of another of its drugs."""
    priors = load_priors()
    before, after = scores(priors), scores(changed(priors, trial))
    own = before["trial"] == trial
    columns = ["pred_mean", "pred_q05", "pred_q95", "ess"]
    pd.testing.assert_frame_equal(before.loc[own, columns], after.loc[own, columns])
    teachers = [arm.id for arm in priors.trials if arm.trial == trial and validation.teaches(arm)]
    if teachers:
        assert (before.loc[~own, "pred_mean"] != after.loc[~own, "pred_mean"]).any()


def test_medians_of_a_trial_teach_the_others_and_not_itself(scores, taught_by_all) -> None:
    """Other medians of NEMO: its rows stay bitwise, another arm of its drug moves; without medians nothing does."""
    priors = load_priors()
    update = {"median_pfs_months": 9.0, "median_pfs_interval": None, "median_ttr_months": 4.0}
    other = with_arms(priors, tuple(a.model_copy(update=update) if a.trial == "NEMO" else a for a in priors.trials))
    before, after = taught_by_all(priors), taught_by_all(other)
    own = before.scores["trial"] == "NEMO"
    columns = ["pred_mean", "pred_q05", "pred_q95", "ess"]
    pd.testing.assert_frame_equal(before.scores.loc[own, columns], after.scores.loc[own, columns])
    same_drug = before.scores["id"] == 72
    assert (before.scores.loc[same_drug, "pred_mean"] != after.scores.loc[same_drug, "pred_mean"]).all()
    pd.testing.assert_series_equal(scores(priors)["pred_mean"], scores(other)["pred_mean"])
    # what is compared with is the other set: responders alone
    alone = scores(priors)
    np.testing.assert_array_equal(before.scores["crps_other_endpoints"], alone["crps"])
    np.testing.assert_array_equal(alone["crps_other_endpoints"], before.scores["crps"])


def test_every_published_median_is_scored_under_both(taught_by_all) -> None:
    priors = load_priors()
    medians = taught_by_all(priors).medians
    arms = [arm for arm in priors.trials if arm.drugs]
    published = sum((a.median_pfs_months is not None) + (a.median_ttr_months is not None) for a in arms)
    assert medians.groupby("learnt_from").size().to_dict() == {"orr": published, "orr + pfs + ttr": published}
    assert (medians["pred_q05"] <= medians["pred_q50"]).all() and (medians["pred_q50"] <= medians["pred_q95"]).all()
    within = medians["published_months"].between(medians["pred_q05"], medians["pred_q95"])
    reached = medians["published_months"] < 504 / 30.4
    # ends are found to 0.01 days
    near = (medians["published_months"] - medians["pred_q05"]).abs() < 1e-3
    near |= (medians["published_months"] - medians["pred_q95"]).abs() < 1e-3
    pd.testing.assert_series_equal(
        within[reached & ~near], medians["inside"][reached & ~near].astype(bool), check_names=False
    )


def test_combinations_and_recalled_arms_teach_nothing(scores) -> None:
    priors = load_priors()
    found = scores(priors)
    arms = {arm.id: arm for arm in priors.trials}
    for i, role in found["role"].items():
        assert role == ("calibration" if len(arms[i].drugs) == 1 and arms[i].certainty != "recalled" else "held_out")
    before, after = found, scores(changed(priors, "BELLE-4"))
    pd.testing.assert_series_equal(before["pred_mean"], after["pred_mean"])
    assert (
        found["crps_independent_action"]
        .notna()
        .equals(found.index.map(lambda i: len(arms[i].drugs) > 1).to_series(index=found.index))
    )


def test_summary_coverage_and_page(scores, taught_by_all) -> None:
    """Misses counted by hand from the table; a whole does not stand beside its parts; names are escaped."""
    medians = taught_by_all(load_priors()).medians
    table = scores(load_priors()).reset_index()
    rate = table["num_responders"] / table["num_patients"]
    table.loc[0, "trial"] = "<script>alert(1)</script>"
    found = coverage(table)
    outside = (rate < table["pred_q05"] - 1e-9) | (rate > table["pred_q95"] + 1e-9)
    assert found["misses"] == int(outside[table["counted"]].sum())
    assert found["arms"] == len(table) - 1
    means = summary(table, seed=1)
    row = means[(means["arms_of"] == "all arms") & (means["against"] == "meta")].iloc[0]
    counted = table[table["counted"]]
    assert row["difference"] == pytest.approx((counted["crps"] - counted["crps_meta"]).mean())
    page = validation_page(
        table,
        pd.DataFrame({"id": [7], "reason": ["mixed & endocrine"]}),
        means,
        medians,
        answer=answer(means, found),
        marks=["SYNTHETIC MICE"],
        command="vtrial validate --out DIR",
        date="2026-01-01",
        mice="a test",
    )
    assert "<script>" not in page
    assert "GOG 281" in page[page.index("<h2>Medians") :]
    assert "mixed &amp; endocrine" in page
    assert "90 % intervals miss" in page
