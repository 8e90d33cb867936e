"""Reading out patients: sums of diameters over visits -> response by RECIST. Mice are read in :mod:`vtrial.mrecist`.

Everything here is written for ONE patient. A patient has few visits (V <= 31), so their loops are unrolled, and nothing
depends on the data: a visit may as well be a vector over patients, by vmap or with the patients as last axis; so may
its day, where patients come late.

Axis letter: V visits. Sizes are in mm (sum of longest diameters, `sld`), times in days.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtrial.mrecist import MRECIST, MRECIST_PDXE, MouseRule, mrecist_class, mrecist_curve
from vtrial.outcomes import CR, NE, PD, PR, SD, Response

__all__ = [
    "CR",
    "MRECIST",
    "MRECIST_PDXE",
    "NE",
    "PD",
    "PR",
    "RECIST_1_0",
    "RECIST_1_1",
    "RECIST_VERSIONS",
    "SD",
    "Course",
    "MouseRule",
    "RecistRule",
    "Response",
    "best_of",
    "best_overall_response",
    "confirmed_visits",
    "course_of",
    "disease_control",
    "mrecist_class",
    "mrecist_curve",
    "objective_response",
    "unconfirmed_visits",
    "visit_response",
]

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
    max_unassessed_days
        The window of a PD: seen so many days or fewer after the last evaluable assessment (the start of treatment,
        without any) it counts. A later one says that the patient progressed, but not when: the course ends before it,
        censored. None, the default, counts every PD; the FDA's guidance on endpoints (2018, appendix on censoring)
        censors after two or more missed assessments, which is a bit over twice the spacing of the visits. A Python
        number or None.
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
    max_unassessed_days: float | None = None


RECIST_1_1 = RecistRule()
RECIST_1_0 = RecistRule(minimum_increase_mm=0.0)

#: setting `trial.recist` of an experiment -> rule
RECIST_VERSIONS = {"1.0": RECIST_1_0, "1.1": RECIST_1_1}


# ------------------------------------------------------------------------------------------------ one patient


def visit_response(
    sld: Float[Array, " V"],
    sld_baseline: Float[Array, ""],
    new_lesion: Bool[Array, " V"],
    assessed: Bool[Array, " V"],
    all_gone: Bool[Array, " V"] | None = None,
    non_target: Bool[Array, " V"] | None = None,
    *,
    rule: RecistRule = RECIST_1_1,
) -> Int[Array, " V"]:
    """Response at every visit of one patient.

    In order: not assessed is NE; a new lesion is PD whatever the target lesions do; all lesions gone is CR;
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
    non_target
        Non-target disease is still there, or was not looked at (Table 1: then no CR, but PR). Virtual patients have
        none. Unequivocal progression of it belongs to `new_lesion`.
    rule
        RECIST_1_1, RECIST_1_0 or a protocol's own.

    Returns
    -------
    Int[Array, " V"]
        Codes CR, PR, SD, PD, NE. Visits after the first PD are still read; the best response ignores them.
    """
    gone = sld <= rule.disappearance_mm if all_gone is None else all_gone
    gone = gone if non_target is None else gone & ~non_target
    nadir = sld_baseline
    codes = []
    for size, *known in zip(*(jnp.unstack(each) for each in (sld, new_lesion, assessed, gone)), strict=True):
        code, nadir = next_response(nadir, size, sld_baseline, *known, rule=rule)
        codes.append(code)
    return jnp.stack(codes)


def next_response(
    nadir: Array,
    size: Array,
    sld_baseline: Array,
    is_new: Array | bool,
    seen: Array,
    is_gone: Array,
    *,
    rule: RecistRule,
) -> tuple[Array, Array]:
    """Code of one visit and the nadir after it, from the nadir before; see `visit_response`."""
    generous = size * (1.0 + _SLACK)
    grown = (generous >= nadir * (1.0 + rule.progression)) & (generous - nadir >= rule.minimum_increase_mm)
    code = jnp.where(size <= sld_baseline * ((1.0 + rule.partial) * (1.0 + _SLACK)), PR, SD)
    code = jnp.where(grown, PD, code)
    code = jnp.where(is_gone, CR, code)
    code = jnp.where(is_new, PD, code)
    return jnp.where(seen, code, NE), jnp.where(seen, jnp.minimum(nadir, size), nadir)


# A course of visits is five sets of visits, each an int32 whose bit v stands for visit v. Sets make Table 3 short ("the
# first PD", "everything before it", "a later CR with no PR between") and cheap: with visit days shared by the patients
# the program grows with V, where pairs of visits grow with V^2. Three idioms: `s & -s` is the first visit of a set,
# `first - 1` all visits before it (all visits, if the set is empty), `-(2 << v)` all visits after visit v.
_MAX_VISITS = 31


class Course(NamedTuple):
    """One patient up to the first PD; sets of visits."""

    complete: Array
    partial: Array
    stable: Array
    nonevaluable: Array
    progression: Array  # the first PD alone; empty where it came outside its window

    @property
    def response(self) -> Array:
        """Visits read as CR or PR."""
        return self.complete | self.partial

    @property
    def evaluable(self) -> Array:
        """Visits that tell anything, the first PD among them."""
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


def course_of(visit_codes: Int[Array, "V *P"], day: Float[Array, "V *D"], rule: RecistRule) -> Course:
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
    first = progression & -progression
    if rule.max_unassessed_days is not None:
        first = first & _in_window(visit_codes, day, rule.max_unassessed_days)
    return Course(complete & before, partial & before, stable & before, nonevaluable & before, first)


def _in_window(visit_codes: Int[Array, "V *P"], day: Float[Array, "V *D"], most_days: float) -> Array:
    """The visits no more than so many days after the evaluable visit before them."""
    last, timely = jnp.zeros((), day.dtype), []
    for code, this_day in zip(jnp.unstack(visit_codes), jnp.unstack(day), strict=True):
        timely.append(this_day - last <= most_days)
        last = jnp.where(code != NE, this_day, last)
    return _set_of(timely)


def _within(members: Array, visit: int, allowed: int) -> Array:
    """All visits up to the one that makes more than `allowed` members after `visit`."""
    after = members & -(2 << visit)
    for _ in range(allowed):
        after = after & (after - 1)
    return _before_first(after)


def confirmed_visits(course: Course, day: Float[Array, "V *D"], rule: RecistRule) -> tuple[Array, Array]:
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
        later = (other - this_day >= rule.confirm_days for other in days[visit + 1 :])
        late_enough = _set_of([*[False] * (visit + 1), *later])
        reach = late_enough & _within(course.nonevaluable, visit, rule.max_nonevaluable_between)
        by_any = reach & course.response & _within(course.stable, visit, rule.max_stable_between)
        # No SD to look for: after a CR it would have ended the course.
        by_complete = reach & course.complete & _within(course.partial, visit, 0)
        response = response | jnp.where(by_any != 0, course.response & this, 0)
        complete = complete | jnp.where(by_complete != 0, course.complete & this, 0)
    return response, complete


def unconfirmed_visits(course: Course) -> tuple[Array, Array]:
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
    course = course_of(visit_codes, day, rule)
    response, complete = confirmed_visits(course, day, rule) if confirmation else unconfirmed_visits(course)
    return best_of(course, response, complete, day, rule)


def best_of(course: Course, response: Array, complete: Array, day: Float[Array, "V *D"], rule: RecistRule) -> Array:
    """Best overall response from the visits at which responses start; see `best_overall_response`."""
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
