"""`.pt2` files as an engine: the network's numbers, sizes that the file was not made for, and nothing executed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_files import DESCRIPTION, noise
from torch import Tensor, nn

from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.torch_export import TorchExportEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.weights.exported import METADATA_KEY


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, stride=4, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.conv(images)
        return logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "small.pt2"
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Small().eval(), (torch.zeros(2, 3, 32, 40),), dynamic_shapes=({0: free, 3: free},), strict=False
    )
    torch.export.save(program, path, extra_files={METADATA_KEY: DESCRIPTION.to_json()})
    return path


def test_it_gives_the_networks_numbers_and_refuses_other_sizes(exported: Path) -> None:
    engine = TorchExportEngine(exported, EngineOptions(threads=1))
    assert engine.description == DESCRIPTION
    images = noise(3, 32, 57)
    with torch.inference_mode():
        expected = Small()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(engine(images), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="takes a height of 32, and this one is 33"):
        engine(noise(1, 33, 57))


def test_what_it_cannot_do_is_told(exported: Path) -> None:
    for options, device in [(EngineOptions(precision="bf16"), None), (EngineOptions(), "cuda")]:
        with pytest.raises(ConfigError) as caught:
            TorchExportEngine(exported, options, device)
        assert caught.value.code == "engine-device"


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise AssertionError('executed')",)


def test_nothing_in_a_file_is_executed(exported: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    with zipfile.ZipFile(exported) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pt")]
        entries = {name: archive.read(name) for name in archive.namelist()}
    assert names, "torch.export no longer pickles the example inputs: test what it does instead"
    path = tmp_path / "evil.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, buffer.getvalue() if name == names[0] else content)
    with pytest.raises(CheckpointError) as caught:
        TorchExportEngine(path)
    assert caught.value.code == "checkpoint-pickle"


def test_damaged_files_are_told(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    path = tmp_path / "small.pt2"
    for damaged in (b"", b"PK", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            TorchExportEngine(path)
        assert caught.value.code == "export-damaged"
    with pytest.raises(CheckpointError) as caught:
        TorchExportEngine(tmp_path / "nowhere.pt2")
    assert caught.value.code == "checkpoint-missing"
