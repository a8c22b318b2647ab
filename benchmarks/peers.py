"""transformers' SegFormer carrying our weights: the other side of every comparison here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from terrazzo.models import MODELS, create_model
from terrazzo.models.segmenter import Segmenter

__all__ = ["build_pair", "build_peer", "load_peer", "peer_state", "save_peer"]

EPSILONS = "epsilons.json"

# Our module names, as patterns, and the peer's; the first that matches decides.
PEER_NAMES = [
    (r"encoder\.stages\.(\d+)\.patch_embed\.proj", r"segformer.stages.\1.patch_embeddings.proj"),
    (r"encoder\.stages\.(\d+)\.patch_embed\.norm", r"segformer.stages.\1.patch_embeddings.layer_norm"),
    (r"encoder\.stages\.(\d+)\.norm", r"segformer.stages.\1.layer_norm"),
    (r"encoder\.(stages.*)\.norm1", r"segformer.\1.layernorm_before"),
    (r"encoder\.(stages.*)\.attn\.q", r"segformer.\1.attention.q_proj"),
    (r"encoder\.(stages.*)\.attn\.proj", r"segformer.\1.attention.o_proj"),
    (r"encoder\.(stages.*)\.attn\.sr\.conv", r"segformer.\1.attention.sequence_reduction.sequence_reduction"),
    (r"encoder\.(stages.*)\.attn\.sr\.norm", r"segformer.\1.attention.sequence_reduction.layer_norm"),
    (r"encoder\.(stages.*)\.norm2", r"segformer.\1.layernorm_after"),
    (r"encoder\.(stages.*)\.ffn\.dwconv", r"segformer.\1.mlp.dwconv.dwconv"),
    (r"encoder\.(stages.*)\.ffn\.(fc[12])", r"segformer.\1.mlp.\2"),
    (r"decoder\.projections\.(\d+)", r"decode_head.linear_projections.\1.proj"),
    (r"decoder\.fuse", r"decode_head.linear_fuse"),
    (r"decoder\.norm", r"decode_head.batch_norm"),
    (r"decoder\.classifier", r"decode_head.classifier"),
]


def build_pair(name: str, num_classes: int, seed: int = 0) -> tuple[Segmenter, nn.Module]:
    """Return our network and transformers', in evaluation mode, computing the same function.

    The weights are random; so are the norms' statistics and affine parameters, lest a wrong map go unseen.

    Args:
        name: a SegFormer of `terrazzo.models.MODELS`.
        num_classes: K.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    ours = create_model(name, num_classes).eval()
    for module in ours.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return ours, build_peer(name, ours, num_classes)


def build_peer(name: str, ours: Segmenter, num_classes: int) -> nn.Module:
    """Return transformers' network with the weights of ours, in evaluation mode.

    Its LayerNorms get our epsilons, which are those of the released weights (it has 1e-5 everywhere).
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    variant = MODELS[name]
    config = SegformerConfig(
        hidden_sizes=list(variant.embed_dims),
        depths=list(variant.depths),
        decoder_hidden_size=variant.decoder_dim,
        num_labels=num_classes,
    )
    theirs: nn.Module = SegformerForSemanticSegmentation(config).eval()
    theirs.load_state_dict(dict(peer_state(ours)), strict=True)
    for our_name, module in ours.named_modules():
        if isinstance(module, nn.LayerNorm):
            theirs.get_submodule(_peer_name(our_name)).eps = module.eps
    return theirs


def save_peer(theirs: nn.Module, folder: Path) -> None:
    """Write the peer as transformers does, and beside it the epsilons, which its configuration cannot hold."""
    theirs.save_pretrained(folder)
    norms = {name: module.eps for name, module in theirs.named_modules() if isinstance(module, nn.LayerNorm)}
    (folder / EPSILONS).write_text(json.dumps(norms), encoding="utf-8")


def load_peer(folder: Path) -> nn.Module:
    """Read what `save_peer` wrote, in evaluation mode."""
    from transformers import SegformerForSemanticSegmentation

    theirs: nn.Module = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    for name, eps in json.loads((folder / EPSILONS).read_text(encoding="utf-8")).items():
        theirs.get_submodule(name).eps = eps
    return theirs


def peer_state(ours: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the peer's state dictionary, item by item, from our SegFormer."""
    for key, tensor in ours.state_dict().items():
        our_name, _, leaf = key.rpartition(".")
        if our_name.endswith(".attn.kv"):
            block = our_name.removeprefix("encoder.").removesuffix(".attn.kv")
            for side, half in zip("kv", tensor.chunk(2), strict=True):
                yield f"segformer.{block}.attention.{side}_proj.{leaf}", half
        elif our_name in ("decoder.fuse", "decoder.classifier") and leaf == "weight":
            yield f"{_peer_name(our_name)}.weight", tensor[:, :, None, None]
        else:
            yield f"{_peer_name(our_name)}.{leaf}", tensor


def _peer_name(our_name: str) -> str:
    for pattern, template in PEER_NAMES:
        if match := re.fullmatch(pattern, our_name):
            return match.expand(template)
    raise KeyError(our_name)
