"""How good predictions of responses were: proper scores beside a null model, with an interval of their difference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

#: of the central interval of a predicted fraction
ALPHA = 0.10
#: probabilities are kept this far from 0 and 1: one surprise must not outweigh all else
FLOOR = 1e-4
NUM_RESAMPLES = 4000


def interval_score(low, high, observed) -> np.ndarray:
    """Winkler score of a central 90 % interval, lower is better (Gneiting and Raftery 2007, eq. 43)."""
    low, high, observed = (np.asarray(x, float) for x in (low, high, observed))
    return high - low + 2.0 / ALPHA * (np.maximum(low - observed, 0.0) + np.maximum(observed - high, 0.0))


def log_score(probability, responds) -> np.ndarray:
    """Minus the log probability of what happened, lower is better."""
    p = np.clip(np.asarray(probability, float), FLOOR, 1.0 - FLOOR)
    return -np.log(np.where(np.asarray(responds, bool), p, 1.0 - p))


def rate_of_others(observed: pd.DataFrame, fold: Mapping[str, str] | None = None) -> np.ndarray:
    """Null model: the response rate of the *other* PDX models of the same tumour type and arm; 1/2 where there is none.

    One half responder and one half non-responder are added (Jeffreys), without which a rate of 0 could never respond.
    With the `fold` of every PDX model, only those of other folds count: the models that the prediction has seen too.
    """
    arm = observed.groupby(["tumour_type", "arm"])["responds"]
    left = observed["pdx_model"] if fold is None else observed["pdx_model"].map(fold)
    own = observed.assign(left=left).groupby(["tumour_type", "arm", "left"])["responds"]
    number = arm.transform("size") - own.transform("size")
    return ((arm.transform("sum") - own.transform("sum") + 0.5) / (number + 1.0)).to_numpy(float)


def mean_difference(difference: np.ndarray, models: pd.Series, seed: int = 1) -> tuple[float, float, float]:
    """Mean of a difference, one number a mouse, and its 95 % interval: bootstrap of whole PDX models."""
    of_model = pd.Series(difference).groupby(models.to_numpy()).agg(["sum", "size"])
    pick = np.random.default_rng(seed).integers(0, len(of_model), (NUM_RESAMPLES, len(of_model)))
    total, size = of_model["sum"].to_numpy()[pick], of_model["size"].to_numpy()[pick]
    low, high = np.quantile(total.sum(1) / size.sum(1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def pair_scores(
    arms: pd.DataFrame,
    pairs: pd.DataFrame,
    observed: pd.DataFrame,
    fold: Mapping[str, str] | None = None,
    seed: int = 1,
) -> pd.DataFrame:
    """Scores of predicted arms and pairs against the mice that were left out.

    Parameters
    ----------
    arms, pairs
        From :mod:`vtrial.pairs`.
    observed
        tumour_type, pdx_model, arm, responds; one row a mouse.
    fold
        Of every PDX model, where whole models were left out, those of one fold together.
    seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        score, value, low, high: mean absolute error (fraction), interval score, misses and number of arms, log score a
        pair, that of the null model :func:`rate_of_others`, and their difference with a 95 % interval (bootstrap of
        whole PDX models, since the mice of one model are alike). With folds the same again for the null model that
        knows no PDX model of the fold either.
    """
    rate = observed.groupby(["tumour_type", "arm"])["responds"].mean().rename("observed")
    arms = arms.join(rate, on=["tumour_type", "arm"]).dropna(subset="observed")
    error = (arms["mean"] - arms["observed"]).to_numpy(float)
    width = interval_score(arms["q05"], arms["q95"], arms["observed"])
    outside = (arms["observed"] < arms["q05"] - 1e-9) | (arms["observed"] > arms["q95"] + 1e-9)
    keys = ["tumour_type", "pdx_model", "arm"]
    mice = observed.merge(pairs[[*keys, "probability"]], on=keys, how="inner", validate="many_to_one")
    own = log_score(mice["probability"], mice["responds"])

    def against(name: str, rate: np.ndarray) -> list[tuple]:
        null = log_score(rate, mice["responds"])
        suffix = "" if name == "other_models" else f"_{name}"
        return [
            (f"log_score_rate_of_{name}", null.mean(), None, None),
            (f"log_score_difference{suffix}", *mean_difference(own - null, mice["pdx_model"], seed)),
        ]

    rows = [
        ("arms", len(arms), None, None),
        ("mean_absolute_error", np.abs(error).mean(), None, None),
        ("mean_error", error.mean(), None, None),
        ("misses", int(outside.sum()), None, None),
        ("interval_score", width.mean(), None, None),
        ("pairs", len(mice), None, None),
        ("log_score", own.mean(), None, None),
        *against("other_models", rate_of_others(mice)),
        *([] if fold is None else against("fitted_models", rate_of_others(mice, fold))),
    ]
    return pd.DataFrame(rows, columns=["score", "value", "low", "high"])


def rule_scores(
    predicted: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], observed: pd.DataFrame, seed: int = 1
) -> pd.DataFrame:
    """Scores of several rules for the same combinations, side by side.

    Parameters
    ----------
    predicted
        Rule -> arms and pairs, see :func:`pair_scores`; the first is compared with every other.
    observed, seed
        See :func:`pair_scores`.

    Returns
    -------
    DataFrame
        rule, mean_absolute_error, mean_error, misses, interval_score, log_score; `log_score_difference`, `low`, `high`:
        the log score a pair of the first rule less that of this one, below 0 where the first is better.
    """
    columns = ["mean_absolute_error", "mean_error", "misses", "interval_score", "log_score"]
    keys, rows = ["tumour_type", "pdx_model", "arm"], []
    first: np.ndarray | None = None
    for rule, (arms, pairs) in predicted.items():
        scores = pair_scores(arms, pairs, observed, seed=seed).set_index("score")["value"]
        mice = observed.merge(pairs[[*keys, "probability"]], on=keys, how="inner", validate="many_to_one")
        own = log_score(mice["probability"], mice["responds"])
        first = own if first is None else first
        rows.append((rule, *scores[columns], *mean_difference(first - own, mice["pdx_model"], seed)))
    return pd.DataFrame(rows, columns=["rule", *columns, "log_score_difference", "low", "high"])
