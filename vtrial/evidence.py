"""Published summary results as likelihood terms: what is known of a drug in mice where no curve is public.

A row of the table speaks of one drug in one tumour type, whose effect over PDX models is
``rho ~ Normal(effect, omega_effect)``:

- ``regressions``, r of n models shrank: ``r ~ Binomial(n, P(rho > 1))``;
- ``delayed``, r of n models grew significantly later than control: ``r ~ Binomial(n, P(rho > threshold))``, the
  threshold being what the study could see;
- ``classes``, of cr + pr + sd + pd mice, one a PDX model, so many are of each mRECIST class (Gao et al. 2015):
  multinomial, the class being that of the mouse's course, see :class:`Classes` and :func:`class_limits`;
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

COLUMNS = ("drug", "tumour_type", "kind", "r", "n", "threshold", "tgi", "tgi_se", "growth_per_day", "day", "cr", "pr",
           "sd", "pd", "source")  # fmt: skip
KINDS = {
    "regressions": ("r", "n"),
    "delayed": ("r", "n", "threshold"),
    "tgi": ("tgi", "tgi_se", "growth_per_day", "day"),
    "classes": ("cr", "pr", "sd", "pd", "growth_per_day", "day"),
}
#: mRECIST (Gao et al., Nat Med 2015;21:1318): best change at most -95 % CR, -50 % PR, +35 % SD, read from day 10 on
BEST_CHANGE, FIRST_DAY = (-0.95, -0.50, 0.35), 10.0


class Classes(NamedTuple):
    """Mice by mRECIST class: C rows, each with the index of its drug x tumour type, and K mice to integrate over."""

    cell: np.ndarray  # [C]
    mice: np.ndarray  # [C, 4] how many are PD, SD, PR, CR
    growth: np.ndarray  # [C] 1/day, median over PDX models
    straight: np.ndarray  # [C, G] the second and third time course (`vtrial.growth_laws`) on the days measured
    waning: np.ndarray  # [C, G]
    deviate: np.ndarray  # [K, 2] standard normal, of ln growth and of the mouse's own rate
    residual: np.ndarray  # [C, K, G] change of the residual since the start, in units of the SD that it settles at


class Evidence(NamedTuple):
    """Rows as arrays: N counts and L effects, each with the index of its drug x tumour type; and the classes."""

    count_cell: np.ndarray  # [N]
    r: np.ndarray  # [N]
    n: np.ndarray  # [N]
    threshold: np.ndarray  # [N] effect above which a model counts
    effect_cell: np.ndarray  # [L]
    effect: np.ndarray  # [L]
    effect_se: np.ndarray  # [L]
    classes: Classes | None = None


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


def class_limits(growth, straight, waning, loss, slowing, pace, residual, xp=np):
    """Effects from which a mouse is SD, PR and CR, last axis.

    Its ln volume over that at the start is ``growth ((1 + pace - rho) T_1 + (loss rho - slowing) T_2) + residual``,
    with the courses T_1 and T_2 of the law of growth. It comes down to a limit c on the day on which that asks for the
    smallest effect::

        rho(c) = min over days of ((1 + pace) T_1 - slowing T_2 + (residual - ln(1 + c)) / growth) / (T_1 - loss T_2)

    The limits of mRECIST for the average change (-40, -20 and +30 %) are reached with smaller effects.

    Parameters
    ----------
    growth, loss, pace
        [...], growth in 1/day; pace is what the mouse's own rate adds, over growth.
    straight, waning, residual
        T_1, T_2 and the residual of ln volume on the days that are looked at, [..., G].
    slowing
        One number.
    xp
        numpy or jax.numpy.
    """
    limits = []
    # an effect of which more is lost than there was works backwards in the end; such days ask for no effect
    working = xp.maximum(straight - loss[..., None] * waning, 1e-3 * straight)
    for change in reversed(BEST_CHANGE):
        rest = (residual - float(np.log1p(change))) / growth[..., None]
        needed = (1.0 + pace[..., None]) * straight - slowing * waning + rest
        limits.append(xp.min(needed / working, axis=-1))
    return xp.stack(limits, axis=-1)


def evidence_arrays(table: pd.DataFrame, drug_types: tuple[str, ...]) -> Evidence:
    """Arrays for the model, but the classes; `drug_types` are the panel's labels "drug | tumour type"."""
    cell = np.array(
        [drug_types.index(f"{d} | {t}") for d, t in zip(table["drug"], table["tumour_type"], strict=True)], np.int32
    )
    kind = table["kind"].to_numpy()
    is_effect = kind == "tgi"
    is_count = ~is_effect & (kind != "classes")
    counts, effects = table[is_count], table[is_effect]
    threshold = np.where(counts["kind"] == "regressions", 1.0, counts.get("threshold", pd.Series(1.0, counts.index)))
    if is_effect.any():
        effect, effect_se = effect_of_tgi(*(effects[c].to_numpy(float) for c in KINDS["tgi"]))
    else:
        effect = effect_se = np.zeros(0)
    number = {c: counts[c].to_numpy(float) if c in counts else np.zeros(0) for c in ("r", "n")}
    return Evidence(
        cell[is_count], number["r"], number["n"], threshold.astype(float), cell[is_effect], effect, effect_se
    )
