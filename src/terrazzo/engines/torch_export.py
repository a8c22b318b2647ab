"""The engine for ``.pt2`` files, which torch.export writes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terrazzo.engines.engine import EngineOptions, Side, at_least, refuse_size
from terrazzo.engines.onnx_file import unopened
from terrazzo.engines.trust import read_trusted
from terrazzo.errors import ConfigError
from terrazzo.text import said_by
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription

__all__ = ["TorchExportEngine", "open_file"]


class TorchExportEngine:
    """Runs an exported ``.pt2`` file.

    Args:
        path: the file.
        options: threads; fp32 only. The caller's threads are the streams.
        device: ``cpu``; files are written for no other.
        trust: put the file on the list of trusted ones. A file that is not listed is not opened, since it can run any
            code (`engines/trust.py`).

    Attributes:
        description: what the file says about itself.

    Raises:
        CheckpointError: the file is missing, damaged, not written by terrazzo, or not trusted (code "model-untrusted").
        ConfigError: the precision or the device is not supported.
    """

    def __init__(
        self,
        path: str | Path,
        options: EngineOptions | None = None,
        device: str | None = None,
        *,
        trust: bool = False,
    ) -> None:
        options = options or EngineOptions()
        self.path = Path(path)
        if options.precision == "bf16" or device not in (None, "cpu"):
            raise ConfigError(
                f"{path} runs in float32 on the CPU only",
                fix="leave --precision and --device out, or give the model that it was exported from",
                code="engine-device",
            )
        content = read_trusted(self.path, trust)
        texts = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about torch
                program = torch.export.load(io.BytesIO(content), extra_files=texts)
                self.network = program.module()
            names = program.graph_signature.user_inputs
            example = next(node for node in program.graph.nodes if node.name == names[0]).meta["val"]
            sides: list[Side] = [(side, side) if isinstance(side, int) else (1, None) for side in example.shape]
        except Exception as error:  # a damaged archive can fail in any way
            raise unopened(self.path, error, said_by(error, 200)) from error
        self.description = ExportedDescription.from_json(texts[METADATA_KEY] or None, str(path))
        self.sides = at_least(sides, self.description)
        self.threads = options.threads

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        refuse_size(images_B3HW.shape, self.sides, self.path)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            out: NDArray[Any] = self.network(torch.from_numpy(images_B3HW)).numpy()
        return out


def open_file(path: Path, options: EngineOptions, device: str | None, trust: bool) -> TorchExportEngine:
    """Open an exported file."""
    return TorchExportEngine(path, options, device, trust=trust)
