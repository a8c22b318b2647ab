"""transformers' processors for other bands than red, green and blue."""

from __future__ import annotations

import pytest

from terrazzo.errors import CheckpointError
from terrazzo.imaging.band_rule import BandRule
from terrazzo.preprocess import Preprocess
from terrazzo.weights.processor import lost_in_processor, preprocess_from_processor, processor_from_preprocess


def test_a_mean_for_each_channel_stands_for_bands_of_8_bits() -> None:
    said = {"image_mean": [0.5, 0.25, 0.5, 0.75], "image_std": [0.2] * 4, "do_resize": False}
    preprocess = preprocess_from_processor(said, "here")
    assert preprocess.bands == BandRule((1, 2, 3, 4), "uint8", ((0.0, 255.0),) * 4)
    assert preprocess.mean == (127.5, 63.75, 127.5, 191.25) and preprocess.in_channels == 4
    assert preprocess_from_processor(processor_from_preprocess(preprocess, False), "here") == preprocess
    assert preprocess_from_processor({**said, "image_mean": 0.5, "image_std": 0.5}, "here").bands is None
    with pytest.raises(CheckpointError, match="4 finite numbers"):
        preprocess_from_processor({**said, "image_std": [0.2] * 3}, "here")


def test_a_scale_of_its_own_is_what_a_processor_cannot_say() -> None:
    rule = BandRule((2, 1), "uint16", ((0.0, 4095.0),) * 2)
    lost = lost_in_processor(Preprocess(mean=(1.0, 2.0), std=(1.0, 1.0), bands=rule))
    assert lost == ["reading bands 2, 1 of uint16 and scaling each by its range"]
