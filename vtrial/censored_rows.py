"""Measurements below the detection limit -> the rows that the model reads of them, one hidden day after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtrial.curve_summary import residual_covariance
from vtrial.growth_laws import fixed_course, time_courses
from vtrial.model_format import CurveShape

#: Censored measurements of one mouse that enter the likelihood. Of a curve with three coefficients that is known to
#: lie below the limit on the first and the last day and twice between, the other days below the limit say next to
#: nothing more.
MAX_CENSORED = 4


class Censored(NamedTuple):
    """Measurements below the detection limit of Q mice, at most :data:`MAX_CENSORED` each, first and last included.

    Given the coefficients theta and the uncensored days the hidden ln volumes are ``Normal(basis theta + offset,
    sigma^2 noise)``. What a mouse has fewer than K of stands at the end, independent of all else.
    """

    mouse: np.ndarray  # [Q] index into the curves
    basis: np.ndarray  # [Q, K, p]
    offset: np.ndarray  # [Q, K]
    noise: np.ndarray  # [Q, K, K]
    present: np.ndarray  # [Q, K] bool
    log_limit: float


def hidden_rows(
    day: np.ndarray, log_volume: np.ndarray, below: np.ndarray, shape: CurveShape
) -> tuple[np.ndarray, ...]:
    """Basis, offset, noise and present, as in `Censored`, of the days of one mouse that are `below` the limit.

    Latest first, and at most :data:`MAX_CENSORED` of them, with the first and the last. Their residuals are correlated
    with those that are seen, and conditioned on them.
    """
    # latest first: it binds hardest, and once it holds the earlier ones nearly do (`censored_density`)
    chosen = np.unique(np.linspace(0, below.sum() - 1, MAX_CENSORED).round().astype(int))[::-1]
    low, kept = np.flatnonzero(below)[chosen], ~below
    kept[low] = True
    hidden = np.searchsorted(np.flatnonzero(kept), low)
    day, log_volume = day[kept], log_volume[kept]
    seen = np.setdiff1d(np.arange(len(day)), hidden)
    covariance, columns = residual_covariance(day, shape), time_courses(day, shape)
    fixed = fixed_course(day, shape)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, hidden)]).T
    number = len(hidden)
    rows, offset, noise = np.zeros((MAX_CENSORED, 3)), np.zeros(MAX_CENSORED), np.eye(MAX_CENSORED)
    rows[:number] = columns[hidden] - gain @ columns[seen]
    offset[:number] = gain @ (log_volume - fixed)[seen] + fixed[hidden]
    noise[:number, :number] = covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)]
    return rows, offset, noise, np.arange(MAX_CENSORED) < number


def censored_rows(mouse: list[int], parts: list[tuple[np.ndarray, ...]], log_limit: float) -> Censored:
    """Rows of all censored mice; empty arrays of the right shape where there is none."""
    size = MAX_CENSORED
    empty = (np.zeros((0, size, 3)), np.zeros((0, size)), np.zeros((0, size, size)), np.zeros((0, size), bool))
    basis, offset, noise, present = [np.stack(x) for x in zip(*parts, strict=True)] if parts else empty
    return Censored(np.array(mouse, dtype=np.int32), basis, offset, noise, present, log_limit)
