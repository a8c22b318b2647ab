"""Model folders that an earlier version wrote load to the same network, labels, preprocessing and record."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from probes import DATA, EXPECTED, assert_agrees, image, images, unpacked

import terrazzo
from terrazzo.errors import TerrazzoError
from terrazzo.weights.files import TrainedModel

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

NAMES = sorted(folder.name for folder in (DATA / "models").iterdir())
ABLATED = [name for name in NAMES if name.startswith("ablated")]
LOADED = [name for name in NAMES if name not in ABLATED]
# architecture, auxiliary heads
WHAT = {
    "all_mlp_pvt_v2": ("all_mlp", 0),
    "fcn_dilated_resnet": ("fcn_dilated", 0),
    "fcn_swin": ("fcn", 0),
    "huggingface": ("segformer_b0", 0),
    "segformer_b0": ("segformer_b0", 0),
    "segformer_b0_mmseg": ("segformer_b0_mmseg", 0),
    "setr_mla": ("setr_mla_tiny", 4),
    "setr_mla_dinov2": ("setr_mla", 0),
    "setr_naive": ("setr_naive_tiny", 3),
    "setr_naive_dinov3": ("setr_naive", 0),
    "setr_pup": ("setr_pup_tiny", 4),
    "setr_pup_dinov2": ("setr_pup", 0),
    "setr_pup_slim": ("setr_pup_tiny", 0),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def loaded(name: str, place: Path) -> TrainedModel:
    return terrazzo.load(unpacked(DATA / "models" / name, place / name))


def logits_of(model: TrainedModel) -> Any:
    with torch.no_grad():
        return model.network(torch.from_numpy(images())).numpy()


def test_one_of_each_kind_is_here() -> None:
    assert list(WHAT) == LOADED and len(ABLATED) == 2


@pytest.mark.parametrize("name", LOADED)
def test_the_network_is_the_same(name: str, place: Path, expected: dict[str, Any]) -> None:
    model = loaded(name, place)
    assert (model.architecture, len(model.network.auxiliary)) == WHAT[name]
    assert_agrees(logits_of(model), expected[name])


@pytest.mark.parametrize("name", LOADED)
def test_a_image_is_prepared_and_decided_as_before(name: str, place: Path, expected: dict[str, Any]) -> None:
    result = terrazzo.predict(image(), loaded(name, place), probabilities=True, engine="torch")
    assert result.probabilities is not None
    assert_agrees(result.probabilities, expected[f"{name}, photo"])


@pytest.mark.parametrize("name", LOADED)
def test_what_the_document_says_is_kept(name: str, place: Path) -> None:
    document = json.loads((DATA / "models" / name / "config.json").read_text())
    document = document.get("terrazzo", document)  # beside what transformers reads
    model = loaded(name, place)
    for part, found in (
        ("labels", model.labels.to_dict()), ("preprocess", model.preprocess.to_dict()), ("record", model.record)
    ):  # fmt: skip
        assert {key: found[key] for key in document[part]} == document[part]
    # What a document leaves out has the value that was meant then.
    assert model.preprocess.antialias == (name in ("huggingface", "setr_naive", "setr_pup", "setr_pup_dinov2"))
    rounding = "down" if name in ("huggingface", "setr_naive", "setr_pup_dinov2") else "nearest"
    assert model.preprocess.rounding == rounding
    assert model.record["licence"] == "CC0-1.0" and model.record["val_mIoU"] == 61.25
    assert model.labels.names[0] == "Sky" and model.labels.ignore_index == 255


@pytest.mark.parametrize("name", ["segformer_b0_mmseg", "setr_naive", "all_mlp_pvt_v2"])
def test_saved_again_it_is_the_same(name: str, place: Path, tmp_path: Path, expected: dict[str, Any]) -> None:
    model = terrazzo.convert(unpacked(DATA / "models" / name, tmp_path / "before"), tmp_path / "now")
    again = terrazzo.load(tmp_path / "now")
    assert (again.labels, again.preprocess, again.record) == (model.labels, model.preprocess, model.record)
    assert_agrees(logits_of(again), expected[name])


@pytest.mark.parametrize("name", ABLATED)
def test_an_ablated_network_is_refused_or_right(name: str, tmp_path: Path, expected: dict[str, Any]) -> None:
    """Version 0.1.0 saved them under names that it could not load; they must not load as something else."""
    folder = unpacked(DATA / "models" / name, tmp_path / name)
    try:
        model = terrazzo.load(folder)
    except TerrazzoError as error:
        assert "segformer_b0 (" in error.message
    else:
        assert_agrees(logits_of(model), expected[name], 2e-3)
