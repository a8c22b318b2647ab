"""The kinds of files that a prediction can be saved as, and what the files are called.

    kind            file                        holds
    mask            <stem>_mask.png             class indices: `np.asarray(PIL.Image.open(file))` gives them back, while
                                                viewers show colours, for it is an indexed PNG carrying the palette;
                                                16-bit greyscale where there are more than 255 classes
    color           <stem>_color.png            every pixel in its class's colour, plain RGB
    overlay         <stem>_overlay.png          the image under translucent class colours, with a legend
    cutout          <stem>_cutout.png           the image where it shows chosen classes, transparent elsewhere
    probabilities   <stem>_probabilities.npz    `probabilities` (K, H, W) float16 and `names` (K,)
    confidence      <stem>_confidence.png       probability of each pixel's class, 16-bit greyscale: 65535 is certain
    entropy         <stem>_entropy.png          entropy of each pixel's probabilities, 16-bit greyscale: 0 is certain,
                                                65535 is the same probability for each class
    polygons        <stem>_polygons.geojson     outlines of connected areas with their class, in pixels
    json            <stem>.json                 `Segmentation.to_dict()`: pixels and share of every class that occurs

Read masks with Pillow: OpenCV turns an indexed PNG into its colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from terrazzo.errors import ConfigError
from terrazzo.text import show, shown_path

__all__ = ["DEFAULT_KINDS", "KINDS", "check_kinds", "destinations", "stem_of"]

KINDS = {
    "mask": "_mask.png",
    "color": "_color.png",
    "overlay": "_overlay.png",
    "cutout": "_cutout.png",
    "probabilities": "_probabilities.npz",
    "confidence": "_confidence.png",
    "entropy": "_entropy.png",
    "polygons": "_polygons.geojson",
    "json": ".json",
}
DEFAULT_KINDS = ("mask", "color", "overlay", "json")

FILE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy", ".npz", ".json", ".geojson"}


def check_kinds(save: str | Iterable[str], known: Iterable[str] = KINDS) -> list[str]:
    """Return the kinds of files that were asked for, each once.

    Args:
        save: a sequence, or their names with commas between.
        known: the kinds that there are.

    Raises:
        ConfigError: there is no such kind, or none was chosen (code "config-save").
    """
    kinds = list(dict.fromkeys(kind.strip() for kind in (save.split(",") if isinstance(save, str) else save)))
    known = tuple(known)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        what = f"there is nothing called {show(unknown[0])} to save" if unknown else "nothing was chosen to save"
        raise ConfigError(what, fix=f"choose from {', '.join(known)}", code="config-save")
    return kinds


def destinations(
    output: Path,
    kinds: list[str],
    stem: str | None,
    image: Path | None = None,
    endings: Mapping[str, str] = KINDS,
) -> dict[str, Path]:
    """Return the file of each kind.

    Args:
        output: a folder; or, for a single kind and without a stem, a file with that kind's suffix.
        kinds: as in the module's table.
        stem: how the files' names begin; by default as the image's.
        image: where the result comes from.
        endings: of the files' names, by kind.

    Raises:
        ConfigError: `output` looks like a file, and is not one for these kinds; or the stem names a folder (code
            "config-save").
    """
    if output.suffix.lower() in FILE_SUFFIXES and not output.is_dir():
        suffix = f".{endings[kinds[0]].rpartition('.')[2]}"
        if len(kinds) > 1 or output.suffix.lower() != suffix or stem is not None:
            raise ConfigError(
                f"{shown_path(output)} cannot be the file for {', '.join(kinds)}",
                fix=f"name a folder, or for a single image and {kinds[0]} alone a {suffix} file",
                code="config-save",
            )
        return {kinds[0]: output}
    stem = stem or stem_of(image)
    if Path(stem).name != stem:
        raise ConfigError(
            f"{show(stem)} is not the beginning of a file name", fix="leave folders out of it", code="config-save"
        )
    return {kind: output / f"{stem}{endings[kind]}" for kind in kinds}


def stem_of(image: Path | None) -> str:
    """Return how the names of an image's results begin: results of a hidden file are not hidden."""
    return (image.stem.lstrip(".") if image is not None else "") or "segmentation"
