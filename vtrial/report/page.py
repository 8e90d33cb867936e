"""The page: one HTML file that needs nothing beside it, neither files nor a network.

Names come from data, so they are untrusted text: Jinja escapes them in the page, `figures.plain` in the figures, and
the figures' JSON holds no ``<``, so that no name can end the script element it lies in. The page's own content policy
forbids every request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtrial.config import Experiment, TrialConfig
from vtrial.report import figures
from vtrial.report.curves import TRACE_LOOKS, curve_panels, panel_layout
from vtrial.report.engagement import engagement
from vtrial.report.tables import (
    COHORT,
    ENDPOINTS,
    counts,
    forest_data,
    is_missing,
    main_endpoint,
    null_model_data,
    percent,
    records,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: bytes of JSON that fitted curves may take: with Plotly's 4.8 MB a page stays below 8 MB
CURVE_BYTES = 2_500_000
_LONGEST_VALUE = 400


@dataclass(frozen=True)
class ReportInputs:
    """What a page is made of; rates are fractions, changes in size percent of baseline.

    Attributes
    ----------
    experiment : Experiment
        The resolved experiment.
    manifest : mapping
        The run's manifest: keys, versions, device, seeds, hashes, wall times.
    orr : DataFrame
        Rows of orr.csv.
    mouse_response : DataFrame or None
        Rows of mouse_response.csv.
    diagnostics : DataFrame or None
        parameter, mean, sd, q05, q95, rhat, ess_bulk, ess_tail.
    gates : sequence of mapping
        name, limit, value, passed.
    prior_entries : sequence of mapping
        name, family, parameters (a mapping), unit, source, certainty, note.
    protocol : sequence of tuple
        Arm, its dosing in lines of words, its dosing calendar as text.
    superiority : DataFrame or None
        tumour_type, subgroup, arm, against, probability: that the arm's rate is above that of ``against``.
    curves : DataFrame or None
        pdx_model, tumour_type, arm, mouse, day, volume_mm3, censored, fitted_median, q05, q95.
    waterfall : DataFrame or None
        tumour_type, arm, subgroup, patient, best_change_pct, response.
    spider : DataFrame or None
        arm, patient, day, change_pct.
    engagement : DataFrame or None
        Rows of engagement.csv.
    notes : tuple of str
        What the reader must know beside, one sentence each.
    synthetic, quick : bool
        Whether the data hold no real measurement, and whether this is a quick run; also read from the experiment.
    """

    experiment: Experiment
    manifest: Mapping[str, Any]
    orr: pd.DataFrame
    mouse_response: pd.DataFrame | None = None
    diagnostics: pd.DataFrame | None = None
    gates: Sequence[Mapping[str, Any]] = ()
    prior_entries: Sequence[Mapping[str, Any]] = ()
    protocol: Sequence[tuple[str, Sequence[str], str]] = ()
    superiority: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    waterfall: pd.DataFrame | None = None
    spider: pd.DataFrame | None = None
    engagement: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    quick: bool = False


def build_report(inputs: ReportInputs) -> str:
    """The whole page.

    Parameters
    ----------
    inputs : ReportInputs

    Returns
    -------
    str
        HTML in UTF-8, 5 to 8 MB, most of it Plotly's script.
    """
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtrial.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "span": _span, "odds": _odds, "short": _short, "counts": counts}
    experiment = inputs.experiment
    drawn = {name: Markup(_json(figure.to_plotly_json())) for name, figure in _figures(inputs).items()}
    return environment.get_template("report.html.j2").render(
        inputs=inputs,
        experiment=experiment,
        title=experiment.report.title or experiment.title or experiment.name,
        synthetic=inputs.synthetic or experiment.data.synthetic,
        quick=inputs.quick or experiment.is_quick,
        failed=[gate for gate in inputs.gates if not gate["passed"]],
        answer=_answer(inputs),
        superiority=_rows(inputs.superiority),
        visits=_visits(experiment.trial),
        patients=_patients(inputs),
        response_colours=figures.RESPONSE_COLOURS,
        null_models=_null_models(inputs.orr),
        mice=_mice(inputs.mouse_response),
        curves=_curves(inputs),
        diagnostics=_diagnostics(inputs),
        provenance=_flat(inputs.manifest),
        figures=drawn,
        plotly=Markup(get_plotlyjs()),
    )


def figure_data(inputs: ReportInputs) -> dict[str, pd.DataFrame]:
    """The numbers behind every figure of the page, by the figure's name; figures without data are left out."""
    data = {"orr_forest": forest_data(inputs.orr), "null_models": null_model_data(inputs.orr)}
    for name in ("waterfall", "spider", "mouse_response", "curves"):
        frame = getattr(inputs, name)
        if frame is not None:
            data[name] = frame
    return {name: frame for name, frame in data.items() if len(frame)}


def _figures(inputs: ReportInputs) -> dict[str, Figure]:
    drawn = {"orr": figures.orr_forest(inputs.orr)}
    if len(null_model_data(inputs.orr)):
        drawn["null-models"] = figures.null_models(inputs.orr)
    if inputs.mouse_response is not None and len(inputs.mouse_response):
        drawn["mice"] = figures.mouse_scatter(inputs.mouse_response)
    if inputs.engagement is not None:
        drawn["engagement"] = engagement(inputs.engagement)
    for place, (tumour_type, arm) in enumerate(_sampled_arms(inputs)):
        responses: dict[str, str] = {}
        if inputs.waterfall is not None:
            own = figures.of_arm(inputs.waterfall, arm, tumour_type)
            responses = dict(zip(own["patient"].astype(str), own["response"].astype(str), strict=True))
            drawn[f"waterfall-{place}"] = figures.waterfall(own, arm).update_layout(showlegend=False)
        if inputs.spider is not None:
            own = figures.of_arm(inputs.spider, arm, tumour_type)
            drawn[f"spider-{place}"] = figures.spider(own, arm, responses).update_layout(showlegend=False)
    return drawn


def _answer(inputs: ReportInputs) -> dict[str, Any]:
    labels = {cohort.tumour_type: cohort.label for cohort in inputs.experiment.trial.cohorts}
    main = main_endpoint(inputs.orr)
    names = dict.fromkeys(str(name) for name in inputs.orr["endpoint"] if ":" not in str(name))
    sources: list[str] = []
    tables = {}
    for endpoint in sorted(names, key=lambda name: name != main):
        cohorts: dict[str, list[dict[str, Any]]] = {}
        for row in records(forest_data(inputs.orr, endpoint)):
            reference = None
            if not is_missing(row["source"]):
                if row["source"] not in sources:
                    sources.append(row["source"])
                reference = sources.index(row["source"]) + 1
            cohorts.setdefault(str(row["tumour_type"]), []).append(row | {"reference": reference})
        tables[endpoint] = [(labels.get(name) or name, rows) for name, rows in cohorts.items()]
    return {
        **{"endpoint": ENDPOINTS.get(main, main), "main": tables.pop(main, []), "sources": sources},
        "others": [(ENDPOINTS.get(name, name), cohorts) for name, cohorts in tables.items()],
    }


def _visits(trial: TrialConfig) -> str:
    visits = trial.visits
    text = f"every {visits.every_days} days"
    if visits.then_after_days is not None:
        text += f" up to day {visits.then_after_days}, then every {visits.then_every_days} days"
    return f"{text} until day {visits.days()[-1]}"


def _sampled_arms(inputs: ReportInputs) -> list[tuple[str, str]]:
    """Tumour type and arm of every sample: two cohorts may have an arm of one name."""
    frames = [frame for frame in (inputs.waterfall, inputs.spider) if frame is not None]
    pairs = (zip(frame["tumour_type"], frame["arm"], strict=True) for frame in frames)
    return list(dict.fromkeys((str(tumour_type), str(arm)) for own in pairs for tumour_type, arm in own))


def _patients(inputs: ReportInputs) -> list[dict[str, Any]]:
    arms, sampled = [], _sampled_arms(inputs)
    several = len({tumour_type for tumour_type, _ in sampled}) > 1
    for place, (tumour_type, arm) in enumerate(sampled):
        waterfall = inputs.waterfall
        own = records(figures.of_arm(waterfall, arm, tumour_type)) if waterfall is not None else []
        unmeasured = sum(is_missing(row["best_change_pct"]) for row in own)
        title = f"{tumour_type}: {arm}" if several else arm
        arms.append({"arm": title, "place": place, "count": len(own), "unmeasured": unmeasured})
    return arms


def _null_models(orr: pd.DataFrame) -> dict[str, Any]:
    data = null_model_data(orr)
    table: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in records(data):
        table.setdefault(tuple(row[name] for name in COHORT), {})[str(row["model"])] = row
    rows = [dict(zip(COHORT, names, strict=True)) | {"models": found} for names, found in table.items()]
    return {"models": list(dict.fromkeys(str(name) for name in data["model"])), "rows": rows}


def _mice(frame: pd.DataFrame | None) -> dict[str, Any]:
    rows = _rows(frame)
    if not rows:
        return {"rows": []}
    gaps = [abs(row["mean"] - row["observed"]) for row in rows]
    held = sum(row["q05"] <= row["observed"] <= row["q95"] for row in rows)
    return {"rows": rows, "mean_absolute_error": math.fsum(gaps) / len(gaps), "held": held}


def _curves(inputs: ReportInputs) -> dict[str, Any]:
    if inputs.curves is None or not len(inputs.curves):
        return {"models": [], "num_models": 0}
    models = curve_panels(inputs.curves, inputs.experiment.data.detection_limit_mm3)
    written = [_json(model) for model in models]
    size = sum(map(len, written))
    shown = list(range(len(models)))
    if size > CURVE_BYTES:
        # Evenly over the list, which is sorted by tumour type, so that no type is left out.
        count = max(1, int(len(models) * CURVE_BYTES / size))
        shown = sorted({place * len(models) // count for place in range(count)})
    from markupsafe import Markup

    looks = f'{{"looks":{_json(TRACE_LOOKS)},"layout":{_json(panel_layout())},"models":['
    return {
        **{"models": [models[place] for place in shown], "num_models": len(models)},
        "json": Markup(looks + ",".join(written[place] for place in shown) + "]}"),
    }


def _diagnostics(inputs: ReportInputs) -> list[dict[str, Any]]:
    gates = inputs.experiment.fit.gates
    rows = _rows(inputs.diagnostics)
    for row in rows:
        row["poor"] = [
            *(["rhat"] if not row["rhat"] <= gates.rhat else []),
            *(name for name in ("ess_bulk", "ess_tail") if not row[name] >= getattr(gates, name)),
        ]
    return sorted(rows, key=lambda row: not row["poor"])


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}{key}"
        if name == "gates":  # in the table of diagnostics
            continue
        if isinstance(value, Mapping):
            flat += _flat(value, f"{name}.")
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = ", ".join(_short(one) for one in value)
        text = _short(value)
        flat.append((name, text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + " ..."))
    return flat


def _rows(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if frame is None else records(frame)


def _json(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_listed)
    # "</script>" in a name would end the element that holds the JSON; without "<" nothing can.
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _listed(value: Any) -> Any:
    return value.tolist()


def _span(low: object, high: object, digits: int = 1) -> str:
    if is_missing(low) or is_missing(high):
        return "-"
    return f"{100.0 * float(low):.{digits}f} to {100.0 * float(high):.{digits}f} %"  # type: ignore[arg-type]


def _odds(probability: float) -> str:
    if is_missing(probability):
        return "-"
    return "below 1 %" if probability < 0.01 else "above 99 %" if probability > 0.99 else percent(probability, 0)


def _short(value: object) -> str:
    if is_missing(value):
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
