"""What bounds a server's memory and time, and what HTTP asks of it."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from running import PATIENCE, Running, decoded, get, head_of, picture, png, request, running, too_late, until
from running import post as posted

import terrazzo
from terrazzo.errors import ServiceError
from terrazzo.serving import connection, open_inference, segmenting, v1

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(demo=True, max_pixels=100_000) as started:
        yield started


def post(server: Running, content: bytes, query: str = "", **headers: str) -> httpx.Response:
    return posted(f"{server.url}/v1/segment{query}", content=content, headers={**PNG, **headers})


@pytest.mark.parametrize("path", ["/", "/v1/models", "/v2/health/live", "/metrics", "/openapi.json", "/demo/page.js"])
def test_head_is_get_without_a_body(server: Running, path: str) -> None:
    got, head = get(server.url + path), request("HEAD", server.url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_methods_that_are_not_allowed_are_answered_with_those_that_are(server: Running) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        answer = request(method, server.url + "/v1/segment")
        assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_a_connection_goes_on_after_a_refusal_whose_body_was_not_read(server: Running) -> None:
    data, mask = picture(0)
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/v1/segment?model=other", content=bytes(1_000_000), headers=PNG).status_code == 404
        assert (decoded(client.post("/v1/segment", content=data, headers=PNG).content) == mask).all()


def test_pipelined_requests_are_answered_in_turn(server: Running) -> None:
    data, _ = picture(0)
    posted = (
        b"POST /v1/segment?save=json HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b"
    )
    got = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(got + posted % (len(data), data) + last)
        answers = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 ") == 3
    assert answers.index(b'"live"') < answers.index(b'"pixels"') < answers.index(b'"ready"')


def test_a_body_that_trickles_on_after_its_refusal_is_cut_off(monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    head = b"POST /v1/segment?model=other HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(head)
        assert raw.recv(65536).startswith(b"HTTP/1.1 404 ")
        monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)

        def is_cut_off() -> bool:
            try:
                raw.sendall(b"1\r\nx\r\n")
            except ConnectionError:
                return True
            return False

        until(is_cut_off)


def test_who_does_not_read_an_answer_keeps_a_place_for_a_while_and_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = picture(0, (1200, 1600))
    encoded = 'terrazzo_stage_seconds_count{model="colors",stage="encode"}'
    with running(capacity=1, batch_size=1) as server:

        def unread(count: int) -> socket.socket:
            raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
            raw.sendall(head_of(len(data), "?save=probabilities") + data)
            until(lambda: server.metric(encoded) == count)
            return raw

        with unread(1):
            assert post(server, picture(1)[0]).status_code == 503
        until(lambda: server.house.admission.taken == 0)
        with monkeypatch.context() as patch:
            patch.setattr(connection, "READ_SECONDS", 0.2)
            with unread(2):
                until(lambda: server.house.admission.taken == 0)
        assert post(server, picture(1)[0]).status_code == 200
        whole = post(server, data, "?save=probabilities")
        assert whole.status_code == 200 and len(whole.content) == int(whole.headers["content-length"])


def test_pages_of_other_sites_are_not_answered(server: Running) -> None:
    data, _ = picture(0)
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = post(server, data, **{"Sec-Fetch-Site": site, "Origin": "https://other.example"})
        assert answer.status_code == status
    with running(cors=("https://other.example",)) as open_server:
        asked = {"Sec-Fetch-Site": "cross-site", "Origin": "https://other.example"}
        assert post(open_server, data, **asked).headers["access-control-allow-origin"] == "https://other.example"
        assert post(open_server, data, **{**asked, "Origin": "https://third.example"}).status_code == 403


def test_an_error_nobody_thought_of_has_an_id_and_no_trace(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str | None) -> None:
        raise ArithmeticError("/secret/path")

    monkeypatch.setattr(server.house, "model", fails)
    before = server.metric('terrazzo_requests_total{route="/v1/segment",status="500"}')
    answer = post(server, picture(0)[0], **{"X-Request-Id": "seven"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "seven")
    assert answer.json()["error"]["code"] == "internal" and "secret" not in answer.text
    until(lambda: server.metric('terrazzo_requests_total{route="/v1/segment",status="500"}') == before + 1)


def test_a_large_image_gets_in_where_the_house_has_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenting, "PIXELS_OF_A_PLACE", 1000)
    data, mask = picture(0, (40, 100))  # four places beside its request's
    with running(capacity=2, batch_size=1) as server:
        assert (decoded(post(server, data).content) == mask).all()


def test_large_images_of_one_batch_do_not_keep_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenting, "PIXELS_OF_A_PLACE", 1000)
    files = [("image", (f"{seed}.png", picture(seed, (40, 100))[0], "image/png")) for seed in range(6)]
    with running(capacity=4, batch_size=2) as server:
        entries = posted(server.url + "/v1/segment/batch", files=files).json()
        assert [entry.get("height") for entry in entries] == [40] * 6


def test_requests_that_were_given_up_leave_no_image_in_the_queue() -> None:
    with running(capacity=4, batch_size=1) as server, ThreadPoolExecutor(1) as pool:
        server.network.gate.clear()
        first = pool.submit(post, server, picture(0)[0])
        until(lambda: server.network.calls == [1])
        for seed in range(8):
            data = picture(seed)[0]
            assert too_late(lambda seconds: post(server, data, f"?timeout={seconds}")).status_code == 504  # noqa: B023
        assert server.house.models.waiting() <= 1
        server.network.gate.set()
        assert first.result().status_code == 200


def test_requests_that_were_given_up_leave_nothing_before_the_decoders(server: Running) -> None:
    held = threading.Event()
    busy = [server.house._decoders.submit(held.wait) for _ in range(segmenting.SIDE_THREADS)]
    data, mask = picture(1)
    for _ in range(5):
        assert too_late(lambda seconds: post(server, data, f"?timeout={seconds}")).status_code == 504
    held.set()
    assert all(future.result() for future in busy)
    assert (decoded(post(server, data).content) == mask).all()


def test_probabilities_beyond_the_limit(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenting, "MOST_VALUES", 24 * 32 * 3)
    assert post(server, picture(0)[0], "?save=probabilities").status_code == 200
    answer = post(server, picture(0, (24, 33))[0], "?save=probabilities")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "answer-too-large")
    assert post(server, picture(0, (24, 33))[0]).status_code == 200


def test_answers_beyond_the_limit(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [("image", (f"{seed}.png", picture(seed)[0], "image/png")) for seed in range(6)]
    assert posted(server.url + "/v1/segment/batch?save=mask", files=files).status_code == 200
    monkeypatch.setattr(v1, "MOST_ANSWER", 500)
    answer = posted(server.url + "/v1/segment/batch?save=mask", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "answer-too-large")
    monkeypatch.setattr(open_inference, "MOST_NUMBERS", 100)
    assert infer(server, 1).status_code == 413


def infer(server: Running, count: int, size: tuple[int, int] = (24, 32)) -> httpx.Response:
    data = [base64.b64encode(picture(seed, size)[0]).decode() for seed in range(count)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [count], "data": data}
    return posted(server.url + "/v2/models/colors/infer", json={"inputs": [tensor]})


def test_the_images_of_one_tensor_are_bounded_together(server: Running) -> None:
    assert infer(server, 3, (100, 300)).status_code == 200
    assert infer(server, 4, (100, 300)).status_code == 413


@pytest.mark.parametrize("boundary", ["x" * 5000, "\\" * 300])
def test_boundaries_beyond_what_the_standard_allows(server: Running, boundary: str) -> None:
    answer = post(server, b"--x", **{"Content-Type": f'multipart/form-data; boundary="{boundary}"'})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body-multipart")


def test_one_reload_at_a_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    held, loaded = threading.Event(), server.house.models.load

    def load(name: str | None = None) -> None:
        held.wait()
        loaded(name)

    monkeypatch.setattr(server.house.models, "load", load)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(posted, server.url + "/v1/models/reload") for _ in range(2)]
        until(lambda: any(future.done() for future in both))
        held.set()
        assert sorted(future.result().status_code for future in both) == [200, 409]


def test_a_model_that_cannot_be_loaded_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    command = [sys.executable, "-m", "terrazzo", "serve", "--port", "0", "--model", str(tmp_path / "bad.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 2 and "bad.onnx" in ended.stderr and "Traceback" not in ended.stderr


def test_the_end_comes_in_time_though_the_network_hangs() -> None:
    with running(stop_timeout=1.0) as server, ThreadPoolExecutor(1) as pool:
        server.network.gate.clear()
        hanging = pool.submit(post, server, png(WHITE))
        until(lambda: server.network.calls)
        server.stop()  # which fails if it waits for the network
        with pytest.raises(httpx.HTTPError):
            hanging.result().raise_for_status()


def test_a_client_does_not_wait_longer_than_it_was_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        running(capacity=1, batch_size=1) as server,
        ThreadPoolExecutor(1) as pool,
        terrazzo.Client(server.url) as client,
    ):
        client.segment(picture(0)[0])
        server.network.gate.clear()
        first = pool.submit(post, server, picture(0)[0])
        until(lambda: server.house.admission.taken == 1)
        client.timeout = PATIENCE
        monkeypatch.setattr(server.house.admission, "retry_after", lambda: round(2 * PATIENCE))
        before = server.metric('terrazzo_refused_total{reason="busy"}')
        with pytest.raises(ServiceError, match="503"):
            client.segment(picture(1)[0])
        assert server.metric('terrazzo_refused_total{reason="busy"}') == before + 1  # to come back is too late
        server.network.gate.set()
        assert first.result().status_code == 200


WHITE = np.full((24, 32, 3), 255, np.uint8)
