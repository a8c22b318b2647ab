"""Segmenter: an encoder, a decoder, and heads that exist only for training.

Shapes: B batch, H and W image size, h and w the decoder's output size, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["AggregatingDecoder", "Decoder", "Encoder", "Segmenter"]


class Encoder(Protocol):
    """Images in, feature maps out.

    `channels[i]` and `strides[i]` describe map i, so that no decoder assumes a pyramid or guesses a size.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, images_B3HW: Tensor) -> list[Tensor]:
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
    """A decoder whose first half makes maps that the auxiliary heads read instead of the encoder's."""

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
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, auxiliary: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.auxiliary = nn.ModuleList(auxiliary)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        num_classes: int = self.decoder.num_classes  # type: ignore[assignment]
        return num_classes

    def drop_auxiliary(self) -> None:
        """Remove the auxiliary heads; nothing but training needs them."""
        self.auxiliary = nn.ModuleList()

    @overload
    def forward(self, images_B3HW: Tensor, auxiliary: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, images_B3HW: Tensor, auxiliary: Literal[True]) -> list[Tensor]: ...

    def forward(self, images_B3HW: Tensor, auxiliary: bool = False) -> Tensor | list[Tensor]:
        """Segment normalised images.

        Args:
            images_B3HW: float images of any size of at least 1 x 1, normalised as the weights' Preprocess says.
            auxiliary: compute the auxiliary heads too.

        Returns:
            Logits (B, K, h, w) at the decoder's stride; resize them bilinearly (align_corners=False) to any size.
            With `auxiliary` a list: these logits, then those of each auxiliary head at its own stride.

        Raises:
            ValueError: the input is not (B, 3, H, W) with H and W of at least 1.
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3 or 0 in images_B3HW.shape:
            raise ValueError(f"expected images of shape (B, 3, H, W), got {tuple(images_B3HW.shape)}")
        maps: list[Tensor] = self.encoder(images_B3HW.contiguous(memory_format=torch.channels_last))
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
