"""Objects of outlines that a rule drops are counted, and said where a class has nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_masks import photo, save

from terrazzo.data import DataRules, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.errors import ConfigError, DatasetError
from terrazzo.notes import TerrazzoWarning

SQUARE, STRIPE, OUTSIDE = [1, 1, 5, 1, 5, 5, 1, 5], [0, 6, 8, 6, 8, 8, 0, 8], [20, 20, 30, 20, 30, 30]
OBJECTS = DataRules(crowds="objects")


def coco(root: Path, objects: list[tuple[int, int, list[float]]]) -> Path:
    """Write train and val with one photo each: (category, iscrowd, polygon) for each object."""
    for split in ("train", "val"):
        photo(root / split / "a.png", (8, 8))
        annotations: list[dict[str, Any]] = [
            {"id": i, "image_id": 1, "category_id": category, "iscrowd": crowd, "segmentation": [polygon]}
            for i, (category, crowd, polygon) in enumerate(objects)
        ]
        document = {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "leaf"}, {"id": 2, "name": "stem"}],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(document))
    return root


def test_a_class_of_crowds_alone_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    root = coco(tmp_path, [(1, 1, SQUARE), (2, 0, STRIPE)])
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, "train")
    assert caught.value.code == "crowds-only"
    assert "1 of 1 of 'leaf'; 'leaf' is left with nothing" in caught.value.message
    assert "--crowds objects" in caught.value.fix
    assert [problem.code for problem in check_dataset(root).errors] == ["crowds-only"] * 2
    check = check_dataset(root, rules=OBJECTS)
    assert not check.errors
    assert [count.pixels for count in check.splits[0].classes] == [32, 16, 16]
    mask = open_dataset(root, "train", rules=OBJECTS).read(0)[1]
    assert (mask[1:5, 1:5] == 1).all() and (mask[6:] == 2).all() and (mask == 0).sum() == 32


@pytest.mark.parametrize(("crowds", "severity"), [(1, "note"), (3, "warning")])
def test_some_crowds_are_counted(crowds: int, severity: str, tmp_path: Path) -> None:
    root = coco(tmp_path, [(1, 1, STRIPE)] * crowds + [(1, 0, SQUARE)] * 2 + [(2, 0, [5, 1, 8, 1, 8, 5])])
    problem = next(problem for problem in check_dataset(root).problems if problem.code == "crowds")
    assert problem.severity == severity
    assert f"{crowds} of {crowds + 2} of 'leaf'" in problem.message
    if severity == "warning":
        with pytest.warns(TerrazzoWarning, match="marked as crowds"):
            open_dataset(root, "train")
    else:
        assert (open_dataset(root, "train").read(0)[1][6:] == 255).all()


def test_objects_outside_the_image_are_counted(tmp_path: Path) -> None:
    root = coco(tmp_path, [(1, 0, SQUARE), (2, 0, STRIPE), (2, 0, OUTSIDE), (2, 0, [1, 1, 1.2, 1, 1.2, 1.2])])
    (warning, _) = check_dataset(root).warnings
    assert warning.code == "outline-empty" and "2 objects fill no pixel" in warning.message


def test_crowds_are_of_coco_alone(tmp_path: Path) -> None:
    photo(tmp_path / "train/images/a.png", (8, 8))
    save(tmp_path / "train/masks/a.png", np.eye(8, dtype=np.uint8))
    with pytest.raises(ConfigError, match="has no crowds"):
        open_dataset(tmp_path, "train", rules=OBJECTS)
    with pytest.raises(ConfigError, match="crowds cannot be 'objcts'"):
        open_dataset(tmp_path, "train", rules=DataRules(crowds="objcts"))  # type: ignore[arg-type]
