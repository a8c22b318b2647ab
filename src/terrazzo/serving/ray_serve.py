"""The application on Ray Serve, whose replicas grow and shrink with the load.

    serve run terrazzo.serving.ray_serve:app model=day.onnx most_replicas=8

Each replica is the server of `terrazzo serve` without its socket: its queue, batches, limits and metrics are its own.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from fastapi import FastAPI

from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.serving.app import make_app
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.models import LoadOptions, Models, named_sources
from terrazzo.serving.segmenting import Segmenter
from terrazzo.serving.settings import ServeSettings
from terrazzo.text import list_names, show
from terrazzo.weights.catalog import DEFAULT_MODEL

__all__ = ["app"]

OWN: dict[str, Any] = {"model": DEFAULT_MODEL, "engine": "auto", "replicas": 1, "most_replicas": 4, "cores": 1}
PASSED_ON = ("capacity", "batch_size", "batch_wait", "timeout", "max_body", "max_pixels", "drift", "json_log")


def app(arguments: dict[str, Any]) -> Any:
    """Build the application that `serve run` starts.

    Args:
        arguments: model (several with commas between, as `terrazzo serve --model` has them), engine, replicas and
            most_replicas, cores of each, and of `ServeSettings` capacity, batch_size, batch_wait, timeout, max_body,
            max_pixels, drift and json_log.

    Raises:
        ConfigError: an argument is not known, or is not a number where one belongs.
        MissingExtraError: ray is not installed.
    """
    try:
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray", "dist") from None
    known = [*OWN, *PASSED_ON]
    if unknown := [name for name in arguments if name not in known]:
        raise ConfigError(f"there is no argument {show(unknown[0])}", fix=f"choose from {list_names(known)}")
    own = {name: _as(type(default), name, arguments.get(name, default)) for name, default in OWN.items()}
    kinds = {field.name: type(field.default) for field in fields(ServeSettings)}
    passed = {name: _as(kinds[name], name, value) for name, value in arguments.items() if name in PASSED_ON}
    settings = replace(ServeSettings(), **passed)
    sources = own["model"].split(",")
    named_sources(sources)  # which refuses names that clash, here and not in a replica

    def build() -> FastAPI:
        metrics = Metrics(drift=settings.drift)
        options = LoadOptions(engine=own["engine"], threads=own["cores"])
        house = Segmenter(Models(named_sources(sources), options, settings, metrics), settings, metrics)
        house.models.load()  # a replica gets requests once it is there
        return make_app(house)

    @serve.deployment(
        name="Terrazzo",
        autoscaling_config={
            "min_replicas": own["replicas"],
            "max_replicas": max(own["replicas"], own["most_replicas"]),
            "target_ongoing_requests": max(1, settings.capacity // 4),
        },
        max_ongoing_requests=2 * settings.capacity,  # so that it is the replica that turns requests away
        ray_actor_options={"num_cpus": own["cores"]},
    )
    @serve.ingress(build)
    class Terrazzo:
        """A replica."""

    deployment: Any = Terrazzo
    return deployment.bind()


def _as(kind: type, name: str, value: Any) -> Any:
    """Read an argument of the command line, where all are text."""
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is {show(value)}", fix="give a number") from None
