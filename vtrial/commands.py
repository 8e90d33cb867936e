"""Commands that run: an experiment, its stages, sweeps of it, and what is needed around them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from vtrial.arguments import (
    Device,
    File,
    FitDevice,
    Out,
    Quick,
    RunDir,
    Sets,
    app,
    check_run_folder,
    devices_of,
)
from vtrial.errors import GateError
from vtrial.terminal import print_answer, print_result, progress_console, shown


@app.command()
def check(file: File, quick: Quick = False, overrides: Sets = None) -> None:
    """Read the configuration, priors and data, and say what would run, or what is wrong and where."""
    from vtrial.experiment import load_experiment

    experiment = load_experiment(file, overrides or (), quick)
    from vtrial import run as pipeline

    print(pipeline.check(experiment).rstrip("\n"))
    print("ok")


@app.command()
def run(
    file: File,
    out: Out = None,
    quick: Quick = False,
    overrides: Sets = None,
    device: Device = "auto",
    fit_device: FitDevice = "auto",
    reuse: Annotated[
        Path | None, typer.Option("--reuse-fits", metavar="DIR", help="Take an equal fit from a run folder in DIR.")
    ] = None,
) -> None:
    """Fit the curves, simulate the trial, and write tables, figures and a report."""
    from vtrial.experiment import load_experiment

    experiment = load_experiment(file, overrides or (), quick)
    devices = devices_of(device, fit_device)
    from vtrial import run as pipeline

    try:
        folder = Path(pipeline.run(experiment, out, devices=devices, console=progress_console(), reuse=reuse))
    except GateError as failure:
        print("THE FIT DID NOT PASS ITS GATES: the numbers below are not to be relied on.")
        print_answer(failure.folder or out)
        raise
    if experiment.fit.sampler == "variational":
        print("FIRST LOOK: a normal approximation in the place of the posterior, its spreads too small.")
    if experiment.is_quick:
        print("QUICK RUN: few draws and loose gates, for a first look only.")
    if experiment.data.synthetic:
        print("SYNTHETIC DATA: the table holds no real measurement.")
    print_answer(folder)
    print(shown(folder))


@app.command()
def fit(
    file: File,
    out: Out = None,
    quick: Quick = False,
    overrides: Sets = None,
    device: Device = "auto",
    fit_device: FitDevice = "auto",
) -> None:
    """Fit the curves only: the first stage of a run."""
    from vtrial.experiment import load_experiment

    experiment = load_experiment(file, overrides or (), quick)
    devices = devices_of(device, fit_device)
    from vtrial import run as pipeline

    print(shown(pipeline.fit(experiment, out, devices=devices, console=progress_console())))


@app.command()
def simulate(
    run_dir: RunDir,
    patients: Annotated[int | None, typer.Option(metavar="N", min=1, help="Patients per draw and arm.")] = None,
    draws: Annotated[int | None, typer.Option(metavar="D", min=1, help="Posterior draws.")] = None,
    overrides: Sets = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Simulate the trial of a run again, without fitting again."""
    check_run_folder(run_dir)
    devices = devices_of(device, "auto")
    from vtrial import run as pipeline

    console = None if as_json else progress_console()
    result = pipeline.simulate(
        run_dir, patients=patients, draws=draws, overrides=overrides or (), devices=devices, console=console
    )
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_result(result)


@app.command()
def report(run_dir: RunDir) -> None:
    """Write the tables, figures and page of a run again."""
    check_run_folder(run_dir)
    from vtrial import run as pipeline

    print(shown(pipeline.report(run_dir, console=progress_console())))


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder; its name is that of the study.")],
) -> None:
    """Write a commented experiment, priors and a table of synthetic mice that run as they are."""
    from vtrial.new import new_study

    file = shown(new_study(folder))
    print(f"{file}\nvtrial run {shlex.quote(file)} --quick")


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Show the JSON schema of the experiment file, for editors."""
    from vtrial.new import schema_text

    if out is None:
        print(schema_text(), end="")
        return
    from vtrial.disk import whole

    with whole(out.absolute()) as aside:
        aside.write_text(schema_text(), encoding="utf-8")
    print(shown(out))


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file (YAML).")],
    launcher: Annotated[Literal["local", "slurm"] | None, typer.Option("--launcher", help="What starts them.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", metavar="N", min=1, help="Runs side by side (local).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be started, and write nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Start failed scenarios again too.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: sweeps/NAME.")] = None,
) -> None:
    """Run an experiment under many settings, here or as an array of Slurm; what is done is left alone."""
    from vtrial import sweeping

    plan = sweeping.prepare(file, out, launcher, jobs, retry_failed)
    print(sweeping.format_plan(plan))
    if dry_run:
        print(sweeping.format_commands(plan))
        return
    for line in sweeping.start(plan, lambda line: print(line, flush=True)):
        print(line)


SweepDir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `vtrial sweep` left.")]


@app.command()
def status(folder: SweepDir) -> None:
    """Show what became of every scenario of a sweep."""
    from vtrial import sweeping

    print(sweeping.status(folder))


@app.command()
def collect(folder: SweepDir) -> None:
    """Gather the rates of a sweep in one table, a row per scenario and arm, and a page to compare them."""
    from vtrial import sweeping

    for line in sweeping.collect(folder):
        print(line)


@app.command()
def doctor() -> None:
    """Show versions, devices, memory, caches, and what is missing."""
    from vtrial.doctor import findings

    for line in findings():
        print(line)


@app.command()
def version() -> None:
    """Show the version."""
    from vtrial.devices import versions

    print(f"vtrial {versions(('vtrial',))['vtrial'] or 'not installed'}")
