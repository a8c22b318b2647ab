"""`.pt2` files as an engine: the network's numbers, other sizes than the file's, and nothing of strangers executed."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_files import DESCRIPTION, noise
from torch import Tensor, nn

from terrazzo.cli.main import main
from terrazzo.engines.engine import EngineOptions
from terrazzo.engines.torch_export import TorchExportEngine
from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.inference.predict import make_predictor, predict
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
    engine = TorchExportEngine(exported, EngineOptions(threads=1), trust=True)
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


class Touching:
    """A pickle that writes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def pickled_weight(entries: dict[str, bytes], marker: Path) -> None:
    """A weight that says of itself that it is a pickle, in an entry without an ending."""
    config = json.loads(entries["data/weights/model_weights_config.json"])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    entries["data/weights/model_weights_config.json"] = json.dumps(config).encode()
    buffer = io.BytesIO()
    torch.save(Touching(marker), buffer)
    entries[f"data/weights/{entry['path_name']}"] = buffer.getvalue()


def opaque_constant(entries: dict[str, bytes], marker: Path) -> None:
    """A constant whose name alone makes a pickle of it."""
    config = json.loads(entries["data/constants/model_constants_config.json"])
    config["config"]["x"] = {
        "path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None,
    }  # fmt: skip
    entries["data/constants/model_constants_config.json"] = json.dumps(config).encode()
    entries["data/constants/opaque_obj_0"] = pickle.dumps(Touching(marker))


def expression(entries: dict[str, bytes], marker: Path) -> None:
    """A size that is an expression, which sympy evaluates as Python: no pickle at all."""
    text = entries["models/model.json"].decode()
    code = json.dumps(f"__import__('pathlib').Path({str(marker)!r}).touch() or 2")[1:-1]
    entries["models/model.json"] = re.sub(r'"expr_str": ?"[^"]*"', lambda _: f'"expr_str": "{code}"', text).encode()


def example_inputs(entries: dict[str, bytes], marker: Path) -> None:
    """The pickle of example inputs."""
    buffer = io.BytesIO()
    torch.save(Touching(marker), buffer)
    entries["data/sample_inputs/model.pt"] = buffer.getvalue()


@pytest.mark.parametrize("attack", [pickled_weight, opaque_constant, expression, example_inputs])
def test_nothing_of_a_strangers_file_is_executed(
    exported: Path, tmp_path: Path, attack: Callable[[dict[str, bytes], Path], None]
) -> None:
    path, marker = tmp_path / "evil.pt2", tmp_path / "executed"
    with zipfile.ZipFile(exported) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    attack(entries, marker)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    for open_it in (TorchExportEngine, make_predictor):
        with pytest.raises(CheckpointError, match="can run any code when it is opened") as caught:
            open_it(path)
        assert caught.value.code == "model-untrusted"
        assert hashlib.sha256(path.read_bytes()).hexdigest() in caught.value.message
        assert "--trust-file" in caught.value.fix
    assert not marker.exists()
    with suppress(CheckpointError):  # the attack is real: torch runs it
        TorchExportEngine(path, trust=True)
    assert marker.exists()


def test_a_file_is_declared_trusted_once(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    image = tmp_path / "photo.png"
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(image)
    command = ["predict", str(image), "--model", str(exported), "--output", str(tmp_path / "out"), "--save", "mask"]
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2 and capsys.readouterr().err.startswith("error[model-untrusted]: ")
    with pytest.raises(CheckpointError):
        predict(image, exported)
    assert not (tmp_path / "config").exists() and not (tmp_path / "out").exists()
    main([*command, "--trust-file"])
    (tmp_path / "out" / "photo_mask.png").unlink()
    main(command)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "photo_mask.png")), predict(image, exported).mask)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "python"))
    assert predict(image, exported, trust=True).mask.shape == (32, 40)
    assert make_predictor(exported).labels == DESCRIPTION.labels


def test_damaged_files_are_told(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    path = tmp_path / "small.pt2"
    for damaged in (b"", b"PK", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            TorchExportEngine(path, trust=True)
        assert caught.value.code == "export-damaged"
    with pytest.raises(CheckpointError) as caught:
        TorchExportEngine(tmp_path / "nowhere.pt2")
    assert caught.value.code == "checkpoint-missing"
