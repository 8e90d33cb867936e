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

    Given the coefficients theta, the uncensored days and the hidden ln volumes h of the rows before it, row k is
    ``Normal(basis_k theta + offset_k + earlier_k h, scale_k^2 sigma^2)``.
    """

    mouse: np.ndarray  # [Q] index into the curves
    basis: np.ndarray  # [Q, K, p]
    offset: np.ndarray  # [Q, K]
    earlier: np.ndarray  # [Q, K, K] strictly lower triangular
    scale: np.ndarray  # [Q, K]
    present: np.ndarray  # [Q, K] bool
    log_limit: float


def hidden_rows(
    day: np.ndarray, log_volume: np.ndarray, below: np.ndarray, shape: CurveShape
) -> tuple[np.ndarray, ...]:
    """Basis, offset, earlier, scale and present, as in `Censored`, of the days of one mouse that are `below` the limit.

    Latest first, and at most :data:`MAX_CENSORED` of them, with the first and the last.

    Their residuals are correlated with those that are seen: conditioning gives a mean and a covariance, whose unit
    triangular factor takes the hidden days one after the other.
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
    root = np.linalg.cholesky(covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)])
    scale = np.diag(root)
    unit = root / scale
    number = len(hidden)
    rows, offset, earlier = np.zeros((MAX_CENSORED, 3)), np.zeros(MAX_CENSORED), np.zeros((MAX_CENSORED, MAX_CENSORED))
    rows[:number] = np.linalg.solve(unit, columns[hidden] - gain @ columns[seen])
    offset[:number] = np.linalg.solve(unit, gain @ (log_volume - fixed)[seen] + fixed[hidden])
    earlier[:number, :number] = np.eye(number) - np.linalg.inv(unit)
    padded_scale = np.ones(MAX_CENSORED)
    padded_scale[:number] = scale
    return rows, offset, earlier, padded_scale, np.arange(MAX_CENSORED) < number


def censored_rows(mouse: list[int], parts: list[tuple[np.ndarray, ...]], log_limit: float) -> Censored:
    """Rows of all censored mice; empty arrays of the right shape where there is none."""
    size = MAX_CENSORED
    empty = (np.zeros((0, size, 3)), *(np.zeros(s) for s in ((0, size), (0, size, size), (0, size))))
    stacked = [np.stack(x) for x in zip(*parts, strict=True)] if parts else [*empty, np.zeros((0, size), bool)]
    basis, offset, earlier, scale, present = stacked
    return Censored(np.array(mouse, dtype=np.int32), basis, offset, earlier, scale, present, log_limit)
