"""Common responders: the density against dense normals, and what reads the fit."""

from __future__ import annotations

from functools import partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density, unconstrain_fn
from scipy import special, stats

from tests import test_inhibition, test_next_study, test_pairs, test_patients, test_predict
from tests.test_model import (
    CLASSES,
    DOSED,
    OF_MODELS,
    QUICKLY,
    RESPONDER_PRIOR,
    SHAPE,
    SMALL,
    explicit_log_density,
    mice_of,
    points_of,
    prior,
    table_of,
)
from vtrial import sobol
from vtrial.conditional import mouse_draws
from vtrial.course_parts import EVERYTHING, parts_of
from vtrial.dataset import read_dataset
from vtrial.deviates import BLOCK, block_deviates, places_of, sobol_deviates, sobol_points
from vtrial.dose_response import DoseResponse
from vtrial.evidence import Evidence
from vtrial.inhibition import inhibition
from vtrial.loo import left_out_density
from vtrial.model import arrays_of, build_model
from vtrial.next_study import cell_rates, draw_normals
from vtrial.panel import build_panel
from vtrial.patients import patients_of
from vtrial.predict import new_models
from vtrial.priors import load_priors
from vtrial.residual_scales import ScaleCoordinate
from vtrial.responders import drawn, two_components
from vtrial.stopping import StoppingRule, features

#: of every PDX model, which component it is of
CHOICES = [dict(zip(OF_MODELS, which, strict=True)) for which in product((0, 1), repeat=len(OF_MODELS))]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Every kind of cell, and evidence; points of the model with z summed over."""
    dataset = table_of(tmp_path_factory.mktemp("small"), SMALL)
    panel = build_panel(dataset, CLASSES, SHAPE, [("A", "T1"), ("B", "OV")])
    cell = [np.array([panel.labels.drug_type.index(name)], np.int32) for name in ("A | T1", "B | OV")]
    evidence = Evidence(
        cell[0], np.array([3.0]), np.array([9.0]), np.array([0.8]), cell[1], np.array([0.4]), np.array([0.1])
    )
    with jax.enable_x64(True):
        return dataset, panel, evidence, points_of(panel, range(5), evidence, responders="common")


@pytest.mark.parametrize("number", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_density_is_the_sum_over_all_assignments_of_dense_normals(small, number):
    """Prior x likelihood by scipy's multivariate normals, for each of the 16 ways to choose the responders."""
    dataset, panel, evidence, points = small
    owner = panel.sites.pdx_model
    for point in points[:number]:
        p = point.meaning
        share, shift = p["responder_share"], p["responder_shift"]
        terms = []
        for which in CHOICES:
            z = np.array([which[name] for name in panel.labels.pdx_model])
            both = point.derived["effect_site"], point.derived["effect_site_common"]
            effects = p | {"effect_site": np.where(z[owner] == 1, both[1], both[0])}
            more = {model: shift * one for model, one in which.items()}
            term = explicit_log_density(dataset, panel, effects, more)
            terms.append(term + np.sum(z * np.log(share) + (1 - z) * np.log1p(-share)))
        expected = special.logsumexp(terms) + point.ln_jacobian
        expected += sum(RESPONDER_PRIOR[f"classes.default.{name}"][1].logpdf(p[name]) for name in p if "resp" in name)
        (at,), (seen,) = evidence.count_cell, evidence.effect_cell
        effect, spread, mixed = p["effect"], p["omega_effect"], np.array([1 - share, share])
        above = mixed @ stats.norm.sf(0.8, effect[at] + np.array([0.0, shift]), spread[at])
        expected += 3 * np.log(above) + 6 * np.log1p(-above)
        centre = effect[seen] + np.array([0.0, shift])
        expected += np.log(mixed @ stats.norm.pdf(0.4, centre, np.hypot(spread[seen], 0.1)))
        # 1e-8 relative on a sum of about 150 terms that partly cancel, each from an ill-conditioned dense matrix
        np.testing.assert_allclose(point.log_density, expected, rtol=1e-8, atol=1e-6)


@pytest.mark.long
def test_one_pdx_model_is_a_mixture_of_two_multivariate_normals(tmp_path):
    """A PDX model of three mice, each curve with its effect integrated out: the block's density to 1e-8."""
    mice = {name: row for name, row in SMALL.items() if row[1] in ("M1", "M4") and "+" not in row[2]}
    dataset = table_of(tmp_path, mice)
    panel = build_panel(dataset, CLASSES, SHAPE)
    assert not panel.labels.pdx_model_drug
    with jax.enable_x64(True):
        points = points_of(panel, range(3), responders="common")
    for point in points:
        p, curves = point.meaning, mice_of(dataset, panel, point.meaning)
        share, shift = p["responder_share"], p["responder_shift"]
        each = {}
        for z in (0, 1):
            for key in ("S/c1", "S/a1", "S/b1"):
                mouse = curves[key]
                at = panel.labels.drug_type.index(f"{mouse.drugs[0]} | T1") if mouse.drugs else None
                effect, spread = (0.0, 0.0) if at is None else (p["effect"][at] + z * shift, p["omega_effect"][at])
                whole = mouse.covariance + spread**2 * np.outer(mouse.slope, mouse.slope)
                each[key, z] = stats.multivariate_normal.logpdf(
                    mouse.measured, mouse.mean + effect * mouse.slope, whole
                )
        weights = np.log([1 - share, share])
        blocks = weights + [sum(each[key, z] for key in ("S/c1", "S/a1", "S/b1")) for z in (0, 1)]
        m = panel.labels.pdx_model.index("M1")
        tight = partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)
        tight(point.derived["log_likelihood_pdx_model"][m], special.logsumexp(blocks))
        tight(point.derived["responder_probability"][m], np.exp(blocks[1] - special.logsumexp(blocks)))
        # of a mouse given the others of its PDX model
        rest = special.logsumexp(blocks - [each["S/a1", 0], each["S/a1", 1]])
        found = point.derived["log_likelihood"][panel.labels.mouse.index("S/a1")]
        tight(found, special.logsumexp(blocks) - rest)


@pytest.mark.slow
def test_summed_density_is_the_sum_of_those_given_the_responders(tmp_path):
    """With doses, covariates, shared cells and hidden volumes; given z the model sums over nothing."""
    mice = DOSED | {"b4": ("T2", "M4", "B", 6)}
    low = {"c1": 1, "a2": 2, "ab2": 2, "ab1": 1}
    slope = dict.fromkeys(low, -0.12)
    dataset = table_of(tmp_path, mice, low, slope, doses=True, covariates=OF_MODELS)
    doses = DoseResponse("emax", {"A": 20.0})
    panel = build_panel(dataset, CLASSES, SHAPE, (), doses, ("K", "size"))
    assert len(panel.censored.mouse) == len(low) and (panel.combinations.shared >= 0).any()
    choices = np.array([[which[name] for name in panel.labels.pdx_model] for which in CHOICES], float)
    with jax.enable_x64(True):
        model, arrays = build_model(panel, prior(), responders="common"), arrays_of(panel)

        @partial(jax.jit, compiler_options=QUICKLY)
        def both(key):
            trace = handlers.trace(handlers.seed(model, key)).get_trace(arrays)
            sites = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
            sites = {name: value for name, value in sites.items() if not trace[name]["is_observed"]}

            def given(z):
                return log_density(model, (arrays._replace(responder=z),), {}, sites)[0]

            return log_density(model, (arrays,), {}, sites)[0], jax.lax.map(given, jnp.asarray(choices))

        for seed in range(4):
            summed, terms = both(jax.random.key(seed))
            # the terms hold every prior too, which comes out of the sum
            np.testing.assert_allclose(summed, special.logsumexp(terms), rtol=1e-9)


def test_effects_drawn_belong_to_the_responders_drawn(small):
    """Sites follow the drawn z, z its probability."""
    _, panel, _, points = small
    point, size = points[0], 4000
    values = {name: np.broadcast_to(v, (1, size, *v.shape)) for name, v in point.derived.items()}
    found = drawn(jax.random.key(3), values, panel.sites.pdx_model)
    share = point.derived["responder_probability"]
    error = 5 * np.sqrt(share * (1 - share) / size) + 1e-12
    assert np.all(np.abs(found["responder"].mean((0, 1)) - share) <= error)
    assert {0.0, 1.0} >= set(np.unique(found["responder"]))
    own = found["responder"][0][:, panel.sites.pdx_model] == 1
    for name in ("effect_site", "lone_density"):
        both = point.derived[f"{name}_common"], point.derived[name]
        assert np.all(found[name][0] == np.where(own, *both)) and np.any(both[0] != both[1])
    assert not [name for name in found if name.endswith("_common")]


@pytest.mark.slow
def test_mice_and_cells_are_drawn_given_the_responders(small):
    """The effects on mice are those of the component that each draw was given."""
    _, panel, _, points = small
    point = points[0]
    with jax.enable_x64(True):
        model = build_model(panel, prior(), mouse_level=True, responders="common")
        arrays, few = arrays_of(panel), 1000
        z = np.tile([[0.0] * 4, [1.0] * 4], (few // 2, 1))
        sites = {k: jnp.broadcast_to(v, (few, *v.shape)) for k, v in point.sites.items()}
        given = arrays._replace(responder=jnp.asarray(z[0]))
        flat = jax.vmap(lambda s: unconstrain_fn(model, (given,), {}, s))(sites)
        draws = mouse_draws(jax.random.key(5), model, arrays, jax.tree.map(np.asarray, flat), z)
    explicit = panel.curves.effect_site >= 0
    site = panel.curves.effect_site[explicit]
    for which, name in enumerate(("effect_site", "effect_site_common")):
        expected = np.broadcast_to(point.derived[name][site], (few // 2, explicit.sum()))
        np.testing.assert_allclose(draws.effect[which::2, explicit], expected, atol=1e-5)
    assert np.all(draws.effect[:, ~panel.curves.treated] == 0.0)


# ------------------------------------------------------------------------------------------------ left out

EFFECT, OMEGA, NOISE, SHIFT, SHARE = 0.3, 0.8, 0.5, 1.4, 0.2
#: a lone mouse of an effect, the combination built on it, and a mouse under another drug whose effect is the shift
SEEN = np.array([1.9, 0.6, 0.8])


def test_densities_left_out_are_those_of_the_mixture():
    """One PDX model of known population: z and the effect drawn exactly, the densities by enumeration."""
    size = 40_000
    sees = np.array([[1.0], [1.0], [0.0]])
    within = OMEGA**2 * sees @ sees.T + NOISE**2 * np.eye(3)
    means = [np.array([EFFECT + z * SHIFT, EFFECT + z * SHIFT, z * SHIFT]) for z in (0, 1)]
    weights = np.log([1 - SHARE, SHARE])

    def density(keep: np.ndarray) -> float:
        part = np.ix_(keep, keep)
        each = [stats.multivariate_normal.logpdf(SEEN[keep], mean[keep], within[part]) for mean in means]
        return float(special.logsumexp(weights + each))

    everything = np.ones(3, bool)
    joint = weights + [stats.multivariate_normal.logpdf(SEEN, mean, within) for mean in means]
    rng = np.random.default_rng(4)
    z = (rng.random(size) < special.softmax(joint)[1]).astype(int)
    # the effect given z and both its mice; given the lone one it is `known` + `scale` times a standard normal
    precision = 1 / OMEGA**2 + 2 / NOISE**2
    centre = EFFECT + z * SHIFT
    effect = (centre / OMEGA**2 + SEEN[:2].sum() / NOISE**2) / precision + rng.normal(size=size) / np.sqrt(precision)
    share, scale = OMEGA**2 / (OMEGA**2 + NOISE**2), OMEGA * NOISE / np.hypot(OMEGA, NOISE)
    known = [EFFECT + k * SHIFT + share * (SEEN[0] - EFFECT - k * SHIFT) for k in (0, 1)]
    normal = (effect - np.where(z == 1, known[1], known[0])) / scale
    lone = [stats.norm.logpdf(SEEN[0], EFFECT + k * SHIFT, np.hypot(OMEGA, NOISE)) for k in (0, 1)]
    of_each = [
        np.stack(
            [
                np.full(size, lone[k]),
                stats.norm.logpdf(SEEN[1], known[k] + scale * normal, NOISE),
                np.full(size, stats.norm.logpdf(SEEN[2], k * SHIFT, NOISE)),
            ],
            axis=1,
        )
        for k in (0, 1)
    ]
    with jax.enable_x64(True):
        owner = jnp.zeros(3, jnp.int32)
        summed = jax.vmap(lambda a, b: two_components(jnp.asarray(SHARE), a, b, owner, 1))(*map(jnp.asarray, of_each))
    panel = SimpleNamespace(
        labels=SimpleNamespace(pdx_model=("M",), tumour_type=("T",), mouse=("l", "c", "o")),
        pdx_model_type=np.array([0]),
        curves=SimpleNamespace(pdx_model=np.zeros(3, int), arm_type=np.array([0, 1, 1])),
        sites=SimpleNamespace(pdx_model=np.array([0]), drug_type=np.array([0]), mouse=np.array([0])),
        combinations=SimpleNamespace(pdx_model=np.array([0]), shared=np.array([-1])),
        covariates=None,
        scales=SimpleNamespace(mouse=ScaleCoordinate(np.zeros(3), np.ones(()))),  # in units of their spread
    )
    one = np.ones((size, 1))
    values = {
        "log_likelihood": summed.mouse, "log_likelihood_pdx_model": summed.pdx_model,
        "lone_density": np.where(z == 1, lone[1], lone[0])[:, None],
        "responder": z[:, None], "responder_shift": SHIFT * one[:, 0],
        "ln_growth_type": 0 * one, "omega_ln_growth": one, "ln_sigma_arm": [-2.5, -1.5] * one,
        "omega_ln_sigma": 0.3 * one[:, 0], "effect": EFFECT * one, "omega_effect": OMEGA * one,
        "effect_site": effect[:, None], "effect_site_scale": scale * one,
    }  # fmt: skip
    # nothing depends on growth and residual scales: they have their prior
    draws = {"ln_growth": rng.normal(size=(size, 1)), "ln_sigma_z": rng.normal(size=(size, 3))}
    draws["effect_site_z"] = normal[:, None]
    found = left_out_density(
        panel, {k: np.asarray(v)[None] for k, v in values.items()}, {k: v[None] for k, v in draws.items()}
    )
    rest = [np.arange(3) != i for i in range(3)]
    for got, exact in (
        (found.mouse[0], [density(everything) - density(keep) for keep in rest]),
        (found.pdx_model[0], [density(everything)]),
    ):
        ratio = np.exp(-got)
        error = ratio.std(0) / ratio.mean(0) / np.sqrt(size)
        assert np.all(np.abs(np.log(ratio.mean(0)) + exact) < 5 * error + 1e-4) and error.max() < 0.05


# ------------------------------------------------------------------------------------------------ what reads the fit


def test_new_pdx_models_are_of_two_kinds():
    """Without spread an effect is one of two; a combination has both its drugs shifted, or neither."""
    number, share, shift = 40_000, 0.2, 0.7
    still = test_predict.law(
        omega_effect=[0.0, 0.0, 0.0], omega_combination=0.0, responder_share=share, responder_shift=shift
    )
    member = jnp.repeat(jnp.arange(4), number)
    _, effect = new_models(jax.random.key(8), still, test_predict.cells(), member)
    effect = np.asarray(effect, float).reshape(4, -1)
    width = 0.05

    def rule(a: float, b: float) -> float:
        lead = 1 / (1 + np.exp((b - a) / width))
        return lead * a + (1 - lead) * b + 0.6 * (lead * b + (1 - lead) * a) + 0.1

    kinds = {0: (0.5, 0.5 + shift), 1: (1.1, 1.1 + shift), 2: (rule(0.5, 0.2), rule(0.5 + shift, 0.2 + shift))}
    for cell, (other, common) in kinds.items():
        is_common = np.abs(effect[cell] - common) < 1e-5
        assert np.all(is_common | (np.abs(effect[cell] - other) < 1e-5))
        assert abs(is_common.mean() - share) < 5 * np.sqrt(share * (1 - share) / number)


def test_pairs_know_which_pdx_models_respond(tmp_path):
    """M1 responds to a drug that it never had, M2 does not, and a new PDX model as often as the share says."""
    lines = ["study,tumour_type,pdx_model,mouse,arm,day,volume_mm3"]
    for mouse, (kind, model, arm, effect) in test_pairs.MICE.items():
        lines += [f"S,{kind},{model},{mouse},{arm},{d},{200 * np.exp(0.1 * (1 - effect) * d)}" for d in (0, 7, 14)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    dataset = read_dataset(tmp_path / "table.csv")
    size = features(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1)).shape[-1]
    stays = StoppingRule(jnp.zeros(size).at[0].set(-50.0), 3.0)
    rows = [("T1", model, "everolimus") for model in ("M1", "M2", "new")]
    for share in (0.0, 1.0):
        tree = test_pairs.posterior(responder=[1.0, 0.0, 0.0], responder_share=share, responder_shift=3.0)
        found = test_pairs.predict(tree, dataset, load_priors(()), stays, *rows)
        assert found["probability"].tolist() == [1.0, 0.0, share]


@pytest.mark.long
@pytest.mark.parametrize("numbers", [pytest.param("independent", marks=pytest.mark.slow), "sobol"])
def test_patients_respond_to_every_drug_or_to_none(numbers):
    """The same people as without the component, and a share of them with every effect larger by the shift."""
    share, shift, visits = 0.25, 5.0, 4
    plain = test_patients.law_of()
    law = test_patients.law_of(responder_share=share, responder_shift=shift)
    parts = EVERYTHING._replace(responders=True)
    assert parts_of(law).responders and not parts_of(plain).responders
    names = test_patients.REGIMENS.drug_hash, test_patients.REGIMENS.combination_hash[1:2]

    def people(law, parts):
        if numbers == "independent":
            found = block_deviates(jax.random.key(3), jnp.int32(0), *names, visits, parts)
        else:
            places = places_of(*names)
            points = sobol_points(jax.random.key(3), places, visits, parts)
            moved = sobol.shift(jax.random.key(4), points, jnp.int32(0))
            found = sobol_deviates(points, moved, jnp.int32(0), places, visits, parts)
        return jax.tree.map(np.asarray, patients_of(law, found, test_patients.PREVALENCE, parts))

    alike, found = people(plain, EVERYTHING), people(law, parts)
    for name in alike._fields:
        if name != "effect":
            jax.tree.map(np.testing.assert_array_equal, getattr(alike, name), getattr(found, name))
    more = found.effect - alike.effect
    responds = more[0] > 1.0
    np.testing.assert_allclose(more, np.where(responds, shift, 0.0)[None].repeat(2, 0), atol=1e-5)
    assert abs(responds.mean() - share) < 5 * np.sqrt(share * (1 - share) / BLOCK)
    # and independent of all else that decides: growth, each effect
    for other in (np.log(alike.growth), *alike.effect):
        assert abs(np.corrcoef(responds, other)[0, 1]) < 5 / np.sqrt(BLOCK)


def test_next_study_and_inhibition_of_pdx_models_follow():
    """All PDX models responders: what is predicted is that of a drug with the shift in its mean."""
    base = test_next_study.law(2, np.full((2, 2), 0.3))
    shifted = test_next_study.law(2, np.full((2, 2), 0.3 + 0.4))
    ones = np.ones(2)
    common = base._replace(responder_share=ones, responder_shift=0.4 * ones)
    normals = draw_normals(np.random.default_rng(1), 5, 2, responders=True)
    expected, found = cell_rates(shifted, normals)[0], cell_rates(common, normals)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    none = base._replace(responder_share=0 * ones, responder_shift=0.4 * ones)
    np.testing.assert_allclose(cell_rates(none, normals)[0], cell_rates(base, normals)[0], rtol=1e-6)

    size = test_inhibition.NUM_DRAWS
    plans = [test_inhibition.plan_of(0.3), test_inhibition.plan_of(0.3, (0.4,))]
    plans[0].law.responder_share, plans[0].law.responder_shift = jnp.ones(size), jnp.full(size, 0.4)
    found, expected = (
        inhibition(jax.random.key(2), plan, test_inhibition.draws(), test_inhibition.SHAPE, 21.0) for plan in plans
    )
    np.testing.assert_allclose(found.median, expected.median, rtol=1e-5)
