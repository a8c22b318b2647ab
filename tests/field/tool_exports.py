"""Tiny copies of what labelling tools write: folders, file names and documents, with photos of noise.

Each function fills a folder and says what must come out of it: the layout's name, the classes, and for every split each
photo's mask as class indices, worked out by hand.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Masks = dict[str, dict[str, NDArray[np.uint8]]]

H, W = 12, 16


@dataclass(frozen=True)
class Made:
    """What an export must be taken for, and what it holds."""

    layout: str
    names: tuple[str, ...]
    masks: Masks


def photo(path: Path, size: tuple[int, int] = (H, W)) -> Path:
    """Write a photo; each name has its own."""
    pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
    return image(path, pixels)


def image(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def document(path: Path, content: Any) -> Path:
    return text(path, json.dumps(content))


def boxes(*painted: tuple[int, int, int, int, int], fill: int = 0) -> NDArray[np.uint8]:
    """Paint (value, left, top, right, bottom) in this order."""
    mask = np.full((H, W), fill, np.uint8)
    for value, left, top, right, bottom in painted:
        mask[top:bottom, left:right] = value
    return mask


def corners(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


LEAF = boxes((1, 2, 3, 6, 9))


def ultralytics(root: Path) -> Made:
    """`masks_dir` takes the place of images; classes are the names, without a background of their own."""
    text(
        root / "data.yaml",
        "path: .\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames: {0: soil, 1: leaf}\n",
    )
    for split in ("train", "val"):
        photo(root / f"images/{split}/{split}_1.jpg")
        image(root / f"masks/{split}/{split}_1.png", np.where(boxes((1, 0, 0, 4, 4)) == 1, 255, LEAF).astype(np.uint8))
    mask = np.where(boxes((1, 0, 0, 4, 4)) == 1, 255, LEAF).astype(np.uint8)
    masks: Masks = {split: {f"{split}_1": mask} for split in ("train", "val")}
    return Made("Ultralytics semantic masks", ("soil", "leaf"), masks)


def mmsegmentation(root: Path) -> Made:
    for split in ("train", "val"):
        photo(root / f"img_dir/{split}/{split}_1.jpg")
        image(root / f"ann_dir/{split}/{split}_1.png", LEAF)
    text(root / "labels.yaml", "names: [soil, leaf]\n")
    name = "photos and masks in two folders that are split alike (img_dir/ and ann_dir/)"
    return Made(name, ("soil", "leaf"), {split: {f"{split}_1": LEAF} for split in ("train", "val")})


def roboflow(root: Path) -> Made:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        photo(root / f"{folder}/{split}_jpg.rf.0a1b.jpg")
        image(root / f"{folder}/{split}_jpg.rf.0a1b_mask.png", LEAF * 3)
        text(root / f"{folder}/_classes.csv", "Pixel Value, Class\n0, background\n2, bug, small\n3, leaf\n")
    masks: Masks = {split: {f"{split}_jpg.rf.0a1b": LEAF * 2} for split in ("train", "val", "test")}
    return Made("Roboflow masks", ("background", "bug, small", "leaf"), masks)


def cvat(root: Path) -> Made:
    """A task of CVAT has one subset, called default."""
    text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:50,183,250::\n")
    for name in ("frame_000000", "day 2/frame_000001"):
        photo(root / f"JPEGImages/{name}.jpg")
        image(root / f"SegmentationClass/{name}.png", LEAF[..., None] * np.array([50, 183, 250], np.uint8))
    text(root / "ImageSets/Segmentation/default.txt", "frame_000000\nday 2/frame_000001\n")
    masks: Masks = {"default": {"frame_000000": LEAF, "frame_000001": LEAF}}
    return Made("Pascal VOC layout with labelmap.txt", ("background", "leaf"), masks)


def cvat_project(root: Path) -> Made:
    """Subsets of a project are called by names that people choose from a list: Train, Validation, Test."""
    cvat(root)
    (root / "ImageSets/Segmentation/default.txt").unlink()
    text(root / "ImageSets/Segmentation/Train.txt", "frame_000000\n")
    text(root / "ImageSets/Segmentation/Validation.txt", "day 2/frame_000001\n")
    masks: Masks = {"train": {"frame_000000": LEAF}, "val": {"frame_000001": LEAF}}
    return Made("Pascal VOC layout with labelmap.txt", ("background", "leaf"), masks)


def cvat_coco(root: Path) -> Made:
    """CVAT's COCO export of a task: instances_default.json and images/default."""
    photo(root / "images/default/a.jpg")
    document(root / "annotations/instances_default.json", coco("a.jpg"))
    return Made("COCO JSON", ("background", "leaf"), {"default": {"a": LEAF}})


def coco(*names: str, contributor: str = "") -> dict[str, Any]:
    points = [coordinate for corner in corners(2, 3, 6, 9) for coordinate in corner]
    numbered = list(enumerate(names))
    return {
        "info": {"contributor": contributor},
        "images": [{"id": i, "file_name": name, "height": H, "width": W} for i, name in numbered],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 0, "iscrowd": 0, "segmentation": [points]} for i, _ in numbered
        ],
        "categories": [{"id": 0, "name": "leaf"}],
    }


def labelme2voc(root: Path) -> Made:
    """Newer versions write palette PNGs into SegmentationClass; the names of photos may look like VOC's."""
    text(root / "class_names.txt", "_background_\nleaf\nbug")
    for name in ("2011_000003", "000006"):
        photo(root / f"JPEGImages/{name}.jpg")
        palette = Image.fromarray(np.where(boxes((1, 0, 0, 4, 4)) == 1, 255, LEAF).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[9] * 759])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        palette.save(root / f"SegmentationClass/{name}.png")
        photo(root / f"SegmentationClassVisualization/{name}.jpg")
        text(root / f"SegmentationClassNpy/{name}.npy", "")
    mask = np.where(boxes((1, 0, 0, 4, 4)) == 1, 255, LEAF).astype(np.uint8)
    return Made("masks of labelme2voc", ("background", "leaf", "bug"), {"all": {"000006": mask, "2011_000003": mask}})


def labelme2voc_old(root: Path) -> Made:
    """Older versions write arrays into SegmentationClass, and the PNGs into SegmentationClassPNG."""
    made = labelme2voc(root)
    (root / "SegmentationClass").rename(root / "SegmentationClassPNG")
    text(root / "SegmentationClass/000006.npy", "")
    return made


def shape(label: str, points: list[list[float]], kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme_file(image_path: str, shapes: list[Any], **more: Any) -> dict[str, Any]:
    size = {"imageHeight": H, "imageWidth": W}
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        **size,
    } | more


def labelme(root: Path) -> Made:
    """Every kind of shape; later ones lie on top; embedded photos, and photos elsewhere, named with backslashes."""
    inside = base64.b64encode(png(boxes((1, 0, 0, 2, 1))[:2, :3])).decode()  # two pixels of a bitmap of 3 x 2
    shapes = [
        shape("leaf", corners(2, 3, 6, 9), None),
        shape("bug", [[6.0, 9.0], [4.0, 6.0]], "rectangle"),
        shape("__ignore__", corners(12, 0, 16, 3)),
        shape("bug", [[9.0, 1.0], [11.0, 2.0]], "mask", mask=inside),
        shape("_background_", corners(2, 3, 3, 4)),
        shape("leaf", [[10.0, 8.0], [10.0, 9.5]], "circle"),
        shape("leaf", [[1.0, 1.0]], "point"),
        shape("leaf", [[1.0, 1.0], [5.0, 5.0]], "line"),
    ]
    photo(root / "train/a.jpg")
    document(root / "train/a.json", labelme_file("a.jpg", shapes))
    embedded = base64.b64encode(photo(root / "elsewhere.png").read_bytes()).decode()
    (root / "elsewhere.png").unlink()
    document(root / "train/b.json", labelme_file("C:\\photos\\b.png", [], imageData=embedded))
    photo(root / "photos/c.jpg")
    document(root / "val/c.json", labelme_file("..\\photos\\c.jpg", [shape("leaf", corners(2, 3, 6, 9))]))
    mask = boxes((2, 2, 3, 6, 9), (1, 4, 6, 6, 9), (255, 12, 0, 16, 3), (1, 9, 1, 11, 2), (0, 2, 3, 3, 4))
    mask[7:9, 9:11] = 2  # the pixels whose centres lie within 1.5 of (10, 8)
    for row, column in ((6, 9), (6, 10), (9, 9), (9, 10), (7, 8), (8, 8), (7, 11), (8, 11)):
        mask[row, column] = 2 if (row + 0.5 - 8) ** 2 + (column + 0.5 - 10) ** 2 < 1.5**2 else mask[row, column]
    masks: Masks = {"train": {"a": mask, "b": boxes()}, "val": {"c": LEAF * 2}}
    return Made("labelme JSON", ("background", "bug", "leaf"), masks)


def labelme_in_order(root: Path) -> Made:
    """With labels.txt the classes have its order; without splits all photos are one."""
    text(root / "labels.txt", "__ignore__\n_background_\nleaf\nbug\n")
    photo(root / "a.JPG")
    document(root / "a.json", labelme_file("a.JPG", [shape("bug", corners(2, 3, 6, 9))]))
    return Made("labelme JSON", ("background", "leaf", "bug"), {"all": {"a": LEAF * 2}})


def labelme_split_alike(root: Path) -> Made:
    """Photos in one folder and JSON files in another, as other programs with labelme's format write them."""
    for split in ("train", "val"):
        photo(root / f"images/{split}/{split}.jpg")
        document(
            root / f"labels/{split}/{split}.json", labelme_file(f"{split}.jpg", [shape("leaf", corners(2, 3, 6, 9))])
        )
    return Made("labelme JSON", ("background", "leaf"), {split: {split: LEAF} for split in ("train", "val")})


def labelme_in_splits(root: Path) -> Made:
    for split in ("train", "valid"):
        photo(root / f"{split}/images/{split}.jpg")
        shapes = [shape("leaf", [[6, 3], [2, 3], [2, 9], [6, 9]], "rectangle")]
        document(root / f"{split}/json/{split}.json", labelme_file(f"..\\images\\{split}.jpg", shapes))
    return Made("labelme JSON", ("background", "leaf"), {"train": {"train": LEAF}, "val": {"valid": LEAF}})


LABEL_STUDIO_NAMES = (
    "images/0a1b2c3d-plain.png",
    "images\\1a1b2c3d-windows.png",
    "..\\..\\label-studio\\media\\upload\\4\\2a1b2c3d-above.png",
    "http://host:8080/data/upload/4/3a1b2c3d-two%20words.png",
    "/data/local-files/?d=day 1/deep.png",
    "images/4a1b2c3d-renamed.png",
)


def label_studio(root: Path) -> Made:
    document(root / "result.json", coco(*LABEL_STUDIO_NAMES, contributor="Label Studio"))
    stems = ("0a1b2c3d-plain", "1a1b2c3d-windows", "2a1b2c3d-above", "3a1b2c3d-two words", "day 1/deep", "renamed")
    for stem in stems:
        photo(root / f"images/{stem}.png")
    return Made("Label Studio COCO", ("background", "leaf"), {"all": {Path(stem).name: LEAF for stem in stems}})


def label_studio_brush(root: Path) -> Made:
    """Layers are told by the JSON export: two of one label, a slash in a label, an annotator with dashes."""

    def result(label: str) -> dict[str, Any]:
        return {"from_name": "tag", "type": "brushlabels", "value": {"format": "rle", "brushlabels": [label]}}

    def annotation(number: int, *labels: str) -> dict[str, Any]:
        return {"id": number, "result": [result(label) for label in labels], "was_cancelled": False}

    tasks = [
        {
            "id": 1,
            "data": {"image": "/data/upload/4/0a1b2c3d-a.png"},
            "annotations": [annotation(7, "leaf", "leaf", "a/b")],
        },
        {"id": 2, "data": {"image": "/data/upload/4/0a1b2c3d-b.png"}, "annotations": [annotation(8)]},
        {"id": 3, "data": {"image": "/data/upload/4/0a1b2c3d-c.png"}, "annotations": []},
    ]
    document(root / "project-1.json", tasks)
    for name in "abc":
        photo(root / f"images/{name}.png")
    start = "task-1-annotation-7-by-a-b@c.d-tag"
    image(root / f"{start}-leaf-0.png", boxes((255, 2, 3, 6, 9), (127, 9, 9, 12, 12)))
    image(root / f"{start}-leaf-1.png", boxes((255, 12, 3, 14, 5)))
    image(root / f"{start}-a-b-0.png", boxes((200, 2, 3, 4, 5)))
    mask = boxes((2, 2, 3, 6, 9), (2, 12, 3, 14, 5), (1, 2, 3, 4, 5))
    return Made("Label Studio brush masks", ("background", "a/b", "leaf"), {"all": {"a": mask, "b": boxes()}})


def numbers(mask: NDArray[np.uint8], *ids: int) -> NDArray[np.uint8]:
    """Write the numbers of segments as colours: red + 256 green + 65536 blue."""
    wide = np.array(ids, np.int64)[mask]
    return np.stack([wide % 256, wide // 256 % 256, wide // 65536], axis=2).astype(np.uint8)


def panoptic_document(name: str, *, stuff: bool = True) -> dict[str, Any]:
    segments = [{"id": 3, "category_id": 1, "iscrowd": 0}, {"id": 70000, "category_id": "200", "iscrowd": 1}]
    return {
        "images": [{"id": 5, "file_name": f"{name}.jpg", "height": H, "width": W}],
        "annotations": [{"image_id": 5, "file_name": f"{name}.png", "segments_info": segments}],
        "categories": [
            {"id": 200, "name": "sky", "isthing": 0 if stuff else 1},
            {"id": 1, "name": "cat", "isthing": 1},
        ],
    }


def coco_panoptic(root: Path) -> Made:
    """Things and stuff become classes by id; pixels of no segment are ignored."""
    layers = boxes((1, 2, 3, 6, 9), (2, 8, 0, 16, 12))
    for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        photo(root / f"{split}/{name}.jpg")
        image(root / f"annotations/panoptic_{split}/{name}.png", numbers(layers, 0, 3, 70000))
        document(root / f"annotations/panoptic_{split}.json", panoptic_document(name))
    mask = np.array([255, 0, 1], np.uint8)[layers]
    masks: Masks = {"train": {"000000000009": mask}, "val": {"000000000139": mask}}
    return Made("COCO panoptic", ("cat", "sky"), masks)


def panoptic_things(root: Path) -> Made:
    """Where all categories are things, what no segment covers is the background; one document of any name."""
    layers = boxes((1, 2, 3, 6, 9), (2, 8, 0, 16, 12))
    photo(root / "photos/a.jpg")
    image(root / "pngs/a.png", numbers(layers, 0, 3, 70000))
    document(root / "export_coco-panoptic_me_v1.json", panoptic_document("a", stuff=False))
    return Made("COCO panoptic", ("background", "cat", "sky"), {"all": {"a": layers}})


def bitmap_text(mask: NDArray[np.uint8]) -> str:
    """As Supervisely packs it: a palette PNG whose first colour is transparent, zlib, base64."""
    buffer = io.BytesIO()
    palette = Image.fromarray(mask, "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(buffer, "PNG", transparency=0)
    return base64.b64encode(zlib.compress(buffer.getvalue())).decode()


def supervisely(root: Path) -> Made:
    classes = [{"title": "leaf", "shape": "any"}, {"title": "bug", "shape": "bitmap"}, {"title": "bg", "shape": "any"}]
    document(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    hole = {"exterior": corners(2, 3, 6, 9), "interior": [corners(3, 4, 4, 5)]}
    objects: list[Any] = [
        {"classTitle": "leaf", "geometryType": "polygon", "points": hole},
        {
            "classTitle": "bug",
            "geometryType": "bitmap",
            "bitmap": {"data": bitmap_text(boxes()[:3, :3] + 1), "origin": [14, 5]},
        },
        {"classTitle": "bug", "geometryType": "rectangle", "points": {"exterior": [[5, 7], [7, 8]], "interior": []}},
        {"classTitle": "bg", "geometryType": "rectangle", "points": {"exterior": [[7, 8], [7, 8]], "interior": []}},
        {"classTitle": "bug", "geometryType": "line", "points": {"exterior": [[5, 7], [7, 8]], "interior": []}},
    ]
    for split, name in (("train", "a.png"), ("val", "b")):
        photo(root / f"{split}/img/{Path(name).stem}.png")
        content = {"description": "", "tags": [], "size": {"height": H, "width": W}, "objects": objects}
        document(root / f"{split}/ann/{name}.json", content)
    mask = boxes((1, 2, 3, 6, 9), (0, 3, 4, 4, 5), (2, 14, 5, 16, 8), (2, 5, 7, 8, 9), (0, 7, 8, 8, 9))
    return Made("Supervisely", ("background", "leaf", "bug"), {"train": {"a": mask}, "val": {"b": mask}})


def release(names: list[str], objects: list[dict[str, Any]], *, stuff: bool = True) -> dict[str, Any]:
    categories = [{"id": 4, "name": "sky", "has_instances": not stuff}, {"id": 1, "name": "cat", "has_instances": True}]
    label = {
        "label_status": "LABELED",
        "attributes": {
            "format_version": "0.1", "annotations": objects, "segmentation_bitmap": {"url": "https://host/bitmap.png"},
        },
    }  # fmt: skip
    samples: list[dict[str, Any]] = [
        {
            "name": name,
            "attributes": {"image": {"url": f"https://host/{name}?sig=1"}},
            "labels": {"ground-truth": label},
        }
        for name in names
    ]
    samples.append({"name": "not yet.png", "attributes": {}, "labels": {"ground-truth": None}})
    return {
        "name": "v1.0",
        "dataset": {
            "name": "flowers", "owner": "me", "task_type": "segmentation-bitmap", "samples": samples,
            "labelsets": [{"name": "ground-truth"}], "task_attributes": {"categories": categories},
        },
    }  # fmt: skip


def segments_ai(root: Path) -> Made:
    """Bitmaps as the package saves them (16-bit numbers), and as they come from the server (RGBA)."""
    layers = boxes((1, 2, 3, 6, 9), (2, 8, 0, 16, 12))
    folder = root / "segments/me_flowers/v1.0"
    document(
        root / "flowers-v1.0.json",
        release(["a.png", "b.png"], [{"id": 1, "category_id": 1}, {"id": 300, "category_id": 4}]),
    )
    for name in "ab":
        photo(folder / f"{name}.png")
    image(folder / "a_label_ground-truth.png", np.array([0, 1, 300], np.uint16)[layers])
    rgba = np.concatenate([numbers(layers, 0, 1, 300), np.full((H, W, 1), 255, np.uint8)], axis=2)
    image(folder / "b_label_ground-truth.png", rgba)
    mask = np.array([255, 0, 1], np.uint8)[layers]
    return Made("Segments.ai release", ("cat", "sky"), {"all": {"a": mask, "b": mask}})


EXPORTS: dict[str, Callable[[Path], Made]] = {
    made.__name__: made
    for made in (
        ultralytics,
        mmsegmentation,
        roboflow,
        cvat,
        cvat_project,
        cvat_coco,
        labelme2voc,
        labelme2voc_old,
        labelme,
        labelme_in_order,
        labelme_split_alike,
        labelme_in_splits,
        label_studio,
        label_studio_brush,
        coco_panoptic,
        panoptic_things,
        supervisely,
        segments_ai,
    )
}
