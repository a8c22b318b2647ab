"""The narrow model that the training tests use in place of B0."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_runs import TINY

from terrazzo.models.segformer import VARIANTS


@pytest.fixture(scope="module")
def tiny_variant() -> Iterator[None]:
    """Add `segformer_tiny` to the models while a test file runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, variant in TINY.items():
            patch.setitem(VARIANTS, name, variant)
        yield
