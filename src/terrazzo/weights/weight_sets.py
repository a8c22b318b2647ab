"""Finds the sets of weights in one file, such as a model and its average or a teacher and a student, and chooses one.

A training program's checkpoint is a dictionary of dictionaries, and its tensors' names have prefixes. Each place where
a known network's names begin is a set; it is called by the way to it, such as ``ema`` or ``state_dict.teacher``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from terrazzo.errors import CheckpointError
from terrazzo.notes import note
from terrazzo.text import list_names, nearest, printable, show
from terrazzo.weights.pickled_values import as_mapping
from terrazzo.weights.pickles import Placeholder
from terrazzo.weights.recognize import layout_of, unwrapped
from terrazzo.weights.remap.layout import Layout
from terrazzo.weights.torch_files import as_tensor

__all__ = ["WeightSet", "choose_set", "find_sets", "sets_in_names"]

DEEPEST = 5
MOST_FOR_MESSAGE = 1000  # values that are looked at to say what a file holds instead of weights
MOST = 1_000_000  # entries that are looked at: mappings that hold one another many times over end somewhere
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|^amp$|callback|^loops$|message_hub|rng|random|history|^metrics?$|^args$")
"""Entries of a checkpoint that hold tensors of the training program, and none of a network."""

ORDER = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params",
)  # fmt: skip
"""Entries that hold a network, the most usual one first; others are found by the names of their tensors."""

ROLES = (
    ({"teacher"}, 1),
    ({"ema", "swa", "average", "averaged", "avg", "shadow"}, 2),
    ({"student"}, 3),
    ({"momentum", "target", "k", "queue"}, 4),
)
"""Words in a set's name by which it is another than the network itself, and their rank: the lowest is taken."""


@dataclass(frozen=True)
class WeightSet:
    """One network's tensors.

    Attributes:
        path: the entries and prefixes that lead to it.
        tensors: as the file names them.
        layout: whose names these are, if anybody's.
        others: what stands among them and is not a tensor.
        meta: what is noted beside it.
    """

    path: tuple[str, ...]
    tensors: dict[str, Any]
    layout: Layout | None
    others: tuple[str, ...] = ()
    meta: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """What is taken unless something else is asked for comes first."""
        words = {word for part in self.path for word in re.split(r"[\W_]", part.lower())}
        role = max((rank for some, rank in ROLES if words & some), default=0)
        usual = next((ORDER.index(part) for part in self.path if part in ORDER), len(ORDER))
        return self.layout is None, self.layout is not None and self.layout.encoder_only, role, usual


MOST_IN_LIST = 20  # items of a list that are looked into


def find_sets(content: object, path: Path) -> list[WeightSet]:
    """Find every set of weights in a pickle's content.

    Raises:
        CheckpointError: there is none, or the network is a pickled object of a class.
    """
    objects: list[str] = []
    sets = list(_walk(content, (), (), objects, [MOST]))
    if objects and not any(one.layout for one in sets):
        raise CheckpointError(
            f"{path} holds a whole pickled model, an object of the class {printable(objects[0])[:200]}: only that "
            "class's own code can say what its tensors are, and a file's code is never run here",
            fix="in the program that wrote it, save the tensors alone: torch.save(model.state_dict(), path)",
            code="checkpoint-pickle",
        )
    if not sets:
        what, fix = _instead_of_weights(content)
        raise CheckpointError(f"{path} holds no tensors{what}", fix=fix, code="checkpoint-empty")
    return sets


def _instead_of_weights(content: object) -> tuple[str, str]:
    """Say what a file without weights holds, and what to give or do instead."""
    waiting, fix = deque([content]), "give a file of a model's weights"
    for _ in range(MOST_FOR_MESSAGE):
        value = waiting.popleft() if waiting else None
        if value is not content and as_tensor(value) is not None:
            return " with names: they stand in a list, as an average's or an optimiser's do", fix
        if isinstance(value, Placeholder) and value.path.startswith("numpy.") and "_reconstruct" in value.path:
            return (
                ", but arrays of numpy",
                "in the program that wrote it, save tensors: {name: torch.from_numpy(array) ...}",
            )
        inner = value if isinstance(value, (list, tuple)) else (as_mapping(value) or {}).values()
        waiting.extend(islice(inner, MOST_IN_LIST))
    return (f", but an object of {printable(content.path)[:200]}" if isinstance(content, Placeholder) else ""), fix


def _walk(
    value: object, path: tuple[str, ...], meta: tuple[Any, ...], objects: list[str], left: list[int]
) -> Iterator[WeightSet]:
    if isinstance(value, Placeholder) and isinstance(value.state, dict) and "_modules" in value.state:
        objects.append(value.path)
        return
    if isinstance(value, (list, tuple)):  # [model.state_dict(), optimiser.state_dict()]
        value = {str(k): item for k, item in enumerate(value[:MOST_IN_LIST]) if as_tensor(item) is None}
    mapping = as_mapping(value)
    if mapping is None or len(path) > DEEPEST or left[0] < 0:
        return
    left[0] -= 1 + len(mapping)
    named = {key: item for key, item in mapping.items() if isinstance(key, str)}
    tensors = {key: tensor for key, item in named.items() if (tensor := as_tensor(item)) is not None}
    meta = (*meta, *([named["meta"]] if as_mapping(named.get("meta")) else []))
    if tensors:
        others = tuple(key for key, item in named.items() if key not in tensors and as_mapping(item) is None)
        yield from sets_in_names(tensors, path, others, meta)
    for key, item in named.items():
        if not NOT_WEIGHTS.search(key.lower()):
            yield from _walk(item, (*path, key), meta, objects, left)


def sets_in_names(
    tensors: Mapping[str, Any], path: tuple[str, ...] = (), others: tuple[str, ...] = (), meta: tuple[Any, ...] = ()
) -> list[WeightSet]:
    """Part tensors by the prefixes behind which a network's names begin; what has none of them belongs to each set."""
    names = {key: unwrapped(key) for key in tensors}
    layout, prefixes = layout_of(names.values())
    longest_first = sorted(prefixes, key=len, reverse=True)
    owners = {key: next((p for p in longest_first if name.startswith(p)), None) for key, name in names.items()}
    return [
        WeightSet(
            (*path, *(part for part in prefix.split(".") if part)),
            {key: value for key, value in tensors.items() if owners[key] in (prefix, None)},
            layout,
            others,
            meta,
        )
        for prefix in prefixes or [""]
    ]


def choose_set(sets: list[WeightSet], part: str, path: Path) -> WeightSet:
    """Return the set that is asked for, or the network itself, and say which it is if there are several.

    Args:
        sets: what there is.
        part: what stands behind ``#``; empty where nothing does.
        path: the file, for messages.

    Raises:
        CheckpointError: there is no such set.
    """
    ordered = sorted(sets, key=lambda one: one.rank)
    known = [one for one in ordered if one.layout is not None]
    if part:
        for fits in (lambda one: one.name == part, lambda one: part in one.path, lambda one: part in one.name):
            if found := [one for one in ordered if fits(one)]:
                return found[0]
        names = [one.name for one in known or ordered if one.name]
        near = nearest(part, names)
        raise CheckpointError(
            f"{path} holds no weights called {show(part)}",
            fix=f"{f'did you mean {path}#{near}? ' if near else ''}it holds {list_names(names)}"
            if names
            else "leave out what stands behind #: it holds one set of weights",
            code="checkpoint-set",
        )
    chosen, *rest = ordered
    if rest := [one for one in rest if one.layout is not None and one.name != chosen.name]:
        note(
            f"{path} holds several sets of weights, and {show(chosen.name) if chosen.name else 'the first'} was taken; "
            f"to take another, give {' or '.join(printable(f'{path}#{one.name}') for one in rest[:3])}"
        )
    return chosen
