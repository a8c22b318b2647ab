"""What the tests of exports share: a cache folder of their own, and one exported file of each format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from terrazzo.exports.export import Export, export
from terrazzo.weights.files import TrainedModel
from tiny_models import tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERRAZZO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models() -> Callable[[str], TrainedModel]:
    made: dict[str, TrainedModel] = {}

    def model(architecture: str) -> TrainedModel:
        if architecture not in made:
            made[architecture] = tiny_model(architecture)
        return made[architecture]

    return model


@pytest.fixture(scope="session")
def exported(models: Callable[[str], TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Export]:
    """Return a tiny model in a format, exported once: a SegFormer, but for .pt2, whose tracing takes it too long."""
    made: dict[tuple[str, str], Export] = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(suffix: str, output_kind: str = "logits") -> Export:
        if (suffix, output_kind) not in made:
            path: Path = folder / f"{output_kind}{suffix}"
            model = models("setr_naive_tiny" if suffix == ".pt2" else "segformer_b0")
            made[suffix, output_kind] = export(model, path, output_kind=output_kind)  # type: ignore[arg-type]
        return made[suffix, output_kind]

    return get
