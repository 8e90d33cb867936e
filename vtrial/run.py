"""The pipeline as a visible sequence: read -> fit -> mice -> trial -> report, and a manifest of what was done."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from vtrial.checkpoint import clear
from vtrial.config import Experiment
from vtrial.devices import Kind, versions
from vtrial.disk import file_sha256
from vtrial.errors import InputError
from vtrial.experiment import load_resolved, resolved_yaml
from vtrial.inputs import RUN_FORMAT, Inputs, check, marks, read_inputs, warn
from vtrial.model_format import FIT_FORMAT
from vtrial.progress import reporting
from vtrial.store import ORR_DRAWS, RunFolder, default_run_dir, made_by

if TYPE_CHECKING:
    from rich.console import Console

    from vtrial.crossvalidation import Leave
    from vtrial.pairs import Rule
    from vtrial.simulation import TrialResult

__all__ = [
    "Devices",
    "check",
    "crossvalidate",
    "fit",
    "predict_mice",
    "report",
    "run",
    "sensitivity",
    "simulate",
    "twin",
]


#: raised whenever the same settings give other numbers; a folder of other formats is of another version
FORMATS = {"fit": FIT_FORMAT, "run": RUN_FORMAT}


class Devices(NamedTuple):
    """Where the stages run, as asked for: "auto", "cpu" or "cuda"."""

    trial: Kind = "auto"
    fit: Kind = "auto"


def report_stage(inputs: Inputs, folder: RunFolder, trial: TrialResult | None) -> Path:
    """Write the page and the figures from what the folder holds."""
    from vtrial.report import build_report, figure_data, orr_forest_image
    from vtrial.report.gather import TRIAL_TABLES, report_inputs

    tables = None if trial is None else {name: getattr(trial, name) for name in TRIAL_TABLES}
    page = report_inputs(inputs, folder, tables)
    folder.path.joinpath("figures").mkdir(exist_ok=True)
    data = figure_data(page)
    for name, table in data.items():
        folder.write_csv(f"figures/{name}.csv", table)
    if len(page.orr):
        said = "; ".join(marks(inputs.experiment, folder.manifest()))
        for kind in ("svg", "png"):
            folder.write_bytes(f"figures/orr_forest.{kind}", orr_forest_image(page.orr, kind, said))
    return folder.write_text("report.html", build_report(page, data))


def _folder(inputs: Inputs, out: Path | None, reuse: Path | None = None) -> tuple[RunFolder, Path | None]:
    """The run folder, and where fits may be reused from: with an `out` of the user's only where they ask for it."""
    if out is not None:
        return RunFolder(out), reuse
    path = Path(default_run_dir("runs", inputs.experiment.name, inputs.run_key)).absolute()
    return RunFolder(path), reuse or path.parent


def _begin(inputs: Inputs, folder: RunFolder, devices: Devices) -> None:
    from vtrial import devices as device_module

    device_module.configure(devices.trial, devices.fit)
    folder.write_text("experiment.yaml", resolved_yaml(inputs.experiment, folder.path))
    experiment, keys = inputs.experiment, {"fit": inputs.fit_key, "run": inputs.run_key}
    # tables of other keys that lie here are of the run before; those of the same keys are what will be written again
    unfinished = {} if folder.manifest().get("keys") == keys else {"finished": None}
    folder.update_manifest(
        {
            "name": experiment.name,
            "quick": experiment.is_quick,
            "synthetic": experiment.data.synthetic,
            "formats": FORMATS,
            "keys": keys,
            "device": device_module.describe(devices.trial, devices.fit),
            "seeds": {"fit": experiment.fit.seed, "mice": experiment.mice.seed, "trial": experiment.trial.seed},
            "inputs": {
                "table": {"file": inputs.dataset.path.name, "sha256": inputs.dataset.sha256},
                "priors": {"sha256": inputs.priors.sha256, "changes": list(inputs.priors.changes)},
                "evidence": [{"file": p.name, "sha256": file_sha256(p)} for p in experiment.evidence_paths()],
            },
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **unfinished,
        }
    )


def fit(experiment: Experiment, out: Path | None, *, devices: Devices, console: Console | None) -> Path:
    """Run the first stage alone and return the run folder.

    Raises
    ------
    GateError
        If the fit did not pass its gates; its outputs are written.
    """
    from vtrial.fitting import fit_stage, judge

    inputs = read_inputs(experiment)
    folder, reuse = _folder(inputs, out)
    with folder.lock(), reporting(console) as progress:
        _begin(inputs, folder, devices)
        entry = fit_stage(inputs, folder, devices.fit, progress, reuse)
        clear(folder)
    judge(entry, folder)
    return folder.path


def run(
    experiment: Experiment, out: Path | None, *, devices: Devices, console: Console | None, reuse: Path | None = None
) -> Path:
    """Fit, predict mice, simulate the trial, write tables and page; returns the run folder.

    A fit of the same key is taken from a run folder in `reuse`, where one is there; without it from those of the same
    name, and with `out` from none.

    Raises
    ------
    GateError
        After everything is written, if the fit did not pass its gates.
    """
    from vtrial.contrasts import contrasts, exceedance
    from vtrial.discrepancy import discrepancies
    from vtrial.fitting import fit_stage, judge
    from vtrial.simulation import mice_stage, trial_stage
    from vtrial.uncertainty import uncertainty_stage

    inputs = read_inputs(experiment)
    folder, reuse = _folder(inputs, out, reuse)
    warn(inputs)
    with folder.lock(), reporting(console) as progress:
        _begin(inputs, folder, devices)
        entry = fit_stage(inputs, folder, devices.fit, progress, reuse)
        mice = mice_stage(inputs, folder, devices.trial, progress)
        trial = trial_stage(inputs, folder, devices.trial, progress, keep=True)
        folder.write_csv("orr.csv", trial.orr)
        folder.write_posterior(trial.draws, ORR_DRAWS)
        folder.write_csv("endpoints.csv", trial.endpoints)
        folder.write_csv("engagement.csv", trial.engagement)
        said = marks(inputs.experiment, folder.manifest())
        folder.write_csv("discrepancies.csv", discrepancies(inputs.experiment, trial.draws, said))
        folder.write_csv("contrasts.csv", contrasts(trial.draws, said))
        folder.write_csv("exceedance.csv", exceedance(trial.draws, said))
        folder.write_csv("tgi.csv", trial.tgi)
        folder.write_csv("ranks.csv", trial.ranks)
        begun = time.perf_counter()
        folder.write_csv("uncertainty.csv", uncertainty_stage(inputs, folder, devices.trial, trial.draws, progress))
        sources = round(time.perf_counter() - begun, 2)
        folder.update_manifest(
            {
                "mice": {"seconds": mice},
                "trial": {"seconds": trial.seconds, "patients": trial.patients, "origins": trial.origins},
                "uncertainty": {"seconds": sources},
            }
        )
        progress("report", 0, 1)
        report_stage(inputs, folder, trial)
        folder.update_manifest({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        clear(folder)
    judge(entry, folder)
    return folder.path


def _stored_inputs(folder: RunFolder, overrides: Sequence[str] = ()) -> Inputs:
    manifest = folder.manifest()
    file = folder.file("experiment.yaml")
    try:
        experiment = load_resolved(file, bool(manifest.get("quick", False)), overrides)
    except InputError as error:
        if (made := _made_otherwise(manifest)) is None:
            raise
        message = f"{error.message}; the run folder was made by {made}"
        raise InputError(message, file=error.file, line=error.line, key=error.key) from None
    return read_inputs(experiment)


def _check_same_fit(inputs: Inputs, folder: RunFolder) -> None:
    """Raise where the posterior of a run is not that of its settings, table and priors as they are now."""
    if folder.manifest().get("fit", {}).get("key") == inputs.fit_key:
        return
    made = _made_otherwise(folder.manifest())
    why = f"was made by {made}" if made else "the settings, table or priors of the fit have changed since"
    raise InputError(f"{why}; run `vtrial run` on the experiment", file=folder.path)


def _made_otherwise(manifest: Mapping[str, Any]) -> str | None:
    """What made a run folder, in words, where that was not this version; None where it was."""
    formats = manifest.get("formats")
    own = made_by({"device": {"versions": versions(("vtrial",))}})
    if formats == FORMATS and made_by(manifest) == own:
        return None
    return f"{made_by(manifest)} with formats {formats or 'unknown'}, and this is {own} with {FORMATS}"


def simulate(
    run_dir: Path,
    *,
    patients: int | None,
    draws: int | None,
    overrides: Sequence[str],
    devices: Devices,
    console: Console | None,
) -> dict[str, Any]:
    """Simulate the trial of a run anew, leaving its files alone; returns a JSON-able mapping.

    `patients` (per draw and arm), `draws` and `overrides` replace the settings of the run; settings of the
    fit may not change.
    """
    from vtrial.simulation import trial_stage

    folder = RunFolder(run_dir)
    extra = [
        *overrides,
        *([f"trial.patients={patients}"] if patients else []),
        *([f"trial.draws={draws}"] if draws else []),
    ]
    inputs = _stored_inputs(folder, extra)
    _check_same_fit(inputs, folder)
    warn(inputs)
    with reporting(console) as progress:
        trial = trial_stage(inputs, folder, devices.trial, progress)
    config = inputs.experiment.trial
    arms = _by_arm(trial.orr, "confirmed_orr" if config.confirmation else "unconfirmed_orr")
    return {
        "marks": marks(inputs.experiment, folder.manifest()),
        "endpoint": "confirmed_orr" if config.confirmation else "unconfirmed_orr",
        "arms": arms,
        "orr": {_spoken(one): one["orr"]["mean"] for one in arms},
        "draws": config.draws,
        "patients": config.patients,
        "seconds": trial.seconds,
        "simulated_seconds": trial.simulated_seconds,
        "compile_seconds": trial.compile_seconds,
        "patients_simulated": trial.patients,
        "patients_per_second": round(trial.patients / max(trial.simulated_seconds, 1e-9)),
    }


def _spoken(arm: Mapping[str, Any]) -> str:
    """Tumour type, arm and subgroup in one text."""
    return " | ".join(str(arm[name]) for name in ("tumour_type", "arm", "subgroup"))


def _by_arm(orr: pd.DataFrame, main: str) -> list[dict[str, Any]]:
    """One entry per arm and subgroup: its rate, that of a trial of n, its other rates, null models, counts."""
    arms: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in json.loads(orr.to_json(orient="records", double_precision=15)):
        names = {name: row[name] for name in ("tumour_type", "arm", "subgroup")}
        entry = arms.setdefault(
            tuple(names.values()),
            names | {"orr": {}, "predictive_orr": {}, "others": {}, "null_models": {}, "observed": None},
        )
        numbers = {name: row[name] for name in ("mean", "sd", "q05", "q25", "q50", "q75", "q95", "num_patients")}
        endpoint, _, null = row["endpoint"].partition(":")
        if null:
            entry["null_models"][null] = numbers
        elif endpoint != main:
            if row["kind"] == "population":
                entry["others"][endpoint] = numbers
        elif row["kind"] == "population":
            entry["orr"] = numbers
            if row["observed_patients"] is not None:
                entry["observed"] = {"responders": row["observed_responders"], "patients": row["observed_patients"]}
        else:
            entry["predictive_orr"] = numbers
    return list(arms.values())


def report(run_dir: Path, *, console: Console | None) -> Path:
    """Write the page and figures of a run again from its tables."""
    from vtrial.report.gather import check_tables

    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    for name in ("orr.csv", "diagnostics.csv"):
        if not folder.exists(name):
            raise InputError(f"holds no {name}; `vtrial run` writes it", file=folder.path)
    if folder.manifest().get("finished", "") is None:  # its tables may be of the run before
        raise InputError("is of a run that did not finish; the same `vtrial run` goes on", file=folder.path)
    check_tables(folder)
    with folder.open_posterior():
        pass  # a page is not written beside a damaged posterior
    with folder.lock():
        return report_stage(inputs, folder, None)


def twin(run_dir: Path, out: Path, *, seed: int) -> int:
    """Write a synthetic twin of the single-agent panel of a run as gzip CSV; returns its number of rows."""
    import gzip

    import jax

    from vtrial.disk import whole
    from vtrial.posterior import Draws, shape_of
    from vtrial.simulation import stopping_rule
    from vtrial.twin import synthetic_twin

    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    _check_same_fit(inputs, folder)
    with folder.open_posterior() as tree:
        table = synthetic_twin(
            jax.random.key(seed),
            Draws(tree, 1),
            inputs.dataset,
            stopping_rule(tree),
            shape=shape_of(tree),
        )
    # no name and no time in the header: equal tables give equal bytes
    content = gzip.compress(table.to_csv(index=False, lineterminator="\n").encode(), compresslevel=9, mtime=0)
    with whole(Path(out).absolute()) as aside:
        aside.write_bytes(content)
    return len(table)


def sensitivity(run_dir: Path) -> pd.DataFrame:
    """Write `sensitivity.csv` of a run: which prior moves the response rate of each arm; returns the table."""
    from vtrial.sensitivity import power_scaling

    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    _check_same_fit(inputs, folder)
    table = power_scaling(inputs, folder)
    with folder.lock():
        folder.write_csv("sensitivity.csv", table)
    return table


def predict_mice(run_dir: Path, pairs: Path, out: Path, *, rule: Rule | None = None) -> pd.DataFrame:
    """Predict the response of one new mouse of each listed PDX model under its arm; writes arms.csv and pairs.csv.

    With a `rule` combinations follow it even where the fit has seen them.

    Returns
    -------
    DataFrame
        The table of arms.
    """
    import jax

    from vtrial.disk import whole
    from vtrial.pairs import arm_table, predict_pairs, read_pairs
    from vtrial.simulation import stopping_rule

    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    _check_same_fit(inputs, folder)
    wanted = read_pairs(pairs)
    with folder.open_posterior() as tree:
        key = jax.random.key(inputs.experiment.mice.seed)
        priors = inputs.priors.with_drugs(inputs.drug_class)
        stopping = stopping_rule(tree, inputs.experiment.mice.leaving_odds_ratio)
        predicted = predict_pairs(key, tree, inputs.dataset, wanted, priors, stopping, rule=rule)
    arms = arm_table(predicted.pairs, predicted.responds)
    note = "; ".join(marks(inputs.experiment, folder.manifest()))
    for name, table in (("arms.csv", arms), ("pairs.csv", predicted.pairs)):
        with whole(Path(out).absolute() / name) as aside:
            aside.write_text(table.assign(note=note).to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    return arms


def crossvalidate(
    experiment: Experiment, leave: Leave, folds: int, out: Path, *, devices: Devices, console: Console | None
) -> pd.DataFrame:
    """Leave mice out, fit the rest, predict and score; returns the scores.

    Raises
    ------
    GateError
        After everything is written, if the fit of a fold did not pass its gates.
    """
    from vtrial.crossvalidation import crossvalidation_stage
    from vtrial.fitting import judge

    inputs = read_inputs(experiment)
    folder = RunFolder(out)
    with folder.lock(), reporting(console) as progress:
        _begin(inputs, folder, devices)
        entries = crossvalidation_stage(inputs, folder, leave, folds, devices.fit, devices.trial, progress)
        folder.update_manifest({"leave": leave, "folds": entries})
    for entry in entries:
        judge(entry, folder)
    return pd.read_csv(folder.file("scores.csv"))
