"""What the fit key says of the model, without JAX: its format number and the priors that it reads."""

#: raised whenever the numbers that a fit gives change
FIT_FORMAT = 1

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
    "growth.mouse.slowing",
    "growth.mouse.ln_residual_sd",
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
