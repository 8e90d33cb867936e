"""When a mouse leaves its study: a hazard per measurement, fitted once to the table and then frozen.

Leaving depends on what was measured (fold change, volume, time), so that the growth model's likelihood may ignore it
(missing at random); a prediction may not: how long a mouse is followed decides which best response it can show.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float
from scipy.optimize import minimize
from scipy.special import expit

from vtrial.errors import VtrialError

#: knots, chosen by eye and not tuned, of the piecewise linear effects: ln fold change, ln volume (mm3) and day
FOLD_KNOTS = (-1.0, 0.0, 0.7, 1.4, 2.1)
VOLUME_KNOTS = (6.2, 6.9, 7.3)
DAY_KNOTS = (14.0, 28.0, 60.0, 120.0)
#: SD of the normal prior on every coefficient but the intercept: a ridge that keeps empty corners finite
COEFFICIENT_SD = 2.0


class StoppingRule(NamedTuple):
    """Logistic hazard of leaving after a measurement.

    Attributes
    ----------
    coefficient : [F]
        On :func:`features`.
    gap_days : []
        Usual time between measurements (median of the table).
    """

    coefficient: Float[Array, " F"]
    gap_days: float

    def with_odds(self, ratio: float) -> StoppingRule:
        """The rule under which the odds of leaving are `ratio` times as high, at any measurement; 0: nobody leaves."""
        with np.errstate(divide="ignore"):
            return self._replace(coefficient=self.coefficient.at[0].add(float(np.log(ratio))))


def features(log_fold, log_volume, day, xp=jnp):
    """Features of the hazard, last axis F: intercept and piecewise linear terms.

    `xp` is the array module, so that the fit on the host and the simulation share one definition.
    """

    def hinges(value, knots, unit):
        return [value / unit, *(xp.maximum(value - k, 0.0) / unit for k in knots)]

    columns = [xp.ones_like(log_fold)]
    columns += hinges(xp.clip(log_fold, -3.0, 3.0), FOLD_KNOTS, 1.0)
    columns += hinges(xp.clip(log_volume, 3.0, 8.0), VOLUME_KNOTS, 1.0)
    columns += hinges(xp.minimum(day, 240.0), DAY_KNOTS, 30.0)
    return xp.stack(columns, axis=-1)


def fit_stopping_rule(table: pd.DataFrame, detection_limit: float) -> StoppingRule:
    """Fit the hazard to a canonical table by penalised maximum likelihood.

    Every measurement after day 0 is a trial, its event "no later measurement of this mouse". Volumes below the
    detection limit count as the limit.
    """
    table = table.sort_values(["mouse_key", "day"], kind="stable")
    log_volume = np.log(np.maximum(table["volume_mm3"].to_numpy(float), detection_limit))
    first = pd.Series(log_volume, index=table.index).groupby(table["mouse_key"]).transform("first").to_numpy()
    day = table["day"].to_numpy(float)
    last = ~table["mouse_key"].duplicated(keep="last").to_numpy()
    later = table["mouse_key"].duplicated(keep="first").to_numpy()
    gap = table.groupby("mouse_key")["day"].diff().to_numpy(float)
    design = features(log_volume - first, log_volume, day, xp=np)[later]
    event = last[later].astype(float)

    ridge = np.append(0.0, np.full(design.shape[1] - 1, COEFFICIENT_SD**-2.0))

    def objective(coefficient):
        linear = design @ coefficient
        value = np.sum(np.logaddexp(0.0, linear) - event * linear)
        slope = design.T @ (expit(linear) - event)
        return value + 0.5 * np.sum(ridge * coefficient**2), slope + ridge * coefficient

    def curvature(coefficient):
        leaves = expit(design @ coefficient)
        return design.T @ ((leaves * (1.0 - leaves))[:, None] * design) + np.diag(ridge)

    start = np.zeros(design.shape[1])
    share = np.clip(event.mean(), 0.5 / len(event), 1.0 - 0.5 / len(event))
    start[0] = np.log(share / (1.0 - share))
    # the ridge bounds the curvature from below: no coefficient is off by more than gtol COEFFICIENT_SD^2
    fit = minimize(objective, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-5})
    if not np.all(np.isfinite(fit.x)) or not fit.success:
        raise VtrialError(f"the stopping rule of the mice did not converge: {fit.message}")
    return StoppingRule(jnp.asarray(fit.x, jnp.float32), float(np.nanmedian(gap)))


def stay(
    key: Array, rule: StoppingRule, log_volume: Float[Array, "*B T"], day: Float[Array, " T"]
) -> Float[Array, "*B T"]:
    """Which measurements are made, bool [*B, T]: day 0, the first one after it, and on until the mouse leaves."""
    hazard = jax.nn.sigmoid(
        features(log_volume - log_volume[..., :1], log_volume, jnp.broadcast_to(day, log_volume.shape))
        @ rule.coefficient
    )
    leaves = (jax.random.uniform(key, log_volume.shape, log_volume.dtype) < hazard).at[..., 0].set(False)
    before = jnp.cumsum(leaves, axis=-1) - leaves
    return before == 0
