"""How many virtual patients a second, how soon a response rate is known to 0.1 points, and in how much memory?

    python benchmarks/simulate.py [--seconds 2] [--rounds 5] [--memory]

One arm of one drug; 3 target lesions, 8 visits eight weeks apart, 4 % reading error, confirmed response by RECIST 1.1.
Every peer simulates the same patient, written out in `slow` and checked against the rest in the first rows: the drug
fades at the patient's own rate, lesions have sizes and paces of their own. Peers take turns, so that a busy machine is
busy for all of them; throughput is the slope between two sizes, start and compilation apart. Each figure is the median
of the rounds. `--memory` is the resident set at 1e7 and 1e9 patients, in processes of their own (minutes).
"""

# ruff: noqa: NPY002  (inside compiled code Numba knows the legacy generator only, one state a thread)

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CORES = os.cpu_count() or 1
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={CORES}")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from vtrial import trial  # noqa: E402
from vtrial.arm_layout import lay_out  # noqa: E402
from vtrial.base import PatientLaw, Schedule, Trial  # noqa: E402
from vtrial.course_parts import parts_of  # noqa: E402
from vtrial.response import CR, PR  # noqa: E402

LESIONS, VISITS, SEGMENTS_PER_VISIT = 3, 8, 2
VISIT_DAY = 56.0 * np.arange(1, VISITS + 1)
EDGES = np.linspace(0.0, VISIT_DAY[-1], VISITS * SEGMENTS_PER_VISIT + 1)
EXPOSURE = 0.9 - 0.4 * (np.arange(VISITS * SEGMENTS_PER_VISIT) % 2)
NUMBERS = {
    "mu_ln_growth": math.log(0.05), "omega_ln_growth": 0.3, "growth_scale": 0.134, "effect_mean": 1.0,
    "effect_sd": 0.5, "kill_scale": 0.4, "ln_loss_rate": math.log(0.005), "loss_rate_sd": 0.8,
    "ln_sld_median": math.log(70.0), "sld_log_sd": 0.6, "lesion_size_log_sd": 0.4, "lesion_log_sd": 0.25,
    "reading_error": 0.04,
}  # fmt: skip
LESIONS_APPEAR = {"new_lesion_hazard": 0.0005, "new_lesion_power": 1.0}
LEAVING = {"discontinuation_hazard": 0.0005, "missed_visit": 0.03}
OWN_EXPOSURE = {"exposure_sd": 0.4, "missed_dose": 0.1}
LATE = {"visit_delay": 3.0}
FEWER_LESIONS = {"ln_new_lesion_ratio": -0.2}
RESISTANT = {"resistant_share": 0.35}
OPTIONAL = {*OWN_EXPOSURE, *LATE, *FEWER_LESIONS, *RESISTANT, "linear_effect", "accrual", "cut_off"}
MORE = {
    "exposure of their own (PK)": OWN_EXPOSURE,
    "new lesions": LESIONS_APPEAR,
    "new lesions, and a drug against them": LESIONS_APPEAR | FEWER_LESIONS,
    "dropout and missed visits": LEAVING,
    "late visits": LATE,
    "resistant patients": RESISTANT,
    "new lesions, dropout, missed visits, reader": LESIONS_APPEAR | LEAVING | {"reader_effect": 0.07},
}


def law_of(draws: int, **more: float) -> PatientLaw:
    zero = dict.fromkeys(set(PatientLaw._fields) - OPTIONAL, 0.0) | {"mean_lesions": float(LESIONS)}
    shapes = {"effect_mean": (1, 1), "effect_sd": (1,), "kill_scale": (1,), "ln_loss_rate": (1,)}
    shapes |= {"phi": (1, 1), "gamma": (1, 1)}
    values = zero | NUMBERS | more
    shapes |= dict.fromkeys([*OWN_EXPOSURE, *FEWER_LESIONS, *RESISTANT], (1,))
    given = [name for name in PatientLaw._fields if name in values]
    return PatientLaw(**{name: jnp.full((draws, *shapes.get(name, ())), values[name], jnp.float32) for name in given})


def vtrial_responders(
    num_patients: int, draws: int, numbers: Any = "sobol", seed: int = 0, **more: float
) -> np.ndarray:
    """Confirmed responders of each draw; draws are independent replicates of the same law."""
    schedule = Schedule(jnp.asarray(EDGES), jnp.arange(1, VISITS + 1) * SEGMENTS_PER_VISIT - 1, jnp.asarray(VISIT_DAY))
    exposure = jnp.broadcast_to(jnp.asarray(EXPOSURE, jnp.float32), (draws, 1, 1, len(EXPOSURE)))
    if "exposure_sd" in more:
        # a segment's effect is at its mean throughout: two points that are one
        points = [exposure, exposure, jnp.zeros_like(exposure)]
        exposure = jnp.stack(points, axis=-1)
    law = law_of(draws, **more)
    asked = Trial(law, exposure, schedule, lay_out(["drug"], [["drug"]]), jnp.ones(1))
    parts = parts_of(law)._replace(lesions=LESIONS)
    counts, _ = trial.simulate(jax.random.key(seed), asked, num_patients=num_patients, numbers=numbers, parts=parts)
    return np.asarray(counts.best_response, np.int64)[:, 0, 0, [CR, PR]].sum(-1)


def numba_responders() -> Callable[[int, int], int] | None:
    """A loop over patients as a careful user writes it: parallel, one patient after the other, no array of patients."""
    try:
        import numba
    except ImportError:
        return None
    interval = float(VISIT_DAY[1] - VISIT_DAY[0])
    length = float(EDGES[1] - EDGES[0])
    exposure = EXPOSURE.astype(np.float32)
    n = {name: np.float32(value) for name, value in NUMBERS.items()}
    mu, omega, scale = n["mu_ln_growth"], n["omega_ln_growth"], n["growth_scale"]
    effect_mean, effect_sd, kill_scale = n["effect_mean"], n["effect_sd"], n["kill_scale"]
    ln_loss, loss_sd, ln_sld, sld_sd = n["ln_loss_rate"], n["loss_rate_sd"], n["ln_sld_median"], n["sld_log_sd"]
    size_sd, pace_sd, error = n["lesion_size_log_sd"], n["lesion_log_sd"], n["reading_error"]
    lesions, visits, per_visit = LESIONS, VISITS, SEGMENTS_PER_VISIT

    @numba.njit(fastmath=True, inline="always")
    def one() -> int:
        growth = np.exp(mu + omega * np.float32(np.random.normal()))
        effect = effect_mean + effect_sd * np.float32(np.random.normal())
        loss = np.exp(ln_loss + loss_sd * np.float32(np.random.normal()))
        sld = max(np.exp(ln_sld + sld_sd * np.float32(np.random.normal())), np.float32(10.0))
        room = min(lesions, int(sld / np.float32(10.0)))
        diameter = np.empty(lesions, np.float32)
        pace = np.empty(lesions, np.float32)
        total = np.float32(0.0)
        for lesion in range(room):
            diameter[lesion] = np.exp(size_sd * np.float32(np.random.normal()))
            pace[lesion] = np.exp(pace_sd * np.float32(np.random.normal())) / np.float32(3.0)
            total += diameter[lesion]
        for lesion in range(room):
            diameter[lesion] *= sld / total
        baseline = sld * np.exp(error * np.float32(np.random.normal()))
        nadir = baseline
        fade = np.exp(-loss * np.float32(length))
        left, kill = np.float32(1.0), np.float32(0.0)
        code = np.empty(visits, np.int8)
        for visit in range(visits):
            for segment in range(per_visit):
                right = left * fade
                kill += kill_scale * exposure[visit * per_visit + segment] * (left - right) / loss
                left = right
            change = growth * (scale * np.float32((visit + 1) * interval) - effect * kill)
            size = np.float32(0.0)
            for lesion in range(room):
                now = diameter[lesion] * np.exp(min(pace[lesion] * change, np.float32(10.0)))
                if now >= np.float32(2.0):
                    size += now
            size *= np.exp(error * np.float32(np.random.normal()))
            if size <= 0.0:
                code[visit] = 0
            elif size >= np.float32(1.2) * nadir and size - nadir >= np.float32(5.0):
                code[visit] = 3
            elif size <= np.float32(0.7) * baseline:
                code[visit] = 1
            else:
                code[visit] = 2
            nadir = min(nadir, size)
        # visits are 56 days apart: two responses in a row confirm; PD, or SD after a CR, ends the course
        gone = False
        for visit in range(visits):
            if code[visit] == 3 or (gone and code[visit] == 2):
                return 0
            gone = gone or code[visit] == 0
            if visit > 0 and code[visit] < 2 and code[visit - 1] < 2:
                return 1
        return 0

    @numba.njit(parallel=True, fastmath=True)
    def all_of_them(num_patients: int, seed: int) -> int:
        pieces = 16 * CORES
        found = 0
        for piece in numba.prange(pieces):
            np.random.seed(seed * 100_003 + piece)
            own = 0
            for _ in range(num_patients * piece // pieces, num_patients * (piece + 1) // pieces):
                own += one()
            found += own
        return found

    numba.set_num_threads(CORES)
    return all_of_them


def slope(run: Callable[[int], object], seconds: float) -> float:
    """Patients a second between two sizes, the larger of about so many seconds."""
    size = 200_000
    run(size)
    begun = time.perf_counter()
    run(size)
    small = size
    large = max(4 * size, int(size * seconds / (time.perf_counter() - begun)))
    begun = time.perf_counter()
    run(small)
    middle = time.perf_counter()
    run(large)
    return (large - small) / (time.perf_counter() - middle - (middle - begun))


def draw_pace(num_patients: int, few: int = 64, many: int = 512, rounds: int = 5) -> float:
    """Patients a second in draws of so many, between two numbers of draws; median of the rounds."""
    found = []
    for draws in (few, many):
        vtrial_responders(num_patients, draws)
    for _ in range(rounds):
        begun = time.perf_counter()
        vtrial_responders(num_patients, few)
        middle = time.perf_counter()
        vtrial_responders(num_patients, many)
        found.append(num_patients * (many - few) / (time.perf_counter() - middle - (middle - begun)))
    return statistics.median(found)


def replicate_error(num_patients: int, numbers: str, replicates: int = 64, scrambles: int = 4) -> tuple[float, float]:
    """Rate, and standard deviation of the rate of one replicate of so many patients."""
    rates = [
        vtrial_responders(num_patients, replicates, numbers, seed) / num_patients for seed in range(1, scrambles + 1)
    ]
    # the matrices of a scramble are shared by a call, so both the spread within and that between calls belong to it
    return float(np.mean(rates)), float(np.std(np.concatenate(rates), ddof=1))


def memory(num_patients: float) -> int:
    """Largest resident set of a process that simulates so many patients, bytes."""
    folder = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.insert(0, {folder!r}); import simulate; simulate.grow({num_patients:.0f})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def grow(num_patients: int) -> None:
    draws = 2 * CORES
    vtrial_responders(num_patients // draws, draws)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="memory at 1e7 and 1e9 patients, and nothing else")
    asked = parser.parse_args()
    if asked.memory:
        few, many = memory(1e7), memory(1e9)
        print(json.dumps({"largest resident set at 1e7 and 1e9 patients, MiB": [few >> 20, many >> 20]}))
        return
    rows: dict[str, object] = {"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "cores": CORES}

    draws = jax.device_count()
    peers: dict[str, Callable[[int], object]] = {
        "vtrial, Sobol": lambda n: vtrial_responders(n // draws, draws),
        "vtrial, independent numbers": lambda n: vtrial_responders(n // draws, draws, "independent"),
    }
    for name, more in MORE.items():
        peers[f"vtrial, Sobol, with {name}"] = lambda n, more=more: vtrial_responders(n // draws, draws, **more)
    loop = numba_responders()
    if loop is None:
        rows["numba"] = "not installed; pip install '.[bench]', or make bench"
    else:
        peers["Numba, parallel loop"] = lambda n: loop(n, 1)
        rows["rate, Numba (4e6 patients)"] = loop(4_000_000, 7) / 4e6
    rate, _ = replicate_error(16_384, "sobol")
    rows["rate, vtrial Sobol (256 x 16,384)"] = rate
    rows["rate, vtrial independent (256 x 16,384)"] = replicate_error(16_384, "independent")[0]

    measured: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(asked.rounds):
        for name, run in peers.items():
            measured[name].append(slope(run, asked.seconds))
    speed = {name: statistics.median(values) for name, values in measured.items()}
    for name, value in speed.items():
        rows[f"patients a second, {name}"] = round(value)
        rows[f"  range of the rounds, {name}"] = [round(min(measured[name])), round(max(measured[name]))]
    if loop is not None:
        ratios = [a / b for a, b in zip(measured["vtrial, Sobol"], measured["Numba, parallel loop"], strict=True)]
        rows["throughput over Numba, median of the rounds"] = round(statistics.median(ratios), 2)

    # many draws of few patients have more to set up: what a standard error takes is timed on them
    pace = draw_pace(8_192)
    rows["patients a second, vtrial, Sobol, draws of 8,192"] = round(pace)
    needed = rate * (1.0 - rate) / 0.001**2
    rows["patients for an SE of 0.1 points, independent"] = round(needed)
    for size in (2_048, 4_096, 8_192, 16_384):
        _, sd = replicate_error(size, "sobol")
        rows[f"SD of one replicate of {size} Sobol patients, points"] = round(100 * sd, 4)
        gain = rate * (1.0 - rate) / size / sd**2
        rows[f"  variance of independent over Sobol patients, {size}"] = round(gain, 2)
        # replicates of this size in parallel until the mean has the error
        patients = size * (sd / 0.001) ** 2
        rows[f"  patients for an SE of 0.1 points in replicates of {size}"] = round(patients)
        if loop is not None:
            faster = needed / speed["Numba, parallel loop"] / (patients / pace)
            rows[f"  time of Numba over vtrial to it, {size}"] = round(faster, 1)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
