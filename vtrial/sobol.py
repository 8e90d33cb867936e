"""Points that fill the unit cube evenly: an extensible scrambled Sobol sequence, block by block.

Point i of a net of 2^16 is the exclusive or of the direction numbers at the bits of i, so a block of 2,048 consecutive
points is one table, the same for every block, with one number per dimension laid over it. The direction numbers are
scrambled once per key (a random lower-triangular matrix over GF(2) per dimension, Matousek 1998), every draw and every
further net has a random digital shift of its own. Each point is then uniform on the cube and draws are independent
replicates given the matrices: means are unbiased, and their error is read from the spread over draws.

Source: Joe & Kuo, SIAM J Sci Comput 2008;30:2635 (direction numbers, taken from SciPy); Matousek, J Complexity
1998;14:527; Owen, Quasi-Monte Carlo Sampling, 2003.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

#: log2 of the points of one block, and of one net
BLOCK_BITS, NET_BITS = 11, 16
BLOCK = 1 << BLOCK_BITS

BLOCKS_PER_NET = 1 << (NET_BITS - BLOCK_BITS)

#: what a draw has shifts for; raising it moves no point, since the bits of a shift hang on its place alone
MAX_DIMENSIONS = 337


class Points(NamedTuple):
    """What all blocks share, for N dimensions.

    Attributes
    ----------
    dimension : Array [N]
        Number of each dimension in the sequence, uint32.
    low : Array [N, BLOCK]
        Points of the first block without a shift, uint32.
    high : Array [N, NET_BITS - BLOCK_BITS]
        Direction numbers of the block's own bits, uint32.
    """

    dimension: jax.Array
    low: jax.Array
    high: jax.Array


@lru_cache(maxsize=8)
def _directions(num: int) -> tuple[tuple[int, ...], ...]:
    """Direction numbers of the first dimensions, [num][NET_BITS] (host side)."""
    from scipy.stats import qmc

    columns = []
    for bit in range(NET_BITS):
        # in the Gray code order of SciPy the point before the 2^(bit+1)-th is one direction number alone
        sequence = qmc.Sobol(num, scramble=False, bits=32)
        sequence.fast_forward(2 ** (bit + 1) - 1)
        columns.append([int(x * 2.0**32) for x in sequence.random(1)[0].tolist()])
    return tuple(zip(*columns, strict=True))


def points(key: jax.Array, dimensions: Sequence[int]) -> Points:
    """Scramble the direction numbers and lay out what every block shares.

    Parameters
    ----------
    key
        Of the scramble; consumed.
    dimensions
        Which dimensions of the sequence, static; the points of one do not depend on which others are asked for.
    """
    if max(dimensions) >= MAX_DIMENSIONS:
        raise ValueError(
            f"the Sobol sequence: got {max(dimensions) + 1} dimensions; at most {MAX_DIMENSIONS} are laid out"
        )
    plain = _directions(max(dimensions) + 1)
    direction = jnp.asarray([plain[d] for d in dimensions], jnp.uint32).reshape(-1, NET_BITS)
    dimension = jnp.asarray(dimensions, jnp.uint32)
    direction = jax.vmap(_scrambled, in_axes=(None, 0, 0))(key, dimension, direction)
    low = jnp.zeros((len(dimensions), 1), jnp.uint32)
    for bit in range(BLOCK_BITS):
        low = jnp.concatenate([low, low ^ direction[:, bit : bit + 1]], axis=1)
    return Points(dimension, low, direction[:, BLOCK_BITS:])


def _scrambled(key: jax.Array, dimension: UInt32[Array, ""], direction: UInt32[Array, " J"]) -> UInt32[Array, " J"]:
    """A lower-triangular matrix with unit diagonal times the bits of each direction number, most significant first."""
    place = jnp.arange(32, dtype=jnp.uint32)
    above = ~((jnp.uint32(2) << place) - jnp.uint32(1))
    row = jax.random.bits(jax.random.fold_in(key, dimension), (32,), jnp.uint32)
    row = (row & above) | (jnp.uint32(1) << place)
    bit = jax.lax.population_count(direction[:, None] & row[None, :]) & jnp.uint32(1)
    return jnp.sum(bit << place[None, :], axis=1, dtype=jnp.uint32)


def shift(key: jax.Array, points: Points, net: Int[Array, ""]) -> UInt32[Array, " N"]:
    """Digital shift of one net of one draw; `key`, of the draw, is consumed."""
    bits = jax.random.bits(jax.random.fold_in(key, net), (MAX_DIMENSIONS,), jnp.uint32)
    return bits[points.dimension]


def block_bits(points: Points, shift: UInt32[Array, " N"], block: Int[Array, ""]) -> UInt32[Array, "N P"]:
    """Numbers of one block of one draw, uniform on the 32-bit integers.

    Parameters
    ----------
    points
        See `points`.
    shift
        Of the draw and of the net that the block is in.
    block
        Which block of the draw.
    """
    within = block % BLOCKS_PER_NET
    row = shift
    for bit in range(points.high.shape[1]):
        row = row ^ jnp.where((within >> bit) & 1 == 1, points.high[:, bit], jnp.uint32(0))
    return points.low ^ row[:, None]


def uniform(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Numbers on [0, 1), of 24 bits."""
    return (bits >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2.0**-24)


def normal(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Standard normal numbers by inversion, within 5.4 SD."""
    # in the middle of 2^24 equal parts of (-1, 1), which float32 holds exactly
    centred = (jax.lax.bitcast_convert_type(bits, jnp.int32) >> 8).astype(jnp.float32) + jnp.float32(0.5)
    return jnp.float32(2.0**0.5) * jax.lax.erf_inv(centred * jnp.float32(2.0**-23))


def exponential(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Unit exponential numbers by inversion."""
    return -jnp.log1p(-uniform(bits))
