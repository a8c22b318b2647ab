"""The decoders that the papers compare with, step by step as their papers describe them, with the weights of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Mapping[str, Tensor]


def randomised(module: nn.Module) -> nn.Module:
    """Return it in evaluation, with statistics and parameters that hide no mistake."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return module.eval()


def maps_of(channels: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, width, *size) for width, size in zip(channels, sizes, strict=True)]


def conv_bn_relu(state: State, name: str, x: Tensor, dilation: int = 1) -> Tensor:
    kernel = state[f"{name}.conv.weight"]
    x = F.conv2d(x, kernel, padding=dilation * (kernel.shape[-1] // 2), dilation=dilation)
    statistics = state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"]
    return F.batch_norm(x, *statistics, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]).clamp(min=0)


def conv_1x1(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight.reshape(*weight.shape[:2], 1, 1), state[f"{name}.bias"])


def resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def fcn_skips(state: State, maps: Sequence[Tensor], skips: int, factor: int = 2, learned: bool = True) -> Tensor:
    """Long et al., section 4.2: score the last map, enlarge, add the scores of the finer one, and so on."""
    x = conv_bn_relu(state, "convs.1", conv_bn_relu(state, "convs.0", maps[-1]))
    total = conv_1x1(state, f"classifier.scores.{skips}", x)
    for level in reversed(range(skips)):
        finer = conv_1x1(state, f"classifier.scores.{level}", maps[level - skips - 1])
        if learned:
            kernel = state[f"classifier.upscores.{level}.weight"]
            full = torch.zeros(len(kernel), len(kernel), *kernel.shape[2:])
            for k in range(len(kernel)):
                full[k, k] = kernel[k, 0]
            total = F.conv_transpose2d(total, full, stride=factor, padding=factor // 2)
            total = total[:, :, : finer.shape[2], : finer.shape[3]]
        else:
            total = resized(total, finer)
        total = total + finer
    return total


def position_attention(state: State, name: str, x: Tensor) -> Tensor:
    """Fu et al., section 3.2: s_ji = softmax over i of B_i C_j, E_j = alpha sum over i of s_ji D_i, plus A_j."""
    b, c, d = (conv_1x1(state, f"{name}.{part}", x).flatten(2) for part in ("k", "q", "v"))
    s = torch.einsum("bdi,bdj->bji", b, c).softmax(-1)
    return state[f"{name}.gain"] * torch.einsum("bji,bci->bcj", s, d).view_as(x) + x


def fcn_attention(state: State, maps: Sequence[Tensor]) -> Tensor:
    x = position_attention(state, "attention", conv_bn_relu(state, "conv_in", maps[-1]))
    return conv_1x1(state, "classifier", conv_bn_relu(state, "conv_out", x))


def pyramid_pooling(state: State, name: str, x: Tensor, bins: Sequence[int]) -> Tensor:
    """Zhao et al., section 3.2."""
    levels = [x]
    for i, n in enumerate(bins):
        pooled = conv_bn_relu(state, f"{name}.branches.{i}.project", F.adaptive_avg_pool2d(x, n))
        levels.append(resized(pooled, x))
    return conv_bn_relu(state, f"{name}.fuse", torch.cat(levels, dim=1))


def psp(state: State, maps: Sequence[Tensor], bins: Sequence[int]) -> Tensor:
    return conv_1x1(state, "classifier", pyramid_pooling(state, "pooling", maps[-1], bins))


def aspp(state: State, maps: Sequence[Tensor], rates: Sequence[int]) -> Tensor:
    """Chen et al., section 3.3."""
    x = maps[-1]
    branches = [conv_bn_relu(state, "branches.0", x)]
    branches += [conv_bn_relu(state, f"branches.{i}", x, rate) for i, rate in enumerate(rates, 1)]
    pooled = conv_bn_relu(state, f"branches.{len(rates) + 1}.project", x.mean((2, 3), keepdim=True))
    branches.append(pooled.expand_as(branches[0]))
    return conv_1x1(state, "classifier", conv_bn_relu(state, "fuse", torch.cat(branches, dim=1)))


def upernet(state: State, maps: Sequence[Tensor], bins: Sequence[int]) -> Tensor:
    """Xiao et al., section 3.1, for maps C2 to C5."""
    p = {5: pyramid_pooling(state, "pooling", maps[3], bins)}
    for level in (4, 3, 2):
        lateral = conv_bn_relu(state, f"laterals.{level - 2}", maps[level - 2])
        p[level] = lateral + resized(p[level + 1], lateral)
    outputs = [conv_bn_relu(state, f"outputs.{level - 2}", p[level]) for level in (2, 3, 4)]
    fused = torch.cat([resized(x, outputs[0]) for x in (*outputs, p[5])], dim=1)
    return conv_1x1(state, "classifier", conv_bn_relu(state, "fuse", fused))


def fpn(state: State, maps: Sequence[Tensor], groups: int) -> Tensor:
    """Lin et al., section 3, then Kirillov et al., section 3: levels at 1/4 to 1/32, each size half the one before."""
    total = None
    above = None
    for level in (3, 2, 1, 0):
        here = conv_1x1(state, f"laterals.{level}", maps[level])
        above = here if above is None else here + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.conv2d(above, state[f"outputs.{level}.weight"], state[f"outputs.{level}.bias"], padding=1)
        for stage in range(max(level, 1)):
            name = f"branches.{level}.{stage}"
            x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
            x = F.group_norm(x, groups, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]).clamp(min=0)
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = x if total is None else total + x
    assert total is not None
    return conv_1x1(state, "classifier", total)
