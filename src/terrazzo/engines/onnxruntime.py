"""The ONNX Runtime engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.atomic import temporary_folder
from terrazzo.config import read_json
from terrazzo.engines.engine import ENGINES, EngineOptions, at_least, refuse_other_ports, refuse_size
from terrazzo.engines.layer_times import PASSES, LayerTime, mean_of_passes
from terrazzo.engines.offline import imported_silently
from terrazzo.engines.onnx_file import describe_onnx, unopened
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.regular_files import named_in_text
from terrazzo.text import show

__all__ = ["OnnxRuntimeEngine", "open_file"]

KERNEL_TIME = "_kernel_time"  # ends the names of a profile's entries for layers
QUIET = 4  # ONNX Runtime's severity "fatal": errors come as exceptions


class OnnxRuntimeEngine:
    """Runs an exported ``.onnx`` file.

    One session runs all sizes: a session for each size was not faster.

    Args:
        path: the file.
        options: threads and streams. Streams share one session, and each run uses its share of the threads.
        device: ``cpu``, or ``cuda`` (``cuda:1``, ``1``) with a build of ONNX Runtime for GPUs (written from its manual,
            and not yet run).

    Attributes:
        description: what the file says about itself.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        CheckpointError: the file is missing, damaged, not written by terrazzo, or has weights outside its folder.
        ConfigError: the options ask for what ONNX Runtime does not have here.
    """

    def __init__(self, path: str | Path, options: EngineOptions | None = None, device: str = "cpu") -> None:
        options = options or EngineOptions()
        self.path = Path(path)
        self.description = describe_onnx(self.path)
        try:
            ort = imported_silently("onnxruntime")
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "export") from error
        ENGINES["onnxruntime"].require(options.precision, device)
        number = re.fullmatch(r"(?:cuda)?:?(\d*)", device)  # cuda, cuda:1 or 1
        provider = "CUDAExecutionProvider" if number else "CPUExecutionProvider"
        if (number is None and device != "cpu") or provider not in ort.get_available_providers():
            raise ConfigError(
                f"this build of onnxruntime cannot compute on {show(device)}",
                fix="install onnxruntime-gpu, or use --engine torch",
                code="engine-device",
            )
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads_per_stream
        settings.inter_op_num_threads = 1
        settings.log_severity_level = QUIET
        # Threads that wait for work by spinning take the processor from those that decode and save photos.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.streams == 1 else "0")
        settings.enable_mem_pattern = False  # it plans memory for one size of image, and again for the next
        chosen = (provider, {"device_id": int(number[1] or 0)} if number else {})
        self._settings = settings

        def open_session() -> Any:
            with named_in_text(self.path) as name:
                return ort.InferenceSession(name, self._settings, providers=[chosen])

        self._open: Callable[[], Any] = open_session
        self._opening = threading.Lock()
        try:
            session = self._open()
            image, result = session.get_inputs()[0], session.get_outputs()[0]
            names, shape = (image.name, result.name), image.shape
        except Exception as error:  # onnxruntime's errors have no common class, and names may not be text
            raise unopened(self.path, error, _first_line(error)) from error
        self._session: Any | None = session
        refuse_other_ports(names, self.description.output, len(shape), self.path)
        self.sides = at_least(
            [(side, side) if isinstance(side, int) else (1, None) for side in shape], self.description
        )

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        refuse_size(images_B3HW.shape, self.sides, self.path)
        with self._opening:
            session = self._session = self._session or self._open()
        out: NDArray[Any] = session.run(None, {"images": np.ascontiguousarray(images_B3HW)})[0]
        return out

    def layer_times(self, images_B3HW: NDArray[np.float32]) -> list[LayerTime]:
        """Return the times of the layers by ONNX Runtime's profiler, which writes them to a file."""
        images = {"images": np.ascontiguousarray(images_B3HW)}
        settings = self._settings
        with temporary_folder() as folder, self._opening:
            settings.enable_profiling, settings.profile_file_prefix = True, f"{folder}/pass"
            try:
                session = self._open()
            finally:
                settings.enable_profiling = False
            for _ in range(PASSES):
                session.run(None, images)
            events = read_json(Path(session.end_profiling()), lenient=True)
        passes: list[list[LayerTime]] = [[]]
        for event in events:
            if event["name"] == "model_run":
                passes.append([])
            elif event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME):
                passes[-1].append(_layer_time(event))
        return mean_of_passes(passes[:PASSES])

    def release_memory(self) -> None:
        """Close the session; the next run opens one without an arena, since an arena never returns what a run took.

        Without it, the session allocates like the rest of the process. Where that keeps freed blocks
        (`keep_freed_memory`), runs are as fast; elsewhere they take about a third longer.
        """
        if self._settings.enable_cpu_mem_arena:
            self._settings.enable_cpu_mem_arena = False
            self._session = None


def open_file(path: Path, options: EngineOptions, device: str | None, trust: bool) -> OnnxRuntimeEngine:
    """Open an exported file."""
    return OnnxRuntimeEngine(path, options, device or "cpu")


def _layer_time(event: dict[str, Any]) -> LayerTime:
    about, name = event["args"], event["name"].removesuffix(KERNEL_TIME)
    types = sorted({kind for value in about["input_type_shape"] for kind in value})
    layout = ["blocked"] if name.endswith("_nchwc") else []
    return LayerTime(name, about["op_name"], " ".join([*layout, *types]), event["dur"] / 1e6)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
