"""What every test may rely on: one computing thread, and the shared data sets where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that take minutes to those who name them."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with `pytest -m slow`"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $TERRAZZO_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("TERRAZZO_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set TERRAZZO_DATA to the folder that holds them")
    return folder
