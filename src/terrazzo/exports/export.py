"""`export`, the public function: a model to a file for other programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from terrazzo.arguments import checked
from terrazzo.atomic import replacing_together
from terrazzo.data.readings import MaskValues
from terrazzo.engines.auto import engine_for_file
from terrazzo.engines.engine import ENGINES, Engine, EngineOptions
from terrazzo.engines.modes import keeps_mode
from terrazzo.engines.parity import FEW_INPUTS, Parity, check_parity
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.exports.accuracy_gate import MAX_MIOU_LOSS, RECORD_KEY, Accuracy, LabelledData, refuse_miou_loss
from terrazzo.exports.int8 import (
    MAX_LOSS,
    Quantised,
    Quantiser,
    agreement,
    quantise,
    read_input,
    refuse_loss,
    split_images,
)
from terrazzo.exports.int8_onnx import OnnxQuantiser
from terrazzo.exports.int8_openvino import OpenVINOQuantiser
from terrazzo.exports.openvino import openvino_model, save_openvino
from terrazzo.exports.torch_export import write_torch
from terrazzo.graphs import OPSET
from terrazzo.graphs.onnx import describe, on_cpu, onnx_model, save_onnx
from terrazzo.marks import mark_files
from terrazzo.models.segmenter import Segmenter
from terrazzo.notes import note
from terrazzo.ownership import check_outputs
from terrazzo.text import shown_path
from terrazzo.weights.exported import FORMATS, ExportedDescription, Format, Output, Precision
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load

__all__ = ["Export", "export"]

PRECISIONS: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
    "torch": ("fp32",),
}


@dataclass(frozen=True)
class Graphs:
    """How a format's graphs are built, written and quantised.

    Attributes:
        build: makes the graph of a network, in its description's precision; for int8, in float32.
        save: writes a graph with its description.
        quantiser: makes an int8 graph from one and images to calibrate with.
    """

    build: Callable[[Segmenter, ExportedDescription], Any]
    save: Callable[[Any, Path, ExportedDescription], None]
    quantiser: Callable[[Any, Sequence[NDArray[np.float32]]], Quantiser]


GRAPHS: dict[Format, Graphs] = {
    "onnx": Graphs(onnx_model, save_onnx, OnnxQuantiser),
    "openvino": Graphs(openvino_model, save_openvino, OpenVINOQuantiser),
}


@dataclass(frozen=True)
class Export:
    """An exported file and its checks.

    Attributes:
        path: the file; an OpenVINO model has its weights in a ``.bin`` beside it.
        format: onnx, openvino or torch.
        description: what the file says about itself.
        parity: how it compares with the model; None for int8.
        agreement: for int8 without labelled data, the share of mask pixels on photos that keep their class.
        accuracy: mIoU before and after, where there was labelled data.
        int8: the layers of an int8 file.
        size: bytes of all its files.
        opset: of an ONNX file.
    """

    path: Path
    format: Format
    description: ExportedDescription
    parity: Parity | None
    agreement: float | None
    accuracy: Accuracy | None
    int8: Quantised | None
    size: int
    opset: int | None


@keeps_mode
@checked
def export(
    model: str | Path | TrainedModel,
    output: str | Path,
    format: Format | None = None,
    *,
    output_kind: Output = "logits",
    precision: Precision = "fp32",
    calibrate: Sequence[str] = (),
    data: str | Path | None = None,
    split: str = "val",
    labels: str | None = None,
    mask_values: MaskValues | None = None,
    max_loss: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Write a model as a file for ONNX Runtime, OpenVINO or torch.export, and check that its outputs are the same.

    The file takes any batch, height and width (`minimum_side` in its description is the least), and carries class
    names, palette and preprocessing, so that `terrazzo.predict` needs nothing else.

    Args:
        model: a model, or anything that `terrazzo.load` takes.
        output: the file. An earlier export that is there is replaced once the new one has passed its comparison.
        format: ``onnx`` (.onnx), ``openvino`` (.xml with .bin) or ``torch`` (.pt2); by default what the suffix says.
        output_kind: ``logits`` at the decoder's own stride, or ``mask``, the class of each pixel at the input's size.
        precision: ``fp32``; ``fp16`` to store the weights in half the space; or ``int8`` (logits only), quantised with
            `calibrate`. torch has fp32 only.
        calibrate: for int8, photos like those the file will see: files, folders and patterns. A few dozen do.
        data: for fp16 and int8, the folder of a labelled data set. mIoU of the model in float32 is measured on it, then
            that of the file, as `terrazzo.evaluate` does; both figures go into the file's record.
        split: which split of it; not the photos that the model was calibrated with.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.
        mask_values: for such a folder, ``stored`` or ``indices``; see `terrazzo.evaluate`.
        max_loss: with `data`, points of mIoU that the file may lose, by default 1. Without it, for int8, percent of the
            mask that may change class on a part of the calibration photos that is held back, by default 2.
        overwrite: replace whatever is there, not only earlier exports.
        progress: called with (photos done, photos in all) while mIoU is measured; it is measured at least twice.

    Raises:
        CheckpointError: the model cannot be read; or the file does not compute what the model does.
        ConfigError: an option is wrong, or the model has an operation that the format cannot express.
        DatasetError: the labelled photos cannot be read, or their classes are not the model's.
        MissingExtraError: a package that the format needs is not installed.
        OutputError: a file is there that is not an earlier export, or the place cannot be written.
    """
    path = Path(output)
    kind = _format(path, format)
    _refuse_options(kind, output_kind, precision, bool(calibrate), data is not None)
    if max_loss is not None and math.isnan(max_loss):
        raise ConfigError("max_loss is nan", fix="give a number of points or percent", code="export-loss")
    labelled = None if data is None else LabelledData(data, split, labels, mask_values, progress)
    images, checked = split_images(calibrate, hold_back=labelled is None) if calibrate else ([], [])
    paths = [path.with_suffix(".bin"), path] if kind == "openvino" else [path]
    sources = [None if isinstance(model, TrainedModel) else model, data, labels, *calibrate]
    read = [Path(source) for source in sources if source is not None]
    check_outputs(paths, "export", inputs=read, overwrite=overwrite)
    trained = on_cpu(model if isinstance(model, TrainedModel) else load(model))
    description = describe(trained, output_kind, precision)
    if max_loss is None:
        max_loss = MAX_LOSS if labelled is None else MAX_MIOU_LOSS
    parity = agreed = accuracy = int8 = None
    with replacing_together(paths) as partials:
        partial = partials[-1]
        if labelled is not None:  # first, since it shows what is wrong with the data
            exact = labelled.measure(
                TorchEngine(trained.network), replace(description, precision="fp32", output="logits")
            )
            score, exact_score = _miou(labelled, description), exact.metrics.mIoU
        elif precision == "int8":
            score, exact_score = agreement(TorchEngine(trained.network), checked, description), 100.0
        if kind == "torch":
            description = write_torch(trained, partial, output_kind)
        else:
            graphs = GRAPHS[kind]
            graph = graphs.build(trained.network, description)

            def save_and_score(graph: Any) -> float:
                graphs.save(graph, partial, description)
                return score(_opened(partial))

            if precision == "int8":
                inputs = [read_input(path, description) for path in images]
                int8 = quantise(graphs.quantiser(graph, inputs), save_and_score, exact_score, max_loss)
                graph, reached = int8.network, int8.score
            elif labelled is not None:
                reached = save_and_score(graph)
            else:
                graphs.save(graph, partial, description)
            if labelled is not None:
                accuracy = Accuracy(exact.metrics.mIoU, reached, precision, exact.dataset, exact.split, exact.images)
                refuse_miou_loss(accuracy, max_loss)
                description = replace(description, record={**trained.record, RECORD_KEY: accuracy.to_dict()})
                graphs.save(graph, partial, description)
            elif precision == "int8":
                refuse_loss(reached, max_loss)
                agreed = reached / 100
        mark_files(partials, "export")
        if precision != "int8":
            parity = check_parity(trained.network, _opened(partial), description)
            _note_other_engines(trained.network, partial, path, kind, description)
    size = sum(p.stat().st_size for p in paths)
    return Export(path, kind, description, parity, agreed, accuracy, int8, size, OPSET if kind == "onnx" else None)


def _refuse_options(kind: Format, output_kind: str, precision: str, calibrated: bool, labelled: bool) -> None:
    if output_kind not in get_args(Output):
        raise ConfigError(f"there is no output kind {output_kind!r}", fix="choose logits or mask", code="export-output")
    if precision not in PRECISIONS[kind] or (precision == "int8" and output_kind != "logits"):
        raise ConfigError(
            f"a {kind} file with {output_kind} cannot be written in {precision}",
            fix=f"choose {' or '.join(PRECISIONS[kind])}; int8 gives logits only",
            code="export-precision",
        )
    if (precision == "int8") != calibrated:
        raise ConfigError(
            "int8 needs photos to calibrate with, and the other precisions take none",
            fix="give --precision int8 and --calibrate PHOTOS together",
            code="export-calibrate",
        )
    if labelled and precision == "fp32":
        raise ConfigError(
            "labelled photos are for fp16 and int8: an fp32 file is compared with its model without them",
            fix="leave --data out, or choose --precision fp16 or int8",
            code="export-data",
        )


def _opened(path: Path) -> Engine:
    """Open a file that was just written, which is therefore trusted, with the engine for its format."""
    return engine_for_file(path, None).open_file(path, EngineOptions(), trust=True)


def _note_other_engines(
    network: Segmenter, partial: Path, path: Path, kind: Format, description: ExportedDescription
) -> None:
    """Say which other installed engine, if somebody runs the file with it, does not compute what the model does."""
    checked = engine_for_file(partial, None)
    for engine in ENGINES.values():
        if engine is checked or kind not in engine.formats or not engine.is_installed:
            continue
        try:
            opened = engine.open_file(partial, EngineOptions())
            check_parity(network, opened, description, FEW_INPUTS)
        except TerrazzoError:
            other = f"{engine.name} {version(engine.package)}"
            note(
                f"run {shown_path(path)} with --engine {checked.name}: {other} cannot run it, or does not give the "
                "model's masks"
            )


def _miou(labelled: LabelledData, description: ExportedDescription) -> Callable[[Engine], float]:
    return lambda engine: labelled.measure(engine, description).metrics.mIoU


def _format(path: Path, format: str | None) -> Format:
    if format is not None and format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}", fix=f"choose {', '.join(FORMATS)}", code="export-format")
    for kind, suffix in FORMATS.items():
        if path.suffix == suffix and format in (None, kind):
            return kind
    wanted = FORMATS[format] if format in FORMATS else ", ".join(FORMATS.values())
    raise ConfigError(
        f"{path.name} does not end in {wanted}",
        fix="end the name of the file so",
        code="export-suffix",
    )
