"""`open_dataset`: one split of a data set on disk, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from terrazzo.arguments import checked
from terrazzo.data.classes import infer_labels, known_labels
from terrazzo.data.dataset import Dataset
from terrazzo.data.detect import find_layout
from terrazzo.data.layout import Layout
from terrazzo.data.problems import Problem
from terrazzo.data.rules import DataRules, with_rules
from terrazzo.errors import DatasetError
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.text import first_few, shown_path

__all__ = ["open_dataset"]

TOLD = frozenset({"mask-names", "split-made"})  # how a data set was read that leaves it open
TOLD_AS_WARNINGS = frozenset({"crowds", "photo-missing"})  # which change what masks say
PAIR_CODES = frozenset({"mask-missing", "mask-several", "photo-missing", "name-shared", "not-a-file", "list-entry"})


@checked
def open_dataset(
    root: str | Path,
    split: str,
    labels: LabelSpec | None = None,
    *,
    fallback: LabelSpec | None = None,
    rules: DataRules | None = None,
) -> Dataset:
    """Open one split of a data set on disk, whatever its layout.

    Args:
        root: the data set's folder; see `find_layout`.
        split: such as ``train`` or ``val``.
        labels: overrides what the folder says about its classes.
        fallback: the classes where the folder says nothing; by default as many as the masks show.
        rules: how to read what the folder leaves open.

    Raises:
        DatasetError: the folder, the split or a pair is missing, or the layout or the classes cannot be told.
        LabelError: ``labels.yaml`` is not usable.
        ConfigError: there is nothing to which a rule applies.
        MissingExtraError: reading it needs an optional package.
    """
    layout = with_rules(find_layout(root), rules or DataRules())
    samples, problems = layout.pairs(split)
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise _refused(layout, split, errors)
    for problem in problems:
        if problem.code in TOLD or (problem.code in TOLD_AS_WARNINGS and problem.severity == "warning"):
            note(str(problem))
    spec, _ = known_labels(layout, labels)
    return Dataset(layout.root, split, spec or fallback or infer_labels(layout), tuple(samples), layout.name)


def _refused(layout: Layout, split: str, errors: list[Problem]) -> DatasetError:
    shown = first_few(errors, 5, "; ")
    if len(errors) == 1 and errors[0].code not in PAIR_CODES:
        return DatasetError(shown, fix=errors[0].fix, code=errors[0].code)
    listed = f"`terrazzo check-data {shown_path(layout.root)}` lists them all"
    if all(error.code in PAIR_CODES for error in errors):
        return DatasetError(
            f"{len(errors)} files of {split} are not pairs of photo and mask: {shown}",
            fix=f"give every photo one mask of the same name; {listed}",
            code="dataset-pairs",
        )
    return DatasetError(
        f"{len(errors)} things are wrong with {split}: {shown}", fix=f"{errors[0].fix}; {listed}", code=errors[0].code
    )
