"""SegFormer with fused operators, for inference on a CPU in float32 or bfloat16: the same outputs in less time.

`terrazzo.models` defines the network. Much of its time there is not arithmetic: feature maps of many megabytes go to
memory and back between cheap steps. So

* layers are oneDNN's fused operators, the ones that torch.compile emits, with weights reordered once: a linear layer
  adds bias and residual while it writes, the depthwise convolution of Mix-FFN applies GELU while it writes;
* the decoder, composed once with its BatchNorm folded in, works in strips of a few rows, which stay in the processor's
  cache from the sum over levels to the logits. A coarser level is resized for a strip by a small matrix product, since
  bilinear resizing is linear in the rows;
* in bfloat16 attention works in strips of queries, whose scores stay in the cache too.

In bfloat16 weights and maps are rounded to it, and sums of layers are kept in it; logits are returned in float32. The
decoder's weights are composed in float32 first.

Shapes as in `models/encoders/mit.py` and `models/decoders/all_mlp.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.encoders.mit import Block, MixTransformer, SequenceReduction, Stage, is_standard
from terrazzo.models.layers import fold_norm, interpolation_matrix, is_unchanged
from terrazzo.models.segmenter import Segmenter

__all__ = ["FusedSegFormer", "can_fuse"]

STRIP_ELEMENTS = 400_000
"""Decoder width times pixels in one strip: 1.6 MB, about a core's second-level cache."""

STRIP_SCORES = 400_000
"""Attention scores in one strip of queries, in bfloat16: 0.8 MB, and as much again for their softmax."""

onednn = torch.ops.mkldnn


def can_fuse(network: Segmenter) -> bool:
    """Whether a network is the paper's SegFormer on a CPU, with weights in float32, and PyTorch has oneDNN."""
    parameter = next(network.parameters())
    return (
        isinstance(network.encoder, MixTransformer)
        and is_standard(network.encoder)
        and isinstance(network.decoder, AllMLPDecoder)
        and is_unchanged(network)
        and parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class FusedSegFormer:
    """The forward pass of a SegFormer, called like the network, with a copy of its weights.

    Args:
        network: the SegFormer, in float32.
        dtype: of weights and maps, float32 or bfloat16.
    """

    def __init__(self, network: Segmenter, dtype: torch.dtype = torch.float32) -> None:
        assert isinstance(network.encoder, MixTransformer)
        assert isinstance(network.decoder, AllMLPDecoder)
        self.dtype = dtype
        encoder = network.encoder if dtype == torch.float32 else copy.deepcopy(network.encoder).to(dtype)
        with torch.no_grad():
            self.stages = [FusedStage(stage) for stage in encoder.stages if isinstance(stage, Stage)]
            self.decoder = StripDecoder(network.decoder, dtype)

    @torch.inference_mode()
    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """Return (B, K, ceil(H / 4), ceil(W / 4)) logits of normalised float32 images."""
        x_BHWC = images_B3HW.to(self.dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1)
        features = []
        for stage in self.stages:
            x_BHWC = stage(x_BHWC)
            features.append(x_BHWC)
        return self.decoder(features).permute(0, 3, 1, 2)


class FusedLinear:
    """A linear layer with its weight in oneDNN's blocked layout."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = onednn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = onednn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the layer's output plus `residual`."""
        out: Tensor = onednn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
        return out


class FusedConv:
    """A convolution of (B, H, W, C) maps with its weight in oneDNN's blocked layout; with `gelu`, GELU follows."""

    def __init__(self, conv: nn.Conv2d, gelu: bool = False) -> None:
        self.geometry = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = onednn._reorder_convolution_weight(weight, *self.geometry, None)
        assert conv.bias is not None
        self.bias = conv.bias.detach().clone()
        no_scalars: list[float] = []
        self.activation = "gelu" if gelu else "none", no_scalars, "none"

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        out: Tensor = onednn._convolution_pointwise(x_BCHW, self.weight, self.bias, *self.geometry, *self.activation)
        return out.permute(0, 2, 3, 1)


class FusedBlock:
    """A transformer block whose two residual sums are part of the branches' last linear layers."""

    def __init__(self, block: Block) -> None:
        attention, ffn = block.attn, block.ffn
        self.norm1, self.norm2 = copy.deepcopy(block.norm1), copy.deepcopy(block.norm2)
        self.num_heads = attention.num_heads
        self.q, self.kv, self.proj = FusedLinear(attention.q), FusedLinear(attention.kv), FusedLinear(attention.proj)
        self.reduction = None if attention.sr is None else FusedReduction(attention.sr)
        assert ffn.dwconv is not None
        self.fc1, self.dwconv, self.fc2 = FusedLinear(ffn.fc1), FusedConv(ffn.dwconv, gelu=True), FusedLinear(ffn.fc2)

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.proj.plus(self._attention(self.norm1(x_BHWC)), x_BHWC)
        return self.fc2.plus(self.dwconv(self.fc1(self.norm2(x_BHWC))), x_BHWC)

    def _attention(self, x_BHWC: Tensor) -> Tensor:
        B, H, W, C = x_BHWC.shape
        heads, head_dim = self.num_heads, C // self.num_heads
        source = x_BHWC if self.reduction is None else self.reduction(x_BHWC)
        q = self.q(x_BHWC).reshape(B, H * W, heads, head_dim).transpose(1, 2)
        k, v = self.kv(source).reshape(B, -1, 2, heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        attend = F.scaled_dot_product_attention if q.dtype == torch.float32 else _attention_in_strips
        return attend(q, k, v).transpose(1, 2).reshape(B, H, W, C)


class FusedReduction:
    """`SequenceReduction` as a convolution."""

    def __init__(self, reduction: SequenceReduction) -> None:
        self.conv, self.norm = FusedConv(reduction.conv), copy.deepcopy(reduction.norm)
        self.ratio = reduction.ratio

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        _, H, W, _ = x_BHWC.shape
        if min(H, W) < self.ratio:
            x_BHWC = F.pad(x_BHWC, (0, 0, 0, max(self.ratio - W, 0), 0, max(self.ratio - H, 0)))
        reduced: Tensor = self.norm(self.conv(x_BHWC))
        return reduced


class FusedStage:
    """Patch embedding, blocks, norm."""

    def __init__(self, stage: Stage) -> None:
        self.embed = FusedConv(stage.patch_embed.proj)
        self.embed_norm, self.norm = copy.deepcopy(stage.patch_embed.norm), copy.deepcopy(stage.norm)
        self.blocks = [FusedBlock(block) for block in stage.blocks if isinstance(block, Block)]

    def __call__(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.embed_norm(self.embed(x_BHWC))
        for block in self.blocks:
            x_BHWC = block(x_BHWC)
        normed: Tensor = self.norm(x_BHWC)
        return normed


class StripDecoder:
    """The all-MLP decoder with composed weights, in strips of a few rows."""

    def __init__(self, decoder: AllMLPDecoder, dtype: torch.dtype) -> None:
        scale, shift = fold_norm(decoder.norm)
        weights, bias = decoder.composed()
        self.weights_CiC = [(scale[:, None] * weight).to(dtype).T.contiguous() for weight in weights]
        self.bias = (scale * bias + shift).to(dtype)
        self.classifier_CK = decoder.classifier.weight.to(dtype).T.contiguous()
        self.classifier_bias = decoder.classifier.bias.detach().clone().to(dtype)

    def __call__(self, features_BHWC: Sequence[Tensor]) -> Tensor:
        """Return (B, h, w, K) logits in float32."""
        B, H, W, _ = features_BHWC[0].shape
        logits = features_BHWC[0].new_empty(B, H, W, len(self.classifier_bias), dtype=torch.float32)
        for image in range(B):
            self._one_image([x_BHWC[image] for x_BHWC in features_BHWC], logits[image])
        return logits

    def _one_image(self, features_HWC: list[Tensor], logits_HWK: Tensor) -> None:
        H, W, K = logits_HWK.shape
        C = len(self.bias)
        finest, *coarser = features_HWC
        # Each coarser level, resized to the full width but with its own height, as rows of W x C numbers.
        levels = [self._widened(x, weight, W) for x, weight in zip(coarser, self.weights_CiC[1:], strict=True)]
        levels[-1] += self.bias.repeat(W)  # the smallest; bilinear weights sum to 1, so resizing keeps the bias
        to_rows = [interpolation_matrix(len(level), H, level) for level in levels]
        step = min(max(STRIP_ELEMENTS // (W * C), 1), H)
        strip_PC = self.bias.new_empty(step * W, C)
        for top in range(0, H, step):
            rows = slice(top, min(top + step, H))
            sum_PC = strip_PC[: (rows.stop - top) * W]
            for index, (level, matrix) in enumerate(zip(levels, to_rows, strict=True)):
                band = _source_rows(rows, H, len(level))
                sum_PC.view(-1, W * C).addmm_(matrix[rows, band], level[band], beta=min(index, 1))
            sum_PC.addmm_(finest[rows].reshape(-1, finest.shape[-1]), self.weights_CiC[0]).relu_()
            strip_PK = logits_HWK[rows].view(-1, K)
            if sum_PC.dtype == strip_PK.dtype:
                torch.addmm(self.classifier_bias, sum_PC, self.classifier_CK, out=strip_PK)
            else:
                strip_PK.copy_(torch.addmm(self.classifier_bias, sum_PC, self.classifier_CK))

    def _widened(self, x_hwC: Tensor, weight: Tensor, width: int) -> Tensor:
        h, w, _ = x_hwC.shape
        projected = (x_hwC.reshape(h * w, -1) @ weight).view(1, h, w, -1).permute(0, 3, 1, 2)
        wide = F.interpolate(projected, (h, width), mode="bilinear", align_corners=False)
        return wide.permute(0, 2, 3, 1).reshape(h, -1)


def _attention_in_strips(q_BNTD: Tensor, k_BNSD: Tensor, v_BNSD: Tensor) -> Tensor:
    """Return dot-product attention, (B, N, T, D), with its scores in the maps' own type, a strip of queries at a time.

    In bfloat16 it takes two thirds to four fifths of the time of PyTorch's own, whose scores are in float32.
    """
    B, N, T, D = q_BNTD.shape
    keys_BNDS, v_BNSD = (k_BNSD * D**-0.5).transpose(-1, -2).contiguous(), v_BNSD.contiguous()
    out = q_BNTD.new_empty(B, T, N, D).transpose(1, 2)
    step = max(STRIP_SCORES // (B * N * keys_BNDS.shape[-1]), 1)
    for top in range(0, T, step):
        rows = slice(top, top + step)
        out[:, :, rows] = torch.matmul(torch.matmul(q_BNTD[:, :, rows], keys_BNDS).softmax(-1), v_BNSD)
    return out


def _source_rows(rows: slice, height: int, source_height: int) -> slice:
    """Return the rows of a coarser level that bilinear resizing reads for these rows of `height`."""
    scale = source_height / height
    first = max(int((rows.start + 0.5) * scale - 0.5), 0)
    last = int((rows.stop - 0.5) * scale - 0.5) + 1
    return slice(first, min(last + 1, source_height))
