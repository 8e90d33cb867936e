"""The experiment as frozen pydantic models, each stage of a run with a section of its own; no jax.

`vtrial.experiment` reads a file into them.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from vtrial.fields import Count, Duration, Scalar, Section, Seed, Share, Text, Texts, listed
from vtrial.model_format import CurveShape
from vtrial.regimen import Dosing
from vtrial.yamlfile import fault, nearest

#: how a table may be laid out; `vtrial.readers` says what each is
Layout = Literal["long", "wide", "pdxe", "invivosyn", "chi"]
DEFAULT_TRIAL_SIZE = 50
MAX_VISITS = 400


class DataConfig(Section):
    """The table of tumour volumes and how to read it."""

    path: Text = Field(description="path of the table, relative to the experiment file")
    source: Text = Field(description="text that says where the table comes from")
    synthetic: bool = Field(default=False, description="true where the table holds no real measurement")
    if_missing: Text | None = Field(default=None, description="line that says where to get the table")
    layout: Layout = Field(
        default="long", description="long: a row a measurement; wide: a row a mouse; or a known file"
    )
    sheet: Text | None = Field(
        default=None, description="sheet of an xlsx file; null for that of the layout or the first"
    )
    day_columns: Text | None = Field(
        default=None, description="how a wide table names its days, such as 'TV_{day}'; null for 0, D3 or day 7"
    )
    columns: dict[Text, Text] = Field(default={}, description="canonical column name: name in the table")
    constants: dict[Text, Scalar] = Field(
        default={}, description="canonical column that the table lacks: its one value"
    )
    control: Texts = Field(default=("untreated",), min_length=1, description="names of the arms without drug")
    separator: Text = Field(default=" + ", description="text between the drugs in the name of an arm")
    aliases: dict[Text, Text] = Field(
        default={},
        description="other name: the drug name that the table uses; or an arm of the table: its drugs, A + B",
    )
    dose_columns: dict[Text, Text] = Field(
        default={},
        description="drug: column of its dose; a dose may as well stand behind the drug in the arm, A 25 mg/kg",
    )
    dose_unit: Text = Field(default="mg/kg", description="unit of the columns of doses")
    first_dose_day: float | None = Field(
        default=None, ge=0, description="day of the table on which treatment started; null for 0"
    )
    detection_limit_mm3: float = Field(
        default=10.0, gt=0, description="volumes at or below are left-censored here, mm3"
    )
    tumour_types: Texts | None = Field(default=None, min_length=1, description="tumour types to keep; null for all")
    arms: Texts | None = Field(default=None, min_length=1, description="arms to keep beside the control; null for all")
    single_agents_only: bool = Field(default=False, description="true leaves the combinations out")


class Gates(Section):
    """What a fit must reach to pass."""

    rhat: float = Field(default=1.01, gt=1, description="largest R-hat of population parameters")
    ess_bulk: float = Field(default=400.0, ge=0, description="smallest bulk effective sample size")
    ess_tail: float = Field(default=400.0, ge=0, description="smallest tail effective sample size")
    rhat_pdx_model: float = Field(
        default=1.05, gt=1, description="largest R-hat of PDX models, scales of arms, losses of drugs"
    )
    divergences: Share = Field(default=0.001, description="largest share of divergent draws")
    max_tree_depth_share: Share = Field(default=0.05, description="largest share of draws at the greatest tree depth")


class FitConfig(Section):
    """The model and its sampler."""

    growth: Literal["exponential", "gompertz"] = Field(default="exponential", description="law of growth of the mice")
    deceleration: float = Field(
        default=0.01, gt=0, le=1, description="of gompertz growth: rate lost per ln volume gained, 1/day"
    )
    loss_rate: float = Field(
        default=0.02, gt=0, le=1, description="rate at which effect or growth changes with time, 1/day"
    )
    residual_days: float = Field(
        default=30.0, ge=0, le=1000, description="days over which residuals of ln volume forget; 0 for independent ones"
    )
    residual_white: float = Field(
        default=0.04, gt=0, le=1, description="share of the residual variance that is reading error"
    )
    dose_response: Literal["none", "emax", "log_linear"] = Field(
        default="none",
        description="law of effect against dose of drugs at several doses; none: a dose is a drug of its own",
    )
    responders: Literal["none", "common"] = Field(
        default="none",
        description="common: every drug does more in a hidden share of PDX models, by one shift; none: no such share",
    )
    reference_doses: dict[Text, Annotated[float, Field(gt=0)]] = Field(
        default={},
        description="drug: dose whose effect is that of the drug, in the table's unit; its largest where left out",
    )
    drug_classes: dict[Text, Text] = Field(default={}, description="drug: class, beyond the shipped list")
    covariates: Texts = Field(
        default=(), description="columns of the table, a number for every PDX model, that shift the effects of classes"
    )
    evidence: Texts = Field(default=(), description="CSV tables of published summary results, relative paths")
    sampler: Literal["nuts", "variational"] = Field(
        default="nuts",
        description="variational: a first look, by the normal approximation that starts NUTS; spreads are too small",
    )
    seed: Seed = Field(default=1, description="seed of the fit")
    chains: int = Field(default=4, ge=1, le=256, description="number of chains")
    warmup: Count = Field(default=500, description="warm-up draws per chain")
    draws: int = Field(default=500, ge=4, le=10_000_000, description="kept draws per chain; R-hat needs 4")
    thin: Count = Field(default=1, description="iterations per kept draw")
    block: Count = Field(default=100, description="iterations per block: progress and checkpoints")
    svi_steps: Count = Field(default=2000, description="steps of the variational fit that starts the chains")
    target_accept: float = Field(default=0.8, gt=0, lt=1, description="target acceptance of NUTS")
    max_tree_depth: int = Field(default=8, ge=1, le=20, description="greatest tree depth of NUTS")
    mouse_level: bool = Field(default=False, description="true keeps the draws of every mouse in posterior.nc too")
    gates: Gates = Field(default=Gates(), description="convergence gates")

    @property
    def curve_shape(self) -> CurveShape:
        """The constants of a curve."""
        slow = 0.0 if self.growth == "exponential" else self.deceleration
        return CurveShape(self.loss_rate, self.residual_days, self.residual_white, self.growth, slow)


class MiceConfig(Section):
    """Posterior predictive response of mice."""

    replicates: Count = Field(default=400, description="posterior draws used")
    min_models: Count = Field(default=25, description="arms with fewer PDX models are left out")
    leaving_odds_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="sensitivity: odds that a mouse leaves after a measurement, over those of the table; 0: it stays",
    )
    tgi_day: Annotated[int, Field(ge=1, le=365)] = Field(default=21, description="day of tgi.csv after treatment start")
    seed: Seed = Field(default=2, description="seed of the replicated mice")


class Visits(Section):
    """Days of tumour assessment."""

    every_days: Count = Field(default=56, description="days between visits")
    until_days: Count = Field(default=672, description="day of the last possible visit")
    then_every_days: Count | None = Field(default=None, description="days between later visits")
    then_after_days: Count | None = Field(default=None, description="day from which the later spacing holds")

    @model_validator(mode="after")
    def _consistent(self) -> Visits:
        if self.every_days > self.until_days:
            raise fault("must not be above until_days: there would be no visit", "every_days")
        if (self.then_every_days is None) != (self.then_after_days is None):
            raise fault("then_every_days and then_after_days must be given together")
        if self.then_after_days is not None and not self.every_days <= self.then_after_days < self.until_days:
            raise fault("must be at or above every_days and below until_days", "then_after_days")
        if self.until_days / min(self.every_days, self.then_every_days or self.every_days) > MAX_VISITS:
            raise fault(f"visits must be at most {MAX_VISITS}; raise every_days or lower until_days", "until_days")
        return self

    def days(self) -> tuple[int, ...]:
        """Days of the visits after baseline, in order: the first spacing up to its end, then the second."""
        if self.then_every_days is None or self.then_after_days is None:
            return tuple(range(self.every_days, self.until_days + 1, self.every_days))
        first = tuple(range(self.every_days, self.then_after_days + 1, self.every_days))
        return first + tuple(range(first[-1] + self.then_every_days, self.until_days + 1, self.then_every_days))


class Observed(Section):
    """Published counts, shown beside the prediction and never read by the simulation."""

    subgroup: Text = Field(default="all", description="a subgroup of the cohort, or all")
    responders: int = Field(ge=0, description="number of responders")
    patients: Count = Field(description="number of patients")
    source: Text = Field(description="text that says where the counts come from")

    @model_validator(mode="after")
    def _consistent(self) -> Observed:
        if self.responders > self.patients:
            raise fault(f"must not be above patients ({self.patients})", "responders")
        return self


class Arm(Section):
    """One treatment arm of a virtual trial."""

    name: Text = Field(description="name of the arm in every output")
    drugs: dict[Text, Dosing] = Field(min_length=1, description="drug: dose and schedule")
    observed: Annotated[tuple[Observed, ...], listed] = Field(default=(), description="published counts")
    num_patients: Count | None = Field(default=None, description="size of the predictive trial; null for that observed")
    discontinuation: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="hazard of leaving other than by progression, over that of the priors (discontinuation_hazard)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Arm:
        for index, one in enumerate(self.observed):
            if one.subgroup in [earlier.subgroup for earlier in self.observed[:index]]:
                raise fault("must be named once among the observed counts of an arm", "observed", index, "subgroup")
        return self

    def trial_size(self, subgroup: str = "all", share: float = 1.0) -> int:
        """Size of the predictive trial: as stated, else that of the observed counts, else 50.

        A subgroup has the patients that were observed in it, else its `share` of the whole trial.
        """
        seen = {one.subgroup: one.patients for one in self.observed}
        if subgroup != "all" and subgroup in seen:
            return seen[subgroup]
        whole = self.num_patients or seen.get("all", DEFAULT_TRIAL_SIZE)
        return whole if subgroup == "all" else max(1, round(whole * share))


class Subgroup(Section):
    """Part of a cohort that shares covariates."""

    prevalence: float = Field(gt=0, le=1, description="share of the cohort")
    covariates: dict[Text, float] = Field(default={}, description="covariate: value")


class Cohort(Section):
    """Patients of one tumour type and the arms they are given."""

    tumour_type: Text = Field(description="tumour type, as the table or the evidence spells it")
    label: Text | None = Field(default=None, description="longer name for outputs")
    subgroups: dict[Text, Subgroup] = Field(default={}, description="subgroup: prevalence and covariates")
    arms: Annotated[tuple[Arm, ...], listed] = Field(min_length=1, description="list of arms")

    @model_validator(mode="after")
    def _consistent(self) -> Cohort:
        if "all" in self.subgroups:
            raise fault("is the name of the whole cohort; choose another", "subgroups", "all")
        total = math.fsum(one.prevalence for one in self.subgroups.values())
        if self.subgroups and abs(total - 1.0) > 1e-6:
            raise fault(f"prevalences must sum to 1, found {total:.6g}", "subgroups")
        known = ["all", *self.subgroups]
        for index, arm in enumerate(self.arms):
            for place, one in enumerate(arm.observed):
                if one.subgroup not in known:
                    at = ("arms", index, "observed", place, "subgroup")
                    raise fault(f"must be one of {', '.join(known)}", *at, names=known)
        return self


class Protocol(Section):
    """What a protocol may say otherwise than RECIST does; null for RECIST's own."""

    confirm_days: int | None = Field(default=None, ge=0, le=365, description="days to the confirming scan; 28")
    min_sd_days: int | None = Field(default=None, ge=0, le=3650, description="day from which stable disease counts; 42")
    max_nonevaluable_between: int | None = Field(
        default=None, ge=0, le=31, description="missed scans allowed between a response and its confirmation; 1"
    )
    max_stable_between: int | None = Field(
        default=None, ge=0, le=31, description="stable scans allowed between a PR and its confirmation; 0"
    )
    reappearance_is_progression: bool | None = Field(
        default=None, description="true: a PR after a CR is progression; false: the CR was a PR"
    )
    max_unassessed_days: int | None = Field(
        default=None, ge=1, le=3650, description="progression seen longer after the last scan is censored; none"
    )


class CutOff(Section):
    """Patients who enter one after the other, and a day on which the data are cut off."""

    accrual: Duration = Field(ge=0, description="time over which patients enter evenly, such as 365 d")
    after: Duration = Field(gt=0, description="cut-off, counted from the first patient's start, such as 540 d")

    @model_validator(mode="after")
    def _consistent(self) -> CutOff:
        for key in ("accrual", "after"):
            if getattr(self, key) % 1.0:
                raise fault("must be whole days, such as 540 d", key)
        if self.after < self.accrual:
            raise fault("must not be before the last patient has entered (accrual)", "after")
        return self


class TrialConfig(Section):
    """The virtual trial."""

    seed: Seed = Field(default=3, description="seed of the virtual patients")
    draws: Count = Field(default=1000, description="posterior draws used")
    patients: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=2000, description="patients per draw and arm"
    )
    numbers: Literal["independent", "sobol"] = Field(
        default="independent", description="random numbers of the patients; sobol: the same rates with a smaller error"
    )
    confirmation: bool = Field(default=True, description="true where a response must be confirmed")
    blinded_reader: bool = Field(default=False, description="true where a second, blinded reader reads every scan too")
    engraftment_bias: float = Field(
        default=0.0,
        ge=-10,
        le=10,
        description="sensitivity: rise of ln P(a tumour engrafts) with ln growth, which patients are weighted against",
    )
    recist: Annotated[Literal["1.0", "1.1"], BeforeValidator(lambda v: str(v) if isinstance(v, float) else v)] = Field(
        default="1.1", description="version of RECIST"
    )
    protocol: Protocol = Field(default=Protocol(), description="what the protocol changes of RECIST")
    visits: Visits = Field(default=Visits(), description="days of tumour assessment")
    cut_off: CutOff | None = Field(default=None, description="null: everybody is followed to the last visit")
    cohorts: Annotated[tuple[Cohort, ...], listed] = Field(default=(), description="list of cohorts")

    @model_validator(mode="after")
    def _consistent(self) -> TrialConfig:
        seen: set[tuple[str, str]] = set()
        for index, cohort in enumerate(self.cohorts):
            for place, arm in enumerate(cohort.arms):
                if (cohort.tumour_type, arm.name) in seen:
                    at = ("cohorts", index, "arms", place, "name")
                    raise fault("must be given to one arm only of a tumour type", *at)
                seen.add((cohort.tumour_type, arm.name))
        return self


class ReportConfig(Section):
    """The page."""

    title: Text | None = Field(default=None, description="title of the page; null for that of the experiment")
    patients_shown: int = Field(default=60, ge=1, le=5000, description="virtual patients in the figures")


class Experiment(Section):
    """A whole experiment file; ``file`` is where it was read, ``is_quick`` whether the quick settings are in it."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="1 to 64 of a-z, 0-9, _ and -, the first a letter or digit; it names the run folder",
    )
    title: Text | None = Field(default=None, description="title in words")
    priors: Texts = Field(default=(), description="prior files or folders laid over the shipped ones, relative paths")
    data: DataConfig = Field(description="section that names the table")
    fit: FitConfig = Field(default=FitConfig(), description="section of the fit")
    mice: MiceConfig = Field(default=MiceConfig(), description="section of the replicated mice")
    trial: TrialConfig = Field(default=TrialConfig(), description="section of the virtual trial")
    report: ReportConfig = Field(default=ReportConfig(), description="section of the report")
    quick: dict[str, Any] = Field(default={}, description="settings that --quick lays over the others")

    _file: Path = PrivateAttr(Path("experiment.yaml"))
    _is_quick: bool = PrivateAttr(False)

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        allowed = ("data", "fit", "mice", "trial", "report")
        for section in self.quick:
            if section not in allowed:
                raise fault(f"quick may hold {', '.join(allowed)}{nearest(section, allowed)}", "quick", section)
        return self

    @property
    def file(self) -> Path:
        """The experiment file, as an absolute path."""
        return self._file

    @property
    def is_quick(self) -> bool:
        """Whether the quick settings were laid over the file."""
        return self._is_quick

    def path_of(self, written: str) -> Path:
        """Turn a path written in the experiment, relative to its file, into an absolute one."""
        return Path(os.path.normpath(self._file.parent / written))

    def data_path(self) -> Path:
        """Path of the table."""
        return self.path_of(self.data.path)

    def evidence_paths(self) -> tuple[Path, ...]:
        """Paths of the tables of published results."""
        return tuple(map(self.path_of, self.fit.evidence))

    def prior_paths(self) -> tuple[Path, ...]:
        """Paths of the extra priors."""
        return tuple(map(self.path_of, self.priors))
