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
PALETTE = ("#1f5f99", "#b4531a", "#3f7f4f", "#7a4a8c", "#8c7a2a", "#2a8c8c", "#a33b5e", "#5d6b7a")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LABEL_WIDTH = 50
Label: TypeAlias = tuple[float, str, bool]
LINE, _GAP = 17, 14  # pixels: a line of a label, the space between rows of a forest
# Two entries fit beside each other on a phone, all of them on a laptop; of short names three.
LEGEND = {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "font": {"size": 11}, "entrywidth": 112}
SHORT_LEGEND = LEGEND | {"entrywidth": 56}


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
    traces = [
        *intervals(rows, hover, "mean", "predicted", ("predictive_q05", "predictive_q95", "trial of n, 90 %")),
        bars(seen, "observed_low", "observed_high", 1.5, PUBLISHED, "published, 95 %", shift=LINE)
        | {"showlegend": False},
        points(
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
        traces.append(bars(rows, "q05", "q95", 1.5, colour, plain(model)) | {"showlegend": False})
        traces.append(
            points([100 * row["mean"] for row in rows], [row["y"] for row in rows], hover, plain(model), marker)
        )
    return _forest(traces, labels, height)


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


def label_notes(labels: Iterable[Label]) -> list[dict[str, Any]]:
    """The labels of `laid_out` as annotations over the rows of a forest."""
    return [
        {
            **{"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "y", "yanchor": "middle"},
            **{"text": f"<b>{plain(text)}</b>" if strong else plain(text), "showarrow": False, "align": "left"},
            "font": {"size": 12 if strong else 11.5, "color": INK},
            "bgcolor": "rgba(255,255,255,0.8)",
        }
        for y, text, strong in labels
    ]


def _forest(traces: list[dict[str, Any]], labels: list[Label], height: float) -> Figure:
    notes = label_notes(labels)
    ends = [x for trace in traces for x in trace["x"] if x is not None]
    x = axis("response rate, %") | {"range": [-1, min(101.0, max([30.0, *ends]) + 4)], "zeroline": False}
    y = {"range": [height + 4, -6], "visible": False, "fixedrange": True}
    margin = {"l": 12, "r": 12, "t": 44, "b": 44}
    return figure(traces, height + 98, xaxis=x, yaxis=y, annotations=notes, margin=margin, legend=LEGEND)


def bars(
    rows: Iterable[dict[str, Any]], low: str, high: str, width: float, colour: str, name: str, shift: float = 0.0
) -> dict[str, Any]:
    """A trace of horizontal bars of fractions, in percent, at the rows' ``y``."""
    xs: list[Any] = []
    ys: list[float | None] = []
    for row in rows:
        if not (is_missing(row[low]) or is_missing(row[high])):
            xs += [100 * row[low], 100 * row[high], None]
            ys += [row["y"] + shift, row["y"] + shift, None]
    return line(xs, ys, {"color": colour, "width": width}, name)


def intervals(
    rows: Sequence[dict[str, Any]], hover: list[str], centre: str, name: str, wider: tuple[str, str, str]
) -> list[dict[str, Any]]:
    """Traces of a forest of fractions: 90 and 50 % intervals about a point, over a faint wider one.

    Parameters
    ----------
    rows
        With ``y``, q05, q25, q75, q95 and the columns that follow.
    hover
        Text of each point.
    centre : str
        Column of the point.
    name : str
        What the intervals are of.
    wider : (low, high, name)
        Columns and name of the faint one.
    """
    look = {"color": "white", "size": 8, "line": {"color": PREDICTED, "width": 2}}
    low, high, faint = wider
    return [
        bars(rows, low, high, 12, FAINT, faint),
        bars(rows, "q05", "q95", 2, PREDICTED, f"{name}, 90 %"),
        bars(rows, "q25", "q75", 6, PREDICTED, f"{name}, 50 %"),
        points([100 * row[centre] for row in rows], [row["y"] for row in rows], hover, name, look)
        | {"showlegend": False},
    ]


def line(xs: Sequence[Any], ys: Sequence[Any], look: dict[str, Any], name: str) -> dict[str, Any]:
    """A trace of lines, None where they break, that does not answer to hover."""
    data = {"x": numbers(xs), "y": numbers(ys)}
    return {"type": "scatter", "mode": "lines", "name": name, "line": look, "hoverinfo": "skip", **data}


def points(xs: Sequence[Any], ys: Sequence[Any], hover: list[str], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    """A trace of points, each with its text on hover."""
    data = {"x": numbers(xs), "y": numbers(ys), "hovertext": hover}
    return {"type": "scatter", "mode": "markers", "name": name, "marker": marker, "hoverinfo": "text", **data}
