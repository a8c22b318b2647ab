"""Networks small enough to look into by hand, with weights that make their attention uneven."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.models.decoders.attention import FCNAttentionDecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.encoders.mit import MixTransformer
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.preprocess import Preprocess
from terrazzo.weights.files import TrainedModel

LABELS = LabelSpec.from_names(["background", "leaf", "stem"])


def tiny_segformer(depths: tuple[int, int, int, int] = (1, 2, 1, 1)) -> TrainedModel:
    torch.manual_seed(0)
    dims = (8, 16, 24, 32)
    encoder = MixTransformer(dims, depths, (1, 2, 3, 4), mlp_ratios=(2,) * 4, drop_path_rate=0.0)
    return trained(Segmenter(encoder, AllMLPDecoder(dims, encoder.strides, 3, embed_dim=8)))


def tiny_setr(class_token: bool) -> TrainedModel:
    torch.manual_seed(0)
    encoder = VisionTransformer(16, 3, 2, 2, 8, (32, 32), (1, 3), class_token, 0.0)
    return trained(Segmenter(encoder, NaiveDecoder(encoder.channels, encoder.strides, 3, embed_dim=8)))


def tiny_pvt_under_attention() -> TrainedModel:
    torch.manual_seed(0)
    encoder = PyramidVisionTransformer((1, 2, 1, 1), (8, 16, 24, 32), (1, 2, 3, 4), image_size=(64, 64))
    return trained(Segmenter(encoder, FCNAttentionDecoder(encoder.channels, encoder.strides, 3, embed_dim=16)))


def convolutions_under_attention() -> TrainedModel:
    torch.manual_seed(0)
    encoder = ConvEncoder([4, 8], [4, 2])
    return trained(Segmenter(encoder, FCNAttentionDecoder(encoder.channels, encoder.strides, 3, embed_dim=16)))


def trained(network: Segmenter) -> TrainedModel:
    for name, weights in network.named_parameters():
        if name.endswith((".q.weight", ".k.weight", ".kv.weight", ".qkv.weight")):
            nn.init.normal_(weights, std=0.7)
    return TrainedModel("tiny", network.eval(), LABELS, Preprocess(), name="tiny")


class ConvEncoder(nn.Module):
    """A chain of 3 x 3 convolutions without biases, each of whose outputs is a map."""

    def __init__(self, channels: Sequence[int], conv_strides: Sequence[int], relu: bool = False) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(torch.tensor(conv_strides).cumprod(0).tolist())
        before = (3, *channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before[i], channels[i], 3, stride, padding=1, bias=False) for i, stride in enumerate(conv_strides)
        )
        self.relu = relu

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        maps, x = [], images_B3HW
        for conv in self.convs:
            x = conv(x).relu() if self.relu else conv(x)
            maps.append(x)
        return maps


class LastMapDecoder(nn.Module):
    """A 1 x 1 classifier on the last map."""

    def __init__(self, channels: int, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.classifier(features[-1])
        return logits


def conv_network(channels: Sequence[int], strides: Sequence[int], relu: bool = False) -> TrainedModel:
    torch.manual_seed(0)
    return trained(Segmenter(ConvEncoder(channels, strides, relu), LastMapDecoder(channels[-1])))
