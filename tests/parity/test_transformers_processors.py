"""The network's input is the one that transformers' Pillow image processors make, within one grey level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.convert import convert
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load
from terrazzo.weights.processor import preprocess_from_processor

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[dev]'")

from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil  # noqa: E402
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil  # noqa: E402
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # noqa: E402

PROCESSORS = (SegformerImageProcessorPil, ViTImageProcessorPil, BeitImageProcessorPil)
SIZES = [(60, 90), (131, 97), (48, 300), (301, 47), (224, 224), (333, 500), (411, 260)]
RULES: dict[str, Any] = {
    "as it comes": {},
    "int": {"size": 128},
    "a box": {"size": {"height": 160, "width": 96}},
    "short side": {"size": {"shortest_edge": 120}},
    "short and long side": {"size": {"shortest_edge": 120, "longest_edge": 170}},
    "as it is": {"do_resize": False},
    "0 to 1": {"size": 100, "do_normalize": False},
    "0 to 255": {"size": 100, "do_rescale": False, "image_mean": [1.0, 2.0, 3.0], "image_std": [9.0, 8.0, 7.0]},
    "-1 to 1": {"size": 100, "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
}


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Noise over a coarse pattern: the hardest case for a filter, and a plain one."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = coarse.repeat(16, 0).repeat(16, 1)[:height, :width].copy()
    image[:, width // 2 :] = rng.integers(0, 256, (height, width - width // 2, 3), dtype=np.uint8)
    return image


def assert_same_input(ours: Preprocess, theirs: Any, image: NDArray[np.uint8]) -> None:
    expected = np.asarray(theirs(image, return_tensors="np")["pixel_values"][0])
    x = ours(image)
    assert x.shape == expected.shape
    levels = np.abs(x - expected) * np.asarray(ours.std, np.float32)[:, None, None]
    assert levels.max() < 1.01


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", PROCESSORS, ids=lambda kind: kind.__name__)
def test_every_form_of_size_and_scale(kind: Any, rule: str) -> None:
    theirs = kind(**RULES[rule])
    # As written by transformers, and as given: what is missing there are the processor's own defaults.
    for values in (theirs.to_dict(), {"image_processor_type": kind.__name__, **RULES[rule]}):
        ours = preprocess_from_processor(values, "x")
        for size in SIZES:
            assert_same_input(ours, theirs, photo(*size))


@pytest.mark.parametrize("code", range(6))
def test_every_code_of_pillows_filters(code: int) -> None:
    theirs = ViTImageProcessorPil(resample=code, size={"height": 99, "width": 140})
    ours = preprocess_from_processor(theirs.to_dict(), "x")
    for size in SIZES:
        assert_same_input(ours, theirs, photo(*size))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 900),
    st.none() | st.integers(0, 2000),
)
def test_sides_are_rounded_as_theirs(height: int, width: int, short: int, more: int | None) -> None:
    from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio

    size = {"shortest_edge": short, **({} if more is None else {"longest_edge": short + more})}
    ours = preprocess_from_processor({"size": size}, "x")
    if more is None:
        theirs = get_resize_output_image_size(np.empty((1, height, width), np.uint8), short, default_to_square=False)
    else:
        theirs = get_size_with_aspect_ratio((height, width), short, short + more)
    if 0 not in theirs and theirs[0] * theirs[1] < 80_000_000:
        assert ours.target_size(height, width) == tuple(theirs)


@pytest.mark.filterwarnings("ignore::terrazzo.notes.TerrazzoWarning")
def test_of_a_centre_crop_the_centre_is_the_same() -> None:
    theirs = BeitImageProcessorPil(
        size={"shortest_edge": 128}, do_center_crop=True, crop_size={"height": 112, "width": 96}
    )
    ours = preprocess_from_processor(theirs.to_dict(), "x")
    for size in SIZES:
        image = photo(*size)
        expected, x = np.asarray(theirs(image, return_tensors="np")["pixel_values"][0]), ours(image)
        top, left = (x.shape[1] - 112) // 2, (x.shape[2] - 96) // 2
        assert np.abs(x[:, top : top + 112, left : left + 96] - expected).max() * 127.5 < 1.01


def test_convert_writes_a_processor_that_gives_the_same_pixels(tmp_path: Path) -> None:
    rule = Preprocess(60, 100, interpolation="bicubic", antialias=True, rounding="down")
    network, labels = create_model("segformer_b0", 3).eval(), LabelSpec.from_names(["a", "b", "c"])
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", network, labels, rule))
    convert(tmp_path / "ours", tmp_path / "hf", "hf")
    image = photo(135, 240)
    theirs = SegformerImageProcessorPil.from_pretrained(tmp_path / "hf")
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    assert expected.shape == (3, 56, 100)
    assert np.abs(rule(image) - expected).max() < 1e-4
    assert load(tmp_path / "hf").preprocess == rule


def test_torchs_antialiased_filter_agrees() -> None:
    """transformers' other processors use torchvision, which leaves the resizing to it."""
    rule = Preprocess(size=(99, 140), mean=(0, 0, 0), std=(1, 1, 1), antialias=True)
    for size in SIZES:
        planes = torch.from_numpy(photo(*size)).permute(2, 0, 1)[None]
        theirs = F.interpolate(planes, size=(99, 140), mode="bilinear", antialias=True)[0].numpy()
        assert np.abs(rule(photo(*size)) - theirs).max() <= 1
