"""The fit stage: a panel of curves -> `posterior.nc`, `diagnostics.csv` and the verdict of the gates."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vtrial.checkpoint import Checkpoint, clear
from vtrial.conditional import mouse_draws
from vtrial.devices import Kind, devices_for, fit_kind
from vtrial.diagnostics import check_gates, summarise
from vtrial.dose_table import dose_table
from vtrial.errors import GateError, InputError
from vtrial.evidence import evidence_arrays
from vtrial.evidence_density import class_arrays
from vtrial.fitted import curve_quantiles
from vtrial.inference import fit
from vtrial.inputs import Inputs, covariate_priors, dose_response
from vtrial.loo import left_out_density, loo_table
from vtrial.model import arrays_of, build_model
from vtrial.model_format import DOSE_PRIORS, PRIORS, RESPONDER_PRIORS
from vtrial.panel import build_panel
from vtrial.posterior import NUM_CELL_DRAWS, PDX_MODEL_LEVEL, POPULATION, spread_evenly, to_datatree
from vtrial.progress import Progress
from vtrial.residual_scales import ln_sigma
from vtrial.responders import drawn as drawn_responders
from vtrial.stopping import fit_stopping_rule
from vtrial.store import RunFolder

LOG = logging.getLogger("vtrial")
#: what the end of a fit reads of every draw, where the model has it
SITES = (
    *POPULATION,
    *PDX_MODEL_LEVEL,
    "log_likelihood",
    "effect_site_scale",
    # with common responders alone
    "log_likelihood_pdx_model",
    "responder_probability",
    "effect_site_common",
    "lone_density",
    "lone_density_common",
)


def fit_stage(
    inputs: Inputs, folder: RunFolder, device: Kind, progress: Progress, reuse_from: Path | None
) -> dict[str, Any]:
    """Fit, unless the folder or another run below `reuse_from` holds a posterior of the same fit key."""
    manifest = folder.manifest()
    before = manifest.get("fit", {})
    if before.get("key") == inputs.fit_key and folder.has_posterior():
        LOG.info("the fit of key %s is there already", inputs.fit_key)
        return _regated(inputs, folder, before)
    if reuse_from is not None and (found := _fit_of_key(reuse_from, inputs.fit_key, folder.path)):
        LOG.info("the fit of key %s is taken from %s", inputs.fit_key, found.path.name)
        folder.update_manifest({"fit": {}})
        with found.open_posterior() as tree:
            folder.write_posterior(tree.load(), keep_float64=POPULATION)
        for name in ("loo.csv", "dose_response.csv"):
            if found.exists(name):
                folder.write_bytes(name, found.file(name).read_bytes())
        entry = {**found.manifest()["fit"], "reused_from": found.path.name}
        return _regated(inputs, folder, entry)

    experiment, config = inputs.experiment, inputs.experiment.fit
    begun = time.perf_counter()
    cells = list(zip(inputs.evidence["drug"], inputs.evidence["tumour_type"], strict=True))
    doses = dose_response(experiment, inputs.dataset)
    panel = build_panel(inputs.dataset, inputs.drug_class, config.curve_shape, cells, doses, config.covariates)
    evidence = None
    if cells:
        labels = panel.labels.drug_type
        classes = class_arrays(inputs.evidence, labels, config.curve_shape)
        evidence = evidence_arrays(inputs.evidence, labels)._replace(classes=classes)
    stopping = fit_stopping_rule(inputs.dataset.used, inputs.dataset.detection_limit_mm3)
    chosen = devices_for(fit_kind(device))
    checkpoint = Checkpoint(folder, "fit", {"fit key": inputs.fit_key, "platform": chosen[0].platform})
    with jax.enable_x64(True), jax.default_device(chosen[0]):
        arrays = arrays_of(panel, evidence)
        names = (*PRIORS, *DOSE_PRIORS[config.dose_response], *RESPONDER_PRIORS[config.responders])
        prior = inputs.priors.distributions(names)
        own = covariate_priors(experiment, inputs.priors, panel.labels.drug_class)
        prior |= {f"covariates.{key}": inputs.priors.distribution(name) for key, name in own.items()}
        model = build_model(panel, prior, responders=config.responders)
        first = {"ln_growth": jax.numpy.asarray(panel.initial_growth)}
        key, collective = jax.random.key(config.seed), ("ln_growth",)
        result = fit(key, model, arrays, first, config, SITES, progress, chosen, collective, checkpoint)
        progress("mice and cells", 0, 1)
        index = spread_evenly(min(NUM_CELL_DRAWS, config.chains * config.draws), config.chains * config.draws)
        chosen_draws = {k: v.reshape(-1, *v.shape[2:])[index] for k, v in result.draws.items()}
        values, responder = result.values, None
        if config.responders == "common":
            values = drawn_responders(jax.random.fold_in(key, 2), values, panel.sites.pdx_model)
            responder = values["responder"].reshape(-1, len(panel.labels.pdx_model))[index]
        of_mice = build_model(panel, prior, mouse_level=True, responders=config.responders)
        within = mouse_draws(jax.random.fold_in(key, 1), of_mice, arrays, chosen_draws, responder)
    cells_kept = {"index": index, "effect": within.effect}
    if config.mouse_level:
        of_arm = result.values["ln_sigma_arm"]
        mean = of_arm.reshape(-1, of_arm.shape[-1])[index][:, panel.curves.arm_type]
        spread = result.values["omega_ln_sigma"].ravel()[index, None]
        scale = ln_sigma(panel.scales.mouse, mean, spread, chosen_draws["ln_sigma_z"])
        cells_kept |= {"coefficient": within.coefficient, "ln_sigma": scale.astype(np.float32)}
    attributes = {
        "experiment": experiment.name,
        "fit_key": inputs.fit_key,
        **config.curve_shape._asdict(),
        "detection_limit_mm3": inputs.dataset.detection_limit_mm3,
        "stopping_gap_days": stopping.gap_days,
        "synthetic": int(experiment.data.synthetic),
        "quick": int(experiment.is_quick),
    }
    left_out = left_out_density(panel, values, result.draws)
    values = {**values, "left_out_density": left_out.pdx_model}
    curves = curve_quantiles(within.coefficient, inputs.dataset, panel.labels.mouse, config.curve_shape)
    stopping_rule = np.asarray(stopping.coefficient)
    tree = to_datatree(panel, values, result.stats, cells_kept, attributes, stopping_rule, curves)
    progress("diagnostics", 0, 1)
    summary = summarise(tree["posterior"].to_dataset())
    gates = check_gates(summary, tree, config)
    folder.update_manifest({"fit": {}})  # a kill must not leave the old entry beside the new posterior
    folder.write_posterior(tree, keep_float64=POPULATION)
    folder.write_csv("diagnostics.csv", summary)
    folder.write_csv("loo.csv", loo_table(panel, left_out))
    if doses is not None:
        folder.write_csv("dose_response.csv", dose_table(tree, inputs.dataset))
    entry = {
        "key": inputs.fit_key,
        "passed": all(gate["passed"] for gate in gates),
        "gates": gates,
        "mice": len(panel.labels.mouse),
        "pdx_models": len(panel.labels.pdx_model),
        "draws": int(config.chains * config.draws),
        "seed": config.seed,
        "resumed": checkpoint.resumed,  # the seconds are then those of the last process
        "seconds": {**result.seconds, "total": round(time.perf_counter() - begun, 2)},
    }
    folder.update_manifest({"fit": entry})
    clear(folder, "fit")
    return entry


def _regated(inputs: Inputs, folder: RunFolder, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a reused fit by the gates of this experiment, which are not part of its key."""
    with folder.open_posterior() as tree:
        summary = summarise(tree["posterior"].to_dataset().load())
        gates = check_gates(summary, tree, inputs.experiment.fit)
    folder.write_csv("diagnostics.csv", summary)
    entry = {**entry, "gates": gates, "passed": all(gate["passed"] for gate in gates)}
    folder.update_manifest({"fit": entry})
    return entry


def _fit_of_key(root: Path, key: str, own: Path) -> RunFolder | None:
    for path in sorted(root.glob("*/manifest.json")):
        if path.parent == own:
            continue
        with contextlib.suppress(InputError):
            folder = RunFolder(path.parent)
            if folder.manifest().get("fit", {}).get("key") != key or not folder.has_posterior():
                continue
            try:
                with folder.open_posterior():
                    return folder
            except InputError as error:
                LOG.warning("%s", error)  # a fit is made anew rather than stopped by a neighbour's damage
    return None


def judge(entry: Mapping[str, Any], folder: RunFolder) -> None:
    """Raise where the fit of a manifest's entry did not pass, with what failed and what to do.

    Raises
    ------
    GateError
        The fit did not pass its gates.
    """
    if entry["passed"]:
        return
    failed = [gate for gate in entry["gates"] if not gate["passed"]]
    found = "; ".join(
        f"{g['name']} {'undefined' if g['value'] is None else format(g['value'], '.4g')} at {g['where']} "
        f"(limit {g['limit']:g})"
        for g in failed
    )
    advice = [text for text, words in _ADVICE.items() if any(word in gate["name"] for gate in failed for word in words)]
    if folder.manifest().get("quick") and not any("k-hat" in gate["name"] for gate in failed):
        more = "quick: {fit: {warmup: 500, draws: 500}}"
        advice = [f"a quick fit has few draws: run it without --quick, or give it more ({more})"]
    raise GateError(f"the fit did not pass its gates: {found}; {', '.join(advice)} ({_REMEDIES})", folder.path)


_REMEDIES = "docs/explanation/what-can-go-wrong.md has more"
#: what to do -> parts of the names of the gates that call for it
_ADVICE = {
    "raise fit.target_accept": ("divergent",),
    "raise fit.max_tree_depth": ("tree depth",),
    "give fit.warmup and fit.draws more": ("R-hat", "ESS"),
    "this was a first look by a normal approximation, leave out fit.sampler": ("k-hat",),
}
