"""The models that are served: each a predictor with its queue; a new one is loaded beside it and takes its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.data.sources.source import Image
from terrazzo.engines.auto import Workload
from terrazzo.errors import ConfigError
from terrazzo.inference.failure import Failure
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Keep
from terrazzo.serving.batching import BatchQueue, Job
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.settings import ServeSettings
from terrazzo.text import list_names, show
from terrazzo.weights.catalog import bundled_names

__all__ = ["LoadOptions", "Models", "ServedModel", "UnknownModelError"]

Outcome = Segmentation | Failure
WARM_UP = (360, 480)  # of a random image, where a model has no example


class UnknownModelError(Exception):
    """No model is called so."""


@dataclass(frozen=True)
class LoadOptions:
    """How models are opened: what `make_predictor` takes."""

    engine: str = "auto"
    device: str | None = None
    threads: int | None = None
    precision: Any = "auto"
    protocol: str = "whole"
    trust: bool = False


class ServedModel:
    """A loaded model and the queue in front of it.

    Attributes:
        name: what requests call it.
        predictor: computes.
        version: counts the times that it was loaded, from 1.
        seconds: that loading and the first pass took.
        decoding: images for it that are being decoded.
    """

    def __init__(
        self, name: str, predictor: Predictor, settings: ServeSettings, metrics: Metrics, version: int, seconds: float
    ) -> None:
        self.name, self.predictor, self.version, self.seconds = name, predictor, version, seconds
        self.decoding = 0

        def computed(waited: Sequence[float], took: float) -> None:
            metrics.batch(name, waited, took)

        self.queue: BatchQueue[tuple[Image, Keep], Outcome] = BatchQueue(
            self._compute,
            streams=predictor.streams,
            most=settings.batch_size,
            wait=settings.batch_wait if settings.batch_size > 1 else 0,
            others_come=lambda: self.decoding > 0,
            watch=computed,
        )

    def submit(self, image: Image, deadline: float, keep: Keep = NOTHING) -> Future[Outcome]:
        """Queue an (H, W, bands) image; the future's result is a segmentation, or why there is none."""
        height, width = image.shape[:2]
        kind = (self.predictor.input_size((height, width)), keep)
        job: Job[tuple[Image, Keep], Outcome] = Job((image, keep), kind, deadline)
        self.queue.put(job)
        return job.future

    def _compute(self, items: Sequence[tuple[Image, Keep]]) -> list[Outcome]:
        return self.predictor.segment_together([image for image, _ in items], keep=items[0][1])

    def describe(self) -> dict[str, Any]:
        """What clients may know: no path of this machine."""
        labels, predictor = self.predictor.labels, self.predictor
        return {
            "name": self.name,
            "version": self.version,
            "engine": type(predictor.engine).__name__.removesuffix("Engine"),
            "streams": predictor.streams,
            "protocol": predictor.protocol.name,
            "classes": [
                {"index": index, "name": name, "color": list(map(int, labels.palette[index]))}
                for index, name in enumerate(labels.names)
            ],
            "licence": predictor.record.get("license"),
        }


class Models:
    """All models of a server, by name.

    Args:
        sources: what each model is loaded from, by name.
        options: how.
        settings: of the server.
        metrics: told of loads and batches.
    """

    def __init__(
        self,
        sources: dict[str, str | Path | Predictor],
        options: LoadOptions,
        settings: ServeSettings,
        metrics: Metrics,
    ) -> None:
        self.sources, self._options, self._settings, self._metrics = sources, options, settings, metrics
        self._loaded: dict[str, ServedModel] = {}
        self._loading = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether every model has been loaded and has computed once."""
        return len(self._loaded) == len(self.sources)

    @property
    def names(self) -> list[str]:
        """The models' names; the first is the default."""
        return list(self.sources)

    def find(self, name: str | None) -> ServedModel | None:
        """The model of a name, by default the first; None while it is loading.

        Raises:
            UnknownModelError: no model is called so.
        """
        name = self.names[0] if name is None else name
        if name not in self.sources:
            raise UnknownModelError(f"no model is called {show(name)}; there are {list_names(self.names)}")
        return self._loaded.get(name)

    def waiting(self) -> int:
        """Images in all queues."""
        return sum(len(model.queue) for model in self._loaded.values())

    def load(self, name: str | None = None) -> None:
        """Load a model, or all: let it compute once, put it in the place of the earlier one, and let that one finish.

        Raises:
            TerrazzoError: it cannot be loaded; the earlier one goes on.
        """
        with self._loading:
            for each in self.names if name is None else [name]:
                begun = time.monotonic()
                predictor = replace(self._opened(each), model=each)  # not the path, which clients need not know
                _warm_up(predictor, each)
                before = self._loaded.get(each)
                version, seconds = 1 if before is None else before.version + 1, time.monotonic() - begun
                self._loaded[each] = ServedModel(each, predictor, self._settings, self._metrics, version, seconds)
                self._metrics.loaded(each, seconds)
                if before is not None:
                    before.queue.close()

    def close(self) -> None:
        """Finish what is queued, and end the threads."""
        for model in self._loaded.values():
            model.queue.close()

    def _opened(self, name: str) -> Predictor:
        source, options = self.sources[name], self._options
        if isinstance(source, Predictor):
            return source
        return make_predictor(
            source,
            options.device,
            options.protocol,
            engine=options.engine,
            threads=options.threads,
            precision=options.precision,
            workload=Workload(images=100),
            trust=options.trust,
        )


def _warm_up(predictor: Predictor, name: str) -> None:
    """Compute one image: what cannot is found before a client comes, and the first client waits no longer."""
    random: Image = np.random.default_rng(0).integers(0, 256, (*WARM_UP, predictor.preprocess.in_channels), np.uint8)
    if predictor.preprocess.bands is not None:
        random = random.astype(np.float32)
    (outcome,) = predictor.segment_together([random])
    if isinstance(outcome, Failure):
        raise outcome.error


def named_sources(models: Sequence[str]) -> dict[str, str | Path | Predictor]:
    """Read ``NAME=MODEL`` or ``MODEL``, whose name is then its file's or folder's.

    Raises:
        ConfigError: two models have one name, one has a name that is not part of an address, or there is none.
    """
    sources: dict[str, str | Path | Predictor] = {}
    for given in models:
        name, _, source = given.rpartition("=")
        name = name or (source if source in bundled_names() else Path(source).stem or source)
        if not source.strip() or not name.strip() or "/" in name or not name.isprintable():
            raise ConfigError(
                f"{show(given)} does not name a model that requests can call",
                fix="give a model, or NAME=MODEL with a name of letters and digits, as in day=runs/mine",
            )
        if name in sources:
            raise ConfigError(f"two models are called {show(name)}", fix="name one of them, as in day=runs/mine")
        sources[name] = source
    if not sources:
        raise ConfigError("no model is named", fix="give one with --model")
    return sources
