"""`choose_images`: the photos that paths, folders and patterns stand for, without label masks and earlier results.

People name a whole data set where photos are wanted. A mask read as a photo is a wrong result that nobody notices:
int8 calibrated on label masks, the speed of a blank picture. Masks are told by two things together: a place or a name
that speaks of labels, and a photo of the same name beside it. So a folder of masks that is named alone is taken.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from terrazzo.data.name_affixes import affixes_beside, find_affixes, same_name
from terrazzo.imaging.find_images import find_images
from terrazzo.notes import note
from terrazzo.ownership import leave_out_results
from terrazzo.text import shown_path

__all__ = ["choose_images"]

MASK_FOLDER = re.compile(
    r"mask|label|annot|segment|trimap|stuffthingmaps|panoptic|instance|target|ground.?truth"
    r"|(^|[^a-z])(seg|gt|ann)([^a-z]|$)|^gt(fine|coarse)$",
    re.IGNORECASE,
)
BRUSH = re.compile(r"task-[0-9]+-annotation-[0-9]+-by-.*-tag-.*-[0-9]+")  # what Label Studio calls brush masks
COLOURS = 256  # more than drawn masks have, and fewer than photos
LOOKED_AT = 3  # masks, to see whether a few colours fill them


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
    """Find the masks among images, by their folders and by their names."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in found:
        by_folder[path.parent].append(path)
    photos = _photos_below(by_folder)
    masks: set[Path] = set()
    for folder, files in by_folder.items():
        stems = {same_name(path.stem): path for path in files}
        if _belong_to_photos(folder, stems, photos):
            masks.update(files)
            continue
        masks.update(path for stem, path in stems.items() if BRUSH.fullmatch(stem))
        if (affixes := affixes_beside(stems)) is not None:
            named = sorted(stems.keys() & {affixes.mask_of(stem) for stem in stems})
            if _are_drawn([stems[stem] for stem in named]):
                masks.update(stems[stem] for stem in named)
    return masks


def _photos_below(by_folder: dict[Path, list[Path]]) -> dict[tuple[str, ...], set[str]]:
    """For each folder, the names of the images in it and below it on ways that do not speak of labels."""
    photos: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for folder, files in by_folder.items():
        names = {same_name(path.stem) for path in files}
        for depth in range(len(folder.parts), -1, -1):
            photos[folder.parts[:depth]] |= names
            if depth and MASK_FOLDER.search(folder.parts[depth - 1]):
                break
    return photos


def _belong_to_photos(folder: Path, stems: dict[str, Path], photos: dict[tuple[str, ...], set[str]]) -> bool:
    """Whether a folder speaks of labels, and at least half of its files are named after photos in folders near it."""
    for depth, part in enumerate(folder.parts):
        if MASK_FOLDER.search(part) is None:
            continue
        near = photos.get(folder.parts[:depth])
        if near and _half_are_named_after(near, set(stems)) and _are_drawn(list(stems.values())):
            return True
    return False


def _half_are_named_after(photos: set[str], masks: set[str]) -> bool:
    if 2 * len(photos & masks) >= len(masks):
        return True
    named = {way.mask_of(photo) for way in find_affixes(photos, masks) for photo in photos}
    return 2 * len(masks & named) >= len(masks)


def _are_drawn(paths: Sequence[Path]) -> bool:
    """Whether images look drawn: single values, or few colours."""
    for path in paths[:: max(len(paths) // LOOKED_AT, 1)][:LOOKED_AT]:
        with suppress(Exception), Image.open(path) as image:  # whatever is wrong with a file, its reader says
            if image.mode not in ("RGB", "RGBA", "CMYK", "YCbCr") or image.getcolors(COLOURS) is not None:
                return True
    return False
