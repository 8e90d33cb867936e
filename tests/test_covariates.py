"""Covariates of PDX models: the table, new mice, known models, patients' subgroups, and one that is found again."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from tests.test_pairs import pairs_of, posterior
from vtrial.config import Cohort, FitConfig, Visits
from vtrial.covariates import covariate_values
from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.inference import fit
from vtrial.inputs import covariate_priors, read_inputs
from vtrial.loo import left_out_density
from vtrial.model import arrays_of, build_model
from vtrial.model_format import PRIORS, CurveShape
from vtrial.pairs import predict_pairs
from vtrial.panel import build_panel
from vtrial.posterior import Draws
from vtrial.predict import cells_of_arms, mouse_law, new_models, with_covariates
from vtrial.priors import load_priors
from vtrial.stopping import StoppingRule, features
from vtrial.translation import PriorSampler, plan_cohort
from vtrial.twin import synthetic_twin

HEAD = "study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"
#: PDX model -> tumour type, KRAS
MODELS = {"M1": ("T1", 1), "M2": ("T1", 0), "M3": ("T2", 1), "M4": ("T2", 0), "M5": ("T2", 0), "M6": ("T2", 0)}


def write(folder: Path, kras=None, arms=("untreated", "trametinib"), head: str = f"{HEAD},KRAS") -> Path:
    """A mouse of every PDX model under each arm, two rows each; `kras` gives models another value."""
    lines = [head]
    for model, (kind, value) in MODELS.items():
        value = (kras or {}).get(model, value)
        for arm in arms:
            lines += [f"S,{kind},{model},{model}-{arm},{arm},{day},{200 + day},{value}" for day in (0, 7)]
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kras", "said"),
    [
        ({"M2": ""}, r"table.csv:6: KRAS: PDX model 'M2' has no value: a covariate of a fit is a number.*\(3 more"),
        ({"M2": "mutant"}, r":6: KRAS: PDX model 'M2' has 'mutant': a covariate of a fit is a number, such as 0 or 1"),
        ({"M2": "inf"}, r":6: KRAS: PDX model 'M2' has .*inf"),
        ({"M1": 0, "M3": 0}, r"table.csv: fit.covariates: 'KRAS' is the same for all PDX models"),
    ],
)
def test_covariates_that_do_not_serve_are_refused(tmp_path, kras, said):
    with pytest.raises(InputError, match=said):
        read_dataset(write(tmp_path, kras), covariates=["KRAS"])
    assert len(read_dataset(write(tmp_path, kras)).used) == 24, "without the setting the column is not looked at"


def test_a_covariate_is_one_number_for_a_model_and_a_column_of_its_own(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("M2-trametinib,trametinib,7,207,0", "M2-trametinib,trametinib,7,207,1"))
    with pytest.raises(InputError, match=r":9: KRAS: PDX model 'M2' has KRAS 1 here and 0 on line 6"):
        read_dataset(path, covariates=["KRAS"])
    with pytest.raises(InputError, match=r":1: fit.covariates: 'KRAS G12' is no covariate.* Did you mean 'KRAS'"):
        read_dataset(write(tmp_path), covariates=["KRAS G12"])
    for name in ("pdx_model", "day", "censored"):
        with pytest.raises(InputError, match="is no covariate of the table"):
            read_dataset(write(tmp_path), covariates=[name])


def test_excluded_rows_need_no_covariate(tmp_path):
    path = write(tmp_path, {"M6": ""})
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(f"{one},{'exclude' if i == 0 else 'lost' if ',M6,' in one else ''}" for i, one in enumerate(lines))
    )
    read = read_dataset(path, covariates=["KRAS"])
    assert covariate_values(read.table, ["KRAS"])["KRAS"].to_dict() == {
        m: MODELS[m][1] for m in ("M1", "M2", "M3", "M4", "M5")
    }


def test_the_fit_key_and_priors_know_of_covariates(tmp_path):
    write(tmp_path)
    (tmp_path / "e.yaml").write_text("name: e\ndata: {path: table.csv, source: made up}\n")

    def inputs(*sets):
        return read_inputs(load_experiment(tmp_path / "e.yaml", sets))

    with_kras, without = inputs("fit.covariates=[KRAS]"), inputs()
    assert with_kras.fit_key != without.fit_key
    assert covariate_priors(with_kras.experiment, with_kras.priors, ["FAK"]) == {
        "KRAS.FAK": "covariates.default.default"
    }
    (tmp_path / "p.yaml").write_text(
        "covariates:\n  KRAS:\n    RAF/MEK: {family: normal, parameters: {loc: 0.2, scale: 0.1}, unit: '1', "
        "source: made, certainty: assumed, note: n}\n    default: {family: halfnormal, "
        "parameters: {scale: 0.1}, unit: '1', source: made, certainty: assumed, note: n}\n"
    )
    own = inputs("fit.covariates=[KRAS]", "priors=[p.yaml]")
    assert own.fit_key != with_kras.fit_key and inputs("priors=[p.yaml]").fit_key == without.fit_key
    assert covariate_priors(own.experiment, own.priors, ["RAF/MEK"]) == {"KRAS.RAF/MEK": "covariates.KRAS.RAF/MEK"}
    with pytest.raises(InputError, match=r"covariates.KRAS.default: must be normal.*and is halfnormal"):
        covariate_priors(own.experiment, own.priors, ["FAK"])


# --- predictions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = write(tmp_path_factory.mktemp("covariates"), arms=("untreated", "trametinib", "trametinib + BYL719"))
    return read_dataset(path, covariates=["KRAS"])


BETA = 2.0


def learnt(**changes) -> xr.DataTree:
    """The fit knows M1 to M4 without a single effect: RAF/MEK gains 2 with KRAS, PI3K nothing."""
    tree = posterior(**changes)
    values = tree["posterior"].to_dataset()
    shape = (*values["loss"].shape, 2)
    values["covariate_effect"] = (("chain", "draw", "class_covariate"), np.broadcast_to([0.0, BETA], shape).copy())
    values = values.assign_coords(class_covariate=["PI3K | KRAS", "RAF/MEK | KRAS"])
    names = list(MODELS)[:4]
    constant = xr.Dataset(
        {
            "pdx_model_type": (("pdx_model",), [0, 0, 1, 1]),
            "covariate_value": (("pdx_model", "covariate"), [[1.0], [0.0], [1.0], [0.0]]),
            "covariate_mean": (("tumour_type", "covariate"), [[0.5], [0.5]]),
            "covariate_sd": (("tumour_type", "covariate"), [[0.5], [0.5]]),
        },
        coords={"pdx_model": names, "tumour_type": ["T1", "T2"], "covariate": ["KRAS"]},
    )
    cells = tree["cells"].to_dataset()
    found = xr.DataTree.from_dict({"posterior": values, "cells": cells, "constant_data": constant})
    found.attrs |= tree.attrs
    return found


def test_draws_know_the_covariates_of_the_fit():
    draws = Draws(learnt(), 3)
    assert draws.covariates == ("KRAS",) and Draws(posterior(), 3).covariates == ()
    np.testing.assert_allclose(draws.covariate_shift("RAF/MEK", np.array([0.5])), 1.0)
    np.testing.assert_allclose(draws.covariate_shift("FAK", np.array([0.5])), 0.0)
    np.testing.assert_allclose(draws.covariate_spread("RAF/MEK", "T1", ()), 0.5 * BETA)
    np.testing.assert_allclose(draws.covariate_spread("RAF/MEK", "elsewhere", ()), 0.5 * BETA)
    np.testing.assert_allclose(draws.covariate_spread("RAF/MEK", "T1", ("KRAS",)), 0.0)
    np.testing.assert_allclose(draws.centred_covariates("T2"), [[0.5], [-0.5]])
    assert draws.centred_covariates("elsewhere").shape == (0, 1)


def test_new_models_have_the_covariates_of_those_under_the_arm(dataset):
    """Of T1 one in two has KRAS, of T2 one in four, all from a mean of 0.5 that the fit has: effects 2 (x - 0.5)."""
    draws = Draws(learnt(effect=[0.0, 0.8, 0.8], phi=[0.0]), 1)
    arms = pairs_of(("T1", "", "trametinib"), ("T2", "", "trametinib")).assign(num_models=[2, 4])
    classes = {"trametinib": "RAF/MEK", "BYL719": "PI3K"}
    law, cells = with_covariates(
        mouse_law(draws), cells_of_arms(arms, dataset, draws, classes), arms, dataset, draws, classes
    )
    law = jax.tree.map(lambda x: x[0], law)
    _, effect = new_models(
        jax.random.key(0), law, cells, jnp.repeat(jnp.arange(2), jnp.asarray([2, 4]), total_repeat_length=6)
    )
    # omega is 1e-6, and float32 carries 1e-7 of a number of order 1
    np.testing.assert_allclose(effect, [1.8, -0.2, 1.8, -0.2, -0.2, -0.2], atol=2e-5)


@pytest.fixture(scope="module")
def nobody_leaves() -> StoppingRule:
    size = features(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1)).shape[-1]
    return StoppingRule(jnp.zeros(size).at[0].set(-50.0), 3.0)


def test_pairs_of_known_and_unknown_models(dataset, nobody_leaves):
    """Effect 1.5 on average: KRAS makes it 2.5, a response, or 0.5, none; M5 was left out of the fit, X is unknown."""
    rows = [("T2", model, "trametinib") for model in ("M3", "M4", "M5", "X")]
    found = predict_pairs(
        jax.random.key(1), learnt(effect=[0.0, 0.0, 1.5]), dataset, pairs_of(*rows), load_priors(()), nobody_leaves
    ).pairs
    # the mice of posterior() are not of this table: nothing is in sample
    assert not found["in_sample"].any()
    assert found["probability"].tolist()[:3] == [1.0, 0.0, 0.0]
    # of 60 draws about half have KRAS: within five SDs of Binomial(60, 0.5)
    assert abs(found["probability"].iloc[3] - 0.5) < 5 * 0.5 / np.sqrt(60)


def test_there_is_no_twin_of_a_fit_with_covariates(dataset, nobody_leaves):
    with pytest.raises(InputError, match="a fit with covariates \\(KRAS\\) has no twin"):
        synthetic_twin(jax.random.key(0), Draws(learnt(), 1), dataset, nobody_leaves, shape=CurveShape(), min_models=1)


# --- patients -------------------------------------------------------------------------------------------------------

GROUPS = {
    "mutant": {"prevalence": 0.25, "covariates": {"KRAS": 1}},
    "wild type": {"prevalence": 0.75, "covariates": {"KRAS": 0}},
}
DOSES = {"trametinib": {"dose": "2 mg", "repeat": "1 d"}}


def law_of(draws: Draws, subgroups=None):
    cohort = Cohort.model_validate(
        {"tumour_type": "T1", "subgroups": subgroups or {}, "arms": [{"name": "a", "drugs": DOSES}]}
    )
    key, visits = jax.random.key(0), Visits(every_days=56, until_days=112)
    return plan_cohort(key, cohort, visits, draws, load_priors(()), {}).law


def test_subgroups_of_patients_use_what_the_fit_has_learnt():
    """No prior speaks of KRAS: the posterior does, from its mean over PDX models, 1/2; spread less the covariate's."""
    draws = Draws(learnt(effect=[0.0, 0.8, 0.8], omega_effect=[0.3, 0.3, 0.3]), 20)
    split, whole = law_of(draws, GROUPS), law_of(draws)
    np.testing.assert_allclose(
        split.effect_mean[:, 0], np.broadcast_to([0.8 + 0.5 * BETA, 0.8 - 0.5 * BETA], (20, 2)), rtol=1e-6
    )
    np.testing.assert_allclose(whole.effect_mean[:, 0], 0.8, rtol=1e-6)
    np.testing.assert_allclose(split.effect_sd, 0.3, rtol=1e-6)
    np.testing.assert_allclose(whole.effect_sd, np.hypot(0.3, 0.5 * BETA), rtol=1e-6)
    chosen = law_of(draws, {"mutant": {"prevalence": 1.0, "covariates": {"KRAS": 1.0}}})
    np.testing.assert_allclose(chosen.effect_mean[:, 0], 0.8 + 0.5 * BETA, rtol=1e-6)
    with pytest.raises(InputError, match="no prior for covariate 'KRAS'"):
        law_of(Draws(posterior(), 20), GROUPS)


def test_a_class_that_the_fit_has_not_seen_keeps_its_prior():
    """kras_mutant of RAF/MEK inhibitors has a prior; a fit of it in another class does not change that."""
    groups = {
        name: {**group, "covariates": {"kras_mutant": group["covariates"]["KRAS"]}} for name, group in GROUPS.items()
    }
    tree = learnt()
    values = tree["posterior"].to_dataset().assign_coords(class_covariate=["PI3K | kras_mutant", "FAK | kras_mutant"])
    tree["posterior"] = values
    tree["constant_data"] = tree["constant_data"].to_dataset().assign_coords(covariate=["kras_mutant"])
    draws, size = Draws(tree, 60), 60
    shift = law_of(draws, groups).effect_mean[:, 0] @ np.array([1.0, -1.0])
    prior = PriorSampler(jax.random.key(0), load_priors(()), size).entry("covariates.kras_mutant.RAF/MEK")
    np.testing.assert_allclose(shift, prior, rtol=1e-5)


# --- recovery -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_effect_of_a_mutation_is_found_again(tmp_path):
    """48 PDX models of two types, a third of them mutant, under a drug that gains 0.6 and one that loses 0.4."""
    rng = np.random.default_rng(4)
    day, lines = np.arange(0.0, 29.0, 4.0), [f"{HEAD},KRAS"]
    for m in range(48):
        kind, mutant = ("T1", "T2")[m % 2], int(m % 3 == 0)
        growth = np.exp(-2.7 + 0.3 * rng.normal())
        effects = {"untreated": 0.0, "A": 0.5 + 0.6 * mutant, "B": 0.6 - 0.4 * mutant}
        for arm, mean in effects.items():
            rate = 1 - mean - (arm != "untreated") * 0.25 * rng.normal() + 0.2 * rng.normal()
            volume = np.exp(5.3 + 0.2 * rng.normal() + growth * rate * day + 0.1 * rng.normal(size=len(day)))
            lines += [f"S,{kind},M{m},{m}{arm},{arm},{d:g},{v:.6g},{mutant}" for d, v in zip(day, volume, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    read = read_dataset(tmp_path / "table.csv", covariates=["KRAS"])
    shape = CurveShape(0.02, 0.0, 1.0)
    panel = build_panel(read, {"A": "X", "B": "Y"}, shape, covariates=["KRAS"])
    priors = load_priors()
    own = {f"covariates.KRAS.{name}": priors.distribution("covariates.default.default") for name in "XY"}
    config = FitConfig(chains=1, warmup=300, draws=400, block=100, svi_steps=500, max_tree_depth=8, target_accept=0.9)
    with jax.enable_x64(True):
        result = fit(
            jax.random.key(5), build_model(panel, priors.distributions(PRIORS) | own), arrays_of(panel),
            {"ln_growth": jnp.asarray(panel.initial_growth)}, config,
            ("covariate_effect", "omega_effect", "log_likelihood", "ln_growth_type", "omega_ln_growth", "ln_sigma_arm",
             "omega_ln_sigma"),
            lambda *_: None, jax.devices("cpu"), collective=("ln_growth",),
        )  # fmt: skip
    beta = result.values["covariate_effect"][0]
    # 4 posterior SDs: 6 in 100,000. 16 mutants against 32, of SD 0.35 each, tell a difference to 0.11
    for place, truth in enumerate((0.6, -0.4)):
        assert abs(beta[:, place].mean() - truth) < 4 * beta[:, place].std() and 0.05 < beta[:, place].std() < 0.2
    left_out = left_out_density(panel, result.values, result.draws)
    assert np.isfinite(left_out.pdx_model).all()
