"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): learning from what a larger model says.

The student is to give every place of its map of logits the probabilities that the teacher gives it, both softened by a
temperature. Teacher and student see the same augmented window (Beyer et al. 2022, arXiv 2106.05237), so photos need no
labels for it. The maps of the two encoders can be compared too, where they have the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.labels.matching import match_classes, side_by_side
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter
from terrazzo.preprocess import Preprocess
from terrazzo.text import printable, shown_path
from terrazzo.training.losses.distillation import distillation
from terrazzo.training.sections import TeacherSection
from terrazzo.training.start import preprocess_changes
from terrazzo.weights.files import TrainedModel
from terrazzo.weights.load import load
from terrazzo.weights.metadata import names_are_guessed
from terrazzo.weights.origin import licence_of

__all__ = ["Teacher", "load_teacher"]


class Teacher:
    """A trained model that a run learns from.

    Args:
        model: the teacher.
        section: of the recipe.
        student: the network in training.
        labels: the data set's classes, with which the teacher's are matched by name.
        preprocess: the student's normalisation, which is taken back before the teacher's.
        device: where the run computes.

    Attributes:
        network: of the teacher.
        origin: its name and licence, for the record of the run.
        notes: what the user should know.

    Raises:
        CheckpointError: it tells other classes apart, or reads other bands.
        ConfigError: maps are to be compared, and none of the teacher's has the shape of the student's.
    """

    def __init__(
        self,
        model: TrainedModel,
        section: TeacherSection,
        student: Segmenter,
        labels: LabelSpec,
        preprocess: Preprocess,
        device: torch.device,
    ) -> None:
        self.section = section
        name = shown_path(section.model)
        matching = match_classes(labels.names, model.labels.names, guessed=names_are_guessed(model.record))
        if matching is None:
            raise CheckpointError(
                f"the teacher {name} tells other classes apart than the data set has "
                f"{side_by_side(labels.names, model.labels.names, ('the data', 'the teacher'))}",
                fix="take a teacher of the same classes; where they mean the same, give them its names in labels.yaml",
                code="teacher-classes",
            )
        if model.preprocess.bands != preprocess.bands:
            raise CheckpointError(
                f"the teacher {name} reads {model.preprocess.bands or 'red, green and blue'}, and this run reads "
                f"{preprocess.bands or 'red, green and blue'}",
                fix="take a teacher of the same bands",
                code="teacher-bands",
            )
        network = model.network.without_auxiliary().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network: Segmenter = network.eval().requires_grad_(False)
        self.rows = None if matching.table is None else torch.tensor(matching.table, device=device)
        (mean, std), (its_mean, its_std) = (
            torch.tensor([one.mean, one.std], device=device)[..., None, None] for one in (preprocess, model.preprocess)
        )
        self.scale, self.shift = std / its_std, (mean - its_mean) / its_std
        licence = licence_of(model.record) or "that of your own run"
        self.origin = {"name": section.model, "licence": licence}
        self.notes = [f"teacher   {name}, a {model.architecture}; licence {printable(licence)}"]
        if matching.note is not None:
            self.notes.append(matching.note)
        if changed := preprocess_changes(_size_rule(model.preprocess), _size_rule(preprocess)):
            self.notes.append(f"note: the teacher is shown windows of another size than in its own training: {changed}")
        self._maps: dict[str, Sequence[Tensor]] = {}
        if section.features:
            self._watch(student)

    def loss(self, images: Tensor, logits: Tensor, bf16: bool) -> Tensor:
        """Return what a batch adds to the loss.

        Args:
            images: the student's input.
            logits: what it made of them just now.
            bf16: whether the teacher runs under autocast too.
        """
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            theirs = self.network(images * self.scale + self.shift)
        if self.rows is not None:
            theirs = theirs[:, self.rows]
        loss = self.section.weight * distillation(logits, theirs, self.section.temperature)
        if self.section.features:
            pairs = _alike(self._maps.pop("student"), self._maps.pop("teacher"))
            loss = loss + self.section.features * sum(_distance(*pair) for pair in pairs) / len(pairs)
        return loss

    def _watch(self, student: Segmenter) -> None:
        """Note the maps of both encoders whenever they run."""
        shapes = [
            list(zip(getattr(network.encoder, "channels", ()), getattr(network.encoder, "strides", ()), strict=False))
            for network in (student, self.network)
        ]
        if not any(mine == theirs for mine, theirs in zip(*shapes, strict=False)):
            mine, theirs = (", ".join(f"{channels} at stride {stride}" for channels, stride in one) for one in shapes)
            raise ConfigError(
                f"teacher.features is {self.section.features:g}, and no map of the teacher's encoder has the shape of "
                f"the student's: channels {theirs}; and {mine}",
                fix="leave it at 0, or take models whose encoders have maps in common, such as mit_b1 to mit_b5",
                code="teacher-features",
            )
        for key, network in (("student", student), ("teacher", self.network)):

            def noted(module: Any, arguments: Any, maps: Sequence[Tensor], key: str = key) -> None:
                if key == "teacher" or module.training or torch.is_grad_enabled():
                    self._maps[key] = maps

            network.encoder.register_forward_hook(noted)


def load_teacher(section: TeacherSection) -> TrainedModel:
    """Load the model that a recipe names as its teacher.

    Raises:
        CheckpointError: it is not there, or cannot be used.
    """
    try:
        return load(section.model)
    except CheckpointError as error:
        raise CheckpointError(f"the teacher: {error.message}", fix=error.fix, code=error.code) from error


def _alike(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [pair for pair in zip(mine, theirs, strict=False) if pair[0].shape == pair[1].shape]


def _distance(mine_BChw: Tensor, theirs_BChw: Tensor) -> Tensor:
    """Mean squared distance of two maps whose features have unit length: their scale is each network's own."""
    mine, theirs = (F.normalize(features.float(), dim=1) for features in (mine_BChw, theirs_BChw.detach()))
    return (mine - theirs).square().sum(1).mean()


def _size_rule(preprocess: Preprocess) -> Preprocess:
    """Return what decides how large things are in the network's input."""
    return Preprocess(short_side=preprocess.short_side, long_side=preprocess.long_side, size=preprocess.size)
