"""`Failure`: an image that could not be segmented, with its error, in the place of its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terrazzo.engines.memory import is_out_of_memory
from terrazzo.errors import ImageError, TerrazzoError
from terrazzo.text import said_by, shown_path

__all__ = ["Failure", "path_name"]


@dataclass(frozen=True)
class Failure:
    """An image that could not be segmented, in the place of its result."""

    path: Path | None
    error: TerrazzoError

    @property
    def for_memory(self) -> bool:
        """Whether memory ran out, so that it may succeed when nothing else is being computed."""
        return self.error.code == "image-memory"

    @classmethod
    def of(cls, path: Path | None, error: Exception) -> Failure:
        """Name the image in an error's message, and drop the traceback, which holds arrays."""
        where = path_name(path)
        if isinstance(error, TerrazzoError):
            is_named = path is None or where in error.message
            return cls(path, error.saying(error.message if is_named else f"{where}: {error.message}"))
        if is_out_of_memory(error):
            fix = "make it smaller, give a smaller --batch-size, or use a machine with more memory"
            return cls(path, ImageError(f"{where}: there is not enough memory for it", fix=fix, code="image-memory"))
        reason = said_by(error)
        fix = "try it with another --engine; if it fails there too, report it with this line"
        return cls(path, ImageError(f"{where}: {type(error).__name__}: {reason}", fix=fix, code="image-failed"))


def path_name(path: Path | None) -> str:
    """What messages call an image."""
    return "the image" if path is None else shown_path(path)
