"""What a fit integrates out, mice and cells, drawn from its exact conditional given the draws of all else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import constrain_fn


class MouseDraws(NamedTuple):
    """Draws [D, S] of what a fit integrates out."""

    coefficient: np.ndarray  # [D, S, 3] eta, s, c of every mouse, float32
    effect: np.ndarray  # [D, S] fraction of growth removed in the cell (PDX model x treatment) of the mouse, float32


def mouse_draws(
    key: jax.Array, model: Callable, arrays: Any, draws: dict[str, np.ndarray], responder: np.ndarray | None = None
) -> MouseDraws:
    """Draws of mice and cells from their exact conditional, given unconstrained draws [D, ...] of all else.

    `model` is one built with ``mouse_level=True``. The coefficients are drawn given the curve, the effect given the
    coefficients, of which alone it knows anything. Several mice of one cell have one effect, which is explicit.
    `responder` [D, M] says which PDX models are common responders, in a fit that has such (:mod:`vtrial.responders`).
    """
    flat = {k: jnp.asarray(v) for k, v in draws.items()}
    size = next(iter(draws.values())).shape[0]

    def one(each):
        key, z, given = each
        key_mouse, key_cell = jax.random.split(key)
        own = arrays if given is None else arrays._replace(responder=given)
        sites = constrain_fn(model, (own,), {}, z, return_deterministic=True)
        mean, covariance = sites["mouse_mean"], sites["mouse_covariance"]
        # a coefficient that the curve fixes has a variance of 0 up to rounding, which has no Cholesky factor
        value, vector = jnp.linalg.eigh(covariance)
        noise = jnp.sqrt(jnp.maximum(value, 0.0)) * jax.random.normal(key_mouse, mean.shape, mean.dtype)
        coefficient = mean + jnp.einsum("sij,sj->si", vector, noise)
        weight = jnp.linalg.solve(sites["mouse_prior_covariance"], sites["cell_loading"][..., None])[..., 0]
        centre = sites["cell_effect"] + jnp.sum(weight * (coefficient - sites["mouse_prior_mean"]), axis=-1)
        variance = sites["cell_spread"] ** 2 - jnp.sum(weight * sites["cell_loading"], axis=-1)
        deviation = jnp.sqrt(jnp.maximum(variance, 0.0)) * jax.random.normal(key_cell, centre.shape, centre.dtype)
        return coefficient.astype(jnp.float32), (centre + deviation).astype(jnp.float32)

    given = None if responder is None else jnp.asarray(responder)
    drawn = jax.jit(lambda each: jax.lax.map(one, each))((jax.random.split(key, size), flat, given))
    return MouseDraws(*(np.asarray(x) for x in drawn))
