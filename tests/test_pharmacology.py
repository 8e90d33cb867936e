"""Dose intensity, missed doses and exposure of single patients, by hand and against doses that are really missed."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import dosing as regimens
from vtrial import exposure, pharmacology
from vtrial.dosing import Dosing
from vtrial.exposure import DoseResponse
from vtrial.prior_draws import PriorSampler
from vtrial.priors import load_priors

AVUTOMETINIB = Dosing(3.2, "mg", days=(1, 4), repeat_days=7, on_days=21, cycle_days=28)
BINIMETINIB = Dosing(45.0, "mg", times_per_day=2)
SIZE = 4000


@pytest.fixture(scope="module")
def priors():
    return load_priors()


@pytest.fixture(scope="module")
def sampler(priors):
    return PriorSampler(jax.random.key(4), priors, SIZE)


def test_level_is_what_the_regimen_says_else_the_priors(priors, sampler):
    info = priors.drug("binimetinib")

    def level(dosing, together=False, drug=info):
        return pharmacology.level(dosing, together, drug, "LGSOC", sampler)

    alone, beside = level(BINIMETINIB), level(BINIMETINIB, True)
    assert np.all(beside < alone), "a combination lowers both"
    # Beta of mean 0.9: SD of the mean sqrt(0.9 x 0.1 / 41 / 4000)
    assert abs(alone.mean() - 0.9) < 5 * math.sqrt(0.9 * 0.1 / 41 / SIZE)
    np.testing.assert_array_equal(alone, level(AVUTOMETINIB, drug=priors.drug("avutometinib")))
    np.testing.assert_array_equal(level(BINIMETINIB._replace(intensity=0.7), True), np.full(SIZE, 0.7))
    # patients who differ about the priors' mean take 95 % of the doses on average where the regimen says so
    missed = sampler.resolved("patients", "LGSOC", "missed_dose")
    said = level(BINIMETINIB._replace(intensity=1.0, missed=0.05))
    e = np.random.default_rng(2).exponential(size=SIZE)
    np.testing.assert_allclose(said / (1.0 + missed), 0.95, rtol=1e-12)
    # and E exp(-m e) is 1 / (1 + m): SE of its mean below m / sqrt(4000)
    assert abs(np.exp(-missed * e).mean() - (1.0 / (1.0 + missed)).mean()) < 5 * missed.max() / math.sqrt(SIZE)
    # an infusion is not forgotten at home
    gemcitabine = level(Dosing(1000.0, "mg/m2", intensity=1.0, missed=0.05), drug=priors.drug("gemcitabine"))
    np.testing.assert_allclose(gemcitabine, 0.95, rtol=1e-12)


def test_an_arm_gives_the_infusion_of_its_regimen_else_that_of_the_reference(priors, sampler):
    """The curves of an arm against those of amounts under infusions, and two arms that differ in the length alone."""
    edges = jnp.asarray([0.0, 7.0, 14.0, 28.0], jnp.float32)
    gemcitabine = Dosing(1000.0, "mg/m2", days=(1, 8, 15), repeat_days=28, intensity=1.0, missed=0.0)
    arms = [{"gemcitabine": gemcitabine._replace(infusion_days=length)} for length in (None, 0.25 / 24, 0.5, 0.0)]
    curves = pharmacology.arm_exposure(edges, arms, ["gemcitabine"], "PDAC", sampler, priors)
    low, high, weight = np.moveaxis(np.asarray(curves, float), -1, 0)
    mean = (low + weight * (high - low))[:, :, 0]
    # priors: half of a dose is there after a quarter of an hour; effects differ little from those of a short infusion
    assert 0 < np.abs(mean[:, 0] - mean[:, 1]).max() < 5e-3
    info = priors.drug("gemcitabine")
    response = pharmacology.dose_response(info, sampler)
    rate = regimens.dose_rate(info.pk.reference.to_dosing())
    factor = pharmacology.level(gemcitabine, False, info, "PDAC", sampler)
    time = jnp.linspace(0.0, 7.0, 7 * 480 + 1)
    for arm, length in ((2, 0.5), (3, 0.0)):
        for draw in (0, 7):
            one = jax.tree.map(lambda leaf, draw=draw: leaf[draw], response)
            given = jnp.asarray([0.0]), jnp.asarray([1000.0 * factor[draw]], jnp.float32)
            now = exposure.amount(time, *given, one, length)
            effects = np.asarray(exposure.effect(now, exposure.half_amount(rate, one), one.hill))
            # a jump in the first of 3,360 steps: 0.5 / 3360; and the stated error of a segment's mean
            assert abs(np.trapezoid(effects, np.asarray(time)) / 7.0 - mean[draw, arm, 0]) < 2e-4 + 2e-4
    with_reference = info.pk._replace(reference=info.pk.reference.model_copy(update={"infusion": 0.5}))
    assert pharmacology.infusion_days(gemcitabine, dataclasses.replace(info, pk=with_reference)) == 0.5
    assert pharmacology.infusion_days(gemcitabine, info) is None


def test_what_patients_differ_by(priors, sampler):
    drugs = ("trametinib", "defactinib", "gemcitabine", "ifebemtinib")
    found = pharmacology.between_patients(drugs, "LGSOC", sampler, priors)
    assert set(found) == {"exposure_sd", "missed_dose"}, "no effect of these is linear"
    sd, missed = (found[name] for name in ("exposure_sd", "missed_dose"))
    # medians of log-normal priors: SE of ln median is 1.25 sigma / sqrt(4000)
    for column, median, sigma in ((0, 0.24, 0.15), (1, 0.5, 0.25), (2, 0.3, 0.3), (3, 0.5, 0.25)):
        assert abs(math.log(np.median(sd[:, column]) / median)) < 5 * 1.25 * sigma / math.sqrt(SIZE)
    assert not missed[:, 2].any()
    np.testing.assert_array_equal(missed[:, 0], missed[:, 1])


@pytest.mark.parametrize(
    ("dosing", "half_life"), [(BINIMETINIB, 5 / 24), (AVUTOMETINIB, 55 / 24)], ids=["binimetinib", "avutometinib"]
)
def test_doses_missed_at_random_do_what_the_level_does(dosing, half_life):
    """Mean effect over eight weeks, each dose missed with probability 0.1, against 90 % of every dose."""
    edges = jnp.asarray([0.0, 56.0])
    times, amounts = (np.array([dose[i] for dose in regimens.doses(dosing, 56)]) for i in (0, 1))
    response = DoseResponse(*(jnp.asarray(x) for x in (half_life, 0.02, 4.0, 1.0)))
    rate = regimens.dose_rate(dosing)

    @jax.jit
    @jax.vmap
    def mean_effect(amounts):
        return exposure.segment_effect(edges, jnp.asarray(times), amounts, rate, response, pieces=112)[0]

    taken = np.random.default_rng(3).random((200, len(times))) > 0.1
    effects = np.asarray(mean_effect(jnp.asarray(taken * amounts)))
    level = float(mean_effect(jnp.asarray(0.9 * amounts[None, :]))[0])
    error = 4 * effects.std() / math.sqrt(len(effects))
    # the effect is concave in the amount, so that missing at random costs more than the level says, but at most 0.03
    assert level - 0.03 < effects.mean() < level + error, (level, effects.mean(), error)
