"""SegFormer and SETR in every engine, ours beside a peer with the same weights: one thread.

    python benchmarks/engines.py --write
    python benchmarks/engines.py --models segformer_b0 --size 1024x2048 --classes 19 --name some_table --write
    python benchmarks/engines.py --models setr_pup_large,setr_mla_large --rounds 2 --compiled

Ours runs in PyTorch (`TorchEngine`), ONNX Runtime and OpenVINO, as `--engine` does: exported once, for any batch and
size. The peer is transformers' network, or for SETR the literal one of `peers.py`. It runs in eager PyTorch, compiled
(--compiled: most of a minute for each), and by the usual exports: torch.onnx.export(dynamo=True) for ONNX Runtime,
openvino.convert_model for OpenVINO, both for this one size, which is to their advantage. Both sides use one thread and
float32, and also bfloat16 if the processor has it (the peer in PyTorch under autocast). The two runtimes run the
graphs that are written for them (`terrazzo.graphs.Target`), as with `--engine`.

CPU time is that of the whole process, since runtimes compute in threads of their own. Memory is the peak of a fresh
process that only loads the saved or exported network and runs it twice; it includes the Python packages.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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

MODELS = "segformer_b0,segformer_b1,segformer_b2,segformer_b5"
TOLERANCE = 1e-4
LEAST_SECONDS = 30.0  # all rounds of an engine together: small networks get more of them


@dataclass(frozen=True)
class Way:
    """A side's network in an engine."""

    side: str
    engine: str

    def __str__(self) -> str:
        return f"{self.side}, {self.engine}"

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16."""
        return self.engine.endswith("bf16")


def ways_by_engine(peer: str, compiled: bool, bf16: bool) -> dict[str, list[Way]]:
    """Return the ways to be compared, grouped by engine; those of one group are open together."""
    engines = ["PyTorch", "ONNX Runtime", "OpenVINO"]
    if bf16:
        engines += ["PyTorch bf16", "OpenVINO bf16"]
    ways = {engine: [Way("ours", engine), Way(peer, engine)] for engine in engines}
    if compiled:
        ways["PyTorch"].append(Way(peer, "torch.compile"))
    return ways


def main() -> None:
    options = parse()
    size = tuple(map(int, options.size.split("x")))
    has_bf16 = processor_has_bf16()

    import torch

    torch.set_num_threads(1)
    title = f"Every engine at {size[0]} x {size[1]}, {options.classes} classes, batch 1"
    command = shlex.join(["python", "benchmarks/engines.py", *sys.argv[1:]])
    text = header(title, command, ("onnxruntime", "openvino"))
    text += (
        "Milliseconds as median / least. Engine by engine, both sides were called in turn with the peer's PyTorch and "
        "a matrix product; ratios and shares of that product's speed are medians over these rounds.\n"
    )
    if not has_bf16:
        text += "No rows for bfloat16: this processor has no instructions for it.\n"
    for model in options.models.split(","):
        text += "\n" + section(model, options.classes, size, options.rounds, options.compiled, has_bf16)
        publish(options.name, text, options.write)  # an interrupted run keeps what it has


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--size", default="512x512", help="height x width")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5, help="at least; small models get more")
    parser.add_argument("--compiled", action="store_true", help="the peer through torch.compile too")
    parser.add_argument("--name", default="engines", help="of the table")
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


def section(model: str, classes: int, size: tuple[int, int], rounds: int, compiled: bool, has_bf16: bool) -> str:
    """Return the section of the result for one model."""
    peer = Way("literal" if model.startswith("setr") else "transformers", "PyTorch")
    rows: dict[Way, list[object]] = {}
    remarks = []
    with tempfile.TemporaryDirectory() as folder:
        operations = apart(write_networks, model, classes, size, Path(folder))
        for engine, ways in ways_by_engine(peer.side, compiled, has_bf16).items():
            # In a process of its own: for large networks and images, all engines together need more memory than there
            # is.
            measured, remark = apart(compare, ways, peer, size, Path(folder), operations, rounds)
            rows |= measured
            remarks.append(f"{engine}: {remark}")
    columns = [
        "", "ms", f"times as fast as {peer}", "as in the same engine", "GFLOP", "of GEMM peak", "process, MB",
        "largest difference of logits",
    ]  # fmt: skip
    ordered = [[way, *rows[way]] for way in sorted(rows, key=lambda way: way.side != "ours")]
    return f"## {model}\n\n" + table(columns, ordered) + "\n" + "; ".join(remarks) + ".\n"


def write_networks(model: str, classes: int, size: tuple[int, int], folder: Path) -> dict[str, int]:
    """Save and export both sides' networks into a folder; return each side's operations of a pass."""
    import openvino
    import torch

    from peers import build_logits_pair, save_peer
    from terrazzo.costs import count_operations
    from terrazzo.graphs.onnx import write_onnx
    from terrazzo.labels.spec import LabelSpec
    from terrazzo.preprocess import Preprocess
    from terrazzo.weights.files import TrainedModel, save_folder

    ours, theirs = build_logits_pair(model, classes, size)
    labels = LabelSpec.from_names([f"class {k}" for k in range(classes)])
    trained = TrainedModel(model, ours, labels, Preprocess())
    save_folder(folder / "ours", trained)
    save_peer(theirs, folder / "theirs")
    for target in ("onnxruntime", "openvino"):
        write_onnx(trained, folder / f"ours-{target}.onnx", target=target)
    images = torch.randn(1, 3, *size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' warnings
        torch.onnx.export(theirs, (images,), folder / "theirs.onnx", dynamo=True, input_names=["images"], verbose=False)
        converted = openvino.convert_model(theirs, example_input=images, input=[1, 3, *size])
    openvino.save_model(converted, folder / "theirs.xml", compress_to_fp16=False)
    return {"ours": count_operations(ours, images).flop, "theirs": count_operations(theirs, images).flop}


def open_way(way: Way, folder: Path) -> Run:
    """Open a network in one of the ways; arrays in and out."""
    if way.side == "ours":
        return open_ours(way, folder)
    if way.engine in ("PyTorch", "PyTorch bf16", "torch.compile"):
        return open_peer(way, folder)
    if way.engine == "ONNX Runtime":
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / "theirs.onnx", settings, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    import openvino

    precision = "bf16" if way.bf16 else "f32"
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(folder / "theirs.xml", "CPU", settings)
    return lambda images: compiled([images])[0]


def open_ours(way: Way, folder: Path) -> Run:
    from terrazzo.engines.engine import EngineOptions

    one = EngineOptions(threads=1, precision="bf16" if way.bf16 else "fp32")
    if way.engine in ("PyTorch", "PyTorch bf16"):
        from terrazzo.engines.torch import TorchEngine
        from terrazzo.weights.files import load_folder

        return TorchEngine(load_folder(folder / "ours").network, "cpu", one)
    if way.engine == "ONNX Runtime":
        from terrazzo.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(folder / "ours-onnxruntime.onnx", one)
    from terrazzo.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(folder / "ours-openvino.onnx", one)


def open_peer(way: Way, folder: Path) -> Run:
    import torch

    from peers import load_peer

    network = load_peer(folder / "theirs")
    forward = torch.compile(network) if way.engine == "torch.compile" else network

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
            logits: NDArray[np.float32] = forward(torch.from_numpy(images)).float().numpy()
        return logits

    return run


def compare(
    ways: list[Way], peer: Way, size: tuple[int, int], folder: Path, operations: dict[str, int], rounds: int
) -> tuple[dict[Way, list[object]], str]:
    """Return the rows of some ways, which are called in turn with the peer in PyTorch, and a remark on the rounds."""
    import torch

    from terrazzo.engines.memory import keep_freed_memory

    memory = {way: apart(peak_memory_of, way, size, folder) for way in ways}
    torch.set_num_threads(1)
    keep_freed_memory()
    runs = {way: open_way(way, folder) for way in {peer: None, **dict.fromkeys(ways)}}
    images = np.random.default_rng(0).standard_normal((1, 3, *size), dtype=np.float32)
    expected = runs[peer](images)
    differences = {way: float(np.abs(run(images) - expected).max()) for way, run in runs.items() if way != peer}
    for way, difference in differences.items():
        assert way.bf16 or difference < TOLERANCE, f"{way} differs by {difference}"
    calls = [partial(run, images) for run in runs.values()]
    product, *measured = alternate([matrix_product(), *calls], rounds, LEAST_SECONDS)
    times = dict(zip(runs, measured, strict=True))
    rows: dict[Way, list[object]] = {}
    for way in ways:
        mine, count = times[way], operations["ours" if way.side == "ours" else "theirs"]
        rows[way] = [
            milliseconds(mine),
            ratio(times[peer], mine),
            ratio(times[Way(peer.side, way.engine)], mine) if way.side == "ours" else "",
            f"{count / 1e9:.1f}",
            # bfloat16 has another peak speed, which is not measured here.
            "" if way.bf16 else share_of_peak(count, mine, product),
            f"{memory[way] / 1e6:.0f}",
            f"{differences[way]:.0e}" if way in differences else "",
        ]
    return rows, f"{len(product.seconds)} rounds, matrix products at {gemm_speed(product) / 1e9:.0f} GFLOP/s"


def peak_memory_of(way: Way, size: tuple[int, int], folder: Path) -> int | None:
    """Return the peak memory in bytes of this fresh process, which does nothing else."""
    from terrazzo.profiling.machine import peak_memory

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
