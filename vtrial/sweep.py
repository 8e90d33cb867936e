"""Many runs of one experiment: a sweep file -> scenarios, and what became of each; no jax.

A scenario is named after the key of its run, so a setting, a table or a prior that changes gives another scenario, and
whatever is done stays done wherever it stands in the file. Nothing else is remembered: what became of a scenario is
read from its run folder, its lock and its log.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from vtrial.disk import whole
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.fields import Count, Section, Text
from vtrial.inputs import read_inputs
from vtrial.store import RunFolder
from vtrial.yamlfile import YamlDocument, fault, parse_yaml_value, read_yaml, shortened_text, validated

MAX_SCENARIOS = 10_000
PLAN = "sweep.json"
KIND, FORMAT = "vtrial sweep", 1
#: opens the lines that a launcher writes into a log; what the run itself says stands below the last of them
HEADER = "== "

Launcher = Literal["local", "slurm"]
Where = Literal["auto", "cpu", "cuda"]
Word = Literal["done", "gates", "running", "queued", "waiting", "stopped", "failed"]
_listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class LauncherConfig(Section):
    """How the runs are started, where the command line does not say."""

    kind: Launcher = Field(default="local", description="local or slurm")
    jobs: Count | None = Field(default=None, description="runs side by side, local; null for one for two cores")
    device: Where = Field(default="auto", description="where the trials run")
    fit_device: Where = Field(default="auto", description="where the fits run")


class SweepFile(Section):
    """A sweep file: every entry of `list`, each with every combination of the values of `grid`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="a-z, 0-9, _ and -; it names the folder")
    title: Text | None = Field(default=None, description="title in words")
    experiment: Text = Field(description="path of the experiment file, relative to this file")
    quick: bool = Field(default=False, description="true runs every scenario as --quick does")
    grid: dict[Text, Annotated[tuple[Any, ...], _listed, Field(min_length=1)]] = Field(
        default={}, description="key of the experiment: list of its values"
    )
    cases: Annotated[tuple[dict[Text, Any], ...], _listed] = Field(
        default=(), alias="list", description="list of settings that go together, key of the experiment: value"
    )
    launcher: LauncherConfig = Field(default=LauncherConfig(), description="section of the launcher")
    cluster: Text | None = Field(default=None, description="path of a cluster profile, relative to this file")

    @model_validator(mode="after")
    def _consistent(self) -> SweepFile:
        if not self.grid and not any(self.cases):
            raise fault("give `grid`, `list`, or both: there is nothing to vary")
        count = len(self.cases or ((),))
        for values in self.grid.values():
            count *= len(values)
        if count > MAX_SCENARIOS:
            raise fault(f"a sweep has at most {MAX_SCENARIOS} scenarios, this one {count}", "grid")
        for index, case in enumerate(self.cases):
            keys = [*self.grid, *case]
            for key in case:
                if any(_within(key, other) or _within(other, key) for other in self.grid):
                    raise fault("is set by grid too", "list", index, key)
            if both := next(((a, b) for a in keys for b in keys if a != b and _within(a, b)), None):
                raise fault(f"{both[0]} lies within {both[1]}: give one of them", "list", index)
        if both := next(((a, b) for a in self.grid for b in self.grid if a != b and _within(a, b)), None):
            raise fault(f"lies within {both[1]}: give one of them", "grid", both[0])
        return self


class Scenario(NamedTuple):
    """One run of a sweep.

    Attributes
    ----------
    number : int
        Place in the sweep file, from 1.
    id : str
        Key of the run, which names its folder; scenarios of the same key are one run.
    fit_key : str
        Key of the fit: what has the same one is fitted once.
    settings : mapping
        Dotted key of the experiment: value.
    """

    number: int
    id: str
    fit_key: str
    settings: Mapping[str, Any]

    def sets(self) -> list[str]:
        """The settings as ``vtrial run --set`` takes them."""
        return [f"{key}={written(value)}" for key, value in self.settings.items()]


class Sweep(NamedTuple):
    """A sweep and its folder; `experiment` is the absolute path of the experiment file."""

    folder: Path
    name: str
    title: str | None
    experiment: Path
    quick: bool
    device: Where
    fit_device: Where
    scenarios: tuple[Scenario, ...]

    def runs(self) -> dict[str, Scenario]:
        """The first scenario of every run, by its id, in the order of the file."""
        found: dict[str, Scenario] = {}
        for one in self.scenarios:
            found.setdefault(one.id, one)
        return found

    def run_folder(self, scenario: Scenario) -> RunFolder:
        """The run folder of a scenario."""
        return RunFolder(self.folder / "runs" / scenario.id)

    def log(self, scenario: Scenario) -> Path:
        """The log of a scenario: all that its attempts said, one after another."""
        return self.folder / "logs" / f"{scenario.id}.log"

    def fixed(self) -> list[str]:
        """The arguments of ``vtrial run`` that all scenarios share."""
        given = [str(self.experiment), *(["--quick"] if self.quick else [])]
        given += ["--device", self.device] if self.device != "auto" else []
        given += ["--fit-device", self.fit_device] if self.fit_device != "auto" else []
        return [*given, "--reuse-fits", str(self.folder / "runs")]

    def arguments(self, scenario: Scenario) -> list[str]:
        """The arguments of ``vtrial run`` of a scenario."""
        sets = [part for one in scenario.sets() for part in ("--set", one)]
        return [*self.fixed(), *sets, "--out", str(self.run_folder(scenario).path)]

    def is_fitted(self, scenario: Scenario) -> bool:
        """Whether some run of the sweep holds the fit that a scenario needs."""
        return any(has_fit(self.run_folder(one)) for one in self.runs().values() if one.fit_key == scenario.fit_key)


class State(NamedTuple):
    """What became of a scenario, and the last word on it."""

    word: Word
    detail: str = ""

    @property
    def is_done(self) -> bool:
        """Whether its outputs are there; "gates" are those of a fit that did not pass."""
        return self.word in ("done", "gates")


def read_sweep(path: str | os.PathLike[str], out: Path | None = None) -> tuple[Sweep, SweepFile]:
    """Read a sweep file and check every scenario: its settings, table, priors and evidence.

    Parameters
    ----------
    path : path
        The sweep file.
    out : Path, optional
        The sweep's folder; ``sweeps/NAME`` where left out.

    Raises
    ------
    InputError
        The first fault, with the line in the sweep file or in what it names.
    """
    document = read_yaml(path)
    config = validated(SweepFile, document)
    experiment = Path(os.path.abspath(document.file.parent / config.experiment))
    folder = Path(os.path.abspath(out or Path("sweeps") / config.name))
    known: dict[str, Any] = {}
    scenarios = []
    for number, settings in enumerate(_settings(config), start=1):
        draft = Scenario(number, "", "", settings)
        try:
            inputs = read_inputs(load_experiment(experiment, draft.sets(), config.quick), known)
        except InputError as error:
            case = (number - 1) // math.prod(map(len, config.grid.values()))
            raise _of_scenario(error, document, draft, case) from None
        scenarios.append(draft._replace(id=inputs.run_key, fit_key=inputs.fit_key))
    launcher = config.launcher
    return Sweep(
        folder,
        config.name,
        config.title,
        experiment,
        config.quick,
        launcher.device,
        launcher.fit_device,
        tuple(scenarios),
    ), config


def write_plan(sweep: Sweep) -> None:
    """Write what `open_sweep` reads, and make the folders."""
    scenarios = [{**one._asdict(), "settings": dict(one.settings)} for one in sweep.scenarios]
    about = {**sweep._asdict(), "experiment": str(sweep.experiment), "scenarios": scenarios}
    del about["folder"]
    text = json.dumps({"kind": KIND, "format": FORMAT, **about}, indent=1, ensure_ascii=False)
    file = sweep.folder / PLAN
    if sweep.folder.is_dir() and not file.exists() and any(sweep.folder.iterdir()):
        message = f"is not the folder of a sweep: it has no {PLAN} but holds other files; choose another with --out"
        raise InputError(message, file=sweep.folder)
    with whole(file) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
        for name in ("runs", "logs"):
            (sweep.folder / name).mkdir(exist_ok=True)


def open_sweep(folder: str | os.PathLike[str]) -> Sweep:
    """Read the sweep that a folder holds.

    Raises
    ------
    InputError
        Where it holds none.
    """
    file = Path(os.path.abspath(folder)) / PLAN
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.pop("kind") != KIND or data.pop("format") > FORMAT:
            raise ValueError("it is of another kind or of a newer version")
        scenarios = tuple(Scenario(**one) for one in data.pop("scenarios"))
        return Sweep(**{**data, "experiment": Path(data["experiment"])}, folder=file.parent, scenarios=scenarios)
    except FileNotFoundError:
        message = f"is not the folder of a sweep: it has no {PLAN}, which `vtrial sweep` writes"
        raise InputError(message, file=file.parent) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read: {shortened_text(str(error))}", file=file) from None


def state_of(sweep: Sweep, scenario: Scenario, queue: Mapping[int, State] | None = None) -> State:
    """What became of a scenario; `queue` is what a scheduler says by number of scenario."""
    folder = sweep.run_folder(scenario)
    manifest = manifest_of(folder)
    if manifest.get("keys", {}).get("run") == scenario.id and manifest.get("finished"):
        passed = manifest.get("fit", {}).get("passed", False)
        return State("done") if passed else State("gates", "the fit did not pass its gates")
    known = (queue or {}).get(scenario.number)
    said = last_words(sweep.log(scenario))
    if known is not None and known.word in ("queued", "running"):
        return known._replace(detail=known.detail or said)
    if holder := folder.holder():
        return State("running", said or f"by {holder}")
    after = f" ({known.detail})" if known is not None and known.detail else ""
    if not sweep.log(scenario).exists():
        return State("waiting", after.strip(" ()"))
    # A run has a last word unless it was killed, and a killed one goes on like a stopped one.
    if not said.startswith("vtrial: ") or said.startswith("vtrial: stop"):
        return State("stopped", (said or "killed before it said anything") + after)
    return State("failed", said + after)


def last_words(log: Path, window: int = 16_384) -> str:
    """The last line that the last attempt said; empty where it said nothing."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - window))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    last = next((line for line in reversed(lines) if line.strip()), "")
    if last.startswith(HEADER):  # only a launcher's own word on the end is one on the run
        last = last.removeprefix(HEADER) if last.startswith(f"{HEADER}ended") else ""
    return last.strip()


def to_start(sweep: Sweep, states: Mapping[str, State], retry_failed: bool) -> list[Scenario]:
    """The runs that are neither done nor under way, in the order of the file; failed ones only where asked for."""
    wanted = {"waiting", "stopped", *(("failed",) if retry_failed else ())}
    return [one for one in sweep.runs().values() if states[one.id].word in wanted]


def format_states(sweep: Sweep, states: Mapping[str, State]) -> str:
    """What became of every scenario as text: counts first, a line each, the logs of those that failed."""
    words = [states[one.id].word for one in sweep.scenarios]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words, key=words.count)))
    runs = sweep.runs().values()
    lines = [
        f"{sweep.name}: {len(words)} scenarios, {len({one.id for one in runs})} runs, "
        f"{len({one.fit_key for one in runs})} fits; {counts}"
    ]
    for one in sweep.scenarios:
        state = states[one.id]
        said = f"  {shortened_text(state.detail, 160)}" if state.detail and state.word != "done" else ""
        lines.append(f"{one.number:5} {one.id} {state.word:8} {shortened_text(' '.join(one.sets()), 120)}{said}")
    lines += [f"log of {one.number}: {sweep.log(one)}" for one in runs if states[one.id].word == "failed"]
    return "\n".join(lines)


def states_of(sweep: Sweep, queue: Mapping[int, State] | None = None) -> dict[str, State]:
    """What became of every run, by id."""
    return {one.id: state_of(sweep, one, queue) for one in sweep.runs().values()}


def written(value: object) -> str:
    """A value as the right side of ``--set``: plain where it is read back as it is, else JSON, which is YAML too."""
    if isinstance(value, str):
        try:
            if value.strip() == value and parse_yaml_value(value, "") == value:
                return value
        except InputError:
            pass
    return json.dumps(value, ensure_ascii=False)


def shown_command(arguments: Iterable[str]) -> str:
    """A command as a shell takes it."""
    return shlex.join(["vtrial", "run", *arguments])


def _settings(config: SweepFile) -> Iterable[dict[str, Any]]:
    for case in config.cases or ({},):
        for values in itertools.product(*config.grid.values()):
            yield {**case, **dict(zip(config.grid, values, strict=True))}


def _within(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def _of_scenario(error: InputError, document: YamlDocument, scenario: Scenario, case: int) -> InputError:
    """The fault of one scenario, at the line of the sweep file that sets the key, where one does."""
    if not str(error.file).startswith("--set "):
        return InputError(f"scenario {scenario.number}: {error}", file=document.file)
    option = str(error.file).removeprefix("--set ")
    key = next((key for key in scenario.settings if option.startswith(f"{key}=")), "")
    line = document.lines.get(("grid", key)) or document.lines.get(("list", case, key))
    return InputError(f"scenario {scenario.number}: {error.message}", file=document.file, line=line, key=error.key)


def manifest_of(folder: RunFolder) -> dict[str, Any]:
    """The manifest of a run folder; empty where there is none that can be read."""
    try:
        return folder.manifest()
    except InputError:
        return {}


def has_fit(folder: RunFolder) -> bool:
    """Whether a run folder holds a finished fit of its key."""
    manifest = manifest_of(folder)
    key = manifest.get("fit", {}).get("key")
    return key is not None and key == manifest.get("keys", {}).get("fit") and "posterior.nc" in manifest["files"]
