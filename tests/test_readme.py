"""The README's blocks, executed in order as a reader would, with tiny data; and what they must leave behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from terrazzo.labels.spec import LabelSpec
from terrazzo.weights.catalog import DEFAULT_MODEL, bundled_names

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXECUTED = ("bash", "python")
NOT_EXECUTED = re.compile(r"<!-- not executed by the tests: (?P<reason>[^\n]+?) -->\n\Z")
STREET = (72, 96)
OTHERS = {"photos/first.jpg": (64, 80), "photos/deeper/second.png": (50, 30)}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    reason: str | None
    """Why it is not executed."""


def blocks() -> list[Block]:
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        skipped = NOT_EXECUTED.search(README[: match.start()])
        line = README[: match.start()].count("\n") + 1
        found.append(Block(match[1], match[2], line, skipped and skipped["reason"]))
    return found


def commands(language: str = "bash") -> list[str]:
    return [line for block in blocks() if block.language == language for line in block.text.splitlines()]


def picture(path: Path, size: tuple[int, int], seed: int) -> None:
    """A photo of noise in which a bright square stands; its mask beside it knows the square as class 1, a dot as 2."""
    height, width = size
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 120, (height, width, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    top, left = (int(generator.integers(0, side // 2)) for side in size)
    square = np.s_[top : top + height // 3, left : left + width // 3]
    image[square], mask[square] = (60, 220, 90), 1
    image[-8:, -8:], mask[-8:, -8:] = (230, 40, 200), 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    if path.parent.name == "images":
        masks = path.parent.with_name("masks")
        masks.mkdir(exist_ok=True)
        Image.fromarray(mask).save(masks / f"{path.stem}.png")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the README's reader is taken to have: a photo, more photos, and a data set."""
    picture(tmp_path / "street.jpg", STREET, 0)
    for name, size in OTHERS.items():
        picture(tmp_path / name, size, 1)
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            picture(tmp_path / "my-folder" / split / "images" / f"{number:04}.jpg", (48, 64), number)
    labels = next(block.text for block in blocks() if block.language == "yaml")
    (tmp_path / "my-folder" / "labels.yaml").write_text(labels)
    return tmp_path


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose `terrazzo` is the one under test: the installed script, or the same by hand."""
    scripts = Path(sys.executable).parent
    if not (scripts / "terrazzo").exists():
        scripts = tmp_path_factory.mktemp("scripts")
        (scripts / "terrazzo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m terrazzo "$@"\n')
        (scripts / "terrazzo").chmod(0o755)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def run(block: Block, where: Path, environment: dict[str, str]) -> str:
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    if block.language == "python":
        command = [sys.executable, "-W", "error", "-c", block.text]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"README line {block.line} failed:\n{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def test_every_block_is_executed_or_says_why_not() -> None:
    reasons = [block.reason for block in blocks() if block.language in EXECUTED]
    assert len(reasons) >= 7
    assert [reason for reason in reasons if reason and "install" not in reason] == []


def test_the_first_screen_shows_a_picture_then_install_then_the_example_then_python() -> None:
    assert README.splitlines()[2].startswith("![")
    first = [block for block in blocks() if block.language in EXECUTED][:3]
    assert first[0].text == "pip install .\n"
    assert first[1].text == "terrazzo predict --example\n"
    assert first[2].language == "python" and len(first[2].text.splitlines()) == 6
    assert first[2].line < 35


def test_it_is_short() -> None:
    assert len(README.split()) < 1150


def test_the_blocks_do_what_they_say(place: Path, environment: dict[str, str]) -> None:
    assert DEFAULT_MODEL in bundled_names(), "the default model's weights are not in the package"
    street, saved, printed = place / "masks", {"_mask.png", "_color.png", "_overlay.png", ".json"}, ""
    for block in blocks():
        if block.language not in EXECUTED or block.reason:
            continue
        if "street.jpg" in block.text:  # the Python way and the command line each have to write the files
            shutil.rmtree(street, ignore_errors=True)
        printed += run(block, place, environment)
        if "street.jpg" in block.text:
            assert {path.name for path in street.iterdir()} == {f"street{ending}" for ending in saved}
            assert size_of(street / "street_mask.png") == size_of(street / "street_color.png") == STREET

    classes = json.loads((street / "street.json").read_text())["classes"]
    assert sum(entry["pixels"] for entry in classes) == STREET[0] * STREET[1]
    for name, size in OTHERS.items():
        stem = Path(name).relative_to("photos").with_suffix("")
        for folder in ("masks", "leaves"):
            assert size_of(place / folder / stem.parent / f"{stem.name}_mask.png") == size
        assert not (place / "masks" / stem.parent / f"{stem.name}_overlay.png").exists()
        assert np.asarray(Image.open(place / "leaves" / stem.parent / f"{stem.name}_mask.png")).max() < 3

    run_folder = place / "runs" / "mine"
    for name in ("model/config.json", "model/model.safetensors", "recipe.yaml", "log.csv", "curves.png",
                 "predictions.png", "report/report.json", "report/confusion.png"):  # fmt: skip
        assert (run_folder / name).stat().st_size > 0, name
    epochs = int(next(line for line in commands() if line.startswith("terrazzo train")).partition("--epochs ")[2])
    assert len((run_folder / "log.csv").read_text().splitlines()) == 1 + epochs
    scores = json.loads((place / "scores.json").read_text())
    assert scores["images"] == 2 and [entry["name"] for entry in scores["classes"]] == ["background", "leaf", "flower"]
    assert scores["mIoU"] == json.loads((run_folder / "report" / "report.json").read_text())["mIoU"]
    assert "mIoU" in printed and str(Path("masks") / "street_overlay.png") in printed


def test_labels_are_a_valid_labels_file() -> None:
    documents = [block.text for block in blocks() if block.language == "yaml"]
    assert documents
    for text in documents:
        LabelSpec.from_dict(yaml.safe_load(text))


def test_files_that_are_linked_to_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def test_ci_installs_and_tests_as_the_readme_says() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    wanted = [line for line in commands() if line.startswith(("pip install", "python -m pytest"))]
    assert len(wanted) == 3
    for line in wanted:
        assert line in script, f".ci/run does not hold: {line}"
