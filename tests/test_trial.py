"""The virtual trial: by hand, against a slow reading of the equations, and the same patients whatever is asked for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import trial
from vtrial.arm_layout import lay_out
from vtrial.base import PatientLaw, Schedule, Trial
from vtrial.course_parts import EVERYTHING, Parts, parts_of
from vtrial.deviates import BLOCK, block_deviates, draw_key
from vtrial.endpoints import time_to_progression, time_to_response
from vtrial.outcomes import Counts
from vtrial.patients import patients_of
from vtrial.response import CR, NE, PD, PR, RECIST_1_1, SD, best_overall_response
from vtrial.times import ends_by_day, ends_by_visit, landmark_curve, survival_curves

# One set of shapes for the whole module, so that it compiles once: 4 draws, 6 regimens, 3 drugs, 20 segments, 5 visits.
DRUGS = ["a", "b", "c"]
REGIMENS = lay_out(DRUGS, [["a"], ["a", "b"], ["c"]])
A, AB, C, PART_A, PART_B, BLISS = range(6)
NUM_DRAWS, NUM_REGIMENS, NUM_SEGMENTS = 4, 6, 20
VISIT_DAY = np.array([56.0, 112.0, 168.0, 224.0, 280.0])
EDGES = np.arange(0.0, 281.0, 14.0)
SCHEDULE = Schedule(*(jnp.asarray(x) for x in (EDGES, [3, 7, 11, 15, 19], VISIT_DAY)))
PREVALENCE = jnp.asarray([0.4, 0.6])
KEY = jax.random.key(5)
NUM_PATIENTS = 3000
ONE_DEVICE = jax.devices()[:1]
# Keys are fixed: at 5 SD, chance alone fails one of a million checks.
SIGMA = 5.0


def law_of(**changes) -> PatientLaw:
    """Four draws that differ in the effect of drug a."""
    values = dict(
        mu_ln_growth=math.log(0.05),
        omega_ln_growth=0.3,
        growth_scale=0.134,
        effect_mean=[[1.0, 0.5], [0.5, 0.5], [0.3, 0.3]],
        effect_sd=[0.5, 0.4, 0.4],
        kill_scale=[0.4, 0.5, 0.4],
        ln_loss_rate=np.log([0.005, 0.003, 0.01]),
        loss_rate_sd=0.8,
        phi=np.full((3, 3), 0.6),
        gamma=np.full((3, 3), 0.1),
        omega_combination=0.2,
        ln_sld_median=math.log(70.0),
        sld_log_sd=0.6,
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
        visit_delay=5.0,
        resistant_share=[0.2, 0.1, 0.3],
    )
    unknown = set(changes) - set(values)
    assert not unknown
    leaves = {name: np.asarray(value, np.float32) for name, value in (values | changes).items()}
    law = PatientLaw(**{name: np.broadcast_to(leaf, (NUM_DRAWS, *leaf.shape)) for name, leaf in leaves.items()})
    if "effect_mean" not in changes:
        law = law._replace(effect_mean=law.effect_mean + 0.2 * np.arange(NUM_DRAWS, dtype=np.float32)[:, None, None])
    return jax.tree.map(jnp.asarray, law)


def exposure_of(level=0.9):
    """Drug a in three weeks of four, b and c always; the doses of an arm are those of its regimens."""
    curve = np.full((NUM_REGIMENS, len(DRUGS), NUM_SEGMENTS), level)
    curve[:, 0, 1::2] *= 0.5
    return jnp.asarray(np.broadcast_to(curve, (NUM_DRAWS, *curve.shape)), jnp.float32)


# every spread gone and nothing but the target lesions: patients of a draw are one and the same
QUIET = dict(
    omega_ln_growth=0.0,
    effect_sd=np.zeros(3),
    loss_rate_sd=0.0,
    omega_combination=0.0,
    sld_log_sd=0.0,
    mean_lesions=1.0,
    lesion_log_sd=0.0,
    reading_error=0.0,
    reader_effect=0.0,
    new_lesion_hazard=0.0,
    discontinuation_hazard=0.0,
    missed_visit=0.0,
    visit_delay=0.0,
    resistant_share=np.zeros(3),
)
CONSTANT = dict(ln_loss_rate=np.full(3, -40.0))  # nothing is ever lost


def simulate(law, exposure=None, regimens=REGIMENS, **settings) -> Counts:
    settings = {"num_patients": NUM_PATIENTS, "devices": ONE_DEVICE, "chunk": 1, "key": KEY} | settings
    exposure = exposure_of() if exposure is None else exposure
    key = settings.pop("key")
    counts, _ = trial.simulate(key, Trial(law, exposure, SCHEDULE, regimens, PREVALENCE), **settings)
    return jax.tree.map(np.asarray, counts)


def trial_of(law: PatientLaw, level=0.9) -> Trial:
    return Trial(law, exposure_of(level), SCHEDULE, REGIMENS, PREVALENCE)


def equal(one: Counts, two: Counts):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def responders(counts: Counts):
    """Confirmed responders of all draws and subgroups, [K]."""
    return counts.best_response[..., [CR, PR]].sum(axis=(0, 2, 3))


@pytest.fixture(scope="module")
def counts():
    return simulate(law_of())


# ------------------------------------------------------------------------------------------------ the same patients


def test_every_patient_is_counted_once_in_every_regimen(counts):
    assert counts.num_patients.sum(axis=1).tolist() == [NUM_PATIENTS] * NUM_DRAWS
    np.testing.assert_array_equal(
        counts.best_response.sum(axis=-1), np.broadcast_to(counts.num_patients[:, None], (4, 6, 2))
    )
    assert all(leaf.dtype == np.int32 for leaf in counts)


def test_chunks_and_two_devices_do_not_change_a_count(counts):
    assert len(jax.devices()) >= 2  # see conftest
    # 4 draws over 2 devices in chunks of 3: the padding is cut off again
    equal(counts, simulate(law_of(), devices=jax.devices()[:2], chunk=3))


def test_more_patients_are_the_same_patients_and_more(counts):
    first, second = simulate(law_of(), num_patients=BLOCK), simulate(law_of(), num_patients=BLOCK + 1)
    for fewer, more in ((first, second), (second, counts)):
        assert all(np.all(a <= b) for a, b in zip(fewer, more, strict=True))
    assert (second.num_patients - first.num_patients).sum() == NUM_DRAWS


def test_draws_are_known_by_their_index(counts):
    later = jax.tree.map(lambda leaf: leaf[jnp.array([2, 3, 0, 1])], law_of())
    equal(
        jax.tree.map(lambda leaf: leaf[2:], counts), jax.tree.map(lambda leaf: leaf[:2], simulate(later, first_draw=2))
    )


def test_arms_and_drugs_in_another_order_are_the_same_trial(counts):
    # arms c, b + a, a; rows of the null models follow their arm: b alone, a alone, Bliss
    regimens = lay_out(DRUGS, [["c"], ["b", "a"], ["a"]])
    rows = [C, AB, A, PART_B, PART_A, BLISS]
    turned = simulate(law_of(), regimens=regimens)
    for name in ("best_response", "best_unconfirmed", "responders_independent", "independent_unconfirmed"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(counts, name)[:, rows])

    order = [2, 0, 1]
    regimens = lay_out([DRUGS[d] for d in order], [["a"], ["a", "b"], ["c"]])
    law = law_of()
    own = ("effect_mean", "effect_sd", "kill_scale", "ln_loss_rate", "resistant_share")  # phi and gamma are all alike
    law = law._replace(**{name: getattr(law, name)[:, jnp.array(order)] for name in own})
    equal(counts, simulate(law, exposure_of()[:, :, jnp.array(order)], regimens))


def test_an_arm_alone_is_its_part_of_a_combination_at_the_same_doses(counts):
    np.testing.assert_array_equal(counts.best_response[:, A], counts.best_response[:, PART_A])


def test_it_compiles_once_whatever_the_numbers():
    simulate(law_of())
    compiled = trial._simulate._cache_size()
    simulate(law_of(reading_error=0.1), num_patients=10_000, key=jax.random.key(99), first_draw=3)
    assert trial._simulate._cache_size() == compiled


@pytest.mark.long
def test_wide_numbers_change_nothing(counts):
    with jax.enable_x64(True):
        law = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), law_of())
        wide = simulate(law)
    assert all(leaf.dtype == np.int32 for leaf in wide)
    equal(counts, wide)


@pytest.mark.long
def test_four_devices_do_not_change_a_count(counts, repository):
    program = """
import json, jax
jax.config.update("jax_num_cpu_devices", 4)
import test_trial as t
assert len(jax.devices()) == 4
counts = t.simulate(t.law_of(), devices=None)
print(json.dumps([leaf.tolist() for leaf in counts]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(repository), str(repository / "tests")]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    equal(counts, Counts(*(np.asarray(leaf) for leaf in json.loads(done.stdout))))


@pytest.mark.gpu
def test_a_gpu_counts_what_the_cpu_counts():
    """Random bits are the same; exp, log and quantiles differ in their last bits, which moves a patient at a threshold.

    Between two instruction sets of one processor (SSE4.2, AVX-512) a third of the sizes differ, by 1.3e-7 of themselves
    in the median, and no count of 4 x 100,000 patients. With a density of ln sizes of at most 2.5 about a threshold,
    five visits and three thresholds that is 2.5 x 2 x 1.3e-7 x 15 = 1e-5 of the patients: one is expected in 100,000,
    and more than ten have a probability of 1e-8.
    """
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    if not gpus:
        pytest.skip("needs a CUDA device")
    with jax.default_device(jax.devices("cpu")[0]):
        here = simulate(law_of(), devices=jax.devices("cpu")[:1], num_patients=100_000)
    there = simulate(law_of(), devices=gpus[:1], num_patients=100_000)
    np.testing.assert_array_equal(here.num_patients, there.num_patients)
    for one, other in zip(here, there, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1e-4 * 100_000


# ------------------------------------------------------------------------------------------------ by hand


trajectories = partial(trial.trajectories, patients_per_draw=400)


def test_one_lesion_under_one_drug_by_hand():
    law = law_of(**QUIET, **CONSTANT, effect_mean=np.full((3, 2), 1.0))
    got = trajectories(KEY, trial_of(law))
    # volume rates: growth 0.05 x 0.134 = 0.0067; kill of a 0.05 x 0.4 x (0.9, 0.45, ...) = 0.0135 on average,
    # of c 0.018; a third of it in diameter
    for regimen, rate in ((A, 0.0067 - 0.0135), (C, 0.0067 - 0.018)):
        sld = 70.0 * np.exp(rate * VISIT_DAY / 3.0)
        np.testing.assert_allclose(got.sld[regimen], np.broadcast_to(sld, got.sld[regimen].shape), rtol=1e-5)
    np.testing.assert_allclose(got.sld_baseline, 70.0, rtol=1e-6)
    # a: 0.881, 0.776, 0.683 (PR on day 168), 0.602, 0.530; confirmed on day 224
    assert np.unique(np.asarray(got.codes[A]), axis=0).tolist() == [[SD, SD, PR, PR, PR]]
    np.testing.assert_allclose(got.best_change[A], math.exp(-0.0068 * 280 / 3) - 1, rtol=1e-5)
    assert set(np.asarray(got.best_response[A]).tolist()) == {PR}
    assert np.asarray(got.subgroup).mean() == pytest.approx(0.6, abs=SIGMA * math.sqrt(0.24 / 1600))


def test_a_drug_that_fades_and_a_lesion_that_vanishes_by_hand():
    law = law_of(**QUIET, effect_mean=np.full((3, 2), 1.0), kill_scale=[0.4, 0.5, 8.0], growth_scale=0.0)
    got = trajectories(KEY, trial_of(law, 1.0))
    # part b: kill 0.05 x 0.5 exp(-0.003 t), no growth
    sld = 70.0 * np.exp(-0.025 * (1 - np.exp(-0.003 * VISIT_DAY)) / 0.003 / 3)
    np.testing.assert_allclose(got.sld[PART_B], np.broadcast_to(sld, got.sld[PART_B].shape), rtol=2e-5)
    # c: 0.4 a day on volume; 70 mm exp(-0.4 (1 - exp(-0.01 t)) / 0.01 / 3) is 0.23 mm on day 56, below 2 mm: gone
    assert not np.asarray(got.sld[C]).any()
    assert set(np.asarray(got.best_response[C]).tolist()) == {CR}


def test_zero_effect_has_no_responders_in_any_regimen():
    law = law_of(effect_mean=np.zeros((3, 2)), effect_sd=np.zeros(3), omega_combination=0.0, gamma=np.zeros((3, 3)))
    # -30 % by error alone is more than 6 SD of the difference of two readings (0.04 sqrt 2)
    assert not responders(simulate(law)).any()


def test_more_effect_more_responders():
    shares = []
    for effect in (0.2, 0.6, 1.2, 2.4):
        law = law_of(effect_mean=np.broadcast_to([[effect], [0.5], [0.3]], (3, 2)))
        shares.append(responders(simulate(law)) / (NUM_DRAWS * NUM_PATIENTS))
    shares = np.array(shares)
    assert np.all(np.diff(shares[:, [A, PART_A, AB, BLISS]], axis=0) > 0)
    # nothing of a is in the others
    assert not np.diff(shares[:, [C, PART_B]], axis=0).any()


def test_null_models(counts):
    independent = counts.responders_independent.sum(axis=(0, 2))
    single = responders(counts)[[PART_A, PART_B]]
    assert not independent[[A, C, PART_A, PART_B, BLISS]].any()
    assert max(single) <= independent[AB] <= sum(single)
    assert np.all(counts.best_unconfirmed[..., [CR, PR]].sum(axis=(0, 2, 3)) >= responders(counts))


def test_additive_kill_is_the_bliss_row():
    law = law_of(phi=np.ones((3, 3)), gamma=np.zeros((3, 3)), omega_combination=0.0)
    counts = simulate(law)
    np.testing.assert_array_equal(counts.best_response[:, AB], counts.best_response[:, BLISS])


@pytest.mark.long
def test_a_drug_that_is_resisted_is_as_if_it_had_not_been_given():
    """Everybody resists b: its combination with a, and Bliss, are a alone; everybody resists all: no regimen differs.

    The same patients in every regimen, so that counts are equal, where exposure differs between patients too.
    """
    for changes in ({}, {"exposure_sd": np.full(3, 0.5), "missed_dose": np.full(3, 0.1)}):
        law = law_of(resistant_share=[0.2, 1.0, 0.3])
        law = law._replace(**{name: jnp.full((NUM_DRAWS, 3), value[0], jnp.float32) for name, value in changes.items()})
        exposure = exposure_of()
        if changes:
            exposure = jnp.stack([exposure * 0.9, exposure, jnp.full_like(exposure, 0.5)], axis=-1)
        counts = simulate(law, exposure)
        np.testing.assert_array_equal(counts.best_response[:, AB], counts.best_response[:, PART_A])
        np.testing.assert_array_equal(counts.best_response[:, BLISS], counts.best_response[:, PART_A])
        assert responders(counts)[PART_B] < responders(counts)[PART_A]
        nothing = simulate(law._replace(resistant_share=jnp.ones_like(law.resistant_share)), exposure).best_response
        np.testing.assert_array_equal(nothing, np.broadcast_to(nothing[:, :1], nothing.shape))


@pytest.mark.long
def test_rates_of_one_drug_mix_the_resistant_and_the_rest():
    """(1 - r) of the rate without resistance and r of that of a drug without effect, within SIGMA standard errors."""
    share, drug = 0.3, [A, C]
    rates = [
        simulate(law_of(resistant_share=np.full(3, r)), num_patients=20_000).best_response[..., [CR, PR]].sum((-1, -2))
        / 20_000
        for r in (0.0, share, 1.0)
    ]
    without, mixed, nothing = (each[:, drug] for each in rates)
    expected = (1 - share) * without + share * nothing
    assert np.abs(mixed - expected).max() < SIGMA * np.sqrt(2 * 0.25 / 20_000)
    assert (without - mixed).min() > 0.0


def test_new_lesions_and_discontinuation_follow_their_hazards():
    # tumours that do not move: SD to the end, unless a new lesion is there (PD) or nobody looks (NE)
    hazard, leaving = 0.004, 0.003
    law = law_of(
        **QUIET | {"new_lesion_hazard": hazard, "discontinuation_hazard": leaving},
        growth_scale=0.0,
        effect_mean=np.zeros((3, 2)),
        gamma=np.zeros((3, 3)),
    )
    counts = simulate(law).best_response[:, A].sum(axis=(0, 1))
    stay, new = math.exp(-leaving * 56), 1 - math.exp(-hazard * 56)
    num = NUM_DRAWS * NUM_PATIENTS
    for code, share in ((NE, 1 - stay), (PD, stay * new), (SD, stay * (1 - new)), (PR, 0.0), (CR, 0.0)):
        assert abs(counts[code] / num - share) <= SIGMA * math.sqrt(share * (1 - share) / num)


@pytest.mark.long
def test_a_drug_lowers_the_hazard_of_new_lesions_while_it_acts():
    # tumours that do not move: SD unless a new lesion is there; a is at 0.9 and 0.45 by turns, b and c at 0.9
    hazard, ratio = 0.006, np.array([0.5, 1.0, 2.0])
    law = law_of(
        **QUIET | {"new_lesion_hazard": hazard},
        growth_scale=0.0,
        effect_mean=np.zeros((3, 2)),
        gamma=np.zeros((3, 3)),
    )
    plain = simulate(law).best_response
    ln_ratio = jnp.broadcast_to(jnp.asarray(np.log(ratio), jnp.float32), (NUM_DRAWS, 3))
    counts = simulate(law._replace(ln_new_lesion_ratio=ln_ratio)).best_response
    num = NUM_DRAWS * NUM_PATIENTS
    of_a, of_c = (0.5**0.9 + 0.5**0.45) / 2, 2.0**0.9
    for regimen, times in ((A, of_a), (AB, of_a), (C, of_c), (PART_A, of_a), (BLISS, of_a)):
        share = 1.0 - math.exp(-times * hazard * 56)
        found = counts[:, regimen, :, PD].sum() / num
        assert abs(found - share) <= SIGMA * math.sqrt(share * (1 - share) / num)
    # b does nothing, and the patients are the same
    np.testing.assert_array_equal(counts[:, PART_B], plain[:, PART_B])
    # patients who have an exposure of their own: the same hazard from the means of the two points
    none = dict(exposure_sd=jnp.zeros((NUM_DRAWS, 3)), missed_dose=jnp.zeros((NUM_DRAWS, 3)))
    mean = exposure_of()
    points = jnp.stack([mean, mean, jnp.zeros_like(mean)], axis=-1)
    own = simulate(law._replace(ln_new_lesion_ratio=ln_ratio, **none), points).best_response
    np.testing.assert_array_equal(own, counts)


@pytest.mark.long
def test_arms_differ_in_how_many_leave_and_not_in_who_would():
    # tumours that do not move: SD to the end, unless nobody looks; a threefold hazard in the combination, none in c
    leaving, ratio = 0.002, [1.0, 3.0, 0.0]
    law = law_of(
        **QUIET | {"discontinuation_hazard": leaving},
        growth_scale=0.0,
        effect_mean=np.zeros((3, 2)),
        gamma=np.zeros((3, 3)),
    )
    regimens = lay_out(DRUGS, [["a"], ["a", "b"], ["c"]], ratio)
    # the null models of the combination are of its arm
    np.testing.assert_array_equal(regimens.discontinuation, [1.0, 3.0, 0.0, 3.0, 3.0, 3.0])
    asked = trial.Endpoints(NUM_ARMS)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1)
    counts, more = trial.simulate(
        KEY, Trial(law, exposure_of(), SCHEDULE, regimens, PREVALENCE), endpoints=asked, **settings
    )
    none, num = np.asarray(counts.best_response)[..., NE].sum(axis=(0, 2)), NUM_DRAWS * NUM_PATIENTS
    for k, times in enumerate(regimens.discontinuation.tolist()):
        share = 1.0 - math.exp(-times * leaving * 56)
        assert abs(none[k] / num - share) <= SIGMA * math.sqrt(share * (1 - share) / num)
    np.testing.assert_array_equal(num - none[:NUM_ARMS], more.evaluable.sum(axis=(0, 2)))
    # who leaves before the last visit and dies then has no progression before it: of c, nobody
    deaths = np.asarray(more.course)[..., 2].sum(axis=(0, 2, 3, 4))
    assert deaths[2] == 0
    for k in (A, AB):
        share = 0.1 * (1.0 - math.exp(-ratio[k] * leaving * 280))
        assert abs(deaths[k] / num - share) <= SIGMA * math.sqrt(share * (1 - share) / num)
    # an arm with the factor 1 has the patients that it has without any factor, in another order of arms too
    plain = simulate(law)
    np.testing.assert_array_equal(counts.best_response[:, A], plain.best_response[:, A])
    turned = lay_out(DRUGS, [["c"], ["a", "b"], ["a"]], ratio[::-1])
    turned = simulate(law, regimens=turned)
    np.testing.assert_array_equal(turned.best_response[:, :3], np.asarray(counts.best_response)[:, [C, AB, A]])
    assert lay_out(DRUGS, [["a"], ["b"]], [1.0, 1.0]).discontinuation is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_patients=0), "num_patients: got 0; allowed is 1 to"),
        (dict(chunk=0), "chunk: got 0"),
        (dict(exposure=jnp.zeros((4, 2, 3, 20))), r"exposure: got the shape \(4, 2, 3, 20\).*\(4, 6, 3, 20\)"),
        (dict(law=law_of()._replace(kill_scale=jnp.zeros(3))), "law: kill_scale do not have the 4 draws"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"law": law_of(), **change})


def test_late_visits_see_the_tumour_of_the_day_by_hand():
    law = law_of(**QUIET | {"visit_delay": 6.0}, **CONSTANT, effect_mean=np.full((3, 2), 1.0))
    got = trajectories(KEY, trial_of(law))
    late = np.asarray(got.visit_day) - VISIT_DAY
    # exponential of mean 6 days, cut off at 56 once in exp(9.3) visits
    assert late.min() >= 0.0 and late.max() <= 56.0
    num = late.size
    assert abs(late.mean() - 6.0) < SIGMA * 6.0 / math.sqrt(num)
    assert abs((late > 12.0).mean() - math.exp(-2.0)) < SIGMA * math.sqrt(math.exp(-2.0) / num)
    # c acts alike on all days: the size is that of the actual day; float32 days of up to 336
    rate = 0.0067 - 0.018
    np.testing.assert_allclose(got.sld[C], 70.0 * np.exp(rate * got.visit_day / 3.0), rtol=1e-5)
    # a is on for 14 days from each planned visit: kill 0.018, and 0.0135 on average until then; after the last, 0.009
    drop = 0.0068 * VISIT_DAY + late * np.array([0.018, 0.018, 0.018, 0.018, 0.009]) - 0.0067 * late
    within = late <= 14.0
    np.testing.assert_allclose(np.asarray(got.sld[A])[within], (70.0 * np.exp(-drop / 3.0))[within], rtol=1e-5)


def test_a_visit_is_never_later_than_the_next_is_planned():
    got = trajectories(KEY, trial_of(law_of(**QUIET | {"visit_delay": 60.0})))
    day = np.asarray(got.visit_day)
    assert np.all(np.diff(day, axis=1) >= 0.0) and np.all(day[:, :-1] <= VISIT_DAY[1:]) and day.max() == 336.0


def test_confirmation_counts_the_days_between_the_visits_that_were_made():
    """Visits 28 days apart; a late first response is not confirmed by the visit after it, which is on time."""
    days = 28.0 * np.arange(1, 6)
    schedule = Schedule(jnp.arange(0.0, 141.0, 14.0), jnp.asarray([1, 3, 5, 7, 9]), jnp.asarray(days))
    law = law_of(**QUIET, **CONSTANT, effect_mean=np.full((3, 2), 1.0))._replace(visit_delay=jnp.full(4, 4.0))
    exposure = exposure_of()[..., :10]
    got = trajectories(KEY, Trial(law, exposure, schedule, REGIMENS, PREVALENCE))
    day, codes = np.asarray(got.visit_day), np.asarray(got.codes[C])
    # c is a PR from day 95 on: at the fourth and fifth visit, some at a late third one
    confirmed = [
        any(one[i] == PR == one[j] and when[j] - when[i] >= 28.0 for i in range(5) for j in range(i + 1, 5))
        for one, when in zip(codes, day, strict=True)
    ]
    assert 0.3 < np.mean(confirmed) < 0.9
    np.testing.assert_array_equal(np.asarray(got.best_response[C]) == PR, confirmed)


def cut_off(law: PatientLaw, accrual: float, after: float) -> PatientLaw:
    return law._replace(accrual=jnp.full(NUM_DRAWS, accrual), cut_off=jnp.full(NUM_DRAWS, after))


@pytest.mark.long
@pytest.mark.parametrize("numbers", ["independent", "sobol"])
def test_at_a_cut_off_patients_have_been_followed_since_they_entered(numbers):
    # c alone: a PR at 56 days that the visit of day 112 confirms; followed for 250 - 200 u days
    law = law_of(**QUIET, **CONSTANT, effect_mean=np.full((3, 2), 1.0), kill_scale=[0.4, 0.5, 0.8])
    asked = trial.Endpoints(NUM_ARMS)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1, numbers=numbers, endpoints=asked)
    counts, more = trial.simulate(KEY, trial_of(cut_off(law, 200.0, 250.0)), **settings)
    num = NUM_DRAWS * NUM_PATIENTS
    best = np.asarray(counts.best_response)[:, C].sum((0, 1)) / num
    unconfirmed = np.asarray(counts.best_unconfirmed)[:, C].sum((0, 1)) / num
    # entered by day 138, 112 days before the cut-off: 69 %; by day 194, 56 days before it: 97 %
    for found, share in ((best[PR], 0.69), (best[SD], 0.97 - 0.69), (best[NE], 0.03), (unconfirmed[PR], 0.97)):
        assert abs(found - share) <= SIGMA * math.sqrt(share * (1 - share) / num)
    # nobody progresses: censored at the last visit before the cut-off, the fourth (day 224) for 13 %
    ends = np.asarray(more.course)[:, C, ..., 0].sum((0, 1, 2)) / num
    np.testing.assert_allclose(ends, [0.03, 0.28, 0.28, 0.28, 0.13, 0.0], atol=SIGMA * 0.5 / math.sqrt(num))


@pytest.mark.long
def test_a_late_cut_off_is_none_and_an_earlier_one_takes_from_the_same_patients(counts):
    equal(counts, simulate(cut_off(law_of(), 365.0, 365.0 + 336.0)))
    early = simulate(cut_off(law_of(), 150.0, 200.0))
    assert np.all(responders(early) < responders(counts))
    # who cannot have been seen for the shortest stable disease is not evaluable; the patients are the same
    np.testing.assert_array_equal(early.num_patients, counts.num_patients)
    # independent action of the same patients at the same cut-off, in another order of arms
    turned = lay_out(DRUGS, [["c"], ["b", "a"], ["a"]])
    other = simulate(cut_off(law_of(), 150.0, 200.0), regimens=turned)
    np.testing.assert_array_equal(other.best_response, early.best_response[:, [C, AB, A, PART_B, PART_A, BLISS]])


def test_a_death_after_the_last_scan_before_the_cut_off_is_not_counted():
    """Cut off on day 100, with scans on days 56 and 112: nobody alive is seen after day 56."""
    asked = trial.Endpoints(NUM_ARMS)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1, endpoints=asked)
    _, more = trial.simulate(KEY, trial_of(cut_off(dying(0.004, 0.0), 0.0, 100.0)), **settings)
    num, deaths = NUM_DRAWS * NUM_PATIENTS, np.asarray(more.course)[:, A, ..., 2].sum((0, 1, 2))
    share = -math.expm1(-0.004 * 56)
    assert abs(deaths.sum() / num - share) <= SIGMA * math.sqrt(share * (1 - share) / num)
    assert deaths[1] == deaths.sum()


def dying(hazard: float, visit_delay: float) -> PatientLaw:
    """Tumours that do not move; who leaves dies."""
    return law_of(
        **QUIET | {"discontinuation_hazard": hazard, "visit_delay": visit_delay},
        death_share=1.0,
        growth_scale=0.0,
        effect_mean=np.zeros((3, 2)),
        gamma=np.zeros((3, 3)),
    )


def test_a_cut_off_does_not_bend_the_curve_of_those_who_die():
    """Followed for 20 to 220 days, who die exponentially: the curve of trials that are on time is that of the law."""
    asked = trial.Endpoints(NUM_ARMS)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1, endpoints=asked)
    _, more = trial.simulate(KEY, trial_of(cut_off(dying(0.004, 0.0), 200.0, 220.0)), **settings)
    by_end = np.asarray(more.course)[:, A].sum((0, 1, 2))
    curve = landmark_curve(by_end[:, 2], by_end[:, 0])
    # Greenwood's variance, of the expected numbers: followed to a visit are (220 - day) / 200 of the patients
    variance, alive = 0.0, 1.0
    for visit, day in enumerate(VISIT_DAY[:3], start=1):
        now = math.exp(-0.004 * day)
        variance += (1 - now / alive) / (now * (220 - day) / 200 * NUM_DRAWS * NUM_PATIENTS)
        alive = now
        assert abs(curve[visit] - now) <= SIGMA * now * math.sqrt(variance)


# ------------------------------------------------------------------------------------------------ independent reading


def slow_course(one, law, exposure, present, bliss, deviation):
    """One patient under one regimen in float64, loops over segments and lesions; SLD as read, codes of the visits."""
    drugs = np.flatnonzero(present & (one.sensitive > 0))
    ln_volume, at_visit, rates = 0.0, {}, []
    for segment, (start, end) in enumerate(pairwise(EDGES)):
        fine = start + (np.arange(50) + 0.5) / 50 * (end - start)
        decay = [np.exp(-one.loss_rate[d] * fine).mean() for d in range(3)]
        strength = [law.kill_scale[d] * exposure[d, segment] * decay[d] for d in range(3)]
        joint = sum(one.effect[d] * strength[d] for d in drugs)
        if len(drugs) == 2:
            a, b = drugs
            together = math.sqrt(strength[a] * strength[b])
            width = 0.05 * together
            e = [one.effect[d] * strength[d] for d in drugs]
            lead = 1 / (1 + math.exp(np.clip((e[1] - e[0]) / width, -700, 700)))
            phi = 1.0 if bliss else law.phi[a, b]
            joint = lead * e[0] + (1 - lead) * e[1] + phi * (lead * e[1] + (1 - lead) * e[0])
            if not bliss:
                scale = law.kill_scale[a] * law.kill_scale[b] * decay[a] * decay[b]
                joint += law.gamma[a, b] * math.sqrt(scale) * exposure[a, segment] * exposure[b, segment]
                joint += deviation * together
        rates.append(one.growth * (law.growth_scale - joint))
        ln_volume += rates[-1] * (end - start)
        at_visit[end] = ln_volume
    last_segment = len(rates) - 1

    baseline = one.diameter.sum()
    nadir = read_baseline = baseline * math.exp(one.reading[0])
    sld, codes, risk, hazard, last = [], [], 0.0, law.new_lesion_hazard, 0.0
    for v, planned in enumerate(VISIT_DAY):
        late = min(one.visit_delay[v], 56.0)  # by the next planned visit at the latest
        day = planned + late
        ln_volume = at_visit[planned] + late * rates[min(4 * (v + 1), last_segment)]
        sizes = [d * math.exp(pace * ln_volume / 3) for d, pace in zip(one.diameter, one.pace, strict=True)]
        now = law.new_lesion_hazard * (sum(sizes) / baseline) ** law.new_lesion_power
        risk, hazard, last = risk + (hazard + now) / 2 * (day - last), now, day
        size = sum(x for x in sizes if x >= 2.0) * math.exp(one.reading[v + 1])
        sld.append(size)
        if one.missed[v] or law.discontinuation_hazard * day > one.discontinuation_e:
            codes.append(NE)
            continue
        grown = size >= 1.2 * nadir and size - nadir >= 5.0
        code = CR if size == 0 else PD if grown else PR if size <= 0.7 * read_baseline else SD
        codes.append(PD if risk >= one.new_lesion_e else code)
        nadir = min(nadir, size)
    return sld, codes


def test_patients_one_by_one_against_a_slow_reading_of_the_equations(counts):
    law, exposure, num = law_of(), exposure_of(), 60
    got = trajectories(KEY, trial_of(law))
    best = jax.jit(jax.vmap(partial(best_overall_response, rule=RECIST_1_1)))
    draw, several = 2, [AB, BLISS]
    one_law = jax.tree.map(lambda leaf: leaf[draw], law)
    names = REGIMENS.drug_hash, REGIMENS.combination_hash[jnp.array(several)]
    parts = EVERYTHING._replace(late_visits=True, resistance=True)
    deviates = block_deviates(draw_key(KEY, jnp.int32(draw)), jnp.int32(0), *names, len(VISIT_DAY), parts)
    people = patients_of(one_law, deviates, PREVALENCE, parts)
    people = jax.tree.map(lambda leaf: np.asarray(leaf[..., :num], np.float64), people)
    one_law = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), one_law)
    for k in range(NUM_REGIMENS):
        present, bliss = np.asarray(REGIMENS.present[k]), bool(REGIMENS.bliss[k])
        place = several.index(k) if k in several else 0  # not read for one drug
        courses = [
            slow_course(one, one_law, np.asarray(exposure[draw, k], np.float64), present, bliss, one.combination[place])
            for one in (jax.tree.map(lambda leaf, i=i: leaf[..., i], people) for i in range(num))
        ]
        here = slice(draw * 400, draw * 400 + num)
        sld, codes = np.array([c[0] for c in courses]), np.array([c[1] for c in courses])
        # 20 segments of ln volume of order 1 in float32, and 50 midpoints a segment
        np.testing.assert_allclose(got.sld[k, here], sld, rtol=1e-4)
        np.testing.assert_array_equal(got.codes[k, here], codes)
        # PD windows and confirmation are of the days on which the visits were made
        day = got.visit_day[here]
        np.testing.assert_allclose(day, VISIT_DAY + np.minimum(people.visit_delay, 56.0).T, rtol=1e-6)
        np.testing.assert_array_equal(got.best_response[k, here], best(jnp.asarray(codes), day))


def test_trajectories_are_of_the_patients_that_are_counted():
    got = trajectories(KEY, trial_of(law_of()))
    counted = simulate(law_of(), num_patients=400)
    best = np.asarray(got.best_response).reshape(NUM_REGIMENS, NUM_DRAWS, 400)
    classes = np.stack([(best == code).sum(axis=-1) for code in range(5)], axis=-1).swapaxes(0, 1)
    np.testing.assert_array_equal(classes, counted.best_response.sum(axis=2))
    # what was never assessed has no change, and a response is a change of -30 % or more
    change, response = np.asarray(got.best_change), np.asarray(got.best_response)
    assert np.all(change[response <= PR] <= -0.3 + 1e-4)
    np.testing.assert_array_equal(np.isnan(change), np.all(np.asarray(got.codes) == NE, axis=-1))


# ------------------------------------------------------------------------------------------------ endpoints


NUM_ARMS = 3


@pytest.fixture(scope="module")
def endpoints():
    """Counts and endpoints of the arms of the module's trial, with a blinded reader."""
    asked = trial.Endpoints(NUM_ARMS, blinded=True, days=True)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1, endpoints=asked)
    both = trial.simulate(KEY, trial_of(law_of()), **settings)
    return jax.tree.map(np.asarray, both)


@pytest.mark.long
def test_endpoints_leave_the_counts_as_they_are(counts, endpoints):
    equal(counts, endpoints[0])


def test_every_table_of_the_endpoints_holds_every_patient_once(counts, endpoints):
    more = endpoints[1]
    everyone = np.broadcast_to(counts.num_patients[:, None], (NUM_DRAWS, NUM_ARMS, 2))
    np.testing.assert_array_equal(more.course.sum((-1, -2, -3)), everyone)
    np.testing.assert_array_equal(more.change.sum(-1), everyone)
    np.testing.assert_array_equal(more.blinded.sum(-1), everyone)


def test_endpoints_agree_with_the_best_response(counts, endpoints):
    """Each from another program: visits of the course, classes of the best response, readers."""
    more, best = endpoints[1], counts.best_response[:, :NUM_ARMS]
    local = best[..., [CR, PR]].sum(-1)
    np.testing.assert_array_equal(more.course[..., 1:, :, :].sum((-1, -2, -3)), local)
    # without an assessment there is no best change, and no response
    np.testing.assert_array_equal(more.change[..., :-1].sum(-1), more.evaluable)
    assert np.all(best[..., NE] >= counts.num_patients[:, None] - more.evaluable)
    blinded = more.blinded[..., [CR, PR]].sum(-1)
    assert np.all(more.both <= np.minimum(local, blinded)) and more.both.sum() > 0
    # nobody responds or ends before the first visit, and none ends before they respond
    start, end = np.indices(more.course.shape[3:5])
    assert not more.course[..., (start > end), :].any()
    assert more.course[..., 2].any()


@pytest.mark.long
def test_days_of_the_endpoints_are_those_of_the_visits_that_were_made():
    """Every patient's days from their course, by the functions for one patient, against the counts."""
    num = 400
    asked = trial.Endpoints(NUM_ARMS, days=True)
    alive = trial_of(law_of(death_share=0.0))
    _, more = trial.simulate(KEY, alive, num_patients=num, endpoints=asked, devices=ONE_DEVICE)
    got = trajectories(KEY, alive)

    @jax.jit
    @jax.vmap
    def times(codes, day):
        return time_to_progression(codes, day), time_to_response(codes, day)

    size = more.end_day.shape[-2]
    assert size == 280 + 1
    for k in range(NUM_ARMS):
        end, start = times(got.codes[k], got.visit_day)
        last, first = (np.asarray(jnp.round(one.day)).astype(int).reshape(NUM_DRAWS, num) for one in (end, start))
        kind, responds = (np.asarray(one.event).reshape(NUM_DRAWS, num) for one in (end, start))
        # what comes after the planned day of the last visit is not read
        kind, last, first = kind & (last <= 280), np.minimum(last, 280), np.minimum(first, 280)
        for draw in range(NUM_DRAWS):
            by_end = np.zeros((size, 3), int)
            np.add.at(by_end, (last[draw], kind[draw].astype(int)), 1)
            np.testing.assert_array_equal(more.end_day[draw, k].sum(0), by_end)
            who = responds[draw]
            by_start = np.bincount(first[draw][who], minlength=size)
            np.testing.assert_array_equal(more.response_day[draw, k].sum(0), by_start)
            lasted = np.zeros((size, 2), int)
            np.add.at(lasted, ((last - first)[draw][who], kind[draw][who].astype(int)), 1)
            np.testing.assert_array_equal(more.duration[draw, k].sum(0), lasted)


def test_days_and_visits_of_the_endpoints_hold_the_same_patients(endpoints):
    more, last = endpoints[1], int(VISIT_DAY[-1])
    np.testing.assert_array_equal(more.end_day.sum((-1, -2)), more.course.sum((-3, -2, -1)))
    np.testing.assert_array_equal(more.response_day.sum(-1), more.course[..., 1:, :, :].sum((-1, -2, -3)))
    np.testing.assert_array_equal(more.duration.sum((-1, -2)), more.response_day.sum(-1))
    # before the planned day of the last visit there is all that the visits before it saw, and who died before that day
    before = more.end_day[..., :last, :].sum(-2)
    np.testing.assert_array_equal(before[..., :2], more.course[..., :-1, :2].sum((-3, -2)))
    assert np.all(before[..., 2] >= more.course[..., :-1, 2].sum((-2, -1)))
    # between the last day on which the first visit may be and the second, nobody progresses; people die on any day
    days = np.arange(more.end_day.shape[-2])
    by_kind = more.end_day.sum((0, 1, 2))
    assert not by_kind[days < 56, 1].any() and by_kind[days < 56, 2].any()


@pytest.mark.long
def test_late_last_visits_do_not_take_a_curve_to_nothing():
    """Nobody leaves: before the planned day of a visit the curve is that of the visits before it, to rounding.

    On the last planned day there is less than what the last visit will have seen, since most make it later. Patients
    leave with that visit, on days of their own: with all of those days the curve would end at 0.
    """
    law = law_of(discontinuation_hazard=0.0, missed_visit=0.0)
    asked = trial.Endpoints(NUM_ARMS, days=True)
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1, endpoints=asked)
    _, more = trial.simulate(KEY, trial_of(law), **settings)
    days, by_day = ends_by_day(more, VISIT_DAY.tolist())
    curve, by_visit = survival_curves(by_day)["pfs"], survival_curves(ends_by_visit(more))["pfs"]
    assert days[-1] == VISIT_DAY[-1]
    before = [int(day) - 1 for day in VISIT_DAY]
    np.testing.assert_allclose(curve[..., before], by_visit[..., :-1], rtol=1e-12)
    assert np.all((by_visit[..., -1] <= curve[..., -1]) & (curve[..., -1] <= by_visit[..., -2]))
    assert by_visit[..., -1].min() > 0.05  # there is something to lose


def test_deaths_are_dated_on_their_own_day():
    """Tumours that do not move and everybody who leaves dies: an exponential, whatever the visits."""
    leaving = 0.004
    settings = dict(num_patients=NUM_PATIENTS, devices=ONE_DEVICE, chunk=1)
    asked = trial.Endpoints(NUM_ARMS, days=True)
    _, more = trial.simulate(KEY, trial_of(dying(leaving, 5.0)), endpoints=asked, **settings)
    deaths, num = np.asarray(more.end_day)[:, 0, :, :, 2].sum((0, 1)), NUM_DRAWS * NUM_PATIENTS
    assert deaths[0] == 0
    for day in (1, 20, 100, 250):
        # days are whole: up to half a day later
        share = -math.expm1(-leaving * (day + 0.5))
        assert abs(deaths[: day + 1].sum() / num - share) <= SIGMA * math.sqrt(share * (1 - share) / num)


@pytest.mark.long
def test_without_late_visits_nothing_is_counted_by_the_day():
    law = law_of(visit_delay=0.0)
    settings = dict(num_patients=BLOCK, devices=ONE_DEVICE, chunk=1)
    with_days, without = (
        trial.simulate(KEY, trial_of(law), endpoints=trial.Endpoints(NUM_ARMS, days=days), **settings)
        for days in (True, False)
    )
    assert with_days[1].end_day is None and with_days[1].response_day is None and with_days[1].duration is None
    equal(with_days, without)


def test_an_endpoint_needs_an_arm():
    with pytest.raises(ValueError, match="num_arms: got 7; allowed is 1 to 6"):
        trial.simulate(KEY, trial_of(law_of()), num_patients=1, endpoints=trial.Endpoints(7))


# ------------------------------------------------------------------------------------------------ whence the numbers


REPLICATES = 32


@pytest.fixture(scope="module")
def replicates():
    """Response rates of 32 replicates of one law, 4,096 patients each, by numbers: [draws, regimens]."""
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], (REPLICATES, *leaf.shape[1:])), trial_of(law_of()).law)
    exposure = jnp.broadcast_to(exposure_of()[:1], (REPLICATES, *exposure_of().shape[1:]))
    asked = Trial(one, exposure, SCHEDULE, REGIMENS, PREVALENCE)
    rates = {}
    for numbers in ("independent", "sobol"):
        found, _ = trial.simulate(KEY, asked, num_patients=2 * BLOCK, numbers=numbers, devices=ONE_DEVICE)
        rates[numbers] = np.asarray(found.best_response)[..., [CR, PR]].sum((-1, -2)) / (2 * BLOCK)
    return rates


@pytest.mark.long
def test_sobol_and_independent_numbers_agree_within_their_errors(replicates):
    sobol, independent = replicates["sobol"], replicates["independent"]
    error = np.sqrt((sobol.var(0, ddof=1) + independent.var(0, ddof=1)) / REPLICATES)
    assert np.all(np.abs(sobol.mean(0) - independent.mean(0)) < SIGMA * error)


def test_the_error_that_is_stated_is_the_error(replicates):
    """Independent numbers have that of the binomial; points of the sequence a smaller one."""
    rate = replicates["independent"].mean(0)
    binomial = rate * (1 - rate) / (2 * BLOCK)
    # the variance of 32 replicates is known to sqrt(2 / 31), and all regimens share their patients
    spread = SIGMA * math.sqrt(2 / (REPLICATES - 1))
    ratio = replicates["independent"].var(0, ddof=1) / binomial
    assert np.all((ratio > 1 / (1 + spread)) & (ratio < 1 + spread))
    # five SD below the variance of chance would be below 0; the regimens of one drug gain several fold
    assert np.median(replicates["sobol"].var(0, ddof=1) / binomial) < 0.5


@pytest.mark.long
def test_sobol_patients_do_not_hang_on_what_is_asked_for():
    first = simulate(law_of(), numbers="sobol")
    equal(first, simulate(law_of(), numbers="sobol", devices=jax.devices()[:2], chunk=3))
    fewer = simulate(law_of(), numbers="sobol", num_patients=BLOCK)
    assert all(np.all(a <= b) for a, b in zip(fewer, first, strict=True))
    regimens = lay_out(DRUGS, [["c"], ["b", "a"], ["a"]])
    turned = simulate(law_of(), regimens=regimens, numbers="sobol")
    np.testing.assert_array_equal(turned.best_response, first.best_response[:, [C, AB, A, PART_B, PART_A, BLISS]])


@pytest.mark.long
def test_what_a_law_does_not_have_is_left_out_without_a_change():
    none = ("new_lesion_hazard", "discontinuation_hazard", "missed_visit", "reader_effect", "visit_delay")
    quiet = law_of(**dict.fromkeys(none, 0.0), resistant_share=np.zeros(3))
    assert parts_of(quiet) == Parts(*[False] * 8)
    equal(simulate(quiet), simulate(quiet, parts=EVERYTHING._replace(late_visits=True, resistance=True)))
    equal(simulate(quiet), simulate(quiet._replace(visit_delay=None, resistant_share=None)))
