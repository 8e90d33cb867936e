"""Fitted curves of mice: quantiles of draws, mouse by mouse, and back from a posterior to the rows of the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.fitted import GROUP, curve_quantiles, fitted_curves
from vtrial.growth_laws import REFERENCE_VOLUME
from vtrial.model_format import CurveShape

SHAPE, DRAWS = CurveShape(), 101
GOMPERTZ = CurveShape(growth="gompertz", deceleration=0.03)
#: the rows of the mice lie mixed; mouse c is of another PDX model and the fit never saw mouse d
TABLE = """\
study,tumour_type,pdx_model,mouse,arm,day,volume_mm3
S,T,X-1,u,untreated,0,150
S,T,X-1,a,A,0,150
S,T,X-1,u,untreated,10,260
S,T,X-2,c,A,0,100
S,T,X-1,a,A,10,80
S,T,X-1,u,untreated,25,1100
S,T,X-2,c,A,7,90
S,T,X-1,a,A,32,5
S,T,X-1,d,A,0,130
S,T,X-1,d,A,9,110
"""
MICE = ["S/c", "S/a", "S/u"]  # the order of the fit, which is not that of the table


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "t.csv").write_text(TABLE)
    return read_dataset(tmp_path / "t.csv", detection_limit_mm3=10.0)


@pytest.fixture
def coefficient() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.array([5.0, 0.02, -0.01]) + np.array([0.3, 0.02, 0.02]) * rng.standard_normal((DRAWS, 3, 3))


def posterior(dataset: Dataset, coefficient: np.ndarray, shape: CurveShape = SHAPE) -> xr.DataTree:
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(coords={"pdx_model": ["X-1", "X-2"]}),
            "cells": xr.Dataset(coords={"mouse": MICE}),
            GROUP: curve_quantiles(coefficient, dataset, MICE, shape),
        }
    )


def test_quantiles_are_those_of_each_mouses_own_draws(dataset: Dataset, coefficient: np.ndarray) -> None:
    frame = fitted_curves(posterior(dataset, coefficient), dataset)
    assert list(frame["mouse"]) == ["c"] * 2 + ["a"] * 3 + ["u"] * 3
    assert list(frame["day"]) == [0, 7, 0, 10, 32, 0, 10, 25]
    assert list(frame["volume_mm3"]) == [100, 90, 150, 80, 5, 150, 260, 1100]
    assert list(frame["censored"]) == [False] * 4 + [True] + [False] * 3
    for row in frame.itertuples():
        own = coefficient[:, MICE.index(f"S/{row.mouse}")]
        day = float(row.day)
        # ln V = eta + s t + c q(t), written out once more
        loss_rate = SHAPE.loss_rate
        drawn = own[:, 0] + own[:, 1] * day + own[:, 2] * (day - (1 - np.exp(-loss_rate * day)) / loss_rate)
        # of 101 draws the quantiles are order statistics; float32 keeps ln volumes near 5 to 5e-7
        expected = np.exp(np.sort(drawn)[[5, 50, 95]])
        np.testing.assert_allclose([row.q05, row.fitted_median, row.q95], expected, rtol=2e-6)


def test_curves_follow_the_law_of_growth(dataset: Dataset) -> None:
    """A Gompertz mouse without loss: x(t) = K + (x(0) - K) exp(-b t), by an equation of its own."""
    level, rate, b = 5.0, 0.08, GOMPERTZ.deceleration
    coefficient = np.broadcast_to([level, rate, 0.0], (DRAWS, 3, 3))
    frame = fitted_curves(posterior(dataset, coefficient, GOMPERTZ), dataset)
    plateau = np.log(REFERENCE_VOLUME) + rate / b
    expected = plateau + (level - plateau) * np.exp(-b * frame["day"].to_numpy(float))
    np.testing.assert_allclose(np.log(frame["fitted_median"]), expected, rtol=1e-6)


def test_one_pdx_model_is_a_part_of_all(dataset: Dataset, coefficient: np.ndarray) -> None:
    tree = posterior(dataset, coefficient)
    part, whole = fitted_curves(tree, dataset, "X-1"), fitted_curves(tree, dataset)
    assert part.equals(whole[whole["pdx_model"] == "X-1"].reset_index(drop=True)) and len(part) == 6


def test_an_unknown_model_is_named_with_the_nearest(dataset: Dataset, coefficient: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"no PDX model 'X1' in this fit\. Did you mean 'X-1'\?"):
        fitted_curves(posterior(dataset, coefficient), dataset, "X1")


def test_a_posterior_without_curves_or_of_another_table_says_so(
    dataset: Dataset, coefficient: np.ndarray, tmp_path: Path
) -> None:
    tree = posterior(dataset, coefficient)
    (tmp_path / "other.csv").write_text(TABLE.replace("S,T,X-1,a,A,10,80\n", ""))
    with pytest.raises(InputError, match="not the table that the posterior was fitted to"):
        fitted_curves(tree, read_dataset(tmp_path / "other.csv", detection_limit_mm3=10.0))
    del tree[GROUP]
    with pytest.raises(InputError, match="holds no fitted curves: an earlier version made it"):
        fitted_curves(tree, dataset)
