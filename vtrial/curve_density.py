"""What a mouse's curve is given the growth of its PDX model and its effect: the law of its coefficients, its density.

The coefficients ``(eta, s, c)`` and their law are those of :mod:`vtrial.model`; here they are integrated out of the
curve, together with what the effect varies over PDX models where one mouse alone informs it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vtrial.marginal import LinearGaussianMarginal, Matrix, Vector, Whitened, unrolled
from vtrial.panel import Curves


def coefficient_mean(shared, growth, effect, loss):
    """Mean of ``(eta, s, c)``, three arrays [S].

    Of mice of a growth rate (1/day) under an effect (fraction removed) of which in the end the fraction `loss` is lost.
    """
    intercept = jnp.broadcast_to(shared["mu_intercept"], growth.shape)
    return [intercept, growth * (1.0 - effect), growth * (loss * effect - shared["slowing"])]


def coefficient_covariance(shared, growth, omega_effect, loss, bend: float):
    """Covariance of ``(eta, s, c)``, 3 x 3 arrays [S]: the mouse, and the spread of the effect over PDX models.

    The mouse's own deviation is ``delta t + zeta (q(t) - bend t)``: delta is its mean rate over the reference days,
    zeta what bends its curve about that line. In the coordinates (s, c) that is ``(delta - bend zeta, zeta)``.
    """
    zero = jnp.zeros_like(growth)
    mouse, curve, both = shared["omega_mouse"], shared["omega_curvature"], shared["correlation"]
    together = both * mouse * curve
    # per unit of growth squared
    rate = mouse**2 - 2.0 * bend * together + (bend * curve) ** 2 + omega_effect**2
    cross = together - bend * curve**2 - loss * omega_effect**2
    curvature = curve**2 + (loss * omega_effect) ** 2
    square = growth**2
    intercept = jnp.broadcast_to(shared["omega_intercept"] ** 2, growth.shape)
    return [
        [intercept, zero, zero],
        [zero, rate * square, cross * square],
        [zero, cross * square, curvature * square],
    ]


def effect_loading(growth, omega_effect, loss):
    """Covariance of ``(eta, s, c)`` with the effect of the cell, three arrays [S]."""
    variance = growth * omega_effect**2
    return [jnp.zeros_like(growth), -variance, loss * variance]


class CurveDensity(NamedTuple):
    """The curves of some of the mice, after they have been compared with their mean."""

    mean: Vector  # of the coefficients
    covariance: Matrix
    whitened: Whitened
    log_density: jax.Array  # [S]
    effect: jax.Array  # [S] mean of the effect of the cell, 0 for controls
    spread: jax.Array  # [S] its SD, 0 where it is given
    loading: Vector  # its covariance with the coefficients
    loss: jax.Array  # [S] fraction of the effect that is lost in the end

    def moved(self, growth, by) -> CurveDensity:
        """The same mice under an effect that is larger by `by` [S], with the same covariances."""
        direction = [jnp.zeros_like(growth), -growth, self.loss * growth]
        whitened, gained = self.whitened.moved(direction, by)
        return self._replace(
            mean=[mean + by * along for mean, along in zip(self.mean, direction, strict=True)],
            whitened=whitened,
            log_density=self.log_density + gained,
            effect=self.effect + by,
        )


def curve_density(
    shared, curves: Curves, ln_sigma, growth, bend: float, part: slice, loss, effect, spread
) -> CurveDensity:
    """Density of the curves of one part of the mice.

    Parameters
    ----------
    shared
        What all mice share, see :func:`vtrial.levels.shared_by_mice`.
    curves, ln_sigma, growth
        Of all mice: their curves, ln of their residual SDs [S], growth of their PDX models [S] (1/day).
    bend
        See :func:`vtrial.growth_laws.reference_bend`.
    part
        Which mice.
    loss, effect, spread
        Fraction of the effect that is lost in the end on those mice, mean and SD of the effect.
    """
    mean = coefficient_mean(shared, growth[part], effect, loss)
    covariance = coefficient_covariance(shared, growth[part], spread, loss, bend)
    triangle, (*coefficients, residual) = unrolled(curves.triangle[part], 2), unrolled(curves.statistics[part])
    marginal = LinearGaussianMarginal(mean, covariance, ln_sigma[part], triangle, curves.num_measurements[part])
    whitened = marginal.whiten(coefficients)
    density = marginal.log_density(whitened, residual) + curves.log_jacobian[part]
    loading = effect_loading(growth[part], spread, loss)
    return CurveDensity(mean, covariance, whitened, density, effect, spread, loading, loss)
