"""The marginal of one curve against the dense n x n Gaussian, computed with NumPy and scipy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vtrial.growth_laws import time_courses
from vtrial.marginal import LinearGaussianMarginal, cholesky, solve_lower, stacked, stacked_matrix, unrolled
from vtrial.model_format import CurveShape

LOSS_RATE = 0.02
LENGTHS = (0, 1, 2, 3, 4, 7, 15)
# The dense reference loses digits to the condition number of its covariance, about 1e6 here: 1e6 x 2.2e-16 x 15 rows.
TOLERANCE = 1e-8


class Curves(NamedTuple):
    """Curves in full, one list entry each."""

    basis: list[np.ndarray]
    measured: list[np.ndarray]
    loc: np.ndarray
    covariance: np.ndarray
    sigma: np.ndarray


@pytest.fixture(scope="module")
def curves() -> Curves:
    rng = np.random.default_rng(11)
    number = 3 * len(LENGTHS)
    lengths = np.repeat(LENGTHS, 3)
    days = [np.sort(rng.choice(90, n, replace=False)).astype(float) for n in lengths]
    basis = [time_courses(day, CurveShape(LOSS_RATE)) for day in days]
    root = rng.normal(size=(number, 3, 3)) * [[0.3], [0.02], [0.02]]
    loc = np.stack([rng.normal(5.4, 0.3, number), rng.normal(0.03, 0.03, number), rng.normal(0, 0.02, number)], 1)
    sigma = np.exp(rng.normal(np.log(0.15), 0.5, number))
    measured = [
        b @ (m + r @ rng.normal(size=3)) + s * rng.normal(size=len(b))
        for b, m, r, s in zip(basis, loc, root, sigma, strict=True)
    ]
    return Curves(basis, measured, loc, root @ np.swapaxes(root, 1, 2), sigma)


def carried(curves: Curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``[z, RSS]``, R and n of every curve; what is missing of R and z in short curves is zero."""
    number = len(curves.basis)
    value, triangle = np.zeros((number, 4)), np.zeros((number, 3, 3))
    for i, (basis, measured) in enumerate(zip(curves.basis, curves.measured, strict=True)):
        orthogonal, upper = np.linalg.qr(basis)
        rows = len(upper)
        value[i, :rows], triangle[i, :rows] = orthogonal.T @ measured, upper
        value[i, 3] = np.sum((measured - orthogonal @ (orthogonal.T @ measured)) ** 2)
    return value, triangle, np.array([float(len(m)) for m in curves.measured])


def marginal_of(curves: Curves) -> tuple[LinearGaussianMarginal, jax.Array]:
    value, triangle, number = map(jnp.asarray, carried(curves))
    loc, covariance, ln_sigma = map(jnp.asarray, (curves.loc, curves.covariance, np.log(curves.sigma)))
    numbers = (unrolled(loc), unrolled(covariance, 2), ln_sigma, unrolled(triangle, 2), number)
    return LinearGaussianMarginal(*numbers), value


def dense_covariance(curves: Curves, i: int) -> np.ndarray:
    basis = curves.basis[i]
    return basis @ curves.covariance[i] @ basis.T + curves.sigma[i] ** 2 * np.eye(len(basis))


def test_density_is_that_of_the_full_covariance(curves):
    with jax.enable_x64(True):
        marginal, value = marginal_of(curves)
        found = np.asarray(marginal.log_prob(unrolled(value[:, :-1]), value[:, -1]))
    expected = [
        stats.multivariate_normal.logpdf(y, curves.basis[i] @ curves.loc[i], dense_covariance(curves, i))
        if len(y)
        else 0.0
        for i, y in enumerate(curves.measured)
    ]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_condition_is_the_dense_gaussian_conditional(curves):
    rng = np.random.default_rng(12)
    # two latents u ~ N(0, 1) that move theta: theta = m + loading u + the rest, with a covariance that holds both
    loading = rng.normal(size=(len(curves.basis), 3, 2)) * [[0.1], [0.01], [0.01]]
    curves = curves._replace(covariance=curves.covariance + loading @ np.swapaxes(loading, 1, 2))
    with jax.enable_x64(True):
        marginal, value = marginal_of(curves)
        whitened = marginal.whiten(unrolled(value[:, :-1]))
        columns = unrolled(np.swapaxes(loading, 1, 2), 2)
        shift, reduction = whitened.condition(columns)
        chosen = np.array([20, 3, 8])
        part = whitened.take(jnp.asarray(chosen)).condition([[x[chosen] for x in column] for column in columns])
        shift, reduction = np.asarray(stacked(shift)), np.asarray(stacked_matrix(reduction))
        part = np.asarray(stacked(part[0])), np.asarray(stacked_matrix(part[1]))
    for i, y in enumerate(curves.measured):
        gain = loading[i].T @ curves.basis[i].T @ np.linalg.inv(dense_covariance(curves, i)) if len(y) else None
        expected_shift = gain @ (y - curves.basis[i] @ curves.loc[i]) if len(y) else np.zeros(2)
        expected_reduction = gain @ curves.basis[i] @ loading[i] if len(y) else np.zeros((2, 2))
        np.testing.assert_allclose(shift[i], expected_shift, rtol=TOLERANCE, atol=TOLERANCE)
        np.testing.assert_allclose(reduction[i], expected_reduction, rtol=TOLERANCE, atol=TOLERANCE)
        assert np.all(np.linalg.eigvalsh(np.eye(2) - reduction[i]) > 0), "a conditional variance is positive"
    np.testing.assert_allclose(part[0], shift[chosen], rtol=1e-12)
    np.testing.assert_allclose(part[1], reduction[chosen], rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_unrolled_factor_and_solution_are_those_of_lapack(size):
    rng = np.random.default_rng(size)
    root = rng.normal(size=(6, size, size))
    matrix = root @ np.swapaxes(root, 1, 2) + np.eye(size)
    right = rng.normal(size=(6, size))
    with jax.enable_x64(True):
        factor = cholesky(unrolled(jnp.asarray(matrix), 2))
        solved = np.stack(solve_lower(factor, list(jnp.asarray(right).T)), axis=-1)
    lower = np.linalg.cholesky(matrix)
    expected = lower.copy()
    expected[:, range(size), range(size)] = 1.0 / lower[:, range(size), range(size)]
    for i in range(size):
        assert len(factor[i]) == i + 1
        for j in range(i + 1):
            np.testing.assert_allclose(factor[i][j], expected[:, i, j], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solved, np.linalg.solve(lower, right[..., None])[..., 0], rtol=1e-10, atol=1e-12)


def test_density_in_sigma_peaks_at_the_residual(curves):
    """With the coefficients known, sigma's maximum likelihood is sqrt(RSS' / n), RSS' about the known mean."""
    long = [i for i, y in enumerate(curves.measured) if len(y) == 15]
    value, triangle, number = (x[long] for x in carried(curves))
    square = [np.sum((curves.measured[i] - curves.basis[i] @ curves.loc[i]) ** 2) for i in long]
    best = np.sqrt(np.array(square) / 15)
    with jax.enable_x64(True):
        value, triangle, number = map(jnp.asarray, (value, triangle, number))
        loc, nothing = unrolled(jnp.asarray(curves.loc[long])), unrolled(jnp.zeros((len(long), 3, 3)), 2)
        known = unrolled(triangle, 2)

        def density(sigma):
            marginal = LinearGaussianMarginal(loc, nothing, jnp.log(sigma), known, number)
            return marginal.log_prob(unrolled(value[:, :-1]), value[:, -1])

        slope = jax.jit(jax.grad(lambda sigma: jnp.sum(density(sigma))))(jnp.asarray(best))
        # the derivative is a difference of two terms of n / sigma that cancel
        np.testing.assert_allclose(slope * best / 15, 0.0, atol=1e-9)
        assert np.all(density(jnp.asarray(best)) > density(jnp.asarray(best * 1.05)))
        assert np.all(density(jnp.asarray(best)) > density(jnp.asarray(best / 1.05)))
