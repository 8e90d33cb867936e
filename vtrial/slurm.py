"""A sweep as arrays of Slurm: a script that can be read, sbatch, and what squeue and the accounting say; no jax.

Slurm is the engine: nothing of vtrial waits beside it. A task is ``exec vtrial run``, so that the signals of Slurm
reach the run, which stores what it has and ends (docs/resume.md).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from vtrial.disk import whole
from vtrial.errors import InputError, VtrialError
from vtrial.fields import Count, Section, Text
from vtrial.sweep import HEADER, Scenario, State, Sweep
from vtrial.yamlfile import read_yaml, shortened_text, validated

SCRIPT, JOBS = "sweep.sbatch", "slurm.json"
#: of Slurm where its configuration does not say
MAX_ARRAY_SIZE = 1001
PATIENCE = 60.0

_RUNNING = {"RUNNING", "COMPLETING", "STOPPED", "SUSPENDED"}
_listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
Term = Annotated[str, Field(pattern=r"^[^\s#]+$", max_length=200)]
Line = Annotated[str, Field(pattern=r"^[^\n]+$", max_length=2000)]


class Cluster(Section):
    """A cluster profile: what a task asks for, and what makes `vtrial` run on a node."""

    partition: Term | None = Field(default=None, description="partition; null for the default one")
    account: Term | None = Field(default=None, description="account that pays")
    qos: Term | None = Field(default=None, description="quality of service")
    constraint: Term | None = Field(default=None, description="features that a node must have")
    time: Annotated[str, Field(pattern=r"^[0-9]+([:-][0-9]+){0,3}$")] = Field(
        default="04:00:00", description="time limit of a task, such as 04:00:00 or 1-00"
    )
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] = Field(default="8G", description="memory of a task")
    cpus: Count = Field(default=4, description="cores of a task; more than the fit has chains help little")
    gpus: int = Field(default=0, ge=0, le=1, description="GPUs of a task: one at most helps a run")
    gres: Term = Field(default="gpu:1", description="how this cluster names one GPU, where gpus is 1")
    max_running: Count | None = Field(default=None, description="tasks that may run at once; null for no limit")
    signal_seconds: int = Field(
        default=90, ge=30, le=3600, description="seconds before the time limit at which a run stores what it has"
    )
    modules: Annotated[tuple[Term, ...], _listed] = Field(default=(), description="modules to load")
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line] = Field(
        default={}, description="variable: value"
    )
    setup: Annotated[tuple[Line, ...], _listed] = Field(default=(), description="lines of shell before the run")
    container: Text | None = Field(default=None, description="image to run in")
    container_command: Line = Field(default="apptainer exec", description="what runs a command in an image")
    command: Line | None = Field(default=None, description="vtrial on the nodes; null for this installation")
    options: Annotated[tuple[Line, ...], _listed] = Field(default=(), description="further options of sbatch")


class Submission(NamedTuple):
    """One array: `indices` of its tasks, each the number of its scenario less `offset`; `wave` 1 waits for 0."""

    wave: int
    offset: int
    indices: tuple[int, ...]


def read_cluster(path: Path | None) -> Cluster:
    """Read a cluster profile; the defaults where there is none."""
    return Cluster() if path is None else validated(Cluster, read_yaml(path))


def script(sweep: Sweep, cluster: Cluster) -> str:
    """The batch script of a sweep, one line a scenario; its argument is the offset of an array."""
    folder = sweep.folder
    asked: dict[str, object] = {
        "job-name": sweep.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "time": cluster.time,
        "mem": cluster.memory,
        "cpus-per-task": cluster.cpus,
        "gres": cluster.gres if cluster.gpus else None,
        "signal": f"B:USR1@{cluster.signal_seconds}",
        "open-mode": "append",
        "output": json.dumps(str(folder / "logs" / "slurm.out")),
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None)]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in cluster.options), ""]
    lines.append(f"# Written by `vtrial sweep`: {len(sweep.scenarios)} scenarios, started as")
    lines.append(f"#   sbatch --array=INDICES {SCRIPT} OFFSET        (scenario = index + offset)")
    lines += [f"cd {shlex.quote(os.getcwd())} || exit 1"]
    lines += [f"module load {shlex.join(cluster.modules)}"] if cluster.modules else []
    lines += [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    lines += [*cluster.setup, "", "case $((SLURM_ARRAY_TASK_ID + ${1:-0})) in"]
    for one in sweep.runs().values():
        sets = shlex.join(part for text in one.sets() for part in ("--set", text))
        lines.append(f"{one.number}) scenario={one.id}; set -- {sets} ;;")
    lines += ["*) echo 'no such scenario' >&2; exit 2 ;;", "esac", ""]
    lines.append(f'exec >> {shlex.quote(str(folder / "logs"))}/"$scenario.log" 2>&1')
    job = "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID on $SLURMD_NODENAME, start $((${SLURM_RESTART_COUNT:-0} + 1))"
    lines.append(f"echo \"{HEADER}$(date '+%F %T') array task {job}\"")
    # the signals of Slurm must reach the run, so no shell stays between
    runs = shlex.quote(str(folder / "runs"))
    lines.append(f'exec {_program(cluster)} run {shlex.join(sweep.fixed())} "$@" --out {runs}/"$scenario"')
    return "\n".join(lines) + "\n"


def submissions(sweep: Sweep, chosen: Sequence[Scenario], max_array_size: int) -> list[Submission]:
    """Split what is to be started into arrays.

    What needs a fit that another makes first waits in a second wave; no index reaches `max_array_size` (Slurm's
    MaxArraySize, which bounds the index itself).
    """
    fitting: set[str] = set()
    waves: tuple[list[int], list[int]] = ([], [])
    for one in chosen:
        wave = one.fit_key in fitting
        if not wave and not sweep.is_fitted(one):
            fitting.add(one.fit_key)
        waves[wave].append(one.number)
    found = []
    for wave, numbers in enumerate(waves):
        for window, group in itertools.groupby(sorted(numbers), key=lambda number: number // max_array_size):
            offset = window * max_array_size
            found.append(Submission(wave, offset, tuple(number - offset for number in group)))
    return found


def array_option(submission: Submission, max_running: int | None) -> str:
    """The value of ``--array``: ranges, and how many may run at once."""
    ranges: list[list[int]] = []
    for index in submission.indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    text = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return text + (f"%{max_running}" if max_running else "")


def submit(sweep: Sweep, chosen: Sequence[Scenario], cluster: Cluster) -> list[str]:
    """Write the script and hand its arrays to Slurm; returns the commands that did, with the jobs they made.

    Raises
    ------
    InputError
        Where there is no sbatch, or it refuses.
    """
    size = _max_array_size()
    file = sweep.folder / SCRIPT
    with whole(file) as aside:
        aside.write_text(script(sweep, cluster), encoding="utf-8")
    told, jobs, first = [], _jobs(sweep), []
    for one in submissions(sweep, chosen, size):
        command = ["sbatch", "--parsable", f"--array={array_option(one, cluster.max_running)}"]
        if one.wave and first:
            command.append(f"--dependency=afterany:{':'.join(first)}")
        command += [str(file), str(one.offset)]
        job = _asked(command).strip().partition(";")[0]
        first += [job] if one.wave == 0 else []
        jobs.append({"job": job, "offset": one.offset, "indices": list(one.indices)})
        with whole(sweep.folder / JOBS) as aside:  # after each: what was submitted stays known if the next is refused
            aside.write_text(json.dumps({"jobs": jobs}) + "\n", encoding="utf-8")
        told.append(f"job {job}: {shlex.join(command)}")
    return told


def queue(sweep: Sweep) -> dict[int, State]:
    """What Slurm says of the scenarios by their numbers: squeue, and the accounting where it answers.

    Nothing where the sweep was never submitted.
    """
    offsets = {one["job"]: int(one["offset"]) for one in _jobs(sweep)}
    found: dict[int, State] = {}
    if not offsets:
        return found
    # what has ended, first: a later job of the same scenario lies over it
    for job, index, word, code in _ended_tasks(list(offsets)):
        if job in offsets and word not in ("COMPLETED", "PENDING", "RUNNING"):
            found[index + offsets[job]] = State("stopped", f"Slurm: {word.lower()}, exit code {code}")
    for line in _asked(["squeue", "--me", "-h", "-r", "-o", "%F|%K|%T|%r"]).splitlines():
        job, index, word, reason = [*line.strip().split("|", 3), "", "", ""][:4]
        if job not in offsets or not index.isdigit():
            continue
        known = "running" if word in _RUNNING else "queued"
        detail = "" if known == "running" else f"{word.lower()}, {reason}"
        found[int(index) + offsets[job]] = State(known, detail)
    return found


def _ended_tasks(jobs: Iterable[str]) -> list[tuple[str, int, str, str]]:
    """Job, index, state and exit code of array tasks by the accounting; empty where a cluster keeps none."""
    command = ["sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State,ExitCode"]
    try:
        text = _asked(command)
    except InputError:
        return []
    rows = []
    for line in text.splitlines():
        match = re.match(r"([0-9]+)_([0-9]+)\|([A-Z_]+)[^|]*\|(.*)", line)
        if match:
            rows.append((match[1], int(match[2]), match[3], match[4]))
    return rows


def _program(cluster: Cluster) -> str:
    inside = f"{cluster.container_command} {shlex.quote(cluster.container)} " if cluster.container else ""
    beside = Path(sys.executable).with_name("vtrial")
    own = [str(beside)] if beside.is_file() else [sys.executable, "-m", "vtrial"]
    return inside + (cluster.command or ("vtrial" if cluster.container else shlex.join(own)))


def _max_array_size() -> int:
    match = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", _asked(["scontrol", "show", "config"]), re.MULTILINE)
    return int(match[1]) if match else MAX_ARRAY_SIZE


def _jobs(sweep: Sweep) -> list[dict[str, Any]]:
    file = sweep.folder / JOBS
    try:
        found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return list(found["jobs"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read: {shortened_text(str(error))}", file=file) from None


def _asked(command: Sequence[str]) -> str:
    """What a command of Slurm prints.

    Raises
    ------
    InputError
        Where it is not here, or says no.
    """
    if shutil.which(command[0]) is None:
        raise InputError(f"there is no {command[0]} here: run this where Slurm is, or take --launcher local")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise VtrialError(f"{command[0]} gave no answer within {PATIENCE:.0f} s; try again later") from None
    if done.returncode:
        reason = shortened_text(" ".join(done.stderr.split()), 300) or f"exit code {done.returncode}"
        raise InputError(f"{command[0]} says no: {reason}")
    return done.stdout
