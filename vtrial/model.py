"""The hierarchical growth model of a panel of mice in NumPyro: mouse < PDX model < tumour type, drug < class.

For measurement j of mouse i of PDX model m under arm a

    ln V_ij = eta_i + s_i t_ij + c_i q(t_ij) + eps_ij                   q(t) = t - (1 - exp(-loss_rate t)) / loss_rate
    s_i     = g_m (1 - rho_ma) + delta_i                                rate at day 0
    c_i     = g_m (loss rho_ma - slowing) + zeta_i                      rate that comes back, or goes, as time passes

where ``eps_i`` is ``sigma_i`` times a process that forgets within weeks (:class:`vtrial.model_format.CurveShape`),
with ``g_m`` the growth of the PDX model (log-normal about its tumour type), ``rho_ma`` the fraction of growth removed
(normal about its drug x tumour type, drugs about their class; combinations by :func:`vtrial.treatment.combine`),
``delta_i`` and ``zeta_i`` the mouse, and one residual scale a mouse. ``(eta_i, s_i, c_i)`` is integrated out exactly
(:mod:`vtrial.marginal`), and so is ``rho_ma`` wherever one mouse alone informs it. Another law of growth puts other
time courses in the place of 1, t and q (:mod:`vtrial.growth_laws`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jax.scipy.stats import norm

from vtrial.dose_response import strength
from vtrial.evidence import Evidence
from vtrial.growth_laws import reference_bend
from vtrial.marginal import GroupedNormal, LinearGaussianMarginal, Whitened
from vtrial.model_format import RESPONDER_PRIORS
from vtrial.panel import Censored, Combinations, Covariates, Curves, Dosed, Panel, Sites
from vtrial.residual_scales import ScaleCoordinate, ln_sigma, prior_of_z
from vtrial.responders import log_density as log_density_of_effect
from vtrial.responders import log_share_above, two_components
from vtrial.treatment import combine, joint_effect

# numpyro declares what they return as anything array-like, a bool or an int too; in a model it is an array
sample: Any = numpyro.sample
deterministic: Any = numpyro.deterministic


class ModelArrays(NamedTuple):
    """The numeric part of a :class:`~vtrial.panel.Panel`, as a pytree that a jitted function takes as an argument."""

    curves: Curves
    sites: Sites
    combinations: Combinations
    censored: Censored
    pdx_model_type: jax.Array
    drug_class: jax.Array
    drug_type_drug: jax.Array
    scales: ScaleCoordinate
    evidence: Evidence | None
    dosed: Dosed | None = None
    covariates: Covariates | None = None
    responder: jax.Array | None = None  # [M] 0 or 1, given in the place of being summed over (`vtrial.responders`)


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
        panel.scales,
        evidence,
        panel.dosed,
        panel.covariates,
    )
    return ModelArrays(*jax.tree.map(jnp.asarray, parts))


def _population(labels, prior: Mapping[str, dist.Distribution], arrays: ModelArrays):
    """Sample the population level; returns what the mice need."""
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
    drugs = GroupedNormal(mu_effect, omega_class, omega_drug, arrays.drug_class, num_classes)
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
    effect = deterministic("effect", effect_drug[arrays.drug_type_drug] + omega_type * effect_z)
    return ln_growth_type, omega_growth, effect, deterministic("omega_effect", jnp.exp(mu_spread + spread * spread_z))


def _dose_strength(labels, prior, law: str, dosed: Dosed):
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


def _covariate_effects(labels, prior):
    """Sample what a unit of each covariate adds to the effects of each class, [B]."""
    pairs = (label.rsplit(" | ", 1) for label in labels.class_covariate)
    normals = [prior[f"covariates.{name}.{drug_class}"] for drug_class, name in pairs]
    loc, scale = (jnp.stack([jnp.asarray(getattr(one, name)) for one in normals]) for name in ("loc", "scale"))
    return sample("covariate_effect", dist.Normal(loc, scale).to_event(1))


def _responders(prior, responders: str) -> tuple[Any, Any]:
    """Sample the share of common responders and their shift; two None without such."""
    if responders == "none":
        return None, None
    names = RESPONDER_PRIORS[responders]
    return sample("responder_share", prior[names[0]]), sample("responder_shift", prior[names[1]])


def _mouse_level(prior, mean_ln_growth):
    """Sample what all mice share.

    The curves know the spread of a rate in 1/day; relative to growth it moves against the mean of all ln growths. So
    ``ln(omega * mean growth)`` is what is sampled, with the prior of ``ln omega`` shifted along.
    """

    def relative(name, normal: dist.Normal):
        absolute = sample(f"ln_{name}_per_day", dist.Normal(normal.loc + mean_ln_growth, normal.scale))
        return deterministic(name, jnp.exp(absolute - mean_ln_growth))

    return {
        "mu_intercept": sample("mu_intercept", prior["growth.mouse.ln_volume_start"]),
        "omega_intercept": sample("omega_intercept", prior["growth.mouse.intercept_sd"]),
        "omega_mouse": relative("omega_mouse", prior["growth.mouse.ln_between_mice_relative"]),
        "omega_curvature": relative("omega_curvature", prior["growth.mouse.ln_curvature_sd"]),
        "loss": sample("loss", prior["growth.mouse.loss"]),
        "slowing": sample("slowing", prior["growth.mouse.slowing"]),
        "correlation": sample("curvature_correlation", dist.Uniform(-0.99, 0.99)),
    }


def coefficient_mean(shared, growth, effect):
    """Mean of ``(eta, s, c)``, [S, 3], for mice of a growth rate (1/day) under an effect (fraction removed)."""
    intercept = jnp.broadcast_to(shared["mu_intercept"], growth.shape)
    return jnp.stack(
        [intercept, growth * (1.0 - effect), growth * (shared["loss"] * effect - shared["slowing"])], axis=-1
    )


def coefficient_covariance(shared, growth, omega_effect, bend: float):
    """Covariance of ``(eta, s, c)``, [S, 3, 3]: the mouse, and the spread of the effect over PDX models.

    The mouse's own deviation is ``delta t + zeta (q(t) - bend t)``: delta is its mean rate over the reference days,
    zeta what bends its curve about that line. In the coordinates (s, c) that is ``(delta - bend zeta, zeta)``.
    """
    zero = jnp.zeros_like(growth)
    mouse, curve, both = shared["omega_mouse"], shared["omega_curvature"], shared["correlation"]
    together = both * mouse * curve
    # per unit of growth squared
    rate = mouse**2 - 2.0 * bend * together + (bend * curve) ** 2 + omega_effect**2
    cross = together - bend * curve**2 - shared["loss"] * omega_effect**2
    curvature = curve**2 + (shared["loss"] * omega_effect) ** 2
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
    effect: jax.Array  # [S] mean of the effect of the cell, 0 for controls
    spread: jax.Array  # [S] its SD, 0 where it is given
    loading: jax.Array  # [S, 3, 1] its covariance with the coefficients


def _curves(shared, arrays: ModelArrays, sigma, growth, effect, spread, part: slice, bend: float) -> _Part:
    """Density of the curves of one part of the mice, given mean and spread of the effect on each."""
    curves = arrays.curves
    mean = coefficient_mean(shared, growth[part], effect)
    covariance = coefficient_covariance(shared, growth[part], spread, bend)
    marginal = LinearGaussianMarginal(
        mean, covariance, sigma[part], curves.triangle[part], curves.num_measurements[part]
    )
    statistics = curves.statistics[part]
    whitened = marginal.whiten(statistics[:, :-1])
    density = marginal.log_density(whitened, statistics[:, -1]) + curves.log_jacobian[part]
    return _Part(mean, covariance, whitened, density, effect, spread, effect_loading(shared, growth[part], spread))


def _moved(shared, part: _Part, growth, by) -> _Part:
    """The same mice under an effect that is larger by `by` [S], with the same covariances."""
    direction = jnp.stack([jnp.zeros_like(growth), -growth, shared["loss"] * growth], axis=-1)
    whitened, gained = part.whitened.moved(direction, by)
    return part._replace(
        mean=part.mean + by[:, None] * direction,
        whitened=whitened,
        log_density=part.log_density + gained,
        effect=part.effect + by,
    )


def build_model(
    panel: Panel, prior: Mapping[str, dist.Distribution], mouse_level: bool = False, responders: str = "none"
) -> Callable[[ModelArrays], None]:
    """The NumPyro model of a panel, a function of its arrays.

    Parameters
    ----------
    panel
        Shapes and labels only; its numbers come in as the argument of the model.
    prior
        Distributions by the names of the priors files.
    mouse_level
        Whether to record what is known of the coefficients of every mouse given all else: ``mouse_mean`` [S, 3] and
        ``mouse_covariance`` [S, 3, 3] of ``(eta, s, c)``, and how they hang together with the effect of the mouse's
        cell. The density is the same.
    responders
        "common": some PDX models are common responders (:mod:`vtrial.responders`). Which ones is summed over, or given
        (`ModelArrays.responder`), as `mouse_level` needs it.
    """
    labels, num_single, bend = panel.labels, panel.num_single, reference_bend(panel.shape)
    num_mice, num_sites = len(labels.mouse), len(labels.pdx_model_drug)
    num_cells, num_censored = len(labels.combination_cell), len(panel.censored.mouse)
    num_shared = int((panel.combinations.shared >= 0).sum())

    def model(arrays: ModelArrays) -> None:
        curves = arrays.curves
        ln_growth_type, omega_growth, effect, omega_effect = _population(labels, prior, arrays)
        with numpyro.plate("pdx_model", len(labels.pdx_model)):
            kind = arrays.pdx_model_type
            ln_growth = sample("ln_growth", dist.Normal(ln_growth_type[kind], omega_growth[kind]))
        shared = _mouse_level(prior, jnp.mean(ln_growth))
        mu_ln_sigma = sample("mu_ln_sigma", prior["growth.mouse.ln_residual_sd"])
        omega_ln_sigma = sample("omega_ln_sigma", prior["growth.mouse.ln_residual_spread"])
        with numpyro.plate("mouse", num_mice):
            sigma_z = sample("ln_sigma_z", dist.Normal(*prior_of_z(arrays.scales, mu_ln_sigma, omega_ln_sigma)))
        sigma = jnp.exp(deterministic("ln_sigma", ln_sigma(arrays.scales, mu_ln_sigma, omega_ln_sigma, sigma_z)))
        growth = jnp.exp(ln_growth)[curves.pdx_model]
        # strength of the doses; None, and nothing is multiplied, where every drug has one dose
        dose = cell_dose = None
        if arrays.dosed is not None:
            dose, cell_dose = _dose_strength(labels, prior, panel.dose_law, arrays.dosed)

        # what its PDX model adds to the mean of the effect on a mouse, and at a site; None, and nothing is added
        shift = site_shift = None
        omega_marginal = omega_effect
        if arrays.covariates is not None:
            covariate_effect = _covariate_effects(labels, prior)
            shift, site_shift = (rows @ covariate_effect for rows in (arrays.covariates.single, arrays.covariates.site))
            between = jnp.square(arrays.covariates.spread) @ jnp.square(covariate_effect)
            omega_marginal = jnp.sqrt(jnp.square(omega_effect) + between)
        share, common = _responders(prior, responders)
        summed_over = responders == "common" and arrays.responder is None
        if arrays.responder is not None:  # a shift as any other
            numpyro.factor("responder", jnp.sum(jnp.log(jnp.where(arrays.responder > 0.0, share, 1.0 - share))))
            own = common * arrays.responder
            more = own[curves.pdx_model[:num_single]], own[arrays.sites.pdx_model]
            shift, site_shift = more if shift is None else (shift + more[0], site_shift + more[1])

        # single agents and controls: an effect is integrated out with the mouse unless several mice or a censored one
        # share it
        single = slice(0, num_single)
        site = curves.effect_site[single]
        sites = arrays.sites
        average = effect[curves.drug_type[single]]
        if shift is not None:
            average = average + shift
        if num_sites:
            site_mean, site_scale = effect[sites.drug_type], omega_effect[sites.drug_type]
            if site_shift is not None:
                site_mean = site_mean + site_shift
            site_z = sample("effect_site_z", dist.Normal(0.0, 1.0).expand([num_sites]).to_event(1))
            has_lone_mouse = sites.mouse >= 0
            explicit = (site >= 0) & ~has_lone_mouse[site]
            mean = jnp.where(explicit, (site_mean + site_scale * site_z)[site], average)
        else:
            explicit, mean = jnp.zeros(num_single, bool), average
            site_mean = site_scale = site_z = jnp.zeros(0)
            has_lone_mouse = jnp.zeros(0, bool)
        treated = curves.treated[single]
        spread = jnp.where(treated & ~explicit, omega_effect[curves.drug_type[single]], 0.0)
        if dose is not None:
            mean, spread = mean * dose, spread * dose
        effect_single, spread_single = jnp.where(treated, mean, 0.0), spread
        parts = [_curves(shared, arrays, sigma, growth, effect_single, spread_single, single, bend)]

        # the same mice, were all PDX models common responders: everything behind a density moves, no covariance does
        moved: list[_Part] = []
        if summed_over:
            by = jnp.where(treated, common, 0.0)
            by = by if dose is None else by * dose
            moved = [_moved(shared, parts[0], growth[single], by)]

        site_effect = site_mean
        if num_cells:
            # the effect behind a combination is drawn given its lone mouse, so that its z stays standard normal
            lone = jnp.maximum(sites.mouse, 0)
            loading = effect_loading(shared, growth[lone], site_scale)
            if dose is not None:  # the site's effect is that at the reference dose, the mouse has another
                loading = loading * dose[lone][:, None, None]
            learnt, reduction = parts[0].whitened.take(lone).condition(loading)
            rule, spread = _combination_rule(labels, prior, arrays, num_shared, cell_dose)
            prior_mean = site_mean
            site_mean = site_mean + jnp.where(has_lone_mouse, learnt[:, 0], 0.0)
            site_scale = jnp.sqrt(site_scale**2 - jnp.where(has_lone_mouse, reduction[:, 0, 0], 0.0))
            site_effect = deterministic("effect_site", site_mean + site_scale * site_z)
            deterministic("effect_site_scale", site_scale)
            joint, rest = rule(site_effect), slice(num_single, None)
            cell = curves.combination_cell[rest]
            parts.append(_curves(shared, arrays, sigma, growth, joint[cell], spread[cell], rest, bend))
            if summed_over:
                learnt, _ = moved[0].whitened.take(lone).condition(loading)
                mean = prior_mean + common + jnp.where(has_lone_mouse, learnt[:, 0], 0.0)
                by = rule(deterministic("effect_site_common", mean + site_scale * site_z)) - joint
                deterministic("lone_density", parts[0].log_density[lone])
                deterministic("lone_density_common", moved[0].log_density[lone])
                moved.append(_moved(shared, parts[1], growth[rest], by[cell]))

        elif num_sites:
            deterministic("effect_site", site_mean + site_scale * site_z)
            if summed_over:
                deterministic("effect_site_common", site_mean + common + site_scale * site_z)

        log_density = jnp.concatenate([part.log_density for part in parts])
        moved_density = jnp.concatenate([part.log_density for part in moved]) if moved else None
        hidden: list[jax.Array] = []
        if num_censored:
            u = sample("censored_u", dist.Uniform(0.0, 1.0).expand(arrays.censored.present.shape).to_event(2))
            log_below, *hidden = _censored_density(u, parts, arrays, sigma, num_single)
            log_density = log_density.at[arrays.censored.mouse].add(log_below)
            if moved_density is not None:
                log_below, *_ = _censored_density(u, moved, arrays, sigma, num_single)
                moved_density = moved_density.at[arrays.censored.mouse].add(log_below)
        if mouse_level:
            within = list(parts)
            if num_cells:
                # combinations have had their say on the effect behind them: its lone mouse is drawn given that effect
                given = (site >= 0) & has_lone_mouse[site]
                own = site_effect[site] if dose is None else site_effect[site] * dose
                effect_given = jnp.where(given, own, effect_single)
                spread_given = jnp.where(given, 0.0, spread_single)
                within[0] = _curves(shared, arrays, sigma, growth, effect_given, spread_given, single, bend)
            known = [part.whitened.condition(part.covariance) for part in within]
            mean = jnp.concatenate([part.mean + more for part, (more, _) in zip(within, known, strict=True)])
            covariance = jnp.concatenate([p.covariance - less for p, (_, less) in zip(within, known, strict=True)])
            if num_censored:
                mean = mean.at[arrays.censored.mouse].set(hidden[0])
                covariance = covariance.at[arrays.censored.mouse].set(hidden[1])
            deterministic("mouse_mean", mean)
            deterministic("mouse_covariance", covariance)
            deterministic("mouse_prior_mean", jnp.concatenate([part.mean for part in within]))
            deterministic("mouse_prior_covariance", jnp.concatenate([part.covariance for part in within]))
            deterministic("cell_effect", jnp.concatenate([part.effect for part in within]))
            deterministic("cell_spread", jnp.concatenate([part.spread for part in within]))
            deterministic("cell_loading", jnp.concatenate([part.loading for part in within])[..., 0])
        if moved_density is None:
            deterministic("log_likelihood", log_density)
            numpyro.factor("curves", jnp.sum(log_density))
        else:
            both = two_components(
                share, log_density, moved_density, jnp.asarray(curves.pdx_model), len(labels.pdx_model)
            )
            deterministic("log_likelihood", both.mouse)
            deterministic("log_likelihood_pdx_model", both.pdx_model)
            deterministic("responder_probability", both.probability)
            numpyro.factor("curves", jnp.sum(both.pdx_model))
        if arrays.evidence is not None:
            numpyro.factor("evidence", evidence_density(arrays.evidence, effect, omega_marginal, share, common))

    return model


def _combination_rule(labels, prior, arrays: ModelArrays, num_shared: int, dose):
    """Sample the rule: a function of the effects at the sites to the mean effect of every combination cell, [C].

    Returns with it the spread of the cells, [C]; `dose` is the strength [C, D] of the doses, or None.

    Doses act as exposure does in patients: gamma goes with both strengths, the deviation of a cell with their
    geometric mean (:func:`vtrial.treatment.joint_effect`).
    """
    combinations = arrays.combinations
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


def _censored_density(u, parts: list[_Part], arrays: ModelArrays, sigma, num_single: int):
    """Log P(measurements below the limit | the uncensored ones) of each mouse that has such, and its coefficients.

    `u` [Q, K] are standard uniform.

    Returns that log mass [Q], and the mean [Q, 3] and covariance [Q, 3, 3] of the coefficients given all measurements.
    The hidden ln volumes are sampled one after the other, each from its normal given the ones before it and truncated
    at the limit. With ``u`` uniform as the parameter the density is the product of the truncated masses, exactly, and
    smooth: a hidden curve sampled freely would meet the limit as a wall.
    """
    censored = arrays.censored
    num_mice, num_rows = censored.present.shape
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

    def hide(carry, row):
        mean, covariance, drawn, total = carry
        k, u, basis, present, offset, earlier, scale = row
        along = jnp.einsum("qij,qj->qi", covariance, basis)
        scale = jnp.sqrt(jnp.sum(basis * along, axis=-1) + jnp.square(sigma[censored.mouse] * scale))
        centre = jnp.sum(basis * mean, axis=-1) + offset + jnp.sum(earlier * drawn, axis=-1)
        bound = (censored.log_limit - centre) / scale
        total += jnp.where(present, log_ndtr(bound), 0.0)
        hidden = truncated_normal(u, bound)
        gain = jnp.where(present, 1.0, 0.0)[:, None] * along / scale[:, None]
        mean = mean + gain * hidden[:, None]
        covariance = covariance - gain[:, :, None] * gain[:, None, :]
        return (mean, covariance, drawn.at[:, k].set(centre + scale * hidden), total), None

    # a loop, not unrolled: normal quantiles and their gradients are half of all that XLA compiles for a fit
    per_row = (u, censored.basis, censored.present, censored.offset, censored.earlier, censored.scale)
    rows = (jnp.arange(num_rows), *(jnp.moveaxis(jnp.asarray(field), 1, 0) for field in per_row))
    start = (mean, covariance, jnp.zeros((num_mice, num_rows)), jnp.zeros(num_mice))
    (mean, covariance, _, total), _ = jax.lax.scan(hide, start, rows)
    return total, mean, covariance


@jax.custom_jvp
def truncated_normal(u, bound):
    """Quantile `u` of a standard normal below `bound`, elementwise; below -30 from the tail phi(x) / -x."""
    far = bound < -30.0
    near_bound = jnp.where(far, -30.0, bound)
    near = ndtri(jnp.clip(u * ndtr(near_bound), 1e-300, 1.0 - 1e-16))
    far_bound = jnp.where(far, bound, -30.0)
    square = jnp.square(far_bound) - 2.0 * jnp.log(jnp.clip(u, 1e-300))
    return jnp.where(far, -jnp.sqrt(square - jnp.log(square / jnp.square(far_bound))), near)


@truncated_normal.defjvp
def _truncated_normal_jvp(primals, tangents):
    """Slopes of x where Phi(x) = u Phi(bound): no polynomial of `ndtri` is differentiated, nor compiled for it."""
    u, bound = primals
    x = truncated_normal(u, bound)
    by_u = jnp.exp(log_ndtr(bound) - norm.logpdf(x))
    by_bound = u * jnp.exp(norm.logpdf(bound) - norm.logpdf(x))
    return x, by_u * tangents[0] + by_bound * tangents[1]


def evidence_density(
    evidence: Evidence, effect: jax.Array, omega_effect: jax.Array, share: Any = None, common: Any = None
) -> jax.Array:
    """Log likelihood of all rows, given mean and spread of the effect of every drug x tumour type.

    `share` and `common` are those of common responders (:mod:`vtrial.responders`), if there are any.
    """
    mean, spread = effect[evidence.count_cell], omega_effect[evidence.count_cell]
    if share is None:
        above = (mean - evidence.threshold) / spread
        log_above, log_below = log_ndtr(jnp.stack([above, -above]))
    else:
        log_above, log_below = log_share_above(evidence.threshold, mean, spread, share, common)
    counts = evidence.r * log_above + (evidence.n - evidence.r) * log_below
    mean = effect[evidence.effect_cell]
    spread = jnp.sqrt(jnp.square(omega_effect[evidence.effect_cell]) + jnp.square(evidence.effect_se))
    if share is None:
        observed = norm.logpdf(evidence.effect, mean, spread)
    else:
        observed = log_density_of_effect(evidence.effect, mean, spread, share, common)
    return jnp.sum(counts) + jnp.sum(observed)
