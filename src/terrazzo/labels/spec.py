"""LabelSpec: what the numbers and colours of a mask mean, said once and explicitly.

A mask inside the program holds class indices 0 to K - 1 and one ignore value. Stored masks may hold something else
(ADE20K stores 0 for "unlabelled" and index + 1 for a class; many tools store colours), and a `LabelSpec` says what,
value by value. Nothing is ever subtracted or guessed: a stored value that the spec does not name is an error.

The same document describes a spec in a folder dataset's ``labels.yaml``, in a saved model's ``config.json`` and in the
class lists under ``classes/``::

    names: [background, nucleus]         # or {0: background, 1: nucleus}, or the name of a bundled list: camvid
    palette: [[0, 0, 0], [230, 159, 0]]  # optional: the colours in which results are shown
    map: {0: ignore, 1: 0, 2: 1}         # optional: every stored value -> class index or `ignore`;
                                         # {0-127: 0, 128-255: 1} maps ranges
    colors: {"255,0,0": 0, "0,0,0": 1}   # optional: every stored colour -> class index or `ignore`;
                                         # a list of colours means class 0, class 1, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.config import read_yaml
from terrazzo.errors import LabelError
from terrazzo.labels.palette import generate_palette
from terrazzo.labels.schema import bundled_names, document_fields, load_bundled
from terrazzo.labels.validation import (
    MAX_STORED,
    Color,
    Target,
    checked_color,
    checked_names,
    checked_pairs,
    checked_palette,
    checked_stored,
    list_counts,
)
from terrazzo.text import show

__all__ = ["Color", "LabelSpec", "Target", "bundled_names"]

Mask: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
BACKGROUND_NAMES = frozenset({"background", "_background_", "bg"})


@dataclass(frozen=True)
class LabelSpec:
    """Class names, their colours, and the meaning of what masks store.

    Attributes:
        names: one per class, distinct; the position is the class index.
        palette: one (red, green, blue) per class for showing results. Two classes may share a colour, as in ADE20K.
        id_map: (stored value, class index or "ignore") pairs for every value that a stored mask may hold. None means
            that masks store class indices and `ignore_index`.
        colors: (colour, class index or "ignore") pairs for every colour that a stored colour mask may hold. None means
            the palette, and `ignore_color` for what is ignored.

    Raises:
        LabelError: for anything that cannot be right, saying what.
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...]
    id_map: tuple[tuple[int, Target], ...] | None = None
    colors: tuple[tuple[Color, Target], ...] | None = None

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            "names": checked_names(self.names),
            "palette": checked_palette(self.palette, len(self.names)),
        }
        if self.id_map is not None:
            checked["id_map"] = checked_pairs("map", self.id_map, checked_stored, len(self.names))
        if self.colors is not None:
            checked["colors"] = checked_pairs("colors", self.colors, checked_color, len(self.names))
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        palette: Sequence[Sequence[int]] | None = None,
        *,
        id_map: Mapping[int, Target] | Sequence[tuple[int, Target]] | None = None,
        colors: Mapping[Color, Target] | Sequence[tuple[Color, Target]] | None = None,
    ) -> LabelSpec:
        """Build a spec, choosing colours where no palette is given.

        `colors` that cover every class serve as the palette; otherwise distinct colours are generated, with black for
        a first class called background.

        Raises:
            LabelError: see the class.
        """
        names = checked_names(names)
        if palette is None and colors is not None:
            pairs = checked_pairs("colors", colors, checked_color, len(names))
            by_target = {target: color for color, target in reversed(pairs)}
            if all(k in by_target for k in range(len(names))):
                palette = [by_target[k] for k in range(len(names))]
        if palette is None:
            palette = generate_palette(len(names), background=names[0].casefold() in BACKGROUND_NAMES)
        return cls(names, palette, id_map, colors)  # type: ignore[arg-type]  # __post_init__ makes tuples of them

    @classmethod
    @checked
    def bundled(cls, name: str) -> LabelSpec:
        """Load a class list that ships with the package; `bundled_names` lists them.

        Its `id_map` is that of the data set's published masks: `ade20k` and `pascal_context_59` ignore a stored 0 and
        count classes from 1, `camvid` ignores 11, `coco_stuff_raw` reads COCO-Stuff's original ids.

        Raises:
            LabelError: there is no list of that name.
        """
        return cls.from_dict(load_bundled(name))

    @classmethod
    def named(cls, name: str) -> LabelSpec:
        """Read what an option `labels` names: a YAML file, or a bundled class list.

        Raises:
            LabelError: as `from_yaml` or `bundled`.
        """
        return cls.from_yaml(name) if name.endswith((".yaml", ".yml")) else cls.bundled(name)

    @classmethod
    def from_dict(cls, document: object) -> LabelSpec:
        """Read the document that `to_dict` writes; the module's docstring shows one.

        Raises:
            LabelError: an unknown key, a wrong type or size, or a value out of range.
        """
        return cls.from_names(**document_fields(document))

    @classmethod
    @checked
    def from_yaml(cls, path: str | Path) -> LabelSpec:
        """Read a folder dataset's ``labels.yaml``.

        Raises:
            LabelError: the file cannot be read, is not YAML, repeats a key, or does not describe labels.
        """
        document = read_yaml(Path(path), error=LabelError, code="labels-file")
        try:
            return cls.from_dict(document)
        except LabelError as error:
            raise LabelError(f"{path}: {error.message}", fix=error.fix, code=error.code) from error

    def to_dict(self) -> dict[str, Any]:
        """Describe the spec in types that JSON and YAML can hold; `from_dict` gives an equal spec."""
        document: dict[str, Any] = {"names": list(self.names), "palette": [list(color) for color in self.palette]}
        if self.id_map is not None:
            document["map"] = {str(stored): target for stored, target in self.id_map}
        if self.colors is not None:
            document["colors"] = {",".join(map(str, color)): target for color, target in self.colors}
        return document

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def background(self) -> int | None:
        """The class called background, which pictures leave unpainted; None where there is none."""
        return next((k for k, name in enumerate(self.names) if name.strip().casefold() in BACKGROUND_NAMES), None)

    @property
    def ignore_index(self) -> int:
        """The value of pixels that count in neither loss nor metrics: 255, or 65535 beyond 255 classes."""
        return 255 if self.num_classes <= 255 else 65535

    @property
    def stored_values(self) -> tuple[tuple[int, Target], ...]:
        """`id_map`, spelled out where it is None."""
        return self.id_map or (*((k, k) for k in range(self.num_classes)), (self.ignore_index, "ignore"))

    @property
    def mask_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.num_classes <= 255 else np.uint16)

    @property
    def ignore_color(self) -> Color:
        """Black; where a class is black, white; where that is taken too, the first free grey."""
        taken = set(self.palette)
        grays = ((v, v, v) for v in (0, 255, *range(128, 255), *range(1, 128)))
        return next((color for color in grays if color not in taken), (0, 0, 0))

    @checked
    def encode(self, stored_HW: NDArray[Any]) -> Mask:
        """Turn a stored index mask into class indices.

        Args:
            stored_HW: integers of any width, as the file holds them.

        Returns:
            A new (H, W) array of class indices and `ignore_index`, of `mask_dtype`.

        Raises:
            LabelError: not a plane of integers, or values that the spec does not name, listed with their counts.
        """
        unknown = self.unknown_values(stored_HW)
        if unknown:
            fix = "say what each stored value means in `map:` (a class index or `ignore`), or add the missing names"
            if not all(0 <= value <= MAX_STORED for value in unknown):
                fix = "`map:` cannot have them: save masks as 8-bit or 16-bit PNG, with 255 where nothing is labelled"
            raise LabelError(
                f"the mask holds values that have no class: {list_counts(unknown)}",
                fix=fix,
                code="labels-unknown-value",
            )
        if self.id_map is None:
            return stored_HW.astype(self.mask_dtype)
        _, index_by_value = _value_tables(self.id_map, self.ignore_index)
        return _look_up(index_by_value, stored_HW)

    @checked
    def unknown_values(self, stored_HW: NDArray[Any]) -> dict[int, int]:
        """Count the pixels of each stored value that the spec does not name, most frequent first.

        Raises:
            LabelError: not a plane of integers.
        """
        _check_plane(stored_HW)
        if self.id_map is None:
            unknown_HW = _beyond(stored_HW, self.num_classes, self.ignore_index)
        else:
            known_by_value, _ = _value_tables(self.id_map, self.ignore_index)
            if stored_HW.dtype in (np.uint8, np.uint16):
                unknown_HW = _look_up(known_by_value, stored_HW) == 0
            else:  # a stored 70000 or -1 must not wrap around to a known value
                inside_HW = np.clip(stored_HW, 0, MAX_STORED).astype(np.uint16)
                unknown_HW = (known_by_value[inside_HW] == 0) | (inside_HW != stored_HW)
        return _count(stored_HW[unknown_HW]) if unknown_HW.any() else {}

    @checked
    def encode_rgb(self, rgb_HW3: NDArray[np.uint8]) -> Mask:
        """Turn a stored colour mask into class indices.

        The colours are those of `colors`, or else of the palette and `ignore_color`, so that a mask drawn by
        `colorize` comes back.

        Args:
            rgb_HW3: (H, W, 3) uint8.

        Returns:
            A new (H, W) array of class indices and `ignore_index`, of `mask_dtype`.

        Raises:
            LabelError: not an RGB image; two classes share a colour of the palette; or colours that the spec does not
                name, listed with their counts.
        """
        codes_HW = self._color_codes(rgb_HW3)
        if not codes_HW.all():
            raise LabelError(
                f"the mask holds colours that have no class: {list_counts(self.unknown_colors(rgb_HW3))}",
                fix='say what each colour means in `colors:`, as in {"255,0,0": 0, "0,0,0": ignore}',
                code="labels-unknown-color",
            )
        return (codes_HW - np.uint32(1)).astype(self.mask_dtype)

    @checked
    def unknown_colors(self, rgb_HW3: NDArray[np.uint8]) -> dict[Color, int]:
        """Count the pixels of each colour that the spec does not name, most frequent first.

        Raises:
            LabelError: not an RGB image, or two classes share a colour of the palette.
        """
        unknown_HW = self._color_codes(rgb_HW3) == 0
        counts = _count(_pack(rgb_HW3)[unknown_HW])
        return {(packed >> 16, packed >> 8 & 255, packed & 255): n for packed, n in counts.items()}

    def _color_codes(self, rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """Class index + 1 of every pixel, 0 where its colour has no name."""
        if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8:
            raise LabelError(
                f"a colour mask is 8-bit (height, width, 3), not {rgb_HW3.dtype} {rgb_HW3.shape}",
                fix="save colour masks as 8-bit RGB PNG",
                code="labels-mask-type",
            )
        colors = self.colors or self._palette_colors()
        return np.asarray(_color_table(colors, self.ignore_index)[_pack(rgb_HW3)])

    def _palette_colors(self) -> tuple[tuple[Color, Target], ...]:
        pairs: dict[Color, Target] = {}
        for k, color in enumerate(self.palette):
            first = pairs.setdefault(color, k)
            if first != "ignore" and first != k:
                raise LabelError(
                    f"{show(self.names[first])} and {show(self.names[k])} are both drawn in {color}: "
                    "a colour mask does not say which is meant",
                    fix="use index masks, or give every class a colour of its own in `colors:`",
                    code="labels-ambiguous",
                )
        return (*pairs.items(), (self.ignore_color, "ignore"))

    @checked
    def colorize(self, mask_HW: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw class indices in the palette's colours, ignored pixels in `ignore_color`.

        Args:
            mask_HW: class indices and `ignore_index`, any integer type.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            LabelError: not a plane of integers, or values beyond the classes.
        """
        _check_plane(mask_HW)
        unknown_HW = _beyond(mask_HW, self.num_classes, self.ignore_index)
        if unknown_HW.any():
            raise LabelError(
                f"the mask holds values beyond the {self.num_classes} classes: "
                f"{list_counts(_count(mask_HW[unknown_HW]))}",
                fix="draw a mask with the labels of the model that made it",
                code="labels-unknown-value",
            )
        table_V3 = np.zeros((self.ignore_index + 1, 3), np.uint8)
        table_V3[: self.num_classes] = self.palette
        table_V3[self.ignore_index] = self.ignore_color
        rgb_HW3 = np.empty((*mask_HW.shape, 3), np.uint8)
        for channel in range(3):
            rgb_HW3[..., channel] = _look_up(table_V3[:, channel], mask_HW)
        return rgb_HW3


@lru_cache(maxsize=8)
def _value_tables(id_map: tuple[tuple[int, Target], ...], ignore_index: int) -> tuple[NDArray[np.uint8], Mask]:
    """For every 16-bit stored value: whether it is named, and its class index."""
    known = np.zeros(MAX_STORED + 1, np.uint8)
    index: Mask = np.zeros(MAX_STORED + 1, np.uint8) if ignore_index == 255 else np.zeros(MAX_STORED + 1, np.uint16)
    for stored, target in id_map:
        known[stored], index[stored] = 1, ignore_index if target == "ignore" else target
    return known, index


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, Target], ...], ignore_index: int) -> NDArray[np.uint32]:
    """Class index + 1 by packed colour; zero is unnamed, so that most of the table never takes up memory."""
    table = np.zeros(1 << 24, np.uint32)
    for (red, green, blue), target in colors:
        table[red << 16 | green << 8 | blue] = 1 + (ignore_index if target == "ignore" else target)
    return table


def _pack(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint32]:
    red, green, blue = (rgb_HW3[..., channel].astype(np.uint32) for channel in range(3))
    return np.asarray(red << np.uint32(16) | green << np.uint32(8) | blue)


def _look_up(table: NDArray[Any], mask_HW: NDArray[Any]) -> NDArray[Any]:
    """``table[mask]``; for bytes by `bytes.translate`, which is twice as fast as indexing."""
    if mask_HW.dtype != np.uint8 or table.dtype != np.uint8:
        return np.asarray(table[mask_HW])
    translated = bytearray(mask_HW.tobytes()).translate(table[:256].tobytes())
    return np.frombuffer(translated, np.uint8).reshape(mask_HW.shape)


def _check_plane(mask_HW: NDArray[Any]) -> None:
    if mask_HW.ndim != 2 or mask_HW.dtype.kind not in "ui":
        raise LabelError(
            f"an index mask is a plane of integers, not {mask_HW.dtype} {mask_HW.shape}",
            fix="save masks as 8-bit or 16-bit single-channel PNG",
            code="labels-mask-type",
        )


def _beyond(mask_HW: NDArray[Any], num_classes: int, ignore_index: int) -> NDArray[np.bool_]:
    beyond_HW = (mask_HW >= num_classes) & (mask_HW != ignore_index)
    return np.asarray(beyond_HW | (mask_HW < 0) if mask_HW.dtype.kind == "i" else beyond_HW)


def _count(values_N: NDArray[Any]) -> dict[int, int]:
    """Pixels by value, most frequent first."""
    values, counts = np.unique(values_N, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return dict(zip(values[order].tolist(), counts[order].tolist(), strict=True))
