"""The peers that our networks are compared with, with our weights: transformers' SegFormer, and a literal SETR.

transformers has no SETR. Its place is taken by the network written out step by step from the paper's text and the
released code, with which the tests compare ours (tests/models/literal_setr.py).
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from terrazzo.models import MODELS
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.setr import VARIANTS as SETR_VARIANTS
from terrazzo.weights.create import create_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from literal_setr import LiteralSETR

__all__ = ["Logits", "build_logits_pair", "build_pair", "build_peer", "load_peer", "peer_state", "save_peer"]

EPSILONS, LITERAL = "epsilons.json", "literal.pt"

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


def build_logits_pair(name: str, num_classes: int, size: tuple[int, int]) -> tuple[Segmenter, nn.Module]:
    """Return one of our networks and its peer for images of one (H, W); both give logits for images."""
    if name not in SETR_VARIANTS:
        ours, theirs = build_pair(name, num_classes)
        return ours, Logits(theirs)
    ours = _with_uneven_norms(create_model(name, num_classes, image_size=size))
    ours.drop_auxiliary()
    return ours, LiteralSETR(copy.deepcopy(ours), SETR_VARIANTS[name].decoder).eval()


def build_pair(name: str, num_classes: int, seed: int = 0) -> tuple[Segmenter, nn.Module]:
    """Return our SegFormer and transformers', in evaluation mode, computing the same function.

    The weights are random, and so are the norms' statistics and affine parameters, so that a wrong mapping is noticed.

    Args:
        name: a SegFormer of `terrazzo.models.MODELS`.
        num_classes: K.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    ours = _with_uneven_norms(create_model(name, num_classes))
    return ours, build_peer(name, ours, num_classes)


def build_peer(name: str, ours: Segmenter, num_classes: int) -> nn.Module:
    """Return transformers' network with the weights of ours, in evaluation mode.

    Its LayerNorms get our epsilons, which are those of the released weights (it has 1e-5 everywhere).
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    spec = MODELS[name]
    config = SegformerConfig(
        hidden_sizes=list(spec.encoder.fields["embed_dims"]),
        depths=list(spec.encoder.fields["depths"]),
        decoder_hidden_size=spec.decoder.fields["embed_dim"],
        num_labels=num_classes,
    )
    theirs: nn.Module = SegformerForSemanticSegmentation(config).eval()
    theirs.load_state_dict(dict(peer_state(ours)), strict=True)
    for our_name, module in ours.named_modules():
        if isinstance(module, nn.LayerNorm):
            theirs.get_submodule(_peer_name(our_name)).eps = module.eps
    return theirs


def save_peer(peer: nn.Module, folder: Path) -> None:
    """Write the peer of `build_logits_pair` into a new folder."""
    folder.mkdir()
    if not isinstance(peer, Logits):
        torch.save(peer, folder / LITERAL)
        return
    # transformers' networks cannot be pickled, and their configuration cannot hold the epsilons.
    peer.peer.save_pretrained(folder)
    norms = {name: module.eps for name, module in peer.peer.named_modules() if isinstance(module, nn.LayerNorm)}
    (folder / EPSILONS).write_text(json.dumps(norms), encoding="utf-8")


def load_peer(folder: Path) -> nn.Module:
    """Read what `save_peer` wrote, in evaluation mode."""
    if (folder / LITERAL).exists():
        literal: nn.Module = torch.load(folder / LITERAL, weights_only=False)  # written by the program that reads it
        return literal
    from transformers import SegformerForSemanticSegmentation

    theirs: nn.Module = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    for name, eps in json.loads((folder / EPSILONS).read_text(encoding="utf-8")).items():
        theirs.get_submodule(name).eps = eps
    return Logits(theirs)


class Logits(nn.Module):
    """transformers' network from images to logits."""

    def __init__(self, peer: nn.Module) -> None:
        super().__init__()
        self.peer = peer

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return (B, K, h, w) logits."""
        logits: Tensor = self.peer(images_B3HW).logits
        return logits


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


def _with_uneven_norms(network: Segmenter) -> Segmenter:
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()
