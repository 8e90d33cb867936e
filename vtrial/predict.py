"""Mice that were never fitted: new PDX models under the arms of the table, replicated with all noise, read out by mRECIST."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from vtrial.growth import basis
from vtrial.response import CR, MRECIST_PDXE, PR, MouseRule, mrecist_class, mrecist_curve
from vtrial.stopping import StoppingRule, stay
from vtrial.treatment import combine

#: measurements simulated at most; the fitted hazard ends nearly every curve before that
NUM_MEASUREMENTS = 64


class Cells(NamedTuple):
    """Arms of tumour types to predict: C cells, each with `num_models` new PDX models, at most R drugs an arm."""

    tumour_type: Int[Array, " C"]
    drug_type: Int[Array, "C R"]
    present: np.ndarray  # [C, R] bool
    pair: Int[Array, "C R R"]
    num_models: Int[Array, " C"]


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
    loss: Float[Array, ""]
    slowing: Float[Array, ""]
    mu_ln_sigma: Float[Array, ""]
    omega_ln_sigma: Float[Array, ""]
    phi: Float[Array, " Q"]
    gamma: Float[Array, " Q"]
    omega_combination: Float[Array, ""]


def mouse_law(posterior: Mapping[str, np.ndarray], draws: np.ndarray) -> MouseLaw:
    """Chosen draws of a posterior (arrays [chain, draw, ...]) in float32; combinations absent from the fit are zero."""

    def pick(name):
        if name not in posterior:
            return jnp.zeros((len(draws), 1) if name in ("phi", "gamma") else (len(draws),), jnp.float32)
        values = np.asarray(posterior[name])
        return jnp.asarray(values.reshape(-1, *values.shape[2:])[draws], jnp.float32)

    return MouseLaw(*(pick(name) for name in MouseLaw._fields))


def log_volume(key: Array, law: MouseLaw, growth, effect, day, loss_rate: float):
    """Measured ln volume of new mice, [N, T], given the growth (1/day) and the effect of their PDX models, [N]."""
    key_mouse, key_scale, key_noise = jax.random.split(key, 3)
    z = jax.random.normal(key_mouse, (3, *growth.shape), jnp.float32)
    rho = law.curvature_correlation
    intercept = law.mu_intercept + law.omega_intercept * z[0]
    rate = growth * (1.0 - effect + law.omega_mouse * z[1])
    bend = law.omega_curvature * (rho * z[1] + jnp.sqrt(1.0 - rho**2) * z[2])
    curvature = growth * (law.loss * effect - law.slowing + bend)
    sigma = jnp.exp(law.mu_ln_sigma + law.omega_ln_sigma * jax.random.normal(key_scale, growth.shape, jnp.float32))
    mean = jnp.stack([intercept, rate, curvature], axis=-1) @ basis(day, loss_rate).T
    return mean + sigma[:, None] * jax.random.normal(key_noise, mean.shape, jnp.float32)


def new_models(key: Array, law: MouseLaw, cells: Cells, member: Int[Array, " N"]):
    """Growth (1/day) and joint effect of new PDX models, [N] each; `member` is the cell of each."""
    key_growth, key_effect, key_cell = jax.random.split(key, 3)
    kind = cells.tumour_type[member]
    z = jax.random.normal(key_growth, member.shape, jnp.float32)
    growth = jnp.exp(law.ln_growth_type[kind] + law.omega_ln_growth[kind] * z)
    index, present, pair = cells.drug_type[member], cells.present[member], cells.pair[member]
    z = jax.random.normal(key_effect, index.shape, jnp.float32)
    single = law.effect[index] + law.omega_effect[index] * z
    spread = jnp.where(jnp.sum(present, axis=-1) > 1, law.omega_combination, 0.0)
    joint = combine(single, law.phi[pair], law.gamma[pair], present)
    # a lone drug is its own leader, up to the rounding of the softplus that only other drugs pass through
    return growth, joint + spread * jax.random.normal(key_cell, member.shape, jnp.float32)


@partial(jax.jit, static_argnames=("loss_rate", "rule"))
def response_counts(
    key: Array,
    laws: MouseLaw,
    cells: Cells,
    member: Int[Array, " N"],
    stopping: StoppingRule,
    *,
    loss_rate: float,
    rule: MouseRule = MRECIST_PDXE,
) -> Int[Array, "D C"]:
    """Responders (mRECIST CR or PR) among new PDX models, one new mouse each, per posterior draw and cell."""
    day = stopping.gap_days * jnp.arange(NUM_MEASUREMENTS, dtype=jnp.float32)

    def one_draw(each):
        key, law = each
        key_model, key_mouse, key_stop = jax.random.split(key, 3)
        growth, effect = new_models(key_model, law, cells, member)
        measured = log_volume(key_mouse, law, growth, effect, day, loss_rate)
        valid = stay(key_stop, stopping, measured, day)
        best, average = jax.vmap(partial(mrecist_curve, rule=rule), in_axes=(0, None, 0))(jnp.exp(measured), day, valid)
        code = mrecist_class(best, average)
        responds = ((code == CR) | (code == PR)).astype(jnp.int32)
        return jnp.zeros(cells.num_models.shape[0], jnp.int32).at[member].add(responds)

    keys = jax.random.split(key, laws.loss.shape[0])
    return jax.lax.map(one_draw, (keys, laws))


def response_table(fractions: np.ndarray, labels: pd.DataFrame) -> pd.DataFrame:
    """`mouse_response.csv`: mean and central 90 % predictive interval of the response fraction, [D, C] -> C rows."""
    table = labels.copy()
    table["mean"] = fractions.mean(0)
    table["q05"], table["q95"] = np.quantile(fractions, [0.05, 0.95], axis=0)
    return table
