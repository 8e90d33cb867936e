"""Combination index and synergy score over days, from posterior draws of the growth curves of the arms of one study.

With ``x_a(t)`` the mean ln volume of arm a on day t relative to day 0, of a combination of N drugs, its drugs d alone
and the control,

    reference                           what the combination would do                   ln CI(t)
    bliss  independence                 sum_d x_d - (N - 1) x_control                   x_combination - that
    hsa    highest single agent         x of the drug that slows growth most            x_combination - that
    ra     response additivity          sum_d exp(x_d) - (N - 1) exp(x_control)         ln of a ratio of areas below

CI < 1 is synergy, 1 the reference, > 1 antagonism. Under exponential growth ``x_a(t) = beta_a t`` and CI is
``exp((beta_combination - reference) t)``: the definitions of SynergyLMM (Romero-Becerra et al., Nat Commun 2025,
doi 10.1038/s41467-025-65218-9; R package 1.1.1, lmmSynergy), after Demidenko and Miller (PLoS ONE 2019;14:e0224137).
There as here:

- the single agent of ``hsa`` is the one with the lowest estimate over the whole study, one for all days and draws;
- ``ra`` compares areas under relative volumes from day 0 to day t; an expected area below 0 counts as 0, and a ratio
  that is then infinite as 100 (here every ratio above 100 does, so that nothing finite lies beyond the infinite);
- the synergy score is minus the estimate over its standard error: how many posterior SDs of the difference (of ln CI;
  for ``ra`` of the areas) the combination lies on the side of synergy.

invivoSyn (Mao, Guo, Cancer Res Commun 2023;3:2146) has the same CI for ``bliss`` and ``hsa``; its own synergy score is
the `excess`, ``100 (S_expected - S_combination)`` with ``S_a(t) = exp(x_a(t) - x_control(t))`` the share of the
control's volume that is left, in points.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy.integrate import cumulative_simpson

Reference = Literal["bliss", "hsa", "ra"]
REFERENCES: tuple[Reference, ...] = ("bliss", "hsa", "ra")
#: what SynergyLMM puts in the place of an infinite ratio of areas; the largest ratio here
LARGEST_INDEX = 100.0


class StudyCurves(NamedTuple):
    """Posterior draws of the mean ln volume, relative to day 0, of the arms of one study.

    Attributes
    ----------
    day : array [T]
        Days since the start of treatment, increasing, the first of them 0; close enough for Simpson's rule.
    control, combination : array [D, T]
        Of D draws.
    singles : array [D, N, T]
        Of the N drugs of the combination, each alone.
    """

    day: np.ndarray
    control: np.ndarray
    singles: np.ndarray
    combination: np.ndarray


class Index(NamedTuple):
    """Combination index, and what it is made of, against one reference; draws [D, T].

    Attributes
    ----------
    ratio : array
        The combination index.
    difference : array
        What the synergy score is about: ln CI, or for ``ra`` the area less the expected one, in days.
    """

    ratio: np.ndarray
    difference: np.ndarray


class Summary(NamedTuple):
    """Posterior of the combination index and the scores, each [T]; intervals are equal-tailed, medians the centre.

    Attributes
    ----------
    ratio, ratio_low, ratio_high : array
        Combination index.
    ln_ratio_sd : array
        Posterior SD of its ln.
    score, score_low, score_high : array
        Synergy score of SynergyLMM, in posterior SDs; NaN on day 0, where nothing has happened.
    synergy : array
        Posterior probability that CI < 1.
    """

    ratio: np.ndarray
    ratio_low: np.ndarray
    ratio_high: np.ndarray
    ln_ratio_sd: np.ndarray
    score: np.ndarray
    score_low: np.ndarray
    score_high: np.ndarray
    synergy: np.ndarray


def best_single(curves: StudyCurves) -> int:
    """Which single agent slows growth most: the lowest posterior mean of x on the last day."""
    return int(np.argmin(curves.singles[:, :, -1].mean(axis=0)))


def combination_index(curves: StudyCurves, reference: Reference) -> Index:
    """Combination index of every draw on every day, [D, T].

    Raises
    ------
    ValueError
        No such reference.
    """
    others = curves.singles.shape[1] - 1
    if reference == "ra":
        singles, control = np.exp(curves.singles).sum(axis=1), np.exp(curves.control)
        expected = np.maximum(_area(singles - others * control, curves.day), 0.0)
        area = _area(np.exp(curves.combination), curves.day)
        # on day 0 both areas are empty, and their ratio tends to 1
        nothing = np.broadcast_to(curves.day == 0.0, area.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(expected > 0.0, np.minimum(area / expected, LARGEST_INDEX), LARGEST_INDEX)
        return Index(np.where(nothing, 1.0, ratio), area - expected)
    if reference == "bliss":
        expected = curves.singles.sum(axis=1) - others * curves.control
    elif reference == "hsa":
        expected = curves.singles[:, best_single(curves)]
    else:
        raise ValueError(f"must be one of {', '.join(REFERENCES)}, found {reference!r}")
    difference = curves.combination - expected
    return Index(np.exp(difference), difference)


def excess(curves: StudyCurves, reference: Literal["bliss", "hsa"]) -> np.ndarray:
    """Synergy score of invivoSyn, draws [D, T]: points of the control's volume removed beyond the reference."""
    survival = np.exp(curves.combination - curves.control)
    return 100.0 * survival * np.expm1(-combination_index(curves, reference).difference)


def summarise_index(draws: Index, level: float) -> Summary:
    """Median and equal-tailed interval of `level` of the index and the synergy score, and P(CI < 1).

    Where draws do not differ, on day 0, the score is NaN.
    """
    tails = [0.5 - level / 2.0, 0.5, 0.5 + level / 2.0]
    low, middle, high = np.quantile(draws.ratio, tails, axis=0)
    spread = draws.difference.std(axis=0, ddof=1)
    spread = np.where(spread > 0.0, spread, np.nan)
    below, centre, above = np.quantile(draws.difference, tails, axis=0)
    return Summary(
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        ln_ratio_sd=np.log(draws.ratio).std(axis=0, ddof=1),
        score=-centre / spread,
        score_low=-above / spread,
        score_high=-below / spread,
        synergy=(draws.ratio < 1.0).mean(axis=0),
    )


def _area(values: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Area [D, T] below `values` from the first day to each day."""
    return cumulative_simpson(values, x=day, axis=-1, initial=0.0)
