"""What the priors say before any mouse, in lines and in a picture."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from vtrial.config import Experiment
from vtrial.consequences import Consequence, _average_drug, consequences, sentence
from vtrial.model_format import CurveShape
from vtrial.mouse_prior import PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.prior_mice import DAYS, GROWN, NUM_MICE, prior_mice
from vtrial.priors import load_priors
from vtrial.report.prior_images import consequences_image

DAILY = {"dose": "400 mg", "times_per_day": 2, "repeat": "1 d"}


def experiment() -> Experiment:
    arms = [
        {
            "name": "defactinib 400 mg",
            "drugs": {"defactinib": DAILY},
            "observed": [{"responders": 0, "patients": 46, "source": "phase 1"}],
        }
    ]
    cohorts = [{"tumour_type": kind, "arms": arms} for kind in ("LGSOC", "PDAC")]
    return Experiment.model_validate(
        {"name": "x", "data": {"path": "x.csv", "source": "x"}, "trial": {"cohorts": cohorts}}
    )


@pytest.mark.long
def test_lines_of_an_experiment() -> None:
    priors = load_priors()
    lines = {line.what: line for line in consequences(experiment(), priors, draws=200, patients=100)}
    mouse, patient = (lines[f"an untreated tumour of a {who} doubles in"] for who in ("mouse", "patient"))
    # the ratio of the medians is the growth scale: medians of 200 draws with log-SD 1 and 0.4
    ratio = (1000 * 70 / 22.5) ** 0.25
    assert abs(math.log(patient.q50 / mouse.q50 / ratio)) < 4 * 1.25 * 0.4 / math.sqrt(200)
    assert "an untreated LGSOC tumour of a mouse doubles in" in lines  # has a prior of its own in mice
    assert "an untreated PDAC tumour of a mouse doubles in" not in lines
    assert lines["an untreated PDAC tumour of a patient doubles in"].known == pytest.approx([94.0])
    assert math.isnan(mouse.mean) and mouse.unit == "days"
    for kind in ("LGSOC", "PDAC"):
        arm = lines[f"{kind}: response rate of defactinib 400 mg"]
        assert arm.known == (0.0,) and arm.quantity == "rate"
        assert 0.0 <= arm.q05 <= arm.q50 <= arm.q95 <= 100.0 and arm.q05 <= arm.mean <= 100.0
        assert lines[f"{kind}: response rate of an average new drug"].known == ()
    image = consequences_image(list(lines.values()), "A title that is long enough to be wrapped " * 4)
    assert image.startswith(b"\x89PNG") and len(image) > 20_000


def test_common_responders_are_told_where_the_fit_has_them(monkeypatch) -> None:
    """Two lines are the quantiles of their priors, mice and patients have the component, and no other line moves."""
    priors, plain = load_priors(), experiment()
    common = plain.model_copy(update={"fit": plain.fit.model_copy(update={"responders": "common"})})
    seen = []

    def no_trial(key, cohort, mice, priors, aliases, patients):
        seen.append("responder_share" in mice)
        return np.zeros((mice.size, len(cohort.arms), 1))

    monkeypatch.setattr("vtrial.consequences._rates", no_trial)
    size = 4000
    before = consequences(plain, priors, draws=size, patients=1)
    assert not any(seen)
    seen.clear()
    lines = consequences(common, priors, draws=size, patients=1)
    assert seen and all(seen)
    others = [line for line in lines if not line.names[0].startswith("classes.default.responder")]
    assert [line for line in others if line.quantity != "mice"] == [line for line in before if line.quantity != "mice"]
    of_mice = [[line for line in each if line.quantity == "mice"] for each in (before, others)]
    assert all(more.mean > line.mean for line, more in zip(*of_mice, strict=True)) and len(of_mice[0]) == 2
    for name in ("responder_share", "responder_shift"):
        entry = priors.entry(f"classes.default.{name}")
        (line,) = (line for line in lines if line.names == (entry.name,))
        for p, found in ((0.05, line.q05), (0.5, line.q50), (0.95, line.q95)):
            # 5 standard errors of the share of draws below a quantile
            error = 5 * math.sqrt(p * (1 - p) / size)
            assert entry.quantile(p - error) < found / 100 < entry.quantile(p + error)


def test_the_average_drug_is_of_a_class_like_any_other() -> None:
    """FAK inhibitors have a spread and a discrepancy of their own, so that none of them is average."""
    priors = load_priors()
    arm = _average_drug(experiment().trial.cohorts[0], priors)
    (drug,) = arm.drugs
    found = priors.drug_class(drug)
    assert found != "FAK"
    assert not priors.names(f"classes.{found}") and not priors.names(f"translation.class_discrepancy.{found}")


def test_a_line_as_text() -> None:
    rate = Consequence("a rate", "%", "rate", 12.34, 0.0, 3.21, 56.7, (), (31.2,))
    assert sentence(rate) == "a rate: 3.2 % [0, 57], mean 12; published 31.2 %"
    time = Consequence("a time", "days", "time", math.nan, 3.81, 14.4, 76.8, ())
    assert sentence(time) == "a time: 14.4 days [3.81, 76.8]"
    assert np.isnan(time.mean)


def test_mice_of_narrow_priors_are_their_closed_form(tmp_path) -> None:
    """No spread anywhere: every mouse grows alike, and two drugs of 0.9 together are 1.45 and respond."""
    level = {"ln_rate": -2.5, "ln_volume_start": 5.0, "loss": 0.5, "slowing": 0.2, "phi": 0.5, "gamma": 0.1}
    shipped, entries = load_priors(), {}
    for prefix in ("growth.mouse", "classes.default", "class_pairs.default"):
        for name in shipped.names(prefix):
            *path, last = name.split(".")
            entry = shipped.entry(name)
            narrow = {
                "normal": {"loc": level.get(last, 0.9), "scale": 1e-6},
                "halfnormal": {"scale": 1e-6},
                "lognormal": {"median": 1e-5, "sigma": 0.1},
                "beta": dict(entry.parameters),
            }[entry.family]
            own = {"family": entry.family, "parameters": narrow, "unit": entry.unit, "source": "a test"}
            where = entries
            for part in path:
                where = where.setdefault(part, {})
            where[last] = own | {"certainty": "assumed", "note": "next to no spread"}
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(entries))
    priors, size = load_priors([tmp_path / "narrow.yaml"]), 20
    shape = CurveShape()
    found = prior_mice(
        PriorSampler(jax.random.key(2), priors, size), PriorDraws(jax.random.key(1), priors, size), shape
    )
    assert found.grown.shape == found.one.shape == found.two.shape == (size, NUM_MICE)
    q = GROWN - (1 - math.exp(-shape.loss_rate * GROWN)) / shape.loss_rate
    np.testing.assert_allclose(found.grown, math.exp(math.exp(-2.5) * (GROWN - 0.2 * q)), rtol=1e-3)
    assert not found.one.any() and found.two.all()


def test_mice_of_the_priors_have_the_spread_of_every_level(monkeypatch) -> None:
    """What goes into the curves, against sums of the moments of the priors; each level that were missing would show."""
    priors, size, given = load_priors(), 4000, []

    def curves(key, law, growth, effect, loss, ln_sigma, *, shape):
        given.append([np.asarray(each, float) for each in (growth, effect, loss, ln_sigma)] + [law])
        return jnp.zeros((*growth.shape, len(DAYS)))

    monkeypatch.setattr("vtrial.prior_mice._curves", curves)
    found = {}
    for responders in (False, True):
        given.clear()
        mice = PriorDraws(jax.random.key(1), priors, size, responders=responders)
        prior_mice(PriorSampler(jax.random.key(2), priors, size), mice, CurveShape())
        found[responders] = list(given)
    sampler = PriorSampler(jax.random.key(3), priors, 200_000)

    def variance(mean: str, *spreads: str) -> float:
        return sampler.entry(mean).var() + sum(np.square(sampler.entry(name)).mean() for name in spreads)

    def near(values: np.ndarray, expected: float) -> None:
        """One value a draw: 5 SE of a variance, from the fourth moment; and 1 % for the error of the expectation."""
        square = np.square(values - values.mean())
        assert abs(square.mean() - expected) < 5 * square.std() / np.sqrt(size) + 0.01 * expected, (
            square.mean(),
            expected,
        )

    untreated, one, two = found[False]
    levels = [f"classes.default.between_{name}" for name in ("classes", "drugs", "types")]
    of_models = np.square(sampler.entry("classes.default.between_models")).mean()
    widened = np.exp(2 * np.square(sampler.entry("classes.default.ln_between_models_spread"))).mean()
    near(
        np.log(untreated[0])[:, 0],
        variance("growth.mouse.ln_rate", *(f"growth.mouse.between_{n}" for n in ("types", "models"))),
    )
    near(one[1][:, 0], variance("classes.default.mean_effect", *levels) + of_models * widened)
    near(one[2][:, 0], variance("growth.mouse.loss", "growth.mouse.loss_spread"))
    scales = [f"growth.mouse.ln_residual_between_{name}" for name in ("types", "arms")]
    near(one[3][:, 0], variance("growth.mouse.ln_residual_sd", *scales))
    assert not untreated[1].any() and not untreated[2].any() and np.all(np.ptp(two[2], axis=1) == 0)
    # within a draw: PDX models differ, their tumour type does not
    within = np.square(sampler.entry("growth.mouse.between_models")).mean()
    of_draw = np.log(untreated[0]).var(axis=1, ddof=1)
    assert abs(of_draw.mean() - within) < 5 * of_draw.std() / np.sqrt(size) + 0.01 * within
    law = one[4]
    for name, prior in (("omega_mouse", "ln_between_mice_relative"), ("omega_curvature", "ln_curvature_sd")):
        near(np.log(np.asarray(getattr(law, name), float)), sampler.entry(f"growth.mouse.{prior}").var())
    near(np.asarray(law.curvature_correlation, float), 0.99**2 / 3)
    # common responders add their share times their shift to the mean, and to nothing else
    assert all(np.array_equal(a, b) for a, b in zip(found[True][0][:4], untreated[:4], strict=True))
    more = (found[True][1][1] - one[1]).mean(axis=1)
    expected = (
        sampler.entry("classes.default.responder_share") * sampler.entry("classes.default.responder_shift")
    ).mean()
    assert abs(more.mean() - expected) < 5 * more.std() / np.sqrt(size) + 0.01 * expected
