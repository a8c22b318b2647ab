"""The options of commands that say how photos are read, where a file leaves that open."""

from __future__ import annotations

from terrazzo.errors import ConfigError
from terrazzo.imaging.read import MAX_PIXELS, ReadOptions

__all__ = ["read_options"]


def read_options(
    bands: str | None = None, frame: int | None = None, value_range: str | None = None, max_pixels: int | None = None
) -> ReadOptions:
    """Read what was typed.

    Raises:
        ConfigError: it is not as in ``--bands 4,3,2`` or ``--value-range 0,4095``.
        ImageError: the numbers make no sense.
    """
    try:
        chosen = None if bands is None else tuple(int(band) for band in bands.split(","))
    except ValueError:
        raise ConfigError(f"--bands is {bands!r}", fix="give one number or three, as in --bands 4,3,2") from None
    try:
        ends = None if value_range is None else tuple(float(end) for end in value_range.split(","))
        low, high = (0.0, 1.0) if ends is None else ends
    except ValueError:
        raise ConfigError(
            f"--value-range is {value_range!r}", fix="give black and white, as in --value-range 0,4095"
        ) from None
    return ReadOptions(chosen, frame, None if ends is None else (low, high), max_pixels or MAX_PIXELS)
