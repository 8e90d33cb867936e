"""The command line: it reads arguments, prints, and turns every end of a run into one line and an exit code.

Exit codes: 0 done; 1 an unexpected fault; 2 bad input; 3 the fit did not pass its gates (all outputs are written and
say so); 4 stopped by Ctrl-C, SIGTERM or SIGUSR1, the same command goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vtrial.errors import GateError, InputError, InterruptedRun, VtrialError
from vtrial.signals import STOPPED, terminable
from vtrial.terminal import plain, print_answer, print_result, print_table, progress_console, shown, width

if TYPE_CHECKING:
    from vtrial.run import Devices

DEBUG = "VTRIAL_DEBUG"
# typer carries its own copy of click; the base of all faults of usage is reached through the one that it shows.
_UsageFault: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="vtrial",
    help="From tumour volumes of mice to the response rate of patients.",
    epilog="Exit codes: 0 done, 1 unexpected fault, 2 bad input, 3 the fit did not pass its gates, 4 stopped.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Kind = Literal["auto", "cpu", "cuda"]
DesignKind = Literal["simon", "fleming", "exact", "bop2", "predictive", "posterior", "fisher", "boschloo", "barnard"]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (YAML).")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder that `vtrial run` or `vtrial fit` left.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Run folder; nothing outside it is reused. Default: runs/NAME/KEY."),
]
Quick = Annotated[bool, typer.Option("--quick", help="About a minute, with loose gates; every output says so.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as fit.chains=2; may be given again."),
]
Device = Annotated[Kind, typer.Option("--device", help="Where the trial runs; auto is the GPU where there is one.")]
FitDevice = Annotated[Kind, typer.Option("--fit-device", help="Where the fit runs; auto is the CPU.")]


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
    devices = _devices(device, fit_device)
    from vtrial import run as pipeline

    try:
        folder = Path(pipeline.run(experiment, out, devices=devices, console=progress_console(), reuse=reuse))
    except GateError as failure:
        print("THE FIT DID NOT PASS ITS GATES: the numbers below are not to be relied on.")
        print_answer(failure.folder or out)
        raise
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
    devices = _devices(device, fit_device)
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
    _check_run_folder(run_dir)
    devices = _devices(device, "auto")
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
    _check_run_folder(run_dir)
    from vtrial import run as pipeline

    print(shown(pipeline.report(run_dir, console=progress_console())))


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
    _check_run_folder(run_dir)
    _devices("cpu", "cpu")
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
    _check_run_folder(run_dir)
    _devices("cpu", "cpu")
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
    from vtrial.compare import compared, comparison_page, comparison_text

    found = compared(run_dirs)
    if out is not None:
        from vtrial.store import whole

        with whole(out.absolute()) as aside:
            aside.write_text(comparison_page(found), encoding="utf-8")
    if as_json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(comparison_text(found).rstrip("\n"))
        if out is not None:
            print(shown(out))


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder; its name is that of the study.")],
) -> None:
    """Write a commented experiment, priors and a table of synthetic mice that run as they are."""
    from vtrial.new import new_study

    file = shown(new_study(folder))
    print(f"{file}\nvtrial run {shlex.quote(file)} --quick")


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
        _check_run_folder(run_dir)
    _devices("cpu", "cpu")
    from vtrial.pdx_study import study_folder

    tables = study_folder(protocol, out, run_dir)
    for name in ("flow", "readout", "recovery"):
        if name in tables:
            print(f"{name}:")
            print_table(tables[name])
    for name in tables:
        print(shown(out / f"{name}.csv"))


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")] = None,
) -> None:
    """Show the JSON schema of the experiment file, for editors."""
    from vtrial.new import schema_text

    if out is None:
        print(schema_text(), end="")
        return
    from vtrial.store import whole

    with whole(out.absolute()) as aside:
        aside.write_text(schema_text(), encoding="utf-8")
    print(shown(out))


@app.command()
def sensitivity(
    run_dir: RunDir,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Priors shown of each arm.")] = 5,
) -> None:
    """Show which prior moves the response rate of each arm of a run, by power scaling; writes sensitivity.csv."""
    _check_run_folder(run_dir)
    _devices("auto", "auto")
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
    _check_run_folder(run_dir)
    _devices("auto", "auto")
    from vtrial import run as pipeline

    print(f"{pipeline.twin(run_dir, out, seed=seed):,} rows in {shown(out)}")


@app.command("predict-mice")
def predict_mice(
    run_dir: RunDir,
    pairs: Annotated[Path, typer.Option("--pairs", metavar="CSV", help="tumour_type, pdx_model, arm to predict.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for arms.csv and pairs.csv.")],
) -> None:
    """Predict the mRECIST response of PDX models under arms, combinations that no model ever had among them."""
    _check_run_folder(run_dir)
    _devices("auto", "auto")
    from vtrial import run as pipeline

    print_table(pipeline.predict_mice(run_dir, pairs, out))
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
    devices = _devices(device, fit_device)
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
    draws: Annotated[int | None, typer.Option(metavar="D", min=50, help="Joint draws of mice and translation.")] = None,
    patients: Annotated[int | None, typer.Option(metavar="N", min=1, help="Patients per draw and arm.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="250 draws, for a first look; the page says so.")] = False,
    device: Device = "auto",
) -> None:
    """Predict and score every published arm, its own trial left out, and say whether mice help."""
    if run_dir is not None:
        _check_run_folder(run_dir)
    devices = _devices(device, "auto")
    from vtrial import scorecard
    from vtrial.validation import Settings

    default = Settings(draws=250) if quick else Settings()
    settings = Settings(draws or default.draws, patients or default.patients, default.seed)
    console, word = progress_console(), ""
    if run_dir is None:
        run_dir, word = scorecard.choose_run(devices, console)
        print(word)
    result = scorecard.validate(run_dir, word, out, settings, quick=quick, console=console)
    for line in (*result["marks"], *result["answer"]):
        print(plain(line))
    print(shown(result["page"]))


@app.command()
def priors(
    file: File,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Picture of the consequences.")] = None,
    draws: Annotated[int, typer.Option(metavar="D", min=50, help="Draws of the priors.")] = 400,
    overrides: Sets = None,
) -> None:
    """Print the priors of an experiment and what follows from them before any mouse: doubling times, response rates."""
    from vtrial.experiment import load_experiment
    from vtrial.priors import load_priors

    experiment = load_experiment(file, overrides or ())
    loaded = load_priors(experiment.prior_paths())
    _devices("auto", "auto")
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
        from vtrial.report.prior_images import consequences_image
        from vtrial.store import whole

        with whole(out.absolute()) as aside:
            aside.write_bytes(consequences_image(lines, experiment.title or experiment.name))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever goes wrong is one line on stderr.

    With ``VTRIAL_DEBUG=1`` in the environment the line follows the traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        with terminable():
            code = app(args=arguments, prog_name="vtrial", standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
        # typer turns Ctrl-C into the exit code of a shell.
        return _told(STOPPED, InterruptedRun.exit_code) if code == 130 else int(code or 0)
    except _UsageFault as error:
        hint = f"vtrial {arguments[0]} --help" if arguments[0] in _commands() else "vtrial --help"
        return _told(f"error: {error.format_message().rstrip('.')}; see {hint}", InputError.exit_code)
    except InterruptedRun as error:
        return _told(str(error) or STOPPED, error.exit_code)
    except VtrialError as error:
        return _told(f"error: {error}", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _told(STOPPED, InterruptedRun.exit_code)
    except BrokenPipeError:
        # The reader went away, as `head` does; Python would complain once more at exit.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 1
    except MemoryError:
        return _told("error: not enough memory; ask for fewer draws or patients", 1)
    except Exception as error:
        what = f"{type(error).__name__}: {str(error) or 'no message'}"
        return _told(f"unexpected error: {what[:500]} ({DEBUG}=1 shows where; please report it)", 1)


def _told(message: str, code: int) -> int:
    if os.environ.get(DEBUG, "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"vtrial: {plain(message)}", file=sys.stderr)
    return code


def _commands() -> set[str | None]:
    return {one.name or (one.callback.__name__ if one.callback else None) for one in app.registered_commands}


def _devices(device: Kind, fit_device: Kind) -> Devices:
    """Set the devices up before anything uses JAX; asking for one that is absent is an error here."""
    from vtrial import devices

    devices.configure(device, fit_device)
    from vtrial.run import Devices

    return Devices(trial=device, fit=fit_device)


def _check_run_folder(path: Path) -> None:
    from vtrial.store import RunFolder

    RunFolder(path).manifest()
