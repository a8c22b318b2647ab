"""What a run starts from: whole models, encoders alone, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import TINY, tiny_recipe
from torch import Tensor

from terrazzo.errors import CheckpointError
from terrazzo.labels.spec import LabelSpec
from terrazzo.models import Segmenter
from terrazzo.models.encoders.vit import resize_positions
from terrazzo.training.recipe import Recipe
from terrazzo.training.start import start_from, starting_weights
from terrazzo.weights.create import create_model
from terrazzo.weights.load import StartingWeights


def network(name: str, num_classes: int = 3, side: int = 32) -> Segmenter:
    return create_model(TINY.get(name, name), num_classes, image_size=(side, side))


def recipe(name: str) -> Recipe:
    return tiny_recipe(model=name, weights="given")


def start(
    fresh: Segmenter, name: str, initial: dict[str, Tensor], given: str = "other", *, reset: bool = False
) -> None:
    start_from(fresh, StartingWeights(f"a {given}", given, initial), recipe(name), reset)


def started(name: str, initial: dict[str, Tensor], *, reset: bool = False) -> tuple[dict[str, Tensor], set[str]]:
    """Return a started network's tensors and the names of those that stayed as they were."""
    fresh = network(name)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    start(fresh, name, initial, reset=reset)
    after = fresh.state_dict()
    return after, {key for key in after if torch.equal(before[key], after[key])}


def other(name: str, num_classes: int = 3, side: int = 32) -> dict[str, Tensor]:
    """Return a model's tensors, none of which has the value of a new model's."""
    state = network(name, num_classes, side).state_dict()
    return {key: torch.rand_like(value) + 2 if value.is_floating_point() else value + 7 for key, value in state.items()}


@pytest.mark.parametrize("name", TINY)
def test_a_whole_model_is_taken_over_whole(name: str) -> None:
    initial = other(name)
    after, stayed = started(name, initial)
    assert not stayed and all(torch.equal(after[key], initial[key]) for key in after)


@pytest.mark.parametrize("name", TINY)
def test_classifiers_for_other_classes_stay_random_if_that_is_asked_for(name: str) -> None:
    with pytest.raises(CheckpointError, match="given tells 7 classes apart, and the data set has 3") as caught:
        started(name, other(name, 7))
    assert caught.value.code == "checkpoint-classes"
    _, stayed = started(name, other(name, 7), reset=True)
    assert stayed and all(".classifier." in key for key in stayed)
    assert {"decoder.classifier.weight", "decoder.classifier.bias"} <= stayed


@pytest.mark.parametrize("name", TINY)
def test_rows_of_all_classifiers_are_put_into_the_order_of_the_data(name: str) -> None:
    fresh, initial = network(name), other(name)
    labels = LabelSpec.from_names(["dark", "grey", "light"])
    begun = StartingWeights(f"a {name}", name, initial, labels=labels)
    taken = start_from(fresh, begun, recipe(name), False, ("Light", "dark", "GREY"))
    assert taken.is_whole and "matched by name" in taken.notes[0]
    rows = [key for key in initial if ".classifier." in key]
    assert {"decoder.classifier.weight", "decoder.classifier.bias"} <= set(rows)
    assert any(key.startswith("auxiliary.") for key in rows) == name.startswith("setr")
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, initial[key][[2, 0, 1]] if key in rows else initial[key]), key


@pytest.mark.parametrize("name", TINY)
def test_an_encoder_alone_leaves_the_rest_random(name: str) -> None:
    initial = {key: value for key, value in other(name).items() if key.startswith("encoder.")}
    after, stayed = started(name, initial)
    assert stayed == after.keys() - initial.keys()


def test_heads_that_the_weights_lack_stay_random_and_heads_too_many_are_left_out() -> None:
    slim = {key: value for key, value in other("setr_pup_nano").items() if not key.startswith("auxiliary.")}
    _, stayed = started("setr_pup_nano", slim)
    assert stayed and all(key.startswith("auxiliary.") for key in stayed)
    without = network("setr_pup_nano")
    without.drop_auxiliary()
    initial = other("setr_pup_nano")
    start(without, "setr_pup_nano", initial)
    assert all(torch.equal(value, initial[key]) for key, value in without.state_dict().items())


def test_positions_for_another_image_size_are_resized() -> None:
    initial = other("setr_naive_nano", side=80)
    after, stayed = started("setr_naive_nano", initial)
    assert not stayed
    assert torch.equal(after["encoder.pos_embed"], resize_positions(initial["encoder.pos_embed"], 2, 2))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("segformer_tiny", "segformer_b0"),
        ("segformer_tiny", "setr_naive_nano"),
        ("setr_naive_nano", "setr_pup_nano"),
        ("setr_mla_nano", "setr_naive_nano"),
    ],
)
def test_another_architecture_is_refused_and_changes_nothing(name: str, given: str) -> None:
    fresh = network(name)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"given is not a {name}: it is a {given}") as caught:
        start(fresh, name, other(given), given, reset=True)
    assert caught.value.code == "checkpoint-architecture"
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("lost", ["encoder.stages.0.norm.weight", "decoder.norm.bias", "decoder.classifier.bias"])
def test_a_model_with_a_tensor_missing_is_refused(lost: str) -> None:
    initial = other("segformer_tiny")
    del initial[lost]
    told = f"given has the name segformer_tiny and other layers: '{lost}' is missing in it, and \\("
    with pytest.raises(CheckpointError, match=told):
        start(network("segformer_tiny"), "segformer_tiny", initial, "segformer_tiny", reset=True)


def test_nothing_to_start_from() -> None:
    assert starting_weights(None) is None
