"""The model of `benchmarks/effective_draws.py` in PyMC, sampled by nutpie.

That file starts it, in an interpreter with both. Reads data.npz and settings.json of the folder that it is given,
writes draws.npz, prints processor seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import nutpie
import pymc as pm
import pytensor.tensor as pt

KEPT = (
    "mu_ln_growth", "ln_growth_type", "omega_ln_growth", "mu_effect", "effect", "omega_effect", "mu_intercept",
    "omega_intercept", "omega_mouse", "omega_curvature", "curvature_correlation", "loss", "omega_loss",
    "loss_drug_type", "slowing", "mu_ln_sigma",
    "omega_ln_sigma_type", "omega_ln_sigma_arm", "omega_ln_sigma", "ln_sigma_arm",
)  # fmt: skip


def prior(name: str, entry: dict, shape=None):
    """A PyMC variable with the family and parameters of a NumPyro distribution."""
    family = entry["family"]
    if family == "HalfNormal":
        return pm.HalfNormal(name, entry["scale"], shape=shape)
    kind = {"Normal": pm.Normal, "LogNormal": pm.LogNormal}[family]
    return kind(name, entry["loc"], entry["scale"], shape=shape)


def build(data, priors) -> pm.Model:
    of = lambda name: priors[name]  # noqa: E731
    num_models, num_mice = len(data["initial_growth"]), len(data["num_measurements"])
    num_cells = len(data["drug_type_drug"])
    with pm.Model() as model:
        mu = prior("mu_ln_growth", of("growth.mouse.ln_rate"))
        between = prior("omega_ln_growth_type", of("growth.mouse.between_types"))
        omega_growth = prior("omega_ln_growth", of("growth.mouse.between_models"), (1,))
        kind = pm.Deterministic("ln_growth_type", mu + between * pm.Normal("type_z", 0, 1, shape=(1,)))
        mu_effect = prior("mu_effect", of("classes.default.mean_effect"))
        omega_class = prior("omega_effect_class", of("classes.default.between_classes"))
        omega_drug = prior("omega_effect_drug", of("classes.default.between_drugs"))
        omega_type = prior("omega_effect_type", of("classes.default.between_types"))
        of_class = mu_effect + omega_class * pm.Normal("class_z", 0, 1, shape=int(data["num_classes"]))
        drug = of_class[data["drug_class"]] + omega_drug * pm.Normal("drug_z", 0, 1, shape=len(data["drug_class"]))
        mu_spread = prior("mu_ln_omega_effect", of("classes.default.ln_between_models"))
        spread = prior("omega_ln_omega_effect", of("classes.default.ln_between_models_spread"))
        effect = pm.Deterministic(
            "effect", drug[data["drug_type_drug"]] + omega_type * pm.Normal("effect_z", 0, 1, shape=num_cells)
        )
        omega_effect = pm.Deterministic(
            "omega_effect", pt.exp(mu_spread + spread * pm.Normal("spread_z", 0, 1, shape=num_cells))
        )
        ln_growth = pm.Normal("ln_growth", kind[0], omega_growth[0], shape=num_models, initval=data["initial_growth"])
        mean_growth = pt.mean(ln_growth)

        def relative(name, entry):
            absolute = pm.Normal(f"ln_{name}_per_day", entry["loc"] + mean_growth, entry["scale"])
            return pm.Deterministic(name, pt.exp(absolute - mean_growth))

        start = prior("mu_intercept", of("growth.mouse.ln_volume_start"))
        omega_start = prior("omega_intercept", of("growth.mouse.intercept_sd"))
        mouse = relative("omega_mouse", of("growth.mouse.ln_between_mice_relative"))
        curve = relative("omega_curvature", of("growth.mouse.ln_curvature_sd"))
        loss, slowing = prior("loss", of("growth.mouse.loss")), prior("slowing", of("growth.mouse.slowing"))
        loss_spread = prior("omega_loss", of("growth.mouse.loss_spread"))
        lost = pm.Deterministic("loss_drug_type", loss + loss_spread * pm.Normal("loss_z", 0, 1, shape=num_cells))
        both = pm.Uniform("curvature_correlation", -0.99, 0.99)
        mu_sigma = prior("mu_ln_sigma", of("growth.mouse.ln_residual_sd"))
        omega_sigma = prior("omega_ln_sigma", of("growth.mouse.ln_residual_spread"))
        sigma_types = prior("omega_ln_sigma_type", of("growth.mouse.ln_residual_between_types"))
        sigma_arms = prior("omega_ln_sigma_arm", of("growth.mouse.ln_residual_between_arms"))
        sigma_of_type = mu_sigma + sigma_types * pm.Normal("ln_sigma_type_z", 0, 1, shape=(1,))
        arm_z = pm.Normal("ln_sigma_arm_z", 0, 1, shape=int(data["arm_type"].max()) + 1)
        sigma_of_arm = pm.Deterministic("ln_sigma_arm", sigma_of_type[0] + sigma_arms * arm_z)
        ln_sigma = pm.Normal("ln_sigma", sigma_of_arm[data["arm_type"]], omega_sigma, shape=num_mice)

        growth = pt.exp(ln_growth)[data["pdx_model"]]
        z = pm.Normal("cell_z", 0, 1, shape=num_mice)
        rho = pt.where(data["treated"], effect[data["drug_type"]] + omega_effect[data["drug_type"]] * z, 0.0)
        w = pm.Normal("coefficient_z", 0, 1, shape=(num_mice, 3))
        # Cholesky factor of the covariance of (delta - bend zeta, zeta), per unit of growth
        rate = pt.sqrt(mouse**2 - 2 * data["bend"] * both * mouse * curve + (data["bend"] * curve) ** 2)
        cross = (both * mouse * curve - data["bend"] * curve**2) / rate
        rest = pt.sqrt(curve**2 - cross**2)
        eta = start + omega_start * w[:, 0]
        s = growth * (1 - rho) + growth * rate * w[:, 1]
        c = growth * (lost[data["drug_type"]] * rho - slowing) + growth * (cross * w[:, 1] + rest * w[:, 2])
        coefficient = pt.stack([eta, s, c], axis=1)
        off = data["statistics"][:, :3] - (data["triangle"] * coefficient[:, None, :]).sum(axis=2)
        squares = (off**2).sum(axis=1) + data["statistics"][:, 3]
        pm.Potential("curves", pt.sum(-data["num_measurements"] * ln_sigma - 0.5 * squares * pt.exp(-2 * ln_sigma)))
    return model


def main(folder: Path) -> None:
    with np.load(folder / "data.npz") as kept:
        data = dict(kept)
    settings = json.loads((folder / "settings.json").read_text())
    begun = time.process_time()
    compiled = nutpie.compile_pymc_model(build(data, settings["priors"]))
    at = time.process_time()
    trace = nutpie.sample(
        compiled, tune=settings["warmup"], draws=settings["draws"], chains=settings["chains"], seed=1,
        target_accept=settings["target_accept"], progress_bar=False, save_warmup=True,
    )  # fmt: skip
    end = time.process_time()
    np.savez(folder / "draws.npz", **{name: trace["posterior"][name].to_numpy() for name in KEPT})
    # gradients tell how much of the time was warm-up
    steps, before = (float(trace[name]["n_steps"].sum()) for name in ("sample_stats", "warmup_sample_stats"))
    print(json.dumps({"drawing": (end - at) * steps / (steps + before), "all": end - begun}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
