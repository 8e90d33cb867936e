"""Nothing runs code from an input: no eval, no pickle, no shell string, no YAML that builds objects, in any module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "vtrial"
CALLS = {"eval", "exec", "__import__", "unsafe_load", "full_load", "read_pickle", "import_module"}
OWNED = {("yaml", "load"), ("os", "system"), ("os", "popen")}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
#: keywords that open the door; `True` opens it
FLAGS = {"shell", "allow_pickle"}


def faults(source: str) -> Iterator[str]:
    """What of the above a module holds, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            yield from (f"{node.lineno}: {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if called in CALLS or (owner, called) in OWNED:
            yield f"{node.lineno}: {called}"
        for keyword in node.keywords:
            if keyword.arg in FLAGS and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                yield f"{node.lineno}: {keyword.arg}"


def test_no_module_runs_what_it_reads() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100  # the package is where it is looked for
    found = {str(file.relative_to(PACKAGE)): list(faults(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: said for name, said in found.items() if said} == {}


def test_each_door_is_seen() -> None:
    source = (
        "import pickle\nfrom joblib import load\neval(x)\nos.system(x)\nyaml.load(x)\nsubprocess.run(x, shell=True)\n"
        "np.load(x, allow_pickle=flag)\npd.read_pickle(x)\nyaml.safe_load(x)\nnp.load(x, allow_pickle=False)\n"
    )
    assert [int(one.partition(":")[0]) for one in faults(source)] == [1, 2, 3, 4, 5, 6, 7, 8]
