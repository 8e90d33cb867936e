"""Volumes below the detection limit: the probability that they lie there, given those that are seen.

The hidden ln volumes are sampled one after the other (docs/decisions/0002).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm

from vtrial.censored_rows import Censored
from vtrial.curve_density import CurveDensity
from vtrial.marginal import Matrix, Vector, cholesky, dot, solve_lower, unrolled


class Hidden(NamedTuple):
    """Q mice, given all their measurements."""

    log_below: jax.Array  # [Q] log P(measurements below the limit | the uncensored ones)
    mean: Vector  # of the coefficients
    covariance: Matrix


def censored_density(u, censored: Censored, ln_sigma, seen: CurveDensity) -> Hidden:
    """Log P(measurements below the limit | the uncensored ones) of each mouse that has such, and its coefficients.

    `u` [Q, K] are standard uniform, `ln_sigma` [Q] is the ln of the residual SD; `seen` are the uncensored measurements
    of these mice.

    The hidden ln volumes are sampled one after the other, each from its normal given the ones before it and
    truncated at the limit (Geweke, Hajivassiliou & Keane; Genz 1992, J Comput Graph Stat 1:141). With ``u`` uniform as
    the parameter the density is the product of the truncated masses, exactly, and smooth: a hidden curve sampled freely
    would meet the limit as a wall.
    """
    num_mice, num_rows = censored.present.shape
    shift, reduction = seen.whitened.condition(seen.covariance)
    mean = [known + more for known, more in zip(seen.mean, shift, strict=True)]
    covariance = [
        [known - less for known, less in zip(*rows, strict=True)]
        for rows in zip(seen.covariance, reduction, strict=True)
    ]
    # the hidden ln volumes are Normal(centre, L L'): standard normals below bounds that fall with those before them
    basis, noise = unrolled(censored.basis, 2), unrolled(censored.noise, 2)
    along = [[dot(row, each) for row in covariance] for each in basis]  # covariance with the coefficients
    variance = jnp.exp(2.0 * ln_sigma)
    factor = cholesky(
        [[dot(along[i], basis[j]) + variance * noise[i][j] for j in range(i + 1)] for i in range(num_rows)]
    )
    centre = [dot(row, mean) + own for row, own in zip(basis, unrolled(censored.offset), strict=True)]
    gap = jnp.stack([(censored.log_limit - own) * factor[k][k] for k, own in enumerate(centre)])
    none = jnp.zeros(num_mice)
    weight = jnp.stack(
        [jnp.stack([factor[k][j] * factor[k][k] if j < k else none for j in range(num_rows)]) for k in range(num_rows)]
    )

    def hide(carry, row):
        drawn, total = carry
        k, u, gap, weight, present = row
        bound = gap - jnp.sum(weight * drawn, axis=0)
        return (drawn.at[k].set(truncated_normal(u, bound)), total + jnp.where(present, log_ndtr(bound), 0.0)), None

    # a loop, not unrolled: normal quantiles and their gradients are half of all that XLA compiles for a fit
    rows = (jnp.arange(num_rows), u.T, gap, weight, jnp.asarray(censored.present).T)
    (drawn, total), _ = jax.lax.scan(hide, (jnp.zeros((num_rows, num_mice)), none), rows)

    gain = [solve_lower(factor, [row[a] for row in along]) for a in range(len(mean))]
    mean = [known + dot(own, list(drawn)) for known, own in zip(mean, gain, strict=True)]
    covariance = [[known - dot(gain[a], gain[b]) for b, known in enumerate(row)] for a, row in enumerate(covariance)]
    return Hidden(total, mean, covariance)


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
