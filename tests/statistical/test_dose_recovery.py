"""Recovery of a dose-response: one study of a drug at eight doses, written as a table, read, and fitted."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial.config import FitConfig
from vtrial.dataset import read_dataset
from vtrial.diagnostics import arviz
from vtrial.dose_response import DoseResponse
from vtrial.inference import fit
from vtrial.model import arrays_of, build_model
from vtrial.model_format import DOSE_PRIORS, PRIORS, CurveShape
from vtrial.panel import build_panel
from vtrial.priors import load_priors

ONE_STUDY = Path(__file__).resolve().parents[2] / "experiments" / "priors" / "one_study.yaml"
LOSS_RATE = 0.02
DAYS = np.arange(0.0, 29.0, 4.0)
DOSES = np.array([0.5, 1.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0])
REFERENCE, EFFECT, GROWTH, MICE = 80.0, 1.4, 0.09, 6


def emax(dose: np.ndarray) -> np.ndarray:
    """ED50 9 mg/kg, steepness 1.3; over the effect at the reference dose."""
    return dose**1.3 / (dose**1.3 + 9.0**1.3) * (1.0 + (9.0 / REFERENCE) ** 1.3)


def log_linear(dose: np.ndarray) -> np.ndarray:
    """0.3 of the effect at the reference for e times the dose; none below 2.9 mg/kg."""
    return np.maximum(1.0 + 0.3 * np.log(dose / REFERENCE), 0.0)


LAWS = {
    "emax": (emax, {"ln_ed50": np.log(9.0 / REFERENCE), "hill": 1.3}),
    "log_linear": (log_linear, {"dose_slope": 0.3}),
}


def write(path: Path, seed: int, scale) -> None:
    rng = np.random.default_rng(seed)
    waning = DAYS - (1 - np.exp(-LOSS_RATE * DAYS)) / LOSS_RATE
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for dose in (0.0, *DOSES):
        effect = EFFECT * float(scale(np.array(dose))) if dose else 0.0
        for i in range(MICE):
            rate = 1 - effect + 0.2 * rng.normal()
            curve = 5.3 + 0.15 * rng.normal() + GROWTH * (rate * DAYS + 0.3 * effect * waning)
            volume = np.exp(curve + 0.1 * np.exp(0.4 * rng.normal()) * rng.normal(size=len(DAYS)))
            arm = f"drug-x {dose:g} mg/kg" if dose else "untreated"
            lines += [f"S,T,M,{dose:g}-{i},{arm},{d:g},{v:.6g}" for d, v in zip(DAYS, volume, strict=True)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("law", LAWS)
def test_a_dose_response_is_recovered(tmp_path, law, seed):
    recovered(tmp_path, law, seed)


@pytest.mark.long
def test_an_emax_is_recovered(tmp_path):
    recovered(tmp_path, "emax", 20)


def recovered(folder: Path, law: str, seed: int) -> None:
    """No parameter is lost, each is known far better than its prior, and so is the effect at every dose."""
    scale, truth = LAWS[law]
    write(folder / "table.csv", seed, scale)
    dataset = read_dataset(folder / "table.csv", doses=True)
    shape = CurveShape(LOSS_RATE, 0.0, 1.0)
    panel = build_panel(dataset, {"drug-x": "X"}, shape, (), DoseResponse(law, {"drug-x": REFERENCE}))
    # as docs/how-to/synergy.md says of a study of one PDX model
    config = FitConfig(chains=1, warmup=400, draws=500, block=100, svi_steps=500, max_tree_depth=10, target_accept=0.99)
    prior = load_priors([ONE_STUDY]).distributions((*PRIORS, *DOSE_PRIORS[law]))
    with jax.enable_x64(True):
        result = fit(
            jax.random.key(seed), build_model(panel, prior), arrays_of(panel),
            {"ln_growth": jnp.asarray(panel.initial_growth)}, config, (*truth, "effect_site"), lambda *_: None,
            jax.devices("cpu"), collective=("ln_growth",),
        )  # fmt: skip
    assert result.stats["diverging"].mean() < 0.01
    (site,) = panel.labels.pdx_model_drug
    assert site == "M | drug-x"
    draws = {name: result.values[name][..., 0] for name in truth} | {"effect": result.values["effect_site"][..., 0]}
    for name, value in (truth | {"effect": EFFECT}).items():
        error = draws[name].std() / np.sqrt(float(arviz.ess(draws[name])))
        # 4 posterior SDs, exceeded by 6 in 100,000 normal posteriors, and the Monte Carlo error of the mean
        assert abs(draws[name].mean() - value) < 4 * (draws[name].std() + error), name
    # priors: log-SD 1.5 of ED50, 0.7 of the slope
    known = draws["ln_ed50"] if law == "emax" else np.log(draws["dose_slope"])
    assert known.std() < 0.5
