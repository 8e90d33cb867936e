"""Priors as data: YAML entries with source and certainty, checked, laid over each other, turned into distributions.

A prior is an *entry*, a mapping of family, parameters, unit, source, certainty and note; its name is the path of keys
that leads to it, such as ``translation.growth_exponent``. The shipped folder is read first, then the overlays of an
experiment in their order: an entry of the same name replaces the earlier one whole, another is added. Drugs and
published arms (``trials``) are facts beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtrial.errors import InputError
from vtrial.priors_entry import FAMILIES, DrugInfo, Entry, Pk, TrialArm
from vtrial.priors_file import SECTIONS, Reading, plain_name, yaml_files
from vtrial.yamlfile import nearest, shown

if TYPE_CHECKING:
    from numpyro.distributions import Distribution

__all__ = [
    "FAMILIES",
    "SECTIONS",
    "ClassPair",
    "DrugInfo",
    "Entry",
    "Pk",
    "Priors",
    "TrialArm",
    "load_priors",
    "shipped_folder",
]


class ClassPair(NamedTuple):
    """Entries of the combination rule for two mechanism classes: their own where given, else the default."""

    name: str
    phi: Entry
    phi_spread: Entry
    gamma: Entry
    gamma_spread: Entry
    between_models: Entry


@dataclass(frozen=True)
class Priors:
    """All priors of a run.

    Attributes
    ----------
    entries : mapping of str to Entry
        By name, in the order read.
    drugs : mapping of str to DrugInfo
        By the drug's own name; :meth:`drug` also knows code names.
    trials : tuple of TrialArm
        Published arms, by id.
    files : tuple of Path
        Files in the order read.
    changes : tuple of str
        What the overlays replaced or added, one line each.
    sha256 : str
        Hash over names and contents of the files.
    """

    entries: Mapping[str, Entry]
    drugs: Mapping[str, DrugInfo]
    trials: tuple[TrialArm, ...]
    files: tuple[Path, ...]
    changes: tuple[str, ...]
    sha256: str
    _drug_names: Mapping[str, str] = field(repr=False)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of all entries, or of those below a prefix such as "patients.LGSOC"."""
        return tuple(name for name in self.entries if not prefix or name == prefix or name.startswith(prefix + "."))

    def entry(self, name: str) -> Entry:
        """The entry of that name.

        Raises
        ------
        InputError
            Where there is none, with the nearest name.
        """
        if name not in self.entries:
            raise InputError(f"there is no prior of this name{nearest(name, self.entries)}", key=name)
        return self.entries[name]

    def distribution(self, name: str) -> Distribution:
        """NumPyro distribution of an entry; ``a.ln_b`` is the normal logarithm of a log-normal entry ``a.b``."""
        if (logged := self._logged(name)) is None:
            return self.entry(name).distribution()
        import numpyro.distributions as dist

        return dist.Normal(math.log(logged.parameters["median"]), logged.parameters["sigma"])

    def quantile(self, name: str, probability: float | np.ndarray) -> Any:
        """Quantiles of an entry, without JAX; names as for :meth:`distribution`."""
        if (logged := self._logged(name)) is None:
            return self.entry(name).quantile(probability)
        return np.log(logged.quantile(probability))

    def _logged(self, name: str) -> Entry | None:
        """The log-normal entry ``a.b`` of a name ``a.ln_b`` that has no entry of its own."""
        head, _, last = name.rpartition(".")
        own = self.entries.get(f"{head}.{last.removeprefix('ln_')}")
        is_log = name not in self.entries and last.startswith("ln_") and own is not None and own.family == "lognormal"
        return own if is_log else None

    def content(self, names: Iterable[str]) -> list[list[object]]:
        """Family and parameters behind each name: what decides the numbers of whoever reads these priors."""
        found = []
        for name in names:
            head, _, last = name.rpartition(".")
            entry = self.entries.get(name) or self.entry(f"{head}.{last.removeprefix('ln_')}")
            found.append([name, entry.family, dict(entry.parameters)])
        return found

    def distributions(self, names: Iterable[str]) -> dict[str, Distribution]:
        """Distributions of several entries by name."""
        return {name: self.distribution(name) for name in names}

    def resolve(self, prefix: str, group: str, suffix: str = "") -> Entry:
        """The entry of a group, or that of ``default``: ``resolve("patients", "LGSOC", "missed_visit")``."""
        ends = f".{suffix}" if suffix else ""
        own = f"{prefix}.{group}{ends}"
        return self.entries[own] if own in self.entries else self.entry(f"{prefix}.default{ends}")

    def covariate(self, name: str, drug_class: str) -> Entry:
        """The effect of a covariate on that of a class in a fit: its own entry, the covariate's, or that of any."""
        keys = (f"{name}.{drug_class}", f"{name}.default", "default.default")
        return next(self.entries[f"covariates.{key}"] for key in keys if f"covariates.{key}" in self.entries)

    def drug(self, name: str) -> DrugInfo:
        """The drug of a name or code name, whatever its case, hyphens and spaces.

        Raises
        ------
        InputError
            Where no drug has it, with the nearest name.
        """
        own = self._drug_names.get(plain_name(name))
        if own is None:
            every = [*self.drugs, *(code for drug in self.drugs.values() for code in drug.code_names)]
            write = f"write `drugs: {{{shown(name)}: {{drug_class: CLASS}}}}` into a file under `priors`"
            raise InputError(f"unknown drug {shown(name)}{nearest(name, every)}; {write}")
        return self.drugs[own]

    def with_drugs(self, classes: Mapping[str, str]) -> Priors:
        """These priors with drugs that they do not know, by name and class, such as those of ``fit.drug_classes``."""
        new = {name: of for name, of in classes.items() if plain_name(name) not in self._drug_names}
        infos = {name: DrugInfo(name, drug_class, (), "", None) for name, drug_class in new.items()}
        names = {plain_name(name): name for name in new}
        return replace(self, drugs={**self.drugs, **infos}, _drug_names={**self._drug_names, **names})

    def drug_class(self, drug: str) -> str:
        """Mechanism class of a drug, by any of its names."""
        return self.drug(drug).drug_class

    def drug_classes(self) -> dict[str, str]:
        """Mechanism class by every name a drug has, spelt as in the files."""
        return {name: drug.drug_class for drug in self.drugs.values() for name in (drug.name, *drug.code_names)}

    def class_pair(self, a: str, b: str, *, mechanistic: bool = False) -> ClassPair:
        """Combination rule of two classes, in either order.

        ``mechanistic`` lets the entries of ``class_pairs_mechanistic`` go first: a labelled sensitivity, whose authors
        knew the trials that it would help to predict.
        """
        name, *others = (" x ".join(sorted((a, b), reverse=reverse)) for reverse in (False, True))
        sections = ("class_pairs_mechanistic", "class_pairs") if mechanistic else ("class_pairs",)
        keys = [f"{section}.{pair}" for section in sections for pair in (name, *others)]

        def first(suffix: str) -> Entry:
            own = (self.entries.get(f"{key}.{suffix}") for key in keys)
            return next((entry for entry in own if entry), None) or self.entry(f"class_pairs.default.{suffix}")

        return ClassPair(name, *(first(suffix) for suffix in ClassPair._fields[1:]))


def shipped_folder() -> Path:
    """Folder of the shipped priors: in the package where it was installed, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "_priors"
    return inside if inside.is_dir() else package.parent / "priors"


def load_priors(paths: Sequence[Path] = ()) -> Priors:
    """Read the shipped priors and the overlays, each a YAML file or a folder of them, in the order given.

    Raises
    ------
    InputError
        The first fault, with file, line, key and what is allowed.
    """
    reading = Reading()
    for layer, path in enumerate((shipped_folder(), *map(Path, paths))):
        for file in yaml_files(path):
            reading.read(file, layer)
    return Priors(*reading.finished())
