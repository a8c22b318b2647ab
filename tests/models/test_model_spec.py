"""ModelSpec: what it says in JSON and back, what it fills in, and what it refuses."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo import models
from terrazzo.errors import ConfigError
from terrazzo.fields import fields_of
from terrazzo.models import MODELS, ModelSpec, Part, build, find_spec
from terrazzo.models.encoders import ENCODERS, SIZES
from terrazzo.weights.create import create_model

TINY: dict[str, Any] = {
    "encoder": {"name": "mit", "embed_dims": [8, 8, 10, 16], "depths": [1, 1, 1, 1]},
    "decoder": {"name": "all_mlp", "embed_dim": 8},
    "num_classes": 3,
}


def tiny(**changes: Any) -> dict[str, Any]:
    return {**TINY, **changes}


@pytest.mark.parametrize("name", MODELS)
def test_named_specs_to_json_and_back(name: str) -> None:
    spec = find_spec(name).adapted(19, image_size=(96, 64))
    text = json.dumps(spec.to_dict())
    again = ModelSpec.from_dict(json.loads(text))
    assert again == spec and again.name == name and json.dumps(again.to_dict()) == text


def test_a_spec_is_complete() -> None:
    document = ModelSpec.from_dict(TINY).to_dict()
    assert document == {
        "name": None,
        "encoder": {
            "name": "mit",
            "embed_dims": [8, 8, 10, 16],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 5, 8],
            "sr_ratios": [8, 4, 2, 1],
            "mlp_ratios": [4, 4, 4, 4],
            "patch_sizes": [7, 3, 3, 3],
            "patch_strides": [4, 2, 2, 2],
            "centred_patches": None,
            "drop_path_rate": 0.1,
            "norm_eps": 1e-06,
            "reduction_eps": 1e-05,
            "activation": "gelu",
            "ffn_convolution": True,
            "positions": False,
            "emitted": None,
        },
        "decoder": {"name": "all_mlp", "embed_dim": 8, "dropout": 0.1},
        "auxiliary": [],
        "num_classes": 3,
        "in_channels": 3,
        "image_size": None,
    }


def test_the_size_of_images_is_kept_where_positions_are_learned() -> None:
    assert find_spec("segformer_b0").adapted(2, image_size=(32, 64)).image_size is None
    assert find_spec("setr_pup_tiny").adapted(2, image_size=(32, 64)).image_size == (32, 64)
    assert find_spec("setr_pup_tiny").image_size == (768, 768)
    learned = find_spec("segformer_b0").with_encoder(positions=True)
    assert learned.image_size == (512, 512) and learned.name is None
    network = create_model(learned, 2, image_size=(64, 96))
    assert [tuple(stage.pos_embed.shape[1:3]) for stage in network.encoder.stages] == [
        (16, 24), (8, 12), (4, 6), (2, 3),
    ]  # fmt: skip


def test_a_network_says_what_it_was_built_by() -> None:
    spec = ModelSpec.from_dict(tiny(auxiliary=[{"name": "fcn", "embed_dim": 4}]))
    network = build(spec)
    assert network.spec == spec and len(network.auxiliary) == 1
    assert len(network.eval()(torch.zeros(1, 3, 8, 8), auxiliary=True)) == 2
    network.drop_auxiliary()
    assert network.spec == replace(spec, auxiliary=())


@pytest.mark.parametrize("size", SIZES)
def test_encoders_have_names(size: str) -> None:
    spec = find_spec(f"{size}+fcn").adapted(5)
    row, fields = SIZES[size]
    assert spec.name == f"{size}+fcn" and spec.encoder.name == row
    assert all(spec.encoder.fields[key] == value for key, value in fields.items())
    assert find_spec("fcn", size).encoder == spec.encoder


@pytest.mark.parametrize(
    ("document", "message", "fix"),
    [
        ([], "needs an encoder, a decoder and num_classes", ""),
        ({"encoder": {"name": "mit"}}, "needs an encoder, a decoder and num_classes", ""),
        (tiny(encoders=[]), "a model has an unknown key 'encoders'", "did you mean encoder?"),
        (tiny(encoder="mit"), "must be a mapping with a name", ""),
        (tiny(encoder={"name": "mitt"}), "unknown encoder 'mitt'", "did you mean mit?"),
        (tiny(decoder={"name": "all_mpl"}), "unknown decoder 'all_mpl'", "did you mean all_mlp?"),
        (tiny(auxiliary=[{"name": "fnc"}]), "unknown auxiliary head 'fnc'", "did you mean fcn?"),
        (tiny(auxiliary={"name": "fcn"}), "must be a list of heads", ""),
        (tiny(auxiliary=[{"name": "fcn"}] * 65), "65 auxiliary heads", ""),
        (
            tiny(decoder={"name": "all_mlp", "embed_dims": 8}),
            "decoder all_mlp has an unknown key 'embed_dims'",
            "did you mean embed_dim?",
        ),
        (tiny(decoder={"name": "all_mlp", "num_classes": 8}), "unknown key 'num_classes'", ""),
        (
            tiny(decoder={"name": "all_mlp", "embed_dim": "8"}),
            "decoder all_mlp: embed_dim is '8'",
            "it must be a whole number",
        ),
        (tiny(decoder={"name": "all_mlp", "embed_dim": True}), "embed_dim is True", "it must be a whole number"),
        (tiny(decoder={"name": "all_mlp", "embed_dim": 10**9}), "embed_dim is 1000000000", "between 1 and 65536"),
        (tiny(decoder={"name": "all_mlp", "embed_dim": -1}), "embed_dim is -1", "between 1 and 65536"),
        (tiny(decoder={"name": "all_mlp", "dropout": float("inf")}), "dropout is inf", "it must be a number"),
        (tiny(decoder={"name": "all_mlp", "dropout": 10**400}), "dropout is", "it must be a number"),
        (tiny(encoder={"name": "mit", "embed_dims": [8]}), "encoder mit lacks depths", ""),
        (tiny(encoder={**TINY["encoder"], "depths": [10**9] * 4}), "depths is [1000000000, ", "1 to 512 in all"),
        (
            tiny(encoder={**TINY["encoder"], "depths": [500] * 4}),
            "depths is [500, 500, 500, 500]",
            "at least 0, 1 to 512 in all",
        ),
        (tiny(encoder={**TINY["encoder"], "depths": [1] * 5}), "as many depths", ""),
        (
            tiny(encoder={**TINY["encoder"], "depths": [1] * 65}),
            "depths is [1, 1, 1, 1, 1, 1, 1, 1, ...]",
            "a list of at most 64 values",
        ),
        (tiny(encoder={**TINY["encoder"], "num_heads": [3, 1, 1, 1]}), "cannot be shared by the heads", ""),
        (
            tiny(encoder={**TINY["encoder"], "num_heads": [0, 1, 1, 1]}),
            "num_heads is [0, 1, 1, 1]",
            "between 1 and 65536",
        ),
        (tiny(encoder={**TINY["encoder"], "activation": "glue"}), "no activation 'glue'", ""),
        (tiny(encoder={**TINY["encoder"], "emitted": [4, 1]}), "must rise", ""),
        (tiny(encoder={**TINY["encoder"], "emitted": [5]}), "between 1 and 4", ""),
        (tiny(encoder={**TINY["encoder"], "drop_path_rate": 2.0}), "drop_path_rate is 2.0", "at least 0 and below 1"),
        (
            tiny(encoder={"name": "vit", "embed_dim": 8, "depth": 10**9, "num_heads": 1}),
            "depth is 1000000000",
            "between 1 and 512",
        ),
        (tiny(encoder={"name": "vit", "embed_dim": 8, "depth": 4, "num_heads": 1, "layers": []}), "must rise", ""),
        (tiny(num_classes=1), "1 class", ""),
        (tiny(num_classes="3"), "'3' class", ""),
        (tiny(num_classes=10**9), "1000000000 class", ""),
        (tiny(in_channels=0), "in_channels", ""),
        (tiny(in_channels=2.0), "in_channels", ""),
        (tiny(name=3), "the name of a model is 3", "it must be a name or null"),
        (tiny(image_size="8x8"), "image_size is '8x8'", "a list of"),
    ],
)
def test_what_is_refused(document: Any, message: str, fix: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        build(ModelSpec.from_dict(document))
    assert message in caught.value.message and fix in caught.value.fix
    assert caught.value.code in ("spec-value", "spec-name", "spec-build", "model-classes")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "resnet", "depths": [10**10, 1, 1, 1]}, "backbone: config: 'depths' is"),
        ({"model_type": "dinov2", "num_hidden_layers": 10**6}, "1,000,000 layers"),
        ({"model_type": "resnet", "x": [0] * 20_000}, "config is a dict"),
    ],
    ids=["depths", "layers", "values"],
)
def test_configurations_that_would_fill_the_memory(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ModelSpec(Part("backbone", {"config": values}), Part("fcn")))


@pytest.mark.parametrize("name", ENCODERS)
def test_no_encoder_has_more_blocks_than_any_real_one(name: str) -> None:
    known = fields_of(ENCODERS[name].module)
    for key in known.keys() & {"depth", "depths"}:
        blocks = 513 if key == "depth" else [256, 257]
        fields: dict[str, Any] = {"embed_dims": [8, 8], "embed_dim": 8, "config": {}, key: blocks}
        fields["num_heads"] = 1 if key == "depth" else [1, 1]
        with pytest.raises(ConfigError, match=f"{key} is ") as caught:
            ModelSpec(Part(name, {one: value for one, value in fields.items() if one in known}), Part("fcn"))
        assert caught.value.code == "spec-value" and "512" in caught.value.fix


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=8,
)


@settings(deadline=None)
@given(place=st.sampled_from(["encoder", "decoder"]), field=st.integers(0, 15), value=VALUES)
def test_any_value_anywhere_is_taken_or_refused(place: str, field: int, value: Any) -> None:
    document = ModelSpec.from_dict(TINY).to_dict()
    part = document[place]
    keys = list(part)
    part[keys[field % len(keys)]] = value
    try:
        spec = ModelSpec.from_dict(document)
    except ConfigError:
        return
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_models_never_touch_files_or_the_network() -> None:
    outside = {"os", "pathlib", "io", "tempfile", "huggingface_hub"}
    outside |= {"terrazzo.config", "terrazzo.atomic", "terrazzo.weights"}
    for path in Path(models.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in named if any(f"{name}.".startswith(f"{one}.") for one in outside)], path
