"""A data set named where photos are wanted: its label masks are not segmented, calibrated with or timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tool_exports import EXPORTS, LEAF, image

from terrazzo.data import find_layout
from terrazzo.data.choose_images import choose_images
from terrazzo.exports.int8 import split_images
from terrazzo.notes import TerrazzoWarning


def photo(path: Path) -> Path:
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return image(path, pixels)


def grey(path: Path) -> Path:
    return image(path, np.random.default_rng(list(path.name.encode())).integers(0, 256, (24, 32), dtype=np.uint8))


def painted(path: Path) -> Path:
    return image(path, np.dstack([LEAF * 200, LEAF * 30, LEAF * 7]))


LAYOUTS = {
    "folder": ("train/images/{}.jpg", "train/masks/{}.png"),
    "plain": ("images/{}.jpg", "masks/{}.png"),
    "camvid": ("train/{}.png", "trainannot/{}.png"),
    "camvid raw": ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png"),
    "ade20k": ("images/training/{}.jpg", "annotations/training/{}.png"),
    "mmsegmentation": ("img_dir/train/{}.jpg", "ann_dir/train/{}.png"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "voc objects": ("JPEGImages/{}.jpg", "SegmentationObject/{}.png"),
    "cityscapes": ("leftImg8bit/train/a/{}_leftImg8bit.png", "gtFine/train/a/{}_gtFine_labelIds.png"),
    "cityscapes colours": ("leftImg8bit/val/a/{}_leftImg8bit.png", "gtFine/val/a/{}_gtFine_color.png"),
    "supervisely": ("project/ds/img/{}.jpg", "project/ds/masks_human/{}.png"),
    "word behind": ("{}.jpg", "{}_mask.png"),
    "word before": ("{}.jpg", "mask_{}.png"),
    "two words": ("{}.jpg", "{}_label_ground-truth.png"),
    "beside": ("train/{}.jpg", "train_masks/{}_mask.png"),
    "pets": ("images/{}.jpg", "annotations/trimaps/{}.png"),
    "kitti": ("training/image_2/{}.png", "training/semantic_rgb/{}.png"),
    "any name": ("photos/{}.jpg", "pngs/{}.png"),
    "any name, split": ("photos/train/{}.jpg", "colormaps/train/{}.png"),
    "same name": ("{}.jpg", "{}.png"),
    "pixel annotation tool": ("{}.png", "{}_watershed_mask.png"),
    "folder of any name": ("set/{}.jpg", "set/bitmaps/{}.png"),
}


@pytest.mark.parametrize("draw", [lambda path: image(path, LEAF), painted], ids=["indices", "painted"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_masks_are_left_out_with_a_note(layout: tuple[str, str], draw: object, tmp_path: Path) -> None:
    photos = [photo(tmp_path / layout[0].format(name)) for name in ("a_1", "b_2", "b_10")]
    masks = [draw(tmp_path / layout[1].format(name)) for name in ("a_1", "b_2", "b_10")]  # type: ignore[operator]
    for place in (tmp_path, str(tmp_path / "**" / "*.*")):
        with pytest.warns(TerrazzoWarning, match="left out 3 label masks"):
            images, left_out = choose_images(place)
        assert sorted(images) == sorted(photos)
        assert sorted(left_out) == sorted(masks)


@pytest.mark.filterwarnings("ignore::terrazzo.notes.TerrazzoWarning")
@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_of_what_tools_write_only_the_photos_are_taken(export: object, tmp_path: Path) -> None:
    export(tmp_path)  # type: ignore[operator]
    layout = find_layout(tmp_path)
    encoded = [sample.image.encoded() for split in layout.splits for sample in layout.pairs(split)[0]]  # type: ignore[attr-defined]
    photos = {path for path in encoded if isinstance(path, Path)}  # others are inside of documents
    taken = set(choose_images(tmp_path)[0])
    assert photos <= taken
    unlabelled = {path for path in taken - photos if path.parent in {photo.parent for photo in photos}}
    assert taken == photos | unlabelled


@pytest.mark.parametrize(
    "layout",
    [
        ("JPEGImages/{}.jpg", "SegmentationClassVisualization/{}.jpg"),  # labelme2voc
        ("images/{}.jpg", "Visualization/{}.jpg"),  # labelme2coco
        ("images/{}.png", "overlays/{}.png"),
        ("{}.png", "{}_overlay.png"),
        ("{}.png", "{}_blend.png"),
        ("{}_json/img.png", "{}_json/label_viz.png", "{}_json/label.png"),  # labelme_draw_json
    ],
)
def test_pictures_of_masks_are_left_out(layout: tuple[str, ...], tmp_path: Path) -> None:
    names = ("a_1", "b_2", "b_10")
    photos = [photo(tmp_path / layout[0].format(name)) for name in names]
    others = [photo(tmp_path / layout[1].format(name)) for name in names]
    others += [image(tmp_path / extra.format(name), LEAF) for extra in layout[2:] for name in names]
    with pytest.warns(TerrazzoWarning, match=f"left out {len(others)} label masks"):
        images, left_out = choose_images(tmp_path)
    assert sorted(images) == sorted(photos)
    assert sorted(left_out) == sorted(others)


@pytest.mark.parametrize(
    ("names", "draw"),
    [
        (("images/{}.png", "labels/{}.png"), photo),  # photos of labels
        (("segmentation/{}.png", "segmentation/more/{}.png"), photo),
        (("a/{}.png", "far/away/b/{}.png"), painted),  # nothing speaks of masks
        (("a/{}.png", "b/{}.jpg"), painted),  # of a quality that makes many colours
        (("visible/{}.png", "infrared/{}.png"), grey),
        (("vis/{}.png", "ir/{}.png"), photo),
        (("{}.png", "{}_2.png"), painted),
        (("{}.tif", "{}.png"), grey),
        (("{}.png", "{}_l.png"), photo),  # the left camera
        (("left/{}.png", "masks/of_{}_others.png"), photo),
    ],
)
def test_photos_are_not_taken_for_masks(names: tuple[str, str], draw: object, tmp_path: Path) -> None:
    photos = [photo(tmp_path / names[0].format(name)) for name in ("a", "b")]
    others = [draw(tmp_path / names[1].format(name)) for name in ("a", "b")]  # type: ignore[operator]
    assert sorted(choose_images(tmp_path)[0]) == sorted(photos + others)


def test_a_folder_of_masks_named_alone_is_taken(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    mask = image(tmp_path / "masks/a.png", LEAF)
    assert choose_images(tmp_path / "masks") == ([mask], [])


def test_int8_is_not_calibrated_with_masks(tmp_path: Path) -> None:
    photos = [photo(tmp_path / f"images/{number}.jpg") for number in range(9)]
    for number in range(9):
        image(tmp_path / f"masks/{number}.png", LEAF)
    with pytest.warns(TerrazzoWarning, match="left out 9 label masks"):
        calibration, checked = split_images([str(tmp_path)])
    assert sorted([*calibration, *checked]) == photos
