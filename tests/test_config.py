"""The readers of YAML, JSON and text lists: what they read, and how they refuse the rest."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.config import parse_json, parse_yaml, read_json, read_lines, read_yaml, read_yaml_mapping
from terrazzo.errors import CheckpointError, ConfigError, TerrazzoError

FORMS = [read_yaml, read_json, read_lines]


@pytest.mark.parametrize(
    "text, value",
    [
        ("seed: 2001-99-99", {"seed": "2001-99-99"}),
        ("when: 2001-12-14 10:00:00", {"when": "2001-12-14 10:00:00"}),
        ("at: 12:30", {"at": "12:30"}),
        ("a: [1, -2, 0x1F, 1_000, 1.5, 6e-5, 6.0e-5, .5]", {"a": [1, -2, 31, 1000, 1.5, 6e-5, 6e-5, 0.5]}),
        ("a: [yes, False, ON, ~, null, '']", {"a": [True, False, True, None, None, ""]}),
        ("a: [!!str 010, '010', !!int 5, !!float 3, !!bool no]", {"a": ["010", "010", 5, 3.0, False]}),
        ("map: {0: ignore, 1: 0}", {"map": {0: "ignore", 1: 0}}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1".encode("utf-16"), {"a": 1}),
        (b"\xef\xbb\xbfa: 1", {"a": 1}),
    ],
)
def test_yaml_is_read_as_plain_values(text: Any, value: object) -> None:
    read = parse_yaml(text, "here")
    assert read == value
    assert repr(read) == repr(value)  # 1 is not True, nor 3 3.0


@pytest.mark.parametrize(
    "text, line, problem",
    [
        ('a: !!int ""', 1, "'' is not what !!int says"),
        ("a: !!int yes", 1, "'yes' is not what !!int says"),
        ("a: 1\nb: !!timestamp x", 2, "the tag !!timestamp is not read"),
        ("a: !!timestamp 2001-01-01", 1, "the tag !!timestamp is not read"),
        ("!!set {a}", 1, "the tag !!set is not read"),
        ("!!omap [a: 1]", 1, "the tag !!omap is not read"),
        ("a: !!binary R0lGODlh", 1, "the tag !!binary is not read"),
        ("a: !!python/object/apply:os.system [ls]", 1, "the tag !!python/object/apply:os.system is not read"),
        ("a: !mine x", 1, "the tag !mine is not read"),
        ("[" * 20_000, 1, "not valid YAML: nested deeper than 64 levels"),
        ("{" * 900 + "}" * 900, 1, "nested deeper than 64 levels"),
        ("".join(" " * level + "a:\n" for level in range(900)), 65, "nested deeper than 64 levels"),
        ("a: " + "5" * 5000, 1, "a number of 5,000 digits"),
        ("a: 0." + "5" * 5000, 1, "a number of 5,002 digits"),
        ("a: 1e+999", 1, "'1e+999' is larger than any number"),
        ("a: .nan", 1, ".nan is not a finite number"),
        ("a: 010", 1, "'010' may be octal or decimal"),
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' occurs twice"),
        ("{1: a, 0x1: b}", 1, "the key 1 occurs twice"),
        ("yes: 1", 1, "True cannot be a key"),
        ("? [a]\n: b", 1, "a list cannot be a key"),
        ("a: &x [*x]", 1, "*x stands for nothing complete"),
        ("a: *x", 1, "*x stands for nothing complete"),
        ("<<: {a: 1}", 1, "merge keys (<<) are not read"),
        ("a: 1\n---\nb: 2", 2, "a second document begins"),
        ("a: [1\nb: 2", 2, "not valid YAML: "),
    ],
)
def test_yaml_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "here.yaml")
    assert caught.value.message.startswith(f"here.yaml, line {line}: {problem}")


def test_aliases_cannot_make_a_small_file_large() -> None:
    names = [f"a{number}" for number in range(12)]
    levels = [f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]" for before, after in pairwise(names)]
    with pytest.raises(ConfigError, match="more than 2,000,000 values"):
        parse_yaml("\n".join(["a0: &a0 [x, x, x]", *levels]), "bomb.yaml")


@pytest.mark.parametrize(
    "text, problem",
    [
        ('{"a": NaN}', "here.json: NaN is not a number"),
        ('{"a": -Infinity}', "here.json: -Infinity is not a number"),
        ('{"a": 9e999}', "here.json: the number '9e999' is larger than any"),
        ('{"a": ' + "1" * 30 + "}", "here.json: a number of 30 digits"),
        ("5" * 5000, "here.json: a number of 5,000 digits"),
        ('{"a": 1, "b": 2, "a": 3}', "here.json: the key 'a' occurs twice"),
        ("[" * 100_000, "here.json: it is nested deeper than 64 levels"),
        ("[" * 65 + "1" + "]" * 65, "here.json: it is nested deeper than 64 levels"),
        ('{"a":\n oops}', "here.json, line 2: not valid JSON: "),
        ("", "here.json, line 1: not valid JSON: "),
        (b"\xff\xfe\x00", "here.json is not text"),
    ],
)
def test_json_is_refused(text: Any, problem: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_json(text, "here.json", error=CheckpointError, code="checkpoint-config")
    assert caught.value.message.startswith(problem)
    assert caught.value.code == "checkpoint-config"


def test_json_in_any_encoding() -> None:
    value = {"name": "Gehölz", "side": [64, 64]}
    text = json.dumps(value, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert parse_json(text.encode(encoding), "here") == value


def test_lenient_json_has_what_labelling_tools_write() -> None:
    read = parse_json('{"area": NaN, "id": ' + "1" * 30 + "}", "here", lenient=True)
    assert math.isnan(read["area"])
    with pytest.raises(ConfigError, match="nested deeper than"):
        parse_json("[" * 100_000, "here", lenient=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_lines_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    path.write_bytes(mark + "Straße\r\nb \u2028c\x0cd\n\nlast".encode(encoding))
    assert read_lines(path) == ["Straße", "b \u2028c\x0cd", "", "last"]


def test_lines_keep_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"stra\xdfe.png\n")
    assert os.fsencode(read_lines(path)[0]) == b"stra\xdfe.png"
    for content in (b"\x89PNG\0\0", "a".encode("utf-16-le"), b"\xff\xfea"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"list\.txt is not a text file"):
            read_lines(path)


@pytest.mark.parametrize("read", FORMS)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.symlink("loop", tmp_path / "loop")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    server.close()
    for path, what in [
        (tmp_path / "pipe", "it is a pipe, not a file"),
        (tmp_path / "folder", "it is a folder, not a file"),
        (tmp_path / "socket", "it is a socket, not a file"),
        (Path("/dev/zero"), "it is a device, not a file"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("a" * 5000), "File name too long"),
        (tmp_path / "a\0b", "no file can have that name"),
    ]:
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert caught.value.message.endswith(f"cannot be read: {what}")
    with pytest.raises(ConfigError, match="nothere cannot be read: there is no such file"):
        read(tmp_path / "nothere")


def test_a_file_of_any_size_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for read in FORMS:
        with pytest.raises(ConfigError, match="it is larger than"):
            read(path)


def test_a_mapping_of_names(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, problem in [
        ("- a", "does not hold `name: value` lines"),
        ("", "does not hold `name: value` lines"),
        ("1: a", "the key 1 is a number, not a name"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_yaml_mapping(path)


yaml_like = st.text("ab01:-[]{}&*!#|>'\"%@,?~<= \n\t.ex_\\\0\x85\ufeff" + "é", max_size=60)


@given(yaml_like | st.text(max_size=40) | st.binary(max_size=40))
def test_any_yaml_is_a_plain_value_or_the_typed_error(text: str | bytes) -> None:
    try:
        value = parse_yaml(text, "here")
    except TerrazzoError as error:
        assert error.message.startswith("here")
        assert error.message.isprintable()
    else:
        assert_plain(value)


@given(st.text('[]{}:,"01.eE-+\\u dNaInfity\n', max_size=40) | st.text(max_size=40) | st.binary(max_size=40))
def test_any_json_is_a_plain_value_or_the_typed_error(text: str | bytes) -> None:
    try:
        value = parse_json(text, "here")
    except TerrazzoError as error:
        assert error.message.startswith("here")
        assert error.message.isprintable()
    else:
        assert_plain(value)
        assert json.loads(text) == value


words = st.text(st.characters(categories=("L", "N", "P", "Zs")))  # PyYAML itself alters a few control characters
finite = st.floats(allow_nan=False, allow_infinity=False)
words = words.filter(lambda word: not re.match("[-+.0-9]", word)) | st.sampled_from(["08", "1e5", "010", "2001-01-01"])
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner) | st.dictionaries(words, inner),
    max_leaves=20,
)


@given(plain)
def test_what_yaml_writes_is_read_back(value: object) -> None:
    import yaml

    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "here") == value
    assert parse_json(json.dumps(value), "here") == value


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            assert type(key) in (str, int)
            assert_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            assert_plain(inner)
    else:
        assert value is None or type(value) in (str, int, bool) or (isinstance(value, float) and math.isfinite(value))
