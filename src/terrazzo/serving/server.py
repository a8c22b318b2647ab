"""`serve`: the application on a socket, until a signal ends it.

SIGTERM and Ctrl-C refuse new connections, finish what was accepted, and leave within the settings' limit; SIGHUP loads
the models again.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from terrazzo.errors import ConfigError, TerrazzoError
from terrazzo.serving.app import make_app
from terrazzo.serving.connection import Connection
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.models import LoadOptions, Models, named_sources
from terrazzo.serving.segmenting import Segmenter
from terrazzo.serving.settings import ServeSettings
from terrazzo.text import said_by

__all__ = ["make_server", "serve"]

KEEP_ALIVE = 15
CONNECTIONS = 1000
BACKLOG = 2048


def serve(
    models: Sequence[str],
    settings: ServeSettings | None = None,
    options: LoadOptions | None = None,
    *,
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve models over HTTP until the process is told to stop.

    Args:
        models: what `terrazzo.load` takes, or exported files, each with a name in front if it is to have one of its
            own: ``day=runs/day``.
        settings: where to listen, and the limits.
        options: how the models are opened.
        started: told the server's address, once it listens.

    Raises:
        ConfigError: the address cannot be listened on, or two models have one name.
        TerrazzoError: a model cannot be loaded.
    """
    settings = settings or ServeSettings()
    metrics = Metrics(drift=settings.drift)
    house = Segmenter(Models(named_sources(models), options or LoadOptions(), settings, metrics), settings, metrics)
    errors: list[TerrazzoError] = []
    with _listening(settings) as listening, _log_on_stderr():
        if started is not None:
            host, port = listening.getsockname()[:2]
            started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        make_server(house, errors.append).run([listening])
    if errors:
        raise errors[0]


def make_server(house: Segmenter, failed: Callable[[TerrazzoError], None] = lambda error: None) -> uvicorn.Server:
    """Return uvicorn's server of the application; its ``run`` takes the sockets.

    Args:
        house: segments, and has the settings.
        failed: told why the models could not be loaded, whereupon the server ends.
    """
    settings = house.settings

    def end(error: TerrazzoError) -> None:
        failed(error)
        server.should_exit = True

    config = uvicorn.Config(
        make_app(house, end),
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout)),
        limit_concurrency=max(CONNECTIONS, 4 * settings.capacity),
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    return server


def _listening(settings: ServeSettings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)  # so that whoever is told the address can connect
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {said_by(error)}",
            fix="choose another --port or --host, or end the program that listens there",
            code="serve-address",
        ) from error
    return listening


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Write the log to stderr while the server runs, unless its caller has told logging where to write it."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the answer says what is wrong with a form
    log = logging.getLogger("terrazzo.serving")
    if log.handlers:
        yield
        return
    handler, level, propagate = logging.StreamHandler(sys.stderr), log.level, log.propagate
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
