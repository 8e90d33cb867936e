"""Published counts under a predictive distribution, against binomials by SciPy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from vtrial.discrepancy import COLUMNS, discrepancies


def rates(values: list[float], between: float) -> xr.DataTree:
    data = xr.Dataset(
        {
            "rate": (("draw", "endpoint", "arm", "subgroup"), np.reshape(values, (-1, 1, 1, 1))),
            "between_trials": (("draw",), np.full(len(values), between)),
            "num_patients": (("subgroup",), [2000]),
        },
        coords={"draw": range(len(values)), "endpoint": ["confirmed_orr"], "arm": ["A"], "subgroup": ["all"]},
        attrs={"tumour_type": "CRC"},
    )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"marks": ""}), "cohort_1": data})


def experiment(responders: int, patients: int) -> SimpleNamespace:
    one = SimpleNamespace(subgroup="all", responders=responders, patients=patients, source="a trial")
    cohort = SimpleNamespace(tumour_type="CRC", arms=[SimpleNamespace(name="A", observed=[one])])
    return SimpleNamespace(trial=SimpleNamespace(cohorts=[cohort]))


def test_two_draws_are_a_mixture_of_two_binomials() -> None:
    # a deviation of one trial of SD 1e-6 on the logit is none
    found = discrepancies(experiment(10, 12), rates([0.2, 0.5], 1e-6), ["quick"])  # type: ignore[arg-type]
    assert list(found.columns) == list(COLUMNS)
    row = found.iloc[0]
    below = np.mean([stats.binom.cdf(9, 12, p) for p in (0.2, 0.5)])
    exactly = np.mean([stats.binom.pmf(10, 12, p) for p in (0.2, 0.5)])
    expected = {"predicted": 0.35, "at_most": below + exactly, "at_least": 1 - below, "mid_p": below + exactly / 2}
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert row["source"] == "quick; a trial"


def test_spread_between_trials_makes_a_surprise_smaller() -> None:
    narrow, wide = (
        discrepancies(experiment(10, 12), rates([0.35], sd), []).iloc[0]["at_least"]  # type: ignore[arg-type]
        for sd in (0.01, 0.8)
    )
    assert narrow < wide


def test_arms_without_a_count_have_no_row() -> None:
    other = experiment(1, 2)
    other.trial.cohorts[0].arms[0].observed = []
    assert discrepancies(other, rates([0.1], 0.4), []).empty  # type: ignore[arg-type]
