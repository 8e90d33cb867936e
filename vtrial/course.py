"""What becomes of one patient under one regimen: from rates to sizes at the visits and what is read of them.

Rates are those of volume in 1/day. With `joint` the effect of the drugs given (:func:`vtrial.treatment.joint_effect`):

    ln(volume_l(t) / volume_l(0)) = pace_l * growth * (growth_scale * t - integral of joint)         lesion l
    diameter_l(t) = diameter_l(0) * exp(ln(volume ratio) / 3)

Everything is for one patient under one regimen and vmapped outside. Segments, visits and lesions are axes of arrays:
taken one by one, they make a program that is slow to compile and no faster.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtrial.base import Patient, PatientLaw, Schedule
from vtrial.exposure import TwoPoints, mean_at_level
from vtrial.growth import DIAMETER_PER_VOLUME, log_size_change, mean_decay
from vtrial.response import RecistRule, visit_response
from vtrial.treatment import joint_effect

#: a lesion below it is not seen, and measured as 0; assumed: less than what slices of 5 mm show with certainty
VANISHED_MM = 2.0

# exp of it is 22,000-fold in diameter: past any progression, and no overflow of float32
_LARGEST_LN_RATIO = 10.0


class Assessed(NamedTuple):
    """What there is on the scans, whoever reads them.

    Attributes
    ----------
    true : Array []
        Sum of longest diameters before treatment, mm.
    seen : Array [V]
        The same at the visits, of the lesions that can be seen.
    new_lesion, assessed : Array [V]
        Whether a new lesion is there, and whether the visit was made.
    """

    true: jax.Array
    seen: jax.Array
    new_lesion: jax.Array
    assessed: jax.Array


class Reading(NamedTuple):
    """What one reader makes of it.

    Attributes
    ----------
    sld_baseline : Array []
        Sum of longest diameters before treatment, mm.
    sld : Array [V]
        The same at the visits, whether or not they were made.
    codes : Array [V]
        Response of every visit.
    """

    sld_baseline: jax.Array
    sld: jax.Array
    codes: jax.Array


def decays(one: Patient, schedule: Schedule) -> Float[Array, "R G"]:
    """What is left of the effect of each drug in each segment (mean), for one patient under any regimen."""
    return jax.vmap(mean_decay, in_axes=(0, None))(one.loss_rate, schedule.edges)


def own_exposure(one: Patient, law: PatientLaw, exposure: Float[Array, "R G *points"]) -> Float[Array, "R G"]:
    """Mean effect curve of each drug in each segment at the exposure that one patient has.

    Parameters
    ----------
    one, law
        One patient, one draw.
    exposure
        Means [R, G] where all patients have the same exposure, else the two points of `exposure.segment_law` [R, G, 3].
    """
    if one.exposure is None:
        return exposure
    points = TwoPoints(exposure[..., 0], exposure[..., 1], exposure[..., 2])
    linear = False if law.linear_effect is None else law.linear_effect[:, None] > 0.0
    return mean_at_level(points, one.exposure[:, None], linear)


def under_one_drug(
    one: Patient,
    law: PatientLaw,
    decay: Float[Array, "R G"],
    exposure: Float[Array, "R G *points"],
    present: Bool[Array, " R"],
    schedule: Schedule,
) -> Float[Array, " V"]:
    """Ln volume at the visits over that at baseline of a lesion of pace 1, for a regimen of one drug or none.

    The combination rule (see `under_several_drugs`) without its logarithms and maxima, which one drug has no use for.

    Parameters
    ----------
    one, law
        One patient, one draw.
    decay
        See `decays`.
    exposure
        Effect curve of each drug in each segment, see `own_exposure`.
    present
        One regimen, see `Regimens`: one drug or none.
    schedule
        Visits and segments.
    """
    if one.exposure is not None:
        kill_scale = jnp.where(present, law.kill_scale * one.effect, 0.0)
        own = jnp.sum(kill_scale[:, None] * own_exposure(one, law, exposure) * decay, axis=0)
        kill = jnp.matmul(one.growth * own, _share(schedule), precision=jax.lax.Precision.HIGHEST)
        return _at_visits(one, law, kill, schedule)
    weight = jnp.where(present[:, None], law.kill_scale[:, None] * exposure, 0.0)
    # what belongs to the regimen and what belongs to the patient meet in one product of matrices
    share = (weight[:, :, None] * _share(schedule)[None]).reshape(-1, schedule.visit_day.shape[0])
    effect = one.growth * one.effect[:, None] * decay
    return _at_visits(one, law, jnp.matmul(effect.ravel(), share, precision=jax.lax.Precision.HIGHEST), schedule)


def under_several_drugs(
    one: Patient,
    law: PatientLaw,
    decay: Float[Array, "R G"],
    exposure: Float[Array, "R G *points"],
    present: Bool[Array, " R"],
    bliss: Bool[Array, ""],
    combination: Float[Array, ""],
    schedule: Schedule,
) -> Float[Array, " V"]:
    """As `under_one_drug`, for any regimen.

    Parameters
    ----------
    present, bliss
        One regimen, see `Regimens`.
    combination
        The patient's deviation from the combination rule, a fraction of growth.
    """
    own = own_exposure(one, law, exposure)
    joint = joint_effect(one.effect, law.kill_scale, own, decay, law.phi, law.gamma, combination, present, bliss=bliss)
    kill = jnp.matmul(one.growth * joint, _share(schedule), precision=jax.lax.Precision.HIGHEST)
    return _at_visits(one, law, kill, schedule)


def _share(schedule: Schedule) -> Float[Array, "G V"]:
    """How much of the interval before each visit each segment is: only the mean of the kill in each interval counts."""
    segment = jnp.arange(schedule.edges.shape[0] - 1, dtype=jnp.int32)
    after = segment[:, None] <= schedule.visit_segment[None, :]
    inside = after & ~jnp.concatenate([jnp.zeros_like(after[:, :1]), after[:, :-1]], axis=1)
    interval = jnp.diff(schedule.visit_day, prepend=0.0)
    return jnp.where(inside, jnp.diff(schedule.edges)[:, None] / interval[None, :], 0.0)


def _at_visits(one: Patient, law: PatientLaw, kill: Float[Array, " V"], schedule: Schedule) -> Float[Array, " V"]:
    """From the mean kill rate between visits to ln volume at the visits."""
    return log_size_change(one.growth * law.growth_scale, kill, jnp.diff(schedule.visit_day, prepend=0.0))


def look(one: Patient, ln_volume: Float[Array, " V"], law: PatientLaw, schedule: Schedule) -> Assessed:
    """What there is to be read at the visits.

    The hazard of a new lesion is ``new_lesion_hazard * (SLD / SLD_0)^new_lesion_power``, accumulated over the true sums
    by the trapezoid rule between visits; the lesion is there once that reaches the patient's threshold. Nothing is
    assessed after discontinuation.

    Parameters
    ----------
    one, law
        One patient, one draw.
    ln_volume
        See `under_several_drugs`.
    schedule
        Visits.
    """
    ln_diameter = DIAMETER_PER_VOLUME * one.pace[:, None] * ln_volume[None, :]
    diameter = one.diameter[:, None] * jnp.exp(jnp.minimum(ln_diameter, _LARGEST_LN_RATIO))
    true = jnp.sum(diameter, axis=0)
    seen = jnp.sum(jnp.where(diameter < VANISHED_MM, 0.0, diameter), axis=0)
    baseline = jnp.sum(one.diameter)

    hazard = law.new_lesion_hazard * jnp.exp(law.new_lesion_power * jnp.log(true / baseline))
    before = jnp.concatenate([law.new_lesion_hazard[None], hazard[:-1]])
    interval = jnp.diff(schedule.visit_day, prepend=0.0)
    new_lesion = jnp.cumsum(0.5 * (before + hazard) * interval) >= one.new_lesion_e
    return Assessed(baseline, seen, new_lesion, on_study(one, law, schedule) & ~one.missed)


def on_study(one: Patient, law: PatientLaw, schedule: Schedule) -> Bool[Array, " V"]:
    """Whether the patient has not left before each visit, for reasons other than progression."""
    return law.discontinuation_hazard * schedule.visit_day <= one.discontinuation_e


def read(found: Assessed, reading: Float[Array, " V_plus_1"], rule: RecistRule) -> Reading:
    """What one reader reads, with errors of their own (ln of read over true SLD, at baseline and visits)."""
    error = jnp.exp(reading)
    sld, sld_baseline = found.seen * error[1:], found.true * error[0]
    codes: Int[Array, " V"] = visit_response(sld, sld_baseline, found.new_lesion, found.assessed, rule=rule)
    return Reading(sld_baseline, sld, codes)
