"""Covariates of PDX models: columns of a table that are one number for a model, such as a mutation, 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from vtrial.errors import InputError
from vtrial.table import ADDED, REQUIRED, Source, listed, nearest


def check_covariates(source: Source, table: pd.DataFrame, used: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    """The table with its covariates as numbers.

    Parameters
    ----------
    source, table
        Of the file, under canonical column names.
    used
        Rows that a fit sees: only those need a value.
    names
        The columns.

    Raises
    ------
    InputError
        No such column; a value that is missing or no number, or differs between rows of a PDX model; a covariate that
        is the same for all PDX models of every tumour type.
    """
    for name in names:
        if name not in table or name in (*REQUIRED, *ADDED, "exclude"):
            own = [str(column) for column in table if column not in (*REQUIRED, *ADDED, "exclude")]
            message = f"{name!r} is no covariate of the table.{nearest(name, own)} Its other columns: {listed(own)}"
            raise InputError(message, file=source.path, line=1, key="fit.covariates")
        cells = table[name]
        values = pd.to_numeric(cells, errors="coerce").replace([np.inf, -np.inf], np.nan)
        source.refuse(
            table, used & values.isna(), name,
            lambda row, name=name: f"PDX model {row['pdx_model']!r} has {_said(row[name])}: a covariate of a fit is a "
            "number, such as 0 or 1, for every PDX model; complete it, or give its rows a reason in 'exclude'",
        )  # fmt: skip
        table = table.assign(**{name: values})
        rows = table[used]
        first = rows.drop_duplicates("pdx_model").set_index("pdx_model")
        source.refuse(
            rows.assign(other=rows["pdx_model"].map(first[name]), other_row=rows["pdx_model"].map(first["row"])),
            rows[name] != rows["pdx_model"].map(first[name]), name,
            lambda row, name=name: f"PDX model {row['pdx_model']!r} has {name} {row[name]:g} here and {row['other']:g} "
            f"on line {int(row['other_row'])}; a covariate is one number for a PDX model",
        )  # fmt: skip
        if not (first.groupby("tumour_type")[name].nunique() > 1).any():
            message = (
                f"{name!r} is the same for all PDX models of a tumour type, in every type: nothing can be learnt of it"
            )
            raise InputError(message, file=source.path, key="fit.covariates")
    return table


def _said(cell: Any) -> str:
    return "no value" if pd.isna(cell) or not str(cell).strip() else f"{cell!r}"


def covariate_values(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Covariates of every PDX model that has them, excluded or not: indexed by name, a column each."""
    kept = table.dropna(subset=list(names)).drop_duplicates("pdx_model").set_index("pdx_model")
    return kept[list(names)].astype(float)
