"""Folders that fit two layouts are told apart by what only one of them has, and never by six digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tool_exports import EXPORTS, LEAF, coco, corners, document, image, labelme_file, photo, shape, text

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.errors import DatasetError

SOURCE = "<source><annotation>PASCAL VOC2007</annotation></source>"


def voc_folders(root: Path, *names: str) -> None:
    """Somebody's masks in Pascal VOC's folders."""
    for name in names:
        photo(root / f"JPEGImages/{name}.jpg")
        image(root / f"SegmentationClass/{name}.png", LEAF)
    for split, name in zip(("train", "val"), names, strict=False):
        text(root / f"ImageSets/Segmentation/{split}.txt", f"{name}\n")


def annotate(root: Path, name: str, thing: str, source: str = "") -> None:
    text(root / f"Annotations/{name}.xml", f"<annotation>{source}<object><name>{thing}</name></object></annotation>")


@pytest.mark.parametrize(
    ("names", "thing", "source", "layout"),
    [
        (("000001", "000002"), None, "", "Pascal VOC layout with other photos"),
        (("000001", "000002"), "aeroplane", "", "Pascal VOC layout with other photos"),
        (("000001", "000002"), "leaf", SOURCE, "Pascal VOC layout with other photos"),
        (("000001", "000002"), "aeroplane", SOURCE, "Pascal VOC"),
        (("2008_000001", "2008_000002"), None, "", "Pascal VOC"),
        (("2008_000001", "2008_000002"), "leaf", "", "Pascal VOC layout with other photos"),
        (("2021_000001", "2021_000002"), None, "", "Pascal VOC layout with other photos"),
    ],
)
def test_vocs_classes_are_taken_only_where_something_says_so(
    names: tuple[str, ...], thing: str | None, source: str, layout: str, tmp_path: Path
) -> None:
    voc_folders(tmp_path, *names)
    if thing is not None:
        annotate(tmp_path, names[0], thing, source)
        annotate(tmp_path, names[1], thing, source)
    assert find_layout(tmp_path).name == layout
    classes = open_dataset(tmp_path, "train").labels.names
    assert ("aeroplane" in classes) == (layout == "Pascal VOC")


@pytest.mark.parametrize("names", [("000001", "000002"), ("2008_000001", "2008_000002")])
@pytest.mark.parametrize(
    ("file", "content", "layout"),
    [
        ("labelmap.txt", "background:0,0,0::\nleaf:0,158,115::\n", "Pascal VOC layout with labelmap.txt"),
        ("class_names.txt", "_background_\nleaf\n", "masks of labelme2voc"),
    ],
)
def test_a_file_of_classes_beside_vocs_folders_counts(
    file: str, content: str, layout: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    voc_folders(tmp_path, *names)
    text(tmp_path / file, content)
    assert find_layout(tmp_path).name == layout
    dataset = open_dataset(tmp_path, "train")
    assert dataset.labels.names == ("background", "leaf")
    np.testing.assert_array_equal(dataset.read(0)[1], LEAF)


def test_two_files_of_classes_have_to_be_chosen_from(tmp_path: Path) -> None:
    voc_folders(tmp_path, "a", "b")
    text(tmp_path / "labelmap.txt", "background:0,0,0::\nleaf:0,158,115::\n")
    text(tmp_path / "class_names.txt", "_background_\nbug\n")
    with pytest.raises(DatasetError) as caught:
        find_layout(tmp_path)
    assert caught.value.code == "dataset-ambiguous"
    assert open_dataset(tmp_path / "labelmap.txt", "train").labels.names == ("background", "leaf")
    assert open_dataset(tmp_path / "class_names.txt", "train").labels.names == ("background", "bug")


def test_yolo_polygons_and_ultralytics_masks_are_told_by_masks_dir(tmp_path: Path) -> None:
    EXPORTS["ultralytics"](tmp_path)
    for split in ("train", "val"):
        text(tmp_path / f"labels/{split}/{split}_1.txt", "0 0 0 1 0 1 1 0 1\n")
    assert find_layout(tmp_path).name == "Ultralytics semantic masks"
    np.testing.assert_array_equal(np.unique(open_dataset(tmp_path, "train").read(0)[1]), [0, 1, 255])
    content = (tmp_path / "data.yaml").read_text().replace("masks_dir: masks\n", "")
    text(tmp_path / "data.yaml", content)
    for path in (tmp_path / "masks").rglob("*.png"):
        path.unlink()
    assert find_layout(tmp_path).name == "YOLO polygons"
    np.testing.assert_array_equal(np.unique(open_dataset(tmp_path, "train").read(0)[1]), [1])


@pytest.mark.parametrize("masks_dir", ["../masks", "/masks", "7", "[masks]", "''"])
def test_masks_dir_names_a_folder_of_the_data_set(masks_dir: str, tmp_path: Path) -> None:
    EXPORTS["ultralytics"](tmp_path)
    content = (tmp_path / "data.yaml").read_text().replace("masks_dir: masks", f"masks_dir: {masks_dir}")
    text(tmp_path / "data.yaml", content)
    with pytest.raises(DatasetError, match=r"data.yaml: `masks_dir` is not the name of a folder"):
        open_dataset(tmp_path, "train")


def test_coco_objects_and_panoptic_segments_of_one_folder(tmp_path: Path) -> None:
    EXPORTS["coco_panoptic"](tmp_path)
    for split in ("train2017", "val2017"):
        name = next((tmp_path / split).iterdir()).name
        document(tmp_path / f"annotations/instances_{split}.json", coco(name))
    with pytest.raises(DatasetError, match="COCO JSON, COCO panoptic") as caught:
        find_layout(tmp_path)
    assert caught.value.code == "dataset-ambiguous"
    things, panoptic = (tmp_path / f"annotations/{kind}_train2017.json" for kind in ("instances", "panoptic"))
    assert open_dataset(things, "val").labels.names == ("background", "leaf")
    assert open_dataset(panoptic, "val").labels.names == ("cat", "sky")


def test_a_panoptic_document_named_after_a_split_is_no_coco_json(tmp_path: Path) -> None:
    EXPORTS["coco_panoptic"](tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"annotations/panoptic_{split}2017.json").rename(tmp_path / f"annotations/panoptic_{split}.json")
    assert find_layout(tmp_path).name == "COCO panoptic"
    (tmp_path / "annotations/panoptic_val.json").unlink()
    (tmp_path / "annotations/panoptic_train.json").rename(tmp_path / "train.json")
    assert find_layout(tmp_path).name == "COCO panoptic"


def test_label_studios_document_is_told_by_its_contributor(tmp_path: Path) -> None:
    """Renamed to a split's name its photos are still found; without the contributor it is plain COCO JSON."""
    made = EXPORTS["label_studio"](tmp_path)
    (tmp_path / "result.json").rename(tmp_path / "train.json")
    assert find_layout(tmp_path).name == "Label Studio COCO"
    assert len(open_dataset(tmp_path, "train")) == len(made.masks["all"])
    content = json.loads((tmp_path / "train.json").read_text())
    document(tmp_path / "train.json", content | {"info": {}})
    assert find_layout(tmp_path).name == "COCO JSON"
    with pytest.raises(DatasetError, match="leads elsewhere"):
        open_dataset(tmp_path, "train")


def test_uploads_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    document(tmp_path / "result.json", coco("0a1b2c3d-a.png", "1a1b2c3d-a.png", contributor="Label Studio"))
    photo(tmp_path / "images/a.png")
    (problem,) = [problem for problem in check_dataset(tmp_path).errors if problem.code != "dataset-split"]
    assert (problem.code, problem.message) == ("name-shared", "lists 1a1b2c3d-a.png twice")


def test_several_coco_documents_without_a_splits_name_are_not_chosen_from(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    for name in ("one", "two"):
        document(tmp_path / f"annotations/{name}.json", coco("a.jpg"))
    with pytest.raises(DatasetError, match=r"no file in annotations/ is named after a split: 'one.json', 'two.json'"):
        find_layout(tmp_path)


def test_subsets_of_a_cvat_project_are_splits(tmp_path: Path) -> None:
    for name in ("Train", "Validation"):
        photo(tmp_path / f"images/{name}/{name}_a.jpg")
        document(tmp_path / f"annotations/instances_{name}.json", coco(f"{name}_a.jpg"))
    assert find_layout(tmp_path).splits == ("train", "val")
    np.testing.assert_array_equal(open_dataset(tmp_path, "val").read(0)[1], LEAF)


def test_labelme_files_beside_what_was_made_of_them_have_to_be_chosen_from(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    document(tmp_path / "a.json", labelme_file("a.jpg", [shape("leaf", corners(2, 3, 6, 9))]))
    document(tmp_path / "annotations.json", coco("a.jpg"))
    with pytest.raises(DatasetError, match="COCO JSON, labelme JSON"):
        find_layout(tmp_path)
    assert find_layout(tmp_path / "annotations.json").name == "COCO JSON"
    assert find_layout(tmp_path / "a.json").name == "labelme JSON"


def test_folders_of_each_split_and_folders_split_alike(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(tmp_path / f"one/{split}/images/{split}.jpg")
        image(tmp_path / f"one/{split}/masks/{split}.png", LEAF)
        photo(tmp_path / f"two/images/{split}/{split}.jpg")
        image(tmp_path / f"two/masks/{split}/{split}.png", LEAF)
    assert find_layout(tmp_path / "one").name == "a folder of photos and masks, split by folders"
    assert find_layout(tmp_path / "two").name.endswith("split alike (images/ and masks/)")
    for name in ("one", "two"):
        np.testing.assert_array_equal(open_dataset(tmp_path / name, "val").read(0)[1], LEAF)


@pytest.mark.parametrize(
    ("name", "removed", "message"),
    [
        ("cvat", "JPEGImages", "it has labelmap.txt and SegmentationClass/, and JPEGImages is missing"),
        ("cvat", "ImageSets", "and ImageSets/Segmentation/default.txt is missing"),
        ("labelme2voc", "JPEGImages", "it has class_names.txt, and JPEGImages is missing"),
        ("mmsegmentation", "ann_dir", "ann_dir/train is missing"),
        ("mmsegmentation", "img_dir", "img_dir/train is missing"),
        ("label_studio_brush", "project-1.json", "and the JSON export that names their photos is missing"),
        ("supervisely", "meta.json", "train/ has ann/ and img/, and meta.json is missing"),
    ],
)
def test_near_misses_say_what_is_missing(name: str, removed: str, message: str, tmp_path: Path) -> None:
    EXPORTS[name](tmp_path)
    (tmp_path / removed).rename(tmp_path.with_name(f"{tmp_path.name}_away"))
    with pytest.raises(DatasetError) as caught:
        find_layout(tmp_path)
    assert caught.value.code == "dataset-layout"
    assert message in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("file", "content", "message", "fix"),
    [
        ("annotations.xml", "<annotations/>", "annotations.xml is CVAT's own format", "Segmentation mask 1.1"),
        (
            "tasks.json",
            '[{"from_name": "tag", "value": {"polygonlabels": ["leaf"]}}]',
            "Label Studio's own JSON",
            "COCO",
        ),
        ("tasks.json", '[{"from_name": "tag", "value": {"brushlabels": ["leaf"]}}]', "Label Studio's own JSON", "PNG"),
    ],
)
def test_what_a_tool_keeps_for_itself_is_named_with_what_to_export(
    file: str, content: str, message: str, fix: str, tmp_path: Path
) -> None:
    photo(tmp_path / "images/a.jpg")
    text(tmp_path / file, content)
    with pytest.raises(DatasetError) as caught:
        find_layout(tmp_path)
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_a_part_of_a_supervisely_project_names_the_project(tmp_path: Path) -> None:
    EXPORTS["supervisely"](tmp_path)
    with pytest.raises(DatasetError, match=r"meta.json is in the folder above") as caught:
        find_layout(tmp_path / "train")
    assert str(tmp_path) in caught.value.fix
