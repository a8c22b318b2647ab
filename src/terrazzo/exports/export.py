"""`export`: a model to a file that other programs run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.torch import TorchEngine
from terrazzo.engines.torch_export import TorchExportEngine
from terrazzo.errors import ConfigError, OutputError
from terrazzo.exports.int8 import MAX_LOSS, agreement, refuse_loss, split_photos, write_int8
from terrazzo.exports.onnx import OPSET, write_onnx
from terrazzo.exports.openvino import write_openvino
from terrazzo.exports.parity import Parity, check_parity
from terrazzo.exports.torch_export import write_torch
from terrazzo.files import replacing_together
from terrazzo.weights.exported import ExportedDescription, Output, Precision
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["FORMATS", "Export", "Format", "export"]

Format = Literal["onnx", "openvino", "torch"]

FORMATS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Formats and the suffix that says so; `predict` goes by it."""

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16"),
    "openvino": ("fp32", "fp16", "int8"),
    "torch": ("fp32",),
}

RUNNERS: dict[Format, Callable[[Path], Any]] = {
    "onnx": OnnxRuntimeEngine,
    "openvino": OpenVINOEngine,
    "torch": TorchExportEngine,
}


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file; an OpenVINO model has its weights in a ``.bin`` beside it.
        format: onnx, openvino or torch.
        description: what the file says about itself.
        parity: how it compares with the model; None for int8.
        agreement: for int8, the share of mask pixels on photos that keep their class.
        size: bytes of all its files.
        opset: of an ONNX file.
    """

    path: Path
    format: Format
    description: ExportedDescription
    parity: Parity | None
    agreement: float | None
    size: int
    opset: int | None


def export(
    model: str | Path | TrainedModel,
    output: str | Path,
    format: Format | None = None,
    *,
    output_kind: Output = "logits",
    precision: Precision = "fp32",
    calibrate: Sequence[str] = (),
    max_loss: float = MAX_LOSS,
) -> Export:
    """Write a model as a file for ONNX Runtime, OpenVINO or torch.export, and see that it computes the same.

    The file takes any batch, height and width (`minimum_side` in its description is the least), and carries class
    names, palette and preprocessing, so that `terrazzo.predict` needs nothing else.

    Args:
        model: a model, or anything that `terrazzo.load` takes.
        output: the file. A file already there is replaced once the new one has passed its comparison.
        format: ``onnx`` (.onnx), ``openvino`` (.xml with .bin) or ``torch`` (.pt2); by default what the suffix says.
        output_kind: ``logits`` at the decoder's own stride, or ``mask``, the class of each pixel at the input's size.
        precision: ``fp32``; ``fp16`` to store the weights in half the space (not for torch); or ``int8`` (logits for
            openvino only), quantised with `calibrate`.
        calibrate: for int8, photos like those the file will see: files, folders and patterns. A few dozen do.
        max_loss: for int8, percent of the mask that may change class on a part of these photos that is held back.

    Raises:
        CheckpointError: the model cannot be read; or the file does not compute what the model does.
        ConfigError: an option is wrong, or the model has an operation that the format cannot express.
        MissingExtraError: a package that the format needs is not installed.
        OutputError: the place cannot be written.
    """
    path = Path(output)
    kind = _format(path, format)
    if output_kind not in get_args(Output):
        raise ConfigError(f"there is no output kind {output_kind!r}", fix="choose logits or mask", code="export-output")
    if precision not in PRECISIONS[kind] or (precision == "int8" and output_kind != "logits"):
        raise ConfigError(
            f"{precision} is no precision that a {kind} file with {output_kind} can be written in here",
            fix=f"choose {' or '.join(PRECISIONS[kind])}; int8 gives logits only",
            code="export-precision",
        )
    if (precision == "int8") != bool(calibrate):
        raise ConfigError(
            "int8 is calibrated with photos, and nothing else is",
            fix="give --precision int8 and --calibrate PHOTOS together",
            code="export-calibrate",
        )
    photos, checked = split_photos(calibrate) if calibrate else ([], [])
    paths = [path.with_suffix(".bin"), path] if kind == "openvino" else [path]
    if kind == "openvino" and paths[0].exists() and not path.exists():
        raise OutputError(
            f"{paths[0]} is there already and belongs to no {path.name}", fix="choose another name", code="output-taken"
        )
    trained = model if isinstance(model, TrainedModel) else load(model)
    parity = agreed = None
    with replacing_together(paths) as partials:
        partial = partials[-1]
        if kind == "onnx":
            description = write_onnx(trained, partial, output_kind, precision)
        elif precision == "int8":
            description = write_int8(trained, partial, photos)
        elif kind == "openvino":
            description = write_openvino(trained, partial, output_kind, precision)
        else:
            description = write_torch(trained, partial, output_kind)
        run = RUNNERS[kind](partial)
        if precision == "int8":
            exact = TorchEngine(trained.network)
            agreed = agreement(exact, run, checked, trained.preprocess, description.minimum_side)
            refuse_loss(agreed, max_loss)
        else:
            parity = check_parity(trained.network, run, description)
    size = sum(p.stat().st_size for p in paths)
    return Export(path, kind, description, parity, agreed, size, OPSET if kind == "onnx" else None)


def _format(path: Path, format: str | None) -> Format:
    if format is not None and format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}", fix=f"choose {', '.join(FORMATS)}", code="export-format")
    for kind, suffix in FORMATS.items():
        if path.suffix == suffix and format in (None, kind):
            return kind
    wanted = FORMATS[format] if format in FORMATS else ", ".join(FORMATS.values())
    raise ConfigError(
        f"{path.name} does not end in {wanted}, by which an exported file is known",
        fix="name the file accordingly",
        code="export-suffix",
    )
