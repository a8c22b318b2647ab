"""Consistency training on photos without masks: pseudo-labels, views, what is left out, and broken runs."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_runs import ALONE, make_data, tiny_recipe

import terrazzo
from terrazzo.data.loaders import Batch
from terrazzo.data.photos import Photos, open_photos
from terrazzo.errors import ConfigError, DatasetError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.consistency import Consistency, Views, pseudo_labels, view_loader
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.recipe import Recipe
from terrazzo.training.sections import UnlabelledSection
from terrazzo.training.trainer import Trainer

LABELS = LabelSpec.from_names(["a", "b", "c"])
SURE = {"unlabelled": {"threshold": 0.34, "cutmix": 1.0}}


@pytest.fixture(scope="module")
def pool(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos without masks, and copies of one to learn from and of one to validate on."""
    folder = tmp_path_factory.mktemp("pool") / "photos"
    shutil.copytree(make_data(tmp_path_factory.mktemp("other") / "o", 4, 1, classes=4) / "train/images", folder)
    shutil.copy(data / "train/images/train_2.png", folder / "copied.png")
    shutil.copy(data / "val/images/val_0.png", folder / "seen in validation.png")
    return folder


def trainer_of(data: Path, pool: Path, output: Path, **changes: Any) -> Trainer:
    recipe = tiny_recipe(**{**SURE, **changes})
    train, val = open_splits(recipe.data, data)
    photos, _ = open_photos(pool, train.labels, train.reading, (train, val))
    return Trainer(recipe, train, val, labelled_pixels(train), output, ALONE, 0, unlabelled=photos)


# -- which photos -----------------------------------------------------------------------------------------------------


def test_photos_of_the_splits_are_left_out_by_their_content_and_it_is_said(data: Path, pool: Path) -> None:
    train, val = open_splits(tiny_recipe().data, data)
    photos, said = open_photos(pool, train.labels, known=(train, val))
    assert [sample.image.name for sample in photos.samples] == [f"train_{k}.png" for k in range(4)]
    assert said == ["no masks  2 of 6 photos are left out: they are in train or val too"]
    image, mask = photos.read(0)
    assert image.shape == (48, 64, 3) and mask.shape == (48, 64) and not mask.any()
    with pytest.warns(UserWarning, match="left out 5 label masks"), pytest.raises(DatasetError) as caught:
        open_photos(data / "train", train.labels, known=(train, val))
    assert caught.value.code == "unlabelled-none" and "all 5 photos are among those" in caught.value.message


def test_a_photo_that_disappears_is_named(pool: Path, tmp_path: Path) -> None:
    shutil.copytree(pool, tmp_path / "p")
    photos, _ = open_photos(tmp_path / "p", LABELS)
    photos.samples[0].image.file.unlink()
    with pytest.raises(DatasetError, match="has disappeared"):
        photos.read(0)


# -- values -----------------------------------------------------------------------------------------------------------


def test_pseudo_labels_are_the_likeliest_class_where_it_is_likely_enough() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 5, 4)
    outside = torch.zeros(2, 17, 16, dtype=torch.bool)
    outside[0, :3] = True
    labels = pseudo_labels(logits, outside, 0.8, 255)
    confidence, found = F.interpolate(logits, (17, 16), mode="bilinear").softmax(1).max(1)
    expected = found.masked_fill((confidence < 0.8) | outside, 255)
    assert torch.equal(labels, expected) and 0.1 < (expected == 255).float().mean() < 0.9


def test_the_loss_is_the_mean_over_the_pixels_of_photos_and_counts_unsure_ones_0() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 4, 4, requires_grad=True), torch.randint(0, 3, (1, 4, 4))
    labels[0, 0] = 255
    consistency = Consistency(UnlabelledSection(weight=0.5), 255, 0, ALONE)
    loss = consistency.loss(logits, Views(torch.zeros(1, 3, 4, 4), labels, torch.tensor(16)))
    expected = 0.5 * F.cross_entropy(logits, labels, ignore_index=255, reduction="sum") / 16
    torch.testing.assert_close(loss, expected)
    assert consistency.told() == "pseudo-labels on 75% of the pixels without masks"
    nothing = consistency.loss(logits, Views(torch.zeros(1, 3, 4, 4), torch.full_like(labels, 255), torch.tensor(16)))
    assert nothing.item() == 0


class Says:
    """An average that is sure of one class for each photo: that of its brightness."""

    class Module(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = (images.mean((1, 2, 3)) > 0).long()
            return 20 * F.one_hot(bright, 3).float()[:, :, None, None].expand(-1, -1, 8, 8)

    module = Module()


def test_rectangles_bring_their_pseudo_labels_along_and_follow_from_the_step() -> None:
    images = torch.cat([torch.full((1, 6, 32, 32), 1.0), torch.full((1, 6, 32, 32), -1.0)])
    batch = Batch(images, torch.zeros(2, 32, 32, dtype=torch.int64), [0, 1])
    batch.labels[1, 20:] = 255
    average: Any = Says()
    consistency = Consistency(UnlabelledSection(cutmix=1.0), 255, 3, ALONE)
    views = consistency.views(batch, average, 5, 1, bf16=False)
    plain = Consistency(UnlabelledSection(cutmix=0.0), 255, 3, ALONE).views(batch, average, 5, 1, bf16=False)
    assert torch.equal(plain.labels[0], torch.ones(32, 32, dtype=torch.int64))
    assert (
        torch.equal(plain.labels[1, :20], torch.zeros(20, 32, dtype=torch.int64))
        and (plain.labels[1, 20:] == 255).all()
    )
    assert not torch.equal(views.labels, plain.labels)
    inside = views.strong[:, 0] > 0  # whose pixels are those of the bright photo
    labelled = views.labels != 255
    assert torch.equal(views.labels[labelled], inside[labelled].long())
    assert views.pixels == labelled.sum()
    again = consistency.views(batch, average, 5, 1, bf16=False)
    later = consistency.views(batch, average, 6, 1, bf16=False)
    assert torch.equal(again.strong, views.strong) and not torch.equal(later.strong, views.strong)


def test_both_views_are_of_one_window_and_the_order_is_another_than_that_of_labels(data: Path, pool: Path) -> None:
    recipe = tiny_recipe(unlabelled={"ratio": 2})
    photos, _ = open_photos(pool, LABELS)
    loader = view_loader(recipe, photos, 0, ALONE)
    batch = next(loader.batches(0))
    assert batch.images.shape == (4, 6, 32, 32) and set(batch.labels.unique().tolist()) <= {0, 255}
    weak, strong = batch.images.chunk(2, 1)
    assert not torch.equal(weak, strong)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terrazzo.training.consistency.STRONG", ())
        weak, same = next(view_loader(recipe, photos, 0, ALONE).batches(0)).images.chunk(2, 1)
    assert torch.equal(weak, same) and torch.equal(weak, batch.images.chunk(2, 1)[0])
    assert loader.seed != recipe.run.seed


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_broken_off_three_times_ends_with_the_weights_of_an_unbroken_one(
    data: Path, pool: Path, tmp_path: Path
) -> None:
    """Told to stop after the first step, killed in the third, and told to stop in the last."""
    unbroken = trainer_of(data, pool, tmp_path / "unbroken")
    unbroken.run()
    assert unbroken.state.step == 4

    def stopped(step: int, how: str) -> None:
        trainer = trainer_of(data, pool, tmp_path / "broken")
        if step > 1:
            trainer.resume()
            torch.rand(step)  # whatever else draws numbers
        learn = trainer.train_step

        def noted(batch: Batch) -> float:
            if trainer.state.step + 1 == step:
                if how == "killed":
                    raise KeyboardInterrupt
                trainer.signals.number = signal.SIGTERM
            return learn(batch)

        trainer.train_step = noted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt if how == "killed" else SystemExit):
            trainer.run()

    for step, how in ((1, "told"), (3, "killed"), (4, "told")):
        stopped(step, how)
    last = trainer_of(data, pool, tmp_path / "broken")
    last.resume()
    last.run()
    one, other = (load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("unbroken", "broken"))
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    assert [row["loss"] for row in one["log"]] == [row["loss"] for row in other["log"]]
    assert one["origin"]["unlabelled_photos"] == 4


def test_photos_without_masks_change_what_is_learnt_and_the_loss_is_theirs_too(
    data: Path, pool: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"run.accumulate": 2, "unlabelled": {"threshold": 0.0, "ratio": 2, "cutmix": 0.0}}
    trainer = trainer_of(data, pool, tmp_path, drop_path=0.0, **changes)
    batch = next(trainer.batches(1))
    assert batch.unlabelled is not None and batch.unlabelled.images.shape == (4, 6, 32, 32)
    trainer.train_step(replace(batch, unlabelled=None))
    without = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    trainer.train_step(batch)
    assert any(not torch.equal(one, p.grad) for one, p in zip(without, trainer.model.parameters(), strict=True))


def test_resuming_with_other_photos_is_refused(data: Path, pool: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, pool, tmp_path / "run")
    trainer.save()
    shutil.copytree(pool, tmp_path / "fewer")
    (tmp_path / "fewer/train_3.png").unlink()
    with pytest.raises(TrainingError, match="4 photos without masks, and the folder has 3 now"):
        trainer_of(data, tmp_path / "fewer", tmp_path / "run").resume()


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_sections_that_a_recipe_may_lack() -> None:
    plain = tiny_recipe()
    assert "unlabelled" not in plain.to_dict() and plain.unlabelled is None
    chosen = plain.changed({"unlabelled.weight": 2})
    assert chosen.unlabelled == UnlabelledSection(weight=2)
    assert Recipe.from_dict(chosen.to_dict(), "x") == chosen
    assert plain.differences(chosen) == ["unlabelled"] and chosen.changed({"unlabelled": None}) == plain
    assert chosen.differences(chosen.changed({"unlabelled.cutmix": 0})) == ["unlabelled.cutmix"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled.threshold": 2}, "threshold is 2"),
        ({"unlabelled.ratio": 0}, "ratio is 0"),
        ({"unlabelled.tau": 1}, "unknown key 'tau'"),
        ({"unlabelled.weight": 1, "ema_decay": None}, "from the weight average, and run.ema_decay is null"),
        ({"unlabelled.weight": 0}, "nothing labels the photos"),
        ({"teacher.weight": 1}, "model"),
        ({"teacher.model": " "}, "model is ' '"),
        ({"teacher.model": "x", "teacher.temperature": 0}, "temperature is 0"),
    ],
)
def test_sections_that_say_nothing_sensible_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_recipe(**changes)


def test_the_folder_is_named_with_the_recipe_and_only_with_it(data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(**SURE)
    with pytest.raises(ConfigError, match="no folder of them is named") as caught:
        terrazzo.train(data, tmp_path / "run", recipe=recipe, workers=0)
    assert caught.value.code == "recipe-unlabelled" and "--unlabelled FOLDER" in caught.value.fix
    with pytest.raises(terrazzo.TerrazzoError, match="no such file or folder"):
        terrazzo.train(data, tmp_path / "run", recipe=tiny_recipe(), unlabelled=tmp_path / "nowhere", workers=0)


def test_gaps_of_bands_are_not_labelled() -> None:
    class Source:
        name, part = "x.tif", ""

        def with_reading(self, _: object) -> Source:
            return self

        def read(self) -> np.ndarray[Any, Any]:
            image = np.ones((4, 4, 2), np.float32)
            image[0, 0, 1] = np.nan
            return image

    sample: Any = type("Sample", (), {"image": Source()})()
    photos = Photos(Path(), "unlabelled", LABELS, (sample,), "")
    assert photos.read(0)[1][0].tolist() == [255, 0, 0, 0]


def test_grey_photos_are_read_as_the_labelled_ones(pool: Path, tmp_path: Path) -> None:
    Image.open(pool / "train_0.png").convert("L").save(tmp_path / "grey.png")
    photos, _ = open_photos(tmp_path, LABELS)
    assert photos.read(0)[0].shape == (48, 64, 3)
