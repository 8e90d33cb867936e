"""Which law of growth do single curves follow, Stein's growth-decay among them, and how far off is Laplace for it?

    python benchmarks/growth.py [--curves 1000] [--types PDAC CM] [FILE]

Every law has three coefficients a mouse, normal over the mice of an arm of a tumour type, and a residual scale that is
log-normal over them. Means and covariances of the arms are fitted by EM on half of the PDX models and score the other
half by the marginal density of its curves, both ways round. All integrals over a mouse by importance sampling about its
mode: the laws that are linear and the one that is not are treated alike. Printed are the gain over the exponential
law with its standard error over PDX models, and of each law the error of Laplace's first-order density against
importance sampling, in log units a curve.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from vtrial.curve_summary import residual_covariance
from vtrial.experiment import load_experiment
from vtrial.growth_laws import fixed_course, time_courses
from vtrial.inputs import read_inputs
from vtrial.model_format import CurveShape

REPOSITORY = Path(__file__).resolve().parent.parent
LEAST, LEAST_MICE = 6, 16  # measurements of a curve, mice of an arm
DRAWS, ROUNDS, FREEDOM = 64, 12, 7.0  # of importance sampling, of EM, of the t that proposes
SHRINK = 8.0  # mice that the covariance over all arms counts as, within an arm


class Mice(NamedTuple):
    """Curves padded to T rows; whitened residuals are ``root_inverse @ (log_volume - mean)``."""

    day: np.ndarray  # [S, T]
    log_volume: np.ndarray  # [S, T]
    root_inverse: np.ndarray  # [S, T, T], zero rows where nothing was measured
    number: np.ndarray  # [S]
    arm: np.ndarray  # [S] index
    pdx_model: np.ndarray  # [S] index


Mean = Callable[[np.ndarray, np.ndarray], np.ndarray]  # theta [..., S, 3], day [S, T] -> [..., S, T]


def linear(shape: CurveShape) -> Mean:
    def mean(theta, day):
        return fixed_course(day, shape) + np.einsum("...sp,stp->...st", theta, time_courses(day, shape))

    return mean


def stein(theta: np.ndarray, day: np.ndarray) -> np.ndarray:
    """``V = V(0) (exp(-d t) + exp(g t) - 1)``, theta = (ln V(0), ln d, ln g); Stein et al. 2008, Oncologist 13:1046."""
    decay, growth = (np.exp(np.clip(theta[..., k : k + 1], -14.0, 1.0)) * day for k in (1, 2))
    # exp(g t) - 1 + exp(-d t), without overflow and without 1 - 1
    top = np.logaddexp(growth + np.log1p(-np.exp(-np.maximum(growth, 1e-12))), -decay)
    return theta[..., :1] + top


LAWS: dict[str, tuple[Mean, tuple[float, float, float]]] = {
    "exponential, bend of its own": (linear(CurveShape()), (5.4, 0.03, 0.0)),
    **{
        f"gompertz, b = {b}": (linear(CurveShape(growth="gompertz", deceleration=b)), (5.4, 0.03, 0.0))
        for b in (0.005, 0.01, 0.02, 0.03)
    },
    "stein": (stein, (5.4, -6.0, -3.5)),
}


def table(file: Path, types: list[str], curves: int) -> Mice:
    sets = [f"data.tumour_types=[{', '.join(types)}]"] if types else []
    used = read_inputs(load_experiment(file, sets, False)).dataset.used
    seen = used[~used["censored"]].sort_values(["mouse_key", "day"])
    seen = seen[seen.groupby("mouse_key")["day"].transform("size") >= LEAST]
    seen = seen.assign(group=seen["arm"] + " | " + seen["tumour_type"])
    mice = seen.drop_duplicates("mouse_key")
    mice = mice[mice.groupby("group")["mouse_key"].transform("size") >= LEAST_MICE]
    models = np.random.default_rng(0).permutation(sorted(mice["pdx_model"].unique()))
    count = mice.groupby("pdx_model").size().reindex(models).cumsum()
    mice = mice[mice["pdx_model"].isin(set(count.index[count <= curves]))]
    groups = dict(tuple(seen[seen["mouse_key"].isin(mice["mouse_key"])].groupby("mouse_key")))
    longest = max(len(rows) for rows in groups.values())
    day, log_volume = np.zeros((len(mice), longest)), np.zeros((len(mice), longest))
    inverse, number = np.zeros((len(mice), longest, longest)), np.zeros(len(mice))
    for i, key in enumerate(mice["mouse_key"]):
        rows = groups[key]
        n = len(rows)
        day[i, :n], log_volume[i, :n], number[i] = rows["day"], np.log(rows["volume_mm3"]), n
        inverse[i, :n, :n] = np.linalg.inv(np.linalg.cholesky(residual_covariance(day[i, :n], CurveShape())))
    arm, model = pd.factorize(mice["group"])[0], pd.factorize(mice["pdx_model"])[0]
    return Mice(day, log_volume, inverse, number, arm, model)


def white(law: Mean, mice: Mice, theta: np.ndarray) -> np.ndarray:
    """Whitened residuals [..., S, T] at theta [..., S, 4], of which the last is ln sigma."""
    rest = mice.log_volume - law(theta[..., :3], mice.day)
    return np.einsum("stu,...su->...st", mice.root_inverse, rest)


def joint(law: Mean, mice: Mice, theta, mean, precision, log_det):
    """Log density [..., S] of curves and theta [..., S, 4], given mean [S, 4] and precision [S, 4, 4] of theta."""
    rest, gap = white(law, mice, theta), theta - mean
    squares = np.sum(rest**2, axis=-1) * np.exp(-2.0 * theta[..., 3])
    curve = -mice.number * (theta[..., 3] + 0.5 * np.log(2 * np.pi)) - 0.5 * squares
    log_jacobian = np.log(np.where(d := np.diagonal(mice.root_inverse, axis1=1, axis2=2), d, 1.0)).sum(-1)
    prior = -0.5 * np.einsum("...si,sij,...sj->...s", gap, precision, gap) + 0.5 * log_det - 2.0 * np.log(2 * np.pi)
    return curve + log_jacobian + prior


def modes(law: Mean, mice: Mice, theta, mean, precision, log_det):
    """Mode [S, 4] of every mouse by damped Gauss-Newton, and the curvature [S, 4, 4] there."""
    damp, value = np.full(len(theta), 1e-2), joint(law, mice, theta, mean, precision, log_det)
    for step in range(30):
        rest, scale = white(law, mice, theta), np.exp(-theta[:, 3])[:, None]
        slope = np.stack(
            [(white(law, mice, theta + 1e-5 * unit) - rest) / 1e-5 * scale for unit in np.eye(4)[:3]], axis=-1
        )
        slope = np.concatenate([slope, -(rest * scale)[..., None]], axis=-1)
        curvature = np.einsum("sti,stj->sij", slope, slope)
        squares = np.sum((rest * scale) ** 2, axis=-1)
        curvature[:, 3, 3] += squares
        curvature[:, :3, 3] *= 2.0  # d2/dtheta dln sigma of r'r / (2 sigma^2)
        curvature[:, 3, :3] *= 2.0
        gradient = -np.einsum("sti,st->si", slope, rest * scale)
        gradient[:, 3] = squares - mice.number
        gradient -= np.einsum("sij,sj->si", precision, theta - mean)
        curvature += precision
        # a saddle in ln sigma is no place for a normal
        least = np.linalg.eigvalsh(curvature)[:, 0]
        curvature += np.maximum(0.0, 1e-3 - least)[:, None, None] * np.eye(4)
        if step == 29:
            break
        ridge = damp[:, None, None] * np.eye(4) * np.trace(curvature, axis1=1, axis2=2)[:, None, None] / 4
        moved = theta + np.linalg.solve(curvature + ridge, gradient[..., None])[..., 0]
        new = joint(law, mice, moved, mean, precision, log_det)
        better = new > value
        theta, value = np.where(better[:, None], moved, theta), np.where(better, new, value)
        damp = np.where(better, damp / 5, np.minimum(damp * 10, 1e6))
    return theta, curvature


def integrate(rng, law: Mean, mice: Mice, at, mean, covariance):
    """Log marginal [S], Laplace's [S], E[theta] [S, 4], E[theta theta'] [S, 4, 4] and the modes."""
    precision = np.linalg.inv(covariance)
    log_det = np.linalg.slogdet(precision)[1]
    at, curvature = modes(law, mice, at, mean, precision, log_det)
    root = np.linalg.cholesky(np.linalg.inv(curvature))
    log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(-1)
    laplace = joint(law, mice, at, mean, precision, log_det) + 2.0 * np.log(2 * np.pi) + log_root
    z = rng.standard_normal((DRAWS, len(at), 4))
    radius = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (DRAWS, len(at), 1)))
    theta = at + np.einsum("sij,dsj->dsi", root, z * radius)
    from scipy import stats

    proposal = stats.multivariate_t(np.zeros(4), np.eye(4), FREEDOM).logpdf(z * radius) - log_root
    weight = joint(law, mice, theta, mean, precision, log_det) - proposal
    top = weight.max(0)
    share = np.exp(weight - top)
    marginal = top + np.log(share.mean(0))
    share /= share.sum(0)
    first = np.einsum("ds,dsi->si", share, theta)
    return marginal, laplace, first, np.einsum("ds,dsi,dsj->sij", share, theta, theta), at


def held_out(law: Mean, begin, mice: Mice, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log marginals of the mice that are not in `train`, and Laplace's, under the arms as fitted to `train`."""
    rng = np.random.default_rng(1)
    part = Mice(*(x[train] for x in mice))
    num_arms = mice.arm.max() + 1
    mean = np.tile([*begin, np.log(0.25)], (num_arms, 1))
    covariance = np.tile(
        np.diag([0.3, 0.5 if law is stein else 0.03, 0.5 if law is stein else 0.03, 0.5]) ** 2, (num_arms, 1, 1)
    )
    at = mean[part.arm]
    for _ in range(ROUNDS):
        _, _, first, second, at = integrate(rng, law, part, at, mean[part.arm], covariance[part.arm])
        count = np.bincount(part.arm, minlength=num_arms)
        overall = first.mean(0)
        total = np.zeros((num_arms, 4))
        np.add.at(total, part.arm, first)
        mean = (total + 1.0 * overall) / (count + 1.0)[:, None]
        gap = second - (first[:, :, None] * mean[part.arm][:, None]) - (mean[part.arm][:, :, None] * first[:, None])
        gap += mean[part.arm][:, :, None] * mean[part.arm][:, None]
        pooled = gap.mean(0)
        covariance = np.zeros((num_arms, 4, 4))
        np.add.at(covariance, part.arm, gap)
        covariance = (covariance + SHRINK * pooled) / (count + SHRINK)[:, None, None]
    rest = Mice(*(x[~train] for x in mice))
    marginal, laplace, *_ = integrate(rng, law, rest, mean[rest.arm], mean[rest.arm], covariance[rest.arm])
    return marginal, laplace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    parser.add_argument("--types", nargs="*", default=[])
    parser.add_argument("--curves", type=int, default=1000)
    chosen = parser.parse_args()
    mice = table(chosen.file, chosen.types, chosen.curves)
    num_models = mice.pdx_model.max() + 1
    print(f"{len(mice.arm)} curves of {num_models} PDX models in {mice.arm.max() + 1} arms x tumour types", flush=True)
    half = mice.pdx_model % 2 == 0
    base: np.ndarray | None = None
    for name, (law, begin) in LAWS.items():
        density, laplace = np.zeros(len(half)), np.zeros(len(half))
        for train in (half, ~half):
            density[~train], laplace[~train] = held_out(law, begin, mice, train)
        base = density if base is None else base
        gain = np.bincount(mice.pdx_model, density - base, minlength=num_models)
        low, middle, high = np.quantile(laplace - density, [0.05, 0.5, 0.95])
        print(
            f"{name:30} {density.sum():9.1f}  gain {gain.sum():8.1f} +- {gain.std() * np.sqrt(num_models):.1f}"
            f"   Laplace - exact {middle:+.2f} [{low:+.2f}, {high:+.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
