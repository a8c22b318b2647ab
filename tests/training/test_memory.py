"""The estimate of a step's memory: what it counts, what it says, and that it disturbs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TINY, tiny_trainer
from torch import Tensor, nn

from terrazzo.errors import TrainingError
from terrazzo.models.segmenter import Segmenter
from terrazzo.training import memory_plan as memory_plan_module
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.cross_entropy import CrossEntropy, upsampled_cross_entropy
from terrazzo.training.memory import Memory, StepMemory, estimate_step_memory, memory_of
from terrazzo.training.memory_plan import MemoryPlan, memory_plan
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model

LOSS = CombinedLoss([CrossEntropy()], torch.ones(8), 255, torch.device("cpu"))
PLAIN: dict[str, Any] = {"loss": LOSS, "optimizer_states": 0, "has_average": False, "bf16": False}


class OneLayer(nn.Module):
    """A decoder whose memory can be counted by hand: (B, 3, H, W) to (B, K, H, W)."""

    num_classes = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 8, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.layer(features[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return logits


class Nothing(nn.Module):
    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        return [images_B3HW]


def test_of_one_layer_the_bytes_are_those_counted_by_hand() -> None:
    network = Segmenter(Nothing(), OneLayer())
    weights = 3 * 8 * 4
    estimate = estimate_step_memory(
        network, 2, (64, 64), loss=LOSS, optimizer_states=2, has_average=True, bf16=False, ranks=1
    )
    assert estimate.weights == weights * 4 and estimate.gradients == weights
    pixels = 2 * 64 * 64
    photos, labels, logits = pixels * 3 * 4, pixels * 8, pixels * 8 * 4
    # Photos twice (as given, channels-last), labels; logits, their copy in the loss, its gradient, and one strip's
    # worth of upsampled logits a few times over: all of them here.
    least, most = 2 * photos + labels + 5 * logits, 2 * photos + labels + 8 * logits
    assert least < estimate.step < most
    shared = estimate_step_memory(network, 2, (64, 64), **PLAIN, ranks=2)
    assert shared.gradients == 2 * weights and shared.step == estimate.step + weights


def peak_of_a_real_step(network: Segmenter, batch: int, crop: tuple[int, int]) -> int:
    """The bytes of all tensors alive at the same time, as PyTorch's profiler saw them come and go."""
    images, labels = torch.randn(batch, 3, *crop), torch.zeros(batch, *crop, dtype=torch.int64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        outputs = network.train()(images, auxiliary=True)
        total = sum(upsampled_cross_entropy(logits, labels, 255) for logits in outputs)
        del outputs
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
    live = peak = images.nbytes + labels.nbytes
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("model", "checkpointing"),
    [("segformer_tiny", False), ("segformer_tiny", True), ("setr_naive_nano", False), ("setr_naive_nano", True)],
)
def test_the_estimate_is_close_to_what_a_real_step_allocates(model: str, checkpointing: bool) -> None:
    network = create_model(TINY[model], 5, image_size=(64, 96))
    estimate = estimate_step_memory(network, 3, (64, 96), **PLAIN, recompute_blocks=checkpointing)
    if checkpointing:
        encoder: Any = network.encoder
        encoder.recompute_blocks()
        assert estimate == estimate_step_memory(network, 3, (64, 96), **PLAIN)
    assert estimate.step == pytest.approx(peak_of_a_real_step(network, 3, (64, 96)), rel=0.1)


def test_half_precision_and_smaller_batches_take_less() -> None:
    network = create_model(TINY["segformer_tiny"], 5)
    whole = estimate_step_memory(network, 8, (64, 64), **PLAIN)
    assert estimate_step_memory(network, 8, (64, 64), **{**PLAIN, "bf16": True}).step < 0.9 * whole.step
    half = estimate_step_memory(network, 4, (64, 64), **PLAIN)
    assert whole.with_batch(4) == pytest.approx(half.total, rel=0.1)
    assert whole.with_batch(8) == whole.total


def planned(trainer: Trainer) -> MemoryPlan:
    return memory_plan(trainer.model, trainer.recipe, trainer.loss, trainer.ranks)


def test_the_estimate_changes_neither_the_model_nor_the_random_numbers(data: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(data, tmp_path, model="setr_pup_nano")
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    generator = torch.get_rng_state()
    (line,) = planned(trainer).lines
    assert line.startswith("memory    about ") and line.endswith(" free")
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.train_step(next(trainer.loader.batches(0)))


@pytest.mark.parametrize(
    ("free", "total", "lines", "plenty"),
    [(10**12, 10**12, 1, True), (5 * 10**9, 10**12, 1, False), (25 * 10**8, 3 * 10**9, 2, False)],
)
def test_what_is_free_decides_between_silence_and_a_warning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, total: int, lines: int, plenty: bool
) -> None:
    monkeypatch.setattr(memory_plan_module, "step_memory", estimated)
    monkeypatch.setattr(memory_plan_module, "memory_of", lambda device: Memory(free, total))
    plan = planned(tiny_trainer(data, tmp_path))
    assert len(plan.lines) == lines and plan.plenty == plenty
    assert plan.lines[0].startswith("memory    about 3.5 GB for training, ")
    if lines == 2:
        assert plan.lines[1] == (
            "warning   that may not be enough: add --checkpointing (about 2.0 GB less), lower --batch-size to 1, "
            "or choose a smaller --crop"
        )


def estimated(*_: object, recompute_blocks: bool = False) -> StepMemory:
    step = 10**9 if recompute_blocks else 3 * 10**9
    return StepMemory(weights=2 * 10**8, gradients=10**8, step=step, batch=2)


def test_what_can_never_fit_is_refused_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan_module, "step_memory", estimated)
    monkeypatch.setattr(memory_plan_module, "memory_of", lambda device: Memory(25 * 10**8, 25 * 10**8))
    with pytest.raises(TrainingError, match=r"needs about 3\.5 GB, and this machine has 2\.5 GB in all") as caught:
        planned(tiny_trainer(data, tmp_path))
    assert caught.value.code == "training-memory"
    assert caught.value.fix.startswith("add --checkpointing (about 2.0 GB less), lower --batch-size to 1")


def test_without_an_estimate_or_an_answer_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(data, tmp_path)
    monkeypatch.setattr(memory_plan_module, "step_memory", estimated)
    monkeypatch.setattr(memory_plan_module, "memory_of", lambda device: None)
    assert planned(trainer).lines == ["memory    about 3.5 GB for training"]

    def strange(*_: object) -> StepMemory:
        raise NotImplementedError("an operation\nwithout shapes")

    monkeypatch.setattr(memory_plan_module, "step_memory", strange)
    assert planned(trainer).lines == [
        "memory    not known beforehand (NotImplementedError: an operation without shapes)"
    ]


def test_this_machine_says_what_it_has() -> None:
    memory = memory_of(torch.device("cpu"))
    if not Path("/proc/meminfo").exists():
        assert memory is None
    else:
        assert memory is not None and 0 < memory.free <= memory.total


def test_recipes_of_optimisers_count_their_states(data: Path, tmp_path: Path) -> None:
    sizes = {}
    for optimizer, momentum in (("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)):
        trainer = tiny_trainer(data, tmp_path, optimizer=optimizer, momentum=momentum)
        estimate = memory_plan_module.step_memory(trainer.model, trainer.recipe, trainer.loss, trainer.ranks)
        sizes[optimizer, momentum] = estimate.weights
        assert estimate.batch == 2
    parameters = sum(parameter.nbytes for parameter in trainer.model.parameters())
    assert sizes["adamw", 0.9] - sizes["sgd", 0.9] == sizes["sgd", 0.9] - sizes["sgd", 0.0] == parameters
