"""`Refusal`: a request that is not answered with a result, as HTTP has it."""

from __future__ import annotations

from terrazzo.errors import ImageError, TerrazzoError

__all__ = ["Refusal", "refusal_of"]


class Refusal(Exception):
    """An HTTP status, a stable code and a sentence for the client.

    Args:
        status: HTTP's.
        code: stable, for programs.
        message: for people; never a path of this machine.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def refusal_of(error: TerrazzoError) -> Refusal:
    """Say to a client what went wrong with its image; what concerns this machine it is not told."""
    if not isinstance(error, ImageError) or error.code == "image-failed":
        return Refusal(500, "internal", "the image could not be computed; the server's log says why")
    if error.code == "image-too-large":
        return Refusal(413, error.code, error.message)
    if error.code == "image-memory":
        return Refusal(503, error.code, "there is not enough memory for the image now", retry_after=5)
    return Refusal(422, error.code, error.message)
