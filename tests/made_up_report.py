"""Made-up results of a run, enough for every figure of its page."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from vtrial.config import Experiment
from vtrial.report import ReportInputs

A, B, AB = "alpha 2 mg", "beta 200 mg", "alpha 2 mg + beta 200 mg"
HOSTILE = "</script><script>alert('x')</script>"
ORR_COLUMNS = [
    *("arm", "tumour_type", "subgroup", "endpoint", "kind", "num_patients", "mean", "sd"),
    *("q05", "q25", "q50", "q75", "q95", "observed_responders", "observed_patients", "source"),
]


def orr_row(arm, subgroup, endpoint, kind, mean, sd, n=math.nan, seen=(math.nan, math.nan, None), tumour_type="LGSOC"):
    quantiles = [mean + z * sd for z in (-1.645, -0.674, 0.0, 0.674, 1.645)]
    return dict(
        zip(ORR_COLUMNS, [arm, tumour_type, subgroup, endpoint, kind, n, mean, sd, *quantiles, *seen], strict=True)
    )


def orr_frame(combination=AB, source="a made-up trial") -> pd.DataFrame:
    rows = []
    for arm, mean, seen in (
        (A, 0.10, (7, 69, "another made-up trial")),
        (B, 0.06, (math.nan, math.nan, None)),
        (combination, 0.30, (34, 109, source)),
    ):
        for subgroup, shift in (("all", 0.0), ("mutant", 0.05)):
            published = seen if subgroup == "all" else (math.nan, math.nan, None)
            for endpoint, more in (("confirmed_orr", 0.0), ("dcr", 0.4)):
                at = (arm, subgroup, endpoint)
                rows.append(orr_row(*at, "population", mean + shift + more, 0.03, seen=published))
                rows.append(orr_row(*at, "predictive", mean + shift + more, 0.035, n=57, seen=published))
    for name, mean in (("independent_action", 0.16), ("best_single", 0.10), ("bliss", 0.22)):
        rows.append(orr_row(combination, "all", f"confirmed_orr:{name}", "population", mean, 0.02))
    return pd.DataFrame(rows, columns=ORR_COLUMNS)


def experiment(**changes) -> Experiment:
    daily = {"dose": "200 mg", "times_per_day": 2, "repeat": "1 d", "on": "21 d", "cycle": "28 d"}
    subgroups = {"mutant": {"prevalence": 0.52}, "wild type": {"prevalence": 0.48}}
    arms = [{"name": A, "drugs": {"alpha": daily}}, {"name": B, "drugs": {"beta": daily}}]
    arms.append({"name": AB, "drugs": {"alpha": daily, "beta": {"dose": "2 mg", "days": [1, 4], "repeat": "7 d"}}})
    cohort = {"tumour_type": "LGSOC", "label": "low-grade serous", "subgroups": subgroups, "arms": arms}
    visits = {"every_days": 56, "until_days": 672, "then_every_days": 84, "then_after_days": 504}
    written = {
        **{"name": "made-up", "title": "Alpha and beta in LGSOC"},
        "data": {"path": "twin.csv", "source": "Made up for a test.", "synthetic": False},
        "trial": {"visits": visits, "cohorts": [cohort]},
    }
    return Experiment.model_validate(written | changes)


def curve_frame(num_models=4, arms=("untreated", "alpha", "beta", "alpha + beta"), num_days=9) -> pd.DataFrame:
    rng = np.random.default_rng(11)
    rows = []
    for place in range(num_models):
        for arm, rate in zip(arms, np.linspace(0.05, -0.06, len(arms)), strict=True):
            for mouse in ("1", "2")[: 1 + (arm == "untreated")]:
                for day in range(0, 4 * num_days, 4):
                    median = 200.0 * math.exp(rate * day)
                    volume = median * math.exp(0.15 * rng.normal())
                    row = [f"X-{1000 + place}", ("BRCA", "CM")[place % 2], arm, f"{place}-{mouse}", day, volume]
                    rows.append([*row, volume <= 30, median, median / 1.6, median * 1.6])
    names = "pdx_model tumour_type arm mouse day volume_mm3 censored fitted_median q05 q95"
    return pd.DataFrame(rows, columns=names.split())


def patient_frames(arms=(A, B, AB), count=40) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(5)
    bars, lines = [], []
    for shift, arm in enumerate(arms):
        for patient in range(count):
            rate = rng.normal(0.08 - 0.1 * shift, 0.12)
            sizes = [100 * math.expm1(rate * visit) for visit in range(8)]
            best = min(sizes[1:])
            response = "PR" if best <= -30 else "PD" if best >= 20 else "SD"
            bars.append(
                ["LGSOC", arm, "all", patient, math.nan if patient == 7 else best, "NE" if patient == 7 else response]
            )
            lines += [["LGSOC", arm, patient, 56 * visit, size] for visit, size in enumerate(sizes) if size < 120]
    return (
        pd.DataFrame(bars, columns=["tumour_type", "arm", "subgroup", "patient", "best_change_pct", "response"]),
        pd.DataFrame(lines, columns=["tumour_type", "arm", "patient", "day", "change_pct"]),
    )


def mouse_frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for tumour_type in ("BRCA", "CM", "GC"):
        for arm in range(8):
            mean = float(rng.beta(1.2, 4))
            low, high = max(mean - 0.12, 0.0), min(mean + 0.15, 1.0)
            observed = float(np.clip(mean + 0.06 * rng.normal(), 0, 1))
            rows.append([tumour_type, f"drug {arm}", 30, observed, mean, low, high])
    return pd.DataFrame(rows, columns=["tumour_type", "arm", "num_models", "observed", "mean", "q05", "q95"])


def swimmer_frame(bars: pd.DataFrame) -> pd.DataFrame:
    keys = ["tumour_type", "arm", "subgroup", "patient", "response"]
    frame = bars[keys].copy()
    frame["response_day"] = np.where(frame["response"].isin(["CR", "PR"]), 56.0, np.nan)
    frame["end_day"] = 56.0 * (1 + frame["patient"] % 7)
    frame["end"] = np.where(frame["patient"] % 3 == 0, "censored", "progression")
    return frame


def pfs_frame(arms=(A, B, AB)) -> pd.DataFrame:
    rows = []
    for place, arm in enumerate(arms):
        for day in range(0, 392, 56):
            mean = math.exp(-day / (150 + 60 * place))
            quantiles = [mean**power for power in (1.8, 1.3, 1.0, 0.8, 0.5)]
            rows.append(["LGSOC", arm, float(day), mean, *quantiles])
    return pd.DataFrame(rows, columns=["tumour_type", "arm", "day", "mean", "q05", "q25", "q50", "q75", "q95"])


def endpoint_frame(arms=(A, B, AB)) -> pd.DataFrame:
    rows = []
    for arm in arms:
        for endpoint, unit, values in (
            ("confirmed_dcr", "fraction", (0.5, 0.6, 0.7, 0.8, 0.9)),
            ("dor_median", "day", (112.0, 168.0, 280.0, math.nan, math.nan)),
            ("pfs_median", "day", (56.0, 112.0, 168.0, 224.0, 280.0)),
        ):
            rows.append([arm, "LGSOC", "all", endpoint, unit, math.nan, math.nan, *values, 0.0])
    names = "arm tumour_type subgroup endpoint unit mean sd q05 q25 q50 q75 q95 missing"
    return pd.DataFrame(rows, columns=names.split())


def uncertainty_frame(arms=(A, B, AB)) -> pd.DataFrame:
    rows = []
    for arm in arms:
        for source, index, share in (
            ("mice", 0.2, 0.18),
            ("combination rule", -0.02, 0.0),
            ("translation", 0.7, 0.62),
            ("patients and reading", 0.01, 0.01),
            ("several together", math.nan, 0.07),
            ("between trials", math.nan, 0.05),
            ("number of patients", math.nan, 0.07),
        ):
            error = math.nan if math.isnan(index) else 0.05
            rows.append(["LGSOC", arm, 57, source, index, error, 0.04 * share, share])
    names = "tumour_type arm num_patients source first_order standard_error variance share"
    return pd.DataFrame(rows, columns=names.split())


def tgi_frame(drugs=("alpha", "beta", "alpha + beta")) -> pd.DataFrame:
    rows = []
    for endpoint, kind in (("tgi", "population"), ("tgi", "predictive"), ("regression", "population")):
        for place, name in enumerate(drugs):
            for subgroup in ("mutant", "all"):
                middle = (0.5 + 0.2 * place) * (0.3 if endpoint == "regression" else 1.0)
                wide = 2.0 if kind == "predictive" else 0.2
                quantiles = [middle + wide * z for z in (-1.0, -0.4, 0.0, 0.3, 0.5)]
                above = 0.9 if place == 2 and endpoint == "tgi" else math.nan
                rows.append(["LGSOC", subgroup, name, endpoint, kind, 21.0, middle, 0.1, *quantiles, above])
    names = "tumour_type subgroup drugs endpoint kind day mean sd q05 q25 q50 q75 q95 above_singles"
    return pd.DataFrame(rows, columns=names.split())


def rank_frame(arms=(A, B, AB), drugs=("alpha", "beta", "alpha + beta")) -> pd.DataFrame:
    chances = ((0.05, 0.7, 0.25), (0.01, 0.25, 0.74), (0.94, 0.05, 0.01))
    rows = [
        ["LGSOC", subgroup, endpoint, name, rank + 1, chance]
        for endpoint, names in (("confirmed_orr", arms), ("mouse_tgi", drugs))
        for subgroup in ("mutant", "all")
        for name, own in zip(names, chances, strict=True)
        for rank, chance in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["tumour_type", "subgroup", "endpoint", "treatment", "rank", "probability"])


def contrast_frame(arm=AB) -> pd.DataFrame:
    rows = [["LGSOC", group, A, arm, -0.2, 0.1, -0.35, -0.2, -0.05, 0.02] for group in ("mutant", "all")]
    names = "tumour_type subgroup arm against difference sd q05 q50 q95 probability"
    return pd.DataFrame(rows, columns=names.split())


def exceedance_frame(arm=AB) -> pd.DataFrame:
    rows = [
        ["LGSOC", name, group, rate, 1.0 - rate, 1.0 - 0.9 * rate]
        for name in (A, "alpha again", arm)
        for group in ("mutant", "all")
        for rate in ((0.1, 0.2, 0.3) if name != arm else (0.1, 0.2, 0.4))
    ]
    return pd.DataFrame(rows, columns=["tumour_type", "arm", "subgroup", "rate", "population", "trial"])


def discrepancy_frame(arm=AB) -> pd.DataFrame:
    rows = [
        ["LGSOC", A, "all", 7, 69, 0.1, 0.6, 0.5, 0.55, "s"],
        ["LGSOC", arm, "all", 34, 109, 0.1, 0.99, 0.02, 0.985, "s"],
    ]
    names = "tumour_type arm subgroup responders patients predicted at_most at_least mid_p source"
    return pd.DataFrame(rows, columns=names.split())


def prior_posterior_frame() -> pd.DataFrame:
    rows = [
        ["mu_ln_growth", "growth.mouse.ln_rate", -3.5, -3.2, -3.0, -2.8, -2.5, -2.9, 0.05, -2.98, -2.82],
        ["loss", "growth.mouse.loss", 0.0, 0.3, 0.5, 0.7, 1.0, 0.5, 0.0, 0.5, 0.5],
    ]
    names = "parameter prior prior_q05 prior_q25 prior_q50 prior_q75 prior_q95 mean sd q05 q95"
    return pd.DataFrame(rows, columns=names.split())


def chain_frame() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = [[name, chain, draw, rng.normal()] for name in ("sigma", "tau") for chain in (0, 1) for draw in range(20)]
    return pd.DataFrame(rows, columns=["parameter", "chain", "draw", "value"])


def made_up_inputs(**changes) -> ReportInputs:
    bars, lines = patient_frames()
    prior = {"name": "translation.growth_exponent", "family": "normal", "parameters": {"loc": -0.25, "scale": 0.1}}
    prior |= {"unit": "1", "source": "https://example.org/scaling", "certainty": "published", "note": "by body mass"}
    inputs = ReportInputs(
        experiment=experiment(),
        manifest={"fit_key": "0f1e" * 16, "versions": {"jax": "0.10.2"}, "wall_seconds": {"fit": 61.25}, "seed": 1},
        orr=orr_frame(),
        mouse_response=mouse_frame(),
        diagnostics=pd.DataFrame(
            [
                ["mu_growth", 0.05, 0.004, 0.043, 0.057, 1.002, 911, 1203],
                ["omega_kill", 0.4, 0.1, 0.2, 0.6, 1.04, 95, 80],
            ],
            columns=["parameter", "mean", "sd", "q05", "q95", "rhat", "ess_bulk", "ess_tail"],
        ),
        gates=[{"name": "R-hat", "limit": 1.01, "value": 1.004, "passed": True}],
        prior_entries=[prior],
        superiority=pd.DataFrame(
            [["LGSOC", "all", AB, A, 0.97], ["LGSOC", "all", AB, B, 0.999]],
            columns=["tumour_type", "subgroup", "arm", "against", "probability"],
        ),
        curves=curve_frame(num_models=12),
        waterfall=bars,
        spider=lines,
        swimmer=swimmer_frame(bars),
        pfs=pfs_frame(),
        endpoints=endpoint_frame(),
        uncertainty=uncertainty_frame(),
        prior_posterior=prior_posterior_frame(),
        chains=chain_frame(),
        tgi=tgi_frame(),
        ranks=rank_frame(),
        discrepancies=discrepancy_frame(),
        contrasts=contrast_frame(),
        exceedance=exceedance_frame(),
        scans={"LGSOC": {"visit_delay": 3.0, "missed_visit": 0.03}},
        notes=("One note.",),
    )
    return dataclasses.replace(inputs, **changes)
