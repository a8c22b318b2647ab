"""The papers' protocols: what sizes and views they give, that nobody changes them, and names that do not exist."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from terrazzo.data.sources.array import ArraySource
from terrazzo.errors import ConfigError
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import PROTOCOLS, WHOLE, Protocol, find_protocol
from terrazzo.inference.tiling import window_starts
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

Size = tuple[int, int]

# (width, height) of each ratio's view of a photo of that size, as the official code gives them.
VIEWS: list[tuple[str, Size, list[Size]]] = [
    ("segformer-ade20k", (683, 512), [(704, 512)]),
    ("segformer-ade20k", (500, 333), [(800, 512)]),  # 769 x 512 on the way
    ("segformer-ade20k", (2600, 400), [(2048, 320)]),  # the long side binds: 2048 x 315
    ("segformer-ade20k-640", (683, 512), [(864, 640)]),  # 854 x 640
    ("segformer-ade20k-ms", (512, 512), [(384, 384), (448, 448), (512, 512), (576, 576), (640, 640)]),
    ("segformer-coco-stuff", (640, 480), [(704, 512)]),  # 683 x 512
    ("segformer-cityscapes", (2048, 1024), [(2048, 1024)]),
    (
        "segformer-cityscapes-ms",
        (2048, 1024),
        [(1024, 512), (1536, 768), (2048, 1024), (2560, 1280), (3072, 1536), (3584, 1792), (4096, 2048)],
    ),
    ("segformer-cityscapes-512", (2048, 1024), [(1024, 512)]),
    ("segformer-cityscapes-640", (2048, 1024), [(1280, 640)]),
    ("segformer-cityscapes-768", (2048, 1024), [(1536, 768)]),
    ("setr-cityscapes", (2048, 1024), [(2049, 1025)]),  # 1025 / 1024 is the larger factor, 2049 / 2048 the one taken
    (
        "setr-cityscapes-ms",  # short sides 512, 768, 1025, 1281, 1537, 1793: the first raised to the window
        (2048, 1024),
        [(1536, 768), (1536, 768), (2050, 1025), (2562, 1281), (3074, 1537), (3586, 1793)],
    ),
    ("setr-ade20k", (683, 512), [(683, 512)]),
    ("setr-ade20k", (2600, 400), [(2048, 315)]),
    (
        "setr-ade20k-ms",
        (600, 400),
        [(768, 512), (768, 512), (768, 512), (960, 640), (1152, 768), (1344, 896)],
    ),
    ("setr-ade20k-ms", (2600, 400), [(3328, 512)] * 3 + [(4160, 640), (4992, 768), (5824, 896)]),  # no long limit
    ("setr-ade20k-ms3", (600, 400), [(768, 512)] * 3),
    ("setr-pascal-context", (500, 375), [(693, 520)]),
    (
        "setr-pascal-context-ms",  # short sides 260, 390, 520, 650, 780, 910
        (480, 480),
        [(480, 480), (480, 480), (520, 520), (650, 650), (780, 780), (910, 910)],
    ),
    ("whole", (683, 512), [(683, 512)]),
    ("slide", (3000, 2000), [(3000, 2000)]),
    ("multi-scale", (50, 30), [(25, 15), (37, 22), (50, 30), (62, 37), (75, 45), (87, 52)]),
]

SIX = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SEVEN = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
FIVE = (0.75, 0.875, 1.0, 1.125, 1.25)
PLAIN = {
    "short_side": None, "long_side": None, "multiple_of": 1, "ratios": (1.0,), "at_least": 1, "flip": False,
    "window": None, "stride": None, "blend": "mean",
}  # fmt: skip
# Every setting, from the released configurations of both papers; what is not said is as in PLAIN. A hash alone tells
# that a number has changed, and not which number the paper has.
SETTINGS: dict[str, dict[str, object]] = {
    # Ours.
    "whole": {},
    "slide": {"window": 1024, "stride": 768, "blend": "linear"},
    "multi-scale": {"ratios": SIX, "flip": True},
    # SegFormer, ADE20K: the box (2048, 512), (2048, 640) for B5; then each side up to a multiple of 32.
    "segformer-ade20k": {"short_side": 512, "long_side": 2048, "multiple_of": 32},
    "segformer-ade20k-ms": {"short_side": 512, "long_side": 2048, "multiple_of": 32, "ratios": FIVE, "flip": True},
    "segformer-ade20k-640": {"short_side": 640, "long_side": 2048, "multiple_of": 32},
    "segformer-ade20k-640-ms": {"short_side": 640, "long_side": 2048, "multiple_of": 32, "ratios": FIVE, "flip": True},
    # SegFormer, Cityscapes: windows of 1024 at a stride of 768; and B0 on smaller photos.
    "segformer-cityscapes": {"short_side": 1024, "long_side": 2048, "window": 1024, "stride": 768},
    "segformer-cityscapes-ms": {
        "short_side": 1024, "long_side": 2048, "window": 1024, "stride": 768, "ratios": SEVEN, "flip": True,
    },
    "segformer-cityscapes-512": {"short_side": 512, "long_side": 1024},
    "segformer-cityscapes-640": {"short_side": 640, "long_side": 1280},
    "segformer-cityscapes-768": {"short_side": 768, "long_side": 1536, "window": 768, "stride": 768},
    # SegFormer, COCO-Stuff: the paper says as ADE20K.
    "segformer-coco-stuff": {"short_side": 512, "long_side": 2048, "multiple_of": 32},
    # SETR: the boxes (2049, 1025), (2048, 512) and (520, 520), windows of the training crop at two thirds of it; at
    # several scales no photo is smaller than a window, and none has a limit to its long side.
    "setr-cityscapes": {"short_side": 1025, "long_side": 2049, "window": 768, "stride": 512},
    "setr-cityscapes-ms": {
        "short_side": 1025, "window": 768, "stride": 512, "ratios": SIX, "at_least": 768, "flip": True,
    },
    "setr-ade20k": {"short_side": 512, "long_side": 2048, "window": 512, "stride": 341},
    "setr-ade20k-ms": {"short_side": 512, "window": 512, "stride": 341, "ratios": SIX, "at_least": 512, "flip": True},
    "setr-ade20k-ms3": {
        "short_side": 512, "window": 512, "stride": 341, "ratios": (0.5, 0.75, 1.0), "at_least": 512, "flip": True,
    },
    "setr-pascal-context": {"short_side": 520, "window": 480, "stride": 320, "at_least": 480},
    "setr-pascal-context-ms": {
        "short_side": 520, "window": 480, "stride": 320, "ratios": SIX, "at_least": 480, "flip": True,
    },
}  # fmt: skip

# Changing one of these makes other people's numbers incomparable: give changed settings a new name.
DIGESTS = {
    "whole": "75a523d6b645",
    "slide": "68e9388ce596",
    "multi-scale": "e3d2bb4ce118",
    "segformer-ade20k": "1aa5c9cdd798",
    "segformer-ade20k-ms": "59ce7a4f26f0",
    "segformer-ade20k-640": "421fdc35a695",
    "segformer-ade20k-640-ms": "972a1b069200",
    "segformer-cityscapes": "88c7b4988ddc",
    "segformer-cityscapes-ms": "d8fd5c8aa2db",
    "segformer-cityscapes-512": "1349f9d3fbb1",
    "segformer-cityscapes-640": "12203b7377cf",
    "segformer-cityscapes-768": "b7c2dfdce7d8",
    "segformer-coco-stuff": "0afbcdd945ee",
    "setr-cityscapes": "48331175770f",
    "setr-cityscapes-ms": "0f1cccde90c4",
    "setr-ade20k": "f5f3385b5dea",
    "setr-ade20k-ms": "cfe6fa076ee1",
    "setr-ade20k-ms3": "348543da3be1",
    "setr-pascal-context": "6bfdba8959eb",
    "setr-pascal-context-ms": "85d987199183",
}


def photo(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "size", "sizes"), VIEWS, ids=[f"{name}-{w}x{h}" for name, (w, h), _ in VIEWS])
def test_the_network_sees_the_sizes_of_the_papers_code(
    name: str, size: Size, sizes: list[Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Preprocess, "normalize", lambda _, image: image)  # takes most of the time
    protocol = PROTOCOLS[name]
    tiny = np.zeros((size[1], size[0], 3), np.uint8)
    views = [(view.read(), view.mirrored) for view in protocol.views(ArraySource(tiny), Preprocess())]
    seen = [(view.shape[2], view.shape[1], mirrored) for view, mirrored in views]
    ways = (False, True) if protocol.flip else (False,)
    assert seen == [(*expected, mirrored) for expected in sizes for mirrored in ways]


def test_windows_of_the_papers() -> None:
    windows = {name: (p.window, p.stride) for name, p in PROTOCOLS.items() if p.window is not None}
    assert windows == {
        "slide": (1024, 768),
        "segformer-cityscapes": (1024, 768),
        "segformer-cityscapes-ms": (1024, 768),
        "segformer-cityscapes-768": (768, 768),
        "setr-cityscapes": (768, 512),
        "setr-cityscapes-ms": (768, 512),
        "setr-ade20k": (512, 341),
        "setr-ade20k-ms": (512, 341),
        "setr-ade20k-ms3": (512, 341),
        "setr-pascal-context": (480, 320),
        "setr-pascal-context-ms": (480, 320),
    }
    assert window_starts(1025, *windows["setr-cityscapes"]) == [0, 257]  # type: ignore[arg-type]


def test_ade20k_images_are_resized_twice() -> None:
    image = photo(500, 333)
    (view,) = PROTOCOLS["segformer-ade20k"].views(ArraySource(image), Preprocess(mean=(0, 0, 0), std=(1, 1, 1)))
    twice = cv2.resize(cv2.resize(image, (769, 512)), (800, 512))
    np.testing.assert_array_equal(view.read().transpose(1, 2, 0), twice)
    assert not np.array_equal(twice, cv2.resize(image, (800, 512)))


def test_a_papers_protocol_takes_the_weights_normalisation_and_not_their_size() -> None:
    image = photo(640, 480)
    own = Preprocess(short_side=100, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    (view,) = PROTOCOLS["setr-ade20k"].views(ArraySource(image), own)
    np.testing.assert_allclose(view.read().transpose(1, 2, 0), own.normalize(cv2.resize(image, (683, 512))), rtol=1e-6)
    (view,) = WHOLE.views(ArraySource(image), own)
    np.testing.assert_array_equal(view.read(), own(image))


def test_several_scales_multiply_the_size_of_the_weights() -> None:
    own = Preprocess(short_side=100, long_side=150, multiple_of=8)
    views = PROTOCOLS["multi-scale"].views(ArraySource(photo(640, 480)), own)
    sizes = [view.size for view in views if not view.mirrored]
    assert sizes == [(56, 72), (80, 104), (104, 136), (128, 168), (152, 200), (176, 240)]


def test_mirrored_views_hold_the_mirrored_pixels() -> None:
    protocol = Protocol("mine", ratios=(0.5, 1.0), flip=True)
    views = list(protocol.views(ArraySource(photo(31, 20)), Preprocess()))
    assert [view.mirrored for view in views] == [False, True, False, True]
    arrays = [view.read() for view in views]
    for plain, turned in zip(arrays[::2], arrays[1::2], strict=True):
        np.testing.assert_array_equal(turned, plain[:, :, ::-1])
        torch.from_numpy(turned)  # refuses negative strides


def test_every_setting_is_the_papers() -> None:
    assert list(SETTINGS) == list(PROTOCOLS)
    for name, settings in SETTINGS.items():
        assert vars(PROTOCOLS[name]) == {"name": name, **PLAIN, **settings}, name


def test_the_protocols_are_frozen() -> None:
    assert {name: protocol.digest(Preprocess()) for name, protocol in PROTOCOLS.items()} == DIGESTS
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


def test_the_manual_has_every_protocol() -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([\w-]+)`", "\n".join(row.split("|")[1] for row in rows))) == sorted(PROTOCOLS)


def test_the_hash_covers_what_decides_and_nothing_else() -> None:
    own, other = Preprocess(), Preprocess(short_side=512)
    assert WHOLE.settings(other) == {"name": "whole", "preprocess": other.to_dict()}
    text = json.dumps(WHOLE.settings(other), sort_keys=True)
    assert WHOLE.digest(other) == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert WHOLE.digest(own) != WHOLE.digest(other)
    paper = PROTOCOLS["setr-ade20k"]
    assert paper.digest(own) == paper.digest(other)
    assert paper.settings(own) == {
        "name": "setr-ade20k",
        "short_side": 512,
        "long_side": 2048,
        "window": 512,
        "stride": 341,
    }
    changes = {"name": "x", "short_side": 513, "long_side": None, "multiple_of": 2, "ratios": (1.0, 2.0)}
    changes |= {"at_least": 2, "flip": True, "window": 513, "stride": 340, "blend": "linear"}
    assert set(changes) == set(vars(paper))
    changed = {replace(paper, **{key: value}).digest(own) for key, value in changes.items()}
    assert len(changed) == len(changes) and paper.digest(own) not in changed


def test_a_name_that_does_not_exist_lists_near_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        find_protocol("setr_ade20k")
    assert caught.value.code == "protocol-name"
    assert "did you mean setr-ade20k" in caught.value.fix
    with pytest.raises(ConfigError, match="xyz") as caught:
        find_protocol("xyz")
    assert "did you mean" not in caught.value.fix
    assert all(name in caught.value.fix for name in PROTOCOLS)
    mine = Protocol("mine", window=3, stride=2)
    assert find_protocol(mine) is mine and find_protocol("whole") is WHOLE


@pytest.mark.parametrize(
    "settings",
    [
        {"ratios": ()},
        {"ratios": (1.0, 0.0)},
        {"window": 512},
        {"stride": 512},
        {"window": 512, "stride": 513},
        {"window": 512, "stride": 0},
        {"long_side": 2048},
        {"multiple_of": 32},
        {"at_least": 512},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        Protocol("mine", **settings)  # type: ignore[arg-type]
    assert caught.value.code == "protocol-settings" and "'mine'" in caught.value.message


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("windows", window=24, stride=17),
        Protocol("resized windows", short_side=60, long_side=90, multiple_of=8, window=32, stride=20),
        Protocol("views", short_side=40, ratios=(0.5, 1.0, 1.5), flip=True),
        Protocol("views of windows", short_side=40, ratios=(0.5, 1.25), at_least=32, flip=True, window=32, stride=20),
        Protocol("mirrored", flip=True),
    ],
    ids=lambda protocol: protocol.name,
)
def test_a_predictor_follows_its_protocol(protocol: Protocol) -> None:
    """Against the procedure in PyTorch: windows averaged as logits, the photo's size, softmax, turned back, mean."""
    weight = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1))

    def network(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, stride=4, padding=2)

    def engine(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return network(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    own = Preprocess(short_side=37)
    images = [photo(70, 50), photo(70, 50)[::-1].copy()]
    predictor = Predictor(engine, own, LabelSpec.from_names(list("abcdef")), protocol=protocol)
    results = predictor.segment(images, [None, None], keep=frozenset({"probabilities"}))
    masks = predictor.masks(images)
    for image, result, mask in zip(images, results, masks, strict=True):
        views = []
        for shown in protocol.views(ArraySource(image), own):
            logits = joined_windows(network, torch.from_numpy(np.ascontiguousarray(shown.read()))[None], protocol)
            view = F.interpolate(logits, (50, 70), mode="bilinear").softmax(1)[0]
            views.append(view.flip(-1) if shown.mirrored else view)
        mean = torch.stack(views).mean(0)
        assert result.probabilities is not None
        np.testing.assert_allclose(result.probabilities, mean.numpy(), atol=1e-4)
        top = mean.topk(2, dim=0).values
        clear = (top[0] - top[1] > 1e-4).numpy()
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(result.mask[clear], mean.argmax(0).numpy()[clear])
        np.testing.assert_array_equal(mask[clear], result.mask[clear])


def joined_windows(network: object, x: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    height, width = x.shape[2:]
    window, stride = protocol.window or max(height, width), protocol.stride or 1
    total, count = torch.zeros(1), torch.zeros(1)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            part = x[:, :, top : top + window, left : left + window]
            logits = F.interpolate(network(part), part.shape[2:], mode="bilinear")  # type: ignore[operator]
            borders = (left, width - left - part.shape[3], top, height - top - part.shape[2])
            total, count = total + F.pad(logits, borders), count + F.pad(torch.ones_like(part[:, :1]), borders)
    return total / count
