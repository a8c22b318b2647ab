"""Apple's and Intel's GPUs take the plain path, and what they cannot do is told in plain words.

Here they are pretended: what PyTorch is asked to do on one, it does on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny_trainer
from torch.overrides import TorchFunctionMode

from terrazzo.cli.main import main
from terrazzo.engines import torch as torch_engine
from terrazzo.engines.gpu import GPUNetwork
from terrazzo.engines.torch import TorchEngine
from terrazzo.errors import TerrazzoError
from terrazzo.inference.predict import make_predictor
from terrazzo.training.distributed import Ranks
from terrazzo.training.failures import told_of_failures
from terrazzo.training.unread import READ_EVERY
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_folder

IMAGES = np.random.default_rng(0).standard_normal((1, 3, 64, 96), dtype=np.float32)


class OnTheCPU(TorchFunctionMode):
    """Computes on the CPU what is to be computed on a device of a kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def here(value: Any) -> Any:
            is_device = isinstance(value, torch.device) and value.type == self.kind
            is_name = isinstance(value, str) and value == self.kind
            return torch.device("cpu") if is_device or is_name else value

        if function is torch.device:
            return function(*args, **(kwargs or {}))
        kwargs = {name: here(value) if name == "device" else value for name, value in (kwargs or {}).items()}
        return function(*map(here, args), **kwargs)


@pytest.fixture(params=["mps", "xpu"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(getattr(torch, request.param), "is_available", lambda: True)
    monkeypatch.setattr(getattr(torch, request.param), "device_count", lambda: 1)
    monkeypatch.setattr(getattr(torch, request.param), "empty_cache", lambda: None)
    monkeypatch.setattr(torch_engine, "can_fuse", lambda _network: False)  # as for weights on another device
    with OnTheCPU(request.param):
        yield request.param


def test_it_predicts_with_the_plain_network(kind: str) -> None:
    expected = make_predictor(device="cpu", engine="torch", precision="fp32").engine(IMAGES)
    for precision in ("fp32", "auto", "bf16"):
        engine = make_predictor(device=kind, precision=precision).engine
        assert isinstance(engine, TorchEngine) and engine.device.type == kind
        assert not isinstance(engine.forward, GPUNetwork) and not engine.has_bfloat16
        np.testing.assert_allclose(engine(IMAGES), expected, atol=1e-3 if precision != "bf16" else 0.5)
        engine.release_memory()


def test_the_command_predicts(kind: str, tmp_path: Path) -> None:
    folder = bundled_folder(DEFAULT_MODEL)
    assert folder is not None
    main(["predict", str(folder / "example.jpg"), "--device", kind, "-o", str(tmp_path / "m.png"), "--save", "mask"])
    assert (tmp_path / "m.png").exists()


def test_it_trains_and_resumes(kind: str, data: Path, tmp_path: Path) -> None:
    ranks = Ranks(0, 1, torch.device(kind))
    trainer = tiny_trainer(data, tmp_path, ranks=ranks)
    assert trainer.read_every == READ_EVERY
    trainer.run()
    again = tiny_trainer(data, tmp_path, ranks=ranks)
    again.resume()
    assert again.state.step == 4 and all(math.isfinite(row["loss"]) for row in again.log.rows)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device."),
            "config-device",
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), "training-memory"),
    ],
)
def test_what_it_cannot_do_is_told_in_training(error: Exception, code: str) -> None:
    with pytest.raises(TerrazzoError) as caught, told_of_failures(7, torch.device("mps")):
        raise error
    assert caught.value.code == code and "step 7" in caught.value.message
