import jax
import numpy as np
import pytest

from vtrial.mouse_prior import PriorDraws
from vtrial.priors import load_priors
from vtrial.published import VISITS, cohorts, independent_arms, left_out_with
from vtrial.translation import PriorSampler, class_terms, common_terms, plan_cohort


@pytest.fixture(scope="module")
def priors():
    return load_priors()


def test_at_least_twenty_arms_of_pdxe_with_everything_a_score_needs(priors) -> None:
    panel = {"BRCA", "CM", "CRC", "GC", "NSCLC", "PDAC"}
    arms = [arm for arm in priors.trials if arm.id >= 30 and arm.drugs and arm.certainty != "recalled"]
    assert sum(arm.tumour_type in panel for arm in arms) >= 20
    assert sum(len(arm.drugs) > 1 for arm in arms) >= 5
    for arm in priors.trials:
        if arm.certainty == "recalled":
            assert {"num_responders"} <= set(arm.recalled) or arm.id < 30
        if arm.tag == "SEEN":
            assert not {"num_responders", "num_patients"} & set(arm.recalled), arm.id


def test_a_trial_leaves_whole_with_all_that_overlaps_it(priors) -> None:
    by_id = {arm.id: arm for arm in priors.trials}
    assert left_out_with(by_id[1], priors.trials) == [1, 2, 3, 5]  # RAMP 201, both doses
    assert left_out_with(by_id[13], priors.trials) == [12, 13]
    assert 2 not in independent_arms(priors.trials)
    assert {1, 3} <= independent_arms(priors.trials)


def test_equal_arms_are_simulated_once_and_every_arm_stands_somewhere(priors) -> None:
    arms = [arm for arm in priors.trials if arm.drugs]
    made = cohorts(arms)
    assert sorted(arm.id for *_, members in made for arm in members) == [arm.id for arm in arms]
    ids = [{arm.id for arm in members} for *_, members in made]
    assert {23, 24} in ids  # gemcitabine + nab-paclitaxel under RECIST 1.1
    cohort = next(cohort for cohort, _, members in made if members[0].id == 1)
    assert cohort.subgroups["in"].covariates == {"kras_mutant": 1.0}
    assert cohort.subgroups["out"].covariates == {"kras_mutant": 0.0}
    assert sum(group.prevalence for group in cohort.subgroups.values()) == pytest.approx(1.0)


def test_without_mice_every_drug_is_new_and_arms_share_their_class(priors) -> None:
    """Two arms of one drug share its draws but for its tumour type; the effect is the prior's, mean 0.35.

    Of the variance of ln kill scale, 0.25 + 0.49^2 + 2 * 0.28^2, all but the last 0.28^2 is common to tumour types.
    """
    arms = {arm.id: arm for arm in priors.trials}
    draws = PriorDraws(jax.random.key(1), priors, 400)
    key = jax.random.key(2)
    plans = []
    for i in (8, 70):
        cohort, _, _ = cohorts([arms[i]])[0]
        plans.append(plan_cohort(key, cohort, VISITS, draws, priors, {}))  # pyright: ignore[reportArgumentType]
    assert plans[0].origin["binimetinib"] == "new drug of the new class RAF/MEK"
    common = np.corrcoef(*(np.log(plan.law.kill_scale[:, 0]) for plan in plans))[0, 1]
    apart = 0.28**2
    total = 0.25 + 0.49**2 + 2 * apart
    # five standard errors of Fisher's z of 400 draws; the last part has the tails of a half-normal scale
    assert abs(np.arctanh(common) - np.arctanh(1 - apart / total)) < 5 * 1.5 / np.sqrt(400)
    effect = np.asarray(plans[0].law.effect_mean[:, 0, 0])
    assert abs(effect.mean() - 0.35) < 4 * effect.std() / 20


def test_without_mice_common_responders_have_their_prior(priors) -> None:
    """Share and shift of every draw are of the beta and the log-normal of the priors file; all else stays bitwise."""
    size, key = 4000, jax.random.key(1)
    draws = PriorDraws(key, priors, size, responders=True)
    values = [draws.get(name) for name in ("responder_share", "responder_shift")]
    for name, found in zip(("responder_share", "responder_shift"), values, strict=True):
        entry = priors.entry(f"classes.default.{name}")
        for p in (0.05, 0.5, 0.95):
            # share of draws below a quantile: 5 standard errors of a binomial
            assert abs((found < entry.quantile(p)).mean() - p) < 5 * np.sqrt(p * (1 - p) / size)
    assert abs(np.corrcoef(values)[0, 1]) < 5 / np.sqrt(size)
    plain, draws = PriorDraws(key, priors, 400), PriorDraws(key, priors, 400, responders=True)
    cohort, _, _ = cohorts([arm for arm in priors.trials if arm.id == 8])[0]
    laws = [plan_cohort(key, cohort, VISITS, each, priors, {}).law for each in (plain, draws)]  # pyright: ignore[reportArgumentType]
    for name in laws[0]._fields:
        if not name.startswith("responder"):
            jax.tree.map(np.testing.assert_array_equal, getattr(laws[0], name), getattr(laws[1], name))
    assert laws[0].responder_share is None and laws[0].responder_shift is None
    np.testing.assert_allclose(laws[1].responder_share, draws.get("responder_share"), rtol=1e-6)
    np.testing.assert_allclose(laws[1].responder_shift, draws.get("responder_shift"), rtol=1e-6)


def test_classes_share_half_of_the_variance_of_their_scale(priors) -> None:
    """Correlation of two classes 0.25 / 0.4901 = 0.51; 4 standard errors of a correlation of 4,000 draws."""
    sampler = PriorSampler(jax.random.key(0), priors, 4000)
    first, second = (class_terms(name, sampler).ln_kill_scale for name in ("taxane", "RAF/MEK"))
    expected = 0.25 / (0.25 + 0.49**2)
    assert abs(np.corrcoef(first, second)[0, 1] - expected) < 4 * (1 - expected**2) / np.sqrt(4000)
    assert abs(first.std() / 0.7 - 1) < 4 / np.sqrt(2 * 4000)
    np.testing.assert_array_equal(common_terms(sampler).ln_kill_scale, common_terms(sampler).ln_kill_scale)
