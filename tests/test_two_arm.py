"""Exact two-arm tests: against SciPy's p-values outcome by outcome, and power by enumeration and simulation."""

from __future__ import annotations

import warnings
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from vtrial.errors import InputError
from vtrial.two_arm import power, smallest_two_arm, two_arm

SCIPY = {"boschloo": stats.boschloo_exact, "barnard": stats.barnard_exact, "fisher": stats.fisher_exact}


@pytest.mark.parametrize("test", ["fisher", "boschloo", "barnard"])
@pytest.mark.parametrize(("treated", "control"), [(8, 7), (10, 10)])
def test_rejects_what_scipy_rejects(test, treated, control):
    design = two_arm(treated, control, 0.05, test)
    for x1 in range(treated + 1):
        for x0 in range(control + 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SciPy divides by a variance of 0 where all or none respond
                found = SCIPY[test]([[x1, x0], [treated - x1, control - x0]], alternative="greater")
            assert (found.pvalue <= 0.05) == design.rejects[x1, x0], (x1, x0, found.pvalue)


def test_power_and_size_in_fractions():
    design = two_arm(9, 6, 0.1, "boschloo")

    def exact(p1: Fraction, p0: Fraction) -> Fraction:
        return sum(
            (
                comb(9, x1) * p1**x1 * (1 - p1) ** (9 - x1) * comb(6, x0) * p0**x0 * (1 - p0) ** (6 - x0)
                for x1 in range(10)
                for x0 in range(7)
                if design.rejects[x1, x0]
            ),
            Fraction(0),
        )

    for p1, p0 in ((Fraction(2, 5), Fraction(1, 10)), (Fraction(1, 3), Fraction(1, 3))):
        assert float(power(design, float(p1), float(p0))) == pytest.approx(float(exact(p1, p0)), abs=1e-10)
    fine = max(float(exact(Fraction(k, 2000), Fraction(k, 2000))) for k in range(1, 2000))
    assert fine <= design.size + 1e-12 and design.size <= 0.1
    # between two points of the fine grid the size cannot exceed them by more than the slope allows
    assert design.size - fine < 15 * 0.5 / 2000


def test_boschloo_rejects_all_that_fisher_does():
    fisher, boschloo = (two_arm(20, 15, 0.05, test) for test in ("fisher", "boschloo"))
    assert (boschloo.rejects | ~fisher.rejects).all() and boschloo.rejects.sum() > fisher.rejects.sum()
    assert fisher.size < boschloo.size <= 0.05


def test_power_is_an_array_of_rates():
    design = two_arm(12, 12, 0.05)
    p1, p0 = np.array([[0.2, 0.6], [0.5, 0.9]]), np.array([0.2, 0.1])
    found = power(design, p1, p0)
    assert found.shape == (2, 2) and float(found[1, 1]) == float(power(design, 0.9, 0.1))


def test_smallest_two_arm():
    design = smallest_two_arm(0.2, 0.5, 0.05, 0.2)
    assert power(design, 0.5, 0.2) >= 0.8
    smaller = two_arm(design.num_treated - 1, design.num_control - 1, 0.05)
    assert power(smaller, 0.5, 0.2) < 0.8


def test_what_is_refused():
    with pytest.raises(InputError, match="treated: must lie between 1 and 300 patients, found 0"):
        two_arm(0, 10, 0.05)
    with pytest.raises(InputError, match="p1: no trial of up to 300 patients an arm"):
        smallest_two_arm(0.2, 0.21, 0.05, 0.2)
