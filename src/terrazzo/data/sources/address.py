"""Images at web addresses: refused unless the caller allows the download, and then fetched into memory."""

from __future__ import annotations

from typing import Any

from terrazzo.errors import ImageError
from terrazzo.text import said_by, show

__all__ = ["fetch_image", "is_address", "refuse_address"]

MOST_BYTES = 1 << 28
TIMEOUT = 30  # seconds without an answer


def is_address(source: Any) -> bool:
    """Whether this is text that names a place on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def refuse_address(address: str) -> ImageError:
    """Return the error of an address where files are expected."""
    return ImageError(
        f"{show(address)} is a web address, and nothing is downloaded unasked",
        fix="download the image and name its file; or in Python call terrazzo.predict(..., allow_download=True)",
        code="image-address",
    )


def fetch_image(address: str) -> bytes:
    """Download an image file.

    Raises:
        ImageError: nothing is there, it cannot be reached, or it is too large (code "image-download").
    """
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    try:
        request = Request(address, headers={"User-Agent": "terrazzo"})
        with urlopen(request, timeout=TIMEOUT) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise ImageError(
            f"{show(address)} cannot be downloaded: {said_by(error)}",
            fix="check the address and the connection",
            code="image-download",
        ) from error
    if len(data) > MOST_BYTES:
        raise ImageError(
            f"{show(address)} has more than {MOST_BYTES >> 20} MB",
            fix="download the image yourself and give its path",
            code="image-download",
        )
    return data
