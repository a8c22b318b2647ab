"""`/v1/segment`: the forms of answers, of bodies, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from running import COLORS, LABELS, PATIENCE, POISON, Running, decoded, get, head_of, picture, png, running, until
from running import post as posted

PNG = {"Content-Type": "image/png"}
SMALL = {"max_body": 200_000, "max_pixels": 100_000}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(**SMALL) as started:
        yield started


def post(server: Running, content: object, path: str = "/v1/segment", **headers: str) -> httpx.Response:
    return posted(server.url + path, content=content, headers={**PNG, **headers})  # type: ignore[arg-type]


def test_a_body_is_an_image_and_the_answer_its_mask(server: Running) -> None:
    data, mask = picture(0)
    answer = post(server, data)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert (decoded(answer.content) == mask).all()
    assert answer.headers["x-terrazzo-model"] == "colors;version=1"


def test_a_file_of_a_form(server: Running) -> None:
    data, mask = picture(1)
    answer = posted(server.url + "/v1/segment", files={"image": ("a.png", data, "image/png")})
    assert (decoded(answer.content) == mask).all()


@pytest.mark.parametrize(
    ("query", "accept", "media"),
    [
        ("", "application/json", "application/json"),
        ("", "image/png;q=0.5, application/json", "application/json"),
        ("", "text/html,*/*;q=0.1", "image/png"),
        ("?save=color", "*/*", "image/png"),
        ("?save=overlay", "application/json", "image/png"),
        ("?save=json", "*/*", "application/json"),
        ("?save=probabilities", "*/*", "application/x-npz"),
        ("?save=entropy", "*/*", "image/png"),
        ("?save=polygons", "*/*", "application/geo+json"),
    ],
)
def test_forms_of_answers(server: Running, query: str, accept: str, media: str) -> None:
    data, mask = picture(2)
    answer = post(server, data, f"/v1/segment{query}", Accept=accept)
    assert answer.status_code == 200 and answer.headers["content-type"] == media
    if media == "application/json":
        counts = {entry["name"]: entry["pixels"] for entry in answer.json()["classes"]}
        assert counts == {name: int((mask == index).sum()) for index, name in enumerate(LABELS.names)}
        assert answer.json()["model"] == "colors"
    elif media == "application/x-npz":
        archive = np.load(io.BytesIO(answer.content))
        assert (archive["probabilities"].argmax(0) == mask).all() and list(archive["names"]) == list(LABELS.names)
    elif media == "application/geo+json":
        features = answer.json()["features"]
        assert sum(feature["properties"]["pixels"] for feature in features) == mask.size
    elif "color" in query:
        assert (decoded(answer.content) == np.array(LABELS.palette, np.uint8)[mask]).all()


def test_what_no_answer_can_be(server: Running) -> None:
    answer = post(server, picture(0)[0], Accept="video/mp4")
    assert (answer.status_code, answer.json()["error"]["code"]) == (406, "accept")


def test_a_batch_answers_for_each_image_and_one_that_is_bad_fails_alone(server: Running) -> None:
    good = [picture(seed, (16 + seed, 20)) for seed in range(3)]
    files = [("image", (f"{n}.png", data, "image/png")) for n, (data, _) in enumerate(good)]
    files.insert(1, ("image", ("bad.png", b"no image", "image/png")))
    entries = posted(server.url + "/v1/segment/batch", files=files).json()
    assert [entry["file"] for entry in entries] == ["0.png", "bad.png", "1.png", "2.png"]
    assert entries[1]["error"]["code"] == "image-format"
    assert [entries[n]["height"] for n in (0, 2, 3)] == [16, 17, 18]
    packed = posted(server.url + "/v1/segment/batch?save=mask", files=files)
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        entries = json.loads(archive.read("results.json"))
        for number, (_, mask) in zip((0, 2, 3), good, strict=True):
            assert (decoded(archive.read(entries[number]["result"])) == mask).all()


def test_an_image_that_the_network_fails_on_fails_alone_and_tells_nothing_of_the_machine(server: Running) -> None:
    poison = png(np.full((24, 32, 3), POISON, np.uint8))
    good = [picture(seed) for seed in range(4)]
    server.network.calls.clear()
    server.network.gate.clear()
    server.network.calls.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(post, server, good[0][0])
        until(lambda: server.network.calls)
        others = [pool.submit(post, server, data) for data in (good[1][0], poison, good[2][0])]
        until(lambda: server.house.models.waiting() == 3)
        server.network.gate.set()
        answers = [future.result() for future in (first, *others)]
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
    assert answers[2].json()["error"]["code"] == "internal" and "secret" not in answers[2].text
    assert (decoded(answers[3].content) == good[2][1]).all()


def test_thirty_two_at_once_each_get_their_own_mask(server: Running) -> None:
    pictures = [picture(100 + seed, (10 + seed % 3, 12)) for seed in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda each: post(server, each[0]), pictures))
    for answer, (_, mask) in zip(answers, pictures, strict=True):
        assert answer.status_code == 200 and (decoded(answer.content) == mask).all()


def test_a_lone_request_does_not_wait_for_others() -> None:
    with running(batch_wait=PATIENCE) as server:
        assert post(server, picture(0)[0], "/v1/segment?timeout=100").status_code == 200


def test_images_of_one_size_are_computed_together() -> None:
    with running(batch_size=4) as server, ThreadPoolExecutor(8) as pool:
        server.network.gate.clear()
        first = pool.submit(post, server, picture(0)[0])
        until(lambda: server.network.calls == [1])
        others = [pool.submit(post, server, picture(seed)[0]) for seed in range(7)]
        until(lambda: server.house.models.waiting() == 7)
        server.network.gate.set()
        assert all(future.result().status_code == 200 for future in (first, *others))
        assert server.network.calls == [1, 4, 3]


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"Content-Type": "application/json"}, b'{"image": "http://127.0.0.1:1/a.jpg"}', 415, "body-type"),
        ({"Content-Type": "text/plain"}, b"http://127.0.0.1:1/a.jpg", 415, "body-type"),
        ({"Content-Type": "image/jpeg"}, b"http://127.0.0.1:1/a.jpg", 422, "image-format"),
        ({"Content-Type": "image/png"}, b"", 400, "body-empty"),
        ({"Content-Type": "multipart/form-data"}, b"x", 400, "body-multipart"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"not a form", 400, "body-multipart"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 400, "body-no-file"),
        (
            {"Content-Type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="url"\r\n\r\nhttp://127.0.0.1:1/a.jpg\r\n--b--\r\n',
            400,
            "body-no-file",
        ),
        ({"Content-Type": "image/png", "Content-Encoding": "br"}, b"x", 415, "body-encoding"),
        ({"Content-Type": "image/png", "Content-Encoding": "gzip"}, b"x", 400, "body-encoding"),
        ({"Content-Type": "image/png", "Content-Encoding": "gzip"}, gzip.compress(bytes(10**7)), 413, "body-too-large"),
    ],
)
def test_bodies_that_are_no_image(
    server: Running, headers: dict[str, str], content: bytes, status: int, code: str
) -> None:
    answer = posted(server.url + "/v1/segment", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_compressed_body(server: Running) -> None:
    data, mask = picture(3)
    answer = post(server, gzip.compress(data), **{"Content-Encoding": "gzip"})
    assert (decoded(answer.content) == mask).all()


def test_bodies_beyond_the_limit_declared_or_not(server: Running) -> None:
    large = bytes(SMALL["max_body"] + 1)
    assert post(server, large).status_code == 413
    chunked = post(server, (large[at : at + 4096] for at in range(0, len(large), 4096)))
    assert chunked.status_code == 413


def test_a_length_that_lies(server: Running) -> None:
    data, _ = picture(0)
    for declared in (str(10**15), "9" * 30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
            raw.sendall(head_of(declared) + data)
            assert raw.recv(1000).split(b" ")[1] in (b"413", b"400")
    assert post(server, data).status_code == 200


def test_an_image_of_too_many_pixels_is_refused_from_its_header(server: Running) -> None:
    answer = post(server, png(np.zeros((400, 400, 3), np.uint8)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "image-too-large")


def test_many_tiny_chunks(server: Running) -> None:
    data, mask = picture(4)
    answer = post(server, (data[at : at + 1] for at in range(len(data))))
    assert (decoded(answer.content) == mask).all()


def test_parameters_that_are_wrong(server: Running) -> None:
    data, _ = picture(0)
    assert post(server, data, "/v1/segment?model=other").status_code == 404
    for query in ("save=pickle", "timeout=-1", "timeout=nan", "timeout=x"):
        assert post(server, data, f"/v1/segment?{query}").status_code == 422


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/demo/../../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/x"])
def test_there_is_nothing_else(server: Running, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in raw.recv(1000)


def test_a_message_has_an_id_which_a_client_may_choose(server: Running) -> None:
    assert post(server, picture(0)[0], **{"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    strange = post(server, picture(0)[0], **{"X-Request-Id": "a b;c"}).headers["x-request-id"]
    assert strange != "a b;c" and len(strange) == 16


def test_what_the_api_says_of_itself(server: Running) -> None:
    document = get(server.url + "/openapi.json").json()
    assert "multipart/form-data" in document["paths"]["/v1/segment"]["post"]["requestBody"]["content"]
    (model,) = get(server.url + "/v1/models").json()
    assert model["ready"] and [entry["name"] for entry in model["classes"]] == list(LABELS.names)


def test_figures(server: Running) -> None:
    before = server.metric('terrazzo_class_pixels_total{class_name="red",model="colors"}')
    post(server, png(np.broadcast_to(COLORS[0], (10, 10, 3)).copy()))
    assert server.metric('terrazzo_class_pixels_total{class_name="red",model="colors"}') == before + 100
    text = get(server.url + "/metrics").text
    for name in ("terrazzo_queue_images", "terrazzo_batch_images_count", 'stage="decode"', 'stage="compute"'):
        assert name in text


def test_threads_end_with_the_server() -> None:
    before = threading.active_count()
    with running() as server:
        assert post(server, picture(0)[0]).status_code == 200
    until(lambda: threading.active_count() <= before)
