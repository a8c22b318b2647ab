"""Recognises checkpoints: which program wrote the tensors, which model they are, and how they are loaded into it.

Loading is strict: a tensor that is missing, left over or of another shape is an error that names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.models import ModelSpec, Segmenter, build
from terrazzo.models.layers import NothingToInitialize
from terrazzo.notes import note
from terrazzo.text import printable
from terrazzo.weights.foreign_networks import OTHER_NETWORK, refuse_foreign
from terrazzo.weights.remap import pvt, segformer, setr, vit
from terrazzo.weights.remap.layout import Layout, Shapes
from terrazzo.weights.segformer_config import spec_from_config
from terrazzo.weights.set_aside import without_training

__all__ = [
    "Recognized",
    "architecture_of",
    "empty_network",
    "layout_of",
    "load_network",
    "our_tensors",
    "recognize",
    "refuse_differences",
    "refuse_not_finite",
    "refuse_other_parts",
    "refuse_whole_numbers",
    "shapes_of",
    "unwrapped",
]

FAMILIES: dict[Layout, Callable[[Layout, Shapes], tuple[ModelSpec | None, str]]] = {
    layout: family.variant_in for family in (pvt, segformer, setr, vit) for layout in family.LAYOUTS
}
LAYOUTS = sorted(FAMILIES, key=lambda layout: layout.encoder_only)
MOST_TENSORS = 10_000  # the networks that are read here have up to about a thousand
AUXILIARY = ("auxiliary_head.", "auxiliary.")
CLASSIFIER = re.compile(r"(decoder|auxiliary\.\d+)\.classifier\.")
WRAPPING = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module")
)


@dataclass(frozen=True)
class Recognized:
    """A checkpoint whose layout and network are known.

    Attributes:
        layout: the program's names and shapes.
        spec: the network; for an encoder alone, one that has this encoder.
        tensors: under the layout's own names, without the unused ones.
        one_label: the classifier had one row, a sigmoid, and has been given a second.
        where: the file, for messages.
    """

    layout: Layout
    spec: ModelSpec
    tensors: dict[str, Tensor]
    one_label: bool = False
    where: str = ""

    @property
    def architecture(self) -> str:
        """The network's name."""
        return self.spec.title

    @property
    def num_classes(self) -> int | None:
        """K; None for an encoder alone."""
        return None if self.layout.encoder_only else self.spec.num_classes

    def empty_network(self) -> Segmenter:
        """Return the model that these tensors are for, without memory.

        It has auxiliary heads if the tensors have those of this model; others are taken out of the tensors.
        """
        try:
            network = empty_network(self.spec)
        except ConfigError as error:
            raise CheckpointError(f"{self.where}: {error.message}", fix=error.fix, code="checkpoint-variant") from error
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


def recognize(tensors: dict[str, Tensor], where: str, config: Mapping[str, Any] | None = None) -> Recognized:
    """Recognise a file's tensors.

    Args:
        tensors: as the file names them. They are taken out of this dictionary.
        where: the file, for messages.
        config: what a ``config.json`` of transformers beside it says of the network.

    Raises:
        CheckpointError: they are not a model that is known here.
    """
    if len(tensors) > MOST_TENSORS:
        raise CheckpointError(
            f"{where} holds {len(tensors):,} tensors, more than any network that is read here",
            fix=OTHER_NETWORK,
            code="checkpoint-unknown",
        )
    names = {key: unwrapped(key) for key in tensors}
    if len(set(names.values())) < len(names):  # then it is not only wrapping
        names = {key: key for key in tensors}
    layout, prefixes = layout_of(names.values())
    if layout is None or layout.encoder_only:
        refuse_foreign(names.values(), where, layout is not None)
    if layout is None:
        known = "; ".join(layout.name for layout in LAYOUTS if not layout.encoder_only)
        raise CheckpointError(
            f"{where} is not a model that is known here: its tensors begin with {_first(list(tensors))}",
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
    rows = 2 if layout.encoder_only else _classifier_rows(shapes, layout, where)
    spec = _spec(layout, shapes, max(rows, 2), where, config)
    if rows == 1:
        _give_background(named, layout, spec)
    return Recognized(layout, spec, named, rows == 1, where)


def _spec(layout: Layout, shapes: Shapes, num_classes: int, where: str, config: Mapping[str, Any] | None) -> ModelSpec:
    """Return the network of a file's tensors, from its configuration where it has one, else from their shapes."""
    if config is not None and config.get("model_type") == "segformer" and layout in segformer.OF_TRANSFORMERS:
        return spec_from_config(config, segformer.measured(layout, shapes), num_classes, f"{where}/config.json")
    spec, described = FAMILIES[layout](layout, shapes)
    if spec is None:
        raise CheckpointError(
            f"{where} is {layout.name}, but with {described}",
            fix="use weights of a size that `terrazzo models` lists",
            code="checkpoint-variant",
        )
    grid = _grid(layout, shapes, where)
    size = None if grid is None else (vit.PATCH * grid[0], vit.PATCH * grid[1])
    return spec.adapted(num_classes, image_size=size, in_channels=_bands(layout, shapes))


def _bands(layout: Layout, shapes: Shapes) -> int:
    for key in ("encoder.stages.0.patch_embed.proj.weight", "encoder.patch_embed.proj.weight"):
        if layout.knows(key) and len(shape := shapes.get(layout.theirs(key)[0], ())) == 4:
            return max(shape[1], 1)
    return 3


def _give_background(tensors: dict[str, Tensor], layout: Layout, spec: ModelSpec) -> None:
    """Put a row of zeros before the one row of every classifier.

    A softmax of (0, x) is the sigmoid of x, and the larger of the two is the second exactly where x is above zero.
    """
    shapes = shapes_of(empty_network(spec).state_dict())
    for piece in layout.pieces(shapes):
        if CLASSIFIER.match(piece.ours[0]):
            for key in piece.theirs:
                if key in tensors and tensors[key].ndim and len(tensors[key]) == 1:
                    tensors[key] = torch.cat([torch.zeros_like(tensors[key]), tensors[key]])


def unwrapped(key: str) -> str:
    """A tensor's name without the modules that torch.compile, DDP, FSDP and their like put around others."""
    return ".".join(part for part in key.split(".") if part not in WRAPPING) if WRAPPING & set(key.split(".")) else key


def layout_of(names: Iterable[str]) -> tuple[Layout | None, list[str]]:
    """Return the layout that has these names, and the prefixes before them (``model.``), one for each network."""
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
    spec, _ = FAMILIES[layout](layout, shapes)
    return None if spec is None else spec.title


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
    ours = found.layout.to_ours(found.tensors, shapes)
    refuse_whole_numbers(ours, network, where)
    return ours


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


def refuse_whole_numbers(tensors: dict[str, Tensor], network: Segmenter, where: str) -> None:
    """Refuse whole numbers in the place of weights; counters stored as float32 are made whole numbers.

    Raises:
        CheckpointError: naming the tensor.
    """
    like = network.state_dict()
    for key, value in tensors.items():
        if not like[key].is_floating_point():
            tensors[key] = value.to(like[key].dtype)
        elif not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{where} holds {kind} numbers for {key}, as quantised models do",
                fix="give the weights as they were before they were quantised",
                code="checkpoint-not-float",
            )


def empty_network(spec: ModelSpec) -> Segmenter:
    """Return a model to be loaded, without memory.

    One on a backbone of transformers has memory, because no file holds all of its buffers; but nothing is written into
    its parameters.
    """
    if spec.encoder.name == "backbone":
        with NothingToInitialize(), torch.random.fork_rng(devices=[]):
            return build(spec)
    with torch.device("meta"), NothingToInitialize():
        return build(spec)


def load_network(network: Segmenter, state: Mapping[str, Tensor]) -> Segmenter:
    """Give a model of `empty_network` its tensors, without copying them, and put it into evaluation mode."""
    network.load_state_dict(dict(state), assign=True)
    return network.eval()


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {key: tuple(value.shape) for key, value in state.items()}


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


def _classifier_rows(shapes: Shapes, layout: Layout, where: str) -> int:
    shape = shapes.get(layout.theirs("decoder.classifier.weight")[0])
    if not shape or shape[0] < 1:
        raise CheckpointError(
            f"{where} is {layout.name} whose classifier has no rows",
            fix="give a file of a whole model",
            code="checkpoint-labels",
        )
    return shape[0]


def _first(items: list[str]) -> str:
    return ", ".join(printable(item[:100]) for item in items[:3]) + (", ..." if len(items) > 3 else "")
