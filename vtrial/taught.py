"""Mice, and what published trials of single drugs say about their translation: the one simulation behind all of it.

Every arm that teaches is simulated once, over all kill scales and losses of effect (:mod:`vtrial.surfaces`). What is
learnt with any trials left out then costs no simulation (:mod:`vtrial.calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from vtrial.calibration import Calibration, Drug, Grid, Teacher, grid_of, resistance_of
from vtrial.errors import InputError
from vtrial.mouse_prior import MouseDraws, Repeated
from vtrial.prior_draws import LearntSampler, PriorSampler
from vtrial.priors import Priors, TrialArm
from vtrial.published_endpoints import ENDPOINTS, published_median, teaches
from vtrial.scoring import log_likelihood
from vtrial.surfaces import LN_KILL_SCALE, LN_LOSS_OF_EFFECT, Surface, simulate_surfaces


class Settings(NamedTuple):
    """Size and seed of a validation."""

    mice: int = 64  # draws of the mice, J
    copies: int = 16  # draws of the translation for each of them, R
    patients: int = 2000
    seed: int = 7
    endpoints: tuple[str, ...] = ENDPOINTS  # that trials teach with

    @classmethod
    def of(cls, draws: int | None, patients: int | None, *, quick: bool) -> Settings:
        """Settings of about so many joint draws; a quick look has a quarter."""
        default = cls(mice=16) if quick else cls()
        mice = default.mice if draws is None else -(-draws // default.copies)
        return default._replace(mice=mice, patients=patients or default.patients)


class Taught:
    """Draws of mice and translation before and after any of the trials.

    Attributes
    ----------
    key
        Of the patients.
    arms
        Published arms with dosing.
    draws
        D = J x R draws of the mice, every one of J with R of the translation.
    priors, aliases, settings
        As given.
    """

    def __init__(
        self,
        key: jax.Array,
        arms: Sequence[TrialArm],
        draws: MouseDraws,
        priors: Priors,
        aliases: Mapping[str, str],
        settings: Settings,
        progress: Callable[[str, int, int], None],
        asked: Collection[Drug] = (),
        engraftment_bias: float = 0.0,
    ):
        """Simulate all arms that teach.

        Parameters
        ----------
        key
            Split into that of the translation and that of the patients.
        arms
            Published arms with dosing.
        draws
            J draws of the mice.
        priors, aliases
            See :func:`vtrial.translation.plan_cohort`.
        settings
            Size and seed.
        progress
            Told of every arm.
        asked
            Drugs in tumour types that will be predicted, beside those of the arms.
        engraftment_bias
            Of the experiment, see :func:`vtrial.translation.plan_cohort`.
        """
        key_translation, self.key = jax.random.split(key)
        self.arms, self.priors, self.aliases, self.settings = tuple(arms), priors, aliases, settings
        self.draws = Repeated(draws, settings.copies)
        self._sampler = PriorSampler(key_translation, priors, draws.size)
        self._learnt: dict[frozenset[int], LearntSampler] = {}
        teachers = [arm for arm in arms if any(teaches(arm, name) for name in settings.endpoints)]
        self._teachers = frozenset(arm.id for arm in teachers)
        every = [Drug(*item, arm.tumour_type) for arm in arms for item in classes_of(arm, priors).items()]
        every += asked
        grid = grid_of({drug.drug_class for drug in every}, priors)
        _within_the_surfaces(grid)
        surfaces = simulate_surfaces(
            self.key,
            teachers,
            draws,
            self._sampler,
            priors,
            aliases,
            settings.patients,
            settings.endpoints,
            progress,
            engraftment_bias,
        )
        shift, between = offsets(self._sampler, teachers), self._sampler.entry("translation.between_trials")
        said, share = [], resistance_of(priors).share
        for arm in teachers:
            own = {name: surface for (number, name), surface in surfaces.items() if number == arm.id}
            drug = Drug(*next(iter(classes_of(arm, priors).items())), arm.tumour_type)
            said.append(Teacher(arm.id, drug, arm_log_likelihood(arm, own, grid, share, shift[arm.id], between)))
        self._calibration = Calibration(settings.seed, grid, said, every, priors, draws.size, settings.copies)

    def before(self) -> LearntSampler:
        """D draws of the translation before any trial, beside the same draws of all that is not learnt."""
        return self.after(self._teachers)[0]

    def after(self, left_out: Collection[int]) -> tuple[LearntSampler, int]:
        """D draws of the translation after all trials but the arms of these ids, and how many arms taught."""
        hidden = self._teachers & frozenset(left_out)
        if hidden not in self._learnt:
            normals = self._calibration.learnt(hidden).normals
            self._learnt[hidden] = LearntSampler(self._sampler, normals, self.settings.copies)
        return self._learnt[hidden], len(self._teachers - hidden)


def _within_the_surfaces(grid: Grid) -> None:
    """Refuse priors whose middle is beyond what the surfaces were simulated at: there they only carry on their edge.

    Raises
    ------
    InputError
        With the prior, where its middle is and where it may be.
    """
    names = ("ln_kill_scale", "loss_of_effect")
    for name, values, nodes in zip(names, grid, (LN_KILL_SCALE, LN_LOSS_OF_EFFECT), strict=True):
        middle = 0.5 * (values[0] + values[-1])
        if not nodes[0] <= middle <= nodes[-1]:
            raise InputError(
                f"the middle of the priors is at {middle:.2f} on the ln scale; trials can teach between {nodes[0]:.2f} "
                f"and {nodes[-1]:.2f}",
                key=f"translation.{name}",
            )


def arm_log_likelihood(
    arm: TrialArm,
    surfaces: Mapping[str, Surface],
    grid: Grid,
    resistant: np.ndarray,
    offset: np.ndarray,
    between_trials: np.ndarray,
) -> np.ndarray:
    """Log likelihood of what an arm published, on the grid of the calibration, [Q, J, S, L].

    Parameters
    ----------
    arm
        Its counts and medians, with what their sampling errors hang on.
    surfaces
        What it would have shown, by endpoint; the endpoints are independent given the draw.
    grid
        Of the calibration.
    resistant
        Shares of resistant patients, [Q].
    offset, between_trials
        Of reader and line, of responders alone, and SD of the deviation of one trial, on the logit, [J].
    """
    total = np.zeros((len(resistant), len(offset), *map(len, grid)))
    spread = np.broadcast_to(between_trials[:, None, None], total.shape[1:])
    for name, surface in surfaces.items():
        shown = surface.at(*grid)
        for share, said in zip(resistant, total, strict=True):
            logit = shown.with_resistant(share)
            if name == "orr":
                logit = logit + offset[:, None, None]
                each = log_likelihood(logit.ravel(), spread.ravel(), arm.num_responders, arm.num_patients)
                said += each.reshape(said.shape)
            elif name == "shrinkage":
                assert arm.num_shrunk is not None and arm.num_measured is not None  # it has a surface
                each = log_likelihood(logit.ravel(), spread.ravel(), arm.num_shrunk, arm.num_measured)
                said += each.reshape(said.shape)
            else:
                median = published_median(arm, name)
                assert median is not None  # it has a surface
                said += norm.logpdf(logit, 0.0, np.sqrt(shown.variance + median[1] + spread**2))
    return total


def offsets(sampler: PriorSampler, arms: Sequence[TrialArm]) -> dict[int, np.ndarray]:
    """What reader and line add to the logit of the rate, [D] by id; 0 where the source does not tell."""
    reader = sampler.entry("translation.reader_investigator")
    line = sampler.entry("translation.per_prior_line")
    reference = sampler.entry("translation.reference_prior_lines")
    return {
        arm.id: reader * float(arm.reader == "investigator")
        + (line * (arm.prior_lines - reference) if arm.prior_lines is not None else 0.0)
        for arm in arms
    }


def classes_of(arm: TrialArm, priors: Priors) -> dict[str, str]:
    """Mechanism class of every drug of an arm, by the drug's own name."""
    return {priors.drug(drug).name: priors.drug_class(drug) for drug in arm.drugs}
