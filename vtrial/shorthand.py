"""Schedules as clinics write them (BID, q21d, "d1,8,15 q28d") -> the keys of a dosing; plain Python."""

from __future__ import annotations

import re
from typing import Any

EXAMPLES = "QD, BID, QW, Q3W, q21d, 'd1,8,15 q28d', 'BID d1-21 q28d', 'd1,4 QW 21/28'"
_TIMES = {"QD": 1, "OD": 1, "BID": 2, "BD": 2, "TID": 3, "QID": 4}
_REPEATS = {"QOD": 2, "QW": 7, "WEEKLY": 7}
_EVERY = re.compile(r"Q([1-9][0-9]{0,3})([HDW])\Z")
_ON_OF = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})\Z")
_DAYS = re.compile(r"D?([1-9][0-9]{0,3})(?:-D?([1-9][0-9]{0,3}))?\Z")

#: what people say -> the word for it
_SPOKEN = (
    (re.compile(r"\b(ONCE|1X?) (A DAY|DAILY)\b|\bEVERY DAY\b"), "QD"),
    (re.compile(r"\b(TWICE|2X?) (A DAY|DAILY)\b"), "BID"),
    (re.compile(r"\b(THREE TIMES|3X?) (A DAY|DAILY)\b"), "TID"),
    (re.compile(r"\bDAILY\b"), "QD"),
    (re.compile(r"\bEVERY OTHER DAY\b"), "QOD"),
    (re.compile(r"\b(ONCE (A WEEK|WEEKLY)|EVERY WEEK)\b"), "QW"),
    (re.compile(r"\bEVERY ([1-9][0-9]{0,3}) (D|W)(AY|EEK)S\b"), r"Q\1\2"),
)


def read_schedule(text: str) -> dict[str, Any]:
    """Read a schedule in clinical shorthand.

    A word for the times a day (QD, BID, TID, QID, Q8H), a period (QOD, QW, Q3W, q21d), dosing days within the period
    (d1,8,15 or d1-21) and days on of a cycle (21/28), in any order and case; words that are not needed are left out.
    "Twice daily", "every 3 weeks" and their like are read too.

    Parameters
    ----------
    text : str
        Such as ``d1,8,15 q28d``.

    Returns
    -------
    dict
        Keys of a dosing: times_per_day, days, repeat, on, cycle; the last three in days.

    Raises
    ------
    ValueError
        With what was not understood or contradicts itself, and what is allowed.
    """
    plain = " ".join(re.sub(r"\s*([,/-])\s*", r"\1", text.strip()).upper().split())
    for spoken, word in _SPOKEN:
        plain = spoken.sub(word, plain)
    words = plain.split()
    # "days 1,4" is "d1,4"
    words = [word for word in words if word not in ("DAY", "DAYS")]
    found: dict[str, Any] = {}

    def put(key: str, value: Any) -> None:
        if key in found:
            raise ValueError(f"says twice {_SAID[key]}, in {text!r}; allowed are {EXAMPLES}")
        found[key] = value

    for word in words:
        every, on_of = _EVERY.match(word), _ON_OF.match(word)
        if word in _TIMES:
            put("times", _TIMES[word])
        elif every and every[2] == "H":
            hours = int(every[1])
            if hours > 24 or 24 % hours:
                raise ValueError(f"{word} does not divide a day, in {text!r}; allowed are Q4H, Q6H, Q8H, Q12H, Q24H")
            put("times", 24 // hours)
        elif word in _REPEATS or every:
            put("repeat", _REPEATS[word] if word in _REPEATS else int(every[1]) * (7 if every[2] == "W" else 1))  # pyright: ignore[reportOptionalSubscript]
        elif on_of:
            put("on", (int(on_of[1]), int(on_of[2])))
        else:
            put("days", _days(word, text))
    if not found:
        raise ValueError(f"must be a schedule, found {text!r}; allowed are {EXAMPLES}")
    return _keys(found, text)


_SAID = {
    "times": "how often a day",
    "repeat": "how long the period is",
    "on": "how many days of a cycle are on",
    "days": "on which days",
}


def _days(word: str, text: str) -> tuple[int, ...]:
    days: list[int] = []
    for part in word.split(","):
        match = _DAYS.match(part)
        if not match:
            raise ValueError(f"does not understand {part!r} in {text!r}; allowed are {EXAMPLES}")
        first, last = int(match[1]), int(match[2] or match[1])
        days += range(first, last + 1)
    if not days or days != sorted(set(days)):
        raise ValueError(f"must name days in increasing order, each once, found {word!r}; allowed are {EXAMPLES}")
    return tuple(days)


def _keys(found: dict[str, Any], text: str) -> dict[str, Any]:
    times, days, repeat = found.get("times", 1), found.get("days"), found.get("repeat")
    if repeat is None and days is not None:
        raise ValueError(f"names days without a period, in {text!r}; add one, as in 'd1,8,15 q28d'")
    if repeat is not None and repeat > 1 and "times" in found and days is None:
        message = f"says how often a day and a period of {repeat} d without the days, in {text!r}"
        raise ValueError(f"{message}; add them, as in 'BID d1-21 q28d'")
    if days is not None and repeat is not None and days[-1] > repeat:
        raise ValueError(f"names day {days[-1]} of a period of {repeat} d, in {text!r}; allowed are {EXAMPLES}")
    keys: dict[str, Any] = {"times_per_day": times, "days": days, "repeat": repeat or 1}
    if "on" in found:
        on, cycle = found["on"]
        if on > cycle or on % keys["repeat"]:
            message = f"must have days on that are whole periods of {keys['repeat']} d within the cycle"
            raise ValueError(f"{message}, found {on}/{cycle}; as in 'd1,4 QW 21/28'")
        keys |= {"on": on, "cycle": cycle}
    elif days is not None and len(days) > 1 and days == tuple(range(1, len(days) + 1)) and len(days) < keys["repeat"]:
        # the first days of a period, all of them, are days on of a cycle: the same doses, said shorter
        keys |= {"days": None, "repeat": 1, "on": len(days), "cycle": repeat}
    return keys
