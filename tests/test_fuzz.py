"""The readers under bytes that coverage steers (atheris); the spoilt files of tests/bad_input are where it starts.

`make test` looks for a minute, half of it each for experiments and tables; `make test-slow` for an hour. When that last
ended without a find stands in CONTRIBUTING.md.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STARTS = {"experiment": ("experiments", "yaml"), "table": ("tables", "csv")}


def look_for_faults(reader: str, seconds: int, tmp_path: Path) -> int:
    """Number of inputs tried; no exception but an InputError of one line, no hang (five minutes), no 2 GB more."""
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    folder, suffix = STARTS[reader]
    starts, found = tmp_path / "starts", tmp_path / "found"
    shutil.copytree(HERE / "bad_input" / folder, starts)
    found.mkdir()
    for sound in (HERE / "bad_input" / "sound").glob(f"*.{suffix}"):
        shutil.copy(sound, starts)
    # Linux hands the peak of the parent down to its children, so libFuzzer starts from that of this test process
    limit = 2048 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    done = subprocess.run(
        [
            sys.executable, str(HERE / "fuzz" / "readers.py"), reader,
            f"-max_total_time={seconds}", "-max_len=4096",
            "-timeout=300", "-seed=1", f"-rss_limit_mb={limit}", f"-artifact_prefix={tmp_path}/",
            str(found), str(starts),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    tried = re.search(r"Done (\d+) runs", done.stderr)
    assert tried is not None, done.stderr[-3000:]
    return int(tried[1])


@pytest.mark.long
@pytest.mark.parametrize("reader", STARTS)
def test_whatever_a_file_holds_is_an_answer(reader: str, tmp_path: Path) -> None:
    """15 s each; no fewer inputs than it starts from, so that a reader that has become slow is seen."""
    tried = look_for_faults(reader, 15, tmp_path)
    assert tried >= len(list((HERE / "bad_input" / STARTS[reader][0]).iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("reader", STARTS)
def test_an_hour_finds_nothing_else(reader: str, tmp_path: Path) -> None:
    assert look_for_faults(reader, 1800, tmp_path) > 0
