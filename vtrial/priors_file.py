"""Priors files -> checked entries, drugs and arms, each layer of files laid over the earlier ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from vtrial.errors import InputError
from vtrial.priors_entry import DrugFields, DrugInfo, Entry, EntryFields, Pk, TrialArm
from vtrial.yamlfile import KeyPath, YamlDocument, nearest, read_yaml, shown, validated

SECTIONS = (
    "growth",
    "drugs",
    "classes",
    "covariates",
    "dose_response",
    "class_pairs",
    "class_pairs_mechanistic",
    "translation",
    "patients",
    "engagement",
    "trials",
)
# One key below these is the name of a mechanism class (or `default`); a misspelt one would never be read.
_BY_CLASS = (
    "classes",
    "engagement",
    "translation.ln_kill_scale",
    "translation.loss_of_effect",
    "translation.class_discrepancy",
)
_ABOVE_ZERO = ("lognormal", "halfnormal", "beta")
_BY_PAIR = ("class_pairs", "class_pairs_mechanistic")
Checked = TypeVar("Checked", bound=BaseModel)


class _TrialsFile(BaseModel):
    trials: Annotated[
        tuple[TrialArm, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
    ]


class Content(NamedTuple):
    """All that the files hold, in the order of the fields of `vtrial.priors.Priors`."""

    entries: Mapping[str, Entry]
    drugs: Mapping[str, DrugInfo]
    trials: tuple[TrialArm, ...]
    files: tuple[Path, ...]
    changes: tuple[str, ...]
    sha256: str
    drug_names: Mapping[str, str]


class Reading:
    """What has been read so far."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.drugs: dict[str, dict[str, Any]] = {}
        self.arms: dict[int, TrialArm] = {}
        self.seen: dict[tuple[int, str], Path] = {}  # (layer, name) -> file
        self.place: dict[str, tuple[YamlDocument, KeyPath]] = {}
        self.files: list[Path] = []
        self.changes: list[str] = []
        self.digest = hashlib.sha256()

    def read(self, file: Path, layer: int) -> None:
        """Read one file of a layer; a name may stand once in a layer, and replaces that of an earlier one."""
        document = read_yaml(file)
        self.digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        self.files.append(file)
        for section, value in document.data.items():
            if section not in SECTIONS:
                what = f"unknown section{nearest(section, SECTIONS)} (sections are {', '.join(SECTIONS)})"
                raise document.error(what, (section,))
            if section == "trials":
                self._arms(document, layer)
            elif not isinstance(value, dict) or not value:
                raise document.error(f"must be a mapping of names to entries, found {shown(value)}", (section,))
            elif section == "drugs":
                for name, drug in value.items():
                    self._drug(document, layer, name, drug)
            else:
                self._walk(document, layer, (section,), value)

    def _walk(self, document: YamlDocument, layer: int, path: KeyPath, value: Any) -> None:
        if not isinstance(value, dict) or not value:
            what = f"must be an entry ({', '.join(EntryFields.model_fields)}) or a group of them"
            raise document.error(f"{what}, found {shown(value)}", path)
        is_entry = any(name in value for name in EntryFields.model_fields)
        if len(path) == 1 or (not is_entry and any(isinstance(below, dict) for below in value.values())):
            for key, below in value.items():
                self._walk(document, layer, (*path, key), below)
            return
        self._entry(document, layer, path, _checked(EntryFields, document, path, value))

    def _entry(self, document: YamlDocument, layer: int, path: KeyPath, fields: EntryFields) -> None:
        name = ".".join(map(str, path))
        self._note_change(document, layer, path)
        old = self.entries.get(name)
        if old is not None and fields.unit != old.unit:
            what = f"must be {old.unit!r}, the unit of the entry that it replaces ({old.file.name})"
            raise document.error(f"{what}, found {shown(fields.unit)}", (*path, "unit"))
        values = fields.model_dump()
        values["parameters"] = MappingProxyType(values["parameters"])
        self.entries[name] = Entry(name, **values, file=document.file, line=document.line(path))

    def _drug(self, document: YamlDocument, layer: int, name: str, value: Any) -> None:
        path: KeyPath = ("drugs", name)
        drug = _checked(DrugFields, document, path, value)
        self._note_change(document, layer, path)
        merged = self.drugs.setdefault(name, {"reference": None})
        merged |= {key: getattr(drug, key) for key in drug.model_fields_set - {"pk"}}
        for key in drug.pk.model_fields_set if drug.pk else ():
            given = getattr(drug.pk, key)
            if key in ("reference", "route", "effect"):
                merged[key] = given
            elif given is not None:
                self._entry(document, layer, (*path, "pk", key), given)

    def _arms(self, document: YamlDocument, layer: int) -> None:
        only = YamlDocument(document.file, {"trials": document.data["trials"]}, document.lines)
        for index, arm in enumerate(validated(_TrialsFile, only).trials):
            # The shown path counts items; the name that overlays replace by is the id.
            self._note_change(document, layer, ("trials", index), name=f"trials.{arm.id}")
            self.arms[arm.id] = arm

    def _note_change(self, document: YamlDocument, layer: int, path: KeyPath, name: str = "") -> None:
        """Refuse a second definition within a layer, and write down what a later layer does."""
        name = name or ".".join(map(str, path))
        if (layer, name) in self.seen:
            raise document.error(f"{name} is given twice (also in {self.seen[layer, name].name}); keep one", path)
        self.seen[layer, name] = document.file
        if layer:
            verb = "changed" if name in self.place else "added"
            self.changes.append(f"{name} {verb} by {document.file}:{document.line(path)}")
        self.place[name] = (document, path)

    def finished(self) -> Content:
        """Check what no single file can show, and return all of it."""
        drugs = {name: self._finished_drug(name, merged) for name, merged in self.drugs.items()}
        known: dict[str, str] = {}
        for drug in drugs.values():
            for name in (drug.name, *drug.code_names):
                if (other := known.setdefault(plain_name(name), drug.name)) != drug.name:
                    what = f"{name!r} is a name of {other} as well; use that drug, or drop the name"
                    raise self._error(f"drugs.{drug.name}", what)
        classes = {drug.drug_class for drug in drugs.values()}
        for name, entry in self.entries.items():
            self._check_class(name, classes)
            if name.startswith("classes.") and name.endswith(".new_lesion_hazard_ratio"):
                self._check_above_zero(entry)
            drug = name.split(".", 2)[2] if name.startswith("engagement.") else "default"
            if drug != "default" and plain_name(drug) not in known:
                raise self._error(name, f"unknown drug {shown(drug)}{nearest(drug, known)}; or `default`")
        for arm in self.arms.values():
            for drug in arm.drugs:
                if plain_name(drug) not in known:
                    what = f"unknown drug {shown(drug)}{nearest(drug, known)}; add it under `drugs` in a priors file"
                    raise self._error(f"trials.{arm.id}", what, "drugs", drug)
            for other in arm.overlaps:
                if other not in self.arms or other == arm.id:
                    raise self._error(f"trials.{arm.id}", f"must be ids of other arms, found {other}", "overlaps")
        return Content(
            MappingProxyType(self.entries),
            MappingProxyType(drugs),
            tuple(self.arms[key] for key in sorted(self.arms)),
            tuple(self.files),
            tuple(self.changes),
            self.digest.hexdigest(),
            MappingProxyType(known),
        )

    def _finished_drug(self, name: str, merged: dict[str, Any]) -> DrugInfo:
        if not merged.get("drug_class"):
            raise self._error(f"drugs.{name}", "lacks drug_class, the mechanism class")
        parts = {key: self.entries.get(f"drugs.{name}.pk.{key}") for key in Pk._fields}
        parts |= {key: merged[key] for key in ("reference", "route", "effect") if key in merged}
        parts = {key: part for key, part in parts.items() if part is not None}
        missing = [key for key in Pk.needed() if key not in parts]
        if missing and parts:
            raise self._error(f"drugs.{name}", f"lacks {', '.join(missing)} (pk takes {', '.join(Pk._fields)})", "pk")
        if ("distribution_half_life" in parts) != ("distribution_share" in parts):
            both = "must have both distribution_half_life and distribution_share, or neither"
            raise self._error(f"drugs.{name}", both, "pk")
        reference = merged.get("reference")
        if reference is not None and reference.infusion is not None and merged.get("route") != "intravenous":
            raise self._error(f"drugs.{name}", "has an infusion, which needs route: intravenous", "pk", "reference")
        pk = None if missing else Pk(**parts)  # pyright: ignore[reportArgumentType]
        return DrugInfo(name, merged["drug_class"], merged.get("code_names", ()), merged.get("note", ""), pk)

    def _check_above_zero(self, entry: Entry) -> None:
        if entry.family not in _ABOVE_ZERO and not entry.quantile(0.0) > 0.0:
            what = f"is a hazard ratio and must be above 0; a draw of this {entry.family} may not be. Take a lognormal"
            raise self._error(entry.name, what)

    def _check_class(self, name: str, classes: set[str]) -> None:
        covariate = ".".join(name.split(".")[:2]) if name.startswith("covariates.") else ""
        for prefix in (*_BY_CLASS, *_BY_PAIR, *filter(None, [covariate])):
            if not name.startswith(prefix + "."):
                continue
            group = name.removeprefix(prefix + ".").partition(".")[0]
            pair = prefix in _BY_PAIR
            parts = group.split(" x ") if pair else [group]
            wrong = [part for part in parts if part not in classes]
            if group != "default" and (wrong or (pair and len(parts) != 2)):
                form = "default, or two classes as in 'FAK x RAF/MEK'" if pair else "default, or the class of a drug"
                near = nearest(wrong[0], classes) if wrong else ""
                raise self._error(name, f"{group!r} must be {form}{near}")

    def _error(self, name: str, message: str, *below: str) -> InputError:
        document, path = self.place[name]
        return document.error(message, (*path, *below))


def _checked(model: type[Checked], document: YamlDocument, path: KeyPath, value: Any) -> Checked:
    """Check a part of a document; the error names the whole key."""
    if not isinstance(value, dict):
        raise document.error(f"must be a mapping of {', '.join(model.model_fields)}, found {shown(value)}", path)
    try:
        return model.model_validate(value)
    except ValidationError:
        lines = {key[len(path) :]: line for key, line in document.lines.items() if key[: len(path)] == path}
    try:
        return validated(model, YamlDocument(document.file, value, lines))
    except InputError as error:
        key = ".".join((*map(str, path), *((error.key,) if error.key else ())))
        raise InputError(error.message, file=error.file, line=error.line, key=key) from None


def yaml_files(path: Path) -> list[Path]:
    """The file itself, or the YAML files of a folder by name."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError("holds no .yaml file; a priors file or a folder of them is needed", file=path)
    return files


def plain_name(name: str) -> str:
    """A drug name without case, hyphens and spaces, as names are compared."""
    return re.sub(r"[\s_-]+", "", name.casefold())
