"""SETR's encoder: sequence, class token in both modes, position embeddings at every size, what is emitted."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from meta_models import meta_model
from torch import Tensor, nn

from terrazzo.models.encoders import vit
from terrazzo.models.encoders.vit import CACHED_SIZES, Block, PatchEmbed, VisionTransformer, resize_positions
from terrazzo.weights.create import create_model


def encoder(
    class_token_in_blocks: bool = True, layers: tuple[int, ...] = (1, 3), image_size: tuple[int, int] = (64, 48)
) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        embed_dim=12,
        depth=3,
        num_heads=3,
        mlp_ratio=4,
        patch_size=16,
        image_size=image_size,
        layers=layers,
        class_token_in_blocks=class_token_in_blocks,
        drop_path_rate=0.0,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).uniform_(-0.2, 0.2))
    return model.eval()


def sequence(model: VisionTransformer, images: Tensor) -> Tensor:
    """The sequence before the first block as the paper has it, class token first, of images of the encoder's size."""
    patches_BCN = F.conv2d(images, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=16).flatten(2)
    tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), patches_BCN.transpose(1, 2)], dim=1)
    return tokens + torch.cat([model.cls_pos_embed, model.pos_embed.flatten(1, 2)], dim=1)


# --- Image to sequence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [480, 512, 768])
def test_a_sequence_of_hw_over_256(size: int) -> None:
    """Section 3.1: L = H W / 256 patch vectors, each projected to C channels; 900, 1024, 2304 at the papers' crops."""
    base = meta_model("setr_naive_base")
    tokens = base.encoder.patch_embed(torch.empty(1, 3, size, size, device="meta"))
    assert tokens.shape == (1, size // 16, size // 16, 768)
    assert math.prod(tokens.shape[1:3]) == size * size // 256


def test_a_patch_is_projected_by_one_matrix() -> None:
    embed = PatchEmbed(5, 16)
    images = torch.randn(2, 3, 32, 48)
    patch = images[1, :, 16:32, 32:48].reshape(-1)
    token = embed.proj.weight.view(5, -1) @ patch + embed.proj.bias
    torch.testing.assert_close(embed(images)[1, 1, 2], token)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_any_size_makes_a_whole_grid(height: int, width: int) -> None:
    embed = PatchEmbed(2, 16)
    images = torch.randn(1, 3, height, width)
    tokens = embed(images)
    assert tokens.shape == (1, math.ceil(height / 16), math.ceil(width / 16), 2)
    assert tokens.isfinite().all()


def test_a_size_that_is_no_multiple_is_resized_and_not_padded() -> None:
    """So the grid covers the image evenly: a ramp across the image is a ramp across the tokens, up to its end."""
    embed = PatchEmbed(1, 16)
    with torch.no_grad():
        embed.proj.weight.fill_(1 / (3 * 256))
        embed.proj.bias.zero_()
        ramp = torch.linspace(0, 1, 90).expand(1, 3, 50, 90)
        tokens = embed(ramp)[0, :, :, 0]
    centres = (torch.arange(6) + 0.5) / 6
    torch.testing.assert_close(tokens, centres.expand(4, 6), rtol=0, atol=0.01)


# --- Class token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_blocks", [True, False])
@torch.no_grad()
def test_the_class_token_goes_through_the_blocks_or_is_left_out(in_blocks: bool) -> None:
    model = encoder(in_blocks)
    images = torch.randn(2, 3, 64, 48)
    tokens = sequence(model, images)
    if not in_blocks:
        tokens = tokens[:, 1:]
    expected = []
    for block in model.blocks:
        tokens = block(tokens)
        patches = tokens[:, 1:] if in_blocks else tokens
        expected.append(patches.transpose(1, 2).unflatten(2, (4, 3)))
    features = model(images)
    torch.testing.assert_close(features, [expected[0], expected[2]])


@torch.no_grad()
def test_the_two_modes_give_different_features() -> None:
    images = torch.randn(1, 3, 64, 48)
    assert not torch.allclose(encoder(True)(images)[0], encoder(False)(images)[0], atol=1e-3)


def test_a_class_token_left_out_is_kept_and_not_trained() -> None:
    kept, left_out = encoder(True), encoder(False)
    assert kept.state_dict().keys() == left_out.state_dict().keys()
    assert all(parameter.requires_grad for parameter in kept.parameters())
    frozen = {path for path, parameter in left_out.named_parameters() if not parameter.requires_grad}
    assert frozen == {"cls_token", "cls_pos_embed"}
    images = torch.randn(1, 3, 64, 48)
    features = left_out(images)
    with torch.no_grad():
        left_out.cls_token.add_(1)
        left_out.cls_pos_embed.add_(1)
    torch.testing.assert_close(left_out(images), features, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "in_blocks"), [("naive", True), ("pup", True), ("mla", False)])
def test_which_decoder_wants_which_mode(name: str, in_blocks: bool) -> None:
    assert meta_model(f"setr_{name}_large").encoder.class_token_in_blocks is in_blocks


@pytest.mark.parametrize("images", [(48, 3072), (3072, 48), (32, 752)])
def test_tokens_are_not_counted(images: tuple[int, int]) -> None:
    """Grids whose number of tokens, with or without the class token, misleads a test of divisibility or a root."""
    model = encoder(True)
    with torch.no_grad():
        assert model(torch.randn(1, 3, *images))[0].shape == (1, 12, images[0] // 16, images[1] // 16)


# --- Position embeddings ----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 9), w=st.integers(1, 9))
@torch.no_grad()
def test_positions_are_resized_bilinearly_to_any_grid(h: int, w: int) -> None:
    model = encoder()
    expected = F.interpolate(model.pos_embed.permute(0, 3, 1, 2), (h, w), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model.positions(h, w), expected.permute(0, 2, 3, 1))
    assert model.positions(4, 3) is model.pos_embed


def test_resizing_positions_by_hand() -> None:
    positions = torch.tensor([[0.0], [8.0]]).view(1, 1, 2, 1)
    assert resize_positions(positions, 1, 4).flatten().tolist() == [0.0, 2.0, 6.0, 8.0]
    assert resize_positions(positions, 3, 2).flatten().tolist() == [0.0, 8.0] * 3


@torch.no_grad()
def test_every_patch_gets_its_own_position() -> None:
    model = encoder(False, layers=(1, 3))
    images = torch.zeros(1, 3, 96, 80)
    seen: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images)
    tokens_BhwC = seen[0].unflatten(1, (6, 5))
    torch.testing.assert_close(tokens_BhwC - model.patch_embed.proj.bias, resize_positions(model.pos_embed, 6, 5))


def test_resized_positions_are_kept_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: object) -> Tensor:
        calls.append(args[1:])
        return resize_positions(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(vit, "resize_positions", counted)
    model = encoder()
    with torch.no_grad():
        first = model.positions(5, 6)
        assert model.positions(5, 6) is first and len(calls) == 1
        model.pos_embed.mul_(2)
        torch.testing.assert_close(model.positions(5, 6), 2 * first)
        other = {key: 3 * value for key, value in model.state_dict().items()}
        model.load_state_dict(other)
        torch.testing.assert_close(model.positions(5, 6), 6 * first)
        torch.testing.assert_close(model.double().positions(5, 6), 6 * first.double())
    assert len(calls) == 4
    for _ in range(2):
        model.positions(5, 6)
    assert len(calls) == 6  # gradients are wanted, so each time again


@torch.no_grad()
def test_a_folder_of_sizes_does_not_fill_the_memory() -> None:
    model = encoder()
    for width in range(1, 3 * CACHED_SIZES):
        model.positions(9, width)
    assert len(model._resized) == CACHED_SIZES


def test_what_was_kept_in_inference_serves_elsewhere() -> None:
    model = encoder()
    images = torch.randn(1, 3, 80, 80)
    with torch.inference_mode():
        expected = model(images)[-1].clone()
    with torch.no_grad():
        torch.testing.assert_close(model(images)[-1], expected.clone())
    torch.testing.assert_close(copy.deepcopy(model)(images)[-1], expected.clone())
    with torch.no_grad():
        tokens = model.positions(5, 5)
    (tokens.requires_grad_(False) * model.pos_embed.sum()).sum().backward()
    assert model.pos_embed.grad is not None


def test_gradients_reach_the_positions_at_another_size() -> None:
    model = encoder().eval()
    model(torch.randn(1, 3, 33, 90))[-1].sum().backward()
    assert model.pos_embed.grad is not None and model.pos_embed.grad.any()


# --- Blocks and what is emitted ---------------------------------------------------------------------------------------


def test_a_map_for_each_layer() -> None:
    model = encoder(layers=(1, 2, 3))
    assert model.channels == (12, 12, 12) and model.strides == (16, 16, 16)
    with pytest.raises(ValueError, match="rise"):
        encoder(layers=(2, 1, 3))
    with pytest.raises(ValueError, match="3"):
        encoder(layers=(1, 2))


@torch.no_grad()
def test_attention_sees_every_token() -> None:
    """Section 3.2: the receptive field of every layer is the whole image."""
    model = encoder(layers=(1, 3))
    images = torch.randn(1, 3, 64, 48)
    changed = images.clone()
    changed[:, :, :2, :2] += 1
    difference = (model(images)[0] - model(changed)[0]).abs().amax(1)
    assert (difference > 0).all()


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = vit.SelfAttention(12, 3).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2.0).softmax(-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(heads, -1)), rtol=1e-10, atol=1e-10)


def test_drop_path_acts_on_both_branches() -> None:
    block = Block(8, 2, 4, drop_path=0.5).train()
    torch.manual_seed(0)
    x = torch.randn(200, 3, 8)
    kept = (block(x) - x).flatten(1).abs().amax(1) > 1e-6
    assert 0.6 < kept.float().mean() < 0.9


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = create_model("setr_naive_tiny", 2).encoder
    for embedding in (model.cls_token, model.cls_pos_embed, model.pos_embed):
        assert abs(embedding.std().item() / 0.02 - 1) < 0.2
    for path, module in model.blocks.named_modules():
        if isinstance(module, nn.Linear):
            assert abs(module.weight.std().item() / 0.02 - 1) < 0.05, path
            assert not module.bias.any(), path
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6 and module.weight.eq(1).all() and not module.bias.any(), path
    bound = 1 / math.sqrt(3 * 256)
    assert model.patch_embed.proj.weight.abs().max() <= bound
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_there_is_no_norm_after_the_last_block() -> None:
    assert not any(key.startswith("norm") for key in encoder().state_dict())
