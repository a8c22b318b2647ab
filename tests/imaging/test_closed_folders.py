"""Folders that are closed to us are not taken for empty ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from terrazzo.errors import ImageError
from terrazzo.imaging import find_images as module
from terrazzo.imaging.find_images import find_images
from terrazzo.notes import TerrazzoWarning


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``open/a.jpg`` and ``closed/b.jpg``; root, who runs tests in containers, may list anything."""
    for name in ("open/a.jpg", "closed/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"photo")
    scandir, lstat = os.scandir, os.lstat

    def refusing(path: Any = ".") -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    def refusing_files(path: Any, **options: Any) -> os.stat_result:
        if Path(path).parent.name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return lstat(path, **options)

    monkeypatch.setattr(module.os, "scandir", refusing)
    monkeypatch.setattr(module.os, "lstat", refusing_files)
    return tmp_path


def test_the_folder_itself(photos: Path) -> None:
    with pytest.raises(ImageError, match="closed: cannot be listed: Permission denied") as caught:
        find_images(photos / "closed")
    assert caught.value.code == "image-unreadable"


def test_a_folder_in_it_is_told(photos: Path) -> None:
    with pytest.warns(TerrazzoWarning, match=r"closed cannot be listed \(Permission denied\)"):
        assert find_images(photos) == [photos / "open/a.jpg"]


def test_a_file_in_it(photos: Path) -> None:
    with pytest.raises(ImageError, match=r"b\.jpg: cannot be read: Permission denied"):
        find_images(photos / "closed/b.jpg")
