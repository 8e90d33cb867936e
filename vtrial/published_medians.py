"""What a published arm says of each endpoint, whether others learn from it, and its medians beside the prediction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vtrial.medians import DAYS_PER_MONTH, Curve, predicted, sampling_variance
from vtrial.priors import TrialArm
from vtrial.published import DAYS

#: what trials may teach: responders, median progression free survival, median time to response
ENDPOINTS = ("orr", "pfs", "ttr")
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
_FIELD = {"pfs": "median_pfs_months", "ttr": "median_ttr_months"}


def published_median(arm: TrialArm, endpoint: str) -> tuple[float, float] | None:
    """Published median of pfs or ttr in days, and its sampling variance (see `medians`); None where there is none."""
    months = getattr(arm, _FIELD[endpoint])
    if months is None:
        return None
    if endpoint == "ttr":
        return months * DAYS_PER_MONTH, sampling_variance(arm.num_responders)
    return months * DAYS_PER_MONTH, sampling_variance(arm.num_patients, arm.median_pfs_interval)


def recalled(arm: TrialArm, endpoint: str) -> bool:
    """Whether what an arm says of an endpoint is from memory."""
    return arm.certainty == "recalled" if endpoint == "orr" else _FIELD[endpoint] in arm.recalled


def teaches(arm: TrialArm, endpoint: str = "orr") -> bool:
    """Whether an endpoint of an arm is learnt from: one drug, a dosing, a figure that is not from memory.

    A median later than the last visit teaches nothing: nobody was simulated that long.
    """
    if len(arm.drugs) != 1 or recalled(arm, endpoint):
        return False
    if endpoint == "orr":
        return True
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
