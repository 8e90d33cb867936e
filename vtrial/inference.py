"""NUTS on the marginal, driven in blocks of draws: start, warm up, sample, and hand each block to the caller.

The state of every chain is a pytree of arrays, so that a caller can store it after each block and go on from there.
Chains are spread over the devices of the process and run one after another within a device: no chain waits for the
longest tree of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.hmc import hmc
from numpyro.infer.util import constrain_fn, potential_energy

from vtrial.config import FitConfig
from vtrial.devices import Device
from vtrial.errors import VtrialError


class Start(NamedTuple):
    """A normal approximation in the unconstrained space: where the chains start, and the scale of their coordinates."""

    mean: dict[str, jax.Array]
    scale: dict[str, jax.Array]
    losses: np.ndarray


#: how much wider the mean of a collective site is than independent elements would make it. In PDXE the mean of 256 ln
#: growths has four times that SD: level, waning and mouse spreads trade with it. A trajectory would stop long before.
STRETCH = 4.0


class Block(NamedTuple):
    """Draws of one block, chain first."""

    draws: dict[str, np.ndarray]  # unconstrained, [chain, draw, ...]
    stats: dict[str, np.ndarray]  # [chain, draw]


STATISTICS = ("diverging", "num_steps", "accept_prob", "energy", "potential_energy")


def first_guess(key: jax.Array, model: Callable, arrays: Any, values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Unconstrained starting point: `values` where given, else the mean of each prior. Jitted: no op runs alone."""

    def choose(site):
        if site["type"] != "sample" or site["is_observed"]:
            return None
        prior = site["fn"]
        return values[site["name"]] if site["name"] in values else jnp.broadcast_to(prior.mean, prior.shape())

    def unconstrained(site):
        transform = cast(Any, biject_to(site["fn"].support))
        return transform.inv(site["value"])

    @jax.jit
    def guess(key, arrays):
        sites = handlers.trace(handlers.substitute(handlers.seed(model, key), substitute_fn=choose)).get_trace(arrays)
        return {
            name: unconstrained(site)
            for name, site in sites.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    return guess(key, arrays)


def variational_start(
    key: jax.Array, model: Callable, arrays: Any, guess: dict[str, jax.Array], num_steps: int
) -> Start:
    """Mean-field normal approximation by stochastic variational inference: Adam, cosine decay, one sample a step.

    A quick look at the posterior, and the start of NUTS. Written out because NumPyro's guide needs a minute to trace
    and compile thousands of latents (measured), this a few seconds.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, num_steps, alpha=0.01))
    flat, unravel = ravel_pytree(guess)

    def loss(parameters, noise, arrays):
        mean, log_scale = parameters
        z = jax.tree.map(lambda m, s, e: m + jnp.exp(s) * e, mean, log_scale, noise)
        return potential_energy(model, (arrays,), {}, z) - sum(jnp.sum(s) for s in jax.tree.leaves(log_scale))

    @jax.jit
    def optimise(key, guess, arrays):
        parameters = (guess, jax.tree.map(lambda v: jnp.full_like(v, -3.0), guess))

        def step(carry, key):
            parameters, state = carry
            # one generator for all sites, kept out of the kernels that read a piece of it: else each makes its own
            noise = unravel(jax.lax.optimization_barrier(jax.random.normal(key, flat.shape, flat.dtype)))
            value, slope = jax.value_and_grad(loss)(parameters, noise, arrays)
            # a single wild sample must not throw the optimiser off for good
            slope = jax.tree.map(lambda g: jnp.clip(jnp.nan_to_num(g), -1e4, 1e4), slope)
            update, state = optimiser.update(slope, state)
            return (optax.apply_updates(parameters, update), state), value

        carry = (parameters, optimiser.init(parameters))
        (parameters, _), losses = jax.lax.scan(step, carry, jax.random.split(key, num_steps))
        return parameters, losses

    (mean, log_scale), losses = optimise(key, guess, arrays)
    if not np.isfinite(np.asarray(losses[-1])):
        raise VtrialError(
            "the variational start diverged: its loss is not finite; check the priors and units of the table"
        )
    return Start(mean, jax.tree.map(jnp.exp, log_scale), np.asarray(losses))


class Sampler(NamedTuple):
    """NUTS in the coordinates ``w = (z - mean) / scale`` of a :class:`Start`, as two pure functions.

    The whitening matters: numpyro's adaptation adds a fixed constant to every variance, which ruins the step size
    wherever a parameter is known to a few parts in a thousand.
    """

    init: Callable  # (key, w, arrays) -> state
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

    def unconstrained(w):
        stretched = {k: v + (STRETCH - 1.0) * jnp.mean(v) if k in collective else v for k, v in w.items()}
        return {k: start.mean[k] + start.scale[k] * v for k, v in stretched.items()}

    def potential(arrays):
        return lambda w: potential_energy(model, (arrays,), {}, unconstrained(w))

    init_kernel, sample_kernel = hmc(potential_fn_gen=potential, algo="NUTS")

    def init(key, w, arrays):
        return init_kernel(
            w,
            num_warmup,
            target_accept_prob=target_accept,
            max_tree_depth=max_tree_depth,
            model_args=(arrays,),
            rng_key=key,
        )

    def step(state, arrays):
        return sample_kernel(state, (arrays,), {})

    return Sampler(init, step, unconstrained)


def initial_state(key: jax.Array, sampler: Sampler, start: Start, arrays: Any, num_chains: int):
    """States of `num_chains` chains before warm-up, each started at its own draw of the normal approximation."""
    key_draw, key_chain = jax.random.split(key)
    keys = dict(zip(sorted(start.mean), jax.random.split(key_draw, len(start.mean)), strict=True))
    w = {k: jax.random.normal(keys[k], (num_chains, *m.shape), m.dtype) for k, m in start.mean.items()}

    @jax.jit
    def init(keys, w, arrays):
        return jax.lax.map(lambda each: sampler.init(each[0], each[1], arrays), (keys, w))

    return init(jax.random.split(key_chain, num_chains), w, arrays)


def block_runner(sampler: Sampler, num_chains: int, devices: Sequence[Device]) -> Callable:
    """Jitted ``run(states, arrays, length) -> (states, draws, stats)`` over all chains, on devices that divide them."""
    shards = max(n for n in range(1, len(devices) + 1) if num_chains % n == 0)
    mesh = Mesh(np.array(list(devices[:shards])), ("chain",))

    @partial(jax.jit, static_argnames=("length",))
    def run(states, arrays, *, length: int):
        def one_chain(state):
            def step(state, _):
                state = sampler.step(state, arrays)
                return state, (sampler.unconstrained(state.z), {name: getattr(state, name) for name in STATISTICS})

            return jax.lax.scan(step, state, None, length=length)

        def many(states):
            return jax.lax.map(one_chain, states)

        spread = jax.shard_map(many, mesh=mesh, in_specs=Spec("chain"), out_specs=Spec("chain"), check_vma=False)
        state, (draws, stats) = spread(states)
        return state, draws, stats

    # states that lie elsewhere would have the whole program compiled a second time
    place = NamedSharding(mesh, Spec("chain"))
    return lambda states, arrays, *, length: run(jax.device_put(states, place), arrays, length=length)


def sample_blocks(run: Callable, states: Any, arrays: Any, num_draws: int, block: int) -> Iterator[tuple[Any, Block]]:
    """Yield ``(states, Block)`` until `num_draws` draws a chain are made; the last block may be shorter."""
    done = 0
    while done < num_draws:
        length = min(block, num_draws - done)
        states, draws, stats = run(states, arrays, length=length)
        done += length
        yield states, Block(jax.tree.map(np.asarray, draws), jax.tree.map(np.asarray, stats))


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


class MouseDraws(NamedTuple):
    """Draws [D, S] of what a fit integrates out."""

    coefficient: np.ndarray  # [D, S, 3] eta, s, c of every mouse, float32
    effect: np.ndarray  # [D, S] fraction of growth removed in the cell (PDX model x treatment) of the mouse, float32


def mouse_draws(key: jax.Array, model: Callable, arrays: Any, draws: dict[str, np.ndarray]) -> MouseDraws:
    """Draws of mice and cells from their exact conditional, given unconstrained draws [D, ...] of all else.

    `model` is one built with ``mouse_level=True``. The coefficients are drawn given the curve, the effect given the
    coefficients, of which alone it knows anything. Several mice of one cell have one effect, which is explicit.
    """
    transform = partial(constrain_fn, model, (arrays,), {}, return_deterministic=True)
    flat = {k: jnp.asarray(v) for k, v in draws.items()}
    size = next(iter(draws.values())).shape[0]

    def one(each):
        key, z = each
        key_mouse, key_cell = jax.random.split(key)
        sites = transform(z)
        mean, covariance = sites["mouse_mean"], sites["mouse_covariance"]
        # a coefficient that the curve fixes has a variance of 0 up to rounding, which has no Cholesky factor
        value, vector = jnp.linalg.eigh(covariance)
        noise = jnp.sqrt(jnp.maximum(value, 0.0)) * jax.random.normal(key_mouse, mean.shape, mean.dtype)
        coefficient = mean + jnp.einsum("sij,sj->si", vector, noise)
        weight = jnp.linalg.solve(sites["mouse_prior_covariance"], sites["cell_loading"][..., None])[..., 0]
        centre = sites["cell_effect"] + jnp.sum(weight * (coefficient - sites["mouse_prior_mean"]), axis=-1)
        variance = sites["cell_spread"] ** 2 - jnp.sum(weight * sites["cell_loading"], axis=-1)
        deviation = jnp.sqrt(jnp.maximum(variance, 0.0)) * jax.random.normal(key_cell, centre.shape, centre.dtype)
        return coefficient.astype(jnp.float32), (centre + deviation).astype(jnp.float32)

    drawn = jax.jit(lambda each: jax.lax.map(one, each))((jax.random.split(key, size), flat))
    return MouseDraws(*(np.asarray(x) for x in drawn))


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
) -> Fit:
    """Variational start, warm-up, draws; all of it in float64.

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
    """
    clock = [time.perf_counter()]
    key_guess, key_start, key_chains = jax.random.split(key, 3)
    progress("variational start", 0, config.svi_steps)
    guess = first_guess(key_guess, model, arrays, values)
    start = variational_start(key_start, model, arrays, guess, config.svi_steps)
    clock.append(time.perf_counter())
    sampler = make_sampler(
        model,
        arrays,
        start,
        num_warmup=config.warmup,
        target_accept=config.target_accept,
        max_tree_depth=config.max_tree_depth,
        collective=collective,
    )
    states = initial_state(key_chains, sampler, start, arrays, config.chains)
    run = block_runner(sampler, config.chains, devices)
    total = config.warmup + config.draws * config.thin
    done, blocks = 0, []
    # blocks of one length compile once; warm-up and draws share them and are told apart at the end
    for _, block in sample_blocks(run, states, arrays, total, config.block):
        done += next(iter(block.stats.values())).shape[1]
        blocks.append(block)
        progress("warm-up" if done <= config.warmup else "draws", done, total)
    clock.append(time.perf_counter())
    keep = slice(config.warmup + config.thin - 1, None, config.thin)
    draws = {k: np.concatenate([b.draws[k] for b in blocks], axis=1)[:, keep] for k in blocks[0].draws}
    stats = {k: np.concatenate([b.stats[k] for b in blocks], axis=1)[:, config.warmup :] for k in blocks[0].stats}
    # a divergence between two kept draws counts with the second
    diverging = stats["diverging"].reshape(config.chains, config.draws, config.thin).any(axis=-1)
    stats = {k: v[:, config.thin - 1 :: config.thin] for k, v in stats.items()}
    stats["diverging"] = np.asarray(diverging)
    constrained = constrain(model, arrays, draws, sites)
    clock.append(time.perf_counter())
    stages = ["start", "sample", "constrain"]
    seconds = dict(zip(stages, np.diff(clock).round(2).tolist(), strict=True))
    return Fit(constrained, stats, draws, start.losses, seconds)
