"""The encoders of both papers as ONNX graphs. `terrazzo.models.encoders` defines them.

Shapes are as there; T counts the tokens of all images of the batch, S those after sequence reduction.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from terrazzo.graphs.builder import Graph
from terrazzo.models.encoders.mit import Block, MixTransformer, Stage
from terrazzo.models.encoders.vit import Block as ViTBlock
from terrazzo.models.encoders.vit import VisionTransformer

__all__ = ["Level", "mix_transformer", "vision_transformer"]


@dataclass(frozen=True)
class Level:
    """A feature map in a graph.

    Attributes:
        x_TC: its tokens.
        channels: C.
        sizes_BHW: batch, height and width, a vector of three.
    """

    x_TC: str
    channels: int
    sizes_BHW: str


def mix_transformer(graph: Graph, encoder: MixTransformer, images: str) -> list[Level]:
    """Add SegFormer's encoder and return its four levels, finest first."""
    levels = []
    batch = graph.sizes(images, 0, 1)
    x_BCHW = images
    for stage in encoder.stages:
        assert isinstance(stage, Stage)
        proj = stage.patch_embed.proj
        x_BHWC = graph.transpose(graph.convolution(x_BCHW, proj.weight, proj.bias, proj), 0, 2, 3, 1)
        sizes_BHW = graph.sizes(x_BHWC, 0, 3)
        x_TC = graph.layer_norm(graph.reshape(x_BHWC, -1, proj.out_channels), stage.patch_embed.norm)
        for block in stage.blocks:
            assert isinstance(block, Block)
            x_TC = _mix_block(graph, block, x_TC, sizes_BHW, batch)
        assert isinstance(stage.norm, nn.LayerNorm)
        x_TC = graph.layer_norm(x_TC, stage.norm)
        levels.append(Level(x_TC, proj.out_channels, sizes_BHW))
        x_BCHW = graph.map(x_TC, sizes_BHW, proj.out_channels)
    return levels


def _mix_block(graph: Graph, block: Block, x_TC: str, sizes_BHW: str, batch: str) -> str:
    attention, ffn = block.attn, block.ffn
    assert ffn.dwconv is not None
    dim = attention.q.in_features
    normed_TC = source_SC = graph.layer_norm(x_TC, block.norm1)
    if attention.sr is not None:
        conv = attention.sr.conv
        reduced = graph.convolution(graph.map(normed_TC, sizes_BHW, dim), conv.weight, conv.bias, conv)
        source_SC = graph.layer_norm(graph.tokens(reduced, dim), attention.sr.norm)
    scale = (dim // attention.num_heads) ** -0.5
    q_TC = graph.linear(normed_TC, scale * attention.q.weight, scale * attention.q.bias)
    k_weight, v_weight = attention.kv.weight.chunk(2)
    k_bias, v_bias = attention.kv.bias.chunk(2)
    proj = attention.proj
    if attention.num_heads == 1:
        # Projecting a weighted mean of values is the weighted mean of projected values, which are far fewer than
        # tokens.
        v_weight, v_bias = proj.weight @ v_weight, proj.weight @ v_bias + proj.bias
    k_SC, v_SC = graph.linear(source_SC, k_weight, k_bias), graph.linear(source_SC, v_weight, v_bias)
    mixed_TC = graph.attention(q_TC, k_SC, v_SC, batch, dim, attention.num_heads)
    if attention.num_heads > 1:
        mixed_TC = graph.linear(mixed_TC, proj.weight, proj.bias)
    x_TC = graph.node("Add", mixed_TC, x_TC)

    # The linear layers around the depthwise convolution are 1 x 1 convolutions here: runtimes keep their own memory
    # layout from one convolution to the next, so that only the narrow maps at both ends are reordered.
    x_BCHW = graph.map(graph.layer_norm(x_TC, block.norm2), sizes_BHW, dim)
    hidden = graph.convolution_1x1(x_BCHW, ffn.fc1.weight, ffn.fc1.bias)
    hidden = graph.node("Gelu", graph.convolution(hidden, ffn.dwconv.weight, ffn.dwconv.bias, ffn.dwconv))
    out_TC = graph.tokens(graph.convolution_1x1(hidden, ffn.fc2.weight, ffn.fc2.bias), dim)
    return graph.node("Add", out_TC, x_TC)


def vision_transformer(graph: Graph, encoder: VisionTransformer, images: str) -> list[Level]:
    """Add SETR's encoder and return its levels, all of one size, without the class token.

    The image's resize to whole patches and that of the position embeddings are part of the graph, for any size.
    """
    batch, proj = graph.sizes(images, 0, 1), encoder.patch_embed.proj
    P, dim = encoder.patch_embed.patch_size, proj.out_channels
    patches = graph.node("Div", graph.node("Add", graph.sizes(images, 2, 4), graph.integers(P - 1)), graph.integers(P))
    whole = graph.resize(images, graph.node("Mul", patches, graph.integers(P)))
    x_TC = graph.tokens(graph.convolution(whole, proj.weight, proj.bias, proj), dim)
    positions = graph.resize(graph.weight(encoder.pos_embed.permute(0, 3, 1, 2)), patches)
    positions_1NC = graph.reshape(graph.tokens(positions, dim), 1, -1, dim)
    x_BTC = graph.node("Add", graph.reshape(x_TC, batch, -1, dim), positions_1NC)
    prefix = encoder.class_token_in_blocks
    if prefix:
        token_11C = graph.weight(encoder.cls_token + encoder.cls_pos_embed)
        token_B1C = graph.node("Expand", token_11C, graph.concat(batch, 1, dim))
        x_BTC = graph.node("Concat", token_B1C, x_BTC, axis=1)
    x_TC = graph.reshape(x_BTC, -1, dim)
    sizes_BHW = graph.concat(batch, patches)
    levels = []
    for number, block in enumerate(encoder.blocks, start=1):
        assert isinstance(block, ViTBlock)
        x_TC = _plain_block(graph, block, x_TC, batch)
        if number in encoder.layers:
            x_BNC = graph.reshape(x_TC, batch, -1, dim)
            if prefix:
                last = graph.integers(2**31)
                x_BNC = graph.node("Slice", x_BNC, graph.integers(1), last, graph.integers(1))
            levels.append(Level(graph.reshape(x_BNC, -1, dim), dim, sizes_BHW))
    return levels


def _plain_block(graph: Graph, block: ViTBlock, x_TC: str, batch: str) -> str:
    attention, mlp = block.attn, block.mlp
    dim = attention.proj.in_features
    normed_TC = graph.layer_norm(x_TC, block.norm1)
    scales = (dim // attention.num_heads) ** -0.5, 1.0, 1.0
    q_TC, k_TC, v_TC = (
        graph.linear(normed_TC, scale * weight, scale * bias)
        for scale, weight, bias in zip(scales, attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    mixed_TC = graph.attention(q_TC, k_TC, v_TC, batch, dim, attention.num_heads)
    x_TC = graph.node("Add", graph.linear(mixed_TC, attention.proj.weight, attention.proj.bias), x_TC)
    hidden_TC = graph.node("Gelu", graph.linear(graph.layer_norm(x_TC, block.norm2), mlp.fc1.weight, mlp.fc1.bias))
    return graph.node("Add", graph.linear(hidden_TC, mlp.fc2.weight, mlp.fc2.bias), x_TC)
