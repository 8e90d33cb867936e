"""What the command line shows: one line whatever a name holds, progress where somebody looks, rates as tables."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_NUMBERS = (
    "num_patients",
    "mean",
    "sd",
    "q05",
    "q25",
    "q50",
    "q75",
    "q95",
    "observed_responders",
    "observed_patients",
)


def plain(text: str) -> str:
    """One line whatever a file, key or arm is called; no control sequence of theirs reaches the terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def progress_console() -> Console | None:
    """A console for progress where somebody looks at it; else None, and log lines on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console

        return Console(stderr=True)
    log = logging.getLogger("vtrial")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    return None


def shown(path: Any) -> str:
    """The path as short as it can be written from here."""
    path = Path(getattr(path, "path", path))
    with contextlib.suppress(ValueError):
        path = path.absolute().relative_to(Path.cwd())
    return str(path)


def print_answer(folder: Path | None) -> None:
    """Print the response rates of a run beside the published counts."""
    file = Path(folder) / "orr.csv" if folder else None
    if file is None or not file.is_file():
        return
    import pandas as pd

    # Empty is missing in numbers only: an arm may be called NA.
    numbers: dict[str, list[str]] = {name: [""] for name in _NUMBERS}
    _print_rates(pd.read_csv(file, keep_default_na=False, na_values=numbers))
    if (better := file.parent / "figures" / "superiority.csv").is_file():
        _print_superiority(pd.read_csv(better, keep_default_na=False))
    if (mice := file.with_name("tgi.csv")).is_file():
        _print_inhibition(pd.read_csv(mice, keep_default_na=False, na_values={"above_singles": [""], "mean": [""]}))


def _print_superiority(table: pd.DataFrame) -> None:
    """Whether a combination beats each of its drugs, in all patients."""
    rows = table[table["subgroup"] == "all"].to_dict("records")
    if rows:
        print("Probability of a higher rate in the population than each drug alone, given as beside its partner:")
    for row in rows:
        print(f"  {plain(str(row['arm']))} over {plain(str(row['against']))}: {row['probability']:.2f}")


def _print_inhibition(tgi: pd.DataFrame) -> None:
    """Tumour growth inhibition in mice, below the response rates of patients."""
    chosen = tgi[(tgi["kind"] == "population") & (tgi["subgroup"] == "all")]
    for (tumour_type, day), rows in chosen.groupby(["tumour_type", "day"], sort=False):
        print(f"\nThe same drugs in new PDX models, {plain(str(tumour_type))}, day {day:g}:")
        regression = rows[rows["endpoint"] == "regression"].set_index("drugs")["mean"]
        for row in rows[rows["endpoint"] == "tgi"].to_dict("records"):
            name, above = row["drugs"], row["above_singles"]
            said = f"  {plain(name)}: TGI {100 * row['q50']:.0f} % [{100 * row['q05']:.0f}, {100 * row['q95']:.0f}]"
            said += f", {100 * regression[name]:.0f} % of models regress"
            print(said if above != above else f"{said}, P(above each drug alone) {above:.2f}")


def print_result(result: Mapping[str, Any]) -> None:
    """Print what a simulation returned: what must be said first, its rates as a table, the rest as it is."""
    for mark in result.get("marks", ()):
        print(f"{plain(mark).upper()}.")
    import pandas as pd

    rows = []
    for one in result.get("arms", ()):
        names = {name: one[name] for name in ("tumour_type", "arm", "subgroup")}
        for kind, rate in (("population", one["orr"]), ("predictive", one["predictive_orr"])):
            rows.append(names | {"endpoint": result["endpoint"], "kind": kind, "source": None} | rate)
            counts = one["observed"] or {"responders": None, "patients": None}
            rows[-1] |= {f"observed_{name}": number for name, number in counts.items()}
        nulls = one["null_models"].items()
        rows += [
            names | {"endpoint": f"{result['endpoint']}:{name}", "kind": "population", "source": None} | rate
            for name, rate in nulls
        ]
    if rows:
        _print_rates(pd.DataFrame(rows))
    for key, value in result.items():
        if key not in ("marks", "arms", "orr"):
            print(f"{key}: {plain(value) if isinstance(value, str) else json.dumps(value)}")


def print_table(table: pd.DataFrame) -> None:
    """Print a small table of numbers."""
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep=""))


def _print_rates(orr: pd.DataFrame) -> None:
    from vtrial.report.tables import format_orr_table

    print(format_orr_table(orr, width=width()))


def width() -> int | None:
    """Characters in a line of the terminal; None where nobody looks at one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
