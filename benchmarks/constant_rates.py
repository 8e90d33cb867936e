"""The simple model: every mouse a straight line, one rate, one spread a drug; how well does it predict combinations?

    python benchmarks/constant_rates.py [--growth additive proportional] [--phi one pair] [--in-sample]

    ln V_ij = eta_i + (g_m (1 - rho_ma) + delta_i) t_ij + eps_ij,     rho_md ~ Normal(mu_dt, omega_d)
    rho_m,AB = max(rho_mA, rho_mB) + phi max(min(rho_mA, rho_mB), 0)

with independent residuals and mice that differ by delta_i, of SD omega_delta or omega_delta g_m (--growth). Level and
line of a mouse are integrated out; effects of PDX models are explicit. As `vtrial crossvalidate --leave
combinations-by-type` the combinations of one tumour type at a time are left out, predicted and scored; with --in-sample
the fit sees them all, and the same rule predicts them again: a rule that fits must not get worse by seeing the answer.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.infer import MCMC, NUTS, init_to_median

from vtrial.arms import parts_of
from vtrial.crossvalidation import folds_of
from vtrial.dataset import Dataset
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.inputs import read_inputs
from vtrial.pair_scores import pair_scores
from vtrial.pairs import arm_table, observed_pairs
from vtrial.predict import NUM_MEASUREMENTS
from vtrial.response import CR, MRECIST_PDXE, PR, mrecist_class, mrecist_curve
from vtrial.stopping import StoppingRule, fit_stopping_rule, stay

REPOSITORY = Path(__file__).resolve().parent.parent
ITERATIONS, CHAINS = 400, 2
KEYS = ["tumour_type", "pdx_model", "arm"]
sample: Any = numpyro.sample


def lines(dataset: Dataset) -> pd.DataFrame:
    """Of every mouse the mean ln volume and day, the least-squares slope and what is left; its PDX model and drugs."""
    table = dataset.used.assign(y=np.log(np.maximum(dataset.used["volume_mm3"], dataset.detection_limit_mm3)))
    mice = table.groupby("mouse_key", sort=True)
    found = mice.agg(pdx_model=("pdx_model", "first"), arm=("arm", "first"), n=("day", "size"), t=("day", "mean"))
    found["y"] = mice["y"].mean()
    day = table["day"] - mice["day"].transform("mean")
    level = table["y"] - mice["y"].transform("mean")
    by = table["mouse_key"]
    found["s_tt"] = (day**2).groupby(by).sum()
    found["slope"] = (day * level).groupby(by).sum() / found["s_tt"]
    found["rest"] = np.maximum((level**2).groupby(by).sum() - found["slope"] ** 2 * found["s_tt"], 0.0)
    found["drugs"] = [dataset.arms[arm] for arm in found["arm"]]
    return found[[len(drugs) <= 2 for drugs in found["drugs"]]]


class Simple:
    """The model on one table, for the pairs that it is asked for."""

    def __init__(self, dataset: Dataset, pairs: pd.DataFrame, growth: str, phi: str):
        """`pairs` has tumour_type, pdx_model, arm; `growth` and `phi` as on the command line."""
        self.mice, self.growth_of_mouse, self.phi = lines(dataset), growth, phi
        kinds = pd.concat([dataset.used[KEYS[:2]], pairs[KEYS[:2]]]).drop_duplicates("pdx_model")
        kind_of = dict(zip(kinds["pdx_model"], kinds["tumour_type"], strict=True))
        self.models, self.types = sorted(kind_of), sorted(set(kind_of.values()))
        parts = partial(parts_of, separator=dataset.separator, aliases=dataset.aliases, control=dataset.control)
        self.asked = [
            (model, tuple(sorted(parts(arm)))) for model, arm in zip(pairs["pdx_model"], pairs["arm"], strict=True)
        ]
        had = list(zip(self.mice["pdx_model"], self.mice["drugs"], strict=True))
        self.cells = sorted({(model, drug) for model, drugs in had + self.asked for drug in drugs})
        self.drugs = sorted({drug for _, drug in self.cells})
        self.drug_types = sorted({(drug, kind_of[model]) for model, drug in self.cells})
        self.pairs = sorted({drugs for _, drugs in had + self.asked if len(drugs) == 2})
        self.kind = np.array([self.types.index(kind_of[m]) for m in self.models])
        self.of_cell = np.array([self.drug_types.index((d, kind_of[m])) for m, d in self.cells])
        self.drug_of_cell = np.array([self.drugs.index(d) for _, d in self.cells])
        self.drug_of_type = np.array([self.drugs.index(d) for d, _ in self.drug_types])

    def index(self, rows: list[tuple[str, tuple[str, ...]]]) -> tuple[np.ndarray, ...]:
        """PDX model, first and second cell (-1: none) and pair of every row."""
        model, cell, pair = ({x: i for i, x in enumerate(of)} for of in (self.models, self.cells, self.pairs))
        place = [[cell[m, d] for d in drugs] + [-1] * (2 - len(drugs)) for m, drugs in rows]
        first, second = np.array(place).T
        return np.array([model[m] for m, _ in rows]), first, second, np.array([pair.get(d, 0) for _, d in rows])

    def own(self, delta, growth):
        """SD of a mouse's rate."""
        return delta * growth / 0.05 if self.growth_of_mouse == "proportional" else delta + 0.0 * growth

    @staticmethod
    def rate(growth, rho, phi, first, second):
        """Rate of growth under one drug, two or none."""
        one, two = jnp.where(first >= 0, rho[first], 0.0), rho[second]
        joint = jnp.maximum(one, two) + phi * jnp.maximum(jnp.minimum(one, two), 0.0)
        return growth * (1.0 - jnp.where(second >= 0, joint, one))

    def model(self) -> None:
        """In NumPyro."""
        half, normal = dist.HalfNormal, dist.Normal
        each = partial(normal(0.0, 1.0).expand)
        mean, between = sample("mu_ln_growth", normal(-2.8, 0.5)), sample("between_types", half(0.3))
        kind = mean + between * sample("type_z", each([len(self.types)]))
        growth = jnp.exp(sample("ln_growth", normal(kind[self.kind], sample("omega_ln_growth", half(0.5)))))
        effect = sample("mu_effect", normal(0.4, 0.5)) + sample("omega_drug", half(0.5)) * sample(
            "drug_z", each([len(self.drugs)])
        )
        effect = effect[self.drug_of_type] + sample("omega_type", half(0.3)) * sample(
            "drug_type_z", each([len(self.drug_types)])
        )
        spread = jnp.exp(sample("ln_omega_effect", normal(np.log(0.4), 0.5).expand([len(self.drugs)])))
        z = sample("cell_z", each([len(self.cells)]))
        rho = numpyro.deterministic("rho", effect[self.of_cell] + spread[self.drug_of_cell] * z)
        phi = sample("mu_phi", normal(0.5, 0.5)) * jnp.ones(len(self.pairs))
        if self.phi == "pair":
            phi = phi + sample("omega_phi", half(0.3)) * sample("phi_z", each([len(self.pairs)]))
        numpyro.deterministic("phi", phi)

        mouse, first, second, pair = self.index(list(zip(self.mice["pdx_model"], self.mice["drugs"], strict=True)))
        y, t, slope, n, s_tt, rest = (
            jnp.asarray(self.mice[x].to_numpy(float)) for x in ["y", "t", "slope", "n", "s_tt", "rest"]
        )
        rate = self.rate(growth[mouse], rho, phi[pair], first, second)
        level, eta = sample("mu_level", normal(5.3, 0.5)), sample("omega_level", half(0.5))
        delta = self.own(jnp.exp(sample("ln_delta", normal(np.log(0.015), 0.5))), growth[mouse])
        sigma = jnp.exp(sample("ln_sigma", normal(np.log(0.2), 0.5)))
        # (mean, slope) of a mouse are a bivariate normal, its residual sum of squares is a chi-square
        v11, v12, v22 = eta**2 + t**2 * delta**2 + sigma**2 / n, t * delta**2, delta**2 + sigma**2 / s_tt
        det, a, b = v11 * v22 - v12**2, y - level - rate * t, slope - rate
        quadratic = (v22 * a**2 - 2.0 * v12 * a * b + v11 * b**2) / det + rest / sigma**2
        numpyro.factor("curves", jnp.sum(-0.5 * jnp.log(det) - 0.5 * quadratic - (n - 2.0) * jnp.log(sigma)))

    def fit(self, key: jax.Array) -> dict[str, np.ndarray]:
        """Draws, and on the terminal how they mixed."""
        kernel = NUTS(self.model, max_tree_depth=7, init_strategy=init_to_median)
        chains = MCMC(
            kernel,
            num_warmup=ITERATIONS,
            num_samples=ITERATIONS,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        chains.run(key)
        shared = ("mu_phi", "ln_delta", "ln_sigma", "mu_effect", "omega_ln_growth")
        grouped = chains.get_samples(group_by_chain=True)
        rhat = max(float(numpyro.diagnostics.split_gelman_rubin(np.asarray(grouped[name]))) for name in shared)
        draws = {name: np.asarray(value) for name, value in chains.get_samples().items()}
        print(f"  R-hat at most {rhat:.3f}, phi {draws['mu_phi'].mean():.2f} +- {draws['mu_phi'].std():.2f}")
        return draws

    def respond(self, key: jax.Array, draws: dict[str, np.ndarray], rule: StoppingRule) -> np.ndarray:
        """Whether a new mouse of every asked pair responds, [D, 1, pairs]."""
        model, first, second, pair = self.index(self.asked)
        day = jnp.asarray(rule.gap_days * np.arange(NUM_MEASUREMENTS), jnp.float32)
        names = ("ln_growth", "rho", "phi", "mu_level", "omega_level", "ln_delta", "ln_sigma")

        def one(each):
            key, draw = each
            keys, growth = jax.random.split(key, 4), jnp.exp(draw["ln_growth"])[model]
            z = [jax.random.normal(k, (len(model), 1)) for k in keys[:2]]
            rate = self.rate(growth, draw["rho"], draw["phi"][pair], first, second)[:, None]
            rate = rate + self.own(jnp.exp(draw["ln_delta"]), growth)[:, None] * z[1]
            noise = jnp.exp(draw["ln_sigma"]) * jax.random.normal(keys[2], (len(model), len(day)))
            curve = (draw["mu_level"] + draw["omega_level"] * z[0] + rate * day + noise).astype(jnp.float32)
            seen = stay(keys[3], rule, curve, day)
            read = jax.vmap(partial(mrecist_curve, rule=MRECIST_PDXE), in_axes=(0, None, 0))
            code = mrecist_class(*read(jnp.exp(curve), day, seen))
            return (code == CR) | (code == PR)

        keys = jax.random.split(key, len(draws["mu_level"]))
        return np.asarray(jax.lax.map(one, (keys, {name: jnp.asarray(draws[name]) for name in names})))[:, None, :]


def main() -> None:
    """Every variant asked for, its arms and its scores."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--experiment", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    ask.add_argument("--growth", nargs="+", choices=["additive", "proportional"], default=["additive", "proportional"])
    ask.add_argument("--phi", nargs="+", choices=["one", "pair"], default=["one", "pair"])
    ask.add_argument("--in-sample", action="store_true", help="the fit sees what it predicts")
    given = ask.parse_args()
    jax.config.update("jax_enable_x64", True)
    try:
        dataset = read_inputs(load_experiment(given.experiment)).dataset
    except InputError as missing:
        print(f"skipped: {missing}")
        return
    folds = list(folds_of(dataset, "combinations-by-type", 5))
    everything = pd.concat([fold.pairs for fold in folds], ignore_index=True)
    tables = [(dataset, everything)] if given.in_sample else [(fold.dataset, fold.pairs) for fold in folds]
    for growth in given.growth:
        for phi in given.phi:
            print(f"mice {growth}, phi {phi}, {'in sample' if given.in_sample else 'left out'}")
            found, responds = [], []
            for number, (table, pairs) in enumerate(tables):
                simple = Simple(table, pairs, growth, phi)
                draws = simple.fit(jax.random.key(number))
                stopping = fit_stopping_rule(table.used, table.detection_limit_mm3)
                responds.append(simple.respond(jax.random.key(100 + number), draws, stopping))
                found.append(pairs[KEYS].assign(probability=responds[-1].mean((0, 1)), in_sample=given.in_sample))
            pairs = pd.concat(found, ignore_index=True)
            arms, seen = arm_table(pairs, np.concatenate(responds, axis=-1)), observed_pairs(dataset, pairs)
            rate = seen.groupby(KEYS[::2])["responds"].mean().rename("observed")
            print(arms.join(rate, on=KEYS[::2]).round(2).to_string(index=False))
            print(pair_scores(arms, pairs, seen).round(4).to_string(index=False), "\n")


if __name__ == "__main__":
    main()
