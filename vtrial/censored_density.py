"""Volumes below the detection limit: the probability that they lie there, given those that are seen.

The hidden ln volumes are sampled one after the other (docs/decisions/0002).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm

from vtrial.censored_rows import Censored
from vtrial.curve_density import CurveDensity


def censored_density(u, parts: list[CurveDensity], censored: Censored, sigma, num_single: int):
    """Log P(measurements below the limit | the uncensored ones) of each mouse that has such, and its coefficients.

    `u` [Q, K] are standard uniform; `parts` are the mice under one drug or none, `num_single` of them, and the others.

    Returns that log mass [Q], and the mean [Q, 3] and covariance [Q, 3, 3] of the coefficients given all measurements.
    The hidden ln volumes are sampled one after the other, each from its normal given the ones before it and truncated
    at the limit. With ``u`` uniform as the parameter the density is the product of the truncated masses, exactly, and
    smooth: a hidden curve sampled freely would meet the limit as a wall.
    """
    num_mice, num_rows = censored.present.shape
    from_single = censored.mouse < num_single
    index = (jnp.where(from_single, censored.mouse, 0), jnp.where(from_single, 0, censored.mouse - num_single))
    means, covariances = [], []
    for part, member in zip(parts, index, strict=False):
        loading = part.covariance[member]
        shift, reduction = part.whitened.take(member).condition(loading)
        means.append(part.mean[member] + shift)
        covariances.append(loading - reduction)
    choose = from_single[:, None]
    mean = means[0] if len(means) == 1 else jnp.where(choose, *means)
    covariance = covariances[0] if len(means) == 1 else jnp.where(choose[:, :, None], *covariances)

    def hide(carry, row):
        mean, covariance, drawn, total = carry
        k, u, basis, present, offset, earlier, scale = row
        along = jnp.einsum("qij,qj->qi", covariance, basis)
        scale = jnp.sqrt(jnp.sum(basis * along, axis=-1) + jnp.square(sigma[censored.mouse] * scale))
        centre = jnp.sum(basis * mean, axis=-1) + offset + jnp.sum(earlier * drawn, axis=-1)
        bound = (censored.log_limit - centre) / scale
        total += jnp.where(present, log_ndtr(bound), 0.0)
        hidden = truncated_normal(u, bound)
        gain = jnp.where(present, 1.0, 0.0)[:, None] * along / scale[:, None]
        mean = mean + gain * hidden[:, None]
        covariance = covariance - gain[:, :, None] * gain[:, None, :]
        return (mean, covariance, drawn.at[:, k].set(centre + scale * hidden), total), None

    # a loop, not unrolled: normal quantiles and their gradients are half of all that XLA compiles for a fit
    per_row = (u, censored.basis, censored.present, censored.offset, censored.earlier, censored.scale)
    rows = (jnp.arange(num_rows), *(jnp.moveaxis(jnp.asarray(field), 1, 0) for field in per_row))
    start = (mean, covariance, jnp.zeros((num_mice, num_rows)), jnp.zeros(num_mice))
    (mean, covariance, _, total), _ = jax.lax.scan(hide, start, rows)
    return total, mean, covariance


@jax.custom_jvp
def truncated_normal(u, bound):
    """Quantile `u` of a standard normal below `bound`, elementwise; below -30 from the tail phi(x) / -x."""
    far = bound < -30.0
    near_bound = jnp.where(far, -30.0, bound)
    near = ndtri(jnp.clip(u * ndtr(near_bound), 1e-300, 1.0 - 1e-16))
    far_bound = jnp.where(far, bound, -30.0)
    square = jnp.square(far_bound) - 2.0 * jnp.log(jnp.clip(u, 1e-300))
    return jnp.where(far, -jnp.sqrt(square - jnp.log(square / jnp.square(far_bound))), near)


@truncated_normal.defjvp
def _truncated_normal_jvp(primals, tangents):
    """Slopes of x where Phi(x) = u Phi(bound): no polynomial of `ndtri` is differentiated, nor compiled for it."""
    u, bound = primals
    x = truncated_normal(u, bound)
    by_u = jnp.exp(log_ndtr(bound) - norm.logpdf(x))
    by_bound = u * jnp.exp(norm.logpdf(bound) - norm.logpdf(x))
    return x, by_u * tangents[0] + by_bound * tangents[1]
