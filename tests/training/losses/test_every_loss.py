"""Every row of `LOSSES` is its plain definition on fully upsampled logits, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from terrazzo.errors import ConfigError
from terrazzo.training.losses import LOSSES, CombinedLoss, Loss, lovasz, strips
from terrazzo.training.losses.boundary import Boundary, signed_distance
from terrazzo.training.losses.class_weights import class_weights_from_counts
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.losses.dice import Dice
from terrazzo.training.losses.focal import Focal
from terrazzo.training.losses.lovasz import LovaszSoftmax
from terrazzo.training.losses.ohem import OHEMCrossEntropy
from terrazzo.training.losses.tversky import Tversky

IGNORE = 255
Plain = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From probabilities (N, K), labels (N,) and weights (K,), of the labelled pixels alone."""


def plain_focal(p: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    right, w = p.gather(1, labels[:, None])[:, 0], weights[labels]
    return (w * (1 - right) ** 2 * -right.log()).sum() / w.sum()


def plain_ohem(p: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    right = p.gather(1, labels[:, None])[:, 0]
    number = max(math.ceil(0.3 * len(labels)), 1)
    kept = (right <= 0.4) | (right <= right.sort().values[number - 1])
    return (weights[labels] * -right.log())[kept].sum() / weights[labels][kept].sum()


def plain_tversky(alpha: float, beta: float, gamma: float, smooth: float) -> Plain:
    def loss(p: Tensor, labels: Tensor, _: Tensor) -> Tensor:
        terms = []
        for k in labels.unique().tolist():
            y = (labels == k).float()
            tp, fp, fn = (p[:, k] * y).sum(), (p[:, k] * (1 - y)).sum(), ((1 - p[:, k]) * y).sum()
            terms.append((1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** gamma)
        return torch.stack(terms).mean()

    return loss


def plain_dice(p: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    terms = []
    for k in labels.unique().tolist():
        y = (labels == k).float()
        terms.append(1 - (2 * (p[:, k] * y).sum() + 1) / (p[:, k].sum() + y.sum() + 1))
    return torch.stack(terms).mean()


def plain_lovasz(p: Tensor, labels: Tensor, _: Tensor) -> Tensor:
    """The Lovász extension as its definition has it: the Jaccard loss of every prefix of the sorted errors."""
    terms = []
    for k in labels.unique().tolist():
        truth = (labels == k).tolist()
        errors = torch.where(labels == k, 1 - p[:, k], p[:, k])
        order = errors.argsort(descending=True).tolist()
        term, before, lost, gained = errors.new_zeros(()), 0.0, 0, 0
        for place in order:
            lost, gained = lost + truth[place], gained + (not truth[place])
            jaccard = 1 - (sum(truth) - lost) / (sum(truth) + gained)
            term = term + errors[place] * (jaccard - before)
            before = jaccard
        terms.append(term)
    return torch.stack(terms).mean()


CASES: dict[str, tuple[Loss, Plain]] = {
    "focal": (Focal(), plain_focal),
    "ohem": (OHEMCrossEntropy(threshold=0.4, min_kept=0.3), plain_ohem),
    "dice": (Dice(), plain_dice),
    "tversky": (Tversky(), plain_tversky(0.3, 0.7, 1.0, 1.0)),
    "focal tversky": (Tversky(alpha=0.6, beta=0.4, gamma=0.75, smooth=0.1), plain_tversky(0.6, 0.4, 0.75, 0.1)),
    "lovasz": (LovaszSoftmax(), plain_lovasz),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(
    low=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    high=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    num_classes=st.integers(2, 5),
    ignored=st.sampled_from([0.0, 0.4]),
    ignore_index=st.sampled_from([IGNORE, 65535]),
    small=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_the_plain_definition(
    name: str,
    low: tuple[int, int],
    high: tuple[int, int],
    num_classes: int,
    ignored: float,
    ignore_index: int,
    small: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    row, plain = CASES[name]
    logits = torch.randn(2, num_classes, *low) * 2
    labels = torch.randint(0, num_classes, (2, *high))
    labels[torch.rand(labels.shape) < ignored] = ignore_index
    labels[0, 0, 0] = 1
    weights = torch.rand(num_classes) + 0.1
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(strips, "STRIP_ELEMENTS", 40)
            patch.setattr(lovasz, "GROUP_ELEMENTS", 1)
        loss = row(ours, labels, ignore_index, weights)
        (3 * loss).backward()
    upsampled = F.interpolate(theirs, high, mode="bilinear", align_corners=False).movedim(1, -1)
    labelled = labels != ignore_index
    expected = plain(upsampled[labelled].softmax(-1), labels[labelled], weights)
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=2e-6)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-4, atol=5e-6)


def test_focal_without_gamma_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 20, 24)), torch.rand(4)
    expected = CrossEntropy()(logits, labels, IGNORE, weights)
    torch.testing.assert_close(Focal(gamma=0.0)(logits, labels, IGNORE, weights), expected)


def test_ohem_that_keeps_all_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 20, 24))
    expected = CrossEntropy()(logits, labels, IGNORE, None)
    torch.testing.assert_close(OHEMCrossEntropy(min_kept=1.0)(logits, labels, IGNORE, None), expected)


def test_tversky_with_a_half_each_is_dice_with_half_the_smoothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 20, 24))
    expected = Dice(smooth=1.0)(logits, labels, IGNORE, None)
    torch.testing.assert_close(Tversky(alpha=0.5, beta=0.5, smooth=0.5)(logits, labels, IGNORE, None), expected)


def test_lovasz_of_a_hard_prediction_is_one_minus_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 1, 1]]])
    seen = torch.tensor([0, 1, 1, 1, 0, 0])
    logits = (F.one_hot(seen, 2).float() * 200 - 100).T.view(1, 2, 1, 6)
    iou = np.array([1 / 4, 2 / 5])
    assert LovaszSoftmax()(logits, labels, IGNORE, None).item() == pytest.approx((1 - iou).mean(), abs=1e-6)


def test_signed_distance_by_hand() -> None:
    inside = np.array([[0, 0, 1, 1, 1]], bool)
    assert signed_distance(inside).tolist() == [[2, 1, 0, -1, -2]]
    assert not signed_distance(np.ones((3, 4), bool)).any()
    assert not signed_distance(np.zeros((3, 4), bool)).any()


def test_boundary_loss_by_hand() -> None:
    """Two classes and an outline in the middle: 2 1 | 0 -1 of class 1, and 0 | 1 2 of class 0, by their p."""
    labels = torch.tensor([[[0, 0, 1, 1]]])
    p = torch.tensor([0.1, 0.2, 0.3, 0.9])
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 4)
    of_1 = (p * torch.tensor([2.0, 1.0, 0.0, -1.0])).sum()
    of_0 = ((1 - p) * torch.tensor([-1.0, 0.0, 1.0, 2.0])).sum()
    torch.testing.assert_close(Boundary()(logits, labels, IGNORE, None), (of_1 + of_0) / 8)
    labels[0, 0, 0] = IGNORE
    of_1, of_0 = of_1 - 2 * p[0], ((1 - p) * torch.tensor([0.0, 0.0, 1.0, 2.0])).sum()
    torch.testing.assert_close(Boundary()(logits, labels, IGNORE, None), (of_1 + of_0) / 6)


@pytest.mark.parametrize("name", LOSSES)
def test_of_every_row(name: str) -> None:
    """Nothing labelled costs nothing, bf16 logits get a bf16 gradient, and a step towards the gradient helps."""
    torch.manual_seed(0)
    loss = LOSSES[name]()
    nothing = torch.randn(2, 4, 3, 3, requires_grad=True)
    value = loss(nothing, torch.full((2, 9, 11), IGNORE), IGNORE, None)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0 and nothing.grad is not None and not nothing.grad.any()

    labels = torch.randint(0, 4, (2, 24, 28))
    half = torch.randn(2, 4, 6, 7).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, labels, IGNORE, None)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.dtype == torch.float32 and half.grad is not None and half.grad.dtype == torch.bfloat16
    better = (half.float() - 0.1 * half.grad.float() / half.grad.float().abs().max()).detach()
    assert loss(better, labels, IGNORE, None) < loss(half.detach().float(), labels, IGNORE, None)
    with torch.inference_mode():
        assert not loss(half.detach(), labels, IGNORE, None).requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_can_be_rehearsed_without_values(name: str) -> None:
    total = CombinedLoss([LOSSES[name]()], torch.ones(5), IGNORE, torch.device("cpu"))
    with FakeTensorMode():
        logits = torch.empty(2, 5, 16, 16, requires_grad=True)
        total.rehearse(logits, torch.empty(2, 64, 64, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None


def test_a_combination_is_the_weighted_sum_with_each_rows_own_class_weights() -> None:
    torch.manual_seed(0)
    logits, labels, pixels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 16, 16)), torch.tensor([900, 90, 10])
    rows = [CrossEntropy(weight=0.7, class_weight_power=0.5), Dice(weight=2.0)]
    weights = class_weights_from_counts(pixels, 0.5)
    expected = 0.7 * rows[0](logits, labels, IGNORE, weights) + 2.0 * rows[1](logits, labels, IGNORE, None)
    torch.testing.assert_close(CombinedLoss(rows, pixels, IGNORE, torch.device("cpu"))(logits, labels), expected)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("focal", {"gamma": -1.0}),
        ("ohem", {"min_kept": 0.0}),
        ("dice", {"smooth": 0.0}),
        ("tversky", {"gamma": 0.0}),
        ("cross_entropy", {"label_smoothing": 1.0}),
        ("lovasz", {"weight": math.nan}),
    ],
)
def test_values_out_of_range_are_refused(name: str, fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LOSSES[name](**fields)
