"""Clinical shorthand against regimens written out by hand, and what is refused."""

from __future__ import annotations

import pytest

from vtrial import dosing as regimens
from vtrial.regimen import Dosing
from vtrial.shorthand import EXAMPLES, read_schedule


def regimen(schedule: str, **more: object) -> regimens.Dosing:
    return Dosing.model_validate({"dose": "10 mg", "schedule": schedule, **more}).to_dosing()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("QD", regimens.Dosing(10.0, "mg")),
        ("bid", regimens.Dosing(10.0, "mg", times_per_day=2)),
        ("TID", regimens.Dosing(10.0, "mg", times_per_day=3)),
        ("Q12H", regimens.Dosing(10.0, "mg", times_per_day=2)),
        ("QOD", regimens.Dosing(10.0, "mg", repeat_days=2)),
        ("QW", regimens.Dosing(10.0, "mg", repeat_days=7)),
        ("Q3W", regimens.Dosing(10.0, "mg", repeat_days=21)),
        ("q21d", regimens.Dosing(10.0, "mg", repeat_days=21)),
        ("d1,8,15 q28d", regimens.Dosing(10.0, "mg", days=(1, 8, 15), repeat_days=28)),
        ("days 1, 8, 15 q28d", regimens.Dosing(10.0, "mg", days=(1, 8, 15), repeat_days=28)),
        ("d1-3,8-10 q21d", regimens.Dosing(10.0, "mg", days=(1, 2, 3, 8, 9, 10), repeat_days=21)),
        ("d1-5 q28d", regimens.Dosing(10.0, "mg", on_days=5, cycle_days=28)),
        ("BID d1-21 q28d", regimens.Dosing(10.0, "mg", times_per_day=2, on_days=21, cycle_days=28)),
        ("BID 21/28", regimens.Dosing(10.0, "mg", times_per_day=2, on_days=21, cycle_days=28)),
        ("d1,4 QW 21/28", regimens.Dosing(10.0, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)),
        ("once daily", regimens.Dosing(10.0, "mg")),
        ("daily", regimens.Dosing(10.0, "mg")),
        ("Twice  a day 21/28", regimens.Dosing(10.0, "mg", times_per_day=2, on_days=21, cycle_days=28)),
        ("3x daily", regimens.Dosing(10.0, "mg", times_per_day=3)),
        ("every other day", regimens.Dosing(10.0, "mg", repeat_days=2)),
        ("once a week", regimens.Dosing(10.0, "mg", repeat_days=7)),
        ("d1,8 every 3 weeks", regimens.Dosing(10.0, "mg", days=(1, 8), repeat_days=21)),
        ("q28d d1-28", regimens.Dosing(10.0, "mg", days=tuple(range(1, 29)), repeat_days=28)),
    ],
)
def test_shorthand_by_hand(schedule: str, expected: regimens.Dosing) -> None:
    assert regimen(schedule) == expected


def test_shorthand_and_keys_make_one_regimen() -> None:
    short = Dosing.model_validate({"dose": "3.2 mg", "schedule": "d1,4 QW", "on": "21 d", "cycle": "28 d"})
    long = Dosing.model_validate({"dose": "3.2 mg", "days": [1, 4], "repeat": "7 d", "on": "21 d", "cycle": "28 d"})
    assert short == long
    # what a run writes down has the keys and can be read again
    assert Dosing.model_validate(short.model_dump()) == long and short.model_dump()["schedule"] is None
    assert regimen("QD", times_per_day=2).times_per_day == 2


@pytest.mark.parametrize(
    ("text", "days", "written"),
    [
        ("30 min", 1 / 48, "30 min"),
        ("46 h", 46 / 24, "2760 min"),
        ("0 h", 0.0, "0 min"),
        ("0.05 min", 0.05 / 1440, "0.05 min"),
    ],
)
def test_an_infusion_is_written_as_it_can_be_read_again(text: str, days: float, written: str) -> None:
    one = Dosing.model_validate({"dose": "1000 mg/m2", "schedule": "d1,8,15 q28d", "infusion": text})
    assert one.to_dosing().infusion_days == pytest.approx(days, rel=1e-15)
    plain = one.model_dump()
    assert plain["infusion"] == written and Dosing.model_validate(plain).model_dump() == plain


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("", "must be a schedule"),
        ("often", "does not understand 'OFTEN'"),
        ("BID QD", "says twice how often a day"),
        ("daily twice", "does not understand 'TWICE'"),
        ("once daily BID", "says twice how often a day"),
        ("q21d q28d", "says twice how long the period is"),
        ("BID q28d", "without the days"),
        ("d1,8", "names days without a period"),
        ("d1,8,30 q28d", "names day 30 of a period of 28 d"),
        ("d8,1 q28d", "in increasing order"),
        ("d5-2 q28d", "in increasing order"),
        ("Q7H", "does not divide a day"),
        ("d1,4 QW 20/28", "whole periods of 7 d"),
        ("BID 28/21", "within the cycle"),
    ],
)
def test_wrong_shorthand_says_what_is_allowed(schedule: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_schedule(schedule)
    assert said in str(caught.value)
    assert "as in '" in str(caught.value) or "allowed are" in str(caught.value)


def test_every_example_is_one() -> None:
    for example in EXAMPLES.split(", "):
        assert read_schedule(example.strip("'"))["times_per_day"] in (1, 2)
