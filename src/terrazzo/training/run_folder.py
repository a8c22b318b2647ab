"""The run folder: what is where in it, and that only one run writes to it.

model/           the best model so far; `--model RUN` finds it
checkpoints/     state to resume from, two generations
recipe.yaml      everything that decided the result
log.csv          one row an epoch; tensorboard/ has the same numbers
curves.png       loss, learning rate and mIoU over the epochs
report/          scores of the best model: table, JSON, per-class chart, confusion matrix
predictions.png  photos, labels, predictions and errors side by side
batch.png        what a dry run draws: the first batch, as the network sees it
find_lr.png      what a learning-rate range test draws: the loss over the rate
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terrazzo.atomic import PARTIAL_PREFIX, make_folder
from terrazzo.errors import OutputError, TrainingError
from terrazzo.ownership import is_unchanged, set_aside, write_result
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.log import LOG_FILE
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.recipe import Recipe
from terrazzo.training.recipe_text import recipe_text
from terrazzo.weights.files import CONFIG_FILE

__all__ = [
    "BATCH_FILE",
    "CHECKPOINT_FOLDER",
    "CURVES_FILE",
    "MODEL_FOLDER",
    "RATES_FILE",
    "RECIPE_FILE",
    "REPORT_FOLDER",
    "SHEET_FILE",
    "clear_leftovers",
    "locked",
    "refuse_or_resume",
    "write_recipe",
]

MODEL_FOLDER, CHECKPOINT_FOLDER, REPORT_FOLDER = "model", "checkpoints", "report"
RECIPE_FILE, CURVES_FILE, SHEET_FILE = "recipe.yaml", "curves.png", "predictions.png"
BATCH_FILE, RATES_FILE = "batch.png", "find_lr.png"

EVENTS_FOLDER = "tensorboard"

WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What some network file systems answer: a run on them is not protected from a second one."""


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the run folder for this run; the system lets go of it however the process ends.

    Raises:
        TrainingError: another run holds it.
        OutputError: it cannot be written to.
    """
    make_folder(output)
    try:
        lock = os.open(output / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written to: {error.strerror}",
            fix="choose a folder you may write to",
            code="output-not-writable",
        ) from error
    try:
        _take(lock, output)
        yield
    finally:
        os.close(lock)


def _take(lock: int, output: Path) -> None:
    try:
        # Unlike flock's, this lock is not passed on to loader processes, which outlive a killed run by seconds.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise TrainingError(
                f"another run is writing to {output}",
                fix="wait for it, or choose another --output",
                code="training-locked",
            ) from error
        if error.errno not in WITHOUT_LOCKS:
            raise


def refuse_or_resume(output: Path, resume: bool) -> None:
    """Refuse to write over an earlier run or anything else, or to resume where there is none.

    Raises:
        TrainingError: one of these.
    """
    there = has_checkpoint(output / CHECKPOINT_FOLDER)
    if there and not resume:
        raise TrainingError(
            f"{output} holds an earlier run",
            fix="add --resume to go on with it, or choose another --output",
            code="training-output-taken",
        )
    # A run that was killed before its first checkpoint leaves nothing worth keeping, and its own recipe shows that.
    kept = (MODEL_FOLDER, REPORT_FOLDER, CURVES_FILE, SHEET_FILE)
    began = is_unchanged(output / RECIPE_FILE, "train")
    foreign = kept if began else (*kept, CHECKPOINT_FOLDER, RECIPE_FILE, LOG_FILE, EVENTS_FOLDER)
    if not resume and (taken := [name for name in foreign if os.path.lexists(output / name)]):
        raise TrainingError(
            f"{output} holds {', '.join(taken)}, which the run would replace",
            fix="choose another --output, or move them away",
            code="training-output-taken",
        )
    if resume and not there:
        raise TrainingError(
            f"{output} holds no checkpoint to resume from",
            fix="leave --resume out to start a new run",
            code="training-no-checkpoint",
        )


def clear_leftovers(output: Path) -> None:
    """Remove what a killed process had half written, and put back a model that it had moved aside."""
    model = output / MODEL_FOLDER
    for folder in (output, output / CHECKPOINT_FOLDER):
        for leftover in sorted(folder.glob(f"{PARTIAL_PREFIX}*")):
            if not leftover.is_dir():
                leftover.unlink(missing_ok=True)
            elif (leftover / CONFIG_FILE).is_file() and not model.exists():
                # A model folder's files are complete once its configuration, the last one, is there.
                os.rename(leftover, model)
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def write_recipe(output: Path, recipe: Recipe | PretrainRecipe) -> None:
    """Write the recipe in full, with the fields in their order, so that it reads on its own.

    Raises:
        OutputError: the folder cannot be written to.
    """
    command = f"terrazzo train --recipe {RECIPE_FILE} --data FOLDER --output ANOTHER-RUN"
    if isinstance(recipe, PretrainRecipe):
        command = f"terrazzo pretrain FOLDER --recipe {RECIPE_FILE} --output ANOTHER-RUN"
    head = f"# Everything that decided the result of this run; to repeat it:\n#\n#   {command}\n"
    set_aside([output / RECIPE_FILE], "train")
    write_result(output / RECIPE_FILE, f"{head}{recipe_text(recipe)}".encode(), "train")
