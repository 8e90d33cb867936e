"""Recovery of synergy: a simulated study, fitted as a user would, gives back the combination index of its making."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vtrial import cli

pytestmark = pytest.mark.slow

DAYS = np.arange(0.0, 29.0, 4.0)
GROWTH, LOSS, SLOWING, LOSS_RATE = 0.08, 0.3, 0.2, 0.02
#: the combination removes 0.5 of growth beyond the sum of its drugs
EFFECT = {"vehicle": 0.0, "trametinib": 0.5, "BYL719": 0.3, "trametinib + BYL719": 1.3}
MICE = 10
EXPERIMENT = """\
name: one-study
priors: [{priors}]
data:
  path: table.csv
  source: made for a test
  synthetic: true
  control: [vehicle]
  constants: {{study: S, tumour_type: CRC, pdx_model: X-1}}
fit:
  chains: 2
  warmup: 400
  draws: 400
  target_accept: 0.95
  gates: {{rhat: 1.03, ess_bulk: 100, ess_tail: 100, divergences: 0.02}}
"""


def simulated(rng: np.random.Generator) -> str:
    """Mice with rates and starts of their own; residuals that wander (an Ornstein-Uhlenbeck process from day 0)."""
    waning = DAYS - (1 - np.exp(-LOSS_RATE * DAYS)) / LOSS_RATE
    process = np.exp(-np.abs(DAYS[:, None] - DAYS) / 30) - np.exp(-(DAYS[:, None] + DAYS) / 30)
    root = np.linalg.cholesky(0.96 * process + 0.04 * np.eye(len(DAYS)))
    lines = ["mouse,arm,day,volume_mm3"]
    for arm, effect in EFFECT.items():
        for mouse in range(MICE):
            own = 0.2 * GROWTH * rng.normal()
            curve = GROWTH * ((1 - effect) * DAYS + (LOSS * effect - SLOWING) * waning) + own * DAYS
            volume = np.exp(5.4 + 0.2 * rng.normal() + curve + 0.2 * root @ rng.normal(size=len(DAYS)))
            lines += [f"{arm}-{mouse},{arm},{d:g},{v:.6g}" for d, v in zip(DAYS, volume, strict=True)]
    return "\n".join(lines) + "\n"


def test_the_index_of_a_simulated_study_comes_back(tmp_path, pytestconfig):
    (tmp_path / "table.csv").write_text(simulated(np.random.default_rng(7)))
    priors = pytestconfig.rootpath / "experiments" / "priors" / "one_study.yaml"
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT.format(priors=priors))
    assert cli.main(["fit", str(tmp_path / "experiment.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["synergy", str(tmp_path / "run"), "--out", str(tmp_path / "found")]) == 0
    found = pd.read_csv(tmp_path / "found" / "synergy.csv", keep_default_na=False)
    waning = DAYS[-1] - (1 - np.exp(-LOSS_RATE * DAYS[-1])) / LOSS_RATE
    per_effect = GROWTH * (DAYS[-1] - LOSS * waning)  # ln volume that a unit of effect takes away by the last day
    for reference, beyond in (("bliss", 0.5), ("hsa", 0.8)):
        last = found[(found["reference"] == reference) & (found["day"] == DAYS[-1])].iloc[0]
        error = np.log(last["combination_index"]) + beyond * per_effect
        # four posterior SDs: a right posterior is beyond them once in 16,000; and the truth, 2 to 4 SDs from 1, is told
        assert abs(error) < 4 * last["ln_ci_sd"], (reference, error, last["ln_ci_sd"])
        assert last["probability_synergy"] > 0.9, reference
    assert list(found.loc[found["reference"] == "hsa", "single_agent"].unique()) == ["trametinib"]
