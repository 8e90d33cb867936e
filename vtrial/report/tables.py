"""Results as tables: what the forest shows, and the table that a terminal prints.

Every interval is equal-tailed. Predicted ones are posterior quantiles (50 %: q25 to q75, 90 %: q05 to q95); those of
published counts are exact 95 % intervals.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pandas as pd

_Rows = TypeVar("_Rows")
QUANTILES = ("q05", "q25", "q50", "q75", "q95")
COHORT = ("tumour_type", "arm", "subgroup")
#: suffix of the endpoint in orr.csv -> what it is called
NULL_MODELS: Mapping[str, str] = {
    "": "combination rule",
    "independent_action": "independent action",
    "best_single": "best single agent",
    "bliss": "Bliss",
}
ENDPOINTS: Mapping[str, str] = {
    "confirmed_orr": "confirmed objective response",
    "unconfirmed_orr": "objective response, confirmed or not",
    "dcr": "disease control",
}


def exact_interval(num_responders: int, num_patients: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a response rate.

    Parameters
    ----------
    num_responders, num_patients : int
        Counts; at least one patient.
    level : float
        Coverage, at least; equal tails.

    Returns
    -------
    tuple of float
        Lower and upper end, fractions.

    Raises
    ------
    ValueError
        Where there are no patients, or more responders than patients.

    Notes
    -----
    Clopper CJ, Pearson ES. Biometrika 1934;26:404-413, by quantiles of the beta distribution.
    """
    from scipy.special import betaincinv

    r, n, tail = num_responders, num_patients, (1.0 - level) / 2.0
    if n < 1 or not 0 <= r <= n:
        raise ValueError(f"counts: got {r} of {n}; needed are 0 <= responders <= patients and a patient")
    low = 0.0 if r == 0 else float(betaincinv(r, n - r + 1, tail))
    high = 1.0 if r == n else float(betaincinv(r + 1, n - r, 1.0 - tail))
    return low, high


def main_endpoint(orr: pd.DataFrame) -> str:
    """Name of the response endpoint of a table: the confirmed one where it is there."""
    there = list(dict.fromkeys(str(name).partition(":")[0] for name in orr["endpoint"]))
    return next((name for name in ("confirmed_orr", "unconfirmed_orr", *there) if name in there), "confirmed_orr")


def forest_data(orr: pd.DataFrame, endpoint: str | None = None) -> pd.DataFrame:
    """One row per tumour type, arm and subgroup: the prediction beside what was published.

    Parameters
    ----------
    orr : DataFrame
        Rows of orr.csv, rates as fractions.
    endpoint : str, optional
        One of its endpoints; `main_endpoint` where left out.

    Returns
    -------
    DataFrame
        tumour_type, arm, subgroup, endpoint; mean, sd and q05 to q95 of the population's rate; num_patients,
        predictive_q05 and predictive_q95 of a trial of that size; observed_responders, observed_patients, observed,
        observed_low and observed_high (exact 95 % interval), source. NaN, and None for the source, where there is none.
    """
    endpoint = endpoint or main_endpoint(orr)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in records(orr[orr["endpoint"] == endpoint]):
        groups.setdefault(tuple(row[name] for name in COHORT), []).append(row)
    rows = []
    for names, found in _whole_first(groups):
        population = _first(found, kind="population")
        predictive = _first(found, kind="predictive")
        published = next((row for row in found if not is_missing(row.get("observed_patients"))), {})
        row = dict(zip(COHORT, names, strict=True)) | {"endpoint": endpoint}
        row |= {name: population.get(name, math.nan) for name in ("mean", "sd", *QUANTILES)}
        row |= {"num_patients": predictive.get("num_patients", math.nan)}
        row |= {f"predictive_{name}": predictive.get(name, math.nan) for name in ("q05", "q95")}
        row |= _published(published)
        rows.append(row)
    columns = [*COHORT, "endpoint", "mean", "sd", *QUANTILES, "num_patients", "predictive_q05", "predictive_q95"]
    return pd.DataFrame(rows, columns=[*columns, *_published({})])


def null_model_data(orr: pd.DataFrame, endpoint: str | None = None) -> pd.DataFrame:
    """The combination arms under each rule: one row per tumour type, arm, subgroup and model.

    Parameters
    ----------
    orr : DataFrame
        Rows of orr.csv.
    endpoint : str, optional
        As in `forest_data`.

    Returns
    -------
    DataFrame
        tumour_type, arm, subgroup, model ("combination rule" first, then the null models), mean, sd, q05 to q95.
    """
    endpoint = endpoint or main_endpoint(orr)
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in records(orr[orr["kind"] == "population"]):
        name, _, suffix = str(row["endpoint"]).partition(":")
        if name == endpoint:
            groups.setdefault(tuple(row[key] for key in COHORT), {})[suffix] = row
    rows = []
    for names, models in _whole_first(groups):
        if set(models) <= {""}:
            continue
        for suffix in [*(known for known in NULL_MODELS if known in models), *sorted(set(models) - set(NULL_MODELS))]:
            row = dict(zip(COHORT, names, strict=True)) | {"model": NULL_MODELS.get(suffix, suffix)}
            rows.append(row | {name: models[suffix].get(name, math.nan) for name in ("mean", "sd", *QUANTILES)})
    return pd.DataFrame(rows, columns=[*COHORT, "model", "mean", "sd", *QUANTILES])


def _whole_first(groups: Mapping[tuple[Any, ...], _Rows]) -> list[tuple[tuple[Any, ...], _Rows]]:
    """Groups in their order, but all patients of an arm before its subgroups."""
    arms = {names[:2]: place for place, names in reversed(list(enumerate(groups)))}
    return sorted(groups.items(), key=lambda one: (arms[one[0][:2]], one[0][2] != "all"))


def percent(value: object, digits: int = 1) -> str:
    """A fraction as "31.2 %"; "-" where missing."""
    return "-" if is_missing(value) else f"{100.0 * float(value):.{digits}f} %"  # type: ignore[arg-type]


def percent_interval(low: object, high: object, digits: int = 1) -> str:
    """Two fractions as "[22.4, 41.0] %"; "-" where missing."""
    if is_missing(low) or is_missing(high):
        return "-"
    return f"[{100.0 * float(low):.{digits}f}, {100.0 * float(high):.{digits}f}] %"  # type: ignore[arg-type]


def counts(row: Mapping[str, Any]) -> str:
    """Published counts as "34/109 = 31.2 %"; "-" where missing."""
    if is_missing(row.get("observed_patients")):
        return "-"
    return f"{row['observed_responders']:.0f}/{row['observed_patients']:.0f} = {percent(row['observed'])}"


def format_orr_table(orr: pd.DataFrame, *, width: int | None = None, ascii_only: bool = False) -> str:
    """The answer as plain text for a terminal or a file: no boxes, no colours.

    Parameters
    ----------
    orr : DataFrame
        Rows of orr.csv.
    width : int, optional
        Characters in a line; long names are folded to fit. Left out, lines are as long as they need to be.
    ascii_only : bool
        Whether other characters in names are written with their nearest ASCII one, or "?".

    Returns
    -------
    str
        Per tumour type a table of arms, then the combinations under their null models, then what the intervals are.
    """
    forest, nulls = forest_data(orr), null_model_data(orr)
    endpoint = main_endpoint(orr)
    blocks = []
    for tumour_type in dict.fromkeys(forest["tumour_type"]):
        rows = records(forest[forest["tumour_type"] == tumour_type])
        head = ["arm", "subgroup", "predicted ORR", "trial of n patients", "published"]
        cells = [
            [
                str(row["arm"]),
                str(row["subgroup"]),
                f"{percent(row['mean']):>6} {percent_interval(row['q05'], row['q95'])}",
                _trial(row),
                counts(row),
            ]
            for row in rows
        ]
        blocks.append(text_table(str(tumour_type), head, cells, width))
    for tumour_type in dict.fromkeys(nulls["tumour_type"]):
        part = nulls[nulls["tumour_type"] == tumour_type]
        models = list(dict.fromkeys(str(name) for name in part["model"]))
        table: dict[tuple[str, str], dict[str, str]] = {}
        for row in records(part):
            table.setdefault((str(row["arm"]), str(row["subgroup"])), {})[str(row["model"])] = percent(row["mean"])
        cells = [[*names, *(found.get(model, "-") for model in models)] for names, found in table.items()]
        title = f"{tumour_type}: combinations under each rule, mean ORR"
        blocks.append(text_table(title, ["arm", "subgroup", *models], cells, width))
    blocks.append(
        f"ORR: {ENDPOINTS.get(endpoint, endpoint)}. Predicted: posterior mean and equal-tailed 90 % interval of the\n"
        "population's rate. Trial of n patients: 90 % predictive interval of its observed rate."
    )
    text = "\n\n".join(blocks) + "\n"
    return _to_ascii(text) if ascii_only else text


def _trial(row: Mapping[str, Any]) -> str:
    if is_missing(row["num_patients"]):
        return "-"
    return f"n = {row['num_patients']:.0f} {percent_interval(row['predictive_q05'], row['predictive_q95'])}"


def text_table(title: str, head: list[str], cells: list[list[str]], width: int | None) -> str:
    """A title and a table as plain text; lines are as long as they need to be where `width` is None."""
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A rule of ASCII dashes under the head only, so that a pipe, a log or grep sees the same table.
    ruled = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    table = Table(box=ruled, show_edge=False, pad_edge=False, padding=(0, 1), header_style="")
    for name in head:
        table.add_column(name, overflow="fold", no_wrap=width is None)
    for row in cells:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    stream = io.StringIO()
    console = Console(file=stream, width=width or 10_000, color_system=None, legacy_windows=False, emoji=False)
    console.print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([_printable(title), *lines])


def _printable(text: str) -> str:
    # A name from a table must not be able to steer the terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _to_ascii(text: str) -> str:
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode("ascii")


def _published(row: Mapping[str, Any]) -> dict[str, Any]:
    r, n = row.get("observed_responders"), row.get("observed_patients")
    if r is None or n is None or is_missing(r) or is_missing(n):
        low = high = rate = r = n = math.nan
    else:
        low, high = exact_interval(int(r), int(n))
        rate = int(r) / int(n)
    source = row.get("source")
    return {
        "observed_responders": r,
        "observed_patients": n,
        "observed": rate,
        "observed_low": low,
        "observed_high": high,
        "source": None if is_missing(source) else str(source),
    }


def _first(rows: Iterable[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})


def is_missing(value: object) -> bool:
    """Whether a cell of a table is empty."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
