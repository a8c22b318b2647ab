"""Files and folders of other frameworks are called what they are, with the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from terrazzo.errors import CheckpointError, ConfigError
from terrazzo.weights.load import load


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("flax_model.msgpack", "Flax"),
        ("model.ckpt.data-00000-of-00001", "TensorFlow"),
        ("saved_model.pb", "TensorFlow"),
        ("model.pdparams", "PaddlePaddle"),
        ("net.mlmodel", "Core ML"),
        ("b0.engine", "TensorRT"),
        ("zero_pp_rank_0_mp_rank_00_model_states.pt", "DeepSpeed"),
        ("optimizer.bin", "beside the weights"),
    ],
)
def test_a_file_of_another_program(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=what) as caught:
        load(tmp_path / name)
    assert caught.value.code == "checkpoint-not-weights"


@pytest.mark.parametrize(
    ("files", "message", "fix"),
    [
        (["latest", "global_step9/mp_rank_00_model_states.pt"], "DeepSpeed, in parts", "zero_to_fp32.py"),
        (["checkpoint-9/model.safetensors", "checkpoint-10/model.safetensors"], "no model", "did you mean .*point-10"),
        (["best.pth", "optimizer.bin"], "no model", "a file in it: 'best.pth'"),
        (["tf_model.h5"], "tf_model.h5 is a model of TensorFlow", "PyTorch"),
        (["notes.txt"], "no model", "terrazzo train"),
    ],
)
def test_a_folder_says_what_else_it_holds(files: list[str], message: str, fix: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path)
    assert re.search(fix, caught.value.fix) and caught.value.code == "checkpoint-missing"


def test_tensors_without_names(tmp_path: Path) -> None:
    torch.save({"ema": {"shadow_params": [torch.zeros(2)], "decay": 0.9}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no tensors with names"):
        load(tmp_path / "x.pt")


@pytest.mark.parametrize("model", [None, True, 3, b"x", ["a"], torch.zeros(1)], ids=str)
def test_what_is_no_name_of_a_model(model: object) -> None:
    with pytest.raises(ConfigError, match="not a name or a path") as caught:
        load(model)  # type: ignore[arg-type]
    assert caught.value.code == "model-type"
