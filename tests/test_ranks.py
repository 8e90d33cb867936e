"""Rank probabilities, by hand and as a doubly stochastic matrix."""

from __future__ import annotations

import numpy as np
import pytest

from vtrial.ranks import COLUMNS, rank_probabilities, rank_rows


def test_ranks_by_hand_and_ties_share() -> None:
    values = np.array([[0.3, 0.1, 0.2], [0.0, 0.0, 0.5]])
    expected = [[0.5, 0.25, 0.25], [0.0, 0.25, 0.75], [0.5, 0.5, 0.0]]
    np.testing.assert_allclose(rank_probabilities(values), expected)


def test_rows_and_columns_sum_to_one() -> None:
    values = np.random.default_rng(1).integers(0, 3, (40, 5)).astype(float)  # many ties
    found = rank_probabilities(values)
    np.testing.assert_allclose(found.sum(0), 1.0)
    np.testing.assert_allclose(found.sum(1), 1.0)


def test_rows() -> None:
    values = np.stack([np.array([[0.3, 0.1], [0.3, 0.4]]), np.zeros((2, 2))], axis=-1)
    table = rank_rows("CRC", ["mutant", "all"], "confirmed_orr", ["A", "B"], values, ["synthetic data"])
    assert list(table.columns) == list(COLUMNS) and len(table) == 8
    first = table[(table["subgroup"] == "mutant") & (table["rank"] == 1)].set_index("treatment")["probability"]
    assert first.to_dict() == pytest.approx({"A": 0.5, "B": 0.5})
    assert table[table["subgroup"] == "all"]["probability"].unique() == pytest.approx([0.5])
    assert set(table["source"]) == {"synthetic data"}
    assert rank_rows("CRC", ["all"], "confirmed_orr", ["A"], values[:, :1], []).empty
