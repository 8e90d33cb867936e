"""What a published arm of one drug would have shown, as a surface over the drug's kill scale and loss of effect.

Of all that the translation draws, trials of single drugs speak of these two, ``ln S`` of the drug in the tumour type
and ``ln lambda`` of its class. The arm is simulated at every node of a grid of the two, with the same patients under
the hard RECIST rule, once for every draw of the mice and of whatever else is not learnt. Between nodes the logit is the
bicubic convolution of Keys (1981, IEEE Trans Acoust 29:1153, a = -1/2), exact at the nodes: no rule is softened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from vtrial.medians import deviation, share_on
from vtrial.mouse_prior import MouseDraws
from vtrial.prior_draws import PriorSampler
from vtrial.priors import Priors, TrialArm
from vtrial.published import DAYS, any_shrinkage, curves, planned, response_rule, simulated_patients
from vtrial.published_endpoints import published_median, teaches
from vtrial.rates import response_rates
from vtrial.trial import Endpoints, simulate

#: nodes of ln kill scale: 3.8 SD of its shipped prior to either side of ln 0.64, 0.65 apart
LN_KILL_SCALE = np.linspace(-3.4, 2.45, 10)
#: nodes of ln loss of effect (1/day): 2.8 SD of its shipped prior to either side of ln 0.005, 0.9 apart
LN_LOSS_OF_EFFECT = np.linspace(-7.55, -3.05, 6)


class Surface(NamedTuple):
    """An endpoint of one arm in every draw of the mice, at the nodes of the grid, where nobody is resistant."""

    logit: np.ndarray  # [J, S, L], of the rate of response or shrinkage, or of the share without event on that day
    variance: np.ndarray  # [J, S, L], of that logit for the finite number of simulated patients; 0 for a rate
    resisted: np.ndarray | None = None  # [J], that logit where the drug does nothing; None for what responders have

    def at(self, ln_kill_scale: np.ndarray, ln_loss: np.ndarray) -> Surface:
        """The surface on another grid, [J, S', L']; beyond the nodes that of their edge."""
        kill, loss = _weights(ln_kill_scale, LN_KILL_SCALE), _weights(ln_loss, LN_LOSS_OF_EFFECT)
        variance = np.maximum(kill @ self.variance @ loss.T, 0.0)
        return self._replace(logit=kill @ self.logit @ loss.T, variance=variance)

    def with_resistant(self, share: float) -> np.ndarray:
        """The logit [J, S, L] where the drug does nothing in this share of the patients.

        Patients are resistant whatever else they are, so that rates and shares mix:
        ``(1 - share) p(S, lambda) + share p(no effect)``.
        """
        if self.resisted is None or share == 0.0:
            return self.logit
        mixed = (1.0 - share) * expit(self.logit) + share * expit(self.resisted)[:, None, None]
        return np.log(mixed) - np.log1p(-mixed)


def _weights(points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """What every node [N] has in the value at every point [P]: the cubic convolution as a matrix [P, N]."""
    last = len(nodes) - 1
    place = np.clip((points - nodes[0]) / (nodes[1] - nodes[0]), 0.0, last)
    below = np.minimum(np.floor(place).astype(int), last - 1)
    t = place - below
    cubic = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1.0 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2.0 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    weights = np.zeros((len(points), len(nodes)))
    for k, part in enumerate(cubic):
        np.add.at(weights, (np.arange(len(points)), np.clip(below - 1 + k, 0, last)), part)
    return weights


def logit_of(rate: np.ndarray, patients: int) -> np.ndarray:
    """Logit of rates of that many patients each, half a responder and half a non-responder added."""
    responders = rate * patients
    return np.log(responders + 0.5) - np.log(patients - responders + 0.5)


def simulate_surfaces(
    key: jax.Array,
    arms: Sequence[TrialArm],
    draws: MouseDraws,
    sampler: PriorSampler,
    priors: Priors,
    aliases: Mapping[str, str],
    num_patients: int,
    endpoints: Sequence[str],
    progress: Callable[[str, int, int], None],
    engraftment_bias: float = 0.0,
) -> dict[tuple[int, str], Surface]:
    """Surfaces of all that published arms of one drug teach, by id of the arm and endpoint.

    Parameters
    ----------
    key
        Of the patients, the same at every node.
    arms
        Of one drug each, with dosing; no count of responders is read, of a median its day.
    draws, sampler
        J draws of the mice, and of all that is not learnt.
    priors, aliases
        See :func:`vtrial.translation.plan_cohort`.
    num_patients
        Patients of each draw and node.
    endpoints
        Of :data:`vtrial.published_endpoints.ENDPOINTS`.
    progress
        Told of every arm.
    engraftment_bias
        See :func:`vtrial.translation.plan_cohort`.
    """
    found: dict[tuple[int, str], Surface] = {}
    timed = tuple(endpoints) != ("orr",)
    shape = (draws.size, len(LN_KILL_SCALE), len(LN_LOSS_OF_EFFECT))
    groups = list(planned(arms, draws, sampler, priors, aliases, engraftment_bias=engraftment_bias))
    for done, (cohort, recist, members, plan) in enumerate(groups):
        progress(f"surface, {cohort.tumour_type}", done, len(groups))
        trial, column = plan.trial(), 0 if cohort.subgroups else -1
        made = {
            (arm.id, name): Surface(np.empty(shape), np.zeros(shape), None if name == "ttr" else np.empty(draws.size))
            for arm in members
            for name in endpoints
            if teaches(arm, name)
        }
        # nodes of the grid, then the drug that does nothing
        nodes = [(s, x, np.exp(a), b) for s, a in enumerate(LN_KILL_SCALE) for x, b in enumerate(LN_LOSS_OF_EFFECT)]
        for s, x, scale, loss in [*nodes, (None, None, 0.0, LN_LOSS_OF_EFFECT[0])]:
            law = trial.law._replace(
                kill_scale=jnp.full_like(trial.law.kill_scale, scale),
                ln_loss_rate=jnp.full_like(trial.law.ln_loss_rate, loss),
                resistant_share=None,
            )
            counts, times = simulate(
                key,
                trial._replace(law=law),
                response_rule(recist),
                num_patients=num_patients,
                endpoints=Endpoints(num_arms=1) if timed else None,
                numbers="sobol",
            )
            rates = response_rates(plan, counts, True)
            for arm in members:
                patients = simulated_patients(arm, num_patients)
                for name in endpoints:
                    if (arm.id, name) not in made:
                        continue
                    surface = made[arm.id, name]
                    if name == "orr":
                        main = "unconfirmed_orr" if arm.confirmed is False else "confirmed_orr"
                        mean, sd = logit_of(rates[main][:, 0, column], patients), 0.0
                    elif name == "shrinkage":
                        assert times is not None  # it teaches with one
                        mean, sd = logit_of(any_shrinkage(times, column), patients), 0.0
                    else:
                        median = published_median(arm, name)
                        assert times is not None and median is not None  # it teaches with one
                        curve = curves(times, column, patients)["TTR" if name == "ttr" else arm.progression]
                        mean, sd = deviation(share_on(curve, DAYS, median[0]), curve.number, np.zeros(draws.size))
                    if s is not None:
                        surface.logit[:, s, x], surface.variance[:, s, x] = mean, sd**2
                    elif surface.resisted is not None:
                        surface.resisted[:] = mean
        found |= made
    progress("surface", len(groups), len(groups))
    return found
