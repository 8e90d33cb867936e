"""Published arms simulated: one response rate per draw and arm of the priors, all in the same draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from vtrial.config import Arm, Cohort, Subgroup, Visits
from vtrial.priors import Priors, TrialArm
from vtrial.rates import response_rates
from vtrial.response import RECIST_1_0, RECIST_1_1
from vtrial.translation import CohortPlan, plan_cohort
from vtrial.trial import simulate

#: assessments of every published arm: protocols scan every 6 to 9 weeks
VISITS = Visits(every_days=56, until_days=504)
# draws handed to the device at once: progress is seen, and memory stays bounded
_PIECE = 250


class MouseDraws(Protocol):
    """What the translation reads of the mice: a posterior, or its prior."""

    size: int

    def labels(self, dim: str) -> list[str]:
        """Labels of a dim, empty where there is none."""
        ...

    def get(self, name: str) -> np.ndarray:
        """Values of a site, draws first."""
        ...

    def __contains__(self, name: str) -> bool: ...


class SimulatedArms(NamedTuple):
    """Response rates of published arms, [D] each by id of the arm."""

    rate: Mapping[int, np.ndarray]  # confirmed, or unconfirmed where the source says so
    independent_action: Mapping[int, np.ndarray]  # combinations only
    origin: Mapping[int, str]  # where the effects of the drugs come from
    patients: Mapping[int, int]  # simulated patients behind each rate


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


def simulate_arms(
    key: jax.Array,
    arms: Sequence[TrialArm],
    draws: MouseDraws,
    priors: Priors,
    aliases: Mapping[str, str],
    num_patients: int,
    progress: Callable[[str, int, int], None],
    *,
    independent_action: bool = True,
) -> SimulatedArms:
    """Simulate every arm once, under the hard rule, in the same draws.

    Parameters
    ----------
    key
        Split into that of the translation draws and that of the patients.
    arms
        Arms with dosing; no count is read.
    draws
        Of the mice.
    priors, aliases
        See :func:`vtrial.translation.plan_cohort`.
    num_patients
        Patients of each draw.
    progress
        Told of every piece.
    independent_action
        False leaves out the null models of combinations, which cost more than the arms themselves.
    """
    key_translation, key_patients = jax.random.split(key)
    rate: dict[int, np.ndarray] = {}
    independent: dict[int, np.ndarray] = {}
    origin: dict[int, str] = {}
    patients: dict[int, int] = {}
    groups = cohorts(arms)
    for done, (cohort, recist, members) in enumerate(groups):
        progress(f"arms, {cohort.tumour_type}", done, len(groups))
        plan = plan_cohort(key_translation, cohort, VISITS, draws, priors, aliases)  # pyright: ignore[reportArgumentType]
        plan = plan if independent_action else arms_alone(plan)
        parts = []
        for first in range(0, draws.size, _PIECE):
            piece = slice(first, first + _PIECE)
            rule = RECIST_1_0 if recist == "1.0" else RECIST_1_1
            counts, _ = simulate(key_patients, plan.trial(piece), rule, num_patients=num_patients, first_draw=first)
            parts.append(jax.tree.map(np.asarray, counts))
        counts = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        rates = response_rates(plan, counts, True)
        column = 0 if cohort.subgroups else -1
        for arm in members:
            main = "unconfirmed_orr" if arm.confirmed is False else "confirmed_orr"
            rate[arm.id] = rates[main][:, 0, column]
            if len(arm.drugs) > 1 and independent_action:
                independent[arm.id] = rates["confirmed_orr:independent_action"][:, 0, column]
            origin[arm.id] = "; ".join(f"{drug}: {plan.origin[priors.drug(drug).name]}" for drug in arm.drugs)
            patients[arm.id] = max(1, round(num_patients * (arm.prevalence or 1.0)))
    progress("arms", len(groups), len(groups))
    return SimulatedArms(rate, independent, origin, patients)
