"""What a run starts from: a trained model, or the encoder of one that was trained on something else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from terrazzo.errors import CheckpointError
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.recipe import Recipe
from terrazzo.weights.load import load

__all__ = ["start_from", "starting_weights"]

CLASSIFIER = re.compile(r"(decoder|auxiliary\.\d+)\.classifier\.")
POSITIONS = "encoder.pos_embed"


def starting_weights(recipe: Recipe) -> dict[str, Tensor] | None:
    """Load what a recipe starts from; None for random weights.

    Raises:
        CheckpointError: it is not there, or cannot be used.
    """
    if recipe.weights is None:
        return None
    try:
        return load(recipe.weights).network.state_dict()
    except CheckpointError as error:
        if error.code != "checkpoint-missing":
            raise
        raise CheckpointError(
            f"this run is to start from {recipe.weights}, which is not here: {error.message}",
            fix="give the path of your copy with --weights, or start from random weights with --weights random",
            code=error.code,
        ) from error


def start_from(network: Segmenter, initial: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Copy the tensors to start from into a network.

    What stays random: a classifier for other classes; auxiliary heads that `initial` has not; and all but the encoder
    where `initial` is an encoder alone. Position embeddings for another image size are resized, as in SETR's code.

    Args:
        network: the network, with random weights.
        initial: a whole model's tensors, or an encoder's, under the names that they have in a model.
        recipe: names both.

    Raises:
        CheckpointError: they are another architecture's.
    """
    mine = network.state_dict()
    theirs = {key: value for key, value in initial.items() if key in mine or not key.startswith("auxiliary.")}
    if POSITIONS in mine and POSITIONS in theirs and theirs[POSITIONS].shape != mine[POSITIONS].shape:
        theirs[POSITIONS] = resize_positions(theirs[POSITIONS], *mine[POSITIONS].shape[1:3])
    encoder_only = all(key.startswith("encoder.") for key in theirs)

    def may_stay_random(key: str) -> bool:
        if key in theirs:
            return CLASSIFIER.match(key) is not None
        return key.startswith("auxiliary.") or (encoder_only and not key.startswith("encoder."))

    taken = {key: value for key, value in theirs.items() if key in mine and value.shape == mine[key].shape}
    if not theirs.keys() <= mine.keys() or not all(may_stay_random(key) for key in mine.keys() - taken.keys()):
        raise CheckpointError(
            f"{recipe.weights} is not a {recipe.model}",
            fix="start from weights of the same architecture",
            code="checkpoint-architecture",
        )
    network.load_state_dict(taken, strict=False)
