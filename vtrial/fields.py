"""What sections of a file are made of: their base class, and doses, durations and texts as keys; no jax."""

from __future__ import annotations

import math
import re
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema

_DAYS_PER = {"min": 1 / 1440, "h": 1 / 24, "d": 1.0, "day": 1.0, "days": 1.0, "wk": 7.0, "week": 7.0, "weeks": 7.0}
_DOSE_UNITS = {
    f"{mass}{per}": (factor, f"mg{per}")
    for mass, factor in {"mg": 1.0, "g": 1000.0, "ug": 0.001}.items()
    for per in ("", "/m2", "/kg")
}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z][A-Za-z0-9/]*)\s*\Z", re.ASCII)


class Dose(NamedTuple):
    """An amount of drug per administration: ``value`` in ``unit`` mg, mg/m2 or mg/kg."""

    value: float
    unit: str

    def __str__(self) -> str:
        """Write the dose as a file does."""
        return f"{number(self.value)} {self.unit}"


def parse_dose(text: object) -> Dose:
    """Read ``3.2 mg``, ``1000 mg/m2`` or ``2 mg/kg`` (also g and ug, turned into mg)."""
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    factor, unit = _DOSE_UNITS.get(match[2], (0.0, "")) if match else (0.0, "")
    value = float(match[1]) * factor if match else 0.0
    if not 0.0 < value < 1e9:
        allowed = f"units are {', '.join(_DOSE_UNITS)}"
        raise ValueError(f"must be a dose above 0 with its unit, such as '3.2 mg' or '1000 mg/m2' ({allowed})")
    return Dose(value, unit)


def parse_duration(text: object) -> float:
    """Read ``7 d``, ``12 h`` or ``3 wk`` as days."""
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match is None or match[2] not in _DAYS_PER or float(match[1]) > 1e6:
        raise ValueError(f"must be a duration with its unit, such as '7 d' (units are {', '.join(_DAYS_PER)})")
    return float(match[1]) * _DAYS_PER[match[2]]


def number(value: float) -> str:
    """A number as a file writes it: 7, not 7.0."""
    return str(int(value)) if value == int(value) else f"{value!r}"


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _scalar(value: object) -> str | int | float | bool:
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("must be one text or number")
    return value


listed = BeforeValidator(_as_tuple)
_written_duration = PlainSerializer(lambda days: f"{number(days)} d", return_type=str, when_used="unless-none")
_text_schema = WithJsonSchema({"type": "string"})
Duration = Annotated[float, BeforeValidator(parse_duration), _written_duration, _text_schema]
# in minutes: a fraction of a day may need an exponent, which no file takes
_written_length = PlainSerializer(lambda days: f"{number(round(1440 * days, 6))} min", when_used="unless-none")
InfusionLength = Annotated[float, BeforeValidator(parse_duration), _written_length, _text_schema]
DoseText = Annotated[Dose, PlainValidator(parse_dose), PlainSerializer(str, return_type=str), _text_schema]
Scalar = Annotated[str | int | float | bool, PlainValidator(_scalar)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Texts = Annotated[tuple[Text, ...], listed]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversions, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
