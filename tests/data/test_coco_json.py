"""COCO JSON: documents, categories, photos, and every mistake named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import made_layouts
import numpy as np
import pytest
from made_folder import Folder
from made_layouts import RUN_MASK, SIZE, box, coco_document, noise

from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.check_result import DatasetCheck
from terrazzo.data.coco_document import parse_categories
from terrazzo.errors import DatasetError

SQUARE = {"image_id": 1, "category_id": 17, "segmentation": [box(2, 2, 6, 6)]}


def write(folder: Folder, annotations: list[dict[str, Any]], split: str = "train", name: str = "a.jpg") -> Path:
    noise(folder, f"{split}/{name}")
    return folder.text(f"annotations/instances_{split}.json", coco_document([(1, name, *SIZE)], annotations))


def check(folder: Folder) -> DatasetCheck:
    if not (folder.root / "annotations/instances_val.json").exists():
        write(folder, [SQUARE], "val", "v.jpg")
    return check_dataset(folder.root)


def refused(folder: Folder, split: str = "train") -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        open_dataset(folder.root, split).read(0)
    assert caught.value.fix
    return caught.value


def test_categories_are_classes_by_id_over_the_background(folder: Folder) -> None:
    made_layouts.coco_json(folder)
    assert open_dataset(folder.root, "train").labels.names == ("background", "cat", "dog", "zebra")


def test_documents_that_number_categories_differently_mean_the_same_classes(folder: Folder) -> None:
    write(folder, [SQUARE])
    noise(folder, "val/v.jpg")
    document = {
        "images": [{"id": "v", "file_name": "v.jpg", "height": 12, "width": 16}],
        "annotations": [{"id": 1, "image_id": "v", "category_id": 1, "segmentation": [box(2, 2, 6, 6)]}],
        "categories": [{"id": 0, "name": "Background"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "fox"}],
    }
    folder.text("annotations/instances_val.json", json.dumps(document))
    train, val = (open_dataset(folder.root, split) for split in ("train", "val"))
    assert train.labels.names == val.labels.names == ("background", "cat", "dog", "zebra", "fox")
    np.testing.assert_array_equal(train.read(0)[1], val.read(0)[1])


def test_categories_of_one_name_are_one_class(folder: Folder) -> None:
    """One exporter repeats the name of the whole group as category 0."""
    noise(folder, "train/a.jpg")
    categories = [{"id": 0, "name": "leaf", "supercategory": "none"}, {"id": 1, "name": "leaf"}]
    document = {
        "images": [{"id": 0, "file_name": "a.jpg", "height": 12, "width": 16}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "segmentation": [box(0, 0, 16, 6)]}],
        "categories": categories,
    }
    folder.text("train/_annotations.coco.json", json.dumps(document))
    dataset = open_dataset(folder.root, "train")
    assert dataset.labels.names == ("background", "leaf")
    assert dataset.read(0)[1].mean() == 0.5


@pytest.mark.parametrize("images", ["train2017", "images/train2017", "train", "images/train", "images", "data", "."])
def test_images_are_found_wherever_they_usually_lie(images: str, folder: Folder) -> None:
    noise(folder, f"{images}/a.jpg")
    folder.text("annotations/instances_train2017.json", coco_document([(1, "a.jpg", *SIZE)], [SQUARE]))
    assert open_dataset(folder.root, "train").samples[0].image.file == folder.root / images / "a.jpg"


def test_file_names_may_hold_folders(folder: Folder) -> None:
    write(folder, [SQUARE], name="day 1/a.jpg")
    assert open_dataset(folder.root, "train").samples[0].name == "a"


def test_plain_names_of_documents_need_the_right_content(folder: Folder) -> None:
    noise(folder, "train/a.jpg")
    folder.text("annotations/train.json", coco_document([(1, "a.jpg", *SIZE)], [SQUARE]))
    folder.text("train.json", '{"learning rate": 1}')
    folder.text("val.json", "")
    dataset = open_dataset(folder.root, "train")
    assert dataset.read(0)[1].sum() == 16
    with pytest.raises(DatasetError, match="has no split 'val'"):
        open_dataset(folder.root, "val")


def test_run_lengths_as_numbers_and_as_text_are_the_same(folder: Folder) -> None:
    noise(folder, "train/a.jpg", RUN_MASK.shape)
    columns = RUN_MASK.T.ravel()
    edges = np.flatnonzero(np.diff(columns, prepend=0, append=1 - columns[-1]))
    counts = np.diff(edges, prepend=0).tolist()
    for given in (counts, made_layouts.RUNS):
        shape = {"size": [7, 9], "counts": given}
        annotation = {"image_id": 1, "category_id": 17, "segmentation": shape}
        folder.text("annotations/instances_train.json", coco_document([(1, "a.jpg", 7, 9)], [annotation]))
        np.testing.assert_array_equal(open_dataset(folder.root, "train").read(0)[1], RUN_MASK)


def test_a_changed_document_is_read_anew(folder: Folder) -> None:
    path = write(folder, [SQUARE])
    assert open_dataset(folder.root, "train").read(0)[1].any()
    write(folder, [])
    os.utime(path, ns=(1, 1))
    assert not open_dataset(folder.root, "train").read(0)[1].any()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_boxes_without_outlines_are_one_problem_with_their_number(folder: Folder) -> None:
    boxes = [{"image_id": 1, "category_id": 17, "bbox": [0, 0, 5, 5]} for _ in range(50)]
    path = write(folder, [SQUARE, *boxes])
    (problem,) = check(folder).errors
    assert (problem.code, problem.file) == ("outline-missing", path)
    assert problem.message == "annotations without an outline (`segmentation`): 50, id 2, 3, 4 and 47 more"
    assert refused(folder).code == "outline-missing"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"category_id": 3}, "outline-damaged", "of a category that is not listed"),
        ({"category_id": "99"}, "outline-damaged", "of a category that is not listed"),
        ({"image_id": 99}, "outline-damaged", "of a photo that is not listed"),
        ({"image_id": [1]}, "outline-damaged", "of a photo that is not listed"),
        ({"segmentation": []}, "outline-missing", "without an outline"),
        ({"segmentation": [[1, 2, 3]]}, "outline-damaged", "cannot be read"),
        ({"segmentation": [[1, 2, 3, 4, "x", 6]]}, "outline-damaged", "cannot be read"),
        ({"segmentation": [[1, 2, 3, 4, float("nan"), 6]]}, "outline-damaged", "cannot be read"),
        ({"segmentation": [{"x": 1}]}, "outline-damaged", "cannot be read"),
        ({"segmentation": "all"}, "outline-damaged", "cannot be read"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "outline-damaged", "cannot be read"),
        ({"segmentation": {"size": [12, 16], "counts": [9.5]}}, "outline-damaged", "cannot be read"),
        ({"segmentation": {"size": [12, 16]}}, "outline-damaged", "cannot be read"),
    ],
)
def test_wrong_annotations_are_named(changes: dict[str, Any], code: str, message: str, folder: Folder) -> None:
    path = write(folder, [SQUARE, {**SQUARE, **changes}])
    (problem,) = check(folder).errors
    assert (problem.code, problem.file) == (code, path)
    assert message in problem.message
    assert problem.message.endswith(": 1, id 2")
    assert refused(folder).code == code


@pytest.mark.parametrize("counts", [[3, 4], [200, -8], "?4", "\x00"])
def test_run_lengths_that_do_not_fit_are_found_when_they_are_read(counts: Any, folder: Folder) -> None:
    path = write(folder, [{**SQUARE, "segmentation": {"size": list(SIZE), "counts": counts}}])
    (problem,) = check(folder).errors
    assert (problem.code, problem.file) == ("outline-damaged", path)
    assert problem.message.startswith("a.jpg: run lengths")
    assert refused(folder).message.startswith(f"{path}: a.jpg: run lengths")


def test_a_polygon_of_two_points_is_left_out_with_a_warning(folder: Folder) -> None:
    write(folder, [SQUARE, {**SQUARE, "segmentation": [[1, 1, 9, 9]]}])
    found = check(folder)
    assert not found.errors
    assert [problem.code for problem in found.warnings if problem.file is not None] == ["outline-empty"]
    assert open_dataset(folder.root, "train").read(0)[1].sum() == 16


def test_images_that_are_not_there_or_listed_twice_or_elsewhere(folder: Folder) -> None:
    noise(folder, "train/a.jpg")
    images = [(number, name, *SIZE) for number, name in enumerate(("a.jpg", "b.jpg", "a.jpg", "../a.jpg", "/a.jpg"))]
    path = folder.text("annotations/instances_train.json", coco_document(images, []))
    problems = check(folder).errors
    assert {problem.file for problem in problems} == {path}
    assert [problem.code for problem in problems] == ["photo-missing", "name-shared", "list-entry", "list-entry"]
    assert problems[0].message == "lists b.jpg, which is not in train/"
    assert refused(folder).code == "dataset-pairs"


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (5, 10**9), (1.5, 2), (None, 2)])
def test_a_image_without_a_sensible_size_is_no_image(size: Any, folder: Folder) -> None:
    noise(folder, "train/a.jpg")
    folder.text("annotations/instances_train.json", coco_document([(1, "a.jpg", *size)], []))
    assert "outline-damaged" in [problem.code for problem in check(folder).errors]


def test_another_size_than_the_images_is_named_with_both(folder: Folder) -> None:
    noise(folder, "train/a.jpg", (16, 12))
    path = folder.text("annotations/instances_train.json", coco_document([(1, "a.jpg", *SIZE)], [SQUARE]))
    (problem,) = check(folder).errors
    assert (problem.code, problem.file) == ("mask-size", path)
    assert problem.message == "a.jpg: the mask is 16 x 12, its photo a.jpg is 12 x 16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [], "annotations": [', "line 1: not valid JSON"),
        ("[1, 2]", "not a COCO document"),
        ('{"images": [], "annotations": []}', "categories missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "not a list of ids and names"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "list"),
        ('{"images": [], "annotations": [], "categories": []}', "its categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\\u0007"}]}', "control characters"),
        ("[" * 100000, "nested deeper than"),
        ("", "line 1: not valid JSON"),
    ],
)
def test_documents_that_are_none(text: str, message: str, folder: Folder) -> None:
    path = folder.text("annotations/instances_train.json", text)
    noise(folder, "train/a.jpg")
    error = refused(folder)
    assert error.code == "dataset-annotations"
    assert error.message.startswith(str(path))
    assert message in error.message
    problems = [problem for problem in check_dataset(folder.root).errors if problem.code == "dataset-annotations"]
    assert {problem.file for problem in problems} == {path}


def test_no_images_at_all(folder: Folder) -> None:
    folder.text("annotations/instances_train.json", coco_document([], []))
    assert refused(folder).code == "dataset-empty"


def test_categories_alone_are_read_only_where_that_is_certain(folder: Folder) -> None:
    path = write(folder, [SQUARE])
    assert parse_categories(path) == {17: "cat", 18: "dog", 90: "zebra"}
    twice = json.loads(path.read_text())
    twice["info"] = {"categories": [{"id": 1, "name": "not these"}]}
    path.write_text(json.dumps(twice))
    assert parse_categories(path) is None
    assert open_dataset(folder.root, "train").labels.names == ("background", "cat", "dog", "zebra")
    path.write_text('{"categories": [')
    assert parse_categories(path) is None
    path.write_text("")
    assert parse_categories(path) is None
