"""Convergence of a fit: R-hat and effective sample sizes by name, and the gates. The one place that calls ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.config import FitConfig
from vtrial.posterior import PDX_MODEL_LEVEL, POPULATION

with warnings.catch_warnings():
    # arviz 0.23 announces its own future at import
    warnings.simplefilter("ignore", FutureWarning)
    import arviz

#: k-hat above which importance weights, and what rests on them, are not to be relied on (Vehtari et al. 2017)
LARGEST_K = 0.7
BEFORE_1 = hasattr(arviz, "psislw")


def _named(dataset: xr.Dataset) -> dict[str, float]:
    """Flat mapping "site[label]" -> value of a dataset without chain and draw."""
    values: dict[str, float] = {}
    for site, array in dataset.data_vars.items():
        if array.ndim == 0:
            values[str(site)] = float(array)
        else:
            labels = array[array.dims[0]].to_numpy()
            values.update({f"{site}[{label}]": float(v) for label, v in zip(labels, array.to_numpy(), strict=True)})
    return values


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised log weights after Pareto smoothing (Vehtari 2024, JMLR 25:72), and k-hat of their tail.

    Parameters
    ----------
    log_weights
        Unnormalised log importance weights, [D].
    """
    if BEFORE_1:
        smoothed, k = arviz.psislw(np.array(log_weights, np.float64))
    else:
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

        # ArviZ 1 takes the log likelihood that was left out, whose negative is the log weight
        try:
            smoothed, k = array_stats.psislw(-np.array(log_weights, np.float64))
        except (ValueError, IndexError):  # a tail of few or equal weights has no shape; ArviZ 0.23 gives inf
            smoothed, k = log_weights - np.logaddexp.reduce(log_weights), np.inf
    return np.asarray(smoothed, np.float64), float(k)


def pointwise_elpd(log_density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of every unit were it left out, and its k-hat, from log densities [D, U] at the draws of all."""
    elpd, k = np.empty(log_density.shape[1]), np.empty(log_density.shape[1])
    for unit, own in enumerate(np.asarray(log_density, np.float64).T):
        with np.errstate(all="ignore"):  # of draws that never moved
            log_weights, k[unit] = pareto_smoothed(-own)
            elpd[unit] = np.logaddexp.reduce(log_weights + own) - np.logaddexp.reduce(log_weights)
    return elpd, k


def compared_elpd(log_density: Mapping[str, xr.DataArray]) -> pd.DataFrame:
    """Fits by name, best first: elpd, difference to the best, its SE over the units, and the weight of stacking.

    Stacking (Yao et al. 2018, Bayesian Anal 13:917) gives the mixture of fits that predicts the left out best.

    Parameters
    ----------
    log_density
        Of every unit that is left out, [chain, draw, unit], by the name of the fit.

    Raises
    ------
    ValueError, IndexError
        Too few draws, or draws that never moved.
    """

    def elpd_of(density: xr.DataArray) -> Any:
        groups: dict[str, Any] = {"log_likelihood": xr.Dataset({"left_out": density.astype(np.float64)})}
        held = arviz.InferenceData(**groups) if BEFORE_1 else xr.DataTree.from_dict(groups)
        return arviz.loo(held, pointwise=True, var_name="left_out", reff=1.0)

    exact: dict[str, Any] = {} if BEFORE_1 else {"round_to": "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large k-hats, and of what pandas will no longer do for arviz 0.23
        table = arviz.compare({name: elpd_of(density) for name, density in log_density.items()}, **exact)
    elpd = table["elpd_loo" if BEFORE_1 else "elpd"].astype(float)
    columns = {
        "elpd": elpd,
        "difference": elpd - elpd.max(),
        "difference_error": table["dse"],
        "weight": table["weight"],
    }
    return pd.DataFrame(columns).astype(float)


def _rhat(posterior: xr.Dataset) -> xr.Dataset:
    """R-hat by ArviZ; chains that never moved divide by a variance of 0, or by one that rounding left below it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return cast(xr.Dataset, arviz.rhat(posterior))


def summarise(posterior: xr.Dataset) -> pd.DataFrame:
    """One row per population parameter: parameter, mean, sd, q05, q95, rhat, ess_bulk, ess_tail (equal-tailed 90 %)."""
    chosen = posterior[[name for name in POPULATION if name in posterior]].astype(np.float64)
    columns: dict[str, Any] = {
        "mean": chosen.mean(("chain", "draw")),
        "sd": chosen.std(("chain", "draw")),
        "q05": chosen.quantile(0.05, ("chain", "draw")).drop_vars("quantile"),
        "q95": chosen.quantile(0.95, ("chain", "draw")).drop_vars("quantile"),
        "rhat": _rhat(chosen),
        "ess_bulk": arviz.ess(chosen, method="bulk"),
        "ess_tail": arviz.ess(chosen, method="tail"),
    }
    table = pd.DataFrame({name: pd.Series(_named(dataset)) for name, dataset in columns.items()})
    return table.rename_axis("parameter").reset_index()


def check_gates(table: pd.DataFrame, tree: xr.DataTree, config: FitConfig) -> list[dict[str, Any]]:
    """The gates of a fit: name, limit, value reached, where, and whether it passed.

    Parameters
    ----------
    table
        From :func:`summarise`.
    tree
        The posterior.
    config
        Its `gates` are the limits; that of k-hat is :data:`LARGEST_K`.
    """
    gates = config.gates
    posterior = tree["posterior"].to_dataset()
    models = posterior[[name for name in PDX_MODEL_LEVEL if name in posterior]].astype(np.float64)
    model_rhat = pd.Series(_named(_rhat(models)))
    stats = tree["sample_stats"].to_dataset()
    greatest = 2**config.max_tree_depth - 1

    def row(name: str, limit: float, values: pd.Series, largest: bool) -> dict[str, Any]:
        # NaN is a parameter that never moved: the worst there is
        filled = values.fillna(np.inf if largest else 0.0)
        at = filled.idxmax() if largest else filled.idxmin()
        value = float(filled.max() if largest else filled.min())
        passed = bool(value <= limit if largest else value >= limit)
        return {
            "name": name,
            "limit": limit,
            "value": value if np.isfinite(value) else None,
            "where": str(at),
            "passed": passed,
        }

    by_name = table.set_index("parameter")
    approximate = []
    if "log_weight" in stats:
        khat = pareto_smoothed(stats["log_weight"].to_numpy().ravel())[1]
        where = pd.Series({"all parameters together": khat})
        approximate = [row("k-hat of the normal approximation", LARGEST_K, where, True)]
    share = {
        "diverging": pd.Series({"all draws": float(stats["diverging"].mean())}),
        "depth": pd.Series({"all draws": float((stats["tree_steps"] >= greatest).mean())}),
    }
    return [
        row("R-hat, population", gates.rhat, by_name["rhat"], True),
        row("bulk ESS, population", gates.ess_bulk, by_name["ess_bulk"], False),
        row("tail ESS, population", gates.ess_tail, by_name["ess_tail"], False),
        row("R-hat, PDX models and arms", gates.rhat_pdx_model, model_rhat, True),
        row("share of divergent draws", gates.divergences, share["diverging"], True),
        row("share of draws at greatest tree depth", gates.max_tree_depth_share, share["depth"], True),
        *approximate,
    ]
