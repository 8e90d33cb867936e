"""Exact comparison of two response rates: which tables of a two-arm trial reject p1 <= p0, its size and its power.

All (n1 + 1)(n0 + 1) outcomes are ordered by a statistic; those are rejected that come first and together have a null
probability of at most alpha for every common response rate (Barnard's principle):

- ``fisher``: outcomes whose own one-sided Fisher p-value is at most alpha (conditional, conservative);
- ``boschloo``: ordered by that p-value; rejects whatever Fisher does, and more;
- ``barnard``: ordered by the score statistic (difference over its pooled standard error).

A single p-value is SciPy's: `scipy.stats.fisher_exact`, `boschloo_exact`, `barnard_exact`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

from vtrial.design import check_rates
from vtrial.errors import InputError

Test = Literal["fisher", "boschloo", "barnard"]
#: common response rates at which the size of a region is first looked at, besides the refinement about the largest
_GRID = np.arange(1, 500) / 500.0
MOST_PATIENTS = 300


class TwoArm(NamedTuple):
    """A two-arm trial with one analysis.

    Attributes
    ----------
    num_treated, num_control : int
        Patients of the arms.
    rejects : ndarray [num_treated + 1, num_control + 1]
        Whether so many responders of the two arms show the treated arm to respond more, bool.
    size : float
        Largest null probability of that over all common response rates.
    """

    num_treated: int
    num_control: int
    rejects: np.ndarray
    size: float


def two_arm(num_treated: int, num_control: int, alpha: float, test: Test = "boschloo") -> TwoArm:
    """The outcomes that reject "the treated arm responds no more often", one-sided at `alpha`.

    Raises
    ------
    InputError
        Where numbers are out of range.
    """
    for name, value in (("treated", num_treated), ("control", num_control)):
        if not 1 <= value <= MOST_PATIENTS:
            raise InputError(f"must lie between 1 and {MOST_PATIENTS} patients, found {value}", key=name)
    if not 0.0 < alpha < 0.5:
        raise InputError(f"must lie between 0 and 0.5, found {alpha:g}", key="alpha")
    x1, x0 = np.arange(num_treated + 1)[:, None], np.arange(num_control + 1)[None, :]
    total = num_treated + num_control
    p_value = stats.hypergeom.sf(x1 - 1, total, x1 + x0, num_treated)
    if test == "fisher":
        rejects = p_value <= alpha
        return TwoArm(num_treated, num_control, rejects, _size(rejects))
    if test == "barnard":
        pooled = (x1 + x0) / total
        variance = pooled * (1.0 - pooled) * (1.0 / num_treated + 1.0 / num_control)
        difference = x1 / num_treated - x0 / num_control
        statistic = -np.divide(difference, np.sqrt(variance), out=np.zeros_like(variance), where=variance > 0.0)
    else:
        statistic = p_value
    return _largest_region(statistic, num_treated, num_control, alpha)


def _largest_region(statistic: np.ndarray, num_treated: int, num_control: int, alpha: float) -> TwoArm:
    """The longest beginning of the order of outcomes whose size is at most alpha; equal outcomes go together."""
    # what differs by rounding alone is equal
    value = np.round(statistic, 10).ravel()
    order = np.argsort(value, kind="stable")
    last = np.flatnonzero(np.append(np.diff(value[order]) > 0, True))
    worst = np.zeros(len(last))
    for rate in _GRID:
        null = _probability(num_treated, num_control, rate, rate).ravel()[order]
        worst = np.maximum(worst, np.cumsum(null)[last])
    # the grid can only be too kind: step back until the refined size fits too
    for group in range(int(np.count_nonzero(worst <= alpha)) - 1, -1, -1):
        rejects = np.zeros(value.size, bool)
        rejects[order[: last[group] + 1]] = True
        rejects = rejects.reshape(statistic.shape)
        if (size := _size(rejects)) <= alpha:
            return TwoArm(num_treated, num_control, rejects, size)
    return TwoArm(num_treated, num_control, np.zeros(statistic.shape, bool), 0.0)


def _probability(num_treated: int, num_control: int, p1: float, p0: float) -> np.ndarray:
    treated = stats.binom.pmf(np.arange(num_treated + 1), num_treated, p1)
    return np.outer(treated, stats.binom.pmf(np.arange(num_control + 1), num_control, p0))


def _size(rejects: np.ndarray) -> float:
    """Largest null probability of a region: the best of the grid, refined between its neighbours."""
    treated, control = rejects.shape[0] - 1, rejects.shape[1] - 1

    def null(rate: float) -> float:
        return float(_probability(treated, control, rate, rate)[rejects].sum())

    on_grid = np.array([null(rate) for rate in _GRID])
    step, best = _GRID[0], float(on_grid.max())
    # every local maximum of the grid that could be the highest
    peaks = (on_grid >= np.roll(on_grid, 1)) & (on_grid >= np.roll(on_grid, -1)) & (on_grid > 0.9 * best)
    for rate in _GRID[peaks]:
        found: Any = optimize.minimize_scalar(
            lambda p: -null(p), bounds=(rate - step, rate + step), method="bounded", options={"xatol": 1e-9}
        )
        best = max(best, -float(found.fun))
    return best


def power(design: TwoArm, treated_rate: np.ndarray | float, control_rate: np.ndarray | float) -> np.ndarray:
    """P(the trial rejects) at response rates of any common shape [...], exact."""
    p1, p0 = np.broadcast_arrays(np.asarray(treated_rate, float), np.asarray(control_rate, float))
    treated = stats.binom.pmf(np.arange(design.num_treated + 1), design.num_treated, p1[..., None])
    control = stats.binom.pmf(np.arange(design.num_control + 1), design.num_control, p0[..., None])
    return np.sum((treated @ design.rejects) * control, axis=-1)


def smallest_two_arm(p0: float, p1: float, alpha: float, beta: float, test: Test = "boschloo") -> TwoArm:
    """The smallest trial of two arms of equal size with a power of at least 1 - beta at p1 against p0.

    The search starts at two thirds of the size by the normal approximation, which no exact test undercuts so far.

    Raises
    ------
    InputError
        Where rates are out of range, or it would need more than the largest size per arm.
    """
    check_rates(p0, p1, alpha, beta)
    spread = p0 * (1.0 - p0) + p1 * (1.0 - p1)
    normal = spread * ((stats.norm.isf(alpha) + stats.norm.isf(beta)) / (p1 - p0)) ** 2
    for size in range(max(2, int(normal * 2.0 / 3.0)), MOST_PATIENTS + 1):
        design = two_arm(size, size, alpha, test)
        if power(design, np.asarray(p1), np.asarray(p0)) >= 1.0 - beta:
            return design
    raise InputError(f"no trial of up to {MOST_PATIENTS} patients an arm tells {p0:g} from {p1:g} so surely", key="p1")
