"""The narrow models that the training tests use in place of the papers'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_runs import tiny_models


@pytest.fixture(scope="module")
def tiny_variant() -> Iterator[None]:
    """Add `segformer_tiny` and the nano SETRs to the models while a test file runs."""
    with pytest.MonkeyPatch.context() as patch:
        for table, name, variant in tiny_models():
            patch.setitem(table, name, variant)
        yield
