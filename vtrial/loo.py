"""Leave-one-out densities of mice and of whole PDX models from one fit, and the comparison of fits by them.

Of what is left out, y (the curve of a mouse, or those of all mice of a PDX model), let u be what the model samples for
it alone (residual scales; ln growth, effects behind combinations, hidden volumes) and theta all else. For any density h

    1 / p(y | all others) = E[ h(u) / (p(u | theta) p(y | u, theta)) | all curves ]

so that ``ln p(y | u, theta) + ln p(u | theta) - ln h(u)`` takes the place of a log likelihood in Pareto smoothed
importance sampling (Vehtari, Gelman and Gabry 2017, Stat Comput 27:1413). With the prior of u as h that is the usual
ratio, which cannot work here: u was fitted to the very curves that are left out. With h near the posterior of u it
integrates u out (reciprocal importance sampling, Gelfand and Dey 1994, J R Stat Soc B 56:501): h is the product of the
normals of each latent's draws in the other half of the draws. Where that fails, k-hat says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import xarray as xr
from scipy import sparse

from vtrial.diagnostics import LARGEST_K, compared_elpd, pointwise_elpd
from vtrial.errors import InputError
from vtrial.panel import Panel
from vtrial.posterior import shape_of
from vtrial.residual_scales import ln_sigma


class LeftOut(NamedTuple):
    """What takes the place of the log likelihood of what is left out, at every draw."""

    mouse: np.ndarray  # [chain, draw, S]
    pdx_model: np.ndarray  # [chain, draw, M]


def left_out_density(panel: Panel, values: Mapping[str, np.ndarray], draws: Mapping[str, np.ndarray]) -> LeftOut:
    """Densities of every mouse and every PDX model for leaving it out; see the head of this file.

    Parameters
    ----------
    panel
        What was fitted.
    values
        Constrained sites, [chain, draw, ...]: the population, and ``log_likelihood``, ``effect_site``,
        ``effect_site_scale`` of the model.
    draws
        Unconstrained parameters, [chain, draw, ...].
    """
    leading = values["log_likelihood"].shape[:2]

    def flat(array: np.ndarray) -> np.ndarray:
        return np.asarray(array, float).reshape(-1, *array.shape[2:])

    def value(name: str) -> np.ndarray:
        return flat(values[name])

    curves, sites, combinations, kind = panel.curves, panel.sites, panel.combinations, panel.pdx_model_type
    growth = flat(draws["ln_growth"])
    mean, spread = value("ln_sigma_arm")[:, curves.arm_type], value("omega_ln_sigma")[:, None]
    ln_scale = ln_sigma(panel.scales.mouse, mean, spread, flat(draws["ln_sigma_z"]))
    of_growth = _log_normal(growth, value("ln_growth_type")[:, kind], value("omega_ln_growth")[:, kind])
    of_sigma = _log_normal(ln_scale, mean, spread) - _near(ln_scale)

    mouse = value("log_likelihood") + of_sigma
    members = _membership(curves.pdx_model, panel)
    if "log_likelihood_pdx_model" in values:  # the mice of a PDX model share what is summed over
        whole = value("log_likelihood_pdx_model") + of_sigma @ members
    else:
        whole = mouse @ members
    whole = whole + of_growth - _near(growth)
    shared = np.flatnonzero(combinations.shared >= 0)
    owners = {"effect_site_z": sites.pdx_model, "combination_cell_z": combinations.pdx_model[shared]}
    for name, owner in owners.items():
        if name in draws:
            z = flat(draws[name])
            whole += (_log_normal(z, 0.0, 1.0) - _near(z)) @ _membership(owner, panel)
    if "censored_u" in draws:
        # a uniform on the scale of its logit; rows that stand for no measurement say nothing
        present = panel.censored.present
        owner = panel.censored.mouse[np.nonzero(present)[0]]
        logit = flat(draws["censored_u"])[:, present]
        term = -np.logaddexp(0.0, logit) - np.logaddexp(0.0, -logit) - _near(logit)
        whole += term @ _membership(curves.pdx_model[owner], panel)
        np.add.at(mouse.T, owner, term.T)
    if "effect_site_scale" in values:
        # the effect behind a combination stays when the lone mouse that informs it is left out: p(y | effect) is
        # p(y) p(effect | y) / p(effect)
        lone = np.flatnonzero(sites.mouse >= 0)
        z, scale = flat(draws["effect_site_z"])[:, lone], value("effect_site_scale")[:, lone]
        cell = sites.drug_type[lone]
        mean = value("effect")[:, cell]
        if panel.covariates is not None:
            mean = mean + value("covariate_effect") @ panel.covariates.site[lone].T
        if "responder" in values:  # all three given the drawn z, on which p(y | effect) does not depend
            mean = mean + value("responder_shift")[:, None] * value("responder")[:, sites.pdx_model[lone]]
            mouse[:, sites.mouse[lone]] = value("lone_density")[:, lone] + of_sigma[:, sites.mouse[lone]]
        prior = _log_normal(value("effect_site")[:, lone], mean, value("omega_effect")[:, cell])
        mouse[:, sites.mouse[lone]] += _log_normal(z, 0.0, 1.0) - np.log(scale) - prior
    return LeftOut(mouse.reshape(*leading, -1), whole.reshape(*leading, -1))


def _log_normal(x: np.ndarray, mean: Any, spread: Any) -> np.ndarray:
    """Log density of a normal."""
    return -0.5 * ((x - mean) / spread) ** 2 - np.log(spread) - 0.5 * np.log(2.0 * np.pi)


def _near(draws: np.ndarray) -> np.ndarray:
    """Log density of draws [D, L] of latents under the normals of the other half of the draws."""
    found = np.empty_like(draws)
    half = np.arange(len(draws)) < len(draws) // 2
    for chosen in (half, ~half):
        with np.errstate(divide="ignore", invalid="ignore"):  # of draws that never moved: their density is not known
            found[chosen] = _log_normal(draws[chosen], draws[~chosen].mean(0), draws[~chosen].std(0))
    return found


def _membership(pdx_model: np.ndarray, panel: Panel) -> sparse.csr_array:
    """[N, M]: 1 where thing n is of PDX model m."""
    size = len(pdx_model)
    return sparse.csr_array((np.ones(size), (np.arange(size), pdx_model)), (size, len(panel.labels.pdx_model)))


def loo_table(panel: Panel, left_out: LeftOut) -> pd.DataFrame:
    """`loo.csv`: level (pdx_model or mouse), tumour_type, pdx_model, mouse, elpd (log density) and pareto_k."""
    labels = panel.labels
    models = np.array(labels.pdx_model)
    kinds = np.array(labels.tumour_type)[panel.pdx_model_type]
    frames = []
    for level, own in (("pdx_model", np.arange(len(models))), ("mouse", panel.curves.pdx_model)):
        density = getattr(left_out, level)
        elpd, k = pointwise_elpd(density.reshape(-1, density.shape[-1]))
        mice = np.array(labels.mouse) if level == "mouse" else ""
        columns = {"level": level, "tumour_type": kinds[own], "pdx_model": models[own], "mouse": mice}
        frames.append(pd.DataFrame({**columns, "elpd": elpd, "pareto_k": k}))
    return pd.concat(frames, ignore_index=True)


def compared_fits(trees: Mapping[str, xr.DataTree]) -> pd.DataFrame:
    """Fits of the same curves by how well they predict PDX models that are left out, best first.

    Returns
    -------
    DataFrame, indexed by the names
        elpd, difference to the best and its standard error over PDX models (difference_error), weight by stacking,
        growth (the law), num_models, and unreliable: PDX models with a k-hat above :data:`LARGEST_K`.

    Raises
    ------
    InputError
        A fit without these densities or with too few draws, or fits of different curves.
    """
    densities: dict[str, xr.DataArray] = {}
    rows: dict[str, dict[str, Any]] = {}
    first = None
    for name, tree in trees.items():
        if "pdx_models" not in tree["log_likelihood"]:
            raise InputError("has no densities of left-out PDX models; a fit of this version has them", file=name)
        curves = tree["observed_data"].to_dataset()["num_measurements"].load()
        if first is not None and not curves.equals(first):
            raise InputError("was fitted to other curves than the first run", file=name)
        first = curves
        density = densities[name] = cast(xr.DataArray, tree["log_likelihood"]["pdx_models"]).load()
        _, k = pointwise_elpd(density.to_numpy().reshape(-1, density.shape[-1]))
        unreliable = int((k > LARGEST_K).sum())
        rows[name] = {"growth": shape_of(tree).growth, "num_models": len(k), "unreliable": unreliable}
    try:
        table = compared_elpd(densities)
    except (ValueError, IndexError):
        raise InputError("has too few draws to leave PDX models out", file=next(iter(densities))) from None
    return table.join(pd.DataFrame.from_dict(rows, orient="index"))
