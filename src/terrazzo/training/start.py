"""What a run starts from: a trained model, or the encoder of one that was trained on something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from terrazzo.data import Dataset
from terrazzo.data.readings import read_by
from terrazzo.errors import CheckpointError
from terrazzo.labels.matching import match_classes, only_numbered, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.models.segmenter import Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.text import show, shown_path
from terrazzo.training.bands import refuse_other_bands
from terrazzo.training.freezing import freeze
from terrazzo.training.recipe import Recipe
from terrazzo.weights.backbones import brings_weights, weights_folder
from terrazzo.weights.catalog import known_licence
from terrazzo.weights.create import create_model
from terrazzo.weights.load import StartingWeights, load_starting_weights
from terrazzo.weights.model_card import licence_in_model_card
from terrazzo.weights.origin import origin_of_run

__all__ = [
    "Start",
    "in_order",
    "preprocess_changes",
    "refuse_two_readings",
    "start_from",
    "start_network",
    "starting_weights",
]

CLASSIFIER = re.compile(r"(decoder|auxiliary\.\d+)\.classifier\.")


@dataclass(frozen=True)
class Start:
    """What was taken over from the weights that a run starts from.

    Attributes:
        is_whole: the classifier was, so that the network segments before its first step.
        notes: what the user should know.
        origin: licence and origin, for the record of the run.
        frozen: parts of the network that stay in evaluation mode.
    """

    is_whole: bool = False
    notes: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[nn.Module, ...] = ()


def start_network(
    recipe: Recipe,
    labels: LabelSpec,
    device: torch.device,
    initial: StartingWeights | None,
    reset_head: bool,
) -> tuple[Segmenter, Start]:
    """Return the network that a recipe trains, as it is before the first step, and what it has taken over.

    Args:
        recipe: says what is trained.
        labels: the data set's classes.
        device: where it is to be trained.
        initial: weights to start from.
        reset_head: let a classifier for other classes go.

    Raises:
        CheckpointError: as `start_from`.
    """
    section = recipe.model
    asked = None if section.spec is None else section.spec.in_channels
    bands = refuse_other_bands(recipe.data.preprocess, asked, recipe.network)
    network = create_model(
        section.spec or section.name, labels.num_classes, section.drop_path, recipe.crop, section.encoder, bands
    )
    if not section.auxiliary_weight:
        network.drop_auxiliary()
    start = Start()
    if initial is not None:
        start = start_from(network, initial, recipe, reset_head, labels.names)
        start = replace(start, origin=dict(initial.origin))
    elif section.weights is None and section.encoder is not None and brings_weights(section.encoder):
        start = Start(origin=encoder_origin(section.encoder))
    if section.freeze is not None:
        start = replace(start, frozen=tuple(freeze(network.encoder, section.freeze)))
        if section.weights is None and not start.origin:
            start = replace(start, notes=(*start.notes, "note: what is frozen starts from random weights"))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.run.checkpointing:
        blocks: Any = network.encoder
        blocks.recompute_blocks()
    return network, start


def starting_weights(weights: str | None) -> StartingWeights | None:
    """Load what a run starts from; None for random weights.

    Raises:
        CheckpointError: it is not there, or cannot be used.
    """
    if weights is None:
        return None
    if not weights.strip():
        raise CheckpointError(
            "the weights to start from have an empty name",
            fix="give a model, a file or a folder, or leave --weights out",
            code="checkpoint-missing",
        )
    try:
        return load_starting_weights(weights)
    except CheckpointError as error:
        if error.code != "checkpoint-missing":
            raise
        raise CheckpointError(
            f"this run is to start from {shown_path(weights)}, which is not here: {error.message}",
            fix="give the path of your copy with --weights, or start from random weights with --weights random",
            code=error.code,
        ) from error


def start_from(
    network: Segmenter, initial: StartingWeights, recipe: Recipe, reset_head: bool, names: tuple[str, ...] | None = None
) -> Start:
    """Copy the tensors to start from into a network.

    Classes are matched by name: where the data set counts them in another order, the rows of the classifiers are put
    into it. Of an encoder alone the rest stays random, and so do auxiliary heads that the start does not have. Position
    embeddings for another image size are resized, as in SETR's code.

    Args:
        network: what is to be trained, with random weights.
        initial: what to copy.
        recipe: for messages.
        reset_head: let classifiers for other classes go, and keep the random ones.
        names: the data set's classes; None to trust their number.

    Raises:
        CheckpointError: they are another architecture's, or their classifier is for other classes.
    """
    weights = shown_path(recipe.model.weights or "")
    mine = network.state_dict()
    theirs = initial.fitted_to(network)
    encoder_only = all(key.startswith("encoder.") for key in theirs)
    optional = ("auxiliary.", "decoder.") if encoder_only else ("auxiliary.",)
    missing = [key for key in mine if key not in theirs and not key.startswith(optional)]
    other = [key for key in theirs if key in mine and theirs[key].shape != mine[key].shape]
    if missing or not theirs.keys() <= mine.keys() or not all(CLASSIFIER.match(key) for key in other):
        raise _of_another_architecture(weights, recipe.network, initial, mine, theirs)
    lists = None if encoder_only or names is None or initial.labels is None else (names, initial.labels.names)
    matching = None if lists is None else match_classes(*lists, guessed=initial.guessed)
    differs = bool(other) or (lists is not None and matching is None)
    if differs and not reset_head:
        said = f" {side_by_side(*lists)}" if lists is not None else ""
        rows = f"{len(theirs[other[0]])} classes apart, and the data set has {network.num_classes}" if other else ""
        raise CheckpointError(
            f"{weights} tells {rows or 'other classes apart than the data set has'}{said}",
            fix="add --reset-head to keep all else and learn a new classifier; where the classes mean the same, give "
            "them the model's names in labels.yaml",
            code="checkpoint-classes",
        )
    if differs:
        theirs = {key: value for key, value in theirs.items() if not CLASSIFIER.match(key)}
    elif matching is not None and matching.table is not None:
        theirs = in_order(theirs, matching.table)
    network.load_state_dict({**mine, **theirs})
    notes = [] if matching is None or matching.note is None else [matching.note]
    if encoder_only:
        rest = sum(key not in theirs for key in mine)
        notes.append(f"start     all {len(theirs)} tensors of the encoder are taken; {rest} others start at random")
    if (before := initial.in_channels) != network.in_channels:
        notes.append(
            f"the weights are for images of {before} band(s): their first convolution was fitted to "
            f"{network.in_channels}, a band more starting from the mean of its filters"
        )
    return Start(not encoder_only and not differs, tuple(notes))


def _of_another_architecture(
    weights: str, wanted: str, initial: StartingWeights, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> CheckpointError:
    message = f"{weights} is not a {wanted}: it is {initial.what}"
    fix = f"start from weights of the same architecture, or train --model {initial.architecture}"
    if initial.architecture == wanted:  # somebody's own network that has kept the name
        shapes = [{key: tuple(value.shape) for key, value in tensors.items()} for tensors in (theirs, mine)]
        differing = sorted(key for key in {*mine, *theirs} if shapes[0].get(key) != shapes[1].get(key))
        found, expected = ("missing" if (shape := s.get(differing[0])) is None else shape for s in shapes)
        message = (
            f"{weights} has the name {wanted} and other layers: {show(differing[0])} is {found} in it, and {expected} "
            f"in a {wanted}; {len(differing)} tensors differ"
        )
        fix = "train by the recipe that those weights were trained by (--recipe RUN/recipe.yaml), or start from others"
    return CheckpointError(message, fix=fix, code="checkpoint-architecture")


def in_order(tensors: Mapping[str, Tensor], table: tuple[int, ...]) -> dict[str, Tensor]:
    """Put the rows of all classifiers into the order of a data set whose class k is the model's ``table[k]``."""
    rows = torch.tensor(table)
    return {key: value[rows] if CLASSIFIER.match(key) else value for key, value in tensors.items()}


def refuse_two_readings(initial: StartingWeights, train: Dataset) -> None:
    """See that masks without named classes hold class indices, where the start's masks stored other values.

    Raises:
        DatasetError: they may hold either, or they hold the start's values (code "dataset-mask-values").
    """
    labels = initial.labels
    if labels is None or labels.num_classes != train.labels.num_classes or train.labels.id_map is not None:
        return
    if only_numbered(train.labels.names):
        fix = "write labels.yaml with `names:`, and with `map:` where masks store other values than class indices"
        read_by(train, labels, fix=fix)


def preprocess_changes(before: Preprocess, after: Preprocess) -> str:
    """Say in which values two rules differ; empty where they are the same."""
    values = ((field.name, getattr(before, field.name), getattr(after, field.name)) for field in fields(Preprocess))
    return ", ".join(f"{name} {old} -> {new}" for name, old, new in values if old != new)


def encoder_origin(encoder: str) -> dict[str, Any]:
    """Return what the record of a run says whose encoder brings weights of its own."""
    name = encoder.removeprefix("hf:")
    folder = weights_folder(encoder)
    card = licence_in_model_card(folder) if folder is not None else None
    record = {"licence": known_licence(name) or card or "not stated"}
    return origin_of_run(name, record)
