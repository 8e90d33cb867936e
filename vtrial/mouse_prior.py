"""Draws of the mice as the translation reads them: of a fit, or of its prior for a prediction without any mouse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import jax
import numpy as np

from vtrial.posterior import Draws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors
from vtrial.responders import SITES as OF_RESPONDERS

#: site of the model -> name of its prior
_PRIOR: Mapping[str, str] = {
    "mu_ln_growth": "growth.mouse.ln_rate",
    "omega_ln_growth_type": "growth.mouse.between_types",
    "loss": "growth.mouse.loss",
    "omega_loss": "growth.mouse.loss_spread",
    "mu_effect": "classes.default.mean_effect",
    "omega_effect_class": "classes.default.between_classes",
    "omega_effect_drug": "classes.default.between_drugs",
    "omega_effect_type": "classes.default.between_types",
    "omega_ln_omega_effect": "classes.default.ln_between_models_spread",
}


class MouseDraws(Protocol):
    """What the translation reads of the mice: a posterior, or its prior."""

    size: int

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim, empty where there is none."""
        ...

    def get(self, name: str) -> np.ndarray:
        """Values of a site, draws first."""
        ...

    def __contains__(self, name: str) -> bool: ...


class PriorDraws:
    """Draws of the mouse model's population level from its prior, read as :class:`vtrial.posterior.Draws` is.

    No drug, class, tumour type or pair of classes has a label: all are new to it, so that the translation draws each
    from the population one level up, the same for every arm that shares it.

    Parameters
    ----------
    key
        Consumed.
    priors
        Of the experiment.
    size
        Number of draws.
    responders
        Whether the model has common responders (:mod:`vtrial.responders`).

    Attributes
    ----------
    size : int
        Number of draws.
    """

    def __init__(self, key: jax.Array, priors: Priors, size: int, *, responders: bool = False):
        self.size = size
        sampler = PriorSampler(key, priors, size)
        self._values = {site: sampler.entry(name) for site, name in _PRIOR.items()}
        self._values["mu_ln_omega_effect"] = np.log(sampler.entry("classes.default.between_models"))
        if responders:
            self._values |= {site: sampler.entry(f"classes.default.{site}") for site in OF_RESPONDERS}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim: none."""
        return []

    def get(self, name: str) -> np.ndarray:
        """Values [size] of a site of the population level."""
        return self._values[name]


class Repeated:
    """Every draw of the mice `copies` times, side by side.

    Attributes
    ----------
    size : int
        Number of draws, with their copies.
    """

    def __init__(self, draws: MouseDraws, copies: int):
        self._draws, self._copies, self.size = draws, copies, draws.size * copies

    def __contains__(self, name: str) -> bool:
        return name in self._draws

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim."""
        return self._draws.labels(dim)

    def get(self, name: str) -> np.ndarray:
        """Values [size, ...] of a site."""
        return np.repeat(self._draws.get(name), self._copies, axis=0)

    def covariate_spread(self, drug_class: str, tumour_type: str, named: Iterable[str]) -> np.ndarray:
        """See :meth:`vtrial.posterior.Draws.covariate_spread`; of a fit with covariates only."""
        assert isinstance(self._draws, Draws)
        return np.repeat(self._draws.covariate_spread(drug_class, tumour_type, named), self._copies)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Covariates that the fit has learnt; none without mice."""
        return self._draws.covariates if isinstance(self._draws, Draws) else ()

    def covariate_mean(self, tumour_type: str) -> np.ndarray:
        """See :meth:`vtrial.posterior.Draws.covariate_mean`; of a fit with covariates only."""
        assert isinstance(self._draws, Draws)
        return self._draws.covariate_mean(tumour_type)
