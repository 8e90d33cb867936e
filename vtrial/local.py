"""The runs of a sweep as processes of this machine, each with its share of the cores; no jax.

The launcher may be killed: runs that it started end by themselves, and the next launcher waits for those that are
still at work, which it knows by their locks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtrial.devices import num_cores
from vtrial.errors import InterruptedRun
from vtrial.sweep import HEADER, Scenario, State, Sweep, has_fit, shown_command, state_of

#: between two looks, seconds: far below the shortest run
PAUSE = 0.1
#: how long a run may take to stop; it ends itself after 20 s
PATIENCE = 25.0


class Attempt(NamedTuple):
    """A run under way."""

    process: subprocess.Popen[bytes]
    scenario: Scenario
    slot: int
    begun: float


def default_jobs() -> int:
    """Runs side by side: one for two cores, because a good part of a short run keeps one core busy."""
    return max(1, num_cores() // 2)


def launch(sweep: Sweep, chosen: Sequence[Scenario], jobs: int, tell: Callable[[str], None]) -> None:
    """Run the scenarios, `jobs` at a time; where several need one fit, the others wait for the first to have it.

    Raises
    ------
    InterruptedRun
        At a signal to stop, after the runs have been stopped too.
    """
    waiting, running = list(chosen), list[Attempt]()
    others = [one for one in waiting if sweep.run_folder(one).holder()]  # of a launcher that was killed
    waiting = [one for one in waiting if one not in others]
    total, ended = len(chosen), 0
    fitted = {one.fit_key for one in sweep.runs().values() if has_fit(sweep.run_folder(one))}
    try:
        while waiting or running or others:
            for attempt in [one for one in running if one.process.poll() is not None]:
                running.remove(attempt)
                fitted |= {attempt.scenario.fit_key} if has_fit(sweep.run_folder(attempt.scenario)) else set()
                state = _ended(sweep, attempt)
                if state.word == "running":  # another launcher was faster
                    others.append(attempt.scenario)
                    continue
                ended += 1
                tell(f"{ended} of {total}: {_told(sweep, attempt, state)}")
            for one in [one for one in others if not sweep.run_folder(one).holder()]:
                others.remove(one)
                if state_of(sweep, one).is_done:
                    ended += 1
                else:
                    waiting.insert(0, one)
            at_work = [*(one.scenario for one in running), *others]
            fitted |= {one.fit_key for one in at_work if has_fit(sweep.run_folder(one))}
            fitting = {one.fit_key for one in at_work} - fitted
            free = [slot for slot in range(jobs - len(others)) if slot not in {a.slot for a in running}]
            for slot in free:
                scenario = next((one for one in waiting if one.fit_key not in fitting), None)
                if scenario is None:
                    break
                waiting.remove(scenario)
                fitting |= {scenario.fit_key} - fitted
                running.append(_begin(sweep, scenario, slot, jobs))
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        _stop(running)
        raise InterruptedRun("stopped; the same command goes on") from None


def share(cores: Sequence[int], slot: int, jobs: int) -> list[int]:
    """The cores of one of `jobs` slots: neighbours, as even as it goes, one at least."""
    own = list(cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs])
    return own or [cores[slot % len(cores)]]


def environment(slot: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """What a slot adds to the environment: its GPU, and no memory taken in advance where the GPU is shared."""
    if not gpus:
        return {}
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if jobs > len(gpus) else {}
    return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)], **shared}


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, without touching them."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is not None:
        return [one.strip() for one in asked.split(",") if one.strip() not in ("", "-1")]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(place) for place, _ in enumerate(drivers.iterdir())] if drivers.is_dir() else []


def _begin(sweep: Sweep, scenario: Scenario, slot: int, jobs: int) -> Attempt:
    arguments = sweep.arguments(scenario)
    with sweep.log(scenario).open("ab") as log, _on_cores(slot, jobs) as flags:
        log.write(f"{HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {shown_command(arguments)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "vtrial", "run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(slot, jobs, visible_gpus()), **flags},
            process_group=0,  # a signal to the terminal reaches the launcher alone, which passes it on once
        )
    return Attempt(process, scenario, slot, time.monotonic())


@contextlib.contextmanager
def _on_cores(slot: int, jobs: int) -> Iterator[dict[str, str]]:
    """What is started inside inherits the cores of the slot; where a system binds no cores, a hint to XLA instead."""
    setter: Any = getattr(os, "sched_setaffinity", None)
    if setter is None:
        flag = f"--xla_force_host_platform_device_count={max(1, num_cores() // jobs)}"
        yield {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
        return
    cores = sorted(os.sched_getaffinity(0))
    setter(0, share(cores, slot, jobs))
    try:
        yield {}
    finally:
        setter(0, cores)


def _ended(sweep: Sweep, attempt: Attempt) -> State:
    if (code := attempt.process.returncode) < 0:  # it could not say so itself
        with sweep.log(attempt.scenario).open("ab") as log:
            log.write(f"{HEADER}ended by {signal.Signals(-code).name}\n".encode())
    return state_of(sweep, attempt.scenario)


def _told(sweep: Sweep, attempt: Attempt, state: State) -> str:
    seconds = time.monotonic() - attempt.begun
    said = f"; {state.detail}; log: {sweep.log(attempt.scenario)}" if not state.is_done else ""
    return f"scenario {attempt.scenario.number} {state.word} after {seconds:.0f} s{said}"


def _stop(running: Sequence[Attempt]) -> None:
    """Let every run store what it has, as long as that takes and no longer."""
    for attempt in running:
        with contextlib.suppress(ProcessLookupError):
            attempt.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    for attempt in running:
        try:
            attempt.process.wait(timeout=max(0.0, until - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            attempt.process.kill()
