"""The page, its figures and the terminal's table, on made-up numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from vtrial.config import Experiment
from vtrial.report import (
    ReportInputs,
    build_report,
    curves,
    exact_interval,
    figure_data,
    forest_data,
    format_orr_table,
    mouse_scatter,
    null_model_data,
    null_models,
    orr_forest,
    orr_forest_files,
    orr_forest_image,
    page,
    spider,
    waterfall,
)
from vtrial.report.curves import curve_panels
from vtrial.report.figures import plain

A, B, AB = "alpha 2 mg", "beta 200 mg", "alpha 2 mg + beta 200 mg"
HOSTILE = "</script><script>alert('x')</script>"
ORR_COLUMNS = [
    *("arm", "tumour_type", "subgroup", "endpoint", "kind", "num_patients", "mean", "sd"),
    *("q05", "q25", "q50", "q75", "q95", "observed_responders", "observed_patients", "source"),
]
VOID = {"wbr", "meta", "br", "input", "hr", "img", "link"}


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
    arms = [{"name": name, "drugs": {"alpha": daily}} for name in (A, B, AB)]
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


def made_up_inputs(**changes) -> ReportInputs:
    bars, lines = patient_frames()
    calendar = "         d1  d2  d3  d4  d5  d6  d7\nweek 1" + "   2" * 7 + "\nweek 4" + "   -" * 7
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
        protocol=[(arm, ("alpha: 200 mg twice a day, 21 d on / 7 d off",), calendar) for arm in (A, B, AB)],
        superiority=pd.DataFrame(
            [["LGSOC", "all", AB, A, 0.97], ["LGSOC", "all", AB, B, 0.999]],
            columns=["tumour_type", "subgroup", "arm", "against", "probability"],
        ),
        curves=curve_frame(),
        waterfall=bars,
        spider=lines,
        notes=("One note.",),
    )
    return dataclasses.replace(inputs, **changes)


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


def test_curve_panels_mark_what_is_censored_and_draw_a_shared_fit_once():
    frame = curve_frame()
    frame.loc[frame["arm"].eq("alpha + beta") & frame["day"].eq(32), ["volume_mm3", "censored"]] = [0.0, True]
    models = curve_panels(frame, limit_mm3=10.0)
    assert [(model["tumour_type"], model["model"]) for model in models] == [
        *(("BRCA", "X-1000"), ("BRCA", "X-1002"), ("CM", "X-1001"), ("CM", "X-1003"))
    ]
    untreated, combination = models[0]["panels"][0], models[0]["panels"][3]
    band, median, seen, _ = untreated["data"]
    assert len(median["x"]) == 9 and len(band["x"]) == 18  # two mice, one curve
    assert len(seen["x"]) == 19 and seen["x"][9] is None
    below = combination["data"][3]
    assert (below["x"][-1], below["y"][-1]) == (32, 10.0)
    assert min(y for y in combination["data"][2]["y"] if y is not None) == 10.0


def test_curves_of_one_pdx_model():
    figure = curves(curve_frame(), "X-1001")
    assert [note.text for note in figure.layout.annotations] == ["untreated", "alpha", "beta", "alpha + beta"]
    with pytest.raises(KeyError, match="X-9"):
        curves(curve_frame(), "X-9")


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
        *("orr_forest", "null_models", "waterfall", "spider", "mouse_response", "curves")
    ]
    assert list(figure_data(made_up_inputs(waterfall=None, spider=None, curves=None, mouse_response=None))) == [
        *("orr_forest", "null_models")
    ]


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
    assert sections == ["answer", "protocol", "patients", "combination", "mice", "diagnostics", "inputs", "provenance"]
    words = " ".join(parsed.text.split())
    for phrase in (
        *("Alpha and beta in LGSOC", "The fit passed all its convergence gates", "34/109 = 31.2 %", "above 99 %"),
        *("equal-tailed", "Clopper-Pearson", "every 56 days up to day 504, then every 84 days until day 672"),
        *("mutant 52 %", "week 1   2", "RECIST 1.1, confirmed", "https://example.org/scaling", "0.10.2", "61.25"),
    ):
        assert phrase in words or phrase in parsed.text, phrase
    assert "synthetic" not in words and "quick" not in words.lower()


def test_every_figure_has_its_place_and_its_numbers(made_up):
    _, parsed = made_up
    places = [given["data-figure"] for _, given in parsed.elements if "data-figure" in given]
    sources = [given["data-for"] for _, given in parsed.elements if "data-for" in given]
    assert places == sources and len(places) == 9
    for name in sources:
        assert set(parsed.json(name)) >= {"data", "layout"}
    stored = parsed.json("curve-data")
    assert len(stored["models"]) == sum(tag == "option" for tag, _ in parsed.elements) == 4
    assert all(len(panel["data"]) == len(stored["looks"]) for model in stored["models"] for panel in model["panels"])


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
        protocol=[(HOSTILE, (HOSTILE,), HOSTILE)],
        superiority=pd.DataFrame(
            [[HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.5]],
            columns=["tumour_type", "subgroup", "arm", "against", "probability"],
        ),
        curves=frame.assign(arm=HOSTILE, mouse=HOSTILE, pdx_model=HOSTILE, tumour_type=HOSTILE),
        waterfall=bars.assign(subgroup=HOSTILE, response=HOSTILE, patient=HOSTILE),
        spider=lines,
        notes=(HOSTILE,),
    )
    text = build_report(hostile)
    parsed = Page(text)
    assert "<script>alert" not in text
    # The same scripts as the harmless page has: nothing was added, nothing cut short.
    kinds = [(given.get("type"), given.get("data-for"), given.get("id")) for given, _ in parsed.scripts]
    assert kinds == [
        *(("application/json", name, None) for name in ("orr", "waterfall-0", "spider-0", "null-models", "mice")),
        ("application/json", None, "curve-data"),
        *[(None, None, None)] * 2,
    ]
    for name in ("orr", "waterfall-0", "spider-0", "null-models", "mice", "curve-data"):
        parsed.json(name)
    assert parsed.text.count(HOSTILE) > 25
    # Only what the page's script puts in by textContent may hold "<": the heads of the panels of curves.
    figures = [json.dumps(parsed.json(name)) for name in ("orr", "waterfall-0", "spider-0", "null-models", "mice")]
    assert not any("<script" in figure for figure in figures)
    panel = parsed.json("curve-data")["models"][0]["panels"][0]
    assert panel["arm"] == HOSTILE and "<" not in json.dumps(panel["data"])


def test_page_of_the_least_that_a_run_leaves():
    inputs = ReportInputs(experiment=experiment(), manifest={}, orr=orr_frame())
    parsed = Page(build_report(inputs))
    sections = [given["id"] for tag, given in parsed.elements if tag == "section"]
    assert sections == ["answer", "protocol", "combination", "diagnostics", "inputs", "provenance"]
    assert "No convergence gates were recorded" in parsed.text


def test_curves_are_thinned_evenly_when_they_would_make_the_page_heavy(monkeypatch):
    frame = curve_frame(num_models=20)
    whole = len(page._json(curve_panels(frame)))
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
