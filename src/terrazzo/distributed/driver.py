"""`predict`: blocks of photos over the workers of a Ray cluster, with each block done once.

A worker has one block at a time, so that nothing piles up where a worker is slow. The part of the report that a block
leaves is written last and at once, so that a block is done or is done again. A block whose worker dies is given to
another one; when it dies there too the block is halved, and halved again, until one photo is left, which is then a row
with an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.atomic import make_folder, write_atomic
from terrazzo.config import read_json
from terrazzo.distributed.blocks import Block, blocks_of
from terrazzo.distributed.worker import Wanted, Worker, write_part
from terrazzo.engines.engine import Precision
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.inference.kinds import check_kinds
from terrazzo.notes import note
from terrazzo.text import said_by, shown_path
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["Done", "predict"]

PART = re.compile(r"(\d{7})(?:\.(\d+)-(\d+)-of-(\d+))?\.parquet")
PLAN = "plan.json"


@dataclass(frozen=True)
class Done:
    """What became of the photos.

    Attributes:
        images: segmented in this run.
        failures: photos of this run that could not be, each a row with an error.
        blocks: done in this run.
        skipped: blocks that an earlier run had done.
        report: folder of Parquet files with a row for each photo: image, files or mask, classes, code and error.
    """

    images: int
    failures: int
    blocks: int
    skipped: int
    report: Path


@dataclass(frozen=True)
class _Piece:
    """Photos of a block, from `start` to before `stop`; all of it where there is no stop."""

    number: int
    start: int = 0
    stop: int | None = None
    count: int = 0
    deaths: int = 0

    def part(self, report: Path) -> Path:
        span = "" if self.stop is None else f".{self.start}-{self.stop}-of-{self.count}"
        return report / f"{self.number:07d}{span}.parquet"


@checked
def predict(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    model: str | Path = DEFAULT_MODEL,
    *,
    save: str | Iterable[str] = ("mask", "json"),
    block_size: int = 64,
    batch_size: int = 4,
    workers: int | None = None,
    threads: int = 1,
    device: str | None = None,
    engine: str = "auto",
    precision: Precision = "auto",
    protocol: str = "whole",
    trust: bool = False,
    address: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Done:
    """Segment photos with the workers of a Ray cluster. Run again with the same arguments, it does what is left.

    Args:
        images: image files, folders and patterns, Parquet tables with a column of images or paths (`.parquet`), and
            WebDataset shards (`.tar`).
        output: folder for results and report; all machines of the cluster reach it and the images at the same path.
        model: as `make_predictor` takes it; each worker loads it once.
        save: kinds of files, as `predict_folder` has them; or none, for the masks as PNG in the report.
        block_size: image files of a block. A row group and a shard are blocks of their own.
        batch_size: the most photos of one network size that are computed together.
        workers: processes; by default as many as the cluster has cores for.
        threads: computing threads of a worker.
        device: of a worker; for ``cuda`` each has a GPU of its own.
        engine: as `make_predictor` takes it.
        precision: likewise.
        protocol: likewise.
        trust: likewise.
        address: of the cluster; by default RAY_ADDRESS, or where that is not set a cluster of this machine for as long
            as the call takes.
        progress: told how many blocks are done, and of how many, after each.

    Raises:
        ConfigError: an option is wrong, or the output belongs to a run with other arguments (code "dist-other-run").
        ImageError: there are no images.
        MissingExtraError: ray or pyarrow is not installed.
        CheckpointError: the model cannot be loaded.
    """
    for name, value in (("block_size", block_size), ("batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} is {value}", fix="give at least 1")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", fix="give at least 1")
    kinds = tuple(check_kinds(save)) if save else ()
    ray = _ray()
    folder, listed = Path(output), [images] if isinstance(images, (str, os.PathLike)) else list(images)
    blocks = blocks_of(listed, folder.absolute(), block_size)
    report = make_folder(folder / "report")
    _claim(report, blocks, [str(model), list(kinds), protocol])
    left = list(_left(report, len(blocks)))
    untouched = len(blocks) - len({piece.number for piece in left})
    if not left:
        return Done(0, 0, 0, untouched, report)

    options: dict[str, Any] = {
        "device": device, "engine": engine, "threads": threads, "precision": precision, "protocol": protocol,
        "trust": trust,
    }  # fmt: skip
    own = not ray.is_initialized()
    if own:
        quiet: dict[str, Any] = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        ray.init(address=address, log_to_driver=False, **quiet)
    try:
        resources = {"num_cpus": threads, "num_gpus": int(device is not None and device.startswith("cuda"))}
        actor = ray.remote(**resources)(Worker)
        room = max(1, int(ray.cluster_resources().get("CPU", 0)) // threads)
        if workers is not None and workers > room:
            note(f"the cluster has room for {room} workers of {threads} cores, and {workers} are asked for")
        count = min(workers or room, room, len(left))
        run = _Run(ray, lambda: actor.remote(str(model), options, Wanted(kinds, batch_size)), blocks, report.absolute())
        return run.all(left, count, untouched, progress)
    finally:
        if own:
            ray.shutdown()


class _Run:
    """Workers, and the pieces that they have."""

    def __init__(self, ray: Any, start: Callable[[], Any], blocks: Sequence[Block], report: Path) -> None:
        self._ray, self._start, self._blocks, self._report = ray, start, blocks, report

    def all(
        self, left: Sequence[_Piece], workers: int, skipped: int, progress: Callable[[int, int], None] | None = None
    ) -> Done:
        waiting, running = deque(left), dict[Any, tuple[Any, _Piece]]()
        idle = [self._start() for _ in range(workers)]
        self._wait_for_models(idle)
        pieces, images, failures, blocks = Counter(piece.number for piece in left), 0, 0, 0
        total = len(pieces)
        while waiting or running:
            while waiting and idle:
                worker, piece = idle.pop(), waiting.popleft()
                future = worker.run.remote(
                    self._blocks[piece.number], piece.start, piece.stop, piece.part(self._report)
                )
                running[future] = worker, piece
            (future,), _ = self._ray.wait(list(running), num_returns=1)
            worker, piece = running.pop(future)
            try:
                done, failed = self._ray.get(future)
            except self._ray.exceptions.RayError as error:
                worker = self._start()
                again = self._again(piece, error, worker)
                waiting.extendleft(reversed(again))
                pieces[piece.number] += len(again)
                done, failed = 0, int(not again)
            idle.append(worker)
            images, failures = images + done, failures + failed
            pieces[piece.number] -= 1
            if not pieces[piece.number]:
                blocks += 1
                if progress is not None:
                    progress(blocks, total)
        return Done(images, failures, total, skipped, self._report)

    def _wait_for_models(self, workers: Sequence[Any]) -> None:
        try:
            refusals = self._ray.get([worker.load.remote() for worker in workers])
        except self._ray.exceptions.RayError as error:
            raise ConfigError(
                f"a worker died while it loaded the model: {said_by(error)}",
                fix="see whether the machines have the memory for as many workers, or give fewer",
                code="dist-worker",
            ) from error
        for refusal in refusals:
            if refusal is not None:
                raise refusal

    def _again(self, piece: _Piece, error: Exception, worker: Any) -> list[_Piece]:
        """What is to be done of a piece whose worker died; nothing where it was one photo, which becomes a row."""
        if piece.deaths == 0:
            return [_Piece(piece.number, piece.start, piece.stop, piece.count, 1)]
        names = self._ray.get(worker.names.remote(self._blocks[piece.number]))
        stop, count = piece.stop or len(names), len(names)
        if stop - piece.start > 1:
            middle = (piece.start + stop) // 2
            return [
                _Piece(piece.number, piece.start, middle, count, 1), _Piece(piece.number, middle, stop, count, 1),
            ]  # fmt: skip
        said = f"{names[piece.start]}: the process that segmented it died twice ({type(error).__name__})"
        row = {"image": names[piece.start], "code": "image-killed-worker", "error": said}
        write_part(_Piece(piece.number, piece.start, stop, count).part(self._report), [row])
        return []


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "dist") from None
    return ray


def _claim(report: Path, blocks: Sequence[Block], settings: Sequence[object]) -> None:
    """Write what this run is, or refuse a folder that another one has begun."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(repr(block).encode("utf-8", "surrogateescape"))
    plan = {"blocks": len(blocks), "inputs": digest.hexdigest(), "settings": list(settings)}
    if not (report / PLAN).exists():
        write_atomic(report / PLAN, json.dumps(plan).encode())
    elif read_json(report / PLAN) != plan:
        raise ConfigError(
            f"{shown_path(report.parent)} holds results of other images, or of other settings",
            fix="name another output, or the same images, model and kinds of files as before",
            code="dist-other-run",
        )


def _left(report: Path, count: int) -> Iterator[_Piece]:
    """What no part of the report covers."""
    whole, spans = set[int](), dict[int, list[tuple[int, int, int]]]()
    for name in os.listdir(report):
        if (found := PART.fullmatch(name)) is None:
            continue
        number = int(found[1])
        if found[2] is None:
            whole.add(number)
        else:
            spans.setdefault(number, []).append((int(found[2]), int(found[3]), int(found[4])))
    for number in range(count):
        if number in whole:
            continue
        at, photos = 0, 0
        for start, stop, photos in sorted(spans.get(number, [])):
            if at < start:
                yield _Piece(number, at, start, photos)
            at = max(at, stop)
        if number not in spans:
            yield _Piece(number)
        elif at < photos:
            yield _Piece(number, at, photos, photos)
