"""Every failure a user can cause, as one tree.

    TerrazzoError              code "terrazzo"
    ├── ImageError             "image"       a photo that cannot or must not be decoded
    ├── LabelError             "labels"      class names, palettes, label maps
    ├── DatasetError           "dataset"     folders, pairs, masks and their values
    ├── CheckpointError        "checkpoint"  weights that are broken, hostile or do not fit
    ├── ConfigError            "config"      options, recipes, model names
    ├── TrainingError          "training"    a run that cannot start, go on or resume
    ├── OutputError            "output"      a place that cannot be written
    ├── ServiceError           "service"     a server that does not answer, or refuses
    └── MissingExtraError      "extra"       an optional package that is not installed

A raise may refine the class's code, as in ``ImageError(..., code="image-truncated")``. Codes are stable: scripts may
match on them. The command line prints the message and the fix in two lines and exits with status 2.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "ImageError",
    "LabelError",
    "MissingExtraError",
    "OutputError",
    "ServiceError",
    "TerrazzoError",
    "TrainingError",
]


class TerrazzoError(Exception):
    """A failure with a stable code, what went wrong and where, and how to fix it.

    Args:
        message: what is wrong, naming the file, key or option at fault.
        fix: what the user can do about it, as one sentence.
        code: a stable identifier, by default the class's own.
    """

    code = "terrazzo"

    def __init__(self, message: str, *, fix: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})"

    def saying(self, message: str) -> TerrazzoError:
        """Return the same error with another message, such as one that names the file."""
        return _rebuild(type(self), message, self.fix, self.code)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are not pickled by default, and errors cross process borders.
        return _rebuild, (type(self), self.message, self.fix, self.code)


class ImageError(TerrazzoError):
    code = "image"


class LabelError(TerrazzoError):
    code = "labels"


class DatasetError(TerrazzoError):
    code = "dataset"


class CheckpointError(TerrazzoError):
    code = "checkpoint"


class ConfigError(TerrazzoError):
    code = "config"


class TrainingError(TerrazzoError):
    code = "training"


class OutputError(TerrazzoError):
    code = "output"


class ServiceError(TerrazzoError):
    code = "service"


class MissingExtraError(TerrazzoError):
    """An optional dependency is missing; the fix is a command for a clone, since no index has Terrazzo, and one for
    anywhere."""

    code = "extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed",
            fix=f"run pip install '.[{extra}]' in the folder of the clone, or pip install {package} anywhere",
        )


def _rebuild(kind: type[TerrazzoError], message: str, fix: str, code: str) -> TerrazzoError:
    error = kind.__new__(kind)
    TerrazzoError.__init__(error, message, fix=fix, code=code)
    return error
