"""Terms of weights stay with what is made of them: runs, runs of runs, conversions, exports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.cli.models import describe
from terrazzo.cli.provenance import tell_origin
from terrazzo.errors import TrainingError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models.segformer import segformer_spec
from terrazzo.preprocess import Preprocess
from terrazzo.training.trainer import Trainer
from terrazzo.weights.catalog import NVIDIA, known_licence
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder
from terrazzo.weights.load import load
from terrazzo.weights.model_card import licence_in_model_card, model_card
from terrazzo.weights.origin import licence_of, starts_of

SMALL = segformer_spec("segformer_small", {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}, 16)
NAMES = ("dark", "light")
NON_COMMERCIAL = "NVIDIA Source Code License: non-commercial use only"


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("terrazzo.training.train.write_artifacts", lambda *_: None)  # pictures take seconds
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "halves"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(2):
            mask = np.repeat(np.arange(2, dtype=np.uint8), 32)[None].repeat(48, 0)
            image = mask[..., None] * 100 + rng.integers(0, 50, (48, 64, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{number}.png")
    (root / "labels.yaml").write_text("names: [dark, light]\n")
    return root


def start_in(folder: Path, **record: Any) -> Path:
    network = create_model(SMALL, 2).eval()
    labels = LabelSpec.from_names(NAMES)
    save_folder(folder, TrainedModel("segformer_small", network, labels, Preprocess(short_side=24), record))
    return folder


def trained_from(start: Path | str, data: Path, output: Path) -> Path:
    overrides = {"steps": 1, "batch_size": 2, "precision": "fp32", "crop": (32, 32)}
    terrazzo.train(data, output, SMALL, weights=str(start), overrides=overrides, workers=0, device="cpu")
    return output


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that starts from a run that starts from non-commercial weights."""
    folder = tmp_path_factory.mktemp("runs")
    start = start_in(folder / "nv", licence=NON_COMMERCIAL, origin="nvidia/somewhere")
    return trained_from(trained_from(start, data, folder / "first"), data, folder / "second")


def test_a_run_keeps_the_licence_and_every_start(run: Path) -> None:
    record = json.loads((run / "model" / "config.json").read_text())["record"]
    assert record["licence"] == NON_COMMERCIAL
    first, original = record["started_from"]
    assert first["name"] == str(run.parent / "first") and original["name"] == str(run.parent / "nv")
    assert original["licence"] == first["licence"] == NON_COMMERCIAL and original["origin"] == "nvidia/somewhere"
    for start, folder in ((first, run.parent / "first" / "model"), (original, run.parent / "nv")):
        assert start["sha256"] == json.loads((folder / "config.json").read_text())["sha256"]


def test_commands_print_it(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["convert", str(run), str(tmp_path / "hf-of-it"), "--to", "terrazzo"])
    said = capsys.readouterr().err
    assert NON_COMMERCIAL in said and f"started from {run.parent / 'first'} and before that {run.parent / 'nv'}" in said
    config = json.loads((run / "model" / "config.json").read_text())
    assert "non-commercial" in " ".join(describe("x", config).split())
    assert f"{run.parent / 'first'}, and before that" in " ".join(describe("x", config).split())


def test_control_characters_of_a_record_are_not_printed_raw(capsys: pytest.CaptureFixture[str]) -> None:
    tell_origin("x", {"licence": "MIT\x1b[2J\nerror: forged", "started_from": [{"name": "\x1b]0;y\x07"}]})
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "\x1b" not in printed and "\x07" not in printed


@pytest.mark.parametrize("suffix", [".onnx", ".xml", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_exports_carry_it(run: Path, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("openvino" if suffix == ".xml" else "onnx" if suffix == ".onnx" else "torch")
    made = terrazzo.export(run, tmp_path / f"x{suffix}")
    from terrazzo.inference.predict import make_predictor

    predictor = make_predictor(made.path)
    assert licence_of(predictor.record) == NON_COMMERCIAL and len(starts_of(predictor.record)) == 2


def test_a_run_from_random_weights_states_nothing_and_one_from_it_names_it(data: Path, tmp_path: Path) -> None:
    record = load(trained_from("random", data, tmp_path / "own")).record
    assert "licence" not in record and "started_from" not in record and licence_of(record) is None
    again = load(trained_from(tmp_path / "own", data, tmp_path / "again")).record
    assert "licence" not in again and [start["name"] for start in again["started_from"]] == [str(tmp_path / "own")]


def test_an_interrupted_run_keeps_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = start_in(tmp_path / "nv", licence=NON_COMMERCIAL)

    def told_to_stop(trainer: Trainer) -> bool:
        return True

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Trainer, "_note_steps", told_to_stop)
        trained_from(start, data, tmp_path / "run")
    start.rename(tmp_path / "moved")
    turned = shutil.copytree(data, tmp_path / "turned")
    (turned / "labels.yaml").write_text("names: [light, dark]\n")
    with pytest.raises(TrainingError, match=r"other labels .* 0 'light' \| 'dark'"):
        terrazzo.train(turned, tmp_path / "run", resume=True, workers=0, device="cpu")
    terrazzo.train(data, tmp_path / "run", resume=True, workers=0, device="cpu")
    record = load(tmp_path / "run").record
    assert record["licence"] == NON_COMMERCIAL and record["started_from"][0]["name"] == str(start)
    assert isinstance(record["start_mIoU"], float)


@pytest.mark.parametrize(
    ("recipe", "licence"),
    [
        ({"weights": "nvidia/segformer-b0-finetuned-ade-512-512", "encoder": None}, NVIDIA),
        ({"weights": "runs/a", "encoder": None}, "not recorded"),
        ({"weights": None, "encoder": "hf:nvidia/mit-b0"}, NVIDIA),
        ({"model": {"weights": None, "encoder": "hf:nvidia/mit-b0"}}, NVIDIA),
        ({"weights": None, "encoder": "hf:a/config.json"}, None),
        ({"weights": None, "encoder": None}, None),
    ],
)
def test_runs_of_earlier_versions_are_judged_by_their_recipe(recipe: dict[str, Any], licence: str | None) -> None:
    assert licence_of({"val_mIoU": 50.0, "recipe": recipe}) == licence


def test_a_licence_does_not_hide_that_of_the_start() -> None:
    record = {"licence": "apache-2.0", "started_from": [{"name": "nvidia/mit-b5", "licence": NVIDIA}]}
    assert licence_of(record) == f"apache-2.0; nvidia/mit-b5, which it started from: {NVIDIA}"
    assert known_licence("nvidia/mit-b5@main") == NVIDIA and known_licence("someone/mit-b5") is None


# -- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer-B0 with the record of the run, in Hugging Face's form."""
    from terrazzo.weights.huggingface import save_huggingface

    folder = tmp_path_factory.mktemp("hf") / "it"
    model = load_folder(run / "model")
    network = create_model("segformer_b0", 2).eval()
    preprocess = Preprocess(short_side=24, antialias=True, rounding="down")
    save_huggingface(folder, TrainedModel("segformer_b0", network, model.labels, preprocess, model.record, "mine"))
    return folder


def test_a_model_card_states_licence_and_start(published: Path, run: Path) -> None:
    card = (published / "README.md").read_text()
    assert 'license: "other"' in card and f'license_name: "{NON_COMMERCIAL}"' in card
    assert "Started from" in card and "mIoU on its validation photos" in card
    assert load(published).record["licence"] == NON_COMMERCIAL
    without_our_key(published)
    assert load(published).record["licence"] == NON_COMMERCIAL


def without_our_key(folder: Path) -> None:
    """Write a folder's config.json again as other programs do."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("terrazzo", None)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("head", ["base_model: nvidia/mit-b0", "base_model:\n- nvidia/mit-b0"])
def test_a_fine_tuned_model_of_the_hub_keeps_the_terms_of_its_base(published: Path, head: str) -> None:
    without_our_key(published)
    (published / "README.md").write_text(f"---\nlicense: apache-2.0\n{head}\ntags:\n- x\n---\n")
    record = load(published).record
    assert record["licence"] == "apache-2.0" and record["started_from"] == [
        {"name": "nvidia/mit-b0", "licence": NVIDIA}
    ]
    assert "non-commercial" in (licence_of(record) or "")


def test_the_address_of_the_terms_goes_along(tmp_path: Path) -> None:
    head = "---\nlicense: other\nlicense_name: mine-nc\nlicense_link: https://example.org/terms\n---\n"
    (tmp_path / "README.md").write_text(head, encoding="utf-8-sig")  # as Notepad writes it
    licence = licence_in_model_card(tmp_path)
    assert licence == "mine-nc (https://example.org/terms)"
    network = create_model("segformer_b0", 2)
    labels = LabelSpec.from_names(["a", "b"])
    model = TrainedModel("segformer_b0", network, labels, Preprocess(), {"licence": licence})
    (tmp_path / "README.md").write_text(model_card(model))
    assert 'license_name: "mine-nc"\nlicense_link: "https://example.org/terms"' in model_card(model)
    assert licence_in_model_card(tmp_path) == licence


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: [mit, x]\n---\n", "mit, x"),
        ("README.md", "---\nlicense: ['mit']\n---\n", "mit"),
        ("LICENSE", "\n# NVIDIA Source Code License\n\nterms", "see its file LICENSE: NVIDIA Source Code License"),
        ("LICENCE.txt", "", "see its file LICENCE.txt"),
    ],
)
def test_lists_of_licences_and_a_folder_with_nothing_but_a_licence_file(
    tmp_path: Path, name: str, text: str, licence: str
) -> None:
    (tmp_path / name).write_text(text)
    assert licence_in_model_card(tmp_path) == licence
