"""How much do mice of one arm differ, and do they differ more where a drug works? Not in the model; decision 17.

    python benchmarks/replicates.py [--data FOLDER]

Replicated studies (maeve, invivoSyn, LXF A677), arms with three mice or more: the coefficients of a mouse
(`vtrial.growth_laws.time_courses`) are integrated out by the model's own marginal (`vtrial.marginal`), with a free mean
for every arm, a residual scale for every mouse and the priors of `priors/growth.yaml` (but those of the means of arms,
which are flat, of kappa, of the SD of `bins` and of a, which the model does not have). With m the fraction of growth
that an arm removes (1 less the slope of its mice over that of the study's controls, days 0 to 28, at least 0)

    rate      Var(mouse's mean rate) = growth^2 (omega^2 + kappa^2 m^2)
    effect    the effect itself varies by kappa m, and is lost in time as effects are (`loss`)
    bins      an SD of the mean rate of its own for every range of m; kappa is not used
    ln residual SD of a mouse = that of its study + a m + a deviation

Bends differ as in `experiments/pdxe.yaml`, or as learnt here ("bends free"). Printed are posterior means and SDs; about
a minute each on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.infer import MCMC, NUTS
from scipy.linalg import solve_triangular

from vtrial.curve_summary import residual_covariance
from vtrial.growth_laws import reference_bend, time_courses
from vtrial.marginal import LinearGaussianMarginal, unrolled
from vtrial.model_format import CurveShape

TABLES = ("maeve_genentech", "invivosyn_combinations", "lxf_a677_erlotinib")
#: posterior means of experiments/pdxe.yaml, fit format 8: SD of bends, their correlation with rates, share lost
BEND, CORRELATION, LOSS = 0.643, -0.49, 0.856
SHAPE = CurveShape()
#: bounds of m
BINS = np.array([0.1, 0.6, 1.1, 1.5])
#: SD of the prior of an arm's mean coefficients about the mean of its mice's least squares: wide, that is flat
ARM_SD = np.array([0.5, 0.1, 0.2])
#: name -> (form of the spread, whether the residual goes with m, whether bends are learnt)
VARIANTS = {
    "rate": ("rate", True, False),
    "effect": ("effect", True, False),
    "effect, residuals alike": ("effect", False, False),
    "rate, bends free": ("rate", True, True),
    "effect, bends free": ("effect", True, True),
    "bins": ("bins", True, False),
}
sample: Any = numpyro.sample


class Mice(NamedTuple):
    """Curves of S mice, A arms."""

    triangle: np.ndarray  # [S, 3, 3] and
    statistics: np.ndarray  # [S, 4] of `vtrial.marginal`
    length: np.ndarray  # [S] measurements
    study: np.ndarray  # [S]
    arm: np.ndarray  # [S]
    growth: np.ndarray  # [S] of the study's controls, 1/day
    removed: np.ndarray  # [S] fraction m, not below 0
    centre: np.ndarray  # [A, 3] mean of the least squares of an arm's mice


def slope(day: np.ndarray, y: np.ndarray) -> float:
    """Of ln volume over days 0 to 28."""
    return float(np.polyfit(day[day <= 28], y[day <= 28], 1)[0])


def read_mice(folder: Path) -> Mice:
    """Arms with three mice or more of studies with controls; volumes at or below 10 mm3 are left out."""
    rows, centre, num_studies = [], [], 0
    for name in TABLES:
        table = pd.read_csv(folder / f"{name}.csv.gz")
        table = table[(table["day"] >= 0) & (table["volume_mm3"] > 10.0)]
        for _, study in table.groupby([c for c in ("dataset", "model", "study") if c in table]):
            arms = {}
            for arm, mice in study.groupby("treatment"):
                curves = [
                    (mouse["day"].to_numpy(float), np.log(mouse["volume_mm3"].to_numpy(float)))
                    for _, mouse in mice.sort_values("day").groupby("mouse")
                    if len(mouse) >= 5
                ]
                if len(curves) >= 3:
                    arms[arm] = (int(mice["n_drugs"].iloc[0]), np.mean([slope(*c) for c in curves]), curves)
            rates = [rate for drugs, rate, _ in arms.values() if drugs == 0]
            if not rates or len(arms) < 2:
                continue
            growth = float(np.mean(rates))
            for _, rate, curves in arms.values():
                squares = []
                for day, y in curves:
                    basis = time_courses(day, SHAPE)
                    squares.append(np.linalg.lstsq(basis, y, rcond=None)[0])
                    root = np.linalg.cholesky(residual_covariance(day, SHAPE))
                    white = solve_triangular(root, np.column_stack([basis, y]), lower=True)
                    q, triangle = np.linalg.qr(white[:, :3])
                    z = q.T @ white[:, 3]
                    rest = white[:, 3] - q @ z
                    own = (num_studies, len(centre), growth, max(1.0 - rate / growth, 0.0))
                    rows.append((triangle, np.append(z, rest @ rest), len(day), *own))
                centre.append(np.mean(squares, axis=0))
            num_studies += 1
    triangle, statistics, length, study, arm, growth, removed = map(np.array, zip(*rows, strict=True))
    return Mice(triangle, statistics, length, study, arm, growth, removed, np.array(centre))


def model(mice: Mice, form: str, residual_goes: bool, bends_free: bool) -> None:
    """The mice of all studies."""
    bend, m = reference_bend(SHAPE), jnp.asarray(mice.removed)
    curve = sample("bend", dist.LogNormal(0.0, 0.7)) if bends_free else BEND
    both = sample("correlation", dist.Uniform(-0.99, 0.99)) if bends_free else CORRELATION
    if form == "bins":
        per_bin = sample("omega", dist.LogNormal(np.log(0.2), 1.0).expand([len(BINS) + 1]).to_event(1))
        omega, extra = per_bin[np.digitize(mice.removed, BINS)], jnp.zeros_like(m)
    else:
        omega = sample("omega", dist.LogNormal(np.log(0.2), 0.3)) * jnp.ones_like(m)
        extra = jnp.square(sample("kappa", dist.HalfNormal(0.3)) * m)
    loss = LOSS if form == "effect" else 0.0
    together = both * omega * curve
    rate = omega**2 - 2.0 * bend * together + (bend * curve) ** 2 + extra
    cross = together - bend * curve**2 - loss * extra
    curvature = curve**2 + loss**2 * extra
    start = sample("start_sd", dist.LogNormal(np.log(0.2), 0.3))
    square = jnp.asarray(mice.growth) ** 2
    covariance = jnp.zeros((len(m), 3, 3)).at[:, 0, 0].set(start**2)
    for i, j, value in ((1, 1, rate), (1, 2, cross), (2, 1, cross), (2, 2, curvature)):
        covariance = covariance.at[:, i, j].set(value * square)

    level = sample("ln_sigma", dist.Normal(np.log(0.25), 0.7).expand([mice.study.max() + 1]).to_event(1))
    between = sample("ln_sigma_sd", dist.LogNormal(np.log(0.4), 0.4))
    goes = sample("a", dist.Normal(0.0, 0.5)) if residual_goes else 0.0
    z = sample("sigma_z", dist.Normal(0.0, 1.0).expand([len(m)]).to_event(1))
    mean = mice.centre + ARM_SD * sample("arm_z", dist.Normal(0.0, 1.0).expand(mice.centre.shape).to_event(2))
    ln_sigma = level[mice.study] + goes * m + between * z
    triangle, (*coefficients, residual) = unrolled(mice.triangle, 2), unrolled(mice.statistics)
    loc, spread = unrolled(mean[mice.arm]), unrolled(covariance, 2)
    marginal = LinearGaussianMarginal(loc, spread, ln_sigma, triangle, mice.length)
    numpyro.factor("curves", jnp.sum(marginal.log_prob(coefficients, residual)))


def main() -> None:
    """Print one line a variant."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    shared = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared)
    mice = read_mice(parser.parse_args().data)
    of_arm = np.array([mice.removed[mice.arm == arm][0] for arm in range(len(mice.centre))])
    counts = np.bincount(np.digitize(mice.removed, BINS)), np.bincount(np.digitize(of_arm, BINS))
    print(f"{mice.study.max() + 1} studies, {len(of_arm)} arms, {len(mice.arm)} mice; in bins of m: {counts}")
    for name, variant in VARIANTS.items():
        kernel = NUTS(model, target_accept_prob=0.9)
        sampler = MCMC(kernel, num_warmup=400, num_samples=600, num_chains=1, progress_bar=False)
        sampler.run(jax.random.key(1), mice, *variant)
        draws = {k: np.asarray(v) for k, v in sampler.get_samples().items()}
        said = [
            f"{k} {np.array2string(draws[k].mean(0), precision=3)} +- {np.array2string(draws[k].std(0), precision=3)}"
            for k in ("kappa", "a", "omega", "bend", "correlation", "ln_sigma", "ln_sigma_sd")
            if k in draws
        ]
        divergent = int(sampler.get_extra_fields()["diverging"].sum())
        print(f"{name}: {', '.join(said)}; {divergent} divergent", flush=True)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
