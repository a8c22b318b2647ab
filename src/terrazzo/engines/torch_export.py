"""A ``.pt2`` file, as torch.export writes it, as an engine."""

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
        options: threads; fp32 only. Streams are left to the caller's threads.
        device: ``cpu``, the only one that such files are written for here.
        trust: open the file although it is not on the list of trusted ones, and put it there. Without either it is not
            opened, for it can run any code (`engines/trust.py`).

    Attributes:
        description: what the file says about itself.

    Raises:
        CheckpointError: the file is missing, damaged, somebody else's, or not trusted (code "model-untrusted").
        ConfigError: the options ask for what such a file cannot do.
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
                f"{path} runs in its own precision, on the CPU",
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
