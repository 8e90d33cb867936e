"""Reading out mice: volumes over days -> mRECIST, tumour growth inhibition, T/C, doubling time, growth delay.

Everything here is written for ONE mouse and vmapped outside. Axis letter: T measurements. Volumes are in mm3, times in
days, changes in percent as in the published tables.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from vtrial.outcomes import CR, NE, PD, PR, SD, TimeToEvent


class MouseRule(NamedTuple):
    """From which measurements the two numbers of mRECIST are taken.

    Attributes
    ----------
    best_from_day
        First day of the best response.
    average_from_day
        First day of the best average response.
    settled_from_day
        A change counts as best response before this day only if it lasted: no later measurement before this day,
        other than the mouse's last, lies above `settled_limit_pct`. 0 asks for nothing.
    settled_limit_pct
        See above (%).
    """

    best_from_day: float | Float[Array, ""] = 10.0
    average_from_day: float | Float[Array, ""] = 10.0
    settled_from_day: float | Float[Array, ""] = 0.0
    settled_limit_pct: float | Float[Array, ""] = 30.05


# As the methods of Gao et al. (Nat Med 2015;21:1318) say and the R package Xeva does: both minima over t >= 10 d.
MRECIST = MouseRule()

# As the supplementary table of the same paper was made. The text above does not give that table: it turns one in
# five of the published PD into SD. This rule was inferred from the table; it gives both numbers of 4,037 of the 4,040
# curves that can be matched, to rounding (0.05 points; 30.05 is that rounding), and those left over lack their day 0.
MRECIST_PDXE = MouseRule(best_from_day=9.0, average_from_day=11.0, settled_from_day=20.0)


def mrecist_curve(
    volume: Float[Array, " T"],
    day: Float[Array, " T"],
    valid: Bool[Array, " T"],
    *,
    rule: MouseRule = MRECIST,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Best response and best average response of one mouse, in percent.

    The change is 100 (V_t - V_0) / V_0 with V_0 the first valid volume. The average at t is the plain mean of the
    changes of all measurements from day 0 (its own zero included) to t. Best is the smallest, from the rule's day on.

    A mouse whose measurements end before that day is read at its last measurement: that is what the published table
    does (58 curves). Xeva gives no class there, nor where fewer than two measurements lie at or after day 10.

    Parameters
    ----------
    volume
        Tumour volumes (mm3), in order of time.
    day
        Days of the measurements from the start of treatment.
    valid
        Which entries are measurements; False pads. None before the start of treatment.
    rule
        MRECIST or MRECIST_PDXE.

    Returns
    -------
    best_response, best_average_response
        Scalars (%). Both NaN with fewer than two measurements or a first volume of 0, which no class fits (NE).
    """
    index = jnp.arange(volume.shape[0])
    baseline = volume[jnp.argmax(valid)]
    readable = (jnp.sum(valid) >= 2) & (baseline > 0)
    safe_baseline = jnp.where(readable, baseline, 1.0)
    change = jnp.where(valid, 100.0 * (volume / safe_baseline - 1.0), 0.0)
    num_measured = jnp.maximum(jnp.cumsum(valid.astype(jnp.int32)), 1)
    average = jnp.cumsum(change) / num_measured.astype(change.dtype)

    last = valid & (index == jnp.max(jnp.where(valid, index, -1)))
    early = day < rule.settled_from_day
    relapse = valid & early & ~last & (change > rule.settled_limit_pct)
    relapse_ahead = lax.cummax(relapse.astype(jnp.int32), reverse=True) > 0
    candidate = valid & (day >= rule.best_from_day) & ~(early & relapse_ahead)

    def lowest(value: Array, counts: Array) -> Array:
        counts = jnp.where(jnp.any(counts), counts, last)
        return jnp.where(readable, jnp.min(jnp.where(counts, value, jnp.inf)), jnp.nan)

    return lowest(change, candidate), lowest(average, valid & (day >= rule.average_from_day))


def mrecist_class(best_response: Float[Array, "..."], best_average_response: Float[Array, "..."]) -> Int[Array, "..."]:
    """MRECIST class, elementwise (Gao et al. 2015): the first that fits of CR, PR, SD, else PD.

    Parameters
    ----------
    best_response, best_average_response
        In percent, from `mrecist_curve` or a published table.

    Returns
    -------
    Int[Array, "..."]
        CR below -95 and -40, PR below -50 and -20, SD below 35 and 30, PD; NE where either is NaN.
    """
    code = jnp.where((best_response < 35.0) & (best_average_response < 30.0), SD, PD)
    code = jnp.where((best_response < -50.0) & (best_average_response < -20.0), PR, code)
    code = jnp.where((best_response < -95.0) & (best_average_response < -40.0), CR, code)
    return jnp.where(jnp.isnan(best_response) | jnp.isnan(best_average_response), NE, code)


def tumour_growth_inhibition(
    treated: Float[Array, "..."],
    treated_baseline: Float[Array, "..."],
    control: Float[Array, "..."],
    control_baseline: Float[Array, "..."],
) -> Float[Array, "..."]:
    """TGI (%) = 100 (1 - (V_T - V_T0) / (V_C - V_C0)): 100 is stasis, above 100 regression.

    Volumes (mm3) of treated and control tumours, mouse by mouse or as group means, on one day and at the start.
    Meaningless (infinite at the limit) where the control did not grow.
    """
    return 100.0 * (1.0 - (treated - treated_baseline) / (control - control_baseline))


def treated_over_control(treated: Float[Array, "..."], control: Float[Array, "..."]) -> Float[Array, "..."]:
    """T/C (%) = 100 V_T / V_C on one day; at most 42 is "active" by the NCI's standard."""
    return 100.0 * treated / control


def doubling_time(
    volume: Float[Array, " T"],
    day: Float[Array, " T"],
    valid: Bool[Array, " T"],
    *,
    multiple: float | Float[Array, ""] = 2.0,
) -> TimeToEvent:
    """Days until one tumour first reached `multiple` times its first volume, read from the line between measurements.

    The published PDXE table does the same, but for a tumour that doubled by its second measurement it gives that day
    (about 3 % of curves); here the line from day 0 is read there as well.

    Parameters
    ----------
    volume, day, valid
        As in `mrecist_curve`.
    multiple
        Above 1. Four, for instance, gives the time to quadruple.

    Returns
    -------
    TimeToEvent
        Scalars; censored at the last measurement where the tumour did not get there; not included where there are
        fewer than two measurements or the first volume is 0.
    """
    first = jnp.argmax(valid)
    ratio = jnp.where(valid, volume / jnp.where(volume[first] > 0, volume[first], 1.0), 0.0)
    index = jnp.arange(volume.shape[0])
    # For each entry the last measurement before it, across the padding.
    before = lax.cummax(jnp.where(valid, index, 0))[jnp.maximum(index - 1, 0)]
    reached = valid & (ratio >= multiple) & (index > first)
    at = jnp.argmax(reached)
    event = jnp.any(reached)
    low, high = ratio[before[at]], ratio[at]
    # low < multiple <= high at the first crossing; the guard is for the branch not taken.
    share = (multiple - low) / jnp.where(event, high - low, 1.0)
    crossing = day[before[at]] + share * (day[at] - day[before[at]])
    last_day = jnp.max(jnp.where(valid, day, -jnp.inf))
    included = (jnp.sum(valid) >= 2) & (volume[first] > 0)
    when = jnp.where(event, crossing, last_day) - day[first]
    return TimeToEvent(day=jnp.where(included, when, 0.0), event=event & included, included=included)


def growth_delay(treated: TimeToEvent, control: TimeToEvent) -> TimeToEvent:
    """T - C (days): how much later the treated tumour reached the size, elementwise; see `doubling_time`.

    A treated tumour that never got there gives a lower bound (censored). Where the control did not get there the
    delay does not exist (not included).
    """
    included = treated.included & control.included & control.event
    return TimeToEvent(
        day=jnp.where(included, treated.day - control.day, 0.0),
        event=included & treated.event,
        included=included,
    )
