"""Runs side by side: the same table of response rates, what differs in their settings, and what is Monte Carlo error.

The mean rate of an arm is the mean over D posterior draws of the share of P virtual patients, whose spread over draws
`sd` holds both the posterior and the chance of the patients. Draws of a chain are not independent: they count as many
as the smallest bulk ESS of the fit says, and never more than D. So

    se = sd / sqrt(min(D, ESS)),      difference +- sqrt(se_1^2 + se_2^2)

Runs that share seed and posterior share their patients too, and differ by less chance than this says: what exceeds it
is a difference of settings or data, what does not may be one too.

Fits of the same curves are also compared by the PDX models that they would predict were these left out (`vtrial.loo`),
which says what law of growth the curves prefer; runs of `vtrial fit` alone have that and no rates.
"""

from __future__ import annotations

import base64
import contextlib
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vtrial.config import Experiment
from vtrial.errors import InputError
from vtrial.experiment import load_resolved
from vtrial.inputs import marks
from vtrial.store import RunFolder

#: Monte Carlo standard errors beyond which a difference is more than chance: 1 % of equal pairs lie beyond
LIMIT = 2.58
_KEY = ["tumour_type", "arm", "subgroup", "endpoint", "kind"]


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
        tumour_type, arm, subgroup, endpoint, run, mean, q05, q95, error (Monte Carlo SE of the mean); difference and
        difference_error against the first run, in fractions, and exceeds (bool); NaN and False for the first run and
        where the first run has no such row.
    settings : DataFrame
        key and one column per run: settings and inputs that are not the same in all.
    fits : DataFrame or None
        See :func:`vtrial.loo.compared_fits`; None where the runs do not share their curves.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    marks: tuple[tuple[str, ...], ...]
    rates: pd.DataFrame = field(repr=False)
    settings: pd.DataFrame = field(repr=False)
    fits: pd.DataFrame | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain data; NaN becomes null."""
        return {
            "runs": [
                {"name": name, "folder": str(path), "marks": list(said)}
                for name, path, said in zip(self.names, self.paths, self.marks, strict=True)
            ],
            "rates": [_plain(row) for row in self.rates.to_dict("records")],
            "settings": [_plain(row) for row in self.settings.to_dict("records")],
            "fits": None if self.fits is None else [_plain(row) for row in _named(self.fits).to_dict("records")],
        }


def compared(run_dirs: Sequence[str | Path]) -> Comparison:
    """Read runs and put them side by side.

    Raises
    ------
    InputError
        Fewer than two runs, a folder that is no run, some runs without response rates, or runs without a common arm.
    """
    folders = [RunFolder(path) for path in run_dirs]
    if len(folders) < 2:
        raise InputError("needs two run folders or more", file="compare")
    if len({folder.path for folder in folders}) < len(folders):
        raise InputError("is given twice; a run is always equal to itself", file=folders[-1].path)
    manifests = [folder.manifest() for folder in folders]
    experiments = [
        load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)))
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    names = _names([folder.path for folder in folders])
    settings = _settings(experiments, manifests, names)
    said = tuple(tuple(marks(e, m)) for e, m in zip(experiments, manifests, strict=True))
    paths, fits = tuple(folder.path for folder in folders), _fits(folders, names)
    if fits is not None and not any(folder.exists("orr.csv") for folder in folders):
        return Comparison(tuple(names), paths, said, pd.DataFrame(columns=[*_KEY, "run"]), settings, fits)
    frames = [
        _rates(folder, experiment).assign(run=name)
        for folder, experiment, name in zip(folders, experiments, names, strict=True)
    ]
    rates = pd.concat(frames, ignore_index=True)
    first = frames[0].set_index(_KEY[:4])[["mean", "error"]]
    at = pd.MultiIndex.from_frame(rates[_KEY[:4]])
    reference = first.reindex(at).reset_index(drop=True)
    other = rates["run"] != names[0]
    if reference["mean"][other.to_numpy()].isna().all():
        arms = ", ".join(sorted(set(frames[0]["arm"])))[:300]
        raise InputError(f"has no arm in common with the first run, whose arms are {arms}", file=folders[1].path)
    difference = (rates["mean"] - reference["mean"]).where(other)
    error = (rates["error"] ** 2 + reference["error"] ** 2) ** 0.5
    rates["difference"], rates["difference_error"] = difference, error.where(other)
    rates["exceeds"] = (difference.abs() > LIMIT * error).fillna(False)
    return Comparison(tuple(names), paths, said, rates, settings, fits)


def _fits(folders: Sequence[RunFolder], names: Sequence[str]) -> pd.DataFrame | None:
    """How well each fit predicts PDX models left out; None where they were not fitted to the same curves."""
    if not all(folder.has_posterior() for folder in folders):
        return None
    from vtrial.loo import compared_fits

    with contextlib.ExitStack() as stack:
        trees = {n: stack.enter_context(f.open_posterior()) for n, f in zip(names, folders, strict=True)}
        try:
            return compared_fits(trees)
        except InputError:
            return None


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _rates(folder: RunFolder, experiment: Experiment) -> pd.DataFrame:
    """Population rates of the main endpoint, with their Monte Carlo standard error."""
    from vtrial.report.tables import main_endpoint

    if not folder.exists("orr.csv"):
        raise InputError("holds no orr.csv: only a fit was run; `vtrial run` writes it", file=folder.path)
    file = folder.file("orr.csv")
    try:
        orr = pd.read_csv(file, keep_default_na=False, na_values={name: [""] for name in ("mean", "sd", "q05", "q95")})
        orr = orr.astype({name: float for name in ("mean", "sd", "q05", "q95")})
        orr = orr[(orr["kind"] == "population") & (orr["endpoint"] == main_endpoint(orr))]
        size = min(float(experiment.trial.draws), _smallest_ess(folder))
        return orr[[*_KEY[:4], "mean", "q05", "q95"]].assign(error=orr["sd"] / math.sqrt(size)).reset_index(drop=True)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"is damaged or not of this version: {reason}; `vtrial run` writes it", file=file) from None


def _smallest_ess(folder: RunFolder) -> float:
    """Smallest bulk ESS of the population parameters, at least 4; without diagnostics, infinite."""
    if not folder.exists("diagnostics.csv"):
        return math.inf
    table = pd.read_csv(folder.file("diagnostics.csv"), keep_default_na=False, na_values=[""])
    found = table["ess_bulk"].dropna()
    return max(4.0, float(found.min())) if len(found) else math.inf


def _settings(
    experiments: Sequence[Experiment], manifests: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> pd.DataFrame:
    flat = []
    for experiment, manifest in zip(experiments, manifests, strict=True):
        data = experiment.model_dump(mode="json", exclude={"quick"})
        for cohort in data["trial"]["cohorts"]:  # by name: an arm put in front is one difference, not ten
            cohort["arms"] = {arm["name"]: arm for arm in cohort["arms"]}
        data["trial"]["cohorts"] = {cohort["tumour_type"]: cohort for cohort in data["trial"]["cohorts"]}
        inputs = manifest.get("inputs", {})
        hashes = {name: str(inputs.get(name, {}).get("sha256", ""))[:16] for name in ("table", "priors")}
        hashes["evidence"] = " ".join(str(one.get("sha256", ""))[:16] for one in inputs.get("evidence", ()))
        extra = {"quick": experiment.is_quick, "sha256": hashes, "versions": _versions(manifest)}
        # a path says where a file lies, its hash says what it holds
        for section, name in ((data["data"], "path"), (data, "priors"), (data["fit"], "evidence")):
            section.pop(name)
        flat.append(_flat({**data, **extra}))
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [
        {"key": key, **{name: one.get(key, "-") for name, one in zip(names, flat, strict=True)}}
        for key in keys
        if len({one.get(key, "-") for one in flat}) > 1
    ]
    return pd.DataFrame(rows, columns=["key", *names])


def _versions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    device = manifest.get("device", {})
    versions = device.get("versions", {}) if isinstance(device, Mapping) else {}
    return {name: versions.get(name) for name in ("vtrial", "jax", "numpyro")} if isinstance(versions, Mapping) else {}


def _flat(value: Any, above: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, one in value.items():
            found |= _flat(one, f"{above}.{key}" if above else str(key))
        return found
    if isinstance(value, list):
        return {above: ", ".join(str(one) for one in value)}
    return {above: "-" if value is None else str(value)}


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _named(fits: pd.DataFrame) -> pd.DataFrame:
    return fits.rename_axis("run").reset_index()


def _fit_rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    assert found.fits is not None
    head = ["run", "growth", "log density", "difference to the best", "weight by stacking", "k-hat above 0.7"]
    rows = []
    for row in _named(found.fits).to_dict("records"):
        behind = "-" if row["difference"] == 0.0 else f"{row['difference']:.1f} ± {row['difference_error']:.1f}"
        share = f"{row['unreliable']} of {row['num_models']}"
        rows.append([str(row["run"]), row["growth"], f"{row['elpd']:.1f}", behind, f"{row['weight']:.2f}", share])
    return head, rows


def _table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    head = ["tumour type", "arm", "subgroup", *found.names, *(f"{name} - {found.names[0]}" for name in found.names[1:])]
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in found.rates.to_dict("records"):
        groups.setdefault(tuple(str(row[name]) for name in _KEY[:3]), {})[row["run"]] = {
            str(k): v for k, v in row.items()
        }
    cells = []
    for key, runs in groups.items():
        rates = [_rate(runs.get(name)) for name in found.names]
        cells.append([*key, *rates, *(_difference(runs.get(name)) for name in found.names[1:])])
    return head, cells


def _rate(row: Mapping[str, Any] | None) -> str:
    from vtrial.report.tables import percent, percent_interval

    return "-" if row is None else f"{percent(row['mean'])} {percent_interval(row['q05'], row['q95'])}"


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or math.isnan(row["difference"]):
        return "-"
    verdict = "more than Monte Carlo error" if row["exceeds"] else "within Monte Carlo error"
    return f"{100 * row['difference']:+.1f} ± {100 * row['difference_error']:.1f} points, {verdict}"


_SAID_OF_FITS = (
    "Log density of the curves of every PDX model, were it left out, summed; differences with their standard error\n"
    "over models. Where k-hat is above 0.7 the density of a model is not to be relied on."
)
_SAID = (
    "Mean and equal-tailed 90 % interval of the population's rate. Differences in points with their Monte Carlo\n"
    f"standard error; more than {LIMIT} of them is more than chance."
)


def comparison_text(found: Comparison) -> str:
    """The comparison as plain text, without boxes."""
    from vtrial.report.tables import text_table

    lines = []
    for name, path, said in zip(found.names, found.paths, found.marks, strict=True):
        lines.append(f"{name}: {path}" + (f" ({', '.join(said).upper()})" if said else ""))
    blocks = ["\n".join(lines)]
    if len(found.rates):
        head, cells = _table(found)
        blocks += [text_table("response rates", head, cells, None), _SAID]
    if found.fits is not None:
        head, cells = _fit_rows(found)
        blocks += [text_table("fits, by PDX models left out", head, cells, None), _SAID_OF_FITS]
    if len(found.settings):
        rows = [[_short(str(cell)) for cell in row] for row in found.settings.itertuples(index=False, name=None)]
        blocks.append(text_table("what differs in settings and inputs", list(found.settings.columns), rows, None))
    else:
        blocks.append("Settings and inputs are the same in all.")
    return "\n\n".join(blocks) + "\n"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"


def comparison_page(found: Comparison) -> str:
    """The comparison as one HTML page that needs nothing beside it; every name is escaped."""

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(one)}</td>" for one in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"

    runs = "".join(
        f"<li><b>{html.escape(name)}</b> {html.escape(str(path))}"
        + (f" <strong>{html.escape(', '.join(said).upper())}</strong>" if said else "")
        + "</li>"
        for name, path, said in zip(found.names, found.paths, found.marks, strict=True)
    )
    head, cells = _table(found)
    rates = ""
    if len(found.rates):
        from vtrial.report import runs_image

        picture = base64.b64encode(runs_image(found.rates)).decode("ascii")
        figure = f'<img alt="Response rate of every arm in each run" src="data:image/svg+xml;base64,{picture}">'
        rates = f"<h2>Response rates</h2>{figure}{table(head, cells)}<p>{html.escape(_SAID)}</p>"
    fits = ""
    if found.fits is not None:
        fits = f"<h2>Fits, by PDX models left out</h2>{table(*_fit_rows(found))}<p>{html.escape(_SAID_OF_FITS)}</p>"
    settings = [[str(cell) for cell in row] for row in found.settings.itertuples(index=False, name=None)]
    differs = table(list(found.settings.columns), settings) if settings else "<p>Nothing.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        "<title>vtrial compare</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;max-width:75rem;margin:2rem auto;padding:0 1rem}"
        "main{overflow-x:auto}img{display:block;width:100%;max-width:52rem}table{border-collapse:collapse}"
        "td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #e4e8ec;vertical-align:top}"
        "</style></head><body><main><h1>Runs side by side</h1>"
        f"<ul>{runs}</ul>{rates}{fits}"
        f"<h2>What differs in settings and inputs</h2>{differs}</main></body></html>\n"
    )
