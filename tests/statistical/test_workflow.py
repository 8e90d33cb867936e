"""The simulated PDX study is fitted by the pipeline; its intervals hold what was planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

pytestmark = pytest.mark.slow


def vtrial(repository: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "vtrial", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_fit_recovers_what_was_planted(tmp_path: Path, repository: Path) -> None:
    run, study = str(tmp_path / "run"), str(tmp_path / "study")
    # two chains of the shipped length: population parameters need about 100 effective draws for an interval
    loose = [f"--set=fit.gates.{name}=50" for name in ("ess_bulk", "ess_tail")]
    loose += ["--set=fit.gates.rhat=1.05", "--set=fit.gates.divergences=0.02", "--set=fit.chains=2"]
    vtrial(repository, "fit", str(repository / "experiments" / "workflow.yaml"), "--out", run, *loose)
    protocol = repository / "experiments" / "data" / "workflow_protocol.yaml"
    said = vtrial(repository, "pdx-study", str(protocol), "--out", study, "--run", run)
    assert "recovery:" in said
    table = pd.read_csv(Path(study) / "recovery.csv")
    assert table["mean"].notna().all() and len(table) == 12
    # half as many independent parameters, since they hang together; 99.9 % of a binomial with 0.1
    assert (~table["inside"]).sum() <= 2 * stats.binom.ppf(0.999, len(table) // 2, 0.1), table
    sd = pd.read_csv(Path(run) / "diagnostics.csv").set_index("parameter")["sd"]
    off = (table["mean"] - table["planted"]).abs() / sd[table["parameter"]].to_numpy()
    assert (off < 4.5).all(), table.assign(off=off)
    # the data must have said something: effects are known far better than the prior (SD 0.5 over classes) has them
    assert sd[[name for name in table["parameter"] if name.startswith("effect[")]].max() < 0.15
