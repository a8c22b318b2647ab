"""Every number of a training step, worked out by hand beside the trainer's own: rate, gradient, weights and average.

A run validates and ships the average of the weights. An update that is left out, a rate that is not set or gradients
that are not clipped lose accuracy and raise no error, so each is followed here step by step, from weights captured
before and after.
"""

from __future__ import annotations

import copy
import csv
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_trainer
from torch import Tensor

from terrazzo.data.loaders import Batch
from terrazzo.training.losses.cross_entropy import CrossEntropy, upsampled_cross_entropy
from terrazzo.training.trainer import Trainer
from terrazzo.weights.files import load_folder

State = dict[str, Tensor]


def cloned(state: State) -> State:
    return {key: value.detach().clone() for key, value in state.items()}


@dataclass
class Followed:
    """A run, followed step by step.

    Attributes:
        states: the weights before the first step and after each.
        averages: the moving average likewise.
        rates: of each step, the rates of the optimiser's three groups.
        gradients: of each step, the gradients that the optimiser was given.
        free: of each step, the gradients of its loss, computed beside the trainer and not clipped.
    """

    states: list[State] = field(default_factory=list)
    averages: list[State] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    gradients: list[State] = field(default_factory=list)
    free: list[State] = field(default_factory=list)


def free_gradients(trainer: Trainer, batch: Batch) -> State:
    """Return the gradients of a batch's loss on a copy of the network; draws the numbers that the step will draw."""
    model = copy.deepcopy(trainer.model).train()
    model.zero_grad()
    random = torch.get_rng_state()
    logits, *auxiliary = model(batch.images, auxiliary=True)

    def loss(logits: Tensor) -> Tensor:
        (row,), (class_weights_K,) = trainer.recipe.loss, trainer.loss.class_weights
        assert isinstance(row, CrossEntropy)
        return upsampled_cross_entropy(logits, batch.labels, 255, class_weights_K, row.normalize_by)

    total = loss(logits)
    for logits in auxiliary:
        total = total + trainer.recipe.model.auxiliary_weight * loss(logits)
    total.backward()
    torch.set_rng_state(random)
    return cloned({name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def follow(trainer: Trainer, steps: int) -> Followed:
    """Take some steps, over as many epochs as that takes."""
    followed = Followed()

    def note_state() -> None:
        followed.states.append(cloned(trainer.model.state_dict()))
        if trainer.average is not None:
            followed.averages.append(cloned(trainer.average.module.state_dict()))

    note_state()
    epoch = 0
    while trainer.state.step < steps:
        for batch in trainer.loader.batches(epoch):
            followed.free.append(free_gradients(trainer, batch))
            assert math.isfinite(trainer.train_step(batch))
            parameters = trainer.model.named_parameters()
            followed.gradients.append(cloned({name: p.grad for name, p in parameters if p.grad is not None}))
            followed.rates.append([float(group["lr"]) for group in trainer.optimizer.param_groups])
            note_state()
        epoch += 1
    assert trainer.state.step == steps == len(followed.rates)
    return followed


# -- the average ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.999, 0.4])
def test_the_average_moves_at_every_step_as_its_formula_says(data: Path, tmp_path: Path, decay: float) -> None:
    """After update n it keeps min(decay, (1 + n) / (10 + n)) of itself: 2/11, 3/12, 4/13, 5/14, 6/15, 7/16, ..."""
    trainer = tiny_trainer(data, tmp_path, epochs=4, ema_decay=decay, lr=0.01)
    followed = follow(trainer, 8)
    kept = [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 9 / 18]
    if decay == 0.4:
        kept = [2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4, 0.4, 0.4]
    expected = {key: value.double() for key, value in followed.states[0].items()}
    for key, value in followed.averages[0].items():
        assert torch.equal(value, followed.states[0][key]), key
    for share, state, average in zip(kept, followed.states[1:], followed.averages[1:], strict=True):
        for key, value in state.items():
            if not value.is_floating_point():
                assert torch.equal(average[key], value), key
                continue
            expected[key] = share * expected[key] + (1 - share) * value.double()
            torch.testing.assert_close(average[key].double(), expected[key], rtol=1e-5, atol=1e-6, msg=key)
    # That was not a comparison of equal things: all that learns has moved, and the average lags behind it.
    first, last = followed.states[0], followed.states[-1]
    learnt = [name for name, _ in trainer.model.named_parameters() if not torch.equal(first[name], last[name])]
    assert len(learnt) > 0.9 * len(list(trainer.model.parameters()))  # windows this small have a query without rivals
    for name in learnt:
        assert not torch.equal(followed.averages[-1][name], first[name]), name
        assert not torch.equal(followed.averages[-1][name], last[name]), name


def test_what_a_run_keeps_is_its_average(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=1, lr=0.01)
    trainer.run()
    assert trainer.average is not None
    kept, average = load_folder(tmp_path / "model").network.state_dict(), trainer.average.module.state_dict()
    last = trainer.model.state_dict()
    assert kept.keys() == average.keys()
    assert all(torch.equal(kept[key], average[key]) for key in kept)
    assert not torch.equal(kept["decoder.classifier.weight"], last["decoder.classifier.weight"])
    # Two updates: 2/11 and then 3/12 were kept of the start, and so 1/22 of it is left.
    assert trainer.average.updates == 2


def test_without_a_decay_a_run_keeps_the_weights_themselves(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=1, ema_decay=None)
    trainer.run()
    kept, last = load_folder(tmp_path / "model").network.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(kept[key], last[key]) for key in kept)


# -- rate, gradient, weights ------------------------------------------------------------------------------------------

LINEAR = [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
WARM = [0.1, 0.4, 0.7, 1.0, 1.0, 1.0, 1.0, 1.0]
"""1 - (1 - t / 3)(1 - 0.1) of the first three steps."""


@pytest.mark.parametrize("power", [1.0, 0.9])
def test_every_step_has_the_rate_of_its_place_in_the_run(data: Path, tmp_path: Path, power: float) -> None:
    """Eight steps, three of them warm-up, from 0.02 to 0.001; the decoder learns ten times as fast."""
    changes = {"lr": 0.02, "min_lr": 0.001, "power": power, "warmup_steps": 3, "warmup_ratio": 0.1}
    trainer = tiny_trainer(data, tmp_path, epochs=4, optimizer="sgd", decoder_lr_factor=10.0, **changes)
    followed = follow(trainer, 8)
    for left, warm, (encoder, norms, decoder) in zip(LINEAR, WARM, followed.rates, strict=True):
        factor = left**power * warm
        assert encoder == norms == pytest.approx(0.001 + 0.019 * factor, rel=1e-9)
        assert decoder == pytest.approx(0.001 + 0.199 * factor, rel=1e-9)


def test_the_log_has_the_rate_of_the_last_step(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, epochs=2, lr=0.02, warmup_steps=0)
    trainer.run()
    with (tmp_path / "log.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.02 * 3 / 4, 0.02 * 1 / 4])


def is_decoders(name: str) -> bool:
    return name.startswith(("decoder.", "auxiliary."))


def norm_of(gradients: State) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))


@pytest.mark.parametrize("clip", [None, 0.05, 1e6])
def test_a_step_of_sgd_by_hand(data: Path, tmp_path: Path, clip: float | None) -> None:
    """w - rate (g + decay w), g no longer than `clip_norm`, and of this batch alone; norms do not decay."""
    changes = {"lr": 0.01, "decoder_lr_factor": 3.0, "weight_decay": 0.1, "momentum": 0.0, "ema_decay": None}
    trainer = tiny_trainer(data, tmp_path, optimizer="sgd", clip_norm=clip, warmup_steps=0, **changes)
    followed = follow(trainer, 4)
    for step, (free, gradients) in enumerate(zip(followed.free, followed.gradients, strict=True)):
        length = norm_of(free)
        assert length > 0.1
        share = min(1.0, clip / length) if clip is not None else 1.0
        assert norm_of(gradients) == pytest.approx(share * length, rel=1e-4)
        factor = LINEAR[2 * step]
        for name, before in followed.states[step].items():
            if name not in free:
                continue
            torch.testing.assert_close(gradients[name], share * free[name], rtol=1e-3, atol=1e-6, msg=name)
            # LayerNorms are the encoder's only one-dimensional weights.
            is_norm = not is_decoders(name) and "norm" in name
            decay = 0.0 if is_norm else 0.1 * before
            rate = (0.03 if is_decoders(name) else 0.01) * factor
            expected = before - rate * (share * free[name] + decay)
            torch.testing.assert_close(followed.states[step + 1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_momentum_carries_on_from_step_to_step(data: Path, tmp_path: Path) -> None:
    """SGD's velocity: v = 0.9 v + g, w = w - rate v."""
    changes = {"lr": 0.01, "weight_decay": 0.0, "momentum": 0.9, "decoder_lr_factor": 1.0, "ema_decay": None}
    trainer = tiny_trainer(data, tmp_path, optimizer="sgd", clip_norm=None, warmup_steps=0, **changes)
    followed = follow(trainer, 4)
    name = "decoder.fuse.weight"
    velocity = torch.zeros_like(followed.states[0][name])
    for step, gradients in enumerate(followed.gradients):
        velocity = 0.9 * velocity + gradients[name]
        expected = followed.states[step][name] - 0.01 * LINEAR[2 * step] * velocity
        torch.testing.assert_close(followed.states[step + 1][name], expected, rtol=1e-4, atol=1e-6)


def test_a_step_of_adamw_by_hand(data: Path, tmp_path: Path) -> None:
    """Both means with their bias taken out; the decay acts on the weights themselves (arXiv 1711.05101)."""
    trainer = tiny_trainer(data, tmp_path, lr=0.01, weight_decay=0.1, momentum=0.8, warmup_steps=0, ema_decay=None)
    followed = follow(trainer, 4)
    for name, decay in (("decoder.fuse.weight", 0.1), ("encoder.stages.0.norm.weight", 0.0)):
        first = second = torch.zeros_like(followed.states[0][name])
        for step, gradients in enumerate(followed.gradients):
            g, before, t, rate = gradients[name], followed.states[step][name], step + 1, 0.01 * LINEAR[2 * step]
            first, second = 0.8 * first + 0.2 * g, 0.999 * second + 0.001 * g * g
            moved = (first / (1 - 0.8**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
            expected = before - rate * decay * before - rate * moved
            torch.testing.assert_close(followed.states[step + 1][name], expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["setr_naive_nano", "setr_mla_nano"])
def test_the_gradients_of_auxiliary_heads_are_added(data: Path, tmp_path: Path, name: str) -> None:
    trainer = tiny_trainer(data, tmp_path, model=name, epochs=1, clip_norm=None, auxiliary_weight=0.4)
    followed = follow(trainer, 2)
    for free, gradients in zip(followed.free, followed.gradients, strict=True):
        assert free.keys() == gradients.keys()
        for key, value in free.items():
            torch.testing.assert_close(gradients[key], value, rtol=1e-3, atol=1e-5, msg=key)
