"""The file that keeps a raster's bands: where it cannot be had, nothing is kept and nothing fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrazzo.inference.raster_journal import Journal
from terrazzo.inference.scores import Pixels

BAND = Pixels(np.arange(12, dtype=np.uint8).reshape(3, 4))


def test_bands_come_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "kept", {"of": 1}) as journal:
        journal.append(BAND)
    with Journal(tmp_path / "kept", {"of": 1}) as journal:
        assert [band.mask.tolist() for band in journal.bands()] == [BAND.mask.tolist()]
        journal.remove()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("elsewhere"),
        lambda path: path.write_bytes(b"somebody's own"),
    ],
    ids=["folder", "pipe", "link", "file"],
)
def test_what_is_somebody_elses_stays(put: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    put(path)
    before = os.lstat(path)
    with Journal(path, {}) as journal:
        assert list(journal.bands()) == []
        journal.append(BAND)
        journal.remove()
    assert os.lstat(path).st_ino == before.st_ino and os.lstat(path).st_size == before.st_size
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "kept", {}) as journal:
        assert journal._file is not None

        class Full:
            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            close = journal._file.close

        journal._file = Full()  # type: ignore[assignment]
        journal.append(BAND)
        journal.append(BAND)
    assert not any(tmp_path.iterdir())
