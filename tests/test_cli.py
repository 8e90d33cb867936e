"""The command line: what it answers to bad input, the ends of a run, and what it does without."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vtrial import cli
from vtrial.doctor import DEPENDENCIES
from vtrial.errors import GateError, InputError, InterruptedRun

TABLE = """\
study,tumour_type,pdx_model,mouse,arm,day,volume_mm3
S,BRCA,X-1,c1,untreated,0,200
S,BRCA,X-1,c1,untreated,7,400
S,BRCA,X-1,a1,trametinib,0,210
S,BRCA,X-1,a1,trametinib,7,150
S,BRCA,X-2,b1,trametinib + BKM120,0,190
S,BRCA,X-2,b1,trametinib + BKM120,7,90
"""
EXPERIMENT = """\
name: small
data:
  path: table.csv
  source: made for a test
  synthetic: true
  if_missing: "get it from the supplement"
fit:
  chains: 2
trial:
  cohorts:
    - tumour_type: BRCA
      subgroups: {mutant: {prevalence: 0.5}, wild-type: {prevalence: 0.5}}
      arms:
        - name: trametinib 2 mg
          drugs:
            trametinib: {dose: 2 mg, repeat: 1 d}
          observed:
            - {subgroup: mutant, responders: 3, patients: 10, source: "made up"}
"""
PRIOR = """\
translation:
  growth_exponent:
    family: normal
    parameters: {loc: 0.0, scale: 0.5}
    unit: "1"
    source: a paper
    certainty: published
    note: what it means
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a sound experiment and its table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VTRIAL_CACHE", "off")
    monkeypatch.delenv("VTRIAL_DEBUG", raising=False)
    (tmp_path / "exp.yaml").write_text(EXPERIMENT)
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def one_line(err: str) -> None:
    assert err.startswith("vtrial: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and "│" not in err and "╭" not in err


# --- bad input ------------------------------------------------------------------------------------------------------


def changed(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert text.count(old) == 1
        (folder / file).write_text(text.replace(old, new))

    return change


def written(file: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / file).write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None: ...


def together(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: void([change(folder) for change in changes])


def same(folder: Path) -> None: ...


CHECK = ("check", "exp.yaml")
WITH_PRIORS = changed("exp.yaml", "name: small\n", "name: small\npriors: [mine.yaml]\n")
# what is spoilt, the command, parts of the one line
BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "no such experiment": (same, ("check", "absent.yaml"), ("absent.yaml: does not exist",)),
    "a folder": (lambda f: (f / "dir.yaml").mkdir(), ("check", "dir.yaml"), ("dir.yaml: is a ",)),
    "an empty experiment": (written("exp.yaml", ""), CHECK, ("exp.yaml",)),
    "a binary experiment": (written("exp.yaml", b"\x89HDF\r\n\x00\xff"), CHECK, ("exp.yaml",)),
    "not UTF-8": (written("exp.yaml", "name: smäll\n".encode("latin-1")), CHECK, ("exp.yaml", "UTF-8")),
    "a typing error in a key": (
        changed("exp.yaml", "chains:", "chans:"),
        CHECK,
        ("exp.yaml:8: fit.chans: unknown key", "did you mean 'chains'"),
    ),
    "a key twice": (changed("exp.yaml", "  chains: 2\n", "  chains: 2\n  chains: 3\n"), CHECK, (":9: ", "given twice")),
    "a tag": (changed("exp.yaml", "chains: 2", "chains: !!python/name:os.system"), CHECK, (":8: ", "not allowed")),
    "a wrong unit": (changed("exp.yaml", "2 mg,", "2 mgs,"), CHECK, (":16: ", "dose:", "'2 mgs'", "mg/m2")),
    "out of range": (
        changed("exp.yaml", "chains: 2", "chains: 0"),
        CHECK,
        (":8: fit.chains:", "equal to 1", "found 0"),
    ),
    "not a number": (changed("exp.yaml", "chains: 2", "target_accept: .nan"), CHECK, (":8: fit.target_accept:",)),
    "a name that leads out": (changed("exp.yaml", "name: small", "name: ../x"), CHECK, (":1: name:", "'../x'", "a-z")),
    "an unknown subgroup": (
        changed("exp.yaml", "subgroup: mutant", "subgroup: mutnt"),
        CHECK,
        (":18: ", "observed.0.subgroup", "'mutant'"),
    ),
    "more responders than patients": (changed("exp.yaml", "responders: 3", "responders: 30"), CHECK, (":18: ", "(10)")),
    "--set without a value": (same, (*CHECK, "--set", "fit.chains"), ("--set fit.chains: must read KEY=VALUE",)),
    "--set of an unknown key": (same, (*CHECK, "--set", "fit.chans=3"), ("--set fit.chans=3", "did you mean 'chains'")),
    "an option that must be chosen": (same, ("design", "."), ("Choose from: simon, fleming,", "see vtrial design")),
    "--set out of range": (same, (*CHECK, "--set", "fit.chains=-1"), ("--set fit.chains=-1", "found -1")),
    "no such table": (
        changed("exp.yaml", "table.csv", "absent.csv"),
        CHECK,
        ("absent.csv: no such table. get it from the supplement",),
    ),
    "the table is a folder": (
        together(lambda f: (f / "dir").mkdir(), changed("exp.yaml", "table.csv", "dir")),
        CHECK,
        ("dir: is a folder",),
    ),
    "a negative volume": (
        changed("table.csv", "7,150", "7,-150"),
        CHECK,
        ("table.csv:5: volume_mm3: -150 is negative",),
    ),
    "a volume in words": (changed("table.csv", "7,150", "7,big"), CHECK, ("table.csv:5: volume_mm3: 'big'",)),
    "a day twice": (changed("table.csv", "7,150", "0,150"), CHECK, ("table.csv:5: day: mouse 'a1' has day 0",)),
    "a missing column": (changed("table.csv", "volume_mm3", "size"), CHECK, ("table.csv:1: no column volume_mm3",)),
    "no control": (
        changed("exp.yaml", "synthetic: true", "control: [vehicle]"),
        CHECK,
        ("table.csv: no control arm", "data.control"),
    ),
    "an unknown drug": (
        changed("exp.yaml", "trametinib: {", "trametinb: {"),
        CHECK,
        ("exp.yaml", "trametinb", "'trametinib'"),
    ),
    "a unit that is not the drug's": (
        changed("exp.yaml", "2 mg,", "2 mg/kg,"),
        CHECK,
        ("exp.yaml", "mg/kg", "same unit"),
    ),
    "no such evidence": (changed("exp.yaml", "chains: 2", "evidence: [absent.csv]"), CHECK, ("absent.csv",)),
    "no such priors": (WITH_PRIORS, CHECK, ("mine.yaml: does not exist",)),
    "a bad prior": (
        together(WITH_PRIORS, written("mine.yaml", PRIOR.replace("0.5", "-0.5"))),
        CHECK,
        ("mine.yaml:4: translation.growth_exponent.parameters.scale: must be above 0, found -0.5",),
    ),
    "control characters in a name": (same, ("check", "a\x1b[31m\nb.yaml"), (r"a\x1b[31m\nb.yaml: does not exist",)),
    # the folder of a run
    "the output lies in a file": (same, ("run", "exp.yaml", "--out", "table.csv/run"), ("is a file, not a folder",)),
    "the output is a file": (same, ("fit", "exp.yaml", "--out", "table.csv"), ("table.csv", "file")),
    "the output is another folder": (
        written("notes.txt", "mine"),
        ("run", "exp.yaml", "--out", "."),
        ("is not a run folder", "--out"),
    ),
    "no such run": (same, ("report", "runs/absent"), ("is not a run folder: there is no such folder",)),
    "not a run": (same, ("simulate", "."), ("is not a run folder: it has no manifest.json",)),
    "a damaged run": (written("manifest.json", "{"), ("report", "."), ("manifest.json: is damaged",)),
    "the manifest of something else": (written("manifest.json", "{}"), ("simulate", "."), ("manifest.json: is not",)),
    "a run of a later version": (
        written("manifest.json", json.dumps({"kind": "vtrial run folder", "folder_format": 99, "files": {}})),
        ("report", "."),
        ("folder format 99",),
    ),
    # usage
    "an unknown command": (same, ("cheque", "exp.yaml"), ("No such command 'cheque'; see vtrial --help",)),
    "an unknown option": (same, ("run", "exp.yaml", "--quik"), ("--quik", "--quick", "see vtrial run --help")),
    "no file": (same, ("run",), ("Missing argument 'FILE'; see vtrial run --help",)),
    "an unknown device": (same, ("run", "exp.yaml", "--device", "tpu"), ("--device", "'tpu'", "'cuda'")),
    "no patients": (same, ("simulate", ".", "--patients", "0"), ("--patients", "1; see vtrial simulate --help")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(folder: Path, capsys, name: str) -> None:
    spoil, arguments, parts = BAD[name]
    spoil(folder)
    before = snapshot(folder)
    code, out, err = told(capsys, *arguments)
    assert code == InputError.exit_code, err
    assert out == ""
    one_line(err)
    for part in parts:
        assert part in err, err
    assert snapshot(folder) == before


def test_the_sound_experiment_is_sound(folder: Path, capsys) -> None:
    """What the cases above spoil is right before it is spoilt; so is the prior."""
    before = snapshot(folder)
    code, out, err = told(capsys, *CHECK)
    assert (code, err) == (0, "")
    assert out.endswith("\nok\n") and "small" in out
    assert snapshot(folder) == before
    together(WITH_PRIORS, written("mine.yaml", PRIOR))(folder)
    assert told(capsys, *CHECK)[0] == 0
    assert told(capsys, *CHECK, "--quick", "--set", "fit.chains=3")[0] == 0


# --- the ends of a run ----------------------------------------------------------------------------------------------


def ending_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def stage(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("vtrial.run.run", stage)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("was wrong", file="a.csv", line=3, key="day"), 2, "vtrial: error: a.csv:3: day: was wrong\n"),
        (GateError("R-hat of growth is 1.2"), 3, "vtrial: error: R-hat of growth is 1.2\n"),
        (InterruptedRun("stopped after 300 draws"), 4, "vtrial: stopped after 300 draws\n"),
        (KeyboardInterrupt(), 4, "vtrial: stopped; the same command goes on\n"),
        (ZeroDivisionError("division\nby zero"), 1, "vtrial: unexpected error: ZeroDivisionError: division\\nby "),
        (MemoryError(), 1, "vtrial: error: not enough memory"),
    ],
)
def test_every_end_has_its_code(folder: Path, capsys, monkeypatch, error, code: int, line: str) -> None:
    ending_with(monkeypatch, error)
    found, _, err = told(capsys, "run", "exp.yaml")
    assert found == code
    assert err.startswith(line) and err.count("\n") == 1 and "Traceback" not in err


def test_a_traceback_is_for_who_asks(folder: Path, capsys, monkeypatch) -> None:
    ending_with(monkeypatch, ZeroDivisionError("x"))
    monkeypatch.setenv("VTRIAL_DEBUG", "1")
    code, _, err = told(capsys, "run", "exp.yaml")
    assert code == 1 and err.startswith("Traceback") and err.splitlines()[-1].startswith("vtrial: unexpected error")


ORR = """\
arm,tumour_type,subgroup,endpoint,kind,num_patients,mean,sd,q05,q25,q50,q75,q95,observed_responders,observed_patients,source
trametinib 2 mg,BRCA,all,confirmed_orr,population,,0.123,0.1,0.02,0.05,0.1,0.2,0.4,,,
trametinib 2 mg,BRCA,mutant,confirmed_orr,population,,0.2,0.1,0.1,0.1,0.2,0.3,0.5,3,10,made up
trametinib 2 mg,BRCA,mutant,confirmed_orr,predictive,10,0.2,0.1,0.0,0.1,0.2,0.3,0.6,3,10,made up
trametinib 2 mg,BRCA,all,dcr,population,,0.5,0.1,0.1,0.1,0.2,0.3,0.5,,,
"""


@pytest.mark.parametrize("passed", [True, False])
def test_a_run_prints_its_answer(folder: Path, capsys, monkeypatch, passed: bool) -> None:
    def stage(experiment, out, *, devices, console, reuse):
        out.mkdir()
        (out / "orr.csv").write_text(ORR)
        assert (devices.trial, devices.fit, console, reuse) == ("auto", "cpu", None, None)
        if not passed:
            raise GateError("R-hat of growth is 1.2")
        return out

    monkeypatch.setattr("vtrial.run.run", stage)
    code, out, err = told(capsys, "run", "exp.yaml", "--quick", "--fit-device", "cpu", "--out", str(folder / "here"))
    lines = out.splitlines()
    assert code == (0 if passed else 3)
    assert ("GATES" in lines[0]) is not passed and bool(err) is not passed
    assert ("QUICK" in out, "SYNTHETIC DATA" in out) == (passed, passed)
    shown = [line.split() for line in lines if line.startswith("trametinib")]
    assert "12.3" in shown[0] and "3/10" in shown[1] and "source" not in out
    assert not passed or lines[-1] == "here"


def test_simulate_hands_over_what_was_asked(folder: Path, capsys, monkeypatch) -> None:
    asked = {}

    def stage(run_dir, **keywords):
        asked.update(keywords)
        rate = {"mean": 0.25, "sd": 0.1, "q05": 0.1, "q25": 0.2, "q50": 0.25, "q75": 0.3, "q95": 0.5}
        entry = {"arm": "A", "tumour_type": "BRCA", "subgroup": "all", "observed": None}
        rates = {"orr": rate, "predictive_orr": rate, "others": {}, "null_models": {}}
        return {"endpoint": "confirmed_orr", "arms": [entry | rates], "orr": {"A": 0.25}, "patients": 10}

    monkeypatch.setattr("vtrial.run.simulate", stage)
    manifest = {"kind": "vtrial run folder", "folder_format": 1, "files": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    arguments = ("simulate", ".", "--patients", "10", "--draws", "5", "--set", "trial.seed=4")
    code, out, _ = told(capsys, *arguments, "--json")
    assert code == 0 and json.loads(out)["arms"][0]["orr"]["mean"] == 0.25
    assert (asked["patients"], asked["draws"], list(asked["overrides"])) == (10, 5, ["trial.seed=4"])
    code, out, _ = told(capsys, *arguments)
    assert code == 0 and "25.0 % [10.0, 50.0] %" in out and "patients: 10" in out


# --- true processes -------------------------------------------------------------------------------------------------


def process(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    cleared = {name: value for name, value in os.environ.items() if name != "VTRIAL_DEBUG"}
    paths = {"PYTHONPATH": str(Path(cli.__file__).parent.parent), "VTRIAL_CACHE": "off"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, cwd=folder, env=cleared | paths | environment, timeout=60,
    )  # fmt: skip


def test_the_module_is_the_command(folder: Path) -> None:
    before = os.times()
    done = process("-m", "vtrial", "--help", folder=folder)
    after = os.times()
    assert done.returncode == 0 and done.stderr == ""
    # CPU time, which a busy machine does not stretch as it does the time on the wall; measured: 0.1 s
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.4, spent
    for command in (
        "check",
        "run",
        "fit",
        "simulate",
        "report",
        "compare",
        "new",
        "schema",
        "doctor",
        "version",
        "Exit codes",
    ):
        assert command in done.stdout
    assert process("-m", "vtrial", folder=folder).stdout == done.stdout
    done = process("-m", "vtrial", "check", "absent.yaml", folder=folder)
    assert done.returncode == 2 and done.stdout == ""
    one_line(done.stderr)


def test_cuda_asked_for_and_absent_is_an_error(folder: Path) -> None:
    before = snapshot(folder)
    for option in ("--device", "--fit-device"):
        done = process("-m", "vtrial", "run", "exp.yaml", option, "cuda", folder=folder, JAX_PLATFORMS="cpu")
        assert done.returncode == 2
        one_line(done.stderr)
        assert f"{option}: no cuda device: JAX found " in done.stderr and "JAX_PLATFORMS=cpu" in done.stderr
    assert snapshot(folder) == before


def test_what_the_command_line_starts_without(folder: Path) -> None:
    heavy = "print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'numpyro', 'pandas', 'rich', 'pydantic'}))"
    assert process("-c", f"import sys, vtrial.cli; {heavy}", folder=folder).stdout == "[]\n"


def test_check_starts_no_jax(folder: Path) -> None:
    code = (
        "import sys; from vtrial.cli import main; code = main(['check', 'exp.yaml']); print('jax' in sys.modules, code)"
    )
    done = process("-c", code, folder=folder)
    assert done.stdout.endswith("ok\nFalse 0\n"), done.stderr


@contextlib.contextmanager
def working(folder: Path, work: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own that is in the middle of some work; signals to stop leave it 2 s."""
    code = (
        "import hashlib, signal, sys, time, vtrial.run\nfrom vtrial import cli, signals\nsignals.GRACE_SECONDS = 2.0\n"
        # a job in the background of a shell starts with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def stage(experiment):\n    print('ready', flush=True)\n    {work}\n"
        "vtrial.run.check = stage\nsys.exit(cli.main(['check', 'exp.yaml']))\n"
    )
    paths = {"PYTHONPATH": str(Path(cli.__file__).parent.parent), "VTRIAL_CACHE": "off"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=os.environ | paths,
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def said(running: subprocess.Popen[str]) -> str:
    assert running.wait(timeout=20) == InterruptedRun.exit_code
    assert running.stderr is not None
    return running.stderr.read()


STOPPED = "vtrial: stopped; the same command goes on\n"
STOPPING = "vtrial: stopping at the end of this block, at most 2 s; Ctrl-C again: at once\n"
#: minutes inside one call that looks at no signal, as a program of XLA does
DEAF = "hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 30)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_stop_in_order(folder: Path, number: int) -> None:
    with working(folder, "time.sleep(60)") as running:
        running.send_signal(number)
        assert said(running) == STOPPED


def test_a_block_that_takes_too_long_is_not_waited_for(folder: Path) -> None:
    with working(folder, DEAF) as running:
        time.sleep(1.0)  # until it is in that call
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGTERM)  # Slurm may send several: only Ctrl-C is impatient
        begun = time.monotonic()
        assert said(running) == STOPPING + STOPPED
        assert 1.0 < time.monotonic() - begun < 10.0


def test_a_second_ctrl_c_stops_at_once(folder: Path) -> None:
    with working(folder, DEAF) as running:
        time.sleep(1.0)  # until it is in that call
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        assert said(running) == STOPPED


def test_a_ctrl_c_that_was_held_back_is_no_second_one(folder: Path) -> None:
    """Once its block is stored, the run is left in order; a second Ctrl-C would have ended it at once."""
    work = (
        "from vtrial.checkpoint import held_back\n    try:\n        with held_back():\n            time.sleep(1.5)\n"
        "    finally:\n        time.sleep(0.5)\n        print('in order', flush=True)"
    )
    with working(folder, work) as running:
        time.sleep(0.3)  # until it is in that block
        running.send_signal(signal.SIGINT)
        assert running.stdout is not None and running.stdout.readline() == "in order\n"
        assert said(running) == STOPPING + STOPPED


def test_doctor_and_version(folder: Path, capsys) -> None:
    code, out, err = told(capsys, "doctor")
    assert code == 0, err
    for word in ("python", "numpyro", "memory", "disk", "cache        off", "cpu "):
        assert word in out
    assert out.splitlines()[-1].split()[0] in ("nothing", "missing")
    assert told(capsys, "version")[1].startswith("vtrial ")


def test_doctor_knows_the_dependencies(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert tuple(re.split(r"[^\w-]", one)[0] for one in project["dependencies"]) == DEPENDENCIES
