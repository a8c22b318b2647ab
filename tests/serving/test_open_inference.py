"""`/v2`: the Open Inference Protocol, by hand and through Triton's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from running import COLORS, PATIENCE, Running, get, picture, post, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(max_body=2_000_000) as started:
        yield started


def infer(server: Running, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return post(f"{server.url}/v2/models/colors/infer", content=content, headers=headers)


def tensor(**changes: Any) -> dict[str, Any]:
    image = COLORS[picture(0, (4, 5))[1]]
    given = {"name": "image", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
    return {"inputs": [{**given, **changes}]}


def test_health_and_metadata(server: Running) -> None:
    assert get(server.url + "/v2").json()["extensions"] == ["binary_tensor_data"]
    assert get(server.url + "/v2/health/live").status_code == 200
    assert get(server.url + "/v2/models/colors/ready").status_code == 200
    about = get(server.url + "/v2/models/colors").json()
    assert about["inputs"][0]["shape"] == [-1, -1, -1, 3] and about["outputs"][0]["datatype"] == "UINT8"
    assert get(server.url + "/v2/models/colors/versions/1").json() == about
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/colors/versions/7"):
        assert get(server.url + path).status_code == 404


def test_json_in_json_out(server: Running) -> None:
    answer = infer(server, {**tensor(), "id": "42"}).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "colors", "1")
    (mask,) = answer["outputs"]
    assert (mask["name"], mask["datatype"], mask["shape"]) == ("mask", "UINT8", [1, 4, 5])
    assert mask["data"] == picture(0, (4, 5))[1].ravel().tolist()


def test_files_in_base64(server: Running) -> None:
    data, mask = picture(3)
    body = tensor(datatype="BYTES", shape=[1], data=[base64.b64encode(data).decode()])
    assert infer(server, body).json()["outputs"][0]["data"] == mask.ravel().tolist()


@pytest.mark.parametrize("is_binary", [True, False])
def test_tritons_client_gets_the_mask(server: Running, is_binary: bool) -> None:
    http = pytest.importorskip("tritonclient.http")
    masks = np.stack([picture(seed, (20, 30))[1] for seed in (1, 2)])
    limits = {"connection_timeout": PATIENCE, "network_timeout": PATIENCE}
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}", **limits)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colors")
    assert client.get_model_metadata("colors")["name"] == "colors"
    image = http.InferInput("image", [2, 20, 30, 3], "UINT8")
    image.set_data_from_numpy(COLORS[masks], binary_data=is_binary)
    asked = [http.InferRequestedOutput(name, binary_data=is_binary) for name in ("mask", "probabilities")]
    result = client.infer("colors", [image], outputs=asked)
    assert (result.as_numpy("mask") == masks).all()
    assert (result.as_numpy("probabilities").argmax(1) == masks).all()
    compressed = client.infer("colors", [image], request_compression_algorithm="gzip")
    assert (compressed.as_numpy("mask") == masks).all()
    files = http.InferInput("image", [2], "BYTES")
    files.set_data_from_numpy(np.array([picture(seed, (20, 30))[0] for seed in (1, 2)], dtype=object))
    assert (client.infer("colors", [files]).as_numpy("mask") == masks).all()
    client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000,
        [],
        {},
        {"inputs": {}},
        {"inputs": [1]},
        tensor(name="other"),
        tensor(datatype="FP32"),
        tensor(datatype=["UINT8"]),
        tensor(shape=[4, 5]),
        tensor(shape=[4, 5, 4]),
        tensor(shape=[4, 6, 3]),
        tensor(shape=[4, 5, 3.0]),
        tensor(shape=[2**31, 2**31, 2**31, 3]),
        tensor(shape="x"),
        tensor(data=None),
        tensor(data=[[1], [2, 3]]),
        tensor(data=["x"] * 60),
        tensor(data=[300] * 60),
        tensor(data={"a": 1}),
        tensor(parameters={"binary_data_size": 60}),
        tensor(data=None, parameters={"binary_data_size": 60}),
        tensor(data=None, parameters={"binary_data_size": -1}),
        tensor(datatype="BYTES", shape=[1], data=["http://127.0.0.1:1/a.jpg"]),
        tensor(datatype="BYTES", shape=[2], data=["aaaa"]),
        tensor(datatype="BYTES", shape=[1], data=[7]),
        tensor(datatype="BYTES", shape=[1], data=[]),
        {**tensor(), "outputs": [{"name": "logits"}]},
        {**tensor(), "outputs": 7},
    ],
)
def test_requests_that_are_wrong(server: Running, body: Any) -> None:
    answer = infer(server, body)
    assert answer.status_code == 400 and isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "9" * 40])
def test_a_header_length_that_is_wrong(server: Running, length: str) -> None:
    assert infer(server, tensor(), **{"Inference-Header-Content-Length": length}).status_code == 400


def test_a_file_that_is_no_image(server: Running) -> None:
    body = tensor(datatype="BYTES", shape=[1], data=[base64.b64encode(b"text").decode()])
    assert infer(server, body).status_code == 422


def test_images_of_two_sizes_do_not_make_one_tensor(server: Running) -> None:
    files = [base64.b64encode(picture(0, size)[0]).decode() for size in ((4, 5), (5, 4))]
    assert infer(server, tensor(datatype="BYTES", shape=[2], data=files)).status_code == 400
