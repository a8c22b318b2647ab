"""The probabilities of a grid of pixels are those of the whole image, by every protocol; a temperature leaves masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import Protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

LABELS = LabelSpec.from_names(["a", "b", "c"])
PROTOCOLS = {
    "whole": Protocol("whole"),
    "slide": Protocol("slide", window=32, stride=24, blend="linear"),
    "multi-scale": Protocol("multi-scale", ratios=(0.5, 1.0), flip=True),
}


def engine(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels as logits, at a quarter of the size."""
    return np.ascontiguousarray(images[:, :, ::4, ::4])


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.mark.parametrize("step", [1, 3, 64])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_grid_is_a_part_of_all_probabilities(image: NDArray[np.uint8], name: str, step: int) -> None:
    predictor = Predictor(engine, Preprocess(), LABELS, "x", PROTOCOLS[name])
    [(mask, grid)] = predictor.masks_and_grids([image], step)
    (whole,) = predictor.segment([image], [None], keep=frozenset({"probabilities"}))
    assert grid is not None and whole.probabilities is not None
    assert np.array_equal(mask, whole.mask)
    assert grid == pytest.approx(whole.probabilities[:, ::step, ::step], abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_temperature_changes_probabilities_and_no_mask(
    image: NDArray[np.uint8], name: str, temperature: float
) -> None:
    plain = Predictor(engine, Preprocess(), LABELS, "x", PROTOCOLS[name])
    keep = frozenset({"probabilities", "confidence", "entropy"})
    (before,) = plain.segment([image], [None], keep=keep)
    (after,) = replace(plain, temperature=temperature).segment([image], [None], keep=keep)
    assert np.array_equal(before.mask, after.mask)
    assert before.probabilities is not None and after.probabilities is not None
    expected = before.probabilities.astype(np.float64) ** (1 / temperature)
    expected /= expected.sum(axis=0)
    assert after.probabilities == pytest.approx(expected, abs=1e-5)
    assert after.confidence == pytest.approx(expected.max(axis=0), abs=1e-5)
    assert after.entropy == pytest.approx(-(expected * np.log(expected)).sum(axis=0) / np.log(3), abs=1e-4)
    [(_, grid)] = replace(plain, temperature=temperature).masks_and_grids([image], 5)
    assert grid == pytest.approx(expected[:, ::5, ::5], abs=1e-5)
