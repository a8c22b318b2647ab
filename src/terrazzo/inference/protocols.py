"""Protocols: how an image is shown to the network and its answers are joined, as named and frozen settings.

Half a point of mIoU can hang on how large the network sees an image, so every evaluation says which protocol it
followed and the hash of all its settings. The names of the papers' protocols are settled for good: a changed setting
gets a new name.

Who owns the resize. `Preprocess` belongs to the weights: the size their network is used at, and the normalisation
they were trained with. A paper's protocol belongs to a data set: it says how large that data set's images are shown,
whatever the weights. So a protocol that has a `short_side` replaces the weights' resize rule and keeps their mean and
std; one that has none leaves the rule to the weights, and the hash then covers their `Preprocess`.

Sources: the official code of SegFormer (arXiv 2105.15203) and of SETR (arXiv 2012.15840). Both resize by 8-bit
bilinear interpolation without antialiasing, as `Preprocess` does by default. Where they differ:

- SegFormer's ADE20K images are resized twice: keeping the aspect, and then each side up to a multiple of 32. The paper
  does not mention the second one. No COCO-Stuff configuration was released; the paper describes its test as ADE20K's.
- SegFormer's ratios depend on the data set. SETR's are six, but three for Naive and MLA on ADE20K.
- At several scales SETR shows an image no smaller than a window and sets no limit to its long side. On Pascal Context
  it does so at a single scale too, in the version of its code that its configuration was written for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.data.sources.array import ArraySource
from terrazzo.data.sources.raster import Raster
from terrazzo.data.sources.source import Image, Source
from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.inference.upsample.resize_axis import Blend
from terrazzo.preprocess import Preprocess
from terrazzo.text import did_you_mean, show

__all__ = ["PROTOCOLS", "WHOLE", "Protocol", "Shown", "find_protocol"]

PIXELS_AT_ONCE = 1 << 25  # of an image that is read in windows: 100 MB, all columns of 1024 rows up to 32,768


@dataclass
class Shown:
    """An image as the network is shown it: resized, mirrored or not, and normalised where it is read.

    Attributes:
        source: the resized image.
        preprocess: the weights' own, which has the normalisation.
        mirrored: left to right.
    """

    source: Source
    preprocess: Preprocess
    mirrored: bool = False
    _held: tuple[slice, slice, Image] | None = field(default=None, init=False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.source.size

    def read(self) -> NDArray[np.float32]:
        """Return all of it, (3, H', W')."""
        height, width = self.size
        return self.read_window(slice(0, height), slice(0, width)).transpose(2, 0, 1)

    def read_window(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Return a part, (rows, columns, 3).

        More columns are read at once, where there is memory for them, and kept until other rows are asked for.
        """
        if not self.mirrored:
            return self.preprocess.normalize(self._part(rows, columns))
        width = self.size[1]
        column_range = slice(width - columns.stop, width - columns.start)
        mirrored_HW3 = self._part(rows, column_range)[:, ::-1]
        return self.preprocess.normalize(np.ascontiguousarray(mirrored_HW3))

    def is_empty(self, rows: slice, columns: slice) -> bool:
        """Whether a part holds nothing but gaps, as far as is known without resizing."""
        return isinstance(self.source, Raster) and not self.mirrored and self.source.is_empty(rows, columns)

    def _part(self, rows: slice, columns: slice) -> Image:
        """Read a window. Rows that the window before had too are not read twice, unless the image is very wide."""
        if isinstance(self.source, ArraySource):
            return self.source.read_window(rows, columns)
        held_rows, held_columns, held_HW3 = self._held or (slice(0, 0), slice(0, 0), None)
        is_wide_enough = held_columns.start <= columns.start and columns.stop <= held_columns.stop
        if held_HW3 is None or rows != held_rows or not is_wide_enough:
            width = self.size[1]
            most = max(columns.stop - columns.start, PIXELS_AT_ONCE // (rows.stop - rows.start))
            wide = slice(0, width) if most >= width else slice(columns.start, min(columns.start + most, width))
            overlaps = held_rows.start <= rows.start < held_rows.stop < rows.stop
            if held_HW3 is not None and overlaps and wide == held_columns:
                fresh_HW3 = self.source.read_window(slice(held_rows.stop, rows.stop), wide)
                held_HW3 = np.concatenate([held_HW3[rows.start - held_rows.start :], fresh_HW3])
            else:
                held_HW3 = self._held = None  # before there is the memory of a second one
                held_HW3 = self.source.read_window(rows, wide)
            held_columns = wide
            self._held = rows, held_columns, held_HW3
        return held_HW3[:, columns.start - held_columns.start : columns.stop - held_columns.start]


@dataclass(frozen=True)
class Protocol:
    """All settings of a test-time procedure; `tiling.py` says in which order they act.

    Attributes:
        name: what reports call it.
        short_side: keep the aspect ratio and make the shorter side this many pixels; None leaves the resize to the
            weights' preprocessing.
        long_side: the most the longer side may have; the smaller of the two factors wins.
        multiple_of: afterwards resize each side up to a multiple of this.
        ratios: one view for each; it multiplies both sides above, fractions dropped.
        at_least: the least that a short side becomes by that.
        flip: a second, mirrored view for each ratio.
        window: side of the sliding windows; None shows each view whole.
        stride: from one window to the next.
        blend: where windows overlap, "mean" is that of their logits, and "linear" gives less weight to a window the
            nearer its edge is, so that no seam shows.
    """

    name: str
    short_side: int | None = None
    long_side: int | None = None
    multiple_of: int = 1
    ratios: tuple[float, ...] = (1.0,)
    at_least: int = 1
    flip: bool = False
    window: int | None = None
    stride: int | None = None
    blend: Blend = "mean"

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) <= 0:
            problem = "ratios that are not above 0"
        elif (self.window is None) != (self.stride is None):
            problem = "only one of window and stride"
        elif self.window is not None and self.stride is not None and not 1 <= self.stride <= self.window:
            problem = "a stride that is not between 1 and the window"
        elif self.short_side is None and (self.long_side, self.multiple_of, self.at_least) != (None, 1, 1):
            problem = "a rule for resizing without a short_side"
        else:
            return
        raise ConfigError(f"protocol {self.name!r} has {problem}", fix="correct that setting", code="protocol-settings")

    @property
    def single_view(self) -> bool:
        """Whether the network's logits decide, and not a mean of probabilities."""
        return len(self.ratios) == 1 and not self.flip

    def views(self, image: Source, preprocess: Preprocess) -> Iterator[Shown]:
        """Yield the network's inputs for an image."""
        for ratio in self.ratios:
            resized = image
            for step in self._resizes(image.size, preprocess, ratio):
                resized = _resized(resized, step)
            yield Shown(resized, preprocess)
            if self.flip:
                yield Shown(resized, preprocess, mirrored=True)

    def shown_size(self, size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
        """The (height, width) of the first view of an image of this (height, width)."""
        for step in self._resizes(size, preprocess, self.ratios[0]):
            size = step.target_size(*size)
        return size

    def needs_only_strips(self, size: tuple[int, int], preprocess: Preprocess) -> bool:
        """Whether an image of this (height, width) can be read in strips, and never be in memory as a whole.

        It is shown once, in windows or as a whole that is not large; and if it is resized first, antialiased.
        """
        if not self.single_view:
            return False
        for step in self._resizes(size, preprocess, self.ratios[0]):
            if not step.is_resized_in_strips(*size):
                return False
            size = step.target_size(*size)
        return self.window is not None or size[0] * size[1] <= MAX_PIXELS

    def settings(self, preprocess: Preprocess) -> dict[str, Any]:
        """Everything that decides what the network sees, in JSON's types, leaving out what has its default."""
        values: dict[str, Any] = {}
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.default is MISSING or value != setting.default:
                values[setting.name] = list(value) if isinstance(value, tuple) else value
        if self.short_side is None:
            values["preprocess"] = preprocess.to_dict()
        return values

    def digest(self, preprocess: Preprocess) -> str:
        """Identify the settings: equal hashes mean comparable numbers."""
        return hashlib.sha256(json.dumps(self.settings(preprocess), sort_keys=True).encode()).hexdigest()[:12]

    def _resizes(self, size: tuple[int, int], preprocess: Preprocess, ratio: float) -> list[Preprocess]:
        """The resizes of one view of an image of this size, in turn."""
        if self.short_side is not None:
            short_side = max(int(self.short_side * ratio), self.at_least)
            long_side = None if self.long_side is None else int(self.long_side * ratio)
            plain = (
                Preprocess()
                if preprocess.bands is None
                else Preprocess(mean=preprocess.mean, std=preprocess.std, bands=preprocess.bands)
            )
            shorter = replace(plain, short_side=short_side, long_side=long_side)
            return [shorter, replace(plain, multiple_of=self.multiple_of)]
        if ratio == 1:
            return [preprocess]
        if preprocess.size is not None:
            height, width = (max(int(side * ratio), 1) for side in preprocess.size)
            return [replace(preprocess, size=(height, width))]
        short_side = max(int((preprocess.short_side or min(size)) * ratio), 1)
        long_side = None if preprocess.long_side is None else max(int(preprocess.long_side * ratio), 1)
        return [replace(preprocess, short_side=short_side, long_side=long_side)]


def _resized(image: Source, step: Preprocess) -> Source:
    height, width = image.size
    if step.target_size(height, width) == (height, width):
        return image
    if isinstance(image, ArraySource) or not step.is_resized_in_strips(height, width):
        return ArraySource(step.resize(image.read()), image.name)

    def read_rows(first: int, stop: int) -> Image:
        return image.read_window(slice(first, stop), slice(0, width))

    return ArraySource(step.resize_in_strips(read_rows, height, width), image.name)


WHOLE = Protocol("whole")

_SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_SEGFORMER_ADE20K = Protocol("segformer-ade20k", short_side=512, long_side=2048, multiple_of=32)
_SEGFORMER_ADE20K_640 = replace(_SEGFORMER_ADE20K, name="segformer-ade20k-640", short_side=640)
_SEGFORMER_ADE20K_RATIOS = (0.75, 0.875, 1.0, 1.125, 1.25)
_SEGFORMER_CITYSCAPES = Protocol("segformer-cityscapes", short_side=1024, long_side=2048, window=1024, stride=768)
_SETR_ADE20K = Protocol("setr-ade20k", short_side=512, long_side=2048, window=512, stride=341)
_SETR_ADE20K_MS = replace(_SETR_ADE20K, name="setr-ade20k-ms", long_side=None, ratios=_SIX, at_least=512, flip=True)
_SETR_CITYSCAPES = Protocol("setr-cityscapes", short_side=1025, long_side=2049, window=768, stride=512)
_SETR_PASCAL_CONTEXT = Protocol("setr-pascal-context", short_side=520, at_least=480, window=480, stride=320)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            # Terrazzo's own, at the size that the weights' preprocessing gives.
            WHOLE,
            Protocol("slide", window=1024, stride=768, blend="linear"),
            Protocol("multi-scale", ratios=_SIX, flip=True),
            # SegFormer. B5's ADE20K weights were trained, and are tested, at 640.
            _SEGFORMER_ADE20K,
            replace(_SEGFORMER_ADE20K, name="segformer-ade20k-ms", ratios=_SEGFORMER_ADE20K_RATIOS, flip=True),
            _SEGFORMER_ADE20K_640,
            replace(_SEGFORMER_ADE20K_640, name="segformer-ade20k-640-ms", ratios=_SEGFORMER_ADE20K_RATIOS, flip=True),
            _SEGFORMER_CITYSCAPES,
            replace(_SEGFORMER_CITYSCAPES, name="segformer-cityscapes-ms", ratios=(*_SIX, 2.0), flip=True),
            # B0 on smaller Cityscapes images (table 2 of the paper).
            Protocol("segformer-cityscapes-512", short_side=512, long_side=1024),
            Protocol("segformer-cityscapes-640", short_side=640, long_side=1280),
            Protocol("segformer-cityscapes-768", short_side=768, long_side=1536, window=768, stride=768),
            replace(_SEGFORMER_ADE20K, name="segformer-coco-stuff"),
            # SETR.
            _SETR_CITYSCAPES,
            replace(_SETR_CITYSCAPES, name="setr-cityscapes-ms", long_side=None, ratios=_SIX, at_least=768, flip=True),
            _SETR_ADE20K,
            _SETR_ADE20K_MS,
            replace(_SETR_ADE20K_MS, name="setr-ade20k-ms3", ratios=_SIX[:3]),
            _SETR_PASCAL_CONTEXT,
            replace(_SETR_PASCAL_CONTEXT, name="setr-pascal-context-ms", ratios=_SIX, flip=True),
        )
    }
)


def find_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of a name, or the protocol given.

    Raises:
        ConfigError: no protocol is called so (code "protocol-name"); the fix names the nearest ones.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol {show(protocol)}",
            fix=f"{did_you_mean(protocol, PROTOCOLS, cutoff=0.5)}choose one of {', '.join(PROTOCOLS)}",
            code="protocol-name",
        )
    return PROTOCOLS[protocol]
