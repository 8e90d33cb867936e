"""What is read of a patient beyond the best response: times to events, depth, and the counts that hold them all.

Everything here is for ONE patient, or for all of them as last axis where it says ``*P``. Visits are few, so an event is
known by the number of its visit, and one table of (visit of the response, visit of the end, kind of the end) has the
time to response, the duration of response, the time to progression and progression-free survival of all patients in it,
exactly.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vtrial.outcomes import CHANGE_BINS, NE, PD, Ending, TimeToEvent
from vtrial.response import RECIST_1_1, Course, RecistRule, confirmed_visits, course_of, unconfirmed_visits


def ending(
    course: Course,
    response: Int[Array, " *P"],
    left_after: Int[Array, " *P"],
    dies: Bool[Array, " *P"],
    num_visits: Int[Array, " *P"] | int,
) -> Ending:
    """Which visits the response and the end of a patient's course fall on.

    Parameters
    ----------
    course
        See `response.course_of`.
    response
        The visits at which the response starts, a set: `confirmed_visits` or `unconfirmed_visits`.
    left_after
        Number of visits before the patient left the study, `num_visits` for one who did not.
    dies
        Whether leaving is death. Death without progression falls on the first visit after it, so the end is late by
        at most one interval between visits; `ending_days` has its day.
    num_visits
        Visits after baseline until the data end. A death after the last of them is not counted: of those who are alive
        then, nobody is seen again, so that it would stand against patients at risk who are no longer there.
    """
    died = dies & (left_after < num_visits) & (course.progression == 0)
    end = jnp.where(died, left_after + 1, _last_visit(course.evaluable))
    kind = jnp.where(died, 2, (course.progression != 0).astype(jnp.int32))
    return Ending(response=_last_visit(response & -response), end=end, kind=kind)


def ending_days(
    end: Ending, day: Float[Array, "V *P"], left_day: Float[Array, " *P"], until: Float[Array, ""]
) -> tuple[Int[Array, " *P"], Int[Array, " *P"], Int[Array, " *P"]]:
    """Whole days of the response (0 without one) and of the end of a patient's course, and the kind of that end.

    The end is of day 0 without any evaluable visit. What comes after `until` is not read: an end is censored there,
    and a response dated there.

    Parameters
    ----------
    end
        See `ending`.
    day
        Days on which the visits were made.
    left_day
        Day on which the patient left the study: a death is of that day, not of a visit, and of day 1 at the earliest,
        since on day 0 everybody is alive.
    until
        Planned day of the last visit. Everybody leaves a curve with a last scan of their own, made some days after it:
        those still at risk become ever fewer, and progression among them would take the curve to 0, whatever it was.
    """
    response, last = jnp.zeros_like(left_day), jnp.zeros_like(left_day)
    for visit, this_day in enumerate(jnp.unstack(day)):
        response = jnp.where(end.response == visit + 1, this_day, response)
        last = jnp.where(end.end == visit + 1, this_day, last)
    last = jnp.where(end.kind == 2, jnp.maximum(left_day, 1.0), last)
    begun, ended, limit = (jnp.round(one).astype(jnp.int32) for one in (response, last, until))
    return jnp.minimum(begun, limit), jnp.minimum(ended, limit), jnp.where(ended > limit, 0, end.kind)


def change_bin(change: Float[Array, " *P"]) -> Int[Array, " *P"]:
    """Index of a best change (fraction of baseline) among bins of 5 %: 0 is -100 %, the last but one above +100 %.

    The last of the `CHANGE_BINS` bins holds NaN, patients without an assessment.
    """
    unmeasured = jnp.isnan(change)
    # the slack of RECIST: -30 % to rounding belongs to the bin that ends there
    step = jnp.ceil((jnp.where(unmeasured, 0.0, change) + 1.0) * 20.0 - 2e-4)
    return jnp.where(unmeasured, CHANGE_BINS - 1, jnp.clip(step, 0, CHANGE_BINS - 2).astype(jnp.int32))


def best_change(
    sld: Float[Array, "V *P"], sld_baseline: Float[Array, " *P"], visit_codes: Int[Array, "V *P"]
) -> Float[Array, " *P"]:
    """Smallest change of the sum from baseline (fraction), over evaluable visits up to and including the first PD.

    NaN where no visit is evaluable. Parameters as in `response.visit_response`, whose codes go in.
    """
    best, over = jnp.full_like(sld_baseline, jnp.inf), jnp.zeros((), bool)
    for size, code in zip(jnp.unstack(sld), jnp.unstack(visit_codes), strict=True):
        best = jnp.where((code != NE) & ~over, jnp.minimum(best, size), best)
        over = over | (code == PD)
    return jnp.where(jnp.isinf(best), jnp.nan, best / sld_baseline - 1.0)


def _last_visit(members: Int[Array, " *P"]) -> Int[Array, " *P"]:
    """Number of the last visit of a set, counted from 1; 0 if it is empty."""
    return 32 - lax.clz(members)


def _first_day(members: Array, day: Float[Array, " V"]) -> Array:
    """Day of the first visit of a set; 0 (start of treatment) if it is empty."""
    first, when = members & -members, jnp.zeros((), day.dtype)
    for visit, this_day in enumerate(jnp.unstack(day)):
        when = jnp.where(first == (1 << visit), this_day, when)
    return when


def _last_day(members: Array, day: Float[Array, " V"]) -> Array:
    """Day of the last visit of a set; 0 (start of treatment) if it is empty."""
    when = jnp.zeros((), day.dtype)
    for visit, this_day in enumerate(jnp.unstack(day)):
        when = jnp.where((members & (1 << visit)) != 0, this_day, when)
    return when


def time_to_progression(
    visit_codes: Int[Array, " V"], day: Float[Array, " V"], *, rule: RecistRule = RECIST_1_1
) -> TimeToEvent:
    """Days from the start of treatment to the first PD, censored at the last evaluable visit (day 0 without any).

    Parameters
    ----------
    visit_codes, day
        As in `best_overall_response`.
    rule
        Decides whether disease after a CR is progression.

    Returns
    -------
    TimeToEvent
        Scalars; `included` is always True.
    """
    course = course_of(visit_codes, day, rule)
    progressed = course.progression != 0
    return TimeToEvent(
        day=_last_day(course.evaluable, day),  # nothing is evaluable after the PD
        event=progressed,
        included=jnp.ones_like(progressed),
    )


def time_to_response(
    visit_codes: Int[Array, " V"],
    day: Float[Array, " V"],
    *,
    confirmation: bool = True,
    rule: RecistRule = RECIST_1_1,
) -> TimeToEvent:
    """Days to the first visit of the response, which is the visit that was confirmed, not the confirming one.

    Non-responders are censored at their last evaluable visit (the PD, where there is one). Parameters as in
    `best_overall_response`; `event` is True for exactly those with an objective response.
    """
    course = course_of(visit_codes, day, rule)
    response, _ = confirmed_visits(course, day, rule) if confirmation else unconfirmed_visits(course)
    responds = response != 0
    return TimeToEvent(
        day=jnp.where(responds, _first_day(response, day), _last_day(course.evaluable, day)),
        event=responds,
        included=jnp.ones_like(responds),
    )


def duration_of_response(
    visit_codes: Int[Array, " V"],
    day: Float[Array, " V"],
    *,
    confirmation: bool = True,
    rule: RecistRule = RECIST_1_1,
) -> TimeToEvent:
    """Days from the first visit of the response to progression, censored at the last evaluable visit.

    Parameters as in `best_overall_response`; `included` is True for exactly those with an objective response.
    """
    start = time_to_response(visit_codes, day, confirmation=confirmation, rule=rule)
    end = time_to_progression(visit_codes, day, rule=rule)
    return TimeToEvent(
        day=jnp.where(start.event, end.day - start.day, 0.0),
        event=start.event & end.event,
        included=start.event,
    )
