"""One prior, one drug and one published arm: as a file writes them, and as the rest of the code sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from vtrial.regimen import Dosing
from vtrial.yamlfile import fault, nearest

if TYPE_CHECKING:
    from numpyro.distributions import Distribution

#: required parameters of each family; truncated_normal takes low, high or both besides
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "normal": ("loc", "scale"),
        "lognormal": ("median", "sigma"),
        "halfnormal": ("scale",),
        "beta": ("mean", "concentration"),
        "fixed": ("value",),
        "truncated_normal": ("loc", "scale"),
    }
)
_POSITIVE = ("scale", "sigma", "median", "concentration")
_BOUNDS = ("low", "high")
_INFINITE_BOUNDS = (("low", -math.inf), ("high", math.inf))
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=5000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Months = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
_listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EntryFields(_Strict):
    """An entry as a file writes it."""

    family: Literal["normal", "lognormal", "halfnormal", "beta", "fixed", "truncated_normal"]
    parameters: dict[str, Number]
    unit: Text = Field(description='unit of the quantity, "1" for none')
    source: Text = Field(description="where the numbers come from")
    certainty: Literal["measured", "published", "recalled", "assumed"]
    note: Text = Field(description="what it means and why these numbers")

    @model_validator(mode="after")
    def _parameters_fit(self) -> EntryFields:
        needed = FAMILIES[self.family]
        allowed = needed + (_BOUNDS if self.family == "truncated_normal" else ())
        for name in self.parameters:
            if name not in allowed:
                what = f"unknown parameter{nearest(name, allowed)} ({self.family} takes {', '.join(allowed)})"
                raise fault(what, "parameters", name)
        if missing := [name for name in needed if name not in self.parameters]:
            raise fault(f"lacks {', '.join(missing)} ({self.family} takes {', '.join(allowed)})", "parameters")
        for name, value in self.parameters.items():
            if name in _POSITIVE and not value > 0:
                raise fault("must be above 0", "parameters", name)
        if self.family == "beta" and not 0 < self.parameters["mean"] < 1:
            raise fault("must be between 0 and 1", "parameters", "mean")
        if self.family == "truncated_normal":
            if not any(name in self.parameters for name in _BOUNDS):
                raise fault("lacks low, high or both; without them it is a normal", "parameters")
            if not self.parameters.get("low", -math.inf) < self.parameters.get("high", math.inf):
                raise fault("must be above low", "parameters", "high")
        return self


class PkFields(_Strict):
    """The time course of a drug's effect as a file writes it; an overlay may give a part of it."""

    reference: Dosing | None = None
    half_life: EntryFields | None = None
    absorption_half_life: EntryFields | None = None
    saturation: EntryFields | None = None
    hill: EntryFields | None = None
    route: Literal["oral", "intravenous"] = "oral"
    effect: Literal["emax", "linear"] = "emax"
    between_patients: EntryFields | None = Field(default=None, description="log-SD of the exposure over patients")
    distribution_half_life: EntryFields | None = Field(default=None, description="of the fast one of two exponentials")
    distribution_share: EntryFields | None = Field(default=None, description="of the fast exponential after a bolus")


class DrugFields(_Strict):
    """A drug as a file writes it; an overlay may give a part of it."""

    drug_class: Text | None = None
    code_names: Annotated[tuple[Text, ...], _listed] = ()
    note: Text = ""
    pk: PkFields | None = None


class TrialArm(_Strict):
    """One published arm: what was given to whom, who judged it, and the counts.

    ``drugs`` holds the dosing where the arm can be predicted, else ``not_predictable`` says why not. ``confirmed`` and
    ``recist`` are None where the source does not tell. ``recalled`` names the fields that are from memory.
    """

    id: Annotated[int, Field(strict=True, ge=1)]
    trial: Text
    arm: Text
    tumour_type: Text
    subgroup: Text = "all"
    biomarker: Text | None = Field(default=None, description="how patients were selected where the mice are not")
    prevalence: Annotated[Number, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of the subgroup within the tumour type"
    )
    covariates: dict[str, Number] = Field(default_factory=dict, description="covariates of the subgroup")
    regimen: Text = Field(description="what was given, in words")
    drugs: dict[str, Dosing] = Field(default_factory=dict)
    not_predictable: Text | None = None
    num_responders: Annotated[int, Field(strict=True, ge=0)]
    num_patients: Annotated[int, Field(strict=True, ge=1)]
    confirmed: Annotated[bool, Field(strict=True)] | None
    reader: Literal["independent", "investigator", "unknown"]
    recist: Literal["1.0", "1.1"] | None
    line: Text = Field(description="line of therapy, in words")
    prior_lines: Annotated[Number, Field(ge=0, le=20)] | None = Field(
        default=None, description="earlier lines of therapy, null where unknown"
    )
    median_pfs_months: Annotated[Number, Field(gt=0)] | None
    median_pfs_interval: Annotated[tuple[Months, Months], _listed] | None = Field(
        default=None, description="published 95 % interval of the median, months"
    )
    progression: Literal["PFS", "TTP"] = Field(
        default="PFS", description="what the median is of: TTP does not count death as progression"
    )
    median_ttr_months: Months | None = Field(default=None, description="median time to response of the responders")
    num_shrunk: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        default=None, description="patients whose target lesions were ever smaller than at the start, responders too"
    )
    num_measured: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description="patients of whom that is known"
    )
    overlaps: Annotated[tuple[int, ...], _listed] = ()
    source: Text
    tag: Text = Field(description="how the numbers were obtained: SEEN, DERIVED, RECALLED")
    confidence: Literal["A", "B", "C"]
    certainty: Literal["measured", "published", "recalled", "assumed"]
    recalled: Annotated[tuple[Text, ...], _listed] = ()
    note: Text

    @model_validator(mode="after")
    def _consistent(self) -> TrialArm:
        if self.num_responders > self.num_patients:
            raise fault(f"must be at most num_patients, {self.num_patients}", "num_responders")
        if bool(self.drugs) == bool(self.not_predictable):
            raise fault("needs either drugs or not_predictable, and not both")
        if bool(self.covariates) != (self.prevalence is not None):
            raise fault("prevalence and covariates must be given together", "prevalence")
        if self.median_pfs_interval is not None:
            low, high = self.median_pfs_interval
            if self.median_pfs_months is None or not low <= self.median_pfs_months <= high or low == high:
                raise fault("must hold median_pfs_months between its two ends", "median_pfs_interval")
        if self.median_ttr_months is not None and self.num_responders == 0:
            raise fault("an arm without responders has no time to response", "median_ttr_months")
        if (self.num_shrunk is None) != (self.num_measured is None):
            raise fault("num_shrunk and num_measured must be given together", "num_shrunk")
        if self.num_measured is not None and self.num_measured > self.num_patients:
            raise fault(f"must be at most num_patients, {self.num_patients}", "num_measured")
        least, most = self.num_responders, self.num_measured
        if self.num_shrunk is not None and most is not None and not least <= self.num_shrunk <= most:
            raise fault(f"must be between num_responders, {least}, and num_measured, {most}", "num_shrunk")
        for index, name in enumerate(self.recalled):
            if name not in type(self).model_fields:
                raise fault(f"must be a field of this arm{nearest(name, type(self).model_fields)}", "recalled", index)
        return self


@dataclass(frozen=True)
class Entry:
    """One prior, with the place it was read from."""

    name: str
    family: str
    parameters: Mapping[str, float]
    unit: str
    source: str
    certainty: str
    note: str
    file: Path
    line: int | None

    def quantile(self, probability: float | np.ndarray) -> Any:
        """Quantiles of the prior, without JAX, in the shape of `probability`; a fixed value is its own quantile."""
        from scipy.special import betaincinv, ndtr, ndtri

        p, family = self.parameters, self.family
        if family == "fixed":
            return p["value"] + np.zeros(np.shape(probability))
        if family == "beta":
            return betaincinv(p["mean"] * p["concentration"], (1 - p["mean"]) * p["concentration"], probability)
        if family == "lognormal":
            return p["median"] * np.exp(p["sigma"] * ndtri(probability))
        if family == "halfnormal":
            return p["scale"] * ndtri(0.5 + 0.5 * np.asarray(probability))
        low, high = (ndtr((p.get(bound, limit) - p["loc"]) / p["scale"]) for bound, limit in _INFINITE_BOUNDS)
        return p["loc"] + p["scale"] * ndtri(low + probability * (high - low))

    def distribution(self) -> Distribution:
        """The NumPyro distribution; in float64 where `jax.enable_x64` is on."""
        import numpyro.distributions as dist

        p = self.parameters
        match self.family:
            case "normal":
                return dist.Normal(p["loc"], p["scale"])
            case "lognormal":
                return dist.LogNormal(math.log(p["median"]), p["sigma"])
            case "halfnormal":
                return dist.HalfNormal(p["scale"])
            case "beta":
                return dist.Beta(p["mean"] * p["concentration"], (1 - p["mean"]) * p["concentration"])
            case "truncated_normal":
                return dist.TruncatedNormal(p["loc"], p["scale"], low=p.get("low"), high=p.get("high"))
            case _:
                return dist.Delta(p["value"])


class Pk(NamedTuple):
    """Time course of a drug's effect in patients: half-lives in h, `saturation` relative to the `reference` dosing.

    `between_patients` is the log-SD of the exposure where the drug has one of its own; the distribution entries are
    those of a second compartment.
    """

    reference: Dosing
    half_life: Entry
    absorption_half_life: Entry
    saturation: Entry
    hill: Entry
    route: str = "oral"
    effect: str = "emax"
    between_patients: Entry | None = None
    distribution_half_life: Entry | None = None
    distribution_share: Entry | None = None

    @classmethod
    def needed(cls) -> tuple[str, ...]:
        """Keys that every drug with pk must have."""
        return tuple(name for name in cls._fields if name not in cls._field_defaults)


@dataclass(frozen=True)
class DrugInfo:
    """A drug under its own name; ``pk`` is None where no clinical dose is simulated."""

    name: str
    drug_class: str
    code_names: tuple[str, ...]
    note: str
    pk: Pk | None
