"""`terrazzo serve` under load, beside `terrazzo predict` on a directory, a handler around transformers, and Ray Serve.

    python benchmarks/serving.py --photos camvid/val/images --threads 1
    python benchmarks/serving.py --photos camvid/val/images --threads 1 --full --write

`serving_load.py` makes the load, on the same machine and cores. Each mask is compared with the one that `terrazzo
predict` writes. What is measured:

    throughput   photos a second of 8 clients that send the next photo once they have an answer, as a share of what the
                 command reaches on a directory, its start left out (the difference of two runs)
    added        median of a lone client's request, less reading and segmenting the same photo in a process of its own;
                 both in turn
    overload     three times as many photos a second as it can do, with room for as many requests as it can do in one
                 second; --full keeps this up for five minutes
    memory       of a server with a network of no cost, over 10,000 requests with --full, else 2,000

The peers are what their documentation leads to: a `def` endpoint that calls transformers' pipeline, and a Ray Serve
deployment that puts batches of the same size through the same engine as ours (left out where ray is not installed).
A machine that does other work too gives the server more cores in one minute than in another: where the column of the
server's cores differs between two rows, compare its CPU time for a mask instead of the masks a second.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import measure
from measure import header, publish, table

LOAD = Path(__file__).with_name("serving_load.py")
BATCH = 4  # of `terrazzo serve`, and of the peer's
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: where.
        pid: of its process.
    """

    url: str
    pid: int

    @property
    def memory(self) -> float:
        """Megabytes that it holds."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found.group(1)) / 1024

    @property
    def cpu(self) -> float:
        """Seconds that it has computed."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    seconds, overload = options.seconds, 300.0 if options.full else options.seconds
    requests = 10_000 if options.full else 2_000
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos, masks = folder / "photos", folder / "masks"
        photos.mkdir()
        for path in sorted(options.photos.iterdir())[: options.count]:
            shutil.copy(path, photos)
        directory = rate_of_predict(photos, folder, options)
        rows.append(["`terrazzo predict`, a directory", f"{directory:.1f} photos/s", *[""] * 6])

        with terrazzo(options) as server:
            load(server, photos, masks, users=2, seconds=5)
            busy = load(server, photos, masks, users=8, seconds=seconds)
            lone, direct, encode = (1e3 * value for value in measure.apart(alone, server.url, photos, options))
        rate = busy["right"] / busy["seconds"]
        rows.append(row("`terrazzo serve`, 8 clients", busy, f"{rate / directory:.0%} of the directory"))
        alone_row = f"{lone:.0f} ms, {lone - direct:.1f} more than reading and segmenting (encoding: {encode:.1f})"
        rows.append(["1 client", *[""] * 6, alone_row])

        with terrazzo(options, "--capacity", str(max(2, round(rate)))) as server:
            many_users = int(12 * rate) + 8
            load(server, photos, masks, users=many_users, rate=3 * rate, seconds=min(15.0, seconds))
            held = server.memory
            over = load(server, photos, masks, users=many_users, rate=3 * rate, seconds=overload)
            grown = server.memory - held
        share = over["right"] / over["seconds"] / rate
        remark = f"goodput {share:.2f}; by CPU time {per_mask(busy) / per_mask(over):.2f}; memory {grown:+.0f} MB"
        rows.append(row(f"3 times too much for {overload:.0f} s", over, remark))

        with colors(folder) as server:
            load(server, folder / "tiny", folder / "tiny-masks", users=4, seconds=60, requests=500)
            held = server.memory
            many = load(server, folder / "tiny", folder / "tiny-masks", users=4, seconds=600, requests=requests)
            grown = server.memory - held
        rows.append(row(f"{requests:,} requests, a network of no cost", many, f"memory {grown:+.1f} MB"))

        with peer(options, folder) as server:
            own = masks_of(server, photos, folder / "peer-masks")  # its LayerNorms have another epsilon
            plain = load(server, photos, own, users=8, seconds=seconds)
        times = per_mask(plain) / per_mask(busy)
        rows.append(row("FastAPI and transformers' pipeline, 8 clients", plain, f"{times:.1f} times our CPU time"))
        if importlib.util.find_spec("ray") is not None:
            with apart(serve_ray, options.model, options.engine, options.threads) as server:
                other = load(server, photos, masks, users=8, seconds=seconds)
                times = per_mask(other) / per_mask(busy)
                remark = f"its replica takes {times:.2f} times our CPU time; its proxy and controller come on top"
                rows.append(row("Ray Serve around our predictor, 8 clients", other, remark))
    columns = [
        "", "right masks", "wrong, failed", "503", "median / 99th percentile", "server: cores, CPU time a mask",
        "load: cores", "",
    ]  # fmt: skip
    size = " --full" if options.full else ""
    text = header(
        f"A server under load, {options.model}",
        f"python benchmarks/serving.py --photos FOLDER --threads {options.threads}{size} --write",
        ("fastapi", "uvicorn", "ray", "onnxruntime", "openvino"),
        "Wall time; server and clients share the cores.",
    )
    publish("serving", text + "\n" + table(columns, rows), options.write)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--model", default="segformer_b0.camvid")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--full", action="store_true", help="five minutes of overload, and 10,000 requests")
    parser.add_argument("--write", action="store_true", help="put the table under results/")
    return parser.parse_args()


def row(what: str, done: dict[str, float], remark: str) -> list[object]:
    rate = done["right"] / done["seconds"]
    return [
        what,
        f"{done['right']:.0f}, {rate:.1f} a second",
        f"{done['wrong']:.0f}, {done['failed'] + done['late']:.0f}",
        f"{done['refused']:.0f}",
        f"{1e3 * done['p50']:.0f} / {1e3 * done['p99']:.0f} ms",
        f"{done['server'] / done['seconds']:.2f}, {1e3 * per_mask(done):.0f} ms",
        f"{done['cpu'] / done['seconds']:.2f}",
        remark,
    ]


def per_mask(done: dict[str, float]) -> float:
    """CPU seconds of the server for each right mask."""
    return done["server"] / max(done["right"], 1)


def alone(url: str, photos: Path, options: argparse.Namespace) -> tuple[float, float, float]:
    """Medians of a lone client's request, of reading and segmenting the photo here, and of encoding its mask."""
    from terrazzo.engines.auto import Workload
    from terrazzo.engines.memory import keep_freed_memory, share_freed_memory
    from terrazzo.inference.predict import make_predictor

    keep_freed_memory()
    share_freed_memory()
    predictor = make_predictor(
        options.model, engine=options.engine, threads=options.threads, workload=Workload(images=100, repeatable=True)
    )
    reading, taken = predictor.reading(), []
    place = url.removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=60)
    ending = time.perf_counter() + options.seconds
    while time.perf_counter() < ending or len(taken) < 5:
        for path in sorted(photos.iterdir())[:10]:
            data, begun = path.read_bytes(), time.perf_counter()
            connection.request("POST", "/v1/segment", data, {"Content-Type": "image/jpeg"})
            body, answered = connection.getresponse().read(), time.perf_counter()
            (result,) = predictor.segment_together([reading.read(data)])
            segmented = time.perf_counter()
            assert result.encode("mask") == body  # type: ignore[union-attr]
            taken.append((answered - begun, segmented - answered, time.perf_counter() - segmented))
    return tuple(np.median(taken[1:], axis=0).tolist())


def rate_of_predict(photos: Path, folder: Path, options: argparse.Namespace) -> float:
    """Photos a second of the command; the masks lie in `folder`/masks afterwards."""
    taken = []
    few = folder / "few"
    few.mkdir()
    first = sorted(photos.iterdir())
    for path in first[:2]:
        shutil.copy(path, few)
    for place in (few, few, photos):  # the first run may convert the model
        begun = time.perf_counter()
        command = [
            sys.executable, "-m", "terrazzo", "predict", str(place), "--model", options.model, "--save", "mask",
            "--engine", options.engine, "--threads", str(options.threads), "--output", str(folder / "masks"),
            "--precision", "fp32",  # as the server computes
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return (len(first) - 2) / (taken[2] - taken[1])


def load(server: Server, photos: Path, masks: Path, **options: float) -> dict[str, float]:
    """Run `serving_load.py`."""
    command = [sys.executable, str(LOAD), server.url, str(photos), str(masks)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    before = server.cpu
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    done: dict[str, float] = {**json.loads(ended.stdout), "server": server.cpu - before}
    print(options, done, file=sys.stderr)
    return done


@contextlib.contextmanager
def terrazzo(options: argparse.Namespace, *more: str) -> Iterator[Server]:
    command = [
        sys.executable, "-m", "terrazzo", "serve", "--port", "0", "--model", options.model, "--engine", options.engine,
        "--threads", str(options.threads), *more,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        wait_for(f"{url}/v2/health/ready")
        try:
            yield Server(url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def apart(serve: Any, *arguments: Any) -> Iterator[Server]:
    """Run a server in a process of its own, which sends its port."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=serve, args=(sending, *arguments), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{receiving.recv()}"
    said = wait_for(f"{url}/v2/health/ready")
    assert process.pid is not None
    try:
        yield Server(url, int(said) if said.isdigit() else process.pid)
    finally:
        process.terminate()
        process.join()


def wait_for(url: str, seconds: float = 120) -> bytes:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            answer = urllib.request.urlopen(url)
            if answer.status == 200:
                return bytes(answer.read())
        time.sleep(0.1)
    raise SystemExit(f"{url} was not ready within {seconds:.0f} seconds")


@contextlib.contextmanager
def colors(folder: Path) -> Iterator[Server]:
    """A server whose network finds the strongest of red, green and blue; its photos and masks lie in `folder`/tiny*."""
    strongest, dice = np.array([(230, 20, 20), (20, 230, 20), (20, 20, 230)], np.uint8), np.random.default_rng(0)
    for place in ("tiny", "tiny-masks"):
        (folder / place).mkdir()
    for number in range(50):
        mask = dice.integers(0, 3, (48 + number % 5, 64), dtype=np.uint8)
        Image.fromarray(strongest[mask]).save(folder / "tiny" / f"{number}.png")
        Image.fromarray(mask).save(folder / "tiny-masks" / f"{number}_mask.png")
    with apart(serve_colors) as server:
        yield server


def serve_colors(sending: Connection) -> None:
    from terrazzo.inference.predictor import Predictor
    from terrazzo.labels.spec import LabelSpec
    from terrazzo.preprocess import Preprocess
    from terrazzo.serving.metrics import Metrics
    from terrazzo.serving.models import LoadOptions, Models
    from terrazzo.serving.segmenting import Segmenter
    from terrazzo.serving.server import make_server
    from terrazzo.serving.settings import ServeSettings

    preprocess = Preprocess(short_side=None, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    labels = LabelSpec.from_names(["red", "green", "blue"])
    settings, metrics = ServeSettings(), Metrics()
    models = Models({"colors": Predictor(lambda x: x, preprocess, labels, "")}, LoadOptions(), settings, metrics)
    listening = socket.create_server(("127.0.0.1", 0))
    sending.send(listening.getsockname()[1])
    make_server(Segmenter(models, settings, metrics)).run([listening])


@contextlib.contextmanager
def peer(options: argparse.Namespace, folder: Path) -> Iterator[Server]:
    from terrazzo.weights.convert import convert

    convert(options.model, folder / "hf", "hf")
    with apart(serve_peer, str(folder / "hf"), options.threads) as server:
        yield server


def serve_peer(sending: Connection, model: str, threads: int) -> None:
    import io

    import torch
    import uvicorn
    from fastapi import Body, FastAPI, Response
    from transformers import pipeline

    torch.set_num_threads(threads)
    segmenter = pipeline("image-segmentation", model=model, device="cpu")
    numbers = segmenter.model.config.label2id
    app = FastAPI()

    @app.get("/v2/health/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/segment")
    def segment(photo: bytes = Body(media_type="image/jpeg")) -> Response:
        image = Image.open(io.BytesIO(photo)).convert("RGB")
        mask = np.zeros(image.size[::-1], np.uint8)
        for area in segmenter(image):
            mask[np.asarray(area["mask"]) > 0] = numbers[area["label"]]
        file = io.BytesIO()
        Image.fromarray(mask).save(file, "png")
        return Response(file.getvalue(), media_type="image/png")

    listening = socket.create_server(("127.0.0.1", 0))
    sending.send(listening.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listening])


def serve_ray(sending: Connection, model: str, engine: str, threads: int) -> None:
    import ray
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    @serve.deployment(num_replicas=1, max_ongoing_requests=32, ray_actor_options={"num_cpus": 1})
    class Segments:
        def __init__(self) -> None:
            from terrazzo.inference.predict import make_predictor

            self.predictor = make_predictor(model, engine=engine, threads=threads)
            self.reading = self.predictor.reading()

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.003)
        async def segment(self, images: list[Any]) -> list[bytes]:
            return [result.encode("mask") for result in self.predictor.segment_together(images)]  # type: ignore[union-attr]

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":
                return Response(str(os.getpid()))  # of the process that computes
            image = self.reading.read(await request.body())
            return Response(await self.segment(image), media_type="image/png")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Segments.bind())
    sending.send(port)
    signal.pause()


def masks_of(server: Server, photos: Path, masks: Path) -> Path:
    """Store the peer's own masks, one request at a time, to compare those under load with."""
    masks.mkdir()
    for path in photos.iterdir():
        request = urllib.request.Request(
            f"{server.url}/v1/segment", path.read_bytes(), {"Content-Type": "image/jpeg"}, method="POST"
        )
        (masks / f"{path.stem}_mask.png").write_bytes(urllib.request.urlopen(request).read())
    return masks


if __name__ == "__main__":
    main()
