"""Georeferenced rasters of growing size: peak memory, and throughput beside that of the network alone on windows.

    python benchmarks/raster.py --photos aerial/train/images --folder /tmp/scenes --write
    python benchmarks/raster.py --photos aerial/train/images --folder /tmp/scenes --sides 5000 --narrow 30000

Each scene is a square RGB GeoTIFF (512 x 512 tiles, deflate) whose tiles are parts of real photos; it is made once and
kept in --folder. Each is segmented by the command that a user would type, ``terrazzo predict SCENE.tif --save mask``,
in a process of its own. The network alone is its engine, called on windows of the same scene that are in memory and
normalised already. Sides of --narrow are segmented by a SegFormer of a few channels with random weights: what grows
with the size is the same, and on a slow machine it ends.

The work goes on where it was ended: scenes and rows that are complete are kept, and so are the bands of a scene that
was being segmented. A run that was ended has no times, only its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from measure import apart, header, publish, table

# Nothing at the top imports torch: a process's memory includes what its parent held.
TILE, WINDOW, STRIDE = 512, 1024, 768
LOOKED_AT = 6  # windows of the network alone, before and after
TIMING = (
    "Processor time is that of all threads of the command, from its start to its end. Where the machine was shared, "
    "wall time means little. The network's share is the processor time of the network alone, on as many windows, as a "
    "part of that."
)


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = [measured(side, options, model=options.model) for side in options.sides]
    if options.narrow:
        apart(save_narrow, folder / "narrow")
        rows += [measured(side, options, model=str(folder / "narrow")) for side in options.narrow]
    rows.sort(key=lambda row: (row["side"], row["model"] == "narrow"))
    command = f"python benchmarks/raster.py --photos FOLDER --folder FOLDER --threads {options.threads}"
    text = header("Georeferenced rasters of growing size", f"{command} --write", ("openvino", "rasterio"), TIMING)
    columns = ["raster", "windows", "model", "peak memory, MB", "wall, s", "processor, s", "network alone, ms a window",
               "network's share", "file, MB"]  # fmt: skip
    publish("raster", text + "\n" + table(columns, list(map(told, rows))), options.write)


def parse() -> argparse.Namespace:
    def sides(text: str) -> list[int]:
        return [int(side) for side in text.split(",") if side]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for scenes and what is done so far; 4 GB")
    parser.add_argument("--sides", type=sides, default="5000,15000,30000")
    parser.add_argument("--narrow", type=sides, default="")
    parser.add_argument("--model", default="segformer_b0.camvid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


def told(row: dict[str, Any]) -> list[str]:
    side, timed = row["side"], row["wall"] is not None
    return [
        f"{side} x {side}",
        str(row["windows"]),
        row["model"],
        f"{row['memory'] / 1e6:.0f}",
        f"{row['wall']:.0f}" if timed else "went on twice",
        f"{row['cpu']:.0f}" if timed else "",
        f"{1e3 * row['alone']:.0f}",
        f"{row['windows'] * row['alone'] / row['cpu']:.0%}" if timed else "",
        f"{row['file'] / 1e6:.0f}",
    ]


def measured(side: int, options: argparse.Namespace, model: str) -> dict[str, Any]:
    """Segment a scene, or return what an earlier run measured."""
    name = Path(model).name
    done, begun = (options.folder / f"{side}.{name}.{ending}" for ending in ("json", "begun"))
    if done.exists():
        row: dict[str, Any] = json.loads(done.read_text())
        return row
    scene: Path = options.folder / f"{side}.tif"
    if not scene.exists():
        apart(make_scene, scene, side, options.photos)
    is_first = not begun.exists()
    begun.touch()
    before = apart(network_alone, scene, model, options.threads)
    command = [
        sys.executable, "-m", "terrazzo", "predict", str(scene), "--model", model, "--threads", str(options.threads),
        "--save", "mask", "--output", str(options.folder / name),
    ]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    wall = time.perf_counter() - started
    after = apart(network_alone, scene, model, options.threads)
    along = -(-max(side - WINDOW, 0) // STRIDE) + 1
    row = {
        "side": side,
        "model": name,
        "windows": along**2,
        "memory": usage.ru_maxrss * 1024,
        "wall": wall if is_first else None,
        "cpu": usage.ru_utime + usage.ru_stime,
        "alone": (before + after) / 2,
        "file": scene.stat().st_size,
    }
    done.write_text(json.dumps(row))
    return row


def make_scene(path: Path, side: int, photos: Path) -> None:
    """Write a raster whose tiles are parts of photos, turned and mirrored at random."""
    import rasterio
    from rasterio.transform import Affine

    files = sorted(file for file in photos.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    images = [image for image in images if min(image.shape[:2]) >= TILE]
    if not images:
        raise SystemExit(f"no photo in {photos} has {TILE} pixels on both sides")
    rng = np.random.default_rng(side)
    partial = path.with_suffix(".partial.tif")
    profile = {"height": side, "width": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32640", "photometric": "rgb"}
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate"}
    place = Affine(0.3, 0, 325000, 0, -0.3, 2790000)
    with (
        rasterio.Env(GDAL_CACHEMAX=64),
        rasterio.open(partial, "w", driver="GTiff", transform=place, bigtiff="if_safer", **profile, **tiles) as file,
    ):
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                image = images[rng.integers(len(images))]
                y, x = (rng.integers(length - TILE + 1) for length in image.shape[:2])
                part = np.rot90(image[y : y + TILE, x : x + TILE], rng.integers(4))[:, :: rng.choice((-1, 1))]
                height, width = min(TILE, side - top), min(TILE, side - left)
                window = (top, top + height), (left, left + width)
                file.write(np.ascontiguousarray(np.moveaxis(part[:height, :width], -1, 0)), window=window)
    partial.replace(path)


def network_alone(scene: Path, model: str, threads: int) -> float:
    """Return the processor time of the network on a window, in the engine that the command chooses."""
    import rasterio

    from terrazzo.engines.auto import Workload
    from terrazzo.inference.predict import make_predictor

    predictor = make_predictor(model, threads=threads, workload=Workload.of([scene]))
    with rasterio.open(scene) as file:
        image = np.moveaxis(file.read(window=((0, WINDOW), (0, WINDOW))), 0, -1)
    batch = np.ascontiguousarray(predictor.preprocess.normalize(np.ascontiguousarray(image))).transpose(2, 0, 1)[None]
    predictor.engine(batch)
    started = time.process_time()
    for _ in range(LOOKED_AT):
        predictor.engine(batch)
    return (time.process_time() - started) / LOOKED_AT


def save_narrow(folder: Path) -> None:
    """Save a SegFormer of a few channels, with random weights and the classes of the shipped model."""
    if folder.exists():
        return
    import torch

    import terrazzo
    from terrazzo.labels.spec import LabelSpec
    from terrazzo.models.segformer import segformer_spec
    from terrazzo.preprocess import Preprocess
    from terrazzo.weights.files import save_folder

    torch.manual_seed(0)
    spec = segformer_spec("segformer_b0", {"embed_dims": (8, 16, 40, 64), "depths": (1, 1, 1, 1)}, 16)
    labels = LabelSpec.bundled("camvid")
    network = terrazzo.create_model(spec, labels.num_classes).eval()
    save_folder(folder, terrazzo.TrainedModel("narrow", network, labels, Preprocess(), {}, "narrow"))


if __name__ == "__main__":
    main()
