"""Figures of mice: response rates predicted and observed, tumour growth inhibition, residuals of the fitted curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vtrial.report.figures import (
    LEGEND,
    MUTED,
    PALETTE,
    SHORT_LEGEND,
    axis,
    figure,
    intervals,
    label_notes,
    laid_out,
    line,
    numbers,
    plain,
    points,
)
from vtrial.report.tables import is_missing, percent, percent_interval, records

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

#: TGI is read on the last of these days that most controls are still measured on
TGI_DAYS = (28.0, 21.0, 14.0, 7.0)
#: a control that grew less says nothing of inhibition
LEAST_CONTROL_GROWTH = 0.2
UNTREATED, SINGLE, COMBINATION = "untreated", "single agents", "combinations"
_BIN_DAYS = 7.0


def mouse_scatter(frame: pd.DataFrame) -> Figure:
    """Observed against predicted response of mice, one point per tumour type and arm, with 90 % intervals.

    Parameters
    ----------
    frame : DataFrame
        Rows of mouse_response.csv, fractions.

    Returns
    -------
    plotly Figure
    """
    traces: list[dict[str, Any]] = []
    high = max([0.2, *(max(row["observed"], row["q95"]) for row in records(frame))])
    end = min(105.0, 100 * high + 4)
    diagonal = {"color": MUTED, "width": 1, "dash": "dot"}
    traces.append(line([0, end], [0, end], diagonal, "observed = predicted") | {"showlegend": False})
    for place, tumour_type in enumerate(dict.fromkeys(frame["tumour_type"])):
        rows = records(frame[frame["tumour_type"] == tumour_type])
        hover = [
            f"{plain(row['arm'])}, {plain(tumour_type)} ({row['num_models']:.0f} models)<br>observed "
            f"{percent(row['observed'])}<br>predicted {percent(row['mean'])} {percent_interval(row['q05'], row['q95'])}"
            for row in rows
        ]
        colour = PALETTE[place % len(PALETTE)]
        xs, ys = ([100 * row[name] for row in rows] for name in ("observed", "mean"))
        errors = {
            **{"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour},
            "array": numbers(100 * (row["q95"] - row["mean"]) for row in rows),
            "arrayminus": numbers(100 * (row["mean"] - row["q05"]) for row in rows),
        }
        marker = {"color": colour, "size": 7}
        traces.append(points(xs, ys, hover, plain(tumour_type), marker) | {"error_y": errors, "opacity": 0.8})
    x, y = (axis(title) | {"range": [-2, end]} for title in ("observed, %", "predicted, %"))
    top = 12 + 20 * -(-len(traces) // 3)
    return figure(
        traces, 440 + top, xaxis=x, yaxis=y, legend=SHORT_LEGEND, margin={"l": 52, "r": 12, "t": top, "b": 44}
    )


def new_models(tgi: pd.DataFrame) -> pd.DataFrame:
    """One row per tumour type, set of drugs and subgroup of tgi.csv, all models of a set first; fractions.

    Parameters
    ----------
    tgi : DataFrame
        Rows of tgi.csv.

    Returns
    -------
    DataFrame
        tumour_type, drugs, subgroup, day; q05 to q95 of the TGI of the median PDX model, model_q05 to model_q95 of one
        new PDX model, regressing (mean share of PDX models that shrink), above_singles (NaN for single drugs).
    """
    keys, quantiles = ["tumour_type", "drugs", "subgroup", "day"], ["q05", "q25", "q50", "q75", "q95"]
    of = {name: tgi[tgi["endpoint"] == name] for name in ("tgi", "regression")}
    median = of["tgi"][of["tgi"]["kind"] == "population"][[*keys, *quantiles, "above_singles"]]
    single = of["tgi"][of["tgi"]["kind"] == "predictive"].set_index(keys)[["q05", "q95"]].add_prefix("model_")
    regressing = of["regression"].set_index(keys)["mean"].rename("regressing")
    table = median.join(single, on=keys).join(regressing, on=keys)
    order = {
        key: place for place, key in enumerate(dict.fromkeys(zip(table["tumour_type"], table["drugs"], strict=True)))
    }
    place = [order[key] for key in zip(table["tumour_type"], table["drugs"], strict=True)]
    table = table.assign(place=place, part=table["subgroup"] != "all").sort_values(["place", "part"], kind="stable")
    return table.drop(columns=["place", "part"]).reset_index(drop=True)


def inhibition_forest(table: pd.DataFrame) -> Figure:
    """TGI of the median new PDX model with 50 and 90 % intervals, and of one new PDX model, faint.

    Parameters
    ----------
    table : DataFrame
        Of `new_models`.

    Returns
    -------
    plotly Figure
    """
    rows, labels, height = laid_out(table.rename(columns={"drugs": "arm"}), 1)
    hover = [
        f"{plain(row['label'])}<br>TGI on day {row['day']:.0f}: {percent(row['q50'], 0)} "
        f"{percent_interval(row['q05'], row['q95'], 0)}<br>one new PDX model "
        f"{percent_interval(row['model_q05'], row['model_q95'], 0)}<br>{percent(row['regressing'], 0)} of models shrink"
        for row in rows
    ]
    traces = intervals(rows, hover, "q50", "median model", ("model_q05", "model_q95", "one new PDX model, 90 %"))
    ends = [
        100 * row[name]
        for row in rows
        for name in ("q05", "q95", "model_q05", "model_q95")
        if not is_missing(row[name])
    ]
    # a model that grows on under a drug may be far below 0, where the rest would be squeezed
    x = axis("TGI, % (100: stasis)") | {
        "range": [max(min([0.0, *ends]), -100.0) - 4, min(max([110.0, *ends]), 200.0) + 4]
    }
    y = {"range": [height + 4, -6], "visible": False, "fixedrange": True}
    return figure(
        traces, height + 98, xaxis=x, yaxis=y, annotations=label_notes(labels), legend=LEGEND | {"entrywidth": 150},
        margin={"l": 12, "r": 12, "t": 54, "b": 44},
    )  # fmt: skip


def growth_inhibition(curves: pd.DataFrame, control: tuple[str, ...], limit_mm3: float) -> tuple[float, pd.DataFrame]:
    """Tumour growth inhibition of every arm, measured and fitted: TGI (%) = 100 (1 - (V_T - V_T0) / (V_C - V_C0)).

    Volumes are read between measurements on the line of ln volume, each mouse against the mean of the controls of its
    PDX model; one at or below the detection limit counts as the limit. Mice that were not followed to the day, and PDX
    models whose controls grew by less than a fifth, are left out.

    Parameters
    ----------
    curves : DataFrame
        As of `vtrial.fitted.fitted_curves`.
    control : tuple of str
        Arms without drug.
    limit_mm3 : float
        The detection limit.

    Returns
    -------
    day : float
        The last of `TGI_DAYS` on which at least four of five controls are still measured, else the first of them.
    table : DataFrame
        tumour_type, arm, num_mice, observed_q25, observed_q50, observed_q75, fitted_q50 (%).
    """
    columns = ["tumour_type", "arm", "num_mice", "observed_q25", "observed_q50", "observed_q75", "fitted_q50"]
    untreated = curves["arm"].isin(control)
    keys = ["tumour_type", "pdx_model", "arm", "mouse"]
    last = curves[untreated].groupby(keys)["day"].max()
    day = next((one for one in TGI_DAYS if len(last) and (last >= one).mean() >= 0.8), TGI_DAYS[-1])
    rows = []
    for names, mouse in curves.groupby(keys, sort=False):
        days = mouse["day"].to_numpy(float)
        if days[0] <= day <= days[-1]:
            gains = []
            for name in ("volume_mm3", "fitted_median"):
                at_least = np.maximum(mouse[name].to_numpy(float), limit_mm3)
                volume = np.exp(np.interp([days[0], day], days, np.log(at_least)))
                gains += [volume[1] - volume[0], volume[0]]
            rows.append([*names, *gains])
    mice = pd.DataFrame(rows, columns=[*keys, "gain", "start", "fitted_gain", "fitted_start"])
    of_control = mice["arm"].isin(control)
    reference = mice[of_control].groupby(["tumour_type", "pdx_model"])[["gain", "start", "fitted_gain"]].mean()
    reference = reference[reference["gain"] >= LEAST_CONTROL_GROWTH * reference["start"]]
    treated = mice[~of_control].join(reference.add_suffix("_control"), on=["tumour_type", "pdx_model"], how="inner")
    treated["observed"] = 100.0 * (1.0 - treated["gain"] / treated["gain_control"])
    treated["fitted"] = 100.0 * (1.0 - treated["fitted_gain"] / treated["fitted_gain_control"])
    table = [
        [*names, len(arm), *np.quantile(arm["observed"], (0.25, 0.5, 0.75)), float(np.median(arm["fitted"]))]
        for names, arm in treated.groupby(["tumour_type", "arm"])
    ]
    return day, pd.DataFrame(table, columns=columns)


def inhibition_scatter(table: pd.DataFrame, day: float) -> Figure:
    """Median TGI of every arm, measured against fitted, with the quartiles over PDX models of what was measured."""
    ends = [-20.0, 120.0]
    ends = [min(ends[0], *table["observed_q50"], *table["fitted_q50"]), max(ends[1], *table["observed_q50"] + 5)]
    ends[0] = max(ends[0], -100.0)
    traces = [line(ends, ends, {"color": MUTED, "width": 1, "dash": "dot"}, "equal") | {"showlegend": False}]
    for place, (tumour_type, part) in enumerate(table.groupby("tumour_type", sort=False)):
        rows, colour = records(part), PALETTE[place % len(PALETTE)]
        hover = [
            f"{plain(row['arm'])}, {plain(tumour_type)} ({row['num_mice']} mice)<br>TGI on day {day:.0f}: measured "
            f"{row['observed_q50']:.0f} % (quartiles {row['observed_q25']:.0f} to {row['observed_q75']:.0f})"
            f"<br>fitted {row['fitted_q50']:.0f} %"
            for row in rows
        ]
        xs, ys = ([row[name] for row in rows] for name in ("observed_q50", "fitted_q50"))
        errors = {
            **{"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour},
            "array": numbers(row["observed_q75"] - row["observed_q50"] for row in rows),
            "arrayminus": numbers(row["observed_q50"] - row["observed_q25"] for row in rows),
        }
        marker = {"color": colour, "size": 7}
        traces.append(points(xs, ys, hover, plain(tumour_type), marker) | {"error_x": errors, "opacity": 0.8})
    x, y = (axis(title) | {"range": [ends[0] - 4, ends[1] + 4]} for title in ("measured TGI, %", "fitted TGI, %"))
    top = 12 + 20 * -(-len(traces) // 3)
    return figure(
        traces, 440 + top, xaxis=x, yaxis=y, legend=SHORT_LEGEND, margin={"l": 52, "r": 12, "t": top, "b": 44}
    )


def residuals(curves: pd.DataFrame, num_drugs: Mapping[str, int]) -> pd.DataFrame:
    """Residuals ln(measured / median of the fit) of volumes above the detection limit, by week and kind of arm.

    Parameters
    ----------
    curves : DataFrame
        As of `vtrial.fitted.fitted_curves`.
    num_drugs : mapping
        Arm -> its number of drugs.

    Returns
    -------
    DataFrame
        kind (untreated, single agents, combinations), day (middle of the week), num_measurements, q05, q50, q95; weeks
        with fewer than 20 measurements of a kind are left out.
    """
    seen = curves[~curves["censored"].astype(bool)]
    kinds = (UNTREATED, SINGLE, COMBINATION)
    kind = [kinds[min(num_drugs[str(arm)], 2)] for arm in seen["arm"]]
    value = np.log(seen["volume_mm3"].to_numpy(float) / seen["fitted_median"].to_numpy(float))
    week = _BIN_DAYS * (np.floor(seen["day"].to_numpy(float) / _BIN_DAYS) + 0.5)
    table = pd.DataFrame({"kind": kind, "day": week, "value": value}).groupby(["kind", "day"])["value"]
    frame = table.quantile(np.array([0.05, 0.5, 0.95])).unstack().set_axis(["q05", "q50", "q95"], axis=1)
    frame.insert(0, "num_measurements", table.size())
    frame = frame[frame["num_measurements"] >= 20].reset_index()
    order = {name: place for place, name in enumerate((UNTREATED, SINGLE, COMBINATION))}
    return frame.sort_values(["kind", "day"], key=lambda x: x.map(order) if x.name == "kind" else x, ignore_index=True)


def residual_bands(frame: pd.DataFrame) -> Figure:
    """Median and 90 % range of the residuals over time, for each kind of arm."""
    traces: list[dict[str, Any]] = []
    for place, (kind, part) in enumerate(frame.groupby("kind", sort=False)):
        rows, colour = records(part), PALETTE[place]
        hover = [
            f"{kind}, week of day {row['day']:.0f}: {row['num_measurements']:,} volumes<br>median {row['q50']:+.3f}, "
            f"90 % of them {row['q05']:+.2f} to {row['q95']:+.2f}"
            for row in rows
        ]
        days = [row["day"] for row in rows]
        look = {"color": colour, "width": 1, "dash": "dot"}
        for name in ("q05", "q95"):
            side = line(days, [row[name] for row in rows], look, str(kind))
            traces.append(side | {"showlegend": False, "legendgroup": str(kind)})
        middle = points(days, [row["q50"] for row in rows], hover, str(kind), {"color": colour, "size": 6})
        look = {"mode": "lines+markers", "line": {"color": colour, "width": 2}, "legendgroup": str(kind)}
        traces.append(middle | look)
    y = axis("ln(measured / fitted)") | {"zeroline": True}
    return figure(
        traces, 320, xaxis=axis("day") | {"rangemode": "tozero"}, yaxis=y, legend=SHORT_LEGEND | {"entrywidth": 84},
        margin={"l": 56, "r": 12, "t": 36, "b": 44},
    )  # fmt: skip
