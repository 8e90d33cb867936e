"""Counts of virtual patients -> response rates: the rows of `orr.csv`, and what the report says of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.config import Cohort
from vtrial.outcomes import Counts
from vtrial.response import CR, PR, SD
from vtrial.translation import CohortPlan

COLUMNS = (
    "arm",
    "tumour_type",
    "subgroup",
    "endpoint",
    "kind",
    "num_patients",
    "mean",
    "sd",
    "q05",
    "q25",
    "q50",
    "q75",
    "q95",
    "observed_responders",
    "observed_patients",
    "source",
)


def _share(count: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Rates [D, B + 1] of counts [D, B]: the subgroups, and all patients last."""
    count, patients = (np.concatenate([x, x.sum(1, keepdims=True)], axis=1) for x in (count, patients))
    return count / np.maximum(patients, 1)


def response_rates(plan: CohortPlan, counts: Counts, confirmation: bool) -> dict[str, np.ndarray]:
    """Rates per endpoint, [D, K, B + 1] with all patients last; null models are [D, arms, B + 1], NaN for single drugs.

    With `confirmation` off, the disease control rate and the null models are of unconfirmed responses too. The best
    single drug of a combination is the one with the largest mean rate, at the doses of the combination.
    """
    confirmed, unconfirmed, patients = (
        np.asarray(x) for x in (counts.best_response, counts.best_unconfirmed, counts.num_patients)
    )
    best = confirmed if confirmation else unconfirmed
    regimens = plan.regimens
    parts, bliss, arm_of = (np.asarray(x) for x in (regimens.parts, regimens.bliss, regimens.arm))

    def rate(values: np.ndarray) -> np.ndarray:
        return np.stack([_share(values[:, k], patients) for k in range(values.shape[1])], axis=1)

    main = "confirmed_orr" if confirmation else "unconfirmed_orr"
    responding = rate(best[..., CR] + best[..., PR])
    rates = {main: responding}
    if confirmation:
        rates["unconfirmed_orr"] = rate(unconfirmed[..., CR] + unconfirmed[..., PR])
    rates["dcr"] = rate(best[..., CR] + best[..., PR] + best[..., SD])
    independent = rate(np.asarray(counts.responders_independent if confirmation else counts.independent_unconfirmed))
    nulls = {
        name: np.full((*responding.shape[:1], len(plan.arms), responding.shape[2]), np.nan)
        for name in ("independent_action", "best_single", "bliss")
    }
    for k in range(len(plan.arms)):
        singles = np.flatnonzero(parts[k])
        if len(singles):
            nulls["independent_action"][:, k] = independent[:, k]
            strongest = singles[np.argmax(responding[:, singles, -1].mean(0))]
            nulls["best_single"][:, k] = responding[:, strongest]
            nulls["bliss"][:, k] = responding[:, np.flatnonzero(bliss & (arm_of == k))[0]]
    return {**rates, **{f"{main}:{name}": values for name, values in nulls.items()}}


def predictive_counts(
    rng: np.random.Generator, rate: np.ndarray, num_patients: int, patients: int, between_trials: np.ndarray
) -> np.ndarray:
    """Responders of one trial per draw: binomial, with a normal deviation of the trial's logit from the population's.

    `patients` simulated patients stand behind each rate; a rate of 0 of them counts as half a patient, so that it has
    a logit.
    """
    safe = np.clip(rate, 0.5 / patients, 1.0 - 0.5 / patients)
    logit = np.log(safe / (1.0 - safe)) + between_trials * rng.standard_normal(rate.shape)
    return rng.binomial(num_patients, 1.0 / (1.0 + np.exp(-logit)))


def orr_rows(
    cohort: Cohort,
    plan: CohortPlan,
    rates: dict[str, np.ndarray],
    seed: int,
    patients: int,
    between_trials: np.ndarray,
    marks: Iterable[str],
) -> pd.DataFrame:
    """Rows of `orr.csv` of one cohort: rates per arm, subgroup, endpoint and kind, beside what was observed."""
    marks, rows = list(marks), []
    groups = [*(plan.subgroups if cohort.subgroups else ()), "all"]
    for k, arm in enumerate(cohort.arms):
        for group in groups:
            column = list(plan.subgroups).index(group) if group != "all" else -1
            observed = next((o for o in arm.observed if o.subgroup == group), None)
            for place, (endpoint, values) in enumerate(rates.items()):
                draws = values[:, k, column]
                if np.isnan(draws).all():
                    continue
                share = cohort.subgroups[group].prevalence if group != "all" else 1.0
                simulated = max(1, round(patients * share))
                kinds: list[tuple[str, int, np.ndarray]] = [("population", simulated, draws)]
                if ":" not in endpoint:
                    number = arm.trial_size(group, share)
                    # one generator a row, seeded by its place: a row does not depend on which others are asked for
                    rng = np.random.default_rng([seed, k, groups.index(group), place])
                    responders = predictive_counts(rng, draws, number, simulated, between_trials)
                    kinds.append(("predictive", number, responders / number))
                for kind, number, sample in kinds:
                    shown = observed if place == 0 or ":" in endpoint else None
                    rows.append(
                        {
                            "arm": arm.name,
                            "tumour_type": cohort.tumour_type,
                            "subgroup": group,
                            "endpoint": endpoint,
                            "kind": kind,
                            "num_patients": number,
                            "mean": sample.mean(),
                            "sd": sample.std(ddof=1) if len(sample) > 1 else 0.0,
                            **dict(
                                zip(
                                    ("q05", "q25", "q50", "q75", "q95"),
                                    np.quantile(sample, [0.05, 0.25, 0.5, 0.75, 0.95]),
                                    strict=True,
                                )
                            ),
                            "observed_responders": shown.responders if shown else None,
                            "observed_patients": shown.patients if shown else None,
                            "source": "; ".join([*marks, *([shown.source] if shown else [])]),
                        }
                    )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"observed_responders": "Int64", "observed_patients": "Int64"})


def orr_draws(
    cohort: Cohort,
    plan: CohortPlan,
    rates: dict[str, np.ndarray],
    patients: int,
    between_trials: np.ndarray,
    index: np.ndarray,
) -> xr.Dataset:
    """The rates of one cohort draw by draw, with what one trial may differ by: what decisions are made on.

    `rate` (draw, endpoint, arm, subgroup) is that of the population, NaN for the null models of single drugs;
    `between_trials` (draw) the SD on the logit of one trial's rate about it; `num_patients` (subgroup) the virtual
    patients behind a rate. The coordinate `draw` is the draw of the posterior.
    """
    shares = [group.prevalence for group in cohort.subgroups.values()]
    groups = [*(plan.subgroups if cohort.subgroups else ()), "all"]
    columns = [*range(len(shares)), -1]
    number = len(plan.arms)
    return xr.Dataset(
        {
            "rate": (
                ("draw", "endpoint", "arm", "subgroup"),
                np.stack([values[:, :number][..., columns] for values in rates.values()], axis=1),
            ),
            "between_trials": (("draw",), between_trials),
            "num_patients": (("subgroup",), [max(1, round(patients * share)) for share in (*shares, 1.0)]),
        },
        coords={"draw": index, "endpoint": list(rates), "arm": list(plan.arms), "subgroup": groups},
        attrs={"tumour_type": cohort.tumour_type, "label": cohort.label or cohort.tumour_type},
    )


def superiority(cohort: Cohort, plan: CohortPlan, rates: dict[str, np.ndarray]) -> pd.DataFrame:
    """P(rate of a combination > that of each of its drugs alone, same doses), and the difference, per subgroup."""
    main = next(iter(rates))
    parts, present = np.asarray(plan.regimens.parts), np.asarray(plan.regimens.present)
    rows = []
    for k, arm in enumerate(plan.arms):
        for j in np.flatnonzero(parts[k]):
            drug = plan.drugs[int(np.flatnonzero(present[j])[0])]
            for column, group in enumerate([*plan.subgroups, "all"] if cohort.subgroups else ["all"]):
                at = column if group != "all" else -1
                combination, single = rates[main][:, k, at], rates[main][:, j, at]
                probability = float(np.mean(combination > single) + 0.5 * np.mean(combination == single))
                rows.append(
                    {
                        "tumour_type": cohort.tumour_type,
                        "subgroup": group,
                        "arm": arm,
                        "against": f"{drug} alone",
                        "probability": probability,
                        "difference": float(np.mean(combination - single)),
                        **dict(zip(("q05", "q95"), np.quantile(combination - single, [0.05, 0.95]), strict=True)),
                    }
                )
    columns = ["tumour_type", "subgroup", "arm", "against", "probability", "difference", "q05", "q95"]
    return pd.DataFrame(rows, columns=columns)
