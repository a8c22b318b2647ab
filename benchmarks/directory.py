"""Prediction for a directory of photos in each engine, from the command to the last mask file, beside transformers.

    python benchmarks/directory.py --photos camvid/train/images --write
    python benchmarks/directory.py --photos camvid/train/images --count 20 --engines torch

Each engine runs the command that a user would type, ``terrazzo predict FOLDER --engine NAME --save mask``, in a process
of its own: its figures include everything from starting Python to the last file. Before that it segments a single photo
twice: with an empty cache folder, so that it may have to convert the model, and again. Masks are compared, pixel by
pixel, with those of the network run by PyTorch operator by operator; where a pixel differs, the difference of the two
classes' logits shows how near they are to a tie.

transformers' image processor, model and post-processing segment the first --peer-count photos, with the same weights in
its own format; its time excludes its start. Its masks differ a little, since its LayerNorms have another epsilon.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from measure import apart, header, publish, table

# Nothing at the top imports torch: a process's memory includes what its parent held.
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, processor seconds over all threads, and peak memory in bytes."""

    wall: float
    cpu: float
    memory: int


def main() -> None:
    options = parse()
    images = sorted(path for path in options.images.iterdir() if path.suffix.lower() in SUFFIXES)[: options.count]
    if not images:
        raise SystemExit(f"there is no photo in {options.images}")
    engines = options.engines.split(",")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for some, place in ((images, "photos"), (images[:1], "one")):
            (folder / place).mkdir()
            for path in some:
                shutil.copy(path, folder / place)
        first, again, costs = {}, {}, {}
        for engine in engines:
            first[engine] = predict(engine, "one", options, folder)
            again[engine] = predict(engine, "one", options, folder)
            costs[engine] = predict(engine, "photos", options, folder)
        peer_cost = apart(peer, options.model, images[: options.peer_count], folder)
        differences = apart(compare, options.model, images, engines, folder)
        peer_difference = differing(masks_in(folder / "peer"), masks_in(folder / engines[0]))
    rows = []
    peer_wall, peer_cpu = peer_cost.wall / options.peer_count, peer_cost.cpu / options.peer_count
    for engine in engines:
        cost = costs[engine]
        rows.append(
            [
                f"ours, {engine}",
                f"{cost.wall:.1f}",
                f"{cost.cpu:.1f}",
                f"{1e3 * cost.cpu / len(images):.0f}",
                f"{peer_cpu / (cost.cpu / len(images)):.1f}",
                f"{cost.memory / 1e6:.0f}",
                f"{again[engine].cpu:.1f}",
                f"{first[engine].cpu:.1f}",
                differences[engine],
            ]
        )
    rows.append(
        [
            f"transformers, {options.peer_count} photos",
            f"{peer_wall * options.peer_count:.1f}",
            f"{peer_cost.cpu:.1f}",
            f"{1e3 * peer_cpu:.0f}",
            "1.0",
            f"{peer_cost.memory / 1e6:.0f}",
            "",
            "",
            f"{peer_difference} from {engines[0]}",
        ]
    )
    with Image.open(images[0]) as image:
        width, height = image.size
    title = f"A directory of {len(images)} photos of {height} x {width}, {options.model}"
    timing = (
        "Processor time of all threads, from starting the command to its end. Where the machine was shared, wall time "
        "means little."
    )
    threads = f" --threads {options.threads}" if options.threads > 1 else ""
    text = header(
        title, f"python benchmarks/directory.py --photos FOLDER{threads} --write", ("onnxruntime", "openvino"), timing
    )
    columns = [
        "", "wall, s", "processor, s", "processor, ms a photo", "times as fast as transformers", "most memory, MB",
        "one photo, s", "one photo, model never seen, s", "pixels unlike PyTorch, operator by operator",
    ]  # fmt: skip
    publish("directory", text + "\n" + table(columns, rows), options.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", dest="images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--peer-count", type=int, default=20)
    parser.add_argument("--model", default="segformer_b0.camvid")
    parser.add_argument("--engines", default="torch,onnxruntime,openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


def predict(engine: str, images: str, options: argparse.Namespace, folder: Path) -> Cost:
    """Run the command and return its cost."""
    command = [
        sys.executable, "-m", "terrazzo", "predict", str(folder / images), "--model", options.model, "--engine",
        engine, "--threads", str(options.threads), "--save", "mask", "--output", str(folder / engine),
    ]  # fmt: skip
    environment = {**os.environ, "TERRAZZO_CACHE": str(folder / f"{engine}-cache")}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, kilobyte * usage.ru_maxrss)


def peer(model: str, images: list[Path], folder: Path) -> Cost:
    """Segment photos as transformers' documentation does, and write mask files."""
    import torch
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    from terrazzo.engines.memory import keep_freed_memory
    from terrazzo.profiling.machine import peak_memory
    from terrazzo.weights.convert import convert

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_freed_memory()
    convert(model, folder / "hf", "hf")
    processor = SegformerImageProcessor.from_pretrained(folder / "hf")
    network = SegformerForSemanticSegmentation.from_pretrained(folder / "hf").eval()
    (folder / "peer").mkdir()

    def segment(path: Path) -> None:
        photo = Image.open(path).convert("RGB")
        with torch.inference_mode():
            outputs = network(**processor(photo, return_tensors="pt"))
        (mask,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[photo.size[::-1]])
        Image.fromarray(mask.numpy().astype(np.uint8)).save(folder / "peer" / f"{path.stem}_mask.png")

    segment(images[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for path in images:
        segment(path)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, peak_memory() or 0)


def compare(model: str, images: list[Path], engines: list[str], folder: Path) -> dict[str, str]:
    """Return the number of each engine's pixels that differ from PyTorch's, and how near to a tie they are."""
    import torch
    import torch.nn.functional as F

    from terrazzo.imaging.read import read_image
    from terrazzo.weights.load import load

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    trained = load(model)
    counts, gaps = dict.fromkeys(engines, 0), dict.fromkeys(engines, 0.0)
    for path in images:
        image = read_image(path)
        x = torch.from_numpy(np.ascontiguousarray(trained.preprocess(image)))[None]
        with torch.inference_mode():
            logits = F.interpolate(trained.network(x), x.shape[2:], mode="bilinear", align_corners=False)
            if x.shape[2:] != image.shape[:2]:
                logits = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        best, expected = logits[0].max(0)
        for engine in engines:
            mask = torch.from_numpy(read_mask(folder / engine / f"{path.stem}_mask.png").astype(np.int64))
            if (unlike := mask != expected).any():
                gap = best - logits[0].gather(0, mask[None])[0]
                counts[engine] += int(unlike.sum())
                gaps[engine] = max(gaps[engine], float(gap[unlike].max()))
    return {engine: f"{count} (gap {gaps[engine]:.0e})" if count else "0" for engine, count in counts.items()}


def masks_in(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.name: read_mask(path) for path in folder.iterdir()}


def differing(some: dict[str, NDArray[np.uint8]], all_: dict[str, NDArray[np.uint8]]) -> int:
    return sum(int((mask != all_[name]).sum()) for name, mask in some.items())


def read_mask(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


if __name__ == "__main__":
    main()
