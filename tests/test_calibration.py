import dataclasses
import itertools

import numpy as np
import pytest
from jax import random
from scipy.special import expit, log_expit, logit
from scipy.stats import ks_2samp

from vtrial.calibration import Calibration, Drug, Teacher, grid_of, resistance_of
from vtrial.errors import InputError
from vtrial.prior_draws import LearntSampler, PriorSampler
from vtrial.priors import Priors, load_priors
from vtrial.scoring import log_likelihood
from vtrial.translation import drug_terms, resistant_share

COPIES = 2000
#: two draws of the mice: what the logit of every rate is at ln S = 0 and ln lambda = -5.3
LEVEL = np.array([0.0, -1.0])
#: id, drug in a tumour type, responders of patients
TRIALS = (
    (0, Drug("paclitaxel", "taxane", "P"), 9, 30),
    (1, Drug("paclitaxel", "taxane", "P"), 6, 30),
    (2, Drug("paclitaxel", "taxane", "Q"), 1, 20),
    (3, Drug("trametinib", "RAF/MEK", "P"), 12, 40),
    (4, Drug("defactinib", "FAK", "P"), 0, 15),
)
#: two that no trial has, beside those of the teachers
ASKED = (Drug("trametinib", "RAF/MEK", "Q"), Drug("docetaxel", "taxane", "P"))


#: the rate in patients in whom the drug does nothing
FLOOR = 0.01


def plane(ln_scale, ln_loss):
    """Logit of a rate above `LEVEL`: linear in ln S and ln lambda, 1.5 and -0.6 by one."""
    return 1.5 * ln_scale - 0.6 * (ln_loss + 5.3)


def mixed(of_the_sensitive, resistant):
    """Rate in all patients, from the logit of that in patients who are not resistant."""
    return (1.0 - resistant) * expit(of_the_sensitive) + resistant * FLOOR


def calibration(trials=TRIALS, copies: int = COPIES, priors: Priors | None = None) -> Calibration:
    priors = priors or load_priors()
    grid = grid_of({"taxane", "RAF/MEK", "FAK"}, priors)
    above = plane(grid.ln_kill_scale[:, None], grid.ln_loss[None, :])
    rate = mixed(LEVEL[:, None, None] + above, resistance_of(priors).share[:, None, None, None])
    spread = np.full(rate.size, 0.4)
    teachers = [
        Teacher(i, drug, log_likelihood(logit(rate).ravel(), spread, n, size).reshape(rate.shape))
        for i, drug, n, size in trials
    ]
    return Calibration(1, grid, teachers, ASKED, priors, len(LEVEL), copies)


@pytest.fixture(scope="module")
def sampler() -> PriorSampler:
    return PriorSampler(random.key(5), load_priors(), 300_000)


def drawn_of(sampler: PriorSampler, drug: Drug) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By the names of the translation: logit of the rate above `LEVEL` in the sensitive, ln lambda, logit of r."""
    terms = drug_terms(drug.name, drug.drug_class, sampler)
    within = sampler.entry("translation.drug_type_discrepancy")
    scale = terms.ln_kill_scale + within * sampler.normal(f"discrepancy {drug.name} in {drug.tumour_type}")
    share = resistant_share(drug.name, drug.tumour_type, sampler)
    return plane(scale, terms.ln_loss_of_effect), terms.ln_loss_of_effect, logit(share)


def weights(sampler: PriorSampler, level: float, trials) -> np.ndarray:
    """Importance weights of prior draws by the trials, the deviation of every trial drawn with them."""
    total = np.zeros(sampler.size)
    for i, drug, n, size in trials:
        above, _, share = drawn_of(sampler, drug)
        eta = logit(mixed(level + above, expit(share))) + 0.4 * sampler.normal(f"trial {i}")
        total += n * log_expit(eta) + (size - n) * log_expit(-eta)
    weight = np.exp(total - total.max())
    return weight / weight.sum()


@pytest.mark.long
@pytest.mark.parametrize("left_out", [(), (1, 2)])
def test_draws_are_those_of_importance_weights_independent_derivation(sampler, left_out) -> None:
    """The hierarchy by the names of the translation, weighted by scipy: every rate, ln lambda and share of resistant.

    Means within 4 standard errors of both, and 0.02 SD for what grids round (an SD is one of six); SDs within 4
    standard errors, 1.5 for heavy tails, and 2 %.
    """
    learnt = calibration().learnt(left_out)
    after = LearntSampler(PriorSampler(random.key(5), load_priors(), 2), learnt.normals, COPIES)
    assert learnt.teachers == 5 - len(left_out)
    for j, level in enumerate(LEVEL):
        weight = weights(sampler, level, [t for t in TRIALS if t[0] not in left_out])
        size = 1.0 / np.sum(weight**2)
        assert size > 1000
        for drug in (*ASKED, *(t[1] for t in TRIALS)):
            own, by_weight = drawn_of(after, drug), drawn_of(sampler, drug)
            rates = (mixed(level + each[0], expit(each[2])) for each in (own, by_weight))
            for drawn, prior in (tuple(rates), *zip(own[1:], by_weight[1:], strict=True)):
                drawn = drawn.reshape(2, COPIES)[j]
                mean = weight @ prior
                sd = np.sqrt(weight @ (prior - mean) ** 2)
                error = np.sqrt(1.0 / COPIES + 1.0 / size)
                assert abs(drawn.mean() - mean) < (4 * error + 0.02) * sd, (drug, j)
                assert abs(drawn.std() / sd - 1.0) < 4 * 1.5 * error + 0.02, (drug, j)


def test_what_is_left_out_is_not_seen_and_the_rest_is() -> None:
    """Whatever the left-out trials saw, the draws are bitwise the same."""
    turned = tuple((i, drug, size - n, size) if i in (1, 2) else (i, drug, n, size) for i, drug, n, size in TRIALS)
    one, two = calibration(copies=8), calibration(turned, copies=8)
    two.learnt([])  # what is kept of it must not be used below
    first, second = one.learnt([1, 2]), two.learnt([1, 2])
    for name, draws in first.normals.items():
        np.testing.assert_array_equal(draws, second.normals[name])
    assert any((draws != two.learnt([]).normals[name]).any() for name, draws in first.normals.items())


def test_nothing_learnt_leaves_the_prior(sampler) -> None:
    """Kolmogorov and Smirnov against draws of the prior, at a level of 0.001."""
    learnt = calibration().learnt([i for i, *_ in TRIALS])
    assert learnt.teachers == 0
    after = LearntSampler(PriorSampler(random.key(5), load_priors(), 2), learnt.normals, COPIES)
    for drug in (*ASKED, TRIALS[4][1]):
        for drawn, prior in zip(drawn_of(after, drug), drawn_of(sampler, drug), strict=True):
            # a grid has steps: draws are moved within them
            step = np.random.default_rng(0).uniform(-0.5, 0.5, len(drawn)) * np.diff(np.unique(drawn)).max()
            p_value: float = ks_2samp(drawn + step, prior)[1]  # pyright: ignore[reportAssignmentType]
            assert p_value > 1e-3, drug


def test_a_drug_learns_from_its_class_and_less_from_another() -> None:
    """28 of 30 responders of paclitaxel raise docetaxel, of its class, more than trametinib, all above the prior.

    Each by 4 standard errors.
    """
    trials = ((0, TRIALS[0][1], 28, 30),)
    after = LearntSampler(PriorSampler(random.key(5), load_priors(), 2), calibration(trials).learnt([]).normals, COPIES)
    drawn = [drawn_of(after, drug)[0].reshape(2, -1)[1] for drug in (TRIALS[0][1], ASKED[1], ASKED[0])]
    levels = [
        *((each.mean(), each.std() / np.sqrt(COPIES)) for each in drawn),
        (plane(np.log(0.64), np.log(0.005)), 0.0),
    ]
    for (above, error), (below, other_error) in itertools.pairwise(levels):
        assert above - below > 4 * np.hypot(error, other_error)


def overlaid(priors: Priors, **parameters) -> Priors:
    """Entries of the translation by another family and parameters."""
    changed = {
        f"translation.{name}": dataclasses.replace(
            priors.entries[f"translation.{name}"], family=family, parameters=given
        )
        for name, (family, given) in parameters.items()
    }
    return dataclasses.replace(priors, entries={**priors.entries, **changed})


def test_the_grid_follows_the_priors_and_an_sd_of_zero_is_none() -> None:
    """Ln kill scale about 2 and no differences between tumour types: with nothing taught, draws are of just that."""
    priors = overlaid(
        load_priors(),
        ln_kill_scale_common=("normal", {"loc": 2.4163, "scale": 0.5}),
        drug_type_discrepancy=("fixed", {"value": 0.0}),
    )
    found = calibration(priors=priors).learnt([i for i, *_ in TRIALS]).normals
    after = LearntSampler(PriorSampler(random.key(5), priors, 2), found, COPIES)
    scale = drug_terms("paclitaxel", "taxane", after).ln_kill_scale
    sd = np.sqrt(0.25 + 0.49**2 + 0.28**2)
    # 2 x COPIES draws, stratified: 4 standard errors of independent ones
    assert abs(scale.mean() - (2.4163 - 0.4463)) < 4 * sd / np.sqrt(2 * COPIES)
    assert abs(scale.std() / sd - 1.0) < 4 * 1.5 / np.sqrt(4 * COPIES)
    within = [draws for name, draws in found.items() if name.startswith("discrepancy") and " in " in name]
    assert within and not np.any(within)


def test_a_prior_of_the_tree_that_is_not_normal_is_refused() -> None:
    priors = load_priors()
    name = "translation.ln_kill_scale_common"
    old = priors.entries[name]
    entry = dataclasses.replace(old, family="beta", parameters={"mean": 0.3, "concentration": 5.0})
    changed = Priors({**priors.entries, name: entry}, priors.drugs, (), (), (), "", priors._drug_names)
    with pytest.raises(InputError, match="beta cannot learn from trials; allowed here: normal, fixed"):
        calibration(priors=changed)


def test_a_share_of_resistant_patients_of_zero_is_none_and_learns_nothing() -> None:
    """Fixed at 0 there is one node and no resistant patient, whatever trials say."""
    priors = overlaid(load_priors(), resistant_share=("fixed", {"value": 0.0}))
    assert resistance_of(priors).share.tolist() == [0.0]
    after = LearntSampler(PriorSampler(random.key(5), priors, 2), calibration(priors=priors).learnt([]).normals, COPIES)
    assert (resistant_share("paclitaxel", "P", after) == 0.0).all()


def test_a_share_that_differs_nowhere_has_the_nodes_of_what_is_common() -> None:
    """Without differences between drugs and tumour types all drugs have one share, at the nodes of the common one."""
    priors = overlaid(load_priors(), resistant_logit_sd=("fixed", {"value": 0.0}))
    after = LearntSampler(PriorSampler(random.key(5), priors, 2), calibration(priors=priors).learnt([]).normals, COPIES)
    one, other = (resistant_share(name, "P", after) for name in ("paclitaxel", "trametinib"))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.unique(one), resistance_of(priors).share)


def test_an_sd_of_the_share_that_is_not_fixed_is_refused() -> None:
    priors = overlaid(load_priors(), resistant_logit_sd=("halfnormal", {"scale": 1.0}))
    with pytest.raises(InputError, match="halfnormal cannot learn from trials; allowed here: fixed"):
        resistance_of(priors)
