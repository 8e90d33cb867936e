"""A run in a notebook: what `vtrial.load` shows without JAX, and a new study from its first command to other arms."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vtrial
from vtrial import cli, study
from vtrial.errors import InputError

ARM = "trametinib 2 mg"


def process(code: str, *arguments: str, folder: Path, **environment: str) -> str:
    paths = {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, cwd=folder, env=os.environ | paths | environment, timeout=560,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_nothing_heavy(tmp_path: Path) -> None:
    heavy = "{'jax', 'numpy', 'numpyro', 'pandas', 'xarray', 'pydantic', 'matplotlib', 'plotly'}"
    code = f"import sys, vtrial; assert callable(vtrial.load); print(sorted({heavy} & set(sys.modules)))"
    assert process(code, folder=tmp_path) == "[]\n"


def test_a_run_shows_its_rates_without_jax(made_run, tmp_path: Path) -> None:
    made_run("a", {ARM: 0.25})
    code = (
        "import sys, vtrial\nrun = vtrial.load('a')\n"
        "print(run.orr().loc[0, 'mean'], run.orr('dcr').loc[0, 'endpoint'])\n"
        "run._repr_html_(), run.plot_orr(), repr(run), str(run.trial)\nprint('jax' in sys.modules)\n"
    )
    assert process(code, folder=tmp_path) == "0.25 dcr\nFalse\n"


def test_what_a_run_says(made_run) -> None:
    bad = "<img src=x onerror=alert(1)>"
    run = vtrial.load(made_run("a", {bad: 0.25}))
    assert run.marks == ("synthetic data",) and "synthetic data" in repr(run)
    page = run._repr_html_()
    assert "<img" not in page and "&lt;img" in page and "SYNTHETIC DATA" in page and "25.0 % [12.5, 37.5] %" in page
    assert "SYNTHETIC DATA" in str(run.trial) and run.plot_orr().layout.title.text == "synthetic data"
    with pytest.raises(InputError, match=r"endpoint: must be one of confirmed_orr, dcr, found 'orr'"):
        run.orr("orr")
    with pytest.raises(
        InputError, match=r"mouse_response\.csv: is not there; tables of the run: diagnostics\.csv, orr\.csv"
    ):
        run.table("mouse_response.csv")
    with pytest.raises(InputError, match=r"posterior\.nc: is missing"):
        run.posterior  # noqa: B018
    with pytest.raises(InputError, match="is not a run folder"):
        vtrial.load(run.path.parent)


def test_endpoints_are_there_without_simulating(made_run) -> None:
    folder = made_run("a", {ARM: 0.25})
    with pytest.raises(InputError, match=r"holds no endpoints\.csv"):
        vtrial.load(folder).endpoints()
    head = "arm,tumour_type,subgroup,endpoint,unit,q05,q50,q95,missing"
    (folder / "endpoints.csv").write_text(f"{head}\nNA,ovarian,all,pfs_median,day,,168,,0.5\n")
    (row,) = vtrial.load(folder).endpoints().to_dict("records")
    assert row["arm"] == "NA" and row["q50"] == 168 and math.isnan(row["q95"])


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda text: text[:-30], "it ends in the middle of a line"),
        (lambda text: text.replace("endpoint", "end", 1), "no column endpoint"),
        (lambda text: text.replace("0.25", "a quarter", 1), "a quarter"),
        (lambda text: "", "No columns"),
    ],
)
def test_a_damaged_table_is_one_error_that_names_it(made_run, spoilt, reason: str) -> None:
    folder = made_run("a", {ARM: 0.25})
    (folder / "orr.csv").write_text(spoilt((folder / "orr.csv").read_text()))
    for look in (study.Run.orr, study.Run.plot_orr, study.Run._repr_html_):
        with pytest.raises(InputError, match=rf"a/orr\.csv: is damaged .*{reason}.*; `vtrial run` writes it"):
            look(vtrial.load(folder))


def test_a_table_without_rows_has_its_columns(made_run) -> None:
    folder = made_run("a", {ARM: 0.25})
    (folder / "orr.csv").write_text((folder / "orr.csv").read_text().splitlines()[0] + "\n")
    assert vtrial.load(folder).table("orr.csv").empty and "arm" in vtrial.load(folder).table("orr.csv")


@pytest.mark.parametrize(
    ("jupyter", "widgets", "terminal", "bar"),
    [(True, True, False, True), (True, False, True, False), (False, True, True, True), (False, True, False, False)],
)
def test_progress_is_a_bar_where_one_can_be_drawn(monkeypatch, jupyter, widgets, terminal, bar) -> None:
    """In Jupyter rich draws by ipywidgets and can only warn without; elsewhere the log tells how far it is."""
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", terminal)
    made = Console.__init__

    def init(self, *arguments, **options) -> None:
        made(self, *arguments, **options, force_jupyter=jupyter)

    monkeypatch.setattr(Console, "__init__", init)
    monkeypatch.setattr(study, "find_spec", lambda name: object() if widgets and name == "ipywidgets" else None)
    assert (study._console() is not None) is bar


FAULTS = {
    "a dose without unit": (
        {"arms": {"x": {"trametinib": {"dose": 3, "repeat": "7 d"}}}},
        r"run\.simulate: trial\.cohorts\.0\.arms\.0\.drugs\.trametinib\.dose: must be a dose above 0 .* found 3",
    ),
    "a misspelt key": (
        {"arms": [{"name": "x", "drug": {}}]},
        r"run\.simulate: trial\.cohorts\.0\.arms\.0\.drug: unknown key; did you mean 'drugs'\?",
    ),
    "an unknown drug": (
        {"arms": {"x": {"trametinb": {"dose": "2 mg", "repeat": "1 d"}}}},
        r"drugs\.trametinb: unknown drug 'trametinb'; did you mean 'trametinib'\?",
    ),
    "too few patients": (
        {"patients": 0},
        r"run\.simulate: trial\.patients: must be .* equal to 1, found 0",
    ),
    "a setting of the fit": ({"settings": {"fit": {"seed": 7}}}, r"have changed since"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_simulation_are_named(made_run, name: str) -> None:
    arguments, part = FAULTS[name]
    with pytest.raises(InputError, match=part):
        vtrial.load(made_run("a", {ARM: 0.25})).simulate(**arguments)


DRIVER = """\
import glob, io, json, shlex, sys
from contextlib import redirect_stdout
import numpy as np
from vtrial.cli import main
folder = "RUN"
for command in json.loads(sys.argv[1]):
    words = shlex.split(command.replace("RUN", folder))[1:]
    words = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    out = io.StringIO()
    with redirect_stdout(out):
        code = main(words)
    assert code == 0, (command, code)
    if words[0] == "run" and folder == "RUN":
        folder = out.getvalue().splitlines()[-1]
    if words[0] == "compare":
        compared = out.getvalue()
import vtrial
run = vtrial.load(folder)
combination = "trametinib 2 mg + drug-x 50 mg"
same = run.simulate()
regimen, half = ({"trametinib": {"dose": dose, "repeat": "1 d"}} for dose in ("2 mg", "1 mg"))
drug_x = run.experiment.trial.cohorts[0].arms[1].model_dump(mode="json")["drugs"]
# time is cut where any arm is switched on or off: with the switches of the run the counts are those of the run;
# and as many arms as there make the same compiled program
arms = {"as it was": regimen, "half": half, "both, half": half | drug_x}
other = run.simulate(arms)
elsewhere = run.simulate(arms, tumour_type="thyroid")
curves = run.pdx_curves("M03")
figure = run.plot_pdx("M03")
patients = run.patients()
told = {
    "compared": compared,
    "page": "What differs" in open("compare.html").read(),
    "same": bool(np.array_equal(run.orr()["mean"], same.orr()["mean"])),
    "mean": dict(zip(run.orr()["arm"], run.orr()["mean"].tolist())),
    "other": dict(zip(other.orr()["arm"], other.orr()["mean"].tolist())),
    "elsewhere": [sorted(set(elsewhere.orr()["tumour_type"])), len(elsewhere.orr())],
    "marks": other.marks,
    "models": run.pdx_models,
    "curves": [len(curves), sorted(set(curves["arm"])), float((curves["q05"] < curves["fitted_median"]).mean())],
    "near": float(np.median(np.abs(np.log(curves["volume_mm3"] / curves["fitted_median"]))[~curves["censored"]])),
    "panels": len(figure.layout.annotations),
    "patients": [sorted(set(patients.waterfall["arm"])), bool(patients.spider["day"].min() == 0)],
    "endpoints": [run.endpoints().equals(same.endpoints()), sorted(set(other.endpoints()["arm"]))],
    "plots": [len(run.trial.plot_waterfall(combination).data) > 0, len(run.trial.plot_spider(combination).data) > 0],
    "groups": sorted(run.posterior.children),
}
print(json.dumps(told))
"""


COMMANDS = (
    "vtrial new my-study",
    "vtrial run my-study/experiment.yaml --quick",
    "vtrial run my-study/experiment.yaml --quick --set trial.visits.every_days=28 --out four-weeks --reuse-fits runs",
    "vtrial compare RUN four-weeks --out compare.html",
)


@pytest.mark.slow
def test_a_study_from_its_first_command_to_other_arms(tmp_path: Path) -> None:
    """A new study with a whole quick fit, and what a notebook asks of its run."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {"VTRIAL_CACHE": str(tmp_path / "cache"), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment |= {"PYTHONWARNINGS": "error"}
    told = json.loads(process(DRIVER, json.dumps(COMMANDS), folder=tmp_path, **environment).splitlines()[-1])
    arms = ["drug-x 50 mg", ARM, "trametinib 2 mg + drug-x 50 mg"]
    # nothing changed: the same counts; the same arm under another name and beside others: the same patients
    assert told["same"] and told["other"]["as it was"] == pytest.approx(told["mean"][ARM], rel=1e-12)
    assert told["other"]["half"] < told["other"]["as it was"] and sorted(told["mean"]) == sorted(arms)
    assert told["elsewhere"] == [["thyroid"], 3] and told["marks"] == ["quick", "synthetic data"]
    assert told["models"] == [f"M{number:02d}" for number in range(1, 13)]
    assert told["curves"][1] == ["drug-x", "trametinib", "trametinib + drug-x", "vehicle"] and told["panels"] == 4
    # the table is drawn with a median residual of 0.1: half of a normal lies within 0.67 SD, thrice that for a bound
    assert told["curves"][2] > 0.99 and told["near"] < 0.2
    assert told["endpoints"] == [True, ["as it was", "both, half", "half"]]
    assert told["patients"] == [sorted(arms), True] and told["plots"] == [True, True]
    assert {"posterior", "cells", "sample_stats"} <= set(told["groups"])
    compared = told["compared"]
    assert "one and the same fit" in compared and "Fits, by" not in compared and "fit." not in compared
    assert "trial.visits.every_days" in compared and told["page"]
