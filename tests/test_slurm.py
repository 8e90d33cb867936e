"""A sweep on a Slurm that answers (`make test-slurm` sets one up): split, killed in three ways, requeued, gathered."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vtrial import cli, slurm
from vtrial.sweep import manifest_of, open_sweep, state_of, states_of

pytestmark = pytest.mark.slurm

EXPERIMENT = """\
name: tiny
data: {path: table.csv, source: made for a test, synthetic: true, constants: {study: T, tumour_type: BRCA}}
fit: {svi_steps: 50, warmup: 100, draws: 100}
mice: {min_models: 3}
# what a scenario comes to is looked at here, not how well so short a fit of so few mice mixes
quick: {fit: {block: 25, gates: {rhat: 9.0, ess_bulk: 1.0, ess_tail: 1.0, rhat_pdx_model: 9.0, divergences: 1.0}}}
trial:
  visits: {every_days: 56, until_days: 224}
  cohorts:
    - tumour_type: BRCA
      arms:
        - {name: trametinib 2 mg, drugs: {trametinib: {dose: 2 mg, repeat: 1 d}}}
"""
SWEEP = """\
name: eight
experiment: exp.yaml
quick: true
cluster: cluster.yaml
launcher: {kind: slurm}
grid: {fit.seed: [1, 2], trial.seed: [1, 2, 3, 4]}
"""
CLUSTER = "{time: '00:30:00', memory: 100M, cpus: 1}\n"
#: seconds; a machine may be busy with other things
PATIENCE = 1500.0


def vtrial(*arguments: str) -> str:
    command = [sys.executable, "-m", "vtrial", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def once(seen: Callable[[], Any]) -> Any:
    """Wait until something is seen."""
    until = time.monotonic() + PATIENCE
    while not (found := seen()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.1)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here; `make test-slurm` sets one up where it can")
    rng = np.random.default_rng(0)
    lines = ["pdx_model,mouse,arm,day,volume_mm3"]
    for model in range(3):
        for arm, rate in (("untreated", 0.05), ("trametinib", 0.02)):
            for day in range(0, 29, 4):
                volume = np.exp(5.3 + (rate + 0.01 * model) * day + rng.normal(0.0, 0.1))
                lines.append(f"PDX-{model},m{model}{arm[0]},{arm},{day},{volume:.1f}")
    files = {"exp.yaml": EXPERIMENT, "sweep.yaml": SWEEP, "cluster.yaml": CLUSTER, "table.csv": "\n".join(lines) + "\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    # what is submitted inherits these
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parent.parent))
    monkeypatch.setenv("VTRIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return tmp_path


def test_a_sweep_on_slurm(place: Path) -> None:
    vtrial("sweep", "sweep.yaml")
    sweep = open_sweep("sweeps/eight")
    size = slurm._max_array_size()
    submitted = json.loads((sweep.folder / slurm.JOBS).read_text())["jobs"]
    numbers = [index + one["offset"] for one in submitted for index in one["indices"]]
    assert sorted(numbers) == list(range(1, 9)) and all(max(one["indices"]) < size for one in submitted)
    task = {index + one["offset"]: f"{one['job']}_{index}" for one in submitted for index in one["indices"]}
    # two fits are needed, and nothing that needs one of them runs beside it
    first, second = sweep.scenarios[0], sweep.scenarios[4]
    assert {sweep.scenarios[0].fit_key, second.fit_key} == {one.fit_key for one in sweep.scenarios}

    # requeued in the middle of its fit: it stores what it has, and goes on
    folder = sweep.run_folder(first)
    once(lambda: list(folder.path.glob("checkpoints/fit-*/iterations-*")))
    waiting = [one for one in sweep.scenarios if one not in (first, second)]
    assert {states_of(sweep, slurm.queue(sweep))[one.id].word for one in waiting} == {"queued"}
    begun = time.monotonic()
    subprocess.run(["scontrol", "requeue", task[1]], check=True)
    once(lambda: slurm.queue(sweep)[1].word == "queued" and folder.holder() is None)
    assert time.monotonic() - begun < 30.0 + 5.0, "Slurm kills after KillWait, 30 s"
    assert sweep.log(first).read_text().rstrip().endswith(f"vtrial: {cli.STOPPED}")
    # Slurm starts a requeued task two minutes later unless it is told otherwise
    subprocess.run(["scontrol", "update", f"JobId={task[1]}", "StartTime=now"], check=True)
    once(lambda: (folder.manifest() if folder.exists("manifest.json") else {}).get("finished"))
    assert "the fit goes on from its checkpoint" in sweep.log(first).read_text()

    # two of the second wave: one is cancelled, one killed
    cancelled, killed = once(lambda: in_hand(sweep))
    subprocess.run(["scancel", task[cancelled.number]], check=True)
    os.kill(json.loads((sweep.run_folder(killed).path / ".lock").read_text())["pid"], signal.SIGKILL)
    once(lambda: {state.word for state in slurm.queue(sweep).values()}.isdisjoint({"queued", "running"}))
    # what is told to stop within 20 s of its end may get there first
    words = {one.number: state_of(sweep, one).word for one in sweep.scenarios}
    assert words.pop(killed.number) == "stopped" and words.pop(cancelled.number) in ("stopped", "done")
    assert set(words.values()) == {"done"}
    open_ones = {one.id for one in (cancelled, killed) if state_of(sweep, one).word == "stopped"}
    assert f"{len(open_ones)} stopped" in vtrial("status", "sweeps/eight")
    assert sum("reused_from" in manifest_of(sweep.run_folder(one)).get("fit", {}) for one in sweep.scenarios) >= 4

    # the same command again: what is done is left alone
    done = {one.id: sweep.run_folder(one).file("manifest.json").stat().st_mtime_ns for one in sweep.scenarios}
    assert f"to start: {len(open_ones)}" in vtrial("sweep", "sweep.yaml")
    once(lambda: {state.word for state in states_of(sweep).values()} == {"done"})
    again = {
        one.id
        for one in sweep.scenarios
        if sweep.run_folder(one).file("manifest.json").stat().st_mtime_ns != done[one.id]
    }
    assert again == open_ones
    vtrial("collect", "sweeps/eight")
    with (sweep.folder / "arms.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["scenario"], row["fit.seed"], row["trial.seed"]) for row in rows] == [
        (str(4 * fit + trial), str(fit + 1), str(trial)) for fit in range(2) for trial in range(1, 5)
    ]
    # what was requeued has the bytes of a run that nothing disturbed, outside Slurm
    vtrial("run", "exp.yaml", "--quick", *(part for one in first.sets() for part in ("--set", one)), "--out", "plain")
    for name in ("orr.csv", "posterior.nc"):
        assert (place / "plain" / name).read_bytes() == folder.file(name).read_bytes()


def in_hand(sweep: Any) -> tuple[Any, Any] | None:
    """Two runs of the second wave that have begun and are not done."""
    states = states_of(sweep)
    at_work = [one for one in sweep.scenarios if states[one.id].word == "running" and one.number not in (1, 5)]
    return (at_work[0], at_work[1]) if len(at_work) > 1 else None
