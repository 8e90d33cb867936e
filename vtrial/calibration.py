"""What published trials of single drugs say about the translation from mouse to patient.

The translation is a tree: what all classes have in common -> class -> drug -> drug in a tumour type -> its trials,

    (s_0, l_0) -> (ln S_class, ln lambda_class) -> ln S_drug -> ln S_drug,type -> what every arm of it published
    r_0 ------------------------------------------------------> r_drug,type ->

with lambda one number a class and r the share of patients in whom the drug does nothing. Given mice, and the SDs
between drugs and between tumour types, every step is normal (of r on the logit), and the likelihood of an arm is known
over (ln S, ln lambda, r) from :mod:`vtrial.surfaces`. So the posterior needs no sampler: messages go up the tree, each
an integral over a grid of the product of those below it, and draws go down it, each from its exact conditional (belief
propagation; Pearl 1988). The two SDs and r_0 are summed over parts of their priors. An arm is

    L(s, l, r) = sum_v w_v Binomial(n; N, invlogit(F(s, l, r) + reader + line + v))

with F the logit of its simulated response rate and v the deviation of one trial (:mod:`vtrial.scoring`); a published
median is a normal observation of the logit of a share (:mod:`vtrial.medians`). All of this is done for each of J draws
of the mice and of all else that is not learnt (growth, exposure, reader, line, new lesions): trials move the
translation given the mice, never the mice. That is a cut posterior (Plummer 2015, Stat Comput 25:37).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, logsumexp, ndtr, ndtri

from vtrial.errors import InputError
from vtrial.priors import Entry, Priors

# steps of the grid of ln kill scale and of ln loss of effect, and how many SD of the priors it reaches at least
_STEPS = (0.1, 0.5)
_REACH = 4.0
# of the part that all classes share: nodes over 3.5 SD to either side
_COMMON_NODES = (29, 11)
# parts of the prior of an SD, between drugs and between tumour types of a drug, each with its root mean square as a
# node: narrow ones in the upper tail, where drugs that differ more than was thought would lie
_SD_PARTS = np.array([0.0, 0.4, 0.8, 0.97, 1.0])
_SD_NODES = len(_SD_PARTS) - 1
_SDS = ("drug_discrepancy", "drug_type_discrepancy")
# parts of the prior of the share of resistant patients that all drugs have in common, each with its middle as a node
_SHARE_PARTS = np.array([0.0, 0.2, 0.8, 1.0])
# step of the grid of the logit of that share for a drug in a tumour type, and how many SD it reaches
_LOGIT_STEP, _LOGIT_REACH = 0.6, 2.5


class Drug(NamedTuple):
    """A drug in a tumour type, of which something is to be learnt or predicted."""

    name: str
    drug_class: str
    tumour_type: str


class Grid(NamedTuple):
    """Evenly spaced values at which likelihoods are known."""

    ln_kill_scale: np.ndarray  # [S]
    ln_loss: np.ndarray  # [L], ln(1/day)


class Teacher(NamedTuple):
    """A published arm of one drug."""

    id: int
    drug: Drug
    log_likelihood: np.ndarray  # [Q, J, S, L] of what it published, by the share of resistant patients, on the grid


class Resistance(NamedTuple):
    """The share of patients in whom a drug does nothing, as the tree has it."""

    share: np.ndarray  # [Q], nodes, of a drug in a tumour type
    weight: np.ndarray  # [K, Q], their probabilities given each node of what all drugs have in common
    common: np.ndarray  # [K], nodes of that common share, as standard normals of its prior
    mass: np.ndarray  # [K], their prior probabilities
    z: np.ndarray  # [K, Q], standard normals behind the nodes of a drug in a tumour type


class Learnt(NamedTuple):
    """Draws of the translation after some trials, R for each draw of the mice, side by side."""

    normals: Mapping[str, np.ndarray]  # standard normal of `PriorSampler` by its name -> [J R]
    teachers: int  # arms learnt from


class _Normal(NamedTuple):
    """A normal prior; SD 0 where it is fixed."""

    name: str
    mean: float
    sd: float


class _Levels(NamedTuple):
    """Log messages on their way up, the sums of what is below each node of the tree."""

    cell: Mapping[Drug, np.ndarray]  # [Q, J, S, L], of all arms of a drug in a tumour type
    drug: Mapping[str, np.ndarray]  # [J, K, B, S, L], K and B nodes of the common share, of the SD between tumour types
    by_class: Mapping[str, np.ndarray]  # [J, K, A, B, S, L], A nodes of the SD between drugs
    top: np.ndarray  # [J, K, A, B, S0, L0]


class Calibration:
    """The posterior of the translation under any set of trials.

    Attributes
    ----------
    copies : int
        Draws R of the translation for every draw of the mice.
    """

    def __init__(
        self,
        seed: int,
        grid: Grid,
        teachers: Sequence[Teacher],
        drugs: Collection[Drug],
        priors: Priors,
        mice: int,
        copies: int,
    ):
        """Set up the tree.

        Parameters
        ----------
        seed
            Of the draws.
        grid
            Of the likelihoods, see :func:`grid_of`.
        teachers
            Published arms of one drug each.
        drugs
            All drugs in tumour types that are ever asked for, beside those of the teachers.
        priors
            Of the translation.
        mice, copies
            J and R.

        Raises
        ------
        InputError
            If a prior of the tree is not normal (of a loss of effect: log-normal) or fixed.
        """
        self._seed, self._mice, self.copies, self._teachers = seed, mice, copies, tuple(teachers)
        self._drugs = sorted({*drugs, *(t.drug for t in teachers)})
        self._classes = {drug.name: drug.drug_class for drug in self._drugs}
        self._kill, self._loss = grid
        self._common = _common_terms(priors)
        self._terms = {name: _class_terms(name, priors) for name in sorted(set(self._classes.values()))}
        self._sd, self._sd_z = zip(*(_sd_nodes(f"translation.{name}", priors) for name in _SDS), strict=True)
        self._step = [_transition(self._kill[:, None], sd, self._kill) for sd in self._sd]
        self._resistance = resistance_of(priors)
        self._nodes = [_nodes(common, size) for common, size in zip(self._common, _COMMON_NODES, strict=True)]
        self._to_class = {name: self._class_steps(terms) for name, terms in self._terms.items()}
        self._kept: dict[tuple[str, ...], np.ndarray] = {}

    def _class_steps(self, terms: tuple[_Normal, _Normal, _Normal]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities [S0, S] and [L0, L] of the nodes of a class given the nodes of what all have in common."""
        scale, discrepancy, loss = terms
        sd = np.array([np.hypot(scale.sd, discrepancy.sd)])
        steps = _transition(self._nodes[0][:, None] + scale.mean + discrepancy.mean, sd, self._kill)[0]
        return steps, _transition(self._nodes[1][:, None] + loss.mean, np.array([loss.sd]), self._loss)[0]

    # ------------------------------------------------------------------------------------------------ up

    def _levels(self, hidden: frozenset[int]) -> _Levels:
        cell = {drug: self._cell(drug, hidden) for drug in self._drugs}
        by_drug = {name: self._drug(name, hidden, cell) for name in self._classes}
        by_class = {name: self._class(name, hidden, by_drug) for name in self._terms}
        nodes = zip(self._common, self._nodes, strict=True)
        prior = [-0.5 * ((x - c.mean) / (c.sd or 1.0)) ** 2 for c, x in nodes]
        weight, shares = np.log(np.diff(_SD_PARTS)), np.log(self._resistance.mass)
        top = np.add.outer(np.add.outer(shares, np.add.outer(weight, weight)), np.add.outer(*prior))[None]
        for name, values in by_class.items():
            if self._seen(hidden, name):
                steps = self._to_class[name]
                message = self._memo(("common", name), name, hidden, lambda v=values, s=steps: _up(v, *s))
                top = top + message
        return _Levels(cell, by_drug, by_class, np.broadcast_to(top, (self._mice, *top.shape[1:])))

    def _seen(self, hidden: frozenset[int], drug_class: str, name: str | None = None) -> bool:
        """Whether a class, or a drug of it, has an arm that may be seen."""
        own = (t for t in self._teachers if t.drug.drug_class == drug_class and name in (None, t.drug.name))
        return any(t.id not in hidden for t in own)

    def _memo(self, key: tuple[str, ...], drug_class: str, hidden: frozenset[int], made: Callable[[], np.ndarray]):
        """A message of a class or of a drug of it; kept where none of its arms is hidden, as most trials touch one."""
        if any(t.id in hidden for t in self._teachers if t.drug.drug_class == drug_class):
            return made()
        if key not in self._kept:
            self._kept[key] = made()
        return self._kept[key]

    def _cell(self, drug: Drug, hidden: frozenset[int]) -> np.ndarray:
        flat = np.zeros((len(self._resistance.share), 1, len(self._kill), len(self._loss)))
        return sum((t.log_likelihood for t in self._teachers if t.drug == drug and t.id not in hidden), start=flat)

    def _drug(self, name: str, hidden: frozenset[int], cell: Mapping[Drug, np.ndarray]) -> np.ndarray:
        def made() -> np.ndarray:
            total = np.zeros((1, len(self._resistance.mass), _SD_NODES, len(self._kill), len(self._loss)))
            for drug in self._drugs:
                if drug.name == name and any(t.drug == drug and t.id not in hidden for t in self._teachers):
                    total = total + _log_matmul(self._step[1], self._over_shares(cell[drug]))
            return total

        return self._memo(("drug", name), self._classes[name], hidden, made)

    def _over_shares(self, cell: np.ndarray) -> np.ndarray:
        """Log likelihood [J, K, S, L] of a cell given what all drugs have in common of the share of the resistant."""
        top = cell.max(axis=0)
        each = np.einsum("kq,qjsl->jksl", self._resistance.weight, np.exp(cell - top))
        return np.log(each + 1e-300) + top[:, None]

    def _class(self, drug_class: str, hidden: frozenset[int], by_drug: Mapping[str, np.ndarray]) -> np.ndarray:
        def made() -> np.ndarray:
            nodes = (len(self._resistance.mass), _SD_NODES, _SD_NODES)
            total = np.zeros((1, *nodes, len(self._kill), len(self._loss)))
            for name, values in by_drug.items():
                if self._classes[name] == drug_class and self._seen(hidden, drug_class, name):
                    total = total + _log_matmul(self._step[0], values)
            return total

        return self._memo(("class", drug_class), drug_class, hidden, made)

    # ------------------------------------------------------------------------------------------------ down

    def learnt(self, left_out: Collection[int]) -> Learnt:
        """Draws after all trials but the arms of these ids; of the prior where nothing is left to learn from."""
        hidden = frozenset(left_out) & {t.id for t in self._teachers}
        levels, rng = self._levels(hidden), np.random.default_rng([self._seed, *sorted(hidden)])
        j = np.repeat(np.arange(self._mice), self.copies)
        # one uniform an ancestor: the R draws of a mouse are spread evenly over it, in an order of its own
        place = _choose(rng, levels.top.reshape(self._mice, -1), self.copies)
        k, a, b, s0, l0 = np.unravel_index(place, levels.top.shape[1:])
        common = self._nodes[0][s0], self._nodes[1][l0]
        found = {
            f"prior {term.name}": _standard(value, term.mean, term.sd)
            for term, value in zip(self._common, common, strict=True)
        }
        found["prior translation.drug_discrepancy"], found["prior translation.drug_type_discrepancy"] = (
            self._sd_z[0][a],
            self._sd_z[1][b],
        )
        found["prior translation.resistant_share"] = self._resistance.common[k]
        of_class: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, (scale, discrepancy, loss) in self._terms.items():
            steps, up = self._to_class[name], levels.by_class[name]
            mass = np.log(steps[0])[s0][:, :, None] + np.log(steps[1])[l0][:, None, :] + up[j % len(up), k, a, b]
            at = divmod(_choose(rng, mass.reshape(len(j), -1), 1), mass.shape[2])
            of_class[name] = at
            rest = self._kill[at[0]] - common[0] - scale.mean - discrepancy.mean
            first, second = _split(rng, rest, scale.sd, discrepancy.sd)
            found[f"prior {scale.name} {name}"] = _standard(first, 0.0, scale.sd)
            found[f"prior {discrepancy.name} {name}"] = _standard(second, 0.0, discrepancy.sd)
            found[f"prior {loss.name} {name}"] = _standard(self._loss[at[1]] - common[1], loss.mean, loss.sd)
        of_drug: dict[str, np.ndarray] = {}
        for name, drug_class in sorted(self._classes.items()):
            at, up = of_class[drug_class], levels.drug[name]
            of_drug[name] = _choose(rng, np.log(self._step[0])[a, at[0]] + up[j % len(up), k, b, :, at[1]], 1)
            moved = self._kill[of_drug[name]] - self._kill[at[0]]
            found[f"discrepancy {name}"] = _standard(moved, 0.0, self._sd[0][a])
        for drug in self._drugs:
            at, up = of_class[drug.drug_class], levels.cell[drug]
            said = self._over_shares(up)
            here = _choose(rng, np.log(self._step[1])[b, of_drug[drug.name]] + said[j % len(said), k, :, at[1]], 1)
            moved = self._kill[here] - self._kill[of_drug[drug.name]]
            found[f"discrepancy {drug.name} in {drug.tumour_type}"] = _standard(moved, 0.0, self._sd[1][b])
            share = np.log(self._resistance.weight + 1e-300)[k] + up[:, j % up.shape[1], here, at[1]].T
            found[f"resistance {drug.name} in {drug.tumour_type}"] = self._resistance.z[k, _choose(rng, share, 1)]
        return Learnt(found, len(self._teachers) - len(hidden))


def _normal(entry: Entry, family: str = "normal") -> _Normal:
    p = entry.parameters
    if entry.family == "fixed":
        return _Normal(entry.name, float(np.log(p["value"])) if family == "lognormal" else p["value"], 0.0)
    if entry.family != family:
        raise InputError(
            f"a prior of family {entry.family} cannot learn from trials; allowed here: {family}, fixed", key=entry.name
        )
    if family == "lognormal":
        return _Normal(entry.name, float(np.log(p["median"])), p["sigma"])
    return _Normal(entry.name, p["loc"], p["scale"])


def _class_terms(drug_class: str, priors: Priors) -> tuple[_Normal, _Normal, _Normal]:
    """Kill scale, discrepancy and ln loss of effect of a class about what all classes have in common."""
    scale, discrepancy, loss = (
        priors.resolve(f"translation.{name}", drug_class)
        for name in ("ln_kill_scale", "class_discrepancy", "loss_of_effect")
    )
    return _normal(scale), _normal(discrepancy), _normal(loss, "lognormal")


def _sd_nodes(name: str, priors: Priors) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of an SD in every part of its prior, and its place there as a standard normal."""
    probability = (np.arange(20_000) + 0.5) / 20_000
    value = np.broadcast_to(np.asarray(priors.quantile(name, probability), float), probability.shape)
    part = np.searchsorted(_SD_PARTS, probability) - 1
    node = np.sqrt(np.bincount(part, value**2) / np.bincount(part))
    return node, ndtri(np.interp(node, value, probability)) if np.ptp(value) else np.zeros(_SD_NODES)


def resistance_of(priors: Priors) -> Resistance:
    """Nodes and probabilities of the share of resistant patients; one node where it is fixed for all drugs.

    Raises
    ------
    InputError
        If the SD between drugs in tumour types is not fixed.
    """
    name = "translation.resistant_logit_sd"
    entry = priors.entry(name)
    if entry.family != "fixed":
        raise InputError(f"a prior of family {entry.family} cannot learn from trials; allowed here: fixed", key=name)
    middle = 0.5 * (_SHARE_PARTS[1:] + _SHARE_PARTS[:-1])
    common = np.broadcast_to(np.asarray(priors.quantile("translation.resistant_share", middle), float), middle.shape)
    z, mass, sd = ndtri(middle), np.diff(_SHARE_PARTS), entry.parameters["value"]
    if np.ptp(common) == 0.0:
        common, z, mass = common[:1], np.zeros(1), np.ones(1)
    if sd == 0.0 or common[0] == 0.0:
        return Resistance(common, np.eye(len(common)), z, mass, np.zeros((len(common), len(common))))
    centre, reach = logit(common), _LOGIT_REACH * sd
    steps = int(np.ceil((np.ptp(centre) + 2 * reach) / min(_LOGIT_STEP, sd)))
    nodes = np.linspace(centre[0] - reach, centre[-1] + reach, steps + 1)
    edges = np.concatenate([[-np.inf], 0.5 * (nodes[1:] + nodes[:-1]), [np.inf]])
    weight = np.diff(ndtr((edges - centre[:, None]) / sd), axis=1)
    return Resistance(expit(nodes), weight, z, mass, (nodes - centre[:, None]) / sd)


def _common_terms(priors: Priors) -> list[_Normal]:
    """What all classes have in common: ln kill scale and ln loss of effect."""
    names = ("ln_kill_scale_common", "ln_loss_of_effect_common")
    return [_normal(priors.entry(f"translation.{name}")) for name in names]


def grid_of(classes: Collection[str], priors: Priors) -> Grid:
    """The grid for drugs of these classes: at least four SD of their priors to either side.

    The SDs between drugs and tumour types count with all their nodes alike, wide ones too.

    Raises
    ------
    InputError
        As :class:`Calibration`.
    """
    common, spread = _common_terms(priors), sum(np.mean(_sd_nodes(f"translation.{n}", priors)[0] ** 2) for n in _SDS)
    ends: tuple[list[float], list[float]] = ([], [])
    for name in sorted(classes):
        scale, discrepancy, loss = _class_terms(name, priors)
        kill_sd = np.sqrt(common[0].sd ** 2 + scale.sd**2 + discrepancy.sd**2 + spread)
        loss_sd = np.hypot(common[1].sd, loss.sd)
        sums = (common[0].mean + scale.mean + discrepancy.mean, kill_sd), (common[1].mean + loss.mean, loss_sd)
        for end, (mean, sd), step in zip(ends, sums, _STEPS, strict=True):
            # at least two steps, where all of it is fixed
            reach = max(_REACH * sd, 2 * step)
            end += [mean - reach, mean + reach]
    nodes = (
        min(end) + step * np.arange(1 + int(np.ceil((max(end) - min(end)) / step)))
        for end, step in zip(ends, _STEPS, strict=True)
    )
    return Grid(*nodes)


def _nodes(common: _Normal, size: int) -> np.ndarray:
    """Nodes over 3.5 SD to either side; one where it is fixed."""
    if common.sd == 0.0:
        return np.array([common.mean])
    return common.mean + common.sd * np.linspace(-3.5, 3.5, size)


def _transition(centre: np.ndarray, sd: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Probabilities [N, C, S] of evenly spaced nodes [S] under normals of N SDs about centres [C, 1].

    An SD below half a step would leave all mass between two nodes: it is taken as half a step, which keeps the mean.
    An SD of 0 stays on the nearest node.
    """
    step = nodes[1] - nodes[0]
    sd = np.where(sd == 0.0, 1e-3 * step, np.maximum(sd, 0.5 * step))[:, None, None]
    density = -0.5 * ((nodes[None, None, :] - centre[None]) / sd) ** 2
    # a floor: where all nodes are too far, the nearest ones share the mass
    mass = np.exp(density - density.max(-1, keepdims=True)) + 1e-300
    return mass / mass.sum(-1, keepdims=True)


def _log_matmul(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``ln sum_s steps[n, r, s] exp(values[j, k, ..., s, l])``, [j, k, n, ..., r, l], in one product of matrices."""
    top = values.max(axis=(-2, -1), keepdims=True)
    found = np.moveaxis(np.tensordot(np.exp(values - top), steps, axes=([-2], [-1])), (-2, -1), (2, -2))
    return np.log(found + 1e-300) + top[:, :, None]


def _up(values: np.ndarray, kill: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Message of a class to what all have in common: integrals over its ln kill scale and its ln loss of effect."""
    top = values.max(axis=(-2, -1), keepdims=True)
    return np.log(kill @ np.exp(values - top) @ loss.T + 1e-300) + top


def _choose(rng: np.random.Generator, log_mass: np.ndarray, copies: int) -> np.ndarray:
    """Indices [rows copies] drawn with these log masses [rows, n]; several of a row stratified, in random order."""
    below = np.cumsum(np.exp(log_mass - logsumexp(log_mass, axis=1, keepdims=True)), axis=1)
    rows = len(below)
    place = (np.arange(copies) + rng.uniform(size=(rows, copies))) / copies
    place = rng.permuted(place, axis=1) * below[:, -1:]
    return (
        (below[:, None, :] < place[:, :, None]).sum(-1).ravel()
        if copies == 1
        else np.concatenate([np.searchsorted(row, at) for row, at in zip(below, place, strict=True)])
    )


def _split(rng: np.random.Generator, total: np.ndarray, one: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """Two independent normals of mean 0 and these SDs, given their sum."""
    variance = one**2 + other**2
    if variance == 0.0:
        return np.zeros_like(total), np.zeros_like(total)
    first = total * one**2 / variance + one * other / np.sqrt(variance) * rng.standard_normal(len(total))
    return first, total - first


def _standard(value: np.ndarray, mean: float, sd: float | np.ndarray) -> np.ndarray:
    """Standard normals behind normals; 0 where the SD is."""
    fixed = np.equal(sd, 0.0)
    return np.where(fixed, 0.0, (value - mean) / np.where(fixed, 1.0, sd))
