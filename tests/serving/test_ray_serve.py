"""The application on Ray Serve, on this machine: `pytest -m slow` where ray is installed."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from running import decoded, get, post

import terrazzo
from terrazzo.errors import ConfigError
from terrazzo.serving.ray_serve import app
from terrazzo.weights.catalog import DEFAULT_MODEL, example_image


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_deployment_answers_as_the_server_does() -> None:
    ray, serve = pytest.importorskip("ray"), pytest.importorskip("ray.serve")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    photo = example_image(DEFAULT_MODEL)
    assert photo is not None
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"model": DEFAULT_MODEL, "capacity": "8", "most_replicas": "2"}), blocking=False)
        url = f"http://127.0.0.1:{port}"
        mask = terrazzo.predict(photo).mask

        def ask(number: int) -> np.ndarray:
            answer = post(url + "/v1/segment", content=photo.read_bytes(), headers={"Content-Type": "image/jpeg"})
            assert answer.status_code == 200, answer.text
            return decoded(answer.content)

        with ThreadPoolExecutor(4) as pool:
            assert all(np.array_equal(found, mask) for found in pool.map(ask, range(8)))
        assert get(url + "/v2/health/ready").json() == {"ready": True}
        assert "terrazzo_stage_seconds" in get(url + "/metrics").text
        bad = post(url + "/v1/segment", content=b"no image", headers={"Content-Type": "image/png"})
        assert (bad.status_code, bad.json()["error"]["code"]) == (422, "image-format")
        assert serve.status().applications["default"].deployments["Terrazzo"].status.name == "HEALTHY"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_arguments_that_are_wrong() -> None:
    pytest.importorskip("ray")
    for wrong in ({"modle": "x"}, {"capacity": "many"}, {"replicas": "x"}, {"model": "a=x,a=y"}):
        with pytest.raises(ConfigError):
            app(wrong)
