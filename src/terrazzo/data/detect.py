"""Telling what kind of data set a folder is: every layout is asked, and exactly one must say yes."""

from __future__ import annotations

import os
from pathlib import Path

from terrazzo.data.datasets import (
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
    roboflow_masks,
    segments_ai,
    supervisely,
    ultralytics_masks,
    voc,
    yolo,
)
from terrazzo.data.layout import Layout, LayoutFinder, NearMiss
from terrazzo.data.pairing import folder_entries
from terrazzo.errors import DatasetError
from terrazzo.text import shown_path

__all__ = ["LAYOUTS", "find_layout"]

LAYOUTS: tuple[LayoutFinder, ...] = (
    folder,
    listed,
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
        below = sorted(Path(entry.path) for entry in folder_entries(root) if entry.is_dir() and entry.name[0] != ".")
        found = [layout for subfolder in below for layout in _readable(subfolder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise _ambiguous(root, found)
    raise _unknown(root, near)


def _matches(root: Path) -> tuple[list[Layout], list[NearMiss]]:
    answers = [layout.find(root) for layout in LAYOUTS]
    layouts = [answer for answer in answers if isinstance(answer, Layout)]
    return layouts, [answer for answer in answers if isinstance(answer, NearMiss)]


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
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder_entries(root))
    shown = ", ".join(map(shown_path, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
    shapes = "; ".join(f"{layout.NAME} ({layout.SHAPE})" for layout in LAYOUTS[1:])
    return DatasetError(
        f"{where} is no data set in a layout that is known here: it holds {shown or 'nothing'}",
        fix=f"lay it out as train/images, train/masks, val/images and val/masks, or as one of: {shapes}",
        code="dataset-layout",
    )
