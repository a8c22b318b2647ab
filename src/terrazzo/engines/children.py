"""What processes that engines run in have in common: they end with the process that started them."""

from __future__ import annotations

import os
import select
import threading

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """End this process as soon as nobody holds the other end of its stdin, in the middle of a computation too.

    So does one whose parent was killed, which can tell its children nothing.
    """

    def watch() -> None:
        waiting = select.poll()
        waiting.register(0, 0)  # of no events but the end, which is always told
        waiting.poll()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
