"""OpenVINO in a child process, used after it has run out of memory.

After a failed allocation, OpenVINO's CPU plugin can crash in a later run of the same process, however small (seen with
2026.4 under a limit of the address space: a segmentation fault with the next image). When a child process ends, its
input counts as one for which there was not enough memory, and the next input gets a new child.

A request is a line with the shape of a float32 array, then its bytes. An answer is a line with an error, or a line with
the type and shape of the result, then its bytes (`openvino_worker.py` is the other end).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.engines.engine import EngineOptions

__all__ = ["OpenVINOProcess", "received"]

WORKER = "terrazzo.engines.openvino_worker"


class OpenVINOProcess:
    """Runs an exported file in a child process, which starts with the first run and again after one that failed.

    Args:
        path: the file.
        options: threads, streams and precision.
    """

    def __init__(self, path: Path, options: EngineOptions) -> None:
        self.path, self.options = path, options
        self._one_at_a_time = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._ending: Any = None

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        with self._one_at_a_time:
            try:
                return self._answer(np.ascontiguousarray(images_B3HW))
            except (OSError, EOFError) as error:
                self.stop()
                raise MemoryError("the process of OpenVINO ended, or could not start") from error
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the child process, if there is one, which frees all its memory."""
        if self._ending is not None:
            self._ending()
        self._child = self._ending = None

    def _answer(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        child = self._child = self._child or self._started()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(images_B3HW.shape).encode() + b"\n")
        child.stdin.write(images_B3HW.data)
        child.stdin.flush()
        answer = json.loads(_line(child.stdout))
        if "memory" in answer:
            raise MemoryError(answer["memory"])
        if "fault" in answer:
            raise RuntimeError(answer["fault"])
        return received(child.stdout, answer["shape"], answer["dtype"])

    def _started(self) -> subprocess.Popen[bytes]:
        # -P keeps modules that happen to lie in the working folder from being imported.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, json.dumps([str(self.path), asdict(self.options)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        self._ending = weakref.finalize(self, _end, child)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what the pipe still holds is lost
            if pipe is not None:
                pipe.close()
    child.wait()


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


def received(stream: IO[bytes], shape: list[int], dtype: str) -> NDArray[Any]:
    """Read an array from a pipe.

    Raises:
        EOFError: the pipe ends before it.
    """
    array = np.empty(shape, dtype)
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]  # of every buffered reader
        if not count:
            raise EOFError
        left = left[count:]
    return array
