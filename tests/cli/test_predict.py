"""`terrazzo predict`: what lands where, and what happens to bad photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.inference.predict_folder import output_places
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    labels = LabelSpec.from_names(["background", "leaf", "stem"])
    save_folder(folder, TrainedModel("segformer_b0", create_model("segformer_b0", 3), labels, Preprocess(), {}))
    return str(folder)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (40, 30), "a.png": (30, 40), "deep/a.png": (50, 20), "b.png": (1, 1)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    code = caught.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err.splitlines()


def test_one_image_writes_four_files_at_its_own_size(
    model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", "photos/a.jpg", "--model", model, "--output", "out"])
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["a.json", "a_color.png", "a_mask.png", "a_overlay.png"]
    mask = np.asarray(Image.open("out/a_mask.png"))
    assert mask.shape == (40, 30) and mask.max() < 3
    areas = json.loads(Path("out/a.json").read_text())
    assert sum(entry["pixels"] for entry in areas["classes"]) == 1200
    printed = capsys.readouterr().out
    assert "%" in printed and "out/a_mask.png" in printed


def test_a_folder_keeps_its_subfolders_and_no_image_overwrites_another(model: str, images: Path) -> None:
    main(["predict", "photos", "--model", model, "--output", "out", "--save", "mask"])
    found = {str(path.relative_to("out")): np.asarray(Image.open(path)).shape for path in Path("out").rglob("*.png")}
    assert found == {
        "a_jpg_mask.png": (40, 30),
        "a_png_mask.png": (30, 40),
        "deep/a_mask.png": (50, 20),
        "b_mask.png": (1, 1),
    }


def test_bad_images_are_told_and_counted_and_the_good_ones_done(
    model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "c.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    code, errors = failure(capsys, "predict", "photos", "--model", model, "--output", "out", "--save", "mask")
    assert code == 2
    assert any("c.jpg" in line for line in errors)
    assert len(list(Path("out").rglob("*_mask.png"))) == 4
    main(["predict", "photos", "--model", model, "--output", "out", "--save", "mask", "--skip-bad"])
    assert "4 of 5 photos" in capsys.readouterr().out


def test_only_bad_images_fail_whatever_is_skipped(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.png").write_bytes(b"")
    assert failure(capsys, "predict", "empty.png", "--model", model, "--skip-bad")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere.jpg"], "image-missing"),
        (["photos/a.jpg", "--model", "segformer_b9.mars"], "checkpoint-missing"),
        (["photos/a.jpg", "--save", "mask,video"], "config-save"),
        (["photos/a.jpg", "--batch-size", "0"], "config"),
        (["photos/a.jpg", "--colour", "red"], "usage"),
        ([], "usage"),
    ],
)
def test_mistakes_are_two_lines_and_status_2(
    arguments: list[str], code: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, errors = failure(capsys, "predict", *arguments)
    assert status == 2
    assert len(errors) == 2
    assert errors[0].startswith(f"error[{code}]: ")
    assert errors[1].startswith("  fix: ")


def test_an_output_that_is_a_file_is_refused(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").write_text("mine")
    status, errors = failure(capsys, "predict", "photos/a.jpg", "--model", model, "--output", "out")
    assert status == 2 and "out" in errors[0]
    assert Path("out").read_text() == "mine"


def test_probabilities_are_saved_when_asked_for(model: str, images: Path) -> None:
    main(["predict", "photos/a.jpg", "--model", model, "--output", "out", "--save", "probabilities"])
    with np.load("out/a_probabilities.npz") as archive:
        np.testing.assert_allclose(archive["probabilities"].sum(0), 1, atol=1e-2)


def test_colliding_names_get_numbers(tmp_path: Path) -> None:
    paths = [Path("x/a.png"), Path("y/a.png"), Path("a_png.png")]
    places = output_places(paths, [str(path) for path in paths], Path("out"))
    assert places == [(Path("out"), "a_png"), (Path("out"), "a_png_2"), (Path("out"), "a_png_3")]


def test_some_classes_alpha_and_a_cutout(model: str, images: Path) -> None:
    arguments = ["predict", "photos/b.png", "photos/a.jpg", "--model", model, "--output", "out", "--save", "overlay"]
    main([*arguments, "--classes", "Leaf, stem", "--alpha", "0", "--cutout", "leaf,STEM,background"])
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["a_cutout.png", "a_overlay.png", "b_cutout.png", "b_overlay.png"]
    with Image.open("out/a_cutout.png") as cutout, Image.open("photos/a.jpg") as image:
        assert cutout.mode == "RGBA" and (np.asarray(cutout)[..., 3] == 255).all()
        np.testing.assert_array_equal(np.asarray(cutout)[..., :3], np.asarray(image))


def test_a_class_with_a_comma_is_named_in_quotes(images: Path, tmp_path: Path) -> None:
    labels = LabelSpec.from_names(["road", "car, parked", 'so "called"'])
    network = create_model("segformer_b0", 3)
    save_folder(tmp_path / "commas", TrainedModel("segformer_b0", network, labels, Preprocess(), {}))
    arguments = ["predict", "photos/b.png", "--model", str(tmp_path / "commas"), "--save", "mask", "--output", "out"]
    main([*arguments, "--cutout", '"Car, parked", road', "--classes", '"so ""called"""'])
    with Image.open("out/b_cutout.png") as cutout, Image.open("out/b_mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(cutout)[..., 3] == 255, np.asarray(mask) != 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes", "lef"], ["error[labels-class-name]: no class is called 'lef'", "  fix: did you mean leaf? "]),
        (["--cutout", "sky"], ["error[labels-class-name]: no class is called 'sky'", "  fix: name one of "]),
        (["--save", "cutout"], ["error[config-save]: no class is named to cut out", "  fix: name one or more: --cut"]),
        (["--cutout", ","], ["error[config-save]: no class is named to cut out", "  fix: name one or more: --cut"]),
        (
            ["--classes", '"leaf'],
            ["error[config]: --classes is '\"leaf'", "  fix: give names with commas between"],
        ),
        (["--classes", " ,"], ["error[config]: --classes is ' ,'", "  fix: give names with commas between"]),
        (["--alpha", "1.5"], ["error[config]: alpha is 1.5", "  fix: choose a value between 0 and 1"]),
    ],
)
def test_classes_that_are_not_there(
    arguments: list[str], said: list[str], model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = failure(capsys, "predict", "photos/b.png", "--model", model, "--output", "out", *arguments)
    assert code == 2 and not Path("out").exists()
    assert [line[: len(start)] for line, start in zip(lines[-2:], said, strict=True)] == said
