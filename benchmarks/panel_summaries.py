"""What the single curves of PDXE say, before any model: the figures that `priors/growth.yaml` and `classes.yaml` quote.

    python benchmarks/panel_summaries.py [--data FOLDER]

Least-squares slopes of ln volume per curve over the first four weeks (three readings or more). The relative effect of
a drug in a PDX model is the share of the slope of its untreated mouse that is missing; cells are drug x tumour type.
One mouse stands for a PDX model under an arm, so every spread holds the noise of mice, of the untreated one twice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

#: days of a slope; fewest PDX models of a cell; slowest growth that a relative effect is taken of, 1/day
WEEKS, FEWEST, SLOWEST = 28.0, 15, 0.01
#: from the 25th to the 75th percentile of a standard normal
QUARTILES = 1.349


def slope(curve: pd.DataFrame) -> float:
    """Of ln volume, 1/day; NaN with fewer than three readings."""
    return float(np.polyfit(curve["day"], curve["ln_volume"], 1)[0]) if len(curve) >= 3 else np.nan


def residual(curve: pd.DataFrame) -> float:
    """SD of ln volume about a line over all days; NaN with fewer than five readings."""
    if len(curve) < 5:
        return np.nan
    fitted = np.polyval(np.polyfit(curve["day"], curve["ln_volume"], 1), curve["day"])
    return float(np.sqrt(np.sum((curve["ln_volume"] - fitted) ** 2) / (len(curve) - 2)))


def per_curve(table: pd.DataFrame) -> pd.DataFrame:
    """A row a mouse: slopes before and after four weeks, first volume, residual SD."""
    table = table[table["volume_mm3"] > 0].assign(ln_volume=lambda t: np.log(t["volume_mm3"]))
    curves = table.sort_values("day").groupby("mouse")
    first = curves[["tumour_type", "pdx_model", "arm", "n_drugs", "response_category", "ln_volume"]].first()
    early = table[table["day"] <= WEEKS].groupby("mouse")[["day", "ln_volume"]].apply(slope)
    late = table[table["day"] > WEEKS].groupby("mouse")[["day", "ln_volume"]].apply(slope)
    about = curves[["day", "ln_volume"]].apply(residual)
    return first.assign(slope=early, late_slope=late, residual=about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    file = parser.parse_args().data / "pdxe.csv.gz"
    if not file.is_file():
        parser.error(f"{file} is not there; the curves of PDXE are not part of this repository")
    mice = per_curve(pd.read_csv(file))
    control = mice[(mice["n_drugs"] == 0) & (mice["slope"] > 0)]
    by_type = control.groupby("tumour_type")["slope"]
    medians = by_type.median()
    print(f"untreated growth, 1/day: median {control['slope'].median():.4f} over {len(control)} mice; by tumour type")
    print(medians.round(4).to_string(header=False))
    print(f"SD of the ln of these medians {np.log(medians).std():.2f}; mean {medians.mean():.4f}")
    spread = control.assign(ln=np.log(control["slope"])).groupby("tumour_type")["ln"].std()
    print(f"SD of ln growth between PDX models of a type: {spread.min():.2f} to {spread.max():.2f}")
    starts = mice[mice["n_drugs"] == 0].groupby("tumour_type")["ln_volume"].std()
    volume = np.exp(mice.loc[mice["n_drugs"] == 0, "ln_volume"].median())
    print(f"first volume: median {volume:.0f} mm3, SD of its ln by type {starts.min():.2f} to {starts.max():.2f}")

    works = mice["response_category"].isin(["CR", "PR"])
    fails = mice["response_category"] == "PD"
    print(
        f"responders (CR, PR): median slope {mice.loc[works, 'slope'].median():.3f} up to day {WEEKS:.0f}, "
        f"{mice.loc[works, 'late_slope'].median():.3f} after; residual SD about one line "
        f"{mice.loc[works, 'residual'].median():.2f}, of PD mice {mice.loc[fails, 'residual'].median():.2f}"
    )

    untreated = mice[mice["n_drugs"] == 0].groupby("pdx_model")["slope"].mean()
    single = mice[mice["n_drugs"] == 1].join(untreated.rename("growth"), on="pdx_model")
    single = single[single["growth"] > SLOWEST]
    effect = (1.0 - single["slope"] / single["growth"]).groupby([single["arm"], single["tumour_type"]])
    cells = effect.describe().query("count >= @FEWEST")
    middle, width = cells["50%"], (cells["75%"] - cells["25%"]) / QUARTILES
    print(
        f"relative effect, {len(cells)} cells of at least {FEWEST} PDX models: median of a cell {middle.min():.2f} to "
        f"{middle.max():.2f}, middle one {middle.median():.2f}, SD {middle.std():.2f}"
    )
    print(f"spread over PDX models of a cell: {width.min():.2f} to {width.max():.2f}, middle one {width.median():.2f}")
    for drug in ("binimetinib", "abraxane", "paclitaxel"):
        own = middle.loc[drug] if drug in middle.index else middle.iloc[:0]
        print(f"{drug}: {', '.join(f'{kind} {value:.2f}' for kind, value in own.items())}; SD {own.std():.2f}")


if __name__ == "__main__":
    main()
