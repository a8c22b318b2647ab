"""Signals that end the command (SIGTERM, SIGHUP): half-written files are removed first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from terrazzo.atomic import discard_partials

__all__ = ["stopped_cleanly"]

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_cleanly() -> Iterator[None]:
    """End the process on SIGTERM and SIGHUP without leaving half-written files.

    A thread does it, woken through a pipe: Python's own handlers wait until a long computation of the main thread
    returns. Where somebody else handles a signal (training does, nohup ignores SIGHUP), nothing is changed.
    """
    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as set_wakeup_fd demands

    def woken(number: int, frame: object) -> None:
        """Nothing to do here: the thread handles it."""

    def watch() -> None:
        while numbers := os.read(reading, 1):
            if numbers[0] in ours and signal.getsignal(numbers[0]) is woken:
                discard_partials()
                os._exit(128 + numbers[0])

    def restore() -> None:
        for number in ours:
            if signal.getsignal(number) is woken:
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(before)

    def restore_in_child() -> None:
        if thread.ident is not None and not left:  # a child that is told to stop must not stop its parent
            restore()

    left = False
    thread = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in ours:
        signal.signal(number, woken)
    os.register_at_fork(after_in_child=restore_in_child)
    thread.start()
    try:
        yield
    finally:
        left = True
        restore()
        os.close(writing)  # which ends the thread
        thread.join()
        os.close(reading)
