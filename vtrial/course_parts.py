"""Which parts of a patient's course are simulated."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vtrial.base import PatientLaw


class Parts(NamedTuple):
    """Which parts of a patient's course are simulated; static. What is left out would have changed nothing.

    Attributes
    ----------
    new_lesions, discontinuation, missed_visits, reader : bool
        Off where the law has no such thing in any draw.
    death, blinded : bool
        Only for the endpoints that read them.
    exposure : bool
        Whether patients differ in exposure (`PatientLaw.exposure_sd`).
    late_visits : bool
        Whether visits are late (`PatientLaw.visit_delay`).
    lesions : int or None
        Target lesions of everybody (fewer where the sum of diameters has no room), in place of the law's mean number.
    cut_off : bool
        Whether data are cut off (`PatientLaw.cut_off`).
    resistance : bool
        Whether a drug does nothing in some patients (`PatientLaw.resistant_share`).
    responders : bool
        Whether some patients are common responders (`PatientLaw.responder_share`).
    """

    new_lesions: bool = True
    discontinuation: bool = True
    missed_visits: bool = True
    reader: bool = True
    death: bool = True
    blinded: bool = True
    exposure: bool = False
    late_visits: bool = False
    lesions: int | None = None
    cut_off: bool = False
    resistance: bool = False
    responders: bool = False


EVERYTHING = Parts()


def parts_of(law: PatientLaw) -> Parts:
    """The parts of a course that a law has in any draw; leaving out the others changes no count, and saves time."""

    def some(leaf: jax.Array) -> bool:
        return bool(jnp.any(leaf != 0))

    return Parts(
        new_lesions=some(law.new_lesion_hazard),
        discontinuation=some(law.discontinuation_hazard),
        missed_visits=some(law.missed_visit),
        reader=some(law.reader_effect),
        death=False,
        blinded=False,
        exposure=law.exposure_sd is not None,
        late_visits=law.visit_delay is not None and some(law.visit_delay),
        cut_off=law.cut_off is not None,
        resistance=law.resistant_share is not None and some(law.resistant_share),
        responders=law.responder_share is not None,
    )
