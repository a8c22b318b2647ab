"""The multiprocessing context of loader workers: fork, with an event that a killed worker cannot leave locked.

Python's event is behind a lock that processes share. A worker that is killed while it looks at the event keeps the lock
for ever, and the training process would wait for it instead of saying that a worker has died.
"""

from __future__ import annotations

import mmap
from multiprocessing.context import ForkContext
from typing import Any

__all__ = ["WORKERS"]


class _Event:
    """A flag in memory that forked processes share: one byte, which is read and written without a lock."""

    def __init__(self) -> None:
        self._flag = mmap.mmap(-1, 1)

    def is_set(self) -> bool:
        return self._flag[0] == 1

    def set(self) -> None:
        self._flag[0] = 1


class _WorkerContext(ForkContext):
    def Event(self) -> Any:
        return _Event()


WORKERS = _WorkerContext()
"""What a DataLoader takes as its ``multiprocessing_context``; of an event it needs no more than set and is_set."""
