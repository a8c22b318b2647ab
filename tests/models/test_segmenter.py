"""What `model(images)` accepts, refuses and returns."""

from __future__ import annotations

import pytest
import torch

from terrazzo.models import Segmenter
from terrazzo.weights.create import create_model


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(0)
    return create_model("segformer_b0", 5).eval()


@pytest.mark.parametrize(
    "shape",
    [(3, 32, 32), (1, 1, 32, 32), (1, 4, 32, 32), (1, 32, 32, 3), (0, 3, 32, 32), (1, 3, 0, 32), (1, 3, 32, 0), (32,)],
    ids=str,
)
def test_refuses_another_shape_and_names_it(model: Segmenter, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as error:
        model(torch.zeros(shape))
    assert "(B, 3, H, W)" in str(error.value)
    assert str(shape) in str(error.value)


def test_the_memory_layout_of_the_images_does_not_matter(model: Segmenter) -> None:
    images = torch.randn(2, 3, 40, 56)
    sliced = torch.randn(2, 6, 40, 112)[:, ::2, :, ::2].copy_(images)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), expected)
        torch.testing.assert_close(model(sliced), expected)


def test_does_not_write_into_the_images(model: Segmenter) -> None:
    images = torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    model(images)
    assert torch.equal(images, before)


def test_says_its_number_of_classes(model: Segmenter) -> None:
    assert model.num_classes == 5
