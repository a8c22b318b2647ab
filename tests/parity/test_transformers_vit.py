"""With the same weights, SETR's encoder and the ViT of Hugging Face transformers give the same tokens and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from terrazzo.models.encoders.vit import VisionTransformer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[dev]'")

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 96}
LAYERS = (1, 2, 4)


def their_model(height: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **SIZES, image_size=(height, width), patch_size=16, layer_norm_eps=1e-6, attn_implementation="eager"
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def our_model(height: int, width: int) -> VisionTransformer:
    return VisionTransformer(
        embed_dim=24, depth=4, num_heads=3, mlp_ratio=4, patch_size=16, image_size=(height, width), layers=LAYERS,
        class_token_in_blocks=True, drop_path_rate=0.0,
    ).eval()  # fmt: skip


def renamed(theirs: dict[str, Tensor], h: int, w: int) -> dict[str, Tensor]:
    """transformers' tensors under our names."""
    position = theirs["embeddings.position_embeddings"]
    ours = {
        "cls_token": theirs["embeddings.cls_token"],
        "cls_pos_embed": position[:, :1],
        "pos_embed": position[:, 1:].unflatten(1, (h, w)),
    }
    for leaf in ("weight", "bias"):
        ours[f"patch_embed.proj.{leaf}"] = theirs[f"embeddings.patch_embeddings.projection.{leaf}"]
        for i in range(4):
            block, layer = f"blocks.{i}", f"layers.{i}"
            parts = [theirs[f"{layer}.attention.{part}_proj.{leaf}"] for part in "qkv"]
            ours[f"{block}.attn.qkv.{leaf}"] = torch.cat(parts)
            for our_name, their_name in [
                ("norm1", "layernorm_before"), ("attn.proj", "attention.o_proj"), ("norm2", "layernorm_after"),
                ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
            ]:  # fmt: skip
                ours[f"{block}.{our_name}.{leaf}"] = theirs[f"{layer}.{their_name}.{leaf}"]
    return ours


@pytest.mark.parametrize(("height", "width"), [(48, 48), (32, 80)])
def test_tokens_after_every_layer(height: int, width: int) -> None:
    theirs, ours = their_model(height, width), our_model(height, width)
    h, w = height // 16, width // 16
    ours.load_state_dict(renamed(theirs.state_dict(), h, w))
    images = torch.randn(2, 3, height, width)
    states = theirs(images, output_hidden_states=True).hidden_states
    features = ours(images)
    for feature_BChw, layer in zip(features, LAYERS, strict=True):
        expected = states[layer][:, 1:].transpose(1, 2).unflatten(2, (h, w))
        torch.testing.assert_close(feature_BChw, expected, rtol=1e-4, atol=1e-5)


def test_gradients() -> None:
    theirs, ours = their_model(48, 32), our_model(48, 32)
    ours.load_state_dict(renamed(theirs.state_dict(), 3, 2))
    images = torch.randn(2, 3, 48, 32)
    last = theirs(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    last.square().mean().backward()
    ours(images)[-1].square().mean().backward()
    expected = {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    for key, gradient in renamed(expected, 3, 2).items():
        torch.testing.assert_close(ours.get_parameter(key).grad, gradient, rtol=1e-3, atol=1e-6)
