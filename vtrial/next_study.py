"""What the next mouse study would teach: how far the interval of an arm's response rate shrinks, before it is run.

Preposterior analysis by regression on the draws of the run, without refitting (Strong M et al. Med Decis Making
2015;35:570-583). For every draw one study of M new PDX models, n mice in each arm (control, every drug alone, all
together), is simulated under that draw and summarised; the logit of the response rate is regressed on the summary; and
the draws whose studies predict about the same are what would be believed after such a result. What a study cannot teach
- how mice carry over to patients - stays as wide as it is.

The datum of a cell is the mean rate of ln volume over the reference days T = 28,

    y_ma = g_m [1 - b slowing - rho_ma (1 - b loss_a)] + noise,   b = q(T) / T,
    var(noise) = (omega_mouse^2 g_m^2 + sigma^2 / S_tt) / n

with all symbols those of the fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import special

from vtrial.errors import InputError
from vtrial.experiment import load_resolved
from vtrial.growth_laws import REFERENCE_DAYS, reference_bend, time_courses
from vtrial.inputs import marks, read_inputs
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws, shape_of
from vtrial.responders import SITES
from vtrial.store import ORR_DRAWS, RunFolder
from vtrial.translation import CohortPlan, plan_cohort
from vtrial.treatment import combine, loss_of_arm

#: a study measures each mouse twice a week
MEASUREMENT_DAYS = np.arange(0.0, REFERENCE_DAYS + 0.1, 3.5)
#: PDX models of the study without noise that stands for mice known exactly
ALL_MODELS = 1000
#: share of the draws that count as having the same result, and the fewest of them
NEIGHBOURS, FEWEST_NEIGHBOURS = 0.05, 60


class MouseLaw(NamedTuple):
    """What the draws of a run say of new PDX models of one tumour type; D draws, R drugs, B subgroups.

    Attributes
    ----------
    mu_ln_growth, omega_ln_growth : ndarray [D]
        Of ln growth (1/day) over PDX models.
    effect_mean : ndarray [D, R, B]
    effect_sd : ndarray [D, R]
    phi, gamma : ndarray [D, R, R]
    omega_combination : ndarray [D]
    omega_mouse : ndarray [D]
        SD of a mouse's mean rate over the reference days, relative to growth.
    retained : ndarray [D]
        ``1 - b slowing``: what is left of growth on average over the reference days.
    waned : ndarray [D, R + 1]
        ``1 - b loss``: what is left of the effect of each drug, and of that of all together.
    sigma : ndarray [D]
        Root mean square residual SD of ln volume.
    prevalence : ndarray [B]
    responder_share, responder_shift : ndarray [D] or None
        Of common responders, where the fit has such.
    """

    mu_ln_growth: np.ndarray
    omega_ln_growth: np.ndarray
    effect_mean: np.ndarray
    effect_sd: np.ndarray
    phi: np.ndarray
    gamma: np.ndarray
    omega_combination: np.ndarray
    omega_mouse: np.ndarray
    retained: np.ndarray
    waned: np.ndarray
    sigma: np.ndarray
    prevalence: np.ndarray
    responder_share: np.ndarray | None = None
    responder_shift: np.ndarray | None = None


def residual_sd(draws: Draws, tumour_type: str) -> np.ndarray:
    """Root mean square residual SD of ln volume over new mice of new arms, [D]."""
    types = draws.labels("tumour_type")
    if tumour_type in types:
        mean, variance = draws.get("ln_sigma_type")[:, types.index(tumour_type)], 0.0
    else:
        mean, variance = draws.get("mu_ln_sigma"), draws.get("omega_ln_sigma_type") ** 2
    return np.exp(mean + variance + draws.get("omega_ln_sigma_arm") ** 2 + draws.get("omega_ln_sigma") ** 2)


def mouse_law(plan: CohortPlan, draws: Draws, tumour_type: str, shape: CurveShape) -> MouseLaw:
    """What mice inform of the patients' law of a plan, with the noise of mice from the same draws of the fit."""
    law = plan.law
    bend = reference_bend(shape)
    together = loss_of_arm(plan.mouse_loss, plan.mouse_effect, True, np)
    # a rate is seen through its time course: under a law that slows, through less than the days that pass
    seen_days = float(time_courses(np.float64(REFERENCE_DAYS), shape)[1])
    names = ("mu_ln_growth", "omega_ln_growth", "effect_mean", "effect_sd", "phi", "gamma", "omega_combination")
    return MouseLaw(
        **{name: np.asarray(getattr(law, name), float) for name in names},
        omega_mouse=draws.get("omega_mouse"),
        retained=1.0 - bend * draws.get("slowing"),
        waned=1.0 - bend * np.column_stack([plan.mouse_loss, together]),
        sigma=residual_sd(draws, tumour_type) * (REFERENCE_DAYS / seen_days),
        prevalence=np.asarray(plan.prevalence, float),
        **{name: np.asarray(getattr(law, name), float) for name in SITES if getattr(law, name) is not None},
    )


class Normals(NamedTuple):
    """Standard normals of L PDX models; `subgroup_u` and `responder_u` are uniform."""

    growth: np.ndarray  # [L]
    effect: np.ndarray  # [L, R]
    combination: np.ndarray  # [L]
    subgroup_u: np.ndarray  # [L]
    responder_u: np.ndarray | None = None  # [L]


def draw_normals(rng: np.random.Generator, size: int, num_drugs: int, responders: bool = False) -> Normals:
    """Fresh ones for `size` models."""
    return Normals(
        rng.standard_normal(size),
        rng.standard_normal((size, num_drugs)),
        rng.standard_normal(size),
        rng.random(size),
        rng.random(size) if responders else None,
    )


@jax.jit
def _joint(effect: jax.Array, phi: jax.Array, gamma: jax.Array) -> jax.Array:
    """The combination rule for L models of D draws, [D, L], all drugs given."""
    one = jax.vmap(combine, in_axes=(0, None, None, None))
    present = jnp.ones(effect.shape[-1], bool)
    return jax.vmap(one, in_axes=(0, 0, 0, None))(effect, phi, gamma, present)


def cell_rates(law: MouseLaw, normals: Normals) -> tuple[np.ndarray, np.ndarray]:
    """Mean rates (1/day) of every cell [D, L, K] and growth [D, L] of L new PDX models under every draw.

    The K arms are control, each drug alone, and all drugs together where there is more than one.
    """
    growth = np.exp(law.mu_ln_growth[:, None] + law.omega_ln_growth[:, None] * normals.growth)
    subgroup = np.searchsorted(np.cumsum(law.prevalence)[:-1], normals.subgroup_u, side="right")
    mean = np.swapaxes(law.effect_mean[:, :, subgroup], 1, 2)
    effect = mean + law.effect_sd[:, None, :] * normals.effect
    if law.responder_share is not None and law.responder_shift is not None and normals.responder_u is not None:
        responds = normals.responder_u < law.responder_share[:, None]
        effect = effect + (law.responder_shift[:, None] * responds)[:, :, None]
    arms = [np.zeros_like(growth), *np.moveaxis(effect, -1, 0)]
    if effect.shape[-1] > 1:
        joint = np.asarray(_joint(*(jnp.asarray(x, jnp.float32) for x in (effect, law.phi, law.gamma))), float)
        arms.append(joint + law.omega_combination[:, None] * normals.combination)
    waned = [np.zeros(len(growth)), *law.waned.T]
    rates = [growth * (law.retained[:, None] - left[:, None] * rho) for left, rho in zip(waned, arms, strict=False)]
    return np.stack(rates, axis=-1), growth


def noise_variance(law: MouseLaw, growth: np.ndarray, days: np.ndarray = MEASUREMENT_DAYS) -> np.ndarray:
    """Variance (1/day^2) of the mean rate of one mouse about that of its cell, [D, L]."""
    centred = np.asarray(days, float) - np.mean(days)
    return (law.omega_mouse[:, None] * growth) ** 2 + (law.sigma[:, None] ** 2) / float(centred @ centred)


def study_summary(
    rng: np.random.Generator, law: MouseLaw, num_models: int, num_mice: int | None, days: np.ndarray = MEASUREMENT_DAYS
) -> np.ndarray:
    """Summaries [D, F] of one study under every draw: rate of the controls, fractions removed, their spread.

    Fractions are those of the mean rates, their spread over PDX models the log-SD of the cells' rates; with squares and
    products of the fractions. `num_mice` None is a study without noise.
    """
    normals = draw_normals(rng, num_models, law.effect_sd.shape[1], law.responder_share is not None)
    cells, growth = cell_rates(law, normals)
    if num_mice is not None:
        scale = np.sqrt(noise_variance(law, growth, days) / num_mice)
        cells = cells + scale[:, :, None] * rng.standard_normal(cells.shape)
    mean = cells.mean(axis=1)
    control = np.maximum(mean[:, :1], 1e-3)  # 1/day; controls that do not grow tell of nothing removed
    removed = 1.0 - mean[:, 1:] / control
    columns = [np.log(control), removed]
    if num_models > 1:
        columns.append(np.log(cells.std(axis=1, ddof=1) / control))
    first, second = np.triu_indices(removed.shape[1])
    return np.concatenate([*columns, removed[:, first] * removed[:, second]], axis=1)


def predicted(target: np.ndarray, summary: np.ndarray) -> np.ndarray:
    """What the summaries [D, F] predict of the target [D], each half of the draws by a regression on the other half."""
    scaled = (summary - summary.mean(axis=0)) / summary.std(axis=0)
    design = np.column_stack([np.ones(len(target)), scaled])
    found = np.empty(len(target))
    halves = np.arange(len(target)) % 2 == 0
    for half in (halves, ~halves):
        coefficient, *_ = np.linalg.lstsq(design[~half], target[~half], rcond=None)
        found[half] = design[half] @ coefficient
    return found


def widths_after(rate: np.ndarray, summary: np.ndarray, num_patients: int) -> np.ndarray:
    """Width of the 90 % interval of a rate [D] after the study of each draw, [D].

    The draws nearest in what their studies predict, each moved by the difference of the predictions on the logit.
    """
    half = 0.5 / num_patients
    logit = special.logit(np.clip(rate, half, 1.0 - half))
    mean = predicted(logit, summary)
    order = np.argsort(mean)
    count = min(len(rate), max(FEWEST_NEIGHBOURS, round(NEIGHBOURS * len(rate))))
    first = np.clip(np.arange(len(rate)) - count // 2, 0, len(rate) - count)
    near = order[first[:, None] + np.arange(count)]
    moved = special.expit(logit[near] + mean[order][:, None] - mean[near])
    low, high = np.quantile(moved, [0.05, 0.95], axis=1)
    widths = np.empty(len(rate))
    widths[order] = high - low
    return widths


def preposterior(
    rng: np.random.Generator,
    law: MouseLaw,
    rate: np.ndarray,
    num_patients: int,
    num_models: Sequence[int],
    num_mice: Sequence[int],
    repeats: int = 8,
) -> pd.DataFrame:
    """Expected width of the 90 % interval of a response rate after studies of every size.

    Parameters
    ----------
    rng
        Consumed.
    law
        The draws of the run, D.
    rate
        Response rate [D] that the same draws have.
    num_patients
        Virtual patients behind it.
    num_models, num_mice
        PDX models of a study, and mice in each of its cells.
    repeats
        Studies simulated under each draw.

    Returns
    -------
    DataFrame
        models, mice, mice_total, width (mean over the possible results), share of the width now, and share_error, its
        standard error over repeats. The first row, of 0 models, is what is believed now; the last, without a number of
        models, is mice known exactly: no study of mice can do better.
    """
    low, high = np.quantile(rate, [0.05, 0.95])
    now = float(high - low)
    sizes: list[tuple[int | None, int | None]] = [(m, n) for n in num_mice for m in num_models]
    rows = [{"models": 0, "mice": 0, "mice_total": 0, "width": now, "share": 1.0, "share_error": 0.0}]
    num_arms = law.effect_sd.shape[1] + 1 + (law.effect_sd.shape[1] > 1)
    for models, mice in [*sizes, (None, None)]:
        found = [
            widths_after(rate, study_summary(rng, law, models or ALL_MODELS, mice), num_patients).mean()
            for _ in range(repeats if models else 1)
        ]
        error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
        rows.append(
            {
                "models": models,
                "mice": mice,
                "mice_total": models * mice * num_arms if models and mice else None,
                "width": float(np.mean(found)),
                "share": float(np.mean(found)) / now if now > 0 else None,
                "share_error": error / now if error is not None and now > 0 else None,
            }
        )
    return pd.DataFrame(rows).astype({name: "Int64" for name in ("models", "mice", "mice_total")})


def next_study(
    run_dir: Path,
    *,
    arm: str | None,
    subgroup: str,
    num_models: Sequence[int],
    num_mice: Sequence[int],
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """What mouse studies of every size would teach of the response rate of one arm of a run; writes nothing.

    `arm` None is the first with the most drugs. Returns a JSON-able mapping.

    Raises
    ------
    InputError
        Where the run has no draws of its rates, or not that arm or subgroup, or a size is below 1.
    """
    for key, sizes in (("--models", num_models), ("--mice", num_mice), ("--repeats", [repeats])):
        if not sizes or min(sizes) < 1 or max(sizes) > 10_000:
            raise InputError(f"must be numbers from 1 to 10,000, found {list(sizes)}", key=key)
    folder = RunFolder(run_dir)
    manifest = folder.manifest()
    if not folder.exists(ORR_DRAWS):
        raise InputError(f"holds no {ORR_DRAWS}; give `vtrial run` again, which goes on from its fit", file=folder.path)
    inputs = read_inputs(load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False))))
    if manifest.get("keys", {}).get("run") != inputs.run_key:
        message = "the table, the priors or the settings have changed since; give `vtrial run` on the experiment again"
        raise InputError(message, file=folder.path)
    config = inputs.experiment.trial
    arms = [(i, one) for i, cohort in enumerate(config.cohorts) for one in cohort.arms]
    if not arms:
        raise InputError("has no arms; its experiment has no cohorts", file=folder.path)
    if arm is None:
        arm = max(arms, key=lambda pair: len(pair[1].drugs))[1].name
    chosen = next((pair for pair in arms if pair[1].name == arm), None)
    if chosen is None:
        names = ", ".join(repr(one.name) for _, one in arms)
        raise InputError(f"must be one of {names}, found {arm!r}", key="--arm")
    place, cohort = chosen[0], config.cohorts[chosen[0]]
    with folder.open_posterior() as tree, folder.open_posterior(ORR_DRAWS) as rates:
        data = rates[f"cohort_{place + 1}"].to_dataset()
        known = [str(name) for name in data["subgroup"].to_numpy()]
        if subgroup not in known:
            raise InputError(f"must be one of {', '.join(known)}, found {subgroup!r}", key="--subgroup")
        draws = Draws(tree, index=data["draw"].to_numpy())
        # the arm alone: its own drugs, in the draws that the trial had, from the key that it had
        alone = cohort.model_copy(update={"arms": (chosen[1],)})
        key, _ = jax.random.split(jax.random.key(config.seed))
        plan = plan_cohort(
            *(key, alone, config.visits, draws, inputs.priors, inputs.experiment.data.aliases),
            engraftment_bias=config.engraftment_bias,
        )
        law = mouse_law(plan, draws, cohort.tumour_type, shape_of(tree))
        rate = data["rate"].isel(endpoint=0).sel(arm=arm, subgroup=subgroup).to_numpy().astype(float)
        patients = int(data["num_patients"].sel(subgroup=subgroup))
    table = preposterior(np.random.default_rng(seed), law, rate, patients, num_models, num_mice, repeats)
    return {
        "marks": marks(inputs.experiment, manifest),
        "tumour_type": cohort.tumour_type,
        "arm": arm,
        "subgroup": subgroup,
        "drugs": list(plan.drugs),
        "draws": len(rate),
        "studies": json.loads(table.to_json(orient="records", double_precision=15)),
    }
