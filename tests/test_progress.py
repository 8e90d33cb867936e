"""Progress says little where nobody looks: at the ends of a stage, and between no oftener than every ten seconds."""

from __future__ import annotations

import io
import logging

from rich.console import Console

from vtrial import progress
from vtrial.progress import Progress, reporting


def test_a_batch_job_hears_little(monkeypatch, caplog) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    told = Progress(None)
    with caplog.at_level(logging.INFO, logger="vtrial"):
        for done in range(1, 1001):  # a piece every 50 ms, 50 s in all
            now += 0.05
            told("trial", done, 1000)
    assert caplog.records[0].getMessage() == "trial"
    # one when the stage begins, one whenever more than 10 s have passed since the last, one at its end
    assert len(caplog.records) == 6
    assert caplog.records[-1].getMessage().startswith("trial 1000 of 1000, 20 per s, 0 s left")


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = io.StringIO()
    with reporting(Console(file=stream, force_terminal=True, width=100)) as told:
        told("warm-up", 1, 4)
        told("draws", 3, 4)
    assert "draws" in stream.getvalue() and "3/4" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[1A\x1b[2K")  # the line is taken away
