"""Dynamic batching: a queue whose images of one network size are computed together.

An image waits at most `wait` seconds for others, and only while some are on their way. What is past its deadline, or
whose client has gone, is dropped without being computed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["BatchQueue", "ExpiredError", "Job"]

T = TypeVar("T")
R = TypeVar("R")


class ExpiredError(Exception):
    """The deadline passed before the image was computed."""


@dataclass(eq=False)
class Job(Generic[T, R]):
    """An image that waits to be computed.

    Attributes:
        item: what is computed.
        kind: only jobs of the same kind are computed together.
        deadline: when the answer is worth nothing any more, in `time.monotonic`'s seconds.
        future: the result; cancelling it drops the job.
        queued: when it came.
    """

    item: T
    kind: Hashable
    deadline: float
    future: Future[R] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)


class BatchQueue(Generic[T, R]):
    """Jobs, and the threads that compute them.

    Args:
        compute: returns a result for each of some items of one kind.
        streams: threads.
        most: jobs that are computed together.
        wait: seconds that a job waits for others of its kind.
        others_come: whether there may be others soon; where there are none, a job is computed at once.
        watch: told how long each job of a batch waited, and how long the batch took, in seconds.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R]],
        *,
        streams: int,
        most: int,
        wait: float,
        others_come: Callable[[], bool] = lambda: True,
        watch: Callable[[Sequence[float], float], None] = lambda waited, took: None,
    ) -> None:
        self._compute, self._most, self._wait, self._watch = compute, most, wait, watch
        self._others_come = others_come
        self._jobs: deque[Job[T, R]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._work, name=f"stream {n}", daemon=True) for n in range(streams)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job[T, R]) -> None:
        """Add a job.

        Raises:
            RuntimeError: the queue is closed.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue is closed")
            self._drop()  # so that what was given up does not hold its image while a long batch is computed
            self._jobs.append(job)
            self._changed.notify_all()

    def close(self) -> None:
        """Compute what is waiting, take nothing more, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while self._answer(self._next()):
            pass

    def _answer(self, batch: list[Job[T, R]]) -> bool:
        """Compute a batch; a method of its own, so that a thread without work holds no image of the last one."""
        begun, failure = time.monotonic(), None
        results: Sequence[R] = ()
        try:
            results = self._compute([job.item for job in batch]) if batch else ()
        except Exception as error:
            failure = error
        if batch:
            self._watch([begun - job.queued for job in batch], time.monotonic() - begun)  # before anybody is answered
        for place, job in enumerate(batch):
            if failure is not None:
                job.future.set_exception(failure)
            else:
                job.future.set_result(results[place])
        return bool(batch)

    def _next(self) -> list[Job[T, R]]:
        """Wait for the next batch; none once the queue is closed and empty."""
        with self._changed:
            while True:
                self._drop()
                seconds = self._seconds_to_wait()
                if seconds is None or seconds > 0:
                    self._changed.wait(seconds)
                elif not self._jobs:
                    return []
                elif batch := [job for job in self._alike() if job.future.set_running_or_notify_cancel()]:
                    self._jobs = deque(job for job in self._jobs if job not in batch)
                    return batch

    def _seconds_to_wait(self) -> float | None:
        """Until the next batch is computed; None where there is nothing to compute."""
        if not self._jobs:
            return 0 if self._is_closed else None
        if self._is_closed or len(self._alike()) == self._most or not self._others_come():
            return 0
        return self._jobs[0].queued + self._wait - time.monotonic()

    def _alike(self) -> list[Job[T, R]]:
        """The first job, and those that can be computed with it."""
        return [job for job in self._jobs if job.kind == self._jobs[0].kind][: self._most]

    def _drop(self) -> None:
        now = time.monotonic()
        expired = [job for job in self._jobs if job.deadline <= now]
        self._jobs = deque(job for job in self._jobs if job.deadline > now and not job.future.cancelled())
        for job in expired:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ExpiredError())
