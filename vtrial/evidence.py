"""Published summary results as likelihood terms: what is known of a drug in mice where no curve is public.

A row of the table speaks of one drug in one tumour type, whose effect over PDX models is
``rho ~ Normal(effect, omega_effect)``:

- ``regressions``, r of n models shrank: ``r ~ Binomial(n, P(rho > 1))``;
- ``delayed``, r of n models grew significantly later than control: ``r ~ Binomial(n, P(rho > threshold))``, the
  threshold being what the study could see;
- ``classes``, of cr + pr + sd + pd mice, one a PDX model, so many are of each mRECIST class (Gao et al. 2015):
  multinomial, the class following from rho of the model and the deviation of the mouse, see :func:`class_limits`;
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

COLUMNS = (
    *("drug", "tumour_type", "kind", "r", "n", "threshold", "tgi", "tgi_se", "growth_per_day", "day"),
    *("cr", "pr", "sd", "pd", "source"),
)
KINDS = {
    "regressions": ("r", "n"),
    "delayed": ("r", "n", "threshold"),
    "tgi": ("tgi", "tgi_se", "growth_per_day", "day"),
    "classes": ("cr", "pr", "sd", "pd", "growth_per_day", "day"),
}
#: mRECIST (Gao et al., Nat Med 2015;21:1318): best change at most -95 % CR, -50 % PR, +35 % SD, read from day 10 on
BEST_CHANGE, FIRST_DAY = (-0.95, -0.50, 0.35), 10.0
#: stands for an effect without bound: infinite ones have no gradient
UNBOUNDED = 1e3


class Evidence(NamedTuple):
    """Rows as arrays: N counts, L effects, K classes, each with the index of its drug x tumour type."""

    count_cell: np.ndarray  # [N]
    r: np.ndarray  # [N]
    n: np.ndarray  # [N]
    threshold: np.ndarray  # [N] effect above which a model counts
    effect_cell: np.ndarray  # [L]
    effect: np.ndarray  # [L]
    effect_se: np.ndarray  # [L]
    class_cell: np.ndarray = np.zeros(0, np.int32)  # [K]
    class_count: np.ndarray = np.zeros(0)  # [K] mice with an effect in the range of the class
    class_low: np.ndarray = np.zeros(0)  # [K]
    class_high: np.ndarray = np.zeros(0)  # [K]


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
        if "r" in values and not (0 <= values["r"] <= values["n"] and values["n"] > 0):
            raise InputError(
                f"r must lie between 0 and n, found {values['r']:g} of {values['n']:g}", file=path, line=line, key="r"
            )
        if kind == "classes":
            _check_classes(path, line, values)
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


def _check_classes(path: Path, line: int, values: dict[str, float]) -> None:
    counts = [values[name] for name in ("cr", "pr", "sd", "pd")]
    if min(counts) < 0 or sum(counts) == 0:
        found = ", ".join(f"{count:g}" for count in counts)
        raise InputError(f"cr, pr, sd, pd count mice, one at least, found {found}", file=path, line=line, key="cr")
    if values["day"] < FIRST_DAY:
        message = f"mRECIST is read from day {FIRST_DAY:g} on, found {values['day']:g}"
        raise InputError(message, file=path, line=line, key="day")


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


def class_limits(growth_per_day, day):
    """Effects from which a mouse is SD, PR and CR, in this order.

    Its volume follows ``exp(growth (1 - rho) t)``. What shrinks is smallest on the last day, what grows on the first
    that counts, day 10: the best change reaches a limit c where ``growth (1 - rho) t = ln(1 + c)`` on that day. On such
    curves the limits of mRECIST for the average change (-40, -20 and +30 %) are reached earlier.

    Parameters
    ----------
    growth_per_day
        Growth without treatment, 1/day of volume.
    day
        Last day of the study.
    """
    complete, partial, stable = (np.log1p(change) for change in BEST_CHANGE)
    return (
        1.0 - stable / (growth_per_day * FIRST_DAY),
        1.0 - partial / (growth_per_day * day),
        1.0 - complete / (growth_per_day * day),
    )


def evidence_arrays(table: pd.DataFrame, drug_types: tuple[str, ...]) -> Evidence:
    """Arrays for the model; `drug_types` are the panel's labels "drug | tumour type"."""
    cell = np.array(
        [drug_types.index(f"{d} | {t}") for d, t in zip(table["drug"], table["tumour_type"], strict=True)], np.int32
    )
    kind = table["kind"].to_numpy()
    is_class, is_effect = kind == "classes", kind == "tgi"
    is_count = ~is_class & ~is_effect
    counts, effects = table[is_count], table[is_effect]
    threshold = np.where(counts["kind"] == "regressions", 1.0, counts.get("threshold", pd.Series(1.0, counts.index)))
    if is_effect.any():
        effect, effect_se = effect_of_tgi(*(effects[c].to_numpy(float) for c in KINDS["tgi"]))
    else:
        effect = effect_se = np.zeros(0)
    number = {c: counts[c].to_numpy(float) if c in counts else np.zeros(0) for c in ("r", "n")}
    known = Evidence(
        cell[is_count], number["r"], number["n"], threshold.astype(float), cell[is_effect], effect, effect_se
    )
    if not is_class.any():
        return known
    classes = table[is_class]
    limits = np.stack(class_limits(*(classes[c].to_numpy(float) for c in ("growth_per_day", "day"))), axis=1)
    bounds = np.pad(limits, ((0, 0), (1, 1)), constant_values=((0, 0), (-UNBOUNDED, UNBOUNDED)))
    return known._replace(
        class_cell=np.repeat(cell[is_class], 4),
        class_count=classes[["pd", "sd", "pr", "cr"]].to_numpy(float).ravel(),
        class_low=bounds[:, :-1].ravel(),
        class_high=bounds[:, 1:].ravel(),
    )
