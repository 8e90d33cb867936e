"""The linear Gaussian marginal: one mouse's curve with its own coefficients integrated out, in closed form.

A curve of n values is ``y = B theta + eps`` with ``theta ~ Normal(m, Omega)`` and ``eps ~ Normal(0, sigma^2 I)``. With
the thin QR decomposition ``B = Q R`` the curve is carried by ``z = Q' y`` (p numbers) and the residual sum of squares,
for

    z ~ Normal(R m, R Omega R' + sigma^2 I_p)      and      RSS / sigma^2 ~ chi-squared(n - p), independent of z.

So a likelihood on thousands of rows costs one p x p factorisation a mouse, exactly (no approximation; the density is
that of the full n x n covariance, as ``tests/test_marginal.py`` checks against scipy). float64 only: the sums cancel
in float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints


def cholesky(matrix: Float[Array, "*S p p"]) -> list[list[Float[Array, "*S"]]]:
    """Lower Cholesky factor of many small matrices, unrolled: ``factor[i][j]`` with j <= i, each of shape [S].

    Elementwise over the batch, so that XLA fuses it; a batched LAPACK call a mouse is ten times slower here.
    """
    size = matrix.shape[-1]
    factor: list[list[Array]] = [[] for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = matrix[..., i, j] - sum((factor[i][k] * factor[j][k] for k in range(j)), start=jnp.zeros(()))
            factor[i].append(jnp.sqrt(rest) if i == j else rest / factor[j][j])
    return factor


def solve_lower(factor: list[list[Array]], right: list[Array]) -> list[Array]:
    """Solve ``L w = right`` by forward substitution, for unrolled factors."""
    solved: list[Array] = []
    for i, value in enumerate(right):
        solved.append((value - sum((factor[i][k] * solved[k] for k in range(i)), start=jnp.zeros(()))) / factor[i][i])
    return solved


class Whitened(NamedTuple):
    """Curves in the coordinates in which their marginal is standard normal, for conditioning on them."""

    factor: list[list[Array]]  # of the marginal covariance, unrolled, [S] each
    white: list[Array]  # p arrays [S]
    triangle: Float[Array, "S p p"]

    def take(self, index) -> Whitened:
        """Keep the curves of `index` only."""
        return jax.tree.map(lambda x: x[index], self)

    def moved(self, direction: Float[Array, "S p"], by: Float[Array, " S"]) -> tuple[Whitened, Float[Array, " S"]]:
        """The curves about a mean of theta that is farther by ``by * direction``, and what that adds to log densities.

        The factor stays; one more forward substitution a curve.
        """
        size = len(self.white)
        rotated = jnp.einsum("sij,sj->si", self.triangle, direction)
        along = solve_lower(self.factor, [rotated[:, i] for i in range(size)])
        across = sum((w * a for w, a in zip(self.white, along, strict=True)), start=jnp.zeros(()))
        length = sum((jnp.square(a) for a in along), start=jnp.zeros(()))
        white = [w - by * a for w, a in zip(self.white, along, strict=True)]
        return Whitened(self.factor, white, self.triangle), by * across - 0.5 * jnp.square(by) * length

    def condition(self, loading: Float[Array, "S p k"]):
        """What the curve says about latents that move its coefficients theta.

        For latents u with ``cov(theta, u) = loading`` returns ``E[u | z] - E[u]`` [S, k] and ``cov[u] - cov[u | z]``
        [S, k, k].
        """
        size = len(self.white)
        rotated = jnp.einsum("sij,sjk->sik", self.triangle, loading)
        columns = [solve_lower(self.factor, [rotated[:, i, k] for i in range(size)]) for k in range(loading.shape[-1])]
        gain = jnp.stack([jnp.stack(column, axis=-1) for column in columns], axis=-1)  # [S, p, k]
        shift = jnp.einsum("spk,sp->sk", gain, jnp.stack(self.white, axis=-1))
        return shift, jnp.einsum("spk,spl->skl", gain, gain)


class LinearGaussianMarginal(dist.Distribution):
    """Distribution of ``[z_1 .. z_p, RSS]`` of one curve, such that its density is that of the curve itself.

    Parameters
    ----------
    loc : [S, p]
        Mean of the coefficients theta.
    covariance : [S, p, p]
        Their covariance Omega.
    sigma : [S]
        Residual standard deviation.
    triangle : [S, p, p]
        R of the thin QR decomposition of the basis.
    num_measurements : [S]
        Length n of each curve. Curves with n < p are allowed: their R has zero rows at the end, their z zeros there.

    Notes
    -----
    ``log_prob`` is the log density of the n values y (the constant of the map from y to (z, RSS) is left
    out on purpose).
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "covariance": constraints.positive_semidefinite,
        "sigma": constraints.positive,
    }
    pytree_data_fields = ("loc", "covariance", "sigma", "triangle", "num_measurements", "marginal_covariance")

    def __init__(self, loc, covariance, sigma, triangle, num_measurements, *, validate_args=None):
        self.loc, self.covariance, self.sigma = loc, covariance, sigma
        self.triangle, self.num_measurements = triangle, num_measurements
        rotated = jnp.einsum("sij,sjk,slk->sil", triangle, covariance, triangle)
        noise = jnp.square(sigma)[:, None, None] * jnp.eye(loc.shape[-1], dtype=loc.dtype)[None]
        self.marginal_covariance = rotated + noise
        super().__init__(loc.shape[:-1], (loc.shape[-1] + 1,), validate_args=validate_args)

    @property
    def support(self):
        """Real vectors."""
        return constraints.real_vector

    def whiten(self, coefficients: Float[Array, "S p"]) -> Whitened:
        """Factor the marginal covariance and whiten the gap between the curves and their mean."""
        factor = cholesky(self.marginal_covariance)
        gap = coefficients - jnp.einsum("sij,sj->si", self.triangle, self.loc)
        white = solve_lower(factor, [gap[:, i] for i in range(gap.shape[-1])])
        return Whitened(factor, white, self.triangle)

    def log_prob(self, value: Any, intermediates: Any = None):
        """Log density of the curves, shape [S]."""
        return self.log_density(self.whiten(value[:, :-1]), value[:, -1])

    def log_density(self, whitened: Whitened, residual: Float[Array, " S"]) -> Float[Array, " S"]:
        """Log density of the curves from :meth:`whiten` and the residual sums of squares."""
        size = self.loc.shape[-1]
        quadratic = sum((jnp.square(w) for w in whitened.white), start=jnp.zeros(()))
        log_scale = sum((jnp.log(whitened.factor[i][i]) for i in range(size)), start=jnp.zeros(()))
        return (
            -0.5 * quadratic
            - log_scale
            - (self.num_measurements - size) * jnp.log(self.sigma)
            - 0.5 * residual / jnp.square(self.sigma)
            - 0.5 * self.num_measurements * math.log(2.0 * math.pi)
        )


class GroupedNormal(dist.Distribution):
    """Normal values that share the normal deviation of their group, which is integrated out.

    ``x_d = loc + a_group(d) + b_d`` with ``a ~ Normal(0, between)`` and ``b ~ Normal(0, within)``: within a group of n
    values the covariance is compound symmetric, so that determinant and inverse are closed forms of the group's sums.

    Parameters
    ----------
    loc, between, within : []
        Mean, SD between groups, SD within.
    group : [D] int
        Group of each value.
    num_groups : int
        Number of groups.
    """

    arg_constraints = {"loc": constraints.real, "between": constraints.positive, "within": constraints.positive}

    def __init__(self, loc, between, within, group, num_groups: int, *, validate_args=None):
        self.loc, self.between, self.within, self.group, self.num_groups = loc, between, within, group, num_groups
        super().__init__((), (group.shape[0],), validate_args=validate_args)

    @property
    def support(self):
        """Real vectors."""
        return constraints.real_vector

    @property
    def mean(self):
        """Mean of every value, [D]."""
        return jnp.broadcast_to(self.loc, self.event_shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()):
        """Draw values [*sample_shape, D]."""
        key_group, key_value = jax.random.split(key)
        shared = self.between * jax.random.normal(key_group, (*sample_shape, self.num_groups))
        own = self.within * jax.random.normal(key_value, (*sample_shape, *self.event_shape))
        return self.loc + shared[..., self.group] + own

    def _sums(self, value):
        members = jnp.zeros(self.num_groups).at[self.group].add(1.0)
        total = jnp.zeros(self.num_groups).at[self.group].add(value - self.loc)
        return members, total

    def log_prob(self, value: Any, intermediates: Any = None):
        """Log density of all values together, []."""
        members, total = self._sums(value)
        within, between = self.within**2, self.between**2
        spread = within + members * between
        quadratic = jnp.sum((value - self.loc) ** 2) / within - jnp.sum(total**2 * between / (within * spread))
        log_det = (self.event_shape[0] - self.num_groups) * jnp.log(within) + jnp.sum(jnp.log(spread))
        return -0.5 * (quadratic + log_det + self.event_shape[0] * math.log(2.0 * math.pi))

    def group_given(self, value):
        """Mean and SD of ``loc + a`` of every group given its values, [num_groups] each."""
        members, total = self._sums(value)
        precision = members / self.within**2 + 1.0 / self.between**2
        return self.loc + total / self.within**2 / precision, 1.0 / jnp.sqrt(precision)
