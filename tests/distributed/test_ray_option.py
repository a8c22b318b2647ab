"""`terrazzo predict --ray` where ray is not installed, and with options that it does not have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import terrazzo.distributed
from terrazzo.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["predict", *arguments])
    return capsys.readouterr().err


def test_options_that_workers_do_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--cutout is not there with --ray" in refused(capsys, "a.jpg", "--ray", "--cutout", "Sky")
    assert "--workers is for --ray" in refused(capsys, "a.jpg", "--workers", "2")


def test_without_ray_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused(capsys, str(tmp_path), "--ray", "--output", str(tmp_path / "out"))
    assert "ray" in said and "dist" in said and not (tmp_path / "out").exists()


def test_what_became_of_the_photos_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(images: list[str], output: Path, model: str, **options: object) -> terrazzo.distributed.Done:
        assert (images, options["workers"], options["save"], options["threads"]) == (["a.tar"], 3, "mask,json", 1)
        return terrazzo.distributed.Done(7, 1, 2, 5, output / "report")

    monkeypatch.setattr(terrazzo.distributed, "predict", predict)
    main(["predict", "a.tar", "--ray", "--workers", "3", "--output", "o", "--skip-bad"])
    assert (
        "7 of 8 photos done, 1 failed; 5 blocks were done before; a row for each in o/report" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "a.tar", "--ray", "--workers", "3", "--output", "o"])
