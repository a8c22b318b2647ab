"""Where windows meet: no seam shows, and where the receptive field allows it pixels are those of one pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

import terrazzo
from terrazzo.imaging.read import read_image
from terrazzo.inference.pipeline import Pipeline
from terrazzo.inference.protocols import PROTOCOLS, WHOLE, Protocol
from terrazzo.inference.tiling import window_starts
from terrazzo.inference.upsample.resize_axis import compose_windows
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.catalog import example_image

PROBABILITIES = frozenset({"probabilities"})
ABCDE = LabelSpec.from_names(list("abcde"))


def weights(starts: tuple[int, ...], window: int) -> NDArray[np.floating]:
    """The weight of each window at each position, (positions, windows)."""
    axis = compose_windows(1, starts, window, (), "linear")
    table = np.zeros((axis.length, len(starts)))
    for taps, shares in zip(axis.taps_TG[:, axis.group_O], axis.weights_TO, strict=True):
        np.add.at(table, (np.arange(axis.length), taps), shares)
    return table


def test_linear_weights_by_hand() -> None:
    """Windows of 12 overlap by 8: 2 positions count for one window alone, 4 change over, 2 for the other alone."""
    ramp = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    expected = [0.0] * 6 + ramp + [1.0] * 6
    np.testing.assert_allclose(weights((0, 4), 12)[:, 1], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(50, 12, 12), (50, 12, 11), (37, 12, 9), (38, 12, 9), (31, 12, 4), (12, 12, 9)]
)
def test_linear_weights_are_a_mean_and_vanish_at_borders(length: int, window: int, stride: int) -> None:
    starts = window_starts(length, window, stride)
    table = weights(tuple(starts), window)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-6)
    assert table.min() >= 0
    margin = int((window - (starts[1] - starts[0])) / 4) if len(starts) > 1 else 0
    for number, start in enumerate(starts):
        if start > 0:
            assert not table[start : start + margin, number].any()
        if start + window < length:
            assert not table[start + window - margin : start + window, number].any()


def local(images_B3HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two convolutions with zero padding, at stride 4: a logit sees 5 pixels to each side."""
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(8, 3, 3, 3, generator=generator), torch.randn(5, 8, 3, 3, generator=generator)
    x = F.conv2d(torch.from_numpy(np.ascontiguousarray(images_B3HW)), first, stride=4, padding=1).relu()
    return F.conv2d(x, second, padding=1).numpy()


def test_every_pixel_is_that_of_one_pass_where_the_receptive_field_fits_into_the_margin() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    plain = Preprocess(mean=(0, 0, 0), std=(255, 255, 255))
    pipeline = Pipeline(local, plain, ABCDE, protocol=WHOLE)
    (whole,) = pipeline.segment([image], [None], keep=PROBABILITIES)
    assert whole.probabilities is not None
    differs = {}
    for blend in ("mean", "linear"):
        protocol = Protocol("mine", window=96, stride=32, blend=blend)  # type: ignore[arg-type]  # a margin of 16
        (slid,) = replace(pipeline, protocol=protocol).segment([image], [None], keep=PROBABILITIES)
        assert slid.probabilities is not None
        differs[blend] = np.abs(slid.probabilities - whole.probabilities).max(axis=0)
    assert differs["linear"].max() < 1e-5
    assert differs["mean"].max() > 0.05  # next to the borders of windows
    assert differs["mean"][:20, :20].max() < 1e-5  # where the first window is alone


def test_no_seam_shows_at_the_borders_of_windows() -> None:
    """From one column to the next probabilities change no more at a window's border than elsewhere."""
    model = terrazzo.load("segformer_b0.camvid")
    path = example_image("segformer_b0.camvid")
    assert path is not None
    image = read_image(path)[:320]
    window, stride = 192, 144
    width = image.shape[1]
    borders = sorted({x for s in window_starts(width, window, stride) for x in (s, s + window) if 0 < x < width})
    jumps = {}
    for blend in ("mean", "linear"):
        protocol = Protocol("mine", window=window, stride=stride, blend=blend)  # type: ignore[arg-type]
        predictor = terrazzo.make_predictor(replace(model, preprocess=Preprocess()), "cpu", protocol, engine="torch")
        probabilities = terrazzo.predict(image, predictor, probabilities=True).probabilities
        assert probabilities is not None
        change = np.abs(np.diff(probabilities, axis=2)).sum(axis=0).mean(axis=0)
        at_borders = np.isin(np.arange(1, width), borders)
        jumps[blend] = change[at_borders].mean() / change[~at_borders].mean()
    assert jumps["linear"] < 1.5
    assert jumps["mean"] > 2.5  # so the measure sees seams


def test_slide_blends_and_the_papers_do_not() -> None:
    assert [name for name, protocol in PROTOCOLS.items() if protocol.blend == "linear"] == ["slide"]
