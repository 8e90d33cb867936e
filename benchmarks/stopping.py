"""Do mice that lose weight leave their study earlier than size and day say? The rule that is frozen knows no weight.

    python benchmarks/stopping.py [--data FOLDER] [--runs RUN_DIR ...]

The hazard of `vtrial.stopping` on every measurement of PDXE after day 0 that has a body weight, by maximum likelihood
with its ridge, without and with piecewise linear terms in the loss of weight since the first measurement. Printed are
the gain in log likelihood, the odds of leaving at some losses over those at none, and by how much arms differ in their
odds given size and day. With runs of `experiments/pdxe.yaml` under several `mice.leaving_odds_ratio` also: the error of
their `mouse_response.csv`, and that of every arm under its own odds, interpolated between the runs (held to theirs).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar

from vtrial.experiment import load_resolved
from vtrial.stopping import COEFFICIENT_SD, features

#: knots of the loss of weight, as a fraction of the first
WEIGHT_KNOTS = np.array([0.0, 0.1, 0.15, 0.2])
LOSSES = np.array([0.05, 0.1, 0.15, 0.2, 0.25])
#: prior SD of the log odds of an arm
ARM_SD = 0.5
ARM = ["tumour_type", "arm"]


def of_weight(loss: np.ndarray) -> np.ndarray:
    """Hinges of the loss of weight in units of 0.1, [..., 4]."""
    return np.maximum(loss[..., None] - WEIGHT_KNOTS, 0.0) / 0.1


def fitted(design: np.ndarray, leaves: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients of a logistic regression with a ridge on all but the first, and the log likelihood there."""
    ridge = np.append(0.0, np.full(design.shape[1] - 1, COEFFICIENT_SD**-2.0))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        linear = design @ at
        value = np.sum(np.logaddexp(0.0, linear) - leaves * linear) + 0.5 * np.sum(ridge * at**2)
        return value, design.T @ (1.0 / (1.0 + np.exp(-linear)) - leaves) + ridge * at

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    assert found.success, found.message
    linear = design @ found.x
    return found.x, float(np.sum(leaves * linear - np.logaddexp(0.0, linear)))


def of_arms(arm: pd.DataFrame, linear: np.ndarray, leaves: np.ndarray) -> pd.Series:
    """Log odds of leaving of every arm beyond `linear`: the mode under a normal prior."""

    def mode(rows: np.ndarray) -> float:
        def loss(own: float) -> float:
            at = linear[rows] + own
            return float(np.sum(np.logaddexp(0.0, at) - leaves[rows] * at) + 0.5 * (own / ARM_SD) ** 2)

        found: Any = minimize_scalar(loss)
        return float(found.x)

    return pd.Series({key: mode(np.asarray(rows)) for key, rows in arm.groupby(ARM).indices.items()})


def error(predicted: Any, observed: Any) -> str:
    """Mean absolute and mean error in words."""
    gap = 100.0 * (predicted - observed)
    return f"mean absolute error {np.abs(gap).mean():.2f} points, mean error {gap.mean():+.2f}"


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    file = arguments.data / "pdxe.csv.gz"
    if not file.is_file():
        parser.error(f"{file} is not there; the curves of PDXE are not part of this repository")
    table = pd.read_csv(file).sort_values(["mouse", "day"], kind="stable")
    table["leaves"] = ~table["mouse"].duplicated(keep="last")
    mice = table.groupby("mouse")
    ln_volume = table["volume_mm3"].clip(lower=10.0).apply(np.log)
    fold = ln_volume - ln_volume.groupby(table["mouse"]).transform("first")
    weight = table["body_weight_g"].where(table["body_weight_g"].between(5.0, 60.0))
    loss = 1.0 - weight / weight.groupby(table["mouse"]).transform("first")
    used = ((mice.cumcount() > 0) & loss.notna()).to_numpy()
    plain = features(*(np.asarray(x, float)[used] for x in (fold, ln_volume, table["day"])), xp=np)
    leaves = table.loc[used, "leaves"].to_numpy(float)
    size_and_day, without = fitted(plain, leaves)
    weighed = np.column_stack([plain, of_weight(np.asarray(loss, float)[used])])
    at, known = fitted(weighed, leaves)
    odds = np.exp(of_weight(LOSSES) @ at[-len(WEIGHT_KNOTS) :])
    lost = np.mean(loss.groupby(table["mouse"]).max() > 0.15)
    print(f"{len(leaves)} measurements, {leaves.sum():.0f} the last of a mouse; {lost:.0%} of mice lost more than 15 %")
    print(f"gain in log likelihood by {len(WEIGHT_KNOTS)} terms of weight: {known - without:.1f}")
    print("odds of leaving over none lost: " + ", ".join(f"{x:.0%} {o:.2f}" for x, o in zip(LOSSES, odds, strict=True)))
    arm = table.loc[used, ARM].reset_index(drop=True)
    own, given_weight = (of_arms(arm, x @ y, leaves) for x, y in ((plain, size_and_day), (weighed, at)))
    chance = np.random.default_rng(1).random(len(leaves)) < 1.0 / (1.0 + np.exp(-plain @ size_and_day))
    alike = of_arms(arm, plain @ size_and_day, chance.astype(float))
    print(
        f"log odds of {len(own)} arms beyond size and day: SD {own.std():.2f}; beyond weight too "
        f"{given_weight.std():.2f}; were all arms alike {alike.std():.2f}"
    )
    if arguments.runs:
        of_runs(arguments.runs, own)


def of_runs(folders: list[Path], own: pd.Series) -> None:
    """Print the error of runs under several odds, and that of every arm under its `own` log odds."""
    tables = {}
    for folder in folders:
        ratio = load_resolved(folder / "experiment.yaml").mice.leaving_odds_ratio
        assert ratio not in tables, f"two runs with {ratio:g} times the odds"
        tables[ratio] = table = pd.read_csv(folder / "mouse_response.csv").set_index(ARM)
        outside = ~table["observed"].between(table["q05"], table["q95"])
        said = error(table["mean"], table["observed"])
        print(f"odds times {ratio:g}: {said}, {outside.sum()} of {len(table)} outside")
    ratios = sorted(ratio for ratio in tables if ratio > 0.0)
    if len(ratios) < 2 or 1.0 not in tables:
        return
    fitted_odds = tables[1.0]
    wanted, ln_ratio = own.reindex(fitted_odds.index).to_numpy(), np.log(ratios)
    means = pd.concat([tables[ratio]["mean"] for ratio in ratios], axis=1).reindex(fitted_odds.index).to_numpy()
    found = np.array([np.interp(x, ln_ratio, row) for x, row in zip(wanted, means, strict=True)])
    held = int(np.sum((wanted < ln_ratio[0]) | (wanted > ln_ratio[-1])))
    moved = 100.0 * np.mean(np.abs(found - fitted_odds["mean"]))
    said = error(found, fitted_odds["observed"])
    print(f"every arm under its own odds ({held} held to the range): {said}; a rate moves by {moved:.2f} points")


if __name__ == "__main__":
    main()
