"""Target engagement against the published inhibition that its priors come from, and its shape over a cycle."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.config import Cohort
from vtrial.dosing import Dosing
from vtrial.engagement import COLUMNS, TARGETS, engagement_rows, horizon
from vtrial.errors import InputError
from vtrial.kinetics import average_amount, one_compartment, steady_state_amount
from vtrial.prior_draws import PriorSampler
from vtrial.priors import load_priors
from vtrial.report.engagement import engagement as engagement_figure

SIZE = 500
ARMS = {
    "both": {
        "avutometinib": {"dose": "3.2 mg", "schedule": "d1,4 QW 21/28", "intensity": 1.0},
        "defactinib": {"dose": "200 mg", "schedule": "BID 21/28", "intensity": 1.0},
    },
    "GSK2256098": {"GSK2256098": {"dose": "1000 mg", "schedule": "BID", "intensity": 1.0, "missed": 0}},
    "a quarter": {"GSK2256098": {"dose": "250 mg", "schedule": "BID", "intensity": 1.0, "missed": 0}},
    "no marker": {"gemcitabine": {"dose": "1000 mg/m2", "schedule": "d1,8,15 q28d"}},
    "no kinetics": {"ifebemtinib": {"dose": "100 mg", "schedule": "QD"}},
}


@pytest.fixture(scope="module")
def rows():
    priors = load_priors()
    arms = [{"name": name, "drugs": drugs} for name, drugs in ARMS.items()]
    cohort = Cohort.model_validate({"tumour_type": "LGSOC", "arms": arms})
    return engagement_rows(cohort, PriorSampler(jax.random.key(5), priors, SIZE), priors)


def test_rows_of_drugs_with_a_marker_and_kinetics(rows):
    assert list(rows.columns) == COLUMNS
    found = set(zip(rows["arm"], rows["drug"], rows["target"], strict=True))
    assert found == {
        ("both", "avutometinib", TARGETS["RAF/MEK"]),
        ("both", "defactinib", TARGETS["FAK"]),
        ("GSK2256098", "GSK2256098", "pFAK (Y397)"),
        ("a quarter", "GSK2256098", "pFAK (Y397)"),
    }
    quantiles = rows[["q05", "q25", "q50", "q75", "q95"]].to_numpy()
    assert np.all(np.diff(quantiles, axis=1) >= 0) and quantiles.min() >= 0 and quantiles.max() <= 1
    assert np.all((rows["mean"] >= rows["q05"]) & (rows["mean"] <= rows["q95"]))


def test_engagement_over_the_cycle(rows):
    both = rows[rows["arm"] == "both"]
    for drug, half_life in (("avutometinib", 55 / 24), ("defactinib", 9 / 24)):
        middle = both[both["drug"] == drug].set_index("day")["q50"]
        assert middle.index[-1] == 56 and middle.index[1] == 0.125 and middle[0.0] == 0.0
        # the week off begins with the 22nd day and ends with the 28th
        assert middle[28.0] < 0.7 * middle[20.5] and middle[31.0] > middle[28.0]
        # odds of the median fall by the half-life; the slowest patients make it shallower, never steeper
        odds = middle / (1 - middle)
        assert 0.5 < math.log2(odds[24.0] / odds[27.0]) / (3 / half_life) < 1.05


def test_published_inhibition_comes_out(rows):
    """GSK2256098 at 1000 mg twice daily: about 80 % (Soria 2016); a quarter of the dose has a quarter of the odds."""
    at = {arm: rows[(rows["arm"] == arm) & (rows["day"] >= 7)] for arm in ("GSK2256098", "a quarter")}
    # odds of 4 at the average amount: those of the amount 3 h after a dose, with half-lives of 6 and 0.5 h, every 12 h
    rates = math.log(2) * 4.0, math.log(2) * 48.0
    one = one_compartment(rates[0])
    then = steady_state_amount(jnp.asarray([0.125]), 0.5, 0.5, one, rates[1]) / average_amount(1.0, one)
    expected = float(4 * then[0] / (1 + 4 * then[0]))
    assert 0.75 < expected < 0.9, "about 80 %, as published"
    day = at["GSK2256098"]["day"]
    middle = at["GSK2256098"]["q50"][np.isclose(day % 0.5, 0.125)].mean()
    # five SE of the median of 500 patients: log-SD of the odds about 0.65 (potency 0.35, exposure 0.5, half-life and
    # missed doses), so 1.25 x 0.65 / sqrt(500) = 0.036 of the odds, times at most 0.19 in the effect
    assert abs(middle - expected) < 5 * 0.036 * 0.19
    odds = {arm: own["q50"] / (1 - own["q50"]) for arm, own in at.items()}
    np.testing.assert_allclose(odds["a quarter"].to_numpy() * 4, odds["GSK2256098"].to_numpy(), rtol=1e-3)


def test_an_infusion_without_an_end_holds_the_average(tmp_path):
    """Twelve hours, twice a day, into the vein: after many half-lives the amount is its average."""
    file = tmp_path / "mine.yaml"
    file.write_text("drugs:\n  GSK2256098:\n    pk: {route: intravenous}\n")
    priors = load_priors([file])
    drug = {"dose": "1000 mg", "schedule": "BID", "intensity": 1.0, "missed": 0}
    arms = [
        {"name": name, "drugs": {"GSK2256098": drug | {"infusion": length}}}
        for name, length in (("always", "12 h"), ("at once", "0 min"))
    ]
    cohort = Cohort.model_validate({"tumour_type": "LGSOC", "arms": arms})
    found = engagement_rows(cohort, PriorSampler(jax.random.key(5), priors, 50), priors)
    found = found[found["day"] >= 14]
    always, at_once = (found[found["arm"] == name]["q50"] for name in ("always", "at once"))
    # 14 d are more than 20 of the longest half-lives of 50 draws (6 h, log-SD 0.3); float32
    assert np.ptp(always) < 1e-4
    # a bolus of a whole half-life of doses swings by a factor of four about it
    assert at_once.min() < always.min() - 0.05 and at_once.max() > always.max() + 0.05


def test_horizon_is_two_cycles_within_bounds():
    assert horizon([Dosing(1.0, "mg")]) == 28
    assert horizon([Dosing(1.0, "mg"), Dosing(1.0, "mg", on_days=21, cycle_days=28)]) == 56
    assert horizon([Dosing(1.0, "mg", repeat_days=84)]) == 84


def test_figure_has_a_panel_an_arm_and_escapes_names(rows):
    named = rows.replace({"both": "<b>both</b> & more"})
    made = engagement_figure(named).to_plotly_json()
    titles = [one["text"] for one in made["layout"]["annotations"]]
    assert titles == ["&lt;b&gt;both&lt;/b&gt; &amp; more", "GSK2256098", "a quarter"]
    lines = [trace for trace in made["data"] if trace.get("name")]
    assert len(lines) == 4 and len(made["data"]) == 8
    # every drug is in the legend once
    shown = [trace["name"] for trace in lines if trace["showlegend"]]
    assert sorted(shown) == ["GSK2256098: pFAK (Y397)", "avutometinib: pERK", "defactinib: pFAK (Y397)"]
    np.testing.assert_allclose(lines[0]["y"], 100 * rows[rows["drug"] == "avutometinib"]["q50"], rtol=1e-3)


def test_a_misspelt_drug_of_an_engagement_is_told(tmp_path):
    entry = "{family: fixed, parameters: {value: 2.0}, unit: '1', source: test, certainty: assumed, note: test}"
    file = tmp_path / "mine.yaml"
    file.write_text(f"engagement:\n  FAK:\n    defactinb: {entry}\n")
    with pytest.raises(InputError, match=r"unknown drug 'defactinb'.*did you mean 'defactinib'"):
        load_priors([file])
