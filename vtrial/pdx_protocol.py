"""The protocol of a simulated PDX study, a YAML file of its own -> frozen pydantic models; no jax."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from vtrial.arms import parts_of
from vtrial.config import Count, Section, Seed, Share, Text, Texts
from vtrial.yamlfile import fault, nearest, read_yaml, validated

Fraction = Annotated[float, Field(gt=0, lt=1)]
Above = Annotated[float, Field(gt=0)]
_listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Zero = Annotated[float, Field(ge=0)]


class Implant(Section):
    """From a patient's tumour to mice with a tumour."""

    tumours: Count = Field(default=24, description="patients' tumours that are implanted")
    first_mice: Count = Field(default=5, description="mice that get a fragment of a patient's tumour")
    first_take: Fraction = Field(default=0.35, description="share of these in which an average tumour takes")
    take_log_odds_sd: Zero = Field(default=1.0, description="SD between tumours of the log odds of taking")
    take: Fraction = Field(default=0.9, description="share of mice in which an established model takes")
    mice: Count = Field(default=30, description="mice of each model implanted for the study")
    passage: Annotated[tuple[int, int], _listed] = Field(
        default=(3, 5), description="first and last passage that a study is made at"
    )
    growth_per_passage: float = Field(default=0.03, description="change of ln growth from one passage to the next")
    host_strain: Text = Field(default="NSG", description="strain of the mice")
    site: Text = Field(default="subcutaneous flank", description="where the tumour is implanted")
    start_volume_mm3: Above = Field(default=30.0, description="median volume of an implant, mm3")
    start_log_sd: Zero = Field(default=0.3, description="log-SD of that volume between mice")


class Growth(Section):
    """Untreated tumours at the passage of the study; the symbols of docs/model.md."""

    median_per_day: Above = Field(default=0.055, description="growth of the median model at passage 4, 1/day")
    between_models: Zero = Field(default=0.4, description="log-SD of growth between models")
    between_mice: Zero = Field(default=0.2, description="SD of a mouse's rate, as a share of its model's growth")
    loss: float = Field(default=0.4, description="share of an effect that is lost in the end")
    slowing: float = Field(default=0.1, description="share of growth that is gone late")
    loss_rate: Above = Field(default=0.02, description="rate of both, 1/day; that of the fit")


class Drug(Section):
    """What a drug does to the tumours, as fraction of growth removed, and to the mice."""

    effect: float = Field(description="mean effect over models: 1 is stasis")
    spread: Zero = Field(default=0.3, description="SD of the effect over models")
    pfak: Above = Field(default=1.0, description="pFAK under the drug, as a share of that of the control")
    metastasis: Zero = Field(default=1.0, description="metastasis under the drug, as a share of that of the control")
    weight_loss: Share = Field(default=0.0, description="mean loss of body weight under the drug, as a share")


class Combination(Section):
    """The rule of docs/model.md for all combinations of the study."""

    phi: float = Field(default=0.5, description="share of the weaker effect that is added")
    gamma: float = Field(default=0.0, description="what every pair adds")
    spread: Zero = Field(default=0.15, description="SD over models of the departure from the rule")


class Study(Section):
    """Randomisation, measurement, stopping, and what is read at the end."""

    arms: Annotated[Texts, Field(min_length=1)] = Field(description="arms beside the control, drugs joined by ' + '")
    mice_per_arm: Count = Field(default=3, description="mice of each model in each arm")
    randomise_mm3: Annotated[tuple[float, float], _listed] = Field(
        default=(150.0, 250.0), description="volumes at randomisation, mm3"
    )
    wait_days: Count = Field(default=120, description="days after implantation to reach them")
    measure_days: Annotated[tuple[int, ...], _listed] = Field(
        default=(3, 4), min_length=1, description="days from one measurement to the next, in turn"
    )
    fresh_baseline: bool = Field(
        default=True, description="true: day 0 is measured anew; false: it is the reading that let the mouse in"
    )
    calliper_cv: Zero = Field(default=0.05, description="error of one reading of length or width, as a share")
    calliper_log_sd: Zero = Field(default=0.3, description="log-SD of that error between mice, as operators differ")
    flatness: Above = Field(default=1.2, description="length over width of a tumour")
    end_day: Count = Field(default=42, description="last day of treatment")
    volume_limit_mm3: Above = Field(default=1500.0, description="measured volume at which a mouse is killed, mm3")
    weight_limit: Share = Field(default=0.2, description="loss of body weight at which a mouse is killed, as a share")
    deaths_per_day: Zero = Field(default=0.001, description="hazard of death for other reasons, 1/day")
    pfak_log_sd: Zero = Field(default=0.3, description="log-SD of pFAK between mice of one model and arm")
    metastasis_per_cm3_day: Zero = Field(default=0.01, description="hazard of metastasis per cm3 of tumour and day")

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        low, high = self.randomise_mm3
        if not 0.0 < low < high < self.volume_limit_mm3:
            raise fault("must be two volumes above 0, the first below the second, below the limit", "randomise_mm3")
        if min(self.measure_days) < 1:
            raise fault("must be days of 1 or more", "measure_days")
        return self


class Protocol(Section):
    """A simulated PDX study from implantation to endpoint."""

    seed: Seed = Field(default=1, description="seed of the simulation")
    tumour_type: Text = Field(description="tumour type of all models")
    control: Text = Field(default="vehicle", description="name of the arm without drug")
    implant: Implant = Field(default=Implant(), description="section of the implants")
    growth: Growth = Field(default=Growth(), description="section of untreated growth")
    drugs: dict[Text, Drug] = Field(min_length=1, description="drug: what it does")
    combination: Combination = Field(default=Combination(), description="section of the combination rule")
    study: Study = Field(description="section of the study")

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        first, last = self.implant.passage
        if not 1 <= first <= last:
            raise fault("must be two passages from 1 on, in order", "implant", "passage")
        for index, arm in enumerate(self.study.arms):
            for drug in self.drugs_of(arm):
                if drug not in self.drugs:
                    said = f"names a drug that is not under drugs: {drug!r}{nearest(drug, self.drugs)}"
                    raise fault(said, "study", "arms", index)
        return self

    def drugs_of(self, arm: str) -> tuple[str, ...]:
        """Drugs of an arm, sorted; none of the control."""
        return tuple(sorted(parts_of(arm, " + ", {}, (self.control,))))


def read_protocol(path: str | os.PathLike[str]) -> Protocol:
    """Read a protocol.

    Raises
    ------
    InputError
        The first fault with its file, line and key.
    """
    return validated(Protocol, read_yaml(path))
