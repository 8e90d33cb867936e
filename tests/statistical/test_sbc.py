"""Simulation-based calibration of the shipped model: rank of the truth among the draws, uniform for every parameter.

Talts et al. 2018 (arXiv:1804.06788). Data sets come from a generator written here from the equations, mouse by mouse,
with every effect and coefficient drawn explicitly; each is fitted with NUTS through :mod:`vtrial.inference`. Ranks are
judged by simultaneous bands for their ECDF (Saeilynoja et al. 2022, Stat Comput 32:32), family-wise over all
quantities.

The priors are narrower than the shipped ones, so that a panel of nine PDX models has sensible data under every draw
and the sampler needs no long warm-up; the model code is the same. Censored volumes are not simulated here: their
density is checked against orthant probabilities in ``tests/test_censored_density.py``.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import constrain_fn
from scipy import stats
from scipy.linalg import expm

import vtrial.curve_density
from vtrial.dataset import read_dataset
from vtrial.dose_response import DoseResponse
from vtrial.evidence import Evidence
from vtrial.evidence_density import class_arrays
from vtrial.inference import make_sampler
from vtrial.model import arrays_of, build_model
from vtrial.model_format import DOSE_PRIORS, PRIORS, RESPONDER_PRIORS, CurveShape
from vtrial.panel import Panel, build_panel
from vtrial.posterior import PDX_MODEL_LEVEL, POPULATION
from vtrial.variational import Start, first_guess

LOSS_RATE = 0.05
SHAPES = {
    "exponential": CurveShape(LOSS_RATE, 15.0, 0.2),
    "gompertz": CurveShape(LOSS_RATE, 15.0, 0.2, "gompertz", 0.03),
}
REFERENCE_DAYS = 28.0
SMOOTHING = 0.05
DAYS = np.arange(0.0, 43.0, 6.0)
PROCESS = np.exp(-np.abs(DAYS[:, None] - DAYS) / 15.0) - np.exp(-(DAYS[:, None] + DAYS) / 15.0)
ROOT = np.linalg.cholesky(0.8 * PROCESS + 0.2 * np.eye(len(DAYS)))
CLASSES = {"A": "MEK", "B": "PI3K", "C": "mTOR"}
WARMUP, KEPT, THIN = 120, 31, 8
FAMILY_WISE = 0.05
#: of the small one, which runs at every change: each moves the random numbers of the sampler, and 5 % would alarm
FALSE_ALARM = 0.001
#: models that only the slow tests look at
SLOW_ALONE = ("common responders", "log_linear, covariate", "three drugs, evidence")
#: fits that run side by side
BATCH = 40

#: name -> (mean, SD) of a normal, or of the ln of a log-normal
NORMAL = {
    "growth.mouse.ln_rate": (-2.7, 0.15),
    "growth.mouse.ln_volume_start": (5.4, 0.1),
    "growth.mouse.ln_between_mice_relative": (np.log(0.25), 0.3),
    "growth.mouse.ln_curvature_sd": (np.log(0.4), 0.3),
    "growth.mouse.loss": (0.5, 0.3),
    "growth.mouse.slowing": (0.1, 0.2),
    "growth.mouse.ln_residual_sd": (np.log(0.12), 0.2),
    "classes.default.mean_effect": (0.5, 0.25),
    "classes.default.ln_between_models": (np.log(0.35), 0.25),
    "class_pairs.default.phi": (0.5, 0.3),
    "class_pairs.default.gamma": (0.0, 0.1),
}
#: of the panel with a dose-response
DOSE_NORMAL = {
    "emax": {"dose_response.ln_ed50": (np.log(0.3), 0.7), "dose_response.ln_hill": (0.0, 0.3)},
    "log_linear": {"dose_response.ln_slope": (np.log(0.25), 0.3)},
}
#: and of its covariate, which every other PDX model has
COVARIATE_NORMAL = {"covariates.K.MEK": (0.2, 0.3), "covariates.K.PI3K": (0.0, 0.3)}
#: of common responders: parameters of a beta (larger than the shipped prior's: of nine PDX models three are such), mean
#: and SD of a ln
SHARE, LN_SHIFT = (3.0, 6.0), (np.log(0.9), 0.25)
LOGNORMAL = {
    "growth.mouse.between_types": (np.log(0.25), 0.3),
    "growth.mouse.between_models": (np.log(0.3), 0.25),
    "growth.mouse.intercept_sd": (np.log(0.2), 0.3),
    "growth.mouse.loss_spread": (np.log(0.15), 0.3),
    "growth.mouse.ln_residual_between_types": (np.log(0.2), 0.3),
    "growth.mouse.ln_residual_between_arms": (np.log(0.2), 0.3),
    "growth.mouse.ln_residual_spread": (np.log(0.3), 0.3),
    "classes.default.between_classes": (np.log(0.25), 0.3),
    "classes.default.between_drugs": (np.log(0.15), 0.3),
    "classes.default.between_types": (np.log(0.15), 0.3),
    "classes.default.ln_between_models_spread": (np.log(0.2), 0.3),
    "class_pairs.default.phi_spread": (np.log(0.2), 0.3),
    "class_pairs.default.gamma_spread": (np.log(0.1), 0.3),
    "class_pairs.default.between_models": (np.log(0.2), 0.3),
}


def priors() -> dict[str, dist.Distribution]:
    of_doses = DOSE_NORMAL["emax"] | DOSE_NORMAL["log_linear"]
    found = {name: dist.Normal(*at) for name, at in (NORMAL | of_doses | COVARIATE_NORMAL).items()}
    found |= {name: dist.LogNormal(*at) for name, at in LOGNORMAL.items()}
    share, shift = RESPONDER_PRIORS["common"]
    return found | {share: dist.Beta(*SHARE), shift: dist.LogNormal(*LN_SHIFT)}


# ------------------------------------------------------------------------------------------------ the generator


#: doses of A in the panel with a dose-response, mg/kg; the last is the reference
DOSES = (5.0, 20.0, 80.0)


def layout(dosed: bool = False, drugs: str = "AB") -> list[tuple[str, str, str, str]]:
    """(tumour type, PDX model, mouse, arm): lone and replicated single agents, lone and shared combinations.

    With `dosed` A is given at three doses, some PDX models have two of them, and every combination holds one; and a
    covariate of PDX models shifts the effects. With the drugs ABC there are three pairs of classes, one of which, A
    and C, is in combinations of three alone.
    """
    mice, together = [], ["A + B", "B + C", "A + B + C"] if "C" in drugs else ["A + B"]
    for m in range(9):
        kind = "T1" if m < 5 else "T2"
        arms = ["untreated", *drugs, *together]
        if m in (1, 6):
            arms += ["A", "A + B"]  # two mice each
        if m in (3, 8):
            arms = ["untreated", *drugs]  # no combination: their effects are integrated out
        if m in (4, 7):
            arms = [arm for arm in arms if arm not in ("B", "B + C")]  # B alone was never given
        if dosed:
            own = f"A {DOSES[m % 3]:g} mg/kg"
            arms = [arm.replace("A", own) for arm in arms] + [f"A {dose:g} mg/kg" for dose in DOSES[: m % 3]]
        mice += [(kind, f"M{m}", f"m{m}-{i}", arm) for i, arm in enumerate(arms)]
    return mice


MODELS = [f"M{m}" for m in range(9)]
#: published results beside the curves of three drugs: regressions of n PDX models, the SE of an effect (that of a TGI),
#: and mice by mRECIST class on days 10 to 42, with their median growth
REGRESSED, TGI_SE, NUM_CLASSED, CLASS_GROWTH = 12, 0.2, 15, 0.07
CLASS_DAYS = np.linspace(10.0, 42.0, 12)


def has_k(model: str) -> int:
    """The covariate of a PDX model."""
    return int(model[1:]) % 2


#: of M0 to M4, and of M5 to M8
SHARE_K = {"T1": 2 / 5, "T2": 2 / 4}


def at_dose(arm: str, truth: dict[str, float]) -> float:
    """Effect of A at the dose that the arm names over that at 80 mg/kg; 1 where it names none."""
    if "mg/kg" not in arm:
        return 1.0
    dose = float(arm.split()[1])
    if "dose_slope[0]" in truth:
        line = 1.0 + truth["dose_slope[0]"] * np.log(dose / DOSES[-1])
        return SMOOTHING * np.logaddexp(0.0, line / SMOOTHING) / (SMOOTHING * np.logaddexp(0.0, 1.0 / SMOOTHING))
    power, half = truth["hill[0]"], DOSES[-1] * np.exp(truth["ln_ed50[0]"])
    at, most = (x**power / (x**power + half**power) for x in (dose, DOSES[-1]))
    return at / most


def prior_draw(rng: np.random.Generator) -> dict[str, float]:
    drawn = {name: rng.normal(*at) for name, at in NORMAL.items()}
    return drawn | {name: float(np.exp(rng.normal(*at))) for name, at in LOGNORMAL.items()}


def combined(effect: dict[str, float], phi: dict[str, float], gamma: dict[str, float], width: float) -> float:
    """max of the effects, rounded off over `width`; each other adds phi times its own, each pair gamma."""
    weight = {drug: np.exp((own - max(effect.values())) / width) for drug, own in effect.items()}
    leads = {drug: own / sum(weight.values()) for drug, own in weight.items()}
    joint = sum(leads[drug] * own for drug, own in effect.items())
    for a, b in combinations(sorted(effect), 2):
        joint += phi[a + b] * (leads[a] * effect[b] + leads[b] * effect[a]) + gamma[a + b]
    return joint


def courses(day: np.ndarray, shape: CurveShape) -> tuple[np.ndarray, ...]:
    """What ln volume is without coefficients, and per unit of eta, s and c, by the exponential of a matrix.

    x' = s + c (1 - w) - b (x - ln 225), w' = -lambda w, from x = eta and w = 1; b is 0 for exponential growth.
    """

    def solved(eta: float, s: float, c: float) -> np.ndarray:
        slow = shape.deceleration
        matrix = np.array([[-slow, s + c + slow * np.log(225.0), -c], [0, 0, 0], [0, 0, -shape.loss_rate]])
        return np.array([(expm(matrix * t) @ [eta, 1.0, 1.0])[0] for t in day])

    fixed = solved(0.0, 0.0, 0.0)
    return fixed, *(solved(*unit) - fixed for unit in np.eye(3))


def simulate(
    rng: np.random.Generator, shape: CurveShape, law: str = "none", responders: bool = False, drugs: str = "AB"
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Truths by the name of the quantity, ln volumes by mouse, and with three drugs published results beside them."""
    dosed = law != "none"
    p = prior_draw(rng)
    truth = {
        "mu_ln_growth": p["growth.mouse.ln_rate"],
        "omega_ln_growth_type": p["growth.mouse.between_types"],
        "mu_effect": p["classes.default.mean_effect"],
        "omega_effect_class": p["classes.default.between_classes"],
        "omega_effect_drug": p["classes.default.between_drugs"],
        "omega_effect_type": p["classes.default.between_types"],
        "mu_ln_omega_effect": p["classes.default.ln_between_models"],
        "omega_ln_omega_effect": p["classes.default.ln_between_models_spread"],
        "mu_intercept": p["growth.mouse.ln_volume_start"],
        "omega_intercept": p["growth.mouse.intercept_sd"],
        "omega_mouse": np.exp(p["growth.mouse.ln_between_mice_relative"]),
        "omega_curvature": np.exp(p["growth.mouse.ln_curvature_sd"]),
        "curvature_correlation": rng.uniform(-0.99, 0.99),
        "loss": p["growth.mouse.loss"],
        "omega_loss": p["growth.mouse.loss_spread"],
        "slowing": p["growth.mouse.slowing"],
        "mu_ln_sigma": p["growth.mouse.ln_residual_sd"],
        "omega_ln_sigma_type": p["growth.mouse.ln_residual_between_types"],
        "omega_ln_sigma_arm": p["growth.mouse.ln_residual_between_arms"],
        "omega_ln_sigma": p["growth.mouse.ln_residual_spread"],
        "mu_phi": p["class_pairs.default.phi"],
        "omega_phi": p["class_pairs.default.phi_spread"],
        "mu_gamma": p["class_pairs.default.gamma"],
        "omega_gamma": p["class_pairs.default.gamma_spread"],
        "omega_combination": p["class_pairs.default.between_models"],
    }
    t = truth
    phi, gamma = {}, {}
    for k, (a, b) in enumerate(combinations(drugs, 2)):
        phi[a + b] = rng.normal(t["mu_phi"], t["omega_phi"])
        gamma[a + b] = rng.normal(t["mu_gamma"], t["omega_gamma"])
        t |= {f"phi[{k}]": phi[a + b], f"gamma[{k}]": gamma[a + b]}
    if dosed:
        of_law = [rng.normal(*at) for at in DOSE_NORMAL[law].values()]
        beta = [rng.normal(*at) for at in COVARIATE_NORMAL.values()]
        if law == "emax":
            t |= {"ln_ed50[0]": of_law[0], "hill[0]": np.exp(of_law[1])}
        else:
            t |= {"dose_slope[0]": np.exp(of_law[0])}
        t |= {f"covariate_effect[{k}]": value for k, value in enumerate(beta)}
    if responders:
        t |= {"responder_share": rng.beta(*SHARE), "responder_shift": np.exp(rng.normal(*LN_SHIFT))}
    mean, spread, loss = {}, {}, {}
    for d, drug in enumerate(drugs):
        of_class = rng.normal(t["mu_effect"], t["omega_effect_class"])
        of_drug = rng.normal(of_class, t["omega_effect_drug"])
        t |= {f"effect_class[{d}]": of_class, f"effect_drug[{d}]": of_drug}
        for k, kind in enumerate(("T1", "T2")):
            mean[drug, kind] = rng.normal(of_drug, t["omega_effect_type"])
            spread[drug, kind] = np.exp(rng.normal(t["mu_ln_omega_effect"], t["omega_ln_omega_effect"]))
            loss[drug, kind] = rng.normal(t["loss"], t["omega_loss"])
            t |= {f"loss_drug_type[{2 * d + k}]": loss[drug, kind]}
            t |= {f"effect[{2 * d + k}]": mean[drug, kind], f"omega_effect[{2 * d + k}]": spread[drug, kind]}
    of_type, between = {}, {}
    for k, kind in enumerate(("T1", "T2")):
        of_type[kind] = rng.normal(t["mu_ln_growth"], t["omega_ln_growth_type"])
        between[kind] = np.exp(rng.normal(*LOGNORMAL["growth.mouse.between_models"]))
        t |= {f"ln_growth_type[{k}]": of_type[kind], f"omega_ln_growth[{k}]": between[kind]}

    fixed, level, straight, waning = courses(DAYS, shape)
    _, _, at_reference, waned = courses(np.array([REFERENCE_DAYS]), shape)
    bend = (waned / at_reference)[0]
    scale = {kind: rng.normal(t["mu_ln_sigma"], t["omega_ln_sigma_type"]) for kind in ("T1", "T2")}
    mice = layout(dosed, drugs)
    arms = sorted({(arm, kind) for kind, _, _, arm in mice}, key=" | ".join)
    of_arm = {(arm, kind): rng.normal(scale[kind], t["omega_ln_sigma_arm"]) for arm, kind in arms}
    t |= {"ln_sigma_type[0]": scale["T1"], "ln_sigma_type[1]": scale["T2"]}
    t |= {f"ln_sigma_arm[{k}]": of_arm[arm] for k, arm in enumerate(arms)}
    curves, cells, growths, sigmas = {}, {}, {}, []
    together = {model: dict.fromkeys(arm for _, own, _, arm in mice if own == model and "+" in arm) for model in MODELS}
    for kind, model, mouse, arm in mice:
        if model not in growths:
            growths[model] = np.exp(rng.normal(of_type[kind], between[kind]))
            more = t["responder_shift"] * (rng.random() < t["responder_share"]) if responders else 0.0
            for d, drug in enumerate(drugs):
                cells[model, drug] = rng.normal(mean[drug, kind], spread[drug, kind]) + more
                if dosed:
                    cells[model, drug] += t[f"covariate_effect[{d}]"] * (has_k(model) - SHARE_K[kind])
            for both in together[model] or ["A + B"]:
                # gamma goes with the strengths of both drugs, of which B has 1; rounding and deviation with their root
                dose, mean_dose = at_dose(both, t), np.sqrt(at_dose(both, t))
                effect = {part[0]: cells[model, part[0]] * at_dose(part, t) for part in both.split(" + ")}
                at_doses = {pair: dose * of_pair for pair, of_pair in gamma.items()}
                joint = combined(effect, phi, at_doses, mean_dose * SMOOTHING)
                cells[model, both] = joint + mean_dose * t["omega_combination"] * rng.normal()
            cells[model, "untreated"] = 0.0
        if arm.startswith("A ") and "+" not in arm:
            cells[model, arm] = at_dose(arm, t) * cells[model, "A"]
        g, rho = growths[model], cells[model, arm]
        rate, other = rng.normal(size=2)
        bending = t["omega_curvature"] * (
            t["curvature_correlation"] * rate + np.sqrt(1 - t["curvature_correlation"] ** 2) * other
        )
        start = rng.normal(t["mu_intercept"], t["omega_intercept"])
        grown = (
            g * straight
            + t["omega_mouse"] * rate * g * straight
            + bending * g * (waning - bend * straight)
            - t["slowing"] * g * waning
        )
        parts = arm.split(" + ") if rho else []
        weight = [np.hypot(mean[part[0], kind] * at_dose(part, t), SMOOTHING) for part in parts]
        lost = np.average([loss[part[0], kind] for part in parts], weights=weight) if rho else 0.0
        killed = rho * g * (straight - lost * waning)
        sigma = np.exp(rng.normal(of_arm[arm, kind], t["omega_ln_sigma"]))
        sigmas.append(sigma)
        curves[mouse] = fixed + start * level + grown - killed + sigma * ROOT @ rng.normal(size=len(DAYS))
    t |= {"ln_growth[0]": np.log(growths["M0"]), "ln_growth[8]": np.log(growths["M8"])}
    # M0 and M1 have lone and replicated single agents behind a combination, M4 a drug that was never given alone
    t |= {"site M0 | A": cells["M0", "A"], "site M1 | A": cells["M1", "A"], "site M4 | B": cells["M4", "B"]}
    rows = {}
    if "C" in drugs:
        above = stats.norm.sf((1.0 - mean["A", "T1"]) / spread["A", "T1"])
        rows["r"] = np.array([rng.binomial(REGRESSED, above)], float)
        rows["effect"] = np.array([rng.normal(mean["C", "T1"], np.hypot(spread["C", "T1"], TGI_SE))])
        # mice of new PDX models, by the limits of mRECIST; the reading error of day 0 is in the change on every day
        typical = np.exp(np.mean(np.log([between[kind] for kind in ("T1", "T2")])))
        own = rng.normal(size=(3, NUM_CLASSED, 1))
        growth, rho = CLASS_GROWTH * np.exp(typical * own[0]), mean["B", "T2"] + spread["B", "T2"] * own[1]
        _, _, straight, waning = courses(CLASS_DAYS, shape)
        process = np.exp(-np.abs(CLASS_DAYS[:, None] - CLASS_DAYS) / 15.0)
        process -= np.exp(-(CLASS_DAYS[:, None] + CLASS_DAYS) / 15.0)
        path = rng.multivariate_normal(np.zeros(len(CLASS_DAYS)), 0.8 * process + 0.2, NUM_CLASSED)
        path += np.sqrt(0.2) * (rng.normal(size=path.shape))
        residual = np.sqrt(np.mean(np.square(sigmas))) * path
        rate = 1 + t["omega_mouse"] * own[2] - rho
        course = growth * (rate * straight + (loss["B", "T2"] * rho - t["slowing"]) * waning) + residual
        best = np.expm1(course.min(axis=1))
        classed = [best > 0.35, (best <= 0.35) & (best > -0.5), (best <= -0.5) & (best > -0.95), best <= -0.95]
        rows["mice"] = np.array([[which.sum() for which in classed]], float)
    return t, curves, rows


# ------------------------------------------------------------------------------------------------ the fits


class Design(NamedTuple):
    """One panel layout: shapes and labels; its numbers are replaced data set by data set."""

    panel: Panel
    orthogonal: np.ndarray  # [n, 3], the same for every mouse, of curves with independent residuals
    fixed: np.ndarray  # [n] of ln volume, whatever the coefficients
    law: str = "none"
    responders: bool = False
    drugs: str = "AB"
    evidence: Evidence | None = None

    def model(self):
        return build_model(self.panel, priors(), responders="common" if self.responders else "none")

    def simulate(self, rng: np.random.Generator):
        return simulate(rng, self.panel.shape, self.law, self.responders, self.drugs)


@pytest.fixture(scope="module")
def designs(tmp_path_factory) -> dict[str, Design]:
    found = {law: designed(tmp_path_factory, shape) for law, shape in SHAPES.items()}
    found |= {"common responders": found["exponential"]._replace(responders=True)}
    found |= {f"{law}, covariate": designed(tmp_path_factory, SHAPES["exponential"], law) for law in DOSE_NORMAL}
    return found | {"three drugs, evidence": designed(tmp_path_factory, SHAPES["exponential"], drugs="ABC")}


@pytest.fixture(scope="module")
def design(designs) -> Design:
    return designs["exponential"]


def designed(tmp_path_factory, shape: CurveShape, law: str = "none", drugs: str = "AB") -> Design:
    path, dosed = tmp_path_factory.mktemp("sbc") / "table.csv", law != "none"
    rng = np.random.default_rng(0)
    lines = ["study,tumour_type,pdx_model,K,mouse,arm,day,volume_mm3"]
    for kind, model, mouse, arm in layout(dosed, drugs):
        own = f"S,{kind},{model},{has_k(model)},{mouse},{arm}"
        lines += [f"{own},{day:g},{200 * np.exp(0.1 * rng.normal()):.3f}" for day in DAYS]
    path.write_text("\n".join(lines) + "\n")
    doses = DoseResponse(law, {"A": DOSES[-1]}) if dosed else None
    panel = build_panel(read_dataset(path, doses=dosed), CLASSES, shape, (), doses, ("K",) if dosed else ())
    fixed, *columns = courses(DAYS, shape)
    orthogonal = np.linalg.solve(ROOT, np.stack(columns, 1)) @ np.linalg.inv(panel.curves.triangle[0])
    assert np.allclose(orthogonal.T @ orthogonal, np.eye(3)) and np.ptp(panel.curves.triangle, axis=0).max() < 1e-12
    return Design(panel, orthogonal, fixed, law, drugs=drugs, evidence=published(panel) if "C" in drugs else None)


def published(panel: Panel) -> Evidence:
    """One row of each kind, as the table would give them; what was observed is replaced data set by data set."""
    cell = {name: np.array([panel.labels.drug_type.index(name)], np.int32) for name in ("A | T1", "C | T1", "B | T2")}
    row = {"drug": "B", "tumour_type": "T2", "kind": "classes", "growth_per_day": CLASS_GROWTH, "day": CLASS_DAYS[-1]}
    classes = class_arrays(
        pd.DataFrame([row | dict.fromkeys(("pd", "sd", "pr", "cr"), 0.0)]), panel.labels.drug_type, panel.shape
    )
    counted = (cell["A | T1"], np.zeros(1), np.array([float(REGRESSED)]), np.ones(1))
    return Evidence(*counted, cell["C | T1"], np.zeros(1), np.full(1, TGI_SE), classes)


def statistics_of(design: Design, curves: dict[str, np.ndarray]) -> np.ndarray:
    raw = [curves[key.removeprefix("S/")] - design.fixed for key in design.panel.labels.mouse]
    measured = np.linalg.solve(ROOT, np.stack(raw, 1)).T
    carried = measured @ design.orthogonal
    left = np.sum((measured - carried @ design.orthogonal.T) ** 2, axis=1)
    return np.concatenate([carried, left[:, None]], axis=1)


def flat(design: Design, sites: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """The quantities whose ranks are looked at, scalars by name; the key draws which PDX models are responders."""
    found = {}
    if design.responders:
        responder = jax.random.uniform(key, sites["responder_probability"].shape) < sites["responder_probability"]
        both = sites["effect_site_common"], sites["effect_site"]
        sites = sites | {"effect_site": jnp.where(responder[design.panel.sites.pdx_model], *both)}
    for name, value in sites.items():
        if name not in (*POPULATION, *PDX_MODEL_LEVEL):
            continue
        if name == "effect_site":
            for site in ("M0 | A", "M1 | A", "M4 | B"):
                found[f"site {site}"] = value[design.panel.labels.pdx_model_drug.index(site)]
        elif value.ndim == 0:
            found[name] = value
        else:
            found |= {f"{name}[{i}]": value[i] for i in range(len(value))}
    return found


def ranks_of(design: Design, seed: int, num_data_sets: int, batch: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, ranks [data set, quantity] in 0..KEPT, and the share of divergent draws; one program for all fits."""
    rng = np.random.default_rng(seed)
    truths, tables, published = zip(*(design.simulate(rng) for _ in range(num_data_sets)), strict=True)
    names = sorted(truths[0])
    statistics = np.stack([statistics_of(design, curves) for curves in tables])
    rows = {name: np.stack([own[name] for own in published]) for name in published[0]}
    with jax.enable_x64(True):
        model, arrays = design.model(), arrays_of(design.panel, design.evidence)
        # the start is the same for all: the centre of the priors, and one scale
        guess = first_guess(jax.random.key(0), model, arrays, {})
        start = Start(guess, {name: jnp.full_like(v, 0.3) for name, v in guess.items()}, np.zeros(0))
        sampler = make_sampler(
            model, arrays, start, num_warmup=WARMUP, target_accept=0.8, max_tree_depth=5, collective=("ln_growth",)
        )

        def one_fit(item):
            key, numbers, observed = item
            own = arrays._replace(curves=arrays.curves._replace(statistics=numbers))
            if observed:
                classes = own.evidence.classes._replace(mice=observed["mice"])
                published = {name: observed[name] for name in ("r", "effect")}
                own = own._replace(evidence=own.evidence._replace(classes=classes, **published))
            state = sampler.init(key, jnp.zeros_like(ravel_pytree(guess)[0]))

            # warm-up and draws in one loop, so that the sampler is compiled once
            def step(carry, _):
                state, diverging = carry
                state = sampler.step(state, own)
                return state, diverging + state.diverging

            def keep(state, _):
                state, diverging = jax.lax.fori_loop(0, THIN, lambda _, c: step(c, None), (state, 0))
                return state, (sampler.unconstrained(state.z), diverging)

            _, (z, diverging) = jax.lax.scan(keep, state, None, length=WARMUP // THIN + KEPT)
            z = jax.tree.map(lambda v: v[WARMUP // THIN :], z)

            def scalars(each):
                z, key = each
                found = flat(design, constrain_fn(model, (own,), {}, z, return_deterministic=True), key)
                return jnp.stack([found[name] for name in names])

            each = z, jax.random.split(jax.random.fold_in(key, 1), KEPT)
            return jax.lax.map(scalars, each), jnp.sum(diverging[WARMUP // THIN :])

        keys = jax.random.split(jax.random.key(seed), num_data_sets)
        fits = jax.jit(lambda items: jax.lax.map(one_fit, items, batch_size=batch))
        draws, diverging = fits((keys, jnp.asarray(statistics), jax.tree.map(jnp.asarray, rows)))
    truth = np.array([[t[name] for name in names] for t in truths])
    ranks = np.sum(np.asarray(draws) < truth[:, None, :], axis=1)
    return names, ranks, np.asarray(diverging) / (KEPT * THIN)


# ------------------------------------------------------------------------------------------------ the bands


def band_statistic(ranks: np.ndarray) -> np.ndarray:
    """Smallest pointwise two-sided probability of the ECDF of the ranks [..., N] over all rank values."""
    num = ranks.shape[-1]
    at = np.arange(KEPT)
    count = np.sum(ranks[..., None] <= at, axis=-2)
    share = (at + 1) / (KEPT + 1)
    two_sided = 2 * np.minimum(stats.binom.cdf(count, num, share), stats.binom.sf(count - 1, num, share))
    return two_sided.min(axis=-1)


def band_limit(num_data_sets: int, level: float) -> float:
    """The `level` quantile of the statistic for uniform ranks: what stays above lies inside the simultaneous band.

    By simulation down to one in a thousand, below that by Bonferroni over the values of a rank (never too large).
    """
    if level < 0.001:
        return level / KEPT
    rng = np.random.default_rng(99)
    null = np.concatenate([band_statistic(rng.integers(0, KEPT + 1, (2000, num_data_sets))) for _ in range(10)])
    return float(np.quantile(null, level, method="lower"))


def outside(names: list[str], ranks: np.ndarray, family_wise: float) -> dict[str, float]:
    """Quantities whose ranks leave the band, with their statistic."""
    limit = band_limit(len(ranks), family_wise / len(names))
    found = band_statistic(ranks.T)
    return {name: float(v) for name, v in zip(names, found, strict=True) if v < limit}


# ------------------------------------------------------------------------------------------------ tests


def test_the_band_knows_uniform_ranks_from_others():
    """The bands themselves: they hold their level, and see a shift, too little and too much spread."""
    rng = np.random.default_rng(5)
    num = 100
    limit = band_limit(num, 0.05)
    null = band_statistic(rng.integers(0, KEPT + 1, (4000, num)))
    # binomial error of 4,000 tries, and of the limit itself from 20,000; the statistic is discrete, less is fine
    assert 0.02 < np.mean(null < limit) < 0.05 + 5 * np.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 20_000))
    u = rng.uniform(size=(200, num))
    for name, wrong in {
        "shift": u**1.8,
        "narrow": stats.beta.ppf(u, 2.2, 2.2),
        "wide": stats.beta.ppf(u, 0.5, 0.5),
    }.items():
        power = np.mean(band_statistic(np.floor(wrong * (KEPT + 1)).astype(int)) < limit)
        assert power > 0.8, name


@pytest.mark.parametrize(
    "law",
    [
        "exponential",
        "emax, covariate",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_ALONE),
    ],
)
def test_the_generator_and_the_model_agree_on_what_is_ranked(designs, law):
    """Every truth has a parameter of the model beside it: a quantity without ranks would never be missed."""
    design = designs[law]
    truth, curves, rows = design.simulate(np.random.default_rng(1))
    assert set(curves) == {mouse for _, _, mouse, _ in layout(design.law != "none", design.drugs)}
    assert bool(rows) == (design.evidence is not None)
    panel = design.panel
    assert (panel.sites.mouse >= 0).sum() > 4 and (panel.combinations.shared >= 0).sum() == 2
    with jax.enable_x64(True):
        model, arrays = design.model(), arrays_of(panel, design.evidence)
        guess = first_guess(jax.random.key(0), model, arrays, {})
        values = jax.jit(partial(constrain_fn, model, (arrays,), {}, return_deterministic=True))(guess)
        found = flat(design, values, jax.random.key(1))
    assert set(found) - {f"ln_growth[{i}]" for i in range(1, 8)} == set(truth)
    of_laws = {name for law in DOSE_PRIORS.values() for name in law}
    assert set(priors()) == {*PRIORS, *of_laws, *COVARIATE_NORMAL, *RESPONDER_PRIORS["common"]}


@pytest.mark.long
@pytest.mark.parametrize(
    ("law", "seed"),
    [
        ("exponential", 103),
        pytest.param("gompertz", 111, marks=pytest.mark.slow),
        ("emax, covariate", 121),
        pytest.param("common responders", 131, marks=pytest.mark.slow),
    ],
)
def test_ranks_of_forty_data_sets_are_uniform(designs, law, seed):
    names, ranks, diverging = ranks_of(designs[law], seed, BATCH, BATCH)
    assert diverging.mean() < 0.01
    assert not outside(names, ranks, FALSE_ALARM)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "seed"),
    [
        ("exponential", 202),
        ("gompertz", 212),
        ("emax, covariate", 223),
        ("common responders", 245),
        ("log_linear, covariate", 251),
        ("three drugs, evidence", 261),
    ],
)
def test_ranks_of_five_hundred_data_sets_are_uniform(designs, law, seed):
    names, ranks, diverging = ranks_of(designs[law], seed, 13 * BATCH, BATCH)
    assert diverging.mean() < 0.01
    assert not outside(names, ranks, FAMILY_WISE)


def wrong_sign(shared, growth, effect, loss):
    """The mean of the coefficients with the waning of the effect subtracted, not added."""
    intercept = jnp.broadcast_to(shared["mu_intercept"], growth.shape)
    return [intercept, growth * (1.0 - effect), -growth * (loss * effect - shared["slowing"])]


@pytest.mark.slow
def test_a_planted_sign_is_caught(design, monkeypatch):
    monkeypatch.setattr(vtrial.curve_density, "coefficient_mean", wrong_sign)
    names, ranks, _ = ranks_of(design, 303, BATCH, BATCH)
    assert {"loss", "slowing"} & set(outside(names, ranks, FALSE_ALARM))


@pytest.mark.slow
def test_a_planted_scale_is_caught(design, monkeypatch):
    """The residual SD used in the density is 1.5 times the one that is sampled."""
    honest = vtrial.curve_density.LinearGaussianMarginal
    monkeypatch.setattr(
        vtrial.curve_density,
        "LinearGaussianMarginal",
        lambda mean, covariance, ln_sigma, *rest: honest(mean, covariance, ln_sigma + np.log(1.5), *rest),
    )
    names, ranks, _ = ranks_of(design, 404, BATCH, BATCH)
    assert "mu_ln_sigma" in outside(names, ranks, FALSE_ALARM)
