"""What published trials say about the translation: weights of one simulation of all arms.

The joint draws of preclinical posterior and translation prior are simulated once; what is learnt from trials are
weights of these draws. A plain product of the likelihoods of thirty arms would leave one draw standing, because every
drug brings a discrepancy of its own. The model is a tree, though: what all classes have in common -> class -> drug ->
drug in a tumour type -> trials. Given the drug, its trials in another tumour type say nothing more about this one, and
given the class the trials of another drug do not. So for a drug d of class c in tumour type t the weight is

    w(draw) = prod over trials of d in t        of L(draw)                         the drug's own: exact
            x prod over other tumour types of d of E[prod of their L | S_d, lambda_c]
            x prod over other drugs of c        of E[prod over their types | S_c, lambda_c]
            x prod over other classes c'        of E[prod over their drugs | common]

with the conditional expectations over all that is below (discrepancies, exposures, mice), estimated over the same draws
by a kernel regression (Nadaraya and Watson) on the two logarithms in the condition. Of a combination, the drugs and
classes are multiplied. Its bandwidth is Scott's rule, D^(-1/6) standard deviations in two dimensions; nothing is tuned.
L is the likelihood of what a trial published: its responders alone, or with them the medians of progression free
survival and time to response (:mod:`vtrial.medians`). These hang on more than the condition, on growth, new lesions and
leaving the study, which drugs share within a tumour type; that part of what they say stays with the drug's own trials.
Draws of mice are weighted along with the translation, so this is the full posterior, not a cut one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vtrial.diagnostics import pareto_smoothed
from vtrial.translation import TranslationTerms

#: Pareto k above which an importance sample is not trusted (Vehtari 2024, JMLR 25:72)
KHAT_LIMIT = 0.7
# of the power that a likelihood is raised to
_STEP = 0.1


class Teacher(NamedTuple):
    """A published arm of one drug, with the likelihood of what it published in every draw."""

    id: int
    drug: str
    drug_class: str
    tumour_type: str
    log_likelihood: Mapping[str, np.ndarray]  # endpoint -> [D]; what is not published, or from memory, is not there

    def of(self, endpoints: Collection[str]) -> np.ndarray:
        """Log likelihood of some of the endpoints together, independent given the draw, [D]."""
        return np.sum([value for name, value in self.log_likelihood.items() if name in endpoints], axis=0)


class Weights(NamedTuple):
    """Weights of the draws, and how far they can be trusted."""

    weight: np.ndarray  # [D], sums to 1
    khat: float  # of the tail; NaN where nothing was learnt
    ess: float  # 1 / sum of squares
    power: float  # to which the likelihood was raised so that k-hat stays below the limit; 1 = all of it
    teachers: int  # arms learnt from


class Smoother:
    """Conditional expectation over draws given two quantities of each draw."""

    def __init__(self, given: TranslationTerms):
        x = np.stack([np.asarray(given.ln_kill_scale), np.asarray(given.ln_loss_of_effect)], axis=1)
        spread = x.std(axis=0)
        # a quantity fixed by the priors is no condition
        x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        bandwidth = len(x) ** (-1.0 / 6.0)
        square = (x**2).sum(1)
        distance = np.maximum(square[:, None] + square[None, :] - 2.0 * x @ x.T, 0.0)
        kernel = np.exp(-0.5 * distance / bandwidth**2)
        self._kernel = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)

    def log_mean(self, log_values: np.ndarray) -> np.ndarray:
        """``ln E[exp(log_values) | condition]`` at the condition of every draw, [D]."""
        top = log_values.max()
        # what underflows is 38 orders of magnitude below the best draw
        mean = self._kernel @ np.exp(log_values - top).astype(np.float32)
        return np.log(np.maximum(mean, np.finfo(np.float32).tiny)).astype(np.float64) + top


class Calibration:
    """All that the trials of single drugs say, for any drug and with any trials left out."""

    def __init__(
        self,
        teachers: Sequence[Teacher],
        drugs: Mapping[str, TranslationTerms],
        classes: Mapping[str, TranslationTerms],
        common: TranslationTerms,
    ):
        """Set up the tree.

        Parameters
        ----------
        teachers
            Published arms of one drug each.
        drugs, classes, common
            The two quantities of every drug, of every class, and of what these have in common, in the same draws.
        """
        self._teachers = tuple(teachers)
        taught, used = {t.drug_class for t in teachers}, {t.drug for t in teachers}
        self._drug = {name: Smoother(terms) for name, terms in drugs.items() if name in used}
        self._class = {name: Smoother(terms) for name, terms in classes.items() if name in taught}
        self._common = Smoother(common)
        self._size = len(common.ln_kill_scale)
        self._kept: dict[tuple, np.ndarray] = {}

    def _own(self, drug: str, tumour_type: str, seen: Sequence[Teacher], endpoints: Sequence[str]) -> np.ndarray:
        """Log likelihood of the trials of a drug in a tumour type, 0 where there is none."""
        terms = [t.of(endpoints) for t in seen if (t.drug, t.tumour_type) == (drug, tumour_type)]
        return np.sum([np.zeros(self._size), *terms], axis=0)

    def _from_types(self, drug: str, but: str | None, seen: Sequence[Teacher], endpoints: Sequence[str]) -> np.ndarray:
        """What the trials of a drug in all tumour types `but` one say about the drug."""
        total = np.zeros(self._size)
        for kind in sorted({t.tumour_type for t in seen if t.drug == drug} - {but}):
            key = (endpoints, drug, kind, *(t.id for t in seen if (t.drug, t.tumour_type) == (drug, kind)))
            if key not in self._kept:
                self._kept[key] = self._drug[drug].log_mean(self._own(drug, kind, seen, endpoints))
            total = total + self._kept[key]
        return total

    def _from_drug(self, drug: str, drug_class: str, seen: Sequence[Teacher], endpoints: Sequence[str]) -> np.ndarray:
        """What the trials of a drug say about its class."""
        key = (endpoints, drug, *(t.id for t in seen if t.drug == drug))
        if key not in self._kept:
            self._kept[key] = self._class[drug_class].log_mean(self._from_types(drug, None, seen, endpoints))
        return self._kept[key]

    def log_weights(
        self, drugs: Mapping[str, str], tumour_type: str, left_out: Collection[int], endpoints: Sequence[str] = ("orr",)
    ) -> tuple[np.ndarray, int]:
        """Log weights [D] for an arm of these drugs (drug -> class), and the number of arms learnt from.

        `left_out` are ids of arms that must not be seen, with all of their endpoints: those of the trial that is
        predicted, and all that overlap. `endpoints` are those that the others teach with.
        """
        hidden, endpoints = frozenset(left_out), tuple(endpoints)
        seen = [t for t in self._teachers if t.id not in hidden and set(endpoints) & set(t.log_likelihood)]
        total = np.zeros(self._size)
        for drug in drugs:
            total = total + self._own(drug, tumour_type, seen, endpoints)
            total = total + self._from_types(drug, tumour_type, seen, endpoints)
        for name in sorted({t.drug_class for t in seen}):
            others = sorted({t.drug for t in seen if t.drug_class == name and t.drug not in drugs})
            if not others:
                continue
            from_class = np.sum([self._from_drug(drug, name, seen, endpoints) for drug in others], axis=0)
            total = total + (from_class if name in drugs.values() else self._common.log_mean(from_class))
        return total, len(seen)

    def weights(
        self, drugs: Mapping[str, str], tumour_type: str, left_out: Collection[int], endpoints: Sequence[str] = ("orr",)
    ) -> Weights:
        """Pareto-smoothed weights; a likelihood whose k-hat is above the limit is raised to a power below 1.

        A power of the likelihood is a weaker use of the trials: the prediction is wider, and says so.
        """
        log_weights, number = self.log_weights(drugs, tumour_type, left_out, endpoints)
        if not number or np.ptp(log_weights) == 0.0:
            return Weights(np.full(self._size, 1.0 / self._size), np.nan, float(self._size), 1.0, number)
        power = 1.0
        smoothed, khat = pareto_smoothed(log_weights)
        # not (khat <= limit): NaN is no pass
        while not khat <= KHAT_LIMIT and power > 0.0:
            power = round(power - _STEP, 6)
            smoothed, khat = pareto_smoothed(power * log_weights)
        weight = np.exp(smoothed - smoothed.max())
        weight /= weight.sum()
        return Weights(weight, khat, float(1.0 / np.sum(weight**2)), power, number)
