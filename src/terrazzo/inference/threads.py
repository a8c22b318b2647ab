"""Thread pools for prediction: threads that start at once, and an ordered map with a bounded number of items ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice, repeat
from threading import Barrier
from typing import TypeVar

__all__ = ["ahead", "map_ahead", "threads_of"]

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def threads_of(count: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool whose threads have all started, since memory to start one might be lacking later.

    When the block is left early, it finishes what it has begun and cancels the rest.
    """
    pool = ThreadPoolExecutor(count)
    started = Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(started.wait)
        started.wait()
        yield pool
    finally:
        started.abort()  # for threads that wait for one that could not start
        pool.shutdown(cancel_futures=True)


def ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """Take items, none of which is None, in a thread of its own, at most `count` ahead of the reader."""
    with threads_of(1) as pool:
        for item in map_ahead(pool, lambda _: next(items, None), repeat(True), count):
            if item is None:
                return
            yield item


def map_ahead(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """Apply a function in the pool's threads, at most `count` items ahead of the reader, in order."""
    rest = iter(items)
    pending = [pool.submit(function, item) for item in islice(rest, count)]
    for item in chain(rest, [None] * len(pending)):
        if not pending:
            return
        done = pending.pop(0)
        if item is not None:
            pending.append(pool.submit(function, item))
        yield done.result()
