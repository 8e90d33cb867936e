"""How many lesions of patients never shrink under treatment, how fast do they grow, shrink and grow again?

    python benchmarks/patient_lesions.py [--data FOLDER]

Lesions of Laleh 2022 (PLoS Comput Biol, 10.1371/journal.pcbi.1009822): of every patient the last reading up to day 7
and all later ones. The share of an arm whose later readings are all at least as large is binomial, with a logit that is
normal between arms; printed are the median share, the SD of that logit by maximum likelihood, and the counts: the prior
of `translation.resistant_share`. The rest are checks of priors: straight lines of ln volume, three times ln diameter,
of those who never shrink over all their readings, and of the others from the start to the smallest reading and from it
to the last; diameters below 5 mm, zeros among them, count as 5 mm there. Patients have three readings or more: who left
with progression at the first scan is missing, so that growth is slower here than in all patients. A smallest reading is
small by chance too, so that rates before it are a little too fast, and those after it too.
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
#: what is measured of a patient; regrowth is seen where the last diameter is above the floor
NAMES = ("growth", "shrinkage", "regrowth", "regrowth seen", "nadir")
#: floor of a diameter, mm, so that a vanished lesion has a logarithm: RECIST 1.1's default for one too small to measure
TOO_SMALL = 5.0
#: from the 25th to the 75th percentile of a standard normal
QUARTILES = 1.349


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


def rates(readings: pd.DataFrame) -> pd.Series:
    """Rates of volume, 1/day: of one who never shrinks; of another before and after the smallest, with its day."""
    readings = readings.sort_values("day")
    before = readings[readings["day"] <= BASELINE_DAY].tail(1)
    course = pd.concat([before, readings[readings["day"] > BASELINE_DAY]])
    found = dict.fromkeys(NAMES, np.nan)
    if len(before) and len(course) >= 3:
        day, diameter = course["day"].to_numpy(float), course["lesion_diam_mm"].to_numpy(float)
        nadir, ln_volume = int(diameter.argmin()), 3.0 * np.log(np.maximum(diameter, TOO_SMALL))
        if nadir == 0:
            found["growth"] = np.polyfit(day, ln_volume, 1)[0]
        else:
            found |= {"nadir": day[nadir], "shrinkage": (ln_volume[0] - ln_volume[nadir]) / (day[nadir] - day[0])}
            if nadir + 1 < len(day):
                regrowth = (ln_volume[-1] - ln_volume[nadir]) / (day[-1] - day[nadir])
                found |= {"regrowth": regrowth, "regrowth seen": regrowth if diameter[-1] > TOO_SMALL else np.nan}
    return pd.Series(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    file = parser.parse_args().data / "laleh2022_lesions.csv.gz"
    if not file.is_file():
        parser.error(f"{file} is not there; the lesions are not part of this repository")
    table = pd.read_csv(file)
    counts = by_arm(table)

    def loss(at: np.ndarray) -> float:
        rows = counts.itertuples(index=False, name=None)
        return -sum(log_likelihood(at[:1], np.exp(at[1:]), never, patients)[0] for never, patients in rows)

    mean, ln_sd = minimize(loss, [0.0, -1.0], method="Nelder-Mead").x
    print(f"never smaller than before treatment: {counts['sum'].sum()} of {counts['count'].sum()} patients")
    print(f"median of {len(counts)} arms {expit(mean):.2f}, SD of the logit between arms {np.exp(ln_sd):.2f}")
    recent = table[table["day"] >= FIRST_DAY]
    each = recent.groupby("patient")[["day", "lesion_diam_mm"]].apply(rates)
    for name in NAMES:
        low, middle, high = each[name].quantile([0.25, 0.5, 0.75])
        count, unit = int(each[name].notna().sum()), "day" if name == "nadir" else "1/day"
        print(f"{name}, {unit}: {middle:.3g}, middle half {low:.3g} to {high:.3g}, {count} patients")
    low, middle, high = each["growth"].quantile([0.25, 0.5, 0.75])
    spread = np.log(high / low) / QUARTILES
    print(
        f"of those who never shrink: doubling in {np.log(2.0) / middle:.0f} days, log-SD by the quartiles {spread:.2f}"
    )


if __name__ == "__main__":
    main()
