"""Decoders on backbones of transformers, as a person types it: train, evaluate, predict, convert, and what is refused.

tests/training/test_train_on_backbones.py asks the same of the functions, with more of what lies between.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder
from tiny_backbones import TINY_BACKBONES

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[backbones]'")

TWO_STEPS = ["--steps", "2", "--batch-size", "2", "--crop", "32", "32", "--workers", "0", "--device", "cpu"]
QUICK = [("fcn", "resnet"), ("setr_pup", "dinov2")]
SLOW = [
    ("fcn_dilated", "resnet"),
    ("all_mlp", "pvt_v2"),
    ("all_mlp", "swin"),
    ("fcn", "convnext"),
    ("setr_mla", "dinov3_vit"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of 40 x 48, dark on the left and bright on the right."""
    root = tmp_path_factory.mktemp("data") / "halves"
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((40, 48), np.uint8)
            mask[:, 20 + 4 * number :] = 1
            image = (mask[..., None] * 150 + rng.integers(0, 60, (40, 48, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("decoder", "family"),
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)],
)
def test_from_a_folder_of_weights_to_masks(
    decoder: str, family: str, data: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = transformers.CONFIG_MAPPING[family].from_dict(TINY_BACKBONES[family])
    transformers.AutoModel.from_config(config).save_pretrained(here / "published")
    capsys.readouterr()

    options = ["--model", decoder, "--encoder", "hf:published", *TWO_STEPS]
    main(["train", "--data", str(data), "--output", "run", *options])
    told = capsys.readouterr().err
    assert f"{decoder} on hf:published" in told and "with the encoder's weights" in told and "epoch 1/" in told
    for path in (here / "published").iterdir():
        path.unlink()  # from here on the run's folder is enough

    main(["evaluate", "--data", str(data), "--split", "val", "--model", "run", "--json", "report.json"])
    scored = json.loads((here / "report.json").read_text())
    trained = json.loads((here / "run" / "report" / "report.json").read_text())
    assert scored["mIoU"] == trained["mIoU"] and 0 <= scored["mIoU"] <= 100

    main(["predict", str(data / "val" / "images"), "--model", "run", "--output", "masks", "--save", "mask"])
    with Image.open(here / "masks" / "0_mask.png") as mask:
        found = np.asarray(mask)
    assert found.shape == (40, 48) and np.array_equal(
        found, terrazzo.predict(data / "val" / "images" / "0.png", terrazzo.load("run")).mask
    )

    main(["convert", "run", "again"])
    first, second = (terrazzo.load(name).network.state_dict() for name in ("run", "again"))
    assert first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())
    assert refusal(["convert", "run", "hf", "--to", "hf"], capsys)[0] == (
        f"error[convert-architecture]: transformers has no {decoder}"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--encoder", "resnet50"], "error[encoder-name]: unknown encoder 'resnet50'"),
        (["--encoder", "hf:missing/config.json"], "error[encoder-config]: there is no file missing/config.json"),
        (["--encoder", "hf:empty"], "error[encoder-config]: empty/config.json cannot be read"),
        (["--encoder", "hf:resnet.json", "--model", "fnc"], "error[model-name]: unknown model 'fnc'"),
        (["--encoder", "hf:resnet.json", "--model", "setr_mla"], "error[encoder-decoder]: setr_mla adds up maps"),
        (["--encoder", "hf:resnet.json", "--model", "segformer_b0"], "error[model-encoder]: segformer_b0 has"),
        (["--model", "fcn"], "error[model-encoder]: fcn is a decoder, and no encoder is named"),
    ],
)
def test_refusals(options: list[str], said: str, data: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "resnet.json").write_text(json.dumps(TINY_BACKBONES["resnet"]))
    (here / "empty").mkdir()
    first, second = refusal(["train", "--data", str(data), "--output", "run", *options, *TWO_STEPS], capsys)[-2:]
    assert first.startswith(said) and second.startswith("  fix: ")
    assert not (here / "run" / "model").exists()


def test_a_model_whose_backbone_needs_transformers_says_so(
    data: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "resnet.json").write_text(json.dumps(TINY_BACKBONES["resnet"]))
    network = create_model("fcn", 2, encoder=TINY_BACKBONES["resnet"])
    labels = LabelSpec.from_names(["dark", "bright"])
    save_folder(here / "run", TrainedModel("fcn", network, labels, Preprocess(), {}, "run"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    image = str(data / "val" / "images" / "0.png")
    for arguments in (
        ["predict", image, "--model", "run", "--output", "masks"],
        ["evaluate", "--data", str(data), "--model", "run"],
        ["train", "--data", str(data), "--output", "more", "--model", "fcn", "--encoder", "hf:resnet.json"],
    ):
        assert refusal(arguments, capsys)[-2:] == [
            "error[extra]: transformers is not installed",
            "  fix: run pip install '.[backbones]' in the folder of the clone, or pip install transformers anywhere",
        ]


def test_a_name_of_the_hub_without_a_network(
    data: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(name: str, **_: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError(f"cannot find {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here / "cache"))
    told = refusal(["train", "--data", str(data), "--output", "run", "--encoder", "hf:someone/resnet"], capsys)
    assert (
        told[-2].startswith("error[hub-offline]: there is no path someone/resnet") and str(here / "cache") in told[-2]
    )
