"""One training step of SegFormer-B0, ours beside transformers' with the same weights, and the memory each takes.

    python benchmarks/training_step.py [--rounds 3] [--write]

Batch 8, float32, forward, loss at label resolution and backward; no optimiser step, which both would share. Speed is
one thread's CPU time. Peak memory is the process's largest resident size over its size after building the model, each
side in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from measure import alternate, header, publish, table
from peers import build_pair
from terrazzo.engines.torch import keep_freed_memory
from terrazzo.training.losses import upsampled_cross_entropy

BATCH, CLASSES = 8, 11
SIZES = ((360, 480), (320, 320))


def steps(height: int, width: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return one training step of each side on the same batch."""
    ours, peer = build_pair("segformer_b0", CLASSES)
    ours.train()
    peer.train()
    images = torch.randn(BATCH, 3, height, width)
    labels = torch.randint(0, CLASSES, (BATCH, height, width))

    def our_step() -> None:
        ours.zero_grad()
        upsampled_cross_entropy(ours(images), labels, 255).backward()

    def their_step() -> None:
        peer.zero_grad()
        peer(pixel_values=images, labels=labels).loss.backward()

    return our_step, their_step


def measure_peak(side: int, size: tuple[int, int], result: Connection) -> None:
    """Send the peak memory in MB that two steps add to a fresh process."""
    torch.set_num_threads(1)
    if side == 0:
        keep_freed_memory()  # what `terrazzo train` does
    step = steps(*size)[side]
    before = resident_mb("VmRSS")
    step()
    step()
    result.send(resident_mb("VmHWM") - before)


def resident_mb(field: str) -> float:
    """Read this process's memory; getrusage would include what the parent process once used."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    spawn = multiprocessing.get_context("spawn")
    rows = []
    for size in SIZES:
        peaks = []
        for side in (0, 1):
            receiving, sending = spawn.Pipe(duplex=False)
            process = spawn.Process(target=measure_peak, args=(side, size, sending))
            process.start()
            peaks.append(receiving.recv())
            process.join()
        torch.set_num_threads(1)
        keep_freed_memory()
        ours, theirs = alternate(steps(*size), options.rounds)
        rows.append(
            [
                f"{size[0]} x {size[1]}",
                f"{BATCH / ours.median:.2f}",
                f"{BATCH / theirs.median:.2f}",
                f"{theirs.median / ours.median:.2f}",
                f"{peaks[0]:.0f}",
                f"{peaks[1]:.0f}",
                f"{peaks[0] / peaks[1]:.2f}",
            ]
        )
    title = f"A training step of SegFormer-B0, batch {BATCH}, {CLASSES} classes, float32"
    columns = [
        "photos", "ours, images/s", "transformers, images/s", "ratio", "our peak, MB", "their peak, MB", "ratio",
    ]  # fmt: skip
    text = header(title, "python benchmarks/training_step.py --write") + table(columns, rows)
    publish("training_step", text, options.write)


if __name__ == "__main__":
    main()
