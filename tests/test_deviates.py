"""The random numbers of patients: who somebody is does not hang on what is asked for."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_patients import KEY, REGIMENS, SIGMA
from vtrial import deviates, sobol
from vtrial.arm_layout import drug_hash
from vtrial.base import Deviates
from vtrial.course_parts import EVERYTHING
from vtrial.deviates import BLOCK, Places, block_deviates, draw_key

deviates_of = jax.jit(block_deviates, static_argnames=("num_visits", "parts"))


def test_a_drug_has_its_numbers_by_name_and_others_do_not_matter():
    key, zero = draw_key(KEY, jnp.int32(3)), jnp.int32(0)
    one = deviates_of(key, zero, drug_hash(["a", "b", "c"]), REGIMENS.combination_hash[:2], 4)
    two = deviates_of(key, zero, drug_hash(["c", "a"]), REGIMENS.combination_hash[1:3], 6)
    np.testing.assert_array_equal(two.effect_z, one.effect_z[jnp.array([2, 0])])
    np.testing.assert_array_equal(two.combination_z[0], one.combination_z[1])
    # later visits change nothing before them
    np.testing.assert_array_equal(two.reading_z[:5], one.reading_z)
    np.testing.assert_array_equal(two.missed_u[:4], one.missed_u)
    for name in ("growth_z", "loss_rate_z", "sld_z", "lesion_pace_z", "new_lesion_e"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert getattr(one, name).dtype == jnp.float32


def test_draws_blocks_and_keys_give_other_patients():
    numbers = [
        jax.random.normal(jax.random.fold_in(draw_key(key, jnp.int32(draw)), jnp.int32(block)), ())
        for key in (KEY, jax.random.key(12))
        for draw in (0, 1)
        for block in (0, 1)
    ]
    assert len({float(number) for number in numbers}) == 8


def test_all_quantities_are_independent():
    key, zero = draw_key(KEY, jnp.int32(0)), jnp.int32(0)
    numbers = deviates_of(
        *(key, zero, drug_hash(["a", "b", "c"]), REGIMENS.combination_hash[:2], 4),
        EVERYTHING._replace(exposure=True, late_visits=True, cut_off=True, resistance=True, responders=True),
    )
    rows = np.concatenate([np.asarray(leaf).reshape(-1, BLOCK) for leaf in numbers])
    correlation = np.corrcoef(rows)
    off = np.abs(correlation[~np.eye(len(rows), dtype=bool)])
    # the SD of a correlation of independent numbers is 1 / sqrt(n); combination_z of one set of drugs comes once here
    assert off.max() < SIGMA / math.sqrt(BLOCK)


def test_no_two_quantities_share_a_stream():
    assert len({deviates._STREAM[name] for name in Deviates._fields}) == len(Deviates._fields)


def test_no_two_quantities_share_a_dimension_of_the_sequence():
    """As many drugs, combinations and visits as there may be: 47 and 45 places below the dimensions of late visits."""
    everything = EVERYTHING._replace(exposure=True, late_visits=True, cut_off=True, resistance=True, responders=True)
    taken = deviates._dimensions(Places(tuple(range(47)), tuple(range(45))), 31, everything)
    flat = [one for some in taken.values() for one in some]
    assert len(set(flat)) == len(flat) and max(flat) < sobol.MAX_DIMENSIONS
    with pytest.raises(ValueError, match="no room for 48 drugs"):
        deviates._dimensions(Places(tuple(range(48)), ()), 31, everything)
