"""`vtrial calibrate`: the response rates of a run before and after published trials have taught its translation."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrial.errors import InputError
from vtrial.priors import TrialArm, load_priors
from vtrial.store import RunFolder
from vtrial.yamlfile import nearest, shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from vtrial.experiment import Experiment
    from vtrial.mouse_prior import MouseDraws
    from vtrial.priors import Priors
    from vtrial.taught import Settings

TABLE = "calibrated.csv"
#: what the translation of a row rests on
BEFORE, AFTER = "priors", "priors and trials"
# draws handed to the device at once
_PIECE = 256


def hidden_arms(arms: Sequence[TrialArm], left_out: Collection[str]) -> set[int]:
    """Ids of the arms of these trials and of all that holds some of their patients.

    Raises
    ------
    InputError
        If no trial has such a name.
    """
    from vtrial.published import left_out_with

    names = sorted({arm.trial for arm in arms})
    for name in left_out:
        if name not in names:
            raise InputError(f"no published trial is called {shown(name)}{nearest(name, names)}", key="--leave-out")
    return {i for arm in arms if arm.trial in left_out for i in left_out_with(arm, arms)}


def own_trials(experiment: Experiment, priors: Priors, hidden: Collection[int]) -> list[str]:
    """Trials that taught of a drug of the experiment in its own tumour type: outcomes that its rates have seen."""
    from vtrial.published_endpoints import ENDPOINTS, teaches

    asked = {
        (priors.drug(name).name, cohort.tumour_type)
        for cohort in experiment.trial.cohorts
        for arm in cohort.arms
        for name in arm.drugs
    }
    own = (
        arm.trial
        for arm in priors.trials
        if arm.drugs and arm.id not in hidden and any(teaches(arm, name) for name in ENDPOINTS)
        if (priors.drug(next(iter(arm.drugs))).name, arm.tumour_type) in asked
    )
    return sorted(set(own))


def calibrated_rates(
    experiment: Experiment,
    priors: Priors,
    draws: MouseDraws,
    settings: Settings,
    left_out: Collection[str],
    warnings: Sequence[str],
    progress: Callable[[str, int, int], None],
) -> tuple[pd.DataFrame, int]:
    """Rows of `orr.csv` of every arm of an experiment, by the priors of the translation and by what trials taught.

    Parameters
    ----------
    experiment
        Its cohorts are simulated, `settings.patients` patients of each draw.
    priors
        Of the translation, with the published arms.
    draws
        J draws of the mice.
    settings
        Size and seed.
    left_out
        Names of trials that must not teach.
    warnings
        Of every row.
    progress
        Told of every arm.

    Returns
    -------
    Rows, with a first column `translation`, and the number of arms that taught.
    """
    import jax
    import numpy as np
    import pandas as pd

    from vtrial.calibration import Drug
    from vtrial.rates import orr_rows, response_rates
    from vtrial.simulation import recist_rule
    from vtrial.taught import Taught
    from vtrial.translation import plan_cohort
    from vtrial.trial import simulate

    config, aliases = experiment.trial, experiment.data.aliases
    arms = [arm for arm in priors.trials if arm.drugs]
    hidden = hidden_arms(arms, left_out)
    asked = [
        Drug(priors.drug(name).name, priors.drug_class(name), cohort.tumour_type)
        for cohort in config.cohorts
        for arm in cohort.arms
        for name in arm.drugs
    ]
    taught = Taught(
        *(jax.random.key(settings.seed), arms, draws, priors, aliases, settings, progress, asked),
        engraftment_bias=config.engraftment_bias,
    )
    after, teachers = taught.after(hidden)
    tables = []
    for word, sampler in ((BEFORE, taught.before()), (AFTER, after)):
        between = sampler.entry("translation.between_trials")
        for index, cohort in enumerate(config.cohorts):
            progress(f"{cohort.label or cohort.tumour_type}, {word}", index, len(config.cohorts))
            plan = plan_cohort(
                *(sampler.key, cohort, config.visits, taught.draws, priors, aliases),  # pyright: ignore[reportArgumentType]
                engraftment_bias=config.engraftment_bias,
                sampler=sampler,
                cut_off=config.cut_off,
            )
            parts = []
            for first in range(0, taught.draws.size, _PIECE):
                counts, _ = simulate(
                    taught.key,
                    plan.trial(slice(first, first + _PIECE)),
                    recist_rule(config),
                    num_patients=settings.patients,
                    numbers="sobol",
                    first_draw=first,
                )
                parts.append(jax.tree.map(np.asarray, counts))
            rates = response_rates(plan, jax.tree.map(lambda *x: np.concatenate(x), *parts), config.confirmation)
            seed = settings.seed + 1000 * index
            rows = orr_rows(cohort, plan, rates, seed, settings.patients, between, warnings)
            rows.insert(0, "translation", word)
            tables.append(rows)
    return pd.concat(tables, ignore_index=True), teachers


def before_and_after(rates: pd.DataFrame) -> pd.DataFrame:
    """Population response rate of each arm and subgroup in %, mean and 90 % interval, before and after the trials."""
    kept = rates[(rates["kind"] == "population") & (rates["endpoint"] == rates["endpoint"].iloc[0])]
    said = [
        f"{100 * row['mean']:.1f} [{100 * row['q05']:.1f}, {100 * row['q95']:.1f}]"
        for _, row in kept[["mean", "q05", "q95"]].iterrows()
    ]
    keys = ["tumour_type", "arm", "subgroup"]
    table = kept[[*keys, "translation"]].assign(rate=said)
    return (
        table.pivot(index=keys, columns="translation", values="rate")
        .loc[list(dict.fromkeys(kept[keys].itertuples(index=False, name=None))), [BEFORE, AFTER]]
        .reset_index()
        .rename_axis(columns=None)
    )


def calibrate(
    run_dir: Path, out: Path, settings: Settings, left_out: Collection[str], *, quick: bool, console: Console | None
) -> dict[str, Any]:
    """Write `calibrated.csv` of a fitted run, which is read only.

    Parameters
    ----------
    run_dir
        A fitted run.
    out
        Folder of the table.
    settings
        Size and seed.
    left_out
        Names of trials that must not teach.
    quick
        Whether the rows must say that they are a first look.
    console
        For progress.
    """
    from vtrial.experiment import load_resolved
    from vtrial.inputs import marks
    from vtrial.posterior import Draws
    from vtrial.progress import reporting

    begun, folder = time.perf_counter(), RunFolder(run_dir)
    manifest = folder.manifest()
    # not the table: a run is calibrated where its data are not
    experiment = load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)))
    priors = load_priors(experiment.prior_paths())
    if not folder.has_posterior():
        raise InputError("holds no posterior; `vtrial fit` writes it", file=folder.path)
    hidden = hidden_arms([arm for arm in priors.trials if arm.drugs], left_out)
    said = list(marks(experiment, manifest)) + (["QUICK: few draws."] if quick else [])
    with folder.open_posterior() as tree, reporting(console) as progress:
        rates, teachers = calibrated_rates(
            experiment, priors, Draws(tree, settings.mice), settings, left_out, said, progress
        )
    target = RunFolder(out)
    with target.lock():
        target.write_csv(TABLE, rates)
        target.update_manifest(
            {
                "calibration": {
                    "fit": manifest.get("fit", {}).get("key"),
                    "priors": priors.sha256,
                    "draws": settings.mice * settings.copies,
                    "patients": settings.patients,
                    "seed": settings.seed,
                    "left_out": sorted(left_out),
                    "arms_learnt_from": teachers,
                    "seconds": round(time.perf_counter() - begun, 1),
                }
            }
        )
    own = own_trials(experiment, priors, hidden)
    return {"marks": said, "rates": rates, "teachers": teachers, "own": own, "table": target.path / TABLE}
