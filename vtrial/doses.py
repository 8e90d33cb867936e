"""Doses of the drugs of a table: behind a drug in the name of an arm, ``vismodegib 25 mg/kg``, or in a column."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from vtrial.arms import follow, parts_of, split
from vtrial.errors import InputError
from vtrial.table import MISSING, Source, fold, listed, nearest

# A number and a unit of mass, amount, activity or radiation, at the end or before a word in brackets. The unit is what
# keeps names such as "compound 7" whole.
_WRITTEN = re.compile(
    r"(?P<drug>.*\S)\s+(?P<amount>[-+]?[0-9][0-9.,]*(?:e[-+]?[0-9]+)?)\s*"
    r"(?P<unit>(?:[nuµμm]?g|mcg|mpk|[nuµμm]?mol|[nuµμm]?M|iu|gy|mbq)(?:/[\w.²^]+)*)(?:\s*\([^()]*\))?",
    re.IGNORECASE,
)


class Dose(NamedTuple):
    """One dose of one drug."""

    drug: str  # its name whatever the dose
    amount: float  # above 0
    unit: str

    @property
    def name(self) -> str:
        """The drug at this dose, as it is called everywhere."""
        return f"{self.drug} {self.amount:g} {self.unit}"


def written_dose(name: str) -> Dose | None:
    """The dose that a name ends in, such as ``A 25 mg/kg`` or ``A 25 mg/kg (high)``; None where it ends in none.

    Raises
    ------
    InputError
        The dose is no number above 0.
    """
    if not (found := _WRITTEN.fullmatch(name.strip())):
        return None
    try:
        amount = float(found["amount"])
    except ValueError:
        message = f"the dose of {name!r} is not a number: write decimals with a point, thousands without a mark"
        raise InputError(message) from None
    if not 0.0 < amount < math.inf:
        raise InputError(f"the dose of {name!r} must be above 0; mice without a drug belong to an arm of data.control")
    return Dose(found["drug"], amount, found["unit"])


def with_doses(
    source: Source,
    table: pd.DataFrame,
    used: pd.Series,
    columns: Mapping[str, str],
    unit: str,
    control: Sequence[str],
    separator: str,
    aliases: Mapping[str, str],
) -> pd.Series:
    """Arms of a table with the doses of its columns behind their drugs: ``A + B`` becomes ``A 25 mg/kg + B``.

    Parameters
    ----------
    source, table
        Of the file, under canonical column names.
    used
        Rows that are not excluded; only their doses are read.
    columns
        Drug -> column of its dose.
    unit
        Of all these columns.
    control, separator, aliases
        See `vtrial.dataset.read_dataset`.

    Raises
    ------
    InputError
        No such column or drug; a dose that is missing, no number, not above 0, or of a drug that the mouse has not; a
        unit that holds the separator.
    """
    if separator.strip() in unit:
        message = f"{unit!r} holds the separator of arms, {separator!r}; write it without, such as mpk"
        raise InputError(message, key="data.dose_unit")
    parts = {arm: parts_of(arm, separator, aliases, control) for arm in table["arm"].unique()}
    written = {arm: split(follow(arm, aliases), separator) for arm in parts}
    amounts = pd.DataFrame(index=table.index)
    for drug, column in columns.items():
        key, wanted = f"data.dose_columns.{drug}", fold(follow(drug, aliases))
        if column not in table:
            message = f"the table has no column {column!r}.{nearest(column, list(table.columns))}"
            raise InputError(message, file=source.path, line=1, key=key)
        drugs = sorted({part for held in parts.values() for part in held})
        given = table["arm"].map({arm: wanted in map(fold, held) for arm, held in parts.items()}).astype(bool)
        if not given.any():
            message = f"no arm has the drug {drug!r}.{nearest(drug, drugs)} Drugs of the table: {listed(drugs)}"
            raise InputError(message, file=source.path, key=key)
        cells = table[column]
        values = pd.to_numeric(cells, errors="coerce")
        empty = cells.isna() | cells.isin(MISSING)
        wrong = given & ~((values > 0) & (values < math.inf))
        source.refuse(
            table,
            used & wrong,
            column,
            lambda row, column=column, drug=drug: _fault(row[column], drug, str(row["arm"])),
        )
        source.refuse(
            table, used & ~given & ~empty & (values != 0), column,
            lambda row, column=column, drug=drug: f"{row[column]} is a dose of {drug}, which is not in the arm "
            f"{row['arm']!r} of this mouse; leave the cell empty, or name the drug in the arm",
        )  # fmt: skip
        amounts[wanted] = values.where(given & ~wrong)

    def named(arm: str, doses: Mapping[Any, float]) -> str:
        def part(one: str) -> str:
            amount = doses.get(fold(follow(one, aliases)), math.nan)
            return one if math.isnan(amount) else Dose(follow(one, aliases), amount, unit).name

        return separator.join(map(part, written[arm]))

    rows = amounts.to_dict("records")
    return pd.Series(
        [named(arm, row) if parts[arm] else arm for arm, row in zip(table["arm"], rows, strict=True)],
        index=table.index,
    )


def _fault(cell: Any, drug: str, arm: str) -> str:
    advice = "or give the row a reason in the column 'exclude'"
    if pd.isna(cell) or cell in MISSING:
        return f"the dose of {drug} is missing in the arm {arm!r}: write it, {advice}"
    if math.isnan(float(pd.to_numeric(pd.Series([cell]), errors="coerce").iloc[0])):
        return f"{cell!r} is not a dose: a number is needed, its unit is data.dose_unit; correct it, {advice}"
    return f"a dose is above 0, found {cell}; mice without a drug belong to an arm of data.control"


def read_doses(
    source: Source, table: pd.DataFrame, control: Sequence[str], separator: str, aliases: Mapping[str, str]
) -> tuple[dict[str, Dose], dict[str, str]]:
    """Doses that the names of arms hold.

    Returns
    -------
    dict of str to Dose
        By the name of the drug at that dose, the same however the table writes it.
    dict of str to str
        Aliases under which arms read so: other spellings -> that name; those of `aliases` that are of drugs whatever
        their dose are gone, since no drug of the table has such a name.

    Raises
    ------
    InputError
        A dose that is no number above 0, two units for one drug, or a drug twice in an arm.
    """
    first_row = table.drop_duplicates("arm").set_index("arm")["row"]
    doses: dict[str, Dose] = {}
    spelt: dict[str, Dose] = {}  # folded drug -> its first dose, whose spelling of drug and unit is kept
    others: dict[str, str] = {}
    for arm, row in first_row.items():
        place: dict[str, Any] = dict(file=source.path, line=int(row), key=source.columns.get("arm", "arm"))
        inside = []
        for part in parts_of(str(arm), separator, aliases, control):
            try:
                found = written_dose(part)
            except InputError as error:
                raise InputError(error.message, **place) from None
            drug = follow(found.drug, aliases) if found else part
            inside.append(fold(drug))
            if found is None:
                continue
            first = spelt.setdefault(fold(drug), Dose(drug, found.amount, found.unit))
            if fold(first.unit) != fold(found.unit):
                message = f"{part!r}: the doses of {first.drug} must have one unit; elsewhere it is {first.unit!r}"
                raise InputError(message, **place)
            own = Dose(first.drug, found.amount, first.unit)
            doses[own.name] = own
            if part != own.name:
                others[part] = own.name
        if len(set(inside)) < len(inside):
            raise InputError(f"{str(arm)!r} names a drug twice", **place)
    rest = {
        name: target
        for name, target in aliases.items()
        if fold(follow(name, aliases)) not in spelt or fold(name) in map(fold, table["arm"].unique())
    }
    return doses, {**rest, **others}


def undosed(arms: Mapping[str, Sequence[str]], doses: Mapping[str, Dose]) -> tuple[str, str] | None:
    """The first arm and drug without a dose where other arms name one; None where there is none."""
    dosed = {fold(dose.drug) for dose in doses.values()}
    without = ((arm, drug) for arm, drugs in arms.items() for drug in drugs if drug not in doses)
    return next(((arm, drug) for arm, drug in without if fold(drug) in dosed), None)
