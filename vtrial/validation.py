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

from vtrial.meta_analysis import MetaAnalysis, MetaArm
from vtrial.mouse_prior import MouseDraws, PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors, TrialArm
from vtrial.published import SimulatedArms, independent_arms, left_out_with, simulate_arms
from vtrial.published_endpoints import (
    MEDIAN_COLUMNS,
    MEDIANS,
    SHRINKAGE_COLUMNS,
    median_row,
    shrinkage_row,
    teaches,
)
from vtrial.scoring import Score, logit_rate, most_misses, paired_difference, predictive, score
from vtrial.taught import Settings, Taught, classes_of, offsets

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
    "ess",
    "teachers",
    "certainty",
    "in_mice",
    "counted",
    "biomarker",
    "origin",
)
#: differences and intervals are reported for these sets of arms
SETS = ("all arms", "counts seen", "drug and tumour type in the mice", "one drug", "combinations")


class Validation(NamedTuple):
    """Scores of every arm, what was not predicted, and what follows."""

    scores: pd.DataFrame
    not_predicted: pd.DataFrame
    summary: pd.DataFrame
    coverage: Mapping[str, int]
    medians: pd.DataFrame
    shrinkage: pd.DataFrame


class _Prediction(NamedTuple):
    """Arms simulated in D draws of mice and translation."""

    simulated: SimulatedArms
    between_trials: np.ndarray  # [D]
    offsets: Mapping[int, np.ndarray]  # of reader and line, [D] by id
    teachers: int

    def logit(self, arm: TrialArm, *, independent_action: bool = False) -> np.ndarray:
        """Logit of the rate as this arm's reader and line would see it, [D]."""
        rates = self.simulated.independent_action if independent_action else self.simulated.rate
        return logit_rate(rates[arm.id], self.simulated.patients[arm.id]) + self.offsets[arm.id]

    def score(self, arm: TrialArm, *, independent_action: bool = False) -> Score:
        """Of the count that came, in one trial of that many patients."""
        logit = self.logit(arm, independent_action=independent_action)
        even = np.full(len(logit), 1.0 / len(logit))
        return score(predictive(logit, self.between_trials, even, arm.num_patients), arm.num_responders)


class _Pipeline:
    """Arms predicted from mice and from what other trials say about their translation."""

    def __init__(self, taught: Taught, *, independent_action: bool = True):
        self._taught, self._independent_action = taught, independent_action

    def untaught(self) -> _Prediction:
        """All arms, from mice and the priors of the translation alone."""
        return self._predicted(self._taught.arms, self._taught.before(), 0)

    def taught(self, arm: TrialArm) -> _Prediction:
        """An arm, its trial and all that overlaps it left out."""
        sampler, teachers = self._taught.after(left_out_with(arm, self._taught.arms))
        return self._predicted([arm], sampler, teachers)

    def _predicted(self, arms: Sequence[TrialArm], sampler: PriorSampler, teachers: int) -> _Prediction:
        taught = self._taught
        made = simulate_arms(
            taught.key,
            arms,
            taught.draws,
            sampler,
            taught.priors,
            taught.aliases,
            taught.settings.patients,
            independent_action=self._independent_action,
        )
        return _Prediction(made, sampler.entry("translation.between_trials"), offsets(sampler, arms), teachers)


def _meta_arm(arm: TrialArm, priors: Priors, offset: np.ndarray) -> MetaArm:
    drugs = classes_of(arm, priors)
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
        Of the fit, `settings.mice` of them.
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
    mice = _Pipeline(Taught(key, arms, draws, priors, aliases, settings, progress))
    # the same model, with common responders where the fit has them
    has_responders = "responder_share" in draws
    prior_draws = PriorDraws(jax.random.fold_in(key, 1), priors, draws.size, responders=has_responders)

    def without_mice(what: str, done: int, total: int) -> None:
        progress(f"{what}, no mice", done, total)

    no_mice = _Pipeline(
        Taught(key, arms, prior_draws, priors, aliases, settings, without_mice), independent_action=False
    )
    untaught = mice.untaught()

    meta_arms = {arm.id: _meta_arm(arm, priors, untaught.offsets[arm.id]) for arm in arms}
    between = float(np.mean(untaught.between_trials))
    names = {
        "drug": {drug for m in meta_arms.values() for drug in m.drugs},
        "drug_class": {c for m in meta_arms.values() for c in m.drugs.values()},
        "tumour_type": {arm.tumour_type for arm in arms},
    }
    teachers = [meta_arms[arm.id] for arm in arms if teaches(arm)]
    meta = MetaAnalysis(jax.random.fold_in(key, 2), teachers, names, between)

    counted = independent_arms(arms)
    rows, times, shrunk = [], [], []
    for number, arm in enumerate(arms):
        progress("scores", number, len(arms))
        found = mice.taught(arm)
        own, before, without = found.score(arm), untaught.score(arm), no_mice.taught(arm).score(arm)
        logit = meta.logit(meta_arms[arm.id], left_out_with(arm, arms))
        even = np.full(len(logit), 1.0 / len(logit))
        count = predictive(logit, np.full(len(logit), between), even, arm.num_patients)
        literature = score(count, arm.num_responders)
        action = found.score(arm, independent_action=True).crps if len(arm.drugs) > 1 else np.nan
        role, is_counted = "calibration" if teaches(arm) else "held_out", arm.id in counted
        more = {"role": role, "learnt_from": " + ".join(settings.endpoints), "counted": is_counted}
        made = found.simulated
        for row in shrinkage_row(arm, made.shrunk[arm.id], made.patients[arm.id], found.between_trials):
            shrunk.append({**row, **more})
        for name in MEDIANS:
            curve = (made.progression if name == "pfs" else made.response)[arm.id]
            flat = np.full(len(curve.free), 1.0 / len(curve.free))
            times += [{**row, **more} for row in median_row(arm, name, curve, found.between_trials, flat)]
        origin = found.simulated.origin[arm.id]
        rows.append(
            {
                "id": arm.id,
                "trial": arm.trial,
                "arm": arm.arm,
                "tumour_type": arm.tumour_type,
                "role": role,
                "num_responders": arm.num_responders,
                "num_patients": arm.num_patients,
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
                "ess": _effective_draws(found.logit(arm).reshape(draws.size, -1)),
                "teachers": found.teachers,
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
    shrinkage = pd.DataFrame(shrunk, columns=list(SHRINKAGE_COLUMNS))
    return Validation(scores, not_predicted, summary(scores, settings.seed), coverage(scores), medians, shrinkage)


def _effective_draws(logit: np.ndarray) -> float:
    """How many independent draws [J, R] are worth in a mean, those of one draw of the mice being alike; at most J R."""
    of_mean = logit.mean(axis=1).var(ddof=1) / len(logit) if len(logit) > 1 else 0.0
    return float(min(logit.size, logit.var() / of_mean)) if of_mean > 0.0 else float(logit.size)


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
        for against in ("no_mice", "meta", "uncalibrated", "independent_action"):
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
