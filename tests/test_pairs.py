"""Pairs of a PDX model and an arm: what the fit knows of the model goes in, and the rest comes from the population."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vtrial.crossvalidation import folds_of
from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.pairs import arm_table, observed_pairs, predict_pairs, read_pairs
from vtrial.priors import Priors, load_priors
from vtrial.stopping import StoppingRule, features

DRAWS = 60
#: mouse -> type, model, arm, fraction of growth removed as the fit knows it
MICE = {
    "c1": ("T1", "M1", "untreated", 0.0),
    "c2": ("T1", "M2", "untreated", 0.0),
    "c3": ("T2", "M3", "untreated", 0.0),
    "a1": ("T1", "M1", "trametinib", 3.0),
    "a2": ("T1", "M2", "trametinib", 0.0),
    "b2": ("T1", "M2", "BYL719", 0.0),
    "d1": ("T1", "M1", "BYL719 + trametinib", 0.0),
    "a3": ("T2", "M3", "trametinib", 3.0),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("pairs") / "table.csv"
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for mouse, (kind, model, arm, effect) in MICE.items():
        lines += [
            f"S,{kind},{model},{mouse},{arm},{day},{200 * np.exp(0.1 * (1 - effect) * day)}" for day in (0, 7, 14)
        ]
    path.write_text("\n".join(lines))
    return read_dataset(path, aliases={"my drug": "BYL719"})


@pytest.fixture(scope="module")
def priors() -> Priors:
    return load_priors(())


@pytest.fixture(scope="module")
def nobody_leaves() -> StoppingRule:
    size = features(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1)).shape[-1]
    return StoppingRule(jnp.zeros(size).at[0].set(-50.0), 3.0)


def posterior(**changes: float) -> xr.DataTree:
    """All draws alike, no spread anywhere: every response is certain."""
    values = {
        "mu_ln_growth": -2.3, "omega_ln_growth_type": 0.0,
        "ln_growth_type": [-2.3, -2.3], "omega_ln_growth": [0.0, 0.0],
        "mu_effect": 0.0, "omega_effect_class": 0.0, "omega_effect_drug": 0.0, "omega_effect_type": 0.0,
        "effect_class": [0.0, 0.0], "effect_drug": [0.0, 0.0], "effect": [0.0, 0.0, 0.0],
        "omega_effect": [1e-6, 1e-6, 1e-6], "mu_ln_omega_effect": -15.0, "omega_ln_omega_effect": 0.0,
        "mu_intercept": 5.3, "omega_intercept": 0.0, "omega_mouse": 0.0, "omega_curvature": 0.0,
        "curvature_correlation": 0.0, "loss": 0.0, "omega_loss": 0.0, "loss_drug_type": [0.0] * 3,
        "slowing": 0.0, "mu_ln_sigma": -15.0, "omega_ln_sigma": 0.0,
        "omega_ln_sigma_type": 0.0, "omega_ln_sigma_arm": 0.0, "ln_sigma_type": [-15.0, -15.0],
        "ln_sigma_arm": [-15.0, -15.0, -15.0],
        "mu_phi": 0.0, "omega_phi": 0.0, "mu_gamma": 0.0, "omega_gamma": 0.0, "omega_combination": 0.0,
        "phi": [0.0], "gamma": [0.0], "ln_growth": [-2.3, -2.3, -2.3],
    } | changes  # fmt: skip
    labels = {
        "tumour_type": ["T1", "T2"],
        "drug": ["BYL719", "trametinib"],
        "drug_class": ["PI3K", "RAF/MEK"],
        "drug_type": ["BYL719 | T1", "trametinib | T1", "trametinib | T2"],
        "class_pair": ["PI3K x RAF/MEK"],
        "pdx_model": ["M1", "M2", "M3"],
        "arm_type": ["BYL719 | T1", "trametinib | T1", "trametinib | T2"],
    }
    dims = {"ln_growth_type": "tumour_type", "omega_ln_growth": "tumour_type", "effect_class": "drug_class"}
    dims |= {"effect_drug": "drug", "effect": "drug_type", "omega_effect": "drug_type", "ln_growth": "pdx_model"}
    dims |= {"loss_drug_type": "drug_type"}
    dims |= {
        "ln_sigma_type": "tumour_type",
        "ln_sigma_arm": "arm_type",
        "phi": "class_pair",
        "gamma": "class_pair",
        "responder": "pdx_model",
    }
    variables = {
        name: (
            ("chain", "draw", *((dims[name],) if name in dims else ())),
            np.broadcast_to(np.asarray(value, float), (1, DRAWS, *np.shape(value))),
        )
        for name, value in values.items()
    }
    keys = [f"S/{mouse}" for mouse in MICE]
    effect = np.broadcast_to([e for *_, e in MICE.values()], (DRAWS, len(MICE)))
    cells = xr.Dataset(
        {"index": (("cell_draw",), np.arange(DRAWS)), "effect": (("cell_draw", "mouse"), effect)},
        coords={"mouse": keys},
    )
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(variables, coords=labels), "cells": cells})
    tree.attrs |= CurveShape()._asdict()
    return tree


def pairs_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["tumour_type", "pdx_model", "arm"])


def predict(tree, dataset, priors, stopping, *rows, rule=None):
    found = predict_pairs(jax.random.key(1), tree, dataset, pairs_of(*rows), priors, stopping, rule=rule)
    return found.pairs.set_index(["pdx_model", "arm"])


def test_mouse_keys_are_those_of_the_table(dataset):
    assert set(dataset.used["mouse_key"]) == {f"S/{mouse}" for mouse in MICE}


def test_what_the_fit_knows_of_a_model_decides(dataset, priors, nobody_leaves):
    """M1 responds to trametinib and M2 does not, at one population mean; a new model follows the population."""
    rows = [("T1", "M1", "trametinib"), ("T1", "M2", "trametinib"), ("T1", "new", "trametinib")]
    found = predict(posterior(), dataset, priors, nobody_leaves, *rows)
    assert found["probability"].tolist() == [1.0, 0.0, 0.0]
    assert found["in_sample"].tolist() == [True, True, False]
    strong = predict(posterior(effect=[0.0, 3.0, 0.0]), dataset, priors, nobody_leaves, *rows)
    assert strong["probability"].tolist() == [1.0, 0.0, 1.0]


@pytest.fixture
def spied(monkeypatch) -> dict[str, list[np.ndarray]]:
    """What the new mice are given [D, pairs], one entry a prediction, in the place of their simulation."""
    given: dict[str, list[np.ndarray]] = {"loss": [], "ln_sigma": []}

    def respond(key, laws, growth, effect, loss, ln_sigma, stopping, *, shape):
        given["loss"].append(np.asarray(loss))
        given["ln_sigma"].append(np.asarray(ln_sigma))
        return jnp.zeros((DRAWS, 1, loss.shape[1]), bool)

    monkeypatch.setattr("vtrial.pairs._respond", respond)
    return given


def test_residuals_are_those_of_the_arm_or_about_those_of_the_type(dataset, priors, nobody_leaves, spied):
    """An arm that the fit has in that type has its own; another that of the type, with the spread of arms."""
    given = spied["ln_sigma"]
    scales = {"ln_sigma_arm": [-1.0, -2.0, -3.0], "ln_sigma_type": [-1.5, -2.5], "mu_ln_sigma": -4.0}
    rows = [("T1", "M1", "trametinib"), ("T2", "M3", "trametinib"), ("T2", "M3", "BYL719"), ("T3", "new", "trametinib")]
    predict(posterior(**scales), dataset, priors, nobody_leaves, *rows)
    np.testing.assert_allclose(given[0], np.broadcast_to([-2.0, -3.0, -2.5, -4.0], (DRAWS, 4)), rtol=1e-6)
    predict(posterior(**scales, omega_ln_sigma_arm=0.3), dataset, priors, nobody_leaves, *rows, rows[2])
    np.testing.assert_allclose(given[1][:, :2], np.broadcast_to([-2.0, -3.0], (DRAWS, 2)), rtol=1e-6)
    own = given[1][:, 2] + 2.5
    assert abs(own.mean()) < 5 * 0.3 / np.sqrt(DRAWS) and abs(own.std() / 0.3 - 1) < 5 / np.sqrt(2 * DRAWS)
    np.testing.assert_array_equal(given[1][:, 2], given[1][:, 4])
    # two arms that a type never had are two draws; those of a type that the fit never had share the type's
    rows = [
        ("T2", "M3", "BYL719"),
        ("T2", "M3", "BYL719 + trametinib"),
        ("T3", "n", "BYL719"),
        ("T3", "n", "trametinib"),
    ]
    predict(posterior(**scales, omega_ln_sigma_arm=0.3), dataset, priors, nobody_leaves, *rows)
    predict(posterior(**scales, omega_ln_sigma_type=0.5), dataset, priors, nobody_leaves, *rows)
    assert abs(np.corrcoef(given[2][:, :2].T)[0, 1]) < 5 / np.sqrt(DRAWS)
    np.testing.assert_array_equal(given[3][:, 2], given[3][:, 3])
    assert abs(given[3][:, 2].std() / 0.5 - 1) < 5 / np.sqrt(2 * DRAWS) and np.all(given[3][:, :2] == np.float32(-2.5))


def test_what_is_lost_is_that_of_the_drugs_of_the_arm(dataset, priors, nobody_leaves, spied):
    """As fitted where the fit has the drug in that type, else about the mean of all; combined by effect."""
    given = spied["loss"]
    lost = {"loss_drug_type": [0.2, 0.6, 0.9], "loss": 0.5, "effect": [0.12, 0.0, 0.0]}
    by_effect = (0.13 * 0.2 + 0.05 * 0.6) / 0.18  # 5, 12, 13; no effect weighs 0.05
    rows = [("T1", "M1", "trametinib"), ("T2", "M3", "trametinib"), ("T1", "M1", "BYL719 + trametinib")]
    rows += [("T2", "M3", "BYL719"), ("T3", "new", "trametinib"), ("T2", "M3", "BYL719 + trametinib")]
    predict(posterior(**lost), dataset, priors, nobody_leaves, *rows)
    np.testing.assert_allclose(given[0], np.broadcast_to([0.6, 0.9, by_effect, 0.5, 0.5, 0.7], (DRAWS, 6)), rtol=1e-6)
    predict(posterior(**lost, omega_loss=0.1), dataset, priors, nobody_leaves, *rows)
    np.testing.assert_allclose(given[1][:, :3], given[0][:, :3], rtol=1e-6)
    for own in (given[1][:, 3], given[1][:, 4]):
        assert abs(own.mean() - 0.5) < 5 * 0.1 / np.sqrt(DRAWS) and abs(own.std() / 0.1 - 1) < 5 / np.sqrt(2 * DRAWS)
    np.testing.assert_allclose(given[1][:, 5], (given[1][:, 3] + 0.9) / 2, rtol=1e-5)


def test_controls_of_two_names_have_their_own_residuals(tmp_path, priors, nobody_leaves, spied):
    given = spied["ln_sigma"]
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for arm in ("vehicle", "BYL719", "untreated"):
        lines += [f"S,T1,M1,{arm},{arm},{day},200" for day in (0, 7, 14)]
    path = tmp_path / "controls.csv"
    path.write_text("\n".join(lines))
    table = read_dataset(path, control=("untreated", "vehicle"))
    tree = posterior()
    values = tree["posterior"].to_dataset().assign_coords(arm_type=["BYL719 | T1", "untreated | T1", "vehicle | T1"])
    values["ln_sigma_arm"] = values["ln_sigma_arm"] * 0.0 + np.array([-1.0, -2.0, -3.0])
    tree["posterior"] = values
    predict(tree, table, priors, nobody_leaves, ("T1", "M1", "vehicle"), ("T1", "M1", "untreated"))
    assert given[0][0].tolist() == [-3.0, -2.0]


def test_an_unseen_combination_follows_its_rule(dataset, priors, nobody_leaves):
    """M2 had both drugs alone without effect: gamma alone makes it respond. M3 never had BYL719."""
    rows = [("T1", "M2", "trametinib + BYL719"), ("T2", "M3", "BYL719 + trametinib"), ("T1", "M2", "untreated")]
    none = predict(posterior(), dataset, priors, nobody_leaves, *rows)
    assert none["probability"].tolist() == [0.0, 1.0, 0.0] and not none["in_sample"].any()
    helped = predict(posterior(gamma=[3.0]), dataset, priors, nobody_leaves, *rows)
    assert helped["probability"].tolist() == [1.0, 1.0, 0.0]


def test_a_combination_that_the_model_had_is_as_fitted(dataset, priors, nobody_leaves):
    """M1 alone responds to trametinib, but its mouse under both drugs did not: that mouse counts, not the rule."""
    rows = [("T1", "M1", f"{name} + trametinib") for name in ("BYL719", "my drug", "alpelisib")]
    found = predict(posterior(), dataset, priors, nobody_leaves, *rows)
    assert found["probability"].tolist() == [0.0] * 3 and found["in_sample"].all()
    # the rule alone: the stronger drug leads, to which M1 responds; what M1 shows under one drug stays as fitted
    rows += [("T1", "M1", "trametinib"), ("T1", "M2", "trametinib")]
    ruled = predict(posterior(), dataset, priors, nobody_leaves, *rows, rule="fitted")
    assert ruled["probability"].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0] and ruled["in_sample"].all()


def test_the_fixed_rules_are_their_definitions(dataset, priors, nobody_leaves, monkeypatch):
    """BYL719 has 0.9, trametinib 3.0 in M1 and 0.6 in a new model. No fixed rule knows of phi, gamma, or a spread."""
    given = {}

    def respond(key, laws, growth, effect, loss, ln_sigma, stopping, *, shape):
        given.update(effect=np.asarray(effect), loss=np.asarray(loss), ln_sigma=np.asarray(ln_sigma))
        return jnp.asarray(effect[:, None] > 0.8)

    monkeypatch.setattr("vtrial.pairs._respond", respond)
    fitted = {"phi": [0.7], "gamma": [0.4], "omega_combination": 0.3, "loss_drug_type": [0.2, 0.6, 0.9]}
    tree = posterior(**fitted, effect=[0.9, 0.6, 0.0], ln_sigma_arm=[-1.0, -2.0, -3.0])
    both = "BYL719 + trametinib"
    rows = [("T1", "M1", both), ("T1", "new", both), ("T1", "new", "trametinib"), ("T1", "M1", "untreated")]
    found = predict(tree, dataset, priors, nobody_leaves, *rows, rule="hsa")
    of_mice = [3.0, 0.9, 0.6, 0.0]
    np.testing.assert_allclose(given["effect"], np.broadcast_to(of_mice, (DRAWS, 4)), atol=1e-4)
    np.testing.assert_allclose(given["loss"], np.broadcast_to([0.6, 0.2, 0.6, 0.0], (DRAWS, 4)), rtol=1e-6)
    assert found["in_sample"].tolist() == [True, False, False, False]
    predict(tree, dataset, priors, nobody_leaves, *rows, rule="bliss")
    of_mice = [3.9, 1.5, 0.6, 0.0]
    np.testing.assert_allclose(given["effect"], np.broadcast_to(of_mice, (DRAWS, 4)), atol=1e-4)
    # one mouse for each drug of a combination, each with what its drug alone has; any of them makes the pair respond
    apart = predict(tree, dataset, priors, nobody_leaves, *rows, rule="independent")
    of_mice = [0.9, 3.0, 0.9, 0.6, 0.6, 0.0]
    np.testing.assert_allclose(given["effect"], np.broadcast_to(of_mice, (DRAWS, 6)), atol=1e-4)
    np.testing.assert_allclose(given["loss"][0], [0.2, 0.6, 0.2, 0.6, 0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(given["ln_sigma"][0, :5], [-1.0, -2.0, -1.0, -2.0, -2.0], rtol=1e-6)
    assert apart["probability"].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_a_drug_without_mice_comes_from_its_class(dataset, priors, nobody_leaves):
    rows = [("T1", "M1", "selumetinib"), ("T1", "M1", "paclitaxel")]
    found = predict(posterior(effect_class=[0.0, 3.0]), dataset, priors, nobody_leaves, *rows)
    assert found["probability"].tolist() == [1.0, 0.0]


def test_an_unknown_drug_is_refused(dataset, priors, nobody_leaves):
    with pytest.raises(InputError, match="trametinob"):
        predict(posterior(), dataset, priors, nobody_leaves, ("T1", "M1", "trametinob"))
    with pytest.raises(InputError, match="twice"):
        predict(posterior(), dataset, priors, nobody_leaves, ("T1", "M1", "BYL719 + alpelisib"))


def test_arm_table_by_hand():
    """Two draws of one mouse each: fractions 1/2 and 1 of the first arm, 0 and 0 of the second."""
    pairs = pairs_of(("T", "M1", "A"), ("T", "M2", "A"), ("T", "M1", "B")).assign(in_sample=[False, True, False])
    responds = np.array([[[True, False, False]], [[True, True, False]]])
    table = arm_table(pairs, responds).set_index("arm")
    assert table["mean"].tolist() == [0.75, 0.0] and table["num_models"].tolist() == [2, 1]
    # mid-distribution: 1/4 at one half, 3/4 at one; beyond them the atoms themselves
    assert table.loc["A", "q05"] == 0.5 and table.loc["A", "q95"] == 1.0
    assert table["in_sample"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tumour_type,pdx_model\nT,M\n", "arm: column missing"),
        ("tumour_type,pdx_model,arm\nT,M,A\nT,,A\n", "3: pdx_model: must not be empty"),
        ("tumour_type,pdx_model,arm\nT,M,A\nT,N,A\nT,M,A\n", "4: this pair stands twice"),
        ("tumour_type,pdx_model,arm\n", "has a header but no rows"),
    ],
)
def test_bad_pairs(tmp_path: Path, text: str, fault: str):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=fault):
        read_pairs(file)


def left_out(dataset: Dataset, leave, folds: int = 2) -> Mapping[str, tuple[set, set]]:
    """Fold -> (mice that stay, pairs to predict)."""
    return {
        fold.name: (
            {key.removeprefix("S/") for key in fold.dataset.used["mouse_key"]},
            set(zip(fold.pairs["pdx_model"], fold.pairs["arm"], strict=True)),
        )
        for fold in folds_of(dataset, leave, folds)
    }


def test_combinations_leave_and_single_agents_stay(dataset):
    found = left_out(dataset, "combinations-by-type")
    assert found == {"combinations-T1": (set(MICE) - {"d1"}, {("M1", "BYL719 + trametinib")})}


def test_every_pdx_model_leaves_once_with_its_control(dataset):
    found = left_out(dataset, "pdx-models", 3)
    assert len(found) == 3
    gone = [set(MICE) - stay for stay, _ in found.values()]
    assert set.union(*gone) == set(MICE) and sum(map(len, gone)) == len(MICE)
    for mice, (_, pairs) in zip(gone, found.values(), strict=True):
        assert {MICE[mouse][1] for mouse in mice} == {model for model, _ in pairs}
        assert all(arm != "untreated" for _, arm in pairs)


def test_folds_that_cannot_be(dataset):
    with pytest.raises(InputError, match="between 2 and the number of PDX models, 3; found 9"):
        left_out(dataset, "pdx-models", 9)


def test_observed_pairs_are_one_row_a_mouse(dataset):
    table = observed_pairs(dataset, pairs_of(("T1", "M1", "trametinib"), ("T1", "M9", "trametinib")))
    assert table[["pdx_model", "responds"]].to_dict("list") == {"pdx_model": ["M1"], "responds": [True]}
