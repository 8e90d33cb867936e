"""The stages after the fit: what they cut a trial into, and what reaches the mice."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vtrial import pairs, run, simulation
from vtrial.config import MiceConfig
from vtrial.errors import InputError
from vtrial.simulation import MOST_DRAWS, piece_size

COEFFICIENT = np.array([-1.0, 0.5, 0.25])


def test_a_piece_is_a_tenth_of_the_draws_and_no_more_than_memory_has_room_for() -> None:
    assert [piece_size(draws) for draws in (1, 19, 600, 4000)] == [1, 1, 60, 400]
    assert piece_size(10 * MOST_DRAWS) == piece_size(1_000_000) == MOST_DRAWS


class Folder:
    """A run folder with a posterior of which only the stopping rule is read; keeps what is written."""

    def __init__(self, *_: object) -> None:
        self.written: dict[str, pd.DataFrame] = {}

    def open_posterior(self) -> nullcontext[xr.DataTree]:
        rule = xr.Dataset({"stopping_coefficient": ("feature", COEFFICIENT)})
        tree = xr.DataTree.from_dict({"constant_data": rule})
        tree.attrs["stopping_gap_days"] = 3.5
        return nullcontext(tree)

    path = Path("a run")

    def manifest(self) -> dict[str, Any]:
        return {"fit": {"key": "of the fit"}}

    def write_csv(self, name: str, table: pd.DataFrame) -> None:
        self.written[name] = table


@pytest.fixture
def inputs() -> SimpleNamespace:
    """Of an experiment whose mice leave with half the odds."""
    data, trial = SimpleNamespace(synthetic=False), SimpleNamespace(engraftment_bias=0.0, cut_off=None)
    mice = MiceConfig(leaving_odds_ratio=0.5)
    fit = SimpleNamespace(sampler="nuts")
    experiment = SimpleNamespace(mice=mice, data=data, trial=trial, fit=fit, is_quick=False)
    return SimpleNamespace(
        experiment=experiment,
        dataset=None,
        drug_class={},
        priors=SimpleNamespace(with_drugs=lambda _: None),
        fit_key="of the fit",
    )


def has_half_the_odds(rule: Any) -> bool:
    halved = COEFFICIENT + np.array([np.log(0.5), 0.0, 0.0])
    return np.allclose(rule.coefficient, halved, atol=1e-6) and rule.gap_days == 3.5


def test_mice_leave_with_the_odds_asked_for_and_the_table_says_so(inputs, monkeypatch) -> None:
    seen = []

    def predicted(key, draws, dataset, drug_class, rule, **_):
        seen.append(rule)
        return pd.DataFrame({"arm": ["A"]})

    monkeypatch.setattr(simulation, "predict_arms", predicted)
    monkeypatch.setattr(simulation, "Draws", lambda *_: None)
    monkeypatch.setattr(simulation, "shape_of", lambda *_: None)
    folder = Folder()
    simulation.mice_stage(inputs, folder, "cpu", lambda *_: None)  # pyright: ignore[reportArgumentType]
    assert len(seen) == 1 and has_half_the_odds(seen[0])
    said = folder.written["mouse_response.csv"]["note"].tolist()
    assert said == ["sensitivity: mice leave their study with 0.5 times the odds of the table"]


def test_predicted_pairs_leave_with_the_odds_of_their_run(inputs, monkeypatch, tmp_path) -> None:
    seen = []

    def predicted(key, tree, dataset, wanted, priors, stopping, *, rule):
        assert rule is None
        seen.append(stopping)
        return SimpleNamespace(pairs=pd.DataFrame({"arm": ["A"]}), responds=None)

    monkeypatch.setattr(run, "RunFolder", Folder)
    monkeypatch.setattr(run, "_stored_inputs", lambda _: inputs)
    monkeypatch.setattr(pairs, "read_pairs", lambda _: None)
    monkeypatch.setattr(pairs, "predict_pairs", predicted)
    monkeypatch.setattr(pairs, "arm_table", lambda *_: pd.DataFrame({"arm": ["A"]}))
    run.predict_mice(tmp_path, tmp_path / "pairs.csv", tmp_path / "out")
    assert len(seen) == 1 and has_half_the_odds(seen[0])
    said = "sensitivity: mice leave their study with 0.5 times the odds of the table"
    assert set(pd.read_csv(tmp_path / "out" / "pairs.csv")["note"]) == {said}
    # a table, setting or prior that has changed since: nothing is predicted, nothing written
    inputs.fit_key = "of another fit"
    commands = (
        partial(run.predict_mice, tmp_path, tmp_path / "pairs.csv", tmp_path / "other"),
        partial(run.sensitivity, tmp_path),
        partial(run.twin, tmp_path, tmp_path / "twin.csv", seed=1),
    )
    for command in commands:
        with pytest.raises(InputError, match="run `vtrial run` on the experiment"):
            command()
    assert len(seen) == 1 and not (tmp_path / "other").exists() and not (tmp_path / "twin.csv").exists()
