"""A trial design as text and as a picture: what it does at every response rate, and what a run believes of the arms."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vtrial.assurance import RateDraws
from vtrial.report.figures import GRID, INK, MUTED, PREDICTED, PUBLISHED
from vtrial.report.tables import percent, percent_interval, text_table

_ROW_INCHES = 0.34


def format_design(result: Mapping[str, Any], width: int | None = None) -> str:
    """What `designing.design_trial` returns as plain text: marks first, the design, its errors, the arms."""
    design, lines = result["design"], [f"{mark.upper()}." for mark in result["marks"]]
    lines += [f"{result['method']}.", result["protocol"]]
    lines.append(
        f"Type I error {design['type_one_error']:.4f} at {percent(design['p0'])}, "
        f"power {design['power']:.4f} at {percent(design['p1'])}."
    )
    if "expected_patients_p0" in design:
        lines.append(
            f"Expected patients {design['expected_patients_p0']:.1f} and {design['expected_patients_p1']:.1f}; "
            f"P(early end) {percent(design['stop_early_p0'])} at {percent(design['p0'])}."
        )
    lines.extend(
        f"{name}: {design[name]:.4g}" for name in ("lambda", "gamma", "confidence") if design.get(name) is not None
    )
    if decision := result.get("decision"):
        lines.append(
            f"With {decision['patients']} patients: no-go at {decision['no_go_at_or_below']} responders or fewer, "
            f"go at {decision['go_at_or_above']} or more, think between."
        )
    head = ["arm", "subgroup", "predicted ORR", "assurance"]
    single = "decision" in result
    head += (
        ["patients", "go", "think", "no-go", f"n for {percent(result['wanted_assurance'])}"] if single else ["better"]
    )
    blocks = ["\n".join(lines)]
    for tumour_type in dict.fromkeys(row["tumour_type"] for row in result["arms"]):
        cells = []
        for row in (row for row in result["arms"] if row["tumour_type"] == tumour_type):
            cell = [row["arm"], row["subgroup"]]
            cell.append(f"{percent(row['orr_mean']):>6} {percent_interval(row['orr_q05'], row['orr_q95'])}")
            cell.append(f"{100 * row['assurance']:.1f} ± {100 * row['assurance_error']:.1f} %")
            if single:
                none = f"never (at most {percent(row['assurance_largest'])})"
                size = none if row["patients_wanted"] is None else str(row["patients_wanted"])
                cell += [f"{row['expected_patients']:.1f}", *(percent(row[n]) for n in ("go", "think", "no_go")), size]
            else:
                cell.append(percent(row["better"]))
            cells.append(cell)
        blocks.append(text_table(tumour_type, head, cells, width))
    blocks.append(
        "Assurance: probability that the trial ends with success, over all that the run believes of the arm and over\n"
        "the deviation of one trial from the population; ± 1 standard error of the number of draws."
    )
    return "\n\n".join(blocks) + "\n"


def format_studies(result: Mapping[str, Any], width: int | None = None) -> str:
    """What `next_study.next_study` returns as plain text."""
    now, *studies, known = result["studies"]
    cells = [["now", "", "", f"{100 * now['width']:.1f}", "100 %"]]
    for row in studies:
        share = f"{100 * row['share']:.1f} ± {100 * row['share_error']:.1f} %" if row["share_error"] else "-"
        cells.append([*(str(row[n]) for n in ("models", "mice", "mice_total")), f"{100 * row['width']:.1f}", share])
    cells.append(["mice known exactly", "", "", f"{100 * known['width']:.1f}", percent(known["share"])])
    head = ["new PDX models", "mice per cell", "mice", "90 % interval, points wide", "of its width now"]
    title = f"{result['tumour_type']}, {result['arm']}, {result['subgroup']}: response rate after a study of mice"
    lines = [f"{mark.upper()}." for mark in result["marks"]]
    lines.append(text_table(title, head, cells, width))
    lines.append(
        f"\nCells: every PDX model under control, {', '.join(result['drugs'])}"
        + (" and all together" if len(result["drugs"]) > 1 else "")
        + f". Mean over the results that {result['draws']:,} draws expect; ± 1 standard error.\n"
        "Mice known exactly: what is left is how mice carry over to patients, which no study of mice tells."
    )
    return "\n".join(lines) + "\n"


def design_image(
    result: Mapping[str, Any], rates: Sequence[tuple[str, str, str, RateDraws]], file_format: Literal["svg", "png"]
) -> bytes:
    """What a design does at every response rate, above what the run believes of every arm, on one axis of rates.

    Parameters
    ----------
    result
        What `designing.design_trial` returns.
    rates
        Tumour type, arm, subgroup and draws.
    file_format
        "svg" (text stays text) or "png" (200 dots per inch).
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assured = {(row["tumour_type"], row["arm"], row["subgroup"]): row["assurance"] for row in result["arms"]}
    shown = [one for one in rates if one[:3] in assured]
    height = 2.6 + _ROW_INCHES * len(shown)
    figure = Figure(figsize=(6.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, max(_ROW_INCHES * len(shown), 0.4)])
    design = result["design"]
    curve = result["operating_characteristics"]
    percent_rate = [100 * point["rate"] for point in curve]
    above.plot(percent_rate, [point["success"] for point in curve], color=INK, linewidth=1.8)
    above.set_ylabel("P(success)", fontsize=9, color=MUTED)
    above.set_ylim(0, 1.02)
    above.set_title(result["protocol"], fontsize=8, color=INK, loc="left", wrap=True, parse_math=False)
    for axes in (above, below):
        for name in ("p0", "p1"):
            axes.axvline(100 * design[name], color=PUBLISHED, linewidth=1.0, linestyle=":")
    at = above.get_xaxis_transform()
    for name, side in (("p0", "right"), ("p1", "left")):
        above.text(100 * design[name], 0.02, f" {name} ", transform=at, fontsize=8, color=PUBLISHED, ha=side)
    axis = np.linspace(0.0, 1.0, 201)
    for place, (_, arm, group, draws) in enumerate(shown):
        # P(rate > x): a histogram of rates that pile up near 0 would show nothing else
        order = np.argsort(draws.rate)
        reached = np.concatenate([[0.0], np.cumsum(draws.weights()[order])])
        above_x = 1.0 - reached[np.searchsorted(draws.rate[order], axis, side="right")]
        low = -float(place)
        below.fill_between(100 * axis, low, low + 0.9 * above_x, color=PREDICTED, alpha=0.4, linewidth=0)
        name = arm if group == "all" else f"{arm}, {group}"
        below.text(99, low + 0.42, name, fontsize=7.5, color=INK, ha="right", parse_math=False)
        below.text(
            1.01,
            low + 0.35,
            percent(assured[shown[place][:3]]),
            fontsize=8,
            color=INK,
            transform=below.get_yaxis_transform(),
        )
    below.text(0.0, 1.02, "P(rate of the population > x)", fontsize=7.5, color=MUTED, transform=below.transAxes)
    below.text(1.01, 1.02, "assurance", fontsize=7.5, color=MUTED, transform=below.get_yaxis_transform())
    below.set_ylim(-len(shown) + 0.9, 1.0)
    below.set_xlim(0, 100)
    below.yaxis.set_visible(False)
    below.set_xlabel("response rate, %", fontsize=9, color=MUTED)
    for axes in (above, below):
        axes.tick_params(labelsize=8, colors=INK)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if result["marks"]:
        figure.suptitle("; ".join(result["marks"]), color=PUBLISHED, fontsize=10, x=0.99, ha="right")
    stream = io.BytesIO()
    metadata = {"Date": None} if file_format == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "vtrial", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format=file_format, dpi=200, metadata=metadata)
    return stream.getvalue()
