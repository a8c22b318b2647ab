"""What a server does under more load than it can take, with slow and vanished clients, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from running import PATIENCE, Running, decoded, get, head_of, is_closed, is_up, picture, running, too_late, until
from running import post as posted

from terrazzo.serving import connection, segmenting

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def server() -> Iterator[Running]:
    with running(capacity=4, batch_size=1) as started:
        yield started


def post(server: Running, seed: int, query: str = "") -> httpx.Response:
    return posted(f"{server.url}/v1/segment{query}", content=picture(seed)[0], headers=PNG)


def test_beyond_the_capacity_clients_are_sent_away_at_once_and_the_others_served(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(12) as pool:
        accepted = [pool.submit(post, server, seed) for seed in range(4)]
        until(lambda: server.house.admission.taken == 4)
        for seed in range(4):
            refused = post(server, seed)
            assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 60
        server.network.gate.set()
        for seed, future in enumerate(accepted):
            assert (decoded(future.result().content) == picture(seed)[1]).all()
    until(lambda: server.house.admission.taken == 0)
    assert server.metric('terrazzo_refused_total{reason="busy"}') == 4


def test_a_request_whose_time_is_over_is_not_computed(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, 0)
        until(lambda: server.network.calls == [1])
        late = too_late(lambda seconds: post(server, 1, f"?timeout={seconds}"))
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        server.network.gate.set()
        assert first.result().status_code == 200
    assert post(server, 2).status_code == 200
    assert len(server.network.calls) == 2  # the late one never


def test_a_client_that_went_away_is_dropped_from_the_queue(server: Running) -> None:
    data, _ = picture(1)
    server.network.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, server, 0)
        until(lambda: server.network.calls == [1])
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(head_of(len(data)) + data)
            until(lambda: server.house.models.waiting() == 1)
        until(lambda: server.house.admission.taken == 1)
        server.network.gate.set()
        assert first.result().status_code == 200
    assert post(server, 2).status_code == 200
    assert len(server.network.calls) == 2


def begun(server: Running, data: bytes) -> socket.socket:
    """Send a part of a request."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    raw.sendall(data)
    return raw


def test_slow_heads_and_bodies_harm_nobody(server: Running) -> None:
    with begun(server, b"POST /v1/segment HT"), begun(server, head_of(1000) + b"abc"):
        until(lambda: server.house.admission.taken == 1)
        assert post(server, 0).status_code == 200


def test_slow_heads_and_bodies_are_closed(monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    with begun(server, head_of(1000, "?timeout=0.2") + b"abc") as body:
        assert body.recv(1000).split(b" ")[1] == b"408"
    until(lambda: server.house.admission.taken == 0)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as head:
        with suppress(ConnectionError):  # closed already
            head.sendall(b"POST /v1/segment HT")
        assert is_closed(head)


def test_probes_answer_while_the_house_is_full(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(post, server, seed) for seed in range(4)]
        until(lambda: server.house.admission.taken == 4)
        assert get(server.url + "/v2/health/ready").json() == {"ready": True}
        assert get(server.url + "/metrics").status_code == 200
        server.network.gate.set()
        assert {future.result().status_code for future in waiting} == {200}


def test_an_image_of_many_pixels_takes_several_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenting, "PIXELS_OF_A_PLACE", 1000)
    with running(capacity=3, batch_size=1) as server, ThreadPoolExecutor(2) as pool:
        server.network.gate.clear()
        large = pool.submit(posted, server.url + "/v1/segment", content=picture(0, (40, 60))[0], headers=PNG)
        until(lambda: server.house.admission.taken == 3)
        assert post(server, 1).status_code == 503
        server.network.gate.set()
        assert large.result().status_code == 200


def test_a_key_is_asked_for() -> None:
    key = "0123456789abcdef"
    with running(api_key=key) as server:
        assert post(server, 0).status_code == 401
        for header in (f"Bearer {key[:-1]}", f"Basic {key}", key):
            answer = posted(server.url + "/v1/segment", content=picture(0)[0], headers={**PNG, "Authorization": header})
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        right = {**PNG, "Authorization": f"Bearer {key}"}
        assert posted(server.url + "/v1/segment", content=picture(0)[0], headers=right).status_code == 200
        assert get(server.url + "/v2/health/live").status_code == 200
        assert get(server.url + "/metrics").status_code == 401


def test_reloading_drops_nothing(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        before = [pool.submit(post, server, seed) for seed in range(3)]
        until(lambda: server.house.admission.taken == 3)
        again = pool.submit(posted, server.url + "/v1/models/reload")
        until(lambda: server.network.calls == [1, 1])  # the first request, and the new model's first pass
        server.network.gate.set()
        assert again.result().json()[0]["version"] == 2
        for seed, future in enumerate(before):
            assert (decoded(future.result().content) == picture(seed)[1]).all()
    assert post(server, 5).headers["x-terrazzo-model"] == "colors;version=2"


def test_sigterm_finishes_what_was_accepted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "terrazzo", "serve", "--port", "0", "--engine", "torch", "--threads", "1"]
    limits = ["--timeout", str(PATIENCE), "--stop-timeout", str(PATIENCE)]
    log, bodies = tmp_path / "log", [picture(seed, (96, 128))[0] for seed in range(4)]
    with (
        log.open("w") as stderr,
        subprocess.Popen([*command, *limits], stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        until(lambda: is_up(url))
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        accepted = [socket.create_connection(address, timeout=PATIENCE) for _ in bodies]
        for raw, body in zip(accepted, bodies, strict=True):
            raw.sendall(head_of(len(body)))
        until(lambda: "terrazzo_places_taken 4.0" in get(url + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: not _is_listened_on(address))
        for raw, body in zip(accepted, bodies, strict=True):
            raw.sendall(body)
            assert raw.recv(1000).split(b" ")[1] == b"200"
            raw.close()
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert "Traceback" not in log.read_text()


def _is_listened_on(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


def test_only_this_machine_is_listened_on_unless_told_otherwise() -> None:
    from terrazzo.serving.settings import ServeSettings

    assert ServeSettings().host == "127.0.0.1"
    assert os.name != "posix" or ServeSettings().cors == ()
