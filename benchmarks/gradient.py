"""How long does one gradient of the log density of a fit take? Each step of NUTS is one of them.

    python benchmarks/gradient.py [FILE]

The model of FILE (`experiments/pdxe.yaml`) at its first guess, its value and gradient 200 times in one program, seven
runs of it. Printed are the median of the time a gradient, by the wall and by the processor (more than the wall where
XLA spreads it over cores; `taskset -c 0` or NPROC=1 keep it on one), and what XLA counts in a run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import potential_energy

from vtrial.experiment import load_experiment
from vtrial.inputs import read_inputs
from vtrial.model import arrays_of, build_model
from vtrial.model_format import PRIORS
from vtrial.panel import build_panel
from vtrial.variational import first_guess

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS, RUNS = 200, 7


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REPOSITORY / "experiments" / "pdxe.yaml")
    inputs = read_inputs(load_experiment(parser.parse_args().file, [], False))
    panel = build_panel(inputs.dataset, inputs.drug_class, inputs.experiment.fit.curve_shape)
    with jax.enable_x64(True):
        arrays, model = arrays_of(panel), build_model(panel, inputs.priors.distributions(PRIORS))
        growth = {"ln_growth": jnp.asarray(panel.initial_growth)}
        start, unravel = ravel_pytree(first_guess(jax.random.key(0), model, arrays, growth))

        @jax.jit
        def many(z, arrays):
            def step(z, _):
                value, slope = jax.value_and_grad(lambda z: potential_energy(model, (arrays,), {}, unravel(z)))(z)
                return z - 1e-9 * slope, value  # each gradient needs the one before it

            return jax.lax.scan(step, z, None, length=STEPS)

        compiled = many.lower(start, arrays).compile()
        compiled(start, arrays)[1].block_until_ready()
        times = []
        for _ in range(RUNS):
            wall, processor = time.perf_counter(), time.process_time()
            compiled(start, arrays)[1].block_until_ready()
            times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall, processor = 1e3 * np.median(times, axis=0) / STEPS
    cost = compiled.cost_analysis()
    print(
        f"{len(panel.labels.mouse)} mice, {start.size} parameters: {wall:.2f} ms a gradient, {processor:.2f} ms of the "
        f"processor; {cost['flops'] / 1e6:.1f} M operations, {cost['bytes accessed'] / 1e6:.0f} MB read and written"
    )


if __name__ == "__main__":
    main()
