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
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

#: p numbers of every curve as p arrays [S], a matrix of every curve as its rows: of arrays over curves XLA fuses the
#: arithmetic of a curve into few loops, where stacked ones are copied and small products are calls
Vector: TypeAlias = Sequence[Float[Array, " S"]]
Matrix: TypeAlias = Sequence[Vector]


def unrolled(array: Any, axes: int = 1) -> Any:
    """:data:`Vector` of an array [S, p], or with ``axes=2`` :data:`Matrix` of one [S, p, q]."""
    if axes == 0:
        return array
    return [unrolled(array[:, i], axes - 1) for i in range(array.shape[1])]


def stacked(vector: Vector) -> Float[Array, "S p"]:
    """The array that :func:`unrolled` takes apart."""
    return jnp.stack(list(vector), axis=-1)


def stacked_matrix(matrix: Matrix) -> Float[Array, "S p q"]:
    """The same of a matrix in full."""
    return jnp.stack([stacked(row) for row in matrix], axis=-2)


def dot(one: Vector, other: Vector) -> Float[Array, " S"]:
    """Inner product."""
    return sum((a * b for a, b in zip(one, other, strict=True)), start=jnp.zeros(()))


def rotate(triangle: Matrix, vector: Vector) -> list[Array]:
    """``R v`` of an upper triangular R."""
    return [dot(row[i:], vector[i:]) for i, row in enumerate(triangle)]


def rotate_covariance(triangle: Matrix, covariance: Matrix) -> list[list[Array]]:
    """Lower triangle of ``R Omega R'`` of an upper triangular R: ``[i][j]`` with j <= i."""
    size = len(triangle)
    half = [[dot(triangle[j][j:], row[j:]) for j in range(size)] for row in covariance]  # Omega R'
    return [[dot(triangle[i][i:], [row[j] for row in half[i:]]) for j in range(i + 1)] for i in range(size)]


def cholesky(matrix: Matrix) -> list[list[Array]]:
    """Lower Cholesky factor of many small matrices, ``[i][j]`` with j <= i, its diagonal inverted.

    A LAPACK call a curve is ten times slower; inverted, because a division is slower than a product and not fused.
    """
    factor: list[list[Array]] = [[] for _ in matrix]
    for i in range(len(matrix)):
        for j in range(i + 1):
            rest = matrix[i][j] - dot(factor[i][:j], factor[j][:j])
            factor[i].append(jax.lax.rsqrt(rest) if i == j else rest * factor[j][j])
    return factor


def solve_lower(factor: Matrix, right: Vector) -> list[Array]:
    """Solve ``L w = right`` by forward substitution; L from :func:`cholesky`, its diagonal inverted."""
    solved: list[Array] = []
    for i, value in enumerate(right):
        solved.append((value - dot(factor[i][:i], solved)) * factor[i][i])
    return solved


class Whitened(NamedTuple):
    """Curves in the coordinates in which their marginal is standard normal, for conditioning on them."""

    factor: Matrix  # of the marginal covariance, see `cholesky`
    white: Vector
    triangle: Matrix

    def take(self, index) -> Whitened:
        """Keep the curves of `index` only."""
        return jax.tree.map(lambda x: x[index], self)

    def moved(self, direction: Vector, by: Float[Array, " S"]) -> tuple[Whitened, Float[Array, " S"]]:
        """The curves about a mean of theta that is farther by ``by * direction``, and what that adds to log densities.

        The factor stays; one more forward substitution a curve.
        """
        along = solve_lower(self.factor, rotate(self.triangle, direction))
        white = [w - by * a for w, a in zip(self.white, along, strict=True)]
        gained = by * dot(self.white, along) - 0.5 * jnp.square(by) * dot(along, along)
        return Whitened(self.factor, white, self.triangle), gained

    def condition(self, loading: Sequence[Vector]) -> tuple[list[Array], list[list[Array]]]:
        """What the curve says about k latents that move its coefficients theta.

        For latents u with ``cov(theta, u_a) = loading[a]`` returns ``E[u | z] - E[u]``, k arrays, and
        ``cov[u] - cov[u | z]``, k x k.
        """
        gain = [solve_lower(self.factor, rotate(self.triangle, column)) for column in loading]
        return [dot(one, self.white) for one in gain], [[dot(one, other) for other in gain] for one in gain]


class LinearGaussianMarginal(NamedTuple):
    """Density of S curves, from the ``[z_1 .. z_p, RSS]`` that carry them.

    It is that of the n values y of a curve: the constant of the map from y to (z, RSS) is left out on purpose.
    """

    loc: Vector  # mean of the coefficients theta
    covariance: Matrix  # their covariance Omega
    ln_sigma: Float[Array, " S"]  # of the residual SD
    #: R of the thin QR decomposition of the basis. Curves with n < p are allowed: their R has zero rows at the end,
    #: their z zeros there
    triangle: Matrix
    num_measurements: Float[Array | np.ndarray, " S"]  # n

    def whiten(self, coefficients: Vector) -> Whitened:
        """Factor the marginal covariance and whiten the gap between the curves and their mean."""
        marginal = rotate_covariance(self.triangle, self.covariance)
        noise = jnp.exp(2.0 * self.ln_sigma)
        for i, row in enumerate(marginal):
            row[i] = row[i] + noise
        factor = cholesky(marginal)
        mean = rotate(self.triangle, self.loc)
        gap = [value - own for value, own in zip(coefficients, mean, strict=True)]
        return Whitened(factor, solve_lower(factor, gap), self.triangle)

    def log_prob(self, coefficients: Vector, residual: Float[Array, " S"]) -> Float[Array, " S"]:
        """Log density of the curves from z and the residual sums of squares."""
        return self.log_density(self.whiten(coefficients), residual)

    def log_density(self, whitened: Whitened, residual: Float[Array, " S"]) -> Float[Array, " S"]:
        """Log density of the curves from :meth:`whiten` and the residual sums of squares."""
        # one logarithm a curve: they are what takes longest here
        scale = math.prod(row[i] for i, row in enumerate(whitened.factor))
        return (
            jnp.log(scale)
            - 0.5 * dot(whitened.white, whitened.white)
            - (self.num_measurements - len(self.loc)) * self.ln_sigma
            - 0.5 * residual * jnp.exp(-2.0 * self.ln_sigma)
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
