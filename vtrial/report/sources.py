"""Where the uncertainty of a response rate comes from: bars of the variance of a trial's observed rate."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import INK, LINE, MUTED, axis, figure, numbers, plain
from vtrial.report.tables import is_missing, records

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

_COLOURS = {
    "mice": "#1f5f99",
    "combination rule": "#7a4a8c",
    "translation": "#b4531a",
    "patients and reading": "#3f7f4f",
    "several together": "#b9c3cc",
    "between trials": "#8c7a2a",
    "number of patients": "#e0d3a8",
}
_GAP = 16


def variance_bars(frame: pd.DataFrame) -> Figure:
    """Share of every source in the variance of the observed rate of one trial, a bar per arm.

    Parameters
    ----------
    frame : DataFrame
        Rows of uncertainty.csv.

    Returns
    -------
    plotly Figure
    """
    rows = records(frame)
    arms = list(dict.fromkeys((str(row["tumour_type"]), str(row["arm"])) for row in rows))
    several = len({tumour_type for tumour_type, _ in arms}) > 1
    y, at, notes = 0.0, {}, []
    sds = {}
    for arm in arms:
        own = [row for row in rows if (str(row["tumour_type"]), str(row["arm"])) == arm]
        sds[arm] = 100 * math.sqrt(sum(row["variance"] for row in own))
        label = f"{arm[0]}: {arm[1]}" if several else arm[1]
        label += f" (n = {own[0]['num_patients']:.0f}; SD {sds[arm]:.1f} points)"
        for part in textwrap.wrap(label, 50):
            text = {"text": plain(part), "showarrow": False, "font": {"size": 11.5, "color": INK}}
            place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y + LINE / 2, "yref": "y", "yanchor": "middle"}
            notes.append(text | place)
            y += LINE
        at[arm] = y + LINE / 2
        y += LINE + _GAP
    traces: list[dict[str, Any]] = []
    for source in dict.fromkeys(str(row["source"]) for row in rows):
        own = [row for row in rows if row["source"] == source]
        hover = []
        for row in own:
            arm = (str(row["tumour_type"]), str(row["arm"]))
            text = f"{plain(arm[1])}<br>{plain(source)}: {100 * row['share']:.0f} % of the variance"
            if not is_missing(row["first_order"]):
                index, error = 100 * row["first_order"], 100 * row["standard_error"]
                text += f"<br>{index:.0f} ± {error:.0f} % of the variance of the population's rate"
            hover.append(text)
        bars = {
            **{"type": "bar", "orientation": "h", "name": plain(source), "hoverinfo": "text", "hovertext": hover},
            **{"x": numbers(100 * row["share"] for row in own), "width": LINE},
            "y": [at[str(row["tumour_type"]), str(row["arm"])] for row in own],
        }
        traces.append(bars | {"marker": {"color": _COLOURS.get(source, MUTED)}})
    x = axis("share of the variance of a trial's observed rate, %") | {"range": [0, 100.5], "zeroline": False}
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11}, "traceorder": "normal"}
    looks = {"barmode": "stack", "annotations": notes, "legend": legend | {"entrywidth": 116}}
    margin = {"l": 12, "r": 12, "t": 86, "b": 48}
    span = {"range": [y, -6], "visible": False, "fixedrange": True}
    return figure(traces, y + 140, xaxis=x, yaxis=span, margin=margin, **looks)


def known_shares(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """First-order indices as a table: one row per arm, its standard deviations and every group's index."""
    arms: dict[tuple[str, str], dict[str, Any]] = {}
    for row in records(frame):
        key = (str(row["tumour_type"]), str(row["arm"]))
        arm = arms.setdefault(
            key, {"tumour_type": key[0], "arm": key[1], "groups": {}, "variance": 0.0, "population": 0.0}
        )
        arm["variance"] += row["variance"]
        arm["num_patients"] = row["num_patients"]
        if row["source"] not in ("between trials", "number of patients"):
            arm["population"] += row["variance"]
        if not is_missing(row["first_order"]):
            arm["groups"][str(row["source"])] = (row["first_order"], row["standard_error"])
    for arm in arms.values():
        arm["sd_trial"], arm["sd_population"] = math.sqrt(arm["variance"]), math.sqrt(arm["population"])
    return list(arms.values())
