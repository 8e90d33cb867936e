"""What the scenarios of a sweep came to: one table, a row per scenario and arm, and a page to compare them; no jax."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from vtrial.disk import whole
from vtrial.errors import InputError
from vtrial.experiment import load_resolved
from vtrial.inputs import marks
from vtrial.sweep import Sweep, manifest_of, state_of

TABLE, PAGE = "arms.csv", "compare.html"
NULL_MODELS = ("independent_action", "best_single", "bliss")


def collected(sweep: Sweep) -> pd.DataFrame:
    """The rates of all that is done: a row per scenario, tumour type and arm, the settings as columns.

    Returns
    -------
    DataFrame
        scenario, id, a column per setting that the sweep varies; the columns of `report.tables.forest_data` for the
        whole cohort under the main endpoint; the mean under each null model, empty for single agents; whether the fit
        passed its gates; what must be said of the run.
    """
    from vtrial.report.tables import forest_data, main_endpoint

    keys = varied(sweep)
    tables = []
    for one in sweep.scenarios:
        state, folder = state_of(sweep, one), sweep.run_folder(one)
        if not state.is_done:
            continue
        orr = pd.read_csv(folder.file("orr.csv"), keep_default_na=False, na_values=[""])
        rows = forest_data(orr).query("subgroup == 'all'").drop(columns="subgroup")
        whole_cohort = orr[(orr["kind"] == "population") & (orr["subgroup"] == "all")]
        means = whole_cohort.set_index(["endpoint", "tumour_type", "arm"])["mean"].to_dict()
        for model in NULL_MODELS:
            found = [
                means.get((f"{main_endpoint(orr)}:{model}", row.tumour_type, row.arm)) for row in rows.itertuples()
            ]
            rows[f"mean_{model}"] = found
        rows["gates_passed"] = state.word == "done"
        manifest = manifest_of(folder)
        experiment = load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)))
        rows["marks"] = "; ".join(marks(experiment, manifest))
        settings = {key: _cell(one.settings.get(key)) for key in keys}
        for place, (name, value) in enumerate({"scenario": one.number, "id": one.id, **settings}.items()):
            rows.insert(place, name, [value] * len(rows))
        tables.append(rows)
    if not tables:
        raise InputError("no scenario is done; `vtrial status` says what became of each", file=sweep.folder)
    # as objects: a null model or a setting that one scenario lacks must not turn whole numbers into others
    table = pd.concat([one.astype(object) for one in tables], ignore_index=True)
    rest = [name for name in table.columns if name not in keys]
    return table.astype({name: table[name].infer_objects().dtype for name in rest})


def varied(sweep: Sweep) -> list[str]:
    """The keys that the sweep sets, in the order of the file."""
    return list(dict.fromkeys(key for one in sweep.scenarios for key in one.settings))


def write_collected(sweep: Sweep, table: pd.DataFrame) -> list[Path]:
    """Write the table and the page that compares the scenarios."""
    from vtrial.report.comparison import build_comparison

    missing = len(sweep.scenarios) - table["scenario"].nunique()
    page = build_comparison(sweep.title or sweep.name, table, varied(sweep), missing)
    contents = {TABLE: table.to_csv(index=False, lineterminator="\n"), PAGE: page}
    for name, text in contents.items():
        with whole(sweep.folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return [sweep.folder / name for name in contents]


def _cell(value: object) -> object:
    return value if isinstance(value, str | int | float) or value is None else json.dumps(value, ensure_ascii=False)
