"""Masks whose files say how their numbers are to be taken: a PGM's largest value, an orientation, negative numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terrazzo.data import open_dataset
from terrazzo.data.masks import read_stored_mask
from terrazzo.errors import DatasetError, LabelError
from terrazzo.labels.spec import LabelSpec

MASK = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        b"P5\n3 2\n2\n" + MASK.tobytes(),
        b"P5\n3 2\n300\n" + MASK.astype(">u2").tobytes(),
        b"P2\n3 2\n3\n0 1 2 2 2 1\n",
    ],
)
def test_a_pgm_holds_the_numbers_written_in_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pgm"  # Pillow spreads them over 0 to 255: the last class became "ignore"
    path.write_bytes(content)
    assert read_stored_mask(path).values.tolist() == MASK.tolist()


@pytest.mark.parametrize(("orientation", "shown"), [(1, MASK), (3, MASK[::-1, ::-1]), (6, np.rot90(MASK, -1))])
def test_a_mask_is_turned_as_its_image_is(
    tmp_path: Path, orientation: int, shown: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(MASK).save(tmp_path / "m.png", exif=exif)
    assert read_stored_mask(tmp_path / "m.png").values.tolist() == shown.tolist()


def test_negative_numbers_are_not_sent_to_a_map_that_cannot_have_them() -> None:
    with pytest.raises(LabelError, match="-1") as caught:
        LabelSpec.from_names(["a", "b"]).encode(np.array([[-1, 0]], np.int32))
    assert "255 where nothing is labelled" in caught.value.fix


def test_a_mask_of_several_pages_cannot_be_chosen_from_by_an_option(tmp_path: Path) -> None:
    image = Image.fromarray(MASK)
    image.save(tmp_path / "m.tif", save_all=True, append_images=[image])
    with pytest.raises(DatasetError, match="2 frames or pages") as caught:
        read_stored_mask(tmp_path / "m.tif")
    assert caught.value.code == "mask-mode" and "--frame" not in caught.value.fix


@pytest.mark.parametrize("name", ["labels.yml", "Labels.yaml", "label.yaml", "labels.yaml.txt"])
def test_a_file_meant_for_labels_yaml_is_not_passed_over(tmp_path: Path, name: str) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind).mkdir(parents=True)
        Image.fromarray(MASK).save(tmp_path / "val" / kind / "0.png")
    (tmp_path / name).write_text("names: [a, b, c]\nmap: {0: ignore, 1: 0, 2: 1, 3: 2}\n")
    with pytest.raises(LabelError, match="is not read") as caught:
        open_dataset(tmp_path, "val")
    assert caught.value.fix == "rename it to labels.yaml"


def test_names_that_look_the_same_are_the_same() -> None:
    with pytest.raises(LabelError, match="occurs twice"):
        LabelSpec.from_names(["b\u00e4ume", "x", "ba\u0308ume"])
