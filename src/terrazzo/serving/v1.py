"""``/v1``: images in, masks out, in the forms that `Segmentation.encode` has."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from terrazzo.errors import TerrazzoError
from terrazzo.inference.kinds import KINDS
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Keep
from terrazzo.serving.body import Upload, decompressed, read_body, read_images
from terrazzo.serving.refusal import Refusal
from terrazzo.serving.segmenting import Segmenter, Ticket, together
from terrazzo.text import show

__all__ = ["v1_router"]

Kind = Literal["mask", "color", "overlay", "confidence", "entropy", "polygons", "probabilities", "json"]

PNG, JSON, GEOJSON, NPZ = "image/png", "application/json", "application/geo+json", "application/x-npz"
MEDIA_TYPES: dict[Kind, str] = {
    "mask": PNG,
    "color": PNG,
    "overlay": PNG,
    "confidence": PNG,
    "entropy": PNG,
    "polygons": GEOJSON,
    "probabilities": NPZ,
    "json": JSON,
}
MOST_ANSWER = 256 << 20  # bytes of the files in one answer
ENDINGS = KINDS | {"polygons": ".geojson"}
BY_ACCEPT: dict[str, Kind] = {JSON: "json", NPZ: "probabilities", PNG: "mask", GEOJSON: "polygons"}
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
        },
    }
}
ERROR = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error": {
                        "type": "object",
                        "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
                        "required": ["code", "message"],
                    }
                },
                "required": ["error"],
            },
            "example": {"error": {"code": "busy", "message": "the server is busy"}},
        }
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body cannot be taken apart", **ERROR},
    401: {"description": "The API key is missing or wrong", **ERROR},
    404: {"description": "No such model", **ERROR},
    406: {"description": "No answer has the media type asked for", **ERROR},
    408: {"description": "The body did not arrive in time", **ERROR},
    409: {"description": "Another reload is under way", **ERROR},
    413: {"description": "The body, image or answer is too large", **ERROR},
    415: {"description": "The body is not an image or a form", **ERROR},
    422: {"description": "The image cannot be read, or a parameter is wrong", **ERROR},
    500: {"description": "The image could not be computed", **ERROR},
    503: {"description": "Busy or loading; Retry-After says when to come back", **ERROR},
    504: {"description": "The request's time was over", **ERROR},
}
Save = Annotated[Kind | None, Query(description="Form of the answer; by default what Accept says, else mask")]
ModelName = Annotated[str | None, Query(description="Which model; by default the first")]
Timeout = Annotated[
    float | None, Query(gt=0, allow_inf_nan=False, description="Seconds after which the answer is worth nothing")
]


def v1_router(house: Segmenter) -> APIRouter:
    """Make the routes.

    Args:
        house: segments.
    """
    router = APIRouter(prefix="/v1", tags=["segment"])

    @router.post(
        "/segment",
        openapi_extra=IMAGE_BODY,
        response_class=Response,
        responses={
            200: {
                "description": "The mask, in the form asked for",
                "content": {media: {} for media in set(MEDIA_TYPES.values())},
            },
            **ERRORS,
        },
    )
    async def segment(
        request: Request, save: Save = None, model: ModelName = None, timeout: Timeout = None
    ) -> Response:
        """Segment one image, sent as the body or as the file of a form."""
        kind = save or _accepted(request.headers.get("accept", "*/*"))
        async with house.ticket(request, timeout) as ticket:
            served = house.model(model)
            uploads = await _uploads(request, house, ticket)
            if len(uploads) > 1:
                raise Refusal(400, "body-many-files", "the form has several files; send them to /v1/segment/batch")
            result = await house.segment_file(ticket, served, uploads[0].data, _kept(kind))
            body = await house.encode(ticket, served, lambda: _encoded(result, kind, uploads[0].name))
        headers = {"X-Terrazzo-Model": f"{served.name.encode('ascii', 'replace').decode()};version={served.version}"}
        return Response(body, media_type=MEDIA_TYPES[kind], headers=headers)

    @router.post("/segment/batch", openapi_extra=IMAGE_BODY, response_class=Response, responses=ERRORS)
    async def segment_batch(
        request: Request, save: Save = "json", model: ModelName = None, timeout: Timeout = None
    ) -> Response:
        """Segment the images of a form. One that fails leaves the others alone.

        The answer is a JSON list with one entry for each image; for another form than json a ZIP file of one file for
        each image, with that list as results.json.
        """
        kind = save or "json"
        async with house.ticket(request, timeout) as ticket:
            served = house.model(model)
            uploads = await _uploads(request, house, ticket)
            at_once = asyncio.Semaphore(2 * house.settings.batch_size)
            answered: list[int] = []

            async def one(number: int, upload: Upload) -> tuple[dict[str, Any], bytes | None]:
                async with at_once:
                    try:
                        if sum(answered) > MOST_ANSWER:
                            return {}, None  # refused as a whole
                        result = await house.segment_file(ticket, served, upload.data, _kept(kind))
                    except Refusal as refusal:
                        if refusal.status in (499, 504):
                            raise
                        return {"file": upload.name, "error": error_of(refusal)}, None
                    entry = {**result.to_dict(), "file": upload.name}
                    if kind == "json":
                        return entry, None
                    entry["result"] = f"{number:04d}{ENDINGS[kind]}"
                    data = await house.encode(ticket, served, lambda: _encoded(result, kind, None))
                    answered.append(len(data))
                    if sum(answered) > MOST_ANSWER:
                        raise Refusal(413, "answer-too-large", "the results are too large for one answer; send fewer")
                    return entry, data

            done = await together(one(number, upload) for number, upload in enumerate(uploads))
            for number, (entry, _) in enumerate(done):  # what its own neighbours kept out has the house alone now
                if entry.get("error", {}).get("code") == "busy":
                    done[number] = await one(number, uploads[number])
            entries = [entry for entry, _ in done]
            if kind == "json":
                return JSONResponse(entries)
            files = [(entry["result"], data) for entry, data in done if data is not None]
            packed = await house.encode(ticket, served, lambda: _zipped(files, entries))
        return Response(packed, media_type="application/zip")

    @router.get("/models", responses={401: ERRORS[401]})
    async def models() -> list[dict[str, Any]]:
        """List the models with their classes, colours and licences."""
        found = [(name, house.models.find(name)) for name in house.models.names]
        return [
            {"name": name, "ready": False} if each is None else {**each.describe(), "ready": True}
            for name, each in found
        ]

    reloading = asyncio.Lock()

    @router.post("/models/reload", responses={code: ERRORS[code] for code in (401, 404, 409, 500)})
    async def reload(model: ModelName = None) -> list[dict[str, Any]]:
        """Load a model, or all, again from where they came from; requests go on meanwhile."""
        if model is not None and model not in house.models.names:
            raise Refusal(404, "model", f"no model is called {show(model)}")
        if reloading.locked():
            raise Refusal(409, "reloading", "the models are being loaded again already")
        try:
            async with reloading:
                await anyio.to_thread.run_sync(house.models.load, model)
        except TerrazzoError as error:
            raise Refusal(500, "model-load", "the model could not be loaded, and the earlier one goes on") from error
        return await models()

    return router


def error_of(refusal: Refusal) -> dict[str, str]:
    """What a client is told."""
    return {"code": refusal.code, "message": refusal.message}


async def _uploads(request: Request, house: Segmenter, ticket: Ticket) -> list[Upload]:
    most, headers = house.settings.max_body, request.headers
    body = await read_body(request, most, ticket.seconds_left)

    def taken_apart() -> list[Upload]:
        plain = decompressed(body, headers.get("content-encoding", ""), most)
        return read_images(plain, headers.get("content-type", ""))

    return await house.parse(ticket, taken_apart)


def _encoded(result: Segmentation, kind: Kind, name: str | None) -> bytes:
    if kind == "json":
        return json.dumps({**result.to_dict(), "file": name}).encode()
    if kind == "polygons":
        features = [polygon.to_geojson() for polygon in result.polygons()]
        return json.dumps({"type": "FeatureCollection", "features": features}).encode()
    return result.encode(kind)


def _kept(kind: Kind) -> Keep:
    """What an answer needs beside the mask."""
    return frozenset({kind}) if kind in ("probabilities", "confidence", "entropy") else NOTHING


def _accepted(header: str) -> Kind:
    """Choose the form that ``Accept`` prefers.

    Raises:
        Refusal: it allows none of them (406).
    """
    asked: list[tuple[float, str]] = []
    for entry in header.split(",")[:50]:
        media, *options = (part.strip().lower() for part in entry.split(";"))
        quality = next((option[2:] for option in options if option.startswith("q=")), "1")
        try:
            asked.append((-float(quality), media))
        except ValueError:
            asked.append((-1.0, media))
    for negative, media in sorted(asked, key=lambda pair: pair[0]):
        if negative == 0:
            continue
        if media in ("*/*", "image/*", ""):
            return "mask"
        if media == "application/*":
            return "json"
        if media in BY_ACCEPT:
            return BY_ACCEPT[media]
    raise Refusal(406, "accept", f"answers are {', '.join(sorted(BY_ACCEPT))}; or ask for a form with ?save=")


def _zipped(files: Sequence[tuple[str, bytes]], entries: list[dict[str, Any]]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            archive.writestr(name, data)
        archive.writestr("results.json", json.dumps(entries, indent=2))
    return packed.getvalue()
