import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from vtrial.mouse_prior import PriorDraws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import load_priors
from vtrial.published import any_shrinkage, planned, response_rule
from vtrial.rates import response_rates
from vtrial.surfaces import LN_KILL_SCALE, LN_LOSS_OF_EFFECT, Surface, logit_of, simulate_surfaces
from vtrial.trial import Endpoints, simulate


def test_nodes_are_met_and_quadratics_followed_between_them() -> None:
    """Cubic convolution is exact at nodes, and for quadratics away from the edge (Keys 1981, eq. 13)."""
    s, loss = np.meshgrid(LN_KILL_SCALE, LN_LOSS_OF_EFFECT, indexing="ij")
    rough = np.random.default_rng(0).normal(size=(2, *s.shape))
    same = Surface(rough, np.abs(rough)).at(LN_KILL_SCALE, LN_LOSS_OF_EFFECT)
    np.testing.assert_allclose(same.logit, rough, atol=1e-12)
    np.testing.assert_allclose(same.variance, np.abs(rough), atol=1e-12)
    smooth = 0.3 * s**2 - 0.2 * s * loss + 0.1 * loss**2 - s + 2.0
    x, y = np.array([-2.2, -0.77, 0.3]), np.array([-5.9, -4.4])
    found = Surface(smooth[None], np.zeros((1, *s.shape))).at(x, y).logit[0]
    x, y = np.meshgrid(x, y, indexing="ij")
    np.testing.assert_allclose(found, 0.3 * x**2 - 0.2 * x * y + 0.1 * y**2 - x + 2.0, rtol=1e-12)


def test_a_surface_ends_at_its_edge() -> None:
    table = np.add.outer(LN_KILL_SCALE, LN_LOSS_OF_EFFECT)[None]
    found = Surface(table, np.zeros_like(table)).at(np.array([-9.0, 5.0]), np.array([-9.0, 0.0]))
    np.testing.assert_allclose(found.logit[0], table[0][[[0], [-1]], [[0, -1]]])


def test_no_node_says_more_than_its_count() -> None:
    """The rate behind a logit is that of half a responder more in one patient more, none included."""
    rate = np.array([0.0, 0.001, 0.5, 1.0]).reshape(1, 2, 2)
    np.testing.assert_allclose(expit(logit_of(rate, 1000)), (1000 * rate + 0.5) / 1001)


@pytest.mark.long
def test_between_the_nodes_it_is_the_simulation_under_the_hard_rule() -> None:
    """A published arm simulated between the nodes, with the same patients, with and without resistant ones.

    Its response rate, and the share in whom target lesions shrink. A rate of 4,096 Sobol patients has a standard error
    of at most that of as many independent ones, 0.8 points; three of two of them, and 0.5 points for the curve between
    nodes 0.65 and 0.9 apart.
    """
    priors = load_priors()
    arm = next(arm for arm in priors.trials if arm.id == 8).model_copy(update={"num_shrunk": 100, "num_measured": 180})
    draws = PriorDraws(jax.random.key(1), priors, 3)
    sampler, key, size = PriorSampler(jax.random.key(2), priors, 3), jax.random.key(3), 4096
    both = ("orr", "shrinkage")
    tables = simulate_surfaces(key, [arm], draws, sampler, priors, {}, size, both, lambda *_: None)
    ((cohort, recist, _, plan),) = planned([arm], draws, sampler, priors, {})
    assert not cohort.subgroups
    for s, loss, share in ((-0.9, -5.3, 0.0), (0.1, -6.3, 0.0), (-1.7, -4.6, 0.0), (0.1, -6.3, 0.4)):
        trial = plan.trial()
        law = trial.law._replace(
            kill_scale=jnp.full_like(trial.law.kill_scale, np.exp(s)),
            ln_loss_rate=jnp.full_like(trial.law.ln_loss_rate, loss),
            resistant_share=jnp.full_like(trial.law.kill_scale, share),
        )
        rule = response_rule(recist)
        made = trial._replace(law=law)
        counts, times = simulate(key, made, rule, num_patients=size, endpoints=Endpoints(num_arms=1), numbers="sobol")
        assert times is not None
        shares = response_rates(plan, counts, True)["confirmed_orr"][:, 0, -1], any_shrinkage(times, -1)
        for name, hard in zip(both, shares, strict=True):
            table = tables[arm.id, name].at(np.array([s]), np.array([loss]))
            found = expit(table.with_resistant(share)[:, 0, 0])
            bound = 3 * np.sqrt(2 * np.maximum(hard * (1 - hard), 1e-3) / size) + 0.005
            assert (np.abs(found - hard) < bound).all(), (name, s, loss, found, hard)
