"""`terrazzo.Client` and `terrazzo.AsyncClient` against a running server."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import LABELS, PATIENCE, Running, picture, running, until

import terrazzo
from terrazzo.errors import ConfigError, ServiceError


@pytest.fixture
def server() -> Iterator[Running]:
    with running(capacity=2, batch_size=1) as started:
        yield started


def test_files_and_bytes(server: Running, tmp_path: Path) -> None:
    data, mask = picture(0)
    (tmp_path / "a.png").write_bytes(data)
    with terrazzo.Client(server.url) as client:
        result = client.segment(tmp_path / "a.png", probabilities=True)
        assert (result.mask == mask).all() and result.path == tmp_path / "a.png" and result.model == "colors"
        assert result.probabilities is not None and (result.probabilities.argmax(0) == mask).all()
        assert result.labels.names == LABELS.names and result.labels.palette == LABELS.palette
        assert (client.segment(data, model="colors").mask == mask).all()


def test_many_at_once(server: Running) -> None:
    pictures = [picture(seed) for seed in range(12)]

    async def segment_all() -> list[terrazzo.Segmentation]:
        async with terrazzo.AsyncClient(server.url, timeout=PATIENCE) as client:
            return list(await asyncio.gather(*(client.segment(data) for data, _ in pictures)))

    for result, (_, mask) in zip(asyncio.run(segment_all()), pictures, strict=True):
        assert (result.mask == mask).all()  # though the house has two places: the others came again


def test_a_busy_server_is_asked_again(server: Running) -> None:
    with ThreadPoolExecutor(3) as pool, terrazzo.Client(server.url, timeout=PATIENCE) as client:
        client.segment(picture(0)[0])
        server.network.gate.clear()
        waiting = [pool.submit(client.segment, picture(seed)[0]) for seed in range(2)]
        until(lambda: server.house.admission.taken == 2)
        third = pool.submit(client.segment, picture(2)[0])
        until(lambda: server.metric('terrazzo_refused_total{reason="busy"}') > 0)
        server.network.gate.set()
        assert (third.result().mask == picture(2)[1]).all()
        assert len([future.result() for future in waiting]) == 2


def test_a_server_that_stays_busy(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.house.admission, "retry_after", lambda: round(2 * PATIENCE))
    with ThreadPoolExecutor(2) as pool, terrazzo.Client(server.url, timeout=PATIENCE) as client:
        client.segment(picture(0)[0])
        server.network.gate.clear()
        waiting = [pool.submit(client.segment, picture(seed)[0]) for seed in range(2)]
        until(lambda: server.house.admission.taken == 2)
        with pytest.raises(ServiceError, match="503") as caught:
            client.segment(picture(2)[0])
        assert "later" in caught.value.fix
        server.network.gate.set()
        assert len([future.result() for future in waiting]) == 2


def test_what_the_server_refuses(server: Running) -> None:
    with terrazzo.Client(server.url) as client:
        with pytest.raises(ServiceError, match="422"):
            client.segment(b"no image")
        with pytest.raises(ServiceError, match="has no model 'other'") as caught:
            client.segment(picture(0)[0], model="other")
        assert caught.value.code == "model" and "'colors'" in caught.value.fix


def test_where_no_server_is() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        for seconds in (1e-6, 0.3):
            with (
                terrazzo.Client(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout=seconds) as client,
                pytest.raises(ServiceError, match="reached"),
            ):
                client.segment(b"x")
    with pytest.raises(ConfigError, match="address"):
        terrazzo.Client("127.0.0.1:8000")
    with pytest.raises(ConfigError, match="timeout"):
        terrazzo.Client(timeout=0)
    with terrazzo.Client() as client, pytest.raises(ConfigError, match="cannot be read"):
        client.segment("nothere.jpg")


@contextmanager
def saying(body: bytes) -> Iterator[str]:
    """A server that answers everything alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{other.server_port}"
        other.shutdown()
        thread.join()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"name": 1, "ready": true}]', b"[1]"])
def test_another_server(body: bytes) -> None:
    with saying(body) as url, terrazzo.Client(url, timeout=PATIENCE) as client, pytest.raises(ServiceError):
        client.segment(b"x")
