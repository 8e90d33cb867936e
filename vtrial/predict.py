"""Mice that were never fitted: new PDX models under the arms of the table, with all noise, read out by mRECIST."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int

from vtrial.covariates import covariate_values
from vtrial.dataset import Dataset
from vtrial.growth_laws import fixed_course, reference_bend, time_courses
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws
from vtrial.responders import SITES
from vtrial.response import CR, MRECIST_PDXE, PR, MouseRule, mrecist_class, mrecist_curve
from vtrial.stopping import StoppingRule, stay
from vtrial.treatment import combine, joint_effect, loss_of_arm

#: measurements simulated at most: 252 days at four days each; 28 of the 4,048 mice of PDXE were followed longer
NUM_MEASUREMENTS = 64


class Cells(NamedTuple):
    """Arms of tumour types to predict: C cells, each with `num_models` new PDX models, at most R drugs an arm."""

    tumour_type: Int[Array, " C"]
    drug_type: Int[Array, "C R"]
    present: Bool[Array, "C R"]
    pair: Int[Array, "C R R"]
    num_models: Int[Array, " C"]
    arm_type: Int[Array, " C"]  # among the G arms of tumour types in the fit
    drug_class: Int[Array, "C R"] | None = None  # with covariates only
    covariates: Float[Array, "N Q"] | None = None  # of every member from their mean in the tumour type


class MouseLaw(NamedTuple):
    """One posterior draw of the population, as far as a new mouse needs it (leading axis D where several)."""

    ln_growth_type: Float[Array, " T"]
    omega_ln_growth: Float[Array, " T"]
    effect: Float[Array, " F"]
    omega_effect: Float[Array, " F"]
    mu_intercept: Float[Array, ""]
    omega_intercept: Float[Array, ""]
    omega_mouse: Float[Array, ""]
    omega_curvature: Float[Array, ""]
    curvature_correlation: Float[Array, ""]
    loss_drug_type: Float[Array, " F"]
    slowing: Float[Array, ""]
    ln_sigma_arm: Float[Array, " G"]  # of the arms of tumour types in the fit
    omega_ln_sigma: Float[Array, ""]
    phi: Float[Array, " Q"]
    gamma: Float[Array, " Q"]
    omega_combination: Float[Array, ""]
    strength: Float[Array, "C R"] | None = None  # of the doses of the drugs of each cell; None where all are 1
    covariate_effect: Float[Array, "K Q"] | None = None  # of classes; None without covariates
    responder_share: Float[Array, ""] | None = None  # of common responders; None where the fit has no such thing
    responder_shift: Float[Array, ""] | None = None


def mouse_law(draws: Draws) -> MouseLaw:
    """The law of new mice from a posterior, float32; the combination rule is zero where the fit had no combination.

    Drugs act as at their reference doses.
    """

    def pick(name: str) -> jax.Array:
        if name in of_rule and name not in draws:
            return jnp.zeros((draws.size, 1) if name in ("phi", "gamma") else (draws.size,), jnp.float32)
        return jnp.asarray(draws.get(name), jnp.float32)

    of_rule = ("phi", "gamma", "omega_combination")
    own = {"strength", "covariate_effect", *(name for name in SITES if name not in draws)}
    return MouseLaw(**{name: pick(name) for name in MouseLaw._fields if name not in own})


def residual_root(day: Float[Array, " T"], shape: CurveShape) -> Float[Array, "T T"]:
    """Lower factor of :func:`vtrial.curve_summary.residual_covariance`, on the device."""
    if shape.residual_days == 0.0:
        return jnp.eye(day.shape[0], dtype=day.dtype)
    apart, together = jnp.abs(day[:, None] - day[None, :]), day[:, None] + day[None, :]
    process = jnp.exp(-apart / shape.residual_days) - jnp.exp(-together / shape.residual_days)
    white = shape.residual_white
    return jnp.linalg.cholesky((1.0 - white) * process + white * jnp.eye(day.shape[0], dtype=day.dtype))


def log_volume(key: Array, law: MouseLaw, growth, effect, loss, ln_sigma, day, shape: CurveShape):
    """Measured ln volume of new mice, [N, T].

    Given the growth (1/day) and the effect of their PDX models, the fraction of the effect that is lost in the end, and
    the mean ln residual SD of their arm, [N] each.
    """
    key_mouse, key_scale, key_noise = jax.random.split(key, 3)
    z = jax.random.normal(key_mouse, (3, *growth.shape), jnp.float32)
    rho = law.curvature_correlation
    intercept = law.mu_intercept + law.omega_intercept * z[0]
    bend = law.omega_curvature * (rho * z[1] + jnp.sqrt(1.0 - rho**2) * z[2])
    rate = growth * (1.0 - effect + law.omega_mouse * z[1] - reference_bend(shape) * bend)
    curvature = growth * (loss * effect - law.slowing + bend)
    sigma = jnp.exp(ln_sigma + law.omega_ln_sigma * jax.random.normal(key_scale, growth.shape, jnp.float32))
    mean = jnp.stack([intercept, rate, curvature], axis=-1) @ time_courses(day, shape).T
    noise = jax.random.normal(key_noise, mean.shape, jnp.float32) @ residual_root(day, shape).T
    return fixed_course(day, shape)[None] + mean + sigma[:, None] * noise


def new_models(key: Array, law: MouseLaw, cells: Cells, member: Int[Array, " N"]):
    """Growth (1/day) and joint effect of new PDX models, [N] each; `member` is the cell of each."""
    key_growth, key_effect, key_cell = jax.random.split(key, 3)
    kind = cells.tumour_type[member]
    z = jax.random.normal(key_growth, member.shape, jnp.float32)
    growth = jnp.exp(law.ln_growth_type[kind] + law.omega_ln_growth[kind] * z)
    index, present, pair = cells.drug_type[member], cells.present[member], cells.pair[member]
    z = jax.random.normal(key_effect, index.shape, jnp.float32)
    single = law.effect[index] + law.omega_effect[index] * z
    if law.covariate_effect is not None and cells.covariates is not None and cells.drug_class is not None:
        by_class = law.covariate_effect[cells.drug_class[member]]
        single = single + jnp.sum(by_class * cells.covariates[:, None, :], axis=-1)
    if law.responder_share is not None and law.responder_shift is not None:
        responds = jax.random.bernoulli(jax.random.fold_in(key_effect, 1), law.responder_share, member.shape)
        single = single + jnp.where(responds, law.responder_shift, 0.0)[:, None]
    spread = jnp.where(jnp.sum(present, axis=-1) > 1, law.omega_combination, 0.0)
    deviation = spread * jax.random.normal(key_cell, member.shape, jnp.float32)
    if law.strength is not None:
        one = jnp.ones_like(single)
        rule = jax.vmap(joint_effect)
        return growth, rule(single, one, law.strength[member], one, law.phi[pair], law.gamma[pair], deviation, present)
    return growth, combine(single, law.phi[pair], law.gamma[pair], present) + deviation


@partial(jax.jit, static_argnames=("shape", "rule"))
def response_counts(
    key: Array,
    laws: MouseLaw,
    cells: Cells,
    member: Int[Array, " N"],
    stopping: StoppingRule,
    *,
    shape: CurveShape,
    rule: MouseRule = MRECIST_PDXE,
) -> Int[Array, "D C"]:
    """Responders (mRECIST CR or PR) among new PDX models, one new mouse each, per posterior draw and cell."""
    day = stopping.gap_days * jnp.arange(NUM_MEASUREMENTS, dtype=jnp.float32)

    def one_draw(each):
        key, law = each
        key_model, key_mouse, key_stop = jax.random.split(key, 3)
        growth, effect = new_models(key_model, law, cells, member)
        ln_sigma = law.ln_sigma_arm[cells.arm_type[member]]
        alone = law.effect[cells.drug_type] if law.strength is None else law.effect[cells.drug_type] * law.strength
        loss = loss_of_arm(law.loss_drug_type[cells.drug_type], alone, cells.present)[member]
        measured = log_volume(key_mouse, law, growth, effect, loss, ln_sigma, day, shape)
        valid = stay(key_stop, stopping, measured, day)
        best, average = jax.vmap(partial(mrecist_curve, rule=rule), in_axes=(0, None, 0))(jnp.exp(measured), day, valid)
        code = mrecist_class(best, average)
        responds = ((code == CR) | (code == PR)).astype(jnp.int32)
        return jnp.zeros(cells.num_models.shape[0], jnp.int32).at[member].add(responds)

    keys = jax.random.split(key, laws.slowing.shape[0])
    return jax.lax.map(one_draw, (keys, laws))


def mid_interval(count: np.ndarray, number: int, level: float = 0.9) -> tuple[float, float]:
    """Central interval of a fraction ``count / number`` from draws of the count, by the mid-distribution function.

    Quantiles of a discrete variable cover more than they say, the more so the rarer the event: a 90 % interval of a
    rate near 0 would hold 97 % of what is observed. The mid-distribution ``F(k) - P(k) / 2``, interpolated, splits each
    atom evenly (Ma, Genton and Parzen 2011, Ann Inst Stat Math 63:227), so that coverage is nominal on average.
    """
    share = np.bincount(np.asarray(count).ravel(), minlength=number + 1) / np.size(count)
    held = np.flatnonzero(share)
    middle = np.cumsum(share)[held] - 0.5 * share[held]
    low, high = np.interp([0.5 - 0.5 * level, 0.5 + 0.5 * level], middle, held / number)
    return float(low), float(high)


def arms_of(dataset: Dataset, min_models: int) -> pd.DataFrame:
    """Arms of each tumour type with at least `min_models` PDX models: tumour_type, arm, num_models; sorted."""
    used = dataset.used
    count = used.groupby(["tumour_type", "arm"])["pdx_model"].nunique()
    return count[count >= min_models].rename("num_models").reset_index()


def cells_of_arms(arms: pd.DataFrame, dataset: Dataset, draws: Draws, drug_class: Mapping[str, str]) -> Cells:
    """Indices into the posterior of the arms of a table with columns tumour_type, arm, num_models."""
    width = max([2, *(len(dataset.arms[arm]) for arm in arms["arm"])])
    types, drug_types, pairs = draws.labels("tumour_type"), draws.labels("drug_type"), draws.labels("class_pair")
    index = np.zeros((len(arms), width), np.int32)
    present = np.zeros((len(arms), width), bool)
    pair = np.zeros((len(arms), width, width), np.int32)
    for c, (tumour_type, arm) in enumerate(zip(arms["tumour_type"], arms["arm"], strict=True)):
        drugs = [dataset.substance(drug) for drug in dataset.arms[arm]]
        for i, drug in enumerate(drugs):
            index[c, i], present[c, i] = drug_types.index(f"{drug} | {tumour_type}"), True
            for j, other in enumerate(drugs):
                if i != j:
                    pair[c, i, j] = pairs.index(" x ".join(sorted((drug_class[drug], drug_class[other]))))
    kind = np.array([types.index(t) for t in arms["tumour_type"]], np.int32)
    groups = draws.labels("arm_type")
    arm_type = [groups.index(f"{arm} | {t}") for arm, t in zip(arms["arm"], arms["tumour_type"], strict=True)]
    parts = (kind, index, present, pair, arms["num_models"].to_numpy(np.int32), np.array(arm_type, np.int32))
    return Cells(*(jnp.asarray(part) for part in parts))


def with_covariates(
    law: MouseLaw, cells: Cells, arms: pd.DataFrame, dataset: Dataset, draws: Draws, drug_class: Mapping[str, str]
) -> tuple[MouseLaw, Cells]:
    """Law and cells of new PDX models that have, one by one, the covariates of the table's models under the arm."""
    classes = draws.labels("drug_class")
    index = np.zeros(cells.present.shape, np.int32)
    values = covariate_values(dataset.table, draws.covariates)
    used = dataset.used.drop_duplicates(["tumour_type", "arm", "pdx_model"])
    models = used.groupby(["tumour_type", "arm"])["pdx_model"]
    members = []
    for c, (tumour_type, arm) in enumerate(zip(arms["tumour_type"], arms["arm"], strict=True)):
        own = values.loc[models.get_group((tumour_type, arm))].to_numpy()
        members.append(own - draws.covariate_mean(tumour_type))
        for i, drug in enumerate(dataset.arms[arm]):
            index[c, i] = classes.index(drug_class[dataset.substance(drug)])
    shape = (draws.size, len(classes), len(draws.covariates))
    effect = jnp.asarray(draws.get("covariate_effect").reshape(shape), jnp.float32)
    members = jnp.asarray(np.concatenate(members), jnp.float32)
    return law._replace(covariate_effect=effect), cells._replace(drug_class=jnp.asarray(index), covariates=members)


def strengths(arms: pd.DataFrame, dataset: Dataset, draws: Draws, width: int) -> np.ndarray | None:
    """Strength of the doses of every drug of the arms, [D, C, R]; None where every drug has one dose."""
    if draws.dose_response is None:
        return None
    found = np.ones((draws.size, len(arms), width))
    for c, arm in enumerate(arms["arm"]):
        for i, drug in enumerate(dataset.arms[arm]):
            own = draws.dose_strength(dataset.doses.get(drug))
            found[:, c, i] = 1.0 if own is None else own
    return found


def observed_response(dataset: Dataset, rule: MouseRule = MRECIST_PDXE) -> pd.DataFrame:
    """MRECIST of every mouse of the table from its own curve: tumour_type, arm, pdx_model, responds."""
    used = dataset.used.sort_values(["mouse_key", "day"], kind="stable")
    order = used.groupby("mouse_key", sort=False).cumcount().to_numpy()
    mice = used.drop_duplicates("mouse_key")
    row = pd.factorize(used["mouse_key"])[0]
    volume = np.zeros((len(mice), order.max() + 1), np.float32)
    day, valid = np.zeros_like(volume), np.zeros(volume.shape, bool)
    volume[row, order], day[row, order], valid[row, order] = used["volume_mm3"], used["day"], True
    best, average = jax.jit(jax.vmap(partial(mrecist_curve, rule=rule)))(volume, day, valid)
    code = np.asarray(mrecist_class(best, average))
    table = mice[["tumour_type", "arm", "pdx_model"]].reset_index(drop=True)
    table["responds"] = (code == CR) | (code == PR)
    return table


def predict_arms(
    key: Array,
    draws: Draws,
    dataset: Dataset,
    drug_class: Mapping[str, str],
    stopping: StoppingRule,
    *,
    min_models: int,
    shape: CurveShape,
) -> pd.DataFrame:
    """`mouse_response.csv`: response fraction of every arm among as many **new** PDX models, one new mouse each.

    Returns
    -------
    DataFrame
        tumour_type, arm, num_models, observed, mean, q05, q95; the last two bound the central 90 % predictive interval.
    """
    arms = arms_of(dataset, min_models)
    if arms.empty:
        return arms.assign(observed=[], mean=[], q05=[], q95=[])
    observed = observed_response(dataset).groupby(["tumour_type", "arm"])["responds"].mean().rename("observed")
    arms = arms.join(observed, on=["tumour_type", "arm"])
    cells = cells_of_arms(arms, dataset, draws, drug_class)
    number = arms["num_models"].to_numpy()
    member = jnp.asarray(np.repeat(np.arange(len(arms)), number))
    law, scale = mouse_law(draws), strengths(arms, dataset, draws, cells.present.shape[1])
    if scale is not None:
        law = law._replace(strength=jnp.asarray(scale, jnp.float32))
    if draws.covariates:
        law, cells = with_covariates(law, cells, arms, dataset, draws, drug_class)
    counts = response_counts(key, law, cells, member, stopping, shape=shape)
    counts = np.asarray(counts)
    arms["mean"] = (counts / number).mean(0)
    bounds = [mid_interval(counts[:, c], int(n)) for c, n in enumerate(number)]
    arms["q05"], arms["q95"] = np.array(bounds).T
    return arms
