"""Networks: a `ModelSpec` describes one, and `build` makes it with random weights.

    names.py      MODELS, the table of named specs, and `find_spec`
    spec.py       ModelSpec: encoder, decoder, heads, classes, bands, in plain values
    build.py      from a spec to a Segmenter
    segmenter.py  Segmenter, and the interfaces of encoder and decoder
    encoders/     ENCODERS, one row and one file each
    decoders/     DECODERS, one row and one file each
    segformer.py, setr.py   the papers' variants, and which class holds which section

`terrazzo.create_model` and `terrazzo.load` are in weights/: nothing here reads files.
"""

from __future__ import annotations

from terrazzo.models.build import build
from terrazzo.models.decoders import DECODERS
from terrazzo.models.names import (
    MODELS,
    ON,
    find_spec,
    list_models,
    refuse_unknown_encoder,
    refuse_unknown_model,
)
from terrazzo.models.segmenter import Segmenter
from terrazzo.models.spec import ModelSpec, Part

__all__ = [
    "DECODERS",
    "MODELS",
    "ON",
    "ModelSpec",
    "Part",
    "Segmenter",
    "build",
    "find_spec",
    "list_models",
    "refuse_unknown_encoder",
    "refuse_unknown_model",
]
