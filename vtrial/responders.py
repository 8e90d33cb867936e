"""Common responders: a hidden class of PDX models in which every drug does more, summed over.

With ``fit.responders: common`` every PDX model m is a common responder with probability ``responder_share``, and the
effect of every drug in such a model is larger by ``responder_shift``:

    rho_md ~ Normal(effect_d + responder_shift z_m, omega_effect_d^2)            z_m ~ Bernoulli(responder_share)

``effect`` is then the mean over the other PDX models. All mice of a PDX model share its z, so that the density of their
curves Y_m is a sum of two Gaussians over the whole block,

    p(Y_m) = (1 - share) prod_i p(y_i | z = 0) + share prod_i p(y_i | z = 1)

which differ in their means alone: one Cholesky factor a mouse serves both (:meth:`vtrial.marginal.Whitened.moved`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int

#: sites of the option; a fit without it has none of them
SITES = ("responder_share", "responder_shift")


class TwoComponents(NamedTuple):
    """The curves of M PDX models and S mice with z summed over."""

    pdx_model: Float[Array, " M"]  # log density of all curves of a PDX model
    mouse: Float[Array, " S"]  # of a mouse given the other mice of its PDX model
    probability: Float[Array, " M"]  # P(z = 1 | the curves)


def two_components(
    share: Float[Array, ""], other: Float[Array, " S"], common: Float[Array, " S"], owner: Int[Array, " S"], size: int
) -> TwoComponents:
    """Sum over z.

    Parameters
    ----------
    share
        P(z = 1).
    other, common
        Log density of every mouse's curve given z = 0 and z = 1.
    owner
        PDX model of every mouse.
    size
        Number of PDX models.
    """
    blocks = jnp.zeros((2, size)).at[:, owner].add(jnp.stack([other, common]))
    joint = blocks + jnp.stack([jnp.log1p(-share), jnp.log(share)])[:, None]
    whole = jnp.logaddexp(joint[0], joint[1])
    rest = jnp.logaddexp(joint[0, owner] - other, joint[1, owner] - common)
    return TwoComponents(whole, whole[owner] - rest, jax.nn.sigmoid(joint[1] - joint[0]))


def log_share_above(threshold, mean, spread, share, shift):
    """Log of the share of PDX models with an effect above and below a threshold, two arrays."""

    def of_both(sign):
        other, common = (log_ndtr(sign * (centre - threshold) / spread) for centre in (mean, mean + shift))
        return jnp.logaddexp(jnp.log1p(-share) + other, jnp.log(share) + common)

    return of_both(1.0), of_both(-1.0)


def log_density(effect, mean, spread, share, shift):
    """Log density of the effect in one PDX model."""
    other, common = (norm.logpdf(effect, centre, spread) for centre in (mean, mean + shift))
    return jnp.logaddexp(jnp.log1p(-share) + other, jnp.log(share) + common)


def drawn(key: jax.Array, values: dict[str, np.ndarray], owner: np.ndarray) -> dict[str, np.ndarray]:
    """Draws of z given the curves, and the explicit effects that belong to them.

    Parameters
    ----------
    key
        Consumed.
    values
        Constrained sites, [chain, draw, ...], of a fit with the option: ``responder_probability`` [..., M] and, where
        there are explicit effects, ``effect_site`` given z = 0 and ``effect_site_common`` given z = 1, [..., X]; so too
        the density of the lone mouse behind each, ``lone_density``.
    owner
        PDX model of every explicit effect, [X].

    Returns
    -------
    dict
        `values` with ``responder`` (0 or 1) [..., M], and with ``effect_site`` and ``lone_density`` given that.
    """
    probability = values["responder_probability"]
    responder = np.asarray(jax.random.uniform(key, probability.shape)) < probability
    found = {name: value for name, value in values.items() if not name.endswith("_common")}
    found["responder"] = responder.astype(np.float64)
    for name in ("effect_site", "lone_density"):
        if f"{name}_common" in values:
            found[name] = np.where(responder[..., owner], values[f"{name}_common"], values[name])
    return found
