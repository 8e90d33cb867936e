"""What the page says in words and tables: rows for its template, made from the tables of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtrial.config import Arm, Experiment, TrialConfig
from vtrial.dosing import describe, dose_days
from vtrial.report.tables import (
    COHORT,
    ENDPOINTS,
    forest_data,
    is_missing,
    main_endpoint,
    null_model_data,
    percent,
    records,
)

if TYPE_CHECKING:
    import pandas as pd

    from vtrial.config import Gates

#: the endpoint of ranks.csv that ranks sets of drugs by what they do in mice
MOUSE_RANKS = "mouse_tgi"
#: probabilities of as few, or as many, below which a published count is a surprise
_SURPRISE = 0.05
_LONGEST_VALUE = 400
#: a calendar shows whole weeks, these many at least and at most
_WEEKS = (4, 12)
#: columns of the table of further endpoints: name in endpoints.csv -> head; the first that is there of several
_FURTHER = {
    "disease control": ("confirmed_dcr", "unconfirmed_dcr"),
    "time to response, days": ("time_to_response_median",),
    "duration of response, days": ("dor_median",),
    "PFS, days": ("pfs_median",),
    "PFS at 182 days": ("pfs_at_182_days",),
    "best change, %": ("best_change_median",),
}


def answer(orr: pd.DataFrame, superiority: pd.DataFrame | None, experiment: Experiment) -> dict[str, Any]:
    """Response rates by cohort: cards of all patients of an arm, tables of every subgroup, and their sources."""
    labels = {cohort.tumour_type: cohort.label for cohort in experiment.trial.cohorts}
    main = main_endpoint(orr)
    names = dict.fromkeys(str(name) for name in orr["endpoint"] if ":" not in str(name))
    sources: list[str] = []
    tables = {}
    for endpoint in sorted(names, key=lambda name: name != main):
        cohorts: dict[str, list[dict[str, Any]]] = {}
        for row in records(forest_data(orr, endpoint)):
            reference = None
            if not is_missing(row["source"]):
                if row["source"] not in sources:
                    sources.append(row["source"])
                reference = sources.index(row["source"]) + 1
            cohorts.setdefault(str(row["tumour_type"]), []).append(row | {"reference": reference})
        tables[endpoint] = [(labels.get(name) or name, rows) for name, rows in cohorts.items()]
    better: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows_of(superiority):
        if row["subgroup"] == "all":
            better.setdefault((str(row["tumour_type"]), str(row["arm"])), []).append(row)
    cards = [
        (
            label,
            [
                row | {"better": better.get((str(row["tumour_type"]), str(row["arm"])), [])}
                for row in rows
                if row["subgroup"] == "all"
            ],
        )
        for label, rows in tables.get(main, [])
    ]
    return {
        **{"endpoint": ENDPOINTS.get(main, main), "main": tables.pop(main, []), "cards": cards, "sources": sources},
        "others": [(ENDPOINTS.get(name, name), cohorts) for name, cohorts in tables.items()],
    }


def visits(trial: TrialConfig) -> str:
    """The calendar of assessments in words."""
    own = trial.visits
    text = f"every {own.every_days} days"
    if own.then_after_days is not None:
        text += f" up to day {own.then_after_days}, then every {own.then_every_days} days"
    return f"{text} until day {own.days()[-1]}"


def scans(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How scans keep to their calendar, a sentence for all cohorts where they are alike."""
    said: dict[str, list[str]] = {}
    for tumour_type, one in found.items():
        delay, missed = one["visit_delay"], one["missed_visit"]
        late = f"is made {delay:.2g} days late on average" if delay else "is made on its planned day"
        text = f"A scan {late}, and {percent(missed, 0)} of scans are missed (medians of the priors)."
        said.setdefault(text, []).append(tumour_type)
    return [text if len(said) == 1 else f"{', '.join(types)}: {text}" for text, types in said.items()]


def rules(trial: TrialConfig) -> list[str]:
    """What the protocol changes of RECIST, and the cut-off of the data, a sentence each."""
    own, said = trial.protocol, []
    if own.confirm_days is not None and trial.confirmation:
        said.append(f"A response is confirmed by a scan {own.confirm_days} days later or more.")
    if own.min_sd_days is not None:
        said.append(f"Stable disease counts from day {own.min_sd_days}.")
    if own.max_nonevaluable_between is not None:
        said.append(
            f"Up to {own.max_nonevaluable_between} missed scans may lie between a response and its confirmation."
        )
    if own.max_stable_between is not None:
        said.append(f"Up to {own.max_stable_between} stable scans may lie between a PR and its confirmation.")
    if own.reappearance_is_progression is not None:
        as_what = "is progression" if own.reappearance_is_progression else "says that the CR was a PR"
        said.append(f"A PR after a CR {as_what}.")
    if own.max_unassessed_days is not None:
        said.append(f"Progression seen more than {own.max_unassessed_days} days after the last scan is censored.")
    if trial.cut_off is not None:
        cut = trial.cut_off
        said.append(f"Patients enter over {cut.accrual:g} days; data are as known {cut.after:g} days after the first.")
    return said


def contrasts(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Arms against each other, all patients; arms that are dosed alike do not differ and are left out."""
    rows = [row for row in rows_of(frame) if row["subgroup"] == "all"]
    return [row for row in rows if any(row[name] != 0.0 for name in ("difference", "q05", "q95"))]


def surprises(frame: pd.DataFrame | None) -> dict[str, Any]:
    """Published counts under their prediction, and how many of them lie in a tail."""
    rows = rows_of(frame)
    for row in rows:
        row["poor"] = min(row["at_most"], row["at_least"]) < _SURPRISE
    return {"rows": rows, "count": sum(row["poor"] for row in rows), "limit": _SURPRISE}


def protocol(experiment: Experiment) -> list[dict[str, Any]]:
    """Arms with their dosing in words and as weeks of days; arms of one cohort that are dosed alike are one."""
    found: dict[tuple[str, Any], dict[str, Any]] = {}
    for cohort in experiment.trial.cohorts:
        for arm in cohort.arms:
            dosings = {drug: dosing.to_dosing() for drug, dosing in arm.drugs.items()}
            key = (cohort.tumour_type, tuple(sorted(dosings.items())))
            entry = found.setdefault(key, {"tumour_type": cohort.tumour_type, "arms": [], "drugs": _calendar(arm)})
            entry["arms"].append(arm.name)
    return list(found.values())


def _calendar(arm: Arm) -> list[dict[str, Any]]:
    dosings = {drug: dosing.to_dosing() for drug, dosing in arm.drugs.items()}
    longest = max(dosing.start_day + (dosing.cycle_days or dosing.repeat_days) for dosing in dosings.values())
    weeks = min(max(math.ceil(longest / 7), _WEEKS[0]), _WEEKS[1])
    rows = []
    for drug, dosing in dosings.items():
        doses = [0] * (7 * weeks)
        for time in dose_days(dosing, 7 * weeks):
            doses[int(time)] += 1
        kinds = []
        for day, number in enumerate(doses):
            within = (day - dosing.start_day) % dosing.cycle_days if dosing.cycle_days else 0
            off = day < dosing.start_day or (dosing.on_days is not None and within >= dosing.on_days)
            kinds.append({"day": day + 1, "doses": number, "kind": "dose" if number else "off" if off else "none"})
        lines = [kinds[at : at + 7] for at in range(0, len(kinds), 7)]
        rows.append({"drug": drug, "words": describe(dosing), "weeks": lines})
    return rows


def patients(samples: Sequence[tuple[str, Sequence[str]]], waterfall: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Heads of the samples of patients (tumour type, arms that show the same), in the order of their figures."""
    from vtrial.report.patients import of_arm

    heads = []
    several = len({tumour_type for tumour_type, _ in samples}) > 1
    for place, (tumour_type, arms) in enumerate(samples):
        own = records(of_arm(waterfall, arms[0], tumour_type)) if waterfall is not None else []
        unmeasured = sum(is_missing(row["best_change_pct"]) for row in own)
        titles = [f"{tumour_type}: {arm}" if several else arm for arm in arms]
        heads.append({"arms": titles, "place": place, "count": len(own), "unmeasured": unmeasured})
    return heads


def further_endpoints(endpoints: pd.DataFrame | None) -> dict[str, Any]:
    """Median and 90 % interval of what else the same patients show, all of a cohort; a row per arm."""
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows_of(endpoints):
        if row["subgroup"] == "all":
            rows.setdefault((str(row["tumour_type"]), str(row["arm"])), {})[str(row["endpoint"])] = row

    def shown(row: dict[str, Any] | None) -> tuple[str, str]:
        if row is None:
            return "-", ""
        scale, unit = (100.0, " %") if row["unit"] == "fraction" else (1.0, "")

        def text(value: Any) -> str:
            return "not reached" if is_missing(value) else f"{scale * value:.0f}"

        whole = text(row["q50"]) + ("" if is_missing(row["q50"]) else unit)
        if is_missing(row["q50"]) and is_missing(row["q95"]) and row["missing"] == 1.0:
            return "-", ""
        return whole, f"{text(row['q05'])} to {text(row['q95'])}"

    heads = [
        head for head, names in _FURTHER.items() if any(name in found for found in rows.values() for name in names)
    ]
    table = []
    for (tumour_type, arm), found in rows.items():
        cells = [shown(next((found[name] for name in _FURTHER[head] if name in found), None)) for head in heads]
        table.append({"tumour_type": tumour_type, "arm": arm, "cells": cells})
    return {"heads": heads, "rows": table}


def null_models(orr: pd.DataFrame) -> dict[str, Any]:
    """Combinations under each rule, a row per arm and subgroup."""
    data = null_model_data(orr)
    table: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in records(data):
        table.setdefault(tuple(row[name] for name in COHORT), {})[str(row["model"])] = row
    rows = [dict(zip(COHORT, names, strict=True)) | {"models": found} for names, found in table.items()]
    return {"models": list(dict.fromkeys(str(name) for name in data["model"])), "rows": rows}


def mouse_responses(frame: pd.DataFrame | None) -> dict[str, Any]:
    """Response rates of mice, and how far predictions are from what was observed."""
    rows = rows_of(frame)
    if not rows:
        return {"rows": []}
    gaps = [abs(row["mean"] - row["observed"]) for row in rows]
    held = sum(row["q05"] <= row["observed"] <= row["q95"] for row in rows)
    return {"rows": rows, "mean_absolute_error": math.fsum(gaps) / len(gaps), "held": held}


def diagnostics(frame: pd.DataFrame | None, gates: Gates) -> list[dict[str, Any]]:
    """Rows of diagnostics.csv, those that miss a gate first and marked."""
    rows = rows_of(frame)
    for row in rows:
        row["poor"] = [
            *(["rhat"] if not row["rhat"] <= gates.rhat else []),
            *(name for name in ("ess_bulk", "ess_tail") if not row[name] >= getattr(gates, name)),
        ]
    return sorted(rows, key=lambda row: not row["poor"])


def provenance(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """The manifest as names and values; the gates have a table of their own."""
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}{key}"
        if name in ("gates", "fit.gates"):
            continue
        if isinstance(value, Mapping):
            flat += provenance(value, f"{name}.")
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            inner = (provenance(one) if isinstance(one, Mapping) else [("", short(one))] for one in value)
            value = "; ".join(" ".join(f"{key} {text}".strip() for key, text in one) for one in inner)
        text = short(value)
        flat.append((name, text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + " ..."))
    return flat


def rows_of(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows of a table; none of none."""
    return [] if frame is None else records(frame)


def span(low: object, high: object, digits: int = 1) -> str:
    """Two fractions as "22.4 to 41.0 %"; "-" where missing."""
    if is_missing(low) or is_missing(high):
        return "-"
    return f"{100.0 * float(low):.{digits}f} to {100.0 * float(high):.{digits}f} %"  # type: ignore[arg-type]


def odds(probability: float) -> str:
    """A probability in whole percent; not 0 and not 100, which draws cannot say."""
    if is_missing(probability):
        return "-"
    return "below 1 %" if probability < 0.01 else "above 99 %" if probability > 0.99 else percent(probability, 0)


def short(value: object) -> str:
    """A value in four digits."""
    if is_missing(value):
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
