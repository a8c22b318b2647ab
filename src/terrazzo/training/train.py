"""`train`: the public function from a folder of masks, or a recipe, to a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from terrazzo.arguments import checked
from terrazzo.data import DataRules, open_dataset
from terrazzo.data.photos import open_photos
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.errors import ConfigError, ImageError
from terrazzo.evaluation.report import Report
from terrazzo.imaging.band_rule import BandRule
from terrazzo.imaging.read import ReadOptions
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import ModelSpec
from terrazzo.text import printable
from terrazzo.training.artifacts import write_artifacts
from terrazzo.training.bands import band_rule, bands_to_choose, measured, read_by
from terrazzo.training.batch_size import AUTO, with_fitting_batch
from terrazzo.training.checkpoint import has_checkpoint
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.decoded import decoded_where_they_fit
from terrazzo.training.distributed import joined_ranks, restarted_by_torchrun
from terrazzo.training.dry_run import rehearse
from terrazzo.training.find_lr import find_learning_rate
from terrazzo.training.memory_plan import memory_plan
from terrazzo.training.overrides import full_paths
from terrazzo.training.preflight import disk_lines, fitting_workers, refuse_unreadable, usual_workers
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.record import machine_name
from terrazzo.training.run_folder import (
    CHECKPOINT_FOLDER,
    MODEL_FOLDER,
    RECIPE_FILE,
    clear_leftovers,
    locked,
    refuse_or_resume,
    write_recipe,
)
from terrazzo.training.sections import UnlabelledSection
from terrazzo.training.start import preprocess_changes, refuse_two_readings, starting_weights
from terrazzo.training.teacher import load_teacher
from terrazzo.training.trainer import Trainer
from terrazzo.weights.backbones import brings_weights, normalisation_for, split_name
from terrazzo.weights.load import StartingWeights

__all__ = ["Run", "recipe_for", "train"]

DEFAULT_ARCHITECTURE = "segformer_b0"
DEFAULT_DECODER = "all_mlp"
RANDOM = "random"
SHORT_SIDE, RESIZE_BOX = "data.preprocess.short_side", "augment.resize.box"


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        output: its folder.
        model: the folder of its best model, for `terrazzo.load`.
        report: the best model's scores on the validation photos.
        steps: optimiser steps that were taken.
        seconds: that they and the validations took.
    """

    output: Path
    model: Path
    report: Report
    steps: int
    seconds: float


@checked
def train(
    data: str | Path,
    output: str | Path,
    model: str | ModelSpec | None = None,
    *,
    encoder: str | None = None,
    recipe: str | Path | Recipe | None = None,
    labels: str | None = None,
    weights: str | Path | None = None,
    teacher: str | Path | None = None,
    unlabelled: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    reset_head: bool = False,
    resume: bool = False,
    check: bool = False,
    dry_run: bool = False,
    find_lr: bool = False,
    workers: int | None = None,
    device: str | None = None,
) -> Run | None:
    """Train a model and write a run folder: weights, configuration, log, curves, report, pictures.

    Args:
        data: the data set's folder.
        output: the run's folder.
        model: architecture name, or a `ModelSpec`, whose number of classes gives way to the data set's; by default the
            recipe's, or where there is no recipe segformer_b0, or with an encoder all_mlp.
        encoder: a backbone of Hugging Face transformers for a `model` that is a decoder alone: ``hf:`` and a model of
            its hub or a folder, with weights, or ``hf:`` and a ``config.json``, for random ones.
        recipe: a complete recipe or the path of one; by default one is made from the photos (`automatic_recipe`), or,
            to resume, the run's own is taken.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.
        weights: what to start from: a model of the same architecture, as `terrazzo.load` takes it, or an encoder alone,
            such as the ImageNet files that the papers start from; ``random`` where the recipe has weights and you have
            not.
        teacher: a model of the same classes, as `terrazzo.load` takes it, whose logits are learnt from too (knowledge
            distillation); the recipe's `teacher` says how.
        unlabelled: a folder of photos without masks, which are learnt from too, by pseudo-labels of the weight average;
            the recipe's `unlabelled` says how. Photos of the training and validation splits in it are left out.
        overrides: recipe fields that take other values, by their paths, such as ``{"run.epochs": 20, "augment.flip.p":
            0}``; for the fields of old flat recipes the old name is enough, as in ``{"epochs": 20}``. ``auto`` as the
            batch size is the largest power of two that fits into the free memory.
        reset_head: where the classes of `weights` are not the data set's, let its classifier start at random.
        resume: go on from the newest checkpoint in `output`; the result is the same as without the break. With more
            epochs or steps than were planned, the run is extended.
        check: decode every photo and mask before the first step; else only the photos' headers and the masks are read.
        dry_run: train nothing: say what the run would do, with every setting, time a few steps, and draw the first
            batch as a picture into `output`.
        find_lr: train nothing: try 100 steps with a growing learning rate, draw the loss over it into `output`, and say
            which rate to use.
        workers: loader processes; by default one for each core but one, at most 8, and no more than fit into /dev/shm.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.

    Returns:
        The finished run; None on the ranks that write no files, and after a dry run or a range test.

    Raises:
        ConfigError: an argument has another type, or the recipe or an override is not usable.
        DatasetError: the data set cannot be read.
        CheckpointError: the weights to start from cannot be read, or do not fit.
        TrainingError: the folder is taken, there is nothing to resume, a step does not fit into memory, there is no
            compiler, or the run diverged.
        OutputError: the output folder cannot be written to.
    """
    data, output = Path(data), Path(output)
    resume = resume or (restarted_by_torchrun() and has_checkpoint(output / CHECKPOINT_FOLDER))
    refuse_or_resume(output, resume)
    if resume and recipe is None and (output / RECIPE_FILE).exists():
        recipe = output / RECIPE_FILE
    given = {"model.encoder": encoder, "data.labels": labels, "model.weights": weights, "teacher.model": teacher}
    changes = full_paths({path: value for path, value in given.items() if value is not None} | dict(overrides or {}))
    if changes.get("model.weights") == RANDOM:
        changes["model.weights"] = None
    for length, other in (("run.epochs", "run.steps"), ("run.steps", "run.epochs")):
        if changes.get(length) is not None:
            changes.setdefault(other, None)  # whichever of the two the recipe has
    changes = with_training_at(changes)
    fits = changes.get("run.batch_size") == AUTO
    if fits:
        del changes["run.batch_size"]
    chosen, initial = _recipe(recipe, model, data, changes)
    chosen = with_photos_without_masks(chosen, unlabelled)
    train_split, val_split = open_splits(chosen.data, data)
    pixels_NK, _ = labelled_pixels(train_split, learns=True), labelled_pixels(val_split)
    rule = band_rule(chosen.data, train_split)
    train_split, val_split = read_by(train_split, rule), read_by(val_split, rule)
    refuse_unreadable((train_split, val_split), decode=False)
    if rule is not None and rule.ranges is None:
        preprocess = measured(rule, train_split, chosen.data.preprocess)
        chosen = replace(chosen, data=replace(chosen.data, preprocess=preprocess))
        train_split, val_split = read_by(train_split, preprocess.bands), read_by(val_split, preprocess.bands)
    (train_split, val_split), kept = decoded_where_they_fit((train_split, val_split))
    if check and not kept:
        refuse_unreadable((train_split, val_split), decode=True)
    photos, left_out = None, list[str]()
    if unlabelled is not None:
        photos, left_out = open_photos(
            Path(unlabelled), train_split.labels, train_split.reading, (train_split, val_split)
        )
        refuse_unreadable((photos,), decode=check)
    taught_by = None if chosen.teacher is None else load_teacher(chosen.teacher)
    if initial is None and not resume:
        initial = starting_weights(chosen.model.weights)
    if initial is not None:
        refuse_two_readings(initial, train_split)
    start = None if resume else initial
    with joined_ranks(device) as ranks, locked(output) if ranks.is_main else nullcontext():
        if ranks.is_main:
            clear_leftovers(output)
        if fits and not resume:
            chosen, line = with_fitting_batch(chosen, train_split, pixels_NK, ranks, taught_by, recipe is None)
            left_out.append(line)
        asked_for = workers is not None
        count, lines = fitting_workers(
            workers if workers is not None else usual_workers(), chosen, ranks.world_size, asked_for=asked_for
        )
        trainer = Trainer(
            chosen, train_split, val_split, pixels_NK, output, ranks, count, start, reset_head, photos, taught_by
        )
        trainer.log.say(_plan(trainer, data, start))
        network = None if trainer.teacher is None else trainer.teacher.network
        plan = memory_plan(trainer.unsharded, chosen, trainer.loss, ranks, network)
        for line in [*left_out, *lines, *plan.lines, *disk_lines(trainer.unsharded, chosen, output), *kept]:
            trainer.log.say(line)
        if plan.plenty:
            keep_freed_memory()  # which makes steps shorter, and the process larger
        if dry_run:
            rehearse(trainer)
            return None
        if find_lr:
            find_learning_rate(trainer)
            return None
        if resume:
            trainer.resume()
        if ranks.is_main:
            write_recipe(output, chosen)
        trainer.run()
        report = None
        if ranks.is_main:
            report = write_artifacts(output, chosen, val_split, ranks.device, trainer.log, trainer.record())
        ranks.wait()
    if report is None:
        return None
    return Run(output, output / MODEL_FOLDER, report, trainer.state.step, trainer.state.seconds)


def _recipe(
    recipe: str | Path | Recipe | None, model: str | ModelSpec | None, data: Path, changes: Mapping[str, Any]
) -> tuple[Recipe, StartingWeights | None]:
    """Return the recipe, and where it was made from the photos what it starts from."""
    initial = None
    if recipe is None:
        if isinstance(model, str):
            encoder, model = split_name(model, changes.get("model.encoder"))
            changes = changes if encoder is None else {**changes, "model.encoder": encoder}
        default = DEFAULT_DECODER if changes.get("model.encoder") else DEFAULT_ARCHITECTURE
        chosen, initial = recipe_for(data, model or default, changes)
    else:
        chosen = recipe if isinstance(recipe, Recipe) else Recipe.from_file(Path(recipe))
        spec = model if isinstance(model, ModelSpec) else None
        if model is not None and model != (chosen.model.name if spec is None else chosen.model.spec):
            raise ConfigError(
                f"the model asked for is {model if spec is None else spec.title}, and the recipe's is another: "
                f"{chosen.model.name}",
                fix="leave the model out, or take another recipe",
                code="recipe-model",
            )
    return chosen.changed(changes), initial


def recipe_for(data: Path, model: str | ModelSpec, changes: Mapping[str, Any]) -> tuple[Recipe, StartingWeights | None]:
    """Return the recipe that is made from a folder's photos, and what it starts from.

    Args:
        data: the data set's folder.
        model: as `train` takes it.
        changes: by the paths of their fields. Those that the rest of the recipe depends on are heeded: labels, splits,
            length, batch size, weights and encoder. The others are for `Recipe.changed`.
    """
    automatic_recipe(DEFAULT_ARCHITECTURE, [(1, 1)]).changed(changes)  # wrong values are told before photos are read
    spec = LabelSpec.named(changes["data.labels"]) if changes.get("data.labels") else None
    rules = DataRules.of_recipe({"split": changes.get("data.split"), "crowds": changes.get("data.crowds")})
    images = open_dataset(data, changes.get("data.train_split", "train"), spec, rules=rules).samples
    # The length of the warm-up depends on the number of steps, and the learning rate on what the run starts from.
    given = {key: changes.get(f"run.{key}") for key in ("epochs", "steps", "batch_size")}
    length = {key: value for key, value in given.items() if isinstance(value, int)}
    initial = starting_weights(changes.get("model.weights"))
    theirs, encoder = None if initial is None else initial.preprocess, changes.get("model.encoder")
    reading = ReadOptions()
    if changes.get("data.bands") is not None or (theirs is not None and theirs.bands is not None):
        reading = ReadOptions(rule=BandRule((1,)))  # for a look at the sizes; which bands there are is checked later
    try:
        sizes = [sample.image.with_reading(reading).size for sample in images]
    except ImageError as error:
        raise bands_to_choose(error) if error.code == "image-bands" else error from error
    recipe = automatic_recipe(
        model,
        sizes,
        encoder=encoder,
        pretrained=None if encoder is None else normalisation_for(encoder),
        weights=changes.get("model.weights"),
        preprocess=None if initial is None or initial.labels is None else theirs,
        short_side=side if isinstance(side := changes.get(SHORT_SIDE), int) else None,
        **length,
    )
    if initial is not None and initial.labels is None and theirs is not None:  # an encoder's normalisation
        preprocess = replace(recipe.data.preprocess, mean=theirs.mean, std=theirs.std)
        recipe = replace(recipe, data=replace(recipe.data, preprocess=preprocess))
    return recipe, initial


def with_photos_without_masks(recipe: Recipe, folder: str | Path | None) -> Recipe:
    """Give a recipe the section for photos without masks where a folder of them is named, and refuse it without one.

    Raises:
        ConfigError: the recipe has the section, and no folder is named (code "recipe-unlabelled").
    """
    if folder is not None and recipe.unlabelled is None:
        return replace(recipe, unlabelled=UnlabelledSection())
    if folder is None and recipe.unlabelled is not None:
        raise ConfigError(
            "this recipe learns from photos without masks too, and no folder of them is named",
            fix="add --unlabelled FOLDER, or --set unlabelled=null to do without them",
            code="recipe-unlabelled",
        )
    return recipe


def with_training_at(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Have training see photos at the size that validation and prediction will, where that is changed.

    Args:
        changes: by the paths of their fields.
    """
    side = changes.get(SHORT_SIDE)
    if not isinstance(side, int):
        return dict(changes)
    long_side = changes.get("data.preprocess.long_side") or 4 * side
    follow = {"data.preprocess.size": None, "data.preprocess.long_side": long_side, RESIZE_BOX: [long_side, side]}
    return {**follow, **changes}


def _plan(trainer: Trainer, data: Path, initial: StartingWeights | None) -> str:
    """Say what the run will do, so that a mistake is seen before the first step."""
    recipe, loader, ranks = trainer.recipe, trainer.loader, trainer.ranks
    bands = recipe.data.preprocess.bands
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    start = f"starting from {recipe.model.weights}" if recipe.model.weights else "from random weights"
    if initial is not None:
        start += f" ({initial.what}; licence {printable(initial.licence)})"
    elif recipe.model.weights is None and recipe.model.encoder is not None and brings_weights(recipe.model.encoder):
        start = "with the encoder's weights"
    height, width = recipe.crop
    schedule = f"{_counted(trainer.epochs, 'epoch')} of {_counted(loader.batches_per_epoch, 'step')}"
    if last := trainer.total_steps % loader.batches_per_epoch:
        schedule += f", the last of {last}"
    shared = f" on each of {ranks.world_size} processes" if ranks.world_size > 1 else ""
    if shared and recipe.run.sync_batchnorm and ranks.device.type == "cpu":
        shared += ", each with BatchNorm statistics of its own"
    schedule += f", {trainer.total_steps} in all; learning rate {recipe.optimizer.lr:g}"
    if recipe.optimizer.warmup_steps >= trainer.total_steps:
        schedule += f", which is never reached: warm-up takes {_counted(recipe.optimizer.warmup_steps, 'step')}"
    lines = {
        "model": f"{recipe.network}, {parameters:,} parameters, {start}",
        "data": f"{data}, taken for {loader.dataset.layout}: {trainer.labels.num_classes} classes, "
        f"{_counted(len(loader.dataset), 'photo')} to learn from, {len(trainer.val)} to validate on",
        **({} if initial is None or initial.preprocess is None else {"photos": _seen(recipe, initial)}),
        **({} if bands is None else {"bands": _in_words(bands)}),
        **_without_masks(trainer),
        "batch": f"{_counted(recipe.run.batch_size, 'window')} of {width} x {height}",
        "schedule": schedule,
        "machine": f"{machine_name(ranks.device)}, {'bf16' if trainer.bf16 else 'fp32'}, "
        f"{_counted(loader.workers, 'loader process')}{shared}",
        "output": str(trainer.output),
    }
    return "\n".join(f"{name:<9} {printable(text)}" for name, text in lines.items())


def _without_masks(trainer: Trainer) -> dict[str, str]:
    section = trainer.recipe.unlabelled
    if trainer.unlabelled is None or section is None:
        return {}
    how = f"pseudo-labels from {section.threshold:g} on" if section.weight else "labelled by the teacher alone"
    photos = _counted(len(trainer.unlabelled.dataset), "photo")
    return {"no masks": f"{photos}, {section.ratio} a step for each with a mask; {how}"}


def _seen(recipe: Recipe, initial: StartingWeights) -> str:
    """Say at what size the network is shown photos, and what that changes for the weights that it starts from."""
    after = recipe.data.preprocess
    before = initial.preprocess or after
    if initial.labels is None:  # an encoder alone knows no size
        before = replace(after, mean=before.mean, std=before.std)
    size = "as each is"
    if after.size is not None:
        size = "resized to {1} x {0}".format(*after.size)
    elif after.short_side is not None:
        size = f"resized to a short side of {after.short_side}"
    changed = preprocess_changes(before, after)
    kept = f"the recipe changes what the start was trained with: {changed}" if changed else "as for the start"
    return f"{size} in validation and after training; {kept}"


def _in_words(bands: BandRule) -> str:
    ranges = ", ".join(f"{low:g} to {high:g}" for low, high in bands.ranges or ())
    return f"{str(bands).partition(' ')[2]}{f'; scaled by their ranges {ranges}' if ranges else ''}"


def _counted(count: int, what: str) -> str:
    plural = "" if count == 1 else "es" if what.endswith("s") else "s"
    return f"{count} {what}{plural}"
