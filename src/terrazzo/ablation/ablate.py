"""`ablate`: the public function from a study's name and a data set to its table and plots."""

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
from terrazzo.ablation.runs import Setting, scores_by_side, train_variant, trained_network
from terrazzo.ablation.studies import Study, Variant, find_study
from terrazzo.arguments import checked
from terrazzo.atomic import make_folder
from terrazzo.costs import count_operations_of_size, count_parameters, memory_of_forward, seconds_of_forward
from terrazzo.data import DataRules, open_dataset
from terrazzo.engines.memory import keep_freed_memory
from terrazzo.engines.torch import find_device
from terrazzo.errors import ConfigError
from terrazzo.interpret.receptive_field import receptive_fields
from terrazzo.labels.spec import LabelSpec
from terrazzo.ownership import check_outputs, write_result, write_results
from terrazzo.text import printable
from terrazzo.training.data import open_splits
from terrazzo.training.overrides import full_paths
from terrazzo.training.recipe import Recipe, automatic_recipe
from terrazzo.training.record import machine_name
from terrazzo.weights.files import TrainedModel

__all__ = ["ablate"]

EPOCHS = 20
NEVER = 1_000_000  # epochs from one validation to the next: the last step's weights are what is compared

PHOTOS_SHOWN = 3
"""Photos whose masks are drawn side by side."""

COUNTED_SIDES = (128, 256, 384, 512, 768, 1024, 1536, 2048)
"""Image sides for which operations are counted; nothing is computed for that."""

ATTENTION_FILE = "reduction_attention.png"
MASKS_FILE, FIELDS_FILE = "patches_masks.png", "models_receptive_fields.png"
PICTURES = {"reduction": ATTENTION_FILE, "patches": MASKS_FILE, "models": FIELDS_FILE}
"""What a study draws besides its plot."""

FIELD_WINDOW = 256
"""Side of what is cut from the middle of photos at their own size for receptive fields; SETR's fill any window."""

MEASURED_SIDES = (128, 256, 384, 512)
"""Image sides for which time and memory are measured."""


@checked
def ablate(
    study: str,
    data: str | Path,
    output: str | Path,
    *,
    labels: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    short_side: int | None = None,
    sides: Sequence[int] | None = None,
    workers: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> Result:
    """Train the networks of one study alike, measure them, and write a table and plots.

    All of them learn from random weights by one recipe: that of `terrazzo.train` for a folder, for 20 epochs, without
    stochastic depth, and with the weights after the last step, not the best. Several studies can share an output
    folder; what one has trained the next does not train again. A study that was interrupted goes on where it was.

    Args:
        study: position, patches, reduction, width, stages, decoders or models.
        data: the data set's folder.
        output: the folder for the table, the plots and the trained networks.
        labels: a bundled class list for a folder that does not say what its classes are.
        overrides: recipe fields that take other values, such as ``{"epochs": 5, "crop": (128, 128)}``.
        short_side: bring photos to this shorter side before windows are cut, and in validation; by default as
            `terrazzo.train` does.
        sides: for the study ``position`` the shorter sides of the photos to validate at; for ``models`` the sides of
            the square images to measure time and memory with.
        workers: loader processes.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        overwrite: replace tables and pictures that are not those of an earlier study, too.

    Returns:
        The finished study; its files are in `output`.

    Raises:
        ConfigError: there is no such study, or an override is not usable.
        DatasetError: the data set cannot be read.
        MissingExtraError: the study needs transformers, which is not installed.
        TrainingError: the folder holds runs with other settings, or one diverged.
        OutputError: the output folder cannot be written to.
    """
    chosen = find_study(study)
    files = _files(chosen.name, Path(output))
    files += [Path(output, name) for study, name in PICTURES.items() if study == chosen.name]
    check_outputs(files, "ablate", inputs=[Path(data)], overwrite=overwrite)
    if sides is not None and (not sides or min(sides) < 8):
        raise ConfigError(
            f"sides are {', '.join(map(str, sides)) or 'none'}",
            fix="give some of at least 8 pixels",
            code="ablation-sides",
        )
    keep_freed_memory()
    recipe = _recipe(Path(data), labels, overrides or {}, short_side)
    train, val = open_splits(recipe.data, Path(data))
    setting = Setting(recipe, train, val, Path(output) / "runs", find_device(device), workers)
    rows = _costs(setting, chosen, sides)  # before any training, since what cannot be built fails here
    if chosen.name == "reduction":
        title = "Attention with and without sequence reduction in SegFormer-B0, by the ratios of its stages"
        write_result(make_folder(output) / ATTENTION_FILE, attention_png(rows, title), "ablate")
    trained = []
    for number, (variant, row) in enumerate(zip(chosen.variants, rows, strict=True), start=1):
        _say(f"{number}/{len(rows)}  {variant.title}: {row.parameters / 1e6:.2f} million parameters")
        result = train_variant(setting, variant)
        row = replace(row, **{key: result[key] for key in ("mIoU", "mAcc", "aAcc", "minutes", "steps")})
        trained.append(_more(setting, chosen, row, variant, sides))
    finished = Result(
        study=chosen.name,
        title=chosen.title,
        claim=chosen.claim,
        data=f"{train.root.resolve().name}: {len(train)} photos to learn from, {len(val)} to validate on",
        machine=machine_name(setting.device),
        recipe=recipe,
        rows=tuple(trained),
        side=_side(setting),
    )
    _write(finished, Path(output))
    if chosen.name == "patches":
        write_result(Path(output, MASKS_FILE), _masks(setting, chosen), "ablate")
    if chosen.name == "models":
        write_result(Path(output, FIELDS_FILE), _fields(setting, chosen), "ablate")
    return finished


def _files(study: str, folder: Path) -> list[Path]:
    """The files that a study's table, numbers and plot are written to."""
    return [folder / f"{study}{suffix}" for suffix in (".md", ".csv", ".png", ".json")]


def _write(result: Result, folder: Path) -> None:
    numbers = (json.dumps(result.to_dict(), indent=2) + "\n").encode()
    contents = (result.markdown().encode(), result.csv().encode(), study_png(result), numbers)
    write_results(dict(zip(_files(result.study, folder), contents, strict=True)), "ablate")


def _recipe(data: Path, labels: str | None, overrides: Mapping[str, Any], short_side: int | None) -> Recipe:
    spec = LabelSpec.bundled(labels) if labels else None
    changes = full_paths(overrides)
    rules = DataRules.of_recipe({"split": changes.get("data.split"), "crowds": changes.get("data.crowds")})
    photos = open_dataset(data, str(changes.get("data.train_split", "train")), spec, rules=rules).samples
    given = {key: changes.get(f"run.{key}") for key in ("epochs", "steps", "batch_size")}
    length = {key: value for key, value in given.items() if value is not None}
    if "steps" not in length:
        length.setdefault("epochs", EPOCHS)
    sizes = [photo.image.size for photo in photos]
    recipe = automatic_recipe("segformer_b0", sizes, **length)
    own: dict[str, Any] = {
        "data.labels": labels,
        "model.drop_path": 0.0,
        "run.validate_every": NEVER,
        "run.patience": None,
    }
    if short_side is not None:
        long_side = 4 * short_side
        own |= {"data.preprocess.short_side": short_side, "data.preprocess.long_side": long_side}
        own |= {"augment.resize.box": (long_side, short_side)}
    return recipe.changed({**own, **changes})


def _side(setting: Setting) -> tuple[int, int]:
    """Return the (height, width) at which the network sees the first validation photo, which costs are counted for."""
    return setting.recipe.data.preprocess.target_size(*setting.val.samples[0].image.size)


def _costs(setting: Setting, study: Study, sides: Sequence[int] | None) -> list[Row]:
    rows = []
    for variant in study.variants:
        network = setting.network(variant)
        operations = count_operations_of_size(network, *_side(setting))
        attention = {}
        if study.name == "reduction":
            attention = {
                side: count_operations_of_size(network, side, side).attention_macs for side in sides or COUNTED_SIDES
            }
        rows.append(
            Row(
                key=variant.key,
                title=variant.title,
                parameters=count_parameters(network),
                operations=operations.macs,
                attention=operations.attention_macs,
                attention_by_side=attention,
            )
        )
    return rows


def _more(setting: Setting, study: Study, row: Row, variant: Variant, sides: Sequence[int] | None) -> Row:
    """Add to a row what its study measures besides."""
    if study.name == "position":
        side = min(_side(setting))
        chosen = sides or (side // 2, side * 3 // 4, side, side * 3 // 2, side * 2)
        _say(f"{variant.title}: photos with shorter sides of {', '.join(map(str, chosen))}")
        return replace(
            row,
            mIoU_by_side=scores_by_side(setting, variant, chosen),
            mIoU_in_windows=scores_by_side(setting, variant, (max(chosen),), setting.windows),
        )
    if study.name == "models":
        chosen = sides or MEASURED_SIDES
        _say(f"{variant.title}: time and memory for images of {', '.join(map(str, chosen))} pixels a side")
        network = trained_network(setting, variant)
        return replace(
            row,
            operations_by_side={
                side: count_operations_of_size(network, side, side).macs for side in sides or COUNTED_SIDES
            },
            seconds_by_side={side: seconds_of_forward(network, side, side, setting.device) for side in chosen},
            memory_by_side={side: memory_of_forward(network, side, side, setting.device) for side in chosen},
        )
    return row


def _shown_photos(setting: Setting) -> list[tuple[NDArray[np.uint8], NDArray[Any]]]:
    """Return some validation photos, evenly spaced, and their masks."""
    places = np.linspace(0, len(setting.val) - 1, PHOTOS_SHOWN + 2).round().astype(int)[1:-1]
    return [setting.val.read(index) for index in sorted(set(places.tolist()))]


def _masks(setting: Setting, study: Study) -> bytes:
    """Draw some photos, their labels, and the masks of each variant of a study."""
    labels, pairs = setting.val.labels, _shown_photos(setting)
    pictures = [[image, labels.colorize(label)] for image, label in pairs]
    for variant in study.variants:
        predictor = setting.predictor(trained_network(setting, variant))
        for row, (image, _) in zip(pictures, pairs, strict=True):
            row.append(labels.colorize(predictor.masks([image])[0]))
    headings = ["photo", "label", *(variant.title for variant in study.variants)]
    return masks_png(pictures, headings, study.title, labels)


def _fields(setting: Setting, study: Study) -> bytes:
    """Draw what the middle of each network's last map, and of its result, depends on."""
    recipe = setting.recipe
    photos = [image for image, _ in _shown_photos(setting)]
    as_they_are = replace(recipe.data.preprocess, short_side=None, long_side=None)
    measured = []
    for variant in study.variants:
        _say(f"{variant.title}: receptive fields")
        network = trained_network(setting, variant)
        model = TrainedModel(variant.name, network, setting.train.labels, as_they_are, name=variant.title)
        measured.append(receptive_fields(photos, model, window=FIELD_WINDOW, device=str(setting.device)))
    return fields_png(measured)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
