"""Reading YAML, JSON and text lists that others wrote.

There is one reader for each, with the same limits everywhere: regular files only, of a bounded size, nested to a
bounded depth, with numbers of a bounded length, and no key twice in one mapping. What fails is one typed error that
names the file, the line where there is one, and the fix.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.plain_yaml import DEEPEST, MOST_DIGITS, MOST_NODES, YamlProblem, load
from terrazzo.regular_files import read_regular
from terrazzo.text import printable, show, shown_path

__all__ = [
    "MOST_JSON_BYTES",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_lines",
    "read_yaml",
    "read_yaml_mapping",
]

MOST_YAML_BYTES = 4 << 20
MOST_JSON_BYTES = 16 << 20
MOST_LIST_BYTES = 256 << 20

Error = type[TerrazzoError]


def read_yaml(path: Path, *, error: Error = ConfigError, code: str | None = None) -> Any:
    """Return what a YAML file holds.

    Args:
        path: the file.
        error: the class of what is raised.
        code: of what is raised, instead of the class's own.

    Raises:
        TerrazzoError: of the class `error`: the file cannot be read, or is not YAML as `terrazzo.plain_yaml` reads it.
    """
    return parse_yaml(_read(path, MOST_YAML_BYTES, error, code), shown_path(path), error=error, code=code)


def read_yaml_mapping(path: Path, *, error: Error = ConfigError, code: str | None = None) -> dict[str, Any]:
    """Return the mapping of names that a YAML file holds.

    Raises:
        TerrazzoError: as `read_yaml`, or the file holds something else.
    """
    values = read_yaml(path, error=error, code=code)
    if not isinstance(values, dict):
        raise error(
            f"{shown_path(path)} does not hold `name: value` lines", fix="start from one of recipes/", code=code
        )
    if numbers := [key for key in values if not isinstance(key, str)]:
        raise error(
            f"{shown_path(path)}: the key {show(numbers[0])} is a number, not a name",
            fix="write `name: value` lines",
            code=code,
        )
    return values


def read_json(
    path: Path,
    *,
    error: Error = ConfigError,
    code: str | None = None,
    most_bytes: int = MOST_JSON_BYTES,
    lenient: bool = False,
) -> Any:
    """Return what a JSON file holds.

    Args:
        path: the file.
        error: the class of what is raised.
        code: of what is raised, instead of the class's own.
        most_bytes: the largest file that is read.
        lenient: see `parse_json`.

    Raises:
        TerrazzoError: of the class `error`: the file cannot be read, or is not JSON.
    """
    content = _read(path, most_bytes, error, code)
    return parse_json(content, shown_path(path), error=error, code=code, lenient=lenient)


def read_lines(path: Path, *, error: Error = ConfigError, code: str | None = None) -> list[str]:
    """Return the lines of a text file, which may be UTF-8 with or without a byte order mark, or UTF-16.

    Bytes that are not UTF-8 are kept as `os.fsdecode` keeps them, since a file's name may hold any.

    Raises:
        TerrazzoError: of the class `error`: the file cannot be read, or is not text.
    """
    content = _read(path, MOST_LIST_BYTES, error, code)
    try:
        encoding = _encoding(content)
        text = os.fsdecode(content) if encoding is None else content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise error(f"{shown_path(path)} is not a text file", fix="save it as UTF-8 text", code=code)
    # Not splitlines(), which also splits at characters that names may hold.
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _read(path: Path, most_bytes: int, error: Error, code: str | None) -> bytes:
    try:
        return read_regular(path, most_bytes)
    except FileNotFoundError as missing:
        raise error(
            f"{shown_path(path)} cannot be read: there is no such file", fix="check the path", code=code
        ) from missing
    except OSError as cause:
        raise error(
            f"{shown_path(path)} cannot be read: {cause.strerror}", fix="check the path and its permissions", code=code
        ) from cause


def _encoding(content: bytes) -> str | None:
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else None


def parse_yaml(content: str | bytes, where: str, *, error: Error = ConfigError, code: str | None = None) -> Any:
    """Return what a YAML text holds.

    Args:
        content: the text, or its bytes in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
        where: the file, for messages.
        error: the class of what is raised.
        code: of what is raised, instead of the class's own.

    Raises:
        TerrazzoError: of the class `error`: it is not YAML as `terrazzo.plain_yaml` reads it.
    """
    try:
        text = content if isinstance(content, str) else content.decode(_encoding(content) or "utf-8")
        return load(text)
    except YamlProblem as cause:
        line = "" if cause.line is None else f", line {cause.line}"
        raise error(f"{where}{line}: {cause.problem}", fix=cause.fix, code=code) from cause
    except UnicodeError as cause:
        raise error(f"{where} is not text", fix="save it as UTF-8 text", code=code) from cause


def parse_json(
    content: str | bytes,
    where: str,
    *,
    error: Error = ConfigError,
    code: str | None = None,
    lenient: bool = False,
) -> Any:
    """Return what a JSON text holds.

    Args:
        content: the text, or its bytes in UTF-8, UTF-16 or UTF-32.
        where: the file, for messages.
        error: the class of what is raised.
        code: of what is raised, instead of the class's own.
        lenient: read numbers of any size, NaN and any depth that Python reads: for annotations of
            gigabytes, whose values are each checked where they are used.

    Raises:
        TerrazzoError: of the class `error`: it is not JSON, or exceeds a limit.
    """
    try:
        if lenient:
            return json.loads(content, object_pairs_hook=_no_repeats)
        values = json.loads(
            content, parse_float=_float, parse_int=_integer, parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
        _refuse_depth(values)
        return values
    except RecursionError as cause:
        raise error(
            f"{where}: it is nested deeper than {DEEPEST} levels", fix="check that this is the right file", code=code
        ) from cause
    except json.JSONDecodeError as cause:
        raise error(
            f"{where}, line {cause.lineno}: not valid JSON: {cause.msg}", fix="correct that line", code=code
        ) from cause
    except UnicodeDecodeError as cause:
        raise error(f"{where} is not text", fix="save it as UTF-8 text", code=code) from cause
    except ValueError as cause:
        raise error(f"{where}: {printable(str(cause))}", fix="correct it", code=code) from cause


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {show(text)} is larger than any that can be computed with")
    return value


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {show(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return mapping


def _refuse_depth(values: Any) -> None:
    level, count = [values], 0
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        count += len(level)
        if count > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values")
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")
