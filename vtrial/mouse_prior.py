"""The mouse posterior replaced by its prior: what a prediction without any mouse reads in place of a fit."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from vtrial.priors import Priors
from vtrial.translation import PriorSampler

#: site of the model -> name of its prior
_PRIOR: Mapping[str, str] = {
    "mu_ln_growth": "growth.mouse.ln_rate",
    "omega_ln_growth_type": "growth.mouse.between_types",
    "mu_effect": "classes.default.mean_effect",
    "omega_effect_class": "classes.default.between_classes",
    "omega_effect_drug": "classes.default.between_drugs",
    "omega_effect_type": "classes.default.between_types",
    "omega_ln_omega_effect": "classes.default.ln_between_models_spread",
}


class PriorDraws:
    """Draws of the mouse model's population level from its prior, read as :class:`vtrial.posterior.Draws` is.

    No drug, class, tumour type or pair of classes has a label: all are new to it, so that the translation draws each
    from the population one level up, the same for every arm that shares it.

    Attributes
    ----------
    size : int
        Number of draws.
    """

    def __init__(self, key: jax.Array, priors: Priors, size: int):
        self.size = size
        sampler = PriorSampler(key, priors, size)
        self._values = {site: sampler.entry(name) for site, name in _PRIOR.items()}
        self._values["mu_ln_omega_effect"] = np.log(sampler.entry("classes.default.between_models"))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim: none."""
        return []

    def get(self, name: str) -> np.ndarray:
        """Values [size] of a site of the population level."""
        return self._values[name]
