"""`Worker`: loads the model once, segments blocks, and writes a part of the report for each. It does not need Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from terrazzo.atomic import write_atomic
from terrazzo.data.sources.source import Image
from terrazzo.distributed.blocks import Block, Photo, parquet
from terrazzo.errors import TerrazzoError
from terrazzo.imaging.read import image_size
from terrazzo.inference.failure import Failure
from terrazzo.inference.kinds import destinations
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import Keep
from terrazzo.inference.threads import map_ahead, threads_of

__all__ = ["Wanted", "Worker", "write_part"]

KEPT: Keep = frozenset({"probabilities", "confidence", "entropy"})
READING_THREADS = 2


@dataclass(frozen=True)
class Wanted:
    """What becomes of each photo.

    Attributes:
        kinds: files that are written; none for a mask as PNG bytes in the report.
        batch_size: the most photos of one network size that are computed together.
    """

    kinds: tuple[str, ...]
    batch_size: int


class Worker:
    """Segments blocks.

    Args:
        model: as `make_predictor` takes it.
        options: of `make_predictor`.
        wanted: what becomes of each photo.
    """

    def __init__(self, model: str, options: dict[str, Any], wanted: Wanted) -> None:
        self._model, self._options, self._wanted = model, options, wanted
        self._loaded: Predictor | None = None

    def load(self) -> TerrazzoError | None:
        """Load the model, or return why that fails."""
        try:
            self._predictor()
        except TerrazzoError as error:
            return error.saying(error.message)
        return None

    def run(self, block: Block, start: int, stop: int | None, part: Path) -> tuple[int, int]:
        """Segment the photos of a block from `start` to before `stop`, and write a part of the report.

        Returns:
            How many were done, and how many failed.
        """
        try:
            photos = list(islice(block.photos(), start, stop))
            rows = [row for _, row in sorted(self._rows(photos), key=lambda pair: pair[0])]
        except TerrazzoError as error:  # of the table or shard as a whole
            rows = [_row(str(getattr(block, "table", None) or getattr(block, "file", "")), error)]
        write_part(part, rows)
        failed = sum(row["code"] is not None for row in rows)
        return len(rows) - failed, failed

    def names(self, block: Block) -> list[str]:
        """Name the photos of a block."""
        return [photo.name for photo in block.photos()]

    def _predictor(self) -> Predictor:
        if self._loaded is None:
            self._loaded = make_predictor(self._model, **self._options)
        return self._loaded

    def _rows(self, photos: Sequence[Photo]) -> Iterator[tuple[int, dict[str, Any]]]:
        predictor, keep = self._predictor(), KEPT & set(self._wanted.kinds)
        reading = predictor.reading()

        def size(number: int) -> tuple[int, int]:
            try:
                return predictor.input_size(image_size(photos[number].source, rule=reading.rule))
            except TerrazzoError:
                return 0, 0

        def read(number: int) -> Image | Failure:
            try:
                return reading.read(photos[number].source)
            except Exception as error:
                return Failure.of(_path(photos[number]), error)

        order = sorted(range(len(photos)), key=size)  # so that those of one size are neighbours
        with threads_of(READING_THREADS) as pool:
            images = map_ahead(pool, read, order, 2 * self._wanted.batch_size)
            batch: list[tuple[int, Image]] = []
            for number, image in zip(order, images, strict=True):
                if isinstance(image, Failure):
                    yield number, _row(photos[number].name, image.error)
                    continue
                if batch and self._differ(batch, image):
                    yield from self._segmented(photos, batch, keep)
                    batch = []
                batch.append((number, image))
            if batch:
                yield from self._segmented(photos, batch, keep)

    def _differ(self, batch: Sequence[tuple[int, Image]], image: Image) -> bool:
        predictor = self._predictor()
        sizes = {predictor.input_size(each.shape[:2]) for each in (batch[0][1], image)}
        return len(sizes) > 1 or len(batch) == self._wanted.batch_size

    def _segmented(
        self, photos: Sequence[Photo], batch: Sequence[tuple[int, Image]], keep: Keep
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        outcomes = self._predictor().segment_together([image for _, image in batch], keep=keep)
        for (number, _), outcome in zip(batch, outcomes, strict=True):
            photo = photos[number]
            try:
                if isinstance(outcome, Failure):
                    raise outcome.error
                yield number, self._kept(photo, replace(outcome, path=_path(photo)))
            except Exception as error:
                yield number, _row(photo.name, Failure.of(_path(photo), error).error)

    def _kept(self, photo: Photo, result: Segmentation) -> dict[str, Any]:
        row = _row(photo.name)
        row["classes"] = [{"name": each.name, "pixels": each.pixels, "share": each.share} for each in result.areas()]
        if self._wanted.kinds:
            files = destinations(photo.folder, list(self._wanted.kinds), photo.stem)
            result.write(files)
            row["files"] = [str(file) for file in files.values()]
        else:
            row["mask"] = result.encode("mask")
        return row


def write_part(part: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the report, all or none."""
    import pyarrow

    area = pyarrow.struct([("name", pyarrow.string()), ("pixels", pyarrow.int64()), ("share", pyarrow.float64())])
    schema = pyarrow.schema(
        {
            "image": pyarrow.string(),
            "files": pyarrow.list_(pyarrow.string()),
            "mask": pyarrow.binary(),
            "classes": pyarrow.list_(area),
            "code": pyarrow.string(),
            "error": pyarrow.string(),
        }
    )
    packed = io.BytesIO()
    parquet().write_table(pyarrow.Table.from_pylist(list(rows), schema), packed)
    write_atomic(part, packed.getvalue())


def _row(name: str, error: TerrazzoError | None = None) -> dict[str, Any]:
    code, said = (None, None) if error is None else (error.code, error.message)
    return {"image": name, "files": None, "mask": None, "classes": None, "code": code, "error": said}


def _path(photo: Photo) -> Path | None:
    return photo.source if isinstance(photo.source, Path) else None
