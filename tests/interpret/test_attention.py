"""Attention rows: those of a hand-computed softmax, those that SDPA used, no more of them than were asked for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_networks import (
    ConvEncoder,
    conv_network,
    convolutions_under_attention,
    tiny_pvt_under_attention,
    tiny_segformer,
    tiny_setr,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from terrazzo.errors import ConfigError
from terrazzo.interpret.attention import AttentionMaps, attention_layers, attention_maps, attention_rows
from terrazzo.interpret.figures import attention_png, heads_png
from terrazzo.models.decoders.attention import PositionAttention
from terrazzo.models.encoders.mit import EfficientSelfAttention, MixTransformer
from terrazzo.models.encoders.pvt import PyramidVisionTransformer
from terrazzo.models.encoders.vit import SelfAttention, VisionTransformer
from terrazzo.weights.files import TrainedModel

MODELS = {
    "segformer": tiny_segformer,
    "setr with the class token": lambda: tiny_setr(True),
    "setr without": lambda: tiny_setr(False),
    "PVT under attention": tiny_pvt_under_attention,
    "attention alone": convolutions_under_attention,
}


def seen(maps: AttentionMaps) -> tuple[Any, ...]:
    """What both pictures are given before the layers."""
    return maps.image_HW3, maps.points, maps.classes, maps.model


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> TrainedModel:
    return MODELS[str(request.param)]()


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (97, 130, 3), dtype=np.uint8)


def random_module(module: torch.nn.Module) -> Any:
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


# -- rows of one module -----------------------------------------------------------------------------------------------


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


@torch.no_grad()
def test_rows_equal_a_softmax_computed_by_hand() -> None:
    module = random_module(EfficientSelfAttention(8, 2, 2))
    x = torch.randn(1, 5, 7, 8)
    tokens = torch.tensor([0, 9, 34])
    rows = attention_rows(module, x, tokens).double().numpy()
    # By hand: each 2 x 2 window, the fifth row and the seventh column left out, through the convolution and the norm.
    conv = {name: value.double().numpy() for name, value in module.named_parameters()}
    keys = []
    for top in (0, 2):
        for left in (0, 2, 4):
            window = x[0, top : top + 2, left : left + 2].double().numpy()
            reduced = np.einsum("ijc,kcij->k", window, conv["sr.conv.weight"]) + conv["sr.conv.bias"]
            normed = (reduced - reduced.mean()) / np.sqrt(reduced.var() + 1e-5)
            source = normed * conv["sr.norm.weight"] + conv["sr.norm.bias"]
            keys.append((conv["kv.weight"] @ source + conv["kv.bias"])[:8])
    for place, token in enumerate(tokens.tolist()):
        query = conv["q.weight"] @ x[0, token // 7, token % 7].double().numpy() + conv["q.bias"]
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            expected = softmax(np.array([query[part] @ key[part] for key in keys]) / 2)
            np.testing.assert_allclose(rows[place, head], expected, atol=1e-6)


@pytest.mark.parametrize("ratio", [1, 2, 8])
@torch.no_grad()
def test_rows_and_values_make_a_segformers_output(ratio: int) -> None:
    """Also where the map is smaller than one window of the reduction."""
    module = random_module(EfficientSelfAttention(12, 3, ratio))
    x = torch.randn(1, 5, 7, 12)
    rows = attention_rows(module, x, torch.arange(35))
    source = x.reshape(35, 12) if module.sr is None else module.sr(x)[0]
    values_NMc = module.kv(source)[:, 12:].unflatten(1, (3, 4)).transpose(0, 1)
    mixed = (rows.transpose(0, 1) @ values_NMc).transpose(0, 1).flatten(1)
    torch.testing.assert_close(module.proj(mixed).view(1, 5, 7, 12), module(x))


@torch.no_grad()
def test_rows_and_values_make_a_setrs_output() -> None:
    module = random_module(SelfAttention(12, 3))
    x = torch.randn(1, 11, 12)
    rows = attention_rows(module, x, torch.arange(11))
    values_NTc = module.qkv(x)[0, :, 24:].unflatten(1, (3, 4)).transpose(0, 1)
    mixed = (rows.transpose(0, 1) @ values_NTc).transpose(0, 1).flatten(1)
    torch.testing.assert_close(module.proj(mixed)[None], module(x))


@torch.no_grad()
def test_rows_and_values_make_a_decoders_output() -> None:
    module = random_module(PositionAttention(12, 3))
    x = torch.randn(1, 12, 5, 7)
    rows = attention_rows(module, x, torch.arange(35))
    assert rows.shape == (35, 1, 35)
    mixed_TC = rows[:, 0] @ module.v(x[0].flatten(1).T)
    torch.testing.assert_close(x + module.gain * mixed_TC.T.view_as(x), module(x))


@given(side=st.tuples(st.integers(1, 9), st.integers(1, 9)), ratio=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_rows_sum_to_one(side: tuple[int, int], ratio: int, seed: int) -> None:
    module = random_module(EfficientSelfAttention(4, 2, ratio))
    x = torch.randn(1, *side, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rows = attention_rows(module, x, torch.arange(side[0] * side[1]))
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize("kind", [EfficientSelfAttention, SelfAttention, PositionAttention])
def test_never_makes_the_whole_matrix(kind: type) -> None:
    """On the meta device: 16,384 tokens, whose matrix would have 268 million weights a head."""
    with torch.device("meta"), torch.no_grad():
        module: SelfAttention | EfficientSelfAttention | PositionAttention
        if kind is SelfAttention:
            module, x = SelfAttention(16, 2), torch.empty(1, 128 * 128, 16)
        elif kind is PositionAttention:
            module, x = PositionAttention(16, 16), torch.empty(1, 16, 128, 128)
        else:
            module, x = EfficientSelfAttention(16, 2, 1), torch.empty(1, 128, 128, 16)
        with Largest() as largest:
            rows = attention_rows(module, x, torch.empty(5, dtype=torch.long))
    assert rows.shape == (5, 1 if kind is PositionAttention else 2, 128 * 128)
    assert largest.elements <= max(x.numel(), rows.numel())


# -- maps of a photo --------------------------------------------------------------------------------------------------


def test_maps_are_the_weights_that_the_network_used(
    model: TrainedModel, image: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [(0, 0), (65, 48), (129, 96), (3, 90)]
    names = list(attention_layers(model.network))
    used: list[Tensor] = []

    def literal(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        weights = (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
        # The decoder's one head comes as several with the same weights.
        assert scale is None or torch.equal(weights[0], weights[0, :1].expand_as(weights[0]))
        used.append(weights[0] if scale is None else weights[0, :1])
        return weights @ v

    monkeypatch.setattr(F, "scaled_dot_product_attention", literal)
    maps = attention_maps(image, model, points=points, layers=names, device="cpu")
    assert [layer.name for layer in maps.layers] == names and len(used) == len(names)
    for layer, weights_NTM in zip(maps.layers, used, strict=True):
        rows, columns = layer.query_grid
        prefix = int(layer.class_token_PN is not None)
        assert weights_NTM.shape[1] == rows * columns + prefix
        for place, (x, y) in enumerate(points):
            token = int((y + 0.5) / 97 * rows) * columns + int((x + 0.5) / 130 * columns) + prefix
            expected_NM = weights_NTM[:, token].numpy()
            found_NM = layer.weights_PNhw[place].reshape(len(expected_NM), -1)
            np.testing.assert_allclose(found_NM, expected_NM[:, prefix:], atol=5e-6)
            if layer.class_token_PN is not None:
                np.testing.assert_allclose(layer.class_token_PN[place], expected_NM[:, 0], atol=1e-6)


def test_keys_lie_where_they_were_made_from(image: np.ndarray[Any, Any]) -> None:
    """97 x 130 pixels are 25 x 33 tokens, 24 x 32 of which fill windows of 8 x 8."""
    first, *_, last = attention_maps(image, tiny_segformer(), device="cpu").layers
    assert first.query_grid == (25, 33) and first.weights_PNhw.shape[2:] == (3, 4)
    assert first.covered == (24 / 25, 32 / 33)
    assert last.query_grid == (4, 5) == last.weights_PNhw.shape[2:] and last.covered == (1, 1)
    naive = attention_maps(image, tiny_setr(True), device="cpu").layers[0]
    assert naive.query_grid == (13, 17) == naive.weights_PNhw.shape[2:] and naive.covered == (1, 1)


def test_by_default_the_last_blocks_and_points_on_the_image(model: TrainedModel, image: np.ndarray[Any, Any]) -> None:
    maps = attention_maps(image, model, device="cpu")
    expected = {
        MixTransformer: ["1.1", "2.2", "3.1", "4.1"],
        VisionTransformer: ["1", "3"],
        PyramidVisionTransformer: ["1.1", "2.2", "3.1", "4.1", "decoder"],
        ConvEncoder: ["decoder"],
    }[type(model.network.encoder)]
    assert [layer.name for layer in maps.layers] == expected
    assert maps.points[0] == (65, 48)
    assert all(0 <= x < 130 and 0 <= y < 97 for x, y in maps.points)
    assert len(maps.classes) == len(maps.points) and set(maps.classes) <= set(model.labels.names)


def test_no_hook_stays(model: TrainedModel, image: np.ndarray[Any, Any]) -> None:
    attention_maps(image, model, device="cpu")
    assert not any(module._forward_pre_hooks for module in model.network.modules())


def test_an_image_of_one_pixel(model: TrainedModel) -> None:
    maps = attention_maps(np.zeros((1, 1, 3), np.uint8), model, device="cpu")
    assert maps.points == ((0, 0),)
    assert attention_png(*seen(maps), maps.layers).startswith(b"\x89PNG")


def test_the_distance_of_attention_on_one_key_is_the_distance_to_it(image: np.ndarray[Any, Any]) -> None:
    (layer,) = attention_maps(image, tiny_setr(False), points=[(4, 4)], layers=["1"], device="cpu").layers
    layer.weights_PNhw[:] = 0
    layer.weights_PNhw[0, :, 0, 16] = 1
    assert layer.distances([(4, 4)], 97, 130)[0] == pytest.approx(np.hypot(97 / 26 - 4.5, 130 * 16.5 / 17 - 4.5))


# -- what can be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"points": [(130, 0)]}, "explain-point", "130,0 is not on the photo, which is 130 x 97"),
        ({"points": [(5, 5), (0, -1)]}, "explain-point", "0,-1"),
        ({"points": []}, "explain-points", "0 points"),
        ({"points": [(0, 0)] * 21}, "explain-points", "21 points"),
        ({"layers": ["1.1", "9.9"]}, "explain-layer", "no layer '9.9'"),
        ({"layers": []}, "explain-layer", "no layer is chosen"),
    ],
)
def test_refuses_what_is_not_there(options: dict[str, Any], code: str, words: str, image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        attention_maps(image, tiny_segformer(), device="cpu", **options)
    assert error.value.code == code and words in error.value.message and error.value.fix


def test_refuses_a_network_without_attention(image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="ConvEncoder has no attention") as error:
        attention_maps(image, conv_network([4], [2]), device="cpu")
    assert error.value.code == "explain-no-attention"


# -- what is written --------------------------------------------------------------------------------------------------


def test_saves_pictures_and_the_weights(model: TrainedModel, image: np.ndarray[Any, Any], tmp_path: Path) -> None:
    maps = attention_maps(image, model, points=[(9, 9), (100, 20)], device="cpu")
    paths = maps.save(tmp_path / "new", "street", heads=True)
    names = [layer.name for layer in maps.layers]
    expected = ["street_attention.png", "street_attention.npz", *(f"street_attention_heads_{n}.png" for n in names)]
    assert [path.name for path in paths] == expected
    with np.load(paths[1]) as archive:
        assert archive["points"].tolist() == [[9, 9], [100, 20]]
        assert archive["classes"].tolist() == list(maps.classes)
        for name in names:
            sums = archive[f"weights_{name}"].sum((2, 3)) + archive.get(f"class_token_{name}", 0)
            np.testing.assert_allclose(sums, 1, atol=1e-5)
    table = maps.table().splitlines()
    assert len(table) == 1 + len(names) and "px" in table[1] and "%" in table[1]


def test_pictures_have_a_image_for_each_point_and_rows_of_four_panels(image: np.ndarray[Any, Any]) -> None:
    def size(png: bytes) -> tuple[int, int]:
        with Image.open(io.BytesIO(png)) as picture:
            return picture.size

    model = tiny_segformer()
    blocks = ["1.1", "2.1", "2.2", "3.1", "4.1"]
    five = attention_maps(image, model, points=[(9, 9)], layers=blocks, device="cpu")
    two = attention_maps(image, model, points=[(9, 9), (50, 60)], layers=["1.1", "4.1"], device="cpu")
    four_heads = heads_png(*seen(two), two.layers[1])
    assert two.layers[1].weights_PNhw.shape[1] == 4
    of_two, of_five = (attention_png(*seen(maps), maps.layers) for maps in (two, five))
    assert size(of_two)[0] < size(of_five)[0] == size(four_heads)[0]
    assert size(four_heads)[0] > 5 * 350  # the photo and four panels, each of them large enough to be read
    # Five maps take two rows, as two points do; what is written above may take a line more.
    assert abs(size(of_five)[1] - size(four_heads)[1]) < 30
