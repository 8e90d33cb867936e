"""The page and pictures of `vtrial validate`: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vtrial.report.figures import FAINT, GRID, INK, MUTED, PREDICTED, PUBLISHED

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("id", "trial", "arm", "tumour_type", "role", "published", "predicted", "mid_p", "crps", "crps_no_mice",
          "crps_meta", "crps_independent_action", "ess", "certainty", "biomarker")  # fmt: skip

_MEDIANS = ("id", "trial", "arm", "tumour_type", "role", "endpoint", "published_months", "certainty", "pred_q05",
            "pred_q50", "pred_q95", "probability")  # fmt: skip

_SHRINKAGE = ("id", "trial", "arm", "tumour_type", "role", "published", "predicted", "certainty", "mid_p", "crps")


def blank_figure(width: float, height: float) -> Any:
    """Matplotlib figure of a size in inches, without global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Any) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def plain_axes(axes: Any) -> None:
    """Axes with a bottom line only."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK)


def arms_picture(scores: pd.DataFrame) -> bytes:
    """Predicted 90 % interval and published rate of every arm, sorted by tumour type and prediction; PNG."""
    table = scores.sort_values(["tumour_type", "pred_mean"]).reset_index(drop=True)
    figure = blank_figure(9.0, 1.2 + 0.17 * len(table))
    axes = figure.add_subplot()
    rows = range(len(table))
    axes.hlines(
        rows, 100 * table["pred_q05"], 100 * table["pred_q95"], color=FAINT, linewidth=5, label="predicted, 90 %"
    )
    axes.plot(100 * table["pred_mean"], rows, "|", color=PREDICTED, markersize=7, label="predicted, mean")
    rate = 100 * table["num_responders"] / table["num_patients"]
    axes.plot(rate, rows, "D", color=PUBLISHED, markersize=3.2, label="published")
    names = [f"{row.tumour_type}  {row.trial}: {row.arm}" for row in table.itertuples()]
    axes.set_yticks(list(rows), names, fontsize=6.5, parse_math=False)
    axes.set_ylim(len(table), -1)
    axes.set_xlabel("response rate, %", fontsize=9, color=MUTED)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    plain_axes(axes)
    return png_bytes(figure)


def pit_picture(scores: pd.DataFrame) -> bytes:
    """Histogram of the probability integral transform, in tenths, with what chance gives; PNG."""
    values = scores.loc[scores["counted"], "mid_p"].to_numpy()
    figure = blank_figure(5.5, 2.6)
    axes = figure.add_subplot()
    axes.hist(values, bins=[k / 10 for k in range(11)], color=PREDICTED, edgecolor="white")
    axes.axhline(len(values) / 10, color=PUBLISHED, linewidth=1.2, label="where predictions are right")
    axes.set_xlabel("probability integral transform (mid-p)", fontsize=9, color=MUTED)
    axes.set_ylabel("arms", fontsize=9, color=MUTED)
    axes.legend(fontsize=8, frameon=False)
    plain_axes(axes)
    return png_bytes(figure)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return '<td class="number"></td>' if value != value else f'<td class="number">{value:.3g}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def _table(table: pd.DataFrame) -> Any:
    from markupsafe import Markup

    head = "".join(f"<th>{html.escape(str(name).replace('_', ' '))}</th>" for name in table.columns)
    red = table.attrs.get("red", [False] * len(table))
    body = "".join(
        f"<tr{' class=mark' if bad else ''}>{''.join(_cell(v) for v in row)}</tr>"
        for bad, row in zip(red, table.astype(object).itertuples(index=False, name=None), strict=True)
    )
    return Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _in_words(table: pd.DataFrame, number: str, size: str) -> pd.DataFrame:
    """The table with counts and predictions as words and every CRPS in points."""
    shown = table.copy()
    shown["published"] = [f"{n}/{of}" for n, of in zip(table[number], table[size], strict=True)]
    shown["predicted"] = [
        f"{100 * m:.0f} % [{100 * a:.0f}, {100 * b:.0f}]"
        for m, a, b in zip(table["pred_mean"], table["pred_q05"], table["pred_q95"], strict=True)
    ]
    points = [name for name in shown.columns if name.startswith("crps")]
    shown[points] = 100 * shown[points]
    return shown


def validation_page(
    scores: pd.DataFrame,
    not_predicted: pd.DataFrame,
    summary: pd.DataFrame,
    medians: pd.DataFrame,
    shrinkage: pd.DataFrame,
    *,
    answer: Sequence[str],
    marks: Sequence[str],
    command: str,
    date: str,
    mice: str,
) -> str:
    """One page of scores; `answer` stands at its head.

    Parameters
    ----------
    scores, not_predicted, summary, medians, shrinkage
        Tables of :class:`vtrial.validation.Validation`; scores are fractions.
    answer
        Sentences.
    marks
        What must be said first: synthetic mice, a quick run.
    command, date, mice
        How it was made.
    """
    import jinja2

    shown = _in_words(scores, "num_responders", "num_patients")
    rate, half = scores["num_responders"] / scores["num_patients"], 0.5 / scores["num_patients"]
    shown = shown[list(_SHOWN)]
    shown.attrs["red"] = list((rate < scores["pred_q05"] - half) | (rate > scores["pred_q95"] + half))
    times = medians[list(_MEDIANS)].copy()
    times.attrs["red"] = list(~medians["inside"].astype(bool))
    shrunk = _in_words(shrinkage, "num_shrunk", "num_measured")[list(_SHRINKAGE)]
    shrunk.attrs["red"] = list(~shrinkage["inside"].astype(bool))
    percent = summary.copy()
    columns = ["crps", "crps_other", "difference", "low", "high"]
    percent[columns] = 100 * percent[columns]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((files("vtrial.report") / "templates/validation.html.j2").read_text("utf-8"))
    return template.render(
        answer=answer,
        marks=marks,
        command=command,
        date=date,
        mice=mice,
        table=_table,
        summary=percent,
        scores=shown,
        not_predicted=not_predicted,
        medians=times,
        shrinkage=None if shrunk.empty else shrunk,
        arms_picture=base64.b64encode(arms_picture(scores)).decode(),
        pit_picture=base64.b64encode(pit_picture(scores)).decode(),
    )
