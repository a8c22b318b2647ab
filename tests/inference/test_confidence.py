"""Confidence and entropy are those of the plain definition: the softmax of the fully upsampled logits."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import terrazzo
from terrazzo.errors import ConfigError
from terrazzo.inference import scratch
from terrazzo.inference.predict_folder import predict_folder
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import WHOLE, Protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

CLASSES = 12
LABELS = LabelSpec.from_names([f"class {k}" for k in range(CLASSES)])
PLAIN = Preprocess(mean=(128, 128, 128), std=(40, 40, 40))
IMAGE = np.random.default_rng(0).integers(0, 256, (60, 84, 3), dtype=np.uint8)
PROTOCOLS = [WHOLE, Protocol("mine", window=40, stride=28, blend="linear"), Protocol("two", ratios=(0.5, 1), flip=True)]


def network(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    mix = np.random.default_rng(1).normal(size=(CLASSES, 3)).astype(np.float32)
    return np.ascontiguousarray(np.einsum("kc,bchw->bkhw", mix, images_B3HW[..., ::4, ::4]))


def plain(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    p = probabilities.astype(np.float64)
    return p.max(axis=0), -(p * np.log(np.maximum(p, 1e-300))).sum(axis=0) / np.log(CLASSES)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_they_follow_from_the_probabilities_by_every_protocol(protocol: Protocol) -> None:
    predictor = Predictor(network, PLAIN, LABELS, protocol=protocol)
    result = terrazzo.predict(IMAGE, predictor, probabilities=True, confidence=True)
    assert result.probabilities is not None and result.confidence is not None and result.entropy is not None
    highest, entropy = plain(result.probabilities)
    np.testing.assert_allclose(result.confidence, highest, atol=1e-5)
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-5)
    alone = terrazzo.predict(IMAGE, predictor, confidence=True)
    assert alone.probabilities is None and alone.confidence is not None and alone.entropy is not None
    np.testing.assert_allclose(alone.confidence, result.confidence, atol=1e-6)
    np.testing.assert_allclose(alone.entropy, result.entropy, atol=1e-6)
    np.testing.assert_array_equal(alone.mask, terrazzo.predict(IMAGE, predictor).mask)


def test_files_hold_them_in_sixteen_bits(tmp_path: Path) -> None:
    predictor = Predictor(network, PLAIN, LABELS)
    result = terrazzo.predict(IMAGE, predictor, confidence=True)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    predict_folder(tmp_path / "a.png", tmp_path / "out", predictor, save="confidence,entropy")
    for kind in ("confidence", "entropy"):
        with Image.open(tmp_path / "out" / f"a_{kind}.png") as file:
            stored = np.asarray(file)
        assert stored.dtype == np.uint16 and stored.shape == (60, 84)
        np.testing.assert_allclose(stored / 65535, getattr(result, kind), atol=1e-5)


def test_what_was_not_kept_is_not_saved(tmp_path: Path) -> None:
    result = terrazzo.predict(IMAGE, Predictor(network, PLAIN, LABELS))
    for kind in ("confidence", "entropy"):
        with pytest.raises(ConfigError, match=f"the {kind} of this prediction was not kept") as caught:
            result.save(tmp_path / "out", kind)
        assert "confidence=True" in caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=lambda protocol: protocol.name)
def test_memory_is_a_few_numbers_a_pixel_and_not_one_for_each_class(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 1 << 18)
    image = np.zeros((1000, 1400, 3), np.uint8)
    image[:, ::7] = 200
    few = Protocol("mine", window=200, stride=150, blend="linear") if protocol.window else protocol

    def thin(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(np.repeat(images_B3HW[:, :1, ::16, ::16], 60, axis=1))

    labels = LabelSpec.from_names([f"class {k}" for k in range(60)])
    predictor = Predictor(thin, PLAIN, labels, protocol=few)
    predictor.segment([image], [None], keep=frozenset({"confidence", "entropy"}))
    tracemalloc.start()
    predictor.segment([image], [None], keep=frozenset({"confidence", "entropy"}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6  # input 17 MB, results 13 MB, strips of a million numbers; probabilities would be 336 MB
