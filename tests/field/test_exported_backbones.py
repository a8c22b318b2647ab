"""Models on encoders of transformers as .pt2 files, which once died of a division that was rounded up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from terrazzo.exports.torch_export import write_torch
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import create_model
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        ("setr_naive", "dinov3_vit"),
        pytest.param("all_mlp", "convnext", marks=pytest.mark.slow),
        pytest.param("all_mlp", "pvt_v2", marks=pytest.mark.slow),
        pytest.param("all_mlp", "resnet", marks=pytest.mark.slow),
        pytest.param("setr_naive", "dinov2", marks=pytest.mark.slow),
    ],
)
def test_a_file_of_free_sizes_computes_what_the_model_does(decoder: str, encoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(decoder, 3, encoder=TINY_BACKBONES[encoder]).eval()
    model = TrainedModel(decoder, network, LabelSpec.from_names(["a", "b", "c"]), Preprocess())
    description = write_torch(model, tmp_path / "model.pt2")
    assert description.minimum_side <= 61
    program = torch.export.load(tmp_path / "model.pt2").module()
    for batch, height, width in ((1, 64, 64), (2, 97, 131), (1, 128, 96)):  # whole patches, and not
        images = torch.randn(batch, 3, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(program(images), network(images), atol=1e-5, rtol=1e-5)
