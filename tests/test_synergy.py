"""`vtrial synergy` on a run folder that holds nothing but draws: studies, curves, table, files, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.integrate import solve_ivp

from vtrial import cli
from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.experiment import load_experiment, resolved_yaml
from vtrial.inputs import read_inputs
from vtrial.priors import load_priors
from vtrial.report.synergy import format_synergy
from vtrial.store import RunFolder
from vtrial.synergy import COLUMNS, studies_of, study_curves, synergy_table

DRAWS, LOSS_RATE = 50, 0.02
#: PDX model, arm, last day; X-2 lacks B alone
ARMS = (
    ("X-1", "untreated", 14),
    ("X-1", "trametinib", 21),
    ("X-1", "BYL719", 28),
    ("X-1", "BYL719 + trametinib", 28),
    ("X-2", "untreated", 28),
    ("X-2", "trametinib", 28),
    ("X-2", "BYL719 + trametinib", 28),
)
EFFECT = {"untreated": 0.0, "trametinib": 0.6, "BYL719": 0.3, "BYL719 + trametinib": 1.2}
EXPERIMENT = """\
name: one-study
data:
  path: table.csv
  source: made for a test
  synthetic: true
  constants: {study: S, tumour_type: CRC}
"""
LAW = {
    "slowing": np.linspace(0.1, 0.3, DRAWS),
    "mu_intercept": np.full(DRAWS, 5.4),
}
#: of BYL719 and of trametinib
LOSS = np.stack([np.linspace(0.2, 0.8, DRAWS), np.linspace(1.0, 0.7, DRAWS)], axis=1)
#: mean effects over PDX models, by which the loss of both together is a mean: 13 and 12 parts with SMOOTHING 0.05
ALONE = [0.12, np.sqrt(0.0119)]
JOINT_LOSS = (13 * LOSS[:, 0] + 12 * LOSS[:, 1]) / 25
LN_GROWTH = np.log([0.08, 0.05]) + np.linspace(-0.1, 0.1, DRAWS)[:, None]
SPREAD = 0.05 * np.linspace(-1.0, 1.0, DRAWS)


def table() -> str:
    lines = ["pdx_model,mouse,arm,day,volume_mm3"]
    for model, arm, last in ARMS:
        for mouse in (1, 2):
            lines += [f"{model},{model}-{arm}-{mouse},{arm},{day},{200 + day}" for day in range(0, last + 1, 7)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    (tmp_path / "table.csv").write_text(table())
    return read_dataset(tmp_path / "table.csv", constants={"study": "S", "tumour_type": "CRC"})


def posterior() -> xr.DataTree:
    mice = [f"S/{model}-{arm}-{mouse}" for model, arm, _ in ARMS for mouse in (1, 2)]
    effect = np.repeat([EFFECT[arm] for _, arm, _ in ARMS], 2) + np.zeros((DRAWS, 1))
    effect[:, 6:8] += SPREAD[:, None]  # the combination of X-1
    leading = {"chain": [0], "draw": np.arange(DRAWS)}
    sites = {name: (("chain", "draw"), values[None]) for name, values in LAW.items()}
    sites["ln_growth"] = (("chain", "draw", "pdx_model"), LN_GROWTH[None])
    sites["effect"] = (("chain", "draw", "drug_type"), np.broadcast_to(ALONE, (1, DRAWS, 2)))
    sites["loss_drug_type"] = (("chain", "draw", "drug_type"), LOSS[None])
    leading["drug_type"] = ["BYL719 | CRC", "trametinib | CRC"]
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(sites, coords={**leading, "pdx_model": ["X-1", "X-2"]}),
            "cells": xr.Dataset(
                {"index": (("cell_draw",), np.arange(DRAWS)), "effect": (("cell_draw", "mouse"), effect)},
                coords={"mouse": mice},
            ),
        }
    )
    tree.attrs.update(loss_rate=LOSS_RATE, residual_days=30.0, residual_white=0.04)
    return tree


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "table.csv").write_text(table())
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    experiment = load_experiment(tmp_path / "experiment.yaml")
    run = RunFolder(tmp_path / "run")
    with run.lock():
        run.write_text("experiment.yaml", resolved_yaml(experiment, run.path))
        run.update_manifest({"fit": {"key": read_inputs(experiment).fit_key, "passed": True}})
        run.write_posterior(posterior())
    return run


def called(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main(["synergy", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_study_needs_control_and_every_drug_alone(dataset):
    (study,) = studies_of(dataset)
    assert (study.pdx_model, study.arm, study.drugs) == ("X-1", "BYL719 + trametinib", ("BYL719", "trametinib"))
    assert {name: len(mice) for name, mice in study.arms.items()} == dict.fromkeys(study.arms, 2)
    np.testing.assert_array_equal(study.days, [7, 14, 21, 28])
    assert study.last_day == 14  # the controls end first
    with pytest.raises(InputError, match=r"X-2 has 'BYL719 \+ trametinib' and lacks BYL719"):
        studies_of(dataset, "X-2")
    with pytest.raises(InputError, match=r"no PDX model 'X1'\. Did you mean 'X-1'\?"):
        studies_of(dataset, "X1")


def test_curves_are_those_of_the_growth_model(dataset):
    """ln V = growth [(1 - rho) t + (loss rho - slowing) q(t)], written out; loss of both drugs is between theirs."""
    (study,) = studies_of(dataset)
    curves = study_curves(posterior(), study)
    day = curves.day
    assert day[0] == 0 and day[-1] == 28 and np.diff(day).max() <= 0.25
    growth, slowing = np.exp(LN_GROWTH[:, :1]), LAW["slowing"][:, None]
    waning = day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE

    def expected(rho, loss) -> np.ndarray:
        return growth * ((1 - rho) * day + (loss[:, None] * rho - slowing) * waning)

    for found, rho, loss in (
        (curves.control, 0.0, LOSS[:, 0]),
        (curves.singles[:, 0], 0.3, LOSS[:, 0]),
        (curves.singles[:, 1], 0.6, LOSS[:, 1]),
        (curves.combination, 1.2 + SPREAD[:, None], JOINT_LOSS),
    ):
        # float64 throughout; q(t) is a difference of terms of 28
        np.testing.assert_allclose(found, expected(rho, loss), atol=1e-12)


def test_gompertz_curves_start_at_the_median_volume(dataset):
    """d ln V / dt = s + c (1 - exp(-lambda t)) - b (ln V - ln V_ref), by a fine Runge-Kutta in SciPy."""
    (study,) = studies_of(dataset)
    tree = posterior()
    tree.attrs.update(growth="gompertz", deceleration=0.01)
    curves = study_curves(tree, study)
    for draw in (0, DRAWS - 1):
        growth, loss, slowing = np.exp(LN_GROWTH[draw, 0]), LOSS[draw, 1], LAW["slowing"][draw]
        for found, rho in ((curves.control, 0.0), (curves.singles[:, 1], 0.6)):

            def slope(day, x, rho=rho, growth=growth, loss=loss, slowing=slowing):
                waned = -np.expm1(-LOSS_RATE * day)
                pull = 0.01 * (x - np.log(225.0))
                return growth * (1 - rho) + growth * (loss * rho - slowing) * waned - pull

            solved = solve_ivp(slope, (0.0, 28.0), [5.4], t_eval=[0.0, 14.0, 28.0], rtol=1e-10, atol=1e-12)
            at = np.searchsorted(curves.day, [0.0, 14.0, 28.0])
            np.testing.assert_allclose(found[draw, at], solved.y[0] - 5.4, atol=1e-8)


def test_the_index_is_that_of_the_effects(dataset):
    """ln CI of Bliss is growth times the sum of single effects, less the joint one, each times (t - its loss q(t))."""
    found = synergy_table(posterior(), studies_of(dataset), level=0.9)
    assert tuple(found.columns) == COLUMNS
    bliss = found[(found["reference"] == "bliss") & (found["day"] == 14)].iloc[0]
    waning = 14 - (1 - np.exp(-LOSS_RATE * 14)) / LOSS_RATE
    left = 14 - np.stack([*LOSS.T, JOINT_LOSS], axis=1) * waning
    ln_index = np.exp(LN_GROWTH[:, 0]) * (0.3 * left[:, 0] + 0.6 * left[:, 1] - (1.2 + SPREAD) * left[:, 2])
    assert bliss["combination_index"] == pytest.approx(
        np.exp(np.median(ln_index)), rel=1e-3
    )  # mean of two middle draws
    assert bliss["ci_low"] == pytest.approx(np.quantile(np.exp(ln_index), 0.05))
    assert bliss["synergy_score"] == pytest.approx(-np.median(ln_index) / ln_index.std(ddof=1))
    assert bliss["probability_synergy"] == np.mean(ln_index < 0)
    assert list(found[found["reference"] == "hsa"]["single_agent"].unique()) == ["trametinib"]
    assert list(found[found["reference"] == "bliss"]["beyond_data"]) == [False, False, True, True]
    assert found[found["reference"] == "ra"]["excess_points"].isna().all()


def test_command_writes_table_json_and_picture(folder, capsys, tmp_path):
    code, out, err = called(capsys, folder.path, "--out", tmp_path / "found")
    assert (code, err) == (0, "")
    assert "SYNTHETIC DATA" in out.splitlines()[0]
    assert "X-1" in out and "HSA (trametinib)" in out
    written = pd.read_csv(tmp_path / "found" / "synergy.csv")
    assert len(written) == 3 * 4 and set(written["note"]) == {"synthetic data"}
    kept = json.loads((tmp_path / "found" / "synergy.json").read_text())
    assert [row["reference"] for row in kept["studies"]] == ["bliss", "hsa", "ra"]
    assert all(row["day"] == 14 for row in kept["studies"]) and kept["draws"] == DRAWS
    assert kept["studies"][2]["excess_points"] is None
    assert (tmp_path / "found" / "synergy.png").read_bytes().startswith(b"\x89PNG")


def test_extreme_indices_are_told_apart_from_0_and_from_the_cap():
    row = {"pdx_model": "X", "arm": "a + b", "day": 21.0, "single_agent": "", "synergy_score": 1.0}
    row |= {"probability_synergy": 0.9, "combination_index": 0.0123, "ci_low": 4.56e-5, "ci_high": 100.0}
    result = {"marks": [], "level": 0.95, "draws": 400, "studies": [row | {"reference": "ra"}]}
    said = format_synergy(result)
    assert "0.012 [4.6e-05, >=100]" in said and "The index of additivity ends at 100" in said
    result["studies"] = [row | {"reference": "bliss", "ci_high": 12.34}]
    said = format_synergy(result)
    assert "0.012 [4.6e-05, 12.3]" in said and "ends at" not in said


def test_json_goes_to_the_run_folder_by_default(folder, capsys):
    code, out, _ = called(capsys, folder.path, "--json", "--arm", "trametinib + BYL719", "--pdx-model", "X-1")
    assert code == 0
    result = json.loads(out)
    assert result["files"][0] == str(folder.path / "synergy" / "synergy.csv")
    assert {row["level"] for row in result["studies"]} == {0.95}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pdx-model", "X-9"], "no PDX model 'X-9'"),
        (["--pdx-model", "X-2"], "lacks BYL719"),
        (["--arm", "trametinib + cetuximab"], "unknown drug 'cetuximab'"),
        (["--level", "95"], "must lie between 0 and 1, found 95"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_written(folder, capsys, arguments, said):
    code, out, err = called(capsys, folder.path, *arguments)
    assert (code, out) == (2, "") and said in err
    assert not (folder.path / "synergy").exists()


def test_a_table_that_changed_is_refused(folder, capsys, tmp_path):
    (tmp_path / "table.csv").write_text(table().replace(",207\n", ",209\n"))
    code, _, err = called(capsys, folder.path)
    assert code == 2 and "have changed since" in err


def test_priors_of_one_study_change_one_entry(pytestconfig):
    shipped, laid = load_priors(()), load_priors([pytestconfig.rootpath / "experiments" / "priors" / "one_study.yaml"])
    changed = [name for name in laid.entries if laid.entries[name] != shipped.entries[name]]
    assert changed == ["growth.mouse.ln_residual_spread"] and set(laid.entries) == set(shipped.entries)
