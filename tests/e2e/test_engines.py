"""A directory of real photos through every engine: the same masks, but for exact ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from terrazzo.engines.auto import Workload
from terrazzo.imaging.read import read_image
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation

TIE = 1e-5


def lead(predictor: Predictor, path: Path) -> np.ndarray:
    """How far the best class of each pixel is ahead of the second, computed plainly, in float64."""
    image = read_image(path)
    images = predictor.preprocess(image)[None]
    logits = torch.from_numpy(predictor.engine(images)).double()
    logits = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
    logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    best, second = logits[0].topk(2, dim=0).values
    return (best - second).numpy()


def compare(paths: list[Path]) -> None:
    torch_ = make_predictor(engine="torch")
    workload = Workload.of(paths)
    masks = {}
    for engine in ("torch", "onnxruntime", "openvino"):
        results = make_predictor(engine=engine, threads=2, precision="fp32", workload=workload).segment_files(paths)
        masks[engine] = [result.mask for result in results if isinstance(result, Segmentation)]
        assert len(masks[engine]) == len(paths)
    for engine in ("onnxruntime", "openvino"):
        for path, mine, theirs in zip(paths, masks[engine], masks["torch"], strict=True):
            differs = mine != theirs
            if differs.any():
                assert lead(torch_, path)[differs].max() < TIE, (engine, path)


def camvid(shared_data: Path, count: int) -> list[Path]:
    folders = [shared_data / "camvid" / split / "images" for split in ("train", "val")]
    return [path for folder in folders for path in sorted(folder.iterdir())[: count // 2]]


def test_a_few_images_get_the_same_masks_from_every_engine(shared_data: Path) -> None:
    compare(camvid(shared_data, 4))


@pytest.mark.slow
def test_two_hundred_do(shared_data: Path) -> None:
    paths = camvid(shared_data, 200)
    assert len(paths) == 200
    compare(paths)
