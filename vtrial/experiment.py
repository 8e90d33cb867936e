"""The experiment file: YAML -> `Experiment` with the line of every fault, back to YAML, and the keys of a run; no jax.

Order of settings, later over earlier: the file; with ``--quick`` the built-in quick settings and then the file's own
``quick`` section; ``--set`` on the command line.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtrial.config import Experiment
from vtrial.errors import InputError
from vtrial.yamlfile import KeyPath, YamlDocument, dump_yaml, nearest, parse_yaml_value, read_yaml, validated

QUICK: dict[str, Any] = {
    "fit": {
        "warmup": 150,
        "draws": 150,
        "block": 150,
        "chains": 2,
        "svi_steps": 500,
        "gates": {
            "rhat": 1.2,
            "ess_bulk": 20.0,
            "ess_tail": 20.0,
            "rhat_pdx_model": 1.5,
            "divergences": 0.1,
            "max_tree_depth_share": 1.0,
        },
    },
    "mice": {"replicates": 50},
    "trial": {"draws": 100, "patients": 500},
}


def load_experiment(path: str | os.PathLike[str], overrides: Sequence[str] = (), quick: bool = False) -> Experiment:
    """Read an experiment file, lay the quick settings and the overrides over it, and check it.

    Parameters
    ----------
    path : path
        The experiment file.
    overrides : sequence of str
        Texts ``a.b=c``; the value is YAML, a list is entered by index or name
        (``trial.cohorts.0.arms.1.num_patients=30``, ``trial.cohorts.ovarian.arms.T 2 mg.num_patients=30``). A
        ``schedule`` takes the place of all that it stands for.
    quick : bool
        Whether the quick settings are laid over the file.

    Raises
    ------
    InputError
        The first fault with its file, line and key. The file's own ``quick`` section is checked with or without
        ``quick``, so that a fault in it does not wait for its first use.
    """
    written = read_yaml(path)
    for text in overrides:
        written = _overridden(written, text)
    experiment = validated(Experiment, written)
    if quick or experiment.quick:
        document = _laid_over(written, QUICK, ())
        document = _laid_over(document, experiment.quick, ("quick",))
        for text in overrides:
            document = _overridden(document, text)
        quick_experiment = validated(Experiment, document)
        experiment = quick_experiment if quick else experiment
    return _placed(experiment, written.file, quick)


def load_resolved(path: str | os.PathLike[str], quick: bool = False, overrides: Sequence[str] = ()) -> Experiment:
    """Read what `resolved_yaml` wrote, with only `overrides` laid over it; ``quick``: it came from a quick run."""
    document = read_yaml(path)
    for text in overrides:
        document = _overridden(document, text)
    return _placed(validated(Experiment, document), Path(path), quick)


def with_settings(experiment: Experiment, settings: Mapping[str, Any], said: str) -> Experiment:
    """Lay settings over an experiment, mappings key by key, lists whole; faults name `said` as where they stand."""
    written = parse_yaml_value(resolved_yaml(experiment), said)
    document = _laid_over(YamlDocument(Path(said), written, {}), settings, ())
    return _placed(validated(Experiment, document), experiment.file, experiment.is_quick)


def resolved_yaml(experiment: Experiment, relative_to: str | os.PathLike[str] | None = None) -> str:
    """Write the whole experiment with every default as YAML, in the order of the models.

    With ``relative_to`` (the folder the text will lie in) relative paths are rewritten so that they hold there.
    """
    data = _plain(experiment.model_dump(mode="python"))
    if relative_to is not None:

        def moved(written: str) -> str:
            if os.path.isabs(written):
                return written
            return Path(os.path.relpath(experiment.path_of(written), os.path.abspath(relative_to))).as_posix()

        data["data"]["path"] = moved(data["data"]["path"])
        data["fit"]["evidence"] = [moved(one) for one in data["fit"]["evidence"]]
        data["priors"] = [moved(one) for one in data["priors"]]
    return dump_yaml(data)


def fit_key(
    experiment: Experiment,
    data_sha256: str,
    evidence_sha256s: Sequence[str],
    priors_sha256: str,
    format_number: int,
) -> str:
    """Name the numbers of a fit: two experiments with the same key have the same posterior.

    Files enter by their content, not by their path; the gates and the block size judge and watch the fit but do not
    change it. ``format_number`` is raised whenever the code changes the numbers.
    """
    data = experiment.data.model_dump(exclude={"path", "source", "if_missing", "synthetic"})
    fit = experiment.fit.model_dump(exclude={"gates", "block", "evidence", "drug_classes"})
    if experiment.fit.growth == "exponential":
        del fit["deceleration"]  # not read, so that it names no other fit
    if experiment.fit.dose_response == "none":
        del fit["dose_response"], fit["reference_doses"]
    if not experiment.fit.covariates:
        del fit["covariates"]
    if experiment.fit.responders == "none":
        del fit["responders"]
    if experiment.fit.sampler == "nuts":
        del fit["sampler"]
    else:
        for name in ("warmup", "thin", "target_accept", "max_tree_depth"):  # of chains
            del fit[name]
    if not experiment.data.dose_columns:
        del data["dose_columns"], data["dose_unit"]
    hashes = {"table": data_sha256, "evidence": list(evidence_sha256s), "priors": priors_sha256}
    return _digest({"format": format_number, "data": data, "fit": fit, "sha256": hashes})


def run_key(experiment: Experiment, fit: str, priors_sha256: str, format_number: int) -> str:
    """Name the outputs of a run: two experiments with the same key leave the same tables and say the same of them.

    Beyond the numbers this holds what the outputs show: observed counts, labels, sources, gates, and whether the run
    is quick. Else a corrected count would be met by the old table under the same name.
    """
    shown = experiment.model_dump(exclude={"data", "fit", "priors", "quick"})
    if experiment.mice.leaving_odds_ratio == 1.0:
        del shown["mice"]["leaving_odds_ratio"]  # as a setting that is not there
    for cohort in shown["trial"]["cohorts"]:  # the order of these decides the order of rows
        cohort["subgroups"] = list(cohort["subgroups"].items())
        for arm in cohort["arms"]:
            arm["drugs"] = list(arm["drugs"].items())
    said = {"source": experiment.data.source, "synthetic": experiment.data.synthetic, "quick": experiment.is_quick}
    gates = experiment.fit.gates.model_dump()
    return _digest(
        {"format": format_number, "fit": fit, "priors": priors_sha256, "shown": shown, "said": said, "gates": gates}
    )


def _placed(experiment: Experiment, file: Path, quick: bool) -> Experiment:
    experiment._file = Path(os.path.abspath(file))
    experiment._is_quick = quick
    return experiment


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _laid_over(document: YamlDocument, overlay: Mapping[str, Any], origin: KeyPath) -> YamlDocument:
    """Merge mappings key by key; everything else is replaced, and takes its place from where the overlay stands."""
    data = copy.deepcopy(document.data)
    replaced: set[KeyPath] = set()

    def lay(target: dict[str, Any], above: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in above.items():
            if isinstance(value, Mapping) and isinstance(target.setdefault(key, {}), dict):
                lay(target[key], value, (*path, key))
            else:
                replaced.add((*path, key))
                target[key] = copy.deepcopy(value)

    def placed(places: dict[KeyPath, Any]) -> dict[KeyPath, Any]:
        kept = {at: one for at, one in places.items() if not inside(at)}
        size = len(origin)
        laid = {at[size:]: one for at, one in places.items() if size and at[:size] == origin and inside(at[size:])}
        return {**kept, **laid}

    def inside(path: KeyPath) -> bool:
        return any(path[:end] in replaced for end in range(1, len(path) + 1))

    lay(data, overlay, ())
    return YamlDocument(document.file, data, placed(document.lines), placed(document.overrides))


#: keys by which an item of a list is called, beside its index
_CALLED = ("name", "tumour_type", "subgroup")
#: keys of a dosing that a schedule stands for
_SCHEDULE = ("times_per_day", "days", "repeat", "on", "cycle")


def _overridden(document: YamlDocument, text: str) -> YamlDocument:
    """Set one key to the value of ``a.b=c``."""
    option = f"--set {text[:80]}"
    dotted, equals, written = text.partition("=")
    steps = dotted.strip().split(".")
    if not equals or not all(steps):
        raise InputError("must read KEY=VALUE, such as fit.chains=2", file=option)
    value = parse_yaml_value(written, option)
    data = copy.deepcopy(document.data)
    node: Any = data
    path: KeyPath = ()
    while steps:
        step, steps = _step(node, steps, option, path)
        if steps and isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
        path = (*path, step)
        if not steps:
            if step == "schedule" and path[-3:-2] == ("drugs",) and value is not None:
                # a run stores what a schedule stands for: the new one takes the place of all of it
                for key in _SCHEDULE:
                    node.pop(key, None)
            node[step] = value
        else:
            node = node[step]
    lines = {at: line for at, line in document.lines.items() if at[: len(path)] != path}
    overrides = {at: one for at, one in document.overrides.items() if at[: len(path)] != path}
    return YamlDocument(document.file, data, lines, {**overrides, path: text})


def _step(node: Any, steps: list[str], option: str, path: KeyPath) -> tuple[Any, list[str]]:
    """Key or index below a node that the first steps name, and the steps that are left."""
    if isinstance(node, list):
        return _item(node, steps, option, path)
    if not isinstance(node, dict):
        raise InputError("holds one value and has no keys below it", file=option, key=_dotted(path))
    if path == ("trial",) and steps[0] == "arms":
        message = "arms belong to a cohort: write trial.cohorts.TUMOUR_TYPE.arms.NAME.KEY=VALUE"
        raise InputError(message, file=option)
    # names may hold dots: the longest that exists is taken
    end = next((end for end in range(len(steps), 0, -1) if ".".join(steps[:end]) in node), 1)
    return ".".join(steps[:end]), steps[end:]


def _item(items: list[Any], steps: list[str], option: str, path: KeyPath) -> tuple[int, list[str]]:
    """Index of the item of a list that the first steps call by index or name, and the steps that are left."""
    first = steps[0]
    if first.isascii() and first.isdigit() and int(first[:9]) < len(items):
        return int(first), steps[1:]
    called = [next((str(one[key]) for key in _CALLED if key in one), "") for one in items if isinstance(one, dict)]
    names = [name for name in called if name] if len(called) == len(items) else []
    for end in range(len(steps), 0, -1):
        name = ".".join(steps[:end])
        if names.count(name) == 1:
            return called.index(name), steps[end:]
        if name in names:
            raise InputError(f"has {names.count(name)} called {name!r}: give an index", file=option, key=_dotted(path))
    allowed = f"an index in 0..{len(items) - 1}" if items else "nothing, the list is empty"
    if names:
        allowed += f" or one of {', '.join(map(repr, dict.fromkeys(names)))}"
    near = nearest(".".join(steps), names) or nearest(first, names)
    message = f"is a list: allowed after it is {allowed}, found {first[:80]!r}{near}"
    raise InputError(message, file=option, key=_dotted(path))


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
