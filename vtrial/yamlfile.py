"""YAML files read safely: plain data, the line of every key, and every fault as one InputError.

PyYAML's own loader takes the last of two equal keys, reads ``1e-3`` as text and ``on`` as a truth value, and lets a few
lines of aliases grow into gigabytes. Here the events of its parser are read one by one, so that nothing is built before
it has been judged. Scalars follow the core schema of YAML 1.2; the keys of a mapping are always text.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from vtrial.errors import InputError

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 40
SHOWN = 80

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class YamlDocument:
    """A mapping read from a file, with the place of every key.

    Attributes
    ----------
    file : Path
        The file that was read.
    data : dict
        Plain data: dict, list, str, int, float, bool, None.
    lines : dict
        Path of keys and list indices, for example ``("trial", "cohorts", 0, "arms")``, to the line, counted from 1.
    overrides : dict
        Path of keys to the text on the command line that set it; such a key has no line.
    """

    file: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int]
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """Line of the key, or of the nearest key above it that the file holds."""
        return next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), None)

    def error(self, message: str, path: KeyPath) -> InputError:
        """Build the error about one key: it names the file and line, or the option that set the key."""
        key = shortened_text(".".join(map(str, path)), 200) or None
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                return InputError(message, file=f"--set {shortened_text(self.overrides[path[:end]])}", key=key)
            if path[:end] in self.lines:
                return InputError(message, file=self.file, line=self.lines[path[:end]], key=key)
        return InputError(message, file=self.file, key=key)


def read_yaml(path: str | os.PathLike[str]) -> YamlDocument:
    """Read a YAML file whose top level is a mapping.

    Raises
    ------
    InputError
        With the file, and the line and key where there is one, for anything that cannot be read safely.
    """
    file = Path(path)
    text = _decoded(_file_bytes(file), file)
    lines: dict[KeyPath, int] = {}
    data = _Reader(text, file, lines).document()
    if data is None:
        raise InputError("is empty; a mapping of `key: value` lines is needed", file=file)
    if not isinstance(data, dict):
        raise InputError(f"must hold a mapping of `key: value` lines, found {shown(data)}", file=file, line=1)
    return YamlDocument(file, data, lines)


def parse_yaml_value(text: str, source: str) -> Any:
    """Read one YAML value, such as the right side of ``--set KEY=VALUE``; an empty text is None."""
    return _Reader(text, source, {}).document()


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML that both this reader and a YAML 1.1 reader take back unchanged, in the given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def fault(message: str, *at: str | int, names: Iterable[str] = ()) -> PydanticCustomError:
    """Build the error that a pydantic validator raises about a key ``at`` below the one it looks at.

    ``names`` are the allowed values; the nearest one is told.
    """
    return PydanticCustomError("fault", "{message}", {"message": message, "at": at, "names": tuple(names)})


def validated(model: type[Model], document: YamlDocument) -> Model:
    """Check the document against a pydantic model.

    Raises
    ------
    InputError
        The first fault (unknown keys before all others, because a misspelt key also makes one missing) and how many
        more there are.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        # Inputs are left out: pydantic would write each of them in full.
        faults = error.errors(include_input=False, include_url=False)
    # A list or mapping with one bad item is called too short as well, because the item was not counted.
    places = {one["loc"][:end] for one in faults for end in range(len(one["loc"]))}
    faults = [one for one in faults if one["type"] != "too_short" or one["loc"] not in places]
    faults.sort(key=lambda one: one["type"] != "extra_forbidden")
    first = faults[0]
    context = first.get("ctx", {})
    path: KeyPath = tuple(step for step in first["loc"] if step != "[key]") + tuple(context.get("at", ()))
    is_key = first["loc"][-1:] == ("[key]",)
    message = _sentence(model, document, first["type"], first["msg"], path, context.get("names"), is_key)
    if len(faults) > 1:
        message += f" (and {len(faults) - 1} more)"
    raise document.error(message, path)


def nearest(word: object, names: Iterable[object]) -> str:
    """Give ``; did you mean 'x'?`` for the name that looks most like the word, or an empty text."""
    found = difflib.get_close_matches(str(word)[:100], [str(name) for name in names], n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def nearest_file(path: Path) -> str:
    """Give ``; did you mean 'x'?`` for a path that does not exist: a name like it in its folder, or its end elsewhere.

    Elsewhere is below the folders above it or the working folder: a path is easily written relative to another folder.
    """
    with contextlib.suppress(OSError):
        # by their stems: a common ending makes any two names alike
        there = {one.stem: one.name for one in path.parent.iterdir()} if path.parent.is_dir() else {}
        if near := difflib.get_close_matches(path.stem, there, n=1):
            return f"; did you mean {there[near[0]]!r}?"
        starts = [one for one in (*list(path.parents)[:4], Path.cwd()) if one.is_dir()]
        within = [one for start in starts[:2] for one in sorted(start.iterdir()) if one.is_dir()]
        for size in (3, 2, 1):
            for start in (*starts, *within):
                if (found := start.joinpath(*path.parts[-size:])).is_file():
                    return f"; did you mean {str(found)!r}?"
    return ""


def shown(value: object) -> str:
    """Describe a value in at most about 80 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys" if len(value) != 1 else "a mapping of 1 key"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(shortened_text(value) if isinstance(value, str) else value)


def shortened_text(text: str, limit: int = SHOWN) -> str:
    """Cut a text in its middle to ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit - 23]} ... {text[-18:]}"


def _file_bytes(file: Path) -> bytes:
    try:
        if file.is_dir():
            inside = sorted(file.glob("*.yaml"))
            own = next((one for one in inside if one.stem == "experiment"), inside[0] if len(inside) == 1 else None)
            near = f"; did you mean {str(own)!r}?" if own else ""
            raise InputError(f"is a folder; the path of a YAML file is needed{near}", file=file)
        if not file.exists():
            raise InputError("does not exist" + nearest_file(file), file=file)
        if not file.is_file():
            raise InputError("is not a regular file", file=file)
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"cannot be read: {reason}", file=shortened_text(str(file), 300)) from None
    if len(content) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES // 1024**2} MiB, the most a YAML file may have", file=file)
    return content


def _decoded(content: bytes, file: Path) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("is UTF-16 text; save it as UTF-8", file=file, line=1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise InputError(f"is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8", file=file, line=line) from None


class _Reader:
    """One pass over the events of one document."""

    def __init__(self, text: str, file: Path | str, lines: dict[KeyPath, int]):
        self.text, self.file, self.lines = text, file, lines
        self.line = 1
        self.events = self._events()

    def document(self) -> Any:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        data = self._value(next(self.events), (), 0)
        next(self.events)  # the end of the document
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise self._fault("holds more than one document; keep one and drop the line `---`")
        return data

    def _events(self) -> Iterator[Any]:
        try:
            for event in yaml.parse(self.text, Loader=yaml.SafeLoader):
                self.line = event.start_mark.line + 1
                yield event
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.line = mark.line + 1 if mark else self.line
            reason = "; ".join(part for part in (error.context, error.problem) if part)
            raise self._fault(f"is not valid YAML: {reason}") from None
        except yaml.reader.ReaderError as error:
            self.line = self.text.count("\n", 0, error.position) + 1
            code = ord(error.character) if isinstance(error.character, str) else error.character
            raise self._fault(f"holds the character U+{code:04X}, which YAML does not allow") from None
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
            raise self._fault(f"is not valid YAML: {shortened_text(str(error))}") from None

    def _fault(self, message: str, path: KeyPath = (), line: int | None = None) -> InputError:
        key = shortened_text(".".join(map(str, path)), 200) or None
        inline = isinstance(self.file, str)  # a text from the command line has no lines
        return InputError(message, file=self.file, line=None if inline else line or self.line, key=key)

    def _value(self, event: Any, path: KeyPath, depth: int) -> Any:
        line = event.start_mark.line + 1
        self.lines.setdefault(path, line)  # a key of a mapping has set its own line already
        if depth > MAX_DEPTH:
            raise self._fault(f"is nested more than {MAX_DEPTH} levels deep", path[:6])
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            name = shortened_text(f"{sign}{event.anchor}", 40)
            what = "anchors (&) and aliases (*) are not allowed; write the value out, or put the text in quotes"
            raise self._fault(f"found {name!r}: {what}", path, line)
        if event.tag is not None:
            tag = shortened_text(event.tag)
            what = "tags (!) are not allowed; write a plain value, or put the text in quotes"
            raise self._fault(f"found the tag {tag!r}: {what}", path, line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                items.append(self._value(item, (*path, len(items)), depth + 1))
            return items
        return self._mapping(path, depth)

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag is not None:
                raise self._fault("a key must be plain text, without anchor, alias or tag", path, line)
            key = self._checked_text(event.value, path)
            if not key:
                raise self._fault("a key is empty", path, line)
            if key in mapping:
                first = self.lines[(*path, key)]
                raise self._fault(f"is given twice (first on line {first}); keep one", (*path, key), line)
            self.lines[(*path, key)] = line
            mapping[key] = self._value(next(self.events), (*path, key), depth + 1)
        return mapping

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # in quotes, or a block of text
            return self._checked_text(text, path)
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.match(text):
            # 19 digits are checked first: Python refuses to read thousands of them.
            number = int(text, 0 if text[:2] in ("0o", "0x") else 10) if len(text) <= 22 else 2**64
            if abs(number) >= 2**63:
                raise self._fault(f"must be a number below 2^63, found {shown(text)}", path)
            return number
        if _NOT_FINITE.match(text) or (_FLOAT.match(text) and not math.isfinite(float(text))):
            raise self._fault(f"must be a finite number, found {shown(text)}", path)
        return float(text) if _FLOAT.match(text) else self._checked_text(text, path)

    def _checked_text(self, text: str, path: KeyPath) -> str:
        if unwanted := _UNWANTED.search(text):
            raise self._fault(f"holds the control character U+{ord(unwanted[0]):04X}; remove it", path)
        return text


class _Dumper(yaml.SafeDumper):
    """Quotes whatever text either schema would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))

_MUST_BE = {
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping of `key: value` lines",
    "model_type": "must be a mapping of `key: value` lines",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def _sentence(
    model: type,
    document: YamlDocument,
    kind: str,
    message: str,
    path: KeyPath,
    names: Iterable[str] | None,
    is_key: bool,
) -> str:
    """Say what is wrong, what was found and what is allowed."""
    above = _annotation_at(model, path[:-1])
    fields = above.model_fields if isinstance(above, type) and issubclass(above, BaseModel) else {}
    if kind == "extra_forbidden":
        keys = [field.alias or name for name, field in fields.items()]
        return f"unknown key{nearest(path[-1], keys)} (allowed here: {', '.join(keys)})"
    about = fields[str(path[-1])].description if path and path[-1] in fields else None
    about = f" ({about})" if about else ""
    if kind == "missing":
        return f"is missing{about}"
    text = _MUST_BE.get(kind) or re.sub(r"^(Value error, |\w+ should )", _opening, message)
    text = re.sub(r" after validation, not \d+$", "", text)
    if is_key:
        return f"the name of this key {text}"
    value = document.data
    for step in path:
        try:
            value = value[step]  # pyright: ignore[reportArgumentType]
        except (KeyError, IndexError, TypeError):
            return text + about
    if kind == "fault" and isinstance(value, dict | list):
        return text + about
    if kind == "string_type" and isinstance(value, int | float):
        text += " (put it in quotes)"
    names = re.findall(r"'([^']*)'", text) if kind == "literal_error" else names or ()
    hint = nearest(value, names) if isinstance(value, str) else ""
    return f"{text}, found {shown(value)}{hint}{about}"


def _opening(match: re.Match[str]) -> str:
    return "" if match[0].startswith("Value error") else "must "


def _annotation_at(annotation: Any, path: KeyPath) -> Any:
    """Type that a model states for the value at a path; None where it states none."""
    for step in (*path, None):
        while (origin := get_origin(annotation)) in (Annotated, Union) or type(annotation).__name__ == "UnionType":
            inner = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
            annotation = next(one for one in inner if one is not type(None))
        if step is None:
            return annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            known = annotation.model_fields.get(str(step))
            annotation = known.annotation if known else None
        else:
            arguments = get_args(annotation)
            annotation = None if not arguments else arguments[1] if origin is dict else arguments[0]
    return annotation
