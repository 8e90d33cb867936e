"""Commands that ask something of a run, or of the priors: designs, synergy, comparisons, validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from vtrial.arguments import (
    Device,
    File,
    FitDevice,
    Quick,
    RunDir,
    Sets,
    app,
    check_run_folder,
    devices_of,
)
from vtrial.terminal import plain, print_table, progress_console, shown, width

DesignKind = Literal["simon", "fleming", "exact", "bop2", "predictive", "posterior", "fisher", "boschloo", "barnard"]


@app.command()
def design(
    run_dir: RunDir,
    kind: Annotated[DesignKind, typer.Option("--design", help="Which design.")],
    p0: Annotated[float, typer.Option("--p0", help="Response rate of no interest; of the control arm.")],
    p1: Annotated[float, typer.Option("--p1", help="Response rate hoped for.")],
    alpha: Annotated[float, typer.Option(help="Type I error, one-sided.")] = 0.05,
    beta: Annotated[float, typer.Option(help="Type II error.")] = 0.2,
    criterion: Annotated[Literal["optimal", "minimax"], typer.Option(help="Of Simon's design.")] = "optimal",
    size: Annotated[int | None, typer.Option("--n", metavar="N", help="Patients: exact, or each of two arms.")] = None,
    looks: Annotated[str, typer.Option(metavar="N,N,..", help="Patients at each look, where they can be chosen.")] = "",
    confidence: Annotated[float | None, typer.Option(help="P(p > p0) at the end; default: what keeps alpha.")] = None,
    futility: Annotated[float, typer.Option(help="Stop below this probability.")] = 0.05,
    efficacy: Annotated[float | None, typer.Option(help="Stop for success above this probability.")] = None,
    wanted: Annotated[float, typer.Option("--assurance", help="Assurance to find a sample size for.")] = 0.8,
    against: Annotated[str | None, typer.Option(metavar="ARM", help="Control arm of a two-arm trial.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Endpoint of orr.csv; default: its first.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where files go; default: RUN_DIR/designs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Work out a trial design, and how likely each arm of a run is to succeed in it."""
    from vtrial.designing import Request, design_trial, read_numbers

    request = Request(
        kind=kind,
        p0=p0,
        p1=p1,
        alpha=alpha,
        beta=beta,
        criterion=criterion,
        num_patients=size,
        looks=read_numbers(looks, "--looks"),
        confidence=confidence,
        futility=futility,
        efficacy=efficacy,
        wanted=wanted,
        against=against,
        endpoint=endpoint,
    )
    result = design_trial(run_dir, request, out)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from vtrial.report.designs import format_design

    print(format_design(result, width()))
    for file in result["files"]:
        print(shown(file))


@app.command()
def synergy(
    run_dir: RunDir,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where files go; default: RUN_DIR/synergy.")] = None,
    pdx_model: Annotated[str | None, typer.Option(metavar="NAME", help="This PDX model only.")] = None,
    arm: Annotated[str | None, typer.Option(help="This combination only.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Combination index and synergy score over days, of every PDX model with a combination and its parts alone."""
    check_run_folder(run_dir)
    devices_of("cpu", "cpu")
    from vtrial.synergy import synergy_of_run

    result = synergy_of_run(run_dir, out, pdx_model=pdx_model, arm=arm, level=level)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from vtrial.report.synergy import format_synergy

    print(format_synergy(result, width()))
    for file in result["files"]:
        print(shown(file))


@app.command(name="next-study")
def next_study(
    run_dir: RunDir,
    arm: Annotated[str | None, typer.Option(help="Arm of the run; default: the first with the most drugs.")] = None,
    subgroup: Annotated[str, typer.Option(help="Subgroup of its patients.")] = "all",
    models: Annotated[str, typer.Option(metavar="M,M,..", help="Numbers of new PDX models.")] = "5,10,20",
    mice: Annotated[str, typer.Option(metavar="N,N,..", help="Mice of each model in each arm.")] = "1,3,8",
    repeats: Annotated[int, typer.Option(help="Simulated studies under each draw.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated studies.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say how far new PDX models and mice would narrow what is believed of an arm's response rate."""
    check_run_folder(run_dir)
    devices_of("cpu", "cpu")
    from vtrial.designing import read_numbers
    from vtrial.next_study import next_study as study

    result = study(
        run_dir,
        arm=arm,
        subgroup=subgroup,
        num_models=read_numbers(models, "--models"),
        num_mice=read_numbers(mice, "--mice"),
        repeats=repeats,
        seed=seed,
    )
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from vtrial.report.designs import format_studies

    print(format_studies(result, width()))


@app.command()
def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Two run folders or more.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write a page (HTML).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Put the response rates of runs side by side: what differs, and whether by more than Monte Carlo error."""
    from vtrial.compare import compared
    from vtrial.report.side_by_side import comparison_page, comparison_text

    found = compared(run_dirs)
    if out is not None:
        from vtrial.disk import whole

        with whole(out.absolute()) as aside:
            aside.write_text(comparison_page(found), encoding="utf-8")
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(comparison_text(found).rstrip("\n"))
        if out is not None:
            print(shown(out))


@app.command("pdx-study")
def pdx_study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Protocol of the study (YAML).")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for volumes.csv and what is behind it.")],
    run_dir: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN_DIR", help="A fit of that table, to compare with what was planted."),
    ] = None,
) -> None:
    """Simulate a PDX study from implantation to endpoint, as a table to fit with what was planted in it."""
    from vtrial.pdx_protocol import read_protocol

    protocol = read_protocol(file)
    if run_dir is not None:
        check_run_folder(run_dir)
    devices_of("cpu", "cpu")
    from vtrial.pdx_study import study_folder

    tables = study_folder(protocol, out, run_dir)
    for name in ("flow", "readout", "recovery"):
        if name in tables:
            print(f"{name}:")
            print_table(tables[name])
    for name in tables:
        print(shown(out / f"{name}.csv"))


@app.command()
def sensitivity(
    run_dir: RunDir,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Priors shown of each arm.")] = 5,
) -> None:
    """Show which prior moves the response rate of each arm of a run, by power scaling; writes sensitivity.csv."""
    check_run_folder(run_dir)
    devices_of("auto", "auto")
    from vtrial import run as pipeline

    table = pipeline.sensitivity(run_dir)
    for (tumour_type, arm), rows in table.groupby(["tumour_type", "arm"], sort=False):
        print(plain(f"{tumour_type}: {arm}, mean response rate {100 * rows['mean'].iloc[0]:.1f} %"))
        chosen = rows.head(top).drop(columns=["tumour_type", "arm", "uses", "mean", "correlation", "source"])
        means = {name: 100 * chosen[name] for name in ("mean_low", "mean_high", "mean_wider", "mean_narrower")}
        print_table(chosen.assign(**means))
    print(shown(run_dir / "sensitivity.csv"))


@app.command()
def twin(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Table to write (gzip CSV).")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the synthetic mice.")] = 1,
) -> None:
    """Draw a synthetic twin of a run's single-agent panel, which holds no real measurement and may be passed on."""
    check_run_folder(run_dir)
    devices_of("auto", "auto")
    from vtrial import run as pipeline

    print(f"{pipeline.twin(run_dir, out, seed=seed):,} rows in {shown(out)}")


@app.command("predict-mice")
def predict_mice(
    run_dir: RunDir,
    pairs: Annotated[Path, typer.Option("--pairs", metavar="CSV", help="tumour_type, pdx_model, arm to predict.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for arms.csv and pairs.csv.")],
    rule: Annotated[
        Literal["fitted", "hsa", "bliss", "independent"] | None,
        typer.Option("--rule", help="All combinations by this rule, even those that the fit has seen."),
    ] = None,
) -> None:
    """Predict the mRECIST response of PDX models under arms, combinations that no model ever had among them."""
    check_run_folder(run_dir)
    devices_of("auto", "auto")
    from vtrial import run as pipeline

    print_table(pipeline.predict_mice(run_dir, pairs, out, rule=rule))
    print(shown(out))


@app.command()
def crossvalidate(
    file: File,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tables and the fits of the folds.")],
    leave: Annotated[
        Literal["combinations-by-type", "pdx-models"],
        typer.Option("--leave", help="The combinations of one tumour type at a time, or a part of the PDX models."),
    ] = "combinations-by-type",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Parts of the PDX models.")] = 5,
    quick: Quick = False,
    overrides: Sets = None,
    device: Device = "auto",
    fit_device: FitDevice = "auto",
) -> None:
    """Leave mice out, fit the rest, predict what was left out, and score it."""
    from vtrial.experiment import load_experiment

    experiment = load_experiment(file, overrides or (), quick)
    devices = devices_of(device, fit_device)
    from vtrial import run as pipeline

    scores = pipeline.crossvalidate(experiment, leave, folds, out, devices=devices, console=progress_console())
    print_table(scores)
    print(shown(out))


@app.command()
def validate(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the results.")],
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN_DIR", help="Fitted run. Default: the real mice where they are, else the twin."
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(metavar="D", min=50, help="Joint draws of mice and translation, 16 for each of the mice."),
    ] = None,
    patients: Annotated[int | None, typer.Option(metavar="N", min=500, help="Patients per draw and arm.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="256 draws, for a first look; the page says so.")] = False,
    teach: Annotated[
        Literal["orr", "all"],
        typer.Option(
            help="What trials teach with: responders alone (orr), or also medians of PFS and of time to response and "
            "counts of any shrinkage (all)."
        ),
    ] = "all",
    classes: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only arms whose drugs are all of these mechanism classes.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict and score every published arm, its own trial left out, and say whether mice help."""
    if run_dir is not None:
        check_run_folder(run_dir)
    devices = devices_of(device, "auto")
    from vtrial import scorecard
    from vtrial.priors import load_priors
    from vtrial.published_endpoints import ENDPOINTS
    from vtrial.taught import Settings

    endpoints = ENDPOINTS if teach == "all" else ENDPOINTS[:1]
    settings = Settings.of(draws, patients, quick=quick)._replace(endpoints=endpoints)
    console, word = progress_console(), ""
    chosen = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if run_dir is None:
        scorecard.of_classes(load_priors(), chosen)  # a slip is told before a fit begins
        run_dir, word = scorecard.choose_run(devices, console)
        print(word)
    result = scorecard.validate(run_dir, word, out, settings, quick=quick, console=console, classes=chosen)
    for line in (*result["marks"], *result["answer"]):
        print(plain(line))
    print(shown(result["page"]))


@app.command()
def calibrate(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the table.")],
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="TRIAL", help="A published trial that must not teach; may be given again."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(metavar="D", min=50, help="Joint draws, 16 for each of the mice.")
    ] = None,
    patients: Annotated[int | None, typer.Option(metavar="N", min=500, help="Patients per draw and arm.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="256 draws, for a first look; every row says so.")] = False,
    device: Device = "auto",
) -> None:
    """Response rates of a run before and after the published trials of single drugs have taught its translation."""
    check_run_folder(run_dir)
    devices_of(device, "auto")
    from vtrial import calibrated
    from vtrial.taught import Settings

    settings = Settings.of(draws, patients, quick=quick)
    found = calibrated.calibrate(run_dir, out, settings, leave_out or (), quick=quick, console=progress_console())
    for line in found["marks"]:
        print(plain(line))
    print(
        f"Learnt from {found['teachers']} published arms of single drugs. Response rate in %, mean and 90 % interval:"
    )
    print_table(calibrated.before_and_after(found["rates"]))
    if found["own"]:
        print(
            plain(f"Of these very drugs in this tumour type: {', '.join(found['own'])} (without: --leave-out TRIAL).")
        )
    print(shown(found["table"]))


@app.command()
def priors(
    file: File,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Picture of the consequences.")] = None,
    draws: Annotated[int, typer.Option(metavar="D", min=50, help="Draws of the priors.")] = 400,
    overrides: Sets = None,
) -> None:
    """Print the priors of an experiment and what they say before any mouse: growth, responses of mice and patients."""
    from vtrial.experiment import load_experiment
    from vtrial.priors import load_priors

    experiment = load_experiment(file, overrides or ())
    loaded = load_priors(experiment.prior_paths())
    devices_of("auto", "auto")
    from vtrial.consequences import consequences, parameters_text, sentence

    for entry in loaded.entries.values():
        print(plain(f"{entry.name}: {parameters_text(entry)}, unit {entry.unit}, {entry.certainty}"))
    for change in loaded.changes:
        print(plain(change))
    print("\nWhat follows before any mouse is read: median and 90 % interval")
    lines = consequences(experiment, loaded, draws, patients=2000)
    for line in lines:
        print(plain(f"  {sentence(line)}"))
    if out is not None:
        from vtrial.disk import whole
        from vtrial.report.prior_images import consequences_image

        with whole(out.absolute()) as aside:
            aside.write_bytes(consequences_image(lines, experiment.title or experiment.name))
        print(shown(out))
