"""Runs side by side: the same table of response rates, what differs in their settings, and what is Monte Carlo error.

The mean rate of an arm is the mean over D posterior draws of the share of P virtual patients, whose spread over draws
`sd` holds both the posterior and the chance of the patients. Draws of a chain are not independent: they count as many
as the smallest bulk ESS of the fit says, and never more than D. So

    se = sd / sqrt(min(D, ESS)),      difference +- sqrt(se_1^2 + se_2^2)

Runs that rest on one and the same fit simulate from the same posterior draws, and with one seed the same patients:
there the difference is taken draw by draw (`orr_draws.nc`), with se = sd(difference) / sqrt(min(D, ESS)). What exceeds
chance is a difference of settings or data; what does not may be one too.

Fits of the same curves are also compared by the PDX models that they would predict were these left out (`vtrial.loo`),
which says what law of growth the curves prefer; runs of `vtrial fit` alone have that and no rates.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vtrial.config import Experiment
from vtrial.errors import InputError
from vtrial.experiment import load_resolved
from vtrial.inputs import marks
from vtrial.store import ORR_DRAWS, POSTERIOR, RunFolder

if TYPE_CHECKING:
    from vtrial.report.side_by_side import Comparison

#: settings of a fit that do not change what it is of
_SAMPLER = {"sampler", "seed", "chains", "warmup", "draws", "thin", "block", "svi_steps", "target_accept"}
_SAMPLER |= {"max_tree_depth", "mouse_level", "gates"}
_ROW = ["tumour_type", "arm", "subgroup", "endpoint"]
_RATES = ["mean", "q05", "q25", "q75", "q95"]
_RULES = ["tumour_type", "arm", "subgroup", "model", "mean", "q05", "q95", "run"]
_SURVIVAL = ["tumour_type", "arm", "subgroup", "q05", "q50", "q95", "run"]


def compared(run_dirs: Sequence[str | Path]) -> Comparison:
    """Read runs and put them side by side.

    Raises
    ------
    InputError
        Fewer than two runs, a folder that is no run, some runs without response rates, or runs without a common arm.
    """
    from vtrial.report.side_by_side import Comparison

    folders = [RunFolder(path) for path in run_dirs]
    if len(folders) < 2:
        raise InputError("needs two run folders or more", file="compare")
    if len({folder.path for folder in folders}) < len(folders):
        raise InputError("is given twice; a run is always equal to itself", file=folders[-1].path)
    manifests = [folder.manifest() for folder in folders]
    experiments = [
        load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)))
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    names = _names([folder.path for folder in folders])
    shared = _shared(manifests, names)
    fits = None if _one_model(experiments, manifests) else _fits(folders, names, shared)
    rates = pd.DataFrame(columns=[*_ROW, *_RATES, "error", "run"])
    nulls, survival = pd.DataFrame(columns=_RULES), pd.DataFrame(columns=_SURVIVAL)
    if fits is None or any(folder.exists("orr.csv") for folder in folders):
        tables = [_rates(folder, experiment) for folder, experiment in zip(folders, experiments, strict=True)]
        rates = _beside_the_first(
            pd.concat([own.assign(run=n) for n, (own, _) in zip(names, tables, strict=True)]),
            _paired_errors(folders, experiments, names, shared),
        )
        if rates.loc[rates["run"] != names[0], "difference"].isna().all():
            arms = ", ".join(sorted(set(tables[0][0]["arm"])))[:300]
            raise InputError(f"has no arm in common with the first run, whose arms are {arms}", file=folders[1].path)
        nulls = pd.concat([own.assign(run=n) for n, (_, own) in zip(names, tables, strict=True)])[_RULES]
        survival = pd.concat([_survival(f).assign(run=n) for n, f in zip(names, folders, strict=True)])
    return Comparison(
        names=tuple(names),
        paths=tuple(folder.path for folder in folders),
        marks=tuple(tuple(marks(e, m)) for e, m in zip(experiments, manifests, strict=True)),
        rates=rates,
        nulls=nulls,
        survival=survival,
        settings=_settings(experiments, manifests, names),
        one_fit=len(shared) == 1,
        fits=fits,
    )


def _beside_the_first(rates: pd.DataFrame, paired: Mapping[tuple[str, ...], float]) -> pd.DataFrame:
    """The rates with their differences from the same row of the first run; `paired`: errors that are known better."""
    from vtrial.report.side_by_side import LIMIT

    rates = rates.reset_index(drop=True)
    is_first = rates["run"] == rates["run"].iloc[0]
    first = rates[is_first].set_index(_ROW)[["mean", "error"]]
    reference = first.reindex(pd.MultiIndex.from_frame(rates[_ROW])).reset_index(drop=True)
    difference = (rates["mean"] - reference["mean"]).where(~is_first)
    keys = zip(*(rates[name].astype(str) for name in (*_ROW[:3], "run")), strict=True)
    better = pd.Series([paired.get(key, math.nan) for key in keys], index=rates.index)
    error = better.fillna((rates["error"] ** 2 + reference["error"] ** 2) ** 0.5)
    exceeds = (difference.abs() > LIMIT * error).fillna(False)
    return rates.assign(difference=difference, difference_error=error.where(~is_first), exceeds=exceeds)


def _paired_errors(
    folders: Sequence[RunFolder],
    experiments: Sequence[Experiment],
    names: Sequence[str],
    shared: Mapping[str, Sequence[str]],
) -> dict[tuple[str, ...], float]:
    """Tumour type, arm, subgroup and run -> Monte Carlo SE of the difference from the first run, of the same draws."""
    alike = next(own for own in shared.values() if names[0] in own)
    draws = experiments[0].trial.draws
    chosen = [
        place
        for place, name in enumerate(names)
        if name in alike and experiments[place].trial.draws == draws and folders[place].has_posterior(ORR_DRAWS)
    ]
    if chosen[:1] != [0]:
        return {}
    size, first = min(float(draws), _smallest_ess(folders[0])), _draws(folders[0])
    found: dict[tuple[str, ...], float] = {}
    for place in chosen[1:]:
        for key, own in _draws(folders[place]).items():
            if key in first and len(own) > 1:
                found[(*key, names[place])] = float((own - first[key]).std(ddof=1)) / math.sqrt(size)
    return found


def _draws(folder: RunFolder) -> dict[tuple[str, str, str], np.ndarray]:
    """Rates [D] of the main endpoint by tumour type, arm and subgroup."""
    found = {}
    with folder.open_posterior(ORR_DRAWS) as tree:
        for cohort in tree.children.values():
            data = cohort.to_dataset()
            rates = data["rate"].isel(endpoint=0).transpose("arm", "subgroup", "draw").to_numpy().astype(float)
            for arm, groups in zip(data["arm"].to_numpy(), rates, strict=True):
                for group, own in zip(data["subgroup"].to_numpy(), groups, strict=True):
                    found[str(data.attrs["tumour_type"]), str(arm), str(group)] = own
    return found


def _shared(manifests: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[str]]:
    """Posterior, by the hash of its file or, where there is none, the name of its run -> the runs that rest on it."""
    shared: dict[str, list[str]] = {}
    for name, manifest in zip(names, manifests, strict=True):
        entry = manifest["files"].get(POSTERIOR)
        own = entry.get("sha256") if isinstance(entry, Mapping) else None
        shared.setdefault(str(own or name), []).append(name)
    return shared


def _one_model(experiments: Sequence[Experiment], manifests: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the fits differ in how they were sampled alone: then chance decides which predicts better."""
    models = []
    for experiment, manifest in zip(experiments, manifests, strict=True):
        data = experiment.data.model_dump(exclude={"path", "source", "if_missing", "synthetic"})
        fit = experiment.fit.model_dump(exclude=_SAMPLER | {"evidence"})
        models.append([data, fit, _hashes(manifest)])
    return all(one == models[0] for one in models)


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a run read, by content."""
    inputs = manifest.get("inputs", {})
    found = {name: str(inputs.get(name, {}).get("sha256", ""))[:16] for name in ("table", "priors")}
    return found | {"evidence": " ".join(str(one.get("sha256", ""))[:16] for one in inputs.get("evidence", ()))}


def _fits(
    folders: Sequence[RunFolder], names: Sequence[str], shared: Mapping[str, Sequence[str]]
) -> pd.DataFrame | None:
    """How well each fit predicts PDX models left out; None for a single one, or fits of other curves."""
    if len(shared) < 2 or not all(folder.has_posterior() for folder in folders):
        return None
    from vtrial.loo import compared_fits

    of = dict(zip(names, folders, strict=True))
    with contextlib.ExitStack() as stack:
        trees = {", ".join(own): stack.enter_context(of[own[0]].open_posterior()) for own in shared.values()}
        try:
            return compared_fits(trees)
        except InputError:
            return None


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _rates(folder: RunFolder, experiment: Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Population rates of the main endpoint with their Monte Carlo standard error, and combinations under each rule."""
    from vtrial.report.gather import read_table
    from vtrial.report.tables import forest_data, null_model_data

    if not folder.exists("orr.csv"):
        raise InputError("holds no orr.csv: only a fit was run; `vtrial run` writes it", file=folder.path)
    orr = read_table(folder, "orr.csv")
    if orr is None:
        raise InputError("has no rows: the trial of this run has no cohorts", file=folder.file("orr.csv"))
    size = min(float(experiment.trial.draws), _smallest_ess(folder))
    rates = forest_data(orr)
    return rates[[*_ROW, *_RATES]].assign(error=rates["sd"] / math.sqrt(size)), null_model_data(orr)


def _survival(folder: RunFolder) -> pd.DataFrame:
    """Median progression free survival of every arm, days; no rows where an earlier version wrote none."""
    from vtrial.report.gather import read_table

    table = read_table(folder, "endpoints.csv")
    if table is None:
        return pd.DataFrame(columns=_SURVIVAL[:-1])
    return table.loc[table["endpoint"] == "pfs_median", _SURVIVAL[:-1]]


def _smallest_ess(folder: RunFolder) -> float:
    """Smallest bulk ESS of the population parameters, at least 4; without diagnostics, infinite."""
    if not folder.exists("diagnostics.csv"):
        return math.inf
    table = pd.read_csv(folder.file("diagnostics.csv"), keep_default_na=False, na_values=[""])
    found = table["ess_bulk"].dropna()
    return max(4.0, float(found.min())) if len(found) else math.inf


def _settings(
    experiments: Sequence[Experiment], manifests: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> pd.DataFrame:
    flat = []
    for experiment, manifest in zip(experiments, manifests, strict=True):
        data = experiment.model_dump(mode="json", exclude={"quick"})
        for cohort in data["trial"]["cohorts"]:  # by name: an arm put in front is one difference, not ten
            cohort["arms"] = {arm["name"]: arm for arm in cohort["arms"]}
        data["trial"]["cohorts"] = {cohort["tumour_type"]: cohort for cohort in data["trial"]["cohorts"]}
        extra = {"quick": experiment.is_quick, "sha256": _hashes(manifest), "versions": _versions(manifest)}
        # a path says where a file lies, its hash says what it holds
        for section, name in ((data["data"], "path"), (data, "priors"), (data["fit"], "evidence")):
            section.pop(name)
        flat.append(_flat({**data, **extra}))
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [
        {"key": key, **{name: one.get(key, "-") for name, one in zip(names, flat, strict=True)}}
        for key in keys
        if len({one.get(key, "-") for one in flat}) > 1
    ]
    return pd.DataFrame(rows, columns=["key", *names])


def _versions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    device = manifest.get("device", {})
    versions = device.get("versions", {}) if isinstance(device, Mapping) else {}
    return {name: versions.get(name) for name in ("vtrial", "jax", "numpyro")} if isinstance(versions, Mapping) else {}


def _flat(value: Any, above: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        found: dict[str, str] = {}
        for key, one in value.items():
            found |= _flat(one, f"{above}.{key}" if above else str(key))
        return found
    if isinstance(value, list):
        return {above: ", ".join(str(one) for one in value)}
    return {above: "-" if value is None else str(value)}
