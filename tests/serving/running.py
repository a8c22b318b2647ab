"""A server on a real socket of this machine, with a network that can be held, counted and made to fail."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.inference.predictor import Predictor
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.serving import connection
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.models import LoadOptions, Models
from terrazzo.serving.segmenting import Segmenter
from terrazzo.serving.server import make_server
from terrazzo.serving.settings import ServeSettings

LABELS = LabelSpec.from_names(["red", "green", "blue"])
COLORS = np.array([(230, 20, 20), (20, 230, 20), (20, 20, 230)], np.uint8)
POISON = 7  # a grey value that the network fails on
PATIENCE = 300.0  # seconds after which something is taken to hang; it may be as slow as it likes before

request = partial(httpx.request, timeout=PATIENCE, verify=False)
get = partial(request, "GET")
post = partial(request, "POST")


@dataclass
class ByColor:
    """A network: each pixel's class is its strongest channel.

    Attributes:
        gate: it computes only while this is set.
        calls: the images of each batch.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, images_B3HW: NDArray[np.float32]) -> NDArray[Any]:
        self.calls.append(len(images_B3HW))
        self.gate.wait()
        if (np.abs(images_B3HW * 255 - POISON) < 0.6).all((1, 2, 3)).any():
            raise ValueError("the network stumbled at /secret/path")
        return np.ascontiguousarray(images_B3HW)


@dataclass
class Running:
    """A server that listens.

    Attributes:
        port: where.
        house: its insides.
        network: what computes.
        stop: ends it, as a signal would.
    """

    port: int
    house: Segmenter
    network: ByColor
    stop: Callable[[], None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metric(self, line: str) -> float:
        """A figure of /metrics, by its name and labels as they stand there; 0 where it is not there yet."""
        for found in self.house.metrics.text().decode().splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0


@contextmanager
def running(**settings: Any) -> Iterator[Running]:
    """Serve a model called ``colors``, with these settings; what is not set has limits that no slow machine meets."""
    network = ByColor()
    preprocess = Preprocess(short_side=None, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    predictor = Predictor(network, preprocess, LABELS, "colors")
    chosen, metrics = ServeSettings(**{"timeout": PATIENCE, **settings}), Metrics(drift=True)
    house = Segmenter(Models({"colors": predictor}, LoadOptions(), chosen, metrics), chosen, metrics)
    listening = socket.create_server(("127.0.0.1", 0))
    server = make_server(house)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server does not end"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "HEAD_SECONDS", PATIENCE)
        patch.setattr(connection, "READ_SECONDS", PATIENCE)
        try:
            until(lambda: house.models.is_ready)
            network.calls.clear()
            yield Running(listening.getsockname()[1], house, network, stop)
        finally:
            network.gate.set()
            stop()
            listening.close()


def until(happened: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def is_up(url: str) -> bool:
    """Whether a server has its models loaded."""
    try:
        return get(url + "/v2/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def too_late(ask: Callable[[float], httpx.Response]) -> httpx.Response:
    """Ask, with ever more seconds, for what cannot be had, until the time ends after the body was read (504)."""
    for seconds in (0.05, 0.5, 5.0, 50.0):
        answer = ask(seconds)
        if answer.status_code != 408:
            break
    return answer


def is_closed(raw: socket.socket) -> bool:
    """Read a connection until the server closes it."""
    raw.settimeout(PATIENCE)
    try:
        while raw.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[bytes, NDArray[np.uint8]]:
    """Return a PNG of pure colours, and its mask."""
    mask = np.random.default_rng(seed).integers(0, 3, size, dtype=np.uint8)
    return png(COLORS[mask]), mask


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image."""
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    """Decode an index PNG."""
    return np.asarray(Image.open(BytesIO(data)))


def head_of(length: object, query: str = "") -> bytes:
    """Return the head of a request that declares a body of this length."""
    lines = (f"POST /v1/segment{query} HTTP/1.1", "Host: x", "Content-Type: image/png", f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()
