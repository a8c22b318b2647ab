"""The network sees the pixels that it was trained on, wherever its weights come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from terrazzo.data.sources.array import ArraySource
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.imaging.read import MAX_PIXELS
from terrazzo.inference.predict import make_predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning
from terrazzo.preprocess import Preprocess
from terrazzo.training.start import preprocess_changes
from terrazzo.weights.convert import convert
from terrazzo.weights.create import create_model
from terrazzo.weights.exported import ExportedDescription
from terrazzo.weights.files import TrainedModel, save_folder
from terrazzo.weights.load import load
from terrazzo.weights.processor import normalisation, preprocess_from_processor
from terrazzo.weights.remap.segformer import HF4

NAMES = ["road", "tree", "sky"]
RAW: dict[str, Any] = {"do_normalize": False, "do_rescale": False}


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (135, 240, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights() -> Iterator[dict[str, Any]]:
    yield HF4.to_theirs(create_model("segformer_b0", len(NAMES)).eval().state_dict())


def folder_of(folder: Path, weights: dict[str, Any], processor: dict[str, Any] | None, names: Any = NAMES) -> Path:
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    config = {"model_type": "segformer", "id2label": {str(k): name for k, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def seen(preprocess: Preprocess, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network is given, back on the scale of 0 to 255."""
    (x,) = find_protocol("whole").views(ArraySource(image), replace(preprocess, mean=(0, 0, 0), std=(1, 1, 1)))
    return x.read().transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("code", "resampling"), [(2, Image.Resampling.BILINEAR), (3, Image.Resampling.BICUBIC), (4, Image.Resampling.BOX)]
)
def test_a_folder_of_transformers_is_shown_pillows_pixels(
    code: int, resampling: Any, image: NDArray[np.uint8], weights: dict[str, Any], tmp_path: Path
) -> None:
    model = load(folder_of(tmp_path / "hf", weights, {"size": {"height": 48, "width": 64}, "resample": code}))
    expected = np.asarray(Image.fromarray(image).resize((64, 48), resampling))
    np.testing.assert_array_equal(seen(model.preprocess, image), expected)
    # OpenCV's plain filter, which was used for all, is far from it.
    plain = cv2.resize(image, (64, 48), interpolation=cv2.INTER_LINEAR)
    assert np.abs(plain.astype(int) - expected).mean() > 10


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_a_processor_is_found_where_transformers_keeps_it(file: str, weights: dict[str, Any], tmp_path: Path) -> None:
    folder, processor = folder_of(tmp_path / "hf", weights, None), {"size": 320, "resample": 3}
    nested = processor if file.startswith("pre") else {"image_processor": processor, "processor_class": "X"}
    (folder / file).write_text(json.dumps(nested))
    assert load(folder).preprocess == Preprocess(size=(320, 320), interpolation="bicubic", antialias=True)


def test_a_model_folder_of_before_is_resized_as_before(image: NDArray[np.uint8], tmp_path: Path) -> None:
    model = TrainedModel(
        "segformer_b0", create_model("segformer_b0", 3).eval(), LabelSpec.from_names(NAMES), Preprocess(short_side=60)
    )
    save_folder(tmp_path / "old", model)
    stored = json.loads((tmp_path / "old" / "config.json").read_text())["preprocess"]
    assert stored.keys() == {"short_side", "long_side", "multiple_of", "mean", "std", "size"}
    plain = cv2.resize(image, (107, 60), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(seen(load(tmp_path / "old").preprocess, image), plain)


def test_the_rule_goes_into_folders_exports_and_recipes_and_comes_back() -> None:
    rule = Preprocess(short_side=60, interpolation="lanczos", antialias=True, rounding="down")
    assert Preprocess.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    described = ExportedDescription("segformer_b0", LabelSpec.from_names(NAMES), rule)
    assert ExportedDescription.from_json(described.to_json(), "x.onnx").preprocess == rule


def test_convert_says_what_transformers_will_do_otherwise(tmp_path: Path) -> None:
    network, labels = create_model("segformer_b0", 3).eval(), LabelSpec.from_names(NAMES)
    save_folder(tmp_path / "ours", TrainedModel("segformer_b0", network, labels, Preprocess(60, multiple_of=32)))
    with pytest.warns(TerrazzoWarning, match="no words for rounding sides up to multiples of 32, resizing"):
        convert(tmp_path / "ours", tmp_path / "hf", "hf")
    assert load(tmp_path / "hf").preprocess == Preprocess(60, multiple_of=32)


def test_a_start_that_was_resized_otherwise_is_told() -> None:
    before, after = Preprocess(60), Preprocess(48, antialias=True)
    assert preprocess_changes(before, after) == "short_side 60 -> 48, antialias False -> True"


# -- what a file says and what cannot be done -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"do_flip_channel_order": True}, "'do_flip_channel_order'"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "'do_pad'"),
        ({"crop_pct": 0.875}, "'crop_pct'"),
        ({"rescale_offset": True}, "'rescale_offset'"),
        ({"ensure_multiple_of": 32, "keep_aspect_ratio": True}, "'ensure_multiple_of', 'keep_aspect_ratio'"),
        ({"size": {"longest_edge": 640}}, "its size has the keys 'longest_edge'"),
        ({"size": {"max_height": 640, "max_width": 480}}, "'max_height', 'max_width'"),
        ({"resample": 9}, "its resample is 9"),
        ({"resample": [2]}, "its resample is a list"),
        ({"resample": True}, "its resample is True"),
        ({"size": {"height": 0, "width": 9}}, "between 1 and 65536"),
        ({"size": [1, 2, 3]}, "size is (1, 2, 3)"),
        ({"image_mean": [1, 2]}, "mean (255.0, 510.0)"),
        ({"image_std": 0}, "three finite numbers"),
        ({"rescale_factor": 0}, "division by zero"),
        ({"size": 65536}, "more than 89,478,485"),
    ],
)
def test_what_cannot_be_followed_is_refused(said: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        preprocess_from_processor(said, "hf/preprocessor_config.json")
    assert caught.value.code == "checkpoint-preprocess" and named in caught.value.message


def test_a_centre_crop_is_said_and_the_mask_covers_the_image(
    image: NDArray[np.uint8], weights: dict[str, Any], tmp_path: Path
) -> None:
    processor = {"image_processor_type": "BeitImageProcessor", "size": 48, "do_center_crop": True, "crop_size": 32}
    folder = folder_of(tmp_path / "hf", weights, processor)
    with pytest.warns(TerrazzoWarning, match="crops the centre.*photos are not cropped"):
        model = load(folder)
    assert seen(model.preprocess, image).shape == (48, 48, 3)
    (mask,) = make_predictor(model, "cpu", engine="torch").masks([image])
    assert mask.shape == image.shape[:2]


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ({"wobble": 3, "size": 64}, "'wobble': not known here"),
        ({"image_processor_type": "CLIPImageProcessor", "size": 64}, "CLIP is not a processor known here"),
    ],
)
def test_what_is_left_aside_is_said(said: dict[str, Any], note: str, weights: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", weights, said)
    with pytest.warns(TerrazzoWarning, match=note):
        assert load(folder).preprocess == Preprocess(size=(64, 64), antialias=True)


def test_a_folder_without_a_processor_follows_the_papers_rule(tmp_path: Path) -> None:
    ade = LabelSpec.bundled("ade20k")
    for names, expected in ((ade.names, Preprocess(512, 2048, 32)), (NAMES, Preprocess())):
        state = HF4.to_theirs(create_model("segformer_b0", len(names)).state_dict())
        folder = folder_of(tmp_path / str(len(names)), state, None, names)
        assert load(folder).preprocess == expected


def test_of_an_encoders_processor_only_the_scale_counts() -> None:
    said = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875, "size": {"shortest_edge": 224}}
    scaled = normalisation({**said, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}, "x")
    assert scaled == Preprocess(mean=(127.5,) * 3, std=(63.75,) * 3)
    with pytest.raises(CheckpointError, match="rescale_offset"):
        normalisation({**said, "rescale_offset": True}, "x")


# -- sizes that no memory holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {"size": (65536, 65536)},
        {"multiple_of": 65536},
        {"short_side": 20000},
        {"short_side": 65536, "long_side": 65536},
        {"short_side": 100, "multiple_of": 10000},
    ],
)
def test_a_rule_that_asks_for_too_much_of_any_image_is_refused_at_once(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocess(**rule)
    assert caught.value.code == "preprocess-pixels" and "every photo" in caught.value.message


def test_a_hostile_folder_is_named(tmp_path: Path) -> None:
    network, labels = create_model("segformer_b0", 3).eval(), LabelSpec.from_names(NAMES)
    save_folder(tmp_path / "x", TrainedModel("segformer_b0", network, labels, Preprocess()))
    path = tmp_path / "x" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "preprocess": {"multiple_of": 65536}}))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "x")
    assert str(path) in caught.value.message and "65536 x 65536" in caught.value.message


@pytest.mark.parametrize(
    ("rule", "size"),
    [(Preprocess(short_side=512), (1, 4000)), (Preprocess(multiple_of=9000), (9001, 4)), (Preprocess(9000), (9, 11))],
)
def test_a_image_that_would_become_too_large_is_refused_before_there_is_memory(
    rule: Preprocess, size: tuple[int, int]
) -> None:
    with pytest.raises(ConfigError) as caught:
        rule(np.zeros((*size, 3), np.uint8))
    assert caught.value.code == "preprocess-pixels" and f"makes a {size[1]} x {size[0]} photo" in caught.value.message


def test_a_image_that_was_let_in_as_it_is_is_not_refused_later() -> None:
    side = int(MAX_PIXELS**0.5) + 1000
    assert Preprocess().target_size(side, side) == (side, side)
    assert Preprocess(multiple_of=32).target_size(side, side) == (-(-side // 32) * 32,) * 2


def test_several_scales_of_a_model_that_squeezes_images() -> None:
    views = find_protocol("multi-scale").views(ArraySource(np.zeros((30, 50, 3), np.uint8)), Preprocess(size=(40, 64)))
    assert [x.size for x in views if not x.mirrored][:2] == [(20, 32), (30, 48)]


def test_broken_values_of_the_rule_are_refused() -> None:
    for rule, named in (
        ({"interpolation": "cubic"}, "the interpolation 'cubic'"),
        ({"interpolation": ["bilinear"]}, "interpolation is a list"),
        ({"antialias": 1}, "antialias is 1"),
        ({"rounding": None}, "rounding is None"),
        ({"short_side": True}, "short_side is True"),
        ({"size": [[1], {}]}, "size is (a list, a dict)"),
        ({"size": list(range(9999))}, "size is a tuple"),
        ({"mean": [10**400, 1, 1]}, "is not a list of numbers"),
    ):
        with pytest.raises(ConfigError) as caught:
            Preprocess.from_dict(rule)
        assert named in caught.value.message
