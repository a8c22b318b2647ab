"""OpenVINO as an engine."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.cache import cached, keep
from terrazzo.engines.engine import EngineOptions, Side, at_least, refuse_other_ports, refuse_size
from terrazzo.engines.onnx_file import damaged, describe_onnx
from terrazzo.errors import CheckpointError, ConfigError, MissingExtraError, OutputError
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription

__all__ = ["OpenVINOEngine"]


class OpenVINOEngine:
    """Runs an exported ``.xml`` file (with its ``.bin`` beside it), or an exported ``.onnx`` file, on the CPU.

    OpenVINO would take bfloat16 where the processor has it; here it computes in float32 unless told otherwise.

    Compiling takes longer than a photo, so the compiled network is kept in the cache folder and the next start takes it
    from there.

    Args:
        path: the file.
        options: threads, streams and precision.

    Attributes:
        description: what the file says about itself.

    Raises:
        MissingExtraError: openvino is not installed.
        CheckpointError: the file is missing, damaged, somebody else's, or has weights outside its folder.
        ConfigError: the precision is one that this processor does not have.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        options = options or EngineOptions()
        self.path = Path(path)
        onnx = describe_onnx(self.path) if self.path.suffix == ".onnx" else None
        try:
            import openvino as ov
        except ImportError as error:
            raise MissingExtraError("openvino", "export") from error
        core = ov.Core()
        if options.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError(
                "this processor has no bf16 instructions, and would be slower with it",
                fix="use --precision fp32",
                code="engine-precision",
            )
        self._ov = ov
        network = self._read(core)
        self.description = onnx or _description(network, self.path)
        ports = (network.input(0).any_name, network.output(0).any_name)
        shape = network.input(0).partial_shape
        refuse_other_ports(ports, self.description.output, shape.rank.get_length(), self.path)
        self.sides = at_least([_side(dimension) for dimension in shape], self.description)
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": options.all_threads,
            "NUM_STREAMS": options.streams,
            "ENABLE_CPU_PINNING": False,  # two programs at once would be put on the same cores
        }
        self._compiled = self._compile(core, network, properties)
        self._own = threading.local()  # each calling thread's request, for a request runs once at a time

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        refuse_size(images_B3HW.shape, self.sides, self.path)
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        tensor = self._ov.Tensor(np.ascontiguousarray(images_B3HW), shared_memory=True)
        self._own.request.infer([tensor])
        out: NDArray[Any] = self._own.request.get_output_tensor(0).data.copy()  # the next call writes there
        return out

    def _read(self, core: Any) -> Any:
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is not there", fix="check the path", code="checkpoint-missing")
        if self.path.suffix == ".xml" and not self.path.with_suffix(".bin").is_file():
            raise damaged(self.path, f"its weights, {self.path.stem}.bin, are not beside it")
        try:
            return core.read_model(str(self.path))
        except RuntimeError as error:
            raise damaged(self.path, _reason(error)) from error

    def _compile(self, core: Any, network: Any, properties: dict[str, Any]) -> Any:
        content = hashlib.sha256(self.path.read_bytes())
        if self.path.suffix == ".xml":
            content.update(self.path.with_suffix(".bin").read_bytes())
        key = {
            "file": content.hexdigest(),
            "openvino": self._ov.__version__,
            "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
            "can": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
            **properties,
        }
        if (blob := cached(key, ".blob")) is not None:
            try:
                return core.import_model(BytesIO(blob.read_bytes()), "CPU", properties)
            except (RuntimeError, OSError):
                pass  # compiled by a build of OpenVINO that calls itself the same
        try:
            compiled = core.compile_model(network, "CPU", properties)
        except RuntimeError as error:
            raise damaged(self.path, _reason(error)) from error
        with suppress(OutputError, RuntimeError):  # nowhere to keep it: the next start compiles again
            keep(key, ".blob", compiled.export_model().getvalue())
        return compiled


def _description(network: Any, path: Path) -> ExportedDescription:
    text = network.get_rt_info(METADATA_KEY).astype(str) if network.has_rt_info(METADATA_KEY) else None
    return ExportedDescription.from_json(text, str(path))


def _side(dimension: Any) -> Side:
    most = dimension.get_max_length()
    return max(dimension.get_min_length(), 1), None if most < 0 else most


def _reason(error: RuntimeError) -> str:
    """What went wrong: the last line that is not about OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["OpenVINO cannot read it"])[-1][:200]
