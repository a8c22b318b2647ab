"""The learning-rate range test, the automatic batch size, and windows around rare classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augmenting import context, labelled
from PIL import Image
from tiny_runs import ALONE, tiny_recipe, tiny_trainer

import terrazzo
from terrazzo.errors import TrainingError
from terrazzo.training import batch_size
from terrazzo.training.augment.crop import RandomCrop
from terrazzo.training.batch_size import fitting_batch_size
from terrazzo.training.distributed import Ranks
from terrazzo.training.find_lr import _read_off, find_learning_rate
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.memory import Memory
from terrazzo.training.memory_plan import step_memory

RATES = [1e-6 * 10 ** (k / 10) for k in range(61)]


# -- range test -------------------------------------------------------------------------------------------------------


def test_the_suggestion_lies_in_the_decade_where_the_loss_falls_most() -> None:
    losses = [
        3.0 - 2.0 / (1 + np.exp(-6 * (np.log10(rate) + 3.5))) + 50 * max(np.log10(rate) + 1.5, 0) for rate in RATES
    ]
    found = _read_off(RATES, losses)
    assert found.suggested is not None and 1e-4 < found.suggested < 2e-3  # the steepest place, and the average's delay
    assert 1e-3 < found.lowest < 1e-1 and found.suggested < found.lowest
    flat = _read_off(RATES, list(np.linspace(1, 2, 61)))
    assert flat.suggested is None
    broken = _read_off(RATES, [*losses[:40], float("nan"), *losses[41:]])
    assert len(broken.losses) == 40
    with pytest.raises(TrainingError, match="not finite at the lowest"):
        _read_off(RATES[:1], [float("nan")])


def test_the_sweep_goes_up_exponentially_and_leaves_a_plot_alone(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, **{"optimizer.decoder_lr_factor": 10.0, "drop_path": 0.0})
    seen: list[list[float]] = []
    learn = trainer.train_step

    def noted(batch: Any) -> float:
        loss = learn(batch)
        seen.append(sorted({group["lr"] for group in trainer.optimizer.param_groups}))
        return loss

    trainer.train_step = noted  # type: ignore[method-assign]
    found = find_learning_rate(trainer, steps=7)
    assert [rates[0] for rates in seen] == pytest.approx([10.0**k for k in range(-6, 1)][: len(seen)])
    assert all(rates[1] == pytest.approx(10 * rates[0]) for rates in seen)
    assert len(found.rates) == len(found.losses) and sorted(p.name for p in tmp_path.iterdir()) == ["find_lr.png"]
    with Image.open(tmp_path / "find_lr.png") as picture:
        assert picture.size == (1200, 675)


# -- batch size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_for", "photos", "ranks", "expected", "why"),
    [
        (20, 10_000, 1, 16, "32 would take about"),
        (10_000, 10_000, 1, 64, "64 is the most"),
        (10_000, 100, 1, 8, "an epoch of 100 photos keeps 8 steps"),
        (0, 10_000, 1, 2, "4 would take about"),
        (10_000, 10_000, 3, 48, "64 is the most"),
    ],
)
def test_the_largest_power_of_two_that_fits(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_for: int,
    photos: int,
    ranks: int,
    expected: int,
    why: str,
) -> None:
    trainer = tiny_trainer(data, tmp_path)
    loss = CombinedLoss(trainer.recipe.loss, torch.ones(3), 255, torch.device("cpu"), trainer.labels.names)
    recipe = trainer.recipe.changed({"run.batch_size": 2})
    needed = step_memory(trainer.model, recipe, loss, ALONE).with_batch(free_for) + batch_size.ALONGSIDE
    monkeypatch.setattr(batch_size, "memory_of", lambda _: Memory(int(needed / batch_size.SHARE) + 1, 1 << 40))
    monkeypatch.setattr(batch_size, "ranks_here", lambda _: 1)
    several = Ranks(0, ranks, torch.device("cpu"))
    found, line = fitting_batch_size(trainer.recipe, trainer.model, loss, photos, several)
    assert found == expected and line.startswith(f"batch     {expected} photos a step") and why in line


def test_auto_is_put_into_the_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = {"batch_size": "auto", "crop": [32, 32], "epochs": 1}
    terrazzo.train(data, tmp_path, recipe=tiny_recipe(), overrides=overrides, dry_run=True, workers=0, device="cpu")
    err = capsys.readouterr().err
    assert "batch     2 photos a step" in err and "batch_size: 2" in err


# -- rare classes -----------------------------------------------------------------------------------------------------


def photo_with_rare() -> tuple[Any, Any]:
    image, mask = labelled(60, 80, 0, classes=2)
    image, mask = image.copy(), np.zeros_like(mask)
    mask[50:52, 70:73] = 3
    return image, mask


def test_a_window_shows_a_rare_class_with_the_given_probability() -> None:
    image, mask = photo_with_rare()
    photos = [(image, mask)]
    crop = RandomCrop(size=(20, 20), cat_max_ratio=1.0, rare=1.0)
    places = set()
    for seed in range(40):
        _, window = crop(image, mask, context(np.random.default_rng(seed), photos))
        assert window.shape == (20, 20) and (window == 3).any()
        places.add(tuple(np.argwhere(window == 3)[0]))
    assert len(places) > 25  # anywhere in the window
    half = RandomCrop(size=(20, 20), cat_max_ratio=1.0, rare=0.5)
    shown = [(half(image, mask, context(np.random.default_rng(seed), photos))[1] == 3).any() for seed in range(200)]
    assert 0.4 < np.mean(shown) < 0.75


def test_without_the_option_nothing_else_is_drawn_and_without_the_class_the_usual_window_is_taken() -> None:
    image, mask = photo_with_rare()
    photos = [(image, mask)]
    plain = RandomCrop(size=(20, 20), cat_max_ratio=1.0)
    first = plain(image, mask, context(np.random.default_rng(5), photos))[0]
    rng = np.random.default_rng(5)
    top, left = int(rng.integers(0, 41)), int(rng.integers(0, 61))
    assert np.array_equal(first, image[top : top + 20, left : left + 20])
    empty = np.zeros_like(mask)
    rng = np.random.default_rng(5)
    _, window = RandomCrop(size=(20, 20), cat_max_ratio=1.0, rare=1.0)(image, empty, context(rng, photos))
    assert window.shape == (20, 20) and not window.any()
    small = RandomCrop(size=(200, 20), cat_max_ratio=1.0, rare=1.0)
    assert small(image, mask, context(np.random.default_rng(0), photos))[1].shape == (60, 20)
