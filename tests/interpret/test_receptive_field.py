"""Receptive fields: those of convolutions, known by heart, and those of the papers' encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_networks import conv_network, tiny_segformer, tiny_setr
from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.interpret.receptive_field import contributions, receptive_fields
from terrazzo.models.encoders.mit import EfficientSelfAttention
from terrazzo.weights.files import TrainedModel

Image = np.ndarray[Any, np.dtype[np.uint8]]


def photo(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def support(share_HW: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """First and last row, first and last column of what is not zero; and between them all is."""
    rows, columns = np.flatnonzero(share_HW.any(1)), np.flatnonzero(share_HW.any(0))
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert (share_HW[box[0] : box[1], box[2] : box[3]] > 0).all()
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def test_a_stack_of_convolutions_has_the_field_that_is_known() -> None:
    """3 x 3 with stride 2, then 3 x 3: of 32 x 32 pixels, unit 8 sees 15 to 17, and through units 7 to 9 13 to 19."""
    model = conv_network([1, 1], [2, 1])
    for conv in model.network.encoder.convs:  # type: ignore[union-attr]
        nn.init.ones_(conv.weight)
    first, second, decoder = receptive_fields(photo(32, 32), model, device="cpu").fields
    assert [field.name for field in (first, second, decoder)] == ["map 1 (1/2)", "map 2 (1/2)", "decoder"]
    assert first.grid == (16, 16) and first.unit == (8, 8) and first.cell == (16, 16, 2, 2)
    expected = np.zeros((32, 32))
    expected[15:18, 15:18] = 1 / 9
    np.testing.assert_allclose(first.share_HW, expected, atol=1e-7)
    overlaps = np.zeros(32)
    overlaps[13:20] = [1, 1, 2, 1, 2, 1, 1]
    expected = np.outer(overlaps, overlaps) / 81
    np.testing.assert_allclose(second.share_HW, expected, atol=1e-7)
    np.testing.assert_allclose(decoder.share_HW, expected, atol=1e-7)


def test_random_signs_estimate_the_length_of_the_jacobian() -> None:
    network = conv_network([64], [1]).network
    image = torch.randn(1, 3, 9, 9)
    exact, _, unit = contributions(network, image, 64, torch.Generator())[0]
    weights = network.encoder.convs[0].weight  # type: ignore[union-attr,index]
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = weights.detach().square().sum((0, 1)).div(64).sqrt().numpy()
    np.testing.assert_allclose(exact, expected, atol=1e-6)
    assert unit == (4, 4)
    estimate = contributions(network, image, 63, torch.Generator().manual_seed(0))[0][0]
    # 63 x 3 squares of about normal numbers: the root of their mean is off by 5%, four times which is allowed.
    np.testing.assert_allclose(estimate * (1 / 8), expected, rtol=0.2, atol=1e-9)


def test_images_count_alike() -> None:
    model = conv_network([3, 4], [2, 2], relu=True)
    images = [photo(24, 24, seed) // (1, 9)[seed] for seed in (0, 1)]
    both = receptive_fields(images, model, device="cpu")
    single = [receptive_fields(one, model, device="cpu") for one in images]
    assert both.images == 2
    for field, first, second in zip(both.fields, single[0].fields, single[1].fields, strict=True):
        np.testing.assert_allclose(field.share_HW, (first.share_HW + second.share_HW) / 2, atol=1e-7)
        assert field.share_HW.sum() == pytest.approx(1)


def silenced(model: TrainedModel) -> TrainedModel:
    for module in model.network.modules():
        if isinstance(module, EfficientSelfAttention):
            nn.init.zeros_(module.proj.weight)
    return model


def test_a_first_stage_of_segformer_without_attention_is_local() -> None:
    """Patches of 7 x 7 every 4 pixels, and Mix-FFN's 3 x 3 of them: 15 x 15 around the unit's pixel (48, 64)."""
    fields = receptive_fields(photo(97, 130), silenced(tiny_segformer((1, 1, 1, 1))), device="cpu").fields
    assert [field.name for field in fields] == ["stage 1", "stage 2", "stage 3", "stage 4", "decoder"]
    assert fields[0].grid == (25, 33) and fields[0].unit == (12, 16)
    assert support(fields[0].share_HW) == (41, 55, 57, 71)


def test_a_first_stage_of_segformer_sees_all_that_the_keys_are_made_of() -> None:
    """Of 25 x 33 tokens 24 x 32 fill windows of keys; their patches end with row 95 and column 127."""
    fields = receptive_fields(photo(97, 130), tiny_segformer((1, 1, 1, 1)), device="cpu").fields
    assert support(fields[0].share_HW) == (0, 95, 0, 127)
    assert support(fields[3].share_HW) == (0, 96, 0, 129)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_first_block_of_a_setr_sees_everything(class_token: bool) -> None:
    fields = receptive_fields(photo(40, 61), tiny_setr(class_token), device="cpu").fields
    assert [field.name for field in fields] == ["block 1", "block 3", "decoder"]
    assert all(support(field.share_HW) == (0, 39, 0, 60) for field in fields)


def test_the_window_is_the_smallest_images_and_bounded() -> None:
    model = conv_network([2], [2])
    images = [photo(40, 60), photo(64, 48)]
    assert receptive_fields(images, model, device="cpu").fields[0].share_HW.shape == (40, 48)
    assert receptive_fields(images, model, window=44, device="cpu").fields[0].share_HW.shape == (40, 44)
    assert receptive_fields(photo(1, 1), model, device="cpu").fields[0].share_HW.shape == (1, 1)


def test_the_same_every_time_and_the_network_as_it_was() -> None:
    model = tiny_setr(False)
    before = [parameter.requires_grad for parameter in model.network.parameters()]
    told: list[tuple[int, int]] = []
    images = [photo(16, 16), photo(16, 16, 1)]
    first, second = (
        receptive_fields(images, model, device="cpu", progress=lambda done, total: told.append((done, total)))
        for _ in range(2)
    )
    for one, other in zip(first.fields, second.fields, strict=True):
        np.testing.assert_array_equal(one.share_HW, other.share_HW)
    assert [parameter.requires_grad for parameter in model.network.parameters()] == before and not all(before)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert torch.is_grad_enabled() and told == [(1, 2), (2, 2)] * 2


@pytest.mark.parametrize(
    ("images", "window", "words"), [([], 512, "no photo"), (photo(8, 8), 0, "the window is 0 pixels")]
)
def test_refuses_what_cannot_be_measured(images: Any, window: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        receptive_fields(images, conv_network([2], [2]), window=window, device="cpu")


def test_saves_picture_and_shares(tmp_path: Path) -> None:
    fields = receptive_fields([photo(40, 61), photo(48, 64)], tiny_segformer(), device="cpu")
    picture, numbers = fields.save(tmp_path / "new")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with np.load(numbers) as archive:
        assert archive["names"].tolist() == ["stage 1", "stage 2", "stage 3", "stage 4", "decoder"]
        assert archive["shares"].shape == (5, 40, 61) and archive["photos"] == 2
        np.testing.assert_allclose(archive["shares"].sum((1, 2)), 1, atol=1e-4)
        assert archive["grids"][0].tolist() == [10, 16] and archive["units"][0].tolist() == [5, 8]
    table = fields.table().splitlines()
    assert len(table) == 6 and "px a side" in table[1]


def test_a_network_that_looks_at_nothing_is_told_as_that(tmp_path: Path) -> None:
    model = conv_network([2], [2])
    nn.init.zeros_(model.network.encoder.convs[0].weight)  # type: ignore[union-attr,index]
    fields = receptive_fields(photo(20, 20), model, device="cpu")
    assert not any(field.share_HW.any() for field in fields.fields)
    assert "0.000%" in fields.table()
    assert fields.save(tmp_path)[0].stat().st_size > 0
