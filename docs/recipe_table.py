"""Tables of docs/recipe.md, made from the sections and rows of recipes; `python docs/recipe_table.py` writes them."""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tables import markdown_table
from terrazzo.fields import accepted
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.losses import LOSSES
from terrazzo.training.recipe import automatic_recipe
from terrazzo.training.sections import SECTIONS

PAGE = Path(__file__).parent / "recipe.md"


def tables() -> dict[str, str]:
    """Return the text of each table by the name that its markers have in the page."""
    automatic = automatic_recipe("segformer_b0", [(360, 480)] * 400).to_dict()
    made = {name: _table(kind, automatic[name]) for name, kind in SECTIONS.items()}
    for section, table in (("augment", AUGMENTATIONS), ("loss", LOSSES)):
        made[section] = "\n\n".join(_row(name, kind) for name, kind in table.items())
    return made


def with_tables(page: str) -> str:
    """Return the page with every table between its markers made again."""
    for name, text in tables().items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = between.subn(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
        assert count == 1, name
    return page


def _row(name: str, kind: type[Any]) -> str:
    """Return a row's name, the first lines of its file and of its class, and the table of its fields."""
    source = " ".join(sys.modules[kind.__module__].__doc__.split("\n\n")[0].split())
    description = " ".join(inspect.getdoc(kind).split("\n\nAttributes:")[0].split())
    return f"**`{name}`**: {source} {description}\n\n{_table(kind, {})}"


def _table(kind: type[Any], values: dict[str, Any]) -> str:
    meanings = _meanings(kind)
    rows = []
    for field in fields(kind):
        value = values.get(field.name, field.default)
        default = "" if value is MISSING else f"`{json.dumps(value)}`"
        takes = accepted(kind, field.name).replace(", such as 6.0e-5", "")
        rows.append((f"`{field.name}`", takes, default, meanings[field.name]))
    return markdown_table(("field", "takes", "default", "meaning"), rows)


def _meanings(kind: type[Any]) -> dict[str, str]:
    """Read what the docstrings of a class and of those that it extends say about each field."""
    meanings: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        attributes = (inspect.getdoc(part) or "").partition("Attributes:\n")[2]
        found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", attributes, re.MULTILINE)
        meanings |= {name: " ".join(meaning.split()).replace("``", "`") for name, meaning in found}
    return meanings


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
