"""The hierarchical growth model of a panel of mice, in NumPyro: mouse < PDX model < tumour type, drug < mechanism class.

For measurement j of mouse i of PDX model m under arm a

    ln V_ij = eta_i + s_i t_ij + c_i q(t_ij) + eps_ij                   q(t) = t - (1 - exp(-loss_rate t)) / loss_rate
    s_i     = g_m (1 - rho_ma) + delta_i                                rate at day 0
    c_i     = g_m (loss rho_ma - slowing) + zeta_i                      rate that comes back, or goes, as time passes

with ``g_m`` the growth of the PDX model (log-normal about its tumour type), ``rho_ma`` the fraction of growth removed (normal about
its drug x tumour type, drugs about their class; combinations by :func:`vtrial.treatment.combine`), ``delta_i`` and ``zeta_i`` the
mouse, and one residual scale a mouse. ``(eta_i, s_i, c_i)`` is integrated out exactly (:mod:`vtrial.marginal`), and so is
``rho_ma`` wherever one mouse alone informs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm

from vtrial.evidence import Evidence
from vtrial.marginal import LinearGaussianMarginal, Whitened
from vtrial.panel import Panel
from vtrial.treatment import combine

class ModelArrays(NamedTuple):
    """The numeric part of a :class:`~vtrial.panel.Panel`, as a pytree that a jitted function takes as an argument."""

    curves: NamedTuple
    sites: NamedTuple
    combinations: NamedTuple
    censored: NamedTuple
    pdx_model_type: jax.Array
    drug_class: jax.Array
    drug_type_drug: jax.Array
    evidence: Evidence | None


def arrays_of(panel: Panel, evidence: Evidence | None = None) -> ModelArrays:
    """Device arrays (float64 where `jax.enable_x64` is on) of a panel."""
    parts = (
        panel.curves,
        panel.sites,
        panel.combinations,
        panel.censored,
        panel.pdx_model_type,
        panel.drug_class,
        panel.drug_type_drug,
        evidence,
    )
    return ModelArrays(*jax.tree.map(jnp.asarray, parts))


def _population(labels, prior: Mapping[str, dist.Distribution], arrays: ModelArrays):
    """Sample the population level; returns what the mice need."""
    num_types, num_classes, num_drugs = len(labels.tumour_type), len(labels.drug_class), len(labels.drug)
    sample, deterministic = numpyro.sample, numpyro.deterministic

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
    with numpyro.plate("drug_class", num_classes):
        class_z = sample("effect_class_z", dist.Normal(0.0, 1.0))
    effect_class = deterministic("effect_class", mu_effect + omega_class * class_z)
    with numpyro.plate("drug", num_drugs):
        drug_z = sample("effect_drug_z", dist.Normal(0.0, 1.0))
    effect_drug = deterministic("effect_drug", effect_class[arrays.drug_class] + omega_drug * drug_z)
    mu_spread = sample("mu_ln_omega_effect", prior["classes.default.ln_between_models"])
    spread = sample("omega_ln_omega_effect", prior["classes.default.ln_between_models_spread"])
    with numpyro.plate("drug_type", len(labels.drug_type)):
        effect = sample("effect", dist.Normal(effect_drug[arrays.drug_type_drug], omega_type))
        spread_z = sample("omega_effect_z", dist.Normal(0.0, 1.0))
    return ln_growth_type, omega_growth, effect, deterministic("omega_effect", jnp.exp(mu_spread + spread * spread_z))


def _mouse_level(prior):
    """Sample what all mice share."""
    return {
        "mu_intercept": numpyro.sample("mu_intercept", prior["growth.mouse.ln_volume_start"]),
        "omega_intercept": numpyro.sample("omega_intercept", prior["growth.mouse.intercept_sd"]),
        "omega_mouse": numpyro.sample("omega_mouse", prior["growth.mouse.between_mice_relative"]),
        "omega_curvature": numpyro.sample("omega_curvature", prior["growth.mouse.curvature_sd"]),
        "loss": numpyro.sample("loss", prior["growth.mouse.loss"]),
        "slowing": numpyro.sample("slowing", prior["growth.mouse.slowing"]),
        "correlation": numpyro.sample("curvature_correlation", dist.Uniform(-0.99, 0.99)),
    }


def coefficient_mean(shared, growth, effect):
    """Mean of ``(eta, s, c)``, [S, 3], for mice of a growth rate (1/day) under an effect (fraction removed)."""
    intercept = jnp.broadcast_to(shared["mu_intercept"], growth.shape)
    return jnp.stack(
        [intercept, growth * (1.0 - effect), growth * (shared["loss"] * effect - shared["slowing"])], axis=-1
    )


def coefficient_covariance(shared, growth, omega_effect):
    """Covariance of ``(eta, s, c)``, [S, 3, 3]: the mouse, and the spread of the effect over PDX models."""
    zero = jnp.zeros_like(growth)
    # per unit of growth squared
    rate = shared["omega_mouse"] ** 2 + omega_effect**2
    cross = (
        shared["correlation"] * shared["omega_mouse"] * shared["omega_curvature"] - shared["loss"] * omega_effect**2
    )
    curvature = shared["omega_curvature"] ** 2 + (shared["loss"] * omega_effect) ** 2
    square = growth**2
    intercept = jnp.broadcast_to(shared["omega_intercept"] ** 2, growth.shape)
    rows = [
        jnp.stack([intercept, zero, zero], axis=-1),
        jnp.stack([zero, rate * square, cross * square], axis=-1),
        jnp.stack([zero, cross * square, curvature * square], axis=-1),
    ]
    return jnp.stack(rows, axis=-2)


def effect_loading(shared, growth, omega_effect):
    """Covariance of ``(eta, s, c)`` with the effect of the cell, [S, 3, 1]."""
    variance = growth * omega_effect**2
    return jnp.stack([jnp.zeros_like(growth), -variance, shared["loss"] * variance], axis=-1)[..., None]


class _Part(NamedTuple):
    """Some of the mice, after their curves have been compared with their mean."""

    mean: jax.Array  # [S, 3] of the coefficients
    covariance: jax.Array  # [S, 3, 3]
    whitened: Whitened
    log_density: jax.Array  # [S]


def _curves(shared, arrays: ModelArrays, sigma, growth, effect, spread, part: slice) -> _Part:
    """Density of the curves of one part of the mice, given mean and spread of the effect on each."""
    curves = arrays.curves
    mean = coefficient_mean(shared, growth[part], effect)
    covariance = coefficient_covariance(shared, growth[part], spread)
    marginal = LinearGaussianMarginal(mean, covariance, sigma[part], curves.triangle[part], curves.num_measurements[part])
    statistics = curves.statistics[part]
    whitened = marginal.whiten(statistics[:, :-1])
    return _Part(mean, covariance, whitened, marginal.log_density(whitened, statistics[:, -1]))


def build_model(panel: Panel, prior: Mapping[str, dist.Distribution]) -> Callable[[ModelArrays], None]:
    """The NumPyro model of a panel, a function of its arrays.

    Parameters
    ----------
    panel
        Shapes and labels only; its numbers come in as the argument of the model.
    prior
        Distributions by the names of the priors files.
    """
    labels, num_single = panel.labels, panel.num_single
    num_mice, num_sites = len(labels.mouse), len(labels.pdx_model_drug)
    num_cells, num_censored = len(labels.combination_cell), len(panel.censored.mouse)
    num_shared = int((panel.combinations.shared >= 0).sum())

    def model(arrays: ModelArrays) -> None:
        curves = arrays.curves
        ln_growth_type, omega_growth, effect, omega_effect = _population(labels, prior, arrays)
        shared = _mouse_level(prior)
        with numpyro.plate("pdx_model", len(labels.pdx_model)):
            kind = arrays.pdx_model_type
            ln_growth = numpyro.sample("ln_growth", dist.Normal(ln_growth_type[kind], omega_growth[kind]))
        mu_ln_sigma = numpyro.sample("mu_ln_sigma", prior["growth.mouse.ln_residual_sd"])
        omega_ln_sigma = numpyro.sample("omega_ln_sigma", prior["growth.mouse.ln_residual_spread"])
        with numpyro.plate("mouse", num_mice):
            sigma = jnp.exp(numpyro.sample("ln_sigma", dist.Normal(mu_ln_sigma, omega_ln_sigma)))
        growth = jnp.exp(ln_growth)[curves.pdx_model]

        # single agents and controls: an effect is integrated out with the mouse unless several mice or a censored one share it
        single = slice(0, num_single)
        site = curves.effect_site[single]
        sites = arrays.sites
        if num_sites:
            site_mean, site_scale = effect[sites.drug_type], omega_effect[sites.drug_type]
            site_z = numpyro.sample("effect_site_z", dist.Normal(0.0, 1.0).expand([num_sites]).to_event(1))
            has_lone_mouse = sites.mouse >= 0
            explicit = (site >= 0) & ~has_lone_mouse[site]
            mean = jnp.where(explicit, (site_mean + site_scale * site_z)[site], effect[curves.drug_type[single]])
        else:
            explicit, mean = jnp.zeros(num_single, bool), effect[curves.drug_type[single]]
        treated = curves.treated[single]
        spread = jnp.where(treated & ~explicit, omega_effect[curves.drug_type[single]], 0.0)
        parts = [_curves(shared, arrays, sigma, growth, jnp.where(treated, mean, 0.0), spread, single)]

        if num_cells:
            # the effect behind a combination is drawn given its lone mouse, so that its z stays standard normal
            lone = jnp.maximum(sites.mouse, 0)
            loading = effect_loading(shared, growth[lone], site_scale)
            shift, reduction = parts[0].whitened.take(lone).condition(loading)
            site_mean = site_mean + jnp.where(has_lone_mouse, shift[:, 0], 0.0)
            site_scale = jnp.sqrt(site_scale**2 - jnp.where(has_lone_mouse, reduction[:, 0, 0], 0.0))
            site_effect = numpyro.deterministic("effect_site", site_mean + site_scale * site_z)
            joint, spread = _combination_effects(labels, prior, arrays, site_effect, num_shared)
            rest = slice(num_single, None)
            cell = curves.combination_cell[rest]
            parts.append(_curves(shared, arrays, sigma, growth, joint[cell], spread[cell], rest))

        log_density = jnp.concatenate([part.log_density for part in parts])
        if num_censored:
            log_below = _censored_density(parts, arrays, sigma, num_single)
            log_density = log_density.at[arrays.censored.mouse].add(log_below)
        numpyro.deterministic("log_likelihood", log_density)
        numpyro.factor("curves", jnp.sum(log_density))
        if arrays.evidence is not None:
            numpyro.factor("evidence", evidence_density(arrays.evidence, effect, omega_effect))

    return model


def _combination_effects(labels, prior, arrays: ModelArrays, site_effect, num_shared: int):
    """Mean effect and spread of every combination cell, [C] each."""
    combinations = arrays.combinations
    mu_phi = numpyro.sample("mu_phi", prior["class_pairs.default.phi"])
    omega_phi = numpyro.sample("omega_phi", prior["class_pairs.default.phi_spread"])
    mu_gamma = numpyro.sample("mu_gamma", prior["class_pairs.default.gamma"])
    omega_gamma = numpyro.sample("omega_gamma", prior["class_pairs.default.gamma_spread"])
    omega = numpyro.sample("omega_combination", prior["class_pairs.default.between_models"])
    with numpyro.plate("class_pair", len(labels.class_pair)):
        phi = numpyro.deterministic("phi", mu_phi + omega_phi * numpyro.sample("phi_z", dist.Normal(0.0, 1.0)))
        gamma = numpyro.deterministic(
            "gamma", mu_gamma + omega_gamma * numpyro.sample("gamma_z", dist.Normal(0.0, 1.0))
        )
    joint = combine(
        site_effect[combinations.site], phi[combinations.pair], gamma[combinations.pair], combinations.present
    )
    # where several mice share a cell its deviation is common to them; elsewhere it is integrated out with the mouse
    if not num_shared:
        return joint, jnp.broadcast_to(omega, joint.shape)
    shared = combinations.shared >= 0
    z = numpyro.sample("combination_cell_z", dist.Normal(0.0, 1.0).expand([num_shared]).to_event(1))
    return joint + jnp.where(shared, omega * z[combinations.shared], 0.0), jnp.where(shared, 0.0, omega)


def _censored_density(parts: list[_Part], arrays: ModelArrays, sigma, num_single: int):
    """log P(measurements below the limit | the uncensored ones) of each mouse that has such, [Q].

    The hidden ln volumes are sampled one after the other, each from its normal given the ones before it and truncated at the
    limit. With ``u`` uniform as the parameter the density is the product of the truncated masses, exactly, and smooth: a hidden
    curve sampled freely would meet the limit as a wall.
    """
    censored = arrays.censored
    num_mice, num_rows = censored.present.shape
    u = numpyro.sample("censored_u", dist.Uniform(0.0, 1.0).expand([num_mice, num_rows]).to_event(2))
    from_single = censored.mouse < num_single
    index = (jnp.where(from_single, censored.mouse, 0), jnp.where(from_single, 0, censored.mouse - num_single))
    means, covariances = [], []
    for part, member in zip(parts, index, strict=False):
        loading = part.covariance[member]
        shift, reduction = part.whitened.take(member).condition(loading)
        means.append(part.mean[member] + shift)
        covariances.append(loading - reduction)
    choose = from_single[:, None]
    mean = means[0] if len(means) == 1 else jnp.where(choose, *means)
    covariance = covariances[0] if len(means) == 1 else jnp.where(choose[:, :, None], *covariances)
    variance = jnp.square(sigma[censored.mouse])
    total = jnp.zeros(num_mice)
    for k in range(num_rows):
        row, present = censored.basis[:, k], censored.present[:, k]
        along = jnp.einsum("qij,qj->qi", covariance, row)
        scale = jnp.sqrt(jnp.sum(row * along, axis=-1) + variance)
        centre = jnp.sum(row * mean, axis=-1)
        bound = (censored.log_limit - centre) / scale
        total += jnp.where(present, log_ndtr(bound), 0.0)
        hidden = truncated_normal(u[:, k], bound)
        gain = jnp.where(present, 1.0, 0.0)[:, None] * along / scale[:, None]
        mean = mean + gain * hidden[:, None]
        covariance = covariance - gain[:, :, None] * gain[:, None, :]
    return total


def truncated_normal(u, bound):
    """Quantile `u` of a standard normal below `bound`, elementwise; the exponential tail takes over below -6."""
    far = bound < -6.0
    near_bound = jnp.where(far, -6.0, bound)
    near = ndtri(jnp.clip(u * ndtr(near_bound), 1e-300, 1.0 - 1e-16))
    far_bound = jnp.where(far, bound, -6.0)
    return jnp.where(far, far_bound + jnp.log(jnp.clip(u, 1e-300)) / -far_bound, near)


def evidence_density(evidence: Evidence, effect: jax.Array, omega_effect: jax.Array) -> jax.Array:
    """Log likelihood of all rows, given mean and spread of the effect of every drug x tumour type."""
    mean, spread = effect[evidence.count_cell], omega_effect[evidence.count_cell]
    above = (mean - evidence.threshold) / spread
    counts = evidence.r * log_ndtr(above) + (evidence.n - evidence.r) * log_ndtr(-above)
    spread = jnp.sqrt(jnp.square(omega_effect[evidence.effect_cell]) + jnp.square(evidence.effect_se))
    observed = norm.logpdf(evidence.effect, effect[evidence.effect_cell], spread)
    return jnp.sum(counts) + jnp.sum(observed)
