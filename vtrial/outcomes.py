"""What is read of simulated patients, as NamedTuples: shapes and units, no behaviour.

What goes into a simulation stands in :mod:`vtrial.base`, and what the axis letters mean.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import jax

#: bins of the best change, see `endpoints.change_bin`
CHANGE_BINS = 43
#: the bin that ends at no change: it and all before it are shrinkage
NO_CHANGE_BIN = 20


class Response(IntEnum):
    """Response of a visit or best response of a patient or mouse; smaller is better."""

    CR = 0
    PR = 1
    SD = 2
    PD = 3
    NE = 4


# Plain integers: an IntEnum member is not a weakly typed Python scalar to JAX.
CR, PR, SD, PD, NE = (int(code) for code in Response)


class Ending(NamedTuple):
    """The visits on which a patient's response and end of follow-up fall, counted from 1; int32.

    Attributes
    ----------
    response : Array []
        First visit of the response, 0 without one.
    end : Array []
        Visit of the progression or death, else the last evaluable visit; 0 without any.
    kind : Array []
        What happened there: 0 nothing (censored), 1 progression, 2 death without progression.
    """

    response: jax.Array
    end: jax.Array
    kind: jax.Array


class Counts(NamedTuple):
    """What leaves the device, int32. The response classes C are CR, PR, SD, PD, NE.

    Attributes
    ----------
    best_response : Array [D, K, B, 5]
        Patients by best overall response, confirmed.
    best_unconfirmed : Array [D, K, B, 5]
        The same where no confirmation is asked for.
    responders_independent : Array [D, K, B]
        Patients who have a confirmed response to at least one of the combination's drugs given alone, at the doses of
        the combination (independent action); 0 for regimens without parts.
    independent_unconfirmed : Array [D, K, B]
        The same where no confirmation is asked for.
    num_patients : Array [D, B]
        Patients in each subgroup.
    """

    best_response: jax.Array
    best_unconfirmed: jax.Array
    responders_independent: jax.Array
    independent_unconfirmed: jax.Array
    num_patients: jax.Array


class EndpointCounts(NamedTuple):
    """What else one simulation tells of the arms (the first A regimens), int32; V visits.

    Attributes
    ----------
    course : Array [D, A, B, V + 1, V + 1, 3]
        Patients by `Ending`: visit of the response (confirmed or not, as asked), visit of the end, kind of the end.
        Visits by their number, whenever they were made.
    change : Array [D, A, B, CHANGE_BINS]
        Patients by best change from baseline, see `endpoints.change_bin`.
    evaluable : Array [D, A, B]
        Patients with at least one evaluable assessment after baseline.
    blinded : Array [D, A, B, 5]
        Patients by best overall response as a second, blinded reader has it, confirmed or not as asked; None where
        that reader is not asked for.
    both : Array [D, A, B]
        Responders by both readers, or None.
    response_day : Array [D, A, B, T]
        Responders by the whole day, from 0, of the visit of their response. None, like the next two, where all visits
        are on their planned days, or the days are not asked for.
    end_day : Array [D, A, B, T, 3]
        Patients by the day of their end, and its kind: that of a visit, or of a death without progression. Days end
        with the planned day of the last visit (before the cut-off), on which later ends are censored.
    duration : Array [D, A, B, T, 2]
        Responders by the days from the one to the other, and whether the response had ended (1) or not (0).
    """

    course: jax.Array
    change: jax.Array
    evaluable: jax.Array
    blinded: Any
    both: Any
    response_day: Any = None
    end_day: Any = None
    duration: Any = None


class Trajectories(NamedTuple):
    """Single patients for figures; N patients, the same in every regimen.

    Attributes
    ----------
    sld_baseline : Array [N]
        Sum of longest diameters as read before treatment, mm.
    sld : Array [K, N, V]
        The same at the visits, whether or not the visit was made, mm.
    codes : Array [K, N, V]
        Response of each visit (CR 0, PR 1, SD 2, PD 3, NE 4); visits after the first PD are read too.
    best_change : Array [K, N]
        Smallest change from baseline up to the first PD (fraction); NaN without an assessment.
    best_response : Array [K, N]
        Best overall response, confirmed.
    subgroup : Array [N]
        Index of the subgroup.
    visit_day : Array [N, V]
        Days on which the visits are made, or would be.
    """

    sld_baseline: jax.Array
    sld: jax.Array
    codes: jax.Array
    best_change: jax.Array
    best_response: jax.Array
    subgroup: jax.Array
    visit_day: jax.Array


class TimeToEvent(NamedTuple):
    """A time that may be censored.

    Attributes
    ----------
    day
        Days to the event, or to the last time without it. Scalar, or as many as there are patients.
    event
        True where the event was seen, False where the time is censored.
    included
        False where the time does not exist (duration of response of a non-responder); `day` is 0 there.
    """

    day: jax.Array
    event: jax.Array
    included: jax.Array
