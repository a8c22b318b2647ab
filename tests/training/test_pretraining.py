"""Masked image modelling: what is hidden, the loss, broken runs, and the encoder that training starts from."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import ALONE, TINY, tiny_recipe

import terrazzo
from terrazzo.cli.main import main
from terrazzo.data.loaders import Batch
from terrazzo.data.photos import open_photos
from terrazzo.errors import CheckpointError, ConfigError, TerrazzoError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import build
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.masked_images import MaskedImageModel, hidden_patches
from terrazzo.training.pretrain import NOT_MASKS
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.pretrainer import Pretrainer, encoder_spec
from terrazzo.training.start import start_network, starting_weights
from terrazzo.training.trainer import Trainer
from terrazzo.weights.encoder_files import save_encoder

SMALL: dict[str, Any] = {"crop": [32, 32], "mask_patch": 8, "batch_size": 2, "epochs": 2, "precision": "fp32"}


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a small encoder where the recipe says segformer_b0."""

    def small(recipe: PretrainRecipe) -> Any:
        name = "setr_naive_nano" if recipe.model.startswith("setr") else "segformer_tiny"
        return TINY[name].adapted(2, image_size=recipe.crop)

    monkeypatch.setattr("terrazzo.training.pretrainer.encoder_spec", small)


@pytest.fixture(scope="module")
def pool(data: Path) -> Path:
    return data / "train/images"


def recipe(**changes: Any) -> PretrainRecipe:
    return PretrainRecipe(model="segformer_b0").changed({**SMALL, **changes})


def pretrainer(pool: Path, output: Path, **changes: Any) -> Pretrainer:
    photos, _ = open_photos(pool, NOT_MASKS)
    return Pretrainer(recipe(**changes), photos, output, ALONE, 0)


# -- what is hidden, and the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch", "ratio", "hidden"), [((32, 32), 8, 0.6, 10), ((32, 48), 16, 0.01, 1), ((16, 16), 8, 0.99, 3)]
)
def test_so_many_whole_patches_are_hidden(size: tuple[int, int], patch: int, ratio: float, hidden: int) -> None:
    mask = hidden_patches(np.random.default_rng(0), size, patch, ratio)
    assert mask.shape == size and set(np.unique(mask)) == {0, 1}
    grid = mask.reshape(size[0] // patch, patch, size[1] // patch, patch).transpose(0, 2, 1, 3)
    per_patch = grid.reshape(-1, patch * patch).mean(1)
    assert set(per_patch) <= {0, 1} and per_patch.sum() == hidden
    odd = hidden_patches(np.random.default_rng(0), (20, 33), 8, 0.5)
    assert odd.shape == (20, 33)


@pytest.mark.parametrize("name", ["segformer_tiny", "setr_naive_nano"])
def test_the_network_sees_the_learned_value_and_pays_for_hidden_pixels_alone(name: str) -> None:
    torch.manual_seed(0)
    model = MaskedImageModel(build(TINY[name].adapted(2, image_size=(32, 40))).encoder).eval()
    images = torch.randn(2, 3, 30, 40)
    masks = torch.zeros(2, 30, 40, dtype=torch.int64)
    masks[:, :16, :16] = 1
    masks[1, 20:] = 255
    loss, pixels = model(images, masks)
    assert pixels.shape == images.shape
    expected = (pixels - images).abs()[:, :, :16, :16].mean()
    torch.testing.assert_close(loss, expected)
    other = images.clone()
    other[:, :, :16, :16] = 7  # what is hidden cannot be seen
    torch.testing.assert_close(model(other, masks)[1], pixels)
    with torch.no_grad():
        model.hidden += 1
    assert not torch.equal(model(images, masks)[1], pixels)
    loss.backward()
    assert model.hidden.grad is not None and model.hidden.grad.norm() > 0


def test_recipes_are_complete_and_checked(tmp_path: Path) -> None:
    plain = recipe()
    assert PretrainRecipe.from_dict(plain.to_dict(), "x") == plain
    changed = plain.changed({"optimizer.lr": 0.1, "epochs": 3})
    assert changed.optimizer.lr == 0.1 and plain.differences(changed) == ["epochs", "optimizer"]
    for changes, message in (
        ({"mask_ratio": 1.0}, "mask_ratio is 1"),
        ({"mask_patch": 64}, "at most 32"),
        ({"epoch": 3}, "unknown key 'epoch'"),
        ({"optimizer.lr": -1}, "lr is -1"),
        ({"crop": [0, 4]}, "crop"),
    ):
        with pytest.raises(ConfigError, match=message):
            plain.changed(changes)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_broken_off_twice_ends_with_the_encoder_of_an_unbroken_one(pool: Path, tmp_path: Path) -> None:
    unbroken = pretrainer(pool, tmp_path / "unbroken")
    unbroken.run()
    for step in (1, 3):
        broken = pretrainer(pool, tmp_path / "broken")
        if step > 1:
            broken.resume()
            torch.rand(3)
        learn = broken.train_step

        def stopped(batch: Batch, broken: Pretrainer = broken, step: int = step, learn: Any = learn) -> float:
            if broken.state.step + 1 == step:
                broken.signals.number = signal.SIGTERM
            result: float = learn(batch)
            return result

        broken.train_step = stopped  # type: ignore[method-assign]
        with pytest.raises(SystemExit):
            broken.run()
    last = pretrainer(pool, tmp_path / "broken")
    last.resume()
    last.run()
    one, other = (load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("unbroken", "broken"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
    files = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert files[0] == files[1]
    with pytest.raises(TrainingError, match="another mask_ratio"):
        pretrainer(pool, tmp_path / "broken", mask_ratio=0.5).resume()


def test_training_starts_from_the_encoder_and_says_what_matched(data: Path, pool: Path, tmp_path: Path) -> None:
    run = pretrainer(pool, tmp_path / "p")
    run.run()
    initial = starting_weights(str(tmp_path / "p"))
    assert initial is not None and initial.labels is None and initial.what == "a pretrained mit"
    chosen = tiny_recipe(**{"model.weights": str(tmp_path / "p")})
    train, val = open_splits(chosen.data, data)
    trainer = Trainer(chosen, train, val, labelled_pixels(train), tmp_path / "t", ALONE, 0, initial)
    for name, value in run.model.encoder.state_dict().items():
        assert torch.equal(trainer.model.encoder.state_dict()[name], value), name
    count = len(run.model.encoder.state_dict())
    rest = len(trainer.model.state_dict()) - count
    assert (
        trainer.start.notes[0]
        == f"start     all {count} tensors of the encoder are taken; {rest} others start at random"
    )
    origin = trainer.state.origin["started_from"][0]
    assert origin["name"] == str(tmp_path / "p") and len(origin["sha256"]) == 64
    with pytest.raises(CheckpointError, match="is an encoder alone") as caught:
        terrazzo.load(tmp_path / "p")
    assert caught.value.code == "checkpoint-encoder" and "--weights" in caught.value.fix


def test_position_embeddings_are_fitted_to_the_crop(tmp_path: Path) -> None:
    spec = TINY["setr_naive_nano"].adapted(2, image_size=(64, 64))
    encoder = build(spec).encoder
    save_encoder(tmp_path / "e", encoder, spec, recipe().preprocess, {})
    initial = starting_weights(str(tmp_path / "e"))
    chosen = tiny_recipe("setr_naive_nano", **{"model.weights": "e"})
    network, _ = start_network(chosen, LabelSpec.from_names(["a", "b", "c"]), torch.device("cpu"), initial, False)
    assert network.encoder.pos_embed.shape[1:3] == (2, 2) and encoder.pos_embed.shape[1:3] == (4, 4)  # type: ignore[union-attr, index]


def test_damaged_encoders_are_refused(tmp_path: Path) -> None:
    spec = TINY["segformer_tiny"]
    save_encoder(tmp_path / "e", build(spec).encoder, spec, recipe().preprocess, {})
    config = tmp_path / "e/config.json"
    good = json.loads(config.read_text())
    for change, code in (
        ({"sha256": "0" * 64}, "checkpoint-checksum"),
        ({"format_version": 9}, "checkpoint-version"),
        ({"record": None}, "checkpoint"),
        ({"encoder_of": {**good["encoder_of"], "encoder": {"name": "nothing"}}}, "spec-row"),
        ({"encoder_of": TINY["setr_naive_nano"].to_dict()}, "checkpoint-tensors"),
    ):
        config.write_text(json.dumps({**good, **change}))
        with pytest.raises(TerrazzoError) as caught:
            starting_weights(str(tmp_path / "e"))
        assert caught.value.message and caught.value.fix, (change, code)


def test_the_command_writes_a_run_that_can_be_looked_at(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--crop", "32", "32", "--mask-patch", "8", "--batch-size", "2", "--workers", "0", "--lr", "0.01"]
    main(["pretrain", str(pool), "--output", "p", "--epochs", "1", *options])
    out, err = capsys.readouterr()
    assert "run written to p; start from it with: terrazzo train --weights p" in out
    assert "batch     2 windows of 32 x 32, of which 60% are hidden in patches of 8" in err
    with Image.open("p/filled_in.png") as picture:
        assert picture.size == (64, 96)
    assert "terrazzo pretrain FOLDER --recipe recipe.yaml" in Path("p/recipe.yaml").read_text()
    with pytest.raises(SystemExit):
        main(["pretrain", str(pool), "--output", "p", "--epochs", "1"])
    assert "error[training-output-taken]" in capsys.readouterr().err
    main(["pretrain", str(pool), "--output", "p", "--epochs", "2", "--resume"])
    assert "resumed at step 2 of 4" in capsys.readouterr().err
    log = Path("p/log.csv").read_text().splitlines()
    assert len(log) == 3


def test_encoders_and_models_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name, row in (("mit_b0", "mit"), ("segformer_b0", "mit"), ("vit_small", "vit"), ("setr_pup_base", "vit")):
        assert encoder_spec(recipe(model=name)).encoder.name == row
    with pytest.raises(ConfigError):
        encoder_spec(recipe(model="resnet"))
