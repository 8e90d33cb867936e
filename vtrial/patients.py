"""One posterior draw and a key -> virtual patients.

The random numbers of a patient hang on (key, draw, block of patients, name of the quantity, name of the drug) and on
nothing else: a patient is the same person in every arm, for any number of patients, in any order of arms and drugs, on
any number of devices.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from vtrial.base import MAX_LESIONS, Deviates, Patient, PatientLaw, Regimens

# The default trial has 2,000 patients a draw: 2,048 wastes 2 % of the work where 4,096 would waste half. Patients are
# made in whole blocks, whatever is asked for; another size gives other patients.
BLOCK = 2048

#: smallest diameter of a target lesion, mm (RECIST 1.1, section 3.1.1)
MEASURABLE_MM = 10.0

# Which random stream a quantity has. Never renumber: add at the end.
_STREAM = {
    "subgroup_u": 0,
    "num_lesions_u": 1,
    "growth_z": 2,
    "loss_rate_z": 3,
    "sld_z": 4,
    "reader_z": 5,
    "effect_z": 6,
    "combination_z": 7,
    "lesion_size_z": 8,
    "lesion_pace_z": 9,
    "reading_z": 10,
    "new_lesion_e": 11,
    "discontinuation_e": 12,
    "missed_u": 13,
    "death_u": 14,
    "blinded_reader_z": 15,
    "blinded_z": 16,
    "exposure_z": 17,
    "missed_dose_e": 18,
}


def drug_hash(drugs: Sequence[str]) -> UInt32[Array, " R"]:
    """Numbers of the drugs' canonical names, the same on every machine (host side)."""
    return jnp.asarray([zlib.crc32(drug.encode()) for drug in drugs], jnp.uint32)


def _combination_hash(drugs: Iterable[str]) -> int:
    """Number of a set of drugs given together, whatever their order."""
    return zlib.crc32("\n".join(sorted(drugs)).encode())


def lay_out(drugs: Sequence[str], arms: Sequence[Sequence[str]]) -> Regimens:
    """The regimens to simulate: the arms in their order, then what the null models of every combination need.

    A combination of n drugs adds n regimens of one drug each at the doses of the arm (independent action, best single)
    and one of all its drugs under Bliss. Effect curves are picked by `arm`: ``exposure[:, regimens.arm]``.

    Parameters
    ----------
    drugs
        All drugs of the cohort, in the order of axis R.
    arms
        Drugs of each arm; an arm without drugs is allowed.

    Raises
    ------
    ValueError
        If an arm has a drug that is not in `drugs`, or one twice.
    """
    rows = [(arm, tuple(members), False) for arm, members in enumerate(arms)]
    parts: dict[int, list[int]] = {}
    for arm, members in enumerate(arms):
        unknown = [drug for drug in members if drug not in drugs]
        if unknown or len(set(members)) < len(members):
            raise ValueError(f"arm {arm}: got the drugs {list(members)}; allowed are {list(drugs)}, each once")
        if len(members) > 1:
            parts[arm] = list(range(len(rows), len(rows) + len(members)))
            rows += [(arm, (drug,), False) for drug in members] + [(arm, tuple(members), True)]
    return Regimens(
        present=jnp.asarray([[drug in members for drug in drugs] for _, members, _ in rows], bool),
        bliss=jnp.asarray([bliss for _, _, bliss in rows], bool),
        parts=jnp.asarray([[j in parts.get(k, ()) for j in range(len(rows))] for k in range(len(rows))], bool),
        arm=jnp.asarray([arm for arm, _, _ in rows], jnp.int32),
        drug_hash=drug_hash(drugs),
        combination_hash=jnp.asarray([_combination_hash(members) for _, members, _ in rows], jnp.uint32),
    )


def block_key(key: jax.Array, draw: Int[Array, ""], block: Int[Array, ""]) -> jax.Array:
    """Key of one block of patients of one draw; the key is consumed."""
    return jax.random.fold_in(jax.random.fold_in(key, draw), block)


def block_deviates(
    key: jax.Array,
    drug_hash: UInt32[Array, " R"],
    combination_hash: UInt32[Array, " K"],
    num_visits: int,
    exposure: bool = False,
) -> Deviates:
    """Random numbers of one block.

    Parameters
    ----------
    key
        Key of the block, see `block_key`; consumed.
    drug_hash, combination_hash
        See `Regimens`.
    num_visits
        Visits after baseline; the numbers of a visit do not depend on how many follow.
    exposure
        Whether patients differ in exposure; without, its numbers are None, and all others are what they are with it.

    Returns
    -------
    Deviates
        float32, the patients last: [BLOCK], or [n, BLOCK] for what a patient has n of.
    """
    normal, uniform, exponential = jax.random.normal, jax.random.uniform, jax.random.exponential

    def one(name, draw):
        return draw(jax.random.fold_in(key, _STREAM[name]), (BLOCK,), jnp.float32)

    def each(name, draw, member):
        stream = jax.random.fold_in(key, _STREAM[name])
        return jax.vmap(lambda m: draw(jax.random.fold_in(stream, m), (BLOCK,), jnp.float32))(member)

    lesion = jnp.arange(MAX_LESIONS, dtype=jnp.uint32)
    reading = jnp.arange(num_visits + 1, dtype=jnp.uint32)
    return Deviates(
        subgroup_u=one("subgroup_u", uniform),
        num_lesions_u=one("num_lesions_u", uniform),
        growth_z=one("growth_z", normal),
        loss_rate_z=one("loss_rate_z", normal),
        sld_z=one("sld_z", normal),
        reader_z=one("reader_z", normal),
        effect_z=each("effect_z", normal, drug_hash),
        combination_z=each("combination_z", normal, combination_hash),
        lesion_size_z=each("lesion_size_z", normal, lesion),
        lesion_pace_z=each("lesion_pace_z", normal, lesion),
        reading_z=each("reading_z", normal, reading),
        new_lesion_e=one("new_lesion_e", exponential),
        discontinuation_e=one("discontinuation_e", exponential),
        missed_u=each("missed_u", uniform, reading[1:]),
        death_u=one("death_u", uniform),
        blinded_reader_z=one("blinded_reader_z", normal),
        blinded_z=each("blinded_z", normal, reading),
        exposure_z=each("exposure_z", normal, drug_hash) if exposure else None,
        missed_dose_e=one("missed_dose_e", exponential) if exposure else None,
    )


def num_lesions(mean: Float[Array, ""], u: Float[Array, ""]) -> Int[Array, ""]:
    """1 + Binomial(4, (mean - 1) / 4) by its distribution function: between 1 and 5, with the given mean exactly.

    Parameters
    ----------
    mean
        Mean number of target lesions, 1 to 5.
    u
        Uniform on [0, 1).
    """
    more = MAX_LESIONS - 1
    share = jnp.clip((mean - 1.0) / more, 0.0, 1.0)
    number, below = jnp.int32(1), jnp.float32(0.0)
    for j, ways in enumerate((1.0, 4.0, 6.0, 4.0)):
        below = below + ways * share**j * (1.0 - share) ** (more - j)
        number = number + (u >= below).astype(jnp.int32)
    return number


def patient(law: PatientLaw, deviates: Deviates, prevalence: Float[Array, " B"]) -> Patient:
    """One patient from the law of one draw and the patient's random numbers.

    Target lesions are measurable: a patient's sum of diameters is at least 10 mm, and no patient has more lesions than
    fit into the sum at 10 mm each.

    Parameters
    ----------
    law
        One draw, see `PatientLaw`.
    deviates
        One patient's random numbers.
    prevalence
        Share of each subgroup; taken relative to their sum.
    """
    reached = jnp.cumsum(prevalence)[:-1] / jnp.sum(prevalence)
    subgroup = jnp.sum(deviates.subgroup_u >= reached, dtype=jnp.int32)
    member = jnp.arange(prevalence.shape[0], dtype=jnp.int32) == subgroup
    effect_mean = jnp.sum(jnp.where(member[None, :], law.effect_mean, 0.0), axis=1)

    sld = jnp.maximum(jnp.exp(law.ln_sld_median + law.sld_log_sd * deviates.sld_z), MEASURABLE_MM)
    room = jnp.minimum(sld / MEASURABLE_MM, float(MAX_LESIONS)).astype(jnp.int32)
    number = jnp.minimum(num_lesions(law.mean_lesions, deviates.num_lesions_u), room)
    followed = jnp.arange(MAX_LESIONS, dtype=jnp.int32) < number
    size = jnp.where(followed, jnp.exp(law.lesion_size_log_sd * deviates.lesion_size_z), 0.0)

    exposure = None
    if deviates.exposure_z is not None and deviates.missed_dose_e is not None:
        assert law.exposure_sd is not None and law.missed_dose is not None
        exposure = law.exposure_sd * deviates.exposure_z - law.missed_dose * deviates.missed_dose_e

    return Patient(
        subgroup=subgroup,
        growth=jnp.exp(law.mu_ln_growth + law.omega_ln_growth * deviates.growth_z),
        effect=effect_mean + law.effect_sd * deviates.effect_z,
        loss_rate=jnp.exp(law.ln_loss_rate + law.loss_rate_sd * deviates.loss_rate_z),
        combination=law.omega_combination * deviates.combination_z,
        diameter=sld * size / jnp.sum(size),
        pace=jnp.exp(law.lesion_log_sd * deviates.lesion_pace_z),
        reading=law.reader_effect * deviates.reader_z + law.reading_error * deviates.reading_z,
        new_lesion_e=deviates.new_lesion_e,
        discontinuation_e=deviates.discontinuation_e,
        missed=deviates.missed_u < law.missed_visit,
        dies=deviates.death_u < law.death_share,
        blinded=law.reader_effect * deviates.blinded_reader_z + law.reading_error * deviates.blinded_z,
        exposure=exposure,
    )


def block_of_patients(
    key: jax.Array, law: PatientLaw, regimens: Regimens, prevalence: Float[Array, " B"], num_visits: int
) -> Patient:
    """The patients of one block, [BLOCK, ...]; see `block_deviates` and `patient`."""
    varies = law.exposure_sd is not None
    deviates = block_deviates(key, regimens.drug_hash, regimens.combination_hash, num_visits, varies)
    return jax.vmap(patient, in_axes=(None, -1, None))(law, deviates, prevalence)
