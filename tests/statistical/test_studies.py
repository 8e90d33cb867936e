"""Every study of docs/studies runs with `--quick` and leaves what its page speaks of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

STUDIES = ("pdac", "endometrial", "nsclc", "fak_class", "workflow")


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_quickly(tmp_path: Path, repository: Path, name: str) -> None:
    file, run = repository / "experiments" / f"{name}.yaml", tmp_path / "run"
    command = [sys.executable, "-m", "vtrial", "run", str(file), "--quick", "--out", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("QUICK RUN") and "SYNTHETIC DATA" in done.stdout
    assert "The same drugs in new PDX models" in done.stdout
    tgi, ranks, orr = (pd.read_csv(run / f"{table}.csv") for table in ("tgi", "ranks", "orr"))
    mice = tgi[(tgi["endpoint"] == "tgi") & (tgi["kind"] == "population")]
    together = mice["drugs"].str.contains(" + ", regex=False)
    assert mice.loc[together, "above_singles"].between(0.0, 1.0).all()
    for drugs in mice.loc[together, "drugs"]:  # every drug of a combination is there alone
        assert set(drugs.split(" + ")) <= set(mice["drugs"])
    for _, group in ranks.groupby(["tumour_type", "subgroup", "endpoint", "treatment"]):
        assert group["probability"].sum() == pytest.approx(1.0)
    published = orr[
        (orr["kind"] == "population") & orr["observed_patients"].notna() & (orr["endpoint"] == "confirmed_orr")
    ]
    found = pd.read_csv(run / "discrepancies.csv")
    assert sorted(found["arm"]) == sorted(published["arm"])
    assert (found["at_most"] + found["at_least"] >= 1.0 - 1e-9).all()


@pytest.mark.parametrize("name", ("lgsoc", "pdxe", *STUDIES))
def test_a_study_has_a_page(repository: Path, name: str) -> None:
    page = (repository / "docs" / "studies" / f"{name}.md").read_text()
    for head in (
        "**Question.**",
        "**Published.**",
        "**Command.**",
        "**Result.**",
        "**Reading.**",
        "**What it does not say.**",
    ):
        assert head in page, head
    assert f"vtrial run experiments/{name}.yaml" in page
