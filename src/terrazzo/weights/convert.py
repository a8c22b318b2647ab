"""`convert`: a model from any form that `load` reads into one of the two that are written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from terrazzo.errors import ConfigError, OutputError
from terrazzo.labels import LabelSpec
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.huggingface import save_huggingface
from terrazzo.weights.load import load

__all__ = ["FORMATS", "convert"]

FORMATS = {"terrazzo": save_folder, "hf": save_huggingface}


def convert(
    source: str | Path, destination: str | Path, to: str = "terrazzo", *, labels: str | None = None
) -> TrainedModel:
    """Write a model in another form.

    Args:
        source: anything that `terrazzo.load` takes.
        destination: the folder to write; it must not be there yet.
        to: ``terrazzo`` for our own folder, ``hf`` for one that Hugging Face transformers loads (SegFormer only).
        labels: a bundled class list, for a source that does not name its classes, or not rightly.

    Returns:
        The model, as it was written.

    Raises:
        CheckpointError: the source cannot be read.
        ConfigError: there is no such form, the model cannot have it, or the class list has another number of classes.
        OutputError: the destination is taken or cannot be written.
    """
    folder = Path(destination)
    if to not in FORMATS:
        raise ConfigError(f"there is no form {to!r}", fix=f"choose {' or '.join(FORMATS)}", code="convert-form")
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder} is there already", fix="choose another destination", code="output-taken")
    model = load(source)
    if labels is not None:
        spec = LabelSpec.bundled(labels)
        if spec.num_classes != model.labels.num_classes:
            raise ConfigError(
                f"{labels} has {spec.num_classes} classes, and {source} tells {model.labels.num_classes} apart",
                fix="choose the class list that it was trained on",
                code="convert-labels",
            )
        model = dataclasses.replace(model, labels=spec)
    FORMATS[to](folder, model)
    return model
