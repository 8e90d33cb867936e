"""What priors say before any data, as one picture, by Matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrial.report.figures import FAINT, GRID, INK, MUTED, PREDICTED, PUBLISHED
from vtrial.report.validation_page import blank_figure, plain_axes, png_bytes

if TYPE_CHECKING:
    from vtrial.consequences import Consequence

_PANELS = {
    "time": "days",
    "share": "% of what an untreated mouse tumour grows, or of the kill in a mouse",
    "growth": "volume, % of that at the start",
    "mice": "response rate of mice (mRECIST), %",
    "rate": "confirmed response rate of patients, %",
}


def consequences_image(lines: Sequence[Consequence], title: str) -> bytes:
    """Median, mean and 90 % interval of every consequence, one panel a kind of quantity; PNG."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panels = [(label, [line for line in lines if line.quantity == quantity]) for quantity, label in _PANELS.items()]
    panels = [(label, part) for label, part in panels if part]
    figure = blank_figure(9.0, 1.4 + 0.42 * len(lines) + 0.5 * len(panels))
    heights = [len(part) + 1 for _, part in panels]
    axes_of = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    said = textwrap.fill(f"{title}: what the priors say before any mouse", 100)
    figure.suptitle(said, x=0.01, ha="left", fontsize=11, color=INK)
    for axes, (label, part) in zip(axes_of, panels, strict=True):
        rows = list(range(len(part)))
        axes.hlines(
            rows, [one.q05 for one in part], [one.q95 for one in part], color=FAINT, linewidth=6, label="90 % of draws"
        )
        axes.plot([one.q50 for one in part], rows, "o", color=PREDICTED, markersize=5, label="median")
        axes.set_yticks(rows, [textwrap.fill(one.what, 60) for one in part], fontsize=7.5, color=INK, parse_math=False)
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_xlabel(label, fontsize=9, color=MUTED)
        if part[0].quantity in ("time", "growth"):
            axes.set_xscale("log")
            ticks = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000, 1_000_000]
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.plot([one.mean for one in part], rows, "|", color=PREDICTED, markersize=9, label="mean")
        known = [(value, row) for row, one in enumerate(part) for value in one.known]
        if known:
            axes.plot(*zip(*known, strict=True), "D", color=PUBLISHED, markersize=4, label="published, read by nothing")
        if part[0].quantity in ("mice", "rate"):
            axes.set_xlim(-1.0, 101.0)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        plain_axes(axes)
    handles = {text: mark for axes in axes_of for mark, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower right", ncols=len(handles), fontsize=8, frameon=False
    )
    return png_bytes(figure)
