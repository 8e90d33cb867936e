"""The model's density against the explicit model: dense covariances, scipy, every site and prior written out again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.util import log_density, unconstrain_fn
from scipy import special, stats
from scipy.linalg import expm

from vtrial.conditional import mouse_draws
from vtrial.curve_summary import residual_covariance
from vtrial.dataset import Dataset, read_dataset
from vtrial.dose_response import DoseResponse
from vtrial.evidence import Evidence
from vtrial.evidence_density import (
    NUM_DAYS,
    MiceOfClasses,
    class_arrays,
    class_density,
    evidence_density,
    log_share_between,
)
from vtrial.model import arrays_of, build_model
from vtrial.model_format import PRIORS, CurveShape
from vtrial.panel import Panel, build_panel

LOSS_RATE = 0.02
FORGET, WHITE = 12.0, 0.2
SHAPE = CurveShape(LOSS_RATE, FORGET, WHITE)
REFERENCE_DAYS = 28.0
SMOOTHING = 0.05
CLASSES = {"A": "MEK", "B": "PI3K", "C": "MEK"}

#: priors by name, for NumPyro and again for scipy
PRIOR = {
    "growth.mouse.ln_rate": (dist.Normal(-3.0, 0.5), stats.norm(-3.0, 0.5)),
    "growth.mouse.between_types": (dist.HalfNormal(0.4), stats.halfnorm(0, 0.4)),
    "growth.mouse.between_models": (dist.LogNormal(np.log(0.6), 0.3), stats.lognorm(0.3, 0, 0.6)),
    "growth.mouse.ln_volume_start": (dist.Normal(5.4, 0.5), stats.norm(5.4, 0.5)),
    "growth.mouse.intercept_sd": (dist.LogNormal(np.log(0.2), 0.3), stats.lognorm(0.3, 0, 0.2)),
    "growth.mouse.ln_between_mice_relative": (dist.Normal(-1.4, 0.3), stats.norm(-1.4, 0.3)),
    "growth.mouse.ln_curvature_sd": (dist.Normal(-0.2, 0.5), stats.norm(-0.2, 0.5)),
    "growth.mouse.loss": (dist.Normal(0.5, 0.5), stats.norm(0.5, 0.5)),
    "growth.mouse.loss_spread": (dist.LogNormal(np.log(0.2), 0.5), stats.lognorm(0.5, 0, 0.2)),
    "growth.mouse.slowing": (dist.Normal(0.1, 0.4), stats.norm(0.1, 0.4)),
    "growth.mouse.ln_residual_sd": (dist.Normal(-2.0, 0.4), stats.norm(-2.0, 0.4)),
    "growth.mouse.ln_residual_between_types": (dist.HalfNormal(0.4), stats.halfnorm(0, 0.4)),
    "growth.mouse.ln_residual_between_arms": (dist.HalfNormal(0.3), stats.halfnorm(0, 0.3)),
    "growth.mouse.ln_residual_spread": (dist.HalfNormal(0.5), stats.halfnorm(0, 0.5)),
    "classes.default.mean_effect": (dist.Normal(0.35, 0.3), stats.norm(0.35, 0.3)),
    "classes.default.between_classes": (dist.HalfNormal(0.35), stats.halfnorm(0, 0.35)),
    "classes.default.between_drugs": (dist.HalfNormal(0.25), stats.halfnorm(0, 0.25)),
    "classes.default.between_types": (dist.HalfNormal(0.2), stats.halfnorm(0, 0.2)),
    "classes.default.ln_between_models": (dist.Normal(-1.0, 0.5), stats.norm(-1.0, 0.5)),
    "classes.default.ln_between_models_spread": (dist.HalfNormal(0.5), stats.halfnorm(0, 0.5)),
    "class_pairs.default.phi": (dist.Normal(0.5, 0.35), stats.norm(0.5, 0.35)),
    "class_pairs.default.phi_spread": (dist.HalfNormal(0.25), stats.halfnorm(0, 0.25)),
    "class_pairs.default.gamma": (dist.Normal(0.02, 0.1), stats.norm(0.02, 0.1)),
    "class_pairs.default.gamma_spread": (dist.HalfNormal(0.1), stats.halfnorm(0, 0.1)),
    "class_pairs.default.between_models": (dist.LogNormal(np.log(0.15), 0.5), stats.lognorm(0.5, 0, 0.15)),
}
#: of the law of effect against dose, in fits that have one
DOSE_PRIOR = {
    "dose_response.ln_ed50": (dist.Normal(-1.2, 1.0), stats.norm(-1.2, 1.0)),
    "dose_response.ln_hill": (dist.Normal(0.0, 0.4), stats.norm(0.0, 0.4)),
    "dose_response.ln_slope": (dist.Normal(-1.3, 0.6), stats.norm(-1.3, 0.6)),
}
COVARIATE_PRIOR = {
    "covariates.K.MEK": (dist.Normal(0.3, 0.2), stats.norm(0.3, 0.2)),
    "covariates.K.PI3K": (dist.Normal(0.0, 0.4), stats.norm(0.0, 0.4)),
    "covariates.size.MEK": (dist.Normal(-0.1, 0.1), stats.norm(-0.1, 0.1)),
    "covariates.size.PI3K": (dist.Normal(0.1, 0.3), stats.norm(0.1, 0.3)),
}
#: of common responders
RESPONDER_PRIOR = {
    "classes.default.responder_share": (dist.Beta(2.0, 6.0), stats.beta(2.0, 6.0)),
    "classes.default.responder_shift": (dist.LogNormal(-0.4, 0.5), stats.lognorm(0.5, 0, np.exp(-0.4))),
}
#: site -> its prior
SCALARS = {
    "mu_ln_growth": "growth.mouse.ln_rate",
    "omega_ln_growth_type": "growth.mouse.between_types",
    "mu_effect": "classes.default.mean_effect",
    "omega_effect_class": "classes.default.between_classes",
    "omega_effect_drug": "classes.default.between_drugs",
    "omega_effect_type": "classes.default.between_types",
    "mu_ln_omega_effect": "classes.default.ln_between_models",
    "omega_ln_omega_effect": "classes.default.ln_between_models_spread",
    "mu_intercept": "growth.mouse.ln_volume_start",
    "omega_intercept": "growth.mouse.intercept_sd",
    "loss": "growth.mouse.loss",
    "omega_loss": "growth.mouse.loss_spread",
    "slowing": "growth.mouse.slowing",
    "mu_ln_sigma": "growth.mouse.ln_residual_sd",
    "omega_ln_sigma_type": "growth.mouse.ln_residual_between_types",
    "omega_ln_sigma_arm": "growth.mouse.ln_residual_between_arms",
    "omega_ln_sigma": "growth.mouse.ln_residual_spread",
}
COMBINATION_SCALARS = {
    "mu_phi": "class_pairs.default.phi",
    "omega_phi": "class_pairs.default.phi_spread",
    "mu_gamma": "class_pairs.default.gamma",
    "omega_gamma": "class_pairs.default.gamma_spread",
    "omega_combination": "class_pairs.default.between_models",
}
#: what has one value for each of several things; what the model samples in their place is its own affair
VECTORS = ("ln_growth_type", "omega_ln_growth", "effect_class", "effect_drug", "effect", "omega_effect", "ln_growth")
VECTORS += ("ln_sigma", "phi", "gamma", "effect_site", "combination_cell_z", "ln_ed50", "hill", "dose_slope")
VECTORS += ("covariate_effect", "ln_sigma_type", "ln_sigma_arm", "loss_drug_type")
SPREADS = {
    "omega_mouse": "growth.mouse.ln_between_mice_relative",
    "omega_curvature": "growth.mouse.ln_curvature_sd",
}

#: mouse -> tumour type, PDX model, arm, measurements
SMALL = {
    "c1": ("T1", "M1", "untreated", 6),
    "a1": ("T1", "M1", "A", 5),
    "b1": ("T1", "M1", "B", 2),
    "ab1": ("T1", "M1", "A + B", 6),
    "c2": ("T1", "M2", "untreated", 6),
    "a2": ("T1", "M2", "A", 6),
    "a3": ("T1", "M2", "A", 3),
    "ab2": ("T1", "M2", "A + B", 6),
    "ab3": ("T1", "M2", "A + B", 4),
    "c3": ("T2", "M3", "untreated", 6),
    "d3": ("T2", "M3", "untreated", 2),
    "cc3": ("T2", "M3", "C", 6),
    "abc3": ("T2", "M3", "A + B + C", 6),
    "b4": ("T2", "M4", "B", 6),
}
DAYS = np.array([0.0, 5.0, 11.0, 18.0, 26.0, 41.0])
#: compiling the model takes longer than all that is computed here
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def table_of(
    folder,
    mice,
    low: Mapping[str, int] | None = None,
    slope: Mapping[str, float] | None = None,
    doses: bool = False,
    covariates: Mapping[str, str] | None = None,
) -> Dataset:
    """Noisy curves about a slope (1/day); the last `low` volumes of a mouse lie below the detection limit of 10 mm3."""
    rng = np.random.default_rng(8)
    head, names = "study,tumour_type,pdx_model,mouse,arm,day,volume_mm3", ("K", "size") if covariates else ()
    lines = [",".join((head, *names))]
    for mouse, (kind, model, arm, number) in mice.items():
        more = f",{covariates[model]}" if covariates else ""
        rate, noise = (slope or {}).get(mouse, 0.0) + 0.02 * rng.normal(), 0.15 * rng.normal(size=number)
        volume = np.exp(5.4 + 0.2 * rng.normal() + rate * DAYS[:number] + noise)
        volume = np.maximum(volume, 10.5)
        volume[number - (low or {}).get(mouse, 0) :] = 3.0
        lines += [f"S,{kind},{model},{mouse},{arm},{d:g},{v:.12g}{more}" for d, v in zip(DAYS, volume, strict=False)]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_dataset(path, doses=doses, covariates=names)


def prior() -> dict:
    return {name: pair[0] for name, pair in (PRIOR | DOSE_PRIOR | COVARIATE_PRIOR | RESPONDER_PRIOR).items()}


class Point(NamedTuple):
    """A point of the parameter space as the model samples it, and as the equations speak of it."""

    sites: dict[str, jax.Array]
    log_density: float  # of the sites
    meaning: dict[str, np.ndarray]  # sites and deterministics of SCALARS, SPREADS and VECTORS
    ln_jacobian: float  # ln |d meaning / d sites|
    derived: dict[str, np.ndarray]  # deterministics


def points_of(
    panel: Panel, seeds, evidence: Evidence | None = None, responders: str = "none", **changes
) -> list[Point]:
    """Points drawn from the priors; `changes` give sites another value. One program for all seeds; needs float64.

    How the model samples a quantity is for its speed alone: the Jacobian is taken from the model itself, so that
    these tests speak of the quantities and stay when the sampling changes.
    """
    model, arrays = build_model(panel, prior(), responders=responders), arrays_of(panel, evidence)

    def traced(sites):
        return handlers.trace(handlers.substitute(model, sites)).get_trace(arrays)

    def meaning(sites):
        trace = traced(sites)
        known = {name: site["value"] for name, site in trace.items() if site["type"] in ("sample", "deterministic")}
        if "effect_site_z" in known and "effect_site" not in known:
            at = arrays.sites.drug_type
            known["effect_site"] = known["effect"][at] + known["omega_effect"][at] * known["effect_site_z"]
        names = (*SCALARS, *COMBINATION_SCALARS, *SPREADS, "curvature_correlation", *VECTORS)
        names += ("responder_share", "responder_shift")
        return {name: known[name] for name in names if name in known}

    @partial(jax.jit, compiler_options=QUICKLY)
    def at(key):
        trace = handlers.trace(handlers.seed(model, key)).get_trace(arrays)
        sites = {
            name: site["value"] for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]
        }
        sites |= {name: jnp.asarray(value) for name, value in changes.items()}
        value, trace = log_density(model, (arrays,), {}, sites)
        derived = {name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"}
        moved = {name: v for name, v in sites.items() if name != "censored_u"}
        fixed = {name: v for name, v in sites.items() if name == "censored_u"}
        flat, unflatten = ravel_pytree(moved)
        jacobian = jax.jacfwd(lambda x: ravel_pytree(meaning({**fixed, **unflatten(x)}))[0])(flat)
        return sites, value, meaning(sites), jnp.linalg.slogdet(jacobian)[1], derived

    return [Point(*jax.tree.map(np.asarray, at(jax.random.key(seed)))) for seed in seeds]


# ------------------------------------------------------------------------------------------------ the explicit model


class Mouse(NamedTuple):
    """One mouse: what it is, its ln volumes, and the linear model of them given the effect rho of its cell."""

    drugs: tuple[str, ...]
    measured: np.ndarray  # [n]
    mean: np.ndarray  # [n] without effect
    slope: np.ndarray  # [n] per unit of rho
    covariance: np.ndarray  # [n, n] given rho
    hidden: np.ndarray  # [n] below the limit

    def seen(self) -> Mouse:
        keep = ~self.hidden
        parts = (x[keep] for x in (self.measured, self.mean, self.slope))
        return Mouse(self.drugs, *parts, self.covariance[np.ix_(keep, keep)], self.hidden[keep])


def mice_of(dataset: Dataset, panel: Panel, p: Mapping[str, np.ndarray]) -> dict[str, Mouse]:
    """Mean, slope in rho and covariance of every curve given its cell's effect, from the equations."""
    labels, shape = panel.labels, panel.shape
    grown, waned = (solved(np.array([REFERENCE_DAYS]), 0.0, *rates, shape)[0] for rates in ((1, 0), (0, 1)))
    fixed = solved(np.array([REFERENCE_DAYS]), 0.0, 0.0, 0.0, shape)[0]
    bend = (waned - fixed) / (grown - fixed)
    mice = {}
    for key, rows in dataset.used.groupby("mouse_key"):
        day = rows["day"].to_numpy()
        growth = np.exp(p["ln_growth"][labels.pdx_model.index(rows["pdx_model"].iloc[0])])
        fixed = solved(day, 0.0, 0.0, 0.0, shape)
        level, grown, waning = (solved(day, *unit, shape) - fixed for unit in np.eye(3))
        # eta, delta, zeta: the mouse's own intercept, mean rate and bend, the last two in units of growth
        columns = np.stack([level, growth * grown, growth * (waning - bend * grown)], 1)
        rate, bending = p["omega_mouse"], p["omega_curvature"]
        spread = np.diag([p["omega_intercept"] ** 2, rate**2, bending**2])
        spread[1, 2] = spread[2, 1] = p["curvature_correlation"] * rate * bending
        sigma = np.exp(p["ln_sigma"][labels.mouse.index(key)])
        drugs, kind = dataset.arms[rows["arm"].iloc[0]], rows["tumour_type"].iloc[0]
        names = [f"{dataset.substance(drug)} | {kind}" for drug in drugs]
        at = [labels.drug_type.index(name) for name in names]
        alone = [p["effect"][k] * at_dose(dataset, panel, p, drug) for k, drug in zip(at, drugs, strict=True)]
        weight = np.hypot(alone, SMOOTHING)
        loss = weight @ p["loss_drug_type"][at] / weight.sum() if drugs else 0.0
        mice[key] = Mouse(
            drugs=drugs,
            measured=np.log(rows["volume_mm3"].to_numpy()),
            mean=fixed + p["mu_intercept"] * level + growth * grown - growth * p["slowing"] * waning,
            slope=-growth * grown + growth * loss * waning,
            covariance=columns @ spread @ columns.T + sigma**2 * residual(day),
            hidden=rows["censored"].to_numpy(),
        )
    return mice


def solved(day: np.ndarray, eta: float, s: float, c: float, shape: CurveShape) -> np.ndarray:
    """ln volume by the exponential of a matrix: x' = s + c (1 - w) - b (x - ln 225), w' = -lambda w, x(0) = eta."""
    slow = shape.deceleration
    matrix = np.array([[-slow, s + c + slow * np.log(225.0), -c], [0, 0, 0], [0, 0, -shape.loss_rate]])
    return np.array([(expm(matrix * t) @ [eta, 1.0, 1.0])[0] for t in day])


def residual(day: np.ndarray) -> np.ndarray:
    """Covariance of the residuals over sigma^2, entry by entry: a process that starts at 0, and reading error."""

    def entry(s: float, t: float) -> float:
        return WHITE * (s == t) + (1 - WHITE) * (np.exp(-abs(s - t) / FORGET) - np.exp(-(s + t) / FORGET))

    return np.array([[entry(s, t) for s in day] for t in day])


def combined(effect: np.ndarray, phi: np.ndarray, gamma: np.ndarray, width: float = SMOOTHING) -> float:
    """The combination rule, written again: softmax leader, phi times the others, pairs of gamma."""
    leads = special.softmax(effect / width)
    joint = leads @ effect
    for a in range(len(effect)):
        for b in range(len(effect)):
            if a != b:
                joint += phi[a, b] * leads[a] * effect[b] + 0.5 * gamma[a, b]
    return joint


def at_dose(dataset: Dataset, panel: Panel, p: Mapping[str, np.ndarray], drug: str) -> float:
    """Effect of a drug at a dose over that at its reference dose, from the equations."""
    dose, labels = dataset.doses.get(drug), panel.labels.dosed_drug
    if dose is None or dose.drug not in labels:
        return 1.0
    d = labels.index(dose.drug)
    reference = panel.dosed.reference[d]
    if "hill" in p:
        power = p["hill"][d]
        half = reference * np.exp(p["ln_ed50"][d])
        at, most = (x**power / (x**power + half**power) for x in (dose.amount, reference))
        return at / most
    at, most = (
        0.05 * np.log1p(np.exp((1 + p["dose_slope"][d] * np.log(x / reference)) / 0.05))
        for x in (dose.amount, reference)
    )
    return at / most


def shifts(dataset: Dataset, panel: Panel, p: Mapping[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """What the covariates of each PDX model add to the effect of each drug, from the table; 0 without covariates."""
    labels = panel.labels
    models = dataset.used.drop_duplicates("pdx_model").set_index("pdx_model")
    effect = dict(zip(labels.class_covariate, p.get("covariate_effect", ()), strict=True))
    found = {}
    for model, row in models.iterrows():
        type_mean = models[models["tumour_type"] == row["tumour_type"]]
        for drug in labels.drug:
            names = labels.covariate
            gaps = [effect[f"{CLASSES[drug]} | {name}"] * (row[name] - type_mean[name].mean()) for name in names]
            found[model, drug] = sum(gaps, 0.0)
    return found


def explicit_log_density(
    dataset: Dataset, panel: Panel, p: Mapping[str, np.ndarray], more: Mapping[str, float] | None = None
) -> float:
    """Prior x likelihood of the explicit model: every parameter and effect from its own law, the curves given them.

    `more` is added to the mean of all effects of a PDX model.
    """
    labels = panel.labels
    kind_of = dict(dataset.used.drop_duplicates("pdx_model")[["pdx_model", "tumour_type"]].itertuples(index=False))
    model_of = dict(dataset.used.drop_duplicates("mouse_key")[["mouse_key", "pdx_model"]].itertuples(index=False))
    mice = {key: mouse.seen() for key, mouse in mice_of(dataset, panel, p).items()}
    scalars = SCALARS | COMBINATION_SCALARS
    total = sum(PRIOR[name][1].logpdf(p[site]) for site, name in scalars.items() if site in p)
    # a normal prior of the ln, as a density of the spread itself
    total += sum(PRIOR[name][1].logpdf(np.log(p[site])) - np.log(p[site]) for site, name in SPREADS.items())
    total += PRIOR["growth.mouse.between_models"][1].logpdf(p["omega_ln_growth"]).sum()
    if "ln_ed50" in p:
        total += DOSE_PRIOR["dose_response.ln_ed50"][1].logpdf(p["ln_ed50"]).sum()
    shift = {cell: by + (more or {}).get(cell[0], 0.0) for cell, by in shifts(dataset, panel, p).items()}
    for label, beta in zip(labels.class_covariate, p.get("covariate_effect", ()), strict=True):
        drug_class, name = label.split(" | ")
        total += COVARIATE_PRIOR[f"covariates.{name}.{drug_class}"][1].logpdf(beta)
    for site, name in (("hill", "dose_response.ln_hill"), ("dose_slope", "dose_response.ln_slope")):
        if site in p:
            total += (DOSE_PRIOR[name][1].logpdf(np.log(p[site])) - np.log(p[site])).sum()
    total += -np.log(1.98)  # the correlation is uniform on (-0.99, 0.99)

    logpdf = stats.norm.logpdf
    total += logpdf(p["ln_growth_type"], p["mu_ln_growth"], p["omega_ln_growth_type"]).sum()
    for m, model in enumerate(labels.pdx_model):
        t = labels.tumour_type.index(kind_of[model])
        total += logpdf(p["ln_growth"][m], p["ln_growth_type"][t], p["omega_ln_growth"][t])
    total += logpdf(p["ln_sigma_type"], p["mu_ln_sigma"], p["omega_ln_sigma_type"]).sum()
    for name, of_arm in zip(labels.arm_type, p["ln_sigma_arm"], strict=True):
        of_type = p["ln_sigma_type"][labels.tumour_type.index(name.rsplit(" | ", 1)[1])]
        total += logpdf(of_arm, of_type, p["omega_ln_sigma_arm"])
    arm_of = dict(dataset.used.drop_duplicates("mouse_key")[["mouse_key", "arm"]].itertuples(index=False))
    for key, own in zip(labels.mouse, p["ln_sigma"], strict=True):
        of_arm = p["ln_sigma_arm"][labels.arm_type.index(f"{arm_of[key]} | {kind_of[model_of[key]]}")]
        total += logpdf(own, of_arm, p["omega_ln_sigma"])
    total += logpdf(p["effect_class"], p["mu_effect"], p["omega_effect_class"]).sum()
    for d, drug in enumerate(labels.drug):
        of_class = p["effect_class"][labels.drug_class.index(CLASSES[drug])]
        total += logpdf(p["effect_drug"][d], of_class, p["omega_effect_drug"])
    total += logpdf(p["loss_drug_type"], p["loss"], p["omega_loss"]).sum()
    mean = dict(zip(labels.drug_type, p["effect"], strict=True))
    spread = dict(zip(labels.drug_type, p["omega_effect"], strict=True))
    for name in labels.drug_type:
        of_drug = p["effect_drug"][labels.drug.index(name.split(" | ")[0])]
        total += logpdf(mean[name], of_drug, p["omega_effect_type"])
        total += logpdf(np.log(spread[name]), p["mu_ln_omega_effect"], p["omega_ln_omega_effect"])
        total -= np.log(spread[name])
    if labels.combination_cell:
        total += logpdf(p["phi"], p["mu_phi"], p["omega_phi"]).sum()
        total += logpdf(p["gamma"], p["mu_gamma"], p["omega_gamma"]).sum()
        total += logpdf(p.get("combination_cell_z", np.zeros(0))).sum()
    rho = dict(zip(labels.pdx_model_drug, p.get("effect_site", ()), strict=True))
    for name, effect in rho.items():
        model, drug = name.split(" | ")
        cell = f"{drug} | {kind_of[model]}"
        total += logpdf(effect, mean[cell] + shift[model, drug], spread[cell])

    def normal(mouse: Mouse, effect: float, extra: float) -> float:
        covariance = mouse.covariance + extra**2 * np.outer(mouse.slope, mouse.slope)
        return stats.multivariate_normal.logpdf(mouse.measured, mouse.mean + effect * mouse.slope, covariance)

    deviation = {}
    shared = [name for c, name in enumerate(labels.combination_cell) if panel.combinations.shared[c] >= 0]
    for name, z in zip(shared, p.get("combination_cell_z", ()), strict=True):
        deviation[name] = p["omega_combination"] * z
    for key, mouse in mice.items():
        model = model_of[key]
        if not mouse.drugs:
            total += normal(mouse, 0.0, 0.0)
            continue
        drugs = [dataset.substance(drug) for drug in mouse.drugs]
        scale = np.array([at_dose(dataset, panel, p, drug) for drug in mouse.drugs])
        if len(drugs) == 1:
            name, cell = f"{model} | {drugs[0]}", f"{drugs[0]} | {kind_of[model]}"
            mouse = mouse._replace(slope=mouse.slope * scale[0])
            own = mean[cell] + shift[model, drugs[0]]
            total += normal(mouse, rho[name], 0.0) if name in rho else normal(mouse, own, spread[cell])
        else:
            effect = np.array([rho[f"{model} | {drug}"] for drug in drugs])
            pairs = pairs_of(labels.class_pair, drugs)
            together = scale.prod() ** (1 / len(scale))
            gamma = p["gamma"][pairs] * np.outer(scale, scale)
            joint = combined(effect * scale, p["phi"][pairs], gamma, SMOOTHING * together)
            name = f"{model} | {' + '.join(mouse.drugs)}"
            if name in deviation:
                total += normal(mouse, joint + deviation[name] * together, 0.0)
            else:
                total += normal(mouse, joint, p["omega_combination"] * together)
    return total


def pairs_of(known, drugs) -> np.ndarray:
    names = [[" x ".join(sorted((CLASSES[a], CLASSES[b]))) for b in drugs] for a in drugs]
    return np.array([[known.index(n) if i != j else 0 for j, n in enumerate(row)] for i, row in enumerate(names)])


# ------------------------------------------------------------------------------------------------ tests


class Small(NamedTuple):
    dataset: Dataset
    panel: Panel
    evidence: Evidence
    points: list[Point]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Small:
    """Every kind of cell, and evidence; seven points from one program."""
    dataset = table_of(tmp_path_factory.mktemp("small"), SMALL)
    panel = build_panel(dataset, CLASSES, SHAPE, [("A", "T1"), ("B", "OV")])
    cell = panel.labels.drug_type.index
    counts = (np.array([3.0]), np.array([9.0]), np.array([0.8]))
    observed = (np.array([0.4]), np.array([0.1]))
    at = (np.array([cell(name)], np.int32) for name in ("A | T1", "B | OV"))
    evidence = Evidence(next(at), *counts, next(at), *observed)
    with jax.enable_x64(True):
        return Small(dataset, panel, evidence, points_of(panel, range(7), evidence))


def test_priors_of_this_file_are_those_that_the_model_reads():
    assert set(PRIOR) == set(PRIORS)


def assert_explicit(point: Point, dataset: Dataset, panel: Panel, extra: float = 0.0) -> None:
    expected = explicit_log_density(dataset, panel, point.meaning) + point.ln_jacobian + extra
    # 1e-8 relative on a sum of about 150 terms that partly cancel, each from an ill-conditioned dense matrix
    np.testing.assert_allclose(point.log_density, expected, rtol=1e-8, atol=1e-6)


def test_density_is_prior_times_likelihood_of_the_explicit_model(small):
    at, seen = (small.panel.labels.drug_type.index(name) for name in ("A | T1", "B | OV"))
    for point in small.points:
        mean, spread = point.meaning["effect"], point.meaning["omega_effect"]
        share = stats.norm.sf(0.8, mean[at], spread[at])
        evidence = 3 * np.log(share) + 6 * np.log1p(-share)
        evidence += stats.norm.logpdf(0.4, mean[seen], np.hypot(spread[seen], 0.1))
        assert_explicit(point, small.dataset, small.panel, evidence)


def test_effect_behind_a_combination_is_drawn_given_its_lone_mouse(small):
    """Its z is standard normal given the curve: the site is the dense Gaussian conditional of rho at that quantile."""
    dataset, labels, point = small.dataset, small.panel.labels, small.points[0]
    p, z = point.meaning, point.sites["effect_site_z"]
    mice = mice_of(dataset, small.panel, p)
    for name, key in {"M1 | A": "S/a1", "M1 | B": "S/b1", "M3 | C": "S/cc3", "M3 | A": None}.items():
        cell = f"{name.split(' | ')[1]} | {'T1' if 'M1' in name else 'T2'}"
        x, at = labels.pdx_model_drug.index(name), labels.drug_type.index(cell)
        centre, scale = p["effect"][at], p["omega_effect"][at]
        if key is not None:
            mouse = mice[key]
            along = scale**2 * mouse.slope
            whole = mouse.covariance + scale**2 * np.outer(mouse.slope, mouse.slope)
            gap = mouse.measured - mouse.mean - centre * mouse.slope
            centre = centre + along @ np.linalg.solve(whole, gap)
            scale = np.sqrt(scale**2 - along @ np.linalg.solve(whole, along))
        np.testing.assert_allclose(p["effect_site"][x], centre + scale * z[x], rtol=1e-8, atol=1e-10)


def test_density_without_combinations(tmp_path):
    mice = {name: row for name, row in SMALL.items() if "+" not in row[2]}
    dataset = table_of(tmp_path, mice)
    panel = build_panel(dataset, CLASSES, SHAPE)
    assert panel.labels.pdx_model_drug == ("M2 | A",), "the replicated cell alone is explicit"
    with jax.enable_x64(True):
        (point,) = points_of(panel, [1])
    assert_explicit(point, dataset, panel)


@pytest.mark.long
def test_density_under_gompertz_growth(tmp_path):
    dataset = table_of(tmp_path, SMALL)
    panel = build_panel(dataset, CLASSES, SHAPE._replace(growth="gompertz", deceleration=0.012))
    with jax.enable_x64(True):
        points = points_of(panel, [2, 3])
    for point in points:
        assert_explicit(point, dataset, panel)


#: the same drug at several doses: in one PDX model, in several, alone and in combinations; C at one dose only
DOSED = {
    "c1": ("T1", "M1", "untreated", 6),
    "a1": ("T1", "M1", "A 10 mg/kg", 5),
    "b1": ("T1", "M1", "B", 2),
    "ab1": ("T1", "M1", "A 40 mg/kg + B", 6),
    "c2": ("T1", "M2", "untreated", 6),
    "a2": ("T1", "M2", "A 10 mg/kg", 6),
    "a3": ("T1", "M2", "A 40 mg/kg", 3),
    "ab2": ("T1", "M2", "A 10 mg/kg + B", 6),
    "ab3": ("T1", "M2", "A 40 mg/kg + B", 6),
    "ab4": ("T1", "M2", "A 40 mg/kg + B", 4),
    "c3": ("T2", "M3", "untreated", 6),
    "cc3": ("T2", "M3", "C 5 mg/kg", 6),
    "abc3": ("T2", "M3", "A 20 mg/kg + B + C 5 mg/kg", 6),
    "a4": ("T2", "M4", "A 2.5 mg/kg", 6),
}


@pytest.mark.long
@pytest.mark.parametrize("law", ["emax", "log_linear"])
def test_density_of_drugs_at_several_doses(tmp_path, law):
    """One effect of a drug in a PDX model, scaled by the dose, in curves, sites given lone mice, and combinations."""
    dataset = table_of(tmp_path, DOSED, doses=True)
    panel = build_panel(dataset, CLASSES, SHAPE, (), DoseResponse(law, {"A": 20.0}))
    labels = panel.labels
    assert labels.drug == ("A", "B", "C") and labels.dosed_drug == ("A",) and "M4 | A" not in labels.pdx_model_drug
    assert panel.labels.mouse[panel.sites.mouse[labels.pdx_model_drug.index("M1 | A")]] == "S/a1"
    with jax.enable_x64(True):
        points = points_of(panel, [4, 5])
    for point in points:
        assert_explicit(point, dataset, panel)
        # the site of M1 is drawn given its lone mouse, which had half the reference dose
        p, z = point.meaning, point.sites["effect_site_z"]
        x, at = labels.pdx_model_drug.index("M1 | A"), labels.drug_type.index("A | T1")
        mouse, scale = mice_of(dataset, panel, p)["S/a1"], at_dose(dataset, panel, p, "A 10 mg/kg")
        slope, centre, spread = scale * mouse.slope, p["effect"][at], p["omega_effect"][at]
        along = spread**2 * slope
        whole = mouse.covariance + spread**2 * np.outer(slope, slope)
        centre = centre + along @ np.linalg.solve(whole, mouse.measured - mouse.mean - centre * slope)
        spread = np.sqrt(spread**2 - along @ np.linalg.solve(whole, along))
        np.testing.assert_allclose(p["effect_site"][x], centre + spread * z[x], rtol=1e-8, atol=1e-10)


#: two covariates of PDX models: a mutation, and a number that varies in one tumour type only
OF_MODELS = {"M1": "1,2.5", "M2": "0,1.0", "M3": "1,3.0", "M4": "0,3.0"}


@pytest.mark.long
def test_density_with_covariates_of_pdx_models(tmp_path):
    """They move the mean of an effect, centred in the tumour type; evidence speaks of all PDX models of a type."""
    dataset = table_of(tmp_path, DOSED, doses=True, covariates=OF_MODELS)
    doses = DoseResponse("emax", {"A": 20.0})
    panel = build_panel(dataset, CLASSES, SHAPE, [("A", "T1"), ("B", "OV")], doses, ("K", "size"))
    labels = panel.labels
    assert labels.class_covariate == ("MEK | K", "MEK | size", "PI3K | K", "PI3K | size")
    np.testing.assert_allclose(panel.covariates.mean, [[0.5, 1.75], [0.5, 3.0]])
    cells = [np.array([labels.drug_type.index(name)], np.int32) for name in ("A | T1", "B | OV")]
    evidence = Evidence(
        cells[0], np.array([3.0]), np.array([9.0]), np.array([0.8]), cells[1], np.array([0.4]), np.array([0.1])
    )
    with jax.enable_x64(True):
        points = points_of(panel, [6, 7], evidence)
    for point in points:
        p = point.meaning
        mek_k, mek_size, pi3k_k, pi3k_size = p["covariate_effect"]
        # SDs over the PDX models of T1: 0.5 and 0.75; within all types: 0.5 and 0.75 / sqrt(2)
        spread = [p["omega_effect"][cell[0]] for cell in cells]
        t1 = np.sqrt(spread[0] ** 2 + (0.5 * mek_k) ** 2 + (0.75 * mek_size) ** 2)
        other = np.sqrt(spread[1] ** 2 + (0.5 * pi3k_k) ** 2 + (0.75 * pi3k_size) ** 2 / 2)
        share = stats.norm.sf(0.8, p["effect"][cells[0][0]], t1)
        known = 3 * np.log(share) + 6 * np.log1p(-share)
        known += stats.norm.logpdf(0.4, p["effect"][cells[1][0]], np.hypot(other, 0.1))
        assert_explicit(point, dataset, panel, known)


def test_log_likelihood_of_a_mouse_is_the_density_of_its_curve(small):
    """Per mouse: the curve given the population, its PDX model's growth, and the effects that are explicit."""
    dataset, panel, point = small.dataset, small.panel, small.points[1]
    mouse = mice_of(dataset, panel, point.meaning)["S/c1"]
    expected = stats.multivariate_normal.logpdf(mouse.measured, mouse.mean, mouse.covariance)
    found = point.derived["log_likelihood"][panel.labels.mouse.index("S/c1")]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_evidence_density_is_that_of_scipy():
    """Up to the binomial coefficients, which no parameter moves."""
    rng = np.random.default_rng(0)
    effect, omega = rng.normal(0.5, 0.3, 4), np.exp(rng.normal(-1.0, 0.3, 4))
    evidence = Evidence(
        count_cell=np.array([0, 2, 2], np.int32),
        r=np.array([2.0, 0.0, 18.0]),
        n=np.array([36.0, 36.0, 36.0]),
        threshold=np.array([1.0, 1.0, 0.3]),
        effect_cell=np.array([1, 3], np.int32),
        effect=np.array([0.4, 0.9]),
        effect_se=np.array([0.1, 0.3]),
    )
    with jax.enable_x64(True):
        found = evidence_density(jax.tree.map(jnp.asarray, evidence), jnp.asarray(effect), jnp.asarray(omega))
    share = stats.norm.sf(evidence.threshold, effect[[0, 2, 2]], omega[[0, 2, 2]])
    counts = stats.binom.logpmf(evidence.r, evidence.n, share) - np.log(special.comb(evidence.n, evidence.r))
    spread = np.hypot(omega[[1, 3]], evidence.effect_se)
    expected = counts.sum() + stats.norm.logpdf(evidence.effect, effect[[1, 3]], spread).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.long
def test_classes_are_a_multinomial_of_one_mouse_each():
    """Shares of classes by drawing mice from the equations; growth, own rate and residual are integrated over."""
    row = {"drug": "A", "tumour_type": "T", "kind": "classes", "growth_per_day": 0.06, "day": 42.0}
    shape = CurveShape()
    classes = class_arrays(pd.DataFrame([row | {"pd": 5.0, "sd": 3.0, "pr": 2.0, "cr": 1.0}]), ("A | T",), shape)
    assert classes is not None
    mice = MiceOfClasses(slowing=0.2, between=0.4, pace=0.25, residual=0.3)
    mean, spread, loss, number = 1.1, 0.35, 0.7, 200_000
    day, rng = np.linspace(10.0, 42.0, NUM_DAYS), np.random.default_rng(4)
    waning = day - (1 - np.exp(-0.02 * day)) / 0.02
    root = np.linalg.cholesky(residual_covariance(np.r_[0.0, day], shape))

    def shares(common: float = 0.0) -> np.ndarray:
        z = rng.normal(size=(3, number, 1))
        rho = mean + spread * z[0] + common * (rng.random((number, 1)) < 0.3)
        growth = 0.06 * np.exp(mice.between * z[1])
        change = growth * ((1 + mice.pace * z[2] - rho) * day + (loss * rho - mice.slowing) * waning)
        path = mice.residual * rng.normal(size=(number, NUM_DAYS + 1)) @ root.T
        best = np.expm1((change + path[:, 1:] - path[:, :1]).min(axis=1))
        return np.bincount(np.digitize(-best, [-0.35, 0.5, 0.95]), minlength=4) / number

    def share_of(place: int, mean, **mixture):
        own = classes._replace(mice=np.eye(4)[[place]])
        given = (jnp.asarray(x) for x in ([mean], [spread], [loss]))
        return class_density(jax.tree.map(jnp.asarray, own), *given, mice, **mixture)

    with jax.enable_x64(True):
        found = [float(share_of(place, mean)) for place in range(4)]
        mixed = [float(share_of(place, mean, share=0.3, common=1.1)) for place in range(4)]
        ends = [float(share_of(1, mean + step)) for step in (1e-5, -1e-5)]
        slope = jax.grad(lambda m: class_density(
            jax.tree.map(jnp.asarray, classes._replace(mice=np.eye(4)[[1]])), m[None], jnp.asarray([spread]),
            jnp.asarray([loss]), mice))(jnp.asarray(mean))  # fmt: skip
        whole = class_density(
            jax.tree.map(jnp.asarray, classes), *(jnp.asarray([x]) for x in (mean, spread, loss)), mice
        )
    for logs, drawn in ((found, shares()), (mixed, shares(1.1))):
        # 5 standard errors of the draws; 256 Sobol points are good to two in a hundred
        error = 5 * np.sqrt(drawn * (1 - drawn) / number) + 0.02 * drawn
        assert np.all(np.abs(np.exp(logs) - drawn) < error), (np.exp(logs), drawn)
        assert abs(np.exp(logs).sum() - 1) < 1e-12
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    np.testing.assert_allclose(whole, classes.mice[0] @ np.array(found), rtol=1e-12)


def test_the_share_between_two_bounds_is_exact_in_both_tails():
    low, high = np.array([30.0, -31.0, -0.4, 2.0]), np.array([31.0, -30.0, 0.3, 2.0 + 1e-9])
    with jax.enable_x64(True):
        found = log_share_between(jnp.asarray(low), jnp.asarray(high))
        slope = jax.vmap(jax.grad(log_share_between))(jnp.asarray(low), jnp.asarray(high))
    far = stats.norm.logsf(30) + np.log1p(-np.exp(stats.norm.logsf(31) - stats.norm.logsf(30)))
    middle = np.log(stats.norm.cdf(0.3) - stats.norm.cdf(-0.4))
    np.testing.assert_allclose(found[:3], [far, far, middle], rtol=1e-12)
    # a narrow range: what is left of float64 after the difference of two logarithms
    np.testing.assert_allclose(found[3], stats.norm.logpdf(2.0) + np.log(1e-9), rtol=1e-6)
    np.testing.assert_allclose(
        slope[:3], -np.exp(stats.norm.logpdf(low[:3]) - np.asarray(found[:3])), rtol=1e-8, atol=1e-14
    )


# ------------------------------------------------------------------------------------------------ what is integrated


@pytest.mark.long
def test_mouse_draws_agree_with_the_explicit_effects(small):
    """A cell whose effect is explicit has that effect; curves are known at least as well as their noise allows."""
    with jax.enable_x64(True):
        panel, point = small.panel, small.points[0]
        model = build_model(panel, prior(), mouse_level=True)
        size = 3000
        sites = {k: jnp.broadcast_to(v, (size, *v.shape)) for k, v in point.sites.items()}
        unconstrained = jax.vmap(lambda s: unconstrain_fn(model, (arrays_of(panel),), {}, s))(sites)
        drawn = mouse_draws(jax.random.key(5), model, arrays_of(panel), jax.tree.map(np.asarray, unconstrained))
    explicit = panel.curves.effect_site >= 0
    expected = point.derived["effect_site"][panel.curves.effect_site[explicit]]
    np.testing.assert_allclose(drawn.effect[:, explicit], np.broadcast_to(expected, (size, explicit.sum())), atol=1e-5)
    control = ~panel.curves.treated
    assert np.all(drawn.effect[:, control] == 0.0)
    fitted = np.einsum("sij,dsj->dsi", panel.curves.triangle, drawn.coefficient)
    gap = (panel.curves.statistics[None, :, :3] - fitted) / np.exp(point.derived["ln_sigma"])[None, :, None]
    assert np.isfinite(gap).all()
    # the posterior covariance of R theta is at most that of the noise, so that each curve's gap varies by at most p
    long = panel.curves.num_measurements >= 6
    spread = gap[:, long].var(axis=0).sum(-1)
    assert np.all(spread <= 3.0 * (1.0 + 5.0 * np.sqrt(2.0 / size)))
