"""What the SegFormer paper argues against, as arguments of the encoder: sizes, hand-computed cases, and the default."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.engines.fused_segformer import can_fuse
from terrazzo.engines.torch import TorchEngine
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.encoders.mit import MixFFN, MixTransformer, OverlapPatchEmbed, is_standard
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.models.segmenter import Segmenter

CHANGES: dict[str, dict[str, Any]] = {
    "plain patches": {"patch_sizes": (4, 2, 2, 2)},
    "learned positions": {"positions": True, "image_size": (64, 64), "ffn_convolution": False},
    "no positions": {"ffn_convolution": False},
    "some stages": {"emitted": (2, 4)},
    "fewer stages": {"emitted": (1, 2, 3)},
    "large patches": {"patch_sizes": (31, 3, 3, 3), "patch_strides": (16, 2, 1, 1), "sr_ratios": (2, 1, 1, 1)},
    "no reduction": {"sr_ratios": (1, 1, 1, 1)},
}
STILL_THE_PAPERS = ("fewer stages", "large patches", "no reduction")
SIZES = [(97, 130), (64, 64), (29, 31), (1, 1), (1, 50)]


def tiny_encoder(**changes: Any) -> MixTransformer:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "embed_dims": (4, 8, 12, 16),
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 3, 4),
        "sr_ratios": (8, 4, 2, 1),
        "mlp_ratios": (2, 2, 2, 2),
        "patch_sizes": (7, 3, 3, 3),
        "patch_strides": (4, 2, 2, 2),
        "drop_path_rate": 0.0,
    }
    return MixTransformer(**{**arguments, **changes})


def tiny_segformer(**changes: Any) -> Segmenter:
    encoder = tiny_encoder(**changes)
    return Segmenter(encoder, AllMLPDecoder(encoder.channels, encoder.strides, 3, embed_dim=8)).eval()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_any_image_size(change: str, size: tuple[int, int]) -> None:
    model = tiny_segformer(**CHANGES[change])
    features = model.encoder(torch.randn(2, 3, *size))
    declared = zip(model.encoder.channels, model.encoder.strides, strict=True)
    assert [tuple(x.shape) for x in features] == [
        (2, c, *(math.ceil(s / stride) for s in size)) for c, stride in declared
    ]
    assert model(torch.randn(2, 3, *size)).isfinite().all()


@pytest.mark.parametrize("change", CHANGES)
def test_every_parameter_learns(change: str) -> None:
    model = tiny_segformer(**CHANGES[change]).train()
    model(torch.randn(2, 3, 40, 56)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("change", CHANGES)
def test_the_rewritten_network_is_not_used_where_it_would_compute_something_else(change: str) -> None:
    model = tiny_segformer(**CHANGES[change])
    assert can_fuse(model) == (change in STILL_THE_PAPERS)
    images = torch.randn(2, 3, 70, 45)
    with torch.no_grad():
        expected = model(images)
    found = torch.from_numpy(TorchEngine(model, "cpu")(images.numpy()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_paper_is_the_default() -> None:
    encoder = tiny_encoder()
    assert is_standard(encoder) and encoder.emitted == (1, 2, 3, 4)
    assert not [name for name, _ in encoder.named_parameters() if "pos" in name]
    assert all(stage.patch_embed.centred and stage.blocks[0].ffn.dwconv is not None for stage in encoder.stages)


# -- patches ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_plain_patch_is_projected_by_itself() -> None:
    """Each token is one linear map of its own 4 x 4 pixels and of nothing else; the last ones are filled with zeros."""
    embed = OverlapPatchEmbed(3, 8, patch_size=4, stride=4, centred=False).double()
    image = torch.randn(1, 6, 9, 3, dtype=torch.float64)
    filled = torch.zeros(1, 8, 12, 3, dtype=torch.float64)
    filled[:, :6, :9] = image
    expected = torch.empty(1, 2, 3, 8, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            patch = filled[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(2, 0, 1)
            expected[0, row, column] = embed.proj.weight.flatten(1) @ patch.flatten() + embed.proj.bias
    torch.testing.assert_close(embed(image), embed.norm(expected))


@torch.no_grad()
def test_plain_patches_do_not_see_their_neighbours_and_overlapping_ones_do() -> None:
    image = torch.zeros(1, 16, 16, 3)
    moved = image.clone()
    moved[0, 3, 3] = 1.0  # the last pixel of the first patch

    def changed(embed: OverlapPatchEmbed) -> list[list[int]]:
        difference = (embed.proj((moved - image).permute(0, 3, 1, 2)) - embed.proj.bias[None, :, None, None])[0]
        return difference.abs().sum(0).gt(1e-6).nonzero().tolist()

    assert changed(OverlapPatchEmbed(3, 8, 4, 4, centred=False)) == [[0, 0]]
    assert changed(OverlapPatchEmbed(3, 8, 7, 4)) == [[0, 0], [0, 1], [1, 0], [1, 1]]


# -- positions --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_without_its_convolution_the_feed_forward_layer_knows_no_places() -> None:
    """Tokens that change places take their outputs along; in Mix-FFN they do not."""
    x_BHWC = torch.randn(1, 4, 5, 6)
    order = torch.randperm(20)

    def shuffled(x: Tensor) -> Tensor:
        return x.flatten(1, 2)[:, order].unflatten(1, (4, 5))

    plain, mixed = MixFFN(6, 12, convolution=False), MixFFN(6, 12)
    torch.testing.assert_close(plain(shuffled(x_BHWC)), shuffled(plain(x_BHWC)))
    assert not torch.allclose(mixed(shuffled(x_BHWC)), shuffled(mixed(x_BHWC)), atol=1e-3)


@torch.no_grad()
def test_learned_positions_are_added_to_the_patches_of_every_stage() -> None:
    encoder = tiny_encoder(positions=True, image_size=(64, 96))
    assert [tuple(stage.pos_embed.shape) for stage in encoder.stages] == [
        (1, 16, 24, 4),
        (1, 8, 12, 8),
        (1, 4, 6, 12),
        (1, 2, 3, 16),
    ]
    without = tiny_encoder()
    without.load_state_dict({key: value for key, value in encoder.state_dict().items() if "pos_embed" not in key})
    first, second = encoder.stages[0], without.stages[0]
    for size, positions in (
        ((64, 96), first.pos_embed),
        ((32, 40), resize_positions(first.pos_embed, 8, 10)),
    ):
        image_BHWC = torch.randn(1, *size, 3)
        x_BHWC = second.patch_embed(image_BHWC) + positions
        for block in second.blocks:
            x_BHWC = block(x_BHWC)
        torch.testing.assert_close(first(image_BHWC), second.norm(x_BHWC))


# -- stages -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_chosen_stages_are_those_of_the_whole_encoder() -> None:
    whole, some = tiny_encoder(), tiny_encoder(emitted=(2, 4))
    some.load_state_dict(whole.state_dict())
    image = torch.randn(1, 3, 64, 64)
    maps = whole(image)
    for found, expected in zip(some(image), (maps[1], maps[3]), strict=True):
        torch.testing.assert_close(found, expected)
    assert (some.channels, some.strides) == ((8, 16), (8, 32))


def test_stages_beyond_the_last_one_that_is_read_are_not_built() -> None:
    whole, fewer = tiny_encoder(), tiny_encoder(emitted=(1, 3))
    assert len(fewer.stages) == 3
    beyond = sum(parameter.numel() for parameter in whole.stages[3].parameters())
    total = sum(parameter.numel() for parameter in whole.parameters())
    assert sum(parameter.numel() for parameter in fewer.parameters()) == total - beyond


@torch.no_grad()
def test_a_decoder_of_one_stage_projects_and_classifies_it() -> None:
    model = tiny_segformer(emitted=(4,))
    image = torch.randn(1, 3, 64, 64)
    (x,) = model.encoder(image)
    decoder = model.decoder
    hidden = F.linear(decoder.projections[0](x.permute(0, 2, 3, 1)), decoder.fuse.weight).permute(0, 3, 1, 2)
    expected = decoder.classifier(F.relu(decoder.norm(hidden)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (1, 3, 2, 2)
