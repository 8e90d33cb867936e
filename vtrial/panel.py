"""Dataset -> the arrays that the model reads: one curve summary a mouse, cells of PDX model x treatment, and labels.

A *cell* is one PDX model under one treatment. The effect in a cell is integrated out wherever a single mouse informs
it; it is an explicit parameter (an *effect site*) where several mice share it or where a combination is built on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vtrial.censored_rows import Censored, censored_rows, hidden_rows
from vtrial.covariates import covariate_values
from vtrial.curve_summary import curve_summary
from vtrial.dataset import Dataset
from vtrial.dose_response import DoseResponse
from vtrial.dose_rows import Dosed, dose_rows
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.residual_scales import ScaleCoordinates, scale_coordinates


class Labels(NamedTuple):
    """Names behind the indices, each a tuple of str."""

    tumour_type: tuple[str, ...]
    pdx_model: tuple[str, ...]
    drug: tuple[str, ...]
    drug_class: tuple[str, ...]
    drug_type: tuple[str, ...]  # "drug | tumour type" pairs with data, in a combination, or in the evidence
    class_pair: tuple[str, ...]
    arm_type: tuple[str, ...]  # "arm | tumour type" of all arms
    pdx_model_drug: tuple[str, ...]  # "PDX model | drug", of the effect sites
    combination_cell: tuple[str, ...]  # "PDX model | arm"
    mouse: tuple[str, ...]
    dosed_drug: tuple[str, ...] = ()  # drugs at several doses, under a law of effect against dose
    covariate: tuple[str, ...] = ()
    class_covariate: tuple[str, ...] = ()  # "drug class | covariate"


class Curves(NamedTuple):
    """Sufficient statistics of S curves on the time courses of :mod:`vtrial.growth_laws`, and who they belong to.

    Rows with one treatment or none come first (`num_single` of them), combinations after.
    """

    statistics: np.ndarray  # [S, p + 1]  z = Q'y and the residual sum of squares, of the decorrelated curve
    triangle: np.ndarray  # [S, p, p]   R
    log_jacobian: np.ndarray  # [S]  of the decorrelation
    num_measurements: np.ndarray  # [S]
    pdx_model: np.ndarray  # [S] index
    treated: np.ndarray  # [S] bool
    drug_type: np.ndarray  # [S] index of the cell's drug x type (0 where not a single agent)
    effect_site: np.ndarray  # [S] index of the explicit effect, -1 where integrated out or none
    combination_cell: np.ndarray  # [S] index, -1 for single agents and controls
    arm_type: np.ndarray  # [S] index
    censored_mouse: np.ndarray  # [S] index among the mice with censored rows, -1 for none


class Sites(NamedTuple):
    """Explicit effects: X pairs of a PDX model and a drug."""

    pdx_model: np.ndarray  # [X]
    drug_type: np.ndarray  # [X]
    mouse: np.ndarray  # [X] the one mouse that informs the site and is integrated over it, -1 where there is none


class Combinations(NamedTuple):
    """C cells of a PDX model under a combination of at most D drugs."""

    pdx_model: np.ndarray  # [C]
    site: np.ndarray  # [C, D] effect site of each drug, 0 where absent
    present: np.ndarray  # [C, D] bool
    pair: np.ndarray  # [C, D, D] index of the class pair, 0 where absent
    shared: np.ndarray  # [C] index among the cells with several mice, whose own deviation is explicit; -1 elsewhere


class Covariates(NamedTuple):
    """Q covariates of PDX models, and what each of the B = classes x Q effects of them is multiplied by.

    A covariate counts from its mean over the PDX models of the tumour type, so that the effect of a drug in a type
    keeps its meaning: the mean over its PDX models.
    """

    values: np.ndarray  # [M, Q] as in the table
    mean: np.ndarray  # [type, Q]
    sd: np.ndarray  # [type, Q]
    single: np.ndarray  # [num_single, B] of mice under one drug; rows of zeros of controls
    site: np.ndarray  # [X, B]
    spread: np.ndarray  # [drug_type, B] SD in the tumour type; of a type without PDX models, that within the types


class Panel(NamedTuple):
    """All that the model reads of a table."""

    labels: Labels
    curves: Curves
    num_single: int
    sites: Sites
    combinations: Combinations
    censored: Censored
    pdx_model_type: np.ndarray  # [M]
    arm_type_type: np.ndarray  # [arm_type] tumour type
    drug_class: np.ndarray  # [drug] index
    drug_type_drug: np.ndarray  # [drug_type]
    pair_classes: tuple[tuple[str, ...], ...]
    shape: CurveShape
    initial_growth: np.ndarray  # [M] rough ln growth, a starting point only
    scales: ScaleCoordinates  # how residual scales are sampled
    dosed: Dosed | None = None  # None where every drug has one dose
    dose_law: str = "none"
    covariates: Covariates | None = None


def build_panel(
    dataset: Dataset,
    drug_class: Mapping[str, str],
    shape: CurveShape,
    evidence_cells: Iterable[tuple[str, str]] = (),
    dose_response: DoseResponse | None = None,
    covariates: Sequence[str] = (),
) -> Panel:
    """Summarise a checked table for the fit.

    Parameters
    ----------
    dataset
        Checked table; excluded rows and mice with fewer than two usable measurements are left out.
    drug_class
        Mechanism class of every drug of the table.
    shape
        Constants of a curve: basis and correlation of residuals.
    evidence_cells
        Pairs of a drug and a tumour type that published summaries speak of; they may be absent from the table.
    dose_response
        Law and reference doses of the drugs that the table has at several doses; None where there is none.
    covariates
        Columns of the table that shift the effects of classes.

    Raises
    ------
    InputError
        If a drug has no class.
    """
    extra = sorted(set(evidence_cells))
    missing = sorted({*dataset.substances, *(drug for drug, _ in extra)} - set(drug_class))
    if missing:
        raise InputError(
            f"no mechanism class for drug {missing[0]!r}; add it under fit.drug_classes or to a priors file",
            key="fit.drug_classes",
        )
    table = dataset.used.assign(num_drugs=[len(dataset.arms[a]) for a in dataset.used["arm"]]).sort_values(
        ["num_drugs", "tumour_type", "pdx_model", "arm", "mouse", "day"], kind="stable"
    )
    order = table.drop_duplicates("mouse_key").set_index("mouse_key")
    tumour_type = tuple(sorted(order["tumour_type"].unique()))
    models = order.drop_duplicates("pdx_model").sort_values(["tumour_type", "pdx_model"])
    pdx_model = tuple(models["pdx_model"])
    model_index = {name: i for i, name in enumerate(pdx_model)}
    type_index = {name: i for i, name in enumerate(tumour_type)}
    model_type = np.array([type_index[t] for t in models["tumour_type"]], dtype=np.int32)

    mice = pd.DataFrame(
        {
            "model": [model_index[m] for m in order["pdx_model"]],
            "arm": order["arm"].to_numpy(),
            "drugs": [dataset.arms[a] for a in order["arm"]],
        },
        index=order.index,
    )
    mice["type"] = model_type[mice["model"].to_numpy()]
    mice["num_drugs"] = [len(d) for d in mice["drugs"]]

    # a drug is one whatever its dose: what follows of effects is of the drug, the dose scales it
    mice["substances"] = [tuple(map(dataset.substance, drugs)) for drugs in mice["drugs"]]
    used = sorted({d for drugs in mice["substances"] for d in drugs} | {drug for drug, _ in extra})
    drug_index = {name: i for i, name in enumerate(used)}
    classes = tuple(sorted({drug_class[d] for d in used}))
    pairs_of_type = sorted(
        {(d, tumour_type[t]) for drugs, t in zip(mice["substances"], mice["type"], strict=True) for d in drugs}
        | set(extra)
    )
    drug_type_index = {pair: i for i, pair in enumerate(pairs_of_type)}

    combined = mice[mice["num_drugs"] > 1]
    cell_count = combined.groupby(["model", "arm"], sort=False).size()
    cells = list(cell_count.index)
    cell_index = {cell: i for i, cell in enumerate(cells)}
    single = mice[mice["num_drugs"] == 1]
    single_count = Counter(zip(single["model"], (drugs[0] for drugs in single["substances"]), strict=True))
    wanted = {(model, dataset.substance(drug)) for model, arm in cells for drug in dataset.arms[arm]}
    replicated = {site for site, n in single_count.items() if n > 1}
    site_list = sorted(wanted | replicated)
    site_index = {site: i for i, site in enumerate(site_list)}

    groups = dict(tuple(table.groupby("mouse_key", sort=False)))
    num_mice = len(mice)
    statistics, triangle = np.zeros((num_mice, 4)), np.zeros((num_mice, 3, 3))
    num_measurements, log_jacobian = np.zeros(num_mice), np.zeros(num_mice)
    censored_of: list[int] = []
    hidden: list[tuple[np.ndarray, ...]] = []
    for i, key in enumerate(mice.index):
        curve = groups[key]
        below = curve["censored"].to_numpy()
        day, volume = curve["day"].to_numpy(float), curve["volume_mm3"].to_numpy(float)
        log_volume = np.log(np.where(below, 1.0, volume))
        statistics[i], triangle[i], log_jacobian[i] = curve_summary(day[~below], log_volume[~below], shape)
        num_measurements[i] = (~below).sum()
        if below.any():
            hidden.append(hidden_rows(day, log_volume, below, shape))
            censored_of.append(i)
    censored_mouse = np.full(num_mice, -1, dtype=np.int32)
    censored_mouse[censored_of] = np.arange(len(censored_of))

    site = np.full(num_mice, -1, dtype=np.int32)
    cell = np.full(num_mice, -1, dtype=np.int32)
    drug_type = np.zeros(num_mice, dtype=np.int32)
    site_mice: dict[int, list[int]] = {}
    for i, (model, arm, drugs, kind) in enumerate(
        zip(mice["model"], mice["arm"], mice["substances"], mice["type"], strict=True)
    ):
        if len(drugs) == 1:
            drug_type[i] = drug_type_index[(drugs[0], tumour_type[kind])]
            if (model, drugs[0]) in site_index:
                site[i] = site_index[(model, drugs[0])]
                site_mice.setdefault(int(site[i]), []).append(i)
        elif len(drugs) > 1:
            cell[i] = cell_index[(model, arm)]
    # a lone, uncensored mouse is integrated over its site first; the site is then drawn given that mouse
    lone = np.full(len(site_list), -1, dtype=np.int32)
    for x, members in site_mice.items():
        if len(members) == 1 and censored_mouse[members[0]] < 0:
            lone[x] = members[0]

    width = max((len(dataset.arms[arm]) for _, arm in cells), default=2)
    pair_names = sorted(
        {
            tuple(sorted((drug_class[a], drug_class[b])))
            for _, arm in cells
            for a in map(dataset.substance, dataset.arms[arm])
            for b in map(dataset.substance, dataset.arms[arm])
            if a < b
        }
    )
    pair_index = {pair: i for i, pair in enumerate(pair_names)}
    cell_site = np.zeros((len(cells), width), dtype=np.int32)
    cell_pair = np.zeros((len(cells), width, width), dtype=np.int32)
    present = np.zeros((len(cells), width), dtype=bool)
    several = np.array([cell_count[c] > 1 for c in cells], dtype=bool)
    for c, (model, arm) in enumerate(cells):
        drugs = [dataset.substance(drug) for drug in dataset.arms[arm]]
        for j, a in enumerate(drugs):
            cell_site[c, j], present[c, j] = site_index[(model, a)], True
            for k, b in enumerate(drugs):
                if a != b:
                    cell_pair[c, j, k] = pair_index[tuple(sorted((drug_class[a], drug_class[b])))]

    arm_type, arm_type_name = pd.factorize(
        mice["arm"] + " | " + np.array(tumour_type, dtype=object)[mice["type"].to_numpy()], sort=True
    )
    arm_type_type = pd.Series(mice["type"].to_numpy(np.int32)).groupby(arm_type).first().to_numpy()
    slopes = np.array(
        [np.linalg.lstsq(r[:2, :2], s[:2], rcond=None)[0][1] for r, s in zip(triangle, statistics, strict=True)]
    )
    rough = pd.Series(np.maximum(slopes, 0.005)).groupby(mice["model"].to_numpy()).quantile(0.8)
    site_array = np.array(site_list, dtype=object).reshape(-1, 2)
    num_single = int((mice["num_drugs"] < 2).sum())
    dosed_drug = tuple(sorted(dose_response.reference)) if dose_response else ()
    panel = Panel(
        labels=Labels(
            tumour_type,
            pdx_model,
            tuple(used),
            classes,
            tuple(f"{d} | {t}" for d, t in pairs_of_type),
            tuple(" x ".join(p) for p in pair_names),
            tuple(arm_type_name),
            tuple(f"{pdx_model[m]} | {d}" for m, d in site_list),
            tuple(f"{pdx_model[m]} | {arm}" for m, arm in cells),
            tuple(str(k) for k in mice.index),
            dosed_drug,
            tuple(covariates),
            tuple(f"{name} | {covariate}" for name in classes for covariate in covariates),
        ),
        curves=Curves(
            statistics,
            triangle,
            log_jacobian,
            num_measurements,
            mice["model"].to_numpy(np.int32),
            mice["num_drugs"].to_numpy() > 0,
            drug_type,
            site,
            cell,
            np.asarray(arm_type, np.int32),
            censored_mouse,
        ),
        num_single=num_single,
        sites=Sites(
            site_array[:, 0].astype(np.int32),
            np.array([drug_type_index[(d, tumour_type[model_type[m]])] for m, d in site_list], dtype=np.int32),
            lone,
        ),
        combinations=Combinations(
            np.array([m for m, _ in cells], dtype=np.int32),
            cell_site,
            present,
            cell_pair,
            np.where(several, np.cumsum(several) - 1, -1).astype(np.int32),
        ),
        censored=censored_rows(censored_of, hidden, float(np.log(dataset.detection_limit_mm3))),
        pdx_model_type=model_type,
        arm_type_type=arm_type_type,
        drug_class=np.array([classes.index(drug_class[d]) for d in used], dtype=np.int32),
        drug_type_drug=np.array([drug_index[d] for d, _ in pairs_of_type], dtype=np.int32),
        pair_classes=tuple(pair_names),
        shape=shape,
        initial_growth=np.log(np.maximum([rough.get(m, 0.05) for m in range(len(pdx_model))], 0.005)),
        scales=scale_coordinates(
            statistics[:, -1], num_measurements - (statistics.shape[1] - 1), arm_type, arm_type_type
        ),
        dosed=dose_rows(dataset, dose_response, mice["drugs"].to_list()[:num_single], [arm for _, arm in cells], width)
        if dose_response
        else None,
        dose_law=dose_response.law if dose_response else "none",
    )
    return panel._replace(covariates=_covariates(dataset, panel)) if covariates else panel


def _covariates(dataset: Dataset, panel: Panel) -> Covariates:
    """Covariates of the PDX models of a panel, and the rows that multiply their effects."""
    labels, kind = panel.labels, panel.pdx_model_type
    values = covariate_values(dataset.table, labels.covariate).loc[list(labels.pdx_model)].to_numpy()
    of_type = [values[kind == t] for t in range(len(labels.tumour_type))]
    mean, sd = (np.array([at(own, axis=0) for own in of_type]) for at in (np.mean, np.std))
    centred = values - mean[kind]
    within = np.sqrt(np.mean(centred**2, axis=0))
    class_of = panel.drug_class[panel.drug_type_drug]  # [drug_type]

    def rows(drug_type: np.ndarray, own: np.ndarray) -> np.ndarray:
        """[N, B]: the values [N, Q] in the columns of the class of each drug."""
        found = np.zeros((len(own), len(labels.drug_class), len(labels.covariate)))
        found[np.arange(len(own)), class_of[drug_type]] = own
        return found.reshape(len(own), len(labels.class_covariate))

    curves, sites, single = panel.curves, panel.sites, slice(0, panel.num_single)
    alone = centred[curves.pdx_model[single]] * curves.treated[single, None]
    known = {name: sd[t] for t, name in enumerate(labels.tumour_type)}
    spread = np.array([known.get(name.rsplit(" | ", 1)[1], within) for name in labels.drug_type])
    return Covariates(
        values,
        mean,
        sd,
        rows(curves.drug_type[single], alone),
        rows(sites.drug_type, centred[sites.pdx_model]),
        rows(np.arange(len(labels.drug_type)), spread.reshape(-1, len(labels.covariate))),
    )
