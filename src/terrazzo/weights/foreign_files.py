"""Recognises files and folders of other frameworks by their names, so that the refusal says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from terrazzo.errors import CheckpointError
from terrazzo.text import list_names, shown_path

__all__ = ["nothing_in", "refuse_foreign_file"]

GIVE_PYTORCH = "give the PyTorch or safetensors file of the same model"
FOREIGN = (
    (r"\.msgpack|\.orbax", "weights of Flax (JAX)", GIVE_PYTORCH),
    (
        r"\.h5|\.keras|\.pb|\.tflite|\.ckpt\.index|\.ckpt\.data-\d+-of-\d+|saved_model",
        "a model of TensorFlow or Keras",
        GIVE_PYTORCH,
    ),
    (r"\.pdparams|\.pdmodel|\.pdopt|\.pdiparams", "a model of PaddlePaddle", GIVE_PYTORCH),
    (r"\.gguf|\.ggml", "a model of llama.cpp", GIVE_PYTORCH),
    (r"\.mlmodel|\.mlpackage", "a model of Core ML", GIVE_PYTORCH),
    (r"\.engine|\.plan|\.trt", "an engine of TensorRT", "give the model that it was made from"),
    (r"\.caffemodel|\.prototxt", "a model of Caffe", GIVE_PYTORCH),
    (r"\.ot", "weights of tch (Rust)", GIVE_PYTORCH),
    (
        r"zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states\.pt",
        "a part of a DeepSpeed checkpoint (ZeRO)",
        "put the parts together: python zero_to_fp32.py . model.pth, in the folder of the checkpoint",
    ),
    (
        r"optimizer\.(bin|pt)|scheduler\.(bin|pt)|scaler\.pt|random_states_\d+\.pkl|rng_state(_\d+)?\.pth|training_args\.bin",
        "what a training program keeps beside the weights",
        "give the file of the weights, such as model.safetensors",
    ),
)
"""Endings or whole names, what such a file is, and the way out."""

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def refuse_foreign_file(path: Path) -> None:
    """Raise CheckpointError "checkpoint-not-weights" for a file whose name says that another program reads it."""
    for pattern, what, fix in FOREIGN:
        if _is_named(path.name, pattern):
            raise CheckpointError(f"{path} is {what}, not a checkpoint", fix=fix, code="checkpoint-not-weights")


def nothing_in(folder: Path, message: str) -> CheckpointError:
    """Return CheckpointError "checkpoint-missing", which says what else a folder without a model holds.

    Args:
        folder: the folder.
        message: what is missing.
    """
    there = sorted(entry.name for entry in folder.iterdir())
    fix = "give a folder written by `terrazzo train`, or the checkpoint file itself"
    if step := _latest(name for name in there if re.fullmatch(r"global_step\d+", name)):
        there = sorted(entry.name for entry in (folder / step).iterdir())
    if any(_is_named(name, r"(zero_pp_rank_\d+_)?mp_rank_\d+_(model|optim)_states\.pt") for name in there):
        message, fix = f"{folder} is a checkpoint of DeepSpeed, in parts", FOREIGN[-2][2]
    elif run := _latest(name for name in there if re.fullmatch(r"checkpoint-\d+", name)):
        fix = f"it is the output of a training program; did you mean {shown_path(folder / run)}?"
    elif files := [name for name in there if name.endswith(WEIGHTS) and not _is_named(name, FOREIGN[-1][0])]:
        fix = f"give a file in it: {list_names(files)}"
    elif found := next(((n, what, way) for n in there for p, what, way in FOREIGN if _is_named(n, p)), None):
        name, what, fix = found
        message = f"{message}; {shown_path(name)} is {what}"
    return CheckpointError(message, fix=fix, code="checkpoint-missing")


def _is_named(name: str, pattern: str) -> bool:
    return re.fullmatch(f"(.*(?=\\.))?({pattern})", name, re.IGNORECASE | re.DOTALL) is not None


def _latest(names: Iterable[str]) -> str | None:
    return max(names, key=lambda name: int(re.sub(r"\D", "", name)), default=None)
