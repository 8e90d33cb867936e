"""Counts -> rates and rows, every number by hand."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.arm_layout import lay_out
from vtrial.config import Cohort
from vtrial.outcomes import Counts
from vtrial.rates import COLUMNS, orr_draws, orr_rows, predictive_counts, response_rates, superiority

DOSE = {"dose": "1 mg", "repeat": "1 d"}
COHORT = Cohort.model_validate(
    {
        "tumour_type": "LGSOC",
        "subgroups": {"mutant": {"prevalence": 0.5}, "wild": {"prevalence": 0.5}},
        "arms": [
            {"name": "A", "drugs": {"a": DOSE}, "num_patients": 20},
            {
                "name": "A + B",
                "drugs": {"a": DOSE, "b": DOSE},
                "observed": [
                    {"responders": 34, "patients": 109, "source": "trial 1"},
                    {"subgroup": "mutant", "responders": 25, "patients": 57, "source": "trial 1, mutant"},
                ],
            },
        ],
    }
)
REGIMENS = lay_out(["a", "b"], [["a"], ["a", "b"]])
A, AB, PART_A, PART_B, BLISS = range(5)
PLAN = SimpleNamespace(regimens=REGIMENS, arms=("A", "A + B"), subgroups=("mutant", "wild"), drugs=("a", "b"))
NUM_PATIENTS = np.array([[40, 60], [50, 50]])  # two draws, two subgroups


def counts() -> Counts:
    """Best responses CR, PR, SD, PD, NE of 2 draws, 5 regimens and 2 subgroups of 100 patients a draw."""
    best = np.zeros((2, 5, 2, 5), np.int32)
    best[0, A] = [[1, 3, 10, 20, 6], [0, 6, 20, 30, 4]]
    best[1, A] = [[0, 5, 15, 30, 0], [2, 3, 15, 25, 5]]
    best[0, AB] = [[4, 12, 10, 10, 4], [3, 9, 20, 20, 8]]
    best[1, AB] = [[5, 20, 10, 10, 5], [0, 10, 20, 15, 5]]
    best[0, PART_A, :, 1] = [4, 6]
    best[1, PART_A, :, 1] = [5, 5]
    best[0, PART_B, :, 1] = [8, 12]
    best[1, PART_B, :, 1] = [1, 1]
    best[0, BLISS, :, 0] = [10, 15]
    best[1, BLISS, :, 0] = [20, 5]
    # one of the SD has an unconfirmed PR
    unconfirmed = best.copy()
    unconfirmed[..., 1] += 1
    unconfirmed[..., 2] -= best[..., 2] > 0
    independent = np.zeros((2, 5, 2), np.int32)
    independent[:, AB] = [[10, 18], [6, 4]]
    numbers = (best, unconfirmed, independent, independent + 2 * (independent > 0), NUM_PATIENTS.astype(np.int32))
    return Counts(*map(jnp.asarray, numbers))


def test_rates_by_hand():
    rates = response_rates(PLAN, counts(), True)
    assert list(rates)[:3] == ["confirmed_orr", "unconfirmed_orr", "dcr"], "the main endpoint goes first"
    np.testing.assert_allclose(rates["confirmed_orr"][:, A], [[4 / 40, 6 / 60, 10 / 100], [5 / 50, 5 / 50, 10 / 100]])
    np.testing.assert_allclose(rates["confirmed_orr"][:, AB], [[16 / 40, 12 / 60, 0.28], [0.5, 0.2, 0.35]])
    np.testing.assert_allclose(rates["unconfirmed_orr"][:, A], [[5 / 40, 7 / 60, 0.12], [6 / 50, 6 / 50, 0.12]])
    np.testing.assert_allclose(rates["dcr"][0, A], [14 / 40, 26 / 60, 0.40])
    action = rates["confirmed_orr:independent_action"]
    np.testing.assert_allclose(action[:, 1], [[10 / 40, 18 / 60, 0.28], [6 / 50, 4 / 50, 0.10]])
    np.testing.assert_allclose(rates["confirmed_orr:bliss"][:, 1], [[10 / 40, 15 / 60, 0.25], [20 / 50, 5 / 50, 0.25]])
    # b has the larger mean (0.20 and 0.02 against 0.10 and 0.10), and stays the best in the draw it loses
    best = rates["confirmed_orr:best_single"]
    np.testing.assert_allclose(best[:, 1], [[8 / 40, 12 / 60, 0.20], [1 / 50, 1 / 50, 0.02]])
    for name in ("independent_action", "best_single", "bliss"):
        assert np.isnan(rates[f"confirmed_orr:{name}"][:, 0]).all(), "one drug has no null model"


def test_without_confirmation_the_unconfirmed_rate_is_the_main_one():
    rates = response_rates(PLAN, counts(), False)
    assert next(iter(rates)) == "unconfirmed_orr" and not any(name.startswith("confirmed") for name in rates)


def test_without_confirmation_null_models_and_control_are_unconfirmed_too():
    """One more PR, out of the SD, in every regimen and subgroup: control stays, every response rate goes up."""
    yes, no = (response_rates(PLAN, counts(), confirmation) for confirmation in (True, False))
    np.testing.assert_allclose(no["dcr"][:, [A, AB]], yes["dcr"][:, [A, AB]])
    action = no["unconfirmed_orr:independent_action"]
    np.testing.assert_allclose(action[:, 1], [[12 / 40, 20 / 60, 0.32], [8 / 50, 6 / 50, 0.14]])
    np.testing.assert_allclose(no["unconfirmed_orr:bliss"][:, 1], [[11 / 40, 16 / 60, 0.27], [21 / 50, 6 / 50, 0.27]])
    np.testing.assert_allclose(no["unconfirmed_orr:best_single"][:, 1], [[9 / 40, 13 / 60, 0.22], [0.04, 0.04, 0.04]])


def test_an_empty_subgroup_has_rate_zero_not_nan():
    plan = SimpleNamespace(**{**vars(PLAN)})
    empty = jnp.asarray([[0, 100], [0, 100]], jnp.int32)
    nothing = counts()._replace(num_patients=empty)
    nothing = nothing._replace(best_response=nothing.best_response.at[:, :, 0].set(0))
    rates = response_rates(plan, nothing, True)
    assert np.all(rates["confirmed_orr"][:, :, 0] == 0.0)


def rows(**changes):
    rates = response_rates(PLAN, counts(), True)
    arguments = dict(seed=3, patients=100, between_trials=np.zeros(2), marks=["quick"]) | changes
    return orr_rows(COHORT, PLAN, rates, **arguments)


def test_population_rows_by_hand():
    table = rows()
    assert tuple(table.columns) == COLUMNS
    at = table.set_index(["arm", "subgroup", "endpoint", "kind"]).sort_index()
    row = at.loc[("A + B", "all", "confirmed_orr", "population")]
    assert row["mean"] == pytest.approx(0.315) and row["sd"] == pytest.approx(0.07 / np.sqrt(2))
    assert [row[q] for q in ("q05", "q25", "q50", "q75", "q95")] == pytest.approx(
        [0.28 + 0.07 * q for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    )
    assert (row["observed_responders"], row["observed_patients"]) == (34, 109)
    assert row["source"] == "quick; trial 1" and row["num_patients"] == 100 and row["tumour_type"] == "LGSOC"
    mutant = at.loc[("A + B", "mutant", "confirmed_orr", "population")]
    assert mutant["mean"] == pytest.approx(0.45) and mutant["observed_responders"] == 25
    null = at.loc[("A + B", "all", "confirmed_orr:bliss", "population")]
    assert null["mean"] == pytest.approx(0.25) and null["observed_responders"] == 34
    assert at.loc[("A + B", "all", "dcr", "population")].isna()["observed_responders"], "nothing was observed of it"
    assert at.loc[("A", "all", "confirmed_orr", "population")].isna()["observed_responders"]
    assert ("A", "all", "confirmed_orr:bliss", "population") not in at.index
    assert ("A + B", "all", "confirmed_orr:bliss", "predictive") not in at.index


def test_draws_of_the_rates_by_hand():
    rates = response_rates(PLAN, counts(), True)
    data = orr_draws(COHORT, PLAN, rates, 100, np.array([0.3, 0.5]), np.array([7, 19]))
    rate = data["rate"]
    assert rate.dims == ("draw", "endpoint", "arm", "subgroup") and rate.shape == (2, 6, 2, 3)
    row = rate.sel(arm="A + B", endpoint="confirmed_orr")
    np.testing.assert_allclose(row.sel(subgroup="all"), [0.28, 0.35])
    np.testing.assert_allclose(row.sel(draw=19, subgroup=["mutant", "wild"]), [0.5, 0.2])
    assert np.isnan(rate.sel(arm="A", endpoint="confirmed_orr:bliss")).all()
    assert data["num_patients"].sel(subgroup="mutant") == 50 and data["num_patients"].sel(subgroup="all") == 100
    assert data.attrs["tumour_type"] == "LGSOC" and list(data["between_trials"].to_numpy()) == [0.3, 0.5]


def test_size_of_the_predictive_trial():
    table = rows()
    size = table[table["kind"] == "predictive"].set_index(["arm", "subgroup", "endpoint"])["num_patients"]
    assert size["A", "all", "confirmed_orr"] == 20
    assert size["A + B", "all", "confirmed_orr"] == 109
    assert size["A + B", "mutant", "confirmed_orr"] == 57
    assert size["A + B", "wild", "confirmed_orr"] == 54, "its share of the whole trial, where nothing was observed"


def test_rows_depend_on_the_seed_alone():
    first, again, other = rows(), rows(), rows(seed=4)
    assert first.equals(again)
    predictive = first["kind"] == "predictive"
    assert (first.loc[predictive, "mean"] != other.loc[predictive, "mean"]).any()
    assert first[~predictive].equals(other[~predictive])


def test_predictive_counts_are_binomial_without_trial_effects():
    """Mean n p and variance n p (1 - p) + n^2 var p, over draws whose rate varies."""
    rng = np.random.default_rng(1)
    rate = np.repeat([0.2, 0.4], 100_000)
    found = predictive_counts(rng, rate, 50, 2000, np.zeros(rate.shape))
    mean = 50 * 0.3
    variance = 50 * np.mean(rate * (1 - rate)) + 50**2 * 0.01
    assert abs(found.mean() - mean) < 5 * np.sqrt(variance / len(rate))
    # the kurtosis of this mixture is below 3, so the relative SE of its variance is at most sqrt(2 / n)
    assert abs(found.var() / variance - 1.0) < 5 * np.sqrt(2 / len(rate))


def test_predictive_counts_spread_with_trial_effects_on_the_logit():
    """With one patient a trial the mean is E[invlogit(logit p + 0.4 z)], by Gauss-Hermite quadrature."""
    rng = np.random.default_rng(2)
    number = 400_000
    found = predictive_counts(rng, np.full(number, 0.2), 1, 2000, np.full(number, 0.4))
    node, weight = np.polynomial.hermite_e.hermegauss(40)
    expected = weight @ (1.0 / (1.0 + np.exp(-(np.log(0.25) + 0.4 * node)))) / weight.sum()
    assert abs(expected - 0.2) > 0.005, "the check would not see the trial effect otherwise"
    assert abs(found.mean() - expected) < 5 * np.sqrt(0.16 / number)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0.5 / 2000), (1.0, 1.0 - 0.5 / 2000)])
def test_a_rate_of_nobody_or_everybody_counts_half_a_patient(rate, expected):
    rng = np.random.default_rng(3)
    found = predictive_counts(rng, np.full(200_000, rate), 100, 2000, np.zeros(200_000)) / 100
    assert abs(found.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 100 / 200_000)


def test_superiority_counts_ties_as_half():
    rates = response_rates(PLAN, counts(), True)
    table = superiority(COHORT, PLAN, rates).set_index(["subgroup", "against"])["probability"]
    assert table["all", "a alone"] == 1.0 and table["all", "b alone"] == 1.0
    assert table["wild", "b alone"] == pytest.approx((0.5 + 1.0) / 2), "0.2 against 0.2, and 0.2 against 0.02"
    whole = superiority(COHORT, PLAN, rates)
    assert set(whole["arm"]) == {"A + B"}
    differences = whole.set_index(["subgroup", "against"])
    # 0.28 and 0.35 against 0.20 and 0.02
    assert differences.loc[("all", "b alone"), "difference"] == pytest.approx((0.08 + 0.33) / 2)
    assert differences.loc[("all", "b alone"), "q05"] == pytest.approx(0.08 + 0.05 * 0.25)
