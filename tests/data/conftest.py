"""A data set on disk for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty data set to be filled."""
    return Folder(tmp_path / "data")
