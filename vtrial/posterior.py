"""The posterior as an xarray DataTree with real labels: what `posterior.nc` holds and notebooks read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from vtrial.dose_response import LAWS, DoseResponse, strength
from vtrial.doses import Dose
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.panel import Panel

#: dims of the sites after (chain, draw); sites not named here are scalars
DIMS: dict[str, tuple[str, ...]] = {
    "ln_growth_type": ("tumour_type",),
    "omega_ln_growth": ("tumour_type",),
    "effect_class": ("drug_class",),
    "effect_drug": ("drug",),
    "effect": ("drug_type",),
    "omega_effect": ("drug_type",),
    "ln_sigma_type": ("tumour_type",),
    "ln_sigma_arm": ("arm_type",),
    "loss_drug_type": ("drug_type",),
    "ln_growth": ("pdx_model",),
    "phi": ("class_pair",),
    "gamma": ("class_pair",),
    "effect_site": ("pdx_model_drug",),
    "ln_ed50": ("dosed_drug",),
    "hill": ("dosed_drug",),
    "dose_slope": ("dosed_drug",),
    "covariate_effect": ("class_covariate",),
    "responder": ("pdx_model",),
    "log_likelihood": ("mouse",),
    "left_out_density": ("pdx_model",),
}
#: the population level: what is gated strictly and what predictions read
POPULATION = (
    "mu_ln_growth",
    "omega_ln_growth_type",
    "ln_growth_type",
    "omega_ln_growth",
    "mu_effect",
    "omega_effect_class",
    "omega_effect_drug",
    "omega_effect_type",
    "effect_class",
    "effect_drug",
    "effect",
    "omega_effect",
    "mu_ln_omega_effect",
    "omega_ln_omega_effect",
    "mu_intercept",
    "omega_intercept",
    "omega_mouse",
    "omega_curvature",
    "curvature_correlation",
    "loss",
    "omega_loss",
    "slowing",
    "mu_ln_sigma",
    "omega_ln_sigma_type",
    "omega_ln_sigma_arm",
    "omega_ln_sigma",
    "ln_sigma_type",
    "mu_phi",
    "omega_phi",
    "mu_gamma",
    "omega_gamma",
    "omega_combination",
    "phi",
    "gamma",
    "ln_ed50",
    "hill",
    "dose_slope",
    "covariate_effect",
    "responder_share",
    "responder_shift",
)
#: what there is one of for every PDX model, arm or drug x tumour type, of mice alone: gated less strictly, the largest
#: of many
PDX_MODEL_LEVEL = ("ln_growth", "effect_site", "ln_sigma_arm", "loss_drug_type")
#: draws of cells and mice that are kept, spread evenly over all
NUM_CELL_DRAWS = 400


def to_datatree(
    panel: Panel,
    values: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    cells: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    stopping: np.ndarray,
    curves: xr.Dataset | None = None,
) -> xr.DataTree:
    """Lay draws out with their labels.

    Parameters
    ----------
    panel
        Gives the labels and the data of the fit.
    values
        Constrained sites and deterministics, [chain, draw, ...], and `left_out_density` (:mod:`vtrial.loo`).
    stats
        Sampler statistics, [chain, draw].
    cells
        Draws of what the fit integrates out: ``index`` of the draws [D] over all chains, ``effect`` [D, S] of the cell
        of each mouse, and on request ``coefficient`` [D, S, 3] and ``ln_sigma`` [D, S].
    attributes
        Of the root: format, loss rate, detection limit, keys.
    stopping
        Coefficients of the frozen stopping rule.
    curves
        Fitted curves of the mice, see `vtrial.fitted`.
    """
    labels: dict[str, list[str]] = {
        name: list(getattr(panel.labels, name)) for name in panel.labels._fields if name != "combination_cell"
    }
    num_chains, num_draws = next(iter(stats.values())).shape
    leading = {"chain": np.arange(num_chains), "draw": np.arange(num_draws)}

    def dataset(names) -> xr.Dataset:
        variables = {}
        for name in names:
            if name not in values:
                continue
            dims = DIMS.get(name, ())
            if dims and not len(labels[dims[0]]):
                continue
            kind = np.float64 if name in POPULATION else np.float32
            variables[name] = (("chain", "draw", *dims), np.asarray(values[name], kind))
        used = {dim for dims, _ in variables.values() for dim in dims} - {"chain", "draw"}
        return xr.Dataset(variables, coords={**leading, **{dim: labels[dim] for dim in sorted(used)}})

    summaries = panel.curves
    observed = xr.Dataset(
        {
            "statistics": (("mouse", "statistic"), summaries.statistics),
            "num_measurements": (("mouse",), summaries.num_measurements),
        },
        coords={
            "mouse": labels["mouse"],
            "statistic": ["z_intercept", "z_rate", "z_waning", "residual_sum_of_squares"],
        },
    )
    constant = xr.Dataset(
        {
            "pdx_model_type": (("pdx_model",), panel.pdx_model_type),
            "drug_class_of": (("drug",), panel.drug_class),
            "drug_type_drug": (("drug_type",), panel.drug_type_drug),
            "stopping_coefficient": (("stopping_term",), stopping),
        },
        coords={name: labels[name] for name in ("tumour_type", "pdx_model", "drug", "drug_class", "drug_type")},
    )
    if panel.dosed is not None:
        constant["reference_dose"] = xr.DataArray(
            panel.dosed.reference, dims=("dosed_drug",), coords={"dosed_drug": labels["dosed_drug"]}
        )
        attributes = {**attributes, "dose_response": panel.dose_law}
    if panel.covariates is not None:
        of_model, of_type = ("pdx_model", "covariate"), ("tumour_type", "covariate")
        constant = constant.assign_coords(covariate=labels["covariate"]).assign(
            covariate_value=(of_model, panel.covariates.values),
            covariate_mean=(of_type, panel.covariates.mean),
            covariate_sd=(of_type, panel.covariates.sd),
        )
    dims = {"index": ("cell_draw",), "effect": ("cell_draw", "mouse"), "ln_sigma": ("cell_draw", "mouse")}
    dims["coefficient"] = ("cell_draw", "mouse", "term")
    integrated = xr.Dataset(
        {name: (dims[name], values) for name, values in cells.items()},
        coords={"mouse": labels["mouse"], "term": ["intercept", "rate", "waning"]},
    )
    densities = {"log_likelihood": "curves", "left_out_density": "pdx_models"}
    likelihood = dataset(densities)
    likelihood = likelihood.rename({name: short for name, short in densities.items() if name in likelihood})
    statistics = xr.Dataset(
        {
            "diverging": (("chain", "draw"), stats["diverging"]),
            "tree_steps": (("chain", "draw"), stats["num_steps"]),
            "acceptance_rate": (("chain", "draw"), stats["accept_prob"]),
            "energy": (("chain", "draw"), stats["energy"]),
            "lp": (("chain", "draw"), -stats["potential_energy"]),
            **({"log_weight": (("chain", "draw"), stats["log_weight"])} if "log_weight" in stats else {}),
        },
        coords=leading,
    )
    tree = xr.DataTree.from_dict(
        {
            # no gate for `responder`: of most PDX models every draw is 0
            "posterior": dataset((*POPULATION, *PDX_MODEL_LEVEL, "responder")),
            "cells": integrated,
            "sample_stats": statistics,
            "log_likelihood": likelihood,
            "observed_data": observed,
            "constant_data": constant,
            **({} if curves is None else {"fitted_curves": curves}),
        }
    )
    tree.attrs.update(attributes)
    return tree


def shape_of(tree: xr.DataTree) -> CurveShape:
    """The constants of a curve that a posterior was fitted with."""
    default = CurveShape()  # a posterior that says nothing of a constant is older than its second value
    return CurveShape(*(type(value)(tree.attrs.get(name, value)) for name, value in default._asdict().items()))


def dose_response_of(tree: xr.DataTree) -> DoseResponse | None:
    """The law of effect against dose that a posterior was fitted with, and its reference doses; None without one."""
    if "dose_response" not in tree.attrs:
        return None
    reference = tree["constant_data"]["reference_dose"]
    drugs = [str(name) for name in reference["dosed_drug"].to_numpy()]
    return DoseResponse(
        str(tree.attrs["dose_response"]), dict(zip(drugs, map(float, reference.to_numpy()), strict=True))
    )


def spread_evenly(size: int, total: int) -> np.ndarray:
    """Indices of `size` of `total` draws, evenly; where more are wanted than there are, draws repeat."""
    return np.linspace(0, total - 1, size).round().astype(int) if size < total else np.arange(size) % total


class Draws:
    """Chosen draws of a posterior, flat over chains, with their labels.

    Attributes
    ----------
    size : int
        Number of draws.
    index : ndarray [size]
        Which draws of the posterior they are, counted over chains laid end to end.
    dose_response : DoseResponse or None
        Law of effect against dose of the fit, and its reference doses.
    """

    def __init__(self, tree: xr.DataTree, size: int | None = None, index: np.ndarray | None = None):
        self._posterior, self._file = tree["posterior"].to_dataset(), tree.encoding.get("source")
        total = self._posterior.sizes["chain"] * self._posterior.sizes["draw"]
        self.index = spread_evenly(size or total, total) if index is None else index
        self.size = len(self.index)
        self.dose_response = dose_response_of(tree)
        constant = tree.get("constant_data")
        self._covariates = constant.to_dataset() if constant is not None and "covariate" in constant.coords else None

    def __contains__(self, name: str) -> bool:
        return name in self._posterior

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim, empty where the fit has none."""
        return [str(x) for x in self._posterior[dim].to_numpy()] if dim in self._posterior.dims else []

    def get(self, name: str) -> np.ndarray:
        """Values [size, ...] of a site.

        Raises
        ------
        InputError
            If the fit has no such site, as one of another version.
        """
        if name not in self._posterior:
            message = f"has no {name!r}, which a fit of this version has; fit again with the same command"
            raise InputError(message, file=self._file)
        values = self._posterior[name].to_numpy()
        return values.reshape(-1, *values.shape[2:])[self.index]

    def dose_strength(self, dose: Dose | None) -> np.ndarray | None:
        """Effect at a dose over that at the reference dose, [size]; None, which is 1, where the fit has one dose."""
        if dose is None or self.dose_response is None:
            return None
        law, reference = self.dose_response
        if dose.drug not in reference:
            return None
        place = self.labels("dosed_drug").index(dose.drug)
        parameters = (self.get(name)[:, place] for name in LAWS[law])
        return strength(law, np.log(dose.amount / reference[dose.drug]), *parameters)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Covariates of PDX models that the fit has learnt."""
        return () if self._covariates is None else tuple(map(str, self._covariates["covariate"].to_numpy()))

    def covariate_effect(self, drug_class: str, covariate: str) -> np.ndarray | None:
        """What a unit of a covariate adds to the effect of a class, [size]; None where the fit has none for it."""
        labels, name = self.labels("class_covariate"), f"{drug_class} | {covariate}"
        return self.get("covariate_effect")[:, labels.index(name)] if name in labels else None

    def covariate_shift(self, drug_class: str, centred: np.ndarray) -> np.ndarray:
        """What covariates, from their mean in the type ([Q] or [size, Q]), add to the effect of a class, [size]."""
        shift = np.zeros(self.size)
        for place, name in enumerate(self.covariates):
            effect = self.covariate_effect(drug_class, name)
            shift += 0.0 if effect is None else effect * centred[..., place]
        return shift

    def centred_covariates(self, tumour_type: str) -> np.ndarray:
        """Covariates of the PDX models of a tumour type in the fit from their mean, [models, Q]; without any, none."""
        if self._covariates is None or tumour_type not in self._covariates["tumour_type"].to_numpy():
            return np.zeros((0, len(self.covariates)))
        place = list(self._covariates["tumour_type"].to_numpy()).index(tumour_type)
        own = self._covariates["covariate_value"].to_numpy()[self._covariates["pdx_model_type"].to_numpy() == place]
        return own - self._covariates["covariate_mean"].to_numpy()[place]

    def covariate_mean(self, tumour_type: str) -> np.ndarray:
        """Mean of the covariates over the PDX models of a tumour type in the fit, [Q]; of another, over the types."""
        assert self._covariates is not None
        types = list(self._covariates["tumour_type"].to_numpy())
        mean = self._covariates["covariate_mean"].to_numpy()
        return mean[types.index(tumour_type)] if tumour_type in types else mean.mean(0)

    def covariate_spread(self, drug_class: str, tumour_type: str, named: Iterable[str]) -> np.ndarray:
        """SD [size] that covariates which are not `named` give to the effect of a class over PDX models of a type."""
        assert self._covariates is not None
        types = list(self._covariates["tumour_type"].to_numpy())
        sd = self._covariates["covariate_sd"].to_numpy()
        own = sd[types.index(tumour_type)] if tumour_type in types else np.sqrt(np.mean(sd**2, axis=0))
        variance = np.zeros(self.size)
        for place, name in enumerate(self.covariates):
            effect = self.covariate_effect(drug_class, name)
            if name not in named and effect is not None:
                variance += np.square(effect * own[place])
        return np.sqrt(variance)
