"""What a server does under more load than it can take, with slow and vanished clients, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from running import Running, decoded, head_of, picture, running, until

from terrazzo.serving import connection

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def server() -> Iterator[Running]:
    with running(capacity=4, batch_size=1) as started:
        yield started


def post(server: Running, seed: int, query: str = "") -> httpx.Response:
    return httpx.post(f"{server.url}/v1/segment{query}", content=picture(seed)[0], headers=PNG, timeout=30)


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
    assert server.house.admission.taken == 0
    assert server.metric('terrazzo_refused_total{reason="busy"}') == 4


def test_a_request_whose_time_is_over_is_not_computed(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, 0)
        until(lambda: server.network.calls == [1])
        late = post(server, 1, "?timeout=0.2")
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


def test_slow_heads_and_bodies_are_closed_and_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    with running(timeout=0.7) as server, ThreadPoolExecutor(1) as pool:
        head = socket.create_connection(("127.0.0.1", server.port))
        head.sendall(b"POST /v1/segment HT")
        body = socket.create_connection(("127.0.0.1", server.port))
        body.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
        )
        assert pool.submit(post, server, 0).result().status_code == 200
        head.settimeout(10)
        body.settimeout(10)
        assert head.recv(100) == b""
        assert body.recv(1000).split(b" ")[1] == b"408"
        head.close()
        body.close()
        until(lambda: server.house.admission.taken == 0)


def test_probes_answer_while_the_house_is_full(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(post, server, seed) for seed in range(4)]
        until(lambda: server.house.admission.taken == 4)
        assert httpx.get(server.url + "/v2/health/ready").json() == {"ready": True}
        assert httpx.get(server.url + "/metrics").status_code == 200
        server.network.gate.set()
        assert {future.result().status_code for future in waiting} == {200}


def test_an_image_of_many_pixels_takes_several_places() -> None:
    with running(capacity=3, batch_size=1) as server, ThreadPoolExecutor(2) as pool:
        server.network.gate.clear()
        large = pool.submit(
            httpx.post,
            server.url + "/v1/segment",
            content=picture(0, (2000, 4100))[0],
            headers=PNG,
            timeout=60,
        )
        until(lambda: server.house.admission.taken == 3)
        assert post(server, 1).status_code == 503
        server.network.gate.set()
        assert large.result().status_code == 200


def test_a_key_is_asked_for() -> None:
    key = "0123456789abcdef"
    with running(api_key=key) as server:
        assert post(server, 0).status_code == 401
        for header in (f"Bearer {key[:-1]}", f"Basic {key}", key):
            answer = httpx.post(
                server.url + "/v1/segment", content=picture(0)[0], headers={**PNG, "Authorization": header}
            )
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        right = {**PNG, "Authorization": f"Bearer {key}"}
        assert httpx.post(server.url + "/v1/segment", content=picture(0)[0], headers=right).status_code == 200
        assert httpx.get(server.url + "/v2/health/live").status_code == 200
        assert httpx.get(server.url + "/metrics").status_code == 401


def test_reloading_drops_nothing(server: Running) -> None:
    server.network.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        before = [pool.submit(post, server, seed) for seed in range(3)]
        until(lambda: server.house.admission.taken == 3)
        again = pool.submit(httpx.post, server.url + "/v1/models/reload", timeout=30)
        time.sleep(0.1)
        server.network.gate.set()
        assert again.result().json()[0]["version"] == 2
        for seed, future in enumerate(before):
            assert (decoded(future.result().content) == picture(seed)[1]).all()
    assert post(server, 5).headers["x-terrazzo-model"] == "colors;version=2"


def test_sigterm_finishes_what_was_accepted(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "terrazzo", "serve", "--port", "0", "--engine", "torch", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        until(lambda: _status(url + "/v2/health/ready") == 200, 120)
        with ThreadPoolExecutor(4) as pool:
            futures = [
                pool.submit(
                    httpx.post, url + "/v1/segment", content=picture(seed, (300, 400))[0], headers=PNG, timeout=60
                )
                for seed in range(4)
            ]
            until(lambda: "terrazzo_places_taken 4.0" in httpx.get(url + "/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert [future.result().status_code for future in futures] == [200] * 4
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.HTTPError:
        return 0


def test_only_this_machine_is_listened_on_unless_told_otherwise() -> None:
    from terrazzo.serving.settings import ServeSettings

    assert ServeSettings().host == "127.0.0.1"
    assert os.name != "posix" or ServeSettings().cors == ()
