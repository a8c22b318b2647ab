"""`terrazzo explain`: what it writes, prints and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from terrazzo.cli.main import main
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.weights.create import create_model
from terrazzo.weights.files import TrainedModel, save_folder


def saved(folder: Path, architecture: str) -> str:
    torch.manual_seed(0)
    labels = LabelSpec.from_names(["background", "leaf", "stem"])
    save_folder(folder, TrainedModel(architecture, create_model(architecture, 3), labels, Preprocess(), {}))
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model") / "tiny", "segformer_b0")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (48, 64), "deep/b.png": (50, 40)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def written(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_one_image(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "photos/a.png", "-m", model, "-o", "out", "--at", "5,40", "--at", "60,3", "--layers", "1.2, 4.1"])
    assert written("out") == ["a_attention.npz", "a_attention.png", "receptive_field.npz", "receptive_field.png"]
    with np.load("out/a_attention.npz") as archive:
        assert archive["points"].tolist() == [[5, 40], [60, 3]]
        assert archive["weights_1.2"].shape == (2, 1, 1, 2) and archive["weights_4.1"].shape == (2, 8, 2, 2)
    with np.load("out/receptive_field.npz") as archive:
        assert archive["shares"].shape == (5, 48, 64)
    printed = capsys.readouterr().out
    assert "stage 1, block 2" in printed and "decoder" in printed and "out/receptive_field.png" in printed


def test_a_folder_and_one_kind_at_a_time(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "photos", "-m", model, "-o", "one", "--show", "attention", "--heads", "--layers", "2.1"])
    assert written("one") == [
        *("a_attention.npz", "a_attention.png", "a_attention_heads_2.1.png"),
        *("deep/b_attention.npz", "deep/b_attention.png", "deep/b_attention_heads_2.1.png"),
    ]
    assert "2 of 2 photos explained, 6 files written to one" in capsys.readouterr().out
    main(["explain", "photos", "-m", model, "-o", "other", "--show", "receptive-field", "--window", "32"])
    assert written("other") == ["receptive_field.npz", "receptive_field.png"]
    with np.load("other/receptive_field.npz") as archive:
        assert archive["shares"].shape == (5, 32, 32) and archive["photos"] == 2


def test_a_setr(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "photos/a.png", "-m", saved(images.parent / "setr", "setr_naive_tiny"), "-o", "out"])
    printed = capsys.readouterr().out
    assert all(f"block {number} " in printed for number in (3, 6, 9, 12))
    with np.load("out/a_attention.npz") as archive:
        assert archive["weights_12"].shape[1:] == (3, 3, 4) and archive["class_token_12"].shape[1:] == (3,)


@pytest.mark.parametrize("skip", [True, False])
def test_bad_images_are_told_and_the_good_ones_done(
    skip: bool, model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "c.png").write_bytes((images / "a.png").read_bytes()[:300])
    arguments = ["explain", "photos", "-m", model, "-o", "out", "--at", "3,3", "--show", "attention", "--layers", "1.1"]
    if skip:
        main([*arguments, "--skip-bad"])
    else:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
    out, err = capsys.readouterr()
    assert "c.png" in err and "fix: " in err and "2 of 3 photos" in out and "1 failed" in out
    assert len(written("out")) == 4


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--at", "64,0"], "explain-point", "64,0 is not on photos/a.png, which is 64 x 48 pixels"),
        (["--at", "3,3", "--at=-1,0"], "explain-point", "-1,0"),
        (["--at", "middle"], "explain-point", "'middle' is not a point"),
        (["--at", "1,2,3"], "explain-point", "'1,2,3'"),
        (["--at", "1.5,2"], "explain-point", "'1.5,2'"),
        (["--show", "attention,saliency"], "config", "'saliency'"),
        (["--layers", "5.1"], "explain-layer", "no layer '5.1'"),
        (["--window", "0"], "explain-window", "0 pixels"),
        (["--model", "nowhere"], "checkpoint-missing", "nowhere"),
        (["--output", "photos/a.png"], "output-not-a-folder", "a.png"),
    ],
)
def test_what_a_user_can_get_wrong(
    options: list[str], code: str, words: str, model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [] if "--model" in options else ["--model", model]
    shown = ["--show", "receptive-field"] if "--window" in options else []
    with pytest.raises(SystemExit) as left:
        main(["explain", "photos/a.png", *chosen, *shown, *options])
    assert left.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error[{code}]: ") and words in first and second.startswith("  fix: ")
    assert not Path("terrazzo-output").exists()


def test_a_image_that_is_not_there(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["explain", "photos/none.png"])
    assert left.value.code == 2 and "image-missing" in capsys.readouterr().err
