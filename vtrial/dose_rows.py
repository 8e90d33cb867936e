"""Doses of a table -> the rows that the model reads of them: of each mouse, and of each drug of a combination cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtrial.dataset import Dataset
from vtrial.dose_response import DoseResponse


class Dosed(NamedTuple):
    """Doses of mice and cells: which of the drugs at several doses, and ln(dose / its reference dose).

    Elsewhere the index is 0 and the logarithm too: the strength is 1, whatever the law.
    """

    drug: np.ndarray  # [num_single] index into `Labels.dosed_drug`
    ln_dose: np.ndarray  # [num_single]
    cell_drug: np.ndarray  # [C, D] of every drug of a combination cell
    cell_ln_dose: np.ndarray  # [C, D]
    reference: np.ndarray  # [dosed_drug] reference doses, in the units of the table


def dose_rows(
    dataset: Dataset,
    dose_response: DoseResponse,
    single: list[tuple[str, ...]],
    cells: list[str],
    width: int,
) -> Dosed:
    """Doses of the mice under one drug or none, and of the drugs of every combination cell."""
    reference = dose_response.reference
    place = {drug: i for i, drug in enumerate(sorted(reference))}

    def at(drug: str) -> tuple[int, float]:
        dose = dataset.doses.get(drug)
        if dose is None or dose.drug not in reference:
            return 0, 0.0
        return place[dose.drug], float(np.log(dose.amount / reference[dose.drug]))

    mice = [at(drugs[0]) if drugs else (0, 0.0) for drugs in single]
    cell = np.zeros((len(cells), width, 2))
    for c, arm in enumerate(cells):
        for j, drug in enumerate(dataset.arms[arm]):
            cell[c, j] = at(drug)
    return Dosed(
        np.array([i for i, _ in mice], np.int32),
        np.array([ln for _, ln in mice]),
        cell[..., 0].astype(np.int32),
        cell[..., 1],
        np.array([reference[drug] for drug in sorted(reference)]),
    )
