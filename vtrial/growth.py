"""ln-size of one patient's tumour in closed form; the laws of a mouse's are in :mod:`vtrial.growth_laws`.

The state is ``x(t) = ln(size(t) / size(0))`` and

    dx/dt = growth - kill(t)

whatever the law of the mice: growth and kill are those of a mouse at the start of treatment, carried over. A volume
grows three times as fast as a diameter: ``d ln(diameter) = d ln(volume) / 3`` (:data:`DIAMETER_PER_VOLUME`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

# ln of a diameter per ln of a volume, for a tumour that keeps its shape
DIAMETER_PER_VOLUME = 1.0 / 3.0


def mean_decay(loss_rate: Float[Array, ""], edges: Float[Array, " G_plus_1"]) -> Float[Array, " G"]:
    """Mean of ``exp(-loss_rate * t)`` within each segment: what is left of an effect.

    Parameters
    ----------
    loss_rate
        Rate at which effect is lost, 1/day, 0 or more.
    edges
        Increasing days.
    """
    x = loss_rate * jnp.diff(edges)
    # (1 - exp(-x)) / x, guarded: rate 0 is a constant effect
    lost = jnp.where(x > 0, -jnp.expm1(-x) / jnp.where(x > 0, x, 1.0), 1.0)
    return jnp.exp(-loss_rate * edges[:-1]) * lost


def log_size_change(
    growth: Float[Array, "..."], kill: Float[Array, "... G"], duration: Float[Array, " G"]
) -> Float[Array, "... G"]:
    """ln-size at the end of each of G successive segments, relative to the start of the first.

    Parameters
    ----------
    growth
        Unperturbed rate of the size measure, 1/day.
    kill
        Mean kill rate within each segment, 1/day. Exact for any time course: only its mean enters.
    duration
        Length of each segment, days.
    """
    net = growth[..., None] - kill
    return jnp.cumsum(net * jnp.expand_dims(duration, tuple(range(net.ndim - 1))), axis=-1)
