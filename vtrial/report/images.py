"""The forest for print, by Matplotlib, which is imported at first use and keeps no global state."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtrial.report.figures import FAINT, GRID, INK, LINE, MUTED, PALETTE, PREDICTED, PUBLISHED, Label, laid_out
from vtrial.report.tables import forest_data, is_missing, records

if TYPE_CHECKING:
    import os

    import pandas as pd

_WIDTH_INCHES, _PIXELS_PER_INCH = 6.5, 72.0


def orr_forest_image(orr: pd.DataFrame, file_format: Literal["svg", "png"], marks: str = "") -> bytes:
    """The forest of `figures.orr_forest` as a picture; equal tables give equal bytes.

    Parameters
    ----------
    orr : DataFrame
        Rows of orr.csv.
    file_format : str
        "svg" (text stays text) or "png" (200 dots per inch).
    marks : str
        What the picture must say first: quick, synthetic data, a fit that failed.

    Returns
    -------
    bytes
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, labels, height = laid_out(forest_data(orr))
    figure = Figure(figsize=(_WIDTH_INCHES, (height + 90) / _PIXELS_PER_INCH), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if marks:
        figure.suptitle(marks, color=PUBLISHED, fontsize=10, x=0.99, ha="right")
    for row in rows:
        _bar(axes, row, "predictive_q05", "predictive_q95", FAINT, 9.0, "trial of n, 90 %")
        _bar(axes, row, "q05", "q95", PREDICTED, 1.5, "predicted, 90 %")
        _bar(axes, row, "q25", "q75", PREDICTED, 4.5, "predicted, 50 %")
        _bar(axes, row, "observed_low", "observed_high", PUBLISHED, 1.2, None, LINE)
    for name, shift, look in (
        ("mean", 0.0, {"marker": "o", "color": PREDICTED, "markerfacecolor": "white", "markersize": 5.5}),
        ("observed", LINE, {"marker": "D", "color": PUBLISHED, "markersize": 5, "label": "published, 95 %"}),
    ):
        there = [row for row in rows if not is_missing(row[name])]
        xs, ys = [100 * row[name] for row in there], [row["y"] + shift for row in there]
        axes.plot(xs, ys, linestyle="none", zorder=4, **look)
    _finish(axes, labels, height)
    _legend(figure, axes, 2)
    return _saved(figure, file_format)


def runs_image(rates: pd.DataFrame) -> bytes:
    """Response rates of several runs side by side as SVG, a colour a run: mean and 90 % interval.

    Parameters
    ----------
    rates : DataFrame
        tumour_type, arm, subgroup, run, mean, q05, q95 as fractions; the runs in the order of their rows.

    Returns
    -------
    bytes
        Text stays text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = list(dict.fromkeys(rates["run"]))
    first = rates.drop_duplicates(["tumour_type", "arm", "subgroup"])
    heads, labels, height = laid_out(first, len(runs))
    tops = {(row["tumour_type"], row["arm"], row["subgroup"]): row["y"] for row in heads}
    # the legend takes a line a run: names of runs are paths, and long
    figure = Figure(figsize=(_WIDTH_INCHES, (height + 70 + 16 * len(runs)) / _PIXELS_PER_INCH), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, run in enumerate(runs):
        colour = PALETTE[place % len(PALETTE)]
        for row in records(rates[rates["run"] == run]):
            y = tops[row["tumour_type"], row["arm"], row["subgroup"]] + place * LINE
            _bar(axes, {**row, "y": y}, "q05", "q95", colour, 1.4, None)
            _bar(axes, {**row, "y": y}, "q25", "q75", colour, 4.0, None)
            axes.plot([100 * row["mean"]], [y], marker="o", markersize=5, color=colour, linestyle="none", label=run)
    _finish(axes, labels, height)
    _legend(figure, axes, 1)
    return _saved(figure, "svg")


def orr_forest_files(orr: pd.DataFrame, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write the forest as orr_forest.svg and orr_forest.png into a folder, which is made where needed."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    svg, png = target / "orr_forest.svg", target / "orr_forest.png"
    svg.write_bytes(orr_forest_image(orr, "svg"))
    png.write_bytes(orr_forest_image(orr, "png"))
    return svg, png


def _finish(axes: Any, labels: list[Label], height: float) -> None:
    """Labels and axes of a forest whose rows are drawn."""
    for y, text, strong in labels:
        weight = "bold" if strong else "normal"
        at = axes.get_yaxis_transform()
        # Names come from data: a dollar sign is a dollar sign.
        axes.text(0.0, y, text, transform=at, va="center", fontsize=8.5, color=INK, weight=weight, parse_math=False)
    axes.set_ylim(height + 4, -6)
    axes.set_xlim(-1, None)
    axes.set_xlabel("response rate, %", fontsize=9, color=MUTED)
    axes.yaxis.set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


def _legend(figure: Any, axes: Any, columns: int) -> None:
    """What each look means, once, above the rows."""
    handles: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    if handles:
        looks = {"loc": "outside upper left", "ncols": columns, "fontsize": 8, "frameon": False}
        for text in figure.legend(list(handles.values()), list(handles), **looks).get_texts():
            text.set_parse_math(False)


def _saved(figure: Any, file_format: Literal["svg", "png"]) -> bytes:
    """The picture; equal figures give equal bytes."""
    import matplotlib

    stream = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "vtrial", "svg.fonttype": "none"}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG; the page and the SVG have it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format=file_format, dpi=200, metadata=metadata)
    return stream.getvalue()


def _bar(
    axes: Any, row: dict[str, Any], low: str, high: str, colour: str, width: float, label: str | None, shift: float = 0
) -> None:
    if is_missing(row[low]) or is_missing(row[high]):
        return
    y = row["y"] + shift
    look = {"color": colour, "linewidth": width, "solid_capstyle": "butt", "label": label}
    axes.plot([100 * row[low], 100 * row[high]], [y, y], **look)
