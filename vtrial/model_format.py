"""What is fixed of the model before any curve is seen, without JAX: format number, priors, shape of a curve."""

from __future__ import annotations

from typing import NamedTuple

#: raised whenever the numbers that a fit gives change
FIT_FORMAT = 9


class CurveShape(NamedTuple):
    """Constants of the curve of one mouse; part of the configuration, not fitted.

    A curve wanders from its own smooth course: the residuals of ln volume have the covariance

        sigma^2 [(1 - w) (exp(-|t - s| / tau) - exp(-(t + s) / tau)) + w 1{t = s}]      tau, w: residual_days, _white

    an Ornstein-Uhlenbeck process that starts at 0 on day 0, and independent reading error. `sigma` is the SD that it
    settles at.
    """

    loss_rate: float = 0.02  # 1/day, of the third time course
    residual_days: float = 30.0  # days over which residuals forget; 0: all of them are independent
    residual_white: float = 0.04  # share of the residual variance, in (0, 1]
    growth: str = "exponential"  # law of growth, a key of vtrial.growth_laws.LAWS
    deceleration: float = 0.0  # 1/day per ln volume, of Gompertz growth


#: priors that the model reads; their entries are part of the fit key
PRIORS = (
    "growth.mouse.ln_rate",
    "growth.mouse.between_types",
    "growth.mouse.between_models",
    "growth.mouse.ln_volume_start",
    "growth.mouse.intercept_sd",
    "growth.mouse.ln_between_mice_relative",
    "growth.mouse.ln_curvature_sd",
    "growth.mouse.loss",
    "growth.mouse.loss_spread",
    "growth.mouse.slowing",
    "growth.mouse.ln_residual_sd",
    "growth.mouse.ln_residual_between_types",
    "growth.mouse.ln_residual_between_arms",
    "growth.mouse.ln_residual_spread",
    "classes.default.mean_effect",
    "classes.default.between_classes",
    "classes.default.between_drugs",
    "classes.default.between_types",
    "classes.default.ln_between_models",
    "classes.default.ln_between_models_spread",
    "class_pairs.default.phi",
    "class_pairs.default.phi_spread",
    "class_pairs.default.gamma",
    "class_pairs.default.gamma_spread",
    "class_pairs.default.between_models",
)
#: the same of a law of effect against dose
DOSE_PRIORS = {
    "none": (),
    "emax": ("dose_response.ln_ed50", "dose_response.ln_hill"),
    "log_linear": ("dose_response.ln_slope",),
}
#: the same of common responders (`vtrial.responders`)
RESPONDER_PRIORS = {
    "none": (),
    "common": ("classes.default.responder_share", "classes.default.responder_shift"),
}
