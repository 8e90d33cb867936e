"""Counts -> endpoints, every number by hand or by another program."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from vtrial.outcomes import CHANGE_BINS, Counts, EndpointCounts
from vtrial.times import COLUMNS, draw_endpoints, endpoint_rows, landmark_curve, median_time, pfs_rows, survival_at

DAYS = (56.0, 112.0, 168.0, 252.0)


def test_curves_are_those_of_kaplan_and_meier():
    """Against SciPy on patients one by one, with ties of events and censoring."""
    rng = np.random.default_rng(3)
    time, event = rng.integers(0, 6, 200), rng.random(200) < 0.6
    events, censored = (np.bincount(time[event == which], minlength=6) for which in (True, False))
    curve = landmark_curve(events, censored)
    sample = stats.CensoredData(uncensored=time[event], right=time[~event])
    reference = stats.ecdf(sample).sf
    np.testing.assert_allclose(curve, reference.evaluate(np.arange(6)), rtol=1e-12)


def test_medians_and_landmarks_by_hand():
    # 10 at risk: 4 leave with the event at day 56, 1 censored; of 5 left 2 at day 112: 0.6 x 0.6
    curve = landmark_curve(np.array([0, 4, 2, 0]), np.array([0, 1, 0, 3]))
    np.testing.assert_allclose(curve, [1.0, 0.6, 0.36, 0.36])
    days = np.array([0.0, 56.0, 112.0, 168.0])
    assert median_time(curve, days) == 112.0
    assert survival_at(curve, days, 111.0) == pytest.approx(0.6)
    assert median_time(np.array([1.0, 0.9]), np.array([0.0, 56.0])) == math.inf


def counts_by_hand() -> tuple[Counts, EndpointCounts]:
    """One draw, one arm of two regimens, one subgroup of ten patients."""
    course = np.zeros((1, 1, 1, 5, 5, 3), int)
    course[..., 1, 3, 1] = 2  # respond at day 56, progress at day 168
    course[..., 2, 4, 0] = 1  # respond at day 112, in response at day 252
    course[..., 1, 2, 2] = 1  # respond at day 56, die before day 112
    course[..., 0, 1, 1] = 4
    course[..., 0, 2, 0] = 1
    course[..., 0, 0, 0] = 1  # never assessed
    change = np.zeros((1, 1, 1, CHANGE_BINS), int)
    change[..., [0, 10, 20, 41, 42]] = [1, 3, 2, 3, 1]
    best = np.zeros((1, 2, 1, 5), int)
    best[:, 0, 0] = [1, 3, 1, 4, 1]
    unconfirmed = best.copy()
    unconfirmed[:, 0, 0] = [1, 4, 0, 4, 1]
    zeros = np.zeros((1, 2, 1), int)
    counts = Counts(best, unconfirmed, zeros, zeros, np.array([[10]]))
    blinded = np.array([[[[1, 2, 2, 4, 1]]]])
    return counts, EndpointCounts(course, change, np.array([[[9]]]), blinded, np.array([[[2]]]))


def test_endpoints_by_hand():
    found = {name: float(x[0, 0, -1]) for name, (_, x) in draw_endpoints(*counts_by_hand(), DAYS, True).items()}
    assert found["confirmed_orr"] == 0.4 and found["unconfirmed_orr"] == 0.5
    assert found["confirmed_orr_evaluable"] == pytest.approx(4 / 9)
    assert found["confirmed_dcr"] == 0.5 and found["unconfirmed_dcr"] == 0.5
    assert [found[f"confirmed_bor_{name}"] for name in ("CR", "PR", "SD", "PD", "NE")] == [0.1, 0.3, 0.1, 0.4, 0.1]
    # the blinded reader has 3 responders, 2 of them the local one's 4: the two differ on 3 patients
    assert found["blinded_orr"] == pytest.approx(0.3) and found["readers_agree"] == pytest.approx(0.7)
    # PFS: 9 at risk at day 56, 4 events: 5/9; then 5, one death: 4/9; of 3 left 2 progress at day 168
    assert found["pfs_median"] == 112.0
    assert found["pfs_at_182_days"] == pytest.approx(5 / 9 * 4 / 5 * 1 / 3)
    # TTP: the death is censored, so 5/9 until day 168, then a third of it
    assert found["ttp_median"] == 168.0
    assert found["ttp_at_182_days"] == pytest.approx(5 / 9 * 1 / 3)
    # durations 112, 112 (progressed), 140 (going on), 56 (died): 3/4, 1/4
    assert found["dor_median"] == 112.0 and found["dor_at_182_days"] == pytest.approx(1 / 4)
    assert found["time_to_response_median"] == 56.0
    # nine measured: 1 at -100, 3 in (-55, -50], 2 in (-5, 0], 3 above 100: the fifth is in (-5, 0]
    assert found["best_change_median"] == -2.5


def test_endpoints_of_late_visits_are_on_the_days_that_they_were_made():
    """The same ten patients, each visit some days late, the death on its own day: medians and landmarks by hand."""
    counts, planned = counts_by_hand()
    end, start, lasted = (
        np.zeros((1, 1, 1, 300, 3), int),
        np.zeros((1, 1, 1, 300), int),
        np.zeros((1, 1, 1, 300, 2), int),
    )
    for day, kind, many in (
        (57, 1, 1),
        (58, 1, 2),
        (61, 1, 1),
        (85, 2, 1),
        (112, 0, 1),
        (170, 1, 2),
        (252, 0, 1),
        (0, 0, 1),
    ):
        end[..., day, kind] += many
    for begun, until, how in ((57, 170, 1), (58, 170, 1), (62, 252, 0), (56, 85, 1)):
        start[..., begun] += 1
        lasted[..., until - begun, how] += 1
    late = planned._replace(end_day=end, response_day=start, duration=lasted)
    found = {name: float(x[0, 0, -1]) for name, (_, x) in draw_endpoints(counts, late, DAYS, True).items()}
    # 9 at risk: 8/9, 6/9, 5/9 on day 61, then the death of day 85: 4/9; 3 left after day 112, of whom 2 progress
    assert found["pfs_median"] == 85.0 and found["ttp_median"] == 170.0
    assert found["pfs_at_182_days"] == pytest.approx(5 / 9 * 4 / 5 * 1 / 3)
    assert found["ttp_at_182_days"] == pytest.approx(5 / 9 * 1 / 3)
    # durations 113, 112 (progressed), 190 (going on), 29 (died)
    assert found["dor_median"] == 112.0 and found["dor_at_182_days"] == pytest.approx(1 / 4)
    # days 56, 57, 58 and 62: the lower of the middle two
    assert found["time_to_response_median"] == 57.0
    on_time = draw_endpoints(*counts_by_hand(), DAYS, True)
    assert found["confirmed_orr"] == on_time["confirmed_orr"][1][0, 0, -1]


def test_rows_of_the_curve_stand_where_it_changes():
    cohort, plan = SimpleNamespace(tumour_type="LGSOC"), SimpleNamespace(arms=("A",))
    curve = np.array([[1.0, 0.998, 0.9, 0.9, 0.4, 0.4], [1.0, 1.0, 0.8, 0.7, 0.7, 0.7]])[:, None]
    table = pfs_rows(cohort, plan, curve, np.arange(6.0))
    assert table["day"].tolist() == [0.0, 2.0, 3.0, 4.0, 5.0]
    np.testing.assert_allclose(table["mean"], [1.0, 0.85, 0.8, 0.55, 0.55])


def test_rows_say_what_is_not_reached_and_what_does_not_exist():
    cohort = SimpleNamespace(tumour_type="LGSOC", subgroups={})
    plan = SimpleNamespace(arms=("A",), subgroups=("all",))
    values = np.array([10.0, 20.0, np.inf, np.nan]).reshape(4, 1, 1).repeat(2, axis=2)
    table = endpoint_rows(cohort, plan, {"dor_median": ("day", values)}, ["quick"])
    assert tuple(table.columns) == COLUMNS and len(table) == 1
    row = table.iloc[0]
    # of the three draws with responders one does not reach its median: quantiles count it as late, no mean is made up
    assert (row["q05"], row["q25"], row["q50"]) == (20.0, 20.0, 20.0)
    assert math.isnan(row["q75"]) and math.isnan(row["mean"]) and math.isnan(row["sd"])
    assert row["missing"] == 0.5 and row["source"] == "quick" and row["unit"] == "day"
