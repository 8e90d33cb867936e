"""Mice drawn from the priors alone, with all their noise: what the model takes for possible before it sees a curve."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from vtrial.model_format import CurveShape
from vtrial.mouse_prior import MouseDraws
from vtrial.predict import MouseLaw, log_volume
from vtrial.prior_draws import PriorSampler
from vtrial.response import CR, MRECIST_PDXE, PR, mrecist_class, mrecist_curve
from vtrial.treatment import combine, loss_of_arm

#: new PDX models of a draw, one mouse each
NUM_MICE = 50
#: nobody leaves before the last: the rule by which mice leave is estimated from a table
DAYS = tuple(range(0, 85, 4))
#: day on which an untreated tumour is measured
GROWN = 28


class PriorMice(NamedTuple):
    """N mice of new PDX models of a new tumour type, for each of D draws of the priors."""

    grown: np.ndarray  # [D, N] volume of untreated mice on day :data:`GROWN` over that on day 0
    one: np.ndarray  # [D, N] whether a mouse responds to an average new drug
    two: np.ndarray  # [D, N] to two of them, of two classes


def prior_mice(sampler: PriorSampler, mice: MouseDraws, shape: CurveShape) -> PriorMice:
    """Draw mice from the priors.

    Parameters
    ----------
    sampler
        Gives what only mice have: starts, spreads of mice and residuals, the combination rule.
    mice
        Growth and effects of the population from their priors; of the same size.
    shape
        Constants of a curve.
    """
    size, entry = mice.size, sampler.entry
    noise = np.random.default_rng(np.asarray(jax.random.key_data(sampler.named("mice of the priors"))))

    def of_models(count: int = 1) -> np.ndarray:
        return noise.normal(size=(size, NUM_MICE, count))

    def level(centre: np.ndarray, spread: np.ndarray, tag: str) -> np.ndarray:
        return centre + spread * sampler.normal(f"mice, {tag}")

    ln_growth = level(mice.get("mu_ln_growth"), mice.get("omega_ln_growth_type"), "a type")
    growth = np.exp(ln_growth[:, None] + entry("growth.mouse.between_models")[:, None] * of_models()[..., 0])
    alone, spread, lost = [], [], []
    for drug in ("a drug", "another drug"):
        of_class = level(mice.get("mu_effect"), mice.get("omega_effect_class"), f"class of {drug}")
        of_drug = level(of_class, mice.get("omega_effect_drug"), drug)
        alone.append(level(of_drug, mice.get("omega_effect_type"), f"{drug} in a type"))
        ln_spread = level(mice.get("mu_ln_omega_effect"), mice.get("omega_ln_omega_effect"), f"spread of {drug}")
        spread.append(np.exp(ln_spread))
        lost.append(level(mice.get("loss"), mice.get("omega_loss"), f"loss of {drug}"))
    mean, lost = np.stack(alone, 1), np.stack(lost, 1)
    effect = mean[:, None] + np.stack(spread, 1)[:, None] * of_models(2)
    phi, gamma = (
        level(entry(f"class_pairs.default.{name}"), entry(f"class_pairs.default.{name}_spread"), name)
        for name in ("phi", "gamma")
    )
    pair = [np.broadcast_to(rule[:, None, None, None], (size, NUM_MICE, 2, 2)) for rule in (phi, gamma)]
    deviation = entry("class_pairs.default.between_models")[:, None] * of_models()[..., 0]
    if "responder_share" in mice:
        common = noise.random((size, NUM_MICE)) < mice.get("responder_share")[:, None]
        effect = effect + (common * mice.get("responder_shift")[:, None])[..., None]
    joint = combine(jnp.asarray(effect), jnp.asarray(pair[0]), jnp.asarray(pair[1]), jnp.ones(effect.shape, bool))
    joint = np.asarray(joint) + deviation
    # one residual scale of an arm for the three of a draw: they are read one by one
    mean_ln_sigma = level(
        level(entry("growth.mouse.ln_residual_sd"), entry("growth.mouse.ln_residual_between_types"), "residuals, type"),
        entry("growth.mouse.ln_residual_between_arms"),
        "residuals, arm",
    )
    law = _law(sampler)
    measured = []
    for arm, (own, loss) in enumerate(
        ((0.0 * joint, 0.0 * lost[:, 0]), (effect[..., 0], lost[:, 0]), (joint, loss_of_arm(lost, mean, True, np)))
    ):
        given = (growth, own, *(np.broadcast_to(each[:, None], own.shape) for each in (loss, mean_ln_sigma)))
        key = jax.random.fold_in(sampler.named("curves of the priors"), arm)
        measured.append(_curves(key, law, *(jnp.asarray(each, jnp.float32) for each in given), shape=shape))
    untreated = np.asarray(measured[0], np.float64)
    grown = np.exp(untreated[..., DAYS.index(GROWN)] - untreated[..., 0])
    return PriorMice(grown, *(np.asarray(_responds(ln_volume)) for ln_volume in measured[1:]))


def _law(sampler: PriorSampler) -> MouseLaw:
    """What a mouse adds to its PDX model and arm; all else of the law is not read."""
    none = jnp.zeros(sampler.size, jnp.float32)
    own = {
        "mu_intercept": sampler.entry("growth.mouse.ln_volume_start"),
        "omega_intercept": sampler.entry("growth.mouse.intercept_sd"),
        "omega_mouse": np.exp(sampler.entry("growth.mouse.ln_between_mice_relative")),
        "omega_curvature": np.exp(sampler.entry("growth.mouse.ln_curvature_sd")),
        "curvature_correlation": 0.99 * (2.0 * ndtr(sampler.normal("curvature correlation")) - 1.0),  # uniform
        "slowing": sampler.entry("growth.mouse.slowing"),
        "omega_ln_sigma": sampler.entry("growth.mouse.ln_residual_spread"),
    }
    read = {name: jnp.asarray(values, jnp.float32) for name, values in own.items()}
    fields = [name for name in MouseLaw._fields if name not in MouseLaw._field_defaults]
    return MouseLaw(**{name: read.get(name, none) for name in fields})


@partial(jax.jit, static_argnames=("shape",))
def _curves(key, law: MouseLaw, growth, effect, loss, ln_sigma, *, shape: CurveShape):
    """Measured ln volumes, [D, N, T]."""
    day = jnp.asarray(DAYS, jnp.float32)
    keys = jax.random.split(key, growth.shape[0])
    of_draws = jax.vmap(partial(log_volume, day=day, shape=shape))
    return of_draws(keys, law, growth, effect, loss, ln_sigma)


@jax.jit
def _responds(ln_volume):
    day, valid = jnp.asarray(DAYS, jnp.float32), jnp.ones(len(DAYS), bool)
    read = partial(mrecist_curve, rule=MRECIST_PDXE)
    of_mice = jax.vmap(jax.vmap(lambda volume: read(volume, day, valid)))
    code = mrecist_class(*of_mice(jnp.exp(ln_volume)))
    return (code == CR) | (code == PR)
