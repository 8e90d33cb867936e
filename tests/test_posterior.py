"""posterior.nc: labels, groups, precision, and that the installed ArviZ opens it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from vtrial.dataset import read_dataset
from vtrial.diagnostics import arviz
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.panel import Panel, build_panel
from vtrial.posterior import DIMS, PDX_MODEL_LEVEL, POPULATION, Draws, shape_of, to_datatree
from vtrial.store import RunFolder

TABLE = """\
study,tumour_type,pdx_model,mouse,arm,day,volume_mm3
S,BRCA,X-1,c1,untreated,0,200
S,BRCA,X-1,c1,untreated,7,400
S,BRCA,X-1,a1,BYL719,0,210
S,BRCA,X-1,a1,BYL719,7,220
S,CM,Y-1,d1,untreated,0,200
S,CM,Y-1,d1,untreated,7,300
S,CM,Y-1,b1,BYL719 + LEE011,0,190
S,CM,Y-1,b1,BYL719 + LEE011,7,100
"""
CHAINS, NUM_DRAWS = 2, 6
STATS = ("diverging", "num_steps", "accept_prob", "energy", "potential_energy")


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Panel:
    path = tmp_path_factory.mktemp("posterior") / "table.csv"
    path.write_text(TABLE)
    return build_panel(read_dataset(path), {"BYL719": "PI3K", "LEE011": "CDK4/6"}, CurveShape())


def labels_of(panel: Panel, dim: str) -> tuple[str, ...]:
    return getattr(panel.labels, dim)


def cells_of(panel: Panel) -> dict[str, np.ndarray]:
    """What the fit integrates out, of three of the draws."""
    rng, num_mice = np.random.default_rng(2), len(panel.labels.mouse)
    shapes = {"effect": (3, num_mice), "ln_sigma": (3, num_mice), "coefficient": (3, num_mice, 3)}
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {"index": np.array([0, 6, 11]), **drawn}


def values_of(panel: Panel) -> dict[str, np.ndarray]:
    """Every site with draws of its own, chain 1 after chain 0."""
    rng = np.random.default_rng(0)
    values = {}
    for name in (*POPULATION, *PDX_MODEL_LEVEL, "responder", "log_likelihood", "left_out_density"):
        shape = (len(labels_of(panel, dim)) for dim in DIMS.get(name, ()))
        values[name] = rng.normal(size=(CHAINS, NUM_DRAWS, *shape))
    return values


def tree_of(panel: Panel, values=None) -> xr.DataTree:
    rng = np.random.default_rng(1)
    stats = {name: rng.uniform(size=(CHAINS, NUM_DRAWS)) for name in STATS}
    attributes = {**CurveShape()._asdict(), "fit_key": "abc", "synthetic": 0}
    return to_datatree(panel, values or values_of(panel), stats, cells_of(panel), attributes, np.arange(4.0))


@pytest.fixture
def opened(panel, tmp_path):
    """The tree after it went through a run folder, and the path of its file."""
    folder = RunFolder(tmp_path / "run").create()
    path = folder.write_posterior(tree_of(panel), keep_float64=POPULATION)
    with folder.open_posterior() as tree:
        yield tree, path


def test_round_trip_keeps_values_labels_and_precision(panel, opened):
    tree, _ = opened
    values = values_of(panel)
    posterior = tree["posterior"].to_dataset()
    # of fits with a law of effect against dose, and with covariates
    absent = {"ln_ed50", "hill", "dose_slope", "covariate_effect"}
    assert not absent & set(posterior)
    for name in set(POPULATION) - absent:
        assert posterior[name].dtype == np.float64
        np.testing.assert_array_equal(posterior[name], values[name])
    for name in (*PDX_MODEL_LEVEL, "responder"):
        assert posterior[name].dtype == np.float32
        np.testing.assert_allclose(posterior[name], values[name], rtol=1e-6)
    for name, dims in ((name, dims) for name, dims in DIMS.items() if name not in absent):
        short = {"log_likelihood": "curves", "left_out_density": "pdx_models"}.get(name)
        group = tree["log_likelihood"][short] if short else posterior[name]
        assert group.dims == ("chain", "draw", *dims)
        for dim in dims:
            assert tuple(map(str, group[dim].to_numpy())) == labels_of(panel, dim)
    np.testing.assert_allclose(
        posterior["effect"].sel(drug_type="LEE011 | CM"), values["effect"][..., 2], err_msg="found by its label"
    )
    assert tree.attrs["fit_key"] == "abc" and shape_of(tree) == CurveShape()


def test_the_law_of_growth_is_read_back_and_absent_in_older_files(panel):
    gompertz = CurveShape(0.03, 10.0, 0.1, "gompertz", 0.012)
    tree = tree_of(panel)
    tree.attrs |= gompertz._asdict()
    assert shape_of(tree) == gompertz
    for name in ("growth", "deceleration"):
        del tree.attrs[name]
    assert shape_of(tree) == gompertz._replace(growth="exponential", deceleration=0.0)


def test_groups_of_the_file(panel, opened):
    tree, _ = opened
    groups = {"posterior", "cells", "sample_stats", "log_likelihood", "observed_data", "constant_data"}
    assert set(tree.children) == groups
    stats = tree["sample_stats"].to_dataset()
    assert set(stats.data_vars) == {"diverging", "tree_steps", "acceptance_rate", "energy", "lp"}
    likelihood = tree["log_likelihood"]["curves"]
    assert likelihood.dims == ("chain", "draw", "mouse")
    assert list(likelihood["mouse"].to_numpy()) == list(panel.labels.mouse)
    observed = tree["observed_data"].to_dataset()
    np.testing.assert_allclose(observed["statistics"], panel.curves.statistics, rtol=1e-6)
    np.testing.assert_array_equal(observed["num_measurements"], 2.0)
    constant = tree["constant_data"].to_dataset()
    np.testing.assert_array_equal(constant["pdx_model_type"], panel.pdx_model_type)
    np.testing.assert_array_equal(constant["stopping_coefficient"], np.arange(4.0))
    cells = tree["cells"].to_dataset()
    assert cells["coefficient"].dims == ("cell_draw", "mouse", "term") and cells["effect"].dims == (
        "cell_draw",
        "mouse",
    )
    assert list(cells["term"].to_numpy()) == ["intercept", "rate", "waning"]
    for name, written in cells_of(panel).items():
        np.testing.assert_array_equal(cells[name], written)


def test_lp_is_minus_the_potential(panel):
    rng = np.random.default_rng(1)
    stats = {name: rng.uniform(size=(CHAINS, NUM_DRAWS)) for name in STATS}
    np.testing.assert_array_equal(tree_of(panel)["sample_stats"]["lp"], -stats["potential_energy"])


def test_the_installed_arviz_opens_it(panel, opened):
    _, path = opened
    with_arviz = arviz.from_netcdf(path)
    posterior = with_arviz["posterior"]
    np.testing.assert_array_equal(posterior["mu_effect"].to_numpy(), values_of(panel)["mu_effect"])
    assert list(posterior["phi"].coords["class_pair"].to_numpy()) == ["CDK4/6 x PI3K"]
    size = arviz.ess(with_arviz["posterior"].to_dataset() if hasattr(posterior, "to_dataset") else posterior)
    assert np.isfinite(float(size["mu_effect"]))


def test_sites_that_a_fit_has_not_are_left_out(panel):
    values = values_of(panel)
    fewer = {name: v for name, v in values.items() if name not in ("phi", "gamma", "effect_site")}
    posterior = tree_of(panel, fewer)["posterior"].to_dataset()
    assert "phi" not in posterior and "class_pair" not in posterior.dims and "mouse" not in posterior.dims
    draws = Draws(tree_of(panel, fewer), 5)
    assert "phi" not in draws and "effect" in draws
    assert draws.labels("class_pair") == []


def test_a_fit_of_another_version_is_refused_where_it_lacks_a_site(opened):
    tree, path = opened
    with pytest.raises(InputError) as told:
        Draws(tree).get("no_such_site")
    assert str(told.value).startswith(f"{path}: has no 'no_such_site'") and "fit again" in str(told.value)


def test_draws_are_flat_over_chains_and_spread(panel):
    tree, values = tree_of(panel), values_of(panel)
    flat = {name: v.reshape(CHAINS * NUM_DRAWS, *v.shape[2:]) for name, v in values.items()}
    every = Draws(tree, 12)
    np.testing.assert_array_equal(every.get("effect"), flat["effect"])
    few = Draws(tree, 3)
    np.testing.assert_array_equal(few.get("mu_effect"), flat["mu_effect"][[0, 6, 11]])
    assert few.size == 3 and few.get("phi").shape == (3, 1)
    many = Draws(tree, 30)
    np.testing.assert_array_equal(many.get("mu_effect"), flat["mu_effect"][np.arange(30) % 12])
    assert every.labels("drug_type") == ["BYL719 | BRCA", "BYL719 | CM", "LEE011 | CM"]


@pytest.mark.parametrize("size", range(1, 13))
def test_no_draw_is_taken_twice_while_there_are_others(panel, size):
    taken = Draws(tree_of(panel), size).get("mu_effect")
    assert len(set(taken)) == size
