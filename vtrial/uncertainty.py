"""Where the uncertainty of a response rate comes from: its variance by source, for the population and for one trial.

The rate of an arm is a function of groups of parameters that are drawn independently: what the mice say, the
combination rule, the translation to patients, the patients and how they are read. The first-order index of a group g
(Sobol IM. Math Comput Simul 2001;55:271-280) is the share of the variance that would go if g were known,

    S_g = Var(E[Y | X_g]) / Var(Y) = Cov(Y, Y_g) / Var(Y)

where Y_g keeps the draws of g and takes those of all other groups from another draw: one more simulation per group.
What the indices leave of 1 belongs to no group alone. A trial of n patients adds its own deviation from the population
and the chance of n patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import expit, logit, roots_hermitenorm

from vtrial.base import PatientLaw
from vtrial.devices import Kind, device_for, devices_for
from vtrial.inputs import Inputs, marks
from vtrial.posterior import Draws, spread_evenly
from vtrial.progress import Progress
from vtrial.rates import response_rates
from vtrial.simulation import piece_size, recist_rule
from vtrial.store import RunFolder
from vtrial.translation import CohortPlan, plan_cohort
from vtrial.trial import Endpoints, simulate

#: draws of which every group is simulated anew: an index has a standard error of about 1 / sqrt(NUM_DRAWS) = 0.06
NUM_DRAWS = 300
#: patients of each draw at most: their chance adds below p (1 - p) / 4096 to a variance, an SD of 0.8 points
NUM_PATIENTS = 4096
#: group -> leaves of the law that belong to it; all others are of the patients
GROUPS: Mapping[str, tuple[str, ...]] = {
    "mice": ("mu_ln_growth", "omega_ln_growth", "effect_mean", "effect_sd", "responder_share", "responder_shift"),
    "combination rule": ("phi", "gamma", "omega_combination"),
    "translation": (
        "growth_scale",
        "kill_scale",
        "resistant_share",
        "ln_loss_rate",
        "loss_rate_sd",
        "ln_new_lesion_ratio",
    ),
    "patients and reading": (),
}
#: the group that the effect-time curves belong to: dose response and exposure ratio
_EXPOSURE = "translation"
TOGETHER, BETWEEN_TRIALS, CHANCE = "several together", "between trials", "number of patients"
COLUMNS = ("tumour_type", "arm", "num_patients", "source", "first_order", "standard_error", "variance", "share")
_NODES, _WEIGHTS = roots_hermitenorm(40)


class Index(NamedTuple):
    """A first-order index and its standard error."""

    value: float
    standard_error: float


def first_order_index(rate: np.ndarray, again: np.ndarray) -> Index:
    """First-order index of the group that two sets of rates [D] share, draw by draw (Janon 2014, ESAIM P&S 18:342).

    The standard error is that of the estimator's influence function, and at least that of a correlation of normals,
    (1 - S^2) / sqrt(D), which is exact where S = 0: of skewed rates, which few draws have high, the former is small
    just where the estimate is too low. NaN where the rates do not vary.
    """
    mean = 0.5 * (rate.mean() + again.mean())
    y, z = rate - mean, again - mean
    spread = 0.5 * (y**2 + z**2)
    variance = spread.mean()
    if not variance > 0:
        return Index(math.nan, math.nan)
    value = (y * z).mean() / variance
    influence = (y * z - value * spread) / variance
    error = max(float(influence.std()), 1.0 - float(value) ** 2)
    return Index(float(value), error / math.sqrt(len(rate)))


def trial_variances(
    rate: np.ndarray, between_trials: np.ndarray, num_virtual: int, num_patients: int
) -> tuple[float, float, float]:
    """Variance of the observed rate of a trial of n: of the population's rate, between trials, of n patients.

    Parameters
    ----------
    rate, between_trials : array [D]
        Rate of the population, and SD on the logit of one trial's rate about it.
    num_virtual : int
        Virtual patients behind a rate: none of them responding counts as half a patient, so that it has a logit.
    num_patients : int
        Patients of the trial.
    """
    at = logit(np.clip(rate, 0.5 / num_virtual, 1.0 - 0.5 / num_virtual))
    rates = expit(at[:, None] + between_trials[:, None] * _NODES)
    weight = _WEIGHTS / _WEIGHTS.sum()
    mean = float((rates @ weight).mean())
    square = float((rates**2 @ weight).mean())
    population = float(rate.var())
    return population, max(square - mean**2 - population, 0.0), (mean - square) / num_patients


def mixed(plan: CohortPlan, source: str, own: np.ndarray, other: np.ndarray) -> tuple[PatientLaw, jax.Array]:
    """Law and exposure that take the leaves of one group from draws `own` and all others from draws `other`."""
    kept = GROUPS[source]
    taken = {leaf for leaves in GROUPS.values() for leaf in leaves}

    def belongs(name: str) -> bool:
        return name in kept if kept else name not in taken

    leaves = plan.law._asdict().items()
    picked = {name: None if leaf is None else leaf[own if belongs(name) else other] for name, leaf in leaves}
    law = PatientLaw(**picked)  # pyright: ignore[reportArgumentType]
    return law, plan.exposure[own if source == _EXPOSURE else other]


def uncertainty_stage(
    inputs: Inputs, folder: RunFolder, device: Kind, rates: xr.DataTree, progress: Progress
) -> pd.DataFrame:
    """Variance of every arm by source, all patients of a cohort together.

    Parameters
    ----------
    rates
        The rates draw by draw, see `vtrial.rates.orr_draws`.

    Returns
    -------
    DataFrame
        tumour_type, arm, num_patients (of the trial), source, first_order and standard_error (of the population's
        variance; empty for sources that are no group), variance (of the observed rate of the trial) and its share,
        note (what must be said first). Arms whose rate does not vary are left out.
    """
    config = inputs.experiment.trial
    key_prior, key_patients = jax.random.split(jax.random.key(config.seed))
    rows: list[dict[str, object]] = []
    with folder.open_posterior() as tree, jax.default_device(device_for(device)):
        draws = Draws(tree, config.draws)
        # pieces of the size that the trial was cut into: their program is compiled already
        step = piece_size(draws.size)
        number = step * min(math.ceil(NUM_DRAWS / step), draws.size // step)
        own = spread_evenly(number, draws.size)
        other = np.roll(own, number // 2)
        for index, cohort in enumerate(config.cohorts):
            plan = plan_cohort(
                *(key_prior, cohort, config.visits, draws, inputs.priors, inputs.experiment.data.aliases),
                engraftment_bias=config.engraftment_bias,
                cut_off=config.cut_off,
            )
            stored = rates[f"cohort_{index + 1}"].to_dataset()
            known = stored["rate"].isel(endpoint=0).sel(subgroup="all").transpose("draw", "arm").to_numpy()
            several = bool(np.asarray(plan.regimens.present).sum(1).max() > 1)
            again = {}
            for source in GROUPS:
                if source == "combination rule" and not several:
                    continue
                law, exposure = mixed(plan, source, own, other)
                parts = []
                for first in range(0, number, step):
                    counts, _ = simulate(
                        key_patients,
                        plan._replace(law=law, exposure=exposure).trial(slice(first, first + step)),
                        recist_rule(config),
                        num_patients=min(config.patients, NUM_PATIENTS),
                        endpoints=Endpoints(len(plan.arms), config.confirmation, config.blinded_reader, days=True),
                        numbers=config.numbers,
                        first_draw=first,
                        devices=devices_for(device),
                    )
                    found = response_rates(plan, counts, config.confirmation)
                    parts.append(next(iter(found.values()))[:, : len(plan.arms), -1])
                    progress(f"sources of uncertainty, {source}", min(first + step, number), number)
                again[source] = np.concatenate(parts)
            between = stored["between_trials"].to_numpy()
            for k, arm in enumerate(cohort.arms):
                # a rule that an arm of one drug never meets explains nothing of it, whatever its estimate would say
                met = [source for source in again if source != "combination rule" or len(arm.drugs) > 1]
                indices = {source: first_order_index(known[own, k], again[source][:, k]) for source in met}
                variances = trial_variances(known[:, k], between, config.patients, arm.trial_size())
                named = {"tumour_type": cohort.tumour_type, "arm": arm.name, "num_patients": arm.trial_size()}
                rows += [named | row for row in source_rows(indices, *variances)]
    # a trailing column, empty where there is nothing to warn of, so that the table never travels without its caveat
    return pd.DataFrame(rows, columns=list(COLUMNS)).assign(note="; ".join(marks(inputs.experiment, folder.manifest())))


def source_rows(
    indices: Mapping[str, Index], population: float, between: float, chance: float
) -> list[dict[str, object]]:
    """Rows of one arm: its groups, what belongs to no group alone, then the sources of a trial.

    Estimates of small indices fall below 0, and all together may pass 1, by their standard errors: their variances
    are cut at 0 and made to fit the population's.
    """
    if not population > 0:
        return []
    positive = {source: max(index.value, 0.0) for source, index in indices.items()}
    total = max(sum(positive.values()), 1.0)
    whole = population + between + chance
    variances = {source: value / total * population for source, value in positive.items()}
    variances[TOGETHER] = max(population - sum(variances.values()), 0.0)
    variances |= {BETWEEN_TRIALS: between, CHANCE: chance}
    nothing = Index(math.nan, math.nan)
    return [
        {
            "source": source,
            "first_order": indices.get(source, nothing).value,
            "standard_error": indices.get(source, nothing).standard_error,
            "variance": variance,
            "share": variance / whole,
        }
        for source, variance in variances.items()
    ]
