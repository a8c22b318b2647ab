"""Models as OpenVINO files: ``.xml`` for the graph, ``.bin`` beside it for the weights."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from terrazzo.errors import ConfigError, MissingExtraError, OutputError
from terrazzo.graphs.onnx import onnx_model
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription

__all__ = ["openvino_model", "save_openvino"]

PROBE = 1 << 20
"""Bytes that are written to see whether the disk is full."""


def openvino_model(network: Segmenter, description: ExportedDescription) -> Any:
    """Return a network as an `openvino.Model` in float32, for any batch, height and width, made from its ONNX graph.

    Raises:
        ConfigError: the network has an operation that cannot be expressed.
        MissingExtraError: openvino or onnx is not installed.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("openvino", "export") from error
    content = onnx_model(network, replace(description, precision="fp32"), "openvino").SerializeToString()
    try:
        return ov.Core().read_model(content)
    except RuntimeError as error:
        raise ConfigError(
            f"{description.architecture} cannot be written for OpenVINO: {' '.join(str(error).split())[-300:]}",
            fix="export it as ONNX, or choose a SegFormer or SETR",
            code="export-operation",
        ) from error


def save_openvino(network: Any, path: Path, description: ExportedDescription) -> None:
    """Write an `openvino.Model`, with its description, to `path` and the ``.bin`` beside it.

    If the description says fp16, the weights take half the space. The precision of computation is chosen when the file
    is loaded.

    Raises:
        OutputError: the place cannot be written.
    """
    import openvino as ov

    for old in (path, path.with_suffix(".bin")):  # removed first: OpenVINO maps the weights of what it runs
        old.unlink(missing_ok=True)
    network.set_rt_info(description.to_json(), [METADATA_KEY])
    try:
        ov.save_model(network, str(path), compress_to_fp16=description.precision == "fp16")
    except RuntimeError as error:  # which does not say why
        with open(path, "ab") as probe:  # on a full disk an OSError that does
            probe.write(bytes(PROBE))
            os.fsync(probe.fileno())
        raise OutputError(
            f"{path.name} could not be written: {' '.join(str(error).split())[-200:]}", fix="see that the disk has room"
        ) from error
