"""Experiment trackers get the numbers of log.csv; tested with their real packages where they are installed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.training import trackers as trackers_module
from terrazzo.training.log import RunLog
from terrazzo.training.trackers import dotted, find_trackers

SETTINGS = {"run": {"epochs": 3, "seed": 7}, "augment": [{"name": "flip", "p": 0.5}], "loss": []}


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "")  # so that it is put back afterwards
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")


def track(folder: Path, name: str, losses: list[float], before: int = 0) -> None:
    """Two epochs of one step, or so many as there are losses, after others."""
    log = RunLog(folder, trackers=[name], settings=SETTINGS)
    with log.progress(9, before):
        for number, loss in enumerate(losses, start=before + 1):
            log.begin_epoch()
            log.step(number, loss, 1e-3, 2)
            log.epoch(number, 9, number, 1e-3, None, 1.0, False)


def test_settings_are_named_by_their_paths() -> None:
    assert dotted(SETTINGS) == {"run.epochs": 3, "run.seed": 7, "augment.flip.p": 0.5, "loss": []}


def test_names_are_checked_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no tracker 'wanbd'") as caught:
        find_trackers("tensorboard,wanbd")
    assert caught.value.fix.startswith("did you mean wandb?") and caught.value.code == "tracker-name"
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="mlflow-skinny is not installed"):
        find_trackers(["mlflow"])
    assert find_trackers(None) == ()
    monkeypatch.setattr(trackers_module, "find_spec", lambda name: name)
    assert find_trackers(None) == ("tensorboard",)
    assert find_trackers(" wandb, mlflow,wandb ") == ("wandb", "mlflow")
    assert find_trackers("") == ()


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(tmp_path, "tensorboard", [0.5, 0.25])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    track(tmp_path, "mlflow", [0.5, 0.25])
    track(tmp_path, "mlflow", [0.125], before=2)  # resumed
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("terrazzo").experiment_id])
    assert run.info.run_name == tmp_path.name and run.info.status == "FINISHED"
    assert run.data.params["run.epochs"] == "3" and run.data.params["augment.flip.p"] == "0.5"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.25), (3, 0.125)]


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, in which W&B keeps runs behind a header of 7 bytes."""
    place, record, block = 7, b"", 32768  # the header counts as a part of the first block
    data = bytes(7) + data
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2 as messages

    track(tmp_path, "wandb", [0.5, 0.25])
    wandb.teardown()  # ends its process, which has then written everything
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    losses, config = [], {}
    for data in leveldb_records(file.read_bytes()[7:]):
        record = messages.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            if key == "loss":
                losses.append(json.loads(item.value_json))
        for item in record.run.config.update:
            config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert losses == [0.5, 0.25]
    assert config["run.epochs"] == 3
    ids = json.loads((tmp_path / "tracking.json").read_text())
    assert file.stem == f"run-{ids['wandb']}"
