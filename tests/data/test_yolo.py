"""YOLO polygons: data.yaml, the photos' folders, and every mistake named with its line."""

from __future__ import annotations

import made_layouts
import numpy as np
import pytest
from made_folder import Folder
from made_layouts import noise
from PIL import Image

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.errors import DatasetError

ALL_OVER = "0 0 0 1 0 1 1 0 1\n"


def with_labels(folder: Folder, text: str) -> Folder:
    made_layouts.yolo(folder)
    folder.text("labels/train/a.txt", text)
    return folder


def test_classes_are_one_up_over_the_background(folder: Folder) -> None:
    made_layouts.yolo(folder)
    assert open_dataset(folder.root, "train").labels.names == ("background", "leaf", "bug")


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("0 0.5 0.5 0.2 0.2\n", "outline-missing", "line 1 is a box"),
        (f"{ALL_OVER}1 0.1 0.2 0.3\n", "outline-damaged", "line 2 is not an outline: '1 0.1 0.2 0.3'"),
        ("0 0.1 0.2 0.3 0.4 x 0.5\n", "outline-damaged", "line 1 is not an outline"),
        ("0 0.1 0.2 0.3 0.4 nan 0.5\n", "outline-damaged", "line 1 is not an outline"),
        ("-1 0 0 1 0 1 1\n", "outline-damaged", "line 1 is not an outline"),
        ("70000 0 0 1 0 1 1\n", "outline-damaged", "line 1 is not an outline"),
        ("leaf 0 0 1 0 1 1\n", "outline-damaged", "line 1 is not an outline"),
        ("0 10 20 300 20 300 40\n", "outline-damaged", "line 1 has corners in pixels"),
        ("5 0 0 1 0 1 1 0 1\n", "mask-values", "6 (192 pixels)"),
        ("254 0 0 1 0 1 1 0 1\n", "mask-values", "255 (192 pixels)"),
    ],
)
def test_lines_that_are_no_outline(text: str, code: str, message: str, folder: Folder) -> None:
    """Class 254 of three would be stored as 255, which must not be taken for "not labelled"."""
    with_labels(folder, text)
    with pytest.raises(DatasetError) as caught:
        open_dataset(folder.root, "train").read(0)
    assert caught.value.code == code
    assert caught.value.message.startswith(str(folder.root / "labels/train/a.txt"))
    assert message in caught.value.message
    (problem,) = check_dataset(folder.root).errors
    assert (problem.code, problem.file) == (code, folder.root / "labels/train/a.txt")


def test_the_image_as_viewers_show_it_gives_the_size(folder: Folder) -> None:
    with_labels(folder, ALL_OVER)
    with Image.open(folder.root / "images/train/a.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(folder.root / "images/train/a.jpg", exif=exif)
    image, mask = open_dataset(folder.root, "train").read(0)
    assert image.shape[:2] == mask.shape == (16, 12)
    assert (mask == 1).all()


def test_a_image_that_is_gone_or_damaged_is_named(folder: Folder) -> None:
    made_layouts.yolo(folder)
    dataset = open_dataset(folder.root, "train")
    (folder.root / "images/train/a.jpg").write_bytes(b"")
    assert [problem.code for problem in check_dataset(folder.root).errors] == ["image-empty", "mask-damaged"]
    (folder.root / "images/train/a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"a\.jpg: it has disappeared"):
        dataset.read(0)


def test_images_in_several_folders_and_in_lists(folder: Folder) -> None:
    for name in ("one/images/a", "two/images/b", "two/images/c"):
        noise(folder, f"{name}.jpg")
        folder.text(f"{name.replace('images', 'labels')}.txt", ALL_OVER)
    folder.text("val.txt", "./two/images/c.jpg\n./two/images/lost.jpg\n")
    folder.text("data.yaml", "train: [one/images, two/images]\nval: val.txt\nnames: [x]\n")
    dataset = open_dataset(folder.root, "train")
    assert [sample.name for sample in dataset.samples] == ["a", "b", "c"]
    assert all((dataset.read(index)[1] == 1).all() for index in range(3))
    (problem,) = find_layout(folder.root).pairs("val")[1]
    assert (problem.code, problem.message) == (
        "photo-missing",
        "line 2 names './two/images/lost.jpg', which is not there",
    )


def test_labels_beside_the_images(folder: Folder) -> None:
    noise(folder, "pictures/a.jpg")
    folder.text("pictures/a.txt", ALL_OVER)
    folder.text("data.yaml", "train: pictures\nnames: [x]\n")
    assert (open_dataset(folder.root, "train").read(0)[1] == 1).all()


def test_no_labels_at_all_is_no_data_set(folder: Folder) -> None:
    """One photo without a text file has no objects; a whole split without any has them elsewhere."""
    noise(folder, "images/train/a.jpg")
    folder.text("data.yaml", "train: images/train\nnames: [x]\n")
    with pytest.raises(DatasetError, match="no photo of train has a text file in labels/"):
        open_dataset(folder.root, "train")


def test_images_of_one_name(folder: Folder) -> None:
    made_layouts.yolo(folder)
    noise(folder, "images/train/a.png")
    with pytest.raises(DatasetError, match=r"a\.jpg: shares its name with a\.png"):
        open_dataset(folder.root, "train")


@pytest.mark.parametrize("names", ["[x, y, z]", "{0: x, 1: y, 2: z}"])
def test_more_names_than_a_mask_tells_apart(names: str, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    made_layouts.yolo(folder)
    folder.text("data.yaml", f"train: images/train\nnames: {names}\n")
    monkeypatch.setattr("terrazzo.data.layouts.yolo.IGNORED", 3)
    with pytest.raises(DatasetError, match="has 3 names, and a mask tells 2 apart"):
        open_dataset(folder.root, "train")


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ("train: images/train\n", "dataset-layout", "data.yaml lacks names"),
        ("names: [x]\n", "dataset-layout", "data.yaml lacks train and val"),
        ("names: [x\n", "dataset-layout", "line 2: not valid YAML"),
        ("[1, 2]\n", "dataset-layout", "lacks train and val"),
        ("train: nowhere\nnames: [x]\n", "dataset-annotations", "it names 'nowhere' for train"),
        ("train: 7\nnames: [x]\n", "dataset-annotations", "it names 7 for train"),
        ("train: images/train\nnames: 5\n", "dataset-annotations", "not a list of texts"),
        ("train: images/train\nnames: {0: x, 7: y}\n", "dataset-annotations", "must be numbered from 0"),
        ("train: images/train\nnames: {0: x, 99999999: y}\n", "dataset-annotations", "must be numbered from 0"),
        ("train: images/train\nnames: [x, x]\n", "dataset-annotations", "a name twice"),
        ("train: images/train\nnames: [background, x]\n", "dataset-annotations", "or a background"),
        ("train: images/val\nnames: []\n", "dataset-annotations", "alone leaves nothing"),
    ],
)
def test_documents_that_say_too_little(document: str, code: str, message: str, folder: Folder) -> None:
    made_layouts.yolo(folder)
    folder.text("data.yaml", document)
    with pytest.raises(DatasetError) as caught:
        open_dataset(folder.root, "train")
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.fix


def test_a_path_that_is_given_counts(folder: Folder) -> None:
    noise(folder, "set/images/a.jpg")
    folder.text("set/labels/a.txt", ALL_OVER)
    folder.text("data.yaml", "path: set\ntrain: images\nnames: {0: x}\n")
    np.testing.assert_array_equal(open_dataset(folder.root, "train").read(0)[1], np.ones((12, 16), np.uint8))
