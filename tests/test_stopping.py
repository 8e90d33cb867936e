"""When mice leave: the hazard's features by hand, its fit against truth, and who stays."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from vtrial.stopping import COEFFICIENT_SD, DAY_KNOTS, FOLD_KNOTS, VOLUME_KNOTS, features, fit_stopping_rule, stay

NUM_FEATURES = 1 + (1 + len(FOLD_KNOTS)) + (1 + len(VOLUME_KNOTS)) + (1 + len(DAY_KNOTS))


def test_features_by_hand():
    found = features(np.array([1.0]), np.array([7.0]), np.array([45.0]), xp=np)[0]
    fold = [1.0, 2.0, 1.0, 0.3, 0.0, 0.0]
    volume = [7.0, 0.8, 0.1, 0.0]
    day = [45 / 30, 31 / 30, 17 / 30, 0.0, 0.0]
    np.testing.assert_allclose(found, [1.0, *fold, *volume, *day], rtol=1e-12)
    assert len(found) == NUM_FEATURES


def test_features_are_flat_beyond_their_range_and_the_same_in_both_libraries():
    values = (np.array([-9.0, -3.0, 3.0, 9.0]), np.array([1.0, 3.0, 8.0, 12.0]), np.array([0.0, 0.0, 240.0, 999.0]))
    found = features(*values, xp=np)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    # float32 against float64: numbers up to 8
    np.testing.assert_allclose(features(*(jnp.asarray(v, jnp.float32) for v in values)), found, rtol=1e-6, atol=1e-6)


def simulated(rng: np.random.Generator, num_mice: int, hazard) -> pd.DataFrame:
    """Mice measured every 5 days that leave after a measurement with a probability `hazard(log_fold)`."""
    rows = []
    for mouse in range(num_mice):
        log_volume, start, rate = 5.4, 5.4, rng.normal(0.03, 0.03)
        for visit in range(40):
            rows.append((f"S/m{mouse}", 5.0 * visit, np.exp(log_volume)))
            if visit > 0 and rng.uniform() < hazard(log_volume - start):
                break
            log_volume += 5.0 * rate + 0.1 * rng.normal()
    return pd.DataFrame(rows, columns=["mouse_key", "day", "volume_mm3"])


def fitted_hazard(rule, log_fold, log_volume, day):
    with jax.enable_x64(False):
        design = features(*(jnp.asarray(x, jnp.float32) for x in (log_fold, log_volume, day)))
        return np.asarray(jax.nn.sigmoid(design @ rule.coefficient))


def test_fit_recovers_a_hazard_that_jumps_with_the_size():
    rng = np.random.default_rng(2)
    table = simulated(rng, 1500, lambda fold: 0.05 if fold < 0.7 else 0.35)
    rule = fit_stopping_rule(table, 10.0)
    assert rule.gap_days == 5.0
    assert rule.coefficient.dtype == jnp.float32 and rule.coefficient.shape == (NUM_FEATURES,)
    # the mean hazard among measurements well below and well above the jump, against the binomial error of the events
    table["first"] = table.groupby("mouse_key")["volume_mm3"].transform("first")
    table["fold"] = np.log(table["volume_mm3"] / table["first"])
    table["last"] = ~table["mouse_key"].duplicated(keep="last")
    later = table[table["day"] > 0]
    for low, high, truth in ((-0.5, 0.4, 0.05), (1.0, 2.5, 0.35)):
        part = later[later["fold"].between(low, high)]
        found = fitted_hazard(rule, part["fold"], np.log(part["volume_mm3"]), part["day"]).mean()
        error = np.sqrt(truth * (1 - truth) / len(part))
        # piecewise linear in the fold, it bends where the truth jumps: a tenth of the truth on top of 5 errors
        assert abs(found - truth) < 5 * error + 0.1 * truth


def test_fit_is_the_penalised_maximum():
    """The gradient vanishes: events less hazards, on every feature, equal the ridge's pull; the intercept has none."""
    table = simulated(np.random.default_rng(3), 120, lambda fold: 0.15)
    shuffled = table.sample(frac=1.0, random_state=1)
    rule = fit_stopping_rule(shuffled, 10.0)
    table = table.assign(
        first=table.groupby("mouse_key")["volume_mm3"].transform("first"),
        last=~table["mouse_key"].duplicated(keep="last"),
    )
    later = table[table["day"] > 0]
    log_volume = np.log(later["volume_mm3"]).to_numpy()
    design = features(log_volume - np.log(later["first"]).to_numpy(), log_volume, later["day"].to_numpy(), xp=np)
    coefficient = np.asarray(rule.coefficient, float)
    hazard = 1.0 / (1.0 + np.exp(-design @ coefficient))
    pull = coefficient / COEFFICIENT_SD**2
    pull[0] = 0.0
    slope = design.T @ (later["last"].to_numpy() - hazard) - pull
    # float32 storage moves the sum of ~700 terms of size up to 8 by 1e-7 each; trust-exact stops at a gradient of 1e-5
    scale = np.sqrt((design**2 * (hazard * (1 - hazard))[:, None]).sum(0))
    assert np.all(np.abs(slope) < 0.05 * scale + 0.01), "within a twentieth of the score's own standard error"
    assert abs(hazard.sum() - later["last"].sum()) < 0.02 * later["last"].sum()


def test_volumes_below_the_limit_count_as_the_limit():
    table = simulated(np.random.default_rng(4), 60, lambda fold: 0.2)
    low = table.copy()
    low.loc[low.groupby("mouse_key").cumcount() == 2, "volume_mm3"] = 0.0
    at_limit = low.assign(volume_mm3=low["volume_mm3"].clip(lower=10.0))
    one, other = fit_stopping_rule(low, 10.0), fit_stopping_rule(at_limit, 10.0)
    np.testing.assert_array_equal(one.coefficient, other.coefficient)
    assert np.all(np.isfinite(one.coefficient))


@pytest.fixture(scope="module")
def rule():
    return fit_stopping_rule(simulated(np.random.default_rng(5), 100, lambda fold: 0.2), 10.0)


def test_first_two_measurements_are_made_and_none_after_leaving(rule):
    day = 5.0 * jnp.arange(20, dtype=jnp.float32)
    log_volume = 5.4 + 0.02 * day[None, :] * jnp.ones((500, 1))
    made = np.asarray(stay(jax.random.key(1), rule, log_volume, day))
    assert made[:, :2].all(), "every mouse of a table has two measurements"
    assert np.all(np.diff(made.astype(int), axis=1) <= 0)
    assert 2 < made.sum(1).mean() < 20


def test_the_odds_of_leaving_are_multiplied(rule):
    day = 5.0 * jnp.arange(20, dtype=jnp.float32)
    log_volume = jnp.broadcast_to(5.4 + 0.03 * day, (300, 20))
    at = (np.array([0.1, 1.0]), np.array([5.5, 6.4]), np.array([10.0, 40.0]))
    one, twice = fitted_hazard(rule, *at), fitted_hazard(rule.with_odds(2.0), *at)
    np.testing.assert_allclose(twice / (1 - twice), 2.0 * one / (1 - one), rtol=1e-5)
    assert np.asarray(stay(jax.random.key(3), rule.with_odds(0.0), log_volume, day)).all()
    np.testing.assert_array_equal(rule.with_odds(1.0).coefficient, rule.coefficient)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rule.with_odds(0.5).coefficient.dtype == jnp.float32


def test_stay_follows_the_hazard(rule):
    """Share of mice measured at each time is the product of the chances to stay, and the key decides."""
    day = 5.0 * jnp.arange(8, dtype=jnp.float32)
    line = 5.4 + 0.03 * day
    num = 20_000
    made = np.asarray(stay(jax.random.key(2), rule, jnp.broadcast_to(line, (num, 8)), day))
    hazard = fitted_hazard(rule, np.asarray(line - line[0]), np.asarray(line), np.asarray(day)).copy()
    hazard[0] = 0.0
    expected = np.concatenate([[1.0], np.cumprod(1.0 - hazard)[:-1]])
    error = np.sqrt(expected * (1 - expected) / num)
    np.testing.assert_array_less(np.abs(made.mean(0) - expected), 5 * error + 1e-6)
    again = np.asarray(stay(jax.random.key(2), rule, jnp.broadcast_to(line, (num, 8)), day))
    np.testing.assert_array_equal(made, again)
