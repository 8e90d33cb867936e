"""What the priors say before any mouse, in lines and in a picture."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
import yaml

from vtrial.config import Experiment
from vtrial.consequences import Consequence, _average_drug, consequences, sentence
from vtrial.model_format import CurveShape
from vtrial.mouse_prior import PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.prior_mice import GROWN, NUM_MICE, prior_mice
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


def test_mice_of_the_priors_are_lines_of_their_own() -> None:
    priors, size = load_priors(), 400
    mice = PriorDraws(jax.random.key(1), priors, size)
    found = prior_mice(PriorSampler(jax.random.key(2), priors, size), mice, CurveShape())
    assert np.isfinite(found.grown).all() and np.all(found.grown > 0)
    one, two = found.one.mean(1), found.two.mean(1)
    assert 0.02 < one.mean() < two.mean() < 0.6, "a second drug adds more than it takes"
    # with common responders more respond, by the draws of the same names
    common = PriorDraws(jax.random.key(1), priors, size, responders=True)
    more = prior_mice(PriorSampler(jax.random.key(2), priors, size), common, CurveShape())
    np.testing.assert_array_equal(more.grown, found.grown)
    assert more.one.mean() > found.one.mean()
