"""Tumour growth inhibition (TGI) in new PDX models under the drugs of a trial, from the same draws as its patients.

A patient of the trial is a new PDX model whose effects are carried over; here the same model stays a mouse. Under an
effect rho that removes that fraction of the growth g

    ln V(t)/V(0) = g (1 - rho) t + g (loss_a rho - slowing) q(t)    (so too other `growth_laws`)
    TGI(t)       = 1 - (V(t)/V(0) - 1) / (V_control(t)/V_control(0) - 1)

so that 100 % is stasis and more is shrinkage. It is the curve of the model, the mean of many mice: neither the spread
between mice nor the error of a measurement is in it. Drugs act as they do at the doses of the mice of the fit (or of
the published results), whatever the doses of the trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from vtrial.config import Cohort
from vtrial.growth_laws import fixed_course, time_courses
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws
from vtrial.translation import CohortPlan
from vtrial.treatment import combine, loss_of_arm

#: new PDX models of each draw
NUM_MODELS = 500
#: of them kept one by one: what a single model may show
NUM_KEPT = 20
COLUMNS = (
    "tumour_type",
    "subgroup",
    "drugs",
    "endpoint",
    "kind",
    "day",
    "mean",
    "sd",
    "q05",
    "q25",
    "q50",
    "q75",
    "q95",
    "above_singles",
    "source",
)
_QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


class Inhibition(NamedTuple):
    """TGI of D draws, N sets of drugs and C groups (the subgroups, and all models last).

    Attributes
    ----------
    drugs : tuple of tuple of str
        The sets, every single drug of a combination among them.
    median : ndarray [D, N, C]
        TGI of the median PDX model, as a fraction.
    regressing : ndarray [D, N, C]
        Share of PDX models that are smaller than at the start.
    models : ndarray [D, N, C, NUM_KEPT]
        TGI of some of the models, the same in all sets, others in the next draw.
    """

    drugs: tuple[tuple[str, ...], ...]
    median: np.ndarray
    regressing: np.ndarray
    models: np.ndarray


def drug_sets(plan: CohortPlan) -> tuple[tuple[str, ...], ...]:
    """The sets of drugs that the arms of a cohort give, and every drug of a combination alone; singles first."""
    present = np.asarray(plan.regimens.present)
    found = {tuple(plan.drugs[d] for d in np.flatnonzero(row)) for row in present}
    return tuple(sorted(found, key=lambda one: (len(one), one)))


def inhibition(
    key: jax.Array, plan: CohortPlan, draws: Draws, shape: CurveShape, day: float, engraftment_bias: float = 0.0
) -> Inhibition:
    """Simulate new PDX models of a cohort's tumour type under the drugs of its arms.

    Parameters
    ----------
    key
        Consumed.
    plan
        Of the cohort: growth and effects of its law, as the patients have them before translation.
    draws
        The draws behind the plan.
    shape
        Constants of a curve in the fit.
    day
        When the tumours are compared.
    engraftment_bias
        What the growth of the plan's patients was weighted by; mice are the models that engrafted.
    """
    sets, law = drug_sets(plan), plan.law
    given = jnp.asarray([[drug in one for drug in plan.drugs] for one in sets])
    size, num_drugs, groups = draws.size, len(plan.drugs), len(plan.subgroups)
    prevalence = np.asarray(plan.prevalence, np.float64)
    # every group is a column of its own; the last holds its members in proportion
    member = np.searchsorted(np.cumsum(prevalence)[:-1], (np.arange(NUM_MODELS) + 0.5) / NUM_MODELS)
    columns = [np.full(NUM_MODELS, g) for g in range(groups)] + [member] if groups > 1 else [member]
    deviates = [jax.random.normal(k, (NUM_MODELS, n)) for k, n in zip(
        jax.random.split(key, 3), (1, num_drugs, len(sets)), strict=True)]  # fmt: skip
    # which model is in which group must not hang on its growth
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 3), NUM_MODELS))
    site = {name: jnp.asarray(draws.get(name), jnp.float32) for name in ("slowing", "mu_intercept")}
    mu_ln_growth = law.mu_ln_growth + engraftment_bias * law.omega_ln_growth**2
    lost = loss_of_arm(plan.mouse_loss[:, None, :], plan.mouse_effect[:, None, :], np.asarray(given), np)
    terms = (mu_ln_growth, law.omega_ln_growth, law.effect_mean, law.effect_sd, law.phi, law.gamma,
             law.omega_combination, jnp.asarray(lost, jnp.float32), site["slowing"], site["mu_intercept"],
             law.responder_share, law.responder_shift)  # fmt: skip
    deviates.append(jax.random.uniform(jax.random.fold_in(key, 4), (NUM_MODELS,)))
    found = _simulate(
        terms, tuple(deviates), jnp.asarray(np.stack(columns)[:, order]), given, jnp.float32(day), shape=shape
    )
    median, shrinks, models = (np.asarray(x, np.float64) for x in found)
    assert median.shape == (size, len(sets), len(columns))
    return Inhibition(sets, median, shrinks / NUM_MODELS, models)


@partial(jax.jit, static_argnames=("shape",))
def _simulate(terms, deviates, columns, given, day, *, shape):
    """Median, share regressing and first models; draws one after the other, so that memory stays bounded."""
    growth_z, effect_z, combination_z, responder_u = deviates
    level, t, waning = time_courses(day[None], shape)[0]
    fixed = fixed_course(day[None], shape)[0]

    def of_draw(each):
        number, term = each
        # other models in other draws, so that those kept are as good as all
        first = number * NUM_KEPT % NUM_MODELS
        mu, omega, mean, spread, phi, gamma, omega_combination, loss, slowing, start, share, shift = term
        growth = jnp.exp(mu + omega * growth_z[:, 0])
        drift = fixed + (level - 1.0) * start  # of a tumour of the usual size; 0 where growth is exponential
        control = jnp.expm1(drift + growth * (t - slowing * waning))

        def of_column(member):
            effect = mean.T[member] + spread[None, :] * effect_z
            if share is not None:
                effect = effect + jnp.where(responder_u < share, shift, 0.0)[:, None]

            def of_set(present, z, lost):
                joint = jax.vmap(combine, in_axes=(0, None, None, None))(effect, phi, gamma, present)
                joint += jnp.where(jnp.sum(present) > 1, omega_combination * z, 0.0)
                change = drift + growth * ((1.0 - joint) * t + (lost * joint - slowing) * waning)
                # of a model that does not grow untreated there is no growth to inhibit
                tgi = jnp.where(
                    control > 0.0, 1.0 - jnp.expm1(change) / jnp.where(control > 0.0, control, 1.0), jnp.nan
                )
                shrinks = jnp.sum(change < 0.0)
                return jnp.nanmedian(tgi), shrinks, jax.lax.dynamic_slice_in_dim(tgi, first, NUM_KEPT)

            return jax.vmap(of_set)(given, combination_z.T, loss)

        median, regressing, models = jax.vmap(of_column)(columns)
        return jnp.swapaxes(median, 0, 1), jnp.swapaxes(regressing, 0, 1), jnp.swapaxes(models, 0, 1)

    return jax.lax.map(of_draw, (jnp.arange(terms[0].shape[0]), terms))


def above_singles(values: np.ndarray, sets: Sequence[tuple[str, ...]]) -> np.ndarray:
    """P(a combination's value > that of each of its drugs alone) over the first axis; NaN for single drugs.

    Parameters
    ----------
    values
        [D, N, ...] of N sets; ties count as half.
    sets
        The sets.
    """
    share = np.full(values.shape[1:], np.nan)
    for n, drugs in enumerate(sets):
        if len(drugs) < 2:
            continue
        best = values[:, [sets.index((drug,)) for drug in drugs]].max(1)
        share[n] = np.mean(values[:, n] > best, axis=0) + 0.5 * np.mean(values[:, n] == best, axis=0)
    return share


def inhibition_rows(cohort: Cohort, plan: CohortPlan, found: Inhibition, day: float, marks: Sequence[str]):
    """Rows of `tgi.csv` of one cohort, a DataFrame with :data:`COLUMNS`.

    `kind` is `population` (the median of endlessly many PDX models, its spread that of the draws) or `predictive` (one
    new PDX model). `above_singles` is the probability that a combination does better than each of its drugs alone.
    """
    groups, rows = [*(plan.subgroups if cohort.subgroups else ()), "all"], []
    flat = np.moveaxis(found.models, -1, 1).reshape(-1, *found.median.shape[1:])
    tables = (
        ("tgi", "population", found.median),
        ("tgi", "predictive", flat),
        ("regression", "population", found.regressing),
    )
    for endpoint, kind, values in tables:
        above = above_singles(values, found.drugs)
        for n, drugs in enumerate(found.drugs):
            for column, group in enumerate(groups):
                sample = values[:, n, column]
                sample = sample[~np.isnan(sample)]
                numbers = np.quantile(sample, list(_QUANTILES.values())) if len(sample) else [np.nan] * len(_QUANTILES)
                rows.append(
                    {
                        "tumour_type": cohort.tumour_type,
                        "subgroup": group,
                        "drugs": " + ".join(drugs),
                        "endpoint": endpoint,
                        "kind": kind,
                        "day": day,
                        "mean": sample.mean() if kind == "population" and len(sample) else np.nan,
                        "sd": sample.std(ddof=1) if kind == "population" and len(sample) > 1 else np.nan,
                        **dict(zip(_QUANTILES, numbers, strict=True)),
                        "above_singles": above[n, column],
                        "source": "; ".join(marks),
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))
