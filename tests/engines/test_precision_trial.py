"""The choice between float32 and bfloat16, with engines whose results and times are made up."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from terrazzo.engines.auto import LEAST_TRIED, Workload
from terrazzo.engines.engine import release_memory
from terrazzo.engines.precision_trial import COMPARED_PASSES, PrecisionTrial
from terrazzo.notes import TerrazzoWarning

IMAGES = np.zeros((1, 3, 40, 50), np.float32)
LOGITS = np.random.default_rng(0).standard_normal((1, 4, 40, 50)).astype(np.float32)


class Clock:
    """Seconds that pass only while an engine computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """An engine that gives these logits after so many seconds."""

    def __init__(self, clock: Clock, seconds: list[float], logits: NDArray[np.float32]) -> None:
        self.clock, self.seconds, self.logits, self.calls, self.released = clock, seconds, logits, 0, 0

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.clock.now += self.seconds[min(self.calls, len(self.seconds) - 1)] * images_B3HW.size
        self.calls += 1
        return self.logits

    def release_memory(self) -> None:
        self.released += 1


def differing(share: float) -> NDArray[np.float32]:
    """LOGITS with another best class at this share of the positions."""
    logits = LOGITS.copy()
    count = round(share * 2000)
    others = (LOGITS.argmax(1) + 1) % 4
    np.put_along_axis(logits.reshape(1, 4, -1)[:, :, :count], others.reshape(1, 1, -1)[:, :, :count], 100.0, axis=1)
    return logits


def trial(
    lower: list[float], exact: list[float] | None = None, share: float = 0.0
) -> tuple[PrecisionTrial, Timed, Timed]:
    clock = Clock()
    engines = Timed(clock, exact or [1.0], LOGITS), Timed(clock, lower, differing(share))
    return PrecisionTrial(*engines, "the engine", clock=clock), *engines


def test_bfloat16_is_kept_where_it_is_equal_and_faster_and_the_reason_is_told_once() -> None:
    tried, exact, lower = trial([0.6], share=0.0015)
    for _ in range(COMPARED_PASSES - 1):
        assert tried(IMAGES) is exact.logits
    with pytest.warns(TerrazzoWarning) as told:
        assert tried(IMAGES) is exact.logits
    (message,) = (str(warning.message) for warning in told)
    assert message == (
        "the engine computes in bfloat16: it takes 60% of float32's time and finds the same classes at 99.85% or more "
        "of each of the first 4 images (--precision fp32 for float32)"
    )
    assert tried(IMAGES) is lower.logits
    assert (exact.calls, lower.calls) == (COMPARED_PASSES, COMPARED_PASSES + 1)


def test_the_first_passes_of_an_engine_that_prepares_itself_do_not_count() -> None:
    tried, _, lower = trial([50.0, 90.0, 0.7], [1.0])
    with pytest.warns(TerrazzoWarning, match="bfloat16: it takes 70%"):
        for _ in range(COMPARED_PASSES):
            tried(IMAGES)
    assert tried(IMAGES) is lower.logits


def test_images_of_many_sizes_are_compared_by_their_pixels() -> None:
    tried, *_ = trial([0.5])
    with pytest.warns(TerrazzoWarning, match="bfloat16: it takes 50%"):
        for side in range(1, COMPARED_PASSES + 1):
            tried(np.zeros((1, 3, 10 * side, 20), np.float32))


@pytest.mark.parametrize(
    ("seconds", "share", "passes", "reason"),
    [
        (0.5, 0.0025, 1, "float32: bfloat16 finds other classes at 0.25% of an image"),
        (0.95, 0.0, COMPARED_PASSES, "float32: bfloat16 takes 95% of its time here"),
        (3.0, 0.0, COMPARED_PASSES, "float32: bfloat16 takes 300% of its time here"),
    ],
)
def test_else_float32_goes_on_alone(seconds: float, share: float, passes: int, reason: str) -> None:
    tried, exact, lower = trial([seconds], share=share)
    with pytest.warns(TerrazzoWarning) as told:
        for _ in range(passes + 2):
            assert tried(IMAGES) is exact.logits
    assert [str(warning.message) for warning in told] == [f"the engine computes in {reason}"]
    assert lower.calls == passes


def test_scores_that_are_not_finite_or_of_another_shape_are_not_equal() -> None:
    for logits in (np.full_like(LOGITS, np.nan), LOGITS[..., :-1]):
        tried, exact, lower = trial([0.1])
        lower.logits = logits
        with pytest.warns(TerrazzoWarning, match=r"other classes at 100.00%"):
            assert tried(IMAGES) is exact.logits


def test_masks_are_compared_as_they_are() -> None:
    tried, exact, lower = trial([0.1])
    exact.logits = lower.logits = np.ones((1, 40, 50), np.int64)  # type: ignore[assignment]
    with pytest.warns(TerrazzoWarning, match=r"same classes at 100.00%"):
        for _ in range(COMPARED_PASSES):
            tried(IMAGES)
    assert tried.chosen is lower


def test_a_failure_in_bfloat16_is_no_failure_of_the_image() -> None:
    def failing(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        raise MemoryError

    exact = Timed(Clock(), [1.0], LOGITS)
    tried = PrecisionTrial(exact, failing, "the engine")
    with pytest.warns(TerrazzoWarning, match=r"float32: in bfloat16 it failed \(MemoryError\)"):
        assert tried(IMAGES) is exact.logits
    assert tried.chosen is exact


def test_when_memory_runs_out_bfloat16_is_given_up() -> None:
    tried, exact, lower = trial([0.1])
    tried(IMAGES)
    with pytest.warns(TerrazzoWarning, match="too little memory to try bfloat16"):
        release_memory(tried)
    assert tried.chosen is exact and (exact.released, lower.released) == (1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        release_memory(tried)
    assert exact.released == 2


def test_images_in_several_threads_agree_on_one_choice() -> None:
    start = threading.Barrier(4)
    tried, exact, lower = trial([0.0])

    def work(_: int) -> None:
        start.wait()
        for _ in range(COMPARED_PASSES):
            assert any(tried(IMAGES) is each.logits for each in (exact, lower))

    with pytest.warns(TerrazzoWarning) as told, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(told) == 1 and tried.chosen in (exact, lower)


def test_it_is_tried_for_many_images_unless_each_must_get_the_same_mask_every_time() -> None:
    assert Workload(LEAST_TRIED).tries_bfloat16
    assert not Workload(LEAST_TRIED - 1).tries_bfloat16
    assert not Workload(LEAST_TRIED, repeatable=True).tries_bfloat16
