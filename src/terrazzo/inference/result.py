"""`Segmentation`: what a prediction is, and every form in which it can be looked at or saved.

    kind            file                        holds
    mask            <stem>_mask.png             class indices: `np.asarray(PIL.Image.open(file))` gives them back, while
                                                viewers show colours, for it is an indexed PNG carrying the palette;
                                                16-bit greyscale where there are more than 255 classes
    color           <stem>_color.png            every pixel in its class's colour, plain RGB
    overlay         <stem>_overlay.png          the photo under translucent class colours, with a legend
    probabilities   <stem>_probabilities.npz    `probabilities` (K, H, W) float16 and `names` (K,)
    json            <stem>.json                 `Segmentation.to_dict()`: pixels and share of every class that occurs

Read masks with Pillow: OpenCV turns an indexed PNG into its colours.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields, checked
from terrazzo.atomic import make_folder, replacing
from terrazzo.errors import ConfigError, LabelError
from terrazzo.imaging.png import encode_png
from terrazzo.inference.overlay import LegendEntry, paint, with_legend
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import mark_files, refuse_foreign, write_result
from terrazzo.text import show, shown_path

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "ClassArea",
    "Segmentation",
    "areas_of",
    "check_kinds",
    "count_classes",
    "destinations",
    "png_palette",
    "stem_of",
    "summary_of",
]

KINDS = {
    "mask": "_mask.png",
    "color": "_color.png",
    "overlay": "_overlay.png",
    "probabilities": "_probabilities.npz",
    "json": ".json",
}
DEFAULT_KINDS = ("mask", "color", "overlay", "json")

FILE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".json"}
LEGEND_FROM_SHARE = 0.001  # smaller areas would read 0.0% and push larger ones out
EXACT_COUNTS = 1 << 24  # pixels counted at once: OpenCV's histogram is float32


@dataclass(frozen=True)
class ClassArea:
    """How much of a picture one class covers; `share` is the fraction of all pixels, 0 to 1."""

    index: int
    name: str
    pixels: int
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The mask of one photo, and what is needed to show and save it.

    Attributes:
        mask: (H, W) class indices of the labels' `mask_dtype`; `labels.ignore_index` where a pixel has no class.
        labels: the classes' names and colours.
        image: the photo, (H, W, 3) uint8 RGB, where it was kept.
        path: the photo's file, where it came from one.
        probabilities: (K, H, W) float32, each pixel's summing to 1, where they were asked for.
        model: the name of the model that predicted.
        confidence: (H, W) float32 probability of each pixel's class, where it was asked for.
        entropy: (H, W) float32 entropy of each pixel's probabilities divided by log K, where it was asked for: 0 is
            certain, 1 is the same probability for each of the K classes.

    Raises:
        LabelError: the arrays do not fit each other, or the mask holds indices beyond the classes.
    """

    mask: NDArray[np.uint8] | NDArray[np.uint16]
    labels: LabelSpec
    image: NDArray[np.uint8] | None = None
    path: Path | None = None
    probabilities: NDArray[np.float32] | None = None
    model: str | None = None
    confidence: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        num_classes, dtype = self.labels.num_classes, self.labels.mask_dtype
        if self.mask.ndim != 2 or self.mask.size == 0 or self.mask.dtype != dtype:
            raise LabelError(
                f"a mask of {num_classes} classes is (height, width) {dtype}, not {self.mask.shape} {self.mask.dtype}",
                fix="pass class indices, one for each pixel, and convert them with .astype(labels.mask_dtype)",
                code="mask-shape",
            )
        for name, array, needed, its_dtype in (
            ("image", self.image, (*self.mask.shape, 3), np.uint8),
            ("probabilities", self.probabilities, (num_classes, *self.mask.shape), np.float32),
            ("confidence", self.confidence, self.mask.shape, np.float32),
            ("entropy", self.entropy, self.mask.shape, np.float32),
        ):
            if array is not None and (array.shape != needed or array.dtype != its_dtype):
                raise LabelError(
                    f"this mask and its classes need {name} of {needed} {np.dtype(its_dtype)}, "
                    f"not {array.shape} {array.dtype}",
                    fix=f"pass the {name} that the mask belongs to",
                    code="mask-shape",
                )
        if self.mask.max() >= num_classes:
            beyond = self.mask[(self.mask >= num_classes) & (self.mask != self.labels.ignore_index)]
            if beyond.size:
                raise LabelError(
                    f"the mask holds index {beyond[0]}, but the classes are 0 to {num_classes - 1}",
                    fix="pass the labels that the mask was made with",
                    code="labels-unknown-value",
                )

    def __repr__(self) -> str:
        height, width = self.mask.shape
        largest = ", ".join(f"{area.name} {area.share:.1%}" for area in self.areas()[:3])
        return f"<Segmentation of {_file_name(self.path) or 'an image'}, {width} x {height}: {largest}>"

    def _repr_png_(self) -> bytes:
        """The overlay, which notebooks show."""
        return encode_png(self.overlay())

    # What is in it

    @checked
    def areas(self, *, absent: bool = False) -> list[ClassArea]:
        """The classes by the area they cover, largest first.

        Args:
            absent: list the classes that do not occur, too.
        """
        return areas_of(count_classes(self.mask, self.labels), self.labels, self.mask.size, absent=absent)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes as JSON; it names the photo's file but not its folder."""
        height, width = self.mask.shape
        return summary_of(self.path, (height, width), self.model, self.areas())

    # How it looks

    def color(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB: every pixel in its class's colour."""
        return self.labels.colorize(self.mask)

    @checked
    def overlay(self, alpha: float = 0.55, *, legend: bool = True) -> NDArray[np.uint8]:
        """The photo under its classes' colours, (H, W, 3) RGB; without a photo, the colours alone.

        Pixels that carry no class show the bare photo.

        Args:
            alpha: weight of the colours, from 0 (only the photo) to 1 (only the colours).
            legend: add the classes' colours, names and shares, below a landscape photo or to the right of any other;
                the result is then larger than (H, W), and [:H, :W] of it is the picture.

        Raises:
            ConfigError: `alpha` is not between 0 and 1.
        """
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha}", fix="choose a value between 0 and 1")
        colors = self.color()
        background = colors if self.image is None else self.image
        picture = paint(background, colors, self.mask, alpha, bare=self.labels.ignore_index)
        return with_legend(picture, self._legend()) if legend else picture

    def _legend(self) -> list[LegendEntry]:
        areas = self.areas()
        entries = [
            LegendEntry(area.name, self.labels.palette[area.index], area.share, fallback=f"class {area.index}")
            for area in areas
            if area.share >= LEGEND_FROM_SHARE
        ]
        bare = 1 - sum(area.pixels for area in areas) / self.mask.size
        if bare >= LEGEND_FROM_SHARE:
            entries.append(LegendEntry("not labelled", None, bare))
        return entries

    # Where it goes

    @checked
    def save(
        self,
        output: str | os.PathLike[str],
        save: str | Iterable[str] = DEFAULT_KINDS,
        *,
        stem: str | None = None,
        overwrite: bool = False,
    ) -> dict[str, Path]:
        """Write the chosen kinds of files, each atomically, and return their paths by kind.

        Earlier results that are there are replaced, other files are not: results carry a mark (`ownership.py`). A
        caller with two photos of one name gives each its own `stem`.

        Args:
            output: a folder, made if it is not there; or, for a single kind, a file with that kind's suffix.
            save: kinds, as in the table above: a sequence, or their names with commas between.
            stem: how the files' names begin; by default as the photo's, or "segmentation" where it has none.
            overwrite: replace whatever is there, but for the photo itself.

        Raises:
            ConfigError: a kind is unknown, or the probabilities were not kept, or `output` and `save` do not match.
            OutputError: a file is there that is not an earlier result, and then nothing is written; or a file cannot be
                written, and those written before it stay.
        """
        kinds = check_kinds(save)
        if "probabilities" in kinds:
            self._require_probabilities()
        paths = destinations(Path(output), kinds, stem, self.path)
        self.write(paths, overwrite=overwrite)
        return paths

    def write(self, files: Mapping[str, Path], *, overwrite: bool = False) -> None:
        """Write files by kind, as `save` does once their names are settled.

        Raises:
            OutputError: as `save`.
        """
        inputs = [] if self.path is None else [self.path]
        refuse_foreign(files.values(), "predict", inputs=inputs, overwrite=overwrite, option="output")
        for kind, path in files.items():
            make_folder(path.parent)
            if kind == "probabilities":
                with replacing(path) as partial:
                    self._write_probabilities(partial)  # not by way of `encode`: they are large
                    mark_files([partial], "predict")
            else:
                write_result(path, self.encode(kind), "predict")

    def encode(self, kind: str) -> bytes:
        """Return the bytes of one kind of file, as in the table above: what `save` writes, without its mark.

        Args:
            kind: ``mask``, ``color``, ``overlay``, ``probabilities`` or ``json``.

        Raises:
            ConfigError: there is no such kind, or the probabilities were not kept (code "config-save").
        """
        (kind,) = check_kinds([kind])
        match kind:
            case "mask":
                return encode_png(self.mask, png_palette(self.labels) if self.mask.dtype == np.uint8 else None)
            case "color":
                return encode_png(self.color())
            case "overlay":
                return encode_png(self.overlay())
            case "probabilities":
                file = BytesIO()
                self._write_probabilities(file)
                return file.getvalue()
            case _:
                return json.dumps(self.to_dict(), indent=2).encode() + b"\n"

    def _require_probabilities(self) -> NDArray[np.float32]:
        if self.probabilities is None:
            raise ConfigError(
                "the probabilities of this prediction were not kept",
                fix="ask for them when predicting",
                code="config-save",
            )
        return self.probabilities

    def _write_probabilities(self, path: Path | BinaryIO) -> None:
        """Stored, not compressed: that would take five times as long and save a tenth.

        Values below 6e-5, float16's smallest normal number, become 0: converting those takes over ten times as long.
        """
        probabilities_KHW = self._require_probabilities()
        smallest = np.finfo(np.float16).smallest_normal
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("names.npy", "w") as file:
                np.lib.format.write_array(file, np.array(self.labels.names, dtype=np.str_), allow_pickle=False)
            with archive.open("probabilities.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f2", "fortran_order": False, "shape": probabilities_KHW.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for plane_HW in probabilities_KHW:
                    file.write((plane_HW * (plane_HW >= smallest)).astype("<f2").tobytes())


def areas_of(counts: NDArray[np.integer], labels: LabelSpec, size: int, *, absent: bool = False) -> list[ClassArea]:
    """Name the classes' pixel counts, largest first.

    Args:
        counts: of each class.
        labels: the classes.
        size: of the image, in pixels.
        absent: list the classes that do not occur, too.
    """
    areas = [
        ClassArea(index, name, int(pixels), int(pixels) / size)
        for index, (name, pixels) in enumerate(zip(labels.names, counts, strict=True))
        if pixels or absent
    ]
    return sorted(areas, key=lambda area: (-area.pixels, area.index))


def count_classes(mask_HW: NDArray[np.integer], labels: LabelSpec) -> NDArray[np.int64]:
    """Count the pixels of each class."""
    import cv2

    values = labels.ignore_index + 1
    counts = np.zeros(values, dtype=np.int64)
    rows = max(1, EXACT_COUNTS // mask_HW.shape[1])
    for top in range(0, len(mask_HW), rows):
        strip: NDArray[np.integer] = np.ascontiguousarray(mask_HW[top : top + rows])
        counts += cv2.calcHist([strip], [0], None, [values], [0, values]).ravel().astype(np.int64)
    return counts[: labels.num_classes]


def summary_of(path: Path | None, size: tuple[int, int], model: str | None, areas: list[ClassArea]) -> dict[str, Any]:
    """What is written as JSON about a mask of this (height, width)."""
    height, width = size
    return {
        "file": _file_name(path),
        "width": width,
        "height": height,
        "model": model,
        "classes": [{**asdict(area), "share": round(area.share, 6)} for area in areas],
        "ignored_pixels": height * width - sum(area.pixels for area in areas),
    }


def png_palette(labels: LabelSpec) -> NDArray[np.uint8]:
    """(256, 3): a colour for every value that a pixel can have, so that no reader can stumble."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    used = np.array([*range(labels.num_classes), labels.ignore_index], dtype=np.uint8)
    palette[used] = labels.colorize(used[None])[0]
    return palette


def _file_name(path: Path | None) -> str | None:
    # File names may hold bytes that are not UTF-8, which no JSON reader or terminal accepts.
    return None if path is None else os.fsencode(path.name).decode("utf-8", "replace")


def check_kinds(save: str | Iterable[str]) -> list[str]:
    """Return the kinds of files that were asked for, each once.

    Raises:
        ConfigError: there is no such kind, or none was chosen (code "config-save").
    """
    kinds = list(dict.fromkeys(kind.strip() for kind in (save.split(",") if isinstance(save, str) else save)))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        what = f"there is nothing called {show(unknown[0])} to save" if unknown else "nothing was chosen to save"
        raise ConfigError(what, fix=f"choose from {', '.join(KINDS)}", code="config-save")
    return kinds


def destinations(output: Path, kinds: list[str], stem: str | None, image: Path | None = None) -> dict[str, Path]:
    """Return the file of each kind.

    Args:
        output: a folder; or, for a single kind and without a stem, a file with that kind's suffix.
        kinds: as in the module's table.
        stem: how the files' names begin; by default as the photo's.
        image: where the result comes from.

    Raises:
        ConfigError: `output` looks like a file, and is not one for these kinds; or the stem names a folder (code
            "config-save").
    """
    if output.suffix.lower() in FILE_SUFFIXES and not output.is_dir():
        suffix = f".{KINDS[kinds[0]].rpartition('.')[2]}"
        if len(kinds) > 1 or output.suffix.lower() != suffix or stem is not None:
            raise ConfigError(
                f"{shown_path(output)} cannot be the file for {', '.join(kinds)}",
                fix=f"name a folder, or for a single photo and {kinds[0]} alone a {suffix} file",
                code="config-save",
            )
        return {kinds[0]: output}
    stem = stem or stem_of(image)
    if Path(stem).name != stem:
        raise ConfigError(
            f"{show(stem)} is not the beginning of a file name", fix="leave folders out of it", code="config-save"
        )
    return {kind: output / f"{stem}{KINDS[kind]}" for kind in kinds}


def stem_of(image: Path | None) -> str:
    """Return how the names of a photo's results begin: results of a hidden file are not hidden."""
    return (image.stem.lstrip(".") if image is not None else "") or "segmentation"
