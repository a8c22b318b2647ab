"""The moving average follows the model at the stated rate, buffers included, and is never trained itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from terrazzo.training.ema import WeightAverage, move_by

TAKEN = torch.tensor(True)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_starts_as_a_frozen_copy_in_evaluation_mode() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), model.parameters(), strict=True))
    assert not average.module.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    # The model itself is left as it was.
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert not torch.equal(average.module[0].weight, model[0].weight)


@pytest.mark.parametrize("decay", [0.999, 0.3, 0.0])
def test_follows_the_formula(decay: float) -> None:
    model = small_model()
    average = WeightAverage(model, decay)
    expected = {key: value.double().clone() for key, value in model.state_dict().items()}
    for n in range(1, 31):
        model(torch.randn(5, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, TAKEN)
        kept = min(decay, (1 + n) / (10 + n))
        for key, value in model.state_dict().items():
            expected[key] = kept * expected[key] + (1 - kept) * value.double()
    for key, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)
    assert average.updates == 30


def test_decay_rises_to_the_one_asked_for() -> None:
    """After n updates towards a constant the distance is the product of the shares kept."""
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        start = model.weight.item()
        model.weight.add_(1.0)
    distance = 1.0
    for n in range(1, 15):
        average.update(model, TAKEN)
        distance *= min(0.5, (1 + n) / (10 + n))
        assert start + 1 - average.module.weight.item() == pytest.approx(distance, abs=1e-5)


def test_buffers_follow_and_counters_are_copied() -> None:
    model = small_model().train()
    average = WeightAverage(model, 0.0)
    for _ in range(3):
        model(torch.randn(8, 3) + 7)
    average.update(model, TAKEN)
    assert average.module[1].num_batches_tracked.item() == 3
    torch.testing.assert_close(average.module[1].running_mean, model[1].running_mean)
    torch.testing.assert_close(average.module[1].running_var, model[1].running_var)


def test_an_update_leaves_the_model_and_its_gradients_alone() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    model(torch.randn(4, 3)).sum().backward()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    average.update(model, TAKEN)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in average.module.parameters())


def test_it_is_its_module_that_resumes() -> None:
    """The state of the average is a state dict of the model's own layout and the number of updates."""
    model = small_model()
    average = WeightAverage(model, 0.9)
    assert average.module.state_dict().keys() == model.state_dict().keys()


def test_a_step_that_was_not_taken_moves_nothing() -> None:
    model = small_model()
    average = WeightAverage(model, 0.9)
    before = {key: value.clone() for key, value in average.module.state_dict().items()}
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update(model, torch.tensor(False))
    assert average.updates == 0
    assert all(torch.equal(value, before[key]) for key, value in average.module.state_dict().items())


def test_a_share_that_only_the_device_knows_moves_tensors_as_far() -> None:
    ours, theirs = [torch.zeros(3), torch.ones(2, 2)], [torch.full((3,), 4.0), torch.full((2, 2), -1.0)]
    move_by(ours, theirs, 0.25 * TAKEN)
    assert ours[0].tolist() == [1.0, 1.0, 1.0] and torch.equal(ours[1], torch.full((2, 2), 0.5))
    move_by(ours, theirs, 0.25 * torch.tensor(False))
    assert ours[0].tolist() == [1.0, 1.0, 1.0]
