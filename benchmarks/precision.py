"""Precisions of the shipped SegFormer-B0 on CamVid: val mIoU, file size and time of each.

    python benchmarks/precision.py --data CAMVID --write
    python benchmarks/precision.py --data CAMVID --photos 10

They are: float32 in PyTorch, ONNX Runtime and OpenVINO; files with float16 weights, with which both runtimes compute in
float32; int8, calibrated with photos of the training split as `terrazzo export` does; and bfloat16, which is left out
on a processor without instructions for it. Each uses one thread. mIoU is over the whole split, or over --photos photos
spread over it; the time is that of the network alone, on photos in memory, after one unmeasured call.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the libraries that read it

import argparse
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import measure
import terrazzo
from engines import processor_has_bf16
from terrazzo.data import Dataset, open_dataset
from terrazzo.engines.engine import Engine, EngineOptions
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.onnxruntime import OnnxRuntimeEngine
from terrazzo.engines.openvino import OpenVINOEngine
from terrazzo.engines.torch import TorchEngine
from terrazzo.evaluation.evaluator import score
from terrazzo.exports.int8 import split_images
from terrazzo.inference.predictor import Predictor
from terrazzo.weights.files import TrainedModel, save_folder

MODEL = "segformer_b0.camvid"
TIMED = 3
"""Number of images in a round: all have one size and take the same time."""

FILES: dict[str, dict[str, Any]] = {
    "fp32.onnx": {},
    "fp32.xml": {},
    "fp16.onnx": {"precision": "fp16"},
    "fp16.xml": {"precision": "fp16"},
    "int8.onnx": {"precision": "int8", "max_loss": 100},  # the loss is what is measured here
    "int8.xml": {"precision": "int8", "max_loss": 100},
}
NO_BF16 = "no instructions for it here"


@dataclass(frozen=True)
class Way:
    """One row of the table: its engine (None if it cannot run here) and its file's bytes."""

    engine: Engine | None
    size: int


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    trained = terrazzo.load(MODEL)
    labels = replace(trained.labels, id_map=None, colors=None)
    dataset = open_dataset(options.data, options.split, fallback=labels)
    step = max(len(dataset) // (options.images or len(dataset)), 1)
    indices = range(0, len(dataset), step)[: options.images]
    images = [str(sample.image.file) for sample in open_dataset(options.data, "train", labels).samples]
    with tempfile.TemporaryDirectory() as folder:
        ways = open_ways(trained, images, Path(folder))
        rows = compare(ways, trained, dataset, indices, options.rounds)
    asked = f" --photos {options.images}" if options.images else ""
    text = measure.header(
        f"Precisions of {MODEL} on CamVid {options.split}, {len(indices)} photos",
        f"python benchmarks/precision.py --data CAMVID{asked} --write",
        ("onnxruntime", "openvino", "nncf"),
    )
    text += (
        f"Milliseconds as median / least of {options.rounds} rounds of {TIMED} photos. int8 was calibrated with "
        f"{len(split_images(images)[0])} photos of train.\n"
    )
    columns = ["", "mIoU", "points lost", "file, MB", "ms a photo", "times as fast as PyTorch in fp32"]
    measure.publish("precision", text + "\n" + measure.table(columns, rows), options.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CamVid's folder, with train and the split")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", dest="images", type=int, help="of the split, for mIoU; by default all")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


def open_ways(trained: TrainedModel, images: list[str], folder: Path) -> dict[str, Way]:
    """Export the model in every precision, and open each file in the engine that it is for."""
    save_folder(folder / "model", trained)
    whole = (folder / "model" / "model.safetensors").stat().st_size
    sizes = {}
    for name, how in FILES.items():
        calibrate = images if how.get("precision") == "int8" else ()
        sizes[name] = terrazzo.export(trained, folder / name, calibrate=calibrate, **how).size
    one, half = EngineOptions(threads=1), EngineOptions(threads=1, precision="bf16")

    def onnx(name: str) -> Way:
        return Way(OnnxRuntimeEngine(folder / name, one), sizes[name])

    def openvino(name: str, options: EngineOptions = one) -> Way:
        return Way(OpenVINOEngine(folder / name, options), sizes[name])

    has_bf16 = processor_has_bf16()
    return {
        "fp32, PyTorch": Way(TorchEngine(trained.network, "cpu", one), whole),
        "fp32, ONNX Runtime": onnx("fp32.onnx"),
        "fp32, OpenVINO": openvino("fp32.xml"),
        "fp16 weights, ONNX Runtime": onnx("fp16.onnx"),
        "fp16 weights, OpenVINO": openvino("fp16.xml"),
        "bf16, PyTorch": Way(TorchEngine(trained.network, "cpu", half) if has_bf16 else None, whole),
        "bf16, OpenVINO": openvino("fp32.xml", half) if has_bf16 else Way(None, sizes["fp32.xml"]),
        "int8, ONNX Runtime": onnx("int8.onnx"),
        "int8, OpenVINO": openvino("int8.xml"),
    }


def compare(
    ways: dict[str, Way], trained: TrainedModel, dataset: Dataset, indices: range, rounds: int
) -> list[list[str]]:
    engines = {name: way.engine for name, way in ways.items() if way.engine is not None}
    inputs = [np.ascontiguousarray(trained.preprocess(dataset.read(index)[0])[None]) for index in indices[:TIMED]]
    measured = measure.alternate([partial(run_all, engine, inputs) for engine in engines.values()], rounds)
    times = {
        name: measure.Times(tuple(seconds / len(inputs) for seconds in each.seconds))
        for name, each in zip(engines, measured, strict=True)
    }
    scores = {
        name: score(Predictor(engine, trained.preprocess, trained.labels), dataset, indices).metrics().mIoU
        for name, engine in engines.items()
    }
    first = next(iter(ways))
    rows = []
    for name, way in ways.items():
        accuracy, speed = ["", ""], [NO_BF16, ""]
        if name in scores:
            accuracy = [f"{scores[name]:.2f}", f"{scores[first] - scores[name]:.2f}".replace("-0.00", "0.00")]
        if name in times:
            speed = [measure.milliseconds(times[name]), measure.ratio(times[first], times[name])]
        rows.append([name, *accuracy, f"{way.size / 1e6:.1f}", *speed])
    return rows


def run_all(engine: Engine, inputs: list[Any]) -> None:
    for images_B3HW in inputs:
        engine(images_B3HW)


if __name__ == "__main__":
    main()
