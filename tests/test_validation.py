from collections.abc import Callable, Iterator

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import binom, norm

from vtrial import published, taught, validation
from vtrial.calibration import Grid
from vtrial.errors import InputError
from vtrial.medians import Curve
from vtrial.mouse_prior import PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors, load_priors
from vtrial.published import DAYS
from vtrial.published_endpoints import published_median
from vtrial.report.validation_page import validation_page
from vtrial.scorecard import answer
from vtrial.scoring import log_likelihood
from vtrial.surfaces import LN_KILL_SCALE, LN_LOSS_OF_EFFECT, Surface
from vtrial.taught import Settings
from vtrial.translation import drug_terms
from vtrial.validation import coverage, summary, validate

MICE, COPIES = 3, 4
SIZE = MICE * COPIES
#: two trials of every kind that matters: a drug in two types, a class of two drugs, a combination, counts from memory
CHOSEN = ("NEMO", "RAMP 201", "MPACT", "MILO", "Ascierto 2013", "COLUMBUS", "METRIC", "GEST", "BELLE-4", "Doi 2010")


def kill_scale(sampler: PriorSampler, priors: Priors, drug: str, tumour_type: str) -> np.ndarray:
    terms = drug_terms(priors.drug(drug).name, priors.drug_class(drug), sampler)
    within = sampler.entry("translation.drug_type_discrepancy")
    return terms.ln_kill_scale + within * sampler.normal(f"discrepancy {priors.drug(drug).name} in {tumour_type}")


def made_up(
    key, arms, draws, sampler, priors, aliases, num_patients, *, independent_action=True
) -> published.SimulatedArms:
    """Rates that hang on the kill scale of the first drug alone, in place of the trial: who sees what is tested."""
    rate = {a.id: expit(1.5 * kill_scale(sampler, priors, next(iter(a.drugs)), a.tumour_type)) for a in arms}
    null = {arm.id: 0.9 * rate[arm.id] for arm in arms if len(arm.drugs) > 1} if independent_action else {}
    origin = {arm.id: f"a drug: fitted in {arm.tumour_type}" for arm in arms}
    patients = {arm.id: num_patients for arm in arms}
    late = {i: each[:, None] ** (DAYS / 100.0) for i, each in rate.items()}
    progression = {i: Curve(free, np.full(len(free), float(num_patients))) for i, free in late.items()}
    response = {i: Curve(late[i] ** 2, num_patients * each) for i, each in rate.items()}
    shrunk = {i: np.sqrt(each) for i, each in rate.items()}
    return published.SimulatedArms(rate, null, origin, patients, progression, response, shrunk)


def made_up_surfaces(key, arms, draws, sampler, priors, aliases, num_patients, endpoints, progress, bias):
    logit = np.broadcast_to(1.5 * LN_KILL_SCALE[None, :, None], (MICE, len(LN_KILL_SCALE), len(LN_LOSS_OF_EFFECT)))
    return {(arm.id, "orr"): Surface(logit, np.zeros_like(logit)) for arm in arms}


class NoRegression:
    """In place of the regression: it keeps what it was shown."""

    shown: list[set[int]]

    def __init__(self, key, teachers, names, between_trials):
        self.teachers = {t.id: t.responders for t in teachers}

    def logit(self, arm, left_out):
        seen = [self.teachers[i] for i in sorted(set(self.teachers) - set(left_out))]
        return np.full(SIZE, -2.0) + 1e-3 * sum(seen)


@pytest.fixture(scope="module")
def found() -> Iterator[Callable[[Priors], validation.Validation]]:
    patch, kept = pytest.MonkeyPatch(), {}
    patch.setattr(validation, "simulate_arms", made_up)
    patch.setattr(taught, "simulate_surfaces", made_up_surfaces)
    patch.setattr(validation, "MetaAnalysis", NoRegression)

    def run(priors: Priors) -> validation.Validation:
        counts = tuple((arm.id, arm.num_responders) for arm in priors.trials)
        if counts not in kept:
            chosen = with_arms(priors, tuple(arm for arm in priors.trials if arm.trial in CHOSEN))
            draws = PriorDraws(jax.random.key(0), chosen, MICE)
            kept[counts] = validate(draws, chosen, {}, Settings(MICE, COPIES), lambda *_: None)
        return kept[counts]

    yield run
    patch.undo()


@pytest.fixture
def scores(found) -> Callable[[Priors], pd.DataFrame]:
    return lambda priors: found(priors).scores.set_index("id")


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


@pytest.mark.parametrize("responders", [True, False])
def test_without_mice_there_are_common_responders_where_the_fit_has_them(monkeypatch, responders: bool) -> None:
    priors, seen = load_priors(), []

    def watched(key, arms, draws, *rest, **more):
        seen.append("responder_share" in draws)
        return made_up(key, arms, draws, *rest, **more)

    monkeypatch.setattr(validation, "simulate_arms", watched)
    monkeypatch.setattr(taught, "simulate_surfaces", made_up_surfaces)
    monkeypatch.setattr(validation, "MetaAnalysis", NoRegression)
    few = with_arms(priors, tuple(arm for arm in priors.trials if arm.trial in ("NEMO", "MILO")))
    draws = PriorDraws(jax.random.key(0), few, MICE, responders=responders)
    validate(draws, few, {}, Settings(MICE, COPIES), lambda *_: None)
    # of every arm one prediction with mice, one without, and all arms before any trial taught
    assert len(seen) == 2 * sum(bool(arm.drugs) for arm in few.trials) + 1
    assert set(seen) == {responders}


def test_every_published_median_is_scored(found) -> None:
    priors = load_priors()
    medians = found(priors).medians
    arms = [arm for arm in priors.trials if arm.drugs and arm.trial in CHOSEN]
    assert len(medians) == sum((a.median_pfs_months is not None) + (a.median_ttr_months is not None) for a in arms)
    assert (medians["pred_q05"] <= medians["pred_q50"]).all() and (medians["pred_q50"] <= medians["pred_q95"]).all()
    within = medians["published_months"].between(medians["pred_q05"], medians["pred_q95"])
    reached = medians["published_months"] < 504 / 30.4
    # ends are found to 0.01 days
    near = (medians["published_months"] - medians["pred_q05"]).abs() < 1e-3
    near |= (medians["published_months"] - medians["pred_q95"]).abs() < 1e-3
    pd.testing.assert_series_equal(
        within[reached & ~near], medians["inside"][reached & ~near].astype(bool), check_names=False
    )


def test_every_published_shrinkage_is_scored(found) -> None:
    arms = [arm for arm in load_priors().trials if arm.drugs and arm.trial in CHOSEN and arm.num_shrunk is not None]
    table = found(load_priors()).shrinkage
    assert list(table["id"]) == [arm.id for arm in arms] and len(arms) == 1
    assert list(table["role"]) == ["calibration"] and table["teaches"].all()


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


def test_summary_coverage_and_page(found) -> None:
    """Misses counted by hand from the table; a whole does not stand beside its parts; names are escaped."""
    medians, table = found(load_priors()).medians, found(load_priors()).scores.copy()
    rate = table["num_responders"] / table["num_patients"]
    table.loc[0, "trial"] = "<script>alert(1)</script>"
    covered = coverage(table)
    outside = (rate < table["pred_q05"] - 1e-9) | (rate > table["pred_q95"] + 1e-9)
    assert covered["misses"] == int(outside[table["counted"]].sum())
    assert covered["arms"] == len(table) - 1
    means = summary(table, seed=1)
    row = means[(means["arms_of"] == "all arms") & (means["against"] == "meta")].iloc[0]
    counted = table[table["counted"]]
    assert row["difference"] == pytest.approx((counted["crps"] - counted["crps_meta"]).mean())
    page = validation_page(
        table,
        pd.DataFrame({"id": [7], "reason": ["mixed & endocrine"]}),
        means,
        medians,
        found(load_priors()).shrinkage,
        answer=answer(means, covered),
        marks=["SYNTHETIC MICE"],
        command="vtrial validate --out DIR",
        date="2026-01-01",
        mice="a test",
    )
    assert "<script>" not in page
    assert "MILO" in page[page.index("<h2>Medians") :]
    assert "24/53" in page[page.index("<h2>Any shrinkage") :]
    assert "mixed &amp; endocrine" in page
    assert "90 % intervals miss" in page


def test_a_median_is_a_normal_observation_of_the_logit_on_its_day_hand_computed() -> None:
    """Flat surfaces: a median of variance v says log Normal(0; logit, 0.01 + v + 0.4^2), responders their binomial."""
    arm = next(arm for arm in load_priors().trials if arm.trial == "MPACT" and len(arm.drugs) == 1)
    published_one = published_median(arm, "pfs")
    assert published_one is not None
    flat = np.full((2, len(LN_KILL_SCALE), len(LN_LOSS_OF_EFFECT)), -0.7)
    surfaces = {"orr": Surface(flat, np.zeros_like(flat)), "pfs": Surface(flat, np.full_like(flat, 0.01))}
    offset, spread = np.array([0.0, 0.5]), np.full(2, 0.4)
    grid = Grid(np.linspace(-2.0, 1.0, 5), np.linspace(-7.0, -4.0, 3))
    found = taught.arm_log_likelihood(arm, surfaces, grid, np.zeros(1), offset, spread)[0]
    assert found.shape == (2, 5, 3)
    alone = log_likelihood(-0.7 + offset, spread, arm.num_responders, arm.num_patients)
    of_median = norm.logpdf(0.0, -0.7, np.sqrt(0.01 + published_one[1] + 0.16))
    np.testing.assert_allclose(found, np.broadcast_to((alone + of_median)[:, None, None], found.shape), rtol=1e-9)


def test_shrinkage_is_a_count_beside_the_responders_hand_computed() -> None:
    """Flat surfaces, no spread between trials: the log binomials, mixed with the resistant; readers move responders."""
    arm = next(arm for arm in load_priors().trials if arm.trial == "Doi 2010")
    flat = np.full((1, len(LN_KILL_SCALE), len(LN_LOSS_OF_EFFECT)), 0.3)
    surfaces = {
        "orr": Surface(flat - 3.0, np.zeros_like(flat), np.array([-6.0])),
        "shrinkage": Surface(flat, np.zeros_like(flat), np.array([-1.0])),
    }
    grid = Grid(np.linspace(-2.0, 1.0, 5), np.linspace(-7.0, -4.0, 3))
    found = taught.arm_log_likelihood(arm, surfaces, grid, np.array([0.0, 0.4]), np.array([0.5]), np.zeros(1))
    assert found.shape == (2, 1, 5, 3)
    for share, each in zip((0.0, 0.4), found, strict=True):
        rate = (1 - share) * expit(-2.7) + share * expit(-6.0)
        shrunk = (1 - share) * expit(0.3) + share * expit(-1.0)
        expected = binom.logpmf(0, 53, expit(logit(rate) + 0.5)) + binom.logpmf(24, 53, shrunk)
        np.testing.assert_allclose(each, expected, rtol=1e-9)


def test_effective_draws_are_those_of_a_mean_of_alike_groups() -> None:
    """One-way layout, intraclass correlation 1/2: J R / (1 + (R - 1) / 2) in expectation; within 4 SE of a variance."""
    rng = np.random.default_rng(0)
    alike = rng.standard_normal((400, 1)) + rng.standard_normal((400, 16))
    expected = 400 * 16 / (1 + 15 / 2)
    assert abs(validation._effective_draws(alike) / expected - 1) < 4 * np.sqrt(2 / 399)
    assert validation._effective_draws(np.zeros((4, 2))) == 8


def test_priors_beyond_what_was_simulated_are_refused() -> None:
    """In the middle of the shipped grid all is well; ln S about 3 lies beyond the last node."""
    grid = Grid(np.linspace(-4.0, 2.0, 5), np.linspace(-8.0, -3.0, 5))
    taught._within_the_surfaces(grid)
    with pytest.raises(InputError, match=r"middle of the priors is at 3.00 .* between -3.40 and 2.45"):
        taught._within_the_surfaces(grid._replace(ln_kill_scale=grid.ln_kill_scale + 4.0))
