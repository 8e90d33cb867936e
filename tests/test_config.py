"""The experiment file: faults with their places, order of settings, keys."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from vtrial import dosing as regimens
from vtrial.config import Experiment, Visits
from vtrial.errors import InputError
from vtrial.experiment import QUICK, fit_key, load_experiment, load_resolved, resolved_yaml, run_key
from vtrial.fields import Dose, parse_dose, parse_duration
from vtrial.regimen import Dosing

FULL = """\
name: lgsoc
title: "low-grade serous: a test"
priors: [more_priors]
data:
  path: data/twin.csv.gz
  source: "synthetic twin"
  synthetic: true
  columns: {volume_mm3: tumour_volume}
  constants: {study: PDXE, passage: 3}
  control: [untreated]
  tumour_types: null
fit:
  loss_rate: 0.03
  evidence: [evidence/fak.csv]
  chains: 3
  gates: {rhat: 1.02, divergences: 1e-3}
trial:
  recist: 1.1
  visits: {every_days: 56, until_days: 672, then_every_days: 84, then_after_days: 504}
  cohorts:
    - tumour_type: LGSOC
      subgroups:
        KRAS-mutant: {prevalence: 0.52, covariates: {kras_mutant: 1}}
        KRAS-wild-type: {prevalence: 0.48, covariates: {kras_mutant: 0}}
      arms:
        - name: both
          drugs:
            avutometinib: {dose: 3.2 mg, days: [1, 4], repeat: 7 d, on: 21 d, cycle: 28 d}
            defactinib: {dose: 0.2 g, times_per_day: 2, repeat: 1 d, on: 3 wk, cycle: 4 weeks}
          observed:
            - {subgroup: all, responders: 34, patients: 109, source: "RAMP 201"}
        - name: avutometinib 3.2 mg
          drugs:
            avutometinib: {dose: 3.2 mg, repeat: 24 h, start: 7 d}
          num_patients: 57
report: {patients_shown: 20}
quick:
  fit: {warmup: 200}
  trial:
    draws: 40
"""

MINIMAL = "name: a\ndata: {path: x.csv, source: here}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiments" / "lgsoc.yaml"
    path.parent.mkdir()
    path.write_text(FULL)
    return path


def test_reads_every_section(file: Path) -> None:
    experiment = load_experiment(file)
    assert experiment.file == file
    assert not experiment.is_quick
    assert experiment.data_path() == file.parent / "data/twin.csv.gz"
    assert experiment.evidence_paths() == (file.parent / "evidence/fak.csv",)
    assert experiment.prior_paths() == (file.parent / "more_priors",)
    assert experiment.data.constants == {"study": "PDXE", "passage": 3}
    assert experiment.fit.chains == 3
    assert experiment.fit.draws == 500
    assert experiment.fit.gates.divergences == 0.001
    assert experiment.trial.recist == "1.1"
    cohort = experiment.trial.cohorts[0]
    both, single = cohort.arms
    first, second = both.drugs.values()
    assert (first.dose, first.days, first.repeat, first.on, first.cycle) == (Dose(3.2, "mg"), (1, 4), 7.0, 21.0, 28.0)
    assert (second.dose, second.times_per_day, second.on, second.cycle) == (Dose(200.0, "mg"), 2, 21.0, 28.0)
    assert (single.drugs["avutometinib"].repeat, single.drugs["avutometinib"].start) == (1.0, 7.0)
    assert (both.trial_size(), both.trial_size("KRAS-mutant", 0.5), single.trial_size()) == (109, 54, 57)
    assert cohort.subgroups["KRAS-mutant"].covariates == {"kras_mutant": 1.0}
    with pytest.raises(ValidationError, match="frozen"):
        experiment.fit.seed = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_name_and_a_table_are_enough(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MINIMAL)
    experiment = load_experiment(tmp_path / "a.yaml", quick=True)
    assert experiment.is_quick
    assert experiment.trial.cohorts == ()
    assert experiment.trial.patients == QUICK["trial"]["patients"]


# what is replaced in FULL, by what, line of the fault, parts of the message
BAD = [
    ("name: lgsoc", "name: ../lgsoc", 1, ["name:", "found '../lgsoc'", "a-z, 0-9"]),
    ("name: lgsoc", "name: LGSOC", 1, ["name:", "found 'LGSOC'", "a-z, 0-9"]),
    ("name: lgsoc", 'name: "lgsoc\\n"', 1, ["name:", "a-z, 0-9"]),
    (
        "name: lgsoc",
        "nam: lgsoc",
        1,
        ["nam:", "unknown key; did you mean 'name'?", "allowed here: name, title", "1 more"],
    ),
    ('title: "low-grade serous: a test"', "title: 3", 2, ["title:", "must be text", "quotes", "found 3"]),
    ("priors: [more_priors]", "priors: more_priors", 3, ["priors:", "must be a list", "found 'more_priors'"]),
    ("  path: data/twin.csv.gz\n", "", 4, ["data.path:", "is missing", "path of the table"]),
    ("path: data/twin.csv.gz", "path: ''", 5, ["data.path:", "at least 1 character", "found ''"]),
    ("synthetic: true", "synthetic: yes", 7, ["data.synthetic:", "must be true or false", "found 'yes'"]),
    ("columns: {vol", "colums: {vol", 8, ["data.colums:", "did you mean 'columns'", "allowed here: path"]),
    ("columns: {volume_mm3: tumour_volume}", "columns: [a]", 8, ["data.columns:", "must be a mapping", "a list of 1"]),
    ("{study: PDXE,", "{study: [PDXE],", 9, ["data.constants.study:", "one text or number", "a list of 1"]),
    ("{study: PDXE,", "{study: null,", 9, ["data.constants.study:", "one text or number", "found nothing"]),
    ("control: [untreated]", "control: []", 10, ["data.control:", "at least 1 item", "a list of 0"]),
    ("tumour_types: null", "detection_limit_mm3: 0", 11, ["data.detection_limit_mm3:", "greater than 0", "found 0"]),
    ("fit:\n  loss_rate", "fit:\n  los_rate", 13, ["fit.los_rate:", "did you mean 'loss_rate'"]),
    ("fit:\n", "fit: fast\nother:\n", 13, ["other:", "unknown key", "1 more"]),
    ("loss_rate: 0.03", "growth: logistic", 13, ["fit.growth:", "'exponential' or 'gompertz'", "found 'logistic'"]),
    ("loss_rate: 0.03", "loss_rate: 0", 13, ["fit.loss_rate:", "greater than 0", "found 0"]),
    ("loss_rate: 0.03", "mouse_level: 1", 13, ["fit.mouse_level:", "must be true or false", "found 1"]),
    ("chains: 3", "chains: 0", 15, ["fit.chains:", "greater than or equal to 1", "found 0"]),
    ("chains: 3", "chains: 2.5", 15, ["fit.chains:", "must be a whole number", "found 2.5"]),
    ("chains: 3", "chains: 'three'", 15, ["fit.chains:", "must be a whole number", "found 'three'"]),
    ("chains: 3", "seed: -1", 15, ["fit.seed:", "greater than or equal to 0", "found -1"]),
    ("chains: 3", "seed: true", 15, ["fit.seed:", "must be a whole number", "found true"]),
    ("chains: 3", "target_accept: 1.0", 15, ["fit.target_accept:", "less than 1", "found 1.0"]),
    ("rhat: 1.02", "rhat: '1e-3'", 16, ["fit.gates.rhat:", "must be a number", "found '1e-3'"]),
    ("rhat: 1.02", "r_hat: 1.02", 16, ["fit.gates.r_hat:", "did you mean 'rhat'"]),
    ("rhat: 1.02", "rhat: " + "x" * 500, 16, ["fit.gates.rhat:", "must be a number", "xxx ... xxx"]),
    ("recist: 1.1", "recist: 1.2", 18, ["trial.recist:", "'1.1'", "found 1.2"]),
    ("recist: 1.1", "patients: 2e3", 18, ["trial.patients:", "whole number", "found 2000.0"]),
    ("every_days: 56, u", "every_days: 700, u", 19, ["trial.visits.every_days:", "until_days", "found 700"]),
    ("until_days: 672", "until_days: 500", 19, ["visits.then_after_days:", "below until_days", "found 504"]),
    (", then_after_days: 504", "", 19, ["trial.visits:", "given together"]),
    ("every_days: 56, until_days: 672", "every_days: 1, until_days: 900", 19, ["until_days:", "at most 400", "900"]),
    ("tumour_type: LGSOC", "tumor_type: LGSOC", 21, ["cohorts.0.tumor_type:", "did you mean 'tumour_type'", "1 more"]),
    ("prevalence: 0.52", "prevalence: 0.5", 22, ["cohorts.0.subgroups:", "must sum to 1", "0.98"]),
    ("prevalence: 0.52", "prevalence: 52 %", 23, ["KRAS-mutant.prevalence:", "must be a number", "'52 %'"]),
    ("KRAS-mutant: {", "all: {", 23, ["subgroups.all:", "whole cohort"]),
    ("name: avutometinib 3.2 mg", "name: both", 32, ["arms.1.name:", "one arm only", "found 'both'"]),
    ("{dose: 3.2 mg, days", "{dose: 3.2 mgs, days", 28, ["avutometinib.dose:", "found '3.2 mgs'", "mg/m2"]),
    ("{dose: 3.2 mg, days", "{dose: 3.2, days", 28, ["avutometinib.dose:", "with its unit", "found 3.2"]),
    ("{dose: 3.2 mg, days", "{dose: -3.2 mg, days", 28, ["avutometinib.dose:", "above 0", "'-3.2 mg'"]),
    ("[1, 4]", "[1, 8]", 28, ["avutometinib.days.1:", "1..7", "found 8"]),
    ("[1, 4]", "[4, 1]", 28, ["avutometinib.days:", "increasing order"]),
    ("[1, 4]", "4", 28, ["avutometinib.days:", "must be a list", "found 4"]),
    ("repeat: 7 d", "repeat: 7", 28, ["avutometinib.repeat:", "with its unit", "'7 d'", "found 7"]),
    ("repeat: 7 d", "repeat: 7 months", 28, ["avutometinib.repeat:", "h, d, day", "found '7 months'"]),
    ("repeat: 7 d", "repeat: 0 d", 28, ["avutometinib.repeat:", "greater than 0", "'0 d'"]),
    ("repeat: 7 d, ", "", 28, ["avutometinib.repeat:", "is missing", "7 d"]),
    ("on: 21 d, cycle: 28 d", "on: 28 d, cycle: 21 d", 28, ["avutometinib.on:", "above cycle", "'28 d'"]),
    ("on: 21 d", "on: 20 d", 28, ["avutometinib.on:", "multiple of repeat", "'20 d'"]),
    (", cycle: 28 d", "", 28, ["avutometinib.on:", "given together"]),
    (
        "times_per_day: 2, repeat: 1 d",
        "times_per_day: 2, repeat: 12 h",
        29,
        ["defactinib.repeat:", "whole days", "times_per_day", "'12 h'"],
    ),
    ("subgroup: all", "subgroup: KRAS-mutan", 31, ["observed.0.subgroup:", "all, KRAS-mutant", "mean 'KRAS-mutant'"]),
    ("responders: 34", "responders: 134", 31, ["observed.0.responders:", "above patients (109)", "found 134"]),
    (', source: "RAMP 201"', "", 31, ["observed.0.source:", "is missing", "counts come from"]),
    ("num_patients: 57", "num_patient: 57", 35, ["arms.1.num_patient:", "did you mean 'num_patients'"]),
    ("num_patients: 57", "discontinuation: -1", 35, ["arms.1.discontinuation:", "or equal to 0", "found -1"]),
    ("num_patients: 57", "discontinuation: 2 x", 35, ["arms.1.discontinuation:", "must be a number", "found '2 x'"]),
    ("report: {patients_shown: 20}", "report:", 36, ["report:", "must be a mapping", "found nothing"]),
    ("warmup: 200", "warmpu: 200", 38, ["fit.warmpu:", "did you mean 'warmup'"]),
    ("  trial:\n    draws", "  trail:\n    draws", 39, ["quick.trail:", "did you mean 'trial'", "may hold data, fit"]),
    ("    draws: 40", "    draws: many", 40, ["trial.draws:", "whole number", "found 'many'"]),
    ("report: {", "name: again\nreport: {", 36, ["name:", "given twice (first on line 1)"]),
]


@pytest.mark.parametrize(("old", "new", "line", "expected"), BAD, ids=[f"{case[1][:40]!r}" for case in BAD])
def test_refuses(file: Path, old: str, new: str, line: int, expected: list[str]) -> None:
    assert old in FULL
    head, tail = FULL.rsplit(old, 1) if old.startswith("name: av") else FULL.split(old, 1)
    file.write_text(head + new + tail)
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert "\n" not in message
    assert len(message) < len(str(file)) + 450
    for part in expected:
        assert part in message
    assert caught.value.__cause__ is None  # no wall of text behind it


BAD_OPTIONS = [
    ("fit.chains", ["--set fit.chains:", "KEY=VALUE"]),
    ("=3", ["KEY=VALUE"]),
    ("fit..chains=3", ["KEY=VALUE"]),
    ("fit.chains=x", ["--set fit.chains=x: fit.chains:", "whole number", "found 'x'"]),
    ("fit.chans=3", ["--set fit.chans=3: fit.chans:", "did you mean 'chains'"]),
    ("name.x=3", ["name:", "no keys below"]),
    ("trial.cohorts.1.label=x", ["trial.cohorts:", "0..0", "found '1'"]),
    ("trial.cohorts.-1.label=x", ["trial.cohorts:", "0..0 or one of 'LGSOC'"]),
    ("trial.cohorts.LGSOX.label=x", ["trial.cohorts:", "found 'LGSOX'; did you mean 'LGSOC'?"]),
    (
        "trial.cohorts.0.arms.avutometinib 3.3 mg.num_patients=3",
        ["trial.cohorts.0.arms:", "one of 'both', 'avutometinib 3.2 mg'", "did you mean 'avutometinib 3.2 mg'?"],
    ),
    ("trial.arms.both.num_patients=3", ["write trial.cohorts.TUMOUR_TYPE.arms.NAME.KEY=VALUE"]),
    ("trial.cohorts.LGSOC.arms.both.num_patients=0", ["trial.cohorts.0.arms.0.num_patients:", "found 0"]),
    ("trial.cohorts.0.arms.1.num_patients=0", ["trial.cohorts.0.arms.1.num_patients:", "found 0"]),
    ("fit.seed=&a 1", ["--set fit.seed=&a 1:", "not allowed"]),
    ("fit.gates={rhat: 3, rhat: 4}", ["given twice"]),
    ("quick.fit.chains=none", ["--set quick.fit.chains=none:", "fit.chains:", "whole number"]),
]


@pytest.mark.parametrize(("option", "expected"), BAD_OPTIONS)
def test_refuses_options(file: Path, option: str, expected: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment(file, [option])
    assert str(caught.value).startswith("--set ")
    for part in expected:
        assert part in str(caught.value)


def test_items_of_a_list_are_set_by_their_names(file: Path) -> None:
    """As `vtrial compare` writes them; a name may hold dots, and a name that two items have is refused."""
    options = [
        "trial.cohorts.LGSOC.arms.avutometinib 3.2 mg.num_patients=30",
        "trial.cohorts.LGSOC.arms.both.observed.all.responders=7",
    ]
    first, second = load_experiment(file, options).trial.cohorts[0].arms
    assert second.num_patients == 30 and first.observed[0].responders == 7
    cohort = FULL[FULL.index("    - tumour_type") : FULL.index("report:")]
    file.write_text(
        FULL.replace("report:", cohort.replace("both", "b").replace("name: avu", "name: x avu") + "report:")
    )
    with pytest.raises(InputError, match=r"trial\.cohorts: has 2 called 'LGSOC': give an index"):
        load_experiment(file, ["trial.cohorts.LGSOC.label=x"])


def test_a_schedule_that_is_set_takes_the_place_of_what_it_stands_for(file: Path, tmp_path: Path) -> None:
    """A run stores repeat, on and cycle in place of a schedule; the other keys of the dosing stay."""
    stored = tmp_path / "stored.yaml"
    stored.write_text(resolved_yaml(load_experiment(file), tmp_path))
    for option, expected in (
        ("schedule=BID", (2, None, 1, None, None)),
        ("schedule='d1,8 q21d'", (1, (1, 8), 21, None, None)),
    ):
        for read in (lambda sets: load_experiment(file, sets), lambda sets: load_resolved(stored, overrides=sets)):
            arm = read([f"trial.cohorts.0.arms.0.drugs.defactinib.{option}"]).trial.cohorts[0].arms[0]
            own = arm.drugs["defactinib"]
            assert (own.times_per_day, own.days, own.repeat, own.on, own.cycle) == expected
            assert own.dose.value == 200.0
    with pytest.raises(InputError, match=r"defactinib\.schedule: does not understand 'BIDD'"):
        load_experiment(file, ["trial.cohorts.0.arms.0.drugs.defactinib.schedule=BIDD"])


def test_many_faults_are_one_short_line(file: Path) -> None:
    def seconds(faults: int) -> float:
        file.write_text(FULL + "".join(f"extra{i}: {'x' * 100}\n" for i in range(faults)))
        start = time.process_time()
        with pytest.raises(InputError, match=rf"extra0: unknown key.*\(and {faults - 1} more\)$"):
            load_experiment(file)
        return time.process_time() - start

    few, many = seconds(1000), seconds(8000)
    assert many < 24 * few, "in proportion would be 8 times, by the square 64"


def test_a_protocol_changes_what_recist_leaves_open(file: Path) -> None:
    from vtrial.response import RECIST_1_0, RECIST_1_1
    from vtrial.simulation import recist_rule

    assert recist_rule(load_experiment(file).trial) == RECIST_1_1
    options = [
        "trial.recist='1.0'",
        "trial.protocol={confirm_days: 35, max_stable_between: 1, max_unassessed_days: 126}",
    ]
    changed = RECIST_1_0._replace(confirm_days=35, max_stable_between=1, max_unassessed_days=126)
    assert recist_rule(load_experiment(file, options).trial) == changed
    # every number that the rule has and RECIST fixes stays where it is
    open_to_protocols = set(load_experiment(file).trial.protocol.model_dump())
    assert set(RECIST_1_1._fields) - open_to_protocols == {
        *("partial", "progression", "minimum_increase_mm", "disappearance_mm")
    }
    with pytest.raises(
        InputError, match=r"trial\.protocol\.confirm_days: must be greater than or equal to 0, found -1"
    ):
        load_experiment(file, ["trial.protocol.confirm_days=-1"])


def test_a_cut_off_before_the_last_patient_entered_is_refused(file: Path) -> None:
    trial = load_experiment(file, ["trial.cut_off={accrual: 52 wk, after: 540 d}"]).trial
    assert trial.cut_off is not None and (trial.cut_off.accrual, trial.cut_off.after) == (364.0, 540.0)
    with pytest.raises(InputError, match=r"trial\.cut_off\.after: must not be before the last patient has entered"):
        load_experiment(file, ["trial.cut_off={accrual: 365 d, after: 300 d}"])
    # a fraction of a day may be stored with an exponent, which no experiment may have
    with pytest.raises(InputError, match=r"trial\.cut_off\.accrual: must be whole days, such as 540 d"):
        load_experiment(file, ["trial.cut_off={accrual: 0.05 min, after: 540 d}"])


def test_order_of_settings(file: Path) -> None:
    """File < built-in quick < the file's quick < --set."""
    full = load_experiment(file, ["trial.seed=9"])
    assert (full.fit.warmup, full.trial.draws, full.trial.seed) == (500, 1000, 9)
    quick = load_experiment(file, quick=True)
    assert (quick.fit.chains, quick.fit.warmup, quick.fit.draws, quick.trial.draws) == (2, 200, 150, 40)
    assert (quick.fit.gates.rhat, quick.fit.loss_rate, quick.mice.replicates) == (1.2, 0.03, 50)
    options = ["fit.warmup=7", "trial.draws=1e1", "trial.cohorts.0.arms.1.num_patients=30", "fit.gates.rhat=1.3"]
    with pytest.raises(InputError, match=r"whole number, found 10\.0"):
        load_experiment(file, options, quick=True)
    options[1] = "quick.trial.draws=11"
    chosen = load_experiment(file, options, quick=True)
    assert (chosen.fit.warmup, chosen.trial.draws, chosen.fit.gates.rhat) == (7, 11, 1.3)
    assert chosen.trial.cohorts[0].arms[1].num_patients == 30
    assert chosen.fit.gates.ess_bulk == 20


def test_options_reach_names_with_dots_and_absent_sections(tmp_path: Path, file: Path) -> None:
    file.write_text(FULL.replace("{study: PDXE, passage: 3}", "{v1.2 name: x}"))
    experiment = load_experiment(file, ["data.constants.v1.2 name=y", "mice.min_models=5", "data.tumour_types=[BRCA]"])
    assert experiment.data.constants == {"v1.2 name": "y"}
    assert (experiment.mice.min_models, experiment.data.tumour_types) == (5, ("BRCA",))


@pytest.mark.parametrize("quick", [False, True])
def test_resolved_yaml_reads_back_to_the_same(tmp_path: Path, file: Path, quick: bool) -> None:
    experiment = load_experiment(file, ["title=1e-3 of 'on'"], quick=quick)
    run = tmp_path / "runs" / "lgsoc" / "0f"
    run.mkdir(parents=True)
    text = resolved_yaml(experiment, relative_to=run)
    assert text == resolved_yaml(load_experiment(file, ["title=1e-3 of 'on'"], quick=quick), relative_to=run)
    assert str(tmp_path) not in text
    (run / "experiment.yaml").write_text(text)
    again = load_resolved(run / "experiment.yaml", quick=quick)
    assert again.is_quick is quick
    assert again.data_path() == experiment.data_path()
    assert again.evidence_paths() == experiment.evidence_paths()
    assert again.prior_paths() == experiment.prior_paths()
    assert again.model_dump(exclude={"data", "fit", "priors"}) == experiment.model_dump(
        exclude={"data", "fit", "priors"}
    )
    assert keys(again) == keys(experiment)


def keys(experiment: Experiment, table: str = "t", evidence: str = "e", priors: str = "p") -> tuple[str, str]:
    fit = fit_key(experiment, table, [evidence], priors, 1)
    return fit, run_key(experiment, fit, priors, 1)


SAME_FIT_OTHER_RUN = [
    "data.source=elsewhere",
    "data.synthetic=false",
    "fit.gates.rhat=1.5",
    "mice.seed=7",
    "mice.leaving_odds_ratio=0.5",
    "title=new",
    "trial.seed=8",
    "trial.cohorts.0.arms.0.observed.0.responders=33",
    "trial.cohorts.0.arms.0.drugs.defactinib.dose=400 mg",
    "trial.cut_off={accrual: 365 d, after: 540 d}",
    "trial.protocol.min_sd_days=49",
    "report.patients_shown=21",
]
OTHER_FIT = ["fit.seed=2", "fit.loss_rate=0.02", "fit.mouse_level=true", "fit.growth=gompertz",
             "data.detection_limit_mm3=5", "data.columns.day=time", "data.constants.passage=4",
             "data.single_agents_only=true", "fit.responders=common", "fit.sampler=variational"]  # fmt: skip
SAME_BOTH = ["data.path=other/name.csv", "data.if_missing=ask", "fit.block=50", "fit.evidence=[moved.csv]",
             "priors=[elsewhere]", "fit.drug_classes={A: taxane}", "quick.fit.draws=77",
             "trial.visits.every_days=56", "fit.deceleration=0.02", "fit.sampler=nuts",
             "mice.leaving_odds_ratio=1.0"]  # fmt: skip


def test_keys_name_what_determines_the_numbers(file: Path) -> None:
    fit, run = keys(load_experiment(file))
    assert re.fullmatch("[0-9a-f]{16}", fit) and re.fullmatch("[0-9a-f]{16}", run)
    for option in SAME_FIT_OTHER_RUN:
        assert keys(load_experiment(file, [option]))[0] == fit, option
        assert keys(load_experiment(file, [option]))[1] != run, option
    for option in OTHER_FIT:
        changed = keys(load_experiment(file, [option]))
        assert changed[0] != fit and changed[1] != run, option
    for option in SAME_BOTH:
        assert keys(load_experiment(file, [option])) == (fit, run), option
    gompertz = ["fit.growth=gompertz"]  # which alone reads the deceleration
    assert keys(load_experiment(file, gompertz)) != keys(load_experiment(file, [*gompertz, "fit.deceleration=0.02"]))
    experiment = load_experiment(file)
    for changed in (keys(experiment, table="x"), keys(experiment, evidence="x"), keys(experiment, priors="x")):
        assert changed[0] != fit
    assert fit_key(experiment, "t", ["e"], "p", 2) != fit
    assert run_key(experiment, fit, "p", 2) != run
    assert run_key(experiment, fit, "x", 1) != run


def test_keys_do_not_hang_on_the_order_of_lines_or_on_spelling(tmp_path: Path, file: Path) -> None:
    fit, run = keys(load_experiment(file))
    same = FULL.replace("  loss_rate: 0.03\n", "").replace("  chains: 3\n", "  chains: 3\n  loss_rate: 3.0e-2\n")
    same = same.replace("on: 3 wk, cycle: 4 weeks", "cycle: 28.0 d, on: 504 h").replace("0.2 g", "200 mg")
    assert same != FULL
    file.write_text(same)
    assert keys(load_experiment(file)) == (fit, run)


DOSES = [
    ("3.2 mg", (3.2, "mg")),
    ("1000 mg/m2", (1000.0, "mg/m2")),
    ("2 mg/kg", (2.0, "mg/kg")),
    ("1g", (1000.0, "mg")),
]
DURATIONS = [
    ("7 d", 7.0),
    ("12 h", 0.5),
    ("3 wk", 21.0),
    ("1 week", 7.0),
    ("0 d", 0.0),
    (".5 d", 0.5),
    ("2 weeks", 14.0),
]


@pytest.mark.parametrize(("text", "dose"), DOSES)
def test_doses(text: str, dose: tuple[float, str]) -> None:
    assert parse_dose(text) == dose
    assert parse_dose(str(parse_dose(text))) == dose


@pytest.mark.parametrize(("text", "days"), DURATIONS)
def test_durations(text: str, days: float) -> None:
    assert parse_duration(text) == days


@pytest.mark.parametrize(
    "text", ["", "7", 7, None, "d", "7 d d", "-7 d", "7 D", "1e3 d", "\u0667 d", "nan d", "9" * 400 + " d"]
)
def test_no_durations_or_doses(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration with its unit"):
        parse_duration(text)
    with pytest.raises(ValueError, match="must be a dose above 0 with its unit"):
        parse_dose(text)


def test_dosing_survives_writing() -> None:
    dosing = Dosing.model_validate({"dose": "100 ug/kg", "days": [1, 8, 15], "repeat": "4 wk"})
    assert Dosing.model_validate(dosing.model_dump()) == dosing
    assert str(dosing.dose) == "0.1 mg/kg"


def test_dosing_of_the_simulation(file: Path) -> None:
    both, single = load_experiment(file).trial.cohorts[0].arms
    avutometinib, defactinib = (one.to_dosing() for one in both.drugs.values())
    assert avutometinib == regimens.Dosing(3.2, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)
    assert defactinib == regimens.Dosing(200.0, "mg", times_per_day=2, on_days=21, cycle_days=28)
    assert single.drugs["avutometinib"].to_dosing() == regimens.Dosing(3.2, "mg", start_day=7)
    assert regimens.dose_days(avutometinib, 8) == (0, 3, 7)


def test_what_the_simulation_refuses_has_its_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that only the simulation knows would still be told with file, line and key."""

    def refuse(dosing: regimens.Dosing) -> regimens.Dosing:
        raise ValueError("days: got [1, 4]; allowed is something else")

    monkeypatch.setattr("vtrial.dosing.check_dosing", refuse)
    with pytest.raises(InputError) as caught:
        load_experiment(file)
    assert (caught.value.line, caught.value.key) == (28, "trial.cohorts.0.arms.0.drugs.avutometinib.days")
    assert "got [1, 4]; allowed is something else" in caught.value.message


def test_days_of_visits() -> None:
    assert Visits(every_days=56, until_days=170).days() == (56, 112, 168)
    later = Visits(every_days=56, until_days=400, then_every_days=84, then_after_days=168)
    assert later.days() == (56, 112, 168, 252, 336)


def test_reading_a_config_imports_no_jax() -> None:
    code = "import sys, vtrial.experiment, vtrial.store; sys.exit('jax' in sys.modules or 'xarray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
