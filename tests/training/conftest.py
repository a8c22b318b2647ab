"""The narrow models that the training tests use in place of the papers'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_runs import TINY


@pytest.fixture(scope="module")
def tiny_variant() -> Iterator[None]:
    """Add `segformer_tiny` and the nano SETRs to the models while a test file runs."""
    with pytest.MonkeyPatch.context() as patch:
        for table, more in TINY:
            for name, variant in more.items():
                patch.setitem(table, name, variant)
        yield
