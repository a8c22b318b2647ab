"""`create_model`: a network by name or by spec, with random weights but for those of an encoder from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.errors import ConfigError
from terrazzo.models import ModelSpec, Segmenter, build, find_spec
from terrazzo.models.encoders.backbone import Backbone
from terrazzo.weights.backbones import is_named, load_backbone, locate, split_name

__all__ = ["create_model"]


@checked
def create_model(
    name: str | ModelSpec,
    num_classes: int,
    drop_path_rate: float | None = None,
    image_size: tuple[int, int] | None = None,
    encoder: str | Mapping[str, Any] | None = None,
    in_channels: int | None = None,
) -> Segmenter:
    """Build a model with random weights, but for those of an encoder that brings its own.

    Args:
        name: a model's name such as ``segformer_b0`` or ``setr_pup_base``; an encoder and a decoder such as
            ``mit_b0+fcn``; with `encoder` a decoder; or a `ModelSpec`.
        num_classes: K, at least 2 (background counts as a class).
        drop_path_rate: stochastic depth of the last encoder block, used in training only; by default that of the
            encoder's paper, 0.1 for MiT and 0 for ViT, or what `encoder` is configured with.
        image_size: (H, W) that learned position embeddings are made for, by default 768 x 768. They are resized for
            images of other sizes, so this is best the training crop. Encoders without them do not need it.
        encoder: an encoder of ours such as ``mit_b0``, or a backbone of Hugging Face transformers. ``hf:NAME`` is a
            model of its hub, or the folder of one, with its weights; ``hf:FILE`` is a ``config.json``, and a mapping
            what such a file holds, for random weights.
        in_channels: bands of the images; by default as the spec or the configuration of the encoder says, else 3.

    Raises:
        ConfigError: the name is unknown, K is below 2, or the encoder cannot be used.
        CheckpointError: the encoder's weights cannot be had.
        MissingExtraError: an encoder of transformers is named, which is not installed.
    """
    folder: Path | None = None
    bands: Any = 3
    if isinstance(name, str):
        encoder, name = split_name(name, encoder)
    elif encoder is not None:
        raise ConfigError(
            f"the spec {name.title} has an encoder of its own", fix="leave the encoder out", code="model-encoder"
        )
    if isinstance(encoder, str) and is_named(encoder):
        encoder, folder = locate(encoder)
        bands = encoder.get("num_channels", 3)
    spec = name if isinstance(name, ModelSpec) else find_spec(name, encoder)
    network = build(
        spec.adapted(num_classes, image_size=image_size, in_channels=in_channels, drop_path_rate=drop_path_rate)
    )
    if folder is not None:
        assert isinstance(network.encoder, Backbone)
        load_backbone(network.encoder, folder, bands)
    return network
