"""The whole path on a tiny table: run, what it leaves, reuse, simulate, report, and a fit that does not pass."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.test_outputs import undocumented
from vtrial import cli

EXPERIMENT = """\
name: tiny
data:
  path: table.csv
  source: made for a test
  synthetic: true
  constants: {study: T, tumour_type: BRCA}
fit: {svi_steps: 50}
mice: {min_models: 3}
trial:
  visits: {every_days: 56, until_days: 224}
  cohorts:
    - tumour_type: BRCA
      arms:
        - name: trametinib 2 mg
          drugs: {trametinib: {dose: 2 mg, repeat: 1 d}}
          observed: [{subgroup: all, responders: 3, patients: 10, source: made up}]
        - name: NA
          drugs:
            trametinib: {dose: 2 mg, repeat: 1 d}
            alpelisib: {dose: 300 mg, repeat: 1 d}
"""
#: arm of the table -> fraction of growth removed
ARMS = {"untreated": 0.0, "trametinib": 0.6, "BYL719": 0.5, "BYL719 + trametinib": 1.1}
#: several commands in one process: what is compiled once serves them all; HOME is the folder of the first
DRIVER = """\
import contextlib, hashlib, io, json, logging, pathlib, sys
from vtrial.cli import main

def content():
    files = (p for p in sorted(pathlib.Path(".").rglob("*")) if p.is_file() and "cache" not in p.parts)
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

told, home = [], "HOME"
for arguments in json.loads(sys.argv[1]):
    arguments = [one.replace("HOME", home) for one in arguments]
    if arguments[0] == "remove":
        pathlib.Path(arguments[1]).unlink()
        continue
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    logging.getLogger("vtrial").handlers.clear()  # its handler holds the stderr of this command
    told.append([code, out.getvalue(), err.getvalue(), content()])
    home = told[0][1].splitlines()[-1] if told[0][1] else home
print(json.dumps(told))
"""
ORR_COLUMNS = (
    "arm,tumour_type,subgroup,endpoint,kind,num_patients,mean,sd,q05,q25,q50,q75,q95,"
    "observed_responders,observed_patients,source"
)
FILES = {
    "diagnostics.csv",
    "endpoints.csv",
    "engagement.csv",
    "experiment.yaml",
    "tgi.csv",
    "discrepancies.csv",
    "contrasts.csv",
    "exceedance.csv",
    "ranks.csv",
    "loo.csv",
    "manifest.json",
    "mouse_response.csv",
    "orr.csv",
    "orr_draws.nc",
    "posterior.nc",
    "report.html",
    "uncertainty.csv",
    "figures/ranks.csv",
    "figures/tgi.csv",
    "figures/curves.csv",
    "figures/orr_forest.svg",
    "figures/orr_forest.png",
}


class Told(NamedTuple):
    """One command: exit code, what it printed, and the hash of every file after it."""

    code: int
    out: str
    err: str
    files: dict[str, str]


def made_table(rng: np.random.Generator) -> str:
    """Twelve mice of three PDX models, exponential growth with noise."""
    lines = ["pdx_model,mouse,arm,day,volume_mm3"]
    for model in range(3):
        growth = 0.05 + 0.02 * model
        for place, (arm, effect) in enumerate(ARMS.items()):
            start, rate = rng.normal(5.3, 0.2), growth * (1.0 - effect) + rng.normal(0.0, 0.005)
            for day in range(0, 29, 4):
                volume = np.exp(start + rate * day + rng.normal(0.0, 0.1))
                lines.append(f"PDX-{model},m{model}{place},{arm},{day},{volume:.1f}")
    return "\n".join(lines) + "\n"


def commands(folder: Path, *arguments: tuple[str, ...]) -> list[Told]:
    """Run commands one after another in one fresh process, in `folder`; warnings are errors there too."""
    paths = {
        "PYTHONPATH": str(Path(cli.__file__).parent.parent),
        "VTRIAL_CACHE": str(folder / "cache"),
        # nothing here is long enough to be worth optimised code, which takes half a minute more to compile
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_PLATFORMS": "cpu",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(arguments)],
        capture_output=True, text=True, cwd=folder, env=os.environ | paths, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Told(*one) for one in json.loads(done.stdout.splitlines()[-1])]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.long
def test_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(made_table(np.random.default_rng(0)))
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    wanted = "BRCA,PDX-0,alpelisib\nBRCA,new,BYL719 + trametinib\n"
    (tmp_path / "pairs.csv").write_text("tumour_type,pdx_model,arm\n" + wanted)
    quick = ("run", "exp.yaml", "--quick")
    first, again, other, fresh, same, fewer, refused, page, failed, design, study, pairs, left_out, look = commands(
        tmp_path,
        quick,
        quick,
        (*quick, "--set", "trial.seed=9"),
        (*quick, "--out", "fresh"),
        ("simulate", "HOME", "--json"),
        ("simulate", "HOME", "--patients", "50", "--draws", "20", "--set", "trial.seed=4"),
        ("simulate", "HOME", "--set", "fit.seed=8"),
        ("remove", "HOME/report.html"),
        ("report", "HOME"),
        (*quick, "--set", "fit.gates.ess_bulk=1000000.0", "--out", "fresh"),
        ("design", "HOME", "--design", "simon", "--p0", "0.1", "--p1", "0.4", "--json"),
        ("next-study", "HOME", "--models", "3", "--mice", "2", "--repeats", "2", "--json"),
        ("predict-mice", "HOME", "--pairs", "pairs.csv", "--out", "predicted"),
        ("crossvalidate", "exp.yaml", "--quick", "--leave", "combinations-by-type", "--out", "left"),
        (*quick, "--set", "fit.sampler=variational", "--out", "look"),
    )
    for told in (first, again, other, fresh, same, fewer, page, design, study, pairs, left_out):
        assert told.code == 0, told.err
    for told in (refused, failed):
        assert "Traceback" not in told.err
    home = tmp_path / first.out.splitlines()[-1]
    folder = str(home.relative_to(tmp_path))
    assert home.parent == tmp_path / "runs" / "tiny" and again.out == first.out
    what_a_run_leaves(home, first)
    endpoints_of_the_run(home)

    # the same command again: the fit is not made anew, and every table has the same bytes
    assert "is there already" in again.err and "warm-up" not in again.err
    assert unchanged(again.files) == unchanged(first.files)
    # another seed of the trial: another run, the same fit
    second = tmp_path / other.out.splitlines()[-1]
    manifest = json.loads((second / "manifest.json").read_text())
    assert second.parent == home.parent and second != home and "warm-up" not in other.err
    assert manifest["fit"]["reused_from"] == home.name
    name = str(second.relative_to(tmp_path))
    for file in ("posterior.nc", "loo.csv"):
        assert other.files[f"{name}/{file}"] == first.files[f"{folder}/{file}"]
    densities = rows(home / "loo.csv")
    assert [row["level"] for row in densities] == ["pdx_model"] * 3 + ["mouse"] * 12
    assert all(np.isfinite(float(row["elpd"])) for row in densities)
    assert other.files[f"{name}/orr.csv"] != first.files[f"{folder}/orr.csv"]
    # a folder of the user's: nothing outside is reused, and equal seeds give equal bytes
    assert "warm-up" in fresh.err
    for file in (
        "orr.csv",
        "orr_draws.nc",
        "mouse_response.csv",
        "posterior.nc",
        "diagnostics.csv",
        "loo.csv",
        "figures/waterfall.csv",
    ):
        assert fresh.files[f"fresh/{file}"] == first.files[f"{folder}/{file}"], file

    # simulate leaves the files alone and, where nothing is changed, counts as the run did
    assert same.out[0] == "{"
    assert same.files == fewer.files == refused.files == fresh.files
    counts_as_the_run(json.loads(same.out), rows(home / "orr.csv"))
    assert fewer.out.startswith("QUICK.\nSYNTHETIC DATA.\n") and "patients: 50" in fewer.out
    assert refused.code == 2 and "the settings, table or priors of the fit have changed" in refused.err
    # report writes the page again, and what it reads stays as it is
    assert page.files.keys() == fresh.files.keys() and unchanged(page.files) == unchanged(fresh.files)
    a_fit_that_does_not_pass(tmp_path / "fresh", failed)
    what_decisions_rest_on(json.loads(design.out), json.loads(study.out), rows(home / "orr.csv"))
    assert study.files == design.files and f"{folder}/designs/simon.png" in design.files
    pairs_of_the_run(tmp_path / "predicted")
    combinations_left_out(tmp_path / "left")
    a_first_look(tmp_path / "look", look)
    # every column of every table of this folder, the design's among them, stands in docs/outputs.md
    assert undocumented(home) == {}


def what_decisions_rest_on(design: dict[str, Any], study: dict[str, Any], orr: list[dict[str, str]]) -> None:
    """The designs and the next study see the same draws that orr.csv sums up, stored as float32."""
    population = {row["arm"]: row for row in orr if (row["endpoint"], row["kind"]) == ("confirmed_orr", "population")}
    assert {row["arm"] for row in design["arms"]} == set(population)
    for row in design["arms"]:
        assert row["orr_mean"] == pytest.approx(float(population[row["arm"]]["mean"]), rel=1e-6)
    assert design["marks"] == study["marks"] == ["quick", "synthetic data"]
    now, three, known = study["studies"]
    width = float(population["NA"]["q95"]) - float(population["NA"]["q05"])
    assert study["arm"] == "NA" and now["width"] == pytest.approx(width, rel=1e-6)
    assert (three["models"], three["mice"], three["mice_total"]) == (3, 2, 24) and known["models"] is None


def pairs_of_the_run(folder: Path) -> None:
    """One that the fit has seen, under another of its names, and one that it has not."""
    arms, pairs = rows(folder / "arms.csv"), rows(folder / "pairs.csv")
    assert list(arms[0]) == ["tumour_type", "arm", "num_models", "mean", "q05", "q95", "in_sample", "note"]
    assert list(pairs[0]) == ["tumour_type", "pdx_model", "arm", "probability", "in_sample", "note"]
    assert [row["in_sample"] for row in arms] == [row["in_sample"] for row in pairs] == ["True", "False"]
    assert {row["note"] for row in (*arms, *pairs)} == {"quick; synthetic data"}
    assert undocumented(folder) == {}


def combinations_left_out(folder: Path) -> None:
    """Three mice of the only combination, by four rules from one fit that has not seen them."""
    (arm,), pairs, scores = (rows(folder / name) for name in ("arms.csv", "pairs.csv", "scores.csv"))
    assert (arm["arm"], arm["num_models"], arm["in_sample"]) == ("BYL719 + trametinib", "3", "False")
    assert {row["in_sample"] for row in pairs} == {"False"} and {row["note"] for row in pairs} == {arm["note"]}
    manifest = json.loads((folder / "manifest.json").read_text())
    (fold,) = manifest["folds"]
    assert fold["fold"] == "combinations-BRCA" and fold["mice"] == 9 and manifest["leave"] == "combinations-by-type"
    own = {row["score"]: float(row["value"]) for row in scores}
    assert own["arms"] == 1 and own["pairs"] == 3
    rules = {row["rule"]: row for row in rows(folder / "rules.csv")}
    assert list(rules) == ["fitted", "hsa", "bliss", "independent"]
    for name in ("mean_absolute_error", "misses", "interval_score", "log_score"):
        assert float(rules["fitted"][name]) == own[name]
    for rule in rules.values():
        gain = own["log_score"] - float(rule["log_score"])
        assert float(rule["log_score_difference"]) == pytest.approx(gain, abs=1e-12)
    assert undocumented(folder) == {}


def a_first_look(home: Path, told: Told) -> None:
    """Everything a run leaves, marked whether or not its own gate is passed; no chain is run."""
    fit = json.loads((home / "manifest.json").read_text())["fit"]
    (gate,) = (one for one in fit["gates"] if one["name"] == "k-hat of the normal approximation")
    assert told.code == (0 if fit["passed"] else 3) and fit["passed"] == all(one["passed"] for one in fit["gates"])
    assert gate["limit"] == 0.7 and gate["value"] is not None
    assert "variational start" in told.err and "warm-up" not in told.err
    assert ("leave out fit.sampler" in told.err) == (not gate["passed"])
    assert all((home / name).is_file() for name in FILES)
    assert all("first look: a normal approximation" in row["source"] for row in rows(home / "orr.csv"))
    page = (home / "report.html").read_text()
    assert "a normal approximation stands in the place" in page[: page.index("</header>")]


def unchanged(files: dict[str, str]) -> dict[str, str]:
    """All but the files that tell times."""
    return {
        name: digest
        for name, digest in files.items()
        if Path(name).name not in {"manifest.json", "report.html", ".lock"}
    }


def what_a_run_leaves(home: Path, told: Told) -> None:
    assert all((home / name).is_file() for name in FILES)
    assert "QUICK RUN" in told.out and "SYNTHETIC DATA" in told.out and "GATES" not in told.out
    assert (home / "orr.csv").read_text().splitlines()[0] == ORR_COLUMNS
    orr = rows(home / "orr.csv")
    assert {(row["arm"], row["kind"]) for row in orr} == {
        (arm, kind) for arm in ("trametinib 2 mg", "NA") for kind in ("population", "predictive")
    }
    assert {row["source"] for row in orr} == {"quick; synthetic data", "quick; synthetic data; made up"}
    nulls = {row["endpoint"] for row in orr if ":" in row["endpoint"]}
    assert nulls == {f"confirmed_orr:{name}" for name in ("independent_action", "best_single", "bliss")}
    assert all(0.0 <= float(row[name]) <= 1.0 for row in orr for name in ("mean", "q05", "q50", "q95"))
    mice = rows(home / "mouse_response.csv")
    assert list(mice[0]) == ["tumour_type", "arm", "num_models", "observed", "mean", "q05", "q95", "note"]
    assert {row["arm"] for row in mice} == set(ARMS) and {row["num_models"] for row in mice} == {"3"}
    manifest = json.loads((home / "manifest.json").read_text())
    assert manifest["keys"]["run"] == home.name and manifest["fit"]["passed"] is True
    assert {"device", "seeds", "inputs", "started", "mice", "trial"} <= set(manifest)
    page = (home / "report.html").read_text()
    head = page[: page.index("</header>")]
    assert "synthetic data" in head and "quick run" in head and "DID NOT PASS" not in head
    assert ">made up</li>" in page  # the source of the published counts, without the marks


def counts_as_the_run(result: dict[str, Any], orr: list[dict[str, str]]) -> None:
    assert result["marks"] == ["quick", "synthetic data"] and (result["draws"], result["patients"]) == (100, 500)
    assert result["patients_simulated"] == 2 * 100 * 500 and result["patients_per_second"] > 0
    assert result["seconds"] >= result["simulated_seconds"] > 0
    assert [(one["arm"], one["subgroup"]) for one in result["arms"]] == [("trametinib 2 mg", "all"), ("NA", "all")]
    assert result["arms"][0]["observed"] == {"responders": 3, "patients": 10} and not result["arms"][0]["null_models"]
    assert result["orr"]["BRCA | NA | all"] == result["arms"][1]["orr"]["mean"]
    entries = {one["arm"]: one for one in result["arms"]}
    for row in orr:
        endpoint, _, null = row["endpoint"].partition(":")
        entry = entries[row["arm"]]
        if null:
            found = entry["null_models"][null]
        elif endpoint == result["endpoint"]:
            found = entry["orr" if row["kind"] == "population" else "predictive_orr"]
        elif row["kind"] == "population":
            found = entry["others"][endpoint]
        else:
            continue
        for name in ("mean", "sd", "q05", "q25", "q50", "q75", "q95"):
            # JSON holds 15 digits, CSV all of them
            assert found[name] == pytest.approx(float(row[name]), rel=1e-14, abs=1e-15)


def endpoints_of_the_run(home: Path) -> None:
    """The rates that both tables hold are the same numbers, and the classes of best response sum to one."""
    orr = {(row["arm"], row["endpoint"]): row for row in rows(home / "orr.csv") if row["kind"] == "population"}
    table = {(row["arm"], row["endpoint"]): row for row in rows(home / "endpoints.csv")}
    for arm in ("trametinib 2 mg", "NA"):
        for name in ("confirmed_orr", "unconfirmed_orr"):
            for column in ("mean", "sd"):
                assert float(table[arm, name][column]) == pytest.approx(float(orr[arm, name][column]), rel=1e-12)
        assert float(table[arm, "confirmed_dcr"]["mean"]) == pytest.approx(float(orr[arm, "dcr"]["mean"]))
        for kind in ("confirmed", "unconfirmed"):
            classes = [float(table[arm, f"{kind}_bor_{name}"]["mean"]) for name in ("CR", "PR", "SD", "PD", "NE")]
            assert sum(classes) == pytest.approx(1.0)
    assert {row["source"] for row in table.values()} == {"quick; synthetic data"}
    sources_of_uncertainty(home)
    swimmer = rows(home / "figures" / "swimmer.csv")
    assert {row["tumour_type"] for row in swimmer} == {"BRCA"}
    assert all((row["response"] in ("CR", "PR")) == bool(row["response_day"]) for row in swimmer)


def sources_of_uncertainty(home: Path) -> None:
    """Every arm that responds at all, its variance shared out; and what the page draws of it."""
    table = rows(home / "uncertainty.csv")
    assert {row["note"] for row in table} == {"quick; synthetic data"}
    sds = {row["arm"]: float(row["sd"]) for row in rows(home / "orr.csv") if row["endpoint"] == "confirmed_orr"
           and row["kind"] == "population"}  # fmt: skip
    for arm in {row["arm"] for row in table}:
        own = {row["source"]: row for row in table if row["arm"] == arm}
        rule = ["combination rule"] if arm == "NA" else []  # which an arm of one drug never meets
        assert list(own) == ["mice", *rule, "translation", "patients and reading", "several together",
                             "between trials", "number of patients"]  # fmt: skip
        assert sum(float(row["share"]) for row in own.values()) == pytest.approx(1.0)
        of_population = [float(own[name]["variance"]) for name in list(own)[:-2]]
        assert sum(of_population) == pytest.approx(sds[arm] ** 2 * 99 / 100)  # 100 draws
    pfs = rows(home / "figures" / "pfs.csv")
    assert {row["arm"] for row in pfs} == set(sds) and {row["mean"] for row in pfs if float(row["day"]) == 0} == {"1.0"}


def a_fit_that_does_not_pass(home: Path, told: Told) -> None:
    """Exit code 3, every file written, and the failure said first in each."""
    assert told.code == 3 and told.out.startswith("THE FIT DID NOT PASS ITS GATES")
    assert "warm-up" not in told.err
    last = told.err.splitlines()[-1]
    assert last.startswith("vtrial: error: the fit did not pass its gates: bulk ESS, population ")
    assert "a quick fit has few draws: run it without --quick" in last
    assert all((home / name).is_file() for name in FILES)
    assert all(row["source"].startswith("FIT DID NOT PASS ITS GATES; quick") for row in rows(home / "orr.csv"))
    assert all(row["note"].startswith("FIT DID NOT PASS") for row in rows(home / "mouse_response.csv"))
    assert json.loads((home / "manifest.json").read_text())["fit"]["passed"] is False
    page = (home / "report.html").read_text()
    assert "<title>FIT DID NOT PASS: tiny" in page
    assert re.findall("<strong>(.{16})", page[page.index("<main>") :])[0] == "FIT DID NOT PASS"
