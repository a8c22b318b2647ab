"""Roboflow's semantic segmentation masks: ``train``, ``valid`` and ``test`` with ``x.jpg``, ``x_mask.png`` together.

``_classes.csv`` in each folder says which class a stored value is, under the heading ``Pixel Value, Class``. All splits
must say the same.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from terrazzo.data.folders import split_folders
from terrazzo.data.json_files import whole_number
from terrazzo.data.layout import ALL, Layout, NearMiss, Pairs
from terrazzo.data.pairing import Listing, list_entries, pair_folders
from terrazzo.data.problems import class_names_of, file_error
from terrazzo.labels.spec import LabelSpec, Target
from terrazzo.text import show, shown_path

__all__ = ["NAME", "SHAPE", "find"]

NAME = "Roboflow masks"
SHAPE = "train/_classes.csv, train/x.jpg, train/x_mask.png"
CLASSES = "_classes.csv"
ENDING = "_mask"


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by ``_classes.csv`` in the folders of the splits, or in a folder by itself."""
    folders = split_folders(root)
    found = {split: folder for split, folder in folders.items() if (folder / CLASSES).is_file()}
    if not found and (root / CLASSES).is_file():
        found = {ALL: root}
    # Roboflow's folders for classification have a file of this name too, and no masks.
    found = {split: folder for split, folder in found.items() if Listing.of(folder, ENDING).by_stem}
    if not found:
        return None
    documents = [folder / CLASSES for folder in found.values()]
    return Layout(NAME, root, documents[0], tuple(found), partial(_pairs, found), partial(_labels, documents))


def _labels(documents: list[Path]) -> LabelSpec:
    first = _read_classes(documents[0])
    for other in documents[1:]:
        if _read_classes(other) != first:
            message = f"it gives other classes than {shown_path(documents[0])}"
            raise file_error(other, message, fix="export all splits at once")
    names = list(dict.fromkeys(first.values()))
    id_map: list[tuple[int, Target]] = [(value, names.index(name)) for value, name in first.items()]
    with class_names_of(documents[0]):
        return LabelSpec.from_names(names, id_map=id_map)


def _read_classes(path: Path) -> dict[int, str]:
    """Read ``value, name`` lines under a heading; a name may hold commas."""
    found: dict[int, str] = {}
    for place, (number, entry) in enumerate(list_entries(path)):
        text, comma, name = entry.partition(",")
        value = whole_number(text.strip().strip('"'))
        if value is None and place == 0 and comma:
            continue  # the heading
        name = name.strip().strip('"').strip()
        if value is None or value in found or not name:
            what = "repeats a value" if value in found else "is not a value and a class"
            raise file_error(path, f"line {number} {what}: {show(entry[:40])}", fix="write lines like `1, leaf`")
        found[value] = name
    return found


def _pairs(folders: dict[str, Path], split: str) -> Pairs:
    images, masks = Listing.of(folders[split]), Listing.of(folders[split], ENDING)
    masks.by_stem = {
        stem: [path for path in files if path.suffix.lower() == ".png"] for stem, files in masks.by_stem.items()
    }
    taken = {path for files in masks.by_stem.values() for path in files}
    images.by_stem = {stem: [path for path in files if path not in taken] for stem, files in images.by_stem.items()}
    images.by_stem = {stem: files for stem, files in images.by_stem.items() if files}
    masks.others = []  # the same as the photos'
    return pair_folders(images, masks)
