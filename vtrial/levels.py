"""The levels of the hierarchical model, sampled from their priors: all but the PDX models and what is integrated out.

Tumour types and drugs within their classes, what all mice share, residual scales, dose-responses, covariates, common
responders, and the rule of combinations. Each function samples, and so is called inside the model
(:func:`vtrial.model.build_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from vtrial.dose_response import strength
from vtrial.dose_rows import Dosed
from vtrial.marginal import GroupedNormal
from vtrial.model_format import RESPONDER_PRIORS
from vtrial.panel import Combinations, Covariates, Labels
from vtrial.residual_scales import ScaleCoordinate, ScaleCoordinates, ln_sigma, prior_of_z
from vtrial.treatment import combine, joint_effect

# numpyro declares what they return as anything array-like, a bool or an int too; in a model it is an array
sample: Any = numpyro.sample
deterministic: Any = numpyro.deterministic

#: distributions by the names of the priors files
Prior: TypeAlias = Mapping[str, dist.Distribution]


def population(labels: Labels, prior: Prior, drug_class, drug_type_drug):
    """Sample tumour types and drugs; returns what the mice need.

    Parameters
    ----------
    labels, drug_class, drug_type_drug
        See :class:`vtrial.panel.Panel`.

    Returns
    -------
    Mean and spread [type] of ln growth over the PDX models of a tumour type; mean and spread [drug_type] of the effect.
    """
    num_types, num_classes = len(labels.tumour_type), len(labels.drug_class)

    mu = sample("mu_ln_growth", prior["growth.mouse.ln_rate"])
    between = sample("omega_ln_growth_type", prior["growth.mouse.between_types"])
    with numpyro.plate("tumour_type", num_types):
        z = sample("ln_growth_type_z", dist.Normal(0.0, 1.0))
        omega_growth = sample("omega_ln_growth", prior["growth.mouse.between_models"])
    ln_growth_type = deterministic("ln_growth_type", mu + between * z)

    mu_effect = sample("mu_effect", prior["classes.default.mean_effect"])
    omega_class = sample("omega_effect_class", prior["classes.default.between_classes"])
    omega_drug = sample("omega_effect_drug", prior["classes.default.between_drugs"])
    omega_type = sample("omega_effect_type", prior["classes.default.between_types"])
    # drugs with the class integrated out, then the class given its drugs: the two spreads trade with each other, and
    # the curves know the drugs
    drugs = GroupedNormal(mu_effect, omega_class, omega_drug, drug_class, num_classes)
    effect_drug = sample("effect_drug", drugs)
    class_mean, class_scale = drugs.group_given(effect_drug)
    with numpyro.plate("drug_class", num_classes):
        class_z = sample("effect_class_z", dist.Normal(0.0, 1.0))
    deterministic("effect_class", class_mean + class_scale * class_z)
    mu_spread = sample("mu_ln_omega_effect", prior["classes.default.ln_between_models"])
    spread = sample("omega_ln_omega_effect", prior["classes.default.ln_between_models_spread"])
    with numpyro.plate("drug_type", len(labels.drug_type)):
        effect_z = sample("effect_z", dist.Normal(0.0, 1.0))
        spread_z = sample("omega_effect_z", dist.Normal(0.0, 1.0))
    effect = deterministic("effect", effect_drug[drug_type_drug] + omega_type * effect_z)
    return ln_growth_type, omega_growth, effect, deterministic("omega_effect", jnp.exp(mu_spread + spread * spread_z))


def shared_by_mice(prior: Prior, mean_ln_growth) -> dict[str, Any]:
    """Sample what all mice share.

    The curves know the spread of a rate in 1/day; relative to growth it moves against the mean of all ln growths. So
    ``ln(omega * mean growth)`` is what is sampled, with the prior of ``ln omega`` shifted along.
    """

    def relative(name, normal: Any):
        absolute = sample(f"ln_{name}_per_day", dist.Normal(normal.loc + mean_ln_growth, normal.scale))
        return deterministic(name, jnp.exp(absolute - mean_ln_growth))

    return {
        "mu_intercept": sample("mu_intercept", prior["growth.mouse.ln_volume_start"]),
        "omega_intercept": sample("omega_intercept", prior["growth.mouse.intercept_sd"]),
        "omega_mouse": relative("omega_mouse", prior["growth.mouse.ln_between_mice_relative"]),
        "omega_curvature": relative("omega_curvature", prior["growth.mouse.ln_curvature_sd"]),
        "slowing": sample("slowing", prior["growth.mouse.slowing"]),
        "correlation": sample("curvature_correlation", dist.Uniform(-0.99, 0.99)),
    }


def losses(labels: Labels, prior: Prior):
    """Sample the fraction of its effect that each drug loses in the end in each tumour type, [drug_type]."""
    mean, between = sample("loss", prior["growth.mouse.loss"]), sample("omega_loss", prior["growth.mouse.loss_spread"])
    with numpyro.plate("drug_type", len(labels.drug_type)):
        z = sample("loss_drug_type_z", dist.Normal(0.0, 1.0))
    return deterministic("loss_drug_type", mean + between * z)


def residual_levels(labels: Labels, prior: Prior, scales: ScaleCoordinates, arm_type_type):
    """Sample the mean ln residual SD of every arm of a tumour type, [G], and the SD between its mice.

    As :mod:`vtrial.residual_scales` has it; `arm_type_type` [G] is the tumour type of each.
    """
    mu = sample("mu_ln_sigma", prior["growth.mouse.ln_residual_sd"])
    between_types = sample("omega_ln_sigma_type", prior["growth.mouse.ln_residual_between_types"])
    between_arms = sample("omega_ln_sigma_arm", prior["growth.mouse.ln_residual_between_arms"])
    omega = sample("omega_ln_sigma", prior["growth.mouse.ln_residual_spread"])
    with numpyro.plate("tumour_type", len(labels.tumour_type)):
        of_type = _ln_sigma("ln_sigma_type", scales.tumour_type, mu, between_types)
    with numpyro.plate("arm_type", len(labels.arm_type)):
        of_arm = _ln_sigma("ln_sigma_arm", scales.arm_type, of_type[arm_type_type], between_arms)
    return of_arm, omega


def ln_residual_sd(labels: Labels, prior: Prior, scales: ScaleCoordinates, arm_type_type, arm_type):
    """Sample the ln residual SD of every mouse, [S]; `arm_type` [S] is its arm, the rest as above."""
    of_arm, omega = residual_levels(labels, prior, scales, arm_type_type)
    with numpyro.plate("mouse", len(labels.mouse)):
        return _ln_sigma("ln_sigma", scales.mouse, of_arm[arm_type], omega)


def _ln_sigma(name: str, of: ScaleCoordinate, mean, spread):
    z = sample(f"{name}_z", dist.Normal(*prior_of_z(of, mean, spread, jnp)))
    return deterministic(name, ln_sigma(of, mean, spread, z, jnp))


def dose_strength(labels: Labels, prior: Prior, law: str, dosed: Dosed):
    """Sample the dose-responses; returns the strength of the doses of single mice [num_single] and of cells [C, D]."""
    with numpyro.plate("dosed_drug", len(labels.dosed_drug)):
        if law == "emax":
            ln_ed50 = sample("ln_ed50", prior["dose_response.ln_ed50"])
            parameters = (ln_ed50, deterministic("hill", jnp.exp(sample("ln_hill", prior["dose_response.ln_hill"]))))
        else:
            ln_slope = sample("ln_dose_slope", prior["dose_response.ln_slope"])
            parameters = (deterministic("dose_slope", jnp.exp(ln_slope)),)

    def at(drug, ln_dose):
        return strength(law, ln_dose, *(parameter[drug] for parameter in parameters), xp=jnp)

    return at(dosed.drug, dosed.ln_dose), at(dosed.cell_drug, dosed.cell_ln_dose)


def covariate_shifts(labels: Labels, prior: Prior, covariates: Covariates, omega_effect):
    """Sample what a unit of each covariate adds to the effects of each class, [B].

    Returns what the covariates of its PDX model add to the mean of the effect on a mouse [num_single] and at a site
    [X], and the spread of effects over all PDX models of a type [drug_type]; `omega_effect` is that given covariates.
    """
    pairs = (label.rsplit(" | ", 1) for label in labels.class_covariate)
    normals = [prior[f"covariates.{name}.{drug_class}"] for drug_class, name in pairs]
    loc, scale = (jnp.stack([jnp.asarray(getattr(one, name)) for one in normals]) for name in ("loc", "scale"))
    effect = sample("covariate_effect", dist.Normal(loc, scale).to_event(1))
    shift, site_shift = (rows @ effect for rows in (covariates.single, covariates.site))
    between = jnp.square(covariates.spread) @ jnp.square(effect)
    return shift, site_shift, jnp.sqrt(jnp.square(omega_effect) + between)


def common_responders(prior: Prior, responders: str) -> tuple[Any, Any]:
    """Sample the share of common responders and their shift; two None without such."""
    if responders == "none":
        return None, None
    names = RESPONDER_PRIORS[responders]
    return sample("responder_share", prior[names[0]]), sample("responder_shift", prior[names[1]])


def combination_rule(labels: Labels, prior: Prior, combinations: Combinations, num_shared: int, dose):
    """Sample the rule: a function of the effects at the sites to the mean effect of every combination cell, [C].

    Returns with it the spread of the cells, [C]; `dose` is the strength [C, D] of the doses, or None.

    Doses act as exposure does in patients: gamma goes with both strengths, the deviation of a cell with their
    geometric mean (:func:`vtrial.treatment.joint_effect`).
    """
    mu_phi = sample("mu_phi", prior["class_pairs.default.phi"])
    omega_phi = sample("omega_phi", prior["class_pairs.default.phi_spread"])
    mu_gamma = sample("mu_gamma", prior["class_pairs.default.gamma"])
    omega_gamma = sample("omega_gamma", prior["class_pairs.default.gamma_spread"])
    omega = sample("omega_combination", prior["class_pairs.default.between_models"])
    with numpyro.plate("class_pair", len(labels.class_pair)):
        phi = deterministic("phi", mu_phi + omega_phi * sample("phi_z", dist.Normal(0.0, 1.0)))
        gamma = deterministic("gamma", mu_gamma + omega_gamma * sample("gamma_z", dist.Normal(0.0, 1.0)))
    present = jnp.asarray(combinations.present)
    factors = phi[combinations.pair], gamma[combinations.pair]
    if dose is not None:
        num_given = jnp.sum(present, axis=-1)
        omega = omega * jnp.exp(jnp.sum(jnp.where(present, jnp.log(dose), 0.0), axis=-1) / num_given)
    # where several mice share a cell its deviation is common to them; elsewhere it is integrated out with the mouse
    shared, deviation = combinations.shared >= 0, None
    if num_shared:
        z = sample("combination_cell_z", dist.Normal(0.0, 1.0).expand([num_shared]).to_event(1))
        deviation = jnp.where(shared, omega * z[combinations.shared], 0.0)

    def rule(site_effect):
        effect = site_effect[combinations.site]
        if dose is None:
            joint = combine(effect, *factors, present)
        else:
            one, none = jnp.ones_like(effect), jnp.zeros(effect.shape[0])
            joint = jax.vmap(joint_effect)(effect, one, dose, one, *factors, none, present)
        return joint if deviation is None else joint + deviation

    spread = jnp.broadcast_to(omega, shared.shape)
    return rule, jnp.where(shared, 0.0, spread) if num_shared else spread
