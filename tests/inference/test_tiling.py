"""Windows, scales and mirrored views: counted by hand, and against the papers' procedure done literally in PyTorch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from terrazzo.errors import CheckpointError
from terrazzo.inference import scratch
from terrazzo.inference.scores import Block, Keep, Scores, decide, decide_together
from terrazzo.inference.tiling import Engine, slide, slide_in_blocks, whole, window_starts
from terrazzo.inference.upsample import argmax
from terrazzo.inference.upsample.resize_axis import compose_axis, compose_windows

Floats = NDArray[np.float32]
Size = tuple[int, int]

ROUNDING = 1e-4
PROBABILITIES: Keep = frozenset({"probabilities"})


def small_network(num_classes: int, step: int, *, classes_last: bool = True, seed: int = 0) -> Engine:
    """One convolution of the given stride, whose zero padding makes every window's border differ from its inside."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, 3, 5, 5, generator=generator)

    def engine(images_B3HW: Floats) -> Floats:
        logits = F.conv2d(torch.from_numpy(np.ascontiguousarray(images_B3HW)), weight, stride=step, padding=2).numpy()
        return np.ascontiguousarray(logits.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if classes_last else logits

    return engine


def identity(images_B3HW: Floats) -> Floats:
    """Three classes whose logits are the colours."""
    return images_B3HW


@dataclass
class Normalised:
    """An image as the network is shown it, from an array."""

    image_3HW: Floats

    @property
    def size(self) -> Size:
        return self.image_3HW.shape[1], self.image_3HW.shape[2]

    def read_window(self, rows: slice, columns: slice) -> Floats:
        return self.image_3HW.transpose(1, 2, 0)[rows, columns]


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def resized(logits: torch.Tensor, size: Size) -> torch.Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def literal_slide(engine: Engine, image_3HW: Floats, size: Size, window: int, stride: int) -> Floats:
    """Logits at the photo's size: sum every window's at the image's size, divide by how often each pixel was hit."""
    _, height, width = image_3HW.shape
    total, count = torch.zeros(1), torch.zeros(1, 1, height, width)
    for i in range(max(height - window + stride - 1, 0) // stride + 1):
        for j in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, height), min(j * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            part = np.ascontiguousarray(image_3HW[None, :, top:bottom, left:right])
            logits = resized(torch.from_numpy(np.ascontiguousarray(engine(part))), (bottom - top, right - left))
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            count[..., top:bottom, left:right] += 1
    assert count.min() > 0
    return resized(total / count, size)[0].numpy()


def assert_decides(mask: NDArray[np.unsignedinteger], scores_KHW: Floats) -> None:
    """The mask is the argmax, but for classes that are equal within rounding."""
    assert mask.shape == scores_KHW.shape[1:]
    chosen = np.take_along_axis(scores_KHW, mask[None].astype(np.int64), axis=0)[0]
    assert (scores_KHW.max(axis=0) - chosen).max() < ROUNDING * max(1, np.abs(scores_KHW).max())


# Where windows stand


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (1, 512, 341, [0]),  # shorter than a window
        (511, 512, 341, [0]),
        (512, 512, 341, [0]),  # equal
        (513, 512, 341, [0, 1]),  # one more
        (683, 512, 341, [0, 171]),  # ADE20K, SETR
        (853, 512, 341, [0, 341]),  # a window and a stride
        (854, 512, 341, [0, 341, 342]),  # and one more: three windows share most of the image
        (1194, 512, 341, [0, 341, 682]),
        (2048, 1024, 768, [0, 768, 1024]),  # Cityscapes, SegFormer
        (1024, 1024, 768, [0]),
        (2049, 768, 512, [0, 512, 1024, 1281]),  # Cityscapes, SETR
        (1025, 768, 512, [0, 257]),
        (693, 480, 320, [0, 213]),  # Pascal Context, SETR
        (1536, 768, 768, [0, 768]),  # side by side
        (7, 4, 2, [0, 2, 3]),
        (5, 1, 1, [0, 1, 2, 3, 4]),
    ],
)
def test_windows_stand_where_the_papers_put_them(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 3000), window=st.integers(1, 1100), data=st.data())
def test_windows_cover_everything_in_order_and_stay_inside(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    assert starts == sorted(set(starts))
    assert starts[0] == 0 and starts[-1] == max(length - window, 0)
    assert all(second - first <= stride for first, second in pairwise(starts))


# How windows are joined


def numbering_engine() -> Engine:
    """Class 0 has the number of the call as its logit, 1, 2, 3 and so on; class 1 has 0."""
    calls = 0

    def engine(images: Floats) -> Floats:
        nonlocal calls
        calls += 1
        assert images.shape == (1, 3, 4, 4)
        return np.array([calls, 0], np.float32).reshape(1, 2, 1, 1)

    return engine


def test_overlapping_windows_are_averaged_by_how_many_there_are() -> None:
    """Side 7, window 4, stride 2: windows at 0, 2 and 3 cover the pixels 1, 1, 2, 3, 2, 2, 1 times."""
    scores = slide(numbering_engine(), Normalised(np.zeros((3, 7, 7), np.float32)), (7, 7), 4, 2)
    along = np.array([0, 0, (0 + 1) / 2, (0 + 1 + 2) / 3, (1 + 2) / 2, (1 + 2) / 2, 2])
    number_HW = 1 + 3 * along[:, None] + along  # row by row: 1 2 3, 4 5 6, 7 8 9
    probabilities = scores.probabilities()
    np.testing.assert_allclose(probabilities[0], 1 / (1 + np.exp(-number_HW)), rtol=1e-5)


def test_the_composed_axis_of_windows_counts_as_by_hand() -> None:
    axis = compose_windows(1, (0, 2, 3), 4, ())
    weights = np.zeros((7, 3))
    for taps, shares in zip(axis.taps_TG[:, axis.group_O], axis.weights_TO, strict=True):
        np.add.at(weights, (np.arange(7), taps), shares)
    half, third = [0.5, 0.5], [1 / 3] * 3
    expected = [[1, 0, 0], [1, 0, 0], [*half, 0], third, [0, *half], [0, *half], [0, 0, 1]]
    np.testing.assert_allclose(weights, expected, atol=1e-7)


def test_one_window_is_the_plain_axis() -> None:
    window, plain = compose_windows(9, (0,), 36, (50,)), compose_axis(9, (36, 50))
    for name in ("taps_TG", "weights_TO", "start_G", "outputs_PG", "group_O"):
        np.testing.assert_array_equal(getattr(window, name), getattr(plain, name))
    assert window.kinds == plain.kinds


sides = st.integers(1, 50)


@settings(max_examples=40, deadline=None)
@given(
    height=sides,
    width=sides,
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    window=st.integers(10, 40),
    stride_share=st.floats(0.35, 1),
    step=st.sampled_from([1, 2, 4, 16]),
    num_classes=st.sampled_from([1, 2, 7, 40]),
    classes_last=st.booleans(),
    strip=st.sampled_from([1, 2000, 4 << 20]),
)
def test_sliding_is_the_literal_procedure(
    height: int,
    width: int,
    size: Size,
    window: int,
    stride_share: float,
    step: int,
    num_classes: int,
    classes_last: bool,
    strip: int,
) -> None:
    engine = small_network(num_classes, step, classes_last=classes_last)
    image = noise(3, height, width)
    stride = max(1, int(window * stride_share))
    expected = literal_slide(engine, image, size, window, stride)
    with mock.patch.object(argmax, "_STRIP_FLOATS", strip):
        pixels = decide([Block(0, 0, slide(engine, Normalised(image), size, window, stride))], size, PROBABILITIES)
    mask, probabilities = pixels.mask, pixels.probabilities
    assert_decides(mask, expected)
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, torch.from_numpy(expected).softmax(0).numpy(), atol=ROUNDING)
    in_blocks = decide(slide_in_blocks(engine, Normalised(image), size, window, stride), size, PROBABILITIES)
    assert_decides(in_blocks.mask, expected)
    assert in_blocks.mask.shape == mask.shape and in_blocks.probabilities is not None
    np.testing.assert_allclose(in_blocks.probabilities, probabilities, atol=ROUNDING)


@pytest.mark.parametrize("size", [(48, 64), (31, 90)])
def test_a_window_that_holds_the_image_is_the_whole_image(size: Size) -> None:
    engine, image = small_network(9, 4), noise(3, 48, 64)
    (expected,) = whole(engine, image[None], [size])
    for window, stride in ((64, 64), (100, 30)):
        (only,) = slide_in_blocks(engine, Normalised(image), size, window, stride)
        for scores in (only.scores, slide(engine, Normalised(image), size, window, stride)):
            np.testing.assert_array_equal(scores.mask(), expected.mask())
            np.testing.assert_array_equal(scores.probabilities(), expected.probabilities())


def test_a_batch_of_whole_images_is_decided_one_by_one() -> None:
    engine, images = small_network(5, 4), noise(3, 3, 21, 30)
    batch = [scores.mask() for scores in whole(engine, images, [(40, 50)] * len(images))]
    for image, mask in zip(images, batch, strict=True):
        logits = resized(torch.from_numpy(np.ascontiguousarray(engine(image[None]))), (21, 30))
        assert_decides(mask, resized(logits, (40, 50))[0].numpy())


def test_blocks_follow_one_another_and_come_as_soon_as_their_windows_are_seen() -> None:
    seen = []

    def engine(images: Floats) -> Floats:
        seen.append(images.shape)
        return np.zeros((1, 2, 8, 8), np.float32)

    places = []
    for block in slide_in_blocks(engine, Normalised(noise(3, 120, 40)), (240, 80), 32, 22):
        _, height, width = block.scores.shape
        places.append((len(seen), block.top, block.left, height, width))
    # Windows at rows 0, 22, 44, 66, 88 and columns 0, 8; a pixel of the image needs the input's next one, too.
    rows = [(0, 43), (43, 44), (87, 44), (131, 44), (175, 65)]
    columns = [(0, 15), (15, 65)]
    assert places == [
        (2 * i + j + 1, top, left, height, width)
        for i, (top, height) in enumerate(rows)
        for j, (left, width) in enumerate(columns)
    ]


@pytest.mark.parametrize("tall", [True, False])
def test_memory_of_blocks_does_not_grow_with_the_image(tall: bool) -> None:
    engine = small_network(60, 4)

    def peak(length: int) -> float:
        size = (length, 96) if tall else (96, length)
        image = np.zeros((*size, 3), np.float32).transpose(2, 0, 1)
        tracemalloc.start()
        with mock.patch.object(scratch, "IN_MEMORY", 1 << 18):
            for block in slide_in_blocks(engine, Normalised(image), size, 64, 48):
                block.scores.mask()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    for length in (256, 2048):
        peak(length)  # the axes are made once, and kept
    small, large = peak(256), peak(2048)
    assert large < 1.2 * small + 2048 * 200  # the axes grow a little; all classes at full size would be 47 MB
    assert large < 10e6


def test_logits_that_are_not_finite_are_refused_wherever_they_are() -> None:
    image = noise(3, 20, 20)
    image[1, 17, 3] = np.nan
    with pytest.raises(CheckpointError) as caught:
        decide(slide_in_blocks(identity, Normalised(image), (20, 20), 8, 6), (20, 20))
    assert caught.value.code == "logits-not-finite"
    with pytest.raises(CheckpointError):
        decide_together([(slide(identity, Normalised(image), (20, 20), 8, 6), False)])


# How views are joined


def constant(logits: list[float]) -> Scores:
    planes = np.array(logits, np.float32).reshape(-1, 1, 1)
    return Scores(planes, compose_axis(1, (2,)), compose_axis(1, (3,)))


def test_views_are_averaged_as_probabilities_and_windows_as_logits() -> None:
    """One view is very sure of class 0, two are fairly sure of class 1: their mean logits and probabilities differ."""
    leads = [10.0, -2.0, -2.0]
    pixels = decide_together([(constant([lead, 0]), False) for lead in leads], PROBABILITIES)
    mask, probabilities = pixels.mask, pixels.probabilities
    assert probabilities is not None
    expected = np.mean([1 / (1 + np.exp(-lead)) for lead in leads])  # 0.413
    np.testing.assert_allclose(probabilities[0], expected, rtol=1e-5)
    assert mask.shape == (2, 3) and (mask == 1).all()

    waiting = iter(leads)
    scores = slide(
        lambda images: np.array([next(waiting), 0], np.float32).reshape(1, 2, 1, 1),
        Normalised(np.zeros((3, 4, 6), np.float32)),
        (4, 6),
        4,
        1,
    )
    mask = scores.mask()
    assert mask[0].tolist() == [0, 0, 0, 0, 1, 1]  # leads of 10, 8 / 2, 6 / 3, 6 / 3, -4 / 2 and -2


def test_mirrored_views_are_turned_back() -> None:
    image = noise(3, 9, 13)
    plain, turned = image, np.ascontiguousarray(image[:, :, ::-1])
    views = [(next(whole(identity, x[None], [(9, 13)])), x is turned) for x in (plain, turned)]
    pixels = decide_together(views, PROBABILITIES)
    mask, probabilities = pixels.mask, pixels.probabilities
    np.testing.assert_array_equal(mask, image.argmax(axis=0))
    np.testing.assert_allclose(probabilities, torch.from_numpy(image).softmax(0).numpy(), atol=1e-6)
    wrong = decide_together([(scores, False) for scores, _ in views]).mask
    assert (wrong != mask).mean() > 0.2


@pytest.mark.parametrize("step", [1, 2, 8])
@pytest.mark.parametrize("order", [small_network(30, 8), small_network(30, 8, classes_last=False)])
def test_views_of_all_sizes_are_the_literal_mean(order: Engine, step: int) -> None:
    """Few small logits are held, many large ones summed: the result is the same."""
    size = (40, 56)
    engine = order if step == 8 else small_network(30, step)
    views, expected = [], []
    for ratio in (0.5, 1.0, 1.5):
        image = noise(3, int(40 * ratio), int(56 * ratio), seed=int(10 * ratio))
        for mirrored in (False, True):
            x = np.ascontiguousarray(image[:, :, ::-1]) if mirrored else image
            views.append((slide(engine, Normalised(x), size, 32, 20), mirrored))
            logits = torch.from_numpy(literal_slide(engine, x, size, 32, 20))
            expected.append(logits.softmax(0).flip(-1) if mirrored else logits.softmax(0))
    mean = torch.stack(expected).mean(0).numpy()
    alone = decide_together(iter(views))
    mask = alone.mask
    assert alone.probabilities is None
    assert_decides(mask, mean)
    with mock.patch.object(argmax, "_PROBABILITY_FLOATS", 30 * 56 * 7):
        pixels = decide_together(iter(views), PROBABILITIES)
    again, probabilities = pixels.mask, pixels.probabilities
    assert (again == mask).mean() > 0.999
    np.testing.assert_allclose(probabilities, mean, atol=ROUNDING)


@pytest.mark.parametrize("step", [2, 16])
def test_memory_of_many_views_is_about_twice_the_planes_at_most(step: int) -> None:
    """Ten views of 150 classes: at 1/16 they are held, at 1/2 they would take 2.5 times the planes."""
    shape = (150, 96 // step, 128 // step)
    planes = 4 * 150 * 96 * 128

    def views() -> Iterator[tuple[Scores, bool]]:
        for number in range(10):
            logits = noise(*shape, seed=number)
            yield Scores(logits, compose_axis(shape[1], (96,)), compose_axis(shape[2], (128,))), number % 2 == 1

    with mock.patch.object(argmax, "_PROBABILITY_FLOATS", 150 * 128 * 3):
        tracemalloc.start()
        decide_together(views())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < (3.0 if step == 2 else 0.9) * planes  # 1 and 2.5 at once would be 3.5
