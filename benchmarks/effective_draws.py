"""How many effective draws a second does it give to integrate the mice out?

    python benchmarks/effective_draws.py [--type NSCLC] [--models 8] [--pymc PYTHON] [FILE]

The same model on the same mice - the first PDX models of one tumour type, untreated and single agents, no censored
curve - sampled by `vtrial.inference.fit`, in which the three coefficients of every mouse and the effect in every cell
are integrated out; by NumPyro's NUTS with all of them as parameters, centred and not; and by nutpie on a PyMC model,
where PYTHON is an interpreter that has pymc and nutpie (they are no dependency). Prior, likelihood (through the same
sufficient statistics) and parameters of the population are the same. For each: largest R-hat and smallest bulk ESS of
the population, and ESS a second of the draws after warm-up and compilation. Seconds are those of the processor, all
threads together: a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, init_to_value

from vtrial.config import FitConfig
from vtrial.curve_density import coefficient_covariance, coefficient_mean
from vtrial.dataset import read_dataset
from vtrial.diagnostics import arviz
from vtrial.experiment import load_experiment
from vtrial.growth_laws import reference_bend
from vtrial.inference import fit
from vtrial.inputs import read_inputs
from vtrial.levels import losses, population, residual_levels, shared_by_mice
from vtrial.marginal import stacked, stacked_matrix
from vtrial.model import arrays_of, build_model
from vtrial.model_format import PRIORS
from vtrial.panel import build_panel

REPOSITORY = Path(__file__).resolve().parent.parent
#: what all three know, as scalars or vectors
NAMES = (
    "mu_ln_growth", "ln_growth_type", "omega_ln_growth", "mu_effect", "effect", "omega_effect", "mu_intercept",
    "omega_intercept", "omega_mouse", "omega_curvature", "curvature_correlation", "loss", "omega_loss",
    "loss_drug_type", "slowing", "mu_ln_sigma",
    "omega_ln_sigma_type", "omega_ln_sigma_arm", "omega_ln_sigma", "ln_sigma_arm",
)  # fmt: skip


def explicit_model(panel, prior, *, centred: bool):
    """The model of `vtrial.model` for single agents, every mouse and every cell a parameter."""
    labels, bend = panel.labels, reference_bend(panel.shape)
    num_mice = len(labels.mouse)

    def model(arrays):
        curves = arrays.curves
        ln_growth_type, omega_growth, effect, omega_effect = population(
            labels, prior, arrays.drug_class, arrays.drug_type_drug
        )
        with numpyro.plate("pdx_model", len(labels.pdx_model)):
            kind = arrays.pdx_model_type
            ln_growth = numpyro.sample("ln_growth", dist.Normal(ln_growth_type[kind], omega_growth[kind]))
        shared = shared_by_mice(prior, jnp.mean(ln_growth))
        loss = losses(labels, prior)[curves.drug_type]
        ln_sigma_arm, omega = residual_levels(labels, prior, arrays.scales, arrays.arm_type_type)
        growth = jnp.exp(ln_growth)[curves.pdx_model]
        with numpyro.plate("mouse", num_mice):
            ln_sigma = numpyro.sample("ln_sigma", dist.Normal(ln_sigma_arm[curves.arm_type], omega))
            z = numpyro.sample("cell_z", dist.Normal(0.0, 1.0))
            rho = jnp.where(curves.treated, effect[curves.drug_type] + omega_effect[curves.drug_type] * z, 0.0)
            mean = stacked(coefficient_mean(shared, growth, rho, loss))
            covariance = stacked_matrix(coefficient_covariance(shared, growth, jnp.zeros_like(growth), loss, bend))
            root = jnp.linalg.cholesky(covariance)
            if centred:
                coefficient = numpyro.sample("coefficient", dist.MultivariateNormal(mean, scale_tril=root))
            else:
                w = numpyro.sample("coefficient_z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
                coefficient = mean + jnp.einsum("sij,sj->si", root, w)
        rest = curves.statistics[:, :3] - jnp.einsum("sij,sj->si", curves.triangle, coefficient)
        squares = jnp.sum(rest**2, axis=-1) + curves.statistics[:, 3]
        numpyro.factor("curves", jnp.sum(-curves.num_measurements * ln_sigma - 0.5 * squares * jnp.exp(-2 * ln_sigma)))

    return model


def judged(name: str, values: dict[str, np.ndarray], drawing: float, whole: float) -> dict:
    """One row: convergence of the population, and effective draws a processor second of drawing."""
    data = arviz.convert_to_dataset({k: np.asarray(values[k]) for k in NAMES})
    rhat, ess = (np.concatenate([np.ravel(x) for x in f(data).data_vars.values()]) for f in (arviz.rhat, arviz.ess))
    return {
        "what": name,
        "draws": int(np.prod(values["loss"].shape)),
        "processor s of draws": round(drawing, 2),
        "of all": round(whole, 1),
        "largest R-hat": round(float(rhat.max()), 3),
        "smallest ESS": round(float(ess.min())),
        "ESS/s, smallest": round(float(ess.min()) / drawing, 2),
        "ESS/s, median": round(float(np.median(ess)) / drawing, 2),
    }


def marginal(panel, arrays, prior, config: FitConfig) -> dict:
    """`vtrial.inference.fit` on the marginal; blocks after the first of the draws are timed."""
    begun, ends = time.process_time(), []

    def progress(stage: str, done: int, _: int) -> None:
        if stage == "draws":
            ends.append((done, time.process_time()))

    model = build_model(panel, prior)
    first = {"ln_growth": jnp.asarray(panel.initial_growth)}
    key, devices = jax.random.key(1), jax.devices()
    found = fit(key, model, arrays, first, config, NAMES, progress, devices, ("ln_growth",))
    (done, at), (total, end) = ends[0], ends[-1]
    drawing = (end - at) / (total - done) * config.draws
    return judged("vtrial, mice integrated out", found.values, drawing, time.process_time() - begun)


def explicit(panel, arrays, prior, config: FitConfig, *, centred: bool) -> dict:
    """NumPyro's own NUTS with every mouse and cell a parameter; draws are timed in a second run of compiled code."""
    begun = time.process_time()
    first = init_to_value(values={"ln_growth": jnp.asarray(panel.initial_growth)})
    model = explicit_model(panel, prior, centred=centred)
    kernel = NUTS(model, init_strategy=first, target_accept_prob=config.target_accept)
    sizes = {"num_warmup": config.warmup, "num_samples": config.draws, "num_chains": config.chains}
    mcmc = MCMC(kernel, **sizes, progress_bar=False, chain_method="parallel")
    mcmc.warmup(jax.random.key(1), arrays)
    for again in (False, True):  # the first run compiles
        mcmc.post_warmup_state = mcmc.last_state
        at = time.process_time()
        mcmc.run(jax.random.key(2 + again), arrays)
        values = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    end = time.process_time()
    name = f"NumPyro, every mouse a parameter, {'centred' if centred else 'not centred'}"
    return judged(name, values, end - at, end - begun)


def with_nutpie(python: str, panel, arrays, prior, config: FitConfig) -> dict | str:
    """The same in PyMC, sampled by nutpie in a process of its own; or why it could not be."""
    with tempfile.TemporaryDirectory() as folder:
        curves = panel.curves
        priors = {
            name: {"family": type(d).__name__, **{k: float(v) for k, v in d.get_args().items()}}
            for name, d in prior.items()
        }
        np.savez(
            f"{folder}/data.npz", statistics=curves.statistics, triangle=curves.triangle,
            num_measurements=curves.num_measurements, pdx_model=curves.pdx_model, treated=curves.treated,
            drug_type=curves.drug_type, drug_class=panel.drug_class, drug_type_drug=panel.drug_type_drug,
            initial_growth=panel.initial_growth, bend=reference_bend(panel.shape),
            num_classes=len(panel.labels.drug_class), arm_type=curves.arm_type,
        )  # fmt: skip
        settings = {"priors": priors, "chains": config.chains, "warmup": config.warmup, "draws": config.draws}
        Path(folder, "settings.json").write_text(json.dumps(settings | {"target_accept": config.target_accept}))
        script = Path(__file__).parent / "peers" / "mice_in_pymc.py"
        ended = subprocess.run([python, str(script), folder], capture_output=True, text=True)
        if ended.returncode:
            return ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "failed"
        timed = json.loads(ended.stdout.strip().splitlines()[-1])
        with np.load(f"{folder}/draws.npz") as kept:
            values = dict(kept)
    return judged("PyMC with nutpie, every mouse a parameter", values, timed["drawing"], timed["all"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    parser.add_argument("--type", default="NSCLC")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--pymc", help="interpreter with pymc and nutpie")
    chosen = parser.parse_args()
    numpyro.set_host_device_count(2)
    overrides = [f"data.tumour_types=[{chosen.type}]", "data.single_agents_only=true"]
    inputs = read_inputs(load_experiment(chosen.file, overrides, False))
    used = inputs.dataset.used
    used = used[~used["mouse_key"].isin(used.loc[used["censored"], "mouse_key"])]
    kept = used[used["pdx_model"].isin(sorted(used["pdx_model"].unique())[: chosen.models])]
    # one mouse a cell, so that a cell's effect can be integrated out with its mouse
    kept = kept[kept["mouse_key"].isin(kept.drop_duplicates(["pdx_model", "arm"])["mouse_key"])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        columns = ["study", "tumour_type", "pdx_model", "mouse", "arm", "day", "volume_mm3"]
        kept[columns].to_csv(path, index=False)
        dataset = read_dataset(path)
    config = FitConfig(chains=2, warmup=chosen.warmup, draws=chosen.draws, block=50)
    panel = build_panel(dataset, inputs.drug_class, config.curve_shape)
    with jax.enable_x64(True):
        arrays, prior = arrays_of(panel), inputs.priors.distributions(PRIORS)
        print(f"{len(panel.labels.mouse)} mice of {len(panel.labels.pdx_model)} PDX models, {config.chains} chains of "
              f"{config.warmup} + {config.draws}", flush=True)  # fmt: skip
        print(json.dumps(marginal(panel, arrays, prior, config)), flush=True)
        for centred in (True, False):
            print(json.dumps(explicit(panel, arrays, prior, config, centred=centred)), flush=True)
        if chosen.pymc is None:
            print("PyMC with nutpie skipped: name an interpreter that has them with --pymc")
        else:
            print(json.dumps(with_nutpie(chosen.pymc, panel, arrays, prior, config)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
