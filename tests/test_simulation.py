"""The stages after the fit: what they cut a trial into."""

from __future__ import annotations

from vtrial.simulation import MOST_DRAWS, piece_size


def test_a_piece_is_a_tenth_of_the_draws_and_no_more_than_memory_has_room_for() -> None:
    assert [piece_size(draws) for draws in (1, 19, 600, 4000)] == [1, 1, 60, 400]
    assert piece_size(10 * MOST_DRAWS) == piece_size(1_000_000) == MOST_DRAWS
