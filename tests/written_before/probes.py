"""What the models and exports in this folder were asked, and how the answers are noted.

Nothing here draws random numbers, so the questions are the same on every machine and in every version of NumPy.
"""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
EXPECTED = DATA / "expected.json"
VALUES, PIXELS = 24, 60
CLEAR = 1e-2
"""A pixel's class is noted where its logit, or probability, lies so far above the second."""


def image() -> NDArray[np.uint8]:
    """Return an RGB photo of 61 x 45 pixels."""
    y, x, channel = np.mgrid[:45, :61, :3]
    return ((x * (3 + channel) + y * (7 - 2 * channel) + (x * y) % 17 * 5 + channel * 50) % 256).astype(np.uint8)


def images() -> NDArray[np.float32]:
    """Return the photo as what a network takes, (1, 3, 45, 61), and without a `Preprocess`."""
    return ((image().astype(np.float32) - 120) / 64).transpose(2, 0, 1)[None]


def noted(scores_BKhw: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Note logits or probabilities: shape, some of the values, and the winners of some pixels (-1 where close)."""
    pixels = _pixels(scores_BKhw)
    second, first = np.sort(pixels, axis=1)[:, -2:].T
    winners = np.where(first - second > CLEAR, pixels.argmax(axis=1), -1)
    values = scores_BKhw.reshape(-1)[np.linspace(0, scores_BKhw.size - 1, VALUES).astype(int)]
    return {
        "shape": list(scores_BKhw.shape),
        "values": [round(float(value), 6) for value in values],
        "winners": [int(winner) for winner in winners],
    }


def _pixels(scores_BKhw: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the scores of `PIXELS` pixels, (PIXELS, K)."""
    classes_last = np.moveaxis(scores_BKhw, -3, -1).reshape(-1, scores_BKhw.shape[-3])
    return classes_last[np.linspace(0, len(classes_last) - 1, PIXELS).astype(int)]


def unpacked(source: Path, destination: Path) -> Path:
    """Copy a folder, its ``.xz`` files unpacked."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = destination / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".xz":
                copy.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            else:
                shutil.copyfile(path, copy)
    return destination


def assert_agrees(scores_BKhw: NDArray[np.floating[Any]], expected: dict[str, Any], tolerance: float = 1e-4) -> None:
    """See that an answer is the one noted before; the tolerance is relative to the largest value, if that is above 1.

    Where two classes are closer than twice the tolerance either may win.
    """
    assert list(scores_BKhw.shape) == expected["shape"]
    found, values = noted(scores_BKhw)["values"], expected["values"]
    scale = max(1.0, *map(abs, values))
    assert np.abs(np.subtract(found, values)).max() <= tolerance * scale, (found, values)
    pixels = _pixels(scores_BKhw)
    winners = np.array(expected["winners"])
    second, first = np.sort(pixels, axis=1)[:, -2:].T
    clear = (winners >= 0) & (first - second > 2 * tolerance * scale)
    assert pixels.argmax(axis=1)[clear].tolist() == winners[clear].tolist()
