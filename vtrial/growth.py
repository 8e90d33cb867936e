"""ln-size of one tumour in closed form: the same equations for the mice of the fit and the patients of the trial.

The state is ``x(t) = ln(size(t) / size(0))`` and the exponential law is

    dx/dt = growth - kill(t),      kill(t) = k * (1 - loss * (1 - exp(-loss_rate * t)))

so that ``x`` is linear in ``(growth, k, loss * k)`` with the time courses ``t``, ``t`` and :func:`waning_time`. A
volume grows three times as fast as a diameter: ``d ln(diameter) = d ln(volume) / 3`` (:data:`DIAMETER_PER_VOLUME`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

# ln of a diameter per ln of a volume, for a tumour that keeps its shape
DIAMETER_PER_VOLUME = 1.0 / 3.0

#: days over which the rate of a mouse is taken as its own; what bends its curve later deviates about this straight line
REFERENCE_DAYS = 28.0

#: columns of :func:`basis`: ln-size at day 0, rate at day 0, rate that comes back as the effect wanes
NUM_BASIS = 3

# below it waning_time takes its series, which is exact to float64 there: the first term left out is x^10 / 2.4e8
_SMALL = 0.2


def waning_time(day: Float[Array, "..."], loss_rate: Float[Array, "..."] | float) -> Float[Array, "..."]:
    """Time integral of ``1 - exp(-loss_rate * t)``: how long an effect has been lost, in days.

    Parameters
    ----------
    day
        Days since the start of treatment, 0 or more.
    loss_rate
        Rate at which effect is lost, 1/day, 0 or more (0: never lost).

    Returns
    -------
    array of the shape of `day`, in days: 0 at day 0, ``day - 1 / loss_rate`` late.
    """
    x = loss_rate * day
    small = x < _SMALL
    # day + expm1(-x) / loss_rate cancels where little is lost (1 % off at x = 1e-5 in float32) and is 0/0 at rate 0
    series = 1.0
    for k in range(11, 2, -1):
        series = 1.0 - x / k * series
    away = jnp.where(small, 1.0, x)
    return day * jnp.where(small, 0.5 * x * series, 1.0 + jnp.expm1(-away) / away)


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


def basis(day: Float[Array, "*T"], loss_rate: Float[Array, ""] | float) -> Float[Array, "*T 3"]:
    """Time courses in which ln-volume is linear: ``[1, t, waning_time(t)]``.

    ``ln V(t) = eta + (growth - k) t + loss * k * waning_time(t)`` for a tumour under a constant effect of which the
    fraction ``loss`` is lost at `loss_rate` (1/day).
    """
    return jnp.stack([jnp.ones_like(day), day, waning_time(day, loss_rate)], axis=-1)


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
