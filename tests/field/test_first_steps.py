"""A fresh install, and a photo nobody has yet: `terrazzo predict --example`; and what a missing package asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.cli.predict import predict
from terrazzo.errors import ConfigError, MissingExtraError
from terrazzo.imaging.read import read_image
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_names, bundled_record, example_image


def leave(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return left.value.code, capsys.readouterr().err


def test_the_example_needs_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--example", "--save", "mask", "--output", str(tmp_path), "--engine", "torch"])
    assert [path.name for path in tmp_path.iterdir()] == ["example_mask.png"]
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "example_mask.png")
    mask = np.asarray(Image.open(tmp_path / "example_mask.png"))
    names = bundled_record(DEFAULT_MODEL)["labels"]["names"]
    height, width = mask.shape
    assert names[mask[height // 8, width // 8]] == "Sky"
    assert names[mask[height * 7 // 8, width * 3 // 4]] == "Tree"
    assert names[mask[height // 2, width // 3]] == "Building"


@pytest.mark.parametrize("name", bundled_names())
def test_every_model_that_ships_has_an_example_with_its_terms(name: str) -> None:
    path = example_image(name)
    assert path is not None and path.stat().st_size < 150_000 and read_image(path).ndim == 3
    terms = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert all(word in terms for word in ("Source:", "Author:", "Licence:", "Changes:"))


def test_the_example_and_images_together_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(capsys, "predict", "a.jpg", "--example") == (
        2,
        "error[usage]: --example takes the place of photos, and 'a.jpg' is given too\n  fix: leave out one of them\n",
    )


def test_a_model_without_an_example_says_which_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = leave(capsys, "predict", "--example", "--model", "runs/mine")
    assert status == 2
    assert said.startswith("error[example-none]: runs/mine has no example photo\n") and DEFAULT_MODEL in said


def test_no_images_at_all_are_told_of_the_example() -> None:
    with pytest.raises(ConfigError, match="no photos are named") as caught:
        predict()
    assert "--example" in caught.value.fix and caught.value.code == "usage"


def test_a_missing_package_is_asked_for_by_a_command_that_works_from_a_clone() -> None:
    fix = MissingExtraError("onnxruntime", "export").fix
    assert "'.[export]'" in fix and "pip install onnxruntime" in fix
    assert "terrazzo[" not in fix  # no index has it
