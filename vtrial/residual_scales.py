"""The residual scale of every mouse, in a coordinate that a sampler can walk.

ln sigma_i ~ Normal(mu, omega^2) over mice. Where a curve hardly knows its own scale the sampler wants it in units of
omega, which may near 0 and would stop it; where it knows it well, as itself. In between (Papaspiliopoulos, Roberts &
Skoeld, Stat Sci 2007;22:59), with c_i from 0 to 1 and a fixed w near omega,

    ln sigma_i = mu + (omega / w)^(1 - c_i) (z_i - c_i mu)        z_i ~ Normal(c_i mu, (w^(1 - c_i) omega^c_i)^2)

What ln sigma is distributed as depends on neither c nor w, which may therefore be taken from the curves: with v_i the
sampling variance of the logarithm of a curve's own residual SD, c_i = w^2 / (w^2 + v_i) leaves z_i and mu uncorrelated
given the curves and omega = w.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, polygamma
from scipy.stats import chi2


class ScaleCoordinate(NamedTuple):
    """What z is, for S mice."""

    centred: np.ndarray  # [S] c
    spread: np.ndarray  # [] w


def ln_sd_of_curves(residual_squares: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased ln of the residual SD of curves, and its sampling variance.

    Half the logarithm of a chi-square over its degrees of freedom, less what its mean has; variance trigamma / 4.
    """
    half = freedom / 2.0
    return 0.5 * (np.log(residual_squares / 2.0) - digamma(half)), polygamma(1, half) / 4.0


def scale_coordinate(residual_squares: np.ndarray, freedom: np.ndarray) -> ScaleCoordinate:
    """The coordinate that the curves ask for.

    Parameters
    ----------
    residual_squares
        Residual sum of squares of every curve about its own course, [S], of independent residuals.
    freedom
        Its degrees of freedom, [S]: measurements beyond the coefficients of the course; 0 or less where there are none.

    Returns
    -------
    ScaleCoordinate
        w^2 is the moment estimator of DerSimonian & Laird (Control Clin Trials 1986;7:177) with the mean and variance
        of the logarithm of a chi-square, less what chance adds to it in one panel of twenty: few mice that may well be
        alike have c = 0 and w = 1, units of omega, since it is where omega may near 0 that a sampler stops.
    """
    known = (freedom > 0) & (residual_squares > 0.0)
    centred = np.zeros(len(freedom))
    ln_sd, variance = ln_sd_of_curves(residual_squares[known], freedom[known])
    weight = 1.0 / variance
    if len(ln_sd) > 1:
        excess = np.sum(weight * np.square(ln_sd - np.average(ln_sd, weights=weight))) - chi2.ppf(0.95, len(ln_sd) - 1)
        between = excess / (weight.sum() - np.sum(np.square(weight)) / weight.sum())
        if between > 0.0:
            centred[known] = between / (between + 1.0 / weight)
            return ScaleCoordinate(centred, np.asarray(np.sqrt(between)))
    return ScaleCoordinate(centred, np.ones(()))


def prior_of_z(of: ScaleCoordinate, mu: Any, omega: Any, xp: Any = np) -> tuple[Any, Any]:
    """Mean and SD of z, [..., S]; `mu` and `omega` > 0 broadcast against [S]; `xp` is their module, NumPy's or JAX's.

    Powers by exp and log, which XLA vectorises on a CPU.
    """
    return of.centred * mu, xp.exp((1.0 - of.centred) * xp.log(of.spread) + of.centred * xp.log(omega))


def ln_sigma(of: ScaleCoordinate, mu: Any, omega: Any, z: Any, xp: Any = np) -> Any:
    """The logarithm of the residual scale at z, [..., S]."""
    return mu + xp.exp((1.0 - of.centred) * (xp.log(omega) - xp.log(of.spread))) * (z - of.centred * mu)
