"""The one big jit: draws x regimens x patients -> counts.

A patient is made once (:mod:`vtrial.patients`) and given every regimen. For one patient under one regimen, with rates
of volume in 1/day and `joint` of the drugs given (:func:`vtrial.treatment.joint_effect`):

    ln(volume_l(t) / volume_l(0)) = pace_l * growth * (growth_scale * t - integral of joint)         lesion l
    diameter_l(t) = diameter_l(0) * exp(ln(volume ratio) / 3)

The sum of diameters is read with error at the visits, new lesions, discontinuation and missed visits are laid over it,
and :mod:`vtrial.response` says what the best overall response was. Kernels are for one patient under one regimen,
blocks of patients are vmapped, draws go in chunks, and only counts leave the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from vtrial.base import Counts, Patient, PatientLaw, Regimens, Schedule, Trajectories
from vtrial.growth import DIAMETER_PER_VOLUME, log_size_change, mean_decay
from vtrial.patients import BLOCK, block_key, block_of_patients
from vtrial.response import NE, PD, RECIST_1_1, RecistRule, best_overall_response, objective_response, visit_response
from vtrial.treatment import joint_effect

#: a lesion below it is not seen, and measured as 0; assumed: less than what slices of 5 mm show with certainty
VANISHED_MM = 2.0

# Draws side by side in one program: a CPU wants what fits its cache, a GPU wants many threads. No number depends on it.
_CHUNK_CPU, _CHUNK_ACCELERATOR = 1, 32

# exp of it is 22,000-fold in diameter: past any progression, and no overflow of float32
_LARGEST_LN_RATIO = 10.0


class _Plan(NamedTuple):
    """What is common to all draws and patients."""

    schedule: Schedule
    regimens: Regimens
    prevalence: Array


# ------------------------------------------------------------------------------------------------ one patient


def ln_volume_change(
    one: Patient,
    law: PatientLaw,
    exposure: Float[Array, "R G"],
    present: Bool[Array, " R"],
    bliss: Bool[Array, ""],
    combination: Float[Array, ""],
    schedule: Schedule,
) -> Float[Array, " V"]:
    """Ln volume at the visits over that at baseline, of a lesion of pace 1, for one patient under one regimen.

    Parameters
    ----------
    one, law
        One patient, one draw.
    exposure
        Mean effect curve of each drug in each segment, in [0, 1].
    present, bliss
        One regimen, see `Regimens`.
    combination
        The patient's deviation from the combination rule, a fraction of growth.
    schedule
        Visits and segments.
    """
    decay = jax.vmap(mean_decay, in_axes=(0, None))(one.loss_rate, schedule.edges)
    joint = joint_effect(
        one.effect, law.kill_scale, exposure, decay, law.phi, law.gamma, combination, present, bliss=bliss
    )
    # from segments to the intervals between visits: only the mean of the kill in each counts
    segment = jnp.arange(joint.shape[0], dtype=jnp.int32)
    interval = jnp.diff(schedule.visit_day, prepend=0.0)
    after = segment[:, None] <= schedule.visit_segment[None, :]
    inside = after & ~jnp.concatenate([jnp.zeros_like(after[:, :1]), after[:, :-1]], axis=1)
    share = jnp.where(inside, jnp.diff(schedule.edges)[:, None] / interval[None, :], 0.0)
    kill = jnp.matmul(one.growth * joint, share, precision=jax.lax.Precision.HIGHEST)
    return log_size_change(one.growth * law.growth_scale, kill, interval)


def read(
    one: Patient, ln_volume: Float[Array, " V"], law: PatientLaw, schedule: Schedule, rule: RecistRule
) -> tuple[Float[Array, ""], Float[Array, " V"], Int[Array, " V"]]:
    """What is read of one patient: sum of diameters at baseline and at the visits (mm), and the code of every visit.

    The hazard of a new lesion is ``new_lesion_hazard * (SLD / SLD_0)^new_lesion_power``, accumulated over the true sums
    by the trapezoid rule between visits; the lesion is there once that reaches the patient's threshold. Nothing is
    assessed after discontinuation.

    Parameters
    ----------
    one, law
        One patient, one draw.
    ln_volume
        See `ln_volume_change`.
    schedule, rule
        Visits; RECIST.
    """
    ln_diameter = DIAMETER_PER_VOLUME * one.pace[:, None] * ln_volume[None, :]
    diameter = one.diameter[:, None] * jnp.exp(jnp.minimum(ln_diameter, _LARGEST_LN_RATIO))
    true = jnp.sum(diameter, axis=0)
    seen = jnp.sum(jnp.where(diameter < VANISHED_MM, 0.0, diameter), axis=0)
    baseline = jnp.sum(one.diameter)
    error = jnp.exp(one.reading)

    hazard = law.new_lesion_hazard * jnp.exp(law.new_lesion_power * jnp.log(true / baseline))
    before = jnp.concatenate([law.new_lesion_hazard[None], hazard[:-1]])
    interval = jnp.diff(schedule.visit_day, prepend=0.0)
    new_lesion = jnp.cumsum(0.5 * (before + hazard) * interval) >= one.new_lesion_e
    on_study = law.discontinuation_hazard * schedule.visit_day <= one.discontinuation_e

    sld, sld_baseline = seen * error[1:], baseline * error[0]
    codes = visit_response(sld, sld_baseline, new_lesion, on_study & ~one.missed, rule=rule)
    return sld_baseline, sld, codes


def _read_all(
    one: Patient, law: PatientLaw, exposure: Float[Array, "K R G"], plan: _Plan, rule: RecistRule
) -> tuple[Array, Array, Array]:
    """`read` for one patient under every regimen."""
    schedule, regimens, _ = plan
    ln_volume = jax.vmap(ln_volume_change, in_axes=(None, None, 0, 0, 0, 0, None))(
        one, law, exposure, regimens.present, regimens.bliss, one.combination, schedule
    )
    return jax.vmap(read, in_axes=(None, 0, None, None, None))(one, ln_volume, law, schedule, rule)


def _best_of_all(codes: Int[Array, "K V"], plan: _Plan, rule: RecistRule, *, confirmation: bool = True) -> Array:
    best = partial(best_overall_response, confirmation=confirmation, rule=rule)
    return jax.vmap(best, in_axes=(0, None))(codes, plan.schedule.visit_day)


# ------------------------------------------------------------------------------------------------ one block, one draw


def _count_block(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "K R G"],
    plan: _Plan,
    num_patients: Int[Array, ""],
    rule: RecistRule,
) -> Counts:
    """Counts of the first `num_patients` patients of one block of one draw."""
    schedule, regimens, prevalence = plan

    def outcome(one):
        _, _, codes = _read_all(one, law, exposure, plan, rule)
        confirmed = _best_of_all(codes, plan, rule)
        unconfirmed = _best_of_all(codes, plan, rule, confirmation=False)
        independent = jnp.any(regimens.parts & objective_response(confirmed)[None, :], axis=1)
        return confirmed, objective_response(unconfirmed), independent

    patients = block_of_patients(key, law, regimens, prevalence, schedule.visit_day.shape[0])
    confirmed, unconfirmed, independent = jax.vmap(outcome)(patients)
    asked = jnp.arange(BLOCK, dtype=jnp.int32) < num_patients
    subgroup = jnp.arange(prevalence.shape[0], dtype=jnp.int32)
    member = (patients.subgroup[:, None] == subgroup[None, :]) & asked[:, None]

    def count(flags, *, of=member[:, None, :]):
        return jnp.sum(flags[:, :, None] & of, axis=0, dtype=jnp.int32)

    return Counts(
        best_response=jnp.stack([count(confirmed == code) for code in range(NE + 1)], axis=-1),
        responders_unconfirmed=count(unconfirmed),
        responders_independent=count(independent),
        num_patients=jnp.sum(member, axis=0, dtype=jnp.int32),
    )


def _count_draw(
    key: jax.Array,
    item: tuple[Int[Array, ""], PatientLaw, Float[Array, "K R G"]],
    plan: _Plan,
    num_patients: Int[Array, ""],
    rule: RecistRule,
) -> Counts:
    """Counts of one draw (index, law, exposure): block after block, in memory that does not grow with the patients."""
    draw, law, exposure = item

    def add(block, counts):
        left = num_patients - block * BLOCK
        more = _count_block(block_key(key, draw, block), law, exposure, plan, left, rule)
        return jax.tree.map(jnp.add, counts, more)

    rows = jnp.zeros((*plan.regimens.bliss.shape, *plan.prevalence.shape), jnp.int32)
    none = Counts(jnp.zeros((*rows.shape, NE + 1), jnp.int32), rows, rows, jnp.zeros_like(rows[0]))
    return jax.lax.fori_loop(jnp.int32(0), (num_patients + (BLOCK - 1)) // BLOCK, add, none)


# ------------------------------------------------------------------------------------------------ the one jit


def simulate(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "D K R G"],
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
        Mean effect curve of every drug in every segment, in [0, 1], see `exposure.segment_effect`. Not read where the
        drug is not part of the regimen.
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
    if not 1 <= num_patients < 2**31 - BLOCK:
        raise ValueError(f"num_patients: got {num_patients}; allowed is 1 to {2**31 - BLOCK - 1} a draw")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: got {chunk}; at least 1 draw is needed")
    numbers = _checked(law, exposure, schedule, regimens, prevalence)
    devices = tuple(jax.devices() if devices is None else devices)
    mesh = Mesh(devices, ("draws",))
    if chunk is None:
        chunk = _CHUNK_CPU if devices[0].platform == "cpu" else _CHUNK_ACCELERATOR
        chunk = min(chunk, -(-exposure.shape[0] // mesh.size))
    arguments = (key, jnp.int32(first_draw), *numbers, jnp.int32(num_patients))
    arguments = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec()))
    return _simulate(*arguments, rule=rule, chunk=chunk, mesh=mesh)


def trajectories(
    key: jax.Array,
    law: PatientLaw,
    exposure: Float[Array, "D K R G"],
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
    numbers = _checked(law, exposure, schedule, regimens, prevalence)
    return _trajectories(key, jnp.int32(first_draw), *numbers, rule=rule, patients_per_draw=patients_per_draw)


@partial(jax.jit, static_argnames=("rule", "chunk", "mesh"))
def _simulate(key, first_draw, law, exposure, plan, num_patients, *, rule, chunk, mesh) -> Counts:
    num_draws = exposure.shape[0]
    # whole chunks on every device: the last draw stands in for what is missing, and is cut off again
    padded = -(-num_draws // (chunk * mesh.size)) * chunk * mesh.size
    index = jnp.minimum(jnp.arange(padded, dtype=jnp.int32), num_draws - 1)
    draws = (first_draw + index, *jax.tree.map(lambda leaf: leaf[index], (law, exposure)))

    def on_one_device(draws, key, plan, num_patients):
        return jax.lax.map(lambda item: _count_draw(key, item, plan, num_patients, rule), draws, batch_size=chunk)

    split, whole = PartitionSpec("draws"), PartitionSpec()
    specs = (split, whole, whole, whole)
    spread = jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return jax.tree.map(lambda leaf: leaf[:num_draws], spread(draws, key, plan, num_patients))


@partial(jax.jit, static_argnames=("rule", "patients_per_draw"))
def _trajectories(key, first_draw, law, exposure, plan, *, rule, patients_per_draw) -> Trajectories:
    def course(one, law, exposure):
        sld_baseline, sld, codes = _read_all(one, law, exposure, plan, rule)
        best = _best_of_all(codes, plan, rule)
        progressed = (codes == PD).astype(jnp.int32)
        counted = (codes != NE) & (jnp.cumsum(progressed, axis=1) == progressed)
        smallest = jnp.min(jnp.where(counted, sld, jnp.inf), axis=1)
        change = jnp.where(jnp.any(counted, axis=1), smallest / sld_baseline[0] - 1.0, jnp.nan)
        codes, best = codes.astype(jnp.int32), best.astype(jnp.int32)
        return Trajectories(sld_baseline[0], sld, codes, change, best, one.subgroup)

    def one_draw(item):
        draw, law, exposure = item
        schedule, regimens, prevalence = plan
        key_0 = block_key(key, draw, jnp.int32(0))
        block = block_of_patients(key_0, law, regimens, prevalence, schedule.visit_day.shape[0])
        first = jax.tree.map(lambda leaf: leaf[:patients_per_draw], block)
        return jax.vmap(course, in_axes=(0, None, None))(first, law, exposure)

    draws = first_draw + jnp.arange(exposure.shape[0], dtype=jnp.int32)
    courses = jax.lax.map(one_draw, (draws, law, exposure))
    courses = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), courses)
    by_regimen = ("sld", "codes", "best_change", "best_response")
    return courses._replace(**{name: jnp.swapaxes(getattr(courses, name), 0, 1) for name in by_regimen})


def _checked(law: PatientLaw, exposure: Array, schedule: Schedule, regimens: Regimens, prevalence: Array):
    """The numeric arguments in the dtypes of the trial, whatever JAX is set to and the posterior came in."""
    num_draws = law.mu_ln_growth.shape[0]
    num_regimens, num_drugs = regimens.present.shape
    due = (num_draws, num_regimens, num_drugs, schedule.edges.shape[0] - 1)
    if exposure.shape != due:
        raise ValueError(
            f"exposure: got the shape {exposure.shape}; the law, the regimens and the schedule want {due}: draws, "
            "regimens, drugs, segments (pick the doses of each regimen with exposure[:, regimens.arm])"
        )
    wrong = [name for name, leaf in zip(law._fields, law, strict=True) if leaf.shape[:1] != (num_draws,)]
    if wrong:
        raise ValueError(f"law: {', '.join(wrong)} do not have the {num_draws} draws of mu_ln_growth first")
    law, exposure, prevalence, edges, visit_day = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), (law, exposure, prevalence, schedule.edges, schedule.visit_day)
    )
    schedule = Schedule(edges, jnp.asarray(schedule.visit_segment, jnp.int32), visit_day)
    return law, exposure, _Plan(schedule, regimens, prevalence)
