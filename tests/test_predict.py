"""Mice that were never fitted: their law by hand and by moments, counts, and the observed classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws
from vtrial.predict import (
    Cells,
    MouseLaw,
    arms_of,
    cells_of_arms,
    log_volume,
    mid_interval,
    mouse_law,
    new_models,
    observed_response,
    predict_arms,
    response_counts,
)
from vtrial.stopping import StoppingRule, features

LOSS_RATE = 0.02
FORGET, WHITE = 20.0, 0.1
SHAPE = CurveShape(LOSS_RATE, FORGET, WHITE)
REFERENCE_DAYS = 28.0
SIGMAS = 5.0
CLASSES = {"A": "MEK", "B": "PI3K"}
LAW = dict(
    ln_growth_type=[-3.0, -2.5],
    omega_ln_growth=[0.3, 0.2],
    effect=[0.5, 1.1, 0.2],  # A | T1, A | T2, B | T1
    omega_effect=[0.3, 0.2, 0.4],
    mu_intercept=5.3,
    omega_intercept=0.2,
    omega_mouse=0.3,
    omega_curvature=0.6,
    curvature_correlation=-0.4,
    loss_drug_type=[0.5, 0.2, 0.8],
    slowing=0.1,
    ln_sigma_arm=[-2.0, -1.0, -2.0, -2.0, -1.5, -2.5],
    omega_ln_sigma=0.3,
    phi=[0.6],
    gamma=[0.1],
    omega_combination=0.25,
)
DAY = jnp.asarray([0.0, 7.0, 28.0, 56.0], jnp.float32)


def law(**changes) -> MouseLaw:
    return MouseLaw(**{name: jnp.asarray(value, jnp.float32) for name, value in (LAW | changes).items()})


def cells() -> Cells:
    """A in T1, A in T2, A + B in T1, control in T2."""
    return Cells(
        tumour_type=jnp.asarray([0, 1, 0, 1]),
        drug_type=jnp.asarray([[0, 0], [1, 0], [0, 2], [0, 0]]),
        present=jnp.asarray([[True, False], [True, False], [True, True], [False, False]]),
        pair=jnp.zeros((4, 2, 2), jnp.int32),
        num_models=jnp.asarray([3, 2, 4, 1]),
        arm_type=jnp.asarray([0, 1, 0, 1]),
    )


def test_curve_without_spread_is_the_equation():
    nothing = dict.fromkeys(("omega_intercept", "omega_mouse", "omega_curvature", "omega_ln_sigma"), 0.0)
    growth, effect = jnp.asarray([0.05, 0.02]), jnp.asarray([0.0, 1.4])
    found = log_volume(
        jax.random.key(0), law(**nothing), growth, effect, jnp.asarray([0.9, 0.5]), jnp.full(2, -30.0), DAY, SHAPE
    )
    day = np.asarray(DAY, float)
    waning = day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE
    for i, (g, e) in enumerate(((0.05, 0.0), (0.02, 1.4))):
        expected = 5.3 + g * (1 - e) * day + g * (0.5 * e - 0.1) * waning
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)


def test_curves_have_the_moments_of_the_model():
    """Mean and covariance of the ln volumes against the sums written out; the residual SD is log-normal over mice."""
    number, g, e = 200_000, 0.05, 0.4
    full = jnp.full(number, 1.0, jnp.float32)
    found = np.asarray(
        log_volume(jax.random.key(1), law(), g * full, e * full, 0.5 * full, -2.0 * full, DAY, SHAPE), float
    )
    day = np.asarray(DAY, float)
    waning = day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE
    bend = 1 - (1 - np.exp(-LOSS_RATE * REFERENCE_DAYS)) / (LOSS_RATE * REFERENCE_DAYS)
    mean = 5.3 + g * (1 - e) * day + g * (0.5 * e - 0.1) * waning
    own = np.stack([np.ones(4), g * day, g * (waning - bend * day)], 1)
    spread = np.diag([0.2**2, 0.3**2, 0.6**2])
    spread[1, 2] = spread[2, 1] = -0.4 * 0.3 * 0.6
    noise = np.exp(2 * -2.0 + 2 * 0.3**2)
    process = np.exp(-np.abs(day[:, None] - day) / FORGET) - np.exp(-(day[:, None] + day) / FORGET)
    covariance = own @ spread @ own.T + noise * (WHITE * np.eye(4) + (1 - WHITE) * process)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_array_less(np.abs(found.mean(0) - mean), SIGMAS * sd / np.sqrt(number))
    # SE of a covariance of normals is at most sqrt(2 / n) of the product of SDs; the heavier residual adds a little
    gap = np.abs(np.cov(found.T) - covariance) / np.outer(sd, sd)
    assert gap.max() < 1.5 * SIGMAS * np.sqrt(2 / number)


def test_new_models_have_the_moments_of_their_cell():
    number = 100_000
    member = jnp.repeat(jnp.arange(4), number)
    growth, effect = (
        np.asarray(x, float).reshape(4, -1) for x in new_models(jax.random.key(2), law(), cells(), member)
    )
    for c, (kind, mean, sd) in enumerate(((0, 0.5, 0.3), (1, 1.1, 0.2), (0, None, None), (1, 0.0, 0.0))):
        ln, omega = np.log(growth[c]), LAW["omega_ln_growth"][kind]
        assert abs(ln.mean() - LAW["ln_growth_type"][kind]) < SIGMAS * omega / np.sqrt(number)
        assert abs(ln.std() / omega - 1) < SIGMAS / np.sqrt(2 * number)
        if mean is not None:
            assert abs(effect[c].mean() - mean) < SIGMAS * sd / np.sqrt(number) + 1e-6
            assert abs(effect[c].std() - sd) < SIGMAS * sd / np.sqrt(2 * number) + 1e-6
    # the combination: the rule on pairs of single effects, and its own spread
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.3, 400_000), rng.normal(0.2, 0.4, 400_000)
    share = 1 / (1 + np.exp(-np.clip((a - b) / 0.05, -500, 500)))
    rule = share * a + (1 - share) * b + 0.6 * (share * b + (1 - share) * a) + 0.1
    sd = np.hypot(rule.std(), 0.25)
    assert abs(effect[2].mean() - rule.mean()) < SIGMAS * sd * np.sqrt(1 / number + 1 / len(a))
    assert abs(effect[2].std() / sd - 1) < SIGMAS * np.sqrt(1 / number)


def test_no_two_models_are_the_same():
    growth, effect = new_models(jax.random.key(3), law(), cells(), jnp.zeros(50, jnp.int32))
    assert len(np.unique(growth)) == 50 and len(np.unique(effect)) == 50


def test_interval_of_a_count_by_hand():
    """P(0) = 0.7, P(1) = 0.2, P(2) = 0.1: mid-distribution 0.35, 0.8, 0.95."""
    count = np.repeat([0, 1, 2], [70, 20, 10])
    assert mid_interval(count, 10) == pytest.approx((0.0, 0.2))
    low, high = mid_interval(count, 10, level=0.4)  # at 0.3 and 0.7: 0, and 7/9 of the way from 0 to 1
    assert (low, high) == pytest.approx((0.0, 0.1 * 0.35 / 0.45))


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_intervals_of_rare_counts_cover_more_nearly_what_they_say(rate):
    """Share of binomial counts outside a 90 % interval, averaged over rates about `rate`, against plain quantiles."""
    rng = np.random.default_rng(4)
    number, fraction = 40, np.arange(41) / 40
    missed = {"mid": [], "plain": []}
    for p in rate * np.exp(0.3 * rng.normal(size=400)):
        count = rng.binomial(number, p, 4000)
        bounds = {"mid": mid_interval(count, number), "plain": np.quantile(count / number, [0.05, 0.95])}
        for name, (low, high) in bounds.items():
            outside = (fraction < low - 1e-9) | (fraction > high + 1e-9)
            missed[name].append(stats.binom.pmf(np.arange(number + 1), number, p) @ outside)
    mid, plain = np.mean(missed["mid"]), np.mean(missed["plain"])
    assert abs(mid - 0.1) < 0.85 * abs(plain - 0.1) and mid < 0.12


@pytest.fixture(scope="module")
def nobody_leaves() -> StoppingRule:
    size = features(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1)).shape[-1]
    return StoppingRule(jnp.zeros(size).at[0].set(-50.0), 3.0)


def stacked(*laws: MouseLaw) -> MouseLaw:
    return jax.tree.map(lambda *x: jnp.stack(x), *laws)


def test_counts_of_certain_responses(nobody_leaves):
    """A drug that kills at thrice growth in every mouse, and one that does nothing: all and none respond."""
    fixed = dict.fromkeys(("omega_mouse", "omega_curvature"), 0.0)
    strong = law(effect=[3.0, 0.0, 3.0], omega_effect=[0.0, 0.0, 0.0], **fixed, loss_drug_type=[0.0] * 3)
    weak = law(
        effect=[0.0, 3.0, 0.0],
        omega_effect=[0.0, 0.0, 0.0],
        **fixed,
        loss_drug_type=[0.0] * 3,
        omega_combination=0.0,
        gamma=[0],
    )
    member = jnp.repeat(jnp.arange(4), cells().num_models, total_repeat_length=10)
    counts = response_counts(jax.random.key(4), stacked(strong, weak), cells(), member, nobody_leaves, shape=SHAPE)
    np.testing.assert_array_equal(counts, [[3, 0, 4, 0], [0, 2, 0, 0]])


def test_what_is_lost_is_that_of_the_drugs(nobody_leaves):
    """Effects of 1.5: A keeps it in T1 and mice respond; in T2 it is lost soon, and so it is together with B."""
    nothing = dict.fromkeys(("omega_mouse", "omega_curvature", "omega_combination", "slowing"), 0.0)
    one = law(
        effect=[1.5] * 3, omega_effect=[0.0] * 3, **nothing, phi=[0.0], gamma=[0.0], loss_drug_type=[0.0, 4.0, 8.0]
    )
    member = jnp.repeat(jnp.arange(4), cells().num_models, total_repeat_length=10)
    counts = response_counts(jax.random.key(4), stacked(one), cells(), member, nobody_leaves, shape=SHAPE)
    np.testing.assert_array_equal(counts, [[3, 0, 0, 0]])
    kept = one._replace(loss_drug_type=jnp.zeros(3))
    counts = response_counts(jax.random.key(4), stacked(kept), cells(), member, nobody_leaves, shape=SHAPE)
    np.testing.assert_array_equal(counts, [[3, 2, 4, 0]])


def test_residuals_are_those_of_the_arm(nobody_leaves):
    """Controls of two arms: read without error nobody responds, read as wildly as can be some do."""
    nothing = dict.fromkeys(("omega_mouse", "omega_curvature"), 0.0)
    one = law(effect=[0.0] * 3, omega_effect=[0.0] * 3, **nothing, ln_sigma_arm=[-9.0, 1.0, *[-9.0] * 4])
    alike = cells()._replace(
        tumour_type=jnp.zeros(4, jnp.int32), num_models=jnp.asarray([400, 400, 0, 0]), present=jnp.zeros((4, 2), bool)
    )
    member = jnp.repeat(jnp.arange(4), alike.num_models, total_repeat_length=800)
    quiet, wild, *_ = response_counts(jax.random.key(4), stacked(one), alike, member, nobody_leaves, shape=SHAPE)[0]
    assert quiet == 0 and wild > 40


def test_a_fit_without_residual_scales_of_arms_is_refused():
    with pytest.raises(InputError, match="ln_sigma_arm"):
        mouse_law(posterior(2, ln_sigma_arm=None))
    assert np.all(mouse_law(posterior(2, phi=None)).phi == 0.0)


def posterior(num: int, **values) -> Draws:
    labels = {
        "arm_type": ["A | T1", "A | T2", "B + A | T1", "B | T1", "untreated | T1", "untreated | T2"],
        "tumour_type": ["T1", "T2"],
        "drug_type": ["A | T1", "A | T2", "B | T1"],
        "class_pair": ["MEK x PI3K"],
    }
    dims = {"ln_growth_type": "tumour_type", "omega_ln_growth": "tumour_type", "effect": "drug_type"}
    dims |= {
        "loss_drug_type": "drug_type",
        "ln_sigma_arm": "arm_type",
        "omega_effect": "drug_type",
        "phi": "class_pair",
        "gamma": "class_pair",
    }
    variables = {}
    for name, value in (LAW | values).items():
        if value is not None:
            data = np.broadcast_to(np.asarray(value, float), (1, num, *np.shape(value)))
            variables[name] = (("chain", "draw", *((dims[name],) if name in dims else ())), data)
    coords = {name: at for name, at in labels.items() if any(name in v[0] for v in variables.values())}
    return Draws(xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=coords)}), num)


def test_law_of_a_fit_without_combinations_has_no_rule():
    found = mouse_law(posterior(3, phi=None, gamma=None, omega_combination=None))
    assert found.phi.shape == (3, 1) and not np.any(found.phi) and found.omega_combination.shape == (3,)
    assert found.effect.shape == (3, 3) and found.effect.dtype == jnp.float32


TABLE = {  # mouse -> type, model, arm, volumes on days 0, 7, 14, 21, 28
    "c1": ("T1", "M1", "untreated", (200, 300, 450, 700, 1000)),
    "c2": ("T1", "M2", "untreated", (200, 250, 300, 400, 500)),
    "a1": ("T1", "M1", "A", (200, 100, 50, 40, 40)),
    "a2": ("T1", "M2", "A", (200, 190, 195, 200, 210)),
    "b1": ("T1", "M1", "B + A", (200, 50, 0, 0, 0)),
    "a3": ("T2", "M3", "A", (200, 210, 230, 240, 250)),
    "c3": ("T2", "M3", "untreated", (200, 230, 260, 300, 350)),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("predict") / "table.csv"
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for mouse, (kind, model, arm, volumes) in TABLE.items():
        lines += [f"S,{kind},{model},{mouse},{arm},{7 * i},{v}" for i, v in enumerate(volumes)]
    path.write_text("\n".join(lines).replace("B + A,", "B + A,") + "\nS,T1,M2,b2,B,0,200\nS,T1,M2,b2,B,7,210\n")
    return read_dataset(path)


def test_observed_response_by_hand(dataset):
    """a1: best change -80 %, best average -47 %; b1 vanishes; the others are stable or grow."""
    table = observed_response(dataset)
    responders = table[table["responds"]]
    assert sorted(zip(responders["arm"], responders["pdx_model"], strict=True)) == [("A", "M1"), ("B + A", "M1")]
    assert len(table) == len(TABLE) + 1


def test_arms_with_enough_models(dataset):
    table = arms_of(dataset, 2)
    assert table.to_dict("records") == [
        {"tumour_type": "T1", "arm": "A", "num_models": 2},
        {"tumour_type": "T1", "arm": "untreated", "num_models": 2},
    ]
    assert len(arms_of(dataset, 1)) == 6


def test_cells_find_their_place_in_the_posterior(dataset):
    arms = arms_of(dataset, 1)
    found = cells_of_arms(arms, dataset, posterior(2), CLASSES)
    row = arms.index[(arms["arm"] == "B + A")][0]
    assert found.drug_type[row].tolist() == [0, 2] and found.present[row].all()
    assert found.tumour_type.tolist() == [["T1", "T2"].index(t) for t in arms["tumour_type"]]
    alone = arms.index[(arms["arm"] == "A") & (arms["tumour_type"] == "T2")][0]
    assert found.drug_type[alone, 0] == 1 and found.present[alone].tolist() == [True, False]
    control = arms.index[arms["arm"] == "untreated"][0]
    assert not found.present[control].any()
    assert found.num_models.tolist() == arms["num_models"].tolist()
    known = posterior(2).labels("arm_type")
    assert [known[k] for k in found.arm_type] == list(arms["arm"] + " | " + arms["tumour_type"])


def test_predicted_arms_are_a_table_with_intervals(dataset, nobody_leaves):
    predict = dict(min_models=1, shape=SHAPE)
    table = predict_arms(jax.random.key(5), posterior(200), dataset, CLASSES, nobody_leaves, **predict)
    assert list(table.columns) == ["tumour_type", "arm", "num_models", "observed", "mean", "q05", "q95"]
    at = table.set_index(["tumour_type", "arm"])
    assert at.loc[("T1", "A"), "observed"] == 0.5 and at.loc[("T1", "untreated"), "observed"] == 0.0
    assert ((table["q05"] >= 0) & (table["q05"] <= table["q95"]) & (table["q95"] <= 1)).all()
    # growth alone never halves a tumour; a combination helps more than its parts
    assert at.loc[("T1", "untreated"), "mean"] == 0.0
    assert at.loc[("T1", "B + A"), "mean"] > at.loc[("T1", "A"), "mean"] > at.loc[("T1", "B"), "mean"]
    again = predict_arms(jax.random.key(5), posterior(200), dataset, CLASSES, nobody_leaves, **predict)
    assert table.equals(again)


def test_no_arm_has_enough_models(dataset, nobody_leaves):
    table = predict_arms(jax.random.key(5), posterior(2), dataset, CLASSES, nobody_leaves, min_models=99, shape=SHAPE)
    assert table.empty and list(table.columns)[-1] == "q95"
