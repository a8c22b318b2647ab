"""The state of a run on disk: two generations, so that the newest complete one always loads."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from terrazzo.atomic import make_folder, replacing
from terrazzo.errors import TrainingError
from terrazzo.regular_files import open_regular
from terrazzo.text import said_by

__all__ = ["has_checkpoint", "load_checkpoint", "save_checkpoint"]

NEWEST, PREVIOUS = "newest.pt", "previous.pt"

WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer, such as exFAT's and some of the network."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the newest checkpoint; the one before stays as the previous.

    Raises:
        OutputError: the disk is full or the folder cannot be written; the checkpoints already there are intact.
    """
    make_folder(folder)
    newest = folder / NEWEST
    with replacing(newest) as partial:
        _write(state, partial)
        if newest.exists():
            # A hard link, so that there is no moment without a newest checkpoint.
            spare = folder / f"{PREVIOUS}.new"
            spare.unlink(missing_ok=True)
            try:
                os.link(newest, spare)
            except OSError as error:
                if error.errno not in WITHOUT_LINKS:
                    raise
                spare = newest
            os.replace(spare, folder / PREVIOUS)


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is anything to resume from."""
    return (folder / NEWEST).exists() or (folder / PREVIOUS).exists()


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest state that can be read, and a warning for each one that cannot.

    Raises:
        TrainingError: there is none.
    """
    warnings: list[str] = []
    for path in (folder / NEWEST, folder / PREVIOUS):
        if path.exists():
            try:
                return _read(path), warnings
            except (
                RuntimeError,
                OSError,
                EOFError,
                ValueError,
                KeyError,
                zipfile.BadZipFile,
                UnpicklingError,
            ) as error:
                reason = said_by(error, 100)
                warnings.append(f"{path} is damaged ({reason}) and was passed over")
    raise TrainingError(
        f"{folder} holds no checkpoint that can be read{': ' if warnings else ''}{'; '.join(warnings)}",
        fix="start the run again without --resume, in a new output folder",
        code="training-no-checkpoint",
    )


def _read(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
                sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size
            ):
                raise zipfile.BadZipFile("it is compressed, which torch.save never does")
            if part := archive.testzip():  # torch.load does not compare the checksums that torch.save writes
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        file.seek(0)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _write(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # The archive writer puts an error of its own in front of the system's, such as that the disk is full.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from None
