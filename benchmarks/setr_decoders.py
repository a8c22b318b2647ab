"""SETR's decoders, ours beside the released code's steps with the same weights: time and memory.

    python benchmarks/setr_decoders.py [--size 512] [--classes 150] [--rounds 3] [--write]

Each side gets T-Base's feature maps (768 channels, a sixteenth of the image size). `inference` is one forward in
evaluation mode, up to the logits that are then resized to the image size; `training` is forward and backward of main
and auxiliary heads with the loss at label resolution. The other side takes the released code's steps one by one
(tests/models/literal_setr.py, with which the tests compare ours), and resizes the logits for the loss. Peak memory is
the growth of the process's largest resident size, with each side in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measure import alternate, header, publish, table
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.models.setr import VARIANTS, setr_spec
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy
from terrazzo.weights.create import create_model
from training_step import resident_mb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from literal_setr import all_logits

DECODERS = ("naive", "pup", "mla")


class FixedMaps(nn.Module):
    """Stands in for the encoder: returns the same four maps for any image."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _images: Tensor) -> list[Tensor]:
        return self.maps


def build(decoder: str, size: int, classes: int, train: bool) -> tuple[Callable[[], list[Tensor]], ...]:
    """Return one function for each side, ours first, which gives all logits; in training, after the backward pass."""
    torch.manual_seed(0)
    # The transformer does not run, so four blocks are enough; the decoder and its heads are the published ones.
    published = VARIANTS[f"setr_{decoder}_base"]
    layers = (1, 2, 3, 4)
    heads = tuple(layers[head.fields["level"]] for head in published.auxiliary)
    short = setr_spec("short", {"embed_dim": 768, "depth": 4, "num_heads": 12}, decoder, layers, heads)
    segmenter = create_model(short, classes).train(train)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    if not train:
        segmenter.drop_auxiliary()
    side = size // 16
    maps = [torch.randn(1, side, side, 768).permute(0, 3, 1, 2).requires_grad_(train) for _ in range(4)]
    segmenter.encoder = FixedMaps(maps)
    images = torch.empty(1, 3, size, size)

    labels = torch.randint(0, classes, (1, size, size))

    def ours() -> list[Tensor]:
        logits = segmenter(images, auxiliary=True)
        if train:
            losses = [upsampled_cross_entropy(x, labels, ignore_index=255) for x in logits]
            torch.stack(losses).sum().backward()
        return logits

    def theirs() -> list[Tensor]:
        logits = all_logits(segmenter, maps, decoder, "official")
        if train:
            large = [F.interpolate(x, (size, size), mode="bilinear", align_corners=False) for x in logits]
            torch.stack([F.cross_entropy(x, labels, ignore_index=255) for x in large]).sum().backward()
        return logits

    def run(side: Callable[[], list[Tensor]]) -> list[Tensor]:
        segmenter.zero_grad()
        with torch.inference_mode(not train):
            return [x.detach() for x in side()]

    return lambda: run(ours), lambda: run(theirs)


def measure_peak(side: int, arguments: tuple[str, int, int, bool], result: Connection) -> None:
    """Send the peak memory in MB that a call adds to a process."""
    torch.set_num_threads(1)
    step = build(*arguments)[side]
    before = resident_mb("VmRSS")
    step()
    result.send(resident_mb("VmHWM") - before)


def peaks(*arguments: object) -> list[float]:
    """Return both sides' peak memory in MB; to be called before this process has computed anything."""
    fork, found = multiprocessing.get_context("fork"), []
    for side in (0, 1):
        receiving, sending = fork.Pipe(duplex=False)
        process = fork.Process(target=measure_peak, args=(side, arguments, sending))
        process.start()
        found.append(receiving.recv())
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    cases = [(decoder, options.size, options.classes, train) for train in (False, True) for decoder in DECODERS]
    memory = [peaks(*case) for case in cases]
    rows = []
    for case, (our_peak, their_peak) in zip(cases, memory, strict=True):
        decoder, _, _, train = case
        sides = build(*case)
        ours, theirs = alternate(sides, options.rounds)
        logits, their_logits = (side() for side in sides)
        difference = max((a - b).abs().max().item() for a, b in zip(logits, their_logits, strict=True))
        assert difference < 1e-4, f"{decoder}: the two sides differ by {difference}"
        rows.append(
            [
                f"{decoder}, {'training' if train else 'inference'}",
                f"{1e3 * ours.median:.0f} / {1e3 * ours.least:.0f}",
                f"{1e3 * theirs.median:.0f} / {1e3 * theirs.least:.0f}",
                f"{theirs.median / ours.median:.2f} / {theirs.least / ours.least:.2f}",
                f"{our_peak:.0f}",
                f"{their_peak:.0f}",
                f"{difference:.0e}",
            ]
        )
    title = f"SETR's decoders under T-Base at {options.size} x {options.size}, {options.classes} classes, float32"
    command = f"python benchmarks/setr_decoders.py --size {options.size} --classes {options.classes} --write"
    columns = [
        "", "ours, ms", "step by step, ms", "ratio", "our peak, MB", "their peak, MB", "largest difference of logits",
    ]  # fmt: skip
    text = header(title, command) + "Milliseconds as median / least, without the encoder.\n\n" + table(columns, rows)
    publish("setr_decoders", text, options.write)


if __name__ == "__main__":
    main()
