"""PVT: sizes, positions, and what it shares with MiT. Its values are held to transformers' in tests/parity."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from terrazzo.models.encoders import SIZES
from terrazzo.models.encoders.mit import EfficientSelfAttention
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.weights.create import create_model

TINY = {"embed_dims": (8, 8, 10, 16), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}


def tiny(**changes: object) -> PyramidVisionTransformer:
    torch.manual_seed(0)
    return PyramidVisionTransformer(**{**TINY, "image_size": (64, 96), **changes})  # type: ignore[arg-type]


# The paper's table 1, millions with the classifier of 1,000 classes, its norm and its class token.
@pytest.mark.parametrize(("name", "published"), [("tiny", 13.2), ("small", 24.5), ("medium", 44.2), ("large", 61.4)])
def test_number_of_parameters(name: str, published: float) -> None:
    _, fields = SIZES[f"pvt_{name}"]
    with torch.device("meta"):
        encoder = PyramidVisionTransformer(**fields)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    classifier = 2 * 512 + 2 * 512 + 512 * 1000 + 1000  # norm; class token and its position; classifier
    assert round((count + classifier) / 1e6, 1) == published


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 96), (97, 130)])
def test_maps_have_their_declared_sizes(size: tuple[int, int]) -> None:
    encoder = tiny().eval()
    assert (encoder.channels, encoder.strides) == ((8, 8, 10, 16), (4, 8, 16, 32))
    for x_BCHW, channels, stride in zip(
        encoder(torch.randn(1, 3, *size)), encoder.channels, encoder.strides, strict=True
    ):
        assert x_BCHW.shape[1:] == (channels, *(math.ceil(side / stride) for side in size))
        assert x_BCHW.isfinite().all()


@torch.no_grad()
def test_positions_are_resized_bilinearly() -> None:
    encoder = tiny().eval()
    other = tiny(image_size=(40, 72)).eval()
    state = encoder.state_dict()
    for i, stage in enumerate(other.stages):
        rows, columns = stage.pos_embed.shape[1:3]
        grid = state[f"stages.{i}.pos_embed"].permute(0, 3, 1, 2)
        state[f"stages.{i}.pos_embed"] = F.interpolate(grid, (rows, columns), mode="bilinear").permute(0, 2, 3, 1)
    other.load_state_dict(state)
    images = torch.randn(1, 3, 40, 72)
    for found, expected in zip(encoder(images), other(images), strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_unfilled_patches_are_filled_up_with_zeros() -> None:
    encoder = tiny(image_size=(29, 31), depths=(1,), embed_dims=(8,), num_heads=(1,), sr_ratios=(1,), mlp_ratios=(2,),
                   patch_strides=(4,)).eval()  # fmt: skip
    images = torch.randn(1, 3, 29, 31)
    torch.testing.assert_close(encoder(images), encoder(F.pad(images, (0, 1, 0, 3))))


def test_recomputed_steps_are_equal_and_keep_less() -> None:
    usual = tiny(drop_path_rate=0.5).train()
    again = copy.deepcopy(usual)
    again.recompute_blocks()
    images = torch.randn(2, 3, 64, 96)
    results = []
    for encoder in (usual, again):
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = sum(x.square().mean() for x in encoder(images))
        assert isinstance(total, torch.Tensor)
        total.backward()
        results.append((total, [parameter.grad for parameter in encoder.parameters()], sum(kept.values())))
    (total, gradients, bytes_kept), (again_total, again_gradients, again_kept) = results
    assert torch.equal(total, again_total)
    assert all(torch.equal(one, two) for one, two in zip(gradients, again_gradients, strict=True))  # type: ignore[arg-type]
    assert bytes_kept > 1.4 * again_kept


def test_drop_path_rises_to_its_rate() -> None:
    network = create_model("pvt_tiny+fpn", 2, drop_path_rate=0.7)
    rates = [block.drop_path.drop_prob for stage in network.encoder.stages for block in stage.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_fields_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="4 stages need as many"):
        tiny(sr_ratios=(1, 1))
    with pytest.raises(ValueError, match="8 channels cannot be shared"):
        tiny(num_heads=(3, 2, 2, 4))


def test_attention_is_segformers() -> None:
    kinds = [module for module in tiny().modules() if isinstance(module, EfficientSelfAttention)]
    assert [0 if module.sr is None else module.sr.ratio for module in kinds] == [8, 4, 2, 2, 0]
    assert {module.sr.norm.eps for module in kinds if module.sr is not None} == {1e-5}
