"""Effect of a drug at a dose over its effect at the reference dose: Emax, or linear in ln dose.

With ``u = ln(dose / reference)``

    emax        h(dose) / h(reference),   h(dose) = dose^hill / (dose^hill + ED50^hill)
    log_linear  max(1 + slope u, 0), rounded off over 0.05

The scale multiplies the effect of every PDX model, so that a curve stays linear in the effect given the dose-response.
Written for NumPy and JAX alike, and without either: predictions and the fit use the same lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

#: law -> its parameters in the posterior, one of each per drug
LAWS: Mapping[str, tuple[str, ...]] = {"emax": ("ln_ed50", "hill"), "log_linear": ("dose_slope",)}
#: of ``max(., 0)`` in log_linear, in units of the effect at the reference dose
ROUNDING = 0.05
#: smallest scale: the combination rule takes its logarithm
FLOOR = 1e-12


class DoseResponse(NamedTuple):
    """A law with the reference doses of its drugs."""

    law: str  # a key of `LAWS`
    reference: Mapping[str, float]  # drug -> dose whose effect is that of the drug


def strength(law: str, ln_dose: Any, *parameters: Any, xp: Any = np) -> Any:
    """Effect at a dose over that at the reference dose; 1 at the reference.

    Parameters
    ----------
    law
        A key of :data:`LAWS`.
    ln_dose
        ln(dose / reference dose).
    *parameters
        Those of the law, of shapes that broadcast: ``ln_ed50`` = ln(ED50 / reference dose) and ``hill``; or
        ``dose_slope``, the share of the effect at the reference that e times the dose adds.
    xp
        The module of arrays: numpy, or jax.numpy.
    """
    if law == "emax":
        ln_ed50, hill = parameters
        ln_scale = xp.logaddexp(0.0, hill * ln_ed50) - xp.logaddexp(0.0, hill * (ln_ed50 - ln_dose))
        return xp.maximum(xp.exp(ln_scale), FLOOR)
    (slope,) = parameters
    # the same rounding at the reference, so that the scale is 1 there
    scale = xp.logaddexp(0.0, (1.0 + slope * ln_dose) / ROUNDING) / np.logaddexp(0.0, 1.0 / ROUNDING)
    return xp.maximum(scale, FLOOR)
