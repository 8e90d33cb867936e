"""How much do mice of one arm differ, and do they differ more where a drug works? Not in the model; what it would be.

    python benchmarks/replicates.py [--data FOLDER]

Three replicated studies (maeve, invivoSyn, LXF A677). Per arm with three mice or more the means of the coefficients
(`vtrial.growth_laws.time_courses`) are integrated out over a flat prior; what is left is the restricted likelihood of

    Var(mouse's rate) = (omega growth)^2 + (nu kill)^2,   kill = growth of the study's controls - rate of the arm,

with the residuals of the model (an Ornstein-Uhlenbeck process and reading error), the spread of bends as fitted to
PDXE, and one residual SD per study. Printed are the maximum over
(omega, nu) and where nu lies within 1.92 log units of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from vtrial.growth_laws import reference_bend, time_courses
from vtrial.model_format import CurveShape
from vtrial.panel import residual_covariance

TABLES = ("maeve_genentech", "invivosyn_combinations", "lxf_a677_erlotinib")
#: of growth, and their correlation: posterior means of experiments/pdxe.yaml
BEND, CORRELATION, INTERCEPT = 0.65, -0.49, 0.145
SHAPE = CurveShape()
NU = np.arange(0.0, 0.91, 0.05)


def arms_of(folder: Path) -> list[tuple[str, float, list[list[tuple[np.ndarray, np.ndarray]]], np.ndarray]]:
    """Of every study its name, growth of controls, arms as lists of (day, ln volume), and the kill of each arm."""
    studies = []
    for name in TABLES:
        table = pd.read_csv(folder / f"{name}.csv.gz")
        table = table[(table["day"] >= 0) & (table["volume_mm3"] > 10.0)]
        for study, rows in table.groupby([c for c in ("dataset", "model", "study") if c in table]):
            arms, rates, control = [], [], []
            for _, mice in rows.groupby("treatment"):
                curves = [
                    (mouse["day"].to_numpy(float), np.log(mouse["volume_mm3"].to_numpy(float)))
                    for _, mouse in mice.sort_values("day").groupby("mouse")
                    if len(mouse) >= 5
                ]
                if len(curves) < 3:
                    continue
                slope = np.mean([np.polyfit(day[day <= 28], y[day <= 28], 1)[0] for day, y in curves])
                arms.append(curves)
                rates.append(slope)
                control.append(int(mice["n_drugs"].iloc[0]) == 0)
            if any(control) and len(arms) > 1:
                growth = float(np.mean(np.array(rates)[control]))
                studies.append((str(study), growth, arms, growth - np.array(rates)))
    return studies


def arm_likelihood(curves, growth: float, kill: float, omega: float, nu: float, sigma: float) -> float:
    """Log restricted likelihood of the mice of one arm."""
    bend = reference_bend(SHAPE)
    rate, curve = (omega * growth) ** 2 + (nu * kill) ** 2, (BEND * growth) ** 2
    cross = CORRELATION * omega * growth * BEND * growth
    own = np.zeros((3, 3))
    own[0, 0] = INTERCEPT**2
    own[1:, 1:] = [[rate - 2 * bend * cross + bend**2 * curve, cross - bend * curve], [cross - bend * curve, curve]]
    logs, information, score, square, number = 0.0, np.zeros((3, 3)), np.zeros(3), 0.0, 0
    for day, y in curves:
        basis = time_courses(day, SHAPE)
        covariance = sigma**2 * residual_covariance(day, SHAPE) + basis @ own @ basis.T
        root = np.linalg.cholesky(covariance)
        x, z = np.linalg.solve(root, basis), np.linalg.solve(root, y)
        logs += np.log(np.diag(root)).sum()
        information += x.T @ x
        score += x.T @ z
        square += z @ z
        number += len(day)
    square -= score @ np.linalg.solve(information, score)
    return -logs - 0.5 * np.linalg.slogdet(information)[1] - 0.5 * square


def profile(studies, nu: float) -> tuple[float, np.ndarray]:
    """Restricted likelihood at `nu`, maximised over omega and the residual SD of every study."""

    def loss(ln):
        total = 0.0
        for (_, growth, arms, kills), sigma in zip(studies, np.exp(ln[1:]), strict=True):
            each = zip(arms, kills, strict=True)
            total += sum(arm_likelihood(curves, growth, kill, np.exp(ln[0]), nu, sigma) for curves, kill in each)
        return -total

    found = minimize(loss, np.log([0.2] + [0.2] * len(studies)), method="L-BFGS-B", options={"maxiter": 40})
    return -found.fun, np.exp(found.x)


def main() -> None:
    """Print the profile."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    shared = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared)
    studies = arms_of(parser.parse_args().data)
    for name, growth, arms, kills in studies:
        size = f"{len(arms)} arms, {sum(map(len, arms))} mice"
        print(f"{name}: {size}, growth {growth:.3f}/d, kill {kills.min():.3f} to {kills.max():.3f}/d")
    values = []
    for nu in NU:
        value, scales = profile(studies, nu)
        values.append(value)
        print(f"nu {nu:.2f}: {value - values[0]:8.2f}   omega {scales[0]:.3f}", flush=True)
    values = np.array(values)
    inside = NU[values > values.max() - 1.92]
    print(f"best nu {NU[values.argmax()]:.2f}, 95 % interval {inside.min():.2f} to {inside.max():.2f}")


if __name__ == "__main__":
    main()
