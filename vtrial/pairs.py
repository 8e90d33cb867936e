"""PDX models that are known under some treatments, predicted under others: pairs of a PDX model and an arm.

What the fit knows of a PDX model (its growth, its effects under the drugs that it had) goes into the prediction; an
effect that it does not know is drawn from the population. An arm may be a combination that no model ever had.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtr

from vtrial.arms import arm_fault, parts_of
from vtrial.covariates import covariate_values
from vtrial.dataset import Dataset
from vtrial.doses import Dose
from vtrial.errors import InputError
from vtrial.model_format import CurveShape
from vtrial.posterior import Draws, shape_of
from vtrial.predict import NUM_MEASUREMENTS, MouseLaw, log_volume, mid_interval, mouse_law, observed_response
from vtrial.priors import Priors
from vtrial.response import CR, MRECIST_PDXE, PR, mrecist_class, mrecist_curve
from vtrial.stopping import StoppingRule, stay
from vtrial.table import cells_of, content_of, fold
from vtrial.translation import PriorSampler, drug_effect, drug_loss, pair_rule, type_growth
from vtrial.treatment import combine, joint_effect, loss_of_arm

COLUMNS = ("tumour_type", "pdx_model", "arm")
#: what the drugs of a combination do together: the rule of the fit, or one that is fixed and says nothing of the mice
Rule = Literal["fitted", "hsa", "bliss", "independent"]
#: new mice per posterior draw and pair: the probability of a pair averages over them
MICE_PER_DRAW = 4


def read_pairs(path: Path) -> pd.DataFrame:
    """Read a table of pairs (CSV with tumour_type, pdx_model, arm).

    Raises
    ------
    InputError
        Where a column is missing, a cell is empty or a pair stands twice.
    """
    cells, lines, _ = cells_of(path, content_of(path, None))
    for name in COLUMNS:
        if name not in cells:
            raise InputError(f"column missing; needed are {', '.join(COLUMNS)}", file=path, line=1, key=name)
        empty = np.flatnonzero(cells[name].str.strip() == "")
        if len(empty):
            raise InputError("must not be empty", file=path, line=int(lines[empty[0]]), key=name)
    twice = np.flatnonzero(cells.duplicated(list(COLUMNS)))
    if len(twice):
        raise InputError("this pair stands twice; remove one row", file=path, line=int(lines[twice[0]]))
    return cells[list(COLUMNS)].reset_index(drop=True)


class PairPrediction(NamedTuple):
    """What is predicted of N pairs of a PDX model and an arm."""

    pairs: pd.DataFrame  # tumour_type, pdx_model, arm, probability, in_sample
    responds: np.ndarray  # [D, R, N] bool: R new mice of every pair per posterior draw


def predict_pairs(
    key: jax.Array,
    tree: xr.DataTree,
    dataset: Dataset,
    pairs: pd.DataFrame,
    priors: Priors,
    stopping: StoppingRule,
    *,
    rule: Rule | None = None,
) -> PairPrediction:
    """Predict the mRECIST response of a new mouse of every listed PDX model under its arm.

    Combinations are as fitted where the fit has seen the PDX model under them, else by the fitted rule; with a `rule`
    all of them follow it. The fixed ones take the drugs of a combination as the fit knows them alone, in the same PDX
    model and draw:

    - ``hsa``, highest single agent: effect and loss of the drug that does most, with the residuals of the combination;
    - ``bliss``: effects add up, phi = 1 and gamma = 0 in :func:`vtrial.treatment.combine`;
    - ``independent``, independent action of mice: one mouse for each drug, each with noise of its own; the pair
      responds if any of them does.

    Parameters
    ----------
    key
        Consumed.
    tree
        The posterior.
    dataset
        The table of the fit: which PDX model had which drug, names and aliases of drugs.
    pairs
        From :func:`read_pairs`.
    priors
        Classes of drugs that the fit has not seen.
    stopping
        When a mouse leaves.
    rule
        What drugs do together, whether or not the fit has seen them together.

    Raises
    ------
    InputError
        If a drug is known neither to the table nor to the priors.
    """
    draws = Draws(tree, index=tree["cells"]["index"].to_numpy())
    key_prior, key_mice = jax.random.split(key)
    known = _KnownModels(tree, dataset, draws, PriorSampler(key_prior, priors, draws.size), priors, rule)
    drugs = [known.drugs(arm) for arm in pairs["arm"]]
    mice = [
        _Mouse(pair, tumour_type, model, arm, given)
        for pair, (tumour_type, model, arm) in enumerate(pairs[list(COLUMNS)].itertuples(index=False))
        for arm, given in _simulated(rule, arm, drugs[pair])
    ]
    growth = np.stack([known.growth(mouse.tumour_type, mouse.model) for mouse in mice], axis=1)
    effect = np.stack([known.joint(mouse.tumour_type, mouse.model, mouse.drugs) for mouse in mice], axis=1)
    loss = np.stack([known.loss(mouse.tumour_type, mouse.model, mouse.drugs) for mouse in mice], axis=1)
    ln_sigma = np.stack([known.ln_sigma(mouse.tumour_type, mouse.arm) for mouse in mice], axis=1)
    responds = _respond(
        key_mice,
        mouse_law(draws),
        *(jnp.asarray(of_pairs, jnp.float32) for of_pairs in (growth, effect, loss, ln_sigma)),
        stopping,
        shape=shape_of(tree),
    )
    first = np.searchsorted([mouse.pair for mouse in mice], np.arange(len(pairs)))
    responds = np.logical_or.reduceat(np.asarray(responds), first, axis=-1)
    seen = [known.has(model, held) for model, held in zip(pairs["pdx_model"], drugs, strict=True)]
    return PairPrediction(pairs[list(COLUMNS)].assign(probability=responds.mean((0, 1)), in_sample=seen), responds)


class _Mouse(NamedTuple):
    """Whom the mice of one simulation stand for: a pair, or under independent action one of its drugs."""

    pair: int
    tumour_type: str
    model: str
    arm: str
    drugs: tuple[str, ...]


def arm_table(pairs: pd.DataFrame, responds: np.ndarray) -> pd.DataFrame:
    """Response fraction of every arm over its listed PDX models, one new mouse each, all noise included.

    Returns
    -------
    DataFrame
        tumour_type, arm, num_models, mean, q05, q95 (90 % predictive interval, :func:`vtrial.predict.mid_interval`),
        in_sample (if the fit has seen any of the listed models under the arm).
    """
    rows = []
    for name, index in pairs.groupby(["tumour_type", "arm"], sort=False).indices.items():
        tumour_type, arm = cast(tuple[str, str], name)
        count = responds[:, :, index].sum(-1)
        low, high = mid_interval(count, len(index))
        seen = bool(pairs["in_sample"].iloc[index].any())
        rows.append((tumour_type, arm, len(index), count.mean() / len(index), low, high, seen))
    names = ["tumour_type", "arm", "num_models", "mean", "q05", "q95", "in_sample"]
    return pd.DataFrame(rows, columns=names)


def _simulated(rule: Rule | None, arm: str, drugs: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """Names and drugs of the mice that stand for an arm: itself, or each drug of a combination alone."""
    return [(drug, (drug,)) for drug in drugs] if rule == "independent" and len(drugs) > 1 else [(arm, drugs)]


class _KnownModels:
    """Growth, effects and residual scales [D]: from the fit where it knows them, else from the population."""

    def __init__(
        self,
        tree: xr.DataTree,
        dataset: Dataset,
        draws: Draws,
        sampler: PriorSampler,
        priors: Priors,
        rule: Rule | None,
    ):
        self._draws, self._sampler, self._priors, self._rule = draws, sampler, priors, rule
        self._aliases = dataset.aliases
        self._ln_growth = dict(zip(draws.labels("pdx_model"), draws.get("ln_growth").T, strict=True))
        effect = tree["cells"]["effect"].to_numpy()
        mouse = {str(name): i for i, name in enumerate(tree["cells"]["mouse"].to_numpy())}
        mice = dataset.used.drop_duplicates("mouse_key")
        self._effect: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
        for name, model, arm in zip(mice["mouse_key"], mice["pdx_model"], mice["arm"], strict=True):
            if dataset.arms[arm] and name in mouse:
                self._effect.setdefault((model, dataset.arms[arm]), effect[:, mouse[name]].astype(float))
        self._ln_sigma_arm = dict(zip(draws.labels("arm_type"), draws.get("ln_sigma_arm").T, strict=True))
        # what a PDX model's mice say of a drug at its reference dose, by those at the largest dose
        self._at_reference: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
        for (model, drugs), values in self._effect.items():
            if len(drugs) == 1 and (dose := dataset.doses.get(drugs[0])):
                kept, strength = self._at_reference.get((model, dose.drug)), draws.dose_strength(dose)
                if strength is not None and (kept is None or dose.amount > kept[0]):
                    self._at_reference[model, dose.drug] = dose.amount, values / strength
        self._responder: dict[str, np.ndarray] = {}
        if "responder" in draws:
            self._responder = dict(zip(draws.labels("pdx_model"), draws.get("responder").T, strict=True))
        self._dataset = dataset
        self._law: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        # those of PDX models that were left out of the fit count too: they are known before any mouse
        self._covariates = covariate_values(dataset.table, draws.covariates) if draws.covariates else None

    def drugs(self, arm: str) -> tuple[str, ...]:
        """Drugs of an arm, sorted, in the table's spelling; one that it does not have must be known to the priors."""
        parts = parts_of(arm, self._dataset.separator, self._aliases, self._dataset.control)
        if fault := arm_fault(parts):
            raise InputError(f"arm {arm!r} {fault}")
        held = {fold(drug): drug for drug in self._dataset.drugs}
        reference = self._draws.dose_response.reference if self._draws.dose_response else {}

        def spelled(part: str) -> str:
            if fold(part) in held:
                return held[fold(part)]
            dose = self._dataset.dose(part) or self._at_reference_dose(part)
            if dose is not None:
                if dose.name not in self._dataset.doses and dose.drug not in reference:
                    raise InputError(f"arm {arm!r}: the fit has one dose of {dose.drug} and says nothing of another")
                return dose.name
            info = self._priors.drug(part)  # raises with the nearest name
            return next((held[fold(name)] for name in (info.name, *info.code_names) if fold(name) in held), part)

        names = tuple(sorted(spelled(part) for part in parts))
        if len(set(names)) < len(names):
            raise InputError(f"arm {arm!r} names a drug twice")
        return names

    def _at_reference_dose(self, name: str) -> Dose | None:
        """The reference dose of a drug that is named without a dose."""
        known = self._draws.dose_response
        units = {fold(dose.drug): dose for dose in self._dataset.doses.values()}
        own = units.get(fold(name))
        return None if known is None or own is None else own._replace(amount=known.reference.get(own.drug, own.amount))

    def _dose(self, drug: str) -> tuple[str, np.ndarray | None]:
        """The drug whatever its dose, and the strength of the dose [D]."""
        dose = self._dataset.dose(drug)
        return (drug, None) if dose is None else (dose.drug, self._draws.dose_strength(dose))

    def has(self, model: str, drugs: tuple[str, ...]) -> bool:
        """Whether the fit has seen this PDX model under this arm."""
        return (model, drugs) in self._effect

    def growth(self, tumour_type: str, model: str) -> np.ndarray:
        if model in self._ln_growth:
            return np.exp(self._ln_growth[model])
        mean, spread = type_growth(tumour_type, self._draws, self._sampler, self._priors)
        return np.exp(mean + spread * self._sampler.normal(f"growth of model {model}"))

    def ln_sigma(self, tumour_type: str, arm: str) -> np.ndarray:
        """Mean ln residual SD of an arm, [D]: as fitted where the fit has it in that type, else about the type's."""
        drugs = self.drugs(arm)
        # an arm is its drugs, but controls of several names are several arms
        same = [own for own, held in self._dataset.arms.items() if held == drugs and (drugs or fold(own) == fold(arm))]
        for own in same:
            if (name := f"{own} | {tumour_type}") in self._ln_sigma_arm:
                return self._ln_sigma_arm[name]
        types = self._draws.labels("tumour_type")
        if tumour_type in types:
            of_type = self._draws.get("ln_sigma_type")[:, types.index(tumour_type)]
        else:
            z = self._sampler.normal(f"residual scale of {tumour_type}")
            of_type = self._draws.get("mu_ln_sigma") + self._draws.get("omega_ln_sigma_type") * z
        z = self._sampler.normal(f"residual scale of {' + '.join(drugs) or fold(arm)} in {tumour_type}")
        return of_type + self._draws.get("omega_ln_sigma_arm") * z

    def loss(self, tumour_type: str, model: str, drugs: tuple[str, ...]) -> np.ndarray:
        """Fraction of the effect of an arm that is lost in the end, [D]."""
        if not drugs:
            return np.zeros(self._draws.size)
        known = [self._dose(drug) for drug in drugs]
        fitted = (tumour_type, self._draws, self._sampler, self._priors, self._aliases)
        own = np.stack([drug_loss(drug, *fitted) for drug, _ in known], axis=1)
        if self._rule == "hsa" and len(drugs) > 1:
            leader = self._alone(tumour_type, model, drugs).argmax(axis=1)
            return np.take_along_axis(own, leader[:, None], axis=1)[:, 0]
        alone = [self._law_of(tumour_type, drug)[0] * (1.0 if dose is None else dose) for drug, dose in known]
        return loss_of_arm(own, np.stack(alone, axis=1), True, np)

    def _law_of(self, tumour_type: str, drug: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread over PDX models of the effect of a drug at the reference dose, [D] each."""
        if (tumour_type, drug) not in self._law:
            law = drug_effect(drug, tumour_type, self._draws, self._sampler, self._priors, self._aliases)
            self._law[tumour_type, drug] = law[:2]
        return self._law[tumour_type, drug]

    def effect(self, tumour_type: str, model: str, drug: str) -> np.ndarray:
        """Effect of a drug at the reference dose."""
        if (model, drug) in self._at_reference:
            return self._at_reference[model, drug][1]
        if (model, (drug,)) in self._effect:
            return self._effect[model, (drug,)]
        mean, spread = self._law_of(tumour_type, drug)
        if self._covariates is not None:
            mean = mean + self._shift(tumour_type, model, drug)
        if "responder_share" in self._draws:
            mean = mean + self._draws.get("responder_shift") * self._is_responder(model)
        return mean + spread * self._sampler.normal(f"effect of {drug} in model {model}")

    def _is_responder(self, model: str) -> np.ndarray:
        """Whether a PDX model is a common responder: 0 or 1, [D]."""
        if model not in self._responder:
            u = ndtr(self._sampler.normal(f"responder {model}"))
            self._responder[model] = (u < self._draws.get("responder_share")).astype(float)
        return self._responder[model]

    def _shift(self, tumour_type: str, model: str, drug: str) -> np.ndarray:
        """What the covariates of a PDX model add; of one that the table does not have, those of any of its type."""
        drug_class = self._priors.drug_class(drug)
        if self._covariates is not None and model in self._covariates.index:
            own = self._covariates.loc[model].to_numpy() - self._draws.covariate_mean(tumour_type)
            return self._draws.covariate_shift(drug_class, own)
        known = self._draws.centred_covariates(tumour_type)
        if not len(known):
            return np.zeros(self._draws.size)
        share = ndtr(self._sampler.normal(f"covariates of model {model}"))
        place = np.minimum((share * len(known)).astype(int), len(known) - 1)
        return self._draws.covariate_shift(drug_class, known[place])

    def _alone(self, tumour_type: str, model: str, drugs: tuple[str, ...]) -> np.ndarray:
        """Effect of each drug of an arm alone, at its dose, [D, drug]."""
        known = [(self.effect(tumour_type, model, drug), dose) for drug, dose in map(self._dose, drugs)]
        return np.stack([effect if dose is None else effect * dose for effect, dose in known], axis=1)

    def joint(self, tumour_type: str, model: str, drugs: tuple[str, ...]) -> np.ndarray:
        """Effect of an arm, [D]: as fitted where the model had it, else by the combination rule; 0 without drugs."""
        if (model, drugs) in self._effect and (self._rule is None or len(drugs) < 2):
            return self._effect[model, drugs]
        if len(drugs) < 2 or self._rule == "hsa":
            return self._alone(tumour_type, model, drugs).max(axis=1) if drugs else np.zeros(self._draws.size)
        if self._rule == "bliss":
            return self._alone(tumour_type, model, drugs).sum(axis=1)
        known = [self._dose(drug) for drug in drugs]
        substances, doses = tuple(drug for drug, _ in known), [strength for _, strength in known]
        single = [self.effect(tumour_type, model, drug) for drug in substances]
        phi, gamma, omega = pair_rule(substances, self._draws, self._sampler, self._priors)
        present = jnp.ones((self._draws.size, len(drugs)), bool)
        deviation = omega * self._sampler.normal(f"{substances} together in model {model}")
        effect = np.stack(single, axis=1)
        if all(dose is None for dose in doses):
            return np.asarray(_combine(effect, phi, gamma, present), float) + deviation
        one = np.ones_like(effect)
        scale = np.stack([one[:, 0] if dose is None else dose for dose in doses], axis=1)
        return np.asarray(_at_doses(effect, one, scale, one, phi, gamma, deviation, present), float)


_combine = jax.jit(combine)
_at_doses = jax.jit(jax.vmap(joint_effect))


@partial(jax.jit, static_argnames=("shape",))
def _respond(key, laws: MouseLaw, growth, effect, loss, ln_sigma, stopping: StoppingRule, *, shape: CurveShape):
    """Whether each of the new mice responds, [D, mice, pairs]."""
    day = stopping.gap_days * jnp.arange(NUM_MEASUREMENTS, dtype=jnp.float32)

    def one_draw(each):
        key, law, growth, effect, loss, ln_sigma = each

        def one_mouse_each(key):
            key_mouse, key_stop = jax.random.split(key)
            measured = log_volume(key_mouse, law, growth, effect, loss, ln_sigma, day, shape)
            valid = stay(key_stop, stopping, measured, day)
            read = partial(mrecist_curve, rule=MRECIST_PDXE)
            code = mrecist_class(*jax.vmap(read, in_axes=(0, None, 0))(jnp.exp(measured), day, valid))
            return (code == CR) | (code == PR)

        return jax.vmap(one_mouse_each)(jax.random.split(key, MICE_PER_DRAW))

    keys = jax.random.split(key, growth.shape[0])
    return jax.lax.map(one_draw, (keys, laws, growth, effect, loss, ln_sigma))


def observed_pairs(dataset: Dataset, pairs: pd.DataFrame) -> pd.DataFrame:
    """What the table's own mice did: `pairs` (tumour_type, pdx_model, arm) with `responds`, one row a mouse."""
    return pairs[list(COLUMNS)].merge(observed_response(dataset), on=list(COLUMNS), how="inner")
