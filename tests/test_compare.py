"""Runs side by side: differences, their Monte Carlo error worked out by hand, settings, and the page."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pytest
import xarray as xr

from vtrial import cli
from vtrial.compare import compared
from vtrial.errors import InputError
from vtrial.report.side_by_side import LIMIT, comparison_page, comparison_text
from vtrial.store import ORR_DRAWS, RunFolder


def test_the_error_is_that_of_two_means(made_run) -> None:
    """SD 0.1 over min(1,000 draws, ESS 400): 0.1 / 20 = 0.005 a run, 0.005 sqrt(2) of the difference."""
    first = made_run("a", {"T": 0.30, "U": 0.30, "V": 0.30}, ess=400.0)
    error = 0.005 * math.sqrt(2.0)
    below, above = 0.30 + 0.99 * LIMIT * error, 0.30 + 1.01 * LIMIT * error
    second = made_run("b", {"T": below, "U": above, "W": 0.5}, ess=400.0)
    rates = compared([first, second]).rates
    other = rates[rates["run"] == "b"].set_index("arm")
    assert other.loc["T", "error"] == pytest.approx(0.005, rel=1e-12)
    assert other.loc["T", "difference_error"] == pytest.approx(error, rel=1e-12)
    assert other.loc["T", "difference"] == pytest.approx(below - 0.30, rel=1e-9)
    assert [bool(x) for x in other.loc[["T", "U"], "exceeds"]] == [False, True]
    assert math.isnan(other.loc["W", "difference"]) and not other.loc["W", "exceeds"]
    assert rates[rates["run"] == "a"]["difference"].isna().all()
    # the ESS bounds only from above: with many independent draws the draws of the trial count
    third = made_run("c", {"T": 0.30})
    assert compared([first, third]).rates.iloc[-1]["error"] == pytest.approx(0.1 / math.sqrt(1000), rel=1e-12)


def test_runs_of_one_fit_differ_draw_by_draw(made_run) -> None:
    """The same posterior file: SE = SD of the paired differences / sqrt(min(1,000 draws, ESS 400)), by hand."""
    rng = np.random.default_rng(1)
    of_first, of_other = rng.uniform(0.0, 1.0, 300), rng.uniform(0.0, 1.0, 300)
    posterior = xr.DataTree.from_dict({"/posterior": xr.Dataset({"loss": ("draw", [1.0, 2.0])})})
    runs = []
    for name, draws, sets in (
        ("a", of_first, []),
        ("b", of_first + 0.01 * of_other, []),
        ("other draws", of_other, ["trial.draws=300"]),
    ):
        run = made_run(name, {"T": float(draws.mean())}, ess=400.0, sets=sets)
        RunFolder(run).write_posterior(posterior)
        rate = xr.Dataset(
            {"rate": (("draw", "endpoint", "arm", "subgroup"), draws[:, None, None, None])},
            {"endpoint": ["confirmed_orr"], "arm": ["T"], "subgroup": ["all"]},
            {"tumour_type": "ovarian"},
        )
        RunFolder(run).write_posterior(xr.DataTree.from_dict({"/cohort_1": rate}), ORR_DRAWS, ["rate"])
        runs.append(run)
    rates = compared(runs).rates.set_index("run")
    assert rates.loc["b", "difference_error"] == pytest.approx((0.01 * of_other).std(ddof=1) / 20.0, rel=1e-9)
    assert rates.loc["b", "exceeds"]
    # SD 0.1 over sqrt(400) and over sqrt(300): other draws are not paired
    assert rates.loc["other draws", "difference_error"] == pytest.approx(math.hypot(0.1 / 20, 0.1 / math.sqrt(300)))


def test_settings_that_differ_and_no_others(made_run) -> None:
    first = made_run("a", {"T": 0.3})
    second = made_run("b", {"T": 0.3}, sets=["trial.seed=9", "trial.cohorts.0.arms.0.drugs.trametinib.dose=1 mg"])
    settings = compared([first, second]).settings.set_index("key")
    assert settings.to_dict("index") == {
        "trial.seed": {"a": "3", "b": "9"},
        "trial.cohorts.ovarian.arms.trametinib 2 mg.drugs.trametinib.dose": {"a": "2 mg", "b": "1 mg"},
    }
    same = made_run("same", {"T": 0.3})
    assert "are the same in all" in comparison_text(compared([first, same]))


def test_the_command_prints_writes_and_escapes(made_run, tmp_path, capsys) -> None:
    bad = "<script>alert(1)</script>"
    first, second = made_run("a", {bad: 0.3}), made_run("b", {bad: 0.9})
    page = tmp_path / "compare.html"
    assert cli.main(["compare", str(first), str(second), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert "SYNTHETIC DATA" in out and "+60.0 ± 0.4 points, more than Monte Carlo error" in out
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "SYNTHETIC DATA" in text and "://" not in text
    assert text == comparison_page(compared([first, second])) and "img-src data:" in text
    # the figure holds both runs, the arm's name as text
    drawn = base64.b64decode(re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)[0]).decode()
    assert [name in drawn for name in (">a<", ">b<", "&lt;script&gt;", "<script")] == [True, True, True, False]
    assert cli.main(["compare", str(first), str(second), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rates"][1]["exceeds"] is True and told["rates"][0]["difference"] is None


NULLS = "T + U,ovarian,all,confirmed_orr:{},population,40,{},0.1,0.01,0.02,0.03,0.04,0.5,,,\n"
ENDPOINTS = """arm,tumour_type,subgroup,endpoint,unit,mean,sd,q05,q25,q50,q75,q95,missing,source
T + U,ovarian,all,pfs_median,day,,,112.4,150,{},250,,0.1,
T + U,ovarian,all,dor_median,day,,,1,2,3,4,5,0.1,
"""


def test_rates_have_both_intervals_and_stand_beside_null_models_and_survival(made_run, capsys) -> None:
    """As in orr.csv and endpoints.csv; a run of an earlier version has no endpoints.csv, and a dash."""
    runs = [made_run(name, {"T + U": rate}) for name, rate in (("a", 0.4), ("b", 0.2), ("old", 0.2))]
    for run, bliss, days in zip(runs[:2], (0.35, 0.3), ("200.6", ""), strict=True):
        with (run / "orr.csv").open("a") as file:
            file.write(NULLS.format("bliss", bliss) + NULLS.format("independent_action", 0.25))
        (run / "endpoints.csv").write_text(ENDPOINTS.format(days))
    said = comparison_text(compared(runs))
    cells = [[cell.strip() for cell in re.split(r"  +", line)] for line in said.splitlines()]
    # the rates that made_run writes: quartiles at the mean, 5 % at half of it, 95 % at one and a half
    assert ["ovarian", "T + U", "all", "40.0 % [40.0, 40.0] [20.0, 60.0]"] in [row[:4] for row in cells]
    assert ["ovarian", "T + U", "all", "Bliss", "35.0 % [1.0, 50.0]", "30.0 % [1.0, 50.0]", "-"] in cells
    assert ["ovarian", "T + U", "all", "independent action", "25.0 % [1.0, 50.0]", "25.0 % [1.0, 50.0]", "-"] in cells
    assert ["ovarian", "T + U", "all", "201 [112, not reached]", "not reached [112, not reached]", "-"] in cells
    assert "dor" not in said and "Fits, by" not in said
    page = comparison_page(compared(runs))
    assert "Median progression free survival" in page and "<td>35.0\u00a0% [1.0,\u00a050.0]</td>" in page
    assert cli.main(["compare", *map(str, runs), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["q50"] for row in told["pfs_median_days"]] == [200.6, None]
    assert {row["model"] for row in told["null_models"]} == {"combination rule", "Bliss", "independent action"}
    assert told["rates"][0]["q25"] == 0.4


def test_runs_of_one_name_are_told_apart(made_run, tmp_path) -> None:
    for parent in ("x", "y"):
        (tmp_path / parent).mkdir()
    runs = [made_run(name, {"T": 0.3}) for name in ("x/r", "y/r")]
    assert compared(runs).names == ("x/r", "y/r")


def test_faults(made_run, tmp_path, capsys) -> None:
    first, other = made_run("a", {"T": 0.3}), made_run("b", {"U": 0.3})
    for runs, part in (
        ([first], "needs two run folders"),
        ([first, first], "is given twice"),
        ([first, other], "no arm in common with the first run, whose arms are T"),
        ([first, tmp_path / "none"], "is not a run folder"),
    ):
        with pytest.raises(InputError, match=part):
            compared(runs)
    (other / "orr.csv").write_text("arm,mean\nT,x\n")
    with pytest.raises(InputError, match=r"orr\.csv: is damaged"):
        compared([first, other])
    (other / "orr.csv").unlink()
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(first), str(other), "--out", str(page)]) == 2
    assert "holds no orr.csv" in capsys.readouterr().err and not page.exists()
