"""With the same weights, our SegFormer and that of Hugging Face transformers give the same logits and gradients."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from terrazzo.models import Segmenter
from terrazzo.models.segformer import VARIANTS
from terrazzo.weights.create import create_model

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[dev]'")

NUM_CLASSES = 19


@cache
def pair(name: str) -> tuple[Segmenter, nn.Module]:
    """Return our model and transformers' with the same random weights, norms, biases and statistics included."""
    torch.manual_seed(0)
    spec = VARIANTS[name]
    config = transformers.SegformerConfig(
        depths=list(spec.encoder.fields["depths"]),
        hidden_sizes=list(spec.encoder.fields["embed_dims"]),
        decoder_hidden_size=spec.decoder.fields["embed_dim"],
        num_labels=NUM_CLASSES,
        # Softmax written out, so that the attention is held against another formulation.
        attn_implementation="eager",
    )
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for key, value in theirs.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif value.is_floating_point():
                value.normal_(std=0.2)
                if "norm" in key and key.endswith("weight"):
                    value.add_(1.0)
    ours = create_model(name, NUM_CLASSES).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    return ours, theirs


BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.q_proj": "attn.q",
    "attention.o_proj": "attn.proj",
    "attention.sequence_reduction.sequence_reduction": "attn.sr.conv",
    "attention.sequence_reduction.layer_norm": "attn.sr.norm",
    "mlp.fc1": "ffn.fc1",
    "mlp.dwconv.dwconv": "ffn.dwconv",
    "mlp.fc2": "ffn.fc2",
}
STAGE = {
    "patch_embeddings.proj": "patch_embed.proj",
    "patch_embeddings.layer_norm": "patch_embed.norm",
    "layer_norm": "norm",
}
HEAD = {"linear_fuse": "fuse", "batch_norm": "norm", "classifier": "classifier"}


def renamed(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return transformers' tensors (weights or gradients) under our names and in our shapes."""
    ours = {}
    for key, value in theirs.items():
        path, _, leaf = key.rpartition(".")
        parts = path.split(".")
        if path.endswith("attention.v_proj"):
            continue
        if path.endswith("attention.k_proj"):
            value = torch.cat([value, theirs[f"{path.removesuffix('k_proj')}v_proj.{leaf}"]])
            path = f"encoder.stages.{parts[2]}.blocks.{parts[4]}.attn.kv"
        elif "blocks" in parts:
            path = f"encoder.stages.{parts[2]}.blocks.{parts[4]}.{BLOCK['.'.join(parts[5:])]}"
        elif "stages" in parts:
            path = f"encoder.stages.{parts[2]}.{STAGE['.'.join(parts[3:])]}"
        elif "linear_projections" in parts:
            path = f"decoder.projections.{parts[2]}"
        else:
            path = f"decoder.{HEAD[parts[1]]}"
            value = value.flatten(1) if value.ndim == 4 else value
        ours[f"{path}.{leaf}"] = value
    return ours


def set_released_eps(model: nn.Module) -> None:
    """Give transformers' norms, all 1e-5, the eps of the code that trained the released weights."""
    for path, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5 if "patch_embeddings" in path or "sequence_reduction" in path else 1e-6


@pytest.fixture(params=["segformer_b0", "segformer_b1"])
def models(request: pytest.FixtureRequest) -> tuple[Segmenter, nn.Module]:
    ours, theirs = pair(request.param)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return ours, theirs


def test_every_tensor_has_a_place(models: tuple[Segmenter, nn.Module]) -> None:
    ours, theirs = models
    assert renamed(theirs.state_dict()).keys() == ours.state_dict().keys()
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("size", [(128, 128), (97, 130), (29, 29)], ids=lambda size: f"{size[0]}x{size[1]}")
@torch.no_grad()
def test_logits(models: tuple[Segmenter, nn.Module], size: tuple[int, int]) -> None:
    ours, theirs = models
    images = torch.randn(2, 3, *size)
    logits = ours(images)
    # Large enough for the absolute bounds below to mean something, and no two classes alike.
    assert logits.std() > 0.2

    as_is = (theirs(images).logits - logits).abs().max()
    assert as_is < 1e-4

    set_released_eps(theirs)
    same_eps = (theirs(images).logits - logits).abs().max()
    assert same_eps < 1e-5


@torch.no_grad()
def test_feature_maps(models: tuple[Segmenter, nn.Module]) -> None:
    ours, theirs = models
    set_released_eps(theirs)
    images = torch.randn(1, 3, 97, 130)
    for x, x_ in zip(ours.encoder(images), theirs(images, output_hidden_states=True).hidden_states, strict=True):
        torch.testing.assert_close(x, x_, rtol=1e-5, atol=1e-5)


def test_gradients() -> None:
    """In float64, where rounding cannot hide a difference; evaluation mode, so nothing is random."""
    ours, theirs = pair("segformer_b0")
    set_released_eps(theirs)
    # Its written-out softmax falls back to float32.
    theirs.set_attn_implementation("sdpa")
    images = torch.randn(2, 3, 61, 70, dtype=torch.float64)
    try:
        results = []
        for model in (ours.double(), theirs.double()):
            leaf = images.clone().requires_grad_()
            output = model(leaf)
            logits = output if isinstance(output, Tensor) else output.logits
            logits.mul(torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view(logits.shape)).sum().backward()
            # Copies, for float() below rounds the gradients themselves.
            gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            results.append((logits.detach(), leaf.grad, gradients))
    finally:
        theirs.set_attn_implementation("eager")
        for model in (ours, theirs):
            model.float().zero_grad()
    (logits, leaf, gradients), (logits_, leaf_, gradients_) = results
    torch.testing.assert_close(logits, logits_, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(leaf, leaf_, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradients, renamed(gradients_), rtol=1e-8, atol=1e-9)
