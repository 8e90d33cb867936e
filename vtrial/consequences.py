"""Priors of an experiment, and what they say before any data: `vtrial priors`.

A quantile of a parameter tells few people whether it is a sensible one; a doubling time or the response rate of an
average drug does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from scipy.special import expit, logit

from vtrial.config import Arm, Cohort, Experiment
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.mouse_prior import PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.prior_mice import DAYS, GROWN, prior_mice
from vtrial.priors import Entry, Priors
from vtrial.published import VISITS, arms_alone
from vtrial.rates import response_rates
from vtrial.responders import SITES as OF_RESPONDERS
from vtrial.translation import plan_cohort
from vtrial.trial import simulate

_WEIGHTS = ("human_weight_kg", "mouse_weight_g")

Quantity = Literal["time", "share", "growth", "mice", "rate"]


class Consequence(NamedTuple):
    """One line: what follows from the priors, with mean, median and 90 % interval.

    Attributes
    ----------
    what, unit : str
        In plain words; days or %.
    quantity : "time", "share", "growth", "mice" or "rate"
        A time, a share of growth or kill, a volume over that at the start, a response rate of mice or of patients.
    mean, q05, q50, q95 : float
        Over draws of the priors, of volumes over mice too. A mean of times or volumes is not given (NaN): one slow or
        one fast tumour would rule it.
    names : tuple of str
        The priors behind it.
    known : tuple of float
        What was published of it, shown beside it and read by nothing.
    """

    what: str
    unit: str
    quantity: Quantity
    mean: float
    q05: float
    q50: float
    q95: float
    names: tuple[str, ...]
    known: tuple[float, ...] = ()


def parameters_text(entry: Entry) -> str:
    """Family and parameters as a short text."""
    return f"{entry.family}({', '.join(f'{name} {value:g}' for name, value in entry.parameters.items())})"


def sentence(line: Consequence) -> str:
    """A line as text: ``what: median (mean) [90 % interval]``, and what was published."""
    said = f"{line.what}: {line.q50:.3g} {line.unit} [{line.q05:.3g}, {line.q95:.3g}]"
    if line.quantity in ("mice", "rate"):
        said = f"{line.what}: {line.q50:.2g} {line.unit} [{line.q05:.2g}, {line.q95:.2g}], mean {line.mean:.2g}"
    known = ", ".join(f"{value:.3g}" for value in line.known)
    return f"{said}; published {known} {line.unit}" if known else said


def _line(
    what: str, quantity: Quantity, values: np.ndarray, names: Sequence[str], known: Sequence[float] = ()
) -> Consequence:
    q05, q50, q95 = np.quantile(values, [0.05, 0.5, 0.95])
    mean = math.nan if quantity in ("time", "growth") else float(values.mean())
    unit = "days" if quantity == "time" else "%"
    return Consequence(what, unit, quantity, mean, float(q05), float(q50), float(q95), tuple(names), tuple(known))


def consequences(experiment: Experiment, priors: Priors, draws: int, patients: int) -> list[Consequence]:
    """Doubling times, effects and response rates that the priors of an experiment imply; no mouse is read.

    The average drug is a new drug of a class that has no prior of its own, at its reference dosing.

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
    has_responders = experiment.fit.responders == "common"
    mice = PriorDraws(jax.random.fold_in(key, 1), priors, draws, responders=has_responders)
    sampler = PriorSampler(key, priors, draws)
    lines = _growth_lines(experiment, priors, mice, sampler)
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
    resistant = expit(
        logit(sampler.entry("translation.resistant_share"))
        + sampler.entry("translation.resistant_logit_sd") * sampler.normal("a resistance")
    )
    classes = [
        f"classes.default.{name}" for name in ("mean_effect", "between_classes", "between_drugs", "between_types")
    ]
    parts = ("ln_kill_scale", "ln_kill_scale_common", "drug_discrepancy", "drug_type_discrepancy")
    scales = [f"translation.{name}" for name in parts]
    losses = ["translation.loss_of_effect", "translation.ln_loss_of_effect_common"]
    lines += [
        _line("half of an effect is lost in a patient after", "time", fade, losses),
        _line("an average new drug takes off a mouse tumour's growth (100: stasis)", "share", 100 * effect, classes),
        _line("of the kill in a mouse, relative to its growth, a patient sees", "share", 100 * kill, scales),
    ]
    if has_responders:
        share, shift = (100 * mice.get(name) for name in OF_RESPONDERS)
        names = [f"classes.default.{name}" for name in OF_RESPONDERS]
        lines += [
            _line("of PDX models and patients are common responders", "share", share, names[:1]),
            _line("more of the growth does every drug take off in a common responder", "share", shift, names[1:]),
        ]
    lines += _mouse_lines(experiment.fit.curve_shape, mice, sampler, classes)
    shares = [f"translation.{name}" for name in ("resistant_share", "resistant_logit_sd")]
    lines.append(
        _line("of the patients are resistant: the drug does nothing in them", "share", 100 * resistant, shares)
    )
    for cohort in experiment.trial.cohorts:
        bare = Cohort(tumour_type=cohort.tumour_type, arms=(_average_drug(cohort, priors),))
        rate = _rates(key, bare, mice, priors, {}, patients)[:, 0, -1]
        lines.append(
            _line(f"{cohort.tumour_type}: response rate of an average new drug", "rate", 100 * rate, ["translation"])
        )
        rates = _rates(key, cohort, mice, priors, experiment.data.aliases, patients)
        for k, arm in enumerate(cohort.arms):
            known = [100 * o.responders / o.patients for o in arm.observed if o.subgroup == "all"]
            what = f"{cohort.tumour_type}: response rate of {arm.name}"
            lines.append(_line(what, "rate", 100 * rates[:, k, -1], ("classes", "translation", "patients"), known))
    return lines


def _mouse_lines(
    shape: CurveShape, mice: PriorDraws, sampler: PriorSampler, classes: Sequence[str]
) -> list[Consequence]:
    """Measured mice of new PDX models of a new tumour type: how far they grow, and how many respond."""
    drawn = prior_mice(sampler, mice, shape)
    if "responder_share" in mice:
        classes = [*classes, *(f"classes.default.{name}" for name in OF_RESPONDERS)]
    rule = ("phi", "phi_spread", "gamma", "gamma_spread", "between_models")
    pair = [f"class_pairs.default.{name}" for name in rule]
    responding = "of the mice of a new tumour type respond (mRECIST) by day"
    return [
        _line(
            f"an untreated mouse tumour has on day {GROWN}, of its volume at the start",
            "growth",
            100 * drawn.grown,
            ["growth.mouse"],
        ),
        _line(
            f"{responding} {DAYS[-1]} to an average new drug",
            "mice",
            100 * drawn.one.mean(1),
            ["growth.mouse", *classes],
        ),
        _line(
            f"{responding} {DAYS[-1]} to two together",
            "mice",
            100 * drawn.two.mean(1),
            ["growth.mouse", *classes, *pair],
        ),
    ]


def _growth_lines(experiment: Experiment, priors: Priors, mice: PriorDraws, sampler: PriorSampler) -> list[Consequence]:
    """Doubling times in mice and patients: of a tumour of any type, and of those of the cohorts that have a prior."""
    weight = {name: priors.entry(f"translation.{name}").parameters["value"] for name in _WEIGHTS}
    ratio = 1000.0 * weight["human_weight_kg"] / weight["mouse_weight_g"]
    scale = ratio ** sampler.entry("translation.growth_exponent")
    within = sampler.entry("growth.mouse.between_models") * sampler.normal("a model of a type")
    general = mice.get("mu_ln_growth") + mice.get("omega_ln_growth_type") * sampler.normal("a tumour type")
    types: list[tuple[str, np.ndarray, list[str], Sequence[float]]] = [
        ("tumour", general, ["growth.mouse.ln_rate", "growth.mouse.between_types"], ())
    ]
    for name in dict.fromkeys(cohort.tumour_type for cohort in experiment.trial.cohorts):
        own, human = f"growth.types.{name}.ln_rate", f"growth.human.{name}.doubling_days"
        known = [priors.entry(human).quantile(0.5)] if human in priors.names() else []
        if own in priors.names():
            types.append((f"{name} tumour", sampler.entry(own), [own], known))
        elif known:
            types.append((f"{name} tumour", general, types[0][2], known))
    lines = []
    for what, centre, names, known in types:
        days = math.log(2.0) / np.exp(centre + within)
        names = [*names, "growth.mouse.between_models"]
        if what != "tumour" and centre is general:  # in mice that is the first line again
            lines.append(_line(f"an untreated {what} of a patient doubles in", "time", days / scale, names, known))
            continue
        lines.append(_line(f"an untreated {what} of a mouse doubles in", "time", days, names))
        in_patients = [*names, "translation.growth_exponent"]
        lines.append(_line(f"an untreated {what} of a patient doubles in", "time", days / scale, in_patients, known))
    return lines


def _average_drug(cohort: Cohort, priors: Priors) -> Arm:
    """A drug of a class without priors of its own, at its reference dosing: without mice it stands for any drug."""
    own = {
        name.split(".")[len(prefix.split("."))]
        for prefix in ("classes", "translation.ln_kill_scale", "translation.class_discrepancy")
        for name in priors.names(prefix)
    }
    in_cohort = [priors.drug(drug) for arm in cohort.arms for drug in arm.drugs]
    for info in [*in_cohort, *priors.drugs.values()]:
        if info.pk is not None and info.drug_class not in own:
            return Arm(name=info.name, drugs={info.name: info.pk.reference})
    raise InputError("every drug with a clinical dose is of a class with priors of its own", key="drugs")


def _rates(
    key: jax.Array, cohort: Cohort, mice: PriorDraws, priors: Priors, aliases: Mapping[str, str], patients: int
) -> np.ndarray:
    key_translation, key_patients = jax.random.split(key)
    plan = arms_alone(plan_cohort(key_translation, cohort, VISITS, mice, priors, aliases))  # pyright: ignore[reportArgumentType]
    counts, _ = simulate(key_patients, plan.trial(), num_patients=patients)
    return response_rates(plan, jax.tree.map(np.asarray, counts), True)["confirmed_orr"]
