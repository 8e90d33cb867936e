"""Figures of the page and of notebooks, by Plotly, which is imported at first use.

Names come from data, and Plotly reads its texts as a little HTML: every name passes `plain`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from vtrial.report.tables import (
    counts,
    forest_data,
    is_missing,
    null_model_data,
    percent,
    percent_interval,
    records,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

INK, MUTED, GRID, FAINT = "#1c2733", "#5d6b7a", "#e4e8ec", "#d5dde5"
PREDICTED, PUBLISHED = "#1f5f99", "#b4531a"
RESPONSE_COLOURS = {"CR": "#0b4f6c", "PR": "#3d8fb8", "SD": "#b9c3cc", "PD": "#c8793a", "NE": "#e9e2d5"}
_PALETTE = ("#1f5f99", "#b4531a", "#3f7f4f", "#7a4a8c", "#8c7a2a", "#2a8c8c", "#a33b5e", "#5d6b7a")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LABEL_WIDTH = 50
Label: TypeAlias = tuple[float, str, bool]
LINE, _GAP = 17, 14  # pixels: a line of a label, the space between rows of a forest
# Two entries fit beside each other on a phone, all of them on a laptop.
_LEGEND = {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "font": {"size": 11}, "entrywidth": 112}


def plain(text: object) -> str:
    """A name as text for Plotly: no tags, no links, no mathematics."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("$", "&#36;")


def orr_forest(orr: pd.DataFrame) -> Figure:
    """Predicted response rates with 50 and 90 % intervals, the trial of n patients, and published counts.

    Parameters
    ----------
    orr : DataFrame
        Rows of orr.csv.

    Returns
    -------
    plotly Figure
    """
    rows, labels, height = laid_out(forest_data(orr))
    ys = [row["y"] for row in rows]
    hover = [
        f"{plain(row['label'])}<br>predicted {percent(row['mean'])}"
        f"<br>50 % {percent_interval(row['q25'], row['q75'])}<br>90 % {percent_interval(row['q05'], row['q95'])}"
        for row in rows
    ]
    seen = [row for row in rows if not is_missing(row["observed"])]
    published = [
        f"{plain(row['label'])}<br>published {counts(row)}"
        f"<br>95 % {percent_interval(row['observed_low'], row['observed_high'])}"
        for row in seen
    ]
    mean = {"color": "white", "size": 8, "line": {"color": PREDICTED, "width": 2}}
    traces = [
        _bars(rows, "predictive_q05", "predictive_q95", 12, FAINT, "trial of n, 90 %"),
        _bars(rows, "q05", "q95", 2, PREDICTED, "predicted, 90 %"),
        _bars(rows, "q25", "q75", 6, PREDICTED, "predicted, 50 %"),
        _points([100 * row["mean"] for row in rows], ys, hover, "mean", mean) | {"showlegend": False},
        _bars(seen, "observed_low", "observed_high", 1.5, PUBLISHED, "published, 95 %", shift=LINE)
        | {"showlegend": False},
        _points(
            [100 * row["observed"] for row in seen],
            [row["y"] + LINE for row in seen],
            published,
            "published, 95 %",
            {"color": PUBLISHED, "size": 9, "symbol": "diamond"},
        ),
    ]
    return _forest(traces, labels, height)


def null_models(orr: pd.DataFrame) -> Figure:
    """Combination arms under the combination rule and under each null model, with 90 % intervals."""
    data = null_model_data(orr)
    models = list(dict.fromkeys(str(name) for name in data["model"]))
    first = data[data["model"] == models[0]] if models else data
    heads, labels, height = laid_out(first, len(models))
    tops = {(row["tumour_type"], row["arm"], row["subgroup"]): row["y"] for row in heads}
    symbols = ("circle", "square", "triangle-up", "diamond", "cross")
    colours = (PREDICTED, MUTED, "#8c7a2a", "#7a4a8c", INK)
    traces = []
    for place, model in enumerate(models):
        colour = colours[place % len(colours)]
        rows = [
            row | {"y": tops[row["tumour_type"], row["arm"], row["subgroup"]] + place * LINE}
            for row in records(data[data["model"] == model])
            if (row["tumour_type"], row["arm"], row["subgroup"]) in tops
        ]
        hover = [
            f"{plain(row['arm'])}<br>{plain(model)} {percent(row['mean'])}"
            f"<br>90 % {percent_interval(row['q05'], row['q95'])}"
            for row in rows
        ]
        marker = {"color": colour, "size": 9, "symbol": symbols[place % len(symbols)]}
        traces.append(_bars(rows, "q05", "q95", 1.5, colour, plain(model)) | {"showlegend": False})
        traces.append(
            _points([100 * row["mean"] for row in rows], [row["y"] for row in rows], hover, plain(model), marker)
        )
    return _forest(traces, labels, height)


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
        bars = {"x": [rank for rank, _ in own], "y": numbers(row["best_change_pct"] for _, row in own)}
        look = {"marker": {"color": RESPONSE_COLOURS.get(response, MUTED)}, "hoverinfo": "text", "hovertext": hover}
        traces.append({"type": "bar", "name": plain(response), **bars, **look})
    top = max([30.0, *(row["best_change_pct"] for row in rows)])
    axes = {
        "bargap": 0.12,
        "barmode": "overlay",
        "xaxis": {"visible": False, "fixedrange": True, "range": [0.4, max(len(rows), 1) + 0.6]},
        "yaxis": axis("best change, %") | {"range": [-105, min(top, 100.0) + 5], "dtick": 50},
        "shapes": _thresholds(),
    }
    return figure(traces, 260, **axes)


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
    return figure(traces, 260, xaxis=axis("day") | {"rangemode": "tozero"}, yaxis=y, shapes=_thresholds())


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
    traces.append(_line([0, end], [0, end], diagonal, "observed = predicted") | {"showlegend": False})
    for place, tumour_type in enumerate(dict.fromkeys(frame["tumour_type"])):
        rows = records(frame[frame["tumour_type"] == tumour_type])
        hover = [
            f"{plain(row['arm'])}, {plain(tumour_type)} ({row['num_models']:.0f} models)<br>observed "
            f"{percent(row['observed'])}<br>predicted {percent(row['mean'])} {percent_interval(row['q05'], row['q95'])}"
            for row in rows
        ]
        colour = _PALETTE[place % len(_PALETTE)]
        xs, ys = ([100 * row[name] for row in rows] for name in ("observed", "mean"))
        errors = {
            **{"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour},
            "array": numbers(100 * (row["q95"] - row["mean"]) for row in rows),
            "arrayminus": numbers(100 * (row["mean"] - row["q05"]) for row in rows),
        }
        points = _points(xs, ys, hover, plain(tumour_type), {"color": colour, "size": 7})
        traces.append(points | {"error_y": errors, "opacity": 0.8})
    x, y = (axis(title) | {"range": [-2, end]} for title in ("observed, %", "predicted, %"))
    top = 20 * -(-len(traces) // 2)
    return figure(traces, 440 + top, xaxis=x, yaxis=y, legend=_LEGEND, margin={"l": 52, "r": 12, "t": top, "b": 44})


def laid_out(data: pd.DataFrame, lines: int | None = None) -> tuple[list[dict[str, Any]], list[Label], float]:
    """Places of the rows of a forest, in pixels from the top: labels lie above their row, so that phones have room.

    Parameters
    ----------
    data : DataFrame
        tumour_type, arm, subgroup and what is to be drawn.
    lines : int, optional
        Lines that each row takes; left out, two where something was observed, else one.

    Returns
    -------
    rows : list of dict
        The rows with their ``label`` and ``y``, that of the first line.
    labels : list of (y, text, whether it is the name of a tumour type)
        Texts as in the data.
    height : float
    """
    rows, labels, y = [], [], 0.0
    tumour_types = list(dict.fromkeys(data["tumour_type"]))
    for tumour_type in tumour_types:
        if len(tumour_types) > 1:
            y += LINE
            labels.append((y, str(tumour_type), True))
            y += LINE
        for row in records(data[data["tumour_type"] == tumour_type]):
            label = str(row["arm"]) if row["subgroup"] == "all" else f"{row['arm']}, {row['subgroup']}"
            for part in textwrap.wrap(label, _LABEL_WIDTH) or [""]:
                labels.append((y + LINE / 2, part, False))
                y += LINE
            rows.append(row | {"label": label, "y": y + LINE / 2})
            y += (lines or (1 if is_missing(row["observed"]) else 2)) * LINE + _GAP
    return rows, labels, y


def figure(traces: Sequence[dict[str, Any]], height: float, **layout: Any) -> Figure:
    """A figure in the page's looks."""
    from plotly.graph_objects import Figure

    looks = {
        **{"template": "none", "height": height, "autosize": True, "paper_bgcolor": "white", "plot_bgcolor": "white"},
        **{"font": {"family": _FONT, "size": 12, "color": INK}, "hoverlabel": {"align": "left"}, "dragmode": False},
        "margin": {"l": 52, "r": 12, "t": 12, "b": 44},
    }
    return Figure(data=list(traces), layout=looks | layout)


def axis(title: str) -> dict[str, Any]:
    """An axis in the page's looks."""
    return {
        **{"title": {"text": title, "font": {"size": 12, "color": MUTED}, "standoff": 8}, "gridcolor": GRID},
        **{"zerolinecolor": FAINT, "linecolor": FAINT, "showline": True, "fixedrange": True, "automargin": True},
    }


def numbers(values: Iterable[Any]) -> list[float | None]:
    """Values with four significant digits, which is more than an eye can see; None for a gap."""
    return [None if is_missing(value) else float(f"{value:.4g}") for value in values]


def _forest(traces: list[dict[str, Any]], labels: list[Label], height: float) -> Figure:
    notes = [
        {
            **{"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "y", "yanchor": "middle"},
            **{"text": f"<b>{plain(text)}</b>" if strong else plain(text), "showarrow": False, "align": "left"},
            "font": {"size": 12 if strong else 11.5, "color": INK},
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        for y, text, strong in labels
    ]
    ends = [x for trace in traces for x in trace["x"] if x is not None]
    x = axis("response rate, %") | {"range": [-1, min(101.0, max([30.0, *ends]) + 4)], "zeroline": False}
    y = {"range": [height + 4, -6], "visible": False, "fixedrange": True}
    margin = {"l": 12, "r": 12, "t": 44, "b": 44}
    return figure(traces, height + 98, xaxis=x, yaxis=y, annotations=notes, margin=margin, legend=_LEGEND)


def _bars(
    rows: Iterable[dict[str, Any]], low: str, high: str, width: float, colour: str, name: str, shift: float = 0.0
) -> dict[str, Any]:
    xs: list[Any] = []
    ys: list[float | None] = []
    for row in rows:
        if not (is_missing(row[low]) or is_missing(row[high])):
            xs += [100 * row[low], 100 * row[high], None]
            ys += [row["y"] + shift, row["y"] + shift, None]
    return _line(xs, ys, {"color": colour, "width": width}, name)


def _line(xs: Sequence[Any], ys: Sequence[Any], line: dict[str, Any], name: str) -> dict[str, Any]:
    data = {"x": numbers(xs), "y": numbers(ys)}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line, "hoverinfo": "skip", **data}


def _points(
    xs: Sequence[Any], ys: Sequence[Any], hover: list[str], name: str, marker: dict[str, Any]
) -> dict[str, Any]:
    data = {"x": numbers(xs), "y": numbers(ys), "hovertext": hover}
    return {"type": "scatter", "mode": "markers", "name": name, "marker": marker, "hoverinfo": "text", **data}


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
