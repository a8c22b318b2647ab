"""Converts transformers' SegformerConfig to a ModelSpec and back.

Three things of a configuration change nothing here. Dropout rates inside the encoder are for training alone, and zero
in all published files. `layer_norm_eps` is not read by transformers either: its LayerNorms have 1e-5. A network of a
published size gets the epsilons of the paper's code, with which its weights were trained; one of any other size gets
transformers' own. `reshape_last_stage` false works there only where it comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models import ModelSpec, Part, segformer
from terrazzo.text import show

__all__ = ["NAME", "config_from_spec", "spec_from_config"]

NAME = "segformer"
"""Name of a SegFormer whose size is not a published one."""

DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "sr_ratios": [8, 4, 2, 1],
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [4, 4, 4, 4],
    "hidden_act": "gelu",
    "drop_path_rate": 0.1,
    "classifier_dropout_prob": 0.1,
    "reshape_last_stage": True,
}
"""SegformerConfig's, of what is not in the shapes of the tensors."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_10": "gelu_10",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "hardswish": "hardswish",
    "laplace": "laplace",
    "sqrtsoftplus": "sqrtsoftplus",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "linear": "linear",
}
"""transformers' names of activations; those with weights of their own are not here."""
THEIR_ACTIVATIONS = {name: name for name in set(ACTIVATIONS.values())} | {"gelu_tanh": "gelu_pytorch_tanh"}

LISTS = {
    "depths": "depths",
    "embed_dims": "hidden_sizes",
    "num_heads": "num_attention_heads",
    "sr_ratios": "sr_ratios",
    "mlp_ratios": "mlp_ratios",
    "patch_sizes": "patch_sizes",
    "patch_strides": "strides",
}
"""Our fields with a number for each stage, and theirs."""


def spec_from_config(config: Mapping[str, Any], measured: Mapping[str, Any], num_classes: int, where: str) -> ModelSpec:
    """Return what a configuration describes.

    Args:
        config: a ``config.json`` of transformers' SegFormer.
        measured: keys of it that the shapes of the tensors tell too, for those that it leaves out.
        num_classes: K of the network.
        where: the file, for messages.

    Raises:
        CheckpointError: a value is of the wrong kind, or no such network can be built here.
    """
    values = {**DEFAULTS, **measured, **config}
    stages = values["num_encoder_blocks"]
    if type(stages) is not int or not 1 <= stages <= 64:
        raise _refused(where, f"has {show(stages)} encoder blocks")
    fields: dict[str, Any] = {}
    for ours, theirs in LISTS.items():
        value = values.get(theirs)
        if not isinstance(value, (list, tuple)) or len(value) < stages:
            raise _refused(where, f"has {theirs} {show(value)}, and {stages} encoder blocks")
        fields[ours] = tuple(int(one) if isinstance(one, float) and one.is_integer() else one for one in value[:stages])
    if values["hidden_act"] not in ACTIVATIONS:
        raise _refused(where, f"asks for the hidden_act {show(values['hidden_act'])}")
    fields["activation"] = ACTIVATIONS[values["hidden_act"]]
    fields["drop_path_rate"] = values["drop_path_rate"]
    fields["norm_eps"] = fields["reduction_eps"] = 1e-5
    if any(size == stride for size, stride in zip(fields["patch_sizes"], fields["patch_strides"], strict=True)):
        fields["centred_patches"] = True
    decoder = {"embed_dim": values.get("decoder_hidden_size", 256), "dropout": values["classifier_dropout_prob"]}
    try:
        spec = ModelSpec(
            Part("mit", fields),
            Part("all_mlp", decoder),
            num_classes,
            in_channels=values["num_channels"],
            name=NAME,
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error.message}", fix=error.fix, code="checkpoint-variant") from error
    return _published(spec) or spec


def _published(spec: ModelSpec) -> ModelSpec | None:
    """Return the variant that has the same layers, with what only training reads as in `spec`."""
    for variant in segformer.VARIANTS.values():
        eps = {key: variant.encoder.fields[key] for key in ("norm_eps", "reduction_eps")}
        rate = {"drop_path_rate": variant.encoder.fields["drop_path_rate"]}
        same_encoder = variant.encoder.fields == {**spec.encoder.fields, **eps, **rate}
        width = spec.decoder.fields["embed_dim"]
        if same_encoder and variant.decoder.name == "all_mlp" and variant.decoder.fields["embed_dim"] == width:
            encoder = replace(spec.encoder, fields={**spec.encoder.fields, **eps})
            return replace(spec, encoder=encoder, name=variant.name)
    return None


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Return the configuration of transformers' network that computes the same.

    Raises:
        ConfigError: there is none.
    """
    fields = spec.encoder.fields
    if spec.encoder.name != "mit" or spec.decoder.name != "all_mlp":
        raise _not_theirs(spec, "it knows SegFormer's encoder under SegFormer's decoder alone")
    stages = len(fields["embed_dims"])
    plain = any(size == step for size, step in zip(fields["patch_sizes"], fields["patch_strides"], strict=True))
    other = (
        "plain feed-forward layers" if not fields["ffn_convolution"]
        else "learned positions" if fields["positions"]
        else "stages that are not emitted" if fields["emitted"] not in (None, tuple(range(1, stages + 1)))
        else "patches that are not centred" if plain and not fields["centred_patches"]
        else "LayerNorms with another epsilon" if max(fields["norm_eps"], fields["reduction_eps"]) > 1e-5
        else None
    )  # fmt: skip
    if other is not None:
        raise _not_theirs(spec, f"it has no {other}")
    return {
        "num_channels": spec.in_channels,
        "num_encoder_blocks": stages,
        **{theirs: list(fields[ours]) for ours, theirs in LISTS.items()},
        "hidden_act": THEIR_ACTIVATIONS[fields["activation"]],
        "drop_path_rate": fields["drop_path_rate"],
        "decoder_hidden_size": spec.decoder.fields["embed_dim"],
        "classifier_dropout_prob": spec.decoder.fields["dropout"],
        "reshape_last_stage": True,
    }


def _not_theirs(spec: ModelSpec, why: str) -> ConfigError:
    return ConfigError(
        f"transformers has no {spec.title}",
        fix=f"{why}; use --to terrazzo",
        code="convert-architecture",
    )


def _refused(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where} {what}, which is no SegFormer that can be built here",
        fix="correct the configuration; what it can say is in transformers' SegformerConfig",
        code="checkpoint-variant",
    )
