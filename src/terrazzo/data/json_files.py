"""JSON files from labelling tools: bounded reading, a quick look at which words one holds, and numbers in them.

Everything raises `ValueError` or `DatasetError` on content that is not what it should be, and nothing else.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from terrazzo import config
from terrazzo.data.outlines import Points
from terrazzo.data.problems import file_error
from terrazzo.errors import DatasetError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.regular_files import open_regular

__all__ = [
    "file_version",
    "is_number",
    "is_set",
    "key_of",
    "mentions",
    "names_by_id",
    "picture_size",
    "points_of",
    "read_json",
    "read_lists",
    "whole_number",
]

MOST_BYTES = 4 << 30  # LVIS has documents of 1.2 GB
LOOKED_THROUGH = 64 << 20  # bytes at each end of a file, to tell what it is
MOST_POINTS = 1 << 20  # of one outline
FARTHEST = 1 << 24  # pixels from the corner of an image that a point may lie


def read_json(path: Path, *, fix: str) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        fix: what to do about one that cannot be read.

    Raises:
        DatasetError: as `terrazzo.config.read_json`, or it is larger than four gigabytes.
    """
    code, limit = "dataset-annotations", MOST_BYTES
    try:
        return config.read_json(path, error=DatasetError, code=code, most_bytes=limit, lenient=True)
    except DatasetError as error:
        raise DatasetError(error.message, fix=fix, code=error.code) from error


def read_lists(path: Path, what: str, *keys: str, fix: str) -> dict[str, Any]:
    """Parse a JSON file that holds a list under each of some keys, as `what` does, such as ``a file of labelme``.

    Raises:
        DatasetError: as `read_json`, or it lacks a list.
    """
    document: Any = read_json(path, fix=fix)
    missing = [key for key in keys if not isinstance(document, dict) or not isinstance(document.get(key), list)]
    if missing:
        raise file_error(path, f"it is a JSON file, but not {what}: {', '.join(missing)} missing", fix=fix)
    return dict(document)


def mentions(path: Path, *keys: str) -> bool:
    """Whether a file holds all these words in double quotes, near its beginning or end, without parsing it."""
    try:
        return os.path.isfile(path) and _mentions(*file_version(path), keys)
    except DatasetError:  # it is said when the document is read
        return False


@lru_cache(maxsize=1024)
def _mentions(path: Path, modified: int, size: int, keys: tuple[str, ...]) -> bool:
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            parts = ((0, min(size, LOOKED_THROUGH)), (max(size - LOOKED_THROUGH, 0), size))
            return all(any(text.find(f'"{key}"'.encode(), *part) >= 0 for part in parts) for key in keys)
    except (ValueError, OSError):  # an empty file, or one that is closed to us
        return False


def file_version(path: Path) -> tuple[Path, int, int]:
    """A path with what changes when somebody writes to the file: a key for caches of what it holds.

    Raises:
        DatasetError: it is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise file_error(path, f"cannot be read: {error.strerror}", fix="check its permissions") from error
    return path, status.st_mtime_ns, status.st_size


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number of moderate size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15


def is_set(flag: object) -> bool:
    """Whether a mark is set that tools write as a number, a truth value or text."""
    return flag.strip().casefold() not in ("", "0", "false", "no") if isinstance(flag, str) else bool(flag)


def whole_number(value: object) -> int | None:
    """Read a whole number, which some tools write as text or with a decimal point; None where it is none."""
    if type(value) is int:  # as nearly all are
        return value if abs(value) < 10**15 else None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if len(text) < 16 and text.isascii() and text.removeprefix("-").isdigit() else None
    return int(value) if is_number(value) and value == math.floor(value) else None


def key_of(id_: object) -> int | str | None:
    """Read what entries of a document refer to each other by, a number or a text: 7, 7.0 and "7" are one."""
    number = whole_number(id_)
    return number if number is not None else id_ if isinstance(id_, str) else None


def names_by_id(items: object) -> dict[int, str] | None:
    """Read [{"id": 1, "name": "leaf"}, ...] in the order of ids; None where one has no id of its own, or no name."""
    found: dict[int, str] = {}
    for item in items if isinstance(items, list) else [None]:
        given = item if isinstance(item, dict) else {}
        id_, name = whole_number(given.get("id")), given.get("name")
        if id_ is None or id_ in found or not isinstance(name, str):
            return None
        found[id_] = name.strip()
    return dict(sorted(found.items()))


def picture_size(height: object, width: object) -> tuple[int, int] | None:
    """Read a (height, width) that an image can have; None where it is none."""
    h, w = whole_number(height), whole_number(width)
    return (h, w) if h is not None and w is not None and min(h, w) > 0 and h * w <= MAX_PIXELS else None


def points_of(points: object) -> Points:
    """Read [[x, y], ...] as (N, 2).

    Raises:
        ValueError: something else.
    """
    if not isinstance(points, Sequence) or isinstance(points, str) or len(points) > MOST_POINTS:
        raise ValueError("its points are not a list of x and y")
    for point in points:
        pair = isinstance(point, Sequence) and not isinstance(point, str) and len(point) == 2
        if not pair or not all(is_number(value) and abs(value) < FARTHEST for value in point):
            raise ValueError("its points are not a list of x and y")
    return np.array(points, np.float64).reshape(-1, 2)
