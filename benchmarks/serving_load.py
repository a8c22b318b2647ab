"""Load for `serving.py`: photos are posted to a server, and each mask is compared with another.

    python benchmarks/serving_load.py URL PHOTOS MASKS --users 8 --seconds 20
    python benchmarks/serving_load.py URL PHOTOS MASKS --users 100 --rate 30 --seconds 60

Without --rate each user sends its next photo as soon as it has an answer; with it, so many a second are sent whatever
comes back, up to one unanswered request for each user. It ends after --seconds or --requests, and prints one line of
JSON: what came back, the latency of the masks, and the CPU seconds that this program took itself: it shares the cores
with the server, and speaks HTTP over plain sockets to take as few as possible.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

PATIENCE = 60.0  # seconds for one answer


class Load:
    """Sends photos and counts what comes back.

    Args:
        options: the command's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        place = urlsplit(options.url)
        self._host, self._port = place.hostname, place.port
        there = (path for path in sorted(options.photos.iterdir()) if mask_file(options, path).exists())
        self._photos = [
            (request_of(path.read_bytes()), mask_of(mask_file(options, path).read_bytes()), set[bytes]())
            for path in there
        ]
        self._turns = itertools.count()
        self.counts = {"right": 0, "refused": 0, "late": 0, "wrong": 0, "failed": 0}
        self.latencies: list[float] = []
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._under_way = 0

    async def run(self) -> float:
        """Send until the time is over or the requests are sent; return the seconds that it took."""
        begun = time.perf_counter()
        ending = begun + self._options.seconds
        if self._options.rate:
            await self._at_a_rate(begun, ending)
        else:
            await asyncio.gather(*(self._in_turn(ending) for _ in range(self._options.users)))
        return time.perf_counter() - begun

    async def _in_turn(self, ending: float) -> None:
        while time.perf_counter() < ending and self._is_another():
            await self._ask(next(self._turns))

    async def _at_a_rate(self, begun: float, ending: float) -> None:
        asking: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due = begun + number / self._options.rate
            if due >= ending or not self._is_another():
                break
            await asyncio.sleep(max(0, due - time.perf_counter()))
            if len(asking) < self._options.users:
                task = asyncio.create_task(self._ask(next(self._turns)))
                asking.add(task)
                task.add_done_callback(asking.discard)
        answered = dict(self.counts), list(self.latencies)  # what comes after the end does not count
        await asyncio.gather(*asking)
        self.counts, self.latencies = answered

    def _is_another(self) -> bool:
        return not self._options.requests or sum(self.counts.values()) + self._under_way < self._options.requests

    async def _ask(self, number: int) -> None:
        request, mask, right = self._photos[number % len(self._photos)]
        self._under_way += 1
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._answered(request)
        except (OSError, EOFError, TimeoutError):
            status, body = 0, b""
        took = time.perf_counter() - begun
        self._under_way -= 1
        if status == 200:
            if body not in right and np.array_equal(mask_of(body), mask):
                right.add(body)  # so that each answer is compared, and decoded once
            kind = "right" if body in right else "wrong"
            self.latencies.append(took)
        else:
            kind = {503: "refused", 504: "late"}.get(status, "failed")
        self.counts[kind] += 1

    async def _answered(self, request: bytes) -> tuple[int, bytes]:
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        )
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            await writer.drain()
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), body


def request_of(photo: bytes) -> bytes:
    head = "POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(photo)}\r\n\r\n".encode() + photo


def mask_file(options: argparse.Namespace, photo: Path) -> Path:
    return Path(options.masks, f"{photo.stem}_mask.png")


def mask_of(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=0)
    load = Load(parser.parse_args())
    before = time.process_time()
    took = asyncio.run(load.run())
    times = np.percentile(load.latencies, [50, 99]) if load.latencies else [float("nan")] * 2
    numbers = {"seconds": took, "cpu": time.process_time() - before, "p50": times[0], "p99": times[1]}
    print(json.dumps({**load.counts, **numbers}), flush=True)


if __name__ == "__main__":
    main()
