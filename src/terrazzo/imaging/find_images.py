"""The image files that paths, folders and glob patterns stand for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from terrazzo.errors import ImageError
from terrazzo.notes import note
from terrazzo.text import shown_path

__all__ = ["IMAGE_SUFFIXES", "files_in", "find_images"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")


def find_images(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the photos that paths, folders and glob patterns stand for.

    Folders are searched to any depth for files with one of `IMAGE_SUFFIXES`, hidden ones excepted, and sorted as people
    count (img2 before img10). A path to a file is taken whatever its name. Each path is listed once.

    Raises:
        ImageError: a path that is not there or cannot be read, or a folder or pattern without photos.
    """
    found: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        text = os.fsdecode(path)
        if os.path.isdir(text):
            matches = files_in(text)
        elif os.path.lexists(text):
            found[Path(text)] = None
            continue
        elif _is_closed(text):
            raise ImageError(
                f"{shown_path(text)}: cannot be read: Permission denied",
                fix="check the permissions of its folder",
                code="image-unreadable",
            )
        elif glob.has_magic(text):
            matches = [match for match in glob.glob(text, recursive=True) if not os.path.isdir(match)]
        else:
            raise ImageError(
                f"{shown_path(text)}: there is no such file or folder", fix="check the path", code="image-missing"
            )
        matches = [match for match in matches if match.lower().endswith(IMAGE_SUFFIXES)]
        if not matches:
            raise ImageError(
                f"{shown_path(text)}: no images are there",
                fix=f"name a place with files ending in {', '.join(IMAGE_SUFFIXES)}",
                code="image-none-found",
            )
        found.update(dict.fromkeys(map(Path, sorted(matches, key=_natural_key))))
    return list(found)


def files_in(root: str) -> list[str]:
    """The files in a folder, to any depth, but for hidden ones and those in hidden folders."""
    closed: list[OSError] = []
    found = [os.path.join(folder, file) for folder, _, files in os.walk(root, onerror=closed.append) for file in files]
    _tell_closed(closed, root)
    return [file for file in found if not _is_hidden(os.path.relpath(file, root))]


def _tell_closed(errors: list[OSError], root: str) -> None:
    """Refuse a folder that cannot be listed, and say so of those in it: their photos would be missed in silence."""
    for error in errors:
        folder, why = os.fsdecode(error.filename or root), error.strerror or str(error)
        if folder == root:
            raise ImageError(
                f"{shown_path(root)}: cannot be listed: {why}", fix="check its permissions", code="image-unreadable"
            ) from error
        if not _is_hidden(os.path.relpath(folder, root)):
            note(f"{shown_path(folder)} cannot be listed ({why}); what is in it is left out")


def _is_closed(path: str) -> bool:
    """Whether a file may be there, in a folder that is closed to us."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split(os.sep))


def _natural_key(path: str) -> list[tuple[int, str]]:
    """Numbers compare as numbers: leading zeros away, then by length, then digit by digit."""
    pieces = re.split("([0-9]+)", path.casefold())
    return [(len(p.lstrip("0")), p.lstrip("0")) if i % 2 else (0, p) for i, p in enumerate(pieces)]
