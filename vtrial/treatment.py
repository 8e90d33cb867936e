"""What the drugs of an arm do together: the combination rule, isolated, and the hazard of new lesions.

Effects are fractions of the unperturbed growth removed (0 nothing, 1 stasis, above 1 shrinkage), pointwise in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: half width, in units of the effect, over which max(a, b) is rounded off so that gradients exist
SMOOTHING = 0.05


def loss_of_arm(loss: Any, effect: Any, present: Any, xp: Any = jnp) -> Any:
    """Fraction of the effect of an arm that is lost in the end: the mean over its drugs, by what each does alone.

    Of a joint effect nobody knows which drug did how much. With these weights ``joint * loss = sum_d e_d loss_d`` where
    effects add up: what was additive stays so as it wanes. An effect below `SMOOTHING` weighs about as much as that.

    Parameters
    ----------
    loss
        Of each drug.
    effect
        Mean effect of each drug alone over the PDX models of the tumour type, at its dose.
    present
        Which drugs belong to the arm; all three [..., drug].
    xp
        numpy or jax.numpy.

    Returns
    -------
    array with the last axis gone; 0 for an arm without drugs.
    """
    weight = xp.where(present, xp.sqrt(xp.square(effect) + SMOOTHING**2), 0.0)
    total = xp.sum(weight, axis=-1)
    return xp.sum(weight * loss, axis=-1) / xp.where(total > 0.0, total, 1.0)


def combine(
    effect: Float[Array, "*B drug"],
    phi: Float[Array, "*B drug drug"],
    gamma: Float[Array, "*B drug drug"],
    present: Bool[Array, "*B drug"],
    smoothing: float | Float[Array, "*B"] = SMOOTHING,
) -> Float[Array, "*B"]:
    """Joint effect of the drugs of one arm.

    The strongest drug leads with its whole effect (highest single agent). Every other drug adds ``phi`` times its own
    effect, and every pair adds ``gamma``, a sensitisation that does not need an effect of its own::

        joint = max_d e_d + sum_{d != leader} phi[leader, d] e_d + sum_{a < b} gamma[a, b]

    phi = 0 and gamma = 0 is independent action within one tumour (HSA); phi = 1 and gamma = 0 is additivity of kill,
    that is Bliss independence of the surviving fractions, whatever the signs of the effects; between them two drugs
    are at (1 - phi) HSA + phi Bliss. The maximum is rounded off by `smoothing` (softmax weights). An effect below 0, a
    tumour that grows faster under the drug, takes away from the sum: cut off at 0 the rule would be convex, and what
    is not known of the effects in a PDX model would pass for synergy (docs/decisions/0011).

    Parameters
    ----------
    effect
        Effect of each drug alone.
    phi, gamma
        Symmetric; the diagonal is not read.
    present
        Which drugs belong to the arm (arms are padded to one width).
    smoothing
        Width of the rounding, in units of the effect, above 0. The rule is homogeneous: effects, `gamma` and
        `smoothing` times c give c times the joint effect.

    Returns
    -------
    array with the last axis gone; 0 for an arm without drugs.
    """
    drugs = range(effect.shape[-1])
    return _combined(
        [effect[..., d] for d in drugs],
        lambda a, b: phi[..., a, b],
        lambda a, b: gamma[..., a, b],
        [present[..., d] for d in drugs],
        smoothing,
    )


def _combined(
    effect: Sequence[Array],
    phi: Callable[[int, int], Array],
    gamma: Callable[[int, int], Array],
    given: Sequence[Array],
    smoothing: float | Array,
) -> Array:
    """`combine`, drug by drug: the drugs are few, and an inner axis of two or three is the slowest shape there is."""
    drugs = range(len(effect))
    # masked before the exponential, so that an absent drug neither leads nor sends a gradient
    alone = [jnp.where(given[d], effect[d], 0.0) for d in drugs]
    top = jax.lax.stop_gradient(reduce(jnp.maximum, (jnp.where(given[d], alone[d], -jnp.inf) for d in drugs)))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weight = [jnp.where(given[d], jnp.exp(jnp.where(given[d], alone[d] - top, 0.0) / smoothing), 0.0) for d in drugs]
    total = sum(weight[1:], start=weight[0])
    leads = [one / jnp.where(total > 0, total, 1.0) for one in weight]
    joint = sum((leads[d] * alone[d] for d in drugs[1:]), start=leads[0] * alone[0])
    for a, b in combinations(drugs, 2):
        added = phi(a, b) * (leads[a] * alone[b] + leads[b] * alone[a]) + gamma(a, b)
        joint = joint + jnp.where(given[a] & given[b], added, 0.0)
    return joint


def joint_effect(
    effect: Float[Array, " R"],
    kill_scale: Float[Array, " R"],
    exposure: Float[Array, "R *G"],
    decay: Float[Array, "R *G"],
    phi: Float[Array, "R R"],
    gamma: Float[Array, "R R"],
    deviation: Float[Array, ""],
    present: Bool[Array, " R"],
    *,
    bliss: Bool[Array, ""] | bool = False,
) -> Float[Array, " *G"]:
    """Joint effect of the drugs of one regimen over time, in one patient.

    With the strength ``s_d(t) = kill_scale_d E_d(t) decay_d(t)`` of each drug, pointwise in time::

        joint = combine(effect s, phi, gamma') + deviation * (geometric mean of s over the drugs given)
        gamma'_ab = gamma_ab sqrt(kill_scale_a decay_a kill_scale_b decay_b) E_a E_b

    At strength 1, as in the mice that the rule was fitted to, it is :func:`combine` plus the deviation. Under Bliss
    phi = 1, gamma = 0 and deviation = 0; one drug alone has no deviation either.

    Parameters
    ----------
    effect
        Fraction of the PDX-scale growth that each drug removes at strength 1.
    kill_scale
        Kill in a patient over that in a mouse.
    exposure
        Mean effect curve in each segment, in [0, 1]; without the axis G, in one segment.
    decay
        What is left of the effect in each segment.
    phi, gamma, present
        See :func:`combine`.
    deviation
        What the combination adds in this patient.
    bliss
        Whether Bliss takes the place of the fitted rule.

    Returns
    -------
    Array [G]
        Fraction of the PDX-scale growth removed; times that growth it is the kill rate of the volume, 1/day.
    """
    num_given = jnp.sum(present, dtype=effect.dtype)
    given, alone, left, curve = (jnp.unstack(each) for each in (present, effect, decay, exposure))
    scale, drugs = jnp.unstack(kill_scale), range(len(given))
    full = [scale[d] * curve[d] for d in drugs]
    strength = [full[d] * left[d] for d in drugs]
    # Logarithms of each factor, since only the sum depends on regimen and patient both; none given leaves a mean of 1
    ln_strength = [jnp.where(given[d], jnp.log(full[d]) + jnp.log(left[d]), 0.0) for d in drugs]
    together = jnp.exp(sum(ln_strength[1:], start=ln_strength[0]) / jnp.maximum(num_given, 1.0))
    root = [jnp.sqrt(scale[d] * left[d]) * curve[d] for d in drugs]
    factor, sensitisation = jnp.where(bliss, 1.0, phi), jnp.where(bliss, 0.0, gamma)
    # The rule was fitted at strength 1: rounding in proportion to the strength makes it the same rule in patients, and
    # leaves no phantom effect of the rounding in a week off. The floor is for the division alone.
    rounding = jnp.maximum(SMOOTHING * together, 1e-6)
    joint = _combined(
        [alone[d] * strength[d] for d in drugs],
        lambda a, b: factor[a, b],
        lambda a, b: sensitisation[a, b] * root[a] * root[b],
        given,
        rounding,
    )
    return joint + jnp.where(bliss | (num_given < 2), 0.0, deviation) * together


def new_lesion_ratio(
    ln_ratio: Float[Array, " R"],
    exposure: Float[Array, "K R G"],
    present: Bool[Array, "K R"],
    days: Float[Array, "V G"],
) -> Float[Array, "K V"]:
    """What the drugs of each regimen make of the hazard of a new lesion, its mean over the time before each visit.

    The ratio is ``exp(sum over drugs of ln_ratio E(t))``: full at effect-time curve 1, and 1 on days without effect.

    Parameters
    ----------
    ln_ratio
        See `PatientLaw.ln_new_lesion_ratio`.
    exposure
        Mean effect curve of each drug in each segment, of a patient of median exposure.
    present
        Drugs of each regimen.
    days
        Days of each segment between the visit before, or the start, and each visit.
    """
    in_segment = jnp.exp(jnp.sum(jnp.where(present[:, :, None], ln_ratio[None, :, None] * exposure, 0.0), axis=1))
    return jnp.sum(days[None] * in_segment[:, None], axis=-1) / jnp.sum(days, axis=-1)[None]
