"""Names of arms -> drugs: the separator, the aliases, and the spelling that outputs keep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from vtrial.errors import InputError
from vtrial.table import Source, fold, listed, nearest


def read_arms(
    source: Source, table: pd.DataFrame, control: tuple[str, ...], separator: str, aliases: dict[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]], list[str]]:
    """Return each arm as written -> the table's first spelling of it, that spelling -> its drugs, and notes."""
    first_row = table.drop_duplicates("arm").set_index("arm")["row"]
    written = {str(arm): parts_of(str(arm), separator, aliases, control) for arm in first_row.index}
    held: dict[str, str] = {}
    for part in (part for arm in written for part in split(arm, separator)):
        held.setdefault(fold(part), part)
    names: dict[str, str] = {}
    for arm, parts in written.items():
        if fault := arm_fault(parts):
            message = f"{arm!r} {fault}; the drugs of an arm stand between {separator!r} (data.separator)"
            raise InputError(message, file=source.path, line=int(first_row[arm]), key=source.columns.get("arm", "arm"))
        for part in parts:
            names.setdefault(fold(part), held.get(fold(part), part))
    for name in aliases:
        target = follow(name, aliases)
        if fold(name) not in held and fold(target) not in {*names, *held, *map(fold, control)}:
            message = f"neither {name!r} nor {target!r} is a drug of the table.{nearest(target, list(names.values()))}"
            raise InputError(
                f"{message} Drugs: {listed(sorted(names.values()))}", file=source.path, key=f"data.aliases.{name}"
            )
    if all(written.values()):
        message = f"no control arm: no row has the arm {' or '.join(map(repr, control))}."
        message += f"{nearest(control[0], list(written))} Name the arms without drug in data.control."
        message += f" Arms of the table: {listed(written)}"
        raise InputError(message, file=source.path)
    spelling, drugs_of, notes, seen = {}, {}, [], {}
    for arm, parts in written.items():
        drugs = tuple(sorted(names[fold(part)] for part in parts))
        first = spelling[arm] = seen.setdefault(drugs or fold(arm), arm)
        drugs_of[first] = drugs
        if first != arm:
            notes.append(f"the arm {arm!r} is read as {first!r}: the same drugs")
    return spelling, drugs_of, notes


def drugs_in(arms: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the drugs of all arms, sorted, each once."""
    return tuple(sorted({drug for drugs in arms.values() for drug in drugs}))


def split(arm: str, separator: str) -> list[str]:
    """Cut the name of an arm at the separator."""
    mark = re.escape(separator.strip())
    # A word as separator ("and", "x") needs its spaces, or it would cut through drug names.
    pattern = rf"\s+{mark}\s+" if separator.strip().isalnum() else rf"\s*{mark}\s*"
    return re.split(pattern, arm.strip())


def parts_of(arm: str, separator: str, aliases: Mapping[str, str], control: Sequence[str]) -> list[str]:
    """Split an arm into drugs under the names to use; controls are no drugs, so "vehicle + A" is A.

    An alias may stand for a whole arm: with ``Combo: A + B`` the arm "Combo" has the drugs A and B.
    """
    none = {fold(name) for name in control}
    if fold(arm) in none:
        return []
    parts = [follow(part, aliases) for part in split(follow(arm, aliases), separator)]
    return [part for part in parts if fold(part) not in none]


def arm_fault(parts: list[str]) -> str:
    """Return what is wrong with the drugs of an arm, empty where nothing is."""
    folded = [fold(part) for part in parts]
    if "" in folded:
        return "names nothing where a drug should stand"
    return "names a drug twice" if len(set(folded)) < len(folded) else ""


def follow(name: str, aliases: Mapping[str, str]) -> str:
    """Follow the aliases from a name to the one to use."""
    folded = {fold(alias): target for alias, target in aliases.items()}
    found, passed = name.strip(), set()
    while fold(found) in folded and fold(folded[fold(found)]) != fold(found):
        if fold(found) in passed:
            raise InputError("goes in a circle; name the one spelling to use", key=f"data.aliases.{name}")
        passed.add(fold(found))
        found = folded[fold(found)].strip()
    return found
