"""In how many patients under treatment does the target lesion never shrink? The prior of `translation.resistant_share`.

    python benchmarks/resistant_share.py [--data FOLDER]

Lesions of Laleh 2022 (PLoS Comput Biol, 10.1371/journal.pcbi.1009822): of every patient the last reading up to day 7
and all later ones. The share of an arm whose later readings are all at least as large is binomial, with a logit that is
normal between arms; printed are the median share, the SD of that logit by maximum likelihood, and the counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from vtrial.scoring import log_likelihood

#: readings from a month before treatment on, and the last day that counts as before it
FIRST_DAY, BASELINE_DAY = -30, 7


def never_smaller(readings: pd.DataFrame) -> float:
    """Whether no later reading of a patient is below the one before treatment; NaN where there is none of either."""
    readings = readings.sort_values("day")
    before = readings.loc[readings["day"] <= BASELINE_DAY, "lesion_diam_mm"]
    after = readings.loc[readings["day"] > BASELINE_DAY, "lesion_diam_mm"]
    return float(after.min() >= before.iloc[-1]) if len(before) and len(after) else np.nan


def by_arm(table: pd.DataFrame) -> pd.DataFrame:
    """Number of patients and of those who never shrink, per arm."""
    arms = ["Study_id", "Arm_id"]
    patients = table[table["day"] >= FIRST_DAY].groupby([*arms, "patient"])[["day", "lesion_diam_mm"]]
    found = patients.apply(never_smaller).dropna()
    return found.groupby(level=arms).agg(["sum", "count"]).astype(int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    file = parser.parse_args().data / "laleh2022_lesions.csv.gz"
    if not file.is_file():
        parser.error(f"{file} is not there; the lesions are not part of this repository")
    counts = by_arm(pd.read_csv(file))

    def loss(at: np.ndarray) -> float:
        rows = counts.itertuples(index=False, name=None)
        return -sum(log_likelihood(at[:1], np.exp(at[1:]), never, patients)[0] for never, patients in rows)

    mean, ln_sd = minimize(loss, [0.0, -1.0], method="Nelder-Mead").x
    print(f"never smaller than before treatment: {counts['sum'].sum()} of {counts['count'].sum()} patients")
    print(f"median of {len(counts)} arms {expit(mean):.2f}, SD of the logit between arms {np.exp(ln_sd):.2f}")


if __name__ == "__main__":
    main()
