"""Masks of numbered segments: each pixel holds a segment's number, and a document says which category that has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.data.json_files import is_set, names_by_id
from terrazzo.data.masks import StoredMask, WholeFile
from terrazzo.data.outlines import IGNORED, object_labels
from terrazzo.data.problems import Problem, class_names_of, file_error
from terrazzo.errors import DatasetError, ImageError
from terrazzo.imaging.header import check_size, choose_frame, opened_image
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.labels.spec import BACKGROUND_NAMES, LabelSpec, Target
from terrazzo.text import first_few

__all__ = ["Categories", "SegmentMask", "read_categories"]


@dataclass(frozen=True)
class Categories:
    """The categories of a document.

    Attributes:
        names: by id, in the order of ids; categories of one name are one class.
        only_things: every category is a kind of countable object, so that what no segment covers is the background.
    """

    names: dict[int, str]
    only_things: bool

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in order."""
        names = list(dict.fromkeys(self.names.values()))
        if not self.only_things:
            return names
        return ["background", *(name for name in names if name.casefold() not in BACKGROUND_NAMES)]

    @cached_property
    def value_of(self) -> dict[int, int]:
        """What a category becomes in painted masks."""
        classes = self.classes
        is_background = self.only_things
        return {
            id_: 0 if is_background and name.casefold() in BACKGROUND_NAMES else classes.index(name)
            for id_, name in self.names.items()
        }

    def mask(self, png: Path, objects: Mapping[int, int]) -> SegmentMask:
        """Make the mask of an image of segment numbers, of which each has a category."""
        unlabelled = 0 if self.only_things else IGNORED
        return SegmentMask(png, {number: self.value_of[category] for number, category in objects.items()}, unlabelled)

    def labels(self, document: Path) -> LabelSpec:
        """Return the classes.

        Raises:
            DatasetError: names that cannot be used.
        """
        with class_names_of(document, "its categories: "):
            if self.only_things:
                return object_labels(self.names.values())
            id_map: list[tuple[int, Target]] = [(k, k) for k in range(len(self.classes))]
            return LabelSpec.from_names(self.classes, id_map=[*id_map, (IGNORED, "ignore")])

    def note(self, document: Path) -> Problem:
        """Say how pixels of no segment are read, which can be read in two ways."""
        what = "the background, as all categories are things" if self.only_things else "ignored"
        fix = "nothing to do if that is right; a category that is not a thing has them ignored"
        fix = fix if self.only_things else "nothing to do if that is right; label the background as a category if not"
        return Problem("note", "segments-unlabelled", document, f"pixels of no segment are {what}", fix)


@dataclass(frozen=True, slots=True)
class SegmentMask(WholeFile):
    """The mask of one photo: an image of segment numbers, and what each becomes."""

    file: Path
    value_of: dict[int, int]
    unlabelled: int

    def read(self) -> StoredMask:
        """Look the numbers up.

        Raises:
            DatasetError: the image cannot be read, or holds a number that the document does not explain.
        """
        try:
            with opened_image(self.file) as image:
                check_size(image, MAX_PIXELS)
                choose_frame(image, None)
                if image.format in ("JPEG", "WEBP"):
                    fix = "export it again as PNG"
                    raise ImageError("lossy compression changes segment numbers", fix=fix, code="mask-lossy")
                pixels = np.asarray(image)
        except ImageError as error:
            code = "mask-lossy" if error.code == "mask-lossy" else "mask-damaged"
            raise DatasetError(error.message, fix=error.fix, code=code) from error
        if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
            red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
            pixels = red + 256 * green + 65536 * blue
        if pixels.ndim != 2 or pixels.dtype.kind not in "biu":
            fix = "export it again as RGB or single-channel PNG"
            raise file_error(self.file, "it does not hold segment numbers", fix=fix, code="mask-mode")
        values = {0: self.unlabelled} | self.value_of
        known = np.array(sorted(values), np.int64)
        places_HW = np.minimum(np.searchsorted(known, pixels), len(known) - 1)
        unknown = np.unique(pixels[known[places_HW] != pixels]).tolist()
        if unknown:
            message = f"it holds segments that the document does not list: {first_few(unknown)}"
            raise file_error(self.file, message, fix="export document and images together", code="segments-damaged")
        return StoredMask(np.array([values[number] for number in known.tolist()], np.uint16)[places_HW])


def read_categories(document: Path, categories: Any, thing_key: str) -> Categories:
    """Read the list of categories.

    Args:
        document: the file, for messages.
        categories: what it says.
        thing_key: the key that says whether a category is a kind of countable object.

    Raises:
        DatasetError: an entry without an id of its own or a name.
    """
    names = names_by_id(categories)
    if names is None:
        raise file_error(document, "its categories are not a list of ids and names", fix="export it again")
    return Categories(names, bool(names) and all(is_set(category.get(thing_key)) for category in categories))
