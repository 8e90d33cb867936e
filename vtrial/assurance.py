"""From what a run believes of a response rate to what a trial will find: assurance, go / no-go / think, sample size.

A trial of an arm has its own rate, ``logit p_trial = logit p + v z``: p the rate of the population and v the spread
between trials, one pair per draw of the run, z standard normal. Given all that is believed, the patients of one trial
are exchangeable, and all that a design needs is the distribution of the number of responders among the first n,

    m_n(x) = E[binom(x; n, p_trial)],       m_(n-1)(x) = m_n(x) (n - x) / n + m_n(x + 1) (x + 1) / n

by the trapezoidal rule over z, and from one n down to the next by leaving one patient out. Assurance is the probability
of success under it (O'Hagan A et al. Pharm Stat 2005;4:187-201).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from vtrial.design import SingleArm, check_rates, one_stage_of, operating_characteristics, outcome
from vtrial.errors import InputError
from vtrial.monitoring import BetaPrior, one_patient_prior, responders_needed
from vtrial.two_arm import TwoArm, power

#: how far out the deviation of a trial is integrated: beyond lie 2e-10 of the normal
_REACH = 6.4


Responders = Callable[[int], np.ndarray]


class RateDraws(NamedTuple):
    """What a run believes of one arm in one subgroup.

    Attributes
    ----------
    rate : ndarray [D]
        Response rate of the population.
    between_trials : ndarray [D]
        SD of one trial's logit about it.
    num_patients : int
        Virtual patients behind a rate: none of them responding counts as half a patient, so that it has a logit.
    weight : ndarray [D], optional
        Of the draws, positive; equal where None.
    """

    rate: np.ndarray
    between_trials: np.ndarray
    num_patients: int
    weight: np.ndarray | None = None

    def weights(self) -> np.ndarray:
        """Weights that add to 1, [D]."""
        weight = np.ones(len(self.rate)) if self.weight is None else np.asarray(self.weight, float)
        return weight / weight.sum()


def _half_patient(draws: RateDraws) -> np.ndarray:
    """Logit of the rate of every draw, [D]; where none or all respond, of half a patient."""
    half = 0.5 / draws.num_patients
    return special.logit(np.clip(np.asarray(draws.rate, float), half, 1.0 - half))


def trial_rates(draws: RateDraws, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates of a trial [D, N] and their weights [D, N], which add to 1, at N points of z that all arms have in common.

    The trapezoidal rule errs by ``2 exp(-2 (pi w / h)^2)`` for a normal curve of width w and step h. The likelihood of
    `most` patients is no narrower than 2 / sqrt(most) on the logit, nor its product with the density of z than `width`
    below; the step makes that error 1e-9.
    """
    spread = np.asarray(draws.between_trials, float)
    width = 1.0 / np.sqrt(1.0 + float(np.max(spread)) ** 2 * most / 4.0)
    number = int(np.ceil(2.0 * _REACH / (0.96 * width))) + 1
    z = np.linspace(-_REACH, _REACH, number)
    node = np.exp(-0.5 * z**2)
    rates = special.expit(_half_patient(draws)[:, None] + spread[:, None] * z)
    return rates, draws.weights()[:, None] * node / node.sum()


def trial_above(draws: RateDraws, rate: float) -> float:
    """P(the rate of a trial exceeds `rate`)."""
    distance = _half_patient(draws) - special.logit(rate)
    spread = np.asarray(draws.between_trials, float)
    # without a spread a trial's rate is the population's, which is not above itself
    z = np.divide(distance, spread, out=np.where(distance > 0.0, np.inf, -np.inf), where=spread > 0.0)
    return float(draws.weights() @ special.ndtr(z))


def num_responders(draws: RateDraws, most: int) -> Responders:
    """Distribution of the number of responders among n patients of one trial, [n + 1], for n from 0 to `most`."""
    rates, weights = (array.ravel() for array in trial_rates(draws, most))
    x = np.arange(most + 1)
    orders = special.gammaln(most + 1) - special.gammaln(x + 1) - special.gammaln(most - x + 1)
    mixture = np.zeros(most + 1)
    # a slice at a time: the whole would be D x N x most
    for piece in np.array_split(np.arange(rates.size), max(1, rates.size * (most + 1) // 4_000_000)):
        rate = rates[piece, None]
        mixture += weights[piece] @ np.exp(orders + x * special.logit(rate) + most * np.log1p(-rate))
    known = {most: mixture}
    for n in range(most, 0, -1):
        pmf, y = known[n], np.arange(n)
        known[n - 1] = pmf[:-1] * (n - y) / n + pmf[1:] * (y + 1) / n
    return known.__getitem__


class Assurance(NamedTuple):
    """What a design is expected to do, given what a run believes; `error` is that of a finite number of draws, 1 SD."""

    success: float
    error: float
    expected_patients: float
    stop_early: float


def assurance(design: SingleArm, draws: RateDraws, responders: Responders | None = None) -> Assurance:
    """Probability of success of a single-arm design, its expected patients and probability of an early end.

    `responders` is what `num_responders` returns for these draws, where the caller has it.
    """
    found = outcome(design, responders or num_responders(draws, design.num_patients))
    success = float(found.success)
    grid = np.linspace(0.0, 1.0, 501)
    rates, weights = trial_rates(draws, design.num_patients)
    # how success varies between draws needs no more than an interpolation
    by_rate = np.interp(rates, grid, operating_characteristics(design, grid).success)
    return Assurance(success, _error(by_rate, weights), float(found.expected_patients), float(found.stop_early))


def _error(value: np.ndarray, weights: np.ndarray) -> float:
    """Standard error of a weighted mean over draws, of values and weights [D, N] at the nodes of each draw."""
    of_draw, mean = weights.sum(axis=1), float((value * weights).sum())
    return float(np.sqrt(np.sum(((value * weights).sum(axis=1) - of_draw * mean) ** 2)))


def two_arm_assurance(design: TwoArm, treated: RateDraws, control: RateDraws) -> Assurance:
    """Probability that a randomised trial shows the treated arm to respond more.

    Draws of the two arms belong together (the same virtual patients), and so do the deviations of the trial: its
    patients and readers are common to both arms. They must have the same `between_trials`.

    Raises
    ------
    InputError
        Where the arms do not have the same draws.
    """
    if len(treated.rate) != len(control.rate):
        raise InputError(f"{len(treated.rate)} draws of one arm and {len(control.rate)} of the other", key="against")
    size = design.num_treated + design.num_control
    (p1, weights), (p0, _) = trial_rates(treated, size), trial_rates(control, size)
    rejects = power(design, p1, p0)
    return Assurance(float((rejects * weights).sum()), _error(rejects, weights), float(size), 0.0)


# ------------------------------------------------------------------------------------------------ go, think, no-go


class Decision(NamedTuple):
    """Go, think or no-go after one look: no-go at `no_go` responders or fewer, go at `go` or more."""

    num_patients: int
    no_go: int
    go: int


def decision_rule(
    num_patients: int,
    lower: float,
    target: float,
    *,
    confidence: float = 0.95,
    relevance: float = 0.5,
    prior: BetaPrior | None = None,
) -> Decision:
    """Two thresholds: a rate to be beaten for certain, and one to be likely. Go where both are, think where one is.

    ``P(p > lower | x) >= confidence`` and ``P(p > target | x) >= relevance``: the dual-criterion design of
    Roychoudhury S, Scheuer N, Neuenschwander B. Clin Trials 2018;15:452-461.

    Parameters
    ----------
    num_patients
        Patients of the trial.
    lower, target
        Rate of no interest, and rate that would matter.
    confidence, relevance
        Limits of the two probabilities.
    prior
        Default: one patient's worth at `lower`.

    Raises
    ------
    InputError
        Where rates are out of range.
    """
    check_rates(lower, target)
    prior = one_patient_prior(lower) if prior is None else prior
    needed = [
        responders_needed(num_patients, lower, confidence, prior),
        responders_needed(num_patients, target, relevance, prior),
    ]
    return Decision(num_patients, min(needed) - 1, max(needed))


def decision_probabilities(rule: Decision, responders: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(go), P(think), P(no-go) of distributions of the number of responders [..., num_patients + 1]."""
    x = np.arange(rule.num_patients + 1)
    go, no_go = responders @ (x >= rule.go), responders @ (x <= rule.no_go)
    return go, responders @ ((x > rule.no_go) & (x < rule.go)), no_go


# ------------------------------------------------------------------------------------------------ sample size


class SampleSize(NamedTuple):
    """One-stage trials of every size: what is asked for, and what no size can exceed.

    Attributes
    ----------
    num_patients : int or None
        The smallest size with the assurance asked for; None where no size up to the largest looked at has it.
    largest : float
        The largest assurance of all sizes looked at.
    limit : float
        P(trial rate > p0): what assurance goes to as the trial grows.
    """

    num_patients: int | None
    largest: float
    limit: float


def sample_size(
    draws: RateDraws, p0: float, alpha: float, wanted: float, most: int = 200, responders: Responders | None = None
) -> SampleSize:
    """The smallest exact one-stage test of p0 at `alpha` whose assurance is at least `wanted`, of 1 to `most` patients.

    `responders` is what `num_responders` returns for these draws and `most`, where the caller has it.

    Raises
    ------
    InputError
        Where a probability is out of range.
    """
    if not 0.0 < wanted < 1.0:
        raise InputError(f"must lie between 0 and 1, found {wanted:g}", key="assurance")
    responders = responders or num_responders(draws, most)
    success = np.array([responders(n)[one_stage_of(n, p0, alpha).success[0] :].sum() for n in range(1, most + 1)])
    enough = np.flatnonzero(success >= wanted)
    size = int(enough[0]) + 1 if len(enough) else None
    return SampleSize(size, float(success.max()), trial_above(draws, p0))
