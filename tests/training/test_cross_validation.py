"""Cross-validation: folds by hand, runs that are ordinary, a final model of all photos, and going on after a break."""

from __future__ import annotations

import json
import shutil
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import make_data, tiny_recipe

import terrazzo
from terrazzo.data.dataset import Sample
from terrazzo.data.splits import SplitRule
from terrazzo.errors import ConfigError, TrainingError
from terrazzo.training import cross_validation
from terrazzo.training.cross_validation import cross_validate
from terrazzo.training.folds import CrossValidation


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, no_pictures: pytest.MonkeyPatch) -> tuple[Path, CrossValidation]:
    """Photos train_0 to train_4 and val_0 to val_2 in two folds, which learn for two epochs."""
    folder = tmp_path_factory.mktemp("folds")
    for name in ("artifacts.curves_png", "artifacts.sheet_png"):  # which take most of a tiny run's time
        no_pictures.setattr(f"terrazzo.training.{name}", lambda *_: b"")
    for name in ("confusion_png", "per_class_png", "reliability_png"):
        no_pictures.setattr(f"terrazzo.evaluation.report.{name}", lambda *_: b"")
    data = make_data(folder / "tiles")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = cross_validate(data, folder / "runs", recipe=tiny_recipe(), folds=2, workers=0, device="cpu")
    assert any("all photos are learnt from" in str(warning.message) for warning in said)
    return data, result


def samples(*names: str) -> list[Sample]:
    return [Sample.of_files(Path(f"{name}.png"), Path(f"{name}_mask.png")) for name in names]


def test_every_photo_is_validated_on_once_and_groups_stay_together() -> None:
    names = [
        f"{drive}_{number}" for drive, count in (("a", 4), ("b", 3), ("c", 2), ("d", 1)) for number in range(count)
    ]
    parts = []
    for fold in (1, 2):
        train, val = SplitRule.of_fold(fold, 2, "[^_]+").divide(samples(*names))
        assert {sample.name for sample in train} == set(names) - {sample.name for sample in val}
        parts.append(sorted({sample.name[0] for sample in val}))
        assert len(val) == 5
    assert sorted(parts) == [["a", "d"], ["b", "c"]]  # 4, then 3, then 2 to the 3, then 1 to the 4
    train, val = SplitRule.of_fold(0, 2, "[^_]+").divide(samples(*names))
    assert len(train) == len(val) == 10


@pytest.mark.parametrize(("folds", "group_by"), [(1, None), (0, None), (101, None), (3, "[ab]"), (2, "(")])
def test_folds_that_cannot_be_made(folds: int, group_by: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        SplitRule.of_fold(1, folds, group_by).divide(samples("a_0", "a_1", "b_0"))
    assert caught.value.code == "split-rule"


def test_mean_and_spread_are_those_of_the_runs(finished: tuple[Path, CrossValidation]) -> None:
    _, result = finished
    reports = [json.loads((result.output / f"fold-{k}" / "report" / "report.json").read_text()) for k in (1, 2)]
    scores = [report["mIoU"] for report in reports]
    assert result.mIoU == pytest.approx((statistics.fmean(scores), statistics.stdev(scores)))
    assert [fold.val_photos for fold in result.folds] == [4, 4] and [fold.train_photos for fold in result.folds] == [
        4,
        4,
    ]
    assert result.pooled.label_pixels.sum() == 8 * (48 * 64 - 16)  # each photo once
    saved = json.loads((result.output / "cross_validation.json").read_text())
    assert saved["mIoU"] == round(statistics.fmean(scores), 2) and saved["final_epochs"] == result.epochs
    assert f"mIoU {statistics.fmean(scores):.2f}, spread {statistics.stdev(scores):.2f}" in result.table()
    assert (result.output / "cross_validation.txt").read_text().rstrip("\n") == result.table()


@pytest.mark.filterwarnings("ignore:fold 2 of 2:terrazzo.TerrazzoWarning")
def test_a_fold_is_an_ordinary_run_and_evaluate_finds_its_photos(finished: tuple[Path, CrossValidation]) -> None:
    data, result = finished
    report = terrazzo.evaluate(result.output / "fold-2", data, engine="torch", device="cpu")
    assert report.images == 4 and round(report.metrics.mIoU, 2) == result.folds[1].mIoU


def test_the_final_model_has_learnt_from_all_and_claims_no_score_of_its_own(
    finished: tuple[Path, CrossValidation],
) -> None:
    data, result = finished
    record = terrazzo.load(result.output / "final").record
    assert record["train_photos"] == 8 and "val_mIoU" not in record
    assert record["cross_validation"] == result.summary()
    assert record["recipe"]["run"]["epochs"] == result.epochs
    best = [fold.best_epoch for fold in result.folds]
    assert result.epochs == max(1, round(statistics.median(best)))
    with pytest.warns(terrazzo.TerrazzoWarning, match="has learnt from all photos"):
        assert terrazzo.evaluate(result.output / "final", data, engine="torch", device="cpu").images == 3


def test_finished_runs_are_not_run_again_and_others_go_on(
    finished: tuple[Path, CrossValidation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, result = finished
    shutil.copytree(result.output, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "final")
    shutil.rmtree(tmp_path / "runs" / "fold-2" / "report")  # as if it had been killed while measuring
    trained = []
    usual = cross_validation.train

    def noted(data: Path, place: Path, *rest: object, **named: object) -> object:
        trained.append((place.name, named.get("resume", False)))
        return usual(data, place, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_validation, "train", noted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", terrazzo.TerrazzoWarning)
        again = cross_validate(data, tmp_path / "runs", folds=2, resume=True, workers=0, device="cpu")
    assert trained == [("fold-2", True), ("final", False)]
    assert again.folds == result.folds and again.summary() == result.summary()
    weights = [
        (root / "final" / "model" / "model.safetensors").read_bytes() for root in (result.output, tmp_path / "runs")
    ]
    assert weights[0] == weights[1]


@pytest.mark.filterwarnings("ignore::terrazzo.TerrazzoWarning")
def test_what_contradicts_it_is_refused(finished: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    data, result = finished
    with pytest.raises(TrainingError) as caught:
        cross_validate(data, result.output, folds=2)
    assert caught.value.code == "training-output-taken"
    with pytest.raises(TrainingError, match="other folds or settings"):
        cross_validate(data, result.output, folds=2, group_by=".*", resume=True)
    with pytest.raises(TrainingError, match="other folds or settings"):
        cross_validate(data, result.output, folds=2, overrides={"epochs": 9}, resume=True)
    with pytest.raises(TrainingError) as caught:
        cross_validate(data, tmp_path / "new", folds=2, resume=True)
    assert caught.value.code == "training-no-checkpoint"
    for option in ({"holdout": ["x*"]}, {"train_split": "train"}, {"split": {"val": 0.1}}):
        with pytest.raises(ConfigError) as refused:
            cross_validate(data, tmp_path / "new", overrides=option)
        assert refused.value.code == "folds-options"
    assert not (tmp_path / "new").exists()
