"""Exact upsampling of logits to a mask, beside a resize of all classes followed by argmax.

    python benchmarks/postprocess.py [--rounds N] [--write]

The logits imitate a trained network's: patches with soft borders over smooth noise, with about a quarter of all cells
on a border, which is more than in photos. The literal way gets the memory layout in which it is fastest (planes; with
classes last it takes three times as long), and is left out where its planes would need too much memory.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import argparse
import math
import tracemalloc
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import measure
from terrazzo.inference.upsample.argmax import upsample_argmax

MOST_BYTES = 3e9


@dataclass(frozen=True)
class Case:
    name: str
    num_classes: int
    source: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]


CASES = [
    Case("512 x 512, 512 x 512", 19, (128, 128), ((512, 512),)),
    Case("1080 x 1920, 1080 x 1920", 150, (270, 480), ((1080, 1920),)),
    Case("1080 x 1920, 512 x 912", 150, (128, 228), ((512, 912), (1080, 1920))),
    Case("2160 x 3840, 2160 x 3840", 150, (540, 960), ((2160, 3840),)),
    Case("2160 x 3840, 512 x 912", 150, (128, 228), ((512, 912), (2160, 3840))),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    columns = [
        "photo and network input",
        "K",
        "cells on borders",
        "ours, classes last",
        "ours, planes",
        "resize + argmax, planes",
        "ratio",
        "our memory",
        "pixels that differ",
    ]
    rows = [compare(case, arguments.rounds) for case in CASES]
    text = (
        measure.header("Logits to mask: exact upsampling beside resize and argmax", "python benchmarks/postprocess.py")
        + "\n"
        + measure.table(columns, rows)
        + f"\nMilliseconds, minimum (median) of {arguments.rounds} rounds, numpy {np.__version__}, OpenCV "
        f"{cv2.__version__}, load average {os.getloadavg()[0]:.1f}. The ratio is of minima, to the slower of our two "
        "memory orders.\nMemory is the peak beyond the logits, mask included. Pixels that differ are ties within "
        "rounding: beside their number, the largest gap between the two classes' resized logits.\n"
    )
    measure.publish("postprocess", text, arguments.write)


def compare(case: Case, rounds: int) -> list[str]:
    planes_KHW = made_logits(case.num_classes, *case.source)
    classes_last_KHW = np.ascontiguousarray(planes_KHW.transpose(1, 2, 0)).transpose(2, 0, 1)
    ours = [
        lambda: upsample_argmax(classes_last_KHW, case.sizes),
        lambda: upsample_argmax(planes_KHW, case.sizes),
    ]
    needed = 4 * case.num_classes * math.prod(case.sizes[-1])
    if needed < MOST_BYTES:
        *times, literal = measure.alternate([*ours, lambda: resize(planes_KHW, case.sizes).argmax(dim=1)], rounds)
        literally = milliseconds(literal)
        ratio = f"{literal.least / max(side.least for side in times):.0f}x"
        differing = differing_pixels(planes_KHW, case)
    else:
        times = measure.alternate(ours, rounds)
        literally, ratio, differing = f"needs {needed / 1e9:.1f} GB", "", "not compared"
    return [
        case.name,
        str(case.num_classes),
        f"{share_of_mixed_cells(planes_KHW):.0%}",
        *map(milliseconds, times),
        literally,
        ratio,
        f"{peak_megabytes(classes_last_KHW, case):.0f} MB",
        differing,
    ]


def milliseconds(times: measure.Times) -> str:
    return f"{1e3 * times.least:.1f} ({1e3 * times.median:.1f})"


def resize(logits_KHW: NDArray[np.float32], sizes: tuple[tuple[int, int], ...]) -> torch.Tensor:
    x = torch.from_numpy(logits_KHW)[None]
    for size in sizes:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return x


def peak_megabytes(logits_KHW: NDArray[np.float32], case: Case) -> float:
    tracemalloc.start()
    upsample_argmax(logits_KHW, case.sizes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def differing_pixels(logits_KHW: NDArray[np.float32], case: Case) -> str:
    full = resize(logits_KHW, case.sizes)[0]
    ours = torch.from_numpy(upsample_argmax(logits_KHW, case.sizes).astype(np.int64))
    expected = full.argmax(dim=0)
    differ = ours != expected
    if not differ.any():
        return "0"
    gap = full.gather(0, expected[None]) - full.gather(0, ours[None])
    return f"{int(differ.sum())} ({float(gap.max()):.0e})"


def share_of_mixed_cells(logits_KHW: NDArray[np.float32]) -> float:
    winner = logits_KHW.argmax(axis=0)
    corners = np.stack([winner[:-1, :-1], winner[1:, :-1], winner[:-1, 1:], winner[1:, 1:]])
    return float((corners != corners[0]).any(axis=0).mean())


def made_logits(num_classes: int, height: int, width: int, patch: int = 9) -> NDArray[np.float32]:
    """(K, H, W) logits: each pixel belongs to the nearest of jittered seeds about `patch` pixels apart."""
    rng = np.random.default_rng(0)
    grid = (-(-height // patch) + 2, -(-width // patch) + 2)
    seed_y = (np.arange(grid[0])[:, None] - 1 + rng.random(grid)) * patch
    seed_x = (np.arange(grid[1]) - 1 + rng.random(grid)) * patch
    seed_class = rng.integers(0, num_classes, grid)
    y, x = np.mgrid[:height, :width]
    nearest, label = np.full((height, width), np.inf), np.zeros((height, width), np.int64)
    for dy in range(3):
        for dx in range(3):
            at = (y // patch + dy, x // patch + dx)
            distance = (seed_y[at] - y) ** 2 + (seed_x[at] - x) ** 2
            label = np.where(distance < nearest, seed_class[at], label)
            nearest = np.minimum(distance, nearest)
    logits_KHW = np.empty((num_classes, height, width), np.float32)
    for k, plane in enumerate(logits_KHW):
        coarse = rng.standard_normal((height // 8, width // 8), dtype=np.float32)
        plane[:] = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) - 3
        plane += 10 * cv2.GaussianBlur((label == k).astype(np.float32), (0, 0), 1.0)
    return logits_KHW


if __name__ == "__main__":
    main()
