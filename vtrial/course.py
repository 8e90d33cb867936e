"""What becomes of patients under their regimens: from rates to sizes at the visits and what is read of them.

Rates are those of volume in 1/day. With `joint` the effect of the drugs given (:func:`vtrial.treatment.joint_effect`):

    ln(volume_l(t) / volume_l(0)) = pace_l * growth * (growth_scale * t - integral of joint)         lesion l
    diameter_l(t) = diameter_l(0) * exp(ln(volume ratio) / 3)

Patients are the last axis (decision 9). Visits are walked through by one `lax.scan`: that is the nature of a nadir, and
what XLA compiles best. Each visit is a few passes over the patients, and what it hands on is stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vtrial.base import PatientLaw, Patients, Schedule
from vtrial.course_parts import EVERYTHING, Parts
from vtrial.exposure import TwoPoints, mean_at_level
from vtrial.growth import DIAMETER_PER_VOLUME, mean_decay
from vtrial.response import RecistRule, next_response
from vtrial.treatment import joint_effect, new_lesion_ratio

#: a lesion below it is not seen, and measured as 0; assumed: less than what slices of 5 mm show with certainty
VANISHED_MM = 2.0

# exp of it is 22,000-fold in diameter: past any progression, and no overflow of float32
_LARGEST_LN_RATIO = 10.0


T = TypeVar("T")


class Assessed(NamedTuple):
    """What there is on the scans, whoever reads them.

    Attributes
    ----------
    true : Array [P]
        Sum of longest diameters before treatment, mm.
    seen : Array [V, P]
        The same at the visits, of the lesions that can be seen.
    new_lesion, assessed : Array [V, P]
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
    sld_baseline : Array [P]
        Sum of longest diameters before treatment, mm.
    sld : Array [V, P]
        The same at the visits, whether or not they were made.
    codes : Array [V, P]
        Response of every visit.
    """

    sld_baseline: jax.Array
    sld: jax.Array
    codes: jax.Array


def stored(wanted: Bool[Array, ""], make: Callable[[], T]) -> T:
    """What `make` returns where it is wanted, worked out once; zeros elsewhere.

    XLA's CPU compiler puts the making of a number into every one of its uses that it takes for cheap: a normal number
    was made again in each of 60 segments, a best response for each class that is counted. It does not look through a
    condition, so this is a wall between stages.
    """
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make))
    return lax.cond(wanted, make, lambda: nothing)


def visit_days(patients: Patients, schedule: Schedule) -> Float[Array, "V *P"]:
    """Days on which the visits are made; those planned where patients are on time.

    A visit is made by the planned day of the next at the latest, the last one within the spacing of the last two, so
    that visits keep their order.
    """
    if patients.visit_delay is None:
        return schedule.visit_day
    return schedule.visit_day[:, None] + _delay(patients.visit_delay, schedule)


def _delay(delay: Float[Array, "V P"], schedule: Schedule) -> Float[Array, "V P"]:
    spacing = jnp.diff(schedule.visit_day, prepend=0.0)
    return jnp.minimum(delay, jnp.concatenate([spacing[1:], spacing[-1:]])[:, None])


def decays(loss_rate: Float[Array, "R P"], schedule: Schedule) -> Float[Array, "R G P"]:
    """What is left of the effect of each drug in each segment (mean), under any regimen."""
    # segments and patients as batches, so that no axis of a patient's own comes after the patients
    segments = jnp.stack([schedule.edges[:-1], schedule.edges[1:]], axis=1)
    of_patients = jax.vmap(lambda rate, edges: mean_decay(rate, edges)[0], in_axes=(0, None))
    of_segments = jax.vmap(of_patients, in_axes=(None, 0))
    return jax.vmap(of_segments, in_axes=(0, None))(loss_rate, segments)


def own_exposure(
    level: Float[Array, " R"] | None, law: PatientLaw, exposure: Float[Array, "R *points"]
) -> Float[Array, " R"]:
    """Mean effect curve of each drug in one segment at the exposure that one patient has.

    Parameters
    ----------
    level
        See `Patients.exposure`.
    law
        Of one draw.
    exposure
        Means [R] where all patients have the same exposure, else the two points of `exposure.segment_law` [R, 3].
    """
    if level is None:
        return exposure
    own = []
    for drug, ln_odds in enumerate(jnp.unstack(level)):
        linear = False if law.linear_effect is None else law.linear_effect[drug] > 0.0
        own.append(mean_at_level(TwoPoints(*jnp.unstack(exposure[drug])), ln_odds, linear))
    return jnp.stack(own)


def under_one_drug(
    patients: Patients,
    law: PatientLaw,
    decay: Float[Array, "R G P"],
    exposure: Float[Array, "K R G *points"],
    present: Bool[Array, "K R"],
    schedule: Schedule,
    wanted: Bool[Array, ""],
) -> Float[Array, "V K P"]:
    """Ln volume at the visits over that at baseline of a lesion of pace 1, for regimens of one drug or none.

    The combination rule (see `under_several_drugs`) without its logarithms and maxima, which one drug has no use for.
    From the planned day to that of a late visit the rates of the next segment hold; after the last one, its own.

    Parameters
    ----------
    patients, law
        Of one draw.
    decay
        See `decays`.
    exposure
        Effect curve of each drug in each segment, see `own_exposure`.
    present
        Drugs of each regimen, see `Regimens`: one or none.
    schedule
        Visits and segments.
    wanted
        See `stored`.
    """
    if patients.exposure is not None:
        return _under_own_exposure(patients, law, decay, exposure, present, schedule, wanted)
    weight = jnp.where(present[:, :, None], law.kill_scale[None, :, None] * exposure, 0.0)
    # what belongs to the regimen and what belongs to the patient meet in one product of matrices
    to_visit = (_days_to(schedule)[:, None, None] * weight[None]).reshape(-1, len(exposure), exposure[0].size)
    alone = patients.effect if patients.sensitive is None else jnp.where(patients.sensitive, patients.effect, 0.0)
    effect = (patients.growth[None] * alone)[:, None] * decay
    kill = _product("vkg,gp->vkp", to_visit, effect.reshape(-1, decay.shape[-1]))
    if patients.visit_delay is not None:
        after = _next_segment(schedule)
        rate = _product("krv,rvp->vkp", weight[..., after], effect[:, after])
        kill = kill + _delay(patients.visit_delay, schedule)[:, None] * rate
    return _grown(patients, law, schedule)[:, None] - kill


def _under_own_exposure(
    patients: Patients,
    law: PatientLaw,
    decay: Float[Array, "R G P"],
    exposure: Float[Array, "K R G points"],
    present: Bool[Array, "K R"],
    schedule: Schedule,
    wanted: Bool[Array, ""],
) -> Float[Array, "V K P"]:
    """As `under_one_drug`, where what belongs to the regimen and what belongs to the patient do not come apart."""

    def one(effect, level, decay, sensitive, exposure, present):
        kill = (
            jnp.where(_acting(present, sensitive), law.kill_scale * effect, 0.0)
            * own_exposure(level, law, exposure)
            * decay
        )
        each = jnp.unstack(kill)
        return sum(each[1:], start=each[0])

    of_patients = jax.vmap(one, in_axes=(-1, -1, -1, -1, None, None))
    of_regimens = jax.vmap(of_patients, in_axes=(None, None, None, None, 0, 0))
    of_segments = jax.vmap(of_regimens, in_axes=(None, None, 1, None, 2, None))
    arguments = (patients.effect, patients.exposure, decay, patients.sensitive, exposure, present)
    kill = stored(wanted, lambda: of_segments(*arguments))
    return _grown(patients, law, schedule)[:, None] - _killed(patients, kill, schedule)


def under_several_drugs(
    patients: Patients,
    law: PatientLaw,
    decay: Float[Array, "R G P"],
    exposure: Float[Array, "K R G *points"],
    present: Bool[Array, "K R"],
    bliss: Bool[Array, " K"],
    schedule: Schedule,
    wanted: Bool[Array, ""],
) -> Float[Array, "V K P"]:
    """As `under_one_drug`, for the regimens of several drugs, in the order of `Patients.combination`.

    Parameters
    ----------
    present, bliss
        Of each regimen, see `Regimens`.
    wanted
        See `stored`.
    """

    def one(effect, level, decay, combination, sensitive, exposure, present, bliss):
        own = own_exposure(level, law, exposure)
        rule = (law.phi, law.gamma, combination, _acting(present, sensitive))
        return joint_effect(effect, law.kill_scale, own, decay, *rule, bliss=bliss)

    of_patients = jax.vmap(one, in_axes=(-1, -1, -1, 0, -1, None, None, None))
    of_regimens = jax.vmap(of_patients, in_axes=(None, None, None, 0, None, 0, 0, 0))
    of_segments = jax.vmap(of_regimens, in_axes=(None, None, 1, None, None, 2, None, None))
    arguments = (patients.effect, patients.exposure, decay, patients.combination, patients.sensitive)
    joint = stored(wanted, lambda: of_segments(*arguments, exposure, present, bliss))
    return _grown(patients, law, schedule)[:, None] - _killed(patients, joint, schedule)


def _acting(present: Bool[Array, " R"], sensitive: Bool[Array, " R"] | None) -> Bool[Array, " R"]:
    """The drugs given that do anything in a patient: one that is resisted is as if it had not been given."""
    return present if sensitive is None else present & sensitive


def _killed(patients: Patients, joint: Float[Array, "G K P"], schedule: Schedule) -> Float[Array, "V K P"]:
    """Ln volume that the drugs have taken away at the visits, from the fraction of growth removed in each segment."""
    kill = patients.growth[None, None] * joint
    by_visit = _product("vg,gkp->vkp", _days_to(schedule), kill)
    if patients.visit_delay is None:
        return by_visit
    return by_visit + _delay(patients.visit_delay, schedule)[:, None] * kill[_next_segment(schedule)]


def _next_segment(schedule: Schedule) -> Int[Array, " V"]:
    """The segment that begins at each planned visit; the last one has none, and keeps its own."""
    return jnp.minimum(schedule.visit_segment + 1, schedule.edges.shape[0] - 2)


def _days_to(schedule: Schedule) -> Float[Array, "V G"]:
    """How many days of each segment lie before each visit; the segments' lengths or 0, since visits are edges."""
    segment = jnp.arange(schedule.edges.shape[0] - 1, dtype=jnp.int32)
    return jnp.where(segment[None] <= schedule.visit_segment[:, None], jnp.diff(schedule.edges)[None], 0.0)


def _product(how: str, one: Array, two: Array) -> Array:
    return jnp.einsum(how, one, two, precision=lax.Precision.HIGHEST)


def _grown(patients: Patients, law: PatientLaw, schedule: Schedule) -> Float[Array, "V P"]:
    """Ln volume at the visits without any drug."""
    day, growth = visit_days(patients, schedule), patients.growth * law.growth_scale
    return (day[:, None] if day.ndim == 1 else day) * growth[None]


def new_lesion_ratios(
    law: PatientLaw, exposure: Float[Array, "K R G *points"], present: Bool[Array, "K R"], schedule: Schedule
) -> Float[Array, "K V"] | None:
    """What each regimen makes of the hazard of a new lesion before each visit; None where no drug does anything."""
    if law.ln_new_lesion_ratio is None:
        return None
    if exposure.ndim == 4:
        low, high, weight = jnp.unstack(exposure, axis=-1)
        exposure = low + weight * (high - low)
    days = jnp.diff(_days_to(schedule), axis=0, prepend=0.0)
    return new_lesion_ratio(law.ln_new_lesion_ratio, exposure, present, days)


def follow(
    patients: Patients,
    ln_volume: Float[Array, "V P"],
    law: PatientLaw,
    schedule: Schedule,
    rule: RecistRule,
    parts: Parts = EVERYTHING,
    discontinuation: Float[Array, ""] | None = None,
    new_lesions: Float[Array, " V"] | None = None,
) -> tuple[Assessed, Reading]:
    """What there is to be read at the visits under one regimen, and what the local reader reads.

    The hazard of a new lesion is ``new_lesion_hazard * (SLD / SLD_0)^new_lesion_power``, accumulated over the true sums
    by the trapezoid rule between visits; the lesion is there once that reaches the patient's threshold. Nothing is
    assessed after discontinuation.

    Parameters
    ----------
    patients, law
        Of one draw.
    ln_volume
        See `under_several_drugs`.
    schedule, parts
        Visits; what is simulated.
    rule
        How they are read.
    discontinuation
        Of the regimen, see `Regimens`.
    new_lesions
        Factor on their hazard under the regimen, see `new_lesion_ratios`.
    """
    diameters = jnp.unstack(patients.diameter)
    paces = [DIAMETER_PER_VOLUME * pace for pace in jnp.unstack(patients.pace)]
    true = sum(diameters[1:], start=diameters[0])
    sld_baseline = true * jnp.exp(patients.reading[0])
    assessed = _made(patients, law, schedule, parts, discontinuation)

    def visit(before, here):
        nadir, risk, hazard = before
        ln_volume, interval, error, made = here
        sizes = [
            diameter * jnp.exp(jnp.minimum(pace * ln_volume, _LARGEST_LN_RATIO))
            for diameter, pace in zip(diameters, paces, strict=True)
        ]
        shown = [jnp.where(size < VANISHED_MM, 0.0, size) for size in sizes]
        seen = sum(shown[1:], start=shown[0])
        new_lesion: Any = False
        if parts.new_lesions:
            last, size = hazard, sum(sizes[1:], start=sizes[0])
            hazard = law.new_lesion_hazard * jnp.exp(law.new_lesion_power * jnp.log(size / true))
            risk = risk + 0.5 * (last + hazard) * interval
            new_lesion = risk >= patients.new_lesion_e
        sld = seen * jnp.exp(error)
        code, nadir = next_response(nadir, sld, sld_baseline, new_lesion, made, sld <= rule.disappearance_mm, rule=rule)
        return (nadir, risk, hazard), (seen, jnp.broadcast_to(new_lesion, sld.shape), sld, code)

    hazard = jnp.broadcast_to(law.new_lesion_hazard, true.shape)
    start = (sld_baseline, jnp.zeros_like(true), hazard)
    interval = jnp.diff(visit_days(patients, schedule), axis=0, prepend=0.0)
    if new_lesions is not None:  # days in which as many appear as in the interval without a drug
        interval = interval * (new_lesions if interval.ndim == 1 else new_lesions[:, None])
    _, (seen, new_lesion, sld, codes) = lax.scan(visit, start, (ln_volume, interval, patients.reading[1:], assessed))
    return Assessed(true, seen, new_lesion, assessed), Reading(sld_baseline, sld, codes)


def read(found: Assessed, reading: Float[Array, "V_plus_1 P"], rule: RecistRule) -> Reading:
    """What another reader reads, with errors of their own (ln of read over true SLD, at baseline and visits)."""
    sld_baseline = found.true * jnp.exp(reading[0])
    sld = found.seen * jnp.exp(reading[1:])

    def visit(nadir, here):
        size, new, made = here
        code, nadir = next_response(nadir, size, sld_baseline, new, made, size <= rule.disappearance_mm, rule=rule)
        return nadir, code

    _, codes = lax.scan(visit, sld_baseline, (sld, found.new_lesion, found.assessed))
    return Reading(sld_baseline, sld, codes)


def _made(
    patients: Patients,
    law: PatientLaw,
    schedule: Schedule,
    parts: Parts,
    discontinuation: Float[Array, ""] | None,
) -> Bool[Array, "V P"]:
    """Whether each visit is made."""
    made = jnp.ones((schedule.visit_day.shape[0], patients.growth.shape[0]), bool)
    if parts.discontinuation:
        made = on_study(patients, law, schedule, discontinuation)
    if patients.follow_up is not None:
        day = visit_days(patients, schedule)
        made = made & ((day[:, None] if day.ndim == 1 else day) <= patients.follow_up[None])
    return made & ~patients.missed if parts.missed_visits else made


def on_study(
    patients: Patients, law: PatientLaw, schedule: Schedule, discontinuation: Float[Array, ""] | None = None
) -> Bool[Array, "V P"]:
    """Whether the patient has not left before each visit, for reasons other than progression; see `follow`."""
    hazard = law.discontinuation_hazard * visit_days(patients, schedule)
    hazard = hazard if discontinuation is None else discontinuation * hazard
    return (hazard[:, None] if hazard.ndim == 1 else hazard) <= patients.discontinuation_e[None]


def left_day(
    patients: Patients, law: PatientLaw, discontinuation: Float[Array, ""] | None = None
) -> Float[Array, " P"]:
    """Day on which the patient leaves for reasons other than progression, infinite where nobody does."""
    hazard = law.discontinuation_hazard if discontinuation is None else discontinuation * law.discontinuation_hazard
    return patients.discontinuation_e / hazard


def last_planned_visit(law: PatientLaw, schedule: Schedule) -> Float[Array, ""]:
    """Planned day of the last visit that anybody may have made when the data are cut off; 0 if there is none."""
    if law.cut_off is None:
        return schedule.visit_day[-1]
    return jnp.max(jnp.where(schedule.visit_day <= law.cut_off, schedule.visit_day, 0.0))
