"""The demo: a page on the server's own API, which needs nothing from elsewhere. HTML, script and style lie beside this
file and are served as they are; the example photos are those that ship with the models."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Response

from terrazzo.serving.refusal import Refusal
from terrazzo.weights.catalog import bundled_names, example_image

__all__ = ["demo_router"]

MEDIA_TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Permissions-Policy": "camera=(self)"}


def demo_router() -> APIRouter:
    """Make the page's routes."""
    router = APIRouter(include_in_schema=False)
    here = files(__package__)
    pages = {name: (here / name).read_bytes() for name in MEDIA_TYPES}
    examples = {name: image for name in bundled_names() if (image := example_image(name)) is not None}

    def page(name: str) -> Response:
        return Response(pages[name], media_type=f"{MEDIA_TYPES[name]}; charset=utf-8", headers=HEADERS)

    @router.get("/")
    async def index() -> Response:
        return page("index.html")

    @router.get("/demo/examples")
    async def list_examples() -> list[dict[str, str]]:
        return [{"name": name, "credit": _credit(image)} for name, image in examples.items()]

    @router.get("/demo/examples/{name}")
    async def example(name: str) -> Response:
        if name not in examples:
            raise Refusal(404, "http", "there is no such example")
        return Response(examples[name].read_bytes(), media_type="image/jpeg")

    @router.get("/demo/{name}")
    async def part(name: str) -> Response:
        if name not in pages:
            raise Refusal(404, "http", "there is nothing here")
        return page(name)

    return router


def _credit(image: Path) -> str:
    """Author and licence, from the file beside an example photo."""
    lines = image.with_suffix(".txt").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if line.startswith(("Author:", "Licence:")))
    return " ".join(text.strip() for text in facts.values())
