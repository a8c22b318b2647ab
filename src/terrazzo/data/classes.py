"""Which classes a data set has: said by the caller, by ``labels.yaml``, by its layout, or guessed from its masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from terrazzo.data.layout import Layout
from terrazzo.data.masks import MaskSource, Stored, count_stored
from terrazzo.data.outlines import IGNORED
from terrazzo.errors import DatasetError, LabelError
from terrazzo.label_checks import list_counts
from terrazzo.label_matching import match_classes, reordered, side_by_side
from terrazzo.labels import LabelSpec
from terrazzo.notes import note
from terrazzo.text import shown_path

__all__ = ["LABELS_FILE", "guess_labels", "infer_labels", "known_labels", "undecoded_colors"]

LABELS_FILE = "labels.yaml"
MOST_GUESSED_CLASSES = 255


def known_labels(layout: Layout, given: LabelSpec | None = None) -> tuple[LabelSpec | None, str]:
    """Return the classes as far as they are known without reading a mask, and who says so.

    `given` comes first, then ``labels.yaml`` in the data set's folder, then what the layout is known to have. Where
    `given` has the names that the folder itself has and leaves open what the masks store, the folder fills that in:
    ``cityscapes`` is then read from labelIds as well as from labelTrainIds. Where it has them in another order, the
    masks are read as the folder says, into the order of `given`. Other names in `given` override the folder's.

    Raises:
        DatasetError: the data set's own list of classes is not usable.
        LabelError: ``labels.yaml`` is not usable.
    """
    document = layout.root / LABELS_FILE
    own, who = None, "guessed"
    if document.exists():
        own, who = _of_painted(LabelSpec.from_yaml(document), layout), LABELS_FILE
    elif layout.labels is not None:
        own, who = layout.labels(), "layout"
    return (own, who) if given is None else (_given(given, own, who), "given")


def _of_painted(named: LabelSpec, layout: Layout) -> LabelSpec:
    """Bring ``labels.yaml`` together with the classes of a layout whose masks are painted here, in its own order.

    Raises:
        LabelError: it names other classes, and does not say what the painted values mean.
    """
    try:
        painted = None if layout.labels is None else layout.labels()
    except DatasetError:  # which labels.yaml may be there to mend
        painted = None
    if painted is None or painted.id_map is None or (IGNORED, "ignore") not in painted.id_map:
        return named
    if named.id_map is not None:
        is_said = any(value == IGNORED for value, _ in named.id_map)
        return named if is_said else replace(named, id_map=(*named.id_map, (IGNORED, "ignore")))
    matching = match_classes(painted.names, named.names)
    if matching is None:
        where = shown_path(layout.root / LABELS_FILE)
        listed = side_by_side(painted.names, named.names, (layout.name, LABELS_FILE))
        raise LabelError(
            f"{where}: it names other classes than the data set: {listed}",
            fix="use the data set's names, in any order, or say which is which in `map:`, as in {0: 0, 1: 2, 2: 1}",
            code="labels-names",
        )
    if matching.table is None:
        return replace(named, id_map=painted.id_map)
    note(f"{LABELS_FILE} has the classes of the data set in another order: they are matched by name")
    return replace(reordered(painted, matching), names=named.names, palette=named.palette)


def _given(given: LabelSpec, own: LabelSpec | None, who: str) -> LabelSpec:
    """Return the classes that a caller has given for a folder that may name its own."""
    matching = None if own is None else match_classes(own.names, given.names)
    if own is None or matching is None:
        return given
    if matching.table is None:
        return replace(given, id_map=given.id_map or own.id_map, colors=given.colors or own.colors)
    note(f"the {who} counts the given classes in another order: masks are read as it says, and then put into theirs")
    return replace(reordered(own, matching), names=given.names)


def infer_labels(layout: Layout) -> LabelSpec:
    """Guess the classes from the masks of all splits, as `guess_labels`.

    Raises:
        DatasetError: as `guess_labels`, or a mask is in colour or cannot be read.
    """
    masks = [sample.mask for split in layout.splits for sample in layout.pairs(split)[0]]
    counts: Counter[Stored] = Counter()
    with ThreadPoolExecutor(4) as pool:
        for mask, found in zip(masks, pool.map(_count_mask, masks), strict=True):
            if any(isinstance(key, tuple) for key in found):
                raise undecoded_colors(mask, found)
            counts.update(found)
    return guess_labels(layout.root, counts)


def guess_labels(root: Path, stored: Collection[Stored]) -> LabelSpec:
    """Return numbered classes, 0 up to the largest value other than 255.

    Raises:
        DatasetError: fewer than two classes, or numbers that are rather grey levels or object numbers than classes.
    """
    values = sorted({value for value in stored if isinstance(value, int)} - {255})
    fix, shown = f"write the classes, and what each stored value means, into {LABELS_FILE}", _shown(values)
    if len(values) == 1 and 255 in stored:
        message = (
            f"the masks hold only {values[0]} and 255, and 255 means unlabelled unless {LABELS_FILE} says otherwise"
        )
        fix = (
            f"if 255 is the object, write {LABELS_FILE} with `names: [background, object]` and "
            f"`map: {{{values[0]}: 0, 255: 1}}`"
        )
    elif len(values) < 2:
        message = f"the masks show fewer than two classes: {shown or 'no labelled pixel'}"
        fix = "label the background as a class of its own, or check that these are the right files"
    elif values[0] < 0:
        message = f"the masks hold negative values: {shown}"
    elif values[-1] >= MOST_GUESSED_CLASSES:
        message = f"the masks hold values up to {values[-1]}, too many to be guessed at as classes"
    elif 2 * len(values) <= values[-1]:
        message = f"the masks hold the values {shown}, with too many gaps to be guessed at as class numbers"
    else:
        count = values[-1] + 1
        return LabelSpec.from_names(
            ["background", "foreground"] if count == 2 else [f"class_{i}" for i in range(count)]
        )
    raise DatasetError(f"{shown_path(root)}: {message}", fix=fix, code="dataset-classes")


def undecoded_colors(mask: MaskSource, counts: dict[Stored, int]) -> DatasetError:
    """Say that a mask is in colour and nothing tells which class a colour is."""
    is_gray = all(isinstance(key, tuple) and len(set(key)) == 1 for key in counts)
    return DatasetError(
        f"{shown_path(mask.file)}: {mask.part}it is in colour, and no class is known for {list_counts(counts)}",
        fix="red, green and blue are equal everywhere: export it as a single-channel PNG"
        if is_gray
        else f'add {LABELS_FILE} with `names:`, and with `colors:` such as {{"255,0,0": 0, "0,0,0": ignore}}',
        code="mask-colors",
    )


def _count_mask(mask: MaskSource) -> dict[Stored, int]:
    return count_stored(mask.read().values)


def _shown(values: list[int]) -> str:
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
