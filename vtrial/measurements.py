"""What the cells of a table of volumes may hold, and mice that agree with themselves: every fault with its line."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from vtrial.errors import InputError
from vtrial.table import MISSING, Source, listed

#: what every row must say
IDENTITY = ("study", "tumour_type", "pdx_model", "mouse", "arm")


def reasons(source: Source, table: pd.DataFrame) -> pd.Series:
    """Why the fit must ignore each row, "" where it must not; a flag is no reason."""
    if "exclude" not in table:
        return pd.Series("", index=table.index, dtype=str)
    found = table["exclude"].where(~table["exclude"].isin(MISSING), "")
    source.refuse(
        table, found.str.lower().isin(("0", "1", "true", "false", "yes", "no")), "exclude",
        lambda row: f"{row['exclude']!r} is not a reason: write why the fit must ignore the row, or leave it empty",
    )  # fmt: skip
    return found


def check_identity(source: Source, table: pd.DataFrame) -> None:
    """Every row says of which study, tumour type, PDX model, mouse and arm it is."""
    for name in IDENTITY:
        source.refuse(
            table, table[name].isin(MISSING), name,
            lambda row, name=name: f"the cell is empty; every row needs its {name}, excluded rows too",
        )  # fmt: skip


def mouse_keys(table: pd.DataFrame) -> pd.Series:
    """Study and mouse in one text that no two animals share."""
    # Mouse ids are unique within a study only. The escape makes the first bare slash the border: no two share a key.
    study = table["study"].str.replace("\\", "\\\\", regex=False).str.replace("/", "\\/", regex=False)
    return study + "/" + table["mouse"]


def numbers(source: Source, table: pd.DataFrame, name: str, used: np.ndarray) -> np.ndarray:
    """Return days or volumes; NaN in excluded rows only."""
    cells = table[name]
    values = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    bad = used & ~(np.isfinite(values) & ((values >= 0) | (name == "day")))
    source.refuse(table, bad, name, lambda row: _number_fault(name, row[name]))
    return values


def _number_fault(name: str, cell: str) -> str:
    or_exclude = "correct it, or give the row a reason in the column 'exclude'"
    if cell in MISSING:
        return f"the {name} is missing; delete the row, or give it a reason in the column 'exclude'"
    if re.fullmatch(r"[-+]?\d+(\.\d{3})*,\d+", cell):
        return f"{cell!r} is not a number: write decimals with a point, thousands without a mark"
    value = float(pd.to_numeric(pd.Series([cell]), errors="coerce").iloc[0])
    if math.isnan(value) and name == "volume_mm3":
        return (
            f"{cell!r} is not a number: write 0 where nothing could be felt; where nothing was measured, delete the "
            "row, or give it a reason in the column 'exclude'"
        )
    if math.isnan(value):
        return f"{cell!r} is not a number; {or_exclude}"
    if math.isinf(value):
        return f"{cell!r} is not finite; {or_exclude}"
    return (
        f"{cell} is negative: a volume is 0 (undetectable) or more; of changes in per cent, give the volumes themselves"
    )


def body_weights(source: Source, table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return grams; weights that no mouse has are missing, since the fit does not rest on them."""
    cells = table["body_weight_g"]
    values = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    bad = np.isnan(values) & ~cells.isin(MISSING).to_numpy()
    source.refuse(table, bad, "body_weight_g", lambda row: _number_fault("body_weight_g", row["body_weight_g"]))
    impossible = ~np.isnan(values) & ~((values > 0) & (values < math.inf))
    if not impossible.any():
        return values, []
    lines = listed(table.loc[impossible, "row"], 3)
    note = f"impossible body weights, read as missing: {impossible.sum():,} (line {lines})"
    return np.where(impossible, np.nan, values), [note]


def check_mice(source: Source, used: pd.DataFrame) -> None:
    """One mouse has one PDX model, one arm, and days that go on; one PDX model has one tumour type."""
    if used.empty:
        raise InputError(
            "nothing is left to fit: every row has a reason in the column 'exclude' or a day before treatment",
            file=source.path,
        )
    row, mouse = used["row"].to_numpy(), np.asarray(pd.factorize(used["mouse_key"])[0])
    model = np.asarray(pd.factorize(used["pdx_model"])[0])
    one_per_study = (
        "mouse ids are unique within a study: write one animal one id, such as MODEL-ARM-1, or, where ids start again "
        "with every PDX model, make each a study of its own (data.columns, study: the column of pdx_model)"
    )
    for name, owner, of, advice in (
        ("pdx_model", "mouse", mouse, one_per_study),
        ("arm", "mouse", mouse, f"{one_per_study}; rows after a change of arm need a reason in 'exclude'"),
        ("tumour_type", "pdx_model", model, "a PDX model has one tumour type: correct it, or name the models apart"),
    ):
        values = used[name].to_numpy()
        first = np.unique(of, return_index=True)[1][of]
        source.refuse(
            used.assign(other=values[first], other_row=row[first]), values != values[first], owner,
            lambda at, name=name, owner=owner, advice=advice: f"{owner} {at[owner]!r} has the {name} {at[name]!r} here "
            f"and {at['other']!r} on line {at['other_row']}; {advice}",
        )  # fmt: skip
    day = used["day"].to_numpy()
    order = np.lexsort((row, day, mouse))
    same = np.zeros(len(used), bool)
    same[order[1:]] = (np.diff(mouse[order]) == 0) & (np.diff(day[order]) == 0)
    earlier = np.zeros(len(used), int)
    earlier[order[1:]] = row[order[:-1]]
    source.refuse(
        used.assign(other_row=earlier), same, "day",
        lambda at: f"mouse {at['mouse']!r} has day {at['day']:g} here and on line {at['other_row']}; keep one, or give "
        "the other a reason in the column 'exclude'; two animals need two ids",
    )  # fmt: skip
    before = used["day"].groupby(mouse).shift(1)
    source.refuse(
        used.assign(before=before), (used["day"] < before).to_numpy(), "day",
        lambda at: f"mouse {at['mouse']!r} goes back from day {at['before']:g} to day {at['day']:g}; correct the day, "
        "sort the rows of the mouse by day, or name two animals apart",
    )  # fmt: skip
