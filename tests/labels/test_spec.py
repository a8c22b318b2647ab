"""LabelSpec: the bundled lists, reading and drawing masks, documents, and hostile input (row 47)."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terrazzo.errors import LabelError
from terrazzo.labels.palette import generate_palette
from terrazzo.labels.spec import LabelSpec, bundled_names

COUNTS = {
    "ade20k": 150,
    "camvid": 11,
    "camvid_colors": 11,
    "cityscapes": 19,
    "cityscapes_ids": 19,
    "coco_stuff": 171,
    "coco_stuff_raw": 171,
    "pascal_context": 60,
    "pascal_context_59": 59,
    "voc": 21,
}
RGB = LabelSpec.from_names(["ground", "crop", "weed"], [(90, 60, 30), (0, 200, 0), (200, 0, 0)])

name_lists = st.lists(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=2, max_size=300
)
name_lists = name_lists.map(lambda names: [f"{i} {name}" for i, name in enumerate(names)])


def refused(code: str, call: object, *arguments: object, **options: object) -> LabelError:
    with pytest.raises(LabelError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix and len(str(caught.value)) < 1500
    return caught.value


# --- bundled lists ----------------------------------------------------------------------------------------------------


def test_bundled_lists_have_the_published_counts() -> None:
    assert {name: LabelSpec.bundled(name).num_classes for name in bundled_names()} == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_bundled_lists_are_clean(name: str) -> None:
    spec = LabelSpec.bundled(name)
    assert all(n == n.strip() and n for n in spec.names)
    assert len(set(spec.names)) == spec.num_classes == len(spec.palette)
    assert LabelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    if spec.id_map is not None:
        assert {target for _, target in spec.id_map} == {*range(spec.num_classes), "ignore"}


def test_bundled_known_entries() -> None:
    assert LabelSpec.bundled("ade20k").names[:3] == ("wall", "building", "sky")
    assert LabelSpec.bundled("camvid").names[3] == "Road"
    assert LabelSpec.bundled("cityscapes").palette[0] == (128, 64, 128)
    assert LabelSpec.bundled("voc").names[0] == LabelSpec.bundled("pascal_context").names[0] == "background"
    assert LabelSpec.bundled("coco_stuff_raw").names == LabelSpec.bundled("coco_stuff").names


def test_ade20k_masks_are_read_as_published() -> None:
    spec = LabelSpec.bundled("ade20k")
    assert spec.encode(np.array([[0, 1, 150, 255]], np.uint8)).tolist() == [[255, 0, 149, 255]]
    assert "151 (1 pixel)" in refused("labels-unknown-value", spec.encode, np.array([[151]], np.uint8)).message


def test_camvid_masks_ignore_11_and_255() -> None:
    spec = LabelSpec.bundled("camvid")
    assert spec.encode(np.array([[0, 10, 11, 255]], np.uint8)).tolist() == [[0, 10, 255, 255]]


def test_coco_stuff_original_ids() -> None:
    spec = LabelSpec.bundled("coco_stuff_raw")
    assert spec.encode(np.array([[0, 12, 181, 255]], np.uint8)).tolist() == [[0, 11, 170, 255]]
    assert spec.unknown_values(np.array([[11, 90, 90]], np.uint8)) == {90: 2, 11: 1}


def test_an_unknown_list_names_the_nearest() -> None:
    assert "cityscapes" in refused("labels-bundled", LabelSpec.bundled, "cityscape").fix
    assert "ade20k" in refused("labels-bundled", LabelSpec.bundled, "../../secret").fix


def test_an_option_names_a_list_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("names: [a, b]\n")
    assert LabelSpec.named(str(path)) == LabelSpec.from_names(["a", "b"])
    assert LabelSpec.named("camvid") == LabelSpec.bundled("camvid")
    assert "labels.yaml" in refused("labels-bundled", LabelSpec.named, str(tmp_path)).fix


# --- index masks ------------------------------------------------------------------------------------------------------


def test_stored_values_are_class_indices_unless_a_map_says_otherwise() -> None:
    stored = np.array([[0, 1], [2, 255]], np.uint8)
    mask = RGB.encode(stored)
    np.testing.assert_array_equal(mask, stored)
    assert mask is not stored and mask.flags.writeable and mask.dtype == np.uint8


def test_row_24_unknown_values_are_listed_with_counts() -> None:
    stored = np.repeat(np.arange(20, dtype=np.uint8), np.arange(1, 21))[None]
    error = refused("labels-unknown-value", RGB.encode, stored)
    assert "19 (20 pixels), 18 (19 pixels)" in error.message and "and 9 more" in error.message
    assert "map" in error.fix
    assert RGB.unknown_values(stored) == {value: value + 1 for value in range(19, 2, -1)}


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32])
@pytest.mark.parametrize("id_map", [None, {0: 0, 5: 1, 6: "ignore", 100: 2}])
def test_row_29_wide_and_negative_values_never_wrap(dtype: type, id_map: dict | None) -> None:
    spec = LabelSpec.from_names(RGB.names, id_map=id_map)
    wrong = -1 if np.dtype(dtype).kind == "i" else 65536
    if dtype in (np.int32, np.int64):
        assert set(spec.unknown_values(np.array([[65536, -(1 << 20), 0]], dtype))) == {65536, -(1 << 20)}
    assert spec.unknown_values(np.array([[0, wrong]], dtype)) == {wrong: 1}
    good = np.array([[0, 0 if id_map is None else 100]], dtype)
    assert spec.encode(good).tolist() == [[0, 0 if id_map is None else 2]]


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool)])
def test_row_29_no_index_mask(mask: np.ndarray) -> None:
    refused("labels-mask-type", RGB.encode, mask)
    refused("labels-mask-type", RGB.colorize, mask)


def test_row_27_ignore_beyond_255_classes() -> None:
    few, many = (LabelSpec.from_names([f"class {i}" for i in range(n)]) for n in (255, 256))
    assert (few.ignore_index, few.mask_dtype, many.ignore_index, many.mask_dtype) == (255, np.uint8, 65535, np.uint16)
    assert few.encode(np.array([[254, 255]], np.uint8)).dtype == np.uint8
    mask = many.encode(np.array([[255, 65535]], np.uint16))
    assert mask.dtype == np.uint16 and mask.tolist() == [[255, 65535]]
    assert many.encode(np.array([[255]], np.uint8)).tolist() == [[255]], "class 255, not ignore"
    assert many.colorize(mask)[0].tolist() == [list(many.palette[255]), [0, 0, 0]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_encode_follows_any_map(data: st.DataObject) -> None:
    targets = st.one_of(st.just("ignore"), st.integers(0, 2))
    id_map = data.draw(st.dictionaries(st.integers(0, 300), targets, min_size=1))
    spec = LabelSpec.from_names(RGB.names, id_map=id_map)
    values = data.draw(st.lists(st.sampled_from(sorted(id_map)), min_size=1))
    stored = np.array([values], data.draw(st.sampled_from([np.uint16, np.int64])))
    expected = [[255 if id_map[v] == "ignore" else id_map[v] for v in values]]
    assert spec.encode(stored).tolist() == expected
    assert LabelSpec.from_dict(spec.to_dict()) == spec == pickle.loads(pickle.dumps(spec))
    assert hash(spec) == hash(LabelSpec.from_dict(spec.to_dict()))


# --- colours ----------------------------------------------------------------------------------------------------------


@given(name_lists, st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_drawn_mask_comes_back(names: list[str], background: bool, data: st.DataObject) -> None:
    spec = LabelSpec.from_names(["background", *names] if background else names)
    values = data.draw(st.lists(st.integers(0, spec.num_classes), min_size=1, max_size=50))
    mask = np.array([[v if v < spec.num_classes else spec.ignore_index for v in values]], spec.mask_dtype)
    rgb = spec.colorize(mask)
    assert rgb.shape == (*mask.shape, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    back = spec.encode_rgb(rgb)
    assert back.dtype == spec.mask_dtype
    np.testing.assert_array_equal(back, mask)
    np.testing.assert_array_equal(spec.encode(mask), mask)


def test_ignored_pixels_are_black_unless_a_class_is() -> None:
    assert RGB.ignore_color == (0, 0, 0)
    voc = LabelSpec.bundled("voc")
    assert voc.ignore_color == (255, 255, 255)
    assert voc.colorize(np.array([[0, 255]], np.uint8)).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    both = LabelSpec.from_names(["night", "snow"], [(0, 0, 0), (255, 255, 255)])
    assert both.ignore_color == (128, 128, 128)


def test_colorize_refuses_values_beyond_the_classes() -> None:
    assert "3 (2 pixels)" in refused("labels-unknown-value", RGB.colorize, np.array([[0, 3, 3]], np.uint8)).message
    refused("labels-unknown-value", RGB.colorize, np.array([[-1]], np.int64))
    assert RGB.colorize(np.array([[2, 255]], np.int64)).tolist() == [[[200, 0, 0], [0, 0, 0]]]


def test_row_25_unknown_colours_are_listed_with_counts() -> None:
    rgb = np.full((10, 10, 3), 7, np.uint8)
    rgb[0] = (0, 200, 0)
    rgb[1, :9] = [(i, 0, 0) for i in range(1, 10)]
    error = refused("labels-unknown-color", RGB.encode_rgb, rgb)
    assert "(7, 7, 7) (81 pixels)" in error.message and "and 2 more" in error.message and "colors" in error.fix
    assert next(iter(RGB.unknown_colors(rgb).items())) == ((7, 7, 7), 81)
    refused("labels-mask-type", RGB.encode_rgb, rgb[..., 0])


def test_explicit_colours() -> None:
    colors = {(255, 0, 0): 1, (250, 0, 0): 1, (0, 0, 0): "ignore", (9, 9, 9): 0}
    spec = LabelSpec.from_names(["a", "b"], colors=colors)
    assert spec.palette == ((9, 9, 9), (250, 0, 0)), "the colours serve as the palette"
    rgb = np.array([[[255, 0, 0], [250, 0, 0], [0, 0, 0], [9, 9, 9]]], np.uint8)
    assert spec.encode_rgb(rgb).tolist() == [[1, 1, 255, 0]]


def test_ambiguous_colours_are_refused() -> None:
    for name in ("ade20k", "coco_stuff", "pascal_context", "pascal_context_59"):
        spec = LabelSpec.bundled(name)
        refused("labels-ambiguous", spec.encode_rgb, np.zeros((1, 1, 3), np.uint8))
    names = ["a", "b"]
    refused("labels-ambiguous", LabelSpec.from_dict, {"names": names, "colors": {"1,2,3": 0, "1, 2, 3": 1}})
    refused("labels-ambiguous", LabelSpec.from_dict, {"names": names, "colors": [[1, 2, 3], [1, 2, 3]]})


# --- the generated palette --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
def test_generated_colours_are_distinct_and_grow_by_addition(background: bool) -> None:
    long = generate_palette(2000, background=background)
    assert len(set(long)) == 2000
    assert ((0, 0, 0) in long) == background
    for count in (2, 8, 9, 256, 257):
        assert generate_palette(count, background=background) == long[:count]
    first = np.array(long[: 20 + background], int)
    apart = np.abs(first[:, None] - first[None]).sum(-1) + 1000 * np.eye(len(first), dtype=int)
    assert apart.min() > 70


def test_a_background_is_black() -> None:
    assert LabelSpec.from_names(["Background", "nucleus"]).palette[0] == (0, 0, 0)
    assert LabelSpec.from_names(["nucleus", "background"]).palette[0] != (0, 0, 0)


# --- documents --------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_labels_yaml(tmp_path: Path) -> None:
    text = "names: [background, nucleus]\npalette: [[0,0,0],[255,0,0]]\nmap: {0: ignore, 1: 0, 2: 1}\n"
    spec = LabelSpec.from_yaml(written(tmp_path, text))
    assert spec == LabelSpec(
        ("background", "nucleus"), ((0, 0, 0), (255, 0, 0)), id_map=((0, "ignore"), (1, 0), (2, 1))
    )


def test_labels_yaml_short_forms(tmp_path: Path) -> None:
    assert LabelSpec.from_yaml(written(tmp_path, "names: {1: nucleus, 0: background}")) == LabelSpec.from_names(
        ["background", "nucleus"]
    )
    assert LabelSpec.from_yaml(written(tmp_path, "names: camvid")) == LabelSpec.bundled("camvid")
    spec = LabelSpec.from_yaml(written(tmp_path, "names: ade20k\nmap: {0: 0, 1: 149, 255: ignore}"))
    assert spec.id_map == ((0, 0), (1, 149), (255, "ignore"))
    spec = LabelSpec.from_yaml(written(tmp_path, 'names: [a, b]\ncolors: {"255,0,0": 0, "0, 0, 0": ignore}'))
    assert spec.colors == (((0, 0, 0), "ignore"), ((255, 0, 0), 0))
    spec = LabelSpec.from_yaml(written(tmp_path, "names: [a, b]\ncolors: [[255, 0, 0], [0, 255, 0]]"))
    assert spec.colors == (((0, 255, 0), 1), ((255, 0, 0), 0)) and spec.palette == ((255, 0, 0), (0, 255, 0))


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("names: [a, b]\npallete: []", "labels-key", "palette"),
        ("names: [a, b]\nzzz: []", "labels-key", "names, palette, map, colors"),
        ("names: [a]", "labels-one-class", "background, 'a'"),
        ("names: []", "labels-names", ""),
        ("names: [a, no]", "labels-names", "quotes"),
        ("names: [a, a]", "labels-names", "rename"),
        ("names: {0: a, 2: b}", "labels-names", "number"),
        ("names: camvit", "labels-bundled", "camvid"),
        ("palette: []", "labels-names", ""),
        ("names: [a, b]\npalette: [[0, 0, 0]]", "labels-palette", ""),
        ("names: [a, b]\npalette: [[0, 0, 0], [0, 0, 256]]", "labels-color", "0 to 255"),
        ("names: [a, b]\nmap: {0: 2}", "labels-map", "class index"),
        ("names: [a, b]\nmap: {0: true}", "labels-map", "class index"),
        ("names: [a, b]\nmap: {-1: 0}", "labels-map", ""),
        ("names: [a, b]\nmap: {70000: 0}", "labels-map", ""),
        ("names: [a, b]\nmap: {}", "labels-map", ""),
        ("names: [a, b]\nmap: [0, 1]", "labels-map", ""),
        ("names: [a, b]\nmap: {0: 0, 0: 1}", "labels-file", ""),
        ("names: [a, b]\ncolors: {red: 0}", "labels-color", ""),
        ("names: [a, b]\ncolors: {'1,2,3': void}", "labels-colors", "ignore"),
        ("names: [a, b", "labels-file", ""),
        ("[a, b]", "labels-type", ""),
        ("", "labels-type", ""),
        (b"names: [a, \xff]", "labels-file", "UTF-8"),
        ("names: !!python/object/apply:os.system ['true']", "labels-file", ""),
        ("? [1, 2]\n: 3", "labels-file", ""),
        ("[" * 100_000, "labels-file", ""),
        ("- " * 5000, "labels-file", ""),
    ],
)
def test_labels_yaml_mistakes_are_named(text: str | bytes, code: str, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    error = refused(code, LabelSpec.from_yaml, path)
    assert str(path) in error.message and says in error.fix


def test_labels_yaml_that_is_no_file(tmp_path: Path) -> None:
    refused("labels-file", LabelSpec.from_yaml, tmp_path / "none.yaml")
    refused("labels-file", LabelSpec.from_yaml, tmp_path)


def test_row_47_hostile_documents_are_bounded() -> None:
    names = ["a", "b"]
    deep: object = "x"
    for _ in range(50_000):
        deep = [deep]
    for code, document in [
        ("labels-names", {"names": {"999999999": "x", "0": "y"}}),
        ("labels-names", {"names": {str(i): "x" for i in range(65536)}}),
        ("labels-names", {"names": [str(i) for i in range(65536)]}),
        ("labels-names", {"names": ["a", "b" * 201]}),
        ("labels-names", {"names": ["a", "\x1b[2Jb"]}),
        ("labels-names", {"names": ["a", "b\nc"]}),
        ("labels-names", {"names": ["a", "\u202eb"]}),
        ("labels-names", {"names": ["a", "\ud800"]}),
        ("labels-names", {"names": ["a", deep]}),
        ("labels-names", {"names": ["a", 10**5000]}),
        ("labels-names", {"names": 10**9}),
        ("labels-map", {"names": names, "map": {"9" * 5000: 0}}),
        ("labels-map", {"names": names, "map": {str(i): 0 for i in range(65537)}}),
        ("labels-map", {"names": names, "map": {0: 10**5000}}),
        ("labels-map", {"names": names, "map": {0: float("nan")}}),
        ("labels-colors", {"names": names, "colors": 5}),
        ("labels-color", {"names": names, "colors": {"1," * 10**6: 0}}),
        ("labels-key", {"names": names, "\x1b[31m" * 1000: 0}),
        ("labels-key", {"names": names, 3: 0}),
        ("labels-type", [[]]),
    ]:
        error = refused(code, LabelSpec.from_dict, document)
        assert str(error).isprintable()


def test_row_47_markup_in_a_name_is_only_a_name() -> None:
    spec = LabelSpec.from_dict({"names": ["<script>alert(1)</script>", "[red]b[/red]"]})
    assert spec.names[0] == "<script>alert(1)</script>"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["ignore", "camvid"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("names", "palette", "map", "colors", "x"), json_values)))
@settings(max_examples=100, deadline=None)
def test_any_document_gives_a_spec_or_a_label_error(document: dict[str, object]) -> None:
    try:
        spec = LabelSpec.from_dict(document)
    except LabelError as error:
        assert error.code.startswith("labels-") and error.fix
    else:
        assert LabelSpec.from_dict(spec.to_dict()) == spec


def test_one_class_is_told_that_background_is_a_label_too() -> None:
    error = refused("labels-one-class", LabelSpec.from_names, ["nucleus"])
    assert "two labels" in error.message and "background" in error.fix


def test_names_lose_the_spaces_around_them() -> None:
    assert LabelSpec.from_names(["bed ", " lamp"]).names == ("bed", "lamp")


def test_importing_labels_is_cheap() -> None:
    script = (
        "import sys, terrazzo.labels.spec; assert not {'torch', 'cv2', 'PIL', 'yaml', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
