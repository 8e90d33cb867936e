"""The curves that a fit gives to the mice it was fitted to: median and 90 % interval at every measurement.

A fit integrates the coefficients ``(eta, s, c)`` of a mouse; draws of them from their exact conditional
(`vtrial.conditional`) are made at its end. What stays of them in ``posterior.nc`` are three quantiles of ln volume per
measurement, whatever the number of draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.errors import InputError
from vtrial.growth_laws import fixed_course, time_courses
from vtrial.table import listed, nearest

if TYPE_CHECKING:
    from vtrial.dataset import Dataset
    from vtrial.model_format import CurveShape

#: group of ``posterior.nc`` that holds the curves
GROUP = "fitted_curves"
QUANTILES = (0.05, 0.5, 0.95)
COLUMNS = ["pdx_model", "tumour_type", "arm", "mouse", "day", "volume_mm3", "censored"]
_MICE = 200  # mice whose draws lie in memory at once


def measurements(dataset: Dataset, mice: Iterable[str]) -> pd.DataFrame:
    """Rows of the table that a fit of these mice saw, mouse after mouse in the given order, by day.

    A column `place` is the mouse's place in that order.
    """
    place = {mouse: i for i, mouse in enumerate(mice)}
    used = dataset.used
    rows = used[used["mouse_key"].isin(place)]
    rows = rows.assign(place=rows["mouse_key"].map(place))
    return rows.sort_values(["place", "day"], kind="stable")


def curve_quantiles(coefficient: np.ndarray, dataset: Dataset, mice: Iterable[str], shape: CurveShape) -> xr.Dataset:
    """Quantiles of the fitted ln volume (mm3) of every mouse at its measurements, without the error of a measurement.

    Parameters
    ----------
    coefficient : array [D, S, 3]
        Draws of (eta, s, c) of the mice.
    dataset : Dataset
        The table that they were fitted to.
    mice : iterable of str
        Names of the S mice.
    shape : CurveShape
        Constants of a curve, the law of growth among them.

    Returns
    -------
    Dataset
        ``log_volume`` (measurement, quantile) float32, ``place`` (measurement) of the mouse among the S, ``day``.
    """
    rows = measurements(dataset, mice)
    place, day = rows["place"].to_numpy(), rows["day"].to_numpy(float)
    basis, fixed = time_courses(day, shape), fixed_course(day, shape)
    found = np.empty((len(rows), len(QUANTILES)), np.float32)
    for first in range(0, coefficient.shape[1], _MICE):
        own = (place >= first) & (place < first + _MICE)
        log_volume = fixed[own] + np.einsum("drk,rk->dr", coefficient[:, place[own]].astype(float), basis[own])
        found[own] = np.quantile(log_volume, QUANTILES, axis=0).T
    return xr.Dataset(
        {
            "log_volume": (("measurement", "quantile"), found),
            "place": (("measurement",), place.astype(np.int32)),
            "day": (("measurement",), day.astype(np.float32)),
        },
        coords={"quantile": list(QUANTILES)},
    )


def fitted_curves(tree: xr.DataTree, dataset: Dataset, pdx_model: str | None = None) -> pd.DataFrame:
    """Measured and fitted volumes of the mice of one PDX model, or of all.

    Parameters
    ----------
    tree : DataTree
        A posterior; see `vtrial.posterior`.
    dataset : Dataset
        The table that it was fitted to.
    pdx_model : str, optional
        Name of the PDX model; left out, all.

    Returns
    -------
    DataFrame, a row per measurement that the fit saw
        pdx_model, tumour_type, arm, mouse, day, volume_mm3, censored; fitted_median, q05 and q95 (mm3) of the mouse's
        own curve, without the error of a measurement.

    Raises
    ------
    InputError
        Where the fit has no such PDX model, with the nearest name; where the posterior holds no curves, or those of
        another table.
    """
    models = [str(name) for name in tree["posterior"]["pdx_model"].to_numpy()]
    if pdx_model is not None and pdx_model not in models:
        message = f"no PDX model {pdx_model!r} in this fit.{nearest(pdx_model, models)} It has {listed(models)}"
        raise InputError(message, key="pdx_model")
    if GROUP not in tree.children:
        raise InputError("the posterior holds no fitted curves: an earlier version made it; fit again in a new folder")
    curves = tree[GROUP].to_dataset()
    rows = measurements(dataset, [str(name) for name in tree["cells"]["mouse"].to_numpy()])
    if len(rows) != curves.sizes["measurement"] or not np.array_equal(rows["place"], curves["place"]):
        raise InputError("is not the table that the posterior was fitted to", file=dataset.path)
    low, median, high = np.exp(curves["log_volume"].to_numpy().astype(float)).T
    frame = rows[COLUMNS].assign(fitted_median=median, q05=low, q95=high)
    if pdx_model is not None:
        frame = frame[frame["pdx_model"] == pdx_model]
    return frame.reset_index(drop=True)
