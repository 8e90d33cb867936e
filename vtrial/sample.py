"""A sample of virtual patients for figures: best change (waterfall), courses (spider), time on study (swimmer).

One patient of each of the first draws: a sample of the predictive population, from the same patients that are counted.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pandas as pd

from vtrial.endpoints import time_to_progression, time_to_response
from vtrial.outcomes import Trajectories
from vtrial.response import NE, PD, RecistRule, Response, best_overall_response
from vtrial.translation import CohortPlan

KEYS = ["tumour_type", "arm"]
WATERFALL = [*KEYS, "subgroup", "patient", "best_change_pct", "response"]
SPIDER = [*KEYS, "patient", "day", "change_pct"]
SWIMMER = [*KEYS, "subgroup", "patient", "response", "response_day", "end_day", "end"]


@partial(jax.jit, static_argnames=("rule", "confirmation"))
def _read(codes, day, *, rule: RecistRule, confirmation: bool):
    """Best response, time to response and to progression of courses [N, V] with visits on days [N, V]."""

    def one(own, day):
        return (
            best_overall_response(own, day, confirmation=confirmation, rule=rule),
            time_to_response(own, day, confirmation=confirmation, rule=rule),
            time_to_progression(own, day, rule=rule),
        )

    return jax.vmap(one)(codes, day)


def sample_tables(
    tumour_type: str, plan: CohortPlan, course: Trajectories, rule: RecistRule, confirmation: bool
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Waterfall, spider and swimmer of the arms of a cohort.

    Returns
    -------
    waterfall
        Smallest change of the sum up to the first progression (% of baseline), empty without an assessment, and the
        best overall response, a row per arm and patient.
    spider
        Change of the sum at every evaluable visit up to the first progression (%), a row per visit.
    swimmer
        First day of the response (empty without one), last day of follow-up and how it ends: "progression" or
        "censored".
    """
    change, group = np.asarray(course.best_change), np.asarray(course.subgroup)
    patient = np.arange(len(group)) + 1
    waterfall, spider, swimmer = [], [], []
    for k, arm in enumerate(plan.arms):
        read = _read(course.codes[k], course.visit_day, rule=rule, confirmation=confirmation)
        best, start, end = jax.tree.map(np.asarray, read)
        who = {
            "tumour_type": tumour_type,
            "arm": arm,
            "subgroup": [plan.subgroups[g] for g in group],
            "patient": patient,
            "response": [Response(int(code)).name for code in best],
        }
        waterfall.append(pd.DataFrame(who | {"best_change_pct": 100.0 * change[k]}, columns=WATERFALL))
        days = {"response_day": np.where(start.event, start.day, np.nan), "end_day": end.day}
        swimmer.append(
            pd.DataFrame(who | days | {"end": np.where(end.event, "progression", "censored")}, columns=SWIMMER)
        )
        spider += [(tumour_type, arm, *row) for row in _spider_rows(course, k)]
    lines = pd.DataFrame(spider, columns=SPIDER)
    return pd.concat(waterfall, ignore_index=True), lines, pd.concat(swimmer, ignore_index=True)


def _spider_rows(course: Trajectories, k: int) -> list[tuple[int, float, float]]:
    baseline, sld, codes, days = map(
        np.asarray, (course.sld_baseline, course.sld[k], course.codes[k], course.visit_day)
    )
    rows = []
    for i in range(len(baseline)):
        rows.append((i + 1, 0.0, 0.0))
        for day, size, code in zip(days[i], sld[i], codes[i], strict=True):
            if code == NE:
                continue
            rows.append((i + 1, float(day), float(100.0 * (size / baseline[i] - 1.0))))
            if code == PD:
                break
    return rows
