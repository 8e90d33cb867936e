"""Fitted curves over the volumes of mice: one panel per arm of a PDX model.

A page holds thousands of curves, so it is given bare numbers, mouse by mouse (`curve_store`); the page's script makes
panels of them when they are looked at, in the same looks (`TRACE_LOOKS`, `panel_layout`) as `curves` here does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtrial.errors import InputError
from vtrial.report.figures import INK, MUTED, PREDICTED, PUBLISHED, axis, figure, numbers, plain
from vtrial.report.tables import is_missing, records

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: looks of the traces of a panel: untreated mice of the model, 90 % interval, median, mice, volumes below the limit
TRACE_LOOKS: tuple[dict[str, Any], ...] = (
    {"type": "scatter", "mode": "lines", "line": {"color": MUTED, "width": 1.2, "dash": "dot"}, "hoverinfo": "skip"},
    {"type": "scatter", "mode": "none", "fill": "toself", "fillcolor": "rgba(31,95,153,0.18)", "hoverinfo": "skip"},
    {"type": "scatter", "mode": "lines", "line": {"color": PREDICTED, "width": 1.6}, "hoverinfo": "skip"},
    {
        **{"type": "scatter", "mode": "markers", "hoverinfo": "text", "cliponaxis": False},
        "marker": {"size": 5, "color": INK},
    },
    {
        **{"type": "scatter", "mode": "markers", "hoverinfo": "text"},
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


def curve_store(curves: pd.DataFrame, limit_mm3: float, control: Sequence[str] = ("untreated",)) -> dict[str, Any]:
    """The numbers of all panels, each once.

    Parameters
    ----------
    curves : DataFrame
        pdx_model, tumour_type, arm, mouse, day, volume_mm3, censored, fitted_median, q05, q95 (mm3), a row per
        measurement.
    limit_mm3 : float
        Where volumes at or below the detection limit are drawn, since a log axis has no 0.
    control : sequence of str
        Arms without drug, which come first in a PDX model.

    Returns
    -------
    dict
        ``limit``; ``models``, by tumour type and name: ``model`` and ``tumour_type`` as in the data, ``range`` of the
        y axis (log10 mm3), and ``arms``, each with ``arm`` as in the data, ``control`` where it is one, and ``mice``:
        ``mouse``, ``day``, ``volume``, ``low``, ``fitted`` and ``high`` (mm3, four digits), ``below``, places of the
        volumes at or below the detection limit.
    """
    models: dict[tuple[str, str], dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for row in records(curves):
        arms = models.setdefault((str(row["tumour_type"]), str(row["pdx_model"])), {})
        arms.setdefault(str(row["arm"]), {}).setdefault(str(row["mouse"]), []).append(row)

    def of_mouse(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        columns = {"day": "day", "volume": "volume_mm3", "low": "q05", "fitted": "fitted_median", "high": "q95"}
        found = {key: _short(row[column] for row in rows) for key, column in columns.items()}
        return {"mouse": name, **found, "below": [place for place, row in enumerate(rows) if row["censored"]]}

    return {
        "limit": limit_mm3,
        "models": [
            {
                **{"model": name, "tumour_type": tumour_type},
                "range": _range([row for mice in arms.values() for rows in mice.values() for row in rows], limit_mm3),
                "arms": [
                    {"arm": arm, **({"control": 1} if arm in control else {})}
                    | {"mice": [of_mouse(mouse, rows) for mouse, rows in mice.items()]}
                    for arm, mice in sorted(arms.items(), key=lambda one: (one[0] not in control, one[0]))
                ],
            }
            for (tumour_type, name), arms in sorted(models.items())
        ],
    }


def curves(
    frame: pd.DataFrame, pdx_model: str, limit_mm3: float = 10.0, control: Sequence[str] = ("untreated",)
) -> Figure:
    """Small multiples of one PDX model, one panel per arm, on a shared log axis.

    Raises
    ------
    InputError
        Where there is no such PDX model.
    """
    found = curve_store(frame[frame["pdx_model"] == pdx_model], limit_mm3, control)["models"]
    if not found:
        raise InputError(f"no curves of a PDX model {pdx_model!r}", key="pdx_model")
    panels, traces = found[0]["arms"], []
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
        for style, data in zip(TRACE_LOOKS, panel_data(panel, panels, limit_mm3), strict=True):
            traces.append(style | data | {"xaxis": f"x{end}", "yaxis": f"y{end}"})
    return figure(traces, 230 * num_rows, **layout)


def panel_data(panel: dict[str, Any], arms: list[dict[str, Any]], limit_mm3: float) -> list[dict[str, Any]]:
    """x, y and text of the traces of `TRACE_LOOKS`; the page's script does the same."""
    reference, band, median, seen, below = ({"x": [], "y": [], "text": []} for _ in range(5))
    if not panel.get("control"):
        for mouse in (mouse for arm in arms if arm.get("control") for mouse in arm["mice"]):
            _extend(reference, mouse["day"], mouse["fitted"])
    for mouse in panel["mice"]:
        days, volumes = mouse["day"], mouse["volume"]
        _extend(band, [*days, *reversed(days)], [*mouse["high"], *reversed(mouse["low"])])
        _extend(median, days, mouse["fitted"])
        for place, (day, volume) in enumerate(zip(days, volumes, strict=True)):
            hidden = place in mouse["below"]
            what = f"at or below {limit_mm3:g} mm³" if hidden else f"{volume:g} mm³"
            text = f"{plain(mouse['mouse'])}<br>day {day:g}: {what}<br>fitted {mouse['fitted'][place]:g} mm³"
            found = below if hidden else seen
            found["x"].append(day)
            found["y"].append(limit_mm3 if hidden else volume)
            found["text"].append(text)
    return [reference, band, median, seen, below]


def _extend(trace: dict[str, list[Any]], xs: list[Any], ys: list[Any]) -> None:
    if trace["x"]:
        trace["x"].append(None)
        trace["y"].append(None)
    trace["x"] += xs
    trace["y"] += ys


def _short(values: Any) -> list[float | int | None]:
    """Four digits, and no point where there is nothing behind it: a day is 21, not 21.0."""
    return [int(x) if x is not None and x == int(x) else x for x in numbers(values)]


def _range(rows: list[dict[str, Any]], limit_mm3: float) -> list[float]:
    volumes = [max(row["volume_mm3"], limit_mm3) for row in rows]
    fitted = [row for row in rows if not is_missing(row["fitted_median"])]
    low = min([*volumes, *(row["fitted_median"] for row in fitted), 50.0])
    high = max([*volumes, *(row["fitted_median"] for row in fitted), 500.0])
    high = max([high, *(min(row["q95"], 3 * high) for row in fitted)])
    return numbers((math.log10(max(low, 1.0)) - 0.1, math.log10(high) + 0.15))  # type: ignore[return-value]
