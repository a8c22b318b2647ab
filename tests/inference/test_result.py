"""Segmentation: counts, pictures and files, each read back by somebody else's reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from terrazzo.errors import ConfigError, ImageError, LabelError, OutputError
from terrazzo.inference import areas
from terrazzo.inference.areas import ClassArea
from terrazzo.inference.kinds import KINDS
from terrazzo.inference.overlay import Style
from terrazzo.inference.result import Segmentation
from terrazzo.labels.spec import LabelSpec
from terrazzo.notes import TerrazzoWarning

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
LABELS = LabelSpec(("road", "tree", "sky"), ((128, 64, 128), (0, 128, 0), (70, 130, 180)))


def segmentation(**fields: object) -> Segmentation:
    """60 x 80: sky above, road below, one tree, some pixels without a class."""
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[:20] = 2
    mask[10:40, 30:40] = 1
    mask[59, :8] = 255
    photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    defaults: dict[str, object] = {"image": photo, "path": Path("photos/street.jpg"), "model": "segformer_b0.camvid"}
    return Segmentation(mask, LABELS, **{**defaults, **fields})  # type: ignore[arg-type]


# What is in it


def test_areas_largest_first() -> None:
    assert segmentation().areas() == [
        ClassArea(0, "road", 2992, 2992 / 4800),
        ClassArea(2, "sky", 1500, 1500 / 4800),
        ClassArea(1, "tree", 300, 300 / 4800),
    ]


def test_absent_classes_only_when_asked_for() -> None:
    mask = np.full((4, 5), 1, dtype=np.uint8)
    found = Segmentation(mask, LABELS)
    assert [area.name for area in found.areas()] == ["tree"]
    assert [(area.name, area.pixels) for area in found.areas(absent=True)] == [("tree", 20), ("road", 0), ("sky", 0)]


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 30), width=st.integers(1, 30), num_classes=st.sampled_from([2, 19, 255, 256, 700]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_areas_equal_a_plain_count(height: int, width: int, num_classes: int, seed: int) -> None:
    labels = LabelSpec.from_names([f"class {i}" for i in range(num_classes)])
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, num_classes, (height, width)).astype(labels.mask_dtype)
    mask[rng.random((height, width)) < 0.1] = labels.ignore_index
    found = Segmentation(mask, labels)
    areas = found.areas(absent=True)
    assert {area.index: area.pixels for area in areas} == {k: int((mask == k).sum()) for k in range(num_classes)}
    assert [area.pixels for area in areas] == sorted((area.pixels for area in areas), reverse=True)
    assert found.to_dict()["ignored_pixels"] == int((mask == labels.ignore_index).sum())


def test_areas_are_exact_beyond_what_a_float_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((4200, 4200), dtype=np.uint8)  # more than 2 ** 24 pixels
    mask[0, 0] = 1
    assert [area.pixels for area in Segmentation(mask, LABELS).areas()] == [4200 * 4200 - 1, 1]
    monkeypatch.setattr(areas, "EXACT_COUNTS", 100)
    assert [area.pixels for area in segmentation().areas()] == [2992, 1500, 300]


def test_to_dict_is_json_without_folders() -> None:
    document = json.loads(json.dumps(segmentation().to_dict()))
    assert document == {
        "file": "street.jpg",
        "width": 80,
        "height": 60,
        "model": "segformer_b0.camvid",
        "classes": [
            {"index": 0, "name": "road", "pixels": 2992, "share": 0.623333},
            {"index": 2, "name": "sky", "pixels": 1500, "share": 0.3125},
            {"index": 1, "name": "tree", "pixels": 300, "share": 0.0625},
        ],
        "ignored_pixels": 8,
    }


def test_repr_is_one_short_line() -> None:
    assert repr(segmentation()) == "<Segmentation of street.jpg, 80 x 60: road 62.3%, sky 31.2%, tree 6.2%>"
    assert repr(segmentation(path=None)).startswith("<Segmentation of an image, 80 x 60")


@pytest.mark.parametrize(
    "fields",
    [
        {"image": np.zeros((60, 81, 3), dtype=np.uint8)},
        {"image": np.zeros((60, 80), dtype=np.uint8)},
        {"image": np.zeros((60, 80, 3), dtype=np.float32)},
        {"probabilities": np.zeros((4, 60, 80), dtype=np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(LabelError, match=r"\(60, 80, 3\)|\(3, 60, 80\)") as caught:
        segmentation(**fields)
    assert caught.value.code == "mask-shape"


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((60, 80), dtype=np.int64),
        np.zeros((60, 80), dtype=np.uint16),
        np.zeros((1, 60, 80), dtype=np.uint8),
        np.zeros((0, 80), dtype=np.uint8),
    ],
)
def test_masks_of_another_type_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(LabelError, match="3 classes is"):
        Segmentation(mask, LABELS)


def test_an_index_beyond_the_classes_is_named() -> None:
    with pytest.raises(LabelError, match="index 7, but the classes are 0 to 2"):
        Segmentation(np.array([[0, 255, 7]], dtype=np.uint8), LABELS)


# How it looks


def test_color_is_the_palette() -> None:
    found = segmentation()
    np.testing.assert_array_equal(found.color(), LABELS.colorize(found.mask))


def test_overlay_shows_image_and_colour_in_their_shares() -> None:
    found = segmentation()
    assert found.image is not None
    plain = found.overlay(0.25, legend=False).astype(int)
    mixed = 0.75 * found.image[50, 5:70] + 0.25 * np.array(LABELS.palette[0])
    assert np.abs(plain[50, 5:70] - mixed).max() <= 1
    np.testing.assert_array_equal(found.overlay(0, legend=False)[50, 5:70], found.image[50, 5:70])
    np.testing.assert_array_equal(plain[59, :7], found.image[59, :7])


def test_the_legend_is_beside_the_overlay() -> None:
    found = segmentation()
    with_legend = found.overlay()
    np.testing.assert_array_equal(with_legend[:60, :80], found.overlay(legend=False))
    beside = with_legend[:, 80:]
    tops = [np.argwhere((beside == LABELS.palette[k]).all(axis=-1))[:, 0].min() for k in (0, 2, 1)]
    assert tops == sorted(tops)


def test_traces_of_a_class_stay_out_of_the_legend() -> None:
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[0, :9] = 1
    mask[50:] = 2
    legend = Segmentation(mask, LABELS).overlay()[:, 100:]
    shown = [(legend == color).all(axis=-1).any() for color in LABELS.palette]
    assert shown == [True, False, True]


def test_without_a_image_the_overlay_is_the_colours() -> None:
    found = segmentation(image=None)
    picture = found.overlay(legend=False)
    np.testing.assert_array_equal(picture[50, 5:70], found.color()[50, 5:70])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        segmentation().overlay(alpha)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (48, 64)])
def test_any_size_can_be_shown_and_saved(tmp_path: Path, shape: tuple[int, int]) -> None:
    found = Segmentation(np.ones(shape, dtype=np.uint8), LABELS, np.zeros((*shape, 3), dtype=np.uint8))
    paths = found.save(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(paths["mask"])), found.mask)
    assert found.overlay()[: shape[0], : shape[1]].shape == (*shape, 3)


def test_notebooks_show_the_overlay() -> None:
    shown = cv2.imdecode(np.frombuffer(segmentation()._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(shown, segmentation().overlay())


# Where it goes


def test_save_writes_the_usual_four(tmp_path: Path) -> None:
    found = segmentation()
    paths = found.save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert paths == {
        "mask": folder / "street_mask.png",
        "color": folder / "street_color.png",
        "overlay": folder / "street_overlay.png",
        "json": folder / "street.json",
    }
    assert sorted(folder.iterdir()) == sorted(paths.values())
    with Image.open(paths["mask"]) as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), found.mask)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), found.color())
    np.testing.assert_array_equal(np.asarray(Image.open(paths["color"])), found.color())
    np.testing.assert_array_equal(np.asarray(Image.open(paths["overlay"])), found.overlay())
    stored = json.loads(paths["json"].read_text("utf-8"))
    assert stored.pop("written_by").startswith("terrazzo ")
    assert stored == found.to_dict()


def test_many_classes_make_a_sixteen_bit_mask(tmp_path: Path) -> None:
    labels = LabelSpec.from_names([f"class {i}" for i in range(300)])
    mask = np.arange(300, dtype=np.uint16).reshape(15, 20)
    mask[0, 0] = labels.ignore_index
    path = Segmentation(mask, labels).save(tmp_path, "mask")["mask"]
    np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), mask)


def test_probabilities_come_back_in_half_precision(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 4, (3, 60, 80)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    path = segmentation(probabilities=probabilities).save(tmp_path, ["probabilities"])["probabilities"]
    assert path.name == "street_probabilities.npz"
    with np.load(path, allow_pickle=False) as archive:
        assert archive["names"].tolist() == ["road", "tree", "sky"]
        assert archive["probabilities"].dtype == np.float16
        np.testing.assert_allclose(archive["probabilities"], probabilities, rtol=2**-11, atol=7e-5)


def test_probabilities_that_were_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not kept"):
        segmentation().save(tmp_path / "out", "mask,probabilities")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save", ["masks", ["mask", "gif"], "", []])
def test_an_unknown_kind_names_the_kinds(tmp_path: Path, save: str | list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        segmentation().save(tmp_path / "out", save)
    assert all(kind in caught.value.fix for kind in KINDS)
    assert not (tmp_path / "out").exists()


def test_kinds_with_commas_and_spaces(tmp_path: Path) -> None:
    assert list(segmentation().save(tmp_path, "mask, json,mask")) == ["mask", "json"]


def test_one_kind_to_a_named_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "first.PNG"
    assert segmentation().save(path, "overlay") == {"overlay": path}
    np.testing.assert_array_equal(np.asarray(Image.open(path)), segmentation().overlay())
    path = tmp_path / "areas.json"
    assert segmentation().save(str(path), "json") == {"json": path}


@pytest.mark.parametrize(("name", "save"), [("a.png", "mask,color"), ("a.jpg", "overlay"), ("a.png", "json")])
def test_a_named_file_that_does_not_fit(tmp_path: Path, name: str, save: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the file"):
        segmentation().save(tmp_path / name, save)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    assert segmentation().save(tmp_path / "run.v2", "json")["json"] == tmp_path / "run.v2" / "street.json"
    (tmp_path / "odd.png").mkdir()
    assert segmentation().save(tmp_path / "odd.png", "json")["json"] == tmp_path / "odd.png" / "street.json"


def test_the_stem(tmp_path: Path) -> None:
    assert segmentation().save(tmp_path, "mask", stem="street-2")["mask"].name == "street-2_mask.png"
    assert segmentation(path=None).save(tmp_path, "mask")["mask"].name == "segmentation_mask.png"
    for stem in ("../escape", "/tmp/escape", "a/b"):
        with pytest.raises(ConfigError, match="file name"):
            segmentation().save(tmp_path / "out", "mask", stem=stem)
    with pytest.raises(ConfigError, match="cannot be the file"):
        segmentation().save(tmp_path / "a.png", "mask", stem="b")


def test_a_file_name_that_is_not_text(tmp_path: Path) -> None:
    found = segmentation(path=Path(os.fsdecode(b"photos/stra\xdfe.jpg")))
    paths = found.save(tmp_path)
    assert all(path.is_file() for path in paths.values())
    assert json.loads(paths["json"].read_text("utf-8"))["file"] == "stra\ufffde.jpg"
    repr(found).encode("utf-8")


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = segmentation().save(tmp_path)
    before = {path: path.read_bytes() for path in old.values()}

    def fails(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OutputError):
        segmentation(model="another").save(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError):
        segmentation().save(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_importing_it_loads_nothing_heavy() -> None:
    check = "import sys, terrazzo.inference.result; print({'torch', 'matplotlib', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="needs ../shared/data/camvid")
def test_a_real_street(tmp_path: Path) -> None:
    photo = sorted((DATA / "camvid/val/images").iterdir())[5]
    labels = LabelSpec.bundled("camvid")
    mask = labels.encode(np.asarray(Image.open(DATA / "camvid/val/masks" / f"{photo.stem}.png")))
    found = Segmentation(mask, labels, np.asarray(Image.open(photo)), photo)
    assert found.areas()[0].name == "Building"
    paths = found.save(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(paths["mask"])), mask)
    assert np.asarray(Image.open(paths["overlay"])).shape[1] == 480


# Classes by name


@pytest.mark.parametrize("name", ["sky", "Sky", " SKY", "s_k-y"])
def test_a_class_by_its_name(name: str) -> None:
    found = segmentation()
    np.testing.assert_array_equal(found[name], found.mask == 2)
    assert name in found


def test_a_class_that_does_not_occur_is_empty_and_one_that_does_not_exist_is_refused() -> None:
    found = Segmentation(np.zeros((3, 4), np.uint8), LABELS)
    assert not found["sky"].any() and "sky" not in found and "road" in found
    for wrong in ("ski", 2, None):
        with pytest.raises(LabelError) as caught:
            found[wrong]  # type: ignore[index]
        assert caught.value.code == "labels-class-name"
    with pytest.raises(LabelError, match="'ski'") as caught:
        found["ski"]
    assert caught.value.fix == "did you mean sky? name one of 'road', 'tree', 'sky'"


def test_names_that_only_their_spelling_tells_apart_are_asked_for() -> None:
    labels = LabelSpec.from_names(["a b", "ab"])
    found = Segmentation(np.array([[0, 1, 1]], np.uint8), labels)
    assert found["ab"].sum() == 2 and found["a b"].sum() == 1
    with pytest.raises(LabelError, match="'a-b' may be any of 'a b', 'ab'"):
        found["a-b"]


def test_a_cutout_is_transparent_elsewhere() -> None:
    found = segmentation()
    assert found.image is not None
    cut = found.cutout(["Sky", "tree"])
    is_cut = (found.mask == 2) | (found.mask == 1)
    np.testing.assert_array_equal(cut[..., 3], is_cut * np.uint8(255))
    np.testing.assert_array_equal(cut[is_cut][:, :3], found.image[is_cut])
    assert not cut[~is_cut].any()
    np.testing.assert_array_equal(found.cutout("tree", crop=True), found.cutout("tree")[10:40, 30:40])


def test_cutouts_that_have_nothing_to_show() -> None:
    with pytest.raises(ImageError, match="no image to cut out of"):
        segmentation(image=None).cutout("sky")
    empty = Segmentation(np.zeros((3, 4), np.uint8), LABELS, np.zeros((3, 4, 3), np.uint8))
    assert not empty.cutout("sky").any()
    with pytest.raises(ImageError, match="does not show sky") as caught:
        empty.cutout("sky", crop=True)
    assert caught.value.code == "cutout-nothing"
    with pytest.raises(ConfigError, match="no class is named"):
        empty.save("never", "cutout")


def test_a_cutout_is_saved_as_a_transparent_png(tmp_path: Path) -> None:
    found = segmentation()
    path = found.save(tmp_path, "cutout", style=Style(cutout=("tree",)))["cutout"]
    with Image.open(path) as file:
        assert path.name == "street_cutout.png" and file.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(file), found.cutout("tree"))


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "bg"])
def test_background_is_left_unpainted(name: str) -> None:
    """A two-class overlay does not go dark."""
    labels = LabelSpec.from_names([name, "nucleus"])
    image = np.full((40, 60, 3), 180, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:20] = 1
    found = Segmentation(mask, labels, image)
    plain = found.overlay(legend=False)
    assert (plain[25:] == 180).all() and (plain[:, 30:] == 180).all()
    assert not (plain[12:18, 12:18] == 180).all(axis=-1).any()
    legend = found.overlay()[40:]
    assert (legend == labels.palette[1]).all(axis=-1).any() and not (legend == 0).all(axis=-1).any()
    painted = found.overlay(1, legend=False, classes=[name])
    assert (painted[30, 30:] == labels.palette[0]).all()


def test_only_some_classes_are_painted() -> None:
    found = segmentation()
    assert found.image is not None
    some = found.overlay(1, legend=False, classes="Tree")
    tree = found.mask == 1
    inner = np.zeros_like(tree)
    inner[12:38, 32:38] = True
    assert (some[inner] == LABELS.palette[1]).all()
    far = ~tree
    far[8:42, 28:42] = False
    np.testing.assert_array_equal(some[far], found.image[far])  # nor a line between road and sky
    with pytest.raises(LabelError, match="'plane'"):
        found.overlay(classes="plane")


def test_a_table_of_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=list))
    table = segmentation().to_dataframe()
    assert table[0] == {"index": 0, "name": "road", "pixels": 2992, "share": 2992 / 4800} and len(table) == 3
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pandas is not installed") as caught:
        segmentation().to_dataframe()
    assert "pip install pandas" in caught.value.fix


def test_show_takes_the_notebook_or_a_viewer_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture: shown.append(picture) or True)
    segmentation().show()
    np.testing.assert_array_equal(np.asarray(shown.pop()), segmentation().overlay())
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture: False)
    with pytest.warns(TerrazzoWarning, match="no image viewer"):
        segmentation().show()
    notebook = SimpleNamespace(get_ipython=lambda: 1, display=SimpleNamespace(display=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    segmentation().show(0.3, classes="sky")
    np.testing.assert_array_equal(np.asarray(shown.pop()), segmentation().overlay(0.3, classes="sky"))
