"""Draws of priors, each from a key of its own name."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import jax
import numpy as np
from scipy.special import ndtr

from vtrial.priors import Priors


class PriorSampler:
    """Draws of priors, each from a key of its own name: adding a prior leaves the draws of the others as they were."""

    def __init__(self, key: jax.Array, priors: Priors, size: int):
        self.key, self._priors, self.size = key, priors, size

    def named(self, name: str) -> jax.Array:
        """Key of a name."""
        return jax.random.fold_in(self.key, zlib.crc32(name.encode()))

    def entry(self, name: str, tag: str = "") -> np.ndarray:
        """Draws [D] of an entry; `tag` tells apart several independent uses of one entry.

        Quantiles at normal probabilities: one program on the device for all families of priors.
        """
        return self._priors.quantile(name, ndtr(self.normal(f"prior {name}{tag}")))

    def resolved(self, prefix: str, group: str, suffix: str = "", tag: str = "") -> np.ndarray:
        """Draws of the entry of a group, or of the default."""
        return self.entry(self._priors.resolve(prefix, group, suffix).name, tag)

    def normal(self, tag: str) -> np.ndarray:
        """Standard normal draws [D]."""
        return np.asarray(jax.random.normal(self.named("normal " + tag), (self.size,)), np.float64)


class LearntSampler(PriorSampler):
    """Draws of priors of which some have been learnt: R for each of the J draws of a sampler, side by side.

    What was not learnt is that of the sampler, R times over.
    """

    def __init__(self, before: PriorSampler, learnt: Mapping[str, np.ndarray], copies: int):
        super().__init__(before.key, before._priors, before.size * copies)
        self._before, self._learnt, self._copies = before, learnt, copies

    def normal(self, tag: str) -> np.ndarray:
        """Draws [J R] of a standard normal before anything was learnt."""
        if tag in self._learnt:
            return self._learnt[tag]
        return np.repeat(self._before.normal(tag), self._copies)
