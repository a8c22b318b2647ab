"""Table of docs/reproduction.md: the papers' figures, the command that repeats each, and what it would take.

    python docs/reproduction_table.py

Operations are counted from the layers' shapes, and a lower bound of the hours follows from them.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tables import markdown_table

from terrazzo.costs import count_operations_of_size
from terrazzo.labels.spec import LabelSpec
from terrazzo.training.recipe import Recipe
from terrazzo.weights.create import create_model

PAGE = Path(__file__).parent / "reproduction.md"
RECIPES = Path(__file__).parents[1] / "recipes"
FORWARD_AND_BACKWARD = 3  # times the operations of a forward pass
SUSTAINED = 60e12  # floating-point operations a second
EXPECTED = re.compile(r"# Expected +val mIoU ([\d.]+)(?:, with several scales and mirroring ([\d.]+))?, as published")


def rows() -> list[list[str]]:
    """One row for each recipe of the papers."""
    made = []
    for path in sorted(RECIPES.glob("*.yaml")):
        found = EXPECTED.search(path.read_text(encoding="utf-8"))
        if found is None:
            continue
        recipe = Recipe.from_file(path)
        operations = training_operations(recipe)
        command = f"`terrazzo train --recipe recipes/{path.name} --data DATA --weights ENCODER --output runs/mine`"
        height, width = recipe.crop
        plan = f"{recipe.run.steps:,} steps of {recipe.run.batch_size} windows of {width} x {height}"
        published = found[1] if found[2] is None else f"{found[1]} / {found[2]}"
        hours = operations / SUSTAINED / 3600
        made.append([published, plan, f"{operations / 1e15:,.0f}", f"{hours:.1f}", command])
    return made


def training_operations(recipe: Recipe) -> float:
    """Floating-point operations of a run."""
    labels = LabelSpec.named(recipe.data.labels or "camvid")
    with torch.device("meta"):
        network = create_model(recipe.model.name, labels.num_classes)
    operations = float(count_operations_of_size(network, *recipe.crop).flop)
    return operations * FORWARD_AND_BACKWARD * recipe.run.batch_size * (recipe.run.steps or 0)


def with_table(page: str) -> str:
    """Return the page with the table between its markers made again."""
    columns = ["published", "plan", "10^15 operations", "GPU hours, at least", "command"]
    text = markdown_table(columns, rows())
    between = re.compile(r"(<!-- runs -->\n).*?(<!-- end -->)", re.DOTALL)
    page, count = between.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    assert count == 1
    return page


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
