"""The figure of ranks: how probable each arm is to be the best, the second, and so on."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import INK, LINE, axis, figure, numbers, plain
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


def _shade(place: int, count: int) -> str:
    share = place / max(count - 1, 1)
    mixed = (round(first + share * (last - first)) for first, last in zip(_FIRST, _LAST, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"
