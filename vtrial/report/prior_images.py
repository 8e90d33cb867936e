"""What priors say before any data, as one picture, by Matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrial.report.figures import FAINT, GRID, INK, MUTED, PREDICTED
from vtrial.report.validation_page import blank_figure, plain_axes, png_bytes

if TYPE_CHECKING:
    from vtrial.consequences import Consequence


def consequences_image(lines: Sequence[Consequence]) -> bytes:
    """Median and 90 % interval of every consequence, days above and percent below; PNG."""
    panels = [(unit, [line for line in lines if line.unit == unit]) for unit in ("days", "%")]
    panels = [(unit, part) for unit, part in panels if part]
    figure = blank_figure(9.0, 1.0 + 0.42 * len(lines))
    heights = [len(part) + 1 for _, part in panels]
    axes_of = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, (unit, part) in zip(axes_of, panels, strict=True):
        rows = list(range(len(part)))
        axes.hlines(rows, [one.q05 for one in part], [one.q95 for one in part], color=FAINT, linewidth=6)
        axes.plot([one.q50 for one in part], rows, "o", color=PREDICTED, markersize=5)
        names = [textwrap.fill(one.what, 55) for one in part]
        axes.set_yticks(rows, names, fontsize=7.5, color=INK, parse_math=False)
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_xlabel("days (median, 90 %)" if unit == "days" else "% (median, 90 %)", fontsize=9, color=MUTED)
        if unit == "days":
            axes.set_xscale("log")
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        plain_axes(axes)
    return png_bytes(figure)
