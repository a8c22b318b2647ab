"""`terrazzo check-data`: what a user sees, and the exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terrazzo.cli.check_data import check_data
from terrazzo.errors import DatasetError, LabelError

RUN = "import sys, pathlib, terrazzo.cli.check_data as verb; verb.check_data(pathlib.Path(sys.argv[1]))"


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def add_pair(root: Path, split: str, number: int, values: list[list[int]]) -> None:
    mask = np.array(values, np.uint8)
    image = np.random.default_rng([number, len(split)]).integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    write(root / split / "images" / f"{number:02}.png", image)
    write(root / split / "masks" / f"{number:02}.png", mask)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pairs: class 0 fills three quarters, class 1 one quarter."""
    root = tmp_path / "leaves"
    for number in range(3):
        add_pair(root, "train", number, [[0, 0, 0, 1]])
    add_pair(root, "val", 0, [[0, 0, 0, 1]])
    return root


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def report(capsys: pytest.CaptureFixture[str], status: int, root: Path, **options: object) -> str:
    """Run the command, compare its exit status, and return what it printed."""
    if status:
        with pytest.raises(SystemExit) as caught:
            check_data(root, **options)  # type: ignore[arg-type]
        assert caught.value.code == status
    else:
        check_data(root, **options)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert all(len(line) <= 80 or "/" in line for line in out.splitlines())
    return out


def test_a_good_data_set(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "labels.yaml").write_text("names: [ground, leaf]")
    out = report(capsys, 0, data)
    assert out.startswith(
        f"{data}\ntaken for a folder of photos and masks, split by folders\n4 labelled photos, 2 classes\n\n"
    )
    assert re.search(r"train +3 +100% +all 4 x 1", out)
    assert re.search(r"ground +█+ +75.0% +3 +100% +█+ +75.0% +1 +100%", out)
    assert re.search(r"leaf +█+\S? +25.0% +3 +100% +█+\S? +25.0% +1 +100%", out)
    bars = [len(re.search("█+", line)[0]) for line in out.splitlines() if "█" in line]  # type: ignore[index]
    assert bars[0] == pytest.approx(3 * bars[1], abs=2)
    assert out.endswith("\nReady to train.\n")
    assert "guessed" not in out


def test_guessed_classes_are_said_to_be(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(capsys, 0, data)
    assert "guessed from the numbers in the masks: name them in labels.yaml" in out
    assert "foreground" in out


def test_warnings_do_not_fail(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "labels.yaml").write_text("names: [ground, leaf, '[red]fruit']")
    out = report(capsys, 0, data)
    assert out.count("warning: no pixel of ") == 2
    assert "'[red]fruit'" in out  # not taken for markup
    assert re.search(r"\[red\]fruit +- +0 +- +- +0 +-", out)
    assert out.endswith("Ready to train, with 2 warnings to look at.\n")


def test_errors_are_grouped_counted_and_cut_short(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "labels.yaml").write_text("names: [ground, leaf]")
    for number in range(10, 25):
        add_pair(data, "train", number, [[0, 1, 7, 9]])
    (data / "train/masks/00.png").write_bytes(b"")
    out = report(capsys, 2, data)
    assert "error: 15 masks with values or colours that have no class\n" in out
    assert "  train/masks/10.png: holds 7 (1 pixel), 9 (1 pixel)\n" in out
    assert "train/masks/19.png" in out
    assert "train/masks/20.png" not in out
    assert "  ... and 5 more\n" in out
    assert "  in all: value 7 in 15 masks (15 pixels); value 9 in 15 masks (15 pixels)\n" in out
    assert "error: train/masks/00.png: the file is empty\n" in out
    assert out.count("  fix: ") == 2
    assert out.endswith("Not ready to train: 16 errors must be fixed first.\n")


def test_unreadable_images_share_a_title(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        (data / f"train/images/{number:02}.png").write_bytes(b"")
    assert "error: 2 photos that cannot be read\n" in report(capsys, 2, data)


def test_strict_refuses_shared_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = (data / "train/images/01.png").read_bytes()
    (data / "val/images/00.png").write_bytes(image)
    message = ": val/images/00.png: shows the same as 01.png in train\n"
    assert "warning" + message in report(capsys, 0, data)
    assert "error" + message in report(capsys, 2, data, strict=True)


def test_labels_by_name_or_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Building" in report(capsys, 0, data, labels="camvid")
    document = tmp_path / "other.yml"
    document.write_text("names: [x, y]")
    assert "2 classes" in report(capsys, 0, data, labels=str(document))
    with pytest.raises(LabelError, match="no class list named"):
        check_data(data, labels="camvit")
    with pytest.raises(LabelError, match="no such file"):
        check_data(data, labels=str(tmp_path / "absent.yaml"))


def test_json(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.json"
    (data / "train/masks/00.png").unlink()
    out = report(capsys, 2, data, json=target)
    assert str(target) in out
    document = json.loads(target.read_text())
    assert document["ready"] is False
    assert document["problems"][0]["file"] == "train/images/00.png"
    report(capsys, 2, data, json=tmp_path / "absent" / "report.json")  # the folder is made
    assert json.loads((tmp_path / "absent" / "report.json").read_text()) == document


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        check_data(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="not a data set in a known layout") as caught:
        check_data(tmp_path)
    assert "train/images" in caught.value.fix


def test_three_splits_fit_in_80_columns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_pair(data, "test", 0, [[0, 1, 1, 1]])
    (data / "labels.yaml").write_text(f"names: [ground, {'long ' * 20}name]")
    out = report(capsys, 0, data)
    lines = [line for line in out.splitlines() if line.startswith("ground")]
    assert sum(line.count("%") for line in lines) == 6
    assert any("test" in line and "pixels" in line for line in out.splitlines())
    assert "long long long" in out
    assert "…" in out


def test_names_that_are_no_text_and_streams_that_know_few_letters(data: Path) -> None:
    os.rename(data / "train/masks/00.png", data / "train/masks" / os.fsdecode(b"caf\xe9.png"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", RUN, str(data)], capture_output=True, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert b"caf\\udce9.png: this mask has no photo" in done.stdout
    assert re.search(rb"background +#+ +75.0%", done.stdout)


def test_it_needs_no_torch(data: Path) -> None:
    code = f"{RUN}; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(data)], capture_output=True, env=environment, check=True)
