"""The driver of distributed prediction, with workers of this process that die when they are told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from terrazzo.distributed import blocks as blocks_module
from terrazzo.distributed import driver
from terrazzo.distributed.blocks import Files, Shard, blocks_of
from terrazzo.errors import CheckpointError, ConfigError, ImageError, TerrazzoError

Names = list[str]


class RayError(Exception):
    """As Ray's own."""


class Cluster:
    """What the driver uses of Ray, done at once.

    Args:
        dies: told a worker's number and the photos that it has begun.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, dies: Callable[[int, Names], bool] = lambda worker, names: False) -> None:
        self.dies, self.workers, self.done = dies, 0, list[Names]()
        self.refusal: TerrazzoError | None = None
        self.load_dies = False

    def get(self, future: Any) -> Any:
        if isinstance(future, list):
            return [self.get(each) for each in future]
        if isinstance(future, Exception) and future is not self.refusal:
            raise future
        return future[0] if isinstance(future, list | tuple) and len(future) == 1 else future

    def wait(self, futures: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return futures[:1], futures[1:]

    def start(self) -> Any:
        self.workers += 1
        number = self.workers

        def run(block: Files, start: int, stop: int | None, part: Path) -> Any:
            names = [photo.name for photo in block.photos()][start:stop]
            if self.dies(number, names):
                return RayError(f"worker {number}")
            self.done.append(names)
            part.write_bytes(b"")
            return Outcome((len(names), 0))

        return SimpleNamespace(
            load=SimpleNamespace(remote=lambda: RayError() if self.load_dies else self.refusal),
            run=SimpleNamespace(remote=run),
            names=SimpleNamespace(remote=lambda block: Outcome([photo.name for photo in block.photos()])),
        )


class Outcome(tuple[Any]):
    """A future's result, hashable and itself."""

    __slots__ = ()

    def __new__(cls, value: Any) -> Outcome:
        return super().__new__(cls, (value,))

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.fixture
def blocks(tmp_path: Path) -> list[Files]:
    return [Files(tuple((Path(f"{n}{k}.png"), tmp_path, f"{n}{k}") for k in range(4))) for n in "abc"]


def run(cluster: Cluster, blocks: list[Files], report: Path, workers: int = 2) -> driver.Done:
    report.mkdir(exist_ok=True)
    left = list(driver._left(report, len(blocks)))
    return driver._Run(cluster, cluster.start, blocks, report).all(left, workers, len(blocks) - len(left))


def test_each_block_is_done_once_and_again_by_nobody(blocks: list[Files], tmp_path: Path) -> None:
    cluster = Cluster()
    done = run(cluster, blocks, tmp_path / "report")
    assert (done.images, done.failures, done.blocks, done.skipped) == (12, 0, 3, 0)
    assert sorted(cluster.done) == [[f"{n}{k}.png" for k in range(4)] for n in "abc"]
    (tmp_path / "report/0000001.parquet").unlink()
    again = Cluster()
    assert (run(again, blocks, tmp_path / "report").images, again.done[0][0]) == (4, "b0.png") and len(again.done) == 1


def test_the_block_of_a_worker_that_died_is_given_to_another(blocks: list[Files], tmp_path: Path) -> None:
    cluster = Cluster(lambda worker, names: worker == 1)
    assert run(cluster, blocks, tmp_path / "report").images == 12
    assert cluster.workers == 3 and len(cluster.done) == 3


def test_a_photo_that_kills_workers_costs_one_row(
    blocks: list[Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []

    def noted(part: Path, found: list[Any]) -> None:
        rows.extend(found)
        part.write_bytes(b"")

    monkeypatch.setattr(driver, "write_part", noted)
    cluster, told = Cluster(lambda worker, names: "b2.png" in names), list[tuple[int, int]]()
    (tmp_path / "report").mkdir()
    left = list(driver._left(tmp_path / "report", 3))
    done = driver._Run(cluster, cluster.start, blocks, tmp_path / "report").all(
        left, 2, 0, lambda number, count: told.append((number, count))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (done.images, done.failures) == (11, 1)
    assert [(row["image"], row["code"]) for row in rows] == [("b2.png", "image-killed-worker")]
    assert sorted(name for names in cluster.done for name in names if name[0] == "b") == ["b0.png", "b1.png", "b3.png"]
    assert list(driver._left(tmp_path / "report", 3)) == []
    next((tmp_path / "report").glob("0000001.0-2-*")).unlink()
    (gap,) = driver._left(tmp_path / "report", 3)
    assert (gap.number, gap.start, gap.stop) == (1, 0, 2)


def test_a_model_that_cannot_be_loaded_is_said_by_its_own_error(blocks: list[Files], tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.refusal = CheckpointError("no model", fix="name one")
    with pytest.raises(CheckpointError, match="no model"):
        run(cluster, blocks, tmp_path / "report")
    cluster.load_dies = True
    with pytest.raises(ConfigError) as caught:
        run(cluster, blocks, tmp_path / "report")
    assert caught.value.code == "dist-worker"


def test_another_run_is_not_continued(blocks: list[Files], tmp_path: Path) -> None:
    driver._claim(tmp_path, blocks, ["model", ["mask"], "whole"])
    driver._claim(tmp_path, blocks, ["model", ["mask"], "whole"])
    for others, settings in ((blocks[1:], ["model", ["mask"], "whole"]), (blocks, ["other", ["mask"], "whole"])):
        with pytest.raises(ConfigError) as caught:
            driver._claim(tmp_path, others, settings)
        assert caught.value.code == "dist-other-run"


def test_what_becomes_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for number in range(5):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{number}.png")
    (tmp_path / "s.tar").write_bytes(b"")
    found = blocks_of([tmp_path, tmp_path / "s.tar"], tmp_path / "out", 2)
    assert [len(block.places) if isinstance(block, Files) else block for block in found] == [
        Shard(tmp_path / "s.tar", tmp_path / "out/s"), 2, 2, 1,
    ]  # fmt: skip
    with pytest.raises(ImageError, match=r"no\.tar"):
        blocks_of([tmp_path / "no.tar"], tmp_path / "out", 2)
    monkeypatch.setattr(blocks_module, "rasters_among", lambda paths, *_: set(paths))
    with pytest.raises(ImageError, match="georeferenced"):
        blocks_of([tmp_path], tmp_path / "out", 2)
