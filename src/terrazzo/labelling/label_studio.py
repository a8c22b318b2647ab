"""Masks for Label Studio: tasks with predictions as brush strokes, and the labelling configuration that shows them.

Brush masks are stored as a run-length code of their own, a stream of bits, highest first, that packs the mask's RGBA
bytes. It is the format of the library @thi.ng/rle-pack:

    32 bits              how many values follow: 4 for each pixel
    5 bits               bits of a value, minus one: 7
    4 x 4 bits           bits of a run's length, minus one, for four kinds of runs
    then for each run:
      1 bit              1: one value repeated, 0: values one after the other
      2 bits             the kind of run
      so many bits       its length, minus one
      8 bits             the value, or each value
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from terrazzo.labels.spec import LabelSpec
from terrazzo.marks import blank_mark
from terrazzo.text import printable

__all__ = ["brush_rle", "label_studio_config", "label_studio_tasks"]

FROM, TO = "label", "image"
RUN_BITS = (4, 8, 12, 16)
LONGEST_RUN = 1 << RUN_BITS[-1]
CHANNELS = 4


def label_studio_config(labels: LabelSpec) -> str:
    """Write the labelling configuration of a project: one brush for each class, in its colour."""
    lines = [
        f'    <Label value={quoteattr(printable(name))} background="#{red:02x}{green:02x}{blue:02x}"/>'
        for name, (red, green, blue) in zip(labels.names, labels.palette, strict=True)
    ]
    head = f'<View>\n  <Image name="{TO}" value="$image" zoom="true"/>\n  <BrushLabels name="{FROM}" toName="{TO}">'
    return "\n".join([head, *lines, "  </BrushLabels>", "</View>"])


def label_studio_tasks(
    photos: Iterable[tuple[str, NDArray[np.integer], float]], labels: LabelSpec, model: str
) -> bytes:
    """Write tasks as the JSON that Label Studio imports, with a mark of this program in the first.

    Args:
        photos: of each its path below the folder that Label Studio serves, its (H, W) mask, and how sure the model is.
        labels: the classes.
        model: the model's name.
    """
    tasks: list[dict[str, Any]] = []
    for path, mask, score in photos:
        prediction = {"model_version": printable(model), "score": round(score, 4), "result": _regions(mask, labels)}
        task = {"data": {TO: f"/data/local-files/?d={quote(path)}"}, "predictions": [prediction]}
        tasks.append(task if tasks else {"meta": {"written_by": blank_mark("suggest")}, **task})
    return ("[\n" + ",\n".join(json.dumps(task) for task in tasks) + "\n]\n").encode()


def _regions(mask_HW: NDArray[np.integer], labels: LabelSpec) -> list[dict[str, Any]]:
    """One brushed region for each class of a mask."""
    height, width = mask_HW.shape
    return [
        {
            "id": f"class-{k}",
            "type": "brushlabels",
            "from_name": FROM,
            "to_name": TO,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": list(brush_rle(mask_HW == k)), "brushlabels": [printable(name)]},
        }
        for k, name in enumerate(labels.names)
        if (mask_HW == k).any()
    ]


def brush_rle(painted_HW: NDArray[np.bool_]) -> bytes:
    """Return a mask in Label Studio's run-length code: white and opaque where it is painted, else transparent."""
    values = painted_HW.ravel()
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    starts = np.append(0, ends[:-1])
    bits = [f"{CHANNELS * len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        value = "11111111" if values[start] else "00000000"
        for length in _parts(CHANNELS * (end - start)):
            kind = next(kind for kind, size in enumerate(RUN_BITS) if length <= 1 << size)
            bits.append(f"1{kind:02b}{length - 1:0{RUN_BITS[kind]}b}{value}")
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return int(stream, 2).to_bytes(len(stream) // 8, "big")


def _parts(length: int) -> Sequence[int]:
    whole, rest = divmod(length, LONGEST_RUN)
    return [*[LONGEST_RUN] * whole, *([rest] if rest else [])]
