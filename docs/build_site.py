"""The docs as a site: pages and README laid out in build/docs, the reference written from the code, zensical started.

    python docs/build_site.py

Nothing is fetched from a network. A link to a file that is not there stops the build; one to a file of the repository
that is no page becomes its name.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from vtrial.cli import app
from vtrial.new import schema
from vtrial.slurm import Cluster
from vtrial.sweep import SweepFile

REPOSITORY = Path(__file__).resolve().parent.parent
#: files of the repository that are pages too
EXTRA = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[([^\]\n]+(?:\n[^\]\n]+)?)\]\(([^)\s]+)\)")  # words may go on on the next line


def page_of(target: Path) -> Path | None:
    """Place in the site of a file of the repository; None where it is no page."""
    inside = target.relative_to(REPOSITORY)
    if str(inside) in EXTRA:
        return Path(EXTRA[str(inside)])
    if inside.parts[0] == "docs" and inside.suffix == ".md":
        return inside.relative_to("docs")
    return None


def relinked(text: str, source: Path) -> str:
    """The text of a page with its links between files of the repository turned into links between pages.

    Raises
    ------
    SystemExit
        At a link to a file that is not there.
    """
    own = page_of(source)
    assert own is not None

    def link(match: re.Match[str]) -> str:
        words, address = match.groups()
        file, mark, anchor = address.partition("#")
        if not file or "://" in address or address.startswith("mailto:"):
            return match.group()
        target = (source.parent / file).resolve()
        if not target.is_relative_to(REPOSITORY) or not target.exists():
            raise SystemExit(f"{source.relative_to(REPOSITORY)}: {address}: there is no such file")
        page = page_of(target)
        if page is None:
            return f"{words} (`{target.relative_to(REPOSITORY)}`)" if words.strip("`") not in str(target) else words
        up = "../" * (len(own.parts) - 1)
        return f"[{words}]({up}{page.as_posix()}{mark}{anchor})"

    return LINK.sub(link, text)


def cells(*values: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(value).replace("|", "\\|").replace("\n", " ") for value in values) + " |"


def commands_page() -> str:
    """`vtrial --help` of every command."""
    runner = CliRunner()

    def told(*arguments: str) -> str:
        shown = runner.invoke(
            app, [*arguments, "--help"], prog_name="vtrial", terminal_width=110, env={"COLUMNS": "110"}
        )
        if shown.exit_code:
            raise SystemExit(f"vtrial {' '.join(arguments)} --help: {shown.output}")
        return f"```text\n{shown.output.strip()}\n```\n"

    names = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback]
    head = "# Commands\n\nEvery command as `vtrial COMMAND --help` shows it.\n"
    return "\n".join([head, told(), *(f"## vtrial {name}\n\n{told(name)}" for name in names)])


def kind_of(field: Mapping[str, Any]) -> str:
    """What a value of a field of a JSON schema may be, in words."""
    if "$ref" in field:
        return f"section {linked(field['$ref'])}"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind_of(one) for one in field["anyOf"]))
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type", "any")
    if kind == "array":
        return f"list of {kind_of(field.get('items', {}))}"
    if kind == "object":
        values = field.get("additionalProperties")
        return f"mapping to {kind_of(values)}" if isinstance(values, dict) else "mapping"
    kind = {"string": "text", "boolean": "true or false", "null": "null"}.get(kind, kind)
    sides = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[side]:g}" for side, sign in sides.items() if side in field]
    return " ".join([kind, ", ".join(limits)]).strip()


def linked(reference: str) -> str:
    """A link to the section of a `$ref`."""
    name = reference.rsplit("/", 1)[-1]
    return f"[{name}](#{name.lower()})"


def settings_of(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Tables of a JSON schema: one of the file and one a section."""
    for name, model in {title: found, **found.get("$defs", {})}.items():
        yield f"{'##' if name == title else '###'} {name}\n"
        yield f"{model.get('description', '').split(chr(10) + chr(10))[0]}\n"
        yield cells("key", "value", "default", "meaning")
        yield "|---|---|---|---|"
        for key, field in model["properties"].items():
            must = key in model.get("required", ())
            is_section = isinstance(field.get("default"), dict) and field["default"]
            default = "required" if must else "its defaults" if is_section else f"`{json.dumps(field.get('default'))}`"
            yield cells(f"`{key}`", kind_of(field), default, field.get("description", ""))
        yield ""


def settings_page() -> str:
    """Every key of the files that users write."""
    head = (
        "# Settings\n\nEvery key of an experiment file, of a sweep file and of a cluster profile. `vtrial schema` "
        "writes the first as a JSON schema for editors; `--set SECTION.KEY=VALUE` changes one on the command line.\n"
    )
    experiment = settings_of("Experiment file", schema())
    sweep = settings_of("Sweep file", SweepFile.model_json_schema())
    cluster = settings_of("Cluster profile", Cluster.model_json_schema())
    return "\n".join([head, *experiment, *sweep, *cluster])


def api_pages() -> Iterator[tuple[str, str]]:
    """A page per module, from its docstrings, and an index of their first lines."""
    index = ["# API\n", "Every module with its first line; `vtrial` and `study` are what a notebook needs.\n"]
    index += [cells("module", "what"), "|---|---|"]
    modules = sorted((REPOSITORY / "vtrial").rglob("*.py"))
    for file in modules:
        parts = list(file.relative_to(REPOSITORY).with_suffix("").parts)
        if parts[-1] == "__main__":
            continue
        if parts[-1] == "__init__":
            parts.pop()
        name = ".".join(parts)
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = said.split("\n\n")[0].replace("\n", " ")
        index.append(cells(f"[`{name}`]({name}.md)", first))
        yield f"reference/api/{name}.md", f"---\ntitle: {name}\n---\n\n# `{name}`\n\n::: {name}\n"
    yield "reference/api/index.md", "\n".join(index) + "\n"


def expanded(nav: list[Any], pages: set[str]) -> list[Any]:
    """The navigation with its patterns replaced by pages, each once, which are taken out of `pages`."""
    out: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, below),) = entry.items()
            inside = expanded(below if isinstance(below, list) else [below], pages)
            out += [{title: inside if isinstance(below, list) else inside[0]}] if inside else []
            continue
        found = sorted(page for page in pages if Path(page).match(entry) and page.count("/") == entry.count("/"))
        if not found and "*" not in entry:
            raise SystemExit(f"docs/site.yaml: nav: there is no page {entry}")
        pages.difference_update(found)
        out += found
    return out


def lay_out(build: Path) -> Path:
    """Write the pages and the configuration of zensical into a new folder; returns the configuration's file.

    Raises
    ------
    SystemExit
        At a page that the navigation does not name, or a link to a file that is not there.
    """
    place = build / "pages"
    sources = [*(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / name for name in EXTRA)]
    texts = {str(page_of(source)): relinked(source.read_text(encoding="utf-8"), source) for source in sources}
    texts |= {"reference/commands.md": commands_page(), "reference/settings.md": settings_page(), **dict(api_pages())}
    for name, text in texts.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    for picture in (one for kind in ("svg", "png") for one in (REPOSITORY / "docs").rglob(f"*.{kind}")):
        target = place / picture.relative_to(REPOSITORY / "docs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target)
    config = yaml.safe_load((REPOSITORY / "docs" / "site.yaml").read_text(encoding="utf-8"))
    pages = set(texts)
    config["nav"] = expanded(config["nav"], pages)
    if pages:
        raise SystemExit(f"docs/site.yaml: nav: no entry for {', '.join(sorted(pages))}")
    for plugin in config["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            plugin["mkdocstrings"]["handlers"]["python"]["paths"] = [str(REPOSITORY)]
    config |= {"docs_dir": "pages", "site_dir": "site"}
    file = build / "mkdocs.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//""")


def main() -> None:
    """Build, and look for anything that a page would fetch."""
    build = REPOSITORY / "build" / "docs"
    shutil.rmtree(build, ignore_errors=True)
    file = lay_out(build)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(file)], check=True)
    site = build / "site"
    fetching = [page for page in site.rglob("*.html") if FETCHED.search(page.read_text(encoding="utf-8"))]
    if fetching:
        raise SystemExit(f"fetches something from a network: {', '.join(str(page) for page in fetching[:5])}")
    print(site / "index.html")


if __name__ == "__main__":
    main()
