import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from vtrial.calibrated import AFTER, BEFORE, before_and_after, calibrated_rates, hidden_arms, own_trials
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.mouse_prior import PriorDraws
from vtrial.priors import load_priors
from vtrial.taught import Settings

EXPERIMENT = Path(__file__).resolve().parent.parent / "experiments" / "lgsoc.yaml"


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(EXPERIMENT, ("trial.visits={every_days: 56, until_days: 168}",))


@pytest.mark.long
def test_trials_move_the_arms_of_their_drugs_and_only_after(experiment) -> None:
    """34 of 34 responders under trametinib raise avutometinib, of its class; with the trial left out it stays.

    Left out are all, so that what is drawn is the prior: both halves then agree within 4 standard errors of 64 draws.
    """
    priors = load_priors(experiment.prior_paths())
    one = next(arm for arm in priors.trials if arm.trial == "METRIC")
    one = one.model_copy(
        update={
            "tumour_type": "LGSOC",
            "num_responders": 34,
            "num_patients": 34,
            "certainty": "published",
            "median_pfs_months": None,
        }
    )
    priors = dataclasses.replace(priors, trials=(one,))
    draws, settings = PriorDraws(jax.random.key(0), priors, 16), Settings(mice=16, copies=4, patients=100)

    def rates(left_out):
        table, teachers = calibrated_rates(experiment, priors, draws, settings, left_out, ["made up"], lambda *_: None)
        assert teachers == (0 if left_out else 1)
        assert (table["source"].str.startswith("made up")).all()
        shown = before_and_after(table)
        assert list(shown.columns) == ["tumour_type", "arm", "subgroup", BEFORE, AFTER]
        population = table[(table["kind"] == "population") & (table["endpoint"] == "confirmed_orr")]
        alone = population[population["arm"].str.startswith("avutometinib 4.0") & (population["subgroup"] == "all")]
        return alone.set_index("translation")[["mean", "sd"]]

    taught, untaught = rates(()), rates(("METRIC",))
    np.testing.assert_array_equal(taught.loc[BEFORE], untaught.loc[BEFORE])
    assert taught.loc[AFTER, "mean"] - taught.loc[BEFORE, "mean"] > 4 * np.hypot(*taught["sd"]) / np.sqrt(64)
    error = np.hypot(*untaught["sd"]) / np.sqrt(64)
    assert abs(untaught.loc[AFTER, "mean"] - untaught.loc[BEFORE, "mean"]) < 4 * error


def test_a_trial_leaves_with_its_patients_and_an_unknown_one_is_named(experiment) -> None:
    priors = load_priors(experiment.prior_paths())
    arms = [arm for arm in priors.trials if arm.drugs]
    hidden = hidden_arms(arms, ["RAMP 201"])
    assert {1, 2, 3, 5} <= hidden
    assert own_trials(experiment, priors, ()) == []  # of avutometinib and defactinib in LGSOC no trial teaches
    first = next(arm for arm in arms if arm.trial == "RO5126766 first in human")
    moved = dataclasses.replace(priors, trials=(first.model_copy(update={"tumour_type": "LGSOC"}),))
    assert own_trials(experiment, moved, ()) == ["RO5126766 first in human"]
    assert own_trials(experiment, moved, [first.id]) == []
    with pytest.raises(InputError, match="no published trial is called 'RAMP 210'; did you mean 'RAMP 20"):
        hidden_arms(arms, ["RAMP 210"])
