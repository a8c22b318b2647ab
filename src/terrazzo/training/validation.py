"""Validation: the scores of a network on the validation images, each rank a share of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from terrazzo.data import Dataset
from terrazzo.engines.torch import TorchEngine
from terrazzo.evaluation.confusion import ConfusionMatrix, Metrics
from terrazzo.evaluation.evaluator import score
from terrazzo.inference.predictor import Predictor
from terrazzo.inference.protocols import find_protocol
from terrazzo.models.segmenter import Segmenter
from terrazzo.training.distributed import Ranks
from terrazzo.training.recipe import Recipe

__all__ = ["validate"]

BATCH = 4
"""Images that a rank scores between two calls of `pause`."""


def validate(network: Segmenter, val: Dataset, recipe: Recipe, ranks: Ranks, pause: Callable[[int], None]) -> Metrics:
    """Score a network as it is used after training: with the recipe's preprocessing and protocol.

    Args:
        network: what is scored; the buffers of all ranks become those of the first.
        val: the images.
        recipe: how they are shown to the network.
        ranks: who shares the work; all of them get the scores.
        pause: called with the number of images done, before each group and at the end, by all ranks alike.

    Raises:
        CheckpointError: the network's logits are not finite (code "logits-not-finite").
    """
    ranks.share_buffers(network)
    engine, protocol = TorchEngine(network, ranks.device), find_protocol(recipe.run.protocol)
    predictor = Predictor(engine, recipe.data.preprocess, val.labels, protocol=protocol)
    total = ConfusionMatrix(val.labels.num_classes, val.labels.ignore_index)
    group = BATCH * ranks.world_size
    for first in range(0, len(val), group):
        pause(first)
        share = range(first, min(first + group, len(val)))[ranks.rank :: ranks.world_size]
        total.merge(score(predictor, val, share, batch_size=BATCH))
    pause(len(val))
    total.counts[:] = ranks.sum(torch.from_numpy(total.counts)).cpu().numpy()
    return total.metrics()
