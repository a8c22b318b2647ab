"""The run folder: what is where in it, and that only one run writes to it.

model/           the best model so far; `--model RUN` finds it
checkpoints/     state to resume from, two generations
recipe.yaml      everything that decided the result
log.csv          one row an epoch; tensorboard/ has the same numbers
curves.png       loss, learning rate and mIoU over the epochs
report/          scores of the best model: table, JSON, per-class chart, confusion matrix
predictions.png  photos, labels and predictions side by side
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terrazzo.errors import TrainingError
from terrazzo.files import make_folder
from terrazzo.training.checkpoint import has_checkpoint

__all__ = ["CHECKPOINT_FOLDER", "MODEL_FOLDER", "locked", "refuse_or_resume"]

MODEL_FOLDER = "model"
CHECKPOINT_FOLDER = "checkpoints"


@contextmanager
def locked(output: Path, is_main: bool = True) -> Iterator[None]:
    """Hold the run folder for this run; the system lets go of it however the process ends.

    Raises:
        TrainingError: another run holds it.
    """
    if not is_main:
        yield
        return
    make_folder(output)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"another run is writing to {output}",
                fix="wait for it, or choose another --output",
                code="training-locked",
            ) from error
        yield


def refuse_or_resume(output: Path, resume: bool) -> None:
    """Refuse to write over an earlier run, or to resume where there is none.

    Raises:
        TrainingError: either of the two.
    """
    there = has_checkpoint(output / CHECKPOINT_FOLDER)
    if there and not resume:
        raise TrainingError(
            f"{output} holds an earlier run",
            fix="add --resume to go on with it, or choose another --output",
            code="training-output-taken",
        )
    if resume and not there:
        raise TrainingError(
            f"{output} holds no checkpoint to resume from",
            fix="leave --resume out to start a new run",
            code="training-no-checkpoint",
        )
