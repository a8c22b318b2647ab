"""Labels that were there and did not arrive: names that almost match, marks as text, ids twice, masks misread."""

from __future__ import annotations

import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tool_exports import EXPORTS, LEAF, coco, corners, document, image, labelme_file, photo, shape, text

from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.json_files import is_set, key_of, names_by_id
from terrazzo.errors import DatasetError
from terrazzo.notes import TerrazzoWarning

LINE = "0 0.125 0.25 0.375 0.25 0.375 0.75 0.125 0.75\n"
ACCENT, APART = "\u00e9", unicodedata.normalize("NFD", "\u00e9")


def yolo(root: Path, images: str, labels: str, names: str = "[leaf]") -> Path:
    text(root / "data.yaml", f"train: images/train\nval: images/train\nnames: {names}\n")
    photo(root / f"images/train/{images}")
    text(root / f"labels/train/{labels}", LINE)
    return root


@pytest.mark.parametrize(("images", "labels"), [("a.png", "a.TXT"), (f"{APART}.png", f"{ACCENT}.txt")])
def test_yolo_labels_are_found_whatever_the_spelling(images: str, labels: str, tmp_path: Path) -> None:
    """Not found, they are background all over, and nobody notices."""
    dataset = open_dataset(yolo(tmp_path, images, labels), "train")
    np.testing.assert_array_equal(dataset.read(0)[1], LEAF)


def test_yolo_labels_without_a_photo_are_told(tmp_path: Path) -> None:
    yolo(tmp_path, "a.png", "a.txt")
    text(tmp_path / "labels/train/classes.txt", "leaf\n")
    text(tmp_path / "labels/train/renamed.txt", LINE)
    message = r"labels/train: text files without a photo of their name in train/: 'renamed'"
    with pytest.warns(TerrazzoWarning, match=message):
        open_dataset(tmp_path, "train")
    (problem,) = [problem for problem in check_dataset(tmp_path).problems if problem.code == "photo-missing"]
    assert problem.severity == "warning"


def test_a_folder_called_images_above_the_data_is_not_theirs(tmp_path: Path) -> None:
    root = tmp_path / "images/field"
    text(root / "data.yaml", "train: train\nval: train\nnames: [leaf]\n")
    photo(root / "train/a.png")
    text(root / "train/a.txt", LINE)
    np.testing.assert_array_equal(open_dataset(root, "train").read(0)[1], LEAF)


def test_yolo_lists_with_backslashes(tmp_path: Path) -> None:
    yolo(tmp_path, "a.png", "a.txt")
    text(tmp_path / "data.yaml", "train: train.txt\nval: train.txt\nnames: [leaf]\n")
    text(tmp_path / "train.txt", ".\\images\\train\\a.png\r\n")
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").read(0)[1], LEAF)


def test_yolo_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    assert open_dataset(yolo(tmp_path, "a.png", "a.txt", "{'0': leaf}"), "train").labels.names[1] == "leaf"
    for names, message in (("[no]", "`names` has False, which is not text"), ("{1: leaf}", "must be numbered from 0")):
        yolo(tmp_path, "a.png", "a.txt", names)
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path, "train")


def test_masks_of_ultralytics_are_found_whatever_the_spelling(tmp_path: Path) -> None:
    text(tmp_path / "data.yaml", "train: images\nval: images\nmasks_dir: masks\nnames: [soil, leaf]\n")
    photo(tmp_path / f"images/{APART}.png")
    image(tmp_path / f"masks/{ACCENT}.png", LEAF)
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").read(0)[1], LEAF)


def test_masks_of_roboflow_in_capitals(tmp_path: Path) -> None:
    EXPORTS["roboflow"](tmp_path)
    (mask,) = (tmp_path / "train").glob("*_mask.png")
    mask.rename(mask.with_suffix(".PNG"))
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").read(0)[1], LEAF * 2)


def written(root: Path, changes: dict[str, Any], **more: Any) -> Path:
    """Write a COCO document whose first photo, annotation and category are changed."""
    content = coco("a.png")
    for key, value in changes.items():
        content[key][0].update(value)
    document(root / "train.json", content | more)
    photo(root / "train/a.png")
    return root


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": {"iscrowd": "0"}},
        {"annotations": {"iscrowd": "False"}},
        {"annotations": {"category_id": "0"}, "categories": {"id": "0"}},
        {"annotations": {"image_id": "0"}},
        {"annotations": {"image_id": 0.0, "category_id": 0.0}, "images": {"height": 12.0, "width": "16"}},
        {"annotations": {"segmentation": {"size": [12, 16], "counts": [27.0, 6, 6, 6, 6, 6, 6, 6, 123]}}},
    ],
)
def test_numbers_and_marks_of_coco_as_text(changes: dict[str, Any], tmp_path: Path) -> None:
    np.testing.assert_array_equal(open_dataset(written(tmp_path, changes), "train").read(0)[1], LEAF)


def test_photos_of_one_id_are_refused(tmp_path: Path) -> None:
    """The annotations of one would have been those of the other."""
    twice = [{"id": id_, "file_name": f"{name}.png", "height": 12, "width": 16} for name, id_ in (("a", 0), ("b", "0"))]
    photo(tmp_path / "train/b.png")
    with pytest.raises(DatasetError, match=r"photos with the id of another: 1, id 0"):
        open_dataset(written(tmp_path, {}, images=twice), "train")


def test_a_key_that_a_document_has_twice_is_refused(tmp_path: Path) -> None:
    """Python's reader takes the last one: here, that there are no annotations."""
    path = written(tmp_path, {}) / "train.json"
    path.write_text(path.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(DatasetError, match=r"train.json: the key 'annotations' occurs twice"):
        open_dataset(tmp_path, "train")


def test_things_and_stuff_marked_with_text(tmp_path: Path) -> None:
    """As things they would have made the unlabelled pixels background."""
    EXPORTS["coco_panoptic"](tmp_path / "coco")
    for path in (tmp_path / "coco/annotations").glob("*.json"):
        path.write_text(path.read_text().replace('"isthing": 0', '"isthing": "0"'))
    assert open_dataset(tmp_path / "coco", "train").labels.names == ("cat", "sky")
    EXPORTS["segments_ai"](tmp_path / "segments")
    path = tmp_path / "segments/flowers-v1.0.json"
    path.write_text(path.read_text().replace('"has_instances": false', '"has_instances": "false"'))
    assert open_dataset(tmp_path / "segments", "all").labels.names == ("cat", "sky")


def test_what_is_set_and_what_is_one() -> None:
    assert [is_set(flag) for flag in (1, True, "1", "true", "Yes")] == [True] * 5
    assert [is_set(flag) for flag in (0, None, False, "0", "False", "no", "", 0.0)] == [False] * 8
    assert [key_of(id_) for id_ in (7, 7.0, "7", "a7", None, [7], True)] == [7, 7, 7, "a7", None, None, None]
    assert names_by_id([{"id": "2", "name": " b"}, {"id": 1, "name": "a"}]) == {1: "a", 2: "b"}
    assert names_by_id([{"id": 1, "name": "a"}, {"id": "1", "name": "b"}]) is None


@pytest.mark.parametrize("other", ["", '{"a": 1}', "[]"])
def test_a_foreign_file_among_those_of_labelme_is_named_alone(other: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(tmp_path / split / f"{split}.png")
        document(tmp_path / split / f"{split}.json", labelme_file(f"{split}.png", [shape("leaf", corners(2, 3, 6, 9))]))
    text(tmp_path / "train/config.json", other)
    check = check_dataset(tmp_path)
    assert [check.relative(error.file) for error in check.errors if error.file] == ["train/config.json"]
    np.testing.assert_array_equal(open_dataset(tmp_path, "val").read(0)[1], LEAF)


def test_labels_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    photo(tmp_path / "train/a.png")
    shapes = [shape(ACCENT, corners(2, 3, 4, 9)), shape(APART, corners(4, 3, 6, 9))]
    document(tmp_path / "train/a.json", labelme_file("a.png", shapes))
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").read(0)[1], LEAF)


def test_an_error_of_a_document_is_told_once_with_its_file(tmp_path: Path) -> None:
    written(tmp_path, {})
    text(tmp_path / "val.json", "")
    document(tmp_path / "annotations/instances_val.json", [])
    check = check_dataset(tmp_path)
    assert [error.code for error in check.errors] == ["dataset-annotations"]
    assert check.errors[0].message.endswith(
        "it is a JSON file, but not a COCO document: images, annotations, categories missing"
    )


def save_pairs(root: Path, name: str, pixels: np.ndarray[Any, Any], **options: Any) -> Path:
    for split in ("train", "val"):
        photo(root / split / "images/a.png")
        (root / split / "masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / split / "masks" / name, **options)
    text(root / "labels.yaml", "names: [soil, leaf]\n")
    return root


def test_lossless_webp_masks_are_exact(tmp_path: Path) -> None:
    pixels = np.repeat(LEAF[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        open_dataset(save_pairs(tmp_path, "a.webp", pixels, lossless=True), "train").read(0)[1], LEAF
    )
    save_pairs(tmp_path, "a.webp", pixels, quality=90)
    with pytest.raises(DatasetError, match="whose compression changes class indices") as caught:
        open_dataset(tmp_path, "train").read(0)
    assert caught.value.code == "mask-lossy"


def test_numbers_of_a_tiff_whose_0_is_white_can_be_meant_in_two_ways(tmp_path: Path) -> None:
    """Pillow turns 1 into 254; other readers leave it."""
    save_pairs(tmp_path, "a.tif", LEAF)
    path = tmp_path / "train/masks/a.tif"
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    (entry,) = [
        start + 2 + 12 * k for k in range(count) if struct.unpack_from("<H", data, start + 2 + 12 * k) == (262,)
    ]
    struct.pack_into("<H", data, entry + 8, 0)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="a TIFF whose 0 is white"):
        open_dataset(tmp_path, "train").read(0)
    np.testing.assert_array_equal(open_dataset(tmp_path, "val").read(0)[1], LEAF)


def test_negative_numbers_are_not_sent_to_a_map(tmp_path: Path) -> None:
    save_pairs(tmp_path, "a.tif", LEAF.astype(np.int32) - 1)
    (tmp_path / "labels.yaml").unlink()
    (error,) = check_dataset(tmp_path).errors
    assert "`map:` cannot have negative values" in error.fix


def test_columns_of_a_table_are_escaped(tmp_path: Path) -> None:
    features = {f"\x1b[2J{k}": {"_type": "Image"} for k in range(1000)}
    document(tmp_path / "state.json", {})
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path, "train")
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 500
