"""Models on encoders of transformers as files: .pt2 once died of a division that was rounded up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import terrazzo
from terrazzo.errors import ConfigError
from terrazzo.exports.torch_export import write_torch
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("transformers")


CASES = (
    ("setr_naive", "dinov3_vit"),
    pytest.param("all_mlp", "convnext", marks=pytest.mark.slow),
    pytest.param("all_mlp", "pvt_v2", marks=pytest.mark.slow),
    pytest.param("all_mlp", "resnet", marks=pytest.mark.slow),
    pytest.param("setr_naive", "dinov2", marks=pytest.mark.slow),
)
WRITTEN = {getattr(case, "values", case)[1] for case in CASES}


@pytest.mark.parametrize(("decoder", "encoder"), CASES)
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


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".xml"])
def test_a_swin_is_refused_before_it_is_traced(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swin: TrainedModel
) -> None:
    for exporter in ("torch.export.export", "torch.onnx.export"):
        monkeypatch.setattr(exporter, lambda *_args, **_options: pytest.fail("it is traced"))
    with pytest.raises(ConfigError, match="encoder swin cannot be written as") as caught:
        terrazzo.export(swin, tmp_path / f"model{suffix}")
    assert caught.value.code == "export-operation" and "--engine torch" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def swin() -> TrainedModel:
    network = create_model("all_mlp", 3, encoder=TINY_BACKBONES["swin"]).eval()
    return TrainedModel("all_mlp", network, LabelSpec.from_names(["a", "b", "c"]), Preprocess())


def test_what_torchs_writer_cannot_write_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer took a model whose sizes were rounded in floating point, and the writer died of it."""

    def save(*_args: Any, **_options: Any) -> None:
        raise NotImplementedError("op <built-in function ceil> is not in _SYM_OPS")

    monkeypatch.setattr("torch.export.save", save)
    monkeypatch.setattr("terrazzo.exports.torch_export.network_of", lambda *_: torch.nn.Conv2d(3, 3, 1))
    model = TrainedModel(
        "setr_naive", create_model("setr_naive_tiny", 2), LabelSpec.from_names(["a", "b"]), Preprocess()
    )
    with pytest.raises(
        ConfigError, match=r"setr_naive cannot be written as \.pt2: op <built-in function ceil>"
    ) as caught:
        write_torch(model, tmp_path / "model.pt2")
    assert caught.value.code == "export-operation" and list(tmp_path.iterdir()) == []


def test_every_family_is_written_or_refused() -> None:
    assert WRITTEN | {"swin"} == set(TINY_BACKBONES)
