"""NUTS on the marginal, driven in blocks of draws: start, warm up, sample, and hand each block to the caller.

The state of every chain is a pytree of arrays, which is stored after each block: a killed fit goes on from there.
Chains are spread over the devices of the process and run one after another within a device: no chain waits for the
longest tree of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from numpyro.infer.hmc import hmc
from numpyro.infer.hmc_util import build_adaptation_schedule
from numpyro.infer.util import constrain_fn, potential_energy

from vtrial.checkpoint import Checkpoint, from_under, held_back, state_arrays, state_from, under
from vtrial.config import FitConfig
from vtrial.devices import Device
from vtrial.variational import Block, Start, first_guess, normal_draws, stored_start, variational_start

#: how much wider the mean of a collective site is than independent elements would make it. In PDXE the mean of 256 ln
#: growths has four times that SD: level, waning and mouse spreads trade with it. A trajectory would stop long before.
STRETCH = 4.0
#: potential energy that the first state of a chain is given, above any that the model reaches
FIRST_ENERGY = 1e12


STATISTICS = ("diverging", "num_steps", "accept_prob", "energy", "potential_energy")


class Sampler(NamedTuple):
    """NUTS in the coordinates ``w = (z - mean) / scale`` of a :class:`Start`, one vector for all sites.

    The whitening matters: numpyro's adaptation adds a fixed constant to every variance, which ruins the step size
    wherever a parameter is known to a few parts in a thousand.
    """

    init: Callable  # (key, w) -> state
    step: Callable  # (state, arrays) -> state
    unconstrained: Callable  # w -> z


def make_sampler(
    model: Callable,
    arrays: Any,
    start: Start,
    *,
    num_warmup: int,
    target_accept: float,
    max_tree_depth: int,
    collective: tuple[str, ...] = (),
) -> Sampler:
    """Build the functions; the elements of a site named in `collective` move together further than each alone."""
    mean, unravel = ravel_pytree(start.mean)
    scale, _ = ravel_pytree(start.scale)

    def unconstrained(w):
        z, own = unravel(mean + scale * w), unravel(w)
        return {
            k: v + start.scale[k] * (STRETCH - 1.0) * jnp.mean(own[k]) if k in collective else v for k, v in z.items()
        }

    def potential(arrays):
        if arrays is None:
            # of the first state alone: the gradient of the normal approximation, and an energy so high that the first
            # trajectory leaves it for certain. The true one would be compiled for this one use: 7 s of a fit of 40
            return lambda w: FIRST_ENERGY + 0.5 * jnp.sum(jnp.square(w))
        return lambda w: potential_energy(model, (arrays,), {}, unconstrained(w))

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    def init(key, w):
        return init_kernel(
            w,
            num_warmup,
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
            model_args=(None,),
            rng_key=key,
        )

    def step(state, arrays):
        return sample_kernel(state, (arrays,), {})

    return Sampler(init, step, unconstrained)


def initial_state(key: jax.Array, sampler: Sampler, start: Start, num_chains: int):
    """States of `num_chains` chains before warm-up, each started at its own draw of the normal approximation."""
    key_draw, key_chain = jax.random.split(key)
    mean, _ = ravel_pytree(start.mean)
    w = jax.random.normal(key_draw, (num_chains, *mean.shape), mean.dtype)

    @jax.jit
    def init(keys, w):
        return jax.lax.map(lambda each: sampler.init(*each), (keys, w))

    return init(jax.random.split(key_chain, num_chains), w)


def block_runner(sampler: Sampler, num_chains: int, devices: Sequence[Device], room: int) -> Callable:
    """Jitted ``run(states, arrays, length) -> (states, draws, stats)`` over all chains, on devices that divide them.

    A block has room for `room` iterations and makes `length` of them, which is an argument of the program: blocks of
    all lengths are compiled once.
    """
    shards = max(n for n in range(1, len(devices) + 1) if num_chains % n == 0)
    mesh = Mesh(np.array(list(devices[:shards])), ("chain",))

    @jax.jit
    def run(states, arrays, length):
        def one_chain(state):
            def step(state):
                state = sampler.step(state, arrays)
                return state, (sampler.unconstrained(state.z), {name: getattr(state, name) for name in STATISTICS})

            def iteration(i, carry):
                state, kept = carry
                state, made = step(state)
                return state, jax.tree.map(lambda all_made, one: all_made.at[i].set(one), kept, made)

            _, like = jax.eval_shape(step, state)
            empty = jax.tree.map(lambda one: jnp.zeros((room, *one.shape), one.dtype), like)
            return jax.lax.fori_loop(0, length, iteration, (state, empty))

        def many(states):
            return jax.lax.map(one_chain, states)

        return jax.shard_map(many, mesh=mesh, in_specs=Spec("chain"), out_specs=Spec("chain"), check_vma=False)(states)

    # states that lie elsewhere would have the whole program compiled a second time
    place = NamedSharding(mesh, Spec("chain"))

    def block(states, arrays, *, length: int):
        if length > room:
            raise ValueError(f"{length} iterations in a block with room for {room}")
        states, kept = run(jax.device_put(states, place), arrays, length)
        return states, *jax.tree.map(lambda values: np.asarray(values)[:, :length], kept)

    return block


def sharing_times(num_warmup: int) -> list[int]:
    """Iterations after which chains share what they have adapted: each time NumPyro has new variances, and the end.

    The step size is adapted once more after every one but the last, and so to the variances that are used.
    """
    windows = build_adaptation_schedule(num_warmup)
    return [int(window.end) + 1 for window in windows[1:] or windows]


def share_adaptation(states: Any) -> Any:
    """States that go on with the mean variances and the median step size of all chains.

    Each chain learns thousands of variances from a few hundred draws, and the noise of that decides whether a
    trajectory takes 31 or 127 steps. Within the warm-up each chain goes on to adapt the step size, to the variances
    that it has now; at its end both are fixed.
    """
    adapted = states.adapt_state
    steps, variances = np.asarray(adapted.step_size), np.asarray(adapted.inverse_mass_matrix)
    scale = np.broadcast_to(np.sqrt(variances.mean(axis=0)), variances.shape)
    shared = adapted._replace(
        step_size=np.full_like(steps, np.exp(np.median(np.log(steps)))),
        inverse_mass_matrix=np.square(scale),
        mass_matrix_sqrt=1.0 / scale,
        mass_matrix_sqrt_inv=scale,
    )
    return states._replace(adapt_state=shared)


def sample_blocks(
    run: Callable,
    states: Any,
    arrays: Any,
    wanted: np.ndarray,
    block: int,
    checkpoint: Checkpoint | None = None,
    *,
    num_warmup: int = 0,
) -> Iterator[Block]:
    """Yield blocks until all iterations are made; the last before chains share, and the last of all, may be shorter.

    Parameters
    ----------
    run, states, arrays
        See :func:`block_runner`, :func:`initial_state`.
    wanted
        Of every iteration, whether its draw is kept; statistics are kept of all.
    block
        Iterations of a block.
    checkpoint
        Takes each block with the states after it; what it holds already is not computed again.
    num_warmup
        Iterations of the warm-up; the chains share what they have adapted at :func:`sharing_times`.
    """
    done, sharing = 0, sharing_times(num_warmup) if num_warmup else []
    while done < len(wanted):
        piece = f"iterations-{done:08d}"
        kept = checkpoint.load(piece) if checkpoint else None
        if kept is not None:
            states = state_from(kept, states)
            made = Block(from_under("draws", kept), from_under("stats", kept))
        else:
            # a block ends where chains share, so that the length of blocks changes no draw
            end = next((each for each in sharing if each > done), len(wanted))
            asked = wanted[done : min(done + block, end)]
            with held_back():
                states, draws, stats = run(states, arrays, length=len(asked))
                made = Block({name: values[:, asked] for name, values in draws.items()}, stats)
                if checkpoint:
                    parts = {**under("draws", made.draws), **under("stats", made.stats), **state_arrays(states)}
                    checkpoint.save(piece, parts)
        done += made.stats["diverging"].shape[1]
        if done in sharing:
            states = share_adaptation(states)
        yield made


def constrain(
    model: Callable, arrays: Any, draws: dict[str, np.ndarray], sites: tuple[str, ...] | None = None, batch: int = 50
) -> dict[str, np.ndarray]:
    """Constrained sites and deterministics of unconstrained draws [chain, draw, ...]; only `sites` where given."""
    transform = partial(constrain_fn, model, (arrays,), {}, return_deterministic=True)

    def one(z):
        values = transform(z)
        return values if sites is None else {k: v for k, v in values.items() if k in sites}

    many = jax.jit(lambda z: jax.lax.map(one, z, batch_size=batch))
    shape = next(iter(draws.values())).shape[:2]
    flat = {k: jnp.asarray(v).reshape(-1, *v.shape[2:]) for k, v in draws.items()}
    return {k: np.asarray(v).reshape(*shape, *v.shape[1:]) for k, v in many(flat).items()}


class Fit(NamedTuple):
    """What a fit leaves: constrained draws [chain, draw, ...] and sampler statistics [chain, draw]."""

    values: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]  # unconstrained
    losses: np.ndarray
    seconds: dict[str, float]


def fit(
    key: jax.Array,
    model: Callable,
    arrays: Any,
    values: Mapping[str, jax.Array],
    config: FitConfig,
    sites: tuple[str, ...],
    progress: Callable[[str, int, int], None],
    devices: Sequence[Device],
    collective: tuple[str, ...] = (),
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Variational start, warm-up, draws; all of it in float64. With ``config.sampler`` variational its draws alone.

    Parameters
    ----------
    key
        Consumed.
    model, arrays
        See :mod:`vtrial.model`.
    values
        First guesses of some sites.
    config
        Chains, draws, blocks.
    sites
        Constrained sites and deterministics to keep.
    progress
        Called with the stage, iterations done and iterations in all, after every block.
    devices
        Devices to spread the chains over.
    collective
        See :func:`make_sampler`.
    checkpoint
        Takes the start and every block; a fit that finds them there goes on, to the same bytes.
    """
    clock = [time.perf_counter()]
    key_guess, key_start, key_chains = jax.random.split(key, 3)
    progress("variational start", 0, config.svi_steps)

    def make_start() -> Start:
        guess = first_guess(key_guess, model, arrays, values)
        return variational_start(key_start, model, arrays, guess, config.svi_steps)

    start = stored_start(checkpoint, make_start)
    clock.append(time.perf_counter())
    if config.sampler == "variational":
        draws, stats = normal_draws(key_chains, model, arrays, start, config.chains, config.draws)
    else:
        draws, stats = _nuts_draws(key_chains, model, arrays, start, config, progress, devices, collective, checkpoint)
    clock.append(time.perf_counter())
    constrained = constrain(model, arrays, draws, sites)
    clock.append(time.perf_counter())
    stages = ["start", "sample", "constrain"]
    seconds = dict(zip(stages, np.diff(clock).round(2).tolist(), strict=True))
    return Fit(constrained, stats, draws, start.losses, seconds)


def _nuts_draws(
    key: jax.Array,
    model: Callable,
    arrays: Any,
    start: Start,
    config: FitConfig,
    progress: Callable[[str, int, int], None],
    devices: Sequence[Device],
    collective: tuple[str, ...],
    checkpoint: Checkpoint | None,
) -> Block:
    """The kept draws of all chains, in one block."""
    sampler = make_sampler(
        model,
        arrays,
        start,
        num_warmup=config.warmup,
        target_accept=config.target_accept,
        max_tree_depth=config.max_tree_depth,
        collective=collective,
    )
    states = initial_state(key, sampler, start, config.chains)
    total = config.warmup + config.draws * config.thin
    run = block_runner(sampler, config.chains, devices, min(config.block, total))
    done, blocks = 0, []
    wanted = np.zeros(total, bool)
    wanted[config.warmup + config.thin - 1 :: config.thin] = True
    for block in sample_blocks(run, states, arrays, wanted, config.block, checkpoint, num_warmup=config.warmup):
        done += block.stats["diverging"].shape[1]
        blocks.append(block)
        progress("warm-up" if done <= config.warmup else "draws", done, total)
    draws = {k: np.concatenate([b.draws[k] for b in blocks], axis=1) for k in blocks[0].draws}
    stats = {k: np.concatenate([b.stats[k] for b in blocks], axis=1)[:, config.warmup :] for k in blocks[0].stats}
    # a divergence between two kept draws counts with the second
    diverging = stats["diverging"].reshape(config.chains, config.draws, config.thin).any(axis=-1)
    stats = {k: v[:, config.thin - 1 :: config.thin] for k, v in stats.items()}
    stats["diverging"] = np.asarray(diverging)
    return Block(draws, stats)
