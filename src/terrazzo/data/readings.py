"""Choice of how to read the masks of a folder without ``labels.yaml`` for a model with a map of stored values
(`LabelSpec.id_map`).

The masks that it learnt from held values of their own, such as 0 for "ignore" and index + 1 for a class. The masks of
the folder may hold these, or class indices. Where the values that occur can mean either, the program stops: a mask
that is read one class off gives numbers that look right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, get_args

from terrazzo.data.dataset import Dataset, Sample
from terrazzo.data.masks import Stored, class_of_stored, count_stored
from terrazzo.errors import ConfigError, DatasetError, LabelError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.text import first_few, printable, show, shown_path

__all__ = ["MaskValues", "as_indices", "read_by", "refuse_mask_values"]

MaskValues = Literal["stored", "indices"]
"""How masks are to be read: by the model's map of stored values, or as class indices."""

WRITE_MAP = "write labels.yaml with `names:` and `map:` into the folder"
SHOWN = 6  # classes of one reading shown in one message
THREADS = 4


def as_indices(labels: LabelSpec) -> LabelSpec:
    """Return labels for masks that store class indices, or colours of the palette."""
    return replace(labels, id_map=None, colors=None)


def read_by(dataset: Dataset, labels: LabelSpec, chosen: str | None = None, *, fix: str | None = None) -> LabelSpec:
    """Choose how the masks of a folder that says nothing about them are read.

    Args:
        dataset: the folder's split.
        labels: the model's.
        chosen: ``stored`` for the model's map, ``indices`` for class indices; None to see which of them is possible.
        fix: how a user can say which is meant.

    Returns:
        The model's labels with the map that holds for these masks.

    Raises:
        ConfigError: `chosen` is neither of the two.
        DatasetError: both readings are possible and differ, or neither is.
    """
    plain = as_indices(labels)
    refuse_mask_values(chosen)
    if chosen is not None:
        return labels if chosen == "stored" else plain
    if plain == labels:
        return labels
    stored = dict(labels.stored_values)
    if labels.colors is None and all(stored.get(k) == k for k in range(labels.num_classes)):
        stored.setdefault(labels.ignore_index, "ignore")  # the map only adds to class indices: nothing to choose
        return replace(labels, id_map=tuple(stored.items()))
    counts = _count(dataset)
    by_map, by_index = _meaning(counts, labels), _meaning(counts, plain)
    if by_map == by_index and by_map is not None:
        return labels
    where = f"{shown_path(dataset.root)} / {dataset.split}"
    if by_map is not None and by_index is not None:
        raise DatasetError(
            f"{where} does not say what its masks store, and both readings are possible: by the model's map of stored "
            f"values {_histogram(counts, by_map, labels)}; as class indices {_histogram(counts, by_index, labels)}",
            fix=fix or f"{WRITE_MAP}, or choose with --mask-values stored or indices",
            code="dataset-mask-values",
        )
    if by_map is None and by_index is None:
        values = first_few((value for value, _ in counts.most_common()), SHOWN)
        raise DatasetError(
            f"{where}: the masks hold {values}; not all are class indices, and not all are "
            "values that the model's masks stored",
            fix=WRITE_MAP,
            code="dataset-mask-values",
        )
    if by_map is not None:
        note(f"{where}: masks are read by the model's map of stored values: as class indices they cannot be read")
        return labels
    note(f"{where}: masks are read as class indices: they do not store the values that the model's masks stored")
    return plain


def refuse_mask_values(chosen: str | None) -> None:
    """Raise ConfigError where a choice is none of `MaskValues`."""
    if chosen is not None and chosen not in get_args(MaskValues):
        raise ConfigError(
            f"mask values {show(chosen)} is not a way to read masks", fix="choose stored or indices", code="mask-values"
        )


def _count(dataset: Dataset) -> Counter[Stored]:
    def count(sample: Sample) -> dict[Stored, int]:
        return count_stored(sample.mask.read().values)

    counts: Counter[Stored] = Counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(count, dataset.samples):
            counts.update(found)
    return counts


def _meaning(counts: Mapping[Stored, int], labels: LabelSpec) -> dict[Stored, int] | None:
    """Return the class index of each value; None where the labels do not explain them all."""
    try:
        meaning = class_of_stored(counts, labels)
    except LabelError:  # a colour that two classes share
        return None
    known = {value: index for value, index in meaning.items() if index is not None}
    return known if len(known) == len(meaning) else None


def _histogram(counts: Mapping[Stored, int], meaning: Mapping[Stored, int], labels: LabelSpec) -> str:
    pixels: Counter[str] = Counter()
    for value, count in counts.items():
        index = meaning[value]
        pixels["ignored" if index == labels.ignore_index else labels.names[index]] += count
    total = max(pixels.total(), 1)
    rows = (f"{printable(name)} {100 * count / total:.1f}%" for name, count in pixels.most_common())
    return first_few(rows, SHOWN)
