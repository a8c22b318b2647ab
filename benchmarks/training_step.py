"""Training steps of SegFormer, ours beside transformers' with the same weights: speed and peak memory.

    python benchmarks/training_step.py [--rounds 2] [--write]

A step is forward, loss at label resolution and backward in float32, without the optimiser's step, which would be the
same on both sides. Each side is a process of its own, and they take turns. Speed is by one thread's CPU time. Peak
memory is the growth of a process's largest resident size after building the model. `kept`: the C library does not
return freed memory to the system, which `terrazzo train` asks for if there is plenty. `estimated` is of the tensors
alone; on a CPU, `terrazzo train` adds 300 MB to it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from measure import Times, header, publish, table
from peers import build_pair
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.cross_entropy import CrossEntropy, upsampled_cross_entropy
from terrazzo.training.memory import estimate_step_memory
from terrazzo.weights.create import create_model

LOSS = CombinedLoss([CrossEntropy()], torch.ones(1), 255, torch.device("cpu"))


@dataclass(frozen=True)
class Workload:
    """A model and its batches."""

    model: str
    batch: int
    height: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.model}, {self.batch} of {self.height} x {self.width}, {self.classes} classes"


WORKLOADS = (Workload("segformer_b0", 8, 360, 480, 11), Workload("segformer_b2", 2, 512, 512, 150))
SIDES = ("transformers", "ours", "ours, kept", "ours, checkpointing")


def step_of(side: str, work: Workload) -> Callable[[], None]:
    """Return one training step of a side."""
    ours, peer = build_pair(work.model, work.classes)
    images = torch.randn(work.batch, 3, work.height, work.width)
    labels = torch.randint(0, work.classes, (work.batch, work.height, work.width))
    if side == "transformers":
        peer.train()

        def their_step() -> None:
            peer.zero_grad()
            peer(pixel_values=images, labels=labels).loss.backward()

        return their_step
    ours.train()
    if side == "ours, checkpointing":
        encoder: Any = ours.encoder
        encoder.recompute_blocks()

    def our_step() -> None:
        ours.zero_grad()
        upsampled_cross_entropy(ours(images), labels, 255).backward()

    return our_step


def take_turns(side: str, work: Workload, calls: Connection) -> None:
    """Take a step for each request, in a process of its own; answer with its CPU seconds and the peak so far in MB."""
    torch.set_num_threads(1)
    if side == "ours, kept":
        keep_freed_memory()
    step = step_of(side, work)
    before = resident_mb("VmRSS")
    while calls.recv():
        started = time.process_time()
        step()
        calls.send((time.process_time() - started, resident_mb("VmHWM") - before))


def resident_mb(field: str) -> float:
    """Return this process's memory in MB; getrusage would include what the parent process once used."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(kilobytes) * 1024 / 1e6


def measure(work: Workload, rounds: int) -> dict[str, tuple[Times, float]]:
    """Return the steps' times and the peak memory of each side."""
    spawn = multiprocessing.get_context("spawn")
    lines = {}
    for side in SIDES:
        mine, theirs = spawn.Pipe()
        process = spawn.Process(target=take_turns, args=(side, work, theirs))
        process.start()
        lines[side] = mine, process
    answers: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds + 1):
        for side, (mine, _) in lines.items():
            mine.send(True)
            answers[side].append(mine.recv())
    for mine, process in lines.values():
        mine.send(False)
        process.join()
    return {side: (Times(tuple(seconds for seconds, _ in given[1:])), given[-1][1]) for side, given in answers.items()}


def estimated_mb(side: str, work: Workload) -> str:
    """Return the estimate that `terrazzo train` would print for such a step."""
    if side not in ("ours", "ours, checkpointing"):
        return ""
    estimate = estimate_step_memory(
        create_model(work.model, work.classes), work.batch, (work.height, work.width), loss=LOSS,
        optimizer_states=0, has_average=False, bf16=False, recompute_blocks=side == "ours, checkpointing",
    )  # fmt: skip
    return f"{estimate.step / 1e6:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    rows = []
    for work in WORKLOADS:
        results = measure(work, options.rounds)
        their_times, their_peak = results["transformers"]
        for side, (times, peak) in results.items():
            rows.append(
                [
                    work,
                    side,
                    f"{work.batch / times.median:.2f}",
                    f"{their_times.median / times.median:.2f}",
                    f"{peak:.0f}",
                    f"{peak / their_peak:.2f}",
                    estimated_mb(side, work),
                ]
            )
    columns = ["step", "side", "images/s", "ratio", "peak, MB", "ratio", "estimated, MB"]
    text = header("Training steps, float32", "python benchmarks/training_step.py --write") + table(columns, rows)
    publish("training_step", text, options.write)


if __name__ == "__main__":
    main()
