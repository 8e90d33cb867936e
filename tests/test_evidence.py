"""Published results: faults with their place, and the formulas against finite differences."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.curve_summary import residual_covariance
from vtrial.errors import InputError
from vtrial.evidence import class_limits, effect_of_tgi, evidence_arrays, read_evidence
from vtrial.evidence_density import NUM_DAYS, class_arrays
from vtrial.growth_laws import REFERENCE_VOLUME, fixed_course, time_courses
from vtrial.model_format import CurveShape
from vtrial.mrecist import MRECIST, mrecist_class, mrecist_curve
from vtrial.outcomes import CR, PD, PR, SD

HEADER = "drug,tumour_type,kind,r,n,threshold,tgi,tgi_se,growth_per_day,day,source\n"
HEADER_CLASSES = HEADER.replace("source", "cr,pr,sd,pd,source")
REGRESSIONS = "A,LGSOC,regressions,2,36,,,,,,a paper\n"
DELAYED = "A,LGSOC,delayed,18,36,0.3,,,,,a paper\n"
TGI = "B,OV,tgi,,,,0.7,0.1,0.05,21,another paper\n"
GOOD = HEADER + REGRESSIONS + DELAYED + TGI


def read(folder: Path, text: str):
    path = folder / "evidence.csv"
    path.write_text(text)
    return read_evidence(path)


def test_rows_are_read_as_they_stand(tmp_path):
    table = read(tmp_path, GOOD)
    assert list(table["kind"]) == ["regressions", "delayed", "tgi"]
    assert list(table["drug"]) == ["A", "A", "B"]
    assert table.loc[1, ["r", "n", "threshold"]].tolist() == [18.0, 36.0, 0.3]
    assert table.loc[2, ["tgi", "tgi_se", "growth_per_day", "day"]].tolist() == [0.7, 0.1, 0.05, 21.0]
    assert table.loc[2, "source"] == "another paper"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (HEADER + REGRESSIONS + "A,OV,survival,1,2,,,,,,x\n", "3: kind", "'survival'"),
        (HEADER + "A,OV,regressions,3,2,,,,,,x\n", "2: r", "3 of 2"),
        (HEADER + "A,OV,regressions,-1,2,,,,,,x\n", "2: r", "-1 of 2"),
        (HEADER + "A,OV,regressions,1,0,,,,,,x\n", "2: n", "'0'"),
        (HEADER + "A,OV,regressions,,9,,,,,,x\n", "2: r", "''"),
        (HEADER + "A,OV,delayed,1,9,,,,,,x\n", "2: threshold", "''"),
        (HEADER + "A,OV,tgi,,,,0.5,0,0.05,21,x\n", "2: tgi_se", "'0'"),
        (HEADER + "A,OV,tgi,,,,0.5,0.1,-0.05,21,x\n", "2: growth_per_day", "'-0.05'"),
        (HEADER + "A,OV,tgi,,,,86,3,0.05,21,x\n", "2: tgi", "0.86 for 86 %"),
        (HEADER + "A,OV,tgi,,,,about half,0.1,0.05,21,x\n", "2: tgi", "'about half'"),
        (HEADER + "A,OV,tgi,,,,inf,0.1,0.05,21,x\n", "2: tgi", "'inf'"),
        (HEADER_CLASSES + "A,OV,classes,,,,,,0.05,40,1,-2,3,4,x\n", "2: cr", "1, -2, 3, 4"),
        (HEADER_CLASSES + "A,OV,classes,,,,,,0.05,40,0,0,0,0,x\n", "2: cr", "one at least"),
        (HEADER_CLASSES + "A,OV,classes,,,,,,0.05,40,1,2,,4,x\n", "2: sd", "''"),
        (HEADER_CLASSES + "A,OV,classes,,,,,,0.05,7,1,2,3,4,x\n", "2: day", "day 10 on, found 7"),
        (HEADER_CLASSES + "A,OV,classes,,,,,,,40,1,2,3,4,x\n", "2: growth_per_day", "''"),
        (HEADER + DELAYED + ",OV,tgi,,,,0.5,0.1,0.05,21,x\n", "3: drug", "empty"),
        (HEADER + "A,,tgi,,,,0.5,0.1,0.05,21,x\n", "2: tumour_type", "empty"),
        (HEADER + "A,OV,tgi,,,,0.5,0.1,0.05,21,\n", "2: source", "empty"),
        ("drug,kind,r,n,source\nA,regressions,1,2,x\n", "1: tumour_type", "column missing"),
        ("drug,tumour_type,kind,source\nA,OV,regressions,x\n", "2: r", "''"),
    ],
)
def test_a_fault_says_file_line_and_column(tmp_path, text, place, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'evidence.csv'}:{place}: ")
    assert message in str(caught.value)


def tgi_of_effect(effect, growth, day):
    """The definition, forwards."""
    return 1.0 - np.expm1(growth * day * (1.0 - effect)) / np.expm1(growth * day)


@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.4, 1.0, 1.8])
@pytest.mark.parametrize(("growth", "day"), [(0.05, 21.0), (0.1, 14.0), (0.02, 60.0)])
def test_effect_of_tgi_inverts_the_definition_and_has_its_slope(effect, growth, day):
    tgi = tgi_of_effect(effect, growth, day)
    found, se = effect_of_tgi(tgi, 0.03, growth, day)
    np.testing.assert_allclose(found, effect, rtol=1e-9, atol=1e-12)
    step = 1e-5
    slope = (effect_of_tgi(tgi + step, 1.0, growth, day)[0] - effect_of_tgi(tgi - step, 1.0, growth, day)[0]) / step / 2
    # central differences: relative error step^2 f''' / 6 f' and rounding 1e-16 / step
    np.testing.assert_allclose(se, 0.03 * slope, rtol=1e-6)


def test_landmarks_of_tgi():
    """No effect is TGI 0, stasis is TGI 1, and a tumour that vanishes is 1 + 1 / (exp(G) - 1)."""
    assert effect_of_tgi(0.0, 0.1, 0.05, 21.0)[0] == pytest.approx(0.0, abs=1e-12)
    assert effect_of_tgi(1.0, 0.1, 0.05, 21.0)[0] == pytest.approx(1.0, abs=1e-12)
    nearly = 1.0 + 1.0 / np.expm1(0.05 * 21.0) - 1e-9
    assert effect_of_tgi(nearly, 0.1, 0.05, 21.0)[0] > 15.0


@pytest.mark.parametrize("law", [CurveShape(), CurveShape(growth="gompertz", deceleration=0.01)])
@pytest.mark.parametrize(
    ("growth", "day", "loss"), [(0.05, 30.0, 0.0), (0.12, 21.0, 0.8), (0.03, 90.0, 0.9), (0.06, 60.0, 1.1)]
)
def test_class_limits_are_where_a_smooth_course_changes_its_class(growth, day, loss, law):
    """A curve measured on the days that are looked at and before, a little below and above each limit."""
    slowing, days = 0.2, np.r_[np.arange(0.0, 10.0), np.linspace(10.0, day, NUM_DAYS)]
    courses = time_courses(days, law)
    seen = courses[days >= 10.0]
    pace, residual = 0.15, 0.1 * np.sqrt(days / 42.0)
    limits = class_limits(
        np.array(growth), seen[:, 1], seen[:, 2], np.array(loss), slowing, np.array(pace), residual[days >= 10.0]
    )
    for limit, below, above in zip(limits, (PD, SD, PR), (SD, PR, CR), strict=True):
        for effect, expected in ((limit - 1e-3, below), (limit + 1e-3, above)):
            rate, bend = growth * (1.0 + pace - effect), growth * (loss * effect - slowing)
            start = np.log(REFERENCE_VOLUME)
            ln_volume = fixed_course(days, law) + courses @ [start, rate, bend] + residual
            volume, valid = jnp.asarray(np.exp(ln_volume)), jnp.ones(len(days), bool)
            found = mrecist_class(*mrecist_curve(volume, jnp.asarray(days), valid, rule=MRECIST))
            assert int(found) == expected, (limit, effect)


def test_classes_are_rows_of_their_own_with_mice_to_integrate_over(tmp_path):
    text = HEADER_CLASSES + "A,LGSOC,classes,,,,,,0.05,43,1,2,3,4,x\n" + "A,LGSOC,regressions,2,36,,,,,,,,,,y\n"
    table, labels, shape = read(tmp_path, text), ("A | BRCA", "A | LGSOC"), CurveShape()
    evidence = evidence_arrays(table, labels)
    assert evidence.count_cell.tolist() == [1] and evidence.r.tolist() == [2] and evidence.classes is None
    classes = class_arrays(table, labels, shape)
    assert classes is not None and classes.cell.tolist() == [1] and classes.growth.tolist() == [0.05]
    assert classes.mice.tolist() == [[4, 3, 2, 1]], "from PD to CR, as the effect grows"
    np.testing.assert_allclose(classes.straight, [np.arange(10.0, 44.0, 3.0)])
    np.testing.assert_allclose(classes.waning, classes.straight - (1 - np.exp(-0.02 * classes.straight)) / 0.02)
    # a Sobol rule: closer than 256 random draws, whose correlations have an SE of 0.06
    np.testing.assert_allclose(np.cov(classes.deviate.T), np.eye(2), atol=0.06)
    days = np.r_[0.0, classes.straight[0]]
    change = np.c_[-np.ones(NUM_DAYS), np.eye(NUM_DAYS)]
    expected = change @ residual_covariance(days, shape) @ change.T
    np.testing.assert_allclose(np.cov(classes.residual[0].T), expected, atol=0.12)
    assert class_arrays(table[table["kind"] != "classes"], labels, shape) is None


def test_arrays_index_the_cells_of_the_panel(tmp_path):
    table = read(tmp_path, GOOD + "C,OV,regressions,0,5,,,,,,x\n")
    evidence = evidence_arrays(table, ("A | BRCA", "A | LGSOC", "B | OV", "C | OV"))
    assert evidence.count_cell.tolist() == [1, 1, 3]
    assert evidence.r.tolist() == [2, 18, 0]
    assert evidence.n.tolist() == [36, 36, 5]
    assert evidence.threshold.tolist() == [1.0, 0.3, 1.0], "a regression is an effect above stasis"
    assert evidence.effect_cell.tolist() == [2]
    np.testing.assert_allclose(evidence.effect, effect_of_tgi(0.7, 0.1, 0.05, 21.0)[0])
    np.testing.assert_allclose(evidence.effect_se, effect_of_tgi(0.7, 0.1, 0.05, 21.0)[1])


@pytest.mark.parametrize(("rows", "counts", "effects"), [(REGRESSIONS, 1, 0), (TGI, 0, 1), (DELAYED, 1, 0)])
def test_tables_of_one_kind(tmp_path, rows, counts, effects):
    evidence = evidence_arrays(read(tmp_path, HEADER + rows), ("A | LGSOC", "B | OV"))
    assert len(evidence.count_cell) == len(evidence.r) == len(evidence.n) == len(evidence.threshold) == counts
    assert len(evidence.effect_cell) == len(evidence.effect) == len(evidence.effect_se) == effects


def test_the_shipped_evidence_is_read(repository):
    table = read_evidence(repository / "experiments" / "data" / "fak_evidence.csv")
    assert len(table) > 0
    cells = tuple(dict.fromkeys(f"{d} | {t}" for d, t in zip(table["drug"], table["tumour_type"], strict=True)))
    evidence = evidence_arrays(table, cells)
    assert len(evidence.r) + len(evidence.effect) == len(table)
    assert np.all(np.isfinite(evidence.effect)) and np.all(evidence.effect_se > 0)
