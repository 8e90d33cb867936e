"""Exact designs: Simon's tables, every outcome sequence counted, simulation, published boundaries."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from vtrial.design import (
    fleming,
    one_stage,
    one_stage_of,
    operating_characteristics,
    response_interval,
    simon,
    single_arm,
)
from vtrial.errors import InputError
from vtrial.monitoring import (
    BetaPrior,
    bop2,
    bop2_boundaries,
    calibrated,
    posterior_probability,
    posterior_rule,
    predictive_probability,
    predictive_rule,
    responders_needed,
)

#: Simon R. Control Clin Trials 1989;10:1-10, tables 1 and 2: p0 p1 alpha beta, then r1/n1 and r/n of the optimal and of
#: the minimax design
SIMON_1989 = """\
.05 .25 .10 .10 0/9 2/24 0/13 2/20
.05 .25 .05 .20 0/9 2/17 0/12 2/16
.05 .25 .05 .10 0/9 3/30 0/15 3/25
.10 .30 .10 .10 1/12 5/35 1/16 4/25
.10 .30 .05 .20 1/10 5/29 1/15 5/25
.10 .30 .05 .10 2/18 6/35 2/22 6/33
.20 .40 .10 .10 3/17 10/37 3/19 10/36
.20 .40 .05 .20 3/13 12/43 4/18 10/33
.20 .40 .05 .10 4/19 15/54 5/24 13/45
.30 .50 .10 .10 7/22 17/46 7/28 15/39
.30 .50 .05 .20 5/15 18/46 6/19 16/39
.30 .50 .05 .10 8/24 24/63 7/24 21/53
.40 .60 .10 .10 7/18 22/46 11/28 20/41
.40 .60 .05 .20 7/16 23/46 17/34 20/39
.40 .60 .05 .10 11/25 32/66 12/29 27/54
.50 .70 .10 .10 11/21 26/45 11/23 23/39
.50 .70 .05 .20 8/15 26/43 12/23 23/37
.50 .70 .05 .10 13/24 36/61 14/27 32/53
.60 .80 .10 .10 6/11 26/38 18/27 24/35
.60 .80 .05 .20 7/11 30/43 8/13 25/35
.60 .80 .05 .10 12/19 37/53 15/26 32/45
.70 .90 .10 .10 6/9 22/28 11/16 20/25
.70 .90 .05 .20 4/6 22/27 19/23 21/26
.70 .90 .05 .10 11/15 29/36 13/18 26/32
.05 .20 .10 .10 0/12 3/37 0/18 3/32
.05 .20 .05 .20 0/10 3/29 0/13 3/27
.05 .20 .05 .10 1/21 4/41 1/29 4/38
.10 .25 .10 .10 2/21 7/50 2/27 6/40
.10 .25 .05 .20 2/18 7/43 2/22 7/40
.10 .25 .05 .10 2/21 10/66 3/31 9/55
.20 .35 .10 .10 5/27 16/63 6/33 15/58
.20 .35 .05 .20 5/22 19/72 6/31 15/53
.20 .35 .05 .10 8/37 22/83 8/42 21/77
.30 .45 .10 .10 9/30 29/82 16/50 25/69
.30 .45 .05 .20 9/27 30/81 16/46 25/65
.30 .45 .05 .10 13/40 40/110 27/77 33/88
.40 .55 .10 .10 16/38 40/88 18/45 34/73
.40 .55 .05 .20 11/26 40/84 28/59 34/70
.40 .55 .05 .10 19/45 49/104 24/62 45/94
.50 .65 .10 .10 18/35 47/84 19/40 41/72
.50 .65 .05 .20 15/28 48/83 39/66 40/68
.50 .65 .05 .10 22/42 60/105 28/57 54/93
.60 .75 .10 .10 21/34 47/71 25/43 43/64
.60 .75 .05 .20 17/27 46/67 18/30 43/62
.60 .75 .05 .10 21/34 64/95 48/72 57/84
.70 .85 .10 .10 14/20 45/59 15/22 40/52
.70 .85 .05 .20 14/19 46/59 16/23 39/49
.70 .85 .05 .10 18/25 61/79 33/44 53/68
.80 .95 .10 .10 5/7 27/31 5/7 27/31
.80 .95 .05 .20 7/9 26/29 7/9 26/29
.80 .95 .05 .10 16/19 37/42 31/35 35/40
"""


@pytest.mark.long
@pytest.mark.parametrize("row", SIMON_1989.splitlines())
def test_simon_1989_tables(row):
    p0, p1, alpha, beta, *designs = row.split()
    for criterion, expected in (("optimal", designs[:2]), ("minimax", designs[2:])):
        found = simon(float(p0), float(p1), float(alpha), float(beta), criterion)
        assert [f"{r}/{n}" for r, n in zip(found.futility, found.looks, strict=True)] == expected


@pytest.mark.parametrize(
    ("arguments", "patients", "early"),
    [
        # expected patients and probability of an early end at p0, as printed in the tables
        ((0.05, 0.25, 0.10, 0.10, "optimal"), "14.5", "0.63"),
        ((0.10, 0.30, 0.05, 0.20, "optimal"), "15.0", "0.74"),
        ((0.20, 0.40, 0.05, 0.20, "optimal"), "20.6", "0.75"),
        ((0.20, 0.40, 0.05, 0.20, "minimax"), "22.3", "0.72"),
        ((0.30, 0.50, 0.05, 0.10, "minimax"), "36.6", "0.56"),
    ],
)
def test_simon_1989_expected_patients(arguments, patients, early):
    found = operating_characteristics(simon(*arguments), arguments[0])
    assert f"{found.expected_patients:.1f}" == patients and f"{found.stop_early:.2f}" == early


def test_simon_is_the_best_of_all_designs_of_its_size_or_less():
    """Every (r1, n1, r, n) up to 20 patients, by plain binomial sums."""
    p0, p1, alpha, beta = 0.1, 0.4, 0.1, 0.2

    def success(r1, n1, r, n, p):
        return sum(stats.binom.pmf(x, n1, p) * stats.binom.sf(r - x, n - n1, p) for x in range(r1 + 1, n1 + 1))

    works = []
    for n in range(2, 14):
        for n1 in range(1, n):
            for r1 in range(n1):
                for r in range(r1, n):
                    if success(r1, n1, r, n, p0) <= alpha and success(r1, n1, r, n, p1) >= 1 - beta:
                        expected = n1 + (1 - stats.binom.cdf(r1, n1, p0)) * (n - n1)
                        works.append((n, expected))
    minimax, optimal = (simon(p0, p1, alpha, beta, criterion) for criterion in ("minimax", "optimal"))
    assert minimax.num_patients == min(works)[0]
    assert float(operating_characteristics(minimax, p0).expected_patients) == pytest.approx(min(works)[1], abs=1e-10)
    best = min(expected for _, expected in works)
    assert float(operating_characteristics(optimal, p0).expected_patients) <= best + 1e-10


def test_the_example_of_two_stages():
    """Stop at 2 or fewer of 12, success at 7 or more of 24: 0.0487 and 0.862."""
    found = operating_characteristics(single_arm([12, 24], [2], 7), [0.15, 0.40])
    assert f"{found.success[0]:.4f}" == "0.0487" and f"{found.success[1]:.3f}" == "0.862"


def enumerated(looks, futility, success, p: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """Success, expected patients and early end over all 2^n sequences of responses, in exact fractions."""
    wins = patients = early = Fraction(0)
    for responses in itertools.product((0, 1), repeat=looks[-1]):
        probability = p ** sum(responses) * (1 - p) ** (looks[-1] - sum(responses))
        for n, low, high in zip(looks, futility, success, strict=True):
            x = sum(responses[:n])
            if x <= low or x >= high:
                wins += probability * (x >= high)
                patients += probability * n
                early += probability * (n < looks[-1])
                break
    return wins, patients, early


@pytest.mark.parametrize(
    ("looks", "futility", "success"),
    [
        ([12], [3], [4]),
        ([5, 12], [1, 4], [6, 5]),
        ([3, 6, 9, 13], [0, 1, 2, 4], [3, 5, 6, 5]),
        (list(range(2, 14)), [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4], [3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 5]),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(1, 50), Fraction(3, 20), Fraction(2, 5), Fraction(9, 10)])
def test_operating_characteristics_count_every_sequence(looks, futility, success, rate):
    design = single_arm(looks, futility, success)
    found = operating_characteristics(design, float(rate))
    for name, expected in zip(found._fields, enumerated(looks, futility, success, rate), strict=True):
        assert float(getattr(found, name)) == pytest.approx(float(expected), abs=1e-10), name


def test_operating_characteristics_simulated():
    """A hundred thousand trials of the Lee and Liu design, within 5 standard errors."""
    design = predictive_rule(range(10, 37), 0.2, 0.9, futility=0.001, prior=BetaPrior(0.2, 0.8))
    rng, number = np.random.default_rng(11), 100_000
    responses = np.cumsum(rng.random((number, 36)) < 0.35, axis=1)
    going, wins, patients = np.ones(number, bool), np.zeros(number, bool), np.zeros(number)
    for n, low, high in zip(design.looks, design.futility, design.success, strict=True):
        x = responses[:, n - 1]
        stop = going & ((x <= low) | (x >= high))
        wins |= going & (x >= high)
        patients[stop] = n
        going &= ~stop
    found = operating_characteristics(design, 0.35)
    assert abs(wins.mean() - found.success) < 5 * wins.std() / number**0.5
    assert abs(patients.mean() - found.expected_patients) < 5 * patients.std() / number**0.5


# ------------------------------------------------------------------------------------------------ Bayesian rules


def test_lee_liu_predictive_probability():
    """16 of 23 responders, 40 patients, Beta(0.6, 0.4), P(p > 0.6) >= 0.9: 0.5656 (Clin Trials 2008;5:97)."""
    prior = BetaPrior(0.6, 0.4)
    needed = responders_needed(40, 0.6, 0.9, prior)
    assert f"{predictive_probability(16, 23, 40, needed, prior):.4f}" == "0.5656"
    # the same by summing over the responders to come
    summed = sum(
        stats.betabinom.pmf(y, 17, 16.6, 7.4) for y in range(18) if stats.beta.sf(0.6, 16.6 + y, 24.4 - y) >= 0.9
    )
    assert float(predictive_probability(16, 23, 40, needed, prior)) == pytest.approx(summed, abs=1e-10)


def test_lee_liu_table_of_boundaries():
    """36 patients, p0 0.2, Beta(0.2, 0.8), theta_L 0.001, theta_T 0.852 to 0.922: their boundaries and errors."""
    published = {10: 0, 17: 1, 21: 2, 24: 3, 27: 4, 29: 5, 31: 6, 33: 7, 34: 8, 35: 9, 36: 10}
    for confidence in (0.852, 0.9, 0.922):
        design = predictive_rule(range(10, 37), 0.2, confidence, futility=0.001, prior=BetaPrior(0.2, 0.8))
        bound = dict(zip(design.looks, design.futility, strict=True))
        first = {r: n for n, r in reversed(bound.items())}
        assert {n: r for r, n in first.items()} == published
        found = operating_characteristics(design, [0.2, 0.4])
        assert f"{found.success[0]:.3f}" == "0.088" and f"{found.success[1]:.3f}" == "0.906"


def test_bop2_boundaries():
    """p0 0.2, looks at 10 to 40 by 5, lambda 0.909, gamma 1: the futility boundaries that BOP2FE prints."""
    assert bop2_boundaries(range(10, 41, 5), 0.2, 0.909, 1.0).futility == (1, 2, 3, 5, 7, 9, 11)


def test_bop2_is_the_most_powerful_of_all_its_rules():
    looks = (6, 12, 18)
    found = bop2(looks, 0.2, 0.45, 0.1)
    tails = {n: stats.beta.sf(0.2, 0.2 + np.arange(n + 1), 0.8 + n - np.arange(n + 1)) for n in looks}
    rules = {
        tuple(int(np.sum(tails[n] < share * (n / 18) ** gamma)) - 1 for n in looks)
        for share, gamma in itertools.product(np.arange(1, 100) / 100, np.arange(0, 101) / 100)
    }
    best = -1.0
    for low in rules:
        at = operating_characteristics(single_arm(looks, low, low[-1] + 1), [0.2, 0.45])
        if at.success[0] <= 0.1:
            best = max(best, float(at.success[1]))
    assert float(operating_characteristics(found.design, 0.45).success) == pytest.approx(best, abs=1e-12)
    assert bop2_boundaries(looks, 0.2, found.lambda_, found.gamma) == found.design


def test_posterior_rule_by_the_definition():
    looks, prior = (8, 16, 24), BetaPrior(0.5, 1.5)
    design = posterior_rule(looks, 0.2, 0.4, 0.9, futility=0.1, efficacy=0.98, prior=prior)
    for n, low, high in zip(looks[:-1], design.futility, design.success, strict=False):
        for x in range(n + 1):
            hope, sure = (float(posterior_probability(x, n, p, prior)) for p in (0.4, 0.2))
            assert (x <= low) == (hope < 0.1) and (x >= high) == (sure >= 0.98)
    assert next(x for x in range(25) if posterior_probability(x, 24, 0.2, prior) >= 0.9) == design.success[-1]


def test_calibrated_keeps_alpha_and_no_less_confidence_would():
    def rule(confidence):
        return predictive_rule((10, 20, 30), 0.15, confidence)

    design, confidence = calibrated(rule, 30, 0.15, 0.05)
    assert operating_characteristics(design, 0.15).success <= 0.05
    assert rule(confidence) == design
    assert operating_characteristics(rule(confidence - 1e-9), 0.15).success <= 0.05  # same responders needed, or
    fewer = float(posterior_probability(design.success[-1] - 1, 30, 0.15, BetaPrior(0.15, 0.85)))
    assert operating_characteristics(rule(fewer), 0.15).success > 0.05


# ------------------------------------------------------------------------------------------------ one stage, intervals


@pytest.mark.parametrize(
    ("arguments", "needed", "patients"),
    # clinfun's ph2single and A'Hern's tables: responders needed / patients
    [((0.05, 0.25, 0.05, 0.2), 3, 16), ((0.1, 0.3, 0.05, 0.2), 6, 25), ((0.2, 0.4, 0.05, 0.2), 12, 35)],
)
def test_one_stage(arguments, needed, patients):
    design = one_stage(*arguments)
    assert (design.success, design.looks) == ((needed,), (patients,))
    p0, p1, alpha, beta = arguments
    for size in range(1, patients):
        fewest = min(r for r in range(size + 2) if stats.binom.sf(r - 1, size, p0) <= alpha)
        assert stats.binom.sf(fewest - 1, size, p1) < 1 - beta, "a smaller trial would do"


def test_one_stage_of_a_size_needs_the_fewest_responders():
    for size, p0, alpha in itertools.product(range(1, 40), (0.01, 0.2, 0.5, 0.97), (0.01, 0.05, 0.25)):
        needed = one_stage_of(size, p0, alpha).success[0]
        assert stats.binom.sf(needed - 1, size, p0) <= alpha < stats.binom.sf(needed - 2, size, p0)


def test_fleming_by_hand():
    """p0 0.2, p1 0.4, 5 % and 20 %: ((0.8416 sqrt 0.24 + 1.6449 sqrt 0.16) / 0.2)^2 = 28.6; 29 x 0.2 + 3.54 = 9.3."""
    design = fleming(0.2, 0.4, 0.05, 0.2)
    assert (design.looks, design.success) == ((29,), (10,))


def test_intervals_by_their_definitions():
    low, high = response_interval(34, 109)
    assert stats.binom.sf(33, 109, low) == pytest.approx(0.025, abs=1e-10)
    assert stats.binom.cdf(34, 109, high) == pytest.approx(0.025, abs=1e-10)
    z, p = stats.norm.isf(0.025), 34 / 109
    for end in response_interval(34, 109, method="wilson"):
        assert abs(p - end) / np.sqrt(end * (1 - end) / 109) == pytest.approx(z, abs=1e-10)
    assert response_interval(0, 20)[0] == 0.0 and response_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: simon(0.0, 0.3, 0.05, 0.2), "p0: must lie between 0 and 1, found 0"),
        (lambda: simon(0.3, 0.2, 0.05, 0.2), "p1: must lie between p0 (0.3) and 1, found 0.2"),
        (lambda: simon(0.2, 0.4, 0.6, 0.2), "alpha: must lie between 0 and 0.5, found 0.6"),
        (
            lambda: simon(0.2, 0.21, 0.05, 0.2, most=40),
            "p1: no two-stage trial of up to 40 patients tells 0.2 from 0.21",
        ),
        (lambda: single_arm([10, 10], [1], 3), "looks: must increase from 1 or more, found [10, 10]"),
        (lambda: single_arm([10, 20], [4, 5], [3, 6]), "looks: stop at 4 or fewer and at 3 or more of 10"),
        (lambda: single_arm([10], [3], [5]), "looks: the last look leaves 4 to 4 undecided"),
        (lambda: response_interval(5, 4), "responders: 5 of 4 is no response rate"),
        (lambda: posterior_rule((10, 20), 0.2, 0.4, 1.2), "confidence: must lie between 0 and 1, found 1.2"),
    ],
)
def test_what_is_refused(call, told):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(told)
