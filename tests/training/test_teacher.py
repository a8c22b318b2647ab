"""Knowledge distillation: its loss, the teacher's classes and normalisation, maps of encoders, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import ALONE, TINY, tiny_recipe

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.checkpoint import load_checkpoint
from terrazzo.training.data import labelled_pixels, open_splits
from terrazzo.training.losses import CombinedLoss
from terrazzo.training.losses.cross_entropy import CrossEntropy
from terrazzo.training.losses.distillation import distillation
from terrazzo.training.memory import estimate_step_memory
from terrazzo.training.sections import TeacherSection
from terrazzo.training.teacher import Teacher, load_teacher
from terrazzo.training.trainer import Trainer
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder

NAMES = ("class 0", "class 1", "class 2")
LABELS = LabelSpec.from_names(list(NAMES))
CPU = torch.device("cpu")


def model_of(names: tuple[str, ...] = NAMES, seed: int = 1, **changes: Any) -> TrainedModel:
    torch.manual_seed(seed)
    network = create_model(TINY["segformer_tiny"], len(names)).eval()
    labels = LabelSpec.from_names(list(names))
    return TrainedModel("segformer_tiny", network, labels, Preprocess(), {"licence": "CC0"}, **changes)


def teacher_of(model: TrainedModel, labels: tuple[str, ...] = NAMES, **section: Any) -> Teacher:
    student = create_model(TINY["segformer_tiny"], len(labels))
    return Teacher(
        model,
        TeacherSection(model="t", **section),
        student,
        LabelSpec.from_names(list(labels)),
        Preprocess(),
        CPU,
    )


def test_the_divergence_is_that_of_softened_probabilities() -> None:
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    p, q = (theirs / 2).softmax(1), (mine / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(mine, theirs, 2.0), expected)
    assert distillation(theirs, theirs, 3.0).item() == pytest.approx(0, abs=1e-6)
    small = torch.randn(2, 3, 2, 2)
    enlarged = F.interpolate(small, (4, 4), mode="bilinear")
    torch.testing.assert_close(distillation(mine, small, 1.0), distillation(mine, enlarged, 1.0))
    # Scaled by T ** 2, gradients keep their size.
    sizes = [torch.autograd.grad(distillation(mine, theirs, T), mine)[0].norm().item() for T in (10.0, 20.0)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_classes_are_matched_by_name_and_normalisation_is_the_teachers_own() -> None:
    model = model_of()
    images = torch.randn(1, 3, 32, 32)
    own = teacher_of(model)
    with torch.no_grad():
        logits = model.network(images)
    assert own.loss(images, logits, bf16=False).item() == pytest.approx(0, abs=1e-6)
    turned = ("class 2", "class 0", "class 1")
    named = [name.replace("class", "kind") for name in turned]  # no numbers, which would be matched as such
    other = teacher_of(
        replace(model, labels=LabelSpec.from_names([n.replace("class", "kind") for n in NAMES])), tuple(named)
    )
    assert other.loss(images, logits[:, [2, 0, 1]], bf16=False).item() == pytest.approx(0, abs=1e-6)
    assert any("another order" in text for text in other.notes)
    darker = replace(model, preprocess=Preprocess(mean=(100.0, 100.0, 100.0), std=(50.0, 60.0, 70.0)))
    photo = 255 * torch.rand(1, 3, 32, 32)

    def seen(preprocess: Preprocess) -> torch.Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
        return (photo - mean) / std

    with torch.no_grad():
        logits = model.network(seen(darker.preprocess))
    loss = teacher_of(darker).loss(seen(Preprocess()), logits, bf16=False)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert own.notes == ["teacher   t, a segformer_tiny; licence CC0"] and own.origin == {"name": "t", "licence": "CC0"}


def test_maps_of_encoders_are_compared_where_they_have_one_shape() -> None:
    model = model_of()
    teacher = teacher_of(model, features=3.0, weight=0.0)
    student = create_model(TINY["segformer_tiny"], 3)
    teacher._watch(student)
    student.load_state_dict(model.network.state_dict())
    images = torch.randn(1, 3, 32, 32)
    same = teacher.loss(images, student.eval()(images), bf16=False)
    assert same.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        student.encoder.stages[0].norm.weight.mul_(-1)
    student.zero_grad()
    other = teacher.loss(images, student(images), bf16=False)
    other.backward()
    gradient = student.encoder.stages[0].norm.weight.grad
    assert other.item() > 1 and gradient is not None and gradient.norm() > 0
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tells other classes apart .*the teacher") as caught:
        teacher_of(model_of(("sky", "road", "tree")), ("leaf", "road", "tree"))
    assert caught.value.code == "teacher-classes"
    wide = create_model(TINY["setr_naive_nano"], 3)
    with pytest.raises(ConfigError, match="no map of the teacher's encoder has the shape") as refused:
        Teacher(
            model_of(),
            TeacherSection(model="t", features=1),
            wide,
            LabelSpec.from_names(list(NAMES)),
            Preprocess(),
            CPU,
        )
    assert refused.value.code == "teacher-features"
    with pytest.raises(CheckpointError, match=r"the teacher: .*no such folder"):
        load_teacher(TeacherSection(model=str(tmp_path / "nowhere")))


def test_a_run_with_a_teacher_goes_on_bit_for_bit_and_names_it(data: Path, tmp_path: Path) -> None:
    save_folder(tmp_path / "t", model_of())
    recipe = tiny_recipe(**{"teacher.model": str(tmp_path / "t"), "teacher.features": 0.5})
    train, val = open_splits(recipe.data, data)

    def trainer(output: str) -> Trainer:
        assert recipe.teacher is not None
        theirs = load_teacher(recipe.teacher)
        return Trainer(recipe, train, val, labelled_pixels(train), tmp_path / output, ALONE, 0, teacher=theirs)

    whole = trainer("whole")
    losses = [whole.train_step(batch) for batch in whole.batches(3)]
    whole.save()
    first = trainer("parts")
    parts = [first.train_step(batch) for batch in first.batches(2)]
    first.save()
    second = trainer("parts")
    second.resume()
    second.state.restore_generators()
    parts += [second.train_step(batch) for batch in second.batches(1)]
    second.save()
    assert parts == losses
    one, other = (load_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts"))
    assert all(torch.equal(one["model"][name], value) for name, value in other["model"].items())
    assert other["origin"]["teacher"] == {"name": str(tmp_path / "t"), "licence": "CC0"}


def test_memory_counts_the_teacher_and_photos_without_masks() -> None:
    network, teacher = create_model(TINY["segformer_tiny"], 3), create_model(TINY["setr_naive_nano"], 3)
    loss = CombinedLoss([CrossEntropy()], torch.ones(3), 255, CPU)
    plain: dict[str, Any] = {"loss": loss, "optimizer_states": 2, "has_average": True, "bf16": False}
    alone = estimate_step_memory(network, 2, (64, 64), **plain)
    taught = estimate_step_memory(network, 2, (64, 64), **plain, teacher=teacher)
    weights = sum(tensor.nbytes for tensor in [*teacher.parameters(), *teacher.buffers()])
    assert taught.weights == alone.weights + weights and taught.step >= alone.step
    more = estimate_step_memory(network, 2, (64, 64), **plain, unlabelled=8)
    assert more.weights == alone.weights and more.step > 2 * alone.step
