"""`terrazzo serve` and `terrazzo demo`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from terrazzo.cli.engine import EngineOption
from terrazzo.cli.options import DeviceOption, ProtocolOption, ThreadsOption, TrustOption
from terrazzo.cli.say import say
from terrazzo.engines.engine import Precision
from terrazzo.engines.memory import keep_freed_memory, share_freed_memory
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.inference.protocols import WHOLE
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["demo", "serve"]

NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
MEGABYTE = 1 << 20


def serve(
    *,
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative=())] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    demo: Annotated[bool, Parameter(negative=())] = False,
    capacity: int = 32,
    batch_size: int = 4,
    batch_wait: float = 3.0,
    timeout: float = 30.0,
    max_body: int = 32,
    max_pixels: int = 25_000_000,
    api_key: Annotated[str | None, Parameter(env_var="TERRAZZO_API_KEY")] = None,
    cors: Annotated[list[str] | None, Parameter(negative=())] = None,
    protocol: ProtocolOption = WHOLE.name,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    precision: Precision = "auto",
    drift: Annotated[bool, Parameter(negative=())] = False,
    json_log: Annotated[bool, Parameter(negative=())] = False,
    stop_timeout: float = 30.0,
    trust_file: TrustOption = False,
) -> None:
    """Serve models over HTTP: masks for photos, the Open Inference Protocol, metrics, and a page to try them.

    SIGTERM and Ctrl-C finish the requests that were accepted; SIGHUP loads the models again.

    Examples:
        terrazzo serve --demo
        terrazzo serve --model runs/mine --host 0.0.0.0 --port 80
        terrazzo serve --model day=day.onnx --model night=night.onnx

    Parameters
    ----------
    model
        What to serve, once for each model: a shipped model, model folder, run, checkpoint, hub id or exported file;
        NAME=MODEL gives it a name of its own.
    host
        Address to listen on; the default can be reached from this machine only.
    port
        Port to listen on; 0 takes a free one.
    demo
        Serve a page at / where people can try the models.
    capacity
        Requests that are in the server at once; one more is answered 503 at once, with Retry-After.
    batch_size
        The most photos of equal size in the network that are computed together.
    batch_wait
        Milliseconds that a photo waits for others to be computed with, while some are being decoded.
    timeout
        Seconds that a request may take; a request may ask for less with ?timeout=.
    max_body
        The most megabytes of a request.
    max_pixels
        The most pixels of a photo.
    api_key
        Key that clients must send as Authorization: Bearer KEY; better set in TERRAZZO_API_KEY, where no list of
        processes shows it.
    cors
        Origin whose pages may call the server from a browser, once for each; * for all.
    precision
        fp32; bf16 where the processor has it: faster, and some pixels on edges differ; or auto: fp32 on a CPU, and on a
        GPU float16 where that finds the same classes.
    drift
        Count the pixels of each class in the metrics.
    json_log
        Write the log as one JSON object a line.
    stop_timeout
        Seconds that accepted requests get to finish when the server is told to stop.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "serve")
    from terrazzo.serving.models import LoadOptions
    from terrazzo.serving.server import serve as run
    from terrazzo.serving.settings import ServeSettings

    if not 0 < max_body <= 4096:
        raise ConfigError(f"--max-body is {max_body}", fix="give megabytes, from 1 to 4096")
    settings = ServeSettings(
        host=host,
        port=port,
        capacity=capacity,
        batch_size=batch_size,
        batch_wait=batch_wait / 1000,
        timeout=timeout,
        max_body=max_body * MEGABYTE,
        max_pixels=max_pixels,
        api_key=api_key,
        cors=tuple(cors or ()),
        demo=demo,
        drift=drift,
        json_log=json_log,
        stop_timeout=stop_timeout,
    )
    keep_freed_memory()
    share_freed_memory()
    options = LoadOptions(engine, device, threads, precision, protocol, trust_file)
    run(model or [DEFAULT_MODEL], settings, options, started=lambda address: say(f"listening on {address}"))


def demo(
    *,
    model: Annotated[list[str] | None, Parameter(name=["--model", "-m"], negative=())] = None,
    port: int = 8000,
    engine: EngineOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Serve the page where people can try models, for this machine only: `terrazzo serve --demo` has more options.

    Examples:
        terrazzo demo
        terrazzo demo --model runs/mine

    Parameters
    ----------
    model
        What to serve, once for each model: a shipped model, model folder, run, checkpoint, hub id or exported file;
        NAME=MODEL gives it a name of its own.
    port
        Port to listen on; 0 takes a free one.
    """
    serve(model=model, port=port, demo=True, engine=engine, device=device)
