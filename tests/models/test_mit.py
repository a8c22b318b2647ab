"""Mix Transformer: the paper's shape table, any image size, and the details that the released weights rely on."""

from __future__ import annotations

import math
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from meta_models import meta_model
from torch import Tensor, nn

from terrazzo.models import Segmenter
from terrazzo.models.encoders.mit import (
    Block,
    EfficientSelfAttention,
    MixFFN,
    MixTransformer,
    OverlapPatchEmbed,
    SequenceReduction,
)
from terrazzo.models.segformer import VARIANTS
from terrazzo.weights.create import create_model

PAPER = [name for name, spec in VARIANTS.items() if spec.decoder.name == "all_mlp"]

SIZES = [(97, 130), (29, 31), (28, 28), (1, 1), (1, 500), (500, 1), (64, 64)]


@cache
def seeded(name: str) -> Segmenter:
    torch.manual_seed(0)
    return create_model(name, 5).eval()


def b0_encoder() -> MixTransformer:
    encoder = seeded("segformer_b0").encoder
    assert isinstance(encoder, MixTransformer)
    return encoder


# --- Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
@torch.no_grad()
def test_shape_table_of_the_paper(name: str) -> None:
    """512 x 512 x 3 becomes four maps and a mask of H/4 x W/4 x K."""
    channels = (32, 64, 160, 256) if name == "segformer_b0" else (64, 128, 320, 512)
    model = meta_model(name)
    images = torch.empty(1, 3, 512, 512, device="meta")
    features = model.encoder(images)
    assert [tuple(x.shape) for x in features] == [
        (1, channels[0], 128, 128),
        (1, channels[1], 64, 64),
        (1, channels[2], 32, 32),
        (1, channels[3], 16, 16),
    ]
    assert model.encoder.channels == channels
    assert model.encoder.strides == (4, 8, 16, 32)
    assert tuple(model.decoder(features).shape) == (1, 150, 128, 128)


@pytest.mark.parametrize("name", PAPER)
def test_patches_of_the_paper(name: str) -> None:
    convolutions = [stage.patch_embed.proj for stage in meta_model(name).encoder.stages]
    assert [conv.kernel_size for conv in convolutions] == [(7, 7), (3, 3), (3, 3), (3, 3)]
    assert [conv.stride for conv in convolutions] == [(4, 4), (2, 2), (2, 2), (2, 2)]
    assert [conv.padding for conv in convolutions] == [(3, 3), (1, 1), (1, 1), (1, 1)]
    assert all(conv.bias is not None for conv in convolutions)


@pytest.mark.parametrize("name", PAPER)
def test_blocks_of_the_paper(name: str) -> None:
    """Heads 1, 2, 5, 8; reduction 8, 4, 2, 1; Mix-FFN four times as wide, as in the released weights; biases on."""
    head_dim = 32 if name == "segformer_b0" else 64
    for stage, heads, ratio in zip(meta_model(name).encoder.stages, (1, 2, 5, 8), (8, 4, 2, 1), strict=True):
        for block in stage.blocks:
            dim = heads * head_dim
            assert block.attn.num_heads == heads
            assert (block.attn.q.in_features, block.attn.kv.out_features) == (dim, 2 * dim)
            assert block.ffn.fc1.out_features == block.ffn.dwconv.groups == 4 * dim
            if ratio == 1:
                assert block.attn.sr is None
            else:
                assert block.attn.sr.conv.kernel_size == block.attn.sr.conv.stride == (ratio, ratio)
            layers = [m for m in block.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
            assert all(layer.bias is not None for layer in layers)


def test_depths() -> None:
    depths = {name: [len(stage.blocks) for stage in meta_model(name).encoder.stages] for name in PAPER}
    assert depths == {
        "segformer_b0": [2, 2, 2, 2],
        "segformer_b1": [2, 2, 2, 2],
        "segformer_b2": [3, 4, 6, 3],
        "segformer_b3": [3, 4, 18, 3],
        "segformer_b4": [3, 8, 27, 3],
        "segformer_b5": [3, 6, 40, 3],
        "segformer_b2_256": [3, 4, 6, 3],
        "segformer_b3_256": [3, 4, 18, 3],
        "segformer_b4_256": [3, 8, 27, 3],
        "segformer_b5_256": [3, 6, 40, 3],
    }


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b1"])
@torch.no_grad()
def test_any_image_size(name: str, size: tuple[int, int]) -> None:
    model = seeded(name)
    images = torch.randn(3, 3, *size)
    features = model.encoder(images)
    expected = [(3, c, *(math.ceil(side / s) for side in size)) for c, s in zip(*declared(model), strict=True)]
    assert [tuple(x.shape) for x in features] == expected
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in features)
    logits = model(images)
    assert tuple(logits.shape) == (3, 5, math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    assert logits.isfinite().all()
    # Samples of a batch do not see each other.
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), logits, rtol=1e-4, atol=1e-5)


def declared(model: Segmenter) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return model.encoder.channels, model.encoder.strides


def test_map_sizes_of_an_odd_image() -> None:
    with torch.no_grad():
        features = b0_encoder()(torch.zeros(1, 3, 97, 130))
    assert [tuple(x.shape[2:]) for x in features] == [(25, 33), (13, 17), (7, 9), (4, 5)]


# --- Attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b2"])
@torch.no_grad()
def test_keys_and_values_are_shortened_64_16_4_1_fold(name: str) -> None:
    model = meta_model(name)
    queries: list[set[int]] = [set(), set(), set(), set()]
    keys: list[set[int]] = [set(), set(), set(), set()]
    handles = []
    for stage, n, m in zip(model.encoder.stages, queries, keys, strict=True):
        for block in stage.blocks:
            for linear, lengths in ((block.attn.q, n), (block.attn.kv, m)):
                record = partial(record_tokens, lengths)
                handles.append(linear.register_forward_hook(record))
    model.encoder(torch.empty(1, 3, 512, 512, device="meta"))
    for handle in handles:
        handle.remove()
    assert queries == [{128 * 128}, {64 * 64}, {32 * 32}, {16 * 16}]
    assert keys == [{128 * 128 // 64}, {64 * 64 // 16}, {32 * 32 // 4}, {16 * 16}]


def record_tokens(lengths: set[int], _module: nn.Module, _args: object, output: Tensor) -> None:
    lengths.add(output.shape[:-1].numel())


@pytest.mark.parametrize("size", [(16, 24), (17, 31), (8, 8), (25, 9)], ids=str)
def test_sequence_reduction_is_a_strided_convolution_and_a_norm(size: tuple[int, int]) -> None:
    """Rows and columns that do not fill a window are dropped, as convolutions do."""
    torch.manual_seed(0)
    reduction = SequenceReduction(6, 8).double()
    x_BHWC = torch.randn(2, *size, 6, dtype=torch.float64)
    map_BCHW = reduction.conv(x_BHWC.permute(0, 3, 1, 2))
    expected_BMC = reduction.norm(map_BCHW.flatten(2).transpose(1, 2))
    torch.testing.assert_close(reduction(x_BHWC), expected_BMC, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (1, 30), (20, 3)], ids=str)
def test_a_map_smaller_than_the_window_is_padded_with_zeros_to_one(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reduction = SequenceReduction(6, 8).double()
    x_BHWC = torch.randn(2, *size, 6, dtype=torch.float64)
    padded = torch.zeros(2, max(size[0], 8), max(size[1], 8), 6, dtype=torch.float64)
    padded[:, : size[0], : size[1]] = x_BHWC
    expected_BMC = reduction.norm(reduction.conv(padded.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))
    torch.testing.assert_close(reduction(x_BHWC), expected_BMC, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ratio", [1, 2])
def test_attention_is_softmax_attention(ratio: int) -> None:
    """Written out: queries from the map, keys the first and values the last C outputs of kv, scale head_dim ** -0.5."""
    torch.manual_seed(0)
    dim, heads = 12, 3
    attention = EfficientSelfAttention(dim, heads, ratio).double()
    x_BHWC = torch.randn(2, 6, 4, dim, dtype=torch.float64)
    source_BMC = x_BHWC.flatten(1, 2) if attention.sr is None else attention.sr(x_BHWC)
    q_BNC, kv = attention.q(x_BHWC.flatten(1, 2)), attention.kv(source_BMC)
    k_BMC, v_BMC = kv[..., :dim], kv[..., dim:]
    outputs = []
    for head in range(heads):
        part = slice(head * dim // heads, (head + 1) * dim // heads)
        scores_BNM = q_BNC[..., part] @ k_BMC[..., part].transpose(1, 2) * (dim // heads) ** -0.5
        outputs.append(scores_BNM.softmax(-1) @ v_BMC[..., part])
    expected = attention.proj(torch.cat(outputs, dim=-1)).unflatten(1, (6, 4))
    torch.testing.assert_close(attention(x_BHWC), expected, rtol=1e-12, atol=1e-12)


def test_mix_ffn_written_out() -> None:
    torch.manual_seed(0)
    ffn = MixFFN(3, 12).double()
    x_BHWC = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    hidden = F.linear(x_BHWC, ffn.fc1.weight, ffn.fc1.bias)
    padded = F.pad(hidden, (0, 0, 1, 1, 1, 1))
    mixed = ffn.dwconv.bias + sum(
        padded[:, i : i + 5, j : j + 4] * ffn.dwconv.weight[:, 0, i, j] for i in range(3) for j in range(3)
    )
    gelu = mixed * 0.5 * (1 + torch.erf(mixed / math.sqrt(2)))
    torch.testing.assert_close(ffn(x_BHWC), F.linear(gelu, ffn.fc2.weight, ffn.fc2.bias), rtol=1e-12, atol=1e-12)


def test_a_block_is_two_branches_each_with_a_norm_of_its_own() -> None:
    torch.manual_seed(0)
    block = Block(8, num_heads=2, sr_ratio=2, mlp_ratio=4, drop_path=0.0).double()
    for norm in (block.norm1, block.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    x_BHWC = torch.randn(2, 4, 6, 8, dtype=torch.float64)

    def normed(y_BHWC: Tensor, norm: nn.LayerNorm) -> Tensor:
        deviation = (y_BHWC.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return (y_BHWC - y_BHWC.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias

    attended = x_BHWC + block.attn(normed(x_BHWC, block.norm1))
    expected = attended + block.ffn(normed(attended, block.norm2))
    torch.testing.assert_close(block(x_BHWC), expected, rtol=1e-12, atol=1e-12)


def test_zero_padding_tells_position() -> None:
    """In a constant image, only the padding can make two places differ; there is no positional encoding."""
    with torch.no_grad():
        finest = b0_encoder()(torch.ones(1, 3, 64, 64))[0]
    assert finest.flatten(2).std(dim=2).max() > 1e-3
    assert not any("pos" in name for name, _ in b0_encoder().named_parameters())


def test_the_next_stage_sees_the_normed_map() -> None:
    encoder = b0_encoder()
    seen: list[Tensor] = []
    handle = encoder.stages[1].patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 40, 40))
    handle.remove()
    assert torch.equal(seen[0].permute(0, 3, 1, 2), features[0])
    torch.testing.assert_close(seen[0].mean(-1), torch.zeros(1, 10, 10), rtol=0, atol=1e-5)


# --- Norms, initial weights, drop path --------------------------------------------------------------------------------


def norm_eps(name: str) -> dict[str, set[float]]:
    eps: dict[str, set[float]] = {}
    for path, module in meta_model(name).encoder.named_modules():
        if isinstance(module, nn.LayerNorm):
            kind = "patch" if "patch_embed" in path else "reduction" if ".sr." in path else path.split(".")[-1]
            if kind == "norm":
                kind = "stage"
            eps.setdefault(kind, set()).add(module.eps)
    return eps


@pytest.mark.parametrize("name", PAPER)
def test_norm_eps_follows_the_released_code(name: str) -> None:
    assert norm_eps(name) == {"patch": {1e-5}, "reduction": {1e-5}, "norm1": {1e-6}, "norm2": {1e-6}, "stage": {1e-6}}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in PAPER])
def test_norm_eps_of_mmsegmentation(name: str) -> None:
    assert norm_eps(name) == {kind: {1e-6} for kind in ("patch", "reduction", "norm1", "norm2", "stage")}


def test_initial_weights() -> None:
    encoder = seeded("segformer_b1").encoder
    kinds = {nn.Linear: 0, nn.Conv2d: 0, nn.LayerNorm: 0}
    for path, module in encoder.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert torch.equal(module.weight, torch.ones_like(module.weight)), path
        elif isinstance(module, nn.Linear):
            assert_normal(path, module.weight, 0.02)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            assert fan_out == 9 or module.groups == 1
            assert_normal(path, module.weight, math.sqrt(2 / fan_out))
        else:
            continue
        assert module.bias is not None and not module.bias.any(), path
        kinds[type(module)] += 1
    # 8 blocks of q, kv, proj, fc1, fc2; 4 patches, 6 reductions, 8 depthwise; the norms of section 1.3.
    assert kinds == {nn.Linear: 40, nn.Conv2d: 18, nn.LayerNorm: 30}


def assert_normal(path: str, weight: Tensor, std: float) -> None:
    """Mean and standard deviation within five standard errors."""
    values = weight.detach().double()
    assert abs(values.mean().item()) < 5 * std / math.sqrt(values.numel()), path
    assert abs(values.std().item() / std - 1) < 5 / math.sqrt(2 * values.numel()), path


@pytest.mark.parametrize("name", PAPER)
def test_drop_path_rises_linearly_over_all_blocks(name: str) -> None:
    rates = [block.drop_path.drop_prob for stage in meta_model(name).encoder.stages for block in stage.blocks]
    assert rates[0] == 0
    assert rates == pytest.approx([0.1 * i / (len(rates) - 1) for i in range(len(rates))])


def test_drop_path_rate_is_an_option() -> None:
    model = create_model("segformer_b0", 2, drop_path_rate=0.3)
    assert model.encoder.stages[3].blocks[1].drop_path.drop_prob == pytest.approx(0.3)


def test_drop_path_acts_on_both_branches_of_a_block_sample_by_sample() -> None:
    torch.manual_seed(0)
    block = Block(8, num_heads=2, sr_ratio=1, mlp_ratio=4, drop_path=0.5)
    x_BHWC = torch.randn(400, 2, 2, 8)
    with torch.no_grad():
        attended = 2 * block.attn(block.norm1(x_BHWC))
        fed = {kept: 2 * block.ffn(block.norm2(x_BHWC + kept * attended)) for kept in (0, 1)}
        difference = block.train()(x_BHWC) - x_BHWC
        outcomes = [a * attended + f * fed[a] for a in (0, 1) for f in (0, 1)]
    distances = torch.stack([(difference - outcome).flatten(1).abs().amax(1) for outcome in outcomes])
    nearest, which = distances.min(dim=0)
    assert nearest.max() < 1e-4
    # The two branches are dropped independently: all four outcomes are about as frequent.
    assert which.bincount(minlength=4).min() > 60


def test_training_mode_is_random_and_evaluation_is_not() -> None:
    torch.manual_seed(0)
    model = create_model("segformer_b0", 3, drop_path_rate=0.5)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model.train()(images), model(images))
        assert torch.equal(model.eval()(images), model(images))


def test_patch_embedding_is_a_convolution_and_a_norm() -> None:
    torch.manual_seed(0)
    embed = OverlapPatchEmbed(3, 8, patch_size=7, stride=4).double()
    images = torch.randn(2, 3, 13, 18, dtype=torch.float64)
    map_BCHW = F.conv2d(images, embed.proj.weight, embed.proj.bias, stride=4, padding=3)
    expected = F.layer_norm(map_BCHW.permute(0, 2, 3, 1), (8,), embed.norm.weight, embed.norm.bias, 1e-5)
    torch.testing.assert_close(embed(images.permute(0, 2, 3, 1)), expected, rtol=1e-12, atol=1e-12)
