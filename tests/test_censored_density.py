"""Volumes below the detection limit: their density against normal orthant probabilities, and the truncated normal."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy import special, stats

from tests.test_model import CLASSES, QUICKLY, SHAPE, Mouse, combined, mice_of, pairs_of, prior, table_of
from vtrial.censored_density import truncated_normal
from vtrial.model import arrays_of, build_model
from vtrial.panel import Panel, build_panel
from vtrial.residual_scales import ScaleCoordinate

CENSORED = {
    "c1": ("T1", "M1", "untreated", 6),
    "a1": ("T1", "M1", "A", 6),
    "b1": ("T1", "M1", "B", 6),
    "ab1": ("T1", "M1", "A + B", 6),
    "c2": ("T1", "M2", "untreated", 6),
    "a2": ("T1", "M2", "A", 6),
}


#: hidden volumes at the end of a control, of a curve whose effect is integrated out, and of a combination; and slopes
HIDDEN = {
    "likely": ({"c1": 2, "a2": 3, "ab1": 4}, {"c1": -0.12, "a2": -0.16, "ab1": -0.27}),
    "far in the tail": ({"c1": 2, "a2": 2, "ab1": 1}, {"c1": -0.10, "a2": -0.10, "ab1": 0.0}),
}


@pytest.fixture(scope="module")
def hidden_likelihoods():
    """Function of (points u, arrays): log likelihoods of the censored mice [num, 3], and what the sites mean."""
    compiled = {}

    def evaluate(panel: Panel, u: np.ndarray):
        # with c = 1 the coordinate of a residual scale is its logarithm
        of_mice = ScaleCoordinate(np.ones(6), np.ones(()))
        arrays = arrays_of(panel._replace(scales=panel.scales._replace(mouse=of_mice)))
        if not compiled:
            model = build_model(panel, prior())

            def known(arrays, sites, u):
                found = handlers.trace(handlers.substitute(model, {**sites, "censored_u": u})).get_trace(arrays)
                return {name: site["value"] for name, site in found.items() if site["type"] != "plate"}

            @partial(jax.jit, compiler_options=QUICKLY)
            def both(arrays, points):
                trace = handlers.trace(handlers.seed(model, jax.random.key(3))).get_trace(arrays)
                sites = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
                sites |= {"ln_growth": jnp.full(2, np.log(0.05)), "ln_sigma_z": jnp.full(6, np.log(0.25))}
                sites |= {"omega_intercept": jnp.asarray(0.3), "mu_intercept": jnp.asarray(5.4)}

                def likelihood(u):
                    return known(arrays, sites, u)["log_likelihood"][arrays.censored.mouse]

                return jax.lax.map(likelihood, points), known(arrays, sites, points[0])

            compiled["both"] = both
        return jax.tree.map(np.asarray, compiled["both"](arrays, jnp.asarray(u)))

    return evaluate


@pytest.mark.parametrize("where", HIDDEN)
def test_censored_density_is_the_probability_below_the_limit(tmp_path, hidden_likelihoods, where):
    """Averaged over its uniforms, the sequential density is the normal orthant probability of the dense conditional."""
    low, slope = HIDDEN[where]
    dataset = table_of(tmp_path, CENSORED, low, slope)
    panel = build_panel(dataset, CLASSES, SHAPE)
    order = [panel.labels.mouse[i] for i in panel.censored.mouse]
    assert sorted(order) == sorted(f"S/{mouse}" for mouse in low)
    # Sobol points in 3 x 4 dimensions; eight scrambles tell the error of their mean
    points = np.stack([stats.qmc.Sobol(12, rng=np.random.default_rng(s)).random(8192) for s in range(8)])
    with jax.enable_x64(True):
        found, p = hidden_likelihoods(panel, points.reshape(-1, 3, 4))
    mice = mice_of(dataset, panel, p)
    for q, key in enumerate(order):
        most = found[:, q].max()
        each = np.exp(found[:, q] - most).reshape(8, -1).mean(1)
        error = each.std(ddof=1) / np.sqrt(8) / each.mean()
        expected = _censored_log_density(mice[key], *_effect_of(panel, p, key))
        # five standard errors of the average, and 1e-4 for scipy's own orthant probability
        assert abs(most + np.log(each.mean()) - expected) < 5 * error + 1e-4, (key, expected, error)
        assert error < 0.1, "the check means something; for the control it is 1e-4"


def _effect_of(panel: Panel, p, key: str) -> tuple[float, float]:
    """Mean of the effect on a mouse of CENSORED, and its spread that the curve integrates over."""
    labels = panel.labels
    if key == "S/c1":
        return 0.0, 0.0
    if key == "S/ab1":
        rho = dict(zip(labels.pdx_model_drug, p["effect_site"], strict=True))
        pairs = pairs_of(labels.class_pair, ("A", "B"))
        both = np.array([rho["M1 | A"], rho["M1 | B"]])
        return combined(both, p["phi"][pairs], p["gamma"][pairs]), p["omega_combination"]
    at = labels.drug_type.index("A | T1")
    return p["effect"][at], p["omega_effect"][at]


def _censored_log_density(mouse: Mouse, effect: float, extra: float) -> float:
    """Log density of the seen part of a curve plus the log probability of the hidden part below the limit."""
    mean, hidden = mouse.mean + effect * mouse.slope, mouse.hidden
    covariance = mouse.covariance + extra**2 * np.outer(mouse.slope, mouse.slope)
    seen = covariance[np.ix_(~hidden, ~hidden)]
    cross = covariance[np.ix_(hidden, ~hidden)] @ np.linalg.inv(seen)
    centre = mean[hidden] + cross @ (mouse.measured - mean)[~hidden]
    rest = covariance[np.ix_(hidden, hidden)] - cross @ covariance[np.ix_(~hidden, hidden)]
    below = _log_orthant(np.log(10.0) - centre, rest)
    return stats.multivariate_normal.logpdf(mouse.measured[~hidden], mean[~hidden], seen) + below


def _log_orthant(bound: np.ndarray, covariance: np.ndarray) -> float:
    """Log P(x < bound), x ~ Normal(0, covariance): exact in one dimension, on a fine grid in two, scipy's above."""
    scale = np.sqrt(np.diag(covariance))
    b = bound / scale
    if len(b) == 1:
        return float(special.log_ndtr(b[0]))
    if len(b) == 2:
        r = covariance[0, 1] / scale.prod()
        x = b[0] - np.linspace(0.0, 12.0, 200_001)
        log = stats.norm.logpdf(x) + special.log_ndtr((b[1] - r * x) / np.sqrt(1.0 - r**2))
        return float(np.log(np.trapezoid(np.exp(log - log.max()), dx=6e-5)) + log.max())
    return float(np.log(stats.multivariate_normal.cdf(bound, cov=covariance, abseps=1e-9, releps=1e-6)))


@pytest.mark.parametrize("bound", [9.0, 2.0, 0.0, -3.0, -5.999, -6.001, -15.0, -29.0])
def test_truncated_normal_is_the_quantile_of_scipy(bound):
    u = np.array([1e-12, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0 - 1e-9])
    with jax.enable_x64(True):
        found = truncated_normal(jnp.asarray(u), jnp.full(u.shape, bound))
    # the distribution function of the answer is u: compared on the log scale, where the tail still has digits
    np.testing.assert_allclose(special.log_ndtr(np.asarray(found)) - special.log_ndtr(bound), np.log(u), atol=1e-9)
    np.testing.assert_allclose(found, stats.truncnorm.ppf(u, -np.inf, bound), rtol=1e-7, atol=1e-9)


def test_truncated_normal_far_out_is_smooth_and_finite():
    """Beyond the reach of ndtr the tail holds to 1 / bound^4, and gradients are finite everywhere."""
    u = np.array([1e-300, 0.01, 0.5, 0.99])
    with jax.enable_x64(True):
        for bound in (-31.0, -40.0, -100.0, -1e4):
            found = np.asarray(truncated_normal(jnp.asarray(u), jnp.full(u.shape, bound)))
            exact = special.log_ndtr(found[1:]) - special.log_ndtr(bound)
            # what is left out: (x^2 - b^2) / b^4 of the next term, and the digits that log_ndtr has at that size
            np.testing.assert_allclose(exact, np.log(u[1:]), atol=-4.0 * np.log(u[1]) / bound**4 + 1e-15 * bound**2)
            assert np.all(found < bound)
        slope = jax.grad(lambda u, b: truncated_normal(u, b), argnums=(0, 1))
        for bound in (-1e3, -30.0, -29.9, -6.0, 0.0, 20.0):
            assert np.all(np.isfinite(np.array([slope(x, bound) for x in (1e-12, 0.5, 1.0 - 1e-12)])))


def test_truncated_normal_slopes_are_those_of_its_values():
    """Central differences of order h^2 of the function itself, on both sides of where the tail takes over."""
    u, bound = (np.ravel(each) for each in np.meshgrid([1e-6, 0.2, 0.9], [-60.0, -31.0, -29.0, -3.0, 0.5, 4.0]))
    with jax.enable_x64(True):
        by_u, by_bound = jax.vmap(jax.grad(truncated_normal, argnums=(0, 1)))(u, bound)
        h = 1e-5
        moved_u = (truncated_normal(u * (1 + h), bound) - truncated_normal(u * (1 - h), bound)) / (2 * u * h)
        moved_bound = (truncated_normal(u, bound + h) - truncated_normal(u, bound - h)) / (2 * h)
    # the tail leaves 1 / b^2 - 1 / x^2 = -2 ln u / b^4 out of ln x: to that share it has the density, so the slope
    rtol = 4.0 * -np.log(1e-6) / 30.0**4
    np.testing.assert_allclose(by_u, moved_u, rtol=rtol)
    np.testing.assert_allclose(by_bound, moved_bound, rtol=rtol, atol=1e-9)
