"""One block of patients under every regimen, read out and counted: the body of the one jit in :mod:`vtrial.trial`.

A patient is made once (:mod:`vtrial.patients`) and given every regimen (:mod:`vtrial.course`); the best response and
whatever else is read (:mod:`vtrial.response`, :mod:`vtrial.endpoints`) is counted. Patients are the last axis and
regimens are vmapped; only counts are handed on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtrial import sobol
from vtrial.base import PatientLaw, Patients, Regimens, Schedule
from vtrial.course import (
    decays,
    follow,
    last_planned_visit,
    left_day,
    new_lesion_ratios,
    on_study,
    read,
    stored,
    under_one_drug,
    under_several_drugs,
    visit_days,
)
from vtrial.course_parts import EVERYTHING, Parts
from vtrial.deviates import BLOCK, Places, block_deviates, sobol_deviates
from vtrial.endpoints import best_change, change_bin, ending, ending_days
from vtrial.outcomes import CHANGE_BINS, Counts, EndpointCounts
from vtrial.patients import patients_of
from vtrial.response import (
    NE,
    RecistRule,
    best_of,
    confirmed_visits,
    course_of,
    objective_response,
    unconfirmed_visits,
)


class Plan(NamedTuple):
    """What is common to all draws and patients; regimens of one drug or none come first.

    `points` is None where the numbers are independent.
    """

    schedule: Schedule
    regimens: Regimens
    prevalence: Array
    points: sobol.Points | None = None


class Setup(NamedTuple):
    """What the program is built around; static.

    `order` has the regimens' places as they were given, `single` says how many of one drug or none come first; all
    endpoints are read of the first `arms` as given, confirmed or not by `confirmation`, and of a blinded reader if
    that is one of the `parts`, and by the day, of `days` days, where that is above 0. `places` is None where the
    numbers are independent.
    """

    rule: RecistRule
    order: tuple[int, ...]
    single: int
    places: Places | None = None
    parts: Parts = EVERYTHING
    arms: int = 0
    confirmation: bool = True
    days: int = 0

    @property
    def given(self) -> tuple[int, ...]:
        """Where each regimen went that was given."""
        return tuple(self.order.index(k) for k in range(len(self.order)))

    @property
    def rows(self) -> Array:
        """Where the arms went."""
        return jnp.asarray(self.given[: self.arms], jnp.int32)


class Read(NamedTuple):
    """Patients under every regimen, [K, ..., P]: best responses, confirmed and not, and what they were read from.

    `scans` is Assessed, `reading` Reading, `course` Course, `response` the visits at which the response starts; None
    where nothing asks for them.
    """

    scans: Any
    reading: Any
    course: Any
    response: Any
    confirmed: Array
    unconfirmed: Array


class _Endpoints(NamedTuple):
    """The same patients in every arm, [A, P]; `course` is `Ending` in one number.

    `blinded` is None if not asked for, and so are the days: whole numbers, `Setup.days` for who has no response;
    `end_day` and `duration` hold the kind of the end too.
    """

    course: Array
    change: Array
    evaluable: Array
    blinded: Any
    response_day: Any
    end_day: Any
    duration: Any


def block_of_patients(
    key: jax.Array, shift: Array | None, block: Int[Array, ""], law: PatientLaw, plan: Plan, setup: Setup
) -> Patients:
    """The patients of one block of the draw of `key`; `shift` is that of the draw and net, see `shift_of`."""
    regimens, num_visits = plan.regimens, plan.schedule.visit_day.shape[0]
    if setup.places is None or plan.points is None or shift is None:
        names = regimens.drug_hash, regimens.combination_hash[setup.single :]
        deviates = block_deviates(key, block, *names, num_visits, setup.parts)
    else:
        deviates = sobol_deviates(plan.points, shift, block, setup.places, num_visits, setup.parts)
    return patients_of(law, deviates, plan.prevalence, setup.parts)


def shift_of(key: jax.Array, net: Int[Array, ""], plan: Plan) -> Array | None:
    """What moves the points of one net of the draw of `key`, which is consumed; None for independent numbers."""
    return None if plan.points is None else sobol.shift(key, plan.points, net)


def read_all(
    patients: Patients,
    law: PatientLaw,
    exposure: Float[Array, "K R G *points"],
    plan: Plan,
    setup: Setup,
    wanted: Bool[Array, ""],
) -> Read:
    """What is read of patients under every regimen; `wanted` as in `course.stored`."""
    schedule, regimens, cut = plan.schedule, plan.regimens, setup.single
    day, rule = visit_days(patients, schedule), setup.rule
    decay, found = decays(patients.loss_rate, schedule), []
    if cut:
        found.append(under_one_drug(patients, law, decay, exposure[:cut], regimens.present[:cut], schedule, wanted))
    if cut < exposure.shape[0]:
        rows = (exposure[cut:], regimens.present[cut:], regimens.bliss[cut:])
        found.append(under_several_drugs(patients, law, decay, *rows, schedule, wanted))

    def of_regimen(ln_volume, *own):
        scans, reading = follow(patients, ln_volume, law, schedule, rule, setup.parts, *own)
        course = course_of(reading.codes, day, rule)
        confirmed, unconfirmed = confirmed_visits(course, day, rule), unconfirmed_visits(course)
        response = confirmed[0] if setup.confirmation else unconfirmed[0]
        best = (best_of(course, *visits, day, rule) for visits in (confirmed, unconfirmed))
        return Read(scans, reading, course, response, *best)

    ratios = regimens.discontinuation, new_lesion_ratios(law, exposure, regimens.present, schedule)
    return jax.vmap(of_regimen, in_axes=(1, 0, 0))(jnp.concatenate(found, axis=1), *ratios)


def _endpoints(
    patients: Patients,
    law: PatientLaw,
    schedule: Schedule,
    arm: Read,
    discontinuation: Float[Array, ""] | None,
    setup: Setup,
) -> _Endpoints:
    """What else patients in one arm show."""
    day, rule, num_visits = visit_days(patients, schedule), setup.rule, schedule.visit_day.shape[0]
    course = arm.course
    on_day = jnp.broadcast_to(day if day.ndim == 2 else day[:, None], (num_visits, course.progression.shape[0]))
    left_after, visits = jnp.full_like(course.progression, num_visits), num_visits
    if setup.parts.discontinuation:
        left_after = jnp.sum(on_study(patients, law, schedule, discontinuation), axis=0, dtype=jnp.int32)
    if patients.follow_up is not None:
        visits = jnp.sum(on_day <= patients.follow_up[None], axis=0, dtype=jnp.int32)
    end = ending(course, arm.response, left_after, patients.dies, visits)
    blinded = None
    if setup.parts.blinded:
        # nobody is scanned for the blinded reader once the local one has called progression
        until = jnp.where(course.progression == 0, -1, (course.progression << 1) - 1)
        in_time = (until[None] >> jnp.arange(num_visits, dtype=jnp.int32)[:, None]) & 1 == 1
        second = read(arm.scans._replace(assessed=arm.scans.assessed & in_time), patients.blinded, rule)
        again = course_of(second.codes, day, rule)
        visits = confirmed_visits(again, day, rule) if setup.confirmation else unconfirmed_visits(again)
        blinded = best_of(again, *visits, day, rule)
    responded = ended = lasted = None
    if setup.days:
        left = jnp.zeros_like(on_day[0])
        if setup.parts.discontinuation:
            left = left_day(patients, law, discontinuation)
        begun, last, kind = ending_days(end, on_day, left, last_planned_visit(law, schedule))
        responds = end.response != 0
        responded = jnp.where(responds, begun, setup.days)
        ended = last * 3 + kind
        lasted = jnp.where(responds, (last - begun) * 2 + (kind != 0), 2 * setup.days)
    return _Endpoints(
        course=(end.response * (num_visits + 1) + end.end) * 3 + end.kind,
        change=change_bin(best_change(arm.reading.sld, arm.reading.sld_baseline, arm.reading.codes)),
        evaluable=course.evaluable != 0,
        blinded=blinded,
        response_day=responded,
        end_day=ended,
        duration=lasted,
    )


def _wanted(found: Read, setup: Setup) -> Read:
    """Without what the endpoints alone read, where they are not asked for."""
    return found if setup.arms else found._replace(scans=None, reading=None, course=None, response=None)


def count_block(
    patients: Patients,
    law: PatientLaw,
    exposure: Float[Array, "K R G *points"],
    plan: Plan,
    num_patients: Int[Array, ""],
    setup: Setup,
) -> tuple[Counts, EndpointCounts | None]:
    """Counts of the first `num_patients` patients of one block of one draw."""
    schedule, regimens, prevalence = plan.schedule, plan.regimens, plan.prevalence
    num_groups, num_visits = prevalence.shape[0], schedule.visit_day.shape[0]
    wanted = num_patients > 0
    found = stored(wanted, lambda: _wanted(read_all(patients, law, exposure, plan, setup, wanted), setup))
    asked = jnp.arange(BLOCK, dtype=jnp.int32) < num_patients
    group = jnp.arange(num_groups, dtype=jnp.int32)
    member = (patients.subgroup[None] == group[:, None]) & asked[None]

    def count(flags: Bool[Array, "K P"]) -> Int[Array, "K B"]:
        return jnp.sum(flags[:, None] & member[None], axis=-1, dtype=jnp.int32)

    def by_class(codes: Int[Array, "K P"]) -> Int[Array, "K B C"]:
        return jnp.stack([count(codes == code) for code in range(NE + 1)], axis=-1)

    def independent(codes: Int[Array, "K P"]) -> Int[Array, "K B"]:
        return count(jnp.any(regimens.parts[:, :, None] & objective_response(codes)[None], axis=1))

    counts = Counts(
        best_response=by_class(found.confirmed),
        best_unconfirmed=by_class(found.unconfirmed),
        responders_independent=independent(found.confirmed),
        independent_unconfirmed=independent(found.unconfirmed),
        num_patients=jnp.sum(member, axis=-1, dtype=jnp.int32),
    )
    if not setup.arms:
        return counts, None

    def histogram(value: Int[Array, "A P"], size: int) -> Int[Array, "A B N"]:
        """Patients by arm, subgroup and value."""
        arm = jnp.arange(setup.arms, dtype=jnp.int32)
        place = (arm[:, None] * num_groups + patients.subgroup[None]) * size + value
        number = jnp.broadcast_to(asked.astype(jnp.int32), place.shape)
        flat = jnp.zeros(setup.arms * num_groups * size, jnp.int32).at[place.ravel()].add(number.ravel())
        return flat.reshape(setup.arms, num_groups, size)

    # the second is None where no regimen has its own, and then a tree without leaves
    arms, leaving = jax.tree.map(lambda leaf: leaf[setup.rows], (found, regimens.discontinuation))
    more = jax.vmap(lambda arm, ratio: _endpoints(patients, law, schedule, arm, ratio, setup))(arms, leaving)
    size = num_visits + 1
    course = histogram(more.course, size * size * 3)
    blinded = both = None
    if more.blinded is not None:
        local = arms.confirmed if setup.confirmation else arms.unconfirmed
        blinded = by_class(more.blinded)
        both = count(objective_response(local) & objective_response(more.blinded))
    days: dict[str, Array] = {}
    if setup.days:
        # who has no response is counted in the last bin, which is cut off
        lasted = histogram(more.duration, 2 * setup.days + 1)[..., :-1]
        days = {
            "response_day": histogram(more.response_day, setup.days + 1)[..., :-1],
            "end_day": (ends := histogram(more.end_day, 3 * setup.days)).reshape(*ends.shape[:2], setup.days, 3),
            "duration": lasted.reshape(*lasted.shape[:2], setup.days, 2),
        }
    endpoints = EndpointCounts(
        course=course.reshape(*course.shape[:2], size, size, 3),
        change=histogram(more.change, CHANGE_BINS),
        evaluable=count(more.evaluable),
        blinded=blinded,
        both=both,
        **days,
    )
    return counts, endpoints
