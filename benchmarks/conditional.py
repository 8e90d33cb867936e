"""Does it pay to integrate new lesions and leaving out of a response rate, instead of counting patients who respond?

    python benchmarks/conditional.py [--replicates 256]

The patients of `simulate.py`, with new lesions and dropout. Given all else about a patient, the response is confirmed
at one visit, and is one if neither has come by then: with probability exp(-H), H both hazards cumulated up to there.
The mean of those weights is the rate too, with a smaller variance (Rao and Blackwell). Printed are the rates, the
variance of each over replicates of 4,096 patients, relative to that of independent patients, and processor seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import simulate as same

from vtrial import trial
from vtrial.arm_layout import lay_out
from vtrial.base import Schedule, Trial
from vtrial.counting import block_of_patients, read_all, shift_of
from vtrial.course_parts import parts_of
from vtrial.deviates import BLOCK, draw_key
from vtrial.response import PR, RECIST_1_1

BLOCKS, SEEDS = 2, 4
HAZARDS = same.LESIONS_APPEAR | {"discontinuation_hazard": 0.0005}


def counted(patients, law, exposure, plan, setup, yes):
    found = read_all(patients, law, exposure, plan, setup, yes)
    return jnp.mean((found.confirmed[0] <= PR).astype(jnp.float32))


def integrated(patients, law, exposure, plan, setup, yes):
    without = setup._replace(parts=setup.parts._replace(new_lesions=False, discontinuation=False))
    found = read_all(patients, law, exposure, plan, without, yes)
    # visits are 56 days apart and none is missed: the visit after a response confirms it
    response = found.course.response[0]
    confirming = response & (response << 1)
    confirming = confirming & -confirming
    size = found.scans.seen[0] / found.scans.true[0][None]
    hazard = law.new_lesion_hazard * jnp.concatenate([jnp.ones_like(size[:1]), size])
    days = jnp.asarray(same.VISIT_DAY, jnp.float32)
    risk = jnp.cumsum(0.5 * (hazard[1:] + hazard[:-1]) * jnp.diff(days, prepend=0.0)[:, None], axis=0)
    weight = jnp.exp(-risk - law.discontinuation_hazard * days[:, None])
    return jnp.mean(sum(jnp.where(confirming == 1 << visit, weight[visit], 0.0) for visit in range(same.VISITS)))


@partial(jax.jit, static_argnames=("setup", "how"))
def rates(key, law, exposure, plan, setup, how):
    """Rate of every replicate."""
    plan = trial._with_points(key, plan, setup)

    def one(item):
        draw, law, exposure = item
        own = draw_key(key, draw)
        shift = shift_of(own, jnp.int32(0), plan)

        def block(number):
            patients = block_of_patients(own, shift, number, law, plan, setup)
            return how(patients, law, exposure, plan, setup, draw >= 0)

        return jnp.mean(jax.lax.map(block, jnp.arange(BLOCKS, dtype=jnp.int32)))

    return jax.lax.map(one, (jnp.arange(exposure.shape[0], dtype=jnp.int32), law, exposure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=256)
    replicates = parser.parse_args().replicates
    segment = jnp.arange(1, same.VISITS + 1) * same.SEGMENTS_PER_VISIT - 1
    schedule = Schedule(jnp.asarray(same.EDGES), segment, jnp.asarray(same.VISIT_DAY))
    exposure = jnp.broadcast_to(jnp.asarray(same.EXPOSURE, jnp.float32), (replicates, 1, 1, len(same.EXPOSURE)))
    law = same.law_of(replicates, **HAZARDS)
    asked = Trial(law, exposure, schedule, lay_out(["drug"], [["drug"]]), jnp.ones(1))
    rows: dict[str, object] = {}
    for numbers in ("independent", "sobol"):
        laid_out = trial._laid_out(asked, RECIST_1_1, numbers)
        setup = laid_out[3]._replace(parts=parts_of(law)._replace(lesions=same.LESIONS))
        variance, seconds = {}, {}
        for how in (counted, integrated):
            found, times = [], []
            for seed in range(SEEDS + 1):
                begun = time.process_time()
                rate = np.asarray(rates(jax.random.key(seed), *laid_out[:3], setup, how))
                if seed:  # the first compiles
                    found.append(rate.astype(float))
                    times.append(time.process_time() - begun)
            rate = np.concatenate(found)
            mean, error = float(rate.mean()), float(rate.std(ddof=1)) / math.sqrt(rate.size)
            variance[how], seconds[how] = float(rate.var(ddof=1)), statistics.median(times)
            rows[f"rate, {numbers}, {how.__name__}, with its standard error"] = [round(mean, 5), round(error, 5)]
            share = variance[how] * BLOCKS * BLOCK / (mean * (1 - mean))
            rows[f"  variance over that of independent patients, {numbers}, {how.__name__}"] = round(share, 4)
        for name, ratio in (("variance", variance), ("processor seconds", seconds)):
            rows[f"  {name} of counted over integrated, {numbers}"] = round(ratio[counted] / ratio[integrated], 2)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
