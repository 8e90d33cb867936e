"""Table -> panel: a small table by hand, and what its curves become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vtrial.censored_rows import MAX_CENSORED, Censored
from vtrial.dataset import read_dataset
from vtrial.errors import InputError
from vtrial.growth_laws import time_courses
from vtrial.model_format import CurveShape
from vtrial.panel import Panel, build_panel

LOSS_RATE = 0.02
WHITE = CurveShape(LOSS_RATE, 0.0, 0.0)
CLASSES = {"A": "MEK", "B": "PI3K", "C": "MEK", "D": "FAK"}
DAYS = (0.0, 4.0, 9.0, 15.0, 22.0, 30.0)
#: mouse -> tumour type, PDX model, arm, slope of ln volume, number of measurements
MICE = {
    "c1": ("T1", "M1", "untreated", 0.06, 6),
    "a1": ("T1", "M1", "A", 0.03, 5),
    "b1": ("T1", "M1", "B", 0.05, 4),
    "ab1": ("T1", "M1", "A + B", 0.01, 6),
    "c2": ("T1", "M2", "untreated", 0.05, 6),
    "a2": ("T1", "M2", "A", 0.02, 6),
    "a3": ("T1", "M2", "A", 0.03, 2),
    "ab2": ("T1", "M2", "A + B", 0.0, 6),
    "ab3": ("T1", "M2", "A + B", -0.01, 6),
    "c3": ("T2", "M3", "untreated", 0.04, 3),
    "b3": ("T2", "M3", "B", 0.02, 6),
    "cc3": ("T2", "M3", "C", 0.01, 6),
    "abc3": ("T2", "M3", "A + B + C", 0.0, 6),
    "b4": ("T2", "M4", "B", 0.01, 6),
}
#: volumes put in the place of the last ones, in the order of days; at 10 or below they are censored
LOW = {"cc3": (8.0, 0.0, 5.0), "ab3": (10.0,)}


def volumes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mouse -> days and volumes."""
    rng = np.random.default_rng(3)
    curves = {}
    for mouse, (_, _, _, slope, number) in MICE.items():
        day = np.array(DAYS[:number])
        volume = np.round(np.exp(5.3 + slope * day + 0.1 * rng.normal(size=number)), 3)
        low = LOW.get(mouse, ())
        volume[number - len(low) :] = low
        curves[mouse] = (day, volume)
    return curves


def write(folder: Path, curves, order: list[str]) -> Path:
    path = folder / "table.csv"
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for mouse in order:
        kind, model, arm, *_ = MICE[mouse]
        lines += [f"S,{kind},{model},{mouse},{arm},{d:g},{v:.3f}" for d, v in zip(*curves[mouse], strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def curves():
    return volumes()


@pytest.fixture(scope="module")
def panel(tmp_path_factory, curves) -> Panel:
    # combinations first in the file: the panel must not rely on the order of the table
    order = sorted(MICE, key=lambda mouse: (-len(MICE[mouse][2]), mouse))
    dataset = read_dataset(write(tmp_path_factory.mktemp("panel"), curves, order))
    return build_panel(dataset, CLASSES, WHITE, [("D", "OV"), ("A", "T1"), ("D", "OV")])


def row(panel: Panel, mouse: str) -> int:
    return panel.labels.mouse.index(f"S/{mouse}")


def site(panel: Panel, name: str) -> int:
    return panel.labels.pdx_model_drug.index(name)


def test_labels(panel):
    labels = panel.labels
    assert labels.tumour_type == ("T1", "T2")
    assert labels.pdx_model == ("M1", "M2", "M3", "M4")
    assert labels.drug == ("A", "B", "C", "D")
    assert labels.drug_class == ("FAK", "MEK", "PI3K")
    assert labels.drug_type == ("A | T1", "A | T2", "B | T1", "B | T2", "C | T2", "D | OV")
    assert labels.class_pair == ("MEK x MEK", "MEK x PI3K")
    assert set(labels.combination_cell) == {"M1 | A + B", "M2 | A + B", "M3 | A + B + C"}
    assert set(labels.pdx_model_drug) == {"M1 | A", "M1 | B", "M2 | A", "M2 | B", "M3 | A", "M3 | B", "M3 | C"}
    assert sorted(labels.mouse) == sorted(f"S/{mouse}" for mouse in MICE)


def test_who_belongs_where(panel):
    labels, curves = panel.labels, panel.curves
    assert panel.num_single == 10
    for mouse, (kind, model, arm, _, number) in MICE.items():
        i = row(panel, mouse)
        drugs = () if arm == "untreated" else tuple(arm.split(" + "))
        assert (i < panel.num_single) == (len(drugs) < 2)
        assert labels.pdx_model[curves.pdx_model[i]] == model
        assert curves.treated[i] == bool(drugs)
        assert curves.num_measurements[i] == number - len(LOW.get(mouse, ()))
        if len(drugs) == 1:
            assert labels.drug_type[curves.drug_type[i]] == f"{arm} | {kind}"
        if len(drugs) > 1:
            assert labels.combination_cell[curves.combination_cell[i]] == f"{model} | {arm}"
        else:
            assert curves.combination_cell[i] == -1
    np.testing.assert_array_equal(panel.pdx_model_type, [0, 0, 1, 1])
    assert [labels.drug_class[c] for c in panel.drug_class] == ["MEK", "PI3K", "MEK", "FAK"]
    assert [labels.drug[d] for d in panel.drug_type_drug] == ["A", "A", "B", "B", "C", "D"]


def test_sites_and_their_lone_mice(panel):
    labels, curves, sites = panel.labels, panel.curves, panel.sites
    for mouse in MICE:
        name = f"{MICE[mouse][1]} | {MICE[mouse][2]}"
        explicit = name in labels.pdx_model_drug
        assert curves.effect_site[row(panel, mouse)] == (site(panel, name) if explicit else -1)
    assert curves.effect_site[row(panel, "b4")] == -1, "one mouse, no combination: integrated out"
    for x, name in enumerate(labels.pdx_model_drug):
        model, drug = name.split(" | ")
        kind = next(m[0] for m in MICE.values() if m[1] == model)
        assert labels.pdx_model[sites.pdx_model[x]] == model
        assert labels.drug_type[sites.drug_type[x]] == f"{drug} | {kind}"
    lone = {"M1 | A": "a1", "M1 | B": "b1", "M3 | B": "b3"}
    for x, name in enumerate(labels.pdx_model_drug):
        assert sites.mouse[x] == (row(panel, lone[name]) if name in lone else -1)
    # M2 | A has two mice, M2 | B and M3 | A none, and the one mouse of M3 | C is censored


def test_arms_of_types(panel):
    """Every mouse has its arm in its tumour type, and every such arm its type; the same arm in two types is two."""
    labels = panel.labels
    assert {"A + B | T1", "A + B + C | T2", "untreated | T1", "untreated | T2"} <= set(labels.arm_type)
    for name, of_arm in zip(labels.mouse, panel.curves.arm_type, strict=True):
        kind, _, arm, *_ = MICE[name.removeprefix("S/")]
        assert labels.arm_type[of_arm] == f"{arm} | {kind}"
        assert labels.tumour_type[panel.arm_type_type[of_arm]] == kind
    assert len(panel.arm_type_type) == len(labels.arm_type) == len(set(panel.curves.arm_type))


def test_combination_cells(panel):
    labels, cells = panel.labels, panel.combinations
    assert cells.site.shape == (3, 3), "the widest arm has three drugs"
    for c, name in enumerate(labels.combination_cell):
        model, arm = name.split(" | ")
        drugs = arm.split(" + ")
        assert cells.present[c].tolist() == [j < len(drugs) for j in range(3)]
        for j, drug in enumerate(drugs):
            assert labels.pdx_model_drug[cells.site[c, j]] == f"{model} | {drug}"
            for k, other in enumerate(drugs):
                if j != k:
                    pair = " x ".join(sorted((CLASSES[drug], CLASSES[other])))
                    assert labels.class_pair[cells.pair[c, j, k]] == pair
        assert labels.pdx_model[cells.pdx_model[c]] == model
        assert cells.shared[c] == (0 if name == "M2 | A + B" else -1), "only that cell has two mice"


def test_censored_rows_latest_first(panel, curves):
    censored = panel.censored
    assert censored.log_limit == pytest.approx(np.log(10.0))
    assert {panel.labels.mouse[i] for i in censored.mouse} == {"S/cc3", "S/ab3"}
    for q, i in enumerate(censored.mouse):
        mouse = panel.labels.mouse[i].removeprefix("S/")
        assert panel.curves.censored_mouse[i] == q
        day, volume = curves[mouse]
        low = day[volume <= 10.0][::-1]
        assert censored.present[q].tolist() == [k < len(low) for k in range(MAX_CENSORED)]
        np.testing.assert_allclose(censored.basis[q, : len(low)], time_courses(low, WHITE))
        assert not censored.basis[q, len(low) :].any()
        assert not censored.offset[q].any() and np.all(censored.noise[q] == np.eye(MAX_CENSORED))
    assert (panel.curves.censored_mouse >= 0).sum() == 2


@pytest.mark.parametrize("deceleration", [0.0, 0.013])
@pytest.mark.parametrize("mouse", ["cc3", "ab3"])
def test_hidden_days_are_the_dense_conditional(curves, tmp_path, mouse, deceleration):
    """At any coefficients and hidden ln volumes their normal is the dense one given the seen days."""
    law = "gompertz" if deceleration else "exponential"
    shape = CurveShape(LOSS_RATE, 9.0, 0.25, law, deceleration)
    panel = build_panel(read_dataset(write(tmp_path, curves, list(MICE))), CLASSES, shape)
    q = int(panel.curves.censored_mouse[row(panel, mouse)])
    part = Censored(*(x[q] for x in panel.censored[:-1]), panel.censored.log_limit)
    day, volume = curves[mouse]
    low = np.flatnonzero(volume <= 10.0)[::-1]
    seen = np.flatnonzero(volume > 10.0)
    assert len(low) <= MAX_CENSORED
    rng = np.random.default_rng(2)
    theta, sigma = np.array([5.0, -0.1, 0.05]) + 0.01 * rng.normal(size=3), 0.3
    hidden = 1.5 + rng.normal(size=len(low))
    some = slice(len(low))
    total = stats.multivariate_normal.logpdf(
        hidden, (part.basis @ theta + part.offset)[some], sigma**2 * part.noise[some, some]
    )
    np.testing.assert_array_equal(part.noise[len(low) :], np.eye(MAX_CENSORED)[len(low) :])
    correlation = 0.75 * (np.exp(-np.abs(day[:, None] - day) / 9) - np.exp(-(day[:, None] + day) / 9)) + 0.25 * np.eye(
        len(day)
    )
    columns = np.stack([np.ones_like(day), day, day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE], 1)
    fixed = np.zeros_like(day)
    if deceleration:
        grown, waned = ((1 - np.exp(-rate * day)) / rate for rate in (deceleration, LOSS_RATE))
        columns = [np.exp(-deceleration * day), grown, LOSS_RATE * (waned - grown) / (deceleration - LOSS_RATE)]
        columns, fixed = np.stack(columns, 1), np.log(225.0) * (1 - np.exp(-deceleration * day))
    cross = correlation[np.ix_(low, seen)] @ np.linalg.inv(correlation[np.ix_(seen, seen)])
    mean = fixed[low] + columns[low] @ theta + cross @ (np.log(volume[seen]) - fixed[seen] - columns[seen] @ theta)
    covariance = correlation[np.ix_(low, low)] - cross @ correlation[np.ix_(seen, low)]
    expected = stats.multivariate_normal.logpdf(hidden, mean, sigma**2 * covariance)
    np.testing.assert_allclose(total, expected, rtol=1e-9)


def test_statistics_are_least_squares(panel, curves):
    """R theta = z is the least-squares fit, and what is left is its residual sum of squares."""
    for mouse in MICE:
        i = row(panel, mouse)
        day, volume = curves[mouse]
        seen = volume > 10.0
        day, measured = day[seen], np.log(volume[seen])
        statistics, triangle = panel.curves.statistics[i], panel.curves.triangle[i]
        assert not np.tril(triangle, -1).any()
        if len(day) >= 3:
            columns = np.stack([np.ones_like(day), day, day - (1 - np.exp(-LOSS_RATE * day)) / LOSS_RATE], 1)
            theta, left, *_ = np.linalg.lstsq(columns, measured, rcond=None)
            np.testing.assert_allclose(np.linalg.solve(triangle, statistics[:3]), theta, rtol=1e-6)
            np.testing.assert_allclose(statistics[3], left[0] if len(left) else 0.0, rtol=1e-8, atol=1e-12)
        else:
            assert statistics[3] == 0.0
            assert not triangle[len(day) :].any() and not statistics[len(day) : 3].any()
            # no residual: z has the length of the curve itself
            np.testing.assert_allclose(np.sum(statistics**2), np.sum(measured**2))


def test_order_of_the_table_does_not_matter(panel, curves, tmp_path):
    other = build_panel(read_dataset(write(tmp_path, curves, list(MICE))), CLASSES, WHITE, [("A", "T1"), ("D", "OV")])
    assert sorted(other.labels.mouse) == sorted(panel.labels.mouse)
    for name in MICE:
        i, j = row(panel, name), row(other, name)
        np.testing.assert_array_equal(panel.curves.statistics[i], other.curves.statistics[j])
        assert panel.curves.effect_site[i] == other.curves.effect_site[j]
    assert other.labels.pdx_model_drug == panel.labels.pdx_model_drug


def test_many_censored_days_are_thinned_and_keep_first_and_last(tmp_path):
    day = np.arange(0.0, 70.0, 7.0)
    volume = np.where(day < 14, 100.0, 1.0)
    text = "study,tumour_type,pdx_model,mouse,arm,day,volume_mm3\n"
    text += "".join(f"S,T,M,c,untreated,{d:g},{v:g}\n" for d, v in zip(day, volume, strict=True))
    path = tmp_path / "table.csv"
    path.write_text(text)
    censored = build_panel(read_dataset(path), {}, WHITE).censored
    days = censored.basis[0][:, 1]
    assert days[0] == 63.0 and days[-1] == 14.0 and len(days) == MAX_CENSORED
    assert np.all(np.diff(days) < 0) and set(days) <= set(day[2:])
    assert censored.present.all()


def test_a_drug_without_class_is_refused(tmp_path, curves):
    dataset = read_dataset(write(tmp_path, curves, list(MICE)))
    with pytest.raises(InputError, match="no mechanism class for drug 'C'"):
        build_panel(dataset, {k: v for k, v in CLASSES.items() if k != "C"}, WHITE)
    with pytest.raises(InputError, match="no mechanism class for drug 'Z'"):
        build_panel(dataset, CLASSES, WHITE, [("Z", "OV")])


def test_first_growth_is_the_slope_of_the_faster_curves(panel, curves):
    """A starting point: 0.8 quantile over the mice of a PDX model of the least-squares slope, 0.005 or more."""
    slopes: dict[str, list[float]] = {}
    for mouse, (_, model, *_) in MICE.items():
        day, volume = curves[mouse]
        seen = volume > 10.0
        slopes.setdefault(model, []).append(max(np.polyfit(day[seen], np.log(volume[seen]), 1)[0], 0.005))
    expected = [np.log(np.quantile(slopes[model], 0.8)) for model in panel.labels.pdx_model]
    np.testing.assert_allclose(panel.initial_growth, expected, rtol=1e-9)
