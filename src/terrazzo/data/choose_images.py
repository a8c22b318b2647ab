"""`choose_images`: the photos that paths, folders and patterns stand for, without label masks and earlier results.

People name a whole data set where photos are wanted. A mask read as a photo is a wrong result that nobody notices:
int8 calibrated on label masks, the speed of a blank picture. A mask has the name of a photo near it, and besides a
folder or name that speaks of labels, or no more than a few colours. So a folder of masks that is named alone is taken.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image

from terrazzo.data.name_affixes import affixes_beside, find_affixes, same_name
from terrazzo.imaging.find_images import find_images
from terrazzo.notes import note
from terrazzo.ownership import leave_out_results
from terrazzo.text import shown_path

__all__ = ["choose_images"]

MASK = re.compile(
    r"mask|label|annot|segment|trimap|stuffthingmaps|panoptic|instance|semantic|target|ground.?truth"
    r"|(^|[^a-z])(seg|gt|ann)([^a-z]|$)|^gt(fine|coarse)$",
    re.IGNORECASE,
)
PICTURE = re.compile(r"visuali[sz]|overlay|blend(ed|s)?([^a-z]|$)", re.IGNORECASE)  # of masks laid over their photos
BRUSH = re.compile(r"task-[0-9]+-annotation-[0-9]+-by-.*-tag-.*-[0-9]+")  # what Label Studio calls brush masks
DRAWN_JSON = ("label", "label_viz")  # what labelme_draw_json and labelme_json_to_dataset write beside img.png
COLOURS = 256  # more than drawn masks have, and fewer than photos
GREYS = 64
LOOKED_AT = 3  # masks, to see whether a few colours fill them
NEAR = 2  # levels of folders from a photo or mask up to the folder that holds both


def choose_images(
    arguments: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> tuple[list[Path], list[Path]]:
    """List the photos, and the files left out: earlier results and the masks of data sets; notes say so.

    Raises:
        ImageError: as `find_images` and `leave_out_results`.
    """
    arguments = [arguments] if isinstance(arguments, (str, os.PathLike)) else arguments
    found, left_out = leave_out_results(find_images(arguments), arguments)
    masks = _masks(found)
    if not masks:
        return found, left_out
    one = len(masks) == 1
    first = next(path for path in found if path in masks)
    note(
        f"left out {len(masks)} label mask{'' if one else 's'}, such as {shown_path(first)}; to take "
        f"{'it' if one else 'them'} for photos, name {'it' if one else 'their folder'} alone"
    )
    return [path for path in found if path not in masks], [*left_out, *(path for path in found if path in masks)]


def _masks(found: Sequence[Path]) -> set[Path]:
    """Find the masks among images, and pictures of masks, by their folders, their names and what they look like."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        by_folder[path.parent].append(path)
    photos = _photos_below(by_folder)
    masks: set[Path] = set()
    for folder, files in by_folder.items():
        masks.update(files if _belong_to_photos(folder, files, photos) else _masks_beside_photos(files))
    masks.update(_drawn_after_photos({folder: set(files) - masks for folder, files in by_folder.items()}))
    return masks


def _photos_below(by_folder: Mapping[Path, Sequence[Path]]) -> dict[tuple[str, ...], set[str]]:
    """For each folder, the names of the images in it and below it on ways that do not speak of labels."""
    photos: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for folder, files in by_folder.items():
        names = _names(files)
        for depth in range(len(folder.parts), -1, -1):
            photos[folder.parts[:depth]] |= names
            if depth and (MASK.search(folder.parts[depth - 1]) or PICTURE.search(folder.parts[depth - 1])):
                break
    return photos


def _belong_to_photos(folder: Path, files: Sequence[Path], photos: Mapping[tuple[str, ...], set[str]]) -> bool:
    """Whether a folder speaks of labels, and at least half of its files are named after photos in folders near it."""
    for depth, part in enumerate(folder.parts):
        is_picture = PICTURE.search(part) is not None
        if not is_picture and MASK.search(part) is None:
            continue
        near = photos.get(folder.parts[:depth])
        if near and _half_are_named_after(near, _names(files)) and (is_picture or _are_drawn(files)):
            return True
    return False


def _masks_beside_photos(files: Sequence[Path]) -> set[Path]:
    """The files of a folder that are named after others of it, with words for labels, or look drawn."""
    stems = {same_name(path.stem): path for path in files}
    masks = {path for stem, path in stems.items() if BRUSH.fullmatch(stem)}
    if "img" in stems and "label" in stems:
        masks.update(stems[stem] for stem in DRAWN_JSON if stem in stems)
    if (affixes := affixes_beside(stems)) is not None:
        named = sorted(stems.keys() & {affixes.mask_of(stem) for stem in stems})
        if _are_drawn([stems[stem] for stem in named]):
            masks.update(stems[stem] for stem in named)
    for path in files:
        word = _word_behind(same_name(path.stem), stems)
        if word and (PICTURE.search(word) or (MASK.search(word) and _has_few_colours(path))):
            masks.add(path)
    if len(stems) < len(files):  # x.jpg and x.png
        alike: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            alike[same_name(path.stem)].append(path)
        for paths in alike.values():
            drawn = [path for path in paths if len(paths) > 1 and _has_few_colours(path)]
            masks.update(drawn if len(drawn) < len(paths) else ())
    return masks


def _drawn_after_photos(by_folder: Mapping[Path, set[Path]]) -> set[Path]:
    """The files of few colours in folders of any name, at least half of them named like photos in folders near by."""
    drawn: dict[Path, bool] = {}

    def is_drawn(folder: Path) -> bool:
        if folder not in drawn:
            drawn[folder] = all(map(_has_few_colours, _some(sorted(by_folder[folder]))))
        return drawn[folder]

    names = {folder: _names(files) for folder, files in by_folder.items() if files}
    having: dict[str, list[Path]] = defaultdict(list)
    for folder, own in names.items():
        for name in own:
            having[name].append(folder)
    masks: set[Path] = set()
    for folder, own in names.items():
        near = {other for name in own for other in having[name] if other != folder and _are_near(folder, other)}
        if near and is_drawn(folder):
            photos = {name for other in near if not is_drawn(other) for name in names[other]}
            masks.update(by_folder[folder] if 2 * len(own & photos) >= len(own) else ())
    return masks


def _are_near(one: Path, other: Path) -> bool:
    """Whether a folder that holds both is at most so many levels above each."""
    alike = takewhile(lambda parts: parts[0] == parts[1], zip(one.parts, other.parts, strict=False))
    return max(len(one.parts), len(other.parts)) - sum(1 for _ in alike) <= NEAR


def _half_are_named_after(photos: set[str], masks: set[str]) -> bool:
    if 2 * len(photos & masks) >= len(masks):
        return True
    named = {way.mask_of(photo) for way in find_affixes(photos, masks) for photo in photos}
    return 2 * len(masks & named) >= len(masks)


def _word_behind(name: str, photos: Collection[str]) -> str:
    """What a name has more than that of a photo, such as _color_mask; empty where no photo is called so."""
    cuts = (cut.start() for cut in re.finditer(r"(?<=.)[-_. ]", name))
    return next((name[cut:] for cut in cuts if name[:cut] in photos), "")


def _names(files: Collection[Path]) -> set[str]:
    return {same_name(path.stem) for path in files}


def _some(paths: Sequence[Path]) -> Sequence[Path]:
    return paths[:: max(len(paths) // LOOKED_AT, 1)][:LOOKED_AT]


def _are_drawn(paths: Sequence[Path]) -> bool:
    """Whether images look drawn: single values, or few colours."""
    for path in _some(paths):
        with suppress(Exception), Image.open(path) as image:  # whatever is wrong with a file, its reader says
            if image.mode not in ("RGB", "RGBA", "CMYK", "YCbCr") or image.getcolors(COLOURS) is not None:
                return True
    return False


def _has_few_colours(path: Path) -> bool:
    """Whether an image has fewer colours than any photo, whatever its name: a mask of indices, numbers or colours."""
    with suppress(Exception), Image.open(path) as image:
        if image.format != "JPEG":
            most = COLOURS if image.mode in ("RGB", "RGBA") else GREYS
            if image.mode.startswith(("I", "F")):
                return len(np.unique(np.asarray(image))) <= GREYS
            return image.getcolors(min(most, image.width * image.height // 8)) is not None
    return False
