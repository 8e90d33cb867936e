"""The sequence: SciPy's own points, even in every dimension, uniform after scrambling, and better than chance."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vtrial import sobol

KEY = jax.random.key(4)
DIMENSIONS = (0, 3, 7, 25)


@jax.jit
def bits_of(key, points, block):
    return sobol.block_bits(points, sobol.shift(key, points, block // sobol.BLOCKS_PER_NET), block)


def test_direction_numbers_are_those_of_the_sequence():
    """All of the first 4,096 points, put together from direction numbers by the bits of their index."""
    plain = np.array(sobol._directions(6), np.uint64)
    made = np.zeros((4096, 6), np.uint64)
    for bit in range(12):
        made ^= np.where((np.arange(4096) >> bit & 1)[:, None] == 1, plain[:, bit], 0).astype(np.uint64)
    reference = stats.qmc.Sobol(6, scramble=False, bits=32).random(4096)
    # SciPy goes through the same set of points in Gray code order
    gray = np.arange(4096) ^ (np.arange(4096) >> 1)
    np.testing.assert_array_equal(made[gray], (reference * 2.0**32).astype(np.uint64))


def test_a_block_and_a_net_are_even_in_every_dimension():
    """Each of 2,048 equal parts of every axis holds one point of a block, and 32 of a net of 65,536."""
    points = sobol.points(KEY, DIMENSIONS)
    net = np.concatenate([np.asarray(bits_of(KEY, points, jnp.int32(block))) for block in range(32)], axis=1)
    for axis in net >> np.uint32(21):
        assert np.all(np.bincount(axis[: sobol.BLOCK], minlength=2048) == 1)
        assert np.all(np.bincount(axis, minlength=2048) == 32)
        assert len(np.unique(axis)) == 2048
    # the first two dimensions are a (0, 2)-sequence: one point in every box of area 1 / 2048, scrambled or not
    first = sobol.points(KEY, (0, 1))
    pair = np.asarray(bits_of(KEY, first, jnp.int32(5)))
    for bits in range(12):
        box = (pair[0].astype(np.uint64) >> np.uint64(32 - bits)) * 2 ** (11 - bits)
        box = box + (pair[1].astype(np.uint64) >> np.uint64(32 - (11 - bits)))
        assert len(np.unique(box)) == 2048


def test_scrambles_differ_and_the_same_dimension_has_the_same_points():
    points, fewer = sobol.points(KEY, DIMENSIONS), sobol.points(KEY, DIMENSIONS[2:])
    one = bits_of(KEY, points, jnp.int32(1))
    np.testing.assert_array_equal(one[2:], bits_of(KEY, fewer, jnp.int32(1)))
    assert not np.array_equal(one, bits_of(jax.random.key(5), points, jnp.int32(1)))
    assert not np.array_equal(one, bits_of(KEY, points, jnp.int32(33))), "the same block of another net"


def test_numbers_have_their_laws():
    points = sobol.points(KEY, DIMENSIONS)
    bits = bits_of(KEY, points, jnp.int32(0))[0]
    # 2,048 points, one in each part of the axis: their distribution function is off by at most one part
    for number, law in ((sobol.normal, stats.norm), (sobol.uniform, stats.uniform), (sobol.exponential, stats.expon)):
        assert stats.kstest(np.asarray(number(bits)), law.cdf).statistic <= 1.0 / 2048 + 1e-6
    ends = jnp.array([0, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
    assert np.isfinite(np.asarray(sobol.normal(ends))).all()
    assert np.asarray(sobol.normal(ends)).tolist() == pytest.approx(
        [
            stats.norm.ppf(0.5 + 2.0**-25),
            stats.norm.ppf(1 - 2.0**-25),
            stats.norm.ppf(2.0**-25),
            -stats.norm.ppf(0.5 + 2.0**-25),
        ],
        rel=1e-4,
        abs=1e-9,
    )
    assert float(sobol.uniform(ends).max()) < 1.0 and np.isfinite(np.asarray(sobol.exponential(ends))).all()


@pytest.mark.parametrize("size", [1, 4])
def test_the_error_of_scrambles_is_below_that_of_chance(size):
    """P(a + b + c + d > 2) for standard normal numbers: unbiased over 64 scrambles, with a smaller spread."""
    points = sobol.points(KEY, (0, 1, 2, 3))

    @jax.jit
    def share(draw):
        key = jax.random.fold_in(KEY, draw)
        bits = jax.vmap(lambda block: bits_of(key, points, block))(jnp.arange(size))
        return jnp.mean(jnp.sum(sobol.normal(bits), axis=1) > 2.0)

    shares = np.array([float(share(draw)) for draw in range(64)])
    exact = stats.norm.sf(1.0)
    chance = math.sqrt(exact * (1 - exact) / (size * sobol.BLOCK))
    assert abs(shares.mean() - exact) < 5.0 * shares.std(ddof=1) / 8.0
    # the SD of 64 replicates is known to 9 %: five of these below half of chance is a gain of 4 in variance
    assert shares.std(ddof=1) < 0.5 * chance
