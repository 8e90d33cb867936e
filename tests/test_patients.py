"""Virtual patients follow their law."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import patients
from vtrial.arm_layout import lay_out
from vtrial.base import MAX_LESIONS, PatientLaw
from vtrial.deviates import BLOCK, block_deviates, draw_key
from vtrial.patients import patients_of

KEY = jax.random.key(11)
NUM_BLOCKS = 8
NUM_PATIENTS = NUM_BLOCKS * BLOCK
# All keys are fixed, so a bound is a bound on bugs: at 5 SD, chance alone fails one of a million checks.
SIGMA = 5.0


def law_of(**changes) -> PatientLaw:
    values = dict(
        mu_ln_growth=math.log(0.05),
        omega_ln_growth=0.4,
        growth_scale=0.134,
        effect_mean=[[1.0, 0.5], [0.2, 0.2]],
        effect_sd=[0.5, 0.3],
        kill_scale=[0.4, 0.5],
        ln_loss_rate=[math.log(0.005), math.log(0.01)],
        loss_rate_sd=0.8,
        phi=np.zeros((2, 2)),
        gamma=np.zeros((2, 2)),
        omega_combination=0.1,
        ln_sld_median=math.log(80.0),
        sld_log_sd=0.5,
        mean_lesions=2.5,
        lesion_size_log_sd=0.4,
        lesion_log_sd=0.25,
        reading_error=0.04,
        reader_effect=0.07,
        new_lesion_hazard=0.001,
        new_lesion_power=1.0,
        discontinuation_hazard=0.001,
        missed_visit=0.03,
        death_share=0.1,
    )
    return PatientLaw(**{name: jnp.asarray(value, jnp.float32) for name, value in (values | changes).items()})


REGIMENS = lay_out(["avutometinib", "defactinib"], [["avutometinib"], ["avutometinib", "defactinib"]])
PREVALENCE = jnp.asarray([0.3, 0.7], jnp.float32)


@jax.jit
def people_of(law: PatientLaw, prevalence):
    def block(b):
        names = REGIMENS.drug_hash, REGIMENS.combination_hash[1:2]
        deviates = block_deviates(draw_key(KEY, jnp.int32(0)), b, *names, 4)
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), patients_of(law, deviates, prevalence))

    people = jax.lax.map(block, jnp.arange(NUM_BLOCKS, dtype=jnp.int32))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), people)


@pytest.fixture(scope="module")
def people():
    return jax.tree.map(np.asarray, people_of(law_of(), PREVALENCE))


def close(sample, mean, sd):
    """Mean of a sample within SIGMA standard errors of what it should be."""
    assert abs(np.mean(sample) - mean) < SIGMA * sd / math.sqrt(np.size(sample)), (np.mean(sample), mean)


def test_number_of_lesions_by_hand():
    # mean 2: Binomial(4, 1/4) has the distribution function 81/256, 189/256, 243/256, 255/256
    edges = np.array([81, 189, 243, 255]) / 256
    mean = jnp.float32(2.0)
    just_below = [int(patients.num_lesions(mean, jnp.float32(u - 1e-6))) for u in edges]
    just_above = [int(patients.num_lesions(mean, jnp.float32(u + 1e-6))) for u in edges]
    assert just_below == [1, 2, 3, 4]
    assert just_above == [2, 3, 4, 5]
    for mean, number in ((1.0, 1), (5.0, MAX_LESIONS)):
        assert {int(patients.num_lesions(jnp.float32(mean), jnp.float32(u))) for u in (0.0, 0.5, 0.9999)} == {number}


def test_lesions_sum_to_the_size_of_the_patient(people):
    sld = people.diameter.sum(axis=1)
    number = (people.diameter > 0).sum(axis=1)
    assert sld.min() >= patients.MEASURABLE_MM * (1 - 1e-6)
    assert number.min() >= 1
    assert number.max() <= MAX_LESIONS
    assert np.all(number * patients.MEASURABLE_MM <= sld * (1 + 1e-6))
    # ln SLD is normal; the floor at 10 mm is 4.2 SD away
    close(np.log(sld), math.log(80.0), 0.5)
    assert np.std(np.log(sld)) == pytest.approx(0.5, abs=SIGMA * 0.5 / math.sqrt(2 * NUM_PATIENTS))
    large = number[sld > 50]
    close(large, 2.5, np.std(large))


def test_patients_follow_their_law(people):
    close(np.log(people.growth), math.log(0.05), 0.4)
    assert np.std(np.log(people.growth)) == pytest.approx(0.4, abs=SIGMA * 0.4 / math.sqrt(2 * NUM_PATIENTS))
    close(people.subgroup == 0, 0.3, math.sqrt(0.3 * 0.7))
    for subgroup, mean in ((0, [1.0, 0.2]), (1, [0.5, 0.2])):
        for drug in (0, 1):
            close(people.effect[people.subgroup == subgroup, drug], mean[drug], [0.5, 0.3][drug])
    close(np.log(people.loss_rate[:, 1]), math.log(0.01), 0.8)
    # one deviation of the loss of effect per patient, whatever the drug
    np.testing.assert_allclose(people.loss_rate[:, 1] / people.loss_rate[:, 0], 2.0, rtol=1e-5)
    close(people.missed, 0.03, math.sqrt(0.03 * 0.97))
    close(people.new_lesion_e, 1.0, 1.0)
    close(people.discontinuation_e, 1.0, 1.0)
    close(np.log(people.pace), 0.0, 0.25)
    # the reader stays, the error does not: variance 0.07^2 + 0.04^2, covariance 0.07^2
    covariance = np.cov(people.reading.T)
    bound = SIGMA * (0.07**2 + 0.04**2) * math.sqrt(2 / NUM_PATIENTS)
    np.testing.assert_allclose(np.diag(covariance), 0.07**2 + 0.04**2, atol=bound)
    np.testing.assert_allclose(covariance[~np.eye(5, dtype=bool)], 0.07**2, atol=bound)


def test_with_one_subgroup_and_without_spread_all_are_the_same():
    quiet = {name: 0.0 for name in PatientLaw._fields if name.startswith("omega") or name.endswith("_sd")}
    del quiet["exposure_sd"]
    law = law_of(**quiet | {"effect_sd": [0.0, 0.0]}, mean_lesions=1.0, reading_error=0.0, reader_effect=0.0)
    people = people_of(law, jnp.asarray([1.0, 0.0], jnp.float32))
    assert not people.subgroup.any()
    np.testing.assert_allclose(people.effect, np.broadcast_to([1.0, 0.2], people.effect.shape))
    np.testing.assert_allclose(people.diameter[:, 0], 80.0, rtol=1e-6)
    np.testing.assert_allclose(people.growth, 0.05, rtol=1e-6)
    assert not people.reading.any()
    assert not people.combination.any()
