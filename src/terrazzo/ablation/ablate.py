"""`ablate`: trains the networks of a study on a data set, and writes its table and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from terrazzo.ablation.figures import study_png
from terrazzo.ablation.results import Curves, Result, Row
from terrazzo.ablation.runs import Setting, trained
from terrazzo.ablation.studies import Study, Variant, find_study
from terrazzo.arguments import checked
from terrazzo.costs import count_operations_of_size, count_parameters, memory_of_forward, seconds_of_forward
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.evaluation.figures import masks_png
from terrazzo.interpret.figures import compared_fields_png
from terrazzo.interpret.receptive_field import receptive_fields
from terrazzo.models import build
from terrazzo.ownership import check_outputs, write_result, write_results
from terrazzo.text import printable, show
from terrazzo.training.data import open_splits
from terrazzo.training.overrides import full_paths
from terrazzo.training.recipe import Recipe
from terrazzo.training.record import machine_name
from terrazzo.training.train import recipe_for
from terrazzo.weights.files import TrainedModel

__all__ = ["ablate"]

EPOCHS = 20
NEVER = 1_000_000  # epochs between validations: the weights of the last step are compared

COUNTED_SIDES = (128, 256, 384, 512, 768, 1024, 1536, 2048)  # nothing is computed at these
MEASURED_SIDES = (128, 256, 384, 512)
SIDES = range(8, (1 << 16) + 1)

FILES = (".md", ".png", ".json")
PICTURES = {"masks": "_masks.png", "resources": "_receptive_fields.png"}
"""Endings of the file names of pictures besides the plot, by what a study measures."""

IMAGES_SHOWN = 3
FIELD_WINDOW = 256
"""Side of what is cut from the middle of photos at their own size for receptive fields; SETR's fill any window."""


@checked
def ablate(
    study: str | Study,
    data: str | Path,
    output: str | Path,
    *,
    labels: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    short_side: int | None = None,
    sides: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
    workers: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> Result:
    """Train the networks of one study alike, measure them, and write a table and plots.

    All of them learn from random weights by one recipe: that of `terrazzo.train` for a folder, for 20 epochs, without
    stochastic depth, and with the weights after the last step, not the best. Several studies can share an output
    folder; what one has trained the next does not train again. A study that was interrupted goes on where it was. Each
    network has an ordinary run folder under ``runs/``, for `terrazzo.load` and all commands.

    Args:
        study: position, patches, reduction, width, stages, decoders or models; or a `Study` of your own.
        data: the data set's folder.
        output: the folder for the table, the plots and the trained networks.
        labels: a bundled class list or a YAML file, for a folder that does not say what its classes are.
        overrides: recipe fields that take other values, such as ``{"epochs": 5, "crop": (128, 128)}``.
        short_side: bring photos to this shorter side before windows are cut, and in validation; by default as
            `terrazzo.train` does.
        sides: for the study ``position`` the shorter sides of the photos to validate at; for ``reduction`` and
            ``models`` the sides of the square images that are measured.
        only: the networks of the study to compare, by the names of their run folders; by default all.
        workers: loader processes.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        overwrite: replace tables and pictures that are not those of an earlier study, too.

    Returns:
        The finished study; its files are in `output`.

    Raises:
        ConfigError: the study or one of its networks is unknown, or an override is not usable.
        DatasetError: the data set cannot be read.
        MissingExtraError: the study needs transformers, which is not installed.
        TrainingError: the folder holds runs with other settings, or one diverged.
        OutputError: the output folder cannot be written to.
    """
    study = find_study(study) if isinstance(study, str) else study
    study = study if only is None else study.only(only)
    data, output = Path(data), Path(output)
    files = [output / f"{study.name}{suffix}" for suffix in FILES]
    picture = output / f"{study.name}{PICTURES[study.measures]}" if study.measures in PICTURES else None
    inputs = [data, *([] if labels is None else [Path(labels)])]
    check_outputs([*files, *([] if picture is None else [picture])], "ablate", inputs=inputs, overwrite=overwrite)
    _check_sides(study, sides)
    keep_freed_memory()
    recipe = _recipe(data, labels, overrides or {}, short_side)
    setting = Setting(data, recipe, *open_splits(recipe.data, data), output / "runs", workers, device)
    rows = [_counted(setting, variant) for variant in study.variants]  # what cannot be built fails here
    models = []
    for place, (variant, row) in enumerate(zip(study.variants, rows, strict=True)):
        _say(f"{place + 1}/{len(rows)}  {variant.title}: {row.parameters / 1e6:.2f} million parameters")
        model, scores = trained(setting, variant)
        rows[place] = replace(row, **scores, curves=_curves(setting, study, model, sides))
        models.append(model)
    photos = f"{len(setting.train)} photos to learn from, {len(setting.val)} to validate on"
    result = Result(
        study=study.name,
        title=study.title,
        claim=study.claim,
        data=f"{setting.train.root.resolve().name}: {photos}",
        machine=machine_name(find_device(device)),
        recipe=recipe,
        side=setting.side,
        rows=tuple(rows),
    )
    numbers = (json.dumps(result.to_dict(), indent=2) + "\n").encode()
    contents = (result.markdown().encode(), study_png(result), numbers)
    write_results(dict(zip(files, contents, strict=True)), "ablate")
    if picture is not None:
        draw = _masks if study.measures == "masks" else _fields
        write_result(picture, draw(setting, models), "ablate")
    return result


def _recipe(data: Path, labels: str | None, overrides: Mapping[str, Any], short_side: int | None) -> Recipe:
    changes = {"data.labels": labels, "run.epochs": None, "run.steps": None, **full_paths(overrides)}
    if changes["run.epochs"] is None and changes["run.steps"] is None:
        changes["run.epochs"] = EPOCHS
    own: dict[str, Any] = {"model.drop_path": 0.0, "run.validate_every": NEVER, "run.patience": None}
    if short_side is not None:
        long_side = 4 * short_side
        own |= {"data.preprocess.short_side": short_side, "data.preprocess.long_side": long_side}
        own |= {"augment.resize.box": (long_side, short_side)}
    recipe, _ = recipe_for(data, "segformer_b0", changes)
    return recipe.changed({**own, **changes})


def _check_sides(study: Study, sides: Sequence[int] | None) -> None:
    if sides is None:
        return
    if study.measures not in ("sizes", "attention", "resources"):
        raise ConfigError(
            f"the study {study.name} measures nothing at other sides",
            fix="leave --sides out (sides in Python); position, reduction and models have them",
            code="ablation-sides",
        )
    if not sides or min(sides) not in SIDES or max(sides) not in SIDES:
        given = ", ".join(map(show, sides)) or "none"
        fix = f"give some of {SIDES.start} to {SIDES.stop - 1} pixels"
        raise ConfigError(f"the sides are {given}", fix=fix, code="ablation-sides")


def _counted(setting: Setting, variant: Variant) -> Row:
    """Return what is known of a network before training."""
    network = build(setting.spec(variant))
    operations = count_operations_of_size(network, *setting.side)
    return Row(variant.key, variant.title, count_parameters(network), operations.macs, operations.attention_macs)


def _curves(setting: Setting, study: Study, model: TrainedModel, sides: Sequence[int] | None) -> Curves:
    """Return what a study measures of a trained network against the image's side."""
    network, device = model.network, find_device(setting.device)
    counted, measured = sides or COUNTED_SIDES, sides or MEASURED_SIDES
    if study.measures == "sizes":
        side = min(setting.side)
        chosen = sides or (side // 2, side * 3 // 4, side, side * 3 // 2, side * 2)
        largest = max(chosen)
        return {
            "mIoU_by_side": {side: setting.mIoU(model, side) for side in chosen},
            "mIoU_in_windows": {largest: setting.mIoU(model, largest, setting.windows)},
        }
    if study.measures == "attention":
        counts = {side: count_operations_of_size(network, side, side) for side in counted}
        return {"attention_by_side": {side: count.attention_macs for side, count in counts.items()}}
    if study.measures == "resources":
        return {
            "operations_by_side": {side: count_operations_of_size(network, side, side).macs for side in counted},
            "seconds_by_side": {side: seconds_of_forward(network, side, side, device) for side in measured},
            "memory_by_side": {side: memory_of_forward(network, side, side, device) for side in measured},
        }
    return {}


def _shown(setting: Setting) -> list[tuple[Any, Any]]:
    """Return some validation photos, evenly spaced, and their masks."""
    places = np.linspace(0, len(setting.val) - 1, IMAGES_SHOWN + 2).round().astype(int)[1:-1]
    return [setting.val.read(index) for index in sorted(set(places.tolist()))]


def _masks(setting: Setting, models: Sequence[TrainedModel]) -> bytes:
    """Draw some photos, their labels, and the masks of each network."""
    predictors = [setting.predictor(model) for model in models]
    rows = [[image, label, *(one.masks([image])[0] for one in predictors)] for image, label in _shown(setting)]
    return masks_png(rows, ["photo", "label", *(model.name for model in models)], setting.val.labels)


def _fields(setting: Setting, models: Sequence[TrainedModel]) -> bytes:
    """Draw the receptive fields of each network's last map and of its logits."""
    images = [image for image, _ in _shown(setting)]
    fields = []
    for model in models:
        whole = replace(model, preprocess=replace(model.preprocess, short_side=None, long_side=None))
        measured = receptive_fields(images, whole, window=FIELD_WINDOW, device=setting.device)
        fields.append((model.name, measured.fields[-2:]))
    return compared_fields_png(fields, len(images))


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
