"""Differences between arms and probabilities above a figure, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from vtrial.contrasts import CONTRASTS, EXCEEDANCE, FIGURES, contrasts, exceedance


def rates(values: np.ndarray, arms: list[str], between: float = 0.4) -> xr.DataTree:
    """One cohort of two subgroups from rates [D, arm, subgroup]; a second endpoint that nothing may read."""
    stacked = np.stack([values, np.full_like(values, 0.99)], axis=1)
    data = xr.Dataset(
        {
            "rate": (("draw", "endpoint", "arm", "subgroup"), stacked),
            "between_trials": (("draw",), np.full(len(values), between)),
            "num_patients": (("subgroup",), [1000, 2000]),
        },
        coords={
            "draw": range(len(values)),
            "endpoint": ["confirmed_orr", "dcr"],
            "arm": arms,
            "subgroup": ["mutant", "all"],
        },
        attrs={"tumour_type": "LGSOC"},
    )
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"marks": ""}), "cohort_1": data})


def test_differences_by_hand() -> None:
    of_a, of_b, of_c = [0.30, 0.20, 0.50, 0.10], [0.10, 0.20, 0.20, 0.20], [0.0, 0.0, 0.0, 0.0]
    values = np.stack([np.stack([of_a, of_b, of_c], axis=1)] * 2, axis=2)
    values[:, 0, 0] = of_b
    table = contrasts(rates(values, ["A + B", "A", "none"]), ["quick"])
    assert tuple(table.columns) == CONTRASTS and set(table["source"]) == {"quick"} and len(table) == 2 * 3
    row = table.set_index(["subgroup", "arm", "against"]).loc[("all", "A + B", "A")]
    differences = np.array([0.2, 0.0, 0.3, -0.1])
    assert row["difference"] == pytest.approx(0.1) and row["sd"] == pytest.approx(differences.std(ddof=1))
    # two above, one tie
    assert row["probability"] == pytest.approx(0.625) and row["q50"] == pytest.approx(0.1)
    alike = table.set_index(["subgroup", "arm", "against"]).loc[("mutant", "A + B", "A")]
    assert (alike["difference"], alike["sd"], alike["probability"]) == (0.0, 0.0, 0.5)


def test_one_arm_has_no_contrast() -> None:
    assert contrasts(rates(np.full((3, 1, 2), 0.2), ["A"]), []).empty


def test_probability_above_a_figure() -> None:
    rng = np.random.default_rng(4)
    draws, between = rng.beta(4, 8, 400), 0.5
    table = exceedance(rates(np.stack([draws, draws], axis=1)[:, None], ["A"], between), [])
    assert tuple(table.columns) == EXCEEDANCE and len(table) == 2 * len(FIGURES)
    own = table[table["subgroup"] == "all"].set_index("rate")
    assert np.all(np.diff(own["population"]) <= 0) and np.all(np.diff(own["trial"]) < 0)
    size = 200_000
    logit = np.log(draws / (1 - draws))[rng.integers(0, 400, size)] + between * rng.standard_normal(size)
    of_trials = 1 / (1 + np.exp(-logit))
    for figure in (0.1, 0.3, 0.6):
        assert own.loc[figure, "population"] == pytest.approx(np.mean(draws > figure), abs=1e-12)
        share = own.loc[figure, "trial"]
        assert abs(np.mean(of_trials > figure) - share) <= 5 * np.sqrt(share * (1 - share) / size)
