"""Averages of runs' weights: the mean, what of it is kept, licences, and models that cannot be averaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TINY

import terrazzo
from terrazzo.cli.main import main
from terrazzo.errors import TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training import averaging
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, load_folder, save_folder

NAMES = ["rock", "sand", "sea"]


def model_of(value: float, names: list[str] = NAMES, spec: str = "segformer_tiny", **record: Any) -> TrainedModel:
    """A model whose weights all are one number, and whose classifier has the number of its row added."""
    network = create_model(TINY[spec], len(names)).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(value)
        network.decoder.classifier.bias.add_(torch.arange(len(names)))
    return TrainedModel(spec, network, LabelSpec.from_names(names), Preprocess(), record)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path / "a", model_of(1.0, licence="CC0"))
    save_folder(tmp_path / "b", model_of(3.0, licence="BSD-3-Clause"))
    save_folder(tmp_path / "c", model_of(8.0, ["sea", "rock", "sand"]))
    return tmp_path


def judged_by(monkeypatch: pytest.MonkeyPatch, best: float) -> list[float]:
    """Let the mIoU of a model be 100 minus the distance of its weights from a number, and note them."""
    seen: list[float] = []

    def scored(model: TrainedModel, *_: object, **__: object) -> Any:
        seen.append(model.network.encoder.stages[0].norm.weight[0].item())  # type: ignore[union-attr, index]
        metrics = type("Metrics", (), {"mIoU": 100 - abs(seen[-1] - best)})
        return type("Report", (), {"metrics": metrics})

    monkeypatch.setattr(averaging, "evaluate", scored)
    return seen


def test_a_model_comes_into_the_average_where_that_makes_it_better(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = judged_by(monkeypatch, 3.9)
    made = terrazzo.average(["a", "b", "c"], "soup", "data")
    assert seen == [1, 3, 8, 2, 5.5]  # each alone; b and a; b and c
    assert made.kept == ("b",) and made.mIoU == pytest.approx(99.1)
    assert dict(made.scores) == pytest.approx({"b": 99.1, "a": 97.1, "c": 95.9})
    seen = judged_by(monkeypatch, 4.5)
    made = terrazzo.average(["a", "b", "c"], "soup 2", "data", split="holdout")
    assert seen == [1, 3, 8, 2, 5.5]
    assert made.kept == ("b", "c") and dict(made.tried) == pytest.approx({"a": 97.5, "c": 99.0})
    soup = load_folder(runs / "soup 2")
    assert soup.labels.names == ("rock", "sand", "sea")
    bias = soup.network.decoder.classifier.bias  # type: ignore[union-attr]
    # c counts sea, rock, sand: rock is its second row, 8 + 1, and so on.
    assert bias.tolist() == [(3 + 9) / 2, (4 + 10) / 2, (5 + 8) / 2]


def test_licences_and_origins_of_all_are_kept(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_by(monkeypatch, 2)
    main(["average", "a", "b", "--data", "data", "--output", "soup"])
    out = capsys.readouterr().out
    assert out == (
        "a: mIoU 99.00; kept\nb: mIoU 99.00, the average with it 100.00; kept\n"
        "average of 2 models, mIoU 100.00, written to soup\n"
    )
    record = json.loads((runs / "soup/config.json").read_text())["record"]
    assert record["licence"] == "CC0; BSD-3-Clause" and record["val_mIoU"] == 100
    assert record["averaged"] == [{"name": "a", "val_mIoU": 99.0}, {"name": "b", "val_mIoU": 99.0}]
    assert [start["name"] for start in record["started_from"]] == ["a", "b"]


def test_where_nothing_is_gained_the_best_is_written_and_it_is_said(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged_by(monkeypatch, 3)
    main(["average", "a", "b", "--data", "data", "--output", "soup"])
    assert capsys.readouterr().out.endswith("no average is better than b alone, which was written to soup\n")
    assert load_folder(runs / "soup").network.encoder.stages[0].norm.weight[0] == 3  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("models", "code", "message"),
    [
        (["a"], "average-models", "an average of 'a'"),
        ([], "average-models", "no models"),
        (["a", "b", "a"], "average-models", "'a', 'b', 'a'"),
        (["a", "wide"], "average-architecture", "encoder.embed_dims [8, 16, 20, 32] and [8, 16, 40, 32]"),
        (["a", "setr"], "average-architecture", "segformer_tiny and setr_naive_nano, encoder.name mit and vit"),
        (["a", "other"], "average-classes", "0 'rock' | 'rock'; 1 'sand' | 'ice'; 2 'sea' | 'sea'"),
        (["a", "more"], "average-classes", "rock"),
        (["a", "scaled"], "average-preprocess", "short_side None -> 64"),
        (["a", "gone"], "checkpoint-missing", "gone"),
    ],
)
def test_models_that_are_not_alike_are_refused_with_both_sides(
    runs: Path, models: list[str], code: str, message: str
) -> None:
    from terrazzo.models.segformer import segformer_spec

    size = {"embed_dims": (8, 16, 40, 32), "depths": (1, 1, 1, 1)}
    wide = create_model(segformer_spec("segformer_tiny", size, 16), 3)
    save_folder(runs / "wide", replace(model_of(1), network=wide))
    save_folder(runs / "setr", model_of(1, spec="setr_naive_nano"))
    save_folder(runs / "other", model_of(1, ["rock", "ice", "sea"]))
    save_folder(runs / "more", model_of(1, ["rock", "sand", "sea", "ice"]))
    save_folder(runs / "scaled", replace(model_of(1), preprocess=Preprocess(short_side=64)))
    with pytest.raises(TerrazzoError) as caught:
        terrazzo.average(models, "soup", "data")
    assert caught.value.code == code and message in caught.value.message
    assert not (runs / "soup").exists()


def test_an_average_never_takes_the_place_of_a_model_that_it_is_made_of(runs: Path) -> None:
    with pytest.raises(TerrazzoError, match="a is there already with a model in it"):
        terrazzo.average(["a", "b"], "a", "data", overwrite=True)


def test_on_real_scores_the_result_is_never_worse_than_the_best(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name in "ab":
        network = create_model(TINY["segformer_tiny"], 3).eval()
        labels = LabelSpec.from_names([f"class {k}" for k in range(3)])
        save_folder(tmp_path / name, TrainedModel("segformer_tiny", network, labels, Preprocess()))
    made = terrazzo.average([tmp_path / "a", tmp_path / "b"], tmp_path / "soup", data, device="cpu")
    assert made.mIoU == max([*made.scores.values(), *made.tried.values()])
    again = terrazzo.evaluate(tmp_path / "soup", data, engine="torch")
    assert again.metrics.mIoU == pytest.approx(made.mIoU)
