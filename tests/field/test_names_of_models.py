"""Names that lead to no model are told what they were probably meant to be."""

from __future__ import annotations

from pathlib import Path

import pytest

import terrazzo
from terrazzo.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "message", "fix"),
    [
        ("segformer_b0", "is an architecture, without weights", "did you mean segformer_b0.camvid?"),
        ("segformer_b5", "is an architecture, without weights", "training run"),
        ("segformer_b0.camvd", "there is no model", "did you mean segformer_b0.camvid?"),
        ("runs/nothere", "runs/nothere: there is no such folder", "check the path"),
        ("runs/mime", "there is no such folder", "did you mean runs/mine?"),
        ("runs/best.pth", "there is no such file", "check the path"),
    ],
)
def test_a_name_without_a_model(
    name: str, message: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        terrazzo.load(name)
    assert message in caught.value.message and fix in caught.value.fix
    assert caught.value.code == "checkpoint-missing"
