"""What a published arm says beside its responders, whether others learn from it, and what was predicted of it.

Medians are those of :mod:`vtrial.medians`. Shrinkage is a count: patients whose target lesions were ever smaller than
at the start, of those measured; the simulated share comes from best changes, up to and including the first PD.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vtrial.medians import DAYS_PER_MONTH, Curve, predicted, sampling_variance
from vtrial.priors import TrialArm
from vtrial.published import DAYS
from vtrial.scoring import Score, logit_rate, predictive, score

#: what trials may teach: responders, median progression free survival, median time to response, any shrinkage
ENDPOINTS = ("orr", "pfs", "ttr", "shrinkage")
MEDIANS = ("pfs", "ttr")
MEDIAN_COLUMNS = (
    "id",
    "trial",
    "arm",
    "tumour_type",
    "role",
    "endpoint",
    "published_months",
    "certainty",
    "learnt_from",
    "pred_q05",
    "pred_q50",
    "pred_q95",
    "probability",
    "inside",
    "teaches",
    "counted",
)
SHRINKAGE_COLUMNS = (
    "id",
    "trial",
    "arm",
    "tumour_type",
    "role",
    "num_shrunk",
    "num_measured",
    "certainty",
    "learnt_from",
    "pred_mean",
    "pred_q05",
    "pred_q95",
    "mid_p",
    "crps",
    "inside",
    "teaches",
    "counted",
)
#: the fields of an arm that an endpoint is published in, the figure itself first
_FIELDS = {"pfs": ("median_pfs_months",), "ttr": ("median_ttr_months",), "shrinkage": ("num_shrunk", "num_measured")}


def published_median(arm: TrialArm, endpoint: str) -> tuple[float, float] | None:
    """Published median of pfs or ttr in days, and its sampling variance (see `medians`); None where there is none."""
    months = getattr(arm, _FIELDS[endpoint][0])
    if months is None:
        return None
    if endpoint == "ttr":
        return months * DAYS_PER_MONTH, sampling_variance(arm.num_responders)
    return months * DAYS_PER_MONTH, sampling_variance(arm.num_patients, arm.median_pfs_interval)


def recalled(arm: TrialArm, endpoint: str) -> bool:
    """Whether what an arm says of an endpoint is from memory."""
    if endpoint == "orr":
        return arm.certainty == "recalled"
    return any(name in arm.recalled for name in _FIELDS[endpoint])


def teaches(arm: TrialArm, endpoint: str = "orr") -> bool:
    """Whether an endpoint of an arm is learnt from: one drug, a dosing, a figure that is not from memory.

    A median later than the last visit teaches nothing: nobody was simulated that long.
    """
    if len(arm.drugs) != 1 or recalled(arm, endpoint):
        return False
    if endpoint == "orr":
        return True
    if endpoint == "shrinkage":
        return arm.num_shrunk is not None
    published = published_median(arm, endpoint)
    return published is not None and published[0] <= DAYS[-1]


def median_row(
    arm: TrialArm, endpoint: str, curve: Curve, between_trials: np.ndarray, weight: np.ndarray
) -> Iterator[dict[str, object]]:
    """The published median of an arm, if there is one, beside what weighted draws predict of a trial of its size.

    Parameters
    ----------
    arm, endpoint
        pfs or ttr.
    curve, between_trials, weight
        See :func:`vtrial.medians.predicted`.
    """
    published = published_median(arm, endpoint)
    if published is None:
        return
    median, variance = published
    found = predicted(curve, DAYS, median, between_trials, variance, weight)
    yield {
        "id": arm.id,
        "trial": arm.trial,
        "arm": arm.arm,
        "tumour_type": arm.tumour_type,
        "endpoint": endpoint,
        "published_months": median / DAYS_PER_MONTH,
        "certainty": "recalled" if recalled(arm, endpoint) else "published",
        "pred_q05": found.q05 / DAYS_PER_MONTH,
        "pred_q50": found.q50 / DAYS_PER_MONTH,
        "pred_q95": found.q95 / DAYS_PER_MONTH,
        "probability": found.probability,
        "inside": found.inside,
        "teaches": teaches(arm, endpoint),
    }


def shrinkage_row(
    arm: TrialArm, share: np.ndarray, patients: int, between_trials: np.ndarray
) -> Iterator[dict[str, object]]:
    """The published count of patients with any shrinkage, if there is one, beside what draws predict.

    Parameters
    ----------
    arm
        Published; what reader and line do to a response rate is not assumed to hold for any shrinkage.
    share
        Of the simulated patients with an assessment, those with any shrinkage, [D].
    patients
        Simulated behind each share.
    between_trials
        SD of the deviation of one trial on the logit, [D].
    """
    if arm.num_shrunk is None or arm.num_measured is None:
        return
    even = np.full(len(share), 1.0 / len(share))
    count = predictive(logit_rate(share, patients), between_trials, even, arm.num_measured)
    found: Score = score(count, arm.num_shrunk)
    half, seen = 0.5 / arm.num_measured, arm.num_shrunk / arm.num_measured
    yield {
        "id": arm.id,
        "trial": arm.trial,
        "arm": arm.arm,
        "tumour_type": arm.tumour_type,
        "num_shrunk": arm.num_shrunk,
        "num_measured": arm.num_measured,
        "certainty": "recalled" if recalled(arm, "shrinkage") else "published",
        "pred_mean": found.mean,
        "pred_q05": found.q05,
        "pred_q95": found.q95,
        "mid_p": found.mid_p,
        "crps": found.crps,
        "inside": found.q05 - half < seen < found.q95 + half,
        "teaches": teaches(arm, "shrinkage"),
    }
