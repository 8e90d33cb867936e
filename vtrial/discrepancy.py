"""Published counts against what a run predicts: how probable is a count as low, or as high -> `discrepancies.csv`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.assurance import num_responders
from vtrial.config import Experiment
from vtrial.designing import rate_draws

COLUMNS = (
    "tumour_type",
    "arm",
    "subgroup",
    "responders",
    "patients",
    "predicted",
    "at_most",
    "at_least",
    "mid_p",
    "source",
)


def discrepancies(experiment: Experiment, rates: xr.DataTree, marks: Sequence[str]) -> pd.DataFrame:
    """Each published count of the experiment under the predictive distribution of a trial of as many patients.

    That is a binomial over the draws of the population's rate and over the deviation of one trial, summed exactly.
    Nothing of the prediction was tuned to the count.

    Returns
    -------
    DataFrame with :data:`COLUMNS`
        `predicted`, the mean rate of the population; `at_most` and `at_least`, the probability of as few and of as many
        responders; `mid_p`, that of fewer and half of that of as many (0.5 where the count is the middle one).
    """
    observed = {
        (cohort.tumour_type, arm.name, one.subgroup): one
        for cohort in experiment.trial.cohorts
        for arm in cohort.arms
        for one in arm.observed
    }
    rows = []
    for tumour_type, arm, group, draws in rate_draws(rates):
        one = observed.get((tumour_type, arm, group))
        if one is None:
            continue
        mass = num_responders(draws, one.patients)(one.patients)
        below, exactly = float(mass[: one.responders].sum()), float(mass[one.responders])
        rows.append(
            {
                "tumour_type": tumour_type,
                "arm": arm,
                "subgroup": group,
                "responders": one.responders,
                "patients": one.patients,
                "predicted": float(np.average(draws.rate, weights=draws.weights())),
                "at_most": below + exactly,
                "at_least": 1.0 - below,
                "mid_p": below + 0.5 * exactly,
                "source": "; ".join([*marks, one.source]),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
