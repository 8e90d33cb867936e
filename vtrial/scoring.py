"""Scores of a predictive distribution of counts: intervals, probability integral transform, CRPS; NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, gammaln, logsumexp, roots_hermitenorm
from scipy.stats import binom

#: nodes of the Gauss-Hermite rule over the deviation of one trial: 15 integrate a polynomial of degree 29 exactly
NUM_NODES = 15
_NODES, _WEIGHTS = roots_hermitenorm(NUM_NODES)
_LOG_WEIGHTS = np.log(_WEIGHTS / _WEIGHTS.sum())


def logit_rate(rate: np.ndarray, patients: int) -> np.ndarray:
    """Logit of simulated rates; none of `patients` counts as half a patient, so that it has one."""
    safe = np.clip(rate, 0.5 / patients, 1.0 - 0.5 / patients)
    return np.log(safe) - np.log1p(-safe)


def log_likelihood(logit: np.ndarray, between_trials: np.ndarray, responders: int, patients: int) -> np.ndarray:
    """Log probability [D] of `responders` of `patients`, the trial's own deviation integrated out.

    ``responders ~ Binomial(patients, invlogit(logit + v))``, ``v ~ Normal(0, between_trials)``, by Gauss-Hermite.

    Parameters
    ----------
    logit
        Logit of the response rate in each draw, [D].
    between_trials
        SD of the deviation, [D].
    responders, patients
        Published counts.
    """
    eta = logit[:, None] + between_trials[:, None] * _NODES[None, :]
    choose = gammaln(patients + 1) - gammaln(responders + 1) - gammaln(patients - responders + 1)
    terms = choose - responders * np.logaddexp(0.0, -eta) - (patients - responders) * np.logaddexp(0.0, eta)
    return np.asarray(logsumexp(terms + _LOG_WEIGHTS, axis=1))


def predictive(logit: np.ndarray, between_trials: np.ndarray, weight: np.ndarray, patients: int) -> np.ndarray:
    """Predictive probability [patients + 1] of each count in one trial of that many patients.

    Parameters
    ----------
    logit, between_trials
        See :func:`log_likelihood`.
    weight
        Weights of the draws [D], summing to 1.
    patients
        Size of the trial.
    """
    rate = expit(logit[:, None] + between_trials[:, None] * _NODES[None, :]).ravel()
    mass = (weight[:, None] * np.exp(_LOG_WEIGHTS)[None, :]).ravel()
    # rates on a fine grid of cells: the binomial is smooth in the rate, and D x nodes x counts would be large
    edges = expit(np.linspace(-9.0, 9.0, 721))
    cell = np.clip(np.digitize(rate, edges), 0, len(edges))
    total = np.bincount(cell, mass, len(edges) + 1)
    mean = np.bincount(cell, mass * rate, len(edges) + 1) / np.where(total > 0, total, 1.0)
    used = total > 0
    return total[used] @ binom.pmf(np.arange(patients + 1)[None, :], patients, mean[used][:, None])


class Score(NamedTuple):
    """What a predictive distribution says of a trial, and how it did; rates are fractions."""

    mean: float
    q05: float
    q95: float
    mid_p: float  # P(fewer responders) + P(as many) / 2: uniform on average where predictions are right
    crps: float  # of the rate


def score(probability: np.ndarray, responders: int) -> Score:
    """Score predictive probabilities [patients + 1] of counts against the count that came.

    The CRPS is ``sum_k (F(k) - 1{k >= n})^2 / patients`` over k = 0 .. patients - 1, in units of the rate (Gneiting and
    Raftery 2007, JASA 102:359). Interval ends are the smallest counts with F of at least 0.05 and 0.95.
    """
    patients = len(probability) - 1
    counts = np.arange(patients + 1)
    below = np.cumsum(probability / probability.sum())
    low, high = (int(np.searchsorted(below, level - 1e-12)) for level in (0.05, 0.95))
    step = (counts >= responders).astype(float)
    return Score(
        mean=float(counts @ probability / probability.sum() / patients),
        q05=low / patients,
        q95=min(high, patients) / patients,
        mid_p=float(below[responders] - 0.5 * probability[responders] / probability.sum()),
        crps=float(np.sum((below - step)[:-1] ** 2) / patients),
    )


class Difference(NamedTuple):
    """Mean paired difference of a score with its 95 % interval."""

    mean: float
    low: float
    high: float
    arms: int
    trials: int


def paired_difference(difference: np.ndarray, trial: np.ndarray, seed: int, resamples: int = 4000) -> Difference:
    """Mean of paired differences, and its interval from resampling whole trials (arms of one are not independent).

    Parameters
    ----------
    difference
        One per arm; NaN is left out.
    trial
        Name of the trial of each arm.
    seed, resamples
        Of the bootstrap.
    """
    kept = ~np.isnan(difference)
    difference, trial = difference[kept], trial[kept]
    names, index = np.unique(trial, return_inverse=True)
    if len(names) < 2:
        mean = float(difference.mean()) if len(difference) else np.nan
        return Difference(mean, np.nan, np.nan, len(difference), len(names))
    total, number = np.bincount(index, difference), np.bincount(index)
    chosen = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = total[chosen].sum(1) / number[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(difference.mean()), float(low), float(high), len(difference), len(names))


def most_misses(arms: int) -> int:
    """97.5th percentile of Binomial(arms, 0.1): more misses of 90 % intervals say that they are too narrow."""
    return int(binom.ppf(0.975, arms, 0.1))
