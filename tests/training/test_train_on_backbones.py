"""Decoders on backbones of transformers, trained, measured, used and resumed by the ordinary functions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import make_data

import terrazzo
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.train import train
from tiny_backbones import TINY_BACKBONES

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

TWO_STEPS = {"steps": 2, "batch_size": 2, "crop": (32, 32), "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "tiles", train=4, val=2)


def published(folder: Path, family: str) -> Path:
    """Write a folder as the hub has it, with a mean of its own."""
    transformers.AutoModel.from_config(
        transformers.CONFIG_MAPPING[family].from_dict(TINY_BACKBONES[family])
    ).save_pretrained(folder)
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "size": {"height": 56, "width": 56}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.parametrize(
    ("model", "family"), [("fcn_dilated", "resnet"), ("all_mlp", "pvt_v2"), ("setr_pup", "dinov2")], ids=str
)
def test_two_steps_and_all_that_follows(model: str, family: str, data: Path, tmp_path: Path) -> None:
    encoder = f"hf:{published(tmp_path / 'published', family)}"
    run = train(data, tmp_path / "run", model, encoder=encoder, overrides=TWO_STEPS, workers=0, device="cpu")
    assert run is not None

    recipe = Recipe.from_file(tmp_path / "run" / "recipe.yaml")
    assert (recipe.model.name, recipe.model.encoder) == (model, encoder)
    assert (recipe.optimizer.lr, recipe.optimizer.decoder_lr_factor) == (1e-4, 10.0)
    assert recipe.data.preprocess.mean == (127.5, 102.0, 76.5)

    for path in (tmp_path / "published").iterdir():
        path.unlink()  # from here on the run's folder is enough
    trained = terrazzo.load(tmp_path / "run")
    assert trained.architecture == model and trained.preprocess.mean == recipe.data.preprocess.mean
    image = data / "val" / "images" / "val_0.png"
    result = terrazzo.predict(image, trained)
    assert result.mask.shape == (48, 64) and result.mask.max() < 3
    report = terrazzo.evaluate(trained, data, split="val")
    assert np.isfinite(report.metrics.mIoU) and report.metrics.mIoU == run.report.metrics.mIoU


def test_training_begins_with_the_encoders_weights_and_moves_them(data: Path, tmp_path: Path) -> None:
    encoder = f"hf:{published(tmp_path / 'published', 'resnet')}"
    changes = {**TWO_STEPS, "ema_decay": None, "warmup_steps": 0}
    train(data, tmp_path / "run", "fcn", encoder=encoder, overrides=changes, workers=0, device="cpu")
    before = terrazzo.create_model("fcn", 3, encoder=encoder).encoder.state_dict()
    after = terrazzo.load(tmp_path / "run").network.encoder.state_dict()
    name = "backbone.embedder.embedder.convolution.weight"
    moved = (after[name] - before[name]).abs().max()
    assert 0 < moved < 1e-3 < before[name].abs().max()


def test_resuming(data: Path, tmp_path: Path) -> None:
    """With random parts of training on, a break changes nothing."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY_BACKBONES["dinov3_vit"]))
    changes = {**TWO_STEPS, "steps": 4, "drop_path": 0.3}
    options = {"encoder": f"hf:{config}", "overrides": changes, "workers": 0, "device": "cpu"}
    train(data, tmp_path / "whole", "setr_mla", **options)
    train(data, tmp_path / "parts", "setr_mla", **options)
    (tmp_path / "parts" / "checkpoints" / "newest.pt").unlink()  # and so back to the first of two epochs
    train(data, tmp_path / "parts", resume=True, workers=0, device="cpu")
    whole, parts = (terrazzo.load(tmp_path / name).network.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_weights_of_a_run_on_another_encoder_are_refused(data: Path, tmp_path: Path) -> None:
    for family in ("resnet", "pvt_v2"):
        (tmp_path / f"{family}.json").write_text(json.dumps(TINY_BACKBONES[family]))
    options = {"overrides": TWO_STEPS, "workers": 0, "device": "cpu"}
    train(data, tmp_path / "first", "fcn", encoder=f"hf:{tmp_path / 'resnet.json'}", **options)
    pvt = f"hf:{tmp_path / 'pvt_v2.json'}"
    with pytest.raises(CheckpointError, match=r"is not a fcn on hf:.*pvt_v2") as error:
        train(data, tmp_path / "second", "fcn", encoder=pvt, weights=str(tmp_path / "first"), **options)
    assert error.value.code == "checkpoint-architecture"


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_an_encoder_from_a_configuration_learns_like_random_weights(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY_BACKBONES["resnet"]))
    recipe = automatic_recipe("fcn", [(48, 64)] * 4, encoder=f"hf:{config}")
    assert (recipe.optimizer.lr, recipe.optimizer.decoder_lr_factor) == (1e-3, 1.0)
    assert recipe.network == f"fcn on hf:{config}"
    assert recipe.data.preprocess == automatic_recipe("segformer_b0", [(48, 64)] * 4).data.preprocess


def test_a_recipe_keeps_its_encoder(tmp_path: Path) -> None:
    recipe = automatic_recipe("segformer_b0", [(48, 64)] * 4)
    assert recipe.to_dict()["model"]["encoder"] is None
    other = recipe.changed({"model": "fcn", "encoder": "hf:microsoft/resnet-50"})
    assert Recipe.from_dict(other.to_dict(), "here") == other


def test_an_encoder_needs_a_decoder_and_the_other_way_round(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of its own"):
        automatic_recipe("segformer_b0", [(48, 64)], encoder="hf:someone/resnet")
    with pytest.raises(ConfigError, match="no encoder is named"):
        train(data, tmp_path / "run", "fcn", workers=0, device="cpu")
    assert not (tmp_path / "run").exists()
