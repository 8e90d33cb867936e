"""Log likelihood of published summary results (:mod:`vtrial.evidence`) given the effects of drugs in tumour types."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.special import log_ndtr, logsumexp
from jax.scipy.stats import norm
from scipy.special import ndtri
from scipy.stats import qmc

from vtrial.curve_summary import residual_covariance
from vtrial.evidence import FIRST_DAY, Classes, Evidence, class_limits
from vtrial.growth_laws import time_courses
from vtrial.model_format import CurveShape
from vtrial.responders import log_density, log_share_above

#: measurements of a mouse from day 10 on, and mice that are integrated over
NUM_DAYS, NUM_MICE = 12, 256


def evidence_density(
    evidence: Evidence, effect: jax.Array, omega_effect: jax.Array, share: Any = None, common: Any = None
) -> jax.Array:
    """Log likelihood of counts and effects, given mean and spread of the effect of every drug x tumour type.

    `share` and `common` are those of common responders (:mod:`vtrial.responders`), if there are any.
    """
    mean, spread = effect[evidence.count_cell], omega_effect[evidence.count_cell]
    if share is None:
        above = (mean - evidence.threshold) / spread
        log_above, log_below = log_ndtr(jnp.stack([above, -above]))
    else:
        log_above, log_below = log_share_above(evidence.threshold, mean, spread, share, common)
    counts = evidence.r * log_above + (evidence.n - evidence.r) * log_below
    mean = effect[evidence.effect_cell]
    spread = jnp.sqrt(jnp.square(omega_effect[evidence.effect_cell]) + jnp.square(evidence.effect_se))
    if share is None:
        observed = norm.logpdf(evidence.effect, mean, spread)
    else:
        observed = log_density(evidence.effect, mean, spread, share, common)
    return jnp.sum(counts) + jnp.sum(observed)


class MiceOfClasses(NamedTuple):
    """What decides the class of a mouse beside its effect: spreads over PDX models and mice, one number each."""

    slowing: Any  # fraction of growth that is gone late
    between: Any  # SD of ln growth between PDX models
    pace: Any  # SD of a mouse's own rate, over growth
    residual: Any  # SD of ln volume that residuals settle at


def class_arrays(table: pd.DataFrame, drug_types: tuple[str, ...], shape: CurveShape) -> Classes | None:
    """The rows of kind ``classes`` for the model; None where there are none.

    The mice that are integrated over are scrambled Sobol points, the same for all rows: a fixed rule of integration,
    not a random one. Each row has its own days, evenly from day 10 to its last.

    Parameters
    ----------
    table
        From :func:`vtrial.evidence.read_evidence`.
    drug_types
        The panel's labels "drug | tumour type".
    shape
        Constants of a curve.
    """
    rows = table[table["kind"] == "classes"]
    if rows.empty:
        return None
    names = [f"{drug} | {kind}" for drug, kind in zip(rows["drug"], rows["tumour_type"], strict=True)]
    days = np.linspace(FIRST_DAY, rows["day"].to_numpy(float), NUM_DAYS, axis=-1)
    points = qmc.Sobol(3 + NUM_DAYS, rng=0).random(NUM_MICE)
    deviate, wander = np.split(ndtri(points), [2], axis=1)
    residual = []
    for own in days:
        path = wander @ np.linalg.cholesky(residual_covariance(np.r_[0.0, own], shape)).T
        residual.append(path[:, 1:] - path[:, :1])
    courses = time_courses(days, shape)
    return Classes(
        np.array([drug_types.index(name) for name in names], np.int32),
        rows[["pd", "sd", "pr", "cr"]].to_numpy(float),
        rows["growth_per_day"].to_numpy(float),
        *(courses[..., 1], courses[..., 2], deviate, np.stack(residual)),
    )


def class_density(
    classes: Classes, mean: jax.Array, spread: jax.Array, loss: jax.Array, mice: MiceOfClasses,
    share: Any = None, common: Any = None,
) -> jax.Array:  # fmt: skip
    """Log likelihood of mice by mRECIST class, one mouse of each PDX model.

    Given its growth (log-normal about that of the row), its own rate and its residuals, the class of a mouse is a range
    of the effect (:func:`vtrial.evidence.class_limits`); these are integrated over. What bends the curve of a single
    mouse is left out.

    Parameters
    ----------
    classes
        C rows.
    mean, spread, loss
        [C], of the effect over PDX models; and the fraction of it that is lost in the end.
    mice
        All else.
    share, common
        Those of common responders (:mod:`vtrial.responders`), if there are any.
    """
    deviate = jnp.asarray(classes.deviate, mean.dtype)[:, :, None]
    growth = classes.growth[None] * jnp.exp(mice.between * deviate[:, 0])
    pace, residual = mice.pace * deviate[:, 1] + jnp.zeros_like(growth), mice.residual * classes.residual
    courses = classes.straight[None], classes.waning[None]
    limits = class_limits(growth, *courses, loss[None], mice.slowing, pace, jnp.moveaxis(residual, 1, 0), xp=jnp)
    within = _log_shares(limits, mean, spread)
    if share is not None:
        responders = jnp.log(share) + _log_shares(limits, mean + common, spread)
        within = jnp.logaddexp(jnp.log1p(-share) + within, responders)
    return jnp.sum(classes.mice * (logsumexp(within, axis=0) - math.log(within.shape[0])))


def _log_shares(limits: jax.Array, mean: jax.Array, spread: jax.Array) -> jax.Array:
    """Log shares of normals [C] below the first, between, and above the last of three limits [K, C, 3]: [K, C, 4]."""
    z = (limits - mean[None, :, None]) / spread[None, :, None]
    middle = [log_share_between(z[..., k], z[..., k + 1]) for k in range(2)]
    return jnp.stack([log_ndtr(z[..., 0]), *middle, log_ndtr(-z[..., 2])], axis=-1)


def log_share_between(low: jax.Array, high: jax.Array) -> jax.Array:
    """Log of the share of a standard normal between two finite bounds, exact far out in both tails."""
    # the lower tail is the one with precision: mirror what lies above the mean
    mirror = low + high > 0
    log_first, log_last = log_ndtr(jnp.stack([jnp.where(mirror, -high, low), jnp.where(mirror, -low, high)]))
    return log_last + jnp.log(-jnp.expm1(log_first - log_last))
