"""Experiment trackers: the numbers of a run's epochs for TensorBoard, Weights & Biases and MLflow, where installed.

tensorboard   event files in RUN/tensorboard
wandb         RUN/wandb; offline unless WANDB_MODE says otherwise, and `wandb sync` sends it later
mlflow        RUN/mlruns, or the server of MLFLOW_TRACKING_URI

A new one: a class with `log` and `close`, and one row of TRACKERS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from terrazzo.config import read_json
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.ownership import write_result
from terrazzo.text import did_you_mean, show

__all__ = ["TRACKERS", "Tracked", "Tracker", "dotted", "find_trackers", "open_tracker"]

USUAL = "tensorboard"
PROJECT = "terrazzo"
IDS_FILE = "tracking.json"
"""Names the run at each tracker, so that a resumed run goes on there."""

LONGEST_PARAMETER = 500  # characters that MLflow takes


@dataclass(frozen=True)
class Tracked:
    """The run that is tracked.

    Attributes:
        output: its folder.
        step: its last finished step; 0 where it begins.
        settings: everything that decides its result, as a recipe has it.
    """

    output: Path
    step: int
    settings: Mapping[str, Any]

    def known_id(self, tracker: str) -> str | None:
        """What the run is called there, if it is resumed."""
        path = self.output / IDS_FILE
        found = read_json(path) if self.step and path.is_file() else {}
        value = found.get(tracker) if isinstance(found, Mapping) else None
        return value if isinstance(value, str) else None

    def keep_id(self, tracker: str, value: str) -> None:
        """Keep what the run is called there."""
        import json

        path = self.output / IDS_FILE
        found = read_json(path) if path.is_file() else {}
        ids = {key: known for key, known in found.items() if key in TRACKERS} if isinstance(found, Mapping) else {}
        write_result(path, f"{json.dumps({**ids, tracker: value}, indent=2)}\n".encode(), "train")


class Tracker(Protocol):
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note numbers by their names."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote beyond its last checkpoint is dropped.
        self.writer: Any = SummaryWriter(str(run.output / USUAL), purge_step=run.step + 1 if run.step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, run: Tracked) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.output.resolve().name,
            dir=str(run.output),
            id=run.known_id("wandb"),
            resume="allow",
            config=dotted(run.settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        run.keep_id("wandb", self.run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    def __init__(self, run: Tracked) -> None:
        from mlflow import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if not place:  # files are enough for one run, and MLflow wants to be told that they are meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (run.output / "mlruns").resolve().as_uri()
        client: Any = MlflowClient(place)
        self.client, self.id = client, run.known_id("mlflow")
        if self.id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = client.get_experiment_by_name(name)
            number = client.create_experiment(name) if experiment is None else experiment.experiment_id
            self.id = client.create_run(number, run_name=run.output.resolve().name).info.run_id
            for key, value in dotted(run.settings).items():
                client.log_param(self.id, key, str(value)[:LONGEST_PARAMETER])
            run.keep_id("mlflow", self.id)
        else:
            client.update_run(self.id, status="RUNNING")

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self) -> None:
        self.client.set_terminated(self.id)


TRACKERS: dict[str, tuple[Callable[[Tracked], Tracker], str, str]] = {
    "tensorboard": (TensorBoard, "tensorboard", "tensorboard"),
    "wandb": (WeightsAndBiases, "wandb", "wandb"),
    "mlflow": (MLflow, "mlflow", "mlflow-skinny"),
}
"""Name -> (class, the module that it needs, the package that brings it)."""


def find_trackers(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the trackers that a run reports to; by default TensorBoard, where it is installed.

    Args:
        names: of trackers, as a list or with commas between.

    Raises:
        ConfigError: there is none of that name.
        MissingExtraError: its package is not installed.
    """
    if names is None:
        return (USUAL,) if find_spec(USUAL) is not None else ()
    listed = names.split(",") if isinstance(names, str) else names
    chosen = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    for name in chosen:
        if name not in TRACKERS:
            raise ConfigError(
                f"there is no tracker {show(name)}",
                fix=f"{did_you_mean(name, TRACKERS)}choose from {', '.join(TRACKERS)}",
                code="tracker-name",
            )
        _, module, package = TRACKERS[name]
        if find_spec(module) is None:
            raise MissingExtraError(package, "train" if name == USUAL else "tracking")
    return chosen


def dotted(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A recipe's values by the paths of their names, such as ``run.epochs`` and ``augment.flip.p``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            value = {row["name"]: {name: field for name, field in row.items() if name != "name"} for row in value}
        if isinstance(value, Mapping) and value:
            found |= dotted(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def open_tracker(name: str, run: Tracked) -> Tracker:
    """Begin to report a run to a tracker, or go on."""
    return TRACKERS[name][0](run)
