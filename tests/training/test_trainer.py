"""The loop: what a step changes, when it stops, and that a broken run goes on bit for bit."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import TINY, make_data, tiny_recipe, tiny_trainer

from terrazzo.data.loaders import Batch
from terrazzo.errors import CheckpointError, DatasetError, OutputError, TrainingError
from terrazzo.evaluation.confusion import Metrics
from terrazzo.training import failures, validation
from terrazzo.training import loop as loop_module
from terrazzo.training import trainer as trainer_module
from terrazzo.training.checkpoint import load_checkpoint, save_checkpoint
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model
from terrazzo.weights.files import load_folder
from terrazzo.weights.load import StartingWeights


class Unbroken:
    """A finished run, and what it saw."""

    def __init__(self, trainer: Trainer) -> None:
        self.seen = watch(trainer)
        trainer.run()
        self.output, self.state = trainer.output, load_checkpoint(trainer.output / "checkpoints")[0]


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(tiny_trainer(data, tmp_path_factory.mktemp("unbroken")))


def watch(trainer: Trainer) -> list[list[int]]:
    """Note the photos of each step."""
    seen: list[list[int]] = []
    learn = trainer.train_step

    def noted(batch: Batch) -> torch.Tensor:
        seen.append(batch.indices)
        return learn(batch)

    trainer.train_step = noted  # type: ignore[method-assign]
    return seen


def stop_at(trainer: Trainer, step: int) -> None:
    """Tell the run to stop in the middle of a step, counted from 1, as its signal handler does.

    Real signals go to processes of their own, in test_faults.py: a test process that has none of our handlers dies.
    """
    learn = trainer.train_step

    def stopped(batch: Batch) -> torch.Tensor:
        if trainer.state.step + 1 == step:
            trainer.signals.number = signal.SIGTERM
        return learn(batch)

    trainer.train_step = stopped  # type: ignore[method-assign]


def assert_equal(one: Any, other: Any, where: str = "state") -> None:
    """Compare two states bit for bit, but for what clocks and memory have to do with."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"seconds", "hours", "images_per_second", "memory_mb"}:
            assert_equal(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for place, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_equal(mine, theirs, f"{where}[{place}]")
    else:
        assert one == other, where


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_best_model_a_log_and_a_checkpoint(unbroken: Unbroken) -> None:
    assert unbroken.state["step"] == 4 and [row["epoch"] for row in unbroken.state["log"]] == [1, 2]
    lines = (unbroken.output / "log.csv").read_text().splitlines()
    assert lines[0].split(",")[:4] == ["epoch", "step", "loss", "lr"] and len(lines) == 3
    best = load_folder(unbroken.output / "model")
    assert best.labels.names == ("class 0", "class 1", "class 2")
    assert best.record["val_mIoU"] == max(row["mIoU"] for row in unbroken.state["log"])
    assert len(unbroken.seen) == 4


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (2, 0), (3, 1)])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    data: Path, tmp_path: Path, unbroken: Unbroken, step: int, workers: int
) -> None:
    """Stopped after the first step of an epoch, or the last one, just before the validation."""
    first = tiny_trainer(data, tmp_path, workers=workers)
    seen = watch(first)
    stop_at(first, step)
    with pytest.raises(SystemExit) as caught:
        first.run()
    assert caught.value.code == 143
    assert load_checkpoint(tmp_path / "checkpoints")[0]["step"] == step == len(seen)
    second = tiny_trainer(data, tmp_path, workers=workers)
    second.resume()
    seen += watch(second)
    torch.rand(7)  # whatever else draws numbers before the run goes on
    seen_later = watch(second)
    second.run()
    assert seen + seen_later == unbroken.seen
    assert_equal(load_checkpoint(tmp_path / "checkpoints")[0], unbroken.state)


def test_told_to_stop_while_validating_a_run_validates_again(
    data: Path, tmp_path: Path, unbroken: Unbroken, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, score = tiny_trainer(data, tmp_path), validation.score

    def stopped(*arguments: Any, **options: Any) -> Any:
        first.signals.number = signal.SIGTERM
        return score(*arguments, **options)

    monkeypatch.setattr(validation, "score", stopped)
    with pytest.raises(SystemExit):
        first.run()
    state = load_checkpoint(tmp_path / "checkpoints")[0]
    assert state["step"] == 2 and state["log"] == [] and state["best_mIoU"] == -1
    monkeypatch.setattr(validation, "score", score)
    second = tiny_trainer(data, tmp_path)
    second.resume()
    second.run()
    assert_equal(load_checkpoint(tmp_path / "checkpoints")[0], unbroken.state)


def test_a_finished_run_resumes_to_nothing(data: Path, unbroken: Unbroken) -> None:
    again = tiny_trainer(data, unbroken.output)
    again.resume()
    seen = watch(again)
    again.run()
    assert seen == [] and again.log.rows == unbroken.state["log"]


def test_another_recipe_is_refused_by_the_names_of_its_fields(data: Path, unbroken: Unbroken) -> None:
    with pytest.raises(TrainingError, match=r"another optimizer\.lr, run\.epochs") as caught:
        tiny_trainer(data, unbroken.output, epochs=3, lr=0.5).resume()
    assert caught.value.code == "training-resume"


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_no_more(
    data: Path, tmp_path: Path, unbroken: Unbroken, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny_trainer(data, tmp_path)
    first.run()
    (tmp_path / "checkpoints/newest.pt").write_bytes(b"torn")
    second = tiny_trainer(data, tmp_path)
    second.resume()
    said = capsys.readouterr().err
    assert "newest.pt is damaged" in said and "resumed at step 2 of 4" in said
    second.run()
    assert_equal(load_checkpoint(tmp_path / "checkpoints")[0], unbroken.state)


def test_a_second_signal_while_saving_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only the main thread has signal handlers")

    before = signal.getsignal(signal.SIGTERM)

    def receive(number: int) -> None:
        handler = signal.getsignal(number)
        assert callable(handler)
        handler(number, None)

    def hurried(folder: Path, state: dict[str, Any]) -> None:
        receive(signal.SIGTERM)
        save_checkpoint(folder, state)
        receive(signal.SIGINT)

    monkeypatch.setattr(loop_module, "save_checkpoint", hurried)
    trainer = tiny_trainer(data, tmp_path)
    stop_at(trainer, 1)
    with pytest.raises(SystemExit) as caught:
        trainer.run()
    assert caught.value.code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert load_checkpoint(tmp_path / "checkpoints")[0]["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(data, tmp_path)
    trainer.save()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        trainer.run()
    state, warnings = load_checkpoint(tmp_path / "checkpoints")
    assert state["step"] == 0 and warnings == []


# -- steps ------------------------------------------------------------------------------------------------------------


def snapshot(trainer: Trainer) -> dict[str, Any]:
    assert trainer.average is not None
    states = trainer.model.state_dict(), trainer.average.module.state_dict(), trainer.optimizer.state_dict()["state"]
    return {"parts": [{str(key): copied(value) for key, value in state.items()} for state in states]}


def copied(value: Any) -> Any:
    return {key: tensor.clone() for key, tensor in value.items()} if isinstance(value, dict) else value.clone()


def test_a_batch_without_finite_gradients_changes_nothing_and_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer(data, tmp_path)
    good, bad = trainer.loader.batches(0)
    trainer.train_step(good)
    before = snapshot(trainer)
    bad.images[0, 0, 0, 0] = math.nan
    assert math.isnan(trainer.train_step(bad))
    assert_equal(snapshot(trainer), before)
    said = capsys.readouterr().err
    assert "step 2: loss or gradient is not finite" in said
    assert all(trainer.loader.dataset.samples[index].image.name in said for index in bad.indices)
    assert math.isfinite(trainer.train_step(good)) and trainer.state.bad_steps == 0


# -- steps whose outcome is read later, as those of a GPU are ---------------------------------------------------------


def test_reading_steps_later_changes_no_loss_and_no_weight(data: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    trainer = tiny_trainer(data, tmp_path)
    trainer.read_every = 3  # of 2 in an epoch: the validation reads them
    trainer.run()
    assert_equal(load_checkpoint(tmp_path / "checkpoints")[0], unbroken.state)


def test_a_run_that_is_stopped_reads_and_logs_its_steps_first(data: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    first = tiny_trainer(data, tmp_path)
    first.read_every = 10
    stop_at(first, 3)
    with pytest.raises(SystemExit):
        first.run()
    saved = load_checkpoint(tmp_path / "checkpoints")[0]
    assert saved["step"] == 3 and len(saved["losses"]) == 1
    second = tiny_trainer(data, tmp_path)
    second.read_every = 10
    second.resume()
    second.run()
    assert_equal(load_checkpoint(tmp_path / "checkpoints")[0], unbroken.state)


def test_a_bad_step_that_is_read_later_has_changed_nothing_either(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = []
    for read_every in (1, 4):
        trainer = tiny_trainer(data, tmp_path / str(read_every))
        trainer.read_every = read_every
        good, bad = trainer.loader.batches(0)
        bad.images[0, 0, 0, 0] = math.nan
        torch.manual_seed(0)
        for batch in (good, bad, good, bad):
            trainer.train_step(batch)
        trainer._finish_steps()
        assert trainer.state.bad_steps == 1 and len(trainer.log.losses) == 4
        states.append(snapshot(trainer))
        said = capsys.readouterr().err
        assert said.count("not finite") == 2 and "step 2:" in said and "step 4:" in said
    assert_equal(states[0], states[1])


def test_a_first_step_of_sgd_that_is_not_taken_leaves_no_momentum(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, optimizer="sgd", lr=0.01)
    _, bad = trainer.loader.batches(0)
    bad.images[0, 0, 0, 0] = math.nan
    trainer.train_step(bad)
    momenta = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    assert momenta and not any(momentum.any() for momentum in momenta)


def test_a_step_asks_the_device_for_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer(data, tmp_path, ema_decay=None)
    trainer.read_every = 10
    batch = next(trainer.loader.batches(0))
    trainer.train_step(batch)  # the first one creates the optimiser's state
    with monkeypatch.context() as patch:
        for name in ("__bool__", "__float__", "__int__", "item", "tolist", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"a step waits for {name}"))
        trainer.train_step(batch)
    assert trainer.log.losses == []
    trainer._finish_steps()
    assert len(trainer.log.losses) == 2 and all(map(math.isfinite, trainer.log.losses))


def test_a_diverged_run_that_is_read_late_is_not_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST_BAD_STEPS", 2)
    trainer = tiny_trainer(data, tmp_path)
    trainer.read_every = 10
    monkeypatch.setattr(trainer, "loss", lambda logits, labels, batch: logits.sum() * math.nan)
    monkeypatch.setattr(trainer_module, "validate", lambda *_: pytest.fail("a diverged run is not validated"))
    with pytest.raises(TrainingError, match="2 steps in a row"):
        trainer.run()
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_has_diverged_ends_with_the_images_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MOST_BAD_STEPS", 3)
    trainer = tiny_trainer(data, tmp_path, validate_every=1000)
    monkeypatch.setattr(trainer, "loss", lambda logits, labels, batch: logits.sum() * math.nan)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"3 steps in a row .* train_\d\.png") as caught:
        trainer.run()
    assert caught.value.code == "training-diverged" and trainer.state.step == 3
    assert_equal(trainer.model.state_dict(), before)
    assert math.isnan(trainer.log.rows[0]["loss"])


def test_a_batch_without_labels_costs_nothing(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path)
    batch = next(trainer.loader.batches(0))
    batch.labels[:] = trainer.labels.ignore_index
    assert trainer.train_step(batch) == 0 and trainer.state.bad_steps == 0
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_bf16_autocast_trains_on_this_machine(data: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = tiny_trainer(data, tmp_path, precision=precision)
        assert trainer.bf16 == (precision == "bf16")
        batch = next(trainer.loader.batches(0))
        before = trainer.model.decoder.state_dict()["classifier.weight"].clone()
        torch.manual_seed(0)
        losses.append(float(trainer.train_step(batch)))
    assert losses[1] == pytest.approx(losses[0], rel=0.01) and losses[1] != losses[0]
    after = trainer.model.decoder.state_dict()["classifier.weight"]
    assert trainer.state.bad_steps == 0 and after.dtype == torch.float32 and not torch.equal(before, after)


def test_a_killed_loader_process_is_an_error_and_no_hang(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, workers=1, epochs=30, validate_every=1000)
    learn, children = trainer.train_step, []

    def murderous(batch: Batch) -> float:
        import multiprocessing

        for child in multiprocessing.active_children():
            if child.pid is not None and "DataLoader" not in child.name:
                children.append(child.pid)
                os.kill(child.pid, signal.SIGKILL)
        return learn(batch)

    trainer.train_step = murderous  # type: ignore[method-assign]
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    assert caught.value.code == "training-worker-died" and children


def test_loader_processes_killed_during_validation_end_the_run_after_its_checkpoint(data: Path, tmp_path: Path) -> None:
    """They live on through the validation, and load the next epoch's first batches meanwhile."""
    trainer = tiny_trainer(data, tmp_path, workers=1, epochs=5)
    validate = trainer.validate

    def murderous(count: int | None = None) -> Metrics:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        return validate(count)

    trainer.validate = murderous  # type: ignore[method-assign]
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    assert caught.value.code == "training-worker-died"
    assert load_checkpoint(tmp_path / "checkpoints")[0]["step"] >= 2


@pytest.mark.parametrize("name", ["setr_naive_nano", "setr_pup_nano", "setr_mla_nano"])
def test_each_auxiliary_head_adds_its_weighted_loss(data: Path, tmp_path: Path, name: str) -> None:
    losses = {}
    for weight in (0.0, 0.4):
        trainer = tiny_trainer(data, tmp_path, model=name, auxiliary_weight=weight, drop_path=0.0, weight_decay=0.0)
        assert bool(len(trainer.model.auxiliary)) == (weight > 0)
        batch = next(trainer.loader.batches(0))
        with torch.no_grad():
            outputs = trainer.model.train()(batch.images, auxiliary=True)
            values = [float(trainer.loss(x, batch.labels)) for x in outputs]
        losses[weight] = float(trainer.train_step(batch))
        assert losses[weight] == pytest.approx(values[0] + weight * sum(values[1:]), rel=1e-5)
    assert losses[0.4] > losses[0.0]


def test_auxiliary_heads_are_neither_averaged_nor_kept(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, model="setr_pup_nano", epochs=1)
    trainer.run()
    assert len(trainer.model.auxiliary) == 4 and trainer.average is not None
    assert not any(key.startswith("auxiliary.") for key in trainer.average.module.state_dict())
    kept = load_folder(tmp_path / "model").network
    assert len(kept.auxiliary) == 0
    assert_equal(dict(kept.state_dict()), dict(trainer.shipped_network().state_dict()))
    state = load_checkpoint(tmp_path / "checkpoints")[0]
    assert any(key.startswith("auxiliary.") for key in state["model"])
    again = tiny_trainer(data, tmp_path, model="setr_pup_nano", epochs=1)
    again.resume()
    assert_equal(dict(again.model.state_dict()), dict(trainer.model.state_dict()))


def test_gradients_are_cut_to_the_largest_norm_and_only_where_one_is_given(data: Path, tmp_path: Path) -> None:
    norms = []
    for limit in (None, 1e-3):
        trainer = tiny_trainer(data, tmp_path, clip_norm=limit)
        trainer.train_step(next(trainer.loader.batches(0)))
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
    assert norms[0] > 1e-2 and norms[1] == pytest.approx(1e-3, rel=1e-2)


# -- choosing the best, stopping early --------------------------------------------------------------------------------


def scores(trainer: Trainer, values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the validations find these mIoU."""
    real = trainer.validate()
    results = iter(values)

    def found() -> Metrics:
        import dataclasses

        return dataclasses.replace(real, mIoU=next(results))

    monkeypatch.setattr(trainer, "validate", found)


def test_the_run_stops_after_so_many_stale_validations_and_keeps_the_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=9, patience=1)
    scores(trainer, [10.0, 30.0, 20.0, 30.0], monkeypatch)
    trainer.run()
    assert [row["mIoU"] for row in trainer.log.rows] == [10, 30, 20, 30]
    assert load_folder(tmp_path / "model").record["step"] == 4
    said = capsys.readouterr().err
    assert "stopping early" in said and said.count("best so far") == 2
    again = tiny_trainer(data, tmp_path, epochs=9, patience=1)
    again.resume()
    again.run()
    assert len(again.log.rows) == 4


def test_only_every_nth_epoch_and_the_last_are_validated(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=3, validate_every=2)
    trainer.run()
    assert ["mIoU" in row for row in trainer.log.rows] == [False, True, True]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_of_so_many_steps_cuts_its_last_epoch_short_and_validates_it(
    data: Path, tmp_path: Path, optimizer: str
) -> None:
    length = {"epochs": None, "steps": 5, "validate_every": 10, "optimizer": optimizer}
    whole = tiny_trainer(data, tmp_path / "whole", **length)
    assert (whole.total_steps, whole.epochs, whole.loader.batches_per_epoch) == (5, 3, 2)
    seen = watch(whole)
    whole.run()
    assert whole.state.step == len(seen) == 5
    assert [row["step"] for row in whole.log.rows] == [2, 4, 5]
    assert ["mIoU" in row for row in whole.log.rows] == [False, False, True]
    # Stopped after the last step of all, with the validation still to do.
    first = tiny_trainer(data, tmp_path / "broken", **length)
    stop_at(first, 5)
    with pytest.raises(SystemExit):
        first.run()
    second = tiny_trainer(data, tmp_path / "broken", **length)
    second.resume()
    later = watch(second)
    second.run()
    assert later == []
    states = [load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "broken")]
    assert_equal(*states)


# -- what a run starts from -------------------------------------------------------------------------------------------


def test_weights_to_start_from_are_taken_over_and_averaged_from_the_start(data: Path, tmp_path: Path) -> None:
    initial = create_model(TINY["segformer_tiny"], 7)
    start = StartingWeights("a segformer_tiny", "segformer_tiny", initial.state_dict())
    trainer = tiny_trainer(data, tmp_path, initial=start, reset_head=True, weights="other")
    for name, value in initial.state_dict().items():
        mine = trainer.model.state_dict()[name]
        if name.startswith("decoder.classifier."):
            assert mine.shape[0] == 3
        else:
            assert torch.equal(mine, value)
    assert trainer.average is not None
    assert_equal(dict(trainer.average.module.state_dict()), dict(trainer.model.state_dict()))


def test_row_42_a_classifier_for_other_classes_is_refused_and_the_way_out_named(data: Path, tmp_path: Path) -> None:
    start = StartingWeights(
        "a segformer_tiny", "segformer_tiny", create_model(TINY["segformer_tiny"], 150).state_dict()
    )
    with pytest.raises(CheckpointError, match="tells 150 classes apart, and the data set has 3") as caught:
        tiny_trainer(data, tmp_path, initial=start, weights="other")
    assert caught.value.code == "checkpoint-classes" and "--reset-head" in caught.value.fix


def test_row_43_weights_of_another_architecture_are_refused_and_named(data: Path, tmp_path: Path) -> None:
    start = StartingWeights("a segformer_b0", "segformer_b0", create_model("segformer_b0", 3).state_dict())
    with pytest.raises(CheckpointError, match="other is not a segformer_tiny: it is a segformer_b0") as caught:
        tiny_trainer(data, tmp_path, initial=start, weights="other")
    assert caught.value.code == "checkpoint-architecture"


def test_an_encoder_alone_is_taken_over_under_a_random_decoder(data: Path, tmp_path: Path) -> None:
    initial = create_model(TINY["segformer_tiny"], 7).encoder.state_dict(prefix="encoder.")
    trainer = tiny_trainer(
        data, tmp_path, initial=StartingWeights("an encoder", "segformer_tiny", initial), weights="other"
    )
    assert_equal({key: trainer.model.state_dict()[key] for key in initial}, initial)


def test_held_out_images_are_validated_on_and_not_learnt_from(data: Path) -> None:
    train, val = open_splits(tiny_recipe(holdout=("train_1", "*_3")).data, data)
    assert [sample.name for sample in val.samples] == ["train_1", "train_3"] and val.split == "holdout"
    assert [sample.name for sample in train.samples] == ["train_0", "train_2", "train_4"]
    for patterns, share in ((("nothing*",), "0 of the 5"), (("*",), "5 of the 5")):
        with pytest.raises(TrainingError, match=share) as caught:
            open_splits(tiny_recipe(holdout=patterns).data, data)
        assert caught.value.code == "training-holdout"


def test_the_pixels_of_each_class_are_counted_before_training(data: Path, tmp_path: Path) -> None:
    train, _ = open_splits(tiny_recipe().data, data)
    masks = [train.read(place)[1] for place in range(len(train))]
    assert labelled_pixels(train).tolist() == [[(mask == k).sum() for k in range(3)] for mask in masks]
    root = make_data(tmp_path / "tiles", train=2, val=2)
    for mask in (root / "val/masks").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(mask)
    with pytest.raises(DatasetError, match="every pixel of every mask of val is ignored"):
        labelled_pixels(open_splits(tiny_recipe().data, root)[1])


def test_the_papers_recipe_has_the_papers_steps() -> None:
    names = [type(step).__name__ for step in tiny_recipe().augment]
    assert names == ["RandomResize", "RandomCrop", "RandomFlip", "PhotometricDistortion"]
    more = tiny_recipe(rotate=5.0, gamma=0.1, gray=0.1, blur=0.1).augment
    assert [type(step).__name__ for step in more] == [
        "RandomResize", "RandomRotate", "RandomCrop", "RandomFlip", "PhotometricDistortion",
        "RandomGamma", "RandomGray", "RandomBlur",
    ]  # fmt: skip
