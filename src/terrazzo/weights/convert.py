"""`convert`: writes a model of any format that `load` reads as a Terrazzo folder or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from terrazzo.arguments import checked
from terrazzo.atomic import clear_stale, refuse_unwritable
from terrazzo.errors import ConfigError, OutputError
from terrazzo.labels.matching import match_classes, reordered, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import note
from terrazzo.text import list_names, show, shown_path
from terrazzo.weights.files import CONFIG_FILE, WEIGHTS_FILE, TrainedModel, save_folder
from terrazzo.weights.huggingface import save_huggingface
from terrazzo.weights.load import load
from terrazzo.weights.metadata import names_are_guessed
from terrazzo.weights.model_card import CARD_FILE
from terrazzo.weights.processor import PROCESSOR_FILE

__all__ = ["FORMATS", "convert", "refuse_taken"]

FILES = {CONFIG_FILE, WEIGHTS_FILE, PROCESSOR_FILE, CARD_FILE}
FORMATS = {"terrazzo": save_folder, "hf": save_huggingface}


@checked
def convert(
    source: str | Path,
    destination: str | Path,
    to: str = "terrazzo",
    *,
    labels: str | None = None,
    overwrite: bool = False,
) -> TrainedModel:
    """Write a model in another format.

    Args:
        source: anything that `terrazzo.load` takes.
        destination: the folder to write; it must not be there yet, or be empty.
        to: ``terrazzo`` for our own folder, ``hf`` for one that Hugging Face transformers loads (SegFormer only).
        labels: a bundled class list or a YAML file, for a source that does not name its classes, or not rightly.
        overwrite: replace a folder that holds a converted model and nothing else.

    Returns:
        The model, as it was written.

    Raises:
        CheckpointError: the source cannot be read.
        ConfigError: there is no such format, the model cannot be written in it, or the class list has another number of
            classes.
        OutputError: the destination is taken or cannot be written.
    """
    folder = Path(destination)
    if to not in FORMATS:
        raise ConfigError(f"there is no format {show(to)}", fix=f"choose {' or '.join(FORMATS)}", code="convert-form")
    refuse_taken(folder, Path(source), overwrite)
    model = load(source)
    if labels is not None:
        spec = LabelSpec.named(labels)
        if spec.num_classes != model.labels.num_classes:
            raise ConfigError(
                f"{labels} has {spec.num_classes} classes, and {source} tells {model.labels.num_classes} apart",
                fix="choose the class list that it was trained on",
                code="convert-labels",
            )
        model = _named(model, spec, labels)
    FORMATS[to](folder, model)
    return model


def refuse_taken(folder: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse to replace anything but an empty folder, or, when asked to, a folder with nothing but a model in it."""
    clear_stale(folder.parent)
    if folder.is_dir() and not folder.is_symlink():
        names = {entry.name for entry in folder.iterdir()}
        if not names:
            folder.rmdir()
            return
        is_source = source is not None and Path(os.path.realpath(source)).is_relative_to(os.path.realpath(folder))
        if overwrite and CONFIG_FILE in names and names <= FILES and not is_source:
            return
        others = sorted(names - FILES)
        why = f" with {list_names(others)}" if others else " with a model in it"
        fix = "choose another destination" if others or is_source else "choose another destination, or add --overwrite"
        raise OutputError(f"{shown_path(folder)} is there already{why}", fix=fix, code="output-taken")
    if os.path.lexists(folder):
        raise OutputError(
            f"{shown_path(folder)} is a {'link' if folder.is_symlink() else 'file'}",
            fix="choose another destination",
            code="output-taken",
        )
    refuse_unwritable(folder.parent)


def _named(model: TrainedModel, spec: LabelSpec, name: str) -> TrainedModel:
    """Give a model the names, colours and mask values of a class list; it keeps its own order where it has names."""
    theirs = model.labels.names
    matching = match_classes(spec.names, theirs, guessed=names_are_guessed(model.record))
    if matching is None:
        told = side_by_side(spec.names, theirs, (name, model.name))
        note(f"{model.name} names its classes otherwise than {name}, whose names take their places {told}")
    elif matching.table is not None:
        note(f"{model.name} has the classes of {name} in another order, and keeps its own")
        spec = reordered(spec, matching)
    record = {key: value for key, value in model.record.items() if key != "labels from"}
    return dataclasses.replace(model, labels=spec, record=record)
