"""Recovery: a panel simulated from known truths, fitted with the shipped priors; intervals hold the truths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vtrial.config import FitConfig
from vtrial.dataset import read_dataset
from vtrial.diagnostics import arviz
from vtrial.inference import fit
from vtrial.model import arrays_of, build_model
from vtrial.model_format import PRIORS, RESPONDER_PRIORS, CurveShape
from vtrial.panel import build_panel
from vtrial.priors import load_priors
from vtrial.responders import drawn

pytestmark = pytest.mark.slow

LOSS_RATE = 0.02
SHAPES = {
    "exponential": CurveShape(LOSS_RATE, 20.0, 0.1),
    "gompertz": CurveShape(LOSS_RATE, 20.0, 0.1, "gompertz", 0.012),
}
REFERENCE_DAYS = 28.0
DAYS = np.arange(0.0, 50.0, 4.0)
CLASSES = {"A": "MEK", "B": "MEK", "C": "PI3K", "D": "PI3K", "E": "CDK", "F": "CDK"}
TRUTH = dict(
    mu_intercept=5.4,
    omega_intercept=0.25,
    omega_mouse=0.22,
    omega_curvature=0.6,
    curvature_correlation=-0.3,
    loss=0.4,
    omega_loss=0.2,
    slowing=0.15,
    mu_ln_sigma=-2.0,
    omega_ln_sigma=0.4,
    omega_ln_sigma_arm=0.2,
    omega_combination=0.2,
)
PHI, GAMMA = 0.5, 0.1
MODELS = {"T1": 20, "T2": 20}
#: of common responders, where there are such: every fifth PDX model
SHIFT, EVERY = 0.9, 5


def courses(day: np.ndarray, shape: CurveShape) -> tuple[np.ndarray, ...]:
    """What ln volume is without coefficients, and per unit of level, rate and what comes back; DAYS or one day."""
    straight, waning = day, day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE
    if shape.growth == "exponential":
        return 0 * day, 1 + 0 * day, straight, waning
    b = shape.deceleration
    straight = (1 - np.exp(-b * day)) / b
    # exp(-b (t - u)) (1 - exp(-lambda u)) by the midpoint rule, good to 1e-7 of its value
    at = (np.arange(4000) + 0.5) / 4000 * day[:, None]
    waning = day * np.mean(np.exp(-b * (day[:, None] - at)) * -np.expm1(-LOSS_RATE * at), axis=1)
    return np.log(225.0) * (1 - np.exp(-b * day)), np.exp(-b * day), straight, waning


def simulate(
    rng: np.random.Generator, shape: CurveShape, responders: str = "none"
) -> tuple[dict[str, float], list[str]]:
    """Truths by "site[label]", and the lines of a table of 40 models x (control, six drugs, A + C)."""
    truth, lines = dict(TRUTH), ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    fixed, level, straight, waning = courses(DAYS, shape)
    process = np.exp(-np.abs(DAYS[:, None] - DAYS) / 20.0) - np.exp(-(DAYS[:, None] + DAYS) / 20.0)
    root = np.linalg.cholesky(0.9 * process + 0.1 * np.eye(len(DAYS)))
    _, _, at_reference, waned = courses(np.array([REFERENCE_DAYS]), shape)
    bend = waned / at_reference
    centre = {"A": 0.8, "B": 0.7, "C": 0.4, "D": 0.3, "E": 0.2, "F": 0.5}
    number = 0
    for kind, ln_growth in (("T1", np.log(0.05)), ("T2", np.log(0.07))):
        truth |= {f"ln_growth_type[{kind}]": ln_growth, f"omega_ln_growth[{kind}]": 0.45}
        truth[f"ln_sigma_type[{kind}]"] = -2.1 if kind == "T1" else -1.9
        for arm in ("untreated", *CLASSES, "A + C"):
            of_arm = truth[f"ln_sigma_type[{kind}]"] + TRUTH["omega_ln_sigma_arm"] * rng.normal()
            truth[f"ln_sigma_arm[{arm} | {kind}]"] = of_arm
        for drug in CLASSES:
            mean = centre[drug] + 0.1 * rng.normal()
            truth[f"loss_drug_type[{drug} | {kind}]"] = TRUTH["loss"] + TRUTH["omega_loss"] * rng.normal()
            truth |= {f"effect[{drug} | {kind}]": mean, f"omega_effect[{drug} | {kind}]": 0.3}
        for _ in range(MODELS[kind]):
            model, number = f"M{number:02d}", number + 1
            growth = np.exp(ln_growth + 0.45 * rng.normal())
            truth[f"ln_growth[{model}]"] = np.log(growth)
            more = SHIFT if responders == "common" and (number - 1) % EVERY == 0 else 0.0
            rho = {drug: truth[f"effect[{drug} | {kind}]"] + 0.3 * rng.normal() + more for drug in CLASSES}
            a, c = rho["A"], rho["C"]
            truth |= {f"effect_site[{model} | A]": a, f"effect_site[{model} | C]": c}
            share = 1 / (1 + np.exp((c - a) / 0.05))
            joint = share * a + (1 - share) * c + PHI * (share * c + (1 - share) * a) + GAMMA
            cells = {"untreated": 0.0, **rho, "A + C": joint + TRUTH["omega_combination"] * rng.normal()}
            for arm, effect in cells.items():
                rate, rest = rng.normal(size=2)
                correlation = TRUTH["curvature_correlation"]
                curve = TRUTH["omega_curvature"] * (correlation * rate + np.sqrt(1 - correlation**2) * rest)
                start = TRUTH["mu_intercept"] + TRUTH["omega_intercept"] * rng.normal()
                own = TRUTH["omega_mouse"] * rate * straight + curve * (waning - bend * straight)
                names = [f"{drug} | {kind}" for drug in arm.split(" + ") if drug in CLASSES]
                weight = [np.hypot(truth[f"effect[{name}]"], 0.05) for name in names]
                losses = [truth[f"loss_drug_type[{name}]"] for name in names]
                lost = effect * np.average(losses, weights=weight) if names else 0.0
                course = (1 - effect) * straight + (lost - TRUTH["slowing"]) * waning
                ln_sigma = truth[f"ln_sigma_arm[{arm} | {kind}]"]
                sigma = np.exp(ln_sigma + TRUTH["omega_ln_sigma"] * rng.normal())
                volume = np.exp(
                    fixed + start * level + growth * (course + own) + sigma * root @ rng.normal(size=len(DAYS))
                )
                lines += [
                    f"S,{kind},{model},{model}-{arm},{arm},{d:g},{v:.6g}" for d, v in zip(DAYS, volume, strict=True)
                ]
    return truth, lines


@pytest.mark.parametrize(
    ("law", "responders"), [("exponential", "none"), ("gompertz", "none"), ("exponential", "common")]
)
def test_truths_lie_inside_their_intervals(tmp_path, law, responders):
    shape = SHAPES[law]
    truth, lines = simulate(np.random.default_rng(20), shape, responders)
    if responders == "common":
        truth |= {"responder_share": 1 / EVERY, "responder_shift": SHIFT}
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    dataset = read_dataset(path)
    panel = build_panel(dataset, CLASSES, shape)
    config = FitConfig(chains=2, warmup=300, draws=400, block=100, svi_steps=1000, max_tree_depth=7)
    dims = {
        "ln_growth_type": "tumour_type",
        "omega_ln_growth": "tumour_type",
        "ln_sigma_type": "tumour_type",
        "ln_sigma_arm": "arm_type",
        "loss_drug_type": "drug_type",
        "effect": "drug_type",
        "omega_effect": "drug_type",
        "ln_growth": "pdx_model",
        "effect_site": "pdx_model_drug",
    }
    sites = (*TRUTH, *dims, "phi", "gamma", "responder_share", "responder_shift")
    sites += ("responder_probability", "effect_site_common")
    with jax.enable_x64(True):
        prior = load_priors().distributions((*PRIORS, *RESPONDER_PRIORS[responders]))
        model = build_model(panel, prior, responders=responders)
        result = fit(
            jax.random.key(21), model, arrays_of(panel), {"ln_growth": jnp.asarray(panel.initial_growth)}, config,
            sites, lambda *_: None, jax.devices("cpu"), collective=("ln_growth",),
        )  # fmt: skip
    assert result.stats["diverging"].mean() < 0.01
    values = result.values
    if responders == "common":
        values = drawn(jax.random.key(22), values, panel.sites.pdx_model)
        # six drugs, each with a spread of 0.3 and known to about 0.25: the shift is 5.6 SD of what their mean says, the
        # log likelihood ratio +-15.7 with SD 5.6. Less than 0.9 is given to the truth of a responder with probability
        # 0.015, of another with 0.004: 0.25 of the forty, and two or more of them in 3 % of such data
        probability = values["responder_probability"].mean((0, 1))
        is_one = np.array([int(model[1:]) % EVERY == 0 for model in panel.labels.pdx_model])
        assert (np.where(is_one, probability, 1.0 - probability) < 0.9).sum() < 2
    draws = {}
    for name, value in values.items():
        for i in range(value.shape[2]) if value.ndim == 3 else [None]:
            if i is None:
                draws[name] = value
            elif name in dims:
                draws[f"{name}[{getattr(panel.labels, dims[name])[i]}]"] = value[..., i]
    assert set(truth) <= set(draws)
    size = {name: float(arviz.ess(draws[name])) for name in truth}
    assert min(size.values()) > 40, min(size, key=size.get)

    rank = {name: np.mean(draws[name] < value) for name, value in truth.items()}
    # what was drawn anew for each model, and what governs all: each set covers at its rate
    models = [name for name in truth if name.startswith(("ln_growth[", "effect_site["))]
    governing = [name for name in truth if name not in models]
    for chosen in (models, governing):
        missed = [name for name in chosen if not 0.025 < rank[name] < 0.975]
        # misses of one panel hang together: half as many independent ones, 99.9 % of Binomial(n / 2, 0.05)
        assert len(missed) <= 2 * stats.binom.ppf(0.999, len(chosen) // 2, 0.05), missed
    # none is lost: 4.5 posterior SDs away
    for name, value in truth.items():
        assert abs(draws[name].mean() - value) < 4.5 * draws[name].std(), name
    # phi and gamma trade with each other: their sum at the median effect of the weaker drug is what the curves know
    single = np.array([[truth[f"effect_site[M{m:02d} | {drug}]"] for drug in "AC"] for m in range(40)])
    weaker = np.median(single.min(axis=1))
    together = (result.values["phi"] * weaker + result.values["gamma"])[..., 0]
    assert abs(together.mean() - (PHI * weaker + GAMMA)) < 4 * together.std() and together.std() < 0.15
