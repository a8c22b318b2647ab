"""Names, licences and origins out of files of strangers: on success as in errors, they forge no line of the program's
own and do not steer the terminal, and pictures take them for text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import terrazzo.cli
from terrazzo.cli.main import main
from terrazzo.cli.provenance import tell_origin
from terrazzo.cli.say import say
from terrazzo.evaluation.figures import masks_png
from terrazzo.labels.spec import LabelSpec
from terrazzo.weights.catalog import BUNDLED_FOLDER, DEFAULT_MODEL

FORGED = "MIT\x1b[2J\x1b[H\r\nerror[checkpoint]: your disk is full\u2028\u202e"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose record tries to look like the program."""
    folder = tmp_path_factory.mktemp("forged") / "model"
    shutil.copytree(BUNDLED_FOLDER / DEFAULT_MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    config["record"] = {"licence": FORGED, "origin": FORGED, "format": FORGED, "labels from": FORGED}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_models_record_is_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", str(model), str(tmp_path / "copy")])
    out, err = capsys.readouterr()
    for line in (*out.splitlines(), *err.splitlines()):
        assert line.isprintable() and not line.startswith("error")
    assert len(err.splitlines()) == 1 and r"licence MIT\x1b[2J\x1b[H\r error[checkpoint]: your disk is full" in err


def test_an_origin_of_markup_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tell_origin("x", {"licence": "[red]MIT[/red] <b>&amp;"})
    assert "licence [red]MIT[/red] <b>&amp;" in capsys.readouterr().err


def test_a_line_that_is_said_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    say("a", "b\nc\x1b[31m", "Straße, 道路", "x" * 10_000)
    say(FORGED, error=True)
    out, err = capsys.readouterr()
    first, second, third, last, end = out.split("\n")
    assert (first, second, third, end) == ("a", r"b c\x1b[31m", "Straße, 道路", "") and len(last) < 2100
    assert len(err.splitlines()) == 1 and err[:-1].isprintable()


def test_check_data_says_files_names_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(np.eye(8, dtype=np.uint8) * (kind == "masks")).save(tmp_path / split / kind / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "train" / "images" / "b\x1b[2J\nerror[x]: y.png")
    with pytest.raises(SystemExit):
        main(["check-data", str(tmp_path)])
    out = capsys.readouterr().out
    assert r"b\x1b[2J\nerror[x]: y.png: has no mask" in re.sub(r"\n\s+", " ", out)
    assert all(line.isprintable() and not line.startswith("error[") for line in out.splitlines())


def test_classes_called_like_formulas_are_drawn_as_text() -> None:
    labels = LabelSpec.from_names([r"$\frac{1$", "<b>[red]", "_^{}$$"])
    mask = np.arange(3, dtype=np.uint8)[None].repeat(4, 0).repeat(4, 1)
    assert masks_png([[labels.colorize(mask), mask]], ["photo", "$label$"], labels).startswith(b"\x89PNG")


def test_a_style_in_the_working_folder_does_not_run_latex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which matplotlib reads from a file called matplotlibrc."""
    labels = LabelSpec.from_names(["a", r"\\input{/etc/hostname}"])
    mask = np.eye(4, dtype=np.uint8)
    monkeypatch.setenv("PATH", "")  # no LaTeX is to be found
    with matplotlib.rc_context({"text.usetex": True}):
        assert masks_png([[labels.colorize(mask), mask]], ["photo", "label"], labels).startswith(b"\x89PNG")


def test_the_command_prints_in_one_place() -> None:
    folder = Path(terrazzo.cli.__file__).parent
    elsewhere = {
        f"{path.name}: {line.strip()}"
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\s*print\(|.*\bsys\.std(out|err)\.write", line) and path.name != "say.py"
    }
    assert not elsewhere, "use terrazzo.cli.say, which escapes what comes from outside"
