"""The file of a table -> its cells as text under canonical column names, each row with its line in the file."""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vtrial.errors import InputError
from vtrial.yamlfile import nearest_file

REQUIRED = ("study", "tumour_type", "pdx_model", "mouse", "arm", "day", "volume_mm3")
OPTIONAL = ("body_weight_g", "host_strain", "passage", "implant_site", "source", "exclude")
#: what these columns are called by others: beginnings of names
_OFTEN = {
    "tumour_type": ("cancer", "indication", "histology", "tumor type"),
    "pdx_model": ("model", "pdx", "cell line", r"line\b", "case", "patient"),
    "mouse": ("animal", "subject", r"id\b"),
    "arm": ("treatment", "group", "regimen", "drug"),
    "day": ("time", "study day", "days"),
    "volume_mm3": ("volume", r"tv\b", "tumou?r (vol|size)", "size"),
}
ADDED = ("mouse_key", "censored", "row")
#: the largest public panel has 61,184 rows; far beyond it is another kind of file, too large for the memory
MAX_ROWS, MAX_BYTES = 5_000_000, 2**30
MISSING = ("", "NA", "N/A", "NaN", "nan", "<NA>")


@dataclass(frozen=True)
class Source:
    """Where a fault is: the file, and the table's own name of a canonical column."""

    path: Path
    columns: dict[str, str]

    def refuse(self, rows: pd.DataFrame, bad: Any, name: str, say: Callable[[pd.Series], str]) -> None:
        """Raise the first bad row, with how many more there are."""
        at = np.flatnonzero(np.asarray(bad))
        if at.size:
            row = rows.iloc[int(at[0])]
            more = f" ({at.size - 1:,} more such rows)" if at.size > 1 else ""
            raise InputError(say(row) + more, file=self.path, line=int(row["row"]), key=self.columns.get(name, name))


def content_of(path: Path, if_missing: str | None) -> bytes:
    """Return the bytes of the file, or refuse it with what to do; `if_missing` says where to get it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        near = nearest_file(path)
        said = f"no such table{near or '.'}" + (f" {if_missing}" if if_missing else "")
        raise InputError(said, file=path) from None
    except IsADirectoryError:
        raise InputError("is a folder; the path of a CSV or xlsx file is needed", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if not content.strip():
        raise InputError("is empty; a table has a header line and one row per measurement", file=path)
    return content


def cells_of(path: Path, content: bytes, sheet: str | None = None) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Return all cells as text under the table's own header, the line of each row, and notes.

    `sheet` names the sheet of an xlsx file; left out, it is the first.
    """
    notes = []
    if content.startswith(b"PK\x03\x04"):
        cells, notes = _sheet(path, content, sheet)
        lines = np.arange(1, len(cells) + 1)
    else:
        text = _text(path, content)
        cells, lines = _delimited(path, text)
    cells = cells.apply(lambda column: column.str.strip())
    filled = (cells != "").any(axis=1).to_numpy()
    if not filled.any():
        raise InputError("holds no text; a table has a header line and one row per measurement", file=path)
    cells, lines = cells[filled], lines[filled]
    header = [name or f"column_{i + 1}" for i, name in enumerate(cells.iloc[0])]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"the header names {listed(twice)} twice; rename one", file=path, line=int(lines[0]))
    if len(cells) < 2:
        raise InputError("has a header but no rows; a table has one row per measurement", file=path, line=int(lines[0]))
    table = cells.iloc[1:].set_axis(header, axis=1).reset_index(drop=True)
    return table, lines[1:], notes


def _sheet(path: Path, content: bytes, sheet: str | None) -> tuple[pd.DataFrame, list[str]]:
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(part.file_size for part in archive.infolist()) > MAX_BYTES:  # said beforehand, and no more is unpacked
            raise _too_large(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of styles and drop-downs that hold no data
            with pd.ExcelFile(io.BytesIO(content), engine="openpyxl") as book:
                names = [str(name) for name in book.sheet_names]
                folded = {fold(name): place for place, name in enumerate(names)}
                place = 0 if sheet is None else folded.get(fold(sheet))
                cells = None if place is None else book.parse(place, header=None, dtype=str, na_filter=False)
    except Exception as error:  # a damaged archive breaks zipfile, the XML parser or openpyxl, each in its own way
        raise InputError(f"is not a readable xlsx file ({error}); save it again as xlsx or CSV", file=path) from None
    if cells is None or place is None:
        message = f"has no sheet {sheet!r}.{nearest(str(sheet), names)} It has {listed(names)}"
        raise InputError(message, file=path, key="data.sheet")
    first, others = ", the first" if sheet is None else "", [name for name in names if name != names[place]]
    note = f"read the sheet {names[place]!r}{first} of {len(names)}; the others are not read: {listed(others)}"
    return cells.fillna("").astype(str), [note] if len(names) > 1 else []


def _too_large(path: Path) -> InputError:
    message = f"is larger than a table may be ({MAX_ROWS:,} rows, 1 GiB of text)"
    return InputError(f"{message}; leave out what is no measurement of a tumour", file=path)


def _text(path: Path, content: bytes) -> str:
    if content.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(MAX_BYTES + 1)  # a small file may unpack to any size
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"is a damaged gzip file ({error}); copy it again", file=path) from None
    if len(content) > MAX_BYTES or max(content.count(b"\n"), content.count(b"\r")) > MAX_ROWS:
        raise _too_large(path)
    advice = "save it as CSV (UTF-8), gzip CSV or xlsx"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"is UTF-16 text; {advice}", file=path)
    if b"\x00" in content:
        raise InputError(f"is a binary file, not a table; {advice}", file=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x} is not UTF-8 text"
        raise InputError(f"{found}; {advice}", file=path, line=line) from None


def _delimited(path: Path, text: str) -> tuple[pd.DataFrame, np.ndarray]:
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=head.count)
    try:
        cells = pd.read_csv(
            io.StringIO(text), sep=delimiter, header=None, dtype=str, na_filter=False, skip_blank_lines=False
        )
    except pd.errors.ParserError as error:
        if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            expected, line, saw = match.groups()
            message = (
                f"{saw} cells where the header has {expected}: a decimal comma, or a comma in a cell without quotes"
            )
            raise InputError(message, file=path, line=int(line)) from None
        raise InputError("is not a table: a quote is opened and never closed", file=path) from None
    except pd.errors.EmptyDataError:
        raise InputError("is empty; a table has a header line and one row per measurement", file=path) from None
    lines = np.arange(1, len(cells) + 1)
    if text.count("\n") + (not text.endswith("\n")) != len(cells):  # a quoted cell runs over several lines
        records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        with contextlib.suppress(csv.Error):
            ends = [records.line_num for _ in records]
            lines = np.array([0, *ends[:-1]]) + 1 if len(ends) == len(cells) else lines
    return cells, lines


def canonical(
    path: Path, text: pd.DataFrame, lines: np.ndarray, columns: dict[str, str], constants: dict[str, Any]
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table under canonical names, and notes."""
    held, taken, notes = list(text.columns), set(columns.values()), []
    known = (*REQUIRED, *OPTIONAL)
    for name in (*columns, *constants):
        key = f"data.{'columns' if name in columns else 'constants'}.{name}"
        if name not in known and (near := difflib.get_close_matches(name, known, 1, 0.8)):
            raise InputError(f"no such column is known. Did you mean {near[0]!r}?", file=path, key=key)
        if name in ADDED:
            raise InputError("is a name that vtrial fills in itself; choose another", file=path, key=key)
    for name, source in columns.items():
        if source not in held:
            message = f"the table has no column {source!r}.{nearest(source, held)} It has {listed(held)}"
            raise InputError(message, file=path, line=1, key=f"data.columns.{name}")
    for name, value in constants.items():
        if name in columns or name in held:
            message = "is a column of the table too; leave the constant out, or name another column in data.columns"
            raise InputError(message, file=path, key=f"data.constants.{name}")
        if value is None or str(value).strip() in MISSING:
            raise InputError("must not be empty", file=path, key=f"data.constants.{name}")
    cells: dict[str, Any] = {}
    if "study" not in (*columns, *constants, *held):
        cells["study"] = path.name.split(".")[0] or "study"
    cells |= {name: str(value).strip() for name, value in constants.items()}
    cells |= {name: text[source] for name, source in columns.items()}
    for name in held:
        if (name in columns and columns[name] != name) or name in ADDED:
            cells[f"{name}_in_table"] = text[name]
            notes.append(f"the table's own column {name!r} is kept as '{name}_in_table'")
        elif name in known or name not in taken:
            cells[name] = text[name]
    if missing := [name for name in REQUIRED if name not in cells]:
        free = [name for name in held if name not in known and name not in taken]
        found = {name: _perhaps(name, free) for name in missing}
        wanted = [f"{name}{f' (perhaps {near!r})' if near else ''}" for name, near in found.items()]
        write = ", ".join(f"{name}: {_quoted(near or 'its name in the table')}" for name, near in found.items())
        message = (
            f"no column {listed(wanted)}. The table has {listed(held)}. Write data.columns: {{{write}}}, or "
            "data.constants where it is the same for all rows"
        )
        raise InputError(message, file=path, line=1)
    order = [name for name in known if name in cells] + [name for name in cells if name not in known]
    table = pd.DataFrame({name: cells[name] for name in order}, index=text.index)
    for name in order:
        if name not in known or name == "passage":
            table[name] = _covariate(table[name])
    table["row"] = lines
    return table, notes


def _quoted(text: str) -> str:
    """A name as a value of a YAML mapping on one line."""
    return text if re.fullmatch(r"\w[\w .()%/-]*", text) else repr(text)


def _perhaps(name: str, free: Sequence[str]) -> str | None:
    """The column that may be the one of a name: spelt like it, or called as it often is."""
    if near := near_name(name, free, 0.6):
        return near
    often = (re.compile(word) for word in _OFTEN.get(name, ()))
    plain = {re.sub(r"[\W_]+", " ", column).strip().casefold(): column for column in free}
    return next((column for word in often for text, column in plain.items() if word.match(text)), None)


def _covariate(cells: pd.Series) -> pd.Series:
    """Numbers where every filled cell is one, else the text as it is."""
    numbers = pd.to_numeric(cells, errors="coerce")
    return numbers if (numbers.notna() | cells.isin(MISSING)).all() and numbers.notna().any() else cells


def fold(name: str) -> str:
    """Return the name as names are compared: without case and double spaces."""
    return " ".join(name.split()).casefold()


def near_name(name: str, names: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like this one, or that holds it."""
    folded = {fold(known): known for known in names}
    near = difflib.get_close_matches(fold(name), list(folded), 1, cutoff)
    inside = [known for known in folded if len(fold(name)) > 2 and fold(name) in known]
    return folded[(near or inside)[0]] if near or inside else None


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a question with the nearest known name, to be put behind a message; empty where none is near."""
    return f" Did you mean {near!r}?" if (near := near_name(name, names)) else ""


def listed(names: Iterable[Any], limit: int = 12) -> str:
    """Return the first names, with commas, and how many more there are."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
