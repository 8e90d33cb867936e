"""Published medians of progression free survival and time to response: their likelihood, and what is predicted of them.

A trial that publishes a median t of N patients says that half of them, give or take, were free of progression on day t.
With S the share of the simulated patients of a draw who are, the trial's own share s is about

    logit s ~ Normal(logit S(t), 4 / N + tau^2)        and the published one is        s(t) = 1/2, logit s(t) = 0

The sampling variance of a Kaplan-Meier curve before anybody is censored is S (1 - S) / N, on the logit
1 / (N S (1 - S)), which is 4 / N at one half; tau is the SD between trials, `translation.between_trials`, as on the
logit of a response rate, with a deviation of its own for every endpoint. So the log likelihood is the log density of
that normal at 0, the day t taken as given, and the median M that a trial of that size would publish is distributed as

    P(M <= t) = P(s(t) <= 1/2) = Phi(-logit S(t) / sqrt(4 / N + tau^2))

averaged over draws. Where an interval of the median is published and wider than N patients explain, its variance takes
the place of 4 / N: an exponential curve has d logit S / d ln t = -2 ln 2 at its median. The time to response is the
same with the share of the responders who have not responded yet, and responders in place of patients.

The simulated share is a count of finitely many patients. Its logit has mean psi(k + 1/2) - psi(n - k + 1/2) and
variance psi'(k + 1/2) + psi'(n - k + 1/2) for k of n under the prior of Jeffreys (psi the digamma function), and the
variance is added: a draw with few responders says little of their times, one without any next to nothing.

Simulated visits are 56 days apart, those of trials 42 to 63, and few fall on their day: between visits the curve is a
straight line.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, polygamma, psi

DAYS_PER_MONTH = 365.25 / 12.0
# 97.5th percentile of the standard normal
_Z = 1.959963984540054


class Curve(NamedTuple):
    """Who has not had the event yet, in every draw."""

    free: np.ndarray  # [D, V + 1], shares on day 0 and at the visits, 1 on day 0
    number: np.ndarray  # [D], simulated patients behind the shares; of a time to response the responders


def share_on(curve: Curve, days: np.ndarray, day: float) -> np.ndarray:
    """Share without the event on a day between the first and the last of `days`, [D], by a straight line.

    Parameters
    ----------
    curve
        Of every draw.
    days
        [V + 1], day 0 and the visits.
    day
        Up to the last visit.
    """
    after = min(max(int(np.searchsorted(days, day)), 1), len(days) - 1)
    part = (day - days[after - 1]) / (days[after] - days[after - 1])
    return curve.free[:, after - 1] * (1.0 - part) + curve.free[:, after] * part


def sampling_variance(patients: int, interval: tuple[float, float] | None = None) -> float:
    """Variance of the logit of the share without the event at a published median.

    Parameters
    ----------
    patients
        Patients, of a time to response responders; at least 1.
    interval
        Published 95 % interval of the median, in any unit of time.
    """
    counted = 4.0 / patients
    if interval is None:
        return counted
    return max(counted, (2.0 * math.log(2.0) * math.log(interval[1] / interval[0]) / (2.0 * _Z)) ** 2)


def deviation(share: np.ndarray, number: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the logit of a simulated share, and the SD of what a trial shows of it."""
    have = share * number + 0.5
    lack = (1.0 - share) * number + 0.5
    return psi(have) - psi(lack), np.sqrt(polygamma(1, have) + polygamma(1, lack) + variance)


def log_likelihood(
    curve: Curve, days: np.ndarray, median: float, between_trials: np.ndarray, variance: float
) -> np.ndarray:
    """Log likelihood [D] of a published median.

    Parameters
    ----------
    curve, days
        See :func:`share_on`.
    median
        Days, not after the last visit.
    between_trials
        SD of the deviation of a trial on the logit, [D].
    variance
        From :func:`sampling_variance`.
    """
    mean, sd = deviation(share_on(curve, days, median), curve.number, variance + between_trials**2)
    return -0.5 * (mean / sd) ** 2 - np.log(sd) - 0.5 * math.log(2.0 * math.pi)


class Predicted(NamedTuple):
    """The median that a trial would publish; days, infinite where it may lie beyond the last visit."""

    q05: float
    q50: float
    q95: float
    probability: float  # of a median up to the published one; of one up to the last visit where that is later
    inside: bool  # whether the published one lies in the 90 % interval


def predicted(
    curve: Curve, days: np.ndarray, median: float, between_trials: np.ndarray, variance: float, weight: np.ndarray
) -> Predicted:
    """Distribution of the median of one trial over weighted draws, and where the published one lies in it.

    Parameters
    ----------
    curve, days, between_trials, variance
        As in :func:`log_likelihood`.
    median
        Published, days. One later than the last visit is inside if the interval has no end before that.
    weight
        Of the draws, [D], summing to 1.
    """
    last = float(days[-1])

    def below(day: float) -> float:
        mean, sd = deviation(share_on(curve, days, day), curve.number, variance + between_trials**2)
        return float(weight @ ndtr(-mean / sd))

    first, end = below(0.0), below(last)

    def quantile(level: float) -> float:
        if first >= level:  # draws without a responder, whose times nothing is known of
            return 0.0
        if end < level:
            return math.inf
        return float(brentq(lambda day: below(day) - level, 0.0, last, xtol=0.01))  # pyright: ignore[reportArgumentType]

    low, middle, high = (quantile(level) for level in (0.05, 0.5, 0.95))
    probability = below(min(median, last))
    inside = probability <= 0.95 and (probability >= 0.05 or median > last)
    return Predicted(low, middle, high, probability, inside)
