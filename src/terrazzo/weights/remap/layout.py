"""Layout: the names and shapes under which some program stores a model, and the two ways between them and ours.

A table says where each of our modules lives. ``{i}`` and ``{j}`` stand for the numbers in our module's path, counted
from 0; ``{I}`` is i + 1, ``{i2}`` is i + 2, ``{r}`` is 3 - i, ``{j3}`` and ``{n3}`` are 3 j and 3 j + 1::

    "encoder.stages.{i}.blocks.{j}.attn.q": Place("backbone.block{I}.{j}.attn.q")

A table may name a single tensor in place of a module. Where a `Place` has several paths, their rows follow one another
in our tensor (key and value in one matrix). Where two of our modules have the same place, their rows follow one another
in the other program's (query, key and value in one). A place without a path is zeros: the other program has no such
tensor, and works as if it were zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

__all__ = ["Layout", "Piece", "Place", "Shapes"]

NUMBER = r"(?<=\.)\d+(?=\.)"
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, init=False)
class Place:
    """Where another program keeps one of our modules.

    Attributes:
        paths: its module there; several where it takes rows from several.
        conv: its weight is a 1 x 1 convolution there, and a matrix here.
        tokens: it is a sequence (1, T, C) there, and here one row of it, or its rest as a grid (1, h, w, C).
        flipped: its weight's inputs are this many blocks, which stand there in reverse; 1 leaves them.
    """

    paths: tuple[str, ...]
    conv: bool
    tokens: bool
    flipped: int

    def __init__(self, *paths: str, conv: bool = False, tokens: bool = False, flipped: int = 1) -> None:
        for name, value in {"paths": paths, "conv": conv, "tokens": tokens, "flipped": flipped}.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Piece:
    """Tensors of ours and of theirs that hold the same numbers, row after row."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    place: Place


@dataclass(frozen=True, eq=False)
class Layout:
    """The names and shapes under which one program stores one family of models.

    Attributes:
        name: for messages.
        marker: a key that tells this layout from all others.
        places: our module's path, numbers written as ``{i}`` and ``{j}``, to its place.
        dropped: patterns of keys that such files hold and nobody uses.
        encoder_only: there is no decoder in such files.
        prepare: changes that make a file of this layout regular, such as an unused token taken out; in place.
        licence: what is known of the licence of such files, which do not say it themselves.
        remark: what the other program computes otherwise around the network, for its users to know.
    """

    name: str
    marker: str
    places: Mapping[str, Place]
    dropped: tuple[str, ...] = ()
    encoder_only: bool = False
    prepare: Callable[[dict[str, Tensor]], None] | None = None
    licence: str = "not stated in the file"
    remark: str = ""

    def prefixes_in(self, keys: Iterable[str]) -> list[str]:
        """Return every prefix behind which this layout's own names begin: several where a file has several networks."""
        found = (key[: -len(self.marker)] for key in keys if key == self.marker or key.endswith(f".{self.marker}"))
        return list(dict.fromkeys(found))

    def is_dropped(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.dropped)

    def knows(self, key: str) -> bool:
        """Whether one of our tensors has a place here."""
        template = _template(key)[0]
        return template in self.places or template.rpartition(".")[0] in self.places

    def theirs(self, key: str) -> tuple[str, ...]:
        """Return the key or keys that hold one of our tensors."""
        return self._place(key)[1]

    def pieces(self, shapes: Shapes) -> list[Piece]:
        """Pair all tensors of a model of ours with those of this layout."""
        found: dict[tuple[str, ...], Piece] = {}
        for key in shapes:
            if self.encoder_only and not key.startswith("encoder."):
                continue
            place, theirs = self._place(key)
            before = found[theirs].ours if theirs in found else ()
            found[theirs] = Piece((*before, key), theirs, place)
        return list(found.values())

    def their_shapes(self, shapes: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the key and shape of every tensor that a file of this layout must hold."""
        return {
            key: shape
            for piece in self.pieces(shapes)
            for key, shape in zip(piece.theirs, _shapes_of(piece, shapes), strict=True)
        }

    def _place(self, key: str) -> tuple[Place, tuple[str, ...]]:
        template, numbers = _template(key)
        if template in self.places:
            place = self.places[template]
            return place, tuple(path.format(**numbers) for path in place.paths)
        module, _, leaf = template.rpartition(".")
        place = self.places[module]
        paths = (path if "{leaf}" in path else f"{path}.{{leaf}}" for path in place.paths)
        return place, tuple(path.format(**numbers, leaf=leaf) for path in paths)

    def to_ours(self, state: dict[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
        """Return the tensors under our names and in our shapes.

        Args:
            state: exactly the tensors of `their_shapes`. It is emptied on the way, so that no more than one tensor is
                ever there twice.
            shapes: of our model's tensors.
        """
        ours: dict[str, Tensor] = {}
        for piece in self.pieces(shapes):
            if not piece.theirs:
                ours |= {key: torch.zeros(shapes[key]) for key in piece.ours}
                continue
            parts = [state.pop(key) for key in piece.theirs]
            whole = _flipped(parts[0] if len(parts) == 1 else torch.cat(parts), piece.place)
            if len(piece.ours) == 1:
                ours[piece.ours[0]] = whole.reshape(shapes[piece.ours[0]])
                continue
            whole = whole.flatten(0, -2) if piece.place.tokens else whole
            rows = torch.split(whole, [_rows(shapes[key], piece.place) for key in piece.ours])
            for key, part in zip(piece.ours, rows, strict=True):
                ours[key] = part.reshape(shapes[key]).clone()
        return ours

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our tensors under this layout's names and in its shapes: `to_ours` backwards.

        Tensors that the layout takes for zeros are left out.
        """
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        theirs: dict[str, Tensor] = {}
        for piece in self.pieces(shapes):
            if not piece.theirs:
                continue
            parts = [state[key].flatten(0, -2) if piece.place.tokens else state[key] for key in piece.ours]
            whole = _flipped(parts[0] if len(parts) == 1 else torch.cat(parts), piece.place)
            rows = whole.chunk(len(piece.theirs)) if len(piece.theirs) > 1 else [whole]
            for key, part, shape in zip(piece.theirs, rows, _shapes_of(piece, shapes), strict=True):
                theirs[key] = part.reshape(shape).contiguous()
        return theirs


def _template(key: str) -> tuple[str, dict[str, int]]:
    """Write the two numbers of ``encoder.stages.3.blocks.1.norm1.bias`` as letters, and say what they stand for."""
    numbers = re.findall(NUMBER, key)[:2]
    letters = iter(("{i}", "{j}"))
    i, j = (*map(int, numbers), 0, 0)[:2]
    template = re.sub(NUMBER, lambda _: next(letters), key, count=2)
    return template, {"i": i, "I": i + 1, "i2": i + 2, "r": 3 - i, "j": j, "j3": 3 * j, "n3": 3 * j + 1}


def _shapes_of(piece: Piece, shapes: Shapes) -> list[tuple[int, ...]]:
    first, place = shapes[piece.ours[0]], piece.place
    if not first or not piece.theirs:
        return [()] * len(piece.theirs)
    rows = sum(_rows(shapes[key], place) for key in piece.ours)
    if place.tokens:
        return [(1, rows, first[-1])]
    tail = (*first[1:], 1, 1) if place.conv and len(first) == 2 else first[1:]
    return [(math.ceil(rows / len(piece.theirs)), *tail)] * len(piece.theirs)


def _rows(shape: tuple[int, ...], place: Place) -> int:
    return math.prod(shape[:-1]) if place.tokens else shape[0]


def _flipped(weight: Tensor, place: Place) -> Tensor:
    if place.flipped == 1 or weight.ndim < 2:
        return weight
    return torch.cat(weight.chunk(place.flipped, dim=1)[::-1], dim=1)
