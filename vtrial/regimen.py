"""Dose and schedule of one drug as an experiment or priors file writes them; no jax."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from vtrial import dosing
from vtrial.fields import DoseText, Duration, InfusionLength, Section, Text, listed, number
from vtrial.shorthand import read_schedule
from vtrial.yamlfile import fault


class Hold(Section):
    """A time without doses."""

    start: Duration = Field(ge=0, description="first day without doses, from the start of the trial, such as 28 d")
    length: Duration = Field(gt=0, description="how long, such as 14 d; the calendar goes on meanwhile")


class Reduction(Section):
    """A smaller dose from some day on."""

    start: Duration = Field(ge=0, description="first day of the new dose, from the start of the trial, such as 56 d")
    dose: DoseText = Field(description="amount per administration from then on, at most the planned one")


class Dosing(Section):
    """Dose and schedule of one drug: ``days`` of each ``repeat``, for the first ``on`` of each ``cycle``."""

    dose: DoseText = Field(description="amount per administration, such as 3.2 mg")
    schedule: Text | None = Field(
        default=None, description="the five keys below in clinical shorthand, such as BID or 'd1,8,15 q28d'"
    )
    times_per_day: int = Field(default=1, ge=1, le=24, description="administrations on a dosing day")
    days: Annotated[tuple[int, ...] | None, listed] = Field(
        default=None, min_length=1, description="dosing days within each repeat, counted from 1; null for the first"
    )
    repeat: Duration | None = Field(
        default=None, gt=0, description="period of the schedule, such as 7 d; needed where there is no schedule"
    )
    on: Duration | None = Field(default=None, gt=0, description="treated part at the head of each cycle, such as 21 d")
    cycle: Duration | None = Field(default=None, gt=0, description="length of a cycle, such as 28 d")
    start: Duration = Field(default=0.0, description="time of the first dose after the start of the trial, such as 0 d")
    holds: Annotated[tuple[Hold, ...], listed] = Field(default=(), description="times without doses")
    reductions: Annotated[tuple[Reduction, ...], listed] = Field(default=(), description="smaller doses from a day on")
    intensity: float | None = Field(
        default=None,
        gt=0,
        le=1.5,
        description="relative dose intensity, given over planned dose, such as 0.8; null for that of the priors",
    )
    missed: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="mean probability that a patient misses a dose, such as 0.05; null for that of the priors",
    )
    infusion: InfusionLength | None = Field(
        default=None,
        description="how long a dose runs into the vein at a constant rate, such as 30 min or 46 h; 0 min for a bolus; "
        "null for what the priors say of the drug",
    )

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, written: Any) -> Any:
        """The keys that a schedule stands for in its place: equal regimens are equal however they are written."""
        if not isinstance(written, dict) or not isinstance(written.get("schedule"), str):
            return written
        try:
            meant = read_schedule(written["schedule"])
        except ValueError as error:
            raise fault(str(error), "schedule") from None
        given = {key: value for key, value in meant.items() if value is not None}
        for key in given:
            if key in written and (key != "times_per_day" or given[key] != 1):
                raise fault(f"is said by the schedule {written['schedule']!r} already; give one of the two", key)
        periods = {key: f"{value} d" for key, value in given.items() if key in ("repeat", "on", "cycle")}
        return {**given, **periods, **{key: value for key, value in written.items() if key != "schedule"}}

    @model_validator(mode="after")
    def _consistent(self) -> Dosing:
        if self.repeat is None:
            raise fault("is missing; give it or a schedule, for example {dose: 45 mg, schedule: BID}", "repeat")
        for key in ("repeat", "on", "cycle", "start"):
            if (getattr(self, key) or 0.0) % 1.0:
                raise _dosing_fault("must be whole days; for several doses within a day use times_per_day", key)
        for name in ("holds", "reductions"):
            for index, one in enumerate(getattr(self, name)):
                if one.start % 1.0 or getattr(one, "length", 0.0) % 1.0:
                    raise fault("must be whole days, such as {start: 28 d, ...}", name, index)
        for index, one in enumerate(self.reductions):
            if one.dose.unit != self.dose.unit:
                raise fault(f"must be in {self.dose.unit}, as the dose {self.dose}", "reductions", index, "dose")
        for index, day in enumerate(self.days or ()):
            if not 1 <= day <= self.repeat:
                raise _dosing_fault(f"must be a day in 1..{number(self.repeat)} (1 to repeat)", "days", index)
        if self.days is not None and list(self.days) != sorted(set(self.days)):
            raise _dosing_fault("must be in increasing order without doubles", "days")
        if (self.on is None) != (self.cycle is None):
            raise _dosing_fault("on and cycle must be given together", "on" if self.cycle is None else "cycle")
        if self.on is not None and self.cycle is not None and (self.on > self.cycle or self.on % self.repeat):
            raise _dosing_fault("must be a multiple of repeat and not above cycle", "on")
        try:
            dosing.check_dosing(self.to_dosing())
        except ValueError as error:
            key, _, message = str(error).partition(": ")
            raise fault(message, key) from None
        return self

    def to_dosing(self) -> dosing.Dosing:
        """The regimen as the simulation takes it, in days."""
        assert self.repeat is not None  # else it would not have been read
        return dosing.Dosing(
            amount=self.dose.value,
            unit=self.dose.unit,
            times_per_day=self.times_per_day,
            days=self.days or (1,),
            repeat_days=int(self.repeat),
            on_days=None if self.on is None else int(self.on),
            cycle_days=None if self.cycle is None else int(self.cycle),
            start_day=int(self.start),
            holds=tuple((int(one.start), int(one.start + one.length)) for one in self.holds),
            reductions=tuple((int(one.start), one.dose.value) for one in self.reductions),
            intensity=self.intensity,
            missed=self.missed,
            infusion_days=self.infusion,
        )


def _dosing_fault(message: str, *at: str | int) -> PydanticCustomError:
    return fault(f"{message}; {dosing.EXAMPLE}", *at)
