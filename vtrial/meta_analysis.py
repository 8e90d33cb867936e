"""Response rates of published arms without any mouse: a hierarchical logistic regression, trial by trial left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import MCMC, NUTS


class MetaArm(NamedTuple):
    """A published arm as the regression sees it; ``drugs`` maps each drug to its class."""

    id: int
    trial: str
    tumour_type: str
    drugs: Mapping[str, str]
    responders: int
    patients: int
    offset: np.ndarray  # [D] of the logit: line and reader of each draw of their priors


def _model(arrays: Mapping[str, jax.Array], sizes: Mapping[str, int], between_trials: float) -> None:
    """Logit of the rate of one drug: mean + class + drug + tumour type + offset + trial."""
    mu: Any = numpyro.sample("mu", dist.Normal(-1.5, 1.0))
    terms: dict[str, Any] = {}
    for name in ("drug_class", "drug", "tumour_type"):
        spread = numpyro.sample(f"omega_{name}", dist.HalfNormal(0.7))
        with numpyro.plate(name, sizes[name]):
            terms[name] = numpyro.deterministic(f"{name}_term", spread * numpyro.sample(f"{name}_z", dist.Normal()))
    with numpyro.plate("trial", sizes["trial"]):
        z: Any = numpyro.sample("trial_z", dist.Normal())
    trial = between_trials * z
    logit = mu + sum(terms[name][arrays[name]] for name in terms) + arrays["offset"] + trial[arrays["trial"]]
    with handlers.mask(mask=arrays["seen"]):
        numpyro.sample("responders", dist.Binomial(arrays["patients"], logits=logit), obs=arrays["responders"])


class MetaAnalysis:
    """The regression on arms of one drug; a combination is predicted by independent action of its drugs."""

    def __init__(
        self, key: jax.Array, teachers: Sequence[MetaArm], names: Mapping[str, Collection[str]], between_trials: float
    ):
        """Lay out the arms to learn from.

        Parameters
        ----------
        key
            Of the sampler.
        teachers
            Arms of one drug.
        names
            All labels of drug, drug_class and tumour_type that are ever asked for: one without data has its prior.
        between_trials
            SD of the logit between trials of one regimen.
        """
        self._key, self._teachers = key, tuple(teachers)
        self._names = {name: sorted(labels) for name, labels in names.items()}
        trials = sorted({t.trial for t in teachers})
        self._sizes = {**{name: len(labels) for name, labels in self._names.items()}, "trial": max(len(trials), 1)}
        single = [next(iter(t.drugs.items())) for t in teachers]
        columns = {
            "drug": [drug for drug, _ in single],
            "drug_class": [drug_class for _, drug_class in single],
            "tumour_type": [t.tumour_type for t in teachers],
        }
        index = {name: [self._names[name].index(label) for label in labels] for name, labels in columns.items()}
        index["trial"] = [trials.index(t.trial) for t in teachers]
        self._arrays = {name: jnp.asarray(values, jnp.int32) for name, values in index.items()}
        self._arrays["responders"] = jnp.asarray([t.responders for t in teachers], jnp.int32)
        self._arrays["patients"] = jnp.asarray([t.patients for t in teachers], jnp.int32)
        # the regression takes the mean of the offsets; predictions their draws
        self._arrays["offset"] = jnp.asarray([float(np.mean(t.offset)) for t in teachers], jnp.float32)
        sizes = self._sizes

        # One program for all trials: MCMC.run compiles anew each time, and after some fifty a process runs out of maps.
        @jax.jit
        def fit(key: jax.Array, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            kernel = NUTS(lambda given: _model(given, sizes, between_trials), target_accept_prob=0.9)
            mcmc = MCMC(kernel, num_warmup=500, num_samples=1000, num_chains=1, progress_bar=False)
            mcmc.run(key, arrays)
            return mcmc.get_samples()

        self._fit = fit
        self._kept: dict[frozenset[int], dict[str, np.ndarray]] = {}

    def _posterior(self, left_out: frozenset[int]) -> dict[str, np.ndarray]:
        if left_out not in self._kept:
            seen = jnp.asarray([t.id not in left_out for t in self._teachers], bool)
            draws = self._fit(self._key, {**self._arrays, "seen": seen})
            self._kept[left_out] = {name: np.asarray(values) for name, values in draws.items()}
        return self._kept[left_out]

    def logit(self, arm: MetaArm, left_out: Sequence[int]) -> np.ndarray:
        """Draws of the logit of an arm's rate, learnt from the arms that are not left out.

        Of several drugs ``rate = 1 - prod(1 - rate_k)``, independent action.
        """
        draws = self._posterior(frozenset(left_out) & {t.id for t in self._teachers})
        offset = np.resize(arm.offset, len(draws["mu"]))
        ln_none = 0.0
        for drug, drug_class in arm.drugs.items():
            asked = {"drug": drug, "drug_class": drug_class, "tumour_type": arm.tumour_type}
            terms = [draws[f"{name}_term"][:, self._names[name].index(label)] for name, label in asked.items()]
            ln_none = ln_none - np.logaddexp(0.0, draws["mu"] + sum(terms) + offset)
        return np.log(-np.expm1(ln_none)) - ln_none
