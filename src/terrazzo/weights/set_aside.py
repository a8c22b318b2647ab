"""Removal, with a note, of a checkpoint's tensors that only training uses, such as losses and metrics."""

from __future__ import annotations

import re
from typing import Any

from terrazzo.notes import note
from terrazzo.text import printable
from terrazzo.weights.foreign_networks import LONGEST_NAME

__all__ = ["without_training"]

KINDS = {
    "a loss": r"(.*\.)?(criterion|criteria|loss|losses|\w*loss_(fn|func|decode|function)|\w+_loss|loss_\w+)\..*",
    "preprocessing of the training program": r"(.*\.)?data_preprocessor\..*|(pixel_)?(mean|std)",
    "a counter of an average": r"n_averaged|steps?|global_step|epoch|num_updates|ema_decay|decay",
    "an average under names of its own": r"(ema|avg|swa)_[^.]*",
    "a metric": (
        r"(.*\.)?((train|val|valid|validation|test|eval)_?\w*\.)?(\w*_)?"
        r"(metrics?|iou|miou|jaccard|confusion|confmat|accuracy|acc|dice|f1|f1_?score|precision|recall|aucroc|auroc|"
        r"meaniou|meter|stat_scores)\d*(\..*)?"
    ),
    "a state that is not a tensor": r"(.*\.)?_extra_state",
    "a head of the pretraining": (
        r"(.*\.)?(fc_norm|dino_head|ibot_head|projection_head|proj_head|projector|predictor)\..*"
    ),
    "the decoder of a masked autoencoder": r"decoder_(embed|blocks|norm|pred)\..*|decoder_pos_embed|"
    r"decoder\.(decoder_\w+(\..*)?|mask_token)",
    "the other encoder of a contrastive pretraining": (
        r"(.*\.)?(momentum_\w+|encoder_k|key_encoder|target_(encoder|network|backbone))\..*|(.*\.)?queue(_\w+)?"
    ),
}
"""Each kind by the names that its tensors have; none is a name in any layout that is known here."""


def without_training(tensors: dict[str, Any], where: str) -> None:
    """Remove the tensors that only training uses, and say so in a note.

    Args:
        tensors: by name, without prefixes; changed in place.
        where: the file, for the note.
    """
    found: dict[str, list[str]] = {}
    for key in [key for key in tensors if len(key) <= LONGEST_NAME]:
        kind = next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, key)), None)
        if kind is not None:
            del tensors[key]
            found.setdefault(kind, []).append(key)
    if found:
        said = "; ".join(
            f"{kind} ({printable(keys[0][:60])}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''})"
            for kind, keys in found.items()
        )
        note(f"{where}: set aside, for only training uses it: {said}")
