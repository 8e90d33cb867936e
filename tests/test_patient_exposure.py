"""Patients who differ in exposure: who they are, what each of them gets, and the trial that they make."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import trial
from vtrial.arm_layout import lay_out
from vtrial.base import PatientLaw, Schedule, Trial
from vtrial.course import decays, own_exposure, under_one_drug, under_several_drugs
from vtrial.course_parts import EVERYTHING
from vtrial.deviates import BLOCK, block_deviates, draw_key
from vtrial.exposure import at_level
from vtrial.patients import patients_of

DRUGS = ["a", "b"]
REGIMENS = lay_out(DRUGS, [["a"], ["b"], ["a", "b"]])
VISIT_DAY, EDGES = np.array([56.0, 112.0, 168.0]), np.arange(0.0, 169.0, 28.0)
SCHEDULE = Schedule(*(jnp.asarray(x, jnp.float32) for x in (EDGES, [1, 3, 5], VISIT_DAY)))
SCHEDULE = SCHEDULE._replace(visit_segment=jnp.asarray([1, 3, 5], jnp.int32))
PREVALENCE, KEY = jnp.asarray([1.0], jnp.float32), jax.random.key(8)
SD, MISSED = np.array([0.5, 0.2]), np.array([0.1, 0.0])
SIGMA = 5.0


def law_of(varies: bool = True, **changes) -> PatientLaw:
    """One draw."""
    values = dict(
        mu_ln_growth=math.log(0.05), omega_ln_growth=0.4, growth_scale=0.134, effect_mean=[[1.0], [0.5]],
        effect_sd=[0.5, 0.3], kill_scale=[0.4, 0.5], ln_loss_rate=np.log([0.005, 0.01]), loss_rate_sd=0.8,
        phi=np.full((2, 2), 0.5), gamma=np.zeros((2, 2)), omega_combination=0.1, ln_sld_median=math.log(80.0),
        sld_log_sd=0.5, mean_lesions=2.5, lesion_size_log_sd=0.4, lesion_log_sd=0.25, reading_error=0.04,
        reader_effect=0.07, new_lesion_hazard=0.001, new_lesion_power=1.0, discontinuation_hazard=0.001,
        missed_visit=0.03, death_share=0.1,
    )  # fmt: skip
    if varies:
        values |= dict(exposure_sd=SD, missed_dose=MISSED)
    return PatientLaw(**{name: jnp.asarray(value, jnp.float32) for name, value in (values | changes).items()})


def points_of(low=0.5, high=0.9, weight=0.75) -> jax.Array:
    """Two points in every segment of both drugs in every regimen, [K, R, G, 3]."""
    shape = (len(REGIMENS.arm), len(DRUGS), len(EDGES) - 1)
    return jnp.stack([jnp.full(shape, value, jnp.float32) for value in (low, high, weight)], axis=-1)


@jax.jit
def block(law):
    parts = EVERYTHING._replace(exposure=law.exposure_sd is not None)
    names = REGIMENS.drug_hash, REGIMENS.combination_hash[2:3]
    deviates = block_deviates(draw_key(KEY, jnp.int32(0)), jnp.int32(0), *names, 3, parts)
    return patients_of(law, deviates, PREVALENCE, parts)


def test_patients_are_who_they_are_without_it_and_follow_the_law():
    plain, varied = block(law_of(False)), block(law_of())
    assert plain.exposure is None
    for name in set(plain._fields) - {"exposure"}:
        np.testing.assert_array_equal(getattr(plain, name), getattr(varied, name), err_msg=name)
    for r in range(2):
        values = np.asarray(varied.exposure[r], float)
        # a normal less an exponential
        assert abs(values.mean() + MISSED[r]) < SIGMA * np.hypot(SD[r], MISSED[r]) / math.sqrt(BLOCK)
        sd, expected = values.std(), np.hypot(SD[r], MISSED[r])
        assert abs(sd / expected - 1) < SIGMA / math.sqrt(2 * BLOCK)
    # what a patient has of one drug says nothing of the other, but for the doses that they miss
    assert abs(np.corrcoef(np.asarray(varied.exposure))[0, 1]) < SIGMA / math.sqrt(BLOCK)


def test_own_exposure_by_hand():
    law, points = law_of(), points_of()[0, :, 0]
    own = np.asarray(own_exposure(jnp.asarray([math.log(3.0), 0.0], jnp.float32), law, points))
    # odds times three: 0.5 -> 0.75 and 0.9 -> 27/28
    np.testing.assert_allclose(own[0], 0.25 * 0.75 + 0.75 * 27 / 28, rtol=1e-6)
    np.testing.assert_allclose(own[1], 0.25 * 0.5 + 0.75 * 0.9, rtol=1e-6)
    linear = law._replace(linear_effect=jnp.asarray([1.0, 0.0]))
    half = jnp.asarray([math.log(0.5), 0.0], jnp.float32)
    np.testing.assert_allclose(own_exposure(half, linear, points)[0], 0.25 * 0.25 + 0.75 * 0.45, rtol=1e-6)


def test_a_course_is_that_of_the_exposure_a_patient_has():
    """One drug alone, through both programs, against the same course under the patient's own mean effect."""
    varied, plain = law_of(omega_combination=0.0), law_of(False, omega_combination=0.0)
    patients, points, wanted = block(varied), points_of(), jnp.asarray(True)
    present, bliss = REGIMENS.present[:1], REGIMENS.bliss[:1]
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[..., i : i + 1], patients)
        decay = decays(one.loss_rate, SCHEDULE)
        ours = under_one_drug(one, varied, decay, points[:1], present, SCHEDULE, wanted)
        own = jax.vmap(own_exposure, in_axes=(None, None, 1), out_axes=1)(one.exposure[:, 0], varied, points[0])
        by_hand = at_level(jnp.asarray([0.5, 0.9]), one.exposure[0])
        np.testing.assert_allclose(own[0], 0.25 * by_hand[0] + 0.75 * by_hand[1], rtol=1e-6)
        same = under_one_drug(one._replace(exposure=None), plain, decay, own[None], present, SCHEDULE, wanted)
        # float32, sums of six segments in another order
        np.testing.assert_allclose(ours, same, rtol=1e-5, atol=1e-6)
        several = under_several_drugs(one, varied, decay, points[:1], present, bliss, SCHEDULE, wanted)
        np.testing.assert_allclose(several, ours, rtol=1e-4, atol=1e-5)


def _simulate(law, exposure, regimens=REGIMENS):
    laws = jax.tree.map(lambda leaf: leaf[None], law)
    asked = Trial(laws, exposure[None], SCHEDULE, regimens, PREVALENCE)
    counts, _ = trial.simulate(KEY, asked, num_patients=BLOCK)
    return jax.tree.map(np.asarray, counts)


@pytest.mark.long
def test_the_same_patients_in_another_order_of_arms_and_alone():
    law, points = law_of(), points_of()
    counts = _simulate(law, points)
    again = lay_out(DRUGS, [["a", "b"], ["a"], ["b"]])
    other = _simulate(law, points, again)
    np.testing.assert_array_equal(counts.best_response[0, [2, 0, 1]], other.best_response[0, :3])
    # the parts of the combination have the doses of the arms alone here, so they respond alike
    np.testing.assert_array_equal(counts.best_response[0, 3:5], counts.best_response[0, :2])


@pytest.mark.long
def test_missed_doses_cost_responses():
    points = points_of()
    rates = [
        _simulate(law_of(missed_dose=np.full(2, missed)), points).best_response[0, :, 0, :2].sum(-1)
        for missed in (0.0, 1.0)
    ]
    # the same patients with less of the drug: none of them responds better, some no longer
    assert np.all(rates[1][:3] <= rates[0][:3]) and rates[1][0] < rates[0][0]


def test_means_where_points_are_due_are_refused():
    with pytest.raises(ValueError, match=r"exposure: got the shape"):
        _simulate(law_of(), points_of()[..., 0])
    with pytest.raises(ValueError, match=r"exposure: got the shape"):
        _simulate(law_of(False), points_of())
