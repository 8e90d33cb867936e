"""A sweep of 64 scenarios whose launcher is killed: every row comes, and launching costs little beside the runs.

Each process of Python notes when it began and ended (`sitecustomize`), so the time of the runs does not come from the
launcher that is judged.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vtrial import cli

SCENARIOS, JOBS = 64, 2
NOTES = """\
import atexit, os, sys, time
begun = time.time()
note = lambda: open(os.environ["NOTES"], "a").write(f"{begun} {time.time()} {' '.join(sys.orig_argv[1:4])}\\n")
atexit.register(note)
"""
EXPERIMENT = """\
name: bar
data: {path: table.csv, source: made for a test, synthetic: true, constants: {study: T, tumour_type: BRCA}}
mice: {min_models: 3, replicates: 100}
quick:
  fit: {chains: 2, warmup: 20, draws: 50, svi_steps: 50, max_tree_depth: 4,
        gates: {rhat: 100, rhat_pdx_model: 100, ess_bulk: 1, ess_tail: 1, divergences: 1, max_tree_depth_share: 1}}
  trial: {draws: 100, patients: 500}
trial:
  visits: {every_days: 56, until_days: 224}
  cohorts:
    - tumour_type: BRCA
      arms:
        - {name: trametinib, drugs: {trametinib: {dose: 2 mg, repeat: 1 d}}}
"""


@pytest.mark.slow
def test_64_scenarios_and_a_killed_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    """Overhead = slot time of the launchers beyond the lives of the runs, the wait for the fit that all share included.

    The bar is 10 % (runs of a minute); runs here take seconds, which makes it harder.
    """
    rng = np.random.default_rng(0)
    lines = ["pdx_model,mouse,arm,day,volume_mm3"]
    for model in range(3):
        for arm, rate in (("untreated", 0.05), ("trametinib", 0.02)):
            for day in range(0, 29, 4):
                volume = np.exp(5.3 + (rate + 0.01 * model) * day + rng.normal(0.0, 0.1))
                lines.append(f"PDX-{model},m{model}{arm[0]},{arm},{day},{volume:.1f}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    seeds = list(range(1, SCENARIOS + 1))
    (tmp_path / "sweep.yaml").write_text(
        f"{{name: bar, experiment: exp.yaml, quick: true, grid: {{trial.seed: {seeds}}}}}"
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sitecustomize.py").write_text(NOTES)
    for name, value in {
        "NOTES": str(tmp_path / "notes" / "all.txt"),
        "PYTHONPATH": f"{tmp_path / 'notes'}:{Path(cli.__file__).parent.parent}",
        "VTRIAL_CACHE": str(tmp_path / "cache"),
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_PLATFORMS": "cpu",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "vtrial", "sweep", "sweep.yaml", "--jobs", str(JOBS)]
    folder, begun = tmp_path / "sweeps" / "bar", time.time()
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(list(folder.glob("runs/*/orr.csv"))) < SCENARIOS // 4:
        assert launcher.poll() is None
        time.sleep(0.05)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    wall = time.time() - begun
    collect = [sys.executable, "-m", "vtrial", "collect", str(folder)]
    assert subprocess.run(collect, capture_output=True, check=True).returncode == 0
    table = pd.read_csv(folder / "arms.csv")
    assert table["scenario"].tolist() == seeds and table["trial.seed"].tolist() == seeds
    notes = [line.split(" ", 2) for line in (tmp_path / "notes" / "all.txt").read_text().splitlines()]
    lives = [float(end) - float(start) for start, end, said in notes if said == "-m vtrial run"]
    assert len(lives) == SCENARIOS, "each was run once"
    overhead = JOBS * wall / sum(lives) - 1.0
    said = f"{SCENARIOS} runs of {np.mean(lives):.1f} s, {wall:.0f} s in all, overhead {100 * overhead:.1f} %"
    record_property("sweep", said)
    print(said, f"({os.cpu_count()} cores)")
    assert overhead < 0.10, said
