"""Where uncertainty comes from: indices of a function whose indices are known, and the variance of a trial."""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.base import PatientLaw
from vtrial.uncertainty import (
    BETWEEN_TRIALS,
    CHANCE,
    GROUPS,
    TOGETHER,
    Index,
    first_order_index,
    mixed,
    source_rows,
    trial_variances,
)

DRAWS = 20_000


def test_index_of_the_ishigami_function() -> None:
    """Y = sin a + 7 sin^2 b + 0.1 c^4 sin a, a, b and c uniform on (-pi, pi); indices by integration."""
    rng = np.random.default_rng(1)
    own, other = rng.uniform(-np.pi, np.pi, (2, 3, DRAWS))

    def y(a, b, c):
        return np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)

    first = 0.5 * (1 + 0.1 * np.pi**4 / 5) ** 2
    variance = 7**2 / 8 + 0.1 * np.pi**4 / 5 + 0.1**2 * np.pi**8 / 18 + 0.5
    for place, expected in enumerate((first / variance, 7**2 / 8 / variance, 0.0)):
        kept = [own[i] if i == place else other[i] for i in range(3)]
        found = first_order_index(y(*own), y(*kept))
        assert found.standard_error < 0.01
        assert abs(found.value - expected) < 4 * found.standard_error, (place, found, expected)


def test_standard_error_is_the_spread_of_repeated_estimates() -> None:
    rng = np.random.default_rng(2)
    size, repeats = 300, 400
    found = []
    for _ in range(repeats):
        shared, own, other = rng.standard_normal((3, size))
        found.append(first_order_index(shared + 0.7 * own, shared + 0.7 * other))
    values = np.array([index.value for index in found])
    error = np.mean([index.standard_error for index in found])
    # the SD of 400 values is known to 1 / sqrt(800) = 3.5 %; the estimator's own bias is of the order 1 / size
    assert values.std() == pytest.approx(error, rel=4 * 0.036)
    assert abs(values.mean() - 1 / 1.49) < 4 * error / math.sqrt(repeats) + 2 / size


def test_an_index_of_0_of_skewed_rates_is_not_told_apart_from_0() -> None:
    """Rates that share nothing, a twentieth of them high: two errors below 0 lie 2.3 % of normal estimates at most."""
    rng, repeats = np.random.default_rng(3), 2000
    found = [first_order_index(*rng.beta(0.15, 1.5, (2, 300))) for _ in range(repeats)]
    below = np.mean([index.value < -2.0 * index.standard_error for index in found])
    assert below < 0.0228 + 4 * math.sqrt(0.0228 * 0.9772 / repeats)
    # the SD of an index of 0 is 1 / sqrt(300), whatever the law of the rates
    assert np.std([index.value for index in found]) == pytest.approx(1 / math.sqrt(300), rel=0.1)


def test_rates_that_do_not_vary_have_no_index() -> None:
    assert math.isnan(first_order_index(np.full(9, 0.2), np.full(9, 0.2)).value)
    assert source_rows({"mice": Index(0.5, 0.1)}, 0.0, 0.0, 0.01) == []


def test_variance_of_a_trial_by_simulation() -> None:
    rng = np.random.default_rng(3)
    rate = rng.beta(2, 6, 500)
    between = np.abs(rng.normal(0.5, 0.1, 500))
    population, trials, chance = trial_variances(rate, between, 2000, 40)
    assert population == pytest.approx(rate.var())
    size = 400_000
    pick = rng.integers(0, 500, size)
    logit = np.log(rate[pick] / (1 - rate[pick])) + between[pick] * rng.standard_normal(size)
    drawn = 1 / (1 + np.exp(-logit))
    observed = rng.binomial(40, drawn) / 40
    # the variance of a sample of 4e5 has a relative standard error near sqrt(2 / 4e5) = 0.0022 (kurtosis near normal's)
    assert population + trials == pytest.approx(drawn.var(), rel=0.015)
    assert population + trials + chance == pytest.approx(observed.var(), rel=0.015)


def test_a_group_keeps_its_leaves_and_takes_the_others_from_elsewhere() -> None:
    names = PatientLaw._fields
    law = PatientLaw(**{name: jnp.arange(6.0) + 10 * place for place, name in enumerate(names)})
    plan = SimpleNamespace(law=law, exposure=jnp.arange(6.0))
    own, other = np.array([0, 1, 2]), np.array([3, 4, 5])
    kept = {}
    for source in GROUPS:
        found, exposure = mixed(plan, source, own, other)  # type: ignore[arg-type]
        kept[source] = {name for place, name in enumerate(names) if getattr(found, name)[0] == 10 * place}
        taken = {name for place, name in enumerate(names) if getattr(found, name)[0] == 10 * place + 3}
        assert kept[source] | taken == set(names)
        assert list(exposure) == ([0, 1, 2] if source == "translation" else [3, 4, 5])
    # every leaf belongs to one group
    assert sum(map(len, kept.values())) == len(names) and set.union(*kept.values()) == set(names)
    assert {"mu_ln_growth", "effect_mean"} <= kept["mice"] and "reading_error" in kept["patients and reading"]


def test_shares_of_an_arm_sum_to_one_whatever_the_estimates() -> None:
    for values in ((0.6, -0.05, 0.2), (0.9, 0.3, 0.1)):
        indices = {name: Index(value, 0.05) for name, value in zip("abc", values, strict=True)}
        rows = {row["source"]: row for row in source_rows(indices, 0.02, 0.003, 0.002)}
        assert list(rows) == ["a", "b", "c", TOGETHER, BETWEEN_TRIALS, CHANCE]
        assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)
        assert sum(row["variance"] for row in rows.values()) == pytest.approx(0.025)
        assert min(row["variance"] for row in rows.values()) >= 0.0
        assert rows["b"]["first_order"] == values[1]  # as estimated
