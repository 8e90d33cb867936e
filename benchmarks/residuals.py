"""How do residuals of ln volume hang together, and how large are they? Where `fit.residual_*` and its prior come from.

    python benchmarks/residuals.py [--curves 400] [FILE]

Restricted likelihood of single curves: of each curve the three coefficients (`vtrial.growth_laws.time_courses`) are
integrated out over a flat prior and the residual scale is profiled, for a grid of days and shares of reading error.
Printed are the gain in log units over independent residuals, and at the default the quantiles of the residual SD and
which law of one scale a mouse its variances follow: the same for all (Gaussian residuals), an inverse gamma (then the
curve of a mouse is a multivariate Student t) or a log-normal, each with its parameters at their maximum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from vtrial.curve_summary import residual_covariance
from vtrial.experiment import load_experiment
from vtrial.growth_laws import time_courses
from vtrial.inputs import read_inputs
from vtrial.model_format import CurveShape

REPOSITORY = Path(__file__).resolve().parent.parent
LEAST = 8  # measurements of a curve
DAYS = (0.0, 4.0, 8.0, 15.0, 30.0, 60.0)
SHARES = (0.02, 0.04, 0.08, 0.25)


def restricted(day: np.ndarray, log_volume: np.ndarray, shape: CurveShape) -> tuple[float, float]:
    """Log restricted likelihood of one curve, up to a constant of the curve, and its residual variance."""
    root = np.linalg.cholesky(residual_covariance(day, shape))
    white = np.linalg.solve(root, np.column_stack([time_courses(day, shape), log_volume]))
    orthogonal, triangle = np.linalg.qr(white[:, :3])
    rest = white[:, 3] - orthogonal @ (orthogonal.T @ white[:, 3])
    freedom = len(day) - 3
    variance = float(rest @ rest) / freedom
    logs = np.log(np.diag(root)).sum() + np.log(np.abs(np.diag(triangle))).sum()
    return float(-0.5 * freedom * np.log(variance) - logs), float(variance)


def scale_laws(variance: np.ndarray, freedom: np.ndarray) -> dict[str, tuple[float, str]]:
    """Highest log likelihood of residual variances ``sigma_i^2 chi2_f / f`` under three laws of sigma_i."""
    node, weight = np.polynomial.hermite_e.hermegauss(41)
    weight = np.log(weight / weight.sum())

    def given(ln_sigma: np.ndarray) -> np.ndarray:
        scale = np.exp(2.0 * ln_sigma) / freedom
        return stats.gamma.logpdf(variance, freedom / 2.0, scale=2.0 * scale)

    def one(p: np.ndarray) -> float:
        return given(p[0] + 0 * variance).sum()

    def student(p: np.ndarray) -> float:
        ln_median, degrees = p[0], np.exp(p[1])
        return (stats.f.logpdf(variance / np.exp(2 * ln_median), freedom, degrees) - 2 * ln_median).sum()

    def log_normal(p: np.ndarray) -> float:
        return np.logaddexp.reduce(
            [w + given(p[0] + np.exp(p[1]) * z) for z, w in zip(node, weight, strict=True)]
        ).sum()

    found = {}
    for name, law, start in (
        ("the same for all", one, [-1.3]),
        ("inverse gamma (Student t)", student, [-1.3, 1.5]),
        ("log-normal", log_normal, [-1.3, -0.7]),
    ):
        best = optimize.minimize(lambda p, law=law: -law(p), start, method="Nelder-Mead")
        last = {"inverse gamma (Student t)": "degrees of freedom", "log-normal": "SD of ln sigma"}.get(name)
        told = f"sigma {np.exp(best.x[0]):.3f}" + (f", {last} {np.exp(best.x[1]):.2f}" if last else "")
        found[name] = (-best.fun, told)
    return found


def main() -> None:
    """Print the grid, and the quantiles at the default."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    parser.add_argument("--curves", type=int, default=400)
    parser.add_argument("--scales-only", action="store_true", help="leave the grid of days and shares out")
    chosen = parser.parse_args()
    used = read_inputs(load_experiment(chosen.file, (), False)).dataset.used
    seen = used[~used["censored"]].sort_values(["mouse_key", "day"])
    curves = [
        (rows["day"].to_numpy(float), np.log(rows["volume_mm3"].to_numpy(float)))
        for _, rows in seen.groupby("mouse_key", sort=True)
        if len(rows) >= LEAST
    ]
    pick = np.random.default_rng(0).permutation(len(curves))[: chosen.curves]
    print(f"{len(pick)} of {len(curves)} curves with at least {LEAST} measurements above the limit")

    def total(shape: CurveShape) -> tuple[float, np.ndarray]:
        found = np.array([restricted(curves[i][0], curves[i][1], shape) for i in pick])
        return float(found[:, 0].sum()), np.sqrt(found[:, 1])

    base, independent = total(CurveShape(residual_days=0.0))
    best = (0.0, CurveShape(residual_days=0.0), independent)
    print(f"{'days':>6} " + " ".join(f"{share:>8.0%}" for share in SHARES) + "   (share of reading error)")
    for days in () if chosen.scales_only else DAYS[1:]:
        row = []
        for share in SHARES:
            shape = CurveShape(residual_days=days, residual_white=share)
            value, scale = total(shape)
            row.append(value - base)
            best = max(best, (value - base, shape, scale), key=lambda found: found[0])
        print(f"{days:6.0f} " + " ".join(f"{gain:8.0f}" for gain in row), flush=True)
    default, scale = total(CurveShape())
    print(f"best {best[1]}, gain {best[0]:.0f}; default {CurveShape()}, gain {default - base:.0f}")
    low, middle, high = np.quantile(scale, [0.05, 0.5, 0.95])
    spread = np.log(scale).std()
    freedom = np.array([len(curves[i][0]) - 3.0 for i in pick])
    for name, (value, found) in scale_laws(scale**2, freedom).items():
        print(f"scale of a mouse, {name}: log likelihood {value:.0f}, {found}")
    print(f"residual SD at the default: median {middle:.3f}, 5 % {low:.3f}, 95 % {high:.3f}, SD of its ln {spread:.2f}")


if __name__ == "__main__":
    main()
