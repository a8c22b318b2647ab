"""Which classes a data set has: said by the caller, by ``labels.yaml``, by its layout, or guessed from its masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from terrazzo.data.folders import files_of
from terrazzo.data.layout import Layout
from terrazzo.data.mask_evidence import NEAREST_FIX, Look, MaskEvidence, look_at
from terrazzo.data.masks import MaskSource, Stored, count_stored
from terrazzo.data.outlines import IGNORED
from terrazzo.data.problems import Problem
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.matching import match_classes, reordered, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.labels.validation import list_counts
from terrazzo.notes import note
from terrazzo.text import first_few, show, shown_path

__all__ = [
    "LABELS_FILE",
    "doubts",
    "guess_labels",
    "infer_labels",
    "known_labels",
    "undecoded_colors",
    "void_may_be_object",
]

LABELS_FILE = "labels.yaml"
NEARLY = {"labels.yaml", "labels.yml", "label.yaml", "label.yml", "labels.yaml.txt"}
MOST_GUESSED_CLASSES = 255
MOST_IN_ONE_MASK = 100  # values, beyond which they are grey levels
MOST_MAPPED = 16  # values in a map that is offered


def known_labels(layout: Layout, given: LabelSpec | None = None) -> tuple[LabelSpec | None, str]:
    """Return the classes as far as they are known without reading a mask, and who says so.

    `given` comes first, then ``labels.yaml`` in the data set's folder, then what the layout is known to have. Where
    `given` has the names that the folder itself has and leaves open what the masks store, the folder fills that in:
    ``cityscapes`` is then read from labelIds as well as from labelTrainIds. Where ``labels.yaml`` has these names, or
    the folder has them in another order, masks are read as the folder says, into the order of `given`. Other names in
    `given` override the folder's.

    Raises:
        DatasetError: the data set's own list of classes is not usable.
        LabelError: ``labels.yaml`` is not usable.
    """
    document = layout.root / LABELS_FILE
    own, who = None, "guessed"
    if document.exists():
        own, who = _of_painted(LabelSpec.from_yaml(document), layout), LABELS_FILE
    elif astray := _astray(layout.root):
        raise LabelError(
            f"{shown_path(layout.root / astray)} is not read: the file that names the classes is called {LABELS_FILE}",
            fix=f"rename it to {LABELS_FILE}",
            code="labels-file",
        )
    elif layout.labels is not None:
        own, who = layout.labels(), "layout"
    return (own, who) if given is None else (_given(given, own, who), "given")


def _astray(root: Path) -> str | None:
    """Find a file that somebody meant for ``labels.yaml`` and called nearly so."""
    return next((file.name for file in files_of(root, "") if file.name.casefold() in NEARLY), None)


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
    if own is None:
        return given
    if matching is None:
        if own.num_classes == given.num_classes:
            told = side_by_side(own.names, given.names, (who, "given"))
            note(f"the {who} names other classes than those given, which take their places {told}")
        return given
    if matching.table is None and who != LABELS_FILE:
        return replace(given, id_map=given.id_map or own.id_map, colors=given.colors or own.colors)
    if matching.table is not None:
        note(f"the {who} counts the given classes in another order: masks are read as it says, then put into theirs")
    return replace(reordered(own, matching), names=given.names)


def infer_labels(layout: Layout) -> LabelSpec:
    """Guess the classes from the masks of all splits, as `guess_labels`.

    Raises:
        DatasetError: as `guess_labels`, or a mask is in colour or cannot be read.
    """
    masks = [sample.mask for split in layout.splits for sample in layout.pairs(split)[0]]
    counts: Counter[Stored] = Counter()
    evidence = MaskEvidence()
    with ThreadPoolExecutor(4) as pool:
        for mask, (found, look) in zip(masks, pool.map(_count_mask, masks), strict=True):
            if any(isinstance(key, tuple) for key in found):
                raise undecoded_colors(mask, found)
            counts.update(found)
            evidence.add(mask, look)
    return guess_labels(layout.root, counts, evidence)


def guess_labels(root: Path, stored: Mapping[Stored, int], evidence: MaskEvidence | None = None) -> LabelSpec:
    """Return numbered classes, 0 up to the largest value other than 255.

    Args:
        root: the data set's folder, for messages.
        stored: pixels by value.
        evidence: what was seen in the masks.

    Raises:
        DatasetError: fewer than two classes, or numbers that are rather grey levels or object numbers than classes.
    """
    values = sorted({value for value in stored if isinstance(value, int)} - {255})
    fix, shown = f"write the classes, and what each stored value means, into {LABELS_FILE}", first_few(values)
    evidence = evidence or MaskEvidence()
    if (soft := evidence.soft_masks()) is not None:
        message, fix = soft, NEAREST_FIX + _threshold(stored)
    elif (objects := evidence.object_numbers()) is not None:
        message = objects
        fix = f"write class numbers into the masks, or a `map:` into {LABELS_FILE} that makes one class of all objects"
    elif evidence.most_values > MOST_IN_ONE_MASK:
        message = f"a single mask holds {evidence.most_values} values: these are grey levels or object numbers"
        fix = "check that these files are the masks, and export them as single-channel PNG with a number for each class"
    elif len(values) == 1 and 255 in stored:
        message = (
            f"the masks hold only {values[0]} and 255, and 255 means unlabelled unless {LABELS_FILE} says otherwise"
        )
        fix = _object_fix(values[0])
    elif len(values) < 2:
        message = f"the masks show fewer than two classes: {shown or 'no labelled pixel'}"
        fix = "label the background as a class of its own, or check that these are the right files"
    elif values[0] < 0:
        message = f"the masks hold negative values: {shown}"
        fix = (
            "save masks as 8-bit or 16-bit PNG, with 255 where nothing is labelled: `map:` cannot have negative values"
        )
    elif values[-1] >= MOST_GUESSED_CLASSES:
        message = f"the masks hold values up to {values[-1]}, too many to be guessed at as classes"
        fix = _mapping_fix(stored) or fix
    elif 2 * len(values) <= values[-1]:
        message = f"the masks hold the values {shown}, with too many gaps to be guessed at as class numbers"
        fix = _mapping_fix(stored) or fix
    else:
        count = values[-1] + 1
        return LabelSpec.from_names(
            ["background", "foreground"] if count == 2 else [f"class_{i}" for i in range(count)]
        )
    raise DatasetError(f"{shown_path(root)}: {message}", fix=fix, code="dataset-classes")


def doubts(labels: LabelSpec, pixels: Mapping[Stored, int], values: Collection[Stored]) -> Iterator[Problem]:
    """Say where the numbers in masks are rather something else than the names say.

    Args:
        labels: the classes.
        pixels: counted by class and ignore index.
        values: what the masks store.
    """
    if (doubt := void_may_be_object(labels, pixels)) is not None:
        yield Problem("error", "dataset-classes", None, *doubt)
    elif (doubt := _counted_from_1(labels, values)) is not None:
        yield Problem("error", "mask-values", None, *doubt)
    elif (doubt := _nothing_is_0(labels, values)) is not None:
        yield Problem("warning", "mask-values", None, *doubt)


def void_may_be_object(labels: LabelSpec, pixels: Mapping[Stored, int]) -> tuple[str, str] | None:
    """Say so, with a fix, where masks hold one class and 255, which then is rather the object than unlabelled.

    `pixels` are counted by class and ignore index.
    """
    there = [k for k in range(labels.num_classes) if pixels.get(k)]
    if labels.id_map is not None or labels.colors is not None or len(there) != 1 or not pixels.get(labels.ignore_index):
        return None
    void = labels.ignore_index
    message = (
        f"there are {labels.num_classes} classes and the masks hold only {there[0]} and {void}, and {void} means "
        f"unlabelled unless {LABELS_FILE} says otherwise"
    )
    return message, _object_fix(there[0], labels.names)


def _counted_from_1(labels: LabelSpec, values: Collection[Stored]) -> tuple[str, str] | None:
    """Say so, with a fix, where masks hold one value more than there are names: 1 to K for K names, or 0 to K."""
    K = labels.num_classes
    numbers = {value for value in values if isinstance(value, int)} - {labels.ignore_index}
    if labels.id_map is not None or K not in numbers or max(numbers, default=0) != K or min(numbers, default=0) < 0:
        return None
    one_up = ", ".join(f"{k + 1}: {k}" for k in range(min(K, MOST_MAPPED))) + (", ..." if K > MOST_MAPPED else "")
    if 0 not in numbers:
        message = f"the masks count classes from 1: they hold {min(numbers)} to {K} and no 0, and there are {K} names"
        return message, f"write `map: {{{one_up}}}` into {LABELS_FILE}"
    message = f"the masks hold the values 0 to {K}, one more than the {K} names"
    fix = (
        f"name what 0 stands for as the first of `names:`, or, where it is unlabelled, "
        f"write `map: {{0: ignore, {one_up}}}` into {LABELS_FILE}"
    )
    return message, fix


def undecoded_colors(mask: MaskSource, counts: dict[Stored, int]) -> DatasetError:
    """Say that a mask is in colour and nothing tells which class a colour is."""
    return DatasetError(
        f"{shown_path(mask.file)}: {mask.part}it is in colour, and no class is known for {list_counts(counts)}",
        fix=f'add {LABELS_FILE} with `names:`, and with `colors:` such as {{"255,0,0": 0, "0,0,0": ignore}}',
        code="mask-colors",
    )


def _nothing_is_0(labels: LabelSpec, values: Collection[Stored]) -> tuple[str, str] | None:
    """Say so, with a fix, where no mask holds 0, as masks do that count classes from 1."""
    numbers = sorted(value for value in values if isinstance(value, int) and value != labels.ignore_index)
    if labels.id_map is not None or not numbers or numbers[0] < 1:
        return None
    one_up = ", ".join(f"{value}: {value - 1}" for value in numbers[:MOST_MAPPED])
    one_up += ", ..." if len(numbers) > MOST_MAPPED else ""
    message = f"no mask holds 0, which is {show(labels.names[0])}"
    return message, f"where the masks count classes from 1, write `map: {{{one_up}}}` into {LABELS_FILE}"


def _count_mask(mask: MaskSource) -> tuple[dict[Stored, int], Look]:
    stored = mask.read()
    counts = count_stored(stored.values)
    return counts, look_at(stored, counts)


def _object_fix(background: int, names: tuple[str, ...] = ()) -> str:
    shown = ", ".join(names) if len(names) == 2 else "background, object"
    return f"if 255 is the object, write {LABELS_FILE} with `names: [{shown}]` and `map: {{{background}: 0, 255: 1}}`"


def _threshold(stored: Mapping[Stored, int]) -> str:
    """Offer to cut masks of two levels in the middle."""
    frequent = sorted(((n, value) for value, n in stored.items() if isinstance(value, int)), reverse=True)[:2]
    low, high = sorted(value for _, value in frequent)
    if sum(n for n, _ in frequent) < 0.8 * sum(stored.values()) or high - low < MOST_GUESSED_CLASSES // 2:
        return ""
    middle, top = (low + high) // 2, max(value for value in stored if isinstance(value, int))
    return (
        f"; or, for one object on a background, write {LABELS_FILE} with `names: [background, object]` and "
        f"`map: {{0-{middle}: 0, {middle + 1}-{top}: 1}}`"
    )


def _mapping_fix(stored: Mapping[Stored, int]) -> str | None:
    values = sorted(value for value in stored if isinstance(value, int))
    if len(values) > MOST_MAPPED:
        return None
    pairs = ", ".join(f"{value}: {k}" for k, value in enumerate(values))
    return f"if each value is a class, write {LABELS_FILE} with {len(values)} `names:` and `map: {{{pairs}}}`"
