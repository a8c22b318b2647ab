"""Stop signals: the first one ends the run after the current step, a second one ends the process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["StopSignals"]

FORWARDED_SECONDS = 3.0
"""Signals within this time are one: torchrun forwards to its processes what they have received already."""


class StopSignals:
    """SIGTERM and SIGINT as a flag that the training loop reads between two steps.

    Args:
        speaks: whether this process tells the user what it is going to do.

    Attributes:
        number: of the signal that came; 0 before one has.
        writing: held while files of the run are replaced, which a second signal waits for.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks
        self.number = 0
        self.writing = threading.Lock()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals in place of ending by them, while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals
            return
        old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        arrived, arriving = os.pipe()
        os.set_blocking(arriving, False)
        old_descriptor = signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._end_at_second, args=(arrived,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_descriptor)
            os.close(arriving)
            watcher.join()
            os.close(arrived)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if not self.number and self.speaks:
            # print() must not be called while it may be running already.
            os.write(2, b"stopping after this step; a second signal stops at once\n")
        self.number = number

    def _end_at_second(self, arrived: int) -> None:
        """End the process when it is told to stop again, whatever its main thread is waiting for.

        That thread may wait where Python runs no signal handler, such as in a collective operation. A checkpoint that
        is being written is finished first.

        Args:
            arrived: a pipe that holds the number of each signal, until it is closed.
        """
        first = None
        while number := os.read(arrived, 1):
            if number[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            now = time.monotonic()
            first = first or now
            if now - first > FORWARDED_SECONDS:
                with self.writing:
                    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # which the progress bar hides
                    os.write(2, show_cursor + b"stopped at once; --resume goes on from the last checkpoint\n")
                    os._exit(128 + number[0])
