"""Evidence that the values in masks are not classes: smooth resizing, object numbers, palettes that differ.

A mask is looked at once, as a picture (`look_at`, which may run in threads); `MaskEvidence` collects what was seen over
a data set and says what is wrong. The limits were set beside real masks: of CamVid, nuclei, solar cells and aerial
photos, 3 % of the border pixels at most, and 12 % in the worst single mask, lie between two other classes; after any
smooth resizing it is 20 % to 100 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from terrazzo.data.masks import MaskSource, Stored, StoredMask
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import BACKGROUND_NAMES, Color, LabelSpec
from terrazzo.text import shown_path

__all__ = ["NEAREST_FIX", "Look", "MaskEvidence", "has_own_order", "is_soft", "look_at"]

NEAREST_FIX = "draw masks without anti-aliasing, resize them with nearest neighbour, and save them as PNG"
STEP = 3  # between the values on both sides of a border, so that a class beside the next number does not count
SOFT_SHARE = 0.16  # of the border pixels
FEWEST_BORDER_PIXELS = 24
FLAT_SHARE = 0.25  # of all pixels, in a mask rather than in a photo or in noise
ONE_VALUE_SHARE = 0.9  # of the pixels in between: a class of its own, drawn along the borders
FEWEST_NUMBERS = 4  # in the fullest mask; up to three, organ, tumour and cyst are numbered as objects are
NUMBERED_SHARE = ONE_BLOB_SHARE = 0.9
LOOKED_AT, VALUES_LOOKED_AT = 32, 16  # masks, and values of one mask, for their connected parts
LOWEST_GREY = 32  # in a palette that shows classes as greys; below, a grey is a number of a class
VOID = 255


@dataclass(frozen=True, slots=True)
class Look:
    """What one mask looks like.

    Attributes:
        values: stored values.
        is_soft: its borders run through values in between.
        colors: of each value, where the mask has a palette that says more than the values.
    """

    values: tuple[int, ...] = ()
    is_soft: bool = False
    colors: Mapping[int, Color] = field(default_factory=dict)


def look_at(stored: StoredMask, counts: Iterable[Stored]) -> Look:
    """Look at a mask, in which the given values were counted; there is nothing to see in one of colours."""
    if stored.values.ndim != 2:
        return Look()
    values = [value for value in counts if isinstance(value, int)]
    return Look(tuple(sorted(values)), is_soft(stored.values), _colors(stored, values))


def is_soft(values: NDArray[np.integer]) -> bool:
    """Whether borders of an (H, W) or (H, W, 3) mask run through values in between, as smooth resizing leaves them."""
    if values.dtype not in (np.uint8, np.uint16):
        if values.size == 0 or values.min() < 0 or values.max() > 65535:
            return False
        values = values.astype(np.uint16)
    if min(values.shape[:2]) < 3:
        return False
    window = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(values, window), cv2.dilate(values, window)
    differs, between = np.asarray(high - low >= STEP), np.asarray((values > low) & (values < high))
    inside = np.asarray(low == high)
    if values.ndim == 3:
        differs, between, inside = map(np.asarray, (differs.any(2), between.any(2), inside.all(2)))
    border, middle = np.count_nonzero(differs), differs & between
    soft = np.count_nonzero(middle)
    if border < FEWEST_BORDER_PIXELS or soft < SOFT_SHARE * border or inside.mean() < FLAT_SHARE:
        return False
    if values.ndim == 3:
        return True
    return bool(np.bincount(values[middle]).max() <= ONE_VALUE_SHARE * soft)


class MaskEvidence:
    """What was seen in the masks of a data set, pair by pair.

    Attributes:
        masks: how many.
        values: all that they hold.
        most_values: that one mask holds.
        soft: masks with soft borders.
    """

    def __init__(self) -> None:
        self.masks = self.most_values = 0
        self.values: set[int] = set()
        self.soft: list[MaskSource] = []
        self._sharp: set[int] = set()  # values of the other masks
        self._numbered = self._filled = 0
        self._tops: Counter[int] = Counter()
        self._examples: list[MaskSource] = []
        self._colors: dict[int, tuple[Color, MaskSource]] = {}
        self._clash: tuple[int, MaskSource, MaskSource] | None = None

    def add(self, mask: MaskSource, look: Look) -> None:
        """Take in what `look_at` gave of a mask."""
        self.masks += 1
        self.most_values = max(self.most_values, len(look.values))
        self.values.update(look.values)
        if look.is_soft:
            self.soft.append(mask)
        else:
            self._sharp.update(look.values)
        has_void = max(look.values, default=0) <= VOID  # in masks of more than 255 objects, 255 is one of them
        numbers = [value for value in look.values if value != 0 and not (has_void and value == VOID)]
        if numbers:
            self._filled += 1
            self._numbered += numbers == list(range(1, len(numbers) + 1))
            self._tops[len(numbers)] += 1
            if len(numbers) > 1:
                self._examples.append(mask)
        for value, color in look.colors.items():
            first, twin = self._colors.setdefault(value, (color, mask))
            if first != color and self._clash is None:
                self._clash = value, twin, mask

    def soft_masks(self) -> str | None:
        """Say that a good part of all masks has soft borders, or that values occur in no others."""
        if not self.soft or (4 * len(self.soft) < self.masks and self.values <= self._sharp):
            return None
        return (
            f"{len(self.soft)} of {self.masks} masks have soft borders, with values that lie only between two others "
            f"(first {shown_path(self.soft[0].file.name)}): they were resized smoothly, drawn with anti-aliasing, or "
            "saved as JPEG"
        )

    def object_numbers(self) -> str | None:
        """Say that values number the objects of each photo: 1, 2, 3 ... as many as there are, each in one piece."""
        fullest = max(self._tops, default=0)
        if fullest < FEWEST_NUMBERS or len(self._tops) < 2 or self._numbered < NUMBERED_SHARE * self._filled:
            return None
        step = -(-len(self._examples) // LOOKED_AT)
        pieces = [one for mask in self._examples[::step] for one in _pieces(mask)]
        if sum(pieces) < ONE_BLOB_SHARE * len(pieces):
            return None
        return (
            f"the values look like object numbers: each mask counts 1, 2, 3 ... up to between {min(self._tops)} and "
            f"{fullest}, and each number is one connected blob"
        )

    def problems(self, labels: LabelSpec | None) -> Iterator[Problem]:
        """What is to be said where the classes are known, or are not asked for by their numbers."""
        if self._clash is not None:
            value, first, second = self._clash
            one, other = self._colors[value][0], _color_of(second, value)
            message = f"its palette shows {value} as {other}, and that of {first.file.name} as {one}: " + (
                "the same number means different things from file to file"
            )
            fix = "save all masks with one palette, or as RGB, and say in `colors:` of labels.yaml what colours mean"
            yield Problem("error", "mask-palette", second.file, message, fix)
        if (level := self._grey_level()) is not None:
            value, gray, source = level
            message = f"its palette shows {value} as grey {gray}, and either can be the class"
            fix = "save it as a single-channel PNG, which has no palette: GIF numbers the greys that a mask holds"
            yield Problem("error", "mask-palette", source.file, message, fix)
        if labels is None:
            return
        yield from self._inverted(labels)
        if permuted := self._other_classes(labels):
            value, of_value, of_color, source = permuted
            message = (
                f"its palette draws {value} in the colour of {of_color!r}, and {value} is {of_value!r} by the labels"
            )
            fix = (
                "put the names into the order of the masks' numbers, or say in `map:` what each stored value means; "
                "where the numbers are right, take `palette:` and `colors:` out of labels.yaml"
            )
            yield Problem("error", "mask-palette", source.file, message, fix)
        if has_own_order(labels):
            for mask in self.soft:
                message = "its borders run through classes in between, as smooth resizing or anti-aliasing leaves them"
                yield Problem("warning", "mask-soft", mask.file, f"{mask.part}{message}", NEAREST_FIX)
            if (objects := self.object_numbers()) is not None:
                fix = "write class numbers instead, such as 0 for the background and 1 for every object"
                yield Problem("warning", "mask-objects", None, objects, fix)

    def _grey_level(self) -> tuple[int, int, MaskSource] | None:
        """A value that the palettes show as a grey of another number, which is as low as numbers of classes are."""
        if any(len(set(color)) > 1 for color, _ in self._colors.values()):
            return None
        greys = ((value, color[0], mask) for value, (color, mask) in sorted(self._colors.items()))
        return next((found for found in greys if found[0] != found[1] and 0 < found[1] < LOWEST_GREY), None)

    def _inverted(self, labels: LabelSpec) -> Iterator[Problem]:
        """Say so where palettes draw the background white and something else black."""
        colors = {value: color for value, (color, _) in self._colors.items()}
        is_white = colors.get(0) == (255, 255, 255) and (0, 0, 0) in colors.values()
        if is_white and labels.id_map is None and labels.names[0].casefold() in BACKGROUND_NAMES:
            black = next(value for value, color in sorted(colors.items()) if color == (0, 0, 0))
            message = f"palettes of masks draw 0, which is {labels.names[0]!r}, white, and {black} black"
            fix = f"nothing to do if that is right; where {black} is the background, write `map: {{0: 1, {black}: 0}}`"
            yield Problem("warning", "mask-palette", None, message, fix)

    def _other_classes(self, labels: LabelSpec) -> tuple[int, str, str, MaskSource] | None:
        """Where the palette has the labels' own colours, and other ones for the numbers: the first such number."""
        if labels.id_map is not None or not self._colors:
            return None
        class_of: dict[Color, int] = {}
        for k, color in enumerate(labels.palette):
            class_of.setdefault(color, k)
        found = {value: class_of.get(color) for value, (color, _) in self._colors.items() if value < labels.num_classes}
        if None in found.values() or len(set(found.values())) < len(found):
            return None
        for value, index in sorted(found.items()):
            if index is not None and labels.palette[value] != labels.palette[index]:
                return value, labels.names[value], labels.names[index], self._colors[value][1]
        return None


def has_own_order(labels: LabelSpec) -> bool:
    """Whether each stored value is a class of its own, so that values in between are classes too."""
    targets = [target for _, target in labels.id_map or () if target != "ignore"]
    return len(set(targets)) == len(targets)


def _colors(stored: StoredMask, values: Iterable[int]) -> dict[int, Color]:
    """The palette's colours, unless it is a ramp of greys or leaves colours out."""
    if stored.palette is None:
        return {}
    colors = {value: tuple(stored.palette[value].tolist()) for value in values if value < len(stored.palette)}
    is_ramp = all(color == (value,) * 3 for value, color in colors.items())
    return {} if is_ramp or len(set(colors.values())) < len(colors) else colors


def _color_of(mask: MaskSource, value: int) -> Color:
    palette = mask.read().palette
    red, green, blue = (0, 0, 0) if palette is None else palette[value].tolist()
    return red, green, blue


def _pieces(mask: MaskSource) -> Iterator[bool]:
    """For each value of a mask, whether its largest connected part is nearly all of it."""
    try:
        values_HW = mask.read().values
    except DatasetError:
        return
    values = [value for value in np.unique(values_HW).tolist() if value not in (0, VOID)]
    for value in values[:: -(-len(values) // VALUES_LOOKED_AT) or 1]:
        here_HW = (values_HW == value).astype(np.uint8)
        rows, columns = np.flatnonzero(here_HW.any(1)), np.flatnonzero(here_HW.any(0))
        part = here_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        yield bool(stats[1:, cv2.CC_STAT_AREA].max() >= 0.95 * np.count_nonzero(part))
