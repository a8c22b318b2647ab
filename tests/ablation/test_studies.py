"""The studies' networks: they can all be built, and differ in what their titles say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from terrazzo.ablation.ablate import ablate
from terrazzo.ablation.studies import STUDIES, find_study
from terrazzo.costs import count_parameters
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.models import DECODERS, MODELS, ModelSpec, find_spec
from terrazzo.models.encoders import ENCODERS
from terrazzo.models.segformer import VARIANTS
from terrazzo.weights.create import create_model

EVERY = {variant.key: variant for study in STUDIES.values() for variant in study.variants}


@pytest.mark.parametrize("key", EVERY)
def test_every_network_can_be_built_and_run(key: str) -> None:
    model = EVERY[key].model
    if isinstance(model, ModelSpec) and model.encoder.name == "backbone":
        pytest.importorskip("transformers")
    with torch.device("meta"), torch.no_grad():
        network = create_model(model, 5, 0.0, (64, 64)).eval()
        logits = network(torch.empty(1, 3, 61, 80))
    assert logits.shape[:2] == (1, 5)
    assert 1.5e6 < count_parameters(network) < 11e6  # of one size, so that their scores can be compared


@pytest.mark.parametrize("study", [study for study in STUDIES.values() if study.name not in ("decoders", "models")])
def test_the_papers_network_comes_first_and_is_the_only_unchanged_one(study: object) -> None:
    first, *others = study.variants  # type: ignore[attr-defined]
    assert first.key == first.model == "segformer_b0" and "(the paper's)" in first.title
    assert all(variant.model.name == f"segformer_b0 ({variant.title})" for variant in others)
    assert len({variant.key for variant in (first, *others)}) == len(others) + 1


def test_keys_mean_one_network_in_all_studies() -> None:
    for study in STUDIES.values():
        for variant in study.variants:
            assert variant.model == EVERY[variant.key].model


def test_the_models_have_every_decoder() -> None:
    specs = [v.model if isinstance(v.model, ModelSpec) else find_spec(v.model) for v in STUDIES["models"].variants]
    assert {spec.decoder.name for spec in specs} == set(DECODERS)
    assert {spec.encoder.name for spec in specs} == set(ENCODERS)
    for spec in specs:
        assert ModelSpec.from_dict(spec.to_dict()) == spec


def test_some_networks_of_a_study() -> None:
    some = STUDIES["models"].only(["mit_b0_fpn", "segformer_b0"])
    assert [variant.key for variant in some.variants] == ["segformer_b0", "mit_b0_fpn"]
    assert (some.name, some.measures) == ("models", "resources")
    for keys, hint in ((["mit_b0_fpm"], "did you mean mit_b0_fpn"), ([], "choose some of segformer_b0, pvt_v2_b0")):
        with pytest.raises(ConfigError) as caught:
            STUDIES["models"].only(keys)
        assert caught.value.code == "ablation-network" and hint in caught.value.fix


CHANGED = {
    "learned_positions": {"ffn_convolution": False, "positions": True},
    "no_positions": {"ffn_convolution": False},
    "plain_patches": {"patch_sizes": (4, 2, 2, 2)},
    "patches_of_16": {"patch_sizes": (31, 3, 3, 3), "patch_strides": (16, 2, 1, 1), "sr_ratios": (2, 1, 1, 1)},
    "reduction_4211": {"sr_ratios": (4, 2, 1, 1)},
    "reduction_1111": {"sr_ratios": (1, 1, 1, 1)},
    "width_64": {"embed_dim": 64},
    "width_768": {"embed_dim": 768},
    "stages_34": {"emitted": (3, 4)},
    "stages_4": {"emitted": (4,)},
    "stages_123": {"emitted": (1, 2, 3)},
}


@pytest.mark.parametrize("key", CHANGED)
def test_it_differs_from_the_papers_in_what_its_title_says_alone(key: str) -> None:
    spec, paper = EVERY[key].model, MODELS["segformer_b0"]
    assert isinstance(spec, ModelSpec)
    parts = (spec.encoder, paper.encoder), (spec.decoder, paper.decoder)
    found = {name: value for a, b in parts for name, value in a.fields.items() if value != b.fields[name]}
    assert found == CHANGED[key]
    assert (spec.auxiliary, spec.in_channels) == (paper.auxiliary, paper.in_channels)


@pytest.mark.parametrize("width", [64, 256, 768])
def test_parameters_of_a_decoder_of_width_c(width: int) -> None:
    """PAPERS: sum over stages of C_i C + C, 4 C^2 for the fusion, 2 C for the norm, C K + K for the classifier."""
    dims, K = VARIANTS["segformer_b0"].encoder.fields["embed_dims"], 11
    by_hand = sum(dim * width + width for dim in dims) + 4 * width**2 + 2 * width + width * K + K
    with torch.device("meta"):
        assert (
            count_parameters(create_model(MODELS["segformer_b0"].with_decoder(embed_dim=width), K).decoder) == by_hand
        )


def test_a_changed_network_does_not_go_by_a_models_name() -> None:
    """So that no program takes its weights for the paper's."""
    name = EVERY["plain_patches"].model.name  # type: ignore[union-attr]
    assert name == "segformer_b0 (4 x 4, side by side)"
    with pytest.raises(ConfigError, match="unknown model"):
        create_model(name, 5)


@pytest.mark.parametrize(("name", "hint"), [("positions", "did you mean position?"), ("zzz", "choose one of position")])
def test_an_unknown_study_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_study(name)
    assert caught.value.code == "ablation-study" and hint in caught.value.fix
    assert all(study in caught.value.fix for study in STUDIES)


def test_a_study_that_needs_transformers_says_so_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match="backbones"):
        ablate("models", tiny_data, tmp_path / "out", overrides={"steps": 1, "crop": (32, 32), "batch_size": 2})
    assert not (tmp_path / "out").exists()
