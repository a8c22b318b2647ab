"""The OpenVINO engine."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.bfloat16 import stay_in_float32
from terrazzo.engines.cache import cached, keep
from terrazzo.engines.engine import ENGINES, EngineOptions, Side, at_least, refuse_other_ports, refuse_size
from terrazzo.engines.layer_times import PASSES, LayerTime, mean_of_passes
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.engines.onnx_file import damaged, describe_onnx, unopened
from terrazzo.engines.openvino_process import OpenVINOProcess
from terrazzo.errors import CheckpointError, MissingExtraError, OutputError
from terrazzo.regular_files import open_regular
from terrazzo.weights.exported import METADATA_KEY, ExportedDescription, exported_format

__all__ = ["OpenVINOEngine", "open_file"]

KEPT_SIZES = 4
"""Number of sizes for which a compiled network is kept in memory. Each holds a copy of the weights."""

LARGEST_KEPT = 100_000_000
"""Largest file, in bytes, whose compiled networks are kept: larger ones compile faster than they are read.

Processor seconds at 512 x 512: SegFormer-B0 (14 MB) 0.5 to compile, 0.2 to read; SETR-PUP with T-Base (360 MB) 1.0 to
compile, 1.5 to read.
"""


class OpenVINOEngine:
    """Runs an exported ``.xml`` file (with its ``.bin`` beside it), or an exported ``.onnx`` file, on the CPU.

    It computes in float32 unless bf16 is asked for and the processor has it; OpenVINO's own default is bfloat16 there.

    A network compiled for one size takes about two thirds of the time of one for any size (SegFormer-B0 at 512 x 512,
    one thread: 0.15 s and 0.2 s), and compiling either takes as long as a few images. So the network for any size runs
    first. A size gets a network of its own with its second batch, if it is among the `KEPT_SIZES` latest sizes; so a
    folder of images of many sizes does not compile one for each.

    After memory has run out, every run goes to a child process (`engines/openvino_process.py`).

    Compiled networks, except large ones, are kept in the cache folder. The next start takes them from there; a size
    that has its own uses it from the first batch.

    Args:
        path: the file.
        options: threads, streams and precision.

    Attributes:
        description: what the file says about itself.

    Raises:
        MissingExtraError: openvino is not installed.
        CheckpointError: the file is missing, damaged, somebody else's, or has weights outside its folder.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None) -> None:
        self._options = options = options or EngineOptions()
        self.path = Path(path)
        onnx = describe_onnx(self.path) if exported_format(self.path) == "onnx" else None
        try:
            import openvino as ov
        except ImportError as error:
            raise MissingExtraError("openvino", "export") from error
        core = ov.Core()
        if options.precision == "bf16" and not _multiplies_bfloat16(core):
            stay_in_float32()
            self._options = options = replace(options, precision="fp32")
        self.has_bfloat16 = options.precision != "bf16" and _multiplies_bfloat16(core)
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
        self._core, self._network, self._properties = core, network, properties
        self._key: dict[str, Any] | None = None
        if sum(file.stat().st_size for file in self._files()) <= LARGEST_KEPT:
            self._key = {
                "file": self._digest(),
                "openvino": ov.__version__,
                "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
                "can": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
                **properties,
            }
        self._lock = threading.Lock()  # guards what follows
        self._any_size: _Compiled | None = None
        self._latest: OrderedDict[tuple[int, ...], _Compiled | None] = OrderedDict()
        self._sizes_compiled = 0
        self._apart: OpenVINOProcess | None = None

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        refuse_size(images_B3HW.shape, self.sides, self.path)
        if self._apart is not None:
            return self._apart(images_B3HW)
        with self._lock:
            compiled = self._compiled_for(images_B3HW.shape)
        return compiled.run(self._ov.Tensor(np.ascontiguousarray(images_B3HW), shared_memory=True))

    def layer_times(self, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
        """Return the times of the layers, compiled for images of this size, by OpenVINO's counters."""
        network = self._network.clone()
        network.reshape(list(images_B3HW.shape))
        compiled = self._core.compile_model(network, "CPU", {**self._properties, "PERF_COUNT": True})
        request = compiled.create_infer_request()

        def run() -> list[LayerTime]:
            request.infer([np.ascontiguousarray(images_B3HW)])
            return [
                LayerTime(each.node_name, each.node_type, each.exec_type, each.real_time.total_seconds())
                for each in request.profiling_info
            ]

        return mean_of_passes([run() for _ in range(PASSES)])

    def release_memory(self) -> None:
        """Free the compiled networks with their feature maps, and use a child process from now on."""
        with self._lock:
            self._any_size = None
            self._latest.clear()
            self._apart = self._apart or OpenVINOProcess(self.path, self._options)
            self._apart.stop()

    def _compiled_for(self, shape: tuple[int, ...]) -> _Compiled:
        if self._network.input(0).partial_shape.is_dynamic:
            first, again = not self._latest, shape in self._latest
            own = self._latest.pop(shape, None)
            if own is None and (first or again):
                own = self._imported(shape)
                if own is None and again:
                    self._any_size = None  # else its feature maps would stay beside the new one's
                    own = self._compile(shape)
            self._latest[shape] = own
            if len(self._latest) > KEPT_SIZES:
                self._latest.popitem(last=False)
            if own is not None:
                return own
        if self._any_size is None:
            self._any_size = self._imported(None) or self._compile(None)
        return self._any_size

    def _read(self, core: Any) -> Any:
        if not os.path.isfile(self.path):
            raise CheckpointError(f"{self.path} is not there", fix="check the path", code="checkpoint-missing")
        is_xml = exported_format(self.path) == "openvino"
        if is_xml and not self.path.with_suffix(".bin").is_file():
            raise damaged(self.path, f"its weights, {self.path.stem}.bin, are not beside it")
        if is_xml:  # else OpenVINO would try its readers of six other formats
            with open_regular(self.path) as file:
                if not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"<?xml", b"<net")):
                    raise damaged(self.path, "it is not an OpenVINO model")
        try:
            return core.read_model(str(self.path))
        except RuntimeError as error:
            raise unopened(self.path, error, _reason(error)) from error

    def _files(self) -> list[Path]:
        return [self.path, self.path.with_suffix(".bin")] if exported_format(self.path) == "openvino" else [self.path]

    def _digest(self) -> str:
        content = hashlib.sha256()
        for file in self._files():
            content.update(file.read_bytes())
        return content.hexdigest()

    def _imported(self, shape: tuple[int, ...] | None) -> _Compiled | None:
        """Return the network that an earlier start compiled for one shape or for any; None if none is kept."""
        if self._key is None or (blob := cached(_for_shape(self._key, shape), ".blob")) is None:
            return None
        try:
            return _Compiled(self._core.import_model(BytesIO(blob.read_bytes()), "CPU", self._properties))
        except (RuntimeError, OSError, ValueError, MemoryError):  # another build of the same name, or no memory
            return None

    def _compile(self, shape: tuple[int, ...] | None) -> _Compiled:
        """Compile the network for one shape or for any, and keep it for the next start (of shapes, the first few)."""
        network = self._network
        try:
            if shape is not None:
                network = network.clone()
                network.reshape(list(shape))
            compiled = self._core.compile_model(network, "CPU", self._properties)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise damaged(self.path, _reason(error)) from error
        self._sizes_compiled += shape is not None
        if self._key is not None and self._sizes_compiled <= KEPT_SIZES:
            with suppress(OutputError, RuntimeError, MemoryError):  # no room for it: the next start compiles again
                keep(_for_shape(self._key, shape), ".blob", compiled.export_model().getvalue())
        return _Compiled(compiled)


class _Compiled:
    """A compiled network with its inference requests, each of which runs one input at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()

    def run(self, images: Any) -> NDArray[Any]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer([images])
        out: NDArray[Any] = request.get_output_tensor(0).data.copy()  # the next run writes there
        if out.size == 0:  # seen when memory ran out: a shape with zeros, and no exception
            raise MemoryError("OpenVINO gave an empty result")
        self._idle.append(request)
        return out


def open_file(path: Path, options: EngineOptions, device: str | None, trust: bool) -> OpenVINOEngine:
    """Open an exported file."""
    ENGINES["openvino"].require(options.precision, device)
    return OpenVINOEngine(path, options)


def _multiplies_bfloat16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _for_shape(key: dict[str, Any], shape: tuple[int, ...] | None) -> dict[str, Any]:
    return key if shape is None else {**key, "shape": list(shape)}


def _description(network: Any, path: Path) -> ExportedDescription:
    text = network.get_rt_info(METADATA_KEY).astype(str) if network.has_rt_info(METADATA_KEY) else None
    return ExportedDescription.from_json(text, str(path))


def _side(dimension: Any) -> Side:
    most = dimension.get_max_length()
    return max(dimension.get_min_length(), 1), None if most < 0 else most


def _reason(error: RuntimeError) -> str:
    """Return the last line of OpenVINO's message; those before it are about its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["OpenVINO cannot read it"])[-1][:200]
