"""Models on encoders of transformers as ONNX files: traced, at any size, and compared like all others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import terrazzo
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        ("fcn", "resnet"),
        ("fcn_dilated", "resnet"),
        ("all_mlp", "pvt_v2"),
        ("all_mlp", "convnext"),  # extends images to whole patches, which the graph must do too
        ("setr_pup", "dinov2"),
        ("setr_mla", "dinov3_vit"),
    ],
)
def test_the_file_computes_what_the_model_does(decoder: str, encoder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(decoder, 3, encoder=TINY_BACKBONES[encoder]).eval()
    model = TrainedModel(decoder, network, LabelSpec.from_names(["a", "b", "c"]), Preprocess())
    written = terrazzo.export(model, tmp_path / "model.onnx")
    assert written.path.is_file() and written.parity.passed
