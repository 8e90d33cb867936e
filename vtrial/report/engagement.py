"""The figure of target engagement: a panel an arm, a line and a band a drug."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrial.report.figures import INK, PREDICTED, PUBLISHED, axis, figure, numbers, plain

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

_COLOURS = (PREDICTED, PUBLISHED, "#3f7f4f", "#7a4a8c", "#8c7a2a")
_PANEL, _GAP, _FOOT = 150, 44, 44  # pixels


def engagement(frame: pd.DataFrame) -> Figure:
    """Inhibition of each drug's marker over the first cycles: median and 90 % interval of single patients.

    Parameters
    ----------
    frame : DataFrame
        Rows of engagement.csv.

    Returns
    -------
    plotly Figure
    """
    groups = list(frame.groupby(["tumour_type", "arm"], sort=False))
    several = frame["tumour_type"].nunique() > 1
    series = list(dict.fromkeys(zip(frame["drug"], frame["target"], strict=True)))
    height = len(groups) * (_PANEL + _GAP) + _FOOT
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "margin": {"l": 52, "r": 12, "t": 0, "b": _FOOT}}
    last = float(frame["day"].max())
    said: set[tuple[str, str]] = set()
    for place, ((tumour_type, arm), own) in enumerate(groups):
        end = "" if place == 0 else str(place + 1)
        bottom = 1 - (place + 1) * (_PANEL + _GAP) / (height - _FOOT)
        top = bottom + _PANEL / (height - _FOOT)
        x = {"anchor": f"y{end}", "range": [0, last], "dtick": 7, "showticklabels": place == len(groups) - 1}
        layout[f"xaxis{end}"] = axis("day" if place == len(groups) - 1 else "") | x
        y = {"anchor": f"x{end}", "domain": [max(bottom, 0.0), top], "range": [0, 100], "dtick": 50}
        layout[f"yaxis{end}"] = axis("inhibition, %") | y
        title = plain(f"{tumour_type}: {arm}" if several else arm)
        at = {"x": 0, "y": top, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"].append({"text": title, "showarrow": False, "font": {"size": 12, "color": INK}, **at})
        for number, key in enumerate(series):
            rows = own[(own["drug"] == key[0]) & (own["target"] == key[1])]
            if rows.empty:
                continue
            colour = _COLOURS[number % len(_COLOURS)]
            name = plain(f"{key[0]}: {key[1]}")
            axes = {"xaxis": f"x{end}", "yaxis": f"y{end}", "legendgroup": name, "mode": "lines", "type": "scatter"}
            days = numbers(rows["day"])
            band = days + days[::-1], numbers(100 * rows["q95"]) + numbers(100 * rows["q05"])[::-1]
            traces.append(
                axes
                | {"x": band[0], "y": band[1], "fill": "toself", "fillcolor": colour, "opacity": 0.18}
                | {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
            )
            traces.append(
                axes
                | {"x": days, "y": numbers(100 * rows["q50"]), "line": {"color": colour, "width": 1.5}, "name": name}
                | {"hovertemplate": f"{name}<br>day %{{x:.3~g}}, median %{{y:.0f}} %<extra></extra>"}
                | {"showlegend": key not in said}
            )
            said.add(key)
    legend = {"orientation": "h", "x": 0, "y": -_FOOT / (height - _FOOT), "yanchor": "top", "font": {"size": 11}}
    return figure(traces, height + 24, **layout, legend=legend)
