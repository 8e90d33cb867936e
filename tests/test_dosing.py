"""Dosing regimens worked out by hand: days, rates, words, calendars, segments, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest

from vtrial import dosing
from vtrial.dosing import Dosing

AVUTOMETINIB = Dosing(3.2, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)
DEFACTINIB = Dosing(200.0, "mg", times_per_day=2, on_days=21, cycle_days=28)
GEMCITABINE = Dosing(1000.0, "mg/m2", days=(1, 8, 15), repeat_days=28)
BINIMETINIB = Dosing(45.0, "mg", times_per_day=2)
REGIMENS = {
    "avutometinib": AVUTOMETINIB,
    "defactinib": DEFACTINIB,
    "gemcitabine": GEMCITABINE,
    "binimetinib": BINIMETINIB,
}


# ------------------------------------------------------------------------------------------------ dosing, by hand


def test_dose_days_twice_weekly_three_weeks_of_four():
    times = dosing.dose_days(AVUTOMETINIB, 56)
    assert times == (0, 3, 7, 10, 14, 17, 28, 31, 35, 38, 42, 45)
    assert all(isinstance(time, float) for time in times)


def test_dose_days_twice_daily_three_weeks_of_four():
    cycle = [day + half for day in range(21) for half in (0.0, 0.5)]
    assert dosing.dose_days(DEFACTINIB, 30) == (*cycle, 28.0, 28.5, 29.0, 29.5)


def test_dose_days_gemcitabine_and_continuous():
    assert dosing.dose_days(GEMCITABINE, 57) == (0, 7, 14, 28, 35, 42, 56)
    assert dosing.dose_days(BINIMETINIB, 2) == (0, 0.5, 1, 1.5)


def test_dose_days_start_late_and_end_before_the_last_day():
    assert dosing.dose_days(AVUTOMETINIB._replace(start_day=5), 15) == (5, 8, 12)
    assert dosing.dose_days(AVUTOMETINIB, 7) == (0, 3)
    assert dosing.dose_days(AVUTOMETINIB, 0) == ()
    assert dosing.dose_days(AVUTOMETINIB._replace(start_day=5), 4) == ()


def test_dose_rate_counts_the_days_off():
    assert dosing.dose_rate(AVUTOMETINIB) == pytest.approx(6 * 3.2 / 28, rel=1e-15)
    assert dosing.dose_rate(DEFACTINIB) == 42 * 200 / 28
    assert dosing.dose_rate(GEMCITABINE) == pytest.approx(3000 / 28, rel=1e-15)
    assert dosing.dose_rate(BINIMETINIB) == 90


def test_relative_dose_rate_wants_one_unit_and_some_drug():
    full = Dosing(400.0, "mg", times_per_day=2)
    assert dosing.relative_dose_rate(DEFACTINIB, full) == 0.375
    with pytest.raises(ValueError, match=r"got mg/m2, but .*3\.2 mg on days 1, 4.* is in mg; give both"):
        dosing.relative_dose_rate(GEMCITABINE, AVUTOMETINIB)
    with pytest.raises(ValueError, match="a reference dose above 0"):
        dosing.relative_dose_rate(DEFACTINIB, full._replace(amount=0.0))


@pytest.mark.parametrize(
    ("regimen", "text"),
    [
        (AVUTOMETINIB, "3.2 mg on days 1, 4 of every 7 d, 21 d on / 7 d off"),
        (DEFACTINIB, "200 mg twice a day, 21 d on / 7 d off"),
        (GEMCITABINE, "1000 mg/m2 on days 1, 8, 15 of every 28 d"),
        (BINIMETINIB, "45 mg twice a day"),
        (Dosing(2.0, "mg"), "2 mg once a day"),
        (Dosing(100.0, "mg/m2", repeat_days=21), "100 mg/m2 on day 1 of every 21 d"),
        (Dosing(8.0, "mg", 5, (2,), 7), "8 mg 5 times a day on day 2 of every 7 d"),
        (Dosing(8.0, "mg", start_day=14), "8 mg once a day, starting 14 d after the start of treatment"),
        (GEMCITABINE._replace(infusion_days=1 / 48), "1000 mg/m2 over 30 min on days 1, 8, 15 of every 28 d"),
        (Dosing(2400.0, "mg/m2", repeat_days=14, infusion_days=46 / 24), "2400 mg/m2 over 46 h on day 1 of every 14 d"),
        (Dosing(5.0, "mg", repeat_days=35, infusion_days=28.0), "5 mg over 28 d on day 1 of every 35 d"),
        (Dosing(5.0, "mg", infusion_days=0.0), "5 mg as a bolus once a day"),
    ],
)
def test_describe(regimen, text):
    assert dosing.describe(regimen) == text


def test_calendar_golden():
    assert dosing.calendar(AVUTOMETINIB) == (
        "3.2 mg on days 1, 4 of every 7 d, 21 d on / 7 d off\n"
        "        d1  d2  d3  d4  d5  d6  d7\n"
        "week 1   1   .   .   1   .   .   .\n"
        "week 2   1   .   .   1   .   .   .\n"
        "week 3   1   .   .   1   .   .   .\n"
        "week 4   -   -   -   -   -   -   -\n"
        "number: doses that day; . no dose; - day off"
    )


def test_calendar_of_short_and_several_cycles():
    assert dosing.calendar(BINIMETINIB).splitlines()[2:-1] == ["week 1   2   2   2   2   2   2   2"]
    five_of_seven = Dosing(1.0, "mg", on_days=5, cycle_days=7)
    assert dosing.calendar(five_of_seven, cycles=2).splitlines()[2:-1] == [
        "week 1   1   1   1   1   1   -   -",
        "week 2   1   1   1   1   1   -   -",
    ]
    with pytest.raises(ValueError, match="cycles: got 0"):
        dosing.calendar(AVUTOMETINIB, cycles=0)


CHANGED = AVUTOMETINIB._replace(holds=((7, 14), (31, 32)), reductions=((35, 1.6),))


def test_holds_and_reductions_by_hand():
    assert dosing.doses(CHANGED, 56) == (
        *((0, 3.2), (3, 3.2), (14, 3.2), (17, 3.2)),
        *((28, 3.2), (35, 1.6), (38, 1.6), (42, 1.6), (45, 1.6)),
    )
    assert dosing.dose_days(CHANGED, 20) == (0, 3, 14, 17)
    # planned: neither a hold nor a reduction changes what the dose is relative to
    assert dosing.dose_rate(CHANGED) == dosing.dose_rate(AVUTOMETINIB)
    back = BINIMETINIB._replace(reductions=((1, 15.0), (2, 45.0)))
    assert [amount for _, amount in dosing.doses(back, 3)] == [45, 45, 15, 15, 45, 45]


def test_treated_share_by_hand():
    assert dosing.treated_share(AVUTOMETINIB, 0, 21) == 1.0
    assert dosing.treated_share(AVUTOMETINIB, 21, 28) == 0.0
    assert dosing.treated_share(AVUTOMETINIB, 14, 42) == 0.75
    assert dosing.treated_share(CHANGED, 7, 14) == 0.0
    assert dosing.treated_share(CHANGED, 28, 56) == 20 / 28
    assert dosing.treated_share(DEFACTINIB._replace(start_day=10), 0, 20) == 0.5
    assert dosing.treated_share(GEMCITABINE, 20, 28) == 1.0, "between doses the drug is on"


def test_calendar_with_holds_and_reductions():
    assert dosing.calendar(CHANGED).splitlines() == [
        "3.2 mg on days 1, 4 of every 7 d, 21 d on / 7 d off, held from 7 to 14 d, held from 31 to 32 d, "
        "1.6 mg from 35 d on",
        "        d1  d2  d3  d4  d5  d6  d7",
        "week 1   1   .   .   1   .   .   .",
        "week 2   h   .   .   h   .   .   .",
        "week 3   1   .   .   1   .   .   .",
        "week 4   -   -   -   -   -   -   -",
        "week 5   1   .   .   h   .   .   .",
        "week 6  1r   .   .  1r   .   .   .",
        "number: doses that day; . no dose; - day off; h held; r reduced dose",
    ]
    said = dosing.describe(DEFACTINIB._replace(intensity=0.8, missed=0.05))
    assert said.endswith("21 d on / 7 d off, 80 % of the planned dose given, 5 % of doses missed")


@pytest.mark.parametrize(
    ("changes", "message", "example"),
    [
        ({"holds": ((14, 7),)}, "holds: got 14 to 7 d", "holds: [{start: 28 d, length: 14 d}]"),
        ({"holds": ((0, 7), (5, 9))}, "holds: got 5 to 9 d", "holds: [{start: 28 d, length: 14 d}]"),
        (
            {"reductions": ((7, 4.0),)},
            "reductions: got 4 mg; allowed is a dose above 0 and up to the planned 3.2",
            "1.6",
        ),
        (
            {"reductions": ((7, 1.0), (7, 2.0))},
            "reductions: got start 7 d",
            "reductions: [{start: 56 d, dose: 1.6 mg}]",
        ),
        ({"intensity": 0.0}, "intensity: got 0.0; allowed is given over planned dose", "intensity: 0.8"),
        ({"missed": 1.0}, "missed: got 1.0; allowed is a probability", "missed: 0.05"),
        ({"infusion_days": 3.5}, "infusion: got 3.5 d; allowed is a length from 0 (a bolus) to 3 d: until", "30 min"),
        ({"infusion_days": -0.5}, "infusion: got -0.5 d", "infusion: 30 min"),
        ({"infusion_days": math.nan}, "infusion: got nan d", "infusion: 30 min"),
    ],
)
def test_wrong_changes_say_what_is_allowed_with_an_example(changes, message, example):
    with pytest.raises(ValueError) as caught:
        dosing.check_dosing(AVUTOMETINIB._replace(**changes))
    assert str(caught.value).startswith(message) and example in str(caught.value)


@pytest.mark.parametrize(
    ("regimen", "longest"),
    [
        (Dosing(5.0, "mg", times_per_day=3), 8 / 24),
        (Dosing(5.0, "mg", repeat_days=35), 28.0),
        # once a cycle, although its repeat is a week
        (Dosing(5.0, "mg", repeat_days=7, on_days=7, cycle_days=21, start_day=3), 21.0),
        (Dosing(5.0, "mg", days=(1, 6), repeat_days=7, holds=((7, 14),)), 2.0),
    ],
)
def test_an_infusion_ends_before_the_next_begins(regimen, longest):
    assert dosing.check_dosing(regimen._replace(infusion_days=longest)).infusion_days == longest
    with pytest.raises(ValueError, match=r"infusion: got .* d; allowed is a length from 0 \(a bolus\) to "):
        dosing.check_dosing(regimen._replace(infusion_days=longest * 1.001))


@pytest.mark.parametrize("regimen", REGIMENS.values(), ids=REGIMENS)
def test_calendar_shows_every_dose(regimen):
    cells = "".join(line[6:] for line in dosing.calendar(regimen, cycles=3).splitlines()[2:-1]).split()
    shown = [day for day, cell in enumerate(cells) if cell.isdigit()]
    assert shown == sorted({math.floor(time) for time in dosing.dose_days(regimen, len(cells))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amount": -1.0}, "dose: got -1 mg; allowed is a finite amount of 0 or more"),
        ({"amount": math.nan}, "dose: got nan mg"),
        ({"unit": " "}, "dose: got 3.2 without a unit"),
        ({"times_per_day": 0}, "times_per_day: got 0; allowed is a whole number of 1 or more"),
        ({"days": (1, 8)}, "days: got day 8 in [1, 8]; allowed is whole days from 1 to 7, the length of the repeat"),
        ({"days": (0, 4)}, "days: got day 0"),
        ({"days": (1.5,)}, "days: got day 1.5"),
        ({"days": (4, 1)}, "days: got [4, 1]; allowed is at least one day, in increasing order, each day once"),
        ({"days": (1, 1)}, "days: got [1, 1]"),
        ({"days": ()}, "days: got []"),
        ({"repeat_days": 0}, "repeat: got 0"),
        ({"on_days": 35}, "on: got 35 d; allowed is no more than the cycle of 28 d"),
        ({"on_days": 20}, "on: got 20 d; allowed is a multiple of the repeat of 7 d"),
        ({"on_days": None}, "cycle: got `cycle` without `on`; allowed is both `on` and `cycle`, or neither"),
        ({"cycle_days": None}, "on: got `on` without `cycle`"),
        ({"start_day": -1}, "start: got -1"),
    ],
)
def test_wrong_dosing_says_what_is_allowed(changes, message):
    with pytest.raises(ValueError) as caught:
        dosing.check_dosing(AVUTOMETINIB._replace(**changes))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; for example {dose: 3.2 mg, days: [1, 4], repeat: 7 d, on: 21 d, cycle: 28 d}")


def test_dose_days_and_edges_refuse_what_never_ends():
    with pytest.raises(ValueError, match="until_day: got inf"):
        dosing.dose_days(BINIMETINIB, math.inf)
    for visits in ([], [0.0, 56.0], [math.inf]):
        with pytest.raises(ValueError, match="visits: got"):
            dosing.segment_edges(visits, [BINIMETINIB])
    with pytest.raises(ValueError, match="max_days: got 0"):
        dosing.segment_edges([56.0], [BINIMETINIB], max_days=0.0)


# ------------------------------------------------------------------------------------------------ segments


def test_segment_edges_by_hand():
    edges = dosing.segment_edges([30.0], [AVUTOMETINIB, BINIMETINIB], max_days=10.0)
    assert edges == (0, 7, 14, 21, 28, 30)
    assert dosing.segment_edges([50], [CHANGED], max_days=100.0) == (0, 7, 14, 21, 28, 31, 32, 35, 49, 50)
    late = GEMCITABINE._replace(start_day=3)
    assert dosing.segment_edges([10, 16], [late], max_days=100.0) == (0, 3, 10, 16)


def test_segment_edges_over_two_years():
    visits = [56.0 * i for i in range(1, 10)] + [504.0 + 84.0 * i for i in range(1, 3)]
    edges = dosing.segment_edges(visits, [AVUTOMETINIB, DEFACTINIB])
    assert set(visits) < set(edges)
    assert {21.0, 28.0, 49.0, 56.0, 77.0} < set(edges)
    assert edges[0] == 0 and edges[-1] == 672
    assert len(edges) == 97
    assert all(0 < right - left <= 7 for left, right in pairwise(edges))


def test_dosing_needs_no_arrays():
    code = "import sys, vtrial.dosing; sys.exit(bool({'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
