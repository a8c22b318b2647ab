"""Documents of strangers: recipes, label files, lists, COCO documents, model files and pipes in place of any of them.

Each ends in a typed error of two lines that names the file, at once and in bounded memory.
"""

from __future__ import annotations

import json
import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import terrazzo
from terrazzo.cli.main import main
from terrazzo.data import open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.engines.engine import available_cores
from terrazzo.errors import CheckpointError, DatasetError, LabelError, TerrazzoError
from terrazzo.labels.spec import LabelSpec
from terrazzo.preprocess import Preprocess
from terrazzo.training.recipe import automatic_recipe
from terrazzo.training.recipe_text import recipe_text
from terrazzo.weights.exported import ExportedDescription
from terrazzo.weights.metadata import labels_from_names
from terrazzo.weights.processor import preprocess_from_processor

SIDE = 16


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end in the two lines of an error, and return them."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error[") and lines[1].startswith("  fix: ")
    assert all(line.isprintable() and len(line) < 2100 for line in lines)
    return lines[0]


def photo(path: Path, values: tuple[int, int] = (0, 1), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.repeat(np.array(values, np.uint8), SIDE // 2)[None].repeat(SIDE, 0)
    Image.fromarray(image).convert(mode).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for split in ("train", "val"):
        photo(folder / split / "images" / f"{split}.png", (0, len(split)), mode="RGB")
        photo(folder / split / "masks" / f"{split}.png")
    return folder


@pytest.fixture(scope="module")
def recipe() -> str:
    return recipe_text(automatic_recipe("segformer_b0", [(SIDE, SIDE)], steps=1))


def with_line(recipe: str, key: str, value: str) -> str:
    if key == "crop":
        return re.sub(r"{name: crop,.*}", lambda _: f"{{name: crop, size: {value}}}", recipe)
    return re.sub(rf"(?m)^  {key}:.*\n(?:   .*\n)*", lambda _: f"  {key}: {value}\n", recipe, count=1)


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("seed", "2001-99-99", "run.seed is '2001-99-99'"),
        ("seed", "2001-12-14", "run.seed is '2001-12-14'"),
        ("seed", '!!int ""', "'' is not what !!int says"),
        ("seed", "!!timestamp x", "the tag !!timestamp is not read"),
        ("seed", "5" * 5000, "a number of 5,000 digits"),
        ("seed", "1e+999", "larger than any number"),
        ("seed", "99999999999", "run.seed is 99999999999"),
        ("seed", "010", "may be octal or decimal"),
        ("seed", "3\n  seed: 4", "the key 'seed' occurs twice"),
        ("seed", "3\n  3: 4", "run has a key 3"),
        ("crop", "[" * 20_000, "nested deeper than 64 levels"),
        ("crop", "[{a: 1}, 2]", "augment.crop.size is [a dict, 2]"),
        ("crop", "[100000000000, 5]", "augment.crop.size is [100000000000, 5]"),
        ("preprocess", "{1: 2}", "data.preprocess has a key 1"),
        ("preprocess", "{short_side: true}", "short_side is True"),
        ("preprocess", "{mean: 2001-01-01}", "preprocess mean, std or size is not a list of numbers"),
        ("name", '"\\e[2J\\n"', r"unknown model '\x1b[2J\n'"),
        ("labels", "a" * 5000, "name is 'aaa"),
    ],
)
def test_a_recipe_that_means_no_run(
    recipe: str, data: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, problem: str
) -> None:
    path = data.parent / "recipe.yaml"
    path.write_text(with_line(recipe, key, value))
    line = refused(capsys, "train", "--data", data, "--recipe", path, "--output", data.parent / "run")
    assert problem in line


@pytest.mark.parametrize(
    "content",
    [
        b"1: 2\n",
        b"{" * 900 + b"}" * 900,
        b"".join(b" " * level + b"a:\n" for level in range(900)),
        b"\x89PNG\r\n\x1a\n\0\0",
        b"- a\n",
        b"a: &a [*a]\n",
        b"!!set {a}\n",
        b"",
    ],
)
def test_a_file_that_is_no_recipe(data: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path = data.parent / "recipe.yaml"
    path.write_bytes(content)
    line = refused(capsys, "train", "--data", data, "--recipe", path, "--output", data.parent / "run")
    assert line.startswith(f"error[config]: {path}")


@pytest.fixture(params=["pipe", "device", "folder", "long"])
def nothing_to_read(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Put in place of a file what must not be opened, or cannot be."""

    def put(path: Path) -> Path:
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "folder":
            path.mkdir()
        else:
            return path.with_name("x" * 5000 + path.suffix)
        return path

    return put


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2", ".safetensors", ".pth", ""])
def test_no_file_in_place_of_a_model(
    nothing_to_read: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path = nothing_to_read(tmp_path / f"model{suffix}")
    line = refused(capsys, "predict", photo(tmp_path / "photo.png"), "--model", path, "--output", tmp_path / "out")
    assert line.startswith(("error[checkpoint-missing]: ", "error[hub-missing]: ", "error[argument-type]: "))


def test_no_file_in_place_of_a_recipe(nothing_to_read: Any, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = nothing_to_read(data.parent / "recipe.yaml")
    line = refused(capsys, "train", "--data", data, "--recipe", path, "--output", data.parent / "run")
    told = line.startswith("error[config]: ") and "cannot be read: " in line
    assert told or (line.startswith("error[argument-type]: ") and "which cannot be the name of anything" in line)


def test_no_file_in_place_of_labels(data: Path) -> None:
    os.mkfifo(data / "labels.yaml")
    with pytest.raises(LabelError, match=r"labels\.yaml cannot be read: it is a pipe, not a file"):
        open_dataset(data, "train")


@pytest.mark.parametrize("names", ["[a, !!timestamp 2001-01-01]", "[a, !!set {b}]", "[a, 1e+999]"])
def test_labels_with_tags(data: Path, names: str) -> None:
    (data / "labels.yaml").write_text(f"map: {{0: 0}}\nnames: {names}\n")
    with pytest.raises(LabelError, match=r"labels\.yaml, line 2: "):
        open_dataset(data, "train")


def test_a_class_called_like_a_date(data: Path) -> None:
    (data / "labels.yaml").write_text("names: [2001-99-99, 12:30]\n")
    assert open_dataset(data, "train").labels.names == ("2001-99-99", "12:30")


@pytest.mark.parametrize("shape", [[0, 2**63], [2**63, 0], [0, 2**64], [0] * 2000])
def test_a_tensor_of_a_shape_that_none_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: list[int]
) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    line = refused(capsys, "predict", photo(tmp_path / "photo.png"), "--model", path, "--output", tmp_path / "out")
    assert line.startswith(("error[checkpoint-damaged]: ", "error[checkpoint-unknown]: "))


def coco(folder: Path, **changes: Any) -> Path:
    photo(folder / "train" / "a.png", mode="RGB")
    images = [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "leaf"}], **changes}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    "name", ["a" * 5000, "a" * 5000 + "/b.png", "b/" * 3000, "a\0b.png", "\0/b.png", "\ud800/b.png", "\x1b[2J.png"]
)
def test_a_name_that_no_file_has_in_a_coco_document(tmp_path: Path, name: str) -> None:
    entries = [{"id": k, "file_name": n, "height": SIDE, "width": SIDE} for k, n in enumerate(["a.png", name])]
    check = check_dataset(coco(tmp_path / "coco", images=entries))
    assert [split.images for split in check.splits] == [1]
    missing = [problem.message for problem in check.problems if problem.code == "photo-missing"]
    assert len(missing) == 1 and missing[0].isprintable() and len(missing[0]) < 1200


@pytest.mark.parametrize("place", ["annotations/instances_train.json", "train.json", "val.json"])
def test_a_pipe_in_place_of_a_coco_document(tmp_path: Path, place: str) -> None:
    folder = coco(tmp_path / "coco")
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)
    check = check_dataset(folder)
    said = [problem.message for problem in check.problems if "it is a pipe, not a file" in problem.message]
    assert bool(said) == place.startswith("annotations")


@pytest.mark.parametrize(
    "content, code",
    [
        (b"a\0b\n", "dataset-list"),
        (b"a" * 5000, "dataset-pairs"),
        (b"b" * 5000 + b"/a", "dataset-pairs"),
        (b"a" * 5000 + b".png " + b"c" * 5000 + b".png", "dataset-pairs"),
        (b"\x1b[2J\n", "dataset-pairs"),
    ],
)
def test_a_list_of_names_that_no_file_has(tmp_path: Path, content: bytes, code: str) -> None:
    photo(tmp_path / "images" / "a.png", mode="RGB")
    photo(tmp_path / "masks" / "a.png")
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path, "train")
    assert caught.value.code == code and len(str(caught.value)) < 2100


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    photo(tmp_path / "images" / "straße.png", mode="RGB")
    photo(tmp_path / "masks" / "straße.png")
    (tmp_path / "train.txt").write_bytes("straße\r\n".encode(encoding))
    assert [sample.name for sample in open_dataset(tmp_path, "train").samples] == ["straße"]


@pytest.mark.parametrize(
    "change",
    [
        ("size", "[9e999, 64]"),
        ("size", "[-64, 64]"),
        ("short_side", "9e999"),
        ("short_side", "-1"),
        ("short_side", "1" * 5000),
        ("mean", "[NaN, 1, 1]"),
        ("minimum_side", "9e999"),
        ("minimum_side", "-5"),
        ("minimum_side", "1" * 4000),
        ("minimum_side", "true"),
        ("record", "[[1]]"),
        ("record", "[" * 5000 + "]" * 5000),
    ],
)
def test_an_exported_files_description_with_impossible_numbers(change: tuple[str, str]) -> None:
    key, value = change
    preprocess = {"multiple_of": 1, key: "?"} if key in ("size", "short_side", "mean") else {}
    description = {
        "format_version": 1, "architecture": "segformer_b0", "labels": {"names": ["a", "b"]}, "preprocess": preprocess,
        "output": "logits", "precision": "fp32", "record": {}, "name": "x", "minimum_side": 1,
    }  # fmt: skip
    if key in description:
        description[key] = "?"
    text = json.dumps(description).replace('"?"', value)
    with pytest.raises(CheckpointError) as caught:
        ExportedDescription.from_json(text, "model.onnx")
    assert caught.value.code == "export-damaged"


NUMBERS = st.sampled_from([0, 1, -1, 1.5, 2**31, 2**63, 10**19, 9e99]) | st.none() | st.booleans()
KEYS = st.sampled_from(["a", "0", "1", "height", "width", "shortest_edge", "255,0,0"])
VALUES = st.recursive(
    NUMBERS | st.sampled_from(["", "a", "1", "ignore", "255,0,0", "\x1b[2J", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "0", "1", "height", "width", "shortest_edge", "255,0,0"]), inner, max_size=3
        )
    ),
    max_leaves=4,
)
LABELS = LabelSpec.from_names(["a", "b"]).to_dict()
PROCESSOR = {"size": 512, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "rescale_factor": 1 / 255}


@settings(deadline=None)
@given(st.data())
def test_any_value_in_a_document_is_used_or_refused(data: st.DataObject) -> None:
    """Whatever stands where a name, a number, a list or a mapping belongs."""
    description = json.loads(ExportedDescription("x", LabelSpec.from_dict(LABELS), Preprocess()).to_json())
    for read, complete in [
        (lambda values: ExportedDescription.from_json(json.dumps(values), "here"), description),
        (LabelSpec.from_dict, {**LABELS, "map": {}, "colors": {}}),
        (Preprocess.from_dict, Preprocess().to_dict()),
        (lambda values: preprocess_from_processor(values, "here"), PROCESSOR),
        (lambda values: labels_from_names(values["names"], 2, "here", values["palette"]), LABELS),
    ]:
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(complete)), VALUES, min_size=1, max_size=2))
        with suppress(TerrazzoError):
            read({**complete, **changed})


def test_a_colour_of_5000_digits_in_a_label_map(tmp_path: Path) -> None:
    photo(tmp_path / "JPEGImages" / "a.png", mode="RGB")
    photo(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nleaf:0,0," + "1" * 5000 + "::\n")
    with pytest.raises(DatasetError, match="line 2 is not a name and a colour"):
        open_dataset(tmp_path, "train")


def test_numbers_of_5000_digits_from_the_command_and_its_surroundings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "size is" in refused(capsys, "benchmark", "--size", "5" * 5000 + "x5")
    monkeypatch.setenv("OMP_NUM_THREADS", "9" * 5000)
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_documents_are_read_in_one_place() -> None:
    """So that each reader has the limits of `terrazzo.config`; processes of ours talk to each other in JSON."""
    source = Path(terrazzo.__file__).parent
    reads = re.compile(r"\b(yaml\.(safe_)?load\w*|json\.loads?|pickle\.loads?|ElementTree|minidom)\(")
    elsewhere = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if reads.search(path.read_text()) and path.parent.name != "profiling" and not path.name.startswith("openvino_")
    }
    assert elsewhere == {"config.py"}
