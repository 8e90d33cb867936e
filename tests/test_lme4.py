"""The marginal of a linear Gaussian curve, summed over mice, is lme4's log-likelihood at lme4's estimates."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from vtrial.marginal import LinearGaussianMarginal, unrolled

ARMS, MICE = 4, 9
SCRIPT = """\
library(lme4)
d <- read.csv(commandArgs(TRUE)[1])
d$arm <- factor(d$arm)
m <- lmer(y ~ 1 + day:arm + (1 + day | mouse), data = d, REML = FALSE)
v <- VarCorr(m)$mouse
cat(sprintf("%.12g", c(fixef(m), v[1, 1], v[1, 2], v[2, 2], sigma(m), logLik(m))), sep = "\\n")
"""
#: what that script printed of `mice()`, lme4 1.1-31 in R 4.2.2: the intercept, a slope an arm, variance of the
#: intercept, covariance, variance of the slope, residual SD, log-likelihood
LME4 = (
    5.43522900212, 0.0498880313728, 0.0270605801588, 0.0160983258294, 0.0107125674168,
    0.0559255335335, 0.000433669536352, 6.11837513074e-05, 0.125132825923, 57.3664195847,
)  # fmt: skip


def mice() -> pd.DataFrame:
    """Unbalanced curves of 36 mice; the generator is NumPy's legacy one, whose numbers are frozen."""
    rng = np.random.RandomState(5)
    rows = []
    for mouse in range(ARMS * MICE):
        arm = mouse % ARMS
        start, rate = 5.4 + 0.25 * rng.standard_normal(), 0.05 - 0.015 * arm + 0.012 * rng.standard_normal()
        for day in 3.5 * np.arange(rng.randint(2, 9)):
            rows.append((mouse, arm, day, start + rate * day + 0.15 * rng.standard_normal()))
    return pd.DataFrame(rows, columns=["mouse", "arm", "day", "y"])


def test_the_density_at_lme4s_estimates_is_lme4s_log_likelihood():
    intercept, *slopes, v11, v12, v22, sigma, log_likelihood = LME4
    triangle, value, length, loc = [], [], [], []
    for _, curve in mice().groupby("mouse"):
        basis = np.column_stack([np.ones(len(curve)), curve["day"]])
        orthogonal, upper = np.linalg.qr(basis)
        z = orthogonal.T @ curve["y"].to_numpy()
        rest = curve["y"].to_numpy() - orthogonal @ z
        triangle.append(upper)
        value.append([*z, rest @ rest])
        length.append(len(curve))
        loc.append([intercept, slopes[curve["arm"].iloc[0]]])
    with jax.enable_x64(True):
        number = len(length)
        covariance = jnp.broadcast_to(jnp.array([[v11, v12], [v12, v22]]), (number, 2, 2))
        mean, root = unrolled(jnp.array(loc)), unrolled(jnp.array(triangle), 2)
        ln_sigma, length = jnp.full(number, np.log(sigma)), jnp.array(length, float)
        marginal = LinearGaussianMarginal(mean, unrolled(covariance, 2), ln_sigma, root, length)
        *coefficients, residual = unrolled(jnp.array(value))
        found = float(jnp.sum(marginal.log_prob(coefficients, residual)))
    # the estimates were printed to twelve digits and are a maximum
    assert found == pytest.approx(log_likelihood, abs=1e-8)


def test_lme4_still_says_so(tmp_path: Path):
    rscript = shutil.which("Rscript")
    if rscript is None or subprocess.run([rscript, "-e", "library(lme4)"], capture_output=True, check=False).returncode:
        pytest.skip("needs R with lme4 (Debian: r-cran-lme4)")
    table, script = tmp_path / "mice.csv", tmp_path / "fit.R"
    mice().to_csv(table, index=False)
    script.write_text(SCRIPT)
    done = subprocess.run([rscript, str(script), str(table)], capture_output=True, text=True, check=True)
    # the optimum of another build of its optimiser: flat to second order, so that its likelihood is closer
    found = [float(line) for line in done.stdout.split()]
    np.testing.assert_allclose(found[:-1], LME4[:-1], rtol=1e-3)
    assert found[-1] == pytest.approx(LME4[-1], abs=1e-5)
