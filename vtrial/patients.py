"""One posterior draw and random numbers -> virtual patients.

A patient is the same person in every arm: see :mod:`vtrial.deviates` for the random numbers that make one. Patients are
the last axis throughout, so that every number is one vector over the patients of a block (decision 9).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vtrial.base import MAX_LESIONS, Deviates, PatientLaw, Patients
from vtrial.course_parts import EVERYTHING, Parts

#: smallest diameter of a target lesion, mm (RECIST 1.1, section 3.1.1)
MEASURABLE_MM = 10.0


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
