"""What stands beside weights: class names, palettes and preprocessing, in the forms in which others write them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from terrazzo import config
from terrazzo.errors import CheckpointError, ConfigError, LabelError
from terrazzo.labels import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.regular_files import open_regular
from terrazzo.text import shown_path

__all__ = [
    "labels_from_meta",
    "labels_from_names",
    "licence_in_model_card",
    "paper_preprocess",
    "preprocess_from_huggingface",
    "read_json",
    "reduces_labels",
]

LISTS = ("ade20k", "cityscapes", "coco_stuff", "pascal_context", "pascal_context_59", "voc", "camvid")
PAPERS_DATA = {150: "ade20k", 19: "cityscapes", 171: "coco_stuff", 60: "pascal_context", 59: "pascal_context_59"}
"""The two papers' data sets by their number of classes, for checkpoints of the papers' code that name no classes."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of moderate size.

    Raises:
        CheckpointError: the file cannot be read, is too large, or is something else.
    """
    document = config.read_json(path, error=CheckpointError)
    if not isinstance(document, dict):
        raise CheckpointError(f"{shown_path(path)} does not hold a JSON object", fix="copy the folder again")
    return document


# -- labels -----------------------------------------------------------------------------------------------------------


def labels_from_names(
    names: object, num_classes: int, where: str, palette: object = None, reduced: bool = False
) -> LabelSpec:
    """Return the labels that a file's names stand for.

    Names equal to those of a bundled class list bring its palette and the meaning of its masks with them. Names that
    occur twice get a number.

    Args:
        names: a list, a mapping from index to name, or None, for which the classes are numbered.
        num_classes: K of the network.
        where: the file, for messages.
        palette: the file's own colours, or None.
        reduced: masks store 0 for what is ignored, and index + 1 for a class.

    Raises:
        CheckpointError: they are not K names, or cannot be names.
    """
    if isinstance(names, Mapping):
        by_index = {str(key): name for key, name in names.items()}
        listed: Any = [by_index.get(str(k)) for k in range(len(by_index))]
    else:
        listed = [f"class {k}" for k in range(num_classes)] if names is None else names
    if isinstance(listed, str) or not isinstance(listed, Sequence) or len(listed) != num_classes:
        count = len(listed) if isinstance(listed, Sequence) and not isinstance(listed, str) else "no"
        raise CheckpointError(
            f"{where} names {count} classes, and its network tells {num_classes} apart",
            fix="correct the class names to be as many as the classifier has rows",
            code="checkpoint-labels",
        )
    for known in map(LabelSpec.bundled, LISTS):
        if known.num_classes == num_classes and _same_classes(listed, known):
            return known
    id_map = {0: "ignore", 255: "ignore"} | {k + 1: k for k in range(num_classes)} if reduced else None
    try:
        return LabelSpec.from_names(_told_apart(listed), palette, id_map=id_map)  # type: ignore[arg-type]
    except LabelError as error:
        raise CheckpointError(f"{where}: {error.message}", fix=error.fix, code="checkpoint-labels") from error


def labels_from_meta(meta: Mapping[str, Any], num_classes: int, where: str) -> tuple[LabelSpec, str]:
    """Return the labels that mmsegmentation and its descendants note in a checkpoint, and where they come from.

    Raises:
        CheckpointError: as `labels_from_names`.
    """
    noted = meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), Mapping) else meta
    names = noted.get("CLASSES", noted.get("classes"))
    palette = noted.get("PALETTE", noted.get("palette"))
    if names is not None:
        return labels_from_names(names, num_classes, where, palette), "the file's own"
    if num_classes in PAPERS_DATA:
        name = PAPERS_DATA[num_classes]
        return LabelSpec.bundled(name), f"taken to be {name}, for there are {num_classes} and the file names none"
    return labels_from_names(None, num_classes, where), "numbered, for the file names none"


def reduces_labels(labels: LabelSpec) -> bool:
    """Whether masks store 0 for what is ignored, and index + 1 for a class."""
    stored = dict(labels.id_map or ())
    return stored.get(0) == "ignore" and all(stored.get(k + 1) == k for k in range(labels.num_classes))


def _same_classes(names: Sequence[object], known: LabelSpec) -> bool:
    """Whether these are a bundled list's classes.

    Code of 2021 names Pascal Context's classes in another order than its masks and palette count them; the bundled
    list has the right one.
    """
    if not all(isinstance(name, str) for name in names):
        return False
    given, own = ([str(name).strip().casefold() for name in some] for some in (names, known.names))
    return given == own or (known.num_classes == 60 and sorted(given) == sorted(own))


def _told_apart(names: Sequence[object]) -> list[object]:
    seen: dict[object, int] = {}
    apart: list[object] = []
    for name in names:
        stripped = name.strip() if isinstance(name, str) else name
        if isinstance(stripped, str):
            seen[stripped] = seen.get(stripped, 0) + 1
            stripped = stripped if seen[stripped] == 1 else f"{stripped} ({seen[stripped]})"
        apart.append(stripped)
    return apart


# -- preprocessing ----------------------------------------------------------------------------------------------------


def paper_preprocess(architecture: str, labels: LabelSpec) -> Preprocess:
    """Return how the papers' code prepares a photo of a data set for one of their networks.

    SegFormer: ADE20K is brought to a short side of 512 (B5: 640) and both sides rounded up to multiples of 32, all
    else keeps its size. SETR: every data set has a box of its own.
    """
    known = next((name for name in LISTS if LabelSpec.bundled(name) == labels), None)
    if architecture.startswith("segformer"):
        short_side = 640 if architecture == "segformer_b5" else 512
        return Preprocess(short_side, 2048, 32) if known == "ade20k" else Preprocess()
    boxes = {
        "ade20k": (512, 2048),
        "cityscapes": (1025, 2049),
        "pascal_context": (520, 520),
        "pascal_context_59": (520, 520),
    }
    return Preprocess(*boxes[known]) if known in boxes else Preprocess()


def preprocess_from_huggingface(values: Mapping[str, Any], where: str) -> Preprocess:
    """Read a ``preprocessor_config.json``, of any age. Resizing is bilinear here whatever it says.

    Raises:
        CheckpointError: a value is of the wrong kind.
    """
    try:
        factor = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
        mean, std = values.get("image_mean", (0.485, 0.456, 0.406)), values.get("image_std", (0.229, 0.224, 0.225))
        if not values.get("do_normalize", True):
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        scaled = {
            "mean": [round(float(value) / factor, 6) for value in mean],
            "std": [round(float(value) / factor, 6) for value in std],
        }
        return Preprocess.from_dict({**_resize_rule(values), **scaled})
    except (TypeError, ValueError, KeyError, ZeroDivisionError, ConfigError) as error:
        raise CheckpointError(
            f"{where} does not say how photos are prepared: {error}",
            fix="correct its size, image_mean and image_std",
            code="checkpoint-preprocess",
        ) from error


def _resize_rule(values: Mapping[str, Any]) -> dict[str, Any]:
    if not values.get("do_resize", True):
        return {}
    if isinstance(scale := values.get("image_scale"), (list, tuple)) and values.get("keep_ratio"):
        divisor = values.get("size_divisor") or 1
        return {"short_side": min(scale), "long_side": max(scale), "multiple_of": divisor}
    size = values.get("size", 512)
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return {"short_side": size["shortest_edge"], "long_side": size.get("longest_edge")}
        return {"size": (size["height"], size["width"])}
    return {"size": tuple(size) if isinstance(size, (list, tuple)) else (size, size)}


# -- licence ----------------------------------------------------------------------------------------------------------


def licence_in_model_card(folder: Path) -> str | None:
    """Return the licence that the head of a folder's ``README.md`` names, in the manner of the Hugging Face hub."""
    try:
        with open_regular(folder / "README.md") as file:
            lines = file.read(20_000).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    head = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    for line in head:
        key, _, value = line.partition(":")
        if key.strip() in ("license", "license_name") and value.strip():
            return value.strip().strip("'\"")[:100]
    return None
