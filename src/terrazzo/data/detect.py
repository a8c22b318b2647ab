"""Detection of a data set's layout: each layout is asked whether a folder has it, and exactly one must say yes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from terrazzo.data.folders import folder_entries, subfolders
from terrazzo.data.layout import Layout, LayoutFinder, NearMiss, closed_to_us
from terrazzo.data.layouts import (
    ade20k,
    camvid,
    cityscapes,
    coco_json,
    coco_panoptic,
    coco_stuff,
    folder,
    hf_datasets,
    label_map,
    label_studio,
    label_studio_brush,
    labelme,
    labelme_voc,
    listed,
    parallel_folders,
    pascal_context,
    plain,
    rasters,
    roboflow_masks,
    segments_ai,
    supervisely,
    ultralytics_masks,
    voc,
    yolo,
)
from terrazzo.errors import DatasetError
from terrazzo.text import first_few, nearest, shown_path

__all__ = ["LAYOUTS", "find_layout"]

LAYOUTS: tuple[LayoutFinder, ...] = (
    folder,
    listed,
    plain,
    parallel_folders,
    ade20k,
    cityscapes,
    coco_stuff,
    pascal_context,
    voc,
    label_map,
    labelme_voc,
    camvid,
    coco_json,
    coco_panoptic,
    label_studio,
    label_studio_brush,
    yolo,
    ultralytics_masks,
    roboflow_masks,
    labelme,
    supervisely,
    segments_ai,
    hf_datasets,
    rasters,
)
SHOWN = 8  # names of what a folder holds
MARKER_DEPTH = 2  # a marker such as annotations/instances_train.json lies at most so deep


def find_layout(root: str | Path) -> Layout:
    """Say what a data set is, by the names of its files and folders.

    `root` may also be a folder that holds nothing but the data set's own, such as ``VOCdevkit`` with ``VOC2012`` in it,
    or, where a folder holds two data sets, the file or folder that only one of them has, such as ``data.yaml``.

    Raises:
        DatasetError: no layout fits, or more than one does.
    """
    root = Path(root)
    found, near = _matches(root) if not os.path.isfile(root) else ([], [])
    if not found and os.path.exists(root):
        parents = list(root.absolute().parents)[:MARKER_DEPTH]
        found = [layout for parent in parents for layout in _readable(parent) if layout.marker == root.absolute()]
        found = found[-1:]  # annotations/instances_train.json is one of its folder, and of the folder above
    if not found:
        found = [layout for subfolder in subfolders(root) for layout in _readable(subfolder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(root, found)
    raise _unknown(root, near)


def _matches(root: Path) -> tuple[list[Layout], list[NearMiss]]:
    try:
        answers = [layout.find(root) for layout in LAYOUTS]
    except OSError as error:
        raise closed_to_us(error, root) from error
    layouts = [answer for answer in answers if isinstance(answer, Layout)]
    certain = [layout for layout in layouts if not layout.is_general]
    return certain or layouts, [answer for answer in answers if isinstance(answer, NearMiss)]


def _readable(folder: Path) -> list[Layout]:
    """Ask the layouts about a folder that nobody named, and that may be closed to us."""
    try:
        return _matches(folder)[0]
    except DatasetError:
        return []


def _ambiguous(root: Path, found: list[Layout]) -> DatasetError:
    several = len({layout.root for layout in found}) > 1
    choices = "; ".join(f"{shown_path(lay.root if several else lay.marker)} for {lay.name}" for lay in found[:SHOWN])
    return DatasetError(
        f"{shown_path(root)} can be taken for {len(found)} data sets: {', '.join(lay.name for lay in found[:SHOWN])}",
        fix=f"name the one that is meant: {choices}",
        code="dataset-ambiguous",
    )


def _unknown(root: Path, near: list[NearMiss]) -> DatasetError:
    where = shown_path(root)
    if near:
        told = "; ".join(f"it is almost {miss.name}, but {miss.message}" for miss in near)
        return DatasetError(f"{where}: {told}", fix=near[0].fix, code="dataset-layout")
    entries = folder_entries(root)
    shown = first_few(shown_path(entry.name) + "/" * entry.is_folder for entry in entries)
    message = f"{where} is not a data set in a known layout: it holds {shown or 'nothing'}"
    if (nearest_layout := _nearest_layout(root, [entry.name for entry in entries])) is not None:
        name, missing, told = nearest_layout
        fix = f"{told}; or lay your data out as {folder.SHAPE}"
        return DatasetError(f"{message}; nearest is {name}, which lacks {missing}", fix=fix, code="dataset-layout")
    images = sum(entry.is_image for entry in entries)
    if images:
        message = f"{where} holds {images} images, and nothing that says which of them are masks"
        fix = "put photos into images/ and masks of the same names into masks/, and train with --val 0.1"
    else:
        fix = f"lay your data out as {folder.SHAPE}; or as images and masks, and train with --val 0.1"
    return DatasetError(message, fix=fix, code="dataset-layout")


def _nearest_layout(root: Path, names: Sequence[str]) -> tuple[str, str, str] | None:
    """Find the layout of which most is there: its name, what is missing, and what to do."""
    best: tuple[float, int] = (0.0, 9)
    found = None
    from difflib import SequenceMatcher  # only for messages

    for layout in LAYOUTS:
        for shape in layout.SHAPE.split("; or "):
            parts = [part.split(" ")[0] for part in shape.split(", ")]
            missing = [part for part in parts if not (root / part).exists()]
            begun = [part for part in missing if "/" in part and (root / part.split("/")[0]).exists()]
            alike = {part: near for part in missing if part not in begun and (near := _alike(part, names)) is not None}
            likeness = sum(SequenceMatcher(None, part, near).ratio() for part, near in alike.items())
            score = (len(parts) - len(missing) + 0.5 * (len(begun) + likeness)) / len(parts)
            if missing and (score, len(parts)) > best:
                best = score, len(parts)
                told = [f"rename {shown_path(near)} to {part.split('/')[0]}" for part, near in alike.items()]
                told += [f"add {part}" for part in missing if part not in alike]
                found = layout.NAME, ", ".join(missing), ", ".join(dict.fromkeys(told))
    return found


def _alike(part: str, names: Sequence[str]) -> str | None:
    by_name = {name.casefold(): name for name in names}
    near = nearest(part.split("/")[0].casefold(), by_name, cutoff=0.75)
    return None if near is None else by_name[near]
