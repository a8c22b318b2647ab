"""Requests that nobody would send: made from the API's own description, and by changing good ones at random.

None may be answered 500, hang, or leave memory behind.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies
from running import COLORS, PATIENCE, Running, picture, post, running, until

from terrazzo.serving.batching import Job
from terrazzo.serving.segmenting import Ticket

LIMITS = {"max_body": 500_000, "max_pixels": 200_000, "demo": True}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(**LIMITS) as started:
        yield started


@pytest.mark.parametrize("count", [4, pytest.param(400, marks=pytest.mark.slow)])
def test_what_the_description_allows_and_what_it_does_not(server: Running, count: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    limits = settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seen: Counter[int] = Counter()

    def sends(case: Any) -> None:
        answer = case.call(timeout=PATIENCE)
        seen[answer.status_code] += 1
        assert answer.status_code != 500, case.as_curl_command()

    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path != "/v1/models/reload":
            modes = [operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode]
            limits(given(case=strategies.one_of(modes))(sends))()
    assert sum(seen.values()) >= count


def raw(server: Running, request: bytes) -> int:
    """Send bytes as they are, and return the status; 0 if the connection is closed without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(request)
            if not is_whole(request):  # the server waits for more
                connection.shutdown(socket.SHUT_WR)
            first = connection.recv(4096).split(b" ")
        except ConnectionError:
            return 0
        return int(first[1]) if len(first) > 1 and first[1].isdigit() else 0


def is_whole(request: bytes) -> bool:
    """Whether HTTP finds the end of a request, or a fault, in some bytes."""
    parser = h11.Connection(h11.SERVER)
    try:
        parser.receive_data(request)
        while (event := parser.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return True
    except h11.RemoteProtocolError:
        return True
    return False


def good_requests() -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
    """One request of each kind: its line, headers and body."""
    png, mask = picture(0)
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="%d.png"\r\n\r\n%b\r\n' % (number, png)
        for number in range(2)
    )
    one = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png).decode()]}
    pixels = COLORS[mask[:4, :5]]
    binary = {"name": "image", "datatype": "UINT8", "shape": [4, 5, 3], "parameters": {"binary_data_size": 60}}
    head = json.dumps({"inputs": [binary], "outputs": [{"name": "mask", "parameters": {"binary_data": True}}]}).encode()
    infer = b"POST /v2/models/colors/infer HTTP/1.1"
    multipart = {b"Content-Type": b"multipart/form-data; boundary=b"}
    return [
        (b"POST /v1/segment HTTP/1.1", {b"Content-Type": b"image/png"}, png),
        (b"POST /v1/segment?save=json&timeout=3 HTTP/1.1", {b"Content-Type": b"image/png", b"Accept": b"*/*"}, png),
        (b"POST /v1/segment/batch?save=overlay HTTP/1.1", multipart, form + b"--b--\r\n"),
        (infer, {b"Content-Type": b"application/json"}, json.dumps({"inputs": [one]}).encode()),
        (infer, {b"Inference-Header-Content-Length": b"%d" % len(head)}, head + pixels.tobytes()),
        (b"GET /v1/models HTTP/1.1", {b"Accept": b"application/json"}, b""),
        (b"GET /demo/examples/segformer_b0.camvid HTTP/1.1", {}, b""),
    ]


def flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def repeated(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start : start + dice.randint(1, 64)] * dice.randint(2, 200) + data[start:]


def spliced(data: bytes, dice: random.Random) -> bytes:
    odd = [
        b"\0",
        b"\r\n",
        b"--b",
        b"\xff\xfe",
        b"NaN",
        b"-1",
        b"1e999",
        b"9" * 400,
        b"[" * 3000,
        b"{",
        b'"',
        b"%00",
        b"/..",
    ]
    start = dice.randrange(len(data) + 1)
    return data[:start] + dice.choice(odd) + data[start + dice.randint(0, 3) :]


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flipped, cut, repeated, spliced)


def changed(dice: random.Random) -> bytes:
    """A good request with its line, a header, its body or the whole of it changed."""
    line, headers, body = dice.choice(good_requests())
    change, where = dice.choice(CHANGES), dice.choice(["line", "header", "body", "body", "all"])
    if where == "line":
        line = change(line, dice)
    if where == "body" and body:
        body = change(body, dice)
    fields = {b"Host": b"x", b"Connection": b"close", **headers}
    if body:
        fields[b"Content-Length"] = b"%d" % len(body)
    if where == "header":
        name = dice.choice(list(fields))
        fields[name] = change(fields[name], dice)
    if dice.random() < 0.1:
        fields[b"Content-Encoding"] = dice.choice([b"gzip", b"deflate", b"br", b"gzip, gzip", b""])
    whole = line + b"\r\n" + b"".join(b"%b: %b\r\n" % each for each in fields.items()) + b"\r\n" + body
    return change(whole, dice) if where == "all" else whole


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_good_requests_changed_at_random(server: Running, count: int) -> None:
    dice, seen = random.Random(count), Counter[int]()
    for seed in range(200):  # until what is loaded and kept once is there
        raw(server, changed(random.Random(seed)))
    before = memory()
    for _ in range(count):
        request = changed(dice)
        status = raw(server, request)
        seen[status] += 1
        assert status != 500, request[:2000]
    assert seen[200] > count / 20 and seen[400] > count / 20, seen
    until(lambda: server.house.admission.taken == 0 and left_behind() == 0)
    if count > 1000:  # few say nothing: the allocator keeps megabytes now and then
        grown = memory() - before
        assert grown < 20 << 20, grown
    png, _ = picture(3)
    assert post(server.url + "/v1/segment", content=png, headers={"Content-Type": "image/png"}).status_code == 200


def left_behind() -> int:
    """What requests hold, as long as they last."""
    gc.collect()
    return sum(type(each) in (Ticket, Job) for each in gc.get_objects())


def memory() -> int:
    """Bytes that the process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
