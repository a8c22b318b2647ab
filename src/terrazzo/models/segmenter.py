"""Segmenter: an encoder, a decoder, and heads that exist only for training.

Shapes: B batch, H and W image size, h and w the decoder's output size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor, nn

from terrazzo.models.spec import ModelSpec

__all__ = ["AggregatingDecoder", "Decoder", "Encoder", "Segmenter"]


class Encoder(Protocol):
    """Images in, feature maps out.

    `channels[i]` and `strides[i]` describe map i, so that no decoder assumes a pyramid or guesses a size.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return one (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])) channels-last map per level."""
        ...


class Decoder(Protocol):
    """Feature maps in, logits out at the decoder's own stride."""

    num_classes: int

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        ...


@runtime_checkable
class AggregatingDecoder(Protocol):
    """A decoder whose first half makes maps that the auxiliary heads read instead of the encoder's.

    `aggregated_channels[i]` describes map i, which has the stride of the encoder's.
    """

    aggregated_channels: tuple[int, ...]

    def aggregate(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps."""
        ...

    def classify(self, maps: Sequence[Tensor]) -> Tensor:
        """Return (B, K, h, w) logits."""
        ...


class Segmenter(nn.Module):
    """A semantic segmentation network.

    Args:
        encoder: a module that follows the `Encoder` protocol.
        decoder: a module that follows the `Decoder` protocol and matches the encoder's channels.
        auxiliary: heads for auxiliary losses in training. Each takes the encoder's maps, or those of an
            `AggregatingDecoder`, and returns (B, K, h, w) logits at a stride of its own.
        spec: what it was built from. A network that was put together by hand has None: it runs, and cannot be saved.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        auxiliary: Sequence[nn.Module] = (),
        spec: ModelSpec | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        self.decoder = decoder
        self.auxiliary = nn.ModuleList(auxiliary)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        num_classes: int = self.decoder.num_classes  # type: ignore[assignment]
        return num_classes

    @property
    def in_channels(self) -> int:
        """Number of bands of the images: three, where an encoder put in by hand does not say."""
        return getattr(self.encoder, "in_channels", 3)

    def without_auxiliary(self) -> Segmenter:
        """Return the same encoder and decoder, and so the same weights, without the auxiliary heads."""
        spec = None if self.spec is None else replace(self.spec, auxiliary=())
        return Segmenter(self.encoder, self.decoder, (), spec) if len(self.auxiliary) else self

    def drop_auxiliary(self) -> None:
        """Remove the auxiliary heads, which only training needs."""
        self.auxiliary = nn.ModuleList()
        if self.spec is not None:
            self.spec = replace(self.spec, auxiliary=())

    @overload
    def forward(self, images_BCHW: Tensor, auxiliary: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, images_BCHW: Tensor, auxiliary: Literal[True]) -> list[Tensor]: ...

    def forward(self, images_BCHW: Tensor, auxiliary: bool = False) -> Tensor | list[Tensor]:
        """Segment normalised images.

        Args:
            images_BCHW: float images of any size of at least 1 x 1, normalised as the weights' Preprocess says.
            auxiliary: compute the auxiliary heads too.

        Returns:
            Logits (B, K, h, w) at the decoder's stride; resize them bilinearly (align_corners=False) to any size.
            With `auxiliary` a list: these logits, then those of each auxiliary head at its own stride.

        Raises:
            ValueError: the input is not (B, in_channels, H, W) with H and W of at least 1.
        """
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != self.in_channels or 0 in images_BCHW.shape:
            shape = tuple(images_BCHW.shape)
            raise ValueError(f"expected images of shape (B, {self.in_channels}, H, W), got {shape}")
        maps: list[Tensor] = self.encoder(images_BCHW.contiguous(memory_format=torch.channels_last))
        logits: Tensor
        if not auxiliary:
            logits = self.decoder(maps)
            return logits
        if isinstance(self.decoder, AggregatingDecoder):
            maps = self.decoder.aggregate(maps)
            logits = self.decoder.classify(maps)
        else:
            logits = self.decoder(maps)
        return [logits, *(head(maps) for head in self.auxiliary)]
