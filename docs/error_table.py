"""The manual's table of errors, made from the raises in the source, so that it cannot go stale.

A row is one place that fails: ``raise ImageError("...", fix="...", code="image-truncated")``, or one ``Problem(...)``
of `check-data`. What a message fills in while the program runs is shown as an ellipsis.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import add_table, markdown_table
from terrazzo import errors

CLASSES = {name: getattr(errors, name).code for name in errors.__all__}
PROBLEM_ARGUMENTS = ("severity", "code", "file", "message", "fix")
UNREADABLE = (
    "…, line …: what is wrong there; or the file cannot be read, is too large, or is nested too deep",
    "correct that line, or check the path",
)
WRONG_VALUE = ("… is …", "it must be …: what the field takes")
GIVEN_A_CODE = {
    **dict.fromkeys(
        ("parse_json", "parse_yaml", "read_json", "read_lines", "read_yaml", "read_yaml_mapping"), UNREADABLE
    ),
    "checked": WRONG_VALUE,
    "wrong_value": WRONG_VALUE,
    "refuse_unknown": ("… has an unknown …", "did you mean …? known …"),
    "refuse_missing": ("… lacks …", "add it"),
}
"""Functions of `terrazzo.config` and `terrazzo.fields` that raise the code that they are given: message and fix."""


@dataclass(frozen=True, order=True)
class Row:
    code: str
    message: str
    fix: str

    @property
    def says_something(self) -> bool:
        return bool(self.message.strip("…: "))


def rows_of(package: Path) -> list[Row]:
    """Read every failure that the package's files spell out, sorted by code."""
    rows = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                rows |= _rows(node)
    told = {row.code for row in rows if row.says_something}
    return sorted(row for row in rows if row.says_something or row.code not in told)


def as_markdown(rows: list[Row]) -> str:
    """Lay the rows out as a Markdown table."""
    cells = ((f"`{row.code}`", _escaped(row.message), _escaped(row.fix)) for row in rows)
    return markdown_table(("code", "what it says", "what to do"), cells)


def setup(app: Any) -> dict[str, bool]:
    """Give Sphinx the directive ``error-table``."""
    package = Path(errors.__file__).parent
    return add_table(app, "error-table", lambda: as_markdown(rows_of(package)), list(package.rglob("*.py")))


def _rows(call: ast.Call) -> set[Row]:
    assert isinstance(call.func, ast.Name)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if call.func.id in CLASSES:
        given |= dict(zip(("message",), call.args, strict=False))
        codes = _texts(given["code"]) if "code" in given else [CLASSES[call.func.id]]
    elif call.func.id == "Problem":
        given |= dict(zip(PROBLEM_ARGUMENTS, call.args, strict=False))
        codes = _texts(given["code"]) if "code" in given else []
    elif call.func.id in GIVEN_A_CODE and "code" in given:
        return {Row(code, *GIVEN_A_CODE[call.func.id]) for code in _texts(given["code"]) if code != "…"}
    else:
        return set()
    if "message" not in given or "fix" not in given:
        return set()
    message, fix = (" / ".join(_texts(given[name])) for name in ("message", "fix"))
    # A code that only passes another error's on has its row where that error is raised.
    return {Row(code, message, fix) for code in codes if code != "…"}


def _texts(node: ast.expr) -> list[str]:
    """What an expression can say: one text, or one for each branch of a condition."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_texts(body), *_texts(orelse)]
        case _:
            return ["…"]


def _escaped(text: str) -> str:
    """Escape Markdown's signs, which inside backticks are plain text already."""
    pieces = text.replace("\n", " ").split("`")
    for plain in range(0, len(pieces), 2):
        pieces[plain] = re.sub(r"([\\|*_<>\[\]{}])", r"\\\1", pieces[plain])
    return "`".join(pieces)
