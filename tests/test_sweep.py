"""A sweep: what is planned, what became of it, what is gathered; and the real thing, killed and started again."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vtrial import cli, local, slurm, sweeping
from vtrial.errors import InputError, VtrialError
from vtrial.experiment import load_experiment, resolved_yaml
from vtrial.gathering import collected, write_collected
from vtrial.store import RunFolder
from vtrial.sweep import (
    HEADER,
    Scenario,
    State,
    Sweep,
    format_states,
    last_words,
    open_sweep,
    read_sweep,
    state_of,
    states_of,
    to_start,
    write_plan,
    written,
)
from vtrial.yamlfile import parse_yaml_value

EXPERIMENT = """\
name: tiny
data: {path: table.csv, source: made for a test, synthetic: true, constants: {study: T, tumour_type: BRCA}}
fit: {svi_steps: 50}
mice: {min_models: 3}
quick: {fit: {block: 25, gates: {rhat: 9.0, ess_bulk: 1.0, ess_tail: 1.0, rhat_pdx_model: 9.0, divergences: 1.0}}}
trial:
  visits: {every_days: 56, until_days: 224}
  cohorts:
    - tumour_type: BRCA
      arms:
        - {name: trametinib, drugs: {trametinib: {dose: 2 mg, repeat: 1 d}}}
"""
DOSE = "trial.cohorts.0.arms.0.drugs.trametinib.dose"
SWEEP = f"""\
name: doses
experiment: exp.yaml
quick: true
grid:
  {DOSE}: [1 mg, 2 mg]
list:
  - {{fit.seed: 1, trial.seed: 1}}
  - {{fit.seed: 1, trial.seed: 2}}
  - {{fit.seed: 2}}
"""
ORR = """\
arm,tumour_type,subgroup,endpoint,kind,num_patients,mean,sd,q05,q25,q50,q75,q95,observed_responders,observed_patients,source
A <b>,BRCA,all,confirmed_orr,population,,{mean},0.1,0.05,0.1,0.2,0.3,0.4,3,10,made up
A <b>,BRCA,all,confirmed_orr,predictive,50,{mean},0.1,0.04,0.1,0.2,0.3,0.42,3,10,made up
A <b>,BRCA,mutant,confirmed_orr,population,,0.9,0.1,0.05,0.1,0.2,0.3,0.4,,,
NA,BRCA,all,confirmed_orr,population,,0.3,0.1,0.05,0.1,0.2,0.3,0.4,,,
NA,BRCA,all,confirmed_orr:bliss,population,,0.25,0.1,0.05,0.1,0.2,0.3,0.4,,,
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    lines = ["pdx_model,mouse,arm,day,volume_mm3"]
    for model in range(3):
        for arm, rate in (("untreated", 0.05), ("trametinib", 0.02)):
            for day in range(0, 29, 4):
                volume = np.exp(5.3 + (rate + 0.01 * model) * day + rng.normal(0.0, 0.1))
                lines.append(f"PDX-{model},m{model}{arm[0]},{arm},{day},{volume:.1f}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(place: Path) -> Sweep:
    return read_sweep("sweep.yaml")[0]


def test_every_entry_of_the_list_is_crossed_with_the_grid(sweep: Sweep, place: Path) -> None:
    assert [tuple(one.settings.values()) for one in sweep.scenarios] == [
        (1, 1, "1 mg"), (1, 1, "2 mg"), (1, 2, "1 mg"), (1, 2, "2 mg"), (2, "1 mg"), (2, "2 mg"),
    ]  # fmt: skip
    assert len(sweep.runs()) == 6 and len({one.fit_key for one in sweep.scenarios}) == 2
    assert sweep.folder == place / "sweeps" / "doses"
    arguments = sweep.arguments(sweep.scenarios[1])
    assert arguments == [
        str(place / "exp.yaml"), "--quick", "--reuse-fits", str(sweep.folder / "runs"),
        "--set", "fit.seed=1", "--set", "trial.seed=1", "--set", f"{DOSE}=2 mg",
        "--out", str(sweep.folder / "runs" / sweep.scenarios[1].id),
    ]  # fmt: skip


def test_a_scenario_keeps_its_name_wherever_it_stands(sweep: Sweep, place: Path) -> None:
    (place / "sweep.yaml").write_text(SWEEP.replace("[1 mg, 2 mg]", "[3 mg, 2 mg]"))
    changed, _ = read_sweep("sweep.yaml")
    assert [one.id for one in changed.scenarios[1::2]] == [one.id for one in sweep.scenarios[1::2]]
    assert not {one.id for one in changed.scenarios[::2]} & {one.id for one in sweep.scenarios}
    # what a run reads belongs to its name
    (place / "table.csv").write_text((place / "table.csv").read_text().replace("PDX-0", "PDX-9"))
    assert not {one.id for one in read_sweep("sweep.yaml")[0].runs().values()} & set(changed.runs())


def test_scenarios_that_are_one_run_are_run_once(sweep: Sweep, place: Path) -> None:
    # the block of a fit changes no number
    (place / "sweep.yaml").write_text("{name: blocks, experiment: exp.yaml, grid: {fit.block: [10, 20]}}")
    blocks, _ = read_sweep("sweep.yaml")
    assert len(blocks.scenarios) == 2 and list(blocks.runs().values()) == [blocks.scenarios[0]]
    assert to_start(blocks, states_of(blocks), False) == [blocks.scenarios[0]]


def test_a_plan_is_read_back_as_it_was(sweep: Sweep) -> None:
    write_plan(sweep)
    assert open_sweep(sweep.folder) == sweep


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nexperiment: exp.yaml\n", "give `grid`, `list`, or both: there is nothing to vary"),
        ("name: a\nexperiment: exp.yaml\ngrid:\n  fit.seed: []\n", "sweep.yaml:4: grid.fit.seed: must have at least 1"),
        (
            "name: a\nexperiment: exp.yaml\ngrib: {fit.seed: [1]}\n",
            "sweep.yaml:3: grib: unknown key; did you mean 'grid'",
        ),
        ("name: a\nexperiment: exp.yaml\ngrid:\n  fit.seed: [1, -1]\n", "sweep.yaml:4: fit.seed: scenario 2: must"),
        ("name: a\nexperiment: exp.yaml\nlist:\n  - fit.sed: 1\n", "sweep.yaml:4: fit.sed: scenario 1: unknown key"),
        ("name: a\nexperiment: exp.yaml\ngrid: {fit.seed: [1]}\nlist: [{fit.seed: 2}]\n", "is set by grid too"),
        ("name: a\nexperiment: exp.yaml\ngrid: {fit: [{seed: 1}], fit.seed: [1]}\n", "lies within fit: give one of"),
        ("name: a\nexperiment: gone.yaml\ngrid: {fit.seed: [1]}\n", "gone.yaml: does not exist"),
        ("name: a\nexperiment: exp.yaml\ngrid: {fit.seed: [1]}\ncluster: gone.yaml\n", "gone.yaml: does not exist"),
        (
            f"name: a\nexperiment: exp.yaml\ngrid: {{a: [{', '.join('1' * 101)}], b: [{', '.join('1' * 100)}]}}\n",
            "at most 10000 scenarios, this one 10100",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(place: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "sweep.yaml").write_text(text)
    before = set(place.rglob("*"))
    assert cli.main(["sweep", "sweep.yaml"]) == InputError.exit_code
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert set(place.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    "value", ["2 mg", "1", "true", " a", "", "null", "a: b", "é", 1e-05, True, None, [1, "2"], {"a": 1}]
)
def test_a_value_is_read_back_as_it_was_given(value: object) -> None:
    assert parse_yaml_value(written(value), "") == value


def finish(sweep: Sweep, scenario: Scenario, passed: bool = True, mean: float = 0.2) -> None:
    folder = sweep.run_folder(scenario)
    experiment = load_experiment(sweep.experiment, scenario.sets(), quick=True)
    with folder.lock():
        folder.write_text("experiment.yaml", resolved_yaml(experiment, folder.path))
        folder.write_bytes("posterior.nc", b"")
        folder.write_text("orr.csv", ORR.format(mean=mean))
        folder.update_manifest(
            {
                "keys": {"run": scenario.id, "fit": scenario.fit_key},
                "fit": {"passed": passed, "key": scenario.fit_key},
                "finished": "2026-11-22",
                "quick": True,
                "synthetic": False,
                "files": {"posterior.nc": {}},
            }
        )


def say(sweep: Sweep, scenario: Scenario, *lines: str) -> None:
    sweep.log(scenario).write_text("".join(f"{line}\n" for line in lines))


def test_what_became_of_a_scenario(sweep: Sweep) -> None:
    write_plan(sweep)
    done, gates, failed, stopped, killed, waiting = sweep.scenarios
    finish(sweep, done)
    finish(sweep, gates, passed=False)
    say(
        sweep,
        failed,
        f"{HEADER}first",
        "vtrial: stopped",
        f"{HEADER}again",
        "vtrial: error: no cuda device: JAX found none",
    )
    say(sweep, stopped, f"{HEADER}first", "vtrial: error: no room", f"{HEADER}again", f"vtrial: {cli.STOPPED}")
    say(sweep, killed, f"{HEADER}first", "12:00:00 warm-up 20 of 300", f"{HEADER}ended by SIGKILL")
    states = states_of(sweep)
    assert [states[one.id].word for one in sweep.scenarios] == [
        "done", "gates", "failed", "stopped", "stopped", "waiting",
    ]  # fmt: skip
    assert states[failed.id].detail == "vtrial: error: no cuda device: JAX found none"
    assert states[killed.id].detail == "ended by SIGKILL"
    assert to_start(sweep, states, False) == [stopped, killed, waiting]
    assert to_start(sweep, states, True) == [failed, stopped, killed, waiting]
    text = format_states(sweep, states)
    assert text.startswith("doses: 6 scenarios, 6 runs, 2 fits; ") and "2 stopped" in text.splitlines()[0]
    assert text.splitlines()[-1] == f"log of 3: {sweep.log(failed)}"
    # what a scheduler says counts for what is not done, and a lock says that somebody is at work
    queue = {one.number: State("queued", "pending, Priority") for one in sweep.scenarios}
    assert state_of(sweep, done, queue).word == "done"
    assert state_of(sweep, failed, queue) == State("queued", "pending, Priority")
    assert state_of(sweep, stopped, {stopped.number: State("stopped", "Slurm: timeout")}).detail.endswith(
        "(Slurm: timeout)"
    )
    with sweep.run_folder(waiting).lock():
        assert state_of(sweep, waiting).word == "running"
    assert state_of(sweep, waiting).word == "waiting"


def test_the_outputs_of_other_settings_do_not_count(sweep: Sweep) -> None:
    write_plan(sweep)
    one = sweep.scenarios[0]
    finish(sweep, one)
    sweep.run_folder(one).update_manifest({"keys": {"run": "f" * 16, "fit": one.fit_key}})
    assert state_of(sweep, one).word == "waiting"


def test_last_words_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_bytes(b"\xff" * 50_000 + b"\nvtrial: error: x\n\n")
    assert last_words(log) == "vtrial: error: x"
    log.write_text(f"vtrial: error: x\n{HEADER}2026 vtrial run\n")
    assert last_words(log) == ""


def test_what_is_done_is_gathered(sweep: Sweep) -> None:
    write_plan(sweep)
    with pytest.raises(InputError, match="no scenario is done"):
        collected(sweep)
    for number, passed in ((1, True), (4, False)):
        finish(sweep, sweep.scenarios[number], passed, mean=number / 10)
    lines = sweeping.collect(sweep.folder)
    assert lines[0] == "2 of 6 scenarios, 4 rows"
    with (sweep.folder / "arms.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[:5] == ["scenario", "id", "fit.seed", "trial.seed", DOSE]
    found = [(r["scenario"], r["trial.seed"], r[DOSE], r["arm"], float(r["mean"]), r["gates_passed"]) for r in rows]
    assert found == [
        ("2", "1", "2 mg", "A <b>", 0.1, "True"),
        ("2", "1", "2 mg", "NA", 0.3, "True"),
        ("5", "", "1 mg", "A <b>", 0.4, "False"),
        ("5", "", "1 mg", "NA", 0.3, "False"),
    ]
    assert [row["mean_bliss"] for row in rows[:2]] == ["", "0.25"]
    assert [row["marks"] for row in rows[1:3]] == [
        f"{fit}quick; synthetic data" for fit in ("", "FIT DID NOT PASS ITS GATES; ")
    ]
    assert float(rows[0]["predictive_q95"]) == 0.42 and float(rows[0]["observed"]) == 0.3
    page = (sweep.folder / "compare.html").read_text()
    assert "A &lt;b&gt;" in page and "<b>" not in page and "<script" not in page
    assert "4 scenarios are not done" in page and page.count("fit did not pass</span>") == 2
    assert page.count("<circle") == 4
    again = {name: (sweep.folder / name).read_bytes() for name in ("arms.csv", "compare.html")}
    write_collected(sweep, collected(sweep))
    assert again == {name: (sweep.folder / name).read_bytes() for name in again}


def test_a_folder_that_holds_something_else_is_left_alone(place: Path, sweep: Sweep) -> None:
    with pytest.raises(InputError, match=r"has no sweep\.json but holds other files"):
        write_plan(sweep._replace(folder=place))
    with pytest.raises(InputError, match="is not the folder of a sweep"):
        open_sweep(place)
    (place / "sweep.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match="cannot be read"):
        open_sweep(place)


# ---------------------------------------------------------------------------------------------- local
def test_every_slot_has_its_share_of_the_cores() -> None:
    for cores, jobs in ((16, 4), (7, 3), (2, 2)):
        shares = [local.share(range(cores), slot, jobs) for slot in range(jobs)]
        assert sorted(core for one in shares for core in one) == list(range(cores))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [local.share([4, 6], slot, 3) for slot in range(3)] == [[4], [4], [6]]


def test_every_slot_has_a_gpu_and_a_shared_one_is_not_filled_in_advance() -> None:
    assert local.environment(1, 2, []) == {}
    assert local.environment(1, 2, ["4", "7"]) == {"CUDA_VISIBLE_DEVICES": "7"}
    shared = {"CUDA_VISIBLE_DEVICES": "4", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    assert local.environment(2, 3, ["4", "7"]) == shared


# ---------------------------------------------------------------------------------------------- Slurm
def many(sweep: Sweep, count: int) -> Sweep:
    scenarios = [
        Scenario(number, f"{number:016x}", "one fit", {"trial.seed": number}) for number in range(1, count + 1)
    ]
    return sweep._replace(scenarios=tuple(scenarios))


def test_what_shares_a_fit_waits_for_the_first(sweep: Sweep) -> None:
    waves = slurm.submissions(sweep, sweep.scenarios, 1001)
    assert [(one.wave, one.offset, one.indices) for one in waves] == [(0, 0, (1, 5)), (1, 0, (2, 3, 4, 6))]
    # nothing waits for a fit that is there
    write_plan(sweep)
    finish(sweep, sweep.scenarios[0])
    waves = slurm.submissions(sweep, sweep.scenarios[1:], 1001)
    assert [(one.wave, one.indices) for one in waves] == [(0, (2, 3, 4, 5)), (1, (6,))]


def test_arrays_are_split_where_an_index_would_reach_the_limit(sweep: Sweep) -> None:
    sweep = many(sweep, 2500)
    found = slurm.submissions(sweep, sweep.scenarios, 1001)
    numbers = [index + one.offset for one in found for index in one.indices]
    assert numbers == list(range(1, 2501)) and all(max(one.indices) < 1001 for one in found)
    assert [one.wave for one in found] == [0, 1, 1, 1]
    assert slurm.array_option(found[1], 20) == "2-1000%20" and slurm.array_option(found[0], None) == "1"
    assert slurm.array_option(slurm.Submission(0, 0, (1, 2, 3, 7, 9, 10)), None) == "1-3,7,9-10"


def test_the_script_is_read_by_bash_as_it_is_meant(sweep: Sweep, place: Path) -> None:
    scenarios = [one._replace(settings={"a.b c": "it's $HOME"}) for one in sweep.scenarios]
    cluster = slurm.Cluster(
        partition="gpu", gpus=1, modules=("cuda/13", "python"), environment={"XLA_FLAGS": "a b"}, setup=("echo ready",),
        container="an image.sif", options=("--exclusive",), command="printf '%s\\n'",
    )  # fmt: skip
    text = slurm.script(sweep._replace(scenarios=tuple(scenarios)), cluster)
    for line in (
        "--partition=gpu",
        "--gres=gpu:1",
        "--exclusive",
        "--requeue",
        "--signal=B:USR1@90",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "\nmodule load cuda/13 python\nexport XLA_FLAGS='a b'\necho ready\n" in text
    assert "\nexec apptainer exec 'an image.sif' " in text
    write_plan(sweep)
    plain = slurm.script(sweep._replace(scenarios=tuple(scenarios)), slurm.Cluster(command="printf '%s\\n'"))
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7", "SLURMD_NODENAME": "n"}
    done = subprocess.run(["bash", "-s", "2"], input=plain, text=True, env=environment, capture_output=True, check=True)
    assert done.stdout == done.stderr == ""
    third = sweep.scenarios[2]
    said = sweep.log(third).read_text().splitlines()
    assert re.fullmatch(rf"{HEADER}.* array task 7 1 on n, start 1", said[0])
    assert said[1:] == ["run", *sweep.fixed(), "--set", "a.b c=it's $HOME", "--out", str(sweep.run_folder(third).path)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("partition: 'a b'", "partition: must"),
        ("time: tomorrow", "time: must"),
        ("gpus: 2", "gpus: must be less than or equal to 1"),
        ('modules: ["a\\nb"]', "modules.0: must"),
        ("partitoin: a", "unknown key; did you mean 'partition'"),
    ],
)
def test_a_profile_cannot_say_what_it_should_not(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text + "\n")
    with pytest.raises(InputError, match=re.escape(told)):
        slurm.read_cluster(tmp_path / "cluster.yaml")


def test_without_slurm_it_says_so(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.queue(sweep) == {}
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        InputError, match="there is no scontrol here: run this where Slurm is, or take --launcher local"
    ):
        slurm.submit(sweep, sweep.scenarios, slurm.Cluster())
    assert not sweep.folder.exists()


# ---------------------------------------------------------------------------------------------- the real thing
def test_the_commands_start_no_jax(place: Path, sweep: Sweep) -> None:
    write_plan(sweep)
    finish(sweep, sweep.scenarios[0])
    code = (
        "import sys; from vtrial.cli import main; print([main(a.split()) for a in sys.argv[1:]], 'jax' in sys.modules)"
    )
    commands = ("sweep sweep.yaml --dry-run", "sweep sweep.yaml --dry-run --launcher slurm")
    arguments = [*commands, f"status {sweep.folder}", f"collect {sweep.folder}"]
    paths = {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ | paths, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] False", done.stderr
    assert f"--set '{DOSE}=2 mg'" in done.stdout and "#SBATCH --requeue" in done.stdout


@pytest.mark.workflow
def test_a_killed_launcher_is_started_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent))
    monkeypatch.setenv("VTRIAL_CACHE", str(place / "cache"))
    # nothing here is long enough to be worth optimised code, which takes half a minute more to compile
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    command = [sys.executable, "-m", "vtrial", "sweep", "sweep.yaml", "--jobs", "2"]
    (place / "sweep.yaml").write_text("{name: seeds, experiment: exp.yaml, quick: true, grid: {trial.seed: [1, 2]}}")
    sweep, _ = read_sweep("sweep.yaml")
    first, second = sweep.scenarios
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = sweep.run_folder(first)
    while not list(folder.path.glob("checkpoints/fit-*/iterations-*")):
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    # the fit is under way still: what needs it has not been started, and the next launcher waits
    assert state_of(sweep, first).word == "running" and state_of(sweep, second).word == "waiting"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {state.word for state in states_of(sweep).values()} == {"done"}
    assert sweep.log(first).read_text().count(HEADER) == 1, "it was not started twice"
    assert RunFolder(sweep.run_folder(second).path).manifest()["fit"]["reused_from"] == first.id
    table = collected(sweep)
    assert table["scenario"].tolist() == [1, 2] and table["mean"].between(0, 1).all()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "to start: 0" in again.stdout and again.returncode == 0
    # a run that cannot go on has its last word at hand, and is started again only where that is asked for
    manifest = json.loads(folder.file("manifest.json").read_text())
    folder.write_json("manifest.json", {**manifest, "finished": None})
    whole = folder.file("posterior.nc").read_bytes()
    folder.write_bytes("posterior.nc", b"damaged")
    plan = sweeping.prepare(place / "sweep.yaml", None, None, 2, False)
    assert plan.states[first.id].word == "stopped"
    with pytest.raises(VtrialError, match=r"1 of 2 runs failed; logs: .*; --retry-failed starts them again"):
        sweeping.start(plan, lambda line: None)
    state = state_of(sweep, first)
    assert state.word == "failed" and "posterior.nc: is damaged" in state.detail
    assert sweeping.prepare(place / "sweep.yaml", None, None, 2, False).chosen == []
    folder.write_bytes("posterior.nc", whole)
    sweeping.start(sweeping.prepare(place / "sweep.yaml", None, None, 2, True), lambda line: None)
    assert state_of(sweep, first).word == "done"
