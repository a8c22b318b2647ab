"""The legend and the painting, pixel by pixel where a pixel says what a person would see."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.inference import legend as legend_module
from terrazzo.inference.legend import LegendEntry, with_legend
from terrazzo.inference.overlay import line_width, paint

RED, GREEN, BLUE = (220, 0, 0), (0, 180, 0), (0, 0, 220)
ENTRIES = [LegendEntry("road", RED, 0.6), LegendEntry("tree", GREEN, 0.3), LegendEntry("sky", BLUE, 0.1)]
BARE = np.arange(256) == 255
PRINTABLE = st.characters(codec="utf-8").filter(str.isprintable)  # what LabelSpec lets into a name


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def places(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.intp]:
    return np.argwhere((picture == color).all(axis=-1))


@pytest.mark.parametrize(
    "shape", [(360, 480), (48, 64), (768, 512), (200, 200), (1, 1), (1, 5000), (5000, 1), (900, 30)]
)
def test_the_legend_stands_beside_the_picture_and_covers_none_of_it(shape: tuple[int, int]) -> None:
    picture = grey(*shape)
    result = with_legend(picture, ENTRIES)
    height, width = shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[:height, :width], picture)
    for entry in ENTRIES:
        assert entry.color is not None
        swatch = places(result, entry.color)
        assert len(swatch) >= 100
        assert ((swatch[:, 0] >= height) | (swatch[:, 1] >= width)).all()


def test_a_landscape_picture_gets_a_strip_and_a_portrait_one_a_panel() -> None:
    assert with_legend(grey(360, 480), ENTRIES).shape[1] == 480
    assert with_legend(grey(360, 480), ENTRIES).shape[0] > 360
    assert with_legend(grey(480, 360), ENTRIES).shape[0] == 480
    assert with_legend(grey(480, 360), ENTRIES).shape[1] > 360


def test_entries_keep_their_order() -> None:
    panel = with_legend(grey(600, 300), ENTRIES)
    tops = [places(panel, color)[:, 0].min() for color in (RED, GREEN, BLUE)]
    assert tops == sorted(tops)
    strip = with_legend(grey(300, 600), ENTRIES)
    lefts = [places(strip, color)[:, 1].min() for color in (RED, GREEN, BLUE)]
    assert lefts == sorted(lefts)


def test_the_legend_grows_with_the_picture() -> None:
    small = len(places(with_legend(grey(300, 400), ENTRIES), RED))
    large = len(places(with_legend(grey(3000, 4000), ENTRIES), RED))
    assert large > 30 * small


def test_no_entries_no_legend() -> None:
    picture = grey(30, 40)
    np.testing.assert_array_equal(with_legend(picture, []), picture)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    names=st.lists(st.text(PRINTABLE, min_size=1, max_size=40), min_size=1, max_size=20),
)
def test_any_names_at_any_size(height: int, width: int, names: list[str]) -> None:
    entries = [LegendEntry(name, (i, 200, 7), 1 / len(names), f"class {i}") for i, name in enumerate(names)]
    result = with_legend(grey(height, width), entries)
    assert result.shape[0] >= height
    assert result.shape[1] >= width
    assert len(places(result, (0, 200, 7))) >= 100
    assert max(result.shape) < 800


def test_what_does_not_fit_is_summed_up() -> None:
    entries = [LegendEntry(f"class {i}", (i, 100, 200), 0.01) for i in range(100)]
    shown = with_legend(grey(300, 300), entries)
    drawn = [i for i in range(100) if len(places(shown, (i, 100, 200)))]
    assert 4 <= len(drawn) < 100
    assert drawn == list(range(len(drawn)))
    rest = LegendEntry(f"+ {100 - len(drawn)} more", None, 0.01 * (100 - len(drawn)))
    np.testing.assert_array_equal(shown, with_legend(grey(300, 300), [*entries[: len(drawn)], rest]))


def test_a_long_name_ends_in_an_ellipsis() -> None:
    def legend(name: str) -> NDArray[np.uint8]:
        return with_legend(grey(400, 300), [LegendEntry(name, RED, 0.5)])

    np.testing.assert_array_equal(legend("n" * 100), legend("n" * 200))
    assert legend("n" * 100).shape[1] < 300 + 20 * legend_module.SMALLEST_TEXT


def test_a_name_that_the_font_cannot_draw_falls_back() -> None:
    def legend(name: str) -> NDArray[np.uint8]:
        return with_legend(grey(400, 300), [LegendEntry(name, RED, 0.5, fallback="class 4")])

    np.testing.assert_array_equal(legend("\u9053\u8def"), legend("class 4"))
    np.testing.assert_array_equal(legend("\u9053\u8def road"), legend("road"))
    assert (legend("\u0434\u043e\u0440\u043e\u0433\u0430").shape != legend("class 4").shape) or (
        legend("\u0434\u043e\u0440\u043e\u0433\u0430") != legend("class 4")
    ).any()


def test_markup_is_text_like_any_other() -> None:
    def ink(name: str) -> int:
        legend = with_legend(grey(400, 300), [LegendEntry(name, None, 0.5)])
        return int((legend[:, 300:] < 200).any(axis=-1).sum())

    assert ink("<b>bold</b>") > ink("bold")


def test_without_matplotlib_pillows_own_font_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DejaVu" in str(legend_module._font(14).getname()[0])  # type: ignore[union-attr]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    legend_module._font.cache_clear()
    legend_module._line_width.cache_clear()
    try:
        assert "DejaVu" not in str(legend_module._font(14).getname()[0])  # type: ignore[union-attr]
        assert with_legend(grey(300, 400), ENTRIES).shape[0] > 300
    finally:
        legend_module._font.cache_clear()
        legend_module._line_width.cache_clear()


def test_paint_mixes_colours_and_draws_lines_between_classes() -> None:
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[:, 10:] = 1
    colors = np.array([RED, BLUE], dtype=np.uint8)[mask]
    painted = paint(grey(20, 20), colors, mask, 0.5, BARE, line_width(mask.shape))
    np.testing.assert_array_equal(painted[5, 0], [155, 45, 45])
    np.testing.assert_array_equal(painted[5, 19], [45, 45, 155])
    np.testing.assert_array_equal(painted[5, 9], [128 + 110, 128, 128])
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == 3


def test_paint_leaves_pixels_without_a_class_alone() -> None:
    mask = np.full((20, 20), 255, dtype=np.uint8)
    mask[:10] = 0
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    colors = np.full((20, 20, 3), RED, dtype=np.uint8)
    painted = paint(photo, colors, mask, 1.0, BARE, line_width(mask.shape))
    np.testing.assert_array_equal(painted[11:], photo[11:])
    np.testing.assert_array_equal(painted[:9], colors[:9])


def test_lines_grow_with_the_photo() -> None:
    mask = np.zeros((2400, 2400), dtype=np.uint8)
    mask[:, 1200:] = 1
    colors = np.zeros((2400, 2400, 3), dtype=np.uint8)
    painted = paint(grey(2400, 2400), colors, mask, 0.5, BARE, line_width(mask.shape))
    assert (painted[1000] == 128).all(axis=-1).sum() == 3
