"""Trial designs under what a run believes: its response rates, draw by draw -> a table, JSON and a figure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from vtrial.assurance import (
    RateDraws,
    assurance,
    decision_probabilities,
    decision_rule,
    num_responders,
    sample_size,
    trial_above,
    two_arm_assurance,
)
from vtrial.design import SingleArm, check_rates, fleming, one_stage, one_stage_of, operating_characteristics, simon
from vtrial.disk import whole
from vtrial.errors import InputError
from vtrial.monitoring import bop2, calibrated, posterior_rule, predictive_rule
from vtrial.store import ORR_DRAWS, RunFolder
from vtrial.two_arm import Test, TwoArm, power, smallest_two_arm, two_arm

KINDS: dict[str, str] = {
    "simon": "Simon's two stages (Control Clin Trials 1989;10:1-10), by exhaustive search",
    "exact": "one stage, exact binomial (A'Hern, Stat Med 2001;20:859-866)",
    "fleming": "one stage by the normal approximation (Fleming, Biometrics 1982;38:143-151)",
    "bop2": "BOP2, binary efficacy (Zhou, Lee, Yuan, Stat Med 2017;36:3302-3314), by exact enumeration",
    "predictive": "predictive probability (Lee, Liu, Clin Trials 2008;5:93-106)",
    "posterior": "posterior probability (Thall, Simon, Biometrics 1994;50:337-349, fixed p0)",
    "fisher": "two arms, Fisher's exact test, one-sided",
    "boschloo": "two arms, Boschloo's exact test, one-sided",
    "barnard": "two arms, Barnard's exact test on the score statistic, one-sided",
}
TWO_ARM = ("fisher", "boschloo", "barnard")
WITH_LOOKS = ("bop2", "predictive", "posterior")
#: patients up to which a sample size for the wanted assurance is looked for
_LARGEST_SAMPLE = 200
_RATES = np.linspace(0.0, 1.0, 101)


class Request(NamedTuple):
    """What is asked for; see `vtrial design --help`.

    Attributes
    ----------
    p0, p1 : float
        Response rate of no interest and rate hoped for; of a two-arm trial those of control and treatment.
    alpha, beta : float
        Type I and type II error.
    num_patients : int or None
        Size of a one-stage trial, or of each of two arms; None: the smallest with that power.
    looks : tuple of int
        Patients at each look, for the rules that have any number of them.
    confidence : float or None
        P(p > p0) that is a success at the end; None: the least that keeps alpha.
    futility, efficacy : float or None
        Limits for stopping early.
    wanted : float
        Assurance for which a sample size is looked for.
    against : str or None
        Control arm of a two-arm trial.
    endpoint : str or None
        Of the run; None: the first, confirmed ORR unless the experiment says otherwise.
    """

    kind: str
    p0: float
    p1: float
    alpha: float = 0.05
    beta: float = 0.2
    criterion: Literal["optimal", "minimax"] = "optimal"
    num_patients: int | None = None
    looks: tuple[int, ...] = ()
    confidence: float | None = None
    futility: float = 0.05
    efficacy: float | None = None
    wanted: float = 0.8
    against: str | None = None
    endpoint: str | None = None


def read_numbers(text: str, key: str) -> tuple[int, ...]:
    """Whole numbers, from "10,20,30"; "10:40:5" is every 5 from 10 to 40.

    Raises
    ------
    InputError
        Where it is neither; at `key`.
    """
    try:
        if ":" in text:
            first, last, *step = (int(part) for part in text.split(":"))
            return tuple(range(first, last + 1, *step[:1]))
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise InputError(f"must be like 10,20,30 or 10:40:5, found {text!r}", key=key) from None


# ------------------------------------------------------------------------------------------------ the design


def single_arm_design(request: Request) -> tuple[SingleArm, dict[str, Any]]:
    """The design asked for, and the parameters that its rule came to.

    Raises
    ------
    InputError
        Where an option is out of range, missing, or not one of this design.
    """
    kind, p0, p1, alpha, beta = request[:5]
    check_rates(p0, p1, alpha, beta)
    if kind in WITH_LOOKS and not request.looks:
        raise InputError(f"{kind} needs the patients at each look, such as 10,20,30,40", key="--looks")
    if kind not in WITH_LOOKS and request.looks:
        raise InputError(f"{kind} chooses its own; looks are for {', '.join(WITH_LOOKS)}", key="--looks")
    if kind != "exact" and request.num_patients is not None:
        raise InputError(f"{kind} chooses its own size; a size is for exact and the two-arm tests", key="--n")
    if kind == "simon":
        return simon(p0, p1, alpha, beta, request.criterion), {"criterion": request.criterion}
    if kind == "exact":
        size = request.num_patients
        return (one_stage(p0, p1, alpha, beta) if size is None else one_stage_of(_positive(size), p0, alpha)), {}
    if kind == "fleming":
        return fleming(p0, p1, alpha, beta), {}
    if kind == "bop2":
        found = bop2(request.looks, p0, p1, alpha)
        return found.design, {"lambda": found.lambda_, "gamma": found.gamma}
    limits = {"futility": request.futility, "efficacy": request.efficacy}

    def rule(confidence: float) -> SingleArm:
        if kind == "posterior":
            return posterior_rule(request.looks, p0, p1, confidence, **limits)
        return predictive_rule(request.looks, p0, confidence, **limits)

    if request.confidence is None:
        design, confidence = calibrated(rule, request.looks[-1], p0, alpha)
    else:
        design, confidence = rule(request.confidence), request.confidence
    return design, {"confidence": confidence, **limits}


def _positive(size: int) -> int:
    if not 1 <= size <= 2000:
        raise InputError(f"must lie between 1 and 2000, found {size}", key="--n")
    return size


def _two_arm_design(request: Request) -> TwoArm:
    test: Test = request.kind  # type: ignore[assignment]
    check_rates(request.p0, request.p1, request.alpha, request.beta)
    if request.against is None:
        raise InputError(f"{request.kind} compares two arms; name the control arm", key="--against")
    if request.num_patients is not None:
        return two_arm(request.num_patients, request.num_patients, request.alpha, test)
    return smallest_two_arm(request.p0, request.p1, request.alpha, request.beta, test)


def protocol(design: SingleArm) -> str:
    """The design in words; between two looks that are named the boundary of the first holds."""
    early = list(zip(design.looks[:-1], design.futility, design.success, strict=False))
    low = {r: n for n, r, _ in reversed(early) if r >= 0}
    high = {s: n for n, _, s in reversed(early) if s <= n}
    parts = []
    if low:
        parts.append(f"Stop without success at {', '.join(f'{r}/{n}' for r, n in sorted(low.items()))} or fewer.")
    if high:
        parts.append(f"Stop with success at {', '.join(f'{s}/{n}' for s, n in sorted(high.items()))} or more.")
    return " ".join([*parts, f"Success at the end: {design.success[-1]} or more of {design.num_patients}."])


# ------------------------------------------------------------------------------------------------ the run


def rate_draws(tree: xr.DataTree, endpoint: str | None = None) -> Iterator[tuple[str, str, str, RateDraws]]:
    """Tumour type, arm, subgroup and draws of every rate of a run.

    Raises
    ------
    InputError
        Where the run does not have the endpoint.
    """
    for cohort in tree.children.values():
        data = cohort.to_dataset()
        known = [str(name) for name in data["endpoint"].to_numpy()]
        name = known[0] if endpoint is None else endpoint
        if name not in known:
            raise InputError(f"must be one of {', '.join(known)}, found {name!r}", key="--endpoint")
        weight = data["weight"].to_numpy() if "weight" in data else None
        for arm in data["arm"].to_numpy():
            for group in data["subgroup"].to_numpy():
                rate = data["rate"].sel(endpoint=name, arm=arm, subgroup=group).to_numpy().astype(float)
                if np.isnan(rate).any():
                    continue
                patients = int(data["num_patients"].sel(subgroup=group))
                draws = RateDraws(rate, data["between_trials"].to_numpy().astype(float), patients, weight)
                yield str(data.attrs["tumour_type"]), str(arm), str(group), draws


def design_trial(run_dir: Path, request: Request, out: Path | None = None) -> dict[str, Any]:
    """Work a design out, judge it by every arm of a run, and write table, JSON and figure.

    Files are named after the kind of design and go to `out`, by default to the folder `designs` of the run. Returns
    what the JSON holds.

    Raises
    ------
    InputError
        Where the request or the run folder will not do; nothing is written.
    """
    from vtrial.report.designs import design_image

    folder = RunFolder(run_dir)
    folder.manifest()
    if not folder.exists(ORR_DRAWS):
        raise InputError(f"holds no {ORR_DRAWS}; give `vtrial run` again, which goes on from its fit", file=folder.path)
    with folder.open_posterior(ORR_DRAWS) as tree:
        marks = [mark for mark in str(tree.attrs.get("marks", "")).split("; ") if mark]
        rates = list(rate_draws(tree, request.endpoint))
    if not rates:
        raise InputError("has no arms; its experiment has no cohorts", file=folder.path)
    judged = _two_arms(request, rates) if request.kind in TWO_ARM else _single_arms(request, rates)
    result = {"marks": marks, "kind": request.kind, "method": KINDS[request.kind], **judged}
    table = pd.DataFrame(result["arms"])
    table["note"] = "; ".join(marks)
    files: dict[str, bytes] = {
        f"{request.kind}.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        f"{request.kind}.json": (json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        **{f"{request.kind}.{kind}": design_image(result, rates, kind) for kind in ("svg", "png")},
    }
    if out is None:
        with folder.lock():
            for name, content in files.items():
                folder.write_bytes(f"designs/{name}", content)
    else:
        for name, content in files.items():
            with whole(Path(out).absolute() / name) as aside:
                aside.write_bytes(content)
    result["files"] = [str((folder.path / "designs" if out is None else Path(out).absolute()) / name) for name in files]
    return result


def _belief(request: Request, draws: RateDraws) -> dict[str, float]:
    """What the run believes of a rate: of the population, and of one trial against p0 and p1."""
    weight = draws.weights()
    order = np.argsort(draws.rate)
    share = np.cumsum(weight[order]) - 0.5 * weight[order]
    return {
        "orr_mean": float(weight @ draws.rate),
        "orr_q05": float(np.interp(0.05, share, draws.rate[order])),
        "orr_q95": float(np.interp(0.95, share, draws.rate[order])),
        "trial_above_p0": trial_above(draws, request.p0),
        "trial_above_p1": trial_above(draws, request.p1),
    }


def _single_arms(request: Request, rates: Sequence[tuple[str, str, str, RateDraws]]) -> dict[str, Any]:
    design, parameters = single_arm_design(request)
    at = operating_characteristics(design, [request.p0, request.p1])
    rule = decision_rule(design.num_patients, request.p0, request.p1, confidence=1.0 - request.alpha)
    rows = []
    for tumour_type, arm, group, draws in rates:
        responders = num_responders(draws, max(design.num_patients, _LARGEST_SAMPLE))
        found = assurance(design, draws, responders)
        size = sample_size(draws, request.p0, request.alpha, request.wanted, _LARGEST_SAMPLE, responders)
        go, think, no_go = decision_probabilities(rule, responders(design.num_patients))
        rows.append(
            {
                "tumour_type": tumour_type,
                "arm": arm,
                "subgroup": group,
                **_belief(request, draws),
                "assurance": found.success,
                "assurance_error": found.error,
                "expected_patients": found.expected_patients,
                "stop_early": found.stop_early,
                "go": float(go),
                "think": float(think),
                "no_go": float(no_go),
                "patients_wanted": size.num_patients,
                "assurance_largest": size.largest,
            }
        )
    curve = operating_characteristics(design, _RATES)
    return {
        "design": {
            "p0": request.p0,
            "p1": request.p1,
            "alpha": request.alpha,
            "beta": request.beta,
            **parameters,
            "looks": list(design.looks),
            "stop_at_or_below": [low if low >= 0 else None for low in design.futility],
            "success_at_or_above": [
                high if high <= n else None for n, high in zip(design.looks, design.success, strict=True)
            ],
            "type_one_error": float(at.success[0]),
            "power": float(at.success[1]),
            "expected_patients_p0": float(at.expected_patients[0]),
            "expected_patients_p1": float(at.expected_patients[1]),
            "stop_early_p0": float(at.stop_early[0]),
        },
        "protocol": protocol(design),
        "decision": {"patients": rule.num_patients, "no_go_at_or_below": rule.no_go, "go_at_or_above": rule.go},
        "wanted_assurance": request.wanted,
        "arms": rows,
        "operating_characteristics": _curve(curve.success, curve.expected_patients, curve.stop_early),
    }


def _curve(success: np.ndarray, patients: np.ndarray, early: np.ndarray) -> list[dict[str, float]]:
    return [
        {"rate": float(r), "success": float(s), "expected_patients": float(n), "stop_early": float(e)}
        for r, s, n, e in zip(_RATES, success, patients, early, strict=True)
    ]


def _two_arms(request: Request, rates: Sequence[tuple[str, str, str, RateDraws]]) -> dict[str, Any]:
    controls = {(kind, group): draws for kind, arm, group, draws in rates if arm == request.against}
    if request.against is not None and not controls:
        arms = ", ".join(dict.fromkeys(repr(arm) for _, arm, _, _ in rates))
        raise InputError(f"must be one of {arms}, found {request.against!r}", key="--against")
    design = _two_arm_design(request)
    rows = []
    for tumour_type, arm, group, draws in rates:
        control = controls.get((tumour_type, group))
        if arm == request.against or control is None:
            continue
        found = two_arm_assurance(design, draws, control)
        weight = draws.weights()
        better = float(weight @ (draws.rate > control.rate) + 0.5 * weight @ (draws.rate == control.rate))
        rows.append(
            {
                "tumour_type": tumour_type,
                "arm": arm,
                "subgroup": group,
                **_belief(request, draws),
                "control_mean": float(weight @ control.rate),
                "better": better,
                "assurance": found.success,
                "assurance_error": found.error,
            }
        )
    size = design.num_treated + design.num_control
    success = power(design, _RATES, np.full(_RATES.shape, request.p0))
    return {
        "design": {
            "p0": request.p0,
            "p1": request.p1,
            "alpha": request.alpha,
            "beta": request.beta,
            "treated": design.num_treated,
            "control": design.num_control,
            "against": request.against,
            "type_one_error": design.size,
            "power": float(power(design, request.p1, request.p0)),
        },
        "protocol": f"{design.num_treated} patients treated, {design.num_control} on {request.against}.",
        "arms": rows,
        "operating_characteristics": _curve(success, np.full(_RATES.shape, float(size)), np.zeros(_RATES.shape)),
    }
