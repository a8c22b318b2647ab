"""Filters for photos larger than those in training: val mIoU of the shipped model on enlarged photos of CamVid.

    python benchmarks/resizing.py --data CAMVID --write
    python benchmarks/resizing.py --data CAMVID --photos 10

CamVid's photos are enlarged 2 and 4 times (bicubic), with and without the noise of a sensor (Gaussian, 10 grey levels),
and resized to the model's input by each filter. Labels are enlarged by repeating pixels. The time is that of one resize
of the photo enlarged 4 times, with one thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import terrazzo
from measure import header, publish, table
from terrazzo.data import open_dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.evaluation.confusion import ConfusionMatrix
from terrazzo.inference.predictor import Predictor
from terrazzo.preprocess import Preprocess
from terrazzo.weights.catalog import DEFAULT_MODEL

FILTERS = {
    "bilinear, plain (OpenCV)": {"interpolation": "bilinear", "antialias": False},
    "bilinear, antialiased (Pillow)": {"interpolation": "bilinear", "antialias": True},
    "bicubic, antialiased": {"interpolation": "bicubic", "antialias": True},
    "area": {"interpolation": "area", "antialias": True},
}
CASES = [(1, 0), (2, 0), (4, 0), (2, 10), (4, 10)]
"""Enlarged how many times, and with how much noise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument(
        "--photos", dest="images", type=int, help="as many photos, spread over the split; by default all"
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    dataset = open_dataset(options.data, "val")
    chosen = range(0, len(dataset), max(len(dataset) // (options.images or len(dataset)), 1))
    model = terrazzo.load(DEFAULT_MODEL)
    engine, labels = TorchEngine(model.network), model.labels
    totals = {
        (name, case): ConfusionMatrix(labels.num_classes, labels.ignore_index) for name in FILTERS for case in CASES
    }
    seconds: dict[str, list[float]] = {name: [] for name in FILTERS}
    for index in chosen:
        image, mask = dataset.read(index)
        for factor, noise in CASES:
            large, large_mask = enlarged(image, factor, noise, seed=index), mask.repeat(factor, 0).repeat(factor, 1)
            for name, how in FILTERS.items():
                preprocess = replace(model.preprocess, **how)
                if factor == 4:
                    seconds[name].append(timed(preprocess, large))
                (predicted,) = Predictor(engine, preprocess, labels).masks([large])
                totals[name, (factor, noise)].update(predicted, large_mask)

    columns = ["filter", *(f"{factor}x{' noisy' * (noise > 0)}" for factor, noise in CASES), "ms"]
    rows = [
        [name, *(f"{totals[name, case].metrics().mIoU:.2f}" for case in CASES), f"{1e3 * min(seconds[name]):.1f}"]
        for name in FILTERS
    ]
    text = header(
        f"mIoU on enlarged photos by filter, {DEFAULT_MODEL}", "python benchmarks/resizing.py --data CAMVID --write"
    )
    text += f"\n{len(chosen)} val photos.\n\n" + table(columns, rows)
    publish("resizing", text, options.write)


def enlarged(image_HW3: NDArray[np.uint8], factor: int, noise: int, seed: int) -> NDArray[np.uint8]:
    """Return the photo enlarged and made noisy."""
    if factor == 1:
        return image_HW3
    height, width = image_HW3.shape[:2]
    large = cv2.resize(image_HW3, (factor * width, factor * height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    large += np.random.default_rng(seed).normal(0, noise, large.shape) if noise else 0
    return np.clip(np.rint(large), 0, 255).astype(np.uint8)


def timed(preprocess: Preprocess, image_HW3: NDArray[np.uint8]) -> float:
    """Return the CPU seconds of one resize."""
    started = time.process_time()
    preprocess.resize(image_HW3)
    return time.process_time() - started


if __name__ == "__main__":
    main()
