"""TGI of new PDX models: a formula without spread, and what must hold with it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.arm_layout import lay_out
from vtrial.config import Cohort
from vtrial.growth_laws import REFERENCE_VOLUME
from vtrial.inhibition import COLUMNS, NUM_KEPT, above_singles, drug_sets, inhibition, inhibition_rows
from vtrial.model_format import CurveShape

DOSE = {"dose": "1 mg", "repeat": "1 d"}
NUM_DRAWS, DAY, LOSS_RATE = 3, 21.0, 0.02
GROWTH, SLOWING, START = 0.05, 0.1, 5.4
LOSS = {"a": 0.6, "b": 0.2}
SHAPE = CurveShape(LOSS_RATE)
EFFECT = {"a": 0.3, "b": 0.8}
PHI, GAMMA = 0.5, 0.05


def cohort(subgroups: bool) -> Cohort:
    arms = [{"name": "A", "drugs": {"a": DOSE}}, {"name": "A + B", "drugs": {"a": DOSE, "b": DOSE}}]
    groups = {"mutant": {"prevalence": 0.25}, "wild": {"prevalence": 0.75}} if subgroups else {}
    return Cohort.model_validate({"tumour_type": "CRC", "subgroups": groups, "arms": arms})


def plan_of(spread: float, shift: tuple[float, ...] = (0.0,)) -> SimpleNamespace:
    """Two drugs, the same in every draw; `shift` of the effect of both in each subgroup."""
    matrix = np.array([[0.0, 1.0], [1.0, 0.0]])
    law = {
        "mu_ln_growth": math.log(GROWTH),
        "omega_ln_growth": 2.0 * spread,
        "effect_mean": np.array(list(EFFECT.values()))[:, None] + np.array(shift),
        "effect_sd": np.full(2, spread),
        "phi": PHI * matrix,
        "gamma": GAMMA * matrix,
        "omega_combination": spread,
    }
    law = {k: jnp.broadcast_to(jnp.asarray(v, jnp.float32), (NUM_DRAWS, *np.shape(v))) for k, v in law.items()}
    return SimpleNamespace(
        law=SimpleNamespace(**law, responder_share=None, responder_shift=None),
        drugs=("a", "b"),
        arms=("A", "A + B"),
        subgroups=("all",) if len(shift) == 1 else ("mutant", "wild"),
        prevalence=jnp.asarray([1.0] if len(shift) == 1 else [0.25, 0.75]),
        regimens=lay_out(["a", "b"], [["a"], ["a", "b"]]),
        mouse_effect=np.tile(list(EFFECT.values()), (NUM_DRAWS, 1)),
        mouse_loss=np.tile(list(LOSS.values()), (NUM_DRAWS, 1)),
    )


def draws() -> SimpleNamespace:
    values = {
        "slowing": np.full(NUM_DRAWS, SLOWING),
        "mu_intercept": np.full(NUM_DRAWS, START),
    }
    return SimpleNamespace(size=NUM_DRAWS, get=values.__getitem__)


def expected_tgi(effect: float, loss: float) -> float:
    """From the differential equation: the rate g (1 - rho + (loss rho - slowing) (1 - exp(-lambda t))), by sums."""
    times = (np.arange(100_000) + 0.5) * DAY / 100_000

    def change(rho: float) -> float:
        rate = GROWTH * (1.0 - rho + (loss * rho - SLOWING) * (1.0 - np.exp(-LOSS_RATE * times)))
        return math.expm1(float(rate.mean()) * DAY)

    return 1.0 - change(effect) / change(0.0)


def test_every_drug_of_a_combination_is_there_alone() -> None:
    assert drug_sets(plan_of(0.0)) == (("a",), ("b",), ("a", "b"))


def test_without_spread_it_is_the_formula() -> None:
    found = inhibition(jax.random.key(1), plan_of(0.0), draws(), SHAPE, DAY)
    # apart by 0.5, ten times the rounding of the combination rule: its softmax is off by exp(-10)
    together = EFFECT["b"] + PHI * EFFECT["a"] + GAMMA
    weight = {drug: math.hypot(EFFECT[drug], 0.05) for drug in "ab"}
    by_effect = sum(weight[drug] * LOSS[drug] for drug in "ab") / sum(weight.values())
    expected = [expected_tgi(EFFECT[drug], LOSS[drug]) for drug in "ab"]
    expected.append(expected_tgi(together, by_effect))
    assert found.median.shape == (NUM_DRAWS, 3, 1) and found.models.shape == (NUM_DRAWS, 3, 1, NUM_KEPT)
    np.testing.assert_allclose(found.median[:, :2, 0], np.tile(expected[:2], (NUM_DRAWS, 1)), rtol=1e-4)
    np.testing.assert_allclose(found.median[:, 2, 0], expected[2], rtol=1e-3)
    np.testing.assert_array_equal(found.regressing, 0.0)
    np.testing.assert_allclose(above_singles(found.median, found.drugs)[2], 1.0)


def test_gompertz_tumours_slow_down_as_the_equation_says() -> None:
    """dx/dt = s + c (1 - exp(-lambda t)) - b (x - ln V_ref) by small steps, from ln V = 5.4."""
    slow = 0.02
    shape = CurveShape(LOSS_RATE, growth="gompertz", deceleration=slow)
    found = inhibition(jax.random.key(1), plan_of(0.0), draws(), shape, DAY)

    def change(rho: float, loss: float) -> float:
        x, steps = START, 20_000
        for k in range(steps):
            t = (k + 0.5) * DAY / steps
            rate = GROWTH * (1.0 - rho + (loss * rho - SLOWING) * (1.0 - math.exp(-LOSS_RATE * t)))
            x += (rate - slow * (x - math.log(REFERENCE_VOLUME))) * DAY / steps
        return math.expm1(x - START)

    expected = [1.0 - change(EFFECT[drug], LOSS[drug]) / change(0.0, 0.0) for drug in "ab"]
    # Euler's error is of the order of one step, 21 / 20,000 days
    np.testing.assert_allclose(found.median[0, :2, 0], expected, rtol=1e-3)


def test_mice_are_those_that_engrafted_whatever_patients_are_weighted_by() -> None:
    plan, bias = plan_of(0.3), 0.5
    weighted = plan_of(0.3)
    weighted.law.mu_ln_growth = plan.law.mu_ln_growth - bias * plan.law.omega_ln_growth**2
    alone, given = (inhibition(jax.random.key(2), *one) for one in (
        (plan, draws(), SHAPE, DAY), (weighted, draws(), SHAPE, DAY, bias)))  # fmt: skip
    # the shift is taken off and put back in float32
    np.testing.assert_allclose(given.median, alone.median, rtol=1e-5)
    unaware = inhibition(jax.random.key(2), weighted, draws(), SHAPE, DAY)
    assert np.abs(unaware.median / alone.median - 1.0).max() > 1e-3


def test_spread_and_subgroups() -> None:
    found = inhibition(jax.random.key(2), plan_of(0.3, (0.6, -0.2)), draws(), SHAPE, DAY)
    assert found.median.shape == (NUM_DRAWS, 3, 3)
    mutant, wild, every = np.moveaxis(found.median, -1, 0)
    assert np.all(mutant > every) and np.all(every > wild)
    assert 0.0 < found.regressing[..., 1].mean() < found.regressing[..., 2].mean() < found.regressing[..., 0].mean()
    # all models are a quarter of the one and three quarters of the other group, the same models
    mixed = 0.25 * found.regressing[..., 0] + 0.75 * found.regressing[..., 1]
    share = found.regressing[..., 2]
    # a share of at most 500 models whose members are other models: 4 standard errors of the difference of two binomials
    assert np.max(np.abs(mixed - share)) < 4.0 * math.sqrt(2.0 * 0.25 / 500)
    assert np.array_equal(found.median[0], found.median[1]), "equal draws have the same models"
    assert not np.array_equal(found.models[0], found.models[1]), "of which each keeps others"


def test_above_singles_counts_ties_as_half() -> None:
    values = np.array([[0.2, 0.5, 0.6], [0.2, 0.7, 0.7], [0.9, 0.1, 0.3]])
    found = above_singles(values, [("a",), ("b",), ("a", "b")])
    assert np.isnan(found[:2]).all() and found[2] == pytest.approx(0.5)


@pytest.mark.parametrize("subgroups", [False, True])
def test_rows(subgroups: bool) -> None:
    shift = (0.6, -0.2) if subgroups else (0.0,)
    plan = plan_of(0.2, shift)
    found = inhibition(jax.random.key(3), plan, draws(), SHAPE, DAY)
    table = inhibition_rows(cohort(subgroups), plan, found, DAY, ["quick"])  # type: ignore[arg-type]
    groups = ["mutant", "wild", "all"] if subgroups else ["all"]
    assert list(table.columns) == list(COLUMNS) and len(table) == 3 * 3 * len(groups)
    assert set(table["drugs"]) == {"a", "b", "a + b"} and list(dict.fromkeys(table["subgroup"])) == groups
    assert table["above_singles"].notna().eq(table["drugs"] == "a + b").all()
    one = table[(table["kind"] == "predictive") & (table["drugs"] == "a") & (table["subgroup"] == "all")].iloc[0]
    assert one["q50"] == pytest.approx(np.median(found.models[:, 0, -1]))
    assert np.isnan(one["mean"])
