"""Weights for three bands in networks for more and for fewer: the filters' values, and what they compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import terrazzo
from terrazzo.models import find_spec
from terrazzo.weights.bands import fitted_bands, with_bands
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from terrazzo.weights.load import StartingWeights
from tiny_backbones import TINY_BACKBONES

FILTERS = torch.tensor([[1.0, 2.0, 6.0]]).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        (1, [9.0]),  # the sum: 3 times the mean
        (2, [4.5, 4.5]),
        (3, [1.0, 2.0, 6.0]),
        (4, [0.75, 1.5, 4.5, 2.25]),
        (6, [0.5, 1.0, 3.0, 1.5, 1.5, 1.5]),
    ],
)
def test_filters(bands: int, expected: list[float]) -> None:
    assert with_bands(FILTERS, bands).flatten().tolist() == expected


@pytest.mark.parametrize("bands", [1, 2, 5])
@pytest.mark.parametrize("name", ["mit_b0+fcn", "vit_tiny+setr_naive"])
@torch.no_grad()
def test_images_whose_bands_are_alike_give_the_same_logits(name: str, bands: int) -> None:
    torch.manual_seed(0)
    before = create_model(name, 2, image_size=(32, 32)).eval()
    after = create_model(name, 2, image_size=(32, 32), in_channels=bands).eval()
    weights = StartingWeights("x", name, before.state_dict())
    after.load_state_dict(weights.fitted_to(after))
    grey = torch.randn(1, 1, 32, 32)
    expected = before(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(after(grey.expand(-1, bands, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_only_the_first_convolution_is_changed() -> None:
    """Another with as many channels is left alone where it is of another size."""
    like = {"first": torch.zeros(2, 4, 3, 3), "inner": torch.zeros(3, 3, 1, 1)}
    tensors = {"first": torch.ones(2, 3, 3, 3), "inner": torch.ones(3, 3, 1, 1)}
    fitted = fitted_bands(tensors, like, 3, 4)
    assert fitted["inner"] is tensors["inner"] and fitted["first"].shape == (2, 4, 3, 3)
    assert fitted_bands(tensors, like, 3, 3) == tensors


@pytest.mark.parametrize("family", ["resnet", "dinov2"])
def test_a_backbones_weights(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family].from_dict(TINY_BACKBONES[family])
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_channels"] == 3
    three = terrazzo.create_model("fcn", 2, encoder=f"hf:{tmp_path}").encoder.state_dict()
    four = terrazzo.create_model("fcn", 2, encoder=f"hf:{tmp_path}", in_channels=4)
    assert four.in_channels == 4
    changed = [key for key, value in four.encoder.state_dict().items() if value.shape != three[key].shape]
    assert len(changed) == 1
    for key, value in four.encoder.state_dict().items():
        assert torch.equal(value, with_bands(three[key], 4) if key in changed else three[key])


def test_four_bands_are_saved_and_loaded(tmp_path: Path) -> None:
    network = create_model("segformer_b0", 2, in_channels=4).eval()
    labels = terrazzo.LabelSpec.from_names(["a", "b"])
    save_folder(tmp_path / "x", TrainedModel("segformer_b0", network, labels, terrazzo.Preprocess()))
    loaded = load_folder(tmp_path / "x")
    assert loaded.spec == find_spec("segformer_b0").adapted(2, in_channels=4)
    images = torch.randn(1, 4, 33, 35)
    with torch.inference_mode():
        assert torch.equal(loaded.network(images), network(images))
    with pytest.raises(ValueError, match=r"\(B, 4, H, W\)"):
        loaded.network(torch.randn(1, 3, 33, 35))
