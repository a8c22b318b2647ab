"""Segment a TIFF of any size from file to file and say how long it took and how much memory: for a process of its own.

    python gigapixel.py FOLDER HEIGHT WIDTH KINDS

The tiles of the file repeat the example image that ships with a model, so that the file is small while everything that
is read from it is an image's. The network gives every sixteenth pixel's colours as its logits.
"""

from __future__ import annotations

import json
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 512
SHORT, LONG = 3, 4


def write_tiff(path: Path, height: int, width: int, tiles: Sequence[NDArray[np.uint8]], level: int = 6) -> None:
    """Write a tiled RGB TIFF whose tiles all are one of a few (side, side, 3) arrays."""
    across, down = -(-width // SIDE), -(-height // SIDE)
    parts = [zlib.compress(tile.tobytes(), level) for tile in tiles]
    starts = np.cumsum([8, *map(len, parts)])
    chosen = (np.arange(across * down) * 7 + np.arange(across * down) // across * 3) % len(parts)
    data = b"".join(parts) + bytes(int(starts[-1]) % 2)
    offsets = 8 + len(data)
    lengths = offsets + 4 * chosen.size
    bits = lengths + 4 * chosen.size
    tags = [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 3, bits),
        (259, SHORT, 1, 8),  # deflate
        (262, SHORT, 1, 2),  # RGB
        (277, SHORT, 1, 3),
        (322, LONG, 1, SIDE),
        (323, LONG, 1, SIDE),
        (324, LONG, chosen.size, offsets),
        (325, LONG, chosen.size, lengths),
    ]
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, bits + 6) + data)
        file.write(starts[chosen].astype("<u4").tobytes() + np.diff(starts)[chosen].astype("<u4").tobytes())
        file.write(struct.pack("<4H", 8, 8, 8, len(tags)))
        file.write(b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4))


def main(folder: Path, height: int, width: int, kinds: str) -> None:
    from terrazzo.imaging.read import ReadOptions, read_image
    from terrazzo.inference.predict_folder import predict_folder
    from terrazzo.inference.predictor import Predictor
    from terrazzo.inference.protocols import Protocol
    from terrazzo.labels.spec import LabelSpec
    from terrazzo.preprocess import Preprocess
    from terrazzo.weights.catalog import example_image

    def network(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(images_B3HW[..., ::16, ::16])

    example = example_image("segformer_b0.camvid")
    assert example is not None
    image = cv2.resize(read_image(example), (4 * SIDE, 2 * SIDE))
    tiles = [image[y : y + SIDE, x : x + SIDE] for y in (0, SIDE) for x in range(0, 4 * SIDE, SIDE)]
    write_tiff(folder / "scene.tif", height, width, [np.ascontiguousarray(tile) for tile in tiles])
    predictor = Predictor(
        network,
        Preprocess(mean=(0, 0, 0), std=(255, 255, 255)),
        LabelSpec.from_names(["red", "green", "blue"]),
        protocol=Protocol("mine", window=1024, stride=768, blend="linear"),
    )
    started = time.perf_counter()
    summary = predict_folder(
        folder / "scene.tif", folder / "out", predictor, save=kinds, reading=ReadOptions(max_pixels=1)
    )
    (written,) = summary.written
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    said = {"pixels": sum(area.pixels for area in written.areas), "peak_mb": peak / 1024}
    print(json.dumps({**said, "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
