"""What every test may rely on: one computing thread, no cache of its user's, tiny models, shared data if at hand."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# The same examples in every run, so that no test fails once in a thousand; `--hypothesis-profile default` draws others.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """Keep converted models, and which files are trusted, in a folder that goes when the tests are over."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERRAZZO_CACHE", os.path.join(folder, "cache"))
        patch.setenv("XDG_CONFIG_HOME", os.path.join(folder, "config"))
        yield


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


@pytest.fixture(scope="module")
def nano_sizes_are_known() -> Iterator[None]:
    """Let files that do not say what they hold be recognised as one of `foreign_files.NANO`, by their shapes."""
    from foreign_files import NANO
    from tables import with_rows
    from terrazzo.models import segformer, setr

    with pytest.MonkeyPatch.context() as patch:
        for family, encoder in ((segformer, "mit"), (setr, "vit")):
            rows = {name: spec for name, spec in NANO.items() if spec.encoder.name == encoder}
            with_rows(patch, family.VARIANTS, rows)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images to learn from and three to validate on, of flat tiles, for the tiny models."""
    from tiny_runs import make_data

    return make_data(tmp_path_factory.mktemp("data") / "tiles")
