"""`load`: a model by name or path."""

from __future__ import annotations

from pathlib import Path

from terrazzo.errors import CheckpointError
from terrazzo.weights.catalog import bundled_folder, bundled_names
from terrazzo.weights.files import CONFIG_FILE, TrainedModel, load_folder

__all__ = ["load"]


def load(model: str | Path) -> TrainedModel:
    """Load a model with its labels and preprocessing.

    Args:
        model: a shipped model's name such as ``segformer_b0.camvid``, a model folder, or the output folder of a
            training run (its best model is taken).

    Raises:
        CheckpointError: there is no such model, or its files are damaged or do not fit.
    """
    folder = bundled_folder(str(model)) or Path(model)
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_FILE).is_file():
            return load_folder(candidate, str(model))
    if folder.is_dir():
        raise CheckpointError(
            f"{folder} holds no model: there is neither config.json nor model/config.json",
            fix="give a folder written by `terrazzo train`",
            code="checkpoint-missing",
        )
    what = "is not a model folder" if folder.exists() else "is neither a shipped model nor a path that exists"
    raise CheckpointError(
        f"{str(model)!r} {what}",
        fix=f"shipped models: {', '.join(bundled_names()) or 'none'}; or give a folder written by `terrazzo train`",
        code="checkpoint-missing",
    )
