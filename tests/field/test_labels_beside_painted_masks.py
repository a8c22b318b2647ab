"""labels.yaml beside outlines: classes are matched by name, since the order of painted values is nobody's to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tool_exports import EXPORTS, Made, text

from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.errors import LabelError
from terrazzo.notes import TerrazzoWarning


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """background, bug, leaf, and a part that is ignored."""
    return EXPORTS["labelme"](tmp_path)


def test_the_same_names_keep_what_is_ignored(made: Made, tmp_path: Path) -> None:
    text(tmp_path / "labels.yaml", "names: [background, Bug, leaf]\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.labels.names == ("background", "Bug", "leaf")
    np.testing.assert_array_equal(dataset.read(0)[1], made.masks["train"]["a"])


def test_another_order_is_followed_by_name(made: Made, tmp_path: Path) -> None:
    text(tmp_path / "labels.yaml", "names: [leaf, background, bug]\n")
    with pytest.warns(TerrazzoWarning, match="in another order: they are matched by name"):
        dataset = open_dataset(tmp_path, "train")
    assert dataset.labels.names == ("leaf", "background", "bug")
    table = np.full(256, 255, np.uint8)
    table[[0, 1, 2]] = 1, 2, 0
    np.testing.assert_array_equal(dataset.read(0)[1], table[made.masks["train"]["a"]])


@pytest.mark.parametrize("names", ["[background, insect, leaf]", "[background, leaf]"])
def test_other_names_are_refused_with_both_lists(names: str, made: Made, tmp_path: Path) -> None:
    text(tmp_path / "labels.yaml", f"names: {names}\n")
    with pytest.raises(LabelError, match="it names other classes than the data set") as caught:
        open_dataset(tmp_path, "train")
    assert "'bug'" in caught.value.message and "map:" in caught.value.fix
    (problem,) = check_dataset(tmp_path).errors
    assert (problem.code, problem.file) == ("labels-names", tmp_path / "labels.yaml")


def test_a_map_says_which_is_which(made: Made, tmp_path: Path) -> None:
    text(tmp_path / "labels.yaml", "{names: [sol, plante], map: {0: 0, 1: ignore, 2: 1}}\n")
    mask = open_dataset(tmp_path, "train").read(0)[1]
    table = np.full(256, 255, np.uint8)
    table[[0, 2]] = 0, 1
    np.testing.assert_array_equal(mask, table[made.masks["train"]["a"]])
