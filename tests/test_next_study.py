"""The next mouse study: cells by hand, noise, and expected widths against an exact conjugate answer."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import special, stats

from vtrial.next_study import (
    MEASUREMENT_DAYS,
    MouseLaw,
    Normals,
    cell_rates,
    noise_variance,
    predicted,
    preposterior,
    residual_sd,
    study_summary,
    widths_after,
)
from vtrial.posterior import Draws
from vtrial.treatment import combine


def law(size: int, effect: np.ndarray, **changes) -> MouseLaw:
    """Two drugs, one subgroup, little spread; `effect` is the mean effect of both, [D, 2]."""
    values = dict(
        mu_ln_growth=np.full(size, np.log(0.06)),
        omega_ln_growth=np.full(size, 0.3),
        effect_mean=effect[:, :, None],
        effect_sd=np.full((size, 2), 0.2),
        phi=np.full((size, 2, 2), 0.5),
        gamma=np.full((size, 2, 2), 0.1),
        omega_combination=np.full(size, 0.1),
        omega_mouse=np.full(size, 0.3),
        retained=np.full(size, 0.9),
        waned=np.tile([0.8, 0.6, 0.7], (size, 1)),
        sigma=np.full(size, 0.2),
        prevalence=np.ones(1),
    )
    return MouseLaw(**(values | changes))


def test_noise_of_mice_is_that_of_new_arms_of_the_type():
    """Root mean square of simulated scales, of a type in the fit and of another; within five standard errors."""
    scalars = {"mu_ln_sigma": -1.5, "omega_ln_sigma_type": 0.4, "omega_ln_sigma_arm": 0.2, "omega_ln_sigma": 0.3}
    values = {name: (("chain", "draw"), np.full((1, 1), value)) for name, value in scalars.items()}
    values["ln_sigma_type"] = (("chain", "draw", "tumour_type"), np.array([[[-1.0, -2.0]]]))
    draws = Draws(xr.DataTree.from_dict({"posterior": xr.Dataset(values, {"tumour_type": ["T1", "T2"]})}))
    rng, size = np.random.default_rng(3), 400_000
    below = 0.2 * rng.normal(size=size) + 0.3 * rng.normal(size=size)
    for tumour_type, mean in (("T2", -2.0), ("T3", -1.5 + 0.4 * rng.normal(size=size))):
        square = np.exp(2.0 * (mean + below))
        error = square.std() / np.sqrt(size)
        assert abs(residual_sd(draws, tumour_type)[0] ** 2 - square.mean()) < 5 * error


def test_cells_by_hand():
    one = law(1, np.array([[0.7, 0.4]]))
    normals = Normals(np.array([1.0]), np.array([[-1.0, 2.0]]), np.array([0.5]), np.array([0.3]))
    rates, growth = cell_rates(one, normals)
    assert growth[0, 0] == pytest.approx(0.06 * np.exp(0.3))
    first, second = 0.7 - 0.2, 0.4 + 2 * 0.2
    rule = [jnp.asarray(x, jnp.float32) for x in ([first, second], one.phi[0], one.gamma[0])]
    joint = float(combine(*rule, jnp.ones(2, bool))) + 0.05
    effects = ((0.0, 0.8), (first, 0.8), (second, 0.6), (joint, 0.7))
    expected = [0.06 * np.exp(0.3) * (0.9 - left * rho) for rho, left in effects]
    np.testing.assert_allclose(rates[0, 0], expected, rtol=1e-6)


def test_a_subgroup_has_its_own_effect():
    effect = np.array([[[0.2, 1.0], [0.1, 0.5]]])
    two = law(1, np.zeros((1, 2)), effect_mean=effect, prevalence=np.array([0.3, 0.7]), effect_sd=np.zeros((1, 2)))
    normals = Normals(np.zeros(2), np.zeros((2, 2)), np.zeros(2), np.array([0.29, 0.31]))
    rates, _ = cell_rates(two, normals)
    np.testing.assert_allclose(rates[0, :, 1], [0.06 * (0.9 - 0.8 * rho) for rho in (0.2, 1.0)])


def test_noise_of_one_mouse():
    """(0.3 x 0.06)^2 + 0.2^2 / S_tt; S_tt of 0, 3.5, ... 28 is 3.5^2 (16 + 9 + 4 + 1) 2 = 735."""
    found = noise_variance(law(1, np.zeros((1, 2))), np.array([[0.06]]))
    assert len(MEASUREMENT_DAYS) == 9 and found[0, 0] == pytest.approx(0.018**2 + 0.04 / 735.0)


def test_the_noise_is_that_of_the_mean_of_the_mice():
    """The control cells of studies without spread between models: their variance over many draws is the noise / n."""
    size = 4000
    still = law(size, np.zeros((size, 2)), omega_ln_growth=np.zeros(size))
    summary = study_summary(np.random.default_rng(2), still, 1, 4)
    # one model: ln of the control rate, whose SD is the noise over the rate, to first order
    expected = np.sqrt((0.018**2 + 0.04 / 735.0) / 4.0) / (0.06 * 0.9)
    assert np.std(summary[:, 0]) == pytest.approx(expected, rel=5 / np.sqrt(2 * size) + expected**2 * 4)


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_widths_against_the_conjugate_answer(noise):
    """logit rate = theta + translation, summary = theta + noise, all normal: the posterior is normal."""
    rng, size, spread, translation = np.random.default_rng(4), 8000, 0.8, 0.5
    theta = spread * rng.standard_normal(size)
    rate = special.expit(-1.0 + theta + translation * rng.standard_normal(size))
    seen = theta + noise * rng.standard_normal(size)
    found = widths_after(rate, seen[:, None], 10**9)
    gain = spread**2 / (spread**2 + noise**2)
    sd = np.sqrt(translation**2 + spread**2 * (1.0 - gain))
    low, high = (special.expit(-1.0 + gain * seen + q * sd) for q in stats.norm.ppf([0.05, 0.95]))
    # 400 neighbours: the 5 % quantile of so many has an SE of sqrt(0.05 0.95 / 400) / density = 0.106 SD; the mean of
    # 20 such windows that do not overlap errs by 0.106 sqrt(2 / 20) = 0.033 SD of 3.29
    assert found.mean() == pytest.approx((high - low).mean(), rel=3 * 0.033 / 3.29 * np.sqrt(2.0))


def test_a_study_that_says_nothing_leaves_the_width():
    rng = np.random.default_rng(6)
    rate = rng.beta(2.0, 6.0, 4000)
    width = np.subtract(*np.quantile(rate, [0.95, 0.05]))
    found = widths_after(rate, rng.standard_normal((4000, 3)), 10**9).mean()
    assert found == pytest.approx(width, rel=3 * 0.05)  # 200 neighbours: 0.154 SD of one end, 20 windows


def test_the_prediction_of_a_draw_does_not_use_its_own_rate():
    rng = np.random.default_rng(7)
    target, summary = rng.standard_normal(200), rng.standard_normal((200, 30))
    # a regression on itself would explain 30 / 200 of pure noise
    assert abs(np.corrcoef(predicted(target, summary), target)[0, 1]) < 5 / np.sqrt(200)
    moved = target.copy()
    moved[10] += 100.0
    np.testing.assert_array_equal(predicted(moved, summary)[0::2], predicted(target, summary)[0::2])


def test_more_models_and_mice_teach_more_up_to_what_mice_know():
    rng, size = np.random.default_rng(9), 2000
    effect = 0.8 + 0.4 * rng.standard_normal((size, 2))
    rate = special.expit(4.0 * (effect.max(axis=1) - 1.2) + 0.3 * rng.standard_normal(size))
    table = preposterior(np.random.default_rng(1), law(size, effect), rate, 10**6, [2, 30], [1, 8], repeats=3)
    share = table.set_index(["models", "mice"])["share"]
    assert share[0, 0] == 1.0 and share.iloc[-1] == share.min()
    assert share[2, 1] > share[2, 8] > share[30, 8] and share[2, 1] > share[30, 1]
    assert list(table["mice_total"][1:5]) == [8, 120, 64, 960]
