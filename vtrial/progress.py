"""How far a run is: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger("vtrial")


class Progress:
    """Progress of a stage: a bar with time left on a terminal, a log line at most every ten seconds elsewhere."""

    def __init__(self, console: Console | None):
        self._console, self._stage = console, ""
        self._bar: Any = None
        self._task: Any = None
        self._begun = self._told = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far `stage` is."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun, self._told = stage, now, now
            if self._console is None:
                LOG.info("%s", stage)
        if self._console is None:
            if now - self._told > 10.0 or done >= total:
                passed = now - self._begun
                # what is there at once was kept from before: no rate to speak of
                rate = done / passed if passed > 0.5 else 0.0
                if rate:
                    LOG.info("%s %d of %d, %.0f per s, %.0f s left", stage, done, total, rate, (total - done) / rate)
                else:
                    LOG.info("%s %d of %d", stage, done, total)
                self._told = now
            return
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(stage)
        self._bar.update(self._task, description=stage, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextlib.contextmanager
def reporting(console: Console | None) -> Iterator[Progress]:
    """Progress whose bar goes away at the end, however it comes."""
    progress = Progress(console)
    try:
        yield progress
    finally:
        progress.close()
