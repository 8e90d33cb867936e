"""Curves of fitted mice against importance sampling from the prior of a mouse, written out in the model's own words."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.fitted import fitted_curves

LAW = {
    **{"mu_intercept": 5.0, "omega_intercept": 0.3, "omega_mouse": 0.3, "omega_curvature": 0.4},
    **{"curvature_correlation": -0.3, "loss": 0.5, "slowing": 0.3, "mu_ln_sigma": -1.0, "omega_ln_sigma": 0.4},
}
GROWTH, EFFECT, LOSS_RATE, LIMIT = 0.08, 1.6, 0.02, 50.0
DRAWS = 3000
#: volumes at or below 50 mm3 are hidden: none, some, and all after day 0
TABLE = """\
study,tumour_type,pdx_model,mouse,arm,day,volume_mm3
S,T,X-1,u,untreated,0,150
S,T,X-1,u,untreated,10,260
S,T,X-1,u,untreated,25,1100
S,T,X-1,a,A,0,150
S,T,X-1,a,A,10,80
S,T,X-1,a,A,25,20
S,T,X-1,a,A,32,70
S,T,X-1,b,A,0,130
S,T,X-1,b,A,14,0
S,T,X-1,b,A,28,10
"""


def posterior(coefficient: np.ndarray | None = None) -> xr.DataTree:
    """The same law in every draw, so that the draws of a curve are independent."""
    leading = {"chain": [0], "draw": np.arange(DRAWS)}
    sites = {name: (("chain", "draw"), np.full((1, DRAWS), value)) for name, value in LAW.items()}
    sites["ln_growth"] = (("chain", "draw", "pdx_model"), np.full((1, DRAWS, 1), np.log(GROWTH)))
    mice = ["S/u", "S/a", "S/b"]
    cells = {
        "index": (("cell_draw",), np.arange(DRAWS)),
        "effect": (("cell_draw", "mouse"), np.tile([0.0, EFFECT, EFFECT], (DRAWS, 1))),
    }
    if coefficient is not None:
        cells["coefficient"] = (("cell_draw", "mouse", "term"), coefficient)
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(sites, coords={**leading, "pdx_model": ["X-1"]}),
            "cells": xr.Dataset(cells, coords={"mouse": mice}),
        }
    )
    tree.attrs["loss_rate"] = LOSS_RATE
    return tree


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "t.csv").write_text(TABLE)
    return read_dataset(tmp_path / "t.csv", detection_limit_mm3=LIMIT)


def prior_curves(rng: np.random.Generator, effect: float, day: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """ln volumes [size, T] and residual scales [size] of mice before any measurement."""
    z = rng.standard_normal((4, size))
    rho = LAW["curvature_correlation"]
    wane = lambda t: t - (1 - np.exp(-LOSS_RATE * t)) / LOSS_RATE  # noqa: E731
    delta = GROWTH * LAW["omega_mouse"] * z[1]
    zeta = GROWTH * LAW["omega_curvature"] * (rho * z[1] + np.sqrt(1 - rho**2) * z[2])
    rate = GROWTH * (1 - effect) + delta - wane(28.0) / 28.0 * zeta
    bend = GROWTH * (LAW["loss"] * effect - LAW["slowing"]) + zeta
    intercept = LAW["mu_intercept"] + LAW["omega_intercept"] * z[0]
    sigma = np.exp(LAW["mu_ln_sigma"] + LAW["omega_ln_sigma"] * z[3])
    return intercept[:, None] + rate[:, None] * day + bend[:, None] * wane(day), sigma


def test_curves_are_the_prior_weighted_by_what_was_measured(dataset: Dataset) -> None:
    frame = fitted_curves(jax.random.key(3), posterior(), dataset, "X-1")
    assert list(frame["censored"].groupby(frame["mouse"]).sum()) == [1, 2, 0]
    rng = np.random.default_rng(4)
    for mouse, effect in (("u", 0.0), ("a", EFFECT), ("b", EFFECT)):
        own = frame[frame["mouse"] == mouse]
        day, censored = own["day"].to_numpy(float), own["censored"].to_numpy(bool)
        curves, sigma = prior_curves(rng, effect, day, 1_000_000)
        seen = norm.logpdf(np.log(np.maximum(own["volume_mm3"], 1e-9)), curves, sigma[:, None])
        hidden = norm.logcdf(np.log(LIMIT), curves, sigma[:, None])
        log_weight = np.where(censored, hidden, seen).sum(1)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        effective = 1.0 / np.sum(weight**2)
        assert effective > 3000, (mouse, effective)
        for place in range(len(own)):
            for name, level in (("q05", 0.05), ("fitted_median", 0.5), ("q95", 0.95)):
                below = weight @ (curves[:, place] < np.log(own[name].to_numpy()[place]))
                # both sides are samples: a quantile of DRAWS, a share of `effective`; 4.5 SE of 30 comparisons
                error = np.sqrt(level * (1 - level) * (1 / DRAWS + 1 / effective))
                assert abs(below - level) < 4.5 * error, (mouse, place, name, below)


def test_stored_coefficients_are_taken_as_they_are(dataset: Dataset) -> None:
    coefficient = np.zeros((DRAWS, 3, 3))
    coefficient[:, 1] = [5.0, -0.1, 0.0]
    frame = fitted_curves(jax.random.key(3), posterior(coefficient), dataset, "X-1")
    own = frame[frame["mouse"] == "a"]
    assert own["fitted_median"].to_numpy() == pytest.approx(np.exp(5.0 - 0.1 * own["day"].to_numpy()), rel=1e-12)
    assert (own["q05"] == own["q95"]).all()


def test_an_unknown_model_is_named_with_the_nearest(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"no PDX model 'X1' in this fit\. Did you mean 'X-1'\?"):
        fitted_curves(jax.random.key(0), posterior(), dataset, "X1")
