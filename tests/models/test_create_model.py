"""Models by name; SegFormer's sizes exactly as published (counts: without ImageNet's classifier and unused layers)."""

from __future__ import annotations

import pytest
import torch
from meta_models import meta_model
from torch import nn

from terrazzo.errors import ConfigError
from terrazzo.models import MODELS, list_models, segformer, setr
from terrazzo.models.decoders.all_mlp import AllMLPDecoder
from terrazzo.weights.create import create_model

# name: (encoder, decoder at K = 150, decoder at K = 19, total at K = 150, total at K = 19)
PARAMETERS = {
    "segformer_b0": (3_319_392, 433_302, 399_635, 3_752_694, 3_719_027),
    "segformer_b1": (13_151_424, 564_374, 530_707, 13_715_798, 13_682_131),
    "segformer_b2": (24_196_288, 3_265_686, 3_164_947, 27_461_974, 27_361_235),
    "segformer_b3": (44_072_128, 3_265_686, 3_164_947, 47_337_814, 47_237_075),
    "segformer_b4": (60_842_688, 3_265_686, 3_164_947, 64_108_374, 64_007_635),
    "segformer_b5": (81_443_008, 3_265_686, 3_164_947, 84_708_694, 84_607_955),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    encoder, decoder_150, decoder_19, total_150, total_19 = PARAMETERS[name]
    ade, cityscapes = meta_model(name, 150), meta_model(name, 19)
    assert (count(ade.encoder), count(ade.decoder), count(ade)) == (encoder, decoder_150, total_150)
    assert (count(cityscapes.encoder), count(cityscapes.decoder), count(cityscapes)) == (encoder, decoder_19, total_19)
    assert (ade.num_classes, cityscapes.num_classes) == (150, 19)


@pytest.mark.parametrize("name", PARAMETERS)
def test_decoder_count_follows_the_closed_form(name: str) -> None:
    spec, K = segformer.VARIANTS[name], 7
    C, dims = spec.decoder.fields["embed_dim"], spec.encoder.fields["embed_dims"]
    projections = sum(channels * C + C for channels in dims)
    decoder = AllMLPDecoder(dims, (4, 8, 16, 32), K, embed_dim=C)
    assert count(decoder) == projections + 4 * C * C + 2 * C + C * K + K


def test_names() -> None:
    mmseg = [f"{name}_mmseg" for name in PARAMETERS]
    narrow = [f"segformer_b{size}_256" for size in (2, 3, 4, 5)]
    assert list_models() == list(MODELS) == [*PARAMETERS, *mmseg, *narrow, *setr.VARIANTS]


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="segformer_bo") as error:
        create_model("segformer_bo", 2)
    assert "segformer_b0" in str(error.value.fix)
    with pytest.raises(ConfigError) as error:
        create_model("xyz", 2)
    assert all(name in str(error.value.fix) for name in list_models())


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    for name in ("segformer_b0", "setr_pup_tiny"):
        with pytest.raises(ConfigError, match=str(num_classes)):
            create_model(name, num_classes)


@pytest.mark.parametrize("name", ["segformer_b0", "setr_naive_tiny"])
def test_a_seed_fixes_the_weights(name: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(create_model(name, 4).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_spec_has_an_encoder_of_its_own() -> None:
    with pytest.raises(ConfigError, match="segformer_b0 has an encoder of its own") as caught:
        create_model(MODELS["segformer_b0"], 3, encoder="mit_b1")
    assert caught.value.code == "model-encoder" and "leave the encoder out" in caught.value.fix
