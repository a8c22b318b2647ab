"""The demo page in a real browser: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import COLORS, PATIENCE, Running, decoded, picture, png, running, until

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

KEY = "0123456789abcdef"
BANDS = COLORS[np.repeat([[0, 1, 2]], 20, 1).repeat(40, 0)]  # red, green and blue, a third each
WATCH = """
document.addEventListener("securitypolicyviolation", (event) => console.error(`CSP: ${event.violatedDirective}`));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=1000 * PATIENCE
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(demo=True) as started:
        yield started


@contextmanager
def opened(browser: Any, server: Running, **options: Any) -> Iterator[Any]:
    """The page; that it asked nobody else, and that nothing went wrong in it, is checked at the end."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, asked, said = context.new_page(), [], []
    page.set_default_timeout(1000 * PATIENCE)
    page.add_init_script(WATCH)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.url)
    page.locator("#model option").first.wait_for(state="attached")
    try:
        yield page
        assert [url for url in asked if not url.startswith((server.url, "blob:", "data:"))] == []
        assert [line for line in said if "Failed to load resource" not in line] == []
    finally:
        context.close()


def choose(page: Any, data: bytes = b"", name: str = "street.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data or png(BANDS)})


def shown(page: Any) -> None:
    page.locator("#classes button").first.wait_for()


def color_of_mask(page: Any, x: int, y: int) -> list[int]:
    found: list[int] = page.evaluate(
        "([x, y]) => [...document.getElementById('mask').getContext('2d').getImageData(x, y, 1, 1).data]", [x, y]
    )
    return found


def test_a_photo_is_chosen_and_its_classes_are_painted_and_listed(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        choose(page)
        shown(page)
        rows = page.locator("#classes button").all_inner_texts()
        assert sorted(row.split()[0] for row in rows) == ["blue", "green", "red"]
        assert all("33%" in row for row in rows)
        palette = server.house.models.find("colors").predictor.labels.palette  # type: ignore[union-attr]
        for index, x in enumerate((5, 30, 55)):
            assert color_of_mask(page, x, 20) == [*palette[index], 255]
        assert "60 × 40 pixels" in page.locator("#status").inner_text()
        assert "colors" in page.locator("#times").inner_text()


def test_classes_light_up_in_the_list_and_in_the_photo(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        choose(page)
        shown(page)
        red = page.locator("#classes button", has_text="red")
        red.hover()
        until(lambda: color_of_mask(page, 5, 20)[3] == 255 and color_of_mask(page, 55, 20)[3] < 100)
        box = page.locator("#mask").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.5)
        until(lambda: page.locator("#under").inner_text() == "blue")
        assert "lit" in page.locator("#classes button", has_text="blue").get_attribute("class")
        assert color_of_mask(page, 5, 20)[3] < 100 and color_of_mask(page, 55, 20)[3] == 255
        page.mouse.move(2, 2)
        until(lambda: color_of_mask(page, 5, 20)[3] == color_of_mask(page, 55, 20)[3] == 255)


def test_sliders_fade_and_split(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        choose(page)
        shown(page)
        page.locator("#alpha").fill("30")
        page.locator("#split").fill("50")
        style = page.evaluate("() => [mask.style.opacity, mask.style.clipPath]")
        assert style[0] == "0.3" and "50%" in style[1]


ENDINGS = {
    "mask": "_mask.png",
    "color": "_color.png",
    "overlay": "_overlay.png",
    "json": ".json",
    "polygons": ".geojson",
    "probabilities": "_probabilities.npz",
}


def test_results_are_downloaded(browser: Any, server: Running, tmp_path: Path) -> None:
    with opened(browser, server) as page:
        choose(page)
        shown(page)
        for kind, ending in ENDINGS.items():
            with page.expect_download() as saving:
                page.locator(f"[data-save={kind}]").click()
            assert saving.value.suggested_filename == f"street{ending}"
            saving.value.save_as(tmp_path / kind)
            assert (tmp_path / kind).stat().st_size > 50
        mask = decoded((tmp_path / "mask").read_bytes())
        assert (mask == np.repeat([[0, 1, 2]], 20, 1).repeat(40, 0)).all()


def test_examples_ship_with_the_page(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        page.locator("#examples button").first.click()
        shown(page)
        assert page.locator("#photo").evaluate("canvas => canvas.width") > 300


def test_photos_are_dropped_and_pasted(browser: Any, server: Running) -> None:
    give = """([kind, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
        const event = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        with opened(browser, server) as page:
            page.evaluate(give, [kind, list(png(BANDS))])
            shown(page)


def test_an_error_is_said_in_the_page_and_the_next_photo_works(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        choose(page, b"no image", "notes.txt")
        page.locator("#error").wait_for()
        assert "image" in page.locator("#error").inner_text().lower()
        choose(page)
        shown(page)
        assert page.locator("#error").is_hidden()


def test_the_page_asks_for_the_key(browser: Any) -> None:
    with running(demo=True, api_key=KEY) as server:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(server.url)
        page.locator("#key-dialog[open]").wait_for()
        page.keyboard.type("wrong-key-of-16-letters")
        page.keyboard.press("Enter")
        page.locator("#key-wrong").wait_for()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        page.locator("#model option").first.wait_for(state="attached")
        page.locator("#examples img").first.wait_for()
        assert page.evaluate("() => document.querySelector('#examples img').decode().then(() => true)")
        choose(page)
        shown(page)
        context.close()


def test_it_works_by_keyboard(browser: Any, server: Running) -> None:
    with opened(browser, server) as page:
        page.locator("#examples button").first.wait_for()
        seen = []
        for _ in range(12):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("() => document.activeElement.id || document.activeElement.parentElement.id"))
            if seen[-1] == "examples":
                page.keyboard.press("Enter")
                break
        assert {"file", "camera"} <= set(seen)
        shown(page)
        page.locator("#classes button").first.focus()
        page.keyboard.press("Space")
        until(lambda: page.locator("#classes button").first.get_attribute("aria-pressed") == "true")
        assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 390), ("light", 1280), ("dark", 1280)])
def test_it_fits_phones_and_dark_mode_and_axe_finds_no_fault(
    browser: Any, server: Running, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "bypass_csp": True}
    with opened(browser, server, reduced_motion="reduce", **options) as page:
        page.locator("#examples button").first.wait_for()
        assert_no_faults(axe, page)
        choose(page)
        shown(page)
        page.locator("#classes button").first.hover()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 3 * 128) == (scheme == "dark")
        assert_no_faults(axe, page)


def assert_no_faults(axe: Any, page: Any) -> None:
    violations = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == []


def test_nothing_moves_for_those_who_want_it_so(browser: Any, server: Running) -> None:
    with opened(browser, server, reduced_motion="reduce") as page:
        choose(page, picture(0)[0])
        shown(page)
        assert page.evaluate("() => getComputedStyle(mask).transitionDuration") in ("0s", "")
