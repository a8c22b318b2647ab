"""``/v2``: the Open Inference Protocol (KServe v2) over HTTP, with its binary tensors.

A model has one input and two outputs:

    image           UINT8 (H, W, 3) or (N, H, W, 3): RGB; or BYTES (N): encoded images, all of one size
    mask            UINT8, or UINT16 where there are more than 255 classes, (N, H, W): class indices
    probabilities   FP32 (N, K, H, W), if it is asked for

https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from terrazzo import __version__
from terrazzo.config import parse_json
from terrazzo.errors import ConfigError
from terrazzo.inference.result import Segmentation
from terrazzo.inference.scores import NOTHING, Keep
from terrazzo.serving.body import decompressed, read_body
from terrazzo.serving.models import ServedModel
from terrazzo.serving.refusal import Refusal
from terrazzo.serving.segmenting import Segmenter, Ticket, together
from terrazzo.text import show

__all__ = ["open_inference_router"]

HEADER_LENGTH = "inference-header-content-length"
OUTPUTS = ("mask", "probabilities")
MOST_IMAGES = 256
MOST_NUMBERS = 8_000_000  # in an answer as JSON, where each takes tens of bytes
PLATFORM = "terrazzo"


def open_inference_router(house: Segmenter) -> APIRouter:
    """Make the routes.

    Args:
        house: segments.
    """
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """Name the server and what it can do beyond the protocol."""
        return {"name": PLATFORM, "version": __version__, "extensions": ["binary_tensor_data"]}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> Response:
        """Whether every model has computed once."""
        return _readiness(house.models.is_ready)

    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{version}", include_in_schema=False)
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """Describe a model's inputs and outputs."""
        return _described(_version(house.model(name), version))

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
    async def model_ready(name: str, version: str | None = None) -> Response:
        """Whether a model has computed once."""
        try:
            _version(house.model(name), version)
        except Refusal as refusal:
            if refusal.status != 503:
                raise
            return _readiness(False)
        return _readiness(True)

    @router.post("/models/{name}/infer")
    @router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        """Segment images."""
        async with house.ticket(request) as ticket:
            model = _version(house.model(name), version)
            most, headers = house.settings.max_body, request.headers
            body = await read_body(request, most, ticket.seconds_left)

            def taken_apart() -> tuple[dict[str, Any], list[NDArray[np.uint8] | bytes]]:
                plain = decompressed(body, headers.get("content-encoding", ""), most)
                document, tensors = _parsed(plain, headers.get(HEADER_LENGTH))
                return document, _images(document, tensors)

            document, images = await house.parse(ticket, taken_apart)
            wanted = _wanted(document)
            if model.predictor.preprocess.bands is not None and not all(isinstance(image, bytes) for image in images):
                raise _wrong("this model reads bands of a TIFF; send files, as BYTES")
            keep: Keep = frozenset({"probabilities"}) if "probabilities" in wanted else NOTHING
            results = await _segmented(house, ticket, model, images, keep)
            return await house.encode(ticket, model, lambda: _answer(document, model, wanted, results))

    return router


def _readiness(is_ready: bool) -> Response:
    return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


def _version(model: ServedModel, version: str | None) -> ServedModel:
    if version is not None and version != str(model.version):
        raise Refusal(404, "model", f"{show(model.name)} is at version {model.version}")
    return model


def _described(model: ServedModel) -> dict[str, Any]:
    labels = model.predictor.labels
    mask = _datatype(labels.mask_dtype)
    return {
        "name": model.name,
        "versions": [str(model.version)],
        "platform": PLATFORM,
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [
            {"name": "mask", "datatype": mask, "shape": [-1, -1, -1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, labels.num_classes, -1, -1]},
        ],
    }


def _datatype(dtype: np.dtype[Any] | type) -> str:
    return {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}[np.dtype(dtype).name]


def _wrong(message: str) -> Refusal:
    return Refusal(400, "infer-request", message)


def _parsed(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """Split a body into its JSON document and the bytes of its binary tensors."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or len(header_length) > 12 or int(header_length) > len(body):
            raise _wrong(f"{HEADER_LENGTH} is {show(header_length)}, and the body has {len(body)} bytes")
        length = int(header_length)
    try:
        document = parse_json(body[:length], "the request")
    except ConfigError as error:
        raise _wrong(error.message) from None
    if not isinstance(document, dict):
        raise _wrong("the request is not a JSON object")
    return document, body[length:]


def _images(document: dict[str, Any], binary: bytes) -> list[NDArray[np.uint8] | bytes]:
    """Return the images of a request: arrays, or encoded files."""
    inputs = document.get("inputs")
    tensor = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    if not isinstance(tensor, dict):
        raise _wrong("inputs is a list with one tensor, called image")
    if tensor.get("name") != "image":
        raise _wrong(f"the input is called image, and not {show(tensor.get('name'))}")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 4
        or not all(type(side) is int and 0 < side < 1 << 31 for side in shape)
    ):
        raise _wrong("the shape of image is a list of 1 to 4 whole numbers")
    values, size = tensor.get("data"), _binary_size(tensor, "binary_data_size")
    if (values is None) == (size is None):
        raise _wrong("image has either data or parameters.binary_data_size")
    if size is not None and size != len(binary):
        raise _wrong(f"binary_data_size is {size}, and {len(binary)} bytes follow the JSON")
    match tensor.get("datatype"):
        case "UINT8":
            return list(_pixels(shape, values, binary))
        case "BYTES":
            files = _files(values, binary)
            if shape not in ([len(files)], [len(files), 1]):
                raise _wrong(f"the shape of image is {shape}, and it holds {len(files)} files")
            return list(files)
        case other:
            raise _wrong(f"the datatype of image is UINT8 (pixels) or BYTES (encoded files), and not {show(other)}")


def _binary_size(tensor: dict[str, Any], key: str) -> int | None:
    parameters = tensor.get("parameters")
    size = parameters.get(key) if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise _wrong(f"{key} is {show(size)}")
    return size


def _pixels(shape: list[int], values: Any, binary: bytes) -> NDArray[np.uint8]:
    if len(shape) == 3:
        shape = [1, *shape]
    if len(shape) != 4 or shape[3] != 3 or shape[0] > MOST_IMAGES:
        raise _wrong(f"UINT8 images are (H, W, 3) or (N, H, W, 3), with at most {MOST_IMAGES} of them, and not {shape}")
    count = int(np.prod([int(side) for side in shape], dtype=object))
    if values is None:
        flat = np.frombuffer(binary, np.uint8)
    else:
        try:
            given = np.asarray(values)
        except ValueError:
            raise _wrong("the data of image is ragged") from None
        if given.dtype.kind not in "iu" or given.size == 0 or given.min() < 0 or given.max() > 255:
            raise _wrong("the data of image is not whole numbers from 0 to 255")
        flat = given.astype(np.uint8).ravel()
    if flat.size != count:
        raise _wrong(f"the shape of image is {shape}, and it holds {flat.size} values")
    return flat.reshape(shape)


def _files(values: Any, binary: bytes) -> list[bytes]:
    """Encoded images: base64 text in JSON, or after a length of four bytes each in binary data."""
    if values is not None:
        return [_from_base64(value) for value in values] if isinstance(values, list) else []
    files, place = [], 0
    while place < len(binary):
        length = int.from_bytes(binary[place : place + 4], "little")
        if place + 4 + length > len(binary):
            raise _wrong("the binary data of image ends within a file")
        files.append(binary[place + 4 : place + 4 + length])
        place += 4 + length
        if len(files) > MOST_IMAGES:
            raise _wrong(f"at most {MOST_IMAGES} images go into one request")
    return files


def _from_base64(value: Any) -> bytes:
    import base64

    if not isinstance(value, str):
        raise _wrong("BYTES in JSON are base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise _wrong("BYTES in JSON are base64 text; an image's address is not fetched") from None


def _wanted(document: dict[str, Any]) -> dict[str, bool]:
    """Which outputs are asked for, and whether each is sent as binary data."""
    parameters, outputs = document.get("parameters"), document.get("outputs")
    all_binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    if outputs is None:
        return {"mask": all_binary}
    wanted: dict[str, bool] = {}
    for output in outputs if isinstance(outputs, list) else [None]:
        if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
            raise _wrong(f"outputs is a list of tensors, called {' or '.join(OUTPUTS)}")
        name = output["name"]
        own = output.get("parameters")
        wanted[name] = own.get("binary_data", all_binary) is True if isinstance(own, dict) else all_binary
    return wanted


async def _segmented(
    house: Segmenter,
    ticket: Ticket,
    model: ServedModel,
    images: Sequence[NDArray[np.uint8] | bytes],
    keep: Keep,
) -> list[Segmentation]:
    at_once, most, pixels = asyncio.Semaphore(2 * house.settings.batch_size), house.settings.max_pixels, 0

    async def one(image: NDArray[np.uint8] | bytes) -> Segmentation:
        nonlocal pixels
        async with at_once:
            if isinstance(image, bytes):
                _check_pixels(pixels, most)
                result = await house.segment_file(ticket, model, image, keep)
                pixels += result.mask.size
            else:
                pixels += image.shape[0] * image.shape[1]
                _check_pixels(pixels, most)
                house.check_values(model, pixels, keep)
                result = await house.segment_array(ticket, model, image, keep)
            _check_pixels(pixels, most)
            house.check_values(model, pixels, keep)
            return result

    results = await together(one(image) for image in images)
    if not results:
        raise _wrong("there is no image")
    if len({result.mask.shape for result in results}) > 1:
        raise _wrong("the images of a request have one size, since their masks are one tensor")
    return results


def _check_pixels(pixels: int, most: int) -> None:
    if pixels > most:
        raise Refusal(413, "image-too-large", f"the images of a request have at most {most:,} pixels together")


def _answer(
    document: dict[str, Any], model: ServedModel, wanted: dict[str, bool], results: Sequence[Segmentation]
) -> Response:
    outputs: list[dict[str, Any]] = []
    binary = b""
    for name, as_binary in wanted.items():
        arrays = [result.mask if name == "mask" else result.probabilities for result in results]
        values = np.stack([array for array in arrays if array is not None])
        output: dict[str, Any] = {"name": name, "datatype": _datatype(values.dtype), "shape": list(values.shape)}
        if as_binary:
            data = values.tobytes()
            output["parameters"] = {"binary_data_size": len(data)}
            binary += data
        elif values.size > MOST_NUMBERS:
            raise Refusal(
                413,
                "answer-too-large",
                f"JSON has at most {MOST_NUMBERS:,} numbers; ask for {name} as binary data",
            )
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version), "outputs": outputs}
    if isinstance(document.get("id"), str):
        answer["id"] = document["id"]
    text = json.dumps(answer).encode()
    if not binary:
        return Response(text, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(text))}
    return Response(text + binary, media_type="application/octet-stream", headers=headers)
