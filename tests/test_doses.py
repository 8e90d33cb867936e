"""Doses: read from arms and columns, the laws by hand, and what predictions and tables make of them."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from tests.test_pairs import pairs_of, posterior
from vtrial.dataset import Dataset, read_dataset
from vtrial.dose_response import ROUNDING, strength
from vtrial.dose_table import COLUMNS, dose_table
from vtrial.doses import Dose, written_dose
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.inputs import dose_response, read_inputs
from vtrial.model_format import CurveShape
from vtrial.pairs import Rule, predict_pairs
from vtrial.posterior import Draws
from vtrial.predict import cells_of_arms, mouse_law, new_models, strengths
from vtrial.priors import load_priors
from vtrial.stopping import StoppingRule, features
from vtrial.twin import synthetic_twin

HEAD = "tumour_type,pdx_model,mouse,arm,day,volume_mm3"


def table(folder: Path, arms: dict[str, str], head: str = HEAD, more: dict[str, str] | None = None) -> Path:
    """Two rows a mouse; `more` holds what stands behind the volume."""
    lines = [head]
    for mouse, arm in arms.items():
        lines += [f"T1,M1,{mouse},{arm},{day},{200 + day}{(more or {}).get(mouse, '')}" for day in (0, 7)]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dose"),
    [
        ("vismodegib 0.3 mg/kg", Dose("vismodegib", 0.3, "mg/kg")),
        ("GDC-0084 10 mg/kg", Dose("GDC-0084", 10.0, "mg/kg")),
        ("erlotinib 6.25 mg/kg (low)", Dose("erlotinib", 6.25, "mg/kg")),
        ("X 2e2 ug", Dose("X", 200.0, "ug")),
        ("a drug 5mg/m2", Dose("a drug", 5.0, "mg/m2")),
        ("radiation 2 Gy", Dose("radiation", 2.0, "Gy")),
        ("compound 7", None),
        ("gemcitabine-50mpk", None),
        ("compound 7 analogue", None),
        ("25 mg/kg", None),
    ],
)
def test_a_dose_stands_behind_its_drug(name: str, dose: Dose | None):
    assert written_dose(name) == dose


@pytest.mark.parametrize("name", ["A 0 mg/kg", "A -5 mg", "A 0,3 mg/kg", "A 1.2.3 mg"])
def test_a_dose_that_is_none_is_refused(name: str):
    with pytest.raises(InputError, match="the dose of"):
        written_dose(name)


def test_arms_with_doses_are_drugs_at_doses(tmp_path):
    arms = {
        "c": "untreated",
        "a": "A 10 mg/kg",
        "b": "a 2.50 mg/kg (low)",
        "ab": "A 10.0 mg/kg + B",
        "x": "old A 40 mg/kg",
    }
    path = table(tmp_path, arms)
    read = read_dataset(path, doses=True, aliases={"old A": "A"})
    assert read.substances == ("A", "B") and read.drugs == ("A 10 mg/kg", "A 2.5 mg/kg", "A 40 mg/kg", "B")
    assert read.arms["A 10.0 mg/kg + B"] == ("A 10 mg/kg", "B") and read.arms["a 2.50 mg/kg (low)"] == ("A 2.5 mg/kg",)
    assert read.doses["A 2.5 mg/kg"] == Dose("A", 2.5, "mg/kg") and "B" not in read.doses
    assert "doses of A: 2.5, 10, 40 mg/kg" in read.notes
    assert read.arm_drugs("b + a 10 mg/kg") == ("A 10 mg/kg", "B")
    assert read.dose("old a 17 mg/kg") == Dose("A", 17.0, "mg/kg") and read.dose("B") is None and read.dose("A") is None
    with pytest.raises(InputError, match="must be in mg/kg"):
        read.dose("A 17 mg")
    # without doses every one is a drug of its own, as it is written
    plain = read_dataset(path)
    assert (
        plain.drugs == ("A 10 mg/kg", "A 10.0 mg/kg", "B", "a 2.50 mg/kg (low)", "old A 40 mg/kg") and not plain.doses
    )


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": "A 10 mg/kg", "b": "A"}, r"table.csv:6: arm: 'A' names no dose of A, and other arms do"),
        ({"a": "A 10 mg/kg", "b": "A 1 mg"}, r":6: arm: 'A 1 mg': the doses of A must have one unit.*'mg/kg'"),
        ({"a": "A 10 mg/kg + A 1 mg/kg"}, r":4: arm: 'A 10 mg/kg \+ A 1 mg/kg' names a drug twice"),
        ({"a": "A -10 mg/kg"}, r":4: arm: the dose of 'A -10 mg/kg' must be above 0"),
    ],
)
def test_arms_whose_doses_do_not_fit_are_refused(tmp_path, arms, said):
    with pytest.raises(InputError, match=said):
        read_dataset(table(tmp_path, {"c": "untreated", **arms}), doses=True)


ARMS = {"c": "untreated", "a": "A", "b": "A", "ab": "vehicle + A + B"}
DOSED = f"{HEAD},mg"


def test_doses_of_columns_go_behind_their_drugs(tmp_path):
    path = table(tmp_path, ARMS, f"{HEAD},mg,B dose", {"c": ",,", "a": ",10,", "b": ",2.5,0", "ab": ",10,3"})
    columns = {"A": "mg", "b": "B dose"}
    read = read_dataset(path, doses=True, dose_columns=columns, control=["untreated", "vehicle"])
    assert read.arms == {
        "untreated": (),
        "A 10 mg/kg": ("A 10 mg/kg",),
        "A 2.5 mg/kg": ("A 2.5 mg/kg",),
        "vehicle + A 10 mg/kg + B 3 mg/kg": ("A 10 mg/kg", "B 3 mg/kg"),
    }
    assert list(read.table["arm"].unique()) == list(read.arms)
    alone = read_dataset(path, dose_columns=columns, dose_unit="mg", control=["untreated", "vehicle"])
    assert alone.drugs == ("A 10 mg", "A 2.5 mg", "B 3 mg") and not alone.doses


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("-10", r"table.csv:4: mg: a dose is above 0, found -10"),
        ("0", r":4: mg: a dose is above 0, found 0"),
        ("high", r":4: mg: 'high' is not a dose: a number is needed"),
        ("", r":4: mg: the dose of A is missing in the arm 'A'"),
        ("inf", r":4: mg: a dose is above 0, found inf"),
    ],
)
def test_columns_of_doses_that_do_not_fit_are_refused(tmp_path, cell, said):
    path = table(tmp_path, {"c": "untreated", "a": "A", "b": "A"}, DOSED, {"c": ",", "a": f",{cell}", "b": ",10"})
    with pytest.raises(InputError, match=said):
        read_dataset(path, doses=True, dose_columns={"A": "mg"})


def test_a_dose_of_nothing_that_was_given_is_refused(tmp_path):
    path = table(tmp_path, {"c": "untreated", "a": "A"}, DOSED, {"c": ",5", "a": ",10"})
    with pytest.raises(InputError, match=r":2: mg: 5 is a dose of A, which is not in the arm 'untreated'"):
        read_dataset(path, doses=True, dose_columns={"A": "mg"})
    with pytest.raises(InputError, match=r"data.dose_columns.C: no arm has the drug 'C'.* Drugs of the table: A"):
        read_dataset(path, doses=True, dose_columns={"C": "mg"})
    with pytest.raises(InputError, match=r":1: data.dose_columns.A: the table has no column 'mgs'. Did you mean 'mg'"):
        read_dataset(path, doses=True, dose_columns={"A": "mgs"})


def test_a_unit_does_not_cut_the_names_of_arms(tmp_path):
    path = table(tmp_path, {"c": "untreated", "a": "A / B"}, DOSED, {"c": ",", "a": ",10"})
    with pytest.raises(InputError, match=r"data.dose_unit: 'mg/kg' holds the separator of arms, ' / '"):
        read_dataset(path, doses=True, dose_columns={"A": "mg"}, separator=" / ")
    read = read_dataset(path, doses=True, dose_columns={"A": "mg"}, separator=" / ", dose_unit="mpk")
    assert read.arms["A 10 mpk / B"] == ("A 10 mpk", "B")


def test_a_mouse_has_one_dose(tmp_path):
    path = table(tmp_path, {"c": "untreated", "a": "A"}, DOSED, {"c": ",", "a": ",10"})
    path.write_text(path.read_text().replace("A,7,207,10", "A,7,207,20"))
    with pytest.raises(InputError, match=r":5: .*'a' has the arm 'A 20 mg/kg' here and 'A 10 mg/kg' on line 4"):
        read_dataset(path, doses=True, dose_columns={"A": "mg"})


def test_an_excluded_row_needs_no_dose(tmp_path):
    more = {"c": ",,", "a": ",10,", "b": ",,lost"}
    path = table(tmp_path, {"c": "untreated", "a": "A", "b": "A"}, f"{HEAD},mg,exclude", more)
    assert read_dataset(path, doses=True, dose_columns={"A": "mg"}).drugs == ("A 10 mg/kg",)


# --- settings -------------------------------------------------------------------------------------------------------

EXPERIMENT = "name: d\ndata: {path: table.csv, source: made up}\nfit: {drug_classes: {A: MEK}, dose_response: emax}\n"


def experiment(folder: Path, *sets: str):
    (folder / "d.yaml").write_text(EXPERIMENT)
    return load_experiment(folder / "d.yaml", sets)


def test_reference_doses_are_the_largest_unless_said(tmp_path):
    path = table(tmp_path, {"c": "untreated", "a": "A 10 mg/kg", "b": "A 40 mg/kg", "x": "trametinib 1 mg/kg"})
    read = read_dataset(path, doses=True)
    found = dose_response(experiment(tmp_path), read)
    assert found == ("emax", {"A": 40.0}), "a drug at one dose has no dose-response"
    said = dose_response(experiment(tmp_path, "fit.reference_doses={A: 20, trametinib: 1}"), read)
    assert said == ("emax", {"A": 20.0})
    with pytest.raises(InputError, match=r"fit.reference_doses.C: no dose of 'C' is in the table"):
        dose_response(experiment(tmp_path, "fit.reference_doses={C: 20}"), read)
    assert dose_response(experiment(tmp_path, "fit.dose_response=none"), read) is None


def test_a_dose_response_needs_two_doses(tmp_path):
    table(tmp_path, {"c": "untreated", "a": "A 10 mg/kg"})
    with pytest.raises(InputError, match=r"d.yaml: fit.dose_response: needs a drug at two doses.*only A 10 mg/kg"):
        read_inputs(experiment(tmp_path))
    table(tmp_path, {"c": "untreated", "a": "A"})
    with pytest.raises(InputError, match=r"needs a drug at two doses; the table has none, such as"):
        read_inputs(experiment(tmp_path))


def test_a_fit_without_doses_keeps_its_key_and_its_classes(tmp_path):
    """Only a fit with a dose-response is of other settings; each dose a drug of its own, it is of the drug's class."""
    table(tmp_path, {"c": "untreated", "a": "A 10 mg/kg", "b": "A 40 mg/kg", "t": "trametinib 1 mg/kg"})
    with pytest.raises(InputError, match="unknown drug 'trametinib 1 mg/kg'"):
        read_inputs(experiment(tmp_path, "fit.dose_response=none"))
    classes = "fit.drug_classes={A: MEK, trametinib: RAF/MEK}"
    none, unit = (
        read_inputs(experiment(tmp_path, "fit.dose_response=none", classes, *more))
        for more in ((), ("data.dose_unit=mg",))
    )
    assert none.fit_key == unit.fit_key != read_inputs(experiment(tmp_path, classes)).fit_key
    assert none.drug_class == {"A 10 mg/kg": "MEK", "A 40 mg/kg": "MEK", "trametinib 1 mg/kg": "RAF/MEK"}
    assert read_inputs(experiment(tmp_path)).drug_class == {"A": "MEK", "trametinib": "RAF/MEK"}
    keys = {read_inputs(experiment(tmp_path, one)).fit_key for one in ("fit.reference_doses={A: 10}", "fit.seed=1")}
    assert len(keys) == 2


# --- the laws -------------------------------------------------------------------------------------------------------


def test_emax_by_hand():
    """ED50 a quarter of the reference, steepness 2: x^2 / (x^2 + 1/16) over 16/17."""
    dose = np.array([0.0625, 0.25, 1.0, 4.0])
    found = strength("emax", np.log(dose), np.log(0.25), 2.0)
    np.testing.assert_allclose(found, dose**2 / (dose**2 + 1 / 16) * 17 / 16, rtol=1e-12)


def test_log_linear_by_hand():
    """1 + slope ln(dose / reference); below 0 none. The rounding moves it by at most 0.05 ln 2, at the corner."""
    ln_dose = np.array([-8.0, -4.0, -2.0, 0.0, 1.0])
    found = strength("log_linear", ln_dose, 0.25)
    assert found[3] == 1.0
    np.testing.assert_allclose(found, np.maximum(1 + 0.25 * ln_dose, 0.0), atol=ROUNDING * np.log(2) * (1 + 1e-6))
    np.testing.assert_allclose(found[[2, 4]], [0.5, 1.25], atol=1e-5)


@pytest.mark.parametrize(("law", "parameters"), [("emax", (-1.3, 1.7)), ("log_linear", (0.9,))])
def test_strengths_rise_with_the_dose_and_have_finite_slopes(law, parameters):
    """From far below to far above the reference, in double precision; JAX gives the numbers of NumPy."""
    ln_dose = np.linspace(-40, 10, 501)
    found = strength(law, ln_dose, *parameters)
    assert (np.diff(found) >= 0).all() and found[0] > 0
    with jax.enable_x64(True):
        again, slopes = jax.vmap(
            jax.value_and_grad(lambda u, *p: jnp.log(strength(law, u, *p, xp=jnp))),
            in_axes=(0, *(None for _ in parameters)),
        )(jnp.asarray(ln_dose), *parameters)
    np.testing.assert_allclose(np.exp(again), found, rtol=1e-10)
    assert np.isfinite(slopes).all()


# --- predictions ----------------------------------------------------------------------------------------------------

#: mouse -> type, model, arm, fraction of growth removed as the fit knows it
MICE = {
    "c1": ("T1", "M1", "untreated", 0.0),
    "a1": ("T1", "M1", "trametinib 1 mg/kg", 1.0),
    "b1": ("T1", "M1", "trametinib 3 mg/kg", 2.0),
    "c2": ("T1", "M2", "untreated", 0.0),
    "a2": ("T1", "M2", "trametinib 1 mg/kg", 2.0),
    "b2": ("T1", "M2", "BYL719", 0.0),
    "c3": ("T2", "M3", "untreated", 0.0),
    "a3": ("T2", "M3", "trametinib 3 mg/kg + BYL719", 2.0),
}


@pytest.fixture(scope="module")
def dosed(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("dosed") / "table.csv"
    lines = [f"study,{HEAD}"]
    for mouse, (kind, model, arm, _) in MICE.items():
        lines += [f"S,{kind},{model},{mouse},{arm},{day},200" for day in (0, 7, 14)]
    path.write_text("\n".join(lines))
    return read_dataset(path, doses=True)


def dosed_posterior(ed50: float = 3.0, **changes: float) -> xr.DataTree:
    """The reference is 3 mg/kg: with ED50 3 and steepness 1 strengths are 2 x / (x + 3), 0.5 at 1 mg/kg."""
    tree = posterior(**changes)
    values = tree["posterior"].to_dataset()
    shape = (*values["loss"].shape, 1)
    for name, value in (("ln_ed50", np.log(ed50 / 3)), ("hill", 1.0)):
        values[name] = (("chain", "draw", "dosed_drug"), np.full(shape, value))
    arm_type = [f"{arm} | {kind}" for arm in sorted({row[2] for row in MICE.values()}) for kind in ("T1", "T2")]
    of_arm = np.full((*shape[:2], len(arm_type)), values["ln_sigma_arm"].to_numpy().flat[0])
    values = values.drop_dims("arm_type").assign(ln_sigma_arm=(("chain", "draw", "arm_type"), of_arm))
    values = values.assign_coords(dosed_drug=["trametinib"], arm_type=arm_type)
    effect = np.broadcast_to([row[-1] for row in MICE.values()], (values.sizes["draw"], len(MICE)))
    cells = tree["cells"].to_dataset()[["index"]].assign(effect=(("cell_draw", "mouse"), effect))
    constant = xr.Dataset({"reference_dose": (("dosed_drug",), [3.0])}, coords={"dosed_drug": ["trametinib"]})
    cells = cells.assign_coords(mouse=[f"S/{mouse}" for mouse in MICE])
    found = xr.DataTree.from_dict({"posterior": values, "cells": cells, "constant_data": constant})
    found.attrs |= tree.attrs | {"dose_response": "emax"}
    return found


@pytest.fixture(scope="module")
def nobody_leaves() -> StoppingRule:
    size = features(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1)).shape[-1]
    return StoppingRule(jnp.zeros(size).at[0].set(-50.0), 3.0)


def predicted(tree, dataset, stopping, *rows: tuple[str, str, str], rule: Rule | None = None):
    found = predict_pairs(jax.random.key(1), tree, dataset, pairs_of(*rows), load_priors(()), stopping, rule=rule)
    return found.pairs


def test_a_pdx_model_is_predicted_at_other_doses_from_its_own_mice(dosed, nobody_leaves):
    """Twice the growth removed is a response, once is stasis: M2 had 2 at 1 mg/kg, so 4 at 3 and 0.4 at 0.16 mg/kg."""
    doses = ("1 mg/kg", "3 mg/kg", "100 mg/kg", "0.16 mg/kg")
    rows = [("T1", model, f"trametinib {dose}") for model in ("M1", "M2") for dose in doses]
    found = predicted(dosed_posterior(), dosed, nobody_leaves, *rows)
    assert found["probability"].tolist() == [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert found["in_sample"].tolist() == [True, True, False, False, True, False, False, False]


def test_a_drug_without_a_dose_is_at_its_reference_dose(dosed, nobody_leaves):
    rows = [("T1", "M1", "trametinib"), ("T1", "new", "trametinib"), ("T1", "new", "trametinib 1 mg/kg")]
    found = predicted(dosed_posterior(effect=[0.0, 1.8, 0.0]), dosed, nobody_leaves, *rows)
    assert found["probability"].tolist() == [1.0, 1.0, 0.0] and found["in_sample"].tolist() == [True, False, False]


def test_combinations_follow_the_rule_at_their_doses(dosed, nobody_leaves):
    """Gamma 3 goes with the strengths: a response at the reference dose, 1.5 at a third of it, 0.2 at a thirtieth."""
    rows = [("T1", "new", f"trametinib {dose} mg/kg + BYL719") for dose in (3, 0.1)]
    found = predicted(dosed_posterior(gamma=[3.0]), dosed, nobody_leaves, *rows)
    assert found["probability"].tolist() == [1.0, 0.0]
    rows = [("T2", "M3", "trametinib 3 mg/kg + BYL719")]
    assert predicted(dosed_posterior(), dosed, nobody_leaves, *rows)["probability"].tolist() == [1.0]
    assert predicted(dosed_posterior(), dosed, nobody_leaves, *rows, rule="fitted")["probability"].tolist() == [0.0]


def test_a_dose_in_another_unit_or_of_a_drug_at_one_dose_is_refused(dosed, nobody_leaves, tmp_path):
    with pytest.raises(InputError, match="must be in mg/kg"):
        predicted(dosed_posterior(), dosed, nobody_leaves, ("T1", "M1", "trametinib 3 mg"))
    one = read_dataset(table(tmp_path, {"c": "untreated", "a": "trametinib 1 mg/kg"}), doses=True)
    with pytest.raises(InputError, match="has one dose of trametinib and says nothing of another"):
        predicted(posterior(), one, nobody_leaves, ("T1", "M1", "trametinib 2 mg/kg"))


def test_drugs_of_the_experiment_alone_are_predicted_too(tmp_path, nobody_leaves):
    """A class in fit.drug_classes is all that is known of them; a drug of the priors keeps its own."""
    priors = load_priors(())
    more = priors.with_drugs({"drug-x": "RAF/MEK", "trametinib": "FAK"})
    assert more.drug_class("Drug X") == "RAF/MEK" and more.drug_class("trametinib") == "RAF/MEK"
    read = read_dataset(table(tmp_path, {"c": "untreated", "a": "trametinib"}))
    tree, rows = posterior(effect_class=[0.0, 3.0]), pairs_of(("T1", "M1", "drug-x"))
    with pytest.raises(InputError, match="unknown drug 'drug-x'"):
        predict_pairs(jax.random.key(1), tree, read, rows, priors, nobody_leaves)
    assert predict_pairs(jax.random.key(1), tree, read, rows, more, nobody_leaves).pairs["probability"].tolist() == [
        1.0
    ]


def test_new_models_have_the_effect_of_their_dose(dosed):
    """No spread: effects 2 x / (x + 3) of 0.8, and in a combination with a drug without effect the same, plus gamma."""
    tree = dosed_posterior(effect=[0.0, 0.8, 0.8], gamma=[0.1])
    draws = Draws(tree, 1)
    arms = pairs_of(*((kind, "", arm) for kind, _, arm, effect in MICE.values() if effect))
    arms = arms.drop_duplicates(["tumour_type", "arm"]).assign(num_models=1)
    classes = {"trametinib": "RAF/MEK", "BYL719": "PI3K"}
    names = draws.labels("drug_type")
    assert "BYL719 | T2" not in names
    arms = arms.assign(tumour_type="T1")
    cells = cells_of_arms(arms, dosed, draws, classes)
    scale = strengths(arms, dosed, draws, 2)
    np.testing.assert_allclose(scale[0], [[0.5, 1.0], [1.0, 1.0], [1.0, 1.0]])
    law = jax.tree.map(lambda x: x[0], mouse_law(draws)._replace(strength=jnp.asarray(scale, jnp.float32)))
    _, effect = new_models(jax.random.key(0), law, cells, jnp.arange(3))
    # the rounding of the rule takes off 0.8 / (exp(0.8 / 0.05) + 1), 1e-7
    np.testing.assert_allclose(effect, [0.4, 0.8, 0.9], atol=2e-5)


def test_a_twin_has_the_doses_of_the_panel(tmp_path):
    """Rates of ln volume: all the growth without effect, none at the reference, half of it at an effect of a half."""
    lines = [HEAD]
    for i in range(40):
        lines += [
            f"T1,X{i},{i}-{arm},{arm},{day},200"
            for arm in ("untreated", "trametinib 1 mg/kg", "trametinib 3 mg/kg")
            for day in (0, 7)
        ]
    (tmp_path / "panel.csv").write_text("\n".join(lines) + "\n")
    dataset = read_dataset(tmp_path / "panel.csv", doses=True)
    size = features(np.zeros(1), np.zeros(1), np.zeros(1), xp=np).shape[-1]
    never = StoppingRule(jnp.zeros(size).at[0].set(-50.0), 4.0)
    draws = Draws(dosed_posterior(effect=[0.0, 1.0, 1.0]), 1)
    twin = synthetic_twin(jax.random.key(0), draws, dataset, never, shape=CurveShape(), min_models=2)
    for arm, share in (("untreated", 1.0), ("trametinib 1 mg/kg", 0.5), ("trametinib 3 mg/kg", 0.0)):
        volume = twin[(twin["arm"] == arm) & (twin["day"] == 20)]["volume_mm3"]
        # growth exp(-2.3) a day without noise; volumes are written to 0.1 mm3 of at least 200
        np.testing.assert_allclose(np.log(volume), 5.3 + 20 * np.exp(-2.3) * share, atol=1e-3)


# --- dose_response.csv ----------------------------------------------------------------------------------------------


def test_the_table_of_doses_by_hand(dosed):
    tree = dosed_posterior(effect=[0.0, 0.8, 1.2])
    values = tree["posterior"].to_dataset()
    site = np.full((*values["loss"].shape, 1), 1.6)
    values["effect_site"] = (("chain", "draw", "pdx_model_drug"), site)
    tree["posterior"] = values.assign_coords(pdx_model_drug=["M1 | trametinib"])
    found = dose_table(tree, dosed)
    assert tuple(found.columns) == COLUMNS
    named = found[["tumour_type", "pdx_model", "dose", "num_mice", "is_reference"]].to_numpy().tolist()
    assert named == [
        ["T1", "", 1.0, 2, False], ["T1", "", 3.0, 1, True],
        ["T1", "M1", 1.0, 1, False], ["T1", "M1", 3.0, 1, True],
        ["T2", "", 3.0, 0, True],
    ]  # fmt: skip
    assert set(found["drug"]) == {"trametinib"} and set(found["unit"]) == {"mg/kg"}
    np.testing.assert_allclose(found["strength_mean"], [0.5, 1.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(found["effect_q95"], [0.4, 0.8, 0.8, 1.6, 1.2])
    np.testing.assert_allclose(found[["ed50_q05", "ed50_q50", "ed50_q95"]], 3.0)
