"""Atomic writing: the old file or the new one, never half of either, and nothing left behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from terrazzo.atomic import (
    PARTIAL_PREFIX,
    discard_partials,
    make_folder,
    replacing,
    replacing_together,
    temporary_folder,
    write_atomic,
)
from terrazzo.errors import OutputError


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def only_old_file(folder: Path) -> None:
    assert [entry.name for entry in folder.iterdir()] == ["a.bin"]
    assert (folder / "a.bin").read_bytes() == b"old"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    return path


def test_writes_a_new_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new.bin", b"data")
    assert (tmp_path / "new.bin").read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def test_accepts_text_paths_and_paths_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomic("here.bin", b"data")
    assert (tmp_path / "here.bin").read_bytes() == b"data"


def test_the_old_file_is_there_until_the_block_ends(old: Path) -> None:
    with replacing(old) as partial:
        partial.write_bytes(b"new")
        assert old.read_bytes() == b"old"
        assert partial.parent == old.parent and partial.suffix == old.suffix
        assert partial.name.startswith(PARTIAL_PREFIX)
    assert old.read_bytes() == b"new"
    assert list(old.parent.iterdir()) == [old]


def test_non_utf8_name(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.bin")
    write_atomic(path, b"data")
    assert Path(path).read_bytes() == b"data"


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_at_the_end(old: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    monkeypatch.setattr(os, function, failing(number))
    with pytest.raises(OutputError, match=r"a\.bin could not be written: the disk is full") as caught:
        write_atomic(old, b"new")
    assert caught.value.code == "output-disk-full"
    assert "free" in caught.value.fix
    only_old_file(old.parent)


def test_disk_full_while_writing(old: Path) -> None:
    with pytest.raises(OutputError, match="disk is full"), replacing(old) as partial:
        partial.write_bytes(b"ha")
        failing(errno.ENOSPC)()
    only_old_file(old.parent)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_disk_full_reported_by_the_system(old: Path) -> None:
    with pytest.raises(OutputError, match="disk is full"), replacing(old), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"data")
    only_old_file(old.parent)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_unwritable_folder(old: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "open", failing(number))
    started = False
    with pytest.raises(OutputError, match="could not be written") as caught, replacing(old):
        started = True
    monkeypatch.undo()
    assert caught.value.code == "output-not-writable"
    assert not started, "no work is done for a file that cannot be written"
    only_old_file(old.parent)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(old: Path) -> None:
    old.parent.chmod(0o555)
    try:
        with pytest.raises(OutputError, match="could not be written"):
            write_atomic(old, b"new")
    finally:
        old.parent.chmod(0o755)
    only_old_file(old.parent)


def test_a_missing_folder_is_created(tmp_path: Path) -> None:
    write_atomic(tmp_path / "absent" / "too" / "a.bin", b"data")
    assert (tmp_path / "absent" / "too" / "a.bin").read_bytes() == b"data"
    with replacing_together([tmp_path / "other" / "b.bin"]) as (partial,):
        partial.write_bytes(b"more")
    assert (tmp_path / "other" / "b.bin").read_bytes() == b"more"


def test_a_file_where_a_folder_should_be(old: Path) -> None:
    with pytest.raises(OutputError, match="is a file, and a folder is needed"):
        write_atomic(old / "b.bin", b"data")
    only_old_file(old.parent)


def test_path_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(OutputError, match="sub is a folder") as caught:
        write_atomic(tmp_path / "sub", b"data")
    assert caught.value.code == "output-is-a-folder"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sub"]


def test_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"):
        write_atomic(tmp_path / "pipe", b"data")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="could not be written"):
        write_atomic(tmp_path / ("x" * 300), b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_other_exceptions_pass_and_leave_nothing(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, replacing(old) as partial:
        partial.write_bytes(b"ha")
        raise error
    assert caught.value is error
    only_old_file(old.parent)


def test_a_failure_to_read_another_file_is_not_an_output_error(old: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), replacing(old) as partial:
        partial.write_bytes((old.parent / "source").read_bytes())
    only_old_file(old.parent)


def test_a_link_is_followed(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(old)
    write_atomic(link, b"new")
    assert link.is_symlink() and old.read_bytes() == b"new"


def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640, "as open() makes files, not mkstemp"
    (tmp_path / "a").chmod(0o604)
    write_atomic(tmp_path / "a", b"2")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604, "those of the old file"


def test_a_folder_that_cannot_be_flushed_does_not_matter(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_atomic(old, b"new")
    assert old.read_bytes() == b"new"


def test_make_folder(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file is a file") as caught:
        make_folder(tmp_path / "file")
    assert caught.value.code == "output-not-a-folder"
    with pytest.raises(OutputError, match="could not be written"):
        make_folder(tmp_path / "file" / "below")


def test_make_folder_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", failing(errno.EACCES))
    with pytest.raises(OutputError) as caught:
        make_folder(tmp_path / "new")
    assert caught.value.code == "output-not-writable"


def test_a_temporary_folder_is_gone_however_it_ends(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "inside").mkdir()
        (folder / "inside/file").write_text("x")
    assert not any(tmp_path.iterdir())
    with temporary_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
        discard_partials()  # as a signal does
        assert not any(tmp_path.iterdir())
    killed = tmp_path / f"{PARTIAL_PREFIX}killed"
    killed.mkdir()
    with temporary_folder(tmp_path):
        assert not killed.exists()


def test_temporary_folders_lie_where_the_system_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path
