"""A run folder -> what its page is made of; reads tables and the posterior, and imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vtrial.errors import InputError
from vtrial.inputs import Inputs, marks
from vtrial.report.fit import prior_posterior, worst_chains
from vtrial.report.page import ReportInputs
from vtrial.store import RunFolder

#: tables of the trial stage that lie among the figures
TRIAL_TABLES = ("superiority", "waterfall", "spider", "swimmer", "pfs")

#: only an empty cell is missing: an arm may be called NA; what is written again has the same digits
_CSV: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}


def read_table(folder: RunFolder, name: str) -> pd.DataFrame | None:
    """A table of the run folder; None where it has no rows."""
    if not folder.exists(name):
        return None
    table = pd.read_csv(folder.file(name), **_CSV)
    return None if table.empty else table


def report_inputs(inputs: Inputs, folder: RunFolder, trial: Mapping[str, pd.DataFrame] | None = None) -> ReportInputs:
    """Everything that the page of a run shows.

    Parameters
    ----------
    inputs
        What the run read.
    folder
        The run folder, its fit finished.
    trial : mapping, optional
        Tables of the trial by the names of `TRIAL_TABLES`; left out, those in ``figures/``.

    Raises
    ------
    InputError
        Where there is no orr.csv.
    """
    experiment, manifest = inputs.experiment, folder.manifest()
    if not folder.exists("orr.csv"):
        raise InputError("holds no orr.csv; `vtrial run` writes it", file=folder.path)
    orr = pd.read_csv(folder.file("orr.csv"), **_CSV)
    # the page says the marks at its head; what stays is where the published counts come from
    said = "; ".join(marks(experiment, manifest))
    orr["source"] = orr["source"].fillna("").str.removeprefix(said).str.removeprefix("; ").replace("", None)
    if trial is None:
        tables = {name: read_table(folder, f"figures/{name}.csv") for name in TRIAL_TABLES}
    else:
        tables = {name: None if trial[name].empty else trial[name] for name in TRIAL_TABLES}
    entries = [
        {
            "name": e.name,
            "family": e.family,
            "parameters": dict(e.parameters),
            "unit": e.unit,
            "source": e.source,
            "certainty": e.certainty,
            "note": e.note,
        }
        for e in inputs.priors.entries.values()
    ]
    origins = manifest.get("trial", {}).get("origins", {})
    diagnostics = read_table(folder, "diagnostics.csv")
    curves, chains = _from_posterior(inputs, folder, diagnostics)
    return ReportInputs(
        experiment=experiment,
        manifest=manifest,
        orr=orr,
        mouse_response=_without_note(read_table(folder, "mouse_response.csv")),
        diagnostics=diagnostics,
        gates=manifest["fit"]["gates"],
        prior_entries=entries,
        notes=(*inputs.dataset.notes, *(f"{drug}: {word}" for drug, word in origins.items())),
        endpoints=read_table(folder, "endpoints.csv"),
        uncertainty=_without_note(read_table(folder, "uncertainty.csv")),
        engagement=read_table(folder, "engagement.csv"),
        curves=curves,
        chains=chains,
        prior_posterior=None if diagnostics is None else prior_posterior(diagnostics, inputs.priors),
        superiority=tables["superiority"],
        waterfall=tables["waterfall"],
        spider=tables["spider"],
        swimmer=tables["swimmer"],
        pfs=tables["pfs"],
    )


def _without_note(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if table is None else table.drop(columns="note", errors="ignore")


def _from_posterior(
    inputs: Inputs, folder: RunFolder, diagnostics: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Fitted curves of all mice, None where an earlier version fitted them; chains of the worst parameters."""
    from vtrial.fitted import GROUP, fitted_curves

    def there(frame: pd.DataFrame | None) -> pd.DataFrame | None:
        return None if frame is None or frame.empty else frame

    if not folder.has_posterior():
        return None, None
    with folder.open_posterior() as tree:
        curves: Any = fitted_curves(tree, inputs.dataset) if GROUP in tree.children else None
        chains = None if diagnostics is None else worst_chains(tree["posterior"].to_dataset(), diagnostics)
        return there(curves), there(chains)
