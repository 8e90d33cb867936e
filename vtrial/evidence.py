"""Published summary results as likelihood terms: what is known of a drug in mice where no curve is public.

A row of the table speaks of one drug in one tumour type, whose effect over PDX models is
``rho ~ Normal(effect, omega_effect)``:

- ``regressions``, r of n models shrank: ``r ~ Binomial(n, P(rho > 1))``;
- ``delayed``, r of n models grew significantly later than control: ``r ~ Binomial(n, P(rho > threshold))``, the
  threshold being what the study could see;
- ``tgi``, tumour growth inhibition of one model: with G = growth x day the unperturbed ln growth and
  ``TGI = 1 - (exp(G (1 - rho)) - 1) / (exp(G) - 1)``, a normal observation of rho with its delta-method SE.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from vtrial.errors import InputError
from vtrial.table import cells_of, content_of

COLUMNS = ("drug", "tumour_type", "kind", "r", "n", "threshold", "tgi", "tgi_se", "growth_per_day", "day", "source")
KINDS = {
    "regressions": ("r", "n"),
    "delayed": ("r", "n", "threshold"),
    "tgi": ("tgi", "tgi_se", "growth_per_day", "day"),
}


class Evidence(NamedTuple):
    """Rows as arrays: N counts and L effects, each with the index of its drug x tumour type."""

    count_cell: np.ndarray  # [N]
    r: np.ndarray  # [N]
    n: np.ndarray  # [N]
    threshold: np.ndarray  # [N] effect above which a model counts
    effect_cell: np.ndarray  # [L]
    effect: np.ndarray  # [L]
    effect_se: np.ndarray  # [L]


def read_evidence(path: Path) -> pd.DataFrame:
    """Read and check one evidence table (CSV with :data:`COLUMNS`; cells that a kind does not need are empty).

    Raises
    ------
    InputError
        Of the first fault, with file, line and column.
    """
    cells, lines, _ = cells_of(path, content_of(path, None))
    if missing := [c for c in ("drug", "tumour_type", "kind", "source") if c not in cells]:
        raise InputError(f"column missing; needed are {', '.join(COLUMNS)}", file=path, line=1, key=missing[0])
    rows = []
    for line, (_, row) in zip(lines, cells.iterrows(), strict=True):
        kind = str(row["kind"]).strip()
        if kind not in KINDS:
            raise InputError(f"must be one of {', '.join(KINDS)}, found {kind!r}", file=path, line=line, key="kind")
        for name in ("drug", "tumour_type", "source"):
            if not str(row[name]).strip():
                raise InputError("must not be empty", file=path, line=line, key=name)
        values = {name: _number(path, line, row, name) for name in KINDS[kind]}
        if kind != "tgi" and not (0 <= values["r"] <= values["n"] and values["n"] > 0):
            raise InputError(
                f"r must lie between 0 and n, found {values['r']:g} of {values['n']:g}", file=path, line=line, key="r"
            )
        if kind == "tgi" and not (values["tgi"] < 1.0 + 1.0 / np.expm1(values["growth_per_day"] * values["day"])):
            raise InputError(
                f"a TGI of {values['tgi']:g} is beyond a vanished tumour; write 0.86 for 86 %",
                file=path,
                line=line,
                key="tgi",
            )
        rows.append(
            {
                "drug": str(row["drug"]).strip(),
                "tumour_type": str(row["tumour_type"]).strip(),
                "kind": kind,
                **values,
                "source": row["source"],
            }
        )
    return pd.DataFrame(rows)


def _number(path: Path, line: int, row: pd.Series, name: str) -> float:
    try:
        value = float(row[name])
    except (KeyError, ValueError):
        value = float("nan")
    if not np.isfinite(value) or (name in ("tgi_se", "growth_per_day", "day", "n") and value <= 0):
        raise InputError(
            f"must be a number fit for a {row['kind']} row, found {str(row.get(name, ''))!r}",
            file=path,
            line=line,
            key=name,
        )
    return value


def effect_of_tgi(tgi, tgi_se, growth_per_day, day):
    """Fraction of growth removed that gives a TGI (fraction) at a day, and its standard error by the delta method."""
    total = growth_per_day * day
    size = 1.0 + (1.0 - tgi) * np.expm1(total)
    return 1.0 - np.log(size) / total, tgi_se * np.expm1(total) / (size * total)


def evidence_arrays(table: pd.DataFrame, drug_types: tuple[str, ...]) -> Evidence:
    """Arrays for the model; `drug_types` are the panel's labels "drug | tumour type"."""
    cell = np.array(
        [drug_types.index(f"{d} | {t}") for d, t in zip(table["drug"], table["tumour_type"], strict=True)], np.int32
    )
    tgi = (table["kind"] == "tgi").to_numpy()
    counts, effects = table[~tgi], table[tgi]
    threshold = np.where(counts["kind"] == "regressions", 1.0, counts.get("threshold", pd.Series(1.0, counts.index)))
    if tgi.any():
        effect, effect_se = effect_of_tgi(*(effects[c].to_numpy(float) for c in KINDS["tgi"]))
    else:
        effect = effect_se = np.zeros(0)
    number = {c: counts[c].to_numpy(float) if c in counts else np.zeros(0) for c in ("r", "n")}
    return Evidence(cell[~tgi], number["r"], number["n"], threshold.astype(float), cell[tgi], effect, effect_se)
