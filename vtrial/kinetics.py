"""Linear pharmacokinetics in closed form: one or two compartments, by mouth, as a bolus or as an infusion.

The amount in the central compartment after a unit bolus is a sum of exponentials, ``sum_j share_j exp(-rate_j t)``, and
every dose adds its own (superposition). Each exponential is carried from dose to dose on its own, so that the cost is
linear in the number of doses. Days and rates per day; amounts are in the unit of the doses (over the volume of the
central compartment they are concentrations).

Source: Gibaldi M, Perrier D. Pharmacokinetics. 2nd ed. Marcel Dekker 1982, chapters 1 to 3.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar: TypeAlias = Float[Array, ""] | float | int


class Disposition(NamedTuple):
    """What becomes of drug in the central compartment, one item (vmap for draws).

    Attributes
    ----------
    share : Array [J]
        Share of each exponential in the amount after a bolus; they sum to 1.
    rate : Array [J]
        Rate of each exponential, 1/day.
    """

    share: jax.Array
    rate: jax.Array


def one_compartment(elimination_rate: Scalar) -> Disposition:
    """Disposition by one exponential; rate in 1/day."""
    rate = jnp.asarray(elimination_rate)
    return Disposition(jnp.ones((1,), rate.dtype), rate[None])


def two_exponentials(fast_share: Scalar, fast_rate: Scalar, slow_rate: Scalar) -> Disposition:
    """Disposition by two exponentials, given as such; rates in 1/day."""
    share = jnp.stack([jnp.asarray(fast_share), 1.0 - jnp.asarray(fast_share)])
    return Disposition(share, jnp.stack([jnp.asarray(fast_rate), jnp.asarray(slow_rate)]))


def two_compartment(clearance: Scalar, volume: Scalar, exchange: Scalar, peripheral_volume: Scalar) -> Disposition:
    """Disposition of the two-compartment model.

    Parameters
    ----------
    clearance, exchange : Array []
        Clearance and clearance between the compartments, volume a day.
    volume, peripheral_volume : Array []
        Of the central and the peripheral compartment.
    """
    out, there, back = clearance / volume, exchange / volume, exchange / peripheral_volume
    total = out + there + back
    # the discriminant total^2 - 4 out back, as a sum of squares and products: it is above 0 without cancellation
    root = jnp.sqrt((out - back) ** 2 + there * (there + 2.0 * (out + back)))
    fast = 0.5 * (total + root)
    slow = out * back / fast
    return two_exponentials((fast - back) / root, fast, slow)


def oral_amount(
    time: Float[Array, " G"],
    dose_time: Float[Array, " N"],
    dose_amount: Float[Array, " N"],
    disposition: Disposition,
    absorption_rate: Scalar,
) -> Float[Array, " G"]:
    """Amount in the central compartment with first-order absorption, all doses absorbed.

    Parameters
    ----------
    time : Array [G]
        Days, in any order. At the very time of a dose, that dose counts as given (and has not arrived yet).
    dose_time, dose_amount : Array [N]
        Days, in any order, and amounts; pad with amounts of 0.
    disposition : Disposition
        One item.
    absorption_rate : Array []
        1/day; may be equal to a rate of the disposition.
    """
    if dose_time.shape[0] == 0:
        return jnp.zeros_like(time)
    order = jnp.argsort(dose_time)
    dose_time = dose_time[order]
    depot, parts = after_oral_doses(dose_time, dose_amount[order], disposition, absorption_rate)
    last = jnp.searchsorted(dose_time, time, side="right") - 1
    index = jnp.maximum(last, 0)
    # Clipped, so that the unused branch before the first dose has finite gradients.
    since = jnp.maximum(time - dose_time[index], 0.0)
    _, now = jax.vmap(carry, in_axes=(0, 0, 0, None, None))(
        since, depot[index], parts[index], disposition, absorption_rate
    )
    return jnp.where(last >= 0, jnp.sum(now, axis=-1), 0.0)


def intravenous_amount(
    time: Float[Array, " G"],
    dose_time: Float[Array, " N"],
    dose_amount: Float[Array, " N"],
    disposition: Disposition,
    infusion_days: Scalar,
) -> Float[Array, " G"]:
    """Amount in the central compartment under infusions of constant rate, or boluses where they take 0 days.

    Parameters
    ----------
    time, dose_time, dose_amount, disposition
        See `oral_amount`; a bolus counts as arrived at its very time.
    infusion_days : Array []
        How long each dose takes, days; 0 or more.
    """
    if dose_time.shape[0] == 0:
        return jnp.zeros_like(time)
    at, at_once, change = infusion_events(dose_time, dose_amount, infusion_days)
    order = jnp.argsort(at)
    at = at[order]
    parts, flow = after_infusion_events(at, at_once[order], change[order], disposition)
    last = jnp.searchsorted(at, time, side="right") - 1
    index = jnp.maximum(last, 0)
    since = jnp.maximum(time - at[index], 0.0)
    now = jax.vmap(carry_infused, in_axes=(0, 0, 0, None))(since, parts[index], flow[index], disposition)
    return jnp.where(last >= 0, jnp.sum(now, axis=-1), 0.0)


def average_amount(dosing_rate: Scalar, disposition: Disposition) -> Scalar:
    """Average amount at steady state, whatever the schedule: dose rate times the area under a unit dose.

    Parameters
    ----------
    dosing_rate : Array []
        Amount per day, see `dosing.dose_rate`.
    disposition : Disposition
        One item.
    """
    return dosing_rate * jnp.sum(disposition.share / disposition.rate, axis=-1)


def steady_state_amount(
    since: Float[Array, " G"], interval: Scalar, dose_amount: Scalar, disposition: Disposition, absorption_rate: Scalar
) -> Float[Array, " G"]:
    """Amount at steady state under equal doses by mouth at equal intervals.

    Parameters
    ----------
    since : Array [G]
        Days since the last dose, 0 to the interval.
    interval, dose_amount : Array []
        Days between doses, and the amount of each.
    disposition, absorption_rate
        See `oral_amount`.
    """
    depot = dose_amount / -jnp.expm1(-absorption_rate * interval)
    empty = jnp.zeros_like(disposition.rate)
    _, arrived = carry(jnp.asarray(interval), depot, empty, disposition, absorption_rate)
    parts = arrived / -jnp.expm1(-disposition.rate * interval)
    _, now = jax.vmap(carry, in_axes=(0, None, None, None, None))(since, depot, parts, disposition, absorption_rate)
    return jnp.sum(now, axis=-1)


def accumulation(interval: Scalar, disposition: Disposition, absorption_rate: Scalar) -> Float[Array, ""]:
    """Area over one interval at steady state over that after the first dose, of equal doses by mouth.

    The first is the whole area after one dose. The second follows from the balance of mass: what was absorbed less what
    is still there has been eliminated.
    """
    share, rate = disposition
    _, left = carry(jnp.asarray(interval), jnp.ones(()), jnp.zeros_like(rate), disposition, absorption_rate)
    absorbed = -jnp.expm1(-absorption_rate * interval)
    return jnp.sum(share / rate) / jnp.sum((share * absorbed - left) / rate)


def carry(
    since: Float[Array, ""],
    depot: Float[Array, ""],
    parts: Float[Array, " J"],
    disposition: Disposition,
    absorption_rate: Scalar,
) -> tuple[Float[Array, ""], Float[Array, " J"]]:
    """Depot and the parts of the central amount a time `since` later, without a dose in between (exact)."""
    share, rate = disposition
    # (exp(-ke s) - exp(-ka s)) / (ka - ke) = s exp(-min(ka, ke) s) (1 - exp(-x)) / x with x = |ka - ke| s: no
    # cancellation, no overflow; max minus min, whose gradient at a tie is shared, is right at ka = ke (abs is not).
    slow = jnp.minimum(absorption_rate, rate)
    gap = (jnp.maximum(absorption_rate, rate) - slow) * since
    arrived = share * absorption_rate * since * jnp.exp(-slow * since) * _mean_decay(gap)
    return depot * jnp.exp(-absorption_rate * since), parts * jnp.exp(-rate * since) + depot * arrived


def after_oral_doses(
    dose_time: Array, dose_amount: Array, disposition: Disposition, absorption_rate: Scalar
) -> tuple[Array, Array]:
    """Depot [N] and parts of the central amount [N, J] just after each of the doses, which come in order of time."""

    # One pass over the doses, not a sum of all doses at every time: linear, not quadratic, in the trial's length.
    def give(state, dose):
        (depot, parts), (wait, new) = state, dose
        depot, parts = carry(wait, depot, parts, disposition, absorption_rate)
        return (depot + new, parts), (depot + new, parts)

    waits = jnp.diff(dose_time, prepend=dose_time[:1])
    kind = jnp.result_type(dose_amount, absorption_rate, disposition.rate, waits)
    empty = (jnp.zeros((), kind), jnp.zeros(disposition.rate.shape, kind))
    _, states = jax.lax.scan(give, empty, (waits, dose_amount.astype(kind)))
    return states


def infusion_events(dose_time: Array, dose_amount: Array, infusion_days: Scalar) -> tuple[Array, Array, Array]:
    """Starts, then ends, of infusions: times, amounts that arrive at once, changes of the flow (a day), [2 N] each."""
    end = dose_time + infusion_days
    # Late days have few digits after the point in float32: the flow over the length as stored is the whole dose.
    length = end - dose_time
    infused = length > 0.0
    flow = jnp.where(infused, dose_amount / jnp.where(infused, length, 1.0), 0.0)
    at_once = jnp.where(infused, 0.0, dose_amount)
    ends = jnp.zeros_like(at_once)
    return jnp.concatenate([dose_time, end]), jnp.concatenate([at_once, ends]), jnp.concatenate([flow, -flow])


def after_infusion_events(time: Array, at_once: Array, change: Array, disposition: Disposition) -> tuple[Array, Array]:
    """Parts of the central amount [E, J] and flow [E] just after each of the events, which come in order of time."""

    def step(state, event):
        (parts, flow), (wait, bolus, more) = state, event
        state = (carry_infused(wait, parts, flow, disposition) + disposition.share * bolus, flow + more)
        return state, state

    waits = jnp.diff(time, prepend=time[:1])
    kind = jnp.result_type(at_once, change, disposition.rate, waits)
    empty = (jnp.zeros(disposition.rate.shape, kind), jnp.zeros((), kind))
    _, states = jax.lax.scan(step, empty, (waits, at_once.astype(kind), change.astype(kind)))
    return states


def carry_infused(
    since: Float[Array, ""], parts: Float[Array, " J"], flow: Float[Array, ""], disposition: Disposition
) -> Float[Array, " J"]:
    """Parts of the central amount a time `since` later, with a constant flow into it (exact)."""
    share, rate = disposition
    gone = rate * since
    return parts * jnp.exp(-gone) + share * flow * since * _mean_decay(gone)


def _mean_decay(x: Array) -> Array:
    """(1 - exp(-x)) / x for x >= 0, by its series near 0 (relative error below 2e-13)."""
    small = x < 0.01
    series = 1.0 - x / 2.0 * (1.0 - x / 3.0 * (1.0 - x / 4.0 * (1.0 - x / 5.0)))
    away = jnp.where(small, 1.0, x)
    return jnp.where(small, series, -jnp.expm1(-away) / away)
