"""The synthetic twin: the panel's shape, no number of its own, the population's rates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from vtrial.dataset import read_dataset
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws
from vtrial.stopping import StoppingRule, features
from vtrial.twin import synthetic_twin

NUM_MODELS, GROWTH, EFFECT, LOSS = 300, 0.05, 0.6, 0.9
#: residual SD under A and of controls
SIGMA = [0.12, 0.05]


def population() -> Draws:
    """One draw without spread between models or mice: every curve is known but for its residual."""
    scalars = dict.fromkeys(("omega_intercept", "omega_mouse", "omega_curvature", "curvature_correlation"), 0.0)
    scalars |= {"slowing": 0.0, "mu_intercept": 5.4, "omega_ln_sigma": 0.0}
    values = {name: (("chain", "draw"), np.full((1, 1), value)) for name, value in scalars.items()}
    for name, value in (("ln_growth_type", np.log(GROWTH)), ("omega_ln_growth", 0.0)):
        values[name] = (("chain", "draw", "tumour_type"), np.full((1, 1, 1), value))
    for name, value in (("effect", EFFECT), ("omega_effect", 0.0), ("loss_drug_type", LOSS)):
        values[name] = (("chain", "draw", "drug_type"), np.full((1, 1, 1), value))
    values["ln_sigma_arm"] = (("chain", "draw", "arm_type"), np.log([[SIGMA]]))
    coords = {"tumour_type": ["T"], "drug_type": ["A | T"], "arm_type": ["A | T", "untreated | T"]}
    return Draws(xr.DataTree.from_dict({"posterior": xr.Dataset(values, coords=coords)}), 1)


@pytest.fixture(scope="module")
def twin_of_a_panel(tmp_path_factory):
    lines = ["tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for i in range(NUM_MODELS):
        for arm in ("untreated", "A", "A + B") if i else ("untreated", "A", "A + B", "rare"):
            lines += [f"T,X{i},{i}-{arm},{arm},{day},{100 + i}" for day in (0, 7, 14)]
    path = tmp_path_factory.mktemp("twin") / "panel.csv"
    path.write_text("\n".join(lines) + "\n")
    dataset = read_dataset(path)
    number = features(np.zeros(1), np.zeros(1), np.zeros(1), xp=np).shape[-1]
    never = StoppingRule(jnp.zeros(number, jnp.float32).at[0].set(-4.0), 4.0)
    return dataset, synthetic_twin(jax.random.key(2), population(), dataset, never, shape=CurveShape())


def test_twin_has_the_shape_of_the_panel_and_names_of_its_own(twin_of_a_panel):
    dataset, twin = twin_of_a_panel
    assert set(twin["arm"]) == {"untreated", "A"}  # no combination, no arm of a single model
    assert twin.groupby("arm")["pdx_model"].nunique().to_dict() == {"untreated": NUM_MODELS, "A": NUM_MODELS}
    assert not set(twin["pdx_model"]) & set(dataset.table["pdx_model"])
    assert twin["mouse"].nunique() == 2 * NUM_MODELS
    assert (twin.groupby("mouse")["day"].min() == 0).all()
    assert ((twin["volume_mm3"] == 0) | (twin["volume_mm3"] > dataset.detection_limit_mm3)).all()


def test_twin_grows_as_the_population_says(twin_of_a_panel):
    """Mean ln volume at a day, of which A loses some of its effect by then, within five standard errors."""
    _, twin = twin_of_a_panel
    for arm, effect in (("untreated", 0.0), ("A", EFFECT)):
        for day in (0, 8, 20):
            volume = twin.loc[(twin["arm"] == arm) & (twin["day"] == day), "volume_mm3"].to_numpy()
            assert len(volume) > 100
            lost = LOSS * effect * (day - (1 - np.exp(-0.02 * day)) / 0.02)
            expected = 5.4 + GROWTH * ((1 - effect) * day + lost)
            error = SIGMA[arm == "untreated"] / np.sqrt(len(volume))
            assert abs(np.log(volume).mean() - expected) < 5 * error


def test_residuals_of_the_twin_are_those_of_the_arm(twin_of_a_panel):
    """No mouse differs from another but by its residual: the ratio of the SDs on a day is that of the scales."""
    _, twin = twin_of_a_panel
    at = twin[twin["day"] == 20].groupby("arm")["volume_mm3"]
    sd, number = at.agg(lambda volume: np.log(volume).std()), at.size()
    error = np.sqrt(0.5 / number["A"] + 0.5 / number["untreated"])
    assert number.min() > 100 and abs(np.log(sd["A"] / sd["untreated"]) - np.log(SIGMA[0] / SIGMA[1])) < 5 * error
