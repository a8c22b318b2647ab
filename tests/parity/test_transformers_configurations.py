"""Every configuration that transformers' SegFormer allows gives the same logits here, and goes back to the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import terrazzo
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models.segmenter import Segmenter
from terrazzo.weights.create import create_model
from terrazzo.weights.files import save_folder
from terrazzo.weights.huggingface import save_huggingface

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[dev]'")

TINY: dict[str, Any] = {
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "mlp_ratios": [2, 2, 2, 2],
    "decoder_hidden_size": 8,
    "num_labels": 3,
}
THREE = {"num_encoder_blocks": 3, "hidden_sizes": [8, 12, 16], "depths": [1, 2, 1], "num_attention_heads": [1, 1, 2]}
FIVE = {
    "num_encoder_blocks": 5,
    "hidden_sizes": [8, 8, 12, 16, 20],
    "depths": [1, 1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2, 4],
    "mlp_ratios": [2, 2, 2, 2, 2],
    "sr_ratios": [8, 4, 2, 1, 1],
    "patch_sizes": [7, 3, 3, 3, 3],
    "strides": [4, 2, 2, 2, 1],
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "the defaults": {"mlp_ratios": [4, 4, 4, 4], "num_attention_heads": [1, 2, 2, 5]},
    "sr_ratios": {"sr_ratios": [4, 2, 1, 1]},
    "no reduction": {"sr_ratios": [1, 1, 1, 1]},
    "strides": {"strides": [2, 2, 2, 2]},
    "odd strides": {"strides": [3, 2, 1, 2]},
    "patch_sizes": {"patch_sizes": [5, 3, 5, 3]},
    "even patches": {"patch_sizes": [8, 4, 2, 4]},
    "patches of the stride": {"patch_sizes": [4, 2, 2, 2]},
    "patches smaller than the stride": {"patch_sizes": [3, 1, 3, 3]},
    "num_attention_heads": {"num_attention_heads": [4, 3, 8, 10]},
    "mlp_ratios": {"mlp_ratios": [1, 4, 2, 3]},
    "depths": {"depths": [2, 1, 3, 1]},
    "decoder_hidden_size": {"decoder_hidden_size": 24},
    "three blocks": THREE,
    "five blocks": FIVE,
    "one block": {
        "num_encoder_blocks": 1, "hidden_sizes": [8], "depths": [2], "num_attention_heads": [2], "mlp_ratios": [2],
    },
    "one band": {"num_channels": 1},
    "four bands": {"num_channels": 4},
    "one label": {"num_labels": 1},
    "two labels": {"num_labels": 2},
    "hidden_sizes": {"hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 4, 4]},
    "relu": {"hidden_act": "relu"},
    "gelu_new": {"hidden_act": "gelu_new"},
    "swish": {"hidden_act": "swish"},
    "laplace": {"hidden_act": "laplace"},
    "layer_norm_eps": {"layer_norm_eps": 1e-3},
    "drop rates": {
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout_prob": 0.3,
        "drop_path_rate": 0.4,
    },
    "reshape_last_stage": {"reshape_last_stage": False, "hidden_sizes": [8, 12, 16, 16]},
    "everything": {
        **THREE, "num_channels": 2, "num_labels": 1, "hidden_act": "silu", "strides": [2, 3, 2],
        "patch_sizes": [4, 3, 5], "sr_ratios": [3, 2, 1], "decoder_hidden_size": 5,
    },
}  # fmt: skip


def published(folder: Path, changes: dict[str, Any]) -> Any:
    """Save a random network of a configuration, in which nothing is trivial, and return it."""
    torch.manual_seed(0)
    network = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**{**TINY, **changes})).eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            elif value.is_floating_point():
                value.normal_(std=0.2)
                if "norm" in key and key.endswith("weight"):
                    value.add_(1.0)
    network.save_pretrained(folder)
    return network


def photos(bands: int) -> Tensor:
    return torch.randn(2, bands, 128, 128, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(network: Segmenter, theirs: Any) -> None:
    images = photos(theirs.config.num_channels)
    expected, found = theirs(images).logits, network(images)
    if theirs.config.num_labels == 1:
        torch.testing.assert_close(found.softmax(1)[:, 1:], expected.sigmoid(), rtol=1e-4, atol=1e-5)
        assert torch.equal(found[:, 0], torch.zeros_like(found[:, 0]))
        found = found[:, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", CONFIGURATIONS[name])
    model = terrazzo.load(tmp_path / "theirs")
    assert_same(model.network, theirs)

    save_huggingface(tmp_path / "back", model)
    back = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back").eval()
    images = photos(theirs.config.num_channels)
    with torch.no_grad():
        torch.testing.assert_close(back(images).logits, theirs(images).logits, rtol=0, atol=0)
    assert back.config.num_labels == theirs.config.num_labels

    save_folder(tmp_path / "ours", model)
    ours = terrazzo.load(tmp_path / "ours")
    assert ours.spec == model.spec
    with torch.no_grad():
        torch.testing.assert_close(ours.network(images), model.network(images), rtol=0, atol=0)


def test_what_is_trained_here_with_such_layers_goes_there(tmp_path: Path) -> None:
    """Without a configuration of theirs in the record."""
    published(tmp_path / "theirs", CONFIGURATIONS["everything"])
    spec = terrazzo.load(tmp_path / "theirs").spec
    network = create_model(spec, 4).eval()
    labels = terrazzo.LabelSpec.from_names(["a", "b", "c", "d"])
    save_huggingface(tmp_path / "x", terrazzo.TrainedModel("segformer", network, labels, terrazzo.Preprocess()))
    theirs = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "x").eval()
    assert_same(network, theirs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "prelu"}, "hidden_act 'prelu'"),
        ({"num_encoder_blocks": 10**9}, "1000000000 encoder blocks"),
        ({"num_encoder_blocks": 6}, "6 encoder blocks"),
        ({"depths": [10**9, 1, 1, 1]}, "depths is [1000000000, 1, 1, 1]"),
        ({"depths": [600, 1, 1, 1]}, "depths is [600, 1, 1, 1]"),
        ({"hidden_sizes": [8, 12, 16, 10**11]}, "embed_dims is [8, 12, 16, 100000000000]"),
        ({"strides": "4222"}, "strides"),
        ({"num_attention_heads": [1, 2, 2, 3]}, "heads"),
        ({"num_channels": 0}, "in_channels"),
        ({"drop_path_rate": "much"}, "drop_path_rate"),
    ],
    ids=str,
)
def test_configurations_that_are_none(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    published(tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError) as caught:
        terrazzo.load(tmp_path)
    assert named in caught.value.message and caught.value.code in ("checkpoint-variant", "checkpoint-keys")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ffn_convolution": False}, "plain feed-forward"),
        ({"positions": True}, "learned positions"),
        ({"emitted": (1, 3)}, "stages that are not emitted"),
        ({"patch_sizes": (4, 2, 2, 2)}, "patches that are not centred"),
    ],
    ids=str,
)
def test_networks_that_transformers_does_not_have(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    spec = terrazzo.create_model("segformer_b0", 3).spec
    assert spec is not None
    changed = spec.with_encoder(embed_dims=(8, 12, 16, 20), num_heads=(1, 1, 1, 1), **change)
    labels = terrazzo.LabelSpec.from_names(["a", "b", "c"])
    model = terrazzo.TrainedModel("x", create_model(changed, 3), labels, terrazzo.Preprocess())
    with pytest.raises(ConfigError) as caught:
        save_huggingface(tmp_path / "x", model)
    assert named in caught.value.fix and caught.value.code == "convert-architecture"


def test_another_decoder_is_not_theirs(tmp_path: Path) -> None:
    labels = terrazzo.LabelSpec.from_names(["a", "b", "c"])
    model = terrazzo.TrainedModel("x", create_model("mit_b0+fcn", 3), labels, terrazzo.Preprocess())
    with pytest.raises(ConfigError, match=r"has no mit_b0\+fcn") as caught:
        save_huggingface(tmp_path / "x", model)
    assert "under SegFormer's decoder" in caught.value.fix
