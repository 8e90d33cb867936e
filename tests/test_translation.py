"""Mouse -> human: where every number of a patient's law comes from, by hand on fixed priors and by moments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
import yaml
from scipy.special import digamma, logit, polygamma

from vtrial.base import PatientLaw
from vtrial.config import Cohort, CutOff, Visits
from vtrial.errors import InputError
from vtrial.posterior import Draws
from vtrial.priors import Priors, load_priors
from vtrial.translation import CohortPlan, PriorSampler, plan_cohort

SIZE = 2000
SIGMAS = 5.0
KEY = jax.random.key(9)
VISITS = Visits(every_days=56, until_days=168)
TRAMETINIB = {"dose": "2 mg", "repeat": "1 d"}
AVUTOMETINIB = {"dose": "3.2 mg", "days": [1, 4], "repeat": "7 d", "on": "21 d", "cycle": "28 d"}
DEFACTINIB = {"dose": "200 mg", "times_per_day": 2, "repeat": "1 d", "on": "21 d", "cycle": "28 d"}


def posterior(size: int = SIZE, with_fak: bool = True, with_pairs: bool = True, aliases: bool = False) -> Draws:
    """Two tumour types, trametinib (fitted in PDAC only) and VS-4718, every draw different."""
    rng = np.random.default_rng(1)
    drugs = ["MEKi" if aliases else "trametinib", *(["VS-4718"] if with_fak else [])]
    classes = ["RAF/MEK", *(["FAK"] if with_fak else [])]
    labels = {
        "tumour_type": ["PDAC", "CM"],
        "drug": drugs,
        "drug_class": sorted(classes),
        "drug_type": [f"{drug} | PDAC" for drug in drugs],
        "class_pair": ["RAF/MEK x RAF/MEK"],
    }
    dims = {
        "ln_growth_type": "tumour_type",
        "omega_ln_growth": "tumour_type",
        "effect_class": "drug_class",
        "effect_drug": "drug",
        "effect": "drug_type",
        "omega_effect": "drug_type",
        "loss_drug_type": "drug_type",
        "phi": "class_pair",
        "gamma": "class_pair",
    }
    centres = {
        "mu_ln_growth": -3.0, "omega_ln_growth_type": 0.3, "ln_growth_type": -2.8, "omega_ln_growth": 0.6,
        "mu_effect": 0.3, "omega_effect_class": 0.3, "omega_effect_drug": 0.2, "omega_effect_type": 0.15,
        "effect_class": 0.6, "effect_drug": 0.7, "effect": 0.8, "omega_effect": 0.3,
        "mu_ln_omega_effect": -1.0, "omega_ln_omega_effect": 0.4,
        "loss": 0.7, "omega_loss": 0.2, "loss_drug_type": 0.9,
        "mu_phi": 0.5, "omega_phi": 0.2, "mu_gamma": 0.0, "omega_gamma": 0.1, "omega_combination": 0.2,
        "phi": 0.4, "gamma": 0.05,
    }  # fmt: skip
    pairs = ("mu_phi", "omega_phi", "mu_gamma", "omega_gamma", "omega_combination", "phi", "gamma")
    variables = {}
    for name, centre in centres.items():
        if name in pairs and not with_pairs:
            continue
        shape = (len(labels[dims[name]]),) if name in dims else ()
        value = centre + 0.02 * rng.normal(size=(1, size, *shape))
        variables[name] = (("chain", "draw", *((dims[name],) if name in dims else ())), value)
    if not with_pairs:
        del labels["class_pair"]
    return Draws(xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=labels)}), size)


def cohort_of(tumour_type: str, arms: Mapping[str, Mapping], subgroups: Mapping | None = None) -> Cohort:
    listed = [{"name": name, "drugs": drugs} for name, drugs in arms.items()]
    return Cohort.model_validate({"tumour_type": tumour_type, "arms": listed, "subgroups": subgroups or {}})


BOTH = {"avutometinib": AVUTOMETINIB, "defactinib": DEFACTINIB}


def overlay(folder: Path, values: Mapping[str, float]) -> Priors:
    """The shipped priors with some entries fixed."""
    tree: dict = {}
    shipped = load_priors()
    for name, value in values.items():
        unit = shipped.entry(name).unit
        *path, last = name.split(".")
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[last] = {
            "family": "fixed", "parameters": {"value": float(value)}, "unit": unit, "source": "a test",
            "certainty": "assumed", "note": "fixed",
        }  # fmt: skip
    path = folder / "fixed.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_priors([path])


@pytest.fixture(scope="module")
def priors() -> Priors:
    return load_priors()


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> Priors:
    return overlay(
        tmp_path_factory.mktemp("priors"),
        {
            "translation.growth_exponent": -0.25,
            "translation.ln_kill_scale_common": 0.0,
            "translation.ln_kill_scale.default": np.log(0.4),
            "translation.class_discrepancy.FAK": 0.3,
            "translation.drug_discrepancy": 0.0,
            "translation.drug_type_discrepancy": 0.0,
            "translation.resistant_share": 0.25,
            "translation.resistant_logit_sd": 0.0,
            "translation.ln_loss_of_effect_common": 0.0,
            "translation.loss_of_effect.default": 0.004,
            "translation.loss_of_effect_between_patients": 0.8,
            "covariates.kras_mutant.RAF/MEK": 0.3,
        },
    )


def plan(cohort: Cohort, draws: Draws, priors: Priors, aliases: Mapping[str, str] | None = None) -> CohortPlan:
    return plan_cohort(KEY, cohort, VISITS, draws, priors, aliases or {})


def law_of(found: CohortPlan) -> PatientLaw:
    return jax.tree.map(lambda x: np.asarray(x, float), found.law)


def assert_normal(values: np.ndarray, mean: float, sd: float) -> None:
    """Moments of independent normal draws within five standard errors."""
    assert abs(values.mean() - mean) < SIGMAS * sd / np.sqrt(len(values))
    assert abs(values.std() / sd - 1) < SIGMAS / np.sqrt(2 * len(values))


# ------------------------------------------------------------------------------------------------ the equations


def test_equations_by_hand_on_fixed_priors(fixed):
    draws = posterior()
    found = plan(cohort_of("PDAC", {"t": {"trametinib": TRAMETINIB}, "a+d": BOTH}), draws, fixed)
    assert found.drugs == ("avutometinib", "defactinib", "trametinib"), "sorted by name"
    law = law_of(found)
    np.testing.assert_allclose(law.growth_scale, (70_000 / 22.5) ** -0.25, rtol=1e-6)
    np.testing.assert_allclose(law.kill_scale, np.tile([0.4, 0.4 * np.exp(0.3), 0.4], (SIZE, 1)), rtol=1e-6)
    np.testing.assert_allclose(law.ln_loss_rate, np.log(0.004), rtol=1e-6)
    np.testing.assert_allclose(law.resistant_share, 0.25, rtol=1e-6)
    np.testing.assert_allclose(law.loss_rate_sd, 0.8, rtol=1e-6)
    np.testing.assert_allclose(law.mu_ln_growth, draws.get("ln_growth_type")[:, 0], rtol=1e-6)
    np.testing.assert_allclose(law.omega_ln_growth, draws.get("omega_ln_growth")[:, 0], rtol=1e-6)
    np.testing.assert_allclose(law.effect_mean[:, 2, 0], draws.get("effect")[:, 0], rtol=1e-6)
    np.testing.assert_allclose(law.effect_sd[:, 2], draws.get("omega_effect")[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.mouse_loss[:, 2], draws.get("loss_drug_type")[:, 0])
    np.testing.assert_allclose(law.phi[:, 0, 2], draws.get("phi")[:, 0], rtol=1e-6, err_msg="RAF/MEK x RAF/MEK")
    np.testing.assert_allclose(law.gamma[:, 2, 0], draws.get("gamma")[:, 0], rtol=1e-6)
    np.testing.assert_allclose(law.omega_combination, draws.get("omega_combination"), rtol=1e-6)
    np.testing.assert_array_equal(law.phi, np.swapaxes(law.phi, 1, 2))
    for leaf in jax.tree.leaves(found.law):
        assert leaf.dtype == np.float32 and leaf.shape[0] == SIZE and np.all(np.isfinite(leaf))


def test_classes_and_drugs_have_scales_of_their_own(priors):
    """Two drugs of a class share its scale and differ by their own; classes share half of their variance."""
    arms = {"t": {"trametinib": TRAMETINIB}, "a+d": BOTH}
    ln_scale = np.log(law_of(plan(cohort_of("PDAC", arms), posterior(), priors)).kill_scale)
    avutometinib, defactinib, trametinib = ln_scale.T
    # drug_discrepancy and drug_type_discrepancy ~ HalfNormal(0.28): E[sd^2] = 0.0784 each
    own = np.sqrt(2.0) * 0.28
    for values, variance in ((trametinib, 0.49 + own**2), (defactinib, 0.49 + own**2 + 0.25)):
        sd = np.sqrt(variance)
        assert abs(values.mean() - np.log(0.64)) < SIGMAS * sd / np.sqrt(SIZE) + 1e-3
        # heavier tails than normal: kurtosis of the drug's part is 9, so double the normal SE of the SD
        assert abs(values.std() / sd - 1) < 2 * SIGMAS / np.sqrt(2 * SIZE)
    shared = np.corrcoef(trametinib, avutometinib)[0, 1]
    assert abs(shared - 0.49 / (0.49 + own**2)) < 2 * SIGMAS / np.sqrt(SIZE)
    elsewhere = np.log(law_of(plan(cohort_of("CM", arms), posterior(), priors)).kill_scale)
    kept = np.corrcoef(elsewhere[:, 2], trametinib)[0, 1]
    assert abs(kept - (0.49 + 0.28**2) / (0.49 + own**2)) < 2 * SIGMAS / np.sqrt(SIZE), "a drug in another tumour type"
    # ln_kill_scale_common ~ Normal(0, 0.5) is all that drugs of different classes share; the SD between drugs is one
    # per draw, so their own parts are uncorrelated though not independent
    across = 0.25 / np.sqrt((0.49 + own**2) * (0.49 + own**2 + 0.25))
    assert abs(np.corrcoef(trametinib, defactinib)[0, 1] - across) < 2 * SIGMAS / np.sqrt(SIZE)


def test_the_share_of_resistant_patients_is_of_a_drug_in_a_tumour_type(priors):
    """Logit: that of Beta(7, 13), common to all, of variance trigamma(7) + trigamma(13), and Normal(0, 0.7) of each."""
    arms = {"t": {"trametinib": TRAMETINIB}, "a+d": BOTH}
    here = logit(law_of(plan(cohort_of("PDAC", arms), posterior(), priors)).resistant_share)
    common, own = polygamma(1, 7.0) + polygamma(1, 13.0), 0.7**2
    sd = np.sqrt(common + own)
    for values in here.T:
        assert abs(values.mean() - (digamma(7.0) - digamma(13.0))) < SIGMAS * sd / np.sqrt(SIZE)
        assert abs(values.std() / sd - 1) < 2 * SIGMAS / np.sqrt(2 * SIZE)
    there = logit(law_of(plan(cohort_of("CM", arms), posterior(), priors)).resistant_share)
    for one, other in ((here[:, 0], here[:, 1]), (here[:, 0], there[:, 0])):
        assert abs(np.corrcoef(one, other)[0, 1] - common / (common + own)) < 2 * SIGMAS / np.sqrt(SIZE)


# ---------------------------------------------------------------------------------------------- where effects come from


def test_a_fitted_drug_in_a_new_tumour_type(priors):
    draws = posterior()
    found = plan(cohort_of("CM", {"t": {"trametinib": TRAMETINIB}}), draws, priors)
    assert found.origin == {"trametinib": "fitted in other tumour types"}
    law = law_of(found)
    z = (law.effect_mean[:, 0, 0] - draws.get("effect_drug")[:, 0]) / draws.get("omega_effect_type")
    assert_normal(z, 0.0, 1.0)
    z = (np.log(law.effect_sd[:, 0]) - draws.get("mu_ln_omega_effect")) / draws.get("omega_ln_omega_effect")
    assert_normal(z, 0.0, 1.0)
    np.testing.assert_allclose(law.mu_ln_growth, draws.get("ln_growth_type")[:, 1], rtol=1e-6)


def test_a_new_drug_of_a_fitted_class(priors):
    draws = posterior()
    found = plan(cohort_of("PDAC", {"a+d": BOTH}), draws, priors)
    assert found.origin["avutometinib"] == "new drug of the fitted class RAF/MEK"
    assert found.origin["defactinib"] == "new drug of the fitted class FAK"
    law = law_of(found)
    sd = np.hypot(draws.get("omega_effect_drug"), draws.get("omega_effect_type"))
    # classes are sorted: FAK, RAF/MEK
    assert_normal((law.effect_mean[:, 0, 0] - draws.get("effect_class")[:, 1]) / sd, 0.0, 1.0)
    assert_normal((law.effect_mean[:, 1, 0] - draws.get("effect_class")[:, 0]) / sd, 0.0, 1.0)
    assert abs(np.corrcoef(law.effect_mean[:, 0, 0], law.effect_mean[:, 1, 0])[0, 1]) < SIGMAS / np.sqrt(SIZE)
    # the FAK class has a spread of its own in the priors: log-normal, median 0.25, sigma 0.4
    assert_normal(np.log(law.effect_sd[:, 1]), np.log(0.25), 0.4)
    lost = (found.mouse_loss - draws.get("loss")[:, None]) / draws.get("omega_loss")[:, None]
    for own in lost.T:
        assert_normal(own, 0.0, 1.0)
    assert abs(np.corrcoef(lost.T)[0, 1]) < SIGMAS / np.sqrt(SIZE)


def test_a_new_drug_of_a_new_class(priors):
    draws = posterior(with_fak=False)
    found = plan(cohort_of("PDAC", {"d": {"defactinib": DEFACTINIB}}), draws, priors)
    assert found.origin == {"defactinib": "new drug of the new class FAK"}
    spreads = ("omega_effect_class", "omega_effect_drug", "omega_effect_type")
    sd = np.sqrt(sum(draws.get(name) ** 2 for name in spreads))
    assert_normal((law_of(found).effect_mean[:, 0, 0] - draws.get("mu_effect")) / sd, 0.0, 1.0)


def test_names_of_a_drug_lead_to_its_fit(priors):
    """A code name in the cohort, and the experiment's alias for the name in the table."""
    draws = posterior(aliases=True)
    cohort = cohort_of("PDAC", {"t": {"GSK1120212": TRAMETINIB}})
    found = plan(cohort, draws, priors, {"GSK1120212": "MEKi"})
    assert found.drugs == ("trametinib",) and found.origin == {"trametinib": "fitted in PDAC"}
    np.testing.assert_array_equal(found.mouse_loss[:, 0], draws.get("loss_drug_type")[:, 0])
    np.testing.assert_allclose(law_of(found).effect_mean[:, 0, 0], draws.get("effect")[:, 0], rtol=1e-6)


def test_growth_of_tumour_types_without_curves(priors):
    draws = posterior()
    known = law_of(plan(cohort_of("LGSOC", {"t": {"trametinib": TRAMETINIB}}), draws, priors))
    entry = priors.entry("growth.types.LGSOC.ln_rate").parameters
    assert_normal(known.mu_ln_growth, entry["loc"], entry["scale"])
    spread = priors.entry("growth.mouse.between_models").parameters
    assert_normal(np.log(known.omega_ln_growth), np.log(spread["median"]), spread["sigma"])
    unknown = law_of(plan(cohort_of("sarcoma", {"t": {"trametinib": TRAMETINIB}}), draws, priors))
    z = (unknown.mu_ln_growth - draws.get("mu_ln_growth")) / draws.get("omega_ln_growth_type")
    assert_normal(z, 0.0, 1.0)


def test_a_cut_off_is_of_the_trial_and_moves_no_draw(priors):
    draws = posterior(size=4)
    cohort = cohort_of("PDAC", {"t": {"trametinib": TRAMETINIB}})
    plain = plan(cohort, draws, priors).law
    cut = plan_cohort(KEY, cohort, VISITS, draws, priors, {}, cut_off=CutOff(accrual="365 d", after="540 d")).law
    assert plain.cut_off is None and plain.accrual is None
    assert cut.cut_off.tolist() == [540.0] * 4 and cut.accrual.tolist() == [365.0] * 4
    for name in set(PatientLaw._fields) - {"cut_off", "accrual"}:
        np.testing.assert_array_equal(getattr(plain, name), getattr(cut, name), err_msg=name)


def test_weights_against_engraftment_are_those_of_the_models(priors):
    """The closed form against PDX models drawn and weighted by growth^-b."""
    draws, b = posterior(size=4), 1.5
    cohort = cohort_of("PDAC", {"t": {"trametinib": TRAMETINIB}})
    plain = law_of(plan(cohort, draws, priors))
    shifted = law_of(plan_cohort(KEY, cohort, VISITS, draws, priors, {}, engraftment_bias=b))
    z = np.random.default_rng(6).standard_normal(200_000)
    for mean, spread, ours in zip(plain.mu_ln_growth, plain.omega_ln_growth, shifted.mu_ln_growth, strict=True):
        ln_growth = mean + spread * z
        weight = np.exp(-b * spread * z)
        # SE of the weighted mean, with the effective number of models
        error = spread / np.sqrt(weight.sum() ** 2 / (weight**2).sum())
        assert abs(ours - np.average(ln_growth, weights=weight)) < SIGMAS * error
        assert abs(np.sqrt(np.average((ln_growth - ours) ** 2, weights=weight)) - spread) < SIGMAS * error
    for name in set(PatientLaw._fields) - {"mu_ln_growth"}:
        np.testing.assert_array_equal(getattr(plain, name), getattr(shifted, name), err_msg=name)


def test_rule_of_a_class_pair_that_no_mouse_had(priors):
    draws = posterior()
    law = law_of(plan(cohort_of("PDAC", {"a+d": BOTH}), draws, priors))
    for values, site in ((law.phi, "phi"), (law.gamma, "gamma")):
        z = (values[:, 0, 1] - draws.get(f"mu_{site}")) / draws.get(f"omega_{site}")
        assert_normal(z, 0.0, 1.0)


def test_rule_without_any_combination_is_the_prior(priors):
    law = law_of(plan(cohort_of("PDAC", {"a+d": BOTH}), posterior(with_pairs=False), priors))
    phi = law.phi[:, 0, 1]
    # Normal(0.5, 0.35) plus a spread that is HalfNormal(0.25): variance 0.35^2 + 0.25^2, tails a little heavier
    sd = np.hypot(0.35, 0.25)
    assert abs(phi.mean() - 0.5) < SIGMAS * sd / np.sqrt(SIZE)
    assert abs(phi.std() / sd - 1) < 2 * SIGMAS / np.sqrt(2 * SIZE)
    assert_normal(np.log(law.omega_combination), np.log(0.15), 0.5)


# ------------------------------------------------------------------------------------------------ subgroups


SUBGROUPS = {
    "mutant": {"prevalence": 0.3, "covariates": {"kras_mutant": 1}},
    "wild type": {"prevalence": 0.7, "covariates": {"kras_mutant": 0}},
}


def test_covariate_shift_is_centred_and_only_for_its_class(fixed):
    draws = posterior()
    whole = law_of(plan(cohort_of("PDAC", {"a+d": BOTH}), draws, fixed)).effect_mean
    found = plan(cohort_of("PDAC", {"a+d": BOTH}, SUBGROUPS), draws, fixed)
    split = law_of(found).effect_mean
    assert found.subgroups == ("mutant", "wild type") and split.shape == (SIZE, 2, 2)
    np.testing.assert_allclose(found.prevalence, [0.3, 0.7])
    np.testing.assert_allclose(split[:, 0, 0] - whole[:, 0, 0], 0.3 * 0.7, atol=1e-6)
    np.testing.assert_allclose(split[:, 0, 1] - whole[:, 0, 0], -0.3 * 0.3, atol=1e-6)
    np.testing.assert_allclose(split[:, 0] @ [0.3, 0.7], whole[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(split[:, 1], np.repeat(whole[:, 1], 2, axis=1), atol=1e-7, err_msg="no shift for FAK")


def test_a_covariate_without_prior_is_refused(priors):
    groups = {"high": {"prevalence": 1.0, "covariates": {"age": 1}}}
    with pytest.raises(InputError, match="there is no prior for covariate 'age'"):
        plan(cohort_of("PDAC", {"a+d": BOTH}, groups), posterior(size=5), priors)


def test_a_drug_without_pharmacokinetics_is_on_and_off(priors):
    """A constant effect on treated days, none in the week off, uncertain by a log ratio of human to mouse."""
    found = plan(cohort_of("PDAC", {"i": {"ifebemtinib": DEFACTINIB}}), posterior(), priors)
    low, high, on = np.moveaxis(np.asarray(found.exposure)[:, 0, 0], -1, 0)
    edges = np.asarray(found.schedule.edges)
    np.testing.assert_array_equal(on[0], ((edges[:-1] + edges[1:]) / 2 % 28 < 21).astype(float))
    assert not low.any() and np.all(high == high[:, :1])
    # ln odds = ln 4 + Normal(0, 0.5) + Normal(0, 1) + ln of the dose intensity, which is Beta(0.9 x 40, 0.1 x 40)
    ln_odds = np.log(high[:, 0] / (1 - high[:, 0])) - np.log(4.0)
    intensity = np.log(np.random.default_rng(1).beta(36.0, 4.0, 200_000))
    assert_normal(ln_odds, intensity.mean(), np.sqrt(0.25 + 1.0 + intensity.var()))


# ------------------------------------------------------------------------------------------------ draws hang on names


def test_draws_do_not_depend_on_the_order_or_number_of_arms(priors):
    draws = posterior(size=50)
    arms = {"t": {"trametinib": TRAMETINIB}, "a+d": BOTH, "d": {"defactinib": DEFACTINIB}}
    first = plan(cohort_of("LGSOC", arms, SUBGROUPS), draws, priors)
    other = plan(cohort_of("LGSOC", dict(reversed(arms.items())), SUBGROUPS), draws, priors)
    for name, one, two in zip(PatientLaw._fields, first.law, other.law, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=name)
    fewer = law_of(plan(cohort_of("LGSOC", {"d": arms["d"]}, SUBGROUPS), draws, priors))
    whole, at = law_of(first), first.drugs.index("defactinib")
    for name in ("effect_mean", "effect_sd", "kill_scale", "ln_loss_rate"):
        np.testing.assert_array_equal(getattr(fewer, name)[:, 0], getattr(whole, name)[:, at], err_msg=name)
    for name in ("mu_ln_growth", "growth_scale", "missed_visit", "new_lesion_hazard", "mean_lesions"):
        np.testing.assert_array_equal(getattr(fewer, name), getattr(whole, name), err_msg=name)
    arm = np.asarray(first.regimens.arm)
    np.testing.assert_array_equal(first.exposure[:, 2], other.exposure[:, 0], err_msg="the curves of arm d")
    assert first.exposure.shape[:3] == (50, len(arm), 3) and first.exposure.shape[4] == 3


def test_the_key_decides_and_a_new_prior_leaves_the_others(priors, fixed):
    one, again = PriorSampler(KEY, priors, 20), PriorSampler(KEY, priors, 20)
    other = PriorSampler(jax.random.key(10), priors, 20)
    name = "patients.reader_effect"
    np.testing.assert_array_equal(one.entry(name), again.entry(name))
    assert np.all(one.entry(name) != other.entry(name)) and np.all(one.entry(name) != one.entry(name, " again"))
    np.testing.assert_array_equal(one.entry(name), PriorSampler(KEY, fixed, 20).entry(name))


def test_a_class_may_lower_the_hazard_of_new_lesions(priors, tmp_path):
    arms = {"a": {"avutometinib": AVUTOMETINIB}, "both": BOTH}
    assert plan(cohort_of("LGSOC", arms), posterior(), priors).law.ln_new_lesion_ratio is None, "nothing by default"
    own = dict(family="lognormal", parameters={"median": 0.7, "sigma": 0.3}, unit="1", source="-", certainty="assumed")
    file = tmp_path / "fak.yaml"

    def with_entry(**changes):
        entry = {**own, **changes, "note": "-"}
        file.write_text(yaml.safe_dump({"classes": {"FAK": {"new_lesion_hazard_ratio": entry}}}))
        return plan(cohort_of("LGSOC", arms), posterior(size=400), load_priors([file]))

    found = with_entry()
    values = np.asarray(found.law.ln_new_lesion_ratio, float)
    assert found.drugs == ("avutometinib", "defactinib") and not values[:, 0].any()
    # 400 draws of Normal(ln 0.7, 0.3)
    assert abs(values[:, 1].mean() - np.log(0.7)) < 5 * 0.3 / 20
    with pytest.raises(InputError, match=r"fak.yaml:3: classes.FAK.new_lesion_hazard_ratio: .*must be above 0"):
        with_entry(family="normal", parameters={"loc": 0.5, "scale": 1.0})


def test_an_arm_has_the_discontinuation_that_the_experiment_says(priors):
    listed = [{"name": "a", "drugs": {"avutometinib": AVUTOMETINIB}}, {"name": "both", "drugs": BOTH}]
    cohort = Cohort.model_validate({"tumour_type": "LGSOC", "arms": listed})
    assert plan(cohort, posterior(), priors).regimens.discontinuation is None
    listed[1]["discontinuation"] = 1.5
    found = plan(Cohort.model_validate({"tumour_type": "LGSOC", "arms": listed}), posterior(), priors).regimens
    # the null models of the combination (each drug alone, Bliss) are of its arm
    np.testing.assert_array_equal(found.discontinuation, [1.0, 1.5, 1.5, 1.5, 1.5])


# ------------------------------------------------------------------------------------------------ schedule and exposure


def test_visits_are_edges_and_exposure_follows_the_dose(priors):
    half = {**AVUTOMETINIB, "dose": "1.6 mg"}
    arms = {"full": {"avutometinib": AVUTOMETINIB}, "half": {"avutometinib": half}, "both": BOTH}
    found = plan(cohort_of("LGSOC", arms), posterior(size=200), priors)
    edges, at = np.asarray(found.schedule.edges), np.asarray(found.schedule.visit_segment)
    np.testing.assert_allclose(edges[at + 1], [56, 112, 168])
    np.testing.assert_array_equal(found.schedule.visit_day, [56, 112, 168])
    points = np.asarray(found.exposure)
    assert points.shape[-1] == 3 and np.all((points >= 0) & (points <= 1))
    exposure = points[..., 0] + points[..., 2] * (points[..., 1] - points[..., 0])
    assert found.arms == ("full", "half", "both")
    assert not exposure[:, :2, 1].any(), "defactinib is in the third arm only"
    assert np.all(exposure[:, 2, 0] < exposure[:, 0, 0]), "beside a partner less of it is given"
    assert np.all(exposure[:, 1, 0] < exposure[:, 0, 0])
    # the last week of each cycle is off: less effect than in the weeks on, in every draw
    middle = (edges[:-1] + edges[1:]) / 2
    off = middle % 28 > 21
    assert np.all(exposure[:, 0, 0][:, off].mean(1) < exposure[:, 0, 0][:, ~off].mean(1))
    # at its reference dosing and an intensity of 0.9: 3.6 / 4.6, with ln saturation ~ Normal(ln 4, 0.5) and a ratio of
    # Normal(0, 0.5) on top; averaged over a dosing week it sits a little below that of the average amount
    on = exposure[:, 0, 0][:, ~off][:, 3:].mean(1)
    assert 0.6 < np.median(on) < 0.8
