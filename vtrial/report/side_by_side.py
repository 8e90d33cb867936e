"""Runs side by side as text and as a page: rates, null models, progression free survival, fits, settings."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vtrial.report.images import runs_image
from vtrial.report.tables import COHORT, is_missing, percent, percent_interval, records, text_table

#: Monte Carlo standard errors beyond which a difference is more than chance: 1 % of equal pairs lie beyond
LIMIT = 2.58
Cells = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side, the first as reference.

    Attributes
    ----------
    names : tuple of str
        The runs, as short as they can be told apart.
    paths : tuple of Path
        Their folders.
    marks : tuple of tuple of str
        What must be said first of each.
    rates : DataFrame, a row per tumour type, arm and subgroup and run
        tumour_type, arm, subgroup, endpoint, run, mean, q05, q25, q75, q95, error (Monte Carlo SE of the mean);
        difference and difference_error against the first run, in fractions, and exceeds (bool); NaN and False for the
        first run and where the first run has no such row.
    nulls : DataFrame
        Combinations under each rule: tumour_type, arm, subgroup, model, run, mean, q05, q95.
    survival : DataFrame
        Median progression free survival, days: tumour_type, arm, subgroup, run, q05, q50, q95; NaN where not reached.
    settings : DataFrame
        key and one column per run: settings and inputs that are not the same in all.
    one_fit : bool
        Whether all runs rest on one and the same fit.
    fits : DataFrame or None
        See :func:`vtrial.loo.compared_fits`; a fit that several runs share is named by all of them. None where the fits
        differ in nothing but their sampling, and where the runs do not share their curves.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    marks: tuple[tuple[str, ...], ...]
    rates: pd.DataFrame = field(repr=False)
    nulls: pd.DataFrame = field(repr=False)
    survival: pd.DataFrame = field(repr=False)
    settings: pd.DataFrame = field(repr=False)
    one_fit: bool = False
    fits: pd.DataFrame | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain data; NaN becomes null."""
        return {
            "runs": [
                {"name": name, "folder": str(path), "marks": list(said)}
                for name, path, said in zip(self.names, self.paths, self.marks, strict=True)
            ],
            "rates": _plain(self.rates),
            "null_models": _plain(self.nulls),
            "pfs_median_days": _plain(self.survival),
            "settings": _plain(self.settings),
            "one_fit": self.one_fit,
            "fits": None if self.fits is None else _plain(_named(self.fits)),
        }


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: None if is_missing(value) else value for key, value in row.items()} for row in records(frame)]


def _named(fits: pd.DataFrame) -> pd.DataFrame:
    return fits.rename_axis("run").reset_index()


class _Part:
    """A table with its title and what must be said below it."""

    def __init__(self, title: str, cells: Cells, said: str = ""):
        self.title, (self.head, self.rows), self.said = title, cells, said


def _parts(found: Comparison) -> list[_Part]:
    """The tables of numbers, those that the runs have."""
    parts = []
    if len(found.rates):
        said = (
            "Mean of the population's rate with its equal-tailed 50 and 90 % intervals. Differences in points with "
            f"their Monte Carlo standard error, of runs of one fit draw by draw; more than {LIMIT} of them is more "
            "than chance."
        )
        parts.append(_Part("Response rates", _rate_cells(found), said))
    if len(found.nulls):
        cells = _by_run(found, found.nulls, (*COHORT, "model"), lambda row: _mean(row, ("q05", "q95")))
        parts.append(_Part("Combinations under each rule", cells, "Mean of the response rate and its 90 % interval."))
    if len(found.survival):
        said = "Median over posterior draws and 90 % interval; progression or death."
        cells = _by_run(found, found.survival, COHORT, _days)
        parts.append(_Part("Median progression free survival, days", cells, said))
    if found.fits is not None:
        said = (
            "Log density of the curves of every PDX model, were it left out, summed; differences with their standard "
            "error over models. Where k-hat is above 0.7 the density of a model is not to be relied on."
        )
        parts.append(_Part("Fits, by PDX models left out", _fit_cells(found.fits), said))
    return parts


def _by_run(found: Comparison, frame: pd.DataFrame, keys: Sequence[str], cell: Callable[[Any], str]) -> Cells:
    """A row per key, a column per run."""
    table: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in records(frame):
        table.setdefault(tuple(str(row[name]) for name in keys), {})[row["run"]] = row
    head = [{"model": "rule"}.get(name, name.replace("_", " ")) for name in keys]
    cells = [
        [*key, *(cell(runs[name]) if name in runs else "-" for name in found.names)] for key, runs in table.items()
    ]
    return [*head, *found.names], cells


def _rate_cells(found: Comparison) -> Cells:
    first, *others = found.names
    head, rates = _by_run(found, found.rates, COHORT, lambda row: _mean(row, ("q25", "q75"), ("q05", "q95")))
    _, differences = _by_run(found, found.rates, COHORT, _difference)
    head = [*head[: len(COHORT)], *(f"{name}: mean [50 %] [90 %]" for name in found.names)]
    rows = [[*row, *behind[-len(others) :]] for row, behind in zip(rates, differences, strict=True)]
    return [*head, *(f"{name} - {first}" for name in others)], rows


def _mean(row: Mapping[str, Any], *intervals: tuple[str, str]) -> str:
    ends = (percent_interval(row[low], row[high]).removesuffix(" %") for low, high in intervals)
    return " ".join([percent(row["mean"]), *ends])


def _difference(row: Mapping[str, Any]) -> str:
    if math.isnan(row["difference"]):
        return "-"
    verdict = "more than Monte Carlo error" if row["exceeds"] else "within Monte Carlo error"
    return f"{100 * row['difference']:+.1f} ± {100 * row['difference_error']:.1f} points, {verdict}"


def _days(row: Mapping[str, Any]) -> str:
    middle, low, high = ("not reached" if is_missing(row[q]) else f"{row[q]:.0f}" for q in ("q50", "q05", "q95"))
    return middle if middle == low == high else f"{middle} [{low}, {high}]"


def _fit_cells(fits: pd.DataFrame) -> Cells:
    head = ["run", "growth", "log density", "difference to the best", "weight by stacking", "k-hat above 0.7"]
    rows = []
    for row in records(_named(fits)):
        behind = "-" if row["difference"] == 0.0 else f"{row['difference']:.1f} ± {row['difference_error']:.1f}"
        share = f"{row['unreliable']} of {row['num_models']}"
        rows.append([str(row["run"]), row["growth"], f"{row['elpd']:.1f}", behind, f"{row['weight']:.2f}", share])
    return head, rows


_ONE_FIT = "The runs rest on one and the same fit: what differs is the trial, or how it is read."
_SAME = "Settings and inputs are the same in all."
_DIFFERS = "What differs in settings and inputs"


def comparison_text(found: Comparison) -> str:
    """The comparison as plain text, without boxes."""
    lines = []
    for name, path, said in zip(found.names, found.paths, found.marks, strict=True):
        lines.append(f"{name}: {path}" + (f" ({', '.join(said).upper()})" if said else ""))
    blocks = ["\n".join([*lines, *([_ONE_FIT] if found.one_fit else [])])]
    for part in _parts(found):
        blocks += [text_table(part.title, part.head, part.rows, None), *([part.said] if part.said else [])]
    if len(found.settings):
        rows = [[_short(str(cell)) for cell in row] for row in found.settings.itertuples(index=False, name=None)]
        blocks.append(text_table(_DIFFERS, list(found.settings.columns), rows, None))
    else:
        blocks.append(_SAME)
    return "\n\n".join(blocks) + "\n"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"


def _whole(text: str) -> str:
    """The text with intervals and percentages that no line breaks."""
    return re.sub(r"\[[^\]]*\]|\d %", lambda match: match[0].replace(" ", "\u00a0"), text)


def comparison_page(found: Comparison) -> str:
    """The comparison as one HTML page that needs nothing beside it; every name is escaped."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_whole(one))}</td>" for one in row) + "</tr>" for row in rows
        )
        return f"<div><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"

    runs = "".join(
        f"<li><b>{html.escape(name)}</b> {html.escape(str(path))}"
        + (f" <strong>{html.escape(', '.join(said).upper())}</strong>" if said else "")
        + "</li>"
        for name, path, said in zip(found.names, found.paths, found.marks, strict=True)
    )
    figure = ""
    if len(found.rates):
        picture = base64.b64encode(runs_image(found.rates)).decode("ascii")
        figure = f'<img alt="Response rate of every arm in each run" src="data:image/svg+xml;base64,{picture}">'
    shown = ""
    for part in _parts(found):
        shown += f"<h2>{part.title}</h2>{figure}{table(part.head, part.rows)}<p>{html.escape(part.said)}</p>"
        figure = ""
    settings = [[str(cell) for cell in row] for row in found.settings.itertuples(index=False, name=None)]
    differs = table(list(found.settings.columns), settings) if settings else f"<p>{_SAME}</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        "<title>vtrial compare</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:75rem;margin:2rem auto;padding:0 1rem}"
        "div{overflow-x:auto}img{display:block;width:100%;max-width:52rem}table{border-collapse:collapse}"
        "li{overflow-wrap:anywhere}"
        "td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #e4e8ec;vertical-align:top}"
        "</style></head><body><main><h1>Runs side by side</h1>"
        f"<ul>{runs}</ul>{f'<p>{_ONE_FIT}</p>' if found.one_fit else ''}{shown}"
        f"<h2>{_DIFFERS}</h2>{differs}</main></body></html>\n"
    )
