"""SegFormer in eager PyTorch, ours beside transformers' with the same weights: one thread, float32.

    python benchmarks/segformer_eager.py --write
    python benchmarks/segformer_eager.py --variants b5 --size 1024x2048 --classes 19 --name some_table --write

Ours is what `terrazzo.predict` runs (`TorchEngine`); theirs is `SegformerForSemanticSegmentation`, unchanged, in
inference mode. The process keeps freed memory (`keep_freed_memory`) for both.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial

import torch

from measure import alternate, gemm_speed, header, matrix_product, milliseconds, publish, ratio, share_of_peak, table
from peers import build_pair
from terrazzo.costs import count_operations
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.torch import TorchEngine

LEAST_SECONDS = 30.0  # all rounds of a model together: small ones get more of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="b0,b1,b2,b5")
    parser.add_argument("--size", default="512x512", help="height x width")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5, help="at least; small models get more")
    parser.add_argument("--name", default="segformer_eager", help="of the table")
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))

    torch.set_num_threads(1)
    keep_freed_memory()
    speeds, rows = [], []
    for variant in options.variants.split(","):
        network, peer = build_pair(f"segformer_{variant}", options.classes)
        images = torch.randn(1, 3, height, width)
        flops = count_operations(network, images).flop
        engine = TorchEngine(network)
        with torch.inference_mode():
            difference = (torch.from_numpy(engine(images.numpy())) - peer(images).logits).abs().max().item()
            assert difference < 1e-4, f"{variant}: the two sides differ by {difference}"
            sides = [matrix_product(), partial(engine, images.numpy()), partial(peer, images)]
            product, ours, theirs = alternate(sides, options.rounds, LEAST_SECONDS)
        speeds.append(gemm_speed(product) / 1e9)
        rows.append(
            [
                variant.upper(),
                milliseconds(ours),
                milliseconds(theirs),
                ratio(theirs, ours),
                f"{flops / 1e9:.1f}",
                share_of_peak(flops, ours, product),
                f"{difference:.0e}",
            ]
        )
    title = f"Eager SegFormer at {height} x {width}, {options.classes} classes, batch 1, float32"
    text = header(title, shlex.join(["python", "benchmarks/segformer_eager.py", *sys.argv[1:]]))
    text += (
        "Milliseconds as median / least. Ratios and shares of the speed of a matrix product, which was called in turn "
        f"with the networks ({min(speeds):.0f} to {max(speeds):.0f} GFLOP/s), are medians over the rounds.\n\n"
    )
    columns = ["", "ours, ms", "transformers, ms", "ratio", "our GFLOP", "of GEMM peak", "largest difference of logits"]
    publish(options.name, text + table(columns, rows), options.write)


if __name__ == "__main__":
    main()
