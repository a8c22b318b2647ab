"""The loss in strips is the plain loss, in value and in gradient; and the class weights."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from terrazzo.models.layers import interpolation_matrix
from terrazzo.training.losses import strips
from terrazzo.training.losses.class_weights import class_weights_from_counts
from terrazzo.training.losses.cross_entropy import CrossEntropy, upsampled_cross_entropy

IGNORE = 255


def plain_loss(
    logits: Tensor, labels: Tensor, ignore_index: int, class_weights: Tensor | None, normalize_by: str
) -> Tensor:
    """Upsample everything, then the cross-entropy of PyTorch."""
    upsampled = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    if normalize_by == "all":
        total = F.cross_entropy(upsampled, labels, class_weights, ignore_index=ignore_index, reduction="sum")
        return total / labels.numel()
    return F.cross_entropy(upsampled, labels, class_weights, ignore_index=ignore_index)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    num_classes=st.integers(2, 9),
    low=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    high=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    ignored=st.sampled_from([0.0, 0.3, 0.95]),
    ignore_index=st.sampled_from([IGNORE, 65535, 0]),
    weighted=st.booleans(),
    normalize_by=st.sampled_from(["valid", "all"]),
    strip=st.sampled_from([1, 60, 4_000_000]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_plain_loss(
    batch: int,
    num_classes: int,
    low: tuple[int, int],
    high: tuple[int, int],
    ignored: float,
    ignore_index: int,
    weighted: bool,
    normalize_by: Literal["valid", "all"],
    strip: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(batch, num_classes, *low) * 3
    labels = (
        torch.randint(1, num_classes, (batch, *high)) if ignore_index == 0 else random_labels(batch, num_classes, high)
    )
    labels[torch.rand(labels.shape) < ignored] = ignore_index
    labels[0, 0, 0] = 1
    class_weights = torch.rand(num_classes) + 0.1 if weighted else None

    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_ELEMENTS", strip)
        for loss_function in (upsampled_cross_entropy, plain_loss):
            leaf = logits.clone().requires_grad_()
            loss = loss_function(leaf, labels, ignore_index, class_weights, normalize_by)
            (3 * loss).backward()
            assert leaf.grad is not None
            results.append((loss.detach(), leaf.grad))
    (loss, gradient), (loss_, gradient_) = results
    torch.testing.assert_close(loss, loss_, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(gradient, gradient_, rtol=1e-4, atol=2e-6)


def random_labels(batch: int, num_classes: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, num_classes, (batch, *size))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize_by", ["valid", "all"])
def test_nothing_labelled_costs_nothing(weighted: bool, normalize_by: Literal["valid", "all"]) -> None:
    logits = torch.randn(2, 4, 3, 3, requires_grad=True)
    labels = torch.full((2, 9, 11), IGNORE)
    loss = upsampled_cross_entropy(logits, labels, IGNORE, torch.rand(4) if weighted else None, normalize_by)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_right_and_sure_prediction_costs_nothing_and_a_wrong_one_its_margin() -> None:
    logits = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1)
    assert upsampled_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), IGNORE).item() == 0
    assert upsampled_cross_entropy(logits, torch.ones(1, 4, 4, dtype=torch.long), IGNORE).item() == 100


def test_ignored_pixels_have_no_share_in_the_weighted_mean() -> None:
    """Not even where the ignored label is one of the classes' numbers."""
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 8, 8))
    weights = torch.tensor([5.0, 1.0, 2.0])
    for ignored in (0, IGNORE):
        labels[:, :4] = ignored
        torch.testing.assert_close(
            upsampled_cross_entropy(logits, labels, ignored, weights),
            plain_loss(logits, labels, ignored, weights, "valid"),
        )


def test_the_two_normalisations_differ_by_the_labelled_share() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 8, 8))
    labels[:, 2:] = IGNORE
    valid = upsampled_cross_entropy(logits, labels, IGNORE, normalize_by="valid")
    everything = upsampled_cross_entropy(logits, labels, IGNORE, normalize_by="all")
    torch.testing.assert_close(everything, valid * 0.25)


def test_no_strip_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that the strips are for: 2 x 5 x 24 x 28 upsampled logits, but never more than 600 at once."""
    sizes: list[int] = []

    def recording(strip: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(strip.numel())
        return plain(strip, *args, **kwargs)

    plain = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", recording)
    monkeypatch.setattr(strips, "STRIP_ELEMENTS", 600)
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    upsampled_cross_entropy(logits, random_labels(2, 5, (24, 28)), IGNORE)
    assert max(sizes) <= 600
    assert sum(sizes) == 2 * 5 * 24 * 28


def test_bf16_logits_are_computed_in_float32_and_get_a_bf16_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 6).bfloat16()
    labels = random_labels(2, 5, (24, 24))
    exact, rounded = logits.float().requires_grad_(), logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = upsampled_cross_entropy(rounded, labels, IGNORE)
    expected = upsampled_cross_entropy(exact, labels, IGNORE)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert rounded.grad is not None and rounded.grad.dtype == torch.bfloat16
    assert exact.grad is not None
    torch.testing.assert_close(rounded.grad, exact.grad.bfloat16())


def test_channels_last_logits() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7), random_labels(2, 5, (24, 28))
    expected = upsampled_cross_entropy(logits, labels, IGNORE)
    strided = logits.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(upsampled_cross_entropy(strided, labels, IGNORE), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_value_without_gradients(mode: type[torch.no_grad] | type[torch.inference_mode]) -> None:
    """As validation asks for it."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 6), random_labels(2, 5, (24, 24))
    with mode():
        loss = upsampled_cross_entropy(logits.clone(), labels, IGNORE)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain_loss(logits, labels, IGNORE, None, "valid"))


@pytest.mark.parametrize(("source", "target"), [(1, 5), (4, 16), (5, 7), (16, 16), (7, 3), (3, 1)])
def test_interpolation_matrix_resizes_one_axis(source: int, target: int) -> None:
    line = torch.randn(1, 1, source)
    matrix = interpolation_matrix(source, target, line)
    assert tuple(matrix.shape) == (target, source)
    torch.testing.assert_close(matrix.sum(1), torch.ones(target))
    torch.testing.assert_close(matrix @ line[0, 0], F.interpolate(line, target, mode="linear")[0, 0])


def test_class_weights_by_hand() -> None:
    counts = torch.tensor([64, 16, 4, 0])
    # Inverse square roots 1, 2, 4 relative to the most frequent class; mean over pixels (64 + 32 + 16) / 84.
    torch.testing.assert_close(
        class_weights_from_counts(counts, power=0.5), torch.tensor([1.0, 2.0, 4.0, 112 / 84]) / (112 / 84)
    )


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10**9), min_size=2, max_size=20).filter(any),
    power=st.floats(0, 1),
    largest=st.floats(1, 100),
)
def test_class_weights_average_to_one_and_favour_the_rare(counts: list[int], power: float, largest: float) -> None:
    pixels = torch.tensor(counts)
    weights = class_weights_from_counts(pixels, power, largest)
    assert weights.dtype == torch.float32
    assert (weights * pixels).sum().item() == pytest.approx(sum(counts), rel=1e-4)
    present = pixels > 0
    assert torch.equal(weights[~present], torch.ones(int((~present).sum())))
    assert weights[present].max() <= weights[present].min() * largest * (1 + 1e-5)
    by_frequency = weights[present][pixels[present].argsort(descending=True)]
    assert (by_frequency.diff() >= 0).all()


def test_power_zero_weighs_all_pixels_alike() -> None:
    assert torch.equal(class_weights_from_counts(torch.tensor([5, 0, 1000]), power=0), torch.ones(3))


@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_is_pytorchs(weighted: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7), random_labels(2, 5, (24, 28))
    labels[0, :9] = IGNORE
    weights = torch.rand(5) + 0.1 if weighted else None
    upsampled = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    expected = F.cross_entropy(upsampled, labels, weights, ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(label_smoothing=0.1)(logits, labels, IGNORE, weights), expected)
