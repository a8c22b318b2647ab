"""Measuring a model on a split: the protocol it follows and names, one count for all, and each photo's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from terrazzo.cli import evaluate as evaluate_command
from terrazzo.cli.main import main
from terrazzo.data import open_dataset
from terrazzo.errors import ConfigError, ImageError
from terrazzo.evaluation.evaluator import evaluate, measure
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import PROTOCOLS, WHOLE, Protocol
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess

LABELS = LabelSpec.from_names(["dark", "bright"])
UNIT = Preprocess(mean=(127.5, 127.5, 127.5), std=(1, 1, 1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three photos, half dark and half bright: one labelled so, one but for a corner, and one not at all."""
    for folder in ("images", "masks"):
        (tmp_path / "halves" / "val" / folder).mkdir(parents=True)
    for number, (height, width) in enumerate([(20, 30), (24, 16), (10, 10)]):
        bright = np.arange(width) >= width // 2
        image = np.zeros((height, width, 3), np.uint8)
        image[:, bright] = 255
        mask = np.tile(bright.astype(np.uint8), (height, 1))
        if number == 1:
            mask[:5, :3] = 1
        if number == 2:
            mask[:] = 255
        Image.fromarray(image).save(tmp_path / "halves" / "val" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "halves" / "val" / "masks" / f"{number}.png")
    (tmp_path / "halves" / "labels.yaml").write_text("names: [dark, bright]\n")
    return tmp_path / "halves"


class Brightness:
    """An engine that says "bright" of what is; it notes the sizes it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen.append(images.shape)
        return np.stack([-images[:, 0], images[:, 0]], axis=1)


def predictor(protocol: Protocol = WHOLE, preprocess: Preprocess = UNIT) -> tuple[Predictor, Brightness]:
    engine = Brightness()
    return Predictor(engine, preprocess, LABELS, "brightness", protocol), engine


def test_counts_add_up_and_each_image_has_its_own_score(data: Path) -> None:
    calls = []
    brightness, _ = predictor()
    dataset = open_dataset(data, "val")
    report, scores = measure(brightness, dataset, "halves", progress=lambda *call: calls.append(call))
    assert report.confusion.tolist() == [[300 + 192 - 15, 0], [15, 300 + 192]]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert scores[0] == 100
    assert scores[1] == pytest.approx(50 * ((192 - 15) / 192 + 192 / (192 + 15)))
    assert np.isnan(scores[2])
    assert (report.dataset, report.split, report.images, report.model) == ("halves", "val", 3, "brightness")


@pytest.mark.parametrize("name", ["whole", "slide", "multi-scale", "segformer-ade20k", "setr-pascal-context-ms"])
def test_every_report_names_its_protocol_and_hash(data: Path, name: str) -> None:
    brightness, engine = predictor(PROTOCOLS[name])
    report = evaluate(brightness, data, only="0*")
    digest = PROTOCOLS[name].digest(UNIT)
    assert report.to_dict()["protocol"] == {"name": name, "hash": digest}
    assert f"protocol {name} ({digest})" in report.table()
    assert report.split == "val (0*)"
    assert report.metrics.mIoU > 95
    # Of 20 x 30. Pascal Context's short sides are 480 twice, 520, 650, 780 and 910, its long ones half as much again.
    inputs = {"whole": 1, "slide": 1, "multi-scale": 12, "segformer-ade20k": 1}
    assert len(engine.seen) == inputs.get(name, 2 * (2 + 2 + 2 * 2 + 2 * 3 + 2 * 4 + 3 * 4))
    if name == "segformer-ade20k":
        assert engine.seen == [(1, 3, 512, 768)]


def test_masks_are_compared_at_the_labels_size_whatever_the_network_saw(data: Path) -> None:
    brightness, engine = predictor(Protocol("mine", short_side=40, multiple_of=16, window=32, stride=24))
    report, _ = measure(brightness, open_dataset(data, "val"), "halves")
    assert report.confusion.sum() == 600 + 384
    assert engine.seen == [(1, 3, 32, 32)] * (2 * 3 + 3 * 2 + 2 * 2)  # of 48 x 64, 64 x 48 and 48 x 48
    assert report.metrics.mIoU > 90


def test_whatever_an_engine_raises_is_told(data: Path) -> None:
    def engine(_: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Reshape")

    with pytest.raises(ImageError, match=r"RuntimeError: \[ONNXRuntimeError\] .* Reshape") as caught:
        evaluate(Predictor(engine, UNIT, LABELS, "odd"), data)
    assert caught.value.code == "image-failed"


def test_an_unknown_protocol_is_told_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate("no-such-model", "no-such-folder", protocol="setr-ade20")
    assert caught.value.code == "protocol-name"
    for verb in (["evaluate", "--data", "no-such-folder"], ["predict", "no-such-photo.jpg"]):
        with pytest.raises(SystemExit) as left:
            main([*verb, "--protocol", "multiscale"])
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error[protocol-name]: unknown protocol 'multiscale'")
        assert "did you mean multi-scale" in error


def test_the_command_passes_its_options_on_and_writes_the_protocol_into_its_json(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def make(model: object, device: object, protocol: Protocol, **options: object) -> Predictor:
        asked.append((protocol, options["compiled"], options["precision"]))
        return predictor(protocol)[0]

    monkeypatch.setattr(evaluate_command, "make_predictor", make)
    written = str(tmp_path / "scores.json")
    main(["evaluate", "--data", str(data), "--protocol", "slide", "--json", written])
    main(
        ["evaluate", "--data", str(data), "--protocol", "slide", "--json", written, "--compile", "--precision", "bf16"]
    )
    assert asked == [(PROTOCOLS["slide"], False, "fp32"), (PROTOCOLS["slide"], True, "bf16")]
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["protocol"] == {"name": "slide", "hash": PROTOCOLS["slide"].digest(UNIT)}
