"""Annotations from strangers: whatever stands in a document, it is read or refused by name, in bounded memory."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tool_exports import EXPORTS, H, W, boxes, coco, corners, document, labelme_file, photo, png, shape, text

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.errors import DatasetError, TerrazzoError

WITH_JSON = (
    "cvat_coco",
    "labelme",
    "label_studio",
    "label_studio_brush",
    "panoptic_things",
    "supervisely",
    "segments_ai",
)
STRANGE: list[Any] = [
    None, -1, 0, 3.5, "x", "", [], {}, [[]], True, "../../../etc/passwd", "\x1b[2J", 10**30, float("nan"), "a" * 5000,
    "\0", [None], {"a": 1}, 1e300,
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::terrazzo.notes.TerrazzoWarning")


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Walk through a document."""
    yield above
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from places(value, (*above, key))


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@pytest.fixture(scope="module", params=WITH_JSON)
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """An export, one of its documents, and what that holds."""
    root = tmp_path_factory.mktemp(request.param)
    EXPORTS[request.param](root)
    path = max(root.rglob("*.json"), key=lambda path: path.stat().st_size)
    return root, path, json.loads(path.read_text())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_document_is_read_or_refused(export: tuple[Path, Path, Any], data: st.DataObject) -> None:
    root, path, content = export
    place = data.draw(st.sampled_from(list(places(content))))
    path.write_text(json.dumps(put(content, place, data.draw(st.sampled_from(STRANGE)))))
    try:
        for split in find_layout(root).splits:
            dataset = open_dataset(root, split)
            for index in range(len(dataset)):
                dataset.read(index)
                assert dataset.samples[index].image.file.resolve().is_relative_to(root.resolve())
    except TerrazzoError as error:
        assert error.message.isprintable() and error.fix.isprintable()
        assert len(error.message) < 2500
    finally:
        path.write_text(json.dumps(content))


def refused(root: Path) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        for split in find_layout(root).splits:
            dataset = open_dataset(root, split)
            for index in range(len(dataset)):
                dataset.read(index)
    return caught.value


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (shape("leaf", [[1, 1], [5, 5]], "circle") | {"points": [[1, 1]]}, "shape 2 cannot be read: a circle has two"),
        (shape("leaf", [[1, "x"], [5, 5], [1, 5]]), "shape 2 cannot be read: its points are not a list of x and y"),
        (shape("leaf", [[1, 1e30], [5, 5], [1, 5]]), "shape 2 cannot be read: its points are not a list of x and y"),
        (shape("leaf", corners(1, 1, 5, 5), "blob"), "shape 2 cannot be read: its kind 'blob' is not known"),
        (shape("", corners(1, 1, 5, 5)), "shape 2 cannot be read: it has no label"),
        (shape("leaf", [[1, 1], [5, 5]], "mask", mask="%%%"), "shape 2 cannot be read: its image data are not base64"),
        (shape("leaf", [[1, 1], [5, 5]], "mask", mask="eA=="), "shape 2 cannot be read: its bitmap:"),
        ("leaf", "shape 2 cannot be read: it has no label"),
    ],
)
def test_a_shape_of_labelme_is_named_by_its_file_and_number(broken: Any, message: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    path = document(tmp_path / "a.json", labelme_file("a.jpg", [shape("leaf", corners(2, 3, 6, 9)), broken]))
    error = refused(tmp_path)
    assert error.code == "outline-damaged"
    assert error.message.startswith(f"{path}: {message}")
    (problem,) = [problem for problem in check_dataset(tmp_path).errors if problem.code != "dataset-split"]
    assert (problem.code, problem.file) == ("outline-damaged", path)


def test_a_label_that_labels_txt_lacks_is_refused(tmp_path: Path) -> None:
    EXPORTS["labelme_in_order"](tmp_path)
    text(tmp_path / "labels.txt", "_background_\nleaf\n")
    assert "shape 1 cannot be read: its label 'bug' is not in labels.txt" in refused(tmp_path).message


def test_images_that_nobody_labelled_are_counted(tmp_path: Path) -> None:
    EXPORTS["labelme_in_order"](tmp_path)
    photo(tmp_path / "b.jpg")
    photo(tmp_path / "c.jpg")
    (problem,) = [problem for problem in check_dataset(tmp_path).warnings if problem.code == "mask-missing"]
    assert problem.message == "2 photos have no JSON file, and are left out: 'b.jpg', 'c.jpg'"


def test_two_files_of_one_image_are_refused(tmp_path: Path) -> None:
    EXPORTS["labelme_in_order"](tmp_path)
    document(tmp_path / "b.json", labelme_file("a.JPG", []))
    assert "b.json: shows a.JPG, as a.json does" in refused(tmp_path).message


def test_names_out_of_the_folder_find_nothing(tmp_path: Path) -> None:
    """Neither upwards nor absolute, neither with slashes nor with backslashes, though the file is there."""
    secret = photo(tmp_path / "secret.jpg")
    root = tmp_path / "set"
    for name in ("../secret.jpg", "..\\secret.jpg", str(secret), "a/../../secret.jpg"):
        document(root / "a.json", labelme_file(name, [shape("leaf", corners(2, 3, 6, 9))]))
        assert refused(root).message.count("is not there, nor a copy in it") == 1
    (root / "a.json").unlink()
    document(root / "result.json", coco("../secret.jpg", contributor="Label Studio"))
    assert "leads elsewhere" in refused(root).message


@pytest.mark.parametrize("name", ["a" * 5000 + ".jpg", "\0.jpg", "a/" * 2000 + "b.jpg", "\x1b[2J.jpg", "...", "/"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    document(tmp_path / "annotations/instances_train.json", coco(name))
    error = refused(tmp_path)
    assert error.code == "dataset-pairs"
    assert len(error.message) < 500 and error.message.isprintable()


def test_names_are_found_composed_or_decomposed(tmp_path: Path) -> None:
    composed, decomposed = "gr\u00fcn.jpg", "gru\u0308n.jpg"
    for on_disk, written, root in ((composed, decomposed, tmp_path / "a"), (decomposed, composed, tmp_path / "b")):
        photo(root / "images" / on_disk)
        document(root / "annotations/instances_default.json", coco(written))
        assert open_dataset(root, "default").samples[0].image.file.name == on_disk


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("bitmap", "message"),
    [
        ({"data": packed(b"\0" * 70000), "origin": [0, 0]}, "cut short, or too large"),
        ({"data": packed(png(boxes()))[:-20], "origin": [0, 0]}, "base64 text|cut short|cannot be unpacked"),
        ({"data": packed(b"no image"), "origin": [0, 0]}, "its bitmap: "),
        ({"data": base64.b64encode(b"not zlib").decode(), "origin": [0, 0]}, "cannot be unpacked"),
        ({"data": packed(png(boxes())), "origin": ["x", 0]}, "its bitmap has no origin"),
        ({"data": packed(png(boxes()))}, "its bitmap has no origin"),
        (None, "its bitmap has no origin"),
    ],
)
def test_bitmaps_of_supervisely_are_bounded_and_named(
    bitmap: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terrazzo.data.bitmaps.MOST_UNPACKED", 1 << 16)
    EXPORTS["supervisely"](tmp_path)
    path = tmp_path / "train/ann/a.png.json"
    content = json.loads(path.read_text())
    content["objects"][1]["bitmap"] = bitmap
    document(path, content)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(tmp_path, "train").read(0)
    assert caught.value.message.startswith(f"{path}: object 2 cannot be read")


@pytest.mark.parametrize("origin", [(-2, -1), (W - 1, H - 1), (100, 100), (-100, 0)])
def test_bitmaps_beyond_the_border_are_cut_off(origin: tuple[int, int], tmp_path: Path) -> None:
    EXPORTS["supervisely"](tmp_path)
    path = tmp_path / "train/ann/a.png.json"
    content = json.loads(path.read_text())
    content["objects"] = [content["objects"][1]]
    content["objects"][0]["bitmap"]["origin"] = list(origin)
    document(path, content)
    wide = np.zeros((300, 300), np.uint8)
    wide[100 + origin[1] : 103 + origin[1], 100 + origin[0] : 103 + origin[0]] = 2
    np.testing.assert_array_equal(open_dataset(tmp_path, "train").read(0)[1], wide[100 : 100 + H, 100 : 100 + W])


def test_an_outline_that_fills_memory_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", (2000, 2))
    zigzag = [[float(k % 2), 2000.0 * (k % 2)] for k in range(10000)]
    size = {"imageHeight": 2000, "imageWidth": 2}
    document(tmp_path / "a.json", labelme_file("a.png", [shape("leaf", zigzag)], **size))
    assert "its edges cross" in refused(tmp_path).message


def test_segments_that_the_document_does_not_list_are_refused(tmp_path: Path) -> None:
    EXPORTS["panoptic_things"](tmp_path)
    path = tmp_path / "export_coco-panoptic_me_v1.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["segments_info"][0]
    document(path, content)
    error = refused(tmp_path)
    assert (error.code, error.message) == (
        "segments-damaged",
        f"{tmp_path / 'pngs/a.png'}: it holds segments that the document does not list: 3",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Pixel Value, Class\n0, background\n0, leaf\n", "line 3 repeats a value"),
        ("Pixel Value, Class\n0, background\nx, leaf\n", "line 3 is not a value and a class"),
        ("Pixel Value, Class\n0, background\n3,\n", "line 3 is not a value and a class"),
        ("Pixel Value, Class\n0, background\n", "gives other classes than"),
        ("0, background\n3, bug\n", "gives other classes than"),
    ],
)
def test_classes_of_roboflow_are_named_by_their_line(content: str, message: str, tmp_path: Path) -> None:
    EXPORTS["roboflow"](tmp_path)
    text(tmp_path / "train/_classes.csv", content)
    error = refused(tmp_path)
    assert error.code == "dataset-annotations"
    assert message in error.message


@pytest.mark.parametrize("name", ["cvat_coco", "labelme_in_order", "panoptic_things", "segments_ai"])
@pytest.mark.parametrize("content", ["", "{", "[" * 100000, "[]", '{"shapes": 1}'])
def test_what_is_no_document_is_refused_or_not_taken_for_one(name: str, content: str, tmp_path: Path) -> None:
    EXPORTS[name](tmp_path)
    next(iter(tmp_path.rglob("*.json"))).write_text(content)
    assert refused(tmp_path).code in ("dataset-annotations", "dataset-layout")
