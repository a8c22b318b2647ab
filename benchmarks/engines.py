"""SegFormer in every engine, ours beside transformers' with the same weights: one thread.

    python benchmarks/engines.py --write
    python benchmarks/engines.py --models b0,b1 --size 1024x2048 --classes 19 --rounds 2 --write

Ours runs in PyTorch (`TorchEngine`), ONNX Runtime and OpenVINO, as `--engine` has them: exported once, for any batch
and size. transformers' network runs as it comes, compiled (--compiled: most of a minute for each), and through its
usual routes: torch.onnx.export(dynamo=True) for ONNX Runtime, openvino.convert_model for OpenVINO, both for this one
size, which suits them. Both sides' sessions have one thread and float32; bfloat16 joins where the processor has it.

CPU time is that of the whole process, in which both runtimes compute even with one thread of their own. Memory is the
most that a fresh process held which did nothing but load the saved or exported network and run it twice, its Python
packages included.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from measure import (
    alternate,
    apart,
    gemm_speed,
    header,
    matrix_product,
    milliseconds,
    publish,
    ratio,
    share_of_peak,
    table,
)

# Nothing above imports torch, and nothing at the top may: the processes that measure memory begin here too.
Run: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]

PEER = "transformers, eager"
COMPILED = "transformers, compiled"
ENGINE_OF = {  # way -> the engine that both sides may have
    "ours, PyTorch": "PyTorch",
    "ours, ONNX Runtime": "ONNX Runtime",
    "ours, OpenVINO": "OpenVINO",
    "ours, OpenVINO bf16": "OpenVINO bf16",
    PEER: "PyTorch",
    COMPILED: "PyTorch",
    "transformers, ONNX Runtime": "ONNX Runtime",
    "transformers, OpenVINO": "OpenVINO",
    "transformers, OpenVINO bf16": "OpenVINO bf16",
}
TOLERANCE = 1e-4
LEAST_SECONDS = 45.0  # of rounds for a model: small ones get more of them


def main() -> None:
    options = parse()
    size = tuple(map(int, options.size.split("x")))
    has_bf16 = processor_has_bf16()
    ways = [
        way for way in ENGINE_OF if (options.compiled or way != COMPILED) and (has_bf16 or not way.endswith("bf16"))
    ]

    import torch

    from terrazzo.engines.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    sections = []
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            operations = write_networks(model, options.classes, size, Path(folder))
            sections.append(f"## {model.upper()}\n\n" + compare(ways, size, Path(folder), operations, options.rounds))
    default = size == (512, 512)
    name = "engines" if default else f"engines_{options.size}"
    arguments = "" if default else f" --size {options.size} --classes {options.classes} --models {options.models}"
    title = f"SegFormer in every engine at {size[0]} x {size[1]}, {options.classes} classes, batch 1"
    text = header(title, f"python benchmarks/engines.py{arguments} --write", ("onnxruntime", "openvino"))
    text += (
        "Milliseconds as median / least. Ratios and shares of the speed of a matrix product, which was called in turn "
        "with the networks, are medians over the rounds.\n"
    )
    if not has_bf16:
        text += "No rows for bfloat16: this processor has no instructions for it.\n"
    if not options.compiled:
        text += "torch.compile was left out (--compiled).\n"
    publish(name, text + "\n" + "\n".join(sections), options.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="b0,b1,b2,b5")
    parser.add_argument("--size", default="512x512", help="height x width")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3, help="at least; small models get more")
    parser.add_argument("--compiled", action="store_true", help="transformers through torch.compile too")
    parser.add_argument("--write", action="store_true", help="put the tables under results/")
    return parser.parse_args()


def write_networks(model: str, classes: int, size: tuple[int, int], folder: Path) -> dict[str, int]:
    """Put both sides' networks into a folder, saved and exported; return each side's operations in a pass."""
    import openvino
    import torch
    from torch import Tensor, nn

    from peers import build_pair, save_peer
    from terrazzo.exports.onnx import write_onnx
    from terrazzo.labels import LabelSpec
    from terrazzo.measurement.operations import count_operations
    from terrazzo.preprocess import Preprocess
    from terrazzo.weights.files import TrainedModel, save_folder

    class PeerLogits(nn.Module):
        def __init__(self, peer: nn.Module) -> None:
            super().__init__()
            self.peer = peer

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.peer(images).logits
            return logits

    ours, theirs = build_pair(f"segformer_{model}", classes)
    labels = LabelSpec.from_names([f"class {k}" for k in range(classes)])
    trained = TrainedModel(f"segformer_{model}", ours, labels, Preprocess())
    save_folder(folder / "ours", trained)
    save_peer(theirs, folder / "theirs")
    write_onnx(trained, folder / "ours.onnx")
    images = torch.randn(1, 3, *size)
    peer = PeerLogits(theirs).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporters have to say about transformers and each other
        torch.onnx.export(peer, (images,), folder / "theirs.onnx", dynamo=True, input_names=["images"], verbose=False)
        converted = openvino.convert_model(peer, example_input=images, input=[1, 3, *size])
    openvino.save_model(converted, folder / "theirs.xml", compress_to_fp16=False)
    return {"ours": count_operations(ours, images), "transformers": count_operations(theirs, images)}


def open_way(way: str, folder: Path) -> Run:
    """Return a network as one of the ways runs it, arrays in and out."""
    if way.startswith("ours"):
        return open_ours(way, folder)
    if way in (PEER, COMPILED):
        return open_peer(way, folder)
    if way.endswith("ONNX Runtime"):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / "theirs.onnx", settings, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    import openvino

    precision = "bf16" if way.endswith("bf16") else "f32"
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(folder / "theirs.xml", "CPU", settings)
    return lambda images: compiled([images])[0]


def open_ours(way: str, folder: Path) -> Run:
    from terrazzo.engines.engine import EngineOptions

    one = EngineOptions(threads=1, precision="bf16" if way.endswith("bf16") else "fp32")
    if way == "ours, PyTorch":
        from terrazzo.engines.torch import TorchEngine
        from terrazzo.weights.files import load_folder

        return TorchEngine(load_folder(folder / "ours").network, "cpu", one)
    if way == "ours, ONNX Runtime":
        from terrazzo.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(folder / "ours.onnx", one)
    from terrazzo.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(folder / "ours.onnx", one)


def open_peer(way: str, folder: Path) -> Run:
    import torch

    from peers import load_peer

    network = load_peer(folder / "theirs")
    forward = torch.compile(network) if way == COMPILED else network

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = forward(torch.from_numpy(images)).logits.numpy()
        return logits

    return run


def compare(ways: list[str], size: tuple[int, int], folder: Path, operations: dict[str, int], rounds: int) -> str:
    memory = {way: apart(peak_memory_of, way, size, folder) for way in ways}
    runs = {way: open_way(way, folder) for way in ways}
    images = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    expected = runs[PEER](images)
    differences = {way: float(np.abs(run(images) - expected).max()) for way, run in runs.items()}
    for way, difference in differences.items():
        assert way.endswith("bf16") or difference < TOLERANCE, f"{way} differs by {difference}"
    calls = [partial(run, images) for run in runs.values()]
    product, *measured = alternate([matrix_product(), *calls], rounds, LEAST_SECONDS)
    times = dict(zip(ways, measured, strict=True))
    rows = []
    for way in ways:
        side, _, _ = way.partition(",")
        mine = times[way]
        same_engine = f"transformers, {ENGINE_OF[way]}".replace("transformers, PyTorch", PEER)
        rows.append(
            [
                way,
                milliseconds(mine),
                ratio(times[PEER], mine),
                ratio(times[same_engine], mine) if side == "ours" else "",
                f"{operations[side] / 1e9:.1f}",
                # In bfloat16 the processor's limit is another one, which is not measured here.
                "" if way.endswith("bf16") else share_of_peak(operations[side], mine, product),
                f"{memory[way] / 1e6:.0f}",
                f"{differences[way]:.0e}" if way != PEER else "",
            ]
        )
    columns = [
        "", "ms", "times as fast as transformers, eager", "as in the same engine", "GFLOP", "of GEMM peak",
        "process, MB", "largest difference of logits",
    ]  # fmt: skip
    about = f"{len(product.seconds)} rounds; matrix products alone reach {gemm_speed(product) / 1e9:.0f} GFLOP/s."
    return table(columns, rows) + f"\n{about}\n"


def peak_memory_of(way: str, size: tuple[int, int], folder: Path) -> int | None:
    """Return the most bytes that this fresh process holds when it does nothing but this."""
    from terrazzo.measurement.machine import peak_memory

    run = open_way(way, folder)
    images = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    for _ in range(2):
        run(images)
    return peak_memory()


def processor_has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


if __name__ == "__main__":
    main()
