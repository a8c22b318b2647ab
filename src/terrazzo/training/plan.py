"""What a run was started with, and whether it may go on with what it is given now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from terrazzo.errors import TrainingError
from terrazzo.labels.matching import match_classes, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.training.pretrain_recipe import PretrainRecipe
from terrazzo.training.recipe import Recipe

__all__ = ["Plan", "refuse_other_labels", "refuse_other_plan"]

FREE = ("run.checkpointing", "run.fsdp")
"""Fields that may change: neither computing inner values again nor sharing parameters out changes what is learnt, and
both help a run that ran out of memory."""

LENGTH = ("run.epochs", "run.steps", "epochs")
"""Fields that may change to more steps: a run that has ended is extended by them."""


@dataclass(frozen=True)
class Plan:
    """What decides how a run goes on.

    Attributes:
        recipe: what is learnt and how.
        labels: the classes, and what the masks store for them; None in pretraining, and in checkpoints from before they
            were noted.
        total_steps: steps of the whole run; None likewise.
    """

    recipe: Recipe | PretrainRecipe
    labels: LabelSpec | None
    total_steps: int | None


def refuse_other_plan(before: Plan, now: Plan, output: Path) -> None:
    """See that a run goes on as it was started.

    Args:
        before: its checkpoint's.
        now: what is asked for.
        output: the run's folder.

    Raises:
        TrainingError: they differ in what decides the result.
    """
    changed = [path for path in _differences(now.recipe, before.recipe) if path not in FREE]
    is_longer = before.total_steps is not None and (now.total_steps or 0) > before.total_steps
    if set(changed) & set(LENGTH) and not set(changed) - set(LENGTH) and not is_longer:
        raise TrainingError(
            f"{output} was planned for {before.total_steps or 'other'} steps, and {now.total_steps} are not more",
            fix="resume without --epochs and --steps, or give more than were planned",
            code="training-resume",
        )
    if set(changed) - (set(LENGTH) if is_longer else set()):
        raise TrainingError(
            f"{output} was trained with another {', '.join(changed)}",
            fix="resume with the options it was started with, or train into a new folder",
            code="training-resume",
        )
    if before.total_steps is not None and before.total_steps != now.total_steps and not changed:
        raise TrainingError(
            f"{output} was to have {before.total_steps} steps, and has {now.total_steps} with these photos",
            fix="resume with the photos it was started with, or train into a new folder",
            code="training-resume",
        )
    if before.labels is not None and now.labels is not None:
        refuse_other_labels(before.labels, now.labels, output)


def _differences(now: Recipe | PretrainRecipe, before: Recipe | PretrainRecipe) -> list[str]:
    if isinstance(now, Recipe) and isinstance(before, Recipe):
        return now.differences(before)
    assert isinstance(now, PretrainRecipe)
    assert isinstance(before, PretrainRecipe)
    return now.differences(before)


def refuse_other_labels(before: LabelSpec, now: LabelSpec, output: Path) -> None:
    """See that a run goes on with the classes that it has learnt so far.

    Raises:
        TrainingError: classes have other names or places, or masks are read otherwise.
    """
    matching = match_classes(now.names, before.names)
    if matching is not None and matching.table is None and _reading(now) == _reading(before):
        return
    changed = ": what masks store has changed"
    if now.names != before.names:
        changed = f" {side_by_side(now.names, before.names, ('the data', 'the run'))}"
    raise TrainingError(
        f"{output} was trained with other labels than the data set has now{changed}",
        fix="put labels.yaml back as it was, or train into a new folder",
        code="training-resume",
    )


def _reading(labels: LabelSpec) -> tuple[object, ...]:
    return dict(labels.stored_values), labels.colors
