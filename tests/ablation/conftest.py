"""A data set that trains in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five and three photos of 48 x 64 pixels in flat tiles, each of three classes of another brightness."""
    root = tmp_path_factory.mktemp("ablation") / "tiles"
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            image = (mask[..., None] * 70 + rng.integers(0, 50, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    (root / "labels.yaml").write_text("names: [dark, grey, bright]\n")
    return root
