"""The residual scale of every mouse, in coordinates that a sampler can walk.

Three levels, each normal about the one above it: ln sigma_i ~ Normal(mu_i, omega^2) over the mice of an arm in a tumour
type, mu_i over the arms of the type, and their means over types. Types and arms are studied in batches, and differ
(docs/decisions/0019). What is said below of mice, omega and mu_i holds of each.

Where a curve hardly knows its own scale the sampler wants it in units of omega, which may near 0 and would stop it;
where it knows it well, as itself. In between (Papaspiliopoulos, Roberts & Skoeld, Stat Sci 2007;22:59), with c_i from 0
to 1 and a fixed w near omega,

    ln sigma_i = mu_i + (omega / w)^(1 - c_i) (z_i - c_i mu_i)    z_i ~ Normal(c_i mu_i, (w^(1 - c_i) omega^c_i)^2)

What ln sigma is distributed as depends on neither c nor w, which may therefore be taken from the curves: with v_i the
sampling variance of the logarithm of a curve's own residual SD, c_i = w^2 / (w^2 + v_i) leaves z_i and mu_i
uncorrelated given the curves and omega = w.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, polygamma
from scipy.stats import chi2

#: w of tumour types and of arms: the medians of their priors in priors/growth.yaml, which keep away from 0
TYPES, ARMS = 0.2, 0.15
#: degrees of freedom that those medians weigh beside what the curves say of w
WORTH = 4.0


class ScaleCoordinate(NamedTuple):
    """What z is, for N members of a level."""

    centred: np.ndarray  # [N] c
    spread: np.ndarray  # [] w


class ScaleCoordinates(NamedTuple):
    """What z is on each level."""

    mouse: ScaleCoordinate  # S, about their arm
    arm_type: ScaleCoordinate  # G, about their tumour type
    tumour_type: ScaleCoordinate  # T, about one mean


def ln_sd_of_curves(residual_squares: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased ln of the residual SD of curves, and its sampling variance.

    Half the logarithm of a chi-square over its degrees of freedom, less what its mean has; variance trigamma / 4.
    """
    half = freedom / 2.0
    return 0.5 * (np.log(residual_squares / 2.0) - digamma(half)), polygamma(1, half) / 4.0


def scale_coordinates(
    residual_squares: np.ndarray, freedom: np.ndarray, arm_type: np.ndarray, arm_type_type: np.ndarray
) -> ScaleCoordinates:
    """The coordinates that the curves ask for.

    Parameters
    ----------
    residual_squares
        Residual sum of squares of every curve about its own course, [S], of independent residuals.
    freedom
        Its degrees of freedom, [S]: measurements beyond the coefficients of the course; 0 or less where there are none.
    arm_type
        The arm of a tumour type that it belongs to, [S].
    arm_type_type
        The tumour type of each of those, [G].
    """
    known = (freedom > 0) & (residual_squares > 0.0)
    value, variance = np.zeros(len(freedom)), np.full(len(freedom), np.inf)
    value[known], variance[known] = ln_sd_of_curves(residual_squares[known], freedom[known])
    found = _between(value, variance, arm_type)
    # the prior of omega reaches down to 0, where a sampler stops: few mice that may well be alike have units of it
    between = max(0.0, found.estimate - found.chance)
    mouse = _coordinate(variance, between) if between > 0.0 else ScaleCoordinate(np.zeros(len(freedom)), np.ones(()))
    value, variance = _means(value, variance + between, arm_type)
    between = _typical(_between(value, variance, arm_type_type), ARMS)
    arm = _coordinate(variance, between)
    value, variance = _means(value, variance + between, arm_type_type)
    between = _typical(_between(value, variance, np.zeros(len(value), int)), TYPES)
    return ScaleCoordinates(mouse, arm, _coordinate(variance, between))


def _typical(found: _Between, typical: float) -> float:
    """w^2 of arms or types, from the prior of their spread and the curves."""
    return (WORTH * typical**2 + found.freedom * max(0.0, found.estimate)) / (WORTH + found.freedom)


def _coordinate(variance: np.ndarray, between: float) -> ScaleCoordinate:
    return ScaleCoordinate(between / (between + variance), np.asarray(np.sqrt(between)))


def _means(value: np.ndarray, variance: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of each group and its sampling variance, 0 and infinite where nothing is known."""
    weight = np.bincount(group, 1.0 / variance)
    known = weight > 0.0
    of_mean = np.divide(1.0, weight, out=np.full(len(weight), np.inf), where=known)
    return np.bincount(group, value / variance) / np.where(known, weight, 1.0), of_mean


class _Between(NamedTuple):
    """Variance between the members of a group."""

    estimate: float  # without bias, so it may lie below 0
    chance: float  # what chance adds to it in one panel of twenty where there is none
    freedom: int


def _between(value: np.ndarray, variance: np.ndarray, group: np.ndarray) -> _Between:
    """The moment estimator of DerSimonian & Laird (Control Clin Trials 1986;7:177), within groups."""
    weight = 1.0 / variance
    mean, of_mean = _means(value, variance, group)
    known = np.isfinite(of_mean)
    freedom = int(np.count_nonzero(weight) - np.count_nonzero(known))
    if freedom == 0:
        return _Between(0.0, 0.0, 0)
    heterogeneity = np.sum(weight * np.square(value - mean[group]))
    divisor = weight.sum() - np.sum(np.bincount(group, np.square(weight))[known] * of_mean[known])
    chance = float(chi2.ppf(0.95, freedom)) - freedom
    return _Between(float(heterogeneity - freedom) / divisor, chance / divisor, freedom)


def prior_of_z(of: ScaleCoordinate, mu: Any, omega: Any, xp: Any = np) -> tuple[Any, Any]:
    """Mean and SD of z, [..., N]; `mu` and `omega` > 0 broadcast against [N]; `xp` is their module, NumPy's or JAX's.

    Powers by exp and log, which XLA vectorises on a CPU.
    """
    return of.centred * mu, xp.exp((1.0 - of.centred) * xp.log(of.spread) + of.centred * xp.log(omega))


def ln_sigma(of: ScaleCoordinate, mu: Any, omega: Any, z: Any, xp: Any = np) -> Any:
    """The logarithm of the residual scale at z, [..., N]."""
    return mu + xp.exp((1.0 - of.centred) * (xp.log(omega) - xp.log(of.spread))) * (z - of.centred * mu)
