"""Dose, schedule and priors -> effect-time curves of the arms of a cohort, and how patients differ in exposure.

What a patient of median exposure gets of drug d in arm k follows from the regimen and

    level = intensity x (1 - missed) / (1 - missed of the priors)        factor on every amount
    saturation_d x exp(exposure_ratio_d)                                  human over mouse, uncertain

where intensity and missed doses are those that the regimen names, else those of the priors: alone, or beside a partner,
with whom less of either drug is given. A patient i then has ``ln level_i = log-SD z_i - missed e_i`` with z standard
normal and e unit exponential. The clearance of a patient acts on the level, not on the half-life, and the doses that
one misses are spread evenly: 1 dose in 10 missed at random instead costs up to 0.03 more of the mean effect (0.002 of
trametinib once a day, 0.02 of avutometinib twice a week, 0.026 of binimetinib twice a day).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from vtrial.dosing import Dosing, dose_rate, doses, treated_share
from vtrial.exposure import DoseResponse, segment_law
from vtrial.prior_draws import PriorSampler
from vtrial.priors import DrugInfo, Priors

HOURS_PER_DAY = 24.0


def dose_response(info: DrugInfo, sampler: PriorSampler) -> DoseResponse:
    """Time course [D] of the effect of a drug with pharmacokinetics in the priors, human over mouse included."""
    assert info.pk is not None
    prefix = f"drugs.{info.name}.pk"
    ratio = np.exp(sampler.entry("translation.exposure_ratio", f" {info.name}"))

    def days(name):
        return jnp.asarray(sampler.entry(f"{prefix}.{name}") / HOURS_PER_DAY, jnp.float32)

    fast, share = None, None
    if info.pk.distribution_half_life is not None:
        fast = days("distribution_half_life")
        share = jnp.asarray(sampler.entry(f"{prefix}.distribution_share"), jnp.float32)
    return DoseResponse(
        half_life=days("half_life"),
        absorption_half_life=days("absorption_half_life"),
        saturation=jnp.asarray(sampler.entry(f"{prefix}.saturation") * ratio, jnp.float32),
        hill=jnp.asarray(sampler.entry(f"{prefix}.hill"), jnp.float32),
        distribution_half_life=fast,
        distribution_share=share,
    )


def by_mouth(info: DrugInfo) -> bool:
    """Whether a drug is taken by mouth, as one is without pharmacokinetics in the priors."""
    return info.pk is None or info.pk.route == "oral"


def level(dosing: Dosing, together: bool, info: DrugInfo, tumour_type: str, sampler: PriorSampler) -> np.ndarray:
    """Given over planned amounts [D] of a drug in an arm, for a patient of the priors' mean share of missed doses.

    Parameters
    ----------
    dosing
        The regimen; holds and reductions are in its amounts already.
    together
        Whether the arm has another drug.
    info, tumour_type, sampler
        The drug, and where the priors are drawn.
    """
    if dosing.intensity is not None:
        given = np.full(sampler.size, dosing.intensity)
    else:
        given = sampler.resolved("patients", tumour_type, "dose_intensity")
        if together:
            given = given * sampler.resolved("patients", tumour_type, "dose_intensity_beside_partner")
    if dosing.missed is not None:
        given = given * (1.0 - dosing.missed) / _taken(info, tumour_type, sampler)
    return given


def missed_share(info: DrugInfo, tumour_type: str, sampler: PriorSampler) -> np.ndarray:
    """Mean over patients of -ln of the share of doses taken, [D]; infusions are not missed."""
    if not by_mouth(info):
        return np.zeros(sampler.size)
    return sampler.resolved("patients", tumour_type, "missed_dose")


def _taken(info: DrugInfo, tumour_type: str, sampler: PriorSampler) -> np.ndarray:
    """Mean over patients of the share of doses taken, [D]: E exp(-m e) for a unit exponential e."""
    return 1.0 / (1.0 + missed_share(info, tumour_type, sampler))


def log_sd(info: DrugInfo, tumour_type: str, sampler: PriorSampler) -> np.ndarray:
    """Log-SD [D] over patients of the exposure to a drug."""
    if info.pk is not None and info.pk.between_patients is not None:
        return sampler.entry(f"drugs.{info.name}.pk.between_patients")
    route = "oral" if by_mouth(info) else "intravenous"
    return sampler.resolved("patients", tumour_type, f"exposure_log_sd_{route}")


def infusion_days(dosing: Dosing, info: DrugInfo) -> float | None:
    """How long a dose runs into the vein: what the regimen says, else the reference dosing; None if neither does.

    Without one, half of a dose is there after the absorption half-life, by mouth and into the vein alike.
    """
    assert info.pk is not None
    return dosing.infusion_days if dosing.infusion_days is not None else info.pk.reference.infusion


def between_patients(
    drugs: Sequence[str], tumour_type: str, sampler: PriorSampler, priors: Priors
) -> dict[str, np.ndarray]:
    """What `base.PatientLaw` holds of exposure, [D, R] each: exposure_sd, missed_dose and, if any is, linear_effect."""
    found: dict[str, list[np.ndarray]] = {"exposure_sd": [], "missed_dose": [], "linear_effect": []}
    for drug in drugs:
        info = priors.drug(drug)
        linear = info.pk is not None and info.pk.effect == "linear"
        # a linear effect is scaled by the level itself, and so is one whose steepness nobody knows
        steep = np.ones(sampler.size)
        if info.pk is not None and not linear:
            steep = sampler.entry(f"drugs.{info.name}.pk.hill")
        found["exposure_sd"].append(steep * log_sd(info, tumour_type, sampler))
        found["missed_dose"].append(steep * missed_share(info, tumour_type, sampler))
        found["linear_effect"].append(np.full(sampler.size, float(linear)))
    law = {name: np.stack(values, axis=1) for name, values in found.items()}
    if not law["linear_effect"].any():
        del law["linear_effect"]
    return law


@partial(jax.jit, static_argnames=("reference_rate", "linear"))
def _segment_laws(edges, times, amounts, response: DoseResponse, infusion_days, reference_rate: float, linear: bool):
    """The two points of every segment [D, G, 3] of one drug in one arm; amounts [D, N]."""

    def one(amounts, response):
        how = {"infusion_days": infusion_days, "linear": linear}
        return jnp.stack(segment_law(edges, times, amounts, reference_rate, response, **how), axis=-1)

    return jax.vmap(one)(amounts, response)


def arm_exposure(
    edges: jax.Array,
    dosings: Sequence[Mapping[str, Dosing]],
    drugs: Sequence[str],
    tumour_type: str,
    sampler: PriorSampler,
    priors: Priors,
) -> jax.Array:
    """Effect-time curves of every arm and drug for a patient of median exposure who takes every dose.

    Where the priors have no pharmacokinetics, dose and half-life cannot be used: the effect is constant on treated days
    and nothing on others, with an uncertain log ratio of human to mouse (`translation.unknown_exposure_ratio`).

    Parameters
    ----------
    edges : Array [G + 1]
        Days, see `dosing.segment_edges`.
    dosings
        Drug -> regimen, of every arm; drugs by the names of the priors.
    drugs
        Drugs of the cohort, in the order of axis R.

    Returns
    -------
    Array [D, arm, R, G, 3]
        The two points of `exposure.segment_law`, float32; 0 where an arm does not have the drug.
    """
    until, size = float(edges[-1]), sampler.size
    days = np.asarray(edges, float)
    curves = np.zeros((size, len(dosings), len(drugs), len(days) - 1, 3), np.float32)
    for r, drug in enumerate(drugs):
        info = priors.drug(drug)
        response = None if info.pk is None else dose_response(info, sampler)
        for k, arm in enumerate(dosings):
            if drug not in arm:
                continue
            factor = level(arm[drug], len(arm) > 1, info, tumour_type, sampler)
            if info.pk is None or response is None:
                on = [treated_share(arm[drug], *pair) for pair in pairwise(days.tolist())]
                curves[:, k, r] = _constant(unknown_saturation(info, sampler) * factor, np.array(on))
                continue
            given = doses(arm[drug], until)
            times, amounts = (np.array([dose[i] for dose in given], np.float32) for i in (0, 1))
            curves[:, k, r] = _segment_laws(
                edges,
                jnp.asarray(times),
                jnp.asarray(factor[:, None] * amounts, jnp.float32),
                response,
                infusion_days(arm[drug], info),
                dose_rate(info.pk.reference.to_dosing()),
                info.pk.effect == "linear",
            )
    return jnp.asarray(curves)


def unknown_saturation(info: DrugInfo, sampler: PriorSampler) -> np.ndarray:
    """Odds [D] of the effect of a drug without pharmacokinetics, on treated days."""
    ratio = sampler.entry("translation.unknown_exposure_ratio", f" {info.name}")
    return sampler.entry("translation.unknown_saturation", f" {info.name}") * np.exp(ratio)


def _constant(odds: np.ndarray, on: np.ndarray) -> np.ndarray:
    """An effect that is on for a share of each segment, as two points: 0, and odds / (1 + odds) [D]; [D, G, 3]."""
    effect = np.broadcast_to((odds / (1.0 + odds))[:, None], (len(odds), len(on)))
    return np.stack([np.zeros_like(effect), effect, np.broadcast_to(on, effect.shape)], axis=-1)
