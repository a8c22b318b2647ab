"""What a speed is held against."""

from __future__ import annotations

from itertools import count

import numpy as np

from terrazzo.profiling.machine import Times, gemm_peak, package_versions, peak_memory, processor_name
from terrazzo.profiling.scene import draw_scene


def test_median_and_least() -> None:
    times = Times((3.0, 1.0, 2.0, 9.0))
    assert (times.median, times.least) == (2.5, 1.0)


def test_the_peak_is_operations_over_the_shortest_time() -> None:
    ticks = count()
    assert gemm_peak(lambda: float(next(ticks))) == 2 * 1536**3  # every product takes one tick


def test_peak_memory_does_not_forget() -> None:
    slack = 8_000_000  # the kernel's counters are not exact
    before = peak_memory()
    block = np.ones(200_000_000, np.uint8)
    held = peak_memory()
    del block
    after = peak_memory()
    assert before is not None and held is not None and after is not None
    assert 10e6 < before <= held + slack and held <= after + slack
    assert held > 200e6


def test_the_machine_has_a_name_and_absent_packages_are_left_out() -> None:
    assert processor_name()
    assert list(package_versions("numpy", "no-such-package-here")) == ["numpy"]


def test_scenes_are_images_of_any_size_and_always_the_same() -> None:
    for size in ((1, 1), (7, 300), (120, 80)):
        scene = draw_scene(*size)
        assert scene.shape == (*size, 3) and scene.dtype == np.uint8
        assert (scene == draw_scene(*size)).all()
    assert len(np.unique(draw_scene(120, 80))) > 100
