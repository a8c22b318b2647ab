"""One image's way through the server: decode, queue, encode, within its request's deadline.

Decoding and encoding have threads of their own beside those that compute. An image whose client has gone, or whose
deadline has passed, is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from terrazzo.data.sources.source import Image
from terrazzo.errors import TerrazzoError
from terrazzo.imaging.read import ReadOptions, image_size
from terrazzo.inference.failure import Failure
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Keep
from terrazzo.serving.admission import Admission, FullError
from terrazzo.serving.batching import ExpiredError
from terrazzo.serving.metrics import Metrics
from terrazzo.serving.models import Models, ServedModel, UnknownModelError
from terrazzo.serving.refusal import Refusal, refusal_of
from terrazzo.serving.settings import ServeSettings

__all__ = ["LEAVING", "Segmenter", "Ticket", "together"]

T = TypeVar("T")

LEAVING = "terrazzo.leaving"  # in a request's scope: the exit stack that is closed once its answer has been read
PIXELS_OF_A_PLACE = 4_000_000  # larger images take several places, which bounds the memory of the house
MOST_VALUES = 1 << 27  # of probabilities in an answer: half a gigabyte
SIDE_THREADS = 2  # that decode, and as many that encode


class Ticket:
    """A request that was let in: its deadline, and whether somebody still waits for it."""

    def __init__(self, request: Request, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._request = request
        self._gone: asyncio.Task[None] | None = None

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    async def wait(self, work: asyncio.Future[T]) -> T:
        """Wait for work as long as the request lasts; cancel it when it does not.

        Raises:
            Refusal: the deadline passed (504), or the client went away.
        """
        if self._gone is None:
            self._gone = asyncio.ensure_future(self._watch())
        both: set[asyncio.Future[Any]] = {work, self._gone}
        try:
            done, _ = await asyncio.wait(both, timeout=max(self.seconds_left, 0), return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
        except ExpiredError:
            raise self.expired() from None
        finally:
            work.cancel()  # of what is done, nothing happens
        raise Refusal(499, "client-gone", "the client went away") if done else self.expired()

    @staticmethod
    def expired() -> Refusal:
        """The answer to a request whose time is over."""
        return Refusal(504, "deadline", "the request's time was over before its image was computed")

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def close(self) -> None:
        """Stop watching the client."""
        if self._gone is not None:
            self._gone.cancel()


class Segmenter:
    """The house: its places, its threads and its models.

    Attributes:
        models: that compute.
        settings: the server's.
        metrics: told of every stage.
        admission: the places.
    """

    def __init__(self, models: Models, settings: ServeSettings, metrics: Metrics) -> None:
        self.models, self.settings, self.metrics = models, settings, metrics
        self.admission = Admission(settings.capacity)
        metrics.watch(models.waiting, lambda: self.admission.taken)
        self._reading = ReadOptions(max_pixels=settings.max_pixels)
        self._decoders = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="decode")
        self._encoders = ThreadPoolExecutor(SIDE_THREADS, thread_name_prefix="encode")

    @asynccontextmanager
    async def ticket(self, request: Request, timeout: float | None = None) -> AsyncIterator[Ticket]:
        """Let a request in, if there is a place for it, which it keeps until its answer has been read.

        Raises:
            Refusal: there is none (503).
        """
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        try:
            request.scope[LEAVING].enter_context(self.admission.place())
        except FullError as full:
            raise Refusal(503, "busy", "the server is busy", full.retry_after) from None
        ticket = Ticket(request, seconds)
        try:
            yield ticket
        finally:
            ticket.close()

    def model(self, name: str | None) -> ServedModel:
        """Find a loaded model.

        Raises:
            Refusal: there is no such model (404), or it is still loading (503).
        """
        try:
            model = self.models.find(name)
        except UnknownModelError as unknown:
            raise Refusal(404, "model", str(unknown)) from None
        if model is None:
            raise Refusal(503, "loading", "the model is still loading", retry_after=5)
        return model

    async def segment_file(self, ticket: Ticket, model: ServedModel, data: bytes, keep: Keep = NOTHING) -> Segmentation:
        """Decode and segment an encoded image.

        Raises:
            Refusal: it cannot be read (422), is too large (413), is too late (504) or failed (500).
        """
        try:
            reading = model.predictor.reading(self._reading)
            height, width = await self._apart(ticket, self._decoders, lambda: image_size(data, rule=reading.rule))
            if height * width > self.settings.max_pixels:
                raise Refusal(
                    413,
                    "image-too-large",
                    f"the image has {height * width:,} pixels, and {self.settings.max_pixels:,} are allowed",
                )
            self.check_values(model, height * width, keep)
            with self.admission.place(height * width // PIXELS_OF_A_PLACE, held=1):
                begun = time.monotonic()
                model.decoding += 1
                try:
                    image = await self._apart(ticket, self._decoders, lambda: reading.read(data))
                finally:
                    model.decoding -= 1
                self.metrics.stage(model.name, "decode", time.monotonic() - begun)
                return await self.segment_array(ticket, model, image, keep)
        except TerrazzoError as error:
            raise refusal_of(error) from error
        except FullError as full:
            raise Refusal(503, "busy", "the server is busy", full.retry_after) from None

    async def segment_array(
        self, ticket: Ticket, model: ServedModel, image: Image, keep: Keep = NOTHING
    ) -> Segmentation:
        """Segment an (H, W, bands) image.

        Raises:
            Refusal: as `segment_file`.
        """
        try:
            future = model.submit(image, ticket.deadline, keep)
        except RuntimeError:  # the model was replaced between finding and asking it
            future = self.model(model.name).submit(image, ticket.deadline, keep)
        try:
            outcome = await ticket.wait(asyncio.wrap_future(future))
        finally:
            future.cancel()  # at once: asyncio cancels it a turn later, when it may have been taken from the queue
        if isinstance(outcome, Failure):
            raise refusal_of(outcome.error) from outcome.error
        self.metrics.answered(model.name, outcome)
        return outcome

    def check_values(self, model: ServedModel, pixels: int, keep: Keep) -> None:
        """Refuse probabilities that would fill the memory.

        Raises:
            Refusal: there would be too many (413).
        """
        values = pixels * model.predictor.labels.num_classes
        if "probabilities" in keep and values > MOST_VALUES:
            raise Refusal(
                413,
                "answer-too-large",
                f"{values:,} probabilities were asked for, and {MOST_VALUES:,} are allowed; send smaller images",
            )

    async def parse(self, ticket: Ticket, function: Callable[[], T]) -> T:
        """Take a body apart in a thread: a large one takes long enough to keep other requests waiting."""
        return await self._apart(ticket, self._decoders, function)

    async def encode(self, ticket: Ticket, model: ServedModel, encoded: Callable[[], T]) -> T:
        """Make an answer's bytes in a thread."""
        begun = time.monotonic()
        answer = await self._apart(ticket, self._encoders, encoded)
        self.metrics.stage(model.name, "encode", time.monotonic() - begun)
        return answer

    async def _apart(self, ticket: Ticket, pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        functions = [function]
        try:
            return await ticket.wait(asyncio.get_running_loop().run_in_executor(pool, lambda: functions.pop()()))
        finally:
            functions.clear()  # a request that was given up leaves nothing large in the pool's queue

    def close(self) -> None:
        """Finish what is queued, and end the threads."""
        self.models.close()
        self._decoders.shutdown()
        self._encoders.shutdown()


async def together(tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once, and raise the first exception only when all have ended."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
