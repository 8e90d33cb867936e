"""The random numbers of virtual patients: which one decides what, from independent numbers or from a Sobol sequence.

The random numbers of a patient hang on (key, draw, number of the patient, name of the quantity, name of the drug) and
on nothing else: a patient is the same person in every arm, for any number of patients, in any order of arms and drugs,
on any number of devices. They are independent (counter-based) or points of a scrambled Sobol sequence, which fills the
space of patients more evenly; there a drug's dimension follows its place among the drugs of the cohort.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, UInt32

from vtrial import sobol
from vtrial.base import MAX_LESIONS, Deviates
from vtrial.course_parts import EVERYTHING, Parts

#: where a patient's random numbers come from
Numbers: TypeAlias = Literal["independent", "sobol"]

# The default trial has 2,000 patients a draw: 2,048 wastes 2 % of the work where 4,096 would waste half. Patients are
# made in whole blocks, whatever is asked for; another size gives other patients.
BLOCK = sobol.BLOCK

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


def draw_key(key: jax.Array, draw: Integer[Array, ""]) -> jax.Array:
    """Key of the patients of one draw; the key is consumed."""
    return jax.random.fold_in(key, draw)


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
