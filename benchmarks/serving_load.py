"""Load for `serving.py`, made by locust: photos are posted to a server, and each mask is compared with another.

    python benchmarks/serving_load.py URL PHOTOS MASKS --users 8 --seconds 20
    python benchmarks/serving_load.py URL PHOTOS MASKS --users 100 --rate 30 --seconds 60

Without --rate each user sends its next photo as soon as it has an answer; with it, the users together send so many a
second whatever comes back, up to one unanswered request each. It ends after --seconds or --requests, and prints one
line of JSON. It is a program of its own, since locust changes Python's sockets.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import gevent.event
import numpy as np
from locust import FastHttpUser, constant_pacing, constant_throughput, task  # before PIL: it changes the sockets
from locust.env import Environment
from PIL import Image


def main() -> None:
    options = parse()
    photos = sorted(path for path in options.photos.iterdir() if (options.masks / f"{path.stem}_mask.png").exists())
    bodies = [path.read_bytes() for path in photos]
    masks = [mask_of((options.masks / f"{path.stem}_mask.png").read_bytes()) for path in photos]
    right: list[set[bytes]] = [set() for _ in photos]  # answers that were found to be right: decoded once
    turns, counts, seconds = itertools.count(), {"right": 0, "refused": 0, "late": 0, "wrong": 0, "failed": 0}, []
    pace = constant_throughput(options.rate / options.users) if options.rate else constant_pacing(0)

    class Asks(FastHttpUser):
        host = options.url
        wait_time = pace
        network_timeout = connection_timeout = 60.0

        def on_start(self) -> None:
            if options.rate:  # spread, or all users would send at the same moment again and again
                gevent.sleep(random.random() * options.users / options.rate)

        @task
        def ask(self) -> None:
            if options.requests and sum(counts.values()) >= options.requests:
                stop()
                return
            number = next(turns) % len(photos)
            begun = time.perf_counter()
            with self.client.post(
                "/v1/segment", data=bodies[number], headers={"Content-Type": "image/jpeg"}, catch_response=True
            ) as answer:
                took, status, body = time.perf_counter() - begun, answer.status_code, answer.content
                answer.success()
            if status == 200:
                if body not in right[number] and (mask_of(body) == masks[number]).all():
                    right[number].add(body)
                kind = "right" if body in right[number] else "wrong"
                seconds.append(took)
            else:
                kind = {503: "refused", 504: "late"}.get(status, "failed")
            counts[kind] += 1

    environment = Environment(user_classes=[Asks])
    runner: Any = environment.create_local_runner()
    stopped = gevent.event.Event()

    def stop() -> None:
        stopped.set()

    begun = time.perf_counter()
    runner.start(options.users, spawn_rate=options.users)
    stopped.wait(options.seconds)
    took = time.perf_counter() - begun
    done = dict(counts)
    times = np.percentile(seconds, [50, 99]) if seconds else [float("nan")] * 2
    print(json.dumps({**done, "seconds": took, "p50": times[0], "p99": times[1]}), flush=True)
    runner.quit()


def mask_of(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
