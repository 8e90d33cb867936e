"""One posterior draw and a key -> virtual patients.

The random numbers of a patient hang on (key, draw, number of the patient, name of the quantity, name of the drug) and
on nothing else: a patient is the same person in every arm, for any number of patients, in any order of arms and drugs,
on any number of devices. They are independent (counter-based) or points of a scrambled Sobol sequence, which fills the
space of patients more evenly; there a drug's dimension follows its place among the drugs of the cohort.

Patients are the last axis throughout, so that every number is one vector over the patients of a block (decision 9).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, UInt32

from vtrial import sobol
from vtrial.base import MAX_LESIONS, Deviates, PatientLaw, Patients, Regimens

#: where a patient's random numbers come from
Numbers: TypeAlias = Literal["independent", "sobol"]

# The default trial has 2,000 patients a draw: 2,048 wastes 2 % of the work where 4,096 would waste half. Patients are
# made in whole blocks, whatever is asked for; another size gives other patients.
BLOCK = sobol.BLOCK

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
    "visit_delay_e": 19,
    "entry_u": 20,
    "resistant_u": 21,
    "responder_u": 22,
}


# Which dimension of the Sobol sequence a quantity has: what decides about a response comes first, where the points are
# evenest together. Another place gives other patients.
_EFFECT, _GROWTH, _COMBINATION, _LOSS_RATE, _PACE, _SLD, _SIZE = (0, 1, 2, 3), 4, (5, 6), 7, 8, 13, 14
_LESIONS, _SUBGROUP, _NEW_LESION, _DISCONTINUATION, _DEATH, _READER, _BLINDED_READER = 19, 20, 21, 22, 23, 24, 25
_READING, _MISSED, _BLINDED, _MISSED_DOSE, _EXPOSURE, _MORE = 26, 58, 89, 121, (122, 123, 124, 125), 126
# the numbers from _MORE up to here are three a drug or combination beyond the first few
# and those from _RESISTANT up to _RESPONDER one a drug
_VISIT_DELAY, _ENTRY, _RESISTANT, _RESPONDER = 256, 287, 288, 336


class Parts(NamedTuple):
    """Which parts of a patient's course are simulated; static. What is left out would have changed nothing.

    Attributes
    ----------
    new_lesions, discontinuation, missed_visits, reader : bool
        Off where the law has no such thing in any draw.
    death, blinded : bool
        Only for the endpoints that read them.
    exposure : bool
        Whether patients differ in exposure (`PatientLaw.exposure_sd`).
    late_visits : bool
        Whether visits are late (`PatientLaw.visit_delay`).
    lesions : int or None
        Target lesions of everybody (fewer where the sum of diameters has no room), in place of the law's mean number.
    cut_off : bool
        Whether data are cut off (`PatientLaw.cut_off`).
    resistance : bool
        Whether a drug does nothing in some patients (`PatientLaw.resistant_share`).
    responders : bool
        Whether some patients are common responders (`PatientLaw.responder_share`).
    """

    new_lesions: bool = True
    discontinuation: bool = True
    missed_visits: bool = True
    reader: bool = True
    death: bool = True
    blinded: bool = True
    exposure: bool = False
    late_visits: bool = False
    lesions: int | None = None
    cut_off: bool = False
    resistance: bool = False
    responders: bool = False


EVERYTHING = Parts()


class Places(NamedTuple):
    """Dimensions of the Sobol sequence that hang on the cohort; static.

    Attributes
    ----------
    drug : tuple of int
        Place of each drug (axis R) among the drugs of the cohort.
    combination : tuple of int
        Place of the set of drugs of each regimen of several among those sets.
    """

    drug: tuple[int, ...]
    combination: tuple[int, ...]


def places_of(drug_hash: UInt32[Array, " R"], combination_hash: UInt32[Array, " C"]) -> Places:
    """Places by the numbers of the names, whatever the order of drugs and regimens (host side)."""

    def places(numbers: list[int]) -> tuple[int, ...]:
        distinct = sorted(set(numbers))
        return tuple(distinct.index(number) for number in numbers)

    return Places(drug=places(drug_hash.tolist()), combination=places(combination_hash.tolist()))


def parts_of(law: PatientLaw) -> Parts:
    """The parts of a course that a law has in any draw; leaving out the others changes no count, and saves time."""

    def some(leaf: jax.Array) -> bool:
        return bool(jnp.any(leaf != 0))

    return Parts(
        new_lesions=some(law.new_lesion_hazard),
        discontinuation=some(law.discontinuation_hazard),
        missed_visits=some(law.missed_visit),
        reader=some(law.reader_effect),
        death=False,
        blinded=False,
        exposure=law.exposure_sd is not None,
        late_visits=law.visit_delay is not None and some(law.visit_delay),
        cut_off=law.cut_off is not None,
        resistance=law.resistant_share is not None and some(law.resistant_share),
        responders=law.responder_share is not None,
    )


def drug_hash(drugs: Sequence[str]) -> UInt32[Array, " R"]:
    """Numbers of the drugs' canonical names, the same on every machine (host side)."""
    return jnp.asarray([zlib.crc32(drug.encode()) for drug in drugs], jnp.uint32)


def _combination_hash(drugs: Iterable[str]) -> int:
    """Number of a set of drugs given together, whatever their order."""
    return zlib.crc32("\n".join(sorted(drugs)).encode())


def lay_out(
    drugs: Sequence[str], arms: Sequence[Sequence[str]], discontinuation: Sequence[float] | None = None
) -> Regimens:
    """The regimens to simulate: the arms in their order, then what the null models of every combination need.

    A combination of n drugs adds n regimens of one drug each at the doses of the arm (independent action, best single)
    and one of all its drugs under Bliss. Effect curves are picked by `arm`: ``exposure[:, regimens.arm]``.

    Parameters
    ----------
    drugs
        All drugs of the cohort, in the order of axis R.
    arms
        Drugs of each arm; an arm without drugs is allowed.
    discontinuation
        Hazard of leaving in each arm, and in its null models, over that of the law; None, or 1 throughout: no change.

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
    ratio = None
    if discontinuation is not None and any(one != 1.0 for one in discontinuation):
        ratio = jnp.asarray([discontinuation[arm] for arm, _, _ in rows], jnp.float32)
    return Regimens(
        present=jnp.asarray([[drug in members for drug in drugs] for _, members, _ in rows], bool),
        bliss=jnp.asarray([bliss for _, _, bliss in rows], bool),
        parts=jnp.asarray([[j in parts.get(k, ()) for j in range(len(rows))] for k in range(len(rows))], bool),
        arm=jnp.asarray([arm for arm, _, _ in rows], jnp.int32),
        drug_hash=drug_hash(drugs),
        combination_hash=jnp.asarray([_combination_hash(members) for _, members, _ in rows], jnp.uint32),
        discontinuation=ratio,
    )


def draw_key(key: jax.Array, draw: Integer[Array, ""]) -> jax.Array:
    """Key of the patients of one draw; the key is consumed."""
    return jax.random.fold_in(key, draw)


def _dimensions(places: Places, num_visits: int, parts: Parts) -> dict[str, list[int]]:
    """Dimensions of the sequence that each of the numbers of `Deviates` takes; none for what is left out."""

    def some(first: int, number: int, wanted: bool = True) -> list[int]:
        return list(range(first, first + number)) if wanted else []

    def of_place(first: tuple[int, ...], beyond: int, place: int) -> int:
        # the few drugs and combinations there are take the first dimensions, any others every third beyond the last
        own = first[place] if place < len(first) else beyond + 3 * (place - len(first))
        if own >= _VISIT_DELAY:
            raise ValueError(f"the Sobol sequence has no room for {place + 1} drugs or combinations of a cohort")
        return own

    def of_resistance(place: int) -> int:
        if _RESISTANT + place >= _RESPONDER:
            raise ValueError(f"the Sobol sequence has no room for {place + 1} drugs of a cohort that may be resisted")
        return _RESISTANT + place

    lesions = parts.lesions or MAX_LESIONS
    return {
        "subgroup_u": [_SUBGROUP],
        "num_lesions_u": some(_LESIONS, 1, parts.lesions is None),
        "growth_z": [_GROWTH],
        "loss_rate_z": [_LOSS_RATE],
        "sld_z": [_SLD],
        "reader_z": some(_READER, 1, parts.reader),
        "effect_z": [of_place(_EFFECT, _MORE, place) for place in places.drug],
        "combination_z": [of_place(_COMBINATION, _MORE + 1, place) for place in places.combination],
        "lesion_size_z": some(_SIZE, lesions),
        "lesion_pace_z": some(_PACE, lesions),
        "reading_z": some(_READING, num_visits + 1),
        "new_lesion_e": some(_NEW_LESION, 1, parts.new_lesions),
        "discontinuation_e": some(_DISCONTINUATION, 1, parts.discontinuation),
        "missed_u": some(_MISSED, num_visits, parts.missed_visits),
        "death_u": some(_DEATH, 1, parts.death),
        "blinded_reader_z": some(_BLINDED_READER, 1, parts.blinded and parts.reader),
        "blinded_z": some(_BLINDED, num_visits + 1, parts.blinded),
        "exposure_z": [of_place(_EXPOSURE, _MORE + 2, place) for place in places.drug if parts.exposure],
        "missed_dose_e": some(_MISSED_DOSE, 1, parts.exposure),
        "visit_delay_e": some(_VISIT_DELAY, num_visits, parts.late_visits),
        "entry_u": some(_ENTRY, 1, parts.cut_off),
        "resistant_u": [of_resistance(place) for place in places.drug if parts.resistance],
        "responder_u": some(_RESPONDER, 1, parts.responders),
    }


_SEVERAL = (
    "effect_z",
    "combination_z",
    "lesion_size_z",
    "lesion_pace_z",
    "reading_z",
    "missed_u",
    "blinded_z",
    "exposure_z",
    "visit_delay_e",
    "resistant_u",
)


def sobol_points(key: jax.Array, places: Places, num_visits: int, parts: Parts) -> sobol.Points:
    """What all blocks of all draws share; `key` is consumed."""
    dimensions = _dimensions(places, num_visits, parts)
    return sobol.points(key, [one for some in dimensions.values() for one in some])


def sobol_deviates(
    points: sobol.Points,
    shift: UInt32[Array, " N"],
    block: Int[Array, ""],
    places: Places,
    num_visits: int,
    parts: Parts = EVERYTHING,
) -> Deviates:
    """Numbers of one block from the sequence, in the place of `block_deviates`.

    Parameters
    ----------
    points
        See `sobol_points`, of the same places, visits and parts.
    shift
        Of the draw and net, see `sobol.shift`.
    block
        Which block of the draw.
    places, num_visits, parts
        What there is to draw.
    """
    bits = sobol.block_bits(points, shift, block)
    invert = {"z": sobol.normal, "u": sobol.uniform, "e": sobol.exponential}
    numbers: dict[str, Any] = {}
    first = 0
    for name, own in _dimensions(places, num_visits, parts).items():
        mine = bits[first : first + len(own)]
        first += len(own)
        numbers[name] = invert[name[-1]](mine if name in _SEVERAL else mine[0]) if own else None
    return Deviates(**numbers)


def block_deviates(
    key: jax.Array,
    block: Int[Array, ""],
    drug_hash: UInt32[Array, " R"],
    combination_hash: UInt32[Array, " C"],
    num_visits: int,
    parts: Parts = EVERYTHING,
) -> Deviates:
    """Independent random numbers of one block, counter-based.

    Parameters
    ----------
    key
        Of the draw, see `draw_key`; consumed.
    block
        Which block of the draw.
    drug_hash, combination_hash
        See `Regimens`; C sets of several drugs, which may be the same.
    num_visits
        Visits after baseline; the numbers of a visit do not depend on how many follow.
    parts
        What there is to draw; the numbers of the rest are None, and change no other.

    Returns
    -------
    Deviates
        float32, the patients last: [BLOCK], or [n, BLOCK] for what a patient has n of.
    """
    key = jax.random.fold_in(key, block)
    normal, uniform, exponential = jax.random.normal, jax.random.uniform, jax.random.exponential

    def one(name, draw, wanted=True) -> Any:
        return draw(jax.random.fold_in(key, _STREAM[name]), (BLOCK,), jnp.float32) if wanted else None

    def each(name, draw, member, wanted=True) -> Any:
        stream = jax.random.fold_in(key, _STREAM[name])
        return (
            jax.vmap(lambda m: draw(jax.random.fold_in(stream, m), (BLOCK,), jnp.float32))(member) if wanted else None
        )

    lesion = jnp.arange(parts.lesions or MAX_LESIONS, dtype=jnp.uint32)
    reading = jnp.arange(num_visits + 1, dtype=jnp.uint32)
    return Deviates(
        subgroup_u=one("subgroup_u", uniform),
        num_lesions_u=one("num_lesions_u", uniform, parts.lesions is None),
        growth_z=one("growth_z", normal),
        loss_rate_z=one("loss_rate_z", normal),
        sld_z=one("sld_z", normal),
        reader_z=one("reader_z", normal, parts.reader),
        effect_z=each("effect_z", normal, drug_hash),
        combination_z=each("combination_z", normal, combination_hash, combination_hash.shape[0] > 0),
        lesion_size_z=each("lesion_size_z", normal, lesion),
        lesion_pace_z=each("lesion_pace_z", normal, lesion),
        reading_z=each("reading_z", normal, reading),
        new_lesion_e=one("new_lesion_e", exponential, parts.new_lesions),
        discontinuation_e=one("discontinuation_e", exponential, parts.discontinuation),
        missed_u=each("missed_u", uniform, reading[1:], parts.missed_visits),
        death_u=one("death_u", uniform, parts.death),
        blinded_reader_z=one("blinded_reader_z", normal, parts.blinded and parts.reader),
        blinded_z=each("blinded_z", normal, reading, parts.blinded),
        exposure_z=each("exposure_z", normal, drug_hash, parts.exposure),
        missed_dose_e=one("missed_dose_e", exponential, parts.exposure),
        visit_delay_e=each("visit_delay_e", exponential, reading[1:], parts.late_visits),
        entry_u=one("entry_u", uniform, parts.cut_off),
        resistant_u=each("resistant_u", uniform, drug_hash, parts.resistance),
        responder_u=one("responder_u", uniform, parts.responders),
    )


def num_lesions(mean: Float[Array, ""], u: Float[Array, " *P"]) -> Int[Array, " *P"]:
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


def patients_of(
    law: PatientLaw, deviates: Deviates, prevalence: Float[Array, " B"], parts: Parts = EVERYTHING
) -> Patients:
    """Patients from the law of one draw and their random numbers.

    Target lesions are measurable: a patient's sum of diameters is at least 10 mm, and no patient has more lesions than
    fit into the sum at 10 mm each.

    Parameters
    ----------
    law
        One draw, see `PatientLaw`.
    deviates
        Their random numbers, see `Deviates`.
    prevalence
        Share of each subgroup; taken relative to their sum.
    parts
        What is simulated; the rest of a patient is None.
    """
    reached = jnp.cumsum(prevalence)[:-1] / jnp.sum(prevalence)
    subgroup = jnp.sum(deviates.subgroup_u[None] >= reached[:, None], axis=0, dtype=jnp.int32)
    effect_mean = law.effect_mean[:, 0, None]
    for group in range(1, prevalence.shape[0]):
        effect_mean = jnp.where(subgroup[None] == group, law.effect_mean[:, group, None], effect_mean)
    if deviates.responder_u is not None:
        assert law.responder_share is not None and law.responder_shift is not None
        more = jnp.where(deviates.responder_u < law.responder_share, law.responder_shift, 0.0)
        effect_mean = effect_mean + more[None]

    sld = jnp.maximum(jnp.exp(law.ln_sld_median + law.sld_log_sd * deviates.sld_z), MEASURABLE_MM)
    room = jnp.minimum(sld / MEASURABLE_MM, float(MAX_LESIONS)).astype(jnp.int32)
    if parts.lesions is None:
        number = jnp.minimum(num_lesions(law.mean_lesions, deviates.num_lesions_u), room)
    else:
        number = jnp.minimum(parts.lesions, room)
    place = jnp.arange(parts.lesions or MAX_LESIONS, dtype=jnp.int32)
    size = jnp.where(place[:, None] < number[None], jnp.exp(law.lesion_size_log_sd * deviates.lesion_size_z), 0.0)
    # lesion by lesion: XLA adds up an axis of five one number at a time
    total = sum(jnp.unstack(size)[1:], start=size[0])

    def reading(reader_z, z):
        own = law.reading_error * z
        return own if reader_z is None else (law.reader_effect * reader_z)[None] + own

    exposure = None
    if deviates.exposure_z is not None:
        assert law.exposure_sd is not None and law.missed_dose is not None
        missed = law.missed_dose[:, None] * deviates.missed_dose_e[None]
        exposure = law.exposure_sd[:, None] * deviates.exposure_z - missed
    visit_delay = None
    if deviates.visit_delay_e is not None:
        assert law.visit_delay is not None
        visit_delay = law.visit_delay * deviates.visit_delay_e
    follow_up = None
    if deviates.entry_u is not None:
        assert law.cut_off is not None and law.accrual is not None
        follow_up = law.cut_off - law.accrual * deviates.entry_u

    sensitive = None
    if deviates.resistant_u is not None:
        assert law.resistant_share is not None
        sensitive = deviates.resistant_u >= law.resistant_share[:, None]

    return Patients(
        subgroup=subgroup,
        growth=jnp.exp(law.mu_ln_growth + law.omega_ln_growth * deviates.growth_z),
        effect=effect_mean + law.effect_sd[:, None] * deviates.effect_z,
        loss_rate=jnp.exp(law.ln_loss_rate[:, None] + (law.loss_rate_sd * deviates.loss_rate_z)[None]),
        combination=None if deviates.combination_z is None else law.omega_combination * deviates.combination_z,
        diameter=sld[None] * size / total[None],
        pace=jnp.exp(law.lesion_log_sd * deviates.lesion_pace_z),
        reading=reading(deviates.reader_z, deviates.reading_z),
        new_lesion_e=deviates.new_lesion_e,
        discontinuation_e=deviates.discontinuation_e,
        missed=deviates.missed_u < law.missed_visit if parts.missed_visits else None,
        dies=deviates.death_u < law.death_share if parts.death else None,
        blinded=reading(deviates.blinded_reader_z, deviates.blinded_z) if parts.blinded else None,
        exposure=exposure,
        visit_delay=visit_delay,
        follow_up=follow_up,
        sensitive=sensitive,
    )
