"""The YAML reader: what it takes, and each thing it refuses, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrial.errors import InputError
from vtrial.yamlfile import MAX_BYTES, dump_yaml, parse_yaml_value, read_yaml, shown

BAD_BYTES = [
    ("empty", b"", ["is empty", "mapping"]),
    ("only a comment", b"# nothing\n", ["is empty"]),
    ("a list", b"- a\n- b\n", [":1:", "must hold a mapping", "a list of 2"]),
    ("a word", b"word\n", [":1:", "must hold a mapping", "'word'"]),
    ("UTF-16", "a: 1\n".encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
    ("latin-1", "a: 1\nb: Tumorgröße\n".encode("latin-1"), [":2:", "is not UTF-8", "0xf6", "save it as UTF-8"]),
    ("binary", b"a: 1\nb: \x00\x01\n", [":2:", "U+0000"]),
    ("gzip", bytes.fromhex("1f8b0800") + b"\x00" * 9, ["is not UTF-8"]),
    (
        "duplicate key",
        b"a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n",
        [":5:", "b.c:", "given twice (first on line 3)", "keep one"],
    ),
    ("duplicate key in quotes", b"a: 1\n'a': 2\n", [":2:", "a:", "given twice"]),
    ("anchor", b"a: 1\nb: &x [1]\n", [":2:", "b:", "'&x'", "not allowed"]),
    ("alias", b"a: 1\nb:\n  - *x\n", [":3:", "b.0:", "'*x'", "not allowed"]),
    ("alias as a key", b"a: 1\n*x : 2\n", [":2:", "key must be plain text"]),
    ("merge key", b"a: {<<: *x}\n", [":1:", "a.<<:", "'*x'", "not allowed"]),
    ("python object", b"a: 1\nb: !!python/object/apply:os.system ['true']\n", [":2:", "b:", "python/object", "tags"]),
    ("harmless tag", b"a: !!str 1\n", [":1:", "a:", "tags", "quotes"]),
    ("tag on a key", b"!!str a: 1\n", [":1:", "key must be plain text"]),
    ("list as a key", b"? [a, b]\n: 1\n", [":1:", "key must be plain text"]),
    ("empty key", b"a:\n  '': 1\n", [":2:", "a:", "a key is empty"]),
    ("not a number", b"a: .nan\n", [":1:", "a:", "finite number", "'.nan'"]),
    ("infinity", b"a: [1, -.inf]\n", [":1:", "a.1:", "finite number", "'-.inf'"]),
    ("overflow", b"a: 1e999\n", [":1:", "a:", "finite number", "'1e999'"]),
    ("large whole number", b"a: " + b"9" * 10_000 + b"\n", [":1:", "a:", "below 2^63", "999 ... 999"]),
    ("two documents", b"a: 1\n---\nb: 1\n", [":2:", "more than one document"]),
    ("tab", b"a: 1\n\tb: 2\n", [":2:", "not valid YAML"]),
    ("no end", b"a: [1, 2\n", ["not valid YAML"]),
    ("bad indent", b"a: 1\n  b: 2\n", [":2:", "not valid YAML", "mapping values are not allowed here"]),
    ("escaped NUL", b'a: "x\\0y"\n', [":1:", "a:", "U+0000"]),
    ("lone surrogate", b'a: "\\uD800"\n', [":1:", "a:", "U+D800"]),
    ("no such character", b'a: "\\UFFFFFFFF"\n', ["not valid YAML"]),
    ("deep", b"a: " + b"[" * 20_000, [":1:", "nested more than 40 levels"]),
    ("deep blocks", b"".join(b" " * i + b"a:\n" for i in range(60)), ["nested more than 40 levels"]),
    ("large", b"a: 1\n" + b"#" * MAX_BYTES, ["larger than 2 MiB"]),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in BAD_BYTES], ids=[case[0] for case in BAD_BYTES])
def test_refuses(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:")
    assert "\n" not in message
    assert len(message) < len(str(file)) + 400
    for part in expected:
        assert part in message


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match="is a folder"):
        read_yaml(tmp_path)
    with pytest.raises(InputError, match=r"does not exist; did you mean 'experiment.yaml'"):
        read_yaml(tmp_path / "experiment.yml")
    with pytest.raises(InputError, match="does not exist"):
        read_yaml(tmp_path / "no" / "experiment.yaml")
    with pytest.raises(InputError, match="not a regular file"):
        read_yaml("/dev/zero")
    with pytest.raises(InputError):
        read_yaml(tmp_path / ("x" * 5000))
    with pytest.raises(InputError):
        read_yaml("a\0b")


def test_aliases_that_explode_are_refused_at_once(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(rows))
    # 9^12 items if they were followed: it would not come back
    with pytest.raises(InputError, match=r"bomb.yaml:1: a0: .*not allowed"):
        read_yaml(file)


SCALARS = [
    ("1e-3", 1e-3),
    ("1E5", 1e5),
    ("-.5", -0.5),
    ("2.", 2.0),
    ("+3", 3),
    ("010", 10),
    ("0o17", 15),
    ("0xff", 255),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2020-01-01", "2020-01-01"),
    ("on", "on"),
    ("off", "off"),
    ("yes", "yes"),
    ("No", "No"),
    ("y", "y"),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("'1e-3'", "1e-3"),
    ('"true"', "true"),
    ("nan", "nan"),
    ("=", "="),
    ("3.2 mg", "3.2 mg"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = parse_yaml_value(text, "--set a")
    assert read == value
    assert type(read) is type(value)


def test_keys_are_text_and_have_lines(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_bytes(
        b"\xef\xbb\xbf# a comment\non: 21 d\nnull: 1\n3: x\nb:\n  - c: 1\n    d:\n      2\n  - [5,\n     6]\n"
    )
    document = read_yaml(file)
    assert document.data == {"on": "21 d", "null": 1, "3": "x", "b": [{"c": 1, "d": 2}, [5, 6]]}
    expected = {("on",): 2, ("null",): 3, ("3",): 4, ("b",): 5, ("b", 0): 6, ("b", 0, "c"): 6, ("b", 0, "d"): 7}
    assert {path: line for path, line in document.lines.items() if path in expected} == expected
    assert document.lines["b", 1, 1] == 10
    assert document.line(("b", 0, "none", "such")) == 6  # the nearest key above
    assert str(document.error("is wrong", ("b", 0, "e"))) == f"{file}:6: b.0.e: is wrong"


def test_value_of_an_option_names_the_option() -> None:
    with pytest.raises(InputError, match=r"^--set a=&x 1: found '&x'"):
        parse_yaml_value("&x 1", "--set a=&x 1")
    assert parse_yaml_value("{a: [1, 2]}", "--set a") == {"a": [1, 2]}


def test_shown_is_short() -> None:
    assert shown("x" * 10_000).count("x") < 80
    assert shown(list(range(10**5))) == "a list of 100000"
    assert shown({}) == "a mapping of 0 keys"
    assert shown(None) == "nothing"
    assert shown(True) == "true"


words = st.one_of(
    st.text(max_size=12).filter(lambda text: text.isprintable()),
    st.sampled_from(
        [text for text, _ in SCALARS] + ["<<", "0b1", "1.5e3", "- a", "a: b", "#", "&a", "!x", "0o8", "\n"]
    ),
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False))
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words.filter(bool), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_what_is_written_is_read_back(data: object) -> None:
    """Property: equal in this reader, and in PyYAML's own (YAML 1.1) where that has the types."""
    text = dump_yaml({"data": data})
    assert parse_yaml_value(text, "round trip") == {"data": data}
    assert yaml.safe_load(text) == {"data": data}
