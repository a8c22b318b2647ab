"""What holds for every model that `list_models` names; a new one is tested by being listed."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terrazzo.models import Segmenter, list_models
from terrazzo.weights.create import create_model

QUICK = {"segformer_b0", "segformer_b1", "setr_naive_tiny", "setr_pup_tiny", "setr_mla_tiny"}
"""Small enough to compute with at every run; the larger ones share their code and are marked slow."""

NUM_CLASSES = 4


HELD = [name for name in list_models() if not name.startswith(("setr_naive_large", "setr_pup_large", "setr_mla_large"))]
"""All but those with 300 million parameters, of which only their construction is tried."""


@pytest.fixture(
    scope="module",
    params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HELD],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Segmenter:
    torch.manual_seed(0)
    return create_model(name, NUM_CLASSES, drop_path_rate=0.0)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 40, 52)


def logits_shape(name: str, model: Segmenter, batch: int, height: int, width: int) -> tuple[int, ...]:
    """What the decoder makes of the finest map's ceil(H / stride) x ceil(W / stride) places."""
    factors = {"setr_pup": 8, "setr_mla": 4}
    factor = next((factor for start, factor in factors.items() if name.startswith(start)), 1)
    stride = model.encoder.strides[0]
    return batch, NUM_CLASSES, factor * math.ceil(height / stride), factor * math.ceil(width / stride)


@pytest.mark.parametrize("any_name", list_models())
def test_builds_without_memory(any_name: str) -> None:
    """On the meta device, for counts and shapes of a model too large to hold."""
    with torch.device("meta"):
        model = create_model(any_name, NUM_CLASSES)
    assert all(parameter.is_meta for parameter in model.parameters())


@torch.no_grad()
def test_maps_and_logits_have_the_declared_sizes(name: str, model: Segmenter, images: Tensor) -> None:
    features = model.eval().encoder(images)
    for x_BCHW, channels, stride in zip(features, model.encoder.channels, model.encoder.strides, strict=True):
        assert tuple(x_BCHW.shape) == (2, channels, math.ceil(40 / stride), math.ceil(52 / stride))
    assert model.decoder.num_classes == model.num_classes == NUM_CLASSES
    logits = model(images)
    assert tuple(logits.shape) == logits_shape(name, model, 2, 40, 52)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    torch.testing.assert_close(model.decoder(features), logits)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_every_parameter_learns(model: Segmenter, images: Tensor, train: bool) -> None:
    model.train(train).zero_grad()
    losses = []
    for logits in model(images, auxiliary=True):
        labels = torch.arange(logits[:, 0].numel()).view(logits[:, 0].shape) % NUM_CLASSES
        losses.append(F.cross_entropy(logits, labels))
    torch.stack(losses).sum().backward()
    for path, parameter in trained_parameters(model):
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        # In training, BatchNorm takes the mean out and with it the gradient of every bias before it.
        assert train or parameter.grad.any(), path
    model.zero_grad()


def trained_parameters(model: Segmenter) -> list[tuple[str, nn.Parameter]]:
    return [(path, parameter) for path, parameter in model.named_parameters() if parameter.requires_grad]


@torch.no_grad()
def test_auxiliary_logits_follow_the_main_ones(model: Segmenter, images: Tensor) -> None:
    main, *others = model.eval()(images, auxiliary=True)
    assert torch.equal(main, model(images))
    assert len(others) == len(model.auxiliary)
    for logits in others:
        assert logits.shape[:2] == (2, NUM_CLASSES) and logits.isfinite().all()


@torch.no_grad()
def test_saved_weights_give_the_same_logits(name: str, model: Segmenter, images: Tensor) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = create_model(name, NUM_CLASSES)
    copy.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(copy.eval()(images), model.eval()(images))


@torch.no_grad()
def test_evaluation_is_deterministic(model: Segmenter, images: Tensor) -> None:
    model.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert torch.equal(model(images), model(images))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_memory_layout_does_not_matter(model: Segmenter, images: Tensor) -> None:
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.eval()(channels_last), model(images))


@torch.no_grad()
def test_other_sizes(name: str, model: Segmenter) -> None:
    model.eval()
    for height, width in [(1, 1), (29, 31), (33, 64), (97, 130)]:
        logits = model(torch.randn(1, 3, height, width))
        assert tuple(logits.shape) == logits_shape(name, model, 1, height, width)
        assert logits.isfinite().all()


def test_bf16_autocast_learns_and_stays_close(model: Segmenter, images: Tensor) -> None:
    model.eval().zero_grad()
    with torch.no_grad():
        expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        torch.stack([x.float().square().mean() for x in model(images, auxiliary=True)]).sum().backward()
    for path, parameter in trained_parameters(model):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), path
        assert parameter.grad.dtype == torch.float32
    model.zero_grad()


def test_moves_to_float64(model: Segmenter, images: Tensor) -> None:
    """No part of a model has a type of its own."""
    model.eval()
    with torch.no_grad():
        expected = model(images)
        logits = model.double()(images.double())
        model.float()
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), expected, rtol=1e-3, atol=1e-4)
