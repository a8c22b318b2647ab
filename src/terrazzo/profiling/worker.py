"""A process that runs and times one engine, so that its memory and start-up can be measured.

Started by `engine_process` as ``python -m terrazzo.profiling.worker``. Requests come as lines of JSON on stdin,
[name, arguments]; answers go as lines of JSON to stdout, {"ok": ...}, {"error": ...},
{"memory": true} or {"fault": ...}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terrazzo.engines.children import end_with_parent
from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import TerrazzoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from terrazzo.engines.engine import Precision
    from terrazzo.inference.predictor import Predictor
    from terrazzo.preprocess import Preprocess

__all__ = ["main"]


class Worker:
    """Answers requests; each method is one."""

    predictor: Predictor
    batch_B3HW: NDArray[np.float32]

    def start(
        self,
        model: str,
        engine: str,
        threads: int,
        device: str | None,
        precision: Precision,
        size: tuple[int, int],
        batch_size: int,
    ) -> None:
        """Open the model and run it once."""
        import cv2
        import numpy as np

        from terrazzo.engines.memory import keep_freed_memory
        from terrazzo.inference.predict import make_predictor

        keep_freed_memory()
        cv2.setNumThreads(threads)
        self.predictor = make_predictor(model, device, engine=engine, threads=threads, precision=precision)
        image = _input(self.predictor.preprocess, size)
        # In the memory layout in which `predict` passes images.
        self.batch_B3HW = image[None] if batch_size == 1 else np.stack([image] * batch_size)
        self.predictor.engine(self.batch_B3HW)

    def call(self) -> tuple[float, float]:
        """Return the seconds of a pass, and the processor seconds."""
        return _timed(lambda: self.predictor.engine(self.batch_B3HW))

    def layers(self) -> list[tuple[str, str, str, float]]:
        """Return the name, kind, kernel and seconds of each layer in a pass, by the engine's own counters."""
        from terrazzo.engines.layer_times import layer_times

        times = layer_times(self.predictor.engine, self.batch_B3HW)
        return [(time.layer, time.kind, time.kernel, time.seconds) for time in times]

    def logits(self, path: str) -> None:
        """Save the logits of a pass as .npy."""
        import numpy as np

        np.save(path, self.predictor.engine(self.batch_B3HW))

    def image(self, source: str, destination: str) -> tuple[float, float]:
        """Turn a photo file into a mask file; return the seconds and the processor seconds."""
        from terrazzo.imaging.read import ReadOptions

        reading = ReadOptions().for_model(self.predictor.preprocess.bands)

        def convert() -> None:
            path = Path(source)
            self.predictor.segment([reading.read(path)], [path])[0].save(Path(destination), "mask")

        return _timed(convert)

    def memory(self) -> int | None:
        """Return this process's peak memory in bytes."""
        from terrazzo.profiling.machine import peak_memory

        return peak_memory()

    def check(self, model: str, device: str | None, images: list[str]) -> None:
        """See that there is such a device, and that all images can be read for the model: before minutes are spent."""
        from terrazzo.engines.torch import find_device
        from terrazzo.imaging.read import ReadOptions
        from terrazzo.weights.exported import exported_format

        find_device(device)
        if not images:
            return
        if exported_format(model) is not None:
            from terrazzo.inference.predict import make_predictor

            bands = make_predictor(model).preprocess.bands
        else:
            from terrazzo.weights.load import load

            bands = load(model).preprocess.bands
        reading = ReadOptions().for_model(bands)
        for image in images:
            reading.read(Path(image))

    def facts(self, model: str, threads: int, size: tuple[int, int], batch_size: int, logits: str) -> dict[str, Any]:
        """Describe a model, run it in PyTorch operator by operator, and save its logits as .npy.

        An exported file is only described: it has no operators to run one by one or to count.
        """
        import torch

        from terrazzo.profiling.machine import gemm_peak
        from terrazzo.weights.exported import exported_format

        torch.set_num_threads(threads)
        peak = gemm_peak()
        if exported_format(model) is not None:
            from terrazzo.inference.predict import make_predictor

            about = make_predictor(model, threads=threads).engine.description  # type: ignore[attr-defined]
            named = {"architecture": about.architecture, "classes": about.labels.num_classes}
            return {**named, "operations": None, "gemm_peak": peak}

        import numpy as np

        from terrazzo.costs import count_operations
        from terrazzo.weights.load import load

        trained = load(model)
        batch_B3HW = torch.from_numpy(np.stack([_input(trained.preprocess, size)] * batch_size))
        with torch.inference_mode():
            np.save(logits, trained.network(batch_B3HW).numpy())
        return {
            "architecture": trained.architecture,
            "classes": trained.labels.num_classes,
            "operations": count_operations(trained.network, batch_B3HW).flop,
            "gemm_peak": peak,
        }


def main() -> None:
    """Answer requests until stdin ends."""
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    end_with_parent()
    worker = Worker()
    with answers:
        for line in sys.stdin:
            name, arguments = json.loads(line)
            answers.write(json.dumps(_answer(getattr(worker, name), arguments)) + "\n")
            answers.flush()


def _answer(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": function(**arguments)}
    except TerrazzoError as error:
        return {"error": [type(error).__name__, error.message, error.fix, error.code]}
    except Exception as error:
        if is_out_of_memory(error):
            return {"memory": True}
        return {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _input(preprocess: Preprocess, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a synthetic image of a size as the network's input, (C, H, W)."""
    from terrazzo.profiling.scene import draw_scene

    return preprocess.normalize(draw_scene(*size, bands=len(preprocess.mean))).transpose(2, 0, 1)


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
