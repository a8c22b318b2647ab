"""The child process of `openvino_process.py`: runs an exported file on OpenVINO until a run fails or no more come."""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

import numpy as np

from terrazzo.engines.children import end_with_parent
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.memory import is_out_of_memory, keep_freed_memory, share_freed_memory
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.openvino_process import received

__all__ = ["serve"]


def serve(path: str, options: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more, or one fails: OpenVINO is not used again after that."""
    engine: OpenVINOEngine | None = None
    while line := requests.readline():
        try:
            images_B3HW = received(requests, json.loads(line), "float32")
            engine = engine or OpenVINOEngine(path, EngineOptions(**options))
            out = np.ascontiguousarray(engine(images_B3HW))
        except Exception as error:
            kind = "memory" if is_out_of_memory(error) else "fault"
            answers.write(json.dumps({kind: f"{type(error).__name__}: {error}"}).encode() + b"\n")
            answers.flush()
            return
        answers.write(json.dumps({"shape": out.shape, "dtype": str(out.dtype)}).encode() + b"\n")
        answers.write(out.data)
        answers.flush()


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    share_freed_memory()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    path, options = json.loads(sys.argv[1])
    serve(path, options, sys.stdin.buffer, answers)
    os._exit(0)  # OpenVINO may crash while it shuts down
