"""Every file of tests/bad_input is answered by exit code 2 and one plain line that names it; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrial import cli
from vtrial.errors import InputError
from vtrial.experiment import load_experiment
from vtrial.priors import load_priors

FOLDER = Path(__file__).parent / "bad_input"
INDEX: dict[str, Any] = yaml.safe_load((FOLDER / "index.yaml").read_text(encoding="utf-8"))
SOUND = ("check", "sound.yaml")


def arguments_for(case: str, sets: list[str]) -> tuple[str, ...]:
    kind, name = case.split("/")[:2]
    extra = [part for one in sets for part in ("--set", one)]
    reads = {"tables": f"data.path={name}", "priors": f"priors=[{name}]", "evidence": f"fit.evidence=[{name}]"}
    if kind == "experiments":
        return ("check", name, *extra)
    if kind == "sweep_files":
        return ("sweep", name, "--dry-run")
    if kind == "protocols":
        return ("pdx-study", name, "--out", "out")
    return ("report", name) if kind == "run_folders" else (*SOUND, "--set", reads[kind], *extra)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FOLDER / "sound", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VTRIAL_DEBUG", raising=False)
    return tmp_path


@pytest.mark.parametrize("case", INDEX)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    entry = INDEX[case]
    say, sets = (entry["say"], entry["set"]) if isinstance(entry, dict) else (entry, [])
    kind, name = case.split("/")[:2]
    source = FOLDER / kind / name
    if source.is_dir():
        shutil.copytree(source, folder / name)
    else:
        shutil.copy(source, folder / name)
    before = snapshot(folder)
    code = cli.main(arguments_for(case, sets))
    out, err = capsys.readouterr()
    assert code == InputError.exit_code, err
    assert out == ""
    # one line, without boxes or a traceback, whose place is the file that holds the fault
    assert err.startswith("vtrial: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and not set("│╭╰─") & set(err) and err.rstrip("\n").isprintable()
    place = err.removeprefix("vtrial: error: ").split(": ")[0]
    assert "sound.csv" in place if case.startswith("run_folders/table-gone") else name in place, err
    for part in say:
        assert part in err, err
    assert snapshot(folder) == before


def test_the_index_holds_every_file_and_60_cases() -> None:
    held = {str(p.relative_to(FOLDER)) for p in FOLDER.rglob("*") if p.is_file()}
    inside = {case for case in held if case.split("/")[0] not in ("sound", "index.yaml")}
    # a run folder is one case, whatever files it has
    roots = {"/".join(case.split("/")[:2]) for case in inside}
    assert {"/".join(case.split("/")[:2]) for case in INDEX} == roots
    assert len(INDEX) >= 60


def test_what_was_spoilt_is_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ("--set", "priors=[prior.yaml]", "--set", "fit.evidence=[evidence.csv]")
    assert cli.main((*SOUND, *extra)) == 0, capsys.readouterr().err


def test_check_prints_the_calendar_and_what_is_not_known(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = "{trametinib: {dose: 2 mg, schedule: QD, holds: [{start: 3 d, length: 2 d}]}}"
    unknown = "{ceritinib: {dose: 750 mg, schedule: 'QD 21/28'}}"
    for drugs in (held, unknown):
        assert cli.main((*SOUND, "--set", f"trial.cohorts.0.arms.0.drugs={drugs}")) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "trametinib 2 mg once a day, held from 3 to 5 d\n" in said
    assert "week 1   1   1   1   h   h   1   1\n" in said
    assert "week 4   -   -   -   -   -   -   -\n" in said
    assert "ceritinib has no pharmacokinetics in the priors: its effect is constant on treated days" in said


# --- anything at all ------------------------------------------------------------------------------------------------

_TEXT = (FOLDER / "sound" / "sound.yaml").read_text(encoding="utf-8")
_PRIOR = (FOLDER / "sound" / "prior.yaml").read_text(encoding="utf-8")
_MARKS = (
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!int ",
    "|\n",
    "'",
    '"',
    "# ",
    "\t",
    "\n",
    "  ",
    "---\n",
    "<<: ",
)
_VALUES = (
    ".nan",
    "1e999",
    "null",
    "~",
    "-1",
    "0",
    "9" * 30,
    "2 mg",
    "7 d",
    "true",
    "\x00",
    "\ud800",
    "\ufeff",
    "é",
    "? ",
)
_PIECES = st.one_of(st.text(max_size=12), st.sampled_from((*_MARKS, *_VALUES)))


@st.composite
def spoilt(draw: st.DrawFn, text: str) -> str:
    """A sound text with pieces put in, or cut out, at a few places."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 12)))
        text = text[:at] + draw(_PIECES) + text[end:]
    return text


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(spoilt(_TEXT), st.text(max_size=80)), quick=st.booleans())
def test_no_experiment_raises_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, quick: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_experiment(file, quick=quick)
    except InputError as error:
        assert str(error.file).endswith("any.yaml")


@settings(max_examples=30, deadline=None)
@given(text=spoilt(_PRIOR))
def test_no_prior_raises_anything_but_an_input_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "prior.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_priors([file])
    except InputError as error:
        assert error.file is not None
