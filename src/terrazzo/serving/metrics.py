"""Metrics for Prometheus: how long each stage takes, how full the house is, what was turned away and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from terrazzo.inference.result import Segmentation

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """A registry of its own, so that two servers in one process do not share figures.

    Args:
        drift: count classes too.
    """

    def __init__(self, *, drift: bool = False) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("terrazzo_requests", "Requests answered", ["route", "status"], registry=registry)
        self._latency = Histogram(
            "terrazzo_request_seconds", "First byte to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self._stage = Histogram(
            "terrazzo_stage_seconds",
            "Time of one stage: decode and encode of an image, queue until its batch begins, compute of a batch",
            ["model", "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "terrazzo_batch_images", "Images computed together", ["model"], buckets=SIZES, registry=registry
        )
        self._refused = Counter("terrazzo_refused", "Requests turned away", ["reason"], registry=registry)
        self._load = Gauge("terrazzo_model_load_seconds", "Loading and first pass", ["model"], registry=registry)
        self._loads = Counter("terrazzo_model_loads", "Times that a model was loaded", ["model"], registry=registry)
        self._queue = Gauge("terrazzo_queue_images", "Images that wait to be computed", registry=registry)
        self._places = Gauge("terrazzo_places_taken", "Places of the house that are taken", registry=registry)
        self._pixels = (
            Counter("terrazzo_class_pixels", "Pixels answered", ["model", "class_name"], registry=registry)
            if drift
            else None
        )

    def watch(self, waiting: Callable[[], int], taken: Callable[[], int]) -> None:
        """Ask for the length of the queue and the places taken whenever the figures are read."""
        self._queue.set_function(waiting)
        self._places.set_function(taken)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is the pattern, not the path that was asked for."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that was turned away."""
        self._refused.labels(reason).inc()

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Time one stage of one image."""
        self._stage.labels(model, stage).observe(seconds)

    def batch(self, model: str, waited: Sequence[float], took: float) -> None:
        """Time a batch."""
        self._batch.labels(model).observe(len(waited))
        self._stage.labels(model, "compute").observe(took)
        for seconds in waited:
            self._stage.labels(model, "queue").observe(seconds)

    def loaded(self, model: str, seconds: float) -> None:
        """Note that a model was loaded."""
        self._load.labels(model).set(seconds)
        self._loads.labels(model).inc()

    def answered(self, model: str, result: Segmentation) -> None:
        """Count the classes of an answer, where drift is watched."""
        if self._pixels is not None:
            for area in result.areas():
                self._pixels.labels(model, area.name).inc(area.pixels)

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)
