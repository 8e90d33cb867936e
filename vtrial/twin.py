"""A synthetic twin of a panel: new PDX models under its single-agent arms, drawn from a fit's posterior predictive.

No number of the table goes into the twin but through the population parameters of one posterior draw; its models have
names of their own. It carries the shape of a panel that may not be passed on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from vtrial.dataset import Dataset
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws
from vtrial.predict import NUM_MEASUREMENTS, arms_of, log_volume, mouse_law
from vtrial.stopping import StoppingRule, stay


def synthetic_twin(
    key: jax.Array,
    draws: Draws,
    dataset: Dataset,
    stopping: StoppingRule,
    *,
    shape: CurveShape,
    min_models: int = 10,
) -> pd.DataFrame:
    """Canonical long table of synthetic mice: as many PDX models a tumour type and arm as the table has, a mouse each.

    Parameters
    ----------
    key
        Consumed.
    draws
        The first of these draws is the population that the twin is drawn from.
    dataset
        Gives the arms, and how many PDX models had each; combinations are left out.
    stopping
        When a mouse leaves.
    shape
        Constants of a curve in the fit.
    min_models
        Arms with fewer PDX models are left out.

    Returns
    -------
    DataFrame
        tumour_type, pdx_model, mouse, arm, day, volume_mm3 (0 where undetectable).

    Raises
    ------
    InputError
        The fit has covariates.
    """
    if draws.covariates:
        said = ", ".join(draws.covariates)
        raise InputError(f"a fit with covariates ({said}) has no twin: it would have to hold those of the PDX models")
    law = jax.tree.map(lambda x: x[0], mouse_law(draws))
    types, drug_types = draws.labels("tumour_type"), draws.labels("drug_type")
    arms = arms_of(dataset, min_models)
    arms = arms[[len(dataset.arms[arm]) < 2 for arm in arms["arm"]]]
    day = stopping.gap_days * jnp.arange(NUM_MEASUREMENTS, dtype=jnp.float32)
    frames, number = [], 0
    for tumour_type, group in arms.groupby("tumour_type", sort=True):
        kind = types.index(str(tumour_type))
        key, key_growth = jax.random.split(key)
        count = int(group["num_models"].max())
        z = jax.random.normal(key_growth, (count,), jnp.float32)
        growth = jnp.exp(law.ln_growth_type[kind] + law.omega_ln_growth[kind] * z)
        common = jnp.zeros(count, jnp.float32)  # what is added to the effect of every drug
        if law.responder_share is not None and law.responder_shift is not None:
            responds = jax.random.bernoulli(jax.random.fold_in(key_growth, 1), law.responder_share, (count,))
            common = jnp.where(responds, law.responder_shift, common)
        names = np.array([f"S-{number + i + 1:04d}" for i in range(count)])
        number += count
        for arm, size in zip(group["arm"], group["num_models"], strict=True):
            key, key_effect, key_mouse, key_stop = jax.random.split(key, 4)
            effect = loss = jnp.zeros(size, jnp.float32)
            for drug in dataset.arms[arm]:
                index = drug_types.index(f"{dataset.substance(drug)} | {tumour_type}")
                z = jax.random.normal(key_effect, (size,), jnp.float32)
                effect, loss = law.effect[index] + law.omega_effect[index] * z, law.loss_drug_type[index]
                if law.responder_share is not None:
                    effect = effect + common[:size]
                if (strength := draws.dose_strength(dataset.doses.get(drug))) is not None:
                    effect = effect * strength[0].astype(np.float32)
            ln_sigma = law.ln_sigma_arm[draws.labels("arm_type").index(f"{arm} | {tumour_type}")]
            measured = log_volume(key_mouse, law, growth[:size], effect, loss, ln_sigma, day, shape)
            kept = np.asarray(stay(key_stop, stopping, measured, day))
            volume = np.exp(np.asarray(measured, np.float64)).round(1)
            volume[volume <= dataset.detection_limit_mm3] = 0.0
            mouse, visit = np.nonzero(kept)
            frames.append(
                pd.DataFrame(
                    {
                        "tumour_type": tumour_type,
                        "pdx_model": names[mouse],
                        "mouse": [f"{names[m]}-{arm}" for m in mouse],
                        "arm": arm,
                        "day": np.asarray(day)[visit].round().astype(int),
                        "volume_mm3": volume[kept],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)
