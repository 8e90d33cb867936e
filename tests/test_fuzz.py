"""The readers under bytes that coverage steers (atheris); the spoilt files of tests/bad_input are where it starts.

`make test` tries a fixed number; a longer look is `VTRIAL_FUZZ_SECONDS=3600 python -m pytest tests/test_fuzz.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = os.environ.get("VTRIAL_FUZZ_SECONDS")
LENGTH = f"-max_total_time={SECONDS}" if SECONDS else "-runs=1500"
HERE = Path(__file__).parent
STARTS = {"experiment": ("experiments", "yaml"), "table": ("tables", "csv")}


@pytest.mark.long
@pytest.mark.parametrize("reader", STARTS)
def test_whatever_a_file_holds_is_an_answer(reader: str, tmp_path: Path) -> None:
    """No exception but an InputError of one line, no hang (five minutes), no more than 2 GB of memory."""
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    folder, suffix = STARTS[reader]
    starts, found = tmp_path / "starts", tmp_path / "found"
    shutil.copytree(HERE / "bad_input" / folder, starts)
    found.mkdir()
    for sound in (HERE / "bad_input" / "sound").glob(f"*.{suffix}"):
        shutil.copy(sound, starts)
    done = subprocess.run(
        [
            sys.executable, str(HERE / "fuzz" / "readers.py"), reader, LENGTH, "-max_len=4096",
            "-timeout=300", "-seed=1", "-rss_limit_mb=2048", f"-artifact_prefix={tmp_path}/", str(found), str(starts),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    tried = re.search(r"Done (\d+) runs", done.stderr)
    assert tried is not None and (SECONDS or int(tried[1]) >= 1500), done.stderr[-3000:]
