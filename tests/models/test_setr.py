"""SETR's three decoders and their auxiliary heads against the released code's steps, and what its variants are."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from literal_setr import LiteralSETR, all_logits
from meta_models import meta_model
from torch import Tensor, nn

from terrazzo.models import Part, Segmenter, build, find_spec
from terrazzo.models.decoders.mla import MLADecoder
from terrazzo.models.decoders.naive import NaiveDecoder
from terrazzo.models.decoders.pup import PUPDecoder
from terrazzo.models.encoders.vit import VisionTransformer
from terrazzo.models.setr import VARIANTS, setr_spec
from terrazzo.weights.create import create_model

# name: (main path, with auxiliary heads), K = 19, position embeddings for 768 x 768
PARAMETERS = {
    "setr_naive_large": (305_728_019, 306_537_548),
    "setr_mla_large": (310_737_427, 310_756_883),
    "setr_pup_large": (309_596_947, 319_064_927),
    "setr_naive_base": (87_619_859, 88_231_244),
    "setr_mla_base": (92_431_123, 92_450_579),
    "setr_pup_base": (90_964_499, 98_071_135),
    "setr_naive_deit_base": (87_619_859, 88_231_244),
    "setr_mla_deit_base": (92_431_123, 92_450_579),
    "setr_pup_deit_base": (90_964_499, 98_071_135),
}

CODES = ["official", "mmseg"]
DECODERS = ["naive", "pup", "mla"]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    main, with_heads = PARAMETERS[name]
    model = meta_model(name, 19)
    assert count(model.encoder) == (305_458_176 if "large" in name else 87_416_064)
    assert count(model.encoder) + count(model.decoder) == main
    assert count(model) == with_heads


def test_dropping_the_auxiliary_heads_leaves_the_main_path() -> None:
    with torch.device("meta"):
        model = create_model("setr_pup_base", 19)
    keys = set(model.state_dict())
    model.drop_auxiliary()
    assert count(model) == PARAMETERS["setr_pup_base"][0]
    assert {key for key in keys if not key.startswith("auxiliary.")} == set(model.state_dict())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith("_mmseg")])
def test_mmseg_variants_differ_from_the_official_ones_where_stated(name: str) -> None:
    theirs, official = meta_model(name, 150), meta_model(name.removesuffix("_mmseg"), 150)
    assert count(theirs.encoder) == count(official.encoder)
    if "mla" in name:
        assert count(official.decoder) - count(theirs.decoder) == 8 * 512 * 150
        assert count(theirs.auxiliary) - count(official.auxiliary) == 4 * 150
    else:
        assert count(theirs.decoder) == count(official.decoder)
        assert len(theirs.auxiliary) == 3


def small_setr(decoder: str, code: str, num_classes: int = 3) -> Segmenter:
    """A float64 SETR of four narrow blocks, in which no norm, bias or running statistic is trivial."""
    torch.manual_seed(0)
    published = VARIANTS[f"setr_{decoder}_large" + ("_mmseg" if code == "mmseg" else "")]
    layers = (1, 2, 3, 4)
    auxiliary = layers[: len(published.auxiliary)]
    size = {"embed_dim": 16, "depth": 4, "num_heads": 2}
    spec = setr_spec("setr_nano", size, decoder, layers, auxiliary, code == "mmseg")  # type: ignore[arg-type]
    model = create_model(spec, num_classes, image_size=(48, 64)).double()
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def at_image_size(logits: list[Tensor], h: int, w: int) -> list[Tensor]:
    return [F.interpolate(x, (16 * h, 16 * w), mode="bilinear", align_corners=False) for x in logits]


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_equals_the_released_code(decoder: str, code: str, train: bool) -> None:
    """Main and auxiliary logits, the gradients of maps and parameters, and BatchNorm's statistics."""
    model = small_setr(decoder, code).train(train)
    h, w = 3, 5
    shape = (2, 16, h, w)
    results = []
    for literal in (False, True):
        segmenter = copy.deepcopy(model)
        torch.manual_seed(1)
        maps = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(4)]
        if literal:
            logits = all_logits(segmenter, maps, decoder, code)
        else:
            segmenter.encoder = Fixed(maps)
            images = torch.zeros(2, 3, 16 * h, 16 * w, dtype=torch.float64)
            logits = segmenter(images, auxiliary=True)
        logits = at_image_size(logits, h, w)
        weight = torch.linspace(-9e3, 9e3, logits[0].numel(), dtype=torch.float64).sin().view(logits[0].shape)
        sum((x * weight).sum() for x in logits).backward()
        parts = {"decoder": segmenter.decoder, "auxiliary": segmenter.auxiliary}
        gradients = {
            f"{part}.{path}": parameter.grad
            for part, module in parts.items()
            for path, parameter in module.named_parameters()
        }
        buffers = {path: buffer for path, buffer in segmenter.decoder.named_buffers()}
        results.append((logits, [x.grad for x in maps], gradients, buffers))
    assert len(results[0][0]) == 1 + len(model.auxiliary)
    assert all(gradient is not None for gradient in results[0][2].values())
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_a_whole_network_equals_the_paper_s_steps(decoder: str) -> None:
    model = small_setr(decoder, "official").eval()
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    literal = LiteralSETR(copy.deepcopy(model), decoder)
    torch.testing.assert_close(model(images), literal(images), rtol=1e-9, atol=1e-9)


class Fixed(nn.Module):
    """An encoder that gives the same maps whatever it sees."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps


@pytest.mark.parametrize("decoder", ["naive", "mla"])
def test_the_two_codes_do_not_agree(decoder: str) -> None:
    """Where mmsegmentation's variants exist, they are needed."""
    official, theirs = small_setr(decoder, "official").eval(), small_setr(decoder, "mmseg").eval()
    state = theirs.decoder.state_dict()
    shared = {k: v for k, v in official.decoder.state_dict().items() if v.shape == state[k].shape}
    assert len(state) - len(shared) == (0 if decoder == "naive" else 1)
    theirs.decoder.load_state_dict(shared, strict=False)
    if decoder == "mla":
        with torch.no_grad():
            official.decoder.classifier.weight.zero_()
            official.decoder.classifier.weight[:, :, 1:2, 1:2] = theirs.decoder.classifier.weight
            official.decoder.classifier.bias.copy_(theirs.decoder.classifier.bias)
    theirs.encoder = official.encoder
    images = torch.randn(1, 3, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        a, b = (at_image_size([model(images)], 3, 4)[0] for model in (official, theirs))
    assert (a - b).abs().max() > 0.01 * a.abs().max()


def test_logits_leave_each_decoder_at_its_own_size() -> None:
    images = torch.zeros(1, 3, 48, 80, dtype=torch.float64)
    sizes = {}
    for decoder in DECODERS:
        for code in CODES:
            main, *heads = small_setr(decoder, code).eval()(images, auxiliary=True)
            sizes[decoder, code] = main.shape[-1], {x.shape[-1] for x in heads}
    assert sizes == {
        ("naive", "official"): (5, {5}),
        ("naive", "mmseg"): (20, {20}),
        ("pup", "official"): (40, {20}),
        ("pup", "mmseg"): (40, {20}),
        ("mla", "official"): (20, {5}),
        ("mla", "mmseg"): (20, {5}),
    }


@torch.no_grad()
@pytest.mark.parametrize("decoder", DECODERS)
def test_auxiliary_heads_leave_the_main_logits_alone(decoder: str) -> None:
    model = small_setr(decoder, "official").eval()
    images = torch.randn(1, 3, 40, 50, dtype=torch.float64)
    assert torch.equal(model(images), model(images, auxiliary=True)[0])
    model.drop_auxiliary()
    assert len(model(images, auxiliary=True)) == 1


@pytest.mark.parametrize("size", [(480, 480), (512, 512), (768, 768), (97, 130), (1, 1)], ids=str)
@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_any_size_is_segmented(decoder: str, size: tuple[int, int]) -> None:
    """The decoders' own code with few channels: sizes far from the 64 x 64 that the positions are made for."""
    torch.manual_seed(0)
    encoder = VisionTransformer(8, 2, 2, 4, 16, (64, 64), (1, 2), decoder != "mla", 0.0)
    heads = {
        "naive": NaiveDecoder((8, 8), (16, 16), 3, embed_dim=6),
        "pup": PUPDecoder((8, 8), (16, 16), 3, embed_dim=6),
        "mla": MLADecoder((8, 8), (16, 16), 3, embed_dim=6, stream_dim=4),
    }
    model = Segmenter(encoder, heads[decoder]).eval()
    logits = model(torch.randn(1, 3, *size))
    factor = {"naive": 1, "pup": 8, "mla": 4}[decoder]
    assert logits.shape == (1, 3, *(factor * math.ceil(side / 16) for side in size))
    assert logits.isfinite().all()


def test_layers_of_the_published_variants() -> None:
    def layers(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        layers = VARIANTS[name].encoder.fields["layers"]
        return layers, tuple(layers[head.fields["level"]] for head in VARIANTS[name].auxiliary)

    assert layers("setr_naive_large") == ((10, 15, 20, 24), (10, 15, 20))
    assert layers("setr_pup_large") == ((10, 15, 20, 24), (10, 15, 20, 24))
    assert layers("setr_mla_large") == ((6, 12, 18, 24), (6, 12, 18, 24))
    assert layers("setr_naive_deit_base") == ((3, 6, 9, 12), (3, 6, 9))
    assert layers("setr_pup_deit_base") == ((5, 8, 10, 12), (5, 8, 10, 12))
    assert layers("setr_mla_base") == ((3, 6, 9, 12), (3, 6, 9, 12))
    for name, spec in VARIANTS.items():
        assert spec.name == name
        assert spec.encoder.fields["layers"][-1] == spec.encoder.fields["depth"]


def test_auxiliary_heads_read_their_layers() -> None:
    """Naive and PUP: a head's logits depend on the blocks up to its layer and on no later one."""
    for decoder in ("naive", "pup"):
        model = small_setr(decoder, "official").eval()
        images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            before = model(images, auxiliary=True)
            model.encoder.blocks[2].mlp.fc2.bias.add_(1.0)
            after = model(images, auxiliary=True)
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert changed == [True, False, False, True, True][: len(changed)]


def test_defaults_of_create_model() -> None:
    with torch.device("meta"):
        paper = create_model("setr_naive_tiny", 2)
        own = create_model("setr_naive_tiny", 2, drop_path_rate=0.2, image_size=(360, 480))
    assert paper.encoder.pos_embed.shape == (1, 48, 48, 192)
    assert own.encoder.pos_embed.shape == (1, 23, 30, 192)
    assert [block.drop_path.drop_prob for block in paper.encoder.blocks] == [0.0] * 12
    assert own.encoder.blocks[-1].drop_path.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("setr_naive_large", 305.67),
        ("setr_mla_large", 310.57),
        ("setr_pup_large", 318.31),
        ("setr_naive_base", 87.69),
        ("setr_mla_base", 92.59),
        ("setr_pup_base", 97.64),
        ("hybrid_base+setr_naive", 112.18),  # the paper has 112.59; see encoders/hybrid.py
    ],
)
def test_the_papers_sizes_are_those_of_its_ade20k_networks_with_what_nobody_uses(name: str, published: float) -> None:
    """512 x 512, 150 classes, auxiliary heads, and in every head a classifier of 512 channels that is not used."""
    spec = find_spec(name)
    if name.startswith("hybrid"):
        pytest.importorskip("transformers")
        heads = tuple(Part("setr_naive", {"level": level}) for level in range(3))
        spec = replace(spec, auxiliary=heads)
    with torch.device("meta"):
        model = build(spec.adapted(150, image_size=(512, 512)))
    unused = (1 + len(model.auxiliary)) * (512 * 150 + 150)
    assert round((count(model) + unused) / 1e6, 2) == published
