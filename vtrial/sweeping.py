"""The commands of a sweep: plan and start, status, collect; no jax and no device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from vtrial import local, slurm
from vtrial.errors import GateError, VtrialError
from vtrial.gathering import collected, write_collected
from vtrial.sweep import (
    Launcher,
    Scenario,
    State,
    Sweep,
    format_states,
    open_sweep,
    read_sweep,
    shown_command,
    states_of,
    to_start,
    write_plan,
)


class Plan(NamedTuple):
    """What a `vtrial sweep` would do."""

    sweep: Sweep
    launcher: Launcher
    jobs: int
    cluster: slurm.Cluster
    states: Mapping[str, State]
    chosen: list[Scenario]


def prepare(file: Path, out: Path | None, launcher: Launcher | None, jobs: int | None, retry_failed: bool) -> Plan:
    """Read a sweep file and everything it names, and find what is to be started; writes nothing."""
    sweep, config = read_sweep(file, out)
    profile = None if config.cluster is None else Path(os.path.abspath(Path(file).parent / config.cluster))
    states = states_of(sweep, slurm.queue(sweep))
    return Plan(
        sweep,
        launcher or config.launcher.kind,
        jobs or config.launcher.jobs or local.default_jobs(),
        slurm.read_cluster(profile),
        states,
        to_start(sweep, states, retry_failed),
    )


def format_plan(plan: Plan) -> str:
    """What would be done as text: every scenario, and the commands or the batch script."""
    lines = [format_states(plan.sweep, plan.states), f"folder: {plan.sweep.folder}", f"to start: {len(plan.chosen)}"]
    return "\n".join(lines)


def format_commands(plan: Plan) -> str:
    """The batch script, or the commands of the runs."""
    if plan.launcher == "slurm":
        return slurm.script(plan.sweep, plan.cluster).rstrip("\n")
    return "\n".join(shown_command(plan.sweep.arguments(one)) for one in plan.chosen)


def start(plan: Plan, tell: Callable[[str], None]) -> list[str]:
    """Start what is to be started; local runs are waited for, Slurm is not. Returns the last lines to print.

    Raises
    ------
    VtrialError
        After all local runs have ended, where some failed; GateError where only gates were not passed.
    """
    sweep = plan.sweep
    write_plan(sweep)
    if plan.launcher == "slurm":
        told = slurm.submit(sweep, plan.chosen, plan.cluster) if plan.chosen else ["nothing to submit"]
        return [*told, f"`vtrial status {sweep.folder}` says how far they are"]
    local.launch(sweep, plan.chosen, plan.jobs, tell)
    words = [state.word for state in states_of(sweep).values()]
    failed, gates = words.count("failed") + words.count("stopped"), words.count("gates")
    if failed:
        logs = sweep.folder / "logs"
        raise VtrialError(f"{failed} of {len(words)} runs failed; logs: {logs}; --retry-failed starts them again")
    if gates:
        raise GateError(f"{gates} of {len(words)} fits did not pass their gates; their outputs say so", sweep.folder)
    return [f"{len(words)} runs are done; `vtrial collect {sweep.folder}` gathers them"]


def status(folder: Path) -> str:
    """What became of every scenario, as text."""
    sweep = open_sweep(folder)
    return format_states(sweep, states_of(sweep, slurm.queue(sweep)))


def collect(folder: Path) -> list[str]:
    """Write the table and the page of what is done; returns the lines to print."""
    sweep = open_sweep(folder)
    table = collected(sweep)
    done = table["scenario"].nunique()
    lines = [f"{done} of {len(sweep.scenarios)} scenarios, {len(table)} rows"]
    return [*lines, *(str(file) for file in write_collected(sweep, table))]
