"""Which prior moves a response rate: power scaling of every prior behind a run, by weights of its own draws.

A prior p(x) is made a little narrower or wider, ``p(x)^alpha``, by giving every draw the weight ``p(x)^(alpha - 1)``
(Kallioinen et al., Stat Comput 2024;34:57): nothing is fitted or simulated again. How far that moves the distribution
of the rate is measured by the cumulative Jensen-Shannon distance per doubling of alpha. All uses of one prior (of every
class, drug or tumour type that it speaks of) are scaled together; what is fixed cannot be scaled. A prior that has
nothing to do with a rate still moves it a little, because the draws are finite: that is the noise, found by handing the
weights to the wrong draws.

Scaling asks what the width of a prior does. What its level does is plainer: the mean rate in the draws of its lowest
and of its highest third.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import jax
import numpy as np
import pandas as pd
import xarray as xr

from vtrial.diagnostics import pareto_smoothed
from vtrial.errors import InputError
from vtrial.inputs import Inputs, covariate_priors, marks
from vtrial.posterior import Draws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors
from vtrial.store import ORR_DRAWS, RunFolder
from vtrial.translation import plan_cohort

#: site of a fit -> the prior of it
FIT_PRIORS: Mapping[str, str] = {
    "mu_ln_growth": "growth.mouse.ln_rate",
    "omega_ln_growth_type": "growth.mouse.between_types",
    "omega_ln_growth": "growth.mouse.between_models",
    "mu_intercept": "growth.mouse.ln_volume_start",
    "omega_intercept": "growth.mouse.intercept_sd",
    "omega_mouse": "growth.mouse.ln_between_mice_relative",
    "omega_curvature": "growth.mouse.ln_curvature_sd",
    "mu_ln_sigma": "growth.mouse.ln_residual_sd",
    "omega_ln_sigma_type": "growth.mouse.ln_residual_between_types",
    "omega_ln_sigma_arm": "growth.mouse.ln_residual_between_arms",
    "omega_ln_sigma": "growth.mouse.ln_residual_spread",
    "loss": "growth.mouse.loss",
    "omega_loss": "growth.mouse.loss_spread",
    "slowing": "growth.mouse.slowing",
    "mu_effect": "classes.default.mean_effect",
    "omega_effect_class": "classes.default.between_classes",
    "omega_effect_drug": "classes.default.between_drugs",
    "omega_effect_type": "classes.default.between_types",
    "mu_ln_omega_effect": "classes.default.ln_between_models",
    "omega_ln_omega_effect": "classes.default.ln_between_models_spread",
    "mu_phi": "class_pairs.default.phi",
    "omega_phi": "class_pairs.default.phi_spread",
    "mu_gamma": "class_pairs.default.gamma",
    "omega_gamma": "class_pairs.default.gamma_spread",
    "omega_combination": "class_pairs.default.between_models",
    "responder_share": "classes.default.responder_share",
    "responder_shift": "classes.default.responder_shift",
    "ln_ed50": "dose_response.ln_ed50",
    "hill": "dose_response.ln_hill",
    "dose_slope": "dose_response.ln_slope",
}
#: sites whose prior is one of their logarithm
OF_LOGARITHM = ("omega_mouse", "omega_curvature", "hill", "dose_slope")
COLUMNS = (
    "tumour_type",
    "arm",
    "prior",
    "uses",
    "mean",
    "mean_low",
    "mean_high",
    "correlation",
    "sensitivity",
    "noise",
    "mean_wider",
    "mean_narrower",
    "khat",
    "source",
)
#: alpha of the two weightings that are shown, and of those that the sensitivity is the slope between
WIDER, NARROWER = 0.8, 1.25
_LOWER, _UPPER = 0.99, 1.01
_NUM_SHUFFLES = 40


class RecordingSampler(PriorSampler):
    """A sampler that remembers the draws it gave of every prior, under the name of the prior and the use."""

    def __init__(self, key: jax.Array, priors: Priors, size: int):
        super().__init__(key, priors, size)
        self.taken: dict[str, dict[str, np.ndarray]] = defaultdict(dict)

    def entry(self, name: str, tag: str = "") -> np.ndarray:
        """As of the base; the draws are kept."""
        draws = super().entry(name, tag)
        self.taken[name][tag] = draws
        return draws


def cumulative_divergence(value: np.ndarray, weight: np.ndarray) -> float:
    """Cumulative Jensen-Shannon distance between equally weighted and weighted draws of one quantity.

    Its square is ``int [P log2(2P/(P+Q)) + Q log2(2Q/(P+Q))]``, over the range of the draws, of the two distribution
    functions, as a share of ``int (P + Q)``: from 0 to 1, whatever the unit. The other tails, 1 - P and 1 - Q, are
    taken too, and the larger one counts.

    Parameters
    ----------
    value
        Draws [D].
    weight
        Their weights [D], which sum to 1.
    """
    order = np.argsort(value, kind="stable")
    step = np.diff(value[order])
    p = np.arange(1, len(value)) / len(value)
    q = np.clip(np.cumsum(weight[order])[:-1], 0.0, 1.0)

    def distance(p: np.ndarray, q: np.ndarray) -> float:
        middle = 0.5 * (p + q)
        terms = sum(np.where(x > 0, x * np.log2(np.where(x > 0, x, 1.0) / np.where(middle > 0, middle, 1.0)), 0.0)
                    for x in (p, q))  # fmt: skip
        whole = float(((p + q) * step).sum())
        return max(float((terms * step).sum()), 0.0) / whole if whole > 0 else 0.0

    return float(np.sqrt(max(distance(p, q), distance(1.0 - p, 1.0 - q))))


def prior_densities(inputs: Inputs, draws: Draws, tumour_index: int) -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """Log density [D] of every prior behind a cohort at its draws: name -> number of uses, log density, mean draw [D].

    Those that patients are drawn from are priors as they are; those of the fit are read at the draws of its posterior.
    """
    experiment, priors = inputs.experiment, inputs.priors
    config = experiment.trial
    key_prior, _ = jax.random.split(jax.random.key(config.seed))
    sampler = RecordingSampler(key_prior, priors, draws.size)
    cohort = config.cohorts[tumour_index]
    names, bias = experiment.data.aliases, config.engraftment_bias
    plan_cohort(key_prior, cohort, config.visits, draws, priors, names, bias, sampler=sampler)
    found: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}

    def add(name: str, values: np.ndarray) -> None:
        distribution = priors.distribution(name)
        if type(distribution).__name__ == "Delta" or np.ptp(values) == 0.0:
            return
        density = np.asarray(distribution.log_prob(values), np.float64)
        uses, before, mean = found.get(name, (0, np.zeros(draws.size), np.zeros(draws.size)))
        found[name] = (uses + values.shape[1], before + density.sum(1), mean + values.sum(1))

    for name, tags in sampler.taken.items():
        add(name, np.stack(list(tags.values()), axis=1))
    for site, name in FIT_PRIORS.items():
        if site in draws:
            values = np.asarray(draws.get(site), np.float64).reshape(draws.size, -1)
            add(name, np.log(values) if site in OF_LOGARITHM else values)
    if experiment.fit.covariates:
        labels = [label.rsplit(" | ", 1) for label in draws.labels("class_covariate")]
        of_key = covariate_priors(experiment, priors, sorted({drug_class for drug_class, _ in labels}))
        for place, (drug_class, covariate) in enumerate(labels):
            add(of_key[f"{covariate}.{drug_class}"], draws.get("covariate_effect")[:, [place]])
    return {name: (uses, density, mean / uses) for name, (uses, density, mean) in found.items()}


def power_scaling(inputs: Inputs, folder: RunFolder) -> pd.DataFrame:
    """Every prior behind the response rates of a run, and how far each moves them; rows of all arms, all patients.

    Returns
    -------
    DataFrame with :data:`COLUMNS`
        `mean` of the population's rate, and in the third of the draws in which the prior's draw (their mean where it is
        used several times) is lowest and highest; `correlation`, Spearman's, of the two; `sensitivity`, the distance
        per doubling of alpha, and its `noise` (the 95th percentile of a prior without any part in the rate);
        `mean_wider` (alpha 0.8) and `mean_narrower` (1.25); `khat` of the wider weighting. Sorted within an arm by what
        lies between lowest and highest third.

    Raises
    ------
    InputError
        Where the folder holds no rates draw by draw.
    """
    if not folder.exists(ORR_DRAWS):
        raise InputError(f"holds no {ORR_DRAWS}; give `vtrial run` again, which goes on from its fit", file=folder.path)
    said = "; ".join(marks(inputs.experiment, folder.manifest()))
    rows = []
    with folder.open_posterior(ORR_DRAWS) as rates, folder.open_posterior() as tree:
        for place, cohort in enumerate(rates.children.values()):
            data = cohort.to_dataset()
            draws = Draws(tree, index=data["draw"].to_numpy())
            densities = prior_densities(inputs, draws, place)
            for arm in data["arm"].to_numpy():
                rate = _main_rate(data, str(arm))
                for name, (uses, density, mean) in densities.items():
                    rows.append(
                        {
                            "tumour_type": str(data.attrs["tumour_type"]),
                            "arm": str(arm),
                            "prior": name,
                            "uses": uses,
                            **_thirds(rate, mean),
                            "correlation": _rank_correlation(rate, mean),
                            **_scaled(rate, density),
                            "source": said,
                        }
                    )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    place = table.groupby(["tumour_type", "arm"], sort=False).ngroup()
    table = table.assign(place=place, moves=-(table["mean_high"] - table["mean_low"]).abs())
    return table.sort_values(["place", "moves"], kind="stable").drop(columns=["place", "moves"])


def _main_rate(data: xr.Dataset, arm: str) -> np.ndarray:
    main = str(data["endpoint"].to_numpy()[0])
    return data["rate"].sel(endpoint=main, arm=arm, subgroup="all").to_numpy().astype(np.float64)


def _scaled(rate: np.ndarray, density: np.ndarray) -> dict[str, float]:
    """Sensitivity of a rate [D] to one prior, its means under the two weightings, and k-hat of the wider one."""

    def weights(alpha: float) -> tuple[np.ndarray, float]:
        smoothed, khat = pareto_smoothed((alpha - 1.0) * density)
        weight = np.exp(smoothed - smoothed.max())
        return weight / weight.sum(), khat

    near, doublings = [weights(alpha)[0] for alpha in (_LOWER, _UPPER)], np.log2(_UPPER / _LOWER)
    # a fixed order of shuffles: the noise of a prior does not depend on which others there are
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(rate) for _ in range(_NUM_SHUFFLES)]
    noise = [sum(cumulative_divergence(values, weight) for weight in near) for values in shuffled]
    wider, khat = weights(WIDER)
    narrower, _ = weights(NARROWER)
    return {
        "sensitivity": float(sum(cumulative_divergence(rate, weight) for weight in near) / doublings),
        "noise": float(np.quantile(noise, 0.95) / doublings),
        "mean_wider": float(wider @ rate),
        "mean_narrower": float(narrower @ rate),
        "khat": khat,
    }


def _thirds(rate: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """Mean rate of all draws, and of the thirds in which `value` is lowest and highest."""
    order, third = np.argsort(value, kind="stable"), len(value) // 3
    low, high = rate[order[:third]].mean(), rate[order[len(value) - third :]].mean()
    return {"mean": float(rate.mean()), "mean_low": float(low), "mean_high": float(high)}


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; 0 where one of them does not vary."""
    first, second = (pd.Series(x).rank() for x in (a, b))
    return float(first.corr(second)) if first.nunique() > 1 < second.nunique() else 0.0
