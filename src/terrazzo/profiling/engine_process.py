"""The parent of `worker.py`: starts an engine's process and sends it requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from terrazzo import errors
from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.text import printable

__all__ = ["EngineProcess"]

SHOWN_LINES = 5
STOPPING_SECONDS = 30


class EngineProcess:
    """A process that runs `worker.py`; use it in a `with` block.

    Args:
        name: for messages.
        threads: number of threads, for libraries that read it from the environment.
        cache: the process's cache folder.
    """

    def __init__(self, name: str, threads: int, cache: Path) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "TERRAZZO_CACHE": str(cache),
        }
        # -P keeps modules that happen to lie in the working folder from being imported.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "terrazzo.profiling.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=variables,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
        try:
            self.process.communicate(timeout=STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.log.close()

    def ask(self, request: str, **arguments: Any) -> Any:
        """Return the answer to a request of `worker.Worker`.

        Raises:
            TerrazzoError: what the worker raised; or the process ended or had no memory (code "benchmark-memory"),
                or failed in some other way ("benchmark-failed").
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([request, arguments]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {}
        if "ok" in answer:
            return answer["ok"]
        if "error" in answer:
            kind, message, fix, code = answer["error"]
            raise _rebuilt(kind, message, fix, code)
        if "fault" in answer:
            raise ConfigError(
                f"{self.name} failed: {printable(answer['fault'])}",
                fix="try another --engine or --size; if it fails there too, report it with this line",
                code="benchmark-failed",
            )
        ending = "had too little memory" if "memory" in answer else f"ended with status {self.process.wait()}"
        raise ConfigError(
            f"{self.name}: its process {ending}{self._last_words()}",
            fix="where memory is short, give a smaller --size or --batch-size",
            code="benchmark-memory",
        )

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().decode("utf-8", "backslashreplace").splitlines()[-SHOWN_LINES:]
        return ": " + " / ".join(lines) if lines else ""


def _rebuilt(kind: str, message: str, fix: str, code: str) -> TerrazzoError:
    """Return the error that a worker reported."""
    cls: type[TerrazzoError] = getattr(errors, kind)
    error = cls.__new__(cls)
    TerrazzoError.__init__(error, message, fix=fix, code=code)
    return error
