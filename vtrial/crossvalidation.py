"""Leave a part of the mice out, fit the rest, predict what was left out, and score it: one fold after another."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import pandas as pd

from vtrial.dataset import Dataset
from vtrial.devices import Kind, device_for
from vtrial.errors import InputError
from vtrial.fitting import fit_stage
from vtrial.inputs import Inputs, marks
from vtrial.pair_scores import pair_scores, rule_scores
from vtrial.pairs import COLUMNS, PairPrediction, Rule, arm_table, observed_pairs, predict_pairs
from vtrial.progress import Progress
from vtrial.simulation import stopping_rule
from vtrial.store import RunFolder

LOG = logging.getLogger("vtrial")
Leave = Literal["combinations-by-type", "pdx-models"]


class Fold(NamedTuple):
    """One part left out: its name, the table without it, and the pairs of a PDX model and an arm to predict."""

    name: str
    dataset: Dataset
    pairs: pd.DataFrame


def folds_of(dataset: Dataset, leave: Leave, num_folds: int) -> Iterator[Fold]:
    """The folds of a table.

    Parameters
    ----------
    dataset
        Checked table.
    leave
        "combinations-by-type": the combination arms of one tumour type at a time, single agents and controls stay;
        "pdx-models": all mice of a part of the PDX models of every tumour type.
    num_folds
        Parts that the PDX models are dealt into (in the order of a hash of their names, the same on every machine).

    Raises
    ------
    InputError
        If there is nothing to leave out, or fewer PDX models than folds.
    """
    used = dataset.used
    treated = used[[len(dataset.arms[arm]) > 0 for arm in used["arm"]]]
    if leave == "combinations-by-type":
        combined = treated[[len(dataset.arms[arm]) > 1 for arm in treated["arm"]]]
        if combined.empty:
            raise InputError("holds no combination arm: there is nothing to leave out", file=dataset.path)
        for tumour_type, rows in combined.groupby("tumour_type", sort=True):
            yield _without(dataset, f"combinations-{tumour_type}", rows)
        return
    models = sorted(set(used["pdx_model"]), key=lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    kind = used.drop_duplicates("pdx_model").set_index("pdx_model")["tumour_type"]
    if not 2 <= num_folds <= len(models):
        raise InputError(f"--folds must lie between 2 and the number of PDX models, {len(models)}; found {num_folds}")
    dealt: dict[str, int] = {}
    for position, model in enumerate(sorted(models, key=lambda name: kind[name])):  # stable: by type, then by hash
        dealt[model] = position % num_folds
    for number in range(num_folds):
        left = used["pdx_model"].map(dealt) == number
        yield _without(dataset, f"pdx-models-{number + 1}", treated[left[treated.index]], used[left])


def _without(dataset: Dataset, name: str, predicted: pd.DataFrame, left: pd.DataFrame | None = None) -> Fold:
    table = dataset.table.copy()
    table.loc[(predicted if left is None else left).index, "exclude"] = f"left out: {name}"
    pairs = predicted[list(COLUMNS)].drop_duplicates().reset_index(drop=True)
    return Fold(name, dataclasses.replace(dataset, table=table), pairs)


def crossvalidation_stage(
    inputs: Inputs, folder: RunFolder, leave: Leave, num_folds: int, fit_device: Kind, device: Kind, progress: Progress
) -> list[dict]:
    """Fit and predict every fold; writes arms.csv, pairs.csv and scores.csv, and returns the fits' manifest entries.

    Of combinations left out rules.csv has the scores of the fitted rule beside those of the fixed ones, from the same
    fits.
    The fit of a fold lies in its own run folder below `folds/` and is used again when the same command is repeated.
    """
    folds = list(folds_of(inputs.dataset, leave, num_folds))
    rules = get_args(Rule) if leave == "combinations-by-type" else ("fitted",)
    predicted: dict[Rule, list[PairPrediction]] = {rule: [] for rule in rules}
    entries = []
    key, priors = jax.random.key(inputs.experiment.mice.seed), inputs.priors.with_drugs(inputs.drug_class)
    for number, fold in enumerate(folds):
        LOG.info("fold %d of %d: %s, %d pairs to predict", number + 1, len(folds), fold.name, len(fold.pairs))
        own = hashlib.sha256(f"{inputs.fit_key} without {fold.name} of {num_folds}".encode()).hexdigest()[:12]
        part = inputs._replace(dataset=fold.dataset, fit_key=own)
        home = RunFolder(folder.path / "folds" / fold.name)
        with home.lock():
            entries.append({"fold": fold.name, **fit_stage(part, home, fit_device, progress, None)})
        progress("prediction", number, len(folds))
        with home.open_posterior() as tree, jax.default_device(device_for(device)):
            stopping = stopping_rule(tree, inputs.experiment.mice.leaving_odds_ratio)
            to_predict = (jax.random.fold_in(key, number), tree, fold.dataset, fold.pairs, priors, stopping)
            for rule, found in predicted.items():
                found.append(predict_pairs(*to_predict, rule=None if rule == "fitted" else rule))
    tables = {rule: _arms_and_pairs(found) for rule, found in predicted.items()}
    arms, pairs = tables["fitted"]
    observed = observed_pairs(inputs.dataset, pairs)
    note = "; ".join(marks(inputs.experiment, {"fit": {"passed": all(entry["passed"] for entry in entries)}}))
    folder.write_csv("arms.csv", arms.assign(note=note))
    folder.write_csv("pairs.csv", pairs.assign(note=note))
    own = {model: fold.name for fold in folds for model in fold.pairs["pdx_model"]} if leave == "pdx-models" else None
    folder.write_csv("scores.csv", pair_scores(arms, pairs, observed, own).assign(note=note))
    if len(tables) > 1:
        folder.write_csv("rules.csv", rule_scores(tables, observed).assign(note=note))
    return entries


def _arms_and_pairs(found: list[PairPrediction]) -> tuple[pd.DataFrame, pd.DataFrame]:
    pairs = pd.concat([one.pairs for one in found], ignore_index=True)
    return arm_table(pairs, np.concatenate([one.responds for one in found], axis=-1)), pairs
