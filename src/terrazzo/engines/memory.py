"""Settings of the C library's memory, and the test for errors that mean "out of memory"."""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any

__all__ = ["is_out_of_memory", "keep_freed_memory", "return_freed_memory", "share_freed_memory"]

# Only numpy and Python raise MemoryError. PyTorch, OpenCV, ONNX Runtime and OpenVINO raise errors of their own, as does
# whatever loads a library ("failed to map segment") or starts a thread, whose stack needs memory.
OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot|can not|unable to|failed to|could not) alloc|bad.?alloc|insufficient memory|"
    r"not enough memory|ALLOC_FAILED|could not create a (primitive|memory)|"
    r"failed to map segment|cannot (apply additional memory protection|create shared object descriptor)|"
    r"can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks for the next tensor instead of returning them to the system.

    A network's feature maps are large enough that glibc maps and unmaps each one, and the page faults take a good part
    of a forward pass on the CPU. This changes the whole process, so programs call it and imports do not. It does
    nothing on systems without glibc.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def share_freed_memory() -> None:
    """Tell the C library to serve threads that begin later from one heap, where each can use what others freed.

    By default glibc gives each thread a heap of its own, of 64 MB of address space, which keeps what it freed. This
    changes the whole process, so programs call it and imports do not. It does nothing on systems without glibc.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        M_ARENA_MAX = -8
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return freed blocks to the system, for threads, libraries and other allocators.

    It does nothing on systems without glibc.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of any library means that memory ran out."""
    return isinstance(error, MemoryError) or OUT_OF_MEMORY.search(f"{type(error).__name__} {error}") is not None


def _of_glibc(name: str) -> Any | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
