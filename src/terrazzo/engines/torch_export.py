"""A ``.pt2`` file, as torch.export writes it, as an engine."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from terrazzo.engines.engine import EngineOptions, Side, at_least, refuse_size
from terrazzo.engines.onnx_file import damaged
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription

__all__ = ["TorchExportEngine"]


class TorchExportEngine:
    """Runs an exported ``.pt2`` file.

    Args:
        path: the file.
        options: threads; fp32 only. Streams are left to the caller's threads.
        device: ``cpu``, the only one that such files are written for here.

    Attributes:
        description: what the file says about itself.

    Raises:
        CheckpointError: the file is missing, damaged, somebody else's, or would have Python run something.
        ConfigError: the options ask for what such a file cannot do.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None, device: str | None = None) -> None:
        options = options or EngineOptions()
        self.path = Path(path)
        if options.precision == "bf16" or device not in (None, "cpu"):
            raise ConfigError(
                f"{path} runs in its own precision, on the CPU",
                fix="leave --precision and --device out, or give the model that it was exported from",
                code="engine-device",
            )
        _refuse_pickles(self.path)
        texts = {METADATA_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about torch
                program = torch.export.load(str(self.path), extra_files=texts)
        except Exception as error:  # a damaged archive can fail in any way
            raise damaged(self.path, " ".join(str(error).split())[:200] or type(error).__name__) from error
        self.description = ExportedDescription.from_json(texts[METADATA_KEY] or None, str(path))
        names = program.graph_signature.user_inputs
        example = next(node for node in program.graph.nodes if node.name == names[0]).meta["val"]
        sides: list[Side] = [(side, side) if isinstance(side, int) else (1, None) for side in example.shape]
        self.sides = at_least(sides, self.description)
        self.network = program.module()
        self.threads = options.threads

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        refuse_size(images_B3HW.shape, self.sides, self.path)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            out: NDArray[Any] = self.network(torch.from_numpy(images_B3HW)).numpy()
        return out


def _refuse_pickles(path: Path) -> None:
    """torch.export falls back to full pickles where restricted ones fail, so each must pass as a restricted one."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith((".pt", ".pkl", ".pth")):
                    torch.load(io.BytesIO(archive.read(entry)), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not there", fix="check the path", code="checkpoint-missing") from error
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks Python to run something while it is read, and was not read",
            fix="export the model yourself with `terrazzo export --format torch`",
            code="checkpoint-pickle",
        ) from error
    except Exception as error:
        raise damaged(path, " ".join(str(error).split())[:200] or type(error).__name__) from error
