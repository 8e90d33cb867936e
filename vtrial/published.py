"""Published arms simulated: response rate and times to events per draw and arm of the priors, all in the same draws."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from vtrial.config import Arm, Cohort, Subgroup, Visits
from vtrial.medians import Curve
from vtrial.mouse_prior import MouseDraws
from vtrial.outcomes import CHANGE_BINS, NO_CHANGE_BIN, EndpointCounts
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors, TrialArm
from vtrial.rates import response_rates
from vtrial.response import RECIST_1_0, RECIST_1_1, RecistRule
from vtrial.times import ends_by_visit, survival_curves
from vtrial.translation import CohortPlan, plan_cohort
from vtrial.trial import Endpoints, simulate

#: assessments of every published arm: protocols scan every 6 to 9 weeks
VISITS = Visits(every_days=56, until_days=504)
#: day 0 and the visits: the days of every :class:`vtrial.medians.Curve`
DAYS = np.array([0.0, *VISITS.days()])
# draws handed to the device at once: memory stays bounded
_PIECE = 250


class SimulatedArms(NamedTuple):
    """Response rates [D] and times to events of published arms, by id of the arm."""

    rate: Mapping[int, np.ndarray]  # confirmed, or unconfirmed where the source says so
    independent_action: Mapping[int, np.ndarray]  # combinations only
    origin: Mapping[int, str]  # where the effects of the drugs come from
    patients: Mapping[int, int]  # simulated patients behind each rate
    progression: Mapping[int, Curve]  # to progression, or to progression or death where that is what was published
    response: Mapping[int, Curve]  # to the confirmed response, of its responders
    shrunk: Mapping[int, np.ndarray]  # [D], share of those measured whose target lesions were ever smaller


def independent_arms(arms: Sequence[TrialArm]) -> set[int]:
    """Ids of arms that hold no patient twice: of a whole and its parts, the parts."""
    return {arm.id for arm in arms if not (arm.overlaps and arm.subgroup == "all")}


def left_out_with(arm: TrialArm, arms: Sequence[TrialArm]) -> list[int]:
    """Ids of everything that leaves with an arm: its whole trial, and all that overlaps it, in either direction."""
    out = {other.id for other in arms if other.trial == arm.trial}
    out |= {other.id for other in arms if out & set(other.overlaps)}
    return sorted(out | {i for other in arms if other.id in out for i in other.overlaps})


def cohorts(arms: Sequence[TrialArm]) -> list[tuple[Cohort, str, list[TrialArm]]]:
    """Cohorts of one arm each, their RECIST version, and the published arms that they stand for.

    One arm at a time, because arms of as many drugs then have the same shapes and are compiled once; the patients are
    the same in all of them. Equal arms of several trials are simulated once. Covariates are 0 or 1: who is not in the
    subgroup has the other value.
    """
    groups: dict[str, list[TrialArm]] = {}
    for arm in arms:
        drugs = {name: dosing.model_dump(mode="json") for name, dosing in sorted(arm.drugs.items())}
        what = [arm.tumour_type, arm.prevalence, sorted(arm.covariates.items()), arm.recist or "1.1", drugs]
        groups.setdefault(json.dumps(what), []).append(arm)
    made = []
    for members in groups.values():
        arm, subgroups = members[0], {}
        if arm.prevalence is not None:
            others = {name: 1.0 - value for name, value in arm.covariates.items()}
            subgroups = {
                "in": Subgroup(prevalence=arm.prevalence, covariates=arm.covariates),
                "out": Subgroup(prevalence=1.0 - arm.prevalence, covariates=others),
            }
        one = Arm(name=arm.arm, drugs=arm.drugs)
        cohort = Cohort(tumour_type=arm.tumour_type, subgroups=subgroups, arms=(one,))
        made.append((cohort, arm.recist or "1.1", members))
    return made


def arms_alone(plan: CohortPlan) -> CohortPlan:
    """The plan without the regimens of the null models; the patients are the same."""
    n, regimens = len(plan.arms), plan.regimens
    cut = {name: getattr(regimens, name)[:n] for name in ("present", "bliss", "arm", "combination_hash")}
    ratio = regimens.discontinuation
    regimens = regimens._replace(
        **cut, parts=regimens.parts[:n, :n], discontinuation=None if ratio is None else ratio[:n]
    )
    return plan._replace(exposure=plan.exposure[:, :n], regimens=regimens)


def curves(counts: EndpointCounts, column: int, patients: int) -> dict[str, Curve]:
    """Curves of the times ``PFS`` and ``TTP`` to progression and ``TTR`` to response, of one arm and subgroup.

    Parameters
    ----------
    counts
        Of one arm.
    column
        Of the subgroup; -1 for all patients.
    patients
        Simulated in that subgroup.
    """
    found = {}
    for name, curve in survival_curves(ends_by_visit(counts)).items():
        # nobody at risk any more: the curve stays where it was
        free = np.fmin.accumulate(curve[:, 0, column], axis=-1)
        found[name.upper()] = Curve(free, np.full(len(free), float(patients)))
    course = np.asarray(counts.course, np.int64)[:, 0]
    course = course.sum(1) if column == -1 else course[:, column]
    by_start = course.sum((-1, -2))  # [D, V + 1], without a response first
    responders = by_start[:, 1:].sum(1)
    responded = np.cumsum(by_start[:, 1:], axis=1) / np.maximum(responders, 1)[:, None]
    free = np.concatenate([np.ones((len(responders), 1)), 1.0 - responded], axis=1)
    found["TTR"] = Curve(free, responders.astype(float))
    return found


def any_shrinkage(counts: EndpointCounts, column: int) -> np.ndarray:
    """Share [D] of the patients with an assessment whose target lesions were ever smaller than at the start.

    Up to and including the first PD. Parameters as in :func:`curves`; 0 where nobody has an assessment.
    """
    change = np.asarray(counts.change, np.int64)[:, 0]  # [D, B, CHANGE_BINS]
    change = change.sum(1) if column == -1 else change[:, column]
    measured = change[:, : CHANGE_BINS - 1]
    return measured[:, : NO_CHANGE_BIN + 1].sum(1) / np.maximum(measured.sum(1), 1)


def response_rule(recist: str) -> RecistRule:
    """The rule of a RECIST version, 1.0 or 1.1."""
    return RECIST_1_0 if recist == "1.0" else RECIST_1_1


def planned(
    arms: Sequence[TrialArm],
    draws: MouseDraws,
    sampler: PriorSampler,
    priors: Priors,
    aliases: Mapping[str, str],
    *,
    independent_action: bool = False,
    engraftment_bias: float = 0.0,
) -> Iterator[tuple[Cohort, str, list[TrialArm], CohortPlan]]:
    """The cohorts of published arms with their plans, see :func:`cohorts`; null models of combinations on request."""
    for cohort, recist, members in cohorts(arms):
        plan = plan_cohort(
            sampler.key,
            cohort,
            VISITS,
            draws,  # pyright: ignore[reportArgumentType]
            priors,
            aliases,
            engraftment_bias,
            sampler=sampler,
        )
        yield cohort, recist, members, plan if independent_action else arms_alone(plan)


def simulate_arms(
    key: jax.Array,
    arms: Sequence[TrialArm],
    draws: MouseDraws,
    sampler: PriorSampler,
    priors: Priors,
    aliases: Mapping[str, str],
    num_patients: int,
    *,
    independent_action: bool = True,
) -> SimulatedArms:
    """Simulate every arm once, under the hard rule, in the same draws.

    Parameters
    ----------
    key
        Of the patients.
    arms
        Arms with dosing; no count is read.
    draws, sampler
        D draws of the mice, and of the translation.
    priors, aliases
        See :func:`vtrial.translation.plan_cohort`.
    num_patients
        Patients of each draw.
    independent_action
        False leaves out the null models of combinations, which cost more than the arms themselves.
    """
    rate: dict[int, np.ndarray] = {}
    independent: dict[int, np.ndarray] = {}
    origin: dict[int, str] = {}
    patients: dict[int, int] = {}
    progression: dict[int, Curve] = {}
    response: dict[int, Curve] = {}
    shrunk: dict[int, np.ndarray] = {}
    each = planned(arms, draws, sampler, priors, aliases, independent_action=independent_action)
    for cohort, recist, members, plan in each:
        parts = []
        for first in range(0, draws.size, _PIECE):
            made = simulate(
                key,
                plan.trial(slice(first, first + _PIECE)),
                response_rule(recist),
                num_patients=num_patients,
                endpoints=Endpoints(num_arms=1),
                numbers="sobol",
                first_draw=first,
            )
            parts.append(jax.tree.map(np.asarray, made))
        counts, times = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        rates = response_rates(plan, counts, True)
        column = 0 if cohort.subgroups else -1
        for arm in members:
            main = "unconfirmed_orr" if arm.confirmed is False else "confirmed_orr"
            rate[arm.id] = rates[main][:, 0, column]
            if len(arm.drugs) > 1 and independent_action:
                independent[arm.id] = rates["confirmed_orr:independent_action"][:, 0, column]
            origin[arm.id] = "; ".join(f"{drug}: {plan.origin[priors.drug(drug).name]}" for drug in arm.drugs)
            patients[arm.id] = simulated_patients(arm, num_patients)
            found = curves(times, column, patients[arm.id])
            progression[arm.id], response[arm.id] = found[arm.progression], found["TTR"]
            shrunk[arm.id] = any_shrinkage(times, column)
    return SimulatedArms(rate, independent, origin, patients, progression, response, shrunk)


def simulated_patients(arm: TrialArm, num_patients: int) -> int:
    """How many of the simulated patients of a draw are of an arm's subgroup, on average; at least 1."""
    return max(1, round(num_patients * (arm.prevalence or 1.0)))
