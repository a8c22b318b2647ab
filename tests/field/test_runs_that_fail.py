"""Training that cannot go on: what is wrong is found before the first step, or what was learnt is saved first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import ALONE, make_data, tiny_recipe, tiny_trainer

import terrazzo
from terrazzo.errors import ConfigError, DatasetError, ImageError, TrainingError
from terrazzo.inference.predictor import Predictor
from terrazzo.models import ModelSpec, Part
from terrazzo.notes import TerrazzoWarning
from terrazzo.training import preflight
from terrazzo.training.checkpoint import has_checkpoint, load_checkpoint
from terrazzo.training.memory_plan import memory_plan


def quiet_run(data: Path, output: Path, **options: Any) -> Any:
    return terrazzo.train(data, output, recipe=tiny_recipe(epochs=2), workers=0, device="cpu", **options)


# -- before the first step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_image_that_is_none_is_found_before_the_first_step(tmp_path: Path, split: str) -> None:
    data = make_data(tmp_path / "data")
    bad = data / split / "images" / f"{split}_1.png"
    bad.write_bytes(b"<html>404</html>")
    with pytest.raises(ImageError, match=f"{split}_1.png"):
        quiet_run(data, tmp_path / "run")
    assert not has_checkpoint(tmp_path / "run/checkpoints")


def test_several_are_named_together(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    for name in ("train/images/train_0.png", "train/images/train_3.png", "val/images/val_2.png"):
        (data / name).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"3 photos or masks .*train_0\.png.*train_3\.png.*val_2\.png") as caught:
        quiet_run(data, tmp_path / "run")
    assert caught.value.code == "dataset-unreadable" and "check-data" in caught.value.fix


def test_damage_behind_the_header_is_found_by_check(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    bad = data / "val/images/val_2.png"
    bad.write_bytes(bad.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"val_2\.png"):
        quiet_run(data, tmp_path / "run", check=True)
    assert not has_checkpoint(tmp_path / "run/checkpoints")


def test_images_with_four_bands_or_twelve_bits_are_told_before_the_first_step(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    name = data / "train/images/train_0.png"
    values = np.arange(48 * 64).reshape(48, 64).astype(np.uint16)  # up to 3071
    Image.fromarray(values).save(name.with_suffix(".tif"))
    name.unlink()
    with pytest.warns(TerrazzoWarning, match=r"train_0\.tif: .*reach only 3071.*convert them, or use --bands"):
        quiet_run(data, tmp_path / "run")
    bands = Image.merge("RGBA", [Image.new("L", (64, 48), 90)] * 4)
    bands.save(data / "train/images/train_0.tif")
    with pytest.raises(ImageError, match=r"train_0\.tif: .* last band is not transparency") as caught:
        quiet_run(data, tmp_path / "other")
    assert caught.value.code == "image-bands" and "--bands 1,2,3,4" in caught.value.fix


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_an_environment_that_torchrun_did_not_set_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "two")
    with pytest.raises(ConfigError, match=f"{variable} is 'two'") as caught:
        quiet_run(data, tmp_path / "run")
    assert caught.value.code == "config-environment"


def test_batchnorm_of_a_single_value_is_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    """A window of 4 x 4 is one pixel of the decoder's map at stride 4."""
    alone = tiny_trainer(data, tmp_path, batch_size=1, crop=(4, 4))
    with pytest.raises(TrainingError, match="a single value for each channel") as caught:
        memory_plan(alone.model, alone.recipe, alone.loss, ALONE)
    assert caught.value.code == "training-batchnorm" and "--batch-size to 2" in caught.value.fix
    for enough in ({"batch_size": 2, "crop": (4, 4)}, {"batch_size": 1, "crop": (8, 4)}):
        trainer = tiny_trainer(data, tmp_path, **enough)
        assert memory_plan(trainer.model, trainer.recipe, trainer.loss, ALONE).lines


@pytest.mark.parametrize("decoder", ["psp", "aspp", "upernet"])
def test_batchnorm_of_an_average_over_the_map_is_refused_whatever_the_crop(
    data: Path, tmp_path: Path, decoder: str
) -> None:
    """These decoders average the whole map to 1 x 1, and a larger crop does not help."""
    encoder = Part("mit", {"embed_dims": (8, 8, 10, 16), "depths": (1, 1, 1, 1)})
    pooled = ModelSpec(encoder, Part(decoder, {"embed_dim": 8}), name="pooled")
    alone = tiny_trainer(data, tmp_path, batch_size=1, crop=(128, 128), model=pooled)
    with pytest.raises(TrainingError, match="a single value for each channel") as caught:
        memory_plan(alone.model, alone.recipe, alone.loss, ALONE)
    assert caught.value.code == "training-batchnorm"
    assert "--batch-size to 2" in caught.value.fix and "--crop" not in caught.value.fix
    two = tiny_trainer(data, tmp_path, batch_size=2, crop=(32, 32), model=pooled)
    assert memory_plan(two.model, two.recipe, two.loss, ALONE).lines


def test_a_batch_larger_than_the_memory_is_refused_before_anything_is_made_for_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a batch of 1000000000 windows .* takes 20480\.0 GB") as caught:
        quiet_run(data, tmp_path / "run", overrides={"batch_size": 10**9})
    assert caught.value.code == "training-memory" and "--batch-size" in caught.value.fix


def test_the_disk_that_a_run_takes_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_run(data, tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("disk ")]
    taken = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    told = float(line.split()[2]) * 1e6
    assert taken < told < taken + 2 * preflight.PICTURES and line.split()[3] == "MB"
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    trainer = tiny_trainer(data, tmp_path)
    lines = preflight.disk_lines(trainer.model, trainer.recipe, tmp_path)
    assert len(lines) == 2 and "not enough" in lines[1]


# -- within an epoch --------------------------------------------------------------------------------------------------


def test_an_error_within_an_epoch_saves_first_and_resumes_bit_for_bit(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = make_data(tmp_path / "data")
    unbroken = quiet_run(broken, tmp_path / "unbroken")
    trainer = tiny_trainer(broken, tmp_path / "run", epochs=2)
    order = trainer.loader.order(0)
    photo = trainer.loader.dataset.samples[order[2]].image.file  # the second batch's first
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-400])
    with pytest.raises(ImageError):
        trainer.run()
    assert load_checkpoint(tmp_path / "run/checkpoints")[0]["step"] == 1
    assert "saved step 1 of 4; --resume goes on from there" in capsys.readouterr().err
    photo.write_bytes(whole)
    again = tiny_trainer(broken, tmp_path / "run", epochs=2)
    again.resume()
    again.run()
    one, other = (load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("unbroken", "run"))
    assert unbroken is not None
    for part in ("model", "average"):
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items())


def test_a_step_that_runs_out_of_memory_is_as_if_it_had_not_begun(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, BatchNorm's statistics and random numbers go back, so that the run ends as an unbroken one."""
    unbroken = tiny_trainer(data, tmp_path / "unbroken", epochs=2)
    unbroken.run()
    trainer = tiny_trainer(data, tmp_path / "run", epochs=2)
    loss, calls = trainer.loss, []

    def out_of_memory(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return loss(*arguments)

    monkeypatch.setattr(trainer, "loss", out_of_memory)
    with pytest.raises(TrainingError, match="ran out of memory in step 2"):
        trainer.run()
    again = tiny_trainer(data, tmp_path / "run", epochs=2)
    again.resume()
    assert again.state.step == 1
    again.run()
    one, other = (load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("unbroken", "run"))
    assert all(torch.equal(value, other["model"][key]) for key, value in one["model"].items())


def test_half_an_update_is_not_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=2)
    update = trainer.optimizer.step

    def half() -> None:
        if trainer.state.step == 2:
            raise MemoryError
        update()

    monkeypatch.setattr(trainer.optimizer, "step", half)
    with pytest.raises(TrainingError, match="ran out of memory"):
        trainer.run()
    assert not has_checkpoint(tmp_path / "checkpoints")


def test_logits_that_are_not_finite_in_validation_mean_that_the_run_diverged(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, ema_decay=None)
    with torch.no_grad():
        next(iter(trainer.model.decoder.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingError, match="the run has diverged") as caught:
        trainer.validate()
    assert caught.value.code == "training-diverged" and "learning rate" in caught.value.fix


def test_validation_without_enough_memory_says_so_and_keeps_what_was_learnt(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    trainer = tiny_trainer(data, tmp_path, epochs=2)
    monkeypatch.setattr(Predictor, "masks", full)
    with pytest.raises(ConfigError, match="not enough memory to show 3 photos of 64 x 48") as caught:
        trainer.run()
    assert caught.value.code == "image-memory" and load_checkpoint(tmp_path / "checkpoints")[0]["step"] == 2


def test_the_epoch_line_shows_the_learning_rates_that_it_learnt_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_trainer(data, tmp_path, lr=1e-3, warmup_steps=0, power=1.0).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert "lr 1.0e-03 to 7.5e-04" in lines[0] and "lr 5.0e-04 to 2.5e-04" in lines[1]
