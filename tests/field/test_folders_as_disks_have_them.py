"""Folders as disks have them: links in a circle, closed folders, what systems leave behind, splits twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tool_exports import EXPORTS, LEAF, boxes, coco, document, image, photo, text

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.folders import by_split, split_of_year
from terrazzo.errors import DatasetError


def pairs(root: Path, *splits: str) -> Path:
    """Write a data set split by folders, one pair in each."""
    for split in splits:
        photo(root / split / f"images/{split}.png")
        image(root / split / f"masks/{split}.png", LEAF)
    return root


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user who may not read everything, as root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def within_reach(folder: Path) -> None:
    """Let everybody into the folders above, which pytest makes for its own user."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(0o755)


@pytest.mark.parametrize("place", ["loop", "train/loop", "train/images/loop", "val/masks/loop"])
def test_a_link_in_a_circle_is_left_out(place: str, tmp_path: Path) -> None:
    pairs(tmp_path, "train", "val")
    os.symlink("loop", tmp_path / place)
    assert find_layout(tmp_path).splits == ("train", "val")
    assert len(open_dataset(tmp_path, "train")) == 1


def test_a_link_in_a_circle_among_folders_that_are_split_alike(tmp_path: Path) -> None:
    EXPORTS["mmsegmentation"](tmp_path)
    os.symlink("loop", tmp_path / "img_dir/loop")
    assert find_layout(tmp_path).splits == ("train", "val")


def test_an_image_that_is_a_link_in_a_circle_is_named(tmp_path: Path) -> None:
    pairs(tmp_path, "train", "val")
    os.symlink("b.png", tmp_path / "train/images/b.png")
    with pytest.raises(DatasetError, match=r"train/images/b.png: a link to nothing, not a file"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("made", ["folders", "labelme", "supervisely", "cvat_coco"])
def test_a_closed_folder_beside_the_data_is_left_out(made: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if made == "folders":
        pairs(root, "train", "val")
    else:
        EXPORTS[made](root)
    splits = find_layout(root).splits
    within_reach(root)
    (root / "lost+found").mkdir(mode=0)
    with as_nobody():
        assert find_layout(root).splits == splits


@pytest.mark.parametrize("closed", ["train", "train/masks"])
def test_a_closed_folder_of_the_data_is_named(closed: str, tmp_path: Path) -> None:
    root = pairs(tmp_path / "data", "train", "val")
    find_layout(root)
    within_reach(root)
    (root / closed).chmod(0)
    try:
        with as_nobody(), pytest.raises(DatasetError, match=rf"{closed}.*Permission denied"):
            open_dataset(root, "train")
    finally:
        (root / closed).chmod(0o755)


@pytest.mark.parametrize("left", ["__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN"])
def test_what_systems_leave_behind_is_not_a_split(left: str, tmp_path: Path) -> None:
    """Such a folder repeats the names of the data's own."""
    photo(tmp_path / "images/a.png")
    image(tmp_path / "masks/a.png", LEAF)
    photo(tmp_path / left / "images/._a.png")
    image(tmp_path / left / "masks/._a.png", LEAF)
    assert find_layout(tmp_path).splits == ("all",)
    EXPORTS["supervisely"](tmp_path / "sly")
    shutil.copytree(tmp_path / "sly/val", tmp_path / "sly" / left)
    assert find_layout(tmp_path / "sly").splits == ("train", "val")


def test_files_of_systems_are_passed_over_without_a_word(tmp_path: Path) -> None:
    pairs(tmp_path, "train", "val")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._train.png"):
        text(tmp_path / "train/images" / name, "x")
        text(tmp_path / "train/masks" / name, "x")
    assert check_dataset(tmp_path).problems == ()


def test_hidden_twins_of_annotations_are_no_annotations(tmp_path: Path) -> None:
    """An archive packed on a Mac has ._NAME for each NAME."""
    EXPORTS["supervisely"](tmp_path / "sly")
    text(tmp_path / "sly/train/ann/._a.png.json", "x")
    text(tmp_path / "sly/train/img/Thumbs.db", "x")
    problems = find_layout(tmp_path / "sly").pairs("train")[1]
    assert [problem.code for problem in problems] == ["outline-empty"]
    EXPORTS["cvat"](tmp_path / "cvat")
    text(tmp_path / "cvat/ImageSets/Segmentation/._default.txt", "x")
    assert find_layout(tmp_path / "cvat").splits == ("default",)


def test_a_split_that_is_there_twice_is_not_dropped(tmp_path: Path) -> None:
    for split in ("train", "val", "validation"):
        photo(tmp_path / f"alike/images/{split}/{split}.png")
        image(tmp_path / f"alike/masks/{split}/{split}.png", LEAF)
    assert find_layout(tmp_path / "alike").splits == ("train", "val", "validation")
    EXPORTS["roboflow"](tmp_path / "roboflow")
    shutil.copytree(tmp_path / "roboflow/valid", tmp_path / "roboflow/val")
    assert find_layout(tmp_path / "roboflow").splits == ("train", "val", "test", "valid")
    EXPORTS["supervisely"](tmp_path / "sly")
    shutil.copytree(tmp_path / "sly/val", tmp_path / "sly/Validation")
    assert find_layout(tmp_path / "sly").splits == ("train", "val", "Validation")
    EXPORTS["cvat_project"](tmp_path / "cvat")
    text(tmp_path / "cvat/ImageSets/Segmentation/val.txt", "frame_000000\n")
    layout = find_layout(tmp_path / "cvat")
    assert [sample.name for sample in layout.pairs("Validation")[0]] == ["frame_000001"]
    for year in ("2014", "2017"):
        photo(tmp_path / f"coco/train{year}/{year}.jpg")
        document(tmp_path / f"coco/annotations/instances_train{year}.json", coco(f"{year}.jpg"))
    layout = find_layout(tmp_path / "coco")
    assert layout.splits == ("train", "train2017")
    assert [layout.pairs(split)[0][0].name for split in layout.splits] == ["2014", "2017"]


def test_splits_of_a_saved_table_are_folders_of_it(tmp_path: Path) -> None:
    info = json.dumps({"features": {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}})
    for name in ("data/train", "data/Validation", "other"):
        text(tmp_path / name / "dataset_info.json", info)
    document(tmp_path / "data/dataset_dict.json", {"splits": ["train", "Validation", "../other"]})
    assert find_layout(tmp_path / "data").splits == ("train", "val")


def test_splits_by_name_and_year() -> None:
    assert by_split(["other", "valid", "Train"]) == {"train": "Train", "val": "valid", "other": "other"}
    assert by_split(["val2017", "val2014"], split_of_year) == {"val": "val2014", "val2017": "val2017"}


def test_a_split_is_found_by_its_other_name(tmp_path: Path) -> None:
    EXPORTS["coco_panoptic"](tmp_path)
    layers = boxes((1, 2, 3, 6, 9), (2, 8, 0, 16, 12))
    mask = open_dataset(tmp_path, "validation").read(0)[1]
    np.testing.assert_array_equal(mask, np.array([255, 0, 1], np.uint8)[layers])


def test_an_empty_split_of_any_layout_is_an_error(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        photo(tmp_path / f"images/{split}/ADE_{split}_1.jpg")
        image(tmp_path / f"annotations/{split}/ADE_{split}_1.png", LEAF)
    for file in (tmp_path / "images/validation", tmp_path / "annotations/validation"):
        shutil.rmtree(file)
        file.mkdir()
    with pytest.raises(DatasetError, match="val holds no photos") as caught:
        open_dataset(tmp_path, "val")
    assert caught.value.code == "dataset-empty"
