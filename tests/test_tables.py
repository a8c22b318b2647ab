"""The program's tables cannot be changed by whoever imports them."""

from __future__ import annotations

from typing import Any

import pytest

from tables import with_rows
from terrazzo.ablation.studies import STUDIES
from terrazzo.engines.engine import ENGINES
from terrazzo.inference.protocols import PROTOCOLS
from terrazzo.models import DECODERS, MODELS, list_models, names, segformer, setr
from terrazzo.models.decoders import AUXILIARY_HEADS
from terrazzo.models.encoders import ENCODERS, SIZES
from terrazzo.training.augment import AUGMENTATIONS
from terrazzo.training.losses import LOSSES

TABLES = (
    *(STUDIES, ENGINES, PROTOCOLS, DECODERS, MODELS, AUXILIARY_HEADS, ENCODERS, SIZES, AUGMENTATIONS, LOSSES),
    *(segformer.VARIANTS, setr.VARIANTS),
)


def test_a_table_takes_no_row() -> None:
    for table in TABLES:
        changed: Any = table
        with pytest.raises(TypeError):
            changed["new"] = None


def test_a_test_sees_rows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        with_rows(patch, names.MODELS, {"new": None})
        assert "new" in list_models()
    assert "new" not in list_models()
