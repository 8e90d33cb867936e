"""The page, its figures and the terminal's table, on made-up numbers."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import binom

from tests.made_up_report import (
    AB,
    HOSTILE,
    A,
    B,
    chain_frame,
    contrast_frame,
    curve_frame,
    discrepancy_frame,
    endpoint_frame,
    exceedance_frame,
    experiment,
    made_up_inputs,
    mouse_frame,
    orr_frame,
    patient_frames,
    pfs_frame,
    prior_posterior_frame,
    rank_frame,
    swimmer_frame,
    tgi_frame,
    uncertainty_frame,
)
from vtrial.errors import InputError
from vtrial.model_format import DOSE_PRIORS, PRIORS, RESPONDER_PRIORS
from vtrial.posterior import POPULATION
from vtrial.priors import load_priors
from vtrial.report import (
    ReportInputs,
    build_report,
    content,
    curves,
    exact_interval,
    figure_data,
    fit,
    forest_data,
    format_orr_table,
    mice,
    mouse_scatter,
    null_model_data,
    null_models,
    orr_forest,
    orr_forest_files,
    orr_forest_image,
    page,
    patients,
    sources,
    spider,
    waterfall,
)
from vtrial.report.curves import curve_store, panel_data
from vtrial.report.figures import plain
from vtrial.report.ranking import exceedance_lines, rank_bars

VOID = {"wbr", "meta", "br", "input", "hr", "img", "link"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, text outside scripts, contents of scripts."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    def json(self, name: str):
        return next(json.loads(text) for at, text in self.scripts if name in (at.get("data-for"), at.get("id")))


@pytest.fixture(scope="module")
def made_up() -> tuple[str, Page]:
    text = build_report(made_up_inputs())
    return text, Page(text)


# ---------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(("r", "n"), [(0, 20), (7, 69), (34, 109), (20, 20), (1, 1)])
def test_exact_interval_leaves_half_of_the_error_in_each_tail(r, n):
    low, high = exact_interval(r, n)
    # The definition: at each end the counts at least as far out have probability 2.5 %.
    assert low == 0 if r == 0 else binom.sf(r - 1, n, low) == pytest.approx(0.025, rel=1e-9)
    assert high == 1 if r == n else binom.cdf(r, n, high) == pytest.approx(0.025, rel=1e-9)


@pytest.mark.parametrize(("r", "n"), [(1, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(r, n):
    with pytest.raises(ValueError, match=f"got {r} of {n}"):
        exact_interval(r, n)


def test_forest_data_brings_population_trial_and_publication_together():
    data = forest_data(orr_frame()).set_index(["arm", "subgroup"])
    assert list(data.index) == [(arm, part) for arm in (A, B, AB) for part in ("all", "mutant")]
    row = data.loc[(AB, "all")]
    assert (row["mean"], row["num_patients"], row["observed_responders"]) == (0.30, 57, 34)
    assert row["q95"] == pytest.approx(0.30 + 1.645 * 0.03)
    assert row["predictive_q95"] == pytest.approx(0.30 + 1.645 * 0.035)
    assert (row["observed_low"], row["observed_high"]) == exact_interval(34, 109)
    assert math.isnan(data.loc[(B, "all"), "observed"])


def test_null_models_come_after_the_combination_rule():
    data = null_model_data(orr_frame())
    assert list(data["model"]) == ["combination rule", "independent action", "best single agent", "Bliss"]
    assert set(data["arm"]) == {AB}
    assert list(data["mean"]) == [0.30, 0.16, 0.10, 0.22]


def test_text_table_golden():
    assert format_orr_table(orr_frame()) == (
        "LGSOC\n"
        "arm                        subgroup   predicted ORR           trial of n patients     published\n"
        "-----------------------------------------------------------------------------------------------------\n"
        "alpha 2 mg                 all        10.0 % [5.1, 14.9] %    n = 57 [4.2, 15.8] %    7/69 = 10.1 %\n"
        "alpha 2 mg                 mutant     15.0 % [10.1, 19.9] %   n = 57 [9.2, 20.8] %    -\n"
        "beta 200 mg                all         6.0 % [1.1, 10.9] %    n = 57 [0.2, 11.8] %    -\n"
        "beta 200 mg                mutant     11.0 % [6.1, 15.9] %    n = 57 [5.2, 16.8] %    -\n"
        "alpha 2 mg + beta 200 mg   all        30.0 % [25.1, 34.9] %   n = 57 [24.2, 35.8] %   34/109 = 31.2 %\n"
        "alpha 2 mg + beta 200 mg   mutant     35.0 % [30.1, 39.9] %   n = 57 [29.2, 40.8] %   -\n"
        "\n"
        "LGSOC: combinations under each rule, mean ORR\n"
        "arm                        subgroup   combination rule   independent action   best single agent   Bliss\n"
        "--------------------------------------------------------------------------------------------------------\n"
        "alpha 2 mg + beta 200 mg   all        30.0 %             16.0 %               10.0 %              22.0 %\n"
        "\n"
        "ORR: confirmed objective response. Predicted: posterior mean and equal-tailed 90 % interval of the\n"
        "population's rate. Trial of n patients: 90 % predictive interval of its observed rate.\n"
    )


def test_text_table_takes_names_as_they_are_but_gives_the_terminal_no_orders():
    text = format_orr_table(orr_frame(combination="[red]évil[/red] \x1b[31m :smile:"))
    assert "[red]évil[/red] ?[31m :smile:" in text and "\x1b" not in text
    plain_text = format_orr_table(orr_frame(combination="évil β"), ascii_only=True)
    assert plain_text.isascii() and "evil ?" in plain_text


def test_text_table_folds_into_a_narrow_terminal():
    text = format_orr_table(orr_frame(), width=80)
    table = text.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "34/109" in table


# ---------------------------------------------------------------------------------------------- figures


def test_forest_draws_what_the_table_says():
    figure = orr_forest(orr_frame())
    named = {trace.name: trace for trace in figure.data}
    assert list(named["predicted, 90 %"].x[:3]) == [5.065, 14.94, None]
    assert list(named["published, 95 %"].x) == pytest.approx([100 * 7 / 69, 100 * 34 / 109], abs=0.01)
    labels = [note.text for note in figure.layout.annotations]
    assert labels == [A, f"{A}, mutant", B, f"{B}, mutant", AB, f"{AB}, mutant"]


def test_forest_of_several_tumour_types_names_them():
    frame = pd.concat([orr_frame(), orr_frame().assign(tumour_type="CRC")])
    assert {"<b>LGSOC</b>", "<b>CRC</b>"} <= {note.text for note in orr_forest(frame).layout.annotations}


def test_names_are_text_for_plotly():
    assert plain("<b>x</b> & $y$\n z") == "&lt;b&gt;x&lt;/b&gt; &amp; &#36;y&#36; z"
    frame = orr_frame(combination=HOSTILE)
    for figure in (orr_forest(frame), null_models(frame)):
        assert "<script" not in json.dumps(figure.to_plotly_json())


def test_waterfall_falls_and_spider_keeps_patients_apart():
    bars, lines = patient_frames()
    figure = waterfall(bars, AB)
    drawn = sorted((x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True))
    assert len(drawn) == 39  # one patient of 40 has no measurement
    assert [y for _, y in drawn] == sorted((y for _, y in drawn), reverse=True)
    responses = dict(zip(bars["patient"].astype(str), bars["response"], strict=True))
    figure = spider(lines, AB, responses)
    gaps = sum(x is None for trace in figure.data for x in trace.x)
    assert gaps == 40 - len(figure.data)
    for trace in figure.data:
        for left, right in zip(trace.x, trace.x[1:], strict=False):
            assert left is None or right is None or left < right


def test_cohorts_with_an_arm_of_one_name_are_drawn_apart():
    bars, lines = patient_frames(arms=(A,), count=10)
    other_bars, other_lines = (frame.assign(tumour_type="PDAC") for frame in patient_frames(arms=(A,), count=6))
    bars, lines = pd.concat([bars, other_bars]), pd.concat([lines, other_lines])
    for tumour_type, count in (("LGSOC", 9), ("PDAC", 6)):  # patient 7 of the first has no measurement
        drawn = waterfall(bars, A, tumour_type)
        assert sum(len(trace.x) for trace in drawn.data) == count
    page = Page(build_report(made_up_inputs(waterfall=bars, spider=lines)))
    names = {at.get("data-for") for at, _ in page.scripts}
    assert {"waterfall-0", "waterfall-1", "spider-0", "spider-1"} <= names


def test_mouse_scatter_has_a_point_for_every_arm():
    frame = mouse_frame()
    figure = mouse_scatter(frame)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in points] == ["BRCA", "CM", "GC"]
    first = frame.iloc[0]
    assert points[0].error_y.array[0] == pytest.approx(100 * (first["q95"] - first["mean"]), rel=1e-3)


def censored_curves():
    frame = curve_frame()
    frame.loc[frame["arm"].eq("alpha + beta") & frame["day"].eq(32), ["volume_mm3", "censored"]] = [0.0, True]
    return frame


def test_curve_store_holds_every_number_once():
    frame = censored_curves()
    models = curve_store(frame, 10.0)["models"]
    assert [(model["tumour_type"], model["model"]) for model in models] == [
        *(("BRCA", "X-1000"), ("BRCA", "X-1002"), ("CM", "X-1001"), ("CM", "X-1003"))
    ]
    assert [arm["arm"] for arm in models[0]["arms"]] == ["untreated", "alpha", "alpha + beta", "beta"]
    assert [arm.get("control") for arm in models[0]["arms"]] == [1, None, None, None]
    mouse = models[0]["arms"][0]["mice"][1]
    own = frame[(frame["pdx_model"] == "X-1000") & (frame["arm"] == "untreated") & (frame["mouse"] == "0-2")]
    assert mouse["mouse"] == "0-2" and mouse["day"] == list(own["day"])
    for key, column in (("volume", "volume_mm3"), ("low", "q05"), ("fitted", "fitted_median"), ("high", "q95")):
        assert mouse[key] == pytest.approx(list(own[column]), rel=5e-4), key  # four digits
    assert models[0]["arms"][2]["mice"][0]["below"] == [8]


def test_a_panel_has_the_fit_of_every_mouse_and_marks_what_is_censored():
    arms = curve_store(censored_curves(), 10.0)["models"][0]["arms"]
    reference, band, median, seen, below = panel_data(arms[0], arms, 10.0)
    assert reference["x"] == []  # untreated mice are not their own reference
    assert len(median["x"]) == 19 and median["x"][9] is None and len(band["x"]) == 37  # two mice
    assert len(seen["x"]) == 18 and below["x"] == []
    reference, _, _, seen, below = panel_data(arms[2], arms, 10.0)
    assert reference["y"] == median["y"]
    assert (below["x"], below["y"]) == ([32], [10.0]) and 32 not in seen["x"]


def test_curves_of_one_pdx_model():
    figure = curves(curve_frame(), "X-1001")
    assert [note.text for note in figure.layout.annotations] == ["untreated", "alpha", "alpha + beta", "beta"]
    with pytest.raises(InputError, match="X-9"):
        curves(curve_frame(), "X-9")


def test_swimmers_are_sorted_and_end_where_the_table_says():
    bars, _ = patient_frames(arms=(A,), count=9)
    frame = swimmer_frame(bars)
    figure = patients.swimmer(frame, A)
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    places = [*marks["progression"].y, *marks["last seen"].y]
    days = [*marks["progression"].x, *marks["last seen"].x]
    assert [day for _, day in sorted(zip(places, days, strict=True))] == sorted(frame["end_day"])
    assert len(marks["response"].x) == frame["response_day"].notna().sum() > 0


def test_survival_is_drawn_once_for_arms_that_are_dosed_alike():
    frame = pfs_frame()
    twin = frame[frame["arm"] == A].assign(arm="alpha again")
    figure = patients.survival(pd.concat([frame, twin]), "LGSOC")
    drawn = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.name for trace in drawn] == [f"{A}<br>alpha again", B, AB]
    assert list(drawn[0].y) == pytest.approx(list(100 * frame[frame["arm"] == A]["mean"]), rel=1e-3)
    assert drawn[0].line.shape == "hv"


def test_growth_inhibition_by_hand():
    """Controls of X: 100 -> 300, twice; treated 100 -> 150 and 100 -> 0. The control of Y hardly grew."""
    rows = []
    for model, arm, mouse, last in (
        *(("X", "untreated", "1", 300.0), ("X", "untreated", "2", 300.0), ("X", "alpha", "3", 150.0)),
        *(("X", "alpha", "4", 0.0), ("Y", "untreated", "5", 110.0), ("Y", "alpha", "6", 50.0)),
    ):
        for day, volume in ((0.0, 100.0), (28.0, last), (40.0, 500.0)):
            rows.append(["T", model, arm, mouse, day, volume, volume == 0.0, max(volume, 40.0)])
    columns = ["tumour_type", "pdx_model", "arm", "mouse", "day", "volume_mm3", "censored", "fitted_median"]
    day, table = mice.growth_inhibition(pd.DataFrame(rows, columns=columns), ("untreated",), 10.0)
    assert day == 28.0 and list(table["arm"]) == ["alpha"]
    row = table.iloc[0]
    # measured 100 (1 - 50 / 200) = 75 and 100 (1 + 90 / 200) = 145, 0 read as the limit of 10 mm3; fitted 75, 130
    assert row["num_mice"] == 2 and row["observed_q50"] == pytest.approx(110.0)
    assert row["observed_q25"] == pytest.approx(92.5) and row["fitted_q50"] == pytest.approx(102.5)


def test_inhibition_of_new_models_is_one_row_a_set_of_drugs_all_first():
    table = mice.new_models(tgi_frame())
    assert list(zip(table["drugs"], table["subgroup"], strict=True)) == [
        (drugs, group) for drugs in ("alpha", "beta", "alpha + beta") for group in ("all", "mutant")
    ]
    row = table.iloc[4]
    assert [row[name] for name in ("q50", "q05", "model_q05", "regressing", "above_singles", "day")] == pytest.approx(
        [0.9, 0.7, -1.1, 0.27, 0.9, 21.0]
    )
    figure = mice.inhibition_forest(table)
    named = {trace.name: trace for trace in figure.data}
    assert list(named["median model, 90 %"].x[:3]) == pytest.approx([30.0, 60.0, None])
    assert figure.layout.xaxis.range[0] >= -104  # one model grows on at -150 %: the rest is not squeezed
    assert [note.text for note in figure.layout.annotations][:2] == ["alpha", "alpha, mutant"]


def test_ranks_fill_every_bar_and_the_best_is_darkest():
    frame = rank_frame()
    figure = rank_bars(frame[(frame["endpoint"] == "confirmed_orr") & (frame["subgroup"] == "all")])
    assert [trace.name for trace in figure.data] == ["rank 1", "rank 2", "rank 3"]
    assert np.sum([trace.x for trace in figure.data], axis=0) == pytest.approx([100.0] * 3)
    assert list(figure.data[0].x) == pytest.approx([5.0, 1.0, 94.0]) and len(set(figure.data[0].y)) == 3
    shade = [sum(int(x) for x in re.findall(r"\d+", trace.marker.color)) for trace in figure.data]
    assert shade == sorted(shade)


def test_a_line_of_exceedance_per_regimen_and_arms_that_are_dosed_alike_are_one():
    frame = exceedance_frame()
    figure = exceedance_lines(frame[frame["subgroup"] == "all"])
    assert [trace.name for trace in figure.data] == [f"{A}<br>alpha again", AB]
    assert list(figure.data[1].x) == pytest.approx([10, 20, 40])
    assert list(figure.data[1].y) == pytest.approx([90, 80, 60])


def test_arms_against_each_other_and_what_the_protocol_changes(made_up):
    words = " ".join(made_up[1].text.split())
    assert "Every arm against every other" in words and "-20.0-35.0 to -5.02 %" in words
    alike = contrast_frame().assign(difference=0.0, q05=0.0, q95=0.0)
    assert content.contrasts(alike) == content.contrasts(None) == []
    changed = {"confirm_days": 21, "min_sd_days": 49, "max_nonevaluable_between": 2, "max_stable_between": 1}
    changed |= {"reappearance_is_progression": True, "max_unassessed_days": 120}
    trial = {"protocol": changed, "cut_off": {"accrual": "365 d", "after": "540 d"}}
    assert content.rules(experiment(trial=trial).trial) == [
        "A response is confirmed by a scan 21 days later or more.",
        "Stable disease counts from day 49.",
        "Up to 2 missed scans may lie between a response and its confirmation.",
        "Up to 1 stable scans may lie between a PR and its confirmation.",
        "A PR after a CR is progression.",
        "Progression seen more than 120 days after the last scan is censored.",
        "Patients enter over 365 days; data are as known 540 days after the first.",
    ]
    assert content.rules(experiment().trial) == []


def test_published_counts_in_a_tail_are_counted_and_marked(made_up):
    found = content.surprises(discrepancy_frame())
    assert found["count"] == 1 and [row["poor"] for row in found["rows"]] == [False, True]
    words = " ".join(made_up[1].text.split())
    assert "Published counts under their prediction: 1 of 2 in a tail of 5 %" in words
    assert content.surprises(None)["rows"] == []


def test_the_protocol_says_how_scans_keep_to_their_calendar(made_up):
    assert "A scan is made 3 days late on average, and 3 % of scans are missed" in " ".join(made_up[1].text.split())
    late, planned = {"visit_delay": 2.5, "missed_visit": 0.1}, {"visit_delay": 0.0, "missed_visit": 0.1}
    assert content.scans({"CM": late, "CRC": late, "PDAC": planned}) == [
        "CM, CRC: A scan is made 2.5 days late on average, and 10 % of scans are missed (medians of the priors).",
        "PDAC: A scan is made on its planned day, and 10 % of scans are missed (medians of the priors).",
    ]
    assert content.scans({}) == []


def test_residuals_by_kind_and_week():
    frame = pd.DataFrame(
        {
            "arm": ["untreated"] * 20 + ["a"] * 20 + ["a + b"] * 21,
            "day": [3.0] * 40 + [8.0] * 20 + [30.0],
            "volume_mm3": np.r_[np.full(20, 100.0), np.full(20, 200.0), np.full(21, 50.0)],
        }
    ).assign(fitted_median=100.0, censored=False)
    found = mice.residuals(frame, {"untreated": 0, "a": 1, "a + b": 2})
    assert list(found["kind"]) == ["untreated", "single agents", "combinations"]  # one of day 30 is too few
    assert list(found["day"]) == [3.5, 3.5, 10.5]
    assert list(found["q50"]) == pytest.approx([0.0, math.log(2), -math.log(2)])


def test_arms_are_told_apart_by_their_drugs_however_they_are_called():
    """A control in another case and a combination with a name of its own: the figures of mice are the same."""
    plain, called = ("untreated", "alpha", "beta", "alpha + beta"), ("UNTREATED", "alpha", "beta", "Combo")
    data = {"path": "t.csv", "source": "made up", "aliases": {"combo": "alpha + beta"}}
    frames = [
        curve_frame(num_models=12).replace({"arm": dict(zip(plain, names, strict=True))}) for names in (plain, called)
    ]
    inputs = [made_up_inputs(curves=frame, experiment=experiment(data=data)) for frame in frames]
    first, second = (figure_data(one) for one in inputs)
    assert first["residuals"].equals(second["residuals"]) and set(first["residuals"]["kind"]) == {
        *("untreated", "single agents", "combinations")
    }
    numbers = ["num_mice", "observed_q50", "fitted_q50"]
    by_name = (
        second["growth_inhibition"].replace({"arm": {"Combo": "alpha + beta"}}).sort_values(["tumour_type", "arm"])
    )
    assert len(by_name) == 6 and np.array_equal(first["growth_inhibition"][numbers], by_name[numbers])
    assert [page.count('"control":1') for page in map(build_report, inputs)] == [12, 12]


def test_bars_of_variance_fill_the_whole_and_name_the_error():
    figure = sources.variance_bars(uncertainty_frame((A,)))
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(100.0)
    hover = {trace.name: trace.hovertext[0] for trace in figure.data}
    assert "70 ± 5 % of the variance of the population" in hover["translation"]
    assert "population" not in hover["between trials"]
    (row,) = sources.known_shares(uncertainty_frame((A,)))
    assert row["sd_trial"] == pytest.approx(0.2) and row["sd_population"] == pytest.approx(math.sqrt(0.04 * 0.88))
    assert list(row["groups"]) == ["mice", "combination rule", "translation", "patients and reading"]


def test_every_site_of_the_population_with_a_prior_is_set_beside_it():
    priors = load_priors()
    numbers = {"mean": 0.1, "sd": 0.1, "q05": 0.0, "q95": 0.2}
    table = pd.DataFrame({"parameter": [*POPULATION, "omega_ln_growth[BRCA]"]}).assign(**numbers)
    found = fit.prior_posterior(table, priors)
    assert set(found["parameter"]) == {*fit.PRIOR_OF, "omega_ln_growth[BRCA]"}
    # the priors that the model itself reads, by the names it reads them under
    laws = *DOSE_PRIORS.values(), *RESPONDER_PRIORS.values()
    known = {name for law in laws for name in law} | set(PRIORS)
    read = {
        name if name in known else re.sub(r"([^.]*)$", r"ln_\1", name, count=1) for name, _ in fit.PRIOR_OF.values()
    }
    assert read == known
    spread = found.set_index("parameter").loc["mu_ln_omega_effect"]
    entry = priors.entry("classes.default.between_models")
    assert spread["prior_q95"] == pytest.approx(math.log(entry.quantile(0.95)))


def test_posterior_is_drawn_on_the_scale_of_its_prior():
    figure = fit.prior_posterior_bars(prior_posterior_frame())
    mean = next(trace for trace in figure.data if trace.mode == "markers")
    # (-2.9 + 3.0) / 0.5 of a prior whose upper half is 0.5 wide
    assert list(mean.x) == pytest.approx([0.2, 0.0])


def test_chains_are_those_of_the_fewest_effective_draws():
    posterior = xr.Dataset(
        {
            "a": (("chain", "draw"), np.arange(800.0).reshape(2, 400)),
            "b": (("chain", "draw", "drug"), np.arange(1600.0).reshape(2, 400, 2)),
        },
        coords={"drug": ["x", "y [z]"]},
    )
    table = pd.DataFrame({"parameter": ["a", "b[x]", "b[y [z]]"], "ess_bulk": [900.0, 800.0, 30.0], "ess_tail": 500.0})
    found = fit.worst_chains(posterior, table)
    assert next(iter(found["parameter"])) == "b[y [z]]" and set(found["parameter"]) == set(table["parameter"])
    own = found[(found["parameter"] == "b[y [z]]") & (found["chain"] == 1)]
    assert len(own) == 200 and list(own["value"]) == [801.0 + 2 * draw for draw in own["draw"]]


def test_calendar_has_every_day_of_the_cycle():
    arms = {tuple(arm["arms"]): arm["drugs"] for arm in content.protocol(experiment())}
    assert list(arms) == [(A,), (B,), (AB,)]
    (alpha,) = arms[A,]
    assert [[day["kind"] for day in week] for week in alpha["weeks"]] == [["dose"] * 7] * 3 + [["off"] * 7]
    assert {day["doses"] for week in alpha["weeks"][:3] for day in week} == {2}
    _, beta = arms[AB,]
    week = ["dose", "none", "none", "dose", "none", "none", "none"]
    assert [[day["kind"] for day in one] for one in beta["weeks"]] == [week] * 4


def test_arms_that_are_dosed_alike_are_one_in_the_protocol():
    alike = experiment()
    cohort = alike.trial.cohorts[0]
    twice = cohort.model_copy(update={"arms": (*cohort.arms, cohort.arms[0].model_copy(update={"name": "again"}))})
    trial = alike.trial.model_copy(update={"cohorts": (twice,)})
    found = content.protocol(alike.model_copy(update={"trial": trial}))
    assert [arm["arms"] for arm in found] == [[A, "again"], [B], [AB]]


def test_further_endpoints_say_what_is_not_reached():
    table = content.further_endpoints(endpoint_frame((A,)))
    assert table["heads"] == ["disease control", "duration of response, days", "PFS, days"]
    assert table["rows"][0]["cells"] == [("70 %", "50 to 90"), ("280", "112 to not reached"), ("168", "56 to 280")]


def test_figures_without_data_are_drawn_empty():
    empty = orr_frame().iloc[:0]
    assert len(null_models(empty).layout.annotations) == 0
    assert orr_forest(empty).layout.height > 0
    assert orr_forest_image(empty, "svg").startswith(b"<?xml")


def test_forest_files_are_reproducible_and_hold_names_as_text(tmp_path):
    frame = orr_frame(combination="<script>$x$</script>")
    svg, png = orr_forest_files(frame, tmp_path / "figures")
    assert (svg.name, png.name) == ("orr_forest.svg", "orr_forest.png")
    text = svg.read_text(encoding="utf-8")
    assert "&lt;script&gt;$x$&lt;/script&gt;" in text and "<script" not in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert orr_forest_image(frame, "svg") == svg.read_bytes()
    assert orr_forest_image(frame, "png") == png.read_bytes()


def test_figure_data_names_every_figure_that_has_data():
    assert list(figure_data(made_up_inputs())) == [
        *("orr_forest", "null_models", "superiority", "waterfall", "spider", "swimmer", "pfs", "uncertainty"),
        *(
            "mouse_response",
            "curves",
            "ranks",
            "exceedance",
            "prior_posterior",
            "chains",
            "tgi",
            "growth_inhibition",
            "residuals",
        ),
    ]
    least = ReportInputs(experiment=experiment(), manifest={}, orr=orr_frame())
    assert list(figure_data(least)) == ["orr_forest", "null_models"]


# ---------------------------------------------------------------------------------------------- page


def test_page_is_one_file_that_asks_for_nothing(made_up):
    text, parsed = made_up
    assert parsed.open == []
    assert len(text.encode()) < 6_000_000
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form"}
    for _, given in parsed.elements:
        assert "src" not in given and "srcset" not in given
        assert (given.get("href") or "#").startswith("#")
    policy = next(given["content"] for _, given in parsed.elements if given.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert sum(body.startswith("/**\n* plotly.js") for _, body in parsed.scripts) == 1


def test_page_is_in_order_and_says_what_its_intervals_are(made_up):
    _, parsed = made_up
    sections = [given["id"] for tag, given in parsed.elements if tag == "section"]
    assert sections == [
        *("answer", "protocol", "patients", "combination", "uncertainty", "mice", "diagnostics", "priors", "inputs"),
        "provenance",
    ]
    words = " ".join(parsed.text.split())
    for phrase in (
        *("Alpha and beta in LGSOC", "The fit passed all its convergence gates", "34/109 = 31.2 %", "above 99 %"),
        *("equal-tailed", "Clopper-Pearson", "every 56 days up to day 504, then every 84 days until day 672"),
        *(
            "mutant 52 %",
            "200 mg twice a day, 21 d on / 7 d off",
            "RECIST 1.1, confirmed",
            "https://example.org/scaling",
            "0.10.2",
            "61.25",
        ),
    ):
        assert phrase in words or phrase in parsed.text, phrase
    assert "synthetic" not in words and "quick" not in words.lower()


def test_every_figure_has_its_place_and_its_numbers(made_up):
    _, parsed = made_up
    places = [given["data-figure"] for _, given in parsed.elements if "data-figure" in given]
    sources = [given["data-for"] for _, given in parsed.elements if "data-for" in given]
    assert places == sources and len(set(places)) == 23
    for name in sources:
        assert set(parsed.json(name)) >= {"data", "layout"}
    stored = parsed.json("curve-data")
    assert len(stored["models"]) == 12 and len(stored["looks"]) == 5
    offered = {given["data-csv"] for _, given in parsed.elements if "data-csv" in given}
    tables = parsed.json("csv-data")
    assert offered <= set(tables) == set(figure_data(made_up_inputs())) - {"curves"}
    assert tables["pfs"].startswith("tumour_type,arm,day,mean,q05") and tables["pfs"].count("\n") == 22


def test_poor_parameters_come_first_and_are_marked(made_up):
    text, _ = made_up
    assert text.index("omega_kill") < text.index("mu_growth")
    assert '<td class="n poor">1.040</td><td class="n poor">95</td>' in text


def test_a_failed_fit_says_so_first():
    gates = [
        {"name": "R-hat", "limit": 1.01, "value": 1.31, "passed": False},
        {"name": "divergences", "limit": 0.001, "value": 0.0, "passed": True},
    ]
    words = " ".join(Page(build_report(made_up_inputs(gates=gates))).text.split())
    body = words[words.index("FIT DID NOT PASS: this fit failed") :]
    assert words.index("FIT DID NOT PASS") < words.index("Virtual trial")
    assert "R-hat: 1.31, limit 1.01" in body.split("Virtual trial")[0]
    assert "The fit passed" not in words


def test_synthetic_data_and_quick_runs_are_said_in_the_head():
    data = {"path": "twin.csv", "source": "A twin.", "synthetic": True}
    text = build_report(made_up_inputs(experiment=experiment(data=data), quick=True))
    title = re.search("<title>(.*)</title>", text)
    assert title is not None and title[1] == "Alpha and beta in LGSOC (synthetic data) (quick run)"
    words = " ".join(Page(text).text.split())
    head = words[: words.index("Predicted response rates")]
    assert "The tumour volumes are synthetic" in head and "Quick run:" in head


def test_an_unusual_dose_is_said_in_the_head_and_what_a_comparison_is_of_beside_it(made_up):
    page, _ = made_up
    assert "An unusual dose" not in page and "given as it is given beside its partner" in page
    assert "may be a point smaller than beside its drugs alone, above" in page
    page = build_report(made_up_inputs(doubts=("arms.0.dose: <2 g> is 1,000 times",)))
    head = page[page.index("<header>") : page.index("</header>")]
    assert "<strong>An unusual dose:</strong> arms.0.dose: &lt;2 g&gt; is 1,000 times" in head
    assert "may be a point smaller" not in build_report(made_up_inputs(superiority=None))


def test_names_from_data_are_text_everywhere():
    bars, lines = patient_frames(arms=(HOSTILE,))
    entry = dict.fromkeys(("name", "family", "unit", "source", "certainty", "note"), HOSTILE) | {"parameters": {}}
    mice, frame, diagnostics = mouse_frame(), curve_frame(), made_up_inputs().diagnostics
    assert diagnostics is not None
    hostile = made_up_inputs(
        experiment=experiment(title=HOSTILE, data={"path": HOSTILE, "source": HOSTILE}),
        manifest={HOSTILE: HOSTILE},
        orr=orr_frame(combination=HOSTILE, source=HOSTILE).assign(tumour_type=HOSTILE),
        mouse_response=mice.assign(arm=HOSTILE, tumour_type=HOSTILE),
        diagnostics=diagnostics.assign(parameter=HOSTILE),
        gates=[{"name": HOSTILE, "limit": 1.01, "value": 1.2, "passed": False}],
        prior_entries=[entry],
        superiority=pd.DataFrame(
            [[HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5]],
            columns=["tumour_type", "subgroup", "arm", "against", "probability"],
        ),
        curves=frame.assign(arm=HOSTILE, mouse=HOSTILE, pdx_model=HOSTILE, tumour_type=HOSTILE),
        waterfall=bars.assign(subgroup=HOSTILE, response=HOSTILE, patient=HOSTILE),
        spider=lines,
        swimmer=swimmer_frame(bars).assign(subgroup=HOSTILE, response=HOSTILE),
        pfs=pfs_frame((HOSTILE,)),
        endpoints=endpoint_frame((HOSTILE,)),
        uncertainty=uncertainty_frame((HOSTILE,)).replace("mice", HOSTILE),
        prior_posterior=prior_posterior_frame().assign(parameter=HOSTILE, prior=HOSTILE),
        chains=chain_frame().assign(parameter=HOSTILE),
        tgi=tgi_frame((HOSTILE, "beta", "alpha + beta")).assign(tumour_type=HOSTILE),
        ranks=rank_frame((HOSTILE, B, AB), ("alpha", HOSTILE, "c")).assign(tumour_type=HOSTILE),
        discrepancies=discrepancy_frame(HOSTILE).assign(tumour_type=HOSTILE, subgroup=HOSTILE),
        contrasts=contrast_frame(HOSTILE).assign(tumour_type=HOSTILE),
        exceedance=exceedance_frame(HOSTILE).assign(tumour_type=HOSTILE),
        scans={HOSTILE: {"visit_delay": 3.0, "missed_visit": 0.0}, "x": {"visit_delay": 0.0, "missed_visit": 0.0}},
        notes=(HOSTILE,),
    )
    text = build_report(hostile)
    parsed = Page(text)
    assert "<script>alert" not in text
    # The same scripts as the harmless page has: nothing was added, nothing cut short.
    kinds = [(given.get("type"), given.get("data-for"), given.get("id")) for given, _ in parsed.scripts]
    before = (
        "orr",
        "ranks",
        "exceedance",
        "waterfall-0",
        "spider-0",
        "swimmer-0",
        "pfs-0",
        "null-models",
        "uncertainty",
    )
    after = ("new-models", "mouse-ranks", "mice", "residuals", "chains-0", "priors")
    assert kinds == [
        *(("application/json", name, None) for name in before),
        ("application/json", None, "curve-data"),
        *(("application/json", name, None) for name in after),
        ("application/json", None, "csv-data"),
        *[(None, None, None)] * 2,
    ]
    assert parsed.text.count(HOSTILE) > 35
    # Only what the page's script puts in by textContent may hold "<": the heads of the panels of curves.
    figures = [json.dumps(parsed.json(name)) for name in (*before, *after)]
    assert not any("<script" in figure for figure in figures)
    model = parsed.json("curve-data")["models"][0]
    assert model["arms"][0]["arm"] == model["arms"][0]["mice"][0]["mouse"] == HOSTILE


def test_page_of_the_least_that_a_run_leaves():
    inputs = ReportInputs(experiment=experiment(), manifest={}, orr=orr_frame())
    parsed = Page(build_report(inputs))
    sections = [given["id"] for tag, given in parsed.elements if tag == "section"]
    assert sections == ["answer", "protocol", "combination", "diagnostics", "inputs", "provenance"]
    assert "No convergence gates were recorded" in parsed.text


def test_curves_are_thinned_evenly_when_they_would_make_the_page_heavy(monkeypatch):
    frame = curve_frame(num_models=20)
    whole = len(page._json(curve_store(frame, 10.0)))
    monkeypatch.setattr(page, "CURVE_BYTES", whole // 2)
    parsed = Page(build_report(made_up_inputs(curves=frame)))
    models = parsed.json("curve-data")["models"]
    assert 8 <= len(models) <= 10
    assert {model["tumour_type"] for model in models} == {"BRCA", "CM"}
    assert f"holds {len(models)} of 20 PDX models" in " ".join(parsed.text.split())


def test_equal_inputs_give_equal_pages(made_up):
    assert build_report(made_up_inputs()) == made_up[0]


def test_importing_the_report_brings_in_neither_plotly_nor_matplotlib_nor_jax():
    code = "import sys, vtrial.report; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "plotly", "matplotlib", "rich", "jinja2"} & set(done.stdout.split())


def test_forest_says_first_what_must_be_said() -> None:
    assert b"quick; synthetic data" in orr_forest_image(orr_frame(), "svg", "quick; synthetic data")
