"""Whose names a file's tensors bear, which of our models they are, and how they get into it.

Nothing is loaded by halves: a tensor that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from terrazzo.errors import CheckpointError
from terrazzo.models import Segmenter, create_model
from terrazzo.notes import note
from terrazzo.text import printable
from terrazzo.weights.foreign_networks import OTHER_NETWORK, refuse_foreign
from terrazzo.weights.remap import segformer, setr, vit
from terrazzo.weights.remap.layout import Layout, Shapes
from terrazzo.weights.set_aside import without_training

__all__ = [
    "Recognized",
    "architecture_of",
    "empty_network",
    "grid_in_ours",
    "layout_of",
    "load_network",
    "meta_network",
    "our_tensors",
    "recognize",
    "refuse_differences",
    "refuse_not_finite",
    "refuse_other_parts",
    "shapes_of",
    "unwrapped",
]

FAMILIES: dict[Layout, Callable[[Layout, Shapes], tuple[str | None, str]]] = {
    layout: family.variant_in for family in (segformer, setr, vit) for layout in family.LAYOUTS
}
LAYOUTS = sorted(FAMILIES, key=lambda layout: layout.encoder_only)
AUXILIARY = ("auxiliary_head.", "auxiliary.")
WRAPPING = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module")
)


@dataclass(frozen=True)
class Recognized:
    """A file's tensors, known for what they are.

    Attributes:
        layout: whose names they bear.
        architecture: which of our models they are; for an encoder alone, one that has it.
        num_classes: K; None for an encoder alone.
        tensors: under the layout's own names, without what nobody uses.
        grid: rows and columns of its position embeddings; None for what has none.
        where: the file, for messages.
    """

    layout: Layout
    architecture: str
    num_classes: int | None
    tensors: dict[str, Tensor]
    grid: tuple[int, int] | None
    where: str = ""

    def empty_network(self) -> Segmenter:
        """Return the model that these tensors are for, without memory.

        It has auxiliary heads if the tensors have those of this model; others are taken out of the tensors.
        """
        network = meta_network(self.architecture, self.num_classes or 2, self.grid)
        given = {key: tuple(value.shape) for key, value in self.tensors.items() if key.startswith(AUXILIARY)}
        expected = self.layout.their_shapes(shapes_of(network.state_dict()))
        if given != {key: shape for key, shape in expected.items() if key.startswith(AUXILIARY)}:
            network.drop_auxiliary()
            for key in given:
                del self.tensors[key]
            if given:
                note(
                    f"{self.where}: auxiliary heads ({len(given)} tensors) that are not {self.architecture}'s own are "
                    "set aside; only training uses them"
                )
        return network


def recognize(tensors: dict[str, Tensor], where: str) -> Recognized:
    """Find out what a file's tensors are.

    Args:
        tensors: as the file names them. They are taken out of this dictionary.
        where: the file, for messages.

    Raises:
        CheckpointError: they are no model that is known here.
    """
    names = {key: unwrapped(key) for key in tensors}
    if len(set(names.values())) < len(names):  # then it is not only wrapping
        names = {key: key for key in tensors}
    layout, prefixes = layout_of(names.values())
    if layout is None or layout.encoder_only:
        refuse_foreign(names.values(), where, layout is not None)
    if layout is None:
        known = "; ".join(layout.name for layout in LAYOUTS if not layout.encoder_only)
        raise CheckpointError(
            f"{where} is no model that is known here: its tensors begin with {_first(list(tensors))}",
            fix=f"give one of these: {known}",
            code="checkpoint-unknown",
        )
    named = {}
    for key, name in names.items():
        value = tensors.pop(key)
        if not layout.is_dropped(own := name.removeprefix(prefixes[0])):
            named[own] = value
    without_training(named, where)
    if layout.remark:
        note(f"{where}: {layout.remark}")
    if layout.prepare is not None:
        layout.prepare(named)
    shapes = shapes_of(named)
    architecture, described = FAMILIES[layout](layout, shapes)
    if architecture is None:
        raise CheckpointError(
            f"{where} is {layout.name}, but with {described}",
            fix="use weights of a size that `terrazzo models` lists",
            code="checkpoint-variant",
        )
    return Recognized(
        layout, architecture, _num_classes(named, layout, where), named, _grid(layout, shapes, where), where
    )


def unwrapped(key: str) -> str:
    """A tensor's name without the modules that torch.compile, DDP, FSDP and their like put around others."""
    return ".".join(part for part in key.split(".") if part not in WRAPPING) if WRAPPING & set(key.split(".")) else key


def layout_of(names: Iterable[str]) -> tuple[Layout | None, list[str]]:
    """Return whose names these are, and what stands before them (``model.``): several prefixes are several networks."""
    names = list(names)
    for layout in LAYOUTS:
        if prefixes := layout.prefixes_in(names):
            return layout, prefixes
    return None, []


def architecture_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return which of our models these tensors are, if any."""
    layout, prefixes = layout_of(tensors)
    if layout is None:
        return None
    shapes = {key.removeprefix(prefixes[0]): shape for key, shape in shapes_of(tensors).items()}
    return FAMILIES[layout](layout, shapes)[0]


def our_tensors(found: Recognized, network: Segmenter, where: str) -> dict[str, Tensor]:
    """Return the tensors under our names, as float32.

    Args:
        found: its tensors are taken out of it one by one, so that no more than one is ever there twice.
        network: the model that they are for.
        where: the file, for messages.

    Raises:
        CheckpointError: tensors are missing, left over, misshapen, or hold NaN or infinity.
    """
    shapes = shapes_of(network.state_dict())
    if found.layout.encoder_only:
        refuse_other_parts(found, network)
    what = f"{found.layout.name}, nearest to {found.architecture}"
    expected = found.layout.their_shapes(shapes)
    for key in expected:
        if key.endswith(".num_batches_tracked"):  # nothing uses it, and some programs leave it out
            found.tensors.setdefault(key, torch.tensor(0))
    refuse_differences(found.tensors, expected, where, what)
    refuse_not_finite(found.tensors, where)
    return found.layout.to_ours(found.tensors, shapes)


def refuse_other_parts(found: Recognized, network: Segmenter) -> None:
    """Refuse an encoder under something else than a classifier.

    Raises:
        CheckpointError: naming the first tensors of the other parts.
    """
    expected = found.layout.their_shapes(shapes_of(network.state_dict()))
    parts = {key.split(".")[0] for key in expected}
    if others := [key for key in found.tensors if key.split(".")[0] not in parts]:
        raise CheckpointError(
            f"{found.where} is a {found.layout.name} with parts of a network that is not read here ({_first(others)})",
            fix=OTHER_NETWORK,
            code="checkpoint-unknown",
        )


def refuse_differences(tensors: Mapping[str, Tensor], expected: Shapes, where: str, what: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: naming the first tensors that are missing, left over or misshapen.
    """
    problems = []
    if missing := [key for key in expected if key not in tensors]:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected := [key for key in tensors if key not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    misshapen = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(shape)}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != tuple(shape)
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} misshapen ({_first(misshapen)})")
    if problems:
        raise CheckpointError(
            f"{where} is {what}, but its tensors do not fit: {'; '.join(problems)}",
            fix="load the weights into the model they were made for",
            code="checkpoint-keys",
        )


def refuse_not_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity; make float32 of every other floating-point type, in place of it.

    Raises:
        CheckpointError: naming the tensor.
    """
    for key, value in tensors.items():
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f"{where} holds NaN or infinity in {key}",
                    fix="use an earlier checkpoint: this training run had diverged",
                    code="checkpoint-not-finite",
                )
            tensors[key] = value.float()


def meta_network(architecture: str, num_classes: int, grid: tuple[int, int] | None = None) -> Segmenter:
    """Return a model without memory, for its shapes or to be loaded.

    Args:
        architecture: its name.
        num_classes: K.
        grid: rows and columns of its position embeddings.
    """
    image_size = None if grid is None else (vit.PATCH * grid[0], vit.PATCH * grid[1])
    with torch.device("meta"), NothingToInitialize():
        return create_model(architecture, num_classes, image_size=image_size)


def empty_network(architecture: str, num_classes: int, encoder: Mapping[str, Any]) -> Segmenter:
    """Return a model on a backbone of transformers, to be loaded.

    It has memory, because no file holds all of its buffers; but nothing is written into its parameters.
    """
    with NothingToInitialize(), torch.random.fork_rng(devices=[]):
        return create_model(architecture, num_classes, encoder=encoder)


class NothingToInitialize(TorchFunctionMode):
    """Passes over in-place operations on parameters, and on all tensors without memory.

    For the random ones among the latter PyTorch would first import its compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if in_place and (isinstance(target, nn.Parameter) or (isinstance(target, Tensor) and target.is_meta)):
            return target
        return func(*args, **kwargs)


def load_network(network: Segmenter, state: Mapping[str, Tensor]) -> Segmenter:
    """Give a model of `meta_network` its tensors, without copying them, and put it into evaluation mode."""
    network.load_state_dict(dict(state), assign=True)
    return network.eval()


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {key: tuple(value.shape) for key, value in state.items()}


def grid_in_ours(tensors: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return the rows and columns of the position embeddings among our own tensors, if they have any."""
    positions = tensors.get("encoder.pos_embed")
    if positions is None or positions.ndim != 4 or 0 in positions.shape:
        return None
    return positions.shape[1], positions.shape[2]


def _grid(layout: Layout, shapes: Shapes, where: str) -> tuple[int, int] | None:
    """Everyone else stores positions as one row; their code knows square grids alone, after the class token."""
    place = layout.places.get("encoder.pos_embed")
    if place is None:
        return None
    shape = shapes.get(place.paths[0], ())
    if not place.tokens:
        return (shape[1], shape[2]) if len(shape) == 4 and 0 not in shape else None
    tokens = shape[1] - 1 if len(shape) == 3 else 0
    side = math.isqrt(max(tokens, 0))
    if side < 1 or side * side != tokens:
        raise CheckpointError(
            f"{where} is {layout.name}, but {place.paths[0]} is {shape}: no class token and a square grid of positions",
            fix="use weights that were trained on square crops",
            code="checkpoint-positions",
        )
    return side, side


def _num_classes(tensors: Mapping[str, Tensor], layout: Layout, where: str) -> int | None:
    if layout.encoder_only:
        return None
    weight = tensors.get(layout.theirs("decoder.classifier.weight")[0])
    num_classes = 0 if weight is None or not weight.ndim else weight.shape[0]
    if num_classes < 2:
        raise CheckpointError(
            f"{where} is {layout.name} whose classifier tells {num_classes} class(es) apart",
            fix="train it with the background as a class of its own: one kind of object makes two classes",
            code="checkpoint-labels",
        )
    return num_classes


def _first(items: list[str]) -> str:
    return ", ".join(printable(item[:100]) for item in items[:3]) + (", ..." if len(items) > 3 else "")
