"""The result of a study: rows of numbers, as a table in Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from terrazzo.text import printable
from terrazzo.training.recipe import Recipe

__all__ = ["CURVES", "Curves", "Result", "Row"]

Curves = Mapping[str, Mapping[int, float]]
"""Values by the image's side, by the names of `CURVES`."""

CURVES = {
    "mIoU_by_side": ("mIoU, %, of photos at other shorter sides", 1.0, ".1f"),
    "mIoU_in_windows": ("mIoU, %, of photos of the largest size in windows of the size of training", 1.0, ".1f"),
    "operations_by_side": ("GMAC of square images, by their side", 1e9, ".2f"),
    "attention_by_side": ("GMAC of attention's two products for square images, by their side", 1e9, ".3f"),
    "seconds_by_side": ("Milliseconds of one forward of a square image, by its side", 1e-3, ".0f"),
    "memory_by_side": ("Megabytes of feature maps at most in that forward, by the image's side", 1e6, ".1f"),
}
"""What a study may measure against the image's side: heading, unit and number format.

On a CPU, seconds are computing time. Memory is that of all tensors at once, without the weights.
"""


@dataclass(frozen=True)
class Row:
    """One network of a study. Scores are percentages; operations are multiply-accumulates of one image.

    Attributes:
        key: the folder of its run.
        title: what it is.
        parameters: without auxiliary heads.
        operations: at the size that validation shows photos in.
        attention: those of them in attention's two products.
        mIoU: of the weights after the last step, on the validation photos; likewise mAcc and aAcc.
        steps: that it was trained for.
        curves: what was measured against the image's side.
    """

    key: str
    title: str
    parameters: int
    operations: int
    attention: int
    mIoU: float = float("nan")
    mAcc: float = float("nan")
    aAcc: float = float("nan")
    steps: int = 0
    curves: Curves = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A finished study.

    Attributes:
        study: its name.
        title: what is compared.
        claim: the claim that was tested.
        data: the data set, with the number of images.
        machine: what the networks ran on.
        recipe: how they were trained, but for the model.
        side: (height, width) of the images that `Row.operations` are counted for.
        rows: the networks, the paper's own first.
    """

    study: str
    title: str
    claim: str
    data: str
    machine: str
    recipe: Recipe
    side: tuple[int, int]
    rows: tuple[Row, ...]

    @property
    def trained(self) -> str:
        """How the networks were trained, in a sentence that shows how much the scores can mean."""
        (height, width), run = self.recipe.crop, self.recipe.run
        return (
            f"Each network: {self.rows[0].steps} steps of {run.batch_size} windows of {width} x {height} "
            f"from random weights, once, with seed {run.seed}."
        )

    def markdown(self) -> str:
        """Lay out the study as a page."""
        height, width = self.side
        lines = [["network", "parameters", f"GMAC at {width} x {height}", "of it attention", "mIoU", "mAcc", "aAcc"]]
        for row in self.rows:
            costs = f"{row.parameters / 1e6:.2f} M", f"{row.operations / 1e9:.3f}"
            share = f"{row.attention / row.operations:.1%}"
            lines.append([row.title, *costs, share, *(f"{score:.1f}" for score in (row.mIoU, row.mAcc, row.aAcc))])
        about = f"`terrazzo ablate {self.study}` on {printable(self.data)}; {self.machine}. {self.trained} Differences "
        parts = [f"# {self.title}", self.claim, f"{about}of a few points between single short runs are noise."]
        parts.append(_table(lines))
        for name, first in self.rows[0].curves.items():
            heading, unit, form = CURVES[name]
            lines = [["network", *map(str, sorted(first))]]
            for row in self.rows:
                lines.append([row.title, *(format(row.curves[name][side] / unit, form) for side in sorted(first))])
            parts += [f"{heading}:", _table(lines)]
        return "\n\n".join(parts) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON's types."""
        return {**asdict(self), "recipe": self.recipe.to_dict()}


def _table(lines: list[list[str]]) -> str:
    head, *rows = lines
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
