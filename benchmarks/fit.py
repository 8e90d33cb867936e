"""How long does a posterior over thousands of real curves take, beside a point estimate of the linear model in lme4?

    python benchmarks/fit.py [--repeats 3] [--empty-only] [FILE]
    python benchmarks/fit.py --memory [FILE]

Each repeat runs, one after the other in one session so that a noisy machine hits both: R's lme4 (random lines of PDX
model, drug x tumour type and mouse; maximum likelihood), and `vtrial fit FILE` on the same rows as a process of its own
from start to posterior on disk, with an empty compilation cache and again with a full one. Medians and ratios are
printed, where the time of each fit went, and the peak of its memory. lme4 is skipped, with the reason, where there is
no Rscript or no lme4 (Debian: r-cran-lme4). `--memory` asks for its peak at several numbers of mice and draws alone,
by fits with short trajectories, which need as much of it. Effective draws a second beside other samplers:
`effective_draws.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LME4 = """\
suppressMessages(library(lme4))
d <- read.csv(commandArgs(TRUE)[1])
begun <- proc.time()[["elapsed"]]
m <- lmer(y ~ day + (1 + day | pdx_model) + (0 + day | cell) + (1 + day | mouse), data = d, REML = FALSE,
          control = lmerControl(calc.derivs = FALSE))
cat(proc.time()[["elapsed"]] - begun, as.numeric(logLik(m)), nrow(d))
"""


#: what JAX logs of each program that it compiles, and what `vtrial fit` prints when a stage begins or goes on
COMPILED = re.compile(r"Finished XLA compilation of (?:jit\()?([\w<>]+)\)? in ([0-9.]+) sec")
STAGE = re.compile(
    r"^(\d\d:\d\d:\d\d) (variational start|warm-up|draws|mice and cells|diagnostics)(?: (\d+) of (\d+))?"
)


#: settings of a fit that is asked for its memory alone: it passes no gates
SHORT = ("fit.warmup=50", "fit.svi_steps=200", "fit.max_tree_depth=3")


def vtrial_fit(file: Path, cache: Path, settings: Sequence[str] = ()) -> dict:
    """Wall time of one fit as a process of its own, what its manifest says, where its time went, its peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vtrial", "fit", str(file), "--out", f"{folder}/run"]
        command += [word for setting in settings for word in ("--set", setting)]
        log = Path(folder, "stderr")
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_LOG_COMPILES": "1"}
        begun = time.perf_counter()
        with log.open("w") as stderr:
            process = subprocess.Popen(command, env=environment, stdout=stderr, stderr=stderr, cwd=REPOSITORY)
            _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 3):
            sys.exit(log.read_text())
        fit = json.loads(Path(folder, "run", "manifest.json").read_text())["fit"]
        told = log.read_text()
    return {
        "seconds": round(seconds, 1),
        "where": where(told, fit["seconds"], seconds),
        "gates passed": fit["passed"],
        "mice": fit["mice"],
        "draws": fit["draws"],
        "peak GiB": round(used.ru_maxrss / 2**20, 2),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "largest programs": largest(told),
    }


def where(told: str, stages: dict, seconds: float) -> dict:
    """Seconds of each stage, compilation within it included; and the compilation of all stages together.

    Warm-up ends and draws begin at the first line of a block of draws, which is one block late: its share is taken off.
    """
    marks = [(datetime.strptime(m[1], "%H:%M:%S"), m[2], m[3]) for m in map(STAGE.match, told.splitlines()) if m]
    draws = [at for at, stage, _ in marks if stage == "draws"]
    drawing = (draws[-1] - draws[0]).total_seconds() if len(draws) > 1 else 0.0
    rest = stages["total"] - sum(stages[name] for name in ("start", "sample", "constrain"))
    return {
        "compilation, of all stages": round(sum(took for took, _ in _compilations(told)), 1),
        "imports, reading": round(seconds - stages["total"], 1),
        "variational start": stages["start"],
        "warm-up": round(stages["sample"] - drawing, 1),
        "draws after the first block": drawing,
        "constrained values": stages["constrain"],
        "mice and cells, diagnostics, writing": round(rest, 1),
    }


def _compilations(told: str) -> list[tuple[float, str]]:
    return [(float(m[2]), m[1]) for m in COMPILED.finditer(told)]


def largest(told: str) -> dict:
    """The five programs that took longest to compile, seconds."""
    return {name: round(took, 1) for took, name in sorted(_compilations(told), reverse=True)[:5]}


def lme4_table(file: Path, folder: Path) -> Path:
    """The rows of the fit as a CSV for R: undetectable volumes at the limit, controls as a cell of their own."""
    import numpy as np

    from vtrial.experiment import load_experiment
    from vtrial.inputs import read_inputs

    used = read_inputs(load_experiment(file)).dataset.used
    table = used[["pdx_model", "day"]].assign(
        mouse=used["mouse_key"],
        cell=used["arm"] + " | " + used["tumour_type"],
        y=np.log(used["volume_mm3"].clip(lower=10.0)),
    )
    path = folder / "rows.csv"
    table.to_csv(path, index=False)
    return path


def lme4_fit(table: Path, script: Path) -> dict | str:
    """Seconds of the fit alone, of the R process around it and of the processor, or why it could not be run."""
    if shutil.which("Rscript") is None:
        return "no Rscript on the PATH"
    begun, out = time.perf_counter(), script.with_suffix(".out")
    with out.open("w") as told:
        process = subprocess.Popen(["Rscript", str(script), str(table)], stdout=told, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
    seconds, process.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    last = out.read_text().strip().splitlines()[-1]
    if process.returncode:
        return last
    return {"fit": float(last.split()[0]), "process": seconds, "processor": used.ru_utime + used.ru_stime}


def memory(file: Path) -> None:
    """Peak of memory of fits of half and all tumour types with growing numbers of draws, and their growth."""
    from vtrial.experiment import load_experiment
    from vtrial.inputs import read_inputs

    used = read_inputs(load_experiment(file)).dataset.used.drop_duplicates("mouse_key")
    counts = used["tumour_type"].value_counts().sort_index()
    half = list(counts.index[: max(1, len(counts) // 2)])
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for types, draws in ((half, 500), (half, 2000), (list(counts.index), 500), (list(counts.index), 2000)):
            settings = (f"data.tumour_types=[{', '.join(types)}]", f"fit.draws={draws}", *SHORT)
            fit = vtrial_fit(file, Path(cache), settings)
            found.append((fit["mice"], fit["draws"], fit["peak GiB"]))
            print("{:6,} mice x {:6,} draws: {:.2f} GiB at the peak".format(*found[-1]), flush=True)
    (mice, draws, least), *_, (most_mice, most_draws, most) = found
    times = most_mice * most_draws / (mice * draws)
    print(f"mice x draws {times:.1f} times as many, memory {most / least:.2f} times as much")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--empty-only", action="store_true", help="no second fit with a full cache")
    parser.add_argument("--memory", action="store_true", help="the peak of memory at several numbers of mice and draws")
    chosen = parser.parse_args()
    if chosen.memory:
        return memory(chosen.file)
    names = ("vtrial, empty cache", "vtrial, full cache")[: 1 if chosen.empty_only else 2]
    wall: dict[str, list[float]] = {name: [] for name in (*names, "lme4")}
    processor: dict[str, list[float]] = {name: [] for name in wall}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        table, script = lme4_table(chosen.file, folder), folder / "fit.R"
        script.write_text(LME4)
        for repeat in range(chosen.repeats):
            peer = lme4_fit(table, script)
            if isinstance(peer, str):
                print(f"lme4 skipped: {peer}")
            else:
                wall["lme4"].append(peer["process"])
                processor["lme4"].append(peer["processor"])
                print("lme4", json.dumps({name: round(seconds, 1) for name, seconds in peer.items()}), flush=True)
            cache = folder / f"cache-{repeat}"
            for name in names:
                found = vtrial_fit(chosen.file, cache)
                wall[name].append(found["seconds"])
                processor[name].append(found["processor seconds"])
                print(name, json.dumps(found), flush=True)
    for name in wall:
        if wall[name]:
            middle, own = statistics.median(wall[name]), statistics.median(processor[name])
            print(f"{name:22} median of {len(wall[name])}: {middle:7.1f} s, {own:7.1f} s of the processor")
    for what, seconds in (("time", wall), ("processor time", processor)):
        if seconds["lme4"]:
            ratios = [a / b for a, b in zip(seconds["vtrial, empty cache"], seconds["lme4"], strict=True)]
            print(f"vtrial with an empty cache over lme4, {what}: median ratio {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
