import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import binom, norm

from vtrial.endpoints import change_bin
from vtrial.medians import Curve, log_likelihood, predicted, sampling_variance, share_on
from vtrial.outcomes import CHANGE_BINS, NO_CHANGE_BIN, EndpointCounts
from vtrial.priors import load_priors
from vtrial.published import DAYS, any_shrinkage, curves
from vtrial.published_endpoints import ENDPOINTS, published_median, shrinkage_row, teaches

MANY = 10**7  # simulated patients whose number is no source of error


def exponential(medians, number=MANY) -> Curve:
    """Curves of exponential times with these medians, one a draw."""
    free = 0.5 ** (DAYS[None, :] / np.asarray(medians, float)[:, None])
    return Curve(free, np.full(len(free), float(number)))


def test_between_visits_the_share_lies_on_a_straight_line_by_hand() -> None:
    curve = Curve(np.array([[1.0, 0.6, 0.2]]), np.array([100.0]))
    days = np.array([0.0, 40.0, 80.0])
    for day, share in ((0.0, 1.0), (10.0, 0.9), (40.0, 0.6), (60.0, 0.4), (80.0, 0.2)):
        assert share_on(curve, days, day) == pytest.approx([share])


@pytest.mark.parametrize("share", [0.3, 0.5, 0.62])
@pytest.mark.parametrize("patients", [101, 401])
def test_a_published_median_is_half_of_the_patients_of_a_trial_independent_derivation(share, patients) -> None:
    """P(median <= t) = P(at most half are free), binomial with the trial's deviation integrated out by quadrature.

    The number of patients is odd, so no half is split; the normal law of a logit of N is right to order 1 / N.
    """
    spread = 0.4
    free = np.array([[1.0, share, 0.5 * share]])
    days = np.array([0.0, 56.0, 112.0])
    exact, _ = quad(
        lambda v: binom.cdf(patients // 2, patients, expit(logit(share) + v)) * norm.pdf(v, scale=spread), -3.2, 3.2
    )
    found = predicted(
        Curve(free, np.array([float(MANY)])), days, 56.0, np.array([spread]), sampling_variance(patients), np.ones(1)
    )
    assert abs(found.probability - exact) < 1.0 / patients


def test_the_likelihood_is_the_density_of_half_free_independent_derivation() -> None:
    """Ratios of likelihoods of two draws against those of N / 2 of N binomial, deviation integrated by quadrature."""
    patients, spread, days = 400, 0.3, np.array([0.0, 56.0])
    shares = np.array([0.5, 0.4, 0.65])

    def exact(share):
        return quad(
            lambda v: binom.pmf(patients // 2, patients, expit(logit(share) + v)) * norm.pdf(v, scale=spread), -2.4, 2.4
        )[0]

    curve = Curve(np.stack([np.ones(3), shares], axis=1), np.full(3, float(MANY)))
    found = log_likelihood(curve, days, 56.0, np.full(3, spread), sampling_variance(patients))
    expected = np.log([exact(share) for share in shares])
    # relative order 1 / N of the density; at most (logit 0.65)^2 / 2 / 0.1 = 1.9 units of log likelihood apart
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=8.0 / patients)


def test_an_interval_of_the_median_gives_the_variance_by_hand() -> None:
    """ln median has SD 0.1: 95 % interval exp(-+0.196); the logit falls by 2 ln 2 per unit of ln t at the median."""
    interval = (5.0 * np.exp(-0.1959963984540054), 5.0 * np.exp(0.1959963984540054))
    assert sampling_variance(1000, interval) == pytest.approx((2 * np.log(2) * 0.1) ** 2)
    assert sampling_variance(10, interval) == pytest.approx(0.4)  # ten patients explain more than that


def test_a_draw_with_few_responders_says_little() -> None:
    """Likelihood of a median when 0.1 or 0.9 have the event by then: the ratio to one half grows with their number."""
    days = np.array([0.0, 56.0])
    free = np.array([[1.0, 0.5], [1.0, 0.1], [1.0, 0.9]])
    gaps = []
    for number in (0.0, 4.0, 4000.0):
        found = log_likelihood(Curve(free, np.full(3, number)), days, 56.0, np.zeros(3), 0.04)
        assert found[1] == pytest.approx(found[2])
        gaps.append(found[0] - found[1])
    assert gaps[0] == pytest.approx(0.0, abs=1e-12)
    assert gaps[0] < gaps[1] < gaps[2]


def test_predicted_median_of_known_curves() -> None:
    """One draw, no spread between trials: the interval is where S = expit(-+1.645 SD), by inverting the curve."""
    curve, variance = exponential([200.0]), 0.04
    found = predicted(curve, DAYS, 200.0, np.zeros(1), variance, np.ones(1))
    for day, level in ((found.q05, 0.05), (found.q50, 0.5), (found.q95, 0.95)):
        share = share_on(curve, DAYS, day)[0]
        # days are found to 0.01; the logit moves by at most twice 2 ln 2 / 200 a day
        assert abs(logit(share) + norm.ppf(level) * 0.2) < 0.01 * 4 * np.log(2) / 200
    assert found.inside and found.probability == pytest.approx(0.5, abs=0.05)
    assert not predicted(curve, DAYS, 400.0, np.zeros(1), variance, np.ones(1)).inside


def test_a_median_beyond_the_last_visit_has_no_end() -> None:
    late = exponential([2000.0])
    found = predicted(late, DAYS, 670.0, np.zeros(1), 0.04, np.ones(1))
    assert found.q95 == np.inf and found.inside
    assert not predicted(late, DAYS, 100.0, np.zeros(1), 0.04, np.ones(1)).inside
    early = exponential([60.0])
    assert not predicted(early, DAYS, 670.0, np.zeros(1), 0.04, np.ones(1)).inside


def test_curves_of_counted_patients_by_hand() -> None:
    """Ten patients in two subgroups, three visits.

    First: one responds at visit 1 and progresses at 3, one responds at 2 and is censored there, two progress at 1.
    Second: one responds at 1 and dies at 2, five progress at 2.
    """
    course = np.zeros((1, 1, 2, 4, 4, 3), int)
    course[0, 0, 0, 1, 3, 1], course[0, 0, 0, 2, 2, 0], course[0, 0, 0, 0, 1, 1] = 1, 1, 2
    course[0, 0, 1, 1, 2, 2], course[0, 0, 1, 0, 2, 1] = 1, 5
    rest = jnp.zeros((1, 1, 2, CHANGE_BINS), int), jnp.array([[[4, 6]]]), None, None
    counts = EndpointCounts(jnp.asarray(course), *rest)
    first, everyone = curves(counts, 0, 4), curves(counts, -1, 10)
    np.testing.assert_allclose(first["PFS"].free, [[1.0, 0.5, 0.5, 0.0]])
    np.testing.assert_allclose(first["TTR"].free, [[1.0, 0.5, 0.0, 0.0]])
    assert first["TTR"].number.tolist() == [2.0]
    # 10 at risk: 2 progress; 8 at risk: 6 have an event, one is censored; the last one progresses
    np.testing.assert_allclose(everyone["PFS"].free, [[1.0, 0.8, 0.2, 0.0]])
    # death censors: 5 of 8
    np.testing.assert_allclose(everyone["TTP"].free, [[1.0, 0.8, 0.3, 0.0]])
    np.testing.assert_allclose(everyone["TTR"].free, [[1.0, 1 / 3, 0.0, 0.0]])


def test_any_shrinkage_of_counted_patients_by_hand() -> None:
    """Bins end at -100, -95, .. 0 %: 3 of 5 shrank in the first subgroup, 1 of 2 in the second; one has no reading."""
    change = np.zeros((1, 1, 2, CHANGE_BINS), int)
    change[0, 0, 0, [0, 12, 20, 21, 41]] = 1
    change[0, 0, 1, [20, 22, CHANGE_BINS - 1]] = 1
    counts = EndpointCounts(jnp.zeros((1, 1, 2, 2, 2, 3), int), jnp.asarray(change), jnp.array([[[5, 3]]]), None, None)
    assert change_bin(jnp.array([-0.01, 0.0, 0.01])).tolist() == [NO_CHANGE_BIN, NO_CHANGE_BIN, NO_CHANGE_BIN + 1]
    for column, share in ((0, 3 / 5), (1, 1 / 2), (-1, 4 / 7)):
        np.testing.assert_allclose(any_shrinkage(counts, column), [share])


def test_a_published_shrinkage_beside_one_draw_is_its_binomial() -> None:
    """No spread between trials: mean, ends and mid-p of the binomial of scipy.

    A rate is binned with those within 0.025 of its logit, alone here.
    """
    arm = next(arm for arm in load_priors().trials if arm.id == 110)
    (row,) = shrinkage_row(arm, np.array([0.3]), 10_000, np.zeros(1))
    law = binom(53, 0.3)
    assert row["pred_mean"] == pytest.approx(0.3) and row["mid_p"] == pytest.approx(law.cdf(24) - law.pmf(24) / 2)
    assert (row["pred_q05"], row["pred_q95"]) == pytest.approx((law.ppf(0.05) / 53, law.ppf(0.95) / 53))
    assert row["num_shrunk"] == 24 and not row["inside"]
    assert not list(shrinkage_row(arm.model_copy(update={"num_shrunk": None}), np.array([0.3]), 9, np.zeros(1)))


def test_what_is_from_memory_or_of_a_combination_teaches_nothing() -> None:
    arms = {arm.id: arm for arm in load_priors().trials}
    assert [teaches(arms[6], name) for name in ENDPOINTS] == [True, True, False, False]
    assert [teaches(arms[1], name) for name in ENDPOINTS] == [False] * 4
    # its time to response is recalled
    assert [teaches(arms[75], name) for name in ENDPOINTS] == [True, True, False, False]
    assert [teaches(arms[80], name) for name in ENDPOINTS] == [False, True, False, False]  # its counts are, its PFS not
    assert [teaches(arms[20], name) for name in ENDPOINTS] == [True, False, False, True]
    for field in ("num_shrunk", "num_measured"):
        assert not teaches(arms[20].model_copy(update={"recalled": (field,)}), "shrinkage")
    counts = {"num_shrunk": 11, "num_measured": 12}
    assert not teaches(arms[11].model_copy(update=counts), "shrinkage")  # of a combination
    later = arms[6].model_copy(update={"median_pfs_months": 20.0, "median_pfs_interval": None})
    assert not teaches(later, "pfs")
    assert published_median(arms[5], "pfs") is None
