"""Synergy of single studies as text and as a picture: combination index and synergy score over days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtrial.combination_index import LARGEST_INDEX
from vtrial.report.figures import GRID, INK, MUTED, PREDICTED, PUBLISHED
from vtrial.report.tables import percent, text_table
from vtrial.report.validation_page import blank_figure, plain_axes, png_bytes

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"bliss": "Bliss", "hsa": "HSA", "ra": "additivity"}
_COLOURS = {"bliss": PREDICTED, "hsa": PUBLISHED, "ra": "#3f7f4f"}
#: studies in one picture; a panel of hundreds is looked at one PDX model at a time
_LARGEST_PICTURE = 8


def format_synergy(result: Mapping[str, Any], width: int | None = None) -> str:
    """What `vtrial.synergy.synergy_of_run` returns as plain text: marks first, one row per study and reference."""
    lines = [f"{mark.upper()}." for mark in result["marks"]]
    cells = []
    for row in result["studies"]:
        against = NAMES[row["reference"]] + (f" ({row['single_agent']})" if row["single_agent"] else "")
        index = f"{_index(row['combination_index'])} [{_index(row['ci_low'])}, {_index(row['ci_high'])}]"
        cells.append(
            [
                row["pdx_model"],
                row["arm"],
                f"{row['day']:g}",
                against,
                index,
                f"{row['synergy_score']:+.1f}",
                percent(row["probability_synergy"]),
            ]
        )
    head = ["PDX model", "arm", "day", "reference", f"CI, {100 * result['level']:g} %", "score", "P(CI < 1)"]
    lines.append(text_table("Synergy on the last day on which every arm was measured", head, cells, width))
    lines.append(
        "CI: combination index, below 1 is synergy. Score: posterior SDs of ln CI towards synergy. "
        f"{result['draws']:,} draws."
    )
    if any(row["reference"] == "ra" and row["ci_high"] >= LARGEST_INDEX for row in result["studies"]):
        lines.append(
            f"The index of additivity ends at {LARGEST_INDEX:g}: so many times the volume that it expects or more, and "
            "all where it expects none."
        )
    return "\n".join(lines)


def _index(value: float) -> str:
    """A combination index in two or three digits, however small."""
    if value >= LARGEST_INDEX:
        return f">={LARGEST_INDEX:g}"
    return f"{value:.2f}" if 0.1 <= value < 10.0 else f"{value:.3g}" if value >= 10.0 else f"{value:.2g}"


def synergy_image(table: pd.DataFrame) -> bytes:
    """Combination index (left) and synergy score (right) over days, a row per study, at most 8; PNG.

    Parameters
    ----------
    table
        Rows of synergy.csv. Beyond the last day on which every arm was measured lines are dotted.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    studies = list(table.groupby(["pdx_model", "arm"], sort=False))
    shown = studies[:_LARGEST_PICTURE]
    figure = blank_figure(9.0, 0.9 + 2.6 * len(shown))
    panels = figure.subplots(len(shown), 2, squeeze=False)
    said = [str(note) for note in table["note"].unique() if note] if "note" in table else []
    if len(studies) > len(shown):
        said.append(f"the first {len(shown)} of {len(studies)} studies")
    for ((model, arm), rows), (left, right) in zip(shown, panels, strict=True):
        left.set_title(f"{model}: {arm}", fontsize=9, color=INK, loc="left", parse_math=False)
        for reference, own in rows.groupby("reference", sort=False):
            colour, name = _COLOURS[str(reference)], NAMES[str(reference)]
            for axes, value, low, high in (
                (left, "combination_index", "ci_low", "ci_high"),
                (right, "synergy_score", "score_low", "score_high"),
            ):
                axes.fill_between(own["day"], own[low], own[high], color=colour, alpha=0.10, linewidth=0)
                seen, beyond = own[~own["beyond_data"]], own[own["beyond_data"]]
                axes.plot(seen["day"], seen[value], "o-", color=colour, markersize=3, linewidth=1.6, label=name)
                if len(beyond):
                    joined = own.iloc[max(len(seen) - 1, 0) :]
                    axes.plot(joined["day"], joined[value], ":", color=colour, linewidth=1.6)
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        left.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        left.yaxis.set_minor_locator(NullLocator())
        left.set_ylabel("combination index", fontsize=8.5, color=MUTED)
        right.set_ylabel("synergy score", fontsize=8.5, color=MUTED)
        for axes, nothing in ((left, 1.0), (right, 0.0)):
            axes.axhline(nothing, color=INK, linewidth=0.9)
            axes.set_xlabel("day", fontsize=8.5, color=MUTED)
            axes.grid(color=GRID, linewidth=0.8)
            plain_axes(axes)
    level = 100 * float(table["level"].iloc[0])
    lines, names = panels[0, 0].get_legend_handles_labels()
    title = f"median and {level:g} % interval; dotted: beyond the last day on which every arm was measured"
    legend = figure.legend(
        lines,
        names,
        loc="outside upper left",
        ncols=len(names),
        fontsize=8,
        frameon=False,
        title="\n".join([*said, title]),
    )
    legend.get_title().set_fontsize(8)
    legend.get_title().set_color(PUBLISHED if said else INK)
    return png_bytes(figure)
