"""Figures of the fit: priors against posteriors, and the chains of the parameters that mix worst."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vtrial.report.figures import (
    FAINT,
    INK,
    LINE,
    PALETTE,
    PREDICTED,
    axis,
    figure,
    line,
    numbers,
    plain,
    points,
)
from vtrial.report.tables import records

if TYPE_CHECKING:
    import xarray as xr
    from plotly.graph_objects import Figure

    from vtrial.priors import Priors

#: site of the posterior -> its prior, and whether the site is the logarithm of what the prior is of
PRIOR_OF: Mapping[str, tuple[str, bool]] = {
    "mu_ln_growth": ("growth.mouse.ln_rate", False),
    "omega_ln_growth_type": ("growth.mouse.between_types", False),
    "omega_ln_growth": ("growth.mouse.between_models", False),
    "mu_effect": ("classes.default.mean_effect", False),
    "omega_effect_class": ("classes.default.between_classes", False),
    "omega_effect_drug": ("classes.default.between_drugs", False),
    "omega_effect_type": ("classes.default.between_types", False),
    "mu_ln_omega_effect": ("classes.default.between_models", True),
    "omega_ln_omega_effect": ("classes.default.ln_between_models_spread", False),
    "mu_intercept": ("growth.mouse.ln_volume_start", False),
    "omega_intercept": ("growth.mouse.intercept_sd", False),
    "omega_mouse": ("growth.mouse.between_mice_relative", False),
    "omega_curvature": ("growth.mouse.curvature_sd", False),
    "loss": ("growth.mouse.loss", False),
    "omega_loss": ("growth.mouse.loss_spread", False),
    "slowing": ("growth.mouse.slowing", False),
    "mu_ln_sigma": ("growth.mouse.residual_sd", True),
    "omega_ln_sigma_type": ("growth.mouse.ln_residual_between_types", False),
    "omega_ln_sigma_arm": ("growth.mouse.ln_residual_between_arms", False),
    "omega_ln_sigma": ("growth.mouse.ln_residual_spread", False),
    "mu_phi": ("class_pairs.default.phi", False),
    "omega_phi": ("class_pairs.default.phi_spread", False),
    "mu_gamma": ("class_pairs.default.gamma", False),
    "omega_gamma": ("class_pairs.default.gamma_spread", False),
    "omega_combination": ("class_pairs.default.between_models", False),
    "ln_ed50": ("dose_response.ed50", True),
    "hill": ("dose_response.hill", False),
    "dose_slope": ("dose_response.slope", False),
    "responder_share": ("classes.default.responder_share", False),
    "responder_shift": ("classes.default.responder_shift", False),
}
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORST, _LONGEST_CHAIN = 6, 200


def prior_posterior(diagnostics: pd.DataFrame, priors: Priors) -> pd.DataFrame:
    """Priors of the population level beside what the fit made of them.

    Parameters
    ----------
    diagnostics : DataFrame
        Rows of diagnostics.csv.
    priors : Priors
        Of the experiment.

    Returns
    -------
    DataFrame
        parameter, prior, prior_q05, prior_q25, prior_q50, prior_q75, prior_q95, mean, sd, q05, q95 (the posterior's).
    """
    names = [f"prior_q{100 * level:02.0f}" for level in _LEVELS]
    rows = []
    for row in records(diagnostics):
        site = str(row["parameter"]).partition("[")[0]
        if site not in PRIOR_OF:
            continue
        name, logged = PRIOR_OF[site]
        quantiles = [priors.entry(name).quantile(level) for level in _LEVELS]
        if logged:
            quantiles = [math.log(value) for value in quantiles]
        posterior = [row[key] for key in ("mean", "sd", "q05", "q95")]
        rows.append([row["parameter"], f"ln {name}" if logged else name, *quantiles, *posterior])
    return pd.DataFrame(rows, columns=["parameter", "prior", *names, "mean", "sd", "q05", "q95"])


def prior_posterior_bars(frame: pd.DataFrame) -> Figure:
    """Posterior mean and 90 % interval on the scale of the prior: 0 its median, -1 and 1 the ends of its 90 %."""
    rows = records(frame)
    labels, prior, mean, posterior = [], [], [], {"x": [], "y": []}
    hover = []
    for place, row in enumerate(rows):
        low, middle, high = (row[f"prior_q{level}"] for level in ("05", "50", "95"))

        def scaled(value: float, low: float = low, middle: float = middle, high: float = high) -> float:
            half = high - middle if value >= middle else middle - low
            return (value - middle) / half if half > 0 else 0.0

        y = place * (LINE + 9) + LINE
        labels.append((y - LINE / 2 - 4, str(row["parameter"])))
        prior.append(y)
        mean.append(scaled(row["mean"]))
        posterior["x"] += [scaled(row["q05"]), scaled(row["q95"]), None]
        posterior["y"] += [y, y, None]
        hover.append(
            f"{plain(row['parameter'])}<br>prior {plain(row['prior'])}: {middle:.3g} [{low:.3g}, {high:.3g}]"
            f"<br>posterior {row['mean']:.3g} [{row['q05']:.3g}, {row['q95']:.3g}]"
        )
    bands = {"x": [end for _ in prior for end in (-1.0, 1.0, None)], "y": [end for y in prior for end in (y, y, None)]}
    traces = [
        line(bands["x"], bands["y"], {"color": FAINT, "width": 8}, "prior, 90 %"),
        line(posterior["x"], posterior["y"], {"color": PREDICTED, "width": 2}, "posterior, 90 %"),
        points(mean, prior, hover, "posterior mean", {"color": PREDICTED, "size": 7}),
    ]
    notes = [
        {
            **{"x": 0, "xref": "paper", "xanchor": "left", "y": y, "yref": "y", "yanchor": "middle"},
            **{"text": plain(text), "showarrow": False, "font": {"size": 10.5, "color": INK}},
        }
        for y, text in labels
    ]
    ends = [x for x in [*posterior["x"], -1.0, 1.0] if x is not None]
    x = axis("in units of the prior's 90 % interval") | {"range": [max(min(ends), -4) - 0.2, min(max(ends), 4) + 0.2]}
    height = len(rows) * (LINE + 9) + LINE
    y = {"range": [height, -10], "visible": False, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11}}
    margin = {"l": 12, "r": 12, "t": 40, "b": 48}
    return figure(traces, height + 88, xaxis=x, yaxis=y, annotations=notes, legend=legend, margin=margin)


def worst_chains(posterior: xr.Dataset, diagnostics: pd.DataFrame) -> pd.DataFrame:
    """Draws of the parameters with the fewest effective draws, thinned: parameter, chain, draw, value."""
    smallest = diagnostics.assign(ess=diagnostics[["ess_bulk", "ess_tail"]].min(axis=1)).nsmallest(_WORST, "ess")
    parts = []
    for name in smallest["parameter"]:
        site, _, label = str(name).partition("[")
        if site not in posterior:
            continue
        values = posterior[site]
        if label:
            values = values.sel({values.dims[-1]: label.removesuffix("]")})
        draws = np.asarray(values.to_numpy(), float)
        kept = np.unique(np.linspace(0, draws.shape[1] - 1, _LONGEST_CHAIN).round().astype(int))
        chain, draw = (x.ravel() for x in np.meshgrid(range(draws.shape[0]), kept, indexing="ij"))
        parts.append(pd.DataFrame({"parameter": name, "chain": chain, "draw": draw, "value": draws[:, kept].ravel()}))
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["parameter", "chain", "draw", "value"])
    )


def chains_of(frame: pd.DataFrame, parameter: str) -> Figure:
    """The chains of one parameter over the draws.

    Parameters
    ----------
    frame : DataFrame
        Of `worst_chains`.
    parameter : str
        As there.

    Returns
    -------
    plotly Figure
    """
    drawn: list[dict[str, Any]] = []
    for chain, part in frame[frame["parameter"] == parameter].groupby("chain"):
        data = {"x": part["draw"].tolist(), "y": numbers(part["value"]), "hoverinfo": "name+x+y"}
        look = {"width": 0.8, "color": PALETTE[int(chain) % len(PALETTE)]}  # type: ignore[call-overload]
        drawn.append(
            {"type": "scatter", "mode": "lines", "name": f"chain {chain}", "opacity": 0.7, "line": look} | data
        )
    x, y = axis("draw") | {"nticks": 5}, axis("") | {"nticks": 4, "zeroline": False}
    return figure(drawn, 150, xaxis=x, yaxis=y, showlegend=False, margin={"l": 44, "r": 8, "t": 4, "b": 36})
