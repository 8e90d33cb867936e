"""Priors of an experiment, and what they say before any data: `vtrial priors`.

A quantile of a parameter tells few people whether it is a sensible one; a doubling time or the response rate of an
average drug does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from vtrial.config import Arm, Cohort, Experiment
from vtrial.mouse_prior import PriorDraws
from vtrial.priors import Entry, Priors
from vtrial.published import VISITS, arms_alone
from vtrial.rates import response_rates
from vtrial.regimen import Dosing
from vtrial.translation import PriorSampler, plan_cohort
from vtrial.trial import simulate

_MIDDLE, _ENDS = 0.5, (0.05, 0.95)


class Consequence(NamedTuple):
    """One line: what follows from the priors, with its median and 90 % interval."""

    what: str
    unit: str
    q05: float
    q50: float
    q95: float
    names: tuple[str, ...]  # the priors behind it


def parameters_text(entry: Entry) -> str:
    """Family and parameters as a short text."""
    return f"{entry.family}({', '.join(f'{name} {value:g}' for name, value in entry.parameters.items())})"


def _line(what: str, unit: str, values: np.ndarray, *names: str) -> Consequence:
    q05, q50, q95 = np.quantile(values, [_ENDS[0], _MIDDLE, _ENDS[1]])
    return Consequence(what, unit, float(q05), float(q50), float(q95), names)


def consequences(experiment: Experiment, priors: Priors, draws: int, patients: int) -> list[Consequence]:
    """Doubling times, effects and response rates that the priors of an experiment imply; no mouse is read.

    The average drug is a new drug of a new class at full effect for as long as it is given.

    Parameters
    ----------
    experiment
        Its cohorts give the tumour types and arms.
    priors
        Of the experiment.
    draws, patients
        Size of the simulation.
    """
    key = jax.random.key(experiment.trial.seed)
    mice = PriorDraws(jax.random.fold_in(key, 1), priors, draws)
    sampler = PriorSampler(key, priors, draws)
    z = sampler.normal("a model of a type")
    ln_growth = (
        mice.get("mu_ln_growth")
        + mice.get("omega_ln_growth_type") * sampler.normal("a tumour type")
        + sampler.entry("growth.mouse.between_models") * z
    )
    mouse = math.log(2.0) / np.exp(ln_growth)
    weight = {
        name: priors.entry(f"translation.{name}").parameters["value"] for name in ("human_weight_kg", "mouse_weight_g")
    }
    scale = (1000.0 * weight["human_weight_kg"] / weight["mouse_weight_g"]) ** sampler.entry(
        "translation.growth_exponent"
    )
    effect = (
        mice.get("mu_effect")
        + mice.get("omega_effect_class") * sampler.normal("a class")
        + mice.get("omega_effect_drug") * sampler.normal("a drug")
        + mice.get("omega_effect_type") * sampler.normal("a type")
    )
    fade = math.log(2.0) / (
        sampler.entry("translation.loss_of_effect.default")
        * np.exp(sampler.entry("translation.ln_loss_of_effect_common"))
    )
    kill = np.exp(
        sampler.entry("translation.ln_kill_scale.default")
        + sampler.entry("translation.ln_kill_scale_common")
        + sampler.entry("translation.drug_discrepancy") * sampler.normal("a discrepancy")
        + sampler.entry("translation.drug_type_discrepancy") * sampler.normal("a discrepancy in a type")
    )
    growth = ("growth.mouse.ln_rate", "growth.mouse.between_types", "growth.mouse.between_models")
    classes = tuple(
        f"classes.default.{name}" for name in ("mean_effect", "between_classes", "between_drugs", "between_types")
    )
    lines = [
        _line("an untreated tumour of a mouse doubles its volume in", "days", mouse, *growth),
        _line(
            "an untreated tumour of a patient doubles its volume in",
            "days",
            mouse / scale,
            "translation.growth_exponent",
            *growth,
        ),
        _line(
            "an average new drug takes off the growth of a mouse's tumour (100 = stasis)", "%", 100 * effect, *classes
        ),
        _line(
            "of a mouse's kill a patient sees",
            "%",
            100 * kill,
            "translation.ln_kill_scale",
            "translation.ln_kill_scale_common",
            "translation.drug_discrepancy",
            "translation.drug_type_discrepancy",
        ),
        _line(
            "half of an effect is lost in a patient after",
            "days",
            fade,
            "translation.loss_of_effect",
            "translation.ln_loss_of_effect_common",
        ),
    ]
    for cohort in experiment.trial.cohorts:
        bare = Cohort(tumour_type=cohort.tumour_type, arms=(_average_drug(cohort, priors),))
        rate = _rates(key, bare, mice, priors, {}, patients)[:, 0, -1]
        lines.append(
            _line(
                f"response rate of an average new drug in {cohort.tumour_type}",
                "%",
                100 * rate,
                *classes,
                "translation",
            )
        )
        rates = _rates(key, cohort, mice, priors, experiment.data.aliases, patients)
        for k, arm in enumerate(cohort.arms):
            what = f"response rate of {arm.name} in {cohort.tumour_type}, without any mouse"
            lines.append(_line(what, "%", 100 * rates[:, k, -1], "classes", "translation", "patients"))
    return lines


def _average_drug(cohort: Cohort, priors: Priors) -> Arm:
    """The first drug of a cohort at its reference dosing: without mice it stands for any drug of its class."""
    drug = next(drug for arm in cohort.arms for drug in arm.drugs)
    pk = priors.drug(drug).pk
    reference: Dosing = cohort.arms[0].drugs[drug] if pk is None else pk.reference
    return Arm(name=drug, drugs={drug: reference})


def _rates(
    key: jax.Array, cohort: Cohort, mice: PriorDraws, priors: Priors, aliases: Mapping[str, str], patients: int
) -> np.ndarray:
    key_translation, key_patients = jax.random.split(key)
    plan = arms_alone(plan_cohort(key_translation, cohort, VISITS, mice, priors, aliases))  # pyright: ignore[reportArgumentType]
    counts = simulate(
        key_patients,
        plan.law,
        plan.exposure,
        plan.schedule,
        plan.regimens,
        plan.prevalence,
        num_patients=patients,
    )
    return response_rates(plan, jax.tree.map(np.asarray, counts), True)["confirmed_orr"]
