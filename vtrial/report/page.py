"""The page: one HTML file that needs nothing beside it, neither files nor a network.

Names come from data, so they are untrusted text: Jinja escapes them in the page, `figures.plain` in the figures, and
the JSON of figures and tables holds no ``<``, so that no name can end the script element it lies in. The page's own
content policy forbids every request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vtrial.arms import parts_of
from vtrial.config import Experiment
from vtrial.report import content, figures, fit, mice, patients, sources
from vtrial.report.curves import TRACE_LOOKS, curve_store, panel_layout
from vtrial.report.engagement import engagement
from vtrial.report.ranking import exceedance_lines, rank_bars
from vtrial.report.tables import counts, forest_data, null_model_data, percent

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: bytes of JSON that fitted curves may take: with Plotly's 4.8 MB a page stays below 8 MB
CURVE_BYTES = 2_500_000


@dataclass(frozen=True)
class ReportInputs:
    """What a page is made of; rates are fractions, changes in size percent of baseline. None where a run has it not.

    Attributes
    ----------
    experiment : Experiment
        The resolved experiment.
    manifest : mapping
        The run's manifest: keys, versions, device, seeds, hashes, wall times.
    orr, mouse_response, diagnostics, endpoints, uncertainty : DataFrame or None
        Rows of the CSV table of that name; orr.csv is always there.
    gates : sequence of mapping
        name, limit, value, passed, and where (which parameter) if known.
    prior_entries : sequence of mapping
        name, family, parameters (a mapping), unit, source, certainty, note.
    superiority : DataFrame or None
        tumour_type, subgroup, arm, against, probability: that the arm's rate is above that of ``against``.
    curves : DataFrame or None
        Of `vtrial.fitted.fitted_curves`.
    waterfall : DataFrame or None
        tumour_type, arm, subgroup, patient, best_change_pct, response.
    spider : DataFrame or None
        tumour_type, arm, patient, day, change_pct.
    swimmer : DataFrame or None
        tumour_type, arm, subgroup, patient, response, response_day, end_day, end.
    pfs : DataFrame or None
        tumour_type, arm, day, mean, q05, q25, q50, q75, q95: progression free survival.
    prior_posterior, chains : DataFrame or None
        Of `vtrial.report.fit`.
    engagement, tgi, ranks, discrepancies, contrasts, exceedance : DataFrame or None
        Rows of the CSV table of that name.
    scans : mapping
        Tumour type of a cohort -> the medians of the priors of its scans: visit_delay (days), missed_visit (a share).
    doubts : tuple of str
        What is allowed in the protocol and probably meant otherwise, one sentence each.
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
    superiority: pd.DataFrame | None = None
    endpoints: pd.DataFrame | None = None
    uncertainty: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    waterfall: pd.DataFrame | None = None
    spider: pd.DataFrame | None = None
    swimmer: pd.DataFrame | None = None
    pfs: pd.DataFrame | None = None
    prior_posterior: pd.DataFrame | None = None
    chains: pd.DataFrame | None = None
    engagement: pd.DataFrame | None = None
    tgi: pd.DataFrame | None = None
    ranks: pd.DataFrame | None = None
    discrepancies: pd.DataFrame | None = None
    contrasts: pd.DataFrame | None = None
    exceedance: pd.DataFrame | None = None
    scans: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    quick: bool = False


def build_report(inputs: ReportInputs, data: Mapping[str, pd.DataFrame] | None = None) -> str:
    """The whole page.

    Parameters
    ----------
    inputs : ReportInputs
    data : mapping, optional
        What `figure_data` gives of the same inputs, where it is at hand already.

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
    environment.filters |= {
        **{"percent": percent, "span": content.span, "odds": content.odds, "short": content.short, "counts": counts}
    }
    experiment = inputs.experiment
    data = figure_data(inputs) if data is None else data
    drawn = {name: Markup(_json(figure.to_plotly_json())) for name, figure in _figures(inputs, data).items()}
    tables = {name: frame.to_csv(index=False, float_format="%.6g") for name, frame in data.items() if name != "curves"}
    return environment.get_template("report.html.j2").render(
        inputs=inputs,
        experiment=experiment,
        title=experiment.report.title or experiment.title or experiment.name,
        synthetic=inputs.synthetic or experiment.data.synthetic,
        quick=inputs.quick or experiment.is_quick,
        failed=[gate for gate in inputs.gates if not gate["passed"]],
        answer=content.answer(inputs.orr, inputs.superiority, experiment),
        superiority=content.rows_of(inputs.superiority),
        protocol=content.protocol(experiment),
        visits=content.visits(experiment.trial),
        scans=content.scans(inputs.scans),
        rules=content.rules(experiment.trial),
        contrasts=content.contrasts(inputs.contrasts),
        surprises=content.surprises(inputs.discrepancies),
        patients=content.patients(_samples(inputs), inputs.waterfall),
        survival=_names(inputs.pfs, "tumour_type"),
        chains=_names(inputs.chains, "parameter"),
        further=content.further_endpoints(inputs.endpoints),
        response_colours=figures.RESPONSE_COLOURS,
        null_models=content.null_models(inputs.orr),
        uncertainty=sources.known_shares(inputs.uncertainty) if inputs.uncertainty is not None else [],
        mice=content.mouse_responses(inputs.mouse_response),
        inhibition=content.rows_of(data.get("growth_inhibition")),
        new_models=content.rows_of(data.get("tgi")),
        curves=_curves(inputs),
        diagnostics=content.diagnostics(inputs.diagnostics, experiment.fit.gates),
        priors=content.rows_of(inputs.prior_posterior),
        provenance=content.provenance(inputs.manifest),
        figures=drawn,
        tables=Markup(_json(tables)),
        plotly=Markup(get_plotlyjs()),
    )


def figure_data(inputs: ReportInputs) -> dict[str, pd.DataFrame]:
    """The numbers behind every figure of the page, by name; figures without data are left out."""
    data = {"orr_forest": forest_data(inputs.orr), "null_models": null_model_data(inputs.orr)}
    names = ("superiority", "waterfall", "spider", "swimmer", "pfs", "uncertainty", "mouse_response", "curves")
    for name in (*names, "engagement", "ranks", "exceedance", "prior_posterior", "chains"):
        if (frame := getattr(inputs, name)) is not None:
            data[name] = frame
    if inputs.tgi is not None:
        data["tgi"] = mice.new_models(inputs.tgi)
    if inputs.curves is not None:
        num_drugs, limit = _num_drugs(inputs), inputs.experiment.data.detection_limit_mm3
        day, inhibition = mice.growth_inhibition(inputs.curves, _untreated(num_drugs), limit)
        data["growth_inhibition"] = inhibition.assign(day=day)
        data["residuals"] = mice.residuals(inputs.curves, num_drugs)
    return {name: frame for name, frame in data.items() if len(frame)}


def _figures(inputs: ReportInputs, data: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    drawn = {"orr": figures.orr_forest(inputs.orr)}
    if "null_models" in data:
        drawn["null-models"] = figures.null_models(inputs.orr)
    if inputs.ranks is not None:
        whole = inputs.ranks[inputs.ranks["subgroup"] == "all"]
        of_mice = whole["endpoint"] == content.MOUSE_RANKS
        for name, part in (("ranks", whole[~of_mice]), ("mouse-ranks", whole[of_mice])):
            if len(part):
                drawn[name] = rank_bars(part)
    if inputs.exceedance is not None:
        drawn["exceedance"] = exceedance_lines(inputs.exceedance[inputs.exceedance["subgroup"] == "all"])
    if inputs.uncertainty is not None:
        drawn["uncertainty"] = sources.variance_bars(inputs.uncertainty)
    if inputs.engagement is not None:
        drawn["engagement"] = engagement(inputs.engagement)
    if "mouse_response" in data:
        drawn["mice"] = mice.mouse_scatter(data["mouse_response"])
    if "tgi" in data:
        drawn["new-models"] = mice.inhibition_forest(data["tgi"])
    if "growth_inhibition" in data:
        table = data["growth_inhibition"]
        drawn["inhibition"] = mice.inhibition_scatter(table, float(table["day"].iloc[0]))
    if "residuals" in data:
        drawn["residuals"] = mice.residual_bands(data["residuals"])
    if inputs.prior_posterior is not None:
        drawn["priors"] = fit.prior_posterior_bars(inputs.prior_posterior)
    if inputs.chains is not None:
        for place, name in enumerate(_names(inputs.chains, "parameter")):
            drawn[f"chains-{place}"] = fit.chains_of(inputs.chains, name)
    for place, (tumour_type, (arm, *_)) in enumerate(_samples(inputs)):
        responses: dict[str, str] = {}
        if inputs.waterfall is not None:
            own = patients.of_arm(inputs.waterfall, arm, tumour_type)
            responses = dict(zip(own["patient"].astype(str), own["response"].astype(str), strict=True))
            drawn[f"waterfall-{place}"] = patients.waterfall(own, arm)
        if inputs.spider is not None:
            own = patients.of_arm(inputs.spider, arm, tumour_type)
            drawn[f"spider-{place}"] = patients.spider(own, arm, responses)
        if inputs.swimmer is not None:
            drawn[f"swimmer-{place}"] = patients.swimmer(inputs.swimmer, arm, tumour_type)
        for kind in ("waterfall", "spider", "swimmer"):
            if f"{kind}-{place}" in drawn:
                drawn[f"{kind}-{place}"].update_layout(showlegend=False)
    for place, tumour_type in enumerate(_names(inputs.pfs, "tumour_type")):
        assert inputs.pfs is not None
        drawn[f"pfs-{place}"] = patients.survival(inputs.pfs, tumour_type)
    return drawn


def _samples(inputs: ReportInputs) -> list[tuple[str, list[str]]]:
    """Tumour type and arms of every sample; two cohorts may have an arm of one name, arms dosed alike are one."""
    frames = [frame for frame in (inputs.waterfall, inputs.spider, inputs.swimmer) if frame is not None]
    pairs = (zip(frame["tumour_type"], frame["arm"], strict=True) for frame in frames)
    there = list(dict.fromkeys((str(tumour_type), str(arm)) for own in pairs for tumour_type, arm in own))
    dosed = content.protocol(inputs.experiment)
    alike = {(one["tumour_type"], arm): tuple(one["arms"]) for one in dosed for arm in one["arms"]}
    samples: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for tumour_type, arm in there:
        samples.setdefault((tumour_type, alike.get((tumour_type, arm), (arm,))), []).append(arm)
    return [(tumour_type, arms) for (tumour_type, _), arms in samples.items()]


def _names(frame: pd.DataFrame | None, column: str) -> list[str]:
    return [] if frame is None else list(dict.fromkeys(str(name) for name in frame[column]))


def _num_drugs(inputs: ReportInputs) -> dict[str, int]:
    """Arm of the fitted curves, as the table spells it -> its number of drugs: names fold case, and aliases count."""
    data = inputs.experiment.data
    return {arm: len(parts_of(arm, data.separator, data.aliases, data.control)) for arm in _names(inputs.curves, "arm")}


def _untreated(num_drugs: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(arm for arm, number in num_drugs.items() if not number)


def _curves(inputs: ReportInputs) -> dict[str, Any]:
    if inputs.curves is None or not len(inputs.curves):
        return {"shown": 0, "num_models": 0}
    from markupsafe import Markup

    table = inputs.experiment.data
    models = curve_store(inputs.curves, table.detection_limit_mm3, _untreated(_num_drugs(inputs)))["models"]
    written = [_json(model) for model in models]
    size = sum(map(len, written))
    shown = list(range(len(models)))
    if size > CURVE_BYTES:
        # Evenly over the list, which is sorted by tumour type, so that no type is left out.
        count = max(1, int(len(models) * CURVE_BYTES / size))
        shown = sorted({place * len(models) // count for place in range(count)})
    head = {"looks": TRACE_LOOKS, "layout": panel_layout(), "limit": table.detection_limit_mm3}
    return {
        **{"shown": len(shown), "num_models": len(models)},
        "json": Markup(f'{_json(head)[:-1]},"models":[' + ",".join(written[place] for place in shown) + "]}"),
    }


def _json(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_listed)
    # "</script>" in a name would end the element that holds the JSON; without "<" nothing can.
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _listed(value: Any) -> Any:
    return value.tolist()
