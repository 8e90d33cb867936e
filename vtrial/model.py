"""The hierarchical growth model of a panel of mice in NumPyro: mouse < PDX model < tumour type, drug < class.

For measurement j of mouse i of PDX model m under arm a

    ln V_ij = eta_i + s_i t_ij + c_i q(t_ij) + eps_ij                   q(t) = t - (1 - exp(-loss_rate t)) / loss_rate
    s_i     = g_m (1 - rho_ma) + delta_i                                rate at day 0
    c_i     = g_m (loss_a rho_ma - slowing) + zeta_i                    rate that comes back, or goes, as time passes

where ``eps_i`` is ``sigma_i`` times a process that forgets within weeks (:class:`vtrial.model_format.CurveShape`),
with ``g_m`` the growth of the PDX model (log-normal about its tumour type), ``rho_ma`` the fraction of growth removed
(normal about its drug x tumour type, drugs about their class; combinations by :func:`vtrial.treatment.combine`),
``loss_a`` the fraction of it that is lost in the end (normal over drugs x tumour types; of combinations by
:func:`vtrial.treatment.loss_of_arm`),
``delta_i`` and ``zeta_i`` the mouse, and one residual scale a mouse, about that of its arm in its tumour type
(:mod:`vtrial.residual_scales`). ``(eta_i, s_i, c_i)`` is integrated out exactly
(:mod:`vtrial.marginal`), and so is ``rho_ma`` wherever one mouse alone informs it. Another law of growth puts other
time courses in the place of 1, t and q (:mod:`vtrial.growth_laws`).

Priors and levels are sampled in :mod:`vtrial.levels`, curves are compared in :mod:`vtrial.curve_density`, volumes below
the limit in :mod:`vtrial.censored_density`; here they come together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from vtrial.censored_density import Hidden, censored_density
from vtrial.censored_rows import Censored
from vtrial.curve_density import CurveDensity, curve_density, effect_loading
from vtrial.dose_rows import Dosed
from vtrial.evidence import Evidence
from vtrial.evidence_density import MiceOfClasses, class_density, evidence_density
from vtrial.growth_laws import reference_bend
from vtrial.levels import (
    Prior,
    combination_rule,
    common_responders,
    covariate_shifts,
    dose_strength,
    ln_residual_sd,
    losses,
    population,
    shared_by_mice,
)
from vtrial.marginal import stacked, stacked_matrix
from vtrial.panel import Combinations, Covariates, Curves, Panel, Sites
from vtrial.residual_scales import ScaleCoordinates
from vtrial.responders import two_components
from vtrial.treatment import loss_of_arm

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
    arm_type_type: jax.Array
    drug_class: jax.Array
    drug_type_drug: jax.Array
    scales: ScaleCoordinates
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
        panel.arm_type_type,
        panel.drug_class,
        panel.drug_type_drug,
        panel.scales,
        evidence,
        panel.dosed,
        panel.covariates,
    )
    return ModelArrays(*jax.tree.map(jnp.asarray, parts))


def build_model(
    panel: Panel, prior: Prior, mouse_level: bool = False, responders: str = "none"
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
    num_sites, num_cells = len(labels.pdx_model_drug), len(labels.combination_cell)
    num_censored, num_shared = len(panel.censored.mouse), int((panel.combinations.shared >= 0).sum())

    def model(arrays: ModelArrays) -> None:
        curves = arrays.curves
        ln_growth_type, omega_growth, effect, omega_effect = population(
            labels, prior, arrays.drug_class, arrays.drug_type_drug
        )
        with numpyro.plate("pdx_model", len(labels.pdx_model)):
            kind = arrays.pdx_model_type
            ln_growth = sample("ln_growth", dist.Normal(ln_growth_type[kind], omega_growth[kind]))
        shared = shared_by_mice(prior, jnp.mean(ln_growth))
        loss = losses(labels, prior)
        ln_sigma = ln_residual_sd(labels, prior, arrays.scales, arrays.arm_type_type, curves.arm_type)
        growth = jnp.exp(ln_growth)[curves.pdx_model]
        density_of = partial(curve_density, shared, curves, ln_sigma, growth, bend)
        # strength of the doses; None, and nothing is multiplied, where every drug has one dose
        dose = cell_dose = None
        if arrays.dosed is not None:
            dose, cell_dose = dose_strength(labels, prior, panel.dose_law, arrays.dosed)

        # what its PDX model adds to the mean of the effect on a mouse, and at a site; None, and nothing is added
        shift = site_shift = None
        omega_marginal = omega_effect
        if arrays.covariates is not None:
            shift, site_shift, omega_marginal = covariate_shifts(labels, prior, arrays.covariates, omega_effect)
        share, common = common_responders(prior, responders)
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
        loss_single = loss[curves.drug_type[single]]
        parts = [density_of(single, loss_single, effect_single, spread_single)]

        # the same mice, were all PDX models common responders: everything behind a density moves, no covariance does
        moved: list[CurveDensity] = []
        if summed_over:
            by = jnp.where(treated, common, 0.0)
            by = by if dose is None else by * dose
            moved = [parts[0].moved(growth[single], by)]

        site_effect = site_mean
        if num_cells:
            # the effect behind a combination is drawn given its lone mouse, so that its z stays standard normal
            lone = jnp.maximum(sites.mouse, 0)
            loading = effect_loading(growth[lone], site_scale, loss_single[lone])
            if dose is not None:  # the site's effect is that at the reference dose, the mouse has another
                loading = [along * dose[lone] for along in loading]
            (learnt,), ((reduction,),) = parts[0].whitened.take(lone).condition([loading])
            rule, spread = combination_rule(labels, prior, arrays.combinations, num_shared, cell_dose)
            prior_mean = site_mean
            site_mean = site_mean + jnp.where(has_lone_mouse, learnt, 0.0)
            site_scale = jnp.sqrt(site_scale**2 - jnp.where(has_lone_mouse, reduction, 0.0))
            site_effect = deterministic("effect_site", site_mean + site_scale * site_z)
            deterministic("effect_site_scale", site_scale)
            joint, rest = rule(site_effect), slice(num_single, None)
            cell = curves.combination_cell[rest]
            present = jnp.asarray(arrays.combinations.present)
            drug_type = sites.drug_type[arrays.combinations.site]
            alone = effect[drug_type] if cell_dose is None else effect[drug_type] * cell_dose
            loss_cell = loss_of_arm(loss[drug_type], alone, present)
            parts.append(density_of(rest, loss_cell[cell], joint[cell], spread[cell]))
            if summed_over:
                (learnt,), _ = moved[0].whitened.take(lone).condition([loading])
                mean = prior_mean + common + jnp.where(has_lone_mouse, learnt, 0.0)
                by = rule(deterministic("effect_site_common", mean + site_scale * site_z)) - joint
                deterministic("lone_density", parts[0].log_density[lone])
                deterministic("lone_density_common", moved[0].log_density[lone])
                moved.append(parts[1].moved(growth[rest], by[cell]))

        elif num_sites:
            deterministic("effect_site", site_mean + site_scale * site_z)
            if summed_over:
                deterministic("effect_site_common", site_mean + common + site_scale * site_z)

        log_density = jnp.concatenate([part.log_density for part in parts])
        # the same summed part by part: XLA does not vectorise the terms of a concatenation
        total = sum((jnp.sum(part.log_density) for part in parts), start=jnp.zeros(()))
        moved_density = jnp.concatenate([part.log_density for part in moved]) if moved else None
        hidden: Hidden | None = None
        if num_censored:
            u = sample("censored_u", dist.Uniform(0.0, 1.0).expand(arrays.censored.present.shape).to_event(2))
            below, mouse = arrays.censored, arrays.censored.mouse
            hidden = censored_density(u, below, ln_sigma[mouse], _only_mice(parts, mouse, num_single))
            total = total + jnp.sum(hidden.log_below)
            log_density = log_density.at[mouse].add(hidden.log_below)
            if moved_density is not None:
                also = censored_density(u, below, ln_sigma[mouse], _only_mice(moved, mouse, num_single))
                moved_density = moved_density.at[mouse].add(also.log_below)
        if mouse_level:
            within = list(parts)
            if num_cells:
                # combinations have had their say on the effect behind them: its lone mouse is drawn given that effect
                given = (site >= 0) & has_lone_mouse[site]
                own = site_effect[site] if dose is None else site_effect[site] * dose
                effect_given = jnp.where(given, own, effect_single)
                spread_given = jnp.where(given, 0.0, spread_single)
                within[0] = density_of(single, loss_single, effect_given, spread_given)
            _record_mice(within, arrays.censored.mouse, hidden)
        if moved_density is None:
            deterministic("log_likelihood", log_density)
            numpyro.factor("curves", total)
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
            if arrays.evidence.classes is not None:
                classes, cell = arrays.evidence.classes, arrays.evidence.classes.cell
                # the rows' tumour types and arms may have no curves: spreads are those of a typical one
                between = jnp.exp(jnp.mean(jnp.log(omega_growth)))
                residual = jnp.sqrt(jnp.mean(jnp.exp(2.0 * ln_sigma)))
                mice = MiceOfClasses(shared["slowing"], between, shared["omega_mouse"], residual)
                own = effect[cell], omega_marginal[cell], loss[cell], mice
                numpyro.factor("classes", class_density(classes, *own, share, common))

    return model


def _only_mice(parts: list[CurveDensity], mouse: Any, num_single: int) -> CurveDensity:
    """The mice `mouse` alone, out of the first `num_single` and, where there are any, the others."""
    if len(parts) == 1:
        return jax.tree.map(lambda x: x[mouse], parts[0])
    is_single = mouse < num_single
    first, rest = jnp.minimum(mouse, num_single - 1), jnp.maximum(mouse - num_single, 0)
    return jax.tree.map(lambda single, other: jnp.where(is_single, single[first], other[rest]), *parts)


def _record_mice(parts: list[CurveDensity], censored_mouse, hidden: Hidden | None) -> None:
    """Record the mean and covariance of the coefficients of every mouse, and how they hang together with its effect.

    `hidden` are the censored mice given all their measurements, if there are such mice.
    """
    known = [part.whitened.condition(part.covariance) for part in parts]
    prior_mean = jnp.concatenate([stacked(part.mean) for part in parts])
    prior_covariance = jnp.concatenate([stacked_matrix(part.covariance) for part in parts])
    mean = prior_mean + jnp.concatenate([stacked(more) for more, _ in known])
    covariance = prior_covariance - jnp.concatenate([stacked_matrix(less) for _, less in known])
    if hidden is not None:
        mean = mean.at[censored_mouse].set(stacked(hidden.mean))
        covariance = covariance.at[censored_mouse].set(stacked_matrix(hidden.covariance))
    deterministic("mouse_mean", mean)
    deterministic("mouse_covariance", covariance)
    deterministic("mouse_prior_mean", prior_mean)
    deterministic("mouse_prior_covariance", prior_covariance)
    deterministic("cell_effect", jnp.concatenate([part.effect for part in parts]))
    deterministic("cell_spread", jnp.concatenate([part.spread for part in parts]))
    deterministic("cell_loading", jnp.concatenate([stacked(part.loading) for part in parts]))
