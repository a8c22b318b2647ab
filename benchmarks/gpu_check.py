"""Proof that a GPU gives what the CPU gives, and a short table of speeds, within six minutes on a fresh machine.

    python benchmarks/gpu_check.py --write
    python benchmarks/gpu_check.py --device cpu --quick

It needs torch, transformers, opencv-python-headless and what they bring, and no network: photos are parts of the
shipped example, labels the CPU's own masks, and the large networks have random weights. Where something else is
missing, carry wheels along (`pip download -d wheels ...`, then `pip install --no-index --find-links wheels ...`).
PYTHONPATH=src is enough; terrazzo need not be installed.

First predict, evaluate, train, resume and export, on the device and on the CPU. Each check is a row: what was compared,
how far apart it was, and whether that is good enough; one that fails does not keep the others from running. Then B0, B2
and B5 beside transformers with the same weights, each eagerly, as a CUDA graph and compiled, as far as --minutes
allows: what there is no time for is left empty. --quick runs everything on tiny cases, to show on a CPU that the
program works. The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import terrazzo
from gpu import Case, Pair, alternate, prepare
from measure import header, publish, table
from peers import build_pair
from terrazzo.inference.predict import make_predictor
from terrazzo.models import MODELS, ModelSpec, Part
from terrazzo.training.trainer import Trainer
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_folder

MODELS_MEASURED, BATCHES = ("b0", "b2", "b5"), (1, 8, 32)
WAYS = ("eager", "graph", "compiled")
LARGE = (1024, 2048)
YOLO_MILLISECONDS = 4.4  # published for YOLO26-sem's smallest model at 1024 x 2048
WINDOW = 128  # side of the photos that are trained on


@dataclass
class Checks:
    """The device, a folder for files, and the rows of the checks that have run."""

    device: str
    folder: Path
    quick: bool
    rows: list[list[str]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(row[-1] != "yes" for row in self.rows)

    def compare(self, what: str, found: float, least: float, unit: str = "{:.4%}") -> None:
        """Add a row for a figure that must reach a least one."""
        self.rows.append([what, unit.format(found), unit.format(least), "yes" if found >= least else "NO"])

    def attempt(self, check: Callable[[Checks], None]) -> None:
        """Run a check; what it raises becomes a row."""
        started = time.perf_counter()
        try:
            check(self)
        except Exception as error:
            traceback.print_exc()
            self.rows.append([check.__name__, f"{type(error).__name__}: {str(error).splitlines()[0]}", "", "NO"])
        print(f"{check.__name__}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here; --device cpu --quick shows that the program works")
    ends = time.perf_counter() + 60 * options.minutes
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as name:
        checks = Checks(options.device, Path(name), options.quick)
        make_photos(checks)
        for check in (predict, evaluate, train, resume, export):
            checks.attempt(check)
    case = Case(options.device, 32 if options.quick else 512, 5 if options.quick else 150, 3, 0.05, "inductor")
    if options.quick:
        case = Case(options.device, 32, 5, 1, 0.0, "eager")
    rows = speeds(case, ends, options.quick)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    text = header(f"Checks on {where}", "python benchmarks/gpu_check.py --write", timing="Wall time, sides in turn.")
    text += "\n## The device beside the CPU\n\n"
    text += table(["what", "found", "at least", "good enough"], checks.rows)
    text += f"\n## Photos a second, ours / transformers, {case.size} x {case.size}, {case.classes} classes\n\n"
    text += table(["", "precision", "batch", *WAYS, "ratio of the best"], rows)
    publish("gpu_check", text, options.write and not options.quick)
    if checks.failed:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny cases, to see that the program works")
    parser.add_argument("--minutes", type=float, default=5.5, help="after which no further row is begun")
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


# -- the checks -------------------------------------------------------------------------------------------------------


def make_photos(checks: Checks) -> None:
    """Cut the shipped example into photos, and give them the CPU's masks as labels."""
    folder = bundled_folder(DEFAULT_MODEL)
    assert folder is not None
    with Image.open(folder / "example.jpg") as photo:
        rgb = np.asarray(photo.convert("RGB"))
    tops, lefts = (np.linspace(0, length - WINDOW, 2 if checks.quick else 4).astype(int) for length in rgb.shape[:2])
    corners = [(top, left) for top in tops for left in lefts]
    on_cpu = make_predictor(device="cpu", engine="torch", precision="fp32")
    for number, (top, left) in enumerate(corners):
        split = "val" if number % 4 == 0 else "train"
        window = rgb[top : top + WINDOW, left : left + WINDOW]
        (mask,) = on_cpu.masks([window])
        for kind, values in (("images", window), ("masks", mask)):
            place = checks.folder / "data" / split / kind
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(place / f"{number}.png")
    (checks.folder / "data" / "labels.yaml").write_text(json.dumps(on_cpu.labels.to_dict()))


def predict(checks: Checks) -> None:
    """Masks of the whole example in each precision, beside the CPU's in float32."""
    folder = bundled_folder(DEFAULT_MODEL)
    assert folder is not None
    photo = folder / "example.jpg"
    expected = terrazzo.predict(photo, make_predictor(device="cpu", engine="torch", precision="fp32")).mask
    for precision, least in (("fp32", 0.9999), ("auto", 0.999), ("bf16", 0.99)):
        predictor = make_predictor(device=checks.device, engine="torch", precision=precision)  # type: ignore[arg-type]
        masks = [terrazzo.predict(photo, predictor).mask for _ in range(3 if checks.quick else 8)]
        same = min(float((mask == expected).mean()) for mask in masks)
        checks.compare(f"predict, {precision}: pixels of the CPU's class, worst of {len(masks)} runs", same, least)


def evaluate(checks: Checks) -> None:
    """mIoU against the CPU's own masks."""
    report = terrazzo.evaluate(DEFAULT_MODEL, checks.folder / "data", split="val", device=checks.device, engine="torch")
    checks.compare("evaluate, fp32: mIoU against the CPU's masks", report.metrics.mIoU / 100, 0.999)


def train(checks: Checks) -> None:
    """The loss curve and the weights of a short run, in float32 and without what is drawn on the device."""
    losses = {device: run(checks, device, f"run-{device}") for device in dict.fromkeys(("cpu", checks.device))}
    ours, expected = losses[checks.device], losses["cpu"]
    apart = max(abs(mine - other) / other for mine, other in zip(ours, expected, strict=True))
    checks.compare(f"train, fp32: agreement of {len(ours)} losses with the CPU's", 1 - apart, 0.99)
    checks.compare("train: the loss falls, first over last", ours[0] / ours[-1], 1.0, "{:.3f}")


def resume(checks: Checks) -> None:
    """A run that is stopped at its second step and resumed, beside the one without a break."""
    with stopped_at(2), suppress(SystemExit):
        run(checks, checks.device, "broken")
    losses = run(checks, checks.device, "broken", resume=True)
    whole = losses_of(checks.folder / f"run-{checks.device}")
    apart = max(abs(mine - other) / other for mine, other in zip(losses, whole, strict=True))
    checks.compare("resume: agreement of the losses with the unbroken run's", 1 - apart, 0.9999)


def export(checks: Checks) -> None:
    """A model that is on the device, as files, run on the CPU."""
    model = terrazzo.load(DEFAULT_MODEL)
    model.network.to(checks.device)
    image = np.asarray(Image.open(next((checks.folder / "data" / "val" / "images").iterdir())))
    expected = make_predictor(model, checks.device, engine="torch", precision="fp32").masks([image])[0]
    for suffix in (".pt2",) if checks.quick else (".pt2", ".onnx"):
        path = checks.folder / f"model{suffix}"
        terrazzo.export(model, path)
        (mask,) = make_predictor(path, "cpu").masks([image])
        checks.compare(f"export to {suffix}: pixels of the device's class", float((mask == expected).mean()), 0.999)


def run(checks: Checks, device: str, name: str, resume: bool = False) -> list[float]:
    """Train a B0 for three epochs; return the mean loss of each."""
    spec = MODELS["segformer_b0"]
    spec = ModelSpec(
        Part("mit", {**spec.encoder.fields, "drop_path_rate": 0.0}),
        Part("all_mlp", {**spec.decoder.fields, "dropout": 0.0}),
    )
    changes: dict[str, Any] = {
        "run.epochs": 3, "run.batch_size": 2, "run.precision": "fp32", "run.compile": False, "run.seed": 1,
    }  # fmt: skip
    output = checks.folder / name
    terrazzo.train(
        checks.folder / "data", output, None if resume else spec, overrides=None if resume else changes,
        resume=resume, workers=0, device=device,
    )  # fmt: skip
    return losses_of(output)


def losses_of(output: Path) -> list[float]:
    with (output / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Tell runs to stop after a step, as a signal would."""
    learn = Trainer.train_step

    def noted(trainer: Trainer, batch: Any) -> Any:
        if trainer.state.step + 1 == step:
            trainer.signals.number = signal.SIGTERM
        return learn(trainer, batch)

    Trainer.train_step = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.train_step = learn  # type: ignore[method-assign]


# -- the table --------------------------------------------------------------------------------------------------------


def speeds(case: Case, ends: float, quick: bool) -> list[list[str]]:
    """Return rows of photos per second; first all eager passes and graphs, then what is compiled, until time is up."""
    models, batches = (("b0",), (1, 2)) if quick else (MODELS_MEASURED, BATCHES)
    precision = "fp16" if case.device == "cuda" else "bf16"
    ways = [way for way in WAYS if way != "graph" or case.device == "cuda"]
    found: dict[tuple[str, int, str], tuple[float, float]] = {}
    pairs = {model: Pair.build(model, precision, case) for model in models}
    for batch, model, way in [
        *((batch, model, way) for batch in batches for model in models for way in ways if way != "compiled"),
        *((batch, model, "compiled") for batch in batches for model in models),
    ]:
        if time.perf_counter() < ends:
            found[model, batch, way] = both(pairs[model], batch, way, case)
            print(f"{model}, batch {batch}, {way}: {found[model, batch, way]}", file=sys.stderr, flush=True)
    rows = []
    for model in models:
        for batch in batches:
            here = {way: found[model, batch, way] for way in WAYS if (model, batch, way) in found}
            cells = [f"{here[way][0]:.4g} / {here[way][1]:.4g}" if way in here else "" for way in WAYS]
            best = [max((side[number] for side in here.values()), default=0.0) for number in (0, 1)]
            rows.append([model.upper(), precision, str(batch), *cells, f"{best[0] / best[1]:.2f}" if best[1] else ""])
    if time.perf_counter() < ends:
        rows.append(large(case, quick))
    return rows


def both(pair: Pair, batch: int, way: str, case: Case) -> tuple[float, float]:
    """Return photos per second of both sides; 0 for both where one of them fails."""
    images = torch.randn(batch, 3, case.size, case.size, device=case.device).to(pair.dtype)
    try:
        ours, theirs = alternate(
            [prepare(network, images, way, case) for network in (pair.ours, pair.theirs)], batch, case
        )
    except RuntimeError as error:  # out of memory, or a network that cannot be captured or compiled
        print(f"{pair.name}, batch {batch}, {way}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 0.0, 0.0
    return ours.images_per_second, theirs.images_per_second


def large(case: Case, quick: bool) -> list[str]:
    """Return a row for one photo as Cityscapes has them, beside what YOLO26-sem publishes for its smallest model."""
    size, dtype = ((32, 64), torch.bfloat16) if quick else (LARGE, torch.float16)
    ours = build_pair("segformer_b0", 19)[0].to(case.device, dtype, memory_format=torch.channels_last)
    image = torch.randn(1, 3, *size, device=case.device, dtype=dtype)
    way = "graph" if case.device == "cuda" else "eager"
    (measured,) = alternate([prepare(ours, image, way, case)], 1, case)
    found = f"{1000 / measured.images_per_second:.2f} ms; YOLO26-sem {YOLO_MILLISECONDS} ms"
    cells = [found if each == way else "" for each in WAYS]
    return [f"B0, {size[0]} x {size[1]}, 19 classes", str(dtype).removeprefix("torch."), "1", *cells, ""]


if __name__ == "__main__":
    main()
