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
from terrazzo.models.encoders.backbone import create_backbone
from terrazzo.models.encoders.swin_export import swin_maps
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel
from tiny_backbones import TINY_BACKBONES

pytest.importorskip("transformers")


PLAIN = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
STAGES = {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]}
WINDOWS = {"embed_dim": 4, "depths": [2, 2, 1, 2], "num_heads": [1, 1, 2, 2]}
SWINS: dict[str, dict[str, Any]] = {
    "swin": {**WINDOWS, "window_size": 3},
    "swinv2": {**WINDOWS, "window_size": 4},
    "maskformer-swin": {**WINDOWS, "window_size": 5},
}
WRITTEN: dict[str, dict[str, Any]] = {
    **SWINS,
    "beit": {**PLAIN, "image_size": 64},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_groups": 2},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "dinov2": {**PLAIN, "patch_size": 14, "image_size": 56},
    "dinov2_with_registers": {**PLAIN, "image_size": 56},
    "dinov3_convnext": STAGES,
    "dinov3_vit": {**PLAIN, "intermediate_size": 16, "num_register_tokens": 2},
    "focalnet": {
        "embed_dim": 4,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [4, 8, 16, 32],
        "focal_levels": [1, 1, 1, 1],
        "focal_windows": [3, 3, 3, 3],
    },
    "hgnet_v2": {},
    "lw_detr_vit": {**PLAIN, "image_size": 64},
    "pixio": {**PLAIN, "image_size": 64},
    "pp_lcnet": {"scale": 0.25},
    "pp_lcnet_v3": {"scale": 0.25},
    "pvt_v2": TINY_BACKBONES["pvt_v2"],
    "resnet": TINY_BACKBONES["resnet"],
    "rf_detr_dinov2": {**PLAIN, "patch_size": 14, "image_size": 56},
    "rt_detr_resnet": TINY_BACKBONES["resnet"],
    "sapiens2": {**PLAIN, "intermediate_size": 16, "image_size": 64},
    "textnet": {},
    "tipsv2_vision_model": {**PLAIN, "image_size": 56},
    "uvdoc_backbone": {},
    "vitdet": {**PLAIN, "image_size": 64},
}
"""Families of transformers with few channels and layers."""
REFUSED = {
    "dinat": "needs natten, a compiled package",
    "hiera": "its position embeddings fit one size of images",
    "pp_lcnet_v4": "its strides differ between rows and columns",
    "timm_backbone": "not of transformers",
    "tipsv2": "text and images; its images' part is tipsv2_vision_model",
    "vitpose_backbone": "takes images of one size",
}
SIZES = ((67, 83), (97, 151), (131, 199))  # multiples of no stride, patch or window


def tiny(family: str, values: dict[str, Any]) -> TrainedModel:
    """An FCN on a backbone, with weights that make every part count."""
    torch.manual_seed(0)
    network = create_model("fcn", 3, encoder={"model_type": family, **values}).eval()
    if family in SWINS:
        for parameter in network.encoder.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0.0, 0.3)
    return TrainedModel("fcn", network, LabelSpec.from_names(["a", "b", "c"]), Preprocess())


@torch.no_grad()
@pytest.mark.parametrize("family", SWINS)
def test_the_form_of_a_swin_that_is_exported_computes_transformers_maps(family: str) -> None:
    torch.manual_seed(0)
    backbone: Any = tiny(family, SWINS[family]).network.encoder.backbone
    for size in (*SIZES, (33, 47), (128, 96), (65, 190)):
        images = torch.randn(2, 3, *size)
        for theirs, ours in zip(backbone(images).feature_maps, swin_maps(backbone, images), strict=True):
            h, w = theirs.shape[2:]
            torch.testing.assert_close(ours[:, :, :h, :w], theirs, rtol=1e-4, atol=1e-4)


def same_logits(model: TrainedModel, path: Path) -> None:
    run: Any
    if path.suffix == ".pt2":
        run = torch.export.load(path).module()
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path)
        run = lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])  # noqa: E731
    for size in SIZES:
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(run(images), model.network(images), atol=1e-4, rtol=1e-4)


def test_a_swin_is_written_with_free_sizes(tmp_path: Path) -> None:
    """Of one stage with a shifted window, since each layer takes the tracer a second."""
    model = tiny("swin", {"embed_dim": 4, "depths": [2], "num_heads": [1], "window_size": 3})
    assert write_torch(model, tmp_path / "model.pt2").minimum_side <= 33
    same_logits(model, tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("family", WRITTEN)
def test_every_family_is_written(family: str, suffix: str, tmp_path: Path) -> None:
    model = tiny(family, WRITTEN[family])
    terrazzo.export(model, tmp_path / f"model{suffix}")
    same_logits(model, tmp_path / f"model{suffix}")


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_be_an_encoder_are_refused(family: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_backbone({"model_type": family, **PLAIN, "embed_dim": 8}, maps="last")
    assert caught.value.code in ("encoder-backbone", "encoder-config")


def test_every_family_of_transformers_is_written_or_refused() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    assert {*WRITTEN, *REFUSED} >= set(MODEL_FOR_BACKBONE_MAPPING_NAMES)


@torch.no_grad()
@pytest.mark.parametrize("family", ["lw_detr_vit", "rf_detr_dinov2"])
def test_a_fixed_number_of_windows_takes_any_size(family: str) -> None:
    encoder = create_backbone({"model_type": family, **WRITTEN[family]}, maps="last").eval()
    (stride,) = encoder.strides
    images = torch.randn(1, 3, 97, 61)
    (x_BChw,) = encoder(images)
    assert x_BChw.shape[2:] == (-(-97 // stride), -(-61 // stride))
    whole = [4 * stride * -(-side // (4 * stride)) for side in (97, 61)]
    extended = torch.nn.functional.pad(images, (0, whole[1] - 61, 0, whole[0] - 97), mode="replicate")
    cells: Any = encoder.backbone(extended)
    torch.testing.assert_close(x_BChw, cells.feature_maps[0][:, :, : x_BChw.shape[2], : x_BChw.shape[3]])


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
