"""The pipeline as a visible sequence: read -> fit -> mice -> trial -> report, and a manifest of what was done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from vtrial.config import Cohort, Experiment
from vtrial.dataset import Dataset, read_dataset
from vtrial.devices import Kind
from vtrial.dosing import calendar, describe, relative_dose_rate
from vtrial.errors import GateError, InputError
from vtrial.evidence import read_evidence
from vtrial.experiment import fit_key, load_resolved, resolved_yaml, run_key
from vtrial.priors import Priors, load_priors
from vtrial.store import RunFolder, default_run_dir, file_sha256

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger("vtrial")
#: raised whenever the numbers of the mice or trial stage change; part of the run key
RUN_FORMAT = 1
DATA_SETTINGS = (
    "columns",
    "constants",
    "control",
    "separator",
    "aliases",
    "detection_limit_mm3",
    "tumour_types",
    "arms",
    "single_agents_only",
    "if_missing",
)


class Devices(NamedTuple):
    """Where the stages run, as asked for: "auto", "cpu" or "cuda"."""

    trial: Kind = "auto"
    fit: Kind = "auto"


class Inputs(NamedTuple):
    """Everything that a run reads, checked."""

    experiment: Experiment
    priors: Priors
    dataset: Dataset
    evidence: pd.DataFrame
    drug_class: Mapping[str, str]
    fit_key: str
    run_key: str


# ------------------------------------------------------------------------------------------------ reading


def read_inputs(experiment: Experiment) -> Inputs:
    """Read and check priors, table and evidence of an experiment; imports no JAX.

    Raises
    ------
    InputError
        The first fault, with its file.
    """
    from vtrial.model_format import FIT_FORMAT, PRIORS

    priors = load_priors(experiment.prior_paths())
    data = experiment.data.model_dump(include=set(DATA_SETTINGS))
    dataset = read_dataset(experiment.data_path(), **data)
    tables = [read_evidence(path) for path in experiment.evidence_paths()]
    evidence = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["drug", "tumour_type"])
    drug_class: dict[str, str] = {}
    for drug in sorted({*dataset.drugs, *evidence["drug"]}):
        given = experiment.fit.drug_classes.get(drug)
        drug_class[drug] = given or _named(experiment, f"fit.drug_classes.{drug}", priors.drug_class, drug)
    for i, cohort in enumerate(experiment.trial.cohorts):
        _check_cohort(experiment, i, cohort, priors)
    used = hashlib.sha256(json.dumps([priors.content(PRIORS), drug_class], sort_keys=True).encode()).hexdigest()
    key = fit_key(experiment, dataset.sha256, [file_sha256(p) for p in experiment.evidence_paths()], used, FIT_FORMAT)
    return Inputs(
        experiment, priors, dataset, evidence, drug_class, key, run_key(experiment, key, priors.sha256, RUN_FORMAT)
    )


def _named(experiment: Experiment, key: str, look_up: Callable[[str], Any], name: str) -> Any:
    """Look a name up in the priors; a fault is one of the experiment file, at `key`."""
    try:
        return look_up(name)
    except InputError as error:
        raise InputError(error.message, file=experiment.file, key=key) from None


def _check_cohort(experiment: Experiment, index: int, cohort: Cohort, priors: Priors) -> None:
    for j, arm in enumerate(cohort.arms):
        for drug, dosing in arm.drugs.items():
            key = f"trial.cohorts.{index}.arms.{j}.drugs.{drug}"
            info = _named(experiment, key, priors.drug, drug)
            if info.pk is None:
                known = ", ".join(sorted(d.name for d in priors.drugs.values() if d.pk is not None))
                message = f"has no clinical dose response; add drugs.{info.name}.pk to a priors file"
                raise InputError(f"{message}. Drugs that have one: {known}", file=experiment.file, key=key)
            try:
                relative_dose_rate(dosing.to_dosing(), info.pk.reference.to_dosing())
            except ValueError as error:
                raise InputError(str(error), file=experiment.file, key=key) from None
    for name in sorted({c for group in cohort.subgroups.values() for c in group.covariates}):
        if not priors.names(f"covariates.{name}"):
            raise InputError(
                f"there is no prior for covariate {name!r}; add covariates.{name} to a priors file",
                file=experiment.file,
                key=f"trial.cohorts.{index}.subgroups",
            )


def check(experiment: Experiment) -> str:
    """Say what would run: what was read, what is kept out and why, arms and doses; touches no device."""
    inputs = read_inputs(experiment)
    dataset, used = inputs.dataset, inputs.dataset.used
    lines = [
        f"{experiment.name}: {experiment.title or 'no title'}",
        f"table     {dataset.path}",
        f"          {len(used):,} measurements of {used['mouse_key'].nunique():,} mice, "
        f"{used['pdx_model'].nunique()} PDX models, {used['tumour_type'].nunique()} tumour types, "
        f"{len(dataset.drugs)} drugs, {len(dataset.arms)} arms"
        + (" (SYNTHETIC: no real measurement)" if experiment.data.synthetic else ""),
        *(f"          {note}" for note in dataset.notes),
    ]
    if len(inputs.evidence):
        lines.append(
            f"evidence  {len(inputs.evidence)} published results on {', '.join(sorted(set(inputs.evidence['drug'])))}"
        )
    config = experiment.fit
    lines.append(
        f"fit       {config.growth} growth, {config.chains} chains of {config.warmup} + {config.draws} draws, "
        f"key {inputs.fit_key}"
    )
    for cohort in experiment.trial.cohorts:
        lines.append(
            f"trial     {cohort.label or cohort.tumour_type}: {experiment.trial.draws:,} draws x "
            f"{experiment.trial.patients:,} patients per arm"
        )
        for arm in cohort.arms:
            for place, (drug, dosing) in enumerate(arm.drugs.items()):
                lines.append(f"          {arm.name if place == 0 else '':40} {drug} {describe(dosing.to_dosing())}")
    lines.append(f"run       key {inputs.run_key}, folder {default_run_dir('runs', experiment.name, inputs.run_key)}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ progress


class Progress:
    """Progress of a stage: a bar with time left on a terminal, a log line at most every ten seconds elsewhere."""

    def __init__(self, console: Console | None):
        self._console, self._stage = console, ""
        self._bar: Any = None
        self._task: Any = None
        self._begun = self._told = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far `stage` is."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._told = stage, now, now
            if self._console is None:
                LOG.info("%s", stage)
        if self._console is None:
            if now - self._told > 10.0 or done >= total:
                rate = done / max(now - self._begun, 1e-9)
                left = (total - done) / rate if rate else float("nan")
                LOG.info("%s %d of %d, %.0f per s, %.0f s left", stage, done, total, rate, left)
                self._told = now
            return
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(stage)
        self._bar.update(self._task, description=stage, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextlib.contextmanager
def _reporting(console: Console | None) -> Iterator[Progress]:
    progress = Progress(console)
    try:
        yield progress
    finally:
        progress.close()


# ------------------------------------------------------------------------------------------------ stages


def fit_stage(
    inputs: Inputs, folder: RunFolder, devices: Devices, progress: Progress, reuse_from: Path | None
) -> dict[str, Any]:
    """Fit, unless the folder or another run below `reuse_from` holds a posterior of the same fit key."""
    manifest = folder.manifest()
    before = manifest.get("fit", {})
    if before.get("key") == inputs.fit_key and folder.has_posterior():
        LOG.info("the fit of key %s is there already", inputs.fit_key)
        return _regated(inputs, folder, before)
    if reuse_from is not None and (found := _fit_of_key(reuse_from, inputs.fit_key, folder.path)):
        from vtrial.posterior import POPULATION

        LOG.info("the fit of key %s is taken from %s", inputs.fit_key, found.path.name)
        with found.open_posterior() as tree:
            folder.write_posterior(tree.load(), keep_float64=POPULATION)
        entry = {**found.manifest()["fit"], "reused_from": found.path.name}
        return _regated(inputs, folder, entry)

    import jax

    from vtrial import devices as device_module
    from vtrial.diagnostics import check_gates, summarise
    from vtrial.evidence import evidence_arrays
    from vtrial.inference import fit, mouse_draws
    from vtrial.model import arrays_of, build_model
    from vtrial.model_format import PRIORS
    from vtrial.panel import build_panel
    from vtrial.posterior import NUM_CELL_DRAWS, PDX_MODEL_LEVEL, POPULATION, spread_evenly, to_datatree
    from vtrial.stopping import fit_stopping_rule

    experiment, config = inputs.experiment, inputs.experiment.fit
    begun = time.perf_counter()
    cells = list(zip(inputs.evidence["drug"], inputs.evidence["tumour_type"], strict=True))
    panel = build_panel(inputs.dataset, inputs.drug_class, config.loss_rate, cells)
    evidence = evidence_arrays(inputs.evidence, panel.labels.drug_type) if cells else None
    stopping = fit_stopping_rule(inputs.dataset.used, inputs.dataset.detection_limit_mm3)
    sites = (*POPULATION, *PDX_MODEL_LEVEL, "log_likelihood")
    chosen = device_module.devices_for(device_module.fit_kind(devices.fit))
    with jax.enable_x64(True), jax.default_device(chosen[0]):
        arrays = arrays_of(panel, evidence)
        prior = inputs.priors.distributions(PRIORS)
        model = build_model(panel, prior)
        first = {"ln_growth": jax.numpy.asarray(panel.initial_growth)}
        result = fit(jax.random.key(config.seed), model, arrays, first, config, sites, progress, chosen, ("ln_growth",))
        progress("mice and cells", 0, 1)
        index = spread_evenly(min(NUM_CELL_DRAWS, config.chains * config.draws), config.chains * config.draws)
        chosen_draws = {k: v.reshape(-1, *v.shape[2:])[index] for k, v in result.draws.items()}
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        within = mouse_draws(key, build_model(panel, prior, mouse_level=True), arrays, chosen_draws)
    cells_kept = {"index": index, "effect": within.effect}
    if config.mouse_level:
        ln_sigma = chosen_draws["ln_sigma"].astype(np.float32)
        cells_kept |= {"coefficient": within.coefficient, "ln_sigma": ln_sigma}
    attributes = {
        "experiment": experiment.name,
        "fit_key": inputs.fit_key,
        "loss_rate": config.loss_rate,
        "detection_limit_mm3": inputs.dataset.detection_limit_mm3,
        "stopping_gap_days": stopping.gap_days,
        "synthetic": int(experiment.data.synthetic),
        "quick": int(experiment.is_quick),
    }
    tree = to_datatree(panel, result.values, result.stats, cells_kept, attributes, np.asarray(stopping.coefficient))
    progress("diagnostics", 0, 1)
    summary = summarise(tree["posterior"].to_dataset())
    gates = check_gates(summary, tree, config)
    folder.write_posterior(tree, keep_float64=POPULATION)
    folder.write_csv("diagnostics.csv", summary)
    entry = {
        "key": inputs.fit_key,
        "passed": all(gate["passed"] for gate in gates),
        "gates": gates,
        "mice": len(panel.labels.mouse),
        "pdx_models": len(panel.labels.pdx_model),
        "draws": int(config.chains * config.draws),
        "seed": config.seed,
        "seconds": {**result.seconds, "total": round(time.perf_counter() - begun, 2)},
    }
    folder.update_manifest({"fit": entry})
    return entry


def _regated(inputs: Inputs, folder: RunFolder, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a reused fit by the gates of this experiment, which are not part of its key."""
    from vtrial.diagnostics import check_gates, summarise

    with folder.open_posterior() as tree:
        summary = summarise(tree["posterior"].to_dataset().load())
        gates = check_gates(summary, tree, inputs.experiment.fit)
    folder.write_csv("diagnostics.csv", summary)
    entry = {**entry, "gates": gates, "passed": all(gate["passed"] for gate in gates)}
    folder.update_manifest({"fit": entry})
    return entry


def _fit_of_key(root: Path, key: str, own: Path) -> RunFolder | None:
    for path in sorted(root.glob("*/manifest.json")):
        if path.parent == own:
            continue
        with contextlib.suppress(InputError):
            folder = RunFolder(path.parent)
            if folder.manifest().get("fit", {}).get("key") == key and folder.has_posterior():
                return folder
    return None


def mice_stage(inputs: Inputs, folder: RunFolder, devices: Devices, progress: Progress) -> float:
    """Write `mouse_response.csv`; returns seconds."""
    import jax

    from vtrial import devices as device_module
    from vtrial.posterior import Draws
    from vtrial.predict import predict_arms

    begun = time.perf_counter()
    config = inputs.experiment.mice
    progress("mice", 0, 1)
    with folder.open_posterior() as tree, jax.default_device(device_module.device_for(devices.trial)):
        draws = Draws(tree, config.replicates)
        rule = _stopping_rule(tree)
        table = predict_arms(
            jax.random.key(config.seed),
            draws,
            inputs.dataset,
            inputs.drug_class,
            rule,
            min_models=config.min_models,
            loss_rate=float(tree.attrs["loss_rate"]),
        )
    # a trailing column, empty where there is nothing to warn of, so that the table never travels without its caveat
    table["note"] = "; ".join(_marks(inputs.experiment, folder.manifest()))
    folder.write_csv("mouse_response.csv", table)
    return round(time.perf_counter() - begun, 2)


def _stopping_rule(tree: Any) -> Any:
    """The frozen stopping rule that a posterior carries."""
    import jax

    from vtrial.stopping import StoppingRule

    coefficient = jax.numpy.asarray(tree["constant_data"]["stopping_coefficient"].to_numpy(), "float32")
    return StoppingRule(coefficient, float(tree.attrs["stopping_gap_days"]))


class TrialResult(NamedTuple):
    """What the trial stage gives back."""

    orr: pd.DataFrame
    superiority: pd.DataFrame
    waterfall: pd.DataFrame
    spider: pd.DataFrame
    origins: dict[str, str]
    seconds: float
    patients: int


def trial_stage(inputs: Inputs, folder: RunFolder, devices: Devices, progress: Progress) -> TrialResult:
    """Simulate every cohort and return the tables; writes nothing."""
    import jax

    from vtrial import devices as device_module
    from vtrial.posterior import Draws
    from vtrial.rates import COLUMNS, orr_rows, response_rates, superiority
    from vtrial.response import RECIST_1_1
    from vtrial.translation import PriorSampler, plan_cohort
    from vtrial.trial import simulate as simulate_trial
    from vtrial.trial import trajectories

    experiment, config = inputs.experiment, inputs.experiment.trial
    begun, simulated = time.perf_counter(), 0
    marks = _marks(experiment, folder.manifest())
    orr, better, waterfall, spider, origins = [], [], [], [], {}
    key_prior, key_patients = jax.random.split(jax.random.key(config.seed))
    with folder.open_posterior() as tree, jax.default_device(device_module.device_for(devices.trial)):
        draws = Draws(tree, config.draws)
        sampler = PriorSampler(key_prior, inputs.priors, draws.size)
        between_trials = sampler.entry("translation.between_trials")
        for index, cohort in enumerate(config.cohorts):
            plan = plan_cohort(key_prior, cohort, config.visits, draws, inputs.priors, experiment.data.aliases)
            parts, step, total = [], max(draws.size // 10, 1), draws.size
            for first in range(0, total, step):
                piece = slice(first, min(first + step, total))
                counts = simulate_trial(
                    key_patients,
                    jax.tree.map(lambda x, piece=piece: x[piece], plan.law),
                    plan.exposure[piece],
                    plan.schedule,
                    plan.regimens,
                    plan.prevalence,
                    RECIST_1_1,
                    num_patients=config.patients,
                    first_draw=first,
                    devices=device_module.devices_for(devices.trial),
                )
                parts.append(jax.tree.map(np.asarray, counts))
                progress(f"trial, {cohort.label or cohort.tumour_type}", piece.stop, total)
            counts = jax.tree.map(lambda *x: np.concatenate(x), *parts)
            simulated += total * config.patients * plan.exposure.shape[1]
            rates = response_rates(plan, counts, config.confirmation)
            orr.append(
                orr_rows(cohort, plan, rates, config.seed + 1000 * index, config.patients, between_trials, marks)
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
        superiority=joined(better),
        waterfall=joined(waterfall),
        spider=joined(spider),
        origins=origins,
        seconds=round(time.perf_counter() - begun, 2),
        patients=simulated,
    )


def _waterfall(plan: Any, course: Any) -> pd.DataFrame:
    from vtrial.response import Response

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


def _marks(experiment: Experiment, manifest: Mapping[str, Any]) -> list[str]:
    """What every output must say first."""
    marks = []
    if not manifest.get("fit", {}).get("passed", True):
        marks.append("FIT DID NOT PASS ITS GATES")
    if experiment.is_quick:
        marks.append("quick")
    if experiment.data.synthetic:
        marks.append("synthetic data")
    return marks


def _table(folder: RunFolder, name: str) -> pd.DataFrame | None:
    """A table of the run folder; only an empty cell is missing: an arm may be called NA."""
    if not folder.exists(name):
        return None
    return pd.read_csv(folder.file(name), keep_default_na=False, na_values=[""])


def report_stage(inputs: Inputs, folder: RunFolder, trial: TrialResult | None) -> Path:
    """Write the page and the figures from what the folder holds."""
    from vtrial.report import ReportInputs, build_report, figure_data, orr_forest_image

    experiment, manifest = inputs.experiment, folder.manifest()
    orr, mice = _table(folder, "orr.csv"), _table(folder, "mouse_response.csv")
    if orr is None:
        raise InputError("holds no orr.csv; `vtrial run` writes it", file=folder.path)
    # the page says the marks at its head; what stays is where the published counts come from
    said = "; ".join(_marks(experiment, manifest))
    orr["source"] = orr["source"].fillna("").str.removeprefix(said).str.removeprefix("; ").replace("", None)
    mice = None if mice is None else mice.drop(columns="note")
    protocol = [
        (
            arm.name,
            [f"{drug} {describe(dosing.to_dosing())}" for drug, dosing in arm.drugs.items()],
            "\n\n".join(f"{drug}\n{calendar(dosing.to_dosing())}" for drug, dosing in arm.drugs.items()),
        )
        for cohort in experiment.trial.cohorts
        for arm in cohort.arms
    ]
    entries = [
        {
            "name": e.name,
            "family": e.family,
            "parameters": dict(e.parameters),
            "unit": e.unit,
            "source": e.source,
            "certainty": e.certainty,
            "note": e.note,
        }
        for e in inputs.priors.entries.values()
    ]
    origins = manifest.get("trial", {}).get("origins", {})
    notes = (*inputs.dataset.notes, *(f"{drug}: {word}" for drug, word in origins.items()))
    tables = {name: _table(folder, f"figures/{name}.csv") for name in ("superiority", "waterfall", "spider")}
    if trial is not None:
        tables = {"superiority": trial.superiority, "waterfall": trial.waterfall, "spider": trial.spider}
    tables = {name: None if table is None or table.empty else table for name, table in tables.items()}
    page = ReportInputs(
        experiment=experiment,
        manifest=manifest,
        orr=orr,
        mouse_response=mice,
        diagnostics=_table(folder, "diagnostics.csv"),
        gates=manifest["fit"]["gates"],
        prior_entries=entries,
        protocol=protocol,
        notes=notes,
        superiority=tables["superiority"],
        waterfall=tables["waterfall"],
        spider=tables["spider"],
    )
    folder.path.joinpath("figures").mkdir(exist_ok=True)
    for name, table in {**figure_data(page), **{n: t for n, t in tables.items() if t is not None}}.items():
        folder.write_csv(f"figures/{name}.csv", table)
    if len(orr):
        for kind in ("svg", "png"):
            folder.write_bytes(f"figures/orr_forest.{kind}", orr_forest_image(orr, kind))
    return folder.write_text("report.html", build_report(page))


# ------------------------------------------------------------------------------------------------ commands


def _folder(inputs: Inputs, out: Path | None) -> tuple[RunFolder, Path | None]:
    """The run folder, and where fits of the same name may be reused from (nowhere with an `out` of the user's)."""
    if out is not None:
        return RunFolder(out), None
    path = Path(default_run_dir("runs", inputs.experiment.name, inputs.run_key)).absolute()
    return RunFolder(path), path.parent


def _begin(inputs: Inputs, folder: RunFolder, devices: Devices) -> None:
    from vtrial import devices as device_module

    device_module.configure(devices.trial, devices.fit)
    folder.write_text("experiment.yaml", resolved_yaml(inputs.experiment, folder.path))
    experiment = inputs.experiment
    folder.update_manifest(
        {
            "name": experiment.name,
            "quick": experiment.is_quick,
            "synthetic": experiment.data.synthetic,
            "keys": {"fit": inputs.fit_key, "run": inputs.run_key},
            "device": device_module.describe(devices.trial, devices.fit),
            "seeds": {"fit": experiment.fit.seed, "mice": experiment.mice.seed, "trial": experiment.trial.seed},
            "inputs": {
                "table": {"file": inputs.dataset.path.name, "sha256": inputs.dataset.sha256},
                "priors": {"sha256": inputs.priors.sha256, "changes": list(inputs.priors.changes)},
                "evidence": [{"file": p.name, "sha256": file_sha256(p)} for p in experiment.evidence_paths()],
            },
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
    )


def fit(experiment: Experiment, out: Path | None, *, devices: Devices, console: Console | None) -> Path:
    """Run the first stage alone and return the run folder.

    Raises
    ------
    GateError
        If the fit did not pass its gates; its outputs are written.
    """
    inputs = read_inputs(experiment)
    folder, reuse = _folder(inputs, out)
    with folder.lock(), _reporting(console) as progress:
        _begin(inputs, folder, devices)
        entry = fit_stage(inputs, folder, devices, progress, reuse)
    _judge(entry, folder)
    return folder.path


def run(experiment: Experiment, out: Path | None, *, devices: Devices, console: Console | None) -> Path:
    """Fit, predict mice, simulate the trial, write tables and page; returns the run folder.

    Raises
    ------
    GateError
        After everything is written, if the fit did not pass its gates.
    """
    inputs = read_inputs(experiment)
    folder, reuse = _folder(inputs, out)
    with folder.lock(), _reporting(console) as progress:
        _begin(inputs, folder, devices)
        entry = fit_stage(inputs, folder, devices, progress, reuse)
        mice = mice_stage(inputs, folder, devices, progress)
        trial = trial_stage(inputs, folder, devices, progress)
        folder.write_csv("orr.csv", trial.orr)
        folder.update_manifest(
            {
                "mice": {"seconds": mice},
                "trial": {"seconds": trial.seconds, "patients": trial.patients, "origins": trial.origins},
            }
        )
        progress("report", 0, 1)
        report_stage(inputs, folder, trial)
    _judge(entry, folder)
    return folder.path


def _judge(entry: Mapping[str, Any], folder: RunFolder) -> None:
    if entry["passed"]:
        return
    failed = "; ".join(
        f"{g['name']} {'undefined' if g['value'] is None else format(g['value'], '.4g')} at {g['where']} "
        f"(limit {g['limit']:g})"
        for g in entry["gates"]
        if not g["passed"]
    )
    raise GateError(f"the fit did not pass its gates: {failed}", folder.path)


def _stored_inputs(folder: RunFolder, overrides: Sequence[str] = ()) -> Inputs:
    quick = bool(folder.manifest().get("quick", False))
    file = folder.file("experiment.yaml")
    experiment = load_resolved(file, quick, overrides)
    return read_inputs(experiment)


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
    folder = RunFolder(run_dir)
    extra = [
        *overrides,
        *([f"trial.patients={patients}"] if patients else []),
        *([f"trial.draws={draws}"] if draws else []),
    ]
    inputs = _stored_inputs(folder, extra)
    kept = folder.manifest().get("fit", {}).get("key")
    if kept != inputs.fit_key:
        raise InputError(
            "the settings, table or priors of the fit have changed since; run `vtrial run` on the experiment",
            file=folder.path,
        )
    with _reporting(console) as progress:
        trial = trial_stage(inputs, folder, devices, progress)
    rows = json.loads(trial.orr.to_json(orient="records", double_precision=15))
    return {
        "marks": _marks(inputs.experiment, folder.manifest()),
        "arms": rows,
        "draws": inputs.experiment.trial.draws,
        "patients": inputs.experiment.trial.patients,
        "seconds": trial.seconds,
        "patients_per_second": round(trial.patients / max(trial.seconds, 1e-9)),
    }


def report(run_dir: Path, *, console: Console | None) -> Path:
    """Write the page and figures of a run again from its tables."""
    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    for name in ("orr.csv", "diagnostics.csv"):
        if not folder.exists(name):
            raise InputError(f"holds no {name}; `vtrial run` writes it", file=folder.path)
    with folder.lock():
        return report_stage(inputs, folder, None)


def twin(run_dir: Path, out: Path, *, seed: int) -> int:
    """Write a synthetic twin of the single-agent panel of a run as gzip CSV; returns its number of rows."""
    import gzip

    import jax

    from vtrial.posterior import Draws
    from vtrial.store import whole
    from vtrial.twin import synthetic_twin

    folder = RunFolder(run_dir)
    inputs = _stored_inputs(folder)
    with folder.open_posterior() as tree:
        table = synthetic_twin(
            jax.random.key(seed),
            Draws(tree, 1),
            inputs.dataset,
            _stopping_rule(tree),
            loss_rate=float(tree.attrs["loss_rate"]),
        )
    # no name and no time in the header: equal tables give equal bytes
    content = gzip.compress(table.to_csv(index=False, lineterminator="\n").encode(), compresslevel=9, mtime=0)
    with whole(Path(out).absolute()) as aside:
        aside.write_bytes(content)
    return len(table)
