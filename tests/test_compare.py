"""Runs side by side: differences, their Monte Carlo error worked out by hand, settings, and the page."""

from __future__ import annotations

import base64
import json
import math
import re

import pytest

from vtrial import cli
from vtrial.compare import LIMIT, compared, comparison_page, comparison_text
from vtrial.errors import InputError


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
