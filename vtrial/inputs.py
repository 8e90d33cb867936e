"""Everything that a run reads - experiment, priors, table, evidence - checked before anything is computed; no JAX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from vtrial.config import Cohort, Experiment
from vtrial.dataset import Dataset, read_dataset
from vtrial.disk import file_sha256
from vtrial.dose_response import DoseResponse
from vtrial.doses import written_dose
from vtrial.dosing import calendar, describe, relative_dose_rate
from vtrial.errors import InputError
from vtrial.evidence import read_evidence
from vtrial.experiment import fit_key, run_key
from vtrial.model_format import DOSE_PRIORS, FIT_FORMAT, PRIORS, RESPONDER_PRIORS
from vtrial.priors import Priors, load_priors
from vtrial.progress import LOG
from vtrial.store import default_run_dir
from vtrial.table import fold, listed, nearest

#: raised whenever the numbers of the mice or trial stage change; part of the run key
RUN_FORMAT = 10
#: planned dose per day over that of the reference, either way, from which on `check` asks whether it is meant. A slip
#: of a prefix (g, mg, ug) is 1,000-fold, so this finds it for every dose between 1/50 and 50 times the reference; the
#: 138 dosings of the shipped trials and experiments lie between 1/4 and 2.5 times theirs.
UNUSUAL_DOSE = 20.0
#: what else to do about a drug of the table that no prior knows
UNKNOWN = (
    " or, where no arm of the trial gives it, `fit: {{drug_classes: {{{shown!r}: CLASS}}}}` into the experiment; if it "
    "is a known drug under a name of your table, say which in data.aliases ({shown}: NAME), as of a combination its "
    "drugs ({shown}: A + B)"
)
DATA_SETTINGS = (
    "layout",
    "sheet",
    "day_columns",
    "columns",
    "constants",
    "control",
    "separator",
    "aliases",
    "first_dose_day",
    "detection_limit_mm3",
    "tumour_types",
    "arms",
    "single_agents_only",
    "if_missing",
    "dose_columns",
    "dose_unit",
)


class Inputs(NamedTuple):
    """Everything that a run reads, checked."""

    experiment: Experiment
    priors: Priors
    dataset: Dataset
    evidence: pd.DataFrame
    drug_class: Mapping[str, str]
    fit_key: str
    run_key: str


def read_inputs(experiment: Experiment, known: dict[str, Any] | None = None) -> Inputs:
    """Read and check priors, table and evidence of an experiment; imports no JAX.

    Priors and tables that were read for another experiment of the same command are taken from `known`, and kept there.

    Raises
    ------
    InputError
        The first fault, with its file.
    """
    known = {} if known is None else known
    data: dict[str, Any] = experiment.data.model_dump(include=set(DATA_SETTINGS))
    data |= {"doses": experiment.fit.dose_response != "none", "covariates": experiment.fit.covariates}
    of_priors, of_table = f"priors {experiment.prior_paths()}", f"table {experiment.data_path()} {data}"
    if of_priors not in known:
        known[of_priors] = load_priors(experiment.prior_paths())
    if of_table not in known:
        known[of_table] = read_dataset(experiment.data_path(), **data)
    priors: Priors = known[of_priors]
    dataset: Dataset = known[of_table]
    tables = [read_evidence(path) for path in experiment.evidence_paths()]
    evidence = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["drug", "tumour_type"])
    drug_class: dict[str, str] = {}
    known_classes = priors.drug_classes()
    dose_response(experiment, dataset)
    for drug in sorted({*dataset.substances, *evidence["drug"]}):
        key = f"fit.drug_classes.{drug}"
        given = experiment.fit.drug_classes.get(drug)
        if given is None and (dose := written_dose(drug)):
            given = experiment.fit.drug_classes.get(dose.drug)  # a dose is a drug of its own here, of the drug's class
        if given is None:
            names = [name for name, of in experiment.data.aliases.items() if fold(of) == fold(drug)]
            known_as = next((name for name in names if fold(name) in map(fold, known_classes)), drug)
            more = UNKNOWN.format(shown=drug)
            drug_class[drug] = _named(experiment, key, priors.drug_class, known_as, more)
            continue
        drug_class[drug] = given
        shipped = next((c for name, c in known_classes.items() if name.casefold() == drug.casefold()), given)
        if shipped != given:
            # the trial reads the class from the priors: one drug must not have two
            message = f"is {given!r} here but {shipped!r} in the priors; change the class of a drug in a priors file"
            raise InputError(message, file=experiment.file, key=key)
    for i, cohort in enumerate(experiment.trial.cohorts):
        _check_cohort(experiment, i, cohort, priors)
    entries = covariate_priors(experiment, priors, sorted(set(drug_class.values()))).values()
    config = experiment.fit
    names = (*PRIORS, *DOSE_PRIORS[config.dose_response], *RESPONDER_PRIORS[config.responders], *entries)
    used = hashlib.sha256(json.dumps([priors.content(names), drug_class], sort_keys=True).encode()).hexdigest()
    key = fit_key(experiment, dataset.sha256, [file_sha256(p) for p in experiment.evidence_paths()], used, FIT_FORMAT)
    return Inputs(
        experiment, priors, dataset, evidence, drug_class, key, run_key(experiment, key, priors.sha256, RUN_FORMAT)
    )


def covariate_priors(experiment: Experiment, priors: Priors, classes: Sequence[str]) -> dict[str, str]:
    """``NAME.CLASS`` of every covariate of the fit and class -> name of the entry that is its prior.

    Raises
    ------
    InputError
        A prior that is not normal.
    """
    found = {}
    for name in experiment.fit.covariates:
        for drug_class in classes:
            entry = priors.covariate(name, drug_class)
            if entry.family != "normal":
                message = f"must be normal to be the prior of a fit with fit.covariates, and is {entry.family}"
                raise InputError(message, file=experiment.file, key=entry.name)
            found[f"{name}.{drug_class}"] = entry.name
    return found


def dose_response(experiment: Experiment, dataset: Dataset) -> DoseResponse | None:
    """The law of effect against dose, and the reference doses of the drugs that have others too; None without a law.

    Raises
    ------
    InputError
        A reference dose of a drug without doses, or a table that has no drug at two doses.
    """
    config = experiment.fit
    if config.dose_response == "none":
        return None
    amounts: dict[str, list[float]] = {}
    for dose in dataset.doses.values():
        amounts.setdefault(dose.drug, []).append(dose.amount)
    for drug in config.reference_doses:
        if drug not in amounts:
            message = (
                f"no dose of {drug!r} is in the table.{nearest(drug, list(amounts))} Doses: {listed(dataset.doses)}"
            )
            raise InputError(message, file=experiment.file, key=f"fit.reference_doses.{drug}")
    reference = {drug: config.reference_doses.get(drug, max(own)) for drug, own in amounts.items()}
    several = {drug: at for drug, at in reference.items() if any(amount != at for amount in amounts[drug])}
    if not several:
        found = f"only {listed(dataset.doses)}" if dataset.doses else "none, such as 'A 25 mg/kg' in the column of arms"
        message = f"needs a drug at two doses; the table has {found}. A column of doses goes into data.dose_columns"
        raise InputError(message, file=experiment.file, key="fit.dose_response")
    return DoseResponse(config.dose_response, several)


def _named(experiment: Experiment, key: str, look_up: Callable[[str], Any], name: str, more: str = "") -> Any:
    """Look a name up in the priors; a fault is one of the experiment file, at `key`; `more` says what else to do."""
    try:
        return look_up(name)
    except InputError as error:
        raise InputError(error.message + more, file=experiment.file, key=key) from None


def _check_cohort(experiment: Experiment, index: int, cohort: Cohort, priors: Priors) -> None:
    for j, arm in enumerate(cohort.arms):
        for drug, dosing in arm.drugs.items():
            key = f"trial.cohorts.{index}.arms.{j}.drugs.{drug}"
            info = _named(experiment, key, priors.drug, drug)
            if dosing.infusion is not None and (info.pk is None or info.pk.route != "intravenous"):
                why = (
                    f"{info.name} is taken by mouth"
                    if info.pk
                    else f"{info.name} has no pharmacokinetics in the priors"
                )
                what = (
                    f"{why}: leave infusion out, or say drugs.{info.name}.pk with route: intravenous in a priors file"
                )
                raise InputError(what, file=experiment.file, key=f"{key}.infusion")
            if info.pk is None:  # said by `check`; its effect is then constant on treated days
                continue
            try:
                relative_dose_rate(dosing.to_dosing(), info.pk.reference.to_dosing())
            except ValueError as error:
                raise InputError(str(error), file=experiment.file, key=key) from None
    for name in sorted({c for group in cohort.subgroups.values() for c in group.covariates}):
        if name not in experiment.fit.covariates and not priors.names(f"covariates.{name}"):
            raise InputError(
                f"there is no prior for covariate {name!r}; add covariates.{name} to a priors file",
                file=experiment.file,
                key=f"trial.cohorts.{index}.subgroups",
            )


def unusual_doses(inputs: Inputs) -> list[str]:
    """A sentence for every dosing of the trial that is `UNUSUAL_DOSE` times its drug's reference, or a part of that."""
    found: dict[tuple[str, str], list[str]] = {}
    for i, cohort in enumerate(inputs.experiment.trial.cohorts):
        for j, arm in enumerate(cohort.arms):
            for drug, dosing in arm.drugs.items():
                info = inputs.priors.drug(drug)
                if info.pk is None:
                    continue
                given, reference = dosing.to_dosing(), info.pk.reference.to_dosing()
                ratio = relative_dose_rate(given, reference)
                if 1.0 / UNUSUAL_DOSE < ratio < UNUSUAL_DOSE:
                    continue
                times = f"{ratio:,.0f} times" if ratio >= 1.0 else f"1/{1.0 / ratio:,.0f} of"
                what = f"{describe(given)} is {times} the dose per day of the reference of {info.name}"
                said = f"{what} ({describe(reference)}): are amount, unit and schedule meant so?"
                found.setdefault((drug, said), []).append(f"trial.cohorts.{i}.arms.{j}.drugs.{drug}.dose")
    more = (f" (and in {len(keys) - 1} more)" if len(keys) > 1 else "" for keys in found.values())
    return [f"{keys[0]}{also}: {said}" for also, ((_, said), keys) in zip(more, found.items(), strict=True)]


def warn(inputs: Inputs) -> None:
    """Log what is allowed and probably meant otherwise."""
    for line in unusual_doses(inputs):
        LOG.warning("warning: %s", line)


def check(experiment: Experiment) -> str:
    """Say what would run: what was read, what is kept out and why, arms and doses; touches no device."""
    inputs = read_inputs(experiment)
    dataset, used = inputs.dataset, inputs.dataset.used
    lines = [
        f"{experiment.name}: {experiment.title or 'no title'}",
        f"table     {dataset.path}",
        f"          {len(used):,} measurements of {used['mouse_key'].nunique():,} mice, "
        f"{used['pdx_model'].nunique()} PDX models, {used['tumour_type'].nunique()} tumour types, "
        f"{len(dataset.substances)} drugs, {len(dataset.arms)} arms"
        + (" (SYNTHETIC: no real measurement)" if experiment.data.synthetic else ""),
        *(f"          {note}" for note in dataset.notes),
    ]
    if len(inputs.evidence):
        lines.append(
            f"evidence  {len(inputs.evidence)} published results on {', '.join(sorted(set(inputs.evidence['drug'])))}"
        )
    config = experiment.fit
    lines.append(
        f"fit       {config.growth} growth, {config.chains} chains of {config.warmup} + {config.draws} draws, "
        f"key {inputs.fit_key}"
    )
    shown: list[list[str]] = []
    for cohort in experiment.trial.cohorts:
        lines.append(
            f"trial     {cohort.label or cohort.tumour_type}: {experiment.trial.draws:,} draws x "
            f"{experiment.trial.patients:,} patients per arm"
        )
        for arm in cohort.arms:
            lines.append(f"          {arm.name}")
            for drug, dosing in arm.drugs.items():
                table = calendar(dosing.to_dosing()).splitlines()
                # one calendar says a regimen that several arms share
                seen = table if table not in shown else [table[0]]
                shown.append(table)
                lines += [f"            {drug} {seen[0]}", *(f"              {line}" for line in seen[1:])]
                if (info := inputs.priors.drug(drug)).pk is None:
                    lines.append(
                        f"            {info.name} has no pharmacokinetics in the priors: its effect is constant on "
                        f"treated days, human over mouse uncertain (drugs.{info.name}.pk would say more)"
                    )
    lines += [f"note      {line}" for line in _without_mice_of_type(inputs)]
    if unseen := _without_mice(inputs):
        lines.append(f"note      no mice under {', '.join(unseen)}: predicted from the class")
        if unused := _drugs_of_no_arm(inputs):
            lines.append(
                f"note      drugs of the table that no arm gives: {', '.join(unused)}; if one is a drug of "
                "the trial under another name, say so in data.aliases"
            )
    lines.append(f"run       key {inputs.run_key}, folder {default_run_dir('runs', experiment.name, inputs.run_key)}")
    lines += [f"warning   {line}" for line in unusual_doses(inputs)]
    return "\n".join(lines)


def _without_mice(inputs: Inputs) -> list[str]:
    """Drugs of the trial without mice or evidence under any of their names, with their classes."""
    priors, aliases = inputs.priors, inputs.experiment.data.aliases
    given = {drug for cohort in inputs.experiment.trial.cohorts for arm in cohort.arms for drug in arm.drugs}
    seen, found = {fold(drug) for drug in (*inputs.dataset.substances, *inputs.evidence["drug"])}, []
    for drug in sorted(given):
        info = priors.drug(drug)
        if not seen & {fold(name) for name in (drug, aliases.get(drug, drug), info.name, *info.code_names)}:
            found.append(f"{drug} ({info.drug_class})")
    return found


def _drugs_of_no_arm(inputs: Inputs) -> list[str]:
    """Drugs of the table, in its spelling, that no arm of the trial gives under any of their names."""
    aliases, trial = inputs.experiment.data.aliases, inputs.experiment.trial
    names: set[str] = set()
    for drug in {drug for cohort in trial.cohorts for arm in cohort.arms for drug in arm.drugs}:
        info = inputs.priors.drug(drug)
        names |= {fold(name) for name in (drug, aliases.get(drug, drug), info.name, *info.code_names)}
    return [drug for drug in inputs.dataset.substances if fold(drug) not in names]


def _without_mice_of_type(inputs: Inputs) -> list[str]:
    """A line for every cohort whose tumour type the table does not have."""
    held = sorted(inputs.dataset.used["tumour_type"].unique())
    missing = sorted({cohort.tumour_type for cohort in inputs.experiment.trial.cohorts} - set(held))
    return [
        f"no mice of {name} (the table has {listed(held, 6)}): growth and effects of its patients come from priors and "
        f"from the other types.{nearest(name, held)}"
        for name in missing
    ]


def marks(experiment: Experiment, manifest: Mapping[str, Any]) -> list[str]:
    """What every output must say first."""
    marks = []
    if not manifest.get("fit", {}).get("passed", True):
        marks.append("FIT DID NOT PASS ITS GATES")
    if experiment.fit.sampler == "variational":
        marks.append("first look: a normal approximation, its spreads too small")
    if experiment.is_quick:
        marks.append("quick")
    if experiment.data.synthetic:
        marks.append("synthetic data")
    if (ratio := experiment.mice.leaving_odds_ratio) != 1.0:
        marks.append(f"sensitivity: mice leave their study with {ratio:g} times the odds of the table")
    if bias := experiment.trial.engraftment_bias:
        marks.append(f"sensitivity: weighted against engraftment bias {bias:g}")
    if cut_off := experiment.trial.cut_off:
        marks.append(f"as known at a cut-off {cut_off.after:g} d after the first patient")
    return marks
