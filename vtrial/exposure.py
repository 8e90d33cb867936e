"""Dose and schedule to effect over time.

The effect of one drug follows its amount at the effect site, with or without plasma concentrations ("K-PD"):

    A(t) = sum_n D_n u(t - t_n),      u: one or two exponentials after absorption or an infusion (`kinetics`)
    E(t) = A(t)^h / (A(t)^h + A50^h),     or min(A(t) / (2 A50), 1) where it is linear,     A50 = A_ref / saturation

A_ref is the average of A at steady state under the drug's reference dosing, so that E depends on the dose relative to
the reference. Patients differ in the level of A by a factor (clearance, absorption, doses missed), which is a shift of
ln odds of E by h times its logarithm. Days count from the start of treatment (time 0); rates are per day.

Source: Jacqmin P, Snoeck E, van Schaick EA, et al. Modelling response time profiles in the absence of drug
concentrations: definition and performance evaluation of the K-PD model. J Pharmacokinet Pharmacodyn 2007;34:57-85.
Here its virtual compartment is fed by first-order absorption, or by an infusion of constant rate.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vtrial.kinetics import (
    Disposition,
    Scalar,
    after_infusion_events,
    after_oral_doses,
    average_amount,
    carry,
    carry_infused,
    infusion_events,
    intravenous_amount,
    one_compartment,
    oral_amount,
    two_exponentials,
)


class DoseResponse(NamedTuple):
    """Time course of the effect of one drug, one item (vmap for draws).

    Attributes
    ----------
    half_life : Array []
        Half-life of the amount at the effect site, days; the slow one where there are two.
    absorption_half_life : Array []
        Half-life of the way from the dose to the effect site, days; above 0. Not read of an infusion.
    saturation : Array []
        Average steady-state amount at the reference dosing over the amount of half effect. With hill 1 and little
        fluctuation, the effect at the reference dosing is saturation / (1 + saturation).
    hill : Array []
        Steepness of the effect curve; not read where the effect is linear.
    distribution_half_life, distribution_share : Array [] or None
        Half-life of the fast exponential, days, and its share in the amount after a bolus; None for one compartment.
    """

    half_life: jax.Array
    absorption_half_life: jax.Array
    saturation: jax.Array
    hill: jax.Array
    distribution_half_life: jax.Array | None = None
    distribution_share: jax.Array | None = None


class TwoPoints(NamedTuple):
    """The law of an effect over a segment as two values: it has the mean, variance and skewness of E over the segment.

    Attributes
    ----------
    low, high : Array [...]
        The two values, in [0, 1].
    weight : Array [...]
        Weight of `high`, in [0, 1].
    """

    low: jax.Array
    high: jax.Array
    weight: jax.Array


def rate(half_life: Scalar) -> Scalar:
    """First-order rate of a half-life (1/day from days)."""
    return math.log(2.0) / half_life


def disposition(response: DoseResponse) -> Disposition:
    """Disposition of a drug, with one exponential or two."""
    if response.distribution_half_life is None or response.distribution_share is None:
        return one_compartment(rate(response.half_life))
    fast, slow = rate(response.distribution_half_life), rate(response.half_life)
    return two_exponentials(response.distribution_share, fast, slow)


def amount(
    time: Float[Array, " G"],
    dose_time: Float[Array, " N"],
    dose_amount: Float[Array, " N"],
    response: DoseResponse,
    infusion_days: Scalar | None = None,
) -> Float[Array, " G"]:
    """Amount at the effect site; see `kinetics.oral_amount`, and `kinetics.intravenous_amount` with `infusion_days`."""
    leaving = disposition(response)
    if infusion_days is not None:
        return intravenous_amount(time, dose_time, dose_amount, leaving, infusion_days)
    return oral_amount(time, dose_time, dose_amount, leaving, rate(response.absorption_half_life))


def half_amount(reference_rate: Scalar, response: DoseResponse) -> Scalar:
    """Amount of half effect, from the dose rate of the reference dosing (amount per day)."""
    return average_amount(reference_rate, disposition(response)) / response.saturation


def effect(amount: Float[Array, "..."], half_amount: Scalar, hill: Scalar) -> Float[Array, "..."]:
    """Sigmoid Emax effect in [0, 1]: A^h / (A^h + A50^h), 0 without drug.

    Parameters
    ----------
    amount : Array [...]
        Amount at the effect site, 0 or more.
    half_amount : Array []
        Amount of half effect, above 0.
    hill : Array []
        Steepness, above 0.
    """
    given = amount > 0.0
    # On the log scale neither power overflows; the inner where keeps the gradient finite without drug.
    log_ratio = jnp.log(jnp.where(given, amount, 1.0)) - jnp.log(half_amount)
    return jnp.where(given, jax.nn.sigmoid(hill * log_ratio), 0.0)


def linear_effect(amount: Float[Array, "..."], half_amount: Scalar) -> Float[Array, "..."]:
    """Effect in proportion to the amount, half at `half_amount`, up to the full effect at twice that amount."""
    return jnp.minimum(0.5 * amount / half_amount, 1.0)


def at_level(effect: Float[Array, "..."], ln_odds: Float[Array, "..."], linear: Bool[Array, "..."] | bool = False):
    """Effect of an amount whose logarithm differs by `ln_odds` / hill, exactly: a shift of its ln odds.

    Parameters
    ----------
    effect
        Effect at the level that the shift is from, in [0, 1].
    ln_odds
        Hill times the logarithm of the level; of the level alone where the effect is linear.
    linear
        Whether the effect is linear; it is then scaled, up to 1.
    """
    more = jnp.expm1(ln_odds)
    shifted = effect * (1.0 + more) / (1.0 + effect * more)
    return jnp.where(linear, jnp.minimum(effect * (1.0 + more), 1.0), shifted)


def mean_at_level(law: TwoPoints, ln_odds: Float[Array, "..."], linear: Bool[Array, "..."] | bool = False):
    """Mean of an effect over a segment at another level of the amount, see `at_level`.

    The two points stand for the law of E over the segment and carry its first three moments, so that E without
    fluctuation is shifted exactly. Largest absolute error between levels of 1/e and e (two SD of patients), measured on
    segments of up to four weeks of avutometinib, defactinib, gemcitabine and binimetinib, the week off included: 3e-3
    with hill 1 and saturation 1 to 4, below 4e-2 with hill 2 and saturation 10.
    """
    low, high, weight = law
    mean, total, product = low + weight * (high - low), low + high, low * high
    more = jnp.expm1(ln_odds)
    # the mean of `at_level` of the two points over one denominator; what does not depend on the patient stands alone
    shifted = (1.0 + more) * (mean + product * more) / (1.0 + (total + product * more) * more)
    if linear is False:
        return shifted
    ends = at_level(low, ln_odds, True), at_level(high, ln_odds, True)
    return jnp.where(linear, ends[0] + weight * (ends[1] - ends[0]), shifted)


def segment_effect(
    edges: Float[Array, " G_plus_1"],
    dose_time: Float[Array, " N"],
    dose_amount: Float[Array, " N"],
    reference_rate: Scalar,
    response: DoseResponse,
    *,
    infusion_days: Scalar | None = None,
    linear: bool = False,
    nodes: int = 8,
    pieces: int = 4,
) -> Float[Array, " G"]:
    """Mean effect of one drug over each time segment.

    A Gauss-Legendre rule acts on panels: the segments cut at every dose, where A has a kink, at the end of every
    infusion, and into `pieces` equal parts. Its points are graded towards the start of a panel, where absorption is
    fast.

    Largest absolute error of any segment mean with the default 8 points and 4 pieces, measured on weekly segments of
    avutometinib, defactinib, gemcitabine, daily and three-weekly schedules against a rule 40 times finer: 2e-4 for
    half-lives of 0.375 d and more, absorption half-lives of 0.02 d and more and hill up to 2; 2e-2 in the corner of a
    half-life of 0.1 d with hill 4 (16 points and 7 pieces: 1e-5 and 9e-4). float32 adds up to 1.2e-4 in two years.

    Parameters
    ----------
    edges : Array [G + 1]
        Strictly increasing days, see `dosing.segment_edges`.
    dose_time, dose_amount : Array [N]
        Days and amounts, see `dosing.doses`; pad with amounts of 0.
    reference_rate : Array []
        Amount per day of the drug's reference dosing, in the unit of the doses, see `dosing.dose_rate`.
    response : DoseResponse
        Parameters of the drug, one item.
    infusion_days : Array [] or None
        How long each dose takes, days; 0 for a bolus, None for first-order absorption.
    linear : bool
        Whether the effect is linear in the amount.
    nodes : int
        Points per panel.
    pieces : int
        Equal parts of a segment.

    Returns
    -------
    Array [G]
        Mean of E over each segment, in [0, 1].
    """
    panels = _panels(edges, dose_time, dose_amount, reference_rate, response, infusion_days, linear, nodes, pieces)
    return _mean(panels, panels.effect)


def segment_law(
    edges: Float[Array, " G_plus_1"],
    dose_time: Float[Array, " N"],
    dose_amount: Float[Array, " N"],
    reference_rate: Scalar,
    response: DoseResponse,
    *,
    infusion_days: Scalar | None = None,
    linear: bool = False,
    nodes: int = 8,
    pieces: int = 4,
) -> TwoPoints:
    """Mean, variance and skewness of the effect of one drug over each segment, as two points; see `segment_effect`.

    The two points are the Gauss quadrature of the law of E over the segment, so they lie between its extremes.

    Returns
    -------
    TwoPoints
        Each [G].
    """
    panels = _panels(edges, dose_time, dose_amount, reference_rate, response, infusion_days, linear, nodes, pieces)
    mean = _mean(panels, panels.effect)
    off = panels.effect - mean[panels.segment][:, None]
    variance, third = _mean(panels, off**2), _mean(panels, off**3)
    # a variance of 1e-8 moves no response rate; below it the third moment is rounding
    varies = variance > 1e-8
    spread = jnp.sqrt(jnp.where(varies, variance, 1.0))
    half_skew = jnp.where(varies, 0.5 * third / spread**3, 0.0)
    root = jnp.sqrt(1.0 + half_skew**2)
    low, high = (jnp.where(varies, mean + spread * (half_skew + side * root), mean) for side in (-1.0, 1.0))
    weight = 0.5 * (1.0 - half_skew / root)
    return TwoPoints(jnp.clip(low, 0.0, 1.0), jnp.clip(high, 0.0, 1.0), weight)


class _Panels(NamedTuple):
    """Effect at the points of every panel [L, nodes], what each point weighs in its segment, and the segments [L]."""

    effect: jax.Array
    share: jax.Array  # [L, nodes], of the length of the segment; 0 outside the edges
    segment: jax.Array
    num_segments: int


def _panels(edges, dose_time, dose_amount, reference_rate, response, infusion_days, linear, nodes, pieces) -> _Panels:
    half = half_amount(reference_rate, response)
    points, weights = _graded_rule(nodes)

    length = jnp.diff(edges)
    part = jnp.asarray([i / pieces for i in range(pieces)], edges.dtype)
    inner = (edges[:-1, None] + length[:, None] * part[None, :]).ravel()
    marks = jnp.concatenate([inner, edges[-1:]])
    after_doses = _after_doses if infusion_days is None else partial(_after_infusions, infusion_days=infusion_days)
    breaks, width, now = after_doses(marks, dose_time, dose_amount, response, points)
    effect_now = linear_effect(now, half) if linear else effect(now, half, response.hill)

    middle = breaks[:-1] + 0.5 * width
    inside = (middle > edges[0]) & (middle < edges[-1])
    segment = jnp.clip(jnp.searchsorted(edges, middle, side="right") - 1, 0, length.shape[0] - 1)
    share = jnp.where(inside, width / length[segment], 0.0)[:, None] * jnp.asarray(weights, width.dtype)[None, :]
    return _Panels(effect_now, share, segment, length.shape[0])


def _after_doses(marks, dose_time, dose_amount, response, points):
    """Breaks [L + 1] at marks and doses in order, widths of the panels between, and the amount at their points."""
    absorption, leaving = rate(response.absorption_half_life), disposition(response)
    breaks = jnp.concatenate([marks, dose_time])
    given = jnp.concatenate([jnp.zeros(marks.shape[0], dose_amount.dtype), dose_amount])
    order = jnp.argsort(breaks)
    breaks = breaks[order]
    depot, central = after_oral_doses(breaks, given[order], leaving, absorption)

    width = jnp.diff(breaks)
    since = width[:, None] * jnp.asarray(points, width.dtype)[None, :]
    of_panel = jax.vmap(carry, in_axes=(0, None, None, None, None))
    _, parts = jax.vmap(of_panel, in_axes=(0, 0, 0, None, None))(since, depot[:-1], central[:-1], leaving, absorption)
    return breaks, width, jnp.sum(parts, axis=-1)


def _after_infusions(marks, dose_time, dose_amount, response, points, *, infusion_days):
    """As `_after_doses`, with breaks at the starts and ends of infusions."""
    leaving = disposition(response)
    at, at_once, change = infusion_events(dose_time, dose_amount, infusion_days)
    nothing = jnp.zeros(marks.shape[0], at_once.dtype)
    breaks = jnp.concatenate([marks, at])
    order = jnp.argsort(breaks)
    breaks = breaks[order]
    at_once, change = (jnp.concatenate([nothing, each])[order] for each in (at_once, change))
    central, flow = after_infusion_events(breaks, at_once, change, leaving)

    width = jnp.diff(breaks)
    since = width[:, None] * jnp.asarray(points, width.dtype)[None, :]
    of_panel = jax.vmap(carry_infused, in_axes=(0, None, None, None))
    parts = jax.vmap(of_panel, in_axes=(0, 0, 0, None))(since, central[:-1], flow[:-1], leaving)
    return breaks, width, jnp.sum(parts, axis=-1)


def _mean(panels: _Panels, value: Float[Array, "L nodes"]) -> Float[Array, " G"]:
    """Mean of a quantity over each segment."""
    # A sum, not a matrix product, which a GPU may do in reduced precision.
    return jax.ops.segment_sum(jnp.sum(value * panels.share, axis=1), panels.segment, panels.num_segments)


@lru_cache(maxsize=16)
def _graded_rule(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Points and weights on [0, 1]: Gauss-Legendre in s with t = s^2, dense near 0 (host side, float64)."""
    if nodes < 1:
        raise ValueError(f"nodes: got {nodes}; at least 1 is needed")
    points, weights = [], []
    for i in range(nodes):
        # Newton on the Legendre polynomial from its asymptotic root; it doubles the digits, so 8 steps are plenty.
        x = math.cos(math.pi * (i + 0.75) / (nodes + 0.5))
        slope = 1.0
        for _ in range(8):
            previous, value = 1.0, x
            for k in range(2, nodes + 1):
                previous, value = value, ((2 * k - 1) * x * value - (k - 1) * previous) / k
            slope = nodes * (x * value - previous) / (x * x - 1.0)
            x -= value / slope
        s = 0.5 * (1.0 - x)
        points.append(s**2)
        weights.append(2.0 * s / ((1.0 - x * x) * slope**2))
    return tuple(points), tuple(weights)
