"""The manual keeps up with the program: its commands parse, its names exist, its tables are complete."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import terrazzo
from terrazzo import errors
from terrazzo.cli.verbs import VERBS, verb_app
from terrazzo.labels.spec import LabelSpec
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.losses import LOSSES
from terrazzo.training.recipe import Recipe, automatic_recipe

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(page.name, text) for page in PAGES for text in pattern.findall(page.read_text(encoding="utf-8"))]


def test_every_command_in_the_manual_can_be_parsed() -> None:
    lines = [line for _, text in blocks("bash") for line in text.splitlines() if "terrazzo " in line]
    words = [shlex.split(line.partition("terrazzo ")[2].partition(" > ")[0], comments=True) for line in lines]
    commands = [(verb, options) for verb, *options in words if verb in VERBS and options != ["--help"]]
    assert {verb for verb, _ in commands} == set(VERBS) - {"models"}
    for verb, options in commands:
        verb_app(verb).parse_args(options, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_in_the_manual_uses_names_that_exist(page: str, text: str) -> None:
    for node in ast.walk(ast.parse(text, page)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "terrazzo":
            assert node.attr in terrazzo.__all__, f"{page} uses terrazzo.{node.attr}"


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_in_the_manual_is_a_valid_labels_file_or_the_usual_recipe(page: str, text: str) -> None:
    if page == "recipe.md":
        assert Recipe.from_dict(yaml.safe_load(text), page) == automatic_recipe("segformer_b0", [(360, 480)] * 400)
    else:
        LabelSpec.from_dict(yaml.safe_load(text))


def test_the_recipe_page_has_the_fields_of_all_sections_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "recipe_table", raising=False)
    import recipe_table  # type: ignore[import-not-found]

    page = (DOCS / "recipe.md").read_text(encoding="utf-8")
    assert recipe_table.with_tables(page) == page, "python docs/recipe_table.py writes it again"
    for section, text in recipe_table.tables().items():
        assert text in page and section in Recipe.__dataclass_fields__
    for name, kind in {**AUGMENTATIONS, **LOSSES}.items():
        assert f"**`{name}`**:" in page
        assert all(f"| `{field}` |" in page for field in kind.__dataclass_fields__)


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: terrazzo\.(\w+)$", text, re.MULTILINE)) == terrazzo.__all__


def test_the_commands_page_has_every_verb() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## terrazzo (.+)$", text, re.MULTILINE) == list(VERBS)


def test_the_error_table_has_every_code_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "error_table", raising=False)
    import error_table  # type: ignore[import-not-found]

    package = Path(errors.__file__).parent
    rows = error_table.rows_of(package)
    source = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    codes = set(re.findall(r'code="([a-z0-9-]+)"', source.replace('image-truncated")``', "")))
    assert len(codes) > 40
    assert codes - {row.code for row in rows} == set()
    assert all(row.message and row.fix for row in rows)
    table = error_table.as_markdown(rows)
    assert table.count("\n") == len(rows) + 1
    assert all(re.sub(r"\\.", "", line).count("|") == 4 for line in table.splitlines())


def test_the_errors_page_has_every_class() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for name in errors.__all__:
        assert f"| `{name}` | `{getattr(errors, name).code}` |" in text


def test_messages_in_troubleshooting_are_those_of_the_source() -> None:
    """What a table quotes as seen, piece by piece between ellipses; and the codes in brackets after it."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    seen = [row.split("|")[1] for row in re.findall(r"^\| .*\|$", text, re.MULTILINE)]
    quotes = [quote for cell in seen for quote in re.findall(r"`([^`]+ [^`]+)`", cell)]
    codes = {code for code in re.findall(r"\(`([a-z]+(?:-[a-z]+)+)`\)", text)}
    assert len(quotes) > 40 and len(codes) > 25
    told = []
    for path in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                told.append(node.value)
    for quote in quotes:
        for piece in re.split(r"\.\.\.", quote.removeprefix("note: ")):
            assert any(piece.strip() in text for text in told), f"no message holds {piece.strip()!r}"
    assert codes - set(told) == set()


def test_contributing_lists_the_layers_that_are_enforced() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    package = Path(errors.__file__).parent
    names = [
        re.sub(r"terrazzo\.(\w+)", lambda m: m[1] + ("/" if (package / m[1]).is_dir() else ".py"), lay)
        for lay in layers
    ]
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [re.split(r"  +", line)[0] for line in re.findall(r"^    (\w.*)$", text, re.MULTILINE)] == names
