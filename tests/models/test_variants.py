"""Every named model's numbers, written out from the papers and their code, and read off the network itself.

Nothing here is computed from the tables in the source: a number changed there has to be changed here too, and somebody
has to say which paper says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from meta_models import meta_model
from torch import nn

from terrazzo.models import list_models


class SETR(NamedTuple):
    """A row of SETR's table.

    Attributes:
        depth: blocks.
        width: channels of a token.
        heads: of each attention.
        decoder: its class, and what tells the official code's from mmsegmentation's: the factors of Naive's and PUP's
            own resizes, MLA's kernel and whether it aligns corners.
        read: the layers that the main decoder reads.
        auxiliary: the layers with an auxiliary head; of MLA, the layer whose aggregated map it reads.
        head: the auxiliary heads' class, and the like.
    """

    depth: int
    width: int
    heads: int
    decoder: tuple[Any, ...]
    read: tuple[int, ...]
    auxiliary: tuple[int, ...]
    head: tuple[Any, ...]


NAIVE, PUP, MLA = ("NaiveDecoder", 1), ("PUPDecoder", (1, 2, 2, 2), 1, 3), ("MLADecoder", 3, True)
PUP_HEAD, MLA_HEAD = ("PUPDecoder", (1,), 4, 3), ("MLAAuxiliaryHead", False)

# Paper: section 3.3 and 4 (T-Large 24 layers of 1024 with 16 heads; T-Base and DeiT-Base 12 of 768 with 12). Auxiliary
# layers 10, 15, 20 (PUP: and 24) and 6, 12, 18, 24; of 12 layers 3, 6, 9, and 5, 8, 10, 12, and 3, 6, 9, 12, from the
# released configurations. DeiT-Small and DeiT-Tiny: arXiv 2012.12877, table 1.
SETR_TABLE = {
    "setr_naive_large": SETR(24, 1024, 16, NAIVE, (24,), (10, 15, 20), NAIVE),
    "setr_naive_base": SETR(12, 768, 12, NAIVE, (12,), (3, 6, 9), NAIVE),
    "setr_naive_deit_base": SETR(12, 768, 12, NAIVE, (12,), (3, 6, 9), NAIVE),
    "setr_naive_small": SETR(12, 384, 6, NAIVE, (12,), (3, 6, 9), NAIVE),
    "setr_naive_tiny": SETR(12, 192, 3, NAIVE, (12,), (3, 6, 9), NAIVE),
    "setr_pup_large": SETR(24, 1024, 16, PUP, (24,), (10, 15, 20, 24), PUP_HEAD),
    "setr_pup_base": SETR(12, 768, 12, PUP, (12,), (5, 8, 10, 12), PUP_HEAD),
    "setr_pup_deit_base": SETR(12, 768, 12, PUP, (12,), (5, 8, 10, 12), PUP_HEAD),
    "setr_pup_small": SETR(12, 384, 6, PUP, (12,), (5, 8, 10, 12), PUP_HEAD),
    "setr_pup_tiny": SETR(12, 192, 3, PUP, (12,), (5, 8, 10, 12), PUP_HEAD),
    "setr_mla_large": SETR(24, 1024, 16, MLA, (6, 12, 18, 24), (6, 12, 18, 24), MLA_HEAD),
    "setr_mla_base": SETR(12, 768, 12, MLA, (3, 6, 9, 12), (3, 6, 9, 12), MLA_HEAD),
    "setr_mla_deit_base": SETR(12, 768, 12, MLA, (3, 6, 9, 12), (3, 6, 9, 12), MLA_HEAD),
    "setr_mla_small": SETR(12, 384, 6, MLA, (3, 6, 9, 12), (3, 6, 9, 12), MLA_HEAD),
    "setr_mla_tiny": SETR(12, 192, 3, MLA, (3, 6, 9, 12), (3, 6, 9, 12), MLA_HEAD),
    "setr_naive_large_mmseg": SETR(
        24, 1024, 16, ("NaiveDecoder", 4), (24,), (10, 15, 20), ("PUPDecoder", (1, 4), 1, 1)
    ),
    "setr_pup_large_mmseg": SETR(24, 1024, 16, PUP, (24,), (10, 15, 20), ("PUPDecoder", (1, 4), 1, 3)),
    "setr_mla_large_mmseg": SETR(
        24, 1024, 16, ("MLADecoder", 1, False), (6, 12, 18, 24), (6, 12, 18, 24), ("MLAAuxiliaryHead", True)
    ),
}


def described(part: Any) -> tuple[Any, ...]:
    """Return a decoder's or head's class and what is particular about it."""
    kind = type(part).__name__
    if kind == "NaiveDecoder":
        return kind, part.resize
    if kind == "PUPDecoder":
        (side,) = {stage.conv.kernel_size[0] for stage in part.stages}
        return kind, tuple(stage.factor for stage in part.stages), part.resize, side
    if kind == "MLADecoder":
        return kind, part.classifier.kernel_size[0], part.align_corners
    return kind, part.classifier.bias is not None


def test_the_table_has_every_setr() -> None:
    assert sorted(SETR_TABLE) == sorted(name for name in list_models() if name.startswith("setr_"))
    assert len(SETR_TABLE) == 18


@pytest.mark.parametrize("name", SETR_TABLE)
def test_a_setr_is_the_papers(name: str) -> None:
    model, expected = meta_model(name), SETR_TABLE[name]
    encoder, decoder = model.encoder, model.decoder
    emitted = encoder.layers
    (heads,) = {block.attn.num_heads for block in encoder.blocks}
    read = emitted if expected.decoder[0] == "MLADecoder" else (emitted[decoder.level],)
    (head,) = {described(part) for part in model.auxiliary}
    found = SETR(
        depth=len(encoder.blocks),
        width=encoder.cls_token.shape[-1],
        heads=heads,
        decoder=described(decoder),
        read=tuple(read),
        auxiliary=tuple(emitted[part.level] for part in model.auxiliary),
        head=head,
    )
    assert found == expected
    assert {block.mlp.fc1.out_features for block in encoder.blocks} == {4 * expected.width}
    assert {block.mlp.fc1.in_features for block in encoder.blocks} == {expected.width}
    assert encoder.patch_embed.proj.kernel_size == encoder.patch_embed.proj.stride == (16, 16)
    assert encoder.patch_embed.proj.bias is not None
    assert encoder.class_token_in_blocks == (expected.decoder[0] != "MLADecoder")
    assert {block.drop_path.drop_prob for block in encoder.blocks} == {0.0}
    eps = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
    assert eps == {1e-6}


def widths(model: nn.Module) -> set[tuple[int, int]]:
    """Return the input and output channels of every convolution and linear layer."""
    convolutions = {(m.in_channels, m.out_channels) for m in model.modules() if isinstance(m, nn.Conv2d)}
    return convolutions | {(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize("name", SETR_TABLE)
def test_widths_of_setrs_decoders(name: str) -> None:
    """256 channels throughout; MLA's streams have 128, and its classifier sees four of them."""
    model, width = meta_model(name), SETR_TABLE[name].width
    if "_mla_" in name:
        assert widths(model.decoder) == {(width, 256), (256, 256), (256, 128), (128, 128), (512, 150)}
        assert widths(model.auxiliary) == {(256, 150)}
    else:
        between = {(256, 256)} if "_pup_" in name else set()
        assert widths(model.decoder) == {(width, 256), (256, 150)} | between
        in_head = {(256, 256)} if name.endswith("mmseg") else set()
        assert widths(model.auxiliary) == {(width, 256), (256, 150)} | in_head


# -- SegFormer --------------------------------------------------------------------------------------------------------

DIMS = {"b0": (32, 64, 160, 256)} | {f"b{size}": (64, 128, 320, 512) for size in range(1, 6)}
DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}
WIDTHS = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}
SEGFORMERS = {
    **{f"segformer_{size}": ("AllMLPDecoder", width, 1e-5) for size, width in WIDTHS.items()},
    **{f"segformer_{size}_mmseg": ("ConvMLPDecoder", 256, 1e-6) for size in WIDTHS},
    **{f"segformer_{size}_256": ("AllMLPDecoder", 256, 1e-5) for size in ("b2", "b3", "b4", "b5")},
}
"""Of each: the decoder, its width, and the eps of the LayerNorms after patch embedding and sequence reduction."""


def test_the_table_has_every_segformer() -> None:
    assert sorted(SEGFORMERS) == sorted(name for name in list_models() if name.startswith("segformer_"))


@pytest.mark.parametrize("name", SEGFORMERS)
def test_a_segformer_is_the_papers(name: str) -> None:
    model, size = meta_model(name), name.split("_")[1]
    decoder, width, eps = SEGFORMERS[name]
    stages = model.encoder.stages
    assert tuple(stage.patch_embed.proj.out_channels for stage in stages) == DIMS[size]
    assert tuple(len(stage.blocks) for stage in stages) == DEPTHS[size]
    assert [stage.blocks[0].attn.num_heads for stage in stages] == [1, 2, 5, 8]
    ratios = [stage.blocks[0].attn.sr.ratio if stage.blocks[0].attn.sr else 1 for stage in stages]
    assert ratios == [8, 4, 2, 1]
    assert {(block.ffn.fc1.out_features // block.ffn.fc1.in_features) for s in stages for block in s.blocks} == {4}
    rates = [block.drop_path.drop_prob for stage in stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i / (len(rates) - 1) for i in range(len(rates))])
    assert {stage.patch_embed.norm.eps for stage in stages} == {eps}
    assert {block.attn.sr.norm.eps for stage in stages[:3] for block in stage.blocks} == {eps}
    assert {norm.eps for s in stages for block in s.blocks for norm in (block.norm1, block.norm2, s.norm)} == {1e-6}
    assert type(model.decoder).__name__ == decoder
    assert widths(model.decoder) == {*((dim, width) for dim in DIMS[size]), (4 * width, width), (width, 150)}
    dropouts = [module.p for module in model.decoder.modules() if isinstance(module, nn.Dropout2d)]
    assert model.decoder.norm.eps == 1e-5 and dropouts == [0.1]
    assert len(model.auxiliary) == 0
