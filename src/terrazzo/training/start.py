"""What a run starts from: a trained model, or the encoder of one that was trained on something else."""

from __future__ import annotations

import re

from terrazzo.errors import CheckpointError
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.recipe import Recipe
from terrazzo.weights.load import StartingWeights, load_starting_weights

__all__ = ["start_from", "starting_weights"]

CLASSIFIER = re.compile(r"(decoder|auxiliary\.\d+)\.classifier\.")


def starting_weights(recipe: Recipe) -> StartingWeights | None:
    """Load what a recipe starts from; None for random weights.

    Raises:
        CheckpointError: it is not there, or cannot be used.
    """
    if recipe.weights is None:
        return None
    try:
        return load_starting_weights(recipe.weights)
    except CheckpointError as error:
        if error.code != "checkpoint-missing":
            raise
        raise CheckpointError(
            f"this run is to start from {recipe.weights}, which is not here: {error.message}",
            fix="give the path of your copy with --weights, or start from random weights with --weights random",
            code=error.code,
        ) from error


def start_from(network: Segmenter, initial: StartingWeights, recipe: Recipe, reset_head: bool) -> None:
    """Copy the tensors to start from into a network.

    Where they are an encoder alone, the rest stays random; so do auxiliary heads that they have not. Position
    embeddings for another image size are resized, as in SETR's code.

    Args:
        network: what is to be trained, with random weights.
        initial: what to copy.
        recipe: for messages.
        reset_head: let classifiers for other classes go, and keep the random ones.

    Raises:
        CheckpointError: they are another architecture's, or their classifier is for other classes.
    """
    mine = network.state_dict()
    theirs = initial.fitted_to(network)
    encoder_only = all(key.startswith("encoder.") for key in theirs)
    optional = ("auxiliary.", "decoder.") if encoder_only else ("auxiliary.",)
    missing = [key for key in mine if key not in theirs and not key.startswith(optional)]
    other = [key for key in theirs if key in mine and theirs[key].shape != mine[key].shape]
    if missing or not theirs.keys() <= mine.keys() or not all(CLASSIFIER.match(key) for key in other):
        raise CheckpointError(
            f"{recipe.weights} is not a {recipe.network}: it is {initial.what}",
            fix=f"start from weights of the same architecture, or train --model {initial.architecture}",
            code="checkpoint-architecture",
        )
    if other and not reset_head:
        raise CheckpointError(
            f"{recipe.weights} tells {len(theirs[other[0]])} classes apart, and the data set has {network.num_classes}",
            fix="add --reset-head to keep all else and learn a new classifier",
            code="checkpoint-classes",
        )
    network.load_state_dict({**mine, **theirs, **{key: mine[key] for key in other}})
