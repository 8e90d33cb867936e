"""Dose and schedule of a drug as data: when it is given, how much a day, and in words; plain Python, no arrays.

An amount is given on some days of a repeat, itself given for part of a cycle. Days count from the start of treatment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

EXAMPLE = "for example {dose: 3.2 mg, days: [1, 4], repeat: 7 d, on: 21 d, cycle: 28 d}"
_HOLDS = "for example holds: [{start: 28 d, length: 14 d}]"
_REDUCTIONS = "for example reductions: [{start: 56 d, dose: 1.6 mg}]"
#: longest infusion, days: a whole cycle under a pump
MAX_INFUSION_DAYS = 28.0
_TIMES_A_DAY = {1: "once", 2: "twice", 3: "three times", 4: "four times"}


class Dosing(NamedTuple):
    """One drug's dosing regimen.

    The regimen is laid out in cycles of `cycle_days`. The first `on_days` of a cycle are filled with repeats of
    `repeat_days`, and the drug is given on `days` of each repeat. Both left out: repeats without a pause.

    Attributes
    ----------
    amount : float
        Amount of one single dose, in `unit`. Twice a day 200 mg is amount 200, not 400.
    unit : str
        Unit of the amount, such as "mg" or "mg/m2".
    times_per_day : int
        Doses on a dosing day, spread evenly over the day.
    days : tuple of int
        Dosing days within the repeat; 1 is its first day.
    repeat_days : int
        Length of the repeat.
    on_days, cycle_days : int or None
        Days on treatment at the start of each cycle, and length of the cycle. Both or neither.
    start_day : int
        Day of the study (0 = start of treatment) that is day 1 of the regimen.
    holds : tuple of (int, int)
        Study days from which, and up to which, no dose is given; the calendar goes on meanwhile.
    reductions : tuple of (int, float)
        Study day from which another amount is given, and that amount; up to the planned one.
    intensity : float or None
        Relative dose intensity: what patients are given on average over what is planned, beyond holds and reductions
        written here. None where the regimen does not say.
    missed : float or None
        Mean over patients of the probability that a patient misses a dose. None where the regimen does not say.
    infusion_days : float or None
        How long a dose runs into the vein at a constant rate, days; 0 for a bolus. None where the regimen does not say.
    """

    amount: float
    unit: str
    times_per_day: int = 1
    days: tuple[int, ...] = (1,)
    repeat_days: int = 1
    on_days: int | None = None
    cycle_days: int | None = None
    start_day: int = 0
    holds: tuple[tuple[int, int], ...] = ()
    reductions: tuple[tuple[int, float], ...] = ()
    intensity: float | None = None
    missed: float | None = None
    infusion_days: float | None = None


def check_dosing(dosing: Dosing) -> Dosing:
    """Return the dosing unchanged, or raise.

    Raises
    ------
    ValueError
        With the key as it stands in an experiment file, what was got, what is allowed, and an example.
    """
    if not math.isfinite(dosing.amount) or dosing.amount < 0:
        raise _wrong("dose", f"{dosing.amount:g} {dosing.unit}", "a finite amount of 0 or more")
    if not dosing.unit.strip():
        raise _wrong("dose", f"{dosing.amount:g} without a unit", "an amount with its unit, as in 3.2 mg")
    for key, value, least in (
        ("times_per_day", dosing.times_per_day, 1),
        ("repeat", dosing.repeat_days, 1),
        ("on", dosing.on_days, 1),
        ("cycle", dosing.cycle_days, 1),
        ("start", dosing.start_day, 0),
    ):
        if value is not None and (not _is_whole(value) or value < least):
            raise _wrong(key, value, f"a whole number of {least} or more")
    for day in dosing.days:
        if not _is_whole(day) or not 1 <= day <= dosing.repeat_days:
            allowed = f"whole days from 1 to {dosing.repeat_days}, the length of the repeat"
            raise _wrong("days", f"day {day} in {list(dosing.days)}", allowed)
    if not dosing.days or list(dosing.days) != sorted(set(dosing.days)):
        raise _wrong("days", list(dosing.days), "at least one day, in increasing order, each day once")
    if (dosing.on_days is None) != (dosing.cycle_days is None):
        given, missing = ("cycle", "on") if dosing.on_days is None else ("on", "cycle")
        raise _wrong(given, f"`{given}` without `{missing}`", "both `on` and `cycle`, or neither")
    if dosing.on_days is not None and dosing.cycle_days is not None:
        if dosing.on_days > dosing.cycle_days:
            raise _wrong("on", f"{dosing.on_days} d", f"no more than the cycle of {dosing.cycle_days} d")
        if dosing.on_days % dosing.repeat_days:
            raise _wrong("on", f"{dosing.on_days} d", f"a multiple of the repeat of {dosing.repeat_days} d")
    _check_changes(dosing)
    return dosing


def _check_changes(dosing: Dosing) -> None:
    """Holds, reductions, intensity and missed doses."""
    free = 0
    for begin, end in dosing.holds:
        if not (_is_whole(begin) and _is_whole(end) and free <= begin < end):
            raise _wrong("holds", f"{begin} to {end} d", "whole days, each after the one before", _HOLDS)
        free = end
    last = -1
    for begin, amount in dosing.reductions:
        if not _is_whole(begin) or begin <= last:
            raise _wrong("reductions", f"start {begin} d", "whole days, each later than the one before", _REDUCTIONS)
        if not 0 < amount <= dosing.amount:
            planned = f"a dose above 0 and up to the planned {dosing.amount:g} {dosing.unit}"
            raise _wrong("reductions", f"{amount:g} {dosing.unit}", planned, _REDUCTIONS)
        last = begin
    if dosing.intensity is not None and not 0 < dosing.intensity <= 1.5:
        what = "given over planned dose, above 0 and up to 1.5"
        raise _wrong("intensity", dosing.intensity, what, "for example intensity: 0.8")
    if dosing.missed is not None and not 0 <= dosing.missed < 1:
        what = "a probability from 0 to below 1"
        raise _wrong("missed", dosing.missed, what, "for example missed: 0.05")
    if dosing.infusion_days is not None:
        longest = min(MAX_INFUSION_DAYS, _shortest_wait(dosing))
        # 8 h three times a day is a third of a day to rounding
        if not 0 <= dosing.infusion_days <= longest * (1 + 1e-9):
            what = f"a length from 0 (a bolus) to {longest:.4g} d: until the next dose, at most {MAX_INFUSION_DAYS:g} d"
            raise _wrong("infusion", f"{dosing.infusion_days:.4g} d", what, "for example infusion: 30 min")


def _shortest_wait(dosing: Dosing) -> float:
    """Days from one dose to the next, at least, over two cycles."""
    plain = dosing._replace(holds=(), reductions=(), infusion_days=None, start_day=0)
    days = dose_days(plain, 2 * (dosing.cycle_days or dosing.repeat_days))
    return min(later - earlier for earlier, later in pairwise(days))


def dose_days(dosing: Dosing, until_day: float | int) -> tuple[float, ...]:
    """Times of all doses before a day.

    Parameters
    ----------
    dosing : Dosing
        The regimen.
    until_day : float
        Doses at this time or later are left out, since they act on nothing before it.

    Returns
    -------
    tuple of float
        Increasing times in days from the start of treatment.

    Raises
    ------
    ValueError
        If the dosing is wrong, or `until_day` is not finite.
    """
    return tuple(time for time, _ in doses(dosing, until_day))


def doses(dosing: Dosing, until_day: float | int) -> tuple[tuple[float, float], ...]:
    """Times (days from the start of treatment, increasing) and amounts of all doses before a day; see `dose_days`.

    Holds and reductions are in it, relative dose intensity and missed doses are not.
    """
    check_dosing(dosing)
    if not math.isfinite(until_day):
        raise ValueError(f"until_day: got {until_day}; a finite number of days is needed")
    on_days, cycle_days = _on_and_cycle(dosing)
    times = []
    cycle_start = dosing.start_day
    while cycle_start < until_day:
        for repeat_start in range(cycle_start, cycle_start + on_days, dosing.repeat_days):
            for day in dosing.days:
                times += [repeat_start + day - 1 + i / dosing.times_per_day for i in range(dosing.times_per_day)]
        cycle_start += cycle_days
    return tuple((time, _amount_at(dosing, time)) for time in times if time < until_day and not _is_held(dosing, time))


def _is_held(dosing: Dosing, time: float) -> bool:
    return any(begin <= time < end for begin, end in dosing.holds)


def _amount_at(dosing: Dosing, time: float) -> float:
    """Amount of a dose at a time: that of the last reduction begun, else the planned one."""
    return next((amount for begin, amount in reversed(dosing.reductions) if begin <= time), dosing.amount)


def treated_share(dosing: Dosing, begin: float, end: float) -> float:
    """Share of the time between two study days on which the drug is on: started, not in a pause, not held.

    Between the doses of a repeat the drug counts as on.
    """
    check_dosing(dosing)
    on_days, cycle_days = _on_and_cycle(dosing)
    on = 0.0
    start = dosing.start_day + cycle_days * max(0, math.floor((begin - dosing.start_day) / cycle_days))
    while start < end:
        left, right = max(start, begin), min(start + on_days, end)
        if right > left:
            held = (min(right, stop) - max(left, first) for first, stop in dosing.holds)
            on += right - left - sum(max(0.0, each) for each in held)
        start += cycle_days
    return on / (end - begin)


def dose_rate(dosing: Dosing) -> float:
    """Planned average amount per day over whole cycles, the days off included, in the dosing's unit per day."""
    check_dosing(dosing)
    on_days, cycle_days = _on_and_cycle(dosing)
    num_doses = len(dosing.days) * dosing.times_per_day * (on_days // dosing.repeat_days)
    return dosing.amount * num_doses / cycle_days


def relative_dose_rate(dosing: Dosing, reference: Dosing) -> float:
    """Average dose per day relative to that of the reference dosing.

    Raises
    ------
    ValueError
        If the two have different units, or the reference gives no drug.
    """
    if dosing.unit != reference.unit:
        raise ValueError(
            f"dose: got {dosing.unit}, but the drug's reference dosing ({describe(reference)}) is in {reference.unit}; "
            "give both in the same unit"
        )
    if not dose_rate(reference) > 0:
        raise _wrong("dose", f"reference dosing of {describe(reference)}", "a reference dose above 0")
    return dose_rate(dosing) / dose_rate(reference)


def describe(dosing: Dosing) -> str:
    """One line such as "3.2 mg on days 1, 4 of every 7 d, 21 d on / 7 d off"."""
    check_dosing(dosing)
    often = _TIMES_A_DAY.get(dosing.times_per_day, f"{dosing.times_per_day} times")
    text = f"{dosing.amount:.10g} {dosing.unit}"
    if dosing.infusion_days is not None:
        text += f" over {_clock(dosing.infusion_days)}" if dosing.infusion_days > 0 else " as a bolus"
    if dosing.repeat_days == 1 or dosing.times_per_day > 1:
        text += f" {often} a day"
    if dosing.repeat_days > 1:
        days = ", ".join(str(day) for day in dosing.days)
        text += f" on day{'s' if len(dosing.days) > 1 else ''} {days} of every {dosing.repeat_days} d"
    on_days, cycle_days = _on_and_cycle(dosing)
    if on_days < cycle_days:
        text += f", {on_days} d on / {cycle_days - on_days} d off"
    if dosing.start_day:
        text += f", starting {dosing.start_day} d after the start of treatment"
    for begin, end in dosing.holds:
        text += f", held from {begin} to {end} d"
    for begin, amount in dosing.reductions:
        text += f", {amount:.10g} {dosing.unit} from {begin} d on"
    if dosing.intensity is not None:
        text += f", {100 * dosing.intensity:.10g} % of the planned dose given"
    if dosing.missed is not None:
        text += f", {100 * dosing.missed:.10g} % of doses missed"
    return text


def calendar(dosing: Dosing, cycles: int = 1) -> str:
    """Lay the dosing out as weeks by days.

    Parameters
    ----------
    dosing : Dosing
        The regimen; its day 1 is the first cell.
    cycles : int
        Cycles to show (repeats, where there is no cycle), and more where holds or reductions lie later; a last week
        begun is filled with what follows.

    Returns
    -------
    str
        The line of `describe`, a header, one line a week (doses a day, "." for none, "-" for a day off, "h" for a day
        held, "r" beside a reduced dose), a key.
    """
    check_dosing(dosing)
    if not _is_whole(cycles) or cycles < 1:
        raise ValueError(f"cycles: got {cycles}; a whole number of 1 or more is needed")
    on_days, cycle_days = _on_and_cycle(dosing)
    # the week in which the last change begins is the last that is not like one shown before
    changes = [day for hold in dosing.holds for day in hold] + [day for day, _ in dosing.reductions]
    shown = max([cycles * cycle_days, *(day + 1 - dosing.start_day for day in changes)])
    cells = []
    for day in range(7 * math.ceil(shown / 7)):
        day_of_cycle, study_day = day % cycle_days, day + dosing.start_day
        if day_of_cycle >= on_days:
            cells.append("-")
        elif day_of_cycle % dosing.repeat_days + 1 not in dosing.days:
            cells.append(".")
        elif _is_held(dosing, study_day):
            cells.append("h")
        else:
            reduced = _amount_at(dosing, study_day) < dosing.amount
            cells.append(f"{dosing.times_per_day}{'r' if reduced else ''}")
    rows = [("", [f"d{day}" for day in range(1, 8)])]
    rows += [(f"week {i // 7 + 1}", cells[i : i + 7]) for i in range(0, len(cells), 7)]
    label_width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{label_width}}" + "".join(f"{cell:>4}" for cell in row) for label, row in rows]
    key = "number: doses that day; . no dose; - day off"
    key += ("; h held" if dosing.holds else "") + ("; r reduced dose" if dosing.reductions else "")
    return "\n".join([describe(dosing), *lines, key])


def segment_edges(
    visit_days: Iterable[float | int], dosings: Iterable[Dosing], max_days: float | int = 7.0
) -> tuple[float, ...]:
    """Edges of the time segments over which every effect is averaged.

    Parameters
    ----------
    visit_days : iterable of float
        Visits, days above 0; each is an edge and the last one is the last edge.
    dosings : iterable of Dosing
        The dosings of all arms of the cohort: the days on which one is switched on or off, held or reduced are edges.
    max_days : float
        Longer gaps are divided evenly.

    Returns
    -------
    tuple of float
        Increasing days, the first 0.

    Raises
    ------
    ValueError
        If there is no visit, a visit is not finite or not above 0, or `max_days` is not above 0.
    """
    visits = sorted({float(day) for day in visit_days})
    if not visits or not all(0 < day < math.inf for day in visits):
        raise ValueError(f"visits: got {visits}; needed is at least one, on finite days above 0, as in [56, 112]")
    if not max_days > 0:
        raise ValueError(f"max_days: got {max_days}; a number of days above 0 is needed")
    last = visits[-1]
    breaks = {0.0, *visits}
    for dosing in dosings:
        check_dosing(dosing)
        on_days, cycle_days = _on_and_cycle(dosing)
        breaks.add(float(dosing.start_day))
        breaks.update(float(day) for hold in dosing.holds for day in hold)
        breaks.update(float(day) for day, _ in dosing.reductions)
        if on_days < cycle_days:
            for cycle_start in range(dosing.start_day, math.ceil(last), cycle_days):
                breaks.update((float(cycle_start), float(cycle_start + on_days)))
    marks = sorted(day for day in breaks if day <= last)
    edges = [0.0]
    for left, right in pairwise(marks):
        parts = math.ceil((right - left) / max_days)
        edges += [left + (right - left) * i / parts for i in range(1, parts)] + [right]
    return tuple(edges)


def _on_and_cycle(dosing: Dosing) -> tuple[int, int]:
    """Days on and length of the cycle; without a cycle, one repeat is the cycle."""
    if dosing.on_days is None or dosing.cycle_days is None:
        return dosing.repeat_days, dosing.repeat_days
    return dosing.on_days, dosing.cycle_days


def _clock(days: float) -> str:
    """A length of time as one says it: 30 min, 46 h, 7 d."""
    hours = 24.0 * days
    if hours < 2.0:
        return f"{60.0 * hours:.4g} min"
    return f"{hours:.4g} h" if hours < 96.0 else f"{days:.4g} d"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(key: str, got: object, allowed: str, example: str = EXAMPLE) -> ValueError:
    return ValueError(f"{key}: got {got}; allowed is {allowed}; {example}")
