"""`dose_response.csv`: the effect of every drug at the doses of the table, in tumour types and in PDX models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.dataset import Dataset
from vtrial.doses import Dose
from vtrial.posterior import Draws

COLUMNS = (
    "tumour_type",
    "pdx_model",
    "drug",
    "dose",
    "unit",
    "num_mice",
    "is_reference",
    "strength_mean",
    "strength_q05",
    "strength_q95",
    "effect_mean",
    "effect_q05",
    "effect_q95",
    "ed50_q05",
    "ed50_q50",
    "ed50_q95",
)


def dose_table(tree: xr.DataTree, dataset: Dataset) -> pd.DataFrame:
    """Effect against dose of the drugs that a fit has at several doses.

    Parameters
    ----------
    tree : DataTree
        A posterior with a dose-response; see `vtrial.posterior`.
    dataset : Dataset
        The table that it was fitted to.

    Returns
    -------
    DataFrame, a row per tumour type or PDX model, drug and dose
        `COLUMNS`: `pdx_model` is empty where the effect is the mean over those of the tumour type, and named where a
        model had several mice under the drug, or a combination of it; `num_mice` under the drug alone at that dose;
        `strength`, the effect over that at the reference dose; `effect`, the fraction of growth removed; `ed50` in
        units of the dose, empty where the law has none.
    """
    draws = Draws(tree)
    if draws.dose_response is None:
        return pd.DataFrame(columns=list(COLUMNS))
    reference, levels = draws.dose_response.reference, [0.05, 0.95]
    mice = dataset.used.drop_duplicates("mouse_key")
    kind = dict(zip(mice["pdx_model"], mice["tumour_type"], strict=True))
    count = Counter(zip(mice["tumour_type"], mice["arm"].map(dataset.arms), strict=True))
    count.update(zip(mice["pdx_model"], mice["arm"].map(dataset.arms), strict=True))
    found = {}  # (tumour type, PDX model or nothing, drug) -> its effect at the reference dose
    for place, name in enumerate(draws.labels("drug_type")):
        drug, tumour_type = name.rsplit(" | ", 1)
        found[tumour_type, "", drug] = draws.get("effect")[:, place]
    for place, name in enumerate(draws.labels("pdx_model_drug")):
        model, drug = name.rsplit(" | ", 1)
        found[kind[model], model, drug] = draws.get("effect_site")[:, place]
    given = {tumour_type: set[Dose]() for tumour_type in kind.values()}
    for tumour_type, arm in zip(mice["tumour_type"], mice["arm"], strict=True):
        given[tumour_type] |= {dataset.doses[drug] for drug in dataset.arms[arm] if drug in dataset.doses}
    rows = []
    for (tumour_type, model, drug), effect in sorted(found.items(), key=lambda item: item[0]):
        ed50 = np.full(3, np.nan)
        if drug in reference and "ln_ed50" in draws:
            ln_ed50 = draws.get("ln_ed50")[:, draws.labels("dosed_drug").index(drug)]
            ed50 = reference[drug] * np.exp(np.quantile(ln_ed50, [0.05, 0.5, 0.95]))
        for dose in sorted(dose for dose in given.get(tumour_type, ()) if dose.drug == drug):
            if (scale := draws.dose_strength(dose)) is None:
                continue
            number = count[model or tumour_type, (dose.name,)]
            spread = [x for draw in (scale, effect * scale) for x in (draw.mean(), *np.quantile(draw, levels))]
            rows.append((tumour_type, model, *dose, number, dose.amount == reference[drug], *spread, *ed50))
    return pd.DataFrame(rows, columns=list(COLUMNS))
