"""The labelled photos of a data set that a model is judged on, in the model's own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from terrazzo.data import DataRules, Dataset, open_dataset
from terrazzo.data.readings import as_indices, read_by
from terrazzo.evaluation.evaluator import in_order_of
from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec

__all__ = ["labelled_split"]


def labelled_split(predictor: Predictor, data: str | Path, split: str, labels: str | None = None) -> Dataset:
    """Open a split of a data set as a model's training read it; ``val`` is what the run was validated on.

    Args:
        predictor: the model.
        data: the data set's folder.
        split: which split of it.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.

    Raises:
        DatasetError: the data set cannot be read, or its classes are not the model's.
    """
    fallback = as_indices(predictor.labels)
    rules = DataRules.of_model(predictor.record, Path(data), split)
    dataset = open_dataset(data, split, LabelSpec.named(labels) if labels else None, fallback=fallback, rules=rules)
    if dataset.labels is fallback:
        dataset = replace(dataset, labels=read_by(dataset, predictor.labels, None))
    return in_order_of(predictor, replace(dataset, reading=predictor.reading(dataset.reading)))
