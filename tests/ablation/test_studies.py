"""The studies' networks: they can all be built, and differ in what their titles say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from terrazzo.ablation.ablate import ablate
from terrazzo.ablation.studies import STUDIES, Variant, build, changed_segformer, find_study
from terrazzo.costs import count_parameters
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.models import create_model
from terrazzo.models.segformer import VARIANTS

EVERY = {variant.key: variant for study in STUDIES.values() for variant in study.variants}


@pytest.mark.parametrize("key", EVERY)
def test_every_network_can_be_built_and_run(key: str) -> None:
    if EVERY[key].encoder is not None:
        pytest.importorskip("transformers")
    with torch.device("meta"), torch.no_grad():
        network = build(EVERY[key], 5, (64, 64)).eval()
        logits = network(torch.empty(1, 3, 61, 80))
    assert logits.shape[:2] == (1, 5)
    assert 1.5e6 < count_parameters(network) < 11e6  # of one size, so that their scores can be compared


@pytest.mark.parametrize("study", [study for study in STUDIES.values() if study.name not in ("decoders", "models")])
def test_the_papers_network_comes_first_and_is_the_only_unchanged_one(study: object) -> None:
    first, *others = study.variants  # type: ignore[attr-defined]
    assert first.key == first.name == "segformer_b0" and "(the paper's)" in first.title
    assert all(variant.changes for variant in others)
    assert len({variant.key for variant in (first, *others)}) == len(others) + 1


def test_keys_mean_one_network_in_all_studies() -> None:
    for study in STUDIES.values():
        for variant in study.variants:
            same = EVERY[variant.key]
            assert (variant.model, variant.encoder, variant.changes) == (same.model, same.encoder, same.changes)


def test_without_changes_it_is_the_papers() -> None:
    torch.manual_seed(0)
    ours = create_model(changed_segformer(), 7, image_size=(64, 64))
    torch.manual_seed(0)
    papers = create_model("segformer_b0", 7, drop_path_rate=0.0)
    assert ours.state_dict().keys() == papers.state_dict().keys()
    assert all(torch.equal(value, papers.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("width", [64, 256, 768])
def test_parameters_of_a_decoder_of_width_c(width: int) -> None:
    """PAPERS: sum over stages of C_i C + C, 4 C^2 for the fusion, 2 C for the norm, C K + K for the classifier."""
    dims, K = VARIANTS["segformer_b0"].encoder.fields["embed_dims"], 11
    by_hand = sum(dim * width + width for dim in dims) + 4 * width**2 + 2 * width + width * K + K
    with torch.device("meta"):
        assert (
            count_parameters(create_model(changed_segformer(decoder_dim=width), K, image_size=(64, 64)).decoder)
            == by_hand
        )


def test_a_changed_network_does_not_go_by_a_models_name() -> None:
    """So that no program takes its weights for the paper's."""
    variant = EVERY["plain_patches"]
    assert variant.name == "segformer_b0 (4 x 4, side by side)"
    with pytest.raises(ConfigError, match="unknown model"):
        create_model(variant.name, 5)
    assert Variant("any", "any title", "setr_pup_tiny").name == "setr_pup_tiny"


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
