"""The learning-rate schedule and the parameter groups of the released SegFormer code."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from tiny_runs import TINY, tiny_recipe

from terrazzo.models import Segmenter
from terrazzo.training.optim import create_optimizer, learning_rate_factor, parameter_groups, set_learning_rate
from terrazzo.weights.create import create_model


def meta_model(name: str, num_classes: int = 150) -> Segmenter:
    with torch.device("meta"):
        return create_model(name, num_classes)


# Base rate 6e-5, 160000 steps, power 1, 1500 warm-up steps of ratio 1e-6: the published recipe.
@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 6.0e-11), (1, 4.005971e-8), (750, 2.985940e-5), (1500, 5.94375e-5), (80000, 3.0e-5), (159999, 3.75e-10)],
)
def test_schedule_of_the_recipe(step: int, rate: float) -> None:
    factor = learning_rate_factor(step, 160000, power=1.0, warmup_steps=1500, warmup_ratio=1e-6)
    assert 6e-5 * factor == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("power", [0.9, 1.0])
def test_schedule_is_never_negative_and_falls_after_warm_up(power: float) -> None:
    factors = [learning_rate_factor(t, 100, power=power, warmup_steps=10, warmup_ratio=0.1) for t in range(100)]
    assert all(0 < factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a > b for a, b in pairwise(factors[10:]))


def test_schedule_without_warm_up_begins_at_the_full_rate() -> None:
    factor = partial(learning_rate_factor, total_steps=10, power=0.9, warmup_steps=0, warmup_ratio=1e-6)
    assert factor(0) == 1
    assert factor(5) == pytest.approx(0.5**0.9)


# SETR's: (base - 1e-4)(1 - t / T) ** 0.9 + 1e-4, without warm-up; at half time the power is 0.53588673.
@pytest.mark.parametrize(
    ("step", "rates"),
    [(0, (0.01, 0.1)), (20000, (5.40527863e-3, 5.36350845e-2)), (40000, (1e-4, 1e-4))],
)
def test_schedule_of_setr(step: int, rates: tuple[float, float]) -> None:
    recipe = tiny_recipe(optimizer="sgd", lr=0.01, decoder_lr_factor=10.0, weight_decay=0.0)
    optimizer = create_optimizer(meta_model("segformer_b0"), recipe.optimizer)
    factor = learning_rate_factor(step, 40000, power=0.9, warmup_steps=0, warmup_ratio=1e-3)
    set_learning_rate(optimizer, factor, min_lr=1e-4)
    encoder, _, decoder = (group["lr"] for group in optimizer.param_groups)
    assert (encoder, decoder) == pytest.approx(rates, rel=1e-8)


def test_the_two_optimisers_take_the_recipes_values() -> None:
    model = create_model("segformer_b0", 2)
    sgd = create_optimizer(model, tiny_recipe(optimizer="sgd", momentum=0.8, weight_decay=0.02).optimizer)
    adamw = create_optimizer(model, tiny_recipe(optimizer="adamw", momentum=0.8, weight_decay=0.02).optimizer)
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adamw, torch.optim.AdamW)
    assert {(group["momentum"], group["nesterov"]) for group in sgd.param_groups} == {(0.8, False)}
    assert {group["betas"] for group in adamw.param_groups} == {(0.8, 0.999)}
    for optimizer in (sgd, adamw):
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0, 0.02]


def test_groups_of_b0() -> None:
    """The released counts; of the head's 15 tensors, two (150 x 128 + 150 values) are of a layer nobody uses."""
    rest, norms, head = parameter_groups(meta_model("segformer_b0"), 6e-5, 0.01, 10.0)
    sizes = [(len(group["params"]), sum(p.numel() for p in group["params"])) for group in (head, norms, rest)]
    assert sizes == [(15 - 2, 452_652 - (150 * 128 + 150)), (60, 7_168), (116, 3_312_224)]
    assert [group["lr"] for group in (head, norms, rest)] == pytest.approx([6e-4, 6e-5, 6e-5])
    assert [group["weight_decay"] for group in (head, norms, rest)] == [0.01, 0.0, 0.01]


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_b2"])
def test_every_parameter_is_in_one_group(name: str) -> None:
    model = meta_model(name, 2)
    grouped = [id(p) for group in parameter_groups(model, 1e-3, 0.05, 1.0) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_who_is_in_which_group() -> None:
    model = meta_model("segformer_b0")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rest, norms, head = ({names[id(p)] for p in group["params"]} for group in parameter_groups(model, 6e-5, 0.01, 10.0))
    assert {name.split(".")[-2].rstrip("12") for name in norms} == {"norm"}
    assert "encoder.stages.0.blocks.0.attn.sr.norm.bias" in norms
    assert not any("norm" in name for name in rest)
    # Biases decay, and so does the head's BatchNorm.
    assert "encoder.stages.0.blocks.0.attn.q.bias" in rest
    assert {"decoder.norm.weight", "decoder.norm.bias", "decoder.classifier.bias"} <= head
    assert all(name.startswith("decoder.") for name in head)


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_setrs_heads_have_the_decoders_rate_and_mlas_aggregation_has_not(decoder: str) -> None:
    with torch.device("meta"):
        model = create_model(TINY[f"setr_{decoder}_nano"], 5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.01, 0.0, 10.0)
    rest, norms, head = ({names[id(p)] for p in group["params"]} for group in groups)
    assert rest | norms | head == set(names.values()) and len(rest) + len(norms) + len(head) == len(names)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.01, 0.1])
    slow = {name for name in names.values() if name.startswith(("encoder.", "decoder.aggregation."))}
    assert rest | norms == slow
    assert {name for name in head if name.startswith("auxiliary.")}
    assert any(name.startswith("decoder.aggregation.") for name in slow) == (decoder == "mla")


def test_setting_the_rate_moves_every_group_between_its_base_and_the_least() -> None:
    model = create_model("segformer_b0", 2)
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 0.01, 10.0))
    set_learning_rate(optimizer, 0.5, min_lr=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-4, 5e-3])
    set_learning_rate(optimizer, 0.0, min_lr=1e-5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5] * 3)
    set_learning_rate(optimizer, 1.0, min_lr=1e-5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-3, 1e-2])
