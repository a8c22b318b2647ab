"""`terrazzo.distributed.predict` on a real cluster of this machine: `pytest -m slow` where ray is installed."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.distributed import driver, predict
from terrazzo.distributed.worker import Worker
from terrazzo.errors import CheckpointError, ConfigError

ray = pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    count = int(os.environ.get("TERRAZZO_RAY_PHOTOS", 40))
    for path in sorted((shared_data / "camvid/val/images").iterdir())[:count]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plain")
    terrazzo.predict_folder(photos, output, save="mask,json", threads=1)
    return output


def rows_of(report: Path) -> dict[str, Any]:
    rows = [row for part in sorted(report.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]
    assert len({row["image"] for row in rows}) == len(rows)
    return {row["image"]: row for row in rows}


def assert_same(plain: Path, output: Path) -> None:
    names = sorted(path.name for path in plain.iterdir())
    assert sorted(path.name for path in output.iterdir() if path.is_file()) == names
    for name in names:
        assert (output / name).read_bytes() == (plain / name).read_bytes()


def test_a_killed_worker_changes_no_result(
    photos: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "killed"

    class Mortal(Worker):
        def _kept(self, photo: Any, result: Any) -> Any:
            kept = super()._kept(photo, result)
            if photo.name.endswith("2.png") or photo.name.endswith("0.png"):
                try:
                    os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return kept
                os.kill(os.getpid(), signal.SIGKILL)
            return kept

    monkeypatch.setattr(driver, "Worker", Mortal)
    output = tmp_path / "out"
    done = predict(photos, output, save="mask,json", block_size=5, workers=2)
    count = len(list(photos.iterdir()))
    assert flag.exists() and (done.images, done.failures, done.skipped) == (count, 0, 0)
    assert_same(plain, output)
    assert len(rows_of(done.report)) == count
    again = predict(photos, output, save="mask,json", block_size=5, workers=2)
    assert (again.images, again.blocks, again.skipped) == (0, 0, done.blocks)
    (done.report / "0000001.parquet").unlink()
    once_more = predict(photos, output, save="mask,json", block_size=5, workers=2)
    assert (once_more.images, once_more.blocks) == (min(5, count - 5), 1)
    assert_same(plain, output)
    with pytest.raises(ConfigError) as caught:
        predict(photos, output, save="mask", block_size=5)
    assert caught.value.code == "dist-other-run"


def test_tables_and_shards_with_a_bad_photo(photos: Path, plain: Path, tmp_path: Path) -> None:
    import pyarrow

    some = sorted(photos.iterdir())[:5]
    table = pyarrow.table({"image": [*(path.read_bytes() for path in some), b"no image"]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    parquet.write_table(pyarrow.table({"path": [str(path) for path in some]}), tmp_path / "b.parquet")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for path in some:
            for name, data in ((f"x/{path.name}", path.read_bytes()), (f"x/{path.stem}.txt", b"text")):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    (tmp_path / "d.tar").write_bytes(b"no archive")
    done = predict([tmp_path / "*.parquet", str(tmp_path / "*.tar")], tmp_path / "out", save=())
    rows = rows_of(done.report)
    assert (done.images, done.failures, done.blocks) == (15, 2, 5) and len(rows) == 17
    assert sorted(row["code"] for row in rows.values() if row["code"]) == ["dataset-shard", "image-format"]
    masks = [np.asarray(Image.open(plain / f"{path.stem}_mask.png")) for path in some]
    found = [np.asarray(Image.open(io.BytesIO(row["mask"]))) for row in rows.values() if row["mask"]]
    for mask in masks:
        assert sum(np.array_equal(mask, other) for other in found) == 3
    for row in rows.values():
        assert row["code"] or sum(area["share"] for area in row["classes"]) == pytest.approx(1)


def test_a_photo_that_kills_its_worker_costs_one_row(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = sorted(photos.iterdir())[2].name

    class Mortal(Worker):
        def _kept(self, photo: Any, result: Any) -> Any:
            if photo.name.endswith(killer):
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._kept(photo, result)

    monkeypatch.setattr(driver, "Worker", Mortal)
    some = sorted(photos.iterdir())[:4]
    done = predict(some, tmp_path / "out", save=(), block_size=4, workers=1)
    rows = rows_of(done.report)
    assert (done.images, done.failures) == (3, 1) and len(rows) == 4
    assert rows[str(some[2])]["code"] == "image-killed-worker"


def test_a_model_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, ConfigError), match="no-such-model"):
        predict(photos, tmp_path / "out", "no-such-model")
