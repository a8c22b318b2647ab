"""The HTTP application: routes, keys, request ids, one line of log for each request, and errors without a trace."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from terrazzo import __version__
from terrazzo.errors import TerrazzoError
from terrazzo.serving.demo import demo_router
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.open_inference import open_inference_router
from terrazzo.serving.refusal import Refusal
from terrazzo.serving.segmenting import LEAVING, Segmenter
from terrazzo.serving.v1 import error_of, v1_router
from terrazzo.text import printable, said_by

__all__ = ["make_app"]

LOG = logging.getLogger("terrazzo.serving")
OPEN_ROUTES = ("/v2/health/live", "/v2/health/ready")  # for probes, which have no key
LARGE = 1 << 16  # bytes of an answer that may wait in memory for a client to read them
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


def make_app(house: Segmenter, failed: Callable[[TerrazzoError], None] = lambda error: None) -> FastAPI:
    """Build the application.

    Args:
        house: segments, and has the settings. Its models are loaded once the application starts, beside the first
            requests, which get 503 until then.
        failed: told why the models could not be loaded.
    """
    settings = house.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def load(failed: Callable[[TerrazzoError], None] = lambda error: None) -> None:
            # a daemon, so that a model that takes minutes to load does not hold up the end
            threading.Thread(target=_load, args=(house, failed), name="load", daemon=True).start()

        with suppress(RuntimeError, ValueError):  # outside the main thread there are no signals
            loop.add_signal_handler(signal.SIGHUP, load)
        if not house.models.is_ready:
            load(failed)
        yield
        ending = threading.Thread(target=house.close, name="end", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, settings.stop_timeout)

    app = FastAPI(
        title="Terrazzo",
        version=__version__,
        summary="Semantic segmentation: images in, masks out",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.house = house
    app.include_router(v1_router(house))
    app.include_router(open_inference_router(house))
    if settings.demo:
        app.include_router(demo_router())

    @app.get("/metrics", response_class=Response, tags=["watch"])
    async def metrics() -> Response:
        """Figures in Prometheus's text format."""
        return Response(house.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_exception_handler(Refusal, _refused(house.metrics))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(_Key, key=settings.api_key)
    app.add_middleware(_OwnPages, cors=settings.cors)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Inference-Header-Content-Length", "X-Request-Id"],
            expose_headers=["Inference-Header-Content-Length", "Retry-After", "X-Request-Id", "X-Terrazzo-Model"],
        )
    app.add_middleware(_Log, house=house)
    return app


def _load(house: Segmenter, failed: Callable[[TerrazzoError], None]) -> None:
    try:
        house.models.load()
    except TerrazzoError as error:
        LOG.error("the model could not be loaded: %s; %s", printable(error.message), printable(error.fix))
        failed(error)
    except Exception as error:
        LOG.exception("the model could not be loaded")
        failed(TerrazzoError(f"the model could not be loaded: {said_by(error)}", fix="see the log above"))


def _answer(refusal: Refusal, request: Request) -> Response:
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    error: Any = error_of(refusal)
    if request.url.path.startswith("/v2"):  # whose errors are text
        error = refusal.message
    return JSONResponse({"error": error}, refusal.status, headers)


def _refused(metrics: Metrics) -> Any:
    async def answer(request: Request, refusal: Refusal) -> Response:
        metrics.refused(refusal.code)
        if refusal.__cause__ is not None:
            request.scope["terrazzo.cause"] = printable(str(refusal.__cause__))
        return _answer(refusal, request)

    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first.get("loc", ())[1:]))
    return _answer(Refusal(422, "parameter", printable(f"{where}: {first.get('msg', 'is wrong')}")[:300]), request)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing here", 405: "this method is not allowed here"}
    response = _answer(
        Refusal(error.status_code, "http", words.get(error.status_code, "the request is wrong")), request
    )
    response.headers.update(error.headers or {})
    return response


class _Key:
    """Lets requests in that carry the API key."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._key is not None and scope["path"] not in OPEN_ROUTES:
            is_page = scope["path"] == "/" or scope["path"].startswith("/demo/")
            if not is_page and not self._fits(Request(scope).headers.get("authorization", "")):
                request = Request(scope)
                await _answer(Refusal(401, "key", "send the API key as Authorization: Bearer KEY"), request)(
                    scope, receive, send
                )
                return
        await self._app(scope, receive, send)

    def _fits(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        assert self._key is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key.encode())


class _OwnPages:
    """Refuses what a browser sends for a page of another site, unless CORS allows its origin.

    Such a page could not read the answer, but it could keep the server of whoever opened it busy.
    """

    def __init__(self, app: ASGIApp, cors: Sequence[str]) -> None:
        self._app, self._cors = app, cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            request = Request(scope)
            is_foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
            if is_foreign and "*" not in self._cors and request.headers.get("origin") not in self._cors:
                refusal = Refusal(403, "origin", "pages of other sites are not answered, unless --cors names them")
                await _answer(refusal, request)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Log:
    """Gives each request an id, and writes a line about it once it is answered."""

    def __init__(self, app: ASGIApp, house: Segmenter) -> None:
        self._app, self._house = app, house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Request(scope).headers
        asked = headers.get("x-request-id", "")
        number = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex[:16]
        with self._house.tracing.request(scope["method"], headers, number) as traced:
            await self._answered(scope, receive, send, number, traced)

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, number: str, traced: Callable[[str, int], None]
    ) -> None:
        begun, status = time.monotonic(), 499
        scope["terrazzo.id"] = number

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", number.encode()), *HEADERS]}
            if len(message.get("body", b"")) > LARGE and not message.get("more_body"):
                await send({**message, "more_body": True})
                message = {"type": "http.response.body"}  # which uvicorn sends once the rest has been read
            await send(message)

        method = scope["method"]
        if method == "HEAD":  # uvicorn leaves out the body
            scope = {**scope, "method": "GET"}
        leaving = scope[LEAVING] = ExitStack()
        try:
            await self._app(scope, receive, answered)
        except Exception as error:
            LOG.error("request %s failed", number, exc_info=error)
            if status != 499:  # the answer had begun: only a closed connection says that it is cut short
                raise
            refusal = Refusal(500, "internal", "the request failed; the server's log says why")
            await _answer(refusal, Request(scope))(scope, receive, answered)
        finally:
            leaving.close()
            seconds = time.monotonic() - begun
            route = getattr(scope.get("route"), "path", "other")
            self._house.metrics.request(route, status, seconds)
            traced(route, status)
            self._write(scope, method, number, status, seconds)

    def _write(self, scope: Scope, method: str, number: str, status: int, seconds: float) -> None:
        facts: dict[str, Any] = {
            "id": number,
            "client": (scope.get("client") or ["?"])[0],
            "method": method,
            "path": printable(scope["path"])[:200],
            "status": status,
            "ms": round(1000 * seconds, 1),
        }
        if "terrazzo.cause" in scope:
            facts["cause"] = scope["terrazzo.cause"]
        if self._house.settings.json_log:
            LOG.info(json.dumps({"time": round(time.time(), 3), **facts}))
        else:
            LOG.info(" ".join(f"{key}={value}" for key, value in facts.items()))
