"""mRECIST and the group measures by hand-computed cases, and on the published mice."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import mrecist, response
from vtrial.mrecist import MRECIST, MRECIST_PDXE
from vtrial.response import CR, NE, PD, PR, SD

# ------------------------------------------------------------------------------------------------ mice, by hand


@partial(jax.jit, static_argnames=("rule",))
def mrecist_of_many(volume, day, valid, rule):
    best, average = jax.vmap(partial(mrecist.mrecist_curve, rule=rule))(volume, day, valid)
    return best, average, response.mrecist_class(best, average)


doubling_of_many = jax.jit(jax.vmap(mrecist.doubling_time))


def one_curve(day, volume, valid=None):
    """A batch of one mouse, padded to six entries."""
    num_missing = 6 - len(day)
    valid = [True] * len(day) if valid is None else valid
    return (
        jnp.array([[*volume, *([math.nan] * num_missing)]], jnp.float32),
        jnp.array([[*day, *([0.0] * num_missing)]], jnp.float32),
        jnp.array([[*valid, *([False] * num_missing)]]),
    )


@pytest.mark.parametrize(
    ("day", "volume", "rule", "best", "average", "code"),
    [
        # changes 0, -50, -80, -60: means 0, -25, -43.3, -47.5; day 4 is too early for both minima
        ([0, 4, 11, 14], [200, 100, 40, 80], MRECIST, -80.0, -47.5, PR),
        # the smallest change at day 4 does not count; from day 10 on: 0, +50; means -90/3 = -30, -10
        ([0, 4, 11, 14], [200, 20, 200, 300], MRECIST, 0.0, -30.0, SD),
        # ends before day 10: read at its last measurement, as the published table does
        ([0, 3, 7], [100, 60, 130], MRECIST, 30.0, -10.0 / 3.0, SD),
        # day 10 itself counts in the text's rule, not for the average of the table's (day 11 on)
        ([0, 10, 14], [100, 80, 120], MRECIST, -20.0, -10.0, SD),
        ([0, 10, 14], [100, 80, 120], MRECIST_PDXE, -20.0, 0.0, SD),
        # -20 at day 10 did not last: +60 at day 14, before day 20. The text says SD, the table takes day 21: PD
        ([0, 10, 14, 21], [100, 80, 160, 200], MRECIST, -20.0, -10.0, SD),
        ([0, 10, 14, 21], [100, 80, 160, 200], MRECIST_PDXE, 100.0, 40.0 / 3.0, PD),
        # the same without the visit at day 14: nothing speaks against it
        ([0, 10, 21], [100, 80, 200], MRECIST_PDXE, -20.0, 80.0 / 3.0, SD),
        # nor does a mouse's last measurement
        ([0, 10, 14], [100, 80, 160], MRECIST_PDXE, -20.0, 40.0 / 3.0, SD),
        # undetectable from day 11 on: -100, mean (0 - 50 - 100 - 100) / 4
        ([0, 4, 11, 14], [200, 100, 0, 0], MRECIST, -100.0, -62.5, CR),
        # nothing to read
        ([0], [100], MRECIST, math.nan, math.nan, NE),
        ([0, 11], [0, 100], MRECIST, math.nan, math.nan, NE),
    ],
)
def test_mouse_curves_by_hand(day, volume, rule, best, average, code):
    got = mrecist_of_many(*one_curve(day, volume), rule)
    assert float(got[0][0]) == pytest.approx(best, rel=1e-5, abs=1e-4, nan_ok=True)
    assert float(got[1][0]) == pytest.approx(average, rel=1e-5, abs=1e-4, nan_ok=True)
    assert int(got[2][0]) == code


def test_padding_may_lie_anywhere():
    gaps = one_curve([9, 0, 5, 11, 14], [math.nan, 200, math.nan, 40, 80], [False, True, False, True, True])
    assert [float(x[0]) for x in mrecist_of_many(*gaps, MRECIST)[:2]] == pytest.approx([-80.0, -140.0 / 3.0])
    assert float(doubling_of_many(*gaps).day[0]) == 14.0


@pytest.mark.parametrize(
    ("best", "average", "code"),
    [
        (-96.0, -41.0, CR),
        (-95.0, -41.0, PR),  # every limit is exclusive
        (-96.0, -40.0, PR),
        (-50.0, -21.0, SD),
        (-51.0, -20.0, SD),
        (-100.0, -10.0, SD),  # a deep but short response is stable disease
        (34.9, 29.9, SD),
        (35.0, 0.0, PD),
        (0.0, 30.0, PD),
        (math.nan, 0.0, NE),
    ],
)
def test_mouse_classes_by_hand(best, average, code):
    assert int(response.mrecist_class(jnp.array(best), jnp.array(average))) == code


def test_group_measures_by_hand():
    treated, control, start = jnp.array([300.0, 100.0, 50.0]), jnp.array([500.0] * 3), jnp.array([100.0] * 3)
    assert mrecist.tumour_growth_inhibition(treated, start, control, start).tolist() == [50.0, 100.0, 112.5]
    assert mrecist.treated_over_control(treated, control).tolist() == pytest.approx([60.0, 20.0, 10.0])


def test_doubling_time_and_growth_delay_by_hand():
    control = doubling_of_many(*one_curve([0, 4, 8], [100, 150, 250]))  # 150 -> 250 between 4 and 8: 200 at day 6
    slow = doubling_of_many(*one_curve([0, 10, 20], [100, 90, 310]))  # 200 lies half way: day 15
    never = doubling_of_many(*one_curve([0, 10, 40], [100, 90, 180]))
    empty = doubling_of_many(*one_curve([0], [100]))
    assert [float(x.day[0]) for x in (control, slow, never, empty)] == pytest.approx([6.0, 15.0, 40.0, 0.0])
    assert [bool(x.event[0]) for x in (control, slow, never, empty)] == [True, True, False, False]
    assert [bool(x.included[0]) for x in (control, slow, never, empty)] == [True, True, True, False]
    delay, bound = mrecist.growth_delay(slow, control), mrecist.growth_delay(never, control)
    assert [float(x.day[0]) for x in (delay, bound)] == pytest.approx([9.0, 34.0])
    assert [bool(x.event[0]) for x in (delay, bound)] == [True, False]
    assert bool(bound.included[0])
    assert not bool(mrecist.growth_delay(slow, never).included[0])


# ------------------------------------------------------------------------------------------------ mice, as published


@pytest.fixture(scope="module")
def published(shared_data: Path):
    """Padded curves of all mice with their published class, and the published numbers of those that can be matched."""
    pd = pytest.importorskip("pandas")
    curves = pd.read_csv(shared_data / "pdxe.csv.gz")
    table = pd.read_csv(shared_data / "pdxe_published_response.csv.gz")
    mouse, names = pd.factorize(curves["mouse"])
    entry = curves.groupby("mouse").cumcount().to_numpy()
    volume, day = (np.zeros((len(names), entry.max() + 1), np.float32) for _ in range(2))
    valid = np.zeros(volume.shape, bool)
    volume[mouse, entry], day[mouse, entry], valid[mouse, entry] = curves["volume_mm3"], curves["day"], True
    first = curves.drop_duplicates("mouse").merge(table, on=["pdx_model", "arm"], suffixes=("", "_table"), how="left")
    # Several mice of one model and arm have one row in the table: nobody says whose it is.
    first["matched"] = ~first.duplicated(["pdx_model", "arm"], keep=False)
    return (jnp.array(volume), jnp.array(day), jnp.array(valid)), first, table


def codes_of(classes) -> np.ndarray:
    return np.array([response.Response[name] for name in classes])


def test_published_numbers_give_the_published_class(published):
    table = published[2]
    best, average = (jnp.array(table[f"best_{kind}_pct"].to_numpy(np.float32)) for kind in ("response", "avg_response"))
    np.testing.assert_array_equal(response.mrecist_class(best, average), codes_of(table["response"]))


@pytest.mark.parametrize("rule", [MRECIST, MRECIST_PDXE], ids=["text", "table"])
def test_responders_from_raw_curves(published, rule):
    """As many responders as published within 1 %, by the rule as written and by the rule as tabulated."""
    curves, first, _ = published
    codes = np.asarray(mrecist_of_many(*curves, rule)[2])
    expected = codes_of(first["response"])
    num_published = np.count_nonzero(expected <= PR)
    assert abs(np.count_nonzero(codes <= PR) - num_published) <= 0.01 * num_published
    assert np.mean((codes <= PR) == (expected <= PR)) > 0.999


def test_the_rule_of_the_table_gives_its_numbers(published):
    """All but the three curves whose day 0 is missing, to the 0.05 points of a table with one decimal."""
    curves, first, _ = published
    best, average, codes = (np.asarray(x) for x in mrecist_of_many(*curves, MRECIST_PDXE))
    off = (np.abs(best - first["best_response_pct"]) > 0.06) | (np.abs(average - first["best_avg_response_pct"]) > 0.06)
    starts_late = np.asarray(curves[1][:, 0]) > 0
    assert np.sum(off & first["matched"]) <= 3
    assert starts_late[off & first["matched"]].all()
    assert np.sum(codes != codes_of(first["response"])) <= 4


def test_doubling_times_are_the_published_ones(published):
    """Where a tumour had not doubled by its second measurement; there the table gives that day (see the docstring)."""
    curves, first, _ = published
    at_once = np.asarray(curves[0][:, 1] >= 2.0 * curves[0][:, 0])
    close = np.abs(np.asarray(doubling_of_many(*curves).day) - first["time_to_double_d"]) < 0.05
    assert np.mean(close[first["matched"] & ~at_once]) > 0.998
