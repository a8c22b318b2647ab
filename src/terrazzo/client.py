"""`Client` and `AsyncClient`: segment images on a Terrazzo server, with the result that `terrazzo.predict` gives.

    client = terrazzo.Client("http://127.0.0.1:8000")
    result = client.segment("street.jpg")               # a Segmentation

A server that is busy says when to come back, and the client does, until its time is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import numpy as np

from terrazzo.arguments import checked
from terrazzo.config import parse_json
from terrazzo.errors import ConfigError, MissingExtraError, ServiceError, TerrazzoError
from terrazzo.inference.result import Segmentation
from terrazzo.labels.spec import LabelSpec
from terrazzo.text import said_by, show

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client"]

EncodedImage: TypeAlias = str | os.PathLike[str] | bytes
DEFAULT_URL = "http://127.0.0.1:8000"
HEADER_LENGTH = "Inference-Header-Content-Length"
BUSY = (429, 502, 503)  # which pass
FIXES = {401: "give the server's api_key", 503: "try again later, or give a longer timeout"}
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0


@dataclass(frozen=True)
class _Model:
    name: str
    labels: LabelSpec


class _Session:
    """What both clients share: what is sent, what comes back, and when to try again."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"the server's address is {show(url)}", fix="begin it with http:// or https://")
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout is {timeout}", fix="give seconds, more than 0")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._models: list[_Model] = []

    def _options(self) -> dict[str, Any]:
        return {"base_url": self.url, "headers": self._headers, "timeout": self.timeout}

    def _read_models(self, answer: httpx.Response) -> None:
        try:
            self._models = [
                _Model(
                    entry["name"],
                    LabelSpec.from_names(
                        [each["name"] for each in entry["classes"]],
                        palette=[each["color"] for each in entry["classes"]],
                    ),
                )
                for entry in parse_json(answer.content, "the answer")
                if entry["ready"]
            ]
        except (TerrazzoError, ValueError, KeyError, TypeError) as error:
            raise self._strange(error) from error

    def _model(self, name: str | None) -> _Model:
        model = next((model for model in self._models if name in (None, model.name)), None)
        if model is None:
            there = ", ".join(show(model.name) for model in self._models) or "none that is loaded"
            raise ServiceError(f"{self.url} has no model {show(name)}", fix=f"there is {there}", code="model")
        return model

    def _strange(self, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self.url} did not answer as a Terrazzo server does: {said_by(error)}", fix="check the address"
        )

    @staticmethod
    def _request(model: _Model, data: bytes, probabilities: bool) -> tuple[str, dict[str, str], bytes]:
        wanted = ["mask", "probabilities"] if probabilities else ["mask"]
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "image",
                        "datatype": "BYTES",
                        "shape": [1],
                        "parameters": {"binary_data_size": len(data) + 4},
                    }
                ],
                "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in wanted],
            }
        ).encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        return f"/v2/models/{quote(model.name, safe='')}/infer", headers, head + len(data).to_bytes(4, "little") + data

    def _result(self, answer: httpx.Response, model: _Model, path: Path | None) -> Segmentation:
        body = answer.content
        try:
            length = int(answer.headers[HEADER_LENGTH])
            arrays, place = {}, length
            for output in parse_json(body[:length], "the answer")["outputs"]:
                dtype = {"UINT8": "<u1", "UINT16": "<u2", "FP32": "<f4"}[output["datatype"]]
                size = output["parameters"]["binary_data_size"]
                values = np.frombuffer(body[place : place + size], dtype).reshape(output["shape"])
                arrays[output["name"]], place = values[0], place + size
            return Segmentation(
                arrays["mask"],
                model.labels,
                path=path,
                probabilities=arrays.get("probabilities"),
                model=model.name,
            )
        except (TerrazzoError, ValueError, KeyError, TypeError, IndexError) as error:
            raise self._strange(error) from error

    def _attempts(self) -> Iterator[tuple[float, float]]:
        """Yield, for each attempt, how much time is left, and how long to pause if the server does not say so."""
        end, left, pause = time.monotonic() + self.timeout, self.timeout, FIRST_PAUSE
        while left > 0:
            yield left, min(pause * random.uniform(0.75, 1.25), left / 2)  # not all clients at the same moment
            left, pause = end - time.monotonic(), min(2 * pause, LONGEST_PAUSE)

    def _judged(
        self, outcome: httpx.Response | Exception, left: float, pause: float
    ) -> tuple[httpx.Response | None, ServiceError | None, float]:
        """Return an answer that is one; or why there is none, and how long to pause before another attempt.

        Raises:
            ServiceError: another attempt would end alike, or come too late.
        """
        if isinstance(outcome, Exception):
            fix = "check the address, and whether the server runs"
            return None, ServiceError(f"{self.url} cannot be reached: {said_by(outcome)}", fix=fix), pause
        if outcome.is_success:
            return outcome, None, 0
        try:
            error = parse_json(outcome.content, "the answer")["error"]
            message, code = (error, None) if isinstance(error, str) else (error["message"], error["code"])
        except (TerrazzoError, KeyError, TypeError):
            message, code = "without a reason", None
        fix = FIXES.get(outcome.status_code, "see what the server says, and its log")
        failure = ServiceError(
            f"{self.url} answered {outcome.status_code}: {said_by(ValueError(message))}",
            fix=fix,
            code=code if isinstance(code, str) else None,
        )
        if outcome.status_code not in BUSY:
            raise failure
        asked = outcome.headers.get("Retry-After", "")
        if asked.isdecimal() and len(asked) < 6:
            pause = max(pause, float(asked))
            if pause >= left:
                raise failure
        return None, failure, pause


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise MissingExtraError("httpx", "client") from None
    return httpx


def _encoded(image: EncodedImage) -> tuple[bytes, Path | None]:
    if isinstance(image, bytes):
        return image, None
    path = Path(image)
    try:
        return path.read_bytes(), path
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {said_by(error)}", fix="check the path") from error


class Client(_Session):
    """Segments images on a server. Use it as a context manager, or close it.

    Args:
        url: the server's address.
        api_key: the key that it asks for, if it does.
        timeout: seconds that an image may take, attempts and pauses together.

    Raises:
        ConfigError: the address or the time makes no sense.
        MissingExtraError: httpx is not installed.
    """

    @checked
    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, api_key: str | None = None, timeout: float = 60.0
    ) -> None:
        super().__init__(url, api_key, timeout)
        self._http: httpx.Client = _httpx().Client(**self._options())

    def segment(self, image: EncodedImage, *, model: str | None = None, probabilities: bool = False) -> Segmentation:
        """Segment an image.

        Args:
            image: a file's path, or its bytes.
            model: which of the server's models; by default its first.
            probabilities: ask for the (K, H, W) class probabilities too.

        Raises:
            ServiceError: the server cannot be reached, stays busy, or refuses the image; its code is the server's.
        """
        data, path = _encoded(image)
        if not self._models:
            self._read_models(self._send("GET", "/v1/models", {}, b""))
        found = self._model(model)
        return self._result(self._send("POST", *self._request(found, data, probabilities)), found, path)

    def _send(self, method: str, place: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        failure: ServiceError | None = None
        for left, pause in self._attempts():
            try:
                outcome: httpx.Response | Exception = self._http.request(
                    method, place, headers=dict(headers), content=body, timeout=left
                )
            except _httpx().TransportError as error:
                outcome = error
            answer, failure, pause = self._judged(outcome, left, pause)
            if answer is not None:
                return answer
            time.sleep(pause)
        assert failure is not None
        raise failure

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncClient(_Session):
    """`Client` for asyncio: the same, awaited. Several calls at once share its connections."""

    @checked
    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, api_key: str | None = None, timeout: float = 60.0
    ) -> None:
        super().__init__(url, api_key, timeout)
        self._http: httpx.AsyncClient = _httpx().AsyncClient(**self._options())

    async def segment(
        self, image: EncodedImage, *, model: str | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Segment an image, as `Client.segment`."""
        data, path = _encoded(image)
        if not self._models:
            self._read_models(await self._send("GET", "/v1/models", {}, b""))
        found = self._model(model)
        return self._result(await self._send("POST", *self._request(found, data, probabilities)), found, path)

    async def _send(self, method: str, place: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        failure: ServiceError | None = None
        for left, pause in self._attempts():
            try:
                outcome: httpx.Response | Exception = await self._http.request(
                    method, place, headers=dict(headers), content=body, timeout=left
                )
            except _httpx().TransportError as error:
                outcome = error
            answer, failure, pause = self._judged(outcome, left, pause)
            if answer is not None:
                return answer
            await asyncio.sleep(pause)
        assert failure is not None
        raise failure

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()
