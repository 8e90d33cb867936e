"""Which treatment is best: the probability of every rank, over posterior draws -> `ranks.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

COLUMNS = ("tumour_type", "subgroup", "endpoint", "treatment", "rank", "probability", "source")


def rank_probabilities(values: np.ndarray) -> np.ndarray:
    """P(treatment k has rank r), [K, K], of values [D, K]; rank 1 is the largest, those that tie share their ranks.

    Rows and columns sum to 1.
    """
    above = (values[:, :, None] < values[:, None, :]).sum(2)
    ties = (values[:, :, None] == values[:, None, :]).sum(2)
    rank = np.arange(values.shape[1])
    holds = (rank >= above[..., None]) & (rank < (above + ties)[..., None])
    return np.mean(holds / ties[..., None], axis=0)


def rank_rows(
    tumour_type: str,
    groups: Sequence[str],
    endpoint: str,
    treatments: Sequence[str],
    values: np.ndarray,
    marks: Sequence[str],
) -> pd.DataFrame:
    """Rows of `ranks.csv` of one endpoint: values [D, K, C] of K treatments in C groups; nothing for one treatment."""
    rows: list[Mapping[str, object]] = []
    for column, group in enumerate(groups):
        if len(treatments) < 2:
            break
        probability = rank_probabilities(values[:, :, column])
        for k, treatment in enumerate(treatments):
            for rank in range(len(treatments)):
                rows.append(
                    {
                        "tumour_type": tumour_type,
                        "subgroup": group,
                        "endpoint": endpoint,
                        "treatment": treatment,
                        "rank": rank + 1,
                        "probability": probability[k, rank],
                        "source": "; ".join(marks),
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))
