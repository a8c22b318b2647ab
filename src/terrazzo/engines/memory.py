"""How the process gets its memory."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> None:
    """Tell the C library to keep freed blocks for the next tensor instead of returning them to the system.

    A network's feature maps are large enough that glibc maps and unmaps each one, and the page faults take a good part
    of a forward pass on the CPU. This changes the whole process, so programs call it and imports do not. It does
    nothing on systems without glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
