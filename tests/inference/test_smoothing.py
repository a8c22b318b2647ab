"""Smoothing over frames: the moving average by hand, and the same in windows as for whole frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from terrazzo.errors import ConfigError
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.inference.smoothing import smoothed
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

UNIT = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
SLIDE = Protocol("slide", window=16, stride=12, blend="linear")


def channels(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images.copy()


MODEL = Predictor(channels, UNIT, LabelSpec.from_names(["r", "g", "b"]))


@pytest.fixture(scope="module")
def frames() -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (4, 30, 41, 3)).astype(np.uint8))


@pytest.mark.parametrize("protocol", [MODEL.protocol, SLIDE], ids=["whole", "slide"])
@pytest.mark.parametrize("together", [1, 4])
def test_masks_are_those_of_the_moving_average(
    frames: list[NDArray[np.uint8]], protocol: Protocol, together: int
) -> None:
    mean = frames[0].astype(np.float64)
    expected = [mean.argmax(axis=2)]
    for frame in frames[1:]:
        mean = 0.75 * mean + 0.25 * frame
        expected.append(mean.argmax(axis=2))
    predictor = smoothed(replace(MODEL, protocol=protocol), 0.75)
    found = [mask for k in range(0, 4, together) for mask in predictor.masks(frames[k : k + together])]
    for mask, wanted in zip(found, expected, strict=True):
        assert (mask != wanted).mean() < 0.002  # ties within rounding


def test_another_size_begins_anew_and_whole_frames_follow_windows(frames: list[NDArray[np.uint8]]) -> None:
    predictor = smoothed(replace(MODEL, protocol=SLIDE), 0.9)
    predictor.masks(frames[:1])
    small = frames[1][:10, :10]
    assert np.array_equal(predictor.masks([small])[0], small.argmax(axis=2))
    whole = replace(predictor, protocol=MODEL.protocol)
    assert np.array_equal(whole.masks(frames[2:3])[0], frames[2].argmax(axis=2))  # the first whole frame


def test_several_views_cannot_be_smoothed() -> None:
    with pytest.raises(ConfigError) as caught:
        smoothed(replace(MODEL, protocol=Protocol("two", flip=True)), 0.5)
    assert caught.value.code == "video-smoothing"
    assert smoothed(MODEL, 0) is MODEL
