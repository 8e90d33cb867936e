"""What goes into a simulation, as NamedTuples: shapes and units, no behaviour. What is read: :mod:`vtrial.outcomes`.

Axis letters: D draws, K regimens, R drugs, G time segments, V visits, B subgroups, L lesions, P patients, C response
classes. What is written as one draw gets a leading axis where it is vmapped; patients are the last axis of everything
that they have (decision 9).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

#: RECIST 1.1 follows at most five target lesions; patients with fewer have the rest masked
MAX_LESIONS = 5


class PatientLaw(NamedTuple):
    """The distribution that patients are drawn from, as one posterior draw has it.

    Rates of growth and kill are those of a volume. An effect is the fraction of the PDX-scale growth removed at full
    exposure in a mouse (0 nothing, 1 stasis, above 1 shrinkage); `kill_scale` carries it to patients.

    Attributes
    ----------
    mu_ln_growth, omega_ln_growth : Array []
        Mean and SD over new PDX models, that is patients, of ln growth (growth in 1/day, in mice).
    growth_scale : Array []
        Growth in a patient over that in a mouse.
    effect_mean : Array [R, B]
        Mean effect of each drug in each subgroup.
    effect_sd : Array [R]
        SD of the effect over patients.
    kill_scale : Array [R]
        Kill in a patient over that in a mouse, at effect-time curve 1.
    ln_loss_rate : Array [R]
        Ln of the median rate (1/day) at which the effect fades.
    loss_rate_sd : Array []
        SD of that ln between patients.
    phi, gamma : Array [R, R]
        Combination rule, see `treatment.combine`; symmetric, the diagonal is not read.
    omega_combination : Array []
        SD over patients of what a combination adds to the rule, as a fraction of growth.
    ln_sld_median, sld_log_sd : Array []
        Ln of the median (mm), and log-SD over patients, of the sum of longest diameters at baseline.
    mean_lesions : Array []
        Mean number of target lesions, 1 to 5.
    lesion_size_log_sd : Array []
        Log-SD of the diameters of the lesions of one patient at baseline.
    lesion_log_sd : Array []
        Log-SD of the pace (growth and kill together) of the lesions of one patient.
    reading_error : Array []
        SD of ln SLD per assessment, baseline included.
    reader_effect : Array []
        SD of ln SLD between readers; the same at all assessments of a patient.
    new_lesion_hazard, new_lesion_power : Array []
        Hazard (1/day) at the baseline size, and its exponent in SLD over baseline SLD.
    discontinuation_hazard : Array []
        Hazard (1/day) of leaving for reasons other than progression.
    missed_visit : Array []
        Probability that an assessment is not made.
    death_share : Array []
        Share of those who leave for reasons other than progression who die then; read by PFS alone.
    exposure_sd : Array [R] or None
        SD over patients of the ln odds of each drug's effect that their exposure makes (hill times the log-SD of the
        exposure). None where all patients have the same exposure; so is then the next.
    missed_dose : Array [R]
        Mean over patients of hill times -ln of the share of doses taken, which is exponential over patients.
    linear_effect : Array [R] or None
        1 where a drug's effect is linear in the amount, else 0; None where none is.
    visit_delay : Array [] or None
        Mean number of days by which a visit is late, which is exponential over visits; None where all are on time.
    ln_new_lesion_ratio : Array [R] or None
        Ln of what each drug makes of the hazard of a new lesion at effect-time curve 1; None where none does anything.
    accrual, cut_off : Array [] or None
        Days over which patients enter evenly, and day, from the first patient's, after which nothing is known; None
        where everybody is followed to the last visit.
    resistant_share : Array [R] or None
        Share of the patients in whom each drug does nothing, as if it had not been given (primary resistance),
        independently of the other drugs; None where there is none.
    responder_share, responder_shift : Array [] or None
        Share of patients who are common responders (`vtrial.responders`), and what is added in them to the effect of
        every drug that they are not resistant to; None where the fit has no such component.
    """

    mu_ln_growth: jax.Array
    omega_ln_growth: jax.Array
    growth_scale: jax.Array
    effect_mean: jax.Array
    effect_sd: jax.Array
    kill_scale: jax.Array
    ln_loss_rate: jax.Array
    loss_rate_sd: jax.Array
    phi: jax.Array
    gamma: jax.Array
    omega_combination: jax.Array
    ln_sld_median: jax.Array
    sld_log_sd: jax.Array
    mean_lesions: jax.Array
    lesion_size_log_sd: jax.Array
    lesion_log_sd: jax.Array
    reading_error: jax.Array
    reader_effect: jax.Array
    new_lesion_hazard: jax.Array
    new_lesion_power: jax.Array
    discontinuation_hazard: jax.Array
    missed_visit: jax.Array
    death_share: jax.Array
    exposure_sd: jax.Array | None = None
    missed_dose: jax.Array | None = None
    linear_effect: jax.Array | None = None
    visit_delay: jax.Array | None = None
    ln_new_lesion_ratio: jax.Array | None = None
    accrual: jax.Array | None = None
    cut_off: jax.Array | None = None
    resistant_share: jax.Array | None = None
    responder_share: jax.Array | None = None
    responder_shift: jax.Array | None = None


class Schedule(NamedTuple):
    """When tumours are looked at, and the time segments between.

    Attributes
    ----------
    edges : Array [G + 1]
        Strictly increasing days, the first is 0, the last is the last visit; every visit is an edge.
    visit_segment : Array [V]
        Index of the segment that ends at each visit.
    visit_day : Array [V]
        Planned days of the visits, increasing, above 0. At most 31 visits.
    """

    edges: jax.Array
    visit_segment: jax.Array
    visit_day: jax.Array


class Regimens(NamedTuple):
    """Which drugs are given together, and which rows are the null models of which; see `arm_layout.lay_out`.

    Attributes
    ----------
    present : Array [K, R]
        Whether a drug belongs to the regimen, bool.
    bliss : Array [K]
        Whether the regimen follows Bliss (phi 1, gamma 0, no spread) instead of the combination rule, bool.
    parts : Array [K, K]
        ``parts[k, j]``: regimen j is one drug of the combination k alone, at the doses of k. Rows of False for others.
    arm : Array [K]
        Arm of the trial whose doses the regimen has, int32.
    drug_hash : Array [R]
        Number of each drug's name, uint32: the random numbers of a drug hang on its name, not on its place.
    combination_hash : Array [K]
        Number of the set of drugs given together, uint32.
    discontinuation : Array [K] or None
        Hazard of leaving over that of the law (`PatientLaw.discontinuation_hazard`); None where all regimens have 1.
    """

    present: jax.Array
    bliss: jax.Array
    parts: jax.Array
    arm: jax.Array
    drug_hash: jax.Array
    combination_hash: jax.Array
    discontinuation: jax.Array | None = None


class Trial(NamedTuple):
    """The numbers of one cohort, ready to simulate.

    Attributes
    ----------
    law : PatientLaw
        Every leaf with a leading axis D.
    exposure : Array [D, K, R, G] or [D, K, R, G, 3]
        Mean effect curve of every drug in every segment, in [0, 1], see `exposure.segment_effect`; where patients
        differ in exposure (`PatientLaw.exposure_sd`), the two points of `exposure.segment_law`. Not read where the
        drug is not part of the regimen.
    schedule : Schedule
        Visits and segments.
    regimens : Regimens
        See `arm_layout.lay_out`.
    prevalence : Array [B]
        Share of each subgroup; ``[1.0]`` without subgroups.
    """

    law: PatientLaw
    exposure: jax.Array
    schedule: Schedule
    regimens: Regimens
    prevalence: jax.Array


class Deviates(NamedTuple):
    """The random numbers of patients: z standard normal, u uniform on [0, 1), e unit exponential.

    Each is [..., P]; what stands below is one patient. Those of a part that is left out (`course_parts.Parts`) are
    None; typed Any, since under jit nothing could check it.

    Attributes
    ----------
    subgroup_u, num_lesions_u : Array []
        Membership of a subgroup; number of lesions.
    growth_z, loss_rate_z, sld_z, reader_z : Array []
        Growth, loss of effect, size at baseline, reader.
    effect_z : Array [R]
        Effect of each drug.
    combination_z : Array [C]
        Deviation from the combination rule of each regimen of several drugs; equal for the same drugs.
    lesion_size_z, lesion_pace_z : Array [L]
        Diameter and pace of each lesion.
    reading_z : Array [V + 1]
        Reading error at baseline and at each visit.
    new_lesion_e, discontinuation_e : Array []
        Cumulative hazard at which it happens.
    missed_u : Array [V]
        Missed visits.
    death_u : Array []
        Whether leaving is death.
    blinded_reader_z : Array []
    blinded_z : Array [V + 1]
        As reader_z and reading_z, for a second reader of the same scans.
    exposure_z : Array [R] or None
        Exposure to each drug; None where all patients have the same.
    missed_dose_e : Array [] or None
        How often doses are missed.
    visit_delay_e : Array [V] or None
        How late each visit is; None where all are on time.
    entry_u : Array [] or None
        When the patient enters; None without a cut-off.
    resistant_u : Array [R] or None
        Whether the patient is resistant to each drug; None where nobody is.
    responder_u : Array [] or None
        Whether the patient is a common responder; None where the fit has no such component.
    """

    subgroup_u: jax.Array
    num_lesions_u: Any
    growth_z: jax.Array
    loss_rate_z: jax.Array
    sld_z: jax.Array
    reader_z: Any
    effect_z: jax.Array
    combination_z: Any
    lesion_size_z: jax.Array
    lesion_pace_z: jax.Array
    reading_z: jax.Array
    new_lesion_e: Any
    discontinuation_e: Any
    missed_u: Any
    death_u: Any
    blinded_reader_z: Any
    blinded_z: Any
    exposure_z: Any = None
    missed_dose_e: Any = None
    visit_delay_e: Any = None
    entry_u: Any = None
    resistant_u: Any = None
    responder_u: Any = None


class Patients(NamedTuple):
    """Virtual patients: all that a trial needs to know of them, whatever they are given.

    Each is [..., P]; what stands below is one patient. Parts that are left out are None.

    Attributes
    ----------
    subgroup : Array []
        Index of the subgroup, int32.
    growth : Array []
        Growth of the tumour's volume on the scale of PDX models, 1/day.
    effect : Array [R]
        Fraction of growth removed by each drug.
    loss_rate : Array [R]
        Rate at which the effect fades, 1/day.
    combination : Array [C]
        What each regimen of several drugs adds to the rule, as a fraction of growth.
    diameter : Array [L]
        Longest diameter of each target lesion at baseline, mm; 0 where there is none.
    pace : Array [L]
        Pace of each lesion over that of the patient.
    reading : Array [V + 1]
        Ln of read over true SLD, at baseline and at each visit.
    new_lesion_e, discontinuation_e : Array []
        Cumulative hazard at which a new lesion appears and at which the patient leaves.
    missed : Array [V]
        Whether a visit is missed, bool.
    dies : Array []
        Whether leaving is death, bool.
    blinded : Array [V + 1]
        As `reading`, by a second, blinded reader.
    exposure : Array [R] or None
        Ln odds of each drug's effect over those of a patient of median exposure who takes every dose; None where all
        patients have the same.
    visit_delay : Array [V] or None
        Days by which each visit is later than planned; None where all are on time.
    follow_up : Array [] or None
        Days from the patient's start to the cut-off; None without one.
    sensitive : Array [R] or None
        Whether each drug does anything in the patient, bool; None where all drugs do in everybody.
    """

    subgroup: jax.Array
    growth: jax.Array
    effect: jax.Array
    loss_rate: jax.Array
    combination: Any
    diameter: jax.Array
    pace: jax.Array
    reading: jax.Array
    new_lesion_e: Any
    discontinuation_e: Any
    missed: Any
    dies: Any
    blinded: Any
    exposure: Any = None
    visit_delay: Any = None
    follow_up: Any = None
    sensitive: Any = None
