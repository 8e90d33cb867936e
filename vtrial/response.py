"""Reading out: sizes over time -> response. RECIST for one patient, mRECIST for one mouse.

Everything here is written for ONE patient or ONE mouse and vmapped outside. A patient has few visits (V <= 31), so
their loops are unrolled: under vmap each visit is one vector over the patients, nothing depends on the data, and XLA
fuses the whole readout into one pass over memory.

Axis letters: V visits, T measurements. Sizes of patients are in mm (sum of longest diameters, `sld`), those of mice in
mm3 (`volume`), times in days, changes of mice in percent as in the published tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Response(IntEnum):
    """Response of a visit or best response of a patient or mouse; smaller is better."""

    CR = 0
    PR = 1
    SD = 2
    PD = 3
    NE = 4


# Plain integers: an IntEnum member is not a weakly typed Python scalar to JAX.
CR, PR, SD, PD, NE = (int(code) for code in Response)

# Diameters are recorded in whole millimetres; float32 puts 1.2 x 50 at 60.000004. Without this slack (0.001 mm at
# 100 mm) a sum that sits exactly on a threshold would be read by rounding error.
_SLACK = 1e-5


class RecistRule(NamedTuple):
    """The numbers of RECIST and of the protocol around it.

    Source: Eisenhauer et al., Eur J Cancer 2009;45:228 (1.1, section 4 and Table 3); Therasse et al., JNCI
    2000;92:205 (1.0). The two counts are Python integers, since the program is built around them; the others may
    be traced.

    Attributes
    ----------
    partial
        Change from baseline at or below which the sum is a partial response (fraction).
    progression
        Change from nadir at or above which the sum is progression (fraction).
    minimum_increase_mm
        The increase from nadir must also be this large (mm); 0 in RECIST 1.0.
    disappearance_mm
        A sum at or below it counts as "all target lesions gone" (mm).
    confirm_days
        The confirming assessment comes at least so many days after the first one.
    min_sd_days
        Stable disease counts only where an assessment without progression lies at or after this day (from day 0).
    max_nonevaluable_between
        Assessments "NE" allowed between a response and its confirmation. RECIST 1.1 section 4.4 calls PR-NE-PR a
        confirmed response in most trials.
    max_stable_between
        Assessments "SD" allowed between a PR and its confirmation. Table 3 reads PR, SD as SD, so 0; protocols
        that forgive one assessment just above -30 % set 1.
    reappearance_is_progression
        What CR followed by PR means (Table 3, footnote a). True: the CR was real, so any disease seen later is
        progression. False: lesions too small to see were there all along, the CR was a PR. The default is False:
        a regrowth of 5 mm or more is PD by the sum already (nadir 0), so what is left to decide are sums below
        5 mm, which is below what a scan measures.
    """

    partial: float | Float[Array, ""] = -0.30
    progression: float | Float[Array, ""] = 0.20
    minimum_increase_mm: float | Float[Array, ""] = 5.0
    disappearance_mm: float | Float[Array, ""] = 0.0
    confirm_days: float | Float[Array, ""] = 28.0
    min_sd_days: float | Float[Array, ""] = 42.0
    max_nonevaluable_between: int = 1
    max_stable_between: int = 0
    reappearance_is_progression: bool | Bool[Array, ""] = False


RECIST_1_1 = RecistRule()
RECIST_1_0 = RecistRule(minimum_increase_mm=0.0)


class TimeToEvent(NamedTuple):
    """A time that may be censored.

    Attributes
    ----------
    day
        Days to the event, or to the last time without it. Scalar, or as many as there are patients.
    event
        True where the event was seen, False where the time is censored.
    included
        False where the time does not exist (duration of response of a non-responder); `day` is 0 there.
    """

    day: Float[Array, "..."]
    event: Bool[Array, "..."]
    included: Bool[Array, "..."]


# ------------------------------------------------------------------------------------------------ one patient


def visit_response(
    sld: Float[Array, " V"],
    sld_baseline: Float[Array, ""],
    new_lesion: Bool[Array, " V"],
    assessed: Bool[Array, " V"],
    all_gone: Bool[Array, " V"] | None = None,
    *,
    rule: RecistRule = RECIST_1_1,
) -> Int[Array, " V"]:
    """Response at every visit of one patient.

    In order: not assessed is NE; a new lesion is PD whatever the target lesions do; all target lesions gone is CR;
    a sum above nadir by the progression fraction and the minimum increase is PD, even where it still lies 30 % below
    baseline; then PR; the rest is SD. The nadir is the smallest sum so far, baseline included.

    Parameters
    ----------
    sld
        Sum of longest diameters (mm) at the visits, in order of time. Ignored where not assessed (may be NaN).
    sld_baseline
        The same before treatment (mm), above 0.
    new_lesion
        A new lesion, or unequivocal progression of non-target disease, is on the scan of this visit.
    assessed
        A usable scan was made at this visit.
    all_gone
        All target lesions are gone: given where that is known lesion by lesion (nodes below 10 mm short axis leave a
        sum above 0). Without it, the sum is compared with `rule.disappearance_mm`.
    rule
        RECIST_1_1, RECIST_1_0 or a protocol's own.

    Returns
    -------
    Int[Array, " V"]
        Codes CR, PR, SD, PD, NE. Visits after the first PD are still read; the best response ignores them.
    """
    gone = sld <= rule.disappearance_mm if all_gone is None else all_gone
    partial_limit = sld_baseline * ((1.0 + rule.partial) * (1.0 + _SLACK))
    nadir = sld_baseline
    codes = []
    for size, is_gone, is_new, seen in zip(
        jnp.unstack(sld), jnp.unstack(gone), jnp.unstack(new_lesion), jnp.unstack(assessed), strict=True
    ):
        generous = size * (1.0 + _SLACK)
        grown = (generous >= nadir * (1.0 + rule.progression)) & (generous - nadir >= rule.minimum_increase_mm)
        code = jnp.where(size <= partial_limit, PR, SD)
        code = jnp.where(grown, PD, code)
        code = jnp.where(is_gone, CR, code)
        code = jnp.where(is_new, PD, code)
        codes.append(jnp.where(seen, code, NE))
        nadir = jnp.where(seen, jnp.minimum(nadir, size), nadir)
    return jnp.stack(codes)


# A course of visits is five sets of visits, each an int32 whose bit v stands for visit v. Sets make Table 3 short ("the
# first PD", "everything before it", "a later CR with no PR between") and cheap: with visit days shared by the patients
# the program grows with V, where pairs of visits grow with V^2. Three idioms: `s & -s` is the first visit of a set,
# `first - 1` all visits before it (all visits, if the set is empty), `-(2 << v)` all visits after visit v.
_MAX_VISITS = 31


class _Course(NamedTuple):
    """One patient up to the first PD; sets of visits."""

    complete: Array
    partial: Array
    stable: Array
    nonevaluable: Array
    progression: Array  # the first PD alone

    @property
    def response(self) -> Array:
        return self.complete | self.partial

    @property
    def evaluable(self) -> Array:
        return self.complete | self.partial | self.stable | self.progression


def _set_of(flags: Iterable[Array | bool]) -> Array:
    """The set of visits at which a flag, one per visit, is set."""
    members = jnp.zeros((), jnp.int32)
    for visit, flag in enumerate(flags):
        if visit == _MAX_VISITS:
            raise ValueError(f"a course has more than {_MAX_VISITS} visits, which is the most that can be read")
        members = members | jnp.where(flag, jnp.int32(1 << visit), jnp.int32(0))
    return members


def _before_first(members: Array) -> Array:
    return (members & -members) - 1


def _course(visit_codes: Int[Array, " V"], rule: RecistRule) -> _Course:
    """Cut a series of visits at its first progression.

    After a CR, SD is read as PD (Table 3: CR, SD is never a response, "otherwise PD"), and PR too if the rule says so.
    """
    codes = jnp.unstack(visit_codes)  # taken apart before they are compared: XLA then never builds the [V] in between
    complete, partial, stable, progression, nonevaluable = (
        _set_of(code == one for one in codes) for code in (CR, PR, SD, PD, NE)
    )
    reappearance = stable | jnp.where(rule.reappearance_is_progression, partial, 0)
    progression = progression | (reappearance & ~_before_first(complete))
    before = _before_first(progression)
    return _Course(
        complete & before, partial & before, stable & before, nonevaluable & before, progression & -progression
    )


def _within(members: Array, visit: int, allowed: int) -> Array:
    """All visits up to the one that makes more than `allowed` members after `visit`."""
    after = members & -(2 << visit)
    for _ in range(allowed):
        after = after & (after - 1)
    return _before_first(after)


def _confirmed(course: _Course, day: Float[Array, " V"], rule: RecistRule) -> tuple[Array, Array]:
    """The visits at which a confirmed response (CR or PR), and those at which a confirmed CR starts.

    A response is confirmed by a later CR or PR at least `confirm_days` after it with no more than the allowed NE and SD
    between (PR, CR and CR, PR confirm a PR); a CR by a later CR with only CR and NE between. Every visit is tried
    as the start: with NE and SD counted, the first response is not always the one that can be confirmed.
    """
    response = complete = jnp.zeros((), jnp.int32)
    days = jnp.unstack(day)
    for visit, this_day in enumerate(days):
        this = 1 << visit
        # confirm_days may be 0, but a visit never confirms itself.
        late_enough = _set_of(other - this_day >= rule.confirm_days for other in days) & -(2 << visit)
        reach = late_enough & _within(course.nonevaluable, visit, rule.max_nonevaluable_between)
        by_any = reach & course.response & _within(course.stable, visit, rule.max_stable_between)
        # No SD to look for: after a CR it would have ended the course.
        by_complete = reach & course.complete & _within(course.partial, visit, 0)
        response = response | jnp.where(by_any != 0, course.response & this, 0)
        complete = complete | jnp.where(by_complete != 0, course.complete & this, 0)
    return response, complete


def _unconfirmed(course: _Course) -> tuple[Array, Array]:
    """As `_confirmed`, where one assessment is enough; a CR whose next evaluable visit is PR was a PR (footnote a)."""
    partial_next, skipped = course.partial >> 1, course.nonevaluable >> 1
    for step in (1, 2, 4, 8, 16):  # carry a PR back over a run of NE
        partial_next = partial_next | (skipped & (partial_next >> step))
        skipped = skipped & (skipped >> step)
    return course.response, course.complete & ~partial_next


def best_overall_response(
    visit_codes: Int[Array, " V"],
    day: Float[Array, " V"],
    *,
    confirmation: bool = True,
    rule: RecistRule = RECIST_1_1,
) -> Int[Array, ""]:
    """Best overall response of one patient, RECIST 1.1 Table 3.

    Assessments after the first PD do not count. CR and PR need confirmation (see `RecistRule`) or, where
    `confirmation` is False (randomised trials), one assessment. A CR or PR that is not confirmed counts as SD. SD needs
    an assessment without progression at or after `rule.min_sd_days`; without it the answer is PD where the patient
    progressed, else NE.

    Parameters
    ----------
    visit_codes
        Codes of the visits in order of time, from `visit_response`.
    day
        Days of the visits from the start of treatment, increasing.
    confirmation
        Whether a response must be confirmed. Static.
    rule
        RECIST_1_1, RECIST_1_0 or a protocol's own.

    Returns
    -------
    Int[Array, ""]
        CR, PR, SD, PD or NE.
    """
    course = _course(visit_codes, rule)
    response, complete = _confirmed(course, day, rule) if confirmation else _unconfirmed(course)
    lasting = (course.response | course.stable) & _set_of(one >= rule.min_sd_days for one in jnp.unstack(day))
    best = jnp.where(course.progression != 0, PD, NE)
    best = jnp.where(lasting != 0, SD, best)
    best = jnp.where(response != 0, PR, best)
    return jnp.where(complete != 0, CR, best)


def objective_response(code: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Complete or partial response."""
    return code <= PR


def disease_control(code: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Complete or partial response or stable disease."""
    return code <= SD


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
    course = _course(visit_codes, rule)
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
    course = _course(visit_codes, rule)
    response, _ = _confirmed(course, day, rule) if confirmation else _unconfirmed(course)
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


def depth_of_response(
    sld: Float[Array, " V"], sld_baseline: Float[Array, ""], visit_codes: Int[Array, " V"]
) -> Float[Array, ""]:
    """Best change of the sum from baseline (%), over evaluable visits up to and including the first PD.

    NaN where no visit is evaluable. Parameters as in `visit_response`, whose codes go in.
    """
    best, over = jnp.full_like(sld_baseline, jnp.inf), jnp.zeros((), bool)
    for size, code in zip(jnp.unstack(sld), jnp.unstack(visit_codes), strict=True):
        best = jnp.where((code != NE) & ~over, jnp.minimum(best, size), best)
        over = over | (code == PD)
    return jnp.where(jnp.isinf(best), jnp.nan, 100.0 * (best / sld_baseline - 1.0))


# ------------------------------------------------------------------------------------------------ one mouse


class MouseRule(NamedTuple):
    """From which measurements the two numbers of mRECIST are taken.

    Attributes
    ----------
    best_from_day
        First day of the best response.
    average_from_day
        First day of the best average response.
    settled_from_day
        A change counts as best response before this day only if it lasted: no later measurement before this day,
        other than the mouse's last, lies above `settled_limit_pct`. 0 asks for nothing.
    settled_limit_pct
        See above (%).
    """

    best_from_day: float | Float[Array, ""] = 10.0
    average_from_day: float | Float[Array, ""] = 10.0
    settled_from_day: float | Float[Array, ""] = 0.0
    settled_limit_pct: float | Float[Array, ""] = 30.05


# As the methods of Gao et al. (Nat Med 2015;21:1318) say and the R package Xeva does: both minima over t >= 10 d.
MRECIST = MouseRule()

# As the supplementary table of the same paper was made. The text above does not give that table: it turns one in
# five of the published PD into SD. This rule was inferred from the table; it gives both numbers of 4,037 of the 4,040
# curves that can be matched, to rounding (0.05 points; 30.05 is that rounding), and those left over lack their day 0.
MRECIST_PDXE = MouseRule(best_from_day=9.0, average_from_day=11.0, settled_from_day=20.0)


def mrecist_curve(
    volume: Float[Array, " T"],
    day: Float[Array, " T"],
    valid: Bool[Array, " T"],
    *,
    rule: MouseRule = MRECIST,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Best response and best average response of one mouse, in percent.

    The change is 100 (V_t - V_0) / V_0 with V_0 the first valid volume. The average at t is the plain mean of the
    changes of all measurements from day 0 (its own zero included) to t. Best is the smallest, from the rule's day on.

    A mouse whose measurements end before that day is read at its last measurement: that is what the published table
    does (58 curves). Xeva gives no class there, nor where fewer than two measurements lie at or after day 10.

    Parameters
    ----------
    volume
        Tumour volumes (mm3), in order of time.
    day
        Days of the measurements from the start of treatment.
    valid
        Which entries are measurements; False pads. None before the start of treatment.
    rule
        MRECIST or MRECIST_PDXE.

    Returns
    -------
    best_response, best_average_response
        Scalars (%). Both NaN with fewer than two measurements or a first volume of 0, which no class fits (NE).
    """
    index = jnp.arange(volume.shape[0])
    baseline = volume[jnp.argmax(valid)]
    readable = (jnp.sum(valid) >= 2) & (baseline > 0)
    safe_baseline = jnp.where(readable, baseline, 1.0)
    change = jnp.where(valid, 100.0 * (volume / safe_baseline - 1.0), 0.0)
    num_measured = jnp.maximum(jnp.cumsum(valid.astype(jnp.int32)), 1)
    average = jnp.cumsum(change) / num_measured.astype(change.dtype)

    last = valid & (index == jnp.max(jnp.where(valid, index, -1)))
    early = day < rule.settled_from_day
    relapse = valid & early & ~last & (change > rule.settled_limit_pct)
    relapse_ahead = lax.cummax(relapse.astype(jnp.int32), reverse=True) > 0
    candidate = valid & (day >= rule.best_from_day) & ~(early & relapse_ahead)

    def lowest(value: Array, counts: Array) -> Array:
        counts = jnp.where(jnp.any(counts), counts, last)
        return jnp.where(readable, jnp.min(jnp.where(counts, value, jnp.inf)), jnp.nan)

    return lowest(change, candidate), lowest(average, valid & (day >= rule.average_from_day))


def mrecist_class(best_response: Float[Array, "..."], best_average_response: Float[Array, "..."]) -> Int[Array, "..."]:
    """MRECIST class, elementwise (Gao et al. 2015): the first that fits of CR, PR, SD, else PD.

    Parameters
    ----------
    best_response, best_average_response
        In percent, from `mrecist_curve` or a published table.

    Returns
    -------
    Int[Array, "..."]
        CR below -95 and -40, PR below -50 and -20, SD below 35 and 30, PD; NE where either is NaN.
    """
    code = jnp.where((best_response < 35.0) & (best_average_response < 30.0), SD, PD)
    code = jnp.where((best_response < -50.0) & (best_average_response < -20.0), PR, code)
    code = jnp.where((best_response < -95.0) & (best_average_response < -40.0), CR, code)
    return jnp.where(jnp.isnan(best_response) | jnp.isnan(best_average_response), NE, code)


def tumour_growth_inhibition(
    treated: Float[Array, "..."],
    treated_baseline: Float[Array, "..."],
    control: Float[Array, "..."],
    control_baseline: Float[Array, "..."],
) -> Float[Array, "..."]:
    """TGI (%) = 100 (1 - (V_T - V_T0) / (V_C - V_C0)): 100 is stasis, above 100 regression.

    Volumes (mm3) of treated and control tumours, mouse by mouse or as group means, on one day and at the start.
    Meaningless (infinite at the limit) where the control did not grow.
    """
    return 100.0 * (1.0 - (treated - treated_baseline) / (control - control_baseline))


def treated_over_control(treated: Float[Array, "..."], control: Float[Array, "..."]) -> Float[Array, "..."]:
    """T/C (%) = 100 V_T / V_C on one day; at most 42 is "active" by the NCI's standard."""
    return 100.0 * treated / control


def doubling_time(
    volume: Float[Array, " T"],
    day: Float[Array, " T"],
    valid: Bool[Array, " T"],
    *,
    multiple: float | Float[Array, ""] = 2.0,
) -> TimeToEvent:
    """Days until one tumour first reached `multiple` times its first volume, read from the line between measurements.

    The published PDXE table does the same, but for a tumour that doubled by its second measurement it gives that day
    (about 3 % of curves); here the line from day 0 is read there as well.

    Parameters
    ----------
    volume, day, valid
        As in `mrecist_curve`.
    multiple
        Above 1. Four, for instance, gives the time to quadruple.

    Returns
    -------
    TimeToEvent
        Scalars; censored at the last measurement where the tumour did not get there; not included where there are
        fewer than two measurements or the first volume is 0.
    """
    first = jnp.argmax(valid)
    ratio = jnp.where(valid, volume / jnp.where(volume[first] > 0, volume[first], 1.0), 0.0)
    index = jnp.arange(volume.shape[0])
    # For each entry the last measurement before it, across the padding.
    before = lax.cummax(jnp.where(valid, index, 0))[jnp.maximum(index - 1, 0)]
    reached = valid & (ratio >= multiple) & (index > first)
    at = jnp.argmax(reached)
    event = jnp.any(reached)
    low, high = ratio[before[at]], ratio[at]
    # low < multiple <= high at the first crossing; the guard is for the branch not taken.
    share = (multiple - low) / jnp.where(event, high - low, 1.0)
    crossing = day[before[at]] + share * (day[at] - day[before[at]])
    last_day = jnp.max(jnp.where(valid, day, -jnp.inf))
    included = (jnp.sum(valid) >= 2) & (volume[first] > 0)
    when = jnp.where(event, crossing, last_day) - day[first]
    return TimeToEvent(day=jnp.where(included, when, 0.0), event=event & included, included=included)


def growth_delay(treated: TimeToEvent, control: TimeToEvent) -> TimeToEvent:
    """T - C (days): how much later the treated tumour reached the size, elementwise; see `doubling_time`.

    A treated tumour that never got there gives a lower bound (censored). Where the control did not get there the
    delay does not exist (not included).
    """
    included = treated.included & control.included & control.event
    return TimeToEvent(
        day=jnp.where(included, treated.day - control.day, 0.0),
        event=included & treated.event,
        included=included,
    )
