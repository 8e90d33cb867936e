"""Fitted curves over the volumes of mice: one panel per arm of a PDX model.

The page holds hundreds of PDX models, so a panel is kept as bare numbers; its looks are added once, from `TRACE_LOOKS`
and `panel_layout`, here for notebooks and by the page's script alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import INK, PREDICTED, PUBLISHED, axis, figure, numbers, plain
from vtrial.report.tables import is_missing, records

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: looks of the traces of a panel: 90 % interval, median, mice, volumes at the detection limit
TRACE_LOOKS: tuple[dict[str, Any], ...] = (
    {"type": "scatter", "mode": "none", "fill": "toself", "fillcolor": "rgba(31,95,153,0.18)", "hoverinfo": "skip"},
    {"type": "scatter", "mode": "lines", "line": {"color": PREDICTED, "width": 1.6}, "hoverinfo": "skip"},
    {
        **{"type": "scatter", "mode": "lines+markers", "line": {"color": INK, "width": 0.8}},
        **{"marker": {"size": 5, "color": INK}, "hoverinfo": "x+y+text"},
    },
    {
        **{"type": "scatter", "mode": "markers", "hoverinfo": "x+text"},
        "marker": {"size": 8, "symbol": "triangle-down-open", "color": PUBLISHED},
    },
)
_COLUMNS = 3


def panel_layout() -> dict[str, Any]:
    """Layout of one panel; the range of its y axis, log10 of mm3, is that of the PDX model."""
    ticks = {"type": "log", "dtick": 1, "tickformat": "~r"}
    margin = {"l": 46, "r": 8, "t": 4, "b": 36}
    empty = figure((), 190, xaxis=axis("day") | {"rangemode": "tozero"}, yaxis=axis("mm³") | ticks, margin=margin)
    layout = empty.to_plotly_json()["layout"] | {"template": {}, "showlegend": False}
    layout["font"] = {**layout["font"], "size": 11}
    return layout


def curve_panels(curves: pd.DataFrame, limit_mm3: float = 10.0) -> list[dict[str, Any]]:
    """The numbers of all panels.

    Parameters
    ----------
    curves : DataFrame
        pdx_model, tumour_type, arm, mouse, day, volume_mm3, censored, fitted_median, q05, q95 (mm3), a row per
        measurement.
    limit_mm3 : float
        Where volumes at or below the detection limit are drawn, since a log axis has no 0.

    Returns
    -------
    list of dict
        Per PDX model, by tumour type and name: ``model`` and ``tumour_type`` as in the data, ``range`` of the y axis
        (log10 mm3), ``panels`` with ``arm`` as in the data and ``data``, x and y of the traces of `TRACE_LOOKS`.
    """
    models: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in records(curves):
        key = (str(row["tumour_type"]), str(row["pdx_model"]))
        models.setdefault(key, {}).setdefault(str(row["arm"]), []).append(row)
    return [
        {
            **{"model": name, "tumour_type": tumour_type},
            "range": _range([row for rows in arms.values() for row in rows], limit_mm3),
            "panels": [{"arm": arm, "data": _panel(rows, limit_mm3)} for arm, rows in arms.items()],
        }
        for (tumour_type, name), arms in sorted(models.items())
    ]


def curves(frame: pd.DataFrame, pdx_model: str, limit_mm3: float = 10.0) -> Figure:
    """Small multiples of one PDX model, one panel per arm, on a shared log axis.

    Raises
    ------
    KeyError
        Where there is no such PDX model.
    """
    found = curve_panels(frame[frame["pdx_model"] == pdx_model], limit_mm3)
    if not found:
        raise KeyError(f"no curves of a PDX model {pdx_model!r}")
    panels, traces = found[0]["panels"], []
    columns = min(_COLUMNS, len(panels))
    num_rows = math.ceil(len(panels) / columns)
    layout: dict[str, Any] = {"showlegend": False, "annotations": [], "margin": {"l": 56, "r": 8, "t": 28, "b": 36}}
    looks = panel_layout()
    for place, panel in enumerate(panels):
        column, row, end = place % columns, place // columns, "" if place == 0 else str(place + 1)
        left, top = column / columns, 1 - row / num_rows
        right, bottom = left + 0.86 / columns, top - (1 - 80 / (230 * num_rows)) * 0.72 / num_rows
        layout[f"xaxis{end}"] = looks["xaxis"] | {"domain": [left, right], "anchor": f"y{end}"}
        y = {"domain": [bottom, top], "anchor": f"x{end}", "range": found[0]["range"]}
        layout[f"yaxis{end}"] = looks["yaxis"] | y | ({} if column == 0 else {"title": None})
        at = {"x": left, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append({"text": plain(panel["arm"]), "showarrow": False, "font": {"size": 11}, **at})
        for style, data in zip(TRACE_LOOKS, panel["data"], strict=True):
            traces.append(style | data | {"xaxis": f"x{end}", "yaxis": f"y{end}"})
    return figure(traces, 230 * num_rows, **layout)


def _panel(rows: list[dict[str, Any]], limit_mm3: float) -> list[dict[str, Any]]:
    mice: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["day"]):
        mice.setdefault(str(row["mouse"]), []).append(row)
    band, median, seen, below = ({"x": [], "y": [], "text": []} for _ in range(4))
    drawn: set[tuple[Any, ...]] = set()
    for mouse, own in mice.items():
        shown = [max(row["volume_mm3"], limit_mm3) if row["censored"] else row["volume_mm3"] for row in own]
        days = [row["day"] for row in own]
        _extend(seen, days, shown, plain(mouse))
        censored = [row["day"] for row in own if row["censored"]]
        if censored:
            _extend(below, censored, [limit_mm3] * len(censored), f"{plain(mouse)}, at or below {limit_mm3:g} mm³")
        fitted = [row for row in own if not is_missing(row["fitted_median"])]
        # Mice of a panel mostly share one curve; drawn once, its band does not darken with their number.
        key = tuple((row["day"], row["fitted_median"], row["q05"], row["q95"]) for row in fitted)
        if not key or key in drawn:
            continue
        drawn.add(key)
        days = [row["day"] for row in fitted]
        low, high = ([max(row[name], 1e-3) for row in fitted] for name in ("q05", "q95"))
        _extend(median, days, [row["fitted_median"] for row in fitted], "")
        _extend(band, [*days, *reversed(days)], [*high, *reversed(low)], "")
    for trace in (band, median):
        del trace["text"]
    return [band, median, _one_text(seen), _one_text(below)]


def _extend(trace: dict[str, list[Any]], xs: list[Any], ys: list[Any], text: str) -> None:
    if trace["x"]:
        for key in trace:
            trace[key].append(None)
    trace["x"] += numbers(xs)
    trace["y"] += numbers(ys)
    trace["text"] += [text] * len(xs)


def _one_text(trace: dict[str, Any]) -> dict[str, Any]:
    texts = set(trace["text"])
    return trace | {"text": texts.pop()} if len(texts) == 1 else trace


def _range(rows: list[dict[str, Any]], limit_mm3: float) -> list[float]:
    volumes = [max(row["volume_mm3"], limit_mm3) for row in rows]
    fitted = [row for row in rows if not is_missing(row["fitted_median"])]
    low = min([*volumes, *(row["fitted_median"] for row in fitted), 50.0])
    high = max([*volumes, *(row["fitted_median"] for row in fitted), 500.0])
    high = max([high, *(min(row["q95"], 3 * high) for row in fitted)])
    return numbers((math.log10(max(low, 1.0)) - 0.1, math.log10(high) + 0.15))  # type: ignore[return-value]
