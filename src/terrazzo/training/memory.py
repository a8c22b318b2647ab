"""Estimate of a training step's memory, made before the first step.

A fake-tensor pass (PyTorch's FakeTensorMode: shapes, types and devices without content) runs one step while the bytes
of all live tensors are added up: gradients, what the backward pass needs, and what each operation makes in passing. It
takes a moment and no memory. It does not see the working space inside an operation (convolutions, mostly), nor what an
allocator holds without need, nor what PyTorch itself takes before any training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from terrazzo.costs import LiveTensors
from terrazzo.models import Segmenter
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.distillation import distillation

__all__ = ["Memory", "StepMemory", "estimate_step_memory", "memory_of"]


@dataclass(frozen=True)
class StepMemory:
    """Bytes that training takes.

    Attributes:
        weights: parameters, buffers, the weight average, and what the optimiser keeps of each parameter.
        gradients: of all parameters.
        step: at the peak of a step: images, inner tensors, gradients.
        batch: images in the step.
    """

    weights: int
    gradients: int
    step: int
    batch: int

    @property
    def total(self) -> int:
        """At the peak of a step."""
        return self.weights + self.step

    def with_batch(self, batch: int) -> int:
        """Return the total for another number of images: all but the gradients grows with it."""
        return self.weights + self.gradients + (self.step - self.gradients) * batch // self.batch


def estimate_step_memory(
    model: Segmenter,
    batch: int,
    crop: tuple[int, int],
    *,
    loss: CombinedLoss,
    optimizer_states: int,
    has_average: bool,
    bf16: bool,
    ranks: int = 1,
    recompute_blocks: bool = False,
    teacher: Segmenter | None = None,
    unlabelled: int = 0,
    sharded: bool = False,
) -> StepMemory:
    """Run a step of a copy of the model whose tensors are fake.

    Args:
        model: what is to be trained, on the device where it is to be trained.
        batch: images in a step of this process.
        crop: their height and width.
        loss: what is minimised.
        optimizer_states: tensors that the optimiser keeps for each parameter.
        has_average: whether a second copy of the weights is kept.
        bf16: whether the forward pass is under autocast.
        ranks: how many processes share their gradients.
        recompute_blocks: count as if the encoder's blocks were computed again in the backward pass.
        teacher: a second network, whose logits are learnt from.
        unlabelled: images without masks in the same step.
        sharded: whether the processes share the parameters out, and what belongs to them.
    """
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    kept = weights * (1 + has_average) + trained * optimizer_states
    if teacher is not None:
        kept += sum(tensor.nbytes for tensor in [*teacher.parameters(), *teacher.buffers()])
    # With several ranks, gradients are there a second time, in the buckets that they travel in.
    gradients = trained if ranks == 1 else 2 * trained
    if sharded:  # of one block they are whole for a moment, and one whole network is there to be validated
        kept, gradients = kept // ranks + weights, trained // ranks
    peak = _peak_of_step(model, batch, crop, loss, bf16, recompute_blocks, teacher, unlabelled) + gradients - trained
    return StepMemory(kept, gradients, max(peak, gradients), batch)


def _peak_of_step(
    model: Segmenter,
    batch: int,
    crop: tuple[int, int],
    loss: CombinedLoss,
    bf16: bool,
    recompute_blocks: bool,
    teacher: Segmenter | None,
    unlabelled: int,
) -> int:
    device = next(model.parameters()).device
    with FakeTensorMode(allow_non_fake_inputs=True) as without_content:

        def fake(network: Segmenter) -> Segmenter:
            tensors = [*network.parameters(), *network.buffers()]
            return copy.deepcopy(network, {id(tensor): without_content.from_tensor(tensor) for tensor in tensors})

        network = fake(model).train()
        # Without gradients by their parameters: some layers keep results by their place in memory, which is none here.
        its_teacher = None if teacher is None else fake(teacher).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.SyncBatchNorm):
                # Which takes as much, and talks to no other process.
                module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        if recompute_blocks:
            encoder: Any = network.encoder
            encoder.recompute_blocks()

        def learn(images: Tensor, labels: Tensor, auxiliary: bool) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = network(images, auxiliary=True) if auxiliary else [network(images)]
            total = torch.zeros((), device=device)
            for logits in outputs:
                total = total + loss.rehearse(logits, labels)
            if its_teacher is not None:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    theirs = its_teacher(images)
                total = total + distillation(outputs[0], theirs[:, : outputs[0].shape[1]], 1.0)
            del outputs, logits
            total.backward()  # type: ignore[no-untyped-call]

        with LiveTensors() as tensors_of_step, _FusedAttention():
            images = torch.empty(batch, model.in_channels, *crop, device=device)
            labels = torch.empty(batch, *crop, dtype=torch.int64, device=device)
            if unlabelled:  # the average's look at the weak views is over by then, and takes less
                _, strong = torch.empty(2, unlabelled, model.in_channels, *crop, device=device)
                learn(strong, torch.empty(unlabelled, *crop, dtype=torch.int64, device=device), False)
            learn(images, labels, True)
    peak: int = tensors_of_step.peak
    return peak


class _FusedAttention(TorchFunctionMode):
    """Has attention computed by the kernel that a device will use, which keeps no attention matrix.

    Without content PyTorch would take the one that works everywhere and keeps it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = args[:3]
        mask = kwargs.get("attn_mask")
        if q.device.type == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)[0]
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]


@dataclass(frozen=True)
class Memory:
    """Bytes that a device has.

    Attributes:
        free: what a process could take now.
        total: what there is, swap included.
    """

    free: int
    total: int


def memory_of(device: torch.device) -> Memory | None:
    """Ask a GPU, or a Linux machine and the control group that this process is in; None where nothing answers."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    free = (kilobytes["MemAvailable"] + kilobytes["SwapFree"]) * 1024
    total = (kilobytes["MemTotal"] + kilobytes["SwapTotal"]) * 1024
    limit, used = _control_group()
    if limit is not None:
        free, total = min(free, limit - used), min(total, limit)
    return Memory(max(free, 0), total)


def _control_group() -> tuple[int | None, int]:
    """Return the memory limit and use of this process's control group, where it is in one that has a limit."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            version_1 = "memory" in controllers.split(",")
            if not version_1 and controllers:
                continue
            root = Path("/sys/fs/cgroup/memory" if version_1 else "/sys/fs/cgroup")
            limit_file, use_file = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if version_1 else ("memory.max", "memory.current")
            )
            # Inside a container the group's own path may not be there, and the root is the group.
            for folder in (root / name.lstrip("/"), root):
                if (folder / limit_file).exists() and (limit := (folder / limit_file).read_text().strip()) != "max":
                    return int(limit), int((folder / use_file).read_text())
    except (OSError, ValueError):
        pass
    return None, 0
