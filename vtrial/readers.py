"""Tables in other layouts -> one row a measurement, each with its line in the file.

`data.layout` of the experiment names the layout:

- ``long``: a row a measurement; nothing is done.
- ``wide``: a row a mouse, a column a day (``0``, ``D3``, ``day 7``; any other writing by `data.day_columns`).
- ``pdxe``: the supplement of the PDX encyclopaedia (Gao et al., Nat Med 2015;21:1318), sheet "PCT raw data", which
  names no mice: within a PDX model and treatment a new mouse begins where the days do not go on.
- ``invivosyn``: wide, with the columns Treatment and Mouse (R package invivoSyn); mice are numbered within treatments.
- ``chi``: long with rows of doses (data library of the Python package chi): ID, Time, Observable, Value, Dose.

In every layout, callipers stand in for a volume: columns length_mm and width_mm give length x width^2 / 2, the
prolate ellipsoid in its usual rounding (Euhus et al., J Surg Oncol 1986;31:229).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from vtrial.config import Layout
from vtrial.errors import InputError
from vtrial.table import MISSING, Source, fold, listed, nearest

LAYOUTS: tuple[str, ...] = get_args(Layout)
#: sheet that a layout is found in; else the first
SHEETS = {"pdxe": "PCT raw data"}
_NAMES: dict[str, dict[str, str]] = {
    "pdxe": {
        "pdx_model": "Model",
        "tumour_type": "Tumor Type",
        "arm": "Treatment",
        "day": "Days Post T0",
        "volume_mm3": "Volume (mm3)",
        "body_weight_g": "body weight (g)",
    },
    "invivosyn": {"arm": "Treatment", "mouse": "Mouse"},
    "chi": {"mouse": "ID", "day": "Time"},
}
_OPTIONAL = ("body_weight_g",)
_DAY = re.compile(r"(?:day|d|t)?[\s_.]*(-?[0-9]+(?:\.[0-9]+)?)\s*(?:d|days?)?\Z", re.IGNORECASE | re.ASCII)
_VOLUME_UNITS = {"mm3": 1.0, "mm^3": 1.0, "mm³": 1.0, "ul": 1.0, "cm3": 1e3, "cm^3": 1e3, "cm³": 1e3, "ml": 1e3}


class Rows(NamedTuple):
    """A long table of text, and how its columns are called: what `vtrial.table.canonical` takes."""

    text: pd.DataFrame
    lines: np.ndarray  # line in the file of each row
    columns: dict[str, str]
    constants: dict[str, Any]
    notes: list[str]


def arranged(
    path: Path,
    text: pd.DataFrame,
    lines: np.ndarray,
    columns: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    layout: str = "long",
    day_columns: str | None = None,
    control: str = "untreated",
) -> Rows:
    """Bring a table into one row a measurement.

    Parameters
    ----------
    path : Path
        Named in faults.
    text : DataFrame
        Cells as text under the table's own header.
    lines : array of int
        Line in the file of each row.
    columns, constants : mapping
        As in `vtrial.dataset.read_dataset`; they go before the names that a layout brings along.
    layout : str
        One of `LAYOUTS`.
    day_columns : str, optional
        How a wide table names its days, ``{day}`` standing for the number.
    control : str
        Arm of the mice without doses, where the layout tells by doses.

    Raises
    ------
    InputError
        Where a column of the layout is missing, or a cell cannot be what its column says.
    """
    columns, constants = dict(columns), dict(constants)
    if layout not in LAYOUTS:
        raise InputError(f"must be one of {', '.join(LAYOUTS)}, found {layout!r}", key="data.layout")
    if day_columns is not None and layout not in ("wide", "invivosyn"):
        raise InputError(f"is for wide tables; the layout is {layout!r}", key="data.day_columns")
    held = {fold(name): name for name in text.columns}
    for name, wanted in _NAMES.get(layout, {}).items():
        if name in columns or name in constants or name in text.columns:
            continue
        if fold(wanted) in held:
            columns[name] = held[fold(wanted)]
        elif name not in _OPTIONAL:
            message = f"the layout {layout!r} needs the column {wanted!r}.{nearest(wanted, list(text.columns))}"
            message += f" The table has {listed(text.columns)}; another name goes into data.columns.{name}"
            raise InputError(message, file=path, line=_header(lines))
    rows = Rows(text, lines, columns, constants, [])
    if layout == "long" and not {"volume_mm3", "length_mm"} & {*columns, *constants, *text.columns}:
        days = [name for name in text.columns if _DAY.match(name.strip())]
        if len(days) > 2:
            message = f"has a column a day ({listed(days, 3)}): set data.layout: wide"
            raise InputError(message, file=path, line=_header(lines))
    if layout in ("wide", "invivosyn"):
        rows = _from_wide(path, rows, day_columns, numbered_within_arms=layout == "invivosyn")
    elif layout == "pdxe":
        rows = _with_mice(path, rows)
    elif layout == "chi":
        rows = _without_doses(path, rows, control)
    return _with_volumes(path, rows)


def _header(lines: np.ndarray) -> int:
    return max(int(lines[0]) - 1, 1) if len(lines) else 1


def _column(path: Path, rows: Rows, name: str) -> str:
    """The table's own name of a canonical column that must be there."""
    written = rows.columns.get(name, name)
    if written not in rows.text:
        message = f"the table has no column {written!r}.{nearest(written, list(rows.text.columns))}"
        message += f" It has {listed(rows.text.columns)}"
        raise InputError(message, file=path, line=_header(rows.lines), key=f"data.columns.{name}")
    return written


def _numbers(path: Path, rows: Rows, column: str, allowed_empty: bool = False) -> np.ndarray:
    cells = rows.text[column]
    values = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    empty = cells.isin(MISSING).to_numpy()
    bad = ~np.isfinite(values) & ~(empty & allowed_empty)
    Source(path, {}).refuse(
        rows.text.assign(row=rows.lines), bad, column,
        lambda row: f"{row[column]!r} is not a number; decimals have a point, and an unmeasured cell is empty"
        if row[column] not in MISSING else "the cell is empty",
    )  # fmt: skip
    return values


def _day_of(name: str, pattern: re.Pattern[str]) -> float | None:
    found = pattern.match(name.strip())
    return float(found[1]) if found else None


def _from_wide(path: Path, rows: Rows, day_columns: str | None, numbered_within_arms: bool) -> Rows:
    if day_columns is None:
        pattern = _DAY
    else:
        before, mark, after = day_columns.partition("{day}")
        if not mark:
            message = f"must hold {{day}} where the number stands, such as 'TV_{{day}}', found {day_columns!r}"
            raise InputError(message, key="data.day_columns")
        number = r"(-?[0-9]+(?:\.[0-9]+)?)"
        pattern = re.compile(rf"{re.escape(before)}{number}{re.escape(after)}\Z", re.ASCII)
    taken = {*rows.columns.values()}
    days = {
        name: day for name in rows.text.columns if name not in taken and (day := _day_of(name, pattern)) is not None
    }
    if len(days) < 2:
        message = f"a wide table needs a column a day, such as '0', 'D3' or 'day 7'; found {listed(days) or 'none'}"
        message += f" among {listed(rows.text.columns)}; another writing goes into data.day_columns"
        raise InputError(message, file=path, line=_header(rows.lines))
    if len(set(days.values())) < len(days):
        doubled = next(a for a in days if [*days.values()].count(days[a]) > 1)
        raise InputError(
            f"two columns stand for day {days[doubled]:g}", file=path, line=_header(rows.lines), key=doubled
        )
    notes, text = list(rows.notes), rows.text
    for name in days:
        _numbers(path, rows, name, allowed_empty=True)
    mouse = rows.columns.get("mouse", "mouse")
    if mouse not in text and "mouse" not in rows.constants:
        text = text.assign(**{mouse: [f"line {line}" for line in rows.lines]})
        notes.append("no column of mice: every line is one, named after it")
    elif numbered_within_arms:
        arm = text[_column(path, rows, "arm")]
        text = text.assign(**{mouse: arm + "|" + text[mouse]})
    ordered = sorted(days, key=lambda name: days[name])
    identity = text.drop(columns=ordered)
    places = np.repeat(np.arange(len(text)), len(ordered))
    volumes = text[ordered].to_numpy().ravel()
    long = identity.iloc[places].reset_index(drop=True)
    long["day"] = [f"{days[name]:g}" for name in ordered] * len(text)
    long["volume_mm3"] = volumes
    measured = ~long["volume_mm3"].isin(MISSING).to_numpy()
    if not measured.all():
        notes.append(f"wide table: {(~measured).sum():,} empty cells are days on which a mouse was not measured")
    columns = {name: written for name, written in rows.columns.items() if name not in ("day", "volume_mm3")}
    return Rows(long[measured].reset_index(drop=True), rows.lines[places][measured], columns, rows.constants, notes)


def _with_mice(path: Path, rows: Rows) -> Rows:
    """Name the mice of a table that does not: a new one begins where the days of a model and treatment do not go on."""
    if "mouse" in rows.columns or "mouse" in rows.text:
        return rows
    day = _numbers(path, rows, _column(path, rows, "day"))
    cell = rows.text[_column(path, rows, "pdx_model")] + "|" + rows.text[_column(path, rows, "arm")]
    before = pd.Series(day).groupby(cell.to_numpy()).shift(1).to_numpy()
    number = pd.Series(~(day > before)).groupby(cell.to_numpy()).cumsum().to_numpy(int)
    text = rows.text.assign(mouse=[f"{name}|m{place}" for name, place in zip(cell, number, strict=True)])
    several = pd.Series(number).groupby(cell.to_numpy()).max()
    note = "the table names no mice: one begins where the days of a PDX model and treatment do not go on"
    note += f"; {int((several > 1).sum()):,} of {len(several):,} cells hold several"
    return rows._replace(text=text, notes=[*rows.notes, note])


def _without_doses(path: Path, rows: Rows, control: str) -> Rows:
    """Keep the rows of tumour volumes, in mm3; body weights go beside them, doses tell the arm where no column does."""
    observable, value = (_column(path, rows, name) for name in ("Observable", "Value"))
    mouse, day = (_column(path, rows, name) for name in ("mouse", "day"))
    kinds = rows.text[observable].str.casefold().str.replace("tumor", "tumour").to_numpy(str)
    volume = np.char.startswith(kinds, "tumour volume") | (kinds == "volume")
    weight = np.char.startswith(kinds, "body weight")
    if not volume.any():
        found = listed(sorted({name for name in rows.text[observable] if name}))
        message = f"no row is a tumour volume; the observables are {found or 'empty'}"
        raise InputError(message, file=path, key=observable)
    dose = rows.text["Dose"] if "Dose" in rows.text else pd.Series("", index=rows.text.index)
    dosed = set(rows.text.loc[(pd.to_numeric(dose, errors="coerce") > 0).to_numpy(), mouse])
    factor = _unit_factor(path, rows, observable, volume)
    kept = rows.text[volume].reset_index(drop=True)
    inner = rows._replace(text=kept, lines=rows.lines[volume])
    numbers = _numbers(path, inner, value) * factor
    kept = kept.drop(columns=[value]).assign(volume_mm3=[f"{number:.9g}" for number in numbers])
    if weight.any():
        own = rows.text[weight].drop_duplicates([mouse, day]).set_index([mouse, day])[value]
        at = pd.MultiIndex.from_frame(kept[[mouse, day]])
        kept["body_weight_g"] = own.reindex(at).fillna("").to_numpy()
    columns, constants = dict(rows.columns), dict(rows.constants)
    notes = list(rows.notes)
    if "arm" not in columns and "arm" not in rows.text:
        if dosed and "arm" not in constants:
            message = "no column names the arms; data.constants.arm names the drug that the dosed mice were given"
            raise InputError(message, file=path, line=_header(rows.lines), key="data.constants.arm")
        drug = str(constants.pop("arm", control))
        kept["arm"] = np.where(kept[mouse].isin(dosed), drug, control)
        notes.append(f"arms by doses: {len(dosed):,} dosed mice are {drug!r}, the others {control!r}")
    if others := int((~volume & ~weight).sum()):
        notes.append(f"rows of doses and of other observables set aside: {others:,}")
    columns.pop("volume_mm3", None)
    return Rows(kept, inner.lines, columns, constants, notes)


def _unit_factor(path: Path, rows: Rows, observable: str, volume: np.ndarray) -> float:
    """What turns the volumes of a chi table into mm3: its unit column, or the unit in the name of the observable."""
    unit_column = next((n for n in map(str, rows.text.columns) if fold(n) in ("observable unit", "unit")), None)
    named = rows.text.loc[volume, observable].str.extract(r"(?:in |\[|\()([^\])]+)[\])]?\Z")[0]
    units = (named if unit_column is None else rows.text.loc[volume, unit_column]).fillna("")
    folded = sorted({fold(unit) for unit in units})
    if len(folded) != 1 or folded[0] not in _VOLUME_UNITS:
        message = f"the unit of the volumes must be one of {', '.join(_VOLUME_UNITS)}, in the column 'Observable unit'"
        found = listed([unit for unit in folded if unit]) or "none"
        key = unit_column or observable
        raise InputError(f"{message}; found {found}", file=path, line=int(rows.lines[volume][0]), key=key)
    return _VOLUME_UNITS[folded[0]]


def _with_volumes(path: Path, rows: Rows) -> Rows:
    """Volumes from callipers, where the table has those and no volume: length x width^2 / 2."""
    given = {*rows.columns, *rows.constants, *rows.text.columns}
    if "volume_mm3" in given or not {"length_mm", "width_mm"} <= given:
        return rows
    length, width = (_numbers(path, rows, _column(path, rows, name), True) for name in ("length_mm", "width_mm"))
    source = Source(path, rows.columns)
    table = rows.text.assign(row=rows.lines)
    for name, values in (("length_mm", length), ("width_mm", width)):
        source.refuse(
            table, values < 0, name, lambda row, name=name: f"{row[rows.columns.get(name, name)]} is negative"
        )
    longer, shorter = np.maximum(length, width), np.minimum(length, width)
    volume = longer * shorter**2 / 2.0
    notes = [*rows.notes, "volumes are length x width^2 / 2 from callipers"]
    if turned := int((width > length).sum()):
        notes.append(f"width above length in {turned:,} rows: the longer one is taken for the length")
    cells = ["" if np.isnan(v) else f"{v:.9g}" for v in volume]
    return rows._replace(text=rows.text.assign(volume_mm3=cells), notes=notes)
