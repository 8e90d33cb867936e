"""How long does a posterior over thousands of real curves take, beside a point estimate of the linear model in lme4?

    python benchmarks/fit.py [--repeats 3] [FILE]

Each repeat runs, one after the other in one session so that a noisy machine hits both: `vtrial fit FILE` as a process
of its own from start to posterior on disk, with an empty compilation cache and again with a full one; and R's lme4 on
the same rows (random lines of PDX model, drug x tumour type and mouse; maximum likelihood). Medians and ratios are
printed. lme4 is skipped, with the reason, where there is no Rscript or no lme4 (Debian: r-cran-lme4).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
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


def vtrial_fit(file: Path, cache: Path) -> dict:
    """Wall time of one fit as a process of its own, what its manifest says, and the peak of its memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vtrial", "fit", str(file), "--out", f"{folder}/run"]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        begun = time.perf_counter()
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY)
        seconds = time.perf_counter() - begun
        if ended.returncode not in (0, 3):
            sys.exit(ended.stderr)
        fit = json.loads(Path(folder, "run", "manifest.json").read_text())["fit"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": seconds, "stages": fit["seconds"], "gates passed": fit["passed"], "peak GiB": round(peak, 2)}


def lme4_table(file: Path, folder: Path) -> Path:
    """The rows of the fit as a CSV for R: undetectable volumes at the limit, controls as a cell of their own."""
    import numpy as np

    from vtrial.experiment import load_experiment
    from vtrial.inputs import read_inputs

    used = read_inputs(load_experiment(file, (), False)).dataset.used
    table = used[["pdx_model", "day"]].assign(
        mouse=used["mouse_key"],
        cell=used["arm"] + " | " + used["tumour_type"],
        y=np.log(used["volume_mm3"].clip(lower=10.0)),
    )
    path = folder / "rows.csv"
    table.to_csv(path, index=False)
    return path


def lme4_fit(table: Path, script: Path) -> tuple[float, float] | str:
    """Seconds of the fit alone and of the R process around it, or why it could not be run."""
    if shutil.which("Rscript") is None:
        return "no Rscript on the PATH"
    begun = time.perf_counter()
    ended = subprocess.run(["Rscript", str(script), str(table)], capture_output=True, text=True)
    if ended.returncode:
        return ended.stderr.strip().splitlines()[-1]
    return float(ended.stdout.split()[0]), time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    rows: dict[str, list[float]] = {
        "vtrial, empty cache": [],
        "vtrial, full cache": [],
        "lme4, fit": [],
        "lme4, process": [],
    }
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        table, script = lme4_table(chosen.file, folder), folder / "fit.R"
        script.write_text(LME4)
        for repeat in range(chosen.repeats):
            cache = folder / f"cache-{repeat}"
            for name in ("vtrial, empty cache", "vtrial, full cache"):
                found = vtrial_fit(chosen.file, cache)
                rows[name].append(found.pop("seconds"))
                print(name, f"{rows[name][-1]:.1f} s", json.dumps(found), flush=True)
            peer = lme4_fit(table, script)
            if isinstance(peer, str):
                print(f"lme4 skipped: {peer}")
            else:
                rows["lme4, fit"].append(peer[0])
                rows["lme4, process"].append(peer[1])
                print(f"lme4 {peer[0]:.1f} s, process {peer[1]:.1f} s", flush=True)
    for name, seconds in rows.items():
        if seconds:
            print(f"{name:22} median {statistics.median(seconds):7.1f} s of {len(seconds)}")
    if rows["lme4, process"]:
        ratios = [a / b for a, b in zip(rows["vtrial, empty cache"], rows["lme4, process"], strict=True)]
        print(f"vtrial with an empty cache over lme4: median ratio {statistics.median(ratios):.0f}")


if __name__ == "__main__":
    main()
