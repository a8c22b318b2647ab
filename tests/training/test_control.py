"""What a user may ask of training: losses and weights by name, frozen parts, layer decay, accumulation, dry run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import TINY, make_data, tiny_recipe, tiny_trainer

import terrazzo
from terrazzo.data.loaders import Batch
from terrazzo.errors import CheckpointError, ConfigError, TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.dry_run import batch_picture
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.losses.dice import Dice
from terrazzo.training.losses.focal import Focal
from terrazzo.training.losses.ohem import OHEMCrossEntropy
from terrazzo.training.optim import layer_factors, parameter_groups
from terrazzo.training.overrides import parse_class_weights
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.train import recipe_for, with_training_at
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model

CPU = torch.device("cpu")


# -- losses and class weights by name ---------------------------------------------------------------------------------


def test_losses_by_name_keep_the_fields_that_the_recipe_gives_them() -> None:
    chosen = tiny_recipe().changed({"loss": "ce + 0.5*dice+focal"})
    assert chosen.loss == (
        CrossEntropy(class_weight_power=0.25, normalize_by="valid"),
        Dice(weight=0.5),
        Focal(),
    )
    assert tiny_recipe(loss="2*lovasz").loss[0].weight == 2


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("ce+dise", "unknown row 'dise'", "did you mean dice"),
        ("", "unknown row ''", "cross_entropy"),
        ("x*dice", "a weight 'x'", r"ce\+0\.5\*dice"),
        ("-1*ce", "weight is -1", "at least 0"),
        ("nan*ce", "weight is nan", "a number"),
    ],
)
def test_what_is_no_loss_is_named(text: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        tiny_recipe(loss=text)
    assert __import__("re").search(fix, caught.value.fix)


def test_class_weights_of_ones_own_go_to_every_loss_that_weighs_classes() -> None:
    weights = parse_class_weights(["b=5", "traffic = sign=0.5"])
    assert weights == {"b": 5, "traffic = sign": 0.5}
    chosen = tiny_recipe().changed({"loss": "ce+dice+focal", "loss.class_weights": weights})
    assert [getattr(row, "class_weights", None) for row in chosen.loss] == [weights, None, weights]
    pixels = torch.tensor([90, 9, 1])
    loss = CombinedLoss(chosen.loss, pixels, 255, CPU, ("a", "b", "traffic = sign"))
    assert [None if one is None else one.tolist() for one in loss.class_weights] == [[1, 5, 0.5], None, [1, 5, 0.5]]
    assert Recipe.from_dict(chosen.to_dict(), "x") == chosen


def test_class_weights_that_nothing_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss \(dice\) does not weigh classes") as caught:
        tiny_recipe(loss="dice", **{"loss.class_weights": {"a": 2}})
    assert "cross_entropy" in caught.value.fix
    with pytest.raises(ConfigError, match="unknown class name 'rood'") as caught:
        CombinedLoss([CrossEntropy(class_weights={"rood": 2})], torch.ones(2), 255, CPU, ("road", "sky"))
    assert "did you mean road" in caught.value.fix
    for wrong in (-1, 1e38, float("nan"), "2"):
        with pytest.raises(ConfigError, match=r"class_weights\.a is "):
            CrossEntropy(class_weights={"a": wrong})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="nothing to learn"):
        CombinedLoss([CrossEntropy(class_weights={"a": 0})], torch.tensor([9, 0]), 255, CPU, ("a", "b"))
    whole = CombinedLoss([CrossEntropy(class_weights={"a": 2, "b": 3})], torch.ones(2), 255, CPU, ("a", "b"))
    assert whole(torch.zeros(1, 2, 2, 2), torch.zeros(1, 8, 8, dtype=torch.int64)).item() == pytest.approx(np.log(2))
    with pytest.raises(ConfigError, match="'sign'"):
        parse_class_weights(["sign"])


# -- gradient accumulation --------------------------------------------------------------------------------------------


def batch_of_four() -> Batch:
    """Photos of which very different parts are labelled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 32, 32), generator=generator)
    labels[0] = 255
    labels[1, :30] = 255
    return Batch(torch.randn(4, 3, 32, 32, generator=generator), labels, [0, 1, 2, 3])


def step_of(data: Path, output: Path, parts: int, **changes: Any) -> tuple[float, Trainer]:
    """Take a step without what sees the batch as a whole: BatchNorm; and without dropout."""
    changes = {"batch_size": 4, "drop_path": 0.0, "optimizer": "sgd", "warmup_steps": 0, "lr": 0.5, **changes}
    trainer = tiny_trainer(data, output, **changes, **{"run.accumulate": parts})
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
            module.training = False
    return float(trainer.train_step(batch_of_four())), trainer


@pytest.mark.parametrize(
    "loss",
    [
        [{"name": "cross_entropy", "class_weight_power": 0.5}, {"name": "focal", "weight": 0.3}],
        [{"name": "cross_entropy", "normalize_by": "all"}],
    ],
)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(tmp_path: Path, loss: Any) -> None:
    data = make_data(tmp_path / "data")
    whole, one = step_of(data, tmp_path / "run", 1, loss=loss)
    for parts in (2, 4):
        summed, other = step_of(data, tmp_path / "run", parts, loss=loss)
        assert summed == pytest.approx(whole, rel=1e-5)
        for (name, weights), (_, others) in zip(
            one.model.named_parameters(), other.model.named_parameters(), strict=True
        ):
            torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)


def test_of_losses_over_regions_the_parts_are_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 3, 8, 8, generator=generator), batch_of_four().labels
    for row in (Dice(), OHEMCrossEntropy()):
        loss = CombinedLoss([row], torch.ones(3), 255, CPU)
        parts = [loss(logits[k : k + 2], labels[k : k + 2], labels) for k in (0, 2)]
        alone = [loss(logits[k : k + 2], labels[k : k + 2]) for k in (0, 2)]
        torch.testing.assert_close(sum(parts), sum(alone) / 2)


def test_parts_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a batch of 2 photos cannot be computed in 3 equal parts") as caught:
        tiny_trainer(make_data(tmp_path / "data"), tmp_path, **{"run.accumulate": 3})
    assert caught.value.code == "config-batch-size"


# -- frozen parts and layer decay -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "what", "frozen"),
    [
        ("segformer_tiny", "encoder", ("encoder.",)),
        ("segformer_tiny", 2, ("encoder.stages.0.", "encoder.stages.1.")),
        (
            "setr_naive_nano",
            1,
            ("encoder.patch_embed.", "encoder.pos_embed", "encoder.cls_", "encoder.blocks.0."),
        ),
    ],
)
def test_what_is_frozen_stays_as_it_was(tmp_path: Path, model: str, what: Any, frozen: tuple[str, ...]) -> None:
    data = make_data(tmp_path / "data")
    trainer = tiny_trainer(data, tmp_path / "run", model=model, warmup_steps=0, **{"model.freeze": what})
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for batch in trainer.loader.batches(0):
        trainer.train_step(batch)
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    trained = {name for name in before if not name.startswith(frozen)}
    assert trained >= changed and len(changed) > 0.8 * len(trained)
    assert any("frozen starts from random weights" in note for note in trainer.start.notes)
    assert all(not module.training for part in trainer.start.frozen for module in part.modules())


def test_more_stages_than_there_are_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="freeze is 9, and the encoder has 4 stages") as caught:
        tiny_trainer(make_data(tmp_path / "data"), tmp_path, **{"model.freeze": 9})
    assert caught.value.code == "recipe-freeze"
    with pytest.raises(ConfigError, match="freeze is 'decoder'"):
        tiny_recipe(**{"model.freeze": "decoder"})


def test_layer_decay_halves_the_rate_from_block_to_block() -> None:
    network = create_model(TINY["setr_naive_nano"], 3, image_size=(32, 32))
    factors = layer_factors(network.encoder, 0.5)
    by_name = {name: factors[id(value)] for name, value in network.encoder.named_parameters()}
    assert by_name["pos_embed"] == by_name["patch_embed.proj.weight"] == 1 / 32
    for block in range(4):
        assert {v for name, v in by_name.items() if name.startswith(f"blocks.{block}.")} == {0.5 ** (4 - block)}
    rates = {
        id(parameter): (group["base_lr"], group["weight_decay"])
        for group in parameter_groups(network, 0.1, 0.05, 10.0, 0.5)
        for parameter in group["params"]
    }
    named = {name: rates[id(value)] for name, value in network.named_parameters() if value.requires_grad}
    assert named["encoder.blocks.3.mlp.fc1.weight"] == (0.05, 0.05)
    assert named["encoder.blocks.2.norm1.weight"] == (0.025, 0.0)
    assert {rate for name, rate in named.items() if name.startswith("decoder.")} == {(1.0, 0.05)}
    assert len(parameter_groups(network, 0.1, 0.05, 10.0)) == 3


def test_layer_decay_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="a list of blocks") as caught:
        layer_factors(torch.nn.Linear(2, 2), 0.5)
    assert caught.value.code == "recipe-layer-decay"


# -- the size of photos -----------------------------------------------------------------------------------------------


def test_short_side_is_that_of_training_and_of_everything_after_it(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    side = {"data.preprocess.short_side": 160}
    chosen, _ = recipe_for(data, TINY["segformer_tiny"], side)
    assert (chosen.data.preprocess.short_side, chosen.data.preprocess.long_side) == (160, 640)
    assert chosen.crop == (160, 160) and chosen.augment[0].box == (213, 160)
    changes = with_training_at(side)
    given = tiny_recipe().changed(changes)
    assert given.data.preprocess.target_size(48, 64) == (160, 213) and given.augment[0].box == (640, 160)
    assert with_training_at({**side, "augment.resize.box": [9, 9]})["augment.resize.box"] == [
        9,
        9,
    ]
    mixed = automatic_recipe("segformer_b0", [(300, 400), (500, 500)], short_side=256)
    assert mixed.data.preprocess.short_side == 256 and mixed.crop == (256, 256)


# -- extending a run --------------------------------------------------------------------------------------------------


def run(data: Path, output: Path, **options: Any) -> Any:
    return terrazzo.train(data, output, workers=0, device="cpu", **options)


def test_a_finished_run_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data")
    run(data, tmp_path / "run", recipe=tiny_recipe(epochs=2, warmup_steps=0, patience=0, lr=1e-3))
    longer = run(data, tmp_path / "run", resume=True, overrides={"epochs": 4, "run.patience": 0})
    said = capsys.readouterr().err
    assert "it was planned for 4 steps; from here on the learning rate follows the longer plan" in said
    rows = (tmp_path / "run/log.csv").read_text().splitlines()[1:]
    rates = [float(row.split(",")[3]) for row in rows]
    assert longer.steps == 2 * len(rows) and len(rows) > 2
    assert rates[1] == pytest.approx(1e-3 * 1 / 4) and rates[2] == pytest.approx(1e-3 * 3 / 8)
    state, _ = load_checkpoint(tmp_path / "run/checkpoints")
    assert state["total_steps"] == 8 and state["origin"]["planned_steps"] == [4]
    assert terrazzo.load(str(tmp_path / "run")).record["planned_steps"] == [4]


def test_a_run_whose_last_pass_was_cut_short_is_extended_by_whole_ones(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(data, tmp_path / "run", recipe=tiny_recipe(epochs=None, steps=3))
    longer = run(data, tmp_path / "run", resume=True, overrides={"steps": 6})
    state, _ = load_checkpoint(tmp_path / "run/checkpoints")
    assert longer.steps == 6 and [row["step"] for row in state["log"]] == [2, 3, 5, 6]


def test_a_run_that_is_counted_in_steps_does_not_go_on_with_other_photos(tmp_path: Path) -> None:
    run(make_data(tmp_path / "data"), tmp_path / "run", recipe=tiny_recipe(epochs=None, steps=2))
    more = make_data(tmp_path / "more", train=7)
    with pytest.raises(TrainingError, match="has learnt from 5 photos, and the data set has 7 now") as caught:
        run(more, tmp_path / "run", resume=True)
    assert caught.value.code == "training-resume" and "--weights" in caught.value.fix


def test_a_finished_run_without_its_model_says_so(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(data, tmp_path / "run", recipe=tiny_recipe(epochs=1))
    shutil.rmtree(tmp_path / "run/model")
    with pytest.raises(TrainingError, match="the best model of the run, is gone") as caught:
        run(data, tmp_path / "run", resume=True)
    assert caught.value.code == "training-no-model"


def test_weights_without_a_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="empty name"):
        run(make_data(tmp_path / "data"), tmp_path / "run", recipe=tiny_recipe(), weights=" ")


def test_a_run_is_not_shortened(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run(data, tmp_path / "run", recipe=tiny_recipe(epochs=2))
    with pytest.raises(TrainingError, match="planned for 4 steps, and 2 are not more") as caught:
        run(data, tmp_path / "run", resume=True, overrides={"epochs": 1})
    assert caught.value.code == "training-resume"


# -- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_everything_and_leaves_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "data")
    options: dict[str, Any] = {"recipe": tiny_recipe(batch_size=2, epochs=2)}
    assert run(data, tmp_path / "run", dry_run=True, **options) is None
    said = capsys.readouterr().err
    for line in ("model     ", "memory    ", "disk      ", "time      about ", "  lr: 0.001", "nothing was trained"):
        assert line in said
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "batch.png"]
    with Image.open(tmp_path / "run/batch.png") as picture:
        assert picture.size == (2 * (32 + 8) + 8, 2 * (32 + 8) + 8)
    assert run(data, tmp_path / "run", **options).steps == 4


def test_the_picture_of_a_batch_shows_windows_above_their_classes() -> None:
    labels = LabelSpec.from_names(["a", "b"])
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3)).astype(np.uint8)
    masks = torch.tensor([0, 1, 255]).view(3, 1, 1).expand(3, 8, 10)
    normalised = torch.from_numpy(np.stack([Preprocess().normalize(image) for image in images])).permute(0, 3, 1, 2)
    sheet = batch_picture(Batch(normalised, masks, [0, 1, 2]), Preprocess(), labels)
    assert sheet.shape == (2 * 16 + 8, 3 * 18 + 8, 3)
    for place in range(3):
        left = 8 + place * 18
        assert np.abs(sheet[8:16, left : left + 10].astype(int) - images[place]).max() <= 1
        color = labels.ignore_color if place == 2 else labels.palette[place]
        assert (sheet[20:28, left : left + 10] == color).all()
