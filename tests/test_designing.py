"""`vtrial design` on a run folder that holds nothing but draws: files, table, JSON, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vtrial import cli
from vtrial.assurance import RateDraws, assurance
from vtrial.design import simon, single_arm
from vtrial.designing import protocol, read_numbers
from vtrial.errors import InputError
from vtrial.store import ORR_DRAWS, RunFolder

ARMS, GROUPS = ["A", "A + B"], ["mutant", "all"]
RATE = np.random.default_rng(3).beta(2.0, 6.0, (200, 2, 2, 2)).astype(np.float32)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    rate = RATE.astype(float).copy()
    rate[:, 1, 0] = np.nan  # one drug has no null model
    data = xr.Dataset(
        {
            "rate": (("draw", "endpoint", "arm", "subgroup"), rate),
            "between_trials": (("draw",), np.full(200, 0.4)),
            "num_patients": (("subgroup",), [900, 2000]),
        },
        coords={
            "draw": np.arange(200) * 5,
            "endpoint": ["confirmed_orr", "confirmed_orr:bliss"],
            "arm": ARMS,
            "subgroup": GROUPS,
        },
        attrs={"tumour_type": "LGSOC", "label": "one"},
    )
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"marks": "quick; synthetic data"}), "cohort_1": data})
    with run.lock():
        run.write_posterior(tree, ORR_DRAWS)
    return run


def called(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["design", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_simon_of_a_run(folder, capsys):
    code, out, err = called(capsys, folder.path, "--design", "simon", "--p0", 0.15, "--p1", 0.4, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    design = simon(0.15, 0.4, 0.05, 0.2)
    assert result["design"]["looks"] == list(design.looks)
    assert result["design"]["success_at_or_above"] == [None, design.success[-1]]
    assert result["design"]["type_one_error"] <= 0.05 and result["design"]["power"] >= 0.8
    row = next(row for row in result["arms"] if row["arm"] == "A + B" and row["subgroup"] == "mutant")
    found = assurance(design, RateDraws(RATE[:, 0, 1, 0].astype(float), np.full(200, 0.4, np.float32), 900))
    assert row["assurance"] == pytest.approx(found.success, abs=1e-9)
    assert row["orr_mean"] == pytest.approx(RATE[:, 0, 1, 0].astype(float).mean(), abs=1e-12)
    assert row["go"] + row["think"] + row["no_go"] == pytest.approx(1.0, abs=1e-9)
    at = folder.path / "designs"
    assert {file.name for file in at.iterdir()} == {f"simon.{kind}" for kind in ("csv", "json", "svg", "png")}
    assert json.loads((at / "simon.json").read_text())["arms"] == result["arms"]
    table = pd.read_csv(at / "simon.csv")
    assert len(table) == 4 and set(table["note"]) == {"quick; synthetic data"}
    assert (at / "simon.png").read_bytes().startswith(b"\x89PNG")
    assert "quick; synthetic data" in (at / "simon.svg").read_text()


def test_the_table_says_marks_design_and_every_arm(folder, capsys, tmp_path):
    arguments = ("--p0", 0.15, "--p1", 0.4, "--out", tmp_path / "elsewhere")
    code, out, _ = called(capsys, folder.path, "--design", "bop2", "--looks", "10:30:10", *arguments)
    lines = out.splitlines()
    assert code == 0 and lines[:2] == ["QUICK.", "SYNTHETIC DATA."]
    assert any(line.startswith("Type I error 0.0") for line in lines) and "lambda: " in out
    assert sum(line.startswith(("A ", "A + B")) for line in lines) == 4
    assert (tmp_path / "elsewhere" / "bop2.png").is_file() and not (folder.path / "designs").exists()


def test_two_arms_leave_the_control_out(folder, capsys):
    arguments = ("--p0", 0.15, "--p1", 0.4, "--against", "A", "--n", 20, "--json")
    code, out, _ = called(capsys, folder.path, "--design", "boschloo", *arguments)
    result = json.loads(out)
    assert code == 0 and [row["arm"] for row in result["arms"]] == ["A + B", "A + B"]
    better = np.mean(RATE[:, 0, 1, 1] > RATE[:, 0, 0, 1])
    assert result["arms"][1]["better"] == pytest.approx(better, abs=1e-9)


def test_another_endpoint_has_the_arms_that_have_it(folder, capsys):
    arguments = ("--p0", 0.15, "--p1", 0.4, "--endpoint", "confirmed_orr:bliss", "--json")
    code, out, _ = called(capsys, folder.path, "--design", "exact", *arguments)
    assert code == 0 and {row["arm"] for row in json.loads(out)["arms"]} == {"A + B"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["simon", "--p0", "0.4", "--p1", "0.2"], "p1: must lie between p0 (0.4) and 1, found 0.2"),
        (["simon", "--p0", "nan", "--p1", "0.2"], "p0: must lie between 0 and 1, found nan"),
        (["simon", "--p0", "0.1", "--p1", "0.3", "--looks", "10,20"], "--looks: simon chooses its own"),
        (["simon", "--p0", "0.1", "--p1", "0.3", "--n", "20"], "--n: simon chooses its own size"),
        (["simon", "--p0", "0.1", "--p1", "0.3", "--assurance", "2"], "assurance: must lie between 0 and 1, found 2"),
        (["exact", "--p0", "0.1", "--p1", "0.3", "--n", "0"], "--n: must lie between 1 and 2000, found 0"),
        (["bop2", "--p0", "0.1", "--p1", "0.3"], "--looks: bop2 needs the patients at each look"),
        (["bop2", "--p0", "0.1", "--p1", "0.3", "--looks", "10,x"], "--looks: must be like 10,20,30"),
        (["bop2", "--p0", "0.1", "--p1", "0.3", "--looks", "10:20:0"], "--looks: must be like 10,20,30"),
        (["predictive", "--p0", "0.1", "--p1", "0.3", "--looks", "20,10"], "looks: must increase from 1 or more"),
        (["predictive", "--p0", "0.1", "--p1", "0.3", "--looks", "9,20", "--futility", "3"], "futility: must lie"),
        (["fisher", "--p0", "0.1", "--p1", "0.3"], "--against: fisher compares two arms"),
        (
            ["fisher", "--p0", "0.1", "--p1", "0.3", "--against", "C"],
            "--against: must be one of 'A', 'A + B', found 'C'",
        ),
        (["simon", "--p0", "0.1", "--p1", "0.3", "--endpoint", "pfs"], "--endpoint: must be one of confirmed_orr"),
        (["simon2", "--p0", "0.1", "--p1", "0.3"], "Invalid value for '--design'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder, capsys, arguments, told):
    code, out, err = called(capsys, folder.path, "--design", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and told in err
    assert not (folder.path / "designs").exists()


def test_a_run_without_draws_says_what_to_do(tmp_path, capsys):
    run = RunFolder(tmp_path / "old")
    with run.lock():
        pass
    code, _, err = called(capsys, run.path, "--design", "simon", "--p0", 0.1, "--p1", 0.3)
    assert code == 2 and "holds no orr_draws.nc; give `vtrial run` again" in err


def test_looks_and_protocol():
    assert read_numbers("", "--looks") == () and read_numbers("5, 10", "--looks") == (5, 10)
    assert read_numbers("10:20:5", "--looks") == (10, 15, 20)
    with pytest.raises(InputError):
        read_numbers("a:b", "--looks")
    design = single_arm((10, 11, 12, 30), (0, 0, 1, 5), (11, 5, 5, 6))
    assert protocol(design) == (
        "Stop without success at 0/10, 1/12 or fewer. Stop with success at 5/11 or more. "
        "Success at the end: 6 or more of 30."
    )
