"""Figures of probabilities: of every rank of an arm, and of a response rate above any figure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import INK, LINE, PALETTE, axis, figure, numbers, plain, points
from vtrial.report.tables import records

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: from the first rank to the last; lighter is worse
_FIRST, _LAST = (11, 79, 108), (226, 232, 238)
_GAP = 14
_LABEL_WIDTH = 50


def rank_bars(frame: pd.DataFrame) -> Figure:
    """Probability of every rank, a stacked bar per treatment; of all patients or PDX models of a cohort.

    Parameters
    ----------
    frame : DataFrame
        Rows of ranks.csv of one endpoint and of the subgroup ``all``; probabilities of a treatment sum to 1.

    Returns
    -------
    plotly Figure
    """
    rows = records(frame)
    treatments = list(dict.fromkeys((str(row["tumour_type"]), str(row["treatment"])) for row in rows))
    several = len({tumour_type for tumour_type, _ in treatments}) > 1
    found = {(str(row["tumour_type"]), str(row["treatment"]), int(row["rank"])): row["probability"] for row in rows}
    ranks = sorted({rank for *_, rank in found})
    y, at, notes = 0.0, {}, []
    for one in treatments:
        label = f"{one[0]}: {one[1]}" if several else one[1]
        for part in textwrap.wrap(label, _LABEL_WIDTH) or [""]:
            text = {"text": plain(part), "showarrow": False, "font": {"size": 11.5, "color": INK}}
            place = {"x": 0, "xref": "paper", "xanchor": "left", "y": y + LINE / 2, "yref": "y", "yanchor": "middle"}
            notes.append(text | place)
            y += LINE
        at[one] = y + LINE / 2
        y += LINE + _GAP
    traces: list[dict[str, Any]] = []
    for place, rank in enumerate(ranks):
        there = [one for one in treatments if (*one, rank) in found]
        share = [100.0 * found[*one, rank] for one in there]
        hover = [
            f"{plain(name)}<br>rank {rank} with probability {part:.0f} %"
            for (_, name), part in zip(there, share, strict=True)
        ]
        traces.append(
            {
                **{"type": "bar", "orientation": "h", "name": f"rank {rank}", "hoverinfo": "text", "hovertext": hover},
                **{"x": numbers(share), "y": [at[one] for one in there], "width": LINE},
                "marker": {"color": _shade(place, len(ranks))},
            }
        )
    x = axis("probability, %") | {"range": [0, 100.5], "zeroline": False}
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11}, "traceorder": "normal"}
    # five entries to a line, also on a phone
    top = 12 + 20 * -(-len(ranks) // 5)
    return figure(
        traces, y + top + 54, barmode="stack", annotations=notes, legend=legend | {"entrywidth": 44},
        xaxis=x, yaxis={"range": [y, -6], "visible": False, "fixedrange": True},
        margin={"l": 12, "r": 12, "t": top, "b": 48},
    )  # fmt: skip


def exceedance_lines(frame: pd.DataFrame) -> Figure:
    """Probability that the response rate of the population is above a figure, a line per arm, all patients.

    Parameters
    ----------
    frame : DataFrame
        Rows of exceedance.csv of the subgroup ``all``; fractions.

    Returns
    -------
    plotly Figure
    """
    several = frame["tumour_type"].nunique() > 1
    # arms that are dosed alike are one line
    alike: dict[tuple[str, tuple[float, ...]], list[str]] = {}
    parts = {}
    for (tumour_type, arm), part in frame.groupby(["tumour_type", "arm"], sort=False):
        key = (str(tumour_type), tuple(part["population"]))
        alike.setdefault(key, []).append(str(arm))
        parts[key] = part
    traces = []
    for place, (key, arms) in enumerate(alike.items()):
        rows, colour = records(parts[key]), PALETTE[place % len(PALETTE)]
        heads = [f"{key[0]}: {arm}" if several else arm for arm in arms]
        name = "<br>".join(plain(part) for head in heads for part in textwrap.wrap(head, 44))
        hover = [
            f"{name}<br>P(rate above {100 * row['rate']:.0f} %): population {100 * row['population']:.0f} %, "
            f"one trial {100 * row['trial']:.0f} %"
            for row in rows
        ]
        xs, ys = ([100 * row[column] for row in rows] for column in ("rate", "population"))
        dash = ("solid", "dash", "dot", "dashdot")[place % 4]
        look = {"mode": "lines+markers", "line": {"color": colour, "width": 2, "dash": dash}}
        traces.append(points(xs, ys, hover, name, {"size": 4, "color": colour}) | look)
    below = 30 + 17 * sum(trace["name"].count("<br>") + 1 for trace in traces)
    legend = {"orientation": "v", "x": 0, "y": -0.2, "yanchor": "top", "font": {"size": 11}}
    x = axis("response rate x, %") | {"range": [0, 100]}
    y = axis("P(rate above x), %") | {"range": [0, 102], "dtick": 25}
    return figure(
        traces, 300 + below, xaxis=x, yaxis=y, legend=legend, showlegend=True,
        margin={"l": 52, "r": 12, "t": 12, "b": 44 + below},
    )  # fmt: skip


def _shade(place: int, count: int) -> str:
    share = place / max(count - 1, 1)
    mixed = (round(first + share * (last - first)) for first, last in zip(_FIRST, _LAST, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"
