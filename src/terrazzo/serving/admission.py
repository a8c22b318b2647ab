"""Admission control: how many requests may be in the house, and when those that are turned away should come back."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Admission", "FullError"]

RATE_OVER = 64  # answers that the rate is measured over
LONGEST_RETRY = 60


class FullError(Exception):
    """There is no place for another request."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the server is busy")
        self.retry_after = retry_after


class Admission:
    """Places for requests. It belongs to one event loop, and is not for threads.

    Args:
        capacity: places in all. A large image takes several, so that they bound the memory too.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._answered: deque[float] = deque(maxlen=RATE_OVER)

    @contextmanager
    def place(self, count: int = 1, *, held: int = 0) -> Iterator[None]:
        """Take places for the length of a block; a request alone in the house may take more than there are.

        Args:
            count: places.
            held: those that the same request has already.

        Raises:
            FullError: they are all taken.
        """
        if count and self.taken > held and self.taken + count > self.capacity:
            raise FullError(self.retry_after())
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
            if not held:
                self._answered.append(time.monotonic())

    def retry_after(self) -> int:
        """Seconds after which those that are in the house now will have been answered, at the rate of the last ones."""
        now = time.monotonic()
        recent = [then for then in self._answered if now - then < LONGEST_RETRY]
        rate = len(recent) / max(now - recent[0], 0.001) if len(recent) > 1 else 1.0
        return max(1, min(LONGEST_RETRY, math.ceil(self.taken / rate)))
