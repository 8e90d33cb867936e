"""Counts of one simulation -> the rows of `endpoints.csv`: what an arm shows beside its response rate.

Everything is read from `EndpointCounts`, per draw: nothing is simulated again. Times are Kaplan-Meier curves on whole
days where visits are late, as a trial would draw them, else on the days of the visits; a median that a draw's curve
does not reach counts as beyond the last visit, and a quantile over draws that falls there is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vtrial.config import Cohort
from vtrial.outcomes import Counts, EndpointCounts
from vtrial.response import CR, NE, PD, PR, SD, Response
from vtrial.translation import CohortPlan

COLUMNS = (
    "arm",
    "tumour_type",
    "subgroup",
    "endpoint",
    "unit",
    "mean",
    "sd",
    "q05",
    "q25",
    "q50",
    "q75",
    "q95",
    "missing",
    "source",
)
#: of the curves of progression free survival
PFS_COLUMNS = ("tumour_type", "arm", "day", "mean", "q05", "q25", "q50", "q75", "q95")
#: of the mean of a curve, less than which is not seen in a picture
LEAST_STEP = 0.0025
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LANDMARK_DAYS = (182.0, 365.0)


def landmark_curve(events: np.ndarray, censored: np.ndarray) -> np.ndarray:
    """Kaplan-Meier survival just after each of the times that counts are given at.

    Parameters
    ----------
    events, censored
        Patients with the event, and without it but last seen, at each time; [..., T], times increasing. Who is
        censored at a time is at risk at it.

    Returns
    -------
    array [..., T]
        NaN where nobody is at risk before the curve has reached 0.
    """
    leaving = events + censored
    at_risk = np.flip(np.cumsum(np.flip(leaving, -1), -1), -1)
    hazard = np.divide(events, at_risk, out=np.zeros(events.shape), where=at_risk > 0)
    curve = np.cumprod(1.0 - hazard, axis=-1)
    return np.where((at_risk > 0) | (curve <= 0.0), curve, np.nan)


def median_time(curve: np.ndarray, days: np.ndarray) -> np.ndarray:
    """First of the days at which survival is one half or less; infinite where it never is."""
    reached = np.nan_to_num(curve, nan=1.0) <= 0.5
    return np.where(reached.any(-1), np.asarray(days)[np.argmax(reached, axis=-1)], np.inf)


def survival_at(curve: np.ndarray, days: np.ndarray, day: float) -> np.ndarray:
    """Survival on a day; NaN where no patient is at risk there."""
    before = np.flatnonzero(np.asarray(days) <= day)
    return curve[..., before[-1]] if len(before) else np.ones(curve.shape[:-1])


def ends_by_visit(endpoints: EndpointCounts) -> np.ndarray:
    """Patients by visit of the end, day 0 first, and its kind, [D, A, B + 1, V + 1, 3]; all subgroups last."""
    return _with_all(endpoints.course).sum(3)


def ends_by_day(endpoints: EndpointCounts, visit_days: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Days [T], and patients by day and kind of their end [D, A, B + 1, T, 3].

    Every whole day up to the planned day of the last visit where visits are late; else day 0 and the visits.
    """
    if endpoints.end_day is None:
        return np.array([0.0, *visit_days], float), ends_by_visit(endpoints)
    by_end = _with_all(endpoints.end_day)
    return np.arange(by_end.shape[-2], dtype=float), by_end


def survival_curves(by_end: np.ndarray) -> dict[str, np.ndarray]:
    """Kaplan-Meier curves ``ttp`` and ``pfs`` [..., T] from patients by time and kind of their end [..., T, 3].

    Progression free survival counts death as an event; for the time to progression it censors.
    """
    return {
        "ttp": landmark_curve(by_end[..., 1], by_end[..., 0] + by_end[..., 2]),
        "pfs": landmark_curve(by_end[..., 1] + by_end[..., 2], by_end[..., 0]),
    }


def pfs_rows(cohort: Cohort, plan: CohortPlan, curves: np.ndarray, days: np.ndarray) -> pd.DataFrame:
    """Progression free survival of all patients of every arm of a cohort: mean and quantiles over draws, a row a time.

    A day has a row where the mean has moved by `LEAST_STEP` since the last one; so have the first and the last day.

    Parameters
    ----------
    curves : array [D, A, T]
        From `survival_curves`.
    days : array [T]
        From `ends_by_day`.
    """
    rows = []
    for k, arm in enumerate(plan.arms):
        last = np.inf
        for place, day in enumerate(days.tolist()):
            draws = curves[:, k, place]
            draws = draws[~np.isnan(draws)]
            if not len(draws):  # nobody may be at risk so late in any draw
                continue
            mean = draws.mean()
            if abs(mean - last) >= LEAST_STEP or place == len(days) - 1:
                values = (cohort.tumour_type, arm, day, mean, *np.quantile(draws, QUANTILES))
                rows.append(dict(zip(PFS_COLUMNS, values, strict=True)))
                last = mean
    return pd.DataFrame(rows, columns=list(PFS_COLUMNS))


def _with_all(x: Any) -> np.ndarray:
    """Counts with those of all patients after those of the subgroups."""
    x = np.asarray(x, np.int64)
    return np.concatenate([x, x.sum(2, keepdims=True)], axis=2)


def draw_endpoints(
    counts: Counts, endpoints: EndpointCounts, visit_days: Sequence[float], confirmation: bool
) -> dict[str, tuple[str, np.ndarray]]:
    """Every endpoint of every draw, arm and subgroup (all patients last): name -> (unit, values [D, A, B + 1]).

    Denominators: all patients (intention to treat) unless the name says evaluable, the patients with an evaluable
    assessment after baseline. Rates of a subgroup without patients, and times of an arm without any responder, are NaN.
    """
    with_all = _with_all
    course, change, evaluable = (with_all(x) for x in (endpoints.course, endpoints.change, endpoints.evaluable))
    num_arms = course.shape[1]
    confirmed, unconfirmed = (
        with_all(np.asarray(x)[:, :num_arms]) for x in (counts.best_response, counts.best_unconfirmed)
    )
    patients = np.asarray(counts.num_patients, np.int64)[:, None, :]
    patients = np.broadcast_to(with_all(patients), evaluable.shape)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)

    found: dict[str, tuple[str, np.ndarray]] = {}
    for name, best in (("confirmed", confirmed), ("unconfirmed", unconfirmed)):
        responders = best[..., CR] + best[..., PR]
        found[f"{name}_orr"] = ("fraction", share(responders, patients))
        found[f"{name}_orr_evaluable"] = ("fraction", share(responders, evaluable))
        found[f"{name}_dcr"] = ("fraction", share(responders + best[..., SD], patients))
        for code in (CR, PR, SD, PD, NE):
            found[f"{name}_bor_{Response(code).name}"] = ("fraction", share(best[..., code], patients))
    local = confirmed if confirmation else unconfirmed
    responders = local[..., CR] + local[..., PR]
    if endpoints.blinded is not None:
        blinded, both = with_all(endpoints.blinded), with_all(endpoints.both)
        by_blinded = blinded[..., CR] + blinded[..., PR]
        found["blinded_orr"] = ("fraction", share(by_blinded, patients))
        found["readers_agree"] = ("fraction", 1.0 - share(responders + by_blinded - 2 * both, patients))

    days, by_end = ends_by_day(endpoints, visit_days)
    for name, curve in survival_curves(by_end).items():
        found[f"{name}_median"] = ("day", np.where(patients > 0, median_time(curve, days), np.nan))
        for landmark in LANDMARK_DAYS:
            if landmark <= days[-1]:
                found[f"{name}_at_{landmark:.0f}_days"] = ("fraction", survival_at(curve, days, landmark))

    if endpoints.duration is None:
        duration, lasting, ended = _durations(course, days)
        by_start, starts = course.sum((-1, -2))[..., 1:], days[1:]
    else:
        by_length = with_all(endpoints.duration)
        duration, lasting, ended = days, by_length[..., 0], by_length[..., 1]
        by_start, starts = with_all(endpoints.response_day), days
    curve = landmark_curve(ended, lasting)
    some = responders > 0
    found["dor_median"] = ("day", np.where(some, median_time(curve, duration), np.nan))
    found["dor_at_182_days"] = ("fraction", np.where(some, survival_at(curve, duration, 182.0), np.nan))
    found["time_to_response_median"] = ("day", np.where(some, _median_of(by_start, starts), np.nan))
    # a bin of 5 % is its middle; the two at the ends are -100 % and more than +100 %
    middle = np.concatenate([[-100.0], np.arange(-97.5, 100.0, 5.0), [np.inf]])
    measured = change[..., :-1]
    found["best_change_median"] = ("%", np.where(measured.sum(-1) > 0, _median_of(measured, middle), np.nan))
    return found


def _durations(course: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct durations of response, and how many responses were censored and ended at each, [..., T]."""
    size = len(days)
    pairs = [(s, e) for s in range(1, size) for e in range(s, size)]
    lengths = np.array([days[e] - days[s] for s, e in pairs])
    distinct, place = np.unique(lengths, return_inverse=True)
    shape = (*course.shape[:3], len(distinct))
    lasting, ended = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for (s, e), at in zip(pairs, place, strict=True):
        lasting[..., at] += course[..., s, e, 0]
        ended[..., at] += course[..., s, e, 1] + course[..., s, e, 2]
    return distinct, lasting, ended


def _median_of(number: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Median of `value`, each as often as `number` [..., T] says; the lower one of two."""
    reached = 2 * np.cumsum(number, axis=-1) >= number.sum(-1, keepdims=True)
    return value[np.argmax(reached, axis=-1)]


def endpoint_rows(
    cohort: Cohort, plan: CohortPlan, found: dict[str, tuple[str, np.ndarray]], marks: Sequence[str]
) -> pd.DataFrame:
    """Rows of `endpoints.csv` of one cohort: mean, SD and quantiles over draws.

    `missing` is the share of draws in which the endpoint does not exist (no responder) or is not reached (a median
    beyond the last visit). Without the former, the quantiles count the latter as later than everything; mean and SD
    are empty where any draw has not reached it.
    """
    groups = [*(plan.subgroups if cohort.subgroups else ()), "all"]
    return pd.DataFrame(_rows(cohort, plan, found, groups, "; ".join(marks)), columns=list(COLUMNS))


def _rows(
    cohort: Cohort, plan: CohortPlan, found: dict[str, tuple[str, np.ndarray]], groups: Sequence[str], source: str
) -> Iterator[dict[str, object]]:
    for k, arm in enumerate(plan.arms):
        for group in groups:
            column = list(plan.subgroups).index(group) if group != "all" else -1
            for endpoint, (unit, values) in found.items():
                draws = values[:, k, column]
                there = draws[~np.isnan(draws)]
                reached = np.isfinite(there)
                # the upper of two draws, so that a quantile next to one that is not reached is not made up
                quantiles = np.quantile(there, QUANTILES, method="higher") if len(there) else [np.nan] * 5
                certain = len(there) and reached.all()
                yield {
                    "arm": arm,
                    "tumour_type": cohort.tumour_type,
                    "subgroup": group,
                    "endpoint": endpoint,
                    "unit": unit,
                    "mean": there.mean() if certain else np.nan,
                    "sd": there.std(ddof=1) if certain and len(there) > 1 else np.nan,
                    **{
                        f"q{100 * q:02.0f}": value if np.isfinite(value) else np.nan
                        for q, value in zip(QUANTILES, quantiles, strict=True)
                    },
                    "missing": 1.0 - reached.sum() / len(draws),
                    "source": source,
                }
