"""Exact single-arm trials with a binary endpoint: any looks, Simon's two stages, one stage, intervals of a rate.

Whatever its rule, a trial that decides by the number of responders at given looks is a :class:`SingleArm`. Given x
responders among n patients every order of them is equally likely, whatever the response rate p. So the probability
that a trial gets as far as look k with x responders is

    P(look k, x | p) = reach_k(x) binom(x; n_k, p)
    reach_k(x)       = sum_y going on at k-1  reach_{k-1}(y) hypergeom(y; n_k, x, n_{k-1})

where ``reach`` does not depend on p: it is worked out once, and every operating characteristic is a sum of binomials
with weights in [0, 1], exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from vtrial.errors import InputError

#: patients that a search may ask for; Simon's search takes about a minute at this size
MOST_PATIENTS = 400


class SingleArm(NamedTuple):
    """A single-arm trial that decides by the number of responders at each look.

    Attributes
    ----------
    looks : tuple of int
        Patients whose response is known at each look, increasing; the last is the size of the trial.
    futility : tuple of int
        The trial stops without success at this many responders or fewer; -1: it does not.
    success : tuple of int
        The trial stops with success at this many responders or more; patients + 1: it does not.
    """

    looks: tuple[int, ...]
    futility: tuple[int, ...]
    success: tuple[int, ...]

    @property
    def num_patients(self) -> int:
        """Size of the trial that goes to its end."""
        return self.looks[-1]


class Operating(NamedTuple):
    """What a design does at response rates of any shape [...].

    Attributes
    ----------
    success : ndarray [...]
        Probability that the trial ends with success.
    expected_patients : ndarray [...]
        Mean number of patients.
    stop_early : ndarray [...]
        Probability that the trial ends before its last look.
    """

    success: np.ndarray
    expected_patients: np.ndarray
    stop_early: np.ndarray


def single_arm(looks: Sequence[int], futility: Sequence[int], success: Sequence[int] | int) -> SingleArm:
    """A checked design; one number for `success` is the number of responders needed at the end, with no success before.

    Raises
    ------
    InputError
        Where looks do not increase or a boundary leaves the last look undecided.
    """
    looks = tuple(int(n) for n in looks)
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        raise InputError(f"must increase from 1 or more, found {list(looks)}", key="looks")
    if isinstance(success, int | np.integer):
        success = (*(n + 1 for n in looks[:-1]), int(success))
    success = tuple(int(s) for s in success)
    futility = tuple(int(r) for r in futility)
    if len(futility) == len(looks) - 1:
        futility = (*futility, success[-1] - 1)
    if len(futility) != len(looks) or len(success) != len(looks):
        raise InputError(f"{len(looks)} looks need as many boundaries, found {futility} and {success}", key="looks")
    for n, low, high in zip(looks, futility, success, strict=True):
        if not -1 <= low < high <= n + 1:
            raise InputError(f"stop at {low} or fewer and at {high} or more of {n} cannot both be", key="looks")
    if success[-1] != futility[-1] + 1:
        raise InputError(f"the last look leaves {futility[-1] + 1} to {success[-1] - 1} undecided", key="looks")
    return SingleArm(looks, futility, success)


def reach(design: SingleArm) -> list[np.ndarray]:
    """P(a trial gets as far as look k | x responders there), [looks_k + 1] for every look; no response rate in it."""
    shares = [np.ones(design.looks[0] + 1)]
    for k in range(1, len(design.looks)):
        before, now = design.looks[k - 1], design.looks[k]
        going_on = slice(design.futility[k - 1] + 1, design.success[k - 1])
        shares.append(_orders(before, now)[:, going_on] @ shares[-1][going_on])
    return shares


@lru_cache(maxsize=512)
def _orders(before: int, now: int) -> np.ndarray:
    """P(y responders among the first `before` patients | x among `now`), [x, y]."""
    return stats.hypergeom.pmf(np.arange(before + 1)[None, :], now, np.arange(now + 1)[:, None], before)


def outcome(design: SingleArm, responders: Callable[[int], np.ndarray]) -> Operating:
    """What a design does to exchangeable patients.

    Parameters
    ----------
    design
        Looks and boundaries.
    responders
        Patients n -> distribution of the number of responders among them, [..., n + 1]: binomial at a known response
        rate, a mixture of binomials where the rate is not known.
    """
    success = patients = early = ended = np.zeros(())
    for k, (n, share) in enumerate(zip(design.looks, reach(design), strict=True)):
        x, pmf = np.arange(n + 1), responders(n)
        wins = x >= design.success[k]
        success = success + pmf @ np.where(wins, share, 0.0)
        stopped = pmf @ np.where(wins | (x <= design.futility[k]), share, 0.0)
        patients = patients + n * stopped
        early, ended = ended, ended + stopped
    return Operating(success, patients, np.broadcast_to(early, np.shape(success)))


def operating_characteristics(design: SingleArm, rates: np.ndarray | Sequence[float] | float) -> Operating:
    """Exact probability of success, expected patients and probability of an early end at response rates [...]."""
    rates = np.asarray(rates, float)
    return outcome(design, lambda n: stats.binom.pmf(np.arange(n + 1), n, rates[..., None]))


# ------------------------------------------------------------------------------------------------ searches


def check_rates(p0: float, p1: float, alpha: float | None = None, beta: float | None = None) -> None:
    """Refuse hypotheses that no design can tell apart.

    Raises
    ------
    InputError
        Naming the number that is out of range.
    """
    if not 0.0 < p0 < 1.0:
        raise InputError(f"must lie between 0 and 1, found {p0:g}", key="p0")
    if not p0 < p1 < 1.0:
        raise InputError(f"must lie between p0 ({p0:g}) and 1, found {p1:g}", key="p1")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if value is not None and not 0.0 < value < 0.5:
            raise InputError(f"must lie between 0 and 0.5, found {value:g}", key=name)


def one_stage_of(num_patients: int, p0: float, alpha: float) -> SingleArm:
    """The trial of a given size that succeeds at the fewest responders with a type I error of at most `alpha`."""
    needed = int(stats.binom.isf(alpha, num_patients, p0)) + 1
    # isf is discrete: step to the exact place
    while needed > 0 and stats.binom.sf(needed - 2, num_patients, p0) <= alpha:
        needed -= 1
    while stats.binom.sf(needed - 1, num_patients, p0) > alpha:
        needed += 1
    return single_arm([num_patients], [], needed)


def one_stage(p0: float, p1: float, alpha: float, beta: float, most: int = MOST_PATIENTS) -> SingleArm:
    """The smallest one-stage trial by exact binomial probabilities.

    Fleming's single-stage plan with the binomial in the place of its normal approximation: A'Hern RP. Stat Med
    2001;20:859-866.

    Raises
    ------
    InputError
        Where rates are out of range, or no trial of up to `most` patients does.
    """
    check_rates(p0, p1, alpha, beta)
    for num_patients in range(1, most + 1):
        design = one_stage_of(num_patients, p0, alpha)
        if stats.binom.sf(design.success[0] - 1, num_patients, p1) >= 1.0 - beta:
            return design
    raise InputError(f"no trial of up to {most} patients tells {p0:g} from {p1:g} so surely", key="p1")


def fleming(p0: float, p1: float, alpha: float, beta: float) -> SingleArm:
    """Fleming's one-stage plan by the normal approximation; its true errors are those of `operating_characteristics`.

    Fleming TR. Biometrics 1982;38:143-151, one stage.
    """
    check_rates(p0, p1, alpha, beta)
    z_alpha, z_beta = stats.norm.isf(alpha), stats.norm.isf(beta)
    root = (z_beta * np.sqrt(p1 * (1 - p1)) + z_alpha * np.sqrt(p0 * (1 - p0))) / (p1 - p0)
    num_patients = int(np.ceil(root**2))
    accept = round(num_patients * p0 + z_alpha * np.sqrt(num_patients * p0 * (1 - p0)))
    return single_arm([num_patients], [], min(accept + 1, num_patients + 1))


def simon(
    p0: float,
    p1: float,
    alpha: float,
    beta: float,
    criterion: Literal["optimal", "minimax"] = "optimal",
    most: int = MOST_PATIENTS,
) -> SingleArm:
    """Simon's two-stage design by exhaustive search.

    Parameters
    ----------
    p0, p1
        Response rate of no interest, and of interest.
    alpha, beta
        Largest P(success | p0) and largest P(no success | p1).
    criterion
        "optimal": fewest expected patients at p0; "minimax": fewest patients at most, then fewest expected.
    most
        Patients at most.

    Raises
    ------
    InputError
        Where rates are out of range, or no trial of up to `most` patients does.

    Notes
    -----
    Simon R. Control Clin Trials 1989;10:1-10. The search ends by a bound, not by a limit: with B the binomial
    distribution function, power needs ``B(r1; n1, p1) <= beta``, which limits r1 and so the chance of stopping at p0;
    once ``n1 + (1 - that) (n - n1)`` is no less than the best found for every n1, no larger n can be better.
    """
    check_rates(p0, p1, alpha, beta)
    # the most that a first stage of n1 may spend, and how likely it then stops a trial at p0
    first = np.arange(1, most)
    most_futile = [int(np.count_nonzero(stats.binom.cdf(np.arange(n + 1), n, p1) <= beta)) - 1 for n in first]
    stop = np.array([stats.binom.cdf(r, n, p0) for r, n in zip(most_futile, first, strict=True)])
    stop[np.array(most_futile) < 0] = 0.0
    best: tuple[float, SingleArm] | None = None
    for n in range(2, most + 1):
        bound = first[: n - 1] + (1.0 - stop[: n - 1]) * (n - first[: n - 1])
        limit = np.inf if best is None else best[0]
        if best is not None and (criterion == "minimax" or (bound >= limit).all()):
            break
        for n1 in range(1, n):
            if bound[n1 - 1] >= limit or most_futile[n1 - 1] < 0:
                continue
            found = _best_split(n1, n, most_futile[n1 - 1], p0, p1, alpha, beta)
            if found is not None and found[0] < limit:
                best, limit = found, found[0]
    if best is None:
        raise InputError(f"no two-stage trial of up to {most} patients tells {p0:g} from {p1:g} so surely", key="p1")
    return best[1]


@lru_cache(maxsize=4 * MOST_PATIENTS)
def _binomial(num_patients: int, p: float) -> tuple[np.ndarray, np.ndarray]:
    """P(X = x) and P(X > x) of a binomial number of responders, x from 0 to all."""
    x = np.arange(num_patients + 1)
    return stats.binom.pmf(x, num_patients, p), stats.binom.sf(x, num_patients, p)


def _best_split(
    n1: int, n: int, most_futile: int, p0: float, p1: float, alpha: float, beta: float
) -> tuple[float, SingleArm] | None:
    """The fewest expected patients at p0 of all boundaries of one split, and that design."""
    x, r = np.arange(n1 + 1), np.arange(n + 1)

    def success(p: float) -> np.ndarray:
        """P(more than r1 responders of n1, and more than r of n), [r1, r]."""
        # P(more than k of the second stage), 1 for every k below 0
        second = np.concatenate([np.ones(n1 + 1), _binomial(n - n1, p)[1], np.zeros(n1)])
        joint = _binomial(n1, p)[0][:, None] * second[(r[None, :] - x[:, None]) + n1 + 1]
        above = np.cumsum(joint[::-1], axis=0)[::-1]
        return above[1 : most_futile + 2]

    false, true = success(p0), success(p1)
    if not len(false):
        return None
    smallest = np.argmax(false <= alpha, axis=1)  # the last column is 0, so there always is one
    rows = np.arange(len(smallest))
    works = np.flatnonzero(true[rows, smallest] >= 1.0 - beta)
    if not len(works):
        return None
    expected = n1 + (1.0 - stats.binom.cdf(works, n1, p0)) * (n - n1)
    at = int(np.argmin(expected))
    r1 = int(works[at])
    return float(expected[at]), single_arm([n1, n], [r1], int(smallest[r1]) + 1)


# ------------------------------------------------------------------------------------------------ intervals


def response_interval(
    num_responders: int, num_patients: int, level: float = 0.95, method: Literal["exact", "wilson"] = "exact"
) -> tuple[float, float]:
    """Equal-tailed confidence interval of a response rate: Clopper-Pearson ("exact") or Wilson, by SciPy.

    Raises
    ------
    InputError
        Where there are no patients, or more responders than patients.
    """
    if num_patients < 1 or not 0 <= num_responders <= num_patients:
        raise InputError(f"{num_responders} of {num_patients} is no response rate", key="responders")
    interval = stats.binomtest(num_responders, num_patients).proportion_ci(level, method)
    return float(interval.low), float(interval.high)
