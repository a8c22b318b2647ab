"""`ServeSettings`: what can be set about a server, with its limits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from terrazzo.arguments import check_fields
from terrazzo.errors import ConfigError
from terrazzo.text import show

__all__ = ["ServeSettings"]

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#]+|null")


@dataclass(frozen=True)
class ServeSettings:
    """How a server listens, what it accepts and when it gives up.

    Attributes:
        host: address to listen on; the default can be reached from this machine only.
        port: TCP port; 0 lets the system choose one.
        capacity: requests in the house at once: being read, waiting, computed or answered. One more gets 503.
        batch_size: the most images that are computed together.
        batch_wait: seconds that an image waits for others to be computed with, while some are being decoded.
        timeout: seconds that a request may take, from its first byte to its answer; a request may ask for less.
        max_body: bytes of a request's body, after decompression.
        max_pixels: pixels of an image.
        api_key: what clients must send as ``Authorization: Bearer KEY``; None lets everybody in.
        cors: origins whose pages may call the server from a browser; ``*`` for all.
        demo: serve the page too, at ``/``.
        drift: count the pixels of each class and the entropy of the answers in the metrics.
        json_log: write the log as one JSON object a line.
        stop_timeout: seconds that accepted requests get to finish once the server is told to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    capacity: int = 32
    batch_size: int = 4
    batch_wait: float = 0.003
    timeout: float = 30.0
    max_body: int = 32 << 20
    max_pixels: int = 25_000_000
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    demo: bool = False
    drift: bool = False
    json_log: bool = False
    stop_timeout: float = 30.0

    def __post_init__(self) -> None:
        check_fields(self)
        least = {"capacity": 1, "batch_size": 1, "batch_wait": 0, "max_body": 1, "max_pixels": 1, "stop_timeout": 0}
        for name, value in least.items():
            if not value <= getattr(self, name) < float("inf"):  # what is infinite never ends
                raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"give a number of at least {value}")
        if not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout is {self.timeout}", fix="give seconds, more than 0")
        if wrong := [origin for origin in self.cors if origin != "*" and ORIGIN.fullmatch(origin) is None]:
            raise ConfigError(
                f"{show(wrong[0])} is not an origin, and no page would match it",
                fix="give it as browsers send it: https://example.org, with a port where it has one, or *",
            )
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port is {self.port}", fix="give a number from 0 to 65535")
        if self.api_key is not None and not (self.api_key.isascii() and len(self.api_key) >= 16):
            raise ConfigError("the API key is shorter than 16 characters or not ASCII", fix="take a longer random one")
