"""`check_weights`: which published logits belong to which weights, and what counts as equal."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import terrazzo
from terrazzo.errors import ConfigError
from terrazzo.weights import check_weights as module
from terrazzo.weights.check_weights import published_logits


class Published(nn.Module):
    """Gives the published corner, whatever it sees, but for an error."""

    def __init__(self, name: str, error: float) -> None:
        super().__init__()
        self.logits = torch.zeros(1, 150, 128, 128)
        self.logits[0, :3, :3, :3] = torch.tensor(published_logits()["logits"][name]) + error
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return self.logits


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("weights/segformer.b2.512x512.ade.160k.pth", "segformer.b2.512x512.ade.160k"),
        ("nvidia/segformer-b5-finetuned-ade-640-640", "segformer.b5.640x640.ade.160k"),
        ("nvidia/segformer-b1-finetuned-cityscapes-1024-1024@main", "segformer.b1.1024x1024.city.160k"),
    ],
)
@pytest.mark.parametrize(("error", "agrees"), [(0.009, True), (0.011, False)])
def test_weights_are_known_by_their_name_and_held_to_the_tolerance(
    weights: str, name: str, error: float, agrees: bool, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Published(name, error)
    monkeypatch.setattr(module, "load", lambda _: type("Model", (), {"network": network}))
    found = terrazzo.check_weights(weights, photo)
    assert (found.weights, found.values, found.agrees) == (name, 27, agrees)
    assert found.difference == pytest.approx(error, abs=1e-5)
    (shown,) = network.seen
    with Image.open(photo) as image:
        squeezed = np.asarray(image.resize((512, 512), Image.Resampling.BILINEAR), np.float32)
    expected = (squeezed - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    assert np.abs(shown[0].numpy().transpose(1, 2, 0) - expected).max() < 1.01 / 57  # one grey level


@pytest.mark.parametrize(
    ("weights", "name", "said", "fix"),
    [
        ("my.pth", None, "does not say which weights", "one of 'segformer.b0"),
        ("segformer.b3.1024x1024.city.160k.pth", None, "nothing was published for segformer.b3", "did you mean"),
        ("my.pth", "segformer.b9", "nothing was published for segformer.b9", "give --name"),
    ],
)
def test_weights_without_published_logits(weights: str, name: str | None, said: str, fix: str, photo: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        terrazzo.check_weights(weights, photo, name=name)
    assert fix in caught.value.fix and caught.value.code == "check-weights-name"


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("data", ["ade-512-512", "cityscapes-1024-1024"])
def test_nvidias_own_weights_agree(data: str, tmp_path: Path) -> None:
    photo = tmp_path / "000000039769.jpg"
    try:
        with urllib.request.urlopen(published_logits()["photo"], timeout=30) as answer:
            photo.write_bytes(answer.read())
    except OSError as error:
        pytest.skip(f"the photo cannot be had: {error}")
    assert terrazzo.check_weights(f"nvidia/segformer-b0-finetuned-{data}", photo).agrees
