"""Tables of tumour volumes -> one checked `Dataset`, every fault with its file and line.

Volumes at or below the detection limit are left-censored there: they keep their row, and no model ever takes their
logarithm. A limit of 10 mm3 (`DETECTION_LIMIT_MM3`) is a sphere 2.7 mm across, about the smallest nodule that a
calliper can close on under the skin. The PDX encyclopaedia (Gao et al., Nat Med 2015;21:1318) holds 1,993 zeros and, up
to 10 mm3, 131 other readings down to 0.1 mm3. Those are noise on a logarithmic axis (0.1 and 10 mm3 are 4.6 apart in
ln V, but 0.6 and 2.7 mm across); the median reading just before a first zero is 21 mm3, so the limit is, if anything,
low. A limit below the smallest real reading would turn the rounding of a calliper into the steepest slopes of all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vtrial.arms import arm_fault, drugs_in, follow, parts_of, read_arms
from vtrial.covariates import check_covariates
from vtrial.doses import Dose, read_doses, undosed, with_doses, written_dose
from vtrial.errors import InputError
from vtrial.measurements import body_weights, check_identity, check_mice, mouse_keys, numbers, reasons
from vtrial.readers import SHEETS, arranged
from vtrial.table import Source, canonical, cells_of, content_of, fold, listed, nearest

DETECTION_LIMIT_MM3 = 10.0
TOO_FEW = "fewer than 2 measurements"
#: days after the first dose by which a study that was measured at its start has a measurement: a week, assumed; the
#: middle mouse of four public tables (PDXE, invivoSyn, maeve, LXF A677) has its first on day -1 or 0
LATEST_START = 7.0
BEFORE_TREATMENT = "before treatment"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Tumour volumes of mice, checked.

    Attributes
    ----------
    table : DataFrame, one row per measurement, in the order of the file
        `study`, `tumour_type`, `pdx_model`, `mouse`, `arm` (text); `day` (since treatment start); `volume_mm3` (as
        measured, 0 included); `mouse_key` (text, study/mouse: unambiguous over studies); `censored` (bool: at or below
        `detection_limit_mm3`); `exclude` (text: why the fit ignores the row, "" where it does not; such a row may hold
        NaN); `row` (int, line in the file, the header is line 1); optional columns and covariates as they are.
    drugs : tuple of str
        The single drugs, sorted.
    arms : dict of str to tuple of str
        The table's spelling of an arm that has rows to fit -> its drugs, sorted; a control arm -> ().
    notes : tuple of str
        What was kept out, censored or read in another way, and why, with counts.
    sha256 : str
        Of the bytes of the file.
    path : Path
        The file.
    aliases : dict of str to str
        Any name -> the drug name used here.
    control : tuple of str
        Names of arms without drug.
    separator : str
        What stands between the drugs of a combination.
    detection_limit_mm3 : float
        Where censored volumes are censored (mm3).
    doses : dict of str to Dose
        Of `drugs`, those that are a drug at a dose; empty where doses are not read, and every dose is a drug of its
        own.
    """

    table: pd.DataFrame = field(repr=False)
    drugs: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    sha256: str
    path: Path
    aliases: dict[str, str]
    control: tuple[str, ...] = ("untreated",)
    separator: str = " + "
    detection_limit_mm3: float = DETECTION_LIMIT_MM3
    doses: dict[str, Dose] = field(default_factory=dict)

    @property
    def used(self) -> pd.DataFrame:
        """The rows that a fit sees: those without a reason in `exclude`."""
        return self.table[self.table["exclude"] == ""]

    @property
    def substances(self) -> tuple[str, ...]:
        """The single drugs whatever their dose, sorted."""
        return tuple(sorted({self.substance(drug) for drug in self.drugs}))

    def substance(self, drug: str) -> str:
        """Return the drug of a drug at a dose; a drug without a dose is its own."""
        return self.doses[drug].drug if drug in self.doses else drug

    def dose(self, name: str) -> Dose | None:
        """Return the dose of a drug at a dose, which the table need not hold, its drug must; None of any other name."""
        held = {fold(one): dose for one, dose in self.doses.items()}
        wanted = follow(name, self.aliases)
        if fold(wanted) in held or not held:
            return held.get(fold(wanted))
        written = written_dose(wanted)
        same = next(
            (d for d in held.values() if written and fold(d.drug) == fold(follow(written.drug, self.aliases))), None
        )
        if written is None or same is None:
            return None
        if fold(same.unit) != fold(written.unit):
            raise InputError(f"the dose of {name!r} must be in {same.unit}, as in the table", file=self.path)
        return Dose(same.drug, written.amount, same.unit)

    def drug_name(self, name: str) -> str:
        """Return the name used here of the drug that a user calls `name`, whatever its case, through the aliases.

        Raises
        ------
        InputError
            No such drug; with the nearest name.
        """
        known = {fold(drug): drug for drug in self.drugs}
        wanted = follow(name, self.aliases)
        if fold(wanted) not in known and (dose := self.dose(wanted)):
            wanted = dose.name
        if fold(wanted) not in known:
            raise InputError(
                f"unknown drug {name!r}.{nearest(wanted, [*self.drugs, *self.aliases])} "
                f"Drugs of the table: {listed(self.drugs)}. A second name of one of them goes into data.aliases",
                file=self.path,
            )
        return known[fold(wanted)]

    def arm_drugs(self, arm: str) -> tuple[str, ...]:
        """Return the sorted drugs of an arm, its drugs named in any order; the arm itself may be unseen, its drugs not.

        Raises
        ------
        InputError
            An unknown drug, a drug twice, or nothing between two separators.
        """
        if arm in self.arms:
            return self.arms[arm]
        parts = parts_of(arm, self.separator, self.aliases, self.control)
        if fault := arm_fault(parts):
            raise InputError(f"arm {arm!r} {fault}", file=self.path)
        return tuple(sorted(self.drug_name(part) for part in parts))

    def arm_name(self, drugs: Iterable[str]) -> str:
        """Return the table's spelling of the arm of these drugs, in any order; of an unseen arm, the drugs joined.

        Raises
        ------
        InputError
            An unknown drug.
        """
        names = [self.drug_name(drug) for drug in drugs]
        wanted = tuple(sorted(names))
        joined = self.separator.join(names) if names else self.control[0]
        return next((arm for arm, held in self.arms.items() if held == wanted), joined)


def read_dataset(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    constants: Mapping[str, Any] | None = None,
    control: Sequence[str] = ("untreated",),
    separator: str = " + ",
    aliases: Mapping[str, str] | None = None,
    first_dose_day: float | None = None,
    detection_limit_mm3: float = DETECTION_LIMIT_MM3,
    tumour_types: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    single_agents_only: bool = False,
    if_missing: str | None = None,
    layout: str = "long",
    sheet: str | None = None,
    day_columns: str | None = None,
    doses: bool = False,
    dose_columns: Mapping[str, str] | None = None,
    dose_unit: str = "mg/kg",
    covariates: Sequence[str] = (),
) -> Dataset:
    """Read a table, one row per measurement or in another layout, and check it.

    Parameters
    ----------
    path : path
        CSV (comma, semicolon or tab; plain or gzip; UTF-8) or xlsx, told apart by content.
    columns : mapping, optional
        Canonical column -> its name in the table; identity where absent.
    constants : mapping, optional
        Canonical columns that the table does not have. `study` is the file's stem where it is in neither.
    control : sequence of str
        Arms without drug.
    separator : str
        Between the drugs of a combination; the spaces around it do not matter.
    aliases : mapping, optional
        Any name of a drug -> the name to use, either of them as in the table.
    first_dose_day : float, optional
        Day of the table on which treatment started. Left out it is 0, and a table whose mice start long after that is
        an error.
    detection_limit_mm3 : float
        Volumes at or below are left-censored here (mm3). See the head of this file.
    tumour_types, arms : sequence of str, optional
        Keep these only; control arms are always kept.
    single_agents_only : bool
        Keep no arm of two drugs or more.
    if_missing : str, optional
        Added to the message where there is no such file: where to get it.
    layout : str
        How the table is laid out; see `vtrial.readers`.
    sheet : str, optional
        Sheet of an xlsx file; left out, that of the layout, else the first.
    day_columns : str, optional
        How a wide table names its days, such as ``TV_{day}``.
    doses : bool
        Whether ``A 25 mg/kg`` is a dose of the drug A; else it is a drug of its own.
    dose_columns : mapping, optional
        Drug -> column of its dose, which is put behind the drug in the names of arms.
    dose_unit : str
        Unit of these columns.
    covariates : sequence of str
        Columns that must be one number for every PDX model.

    Raises
    ------
    InputError
        The first fault, with file and line (the header is line 1), what was found and what to do.
    """
    path, columns, constants, aliases = Path(path), dict(columns or {}), dict(constants or {}), dict(aliases or {})
    control = tuple(name.strip() for name in _names(control))
    if not (math.isfinite(detection_limit_mm3) and detection_limit_mm3 > 0):
        raise InputError(
            f"must be a volume above 0 mm3, got {detection_limit_mm3}: the fit works on ln V, which 0 does not have",
            key="data.detection_limit_mm3",
        )
    if not control or not separator.strip():
        raise InputError("must not be empty", key="data.separator" if control else "data.control")
    content = content_of(path, if_missing)
    text, lines, sheets = cells_of(path, content, sheet or SHEETS.get(layout))
    try:
        rows = arranged(
            path, text, lines, columns, constants, layout=layout, day_columns=day_columns, control=control[0]
        )
        columns = rows.columns
        table, renamed = canonical(path, rows.text, rows.lines, columns, rows.constants)
    except InputError as error:
        if not sheets:
            raise
        message = f"{error.message}. The book has several sheets: {sheets[0]}; another goes into data.sheet"
        raise InputError(message, file=error.file, line=error.line, key=error.key) from None
    source = Source(path, columns)
    table["exclude"] = reasons(source, table)
    check_identity(source, table)
    table["mouse_key"] = mouse_keys(table)
    table["day"] = numbers(source, table, "day", (table["exclude"] == "").to_numpy()) - (first_dose_day or 0.0)
    # Time starts at the first dose: growth before it, under no arm, is not what the fit describes.
    table.loc[(table["day"] < 0) & (table["exclude"] == ""), "exclude"] = BEFORE_TREATMENT
    used = (table["exclude"] == "").to_numpy()
    table["volume_mm3"] = numbers(source, table, "volume_mm3", used)
    weights: list[str] = []
    if "body_weight_g" in table:
        table["body_weight_g"], weights = body_weights(source, table)
    found: dict[str, Dose] = {}
    if dose_columns:
        fitted = table["exclude"] == ""
        table["arm"] = with_doses(source, table, fitted, dose_columns, dose_unit, control, separator, aliases)
    if doses or dose_columns:
        found, aliases_of_arms = read_doses(source, table, control, separator, aliases)
        spelling, drugs_of, merged = read_arms(source, table, control, separator, aliases_of_arms)
        aliases = {**aliases, **aliases_of_arms}
    else:
        spelling, drugs_of, merged = read_arms(source, table, control, separator, aliases)
    table["arm"] = table["arm"].map(spelling)
    check_mice(source, table[used])
    table["censored"] = (table["volume_mm3"] <= detection_limit_mm3).to_numpy()
    whole = Dataset(
        table=table,
        drugs=drugs_in(drugs_of),
        arms=drugs_of,
        notes=(),
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
        aliases=aliases,
        control=control,
        separator=separator,
        detection_limit_mm3=float(detection_limit_mm3),
        doses=found if doses else {},
    )
    table, kept_out = _chosen(whole, tumour_types, arms, single_agents_only)
    table, left_out = _few_measurements(table)
    fitted = set(table.loc[table["exclude"] == "", "arm"])
    kept = {arm: drugs for arm, drugs in drugs_of.items() if arm in fitted}
    dataset = replace(whole, table=table, arms=kept, drugs=drugs_in(kept))
    dataset = replace(dataset, doses={name: dose for name, dose in whole.doses.items() if name in dataset.drugs})
    _check_usable(dataset)
    _check_doses(dataset)
    if covariates:
        known = check_covariates(source, dataset.table, dataset.table["exclude"] == "", covariates)
        dataset = replace(dataset, table=known)
    if first_dose_day is None:
        _check_start(dataset)
    return replace(
        dataset, notes=(*sheets, *rows.notes, *renamed, *weights, *merged, *kept_out, *left_out, *_remarks(dataset))
    )


def _chosen(
    whole: Dataset, tumour_types: Sequence[str] | None, arms: Sequence[str] | None, single_agents_only: bool
) -> tuple[pd.DataFrame, list[str]]:
    table, notes = whole.table, []

    def keep(mask: pd.Series, why: str) -> None:
        nonlocal table
        if not mask.all():
            out = table[~mask]
            notes.append(f"kept out: {len(out):,} rows of {out['mouse_key'].nunique():,} mice, {why}")
            table = table[mask]

    if tumour_types is not None:
        known = {fold(name): name for name in table["tumour_type"].unique()}
        for name in _names(tumour_types):
            if fold(name) not in known:
                message = f"no rows of {name!r}.{nearest(name, list(known.values()))}"
                message += f" The table has {listed(known.values())}"
                raise InputError(message, file=whole.path, key="data.tumour_types")
        wanted = [known[fold(name)] for name in _names(tumour_types)]
        keep(table["tumour_type"].isin(wanted), f"whose tumour type is not {listed(wanted)} (data.tumour_types)")
    if arms is not None:
        wanted = [whole.arm_drugs(name) for name in _names(arms)]
        for name, drugs in zip(_names(arms), wanted, strict=True):
            if drugs not in whole.arms.values():
                message = f"no mice of the arm {name!r}.{nearest(name, list(whole.arms))}"
                raise InputError(f"{message} Arms: {listed(whole.arms)}", file=whole.path, key="data.arms")
        kept = [arm for arm, drugs in whole.arms.items() if not drugs or drugs in wanted]
        keep(table["arm"].isin(kept), "whose arm is not in data.arms")
    if single_agents_only:
        keep(
            table["arm"].map({a: len(d) < 2 for a, d in whole.arms.items()}),
            "under combinations (data.single_agents_only)",
        )
    return table.reset_index(drop=True), notes


def _few_measurements(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    used, notes = table["exclude"] == "", []
    if not used.all():
        reasons = table.loc[~used, "exclude"].value_counts()
        notes += [f"left out of the fit: {count:,} rows ({reason})" for reason, count in reasons.items()]
    few = used & (used.groupby(table["mouse_key"]).transform("sum") < 2)
    if few.any():
        mice = list(table.loc[few, "mouse"].unique())
        notes.append(f"left out of the fit for {TOO_FEW}: {len(mice):,} mice ({listed(mice, 3)})")
    return table.assign(exclude=table["exclude"].mask(few, TOO_FEW)), notes


def _check_usable(dataset: Dataset) -> None:
    if all(dataset.arms.values()):
        raise InputError(
            f"no mice with 2 measurements or more are left in the control arm ({listed(dataset.control)}): growth and "
            "kill cannot be told apart; keep some in data.tumour_types and in the column 'exclude'",
            file=dataset.path,
        )
    if dataset.used["censored"].all():
        limit = f"every volume is at or below the detection limit of {dataset.detection_limit_mm3:g} mm3"
        raise InputError(f"{limit}; are the volumes in mm3 (1 cm3 = 1,000 mm3)?", file=dataset.path, key="volume_mm3")


def _check_doses(dataset: Dataset) -> None:
    if without := undosed(dataset.arms, dataset.doses):
        arm, drug = without
        row = dataset.used.loc[dataset.used["arm"] == arm, "row"].iloc[0]
        message = f"{arm!r} names no dose of {drug}, and other arms do; write it behind the drug as there"
        raise InputError(message, file=dataset.path, line=int(row), key="arm")


def _check_start(dataset: Dataset) -> None:
    """Days that are counted from something else than the first dose are no fault of a row, and halve an answer."""
    first = float(dataset.used.groupby("mouse_key")["day"].min().median())
    if first > LATEST_START:
        raise InputError(
            f"mice are measured from day {first:g} on (the middle one): `day` counts from the first dose, not from "
            f"implantation; set data.first_dose_day: {first:g}, or 0 if no earlier day was measured",
            file=dataset.path,
            key="day",
        )


def _remarks(dataset: Dataset) -> list[str]:
    """Say what a reader of the results should know of the rows that are used; none of it is an error."""
    used, limit, notes = dataset.used, dataset.detection_limit_mm3, []
    for drug in sorted({dose.drug for dose in dataset.doses.values()}):
        own = sorted(dose for dose in dataset.doses.values() if dose.drug == drug)
        notes.append(f"doses of {drug}: {', '.join(f'{dose.amount:g}' for dose in own)} {own[0].unit}")
    if num_censored := int(used["censored"].sum()):
        share, zeros = num_censored / len(used), int((used["volume_mm3"] == 0).sum())
        note = f"{num_censored:,} of {len(used):,} volumes ({share:.1%}) are left-censored at {limit:g} mm3"
        notes.append(f"{note}; {zeros:,} of them are 0" + ("; are the volumes in mm3?" if share > 0.5 else ""))
    start = used.groupby("mouse_key", sort=False)["day"].min()
    if len(late := start[start > 0]):
        names = [str(key) for key in late.index]
        notes.append(f"no measurement on day 0: {len(late):,} of {len(start):,} mice ({listed(names, 3)})")
    control = used[used["arm"].isin([arm for arm, drugs in dataset.arms.items() if not drugs])]
    for tumour_type in used["tumour_type"].unique():
        if tumour_type not in set(control["tumour_type"]):
            notes.append(
                f"{tumour_type} has no control mice: its growth is learned from its treated mice and other tumour types"
            )
    num_models, num_with = used["pdx_model"].nunique(), control["pdx_model"].nunique()
    if num_with < num_models:
        notes.append(f"no control mouse: {num_models - num_with:,} of {num_models:,} PDX models")
    return notes


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
