"""Tiny faithful copies of published data sets: their folders, file names and stored values, with photos of noise.

Each function fills a folder and says what must come out of it: for every split the photos' names, and each mask as
class indices, worked out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from made_folder import Folder
from numpy.typing import NDArray
from PIL import Image

Masks = dict[str, dict[str, NDArray[np.uint8]]]

SIZE = (12, 16)
# pycocotools' encoding of RUN_MASK
RUNS = "?4300NNO23c0M"
RUN_MASK = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
    ],
    np.uint8,
)


@dataclass(frozen=True)
class Made:
    """What a copy must be taken for, and what it holds."""

    layout: str
    classes: int
    masks: Masks


def quarters(a: Any, b: Any, c: Any, d: Any, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Four values or colours, each in a quarter: a and b above c and d."""
    rows = np.arange(size[0])[:, None] * 2 // size[0]
    columns = np.arange(size[1])[None] * 2 // size[1]
    return np.array([a, b, c, d], np.uint8)[rows * 2 + columns]


def noise(folder: Folder, path: str, size: tuple[int, int] = SIZE) -> None:
    """Write a photo; each path has its own."""
    folder.picture(path, np.random.default_rng(list(path.encode())).integers(0, 256, (*size, 3), dtype=np.uint8))


def folders(folder: Folder) -> Made:
    folder.labels("names: [sky, ground, tree]")
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        noise(folder, f"{split}/images/{name}.jpg")
        folder.picture(f"{split}/masks/{name}.png", quarters(0, 1, 2, 255))
    mask = quarters(0, 1, 2, 255)
    return Made(
        "a folder of photos and masks, split by folders", 3, {"train": {"a": mask, "b": mask}, "val": {"c": mask}}
    )


def color_map(folder: Folder) -> Made:
    """Masks in colours, which labels.yaml explains."""
    folder.labels('{names: [ground, leaf], colors: {"90,60,30": 0, "0,200,0": 1, "0,90,0": 1, "255,255,255": ignore}}')
    stored = quarters((90, 60, 30), (0, 200, 0), (0, 90, 0), (255, 255, 255))
    for split in ("train", "val"):
        noise(folder, f"{split}/images/a.png")
        folder.picture(f"{split}/masks/a.png", stored)
    mask = quarters(0, 1, 1, 255)
    return Made("a folder of photos and masks, split by folders", 2, {"train": {"a": mask}, "val": {"a": mask}})


def listed_pairs(folder: Folder) -> Made:
    """PaddleSeg's and others' lists of two paths a line."""
    folder.labels("names: [sky, ground]")
    for name in ("a", "b c", "d"):
        noise(folder, f"JPEG/{name}.jpg")
        folder.picture(f"Annotations/day 1/{name}_gt.png", quarters(0, 1, 1, 255))
    folder.text(
        "train.txt",
        "# photo, mask\nJPEG/a.jpg\tAnnotations/day 1/a_gt.png\n./JPEG/b c.jpg,Annotations/day 1/b c_gt.png\n",
    )
    folder.text("val.txt", "JPEG/d.jpg\tAnnotations/day 1/d_gt.png\n")
    mask = quarters(0, 1, 1, 255)
    masks = {"train": {"a": mask, "b c": mask}, "val": {"d": mask}}
    return Made("photos and masks listed in text files", 2, masks)


def listed_names(folder: Folder) -> Made:
    folder.labels("names: [sky, ground]")
    for name in ("a", "b"):
        noise(folder, f"images/{name}.jpg")
        folder.picture(f"masks/{name}.png", quarters(0, 1, 1, 0))
    folder.text("train.txt", "a\n")
    folder.text("val.txt", "images/b.jpg\n")
    mask = quarters(0, 1, 1, 0)
    return Made("photos and masks listed in text files", 2, {"train": {"a": mask}, "val": {"b": mask}})


def ade20k(folder: Folder) -> Made:
    masks: Masks = {"train": {}, "val": {}}
    for split, long, name in (
        ("train", "training", "ADE_train_00000001"),
        ("train", "training", "ADE_train_00000002"),
        ("val", "validation", "ADE_val_00000001"),
    ):
        noise(folder, f"images/{long}/{name}.jpg")
        folder.picture(f"annotations/{long}/{name}.png", quarters(0, 1, 2, 150))
        masks[split][name] = quarters(255, 0, 1, 149)
    folder.text("objectInfo150.txt", "Idx\tRatio\n")
    return Made("ADE20K", 150, masks)


def cityscapes(folder: Folder, train_ids: bool = False) -> Made:
    masks: Masks = {}
    stored = {"labelIds": quarters(7, 33, 4, 11), "instanceIds": quarters(7, 99, 4, 11)}
    if train_ids:
        stored["labelTrainIds"] = quarters(0, 18, 255, 2)
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "munster"), ("test", "berlin")):
        stem = f"{city}_000000_000019"
        noise(folder, f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        for kind, values in stored.items():
            folder.picture(f"gtFine/{split}/{city}/{stem}_gtFine_{kind}.png", values)
        folder.picture(f"gtFine/{split}/{city}/{stem}_gtFine_color.png", quarters(*[(9, 9, k) for k in range(4)]))
        folder.text(f"gtFine/{split}/{city}/{stem}_gtFine_polygons.json", "{}")
        if split != "test":
            masks.setdefault(split, {})[f"{stem}_leftImg8bit"] = quarters(0, 18, 255, 2)
    return Made(f"Cityscapes ({'labelTrainIds' if train_ids else 'labelIds'} masks)", 19, masks)


def cityscapes_train_ids(folder: Folder) -> Made:
    return cityscapes(folder, train_ids=True)


COCO_IMAGES = (("train2017", "000000000009"), ("train2017", "000000000025"), ("val2017", "000000000139"))


def coco_stuff(folder: Folder) -> Made:
    """As published: ids with gaps, up to 181."""
    for split, name in COCO_IMAGES:
        noise(folder, f"{split}/{name}.jpg")
        folder.picture(f"stuffthingmaps/{split}/{name}.png", quarters(0, 12, 181, 255))
    mask = quarters(0, 11, 170, 255)
    masks = {"train": {"000000000009": mask, "000000000025": mask}, "val": {"000000000139": mask}}
    return Made("COCO-Stuff 164k (published ids in stuffthingmaps/)", 171, masks)


def coco_stuff_train_ids(folder: Folder) -> Made:
    """As mmsegmentation converts it: both kinds of masks side by side."""
    for split, name in COCO_IMAGES:
        noise(folder, f"images/{split}/{name}.jpg")
        folder.picture(f"annotations/{split}/{name}.png", quarters(0, 12, 181, 255))
        folder.picture(f"annotations/{split}/{name}_labelTrainIds.png", quarters(0, 11, 170, 255))
    mask = quarters(0, 11, 170, 255)
    masks = {"train": {"000000000009": mask, "000000000025": mask}, "val": {"000000000139": mask}}
    return Made("COCO-Stuff 164k (labelTrainIds in annotations/)", 171, masks)


def pascal_context(folder: Folder) -> Made:
    for name in ("2008_000002", "2008_000003"):
        noise(folder, f"JPEGImages/{name}.jpg")
        folder.picture(f"SegmentationClassContext/{name}.png", quarters(0, 1, 2, 59))
    folder.text("ImageSets/SegmentationContext/train.txt", "2008_000002\n")
    folder.text("ImageSets/SegmentationContext/val.txt", "2008_000003\n")
    mask = quarters(0, 1, 2, 59)
    return Made("Pascal Context", 60, {"train": {"2008_000002": mask}, "val": {"2008_000003": mask}})


def voc(folder: Folder) -> Made:
    """Palette masks with a border of 255; train and val are lists, trainval repeats them; other photos lie beside."""
    names = ("2007_000032", "2007_000033", "2007_000039")
    for name in (*names, "2007_000027"):
        noise(folder, f"JPEGImages/{name}.jpg")
    for name in names:
        image = Image.frombytes("P", SIZE[::-1], quarters(0, 1, 20, 255).tobytes())
        image.putpalette([0, 0, 0, 128, 0, 0, *[9] * 762])
        folder.saved(f"SegmentationClass/{name}.png", image)
    folder.text("ImageSets/Segmentation/train.txt", "2007_000032\n2007_000039\n")
    folder.text("ImageSets/Segmentation/val.txt", "2007_000033\n")
    folder.text("ImageSets/Segmentation/trainval.txt", "".join(f"{name}\n" for name in names))
    mask = quarters(0, 1, 20, 255)
    return Made("Pascal VOC", 21, {"train": {"2007_000032": mask, "2007_000039": mask}, "val": {"2007_000033": mask}})


def voc_label_map(folder: Folder) -> Made:
    """Somebody's own classes in VOC's folders, with the colours of an annotation tool."""
    folder.text(
        "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:0,158,115::\nbug:9,9,200::\n"
    )
    for name in ("one", "two"):
        noise(folder, f"JPEGImages/{name}.jpg")
        folder.picture(f"SegmentationClass/{name}.png", quarters((0, 0, 0), (0, 158, 115), (9, 9, 200), (0, 0, 0)))
    folder.text("ImageSets/Segmentation/train.txt", "one\n")
    folder.text("ImageSets/Segmentation/val.txt", "two\n")
    mask = quarters(0, 1, 2, 0)
    return Made("Pascal VOC layout with labelmap.txt", 3, {"train": {"one": mask}, "val": {"two": mask}})


def camvid(folder: Folder) -> Made:
    masks: Masks = {}
    for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
        noise(folder, f"{split}/{name}.png")
        folder.picture(f"{split}annot/{name}.png", quarters(0, 4, 10, 11))
        folder.text(f"{split}.txt", f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n")
        masks[split] = {name: quarters(0, 4, 10, 255)}
    return Made("CamVid (index masks)", 11, masks)


CAMVID_COLORS = quarters((128, 128, 128), (192, 0, 192), (64, 192, 128), (0, 0, 0))  # Sky, MotorcycleScooter, ...


def camvid_published(folder: Folder) -> Made:
    masks: Masks = {}
    for split, name in (
        ("train", "0001TP_008520"),
        ("test", "0001TP_008550"),
        ("train", "0006R0_f00930"),
        ("train", "0016E5_00390"),
        ("val", "0016E5_08159"),
        ("test", "Seq05VD_f05100"),
    ):
        noise(folder, f"701_StillsRaw_full/{name}.png")
        folder.picture(f"LabeledApproved_full/{name}_L.png", CAMVID_COLORS)
        masks.setdefault(split, {})[name] = quarters(0, 10, 4, 255)
    return Made("CamVid (32 colours, unsplit)", 11, masks)


def camvid_split_colors(folder: Folder) -> Made:
    masks: Masks = {}
    for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959")):
        noise(folder, f"{split}/{name}.png")
        folder.picture(f"{split}_labels/{name}_L.png", CAMVID_COLORS)
        masks[split] = {name: quarters(0, 10, 4, 255)}
    folder.text("class_dict.csv", "name,r,g,b\n")
    return Made("CamVid (32 colours)", 11, masks)


def coco_document(images: list[tuple[int, str, int, int]], annotations: list[dict[str, Any]]) -> str:
    """Instances of cat (id 17), dog (18) and a category that is never used (90)."""
    numbered = [{"id": number, "iscrowd": 0, **annotation} for number, annotation in enumerate(annotations, 1)]
    return json.dumps(
        {
            "info": {"year": 2017},
            "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, name, h, w in images],
            "annotations": numbered,
            "categories": [{"id": 90, "name": "zebra"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        }
    )


def box(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A rectangle's corners as COCO writes them."""
    return [left, top, right, top, right, bottom, left, bottom]


def coco_objects() -> tuple[list[dict[str, Any]], NDArray[np.uint8]]:
    """One photo's annotations and its mask: two parts, an overlap, a crowd."""
    annotations = [
        {"image_id": 9, "category_id": 17, "segmentation": [box(1, 1, 7, 5), box(10, 1, 12, 3)]},
        {"image_id": 9, "category_id": 18, "segmentation": [box(4, 3, 8, 6)]},
        {"image_id": 9, "category_id": 18, "iscrowd": 1, "segmentation": [box(0, 4, 16, 8)]},
    ]
    mask = np.zeros(SIZE, np.uint8)
    mask[4:8] = 255  # the crowd lies under everything
    mask[1:5, 1:7] = 1
    mask[1:3, 10:12] = 1
    mask[3:6, 4:8] = 2  # the dog has 12 pixels and the cat 28: the smaller lies on top
    return annotations, mask


def coco_json(folder: Folder) -> Made:
    objects, mask = coco_objects()
    for name, size in (("train2017/000000000009.jpg", SIZE), ("train2017/000000000025.jpg", SIZE)):
        noise(folder, name, size)
    noise(folder, "val2017/000000000139.jpg", RUN_MASK.shape)
    images = [(25, "000000000025.jpg", *SIZE), (9, "000000000009.jpg", *SIZE)]
    folder.text("annotations/instances_train2017.json", coco_document(images, objects))
    runs = {"image_id": 7, "category_id": 90, "segmentation": {"size": list(RUN_MASK.shape), "counts": RUNS}}
    images = [(7, "000000000139.jpg", *RUN_MASK.shape)]
    folder.text("annotations/instances_val2017.json", coco_document(images, [runs]))
    folder.text("annotations/captions_train2017.json", "{}")
    empty = np.zeros(SIZE, np.uint8)
    masks = {"train": {"000000000009": mask, "000000000025": empty}, "val": {"000000000139": RUN_MASK * 3}}
    return Made("COCO JSON", 4, masks)


def coco_roboflow(folder: Folder) -> Made:
    """One document in each split's folder, beside its photos."""
    objects, mask = coco_objects()
    for split in ("train", "valid"):
        noise(folder, f"{split}/street.jpg")
        folder.text(f"{split}/_annotations.coco.json", coco_document([(9, "street.jpg", *SIZE)], objects))
    return Made("COCO JSON", 4, {"train": {"street": mask}, "val": {"street": mask}})


def yolo(folder: Folder) -> Made:
    folder.text("data.yaml", "path: .\ntrain: images/train\nval: images/val\ntest:\nnames: {0: leaf, 1: bug}\n")
    for split, names in (("train", ("a", "b", "c")), ("val", ("d",))):
        for name in names:
            noise(folder, f"images/{split}/{name}.jpg")
    square = "1 0.125 0.25 0.375 0.25 0.375 0.5 0.125 0.5\n"  # columns 2 to 5, rows 3 to 5
    folder.text("labels/train/a.txt", f"0 0 0 0.5 0 0.5 1 0 1\n{square}")
    folder.text("labels/train/b.txt", "")
    folder.text("labels/val/d.txt", square)
    leaf, bug, empty = (np.zeros(SIZE, np.uint8) for _ in range(3))
    leaf[:, :8] = 1
    leaf[3:6, 2:6] = bug[3:6, 2:6] = 2
    return Made("YOLO polygons", 3, {"train": {"a": leaf, "b": empty, "c": empty}, "val": {"d": bug}})


def yolo_exported(folder: Folder) -> Made:
    """A folder for each split, named as if from one folder further down, and a test set that is not there."""
    folder.text(
        "data.yaml", "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['leaf']\n"
    )
    mask = np.zeros(SIZE, np.uint8)
    mask[:6] = 1
    for split in ("train", "valid"):
        noise(folder, f"{split}/images/x.jpg")
        folder.text(f"{split}/labels/x.txt", "0 0 0 1 0 1 0.5 0 0.5\n")
    return Made("YOLO polygons", 2, {"train": {"x": mask}, "val": {"x": mask}})


ALL: dict[str, Callable[[Folder], Made]] = {
    made.__name__: made
    for made in (
        folders,
        color_map,
        listed_names,
        listed_pairs,
        ade20k,
        cityscapes,
        cityscapes_train_ids,
        coco_stuff,
        coco_stuff_train_ids,
        pascal_context,
        voc,
        voc_label_map,
        camvid,
        camvid_published,
        camvid_split_colors,
        coco_json,
        coco_roboflow,
        yolo,
        yolo_exported,
    )
}
