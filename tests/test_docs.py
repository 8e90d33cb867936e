"""The docs and notebooks: commands in blocks run or are forms, options that are mentioned exist, links lead somewhere.

Blocks of a page are run in their order: the tutorial in an empty folder, by `make test-workflows`; the others in
copies of the folder that it leaves, by `make test-slow`. ``sh`` blocks are taken line by line as `vtrial`, ``python``
blocks as they are; a block with a ``title`` is a file that is written first. A fit is made tiny by the ``quick``
section of the study, and commands that fit get ``--quick`` where the page asks for the whole run. A block after
``<!-- not run: REASON -->`` is left out, and so is `experiments/pdxe.yaml`, whose table is not in this repository.
"""

from __future__ import annotations

import ast
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from vtrial.cli import app

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
#: loose gates and as few draws as a fit takes: what is tested is that a command runs
TINY = {
    "fit": {
        "chains": 2, "warmup": 10, "draws": 30, "block": 20, "svi_steps": 50, "max_tree_depth": 3,
        "gates": {
            "rhat": 100, "rhat_pdx_model": 100, "ess_bulk": 0.1, "ess_tail": 0.1, "divergences": 1,
            "max_tree_depth_share": 1,
        },
    },
    "mice": {"min_models": 3, "replicates": 20},
    "trial": {"draws": 60, "patients": 50},
}  # fmt: skip
#: a form, not a command: FILE, DIR, RUN_DIR, [--quick], a|b, ...
FORM = re.compile(r"(?<![\w-])[A-Z][A-Z_]+(?![\w])|[\[|]|\.\.\.")
FITS = ("run", "fit", "crossvalidate")


class Block(NamedTuple):
    """A block of code: its language, its title, its text, the reason why it is not run, and its line."""

    language: str
    title: str
    text: str
    reason: str
    line: int

    def commands(self) -> Iterator[str]:
        """Lines that start a program of this project."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(vtrial|make) [a-z]", line) and not line.strip().startswith("vtrial: "):
                yield line.strip()


def blocks_of(page: Path) -> list[Block]:
    """Fenced and indented blocks of a page, in their order."""
    found, reason = [], ""
    lines, place = page.read_text(encoding="utf-8").splitlines(), 0
    while place < len(lines):
        line, begun = lines[place], place + 1
        if left_out := re.fullmatch(r"\s*<!-- not run: (.+) -->", line):
            reason = left_out[1]
        elif fence := re.match(r"```(\w*)(?: title=\"([^\"]+)\")?$", line):
            end = next(i for i in range(place + 1, len(lines)) if lines[i].startswith("```"))
            found.append(Block(fence[1], fence[2] or "", "\n".join(lines[place + 1 : end]), reason, begun))
            place, reason = end, ""
        elif line.startswith("    ") and (not place or not lines[place - 1].strip()):
            after = (i for i in range(place, len(lines)) if lines[i].strip() and not lines[i].startswith("    "))
            end = next(after, len(lines))
            found.append(Block("", "", "\n".join(one[4:] for one in lines[place:end]), reason, begun))
            place, reason = end - 1, ""
        place += 1
    return found


def steps_of(page: Path) -> list[tuple[str, str]]:
    """What is to be done for a page: ("file", "NAME\\nTEXT"), ("sh", COMMAND) or ("python", CODE)."""
    steps = []
    is_long = page.parent.name == "studies" or page.name == "performance.md"
    for block in blocks_of(page):
        if block.reason:
            continue
        if block.title:
            steps.append(("file", f"{block.title}\n{block.text}\n"))
        elif block.language == "python":
            steps.append(("python", block.text))
        elif block.language in ("sh", "console", ""):
            commands = [line.partition(" #")[0].strip() for line in block.commands() if line.startswith("vtrial ")]
            if block.language == "":
                commands = [line for line in commands if not FORM.search(line) and len(line.split()) > 2]
            if is_long:  # minutes to hours each: their experiments are checked
                commands = [re.sub(r"^vtrial (run|fit) (\S+).*", r"vtrial check \2", one) for one in commands]
                commands = [one for one in commands if one.startswith("vtrial check experiments/")]
            steps += [("sh", line) for line in dict.fromkeys(commands) if "experiments/pdxe.yaml" not in line]
    return steps


#: runs steps in one process, which knows the compiled programs of those before; prints each before it begins
DRIVER = f"""
import json, pathlib, shlex, sys, yaml
from vtrial.cli import main
TINY = {TINY!r}
for kind, text in json.loads(sys.stdin.read()):
    print(">>>", text.splitlines()[0], flush=True)
    if kind == "file":
        name, _, body = text.partition("\\n")
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    elif kind == "python":
        exec(compile(text, "page", "exec"), {{}})
    else:
        words = shlex.split(text, comments=True)[1:]
        if words[0] in {FITS!r} and "--quick" not in words:
            words.append("--quick")
        if words[0] == "validate" and "--draws" not in words:
            words += ["--draws", "50", "--patients", "500"]
        if words[0] == "run" and "--out" not in words:
            words += ["--reuse-fits", "runs"]  # the folder of the tutorial: the same fit
        if words[0] == "run" and words[1].startswith("experiments/"):
            words += [part for section in ("fit", "trial") for key, value in TINY[section].items()
                      for part in ("--set", f"{{section}}.{{key}}={{json.dumps(value)}}")]
        if code := main(words):
            sys.exit(f"{{text}}: exit code {{code}}")
        if words[0] == "new":
            file = pathlib.Path(words[1]) / "experiment.yaml"
            file.write_text(file.read_text() + "\\nquick: " + json.dumps(TINY) + "\\n")
"""


def environment(cache: Path) -> dict[str, str]:
    """What makes a process compile fast and find this checkout; compiled programs go into `cache`."""
    return {
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(REPOSITORY),
        "VTRIAL_CACHE": str(cache),
    }


def follow(steps: Sequence[tuple[str, str]], folder: Path, cache: Path) -> str:
    """Do the steps in a folder; returns what they printed."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(steps), capture_output=True, text=True, cwd=folder,
        env=os.environ | environment(cache), check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def followed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder in which the tutorial was followed, once for all workers; `said` holds what was printed."""
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "followed"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "said").exists():
            shutil.rmtree(place / "folder", ignore_errors=True)
            (place / "folder").mkdir()
            (place / "said").write_text(follow(steps_of(TUTORIAL), place / "folder", place / "cache"))
    return place


@pytest.mark.workflow
def test_the_tutorial_can_be_followed(followed: Path) -> None:
    """Each command of it has done what the page says: a page to open, the rate of the combination, a comparison."""
    folder = followed / "folder"
    assert (folder / "runs" / "first" / "report.html").stat().st_size > 100_000
    assert len(list((folder / "runs" / "my-study").iterdir())) == 1 and (folder / "compare.html").exists()
    said = (followed / "said").read_text()
    first = said[said.index(">>> vtrial run") : said.index(">>> vtrial run my-study/experiment.yaml\n")]
    assert re.search(r"^trametinib 2 mg \+ drug-x 50 mg +all +\d+\.\d %", first, re.MULTILINE)
    assert "trial.visits.every_days" in said[said.index(">>> vtrial compare") :]


RUN = [page for page in PAGES if page != TUTORIAL and steps_of(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_of_a_page_run(page: Path, followed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(followed / "folder", folder)
    for name in ("experiments", "priors"):
        (folder / name).symlink_to(REPOSITORY / name)
    follow(steps_of(page), folder, followed / "cache")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_command_of_a_block_is_run_or_says_why_not(page: Path) -> None:
    """What is left out without a reason is a form, of which no file or folder is named: FILE, RUN_DIR, [--quick]."""
    done = {text for kind, text in steps_of(page) if kind == "sh"}
    for block in blocks_of(page):
        for line in block.commands():
            said = line.partition(" #")[0].strip()
            if block.reason or not said.startswith("vtrial ") or said in done or "experiments/pdxe.yaml" in said:
                continue
            assert FORM.search(said) or len(said.split()) == 2, f"{page.name}:{block.line}: {said}"
            assert not re.search(r"\.(yaml|csv|gz|nc)\b|runs/|my-study", said), f"{page.name}:{block.line}: {said}"


def names_and_options() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    return {
        name: {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_mention_of_a_command_is_one(page: Path) -> None:
    """In blocks and in running text: the command exists, and so does each of its options; so does a target of make."""
    known = names_and_options()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`((?:vtrial|make) [a-z][^`\n]*)`", text)
    for said in [*inline, *(line for block in blocks_of(page) for line in block.commands())]:
        said = said.partition(" #")[0]
        program, name, *_ = said.split()
        if program == "make":
            assert name.rstrip(";,") in targets, f"{page.name}: {said}"
            continue
        if " | " in said:  # `vtrial check | run | fit`
            assert {part.split()[0] for part in said[len("vtrial ") :].split(" | ")} <= set(known), said
            continue
        assert name in known, f"{page.name}: {said}"
        unknown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]+", said)) - known[name]
        assert not unknown, f"{page.name}: {said}: {unknown}"


def test_the_pages_of_the_site_are_laid_out(tmp_path: Path) -> None:
    """Links between pages lead somewhere, the navigation names every page, the reference has every command and key."""
    spec = importlib.util.spec_from_file_location("build_site", REPOSITORY / "docs" / "build_site.py")
    assert spec is not None and spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    config = yaml.safe_load(site.lay_out(tmp_path).read_text())
    commands = (tmp_path / "pages" / "reference" / "commands.md").read_text()
    assert all(f"## vtrial {name}\n" in commands for name in names_and_options())
    settings = (tmp_path / "pages" / "reference" / "settings.md").read_text()
    assert "| `loss_rate` |" in settings and "| `grid` |" in settings and "| `partition` |" in settings
    api = {file.stem for file in (tmp_path / "pages" / "reference" / "api").glob("*.md")}
    assert {"vtrial", "vtrial.study", "vtrial.trial", "vtrial.report.page"} <= api
    assert config["theme"]["font"] is False and config["nav"][0] == {"vtrial": "index.md"}
    assert site.relinked("[two\nlines](model.md)", REPOSITORY / "docs" / "words.md") == "[two\nlines](model.md)"
    index = site.relinked("[two\nlines](docs/model.md)", REPOSITORY / "README.md")
    assert index == "[two\nlines](model.md)"
    with pytest.raises(SystemExit, match="no such file"):
        site.relinked("[gone](gone.md)", REPOSITORY / "docs" / "model.md")


def cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse("".join(cell["source"]))
    assert cells(notebook)[0]["cell_type"] == "markdown"


@pytest.mark.parametrize(
    "makes_its_run", [pytest.param(False, marks=pytest.mark.workflow), pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    notebook: Path, makes_its_run: bool, followed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, on the run of the tutorial or on the one that it makes where it is given none."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name, value in environment(followed / "cache").items():
        monkeypatch.setenv(name, value)
    if not makes_its_run:
        shutil.copytree(followed / "folder", tmp_path, dirs_exist_ok=True)
        monkeypatch.setenv("VTRIAL_RUN", "runs/first")
    read = nbformat.read(notebook, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(read, timeout=1200, kernel_name="python3", resources=place).execute()
    shown = [one for cell in read.cells if cell.cell_type == "code" for one in cell.outputs]
    assert not [one for one in shown if one.output_type == "error"]
    assert any("text/html" in one.get("data", {}) for one in shown)
