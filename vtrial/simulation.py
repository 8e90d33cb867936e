"""The stages after the fit: new mice read out by mRECIST, and the virtual trial, from a posterior on disk to tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from vtrial.base import Counts
from vtrial.checkpoint import Checkpoint, held_back
from vtrial.devices import Kind, device_for, devices_for
from vtrial.inputs import Inputs, marks
from vtrial.posterior import Draws, shape_of
from vtrial.predict import predict_arms
from vtrial.progress import Progress
from vtrial.rates import COLUMNS, orr_draws, orr_rows, response_rates, superiority
from vtrial.response import RECIST_1_1, Response
from vtrial.stopping import StoppingRule
from vtrial.store import POSTERIOR, RunFolder
from vtrial.translation import PriorSampler, plan_cohort
from vtrial.trial import simulate as simulate_trial
from vtrial.trial import trajectories


def mice_stage(inputs: Inputs, folder: RunFolder, device: Kind, progress: Progress) -> float:
    """Write `mouse_response.csv`; returns seconds."""
    begun = time.perf_counter()
    config = inputs.experiment.mice
    progress("mice", 0, 1)
    with folder.open_posterior() as tree, jax.default_device(device_for(device)):
        draws = Draws(tree, config.replicates)
        rule = stopping_rule(tree)
        table = predict_arms(
            jax.random.key(config.seed),
            draws,
            inputs.dataset,
            inputs.drug_class,
            rule,
            min_models=config.min_models,
            shape=shape_of(tree),
        )
    # a trailing column, empty where there is nothing to warn of, so that the table never travels without its caveat
    table["note"] = "; ".join(marks(inputs.experiment, folder.manifest()))
    folder.write_csv("mouse_response.csv", table)
    return round(time.perf_counter() - begun, 2)


def stopping_rule(tree: Any) -> StoppingRule:
    """The frozen stopping rule that a posterior carries."""
    coefficient = jnp.asarray(tree["constant_data"]["stopping_coefficient"].to_numpy(), "float32")
    return StoppingRule(coefficient, float(tree.attrs["stopping_gap_days"]))


class TrialResult(NamedTuple):
    """What the trial stage gives back."""

    orr: pd.DataFrame
    draws: xr.DataTree
    superiority: pd.DataFrame
    waterfall: pd.DataFrame
    spider: pd.DataFrame
    origins: dict[str, str]
    seconds: float
    patients: int


def trial_stage(
    inputs: Inputs, folder: RunFolder, device: Kind, progress: Progress, *, keep: bool = False
) -> TrialResult:
    """Simulate every cohort and return the tables; writes nothing but, with `keep`, a checkpoint of its counts."""
    experiment, config = inputs.experiment, inputs.experiment.trial
    begun, simulated = time.perf_counter(), 0
    warnings = marks(experiment, folder.manifest())
    orr, rate_draws, better, waterfall, spider, origins = [], {}, [], [], [], {}
    key_prior, key_patients = jax.random.split(jax.random.key(config.seed))
    checkpoint = _checkpoint(inputs, folder, device) if keep else None
    with folder.open_posterior() as tree, jax.default_device(device_for(device)):
        draws = Draws(tree, config.draws)
        sampler = PriorSampler(key_prior, inputs.priors, draws.size)
        between_trials = sampler.entry("translation.between_trials")
        for index, cohort in enumerate(config.cohorts):
            plan = plan_cohort(key_prior, cohort, config.visits, draws, inputs.priors, experiment.data.aliases)
            parts, step, total = [], max(draws.size // 10, 1), draws.size
            for first in range(0, total, step):
                piece = slice(first, min(first + step, total))

                def count(plan=plan, piece=piece):
                    return simulate_trial(
                        key_patients,
                        jax.tree.map(lambda x: x[piece], plan.law),
                        plan.exposure[piece],
                        plan.schedule,
                        plan.regimens,
                        plan.prevalence,
                        RECIST_1_1,
                        num_patients=config.patients,
                        first_draw=piece.start,
                        devices=devices_for(device),
                    )

                parts.append(_stored_counts(checkpoint, f"cohort-{index}-draws-{first:08d}-{piece.stop:08d}", count))
                progress(f"trial, {cohort.label or cohort.tumour_type}", piece.stop, total)
            counts = jax.tree.map(lambda *x: np.concatenate(x), *parts)
            simulated += total * config.patients * plan.exposure.shape[1]
            rates = response_rates(plan, counts, config.confirmation)
            orr.append(
                orr_rows(cohort, plan, rates, config.seed + 1000 * index, config.patients, between_trials, warnings)
            )
            rate_draws[f"cohort_{index + 1}"] = orr_draws(
                cohort, plan, rates, config.patients, between_trials, draws.index
            )
            better.append(superiority(cohort, plan, rates))
            origins.update({f"{drug}, {cohort.tumour_type}": word for drug, word in plan.origin.items()})
            shown = min(inputs.experiment.report.patients_shown, draws.size)
            course = trajectories(
                key_patients,
                jax.tree.map(lambda x, n=shown: x[:n], plan.law),
                plan.exposure[:shown],
                plan.schedule,
                plan.regimens,
                plan.prevalence,
                RECIST_1_1,
            )
            waterfall.append(_waterfall(plan, course))
            spider.append(_spider(plan, course))

    def joined(frames: list[pd.DataFrame], columns: Sequence[str] = ()) -> pd.DataFrame:
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))

    return TrialResult(
        orr=joined(orr, COLUMNS),
        draws=xr.DataTree.from_dict({"/": xr.Dataset(attrs={"marks": "; ".join(warnings)}), **rate_draws}),
        superiority=joined(better),
        waterfall=joined(waterfall),
        spider=joined(spider),
        origins=origins,
        seconds=round(time.perf_counter() - begun, 2),
        patients=simulated,
    )


def _checkpoint(inputs: Inputs, folder: RunFolder, device: Kind) -> Checkpoint:
    posterior = str(folder.manifest()["files"][POSTERIOR]["sha256"])
    decides = {"run key": inputs.run_key, "posterior": posterior, "platform": device_for(device).platform}
    return Checkpoint(folder, "trial", decides)


def _stored_counts(checkpoint: Checkpoint | None, piece: str, count: Callable[[], Counts]) -> Counts:
    """The counts that a checkpoint holds, else those that `count` makes, which the checkpoint then holds."""
    if (kept := checkpoint.load(piece) if checkpoint else None) is not None:
        return Counts(**cast(Any, kept))
    with held_back():
        counts = jax.tree.map(np.asarray, count())
        if checkpoint:
            checkpoint.save(piece, counts._asdict())
    return counts


def _waterfall(plan: Any, course: Any) -> pd.DataFrame:

    change, best, group = (np.asarray(x) for x in (course.best_change, course.best_response, course.subgroup))
    frames = [
        pd.DataFrame(
            {
                "arm": arm,
                "subgroup": [plan.subgroups[g] for g in group],
                "patient": np.arange(len(group)) + 1,
                "best_change_pct": 100.0 * change[k],
                "response": [Response(int(code)).name for code in best[k]],
            }
        )
        for k, arm in enumerate(plan.arms)
    ]
    return pd.concat(frames, ignore_index=True)


def _spider(plan: Any, course: Any) -> pd.DataFrame:
    baseline, sld, codes = (np.asarray(x) for x in (course.sld_baseline, course.sld, course.codes))
    day = np.asarray(plan.schedule.visit_day)
    rows = []
    for k, arm in enumerate(plan.arms):
        for i in range(len(baseline)):
            rows.append((arm, i + 1, 0.0, 0.0))
            for v in range(len(day)):
                if codes[k, i, v] == 4:  # not evaluable
                    continue
                rows.append((arm, i + 1, float(day[v]), float(100.0 * (sld[k, i, v] / baseline[i] - 1.0))))
                if codes[k, i, v] == 3:  # progression ends follow-up
                    break
    return pd.DataFrame(rows, columns=["arm", "patient", "day", "change_pct"])
