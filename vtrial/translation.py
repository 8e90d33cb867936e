"""Mouse to patient: draws of the fit and draws of the translation prior become the law of virtual patients.

For draw s and drug d of a cohort

    growth_human = g* (W_human / W_mouse)^growth_exponent
    kill_human   = rho_d g* exp(ln S[class] + u_d + v_d,type) E_d(t) exp(-lambda_d t)
    ln S[class]  = ln_kill_scale_common + ln_kill_scale[class] + class_discrepancy[class]
    ln lambda_d  = ln_loss_of_effect_common + ln loss_of_effect[class]

with ``u_d ~ Normal(0, drug_discrepancy)`` drawn anew for every drug, ``v ~ Normal(0, drug_type_discrepancy)`` for every
drug in every tumour type, and E_d(t) from dose and schedule (:mod:`vtrial.pharmacology`). In a share r of the patients,
``logit r_d,type ~ Normal(logit resistant_share, resistant_logit_sd)``, the drug does nothing, as if it had not been
given: patients differ more than the PDX models of a panel, whose spread is that of rho. A drug that the fit has not
seen is drawn from its mechanism class, a tumour type that it has not seen from the population of types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logit

from vtrial.arm_layout import lay_out
from vtrial.base import PatientLaw, Regimens, Schedule, Trial
from vtrial.config import Cohort, CutOff, Visits
from vtrial.dosing import Dosing, segment_edges
from vtrial.errors import InputError
from vtrial.pharmacology import arm_exposure, between_patients
from vtrial.posterior import Draws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors

__all__ = [
    "CohortPlan",
    "PriorSampler",
    "TranslationTerms",
    "class_terms",
    "common_terms",
    "drug_effect",
    "drug_terms",
    "pair_rule",
    "plan_cohort",
    "resistant_share",
    "type_growth",
]


class CohortPlan(NamedTuple):
    """A cohort ready to simulate."""

    law: PatientLaw  # leading axis D
    exposure: jax.Array  # [D, K, R, G, 3], the two points of every segment
    schedule: Schedule
    regimens: Regimens
    prevalence: jax.Array  # [B]
    subgroups: tuple[str, ...]
    drugs: tuple[str, ...]
    arms: tuple[str, ...]
    origin: Mapping[str, str]  # drug -> where its effect comes from
    mouse_effect: np.ndarray  # [D, R] mean effect over the PDX models of the type, whatever the subgroup
    mouse_loss: np.ndarray  # [D, R] fraction of it that mice lose in the end

    def trial(self, draws: slice = slice(None)) -> Trial:
        """What is simulated, of some of the draws."""
        law = jax.tree.map(lambda leaf: leaf[draws], self.law)
        return Trial(law, self.exposure[draws], self.schedule, self.regimens, self.prevalence)


def _fitted_name(drug: str, priors: Priors, known: Sequence[str], aliases: Mapping[str, str]) -> str | None:
    """The fit's spelling of a drug: its own name, an alias of the experiment, or a code name."""
    info = priors.drug(drug)
    for name in (drug, aliases.get(drug, drug), info.name, *info.code_names):
        if name in known:
            return name
    return None


def drug_effect(drug: str, tumour_type: str, draws: Draws, sampler: PriorSampler, priors: Priors, aliases):
    """Mean and spread over PDX models of a drug's effect in a tumour type, [D] each, and where they come from."""
    name = _fitted_name(drug, priors, draws.labels("drug"), aliases)
    # draws by its own name: however a file spells a drug, it is the same one
    own, drug_class = priors.drug(drug).name, priors.drug_class(drug)
    types = draws.labels("drug_type")
    if name is not None and f"{name} | {tumour_type}" in types:
        index = types.index(f"{name} | {tumour_type}")
        return draws.get("effect")[:, index], draws.get("omega_effect")[:, index], f"fitted in {tumour_type}"
    if name is not None:
        mean = draws.get("effect_drug")[:, draws.labels("drug").index(name)]
        origin = "fitted in other tumour types"
    else:
        if drug_class in draws.labels("drug_class"):
            mean = draws.get("effect_class")[:, draws.labels("drug_class").index(drug_class)]
            origin = f"new drug of the fitted class {drug_class}"
        else:
            mean = draws.get("mu_effect") + draws.get("omega_effect_class") * sampler.normal(f"class {drug_class}")
            origin = f"new drug of the new class {drug_class}"
        mean = mean + draws.get("omega_effect_drug") * sampler.normal(f"drug {own}")
    mean = mean + draws.get("omega_effect_type") * sampler.normal(f"drug {own} in {tumour_type}")
    own_spread = f"classes.{drug_class}.between_models"
    if own_spread in priors.names():
        spread = sampler.entry(own_spread, f" {own}")
    else:
        z = sampler.normal(f"spread of {own} in {tumour_type}")
        spread = np.exp(draws.get("mu_ln_omega_effect") + draws.get("omega_ln_omega_effect") * z)
    return mean, spread, origin


def drug_loss(drug: str, tumour_type: str, draws: Draws, sampler: PriorSampler, priors: Priors, aliases) -> np.ndarray:
    """Fraction of a drug's effect that mice lose in the end in a tumour type, [D]."""
    name = _fitted_name(drug, priors, draws.labels("drug"), aliases)
    types = draws.labels("drug_type")
    if name is not None and f"{name} | {tumour_type}" in types:
        return draws.get("loss_drug_type")[:, types.index(f"{name} | {tumour_type}")]
    z = sampler.normal(f"loss of effect of {priors.drug(drug).name} in {tumour_type}")
    return draws.get("loss") + draws.get("omega_loss") * z


def type_growth(tumour_type: str, draws: Draws, sampler: PriorSampler, priors: Priors):
    """Mean and spread of ln growth of the PDX models of a tumour type, [D] each."""
    types = draws.labels("tumour_type")
    if tumour_type in types:
        index = types.index(tumour_type)
        return draws.get("ln_growth_type")[:, index], draws.get("omega_ln_growth")[:, index]
    own = f"growth.types.{tumour_type}.ln_rate"
    if own in priors.names():
        mean = sampler.entry(own)
    else:
        z = sampler.normal(f"growth {tumour_type}")
        mean = draws.get("mu_ln_growth") + draws.get("omega_ln_growth_type") * z
    return mean, sampler.entry("growth.mouse.between_models", tumour_type)


def pair_rule(drugs: Sequence[str], draws: Draws, sampler: PriorSampler, priors: Priors):
    """Phi and gamma [D, R, R] of all pairs of drugs, and the spread of combinations [D]."""
    size, number = draws.size, len(drugs)
    phi, gamma = np.zeros((size, number, number)), np.zeros((size, number, number))
    known = draws.labels("class_pair")
    for a in range(number):
        for b in range(a):
            classes = sorted((priors.drug_class(drugs[a]), priors.drug_class(drugs[b])))
            name = " x ".join(classes)
            for values, site in ((phi, "phi"), (gamma, "gamma")):
                if name in known:
                    draw = draws.get(site)[:, known.index(name)]
                elif known:
                    draw = draws.get(f"mu_{site}") + draws.get(f"omega_{site}") * sampler.normal(f"{site} {name}")
                else:
                    pair = priors.class_pair(*classes)
                    centre = sampler.entry(getattr(pair, site).name)
                    spread = sampler.entry(getattr(pair, f"{site}_spread").name)
                    draw = centre + spread * sampler.normal(f"{site} {name}")
                values[:, a, b] = values[:, b, a] = draw
    if "omega_combination" in draws:
        return phi, gamma, draws.get("omega_combination")
    return phi, gamma, sampler.entry("class_pairs.default.between_models")


class TranslationTerms(NamedTuple):
    """What a mechanism class, or a drug of it, has in patients, [D] each; what is common to all classes included."""

    ln_kill_scale: np.ndarray
    ln_loss_of_effect: np.ndarray  # ln(1/day)


def common_terms(sampler: PriorSampler) -> TranslationTerms:
    """The part of `TranslationTerms` that all classes share, [D] each."""
    return TranslationTerms(
        sampler.entry("translation.ln_kill_scale_common"), sampler.entry("translation.ln_loss_of_effect_common")
    )


def class_terms(drug_class: str, sampler: PriorSampler) -> TranslationTerms:
    """Kill scale and loss of effect of a mechanism class, the same draws for every drug and cohort of a sampler."""
    common, tag = common_terms(sampler), f" {drug_class}"
    scale = sampler.resolved("translation.ln_kill_scale", drug_class, tag=tag)
    discrepancy = sampler.resolved("translation.class_discrepancy", drug_class, tag=tag)
    loss = np.log(sampler.resolved("translation.loss_of_effect", drug_class, tag=tag))
    return TranslationTerms(common.ln_kill_scale + scale + discrepancy, common.ln_loss_of_effect + loss)


def drug_terms(drug: str, drug_class: str, sampler: PriorSampler) -> TranslationTerms:
    """Kill scale of a drug in any tumour type, by the name of the priors, and the loss of effect of its class."""
    terms = class_terms(drug_class, sampler)
    own = sampler.entry("translation.drug_discrepancy") * sampler.normal(f"discrepancy {drug}")
    return terms._replace(ln_kill_scale=terms.ln_kill_scale + own)


def resistant_share(drug: str, tumour_type: str, sampler: PriorSampler) -> np.ndarray:
    """Share [D] of the patients of a tumour type in whom a drug, by the name of the priors, does nothing."""
    common, sd = sampler.entry("translation.resistant_share"), sampler.entry("translation.resistant_logit_sd")
    with np.errstate(divide="ignore"):  # a share fixed at 0 stays there
        return expit(logit(common) + sd * sampler.normal(f"resistance {drug} in {tumour_type}"))


def plan_cohort(
    key: jax.Array,
    cohort: Cohort,
    visits: Visits,
    draws: Draws,
    priors: Priors,
    aliases: Mapping[str, str],
    engraftment_bias: float = 0.0,
    sampler: PriorSampler | None = None,
    cut_off: CutOff | None = None,
) -> CohortPlan:
    """Everything that `trial.simulate` needs for one cohort.

    Parameters
    ----------
    key
        Of the translation draws; the virtual patients have a key of their own.
    cohort, visits
        From the experiment.
    draws
        Draws of the fit.
    priors
        For translation, patients, pharmacology, and what the fit has not seen.
    aliases
        Names of the experiment -> names of the fit.
    engraftment_bias
        If tumours engraft with a probability in proportion to growth^b, PDX models over-represent the fast ones, and
        patients are the PDX models weighted by growth^-b. Of a log-normal growth that is one of a lower median,
        exactly: mean of ln growth less b times its variance.
    sampler
        Of that key, where somebody wants to know what it gave.
    cut_off
        Of the experiment; None follows everybody to the last visit.

    Raises
    ------
    InputError
        If a covariate has no prior.
    """
    size = draws.size
    sampler = sampler or PriorSampler(key, priors, size)
    drugs = tuple(sorted({priors.drug(d).name for arm in cohort.arms for d in arm.drugs}))
    subgroups = tuple(cohort.subgroups) or ("all",)
    prevalence = np.array([s.prevalence for s in cohort.subgroups.values()] or [1.0])

    own_name = {priors.drug(d).name: d for arm in cohort.arms for d in arm.drugs}
    means, spreads, mouse_effect, mouse_loss, origin = [], [], [], [], {}
    for drug in drugs:
        mean, spread, origin[drug] = drug_effect(own_name[drug], cohort.tumour_type, draws, sampler, priors, aliases)
        mouse_effect.append(mean)
        mouse_loss.append(drug_loss(own_name[drug], cohort.tumour_type, draws, sampler, priors, aliases))
        drug_class = priors.drug_class(drug)
        means.append(mean[:, None] + _covariate_shift(cohort, drug_class, draws, sampler, priors, prevalence))
        if draws.labels("class_covariate"):  # subgroups that do not name a covariate hold tumours of any value of it
            named = {name for group in cohort.subgroups.values() for name in group.covariates}
            spread = np.hypot(spread, draws.covariate_spread(drug_class, cohort.tumour_type, named))
        spreads.append(spread)
    mu_growth, omega_growth = type_growth(cohort.tumour_type, draws, sampler, priors)
    mu_growth = mu_growth - engraftment_bias * omega_growth**2
    phi, gamma, omega_combination = pair_rule(drugs, draws, sampler, priors)

    ratio = priors.entry("translation.human_weight_kg").parameters["value"] * 1000.0
    ratio /= priors.entry("translation.mouse_weight_g").parameters["value"]
    within = sampler.entry("translation.drug_type_discrepancy")
    kill, loss, resistant = [], [], []
    for drug in drugs:
        terms = drug_terms(drug, priors.drug_class(drug), sampler)
        here = within * sampler.normal(f"discrepancy {drug} in {cohort.tumour_type}")
        kill.append(np.exp(terms.ln_kill_scale + here))
        loss.append(terms.ln_loss_of_effect)
        resistant.append(resistant_share(drug, cohort.tumour_type, sampler))

    def patient(name):
        return sampler.resolved("patients", cohort.tumour_type, name)

    size_entry = priors.resolve("patients", cohort.tumour_type, "baseline_sld")
    values = dict(
        mu_ln_growth=mu_growth,
        omega_ln_growth=omega_growth,
        growth_scale=ratio ** sampler.entry("translation.growth_exponent"),
        effect_mean=np.stack(means, axis=1),
        effect_sd=np.stack(spreads, axis=1),
        kill_scale=np.stack(kill, axis=1),
        ln_loss_rate=np.stack(loss, axis=1),
        loss_rate_sd=sampler.entry("translation.loss_of_effect_between_patients"),
        phi=phi,
        gamma=gamma,
        omega_combination=omega_combination,
        ln_sld_median=np.full(size, math.log(size_entry.parameters["median"])),
        sld_log_sd=np.full(size, size_entry.parameters["sigma"]),
        mean_lesions=patient("target_lesions"),
        lesion_size_log_sd=patient("lesion_size_log_sd"),
        lesion_log_sd=patient("lesion_log_sd"),
        reading_error=sampler.entry("patients.reading_error"),
        reader_effect=sampler.entry("patients.reader_effect"),
        new_lesion_hazard=patient("new_lesion_hazard"),
        new_lesion_power=patient("new_lesion_power"),
        discontinuation_hazard=patient("discontinuation_hazard"),
        missed_visit=patient("missed_visit"),
        visit_delay=patient("visit_delay"),
        death_share=patient("death_share"),
        resistant_share=np.stack(resistant, axis=1),
        **between_patients(drugs, cohort.tumour_type, sampler, priors),
        **_new_lesion_ratio(drugs, sampler, priors),
    )
    if cut_off is not None:
        values |= dict(accrual=np.full(size, cut_off.accrual), cut_off=np.full(size, cut_off.after))
    if "responder_share" in draws:
        values |= {name: draws.get(name) for name in ("responder_share", "responder_shift")}
    law = PatientLaw(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})

    dosings = [{priors.drug(d).name: dosing.to_dosing() for d, dosing in arm.drugs.items()} for arm in cohort.arms]
    schedule = _schedule(visits.days(), [d for arm in dosings for d in arm.values()])
    regimens = lay_out(drugs, [tuple(arm) for arm in dosings], [arm.discontinuation for arm in cohort.arms])
    curves = arm_exposure(schedule.edges, dosings, drugs, cohort.tumour_type, sampler, priors)
    return CohortPlan(
        law=law,
        exposure=curves[:, np.asarray(regimens.arm)],
        schedule=schedule,
        regimens=regimens,
        prevalence=jnp.asarray(prevalence, jnp.float32),
        subgroups=subgroups,
        drugs=drugs,
        arms=tuple(arm.name for arm in cohort.arms),
        origin=origin,
        mouse_effect=np.stack(mouse_effect, axis=1),
        mouse_loss=np.stack(mouse_loss, axis=1),
    )


def _new_lesion_ratio(drugs: Sequence[str], sampler: PriorSampler, priors: Priors) -> dict[str, np.ndarray]:
    """`PatientLaw.ln_new_lesion_ratio` [D, R], one draw for all drugs of a class; nothing where no class has one."""
    names = [f"classes.{priors.drug_class(drug)}.new_lesion_hazard_ratio" for drug in drugs]
    if not any(name in priors.entries for name in names):
        return {}
    ratio = [sampler.entry(name) if name in priors.entries else np.ones(sampler.size) for name in names]
    return {"ln_new_lesion_ratio": np.log(np.stack(ratio, axis=1))}


def _covariate_shift(
    cohort: Cohort, drug_class: str, draws: Draws, sampler: PriorSampler, priors: Priors, prevalence
) -> np.ndarray:
    """Shift of the effect in each subgroup, [D, B].

    By what the fit has learnt of the covariate in mice of the class, from its mean over the PDX models: patients who
    were chosen for it differ from the panel, all of them. Else by its prior, which knows no panel: from the mean of the
    cohort, which is then that of the tumour type. A subgroup that does not name a covariate has the mean that it is
    measured from, or 0 by a prior.
    """
    names = sorted({name for group in cohort.subgroups.values() for name in group.covariates})
    shift, learnt = np.zeros((sampler.size, len(prevalence))), draws.labels("class_covariate")
    for name in names:
        known, own = priors.names(f"covariates.{name}"), f"{drug_class} | {name}"
        if not known and not any(label.endswith(f" | {name}") for label in learnt):
            raise InputError(
                f"there is no prior for covariate {name!r}; add covariates.{name} to a priors file", key="trial"
            )
        groups = cohort.subgroups.values()
        if own in learnt:
            mean = draws.covariate_mean(cohort.tumour_type)[draws.covariates.index(name)]
            effect = draws.get("covariate_effect")[:, learnt.index(own)]
            centred = np.array([group.covariates.get(name, mean) for group in groups]) - mean
        elif f"covariates.{name}.{drug_class}" in known:
            effect = sampler.entry(f"covariates.{name}.{drug_class}")
            value = np.array([group.covariates.get(name, 0.0) for group in groups])
            centred = value - prevalence @ value
        else:
            continue
        shift += effect[:, None] * centred
    return shift


def _schedule(visit_days: Sequence[float], dosings: Sequence[Dosing]) -> Schedule:
    edges = segment_edges(visit_days, dosings, max_days=28.0)
    at = {day: i for i, day in enumerate(edges)}
    return Schedule(
        edges=jnp.asarray(edges, jnp.float32),
        visit_segment=jnp.asarray([at[float(day)] - 1 for day in visit_days], jnp.int32),
        visit_day=jnp.asarray(visit_days, jnp.float32),
    )
