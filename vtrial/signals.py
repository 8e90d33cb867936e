"""Signals to stop: SIGTERM and SIGUSR1 end a command as Ctrl-C does, in time, whatever it is computing."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

from vtrial.errors import InterruptedRun

STOPPED = "stopped; the same command goes on"
#: what a signal leaves to the block that is being computed; Slurm kills 30 s (KillWait) after SIGTERM
GRACE_SECONDS = 20.0


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end a command as Ctrl-C does, so that locks and files are left in order.

    Python handles a signal between two of its own steps, so one long step of XLA would hold it up: a thread ends the
    process at a second signal, or `GRACE_SECONDS` after the first. The checkpoint then lacks that step, no more.
    In a notebook nothing is done: the stop button interrupts by itself, and the process is the reader's kernel.
    """
    if threading.current_thread() is not threading.main_thread() or _in_kernel():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    told, tell = os.pipe()
    os.set_blocking(tell, False)
    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGUSR1)}
    woken = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_end_in_time, args=(told,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)
        watcher.join()


def _in_kernel() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _end_in_time(told: int) -> None:
    """End this process when time is up after a signal to stop, or at a second Ctrl-C; return when the pipe closes."""
    first, said = 0.0, False
    while True:
        if select.select([told], [], [], 0.5 if first else None)[0]:
            number = os.read(told, 1)
            if not number:
                os.close(told)
                return
            if first and number[0] == signal.SIGINT:
                break
            first = first or time.monotonic()
        elif time.monotonic() - first > GRACE_SECONDS:
            break
        elif not said:
            said = True
            _say_at_once(f"stopping at the end of this block, at most {GRACE_SECONDS:.0f} s; Ctrl-C again: at once")
    _say_at_once(STOPPED)
    os._exit(InterruptedRun.exit_code)


def _say_at_once(message: str) -> None:
    """Write past Python's buffers, from a thread beside a main thread that may be deep in XLA."""
    shown = "\x1b[?25h\r" if os.isatty(2) else ""  # the cursor, which a progress bar hides
    with contextlib.suppress(OSError):
        os.write(2, f"{shown}vtrial: {message}\n".encode())
