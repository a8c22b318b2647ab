"""Masks that are named after their photos in some other way, lie elsewhere, or stand in lists from other systems."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from drawn_masks import discs, photo, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.layout import Pairs
from terrazzo.data.name_affixes import find_affixes
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning

AB = LabelSpec.from_names(["a", "b", "c"])


def touched(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def paired(found: Pairs) -> list[tuple[str, str]]:
    samples, problems = found
    assert all(problem.severity == "note" for problem in problems), problems
    return [(sample.image.name, sample.mask.file.name) for sample in samples]


# -- what masks' names have more --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "masks", "told"),
    [
        (["0cdf_01.jpg", "0cdf_02.jpg"], ["0cdf_01_mask.gif", "0cdf_02_mask.gif"], "NAME with NAME_mask"),
        (["0001TP_006690.png"], ["0001TP_006690_L.png"], "NAME with NAME_L"),
        (["a.jpg", "b.jpg"], ["a.labels.png", "b.labels.png"], "NAME with NAME.labels"),
        (["1.jpg", "12.jpg", "112.jpg"], ["mask_1.png", "mask_12.png", "mask_112.png"], "NAME with mask_NAME"),
        (["img_01.png", "img_02.png"], ["mask_01.png", "mask_02.png"], "img_NAME with mask_NAME"),
        (["855_sat.jpg", "996_sat.jpg"], ["855_mask.png", "996_mask.png"], "NAME_sat with NAME_mask"),
        (["x1.jpg", "x2.jpg"], ["x1Mask.png", "x2Mask.png"], "NAME with NAMEMask"),
        (["a.b.jpg"], ["a.b_color_mask.png"], "NAME with NAME_color_mask"),
    ],
)
def test_what_masks_have_more_is_found_and_told(images: list[str], masks: list[str], told: str, tmp_path: Path) -> None:
    touched(tmp_path, *(f"train/images/{name}" for name in images), *(f"train/masks/{name}" for name in masks))
    found = find_layout(tmp_path).pairs("train")
    assert sorted(paired(found)) == sorted(zip(images, masks, strict=True))
    assert [problem.message for problem in found[1]] == [f"photos and masks are paired as {told}"]


def test_training_says_how_names_were_paired(tmp_path: Path) -> None:
    photo(tmp_path / "train/images/a.jpg")
    save(tmp_path / "train/masks/a_mask.png", discs([1]))
    with pytest.warns(TerrazzoWarning, match="paired as NAME with NAME_mask"):
        dataset = open_dataset(tmp_path, "train", AB)
    np.testing.assert_array_equal(dataset.read(0)[1], discs([1]))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["1.jpg"], ["12.png"]),  # another number
        (["cat.jpg"], ["cats.png"]),  # another word
        (["left_1.jpg", "left_2.jpg"], ["right_1.png", "right_2.png"]),  # another camera
        (["a.jpg"], ["b_mask.png"]),
    ],
)
def test_what_only_looks_alike_is_not_paired(images: list[str], masks: list[str], tmp_path: Path) -> None:
    touched(tmp_path, *(f"train/images/{name}" for name in images), *(f"train/masks/{name}" for name in masks))
    samples, problems = find_layout(tmp_path).pairs("train")
    assert not samples and {problem.code for problem in problems} == {"mask-missing", "photo-missing"}


def test_a_mask_that_is_missing_is_missing_in_spite_of_the_ending(tmp_path: Path) -> None:
    touched(tmp_path, *(f"train/images/{n}.jpg" for n in "abc"), *(f"train/masks/{n}_mask.png" for n in "ac"))
    samples, problems = find_layout(tmp_path).pairs("train")
    assert [sample.name for sample in samples] == ["a", "c"]
    assert [problem.code for problem in problems if problem.severity == "error"] == ["mask-missing"]


def test_masks_of_two_kinds_in_one_folder_are_not_chosen_from(tmp_path: Path) -> None:
    touched(tmp_path, *(f"train/images/{n}.jpg" for n in "ab"))
    touched(tmp_path, *(f"train/masks/{n}_{kind}.png" for n in "ab" for kind in ("color", "labelIds")))
    with pytest.raises(DatasetError, match="several masks each: NAME_color and NAME_labelIds"):
        open_dataset(tmp_path, "train", AB)


@given(
    st.sets(st.text("abc019_", min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from(["_mask", "_L", ".labels", "-gt"]),
)
def test_every_image_gets_the_mask_with_the_ending(names: set[str], ending: str) -> None:
    masks = {name + ending for name in names}
    ways = find_affixes(names, masks)
    if ways and not names & masks:
        assert any(all(way.mask_of(name) == name + ending for name in names) for way in ways)


# -- where masks lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "splits", "pairs"),
    [
        (["train/a.jpg", "train_masks/a_mask.gif"], ("train",), [("a.jpg", "a_mask.gif")]),
        (["train/a.jpg", "train_masks/a.png", "val/b.jpg", "val_masks/b.png"], ("train", "val"), [("a.jpg", "a.png")]),
        (["train_images/a.jpg", "train_masks/a.png"], ("train",), [("a.jpg", "a.png")]),
        (["train/images/a.jpg", "train/labels/a.png", "valid/images/b.jpg", "valid/labels/b.png"], ("train", "val"),
         [("a.jpg", "a.png")]),
        (["images/train/a.jpg", "masks/train/a.png", "images/val/b.jpg", "masks/val/b.png"], ("train", "val"),
         [("a.jpg", "a.png")]),
        (["images/a.jpg", "masks/a.png"], ("all",), [("a.jpg", "a.png")]),
        (["Image/a.jpg", "Mask/a.png"], ("all",), [("a.jpg", "a.png")]),
        (["photos_2024/a.jpg", "mask_png/a.png"], ("all",), [("a.jpg", "a.png")]),
        (["a.jpg", "a_mask.gif", "b.jpg", "b_mask.gif"], ("all",), [("a.jpg", "a_mask.gif"), ("b.jpg", "b_mask.gif")]),
        (["a.jpg", "a_L.png"], ("all",), [("a.jpg", "a_L.png")]),
        (["a.jpg", "a.labels.png"], ("all",), [("a.jpg", "a.labels.png")]),
        (["train/a.jpg", "train/a_mask.png", "valid/b.jpg", "valid/b_mask.png"], ("train", "val"),
         [("a.jpg", "a_mask.png")]),
    ],
)  # fmt: skip
def test_where_masks_lie(
    files: list[str], splits: tuple[str, ...], pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    layout = find_layout(touched(tmp_path, *files))
    assert layout.splits == splits
    assert paired(layout.pairs(splits[0])) == pairs
    assert layout.labels is None


def test_a_plain_folder_gives_way_to_a_layout_that_says_more(tmp_path: Path) -> None:
    touched(tmp_path, "images/a.jpg", "masks/a.png")
    (tmp_path / "train.txt").write_text("a\n")
    assert find_layout(tmp_path).splits == ("train",)


def test_images_alone_are_no_data_set(tmp_path: Path) -> None:
    touched(tmp_path, "a.jpg", "a_2.jpg", "b.jpg", "b_small.jpg")
    with pytest.raises(DatasetError, match="holds 4 images, and nothing that says which of them are masks"):
        find_layout(tmp_path)


# -- names from other systems -----------------------------------------------------------------------------------------

COMPOSED, APART = (unicodedata.normalize(form, "Zürich é") for form in ("NFC", "NFD"))


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path) -> None:
    assert COMPOSED != APART
    touched(tmp_path, f"train/images/{APART}.jpg", f"train/masks/{COMPOSED}.png")
    assert len(paired(find_layout(tmp_path).pairs("train"))) == 1
    listed = touched(tmp_path / "listed", f"images/{COMPOSED}.jpg", f"masks/{APART}.png")
    for text in (APART, f"{COMPOSED}.jpg", f"images/{APART}.jpg masks/{COMPOSED}.png"):
        (listed / "train.txt").write_text(f"{text}\n")
        assert len(paired(find_layout(listed).pairs("train"))) == 1, text


def test_composed_names_in_a_coco_document(tmp_path: Path) -> None:
    photo(tmp_path / f"train/{APART}.jpg", (8, 8))
    document = {
        "images": [{"id": 1, "file_name": f"{COMPOSED}.jpg", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 8, 0, 8]]}],
        "categories": [{"id": 1, "name": "leaf"}],
    }
    (tmp_path / "train/_annotations.coco.json").write_text(json.dumps(document))
    mask = open_dataset(tmp_path, "train").read(0)[1]
    assert mask.sum() == 32 and mask[:, :4].all()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_the_encodings_of_windows(encoding: str, tmp_path: Path) -> None:
    touched(tmp_path, "images/a é.jpg", "images/b.jpg", "masks/a é.png", "masks/b.png")
    (tmp_path / "train.txt").write_bytes("a é\r\nb.jpg\r\n".encode(encoding))
    assert paired(find_layout(tmp_path).pairs("train")) == [("a é.jpg", "a é.png"), ("b.jpg", "b.png")]


@pytest.mark.parametrize(
    "line",
    [
        r"photos\day 1\a b.jpg labels\day 1\a b.png",
        "photos/day 1/a b.jpg labels/day 1/a b.png",
        "photos/day 1/a b.jpg, labels/day 1/a b.png",
        "photos/day 1/a b.jpg\tlabels/day 1/a b.png",
        "photos/day 1/a b.jpg;labels/day 1/a b.png",
        '"photos/day 1/a b.jpg" "labels/day 1/a b.png"',
        r".\photos\day 1\a b.jpg .\labels\day 1\a b.png",
    ],
)
def test_pair_lists_with_spaces_and_backslashes(line: str, tmp_path: Path) -> None:
    touched(tmp_path, "photos/day 1/a b.jpg", "labels/day 1/a b.png")
    (tmp_path / "train.txt").write_text(f"{line}\n")
    layout = find_layout(tmp_path)
    assert layout.name == "photos and masks listed in text files"
    assert paired(layout.pairs("train")) == [("a b.jpg", "a b.png")]


def test_lists_of_names_with_backslashes_and_of_masks_with_an_ending(tmp_path: Path) -> None:
    touched(tmp_path, "images/day/a.jpg", "masks/day/a_mask.png")
    (tmp_path / "train.txt").write_text("images\\day\\a.jpg\n")
    assert paired(find_layout(tmp_path).pairs("train")) == [("a.jpg", "a_mask.png")]
    for line in (r"C:\data\a.jpg", r"..\a.jpg", r"\a.jpg"):
        (tmp_path / "train.txt").write_text(f"{line}\n")
        assert [problem.code for problem in find_layout(tmp_path).pairs("train")[1]] == ["list-entry"], line


def test_gif_masks_are_read_as_indices(tmp_path: Path) -> None:
    photo(tmp_path / "train/a.jpg")
    (tmp_path / "train_masks").mkdir()
    image = Image.frombytes("P", (80, 48), discs([1, 1]).tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "train_masks/a_mask.gif")
    with pytest.warns(TerrazzoWarning, match="NAME_mask"):
        dataset = open_dataset(tmp_path, "train")
    np.testing.assert_array_equal(dataset.read(0)[1], discs([1, 1]))
