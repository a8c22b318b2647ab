"""The engines' speeds on this machine: `terrazzo benchmark` measures them once, and `auto` goes by them.

They are kept in the cache folder, for the processor, the number of threads and the versions of the engines.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from terrazzo.config import parse_json
from terrazzo.engines.cache import cached, keep
from terrazzo.engines.conversion_cache import package_version
from terrazzo.engines.engine import ENGINES
from terrazzo.errors import ConfigError
from terrazzo.graphs import GRAPHS_VERSION

__all__ = ["SIZES", "Speeds", "fastest_engine", "keep_speeds", "kept_speeds", "processor_name"]

SIZES = ((512, 512), (1024, 1024), (1024, 2048))
"""Of the network's input."""

SUFFIX = ".speeds"

Speeds: TypeAlias = dict[tuple[int, int], dict[str, float]]
"""Seconds of a pass of the shipped model in each engine, by the (height, width) of its input."""


def fastest_engine(threads: int, megapixels: float) -> str | None:
    """Return the name of the engine that was the fastest at the measured size that is nearest, if it is installed.

    Args:
        threads: computing threads in all.
        megapixels: of the network's input.
    """
    speeds = kept_speeds(threads)
    if not speeds:
        return None
    nearest = min(speeds, key=lambda size: abs(math.log(size[0] * size[1] / 1e6 / megapixels)))
    seconds = {name: value for name, value in speeds[nearest].items() if name in ENGINES and ENGINES[name].is_installed}
    return min(seconds, key=seconds.__getitem__, default=None)


def kept_speeds(threads: int) -> Speeds | None:
    """Return what was measured on this machine with so many threads; None if nothing was."""
    path = cached(_key(threads), SUFFIX)
    if path is None:
        return None
    try:
        rows = parse_json(path.read_bytes(), str(path))
        return {(row["size"][0], row["size"][1]): row["seconds"] for row in rows}
    except (OSError, ConfigError, TypeError, LookupError):  # not as `keep_speeds` writes it
        return None


def keep_speeds(threads: int, speeds: Speeds) -> Path:
    """Keep what was measured, in place of what was before.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    rows = [{"size": size, "seconds": seconds} for size, seconds in speeds.items()]
    before = cached(_key(threads), SUFFIX)
    path = keep(_key(threads), SUFFIX, json.dumps(rows).encode())
    if before not in (None, path):
        before.unlink(missing_ok=True)
    return path


def _key(threads: int) -> Mapping[str, Any]:
    versions = {engine.name: package_version(engine.package) for engine in ENGINES.values()}
    return {"processor": processor_name(), "threads": threads, "engines": versions, "graphs": GRAPHS_VERSION}


def processor_name() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
