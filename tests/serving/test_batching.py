"""`BatchQueue`: what is computed together, what is dropped, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Sequence

import pytest
from running import PATIENCE, until

from terrazzo.serving.batching import BatchQueue, ExpiredError, Job


class Doubler:
    """Doubles numbers, and can be held."""

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), list[list[int]]()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.gate.wait()
        return [2 * item for item in items]


def job(item: int, kind: str = "a", seconds: float = PATIENCE) -> Job[int, int]:
    return Job(item, kind, time.monotonic() + seconds)


def test_jobs_wait_until_the_batch_is_full() -> None:
    double, jobs = Doubler(), [job(number) for number in range(4)]
    queue = BatchQueue(double, streams=1, most=4, wait=PATIENCE)
    for each in jobs:
        queue.put(each)
    assert [each.future.result() for each in jobs] == [0, 2, 4, 6]
    queue.close()
    assert double.batches == [[0, 1, 2, 3]]


def test_where_no_others_come_a_job_is_computed_at_once() -> None:
    double, asked = Doubler(), job(1)
    queue = BatchQueue(double, streams=1, most=4, wait=PATIENCE, others_come=lambda: False)
    queue.put(asked)
    assert asked.future.result(PATIENCE / 2) == 2
    queue.close()


def test_only_one_kind_is_computed_together() -> None:
    double, jobs = Doubler(), [job(0), job(1, "b"), job(2), job(3, "b")]
    double.gate.clear()
    queue = BatchQueue(double, streams=1, most=4, wait=0)
    queue.put(job(9))
    until(lambda: double.batches)
    for each in jobs:
        queue.put(each)
    double.gate.set()
    queue.close()
    assert double.batches == [[9], [0, 2], [1, 3]]


def test_what_is_late_or_given_up_is_not_computed() -> None:
    double, late, given_up, last = Doubler(), job(1, seconds=-1), job(2), job(3)
    double.gate.clear()
    queue = BatchQueue(double, streams=1, most=4, wait=0)
    queue.put(job(0))
    until(lambda: double.batches)
    for each in (late, given_up, last):
        queue.put(each)
    given_up.future.cancel()
    double.gate.set()
    queue.close()
    assert isinstance(late.future.exception(), ExpiredError) and last.future.result() == 6
    assert double.batches == [[0], [3]]


def test_what_fails_fails_for_its_batch_alone() -> None:
    def divide(items: Sequence[int]) -> list[float]:
        return [1 / item for item in items]

    queue, bad, good = BatchQueue(divide, streams=1, most=1, wait=0), job(0), job(2)
    queue.put(bad)
    queue.put(good)
    assert isinstance(bad.future.exception(), ZeroDivisionError) and good.future.result() == 0.5
    queue.close()
    with pytest.raises(RuntimeError, match="closed"):
        queue.put(job(1))


def test_figures_are_there_before_the_answer() -> None:
    asked, answered = job(1), list[bool]()
    queue = BatchQueue(
        Doubler(), streams=1, most=1, wait=0, watch=lambda waited, took: answered.append(asked.future.done())
    )
    queue.put(asked)
    queue.close()
    assert asked.future.result() == 2 and answered == [False]


def test_a_thread_without_work_holds_nothing_of_the_last_one() -> None:
    queue = BatchQueue(Doubler(), streams=1, most=1, wait=0)
    asked = job(1)
    queue.put(asked)
    assert asked.future.result() == 2
    left = weakref.ref(asked)
    del asked
    until(lambda: gc.collect() >= 0 and left() is None)
    queue.close()
