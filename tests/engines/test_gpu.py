"""What the GPU's engine decides: when half precision is trusted, and when a captured pass is. All on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from terrazzo.engines import gpu
from terrazzo.engines import torch as torch_engine
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.gpu import CAPTURED_SIZES, COMPARED_PASSES, GPUNetwork, Pass, same_classes
from terrazzo.engines.torch import TorchEngine
from terrazzo.weights.create import create_model


class Scaled(nn.Module):
    """Logits that are the images, scaled; the second class of three is a little above the first wherever that is 1."""

    def __init__(self, scale: float, lead: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 1.0 + lead, 0.0]).view(1, 3, 1, 1) * scale)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return images_B3HW * self.scale


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """In the place of CUDA graphs, passes that write to one place, as a graph does; the shapes that were captured."""
    shapes = []

    def capture(run: Pass, images: Tensor) -> Pass:
        shapes.append(images.shape)
        place = run(images).clone()

        def replay(images: Tensor) -> Tensor:
            return place.copy_(run(images))

        return replay

    monkeypatch.setattr(gpu, "capture", capture)
    return shapes


def ones(height: int = 4, width: int = 6) -> Tensor:
    return torch.ones(1, 3, height, width)


def test_devices_without_cuda_run_the_network_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "find_device", torch.device)  # which finds no accelerator here
    network = create_model("segformer_b0", 5)
    engine = TorchEngine(network, "meta", EngineOptions(precision="auto"))
    assert engine.forward == engine._as_it_is and engine.network is network


def test_half_precision_is_used_after_it_has_agreed(captures: list[torch.Size]) -> None:
    torch.manual_seed(0)
    network = create_model("segformer_b0", 5).eval()
    tried, images = GPUNetwork(network, "auto"), torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = network(images)
    for _ in range(COMPARED_PASSES):
        assert tried.is_exact
        assert torch.equal(tried(images), expected)
    assert not tried.is_exact
    halved = tried(images)
    assert halved.dtype == torch.float32
    assert 0 < (halved - expected).abs().max() < 0.01
    assert same_classes(halved, expected) >= gpu.LEAST_SAME


def test_half_precision_is_dropped_where_it_finds_other_classes(captures: list[torch.Size]) -> None:
    """float16 cannot tell 1 from 1.0001."""
    tried = GPUNetwork(Scaled(1.0, lead=1e-4), "auto")
    results = [tried(ones()) for _ in range(COMPARED_PASSES + 2)]
    assert tried.is_exact
    assert all(bool((logits.argmax(1) == 1).all()) for logits in results)


def test_logits_that_overflow_are_computed_again_in_float32(captures: list[torch.Size]) -> None:
    tried = GPUNetwork(Scaled(1000.0), "auto")
    for _ in range(COMPARED_PASSES):
        tried(ones())
    assert not tried.is_exact
    large = tried(100 * ones())
    assert torch.equal(large[0, :, 0, 0], torch.tensor([1e5, 2e5, 0.0]))
    assert torch.equal(tried(ones())[0, :, 0, 0], torch.tensor([1e3, 2e3, 0.0]))


@pytest.mark.parametrize(("precision", "exact"), [("fp32", True), ("bf16", False)])
def test_a_precision_that_is_asked_for_is_not_compared(captures, precision: gpu.Precision, exact: bool) -> None:
    tried = GPUNetwork(Scaled(1.001), precision)
    assert tried.is_exact is exact
    assert (tried(ones())[0, 0, 0, 0].item() == pytest.approx(1.001, abs=1e-6)) is exact


def test_float32_is_not_rounded_to_tensorfloat32(captures: list[torch.Size]) -> None:
    class Asking(Scaled):
        def forward(self, images_B3HW: Tensor) -> Tensor:
            allowed.append(torch.backends.cudnn.allow_tf32)
            return super().forward(images_B3HW)

    allowed: list[bool] = []
    before = torch.backends.cudnn.allow_tf32
    GPUNetwork(Asking(1.0), "fp32")(ones())
    assert allowed == [False] and torch.backends.cudnn.allow_tf32 is before


def test_a_size_is_captured_when_it_comes_again(captures: list[torch.Size]) -> None:
    tried = GPUNetwork(Scaled(1.0), "fp32")
    for value in (1.0, 2.0, 3.0, 4.0):
        assert tried(value * ones())[0, 0, 0, 0] == value
    tried(ones(8, 8))
    assert captures == [torch.Size((1, 3, 4, 6))]
    tried(ones(8, 8))
    assert captures[1:] == [torch.Size((1, 3, 8, 8))]


def test_results_are_not_written_over_by_later_ones(captures: list[torch.Size]) -> None:
    tried = GPUNetwork(Scaled(1.0), "fp32")
    results = [tried(value * ones()) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [logits[0, 0, 0, 0].item() for logits in results] == [1.0, 2.0, 3.0, 4.0]


def test_only_the_latest_sizes_keep_their_memory(captures: list[torch.Size]) -> None:
    tried = GPUNetwork(Scaled(1.0), "fp32")
    sizes = [ones(4, width) for width in range(1, CAPTURED_SIZES + 2)]
    for images in sizes:
        tried(images), tried(images)
    assert len(captures) == len(sizes)
    tried(sizes[-1]), tried(sizes[1])
    assert len(captures) == len(sizes)
    tried(sizes[0]), tried(sizes[0])  # the first one had gone
    assert len(captures) == len(sizes) + 1


def fails(run: Pass, images: Tensor) -> Pass:
    raise RuntimeError("operation not permitted when stream is capturing")


def gives_other_classes(run: Pass, images: Tensor) -> Pass:
    return lambda images: run(images).flip(1)


def reads_no_images(run: Pass, images: Tensor) -> Pass:
    logits = run(images)
    return lambda images: logits


def overflows(run: Pass, images: Tensor) -> Pass:
    return lambda images: torch.full_like(images, torch.inf)


@pytest.mark.parametrize("broken", [fails, gives_other_classes, reads_no_images, overflows])
def test_a_capture_that_is_wrong_is_not_used(monkeypatch, broken: Callable[[Pass, Tensor], Pass]) -> None:
    calls = []

    def capture(run: Pass, images: Tensor) -> Pass:
        calls.append(images.shape)
        return broken(run, images)

    monkeypatch.setattr(gpu, "capture", capture)
    images = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    images[:, 0, :, :3] = 9.0  # its classes are others when it is mirrored
    network = Scaled(1.0)
    tried = GPUNetwork(network, "fp32")
    for _ in range(4):
        assert torch.equal(tried(images), network(images))
    tried(ones(8, 8)), tried(ones(8, 8))
    assert len(calls) == 1


def test_threads_take_turns(captures: list[torch.Size]) -> None:
    tried = GPUNetwork(Scaled(1.0), "fp32")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda value: tried(value * ones(64, 64)), range(40)))
    assert [logits.unique().tolist()[1:2] for logits in results[1:]] == [[float(value)] for value in range(1, 40)]
