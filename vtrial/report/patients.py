"""Figures of virtual patients: waterfall, spider and swimmer of a sample, progression free survival of all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    RESPONSE_COLOURS,
    axis,
    figure,
    line,
    numbers,
    plain,
    points,
)
from vtrial.report.tables import is_missing, percent, percent_interval, records

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

_HEIGHT = 260


def of_arm(frame: pd.DataFrame, arm: str, tumour_type: str | None = None) -> pd.DataFrame:
    """Rows of one arm, of one cohort if it is named."""
    own = frame["arm"] == arm
    return frame[own if tumour_type is None else own & (frame["tumour_type"] == tumour_type)]


def waterfall(frame: pd.DataFrame, arm: str, tumour_type: str | None = None) -> Figure:
    """Best change in size of each patient of one arm, largest growth first; dashed at +20 and -30 %.

    Parameters
    ----------
    frame : DataFrame
        tumour_type, arm, subgroup, patient, best_change_pct (percent of baseline), response.
    arm : str
        The arm.
    tumour_type : str, optional
        The cohort, where several have an arm of this name.

    Returns
    -------
    plotly Figure
    """
    rows = [row for row in records(of_arm(frame, arm, tumour_type)) if not is_missing(row["best_change_pct"])]
    rows.sort(key=lambda row: (-row["best_change_pct"], str(row["patient"])))
    traces = []
    for response in _in_order(row["response"] for row in rows):
        own = [(rank, row) for rank, row in enumerate(rows, 1) if row["response"] == response]
        hover = [
            f"patient {plain(row['patient'])}, {plain(row['subgroup'])}<br>{plain(response)}, "
            f"{row['best_change_pct']:+.0f} %"
            for _, row in own
        ]
        # with a width, since Plotly would make the bars of a colour as wide as the gaps between them
        bars = {"x": [rank for rank, _ in own], "y": numbers(row["best_change_pct"] for _, row in own), "width": 0.88}
        look = {"marker": {"color": RESPONSE_COLOURS.get(response, MUTED)}, "hoverinfo": "text", "hovertext": hover}
        traces.append({"type": "bar", "name": plain(response), **bars, **look})
    top = max([30.0, *(row["best_change_pct"] for row in rows)])
    axes = {
        "barmode": "overlay",
        "xaxis": {"visible": False, "fixedrange": True, "range": [0.4, max(len(rows), 1) + 0.6]},
        "yaxis": axis("best change, %") | {"range": [-105, min(top, 100.0) + 5], "dtick": 50},
        "shapes": _thresholds(),
    }
    return figure(traces, _HEIGHT, **axes)


def spider(
    frame: pd.DataFrame, arm: str, responses: dict[str, str] | None = None, tumour_type: str | None = None
) -> Figure:
    """Change in size over time of each patient of one arm.

    Parameters
    ----------
    frame : DataFrame
        tumour_type, arm, patient, day, change_pct (percent of baseline).
    arm : str
        The arm.
    responses : dict of str to str, optional
        Patient -> best response, which gives the line its colour.
    tumour_type : str, optional
        The cohort, where several have an arm of this name.

    Returns
    -------
    plotly Figure
    """
    lines: dict[str, dict[str, list[Any]]] = {}
    rows = sorted(records(of_arm(frame, arm, tumour_type)), key=lambda row: (str(row["patient"]), row["day"]))
    last = None
    for row in rows:
        patient = str(row["patient"])
        response = (responses or {}).get(patient, "")
        line = lines.setdefault(response, {"x": [], "y": [], "hovertext": []})
        if patient != last and line["x"]:
            _append(line, None, None, "")
        last = patient
        text = f"patient {plain(patient)}<br>day {row['day']:.0f}, {row['change_pct']:+.0f} %"
        _append(line, row["day"], row["change_pct"], text)
    traces = [
        {
            **{"type": "scatter", "mode": "lines", "name": plain(response) or "patients", "hoverinfo": "text"},
            **{"x": numbers(line["x"]), "y": numbers(line["y"]), "hovertext": line["hovertext"], "opacity": 0.75},
            "line": {"color": RESPONSE_COLOURS.get(response, MUTED), "width": 1.4},
        }
        for response, line in ((response, lines[response]) for response in _in_order(lines))
    ]
    top = max([30.0, *(row["change_pct"] for row in rows if not is_missing(row["change_pct"]))])
    y = axis("change, %") | {"range": [-105, min(top, 100.0) + 5], "dtick": 50}
    return figure(traces, _HEIGHT, xaxis=axis("day") | {"rangemode": "tozero"}, yaxis=y, shapes=_thresholds())


def swimmer(frame: pd.DataFrame, arm: str, tumour_type: str | None = None) -> Figure:
    """Time on study of each patient of one arm, longest above: response, progression, and who was still followed.

    Parameters
    ----------
    frame : DataFrame
        tumour_type, arm, subgroup, patient, response, response_day (empty without one), end_day, end.
    arm, tumour_type : str
        As in `waterfall`.

    Returns
    -------
    plotly Figure
    """
    rows = sorted(records(of_arm(frame, arm, tumour_type)), key=lambda row: (row["end_day"], str(row["patient"])))
    lanes: dict[str, dict[str, list[Any]]] = {}
    for place, row in enumerate(rows):
        lane = lanes.setdefault(str(row["response"]), {"x": [], "y": []})
        lane["x"] += [0.0, row["end_day"], None]
        lane["y"] += [place, place, None]
    width = max(1.5, min(6.0, 150 / max(len(rows), 1)))
    traces = [
        line(lanes[response]["x"], lanes[response]["y"], {"color": colour, "width": width}, plain(response))
        for response in _in_order(lanes)
        for colour in [RESPONSE_COLOURS.get(response, MUTED)]
    ]
    lanes_of = list(enumerate(rows))
    responding = [one for one in lanes_of if not is_missing(one[1]["response_day"])]
    ended, followed = (
        [one for one in lanes_of if (one[1]["end"] == "progression") is progressed] for progressed in (True, False)
    )
    for name, symbol, at, found in (
        ("response", "triangle-up", "response_day", responding),
        ("progression", "x-thin-open", "end_day", ended),
        ("last seen", "triangle-right-open", "end_day", followed),
    ):
        hover = [
            f"patient {plain(row['patient'])}, {plain(row['subgroup'])}: {plain(row['response'])}"
            f"<br>{name} on day {row[at]:.0f}"
            for _, row in found
        ]
        marker = {"symbol": symbol, "size": 5, "color": INK}
        traces.append(points([row[at] for _, row in found], [place for place, _ in found], hover, name, marker))
    y = {"visible": False, "fixedrange": True, "range": [-1, max(len(rows), 1)]}
    return figure(traces, _HEIGHT, xaxis=axis("day") | {"rangemode": "tozero"}, yaxis=y)


def survival(frame: pd.DataFrame, tumour_type: str) -> Figure:
    """Progression free survival of every arm of a cohort: posterior mean of the Kaplan-Meier curves, 90 % interval.

    Parameters
    ----------
    frame : DataFrame
        tumour_type, arm, day, mean, q05, q95 (fractions).
    tumour_type : str
        The cohort.

    Returns
    -------
    plotly Figure
    """
    own = frame[frame["tumour_type"] == tumour_type]
    traces: list[dict[str, Any]] = []
    # arms that are dosed alike show the same, and are one curve
    alike: dict[tuple[float, ...], list[str]] = {}
    for arm, part in own.groupby("arm", sort=False):
        alike.setdefault(tuple(part["mean"]), []).append(str(arm))
    for place, arms in enumerate(alike.values()):
        rows, colour = records(own[own["arm"] == arms[0]]), PALETTE[place % len(PALETTE)]
        name = "<br>".join(plain(part) for arm in arms for part in textwrap.wrap(arm, 44))
        days, low, high = _steps(rows, "q05"), _steps(rows, "q05"), _steps(rows, "q95")
        band = {"x": [*days[0], *reversed(days[0])], "y": [*high[1], *reversed(low[1])]}
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        look = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.05)", "mode": "none", "hoverinfo": "skip"}
        group = {"legendgroup": str(place)}
        band = {axis_name: numbers(values) for axis_name, values in band.items()}
        traces.append({"type": "scatter", "name": name, "showlegend": False, **look, **band, **group})
        hover = [
            f"{name}<br>day {row['day']:.0f}: {percent(row['mean'])} {percent_interval(row['q05'], row['q95'])}"
            for row in rows
        ]
        curve = points([row["day"] for row in rows], [100 * row["mean"] for row in rows], hover, name, {"size": 5})
        dash = ("solid", "dash", "dot", "dashdot")[place % 4]
        # a point a visit; where there is one nearly every day they would hide the line
        mode = "lines+markers" if len(rows) <= 40 else "lines"
        look = {"mode": mode, "line": {"color": colour, "width": 2, "shape": "hv", "dash": dash}}
        traces.append(curve | look | group | {"marker": {"size": 4, "color": colour}})
    y = axis("progression free, %") | {"range": [0, 102], "dtick": 25}
    legend = {"orientation": "v", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}}
    below = 30 + 17 * sum(trace["name"].count("<br>") + 1 for trace in traces if trace.get("showlegend") is not False)
    margin = {"l": 52, "r": 12, "t": 12, "b": 44 + below}
    x = axis("day") | {"rangemode": "tozero", "gridcolor": GRID}
    return figure(traces, 300 + below, xaxis=x, yaxis=y, legend=legend, margin=margin)


def _steps(rows: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Corners of a curve that keeps its value up to the next row, in percent."""
    days: list[float] = []
    values: list[float] = []
    for row in rows:
        if days:
            days.append(row["day"])
            values.append(values[-1])
        days.append(row["day"])
        values.append(100 * row[name])
    return days, values


def _append(line: dict[str, list[Any]], x: float | None, y: float | None, text: str) -> None:
    for key, value in zip(("x", "y", "hovertext"), (x, y, text), strict=True):
        line[key].append(value)


def _in_order(responses: Iterable[Any]) -> list[str]:
    there = {str(response) for response in responses}
    return [*(known for known in RESPONSE_COLOURS if known in there), *sorted(there - set(RESPONSE_COLOURS))]


def _thresholds() -> list[dict[str, Any]]:
    line = {"color": MUTED, "width": 1, "dash": "dash"}
    ends = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line}
    return [ends | {"y0": value, "y1": value} for value in (20, -30)]
