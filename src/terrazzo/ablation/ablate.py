"""`ablate`: trains the networks of a study on a data set, and writes its table and plots."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrazzo.ablation.figures import attention_png, fields_png, masks_png, study_png
from terrazzo.ablation.results import Result, Row
from terrazzo.ablation.runs import Setting, scores_by_side, train_variant, trained_model
from terrazzo.ablation.studies import Study, Variant, find_study
from terrazzo.arguments import checked
from terrazzo.costs import count_operations_of_size, count_parameters, memory_of_forward, seconds_of_forward
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
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

COUNTED_SIDES = (128, 256, 384, 512, 768, 1024, 1536, 2048)
"""Image sides for which operations are counted, without running the network."""

MOST_SIDE = 1 << 16

MEASURED_SIDES = (128, 256, 384, 512)
"""Image sides for which time and memory are measured."""

FILES = (".md", ".csv", ".png", ".json")
PICTURES = {"attention": "_attention.png", "masks": "_masks.png", "resources": "_receptive_fields.png"}
"""Pictures besides the plot, by what a study measures: the endings of their file names."""

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
    pictures = [output / f"{study.name}{suffix}" for what, suffix in PICTURES.items() if what == study.measures]
    inputs = [data, *([] if labels is None else [Path(labels)])]
    check_outputs([*files, *pictures], "ablate", inputs=inputs, overwrite=overwrite)
    if sides is not None and (not sides or min(sides) < 8):
        given = ", ".join(map(str, sides)) or "none"
        raise ConfigError(f"sides are {given}", fix="give some of at least 8 pixels", code="ablation-sides")
    if sides is not None and max(sides) > MOST_SIDE:
        raise ConfigError(
            f"a side is {show(max(sides))}", fix=f"give at most {MOST_SIDE} pixels", code="ablation-sides"
        )
    if sides is not None and study.measures not in ("sizes", "attention", "resources"):
        raise ConfigError(
            f"the study {study.name} measures nothing at other sides",
            fix="leave --sides out (sides in Python); position, reduction and models have them",
            code="ablation-sides",
        )
    keep_freed_memory()
    recipe = _recipe(data, labels, overrides or {}, short_side)
    setting = Setting(data, recipe, *open_splits(recipe.data, data), output / "runs", workers, device)
    rows = [_costs(setting, study, variant, sides) for variant in study.variants]  # what cannot be built fails here
    if study.measures == "attention":
        write_result(pictures[0], attention_png(rows), "ablate")
    models = []
    for number, variant in enumerate(study.variants):
        _say(f"{number + 1}/{len(rows)}  {variant.title}: {rows[number].parameters / 1e6:.2f} million parameters")
        scores = train_variant(setting, variant)
        models.append(trained_model(setting, variant))
        more = _measured(setting, study, variant, models[-1], sides)
        rows[number] = replace(rows[number], **scores, **more)
    train, val = setting.train, setting.val
    result = Result(
        study=study.name,
        title=study.title,
        claim=study.claim,
        data=f"{train.root.resolve().name}: {len(train)} photos to learn from, {len(val)} to validate on",
        machine=machine_name(find_device(device)),
        recipe=recipe,
        rows=tuple(rows),
        side=_side(setting),
    )
    numbers = (json.dumps(result.to_dict(), indent=2) + "\n").encode()
    contents = (result.markdown().encode(), result.csv().encode(), study_png(result), numbers)
    write_results(dict(zip(files, contents, strict=True)), "ablate")
    if study.measures == "masks":
        write_result(pictures[0], _masks(setting, study, models), "ablate")
    if study.measures == "resources":
        write_result(pictures[0], _fields(setting, models), "ablate")
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


def _side(setting: Setting) -> tuple[int, int]:
    """Return the (height, width) at which the network sees the first validation photo, which costs are counted for."""
    return setting.recipe.data.preprocess.target_size(*setting.val.samples[0].image.size)


def _costs(setting: Setting, study: Study, variant: Variant, sides: Sequence[int] | None) -> Row:
    network = build(setting.spec(variant))
    operations = count_operations_of_size(network, *_side(setting))
    counted = sides or COUNTED_SIDES if study.measures == "attention" else ()
    return Row(
        key=variant.key,
        title=variant.title,
        parameters=count_parameters(network),
        operations=operations.macs,
        attention=operations.attention_macs,
        attention_by_side={side: count_operations_of_size(network, side, side).attention_macs for side in counted},
    )


def _measured(
    setting: Setting, study: Study, variant: Variant, model: TrainedModel, sides: Sequence[int] | None
) -> dict[str, Any]:
    """Return the curves that a study adds to a row."""
    if study.measures == "sizes":
        side = min(_side(setting))
        chosen = sides or (side // 2, side * 3 // 4, side, side * 3 // 2, side * 2)
        _say(f"{variant.title}: photos with shorter sides of {', '.join(map(str, chosen))}")
        largest = scores_by_side(setting, variant, model, (max(chosen),), setting.windows)
        return {"mIoU_by_side": scores_by_side(setting, variant, model, chosen), "mIoU_in_windows": largest}
    if study.measures == "resources":
        chosen = sides or MEASURED_SIDES
        _say(f"{variant.title}: time and memory for images of {', '.join(map(str, chosen))} pixels a side")
        network, device = model.network, find_device(setting.device)
        counted = sides or COUNTED_SIDES
        return {
            "operations_by_side": {side: count_operations_of_size(network, side, side).macs for side in counted},
            "seconds_by_side": {side: seconds_of_forward(network, side, side, device) for side in chosen},
            "memory_by_side": {side: memory_of_forward(network, side, side, device) for side in chosen},
        }
    return {}


def _shown_images(setting: Setting) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return some validation photos, evenly spaced, and their masks."""
    places = np.linspace(0, len(setting.val) - 1, IMAGES_SHOWN + 2).round().astype(int)[1:-1]
    return [setting.val.read(index) for index in sorted(set(places.tolist()))]


def _masks(setting: Setting, study: Study, models: Sequence[TrainedModel]) -> bytes:
    """Draw some photos, their labels, and the masks of each network."""
    labels, predictors = setting.val.labels, [setting.predictor(model) for model in models]
    pictures = []
    for image, label in _shown_images(setting):
        masks = [label, *(predictor.masks([image])[0] for predictor in predictors)]
        pictures.append([image, *map(labels.colorize, masks)])
    headings = ["photo", "label", *(variant.title for variant in study.variants)]
    return masks_png(pictures, headings, study.title, labels)


def _fields(setting: Setting, models: Sequence[TrainedModel]) -> bytes:
    """Draw what the middle of each network's last map, and of its result, depends on."""
    images = [image for image, _ in _shown_images(setting)]
    measured = []
    for model in models:
        _say(f"{model.name}: receptive fields")
        whole = replace(model, preprocess=replace(model.preprocess, short_side=None, long_side=None))
        measured.append(receptive_fields(images, whole, window=FIELD_WINDOW, device=setting.device))
    return fields_png(measured)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
