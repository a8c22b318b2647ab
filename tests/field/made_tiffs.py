"""TIFFs written by hand: GDAL and OpenCV write these, Pillow does not."""

from __future__ import annotations

import struct
import zlib

import numpy as np

__all__ = ["tiff"]

TAGS = {"u1": (8, 1), "u2": (16, 1), "i2": (16, 2), "u4": (32, 1), "f4": (32, 3)}


def tiff(
    values_HWS: np.ndarray,
    *,
    photometric: int = 2,
    extra: tuple[int, ...] | None = None,
    order: str = "<",
    planar: bool = False,
    tile: int = 0,
    deflate: bool = False,
    predictor: int = 1,
    big: bool = False,
    metadata: str = "",
    nodata: str = "",
) -> bytes:
    """Write a TIFF by hand: GDAL and OpenCV write these, Pillow does not."""
    height, width, samples = values_HWS.shape
    values = values_HWS.astype(values_HWS.dtype.newbyteorder(order))
    bits, kind = TAGS[values_HWS.dtype.str[1:]]
    planes = [values[..., i : i + 1] for i in range(samples)] if planar else [values]
    blocks = []
    for plane in planes:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            rows, columns = range(0, padded.shape[0], tile), range(0, padded.shape[1], tile)
            blocks += [padded[y : y + tile, x : x + tile] for y in rows for x in columns]
        else:
            blocks += [plane[y : y + 8] for y in range(0, height, 8)]
    if predictor == 2:
        native = [block.astype(block.dtype.newbyteorder("=")) for block in blocks]
        differences = [np.diff(b, axis=1, prepend=np.zeros_like(b[:, :1])) for b in native]
        blocks = [d.astype(values.dtype) for d in differences]
    parts = [zlib.compress(block.tobytes()) if deflate else block.tobytes() for block in blocks]
    H4, offset = ("Q", 16) if big else ("I", 8)
    offsets = [offset + sum(map(len, parts[:i])) for i in range(len(parts))]
    counts = [len(part) for part in parts]
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [8 if deflate else 1])]
    entries += [(262, 3, [photometric]), (277, 3, [samples]), (284, 3, [2 if planar else 1]), (317, 3, [predictor])]
    entries += [(339, 3, [kind] * samples)] + ([(338, 3, list(extra))] if extra is not None else [])
    if tile:
        entries += [(322, 4, [tile]), (323, 4, [tile]), (324, 4, offsets), (325, 4, counts)]
    else:
        entries += [(278, 4, [8]), (273, 4, offsets), (279, 4, counts)]
    if metadata:
        entries.append((42112, 2, list(metadata.encode() + b"\0")))
    if nodata:
        entries.append((42113, 2, list(nodata.encode() + b"\0")))
    body = b"".join(parts)
    start = offset + len(body)
    directory, more = b"", b""
    size = (8 + 20 * len(entries) + 8) if big else (2 + 12 * len(entries) + 4)
    for tag, kind_, numbers in sorted(entries):
        packed = struct.pack(f"{order}{len(numbers)}{ {2: 'B', 3: 'H', 4: 'I'}[kind_] }", *numbers)
        field = 8 if big else 4
        if len(packed) > field:
            packed, more = struct.pack(order + H4, start + size + len(more)), more + packed
        directory += struct.pack(order + "HH" + H4, tag, kind_, len(numbers)) + packed.ljust(field, b"\0")
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sHHHQ", mark, 43, 8, 0, start) if big else struct.pack(f"{order}2sHI", mark, 42, start)
    return head + body + count + directory + bytes(8 if big else 4) + more
