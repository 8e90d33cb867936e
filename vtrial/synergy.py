"""Synergy of single studies, as a fit sees it: combination index and synergy score over days -> table, JSON, picture.

A study is a PDX model (or a cell line) that was given a combination, each of its drugs alone and nothing, in one mouse
or several each. Its arms are drawn from the posterior: growth of the PDX model, effect in each cell, common course in
time. What a single mouse adds to its arm averages out, so that this is the curve that fixed effects of a linear mixed
model describe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from vtrial.combination_index import (
    REFERENCES,
    StudyCurves,
    best_single,
    combination_index,
    excess,
    summarise_index,
)
from vtrial.curve_density import coefficient_mean
from vtrial.disk import whole
from vtrial.doses import Dose
from vtrial.errors import InputError
from vtrial.experiment import load_resolved
from vtrial.growth_laws import fixed_course, time_courses
from vtrial.inputs import marks, read_inputs
from vtrial.posterior import Draws, shape_of
from vtrial.store import RunFolder
from vtrial.table import listed, nearest
from vtrial.treatment import loss_of_arm

if TYPE_CHECKING:
    import xarray as xr

    from vtrial.dataset import Dataset

#: days between the points of a curve where areas are taken: Simpson's rule is then exact to 1e-9 for any real growth
_STEP_DAYS = 0.25
COLUMNS = (
    "tumour_type",
    "pdx_model",
    "arm",
    "reference",
    "single_agent",
    "day",
    "beyond_data",
    "combination_index",
    "ci_low",
    "ci_high",
    "ln_ci_sd",
    "synergy_score",
    "score_low",
    "score_high",
    "excess_points",
    "excess_low",
    "excess_high",
    "probability_synergy",
    "level",
    "num_mice",
)


class Study(NamedTuple):
    """A PDX model with a combination, each of its drugs alone, and a control.

    Attributes
    ----------
    arms : dict of str to tuple of str
        The arm of "control", "combination" and of each drug -> its mice (`mouse_key`).
    doses : dict of str to Dose or None
        The dose of each drug, where it has one.
    days : array
        Days after the start on which any of these mice was measured.
    last_day : float
        Last day on which every arm still had a mouse: beyond it, curves are carried on.
    """

    tumour_type: str
    pdx_model: str
    arm: str
    drugs: tuple[str, ...]
    doses: dict[str, Dose | None]
    arms: dict[str, tuple[str, ...]]
    days: np.ndarray
    last_day: float


def studies_of(dataset: Dataset, pdx_model: str | None = None, arm: str | None = None) -> list[Study]:
    """Every PDX model x combination that a synergy can be told of, in the order of the table.

    Raises
    ------
    InputError
        Where there is none, or none of that name.
    """
    used = dataset.used
    if pdx_model is not None and pdx_model not in set(used["pdx_model"]):
        names = sorted(used["pdx_model"].unique())
        raise InputError(f"no PDX model {pdx_model!r}.{nearest(pdx_model, names)}", key="--pdx-model")
    wanted = None if arm is None else dataset.arm_drugs(arm)
    drugs_of = used["arm"].map(dataset.arms)
    found, lacking = [], ""
    for model, own in used.groupby("pdx_model", sort=False):
        if pdx_model not in (None, model):
            continue
        rows = {drugs: own[drugs_of[own.index] == drugs] for drugs in dict.fromkeys(drugs_of[own.index])}
        for drugs in rows:
            if len(drugs) < 2 or wanted not in (None, drugs):
                continue
            parts = {"control": (), **{drug: (drug,) for drug in drugs}, "combination": drugs}
            missing = [name for name, held in parts.items() if held not in rows]
            if missing:
                lacking = f"; {model} has {dataset.arm_name(drugs)!r} and lacks {listed(missing)}"
                continue
            days = pd.concat([rows[held]["day"] for held in parts.values()])
            found.append(
                Study(
                    str(own["tumour_type"].iloc[0]),
                    str(model),
                    dataset.arm_name(drugs),
                    drugs,
                    {drug: dataset.doses.get(drug) for drug in drugs},
                    {name: tuple(rows[held]["mouse_key"].unique()) for name, held in parts.items()},
                    np.unique(days[days > 0]),
                    float(min(rows[held]["day"].max() for held in parts.values())),
                )
            )
    if not found:
        what = "no PDX model has a combination, each of its drugs alone, and a control"
        of = "".join(f", {name} {value!r}" for name, value in (("PDX model", pdx_model), ("arm", arm)) if value)
        raise InputError(what + of + lacking, file=dataset.path)
    return found


def study_curves(tree: xr.DataTree, study: Study) -> StudyCurves:
    """Posterior draws of the arms of one study, from day 0 to its last day."""
    cells = tree["cells"].to_dataset()
    draws = Draws(tree, index=cells["index"].to_numpy())
    mouse = {str(name): i for i, name in enumerate(cells["mouse"].to_numpy())}
    effect = cells["effect"].to_numpy()
    model = draws.labels("pdx_model").index(study.pdx_model)
    growth = np.exp(np.asarray(draws.get("ln_growth"), np.float64)[:, model])
    law = {name: np.asarray(draws.get(name), np.float64) for name in ("mu_intercept", "slowing")}
    lost = _losses(draws, study)
    grid = np.arange(0.0, study.days[-1] + _STEP_DAYS, _STEP_DAYS)
    day = np.union1d(grid[grid <= study.days[-1]], study.days)
    courses, fixed = time_courses(day, shape_of(tree)), fixed_course(day, shape_of(tree))

    def curve(name: str) -> np.ndarray:
        # several mice of a cell have one effect
        rho = np.asarray(effect[:, mouse[study.arms[name][0]]], np.float64)
        with jax.enable_x64(True):
            log_volume = np.stack(coefficient_mean(law, growth, rho, lost[name]), axis=-1) @ courses.T + fixed
        return log_volume - log_volume[:, :1]  # relative to day 0

    singles = np.stack([curve(drug) for drug in study.drugs], axis=1)
    return StudyCurves(day, curve("control"), singles, curve("combination"))


def _losses(draws: Draws, study: Study) -> dict[str, np.ndarray]:
    """Fraction of the effect of every arm of a study that is lost in the end, [D]."""
    types = draws.labels("drug_type")
    loss, effect = np.zeros((2, draws.size, len(study.drugs)))
    for d, drug in enumerate(study.drugs):
        dose = study.doses[drug]
        index = types.index(f"{drug if dose is None else dose.drug} | {study.tumour_type}")
        strength = draws.dose_strength(dose)
        loss[:, d] = draws.get("loss_drug_type")[:, index]
        effect[:, d] = draws.get("effect")[:, index] * (1.0 if strength is None else strength)
    joint = loss_of_arm(loss, effect, True, np)
    return {"control": np.zeros(draws.size), **dict(zip(study.drugs, loss.T, strict=True)), "combination": joint}


def synergy_table(tree: xr.DataTree, studies: list[Study], level: float) -> pd.DataFrame:
    """Combination index, scores and P(synergy) of every study, reference and day of measurement: `COLUMNS`.

    A fitted run holds a few hundred draws of its cells: quantiles carry that much Monte Carlo error.
    """
    rows = []
    tails = [0.5, 0.5 - level / 2.0, 0.5 + level / 2.0]
    for study in studies:
        curves = study_curves(tree, study)
        at = np.searchsorted(curves.day, study.days)
        num_mice = sum(len(mice) for mice in study.arms.values())
        for reference in REFERENCES:
            found = summarise_index(combination_index(curves, reference), level)
            points = np.full((3, len(curves.day)), np.nan)
            if reference != "ra":
                points = np.quantile(excess(curves, reference), tails, axis=0)
            rows += [
                (
                    study.tumour_type, study.pdx_model, study.arm, reference,
                    study.drugs[best_single(curves)] if reference == "hsa" else "",
                    curves.day[t], bool(curves.day[t] > study.last_day),
                    found.ratio[t], found.ratio_low[t], found.ratio_high[t], found.ln_ratio_sd[t],
                    found.score[t], found.score_low[t], found.score_high[t],
                    *points[:, t], found.synergy[t], level, num_mice,
                )
                for t in at
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def synergy_of_run(
    run_dir: Path,
    out: Path | None = None,
    *,
    pdx_model: str | None = None,
    arm: str | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Work out the synergy of every study of a fitted run; writes synergy.csv, synergy.json and synergy.png.

    Parameters
    ----------
    run_dir : path
        Run folder with a posterior.
    out : path, optional
        Folder of the files; the folder `synergy` of the run where left out.
    pdx_model, arm : str, optional
        Only these.
    level : float
        Of the intervals.

    Returns
    -------
    dict
        What the JSON holds, and `files`: `studies`, one entry per PDX model, combination and reference with the last
        day on which all arms were measured.

    Raises
    ------
    InputError
        Where the run has no posterior, its table changed, or no study of that name; nothing is written.
    """
    from vtrial.report.synergy import synergy_image

    if not 0.0 < level < 1.0:
        raise InputError(f"must lie between 0 and 1, found {level}", key="--level")
    folder = RunFolder(run_dir)
    manifest = folder.manifest()
    experiment = load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)), ())
    inputs = read_inputs(experiment)
    if manifest.get("fit", {}).get("key") != inputs.fit_key:
        raise InputError("the settings, table or priors of the fit have changed since; fit again", file=folder.path)
    studies = studies_of(inputs.dataset, pdx_model, arm)
    with folder.open_posterior() as tree:
        table = synergy_table(tree, studies, level)
        num_draws = int(tree["cells"].sizes["cell_draw"])
    said = marks(experiment, manifest)
    table["note"] = "; ".join(said)
    result = {"marks": said, "level": level, "draws": num_draws, "studies": last_days(table)}
    files: dict[str, bytes] = {
        "synergy.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        "synergy.json": (json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        "synergy.png": synergy_image(table),
    }
    target = folder.path / "synergy" if out is None else Path(out).absolute()
    for name, content in files.items():
        with whole(target / name) as aside:
            aside.write_bytes(content)
    return {**result, "files": [str(target / name) for name in files]}


def last_days(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per study and reference: the last day on which all arms were measured."""
    kept = table[~table["beyond_data"]]
    last = kept.groupby(["pdx_model", "arm", "reference"], sort=False).tail(1)
    # through JSON: NaN, which JSON does not have, becomes null
    return json.loads(last.drop(columns="note", errors="ignore").to_json(orient="records", double_precision=15))
