"""`Segmentation`: what a prediction is, and every form in which it can be looked at, counted or saved."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import check_fields, checked
from terrazzo.atomic import replacing
from terrazzo.errors import ConfigError, ImageError, LabelError
from terrazzo.imaging.png import encode_png
from terrazzo.inference.areas import ClassArea, areas_of, count_classes, file_name, summary_of
from terrazzo.inference.kinds import DEFAULT_KINDS, check_kinds, destinations
from terrazzo.inference.legend import with_legend
from terrazzo.inference.overlay import Style, cut_out, legend_entries, line_width, paint
from terrazzo.inference.polygons import Polygon, class_polygons
from terrazzo.labels.matching import find_class
from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import mark_files
from terrazzo.notes import note
from terrazzo.ownership import refuse_foreign, write_result

__all__ = ["Segmentation", "as_uint16", "png_palette"]


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The mask of one image, and what is needed to show and save it.

    Attributes:
        mask: (H, W) class indices of the labels' `mask_dtype`; `labels.ignore_index` where a pixel has no class.
        labels: the classes' names and colours.
        image: the image, (H, W, 3) uint8 RGB, where it was kept.
        path: the image's file, where it came from one.
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
        return f"<Segmentation of {file_name(self.path) or 'an image'}, {width} x {height}: {largest}>"

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
        """What `save` writes as JSON; it names the image's file but not its folder."""
        height, width = self.mask.shape
        return summary_of(self.path, (height, width), self.model, self.areas())

    @checked
    def to_dataframe(self, *, absent: bool = False) -> Any:
        """`areas` as a pandas DataFrame: index, name, pixels and share of each class.

        Raises:
            ConfigError: pandas is not installed (code "extra").
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ConfigError("pandas is not installed", fix="run pip install pandas", code="extra") from error
        return pandas.DataFrame([asdict(area) for area in self.areas(absent=absent)])

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        """The pixels of one class, (H, W) bool. Case, spaces, underscores and hyphens in its name do not count.

        Raises:
            LabelError: no class is called so (code "labels-class-name").
        """
        is_class: NDArray[np.bool_] = self.mask == find_class(self.labels.names, name)
        return is_class

    def __contains__(self, name: str) -> bool:
        """Whether the image shows a class.

        Raises:
            LabelError: no class is called so (code "labels-class-name").
        """
        return bool(self[name].any())

    @checked
    def polygons(self, classes: str | Sequence[str] | None = None, *, min_pixels: int = 1) -> list[Polygon]:
        """The outlines of connected areas of one class, exactly along the edges of their pixels.

        Pixels are connected by their sides, not by their corners.

        Args:
            classes: only of these, by name; by default of all.
            min_pixels: leave out areas that are smaller.

        Returns:
            A polygon, with its holes, for each area, in the order of the classes and from the top.
        """
        chosen = None if classes is None else {find_class(self.labels.names, name) for name in _names(classes)}
        return class_polygons(self.mask, self.labels, chosen, min_pixels)

    # How it looks

    def color(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB: every pixel in its class's colour."""
        return self.labels.colorize(self.mask)

    @checked
    def overlay(
        self, alpha: float = 0.55, *, legend: bool = True, classes: str | Sequence[str] | None = None
    ) -> NDArray[np.uint8]:
        """The image under its classes' colours, (H, W, 3) RGB; without an image, the colours alone.

        Pixels that carry no class show the bare image, and so does a class called background.

        Args:
            alpha: weight of the colours, from 0 (only the image) to 1 (only the colours).
            legend: add the classes' colours, names and shares, below a landscape image or to the right of any other;
                the result is then larger than (H, W), and [:H, :W] of it is the picture.
            classes: paint only these, by name.

        Raises:
            ConfigError: `alpha` is not between 0 and 1.
            LabelError: no class is called so (code "labels-class-name").
        """
        return self._overlay(Style(alpha, None if classes is None else _names(classes)), legend)

    def painted(self, style: Style) -> NDArray[np.uint8]:
        """The overlay in a style, without a legend: of the image's own size."""
        colors = self.color()
        image = colors if self.image is None else self.image
        return paint(image, colors, self.mask, style.alpha, style.unpainted(self.labels), line_width(self.mask.shape))

    def _overlay(self, style: Style, legend: bool = True) -> NDArray[np.uint8]:
        picture = self.painted(style)
        entries = legend_entries(self.areas(), self.labels, style.unpainted(self.labels)) if legend else []
        return with_legend(picture, entries) if legend else picture

    @checked
    def cutout(self, classes: str | Sequence[str], *, crop: bool = False) -> NDArray[np.uint8]:
        """The image where it shows some classes, and transparent elsewhere: (H, W, 4) RGBA.

        Args:
            classes: one name or several.
            crop: leave out the rows and columns around that show none of them.

        Raises:
            ImageError: the image was not kept, or with `crop` it shows none of the classes (code "cutout-nothing").
            LabelError: no class is called so (code "labels-class-name").
        """
        style = Style(cutout=_names(classes))
        if self.image is None:
            raise ImageError(
                "there is no image to cut out of: it was not kept with the mask",
                fix="give the image to Segmentation, or predict from an image that fits into memory",
                code="cutout-nothing",
            )
        cut_HW4 = cut_out(self.image, self.mask, style.cut(self.labels))
        if not crop:
            return cut_HW4
        rows, columns = (np.flatnonzero(cut_HW4[..., 3].any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise ImageError(
                f"the image does not show {' or '.join(style.cutout)}",
                fix="ask for a class that areas() lists, or leave crop out",
                code="cutout-nothing",
            )
        return cut_HW4[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    @checked
    def show(self, alpha: float = 0.55, *, classes: str | Sequence[str] | None = None) -> None:
        """Show the overlay: in a notebook below the cell, elsewhere in the system's image viewer."""
        from PIL import Image, ImageShow

        picture = Image.fromarray(self.overlay(alpha, classes=classes))
        notebook = sys.modules.get("IPython")
        if notebook is not None and notebook.get_ipython() is not None:
            notebook.display.display(picture)
        elif not ImageShow.show(picture):
            note('no image viewer was found; write the overlay to a file with .save("folder", "overlay")')

    # Where it goes

    @checked
    def save(
        self,
        output: str | os.PathLike[str],
        save: str | Iterable[str] = DEFAULT_KINDS,
        *,
        stem: str | None = None,
        overwrite: bool = False,
        style: Style | None = None,
    ) -> dict[str, Path]:
        """Write the chosen kinds of files, each atomically, and return their paths by kind.

        Earlier results that are there are replaced, other files are not: results carry a mark (`marks.py`). A
        caller with two images of one name gives each its own `stem`.

        Args:
            output: a folder, made if it is not there; or, for a single kind, a file with that kind's suffix.
            save: kinds, which `terrazzo.inference.kinds` lists: a sequence, or their names with commas between.
            stem: how the files' names begin; by default as the image's, or "segmentation" where it has none.
            overwrite: replace whatever is there, but for the image itself.
            style: how overlays look, and what is cut out.

        Raises:
            ConfigError: a kind is unknown, or what it needs was not kept, or `output` and `save` do not match.
            OutputError: a file is there that is not an earlier result, and then nothing is written; or a file cannot be
                written, and those written before it stay.
        """
        kinds = check_kinds(save)
        for kind in kinds:
            if kind in ("probabilities", "confidence", "entropy"):
                self._kept(kind)
        paths = destinations(Path(output), kinds, stem, self.path)
        self.write(paths, overwrite=overwrite, style=style)
        return paths

    def write(self, files: Mapping[str, Path], *, overwrite: bool = False, style: Style | None = None) -> None:
        """Write files by kind, as `save` does once their names are settled.

        Raises:
            OutputError: as `save`.
        """
        inputs = [] if self.path is None else [self.path]
        refuse_foreign(files.values(), "predict", inputs=inputs, overwrite=overwrite, option="output")
        for kind, path in files.items():
            if kind == "probabilities":
                with replacing(path) as partial:
                    self._write_probabilities(partial)  # not by way of `encode`: they are large
                    mark_files([partial], "predict")
            else:
                write_result(path, self.encode(kind, style=style), "predict")

    @checked
    def encode(self, kind: str, *, style: Style | None = None) -> bytes:
        """Return the bytes of one kind of file: what `save` writes, without its mark.

        Args:
            kind: ``mask``, ``color``, ``overlay``, ``probabilities`` or ``json``.

        Raises:
            ConfigError: there is no such kind, or what it needs was not kept (code "config-save").
        """
        (kind,) = check_kinds([kind])
        style = style or Style()
        match kind:
            case "mask":
                return encode_png(self.mask, png_palette(self.labels) if self.mask.dtype == np.uint8 else None)
            case "color":
                return encode_png(self.color())
            case "overlay":
                return encode_png(self._overlay(style))
            case "cutout":
                return encode_png(self.cutout(style.cutout))
            case "confidence" | "entropy":
                return encode_png(as_uint16(self._kept(kind)))
            case "polygons":
                features = [polygon.to_geojson() for polygon in self.polygons()]
                return json.dumps({"type": "FeatureCollection", "features": features}).encode() + b"\n"
            case "probabilities":
                file = BytesIO()
                self._write_probabilities(file)
                return file.getvalue()
            case _:
                return json.dumps(self.to_dict(), indent=2).encode() + b"\n"

    def _kept(self, what: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] | None = getattr(self, what)
        if values is None:
            are_many = what == "probabilities"
            raise ConfigError(
                f"the {what} of this prediction {'were' if are_many else 'was'} not kept",
                fix=f"predict with {'probabilities' if are_many else 'confidence'}=True",
                code="config-save",
            )
        return values

    def _write_probabilities(self, path: Path | BinaryIO) -> None:
        """Stored, not compressed: that would take five times as long and save a tenth.

        Values below 6e-5, float16's smallest normal number, become 0: converting those takes over ten times as long.
        """
        probabilities_KHW = self._kept("probabilities")
        smallest = np.finfo(np.float16).smallest_normal
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("names.npy", "w") as file:
                np.lib.format.write_array(file, np.array(self.labels.names, dtype=np.str_), allow_pickle=False)
            with archive.open("probabilities.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f2", "fortran_order": False, "shape": probabilities_KHW.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for plane_HW in probabilities_KHW:
                    file.write((plane_HW * (plane_HW >= smallest)).astype("<f2").tobytes())


def png_palette(labels: LabelSpec) -> NDArray[np.uint8]:
    """(256, 3): a colour for every value that a pixel can have, so that no reader can stumble."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    used = np.array([*range(labels.num_classes), labels.ignore_index], dtype=np.uint8)
    palette[used] = labels.colorize(used[None])[0]
    return palette


def as_uint16(shares: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Numbers from 0 to 1 as they are stored in a 16-bit PNG."""
    stored: NDArray[np.uint16] = np.rint(shares * np.float32(65535)).astype(np.uint16)
    return stored


def _names(classes: str | Sequence[str]) -> tuple[str, ...]:
    return (classes,) if isinstance(classes, str) else tuple(classes)
