"""Hugging Face datasets saved to disk: recognised without the package, read with it."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_folder import Folder
from made_layouts import quarters
from numpy.typing import NDArray
from PIL import Image

from terrazzo.data import find_layout, open_dataset
from terrazzo.data.check import check_dataset
from terrazzo.data.layouts.hf_datasets import CellMask
from terrazzo.data.masks import read_mask
from terrazzo.data.sources.table import TableCell
from terrazzo.errors import DatasetError, ImageError, MissingExtraError
from terrazzo.labels.spec import LabelSpec

IMAGE, TEXT = {"_type": "Image"}, {"dtype": "string", "_type": "Value"}
AB = LabelSpec.from_names(["a", "b"])


def described(folder: Folder, **features: Any) -> Path:
    """Write what save_to_disk writes beside the tables."""
    folder.text("dataset_dict.json", json.dumps({"splits": ["train", "validation"]}))
    for split in ("train", "validation"):
        folder.text(f"{split}/dataset_info.json", json.dumps({"features": features}))
        folder.text(f"{split}/state.json", "{}")
    return folder.root


def encoded(pixels: NDArray[Any], kind: str = "PNG") -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def photo(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)


# -- without the package ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "columns"),
    [
        ({"image": IMAGE, "label": IMAGE, "scene": TEXT}, "image and label"),
        ({"pixel_values": IMAGE, "semantic_mask": IMAGE}, "pixel_values and semantic_mask"),
        ({"annotation": IMAGE, "image": IMAGE}, "image and annotation"),
    ],
)
def test_columns_are_told_by_type_and_name(features: dict[str, Any], columns: str, folder: Folder) -> None:
    layout = find_layout(described(folder, **features))
    assert layout.name == f"Hugging Face datasets (columns {columns})"
    assert layout.splits == ("train", "val")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": IMAGE, "label": TEXT}, "its columns of images are 'image',"),
        ({"image": IMAGE, "depth": IMAGE}, "'image', 'depth', and which are photos"),
        ({"image": IMAGE, "label": IMAGE, "mask": IMAGE}, "'image', 'label', 'mask'"),
        ({"text": TEXT}, "it has no column of images"),
        ({}, "it has no column of images"),
    ],
)
def test_columns_that_cannot_be_told_are_named(features: dict[str, Any], message: str, folder: Folder) -> None:
    with pytest.raises(DatasetError, match="almost Hugging Face datasets") as caught:
        find_layout(described(folder, **features))
    assert message in caught.value.message
    assert "called image and one called mask" in caught.value.fix


def test_one_table_is_the_split_train(folder: Folder) -> None:
    folder.text("dataset_info.json", json.dumps({"features": {"image": IMAGE, "mask": IMAGE}}))
    folder.text("state.json", "{}")
    assert find_layout(folder.root).splits == ("train",)


def test_the_missing_package_is_named_with_its_extra(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    described(folder, image=IMAGE, mask=IMAGE)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for open_ in (lambda: open_dataset(folder.root, "train"), lambda: check_dataset(folder.root)):
        with pytest.raises(MissingExtraError) as caught:
            open_()
        assert caught.value.message == "datasets is not installed"
        assert ".[datasets]" in caught.value.fix


def test_cells_are_images_and_masks() -> None:
    """A table is anything whose rows are dictionaries."""
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(1)).save(turned, "PNG", exif=exif)
    table = [{"image": {"bytes": turned.getvalue()}, "mask": encoded(quarters(0, 1, 1, 255))}]
    image, mask = (TableCell(Path("train"), table, 0, column, Path()) for column in ("image", "mask"))
    assert image.is_turned
    assert image.size == image.read().shape[:2] == (16, 12)
    np.testing.assert_array_equal(read_mask(CellMask(mask), AB), quarters(0, 1, 1, 255))
    assert image.name == "000000"


def test_a_damaged_cell_is_named_with_its_row() -> None:
    table = [{"image": {"bytes": b"x"}, "mask": encoded(quarters(0, 1, 1, 9))}, {"mask": encoded(photo(1), "JPEG")}]
    with pytest.raises(ImageError, match=r"^train: row 0, image: this is"):
        TableCell(Path("train"), table, 0, "image", Path()).read()
    with pytest.raises(DatasetError, match=r"^train: row 0, mask: the mask holds values that have no class: 9 \(48"):
        read_mask(CellMask(TableCell(Path("train"), table, 0, "mask", Path())), AB)
    with pytest.raises(DatasetError, match=r"^train: row 1, mask: it is a JPEG") as caught:
        CellMask(TableCell(Path("train"), table, 1, "mask", Path())).read()
    assert caught.value.code == "mask-lossy"


def test_a_table_that_names_files_outside_of_the_data_set_is_refused(folder: Folder, tmp_path: Path) -> None:
    Image.fromarray(quarters(0, 1, 1, 255)).save(tmp_path / "private.png")
    own = folder.picture("own.png", quarters(0, 1, 1, 255))
    paths = [str(tmp_path / "private.png"), "../private.png", str(own)]
    table = [{"image": {"bytes": None, "path": path}} for path in paths]
    cells = [TableCell(folder.root / "train", table, row, "image", folder.root) for row in range(3)]
    for row, cell in enumerate(cells[:2]):
        with pytest.raises(ImageError, match=rf"train: row {row}, image: it names .*private.png, outside of") as caught:
            cell.read()
        with pytest.raises(DatasetError, match=rf"train: row {row}, image: it names .*private.png, outside of"):
            CellMask(cell).read()
        assert caught.value.code == "dataset-outside"
    assert cells[2].read().shape == (12, 16, 3)


# -- with the package -------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets", reason="needs the extra `datasets`")
    datasets.disable_progress_bars()
    image = datasets.Image()
    features = datasets.Features({"image": image, "label": image, "scene": datasets.Value("string")})
    masks = [encoded(quarters(0, 1, 1, 255)), encoded(quarters(1, 0, 0, 1))]
    tables = {
        split: datasets.Dataset.from_dict(
            {
                "image": [encoded(photo(seed + row), "JPEG") for row in range(2)],
                "label": masks,
                "scene": ["street", "field"],
            },
            features=features,
        )
        for seed, split in ((0, "train"), (10, "validation"))
    }
    datasets.DatasetDict(tables).save_to_disk(str(folder.root))
    return folder.root


def test_saved_tables_are_read(saved: Path) -> None:
    dataset = open_dataset(saved, "val", AB)
    assert [sample.name for sample in dataset.samples] == ["000000", "000001"]
    image, mask = dataset.read(0)
    assert image.shape == (12, 16, 3)
    np.testing.assert_array_equal(mask, quarters(0, 1, 1, 255))
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.read(1)[1], quarters(1, 0, 0, 1))


def test_saved_tables_are_checked_and_labelled(saved: Path) -> None:
    check = check_dataset(saved)
    assert check.errors == ()
    assert check.labels_from == "guessed"
    assert [split.images for split in check.splits] == [2, 2]
    (saved / "labels.yaml").write_text("names: [sky, ground]")
    assert open_dataset(saved, "train").labels.names == ("sky", "ground")


def test_a_damaged_table_is_named(saved: Path) -> None:
    (table,) = (saved / "train").glob("*.arrow")
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(DatasetError, match="cannot be read as a table") as caught:
        open_dataset(saved, "train")
    assert caught.value.code == "dataset-annotations"
