"""The virtual trial, draws x regimens x patients -> counts: one direction, one jit.

    simulate          what is asked for is checked; regimens of one drug go first      host
      _simulate       the one jit: draws spread over the devices, in chunks
        _count_draw   net after net, block after block of 2,048 patients: memory does not grow with them
          counting    a block made, followed, read and counted; only counts come out
    trajectories      the first of the same patients, whole: for figures

Shapes are fixed and the number of patients is data: a program is compiled once for given shapes, rule and devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vtrial import sobol
from vtrial.base import PatientLaw, Schedule, Trial
from vtrial.counting import Plan, Setup, block_of_patients, count_block, read_all, shift_of
from vtrial.course import stored, visit_days
from vtrial.course_parts import Parts, parts_of
from vtrial.deviates import BLOCK, Numbers, draw_key, places_of, sobol_points
from vtrial.endpoints import best_change
from vtrial.outcomes import Counts, EndpointCounts, Trajectories
from vtrial.response import RECIST_1_1, RecistRule

# Draws side by side in one program: a CPU wants what fits its cache, a GPU wants many threads. No number depends on it.
_CHUNK_CPU, _CHUNK_ACCELERATOR = 1, 32

# Folded into the key for the scramble that all draws share; draws are numbered from 0.
_SHARED = 2**32 - 1


class Endpoints(NamedTuple):
    """What is read beyond the best response; static.

    Attributes
    ----------
    num_arms : int
        How many of the regimens are arms, 1 or more; the null models after them are counted by response alone.
    confirmation : bool
        Whether the response whose start and duration are read must be confirmed.
    blinded : bool
        Whether a second, blinded reader reads the arms too; without, what is counted of that reader is None.
    days : bool
        Whether times are counted by the day too where visits are late, up to the planned day of the last one; where all
        are on time they have their numbers.
    """

    num_arms: int
    confirmation: bool = True
    blinded: bool = False
    days: bool = False


# ------------------------------------------------------------------------------------------------ what is asked for


def simulate(
    key: jax.Array,
    trial: Trial,
    rule: RecistRule = RECIST_1_1,
    *,
    num_patients: int,
    endpoints: Endpoints | None = None,
    numbers: Numbers = "independent",
    first_draw: int = 0,
    parts: Parts | None = None,
    chunk: int | None = None,
    devices: Sequence | None = None,
) -> tuple[Counts, EndpointCounts | None]:
    """Give every regimen to the same virtual patients of every draw, and count their responses.

    Patient i of draw s depends on `key`, `numbers`, ``first_draw + s`` and i alone: a long run may be cut into calls
    over slices of the draws.

    Parameters
    ----------
    key
        Consumed.
    trial
        The numbers of a cohort.
    rule
        RECIST_1_1, RECIST_1_0 or a protocol's own, its fields Python numbers.
    num_patients
        Patients of each draw, 1 or more; any number in the same memory.
    endpoints
        Read besides the best response; None: nothing. What comes back, and lies on the device until then, grows with
        the square of the visits, and with `Endpoints.days` by six numbers a day, for each draw, arm and subgroup.
    numbers
        "independent", or "sobol" for points that fill the space of patients more evenly: rates of a draw are unbiased
        too, and have a smaller error, which is read from the spread over draws of one law.
    first_draw
        Index of the first of the D draws.
    parts
        What is simulated; default what the law has in any of these draws, see `course_parts.parts_of`.
    chunk
        Draws side by side in one program; default by device. A setting of speed: counts do not depend on it.
    devices
        Draws are spread over them; default all of JAX's default backend.

    Returns
    -------
    Counts, and EndpointCounts where endpoints are asked for.

    Raises
    ------
    ValueError
        If the shapes do not belong together or a number is out of range.
    """
    if not 1 <= num_patients < 2**31 - BLOCK:
        raise ValueError(f"num_patients: got {num_patients}; allowed is 1 to {2**31 - BLOCK - 1} a draw")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: got {chunk}; at least 1 draw is needed")
    if endpoints and not 1 <= endpoints.num_arms <= len(trial.regimens.arm):
        raise ValueError(
            f"num_arms: got {endpoints.num_arms}; allowed is 1 to {len(trial.regimens.arm)}, the number of regimens"
        )
    law, exposure, plan, setup = _laid_out(trial, rule, numbers)
    parts = parts or parts_of(law)
    if endpoints:
        parts = parts._replace(death=True, blinded=endpoints.blinded)
        setup = setup._replace(arms=endpoints.num_arms, confirmation=endpoints.confirmation)
        if endpoints.days and parts.late_visits:
            setup = setup._replace(days=round(float(trial.schedule.visit_day[-1])) + 1)
    mesh = Mesh(tuple(jax.devices() if devices is None else devices), ("draws",))
    if chunk is None:
        chunk = _CHUNK_CPU if mesh.devices.flat[0].platform == "cpu" else _CHUNK_ACCELERATOR
        chunk = min(chunk, -(-exposure.shape[0] // mesh.size))
    arguments = (key, jnp.int32(first_draw), law, exposure, plan, jnp.int32(num_patients))
    arguments = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec()))
    return _simulate(*arguments, setup=setup._replace(parts=parts), chunk=chunk, mesh=mesh)


def trajectories(
    key: jax.Array,
    trial: Trial,
    rule: RecistRule = RECIST_1_1,
    *,
    patients_per_draw: int = 1,
    numbers: Numbers = "independent",
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
    law, exposure, plan, setup = _laid_out(trial, rule, numbers)
    setup = setup._replace(parts=parts_of(law))
    return _trajectories(
        key, jnp.int32(first_draw), law, exposure, plan, setup=setup, patients_per_draw=patients_per_draw
    )


def _laid_out(trial: Trial, rule: RecistRule, numbers: Numbers) -> tuple[PatientLaw, Array, Plan, Setup]:
    """The trial in the dtypes of the program, whatever JAX is set to, with regimens of one drug or none first."""
    _check(trial)
    floats = (trial.law, trial.exposure, trial.prevalence, trial.schedule.edges, trial.schedule.visit_day)
    law, exposure, prevalence, edges, day = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), floats)
    schedule = Schedule(edges, jnp.asarray(trial.schedule.visit_segment, jnp.int32), day)
    regimens = trial.regimens
    several = [number > 1 for number in jnp.sum(regimens.present, axis=1).tolist()]
    order = tuple(sorted(range(len(several)), key=lambda k: several[k]))
    rows = jnp.asarray(order, jnp.int32)
    ratio = regimens.discontinuation
    regimens = regimens._replace(
        **{name: getattr(regimens, name)[rows] for name in ("present", "bliss", "arm", "combination_hash")},
        parts=regimens.parts[rows][:, rows],
        discontinuation=None if ratio is None else jnp.asarray(ratio, jnp.float32)[rows],
    )
    single = several.count(False)
    quasi = numbers == "sobol"
    places = places_of(regimens.drug_hash, regimens.combination_hash[single:]) if quasi else None
    return law, exposure[:, rows], Plan(schedule, regimens, prevalence), Setup(rule, order, single, places)


def _check(trial: Trial) -> None:
    law, exposure, schedule, regimens, _ = trial
    num_draws = law.mu_ln_growth.shape[0]
    due = (num_draws, *regimens.present.shape, schedule.edges.shape[0] - 1)
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


# ------------------------------------------------------------------------------------------------ the one jit


@partial(jax.jit, static_argnames=("setup", "chunk", "mesh"))
def _simulate(key, first_draw, law, exposure, plan, num_patients, *, setup, chunk, mesh):
    num_draws = exposure.shape[0]
    plan = _with_points(key, plan, setup)
    # whole chunks on every device: the last draw stands in for what is missing, and is cut off again
    padded = -(-num_draws // (chunk * mesh.size)) * chunk * mesh.size
    index = jnp.minimum(jnp.arange(padded, dtype=jnp.int32), num_draws - 1)
    draws = (first_draw + index, *jax.tree.map(lambda leaf: leaf[index], (law, exposure)))

    def on_one_device(draws, key, plan, num_patients):
        def one_draw(item):
            draw, law, exposure = item
            return _count_draw(key, draw, law, exposure, plan, num_patients, setup)

        return lax.map(one_draw, draws, batch_size=chunk)

    split, whole = PartitionSpec("draws"), PartitionSpec()
    specs = (split, whole, whole, whole)
    spread = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    counts, endpoints = jax.tree.map(lambda leaf: leaf[:num_draws], spread(draws, key, plan, num_patients))
    given = jnp.asarray(setup.given, jnp.int32)
    by_regimen = {name: leaf[:, given] for name, leaf in counts._asdict().items() if name != "num_patients"}
    return counts._replace(**by_regimen), endpoints


def _with_points(key: jax.Array, plan: Plan, setup: Setup) -> Plan:
    if setup.places is None:
        return plan
    scramble = draw_key(key, jnp.uint32(_SHARED))
    return plan._replace(points=sobol_points(scramble, setup.places, plan.schedule.visit_day.shape[0], setup.parts))


def _count_draw(
    key: jax.Array,
    draw: Int[Array, ""],
    law: PatientLaw,
    exposure: Float[Array, "K R G *points"],
    plan: Plan,
    num_patients: Int[Array, ""],
    setup: Setup,
) -> tuple[Counts, EndpointCounts | None]:
    """Counts of one draw: block after block, in memory that does not grow with the patients."""
    key = draw_key(key, draw)
    blocks, per_net = (num_patients + (BLOCK - 1)) // BLOCK, sobol.BLOCKS_PER_NET

    def count(shift, block):
        left = num_patients - block * BLOCK
        patients = stored(left > 0, lambda: block_of_patients(key, shift, block, law, plan, setup))
        return count_block(patients, law, exposure, plan, left, setup)

    def count_net(net, counts):
        shift = shift_of(key, net, plan)
        first, last = net * per_net, jnp.minimum((net + 1) * per_net, blocks)
        return lax.fori_loop(first, last, lambda b, sum: jax.tree.map(jnp.add, sum, count(shift, b)), counts)

    shape = jax.eval_shape(lambda: count(shift_of(key, jnp.int32(0), plan), jnp.int32(0)))
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    return lax.fori_loop(jnp.int32(0), (blocks + (per_net - 1)) // per_net, count_net, none)


@partial(jax.jit, static_argnames=("setup", "patients_per_draw"))
def _trajectories(key, first_draw, law, exposure, plan, *, setup, patients_per_draw) -> Trajectories:
    plan = _with_points(key, plan, setup)

    def one_draw(draw):
        index, law, exposure = draw
        own, zero = draw_key(key, index), jnp.int32(0)
        block = block_of_patients(own, shift_of(own, zero, plan), zero, law, plan, setup)
        first = jax.tree.map(lambda leaf: leaf[..., :patients_per_draw], block)
        found = read_all(first, law, exposure, plan, setup, index >= 0)
        reading = found.reading
        change = jax.vmap(best_change)(reading.sld, reading.sld_baseline, reading.codes)
        sld, codes = (jnp.moveaxis(each, 1, -1) for each in (reading.sld, reading.codes.astype(jnp.int32)))
        day = visit_days(first, plan.schedule)
        day = jnp.broadcast_to(day if day.ndim == 1 else day.T, (patients_per_draw, day.shape[0]))
        best = found.confirmed.astype(jnp.int32)
        return Trajectories(reading.sld_baseline[0], sld, codes, change, best, first.subgroup, day)

    draws = first_draw + jnp.arange(exposure.shape[0], dtype=jnp.int32)
    courses = lax.map(one_draw, (draws, law, exposure))
    given = jnp.asarray(setup.given, jnp.int32)
    by_patient = {name: getattr(courses, name).ravel() for name in ("sld_baseline", "subgroup")}
    by_regimen = {}
    for name in ("sld", "codes", "best_change", "best_response"):
        leaf = jnp.moveaxis(getattr(courses, name), 0, 1)[given]  # [K, D, patients, ...]
        by_regimen[name] = leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:])
    visit_day = courses.visit_day.reshape(-1, courses.visit_day.shape[-1])
    return Trajectories(**by_patient, **by_regimen, visit_day=visit_day)
