"""Laws of growth of one mouse, a registry by the name in `fit.growth`: time courses in which its ln volume is linear.

Every law is the solution of a linear equation for ``x = ln V`` with three coefficients of its own, level eta, rate s
and the rate c that comes back, or goes, as time passes:

    x(t) = fixed(t) + eta T_0(t) + s T_1(t) + c T_2(t),      T_0(0) = 1,  T_1(0) = T_2(0) = 0

so that the mouse is integrated out in closed form (`vtrial.marginal`) whatever the law. The equations are written once
for NumPy (float64, the fit) and JAX (new mice): they ask an array for its own namespace. No JAX here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vtrial.model_format import CurveShape

#: days over which the rate of a mouse is taken as its own; what bends its curve later deviates about this straight line
REFERENCE_DAYS = 28.0
#: mm3; where the rate of growth of a Gompertz tumour is read: the median first volume of the untreated arms of PDXE
REFERENCE_VOLUME = 225.0

# below it waning_time takes its series, which is exact to float64 there: the first term left out is x^10 / 2.4e8
_SMALL = 0.2
# relative distance of the two rates of Gompertz below which their midpoint serves: its error is this squared / 24
_CLOSE = 1e-3


class Law(NamedTuple):
    """One law of growth, as functions of days since the start of treatment and the constants of a curve."""

    courses: Callable[[Any, CurveShape], Any]  # day [*T] -> [*T, 3]
    fixed: Callable[[Any, CurveShape], Any]  # day [*T] -> [*T], of ln volume


def waning_time(day: Any, loss_rate: Any) -> Any:
    """Time integral of ``1 - exp(-loss_rate * t)``: how long an effect has been lost, in days.

    Parameters
    ----------
    day
        Days since the start of treatment, 0 or more.
    loss_rate
        Rate at which effect is lost, 1/day; in float32 0 or more (0: never lost), in float64 above 0.

    Returns
    -------
    array of the shape of `day`, in days: 0 at day 0, ``day - 1 / loss_rate`` late.
    """
    xp = day.__array_namespace__()
    x = loss_rate * day
    if day.dtype == xp.float64:
        return day + xp.expm1(-x) / loss_rate
    small = x < _SMALL
    # day + expm1(-x) / loss_rate cancels where little is lost (1 % off at x = 1e-5 in float32) and is 0/0 at rate 0
    series = 1.0
    for k in range(11, 2, -1):
        series = 1.0 - x / k * series
    away = xp.where(small, 1.0, x)
    return day * xp.where(small, 0.5 * x * series, 1.0 + xp.expm1(-away) / away)


def exponential_courses(day: Any, shape: CurveShape) -> Any:
    """``dx/dt = s + c (1 - exp(-lambda t))``: courses 1, t and ``q(t) = t - (1 - exp(-lambda t)) / lambda``.

    With ``s = g - k`` and ``c = k`` this is the tumour growth inhibition model of Claret et al. 2009 (J Clin Oncol
    27:4103), ``dV/dt = g V - k exp(-lambda t) V``.
    """
    xp = day.__array_namespace__()
    return xp.stack([xp.ones_like(day), day, waning_time(day, shape.loss_rate)], axis=-1)


def gompertz_courses(day: Any, shape: CurveShape) -> Any:
    """``dx/dt = s + c (1 - exp(-lambda t)) - b (x - ln V_ref)``: Gompertz, b = `shape.deceleration` in 1/day.

    Courses ``exp(-b t)``, ``G(t) = (1 - exp(-b t)) / b`` and W(t), the integral of ``exp(-b (t - u)) (1 - exp(-lambda
    u))`` over u from 0 to t. Without treatment (c = 0) the tumour levels off at ``V_ref exp(s / b)``, whatever its size
    at the start (Norton 1988, Cancer Res 48:7067); a shrunken one grows faster. b -> 0 is the exponential law.
    """
    xp = day.__array_namespace__()
    slow, waning = shape.deceleration, shape.loss_rate
    grown = -xp.expm1(-slow * day) / slow
    if abs(slow - waning) < _CLOSE * waning:
        middle = 0.5 * (slow + waning)
        waned = waning * (1.0 - xp.exp(-middle * day) * (1.0 + middle * day)) / middle**2
    else:
        waned = (-xp.expm1(-waning * day) - waning * grown) / (slow - waning)
    return xp.stack([xp.exp(-slow * day), grown, waned], axis=-1)


def gompertz_fixed(day: Any, shape: CurveShape) -> Any:
    """``ln V_ref (1 - exp(-b t))``: the level that a tumour without rate drifts to."""
    return -math.log(REFERENCE_VOLUME) * day.__array_namespace__().expm1(-shape.deceleration * day)


#: every law of growth by its name in `fit.growth` (vtrial.config lists the same names)
LAWS = {
    "exponential": Law(exponential_courses, lambda day, shape: 0.0 * day),
    "gompertz": Law(gompertz_courses, gompertz_fixed),
}


def time_courses(day: Any, shape: CurveShape) -> Any:
    """Time courses of the law of `shape`, [*T, 3]."""
    return LAWS[shape.growth].courses(day, shape)


def fixed_course(day: Any, shape: CurveShape) -> Any:
    """The part of ln volume that no coefficient scales under the law of `shape`, [*T]."""
    return LAWS[shape.growth].fixed(day, shape)


def reference_bend(shape: CurveShape) -> float:
    """``T_2 / T_1`` at :data:`REFERENCE_DAYS`: the rate that a unit of c adds up to by then.

    A mouse's own deviation is ``delta T_1 + zeta (T_2 - bend T_1)``: its mean rate over these days, and what bends its
    curve about that course.
    """
    if shape.growth == "exponential":  # as the quotient below, to the last digit of every fit so far
        x = shape.loss_rate * REFERENCE_DAYS
        return 1.0 + math.expm1(-x) / x
    _, grown, waned = time_courses(np.float64(REFERENCE_DAYS), shape)
    return float(waned / grown)
