"""UPerNet and PVT against those of transformers, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.weights.create import create_model
from tiny_backbones import TINY_BACKBONES

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

HEAD = {
    "psp_modules.": "pooling.branches.",
    "bottleneck.": "pooling.fuse.",
    "lateral_convs.": "laterals.",
    "fpn_convs.": "outputs.",
    "fpn_bottleneck.": "fuse.",
    "classifier.": "classifier.",
}


def uneven(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["resnet", "swin", "convnext"])
@torch.no_grad()
def test_upernet_gives_the_logits_of_transformers(family: str) -> None:
    torch.manual_seed(0)
    config = dict(TINY_BACKBONES[family])
    backbone = transformers.AutoConfig.for_model(**config, out_features=["stage1", "stage2", "stage3", "stage4"])
    theirs = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(backbone_config=backbone, hidden_size=16, num_labels=5, use_auxiliary_head=False)
    ).eval()
    uneven(theirs)
    ours = create_model("upernet", 5, encoder=config)
    decoder = ours.decoder.__class__(ours.encoder.channels, ours.encoder.strides, 5, embed_dim=16)  # type: ignore[call-arg]
    ours.decoder = decoder.eval()
    ours.eval()
    ours.encoder.backbone.load_state_dict(theirs.backbone.state_dict())  # type: ignore[union-attr]
    state = {}
    for key, value in theirs.decode_head.state_dict().items():
        start = next(start for start in HEAD if key.startswith(start))
        name = key.replace(start, HEAD[start], 1).replace("batch_norm", "norm")
        if name.startswith("pooling.branches."):  # there the second part of a sequence
            name = (
                name.replace(".1.", ".project.", 1)
                if not name.startswith("pooling.branches.1.")
                else ("pooling.branches.1.project." + name.removeprefix("pooling.branches.1.1."))
            )
        state[name] = value.flatten(1) if name == "classifier.weight" else value
    ours.decoder.load_state_dict(state)
    images = torch.randn(2, 3, 96, 128)
    logits = F.interpolate(ours(images), (96, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, theirs(images).logits, rtol=1e-4, atol=1e-5)


def pvt_pair() -> tuple[PyramidVisionTransformer, Any]:
    """Ours and transformers', of one size."""
    torch.manual_seed(0)
    sizes = {"depths": [1, 2, 1, 1], "mlp_ratios": [8, 8, 4, 4]}
    theirs = transformers.PvtModel(
        transformers.PvtConfig(
            image_size=64, hidden_sizes=[8, 16, 20, 32], num_attention_heads=[1, 2, 5, 8], layer_norm_eps=1e-6, **sizes
        )
    ).eval()
    uneven(theirs)
    for module in theirs.modules():  # the released code's: 1e-6 in blocks, PyTorch's own elsewhere
        if "PatchEmbeddings" in type(module).__name__ or "SelfAttention" in type(module).__name__:
            getattr(module, "layer_norm", nn.Identity()).eps = 1e-5
    ours = PyramidVisionTransformer(embed_dims=(8, 16, 20, 32), image_size=(64, 64), **sizes).eval()  # type: ignore[arg-type]
    state: dict[str, Tensor] = {}
    for i, (embed, layers) in enumerate(zip(theirs.encoder.patch_embeddings, theirs.encoder.block, strict=True)):
        state[f"stages.{i}.pos_embed"] = embed.position_embeddings[:, -((64 // 4 >> i) ** 2) :].unflatten(
            1, (64 // 4 >> i, -1)
        )
        parts: dict[str, nn.Module] = {"patch_embed.proj": embed.projection, "patch_embed.norm": embed.layer_norm}
        for j, layer in enumerate(layers):
            attention = layer.attention.self
            parts |= {
                f"blocks.{j}.norm1": layer.layer_norm_1,
                f"blocks.{j}.norm2": layer.layer_norm_2,
                f"blocks.{j}.attn.q": attention.query,
                f"blocks.{j}.attn.proj": layer.attention.output.dense,
                f"blocks.{j}.ffn.fc1": layer.mlp.dense1,
                f"blocks.{j}.ffn.fc2": layer.mlp.dense2,
            }
            if hasattr(attention, "sequence_reduction"):
                parts[f"blocks.{j}.attn.sr.conv"] = attention.sequence_reduction
                parts[f"blocks.{j}.attn.sr.norm"] = attention.layer_norm
            for kind in ("weight", "bias"):
                both = [getattr(attention.key, kind), getattr(attention.value, kind)]
                state[f"stages.{i}.blocks.{j}.attn.kv.{kind}"] = torch.cat(both)
        for name, module in parts.items():
            state |= {f"stages.{i}.{name}.{key}": value for key, value in module.state_dict().items()}
    ours.load_state_dict(state)
    return ours, theirs


@torch.no_grad()
def test_pvt_gives_the_maps_of_transformers() -> None:
    """Its last stage has a class token, which segmentation has not: there its layers are called without."""
    ours, theirs = pvt_pair()
    images = torch.randn(2, 3, 64, 64)
    x = images
    for embed, layers, found in zip(theirs.encoder.patch_embeddings, theirs.encoder.block, ours(images), strict=True):
        tokens, height, width = embed(x)
        tokens = tokens[:, -height * width :]
        for layer in layers:
            (tokens,) = layer(tokens, height, width)
        x = tokens.transpose(1, 2).reshape(2, -1, height, width)
        torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)
