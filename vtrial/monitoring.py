"""Bayesian rules for a response rate p, as boundaries of an exact design: posterior probability, predictive, BOP2.

With a prior Beta(a, b) and x responders among n patients, P(p > p0 | x, n) is a tail of Beta(a + x, b + n - x). It
rises with x, so that every such rule is a number of responders at each look: a :class:`vtrial.design.SingleArm`, whose
operating characteristics are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from vtrial.design import SingleArm, check_rates, operating_characteristics, single_arm
from vtrial.errors import InputError

#: P(p > p0) below which the end of a trial is not called a success
LEAST_CONFIDENCE = 0.8


class BetaPrior(NamedTuple):
    """Beta(a, b) of a response rate; a + b is what it weighs in patients."""

    a: float
    b: float


def one_patient_prior(rate: float) -> BetaPrior:
    """The prior that weighs one patient and has a mean of `rate`: Beta(rate, 1 - rate)."""
    return BetaPrior(rate, 1.0 - rate)


def posterior_probability(num_responders, num_patients, rate: float, prior: BetaPrior) -> np.ndarray:
    """P(response rate > rate | responders of patients), elementwise."""
    x, n = np.asarray(num_responders), np.asarray(num_patients)
    return np.asarray(stats.beta.sf(rate, prior.a + x, prior.b + n - x))


def predictive_probability(num_responders, num_patients, size: int, needed: int, prior: BetaPrior) -> np.ndarray:
    """P(at least `needed` responders among all `size` patients | responders of patients so far), elementwise.

    The responders to come are beta-binomial: the posterior predictive of size - n more patients.
    """
    x, n = np.asarray(num_responders), np.asarray(num_patients)
    return np.asarray(stats.betabinom.sf(needed - x - 1, size - n, prior.a + x, prior.b + n - x))


def _at_most(condition: np.ndarray) -> int:
    """The largest x up to which a condition, once false never true again, holds; -1 where it does not."""
    return int(np.count_nonzero(condition)) - 1


def responders_needed(num_patients: int, p0: float, confidence: float, prior: BetaPrior) -> int:
    """Fewest responders x with ``P(p > p0 | x) >= confidence``; patients + 1 where there are none."""
    return _at_most(posterior_probability(np.arange(num_patients + 1), num_patients, p0, prior) < confidence) + 1


def posterior_rule(
    looks: Sequence[int],
    p0: float,
    p1: float,
    confidence: float,
    *,
    futility: float = 0.05,
    efficacy: float | None = None,
    prior: BetaPrior | None = None,
) -> SingleArm:
    """Stop for futility where ``P(p >= p1 | x) < futility``, for success where ``P(p > p0 | x) >= efficacy``.

    Parameters
    ----------
    looks
        Patients at each look.
    p0, p1
        Rate to beat, and rate hoped for.
    confidence
        P(p > p0) that is a success at the end.
    futility, efficacy
        Limits at the looks before the end; no early success where `efficacy` is None.
    prior
        Default: one patient's worth at p0.

    Notes
    -----
    Thall PF, Simon R. Biometrics 1994;50:337-349, with a fixed p0.
    """
    check_rates(p0, p1)
    _check_shares(confidence=confidence, futility=futility, efficacy=efficacy)
    prior = one_patient_prior(p0) if prior is None else prior
    low, high = [], []
    for n in looks[:-1]:
        x = np.arange(n + 1)
        low.append(_at_most(posterior_probability(x, n, p1, prior) < futility))
        high.append(n + 1 if efficacy is None else responders_needed(n, p0, efficacy, prior))
    return _with_end(looks, low, high, responders_needed(looks[-1], p0, confidence, prior))


def predictive_rule(
    looks: Sequence[int],
    p0: float,
    confidence: float,
    *,
    futility: float = 0.05,
    efficacy: float | None = None,
    prior: BetaPrior | None = None,
) -> SingleArm:
    """Stop for futility where the predictive probability of success at the end is below `futility`, for success above.

    Success at the end is ``P(p > p0 | all data) >= confidence`` (theta_T); `futility` is theta_L and `efficacy` theta_U
    of Lee JJ, Liu DD. Clin Trials 2008;5:93-106, whose limits are strict: stop where PP < theta_L or PP > theta_U.

    Parameters are those of `posterior_rule`.
    """
    check_rates(p0, (1.0 + p0) / 2.0)
    _check_shares(confidence=confidence, futility=futility, efficacy=efficacy)
    prior = one_patient_prior(p0) if prior is None else prior
    size = looks[-1]
    needed = responders_needed(size, p0, confidence, prior)
    low, high = [], []
    for n in looks[:-1]:
        chance = predictive_probability(np.arange(n + 1), n, size, needed, prior)
        low.append(_at_most(chance < futility))
        high.append(n + 1 if efficacy is None else _at_most(chance <= efficacy) + 1)
    return _with_end(looks, low, high, needed)


def calibrated(
    rule: Callable[[float], SingleArm], size: int, p0: float, alpha: float, prior: BetaPrior | None = None
) -> tuple[SingleArm, float]:
    """A rule of the least confidence at the end, P(p > p0), with an exact type I error of at most `alpha`.

    No less than :data:`LEAST_CONFIDENCE`: early stops may keep alpha by themselves, but a success is to be believed.

    Parameters
    ----------
    rule
        Confidence -> design.
    size
        Patients at the end: only the confidences that some number of responders among them reaches differ.

    Raises
    ------
    InputError
        Where no confidence keeps the type I error.
    """
    prior = one_patient_prior(p0) if prior is None else prior
    for confidence in posterior_probability(np.arange(size + 1), size, p0, prior):
        if LEAST_CONFIDENCE <= confidence < 1.0:
            design = rule(float(confidence))
            if operating_characteristics(design, p0).success <= alpha:
                return design, float(confidence)
    raise InputError(f"no confidence at the end keeps a type I error of {alpha:g}", key="alpha")


class Bop2(NamedTuple):
    """An optimal BOP2 design: its boundaries, and the lambda and gamma of the rule that gave them."""

    design: SingleArm
    lambda_: float
    gamma: float


def bop2_boundaries(
    looks: Sequence[int], p0: float, lambda_: float, gamma: float, prior: BetaPrior | None = None
) -> SingleArm:
    """The BOP2 rule of given parameters: no success where ``P(p > p0 | x of n) < lambda (n / N)^gamma``, at any look.

    Zhou H, Lee JJ, Yuan Y. Stat Med 2017;36:3302-3314, binary efficacy; the prior weighs one patient at p0.
    """
    prior = one_patient_prior(p0) if prior is None else prior
    size = looks[-1]
    low = [responders_needed(n, p0, lambda_ * (n / size) ** gamma, prior) - 1 for n in looks]
    return _with_end(looks, low[:-1], [n + 1 for n in looks[:-1]], low[-1] + 1)


def bop2(looks: Sequence[int], p0: float, p1: float, alpha: float, prior: BetaPrior | None = None) -> Bop2:
    """The BOP2 design of the largest power at p1 with a type I error of at most `alpha`, by exact enumeration.

    lambda and gamma run over 0.01, 0.02, ... 0.99 and 0, 0.01, ... 1; of equal powers the fewest expected patients at
    p0 win. Each set of boundaries is worked out once.

    Raises
    ------
    InputError
        Where rates are out of range, or no rule keeps the type I error.
    """
    check_rates(p0, p1, alpha)
    prior = one_patient_prior(p0) if prior is None else prior
    single_arm(looks, [-1] * (len(looks) - 1), 1)
    size, sets = looks[-1], {}
    tails = [posterior_probability(np.arange(n + 1), n, p0, prior) for n in looks]
    lambdas, gammas = np.arange(1, 100) / 100.0, np.arange(101) / 100.0
    for share in lambdas:
        # tails rise with x: how many lie below each cutoff, for all gammas at once
        low = [np.searchsorted(tail, share * (n / size) ** gammas) - 1 for tail, n in zip(tails, looks, strict=True)]
        for gamma, bounds in zip(gammas, zip(*low, strict=True), strict=True):
            sets.setdefault(tuple(int(b) for b in bounds), (float(share), float(gamma)))
    best: tuple[tuple[float, float], Bop2] | None = None
    # a set that stops more often everywhere succeeds less often: no more than the last look decides alone
    for bounds, (share, gamma) in sets.items():
        design = _with_end(looks, list(bounds[:-1]), [n + 1 for n in looks[:-1]], bounds[-1] + 1)
        found = operating_characteristics(design, np.array([p0, p1]))
        if found.success[0] > alpha:
            continue
        rank = (-round(float(found.success[1]), 12), float(found.expected_patients[0]))
        if best is None or rank < best[0]:
            best = rank, Bop2(design, share, gamma)
    if best is None:
        raise InputError(f"no rule with looks at {list(looks)} keeps a type I error of {alpha:g}", key="alpha")
    return best[1]


def _with_end(looks: Sequence[int], low: Sequence[int], high: Sequence[int], needed: int) -> SingleArm:
    """A design of early boundaries and of the responders needed at the end."""
    return single_arm(looks, [*low, needed - 1], [*high, needed])


def _check_shares(**shares: float | None) -> None:
    for name, share in shares.items():
        if share is not None and not 0.0 < share < 1.0:
            raise InputError(f"must lie between 0 and 1, found {share:g}", key=name)
