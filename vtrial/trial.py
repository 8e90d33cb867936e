"""The one big jit: draws x regimens x patients -> counts.

A patient is made once (:mod:`vtrial.patients`) and given every regimen (:mod:`vtrial.course`); the best response and
whatever else is read (:mod:`vtrial.response`, :mod:`vtrial.endpoints`) is counted. Kernels are for one patient under
one regimen, blocks of patients are vmapped, draws go in chunks, and only counts leave the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vtrial.base import CHANGE_BINS, Counts, EndpointCounts, Patient, PatientLaw, Regimens, Schedule, Trajectories
from vtrial.course import Assessed, Reading, decays, look, on_study, read, under_one_drug, under_several_drugs
from vtrial.endpoints import best_change, change_bin, ending
from vtrial.patients import BLOCK, block_key, block_of_patients
from vtrial.response import (
    NE,
    RECIST_1_1,
    Course,
    RecistRule,
    best_of,
    confirmed_visits,
    course_of,
    objective_response,
    unconfirmed_visits,
)

# Draws side by side in one program: a CPU wants what fits its cache, a GPU wants many threads. No number depends on it.
_CHUNK_CPU, _CHUNK_ACCELERATOR = 1, 32


class _Plan(NamedTuple):
    """What is common to all draws and patients; regimens of one drug or none come first."""

    schedule: Schedule
    regimens: Regimens
    prevalence: Array


class _Setup(NamedTuple):
    """What the program is built around; static.

    `order` has the regimens' places as they were given, `single` says how many of one drug or none come first; all
    endpoints are read of the first `arms` as given, confirmed or not by `confirmation`, and of a blinded reader if
    `blinded`.
    """

    rule: RecistRule
    order: tuple[int, ...]
    single: int
    arms: int = 0
    confirmation: bool = True
    blinded: bool = False

    @property
    def places(self) -> tuple[int, ...]:
        """Where each regimen went that was given."""
        return tuple(self.order.index(k) for k in range(len(self.order)))


# ------------------------------------------------------------------------------------------------ one patient


class _Outcome(NamedTuple):
    """One patient under every regimen, [K]."""

    confirmed: Array
    unconfirmed: Array


class _Endpoints(NamedTuple):
    """The same patient in every arm, [A]; `course` is `Ending` in one number; the last is None where not asked for."""

    course: Array
    change: Array
    evaluable: Array
    blinded: Array | None


def _read_all(
    one: Patient, law: PatientLaw, exposure: Float[Array, "K R G *points"], plan: _Plan, setup: _Setup
) -> tuple[Assessed, Reading]:
    """What is on the scans of one patient under every regimen, and what is read of them."""
    schedule, regimens, _ = plan
    decay, cut = decays(one, schedule), setup.single
    found = []
    if cut:
        many = jax.vmap(under_one_drug, in_axes=(None, None, None, 0, 0, None))
        found.append(many(one, law, decay, exposure[:cut], regimens.present[:cut], schedule))
    if cut < exposure.shape[0]:
        many = jax.vmap(under_several_drugs, in_axes=(None, None, None, 0, 0, 0, 0, None))
        rows = (exposure[cut:], regimens.present[cut:], regimens.bliss[cut:], one.combination[cut:])
        found.append(many(one, law, decay, *rows, schedule))
    scans = jax.vmap(look, in_axes=(None, 0, None, None))(one, jnp.concatenate(found), law, schedule)
    return scans, jax.vmap(read, in_axes=(0, None, None))(scans, one.reading, setup.rule)


def _outcome(
    one: Patient, law: PatientLaw, exposure: Float[Array, "K R G *points"], plan: _Plan, setup: _Setup
) -> tuple[_Outcome, _Endpoints | None]:
    day, rule = plan.schedule.visit_day, setup.rule
    scans, reading = _read_all(one, law, exposure, plan, setup)

    def best_responses(codes: Int[Array, " V"]):
        course = course_of(codes, day, rule)
        confirmed, unconfirmed = confirmed_visits(course, day, rule), unconfirmed_visits(course)
        best = _Outcome(best_of(course, *confirmed, day, rule), best_of(course, *unconfirmed, day, rule))
        return best, course, confirmed[0] if setup.confirmation else unconfirmed[0]

    best, course, response = jax.vmap(best_responses)(reading.codes)
    if not setup.arms:
        return best, None
    rows = jnp.asarray(setup.places[: setup.arms], jnp.int32)
    arms = jax.tree.map(lambda leaf: leaf[rows], (scans, reading, course, response))
    more = jax.vmap(partial(_endpoints, setup=setup), in_axes=(None, None, None, 0, 0, 0, 0))
    return best, more(one, law, plan.schedule, *arms)


def _endpoints(
    one: Patient,
    law: PatientLaw,
    schedule: Schedule,
    scans: Assessed,
    reading: Reading,
    course: Course,
    response: Int[Array, ""],
    setup: _Setup,
) -> _Endpoints:
    """What else one patient under one regimen shows."""
    day, rule = schedule.visit_day, setup.rule
    num_visits = day.shape[0]
    left_after = jnp.sum(on_study(one, law, schedule), dtype=jnp.int32)
    end = ending(course, response, left_after, one.dies, num_visits)
    blinded = None
    if setup.blinded:
        # nobody is scanned for the blinded reader once the local one has called progression
        until = jnp.where(course.progression == 0, -1, (course.progression << 1) - 1)
        in_time = (until >> jnp.arange(num_visits, dtype=jnp.int32)) & 1 == 1
        second = read(scans._replace(assessed=scans.assessed & in_time), one.blinded, rule)
        again = course_of(second.codes, day, rule)
        blinded = best_of(
            again, *(confirmed_visits(again, day, rule) if setup.confirmation else unconfirmed_visits(again)), day, rule
        )
    return _Endpoints(
        course=(end.response * (num_visits + 1) + end.end) * 3 + end.kind,
        change=change_bin(best_change(reading.sld, reading.sld_baseline, reading.codes)),
        evaluable=course.evaluable != 0,
        blinded=blinded,
    )


# ------------------------------------------------------------------------------------------------ one block, one draw


def _count_block(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "K R G *points"],
    plan: _Plan,
    num_patients: Int[Array, ""],
    setup: _Setup,
) -> tuple[Counts, EndpointCounts | None]:
    """Counts of the first `num_patients` patients of one block of one draw."""
    schedule, regimens, prevalence = plan
    num_groups, num_visits = prevalence.shape[0], schedule.visit_day.shape[0]
    patients = block_of_patients(key, law, regimens, prevalence, num_visits)
    best, more = jax.vmap(lambda one: _outcome(one, law, exposure, plan, setup))(patients)
    asked = jnp.arange(BLOCK, dtype=jnp.int32) < num_patients
    subgroup = jnp.arange(num_groups, dtype=jnp.int32)
    member = (patients.subgroup[:, None] == subgroup[None, :]) & asked[:, None]

    def count(flags):
        # a product of matrices counts several times faster than sums do; float32 holds the numbers of a block exactly
        number = jnp.tensordot(flags.astype(jnp.float32), member.astype(jnp.float32), axes=(0, 0))
        return jnp.moveaxis(number, -1, 1).astype(jnp.int32)

    def by_class(codes):
        return count(codes[:, :, None] == jnp.arange(NE + 1, dtype=codes.dtype)[None, None])

    def independent(codes):
        return count(jnp.any(regimens.parts[None] & objective_response(codes)[:, None, :], axis=2))

    counts = Counts(
        best_response=by_class(best.confirmed),
        best_unconfirmed=by_class(best.unconfirmed),
        responders_independent=independent(best.confirmed),
        independent_unconfirmed=independent(best.unconfirmed),
        num_patients=jnp.sum(member, axis=0, dtype=jnp.int32),
    )
    if more is None:
        return counts, None

    def histogram(value, size):
        """Patients by arm, subgroup and value."""
        arm = jnp.arange(setup.arms, dtype=jnp.int32)
        place = (arm[None, :] * num_groups + patients.subgroup[:, None]) * size + value
        number = jnp.broadcast_to(asked[:, None].astype(jnp.int32), place.shape)
        flat = jnp.zeros(setup.arms * num_groups * size, jnp.int32).at[place.ravel()].add(number.ravel())
        return flat.reshape(setup.arms, num_groups, size)

    size = num_visits + 1
    course = histogram(more.course, size * size * 3)
    blinded = both = None
    if more.blinded is not None:
        rows = jnp.asarray(setup.places[: setup.arms], jnp.int32)
        local = (best.confirmed if setup.confirmation else best.unconfirmed)[:, rows]
        blinded = by_class(more.blinded)
        both = count(objective_response(local) & objective_response(more.blinded))
    endpoints = EndpointCounts(
        course=course.reshape(*course.shape[:2], size, size, 3),
        change=histogram(more.change, CHANGE_BINS),
        evaluable=count(more.evaluable),
        blinded=blinded,
        both=both,
    )
    return counts, endpoints


def _count_draw(
    key: jax.Array,
    item: tuple[Int[Array, ""], PatientLaw, Float[Array, "K R G"]],
    plan: _Plan,
    num_patients: Int[Array, ""],
    setup: _Setup,
) -> tuple[Counts, EndpointCounts | None]:
    """Counts of one draw (index, law, exposure): block after block, in memory that does not grow with the patients."""
    draw, law, exposure = item

    def count(block):
        left = num_patients - block * BLOCK
        return _count_block(block_key(key, draw, block), law, exposure, plan, left, setup)

    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(count, jnp.int32(0)))
    blocks = (num_patients + (BLOCK - 1)) // BLOCK
    return jax.lax.fori_loop(jnp.int32(0), blocks, lambda b, sum: jax.tree.map(jnp.add, sum, count(b)), none)


# ------------------------------------------------------------------------------------------------ the one jit


def simulate(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "D K R G *points"],
    schedule: Schedule,
    regimens: Regimens,
    prevalence: Float[Array, " B"],
    rule: RecistRule = RECIST_1_1,
    *,
    num_patients: int,
    first_draw: int = 0,
    chunk: int | None = None,
    devices: Sequence | None = None,
) -> Counts:
    """Give every regimen to the same virtual patients of every draw, and count their responses.

    Patient i of draw s depends on `key`, ``first_draw + s`` and i alone: a long run may be cut into calls over slices
    of the draws. Compiled once for given shapes, rule, chunk and devices, whatever the number of patients.

    Parameters
    ----------
    key
        Consumed.
    law
        See `PatientLaw`; every leaf has a leading axis D.
    exposure
        Mean effect curve of every drug in every segment, in [0, 1], see `exposure.segment_effect`; where patients
        differ in exposure (`law.exposure_sd`), the two points of `exposure.segment_law`, [D, K, R, G, 3]. Not read
        where the drug is not part of the regimen.
    schedule
        Visits and segments.
    regimens
        See `patients.lay_out`.
    prevalence
        Share of each subgroup; ``[1.0]`` without subgroups.
    rule
        RECIST_1_1, RECIST_1_0 or a protocol's own, its fields Python numbers.
    num_patients
        Patients of each draw, 1 or more; any number in the same memory.
    first_draw
        Index of the first of the D draws.
    chunk
        Draws side by side in one program; default by device. A setting of speed: counts do not depend on it.
    devices
        Draws are spread over them; default all of JAX's default backend.

    Raises
    ------
    ValueError
        If the shapes do not belong together or a number is out of range.
    """
    counts, _ = _run(key, law, exposure, schedule, regimens, prevalence, rule, num_patients, first_draw, chunk, devices)
    return counts


def simulate_endpoints(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "D K R G *points"],
    schedule: Schedule,
    regimens: Regimens,
    prevalence: Float[Array, " B"],
    rule: RecistRule = RECIST_1_1,
    *,
    num_arms: int,
    num_patients: int,
    confirmation: bool = True,
    blinded: bool = False,
    first_draw: int = 0,
    chunk: int | None = None,
    devices: Sequence | None = None,
) -> tuple[Counts, EndpointCounts]:
    """As `simulate`, with everything else that the same patients tell of the first `num_arms` regimens.

    Memory on the device grows with the square of the number of visits.

    Parameters
    ----------
    num_arms
        How many of the regimens are arms, 1 or more; the null models after them are counted by response alone.
    confirmation
        Whether the response whose start and duration are read must be confirmed.
    blinded
        Whether a second, blinded reader reads the arms too; without, what is counted of that reader is None.
    """
    if not 1 <= num_arms <= len(regimens.arm):
        raise ValueError(f"num_arms: got {num_arms}; allowed is 1 to {len(regimens.arm)}, the number of regimens")
    counts, endpoints = _run(
        *(key, law, exposure, schedule, regimens, prevalence, rule, num_patients, first_draw, chunk, devices),
        arms=num_arms,
        confirmation=confirmation,
        blinded=blinded,
    )
    assert endpoints is not None
    return counts, endpoints


def _run(
    key, law, exposure, schedule, regimens, prevalence, rule, num_patients, first_draw, chunk, devices, **asked
) -> tuple[Counts, EndpointCounts | None]:
    if not 1 <= num_patients < 2**31 - BLOCK:
        raise ValueError(f"num_patients: got {num_patients}; allowed is 1 to {2**31 - BLOCK - 1} a draw")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: got {chunk}; at least 1 draw is needed")
    numbers = _checked(law, exposure, schedule, regimens, prevalence)
    law, exposure, plan, setup = _sorted(*numbers, rule)
    devices = tuple(jax.devices() if devices is None else devices)
    mesh = Mesh(devices, ("draws",))
    if chunk is None:
        chunk = _CHUNK_CPU if devices[0].platform == "cpu" else _CHUNK_ACCELERATOR
        chunk = min(chunk, -(-exposure.shape[0] // mesh.size))
    arguments = (key, jnp.int32(first_draw), law, exposure, plan, jnp.int32(num_patients))
    arguments = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec()))
    return _simulate(*arguments, setup=setup._replace(**asked), chunk=chunk, mesh=mesh)


def _sorted(law: PatientLaw, exposure: Array, plan: _Plan, rule: RecistRule) -> tuple[PatientLaw, Array, _Plan, _Setup]:
    """The arguments with regimens of one drug or none first: the program has one part for them and one for the rest."""
    several = [number > 1 for number in jnp.sum(plan.regimens.present, axis=1).tolist()]
    order = tuple(sorted(range(len(several)), key=lambda k: several[k]))
    rows = jnp.asarray(order, jnp.int32)
    regimens = plan.regimens._replace(
        **{name: getattr(plan.regimens, name)[rows] for name in ("present", "bliss", "arm", "combination_hash")},
        parts=plan.regimens.parts[rows][:, rows],
    )
    setup = _Setup(rule, order, single=several.count(False))
    return law, exposure[:, rows], plan._replace(regimens=regimens), setup


def trajectories(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "D K R G *points"],
    schedule: Schedule,
    regimens: Regimens,
    prevalence: Float[Array, " B"],
    rule: RecistRule = RECIST_1_1,
    *,
    patients_per_draw: int = 1,
    first_draw: int = 0,
) -> Trajectories:
    """Courses of the first patients of every draw, the same that `simulate` counts; N = D patients_per_draw.

    One patient of each of N draws is a sample of the predictive population, which figures want. Parameters are those of
    `simulate`; `patients_per_draw` is 1 to BLOCK.

    Raises
    ------
    ValueError
        If the shapes do not belong together or a number is out of range.
    """
    if not 1 <= patients_per_draw <= BLOCK:
        raise ValueError(f"patients_per_draw: got {patients_per_draw}; allowed is 1 to {BLOCK}")
    *numbers, setup = _sorted(*_checked(law, exposure, schedule, regimens, prevalence), rule)
    return _trajectories(key, jnp.int32(first_draw), *numbers, setup=setup, patients_per_draw=patients_per_draw)


@partial(jax.jit, static_argnames=("setup", "chunk", "mesh"))
def _simulate(key, first_draw, law, exposure, plan, num_patients, *, setup, chunk, mesh):
    num_draws = exposure.shape[0]
    # whole chunks on every device: the last draw stands in for what is missing, and is cut off again
    padded = -(-num_draws // (chunk * mesh.size)) * chunk * mesh.size
    index = jnp.minimum(jnp.arange(padded, dtype=jnp.int32), num_draws - 1)
    draws = (first_draw + index, *jax.tree.map(lambda leaf: leaf[index], (law, exposure)))

    def on_one_device(draws, key, plan, num_patients):
        return jax.lax.map(lambda item: _count_draw(key, item, plan, num_patients, setup), draws, batch_size=chunk)

    split, whole = PartitionSpec("draws"), PartitionSpec()
    specs = (split, whole, whole, whole)
    spread = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    counts, endpoints = jax.tree.map(lambda leaf: leaf[:num_draws], spread(draws, key, plan, num_patients))
    given = jnp.asarray(setup.places, jnp.int32)
    by_regimen = {name: leaf[:, given] for name, leaf in counts._asdict().items() if name != "num_patients"}
    return counts._replace(**by_regimen), endpoints


@partial(jax.jit, static_argnames=("setup", "patients_per_draw"))
def _trajectories(key, first_draw, law, exposure, plan, *, setup, patients_per_draw) -> Trajectories:
    schedule, regimens, prevalence = plan
    day, rule = schedule.visit_day, setup.rule

    def one_patient(one, law, exposure):
        _, reading = _read_all(one, law, exposure, plan, setup)

        def one_regimen(reading):
            course = course_of(reading.codes, day, rule)
            best = best_of(course, *confirmed_visits(course, day, rule), day, rule)
            change = best_change(reading.sld, reading.sld_baseline, reading.codes)
            return reading.codes.astype(jnp.int32), change, best.astype(jnp.int32)

        codes, change, best = jax.vmap(one_regimen)(reading)
        return Trajectories(reading.sld_baseline[0], reading.sld, codes, change, best, one.subgroup)

    def one_draw(item):
        draw, law, exposure = item
        key_0 = block_key(key, draw, jnp.int32(0))
        block = block_of_patients(key_0, law, regimens, prevalence, day.shape[0])
        first = jax.tree.map(lambda leaf: leaf[:patients_per_draw], block)
        return jax.vmap(one_patient, in_axes=(0, None, None))(first, law, exposure)

    draws = first_draw + jnp.arange(exposure.shape[0], dtype=jnp.int32)
    courses = jax.lax.map(one_draw, (draws, law, exposure))
    courses = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), courses)
    given = jnp.asarray(setup.places, jnp.int32)
    by_regimen = ("sld", "codes", "best_change", "best_response")
    return courses._replace(**{name: jnp.swapaxes(getattr(courses, name), 0, 1)[given] for name in by_regimen})


def _checked(law: PatientLaw, exposure: Array, schedule: Schedule, regimens: Regimens, prevalence: Array):
    """The numeric arguments in the dtypes of the trial, whatever JAX is set to and the posterior came in."""
    num_draws = law.mu_ln_growth.shape[0]
    num_regimens, num_drugs = regimens.present.shape
    due = (num_draws, num_regimens, num_drugs, schedule.edges.shape[0] - 1)
    if law.exposure_sd is not None:
        due = (*due, 3)  # the two points of every segment, see `course.own_exposure`
    if exposure.shape != due:
        raise ValueError(
            f"exposure: got the shape {exposure.shape}; the law, the regimens and the schedule want {due}: draws, "
            "regimens, drugs, segments (pick the doses of each regimen with exposure[:, regimens.arm])"
        )
    wrong = [
        name for name, leaf in zip(law._fields, law, strict=True) if leaf is not None and leaf.shape[:1] != (num_draws,)
    ]
    if wrong:
        raise ValueError(f"law: {', '.join(wrong)} do not have the {num_draws} draws of mu_ln_growth first")
    law, exposure, prevalence, edges, visit_day = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), (law, exposure, prevalence, schedule.edges, schedule.visit_day)
    )
    schedule = Schedule(edges, jnp.asarray(schedule.visit_segment, jnp.int32), visit_day)
    return law, exposure, _Plan(schedule, regimens, prevalence)
