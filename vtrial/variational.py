"""The normal approximation of a posterior, by stochastic variational inference: start of the chains, and a first look.

A mean-field normal in the unconstrained space: every parameter with a mean and an SD of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import potential_energy

from vtrial.checkpoint import Checkpoint, from_under, held_back, under
from vtrial.errors import VtrialError


class Start(NamedTuple):
    """A normal approximation in the unconstrained space: where the chains start, and the scale of their coordinates."""

    mean: dict[str, jax.Array]
    scale: dict[str, jax.Array]
    losses: np.ndarray


class Block(NamedTuple):
    """Draws of one block, chain first."""

    draws: dict[str, np.ndarray]  # unconstrained, [chain, draw, ...]
    stats: dict[str, np.ndarray]  # [chain, draw]


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


def stored_start(checkpoint: Checkpoint | None, make: Callable[[], Start]) -> Start:
    """The start that a checkpoint holds, else the one that `make` makes, which the checkpoint then holds."""
    kept = checkpoint.load("start") if checkpoint else None
    if kept is not None:
        mean, scale = ({k: jnp.asarray(v) for k, v in from_under(part, kept).items()} for part in ("mean", "scale"))
        return Start(mean, scale, kept["losses"])
    with held_back():
        start = make()
        if checkpoint:
            parts = {**under("mean", start.mean), **under("scale", start.scale), "losses": start.losses}
            checkpoint.save("start", parts)
    return start


def variational_start(
    key: jax.Array, model: Callable, arrays: Any, guess: dict[str, jax.Array], num_steps: int
) -> Start:
    """Mean-field normal approximation by stochastic variational inference: Adam, cosine decay, one sample a step.

    A first look at the posterior, and the start of NUTS. Written out because NumPyro's guide needs a minute to trace
    and compile thousands of latents (measured), this a few seconds.
    """
    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, num_steps, alpha=0.01))
    # one vector for all sites: XLA compiles an update of one array, not of dozens
    flat, unravel = ravel_pytree(guess)

    def loss(parameters, noise, arrays):
        mean, log_scale = parameters
        z = unravel(mean + jnp.exp(log_scale) * noise)
        return potential_energy(model, (arrays,), {}, z) - jnp.sum(log_scale)

    @jax.jit
    def optimise(key, flat, arrays):
        def step(carry, key):
            parameters, state = carry
            # kept out of the kernels that read a piece of it: else each makes its own
            noise = jax.lax.optimization_barrier(jax.random.normal(key, flat.shape, flat.dtype))
            value, slope = jax.value_and_grad(loss)(parameters, noise, arrays)
            # a single wild sample must not throw the optimiser off for good
            slope = jax.tree.map(lambda g: jnp.clip(jnp.nan_to_num(g), -1e4, 1e4), slope)
            update, state = optimiser.update(slope, state)
            return (optax.apply_updates(parameters, update), state), value

        parameters = (flat, jnp.full_like(flat, -3.0))
        carry = (parameters, optimiser.init(parameters))
        (parameters, _), losses = jax.lax.scan(step, carry, jax.random.split(key, num_steps))
        mean, log_scale = cast(Any, parameters)
        return unravel(mean), unravel(jnp.exp(log_scale)), losses

    mean, scale, losses = optimise(key, flat, arrays)
    if not np.isfinite(np.asarray(losses[-1])):
        raise VtrialError(
            "the variational start diverged: its loss is not finite; check the priors and units of the table"
        )
    return Start(mean, scale, np.asarray(losses))


def normal_draws(key: jax.Array, model: Callable, arrays: Any, start: Start, num_chains: int, num_draws: int) -> Block:
    """Independent draws of the normal approximation: a first look at the posterior, laid out as NUTS would.

    ``log_weight`` is ln posterior - ln approximation of a draw, less its largest: the k-hat of their tail says how far
    the one is from the other (Yao et al. 2018, ICML; PMLR 80:5581).
    """
    mean, unravel = ravel_pytree(start.mean)
    scale, _ = ravel_pytree(start.scale)

    @jax.jit
    def draw(keys, arrays):
        def one(key):
            noise = jax.random.normal(key, mean.shape, mean.dtype)
            z = unravel(mean + scale * noise)
            potential = potential_energy(model, (arrays,), {}, z)
            return z, potential, 0.5 * jnp.sum(jnp.square(noise)) - potential

        return jax.lax.map(one, keys)

    drawn = draw(jax.random.split(key, num_chains * num_draws), arrays)
    z, potential, log_weight = jax.tree.map(lambda v: np.asarray(v).reshape(num_chains, num_draws, *v.shape[1:]), drawn)
    still = np.zeros((num_chains, num_draws))
    stats = {"diverging": still > 0, "num_steps": still, "accept_prob": still + 1, "energy": potential}
    # stored as float32, which keeps six digits of a difference, not of the height of a density
    return Block(z, stats | {"potential_energy": potential, "log_weight": log_weight - log_weight.max()})
