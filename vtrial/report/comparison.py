"""The page that compares the scenarios of a sweep: one HTML file that needs nothing beside it, and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vtrial.report.tables import counts, is_missing, percent, percent_interval, records

if TYPE_CHECKING:
    import pandas as pd

#: columns of the table that are drawn
_DRAWN = ("mean", "q05", "q95", "observed")
#: pixels, and where the axis may end
_WIDTH, _HEIGHT, _STEPS = 320, 16, (0.05, 0.1, 0.2, 0.25, 0.5, 1.0)


def build_comparison(title: str, table: pd.DataFrame, keys: Sequence[str], missing: int) -> str:
    """The page as text.

    Parameters
    ----------
    title : str
        Title of the sweep.
    table : DataFrame
        What `sweep.collect` returns; rates are fractions.
    keys : sequence of str
        The columns that hold settings.
    missing : int
        Scenarios that are not done.
    """
    import jinja2

    top = max([0.01, *(float(x) for name in ("q95", "observed") for x in table[name] if not is_missing(x))])
    scale = next((step for step in _STEPS if step >= top), 1.0)
    blocks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records(table):
        drawn = {
            name: None if is_missing(row[name]) else round(_WIDTH * float(row[name]) / scale, 1) for name in _DRAWN
        }
        shown = {
            "scenario": row["scenario"],
            "id": row["id"],
            "settings": ["" if is_missing(row[key]) else str(row[key]) for key in keys],
            "rate": percent(row["mean"]),
            "interval": percent_interval(row["q05"], row["q95"]),
            "published": counts(row),
            "passed": bool(row["gates_passed"]),
            "at": drawn,
        }
        blocks.setdefault((str(row["tumour_type"]), str(row["arm"])), []).append(shown)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtrial.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = jinja2.PackageLoader("vtrial.report", "templates").get_source(environment, "style.css")[0]
    said = sorted({mark for text in table["marks"] for mark in str(text).split("; ") if mark})
    return environment.get_template("comparison.html.j2").render(
        title=title,
        style=style,
        keys=keys,
        blocks=blocks,
        width=_WIDTH,
        height=_HEIGHT,
        scale=percent(scale, 0),
        missing=missing,
        marks=said,
        scenarios=table["scenario"].nunique(),
    )
