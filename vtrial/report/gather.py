"""A run folder -> what its page is made of; reads tables and the posterior, and imports no JAX."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vtrial.errors import InputError
from vtrial.inputs import Inputs, marks, unusual_doses
from vtrial.report.fit import prior_posterior, worst_chains
from vtrial.report.page import ReportInputs
from vtrial.store import RunFolder

#: tables of the trial stage that lie among the figures
TRIAL_TABLES = ("superiority", "waterfall", "spider", "swimmer", "pfs")

#: only an empty cell is missing: an arm may be called NA; what is written again has the same digits
_CSV: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}


_RATES = ("mean", "q05", "q25", "q50", "q75", "q95")
#: tables of a run folder that the page reads -> columns of text and of numbers that it cannot do without
_NEEDED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "orr.csv": (("arm", "tumour_type", "subgroup", "endpoint", "kind", "source"), ("num_patients", "sd", *_RATES)),
    "diagnostics.csv": (("parameter",), ("mean", "sd", "q05", "q95", "rhat", "ess_bulk", "ess_tail")),
    "mouse_response.csv": (("tumour_type", "arm"), ("num_models", "observed", "mean", "q05", "q95")),
    "endpoints.csv": (("arm", "tumour_type", "subgroup", "endpoint", "unit"), ("q05", "q50", "q95", "missing")),
    "uncertainty.csv": (("tumour_type", "arm", "source"), ("num_patients", "first_order", "variance", "share")),
    "engagement.csv": (("tumour_type", "arm", "drug", "target"), ("day", "q05", "q50", "q95")),
    "tgi.csv": (
        ("tumour_type", "subgroup", "drugs", "endpoint", "kind"),
        ("day", *_RATES, "above_singles"),
    ),
    "ranks.csv": (("tumour_type", "subgroup", "endpoint", "treatment"), ("rank", "probability")),
    "contrasts.csv": (("tumour_type", "subgroup", "arm", "against"), ("difference", "q05", "q95", "probability")),
    "exceedance.csv": (("tumour_type", "arm", "subgroup"), ("rate", "population", "trial")),
    "discrepancies.csv": (
        ("tumour_type", "arm", "subgroup"),
        ("responders", "patients", "predicted", "at_most", "at_least"),
    ),
    "figures/superiority.csv": (("tumour_type", "subgroup", "arm", "against"), ("probability",)),
    "figures/waterfall.csv": (("tumour_type", "arm", "subgroup", "response"), ("patient", "best_change_pct")),
    "figures/spider.csv": (("tumour_type", "arm"), ("patient", "day", "change_pct")),
    "figures/swimmer.csv": (("tumour_type", "arm", "response", "end"), ("patient", "response_day", "end_day")),
    "figures/pfs.csv": (("tumour_type", "arm"), ("day", "mean", "q05", "q95")),
}


def read_table(folder: RunFolder, name: str) -> pd.DataFrame | None:
    """A table of the run folder; None where it has no rows.

    Raises
    ------
    InputError
        Where it is not a table, ends in the middle of a line, or lacks what the page needs of it.
    """
    if not folder.exists(name):
        return None
    file = folder.file(name)
    texts, numbers = _NEEDED.get(name, ((), ()))
    try:
        content = file.read_bytes()
        if content and not content.endswith(b"\n"):
            raise ValueError("it ends in the middle of a line")
        table = pd.read_csv(io.BytesIO(content), **_CSV)
        if missing := [column for column in (*texts, *numbers) if column not in table]:
            raise ValueError(f"no column {', '.join(missing)}")
        for column in numbers:
            pd.to_numeric(table[column])
    except ValueError as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"is damaged or not of this version: {reason}; `vtrial run` writes it", file=file) from None
    return None if table.empty else table


def check_tables(folder: RunFolder) -> None:
    """Read every table that the page is made of, so that a damaged one is refused before anything is written."""
    for name in _NEEDED:
        read_table(folder, name)


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
    orr = read_table(folder, "orr.csv")
    if orr is None:  # an experiment without cohorts
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
        mouse_response=_without(read_table(folder, "mouse_response.csv"), "note"),
        diagnostics=diagnostics,
        gates=manifest["fit"]["gates"],
        prior_entries=entries,
        doubts=tuple(unusual_doses(inputs)),
        notes=(*inputs.dataset.notes, *(f"{drug}: {word}" for drug, word in origins.items())),
        endpoints=read_table(folder, "endpoints.csv"),
        uncertainty=_without(read_table(folder, "uncertainty.csv"), "note"),
        engagement=read_table(folder, "engagement.csv"),
        tgi=_without(read_table(folder, "tgi.csv"), "source"),
        ranks=_without(read_table(folder, "ranks.csv"), "source"),
        discrepancies=read_table(folder, "discrepancies.csv"),
        contrasts=_without(read_table(folder, "contrasts.csv"), "source"),
        exceedance=_without(read_table(folder, "exceedance.csv"), "source"),
        scans={
            cohort.tumour_type: {
                name: float(inputs.priors.resolve("patients", cohort.tumour_type, name).quantile(0.5))
                for name in ("visit_delay", "missed_visit")
            }
            for cohort in experiment.trial.cohorts
        },
        curves=curves,
        chains=chains,
        prior_posterior=None if diagnostics is None else prior_posterior(diagnostics, inputs.priors),
        superiority=tables["superiority"],
        waterfall=tables["waterfall"],
        spider=tables["spider"],
        swimmer=tables["swimmer"],
        pfs=tables["pfs"],
    )


def _without(table: pd.DataFrame | None, column: str) -> pd.DataFrame | None:
    """The table without the column that says what the head of the page says of all."""
    return None if table is None else table.drop(columns=column, errors="ignore")


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
