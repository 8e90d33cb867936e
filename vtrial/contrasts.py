"""Differences between arms, and how probable a rate above any figure is -> `contrasts.csv`, `exceedance.csv`.

The patients of all arms are the same, so a difference is known better than either rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.assurance import trial_above
from vtrial.designing import rate_draws

CONTRASTS = (
    "tumour_type",
    "subgroup",
    "arm",
    "against",
    "difference",
    "sd",
    "q05",
    "q50",
    "q95",
    "probability",
    "source",
)
EXCEEDANCE = ("tumour_type", "arm", "subgroup", "rate", "population", "trial", "source")
#: figures that a response rate may exceed
FIGURES = tuple(step / 20 for step in range(1, 20))


def contrasts(rates: xr.DataTree, marks: Sequence[str]) -> pd.DataFrame:
    """Every arm against every later one of its cohort: difference of the population's rates, draw by draw.

    Parameters
    ----------
    rates
        The rates draw by draw, see `vtrial.rates.orr_draws`; their first endpoint is read.
    marks
        What must be said first.

    Returns
    -------
    DataFrame with :data:`CONTRASTS`
        `difference` (mean), `sd` and quantiles over draws, as fractions; `probability` that the arm has the larger
        rate, ties by half.
    """
    rows = []
    for cohort in rates.children.values():
        data = cohort.to_dataset()
        of_arm = data["rate"].isel(endpoint=0).transpose("subgroup", "arm", "draw").to_numpy().astype(float)
        arms = [str(name) for name in data["arm"].to_numpy()]
        for group, values in zip(data["subgroup"].to_numpy(), of_arm, strict=True):
            for one, other in combinations(range(len(arms)), 2):
                difference = values[one] - values[other]
                q05, q50, q95 = np.quantile(difference, [0.05, 0.5, 0.95])
                rows.append(
                    {
                        "tumour_type": str(data.attrs["tumour_type"]),
                        "subgroup": str(group),
                        "arm": arms[one],
                        "against": arms[other],
                        "difference": difference.mean(),
                        "sd": difference.std(ddof=1) if len(difference) > 1 else 0.0,
                        "q05": q05,
                        "q50": q50,
                        "q95": q95,
                        "probability": float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0)),
                        "source": "; ".join(marks),
                    }
                )
    return pd.DataFrame(rows, columns=list(CONTRASTS))


def exceedance(rates: xr.DataTree, marks: Sequence[str]) -> pd.DataFrame:
    """P(response rate > figure) for each of `FIGURES`: of the population, and of what one trial is of.

    A trial has a rate of its own, which deviates from the population's by the spread between trials; parameters as in
    `contrasts`.

    Returns
    -------
    DataFrame with :data:`EXCEEDANCE`
    """
    rows = [
        {
            "tumour_type": tumour_type,
            "arm": arm,
            "subgroup": group,
            "rate": figure,
            "population": float(draws.weights() @ (np.asarray(draws.rate) > figure)),
            "trial": trial_above(draws, figure),
            "source": "; ".join(marks),
        }
        for tumour_type, arm, group, draws in rate_draws(rates)
        for figure in FIGURES
    ]
    return pd.DataFrame(rows, columns=list(EXCEEDANCE))
