"""The curves that a fit gives to the mice it was fitted to: draws of each mouse's own curve, given its measurements.

A fit integrates the coefficients ``(eta, s, c)`` of a mouse and keeps draws of the effect on its cell. Given those and
the population, what a mouse's own curve can be is linear and Gaussian in the coefficients, with one unknown residual
scale. The scale is drawn on a grid, hidden volumes below the detection limit one after the other with importance
resampling, the coefficients from their normal: draws of the posterior of the curve, without sampling the fit again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.scipy.special import log_ndtr

from vtrial.errors import InputError
from vtrial.growth_laws import fixed_course, reference_bend, time_courses
from vtrial.model import coefficient_covariance, coefficient_mean, truncated_normal
from vtrial.panel import MAX_CENSORED
from vtrial.posterior import Draws, shape_of
from vtrial.table import listed, nearest

if TYPE_CHECKING:
    import xarray as xr

    from vtrial.dataset import Dataset
    from vtrial.model_format import CurveShape

#: draws of the hidden part of a mouse, of which one is taken by its weight
NUM_PARTICLES = 64
_ROWS, _MICE = 32, 8  # curves are padded to multiples of these, so that most PDX models share one compiled program
_SHARED = ("mu_intercept", "omega_intercept", "omega_mouse", "omega_curvature", "loss", "slowing")
#: residual scale, in SDs of ln sigma about its mean: beyond 4 lies 6e-5 of the prior
_GRID = np.linspace(-4.0, 4.0, 41)


class Curve(NamedTuple):
    """Measurements of one mouse, padded to T rows: what the fit saw of it."""

    basis: jax.Array  # [T, 3]
    log_volume: jax.Array  # [T] less its fixed course, 0 where not seen
    seen: jax.Array  # [T] bool
    hidden_basis: jax.Array  # [H, 3] of the censored days that enter the fit, latest first
    hidden: jax.Array  # [H] bool
    log_limit: jax.Array  # [H] ln of the detection limit less the fixed course


def fitted_curves(key: jax.Array, tree: xr.DataTree, dataset: Dataset, pdx_model: str) -> pd.DataFrame:
    """Fitted volumes of the mice of one PDX model, at their measurements.

    Parameters
    ----------
    key
        Consumed.
    tree
        A posterior; see `vtrial.posterior`.
    dataset
        The table that it was fitted to.
    pdx_model : str
        Name of the PDX model.

    Returns
    -------
    DataFrame, a row per measurement that the fit saw
        pdx_model, tumour_type, arm, mouse, day, volume_mm3, censored; fitted_median, q05 and q95 (mm3) of the mouse's
        own curve, without the error of a measurement.

    Raises
    ------
    InputError
        Where the fit has no such PDX model, with the nearest name.
    """
    models = [str(name) for name in tree["posterior"]["pdx_model"].to_numpy()]
    if pdx_model not in models:
        message = f"no PDX model {pdx_model!r} in this fit.{nearest(pdx_model, models)} It has {listed(models)}"
        raise InputError(message, key="pdx_model")
    shape, log_limit = shape_of(tree), float(np.log(dataset.detection_limit_mm3))
    fitted = [str(name) for name in tree["cells"]["mouse"].to_numpy()]
    used = dataset.used
    rows = used[(used["pdx_model"] == pdx_model) & used["mouse_key"].isin(fitted)]
    rows = rows.sort_values(["mouse_key", "day"], kind="stable")
    mice = list(rows["mouse_key"].unique())
    own = np.array([fitted.index(mouse) for mouse in mice])
    cells = tree["cells"].to_dataset()
    index = cells["index"].to_numpy()
    if "coefficient" in cells:
        coefficient = cells["coefficient"].to_numpy()[:, own]
    else:
        size = _ROWS * -(-int(rows["mouse_key"].value_counts().max()) // _ROWS)
        curves = [_curve(group, shape, log_limit, size) for _, group in rows.groupby("mouse_key", sort=False)]
        spare = -len(curves) % _MICE
        stacked = jax.tree.map(lambda *parts: np.stack(parts), *curves, *[curves[0]] * spare)
        draws = Draws(tree, index=index)
        growth = np.exp(np.asarray(draws.get("ln_growth"), np.float64)[:, models.index(pdx_model)])
        law: dict[str, Any] = {name: np.asarray(draws.get(name), np.float64) for name in _SHARED}
        law |= {"correlation": np.asarray(draws.get("curvature_correlation"), np.float64)}
        law |= {name: np.asarray(draws.get(name), np.float64) for name in ("mu_ln_sigma", "omega_ln_sigma")}
        effect = np.asarray(cells["effect"].to_numpy()[:, own], np.float64)
        effect = np.concatenate([effect, *[effect[:, :1]] * spare], axis=1)
        with jax.enable_x64(True):
            coefficient = np.asarray(_coefficients(key, stacked, law, growth, effect, bend=reference_bend(shape)))
    columns = ["pdx_model", "tumour_type", "arm", "mouse", "day", "volume_mm3", "censored"]
    place = pd.factorize(rows["mouse_key"])[0]
    day = rows["day"].to_numpy(float)
    basis = time_courses(day, shape)
    log_volume = fixed_course(day, shape) + np.einsum("drk,rk->dr", coefficient[:, place].astype(float), basis)
    low, median, high = np.exp(np.quantile(log_volume, [0.05, 0.5, 0.95], axis=0))
    return rows[columns].assign(fitted_median=median, q05=low, q95=high).reset_index(drop=True)


def _curve(group: pd.DataFrame, shape: CurveShape, log_limit: float, size: int) -> Curve:
    day, below = group["day"].to_numpy(float), group["censored"].to_numpy(bool)
    basis, log_volume, seen = np.zeros((size, 3)), np.zeros(size), np.zeros(size, bool)
    count = int((~below).sum())
    basis[:count] = time_courses(day[~below], shape)
    log_volume[:count] = np.log(group["volume_mm3"].to_numpy(float)[~below]) - fixed_course(day[~below], shape)
    seen[:count] = True
    hidden_basis, hidden, limit = np.zeros((MAX_CENSORED, 3)), np.zeros(MAX_CENSORED, bool), np.zeros(MAX_CENSORED)
    if below.any():
        # the days that the fit took: see vtrial.panel
        kept = np.unique(np.linspace(0, below.sum() - 1, MAX_CENSORED).round().astype(int))
        hidden_day = day[below][kept][::-1]
        hidden_basis[: len(kept)], hidden[: len(kept)] = time_courses(hidden_day, shape), True
        limit[: len(kept)] = log_limit - fixed_course(hidden_day, shape)
    return Curve(basis, log_volume, seen, hidden_basis, hidden, limit)  # type: ignore[arg-type]


@partial(jax.jit, static_argnames=("bend",))
def _coefficients(key, curves: Curve, law, growth, effect, *, bend: float):
    """Draws [D, S, 3] of the coefficients of S mice; `growth` [D], `effect` [D, S]."""

    def of_mouse(key, curve, law, growth, effect):
        mean = coefficient_mean(law, growth[None], effect[None])[0]
        covariance = coefficient_covariance(law, growth[None], 0.0, bend)[0]
        return _one_mouse(key, curve, mean, covariance, law["mu_ln_sigma"], law["omega_ln_sigma"])

    def of_draw(each):
        key, law, growth, effect = each
        keys = jax.random.split(key, effect.shape[0])
        return jax.vmap(of_mouse, in_axes=(0, 0, None, None, 0))(keys, curves, law, growth, effect)

    keys = jax.random.split(key, growth.shape[0])
    return jax.lax.map(of_draw, (keys, law, growth, effect))


def _one_mouse(key, curve: Curve, mean, covariance, mu_ln_sigma, omega_ln_sigma):
    """One draw [3] of the coefficients of a mouse, given their normal, its measurements and what lies hidden."""
    key_sigma, key_hidden, key_pick, key_last = jax.random.split(key, 4)
    seen = curve.seen.astype(covariance.dtype)
    rest = seen * (curve.log_volume - curve.basis @ mean)
    rows = curve.basis * seen[:, None]
    squares, along, total = rows.T @ rows, rows.T @ rest, rest @ rest
    inverse, log_det = jnp.linalg.inv(covariance), jnp.linalg.slogdet(covariance)[1]

    def known(ln_sigma):
        """Log density of what was seen, and mean shift and covariance of the coefficients given it."""
        precision = jnp.exp(-2.0 * ln_sigma)
        given = jnp.linalg.inv(inverse + squares * precision)
        shift = given @ along * precision
        quadratic = total * precision - precision * (along @ shift)
        density = -jnp.sum(seen) * ln_sigma - 0.5 * (log_det - jnp.linalg.slogdet(given)[1]) - 0.5 * quadratic
        return density, shift, given

    grid = jnp.asarray(_GRID)
    scales = mu_ln_sigma + omega_ln_sigma * grid
    density = jax.vmap(lambda x: known(x)[0])(scales) - 0.5 * grid**2
    ln_sigma = scales[jax.random.categorical(key_sigma, density, shape=(NUM_PARTICLES,))]

    def particle(key, ln_sigma):
        _, shift, given = known(ln_sigma)
        at, weight = mean + shift, 0.0
        uniform = jax.random.uniform(key, curve.hidden.shape, dtype=mean.dtype)
        for k in range(curve.hidden.shape[0]):
            row, there = curve.hidden_basis[k], curve.hidden[k]
            gain = given @ row
            scale = jnp.sqrt(row @ gain + jnp.exp(2.0 * ln_sigma))
            bound = (curve.log_limit[k] - row @ at) / scale
            weight += jnp.where(there, log_ndtr(bound), 0.0)
            gain = jnp.where(there, gain / scale, 0.0)
            at, given = at + gain * truncated_normal(uniform[k], bound), given - gain[:, None] * gain[None, :]
        return at, given, weight

    ats, givens, weights = jax.vmap(particle)(jax.random.split(key_hidden, NUM_PARTICLES), ln_sigma)
    pick = jax.random.categorical(key_pick, weights)
    return ats[pick] + jnp.linalg.cholesky(givens[pick]) @ jax.random.normal(key_last, mean.shape, mean.dtype)
