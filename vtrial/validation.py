"""Published arms predicted and scored, each from mice and the other trials alone: `vtrial validate`.

An arm's prediction never sees its own trial, nor what overlaps it. Arms of one drug teach (role calibration), predicted
with their whole trial left out; combinations never teach (role held_out), nor does an arm whose counts are from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from vtrial.calibration import Calibration, Teacher, Weights
from vtrial.medians import Curve
from vtrial.medians import log_likelihood as median_log_likelihood
from vtrial.meta_analysis import MetaAnalysis, MetaArm
from vtrial.mouse_prior import PriorDraws
from vtrial.priors import Priors, TrialArm
from vtrial.published import DAYS, MouseDraws, SimulatedArms, independent_arms, left_out_with, simulate_arms
from vtrial.published_medians import ENDPOINTS, MEDIAN_COLUMNS, median_row, published_median, teaches
from vtrial.scoring import log_likelihood, logit_rate, most_misses, paired_difference, predictive, score
from vtrial.translation import PriorSampler, class_terms, common_terms, drug_terms

COLUMNS = (
    "id",
    "trial",
    "arm",
    "tumour_type",
    "role",
    "num_responders",
    "num_patients",
    "pred_mean",
    "pred_q05",
    "pred_q95",
    "mid_p",
    "crps",
    "crps_no_mice",
    "crps_meta",
    "crps_independent_action",
    "crps_uncalibrated",
    "mid_p_uncalibrated",
    "crps_other_endpoints",
    "khat",
    "ess",
    "power",
    "teachers",
    "certainty",
    "in_mice",
    "counted",
    "biomarker",
    "origin",
)
#: differences and intervals are reported for these sets of arms
SETS = ("all arms", "counts seen", "drug and tumour type in the mice", "one drug", "combinations")


class Settings(NamedTuple):
    """Size and seed of a validation."""

    draws: int = 2000
    patients: int = 2000
    seed: int = 7
    endpoints: tuple[str, ...] = ("orr",)  # of ENDPOINTS, that trials teach with

    def other_endpoints(self) -> tuple[str, ...]:
        """What these are compared with: all, or the response rate alone where they are all."""
        return ENDPOINTS if self.endpoints != ENDPOINTS else ENDPOINTS[:1]


class Validation(NamedTuple):
    """Scores of every arm, what was not predicted, and what follows."""

    scores: pd.DataFrame
    not_predicted: pd.DataFrame
    summary: pd.DataFrame
    coverage: Mapping[str, int]
    medians: pd.DataFrame


class _Pipeline:
    """One simulation of all arms, and what the trials say about it."""

    def __init__(
        self,
        key: jax.Array,
        arms: Sequence[TrialArm],
        draws: MouseDraws,
        priors: Priors,
        aliases: Mapping[str, str],
        settings: Settings,
        progress: Callable[[str, int, int], None],
        *,
        independent_action: bool = True,
    ):
        self.simulated: SimulatedArms = simulate_arms(
            key, arms, draws, priors, aliases, settings.patients, progress, independent_action=independent_action
        )
        # the sampler of the translation draws, as `simulate_arms` splits it off
        sampler = PriorSampler(jax.random.split(key)[0], priors, draws.size)
        self.between_trials = sampler.entry("translation.between_trials")
        self._offsets = offsets(sampler, arms)
        classes = {priors.drug_class(drug) for arm in arms for drug in arm.drugs}
        terms = {name: class_terms(name, sampler) for name in sorted(classes)}
        self._drugs = {arm.id: _classes(arm, priors) for arm in arms}
        known = {drug: name for drugs in self._drugs.values() for drug, name in drugs.items()}
        own = {drug: drug_terms(drug, name, sampler) for drug, name in sorted(known.items())}
        self._arms = arms
        teachers = [
            Teacher(
                arm.id,
                *next(iter(self._drugs[arm.id].items())),
                arm.tumour_type,
                {name: self.log_likelihood(arm, name) for name in ENDPOINTS if teaches(arm, name)},
            )
            for arm in arms
            if any(teaches(arm, name) for name in ENDPOINTS)
        ]
        self.calibration = Calibration(teachers, own, terms, common_terms(sampler))

    def logit(self, arm: TrialArm, *, independent_action: bool = False) -> np.ndarray:
        """Logit of the rate as this arm's reader and line would see it, [D]."""
        rates = self.simulated.independent_action if independent_action else self.simulated.rate
        return logit_rate(rates[arm.id], self.simulated.patients[arm.id]) + self._offsets[arm.id]

    def curve(self, arm: TrialArm, endpoint: str) -> Curve:
        """Curve of the time that the median of `endpoint`, pfs or ttr, is of."""
        return (self.simulated.progression if endpoint == "pfs" else self.simulated.response)[arm.id]

    def log_likelihood(self, arm: TrialArm, endpoint: str) -> np.ndarray:
        """Log likelihood of what an arm published of an endpoint, [D]."""
        if endpoint == "orr":
            return log_likelihood(self.logit(arm), self.between_trials, arm.num_responders, arm.num_patients)
        published = published_median(arm, endpoint)
        if published is None:
            raise ValueError(f"endpoint: arm {arm.id} publishes no {endpoint}")
        median, variance = published
        return median_log_likelihood(self.curve(arm, endpoint), DAYS, median, self.between_trials, variance)

    def weights(self, arm: TrialArm, endpoints: Sequence[str]) -> Weights:
        """Weights of the draws, the arm's trial and all that overlaps it left out."""
        hidden = left_out_with(arm, self._arms)
        return self.calibration.weights(self._drugs[arm.id], arm.tumour_type, hidden, endpoints)


def offsets(sampler: PriorSampler, arms: Sequence[TrialArm]) -> dict[int, np.ndarray]:
    """What reader and line add to the logit of the rate, [D] by id; 0 where the source does not tell."""
    reader = sampler.entry("translation.reader_investigator")
    line = sampler.entry("translation.per_prior_line")
    reference = sampler.entry("translation.reference_prior_lines")
    return {
        arm.id: reader * float(arm.reader == "investigator")
        + (line * (arm.prior_lines - reference) if arm.prior_lines is not None else 0.0)
        for arm in arms
    }


def _classes(arm: TrialArm, priors: Priors) -> dict[str, str]:
    return {priors.drug(drug).name: priors.drug_class(drug) for drug in arm.drugs}


def _meta_arm(arm: TrialArm, priors: Priors, offset: np.ndarray) -> MetaArm:
    drugs = _classes(arm, priors)
    return MetaArm(arm.id, arm.trial, arm.tumour_type, drugs, arm.num_responders, arm.num_patients, offset)


def validate(
    draws: MouseDraws,
    priors: Priors,
    aliases: Mapping[str, str],
    settings: Settings,
    progress: Callable[[str, int, int], None],
) -> Validation:
    """Predict and score every published arm that has a dosing.

    Parameters
    ----------
    draws
        Draws of the fit, `settings.draws` of them.
    priors
        Their ``trials`` are the arms.
    aliases
        Names of the experiment -> names of the fit.
    settings
        Size and seed.
    progress
        Told of every step.
    """
    arms = [arm for arm in priors.trials if arm.drugs]
    key = jax.random.key(settings.seed)
    mice = _Pipeline(key, arms, draws, priors, aliases, settings, progress)
    prior_draws = PriorDraws(jax.random.fold_in(key, 1), priors, draws.size)
    no_mice = _Pipeline(
        key,
        arms,
        prior_draws,
        priors,
        aliases,
        settings,
        lambda what, done, total: progress(f"{what}, no mice", done, total),
        independent_action=False,
    )

    sampler = PriorSampler(jax.random.split(key)[0], priors, draws.size)
    shift = offsets(sampler, arms)
    meta_arms = {arm.id: _meta_arm(arm, priors, shift[arm.id]) for arm in arms}
    between = float(np.mean(mice.between_trials))
    names = {
        "drug": {drug for m in meta_arms.values() for drug in m.drugs},
        "drug_class": {c for m in meta_arms.values() for c in m.drugs.values()},
        "tumour_type": {arm.tumour_type for arm in arms},
    }
    teachers = [meta_arms[arm.id] for arm in arms if teaches(arm)]
    meta = MetaAnalysis(jax.random.fold_in(key, 2), teachers, names, between)

    counted = independent_arms(arms)
    rows, times = [], []
    for number, arm in enumerate(arms):
        progress("scores", number, len(arms))
        n, size = arm.num_responders, arm.num_patients

        def judged(logit, spread, weight, n=n, size=size):
            return score(predictive(logit, spread, weight, size), n)

        weights, others = mice.weights(arm, settings.endpoints), no_mice.weights(arm, settings.endpoints)
        differently = mice.weights(arm, settings.other_endpoints())
        flat = np.full(draws.size, 1.0 / draws.size)
        own = judged(mice.logit(arm), mice.between_trials, weights.weight)
        before = judged(mice.logit(arm), mice.between_trials, flat)
        without = judged(no_mice.logit(arm), no_mice.between_trials, others.weight)
        logit = meta.logit(meta_arms[arm.id], left_out_with(arm, arms))
        literature = judged(logit, np.full(len(logit), between), np.full(len(logit), 1.0 / len(logit)))
        action = np.nan
        if len(arm.drugs) > 1:
            null = mice.logit(arm, independent_action=True)
            action = judged(null, mice.between_trials, weights.weight).crps
        elsewise = judged(mice.logit(arm), mice.between_trials, differently.weight)
        role, is_counted = "calibration" if teaches(arm) else "held_out", arm.id in counted
        for learnt, used in ((settings.endpoints, weights), (settings.other_endpoints(), differently)):
            more = {"role": role, "learnt_from": " + ".join(learnt), "counted": is_counted}
            for name in ENDPOINTS[1:]:
                curve = mice.curve(arm, name)
                times += [{**row, **more} for row in median_row(arm, name, curve, mice.between_trials, used.weight)]
        origin = mice.simulated.origin[arm.id]
        rows.append(
            {
                "id": arm.id,
                "trial": arm.trial,
                "arm": arm.arm,
                "tumour_type": arm.tumour_type,
                "role": role,
                "num_responders": n,
                "num_patients": size,
                "pred_mean": own.mean,
                "pred_q05": own.q05,
                "pred_q95": own.q95,
                "mid_p": own.mid_p,
                "crps": own.crps,
                "crps_no_mice": without.crps,
                "crps_meta": literature.crps,
                "crps_independent_action": action,
                "crps_uncalibrated": before.crps,
                "mid_p_uncalibrated": before.mid_p,
                "crps_other_endpoints": elsewise.crps,
                "khat": weights.khat,
                "ess": weights.ess,
                "power": weights.power,
                "teachers": weights.teachers,
                "certainty": arm.certainty,
                "in_mice": all(f"fitted in {arm.tumour_type}" in part for part in origin.split("; ")),
                "counted": is_counted,
                "biomarker": arm.biomarker or "",
                "origin": origin,
            }
        )
    progress("scores", len(arms), len(arms))
    scores = pd.DataFrame(rows, columns=list(COLUMNS))
    missing = [
        {"id": a.id, "trial": a.trial, "arm": a.arm, "tumour_type": a.tumour_type, "reason": a.not_predictable}
        for a in priors.trials
        if not a.drugs
    ]
    not_predicted = pd.DataFrame(missing, columns=["id", "trial", "arm", "tumour_type", "reason"])
    medians = pd.DataFrame(times, columns=list(MEDIAN_COLUMNS))
    return Validation(scores, not_predicted, summary(scores, settings.seed), coverage(scores), medians)


def members(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """The arms of one of :data:`SETS`; a whole never beside its parts."""
    counted = scores[scores["counted"]]
    single = counted["crps_independent_action"].isna()
    chosen = {
        "all arms": pd.Series(True, counted.index),
        "counts seen": counted["certainty"] != "recalled",
        "drug and tumour type in the mice": counted["in_mice"],
        "one drug": single,
        "combinations": ~single,
    }
    return counted[chosen[name]]


def summary(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Mean CRPS and paired differences to other ways of predicting, per set of arms; negative: mice are better."""
    rows = []
    for name in SETS:
        part = members(scores, name)
        for against in ("no_mice", "meta", "uncalibrated", "independent_action", "other_endpoints"):
            if part.empty:
                continue
            difference = (part["crps"] - part[f"crps_{against}"]).to_numpy(float)
            found = paired_difference(difference, part["trial"].to_numpy(str), seed)
            if found.arms:
                other = part.loc[~np.isnan(difference), f"crps_{against}"].mean()
                mean = part.loc[~np.isnan(difference), "crps"].mean()
                rows.append((name, against, found.arms, found.trials, mean, other, *found[:3]))
    columns = ["arms_of", "against", "arms", "trials", "crps", "crps_other", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def coverage(scores: pd.DataFrame) -> dict[str, int]:
    """Misses of the 90 % intervals, below and above, and the most that chance allows."""
    part = members(scores, "all arms")
    observed = part["num_responders"] / part["num_patients"]
    # q05 and q95 are multiples of 1 / patients, so are the rates: half a patient tells them apart
    half = 0.5 / part["num_patients"]
    below, above = observed < part["pred_q05"] - half, observed > part["pred_q95"] + half
    return {
        "arms": len(part),
        "misses": int((below | above).sum()),
        "below": int(below.sum()),
        "above": int(above.sum()),
        "most": most_misses(len(part)),
    }
