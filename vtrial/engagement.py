"""Target engagement: how far the marker of a drug's target is inhibited over the first cycles of every arm.

    inhibition(t) = c(t) / (1 + c(t)),        c(t) = engagement x level x A(t) / A_ref

with A the amount in a patient (:mod:`vtrial.kinetics`), A_ref its average under the drug's reference dosing and
`engagement` the amount at that dosing over the amount that inhibits by half (``priors/engagement.yaml``). Rows tell of
one new patient of each draw, so their quantiles hold both how patients differ and what is not known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from vtrial.config import Arm, Cohort
from vtrial.dosing import Dosing, dose_rate, doses
from vtrial.exposure import DoseResponse, amount, effect, half_amount
from vtrial.pharmacology import dose_response, infusion_days, level, log_sd, missed_share
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors

#: mechanism class -> marker of its target
TARGETS = {"FAK": "pFAK (Y397)", "RAF/MEK": "pERK"}
COLUMNS = ["tumour_type", "arm", "drug", "target", "day", "mean", "q05", "q25", "q50", "q75", "q95"]
#: two cycles are shown, within these bounds, a point every three hours
LEAST_DAYS, MOST_DAYS, PER_DAY = 28, 84, 8


def horizon(dosings: list[Dosing]) -> int:
    """Days that are shown: two of the longest cycle of an arm."""
    cycles = [dosing.start_day + 2 * (dosing.cycle_days or dosing.repeat_days) for dosing in dosings]
    return min(max([LEAST_DAYS, *cycles]), MOST_DAYS)


def engagement_rows(cohort: Cohort, sampler: PriorSampler, priors: Priors) -> pd.DataFrame:
    """Inhibition of the marker of every drug that has one, in every arm of a cohort, a row per time.

    Parameters
    ----------
    cohort
        From the experiment.
    sampler
        Draws of the priors, the same as those of the trial.
    priors
        Drugs; one without pharmacokinetics, or whose class has no marker in `TARGETS`, has no rows.

    Returns
    -------
    DataFrame
        `COLUMNS`; inhibition as a fraction, over draws with one patient each.
    """
    frames = [pd.DataFrame(columns=COLUMNS)]
    for arm in cohort.arms:
        days = np.arange(PER_DAY * horizon([one.to_dosing() for one in arm.drugs.values()]) + 1) / PER_DAY
        for drug in arm.drugs:
            info = priors.drug(drug)
            if info.pk is None or info.drug_class not in TARGETS:
                continue
            found = _inhibition(arm, drug, cohort.tumour_type, days, sampler, priors)
            low, q25, middle, q75, high = np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
            named = {"tumour_type": cohort.tumour_type, "arm": arm.name, "drug": info.name}
            numbers = {"mean": found.mean(0), "q05": low, "q25": q25, "q50": middle, "q75": q75, "q95": high}
            frames.append(pd.DataFrame({**named, "target": TARGETS[info.drug_class], "day": days, **numbers}))
    return pd.concat(frames[1:] or frames, ignore_index=True)[COLUMNS]


def _inhibition(
    arm: Arm, drug: str, tumour_type: str, days: np.ndarray, sampler: PriorSampler, priors: Priors
) -> np.ndarray:
    """Inhibition [D, T] of the marker of one drug in one arm."""
    info, dosing = priors.drug(drug), arm.drugs[drug].to_dosing()
    assert info.pk is not None
    potency = sampler.resolved(f"engagement.{info.drug_class}", info.name)
    # the steepness of the effect on the tumour is not that on the marker
    response = dose_response(info, sampler)._replace(
        saturation=jnp.asarray(potency, jnp.float32), hill=jnp.ones(sampler.size, jnp.float32)
    )
    # the patient of a draw is the same in every arm
    z = sampler.normal(f"engagement {info.name}")
    e = np.asarray(jax.random.exponential(sampler.named("engagement missed doses"), (sampler.size,)), np.float64)
    own = log_sd(info, tumour_type, sampler) * z - missed_share(info, tumour_type, sampler) * e
    factor = level(dosing, len(arm.drugs) > 1, info, tumour_type, sampler) * np.exp(own)
    given = doses(dosing, float(days[-1]))
    # padded to a power of two, so that few shapes are compiled
    size = 1 << max(3, (len(given) - 1).bit_length())
    times, amounts = (np.array([dose[i] for dose in given] + [0.0] * (size - len(given)), np.float32) for i in (0, 1))
    rate = dose_rate(info.pk.reference.to_dosing())
    length = infusion_days(dosing, info)
    return np.asarray(
        _curves(jnp.asarray(days, jnp.float32), times, amounts, jnp.asarray(factor), response, rate, length)
    )


@jax.jit
def _curves(days, times, amounts, factor, response: DoseResponse, reference_rate, infusion_days):
    def one(factor, response):
        half = half_amount(reference_rate, response)
        return effect(factor * amount(days, times, amounts, response, infusion_days), half, response.hill)

    return jax.vmap(one)(jnp.asarray(factor, jnp.float32), response)
