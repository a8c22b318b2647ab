"""Bytes that training sends in a step: two processes with averaged gradients (DDP), and with shares of all (FSDP2).

    python benchmarks/communication.py [--model segformer_b0] [--write]

Two processes on this machine talk over gloo and the loopback interface, whose counter is read before and after some
steps; each byte is counted once. The formulas, for P bytes of parameters and N processes, are 2 (N - 1) P in all for
DDP, and 3 (N - 1) P for FSDP2, which gathers parameters twice and spreads gradients once. Other programs that talk over
loopback meanwhile are counted too, so the least of several rounds is taken.
"""

from __future__ import annotations

import argparse
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from measure import header, publish, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))

STEPS, ROUNDS = 2, 3
PAPER = (("segformer_b5", 84.6e6), ("setr_pup_large", 309.6e6))
"""Networks and their parameters, for the table on paper."""


def loopback() -> int:
    """Bytes that have gone over the loopback interface."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


def learn(model: str, fsdp: bool, sending: Any) -> None:
    """Take steps on drawn images, and tell how many bytes each round of them took."""
    from terrazzo.training.distributed import joined_ranks
    from terrazzo.weights.create import create_model

    with joined_ranks("cpu") as ranks:
        network = create_model(model, 19)
        network.drop_auxiliary()
        parameters = sum(parameter.nbytes for parameter in network.parameters())
        ranks.share_weights(network)
        wrapped = ranks.wrap(network, sync_batchnorm=False, sharded=fsdp)
        images, counts = torch.randn(2, 3, 64, 64), []
        for _ in range(1 + ROUNDS):
            ranks.wait()
            before = loopback()
            for _ in range(STEPS):
                logits, *_ = wrapped(images, auxiliary=True)
                logits.square().mean().backward()
            ranks.wait()
            counts.append((loopback() - before) / STEPS)
        if ranks.is_main:
            sending.send((parameters, min(counts[1:])))


def measured(model: str, fsdp: bool) -> tuple[int, float]:
    """Return the bytes of a network's parameters, and those that two processes send in a step."""
    from tiny_runs import finish, start

    receiving, sending = get_context("forkserver").Pipe(duplex=False)
    processes = start(learn, model, fsdp, sending, ranks=2)
    sending.close()
    result: tuple[int, float] = receiving.recv()
    assert finish(processes) == [0, 0]
    return result


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="segformer_b0")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/communication.md")
    options = parser.parse_args()
    rows = []
    for name, fsdp, factor in (("DDP", False, 2), ("FSDP2", True, 3)):
        parameters, sent = measured(options.model, fsdp)
        rows.append(
            [options.model, name, f"{parameters / 1e6:.1f}", f"{sent / 1e6:.1f}", f"{factor * parameters / 1e6:.1f}"]
        )
    text = header(
        "Bytes sent in a training step",
        f"python benchmarks/communication.py --model {options.model} --write",
        timing="Two processes, gloo, float32; MB of both together.\n",
    )
    text += table(["model", "way", "parameters, MB", "sent in a step, MB", "by the formula"], rows)
    text += (
        "\nFSDP2's formula has gradients spread by a reduce-scatter. gloo sends that as an all-reduce, twice as much; "
        "and what lies outside the blocks is not gathered a second time.\n"
    )
    text += "\nOn paper, MB that each of N GPUs sends in a step, float32 gradients:\n\n"
    paper = [
        [model, way, *(f"{factor * (n - 1) / n * 4 * count / 1e6:.0f}" for n in (8, 64, 512))]
        for model, count in PAPER
        for way, factor in (("DDP", 2), ("FSDP2", 3))
    ]
    text += table(["model", "way", "8 GPUs", "64 GPUs", "512 GPUs"], paper)
    publish("communication", text, options.write)


if __name__ == "__main__":
    main()
