"""SegFormer on a CUDA GPU, ours beside transformers' with the same weights: inference and training steps.

    python benchmarks/gpu.py --write
    python benchmarks/gpu.py --models b0,b2 --batches 1,16 --ways eager,graph
    python benchmarks/gpu.py --device cpu --smoke

Inference: B0 to B5, batch 1 to 64, float16 and bfloat16 (and float32, for the agreement), each network eagerly,
compiled (by torch.compile, once per batch size, and only at --compile-batches, since it is slow) and as a CUDA graph of
the eager pass. Ours also runs as in `terrazzo predict`, with arrays in and out, which uses float16 by itself if the
classes stay the same. Both sides are called in turn; calls are timed between two synchronisations and repeated until
they take 50 ms. Training: forward, loss at label resolution, backward; without the optimiser's step, which would be the
same on both sides.

With --write the table under results/ is written after every model, so an interrupted run keeps what it has. --smoke
runs the whole program on a tiny case, to show that it works; its figures mean nothing and are not written. It has not
yet run on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from measure import header, publish, table
from peers import Logits, build_pair
from terrazzo.costs import count_operations
from terrazzo.engines.engine import EngineOptions, Precision
from terrazzo.engines.gpu import COMPARED_PASSES, capture
from terrazzo.engines.torch import TorchEngine
from terrazzo.training.losses.cross_entropy import upsampled_cross_entropy

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WAYS = ("eager", "compiled", "graph")
ASKED: dict[str, Precision] = {"fp32": "fp32", "fp16": "auto", "bf16": "bf16"}  # of the engine
SETTLING_PASSES = COMPARED_PASSES + 2  # until the engine has chosen a precision and captured the size
TRAINED = ("b0", "b2")
IGNORED_LABEL = 255


@dataclass(frozen=True)
class Case:
    """Settings that all rows share.

    Attributes:
        device: cuda or cpu.
        size: of the square photos.
        classes: K.
        rounds: number of timings of each side.
        stretch: smallest duration of a timing, in seconds.
        compiler: torch.compile's backend.
    """

    device: str
    size: int
    classes: int
    rounds: int
    stretch: float
    compiler: str


@dataclass(frozen=True)
class Measured:
    """A side's photos per second, and the bytes that a call allocates; None without a GPU."""

    images_per_second: float
    memory: int | None


def main() -> None:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; --device cpu --smoke shows that the program works")
    models, batches = options.models.split(","), numbers(options.batches)
    precisions, ways = options.precisions.split(","), options.ways.split(",")
    compile_batches = numbers(options.compile_batches)
    case = Case(options.device, options.size, options.classes, options.rounds, 0.05, "inductor")
    trained, train_batches = [name for name in TRAINED if name in models], numbers(options.train_batches)
    if options.smoke:
        models, batches, compile_batches, precisions = models[:1], [1, 2], [1], ["bf16"]
        trained, train_batches = models, [2]
        case = Case(options.device, 32, 5, 1, 0.0, "eager")
    if options.device != "cuda":
        ways = [way for way in ways if way != "graph"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    peaks = {precision: gemm_peak(PRECISIONS[precision], case) for precision in precisions}
    inference: list[list[str]] = []
    training: list[list[str]] = []
    notes: list[str] = []
    for model in models:
        for precision in precisions:
            pair = Pair.build(model, precision, case)
            for batch in batches:
                here = [way for way in ways if way != "compiled" or batch in compile_batches]
                row = infer(pair, batch, here, case, peaks[precision], notes)
                inference.append([model.upper(), precision, str(batch), *row])
        if model in trained:
            training += [[model.upper(), *row] for row in train(model, precisions, train_batches, case)]
        text = lay_out(inference, training, peaks, notes, case, options.smoke)
        publish("gpu", text, options.write and not options.smoke)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", default="b0,b1,b2,b3,b4,b5")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64")
    parser.add_argument("--precisions", default="fp32,fp16,bf16")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--compile-batches", default="1,16")
    parser.add_argument("--train-batches", default="2,8")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="a tiny case, to see that the program works")
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


@dataclass(frozen=True)
class Pair:
    """Both networks in one precision, with what does not depend on the batch size.

    Attributes:
        name: for messages.
        ours: images to logits.
        theirs: images to logits.
        engine: ours as `terrazzo predict` runs it, with float32 arrays in and out.
        dtype: of weights and images.
        operations: of our pass over one photo.
        difference: largest difference of logits in float32.
        same: share of positions where our logits have float32's class.
    """

    name: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    engine: TorchEngine
    dtype: torch.dtype
    operations: int
    difference: float
    same: float

    @classmethod
    @torch.inference_mode()
    def build(cls, model: str, precision: str, case: Case) -> Pair:
        networks = build_pair(f"segformer_{model}", case.classes)
        ours, theirs = (network.to(case.device, memory_format=torch.channels_last) for network in networks)
        image = torch.randn(1, 3, case.size, case.size, device=case.device)
        operations = count_operations(ours, image).flop
        exact = ours(image)
        difference = (exact - theirs(image).logits).abs().max().item()
        engine = TorchEngine(copy.deepcopy(ours), case.device, EngineOptions(precision=ASKED[precision]))
        dtype = PRECISIONS[precision]
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        same = (ours(image.to(dtype)).argmax(1) == exact.argmax(1)).float().mean().item()
        name = f"{model.upper()}, {precision}"
        return cls(name, ours, Logits(theirs), engine, dtype, operations, difference, same)


def infer(pair: Pair, batch: int, ways: Sequence[str], case: Case, peak: float, notes: list[str]) -> list[str]:
    """Return a row: photos per second of both sides in each way, their ratio, memory and agreement."""
    images = torch.randn(batch, 3, case.size, case.size, device=case.device).to(pair.dtype)
    found: list[list[Measured]] = []  # ours and theirs, a pair for each way that ran
    cells = []
    for way in WAYS:
        if way not in ways:
            cells.append("")
            continue
        try:
            sides = [prepare(network, images, way, case) for network in (pair.ours, pair.theirs)]
            measured = alternate(sides, batch, case)
        except RuntimeError as error:  # out of memory, or a network that cannot be captured or compiled
            notes.append(f"{pair.name}, batch {batch}, {way}: {str(error).splitlines()[0]}")
            cells.append("failed")
            if case.device == "cuda":
                torch.cuda.empty_cache()
            continue
        cells.append(f"{measured[0].images_per_second:.4g} / {measured[1].images_per_second:.4g}")
        found.append(measured)
    arrays = images.float().cpu().numpy()
    for _ in range(SETTLING_PASSES):
        pair.engine(arrays)
    (engine,) = alternate([lambda: pair.engine(arrays)], batch, case)
    cells.append(f"{engine.images_per_second:.4g}")
    if not found:
        return [*cells, "", "", "", "", ""]
    ours, theirs = (max(result.images_per_second for result in side) for side in zip(*found, strict=True))
    first = found[0]  # a CUDA graph allocates its memory before it runs
    return [
        *cells,
        f"{ours / theirs:.2f}",
        f"{pair.operations * ours / peak:.0%}",
        f"{megabytes(first[0].memory)} / {megabytes(first[1].memory)}",
        f"{pair.same:.2%}",
        f"{pair.difference:.0e}",
    ]


def prepare(network: Callable[[Tensor], Tensor], images: Tensor, way: str, case: Case) -> Callable[[], Tensor]:
    """Return a call of a network in one of the three ways."""
    if way == "graph":
        with torch.inference_mode():
            replay = capture(network, images)
        return lambda: replay(images)
    if way == "compiled":
        torch.compiler.reset()  # sizes compiled before would make this one dynamic
        network = torch.compile(network, backend=case.compiler, dynamic=False)

    def run() -> Tensor:
        with torch.inference_mode():
            return network(images)

    return run


def train(model: str, precisions: Sequence[str], batches: Sequence[int], case: Case) -> list[list[str]]:
    """Return rows: images per second and peak memory of both sides' training steps."""
    rows = []
    for precision in precisions:
        if precision == "fp16":
            continue  # float16 needs a scaled loss, and bf16 takes the same time
        for batch in batches:
            ours, theirs = (
                network.to(case.device).train() for network in build_pair(f"segformer_{model}", case.classes)
            )
            images = torch.randn(batch, 3, case.size, case.size, device=case.device)
            labels = torch.randint(0, case.classes, (batch, case.size, case.size), device=case.device)
            autocast = partial(torch.autocast, case.device, torch.bfloat16, enabled=precision == "bf16")

            def our_step(ours=ours, images=images, labels=labels, autocast=autocast) -> None:
                ours.zero_grad()
                with autocast():
                    logits = ours(images)
                upsampled_cross_entropy(logits.float(), labels, IGNORED_LABEL).backward()

            def their_step(theirs=theirs, images=images, labels=labels, autocast=autocast) -> None:
                theirs.zero_grad()
                with autocast():
                    loss = theirs(pixel_values=images, labels=labels).loss
                loss.backward()

            mine, peers = alternate([our_step, their_step], batch, case)
            rows.append(
                [
                    precision,
                    str(batch),
                    f"{mine.images_per_second:.4g}",
                    f"{peers.images_per_second:.4g}",
                    f"{mine.images_per_second / peers.images_per_second:.2f}",
                    megabytes(mine.memory),
                    megabytes(peers.memory),
                ]
            )
    return rows


def alternate(sides: Sequence[Callable[[], object]], batch: int, case: Case) -> list[Measured]:
    """Time both sides in turn."""
    memory, calls = [], []
    for side in sides:
        side()
        memory.append(added_memory(side, case))
        once = stretch(side, 1, case)
        calls.append(max(int(case.stretch / once), 1))
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(case.rounds):
        for side, count, measured in zip(sides, calls, seconds, strict=True):
            measured.append(stretch(side, count, case) / count)
    medians = [statistics.median(measured) for measured in seconds]
    return [Measured(batch / median, added) for median, added in zip(medians, memory, strict=True)]


def stretch(side: Callable[[], object], count: int, case: Case) -> float:
    """Return the seconds of `count` calls."""
    synchronize(case)
    started = time.perf_counter()
    for _ in range(count):
        side()
    synchronize(case)
    return time.perf_counter() - started


def added_memory(side: Callable[[], object], case: Case) -> int | None:
    if case.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side()
    synchronize(case)
    return torch.cuda.max_memory_allocated() - before


def synchronize(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()


def gemm_peak(dtype: torch.dtype, case: Case) -> float:
    """Return the speed of a large matrix product in FLOP/s."""
    side = 8192 if case.device == "cuda" else 256
    a, b = (torch.randn(side, side, device=case.device).to(dtype) for _ in range(2))
    stretch(lambda: a @ b, 3, case)
    return 2 * side**3 / min(stretch(lambda: a @ b, 1, case) for _ in range(10))


def lay_out(
    inference: list[list[str]],
    training: list[list[str]],
    peaks: dict[str, float],
    notes: list[str],
    case: Case,
    smoke: bool,
) -> str:
    where = torch.cuda.get_device_name() if case.device == "cuda" else "a CPU"
    title = f"SegFormer on {where}, {case.size} x {case.size}, {case.classes} classes"
    if smoke:
        title += ": a smoke run, whose figures mean nothing"
    measured = ", ".join(f"{precision} {peak / 1e12:.4g} TFLOP/s" for precision, peak in peaks.items())
    text = header(title, "python benchmarks/gpu.py --write", timing="Wall time, both sides in turn.")
    if case.device == "cuda":
        text += f"CUDA {torch.version.cuda}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB. "
    text += f"A large matrix product: {measured}; TF32 is off.\n\n"
    text += "## Inference: photos a second, ours / transformers\n\n"
    columns = [
        "", "precision", "batch", "eager", "compiled", "CUDA graph", "ours, arrays in and out", "ratio of the best",
        "ours of GEMM peak", "memory a pass adds, MB", "classes as in float32", "difference of logits, float32",
    ]  # fmt: skip
    text += table(columns, inference)
    if training:
        text += "\n## A training step\n\n"
        columns = [
            "", "precision", "batch", "ours, images/s", "transformers, images/s", "ratio", "our memory, MB",
            "their memory, MB",
        ]  # fmt: skip
        text += table(columns, training)
    return text + "".join(f"\n- {note}" for note in notes) + ("\n" if notes else "")


def megabytes(amount: int | None) -> str:
    return "-" if amount is None else f"{amount / 1e6:.0f}"


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
