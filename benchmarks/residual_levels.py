"""Does the residual scale of curves differ between tumour types and arms, or go with what an arm does? Decision 18.

    python benchmarks/residual_levels.py RUN_DIR

RUN_DIR is a run of `experiments/pdxe.yaml`. Of every curve of a control or single agent the ln of its residual SD about
its own smooth course (`vtrial.curve_summary`), with the mean and variance of the logarithm of a chi-square taken off,
is taken as

    mean of the arm (+ tumour type) (+ slope x mean effect of the arm in the run) + deviation of the arm + of the mouse

with normal deviations of the arm (SD tau) and of the mouse, by maximum likelihood. Printed are gains in log likelihood,
the slope, tau, what each tumour type has, and the arms that are farthest from their type.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from vtrial.experiment import load_resolved
from vtrial.inputs import read_inputs
from vtrial.panel import build_panel
from vtrial.posterior import Draws
from vtrial.residual_scales import ln_sd_of_curves
from vtrial.store import RunFolder

#: mice that an arm needs to be listed
FEWEST = 15


class Found(NamedTuple):
    """A fit by maximum likelihood."""

    log_likelihood: float
    tau: float
    omega: float
    beta: np.ndarray
    se: np.ndarray


def read(run: Path) -> pd.DataFrame:
    """One row a curve: tumour type, arm, mean effect of the arm, ln residual SD and its sampling variance."""
    folder = RunFolder(run)
    inputs = read_inputs(load_resolved(folder.file("experiment.yaml")))
    panel = build_panel(inputs.dataset, inputs.drug_class, inputs.experiment.fit.curve_shape)
    with folder.open_posterior() as tree:
        draws = Draws(tree)
        effect = dict(zip(draws.labels("drug_type"), draws.get("effect").mean(0), strict=True))
    curves = panel.curves
    mice = inputs.dataset.used.drop_duplicates("mouse_key").set_index("mouse_key").loc[list(panel.labels.mouse)]
    table = mice[["tumour_type", "arm"]].reset_index(drop=True)
    names = table["arm"] + " | " + table["tumour_type"]
    table["effect"] = np.where(curves.treated, names.map(effect), 0.0)
    freedom, squares = curves.num_measurements - (curves.statistics.shape[1] - 1), curves.statistics[:, -1]
    known = (freedom > 0) & (squares > 0.0) & (curves.combination_cell < 0)
    ln_sd, variance = ln_sd_of_curves(squares[known], freedom[known])
    return table[known].assign(ln_sd=ln_sd, variance=variance).reset_index(drop=True)


def fitted(table: pd.DataFrame, design: np.ndarray, group: np.ndarray, arms: bool) -> Found:
    """Maximum likelihood; `design` is that of the arms, [G, k], `group` [S] the arm of each curve."""

    def at(ln: np.ndarray) -> Found:
        omega, tau = np.exp(ln[0]), np.exp(ln[1]) if arms else 0.0
        weight = 1.0 / (omega**2 + table["variance"].to_numpy())
        sums = np.bincount(group, weight)
        mean = np.bincount(group, weight * table["ln_sd"].to_numpy()) / sums
        within = np.sum(weight * (table["ln_sd"].to_numpy() - mean[group]) ** 2)
        between = 1.0 / (tau**2 + 1.0 / sums)
        information = design.T @ (between[:, None] * design)
        beta = np.linalg.solve(information, design.T @ (between * mean))
        rest = mean - design @ beta
        value = np.sum(np.log(weight)) - within - np.sum(np.log1p(tau**2 * sums)) - np.sum(between * rest**2)
        return Found(0.5 * value, tau, omega, beta, np.sqrt(np.diag(np.linalg.inv(information))))

    best = minimize(lambda ln: -at(ln).log_likelihood, np.log([0.4, 0.2]), method="Nelder-Mead")
    assert best.success, best.message
    return at(best.x)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    table = read(parser.parse_args().run)
    group, arms = pd.factorize(table["tumour_type"] + " | " + table["arm"], sort=True)
    first = table.groupby(group).first()
    types = pd.get_dummies(first["tumour_type"]).to_numpy(float)
    one, effect = np.ones((len(arms), 1)), first[["effect"]].to_numpy()
    print(f"{len(table)} curves, {len(arms)} arms")
    variants = {
        "alike": (one, False),
        "slope": (np.hstack([one, effect]), False),
        "types": (types, False),
        "types, slope": (np.hstack([types, effect]), False),
        "arms": (one, True),
        "arms, slope": (np.hstack([one, effect]), True),
        "types, arms": (types, True),
        "types, arms, slope": (np.hstack([types, effect]), True),
    }
    none = None
    for name, (design, with_arms) in variants.items():
        found = fitted(table, design, group, with_arms)
        none = none or found
        slope = f"slope {found.beta[-1]:.2f} +- {found.se[-1]:.2f}" if "slope" in name else ""
        print(
            f"{name:20} log likelihood {found.log_likelihood - none.log_likelihood:+8.1f}  "
            f"omega {found.omega:.3f}  tau {found.tau:.3f}  {slope}"
        )
        if name == "types, arms":
            print("   ", dict(zip(sorted(first["tumour_type"].unique()), found.beta.round(2).tolist(), strict=True)))
            mean = table.groupby(group)["ln_sd"].agg(["mean", "size"])
            rest = mean["mean"].to_numpy() - design @ found.beta
            far = np.argsort(-np.abs(np.where(mean["size"] >= FEWEST, rest, 0.0)))[:8]
            print("    farthest:", {arms[k]: round(float(rest[k]), 2) for k in far})


if __name__ == "__main__":
    main()
